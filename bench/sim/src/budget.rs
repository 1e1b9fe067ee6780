//! What the scheduler promises of an origin, held against what hosts do there.

use std::time::Duration;

use hawker_proto::Instant;
use hawker_scheduler::ClusterConfig;

use crate::world::World;

/// A full bucket of the scheduler: what it may lease at once after it leased nothing for long.
const BURST: Duration = Duration::from_secs(1);

/// What one life of the scheduler has leased.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    life: u64,
    leased_bytes: u64,
    /// Of resolvers, whose fetches run before they are leased, at whatever pace: they are no choice of the scheduler.
    resolved_bytes: u64,
}

impl Budget {
    /// Notes bytes that the resolver of a task is about to get without a lease.
    pub(crate) const fn resolved(&mut self, bytes: u64) {
        self.resolved_bytes += bytes;
    }

    /// Notes that a lease of `bytes` reached its holder.
    ///
    /// # Panics
    /// When the leases before it are more than the bytes per second that the operator allowed: the last one may
    /// overdraw, since leases are of whole pieces.
    fn leased(&mut self, now: Instant, life: u64, config: &ClusterConfig, bytes: u64) {
        if self.life != life {
            (self.life, self.leased_bytes) = (life, 0);
        }
        let limit = config.origin_bytes_per_s;
        let time = now.since(Instant::ZERO) + BURST;
        let earned = u128::from(limit) * time.as_nanos() / 1_000_000_000 + u128::from(self.resolved_bytes);
        assert!(
            limit == 0 || u128::from(self.leased_bytes) <= earned,
            "{} bytes were leased before this lease of {bytes}, and {earned} until {now:?} are allowed",
            self.leased_bytes
        );
        self.leased_bytes += bytes;
    }
}

impl World<'_> {
    pub(crate) fn note_lease(&mut self, bytes: u64) {
        self.budget.leased(self.clock.now(), self.scheduler.life, &self.scenario.cluster, bytes);
    }

    /// Fetches that run under leases of the scheduler's present life are at most as many as it may allow at once.
    /// Not counted are those under allowances, those of hosts that took their leave, and those of earlier lives, which a
    /// new one can only take note of.
    pub(crate) fn assert_origin_budget(&mut self) {
        let is_counted = |host: u32, lease| {
            let row = &self.hosts[host as usize];
            !row.is_leaving && row.control.life_of(lease) == Some(self.scheduler.life)
        };
        let running = self.origin.running().filter(|(peer, lease)| is_counted(peer.host, *lease)).count();
        let connections_max = self.scenario.cluster.origin_connections_max as usize;
        assert!(
            running <= connections_max,
            "{running} leases are fetched at once of {connections_max} allowed, seed {}",
            self.scenario.seed
        );
        self.leases_running_max = self.leases_running_max.max(running);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_up_to_the_rate_and_one_beyond_it_pass() {
        let config = ClusterConfig { origin_bytes_per_s: 100, ..ClusterConfig::default() };
        let mut budget = Budget::default();
        budget.leased(Instant::ZERO, 1, &config, 100);
        budget.leased(Instant::ZERO, 1, &config, 500);
        budget.leased(Instant::ZERO + Duration::from_secs(5), 1, &config, 100);
        assert_eq!(budget.leased_bytes, 700);
        budget.leased(Instant::ZERO + Duration::from_secs(5), 2, &config, 100);
        assert_eq!(budget.leased_bytes, 100, "a new life starts with a full bucket");
    }

    #[test]
    #[should_panic(expected = "were leased before this lease")]
    fn lease_while_the_last_one_is_not_paid_for_is_seen() {
        let config = ClusterConfig { origin_bytes_per_s: 100, ..ClusterConfig::default() };
        let mut budget = Budget::default();
        budget.leased(Instant::ZERO, 1, &config, 101);
        budget.leased(Instant::ZERO, 1, &config, 1);
    }
}
