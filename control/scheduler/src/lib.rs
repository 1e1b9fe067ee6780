//! Decides who talks to whom: hosts, tasks, neighbors, origin leases, liveness.
//!
//! [`Cluster`] is a machine without a world: inputs and time go in, messages to hosts come out. The same machine runs
//! behind a server for 10,000 hosts, in a simulator, and inside an agent that has no scheduler.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

mod announce;
mod asks;
mod bans;
mod check;
mod claims;
mod cluster;
mod config;
mod event;
mod hosts;
mod inline;
mod leases;
mod members;
mod neighbors;
mod origin;
mod peers;
mod pieces;
mod random;
mod sales;
mod status;
mod table;
mod tags;
mod wants;
mod zones;

mod host;
mod task;

pub use cluster::Cluster;
pub use config::{ClusterConfig, Limits, SETTLE_MAX};
pub use event::{
    Announcement, HostInfo, Input, LeaseOutcome, Neighbor, OriginId, Output, Resolution, ResolveFailure, Source,
    TagFact, TagKey, ToHost, WantId, WantKey,
};
pub use inline::INLINE_BYTES_MAX;
pub use status::{Counters, Status};
