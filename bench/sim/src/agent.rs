//! The half of an agent that talks to the scheduler: it wants the task, resolves when it is told to, keeps its
//! leases, announces what it has when the scheduler is new, and links with whom it is told to.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use hawker_proto::resolve::ResolveKey;
use hawker_proto::trust::SignedLease;
use hawker_proto::{ByteRange, HostId, HostKey, PieceIndex, PieceMap, TaskId};
use hawker_scheduler::{
    Announcement, HostInfo, Input, LeaseOutcome, OriginId, Resolution, Source, ToHost, WantId, WantKey,
};
use hawker_swarm::{Download, DownloadInput, LeaseId, LinkId, NeighborId, OriginOutcome, UploadInput};

use crate::host::Host;
use crate::world::{Event, World};

pub(crate) const TASK: TaskId = TaskId([7; 32]);
const KEY: ResolveKey = ResolveKey([7; 32]);
const ORIGIN: OriginId = OriginId([7; 32]);
const WANT: WantId = WantId(1);

/// How long a resolve holds: longer than any run.
const VALID: Duration = Duration::from_secs(24 * 3600);
/// As servers ask of agents.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);
/// Agents that lost the scheduler try again at intervals up to this.
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// One way trips until a link carries requests: TCP, the two messages of the handshake each way, OPEN and HAVE.
const LINK_TRIPS: u32 = 6;
/// A parent that does not know the task yet answers OPEN when it does.
const LINK_RETRY: Duration = Duration::from_millis(1);

/// What the control half of an agent keeps.
pub(crate) struct Control {
    key: HostKey,
    pub(crate) id: HostId,
    is_connected: bool,
    /// It knows the task, and downloads or has it.
    pub(crate) is_ready: bool,
    leases: BTreeMap<u64, Held>,
    /// What was stored at the last report, for the rate.
    bytes_reported: u64,
}

struct Held {
    lease: SignedLease,
    /// Everything of it below this offset has arrived.
    upto: u64,
}

impl Control {
    pub(crate) fn new(index: u32) -> Self {
        let mut seed = [1; 32];
        seed[..4].copy_from_slice(&index.to_le_bytes());
        let key = HostKey::from_seed(seed);
        let id = key.host_id();
        Self { key, id, is_connected: false, is_ready: false, leases: BTreeMap::new(), bytes_reported: 0 }
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
        if !self.hosts[host as usize].is_up || !self.scheduler.is_up() {
            return;
        }
        let control = self.control(host);
        control.is_connected = true;
        let (id, is_ready) = (control.id, control.is_ready);
        let ip = IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + host));
        let info = HostInfo {
            id,
            key: control.key.public(),
            address: SocketAddr::new(ip, 7000),
            labels: Vec::new(),
            is_seed: false,
            link_bytes_per_s,
        };
        self.scheduler.learn_name(id, host);
        self.say(host, Input::Join(info));
        if is_ready {
            self.announce_to_scheduler(host);
        } else {
            self.want(host);
        }
        self.download(host, DownloadInput::Scheduler { is_connected: true });
    }

    pub(crate) fn want(&mut self, host: u32) {
        let id = self.control(host).id;
        self.say(host, Input::Want { host: id, want: WANT, key: WantKey::Resolve(KEY), origin: Some(ORIGIN) });
    }

    /// The streams of all hosts broke.
    pub(crate) fn lose_scheduler(&mut self) {
        self.scheduler.stop();
        for host in 0..self.scenario.hosts {
            self.control(host).is_connected = false;
            self.download(host, DownloadInput::Scheduler { is_connected: false });
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
        match message {
            ToHost::Ready { neighbors, geometry, .. } => {
                assert_eq!(geometry, self.scenario.geometry, "the form that the resolver learned");
                self.begin(host);
                self.link_with(host, &neighbors.iter().map(|neighbor| neighbor.id).collect::<Vec<_>>());
            }
            // One round trip to the head of the origin's answer.
            ToHost::Resolve { upto, .. } => {
                self.clock.push(now + self.scenario.latency * 2, Event::OriginHead { host, upto });
            }
            ToHost::Wait { .. } => {}
            ToHost::WantFailed { retry, failure, .. } => {
                let retry = retry.unwrap_or_else(|| panic!("a want failed: {failure:?}, seed {}", self.scenario.seed));
                self.clock.push(now + retry, Event::Want { host });
            }
            ToHost::Neighbors { add, remove, .. } => {
                for id in remove {
                    self.unlink(host, id);
                }
                self.link_with(host, &add.iter().map(|neighbor| neighbor.id).collect::<Vec<_>>());
            }
            ToHost::Lease { lease, valid } => {
                let lease_id = LeaseId(lease.lease.serial);
                self.clock.push(now + valid, Event::LeaseExpired { host, lease: lease_id });
                self.take_lease(host, lease);
            }
            ToHost::NoLease { retry, .. } => self.download(host, DownloadInput::NoLease { retry_after: retry }),
            ToHost::Allowance { allowance, .. } => {
                self.download(host, DownloadInput::Allowance { bytes: allowance.allowance.bytes });
            }
            ToHost::Ban { .. } => panic!("an honest host was banned, seed {}", self.scenario.seed),
            ToHost::Report { .. } => self.announce_to_scheduler(host),
        }
    }

    /// The head of the origin's answer tells what the task is.
    pub(crate) fn resolved(&mut self, host: u32, upto: u64) {
        let geometry = self.scenario.geometry;
        let resolution = Resolution {
            task: TASK,
            geometry,
            validators: Vec::new(),
            valid: VALID,
            is_shared: true,
            has_ranges: true,
            digest: None,
            arriving_bytes: upto.min(geometry.length()),
        };
        let id = self.control(host).id;
        self.say(host, Input::Resolved { host: id, want: WANT, resolution });
    }

    /// The task has a name: the download begins.
    fn begin(&mut self, host: u32) {
        let now = self.clock.now();
        let Host { control, download, download_seed, .. } = &mut self.hosts[host as usize];
        if control.is_ready {
            return;
        }
        control.is_ready = true;
        let none = PieceMap::empty(self.scenario.geometry.piece_count());
        *download = Download::new(self.scenario.download, self.scenario.geometry, none, *download_seed, now);
        self.download(host, DownloadInput::Tick);
    }

    fn take_lease(&mut self, host: u32, lease: SignedLease) {
        let control = self.control(host);
        let body = lease.lease;
        assert_eq!(body.holder, control.key.public(), "a lease of another host");
        assert_eq!(body.task, TASK, "a lease of another task");
        control.leases.insert(body.serial, Held { lease, upto: body.range.start() });
        if self.hosts[host as usize].done_at.is_some() {
            self.lease_over(host, LeaseId(body.serial));
        } else {
            self.download(host, DownloadInput::Lease { lease: LeaseId(body.serial), range: body.range });
        }
    }

    /// The time of a lease is over, and perhaps its fetch is not.
    pub(crate) fn lease_expired(&mut self, host: u32, lease: LeaseId) {
        if self.stop_fetch(host, lease) {
            self.leases_cut += 1;
            self.download(host, DownloadInput::Tick);
        }
    }

    /// Stops a fetch, and tells the download; false when it does not run.
    pub(crate) fn stop_fetch(&mut self, host: u32, lease: LeaseId) -> bool {
        if let Some(rest) = self.origin.close(host, lease) {
            assert!(!rest.is_empty(), "stopped after its end");
            self.lease_over(host, lease);
            let outcome = OriginOutcome::Failed { retry_after: Duration::ZERO };
            let now = self.clock.now();
            self.hosts[host as usize].download.handle(now, DownloadInput::OriginEnded { lease, outcome });
            return true;
        }
        false
    }

    /// A lease is over; the scheduler hears how much of it is stored.
    pub(crate) fn lease_over(&mut self, host: u32, lease: LeaseId) {
        let geometry = self.scenario.geometry;
        let Host { control, download, .. } = &mut self.hosts[host as usize];
        let Some(held) = control.leases.remove(&lease.0) else { return };
        let range = held.lease.lease.range;
        let pieces = geometry.pieces_within(range);
        let stored = pieces.clone().take_while(|piece| download.has_piece(PieceIndex(*piece)));
        let upto = stored.last().map_or(range.start(), |piece| geometry.piece_range(PieceIndex(piece)).end());
        let outcome = if upto == range.end() { LeaseOutcome::Complete } else { LeaseOutcome::Returned };
        let input = Input::LeaseDone { host: control.id, serial: lease.0, upto, outcome };
        self.say(host, input);
    }

    pub(crate) fn ask_lease(&mut self, host: u32, bytes: u64, bytes_per_s: u64) {
        let id = self.control(host).id;
        self.say(host, Input::AskLease { host: id, task: TASK, bytes, bytes_per_s });
    }

    pub(crate) fn finished(&mut self, host: u32) {
        let id = self.control(host).id;
        self.say(host, Input::Finished { host: id, task: TASK });
    }

    fn announce_to_scheduler(&mut self, host: u32) {
        let geometry = self.scenario.geometry;
        let Host { control, download, done_at, .. } = &self.hosts[host as usize];
        let mut have = PieceMap::empty(geometry.piece_count());
        for piece in (0..geometry.piece_count()).map(PieceIndex).filter(|piece| download.has_piece(*piece)) {
            have.insert(piece);
        }
        let announcement = Announcement {
            task: TASK,
            geometry,
            have,
            is_running: done_at.is_none(),
            leases: control.leases.values().map(|held| held.lease).collect(),
            origin: Some(ORIGIN),
            has_ranges: true,
            is_shared: true,
            source: Some(Source { key: KEY, validators: Vec::new(), valid: VALID }),
            digest: None,
        };
        let id = control.id;
        self.say(host, Input::Announce { host: id, announcement });
    }

    pub(crate) fn report_progress(&mut self, host: u32) {
        let Host { control, download, is_up, done_at, .. } = &mut self.hosts[host as usize];
        if !*is_up {
            return;
        }
        if done_at.is_some() || !control.is_ready {
            let (id, every) = (control.id, if control.is_ready { HEARTBEAT_EVERY } else { PROGRESS_EVERY });
            self.say(host, Input::Heartbeat { host: id });
            self.clock.push(self.clock.now() + every, Event::Progress { host });
            return;
        }
        let progress = download.progress();
        let fresh = progress.bytes_stored - control.bytes_reported;
        control.bytes_reported = progress.bytes_stored;
        let input = Input::Progress {
            host: control.id,
            task: TASK,
            have_count: progress.pieces_stored,
            bytes_per_s: fresh * 1000 / u64::try_from(PROGRESS_EVERY.as_millis()).unwrap_or(u64::MAX),
            leases: control.leases.iter().map(|(serial, held)| (*serial, held.upto)).collect(),
        };
        self.say(host, input);
        self.clock.push(self.clock.now() + PROGRESS_EVERY, Event::Progress { host });
    }

    fn link_with(&mut self, host: u32, parents: &[HostId]) {
        for id in parents {
            let Some(parent) = self.index_of(*id) else { continue };
            assert_ne!(parent, host, "a host is not its own neighbor");
            if let Entry::Vacant(entry) = self.hosts[host as usize].parents.entry(parent) {
                entry.insert(false);
                let at = self.clock.now() + self.scenario.latency * LINK_TRIPS;
                self.clock.push(at, Event::Linked { child: host, parent });
            }
        }
    }

    fn index_of(&self, id: HostId) -> Option<u32> {
        self.scheduler.index_of(id)
    }

    /// The link that `child` dialed carries requests now.
    pub(crate) fn linked(&mut self, child: u32, parent: u32) {
        let is_wanted = self.hosts[child as usize].parents.get(&parent) == Some(&false);
        if !is_wanted || !self.hosts[child as usize].is_up {
            return;
        }
        if !self.hosts[parent as usize].is_up {
            self.hosts[child as usize].parents.remove(&parent);
            return;
        }
        if !self.hosts[parent as usize].control.is_ready || !self.hosts[child as usize].control.is_ready {
            self.clock.push(self.clock.now() + LINK_RETRY, Event::Linked { child, parent });
            return;
        }
        self.hosts[child as usize].parents.insert(parent, true);
        self.hosts[parent as usize].children.push(child);
        let round_trip = self.scenario.latency * 2;
        self.upload(parent, UploadInput::LinkUp { link: LinkId(child) });
        self.download(child, DownloadInput::NeighborUp { neighbor: NeighborId(parent), round_trip });
        for piece in (0..self.scenario.geometry.piece_count()).map(PieceIndex) {
            if self.hosts[parent as usize].download.has_piece(piece) {
                self.tell(child, parent, piece);
            }
        }
    }

    /// The scheduler ended the neighborhood: the child closes the link that it dialed.
    fn unlink(&mut self, child: u32, parent: HostId) {
        let Some(parent) = self.index_of(parent) else { return };
        if self.hosts[child as usize].parents.remove(&parent) == Some(true) {
            self.download(child, DownloadInput::NeighborDown { neighbor: NeighborId(parent) });
            self.hosts[parent as usize].children.retain(|other| *other != child);
            self.upload(parent, UploadInput::LinkDown { link: LinkId(child) });
        }
    }

    /// The scheduler sees the stream of a dead host break.
    pub(crate) fn disconnect(&mut self, host: u32) {
        let id = self.control(host).id;
        self.say(host, Input::Disconnected { host: id });
        self.control(host).is_connected = false;
    }

    /// Bytes of `range` that some host that is up has, or fetches already: to fetch them again needs a reason.
    pub(crate) fn bytes_to_be_had(&self, range: ByteRange) -> u64 {
        let geometry = self.scenario.geometry;
        let is_at = |host: &Host, piece| host.is_up && host.control.is_ready && host.download.has_piece(piece);
        let pieces = geometry.pieces_within(range).map(PieceIndex).filter(|piece| self.origin.was_asked(*piece));
        let bytes = |piece: PieceIndex| {
            let range = geometry.piece_range(piece);
            let is_had = self.origin.is_fetching(range) || self.hosts.iter().any(|host| is_at(host, piece));
            if is_had { range.length() } else { 0 }
        };
        pieces.map(bytes).sum()
    }
}
