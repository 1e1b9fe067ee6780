//! The agent's one clock: monotonic time since the process first asked.

use std::sync::OnceLock;
use std::time::SystemTime;

use hawker_proto::Instant;

static START: OnceLock<std::time::Instant> = OnceLock::new();

/// Now, on the clock that all machines of this process are given.
#[must_use]
pub(crate) fn now() -> Instant {
    let start = *START.get_or_init(std::time::Instant::now);
    Instant::from_nanos(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

/// Wall-clock time in milliseconds since 1970, for lease expiry and validity alone.
#[must_use]
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
