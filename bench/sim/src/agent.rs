//! The half of an agent that talks to the scheduler: it wants the tasks, resolves when it is told to, keeps its leases,
//! and announces what it has when the scheduler is new.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use hawker_proto::resolve::ResolveKey;
use hawker_proto::trust::SignedLease;
use hawker_proto::{HostId, HostKey, PieceIndex, TaskId};
use hawker_scheduler::{
    Announcement, HostInfo, Input, LeaseOutcome, OriginId, Resolution, Source, ToHost, WantId, WantKey,
};
use hawker_swarm::{DownloadInput, LeaseId};

use crate::event::Event;
use crate::peer::PeerId;
use crate::world::World;

/// All tasks come from one origin.
const ORIGIN: OriginId = OriginId([7; 32]);

/// How long a resolve holds: longer than any run.
const VALID: Duration = Duration::from_secs(24 * 3600);
/// As servers ask of agents.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);
/// Agents that lost the scheduler try again at intervals up to this.
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// What the control half of an agent keeps.
pub(crate) struct Control {
    key: HostKey,
    pub(crate) id: HostId,
    is_connected: bool,
    leases: BTreeMap<u64, Held>,
}

struct Held {
    lease: SignedLease,
    task: u16,
    /// Everything of it below this offset has arrived.
    upto: u64,
}

/// The name of a task.
pub(crate) fn id_of(task: u16) -> TaskId {
    TaskId(name_of(task))
}

/// What it is resolved by.
fn key_of(task: u16) -> ResolveKey {
    ResolveKey(name_of(task))
}

fn name_of(task: u16) -> [u8; 32] {
    let mut name = [7; 32];
    name[..2].copy_from_slice(&task.to_be_bytes());
    name
}

fn task_of(id: TaskId) -> u16 {
    u16::from_be_bytes([id.0[0], id.0[1]])
}

/// A host names its wants by their tasks.
fn want_of(task: u16) -> WantId {
    WantId(u64::from(task))
}

fn task_of_want(want: WantId) -> u16 {
    u16::try_from(want.0).expect("named by its task")
}

impl Control {
    pub(crate) fn new(index: u32) -> Self {
        let mut seed = [1; 32];
        seed[..4].copy_from_slice(&index.to_le_bytes());
        let key = HostKey::from_seed(seed);
        let id = key.host_id();
        Self { key, id, is_connected: false, leases: BTreeMap::new() }
    }

    /// The life of the scheduler that gave a lease; `None` of one that it does not hold.
    pub(crate) fn life_of(&self, lease: LeaseId) -> Option<u64> {
        self.leases.get(&lease.0).map(|held| held.lease.lease.epoch)
    }

    /// The task of a lease that it holds.
    pub(crate) fn task_of(&self, lease: LeaseId) -> Option<u16> {
        self.leases.get(&lease.0).map(|held| held.task)
    }

    pub(crate) const fn lose_stream(&mut self) {
        self.is_connected = false;
    }

    pub(crate) fn note_progress(&mut self, lease: LeaseId, upto: u64) {
        if let Some(held) = self.leases.get_mut(&lease.0) {
            held.upto = upto;
        }
    }
}

impl World<'_> {
    fn control(&mut self, host: u32) -> &mut Control {
        &mut self.hosts[host as usize].control
    }

    /// Opens the stream to the scheduler and says what there is to say.
    pub(crate) fn connect(&mut self, host: u32) {
        let link_bytes_per_s = self.hosts[host as usize].link_bytes_per_s;
        let row = &self.hosts[host as usize];
        if !row.is_up || row.is_leaving || row.is_cut || !self.scheduler.is_up() {
            return;
        }
        let control = self.control(host);
        // It may have started since the scheduler came back.
        if control.is_connected {
            return;
        }
        control.is_connected = true;
        let id = control.id;
        let ip = IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + host));
        let info = HostInfo {
            id,
            key: control.key.public(),
            address: SocketAddr::new(ip, 7000),
            labels: self.borders.zone_of(host).map(|zone| ("zone".to_owned(), zone.to_string())).into_iter().collect(),
            is_seed: false,
            link_bytes_per_s,
        };
        self.scheduler.learn_name(id, host);
        self.say(host, Input::Join(info));
        for peer in self.peers_of(host) {
            if self.peer(peer).is_ready {
                self.announce_to_scheduler(peer);
            } else {
                self.want(peer);
            }
            self.download(peer, DownloadInput::Scheduler { is_connected: true });
        }
    }

    pub(crate) fn want(&mut self, peer: PeerId) {
        let (id, want, key) = (self.control(peer.host).id, want_of(peer.task), key_of(peer.task));
        self.say(peer.host, Input::Want { host: id, want, key: WantKey::Resolve(key), origin: Some(ORIGIN) });
    }

    /// The streams of all hosts broke.
    pub(crate) fn lose_scheduler(&mut self) {
        self.scheduler.stop();
        for host in 0..self.scenario.hosts {
            self.control(host).is_connected = false;
            for peer in self.peers_of(host) {
                self.download(peer, DownloadInput::Scheduler { is_connected: false });
            }
        }
    }

    pub(crate) fn regain_scheduler(&mut self) {
        self.scheduler.start();
        for host in 0..self.scenario.hosts {
            let after = self.draw_duration(BACKOFF_MAX);
            self.clock.push(self.clock.now() + after, Event::Connect { host });
        }
    }

    /// Sends an input on its way; false when there is no stream.
    pub(crate) fn say(&mut self, host: u32, input: Input) -> bool {
        if !self.control(host).is_connected {
            return false;
        }
        self.scheduler.messages += 1;
        let life = self.scheduler.life;
        let event = Event::ToScheduler { life, input: Box::new(input) };
        self.clock.push(self.clock.now() + self.scenario.latency, event);
        true
    }

    pub(crate) fn run_scheduler(&mut self, life: u64, input: Input) {
        if life != self.scheduler.life {
            return;
        }
        let now = self.clock.now();
        self.scheduler.handle(now, input);
        while let Some((host, message)) = self.scheduler.poll() {
            self.scheduler.messages += 1;
            let event = Event::ToAgent { host, life, message: Box::new(message) };
            self.clock.push(now + self.scenario.latency, event);
        }
        if let Some(at) = self.scheduler.deadline()
            && self.scheduler.wake.is_none_or(|wake| at < wake)
        {
            self.scheduler.wake = Some(at);
            self.clock.push(at, Event::SchedulerWake { life });
        }
    }

    pub(crate) fn hear(&mut self, host: u32, life: u64, message: ToHost) {
        if !self.hosts[host as usize].is_up || !self.control(host).is_connected || life != self.scheduler.life {
            return;
        }
        let now = self.clock.now();
        let peer = |task: TaskId| PeerId { host, task: task_of(task) };
        let wanted = |want: WantId| PeerId { host, task: task_of_want(want) };
        match message {
            ToHost::Ready { want, task, neighbors, geometry, .. } => {
                assert_eq!(task_of(task), task_of_want(want), "the task that was wanted");
                assert_eq!(geometry, self.peer(peer(task)).geometry, "the form that the resolver learned");
                self.begin(peer(task));
                self.link_with(peer(task), &neighbors);
            }
            ToHost::Resolve { want, .. } if self.is_liar(host) => self.decline_resolve(host, want),
            // One round trip to the head of the origin's answer.
            ToHost::Resolve { want, upto, .. } => {
                let event = Event::OriginHead { peer: wanted(want), upto };
                self.clock.push(now + self.scenario.latency * 2, event);
            }
            ToHost::Wait { .. } => {}
            ToHost::WantFailed { want, retry, failure } => {
                let retry = retry.unwrap_or_else(|| panic!("a want failed: {failure:?}, seed {}", self.scenario.seed));
                self.clock.push(now + retry, Event::Want { peer: wanted(want) });
            }
            ToHost::Neighbors { task, add, remove } => {
                for id in remove {
                    self.unlink(peer(task), id);
                }
                self.link_with(peer(task), &add);
            }
            ToHost::Imports { task, stripes } => self.download(peer(task), DownloadInput::Imports { stripes }),
            ToHost::Lease { lease, valid } => {
                let lease_id = LeaseId(lease.lease.serial);
                self.note_lease(lease.lease.range.length());
                self.clock.push(now + valid, Event::LeaseExpired { host, lease: lease_id });
                self.take_lease(host, lease);
            }
            ToHost::NoLease { task, retry, .. } => {
                self.download(peer(task), DownloadInput::NoLease { retry_after: retry });
            }
            ToHost::Allowance { task, allowance } => {
                let bytes = allowance.allowance.bytes;
                self.download(peer(task), DownloadInput::Allowance { bytes });
            }
            ToHost::Ban { host: bad } => {
                self.scheduler.index_of(bad).into_iter().for_each(|bad| self.banned(host, bad));
            }
            ToHost::Report { task } => self.announce_to_scheduler(peer(task)),
            // Simulated hosts pull by digest.
            ToHost::Tag { .. } => {}
        }
    }

    /// The head of the origin's answer tells what the task is.
    pub(crate) fn resolved(&mut self, peer: PeerId, upto: u64) {
        let geometry = self.peer(peer).geometry;
        self.budget.resolved(upto.min(geometry.length()));
        let resolution = Resolution {
            task: id_of(peer.task),
            geometry,
            validators: Vec::new(),
            valid: VALID,
            is_shared: true,
            has_ranges: true,
            digest: None,
            arriving_bytes: upto.min(geometry.length()),
            inline: Vec::new(),
        };
        let id = self.control(peer.host).id;
        self.say(peer.host, Input::Resolved { host: id, want: want_of(peer.task), resolution });
    }

    /// The task has a name: the download begins.
    fn begin(&mut self, peer: PeerId) {
        if !self.peer(peer).is_ready {
            let (scenario, now) = (self.scenario, self.clock.now());
            self.peer_mut(peer).begin(scenario, now);
            self.download(peer, DownloadInput::Tick);
        }
    }

    fn take_lease(&mut self, host: u32, lease: SignedLease) {
        let control = self.control(host);
        let body = lease.lease;
        assert_eq!(body.holder, control.key.public(), "a lease of another host");
        let peer = PeerId { host, task: task_of(body.task) };
        control.leases.insert(body.serial, Held { lease, task: peer.task, upto: body.range.start() });
        if self.peer(peer).done_at.is_some() {
            self.lease_over(host, LeaseId(body.serial));
        } else {
            self.download(peer, DownloadInput::Lease { lease: LeaseId(body.serial), range: body.range });
        }
    }

    /// A lease is over; the scheduler hears how much of it is here.
    pub(crate) fn lease_over(&mut self, host: u32, lease: LeaseId) {
        self.end_lease(host, lease, None);
    }

    /// The same, with an outcome that is neither of the usual ones: all is here, or the rest is given back.
    pub(crate) fn end_lease(&mut self, host: u32, lease: LeaseId, outcome: Option<LeaseOutcome>) {
        let control = self.control(host);
        let Some(held) = control.leases.remove(&lease.0) else { return };
        let id = control.id;
        let peer = self.peer(PeerId { host, task: held.task });
        let geometry = peer.geometry;
        let range = held.lease.lease.range;
        let pieces = geometry.pieces_within(range);
        let stored = pieces.clone().take_while(|piece| peer.is_here(PieceIndex(*piece)));
        let upto = stored.last().map_or(range.start(), |piece| geometry.piece_range(PieceIndex(piece)).end());
        // What arrived and was lost since is no hole in what arrived.
        let arrived =
            geometry.block_at(held.upto).map_or(range.end(), |(piece, _)| geometry.piece_range(piece).start());
        let upto = upto.max(arrived.min(range.end()));
        let usual = if upto == range.end() { LeaseOutcome::Complete } else { LeaseOutcome::Returned };
        let outcome = outcome.unwrap_or(usual);
        self.say(host, Input::LeaseDone { host: id, serial: lease.0, upto, outcome });
    }

    pub(crate) fn ask_lease(
        &mut self,
        peer: PeerId,
        bytes: u64,
        bytes_per_s: u64,
        source_bytes_per_s: Option<u64>,
        lacked: Option<PieceIndex>,
    ) {
        self.peer_mut(peer).is_buying = source_bytes_per_s.is_some();
        let id = self.control(peer.host).id;
        let task = id_of(peer.task);
        self.say(peer.host, Input::AskLease { host: id, task, bytes, bytes_per_s, source_bytes_per_s, lacked });
    }

    pub(crate) fn finished(&mut self, peer: PeerId) {
        if self.is_liar(peer.host) {
            return;
        }
        let id = self.control(peer.host).id;
        self.say(peer.host, Input::Finished { host: id, task: id_of(peer.task) });
    }

    pub(crate) fn announce_to_scheduler(&mut self, at: PeerId) {
        for piece in self.peer(at).unwritten() {
            self.fetch_log.note_unwritten(at, piece);
        }
        let (control, peer) = (&self.hosts[at.host as usize].control, self.peer(at));
        let leases = control.leases.values().filter(|held| held.task == at.task).map(|held| held.lease).collect();
        let announcement = Announcement {
            task: id_of(at.task),
            geometry: peer.geometry,
            have: self.claimed_to_scheduler(at),
            is_running: peer.done_at.is_none(),
            leases,
            origin: Some(ORIGIN),
            has_ranges: true,
            is_shared: true,
            source: Some(Source { key: key_of(at.task), validators: Vec::new(), valid: VALID }),
            digest: None,
        };
        let id = control.id;
        self.say(at.host, Input::Announce { host: id, announcement });
    }

    /// A report per download that runs; a sign of life when none does.
    pub(crate) fn report_progress(&mut self, host: u32) {
        if !self.hosts[host as usize].is_up {
            return;
        }
        let (mut running, mut waiting) = (0, 0);
        for at in self.peers_of(host) {
            let peer = self.peer(at);
            if !peer.is_ready {
                waiting += 1;
            } else if peer.done_at.is_none() {
                running += 1;
                self.report_download(at);
            }
        }
        if running == 0 {
            let id = self.control(host).id;
            self.say(host, Input::Heartbeat { host: id });
        }
        let every = if running + waiting > 0 { PROGRESS_EVERY } else { HEARTBEAT_EVERY };
        self.clock.push(self.clock.now() + every, Event::Progress { host });
    }

    fn report_download(&mut self, at: PeerId) {
        let peer = self.peer_mut(at);
        let progress = peer.download.progress();
        let fresh = progress.bytes_stored.saturating_sub(peer.bytes_reported);
        peer.bytes_reported = progress.bytes_stored;
        let control = self.control(at.host);
        let leases = control.leases.iter().filter(|(_, held)| held.task == at.task);
        let input = Input::Progress {
            host: control.id,
            task: id_of(at.task),
            have_count: progress.pieces_stored,
            bytes_per_s: fresh * 1000 / u64::try_from(PROGRESS_EVERY.as_millis()).unwrap_or(u64::MAX),
            leases: leases.map(|(serial, held)| (*serial, held.upto)).collect(),
        };
        self.say(at.host, input);
    }

    /// The scheduler sees the stream of a dead host break.
    pub(crate) fn disconnect(&mut self, host: u32) {
        let id = self.control(host).id;
        self.say(host, Input::Disconnected { host: id });
        self.control(host).is_connected = false;
    }
}
