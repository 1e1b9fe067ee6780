//! Decides who talks to whom: Cluster, neighbors, origin leases, liveness.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;
