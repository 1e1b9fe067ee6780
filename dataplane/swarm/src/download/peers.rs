//! What neighbors say and send. Nothing here trusts them: whatever makes no sense changes nothing.

use alloc::vec::Vec;
use core::time::Duration;

use hawker_proto::{BlockIndex, PieceIndex, PieceMap};

use super::neighbor::{Neighbor, Run, Serving};
use super::{Download, DownloadOutput, NeighborId};
use crate::bits::Bits;

/// How long a neighbor that failed is left alone: doubled with every failure in a row up to `REST_MAX`.
const REST_MIN: Duration = Duration::from_millis(100);
const REST_MAX: Duration = Duration::from_secs(5);
/// Contests that a parent may lose, all of a grant at once and without a block in between, before it rests.
const LOSSES_MANY: u32 = 8;
/// Pieces that a neighbor may have lost, without a block in between, before it is left alone: disks do rot.
const GONES_MANY: u32 = 3;
/// ... and before nothing of what it says it has is believed any more: pieces that only it claims are nobody's then, and
/// the scheduler leases them.
const GONES_LIAR: u32 = 2 * GONES_MANY;
/// Grants that a neighbor may take back, without a block in between, before it is left alone: the first of them is the
/// usual end of a grant.
const REVOKED_MANY: u32 = 2;

/// Blocks after which the neighbors are compared again.
const GOOD_EVERY: u32 = 16;

impl Download {
    pub(super) fn neighbor_up(&mut self, id: NeighborId, round_trip: Duration, is_remote: bool) {
        if self.neighbors.len() >= self.config.neighbors_max {
            return;
        }
        if let Err(index) = self.ids.binary_search(&id) {
            let piece_count = self.pieces.geometry().piece_count();
            self.ids.insert(index, id);
            self.engaged.insert(index, false);
            self.neighbors.insert(index, Neighbor::new(id, round_trip, is_remote, piece_count));
            if is_remote {
                self.start_imports();
            }
        }
    }

    pub(super) fn round_trip(&mut self, id: NeighborId, round_trip: Duration) {
        if let Some(index) = self.find(id) {
            self.neighbors[index].round_trip = round_trip;
        }
    }

    pub(super) fn neighbor_down(&mut self, id: NeighborId) {
        let Some(index) = self.find(id) else { return };
        while let Some(run) = self.neighbors[index].runs.first().copied() {
            self.drop_runs(index, run.piece);
        }
        self.settle(index);
        let neighbor = self.neighbors.remove(index);
        self.ids.remove(index);
        self.engaged.remove(index);
        self.pieces.ignore(self.pieces.ignored() - u8::from(neighbor.is_ignored));
        for piece in neighbor.have.iter() {
            self.pieces.count(piece, neighbor.is_remote, false);
        }
        self.make_remote_useful();
    }

    pub(super) fn have(&mut self, id: NeighborId, pieces: &PieceMap) {
        if pieces.piece_count() != self.pieces.geometry().piece_count() {
            return;
        }
        for piece in Bits::of(pieces).iter() {
            self.have_piece(id, piece);
        }
    }

    pub(super) fn have_piece(&mut self, id: NeighborId, piece: PieceIndex) {
        let Some(index) = self.find(id) else { return };
        if !self.pieces.geometry().has_piece(piece) || !self.neighbors[index].have.set(piece, true) {
            return;
        }
        let is_remote = self.neighbors[index].is_remote;
        self.pieces.count(piece, is_remote, true);
        if self.pieces.is_claimed(piece) {
            self.stop_needless_fetch(piece);
        }
        let is_open = self.pieces.fresh().contains(piece) || self.pieces.find(piece).is_some_and(|it| it.open() != 0);
        if is_open && (!is_remote || self.pieces.is_import(piece)) {
            self.neighbors[index].is_useful = true;
            if self.neighbors[index].is_waited_for() && self.pieces.availability(piece) == 1 {
                self.wait_for_rarer(index);
            }
            // A neighbor in whose queue we wait learns nothing from it; the others may be asked now.
            self.needs_fill |= match self.neighbors[index].serving {
                Serving::Nothing => self.has_spare_place(is_remote),
                Serving::Later { .. } => !self.has_enough_waiting(index),
                Serving::Now { .. } => true,
            };
        }
    }

    /// A neighbor in whose queue we wait has a piece that nobody else has: worth more than what we wait for there, if
    /// others have that by now. The replacement takes the place before the old request is cancelled.
    fn wait_for_rarer(&mut self, index: usize) {
        let neighbor = &self.neighbors[index];
        let common = neighbor.runs.iter().map(|run| run.piece).max_by_key(|piece| self.pieces.availability(*piece));
        if let Some(common) = common.filter(|piece| self.pieces.availability(*piece) > 1)
            && self.has_enough_waiting(index)
        {
            self.drop_runs(index, common);
            self.cancels.push((self.neighbors[index].id, common));
        }
    }

    pub(super) fn gone(&mut self, id: NeighborId, piece: PieceIndex) {
        let Some(index) = self.find(id) else { return };
        if !self.pieces.geometry().has_piece(piece) || !self.neighbors[index].have.set(piece, false) {
            return;
        }
        self.pieces.count(piece, self.neighbors[index].is_remote, false);
        self.drop_runs(index, piece);
        self.settle(index);
        self.make_remote_useful();
        // One who says again and again that it has what it has not is asked ever more rarely.
        let gones = self.neighbors[index].gones.saturating_add(1);
        self.neighbors[index].gones = gones;
        if gones >= GONES_LIAR {
            self.disbelieve(index);
        } else if gones >= GONES_MANY {
            self.rest(index, gones - GONES_MANY + 1);
        }
    }

    /// What it said it has counts no more. It may say so again, piece by piece.
    fn disbelieve(&mut self, index: usize) {
        self.give_up(index);
        let piece_count = self.pieces.geometry().piece_count();
        let neighbor = &mut self.neighbors[index];
        let is_remote = neighbor.is_remote;
        let said = core::mem::replace(&mut neighbor.have, Bits::empty(piece_count));
        if core::mem::take(&mut neighbor.is_ignored) {
            self.pieces.ignore(self.pieces.ignored() - 1);
        }
        for piece in said.iter() {
            self.pieces.count(piece, is_remote, false);
        }
        self.make_remote_useful();
    }

    pub(super) fn records(&mut self, pieces: &[PieceIndex]) {
        let geometry = self.pieces.geometry();
        for piece in pieces.iter().copied().filter(|piece| geometry.has_piece(*piece)) {
            if self.pieces.set_recorded(piece) && self.pieces.availability(piece) > 0 {
                self.make_useful(piece);
            }
        }
    }

    /// Our requests wait there: after a grant, what it had not sent is anybody's again.
    pub(super) fn queued(&mut self, id: NeighborId) {
        let Some(index) = self.find(id) else { return };
        self.neighbors[index].has_queue = true;
        match self.neighbors[index].serving {
            Serving::Later { since, is_stale, is_unanswered: true } => {
                self.change_serving(index, Serving::Later { since, is_stale, is_unanswered: false });
                self.needs_fill = true;
                return;
            }
            Serving::Nothing | Serving::Later { .. } => return,
            Serving::Now { .. } => {}
        }
        for run in 0..self.neighbors[index].runs.len() {
            let Run { piece, blocks } = self.neighbors[index].runs[run];
            self.pieces.with_active(piece, |active| {
                active.assigned &= !blocks;
                active.promises += 1;
            });
            self.make_useful(piece);
        }
        self.set_serving(index, Serving::Later { since: self.now, is_stale: false, is_unanswered: false });
        self.needs_fill = true;
        // A grant makes us leave other queues. Whose grants bring nothing costs us our places there, again and again.
        let revoked = self.neighbors[index].revoked.saturating_add(1);
        self.neighbors[index].revoked = revoked;
        if revoked >= REVOKED_MANY {
            self.give_up(index);
            self.rest(index, revoked - REVOKED_MANY + 1);
        }
    }

    /// What waited there is on its way, unless somebody else is sending it and will not be beaten.
    pub(super) fn granted(&mut self, id: NeighborId, blocks: u32) {
        let Some(index) = self.find(id) else { return };
        let now = self.now;
        if let Serving::Now { blocks_left, heard, .. } = &mut self.neighbors[index].serving {
            (*blocks_left, *heard) = (blocks, now);
            self.idle_slots.add(true);
            return;
        }
        if self.neighbors[index].runs.is_empty() {
            return;
        }
        let has_queue = core::mem::take(&mut self.neighbors[index].has_queue);
        self.idle_slots.add(!has_queue);
        self.resolve_contests(index);
        let runs = core::mem::take(&mut self.neighbors[index].runs);
        for run in &runs {
            self.pieces.with_active(run.piece, |active| {
                active.promises -= 1;
                active.assigned |= run.blocks;
            });
        }
        let is_empty = runs.is_empty();
        self.neighbors[index].runs = runs;
        if is_empty {
            // It lost every contest. Asked again at once it would grant at once and lose again, for ever.
            self.neighbors[index].losses = self.neighbors[index].losses.saturating_add(1);
            if self.neighbors[index].losses >= LOSSES_MANY {
                self.rest_for(index, self.config.hedge_after);
            }
        }
        let serving = Serving::Now { blocks_left: blocks, heard: now, block_at: now };
        self.set_serving(index, if is_empty { Serving::Nothing } else { serving });
        for run in 0..self.neighbors[index].runs.len() {
            let Run { piece, blocks } = self.neighbors[index].runs[run];
            self.withdraw(piece, blocks);
        }
        self.needs_fill = true;
    }

    pub(super) fn arriving(&mut self, id: NeighborId) {
        let Some(index) = self.find(id) else { return };
        let now = self.now;
        if let Serving::Now { heard, .. } = &mut self.neighbors[index].serving {
            *heard = now;
        }
    }

    pub(super) fn block_in(&mut self, id: NeighborId, piece: PieceIndex, block: BlockIndex) {
        if !self.pieces.geometry().has_block(piece, block) {
            return;
        }
        let bytes = self.bytes_of_block(piece, block);
        let bit = 1u64 << block.0;
        if let Some(index) = self.find(id) {
            self.note_service(index);
            self.drop_block(index, piece, bit);
            if !self.neighbors[index].is_remote {
                self.pieces.open_border(false);
            }
        }
        self.needs_fill = true;
        if !self.is_block_wanted(piece, block) {
            self.bytes_wasted += bytes;
            return;
        }
        // It came from whom nobody asked, or who was asked no more: the bytes are right, so they count.
        if self.pieces.find(piece).is_some_and(|active| active.assigned & bit != 0) {
            self.cancel_everywhere(piece, bit);
        }
        self.pieces.with_active(piece, |active| active.received |= bit);
        self.withdraw(piece, bit);
        self.bytes_from_peers += bytes;
        (self.moved_at, self.is_starving) = (self.now, false);
        self.rate.add(self.now, bytes);
    }

    pub(super) fn block_bad(&mut self, id: NeighborId, piece: PieceIndex, block: BlockIndex) {
        if !self.pieces.geometry().has_block(piece, block) {
            return;
        }
        self.bytes_wasted += self.bytes_of_block(piece, block);
        let Some(index) = self.find(id) else { return };
        self.drop_block(index, piece, 1 << block.0);
        self.neighbors[index].bad_blocks += 1;
        if self.neighbors[index].bad_blocks >= self.config.bad_blocks_max {
            self.neighbor_down(id);
            self.outputs.push_back(DownloadOutput::Ban { neighbor: id });
        } else {
            // It reads the piece again and repairs it or says that it is gone; meanwhile others are asked.
            self.give_up(index);
            self.rest(index, 1);
            self.outputs.push_back(DownloadOutput::BadPiece { neighbor: id, piece, block });
        }
        self.make_useful(piece);
    }

    /// It was silent for too long: others are asked, and it is left alone for a while.
    pub(super) fn time_out(&mut self, index: usize) {
        let timeouts = self.neighbors[index].timeouts + 1;
        self.neighbors[index].timeouts = timeouts;
        self.give_up(index);
        self.rest(index, timeouts);
    }

    fn give_up(&mut self, index: usize) {
        while let Some(run) = self.neighbors[index].runs.first().copied() {
            self.drop_runs(index, run.piece);
            self.cancels.push((self.neighbors[index].id, run.piece));
        }
        self.settle(index);
    }

    fn rest(&mut self, index: usize, failures: u32) {
        let rest = REST_MIN.saturating_mul(1 << failures.clamp(1, 7)).min(REST_MAX);
        self.rest_for(index, rest);
    }

    fn rest_for(&mut self, index: usize, rest: Duration) {
        let until = self.now + rest;
        self.neighbors[index].rest_until = until;
        self.wake(until);
    }

    fn note_service(&mut self, index: usize) {
        let now = self.now;
        let neighbor = &mut self.neighbors[index];
        if let Serving::Now { blocks_left, heard, block_at } = &mut neighbor.serving {
            let sample = now.since(*block_at);
            *blocks_left = blocks_left.saturating_sub(1);
            (*heard, *block_at) = (now, now);
            neighbor.service.add(sample);
            (neighbor.timeouts, neighbor.gones, neighbor.losses, neighbor.revoked) = (0, 0, 0, 0);
            neighbor.is_useful = true;
            self.service.add(sample);
            self.samples += 1;
            if self.samples.is_multiple_of(GOOD_EVERY) {
                self.good_service = self.find_good_service();
            }
        }
    }

    /// Time per block of a neighbor that is faster than three of four.
    fn find_good_service(&self) -> Option<Duration> {
        let mut times: Vec<Duration> = self.neighbors.iter().filter_map(|it| it.service.smoothed()).collect();
        let quarter = times.len() / 4;
        (!times.is_empty()).then(|| *times.select_nth_unstable(quarter).1)
    }

    /// Sets what a neighbor does for us, and when to look at it again.
    pub(super) fn set_serving(&mut self, index: usize, serving: Serving) {
        self.change_serving(index, serving);
        let at = match serving {
            Serving::Nothing => return,
            Serving::Later { since, .. } => since + self.config.queued_patience,
            Serving::Now { heard, .. } => heard + self.neighbors[index].timeout(self.service, &self.config),
        };
        self.wake(at);
    }

    /// Sets what a neighbor does for us, and counts it.
    pub(super) fn change_serving(&mut self, index: usize, serving: Serving) {
        let neighbor = &mut self.neighbors[index];
        let side = usize::from(neighbor.is_remote);
        self.granted[side] -= u32::from(neighbor.is_serving());
        self.queued[side] -= u32::from(neighbor.is_queue_place());
        self.unanswered[side] -= u32::from(neighbor.is_unanswered());
        neighbor.serving = serving;
        self.engaged[index] = serving != Serving::Nothing;
        self.granted[side] += u32::from(neighbor.is_serving());
        self.queued[side] += u32::from(neighbor.is_queue_place());
        self.unanswered[side] += u32::from(neighbor.is_unanswered());
    }

    /// Nothing is asked of a neighbor without runs.
    pub(super) fn settle(&mut self, index: usize) {
        if self.neighbors[index].runs.is_empty() && self.neighbors[index].serving != Serving::Nothing {
            self.set_serving(index, Serving::Nothing);
            self.needs_fill = true;
        }
    }

    /// Forgets what was asked of a neighbor of one piece; true when there was anything.
    pub(super) fn drop_runs(&mut self, index: usize, piece: PieceIndex) -> bool {
        let neighbor = &mut self.neighbors[index];
        let is_serving = neighbor.is_serving();
        let pieces = &mut self.pieces;
        let count = neighbor.runs.len();
        neighbor.runs.retain(|run| {
            if run.piece == piece {
                pieces.with_active(piece, |active| match is_serving {
                    true => active.assigned &= !run.blocks,
                    false => active.promises -= 1,
                });
            }
            run.piece != piece
        });
        let is_changed = neighbor.runs.len() != count;
        if is_changed {
            self.make_useful(piece);
        }
        is_changed
    }

    /// One block asked of a neighbor is no longer to come from it.
    fn drop_block(&mut self, index: usize, piece: PieceIndex, bit: u64) {
        let neighbor = &mut self.neighbors[index];
        let is_serving = neighbor.is_serving();
        let Some(at) = neighbor.runs.iter().position(|run| run.piece == piece && run.blocks & bit != 0) else { return };
        let run = &mut neighbor.runs[at];
        run.blocks &= !bit;
        let is_done = run.blocks == 0;
        if is_done {
            neighbor.runs.remove(at);
        }
        self.pieces.with_active(piece, |active| match is_serving {
            true => active.assigned &= !bit,
            false => active.promises -= u32::from(is_done),
        });
        // A neighbor that serves us stays so until `fill` found nothing more to ask of it.
        if !is_serving {
            self.settle(index);
        }
    }

    /// Takes blocks of a piece back from every neighbor of which they were asked, with whatever else of that piece
    /// was asked of it: a cancel names a piece.
    pub(super) fn cancel_everywhere(&mut self, piece: PieceIndex, blocks: u64) {
        if self.pieces.find(piece).is_none_or(|active| active.assigned == 0 && active.promises == 0) {
            return;
        }
        for index in 0..self.neighbors.len() {
            if self.engaged[index] && self.neighbors[index].asked(piece) & blocks != 0 {
                self.drop_runs(index, piece);
                self.cancels.push((self.neighbors[index].id, piece));
                self.needs_fill = true;
            }
        }
    }

    /// Takes blocks back from the neighbors at which they only wait.
    pub(super) fn withdraw(&mut self, piece: PieceIndex, blocks: u64) {
        if self.pieces.find(piece).is_none_or(|active| active.promises == 0) {
            return;
        }
        for index in 0..self.neighbors.len() {
            if !self.engaged[index] || self.neighbors[index].is_serving() {
                continue;
            }
            if self.neighbors[index].asked(piece) & blocks != 0 {
                self.drop_runs(index, piece);
                self.cancels.push((self.neighbors[index].id, piece));
                self.needs_fill = true;
            }
        }
    }

    /// Blocks of the piece can be asked for again: whoever has it is worth a search.
    pub(super) fn make_useful(&mut self, piece: PieceIndex) {
        for neighbor in self.neighbors.iter_mut().filter(|neighbor| neighbor.have.contains(piece)) {
            neighbor.is_useful = true;
        }
        self.needs_fill = true;
    }
}
