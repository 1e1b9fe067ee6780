//! Reading and replacing the meta file of a task.

use std::io;

use hawker_proto::TaskId;
use rustix::fs::{Mode, OFlags};

use super::Store;
use super::create::NOFOLLOW;
use super::jobs::{JobIo, Role, Step, Work};
use crate::directory::TaskPart;
use crate::error::OpenTaskError;
use crate::meta::{META_BYTES_MAX, TaskMeta};
use crate::op::{Output, StoreOp};

/// A meta file that is being replaced: written beside, synced, renamed.
#[derive(Debug)]
pub(super) struct SetMeta {
    meta: TaskMeta,
    instance: u64,
    /// Its name in `incoming/` until then.
    number: u64,
}

/// A meta file that is being read.
#[derive(Debug)]
pub(super) struct ReadMeta {
    request: u64,
    instance: u64,
}

impl Store {
    pub(super) fn start_set_meta(&mut self, task: TaskId, meta: TaskMeta) {
        let Some(entry) = self.tasks.get(&task) else {
            self.end_request(task);
            return;
        };
        if let Some(open) = &entry.open {
            open.file.set_meta(meta.clone().into());
        }
        let instance = entry.instance;
        self.counter += 1;
        self.start(Some(task), Work::SetMeta(SetMeta { meta, instance, number: self.counter }));
    }

    pub(super) fn step_set_meta(&mut self, task: TaskId, set: &SetMeta, io: &mut JobIo) -> Step {
        let path = self.directory.spool(set.number);
        if io.take_error().is_some() && io.stage < 5 {
            // The former file stays: the task is resolved anew after a restart.
            self.issue(io, Role::Other, StoreOp::Unlink { path });
            return Step::Go(5);
        }
        match (io.stage, io.file(Role::Meta).cloned()) {
            (0, _) => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | NOFOLLOW;
                self.issue(io, Role::Meta, StoreOp::Open { path, flags, mode: Mode::RUSR | Mode::WUSR });
                Step::Go(1)
            }
            (1, Some(file)) => {
                let bytes = set.meta.encode(set.instance);
                self.issue(io, Role::Meta, StoreOp::Write { file, bytes, offset: 0 });
                Step::Go(2)
            }
            (2, Some(file)) => {
                self.issue(io, Role::Meta, StoreOp::Sync { file, data_only: false });
                Step::Go(3)
            }
            (3, _) => {
                let to = self.directory.part(task, TaskPart::Meta);
                self.issue(io, Role::Meta, StoreOp::Rename { from: path, to });
                Step::Go(4)
            }
            _ => Step::Done,
        }
    }

    pub(super) fn start_read_meta(&mut self, task: TaskId, request: u64) {
        let result = match self.tasks.get(&task) {
            None => Err(OpenTaskError::NotFound),
            Some(entry) => match &entry.open {
                Some(open) => Ok(TaskMeta::clone(&open.file.meta())),
                None => {
                    let instance = entry.instance;
                    self.start(Some(task), Work::ReadMeta(ReadMeta { request, instance }));
                    return;
                }
            },
        };
        self.outputs.push_back(Output::Meta { request, result });
        self.end_request(task);
    }

    pub(super) fn step_read_meta(&mut self, task: TaskId, read: &ReadMeta, io: &mut JobIo) -> Step {
        let error = io.take_error();
        let result = match (io.stage, error, io.file(Role::Meta).cloned()) {
            (0, ..) => {
                let path = self.directory.part(task, TaskPart::Meta);
                let flags = OFlags::RDONLY | NOFOLLOW;
                self.issue(io, Role::Meta, StoreOp::Open { path, flags, mode: Mode::empty() });
                return Step::Go(1);
            }
            (1, None, Some(file)) => {
                self.issue(io, Role::Meta, StoreOp::Read { file, len: META_BYTES_MAX, offset: 0 });
                return Step::Go(2);
            }
            (_, Some(error), _) if error.kind() != io::ErrorKind::NotFound => Err(OpenTaskError::Disk(error)),
            _ => {
                let meta = io.take_read(Role::Meta).and_then(|bytes| TaskMeta::decode(&bytes, read.instance));
                meta.ok_or(OpenTaskError::Damaged { what: "meta file" })
            }
        };
        if matches!(result, Err(OpenTaskError::Damaged { .. })) {
            self.ask(task, super::jobs::Request::Remove(super::remove::Why::Damaged));
        }
        self.outputs.push_back(Output::Meta { request: read.request, result });
        Step::Done
    }
}
