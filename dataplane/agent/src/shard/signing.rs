//! This host's word for what it fetched from the origin: records, signed in batches.

use std::time::Duration;

use hawker_proto::trust::{BATCH_PIECES_MAX, Grant, PieceRecord, RecordBatch, SignedLease};
use hawker_proto::{PieceIndex, TaskId};

use super::Shard;
use super::download::Driver;
use crate::share::SharedTask;

/// Records wait this long for others to share a signature.
pub(super) const SIGN_AFTER: Duration = Duration::from_millis(20);

impl Driver {
    /// The lease under which this host may vouch for a piece: the latest, for an earlier scheduler's key may be lost.
    pub(super) fn lease_over(&self, piece: PieceIndex) -> Option<SignedLease> {
        let range = self.task.geometry().piece_range(piece);
        self.leases.iter().rev().find(|lease| lease.lease.range.contains(range)).copied()
    }

    /// Whether the scheduler counts on this host's word for a piece that is here, or nobody gave any.
    pub(super) fn lacks_proof(&self, piece: PieceIndex) -> bool {
        match self.lease_over(piece) {
            Some(lease) => !self.task.is_proven_in(piece, lease.lease.epoch),
            None => !self.task.is_proven(piece),
        }
    }
}

impl Shard {
    /// Signs batches of records that waited long enough or are enough.
    pub(super) fn sign_due(&mut self, task: TaskId) {
        let now = self.now;
        let Some(driver) = self.downloads.get_mut(&task) else { return };
        let Some(since) = driver.unsigned_since else { return };
        let is_due = now.since(since) >= SIGN_AFTER || driver.unsigned.len() >= BATCH_PIECES_MAX || driver.is_complete;
        if !is_due {
            return;
        }
        driver.unsigned_since = None;
        let unsigned = std::mem::take(&mut driver.unsigned);
        let mut groups: Vec<(Grant, Vec<PieceIndex>)> = Vec::new();
        for piece in unsigned {
            if !driver.lacks_proof(piece) {
                continue;
            }
            let allowance = driver.allowance.filter(|_| !driver.is_alone).map(Grant::Allowance);
            let Some(grant) = driver.lease_over(piece).map(Grant::Lease).or(allowance) else {
                // No right to vouch for it yet: it stays this host's own until a lease covers it.
                driver.unsigned.push(piece);
                continue;
            };
            match groups.iter_mut().find(|(other, pieces)| *other == grant && pieces.len() < BATCH_PIECES_MAX) {
                Some((_, pieces)) => pieces.push(piece),
                None => groups.push((grant, vec![piece])),
            }
        }
        if groups.is_empty() {
            return;
        }
        for (grant, pieces) in groups {
            sign_batch(&self.identity.key, &driver.task, grant, &pieces);
        }
        self.announce_everywhere(task);
    }

    /// Pieces in a new lease's range that are here without a proof can be vouched for now.
    pub(super) fn sign_under(&mut self, task: TaskId, lease: SignedLease) {
        let now = self.now;
        let Some(driver) = self.downloads.get_mut(&task) else { return };
        if lease.verify(&self.scheduler_keys).is_err() {
            return;
        }
        let pieces = driver.task.geometry().pieces_within(lease.lease.range);
        driver.leases.push(lease);
        for piece in pieces.map(PieceIndex) {
            let is_ours = driver.task.file().has_piece(piece) && driver.lacks_proof(piece);
            if is_ours && !driver.unsigned.contains(&piece) {
                driver.unsigned.push(piece);
            }
        }
        if !driver.unsigned.is_empty() {
            driver.unsigned_since.get_or_insert(now);
        }
    }
}

/// Signs the records of `pieces`, at most a batch, and keeps the proof.
fn sign_batch(key: &hawker_proto::identity::HostKey, task: &SharedTask, grant: Grant, pieces: &[PieceIndex]) {
    let record = |piece: &PieceIndex| {
        let blocks = task.file().record(*piece)?;
        Some(PieceRecord { piece: *piece, blocks })
    };
    let records: Vec<PieceRecord> = pieces.iter().filter_map(record).collect();
    if records.is_empty() {
        return;
    }
    let batch = RecordBatch::sign(key, task.id(), task.geometry(), grant, records);
    let encoded = batch.encode();
    task.add_proof(&batch, encoded);
}
