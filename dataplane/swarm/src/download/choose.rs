//! Which blocks to ask of a given neighbor.

use core::time::Duration;

use hawker_proto::PieceIndex;

use super::Download;
use super::neighbor::Neighbor;
use super::pieces::Active;
use crate::bits::ones;

/// Of the choices for the reader, one in this many may be a piece that only one neighbor has: if all hosts asked a lone
/// source for what they read next, it would send the same to all of them. Simulated, 8 hosts beside a full one at
/// 25 Gbit/s: makespan_ratio 1.29, with 2 1.43, with 1 1.81.
const SOLE_ONE_IN: u32 = 4;

impl Download {
    /// The next run of blocks to ask of a neighbor: one in a few for the reader, then what was begun, then the rarest
    /// piece of the window (of a source slower than the origin, what is bought last), then what only waits elsewhere, and
    /// at last what somebody else takes too long to send.
    pub(super) fn choose(&mut self, index: usize) -> Option<(PieceIndex, u64)> {
        let is_for_reader = !self.is_outrun(index) && self.rng.below(self.config.reader_one_in) == 0;
        let is_for_sole = is_for_reader && self.rng.below(SOLE_ONE_IN) == 0;
        let piece = is_for_reader
            .then(|| self.next_for_reader(index))
            .flatten()
            .filter(|piece| is_for_sole || self.pieces.availability(*piece) > 1)
            .or_else(|| self.begun(index, false))
            .or_else(|| self.bought_last(index))
            .or_else(|| self.rarest(index))
            .or_else(|| self.begun(index, true));
        match piece {
            Some(piece) => {
                let open = self.pieces.find(piece).map_or_else(|| self.pieces.all_blocks(piece), Active::open);
                let blocks = first_run(open & !self.neighbors[index].asked(piece), self.config.run_blocks_max);
                Some((piece, blocks))
            }
            None if self.neighbors[index].is_serving() => self.steal(index),
            None => self.hedge(index),
        }
    }

    /// Whether the neighbor has the piece, and may be asked for it.
    fn can_ask(&self, neighbor: &Neighbor, piece: PieceIndex) -> bool {
        neighbor.have.contains(piece) && (!neighbor.is_remote || self.pieces.is_import(piece))
    }

    fn next_for_reader(&self, index: usize) -> Option<PieceIndex> {
        let neighbor = &self.neighbors[index];
        if neighbor.is_remote {
            return None;
        }
        let begun =
            self.pieces.active().iter().find(|active| active.piece >= self.reader && self.is_open(index, active, true));
        let fresh = match self.pieces.is_table_full() {
            true => None,
            false => self.pieces.fresh().first_common(&neighbor.have, self.reader),
        };
        begun.map(|active| active.piece).into_iter().chain(fresh).min()
    }

    /// A piece of which blocks are here or on their way: the sooner it is whole, the sooner others can have it. What
    /// this neighbor sends already comes first.
    fn begun(&self, index: usize, is_promised: bool) -> Option<PieceIndex> {
        let neighbor = &self.neighbors[index];
        let last = neighbor.runs.last().map(|run| run.piece);
        let mut found = None;
        for active in self.pieces.active() {
            if self.is_open(index, active, is_promised) {
                if Some(active.piece) == last {
                    return last;
                }
                found = found.or(Some(active.piece));
            }
        }
        found
    }

    /// Whether a neighbor may be asked for blocks of the piece that nobody sends (and, if `is_promised`, that wait at
    /// a few others).
    fn is_open(&self, index: usize, active: &Active, is_promised: bool) -> bool {
        let neighbor = &self.neighbors[index];
        let promises_max = match (is_promised, neighbor.is_serving()) {
            (false, _) => 0,
            (true, true) => u32::MAX,
            (true, false) => self.config.promises_max - 1,
        };
        active.promises <= promises_max
            && self.can_ask(neighbor, active.piece)
            && active.open() & !neighbor.asked(active.piece) != 0
    }

    /// The piece that the fewest neighbors have, of the first so many that are wanted; any of the next ones when the
    /// neighbor has none of those. Ties are random, or all hosts would fetch the same piece.
    fn rarest(&mut self, index: usize) -> Option<PieceIndex> {
        if self.pieces.is_table_full() {
            return None;
        }
        let (mut best, mut best_count, mut ties) = (None, u8::MAX, 0);
        let mut seen = 0;
        for word in self.pieces.fresh_from()..self.pieces.fresh().words().len() {
            for piece in ones(word, self.startable(index, word)) {
                let count = self.pieces.availability(piece);
                if count < best_count || best.is_none() {
                    (best, best_count, ties) = (Some(piece), count, 1);
                } else if count == best_count {
                    ties += 1;
                    if self.rng.below(ties) == 0 {
                        best = Some(piece);
                    }
                }
            }
            seen += self.pieces.fresh().words()[word].count_ones();
            if best.is_some() && seen >= self.config.window_pieces {
                break;
            }
        }
        best
    }

    /// Whether it is a source that is slower than the origin, from which this host is buying what only sources have.
    fn is_outrun(&self, index: usize) -> bool {
        self.neighbors[index].is_ignored && !self.origin.fetches.is_empty()
    }

    /// Of a source that the origin outruns: one of the last pieces that only such have. They are bought in index
    /// order, and a range that is bought is fetched with whatever of it is here. (Simulated, a host beside four sources
    /// with a tenth of its rate: makespan_ratio 1.13, with any piece 1.31.)
    fn bought_last(&mut self, index: usize) -> Option<PieceIndex> {
        if !self.is_outrun(index) || self.pieces.is_table_full() {
            return None;
        }
        let orphans = self.pieces.orphans().words();
        let words = (self.pieces.fresh_from()..orphans.len()).rev();
        let mut masks = words.map(|word| (word, self.startable(index, word) & orphans[word]));
        let (word, mask) = masks.find(|(_, mask)| *mask != 0)?;
        let nth = self.rng.below(mask.count_ones());
        ones(word, mask).nth(nth as usize)
    }

    /// Of the 64 pieces of a word those that could be started at the neighbor.
    fn startable(&self, index: usize, word: usize) -> u64 {
        let neighbor = &self.neighbors[index];
        let mask = if neighbor.is_remote { self.pieces.imports().words()[word] } else { u64::MAX };
        self.pieces.fresh().words()[word] & neighbor.have.words()[word] & mask
    }

    /// Takes over from the neighbor whose next blocks are furthest away, if this one has them and would bring them in
    /// half that time.
    fn steal(&mut self, index: usize) -> Option<(PieceIndex, u64)> {
        let (from, piece, eta) = self.worst(index, false)?;
        let blocks = self.neighbors[from].asked(piece);
        let more = blocks.count_ones().min(self.config.run_blocks_max);
        let eta_here = self.neighbors[index].eta_of_more(more, self.service, &self.config);
        if eta_here * 2 >= eta {
            return None;
        }
        self.drop_runs(from, piece);
        self.cancels.push((self.neighbors[from].id, piece));
        let open = self.pieces.find(piece).map_or_else(|| self.pieces.all_blocks(piece), Active::open);
        Some((piece, first_run(open, self.config.run_blocks_max)))
    }

    /// A place in the queue for blocks that somebody else takes long to send, where this one may win: whether they are
    /// taken over is decided when the grant comes, and by then a parent without a queue has sent the first of them.
    fn hedge(&self, index: usize) -> Option<(PieceIndex, u64)> {
        let (from, piece, eta) = self.worst(index, true)?;
        let blocks = first_run(self.neighbors[from].asked(piece), self.config.run_blocks_max);
        let eta_here = self.neighbors[index].eta_of_more(blocks.count_ones(), self.service, &self.config);
        (eta >= self.config.hedge_after && eta_here * 2 < eta).then_some((piece, blocks))
    }

    /// The neighbor and the piece of the worst time of arrival, of the pieces that this neighbor has and was not
    /// asked for.
    fn worst(&self, index: usize, is_hedge: bool) -> Option<(usize, PieceIndex, Duration)> {
        let neighbor = &self.neighbors[index];
        let mut worst: Option<(usize, PieceIndex, Duration)> = None;
        for (other, from) in self.neighbors.iter().enumerate() {
            if other == index || !self.engaged[other] || !from.is_serving() {
                continue;
            }
            for (at, run) in from.runs.iter().enumerate().rev() {
                let is_possible = self.can_ask(neighbor, run.piece)
                    && neighbor.asked(run.piece) == 0
                    && (!is_hedge
                        || self.pieces.find(run.piece).is_some_and(|it| it.promises < self.config.promises_max));
                if is_possible {
                    let eta = from.eta(at, self.now, self.service);
                    if worst.is_none_or(|(.., most)| eta > most) {
                        worst = Some((other, run.piece, eta));
                    }
                    break;
                }
            }
        }
        worst
    }

    /// A grant came for blocks that another neighbor is sending meanwhile: the better time of arrival keeps them.
    pub(super) fn resolve_contests(&mut self, index: usize) {
        let mut at = 0;
        while let Some(run) = self.neighbors[index].runs.get(at).copied() {
            let contested = self.pieces.find(run.piece).map_or(0, |active| active.assigned) & run.blocks;
            if contested == 0 {
                at += 1;
                continue;
            }
            let here = self.neighbors[index].eta_of_more(0, self.service, &self.config);
            let there = self
                .at_work()
                .filter(|other| other.is_serving() && other.asked(run.piece) & contested != 0)
                .filter_map(|other| {
                    let last = other.runs.iter().rposition(|theirs| theirs.piece == run.piece)?;
                    Some(other.eta(last, self.now, self.service))
                })
                .min();
            if there.is_none_or(|there| here * 2 < there) {
                self.take_back(run.piece, contested);
                at += 1;
            } else {
                self.drop_runs(index, run.piece);
                self.cancels.push((self.neighbors[index].id, run.piece));
                at = 0;
            }
        }
        self.needs_fill = true;
    }

    /// Takes blocks back from the neighbors that are sending them.
    fn take_back(&mut self, piece: PieceIndex, blocks: u64) {
        for index in 0..self.neighbors.len() {
            if self.engaged[index]
                && self.neighbors[index].is_serving()
                && self.neighbors[index].asked(piece) & blocks != 0
            {
                self.drop_runs(index, piece);
                self.cancels.push((self.neighbors[index].id, piece));
            }
        }
    }
}

/// The first contiguous bits of `open`, at most `blocks_max` of them.
pub(super) fn first_run(open: u64, blocks_max: u32) -> u64 {
    if open == 0 {
        return 0;
    }
    let start = open.trailing_zeros();
    let length = (open >> start).trailing_ones().min(blocks_max);
    (u64::MAX >> (64 - length)) << start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_run_is_contiguous_and_short() {
        let cases = [
            (0, 4, 0),
            (0b1, 4, 0b1),
            (0b1110_1100, 4, 0b1100),
            (0b1111_1100, 4, 0b11_1100),
            (u64::MAX, 64, u64::MAX),
            (1 << 63, 8, 1 << 63),
        ];
        for (open, blocks_max, run) in cases {
            assert_eq!(first_run(open, blocks_max), run, "{open:b}");
        }
    }
}
