//! Running the store's operations in place: for offline tools and tests. An agent runs them on its engine.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::op::{OpOk, OpResult, StoreOp};

/// Runs one operation to its end.
///
/// # Errors
/// What the kernel says.
pub fn run(op: StoreOp) -> OpResult {
    match op {
        StoreOp::Open { path, flags, mode } => {
            let file = rustix::fs::open(&*path, flags, mode)?;
            return Ok(OpOk::Opened(Arc::new(file)));
        }
        StoreOp::Read { file, len, offset } => return read_at(&file, len, offset).map(OpOk::Bytes),
        StoreOp::Allocate { file, len } => rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, len)?,
        StoreOp::Write { file, bytes, offset } => write_at(&file, &bytes, offset)?,
        StoreOp::Sync { file, data_only: true } => rustix::fs::fdatasync(&file)?,
        StoreOp::Sync { file, data_only: false } => rustix::fs::fsync(&file)?,
        StoreOp::Rename { from, to } => rustix::fs::rename(&*from, &*to)?,
        StoreOp::Unlink { path } => rustix::fs::unlink(&*path)?,
        StoreOp::Close { file } => drop(file),
    }
    Ok(OpOk::Done)
}

/// Writes all of `bytes` at `offset`.
///
/// # Errors
/// What the kernel says; `WriteZero` when it writes nothing.
pub fn write_at(file: &OwnedFd, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(file.as_fd(), bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Reads `len` bytes at `offset`, fewer at the end of the file.
///
/// # Errors
/// What the kernel says.
pub fn read_at(file: &OwnedFd, len: usize, offset: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while filled < len {
        match rustix::io::pread(file.as_fd(), &mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// The name of this boot of the machine, for [`crate::StoreConfig`].
///
/// # Errors
/// When `/proc` is not mounted, or holds no UUID there.
pub fn read_boot_id() -> io::Result<[u8; 16]> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let digits: Vec<u8> = text.trim().bytes().filter(|byte| *byte != b'-').collect();
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "boot_id is not a UUID");
    let digits: [u8; 32] = digits.try_into().map_err(|_| invalid())?;
    let mut id = [0; 16];
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| invalid())?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| invalid())?;
    }
    Ok(id)
}
