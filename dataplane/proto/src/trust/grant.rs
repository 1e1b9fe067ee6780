//! Leases and allowances: who may fetch what.

use alloc::vec::Vec;

use super::{ALLOWANCE_BYTES, DecodeError, LEASE_BYTES, SIGNATURE_BYTES, VerifyError, whole};
use crate::wire::Reader;
use crate::{ByteRange, HostKey, PublicKey, Signature, TaskId};

const LEASE_DOMAIN: &str = "hawker-lease-v1";
const ALLOWANCE_DOMAIN: &str = "hawker-allowance-v1";
const LEASE_BODY_BYTES: usize = LEASE_BYTES - SIGNATURE_BYTES;
const ALLOWANCE_BODY_BYTES: usize = ALLOWANCE_BYTES - SIGNATURE_BYTES;

/// The right to fetch a range of a task from its origin, and to sign the records of its pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The task the range is of.
    pub task: TaskId,
    /// The bytes that may be fetched; whole pieces, or up to the task's end.
    pub range: ByteRange,
    /// Who may fetch them, and whose signature their records need.
    pub holder: PublicKey,
    /// Which life of the scheduler gave it.
    pub epoch: u64,
    /// Which lease of that epoch it is.
    pub serial: u64,
    /// Until when it may be fetched under, in milliseconds since 1970.
    pub expires_unix_ms: u64,
}

impl Lease {
    /// Signs the lease as a scheduler.
    #[must_use]
    pub fn sign(self, scheduler: &HostKey) -> SignedLease {
        SignedLease { signature: scheduler.sign(LEASE_DOMAIN, &self.to_bytes()), lease: self }
    }

    fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(LEASE_BYTES);
        bytes.extend_from_slice(&self.task.0);
        bytes.extend_from_slice(&self.range.start().to_le_bytes());
        bytes.extend_from_slice(&self.range.end().to_le_bytes());
        bytes.extend_from_slice(&self.holder.0);
        for number in [self.epoch, self.serial, self.expires_unix_ms] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        assert_eq!(bytes.len(), LEASE_BODY_BYTES);
        bytes
    }
}

/// A [`Lease`] with its scheduler's signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SignedLease {
    /// What is granted.
    pub lease: Lease,
    /// The scheduler's signature over it.
    pub signature: Signature,
}

impl SignedLease {
    /// Checks that one of `scheduler_keys` signed the lease.
    ///
    /// # Errors
    /// [`VerifyError::GrantSignature`].
    pub fn verify(&self, scheduler_keys: &[PublicKey]) -> Result<(), VerifyError> {
        verify_grant(scheduler_keys, LEASE_DOMAIN, &self.lease.to_bytes(), &self.signature)
    }

    /// The bytes of the module's diagram.
    #[must_use]
    pub fn encode(&self) -> [u8; LEASE_BYTES] {
        joined(&self.lease.to_bytes(), &self.signature)
    }

    /// The lease of exactly those bytes, its signature not yet checked.
    ///
    /// # Errors
    /// The length is not [`LEASE_BYTES`], or the range is reversed: the fault of whoever sent them.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        whole(bytes, Self::read)
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let task = TaskId(reader.array()?);
        let range = ByteRange::new(reader.u64()?, reader.u64()?).ok_or(DecodeError::BadField("range"))?;
        let holder = PublicKey(reader.array()?);
        let (epoch, serial, expires_unix_ms) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let lease = Lease { task, range, holder, epoch, serial, expires_unix_ms };
        Ok(Self { lease, signature: Signature(reader.array()?) })
    }
}

/// The right to fetch some bytes of any task from one origin while no scheduler answers, and to sign their records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Allowance {
    /// Who may fetch.
    pub host: PublicKey,
    /// From where: `Url::origin_hash`.
    pub origin: [u8; 32],
    /// How much in all.
    pub bytes: u64,
    /// Which life of the scheduler gave it.
    pub epoch: u64,
    /// Until when it may be fetched under, in milliseconds since 1970.
    pub expires_unix_ms: u64,
}

impl Allowance {
    /// Signs the allowance as a scheduler.
    #[must_use]
    pub fn sign(self, scheduler: &HostKey) -> SignedAllowance {
        SignedAllowance { signature: scheduler.sign(ALLOWANCE_DOMAIN, &self.to_bytes()), allowance: self }
    }

    fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ALLOWANCE_BYTES);
        bytes.extend_from_slice(&self.host.0);
        bytes.extend_from_slice(&self.origin);
        for number in [self.bytes, self.epoch, self.expires_unix_ms] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        assert_eq!(bytes.len(), ALLOWANCE_BODY_BYTES);
        bytes
    }
}

/// An [`Allowance`] with its scheduler's signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SignedAllowance {
    /// What is granted.
    pub allowance: Allowance,
    /// The scheduler's signature over it.
    pub signature: Signature,
}

impl SignedAllowance {
    /// Checks that one of `scheduler_keys` signed the allowance.
    ///
    /// # Errors
    /// [`VerifyError::GrantSignature`].
    pub fn verify(&self, scheduler_keys: &[PublicKey]) -> Result<(), VerifyError> {
        verify_grant(scheduler_keys, ALLOWANCE_DOMAIN, &self.allowance.to_bytes(), &self.signature)
    }

    /// The bytes of the module's diagram.
    #[must_use]
    pub fn encode(&self) -> [u8; ALLOWANCE_BYTES] {
        joined(&self.allowance.to_bytes(), &self.signature)
    }

    /// The allowance of exactly those bytes, its signature not yet checked.
    ///
    /// # Errors
    /// The length is not [`ALLOWANCE_BYTES`]: the fault of whoever sent them.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        whole(bytes, Self::read)
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (host, origin) = (PublicKey(reader.array()?), reader.array()?);
        let (bytes, epoch, expires_unix_ms) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let allowance = Allowance { host, origin, bytes, epoch, expires_unix_ms };
        Ok(Self { allowance, signature: Signature(reader.array()?) })
    }
}

/// Why a host may sign records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Grant {
    /// It holds a lease on the range.
    Lease(SignedLease),
    /// The scheduler is away and had allowed it some bytes before.
    Allowance(SignedAllowance),
}

impl Grant {
    /// Whose signature the records need.
    #[must_use]
    pub const fn holder(&self) -> PublicKey {
        match self {
            Self::Lease(signed) => signed.lease.holder,
            Self::Allowance(signed) => signed.allowance.host,
        }
    }

    /// Checks that one of `scheduler_keys` signed the grant.
    ///
    /// # Errors
    /// [`VerifyError::GrantSignature`].
    pub fn verify(&self, scheduler_keys: &[PublicKey]) -> Result<(), VerifyError> {
        match self {
            Self::Lease(signed) => signed.verify(scheduler_keys),
            Self::Allowance(signed) => signed.verify(scheduler_keys),
        }
    }
}

fn joined<const N: usize>(body: &[u8], signature: &Signature) -> [u8; N] {
    let mut bytes = [0; N];
    let (head, tail) = bytes.split_at_mut(body.len());
    head.copy_from_slice(body);
    tail.copy_from_slice(&signature.0);
    bytes
}

fn verify_grant(
    scheduler_keys: &[PublicKey],
    domain: &'static str,
    body: &[u8],
    signature: &Signature,
) -> Result<(), VerifyError> {
    let is_signed = scheduler_keys.iter().any(|key| key.verify(domain, body, signature).is_ok());
    if is_signed { Ok(()) } else { Err(VerifyError::GrantSignature) }
}
