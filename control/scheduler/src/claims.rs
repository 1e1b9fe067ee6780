//! What hosts only say that they have.
//!
//! Their word is enough to lease a piece to nobody: a cluster whose scheduler was started again must not fetch everything
//! anew. But one lie would end the leases of a task for ever. So a host to which nothing comes names a piece that none
//! of its neighbors has, and gets a lease of it, unless somebody who is still there fetched it under a lease of this
//! life. The states of pieces stay as they are, and all that starve fetch no more than the file together.

use crate::cluster::Cluster;
use crate::leases::PARALLEL_MAX;
use crate::table::Slot;
use crate::task::{Ask, Peer, Task, Tracking, Wish};

impl Cluster {
    /// Leases to the peer what it starves for, if all of the task is said to be at hosts. True if it got a lease.
    pub(crate) fn redeem(&mut self, peer: Slot<Peer>, wish: &Wish) -> bool {
        let task = self.peers[peer].task;
        let (row, wisher) = (&self.tasks[task], &self.peers[peer]);
        let (Some(first), Some(origin)) = (wish.lacked.map(|piece| piece.0), row.origin) else { return false };
        let is_at_hosts = row.is_fetched() || matches!(row.pieces, Tracking::Sale(_));
        let is_possible = row.has_ranges && !row.is_changed && row.settle.is_none() && row.leases.len() < PARALLEL_MAX;
        let is_trusted = wisher.is_running && !wisher.is_refused && !wisher.is_stale && self.cools_for(peer) == 0;
        let is_vacant = self.vacant_connections(origin) > 0;
        if !(is_at_hosts && is_possible && is_trusted && is_vacant && self.is_origin_open(origin)) {
            return false;
        }
        let row = &self.tasks[task];
        let count_max = self.piece_count_of_lease(origin, &Ask { peer, wish: *wish }, row.geometry.piece_count());
        let end_max = first.saturating_add(count_max).min(row.geometry.piece_count());
        let end = (first..end_max).find(|piece| !row.is_by_word(*piece)).unwrap_or(end_max);
        if end <= first {
            return false;
        }
        if let Tracking::Each(states) | Tracking::Sale(states) = &mut self.tasks[task].pieces {
            states.adopt(&(first..end));
        }
        self.open_lease(peer, origin, first..end, Some(wish.bytes_per_s));
        true
    }
}

impl Task {
    /// Nobody fetched the piece under a lease of this life, nor does.
    fn is_by_word(&self, piece: u32) -> bool {
        let is_fetched = self.fetched.iter().any(|(pieces, _)| pieces.contains(&piece));
        !is_fetched && !self.leases.iter().any(|lease| lease.pieces.contains(&piece))
    }
}
