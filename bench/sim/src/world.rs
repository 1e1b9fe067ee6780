//! The event loop: what happens, in the order of its time, and whom it concerns.

use std::time::Duration;

use hawker_proto::{ByteRange, Instant, PieceIndex};
use hawker_scheduler::{Input, ToHost};
use hawker_swarm::{DownloadInput, LeaseId, LinkId, NeighborId, OriginOutcome, UploadInput};

use crate::clock::{Clock, Draws};
use crate::host::Host;
use crate::network::Transmission;
use crate::origin::Origin;
use crate::scheduler::Scheduler;
use crate::{Report, Scenario};

/// Every so many events all invariants of the host at hand are checked: they look at every piece.
const CHECK_EVERY: u64 = 4096;

pub(crate) struct World<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) clock: Clock<Event>,
    draws: Draws,
    pub(crate) hosts: Vec<Host>,
    pub(crate) origin: Origin,
    pub(crate) is_origin_busy: bool,
    pub(crate) scheduler: Scheduler,
    pub(crate) unfinished: u32,
    pub(crate) last_death: Option<Instant>,
    /// Leases whose time was over before their fetch.
    pub(crate) leases_cut: u64,
    pub(crate) grants: u64,
    pub(crate) messages: u64,
    events: u64,
    /// Grows with every event, by its time and kind: equal traces have equal ones.
    trace: u64,
}

pub(crate) enum Event {
    /// The host starts.
    Start {
        host: u32,
    },
    /// The host vanishes.
    Die {
        host: u32,
    },
    /// A control message reached the host.
    Message {
        to: u32,
        from: u32,
        message: Message,
    },
    /// An announcement reached all neighbors of its host.
    Announce {
        host: u32,
        piece: PieceIndex,
    },
    /// A block reached the host.
    Arrived {
        from: u32,
        block: Transmission,
    },
    /// Some bytes of a block reached the host.
    Arriving {
        to: u32,
        from: u32,
    },
    /// A block left the host.
    Sent {
        from: u32,
        to: u32,
        bytes: u32,
    },
    /// The host's uplink can send again.
    UplinkFree {
        host: u32,
    },
    /// A part of a body reached the host.
    Body {
        host: u32,
        lease: LeaseId,
        part: ByteRange,
    },
    /// The origin's uplink can send again.
    OriginFree,
    /// The host opens its stream to the scheduler.
    Connect {
        host: u32,
    },
    /// It asks for the task again.
    Want {
        host: u32,
    },
    /// The head of the origin's answer to a resolve.
    OriginHead {
        host: u32,
        upto: u64,
    },
    /// It tells the scheduler how far it is.
    Progress {
        host: u32,
    },
    /// The time of a lease is over: whoever still fetches under it stops.
    LeaseExpired {
        host: u32,
        lease: LeaseId,
    },
    /// A link is ready.
    Linked {
        child: u32,
        parent: u32,
    },
    /// Others see that the host is dead.
    Bereft {
        host: u32,
    },
    ToScheduler {
        life: u64,
        input: Box<Input>,
    },
    ToAgent {
        host: u32,
        life: u64,
        message: Box<ToHost>,
    },
    SchedulerWake {
        life: u64,
    },
    SchedulerDown,
    SchedulerUp,
    /// Deadlines of the host's machines.
    DownloadWake {
        host: u32,
    },
    UploadWake {
        host: u32,
    },
}

#[derive(Clone, Copy)]
pub(crate) enum Message {
    Request { piece: PieceIndex, start: u32, end: u32 },
    Cancel { piece: PieceIndex },
    Queued { piece: PieceIndex },
    Granted { blocks: u32, millis: u32 },
}

impl Event {
    /// The host that has to run for it.
    const fn host(&self) -> Option<u32> {
        match self {
            Self::Message { to: host, .. }
            | Self::Arrived { block: Transmission { to: host, .. }, .. }
            | Self::Arriving { to: host, .. }
            | Self::Sent { from: host, .. }
            | Self::Body { host, .. }
            | Self::ToAgent { host, .. }
            | Self::OriginHead { host, .. }
            | Self::DownloadWake { host }
            | Self::UploadWake { host } => Some(*host),
            _ => None,
        }
    }
}

impl<'a> World<'a> {
    pub(crate) fn new(scenario: &'a Scenario) -> Self {
        let mut draws = Draws::new(scenario.seed);
        let spread = u64::try_from(scenario.start_spread.as_nanos()).unwrap_or(u64::MAX);
        let mut clock = Clock::new();
        let mut hosts: Vec<Host> = Vec::new();
        for host in 0..scenario.hosts {
            let start = Instant::from_nanos(draws.below(spread));
            hosts.push(Host::new(scenario, host, draws.next(), start));
            clock.push(start, Event::Start { host });
        }
        for host in 0..scenario.deaths.min(scenario.hosts) {
            let window = scenario.deaths_until.saturating_sub(scenario.deaths_from);
            let at = Instant::ZERO + scenario.deaths_from + window * host / scenario.deaths;
            clock.push(at, Event::Die { host });
        }
        if let Some((from, until)) = scenario.scheduler_away {
            clock.push(Instant::ZERO + from, Event::SchedulerDown);
            clock.push(Instant::ZERO + until, Event::SchedulerUp);
        }
        let scheduler = Scheduler::new(scenario.cluster.clone(), draws.next());
        Self {
            scenario,
            clock,
            draws,
            hosts,
            origin: Origin::new(scenario.geometry),
            is_origin_busy: false,
            scheduler,
            unfinished: scenario.hosts,
            last_death: None,
            leases_cut: 0,
            grants: 0,
            messages: 0,
            events: 0,
            trace: 0,
        }
    }

    pub(crate) fn run(mut self) -> Report {
        let end = Instant::ZERO + self.scenario.time_max;
        while self.unfinished > 0 {
            let seed = self.scenario.seed;
            let entry =
                self.clock.pop().unwrap_or_else(|| panic!("nothing more happens, seed {seed}: {}", self.state()));
            assert!(entry.at < end, "not done after {:?}, seed {seed}: {}", self.scenario.time_max, self.state());
            if let Some(host) = entry.event.host() {
                let host = &mut self.hosts[host as usize];
                if entry.at < host.ready_at && entry.at != host.turn_at {
                    let at = host.ready_at;
                    self.clock.put_off(entry, at);
                    continue;
                }
                host.rest(entry.at, self.scenario.noise, |bound| self.draws.below(bound));
            }
            self.events += 1;
            let host = entry.event.host();
            self.note_event(entry.at, host);
            self.step(entry.event);
            if let Some(host) = host.filter(|_| self.events.is_multiple_of(CHECK_EVERY)) {
                self.hosts[host as usize].download.assert_invariants();
                self.hosts[host as usize].upload.assert_invariants();
            }
        }
        self.scheduler.assert_invariants();
        Report::of(&self)
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Start { host } => self.start(host),
            Event::Die { host } => self.die(host),
            Event::Message { to, from, message } => self.message(to, from, message),
            Event::Announce { host, piece } => self.announce(host, piece),
            Event::Arriving { to, from } => {
                self.download(to, DownloadInput::Arriving { neighbor: NeighborId(from) });
            }
            Event::Arrived { from, block } => self.arrived(from, block),
            Event::Sent { from, to, bytes } => self.upload(from, UploadInput::BlockSent { link: LinkId(to), bytes }),
            Event::UplinkFree { host } => {
                self.hosts[host as usize].uplink.finish();
                self.transmit(host);
            }
            Event::Body { host, lease, part } => self.body(host, lease, part),
            Event::OriginFree => {
                self.is_origin_busy = false;
                self.serve_origin();
            }
            Event::Connect { host } => self.connect(host),
            Event::Want { host } => self.want(host),
            Event::OriginHead { host, upto } => self.resolved(host, upto),
            Event::Progress { host } => self.report_progress(host),
            Event::LeaseExpired { host, lease } => self.lease_expired(host, lease),
            Event::Linked { child, parent } => self.linked(child, parent),
            Event::Bereft { host } => self.bereft(host),
            Event::ToScheduler { life, input } => self.run_scheduler(life, *input),
            Event::ToAgent { host, life, message } => self.hear(host, life, *message),
            Event::SchedulerWake { life } => {
                self.scheduler.wake = None;
                self.run_scheduler(life, Input::Tick);
            }
            Event::SchedulerDown => self.lose_scheduler(),
            Event::SchedulerUp => self.regain_scheduler(),
            Event::DownloadWake { host } => {
                self.hosts[host as usize].download_wake = None;
                self.download(host, DownloadInput::Tick);
            }
            Event::UploadWake { host } => {
                self.hosts[host as usize].upload_wake = None;
                self.drain_upload(host);
            }
        }
    }

    fn start(&mut self, host: u32) {
        if self.hosts[host as usize].is_dead {
            return;
        }
        self.hosts[host as usize].is_up = true;
        self.connect(host);
        self.download(host, DownloadInput::Tick);
        self.report_progress(host);
    }

    fn die(&mut self, host: u32) {
        self.last_death = Some(self.clock.now());
        let Host { is_up, is_dead, done_at, uplink, .. } = &mut self.hosts[host as usize];
        (*is_up, *is_dead) = (false, true);
        uplink.cut();
        self.unfinished -= u32::from(done_at.is_none());
        for lease in self.origin.of_host(host) {
            self.origin.close(host, lease);
        }
        let notice = self.scenario.death_notice;
        self.clock.push(self.clock.now() + notice, Event::Bereft { host });
    }

    /// The links of a dead host break, those with the hosts it served and with those that served it.
    fn bereft(&mut self, host: u32) {
        self.disconnect(host);
        for other in core::mem::take(&mut self.hosts[host as usize].children) {
            self.hosts[other as usize].parents.remove(&host);
            self.download(other, DownloadInput::NeighborDown { neighbor: NeighborId(host) });
        }
        for (other, _) in core::mem::take(&mut self.hosts[host as usize].parents) {
            self.hosts[other as usize].children.retain(|child| *child != host);
            self.hosts[other as usize].uplink.cut_off(host);
            self.upload(other, UploadInput::LinkDown { link: LinkId(host) });
        }
        self.serve_origin();
    }

    fn message(&mut self, to: u32, from: u32, message: Message) {
        if !self.hosts[from as usize].is_up {
            return;
        }
        let (link, neighbor) = (LinkId(from), NeighborId(from));
        match message {
            Message::Request { piece, start, end } => {
                self.upload(to, UploadInput::Request { link, channel: 0, piece, blocks: start..end });
            }
            Message::Cancel { piece } => self.upload(to, UploadInput::Cancel { link, channel: 0, piece }),
            Message::Queued { piece } => self.download(to, DownloadInput::Queued { neighbor, piece }),
            Message::Granted { blocks, millis } => {
                let until = Duration::from_millis(u64::from(millis));
                self.download(to, DownloadInput::Granted { neighbor, blocks, until });
            }
        }
    }

    fn announce(&mut self, host: u32, piece: PieceIndex) {
        for index in 0..self.hosts[host as usize].children.len() {
            let other = self.hosts[host as usize].children[index];
            if self.hosts[other as usize].is_up {
                self.messages += 1;
                self.tell(other, host, piece);
            }
        }
    }

    /// `host` learns that `neighbor` has the piece, with its record the first time.
    pub(crate) fn tell(&mut self, host: u32, neighbor: u32, piece: PieceIndex) {
        if self.hosts[host as usize].recorded.insert(piece) {
            self.download(host, DownloadInput::Records { pieces: vec![piece] });
        }
        self.download(host, DownloadInput::HavePiece { neighbor: NeighborId(neighbor), piece });
    }

    fn arrived(&mut self, from: u32, block: Transmission) {
        let host = &mut self.hosts[block.to as usize];
        if !host.is_up || host.parents.get(&from) != Some(&true) {
            return;
        }
        let is_wanted = host.download.is_block_wanted(block.piece, block.block);
        let is_whole = is_wanted && !host.has_block(block.piece, block.block) && host.write(block.piece, block.block);
        let neighbor = NeighborId(from);
        self.download(block.to, DownloadInput::BlockIn { neighbor, piece: block.piece, block: block.block });
        if is_whole {
            self.download(block.to, DownloadInput::PieceStored { piece: block.piece });
        }
    }

    fn body(&mut self, host: u32, lease: LeaseId, part: ByteRange) {
        let Some(get) = self.origin.arrived(host, lease, part) else { return };
        let (piece, block) = self.scenario.geometry.block_at(part.start()).expect("within the task");
        let is_new = !self.hosts[host as usize].has_block(piece, block);
        let is_whole = is_new && self.hosts[host as usize].write(piece, block);
        self.hosts[host as usize].control.note_progress(lease, part.end());
        self.download(host, DownloadInput::OriginProgress { lease, upto: part.end() });
        if is_whole {
            self.download(host, DownloadInput::PieceStored { piece });
        }
        if get.upto == get.range.end() {
            self.lease_over(host, lease);
            self.download(host, DownloadInput::OriginEnded { lease, outcome: OriginOutcome::Complete });
        }
        self.serve_origin();
    }

    fn note_event(&mut self, at: Instant, host: Option<u32>) {
        // FNV-1a over what tells runs apart.
        for word in [at.as_nanos(), host.map_or(u64::MAX, u64::from)] {
            self.trace = (self.trace ^ word).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub(crate) fn draw_duration(&mut self, below: Duration) -> Duration {
        Duration::from_nanos(self.draws.below(u64::try_from(below.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Where everybody stands, for the message of a failure.
    fn state(&self) -> String {
        let line = |(index, host): (usize, &Host)| {
            (host.is_up && host.done_at.is_none()).then(|| format!("host {index}: {:?}", host.download.progress()))
        };
        self.hosts.iter().enumerate().filter_map(line).take(5).collect::<Vec<_>>().join("\n")
    }

    pub(crate) const fn event_count(&self) -> u64 {
        self.events
    }

    pub(crate) const fn trace(&self) -> u64 {
        self.trace
    }
}
