//! Agents that tell the truth, around one cluster, with messages that take no time. Every lease is checked when it is
//! given: no byte of it may be leased to, or be at, any live host.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hawker_proto::resolve::ResolveKey;
use hawker_proto::trust::SignedLease;
use hawker_proto::{ByteRange, Geometry, HostId, HostKey, Instant, PieceIndex, PieceMap, TaskId};
use hawker_scheduler::{
    Announcement, Cluster, ClusterConfig, HostInfo, Input, LeaseOutcome, OriginId, Output, Resolution, Source, ToHost,
    WantId, WantKey,
};

pub const MIB: u64 = 1 << 20;
pub const ORIGIN: OriginId = OriginId([9; 32]);
pub const UNIX_MS: u64 = 1_700_000_000_000;

pub struct Agent {
    pub key: HostKey,
    pub is_connected: bool,
    pub gone_at: Option<Instant>,
    pub tasks: BTreeMap<TaskId, PieceMap>,
    pub leases: Vec<(SignedLease, Instant)>,
    /// Per task of which this stream has spoken: one that was reopened starts without.
    pub neighbors: BTreeMap<TaskId, BTreeSet<HostId>>,
    pub wants: BTreeMap<WantId, WantKey>,
    pub resolves: BTreeSet<WantId>,
    /// Tasks of which it asked for pieces that others have.
    pub buys: BTreeSet<TaskId>,
    /// Every message, oldest first.
    pub heard: Vec<ToHost>,
}

pub struct World {
    pub cluster: Cluster,
    pub now: Instant,
    pub agents: BTreeMap<HostId, Agent>,
    pub geometry: Geometry,
    pub leased_bytes: u64,
    pub has_checks: bool,
}

pub fn scheduler_key() -> HostKey {
    HostKey::from_seed([77; 32])
}

pub fn host_key(index: u16) -> HostKey {
    let mut seed = [1; 32];
    seed[..2].copy_from_slice(&index.to_le_bytes());
    HostKey::from_seed(seed)
}

pub fn host_id(index: u16) -> HostId {
    host_key(index).host_id()
}

pub fn task_of(number: u8) -> TaskId {
    TaskId([number; 32])
}

pub fn key_of(number: u8) -> ResolveKey {
    ResolveKey([number; 32])
}

impl World {
    pub fn new(config: ClusterConfig, length: u64) -> Self {
        Self {
            cluster: Cluster::new(config, scheduler_key(), 1, 42),
            now: Instant::ZERO,
            agents: BTreeMap::new(),
            geometry: Geometry::of_length(length).unwrap(),
            leased_bytes: 0,
            has_checks: true,
        }
    }

    /// Kills the scheduler and starts the next life. Agents keep what they have.
    pub fn restart(&mut self, config: ClusterConfig, epoch: u64) {
        self.cluster = Cluster::new(config, scheduler_key(), epoch, 43);
        for agent in self.agents.values_mut() {
            agent.is_connected = false;
            agent.neighbors.clear();
            agent.wants.clear();
            agent.resolves.clear();
        }
    }

    pub fn unix_ms(&self) -> u64 {
        UNIX_MS + self.now.as_nanos() / 1_000_000
    }

    pub fn input(&mut self, input: Input) {
        self.cluster.handle(self.now, self.unix_ms(), input);
        self.settle();
    }

    /// Delivers everything, and what that leads to.
    fn settle(&mut self) {
        loop {
            if self.has_checks {
                self.cluster.assert_invariants();
            }
            while let Some(Output::Send { host, message }) = self.cluster.poll() {
                self.deliver(host, message);
            }
            if self.cluster.deadline().is_none_or(|at| at > self.now) {
                break;
            }
            self.cluster.handle(self.now, self.unix_ms(), Input::Tick);
        }
        if self.has_checks {
            self.assert_symmetric();
        }
    }

    /// Lets time pass, waking the cluster when it asked for it.
    pub fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        while let Some(at) = self.cluster.deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.expire();
            self.input(Input::Tick);
        }
        self.now = end;
        self.expire();
        self.input(Input::Tick);
    }

    fn expire(&mut self) {
        let now = self.now;
        for agent in self.agents.values_mut() {
            // Whoever is cut off for longer than the grace may fetch what is leased to others: it stops in this world.
            let is_cut_off = agent.gone_at.is_some_and(|at| at <= now);
            agent.leases.retain(|(_, until)| *until > now && !is_cut_off);
        }
    }

    pub fn join(&mut self, index: u16) -> HostId {
        self.join_as(index, &[], 0)
    }

    pub fn join_as(&mut self, index: u16, labels: &[(&str, &str)], link_bytes_per_s: u64) -> HostId {
        let key = host_key(index);
        let id = key.host_id();
        let info = HostInfo {
            id,
            key: key.public(),
            address: format!("10.0.{}.{}:7000", index / 256, index % 256).parse().unwrap(),
            labels: labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            is_seed: false,
            link_bytes_per_s,
        };
        let agent = self.agents.entry(id).or_insert_with(|| Agent {
            key,
            is_connected: true,
            gone_at: None,
            tasks: BTreeMap::new(),
            leases: Vec::new(),
            neighbors: BTreeMap::new(),
            wants: BTreeMap::new(),
            resolves: BTreeSet::new(),
            buys: BTreeSet::new(),
            heard: Vec::new(),
        });
        agent.is_connected = true;
        agent.gone_at = None;
        agent.neighbors.clear();
        self.input(Input::Join(info));
        id
    }

    /// The agent is killed: it loses everything.
    pub fn kill(&mut self, host: HostId) {
        self.agents.remove(&host);
        self.input(Input::Disconnected { host });
    }

    /// The stream breaks; the agent goes on with what it has.
    pub fn break_stream(&mut self, host: HostId) {
        let gone_at = self.now + Duration::from_secs(3);
        if let Some(agent) = self.agents.get_mut(&host).filter(|agent| agent.is_connected) {
            (agent.is_connected, agent.gone_at) = (false, Some(gone_at));
            agent.resolves.clear();
            self.input(Input::Disconnected { host });
        }
    }

    pub fn leave(&mut self, host: HostId) {
        self.agents.remove(&host);
        self.input(Input::Leave { host });
    }

    pub fn want(&mut self, host: HostId, want: u64, key: WantKey) {
        if let Some(agent) = self.agents.get_mut(&host) {
            agent.wants.insert(WantId(want), key);
        }
        self.input(Input::Want { host, want: WantId(want), key, origin: Some(ORIGIN) });
    }

    pub fn resolution(&self, number: u8) -> Resolution {
        Resolution {
            task: task_of(number),
            geometry: self.geometry,
            validators: vec![number],
            valid: Duration::from_secs(60),
            is_shared: true,
            has_ranges: true,
            digest: None,
            arriving_bytes: (16 * MIB).min(self.geometry.length()),
            inline: Vec::new(),
        }
    }

    pub fn resolved(&mut self, host: HostId, want: u64, resolution: Resolution) {
        if let Some(agent) = self.agents.get_mut(&host) {
            agent.resolves.remove(&WantId(want));
        }
        self.input(Input::Resolved { host, want: WantId(want), resolution });
    }

    /// `host` wants and resolves task `number`, and so gets its first lease.
    pub fn start(&mut self, host: HostId, number: u8) {
        self.want(host, u64::from(number), WantKey::Resolve(key_of(number)));
        if self.agents[&host].resolves.contains(&WantId(u64::from(number))) {
            self.resolved(host, u64::from(number), self.resolution(number));
        }
    }

    pub fn ask(&mut self, host: HostId, number: u8) {
        self.ask_lease(host, number, None);
    }

    /// Asks for what hosts have that have everything; they give `source_bytes_per_s`.
    pub fn ask_to_buy(&mut self, host: HostId, number: u8, source_bytes_per_s: u64) {
        self.agents.get_mut(&host).expect("an agent").buys.insert(task_of(number));
        self.ask_lease(host, number, Some(source_bytes_per_s));
    }

    /// Asks because nothing comes to it, and none of its neighbors has so many bytes from the piece on.
    pub fn ask_starving(&mut self, host: HostId, number: u8, piece: PieceIndex, bytes: u64) {
        let task = task_of(number);
        self.agents.get_mut(&host).expect("an agent").buys.insert(task);
        let lacked = Some(piece);
        self.input(Input::AskLease { host, task, bytes, bytes_per_s: 0, source_bytes_per_s: None, lacked });
    }

    fn ask_lease(&mut self, host: HostId, number: u8, source_bytes_per_s: Option<u64>) {
        let task = task_of(number);
        self.input(Input::AskLease { host, task, bytes: 0, bytes_per_s: 0, source_bytes_per_s, lacked: None });
    }

    /// The oldest lease of `host` ends at `upto` (`None`: its end); what was fetched is stored.
    pub fn lease_done(&mut self, host: HostId, upto: Option<u64>, outcome: LeaseOutcome) {
        let geometry = self.geometry;
        let Some(agent) = self.agents.get_mut(&host) else { return };
        if agent.leases.is_empty() {
            return;
        }
        let (signed, _) = agent.leases.remove(0);
        let range = signed.lease.range;
        let upto = upto.unwrap_or(range.end()).clamp(range.start(), range.end());
        let whole = ByteRange::new(range.start(), upto).unwrap();
        let have = agent.tasks.get_mut(&signed.lease.task).unwrap();
        have.insert_range(geometry.pieces_within(whole));
        self.input(Input::LeaseDone { host, serial: signed.lease.serial, upto, outcome });
    }

    /// Pieces spread: `to` gets what `from` has.
    pub fn copy(&mut self, from: HostId, to: HostId, number: u8) {
        let Some(have) = self.agents.get(&from).and_then(|agent| agent.tasks.get(&task_of(number))).cloned() else {
            return;
        };
        let Some(mine) = self.agents.get_mut(&to).and_then(|agent| agent.tasks.get_mut(&task_of(number))) else {
            return;
        };
        mine.union_with(&have);
        if mine.is_full() {
            self.input(Input::Finished { host: to, task: task_of(number) });
        }
    }

    pub fn announcement(&self, host: HostId, number: u8) -> Option<Announcement> {
        let agent = self.agents.get(&host)?;
        let have = agent.tasks.get(&task_of(number))?.clone();
        Some(Announcement {
            task: task_of(number),
            geometry: self.geometry,
            is_running: !have.is_full(),
            have,
            leases: agent
                .leases
                .iter()
                .map(|(signed, _)| *signed)
                .filter(|signed| signed.lease.task == task_of(number))
                .collect(),
            origin: Some(ORIGIN),
            has_ranges: true,
            is_shared: true,
            source: Some(Source { key: key_of(number), validators: vec![number], valid: Duration::from_secs(30) }),
            digest: None,
        })
    }

    pub fn announce(&mut self, host: HostId, number: u8) {
        if let Some(announcement) = self.announcement(host, number) {
            self.agents.get_mut(&host).unwrap().neighbors.entry(task_of(number)).or_default();
            self.input(Input::Announce { host, announcement });
        }
    }

    pub fn heard(&self, host: HostId) -> &[ToHost] {
        &self.agents[&host].heard
    }

    pub fn last_lease(&self, host: HostId) -> Option<ByteRange> {
        self.agents[&host].leases.last().map(|(signed, _)| signed.lease.range)
    }

    fn deliver(&mut self, host: HostId, message: ToHost) {
        if let ToHost::Lease { lease, valid } = &message {
            self.check_lease(host, lease);
            self.leased_bytes += lease.lease.range.length();
            let until = self.now + *valid;
            if let Some(agent) = self.agents.get_mut(&host) {
                agent.leases.push((*lease, until));
            }
        }
        let Some(agent) = self.agents.get_mut(&host) else { return };
        agent.heard.push(message.clone());
        match message {
            ToHost::Ready { want, task, geometry, neighbors, .. } => {
                agent.wants.remove(&want);
                agent.resolves.remove(&want);
                agent.tasks.entry(task).or_insert_with(|| PieceMap::empty(geometry.piece_count()));
                agent.neighbors.insert(task, neighbors.iter().map(|neighbor| neighbor.id).collect());
            }
            ToHost::Resolve { want, .. } => {
                agent.resolves.insert(want);
            }
            ToHost::WantFailed { want, .. } => {
                agent.wants.remove(&want);
                agent.resolves.remove(&want);
            }
            ToHost::Neighbors { task, add, remove } => {
                let Some(known) = agent.neighbors.get_mut(&task) else { return };
                known.extend(add.iter().map(|neighbor| neighbor.id));
                for gone in remove {
                    known.remove(&gone);
                }
            }
            ToHost::Ban { host: banned } if banned == host => agent.is_connected = false,
            ToHost::Report { task } => self.announce(host, task.0[0]),
            _ => {}
        }
    }

    fn check_lease(&self, holder: HostId, lease: &SignedLease) {
        assert_eq!(lease.verify(&[scheduler_key().public()]), Ok(()));
        assert_eq!(lease.lease.holder.host_id(), holder);
        let range = lease.lease.range;
        let pieces = self.geometry.pieces_within(range);
        assert_eq!(self.geometry.range_of_pieces(pieces.clone()), range, "a lease is whole pieces");
        if !self.has_checks {
            return;
        }
        for (id, agent) in &self.agents {
            for (other, until) in &agent.leases {
                let is_same_task = other.lease.task == lease.lease.task;
                let is_live = *until > self.now && is_same_task;
                assert!(!is_live || other.lease.range.intersection(range).is_none(), "leased twice, also to {id:?}");
            }
            let is_bought = self.agents[&holder].buys.contains(&lease.lease.task);
            let is_known = agent.is_connected && !is_bought;
            let Some(have) = agent.tasks.get(&lease.lease.task).filter(|_| is_known) else { continue };
            let held = have.iter().find(|piece| pieces.contains(&piece.0));
            assert_eq!(held, None, "{id:?} has a piece that is leased to {holder:?}");
        }
    }

    /// Both ends of an edge know of it.
    fn assert_symmetric(&self) {
        for (id, agent) in self.agents.iter().filter(|(_, agent)| agent.is_connected) {
            for (task, neighbors) in &agent.neighbors {
                for other in neighbors.iter().filter_map(|other| Some((other, self.agents.get(other)?))) {
                    let (other_id, other) = other;
                    let is_mutual = other.neighbors.get(task).is_some_and(|theirs| theirs.contains(id));
                    // A host that came back announces itself, or is forgotten, a little later.
                    let is_there = other.is_connected && other.neighbors.contains_key(task);
                    assert!(!is_there || is_mutual, "{other_id:?} does not know its neighbor {id:?}");
                }
            }
        }
    }
}
