//! A run over time: a bounded number of samples, at equal distances in virtual time.

use core::fmt;
use core::time::Duration;

use hawker_proto::Instant;

/// At most so many samples are kept of a run: more than a plot can show.
pub const SAMPLES_MAX: usize = 400;

/// Samples until the bound, at first. A run that takes much longer has fewer, for it is thinned out on the way.
const SAMPLES_UNTIL_BOUND: u32 = 200;

/// Where a run stands at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// Virtual time.
    pub at: Duration,
    /// Hosts that have everything.
    pub hosts_done: u32,
    /// Hosts that died before they had.
    pub hosts_dead: u32,
    /// Bytes of whole pieces that the living hosts have, over what they want; 0 to 1.
    pub share: f64,
    /// Body bytes that left the origin so far.
    pub origin_bytes: u64,
    /// Bytes that hosts accepted from each other so far.
    pub peer_bytes: u64,
    /// Events of the simulation so far.
    pub events: u64,
}

/// Takes the samples. Without one a run spends nothing on them.
pub(crate) struct Sampler<'a> {
    /// At 0, `interval`, 2 `interval` ...
    samples: Vec<Sample>,
    interval: Duration,
    /// When the next sample is due.
    pub(crate) next_at: Instant,
    observe: &'a mut dyn FnMut(&Sample),
}

impl<'a> Sampler<'a> {
    pub(crate) fn new(bound: Duration, observe: &'a mut dyn FnMut(&Sample)) -> Self {
        let interval = (bound / SAMPLES_UNTIL_BOUND).max(Duration::from_micros(1));
        Self { samples: Vec::with_capacity(SAMPLES_MAX), interval, next_at: Instant::ZERO, observe }
    }

    /// `sample` holds for all times that were due before `now`: nothing happened in between.
    pub(crate) fn take(&mut self, now: Instant, sample: &Sample) {
        while self.next_at <= now {
            let at = self.next_at.since(Instant::ZERO);
            self.samples.push(Sample { at, ..*sample });
            // One place is left for the end.
            if self.samples.len() + 1 == SAMPLES_MAX {
                let mut index = 0;
                self.samples.retain(|_| {
                    index += 1;
                    index % 2 == 1
                });
                self.interval *= 2;
            }
            self.next_at = Instant::ZERO + self.interval * u32::try_from(self.samples.len()).expect("a few hundred");
        }
        (self.observe)(sample);
    }

    /// The samples, with the last state of the run.
    pub(crate) fn end(mut self, last: Sample) -> Vec<Sample> {
        (self.observe)(&last);
        self.samples.push(last);
        self.samples
    }
}

impl fmt::Debug for Sampler<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sampler").field("samples", &self.samples.len()).field("interval", &self.interval).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Instant {
        Instant::ZERO + Duration::from_micros(micros)
    }

    #[test]
    fn long_run_keeps_few_samples_at_equal_distances() {
        let mut seen = 0;
        let mut observe = |_: &Sample| seen += 1;
        let mut sampler = Sampler::new(Duration::from_millis(1), &mut observe);
        for micros in 0..100_000 {
            if sampler.next_at <= at(micros) {
                sampler.take(at(micros), &Sample { events: micros, ..Sample::default() });
            }
        }
        let samples = sampler.end(Sample { at: Duration::from_secs(1), ..Sample::default() });
        assert!((SAMPLES_MAX / 4..=SAMPLES_MAX).contains(&samples.len()), "{}", samples.len());
        let interval = samples[1].at;
        for (index, sample) in samples[..samples.len() - 1].iter().enumerate() {
            assert_eq!(sample.at, interval * u32::try_from(index).unwrap());
            assert_eq!(u128::from(sample.events), sample.at.as_micros());
        }
        assert_eq!(samples.last().unwrap().at, Duration::from_secs(1));
        assert!(seen < 4000, "thinning makes looks rarer: {seen}");
    }

    #[test]
    fn state_is_repeated_where_nothing_happened() {
        let mut observe = |_: &Sample| {};
        let mut sampler = Sampler::new(Duration::from_millis(1), &mut observe);
        sampler.take(at(0), &Sample::default());
        sampler.take(at(12), &Sample { hosts_done: 1, ..Sample::default() });
        let samples = sampler.end(Sample { at: Duration::from_micros(13), hosts_done: 2, ..Sample::default() });
        let done: Vec<_> = samples.iter().map(|sample| (sample.at.as_micros(), sample.hosts_done)).collect();
        assert_eq!(done, [(0, 0), (5, 1), (10, 1), (13, 2)]);
    }
}
