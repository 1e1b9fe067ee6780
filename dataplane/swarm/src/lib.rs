//! Decides what an agent moves next: [`Download`] for the task it lacks, [`Upload`] for the links it serves.
//!
//! Both are machines: inputs go in with the time, outputs come out as values, and nothing here does I/O, reads a
//! clock or draws randomness but from a seed. What runs in an agent is what runs in the simulator.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

mod bits;
pub mod download;
pub mod limits;
mod places;
mod rng;
pub mod upload;

pub use download::{Download, DownloadInput, DownloadOutput, LeaseId, NeighborId, OriginOutcome, Progress};
pub use limits::{DownloadConfig, UploadConfig};
pub use places::{Held, Places};
pub use upload::{LinkId, Upload, UploadInput, UploadOutput};
