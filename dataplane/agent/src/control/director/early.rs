//! What schedulers say of tasks that the store still makes room for.

use std::time::Duration;

use hawker_proto::trust::{SignedAllowance, SignedLease};
use hawker_proto::{HostId, Stripes, TaskId};
use hawker_scheduler::{Input, LeaseOutcome, Neighbor};
use tokio::time::Instant;

use super::{Director, is_own_serial};
use crate::control::link::Side;

/// Messages kept for tasks that are being opened: neighbors, lease, allowance and imports of each, a few times.
const EARLY_MAX: usize = 4096;
/// A lease that came before its task is good for so long at most.
const EARLY_KEPT: Duration = Duration::from_secs(10);

/// What a scheduler said of a task that is not open yet.
#[derive(Debug)]
pub(super) enum Early {
    Lease(SignedLease),
    Allowance(SignedAllowance),
    Neighbors { add: Vec<Neighbor>, remove: Vec<HostId> },
    Imports(Stripes),
}

impl Director {
    /// Keeps it until the task is open, for `valid` or [`EARLY_KEPT`].
    pub(super) fn keep_early(&mut self, task: TaskId, early: Early, valid: Duration) {
        let expires = Instant::now() + valid.min(EARLY_KEPT);
        if self.early.len() == EARLY_MAX
            && let Some((_, oldest, _)) = self.early.pop_front()
        {
            self.give_back(&oldest);
        }
        self.early.push_back((task, early, expires));
    }

    /// What came for tasks that were not opened after all.
    pub(super) fn tick_early(&mut self) {
        let now = Instant::now();
        while self.early.front().is_some_and(|(.., expires)| *expires <= now) {
            if let Some((_, early, _)) = self.early.pop_front() {
                self.give_back(&early);
            }
        }
    }

    /// Nobody here will fetch a lease: its range is kept from others until the scheduler hears so.
    fn give_back(&self, early: &Early) {
        if let Early::Lease(SignedLease { lease, .. }) = early {
            let (serial, upto) = (lease.serial, lease.range.start());
            let outcome = LeaseOutcome::Returned;
            let side = if is_own_serial(serial) { Side::Own } else { Side::Cluster };
            self.say(side, Input::LeaseDone { host: self.parts.host, serial, upto, outcome });
        }
    }

    /// Hands over what came while the task was being opened.
    pub(super) async fn deliver_early(&mut self, task: TaskId) {
        let now = Instant::now();
        let early = std::mem::take(&mut self.early).into_iter();
        let (ours, others): (Vec<_>, Vec<_>) = early.partition(|(of, _, expires)| *of == task && *expires > now);
        self.early = others.into();
        for (_, early, expires) in ours {
            match early {
                Early::Lease(lease) => {
                    let side = if is_own_serial(lease.lease.serial) { Side::Own } else { Side::Cluster };
                    self.on_lease(side, lease, expires.duration_since(now)).await;
                }
                Early::Allowance(allowance) => self.on_allowance(task, allowance).await,
                Early::Neighbors { add, remove } => self.on_neighbors(task, add, remove).await,
                Early::Imports(stripes) => self.on_imports(task, stripes).await,
            }
        }
    }
}
