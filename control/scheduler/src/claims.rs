//! What hosts only say that they have.
//!
//! Their word is enough to lease a piece to nobody: a cluster whose scheduler was started again must not fetch everything
//! anew. But one lie would end the leases of a task for ever. So a host to which nothing comes names a piece that none
//! of its neighbors has, and gets a lease of it, unless somebody who is still there fetched it under a lease of this
//! life: then all that starve fetch no more than the file together. Its own disk may have lost what it fetched itself;
//! that much it gets again, up to the file once for all hosts. The states of pieces stay as they are.

use crate::asks::PARALLEL_MAX;
use crate::cluster::Cluster;
use crate::host::Host;
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
        let (row, host) = (&self.tasks[task], self.peers[peer].host);
        let count_max = self.piece_count_of_lease(origin, &Ask { peer, wish: *wish }, row.geometry.piece_count());
        let end_max = first.saturating_add(count_max).min(row.geometry.piece_count());
        let asking = (row.lost_count < row.geometry.piece_count()).then_some(host);
        let end = (first..end_max).find(|piece| !row.is_by_word(*piece, asking)).unwrap_or(end_max);
        if end <= first {
            return false;
        }
        let lost_count = (first..end).filter(|piece| !row.is_by_word(*piece, None)).count();
        let row = &mut self.tasks[task];
        row.lost_count = row.lost_count.saturating_add(u32::try_from(lost_count).unwrap_or(u32::MAX));
        if let Tracking::Each(states) | Tracking::Sale(states) = &mut row.pieces {
            states.adopt(&(first..end));
        }
        self.open_lease(peer, origin, first..end, Some(wish.bytes_per_s));
        true
    }
}

impl Task {
    /// Nobody fetched the piece under a lease of this life, nor does; nobody but the host that asks, if one is named.
    fn is_by_word(&self, piece: u32, asking: Option<Slot<Host>>) -> bool {
        let is_fetched = self.fetched.iter().any(|(pieces, host)| Some(*host) != asking && pieces.contains(&piece));
        !is_fetched && !self.leases.iter().any(|lease| lease.pieces.contains(&piece))
    }
}
