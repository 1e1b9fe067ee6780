//! A task as all threads of the agent share it: its bytes on disk and the proofs that others need to trust them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hawker_proto::trust::{Grant, RecordBatch};
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
    /// Whether the content is yet to be compared with the digest that it goes by.
    is_in_doubt: AtomicBool,
}

#[derive(Debug)]
struct Proofs {
    /// Encoded batches in the order they came; links remember how many they have sent.
    batches: Vec<Arc<[u8]>>,
    covered: PieceMap,
    /// The pieces that grants of each epoch cover. A scheduler that lost its key has others than the one before, and hosts
    /// that never knew that one need a proof of the new.
    by_epoch: Vec<(u64, PieceMap)>,
}

/// Epochs told apart; proofs of further ones count as proofs of any.
const EPOCHS_MAX: usize = 8;

impl Proofs {
    fn add(&mut self, batch: &RecordBatch) {
        let (epoch, count) = (epoch_of(&batch.grant), self.covered.piece_count());
        let mut known = self.by_epoch.iter().position(|(other, _)| *other == epoch);
        if known.is_none() && self.by_epoch.len() < EPOCHS_MAX {
            known = Some(self.by_epoch.len());
            self.by_epoch.push((epoch, PieceMap::empty(count)));
        }
        for piece in batch.records.iter().map(|record| record.piece).filter(|piece| piece.0 < count) {
            self.covered.insert(piece);
            if let Some(index) = known {
                self.by_epoch[index].1.insert(piece);
            }
        }
    }

    fn has(&self, piece: PieceIndex, epoch: u64) -> bool {
        match self.by_epoch.iter().find(|(other, _)| *other == epoch) {
            Some((_, pieces)) => pieces.contains(piece),
            None => self.by_epoch.len() == EPOCHS_MAX && self.covered.contains(piece),
        }
    }
}

const fn epoch_of(grant: &Grant) -> u64 {
    match grant {
        Grant::Lease(signed) => signed.lease.epoch,
        Grant::Allowance(signed) => signed.allowance.epoch,
    }
}

impl SharedTask {
    /// Shares `file`, whose batches were verified before they were stored.
    #[must_use]
    pub fn new(file: Arc<TaskFile>) -> Self {
        let batches = file.batches();
        let covered = PieceMap::empty(file.geometry().piece_count());
        let mut proofs = Proofs { batches: Vec::new(), covered, by_epoch: Vec::new() };
        for batch in batches.iter().filter_map(|bytes| RecordBatch::decode(bytes).ok()) {
            proofs.add(&batch);
        }
        proofs.batches = batches;
        let proofs = Mutex::new(proofs);
        let (origin_bytes, peer_bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { file, proofs, origin_bytes, peer_bytes, is_in_doubt: AtomicBool::new(false) }
    }

    /// The content is yet to be compared with its digest (`true`), or has been and is right.
    pub fn set_in_doubt(&self, is_in_doubt: bool) {
        self.is_in_doubt.store(is_in_doubt, Ordering::Release);
    }

    /// What a reader may have, `end` of the content at most: all but the last byte until the content is known to be what
    /// its digest names. A client that gets less than it was promised asks elsewhere; one that gets other bytes gives up.
    #[must_use]
    pub fn readable_until(&self, end: u64) -> u64 {
        let is_in_doubt = self.is_in_doubt.load(Ordering::Acquire);
        end.min(self.geometry().length().saturating_sub(u64::from(is_in_doubt)))
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

    /// Whether a proof of the same epoch is known for each piece of `batch`: then another copy adds nothing.
    #[must_use]
    pub fn is_covered(&self, batch: &RecordBatch) -> bool {
        let proofs = self.lock();
        let epoch = epoch_of(&batch.grant);
        batch
            .records
            .iter()
            .all(|record| record.piece.0 < proofs.covered.piece_count() && proofs.has(record.piece, epoch))
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

    /// Whether a proof of `piece` under a grant of `epoch` is known.
    #[must_use]
    pub fn is_proven_in(&self, piece: PieceIndex, epoch: u64) -> bool {
        self.lock().has(piece, epoch)
    }

    /// Keeps a verified batch: on disk beside the content, and for links to pass on.
    pub fn add_proof(&self, batch: &RecordBatch, encoded: Vec<u8>) {
        if let Err(error) = self.file.add_batch(encoded.clone()) {
            tracing::debug!(%error, "a proof is kept in memory only");
        }
        let encoded: Arc<[u8]> = encoded.into();
        let mut proofs = self.lock();
        proofs.add(batch);
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
