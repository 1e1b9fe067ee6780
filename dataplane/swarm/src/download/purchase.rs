//! Never slower than direct: when the origin is faster than the hosts that have everything, pieces are bought from it.
//!
//! One slow host that has the task would otherwise hold up all others, since nobody goes to the origin for what a
//! neighbor has. A host cannot see how fast the origin would be, unless it fetched from it before; the scheduler knows,
//! or lets one host fetch a little to learn it. So the host says what all hosts around it draw from those sources
//! together, and the scheduler sells, each piece once, if the origin is faster. What was bought spreads like anything
//! else.

use core::time::Duration;

use hawker_proto::Instant;

use super::Download;

/// Shortest time for which the sources must be the slower ones before anything is bought.
const PATIENCE: Duration = Duration::from_millis(50);
/// ... and this part of the time of a direct download, where its rate is known.
const PATIENCE_PARTS: u64 = 20;
/// How often they are compared: at first, and after refusals in a row, each of which doubles it.
const COMPARE_MIN: Duration = Duration::from_millis(50);
const COMPARE_MAX: Duration = Duration::from_secs(10);
/// Below this part of the direct rate the sources are slower.
const SLOWER_PERCENT: u128 = 95;

#[derive(Debug)]
pub(super) struct Purchase {
    /// What was left to draw from the sources, and when: a rate since then is that of all hosts together.
    watch: Option<Watch>,
    compare_at: Instant,
    compare_every: Duration,
    /// Buys what only the sources have. The rate, in bytes/s, is theirs before anything was bought.
    pub(super) source_rate: Option<u64>,
}

/// The start of a measurement.
#[derive(Clone, Copy, Debug)]
struct Watch {
    since: Instant,
    sources: u8,
    scarce: u32,
}

impl Purchase {
    pub(super) const fn new(now: Instant) -> Self {
        Self { watch: None, compare_at: now, compare_every: COMPARE_MIN, source_rate: None }
    }
}

impl Download {
    /// Whether what the origin could give is worth asking for, although neighbors have everything.
    pub(super) fn is_slower_than_direct(&mut self) -> bool {
        let purchase = &self.purchase;
        if purchase.source_rate.is_some() || self.now < purchase.compare_at {
            return false;
        }
        self.purchase.compare_at = self.now + purchase.compare_every;
        let sources = self.sources();
        let (scarce, common) = self.pieces.count_lacked(sources);
        // While most can be had from others too, sources hold nobody up.
        if sources == 0 || scarce <= common || !self.origin.fetches.is_empty() {
            self.purchase.watch = None;
            return false;
        }
        self.wake(self.purchase.compare_at);
        let watch = match self.purchase.watch.filter(|watch| watch.sources == sources && scarce <= watch.scarce) {
            Some(watch) => watch,
            None => *self.purchase.watch.insert(Watch { since: self.now, sources, scarce }),
        };
        let direct = self.origin.direct_rate;
        let length = u128::from(self.pieces.geometry().length());
        let expected_ms = length * 1000 / u128::from(direct.max(1)) / u128::from(PATIENCE_PARTS);
        let expected =
            Duration::from_millis(if direct > 0 { u64::try_from(expected_ms).unwrap_or(u64::MAX) } else { 0 });
        let elapsed = self.now.since(watch.since);
        if elapsed < PATIENCE.max(expected) {
            return false;
        }
        // A piece per host may be on its way, and counts as if it were here: too early is worse than a little late.
        let drawn = u64::from(watch.scarce - scarce) + self.neighbors.len() as u64 + 1 - u64::from(sources);
        let bytes = u128::from(drawn) * u128::from(self.pieces.geometry().piece_bytes());
        let rate = u64::try_from(bytes * 1_000_000_000 / elapsed.as_nanos().max(1)).unwrap_or(u64::MAX);
        let is_slower = direct == 0 || u128::from(rate) * 100 < u128::from(direct) * SLOWER_PERCENT;
        if is_slower {
            self.start_buying(rate);
        }
        is_slower
    }

    /// Neighbors that have everything.
    fn sources(&self) -> u8 {
        let piece_count = self.pieces.geometry().piece_count();
        let count = self.neighbors.iter().filter(|neighbor| neighbor.has_all(piece_count)).count();
        u8::try_from(count).unwrap_or(u8::MAX)
    }

    /// From now on the sources count for nothing: what only they have is asked for as if nobody had it.
    fn start_buying(&mut self, source_rate: u64) {
        let piece_count = self.pieces.geometry().piece_count();
        for neighbor in &mut self.neighbors {
            neighbor.is_ignored = neighbor.has_all(piece_count);
        }
        self.pieces.ignore(self.sources());
        (self.purchase.source_rate, self.purchase.watch) = (Some(source_rate), None);
    }

    pub(super) fn stop_buying(&mut self) {
        if self.purchase.source_rate.take().is_some() {
            self.neighbors.iter_mut().for_each(|neighbor| neighbor.is_ignored = false);
            self.pieces.ignore(0);
        }
    }

    /// Nothing is sold now.
    pub(super) fn purchase_refused(&mut self) {
        if self.purchase.source_rate.is_some() {
            self.stop_buying();
            self.purchase.compare_every = (self.purchase.compare_every * 2).min(COMPARE_MAX);
            self.purchase.compare_at = self.now + self.purchase.compare_every;
        }
    }

    /// Looks at the timer of a comparison.
    pub(super) fn expire_purchase(&mut self) {
        if self.purchase.watch.is_some() && self.purchase.compare_at > self.now {
            self.wake(self.purchase.compare_at);
        }
    }
}
