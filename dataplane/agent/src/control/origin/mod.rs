//! Origins: where bytes come from when no peer has them. Every resolve, and every fetch that is https, redirected or
//! starts at byte 0 (the resolve's own body, continued), runs here on tokio; plain ranges run on shards.

mod body;
mod client;
mod error;
mod fetch;
mod reach;
mod resolve;
mod spool;
mod transport;

#[cfg(test)]
mod tests;

pub(crate) use body::{BlockSource, TaskLimit};
pub(crate) use client::{Ask, Condition, OriginClient, USER_AGENT, refused_redirect};
pub(crate) use error::{OriginError, hint, meaning};
pub(crate) use fetch::{FetchJob, run_fetch};
pub(crate) use reach::Reach;
pub(crate) use resolve::{OpenBody, Resolution, Resolved, check_access, jittered, resolve};
pub(crate) use spool::{Spooled, spool};
pub(crate) use transport::{HEAD_TIMEOUT, Hop, Outgoing, Transports, Trust, innermost, nothing, split};
