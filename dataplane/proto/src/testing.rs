//! What several tests share.

use alloc::format;
use alloc::string::String;

use crate::HostKey;

/// Bytes as golden values are written.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The host whose seed is `byte`, 32 times.
pub(crate) fn host(byte: u8) -> HostKey {
    HostKey::from_seed([byte; 32])
}
