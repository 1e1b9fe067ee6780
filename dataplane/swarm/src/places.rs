//! What all downloads of a host hold at parents, and which of them may wait at one more.
//!
//! A parent serves few links at a time, so a host with twenty downloads must not wait in twenty times as many queues as
//! one with a single download: every queue of the swarm would be twenty times as long, and what waits there stale. So
//! the bounds of [`crate::DownloadConfig`] on places and grants are the host's, and its downloads take places in turn.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::Download;

/// What downloads hold at parents of this zone, and at remote ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Parents that serve, without slow ones.
    pub served: [u32; 2],
    /// Places in queues.
    pub queued: [u32; 2],
    /// Of these, at distant parents that have not answered yet; other shards tell nothing of theirs.
    pub unanswered: [u32; 2],
}

/// What [`Places`] knows of one download.
#[derive(Debug, Default)]
pub(crate) struct Noted {
    held: Held,
    is_listed: bool,
}

/// The places of the downloads that one shard runs; `K` names them. After the inputs of a turn the shell calls `note`
/// for every download that had any, and then `offer` until `whose_turn` has no more.
#[derive(Debug)]
pub struct Places<K> {
    /// Of all downloads here.
    held: Held,
    /// Of those that other shards of the host run.
    elsewhere: Held,
    /// Hungry downloads, in turn.
    hungry: VecDeque<K>,
    /// How many of them have not been offered a place since what is held changed.
    left: usize,
    /// Those among them for which alone something changed.
    noted: Vec<K>,
}

impl<K: Copy + Eq> Default for Places<K> {
    fn default() -> Self {
        Self { held: Held::default(), elsewhere: Held::default(), hungry: VecDeque::new(), left: 0, noted: Vec::new() }
    }
}

impl<K: Copy + Eq> Places<K> {
    /// What the downloads here hold.
    #[must_use]
    pub const fn held(&self) -> Held {
        self.held
    }

    /// What the host's other shards hold.
    pub fn set_elsewhere(&mut self, elsewhere: Held) {
        if self.elsewhere != elsewhere {
            self.elsewhere = elsewhere;
            self.left = self.hungry.len();
        }
    }

    /// The download had inputs.
    pub fn note(&mut self, key: K, download: &mut Download) {
        let is_changed = self.count(download);
        if download.is_hungry() {
            if !download.noted.is_listed {
                download.noted.is_listed = true;
                self.hungry.push_back(key);
                self.left += usize::from(is_changed);
            }
            // The others were refused, and will be again while nothing changes for them.
            if !is_changed {
                self.noted.push(key);
            }
        }
    }

    /// Counts what the download holds now; true when that changed.
    fn count(&mut self, download: &mut Download) -> bool {
        let held = download.held();
        let is_changed = held != download.noted.held;
        if is_changed {
            self.held = self.held.minus(download.noted.held).plus(held);
            download.noted.held = held;
            self.left = self.hungry.len();
        }
        is_changed
    }

    /// The download ends.
    pub fn remove(&mut self, key: K, download: &Download) {
        self.held = self.held.minus(download.noted.held);
        self.hungry.retain(|other| *other != key);
        self.noted.retain(|other| *other != key);
        self.left = self.hungry.len();
    }

    /// Whose turn it is to take a place, to be passed to `offer`.
    pub fn whose_turn(&mut self) -> Option<K> {
        if let Some(key) = self.noted.pop() {
            return Some(key);
        }
        self.left = self.left.checked_sub(1)?;
        let key = self.hungry.pop_front()?;
        self.hungry.push_back(key);
        Some(key)
    }

    /// Lets the download take one place, or leave those that the host does not need. False when it did neither.
    pub fn offer(&mut self, key: K, download: &mut Download) -> bool {
        let others = self.held.minus(download.noted.held);
        let is_changed = download.take_place(others, self.elsewhere);
        if !download.is_hungry() {
            download.noted.is_listed = false;
            self.hungry.retain(|other| *other != key);
            self.left = self.left.min(self.hungry.len());
        }
        self.count(download);
        is_changed
    }
}

impl Held {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.with(other, |mine, theirs| mine + theirs)
    }

    fn minus(self, other: Self) -> Self {
        self.with(other, u32::saturating_sub)
    }

    fn with(self, other: Self, merge: impl Fn(u32, u32) -> u32) -> Self {
        let merge = |mine: [u32; 2], theirs: [u32; 2]| [merge(mine[0], theirs[0]), merge(mine[1], theirs[1])];
        Self {
            served: merge(self.served, other.served),
            queued: merge(self.queued, other.queued),
            unanswered: merge(self.unanswered, other.unanswered),
        }
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use hawker_proto::geometry::PIECE_BYTES_MIN;
    use hawker_proto::{Geometry, Instant, PieceIndex, PieceMap};

    use super::*;
    use crate::{DownloadConfig, DownloadInput, NeighborId};

    /// A shard whose downloads have neighbors that hold everything and serve nobody yet.
    struct Bench {
        downloads: Vec<Download>,
        places: Places<usize>,
    }

    impl Bench {
        fn new(downloads: usize) -> Self {
            let mut bench = Self { downloads: Vec::new(), places: Places::default() };
            for key in 0..downloads {
                let geometry = Geometry::of_length(40 * u64::from(PIECE_BYTES_MIN)).unwrap();
                let have = PieceMap::empty(40);
                bench.downloads.push(Download::new(DownloadConfig::default(), geometry, have, 1, Instant::ZERO));
                let pieces = (0..40).map(PieceIndex).collect();
                bench.downloads[key].handle(Instant::ZERO, DownloadInput::Records { pieces });
                for neighbor in (0..20).map(NeighborId) {
                    let round_trip = Duration::from_micros(200);
                    let is_remote = false;
                    bench.downloads[key]
                        .handle(Instant::ZERO, DownloadInput::NeighborUp { neighbor, round_trip, is_remote });
                    bench.downloads[key]
                        .handle(Instant::ZERO, DownloadInput::Have { neighbor, pieces: PieceMap::full(40) });
                }
            }
            bench
        }

        /// Who was offered a place and took one or left some, in order.
        fn share(&mut self, noted: &[usize]) -> Vec<usize> {
            noted.iter().for_each(|key| self.places.note(*key, &mut self.downloads[*key]));
            let mut changed = Vec::new();
            while let Some(key) = self.places.whose_turn() {
                if self.places.offer(key, &mut self.downloads[key]) {
                    changed.push(key);
                }
                self.downloads[key].assert_invariants();
            }
            changed
        }

        fn queued(&self) -> Vec<u32> {
            self.downloads.iter().map(|download| download.held().queued[0]).collect()
        }

        /// As many neighbors as a host needs serve the download.
        fn serve(&mut self, key: usize) {
            let enough = DownloadConfig::default().granted_enough as usize;
            let of_key = self.waiting_at(key);
            for neighbor in of_key.into_iter().take(enough) {
                let queued = DownloadInput::Queued { neighbor, piece: PieceIndex(0) };
                self.downloads[key].handle(Instant::ZERO, queued);
                let until = Duration::from_secs(1);
                self.downloads[key].handle(Instant::ZERO, DownloadInput::Granted { neighbor, blocks: 16, until });
            }
        }

        fn waiting_at(&mut self, key: usize) -> Vec<NeighborId> {
            let outputs = core::iter::from_fn(|| self.downloads[key].poll());
            let asked = outputs.filter_map(|output| match output {
                crate::DownloadOutput::Request { neighbor, .. } => Some(neighbor),
                _ => None,
            });
            let mut neighbors: Vec<NeighborId> = asked.collect();
            neighbors.dedup();
            neighbors
        }
    }

    #[test]
    fn downloads_take_as_many_places_together_as_one_alone_in_turn() {
        assert_eq!(Bench::new(1).share(&[0]).len(), 11);
        let mut bench = Bench::new(4);
        assert_eq!(bench.share(&[0, 1, 2, 3])[..8], [3, 2, 1, 0, 0, 1, 2, 3]);
        assert_eq!(bench.queued(), [3, 3, 3, 2]);
        assert_eq!(bench.places.held(), Held { queued: [11, 0], ..Held::default() });
    }

    #[test]
    fn places_of_a_download_that_ends_are_taken_by_the_others() {
        let mut bench = Bench::new(2);
        bench.share(&[0, 1]);
        let freed = bench.queued()[0];
        bench.places.remove(0, &bench.downloads[0]);
        assert_eq!(bench.share(&[1]).len(), freed as usize);
        assert_eq!(bench.queued()[1], 11);
    }

    #[test]
    fn host_that_is_served_enough_waits_nowhere() {
        let mut bench = Bench::new(3);
        bench.share(&[0, 1, 2]);
        bench.serve(1);
        assert_eq!(bench.places.held().served, [0; 2], "not noted yet");
        bench.share(&[1]);
        assert_eq!(bench.queued(), [0; 3]);
        assert_eq!(bench.places.held(), Held { served: [2, 0], ..Held::default() });
    }

    #[test]
    fn each_shard_may_be_served_by_one_whatever_the_others_hold() {
        let mut bench = Bench::new(2);
        let (served, queued) = ([2, 0], [11, 0]);
        let elsewhere = Held { served, queued, ..Held::default() };
        bench.places.set_elsewhere(elsewhere);
        bench.share(&[0, 1]);
        assert_eq!(bench.queued().iter().sum::<u32>(), 2);
        bench.places.set_elsewhere(Held { queued: [5, 0], ..Held::default() });
        bench.share(&[]);
        assert_eq!(bench.queued(), [3; 2]);
        bench.places.set_elsewhere(elsewhere);
        bench.serve(1);
        bench.share(&[1]);
        assert_eq!(bench.queued(), [0; 2]);
    }
}
