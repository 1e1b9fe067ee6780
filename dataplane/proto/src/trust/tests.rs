use super::*;
use crate::ByteRange;
use crate::testing::{hex, host};
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use proptest::collection::vec as any_vec;
use proptest::prelude::*;

const TASK: TaskId = TaskId([0xaa; 32]);

/// Seventeen pieces of one block; the last has one byte, and is outside the lease.
fn geometry() -> Geometry {
    Geometry::of_length((1 << 20) + 1).unwrap()
}

fn lease() -> SignedLease {
    let lease = Lease {
        task: TASK,
        range: ByteRange::new(0, 1 << 20).unwrap(),
        holder: host(2).public(),
        epoch: 3,
        serial: 4,
        expires_unix_ms: 5,
    };
    lease.sign(&host(1))
}

fn allowance() -> SignedAllowance {
    let allowance = Allowance { host: host(2).public(), origin: [0xbb; 32], bytes: 6, epoch: 7, expires_unix_ms: 8 };
    allowance.sign(&host(1))
}

fn record(piece: u32, byte: u8) -> PieceRecord {
    PieceRecord { piece: PieceIndex(piece), blocks: vec![ChainingValue([byte; 32])] }
}

fn batch(grant: Grant) -> RecordBatch {
    // Given out of order: signing sorts.
    RecordBatch::sign(&host(2), TASK, geometry(), grant, vec![record(3, 0xc3), record(0, 0xc0)])
}

fn verdict(batch: &RecordBatch) -> Result<(), VerifyError> {
    batch.verify(TASK, geometry(), &[host(9).public(), host(1).public()])
}

/// Signs what `batch` now holds, as a dishonest holder would.
fn signed_again(mut batch: RecordBatch) -> RecordBatch {
    batch.signature = host(2).sign(RECORDS_DOMAIN, &batch.signed_bytes());
    batch
}

// The golden bytes below were made with Python's `struct` and `cryptography`, from the diagram in `trust.rs`.

#[test]
fn lease_has_its_golden_bytes() {
    let expected = "aa".repeat(32)
        + "00000000000000000000100000000000"
        + "8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394"
        + "030000000000000004000000000000000500000000000000"
        + "e9cffbe5a0ad18e81be629f188e3344095b8d8b42f7cb2ac553594f5245460fd"
        + "e897ace7d256585219c40a9cca8507dfffbeac81419cb54988bb15593ee6c90b";
    assert_eq!(hex(&lease().encode()), expected);
    assert_eq!(SignedLease::decode(&lease().encode()), Ok(lease()));
}

#[test]
fn allowance_has_its_golden_bytes() {
    let expected = String::from("8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394")
        + &"bb".repeat(32)
        + "060000000000000007000000000000000800000000000000"
        + "3055553cd54c03cf561932da5c0d5e4c7eb2ee619f89201565ac27f4467416a6"
        + "d459ab41e30b0c214ae37ee9134ce4eb75bffcafd6f530aa52a4a1b0e4913700";
    assert_eq!(hex(&allowance().encode()), expected);
    assert_eq!(SignedAllowance::decode(&allowance().encode()), Ok(allowance()));
}

#[test]
fn batch_has_its_golden_bytes() {
    let records = "0000000001000000".to_owned() + &"c0".repeat(32) + "0300000001000000" + &"c3".repeat(32);
    let cases = [
        (
            Grant::Lease(lease()),
            "01",
            hex(&lease().encode()),
            "4ac0240b455c6f9eda925daa2305db982bc2a2fe88b10addd6e4cd2254b31bbe\
             9d70fc3a605615c901c5f29c83e5e6c67431b35f2fc487aac89cde170a9e2703",
        ),
        (
            Grant::Allowance(allowance()),
            "02",
            hex(&allowance().encode()),
            "b24760c573f42d3ff49b182c14cb138e33c772a2c17e6c290a2644f2513fc9c1\
             c6e7b530facb4ae6a5881e9e76f086ea48c28849f8390af0467fc04f9d788409",
        ),
    ];
    for (grant, kind, grant_bytes, signature) in cases {
        let head = format!("{}010010000000000000000100{kind}020000", "aa".repeat(32));
        let batch = batch(grant);
        assert_eq!(hex(&batch.encode()), head + &grant_bytes + &records + signature);
        assert_eq!(RecordBatch::decode(&batch.encode()), Ok(batch.clone()));
        assert_eq!(verdict(&batch), Ok(()));
        assert_eq!(batch.grant.holder(), host(2).public());
    }
}

#[test]
fn largest_batch_fits_its_bound() {
    let geometry = Geometry::of_length(crate::geometry::LENGTH_MAX).unwrap();
    let blocks = vec![ChainingValue([1; 32]); RECORD_BLOCKS_MAX as usize];
    let records = (0..16).map(|piece| PieceRecord { piece: PieceIndex(piece), blocks: blocks.clone() }).collect();
    let batch = RecordBatch::sign(&host(2), TASK, geometry, Grant::Allowance(allowance()), records);
    assert_eq!(batch.encode().len(), BATCH_BYTES_MAX - LEASE_BYTES + ALLOWANCE_BYTES);
    assert_eq!(batch.verify(TASK, geometry, &[host(1).public()]), Ok(()));
    assert_eq!(RecordBatch::decode(&batch.encode()), Ok(batch));
}

#[test]
fn grant_of_another_scheduler_is_refused() {
    let forged = lease().lease.sign(&host(2));
    assert_eq!(verdict(&batch(Grant::Lease(forged))), Err(VerifyError::GrantSignature));
    let forged = allowance().allowance.sign(&host(2));
    assert_eq!(verdict(&batch(Grant::Allowance(forged))), Err(VerifyError::GrantSignature));
    let batch = batch(Grant::Lease(lease()));
    assert_eq!(batch.verify(TASK, geometry(), &[]), Err(VerifyError::GrantSignature));
}

#[test]
fn known_grant_saves_no_check_but_its_own() {
    let known = |batch: &RecordBatch| batch.verify_under_known_grant(TASK, geometry());
    let good = batch(Grant::Lease(lease()));
    assert_eq!(known(&good), Ok(()));
    let unknown_scheduler = batch(Grant::Lease(lease().lease.sign(&host(2))));
    assert_eq!(known(&unknown_scheduler), Ok(()), "the caller has checked it");
    let mut changed = good.clone();
    changed.records[0].blocks[0].0[0] ^= 1;
    assert_eq!(known(&changed), Err(VerifyError::RecordsSignature));
    let beyond = signed_again(RecordBatch { records: vec![record(16, 0xc4)], ..good.clone() });
    assert_eq!(known(&beyond), Err(VerifyError::OutsideLease(PieceIndex(16))));
    assert_eq!(good.verify_under_known_grant(TaskId([0xab; 32]), geometry()), Err(VerifyError::OtherTask));
}

#[test]
fn lease_changed_after_signing_is_refused() {
    let original = lease();
    let mut wider = original;
    wider.lease.range = ByteRange::new(0, 1 << 40).unwrap();
    let mut later = original;
    later.lease.expires_unix_ms += 1;
    for changed in [wider, later] {
        assert_eq!(changed.verify(&[host(1).public()]), Err(VerifyError::GrantSignature));
        assert_eq!(verdict(&batch(Grant::Lease(changed))), Err(VerifyError::GrantSignature));
    }
    let mut more = allowance();
    more.allowance.bytes += 1;
    assert_eq!(more.verify(&[host(1).public()]), Err(VerifyError::GrantSignature));
}

#[test]
fn allowance_does_not_pass_as_a_lease() {
    // The same bytes signed under the other structure's domain.
    let mut lease = lease();
    lease.signature = host(1).sign("hawker-allowance-v1", &lease.encode()[..LEASE_BYTES - SIGNATURE_BYTES]);
    assert_eq!(lease.verify(&[host(1).public()]), Err(VerifyError::GrantSignature));
}

#[test]
fn batch_of_another_task_is_refused() {
    let other = TaskId([0xab; 32]);
    let batch = batch(Grant::Lease(lease()));
    assert_eq!(batch.verify(other, geometry(), &[host(1).public()]), Err(VerifyError::OtherTask));
    let mut renamed = batch;
    renamed.task = other;
    let renamed = signed_again(renamed);
    let verdict = renamed.verify(other, geometry(), &[host(1).public()]);
    assert_eq!(verdict, Err(VerifyError::OtherTask), "the lease is of the first task");
}

#[test]
fn batch_of_another_geometry_is_refused() {
    let batch = batch(Grant::Lease(lease()));
    for other in [Geometry::of_length(5), Geometry::of_stream((1 << 20) + 1)].into_iter().flatten() {
        assert_eq!(batch.verify(TASK, other, &[host(1).public()]), Err(VerifyError::OtherGeometry));
    }
}

#[test]
fn record_outside_the_lease_is_refused() {
    let with = |records| RecordBatch::sign(&host(2), TASK, geometry(), Grant::Lease(lease()), records);
    let last = PieceIndex(16);
    assert_eq!(verdict(&with(vec![record(16, 1)])), Err(VerifyError::OutsideLease(last)));
    assert_eq!(verdict(&with(vec![record(17, 1)])), Err(VerifyError::NoSuchPiece(PieceIndex(17))));
    assert_eq!(verdict(&with(vec![record(u32::MAX, 1)])), Err(VerifyError::NoSuchPiece(PieceIndex(u32::MAX))));
    let records = vec![record(16, 1)];
    let allowed = RecordBatch::sign(&host(2), TASK, geometry(), Grant::Allowance(allowance()), records);
    assert_eq!(verdict(&allowed), Ok(()), "an allowance covers every piece");
}

#[test]
fn part_of_a_piece_under_lease_is_not_enough() {
    let mut lease = lease().lease;
    lease.range = ByteRange::new(1, 1 << 20).unwrap();
    let batch = batch(Grant::Lease(lease.sign(&host(1))));
    assert_eq!(verdict(&batch), Err(VerifyError::OutsideLease(PieceIndex(0))));
}

#[test]
fn records_signed_by_another_than_the_holder_are_refused() {
    let mut batch = batch(Grant::Lease(lease()));
    batch.signature = host(3).sign(RECORDS_DOMAIN, &batch.signed_bytes());
    assert_eq!(verdict(&batch), Err(VerifyError::RecordsSignature));
    // The thief writes its own name over the holder's.
    let Grant::Lease(mut stolen) = batch.grant else { panic!("a lease") };
    stolen.lease.holder = host(3).public();
    let records = batch.records.clone();
    let batch = RecordBatch::sign(&host(3), TASK, geometry(), Grant::Lease(stolen), records);
    assert_eq!(verdict(&batch), Err(VerifyError::GrantSignature));
}

#[test]
fn altered_value_is_refused() {
    let mut batch = batch(Grant::Lease(lease()));
    batch.records[1].blocks[0].0[31] ^= 1;
    assert_eq!(verdict(&batch), Err(VerifyError::RecordsSignature));
}

#[test]
fn record_without_one_value_per_block_is_refused() {
    let with_blocks = |count: usize| {
        let mut batch = batch(Grant::Lease(lease()));
        batch.records[1].blocks = vec![ChainingValue([1; 32]); count];
        verdict(&signed_again(batch))
    };
    assert_eq!(with_blocks(1), Ok(()));
    assert_eq!(with_blocks(0), Err(VerifyError::BlockCount(PieceIndex(3))));
    assert_eq!(with_blocks(2), Err(VerifyError::BlockCount(PieceIndex(3))));
}

#[test]
fn contradicting_or_unordered_records_are_refused() {
    for pieces in [[0, 0], [3, 0]] {
        let mut batch = batch(Grant::Lease(lease()));
        batch.records = pieces.map(|piece| record(piece, 1)).to_vec();
        assert_eq!(verdict(&signed_again(batch)), Err(VerifyError::Order));
    }
}

#[test]
fn batch_of_none_or_more_than_16_is_refused() {
    for count in [0, 17] {
        let mut batch = batch(Grant::Lease(lease()));
        batch.records = (0..count).map(|piece| record(piece, 1)).collect();
        let batch = signed_again(batch);
        assert_eq!(verdict(&batch), Err(VerifyError::RecordCount));
        assert_eq!(RecordBatch::decode(&batch.encode()), Err(DecodeError::BadField("records")));
    }
}

#[test]
#[should_panic(expected = "only the holder signs")]
fn signing_under_the_grant_of_another_is_a_bug() {
    let _ = RecordBatch::sign(&host(3), TASK, geometry(), Grant::Lease(lease()), vec![record(0, 1)]);
}

#[test]
fn bytes_that_are_no_batch_are_refused() {
    let bytes = batch(Grant::Lease(lease())).encode();
    let with = |offset: usize, byte: u8| {
        let mut bytes = bytes.clone();
        bytes[offset] = byte;
        RecordBatch::decode(&bytes)
    };
    assert_eq!(with(40, 1), Err(DecodeError::BadField("geometry")));
    assert_eq!(with(44, 0), Err(DecodeError::BadField("grant")));
    assert_eq!(with(44, 3), Err(DecodeError::BadField("grant")));
    assert_eq!(with(46, 1), Err(DecodeError::BadField("reserved")));
    assert_eq!(with(87, 1), Err(DecodeError::BadField("range")), "a lease that starts behind its end");
    assert_eq!(with(220, 65), Err(DecodeError::BadField("blocks")));
    assert_eq!(with(223, 255), Err(DecodeError::BadField("blocks")));
    for length in 0..bytes.len() {
        assert_eq!(RecordBatch::decode(&bytes[..length]), Err(DecodeError::Truncated), "{length}");
    }
    assert_eq!(RecordBatch::decode(&[&bytes[..], &[0]].concat()), Err(DecodeError::Trailing));
    assert_eq!(SignedLease::decode(&[0; LEASE_BYTES + 1]), Err(DecodeError::Trailing));
    assert_eq!(SignedAllowance::decode(&[0; ALLOWANCE_BYTES - 1]), Err(DecodeError::Truncated));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_batch_survives_the_wire_and_verifies(
        pieces in prop::collection::btree_set(0u32..600, 1..=16),
        is_lease in any::<bool>(),
        seed in any::<[u8; 32]>(),
    ) {
        // 600 pieces of 4 blocks.
        let geometry = Geometry::of_stream(600 << 20).unwrap();
        let holder = HostKey::from_seed(seed);
        let grant = if is_lease {
            let lease = Lease { holder: holder.public(), range: ByteRange::new(0, u64::MAX).unwrap(), ..lease().lease };
            Grant::Lease(lease.sign(&host(1)))
        } else {
            Grant::Allowance(Allowance { host: holder.public(), ..allowance().allowance }.sign(&host(1)))
        };
        let blocks = vec![ChainingValue(seed); 4];
        let records = pieces.into_iter().map(|piece| PieceRecord { piece: PieceIndex(piece), blocks: blocks.clone() });
        let batch = RecordBatch::sign(&holder, TASK, geometry, grant, records.collect());
        let decoded = RecordBatch::decode(&batch.encode()).unwrap();
        prop_assert_eq!(decoded.verify(TASK, geometry, &[host(1).public()]), Ok(()));
        prop_assert_eq!(decoded, batch);
    }

    /// Every bit is under one of the two signatures, or is one of them.
    #[test]
    fn any_changed_bit_is_noticed(index in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut bytes = batch(Grant::Lease(lease())).encode();
        let index = index.index(bytes.len());
        bytes[index] ^= 1 << bit;
        prop_assert!(RecordBatch::decode(&bytes).map_or(true, |batch| verdict(&batch).is_err()));
    }
}

proptest! {
    #[test]
    fn any_bytes_decode_or_fail_without_panic(bytes in any_vec(any::<u8>(), 0..500)) {
        let _ = SignedLease::decode(&bytes);
        let _ = SignedAllowance::decode(&bytes);
        if let Ok(batch) = RecordBatch::decode(&bytes) {
            prop_assert_eq!(batch.encode(), bytes);
        }
    }

    /// With a head that passes, so that the rest is reached.
    #[test]
    fn any_bytes_after_a_good_head_decode_or_fail_without_panic(
        bytes in any_vec(any::<u8>(), 0..500),
        pieces in 1u8..=16,
    ) {
        let mut whole = batch(Grant::Allowance(allowance())).encode()[..BATCH_HEAD_BYTES].to_vec();
        whole[45] = pieces;
        whole.extend_from_slice(&bytes);
        if let Ok(batch) = RecordBatch::decode(&whole) {
            let _ = verdict(&batch);
            prop_assert_eq!(batch.encode(), whole);
        }
    }
}
