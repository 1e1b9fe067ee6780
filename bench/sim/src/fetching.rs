//! Fetches from the origin: what a host asks of it, and what its wire brings.

use std::time::Duration;

use hawker_proto::{ByteRange, PieceIndex};
use hawker_scheduler::LeaseOutcome;
use hawker_swarm::{DownloadInput, LeaseId, OriginOutcome};

use crate::event::Event;
use crate::network::time_of;
use crate::origin::Next;
use crate::peer::PeerId;
use crate::world::World;

/// What an agent waits when an origin refuses and does not say for how long.
const RETRY_AFTER: Duration = Duration::from_secs(1);

impl World<'_> {
    pub(crate) fn fetch(&mut self, at: PeerId, lease: LeaseId, range: ByteRange) {
        if self.hosts[at.host as usize].is_cut {
            return self.clock.push(self.clock.now(), Event::OriginUnreached { peer: at, lease });
        }
        self.origin.bytes_repeated += self.bytes_to_be_had(at.task, range);
        self.log_fetch(at, lease, range);
        let (now, latency) = (self.clock.now(), self.scenario.latency);
        let rate = self.scenario.origin_bytes_per_s.min(self.hosts[at.host as usize].downlink.bytes_per_s());
        let way_bytes = u128::from(rate) * latency.as_nanos() / 1_000_000_000;
        let way_bytes = u64::try_from(way_bytes).unwrap_or(u64::MAX);
        if self.origin.open(at, lease, range, now + latency, way_bytes) {
            self.assert_origin_budget();
            self.serve_origin();
        } else {
            self.clock.push(now + latency * 2, Event::OriginRefused { peer: at, lease });
        }
    }

    /// The origin answered that it serves enough already.
    pub(crate) fn refused(&mut self, at: PeerId, lease: LeaseId) {
        if self.close_fetch(at, lease).is_some() {
            self.end_lease(at.host, lease, Some(LeaseOutcome::Failed { retry_after: RETRY_AFTER }));
            let outcome = OriginOutcome::Failed { retry_after: RETRY_AFTER };
            self.download(at, DownloadInput::OriginEnded { lease, outcome });
        }
    }

    /// The origin's wire takes what is next.
    pub(crate) fn serve_origin(&mut self) {
        if self.is_origin_busy {
            return;
        }
        let now = self.clock.now();
        let (peer, lease, part, connection_time) = match self.origin.next_part(now) {
            Next::Part { peer, lease, part, time } => (peer, lease, part, time),
            Next::Later(at) => {
                if self.origin.wake.is_none_or(|wake| at < wake) {
                    self.origin.wake = Some(at);
                    self.clock.push(at, Event::OriginReady);
                }
                return;
            }
            Next::Nothing => return,
        };
        self.is_origin_busy = true;
        let bytes = u32::try_from(part.length()).expect("a block");
        let time = time_of(bytes, self.scenario.origin_bytes_per_s);
        self.origin.note_sending(now, time);
        self.clock.push(now + time, Event::OriginFree);
        let first = now + self.scenario.latency;
        let ends = [first, first + time.max(connection_time)];
        let [first, last] = self.borders.pass(None, peer.host, ends, bytes);
        let at = self.hosts[peer.host as usize].downlink.receive(first, last, bytes);
        self.clock.push(at, Event::Body { peer, lease, part });
    }

    pub(crate) fn body(&mut self, at: PeerId, lease: LeaseId, part: ByteRange) {
        let Some(get) = self.origin.arrived(at, lease, part) else { return };
        let now = self.clock.now();
        let peer = self.peer_mut(at);
        let (piece, block) = peer.geometry.block_at(part.start()).expect("within the task");
        let is_new = !peer.has_block(piece, block);
        let is_whole = is_new && peer.write(now, piece, block);
        self.hosts[at.host as usize].control.note_progress(lease, part.end());
        self.download(at, DownloadInput::OriginProgress { lease, upto: part.end() });
        if is_new {
            self.write(at, piece, u32::try_from(part.length()).expect("a block"), is_whole);
        }
        if get.upto == get.range.end() {
            self.fetch_log.end(at, lease, now, get.upto);
            self.lease_over(at.host, lease);
            self.download(at, DownloadInput::OriginEnded { lease, outcome: OriginOutcome::Complete });
        } else {
            self.break_body(at, lease);
        }
        self.serve_origin();
    }

    /// The time of a lease is over, and perhaps its fetch is not.
    pub(crate) fn lease_expired(&mut self, host: u32, lease: LeaseId) {
        let Some(task) = self.hosts[host as usize].control.task_of(lease) else { return };
        let peer = PeerId { host, task };
        if self.stop_fetch(peer, lease) {
            self.leases_cut += 1;
            self.download(peer, DownloadInput::Tick);
        }
    }

    /// Stops a fetch, and tells the download; false when it does not run.
    pub(crate) fn stop_fetch(&mut self, peer: PeerId, lease: LeaseId) -> bool {
        let Some(rest) = self.close_fetch(peer, lease) else { return false };
        assert!(!rest.is_empty(), "stopped after its end");
        self.lease_over(peer.host, lease);
        let outcome = OriginOutcome::Failed { retry_after: Duration::ZERO };
        let now = self.clock.now();
        self.peer_mut(peer).download.handle(now, DownloadInput::OriginEnded { lease, outcome });
        true
    }

    /// Ends a fetch early; what had not arrived, `None` when it does not run.
    pub(crate) fn close_fetch(&mut self, peer: PeerId, lease: LeaseId) -> Option<ByteRange> {
        let rest = self.origin.close(peer, lease)?;
        self.fetch_log.end(peer, lease, self.clock.now(), rest.start());
        Some(rest)
    }

    /// Bytes of `range` that some host that is up has, or fetches already.
    fn bytes_to_be_had(&self, task: u16, range: ByteRange) -> u64 {
        let geometry = self.scenario.tasks[usize::from(task)];
        let has = |host: u32, piece| {
            let peer = self.peer(PeerId { host, task });
            let row = &self.hosts[host as usize];
            row.is_up && row.liar.is_none() && peer.is_ready && peer.download.has_piece(piece)
        };
        let pieces = geometry.pieces_within(range).map(PieceIndex);
        let bytes = |piece: PieceIndex| {
            let range = geometry.piece_range(piece);
            let is_had = self.origin.is_fetching(task, range) || (0..self.scenario.hosts).any(|host| has(host, piece));
            if is_had { range.length() } else { 0 }
        };
        pieces.filter(|piece| self.fetch_log.has_asked(task, *piece)).map(bytes).sum()
    }
}
