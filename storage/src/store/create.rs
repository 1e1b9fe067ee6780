//! Create and adopt: reserve space, make the files, then the slot.
//!
//! Nothing is synced here: the first byte of a download does not wait for the disk. Until the first flush a power cut
//! may take the task away, never make it lie: the table, the batches and the meta file carry the slot's instance, and
//! no bit is durable before the names are.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use hawker_proto::{ChainingValue, Geometry, PieceIndex, TaskId};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::grow::SlotOrWait;
use super::jobs::{JobIo, Role, Step};
use super::{OpenTask, Store};
use crate::catalog::CHUNK_BYTES;
use crate::directory::TaskPart;
use crate::error::CreateError;
use crate::meta::TaskMeta;
use crate::op::{Adopt, File, Output, SpoolId, StoreOp, WriteMode};
use crate::slot::{ContentDigest, Slot};
use crate::space::footprint;
use crate::table::{Layout, Table};
use crate::task_file::{Parts, TaskFile};
use crate::{batches, table};

/// Stages of a [`Create`].
const OPEN: u32 = 0;
const OPENED: u32 = 1;
const FILL: u32 = 2;
const FILLED: u32 = 3;
const SLOT: u32 = 4;
const FAILED: u32 = 5;

const OPEN_FLAGS: OFlags = OFlags::RDWR.union(OFlags::CREATE).union(OFlags::EXCL).union(NOFOLLOW);
pub(super) const NOFOLLOW: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC);

/// A task that is being created.
#[derive(Debug)]
pub(super) struct Create {
    request: u64,
    geometry: Geometry,
    meta: TaskMeta,
    write_mode: WriteMode,
    /// For an adopted task: where the content is, and its records.
    spool: Option<(SpoolId, File)>,
    records: Vec<Vec<ChainingValue>>,
    charged: u64,
    /// Bytes of `charged` that the ledger counts as not yet allocated.
    unallocated: u64,
    instance: u64,
    table_at: usize,
    is_second_try: bool,
    error: Option<CreateError>,
}

impl Create {
    pub(super) fn new(request: u64, geometry: Geometry, meta: TaskMeta, write_mode: WriteMode) -> Self {
        Self {
            request,
            geometry,
            meta,
            write_mode,
            spool: None,
            records: Vec::new(),
            charged: 0,
            unallocated: 0,
            instance: 0,
            table_at: 0,
            is_second_try: false,
            error: None,
        }
    }

    pub(super) fn adopt(adopt: &Adopt, file: File, reserved: u64) -> Self {
        let new = Self::new(adopt.request, adopt.geometry, TaskMeta::default(), WriteMode::Buffered);
        Self { spool: Some((adopt.spool, file)), charged: reserved, ..new }
    }

    pub(super) fn with_records(self, meta: TaskMeta, records: Vec<Vec<ChainingValue>>) -> Self {
        Self { meta, records, ..self }
    }

    pub(super) fn request(&self) -> u64 {
        self.request
    }

    pub(super) fn charged(&self) -> u64 {
        self.charged
    }

    pub(super) fn charge(&mut self, bytes: u64) {
        self.charged += bytes;
        self.unallocated += bytes;
    }

    pub(super) fn spool(&self) -> Option<&(SpoolId, File)> {
        self.spool.as_ref()
    }

    /// What is wrong with an adopted spool.
    fn spool_fault(&self) -> Option<&'static str> {
        let (_, file) = self.spool.as_ref()?;
        let pieces = (0..self.geometry.piece_count()).map(PieceIndex);
        let is_complete = self.records.len() == self.geometry.piece_count() as usize
            && pieces.zip(&self.records).all(|(piece, row)| row.len() == self.geometry.block_count(piece) as usize);
        if file_len(file) != Some(self.geometry.length()) {
            Some("its length is not that of the task")
        } else if !is_complete {
            Some("its records are not one value per block")
        } else {
            None
        }
    }
}

impl Store {
    pub(super) fn start_create(&mut self, task: TaskId, mut create: Box<Create>) {
        let fault = if self.tasks.contains_key(&task) {
            Some(CreateError::Exists)
        } else {
            create.spool_fault().map(|what| CreateError::WrongSpool { what })
        };
        let needed = footprint(create.geometry);
        let (None, Some(needed)) = (&fault, needed) else {
            self.abandon_spool(&create);
            self.space.release_reserved(create.charged);
            let limit_bytes = self.space.usage().ceiling;
            let error = fault.unwrap_or(CreateError::OverLimit { needed_bytes: create.geometry.length(), limit_bytes });
            self.outputs.push_back(Output::Created { request: create.request, result: Err(error) });
            self.end_request(task);
            return;
        };
        if create.charged > needed {
            self.space.release_reserved(create.charged - needed);
            create.charged = needed;
        }
        self.counter += 1;
        create.instance = self.catalog.sequence() << 32 | self.counter & u64::from(u32::MAX);
        let more = needed - create.charged;
        self.apply_for_task(task, create, more);
    }

    pub(super) fn step_create(&mut self, task: TaskId, create: &mut Create, io: &mut JobIo) -> Step {
        match io.stage {
            OPEN => self.open_new_files(task, create, io),
            OPENED => match self.opened_new_files(task, create, io) {
                Some(step) => step,
                None => self.fill_new_files(task, create, io),
            },
            FILL => self.fill_table(task, create, io),
            FILLED => self.filled(task, create, io),
            SLOT => self.create_slot(task, create, io),
            _ => self.create_failed(create),
        }
    }

    fn open_new_files(&mut self, task: TaskId, create: &Create, io: &mut JobIo) -> Step {
        for (part, role) in PARTS {
            if role != Role::Content || create.spool.is_none() {
                let path = self.directory.part(task, part);
                self.issue(io, role, StoreOp::Open { path, flags: OPEN_FLAGS, mode: Mode::RUSR | Mode::WUSR });
            }
        }
        Step::Go(OPENED)
    }

    /// `None` when all went well.
    fn opened_new_files(&mut self, task: TaskId, create: &mut Create, io: &mut JobIo) -> Option<Step> {
        let errors = io.take_errors();
        let is_taken = errors.iter().all(|(_, error)| error.kind() == io::ErrorKind::AlreadyExists);
        if !errors.is_empty() && is_taken && !create.is_second_try {
            // Leftovers without a slot. They are unlinked, never cut: somebody may have a hard link to one.
            create.is_second_try = true;
            for (part, role) in PARTS {
                io.take_file(role);
                self.issue(io, Role::Other, StoreOp::Unlink { path: self.directory.part(task, part) });
            }
            return Some(Step::Go(OPEN));
        }
        let error =
            errors.into_iter().find(|(_, error)| error.kind() != io::ErrorKind::NotFound || !create.is_second_try);
        error.map(|(_, error)| self.fail_create(task, create, io, error))
    }

    fn fill_new_files(&mut self, task: TaskId, create: &mut Create, io: &mut JobIo) -> Step {
        let content = match &create.spool {
            Some((_, file)) => Some(file.clone()),
            None => io.file(Role::Content).cloned(),
        };
        let (Some(content), Some(batches), Some(meta)) = (content, io.file(Role::Batches), io.file(Role::Meta)) else {
            return self.fail_create(task, create, io, io::ErrorKind::InvalidData.into());
        };
        let (batches, meta) = (batches.clone(), meta.clone());
        io.set_file(Role::Content, content.clone());
        let len = create.geometry.length();
        match &create.spool {
            Some((spool, _)) => {
                let (from, to) = (self.directory.spool(spool.0), self.directory.part(task, TaskPart::Content));
                self.issue(io, Role::Other, StoreOp::Rename { from, to });
            }
            None if len > 0 => self.issue(io, Role::Content, StoreOp::Allocate { file: content, len }),
            None => {}
        }
        if create.write_mode == WriteMode::Direct && len > 0 {
            let flags = OFlags::RDWR | OFlags::DIRECT | NOFOLLOW;
            let path = self.directory.part(task, TaskPart::Content);
            self.issue(io, Role::Direct, StoreOp::Open { path, flags, mode: Mode::empty() });
        }
        let bytes = create.meta.encode(create.instance);
        self.issue(io, Role::Meta, StoreOp::Write { file: meta, bytes, offset: 0 });
        let bytes = batches::head_bytes(create.instance);
        self.issue(io, Role::Batches, StoreOp::Write { file: batches, bytes, offset: 0 });
        Step::Go(FILL)
    }

    /// The table is written whole, a chunk at a time: a store into a mapped hole kills when the disk is full.
    fn fill_table(&mut self, task: TaskId, create: &mut Create, io: &mut JobIo) -> Step {
        for (role, error) in io.take_errors() {
            let is_unsupported = error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error());
            match role {
                // No O_DIRECT here: the task is written through the page cache.
                Role::Direct => {}
                // A file system without fallocate: the length at least is set, and a full disk shows when writing.
                Role::Content if is_unsupported => {
                    let file = io.file(Role::Content).cloned().expect("fill_new_files set it");
                    let offset = create.geometry.length() - 1;
                    self.issue(io, Role::Other, StoreOp::Write { file, bytes: vec![0], offset });
                }
                _ => return self.fail_create(task, create, io, error),
            }
        }
        let layout = Layout::of(create.geometry).expect("it has a footprint");
        let Some(file) = io.file(Role::Table).cloned() else {
            return self.fail_create(task, create, io, io::ErrorKind::InvalidData.into());
        };
        let len = CHUNK_BYTES.min(layout.len() - create.table_at);
        let mut bytes = vec![0; len];
        if create.table_at == 0 {
            let head = table::head_bytes(task, create.geometry, create.instance, self.config.boot_id);
            bytes[..head.len()].copy_from_slice(&head);
        }
        self.issue(io, Role::Table, StoreOp::Write { file, bytes, offset: create.table_at as u64 });
        create.table_at += len;
        Step::Go(if create.table_at < layout.len() { FILL } else { FILLED })
    }

    fn filled(&mut self, task: TaskId, create: &mut Create, io: &mut JobIo) -> Step {
        match io.take_error() {
            Some(error) => self.fail_create(task, create, io, error),
            None => Step::Go(SLOT),
        }
    }

    fn create_slot(&mut self, task: TaskId, create: &mut Create, io: &mut JobIo) -> Step {
        if let Some(error) = io.take_error() {
            return self.fail_create(task, create, io, error);
        }
        let index = match self.take_slot(io.id) {
            SlotOrWait::Slot(index) => index,
            SlotOrWait::Wait => return Step::Park(SLOT),
        };
        let open = match self.open_new_task(task, create, io) {
            Ok(open) => open,
            Err(error) => {
                self.catalog.release(index);
                return self.fail_create(task, create, io, error);
            }
        };
        let unix_ms = self.unix_ms();
        let slot = Slot {
            task,
            geometry: create.geometry,
            instance: create.instance,
            root: None,
            write_mode: open.file.write_mode(),
            is_credentialed: create.meta.is_credentialed,
            resolve_key: create.meta.resolve_key,
            digest: create.meta.digest.as_deref().and_then(ContentDigest::parse),
            charged: create.charged,
            created_unix_ms: unix_ms,
        };
        self.catalog.put(index, &slot, unix_ms);
        self.space.allocated(create.unallocated);
        // The task holds them now.
        create.charged = 0;
        let file = Arc::clone(&open.file);
        self.insert_task(index, &slot, unix_ms, Some(open));
        self.outputs.push_back(Output::Created { request: create.request, result: Ok(file) });
        Step::Done
    }

    fn open_new_task(&mut self, task: TaskId, create: &mut Create, io: &mut JobIo) -> io::Result<OpenTask> {
        let missing = || io::Error::from(io::ErrorKind::InvalidData);
        let table_file = io.take_file(Role::Table).ok_or_else(missing)?;
        let table = Table::open(&table_file, task, create.geometry, create.instance)?;
        let parts = Parts {
            task,
            geometry: create.geometry,
            instance: create.instance,
            write_mode: create.write_mode,
            content: io.take_file(Role::Content).ok_or_else(missing)?,
            direct: io.take_file(Role::Direct),
            table,
            meta: Arc::new(create.meta.clone()),
            root: None,
            batches: Vec::new(),
            batches_bytes: batches::HEAD_BYTES as u64,
        };
        advise_random(&parts.content);
        let file = TaskFile::new(parts);
        for (piece, blocks) in std::mem::take(&mut create.records).into_iter().enumerate() {
            let piece = PieceIndex(u32::try_from(piece).expect("as many rows as pieces"));
            file.put_record(piece, &blocks).expect("the rows were counted, and the table is new");
            file.mark_received(piece);
        }
        let batches = io.take_file(Role::Batches).ok_or_else(missing)?;
        Ok(self.opened_now(file, table_file, batches))
    }

    pub(super) fn opened_now(&mut self, file: TaskFile, table: File, batches: File) -> OpenTask {
        self.counter += 1;
        self.has_opened = true;
        OpenTask {
            file: Arc::new(file),
            table,
            batches,
            used: self.counter,
            flushed_at: self.now,
            flushed_bytes: 0,
            has_durable_names: false,
        }
    }

    /// Leaves nothing behind.
    fn fail_create(&mut self, task: TaskId, create: &mut Create, io: &mut JobIo, error: io::Error) -> Step {
        let needed_bytes = create.charged;
        let is_full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        create.error = Some(if is_full {
            CreateError::DiskFull { needed_bytes, source: error }
        } else {
            CreateError::Disk(error)
        });
        for (part, role) in PARTS {
            if let Some(file) = io.take_file(role) {
                self.issue(io, Role::Other, StoreOp::Close { file });
            }
            self.issue(io, Role::Other, StoreOp::Unlink { path: self.directory.part(task, part) });
        }
        if let Some((spool, _)) = create.spool.take() {
            self.issue(io, Role::Other, StoreOp::Unlink { path: self.directory.spool(spool.0) });
        }
        io.take_file(Role::Direct);
        Step::Go(FAILED)
    }

    fn create_failed(&mut self, create: &mut Create) -> Step {
        self.space.allocated(create.unallocated);
        self.space.release_reserved(create.charged);
        create.charged = 0;
        let error = create.error.take().unwrap_or(CreateError::Closed);
        self.outputs.push_back(Output::Created { request: create.request, result: Err(error) });
        Step::Done
    }
}

/// The files of a task, and the role of each in a job.
pub(super) const PARTS: [(TaskPart, Role); 4] = [
    (TaskPart::Content, Role::Content),
    (TaskPart::Table, Role::Table),
    (TaskPart::Batches, Role::Batches),
    (TaskPart::Meta, Role::Meta),
];

/// Readahead would bring in blocks that nobody has checked. A hint: a refusal changes nothing.
pub(super) fn advise_random(file: &OwnedFd) {
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::Random);
}

/// Bytes of an open file; `None` when it is no regular file. fstat(2) on an open file does not wait for the disk.
pub(super) fn file_len(file: &OwnedFd) -> Option<u64> {
    let stat = rustix::fs::fstat(file).ok()?;
    let is_file = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile;
    is_file.then(|| u64::try_from(stat.st_size).ok()).flatten()
}
