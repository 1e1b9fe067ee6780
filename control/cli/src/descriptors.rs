//! How many files the process may open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit to the most that the system grants without asking. The usual soft limit of 1,024 is for programs that
/// call select(2); each download, connection and cached task takes some.
pub(crate) fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // Whoever needs more than there is then says so: agents and schedulers at their start.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}
