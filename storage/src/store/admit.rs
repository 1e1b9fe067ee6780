//! Who may take space: reservations, in the order of their coming, and the evictions that make room.

use hawker_proto::{Instant, TaskId};

use super::create::Create;
use super::jobs::{JobIo, Request, Role, Step, Work};
use super::remove::Why;
use super::{ADMISSION_TIMEOUT, ADMISSIONS_MAX, Spool, Store};
use crate::error::{CreateError, SpoolError};
use crate::op::{Adopt, Output, SpoolId, StoreOp};

use rustix::fs::{Mode, OFlags};

/// A request that waits for space.
#[derive(Debug)]
pub(super) struct Admission {
    what: Applicant,
    bytes: u64,
    until: Instant,
}

#[derive(Debug)]
enum Applicant {
    Task { task: TaskId, create: Box<Create> },
    Spool { request: u64, spool: SpoolId },
}

impl Admission {
    /// Bytes that it holds already: those of an adopted spool.
    pub(super) fn reserved(&self) -> u64 {
        if let Applicant::Task { create, .. } = &self.what { create.charged() } else { 0 }
    }
}

/// Whether a reservation can be made.
enum Room {
    Now,
    /// When the files of removed tasks are let go of.
    Later,
    Never,
}

impl Store {
    pub(super) fn apply_for_task(&mut self, task: TaskId, create: Box<Create>, bytes: u64) {
        self.apply(Applicant::Task { task, create }, bytes);
    }

    fn apply(&mut self, what: Applicant, bytes: u64) {
        let until = self.now + ADMISSION_TIMEOUT;
        let admission = Admission { what, bytes, until };
        if self.admissions.len() < ADMISSIONS_MAX {
            self.admissions.push_back(admission);
        } else {
            self.turn_away(admission.what, CreateError::Busy, SpoolError::Busy);
        }
    }

    /// Lets in who fits. First come, first served: a large task is not starved by small ones.
    pub(super) fn admit(&mut self) {
        while let Some(first) = self.admissions.front() {
            let (bytes, is_late) = (first.bytes, first.until <= self.now);
            let is_refused = self.life != super::Life::Running || self.is_catalog_lost();
            let room = if is_refused { Room::Never } else { self.make_room(bytes) };
            if matches!(room, Room::Later) && !is_late {
                return;
            }
            let Some(Admission { what, .. }) = self.admissions.pop_front() else { return };
            if matches!(room, Room::Now) {
                self.space.reserve(bytes);
                self.let_in(what, bytes);
            } else if is_refused {
                self.turn_away(what, CreateError::Closed, SpoolError::Closed);
            } else {
                let limit_bytes = self.space.usage().ceiling;
                let task = CreateError::OverLimit { needed_bytes: bytes, limit_bytes };
                self.turn_away(what, task, SpoolError::OverLimit { needed_bytes: bytes, limit_bytes });
            }
        }
    }

    fn let_in(&mut self, what: Applicant, bytes: u64) {
        match what {
            Applicant::Task { task, mut create } => {
                create.charge(bytes);
                self.start(Some(task), Work::Create(create));
            }
            Applicant::Spool { request, spool } => {
                // The caller writes when it likes; until then the file system's own figure is too high by this.
                self.space.allocated(bytes);
                let result = match self.spools.get_mut(&spool) {
                    Some(open) => {
                        open.reserved += bytes;
                        Ok(())
                    }
                    None => {
                        self.space.release_reserved(bytes);
                        Err(SpoolError::NotFound)
                    }
                };
                self.outputs.push_back(Output::SpoolReserved { request, result });
            }
        }
    }

    fn turn_away(&mut self, what: Applicant, task_error: CreateError, spool_error: SpoolError) {
        match what {
            Applicant::Task { task, create } => {
                self.abandon_spool(&create);
                self.space.release_reserved(create.charged());
                self.outputs.push_back(Output::Created { request: create.request(), result: Err(task_error) });
                self.end_request(task);
            }
            Applicant::Spool { request, .. } => {
                self.outputs.push_back(Output::SpoolReserved { request, result: Err(spool_error) });
            }
        }
    }

    /// Evicts as few tasks as needed for `bytes`, or none when that would not do. What is wanted may pass the limit by
    /// what the ceiling allows once nothing is left to evict; it goes when nobody holds it any more.
    fn make_room(&mut self, bytes: u64) -> Room {
        if bytes == 0 || self.space.fits_for_good(bytes) {
            return Room::Now;
        }
        let usage = self.space.usage();
        let staying = (usage.used + usage.reserved).saturating_add(bytes);
        let mut missing = staying.saturating_sub(usage.limit);
        let beyond = usage.ceiling.saturating_sub(usage.limit);
        let mut victims = Vec::new();
        for (_, task) in &self.by_age {
            if missing == 0 {
                break;
            }
            if let Some(entry) = self.tasks.get(task).filter(|_| self.is_evictable(*task)) {
                missing = missing.saturating_sub(entry.charged);
                victims.push(*task);
            }
        }
        if missing > beyond {
            return Room::Never;
        }
        for task in victims {
            self.evict(task);
        }
        if self.space.fits(bytes) { Room::Now } else { Room::Later }
    }

    /// Evicts the task that was not read for the longest time; false when none may be.
    pub(super) fn evict_oldest(&mut self) -> bool {
        let oldest = self.by_age.iter().map(|(_, task)| *task).find(|task| self.is_evictable(*task));
        oldest.is_some_and(|task| {
            self.evict(task);
            true
        })
    }

    fn evict(&mut self, task: TaskId) {
        assert!(self.is_evictable(task), "{task}");
        self.ask(task, Request::Remove(Why::Evicted));
        // Now, so that its bytes count as lingering at once and nobody else is evicted for them. It was idle: its
        // entry in `idle` is the one that `ask` has just made.
        let place = self.idle.pop_back();
        assert_eq!(place, Some(task));
        self.next_request(task);
    }

    /// Not pinned, not in use by a request; and an unsealed task only when nobody holds it, because whoever does is
    /// writing to it.
    fn is_evictable(&self, task: TaskId) -> bool {
        let Some(entry) = self.tasks.get(&task) else { return false };
        let is_held = match &entry.open {
            Some(open) => open.file.is_pinned() || (!entry.is_sealed && std::sync::Arc::strong_count(&open.file) > 1),
            None => false,
        };
        !is_held && !self.is_busy(task)
    }

    pub(super) fn start_spool(&mut self, request: u64) {
        self.counter += 1;
        // Numbers of former processes are gone: `incoming/` is emptied when the store is opened.
        let spool = SpoolId(self.counter);
        self.start(None, Work::Spool { request, spool });
    }

    pub(super) fn step_spool(&mut self, request: u64, spool: SpoolId, io: &mut JobIo) -> Step {
        if io.stage == 0 {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let path = self.directory.spool(spool.0);
            self.issue(io, Role::Content, StoreOp::Open { path, flags, mode: Mode::RUSR | Mode::WUSR });
            return Step::Go(1);
        }
        let result = match (io.take_error(), io.take_file(Role::Content)) {
            (None, Some(file)) => {
                self.spools.insert(spool, Spool { file: file.clone(), reserved: 0 });
                Ok((spool, file))
            }
            (Some(error), _) => Err(SpoolError::Disk(error)),
            (None, None) => Err(SpoolError::Disk(std::io::ErrorKind::InvalidData.into())),
        };
        self.outputs.push_back(Output::Spooling { request, result });
        Step::Done
    }

    pub(super) fn reserve_spool(&mut self, request: u64, spool: SpoolId, bytes: u64) {
        let Some(open) = self.spools.get(&spool) else {
            self.outputs.push_back(Output::SpoolReserved { request, result: Err(SpoolError::NotFound) });
            return;
        };
        let more = bytes.saturating_sub(open.reserved);
        self.apply(Applicant::Spool { request, spool }, more);
    }

    pub(super) fn drop_spool(&mut self, spool: SpoolId) {
        if let Some(open) = self.spools.remove(&spool) {
            self.space.linger(open.reserved, false);
            let path = self.directory.spool(spool.0);
            self.discard(vec![StoreOp::Unlink { path }, StoreOp::Close { file: open.file }], open.reserved);
        }
    }

    /// A spool becomes a task: what was reserved for it counts towards the task.
    pub(super) fn adopt(&mut self, adopt: Adopt) {
        match self.spools.remove(&adopt.spool) {
            Some(spool) => {
                let create = Create::adopt(&adopt, spool.file, spool.reserved);
                self.ask(adopt.task, Request::Create(Box::new(create.with_records(adopt.meta, adopt.records))));
            }
            None => {
                let result = Err(CreateError::WrongSpool { what: "no such spool" });
                self.outputs.push_back(Output::Created { request: adopt.request, result });
            }
        }
    }

    /// Deletes the spool of a task that is not to be.
    pub(super) fn abandon_spool(&mut self, create: &Create) {
        if let Some((spool, file)) = create.spool() {
            let path = self.directory.spool(spool.0);
            self.discard(vec![StoreOp::Unlink { path }, StoreOp::Close { file: file.clone() }], 0);
        }
    }
}
