//! Who lied to three hosts at least, and to a majority of its neighbors.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

use hawker_proto::{HostId, Instant, TaskId};

use crate::cluster::Cluster;
use crate::event::{Output, ToHost};
use crate::host::Host;
use crate::table::Slot;

/// Distinct reporters it takes: one lying child must not evict anybody.
const REPORTERS: usize = 3;

/// How long a complaint counts, and how long a ban lasts: a host with a repaired disk gets another chance.
const MEMORY: Duration = Duration::from_secs(600);

/// Complaints and bans, both bounded by `Limits::bans_max`.
#[derive(Debug, Default)]
pub(crate) struct Bans {
    complaints: BTreeMap<HostId, (Instant, Vec<HostId>)>,
    banned: BTreeMap<HostId, Instant>,
}

impl Bans {
    pub(crate) fn len(&self) -> usize {
        self.banned.len()
    }

    pub(crate) fn is_banned(&mut self, host: HostId, now: Instant) -> bool {
        if self.banned.get(&host).is_some_and(|until| *until <= now) {
            self.banned.remove(&host);
        }
        self.banned.contains_key(&host)
    }

    /// Counts a complaint; true when it is the one that bans: so many others must have complained.
    fn complain(
        &mut self,
        reporter: HostId,
        host: HostId,
        now: Instant,
        bans_max: usize,
        reporters_min: usize,
    ) -> bool {
        if self.complaints.len() >= bans_max {
            self.complaints.retain(|_, (until, _)| *until > now);
        }
        if self.banned.len() >= bans_max {
            self.banned.retain(|_, until| *until > now);
        }
        let is_full = self.complaints.len() >= bans_max && !self.complaints.contains_key(&host);
        if is_full || self.banned.len() >= bans_max {
            return false;
        }
        let (until, reporters) = self.complaints.entry(host).or_insert((now + MEMORY, Vec::new()));
        if *until <= now {
            (*until, *reporters) = (now + MEMORY, Vec::new());
        }
        if !reporters.contains(&reporter) {
            reporters.push(reporter);
        }
        if reporters.len() < reporters_min {
            return false;
        }
        self.complaints.remove(&host);
        // What it said of others counts no more.
        self.complaints.values_mut().for_each(|(_, reporters)| reporters.retain(|reporter| *reporter != host));
        self.banned.insert(host, now + MEMORY);
        true
    }
}

impl Cluster {
    /// Only a neighbor in the task may complain: nobody else was sent anything. And more must complain than are half of
    /// the neighbors that a peer has: ten liars among 1,000 hosts that complain of all their neighbors are three among
    /// the 32 of somebody, and with three reporters alone evicted an honest host in each simulated run. Whoever is lied
    /// to needs no ban to leave the liar alone, so that a late one costs little. (Half of the neighbors it has now would
    /// be too few: honest hosts that are done leave each other.)
    pub(crate) fn bad_host(&mut self, reporter: Slot<Host>, bad: HostId, task: TaskId) {
        let Some(host) = self.host_slots.get(&bad).copied() else { return };
        let (Some(peer), Some(other)) = (self.peer_of(host, task), self.peer_of(reporter, task)) else { return };
        if !self.are_neighbors(peer, other) {
            return;
        }
        let others = self.tasks[self.peers[peer].task].peers.len() - 1;
        let reporters_min = REPORTERS.max(others.min(self.config.degree_target as usize) / 2 + 1);
        let reporter = self.hosts[reporter].info.id;
        if !self.bans.complain(reporter, bad, self.now, self.config.limits.bans_max, reporters_min) {
            return;
        }
        self.counters.bans += 1;
        let linked: Vec<Slot<Host>> = self.hosts[host].pool.iter().map(|(_, link)| link.host).collect();
        for other in linked {
            self.send(other, ToHost::Ban { host: bad });
        }
        self.outputs.push_back(Output::Send { host: bad, message: ToHost::Ban { host: bad } });
        self.forget_host(host);
    }
}
