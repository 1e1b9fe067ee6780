//! Exact accounting: what is promised never passes the limit.

use std::ops::RangeInclusive;

use hawker_proto::Geometry;

use crate::batches;
use crate::meta::META_BYTES_MAX;
use crate::op::FileSystemSpace;
use crate::table::Layout;

/// Files take whole pages of this many bytes.
pub(crate) const PAGE: u64 = 4096;

/// Of 100 bytes of the file system, those that stay free of what is only kept, when no limit is configured. The kubelet
/// removes images from 85 used down to 80 ("Garbage Collection", `imageGCHighThresholdPercent`): hosts that are fuller
/// than this limit are common.
const KEEP_FREE_PERCENT: u64 = 25;

/// As [`KEEP_FREE_PERCENT`], while a task is wanted. The kubelet starts to evict pods at 15 free ("Node-pressure
/// Eviction", hard default `nodefs.available<10%`, `imagefs.available<15%`).
const KEEP_FREE_AT_WORK_PERCENT: u64 = 15;

/// Where the bytes of the data directory are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of sealed tasks.
    pub used: u64,
    /// Bytes of tasks and spools that still grow, in full: their space is taken from the start.
    pub reserved: u64,
    /// Bytes of tasks that were removed, until nobody holds their files.
    pub lingering: u64,
    /// Nothing stays beyond this that nobody holds.
    pub limit: u64,
    /// The first three never pass this by a reservation: at least `limit`, and more where the limit follows the file
    /// system and a task is wanted that does not fit.
    pub ceiling: u64,
}

impl Usage {
    /// Bytes that count against the limit.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.used + self.reserved + self.lingering
    }
}

/// Bytes of disk that a task takes until it is sealed; `None` when its table cannot be mapped.
pub(crate) fn footprint(geometry: Geometry) -> Option<u64> {
    let table = Layout::of(geometry)?.len() as u64;
    let content = geometry.length().next_multiple_of(PAGE);
    let batches = batches::bytes_max(geometry).next_multiple_of(PAGE);
    content.checked_add(table)?.checked_add(batches)?.checked_add(META_BYTES_MAX as u64)
}

/// As [`footprint`] once the batches file has its final length. The meta file may still change: it counts as its
/// maximum.
pub(crate) fn footprint_sealed(charged: u64, geometry: Geometry, batches_bytes: u64) -> u64 {
    let reserved = batches::bytes_max(geometry).next_multiple_of(PAGE);
    sub(charged, reserved) + batches_bytes.next_multiple_of(PAGE)
}

/// What a task may be charged; `None` when its table cannot be mapped.
pub(crate) fn charges(geometry: Geometry, is_sealed: bool) -> Option<RangeInclusive<u64>> {
    let most = footprint(geometry)?;
    Some(if is_sealed { footprint_sealed(most, geometry, 0)..=most } else { most..=most })
}

/// The ledger.
#[derive(Debug)]
pub(crate) struct Space {
    usage: Usage,
    /// Part of `reserved` that the file system has not been asked for yet.
    unallocated: u64,
    /// What the user allows, however much is free.
    fixed: Option<u64>,
}

impl Space {
    /// With a fixed limit, or with one that follows the file system.
    pub(crate) fn new(limit_bytes: Option<u64>) -> Self {
        let limit = limit_bytes.unwrap_or(0);
        let usage = Usage { limit, ceiling: limit, ..Usage::default() };
        Self { usage, unallocated: 0, fixed: limit_bytes }
    }

    pub(crate) fn usage(&self) -> Usage {
        self.usage
    }

    /// Moves the limit: what Hawker holds on disk now and what is free above the share to keep. A fixed limit keeps
    /// nothing free, but what the disk does not have cannot be promised: old tasks have to go for new ones.
    pub(crate) fn set_file_system(&mut self, space: FileSystemSpace) {
        let on_disk = self.usage.total() - self.unallocated;
        let at_most = on_disk.saturating_add(space.available_bytes);
        let keeping = |percent| at_most.saturating_sub(space.total_bytes / 100 * percent);
        let fixed = self.fixed.map(|fixed| fixed.min(at_most));
        self.usage.limit = fixed.unwrap_or_else(|| keeping(KEEP_FREE_PERCENT));
        self.usage.ceiling = fixed.unwrap_or_else(|| keeping(KEEP_FREE_AT_WORK_PERCENT));
    }

    /// Whether the bytes may be reserved at all.
    pub(crate) fn fits(&self, bytes: u64) -> bool {
        self.usage.total().checked_add(bytes).is_some_and(|total| total <= self.usage.ceiling)
    }

    /// Whether they could stay, too.
    pub(crate) fn fits_for_good(&self, bytes: u64) -> bool {
        self.usage.total().checked_add(bytes).is_some_and(|total| total <= self.usage.limit)
    }

    /// Bytes above the limit, which moved below what is held.
    pub(crate) fn excess(&self) -> u64 {
        (self.usage.used + self.usage.reserved).saturating_sub(self.usage.limit)
    }

    pub(crate) fn reserve(&mut self, bytes: u64) {
        assert!(bytes == 0 || self.fits(bytes), "{bytes} bytes into {:?}", self.usage);
        self.usage.reserved += bytes;
        self.unallocated += bytes;
    }

    /// The file system has given the space of a reservation.
    pub(crate) fn allocated(&mut self, bytes: u64) {
        self.unallocated = sub(self.unallocated, bytes);
    }

    pub(crate) fn release_reserved(&mut self, bytes: u64) {
        self.usage.reserved = sub(self.usage.reserved, bytes);
    }

    /// A reservation became a sealed task of `used` bytes.
    pub(crate) fn seal(&mut self, reserved: u64, used: u64) {
        assert!(used <= reserved, "{used} of {reserved} bytes");
        self.usage.reserved = sub(self.usage.reserved, reserved);
        self.usage.used += used;
    }

    /// A sealed task is to be mended: its bytes may change again.
    pub(crate) fn unseal(&mut self, used: u64, reserved: u64) {
        self.usage.used = sub(self.usage.used, used);
        self.usage.reserved += reserved;
    }

    pub(crate) fn linger(&mut self, bytes: u64, was_sealed: bool) {
        let from = if was_sealed { &mut self.usage.used } else { &mut self.usage.reserved };
        *from = sub(*from, bytes);
        self.usage.lingering += bytes;
    }

    pub(crate) fn release_lingering(&mut self, bytes: u64) {
        self.usage.lingering = sub(self.usage.lingering, bytes);
    }

    /// Takes back what [`Self::found`] counted.
    pub(crate) fn forget(&mut self, bytes: u64, was_sealed: bool) {
        self.linger(bytes, was_sealed);
        self.release_lingering(bytes);
    }

    /// A task that was there when the store was opened: it counts even beyond the limit. False, and not counted, when
    /// all of them would have more bytes than a disk can: its slot says nonsense.
    #[must_use]
    pub(crate) fn found(&mut self, bytes: u64, is_sealed: bool) -> bool {
        if self.usage.total().checked_add(bytes).is_none_or(|total| total > u64::MAX / 2) {
            return false;
        }
        let into = if is_sealed { &mut self.usage.used } else { &mut self.usage.reserved };
        *into += bytes;
        true
    }
}

fn sub(from: u64, bytes: u64) -> u64 {
    from.checked_sub(bytes).expect("only what was added is taken away")
}
