//! The node agent: shards, links, origins, local API.
//!
//! Two halves joined by [`seam`]: *shards*, threads that move bytes between sockets and disk, and *control*, one tokio
//! runtime with all that is not the hot path. [`Agent`] starts and stops both.

mod agent;
mod clock;
pub mod config;
mod control;
pub mod counters;
pub mod limits;
mod pulse;
pub mod rates;
pub mod seam;
pub mod shard;
pub mod share;
mod start_error;

pub use agent::Agent;
pub use control::embedded;
/// Named here for callers that may not know the rooms below.
pub use hawker_proto as proto;
pub use hawker_ring::EngineChoice;
pub use pulse::Pulse;
pub use start_error::StartError;
