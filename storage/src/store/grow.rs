//! What jobs share: room in the catalog, and one sync of the catalog for all who wait for it.

use std::io;

use super::Store;
use super::jobs::{JobId, JobIo, Role, Step, Work, lost};
use crate::catalog::{CHUNK_BYTES, SlotIndex};
use crate::op::StoreOp;

/// A segment that is being added to the catalog.
#[derive(Debug)]
pub(super) struct Grow {
    at: u64,
    end: u64,
    error: Option<io::Error>,
}

/// The outcome of [`Store::take_slot`].
pub(super) enum SlotOrWait {
    Slot(SlotIndex),
    /// The job is driven again when there is room, or there is none to be had.
    Wait,
}

impl Store {
    /// A free slot, or the catalog grows and the caller parks in this stage.
    pub(super) fn take_slot(&mut self, job: JobId) -> SlotOrWait {
        if let Some(index) = self.catalog.take_free() {
            return SlotOrWait::Slot(index);
        }
        self.slot_waiting.push(job);
        if !self.is_growing {
            self.is_growing = true;
            let (at, end) = self.catalog.next_segment();
            self.start(None, Work::Grow(Grow { at, end, error: None }));
        }
        SlotOrWait::Wait
    }

    pub(super) fn step_grow(&mut self, grow: &mut Grow, io: &mut JobIo) -> Step {
        let file = self.catalog.file().clone();
        if let Some(error) = io.take_error() {
            // fallocate is only there to fail early; the writes below take the space as well.
            if io.stage != 1 || error.raw_os_error() != Some(rustix::io::Errno::OPNOTSUPP.raw_os_error()) {
                grow.error = Some(error);
                return self.end_growth(grow);
            }
        }
        match io.stage {
            0 => {
                self.issue(io, Role::Other, StoreOp::Allocate { file, len: grow.end });
                Step::Go(1)
            }
            1 if grow.at < grow.end => {
                let bytes = vec![0; CHUNK_BYTES];
                self.issue(io, Role::Other, StoreOp::Write { file, bytes, offset: grow.at });
                grow.at += CHUNK_BYTES as u64;
                Step::Go(1)
            }
            1 => {
                self.issue(io, Role::Other, StoreOp::Sync { file, data_only: true });
                Step::Go(2)
            }
            _ => {
                grow.error = self.catalog.add_segment().err();
                self.end_growth(grow)
            }
        }
    }

    fn end_growth(&mut self, grow: &mut Grow) -> Step {
        self.is_growing = false;
        let error = grow.error.take();
        for job in std::mem::take(&mut self.slot_waiting) {
            if let Some(error) = &error {
                self.fail_job(job, error);
            }
            self.drive(job);
        }
        Step::Done
    }

    /// Parks a job until all stores into the catalog so far are on disk. One sync serves all who came before it.
    pub(super) fn sync_catalog_for(&mut self, job: JobId) {
        self.sync_waiting.push(job);
        self.begin_catalog_sync();
    }

    pub(super) fn begin_catalog_sync(&mut self) {
        if self.sync_running.is_none() && !self.sync_waiting.is_empty() {
            self.sync_running = Some(std::mem::take(&mut self.sync_waiting));
            self.start(None, Work::Sync);
        }
    }

    pub(super) fn step_sync(&mut self, io: &mut JobIo) -> Step {
        if io.stage == 0 {
            let file = self.catalog.file().clone();
            self.issue(io, Role::Other, StoreOp::Sync { file, data_only: true });
            return Step::Go(1);
        }
        let error = io.take_error().or_else(|| self.catalog.is_torn().then(lost));
        // The kernel has marked the pages as clean: another sync would succeed without writing them.
        self.is_broken |= error.is_some();
        for job in self.sync_running.take().unwrap_or_default() {
            if let Some(error) = &error {
                self.fail_job(job, error);
            }
            self.drive(job);
        }
        self.begin_catalog_sync();
        Step::Done
    }
}
