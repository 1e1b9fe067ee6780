//! The event loop: what happens, in the order of its time, and whom it concerns.

use std::time::Duration;

use hawker_proto::{ByteRange, Instant, PieceIndex, PieceMap};
use hawker_swarm::{DownloadInput, LeaseId, LinkId, NeighborId, OriginOutcome, UploadInput};

use crate::clock::{Clock, Draws};
use crate::host::Host;
use crate::leases::{Answer, Leases};
use crate::network::Transmission;
use crate::origin::Origin;
use crate::report::{one_download, ratio};
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
    pub(crate) leases: Leases,
    pub(crate) unfinished: u32,
    pub(crate) grants: u64,
    pub(crate) messages: u64,
    events: u64,
}

#[derive(Clone, Copy)]
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
    /// The host asks for a lease, and has the answer.
    Ask {
        host: u32,
        bytes: u64,
    },
    Answered {
        host: u32,
        answer: Answer,
    },
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
            | Self::Sent { from: host, .. }
            | Self::Body { host, .. }
            | Self::Answered { host, .. }
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
        link_up(&mut hosts, scenario.degree, &mut draws);
        let expected = one_download(scenario);
        for host in 0..scenario.deaths.min(scenario.hosts) {
            let at = Instant::ZERO + expected / 4 + expected / 2 * host / scenario.deaths;
            clock.push(at, Event::Die { host });
        }
        Self {
            scenario,
            clock,
            draws,
            hosts,
            origin: Origin::new(),
            is_origin_busy: false,
            leases: Leases::new(scenario.geometry, scenario.origin_leases_max),
            unfinished: scenario.hosts,
            grants: 0,
            messages: 0,
            events: 0,
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
            self.step(entry.event);
            if let Some(host) = host.filter(|_| self.events.is_multiple_of(CHECK_EVERY)) {
                self.hosts[host as usize].download.assert_invariants();
                self.hosts[host as usize].upload.assert_invariants();
            }
        }
        self.report()
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Start { host } => self.start(host),
            Event::Die { host } => self.die(host),
            Event::Message { to, from, message } => self.message(to, from, message),
            Event::Announce { host, piece } => self.announce(host, piece),
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
            Event::Ask { host, bytes } => {
                self.leases.ask(host, bytes);
                self.answer_asks();
            }
            Event::Answered { host, answer } => self.answered(host, answer),
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

    /// Links to those neighbors that are up already, both ways.
    fn start(&mut self, host: u32) {
        self.hosts[host as usize].is_up = true;
        let round_trip = self.scenario.latency * 2;
        for index in 0..self.hosts[host as usize].neighbors.len() {
            let other = self.hosts[host as usize].neighbors[index];
            if !self.hosts[other as usize].is_up {
                continue;
            }
            for (child, parent) in [(host, other), (other, host)] {
                self.upload(parent, UploadInput::LinkUp { link: LinkId(child) });
                self.download(child, DownloadInput::NeighborUp { neighbor: NeighborId(parent), round_trip });
                for piece in (0..self.scenario.geometry.piece_count()).map(PieceIndex) {
                    if self.hosts[parent as usize].download.has_piece(piece) {
                        self.tell(child, parent, piece);
                    }
                }
            }
        }
        self.download(host, DownloadInput::Tick);
    }

    fn die(&mut self, host: u32) {
        let is_unfinished = self.hosts[host as usize].done_at.is_none();
        self.unfinished -= u32::from(is_unfinished);
        self.hosts[host as usize].is_up = false;
        self.hosts[host as usize].uplink.cut();
        for lease in self.origin.of_host(host) {
            self.origin.close(host, lease);
            self.end_lease(lease, ByteRange::default());
        }
        self.lease_again();
        let neighbors = core::mem::take(&mut self.hosts[host as usize].neighbors);
        for other in neighbors {
            self.upload(other, UploadInput::LinkDown { link: LinkId(host) });
            self.download(other, DownloadInput::NeighborDown { neighbor: NeighborId(host) });
        }
    }

    /// What was leased and is with nobody who lives is leased again.
    pub(crate) fn lease_again(&mut self) {
        let geometry = self.scenario.geometry;
        let mut kept = PieceMap::empty(geometry.piece_count());
        for host in self.hosts.iter().filter(|host| host.is_up) {
            for piece in (0..geometry.piece_count()).map(PieceIndex) {
                if host.download.has_piece(piece) {
                    kept.insert(piece);
                }
            }
        }
        self.leases.reclaim(kept);
        self.answer_asks();
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
        for index in 0..self.hosts[host as usize].neighbors.len() {
            let other = self.hosts[host as usize].neighbors[index];
            if self.hosts[other as usize].is_up {
                self.messages += 1;
                self.tell(other, host, piece);
            }
        }
    }

    /// `host` learns that `neighbor` has the piece, with its record the first time.
    fn tell(&mut self, host: u32, neighbor: u32, piece: PieceIndex) {
        if self.hosts[host as usize].recorded.insert(piece) {
            self.download(host, DownloadInput::Records { pieces: vec![piece] });
        }
        self.download(host, DownloadInput::HavePiece { neighbor: NeighborId(neighbor), piece });
    }

    fn arrived(&mut self, from: u32, block: Transmission) {
        let host = &mut self.hosts[block.to as usize];
        if !host.is_up {
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
        self.download(host, DownloadInput::OriginProgress { lease, upto: part.end() });
        if is_whole {
            self.download(host, DownloadInput::PieceStored { piece });
        }
        if get.upto == get.range.end() {
            self.end_lease(lease, ByteRange::default());
            self.download(host, DownloadInput::OriginEnded { lease, outcome: OriginOutcome::Complete });
        }
        self.serve_origin();
    }

    pub(crate) fn end_lease(&mut self, lease: LeaseId, rest: ByteRange) {
        if !lease.is_own() {
            self.leases.end(lease, rest);
            self.answer_asks();
        }
    }

    fn answer_asks(&mut self) {
        while let Some((host, answer)) = self.leases.poll() {
            self.clock.push(self.clock.now() + self.scenario.latency, Event::Answered { host, answer });
        }
    }

    fn answered(&mut self, host: u32, answer: Answer) {
        match answer {
            Answer::Lease { lease, range } if self.hosts[host as usize].is_up => {
                self.download(host, DownloadInput::Lease { lease, range });
            }
            Answer::Lease { lease, range } => self.end_lease(lease, range),
            Answer::NoLease { retry_after } => self.download(host, DownloadInput::NoLease { retry_after }),
        }
    }

    /// Where everybody stands, for the message of a failure.
    fn state(&self) -> String {
        let line = |(index, host): (usize, &Host)| {
            (host.is_up && host.done_at.is_none()).then(|| format!("host {index}: {:?}", host.download.progress()))
        };
        self.hosts.iter().enumerate().filter_map(line).take(5).collect::<Vec<_>>().join("\n")
    }

    fn report(&self) -> Report {
        let mut times: Vec<Instant> = self.hosts.iter().filter_map(|host| host.done_at).collect();
        times.sort_unstable();
        let makespan = times.last().map_or(Duration::ZERO, |last| last.since(Instant::ZERO));
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let sum = |figure: fn(&Host) -> u64| self.hosts.iter().map(figure).sum::<u64>();
        let wasted = sum(|host| host.download.progress().bytes_wasted);
        let taken = sum(|host| host.download.progress().bytes_from_peers);
        let could = u128::from(self.scenario.up_bytes_per_s) * makespan.as_nanos() / 1_000_000_000;
        let could = u64::try_from(could).unwrap_or(u64::MAX) * u64::from(self.scenario.hosts);
        Report {
            seed: self.scenario.seed,
            complete: u32::try_from(times.len()).unwrap_or(u32::MAX),
            makespan,
            median: times.get(times.len() / 2).map_or(Duration::ZERO, |at| at.since(Instant::ZERO)),
            makespan_ratio: ratio(nanos(makespan), nanos(one_download(self.scenario))),
            origin_ratio: ratio(self.origin.bytes, self.scenario.geometry.length()),
            waste_ratio: ratio(wasted, taken + wasted),
            uplink_use: ratio(sum(|host| host.bytes_sent), could),
            grants: self.grants,
            messages: self.messages,
            events: self.events,
        }
    }
}

/// A random graph in which every host chose `degree` others, or all of them when there are no more.
fn link_up(hosts: &mut [Host], degree: u32, draws: &mut Draws) {
    let count = u32::try_from(hosts.len()).expect("hosts are counted in u32");
    let others = count.saturating_sub(1);
    for host in 0..count {
        let is_full_mesh = degree.saturating_mul(2) >= others;
        let chosen = if is_full_mesh { others } else { degree };
        let mut found = 0;
        let mut draw = |found: u32| match is_full_mesh {
            true => (host + 1 + found) % count,
            false => u32::try_from(draws.below(u64::from(count))).expect("below count"),
        };
        let mut tries = 0;
        while found < chosen && tries < degree.saturating_mul(20).max(others) {
            let other = draw(tries);
            tries += 1;
            if other != host && !hosts[host as usize].neighbors.contains(&other) {
                hosts[host as usize].neighbors.push(other);
                hosts[other as usize].neighbors.push(host);
                found += 1;
            }
        }
    }
}
