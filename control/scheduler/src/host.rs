//! A host: who it is, which other hosts it links with, and what it has.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use hawker_proto::Instant;
use hawker_proto::resolve::ResolveKey;

use crate::event::{HostInfo, OriginId, WantId, WantKey};
use crate::origin::Origin;
use crate::table::Slot;
use crate::task::{Peer, Task};

/// Most hosts one host links with, over all its tasks: a peer's neighbors are a bit mask over its host's pool.
pub(crate) const POOL_MAX: usize = 64;

/// One host of the cluster.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) info: HostInfo,
    /// 0: none.
    pub(crate) zone: u16,
    pub(crate) is_connected: bool,
    /// Not chosen for anything new.
    pub(crate) is_suspect: bool,
    /// It is being taken out of its tasks, some at a time, and is forgotten then.
    pub(crate) is_leaving: bool,
    pub(crate) last_seen: Instant,
    /// When it is forgotten unless it comes back.
    pub(crate) gone_at: Option<Instant>,
    /// Names this stay, for timers.
    pub(crate) stay: u64,
    pub(crate) pool: Pool,
    pub(crate) peers: Parts,
    pub(crate) wants: BTreeMap<WantId, OpenWant>,
}

impl Host {
    pub(crate) fn close_want(&mut self, want: WantId) {
        self.wants.remove(&want);
        if self.wants.is_empty() {
            // An emptied tree keeps a leaf of 2 KiB, more than all else that is known of a host.
            self.wants = BTreeMap::new();
        }
    }
}

/// A want that has no final answer yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenWant {
    pub(crate) key: WantKey,
    pub(crate) origin: Option<OriginId>,
    pub(crate) role: Role,
}

impl OpenWant {
    pub(crate) const fn waits(&self) -> bool {
        matches!(self.role, Role::Waits { .. })
    }
}

/// What the host of an open want does about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Somebody else resolves.
    Waits {
        /// Where it stands in line; perhaps no more.
        place: u64,
    },
    /// This host does.
    Resolves {
        key: ResolveKey,
        origin: Slot<Origin>,
        /// Names the attempt, for timers.
        attempt: u64,
        /// When it was told to.
        told_at: Instant,
        /// Another takes over when nothing is heard until then.
        silent_at: Instant,
        /// Only for itself: the answer was not to be shared.
        is_private: bool,
    },
}

/// The hosts a host links with, in places that stay theirs while any task uses the link.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    /// Places in use.
    taken: Places,
    /// Up to the highest place ever used. What stands at a place that is not taken means nothing.
    links: Vec<Link>,
}

/// One place in a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) host: Slot<Host>,
    /// This host's place in the other one's pool.
    pub(crate) back: u8,
    /// Tasks in which the two are neighbors.
    pub(crate) uses: u16,
}

impl Pool {
    /// The place of `host`.
    pub(crate) fn find(&self, host: Slot<Host>) -> Option<u8> {
        self.iter().find(|(_, link)| link.host == host).map(|(place, _)| place)
    }

    /// A place that nobody has; `None` when the pool is full.
    pub(crate) fn vacant(&self) -> Option<u8> {
        u8::try_from(self.taken.first_missing()).ok().filter(|place| usize::from(*place) < POOL_MAX)
    }

    pub(crate) const fn vacancies(&self) -> usize {
        POOL_MAX - self.taken.len() as usize
    }

    pub(crate) fn put(&mut self, place: u8, link: Link) {
        assert!(self.taken.insert(place), "the place is vacant");
        // Places are taken lowest first, so that there is no gap.
        match self.links.get_mut(usize::from(place)) {
            Some(row) => *row = link,
            None => self.links.push(link),
        }
    }

    pub(crate) fn at(&self, place: u8) -> Link {
        assert!(self.taken.contains(place), "a link is at its place");
        self.links[usize::from(place)]
    }

    pub(crate) fn join_use(&mut self, place: u8) {
        assert!(self.taken.contains(place), "a link is at its place");
        self.links[usize::from(place)].uses += 1;
    }

    /// One task less uses the link.
    pub(crate) fn leave_use(&mut self, place: u8) {
        assert!(self.taken.contains(place), "a link is at its place");
        let link = &mut self.links[usize::from(place)];
        link.uses -= 1;
        if link.uses == 0 {
            self.taken.remove(place);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u8, Link)> {
        self.taken.iter().map(|place| (place, self.links[usize::from(place)]))
    }
}

/// Places in a pool. In two words, which leaves a peer's row without padding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Places {
    low: u32,
    high: u32,
}

impl Places {
    const fn word(self) -> u64 {
        (self.high as u64) << 32 | self.low as u64
    }

    pub(crate) const fn len(self) -> u32 {
        self.word().count_ones()
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.word() == 0
    }

    pub(crate) const fn contains(self, place: u8) -> bool {
        self.word() >> place & 1 == 1
    }

    /// True when it was not there.
    pub(crate) const fn insert(&mut self, place: u8) -> bool {
        let was_there = self.contains(place);
        if place < 32 {
            self.low |= 1 << place;
        } else {
            self.high |= 1 << (place - 32);
        }
        !was_there
    }

    /// True when it was there.
    pub(crate) const fn remove(&mut self, place: u8) -> bool {
        let was_there = self.contains(place);
        if place < 32 {
            self.low &= !(1 << place);
        } else {
            self.high &= !(1 << (place - 32));
        }
        was_there
    }

    pub(crate) const fn first_missing(self) -> u32 {
        self.word().trailing_ones()
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = u8> {
        let mut rest = self.word();
        core::iter::from_fn(move || {
            let place = (rest != 0).then(|| rest.trailing_zeros())?;
            rest &= rest - 1;
            u8::try_from(place).ok()
        })
    }
}

/// A host's part in each of its tasks: sorted, for a tree's nodes would take twice the memory of up to 4,096 entries.
#[derive(Debug, Default)]
pub(crate) struct Parts(Vec<(Slot<Task>, Slot<Peer>)>);

impl Parts {
    pub(crate) const fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn place(&self, task: Slot<Task>) -> Result<usize, usize> {
        self.0.binary_search_by_key(&task, |(other, _)| *other)
    }

    pub(crate) fn get(&self, task: Slot<Task>) -> Option<Slot<Peer>> {
        self.place(task).ok().map(|place| self.0[place].1)
    }

    pub(crate) fn insert(&mut self, task: Slot<Task>, peer: Slot<Peer>) {
        let place = self.place(task).expect_err("one part per task");
        if self.0.len() == self.0.capacity() {
            // An eighth more instead of twice as much.
            self.0.reserve_exact((self.0.len() / 8).max(4));
        }
        self.0.insert(place, (task, peer));
    }

    pub(crate) fn remove(&mut self, task: Slot<Task>) {
        let place = self.place(task).expect("the host has a part in the task");
        self.0.remove(place);
    }

    pub(crate) fn last(&self) -> Option<Slot<Peer>> {
        self.0.last().map(|(_, peer)| *peer)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Slot<Task>, Slot<Peer>)> {
        self.0.iter().copied()
    }
}
