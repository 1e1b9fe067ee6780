//! Links between hosts, and the channels of the tasks on them: whom a host links with, and what its children hear.

use std::collections::btree_map::Entry;
use std::time::Duration;

use hawker_proto::{HostId, Instant, PieceIndex};
use hawker_scheduler::Neighbor;
use hawker_swarm::{DownloadInput, LinkId, NeighborId, UploadInput};

use crate::event::Event;
use crate::peer::PeerId;
use crate::world::World;

/// One way trips until a link carries channels: TCP and the two messages of the handshake, each way.
const LINK_TRIPS: u32 = 4;
/// ... and until a channel carries requests: OPEN and HAVE.
const CHANNEL_TRIPS: u32 = 2;
/// A parent that does not know the task yet answers OPEN when it does.
const CHANNEL_RETRY: Duration = Duration::from_millis(1);

impl World<'_> {
    /// Opens the task with the hosts that the scheduler named: on the link to each, or on a new one.
    pub(crate) fn link_with(&mut self, child: PeerId, parents: &[Neighbor]) {
        let now = self.clock.now();
        for Neighbor { id, is_remote, .. } in parents {
            let Some(parent) = self.scheduler.index_of(*id) else { continue };
            assert_eq!(*is_remote, self.borders.is_between(child.host, parent), "the scheduler knows the zones");
            assert_ne!(parent, child.host, "a host is not its own neighbor");
            if self.hosts[child.host as usize].shunned.contains(&parent) {
                continue;
            }
            if let Entry::Vacant(entry) = self.peer_mut(child).parents.entry(parent) {
                entry.insert(false);
                let latency = self.latency(child.host, parent);
                let dialed = &mut self.hosts[child.host as usize].dialed;
                let ready: Instant = *dialed.entry(parent).or_insert(now + latency * LINK_TRIPS);
                self.clock.push(ready.max(now) + latency * CHANNEL_TRIPS, Event::Linked { child, parent });
            }
        }
    }

    /// The channel that `child` opened carries requests now.
    pub(crate) fn linked(&mut self, child: PeerId, parent: u32) {
        let is_wanted = self.peer(child).parents.get(&parent) == Some(&false);
        if !is_wanted || !self.hosts[child.host as usize].is_up {
            return;
        }
        if self.is_out_of_reach(child, parent) {
            return;
        }
        if !self.hosts[parent as usize].is_up || self.hosts[parent as usize].is_leaving {
            self.peer_mut(child).parents.remove(&parent);
            self.hosts[child.host as usize].dialed.remove(&parent);
            return;
        }
        let server = PeerId { host: parent, ..child };
        if !self.peer(server).is_ready || !self.peer(child).is_ready {
            self.clock.push(self.clock.now() + CHANNEL_RETRY, Event::Linked { child, parent });
            return;
        }
        self.peer_mut(child).parents.insert(parent, true);
        self.peer_mut(server).children.push(child.host);
        let channels = self.hosts[parent as usize].served.entry(child.host).or_insert(0);
        *channels += 1;
        if *channels == 1 {
            self.upload(parent, UploadInput::LinkUp { link: LinkId(child.host) });
        }
        let round_trip = self.latency(child.host, parent) * 2;
        let is_remote = self.borders.is_between(child.host, parent);
        self.download(child, DownloadInput::NeighborUp { neighbor: NeighborId(parent), round_trip, is_remote });
        for piece in self.peer(server).stored().iter() {
            self.tell(child, parent, piece);
        }
        self.claim_all(parent, child);
    }

    /// The scheduler ended the neighborhood.
    pub(crate) fn unlink(&mut self, child: PeerId, parent: HostId) {
        if let Some(parent) = self.scheduler.index_of(parent) {
            self.close_channel(child, parent);
        }
    }

    /// The child closes the channel, and the link with its last one.
    pub(crate) fn close_channel(&mut self, child: PeerId, parent: u32) {
        if self.peer_mut(child).parents.remove(&parent) != Some(true) {
            return;
        }
        self.download(child, DownloadInput::NeighborDown { neighbor: NeighborId(parent) });
        self.peer_mut(PeerId { host: parent, ..child }).children.retain(|other| *other != child.host);
        let served = &mut self.hosts[parent as usize].served;
        let channels = served.get_mut(&child.host).expect("an open channel is on a link");
        *channels -= 1;
        if *channels == 0 {
            served.remove(&child.host);
            self.hosts[child.host as usize].dialed.remove(&parent);
            self.upload(parent, UploadInput::LinkDown { link: LinkId(child.host) });
        }
    }

    /// The links of a dead host break, those with the hosts it served and with those that served it.
    pub(crate) fn bereft(&mut self, host: u32) {
        self.disconnect(host);
        for at in self.peers_of(host) {
            for other in core::mem::take(&mut self.peer_mut(at).children) {
                let child = PeerId { host: other, ..at };
                self.peer_mut(child).parents.remove(&host);
                self.hosts[other as usize].dialed.remove(&host);
                self.download(child, DownloadInput::NeighborDown { neighbor: NeighborId(host) });
            }
            for (other, _) in core::mem::take(&mut self.peer_mut(at).parents) {
                self.peer_mut(PeerId { host: other, ..at }).children.retain(|child| *child != host);
                if self.hosts[other as usize].served.remove(&host).is_some() {
                    self.hosts[other as usize].uplink.cut_off(host);
                    self.upload(other, UploadInput::LinkDown { link: LinkId(host) });
                }
            }
        }
        self.serve_origin();
    }

    /// A host's children hear that it has the piece: at once where the link is idle, else behind the block in its
    /// socket.
    pub(crate) fn announce(&mut self, at: PeerId, piece: PieceIndex) {
        let (delay, now) = (self.scenario.have_delay, self.clock.now());
        for index in 0..self.peer(at).children.len() {
            let child = PeerId { host: self.peer(at).children[index], ..at };
            self.messages += 1;
            // Who has the piece learns nothing from it. That is half of all announcements, the most frequent input.
            if self.stored.contains(child, piece) {
                continue;
            }
            let mut later = self.borders.latency(at.host, child.host);
            if let Some(leaves_at) = self.hosts[at.host as usize].uplink.first_leaves_at(child.host) {
                later += leaves_at.since(now).min(delay);
            }
            if later.is_zero() {
                self.tell(child, at.host, piece);
            } else {
                self.clock.push(now + later, Event::Have { to: child, from: at.host, piece });
            }
        }
    }

    /// `child` learns that `parent` has the piece, with its record the first time.
    pub(crate) fn tell(&mut self, child: PeerId, parent: u32, piece: PieceIndex) {
        if !self.hosts[child.host as usize].is_up {
            return;
        }
        if self.recorded.insert(child, piece) {
            self.download(child, DownloadInput::Records { pieces: vec![piece] });
        }
        self.download(child, DownloadInput::HavePiece { neighbor: NeighborId(parent), piece });
    }
}
