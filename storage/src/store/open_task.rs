//! Opening a task of the catalog: read its files whole, check them, take what holds.

use std::io;
use std::sync::Arc;

use hawker_proto::TaskId;
use rustix::fs::{Mode, OFlags};

use super::create::{NOFOLLOW, PARTS, advise_random, file_len};
use super::jobs::{JobIo, Request, Role, Step, Work};
use super::remove::Why;
use super::{OpenTask, Store};
use crate::batches;
use crate::catalog::CHUNK_BYTES;
use crate::directory::TaskPart;
use crate::error::OpenTaskError;
use crate::meta::{META_BYTES_MAX, TaskMeta};
use crate::op::{Output, StoreOp, WriteMode};
use crate::slot::Slot;
use crate::table::{Layout, Table};
use crate::task_file::{Parts, TaskFile};

/// Stages of an [`OpenWork`].
const OPEN: u32 = 0;
const READ: u32 = 1;
const READ_TABLE: u32 = 2;
const CHECK: u32 = 3;
const DONE: u32 = 4;

/// A task that is being opened.
#[derive(Debug)]
pub(super) struct OpenWork {
    request: u64,
    slot: Slot,
    table_at: usize,
    opened: Option<OpenTask>,
}

impl Store {
    pub(super) fn start_open(&mut self, task: TaskId, request: u64) {
        let found = self.tasks.get(&task).map(|entry| (entry.index, entry.open.as_ref().map(|open| open.file.clone())));
        let result = match found {
            None => Err(OpenTaskError::NotFound),
            Some((_, Some(file))) if file.is_torn() => Err(self.gone(task, "piece table")),
            Some((_, Some(file))) => Ok(file),
            Some((index, None)) => 'open: {
                let Some(slot) = self.catalog.get(index) else { break 'open Err(self.gone(task, "slot")) };
                let open = OpenWork { request, slot, table_at: 0, opened: None };
                self.start(Some(task), Work::Open(open));
                return;
            }
        };
        self.touch(task);
        self.outputs.push_back(Output::Opened { request, result });
        self.end_request(task);
    }

    pub(super) fn step_open(&mut self, task: TaskId, open: &mut OpenWork, io: &mut JobIo) -> Step {
        let step = match io.stage {
            OPEN => Ok(self.open_files(task, open, io)),
            READ => self.read_files(open, io),
            READ_TABLE => self.read_table(open, io),
            CHECK => self.check_files(task, open, io),
            _ => Ok(self.task_opened(task, open, io)),
        };
        match step {
            Ok(step) => step,
            Err(error) => {
                self.outputs.push_back(Output::Opened { request: open.request, result: Err(error) });
                Step::Done
            }
        }
    }

    fn open_files(&mut self, task: TaskId, open: &OpenWork, io: &mut JobIo) -> Step {
        for (part, role) in PARTS {
            let access = if part == TaskPart::Meta { OFlags::RDONLY } else { OFlags::RDWR };
            let path = self.directory.part(task, part);
            self.issue(io, role, StoreOp::Open { path, flags: access | NOFOLLOW, mode: Mode::empty() });
        }
        if open.slot.write_mode == WriteMode::Direct && open.slot.root.is_none() && open.slot.geometry.length() > 0 {
            let flags = OFlags::RDWR | OFlags::DIRECT | NOFOLLOW;
            let path = self.directory.part(task, TaskPart::Content);
            self.issue(io, Role::Direct, StoreOp::Open { path, flags, mode: Mode::empty() });
        }
        Step::Go(READ)
    }

    fn read_files(&mut self, open: &mut OpenWork, io: &mut JobIo) -> Result<Step, OpenTaskError> {
        for (role, error) in io.take_errors() {
            // ELOOP: a symbolic link stands where the file was.
            let is_link = error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error());
            let is_gone = is_link || error.kind() == io::ErrorKind::NotFound;
            match role {
                Role::Direct => {}
                _ if is_gone => return Err(self.damaged(open, role)),
                _ => return Err(OpenTaskError::Disk(error)),
            }
        }
        let geometry = open.slot.geometry;
        let layout = Layout::of(geometry).ok_or_else(|| self.damaged(open, Role::Table))?;
        let lens = PARTS.map(|(_, role)| io.file(role).and_then(|file| file_len(file)));
        if lens[0] != Some(geometry.length()) {
            return Err(self.damaged(open, Role::Content));
        }
        if lens[1] != Some(layout.len() as u64) {
            return Err(self.damaged(open, Role::Table));
        }
        let batches_len = lens[2].unwrap_or(0).min(batches::bytes_max(geometry));
        let batches_len = usize::try_from(batches_len).unwrap_or(0);
        for (role, len) in [(Role::Batches, batches_len), (Role::Meta, META_BYTES_MAX)] {
            if let Some(file) = io.file(role).cloned() {
                self.issue(io, role, StoreOp::Read { file, len, offset: 0 });
            }
        }
        if let Some(file) = io.file(Role::Table).cloned().filter(|_| open.slot.root.is_none()) {
            // A power cut may have left holes, and a store into a mapped hole kills when the disk is full.
            self.issue(io, Role::Other, StoreOp::Allocate { file, len: layout.len() as u64 });
        }
        Ok(Step::Go(READ_TABLE))
    }

    /// Reads the table to find bad sectors, and to have it in memory: the bytes are looked at in the mapping.
    fn read_table(&mut self, open: &mut OpenWork, io: &mut JobIo) -> Result<Step, OpenTaskError> {
        for (role, error) in io.take_errors() {
            match role {
                Role::Other if error.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error()) => {}
                Role::Other => return Err(OpenTaskError::Disk(error)),
                _ => return Err(self.damaged(open, role)),
            }
        }
        io.take_read(Role::Table);
        let len = Layout::of(open.slot.geometry).map_or(0, Layout::len);
        if open.table_at >= len {
            return Ok(Step::Go(CHECK));
        }
        let file = io.file(Role::Table).cloned().ok_or_else(|| self.damaged(open, Role::Table))?;
        let wanted = CHUNK_BYTES.min(len - open.table_at);
        self.issue(io, Role::Table, StoreOp::Read { file, len: wanted, offset: open.table_at as u64 });
        open.table_at += wanted;
        Ok(Step::Go(READ_TABLE))
    }

    fn check_files(&mut self, task: TaskId, open: &mut OpenWork, io: &mut JobIo) -> Result<Step, OpenTaskError> {
        let slot = open.slot;
        let meta = io.take_read(Role::Meta).and_then(|bytes| TaskMeta::decode(&bytes, slot.instance));
        let meta = meta.ok_or_else(|| self.damaged(open, Role::Meta))?;
        let table_file = io.take_file(Role::Table).ok_or_else(|| self.damaged(open, Role::Table))?;
        let table = match Table::open(&table_file, task, slot.geometry, slot.instance) {
            Ok(table) => table,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(self.damaged(open, Role::Table)),
            Err(error) => return Err(OpenTaskError::Disk(error)),
        };
        let recovered = table.recover(self.config.boot_id);
        if table.is_torn() {
            return Err(self.damaged(open, Role::Table));
        }
        // Pieces of a sealed task that fail their check are fetched again: it is sealed no more.
        let root = slot.root.filter(|_| recovered.pieces == slot.geometry.piece_count());
        let content = io.take_file(Role::Content).ok_or_else(|| self.damaged(open, Role::Content))?;
        let batches_file = io.take_file(Role::Batches).ok_or_else(|| self.damaged(open, Role::Batches))?;
        let parsed = batches::parse(&io.take_read(Role::Batches).unwrap_or_default(), slot.instance);
        let (batches, batches_bytes) = parsed.unwrap_or_else(|| {
            // Others can prove these pieces, or nobody: the task itself does without.
            let bytes = batches::head_bytes(slot.instance);
            self.issue(io, Role::Batches, StoreOp::Write { file: batches_file.clone(), bytes, offset: 0 });
            (Vec::new(), batches::HEAD_BYTES as u64)
        });
        advise_random(&content);
        let file = TaskFile::new(Parts {
            task,
            geometry: slot.geometry,
            instance: slot.instance,
            write_mode: slot.write_mode,
            content,
            direct: io.take_file(Role::Direct),
            table,
            meta: Arc::new(meta),
            root,
            batches,
            batches_bytes,
        });
        open.opened = Some(self.opened_now(file, table_file, batches_file));
        Ok(Step::Go(DONE))
    }

    fn task_opened(&mut self, task: TaskId, open: &mut OpenWork, io: &mut JobIo) -> Step {
        // A batches file that cannot be written shows again at the next flush.
        io.take_errors();
        let opened = open.opened.take().expect("check_files made it");
        let file = Arc::clone(&opened.file);
        let entry = self.tasks.get_mut(&task).expect("a busy task stays");
        self.opened.insert(opened.used, task);
        entry.open = Some(opened);
        if !entry.is_sealed {
            self.arriving.insert(task);
        }
        self.follow_unsealing(task);
        self.touch(task);
        self.outputs.push_back(Output::Opened { request: open.request, result: Ok(file) });
        Step::Done
    }

    /// The task goes: what is left of it would be fetched and checked again anyway.
    fn damaged(&mut self, open: &OpenWork, role: Role) -> OpenTaskError {
        let what = match role {
            Role::Content => "content file",
            Role::Table => "piece table",
            Role::Batches => "batches file",
            _ => "meta file",
        };
        self.gone(open.slot.task, what)
    }

    fn gone(&mut self, task: TaskId, what: &'static str) -> OpenTaskError {
        self.ask(task, Request::Remove(Why::Damaged));
        OpenTaskError::Damaged { what }
    }

    /// Closes open tasks that nobody uses, the longest unused first, until few enough are open.
    pub(super) fn close_idle_tasks(&mut self) {
        let mut excess = self.opened.len().saturating_sub(self.config.open_tasks_max);
        let oldest: Vec<_> = self.opened.iter().map(|(used, task)| (*used, *task)).collect();
        for (used, task) in oldest {
            if excess == 0 {
                return;
            }
            let is_used = self.is_busy(task);
            let Some(entry) = self.tasks.get_mut(&task) else { continue };
            let is_idle = entry.open.as_ref().is_some_and(|open| {
                let is_kept = open.file.is_durable() && !open.file.has_waiting_batches();
                Arc::strong_count(&open.file) == 1 && is_kept && entry.is_sealed == open.file.is_sealed()
            });
            if is_idle && !is_used {
                entry.open = None;
                self.opened.remove(&used);
                self.arriving.remove(&task);
                excess -= 1;
            }
        }
    }
}
