//! From the fields of a message to hawker-proto's nouns, checked: what both ends of the session share.
//!
//! Every function takes the field's name for the error, so that whoever reads the log knows what the other side sent.

use std::fmt;
use std::net::SocketAddr;

use hawker_proto::trust::{SignedAllowance, SignedLease};
use hawker_proto::{Geometry, HostId, PieceMap, PublicKey, Signature, TaskId};

use crate::scheduler;

/// Most pieces of a task that a scheduler tracks: a map of them is 512 KiB. 2^22 pieces of 16 MiB are 64 TiB.
pub const PIECE_COUNT_MAX: u32 = 1 << 22;

/// A field that does not hold what it must: the sender's fault. Remedy: close the stream and say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Name of the field in the proto file.
    pub field: &'static str,
    /// What it must hold.
    pub expected: &'static str,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "field {} must hold {}", self.field, self.expected)
    }
}

impl std::error::Error for FieldError {}

/// A field of exactly `N` bytes: ids, keys, nonces, MACs, signatures.
///
/// # Errors
/// Another length.
pub fn array<const N: usize>(field: &'static str, bytes: &[u8]) -> Result<[u8; N], FieldError> {
    let expected = match N {
        32 => "32 bytes",
        64 => "64 bytes",
        _ => "another number of bytes",
    };
    bytes.try_into().map_err(|_| FieldError { field, expected })
}

/// A field of 32 bytes, or empty.
///
/// # Errors
/// Another length.
pub fn optional_array(field: &'static str, bytes: &[u8]) -> Result<Option<[u8; 32]>, FieldError> {
    if bytes.is_empty() { Ok(None) } else { array(field, bytes).map(Some) }
}

/// A TaskId.
///
/// # Errors
/// Not 32 bytes.
pub fn task_id(field: &'static str, bytes: &[u8]) -> Result<TaskId, FieldError> {
    array(field, bytes).map(TaskId)
}

/// A HostId.
///
/// # Errors
/// Not 32 bytes.
pub fn host_id(field: &'static str, bytes: &[u8]) -> Result<HostId, FieldError> {
    array(field, bytes).map(HostId)
}

/// A public key; whether it is one shows when it verifies something.
///
/// # Errors
/// Not 32 bytes.
pub fn public_key(field: &'static str, bytes: &[u8]) -> Result<PublicKey, FieldError> {
    array(field, bytes).map(PublicKey)
}

/// A signature, not yet checked.
///
/// # Errors
/// Not 64 bytes.
pub fn signature(field: &'static str, bytes: &[u8]) -> Result<Signature, FieldError> {
    array(field, bytes).map(Signature)
}

/// A geometry within what Hawker takes and a scheduler tracks.
///
/// # Errors
/// It is missing, of neither form, or has more than [`PIECE_COUNT_MAX`] pieces.
pub fn geometry(field: &'static str, message: Option<&scheduler::Geometry>) -> Result<Geometry, FieldError> {
    message
        .and_then(|parts| Geometry::from_parts(parts.length, parts.piece_bytes))
        .filter(|geometry| geometry.piece_count() <= PIECE_COUNT_MAX)
        .ok_or(FieldError { field, expected: "a geometry of at most 2^22 pieces" })
}

/// The pieces of an Announce: all of them when `is_complete`, else the bitmap.
///
/// # Errors
/// The bitmap has another length than `geometry` says, or a bit beyond the last piece.
pub fn piece_map(
    field: &'static str,
    geometry: Geometry,
    bitmap: &[u8],
    is_complete: bool,
) -> Result<PieceMap, FieldError> {
    if is_complete {
        return Ok(PieceMap::full(geometry.piece_count()));
    }
    PieceMap::from_bytes(geometry.piece_count(), bitmap)
        .ok_or(FieldError { field, expected: "one bit for each piece of the geometry" })
}

/// A lease in its fixed encoding; the signature is not yet checked.
///
/// # Errors
/// The bytes are no lease.
pub fn signed_lease(field: &'static str, bytes: &[u8]) -> Result<SignedLease, FieldError> {
    SignedLease::decode(bytes).map_err(|_| FieldError { field, expected: "an encoded SignedLease" })
}

/// An allowance in its fixed encoding; the signature is not yet checked.
///
/// # Errors
/// The bytes are no allowance.
pub fn signed_allowance(field: &'static str, bytes: &[u8]) -> Result<SignedAllowance, FieldError> {
    SignedAllowance::decode(bytes).map_err(|_| FieldError { field, expected: "an encoded SignedAllowance" })
}

/// An address to dial.
///
/// # Errors
/// The text is not `ip:port`, or the port is 0.
pub fn address(field: &'static str, text: &str) -> Result<SocketAddr, FieldError> {
    text.parse()
        .ok()
        .filter(|address: &SocketAddr| address.port() != 0)
        .ok_or(FieldError { field, expected: "ip:port" })
}

/// A neighbor's id and address, and whether it is in another zone.
///
/// # Errors
/// Id or address is malformed.
pub fn neighbor(message: &scheduler::Neighbor) -> Result<(HostId, SocketAddr, bool), FieldError> {
    Ok((host_id("host", &message.host)?, address("address", &message.address)?, message.is_remote))
}

impl From<Geometry> for scheduler::Geometry {
    fn from(geometry: Geometry) -> Self {
        Self { length: geometry.length(), piece_bytes: geometry.piece_bytes() }
    }
}

impl From<(HostId, SocketAddr, bool)> for scheduler::Neighbor {
    fn from((host, address, is_remote): (HostId, SocketAddr, bool)) -> Self {
        Self { host: host.0.to_vec(), address: address.to_string(), is_remote }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawker_proto::PieceIndex;

    #[test]
    fn wrong_length_names_the_field() {
        let error = task_id("task", &[1; 31]).unwrap_err();
        assert_eq!(error.to_string(), "field task must hold 32 bytes");
        assert_eq!(optional_array("origin", &[]), Ok(None));
        assert!(optional_array("origin", &[1; 33]).is_err());
        assert!(signature("signature", &[0; 32]).is_err());
        assert!(signed_lease("lease", &[0; 3]).is_err());
        assert!(signed_allowance("allowance", &[]).is_err());
    }

    #[test]
    fn geometry_survives_the_trip_and_nonsense_does_not() {
        let geometry_of = |length| Geometry::of_length(length).unwrap();
        for length in [0, 1, 300 << 20] {
            let message = scheduler::Geometry::from(geometry_of(length));
            assert_eq!(geometry("geometry", Some(&message)), Ok(geometry_of(length)));
        }
        assert!(geometry("geometry", None).is_err());
        assert!(geometry("geometry", Some(&scheduler::Geometry { length: 5, piece_bytes: 3 })).is_err());
        let huge = scheduler::Geometry::from(Geometry::of_stream(1 << 48).unwrap());
        assert!(geometry("geometry", Some(&huge)).is_err(), "2^28 pieces are more than a scheduler tracks");
    }

    #[test]
    fn complete_announce_needs_no_bitmap() {
        let geometry = Geometry::of_length(1 << 20).unwrap();
        assert!(piece_map("have", geometry, &[], true).unwrap().is_full());
        assert!(piece_map("have", geometry, &[], false).is_err());
        let one = piece_map("have", geometry, &[0b10, 0], false).unwrap();
        assert!(one.contains(PieceIndex(1)) && one.len() == 1);
    }

    #[test]
    fn address_without_a_port_is_refused() {
        assert!(address("peer_address", "127.0.0.1:0").is_err());
        assert!(address("peer_address", "localhost:1").is_err());
        let id = HostId([3; 32]);
        let there = "[::1]:7".parse().unwrap();
        for is_remote in [false, true] {
            assert_eq!(neighbor(&(id, there, is_remote).into()), Ok((id, there, is_remote)));
        }
    }
}
