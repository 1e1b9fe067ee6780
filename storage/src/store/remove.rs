//! Removing a task: the slot first, durably, then the files; the bytes count until nobody holds them.

use std::io;
use std::sync::Arc;

use hawker_proto::TaskId;

use super::jobs::{JobIo, Role, Step, Work};
use super::{OpenTask, Store};
use crate::directory::TaskPart;
use crate::op::{Output, StoreOp};
use crate::task_file::TaskFile;

/// Why a task goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    Asked,
    Evicted,
    /// Its files do not hold what they should; whoever opened it was told.
    Damaged,
    /// The disk lost a part of it; whoever uses it was told.
    Failed,
}

/// A task that is being removed. It is in no index any more.
#[derive(Debug)]
pub(super) struct Removal {
    why: Why,
    bytes: u64,
    open: Option<OpenTask>,
}

impl Removal {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// A removed task whose files somebody may still hold.
#[derive(Debug)]
pub(super) struct Lingering {
    open: OpenTask,
    bytes: u64,
}

impl Lingering {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn is_held(&self) -> bool {
        let file = &self.open.file;
        let is_open_elsewhere = Arc::strong_count(file.content()) > 1
            || file.direct().is_some_and(|direct| Arc::strong_count(direct) > 1)
            || Arc::strong_count(&self.open.table) > 1
            || Arc::strong_count(&self.open.batches) > 1;
        Arc::strong_count(file) > 1 || is_open_elsewhere
    }
}

impl Store {
    pub(super) fn start_remove(&mut self, task: TaskId, why: Why) {
        let Some(entry) = self.forget_task(task) else {
            if why == Why::Asked {
                self.outputs.push_back(Output::Removed { task });
            }
            self.end_request(task);
            return;
        };
        self.space.linger(entry.charged, entry.is_sealed);
        if why == Why::Evicted {
            self.outputs.push_back(Output::Evicted { task });
        }
        self.start(Some(task), Work::Remove(Removal { why, bytes: entry.charged, open: entry.open }));
    }

    pub(super) fn step_remove(&mut self, task: TaskId, removal: &mut Removal, io: &mut JobIo) -> Step {
        match io.stage {
            0 => {
                // A slot that came back after a power cut would promise files that are gone, or that belong to the
                // next creation of the task.
                self.sync_catalog_for(io.id);
                Step::Park(1)
            }
            1 => {
                // A catalog that cannot be synced takes no new tasks, so that no slot can meet foreign files.
                io.take_errors();
                for part in TaskPart::ALL {
                    self.issue(io, Role::Other, StoreOp::Unlink { path: self.directory.part(task, part) });
                }
                Step::Go(2)
            }
            _ => {
                let is_gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
                let is_stuck = !io.take_errors().iter().all(|(_, error)| is_gone(error));
                let bytes = std::mem::take(&mut removal.bytes);
                match removal.open.take() {
                    // Its files are orphans, and deleted when the directory is opened next.
                    _ if is_stuck => self.stuck_bytes += bytes,
                    Some(open) => self.lingering.push(Lingering { open, bytes }),
                    None => self.space.release_lingering(bytes),
                }
                if removal.why == Why::Asked {
                    self.outputs.push_back(Output::Removed { task });
                }
                self.reap();
                Step::Done
            }
        }
    }

    /// Lets go of removed tasks that nobody else holds. The close may take long, so that it is an operation too.
    pub(super) fn reap(&mut self) {
        for lingering in std::mem::take(&mut self.lingering) {
            if lingering.is_held() {
                self.lingering.push(lingering);
                continue;
            }
            let Lingering { open: OpenTask { file, table, batches, .. }, bytes } = lingering;
            let mut files = vec![table, batches];
            files.extend(Arc::into_inner(file).map(TaskFile::into_files).into_iter().flatten());
            self.discard(files.into_iter().map(|file| StoreOp::Close { file }).collect(), bytes);
        }
    }
}
