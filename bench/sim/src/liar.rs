//! Hosts that lie. They want the task like all others and never go to the origin (what they sign would count), but cheat
//! those whom they serve, the scheduler, or both.
//!
//! An honest host checks every block against its record, as an agent does: wrong bytes reach its machine as
//! `BlockBad` and never its disk. Signatures cannot be forged, so a liar passes on only records that it was given.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hawker_proto::{PieceIndex, PieceMap};
use hawker_scheduler::{Input, ResolveFailure, WantId};
use hawker_swarm::{DownloadInput, NeighborId};

use crate::Scenario;
use crate::agent::id_of;
use crate::clock::Draws;
use crate::event::{Event, Message};
use crate::network::Transmission;
use crate::peer::PeerId;
use crate::world::World;

/// How often a liar does what it need not be asked for: below every timeout, so that a trickle looks alive.
const TICK: Duration = Duration::from_millis(80);
/// Ticks from one round of accusations, or of claims, to the next.
const ROUND_TICKS: u64 = 12;
/// Hosts accused in a round.
const ACCUSED: u32 = 20;
/// What an honest host loses to one liar at most, in each task.
const WASTED_PIECES_MAX: u64 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    /// One in so many blocks that it sends is wrong.
    WrongBytes { one_in: u64 },
    /// Says that it has everything, and sends junk.
    ClaimsAndSendsJunk,
    /// Says that it has everything, then that it is gone, and again that it has it.
    ClaimsAndHasNot,
    /// Accepts requests and grants none.
    NeverGrants,
    /// Grants at once, and sends a byte now and then.
    Trickles,
    /// Grants, and takes the grant back before a block has left.
    Revokes,
    /// Withdraws every request as soon as its parent may have begun to serve it.
    Cancels,
}

const LIES: [Lie; 8] = [
    Lie::WrongBytes { one_in: 1 },
    Lie::WrongBytes { one_in: 5 },
    Lie::ClaimsAndSendsJunk,
    Lie::ClaimsAndHasNot,
    Lie::NeverGrants,
    Lie::Trickles,
    Lie::Revokes,
    Lie::Cancels,
];

/// What a liar keeps.
#[derive(Debug)]
pub(crate) struct Liar {
    lie: Lie,
    /// It reports honest hosts to the scheduler, the same ones as all that do: at most two where the scheduler may know
    /// the liars before the honest hosts, for then nobody could tell who lies.
    accuses: bool,
    /// It tells the scheduler that it has everything, again and again.
    claims_to_scheduler: bool,
    /// What children asked for and will not get.
    owed: BTreeSet<(u32, u16, PieceIndex)>,
    blocks_sent: u64,
    ticks: u64,
}

impl Liar {
    /// The `nth` liar of a swarm: kinds go round from a random first one, so that few liars are of many kinds.
    pub(crate) fn new(nth: usize, scenario: &Scenario) -> Self {
        let mut draws = Draws::new(scenario.seed);
        let first = usize::try_from(draws.below(LIES.len() as u64)).expect("small");
        let lie = LIES[(first + nth) % LIES.len()];
        Self {
            lie,
            accuses: nth < 2 || scenario.knows_all_hosts(),
            claims_to_scheduler: (draws.below(2) == 0) == nth.is_multiple_of(2),
            owed: BTreeSet::new(),
            blocks_sent: 0,
            ticks: 0,
        }
    }

    const fn claims_all(&self) -> bool {
        matches!(self.lie, Lie::ClaimsAndSendsJunk | Lie::ClaimsAndHasNot)
    }
}

impl Scenario {
    /// Whether the scheduler knows the honest hosts at any time at which it knows the liars.
    const fn knows_all_hosts(&self) -> bool {
        self.start_spread.is_zero() && self.scheduler_away.is_none() && self.cuts == 0
    }
}

/// Bytes that liars made honest hosts receive in vain: by liar and child.
#[derive(Debug, Default)]
pub(crate) struct Harm(BTreeMap<(u32, PeerId), u64>);

impl Harm {
    /// Notes bad bytes; what one liar cost one child so far.
    pub(crate) fn add(&mut self, liar: u32, child: PeerId, bytes: u32) -> u64 {
        let sum = self.0.entry((liar, child)).or_default();
        *sum += u64::from(bytes);
        *sum
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.values().sum()
    }
}

impl World<'_> {
    pub(crate) fn is_liar(&self, host: u32) -> bool {
        self.hosts[host as usize].liar.is_some()
    }

    pub(crate) fn begin_to_lie(&mut self, host: u32) {
        if self.is_liar(host) {
            self.clock.push(self.clock.now() + TICK, Event::Lie { host });
        }
    }

    /// What the host tells the scheduler that it has: a liar everything or nothing.
    pub(crate) fn claimed_to_scheduler(&self, peer: PeerId) -> PieceMap {
        let count = self.peer(peer).geometry.piece_count();
        match &self.hosts[peer.host as usize].liar {
            Some(liar) if liar.claims_to_scheduler => PieceMap::full(count),
            Some(_) => PieceMap::empty(count),
            None => self.peer(peer).stored(),
        }
    }

    /// A liar told to resolve says that it could not: an answer of its own making would be another task.
    pub(crate) fn decline_resolve(&mut self, host: u32, want: WantId) {
        let failure = ResolveFailure { is_final: false, status: 0, text: "liar".into() };
        let id = self.hosts[host as usize].control.id;
        self.say(host, Input::ResolveFailed { host: id, want, failure });
    }

    /// A request reached a liar; false when it goes to its upload, as an honest host's would.
    pub(crate) fn lie_about_request(&mut self, at: PeerId, child: u32, piece: PieceIndex) -> bool {
        let Some(liar) = &mut self.hosts[at.host as usize].liar else { return false };
        match liar.lie {
            Lie::WrongBytes { .. } | Lie::ClaimsAndSendsJunk | Lie::Cancels => return false,
            Lie::ClaimsAndHasNot => {
                liar.owed.insert((child, at.task, piece));
                self.send(at, child, Message::Gone { piece });
            }
            Lie::NeverGrants => self.send(at, child, Message::Queued { piece }),
            Lie::Trickles | Lie::Revokes => {
                liar.owed.insert((child, at.task, piece));
                self.send(at, child, Message::Granted { blocks: 64, millis: 2000 });
            }
        }
        true
    }

    /// The child withdrew what it asked of the piece.
    pub(crate) fn forgive(&mut self, at: PeerId, child: u32, piece: PieceIndex) {
        if let Some(liar) = self.hosts[at.host as usize].liar.as_mut().filter(|liar| !liar.claims_all()) {
            liar.owed.remove(&(child, at.task, piece));
        }
    }

    /// A request that the host makes is one it withdraws.
    pub(crate) fn withdraws_requests(&self, host: u32) -> bool {
        self.hosts[host as usize].liar.as_ref().is_some_and(|liar| liar.lie == Lie::Cancels)
    }

    /// Whether the next block that the host sends is wrong.
    pub(crate) fn falsifies(&mut self, host: u32) -> bool {
        let Some(liar) = &mut self.hosts[host as usize].liar else { return false };
        liar.blocks_sent += 1;
        match liar.lie {
            Lie::WrongBytes { one_in } => liar.blocks_sent.is_multiple_of(one_in),
            Lie::ClaimsAndSendsJunk => true,
            _ => false,
        }
    }

    /// A child linked with a liar that says it has everything.
    pub(crate) fn claim_all(&mut self, host: u32, child: PeerId) {
        if self.hosts[host as usize].liar.as_ref().is_some_and(Liar::claims_all) {
            for piece in (0..self.peer(child).geometry.piece_count()).map(PieceIndex) {
                self.download(child, DownloadInput::HavePiece { neighbor: NeighborId(host), piece });
            }
        }
    }

    /// What a liar does by itself.
    pub(crate) fn lie(&mut self, host: u32) {
        let Some(liar) = &mut self.hosts[host as usize].liar else { return };
        liar.ticks += 1;
        let (lie, ticks, accuses, claims) = (liar.lie, liar.ticks, liar.accuses, liar.claims_to_scheduler);
        let owed = match lie {
            Lie::ClaimsAndHasNot if !ticks.is_multiple_of(ROUND_TICKS) => BTreeSet::new(),
            Lie::ClaimsAndHasNot => core::mem::take(&mut liar.owed),
            _ => liar.owed.clone(),
        };
        for (child, task, piece) in owed {
            let (at, child) = (PeerId { host, task }, PeerId { host: child, task });
            if self.peer(child).parents.get(&host) != Some(&true) {
                continue;
            }
            match lie {
                Lie::ClaimsAndHasNot => {
                    self.download(child, DownloadInput::HavePiece { neighbor: NeighborId(host), piece });
                }
                Lie::Trickles => self.download(child, DownloadInput::Arriving { neighbor: NeighborId(host) }),
                Lie::Revokes if ticks.is_multiple_of(2) => {
                    self.send(at, child.host, Message::Granted { blocks: 64, millis: 2000 });
                }
                Lie::Revokes => self.send(at, child.host, Message::Queued { piece }),
                _ => {}
            }
        }
        if accuses && ticks.is_multiple_of(ROUND_TICKS) {
            self.accuse(host, ticks / ROUND_TICKS);
        }
        if claims && ticks.is_multiple_of(ROUND_TICKS) {
            let known = self.peers_of(host).filter(|peer| self.peer(*peer).is_ready).collect::<Vec<_>>();
            known.into_iter().for_each(|peer| self.announce_to_scheduler(peer));
        }
        self.clock.push(self.clock.now() + TICK, Event::Lie { host });
    }

    /// Reports hosts to the scheduler, in an order that all liars agree on.
    fn accuse(&mut self, host: u32, round: u64) {
        let round = u32::try_from(round).unwrap_or(u32::MAX);
        for nth in 0..ACCUSED.min(self.scenario.hosts) {
            let victim = round.wrapping_mul(ACCUSED).wrapping_add(nth) % self.scenario.hosts;
            if !self.is_liar(victim) {
                let id = |host: u32| self.hosts[host as usize].control.id;
                let input = Input::BadHost { reporter: id(host), host: id(victim), task: id_of(0) };
                self.say(host, input);
            }
        }
    }

    /// A wrong block reached an honest host, which finds that it differs from its record.
    pub(crate) fn refuse_block(&mut self, from: u32, block: Transmission) {
        let lost = self.harm.add(from, block.to, block.bytes);
        // Agents count lies by host; the machines, by link.
        let links = 1 + u64::from(self.connection(from, block.to.host));
        let most = links * WASTED_PIECES_MAX * u64::from(self.peer(block.to).geometry.piece_bytes());
        assert!(lost <= most, "{:?} lost {lost} bytes to the liar {from}, seed {}", block.to, self.scenario.seed);
        let neighbor = NeighborId(from);
        self.download(block.to, DownloadInput::BlockBad { neighbor, piece: block.piece, block: block.block });
    }

    /// The host will have nothing to do with its parent any more, and says so.
    pub(crate) fn shun(&mut self, child: PeerId, parent: u32) {
        assert!(self.is_liar(parent), "an honest host is shunned, seed {}", self.scenario.seed);
        let id = self.hosts[parent as usize].control.id;
        let reporter = self.hosts[child.host as usize].control.id;
        self.hosts[child.host as usize].shunned.insert(parent);
        self.unlink(child, id);
        self.say(child.host, Input::BadHost { reporter, host: id, task: id_of(child.task) });
    }

    /// The scheduler banned a host: its neighbors leave it, and it is told nothing more.
    pub(crate) fn banned(&mut self, host: u32, bad: u32) {
        assert!(self.is_liar(bad), "an honest host was banned, seed {}", self.scenario.seed);
        if host == bad {
            self.hosts[host as usize].control.lose_stream();
        } else {
            let id = self.hosts[bad as usize].control.id;
            self.peers_of(host).for_each(|peer| self.unlink(peer, id));
        }
    }
}
