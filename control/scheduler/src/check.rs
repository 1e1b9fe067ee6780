//! What must hold after every event. Tests and simulators call it; it costs as much as everything known.

use alloc::collections::BTreeMap;

use crate::cluster::Cluster;
use crate::host::Role;
use crate::table::Slot;
use crate::task::{Peer, Task, Tracking};

impl Cluster {
    /// Checks every invariant.
    ///
    /// # Panics
    /// When one does not hold: a bug here, whatever agents sent.
    pub fn assert_invariants(&self) {
        self.assert_hosts();
        self.assert_neighbors();
        self.assert_tasks();
        self.assert_budgets();
        self.assert_resolves();
        self.inline.assert_invariants(self.config.limits.inline_bytes_max);
        self.tags.assert_invariants(self.config.limits.tags_max);
    }

    fn assert_hosts(&self) {
        assert_eq!(self.host_slots.len(), self.hosts.len(), "one name per host");
        let mut peers = 0;
        for (slot, host) in self.hosts.iter() {
            assert_eq!(self.host_slots.get(&host.info.id), Some(&slot));
            assert!(host.peers.len() <= self.config.limits.tasks_per_host_max);
            assert!(host.wants.len() <= self.config.limits.wants_per_host_max);
            for (task, peer) in host.peers.iter() {
                let row = &self.peers[peer];
                assert!(row.host == slot && row.task == task, "a host's peer is its own");
                let zone = self.tasks[task].peers.zone(host.zone).expect("its zone is in the task");
                assert_eq!(zone.peers[row.position as usize], peer, "and stands in its task");
            }
            peers += host.peers.len();
        }
        assert_eq!(peers, self.peers.len(), "every peer has a host");
    }

    fn assert_neighbors(&self) {
        for (slot, host) in self.hosts.iter() {
            let mut uses: BTreeMap<u8, u16> = BTreeMap::new();
            for (_, peer) in host.peers.iter() {
                let row = &self.peers[peer];
                assert!(self.near_degree(peer) <= self.config.degree_max, "{} neighbors", row.degree());
                assert_eq!(usize::from(row.far_degree), self.far_places(peer).count());
                for place in row.mask.iter() {
                    *uses.entry(place).or_default() += 1;
                    let link = host.pool.at(place);
                    let other = self.neighbor_peer(slot, row.task, place);
                    assert!(self.peers[other].mask.contains(link.back), "neighbors are symmetric");
                    assert_eq!(self.hosts[link.host].pool.at(link.back).host, slot, "links are symmetric");
                }
            }
            for (place, link) in host.pool.iter() {
                assert_eq!(uses.get(&place), Some(&link.uses), "a link is used by whom it says");
            }
        }
    }

    fn assert_tasks(&self) {
        assert_eq!(self.task_slots.len(), self.tasks.len(), "one name per task");
        let mut leases = 0;
        for (slot, task) in self.tasks.iter() {
            assert!(!task.peers.is_empty(), "a task has a peer");
            let count = |is: &dyn Fn(&Peer) -> bool| task.peers.iter().filter(|peer| is(&self.peers[*peer])).count();
            assert_eq!(count(&|peer| peer.is_complete), task.complete_count as usize);
            assert_eq!(count(&|peer| peer.is_running), task.running_count as usize);
            assert_eq!(count(&|peer| peer.is_complete && peer.is_running), 0);
            assert_eq!(count(&|peer| peer.ask.is_some()), task.asks.len());
            for (key, ask) in &task.asks {
                assert_eq!(self.peers[ask.peer].ask, Some(*key));
            }
            assert_eq!(!matches!(task.pieces, Tracking::Each(_)), task.complete_count > 0);
            for lease in &task.leases {
                assert_eq!(self.lease_tasks.get(&lease.serial), Some(&slot));
                assert!(lease.reported <= lease.bytes);
                assert!(self.hosts[lease.holder].peers.get(slot).is_some(), "a holder is a peer");
            }
            self.assert_importers(task);
            leases += task.leases.len();
            self.assert_pieces(task);
        }
        assert_eq!(leases, self.lease_tasks.len());
    }

    fn assert_importers(&self, task: &Task) {
        for zone in task.peers.zones().iter().filter(|_| task.peers.is_zoned()) {
            let is_served = task.is_rewiring || zone.importers.iter().all(Option::is_some);
            let is_able = |peer: &Slot<Peer>| self.can_import(*peer);
            assert!(is_served || !zone.peers.iter().any(is_able), "whoever could import does");
            for importer in zone.importers.iter().flatten() {
                assert!(zone.peers.contains(importer) && is_able(importer), "an importer is there for its zone");
            }
            assert!(task.is_rewiring || zone.importers == zone.told, "importers are told");
        }
    }

    fn assert_pieces(&self, task: &Task) {
        let (Tracking::Each(pieces) | Tracking::Sale(pieces)) = &task.pieces else { return };
        pieces.assert_invariants();
        for (index, lease) in task.leases.iter().enumerate() {
            assert!(pieces.is_taken(&lease.pieces), "a leased piece is not free");
            for other in &task.leases[..index] {
                let is_apart = lease.pieces.end <= other.pieces.start || other.pieces.end <= lease.pieces.start;
                assert!(is_apart, "no piece is leased twice");
            }
        }
        if matches!(task.pieces, Tracking::Sale(_)) {
            return;
        }
        for piece in 0..task.geometry.piece_count() {
            if let Some(holder) = pieces.holder(piece) {
                let is_peer = task.peers.iter().any(|peer| self.peers[peer].host == holder);
                assert!(is_peer, "a piece's holder is a peer");
            }
        }
    }

    fn assert_budgets(&self) {
        for (slot, origin) in self.origins.iter() {
            let open: usize = self
                .tasks
                .iter()
                .filter(|(_, task)| task.origin == Some(slot))
                .map(|(_, task)| task.leases.len())
                .sum();
            let is_here = |role: &Role| matches!(role, Role::Resolves { origin, .. } if *origin == slot);
            let resolving =
                self.hosts.iter().flat_map(|(_, host)| host.wants.values()).filter(|want| is_here(&want.role));
            assert_eq!(origin.leases as usize, open, "leases at an origin");
            assert_eq!(origin.connections as usize, open + resolving.count(), "connections at an origin");
            let adopted = u32::try_from(self.counters.leases_adopted).unwrap_or(u32::MAX);
            let connections_max = self.config.origin_connections_max.saturating_add(adopted);
            assert!(origin.connections <= connections_max, "the budget holds but for leases of an earlier life");
            let left: u64 = self
                .tasks
                .iter()
                .filter(|(_, task)| task.origin == Some(slot))
                .flat_map(|(_, task)| &task.leases)
                .map(|lease| lease.bytes - lease.reported)
                .sum();
            assert_eq!(origin.outstanding, left, "bytes outstanding");
            assert!(!origin.is_unused(), "an origin that nobody names is forgotten");
        }
    }

    fn assert_resolves(&self) {
        for (key, entry) in &self.resolves {
            if let Some((host, want)) = entry.active {
                let open = self.host_slots.get(&host).and_then(|host| self.hosts[*host].wants.get(&want));
                let is_resolving =
                    open.is_some_and(|open| matches!(open.role, Role::Resolves { key: at, .. } if at == *key));
                assert!(is_resolving, "the active resolver resolves");
            }
        }
    }
}
