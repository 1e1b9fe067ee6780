//! Decides what an agent moves next: Download, Upload.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;
