//! Who exchanges pieces with whom: a random graph per task, every peer with 30-40 neighbors when there are so many.
//!
//! Edges are symmetric and both ends are told. A pair of hosts is one place in each other's pool however many tasks
//! they share, and a peer's neighbors are a bit mask over its host's pool.

use alloc::vec;
use alloc::vec::Vec;

use hawker_proto::{HostId, TaskId};

use crate::cluster::{Cluster, Work};
use crate::event::{Neighbor, ToHost};
use crate::host::{Host, Link, POOL_MAX};
use crate::random::Random;
use crate::table::Slot;
use crate::task::{Peer, Task};

/// Peers looked at when a peer needs neighbors: three for each place leave room for choice, and keep the cost of a
/// join the same in a task of 100 and of 10,000.
const SAMPLE: usize = 96;

/// Edges opened up for a peer that finds nobody with a place left; each gives two.
const SPLITS_MAX: usize = 64;

/// Running peers that a holder is made known to even when they have neighbors enough: from four its pieces spread.
const OFFERS_MIN: u32 = 4;

impl Cluster {
    /// Gives `peer` neighbors until it has enough, and tells them. What it has then is for the caller to tell.
    pub(crate) fn find_neighbors(&mut self, peer: Slot<Peer>) -> Vec<Slot<Peer>> {
        if self.peers[peer].is_complete {
            return Vec::new();
        }
        let reserve = self.find_reserve(peer);
        if self.near_degree(peer) >= self.config.degree_min {
            return reserve;
        }
        let mut found = Vec::new();
        let candidates = self.candidates(peer);
        for other in &candidates {
            if self.near_degree(peer) >= self.config.degree_target {
                break;
            }
            if self.near_degree(*other) < self.config.degree_max && self.can_tie(peer, *other) {
                self.tie(peer, *other);
                found.push(*other);
            }
        }
        // Everybody is taken: go between two that are neighbors, which leaves their numbers as they were.
        for attempt in 0..SPLITS_MAX {
            if self.near_degree(peer) >= self.config.degree_min || candidates.is_empty() {
                break;
            }
            if let Some(two) = self.split(peer, candidates[attempt % candidates.len()]) {
                found.extend(two);
            }
        }
        for other in &found {
            let neighbor = self.neighbor_of(peer, *other);
            self.send_neighbors(*other, vec![neighbor], Vec::new());
        }
        found.extend(reserve);
        found
    }

    /// A holder came in that fetches nothing itself: running peers with too few neighbors get it, and a few do in any
    /// case, for it may have what nobody else has. They are told, and it is for the caller to tell.
    pub(crate) fn offer(&mut self, peer: Slot<Peer>) {
        if self.tasks[self.peers[peer].task].running_count == 0 {
            return;
        }
        for other in self.candidates(peer) {
            let (own, degree) = (self.near_degree(peer), self.near_degree(other));
            let is_needed = own < OFFERS_MIN || degree < self.config.degree_min;
            let has_room = own < self.config.degree_target && degree < self.config.degree_max;
            if self.peers[other].is_running && is_needed && has_room && self.can_tie(peer, other) {
                self.tie(peer, other);
                let neighbor = self.neighbor_of(peer, other);
                self.send_neighbors(other, vec![neighbor], Vec::new());
            }
        }
    }

    /// A peer that lost neighbors gets others.
    pub(crate) fn befriend(&mut self, host: HostId, task: TaskId) {
        let Some(host) = self.host_slots.get(&host).copied() else { return };
        let Some(peer) = self.peer_of(host, task) else { return };
        self.peers[peer].is_lonely = false;
        if self.hosts[host].is_suspect {
            return;
        }
        let found = self.find_neighbors(peer);
        if !found.is_empty() {
            let add = found.into_iter().map(|other| self.neighbor_of(other, peer)).collect();
            self.send_neighbors(peer, add, Vec::new());
        }
    }

    pub(crate) fn feel_lonely(&mut self, peer: Slot<Peer>) {
        let row = &self.peers[peer];
        if row.is_running && !row.is_lonely && self.near_degree(peer) < self.config.degree_min {
            let row = &mut self.peers[peer];
            row.is_lonely = true;
            let work = Work::Befriend { host: self.hosts[row.host].info.id, task: self.tasks[row.task].id };
            self.backlog.push_back(work);
        }
    }

    /// Peers of its zone that `peer` could be tied to, best first: hosts that it links with anyway.
    fn candidates(&mut self, peer: Slot<Peer>) -> Vec<Slot<Peer>> {
        let (host, task) = (self.peers[peer].host, self.peers[peer].task);
        let zone = self.hosts[host].zone;
        let members = &self.tasks[task].peers.zone(zone).expect("a peer stands in its zone").peers;
        let count = members.len();
        let mut scored: Vec<(bool, usize, Slot<Peer>)> = Vec::with_capacity(count.min(SAMPLE));
        let mut score = |random: &mut Random, other: Slot<Peer>| {
            let row = &self.peers[other];
            let there = &self.hosts[row.host];
            let place = self.hosts[host].pool.find(row.host);
            let is_neighbor = place.is_some_and(|place| self.peers[peer].mask.contains(place));
            let is_useless = row.is_complete && self.peers[peer].is_complete;
            if other != peer && !is_neighbor && !is_useless && !there.is_suspect && there.is_connected {
                scored.push((place.is_some(), random.below(usize::MAX), other));
            }
        };
        // A sample of a large task holds few of the hosts that this one links with, and places for links are few.
        if count > SAMPLE && self.hosts[host].pool.vacancies() + (self.peers[peer].degree() as usize) < POOL_MAX {
            for (_, link) in self.hosts[host].pool.iter() {
                let linked = self.hosts[link.host].peers.get(task).filter(|_| self.hosts[link.host].zone == zone);
                linked.into_iter().for_each(|other| score(&mut self.random, other));
            }
        }
        for sample in 0..count.min(SAMPLE) {
            let position = if count <= SAMPLE { sample } else { self.random.below(count) };
            score(&mut self.random, members[position]);
        }
        scored.sort_unstable_by(|a, b| b.cmp(a));
        let mut seen: Vec<Slot<Peer>> = Vec::with_capacity(scored.len());
        for (_, _, other) in scored {
            if !seen.contains(&other) {
                seen.push(other);
            }
        }
        seen
    }

    /// Cuts an edge of `other` and ties both its ends to `peer` instead.
    fn split(&mut self, peer: Slot<Peer>, other: Slot<Peer>) -> Option<[Slot<Peer>; 2]> {
        let (host, task) = (self.peers[peer].host, self.peers[peer].task);
        let edges = self.peers[other].degree();
        if edges == 0 || self.are_neighbors(peer, other) {
            return None;
        }
        let nth = self.random.below(edges as usize);
        let place = self.peers[other].mask.iter().nth(nth)?;
        let third = self.neighbor_peer(self.peers[other].host, task, place);
        let there = &self.hosts[self.peers[third].host];
        let is_far = there.zone != self.hosts[host].zone;
        if third == peer || is_far || self.are_neighbors(peer, third) || there.is_suspect || !there.is_connected {
            return None;
        }
        let is_last_use = self.hosts[self.peers[other].host].pool.at(place).uses == 1;
        let new_links = [other, third].map(|end| self.hosts[host].pool.find(self.peers[end].host).is_none());
        let vacancies = self.hosts[host].pool.vacancies();
        let fits = |end: Slot<Peer>, is_new: bool| {
            !is_new || is_last_use || self.hosts[self.peers[end].host].pool.vacant().is_some()
        };
        let wanted = new_links.iter().filter(|is_new| **is_new).count();
        if wanted > vacancies || !fits(other, new_links[0]) || !fits(third, new_links[1]) {
            return None;
        }
        self.cut(other, third);
        self.tie(peer, other);
        self.tie(peer, third);
        Some([other, third])
    }

    pub(crate) fn are_neighbors(&self, a: Slot<Peer>, b: Slot<Peer>) -> bool {
        let place = self.hosts[self.peers[a].host].pool.find(self.peers[b].host);
        place.is_some_and(|place| self.peers[a].mask.contains(place))
    }

    /// Whether the two hosts are linked already, or both have a place for it.
    pub(crate) fn can_tie(&self, a: Slot<Peer>, b: Slot<Peer>) -> bool {
        let (a, b) = (self.peers[a].host, self.peers[b].host);
        let has_place = |host: Slot<Host>| self.hosts[host].pool.vacant().is_some();
        a != b && (self.hosts[a].pool.find(b).is_some() || has_place(a) && has_place(b))
    }

    /// Makes two peers neighbors. Tells nobody.
    pub(crate) fn tie(&mut self, a: Slot<Peer>, b: Slot<Peer>) {
        let (host_a, host_b) = (self.peers[a].host, self.peers[b].host);
        let (place_a, place_b) = match self.hosts[host_a].pool.find(host_b) {
            Some(place) => (place, self.hosts[host_a].pool.at(place).back),
            None => self.link(host_a, host_b),
        };
        let far = u8::from(self.hosts[host_a].zone != self.hosts[host_b].zone);
        for (peer, host, place) in [(a, host_a, place_a), (b, host_b, place_b)] {
            self.hosts[host].pool.join_use(place);
            self.peers[peer].far_degree += far;
            assert!(self.peers[peer].mask.insert(place), "not neighbors yet");
        }
    }

    fn link(&mut self, a: Slot<Host>, b: Slot<Host>) -> (u8, u8) {
        let place_a = self.hosts[a].pool.vacant().expect("checked by the caller");
        let place_b = self.hosts[b].pool.vacant().expect("checked by the caller");
        self.hosts[a].pool.put(place_a, Link { host: b, back: place_b, uses: 0 });
        self.hosts[b].pool.put(place_b, Link { host: a, back: place_a, uses: 0 });
        (place_a, place_b)
    }

    /// Ends a neighborhood, and tells both.
    pub(crate) fn cut(&mut self, a: Slot<Peer>, b: Slot<Peer>) {
        let (host_a, host_b) = (self.peers[a].host, self.peers[b].host);
        let place_a = self.hosts[host_a].pool.find(host_b).expect("neighbors are linked");
        let place_b = self.hosts[host_a].pool.at(place_a).back;
        let far = u8::from(self.hosts[host_a].zone != self.hosts[host_b].zone);
        for (peer, host, place, other) in [(a, host_a, place_a, host_b), (b, host_b, place_b, host_a)] {
            assert!(self.peers[peer].mask.remove(place), "they are neighbors");
            self.hosts[host].pool.leave_use(place);
            self.peers[peer].far_degree -= far;
            let id = self.hosts[other].info.id;
            self.send_neighbors(peer, Vec::new(), vec![id]);
        }
    }

    pub(crate) fn neighbor_at(&self, host: Slot<Host>, place: u8) -> Neighbor {
        self.neighbor(self.hosts[host].pool.at(place).host, host)
    }

    /// What `to` is told of `peer`.
    pub(crate) fn neighbor_of(&self, peer: Slot<Peer>, to: Slot<Peer>) -> Neighbor {
        self.neighbor(self.peers[peer].host, self.peers[to].host)
    }

    fn neighbor(&self, host: Slot<Host>, to: Slot<Host>) -> Neighbor {
        let row = &self.hosts[host];
        Neighbor { id: row.info.id, address: row.info.address, is_remote: row.zone != self.hosts[to].zone }
    }

    pub(crate) fn neighbor_peer(&self, host: Slot<Host>, task: Slot<Task>, place: u8) -> Slot<Peer> {
        let other = self.hosts[host].pool.at(place).host;
        self.hosts[other].peers.get(task).expect("neighbors share the task")
    }

    pub(crate) fn send_neighbors(&mut self, peer: Slot<Peer>, add: Vec<Neighbor>, remove: Vec<HostId>) {
        let row = &self.peers[peer];
        let (host, task) = (row.host, self.tasks[row.task].id);
        self.send(host, ToHost::Neighbors { task, add, remove });
    }
}
