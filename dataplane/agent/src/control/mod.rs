//! The control half: one tokio runtime with the director, the scheduler session, origins over TLS, the local socket
//! and the HTTP port. Nothing here touches a block on its way between peers.

pub(crate) mod caller;
pub(crate) mod director;
pub mod embedded;
pub(crate) mod http;
pub(crate) mod keeper;
pub(crate) mod link;
pub(crate) mod local_api;
pub(crate) mod local_scheduler;
pub(crate) mod metrics;
pub(crate) mod mirror;
pub(crate) mod origin;
pub(crate) mod scheduler_link;
pub(crate) mod status;
pub(crate) mod tags;
pub(crate) mod validators;
pub(crate) mod wire;

#[cfg(test)]
pub(crate) mod testing;
