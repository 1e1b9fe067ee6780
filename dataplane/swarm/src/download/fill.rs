//! Keeps the parents that serve us busy, and takes places in the queues of others.

use hawker_proto::PieceIndex;

use super::neighbor::{Neighbor, Run, Serving};
use super::{Download, DownloadOutput};
use crate::places::Held;

/// A parent that was silent for this many times as long as a block takes on average is slow.
const SILENT_FACTOR: u32 = 4;
/// ... and so is one that needs half as many times as long for a block as a good one: a wire a fourth as fast, of which
/// another child may have half.
const SLOW_HALVES: u32 = 7;

/// Slow parents that do not count, at most: where all seem slow, the own wire is full, and more would fill it with what
/// comes twice.
const SLOW_MAX: u32 = 2;

/// A parent is distant when a block takes less than so many round trips.
const DISTANT_PARTS: u32 = 2;

/// Places that a shard may hold whatever others do.
const QUEUED_OF_SHARD: u32 = 2;

/// What became of the wish for another place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Taken,
    /// The host holds enough.
    Refused,
    /// Nobody has anything that could be asked for.
    Useless,
}

impl Download {
    /// Asks for as much as the policy allows.
    pub(super) fn fill(&mut self) {
        self.needs_fill = false;
        for index in 0..self.neighbors.len() {
            if !self.engaged[index] {
                continue;
            }
            match self.neighbors[index].serving {
                Serving::Nothing => {}
                Serving::Later { .. } => self.keep_place(index),
                Serving::Now { .. } => self.top_up(index),
            }
        }
        self.leave_needless_queues();
        // Settling set it again; nothing is left to do.
        self.needs_fill = false;
        self.is_hungry = !self.is_complete;
    }

    /// Whether it may take another place in a queue, if the host can spare one.
    #[must_use]
    pub const fn is_hungry(&self) -> bool {
        self.is_hungry
    }

    /// What this download holds at parents.
    #[must_use]
    pub fn held(&self) -> Held {
        let served = [false, true].map(|is_remote| self.served(is_remote));
        Held { served, queued: self.queued, unanswered: self.unanswered }
    }

    /// Waits at one more neighbor, when the host has not enough, or at none when it has: its other downloads hold
    /// `others`, and its other shards `elsewhere`. False: nothing changed, and unless it is hungry still, nobody has
    /// anything that could be asked for.
    pub(crate) fn take_place(&mut self, others: Held, elsewhere: Held) -> bool {
        // Shards do not wait for each other: each may be served by one.
        let served = elsewhere.served.map(|served| served.min(self.config.granted_enough - 1));
        let queued = elsewhere.queued.map(|queued| queued.min(self.config.queued_max.saturating_sub(QUEUED_OF_SHARD)));
        self.others_served_at = self.others_served_at();
        self.elsewhere = others.plus(Held { served, queued, unanswered: [0; 2] });
        let is_left = self.leave_needless_queues();
        // What comes in from other zones is asked for first: in this zone nobody has it.
        let sides = [true, false].map(|is_remote| self.take_place_of(is_remote));
        self.is_hungry = sides.iter().any(|side| *side != Place::Useless);
        is_left || sides.contains(&Place::Taken)
    }

    /// True when it left any.
    fn leave_needless_queues(&mut self) -> bool {
        for is_remote in [false, true] {
            if self.is_served_enough(is_remote) {
                self.leave_queues(is_remote);
            }
        }
        let is_left = !self.cancels.is_empty();
        self.send_cancels();
        for index in 0..self.neighbors.len() {
            if self.engaged[index] {
                self.settle(index);
            }
        }
        is_left
    }

    fn take_place_of(&mut self, is_remote: bool) -> Place {
        while self.has_spare_place(is_remote) && !self.is_served_enough(is_remote) {
            let Some(index) = self.random_idle_neighbor(is_remote) else { return Place::Useless };
            self.keep_place(index);
            if !self.neighbors[index].runs.is_empty() {
                let is_unanswered = self.is_distant(index);
                self.set_serving(index, Serving::Later { since: self.now, is_stale: false, is_unanswered });
                return Place::Taken;
            }
        }
        Place::Refused
    }

    /// Whether the host waits in fewer queues than it may.
    pub(super) const fn has_spare_place(&self, is_remote: bool) -> bool {
        let side = is_remote as usize;
        self.queued[side] + self.elsewhere.queued[side] < self.config.queued_max
            && self.unanswered[side] + self.elsewhere.unanswered[side] < self.config.unanswered_max
    }

    /// Whether an answer takes long beside a block.
    fn is_distant(&self, index: usize) -> bool {
        let neighbor = &self.neighbors[index];
        neighbor.round_trip * DISTANT_PARTS > neighbor.service_time(self.service, &self.config)
    }

    /// Whether more parents would only take slots from others. As many as a parent serves children are enough for a
    /// host, when all wires are equal, however many downloads it runs; and while slots are granted at once nobody else
    /// waits for them.
    pub(super) fn is_served_enough(&self, is_remote: bool) -> bool {
        let enough = match self.idle_slots.is_common() {
            true => self.config.granted_max,
            false => self.config.granted_enough,
        };
        let side = usize::from(is_remote);
        let elsewhere = self.elsewhere.served[side];
        if self.granted[side] + elsewhere < enough {
            return false;
        }
        self.granted[side] + elsewhere >= enough.saturating_add(SLOW_MAX)
            || self.served(is_remote) + elsewhere >= enough
    }

    /// Parents that serve us, without those that are slow.
    fn served(&self, is_remote: bool) -> u32 {
        if self.granted[usize::from(is_remote)] == 0 {
            return 0;
        }
        let silent = self.service.smoothed().unwrap_or(self.config.timeout_max) * SILENT_FACTOR;
        let slow = self.good_service.unwrap_or(self.config.timeout_max) * SLOW_HALVES / 2;
        let counts = |neighbor: &&Neighbor| match neighbor.serving {
            Serving::Now { block_at, .. } if neighbor.is_remote == is_remote => {
                neighbor.service.smoothed().unwrap_or_default() <= slow && self.now.since(block_at) <= silent
            }
            _ => false,
        };
        u32::try_from(self.at_work().filter(counts).count()).unwrap_or(u32::MAX)
    }

    /// Others need the slots more than a host that is served by enough.
    fn leave_queues(&mut self, is_remote: bool) {
        for index in 0..self.neighbors.len() {
            let neighbor = &self.neighbors[index];
            if self.engaged[index] && neighbor.is_waited_for() && neighbor.is_remote == is_remote {
                while let Some(run) = self.neighbors[index].runs.first().copied() {
                    self.drop_runs(index, run.piece);
                    self.cancels.push((self.neighbors[index].id, run.piece));
                }
            }
        }
    }

    /// A parent that serves us never waits for a request.
    fn top_up(&mut self, index: usize) {
        let target = self.work_target(index);
        while self.neighbors[index].is_useful
            && self.neighbors[index].outstanding() < target
            && self.neighbors[index].runs.len() < self.config.runs_max
        {
            let Some((piece, blocks)) = self.choose(index) else {
                self.neighbors[index].is_useful = false;
                break;
            };
            self.request(index, piece, blocks);
            self.withdraw(piece, blocks);
        }
    }

    /// Blocks to have asked of a parent that serves us.
    fn work_target(&self, index: usize) -> u32 {
        let least = self.run_blocks().saturating_mul(u32::try_from(self.config.runs_min).unwrap_or(u32::MAX));
        let service = self.neighbors[index].service_time(self.service, &self.config);
        let under_way = self.neighbors[index].round_trip.saturating_mul(self.config.round_trips_ahead);
        let most = self.config.work_max.saturating_add(under_way).as_nanos() / service.as_nanos().max(1);
        least.max(u32::try_from(most).unwrap_or(u32::MAX).min(64))
    }

    /// Blocks of the longest run that is asked for.
    fn run_blocks(&self) -> u32 {
        self.pieces.geometry().blocks_per_piece().min(self.config.run_blocks_max)
    }

    /// Whether as much waits at a parent as should.
    pub(super) fn has_enough_waiting(&self, index: usize) -> bool {
        let neighbor = &self.neighbors[index];
        neighbor.runs.len() >= neighbor.runs_waiting(self.run_blocks(), self.service, &self.config)
    }

    /// What waits at a parent is worth waiting for, and enough to start with.
    fn keep_place(&mut self, index: usize) {
        while self.neighbors[index].is_useful && !self.has_enough_waiting(index) {
            let Some((piece, blocks)) = self.choose(index) else {
                self.neighbors[index].is_useful = false;
                break;
            };
            self.request(index, piece, blocks);
        }
    }

    fn random_idle_neighbor(&mut self, is_remote: bool) -> Option<usize> {
        let mut chosen = None;
        let mut count = 0;
        for index in 0..self.neighbors.len() {
            let neighbor = &self.neighbors[index];
            let is_idle = neighbor.serving == Serving::Nothing && neighbor.rest_until <= self.now;
            if neighbor.is_useful && neighbor.is_remote == is_remote && is_idle {
                count += 1;
                if self.rng.below(count) == 0 {
                    chosen = Some(index);
                }
            }
        }
        chosen
    }

    /// `blocks` is one contiguous run that is asked of nobody who serves us.
    fn request(&mut self, index: usize, piece: PieceIndex, blocks: u64) {
        let first = blocks.trailing_zeros();
        let end = 64 - blocks.leading_zeros();
        debug_assert!(blocks != 0 && blocks.count_ones() == end - first, "a run is contiguous");
        let id = self.neighbors[index].id;
        if self.cancels.contains(&(id, piece)) {
            self.send_cancels();
        }
        let is_serving = self.neighbors[index].is_serving();
        let is_kept = self.pieces.with_active(piece, |active| match is_serving {
            true => active.assigned |= blocks,
            false => active.promises += 1,
        });
        assert!(is_kept, "only pieces with a place in the table are chosen");
        self.neighbors[index].runs.push(Run { piece, blocks });
        self.outputs.push_back(DownloadOutput::Request { neighbor: id, piece, blocks: first..end });
    }

    pub(super) fn send_cancels(&mut self) {
        for (neighbor, piece) in self.cancels.drain(..) {
            self.outputs.push_back(DownloadOutput::Cancel { neighbor, piece });
        }
    }
}
