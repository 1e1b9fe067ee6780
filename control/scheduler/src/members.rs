//! The peers of one task, zone by zone.

use alloc::vec::Vec;

use hawker_proto::Stripes;

use crate::table::Slot;
use crate::task::Peer;

const STRIPES: usize = Stripes::COUNT as usize;

/// Peers in lists, one for each zone that has any. Hosts without a zone are in one together.
#[derive(Debug, Default)]
pub(crate) struct Members {
    /// Sorted by number.
    zones: Vec<Zone>,
    len: usize,
    /// Peers that have been asked in the round of reports.
    asked: usize,
}

/// A place in the lists.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Position {
    zone: u16,
    index: usize,
}

impl Position {
    /// After the last.
    pub(crate) const END: Self = Self { zone: u16::MAX, index: usize::MAX };
}

/// The peers of one zone.
#[derive(Debug)]
pub(crate) struct Zone {
    pub(crate) number: u16,
    pub(crate) peers: Vec<Slot<Peer>>,
    /// The first so many of them have been asked in the round of reports.
    asked: usize,
    /// Who brings each stripe in. Only kept while there are several zones.
    pub(crate) importers: [Option<Slot<Peer>>; STRIPES],
    /// Stripes that an importer is to be looked for.
    pub(crate) sought: Stripes,
    /// Who was told so.
    pub(crate) told: [Option<Slot<Peer>>; STRIPES],
}

impl Members {
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether there are several zones.
    pub(crate) const fn is_zoned(&self) -> bool {
        self.zones.len() > 1
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Slot<Peer>> {
        self.zones.iter().flat_map(|zone| zone.peers.iter().copied())
    }

    pub(crate) fn zones(&self) -> &[Zone] {
        &self.zones
    }

    pub(crate) fn zone(&self, number: u16) -> Option<&Zone> {
        let at = self.find(number).ok()?;
        self.zones.get(at)
    }

    pub(crate) fn zone_mut(&mut self, number: u16) -> Option<&mut Zone> {
        let at = self.find(number).ok()?;
        self.zones.get_mut(at)
    }

    /// The peer at `nth` of `iter`, counted from 0.
    pub(crate) fn nth(&self, mut nth: usize) -> Option<Slot<Peer>> {
        for zone in &self.zones {
            match zone.peers.get(nth) {
                Some(peer) => return Some(*peer),
                None => nth -= zone.peers.len(),
            }
        }
        None
    }

    /// Where the peer stands in its zone's list.
    pub(crate) fn push(&mut self, zone: u16, peer: Slot<Peer>) -> u32 {
        let at = self.find(zone).unwrap_or_else(|at| {
            let [importers, told] = [[None; STRIPES]; 2];
            let empty = Zone { number: zone, peers: Vec::new(), asked: 0, importers, sought: Stripes::NONE, told };
            self.zones.insert(at, empty);
            at
        });
        self.len += 1;
        let peers = &mut self.zones[at].peers;
        if peers.is_empty() {
            // Most cached tasks have one holder in a zone: room for four would cost more than the peer's own entry.
            peers.reserve_exact(1);
        }
        peers.push(peer);
        u32::try_from(peers.len() - 1).expect("no more peers than hosts")
    }

    /// Takes out the peer at `position`; who stands where now. Those that were asked stay the first of their list.
    pub(crate) fn remove(&mut self, zone: u16, position: u32) -> [Option<(Slot<Peer>, u32)>; 2] {
        let at = self.find(zone).expect("a peer stands in its zone");
        let row = &mut self.zones[at];
        let first = position as usize;
        let mut hole = first;
        if first < row.asked {
            row.asked -= 1;
            self.asked -= 1;
            hole = row.asked;
            row.peers.swap(first, hole);
        }
        let gone = row.peers.swap_remove(hole);
        for place in row.importers.iter_mut().chain(&mut row.told).filter(|place| **place == Some(gone)) {
            *place = None;
        }
        let moved = [first, hole].map(|index| {
            let peer = row.peers.get(index).copied()?;
            Some((peer, u32::try_from(index).expect("no more peers than hosts")))
        });
        if row.peers.is_empty() {
            self.zones.remove(at);
        }
        self.len -= 1;
        moved
    }

    /// The last peer before `from`, and where it stands.
    pub(crate) fn before(&self, from: Position) -> Option<(Position, Slot<Peer>)> {
        let zones = self.zones.iter().rev().filter(|row| row.number <= from.zone);
        zones.into_iter().find_map(|row| {
            let end = if row.number == from.zone { from.index.min(row.peers.len()) } else { row.peers.len() };
            let index = end.checked_sub(1)?;
            Some((Position { zone: row.number, index }, row.peers[index]))
        })
    }

    /// A round of reports starts.
    pub(crate) fn forget_asked(&mut self) {
        self.asked = 0;
        for zone in &mut self.zones {
            zone.asked = 0;
        }
    }

    /// A peer that was not asked yet; it counts as asked from now on.
    pub(crate) fn next_to_ask(&mut self) -> Option<Slot<Peer>> {
        let zone = self.zones.iter_mut().find(|zone| zone.asked < zone.peers.len())?;
        zone.asked += 1;
        self.asked += 1;
        Some(zone.peers[zone.asked - 1])
    }

    pub(crate) const fn are_all_asked(&self) -> bool {
        self.asked >= self.len
    }

    fn find(&self, number: u16) -> Result<usize, usize> {
        self.zones.binary_search_by_key(&number, |zone| zone.number)
    }
}

impl Zone {
    /// What `peer` brings in.
    pub(crate) fn stripes_of(&self, peer: Slot<Peer>) -> Stripes {
        stripes_of(&self.importers, peer)
    }

    /// What `peer` was told to bring in.
    pub(crate) fn told_to(&self, peer: Slot<Peer>) -> Stripes {
        stripes_of(&self.told, peer)
    }
}

fn stripes_of(importers: &[Option<Slot<Peer>>; STRIPES], peer: Slot<Peer>) -> Stripes {
    let own = importers.iter().enumerate().filter(|(_, importer)| **importer == Some(peer));
    own.fold(Stripes::NONE, |stripes, (index, _)| stripes.with(index))
}
