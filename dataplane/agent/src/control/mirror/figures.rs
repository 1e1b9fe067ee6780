//! What the mirror counts. Labels are of fixed sets: no name of a registry, repository or tag is one.

use std::sync::atomic::{AtomicU64, Ordering};

/// A count that any thread changes.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ping,
    Manifest,
    Blob,
    List,
    Other,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] = [Self::Ping, Self::Manifest, Self::Blob, Self::List, Self::Other];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Manifest => "manifest",
            Self::Blob => "blob",
            Self::List => "list",
            Self::Other => "other",
        }
    }
}

/// Where a content's bytes came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    Cache,
    Peer,
    Origin,
}

impl From {
    pub(crate) const ALL: [Self; 3] = [Self::Cache, Self::Peer, Self::Origin];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Cache => "cache",
            Self::Peer => "peer",
            Self::Origin => "origin",
        }
    }
}

/// Classes of status: 2xx, 3xx, 4xx, 5xx.
const CLASSES: usize = 4;

#[derive(Debug, Default)]
pub(crate) struct Figures {
    requests: [[Count; CLASSES]; Kind::ALL.len()],
    /// Bytes of blobs and manifests, by where this host got them from.
    bytes: [Count; From::ALL.len()],
    /// Questions to registries whether a caller may come in.
    pub(crate) checks: Count,
    /// Contents that were here already.
    pub(crate) hits: Count,
    /// Contents given when a registry could not be asked.
    pub(crate) stale: Count,
    /// Layers wanted before anybody asked for them.
    pub(crate) wanted: Count,
}

impl Figures {
    pub(crate) fn request(&self, kind: Kind, status: u16) {
        let class = usize::from(status / 100).clamp(2, 5) - 2;
        self.requests[kind as usize][class].add(1);
    }

    pub(crate) fn bytes(&self, from: From, count: u64) {
        self.bytes[from as usize].add(count);
    }

    /// Kind, class of status, count.
    pub(crate) fn requests(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let classes = ["2xx", "3xx", "4xx", "5xx"];
        Kind::ALL.into_iter().flat_map(move |kind| {
            let counts = &self.requests[kind as usize];
            classes.into_iter().zip(counts).map(move |(class, count)| (kind.as_str(), class, count.value()))
        })
    }

    /// Source, bytes.
    pub(crate) fn by_source(&self) -> impl Iterator<Item = (&'static str, u64)> {
        From::ALL.into_iter().map(|from| (from.as_str(), self.bytes[from as usize].value()))
    }
}
