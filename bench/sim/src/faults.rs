//! Faults of networks and disks that nobody's intent is behind: connections that break, bodies that end early, pieces
//! that are lost when they are written or when they are read.

use std::time::Duration;

use hawker_proto::PieceIndex;
use hawker_scheduler::LeaseOutcome;
use hawker_swarm::{DownloadInput, LeaseId, LinkId, NeighborId, OriginOutcome, UploadInput};

use crate::Scenario;
use crate::clock::Draws;
use crate::event::{Event, Message};
use crate::network::Transmission;
use crate::peer::PeerId;
use crate::world::World;

/// Keeps these draws apart from all others of the run.
const SALT: u64 = 0x00fa_0175;

/// An agent dials a host that it lost, or does not reach, so often.
const REDIAL: Duration = Duration::from_millis(250);

/// What an agent waits when an origin sends nothing and does not say for how long.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How often what goes wrong.
pub(crate) struct Faults {
    draws: Draws,
    lost_writes: u32,
    rotten_reads: u32,
    broken_bodies: u32,
}

impl Faults {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        Self {
            draws: Draws::new(scenario.seed ^ SALT),
            lost_writes: scenario.lost_writes_ppm,
            rotten_reads: scenario.rotten_reads_ppm,
            broken_bodies: scenario.broken_bodies_ppm,
        }
    }

    /// One draw; none where nothing can happen.
    fn happens(draws: &mut Draws, parts_per_million: u32) -> bool {
        parts_per_million > 0 && draws.below(1_000_000) < u64::from(parts_per_million)
    }
}

impl World<'_> {
    /// Whether the piece that is to be stored is lost instead: the next one has to come.
    pub(crate) fn loses_write(&mut self, at: PeerId, piece: PieceIndex) -> bool {
        let is_lost = Faults::happens(&mut self.faults.draws, self.faults.lost_writes);
        if is_lost {
            self.lose(at, piece);
        }
        is_lost
    }

    /// Whether the piece is not here any more, or turns out rotten, as a block of it is read for a child: the child is told,
    /// and the piece comes again.
    pub(crate) fn withholds(&mut self, from: PeerId, link: LinkId, piece: PieceIndex) -> bool {
        if self.is_liar(from.host) {
            return false;
        }
        let has_piece = self.peer(from).download.has_piece(piece);
        let is_rotten = has_piece && Faults::happens(&mut self.faults.draws, self.faults.rotten_reads);
        if is_rotten {
            self.stored.remove(from, piece);
            let was_whole = self.reopen(from);
            self.lose(from, piece);
            if was_whole {
                self.fetch_log.note_announced(from);
                self.announce_to_scheduler(from);
            }
        }
        if is_rotten || !has_piece {
            self.send(from, link.0, Message::Gone { piece });
        }
        is_rotten || !has_piece
    }

    /// A task that was whole is not any more; false when it was not.
    fn reopen(&mut self, at: PeerId) -> bool {
        let was_whole = self.peer_mut(at).done_at.take().is_some();
        if was_whole {
            let host = &mut self.hosts[at.host as usize];
            host.tasks_left += 1;
            self.unfinished += u32::from(host.done_at.take().is_some());
        }
        was_whole
    }

    fn lose(&mut self, at: PeerId, piece: PieceIndex) {
        self.peer_mut(at).lose(piece);
        self.fetch_log.note_lost(at, piece);
        self.download(at, DownloadInput::PieceLost { piece });
    }

    /// Perhaps the connection of a fetch breaks here.
    pub(crate) fn break_body(&mut self, at: PeerId, lease: LeaseId) {
        if !Faults::happens(&mut self.faults.draws, self.faults.broken_bodies) {
            return;
        }
        let rest = self.close_fetch(at, lease).expect("a fetch whose body arrives");
        assert!(!rest.is_empty(), "a body that has not ended");
        self.lease_over(at.host, lease);
        self.download(at, DownloadInput::OriginEnded { lease, outcome: failed(Duration::ZERO) });
    }

    /// A fetch of a host that reaches nobody.
    pub(crate) fn fetch_in_vain(&mut self, at: PeerId, lease: LeaseId) {
        self.end_lease(at.host, lease, Some(LeaseOutcome::Failed { retry_after: RETRY_AFTER }));
        self.download(at, DownloadInput::OriginEnded { lease, outcome: failed(RETRY_AFTER) });
    }

    /// All connections of some host break, and for a while it gets no new one.
    pub(crate) fn cut(&mut self) {
        let host = u32::try_from(self.faults.draws.below(u64::from(self.scenario.hosts))).expect("a host");
        let now = self.clock.now();
        let row = &mut self.hosts[host as usize];
        if !row.is_up || row.is_leaving || row.is_cut || row.liar.is_some() {
            return;
        }
        (row.is_cut, row.cut_at, row.cuts) = (true, now, row.cuts + 1);
        row.uplink.cut();
        self.disconnect(host);
        for (peer, lease) in self.origin.of_host(host) {
            self.close_fetch(peer, lease);
            self.fetch_in_vain(peer, lease);
        }
        for at in self.peers_of(host) {
            self.download(at, DownloadInput::Scheduler { is_connected: false });
            for child in core::mem::take(&mut self.peer_mut(at).children) {
                self.break_channel(PeerId { host: child, ..at }, host);
            }
            let parents: Vec<u32> = self.peer(at).parents.iter().filter(|(_, up)| **up).map(|(id, _)| *id).collect();
            for parent in parents {
                self.peer_mut(PeerId { host: parent, ..at }).children.retain(|child| *child != host);
                self.break_channel(at, parent);
            }
        }
        self.serve_origin();
        self.clock.push(now + self.scenario.cut_for, Event::Heal { host });
    }

    /// The child sees it, and dials again; the parent frees what it holds for the child.
    fn break_channel(&mut self, child: PeerId, parent: u32) {
        self.peer_mut(child).parents.insert(parent, false);
        self.clock.push(self.clock.now() + REDIAL, Event::Linked { child, parent });
        self.download(child, DownloadInput::NeighborDown { neighbor: NeighborId(parent) });
        if self.hosts[parent as usize].served.remove(&child.host).is_some() {
            self.hosts[parent as usize].uplink.cut_off(child.host);
            self.upload(parent, UploadInput::LinkDown { link: LinkId(child.host) });
        }
    }

    pub(crate) fn heal(&mut self, host: u32) {
        self.hosts[host as usize].is_cut = false;
        self.clock.push(self.clock.now() + REDIAL, Event::Connect { host });
    }

    /// Whether the channel cannot be opened now; then it is tried again.
    pub(crate) fn is_out_of_reach(&mut self, child: PeerId, parent: u32) -> bool {
        let is_cut = [child.host, parent].into_iter().any(|host| self.hosts[host as usize].is_cut);
        if is_cut {
            self.clock.push(self.clock.now() + REDIAL, Event::Linked { child, parent });
        }
        is_cut
    }

    /// Changes with every cut of either: what travels on a connection that broke never arrives.
    pub(crate) fn connection(&self, from: u32, to: u32) -> u32 {
        self.hosts[from as usize].cuts + self.hosts[to as usize].cuts
    }

    pub(crate) fn is_of_this_connection(&self, from: u32, block: &Transmission) -> bool {
        block.connection == self.connection(from, block.to.host)
    }
}

fn failed(retry_after: Duration) -> OriginOutcome {
    OriginOutcome::Failed { retry_after }
}
