//! The order of durability: batches and data, then names, then the durable bits, then the table; to seal, then the
//! slot.

use std::io;

use hawker_proto::hash::{root_of_blocks, root_of_bytes, root_of_pieces};
use hawker_proto::{PieceIndex, Root, TaskId};
use rustix::fs::{Mode, OFlags};

use super::create::NOFOLLOW;
use super::grow::SlotOrWait;
use super::jobs::{JobIo, Request, Role, Step, Work, lost};
use super::remove::Why;
use super::{FLUSH_BYTES, FLUSH_INTERVAL, OpenTask, Store};
use crate::catalog::SlotIndex;
use crate::directory::{TaskPart, c_path};
use crate::error::SealError;
use crate::op::{Output, StoreOp};
use crate::slot::{ContentDigest, Slot};
use crate::space::footprint_sealed;
use crate::task_file::TaskFile;

/// Stages of a [`Persist`].
const START: u32 = 0;
const ROOT: u32 = 1;
const WRITE: u32 = 2;
const NAMES: u32 = 3;
const SYNC: u32 = 4;
const DURABLE: u32 = 5;
const TABLE: u32 = 6;
const SLOT: u32 = 7;
const CATALOG: u32 = 8;

/// Why a task is written out.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    /// Hand the waiting batches to the kernel: a killed process then loses none.
    Append,
    /// Make what is received durable.
    Flush { is_asked: bool },
    /// The same, and then seal.
    Seal { root: Root },
}

/// A task that is being written out.
#[derive(Debug)]
pub(super) struct Persist {
    purpose: Purpose,
    snapshot: Vec<u32>,
    bytes: u64,
    /// The second slot of a task that is being sealed.
    sealed: Option<(SlotIndex, Slot)>,
}

/// How a job fails: the answer to a seal that leaves the task as it was, or the disk lost something.
enum Failure {
    Refused(SealError),
    Lost(io::Error),
}

impl Store {
    pub(super) fn start_persist(&mut self, task: TaskId, purpose: Purpose) {
        self.follow_unsealing(task);
        let open = self.tasks.get(&task).and_then(|entry| entry.open.as_ref());
        let is_sealed = open.is_some_and(|open| open.file.is_sealed());
        if open.is_none() || is_sealed {
            self.answer_at_once(task, purpose);
            self.end_request(task);
            return;
        }
        self.start(Some(task), Work::Persist(Persist { purpose, snapshot: Vec::new(), bytes: 0, sealed: None }));
    }

    /// Of a task that is not open everything is durable, as of a sealed one.
    fn answer_at_once(&mut self, task: TaskId, purpose: Purpose) {
        match purpose {
            Purpose::Flush { is_asked: true } => self.outputs.push_back(Output::Durable { task }),
            Purpose::Append | Purpose::Flush { .. } => {}
            Purpose::Seal { root } => {
                let found = self.open_file(task).and_then(TaskFile::root);
                let result = match found {
                    Some(found) if found == root => Ok(()),
                    Some(found) => Err(SealError::WrongRoot { found }),
                    None => Err(SealError::NotFound),
                };
                self.outputs.push_back(Output::Sealed { task, result });
            }
        }
    }

    pub(super) fn step_persist(&mut self, task: TaskId, persist: &mut Persist, io: &mut JobIo) -> Step {
        let step = match io.stage {
            START => self.persist_start(task, persist, io),
            ROOT => self.check_root(task, persist, io),
            WRITE => self.write_batches(task, io),
            NAMES => self.open_names(task, persist, io),
            SYNC => self.sync_data(task, persist, io),
            DURABLE => self.sync_table(task, persist, io),
            TABLE => self.table_synced(task, persist, io),
            SLOT => self.put_sealed_slot(task, persist, io),
            _ => self.catalog_synced(task, persist, io),
        };
        match step {
            Ok(step) => step,
            Err(failure) => {
                self.persist_failed(task, persist, failure);
                Step::Done
            }
        }
    }

    fn persist_failed(&mut self, task: TaskId, persist: &mut Persist, failure: Failure) {
        let is_seal = matches!(persist.purpose, Purpose::Seal { .. });
        if let Some((index, _)) = persist.sealed.take() {
            self.catalog.clear(index);
            self.catalog.release(index);
        }
        match failure {
            Failure::Refused(error) => self.outputs.push_back(Output::Sealed { task, result: Err(error) }),
            Failure::Lost(error) => {
                self.outputs.push_back(if is_seal {
                    Output::Sealed { task, result: Err(SealError::Disk(error)) }
                } else {
                    Output::Failed { task, error }
                });
                // The kernel has marked the lost pages as clean, so that another fsync would lie (Rebello et al.,
                // "Can Applications Recover from fsync Failures?", ATC '20): the task goes.
                self.ask(task, Request::Remove(Why::Failed));
            }
        }
    }

    fn open_task(&self, task: TaskId) -> &OpenTask {
        self.tasks.get(&task).and_then(|entry| entry.open.as_ref()).expect("a busy task stays open")
    }

    fn persist_start(&mut self, task: TaskId, persist: &Persist, io: &mut JobIo) -> Result<Step, Failure> {
        let open = self.open_task(task);
        let file = &open.file;
        if file.is_torn() {
            return Err(Failure::Lost(lost()));
        }
        if matches!(persist.purpose, Purpose::Seal { .. }) {
            let geometry = file.geometry();
            let missing_pieces = geometry.piece_count() - file.received().len();
            if missing_pieces > 0 {
                return Err(Failure::Refused(SealError::Incomplete { missing_pieces }));
            }
            if geometry.block_count_total() == 1 {
                // The root of one block is no merge of chaining values: it takes the bytes.
                let len = usize::try_from(geometry.length()).expect("a block");
                let content = file.content().clone();
                self.issue(io, Role::Content, StoreOp::Read { file: content, len, offset: 0 });
            }
            return Ok(Step::Go(ROOT));
        }
        Ok(Step::Go(WRITE))
    }

    fn check_root(&mut self, task: TaskId, persist: &Persist, io: &mut JobIo) -> Result<Step, Failure> {
        if let Some(error) = io.take_error() {
            return Err(Failure::Lost(error));
        }
        let Purpose::Seal { root } = persist.purpose else { return Ok(Step::Go(WRITE)) };
        let content = io.take_read(Role::Content).unwrap_or_default();
        match root_of(&self.open_task(task).file, &content) {
            Some(found) if found == root => Ok(Step::Go(WRITE)),
            Some(found) => Err(Failure::Refused(SealError::WrongRoot { found })),
            None => Err(Failure::Refused(SealError::Incomplete { missing_pieces: 1 })),
        }
    }

    fn write_batches(&mut self, task: TaskId, io: &mut JobIo) -> Result<Step, Failure> {
        let open = self.open_task(task);
        let file = open.batches.clone();
        if let Some((bytes, offset)) = open.file.take_batches() {
            self.issue(io, Role::Batches, StoreOp::Write { file, bytes, offset });
        }
        Ok(Step::Go(NAMES))
    }

    /// Once after a task was created or opened: its names and its meta file survive a power cut before any durable
    /// bit does, or a table of this creation could meet the content of a former one.
    fn open_names(&mut self, task: TaskId, persist: &Persist, io: &mut JobIo) -> Result<Step, Failure> {
        for (_, error) in io.take_errors() {
            // A full disk costs the batches, not the task: after a restart others have to prove these pieces.
            if error.kind() != io::ErrorKind::StorageFull {
                return Err(Failure::Lost(error));
            }
        }
        if matches!(persist.purpose, Purpose::Append) {
            return Ok(Step::Done);
        }
        if !self.open_task(task).has_durable_names {
            let flags = OFlags::RDONLY | NOFOLLOW;
            let path = self.directory.part(task, TaskPart::Meta);
            self.issue(io, Role::Meta, StoreOp::Open { path, flags, mode: Mode::empty() });
            let path = c_path(&self.directory.of_task(task));
            let flags = flags | OFlags::DIRECTORY;
            self.issue(io, Role::Directory, StoreOp::Open { path, flags, mode: Mode::empty() });
        }
        Ok(Step::Go(SYNC))
    }

    fn sync_data(&mut self, task: TaskId, persist: &mut Persist, io: &mut JobIo) -> Result<Step, Failure> {
        if let Some(error) = io.take_error() {
            if error.kind() == io::ErrorKind::NotFound {
                return Err(Failure::Lost(error));
            }
            // Descriptors ran out, most likely. Nothing is lost by waiting.
            self.retries.push(io.id);
            return Ok(Step::Park(NAMES));
        }
        let open = self.open_task(task);
        // Before the sync begins: what is received later is not covered by it.
        persist.bytes = open.file.bytes_received();
        persist.snapshot = open.file.received_snapshot();
        let (content, batches) = (open.file.content().clone(), open.batches.clone());
        if !open.has_durable_names {
            // The slot is among the names: it was stored when the task was created, and never synced since.
            let file = self.catalog.file().clone();
            self.issue(io, Role::Other, StoreOp::Sync { file, data_only: true });
        }
        self.issue(io, Role::Content, StoreOp::Sync { file: content, data_only: true });
        self.issue(io, Role::Batches, StoreOp::Sync { file: batches, data_only: true });
        for role in [Role::Meta, Role::Directory] {
            if let Some(file) = io.take_file(role) {
                self.issue(io, role, StoreOp::Sync { file, data_only: false });
            }
        }
        Ok(Step::Go(DURABLE))
    }

    fn check_synced(&mut self, task: TaskId, io: &mut JobIo) -> Result<(), Failure> {
        let mut errors = io.take_errors();
        self.is_broken |= errors.iter().any(|(role, _)| *role == Role::Other);
        if errors.is_empty() && (self.open_task(task).file.is_torn() || self.catalog.is_torn()) {
            return Err(Failure::Lost(lost()));
        }
        errors.pop().map_or(Ok(()), |(_, error)| Err(Failure::Lost(error)))
    }

    fn sync_table(&mut self, task: TaskId, persist: &mut Persist, io: &mut JobIo) -> Result<Step, Failure> {
        self.check_synced(task, io)?;
        let open = self.open_task(task);
        open.file.make_durable(std::mem::take(&mut persist.snapshot));
        let file = open.table.clone();
        self.issue(io, Role::Table, StoreOp::Sync { file, data_only: true });
        Ok(Step::Go(TABLE))
    }

    fn table_synced(&mut self, task: TaskId, persist: &Persist, io: &mut JobIo) -> Result<Step, Failure> {
        self.check_synced(task, io)?;
        let now = self.now;
        let open = self.tasks.get_mut(&task).and_then(|entry| entry.open.as_mut()).expect("a busy task stays open");
        open.has_durable_names = true;
        open.flushed_at = now;
        open.flushed_bytes = persist.bytes;
        match persist.purpose {
            Purpose::Seal { .. } => {
                let missing_pieces = open.file.geometry().piece_count() - open.file.durable().len();
                match missing_pieces {
                    0 => Ok(Step::Go(SLOT)),
                    _ => Err(Failure::Refused(SealError::Incomplete { missing_pieces })),
                }
            }
            Purpose::Flush { is_asked } => {
                if is_asked {
                    self.outputs.push_back(Output::Durable { task });
                }
                Ok(Step::Done)
            }
            Purpose::Append => Ok(Step::Done),
        }
    }

    /// A second slot: were the first overwritten, a torn write would cost the task.
    fn put_sealed_slot(&mut self, task: TaskId, persist: &mut Persist, io: &mut JobIo) -> Result<Step, Failure> {
        if let Some(error) = io.take_error() {
            return Err(Failure::Refused(SealError::CatalogFull(error)));
        }
        let Purpose::Seal { root } = persist.purpose else { return Ok(Step::Done) };
        let SlotOrWait::Slot(index) = self.take_slot(io.id) else { return Ok(Step::Park(SLOT)) };
        let entry = self.tasks.get(&task).expect("a busy task stays");
        let Some(slot) = self.catalog.get(entry.index) else {
            self.catalog.release(index);
            return Err(Failure::Lost(lost()));
        };
        let batches_bytes = self.open_task(task).file.batches_bytes();
        let charged = footprint_sealed(slot.charged, slot.geometry, batches_bytes);
        let sealed = Slot { root: Some(root), charged, ..slot };
        self.catalog.put(index, &sealed, entry.last_read_unix_ms);
        persist.sealed = Some((index, sealed));
        self.sync_catalog_for(io.id);
        Ok(Step::Park(CATALOG))
    }

    fn catalog_synced(&mut self, task: TaskId, persist: &mut Persist, io: &mut JobIo) -> Result<Step, Failure> {
        self.check_synced(task, io)?;
        let (index, slot) = persist.sealed.take().expect("put_sealed_slot made it");
        let root = slot.root.expect("of a sealed slot");
        let entry = self.tasks.get_mut(&task).expect("a busy task stays");
        let former = std::mem::replace(&mut entry.index, index);
        self.catalog.clear(former);
        self.catalog.release(former);
        self.space.seal(entry.charged, slot.charged);
        entry.charged = slot.charged;
        entry.is_sealed = true;
        self.arriving.remove(&task);
        self.by_digest.insert(ContentDigest::of_root(root), task);
        let result = if self.open_task(task).file.seal(root) {
            Ok(())
        } else {
            // A piece was cleared while the catalog was synced.
            self.follow_unsealing(task);
            Err(SealError::Incomplete { missing_pieces: 1 })
        };
        self.outputs.push_back(Output::Sealed { task, result });
        Ok(Step::Done)
    }

    /// A cleared piece unseals its task at once, on any thread; here the catalog follows.
    pub(super) fn follow_unsealing(&mut self, task: TaskId) {
        let Some(entry) = self.tasks.get_mut(&task) else { return };
        let is_unsealed = entry.open.as_ref().is_some_and(|open| !open.file.is_sealed());
        if !entry.is_sealed || !is_unsealed {
            return;
        }
        let Some(slot) = self.catalog.get(entry.index) else { return };
        let root = slot.root.map(ContentDigest::of_root);
        if let Some(root) = root.filter(|root| self.by_digest.get(root) == Some(&task) && slot.digest != Some(*root)) {
            self.by_digest.remove(&root);
        }
        // The batches may grow again.
        let charged = crate::space::footprint(slot.geometry).unwrap_or(slot.charged).max(slot.charged);
        self.space.unseal(entry.charged, charged);
        entry.charged = charged;
        entry.is_sealed = false;
        // In place: torn by a power cut it costs a task that has a bad piece.
        self.catalog.put(entry.index, &Slot { root: None, charged, ..slot }, entry.last_read_unix_ms);
        self.arriving.insert(task);
    }

    fn open_file(&self, task: TaskId) -> Option<&TaskFile> {
        self.tasks.get(&task)?.open.as_ref().map(|open| &*open.file)
    }

    /// Begins what is due for the open tasks.
    pub(super) fn look_at_open_tasks(&mut self) {
        let opened: Vec<TaskId> = self.opened.values().copied().collect();
        for task in opened.into_iter().filter(|task| !self.is_busy(*task)).collect::<Vec<_>>() {
            self.follow_unsealing(task);
            let open = self.open_task(task);
            if open.file.is_torn() {
                self.outputs.push_back(Output::Failed { task, error: lost() });
                self.ask(task, Request::Remove(Why::Failed));
                continue;
            }
            if !self.arriving.contains(&task) {
                continue;
            }
            let bytes = open.file.bytes_received().abs_diff(open.flushed_bytes);
            let is_due = open.flushed_at + FLUSH_INTERVAL <= self.now || bytes >= FLUSH_BYTES;
            let purpose = if is_due && !open.file.is_durable() {
                Purpose::Flush { is_asked: false }
            } else if open.file.has_waiting_batches() {
                Purpose::Append
            } else {
                continue;
            };
            self.ask(task, Request::Persist(purpose));
        }
    }
}

/// The root of a task that has all its pieces. `content` is needed, and looked at, only up to one block.
fn root_of(file: &TaskFile, content: &[u8]) -> Option<Root> {
    let geometry = file.geometry();
    if geometry.block_count_total() <= 1 {
        return (content.len() as u64 == geometry.length()).then(|| root_of_bytes(content));
    }
    if geometry.piece_count() == 1 {
        return root_of_blocks(geometry.length(), &file.record(PieceIndex(0))?);
    }
    let values = (0..geometry.piece_count()).map(|piece| file.piece_value(PieceIndex(piece)));
    root_of_pieces(geometry, &values.collect::<Option<Vec<_>>>()?)
}
