//! Zones: few wires lead from one to another, so each piece should enter a zone once.
//!
//! In a task whose peers are in several zones, each zone has an *importer* for every stripe of pieces: the host that
//! wins a rendezvous (the highest hash of task, stripe and host; Thaler and Ravishankar 1998) among those that import
//! nothing else. So it stays the same while others come and go, other tasks have others, and when it goes the next one
//! in line takes over. Nobody has two stripes unless the zone has fewer hosts than stripes: it would be its zone's
//! bottleneck. Importers are linked with importers of other zones; all others have neighbors in their own zone, and two
//! elsewhere in reserve.

use alloc::vec::Vec;
use core::cmp::Reverse;

use hawker_proto::Stripes;

use crate::cluster::{Cluster, Work};
use crate::event::{Neighbor, ToHost};
use crate::host::Host;
use crate::table::Slot;
use crate::task::{Peer, Task};

/// Neighbors in other zones that an importer is given ...
const FAR_TARGET: u8 = 16;
/// ... and that it has at most, when others were given it. With the most that it has in its own zone this fills a pool.
const FAR_MAX: u8 = 24;
/// Neighbors in other zones that any other host has, for the time when its importers fail it.
const FAR_RESERVE: u8 = 2;
/// ... and at most.
const FAR_RESERVE_MAX: u8 = 6;
/// Peers looked at for each of these.
const RESERVE_TRIES: u8 = 4;

impl Cluster {
    pub(crate) fn zone_of_peer(&self, peer: Slot<Peer>) -> u16 {
        self.hosts[self.peers[peer].host].zone
    }

    /// Whether the peers of the task are in several zones.
    pub(crate) fn is_zoned(&self, task: Slot<Task>) -> bool {
        self.tasks[task].peers.is_zoned()
    }

    /// Neighbors in the peer's own zone: those that count for its degree.
    pub(crate) fn near_degree(&self, peer: Slot<Peer>) -> u32 {
        let row = &self.peers[peer];
        row.degree() - u32::from(row.far_degree)
    }

    /// The places of its neighbors in other zones.
    pub(crate) fn far_places(&self, peer: Slot<Peer>) -> impl Iterator<Item = u8> {
        let row = &self.peers[peer];
        let host = &self.hosts[row.host];
        row.mask.iter().filter(|place| self.hosts[host.pool.at(*place).host].zone != host.zone)
    }

    /// Whether others of its zone, and not this peer, bring pieces in.
    pub(crate) fn is_bystander(&self, peer: Slot<Peer>) -> bool {
        self.is_zoned(self.peers[peer].task) && self.stripes_of(peer) == Stripes::NONE
    }

    fn stripes_of(&self, peer: Slot<Peer>) -> Stripes {
        let zone = self.tasks[self.peers[peer].task].peers.zone(self.zone_of_peer(peer));
        zone.map_or(Stripes::NONE, |zone| zone.stripes_of(peer))
    }

    /// A peer came in, or can be chosen again: it takes a stripe of a host that has two, or one that it wins.
    pub(crate) fn contest(&mut self, peer: Slot<Peer>) {
        let task = self.peers[peer].task;
        if !self.is_zoned(task) {
            return;
        }
        let unserved = self.tasks[task].peers.zones().iter().filter(|zone| zone.importers.contains(&None));
        let numbers: Vec<u16> = unserved.map(|zone| zone.number).collect();
        for number in numbers {
            self.seek_importers(task, number);
        }
        if !self.can_import(peer) || self.stripes_of(peer) != Stripes::NONE {
            return;
        }
        let number = self.zone_of_peer(peer);
        let zone = self.tasks[task].peers.zone(number).expect("a peer stands in its zone");
        let won = zone.importers.iter().enumerate().filter_map(|(stripe, importer)| {
            let other = (*importer)?;
            let has_two = zone.stripes_of(other).bits().count_ones() > 1;
            let rank = self.rank(peer, stripe);
            (has_two || self.rank(other, stripe) < rank).then_some((has_two, rank, stripe))
        });
        if let Some((.., stripe)) = won.max() {
            self.tasks[task].peers.zone_mut(number).expect("found above").importers[stripe] = Some(peer);
            self.rewire_soon(task);
        }
    }

    /// The peer cannot be relied on any more: others bring in its stripes.
    pub(crate) fn vacate(&mut self, peer: Slot<Peer>) {
        let (task, number) = (self.peers[peer].task, self.zone_of_peer(peer));
        if let Some(zone) = self.tasks[task].peers.zone_mut(number) {
            for place in zone.importers.iter_mut().filter(|place| **place == Some(peer)) {
                *place = None;
            }
        }
        self.seek_importers(task, number);
    }

    /// Has an importer looked for, soon, for each stripe of the zone that has none.
    pub(crate) fn seek_importers(&mut self, task: Slot<Task>, number: u16) {
        if !self.is_zoned(task) {
            return;
        }
        let Some(zone) = self.tasks[task].peers.zone_mut(number) else { return };
        let vacant = zone.importers.iter().enumerate().filter(|(_, importer)| importer.is_none());
        zone.sought = vacant.fold(Stripes::NONE, |stripes, (index, _)| stripes.with(index));
        self.rewire_soon(task);
    }

    /// Looks at all of one zone for one stripe. False when none is sought.
    fn find_importer(&mut self, task: Slot<Task>) -> bool {
        let mut zones = self.tasks[task].peers.zones().iter();
        let Some(zone) = zones.find(|zone| zone.sought != Stripes::NONE) else { return false };
        let stripe = zone.sought.bits().trailing_zeros() as usize;
        let load = |peer: Slot<Peer>| zone.stripes_of(peer).bits().count_ones();
        let able = zone.peers.iter().copied().filter(|peer| self.can_import(*peer));
        let found = able.max_by_key(|peer| (Reverse(load(*peer)), self.rank(*peer, stripe)));
        let number = zone.number;
        let zone = self.tasks[task].peers.zone_mut(number).expect("found above");
        zone.sought = zone.sought.without(stripe);
        zone.importers[stripe] = zone.importers[stripe].or(found);
        true
    }

    fn rewire_soon(&mut self, task: Slot<Task>) {
        if !core::mem::replace(&mut self.tasks[task].is_rewiring, true) {
            self.backlog.push_back(Work::Rewire { task });
        }
    }

    pub(crate) fn can_import(&self, peer: Slot<Peer>) -> bool {
        let row = &self.peers[peer];
        let host = &self.hosts[row.host];
        host.is_connected && !host.is_suspect && !row.is_stale
    }

    /// Who is highest brings the stripe in. A slow link is the last choice.
    fn rank(&self, peer: Slot<Peer>, stripe: usize) -> (bool, u64) {
        let row = &self.peers[peer];
        let head = |id: &[u8; 32]| id.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let host = head(&self.hosts[row.host].info.id.0);
        (!self.is_slow(peer), mix(mix(head(&self.tasks[row.task].id.0) ^ stripe as u64) ^ host))
    }

    /// Finds one importer that is missing, or tells those of one zone what is new and links them. True when there is
    /// more.
    pub(crate) fn rewire(&mut self, task: Slot<Task>) -> bool {
        if self.tasks.get(task).is_none() {
            return false;
        }
        if !self.is_zoned(task) {
            self.tasks[task].is_rewiring = false;
            return false;
        }
        if self.find_importer(task) {
            return true;
        }
        let Some(zone) = self.tasks[task].peers.zones().iter().find(|zone| zone.importers != zone.told) else {
            self.tasks[task].is_rewiring = false;
            return false;
        };
        let (number, old, new) = (zone.number, zone.told, zone.importers);
        let mut peers: Vec<Slot<Peer>> = old.iter().chain(&new).filter_map(|peer| *peer).collect();
        peers.sort_unstable();
        peers.dedup();
        let changes: Vec<_> = peers.into_iter().map(|peer| (peer, zone.told_to(peer), zone.stripes_of(peer))).collect();
        self.tasks[task].peers.zone_mut(number).expect("found above").told = new;
        for (peer, _, after) in changes.into_iter().filter(|(_, before, after)| before != after) {
            if after == Stripes::NONE {
                self.dismiss(peer);
            } else {
                self.link_importer(peer, after);
            }
            self.tell_stripes(peer, after);
        }
        true
    }

    fn tell_stripes(&mut self, peer: Slot<Peer>, stripes: Stripes) {
        let (host, task) = (self.peers[peer].host, self.tasks[self.peers[peer].task].id);
        self.send(host, ToHost::Imports { task, stripes });
    }

    /// A peer that starts anew hears what it was told before.
    pub(crate) fn remind_of_stripes(&mut self, peer: Slot<Peer>) {
        let zone = self.tasks[self.peers[peer].task].peers.zone(self.zone_of_peer(peer));
        let told = zone.map_or(Stripes::NONE, |zone| zone.told_to(peer));
        if told != Stripes::NONE {
            self.tell_stripes(peer, told);
        }
    }

    /// Links an importer with those of other zones: first with those of its stripes, zone by zone, then with others.
    fn link_importer(&mut self, peer: Slot<Peer>, stripes: Stripes) {
        let own = self.zone_of_peer(peer);
        let zones = self.tasks[self.peers[peer].task].peers.zones().len();
        let from = self.random.below(zones);
        let mut wished: Vec<Slot<Peer>> = Vec::new();
        for is_same in [true, false] {
            let zones = self.tasks[self.peers[peer].task].peers.zones();
            let (before, after) = zones.split_at(from);
            let mut found: Vec<Slot<Peer>> = Vec::new();
            for zone in after.iter().chain(before).filter(|zone| zone.number != own) {
                let importers = zone.importers.iter().enumerate().filter(|(at, _)| stripes.has(*at) == is_same);
                found.extend(importers.filter_map(|(_, importer)| *importer));
            }
            if !is_same {
                self.random.shuffle(&mut found);
            }
            wished.extend(found);
        }
        let mut add: Vec<Neighbor> = Vec::new();
        for other in wished {
            if self.peers[peer].far_degree >= FAR_TARGET {
                break;
            }
            add.extend(self.tie_far(peer, other, FAR_MAX));
        }
        if !add.is_empty() {
            self.send_neighbors(peer, add, Vec::new());
        }
    }

    /// Makes two peers of different zones neighbors, and tells the other one; what to tell this one.
    fn tie_far(&mut self, peer: Slot<Peer>, other: Slot<Peer>, far_max: u8) -> Option<Neighbor> {
        let is_useless = self.peers[peer].is_complete && self.peers[other].is_complete;
        let is_full = self.peers[other].far_degree >= far_max;
        let can_be = self.can_import(other) && self.zone_of_peer(peer) != self.zone_of_peer(other);
        if !can_be || is_useless || is_full || self.are_neighbors(peer, other) || !self.can_tie(peer, other) {
            return None;
        }
        self.tie(peer, other);
        let neighbor = self.neighbor_of(peer, other);
        self.send_neighbors(other, Vec::from([neighbor]), Vec::new());
        Some(self.neighbor_of(other, peer))
    }

    /// A peer that is no importer any more keeps a reserve.
    fn dismiss(&mut self, peer: Slot<Peer>) {
        let (host, task) = (self.peers[peer].host, self.peers[peer].task);
        let surplus: Vec<u8> = self.far_places(peer).skip(usize::from(FAR_RESERVE)).collect();
        for place in surplus {
            let other = self.neighbor_peer(host, task, place);
            self.cut(peer, other);
        }
    }

    /// Ties a peer to a few of other zones. They are told, and it is for the caller to tell.
    pub(crate) fn find_reserve(&mut self, peer: Slot<Peer>) -> Vec<Slot<Peer>> {
        let task = self.peers[peer].task;
        let mut found = Vec::new();
        if !self.is_zoned(task) {
            return found;
        }
        for _ in 0..FAR_RESERVE * RESERVE_TRIES {
            if self.peers[peer].far_degree >= FAR_RESERVE {
                break;
            }
            let nth = self.random.below(self.tasks[task].peers.len());
            let other = self.tasks[task].peers.nth(nth).expect("below their count");
            // Importers keep their places for each other.
            if self.stripes_of(other) == Stripes::NONE && self.tie_far(peer, other, FAR_RESERVE_MAX).is_some() {
                found.push(other);
            }
        }
        found
    }

    /// The host is silent or cut off: what it imports goes to others.
    pub(crate) fn vacate_all(&mut self, host: Slot<Host>) {
        let peers = self.hosts[host].peers.iter().map(|(_, peer)| peer);
        let importers: Vec<_> = peers.filter(|peer| self.stripes_of(*peer) != Stripes::NONE).collect();
        importers.into_iter().for_each(|peer| self.vacate(peer));
    }

    /// The host is heard of again.
    pub(crate) fn contest_all(&mut self, host: Slot<Host>) {
        let peers: Vec<Slot<Peer>> = self.hosts[host].peers.iter().map(|(_, peer)| peer).collect();
        for peer in peers {
            self.contest(peer);
        }
    }
}

/// SplitMix64's finalizer: every bit of the input changes every bit of the output.
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
