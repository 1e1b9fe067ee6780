//! Limits on bytes per second that hold for the whole host.
//!
//! A [`Bucket`] is shared by every thread; a [`Meter`] belongs to one and draws about 10 ms worth at a time, so that
//! threads do not write one cache line per block.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hawker_proto::{BLOCK_BYTES, Instant};

use crate::config::Rates;

/// What a meter draws at once.
const QUANTUM: Duration = Duration::from_millis(10);
/// Unused rate is kept this long: enough that a late timer loses nothing, too short to show as a burst.
const BURST: Duration = Duration::from_millis(20);

/// A rate that several threads share. Tokens may go negative: whoever draws pays the whole block at once and the next
/// waits longer, so that the average is exact whatever the block size.
#[derive(Debug)]
pub struct Bucket {
    bytes_per_s: u64,
    state: Mutex<BucketState>,
}

#[derive(Debug)]
struct BucketState {
    /// In bytes; below zero is debt.
    tokens: i64,
    filled: Instant,
}

impl Bucket {
    /// A bucket of `bytes_per_s`, which is at least 1.
    #[must_use]
    pub fn new(bytes_per_s: u64) -> Self {
        let state = BucketState { tokens: 0, filled: Instant::ZERO };
        Self { bytes_per_s: bytes_per_s.max(1), state: Mutex::new(state) }
    }

    /// Draws `bytes`, or says how long to wait before asking again.
    ///
    /// # Errors
    /// The time after which something can be drawn.
    pub fn draw(&self, now: Instant, bytes: u64) -> Result<(), Duration> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = now.since(state.filled);
        let burst = self.bytes_in(BURST).max(i64::from(BLOCK_BYTES));
        state.tokens = state.tokens.saturating_add(self.bytes_in(elapsed)).min(burst);
        state.filled = state.filled.max(now);
        if state.tokens <= 0 {
            let missing = u128::from(state.tokens.unsigned_abs() + 1);
            let nanos = missing * 1_000_000_000 / u128::from(self.bytes_per_s);
            return Err(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).max(Duration::from_micros(200)));
        }
        state.tokens = state.tokens.saturating_sub_unsigned(bytes);
        Ok(())
    }

    fn bytes_in(&self, duration: Duration) -> i64 {
        let bytes = duration.as_nanos().saturating_mul(u128::from(self.bytes_per_s)) / 1_000_000_000;
        i64::try_from(bytes).unwrap_or(i64::MAX)
    }
}

/// One thread's share of a rate.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    bucket: Option<Arc<Bucket>>,
    credit: i64,
}

impl Meter {
    /// A meter on `bucket`; without one, nothing is limited.
    #[must_use]
    pub fn new(bucket: Option<Arc<Bucket>>) -> Self {
        Self { bucket, credit: 0 }
    }

    /// Takes `bytes`, or says how long to wait before asking again.
    ///
    /// # Errors
    /// The time after which something can be taken.
    pub fn take(&mut self, now: Instant, bytes: u32) -> Result<(), Duration> {
        let Some(bucket) = &self.bucket else { return Ok(()) };
        if self.credit <= 0 {
            let quantum = u64::try_from(bucket.bytes_in(QUANTUM)).unwrap_or(0).max(u64::from(bytes));
            bucket.draw(now, quantum)?;
            self.credit = self.credit.saturating_add_unsigned(quantum);
        }
        self.credit -= i64::from(bytes);
        Ok(())
    }
}

/// Takes `bytes` from every meter, or from none.
///
/// # Errors
/// The time after which to ask again.
pub fn take_all(meters: &mut [&mut Meter], now: Instant, bytes: u32) -> Result<(), Duration> {
    for index in 0..meters.len() {
        if let Err(wait) = meters[index].take(now, bytes) {
            for paid in &mut meters[..index] {
                paid.credit += i64::from(bytes);
            }
            return Err(wait);
        }
    }
    Ok(())
}

/// The host's three limits.
#[derive(Clone, Debug, Default)]
pub struct HostRates {
    /// To peers.
    pub up: Option<Arc<Bucket>>,
    /// From anywhere.
    pub down: Option<Arc<Bucket>>,
    /// From origins.
    pub origin: Option<Arc<Bucket>>,
}

impl HostRates {
    /// Buckets for the rates that are limited.
    #[must_use]
    pub fn new(rates: Rates) -> Self {
        let bucket = |rate: Option<u64>| rate.map(|rate| Arc::new(Bucket::new(rate)));
        Self { up: bucket(rates.up), down: bucket(rates.down), origin: bucket(rates.origin) }
    }

    /// Takes `bytes` that come from an origin, which count as download too. `Some`: wait so long, then ask again.
    #[must_use]
    pub fn take_origin(&self, now: Instant, bytes: u64) -> Option<Duration> {
        // Down first: its tokens are scarcer when both are set, and debt in either is paid by the next caller.
        for bucket in [&self.down, &self.origin].into_iter().flatten() {
            if let Err(wait) = bucket.draw(now, bytes) {
                return Some(wait);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that meters on one bucket let through in ten seconds when each asks as often as it may.
    fn bytes_in_ten_seconds(rate: u64, block: u32, meters: usize) -> u64 {
        let bucket = Arc::new(Bucket::new(rate));
        let mut meters: Vec<(Meter, Instant)> =
            (0..meters).map(|_| (Meter::new(Some(Arc::clone(&bucket))), Instant::ZERO)).collect();
        let end = Instant::ZERO + Duration::from_secs(10);
        let mut total = 0;
        while let Some((meter, at)) = meters.iter_mut().min_by_key(|(_, at)| *at).filter(|(_, at)| *at < end) {
            match meter.take(*at, block) {
                Ok(()) => total += u64::from(block),
                Err(wait) => *at += wait,
            }
        }
        total
    }

    #[test]
    fn rate_holds_within_five_percent_for_any_block_and_number_of_threads() {
        for rate in [100_000, 12_500_000, 3_000_000_000] {
            for block in [1024, 65_536, BLOCK_BYTES] {
                for meters in [1, 4] {
                    let expected = rate * 10;
                    let slack = expected / 20 + 4 * u64::from(BLOCK_BYTES) * meters as u64;
                    let measured = bytes_in_ten_seconds(rate, block, meters);
                    assert!(measured.abs_diff(expected) <= slack, "{rate} {block} {meters}: {measured}");
                }
            }
        }
    }

    #[test]
    fn idle_bucket_does_not_save_up_a_burst() {
        let bucket = Bucket::new(1_000_000);
        assert!(bucket.draw(Instant::ZERO + Duration::from_secs(3600), 600_000).is_ok());
        assert!(bucket.draw(Instant::ZERO + Duration::from_secs(3600), 1).is_err());
    }

    #[test]
    fn refused_take_costs_nothing() {
        let (wide, tight) = (Arc::new(Bucket::new(1_000_000_000)), Arc::new(Bucket::new(1000)));
        let (mut wide, mut tight) = (Meter::new(Some(wide)), Meter::new(Some(tight)));
        let now = Instant::ZERO + Duration::from_secs(1);
        assert!(take_all(&mut [&mut wide, &mut tight], now, BLOCK_BYTES).is_ok());
        let credit = wide.credit;
        assert!(take_all(&mut [&mut wide, &mut tight], now, BLOCK_BYTES).is_err());
        assert_eq!(wide.credit, credit);
    }

    #[test]
    fn no_limit_lets_everything_through() {
        let mut meter = Meter::new(None);
        assert!((0..1000).all(|_| meter.take(Instant::ZERO, u32::MAX).is_ok()));
    }
}
