//! Sales: leases of what some host has already, because the origin is faster than the hosts that have everything.
//!
//! Nobody should be slower with the swarm than alone. All sales of a task are of one file together, or of 2 % of what
//! its hosts fetch; within a sale each piece is leased once, and what was bought spreads from host to host.

use crate::cluster::Cluster;
use crate::pieces::Pieces;
use crate::table::Slot;
use crate::task::{Task, Tracking, Wish};

/// Worth a sale is a swarm that draws less than this of the origin's rate from its sources: beside an origin that is
/// hardly faster the copy would cost more than it gives.
const SLOWER_PERCENT: u128 = 80;
/// One sale for so many hosts: 2 % of what they fetch.
const SALE_HOSTS: usize = 50;

impl Cluster {
    /// Puts the task up for sale if the wish is for that, and it is worth it.
    pub(crate) fn offer_sale(&mut self, task: Slot<Task>, wish: &Wish) {
        let row = &self.tasks[task];
        let sales_max = u32::try_from(row.peers.len() / SALE_HOSTS).unwrap_or(u32::MAX).max(1);
        let is_possible = matches!(row.pieces, Tracking::Whole) && row.has_ranges && row.sales < sales_max;
        let is_wanted = wish.source_bytes_per_s.is_some_and(|rate| self.is_slower_than_origin(task, rate));
        if is_possible && is_wanted {
            let row = &mut self.tasks[task];
            let mut pieces = Pieces::free(row.geometry.piece_count());
            for lease in &row.leases {
                pieces.adopt(&lease.pieces);
            }
            row.sales += 1;
            row.pieces = Tracking::Sale(pieces);
        }
    }

    /// Whether what there is to lease is for such a wish: of a sale, only those have a part who gain by it.
    pub(crate) fn may_have(&self, task: Slot<Task>, wish: &Wish) -> bool {
        match self.tasks[task].pieces {
            Tracking::Sale(_) => wish.source_bytes_per_s.is_some_and(|rate| self.is_slower_than_origin(task, rate)),
            Tracking::Whole | Tracking::Each(_) => true,
        }
    }

    /// Of an origin that nobody knows the first lease sold tells how fast it is: it runs alone.
    pub(crate) fn is_probing(&self, task: Slot<Task>) -> bool {
        matches!(self.tasks[task].pieces, Tracking::Sale(_)) && self.origin_rate(task) == 0
    }

    /// True too when nobody knows.
    fn is_slower_than_origin(&self, task: Slot<Task>, bytes_per_s: u64) -> bool {
        let rate = self.origin_rate(task);
        rate == 0 || u128::from(bytes_per_s) * 100 < u128::from(rate) * SLOWER_PERCENT
    }

    fn origin_rate(&self, task: Slot<Task>) -> u64 {
        self.tasks[task].origin.map_or(0, |origin| self.origins[origin].rate())
    }
}
