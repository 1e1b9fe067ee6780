//! Smoothed figures: rates and times that follow what was measured last without jumping at every block.

use core::time::Duration;

use hawker_proto::Instant;

const NANOS_PER_S: u128 = 1_000_000_000;

/// Bytes per second over the last few hundred milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct RateMeter {
    bytes: u64,
    since: Instant,
    rate: Option<u64>,
}

impl RateMeter {
    /// Bytes are gathered this long before they change the rate: a block every now and then is not a rate.
    const STEP: Duration = Duration::from_millis(20);
    /// Weight of the past: a change shows to two thirds after this.
    const MEMORY: Duration = Duration::from_millis(200);

    pub(super) const fn new(now: Instant) -> Self {
        Self { bytes: 0, since: now, rate: None }
    }

    pub(super) fn add(&mut self, now: Instant, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        let elapsed = now.since(self.since);
        if elapsed < Self::STEP {
            return;
        }
        let (elapsed, memory) = (elapsed.as_nanos(), Self::MEMORY.as_nanos());
        let measured = u128::from(self.bytes) * NANOS_PER_S / elapsed;
        let rate = match self.rate {
            Some(rate) => (u128::from(rate) * memory + measured * elapsed) / (memory + elapsed),
            None => measured,
        };
        *self = Self { bytes: 0, since: now, rate: Some(u64::try_from(rate).unwrap_or(u64::MAX)) };
    }

    /// `None` until something was measured.
    pub(super) const fn bytes_per_s(&self) -> Option<u64> {
        self.rate
    }
}

/// A time smoothed like TCP's round trip (RFC 6298: 7/8 of the past).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TimeMeter {
    smoothed: Option<Duration>,
}

impl TimeMeter {
    pub(super) fn add(&mut self, sample: Duration) {
        self.smoothed = Some(self.smoothed.map_or(sample, |smoothed| smoothed * 7 / 8 + sample / 8));
    }

    pub(super) const fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }
}

/// How often something is so, smoothed over the last eight times.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Frequency {
    /// 0 never, `ONE` always.
    smoothed: u32,
}

impl Frequency {
    const ONE: u32 = 1 << 16;

    pub(super) const fn add(&mut self, is_so: bool) {
        let sample = if is_so { Self::ONE } else { 0 };
        self.smoothed = self.smoothed - self.smoothed / 8 + sample / 8;
    }

    /// More often than three times in four.
    pub(super) const fn is_common(self) -> bool {
        self.smoothed > Self::ONE / 4 * 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steady_stream_is_measured_exactly_and_a_change_is_followed() {
        let mut meter = RateMeter::new(Instant::ZERO);
        let mut now = Instant::ZERO;
        assert_eq!(meter.bytes_per_s(), None);
        let mut run = |millis: u64, bytes: u64| {
            for _ in 0..millis {
                now += Duration::from_millis(1);
                meter.add(now, bytes);
            }
            meter.bytes_per_s().unwrap()
        };
        assert_eq!(run(100, 1000), 1_000_000);
        let followed = run(1000, 3000);
        assert!((2_900_000..=3_000_000).contains(&followed), "{followed}");
    }

    #[test]
    fn what_always_happens_becomes_common_and_stops_to_be() {
        let mut frequency = Frequency::default();
        let mut add = |times: u32, is_so: bool| {
            (0..times).for_each(|_| frequency.add(is_so));
            frequency.is_common()
        };
        assert!(!add(8, true));
        assert!(add(8, true));
        assert!(!add(4, false));
    }

    #[test]
    fn time_follows_its_samples() {
        let mut meter = TimeMeter::default();
        meter.add(Duration::from_millis(80));
        assert_eq!(meter.smoothed(), Some(Duration::from_millis(80)));
        meter.add(Duration::from_millis(160));
        assert_eq!(meter.smoothed(), Some(Duration::from_millis(90)));
    }
}
