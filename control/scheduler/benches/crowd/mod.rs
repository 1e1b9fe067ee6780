//! Thousands of hosts around one cluster, and single events among them, each of which leaves the crowd as it was.

#![allow(dead_code, unreachable_pub, reason = "each benchmark and test uses a part")]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use hawker_proto::resolve::ResolveKey;
use hawker_proto::{Geometry, HostId, HostKey, Instant, PieceMap, PublicKey, TaskId};
use hawker_scheduler::{
    Announcement, Cluster, ClusterConfig, HostInfo, Input, LeaseOutcome, OriginId, Output, Resolution, ToHost, WantId,
    WantKey,
};

/// Any; the cluster only signs it.
const UNIX_MS: u64 = 1_700_000_000_000;
pub const ORIGIN: OriginId = OriginId([9; 32]);

/// The task that everybody fetches and nobody has: origin leases are given.
pub const FETCHED: u16 = 1;
/// The task that everybody fetches and some have: nothing leaves the origin any more.
pub const SPREAD: u16 = 2;

/// What one host's session says, and what time brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A stream opens.
    Join,
    /// A want of a running task: 32 neighbors are chosen and told, an allowance is signed.
    Want,
    Heartbeat,
    /// With bytes of a lease.
    Progress,
    /// A lease is given, and signed.
    AskLease,
    LeaseDone,
    Finished,
    /// A cached task that others are fetching.
    Announce,
    /// A fetching host goes: its neighbors are told, and get others.
    Leave,
    /// An ask has waited in vain.
    Timer,
}

pub const EVENTS: [Event; 10] = [
    Event::Join,
    Event::Want,
    Event::Heartbeat,
    Event::Progress,
    Event::AskLease,
    Event::LeaseDone,
    Event::Finished,
    Event::Announce,
    Event::Leave,
    Event::Timer,
];

pub struct Crowd {
    pub cluster: Cluster,
    pub now: Instant,
    count: u32,
    /// The next host that something happens to.
    turn: u32,
    /// Leases given lately: holder, serial, start and end.
    pub leases: Vec<(HostId, u64, u64, u64)>,
    /// Most messages of one sampled call.
    pub messages_max: usize,
    /// Who was asked to report, since this was last cleared.
    pub reports: Vec<HostId>,
}

impl Crowd {
    /// `count` connected hosts without a task. Nobody falls silent, and an ask waits for a millisecond.
    pub fn connected(count: u32) -> Self {
        let hour = Duration::from_secs(3600);
        let mut config = ClusterConfig {
            suspect_after: hour,
            gone_after: hour,
            ask_hold: Duration::from_millis(1),
            ..ClusterConfig::default()
        };
        config.limits.hosts_max = 1 << 20;
        let key = HostKey::from_seed([77; 32]);
        let mut crowd = Self {
            cluster: Cluster::new(config, key, 1, 42),
            now: Instant::ZERO,
            count,
            turn: 0,
            leases: Vec::new(),
            messages_max: 0,
            reports: Vec::new(),
        };
        for index in 0..count {
            crowd.input(Input::Join(info(index)));
        }
        crowd
    }

    /// `count` hosts that all fetch [`FETCHED`] and [`SPREAD`]; of the latter a hundred hosts more have everything.
    pub fn fetching(count: u32) -> Self {
        let mut crowd = Self::connected(count);
        crowd.all_fetch(FETCHED);
        crowd.all_fetch(SPREAD);
        for index in count..count + 100 {
            crowd.input(Input::Join(info(index)));
            crowd.announce(index, SPREAD);
        }
        crowd
    }

    pub fn all_fetch(&mut self, task: u16) {
        for index in 0..self.count {
            self.want(index, task);
        }
    }

    /// One event, and what had to happen before and after it. `sample` is given what belongs to the event itself, as
    /// in [`Self::play_out`].
    pub fn play(&mut self, event: Event, sample: &mut impl FnMut(&mut dyn FnMut())) {
        self.turn = (self.turn + 1) % self.count;
        let (spare, host) = (self.count + 100, host(self.turn));
        match event {
            Event::Heartbeat => self.play_out(Input::Heartbeat { host }, sample),
            Event::Join => {
                self.play_out(Input::Join(info(spare)), sample);
                self.leave(spare);
            }
            Event::Want => {
                self.input(Input::Join(info(spare)));
                self.play_out(want(spare, FETCHED), sample);
                self.leave(spare);
            }
            Event::Leave => {
                self.input(Input::Join(info(spare)));
                self.want(spare, FETCHED);
                self.play_out(Input::Leave { host: self::host(spare) }, sample);
            }
            Event::Finished => {
                self.input(Input::Join(info(spare)));
                self.want(spare, SPREAD);
                self.play_out(Input::Finished { host: self::host(spare), task: task_of(SPREAD) }, sample);
                self.leave(spare);
            }
            Event::Announce => {
                self.input(Input::Join(info(spare)));
                self.play_out(announcement(spare, SPREAD, all_pieces(), Some(ORIGIN)), sample);
                self.leave(spare);
            }
            Event::Progress | Event::AskLease | Event::LeaseDone | Event::Timer => self.play_lease(event, sample),
        }
    }

    /// The first host's lease is a large one and stays open; others are given and go back unfetched.
    fn play_lease(&mut self, event: Event, sample: &mut impl FnMut(&mut dyn FnMut())) {
        self.now += Duration::from_micros(1);
        let (host, task) = (host(self.turn), task_of(FETCHED));
        match event {
            Event::Progress => {
                if self.leases.is_empty() {
                    self.ask(self.turn, 0);
                }
                let lease = self.leases.last_mut().expect("there are free pieces");
                lease.2 += 1;
                let (host, serial, upto, end) = *lease;
                let leases = vec![(serial, upto)];
                self.play_out(Input::Progress { host, task, have_count: 7, bytes_per_s: 1 << 20, leases }, sample);
                if upto >= end {
                    self.give_back();
                }
            }
            Event::AskLease => {
                self.play_out(
                    Input::AskLease { host, task, bytes: 1, bytes_per_s: 0, source_bytes_per_s: None, lacked: None },
                    sample,
                );
                self.give_back();
            }
            Event::LeaseDone => {
                self.ask(self.turn, 1);
                let (host, serial, start, _) = self.leases.pop().expect("there are free pieces");
                let outcome = LeaseOutcome::Complete;
                self.play_out(Input::LeaseDone { host, serial, upto: start, outcome }, sample);
            }
            _ => {
                // As many leases as a task may have: further asks wait in line.
                while self.leases.len() < 8 {
                    let before = self.leases.len();
                    self.turn = (self.turn + 1) % self.count;
                    self.ask(self.turn, 1 << 40);
                    if self.leases.len() == before {
                        break;
                    }
                }
                self.turn = (self.turn + 1) % self.count;
                self.ask(self.turn, 1);
                self.now += Duration::from_millis(2);
                self.play_out(Input::Tick, sample);
            }
        }
    }

    pub fn ask(&mut self, index: u32, bytes: u64) {
        self.input(Input::AskLease {
            host: host(index),
            task: task_of(FETCHED),
            bytes,
            bytes_per_s: 0,
            source_bytes_per_s: None,
            lacked: None,
        });
    }

    /// Every open lease ends, and nothing of it was fetched.
    pub fn give_back(&mut self) {
        for (host, serial, start, _) in core::mem::take(&mut self.leases) {
            self.input(Input::LeaseDone { host, serial, upto: start, outcome: LeaseOutcome::Complete });
        }
    }

    pub fn leave(&mut self, index: u32) {
        self.input(Input::Leave { host: host(index) });
    }

    /// `index` fetches `task`, and resolves it when nobody has.
    pub fn want(&mut self, index: u32, task: u16) {
        let resolves = self.inputs(want(index, task));
        if resolves {
            let (host, want) = (host(index), WantId(u64::from(task)));
            self.input(Input::Resolved { host, want, resolution: resolution(task) });
        }
    }

    /// `index` has all of `task`.
    pub fn announce(&mut self, index: u32, task: u16) {
        self.input(announcement(index, task, all_pieces(), Some(ORIGIN)));
    }

    pub fn input(&mut self, input: Input) {
        self.inputs(input);
    }

    /// True when somebody is to resolve.
    fn inputs(&mut self, input: Input) -> bool {
        let mut input = Some(input);
        let mut resolves = false;
        while let Some(next) = input.take() {
            self.cluster.handle(self.now, UNIX_MS, next);
            resolves |= self.hear();
            input = self.is_due().then_some(Input::Tick);
        }
        resolves
    }

    /// Gives each call to `sample`: the event, and the ticks that the cluster asks for at once.
    pub fn play_out(&mut self, input: Input, sample: &mut impl FnMut(&mut dyn FnMut())) {
        let mut input = Some(input);
        while let Some(next) = input.take() {
            let mut next = Some(next);
            let mut outputs = Vec::new();
            sample(&mut || {
                if let Some(next) = next.take() {
                    self.cluster.handle(self.now, UNIX_MS, next);
                }
                while let Some(Output::Send { host, message }) = self.cluster.poll() {
                    outputs.push((host, message));
                }
            });
            self.messages_max = self.messages_max.max(outputs.len());
            for (host, message) in outputs {
                self.note(host, &message);
            }
            input = self.is_due().then_some(Input::Tick);
        }
    }

    fn is_due(&self) -> bool {
        self.cluster.deadline().is_some_and(|at| at <= self.now)
    }

    fn hear(&mut self) -> bool {
        let mut resolves = false;
        while let Some(Output::Send { host, message }) = self.cluster.poll() {
            resolves |= matches!(message, ToHost::Resolve { .. });
            self.note(host, &message);
        }
        resolves
    }

    fn note(&mut self, host: HostId, message: &ToHost) {
        if let ToHost::Report { .. } = message {
            self.reports.push(host);
        }
        if let ToHost::Lease { lease, .. } = message {
            let range = lease.lease.range;
            self.leases.push((host, lease.lease.serial, range.start(), range.end()));
        }
    }
}

/// The ids that the cluster is given need not follow from keys: it takes hosts that proved who they are.
pub fn host(index: u32) -> HostId {
    // Spread like hashes are.
    let mixed = (u64::from(index) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut id = [7; 32];
    id[..8].copy_from_slice(&mixed.to_be_bytes());
    HostId(id)
}

pub fn info(index: u32) -> HostInfo {
    let id = host(index);
    HostInfo {
        id,
        key: PublicKey(id.0),
        address: SocketAddr::from((Ipv4Addr::from_bits(0x0a00_0000 + index), 7000)),
        labels: vec![("zone".into(), format!("zone-{}", index % 10))],
        is_seed: false,
        link_bytes_per_s: 125_000_000,
    }
}

pub fn task_of(number: u16) -> TaskId {
    let mut id = [3; 32];
    id[..2].copy_from_slice(&number.wrapping_mul(40_503).to_be_bytes());
    TaskId(id)
}

/// 1 GiB in 1,024 pieces.
pub fn geometry() -> Geometry {
    Geometry::of_length(1 << 30).expect("a length")
}

pub fn resolution(task: u16) -> Resolution {
    Resolution {
        task: task_of(task),
        geometry: geometry(),
        validators: b"\"0123456789abcdef\"".to_vec(),
        valid: Duration::from_secs(3600),
        is_shared: true,
        has_ranges: true,
        digest: None,
        arriving_bytes: 0,
        inline: Vec::new(),
    }
}

pub fn want(index: u32, task: u16) -> Input {
    let key = WantKey::Resolve(ResolveKey(task_of(task).0));
    Input::Want { host: host(index), want: WantId(u64::from(task)), key, origin: Some(ORIGIN) }
}

pub fn announcement(index: u32, task: u16, have: PieceMap, origin: Option<OriginId>) -> Input {
    let announcement = Announcement {
        task: task_of(task),
        geometry: geometry(),
        is_running: !have.is_full(),
        have,
        leases: Vec::new(),
        origin,
        has_ranges: true,
        is_shared: true,
        source: None,
        digest: None,
    };
    Input::Announce { host: host(index), announcement }
}

pub fn all_pieces() -> PieceMap {
    PieceMap::full(geometry().piece_count())
}
