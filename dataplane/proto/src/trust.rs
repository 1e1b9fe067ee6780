//! Who may fetch what from an origin, and what pieces hash to: structures that anyone can check without a scheduler.
//!
//! The scheduler signs a [`Lease`] (or an [`Allowance`], for when it is away); the holder signs the records of what
//! it fetched under it, in a [`RecordBatch`] that carries the grant. A child checks both signatures once per batch and
//! then compares bytes with records, never with what a parent says. An expired grant still verifies: expiry limits
//! fetching, and records of bytes fetched in time stay true.
//!
//! All integers are little-endian. Every signature is over everything before it (see [`crate::identity`]).
//!
//! ```text
//! SignedLease, 168 bytes, domain "hawker-lease-v1"
//!   0        32      40    48         80      88       96        104          168
//!   | task 32 | start | end | holder 32 | epoch | serial | expires | signature 64 |
//!
//! SignedAllowance, 152 bytes, domain "hawker-allowance-v1"
//!   0        32          64      72      80        88           152
//!   | host 32 | origin 32 | bytes | epoch | expires | signature 64 |
//!
//! RecordBatch, domain "hawker-records-v1"
//!   0        32       40            44       45      46           48
//!   | task 32 | length | piece_bytes | grant u8| records u8 | 0 u16 |
//!   | grant 168 (1 = lease) or 152 (2 = allowance) |
//!   records x | piece u32 | blocks u32 | blocks x chaining value 32 |        pieces strictly ascending
//!   | signature 64 |
//! ```

mod grant;

use alloc::vec::Vec;
use core::fmt;

pub use grant::{Allowance, Grant, Lease, SignedAllowance, SignedLease};

use crate::geometry::PIECE_BYTES_MAX;
use crate::wire::Reader;
use crate::{BLOCK_BYTES, ChainingValue, Geometry, HostKey, PieceIndex, PublicKey, Signature, TaskId};

pub use crate::wire::DecodeError;

/// Pieces in one batch, at most: one signature then stands for at least 4 MiB, and a batch of the largest pieces
/// stays below 64 KiB.
pub const BATCH_PIECES_MAX: usize = 16;
/// Blocks in one record, at most.
pub const RECORD_BLOCKS_MAX: u32 = PIECE_BYTES_MAX / BLOCK_BYTES;
/// Bytes of an encoded [`SignedLease`].
pub const LEASE_BYTES: usize = 104 + SIGNATURE_BYTES;
/// Bytes of an encoded [`SignedAllowance`].
pub const ALLOWANCE_BYTES: usize = 88 + SIGNATURE_BYTES;
/// Bytes of the largest encoded [`RecordBatch`].
pub const BATCH_BYTES_MAX: usize = BATCH_HEAD_BYTES
    + LEASE_BYTES
    + BATCH_PIECES_MAX * (RECORD_HEAD_BYTES + RECORD_BLOCKS_MAX as usize * 32)
    + SIGNATURE_BYTES;

const SIGNATURE_BYTES: usize = 64;
const BATCH_HEAD_BYTES: usize = 48;
const RECORD_HEAD_BYTES: usize = 8;

const RECORDS_DOMAIN: &str = "hawker-records-v1";

const GRANT_LEASE: u8 = 1;
const GRANT_ALLOWANCE: u8 = 2;

const _: () = assert!(RECORD_BLOCKS_MAX == 64);

/// What a piece's blocks hash to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PieceRecord {
    /// Which piece.
    pub piece: PieceIndex,
    /// One value per block, in order.
    pub blocks: Vec<ChainingValue>,
}

/// Up to [`BATCH_PIECES_MAX`] records of one task under one grant, signed by its holder. It travels with HAVE from
/// peer to peer and stays beside the content, so that a restarted agent can still prove it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RecordBatch {
    /// The task the pieces are of.
    pub task: TaskId,
    /// How that task divides into pieces.
    pub geometry: Geometry,
    /// Why the signer may say so.
    pub grant: Grant,
    /// The records, by ascending piece.
    pub records: Vec<PieceRecord>,
    /// The grant's holder's signature over all of the above.
    pub signature: Signature,
}

impl RecordBatch {
    /// Signs `records`, sorted by piece.
    ///
    /// # Panics
    /// When there are none, or more than [`BATCH_PIECES_MAX`], or two of one piece, or a record of more than
    /// [`RECORD_BLOCKS_MAX`] blocks, or `key` is not the grant's holder: bugs of the caller.
    #[must_use]
    pub fn sign(key: &HostKey, task: TaskId, geometry: Geometry, grant: Grant, mut records: Vec<PieceRecord>) -> Self {
        assert_eq!(key.public(), grant.holder(), "only the holder signs under a grant");
        assert!((1..=BATCH_PIECES_MAX).contains(&records.len()), "{} records in a batch", records.len());
        records.sort_by_key(|record| record.piece);
        assert!(is_ascending(&records), "two records of one piece");
        let mut batch = Self { task, geometry, grant, records, signature: Signature([0; 64]) };
        batch.signature = key.sign(RECORDS_DOMAIN, &batch.signed_bytes());
        batch
    }

    /// The bytes of the module's diagram.
    ///
    /// # Panics
    /// When the batch has more records, or a record more blocks, than fit: impossible for one that was signed or
    /// decoded here.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.signed_bytes();
        bytes.extend_from_slice(&self.signature.0);
        bytes
    }

    /// The batch of exactly those bytes, nothing of it checked yet but its form: see [`Self::verify`].
    ///
    /// # Errors
    /// The bytes are no batch of this version: the fault of the peer that sent them, or of the disk.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        whole(bytes, Self::read)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let task = TaskId(reader.array()?);
        let geometry = Geometry::from_parts(reader.u64()?, reader.u32()?).ok_or(DecodeError::BadField("geometry"))?;
        let (grant_kind, record_count) = (reader.u8()?, usize::from(reader.u8()?));
        if reader.u16()? != 0 {
            return Err(DecodeError::BadField("reserved"));
        }
        if !(1..=BATCH_PIECES_MAX).contains(&record_count) {
            return Err(DecodeError::BadField("records"));
        }
        let grant = match grant_kind {
            GRANT_LEASE => Grant::Lease(SignedLease::read(reader)?),
            GRANT_ALLOWANCE => Grant::Allowance(SignedAllowance::read(reader)?),
            _ => return Err(DecodeError::BadField("grant")),
        };
        let records = (0..record_count).map(|_| read_record(reader)).collect::<Result<_, _>>()?;
        Ok(Self { task, geometry, grant, records, signature: Signature(reader.array()?) })
    }

    /// Checks that the batch proves what it says about `task`: its grant is signed by one of `scheduler_keys`, is for
    /// this task, and covers every record (an allowance covers every piece); each record has one value per block; the
    /// grant's holder signed all of it. Cheap checks come first. Expiry is not checked: see the module.
    ///
    /// # Errors
    /// Whatever fails is the fault of the peer that sent the batch, since it had to check it too; only
    /// [`VerifyError::GrantSignature`] may also mean that we lack the key of a new scheduler.
    pub fn verify(&self, task: TaskId, geometry: Geometry, scheduler_keys: &[PublicKey]) -> Result<(), VerifyError> {
        self.verify_form(task, geometry)?;
        self.grant.verify(scheduler_keys)?;
        self.verify_signature()
    }

    /// As [`Self::verify`], for a batch whose grant was verified before: a lease comes with each of the batches that
    /// its holder signs under it, and its signature costs as much as theirs.
    ///
    /// # Errors
    /// The fault of the peer that sent the batch.
    pub fn verify_under_known_grant(&self, task: TaskId, geometry: Geometry) -> Result<(), VerifyError> {
        self.verify_form(task, geometry)?;
        self.verify_signature()
    }

    fn verify_form(&self, task: TaskId, geometry: Geometry) -> Result<(), VerifyError> {
        if self.task != task {
            return Err(VerifyError::OtherTask);
        }
        if self.geometry != geometry {
            return Err(VerifyError::OtherGeometry);
        }
        if !(1..=BATCH_PIECES_MAX).contains(&self.records.len()) {
            return Err(VerifyError::RecordCount);
        }
        if !is_ascending(&self.records) {
            return Err(VerifyError::Order);
        }
        for record in &self.records {
            self.verify_record(record)?;
        }
        Ok(())
    }

    fn verify_signature(&self) -> Result<(), VerifyError> {
        let holder = self.grant.holder();
        holder.verify(RECORDS_DOMAIN, &self.signed_bytes(), &self.signature).map_err(|_| VerifyError::RecordsSignature)
    }

    fn verify_record(&self, record: &PieceRecord) -> Result<(), VerifyError> {
        let piece = record.piece;
        if !self.geometry.has_piece(piece) {
            return Err(VerifyError::NoSuchPiece(piece));
        }
        if record.blocks.len() != self.geometry.block_count(piece) as usize {
            return Err(VerifyError::BlockCount(piece));
        }
        match &self.grant {
            Grant::Lease(signed) if signed.lease.task != self.task => Err(VerifyError::OtherTask),
            Grant::Lease(signed) if !signed.lease.range.contains(self.geometry.piece_range(piece)) => {
                Err(VerifyError::OutsideLease(piece))
            }
            Grant::Lease(_) | Grant::Allowance(_) => Ok(()),
        }
    }

    fn signed_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BATCH_BYTES_MAX);
        bytes.extend_from_slice(&self.task.0);
        bytes.extend_from_slice(&self.geometry.length().to_le_bytes());
        bytes.extend_from_slice(&self.geometry.piece_bytes().to_le_bytes());
        let kind = match &self.grant {
            Grant::Lease(_) => GRANT_LEASE,
            Grant::Allowance(_) => GRANT_ALLOWANCE,
        };
        bytes.extend_from_slice(&[kind, u8::try_from(self.records.len()).expect("a bounded batch"), 0, 0]);
        match &self.grant {
            Grant::Lease(signed) => bytes.extend_from_slice(&signed.encode()),
            Grant::Allowance(signed) => bytes.extend_from_slice(&signed.encode()),
        }
        for record in &self.records {
            assert!(record.blocks.len() <= RECORD_BLOCKS_MAX as usize, "{} blocks", record.blocks.len());
            bytes.extend_from_slice(&record.piece.0.to_le_bytes());
            bytes.extend_from_slice(&u32::try_from(record.blocks.len()).expect("at most 64").to_le_bytes());
            bytes.extend(record.blocks.iter().flat_map(|value| value.0));
        }
        bytes
    }
}

fn read_record(reader: &mut Reader<'_>) -> Result<PieceRecord, DecodeError> {
    let (piece, block_count) = (PieceIndex(reader.u32()?), reader.u32()?);
    if block_count > RECORD_BLOCKS_MAX {
        return Err(DecodeError::BadField("blocks"));
    }
    let blocks = (0..block_count).map(|_| reader.array().map(ChainingValue)).collect::<Result<_, _>>()?;
    Ok(PieceRecord { piece, blocks })
}

fn is_ascending(records: &[PieceRecord]) -> bool {
    records.is_sorted_by(|a, b| a.piece < b.piece)
}

fn whole<T>(bytes: &[u8], read: impl FnOnce(&mut Reader<'_>) -> Result<T, DecodeError>) -> Result<T, DecodeError> {
    let mut reader = Reader::new(bytes);
    let value = read(&mut reader)?;
    reader.finish()?;
    Ok(value)
}

/// Why a grant or a batch proves nothing. Remedy: do not use it, and take the piece from another parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyError {
    /// The batch or its lease is about another task.
    OtherTask,
    /// The batch divides the task differently.
    OtherGeometry,
    /// No record, or more than [`BATCH_PIECES_MAX`].
    RecordCount,
    /// The records are not by strictly ascending piece; two of one piece could contradict each other.
    Order,
    /// The task has no such piece.
    NoSuchPiece(PieceIndex),
    /// The record has not exactly one value per block.
    BlockCount(PieceIndex),
    /// The lease does not hold every byte of the piece.
    OutsideLease(PieceIndex),
    /// None of the known schedulers signed the grant.
    GrantSignature,
    /// The grant's holder did not sign these records.
    RecordsSignature,
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherTask => f.write_str("the records or their lease are of another task"),
            Self::OtherGeometry => f.write_str("the records divide the task into other pieces"),
            Self::RecordCount => write!(f, "a batch holds 1 to {BATCH_PIECES_MAX} records"),
            Self::Order => f.write_str("the records are not by strictly ascending piece"),
            Self::NoSuchPiece(piece) => write!(f, "the task has no piece {}", piece.0),
            Self::BlockCount(piece) => write!(f, "the record of piece {} has not one value per block", piece.0),
            Self::OutsideLease(piece) => write!(f, "piece {} is not within the signer's lease", piece.0),
            Self::GrantSignature => f.write_str("no known scheduler signed the grant"),
            Self::RecordsSignature => f.write_str("the grant's holder did not sign these records"),
        }
    }
}

impl core::error::Error for VerifyError {}

#[cfg(test)]
mod tests;
