//! Small contents that ride in answers to wants: a host that asks for one need not meet another.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use hawker_proto::TaskId;

/// Bytes of one content that rides inline, at most.
pub const INLINE_BYTES_MAX: usize = 64 << 10;

/// What is remembered, bounded by `Limits::inline_bytes_max`: what was asked for longest ago goes first.
#[derive(Debug, Default)]
pub(crate) struct Inline {
    by_task: BTreeMap<TaskId, Row>,
    by_use: BTreeMap<u64, TaskId>,
    bytes: usize,
    uses: u64,
}

#[derive(Debug)]
struct Row {
    used: u64,
    bytes: Vec<u8>,
}

impl Inline {
    /// Remembers `bytes`, which a host says the content is. Whoever gets them compares them with its digest.
    pub(crate) fn learn(&mut self, task: TaskId, mut bytes: Vec<u8>, bytes_max: usize) {
        if bytes.is_empty() || bytes.len() > INLINE_BYTES_MAX || self.by_task.contains_key(&task) {
            return;
        }
        bytes.shrink_to_fit();
        self.bytes += bytes.len();
        self.uses += 1;
        self.by_use.insert(self.uses, task);
        self.by_task.insert(task, Row { used: self.uses, bytes });
        while self.bytes > bytes_max {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            if let Some(row) = self.by_task.remove(&oldest) {
                self.bytes -= row.bytes.len();
            }
        }
    }

    pub(crate) fn recall(&mut self, task: TaskId) -> Option<&[u8]> {
        let row = self.by_task.get_mut(&task)?;
        self.by_use.remove(&row.used);
        self.uses += 1;
        row.used = self.uses;
        self.by_use.insert(row.used, task);
        Some(&row.bytes)
    }

    /// What was remembered may have been a lie.
    pub(crate) fn forget(&mut self, task: TaskId) {
        if let Some(row) = self.by_task.remove(&task) {
            self.by_use.remove(&row.used);
            self.bytes -= row.bytes.len();
        }
    }

    pub(crate) fn assert_invariants(&self, bytes_max: usize) {
        assert!(self.bytes <= bytes_max);
        assert_eq!(self.bytes, self.by_task.values().map(|row| row.bytes.len()).sum::<usize>());
        assert_eq!(self.by_task.len(), self.by_use.len());
        assert!(self.by_use.iter().all(|(used, task)| self.by_task.get(task).is_some_and(|row| row.used == *used)));
    }
}
