//! When to go to the origin, for what, and under which right.
//!
//! Pieces that no neighbor has come from the origin, each through one host of the swarm: the scheduler leases ranges
//! in index order. A host asks for a lease when its current one is nearly done and such pieces remain, never when
//! neighbors can give everything.
//!
//! Without a scheduler nobody says who fetches what, so few should fetch at all. Whoever held a lease goes on, piece by
//! piece, within the allowance that it was given before; all others wait, and as long as pieces that nobody had turn
//! up they wait on. Where none turns up for a while, whose wait ends first goes on. (Simulated, 50 hosts at 62 Mbit/s,
//! 256 MiB, scheduler away for the middle third: when all began after 2-4 s, with 4 MiB each, a third of what they
//! fetched was fetched by others too.)

use alloc::vec::Vec;
use core::time::Duration;

use hawker_proto::{ByteRange, Instant, PieceIndex, Stripes};

use super::meter::RateMeter;
use super::{Download, DownloadOutput, LeaseId, OriginOutcome};
use crate::DownloadConfig;
use crate::rng::Rng;

/// Shortest wait for another host's pieces, while no scheduler is there and some host was fetching; the longest is
/// twice as long.
const QUIET_MIN: Duration = Duration::from_millis(500);
/// ... and not shorter than so many pieces take at this host's rate: eight may be on their way at the same time.
const QUIET_PIECES: u64 = 16;

#[derive(Debug)]
pub(super) struct Origin {
    pub(super) fetches: Vec<Fetch>,
    /// A question that is not answered yet.
    asked_at: Option<Instant>,
    /// What the question says that this host starves for.
    named: Option<PieceIndex>,
    /// Such a piece was leased to this host: others lied, and more of what they claim may be nowhere. It does not wait for
    /// long any more.
    is_lied_to: bool,
    /// Not asked before this.
    retry_at: Instant,
    is_connected: bool,
    /// The origin refused this host.
    pub(super) is_refused: bool,
    /// Without a scheduler: when to start to originate.
    away_until: Option<Instant>,
    /// Without a scheduler: this host is one of those that fetch.
    is_originating: bool,
    /// Pieces that nobody had at the last look.
    orphans_seen: u32,
    pub(super) allowance: u64,
    pub(super) allowance_used: u64,
    pub(super) own_serial: u64,
    meter: RateMeter,
    /// Best rate seen from the origin: what a direct download would give.
    pub(super) direct_rate: u64,
    pub(super) bytes: u64,
    rng: Rng,
}

/// A range on its way from the origin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fetch {
    lease: LeaseId,
    range: ByteRange,
    /// First byte that is still to come.
    upto: u64,
    /// Told to stop.
    is_stopped: bool,
}

impl Origin {
    pub(super) fn new(config: &DownloadConfig, seed: u64, now: Instant) -> Self {
        Self {
            fetches: Vec::new(),
            asked_at: None,
            named: None,
            is_lied_to: false,
            retry_at: now + config.start_patience,
            is_connected: true,
            is_refused: false,
            away_until: None,
            is_originating: false,
            orphans_seen: 0,
            allowance: 0,
            allowance_used: 0,
            own_serial: 0,
            meter: RateMeter::new(now),
            direct_rate: 0,
            bytes: 0,
            rng: Rng::new(seed),
        }
    }

    /// Bytes still to come from the fetches that run.
    fn remaining(&self) -> u64 {
        self.fetches.iter().map(|fetch| fetch.range.end() - fetch.upto).sum()
    }

    /// Whether the fetches that run end within `ahead` at the measured rate.
    fn is_nearly_done(&self, ahead: Duration) -> bool {
        self.meter
            .bytes_per_s()
            .is_some_and(|rate| u128::from(self.remaining()) * 1000 <= u128::from(rate) * ahead.as_millis())
    }
}

impl Download {
    /// Asks for a lease or starts a fetch, when one of the rules above says so.
    pub(super) fn go_to_origin(&mut self) {
        if self.origin.is_refused || self.is_complete || self.now < self.origin.retry_at {
            return;
        }
        if self.origin.is_connected {
            if self.origin.asked_at.is_none() && (self.wants_lease() || self.is_slower_than_direct()) {
                self.ask_lease();
            }
        } else {
            self.watch_others();
            if self.origin.away_until.is_some_and(|until| until <= self.now) && self.origin.fetches.is_empty() {
                self.originate();
            }
        }
    }

    /// Somebody fetches what nobody had: there is no need for one more.
    fn watch_others(&mut self) {
        let orphans = self.pieces.orphans().len();
        let is_found = orphans < self.origin.orphans_seen;
        self.origin.orphans_seen = orphans;
        if is_found && !self.origin.is_originating {
            let until = self.now + self.jittered(self.quiet());
            self.origin.away_until = self.origin.away_until.max(Some(until));
            self.wake(until);
        }
    }

    fn quiet(&self) -> Duration {
        let bytes = u64::from(self.pieces.geometry().piece_bytes()) * QUIET_PIECES;
        let rate = self.rate.bytes_per_s().unwrap_or(0).max(1);
        Duration::from_millis(bytes.saturating_mul(1000) / rate)
            .clamp(QUIET_MIN, self.config.away_wait_min.max(QUIET_MIN))
    }

    /// Between `wait` and twice as long.
    pub(super) fn jittered(&mut self, wait: Duration) -> Duration {
        let millis = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1);
        wait + Duration::from_millis(u64::from(self.origin.rng.below(millis)))
    }

    /// What was refused to earlier credentials, and when to ask again, holds no longer.
    pub(super) fn admitted(&mut self) {
        if self.origin.is_refused {
            self.origin.is_refused = false;
            self.origin.retry_at = self.now;
        }
    }

    fn wants_lease(&self) -> bool {
        let fetches = self.origin.fetches.len();
        if self.pieces.orphans().len() == 0 {
            return false;
        }
        if self.neighbors.is_empty() {
            return fetches < self.config.leases_alone_max;
        }
        fetches == 0 || (fetches < self.config.leases_max && self.origin.is_nearly_done(self.config.lease_ahead))
    }

    fn ask_lease(&mut self) {
        let piece_bytes = u64::from(self.pieces.geometry().piece_bytes());
        let own_rate = if self.purchase.source_rate.is_none() { self.rate.bytes_per_s() } else { None };
        let rate = self.origin.meter.bytes_per_s().or(own_rate).unwrap_or(0);
        let ahead_ms = u64::try_from(self.config.lease_ahead.as_millis()).unwrap_or(u64::MAX);
        let ahead = (rate / 1000).saturating_mul(ahead_ms);
        let lacked = u64::from(self.pieces.orphans().len().max(1)) * piece_bytes;
        let bytes = ahead.clamp(self.config.lease_bytes_min, self.config.lease_bytes_max).min(lacked);
        let mut bytes = bytes.next_multiple_of(piece_bytes);
        self.origin.asked_at = Some(self.now);
        self.wake(self.now + self.config.ask_patience);
        let source_rate = self.purchase.source_rate;
        let starves = source_rate.is_none() && (self.is_dry() || self.origin.is_lied_to);
        let lacked = if starves { self.random_orphan() } else { None };
        if let Some(piece) = lacked {
            // One piece, for this may be an accident.
            let count_max = if self.origin.is_lied_to { bytes / piece_bytes } else { 1 };
            bytes = self.orphans_in_a_row(piece, count_max) * piece_bytes;
        }
        self.origin.named = lacked;
        self.outputs.push_back(DownloadOutput::AskLease { bytes, rate, source_rate, lacked });
    }

    pub(super) fn lease(&mut self, lease: LeaseId, range: ByteRange) {
        self.origin.asked_at = None;
        let starts_at = |piece| self.pieces.bytes_of(piece, piece).start() == range.start();
        self.origin.is_lied_to |= self.origin.named.is_some_and(starts_at);
        let is_known = self.origin.fetches.iter().any(|fetch| fetch.lease == lease);
        if lease.is_own() || is_known || self.origin.is_refused {
            return;
        }
        match self.claim(range, self.purchase.source_rate.is_some()) {
            Some(range) => {
                self.origin.fetches.push(Fetch { lease, range, upto: range.start(), is_stopped: false });
                self.outputs.push_back(DownloadOutput::FetchOrigin { lease, range });
            }
            None => {
                // The scheduler finds out where these pieces are; asking again at once would give us the same. But of a sale
                // it gives us the next.
                if self.purchase.source_rate.is_none() {
                    self.not_before(self.now + self.config.return_pause);
                }
                self.outputs.push_back(DownloadOutput::ReturnLease { lease, range });
            }
        }
    }

    /// The smallest range within `range` that holds all of its pieces that are worth fetching; they are ours now. With
    /// `is_sale`, what neighbors have is not, and what a slow source began to send is: it is sold but once, and whoever
    /// sent it back would wait for the source.
    fn claim(&mut self, range: ByteRange, is_sale: bool) -> Option<ByteRange> {
        let pieces = self.pieces.geometry().pieces_within(range);
        let pieces = pieces.start..pieces.end.min(self.pieces.geometry().piece_count());
        let mut ends: Option<(PieceIndex, PieceIndex)> = None;
        // To whom nothing comes, nothing is on its way: blocks that are here come again, for a fetch is of whole pieces.
        let is_slow = is_sale || self.is_dry();
        for piece in pieces.map(PieceIndex) {
            let is_on_its_way = self.pieces.find(piece).is_some_and(|active| {
                active.received == active.all || !is_slow && active.received | active.assigned != 0
            });
            let is_bought_by_others = is_sale && self.pieces.is_given(piece);
            let is_needless = is_on_its_way || is_bought_by_others;
            if self.pieces.have().contains(piece) || self.pieces.is_claimed(piece) || is_needless {
                continue;
            }
            self.cancel_everywhere(piece, u64::MAX);
            self.pieces.lose(piece);
            self.pieces.set_claimed(piece, true);
            ends = Some((ends.map_or(piece, |(first, _)| first), piece));
        }
        if !self.cancels.is_empty() {
            self.fill();
        }
        ends.map(|(first, last)| self.pieces.bytes_of(first, last))
    }

    pub(super) fn no_lease(&mut self, retry_after: Duration) {
        self.origin.asked_at = None;
        self.purchase_refused();
        self.not_before(self.now + retry_after);
    }

    fn not_before(&mut self, at: Instant) {
        self.origin.retry_at = self.origin.retry_at.max(at);
        self.wake(at);
    }

    pub(super) fn origin_progress(&mut self, lease: LeaseId, upto: u64) {
        let now = self.now;
        let Some(fetch) = self.origin.fetches.iter_mut().find(|fetch| fetch.lease == lease) else { return };
        let upto = upto.clamp(fetch.upto, fetch.range.end());
        let bytes = upto - fetch.upto;
        fetch.upto = upto;
        self.origin.bytes += bytes;
        self.moved_at = now;
        self.origin.meter.add(now, bytes);
        self.origin.direct_rate = self.origin.direct_rate.max(self.origin.meter.bytes_per_s().unwrap_or(0));
        self.rate.add(now, bytes);
    }

    pub(super) fn origin_ended(&mut self, lease: LeaseId, outcome: OriginOutcome) {
        let Some(index) = self.origin.fetches.iter().position(|fetch| fetch.lease == lease) else { return };
        if outcome == OriginOutcome::Complete {
            self.origin_progress(lease, u64::MAX);
        }
        let fetch = self.origin.fetches.remove(index);
        if fetch.lease.is_own() {
            self.origin.allowance_used -= fetch.range.end() - fetch.upto;
        }
        // Pieces that arrived are stored soon, or reported lost; the rest is anybody's again.
        let rest = ByteRange::new(fetch.upto, fetch.range.end()).unwrap_or_default();
        let geometry = self.pieces.geometry();
        let first_cut = geometry.block_at(fetch.upto).map_or(geometry.piece_count(), |(piece, _)| piece.0);
        let pieces = first_cut..geometry.pieces_within(rest).end.max(first_cut);
        for piece in pieces.map(PieceIndex).filter(|piece| !rest.is_empty() && geometry.has_piece(*piece)) {
            if self.pieces.is_claimed(piece) {
                self.pieces.set_claimed(piece, false);
                self.make_useful(piece);
            }
        }
        match outcome {
            OriginOutcome::Complete => self.stay_alive(false),
            OriginOutcome::Failed { retry_after } => self.not_before(self.now + retry_after),
            OriginOutcome::Refused => self.origin.is_refused = true,
        }
    }

    /// A neighbor has a piece of a fetch that runs. When neighbors have all that is left of it, somebody else was
    /// given the same range (ours was slow): the origin need not send it twice.
    pub(super) fn stop_needless_fetch(&mut self, piece: PieceIndex) {
        let geometry = self.pieces.geometry();
        let start = geometry.piece_range(piece).start();
        let found = self
            .origin
            .fetches
            .iter()
            .position(|fetch| !fetch.is_stopped && fetch.range.start() <= start && start < fetch.range.end());
        let Some(index) = found else { return };
        let fetch = self.origin.fetches[index];
        let Some((first, _)) = geometry.block_at(fetch.upto) else { return };
        let (Some((last, _)), true) = (geometry.block_at(fetch.range.end() - 1), fetch.upto < fetch.range.end()) else {
            return;
        };
        let is_given = |piece: PieceIndex| self.pieces.have().contains(piece) || self.pieces.is_given(piece);
        if last.0 > first.0 && (first.0..=last.0).map(PieceIndex).all(is_given) {
            self.origin.fetches[index].is_stopped = true;
            self.outputs.push_back(DownloadOutput::StopOrigin { lease: fetch.lease });
        }
    }

    /// Nothing is left to fetch.
    pub(super) fn stop_fetches(&mut self) {
        for fetch in self.origin.fetches.iter_mut().filter(|fetch| !fetch.is_stopped && fetch.upto < fetch.range.end())
        {
            fetch.is_stopped = true;
            self.outputs.push_back(DownloadOutput::StopOrigin { lease: fetch.lease });
        }
    }

    pub(super) fn scheduler(&mut self, is_connected: bool) {
        if self.origin.is_connected == is_connected {
            return;
        }
        self.origin.is_connected = is_connected;
        self.origin.is_lied_to = false;
        if is_connected {
            // It says anew who imports what, and perhaps not to this host.
            self.import(Stripes::NONE);
        }
        self.origin.asked_at = None;
        self.stop_buying();
        self.origin.away_until = None;
        self.origin.is_originating = !is_connected && !self.origin.fetches.is_empty();
        self.origin.orphans_seen = self.pieces.orphans().len();
        if !is_connected {
            let is_holder = self.origin.is_originating;
            let until = if is_holder { self.now } else { self.now + self.jittered(self.config.away_wait_min) };
            self.origin.away_until = Some(until);
            self.wake(until);
        }
    }

    /// Fetches a piece that nobody has, under the allowance: a random one, because others do the same without asking
    /// each other, and two should rarely fetch the same; one at a time, because others see it only when it is here.
    fn originate(&mut self) {
        let left = self.origin.allowance.saturating_sub(self.origin.allowance_used);
        let piece_bytes = u64::from(self.pieces.geometry().piece_bytes());
        if left < piece_bytes {
            return;
        }
        let Some(piece) = self.random_orphan() else { return };
        self.origin.is_originating = self.buy(piece);
    }

    /// How many pieces from `first` on only the origin has, up to `count_max`.
    fn orphans_in_a_row(&self, first: PieceIndex, count_max: u64) -> u64 {
        let pieces = (first.0..self.pieces.geometry().piece_count()).map(PieceIndex);
        let run = pieces.take_while(|piece| self.pieces.orphans().contains(*piece));
        run.zip(0..count_max).fold(0, |count, _| count + 1)
    }

    fn random_orphan(&mut self) -> Option<PieceIndex> {
        let orphans = self.pieces.orphans();
        let count = orphans.len();
        if count == 0 {
            return None;
        }
        let nth = self.origin.rng.below(count);
        orphans.iter().nth(nth as usize)
    }

    /// Fetches one piece under the allowance; false when it is here or on its way.
    pub(super) fn buy(&mut self, piece: PieceIndex) -> bool {
        let Some(range) = self.claim(self.pieces.bytes_of(piece, piece), false) else { return false };
        self.origin.own_serial += 1;
        let lease = LeaseId::own(self.origin.own_serial);
        self.origin.allowance_used += range.length();
        self.origin.fetches.push(Fetch { lease, range, upto: range.start(), is_stopped: false });
        self.outputs.push_back(DownloadOutput::Originate { lease, range });
        true
    }

    pub(super) fn expire_origin(&mut self) {
        if let Some(asked_at) = self.origin.asked_at {
            let at = asked_at + self.config.ask_patience;
            if at <= self.now {
                self.origin.asked_at = None;
            } else {
                self.wake(at);
            }
        }
        let timers = [Some(self.origin.retry_at), self.origin.away_until];
        let now = self.now;
        timers.into_iter().flatten().filter(|at| *at > now).for_each(|at| self.wake(at));
    }

    /// # Panics
    /// On a bug of this crate.
    pub(super) fn assert_origin_invariants(&self) {
        for fetch in &self.origin.fetches {
            assert!(fetch.range.start() <= fetch.upto && fetch.upto <= fetch.range.end());
            assert!(fetch.range.end() <= self.pieces.geometry().length());
        }
        assert!(!(self.origin.is_connected && self.origin.away_until.is_some()));
        assert!(self.origin.allowance_used <= self.origin.allowance || self.origin.own_serial > 0);
    }
}
