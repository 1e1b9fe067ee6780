//! What opening a data directory finds and mends.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use hawker_proto::TaskId;

use super::{OpenReport, Store};
use crate::catalog::{Found, Opened, SlotIndex};
use crate::directory::{ALL_PARTS, TaskPart, io_error, is_spool_name, parse_part};
use crate::error::OpenError;
use crate::op::FileSystemSpace;

impl Store {
    /// Takes the slots as tasks, drops those without their files, and deletes files without a slot.
    ///
    /// No file of a task is opened: 100,000 of them would take seconds. A task's files are checked when it is opened.
    pub(super) fn recover(&mut self, opened: Opened) -> Result<(), OpenError> {
        self.report = OpenReport {
            slots_read: opened.slots_read,
            bytes_read: opened.bytes_read,
            slots_dropped: opened.slots_damaged,
            was_clean: opened.was_clean,
            is_same_boot: opened.is_same_boot,
            ..OpenReport::default()
        };
        let was_clean = opened.was_clean;
        self.tasks.reserve(opened.found.len());
        self.by_resolve.reserve(opened.found.len());
        for found in opened.found {
            self.take_slot_as_task(&found);
        }
        self.clear_incoming()?;
        // A clean close leaves exactly the files of the slots, but unlinked names are not synced: after a power cut
        // some may be back.
        if !was_clean || !self.report.is_same_boot || self.report.slots_dropped > 0 {
            self.match_files()?;
        }
        // Before anything is created: a task that comes again must not meet its former slot after a power cut.
        self.sync_catalog()?;
        self.report.tasks = self.tasks.len() as u64;
        let space = rustix::fs::statvfs(self.directory.root())
            .map_err(|errno| io_error("measure", self.directory.root(), errno.into()))?;
        self.set_file_system(FileSystemSpace {
            total_bytes: space.f_blocks.saturating_mul(space.f_frsize),
            available_bytes: space.f_bavail.saturating_mul(space.f_frsize),
        });
        Ok(())
    }

    /// Sealing writes a second slot before it clears the first: of two, the sealed one counts.
    fn take_slot_as_task(&mut self, found: &Found) {
        let slot = &found.slot;
        let rank = (slot.instance, slot.root.is_some());
        let former = self.tasks.get(&slot.task).map(|entry| (entry.instance, entry.is_sealed, entry.charged));
        if let Some((instance, is_sealed, charged)) = former {
            self.report.slots_dropped += 1;
            if (instance, is_sealed) >= rank {
                self.drop_slot(found.index);
                return;
            }
            self.forget_task(slot.task);
            self.space.forget(charged, is_sealed);
        }
        if self.space.found(slot.charged, slot.root.is_some()) {
            self.insert_task(found.index, slot, found.last_read_unix_ms, None);
        } else {
            self.report.slots_dropped += 1;
            self.drop_slot(found.index);
        }
    }

    fn drop_slot(&mut self, index: SlotIndex) {
        self.catalog.clear(index);
        self.catalog.release(index);
    }

    fn match_files(&mut self) -> Result<(), OpenError> {
        let mut seen: HashMap<TaskId, u8> = HashMap::with_capacity(self.tasks.len());
        for byte in 0..=u8::MAX {
            let shard = self.directory.shard(byte);
            for name in names(&shard)? {
                self.report.names_read += 1;
                let Some((task, part)) = parse_part(name.as_bytes()) else { continue };
                if task.0[0] == byte && self.tasks.contains_key(&task) {
                    *seen.entry(task).or_default() |= part.bit();
                } else {
                    self.delete_orphan(&shard.join(name))?;
                }
            }
        }
        let lacking = |task: &&TaskId| seen.get(*task).copied().unwrap_or(0) != ALL_PARTS;
        let lacking: Vec<TaskId> = self.tasks.keys().filter(lacking).copied().collect();
        self.drop_with_files(&lacking)
    }

    fn drop_with_files(&mut self, tasks: &[TaskId]) -> Result<(), OpenError> {
        for task in tasks {
            let Some(entry) = self.forget_task(*task) else { continue };
            self.space.forget(entry.charged, entry.is_sealed);
            self.report.slots_dropped += 1;
        }
        // The slots first: without them the files are orphans, but a slot must not promise files that go.
        self.sync_catalog()?;
        for task in tasks {
            for part in TaskPart::ALL {
                let path = self.directory.part(*task, part);
                self.delete_orphan(Path::new(OsStr::from_bytes(path.as_bytes())))?;
            }
        }
        Ok(())
    }

    fn sync_catalog(&self) -> Result<(), OpenError> {
        let path = self.directory.catalog();
        rustix::fs::fdatasync(&**self.catalog.file()).map_err(|errno| io_error("sync", &path, errno.into()))
    }

    fn clear_incoming(&mut self) -> Result<(), OpenError> {
        let incoming = self.directory.incoming();
        for name in names(&incoming)? {
            if is_spool_name(name.as_bytes()) {
                self.delete_orphan(&incoming.join(name))?;
            }
        }
        Ok(())
    }

    fn delete_orphan(&mut self, path: &Path) -> Result<(), OpenError> {
        match std::fs::remove_file(path) {
            Ok(()) => self.report.orphans_deleted += 1,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(io_error("delete", path, source)),
        }
        Ok(())
    }
}

fn names(dir: &Path) -> Result<Vec<OsString>, OpenError> {
    let names = std::fs::read_dir(dir).and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect());
    names.map_err(|source| io_error("list", dir, source))
}
