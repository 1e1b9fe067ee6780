//! A task as all threads of the agent share it: its bytes on disk and the proofs that others need to trust them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hawker_proto::trust::RecordBatch;
use hawker_proto::{ByteRange, Geometry, PieceIndex, PieceMap, TaskId};
use hawker_storage::TaskFile;

/// One task, shared by every shard and the control half.
///
/// A piece is announced to others when it is received *and* some signed batch proves its record: bytes without a proof
/// are good for this host alone.
#[derive(Debug)]
pub struct SharedTask {
    file: Arc<TaskFile>,
    proofs: Mutex<Proofs>,
    /// Bytes of this task by source since the agent started.
    origin_bytes: AtomicU64,
    peer_bytes: AtomicU64,
}

#[derive(Debug)]
struct Proofs {
    /// Encoded batches in the order they came; links remember how many they have sent.
    batches: Vec<Arc<[u8]>>,
    covered: PieceMap,
}

impl SharedTask {
    /// Shares `file`, whose batches were verified before they were stored.
    #[must_use]
    pub fn new(file: Arc<TaskFile>) -> Self {
        let batches = file.batches();
        let mut covered = PieceMap::empty(file.geometry().piece_count());
        for batch in batches.iter().filter_map(|bytes| RecordBatch::decode(bytes).ok()) {
            for record in batch.records {
                if record.piece.0 < covered.piece_count() {
                    covered.insert(record.piece);
                }
            }
        }
        let proofs = Mutex::new(Proofs { batches, covered });
        Self { file, proofs, origin_bytes: AtomicU64::new(0), peer_bytes: AtomicU64::new(0) }
    }

    /// The task's name.
    #[must_use]
    pub fn id(&self) -> TaskId {
        self.file.id()
    }

    /// How its bytes divide.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.file.geometry()
    }

    /// Its bytes.
    #[must_use]
    pub fn file(&self) -> &Arc<TaskFile> {
        &self.file
    }

    /// Whether a proof for each piece of `batch` is known: then another copy adds nothing.
    #[must_use]
    pub fn is_covered(&self, batch: &RecordBatch) -> bool {
        let proofs = self.lock();
        batch.records.iter().all(|record| proofs.covered.contains(record.piece))
    }

    /// The end of the pieces that lead `range` and are stored, as an offset in the task; the range's start when its
    /// first piece is not.
    #[must_use]
    pub fn stored_until(&self, range: ByteRange) -> u64 {
        let geometry = self.geometry();
        let stored = geometry.pieces_within(range).map(PieceIndex).take_while(|piece| self.file.has_piece(*piece));
        stored.last().map_or(range.start(), |piece| geometry.piece_range(piece).end())
    }

    /// Whether a proof of `piece` is known.
    #[must_use]
    pub fn is_proven(&self, piece: PieceIndex) -> bool {
        self.lock().covered.contains(piece)
    }

    /// Keeps a verified batch: on disk beside the content, and for links to pass on.
    pub fn add_proof(&self, batch: &RecordBatch, encoded: Vec<u8>) {
        if let Err(error) = self.file.add_batch(encoded.clone()) {
            tracing::debug!(%error, "a proof is kept in memory only");
        }
        let encoded: Arc<[u8]> = encoded.into();
        let mut proofs = self.lock();
        for record in &batch.records {
            proofs.covered.insert(record.piece);
        }
        proofs.batches.push(encoded);
    }

    /// Whether there are batches from number `sent` on.
    #[must_use]
    pub fn has_proofs_after(&self, sent: usize) -> bool {
        self.lock().batches.len() > sent
    }

    /// The batches from number `sent` on.
    #[must_use]
    pub fn proofs_after(&self, sent: usize) -> Vec<Arc<[u8]>> {
        self.lock().batches.get(sent..).map(<[_]>::to_vec).unwrap_or_default()
    }

    /// The pieces that may be announced: received and proven.
    #[must_use]
    pub fn announceable(&self) -> PieceMap {
        let mut both = self.file.received();
        both.intersect_with(&self.lock().covered);
        both
    }

    /// Counts verified bytes by where they came from.
    pub fn count(&self, source: Source, bytes: u64) {
        let counter = match source {
            Source::Origin => &self.origin_bytes,
            Source::Peer => &self.peer_bytes,
        };
        counter.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes from origin and from peers since the agent started.
    #[must_use]
    pub fn bytes_by_source(&self) -> (u64, u64) {
        (self.origin_bytes.load(Ordering::Relaxed), self.peer_bytes.load(Ordering::Relaxed))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Proofs> {
        self.proofs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where bytes came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The task's origin.
    Origin,
    /// Another agent.
    Peer,
}
