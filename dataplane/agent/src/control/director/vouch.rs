//! Vouching for what was here before it had a lease.

use std::sync::Arc;

use hawker_proto::trust::{BATCH_PIECES_MAX, Grant, PieceRecord, RecordBatch, SignedLease};
use hawker_proto::{HostKey, PieceIndex, TaskId};
use hawker_scheduler::{Input, LeaseOutcome};

use super::{Director, Internal};
use crate::control::link::Side;
use crate::seam::ShardCommand;
use crate::share::SharedTask;

impl Director {
    /// A lease for what is all here (a body of unknown length, spooled before it had a name): its records are signed, so
    /// that others can have it from this host.
    pub(super) fn vouch(&self, task: TaskId, lease: SignedLease) {
        let Some(running) = self.tasks.get(&task) else { return };
        let (shared, key) = (Arc::clone(running.shared()), Arc::clone(&self.parts.key));
        self.spawn(async move {
            let signed = tokio::task::spawn_blocking(move || sign_all(&shared, &key, lease));
            Internal::Vouched { task, lease: Box::new(lease), count: signed.await.unwrap_or(0) }
        });
    }

    pub(super) async fn on_vouched(&mut self, task: TaskId, lease: SignedLease, count: usize) {
        let range = lease.lease.range;
        let (upto, outcome) = match count {
            0 => (range.start(), LeaseOutcome::Returned),
            _ => (range.end(), LeaseOutcome::Complete),
        };
        let serial = lease.lease.serial;
        self.say(Side::Cluster, Input::LeaseDone { host: self.parts.host, serial, upto, outcome });
        if count > 0 {
            self.announce(task);
            self.tell_all(|| ShardCommand::Changed { task }).await;
        }
    }
}

/// Signs the records of all pieces of the lease that nobody has vouched for in its epoch; returns how many.
fn sign_all(shared: &SharedTask, key: &HostKey, lease: SignedLease) -> usize {
    let geometry = shared.geometry();
    let is_unproven = |piece: &PieceIndex| !shared.is_proven_in(*piece, lease.lease.epoch);
    let pieces = geometry.pieces_within(lease.lease.range).map(PieceIndex).filter(is_unproven);
    let records: Vec<PieceRecord> =
        pieces.filter_map(|piece| Some(PieceRecord { piece, blocks: shared.file().record(piece)? })).collect();
    for batch in records.chunks(BATCH_PIECES_MAX) {
        let batch = RecordBatch::sign(key, shared.id(), geometry, Grant::Lease(lease), batch.to_vec());
        let encoded = batch.encode();
        shared.add_proof(&batch, encoded);
    }
    records.len()
}
