//! What an operator sees.

use crate::cluster::Cluster;

/// What happened since the start. Every number only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Resolves handed out.
    pub resolves: u64,
    /// Resolvers that fell silent.
    pub resolvers_replaced: u64,
    /// Leases given.
    pub leases: u64,
    /// Bytes in them.
    pub leased_bytes: u64,
    /// Leases of an earlier life that went on.
    pub leases_adopted: u64,
    /// Leases whose holder was not heard of in time.
    pub leases_expired: u64,
    /// Leases that their holder could not fetch.
    pub leases_failed: u64,
    /// Hosts that vanished without a goodbye.
    pub hosts_lost: u64,
    /// Bans.
    pub bans: u64,
}

/// How much there is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Which life of the scheduler this is.
    pub epoch: u64,
    /// Hosts known.
    pub hosts: usize,
    /// Of these, with an open stream.
    pub hosts_connected: usize,
    /// Tasks that some host has or fetches.
    pub tasks: usize,
    /// Pairs of host and task.
    pub peers: usize,
    /// Origins in use.
    pub origins: usize,
    /// Leases open.
    pub leases: usize,
    /// Bytes in them that no holder has reported yet.
    pub outstanding_bytes: u64,
    /// Asks in line.
    pub asks: usize,
    /// Wants without an answer.
    pub wants: usize,
    /// Hosts banned.
    pub banned: usize,
    /// Names in registries known.
    pub tags: usize,
    /// Since the start.
    pub counters: Counters,
}

impl Cluster {
    /// Counts everything; linear in hosts and tasks, for a status page and metrics.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            epoch: self.epoch,
            hosts: self.hosts.len(),
            hosts_connected: self.hosts.iter().filter(|(_, host)| host.is_connected).count(),
            tasks: self.tasks.len(),
            peers: self.peers.len(),
            origins: self.origins.len(),
            leases: self.lease_tasks.len(),
            outstanding_bytes: self.origins.iter().map(|(_, origin)| origin.outstanding).sum(),
            asks: self.tasks.iter().map(|(_, task)| task.asks.len()).sum(),
            wants: self.hosts.iter().map(|(_, host)| host.wants.len()).sum(),
            banned: self.bans.len(),
            tags: self.tags.len(),
            counters: self.counters,
        }
    }
}
