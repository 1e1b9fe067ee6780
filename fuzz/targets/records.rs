//! Proofs and grants: what is one encodes to the bytes it came from, and none is believed that nobody signed.
#![no_main]

use hawker_proto::trust::{RecordBatch, SignedAllowance, SignedLease};
use hawker_proto::{HostKey, PieceMap};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let nobody = [HostKey::from_seed([7; 32]).public()];
    if let Ok(batch) = RecordBatch::decode(bytes) {
        assert_eq!(batch.encode(), bytes);
        assert!(batch.verify(batch.task, batch.geometry, &nobody).is_err());
        let _ = batch.verify_under_known_grant(batch.task, batch.geometry);
    }
    if let Ok(lease) = SignedLease::decode(bytes) {
        assert_eq!(lease.encode(), bytes);
        assert!(lease.verify(&nobody).is_err());
    }
    if let Ok(allowance) = SignedAllowance::decode(bytes) {
        assert_eq!(allowance.encode(), bytes);
        assert!(allowance.verify(&nobody).is_err());
    }
    for count in [0, 1, 7, 64, 1000] {
        if let Some(map) = PieceMap::from_bytes(count, bytes) {
            assert!(map.len() <= count && map.iter().all(|piece| piece.0 < count));
        }
    }
});
