//! Contracts between agent, scheduler and command line.
//!
//! The proto files in `proto/` are the contract and their comments its documentation; the code in `src/generated` is
//! committed, so that nobody needs protoc. Beside it stand only the checks that both ends of a stream share:
//! [`field`] (bytes of a message to hawker-proto's nouns), [`session`] (the handshake) and [`frame`] (the local
//! socket's framing).

pub mod field;
pub mod frame;
pub mod session;

/// Agent <-> scheduler over gRPC: `proto/hawker/scheduler/v1/scheduler.proto`.
#[allow(clippy::all, unreachable_pub, missing_docs, reason = "generated code")]
pub mod scheduler {
    include!("generated/hawker.scheduler.v1.rs");

    /// Version of the session protocol that this crate speaks.
    pub const VERSION: u16 = 1;

    /// The service's `FileDescriptorSet`, for gRPC reflection.
    pub const DESCRIPTOR: &[u8] = include_bytes!("generated/scheduler_descriptor.bin");

    /// Largest message either side takes. The piece map of a task of 2^22 pieces is 512 KiB; the rest of an
    /// Announce, leases and validators, stays below as much again.
    pub const MESSAGE_BYTES_MAX: usize = 2 * 1024 * 1024;
}

/// Command line <-> agent over a Unix socket: `proto/hawker/local/v1/local.proto`.
#[allow(clippy::all, unreachable_pub, missing_docs, reason = "generated code")]
pub mod local {
    include!("generated/hawker.local.v1.rs");
}
