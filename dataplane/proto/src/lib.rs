//! Hawker's nouns, and bytes to nouns and back.
//!
//! No I/O, no clock, no randomness, no panic on outside bytes: everything here can be simulated and fuzzed.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod frame;
pub mod geometry;
pub mod handshake;
pub mod hash;
pub mod http1;
pub mod identity;
pub mod ids;
pub mod oci;
pub mod piece_map;
pub mod range;
pub mod resolve;
pub mod stripes;
#[cfg(test)]
mod testing;
pub mod time;
pub mod trust;
pub mod url;
mod wire;

pub use frame::{Frame, Head};
pub use geometry::{BLOCK_BYTES, Geometry};
pub use hash::{ChainingValue, Root};
pub use identity::{ClusterKey, HostKey, PublicKey, Signature};
pub use ids::{BlockIndex, HostId, PieceIndex, TaskId};
pub use piece_map::PieceMap;
pub use range::ByteRange;
pub use stripes::Stripes;
pub use time::Instant;
