//! Sets of byte offsets.

use std::collections::BTreeMap;
use std::ops::Range;

/// Offsets as ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default)]
pub(crate) struct RangeSet(BTreeMap<u64, u64>);

impl RangeSet {
    pub(crate) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        // All that overlap or touch become one.
        while let Some((&other_start, &other_end)) = self.0.range(..=end).next_back() {
            if other_end < start {
                break;
            }
            self.0.remove(&other_start);
            start = start.min(other_start);
            end = end.max(other_end);
        }
        self.0.insert(start, end);
    }

    /// The first part of `range` that is not in the set.
    pub(crate) fn first_gap(&self, range: Range<u64>) -> Option<Range<u64>> {
        let mut start = range.start;
        if let Some((_, &end)) = self.0.range(..=start).next_back() {
            start = start.max(end);
        }
        if start >= range.end {
            return None;
        }
        let end = self.0.range(start..range.end).next().map_or(range.end, |(&next, _)| next);
        Some(start..end)
    }

    /// Every offset below this one is in the set.
    pub(crate) fn prefix(&self) -> u64 {
        self.0.get(&0).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn gaps_are_what_was_never_inserted(ranges in prop::collection::vec((0_u64..64, 0_u64..16), 0..12)) {
            let mut set = RangeSet::default();
            let mut model = [false; 80];
            for (start, length) in ranges {
                set.insert(start..start + length);
                for offset in start..start + length {
                    model[usize::try_from(offset).unwrap()] = true;
                }
            }
            prop_assert_eq!(set.prefix(), model.iter().take_while(|is_in| **is_in).count() as u64);
            // Filling gap after gap must visit exactly the offsets that are missing.
            while let Some(gap) = set.first_gap(0..80) {
                prop_assert!(!gap.is_empty());
                for offset in gap.clone() {
                    let slot = &mut model[usize::try_from(offset).unwrap()];
                    prop_assert!(!*slot);
                    *slot = true;
                }
                set.insert(gap);
            }
            prop_assert!(model.iter().all(|is_in| *is_in));
        }
    }

    #[test]
    fn gap_is_cut_to_the_range_asked_for() {
        let mut set = RangeSet::default();
        set.insert(10..20);
        assert_eq!(set.first_gap(0..15), Some(0..10));
        assert_eq!(set.first_gap(12..18), None);
        assert_eq!(set.first_gap(15..30), Some(20..30));
        assert_eq!(set.first_gap(20..20), None);
    }
}
