//! Every fetch from the origin, and why a piece may leave it again.

use std::collections::BTreeSet;
use std::fmt;

use hawker_proto::{ByteRange, Geometry, Instant, PieceIndex};
use hawker_swarm::LeaseId;

use crate::peer::PeerId;
use crate::world::World;

/// Whose leave a fetch has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Right {
    /// A lease of the scheduler in this life.
    Lease { life: u64 },
    /// Likewise, on what hosts have already: they are slower than the origin.
    Sale { life: u64 },
    /// The host's own allowance: nobody tells it what others fetch.
    Allowance,
}

/// One fetch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fetched {
    peer: PeerId,
    lease: LeaseId,
    right: Right,
    range: ByteRange,
    began: Instant,
    /// When it was over, and the first byte that had not arrived then.
    end: Option<(Instant, u64)>,
}

/// Why a piece that was fetched before may be fetched again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// The earlier fetch ended before the piece was there: cut off, refused, or stopped.
    CutShort,
    /// Whoever fetched it died, or left.
    HolderGone,
    /// Either of the two is under an allowance.
    Unasked,
    /// The scheduler that knew of the earlier fetch is gone.
    NewScheduler,
    /// It was sold for the first time.
    Sold,
    /// The scheduler asked whoever fetched it what it had while the piece waited for the disk, or the disk lost it.
    NotThere,
    /// Whoever fetched it lost its connections, and the scheduler learned nothing from it until they were back.
    Cut,
    /// Whoever fetched it only says so: it announced anew what it has, since its disk rotted.
    Announced,
}

/// Whether a host could have told what it has.
#[derive(Clone, Copy, Debug)]
struct Standing {
    is_up: bool,
    /// When it lost its connections last.
    cut_at: Option<Instant>,
}

/// All fetches of a run.
pub(crate) struct FetchLog {
    tasks: Vec<Geometry>,
    fetches: Vec<Fetched>,
    /// Of each piece of each task, its fetches.
    of_piece: Vec<Vec<Vec<u32>>>,
    /// Pieces that had arrived and were not written when their hosts announced what they had, or that a disk lost.
    not_there: BTreeSet<(PeerId, PieceIndex)>,
    /// Who announced a task anew that it had already.
    announced: BTreeSet<PeerId>,
}

impl FetchLog {
    pub(crate) fn new(tasks: &[Geometry]) -> Self {
        let of_task = |geometry: &Geometry| vec![Vec::new(); geometry.piece_count() as usize];
        let of_piece = tasks.iter().map(of_task).collect();
        Self {
            tasks: tasks.to_vec(),
            fetches: Vec::new(),
            of_piece,
            not_there: BTreeSet::new(),
            announced: BTreeSet::new(),
        }
    }

    /// Notes a fetch that begins.
    ///
    /// # Panics
    /// When a piece of it was fetched before, and there is no reason to fetch it again.
    fn begin(&mut self, fetch: Fetched, standing: impl Fn(u32) -> Standing) {
        let index = u32::try_from(self.fetches.len()).expect("fetches are counted in u32");
        let task = usize::from(fetch.peer.task);
        for piece in self.tasks[task].pieces_within(fetch.range).map(PieceIndex) {
            let end = self.tasks[task].piece_range(piece).end();
            let earlier = &mut self.of_piece[task][piece.0 as usize];
            for before in earlier.iter().map(|index| &self.fetches[*index as usize]) {
                let is_not_there = self.not_there.contains(&(before.peer, piece));
                let standing = standing(before.peer.host);
                let reason = before.reason(&fetch, end, standing).or(is_not_there.then_some(Reason::NotThere));
                let reason = reason.or(self.announced.contains(&before.peer).then_some(Reason::Announced));
                assert!(
                    reason.is_some(),
                    "piece {} is fetched again without a reason: first by {before}, now by {fetch}",
                    piece.0
                );
            }
            earlier.push(index);
        }
        self.fetches.push(fetch);
    }

    /// Notes that a fetch is over, and the first byte that had not arrived.
    pub(crate) fn end(&mut self, peer: PeerId, lease: LeaseId, at: Instant, upto: u64) {
        let is_it = |fetch: &&mut Fetched| fetch.peer == peer && fetch.lease == lease && fetch.end.is_none();
        let fetch = self.fetches.iter_mut().rev().find(is_it).expect("a fetch that began");
        fetch.end = Some((at, upto));
    }

    /// Notes that a host announced what it has without a piece that it is about to write.
    pub(crate) fn note_unwritten(&mut self, peer: PeerId, piece: PieceIndex) {
        self.not_there.insert((peer, piece));
    }

    /// Notes that a host lost a piece that it had.
    pub(crate) fn note_lost(&mut self, peer: PeerId, piece: PieceIndex) {
        self.not_there.insert((peer, piece));
    }

    /// Notes that a host announced a task anew that it had already.
    pub(crate) fn note_announced(&mut self, peer: PeerId) {
        self.announced.insert(peer);
    }

    /// Whether a fetch of the piece began at some time.
    pub(crate) fn has_asked(&self, task: u16, piece: PieceIndex) -> bool {
        !self.of_piece[usize::from(task)][piece.0 as usize].is_empty()
    }
}

impl fmt::Display for Fetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { peer: PeerId { host, task }, right, range, began, end, .. } = self;
        let at = |at: &Instant| at.since(Instant::ZERO);
        write!(
            f,
            "host {host} ({right:?}, bytes {}..{} of task {task}) at {:?}",
            range.start(),
            range.end(),
            at(began)
        )?;
        match end {
            Some((over, upto)) => write!(f, " until {:?}, when it had those below {upto}", at(over)),
            None => f.write_str(", not over"),
        }
    }
}

impl Fetched {
    /// Why `again` may fetch a piece that ends at `end` and that this fetch was to bring.
    fn reason(&self, again: &Self, end: u64, standing: Standing) -> Option<Reason> {
        match (self.right, again.right) {
            _ if self.end.is_some_and(|(_, upto)| upto < end) => Some(Reason::CutShort),
            _ if !standing.is_up => Some(Reason::HolderGone),
            _ if standing.cut_at.is_some_and(|at| at >= self.began) => Some(Reason::Cut),
            (Right::Allowance, _) | (_, Right::Allowance) => Some(Reason::Unasked),
            (Right::Lease { .. }, Right::Sale { .. }) => Some(Reason::Sold),
            (
                Right::Lease { life: before } | Right::Sale { life: before },
                Right::Lease { life } | Right::Sale { life },
            ) => (before != life).then_some(Reason::NewScheduler),
        }
    }
}

impl World<'_> {
    /// Notes a fetch that begins now.
    pub(crate) fn log_fetch(&mut self, peer: PeerId, lease: LeaseId, range: ByteRange) {
        let control = &self.hosts[peer.host as usize].control;
        let right = match control.life_of(lease) {
            None => Right::Allowance,
            Some(life) if self.peer(peer).is_buying => Right::Sale { life },
            Some(life) => Right::Lease { life },
        };
        let fetch = Fetched { peer, lease, right, range, began: self.clock.now(), end: None };
        let hosts = &self.hosts;
        self.fetch_log.begin(fetch, |host| {
            let row = &hosts[host as usize];
            Standing { is_up: row.is_up && !row.is_leaving, cut_at: (row.cuts > 0).then_some(row.cut_at) }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASED: Right = Right::Lease { life: 1 };
    const UP: Standing = Standing { is_up: true, cut_at: None };

    fn log() -> FetchLog {
        FetchLog::new(&[Geometry::of_length(4 * 64 * 1024).expect("a length that a task can have")])
    }

    /// A fetch of the first `pieces` by the host, whose lease has the same number.
    fn fetch(host: u32, right: Right, pieces: u64) -> Fetched {
        let range = ByteRange::new(0, pieces * 64 * 1024).expect("in order");
        let (peer, lease) = (PeerId { host, task: 0 }, LeaseId(u64::from(host)));
        Fetched { peer, lease, right, range, began: Instant::ZERO, end: None }
    }

    fn end(log: &mut FetchLog, host: u32, pieces: u64) {
        log.end(PeerId { host, task: 0 }, LeaseId(u64::from(host)), Instant::ZERO, pieces * 64 * 1024);
    }

    #[test]
    fn piece_leaves_the_origin_again_for_each_reason() {
        let mut log = log();
        log.begin(fetch(1, LEASED, 2), |_| UP);
        end(&mut log, 1, 0);
        log.begin(fetch(2, LEASED, 2), |_| UP);
        end(&mut log, 2, 2);
        log.begin(fetch(3, Right::Allowance, 1), |_| UP);
        log.begin(fetch(4, Right::Lease { life: 2 }, 1), |_| UP);
        log.begin(fetch(5, Right::Lease { life: 3 }, 1), |_| UP);
        log.begin(fetch(6, LEASED, 2), |host| Standing { is_up: host != 2, ..UP });
        end(&mut log, 6, 2);
        log.note_unwritten(PeerId { host: 6, task: 0 }, PieceIndex(1));
        let second = Fetched { range: ByteRange::new(64 * 1024, 128 * 1024).expect("in order"), ..fetch(7, LEASED, 2) };
        log.begin(second, |host| Standing { is_up: host != 2, ..UP });
        assert!(log.has_asked(0, PieceIndex(1)) && !log.has_asked(0, PieceIndex(2)));
    }

    #[test]
    #[should_panic(expected = "piece 0 is fetched again without a reason: first by host 1")]
    fn piece_that_a_living_host_has_is_not_fetched_again() {
        let mut log = log();
        log.begin(fetch(1, LEASED, 2), |_| UP);
        end(&mut log, 1, 1);
        log.begin(fetch(2, LEASED, 2), |_| UP);
    }

    #[test]
    #[should_panic(expected = "piece 0 is fetched again without a reason: first by host 2")]
    fn piece_is_sold_once() {
        let mut log = log();
        log.begin(fetch(1, LEASED, 1), |_| UP);
        end(&mut log, 1, 1);
        log.begin(fetch(2, Right::Sale { life: 1 }, 1), |_| UP);
        end(&mut log, 2, 1);
        log.begin(fetch(3, Right::Sale { life: 1 }, 1), |_| UP);
    }

    #[test]
    #[should_panic(expected = "of task 0) at 0ns, not over, now by host 2")]
    fn piece_on_its_way_is_not_fetched_again() {
        let mut log = log();
        log.begin(fetch(1, LEASED, 1), |_| UP);
        log.begin(fetch(2, LEASED, 1), |_| UP);
    }
}
