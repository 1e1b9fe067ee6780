//! Word to the host's other shards that a task has new pieces for their children.

use std::collections::HashSet;

use hawker_proto::TaskId;

use crate::seam::{ShardCommand, ShardHandle};

/// What other shards must hear, and whose queues were full. Once for each task, however often it changed: the last piece
/// has no successor that would announce it too.
#[derive(Debug, Default)]
pub(super) struct Notices {
    unsaid: HashSet<(usize, TaskId)>,
}

impl Notices {
    /// Tells all of `handles` but the `own`.
    pub(super) fn say(&mut self, handles: &[ShardHandle], own: usize, task: TaskId) {
        for shard in (0..handles.len()).filter(|shard| *shard != own) {
            self.unsaid.insert((shard, task));
        }
        self.flush(handles);
    }

    /// Tells what could not be told before.
    pub(super) fn flush(&mut self, handles: &[ShardHandle]) {
        self.unsaid.retain(|(shard, task)| !handles[*shard].try_send(ShardCommand::Changed { task: *task }));
    }

    pub(super) fn are_unsaid(&self) -> bool {
        !self.unsaid.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::testing::shard;

    #[tokio::test]
    async fn shard_whose_queue_was_full_hears_of_the_last_piece() {
        let (own, _own_mailbox) = shard();
        let (other, mut mailbox) = shard();
        while other.try_send(ShardCommand::SlotFreed) {}
        let handles = [own, other];
        let (mut notices, task) = (Notices::default(), TaskId([7; 32]));
        notices.say(&handles, 0, task);
        notices.say(&handles, 0, task);
        assert!(notices.are_unsaid());
        while mailbox.try_recv().is_ok() {}
        notices.flush(&handles);
        assert!(matches!(mailbox.try_recv(), Ok(ShardCommand::Changed { task: heard }) if heard == task));
        assert!(mailbox.try_recv().is_err() && !notices.are_unsaid(), "once");
    }
}
