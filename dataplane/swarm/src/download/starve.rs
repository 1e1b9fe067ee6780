//! What to do when neighbors say that they have what is lacked, and nothing comes.
//!
//! A parent may accept requests and grant none, send a byte now and then, or say that it has what it has not: none of
//! it breaks a rule that could be checked, and a piece that only such parents claim would never arrive. So whoever got
//! nothing for long gives up those that granted and do not send, asks neighbors in other zones, whatever those of its own
//! say, and buys such a piece from the origin under its allowance; what it buys it can give. It goes on buying until a
//! neighbor sends a block. Its places in queues it keeps: they may be long. Pieces that nobody claims are not bought:
//! they are the scheduler's to lease, and the origin may be slow or at its limit. But the scheduler hears the name of one
//! of them, for somebody may have lied to it.
//!
//! The allowance may be used up. Whoever got nothing at all for `FAMINE` buys a piece beyond it: one piece in that time
//! costs an origin little, and the task ends.
//!
//! While parents serve other downloads of the host, which take places in turn, this one waits for its turn and not for
//! them; but not for ever, for whoever serves the others may be honest where those that claim our pieces are not.

use core::time::Duration;

use hawker_proto::{Instant, PieceIndex};

use super::Download;

/// Nothing came for so long, or for the time in which so many blocks usually come.
const PATIENCE: Duration = Duration::from_secs(5);
const PATIENCE_BLOCKS: u32 = 16;
/// ... until the scheduler hears of it, which costs the origin nothing unless somebody lied.
const ASK_PATIENCE: Duration = Duration::from_secs(1);
/// A block comes in that time at 70 kbit/s: what was only slow has come.
const FAMINE: Duration = Duration::from_secs(30);
/// Other downloads of the host count for so long. The turns of 22 layers come within 12 s at 200 Mbit/s.
const TURN_MAX: Duration = Duration::from_secs(60);

impl Download {
    /// Looks whether this host waited for too long.
    pub(super) fn expire_patience(&mut self) {
        if self.is_complete {
            return;
        }
        let patience = self.patience(PATIENCE);
        let at = self.host_moved_at().max(self.starving_at) + patience;
        if at > self.now {
            self.wake(at);
            return;
        }
        self.wake(self.now + patience);
        self.starving_at = self.now;
        if self.claimed_by_others().next().is_none() {
            return;
        }
        self.is_starving = true;
        self.pieces.open_border(true);
        self.make_remote_useful();
        let hungry = self.now.since(self.moved_at);
        let has_famine = hungry >= FAMINE.max(patience);
        // A slow link looks the same as a parent that sends a byte now and then, until it has had the time for a block:
        // each time it gets twice as much.
        let waits = hungry.as_millis() / patience.as_millis();
        if waits.is_power_of_two() && self.neighbors.len() > 1 {
            for index in 0..self.neighbors.len() {
                if self.neighbors[index].is_serving() {
                    self.time_out(index);
                }
            }
        }
        self.stay_alive(has_famine);
    }

    /// Whether nothing came from anybody for so long that the scheduler should hear of it.
    pub(super) fn is_dry(&self) -> bool {
        self.now.since(self.host_moved_at()) >= self.patience(ASK_PATIENCE)
    }

    /// When something last came, or was on its way to the host's other downloads.
    fn host_moved_at(&self) -> Instant {
        self.moved_at.max(self.others_served_at().min(self.moved_at + TURN_MAX))
    }

    /// When other downloads of the host were served last, as far as we were told.
    pub(super) fn others_served_at(&self) -> Instant {
        if self.elsewhere.served == [0; 2] { self.others_served_at } else { self.now }
    }

    /// How long nothing may come.
    fn patience(&self, least: Duration) -> Duration {
        least.max(self.service.smoothed().unwrap_or_default() * PATIENCE_BLOCKS)
    }

    /// Buys a piece if this host starves: a random one, because others may starve for the same.
    pub(super) fn stay_alive(&mut self, has_famine: bool) {
        let left = self.origin.allowance.saturating_sub(self.origin.allowance_used);
        let piece_bytes = u64::from(self.pieces.geometry().piece_bytes()).min(self.pieces.geometry().length());
        let is_allowed = left >= piece_bytes || (has_famine && self.origin.allowance > 0);
        if !self.is_starving || !is_allowed || !self.origin.fetches.is_empty() || self.origin.is_refused {
            return;
        }
        let count = u32::try_from(self.claimed_by_others().count()).unwrap_or(u32::MAX);
        if count == 0 {
            return;
        }
        let nth = self.rng.below(count) as usize;
        let chosen = self.claimed_by_others().nth(nth);
        if let Some(piece) = chosen {
            self.buy(piece);
            self.send_cancels();
        }
    }

    /// Pieces that are lacked, and that a neighbor which may be asked for them claims to have.
    fn claimed_by_others(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        let pieces = &self.pieces;
        (0..pieces.geometry().piece_count()).map(PieceIndex).filter(|piece| {
            let is_lacked = !pieces.have().contains(*piece) && !pieces.is_claimed(*piece);
            is_lacked
                && pieces.is_offered(*piece)
                && (pieces.near(*piece) > 0 || pieces.is_import(*piece))
                && pieces.find(*piece).is_none_or(|active| active.received != active.all)
        })
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use hawker_proto::geometry::PIECE_BYTES_MIN;
    use hawker_proto::{BlockIndex, Geometry, PieceMap};

    use super::*;
    use crate::places::Held;
    use crate::{DownloadConfig, DownloadInput, DownloadOutput, NeighborId, OriginOutcome};

    /// The one block of a piece of small tasks.
    const BLOCK: u64 = PIECE_BYTES_MIN as u64;
    const LIAR: NeighborId = NeighborId(7);

    /// A download of four pieces of a block, and the clock.
    struct Bench(Download, hawker_proto::Instant);

    impl Bench {
        /// One neighbor says that it has everything. Its records are there if `is_recorded`: somebody fetched it once.
        fn new(allowance: u64, is_recorded: bool) -> Self {
            let geometry = Geometry::of_length(4 * BLOCK).unwrap();
            let now = hawker_proto::Instant::ZERO;
            let download = Download::new(DownloadConfig::default(), geometry, PieceMap::empty(4), 1, now);
            let mut bench = Self(download, now);
            bench.feed(DownloadInput::Allowance { bytes: allowance });
            if is_recorded {
                bench.feed(DownloadInput::Records { pieces: (0..4).map(PieceIndex).collect() });
            }
            bench.feed(DownloadInput::NeighborUp {
                neighbor: LIAR,
                round_trip: Duration::from_millis(1),
                is_remote: false,
            });
            bench.feed(DownloadInput::Have { neighbor: LIAR, pieces: PieceMap::full(4) });
            bench
        }

        /// What it orders from the origin on its own then.
        fn feed(&mut self, input: DownloadInput) -> Vec<u64> {
            self.0.handle(self.1, input);
            self.0.assert_invariants();
            let bytes = |output| match output {
                DownloadOutput::Originate { range, .. } => Some(range.length()),
                _ => None,
            };
            core::iter::from_fn(|| self.0.poll()).filter_map(bytes).collect()
        }

        /// The same, while time passes and its fetches fail.
        fn wait(&mut self, time: Duration) -> Vec<u64> {
            let end = self.1 + time;
            let mut bought = Vec::new();
            while let Some(at) = self.0.deadline().filter(|at| *at <= end) {
                self.1 = self.1.max(at);
                bought.extend(self.feed(DownloadInput::Tick));
            }
            self.1 = end;
            bought
        }

        /// What a question says that it asks for so much later, when this came in.
        fn named(&mut self, time: Duration, input: DownloadInput) -> Option<PieceIndex> {
            self.1 += time;
            self.0.handle(self.1, input);
            let named = |output| match output {
                DownloadOutput::AskLease { lacked, .. } => lacked,
                _ => None,
            };
            core::iter::from_fn(|| self.0.poll()).filter_map(named).last()
        }

        fn fetched(&mut self) -> Vec<u64> {
            let lease = crate::LeaseId::own(self.0.origin.own_serial);
            self.feed(DownloadInput::OriginEnded { lease, outcome: OriginOutcome::Complete })
        }
    }

    #[test]
    fn host_to_which_nothing_comes_buys_what_others_only_claim() {
        let mut bench = Bench::new(2 * BLOCK, true);
        assert_eq!(bench.wait(PATIENCE - Duration::from_millis(1)), [0; 0]);
        assert_eq!(bench.wait(Duration::from_millis(1)), [BLOCK]);
        assert_eq!(bench.fetched(), [BLOCK], "it goes on until a neighbor sends a block");
        assert_eq!(bench.fetched(), [0; 0], "within its allowance");
    }

    #[test]
    fn turn_of_other_downloads_is_waited_for_but_not_for_ever() {
        let moment = Duration::from_millis(1);
        let others = Held { served: [1, 0], ..Held::default() };
        let mut bench = Bench::new(2 * BLOCK, true);
        bench.0.take_place(others, Held::default());
        assert_eq!(bench.wait(TURN_MAX + PATIENCE - moment), [0; 0]);
        assert_eq!(bench.wait(moment), [BLOCK]);
        // When nobody serves the host any more, patience begins.
        let mut bench = Bench::new(2 * BLOCK, true);
        bench.0.take_place(others, Held::default());
        assert_eq!(bench.wait(PATIENCE * 3), [0; 0]);
        bench.feed(DownloadInput::Tick);
        bench.0.take_place(Held::default(), Held::default());
        assert_eq!(bench.wait(PATIENCE - moment), [0; 0]);
        assert_eq!(bench.wait(moment), [BLOCK]);
    }

    #[test]
    fn block_of_a_neighbor_ends_the_buying() {
        let mut bench = Bench::new(4 * BLOCK, true);
        assert_eq!(bench.wait(PATIENCE), [BLOCK]);
        let piece = bench.0.claimed_by_others().next().unwrap();
        bench.feed(DownloadInput::BlockIn { neighbor: LIAR, piece, block: BlockIndex(0) });
        assert_eq!(bench.fetched(), [0; 0]);
    }

    #[test]
    fn what_nobody_fetched_yet_is_left_to_the_scheduler() {
        let mut bench = Bench::new(4 * BLOCK, false);
        assert_eq!(bench.wait(FAMINE * 2), [0; 0]);
    }

    #[test]
    fn scheduler_hears_what_is_starved_for_and_after_a_lie_at_once() {
        let mut bench = Bench::new(0, false);
        bench.feed(DownloadInput::NoLease { retry_after: Duration::ZERO });
        assert_eq!(bench.named(ASK_PATIENCE / 2, DownloadInput::Tick), None, "something may come yet");
        bench.feed(DownloadInput::NoLease { retry_after: ASK_PATIENCE });
        let piece = bench.named(ASK_PATIENCE, DownloadInput::Tick).expect("nothing came");
        let (lease, range) = (crate::LeaseId(1), bench.0.pieces.bytes_of(piece, piece));
        bench.feed(DownloadInput::Lease { lease, range });
        let ended = DownloadInput::OriginEnded { lease, outcome: OriginOutcome::Complete };
        let named = bench.named(Duration::from_millis(1), ended).expect("others lied");
        assert_ne!(named, piece);
    }

    #[test]
    fn who_lacks_all_it_is_asked_for_is_not_believed_and_the_scheduler_is_asked() {
        let mut bench = Bench::new(0, true);
        let piece = PieceIndex(2);
        for _ in 0..6 {
            assert_eq!(bench.0.pieces.orphans().len(), 0);
            bench.feed(DownloadInput::Gone { neighbor: LIAR, piece });
            if bench.0.pieces.orphans().len() == 1 {
                bench.feed(DownloadInput::HavePiece { neighbor: LIAR, piece });
            }
        }
        assert_eq!(bench.0.pieces.orphans().len(), 4, "what only it claims is nobody's");
    }

    #[test]
    fn famine_ends_though_the_allowance_is_used_up() {
        let mut bench = Bench::new(BLOCK, true);
        assert_eq!(bench.wait(PATIENCE), [BLOCK]);
        assert_eq!(bench.fetched(), [0; 0]);
        assert_eq!(bench.wait(FAMINE - Duration::from_millis(1)), [0; 0]);
        assert_eq!(bench.wait(PATIENCE), [BLOCK], "one piece");
        assert_eq!(Bench::new(0, true).wait(FAMINE * 2), [0; 0], "but never without the scheduler's word");
    }
}
