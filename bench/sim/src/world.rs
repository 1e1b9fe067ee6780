//! The event loop: what happens, in the order of its time, and whom it concerns.

use std::time::Duration;

use hawker_proto::{Instant, PieceIndex};
use hawker_scheduler::Input;
use hawker_swarm::{DownloadInput, LinkId, NeighborId, UploadInput};

use crate::budget::Budget;
use crate::clock::{Clock, Draws};
use crate::event::{Event, Message};
use crate::faults::Faults;
use crate::host::Host;
use crate::liar::{Harm, Liar};
use crate::network::Transmission;
use crate::origin::Origin;
use crate::peer::{Peer, PeerId};
use crate::reasons::FetchLog;
use crate::report::ratio;
use crate::roles::Roles;
use crate::scheduler::Scheduler;
use crate::series::{Sample, Sampler};
use crate::table::PieceTable;
use crate::zones::Borders;
use crate::{Report, Scenario};

/// Every so many events all invariants of the host at hand are checked: they look at every piece.
const CHECK_EVERY: u64 = 4096;

pub(crate) struct World<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) clock: Clock<Event>,
    draws: Draws,
    pub(crate) hosts: Vec<Host>,
    /// Host by host.
    pub(crate) peers: Vec<Peer>,
    task_count: u16,
    /// Pieces that each peer has.
    pub(crate) stored: PieceTable,
    /// Pieces whose record each peer has seen.
    pub(crate) recorded: PieceTable,
    pub(crate) origin: Origin,
    pub(crate) fetch_log: FetchLog,
    pub(crate) faults: Faults,
    pub(crate) is_origin_busy: bool,
    pub(crate) borders: Borders,
    pub(crate) scheduler: Scheduler,
    pub(crate) unfinished: u32,
    pub(crate) harm: Harm,
    /// Leases whose time was over before their fetch.
    pub(crate) leases_cut: u64,
    pub(crate) grants: u64,
    pub(crate) budget: Budget,
    /// Most leases that were fetched at the same time.
    pub(crate) leases_running_max: usize,
    pub(crate) messages: u64,
    events: u64,
    /// Grows with every event, by its time and kind: equal traces have equal ones.
    trace: u64,
}

impl<'a> World<'a> {
    pub(crate) fn new(scenario: &'a Scenario) -> Self {
        let mut draws = Draws::new(scenario.seed);
        let spread = u64::try_from(scenario.start_spread.as_nanos()).unwrap_or(u64::MAX);
        let mut clock = Clock::new();
        let roles = Roles::draw(scenario);
        let (mut hosts, mut peers) = (Vec::new(), Vec::new());
        let task_count = u16::try_from(scenario.tasks.len()).expect("channels are counted in u16");
        for host in 0..scenario.hosts {
            let start = Instant::from_nanos(draws.below(spread));
            hosts.push(Host::new(scenario, host, start, &roles));
            let ids = (0..task_count).map(|task| PeerId { host, task });
            peers.extend(ids.map(|id| Peer::new(scenario, id, draws.next(), start)));
            clock.push(start, Event::Start { host });
        }
        for (nth, host) in (0..).zip(&roles.dying) {
            let window = scenario.deaths_until.saturating_sub(scenario.deaths_from);
            let at = Instant::ZERO + scenario.deaths_from + window * nth / scenario.deaths;
            clock.push(at, Event::Die { host: *host });
        }
        for (nth, host) in (0..).zip(&roles.leaving) {
            let window = scenario.leaves_until.saturating_sub(scenario.leaves_from);
            let at = Instant::ZERO + scenario.leaves_from + window * nth / scenario.leaves;
            clock.push(at, Event::Leave { host: *host });
        }
        for nth in 0..scenario.cuts {
            clock.push(Instant::ZERO + scenario.cuts_until * nth / scenario.cuts, Event::Cut);
        }
        for (nth, host) in roles.liars.iter().enumerate() {
            hosts[*host as usize].liar = Some(Liar::new(nth, scenario));
        }
        let honest = scenario.hosts - u32::try_from(roles.liars.len()).expect("no more than hosts");
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
            peers,
            task_count,
            stored: PieceTable::new(scenario.hosts, &scenario.tasks),
            recorded: PieceTable::new(scenario.hosts, &scenario.tasks),
            origin: Origin::new(
                scenario.tasks.clone(),
                scenario.origin_connections_max,
                scenario.origin_connection_bytes_per_s,
            ),
            fetch_log: FetchLog::new(&scenario.tasks),
            faults: Faults::new(scenario),
            is_origin_busy: false,
            borders: Borders::new(&scenario.zones, scenario.hosts),
            scheduler,
            unfinished: honest,
            harm: Harm::default(),
            leases_cut: 0,
            grants: 0,
            budget: Budget::default(),
            leases_running_max: 0,
            messages: 0,
            events: 0,
            trace: 0,
        }
    }

    /// Runs to the end; the samples are those of the sampler.
    pub(crate) fn run(mut self, mut sampler: Option<Sampler<'_>>) -> (Report, Vec<Sample>) {
        let end = Instant::ZERO + self.scenario.time_max;
        while self.unfinished > 0 {
            let seed = self.scenario.seed;
            let entry =
                self.clock.pop().unwrap_or_else(|| panic!("nothing more happens, seed {seed}: {}", self.state()));
            assert!(entry.at < end, "not done after {:?}, seed {seed}: {}", self.scenario.time_max, self.state());
            if let Some(sampler) = sampler.as_mut().filter(|sampler| sampler.next_at <= entry.at) {
                sampler.take(entry.at, &self.sample());
            }
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
                self.assert_host_invariants(host);
            }
        }
        (0..self.scenario.hosts).for_each(|host| self.assert_host_invariants(host));
        self.scheduler.assert_invariants();
        let samples = sampler.map(|sampler| sampler.end(self.sample())).unwrap_or_default();
        (Report::of(&self), samples)
    }

    fn assert_host_invariants(&self, host: u32) {
        self.peers_of(host).for_each(|peer| self.peer(peer).download.assert_invariants());
        self.hosts[host as usize].upload.assert_invariants();
    }

    /// Where the run stands.
    fn sample(&self) -> Sample {
        let wanting = || self.hosts.iter().skip(self.scenario.seeds as usize);
        let count = |is_counted: fn(&Host) -> bool| {
            u32::try_from(wanting().filter(|host| is_counted(host)).count()).expect("hosts are counted in u32")
        };
        let is_living = |host: &u32| !self.hosts[*host as usize].is_gone();
        let living: Vec<u32> = (self.scenario.seeds..self.scenario.hosts).filter(is_living).collect();
        let of_living = living.iter().flat_map(|host| self.peers_of(*host));
        let stored: u64 = of_living.map(|id| self.peer(id).download.progress().bytes_stored).sum();
        let wanted = self.scenario.length().saturating_mul(living.len() as u64);
        Sample {
            at: self.clock.now().since(Instant::ZERO),
            hosts_done: count(|host| host.done_at.is_some()),
            hosts_dead: count(|host| host.is_gone() && host.done_at.is_none()),
            share: ratio(stored, wanted),
            origin_bytes: self.origin.bytes,
            peer_bytes: self.peers.iter().map(|peer| peer.download.progress().bytes_from_peers).sum(),
            events: self.events,
        }
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Start { host } => self.start(host),
            Event::Die { host } => self.die(host),
            Event::Leave { host } => self.leave(host),
            Event::Goodbye { child, parent } => self.close_channel(child, parent),
            Event::Stop { host } => self.stop(host),
            Event::Cut => self.cut(),
            Event::Heal { host } => self.heal(host),
            Event::OriginUnreached { peer, lease } => self.fetch_in_vain(peer, lease),
            Event::Stored { peer, piece } => self.store(peer, piece),
            Event::Message { to, from, connection, message } => {
                if connection == self.connection(from, to.host) {
                    self.message(to, from, message);
                }
            }
            Event::Announce { peer, piece } => self.announce(peer, piece),
            Event::Have { to, from, piece } => self.tell(to, from, piece),
            Event::Arriving { to, from } => {
                for peer in self.peers_of(to) {
                    self.download(peer, DownloadInput::Arriving { neighbor: NeighborId(from) });
                }
            }
            Event::Arrived { from, block } => self.arrived(from, block),
            Event::Sent { from, to, connection, bytes } => {
                if connection == self.connection(from, to) {
                    self.upload(from, UploadInput::BlockSent { link: LinkId(to), bytes });
                }
            }
            Event::UplinkFree { host } => {
                self.hosts[host as usize].uplink.finish();
                self.transmit(host);
            }
            Event::Body { peer, lease, part } => self.body(peer, lease, part),
            Event::OriginFree => {
                self.is_origin_busy = false;
                self.serve_origin();
            }
            Event::OriginReady => {
                self.origin.wake = None;
                self.serve_origin();
            }
            Event::OriginRefused { peer, lease } => self.refused(peer, lease),
            Event::Connect { host } => self.connect(host),
            Event::Want { peer } => self.want(peer),
            Event::OriginHead { peer, upto } => self.resolved(peer, upto),
            Event::Progress { host } => self.report_progress(host),
            Event::LeaseExpired { host, lease } => self.lease_expired(host, lease),
            Event::Linked { child, parent } => self.linked(child, parent),
            Event::Lie { host } => self.lie(host),
            Event::Bereft { host } => self.bereft(host),
            Event::ToScheduler { life, input } => self.run_scheduler(life, *input),
            Event::ToAgent { host, life, message } => self.hear(host, life, *message),
            Event::SchedulerWake { life } => {
                self.scheduler.wake = None;
                self.run_scheduler(life, Input::Tick);
            }
            Event::SchedulerDown => self.lose_scheduler(),
            Event::SchedulerUp => self.regain_scheduler(),
            Event::DownloadWake { peer } => {
                self.peer_mut(peer).wake = None;
                self.download(peer, DownloadInput::Tick);
            }
            Event::UploadWake { host } => {
                self.hosts[host as usize].upload_wake = None;
                self.drain_upload(host);
            }
        }
    }

    fn start(&mut self, host: u32) {
        if self.hosts[host as usize].is_gone() {
            return;
        }
        self.hosts[host as usize].is_up = true;
        self.connect(host);
        for peer in self.peers_of(host) {
            self.download(peer, DownloadInput::Tick);
        }
        self.report_progress(host);
        self.begin_to_lie(host);
    }

    fn message(&mut self, to: PeerId, from: u32, message: Message) {
        if !self.hosts[from as usize].is_up {
            return;
        }
        let (link, channel, neighbor) = (LinkId(from), to.task, NeighborId(from));
        match message {
            Message::Request { piece, start, end } => {
                if !self.lie_about_request(to, from, piece) {
                    self.upload(to.host, UploadInput::Request { link, channel, piece, blocks: start..end });
                }
            }
            Message::Cancel { piece } => {
                self.forgive(to, from, piece);
                self.upload(to.host, UploadInput::Cancel { link, channel, piece });
            }
            Message::Gone { piece } => self.download(to, DownloadInput::Gone { neighbor, piece }),
            Message::Queued { piece } => self.download(to, DownloadInput::Queued { neighbor, piece }),
            Message::Granted { blocks, millis } => {
                let until = Duration::from_millis(u64::from(millis));
                self.download(to, DownloadInput::Granted { neighbor, blocks, until });
            }
        }
    }

    fn arrived(&mut self, from: u32, transmission: Transmission) {
        let Transmission { to, piece, block, .. } = transmission;
        let (is_up, now) = (self.hosts[to.host as usize].is_up, self.clock.now());
        let is_connected = self.is_of_this_connection(from, &transmission);
        let peer = self.peer_mut(to);
        if !is_up || !is_connected || peer.parents.get(&from) != Some(&true) {
            return;
        }
        if transmission.is_wrong {
            self.refuse_block(from, transmission);
            return;
        }
        let is_wanted = peer.download.is_block_wanted(piece, block);
        let is_new = is_wanted && !peer.has_block(piece, block);
        let is_whole = is_new && peer.write(now, piece, block);
        self.download(to, DownloadInput::BlockIn { neighbor: NeighborId(from), piece, block });
        if is_new {
            self.write(to, piece, transmission.bytes, is_whole);
        }
    }

    /// A block goes to the disk, and its piece is stored with the last.
    pub(crate) fn write(&mut self, at: PeerId, piece: PieceIndex, bytes: u32, is_last: bool) {
        let now = self.clock.now();
        let Host { disk, downlink, .. } = &mut self.hosts[at.host as usize];
        let written_at = disk.write(now, bytes);
        downlink.stop_until(disk.has_room_at());
        if is_last && written_at > now {
            self.clock.push(written_at, Event::Stored { peer: at, piece });
        } else if is_last {
            self.store(at, piece);
        }
    }

    fn store(&mut self, at: PeerId, piece: PieceIndex) {
        if !self.hosts[at.host as usize].is_up || self.loses_write(at, piece) {
            return;
        }
        self.stored.insert(at, piece);
        self.download(at, DownloadInput::PieceStored { piece });
    }

    /// The parts of one host in all tasks.
    pub(crate) fn peers_of(&self, host: u32) -> impl Iterator<Item = PeerId> + use<> {
        (0..self.task_count).map(move |task| PeerId { host, task })
    }

    fn peer_index(&self, id: PeerId) -> usize {
        id.host as usize * usize::from(self.task_count) + usize::from(id.task)
    }

    pub(crate) fn peer(&self, id: PeerId) -> &Peer {
        &self.peers[self.peer_index(id)]
    }

    pub(crate) fn peer_mut(&mut self, id: PeerId) -> &mut Peer {
        let index = self.peer_index(id);
        &mut self.peers[index]
    }

    fn note_event(&mut self, at: Instant, host: Option<u32>) {
        // FNV-1a over what tells runs apart.
        for word in [at.as_nanos(), host.map_or(u64::MAX, u64::from)] {
            self.trace = (self.trace ^ word).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// One way between two hosts.
    pub(crate) fn latency(&self, from: u32, to: u32) -> Duration {
        self.scenario.latency + self.borders.latency(from, to)
    }

    pub(crate) fn draw_duration(&mut self, below: Duration) -> Duration {
        Duration::from_nanos(self.draws.below(u64::try_from(below.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Where everybody stands, for the message of a failure.
    fn state(&self) -> String {
        let ids = (0..self.scenario.hosts).flat_map(|host| self.peers_of(host));
        let is_left = |id: &PeerId| {
            let host = &self.hosts[id.host as usize];
            host.is_up && host.liar.is_none() && self.peer(*id).done_at.is_none()
        };
        let line = |id: PeerId| format!("{id:?}: {:?}", self.peer(id).download.progress());
        ids.filter(is_left).map(line).take(5).collect::<Vec<_>>().join("\n")
    }

    pub(crate) const fn event_count(&self) -> u64 {
        self.events
    }

    pub(crate) const fn trace(&self) -> u64 {
        self.trace
    }
}
