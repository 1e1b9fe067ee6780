//! Clients that read tasks which still arrive.

use hawker_proto::{PieceIndex, TaskId};

use super::Shard;
use super::connection::Connection;
use super::exchange::Content;
use crate::control::director::shard_index;
use crate::seam::ShardCommand;

/// Those of one task.
#[derive(Debug, Default)]
pub(super) struct Readers {
    connections: Vec<u64>,
    /// Where the shard that downloads was told the first of them stands.
    told: PieceIndex,
}

impl Shard {
    pub(super) fn add_reader(&mut self, task: TaskId, id: u64) {
        self.http.readers.entry(task).or_default().connections.push(id);
    }

    pub(super) fn forget_reader(&mut self, task: TaskId, id: u64) {
        let Some(readers) = self.http.readers.get_mut(&task) else { return };
        readers.connections.retain(|reader| *reader != id);
        if readers.connections.is_empty() {
            let was_told = readers.told != PieceIndex(0);
            self.http.readers.remove(&task);
            if was_told {
                self.set_reader(task, PieceIndex(0));
            }
        }
    }

    /// Pieces of a task arrived, or were lost: those who wait for them go on.
    pub(in crate::shard) fn feed_readers(&mut self, task: TaskId) {
        let Some(readers) = self.http.readers.get(&task) else { return };
        let is_starved = |id: &&u64| self.http.connections.get(id).is_some_and(|one| one.lacked().is_some());
        let starved: Vec<u64> = readers.connections.iter().filter(is_starved).copied().collect();
        for id in starved {
            self.note_available(id);
            self.go_on_sending(id);
            self.drive_http(id);
        }
        self.note_first_reader(task);
    }

    /// A reader stands elsewhere now.
    pub(super) fn note_reader(&mut self, id: u64) {
        let exchange = self.http.get(id).and_then(|connection| connection.exchange.as_ref());
        if let Some(Content::Task(content)) = exchange.map(|exchange| &exchange.content)
            && content.lacked.is_some()
        {
            let task = content.task.id();
            self.note_first_reader(task);
        }
    }

    /// Tells the download which piece is waited for, when that is another one now: the first of them.
    fn note_first_reader(&mut self, task: TaskId) {
        let Some(readers) = self.http.readers.get(&task) else { return };
        let lacked = |id: &u64| self.http.connections.get(id)?.lacked();
        let Some(first) = readers.connections.iter().filter_map(lacked).min() else { return };
        if first != readers.told {
            self.set_reader(task, first);
        }
    }

    fn set_reader(&mut self, task: TaskId, piece: PieceIndex) {
        let owner = shard_index(task, self.handles.len());
        let is_told = if owner == self.index {
            self.tell(task, hawker_swarm::DownloadInput::Reader { piece });
            true
        } else {
            // A queue that is full: the next piece says it again.
            self.handles[owner].try_send(ShardCommand::SetReader { task, piece })
        };
        if let Some(readers) = self.http.readers.get_mut(&task).filter(|_| is_told) {
            readers.told = piece;
        }
    }
}

impl Connection {
    /// The piece that it waits for.
    fn lacked(&self) -> Option<PieceIndex> {
        match &self.exchange.as_ref()?.content {
            Content::Task(content) => content.lacked,
            Content::Inline | Content::Stream(_) => None,
        }
    }
}
