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
    pub(crate) last_seen: Instant,
    /// When it is forgotten unless it comes back.
    pub(crate) gone_at: Option<Instant>,
    /// Names this stay, for timers.
    pub(crate) stay: u64,
    pub(crate) pool: Pool,
    pub(crate) peers: BTreeMap<Slot<Task>, Slot<Peer>>,
    pub(crate) wants: BTreeMap<WantId, OpenWant>,
}

/// A want that has no final answer yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenWant {
    pub(crate) key: WantKey,
    pub(crate) origin: Option<OriginId>,
    pub(crate) role: Role,
}

/// What the host of an open want does about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Somebody else resolves.
    Waits,
    /// This host does.
    Resolves {
        key: ResolveKey,
        origin: Slot<Origin>,
        /// Names the attempt, for timers.
        attempt: u64,
        /// Another takes over when nothing is heard until then.
        silent_at: Instant,
        /// Only for itself: the answer was not to be shared.
        is_private: bool,
    },
}

/// The hosts a host links with, in places that stay theirs while any task uses the link.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    links: Vec<Option<Link>>,
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
        let place = self.links.iter().position(|link| link.is_some_and(|link| link.host == host))?;
        u8::try_from(place).ok()
    }

    /// A place that nobody has; `None` when the pool is full.
    pub(crate) fn vacant(&self) -> Option<u8> {
        let place = self.links.iter().position(Option::is_none).unwrap_or(self.links.len());
        u8::try_from(place).ok().filter(|_| place < POOL_MAX)
    }

    pub(crate) fn put(&mut self, place: u8, link: Link) {
        let place = usize::from(place);
        if place == self.links.len() {
            self.links.push(None);
        }
        assert!(self.links[place].is_none(), "the place is vacant");
        self.links[place] = Some(link);
    }

    pub(crate) fn at(&self, place: u8) -> Link {
        self.links[usize::from(place)].expect("a link is at its place")
    }

    pub(crate) fn join_use(&mut self, place: u8) {
        self.links[usize::from(place)].as_mut().expect("a link is at its place").uses += 1;
    }

    /// One task less uses the link.
    pub(crate) fn leave_use(&mut self, place: u8) {
        let link = self.links[usize::from(place)].as_mut().expect("a link is at its place");
        link.uses -= 1;
        if link.uses == 0 {
            self.links[usize::from(place)] = None;
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u8, Link)> {
        (0..=u8::MAX).zip(&self.links).filter_map(|(place, link)| Some((place, (*link)?)))
    }
}

/// The places set in a peer's mask.
pub(crate) fn places(mask: u64) -> impl Iterator<Item = u8> {
    let mut rest = mask;
    core::iter::from_fn(move || {
        let place = (rest != 0).then(|| rest.trailing_zeros())?;
        rest &= rest - 1;
        u8::try_from(place).ok()
    })
}
