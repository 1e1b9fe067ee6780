//! How many files the process may open.

use std::io::stderr;

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Room in the kernel's table of open files, 8 bytes each: what ten thousand connections and a thousand downloads take.
const TABLE_ROOM: u64 = 16 * 1024;

/// Raises the limit to the most that the system grants without asking. The usual soft limit of 1,024 is for programs that
/// call select(2); each download, connection and cached task takes some.
pub(crate) fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // Whoever needs more than there is then says so: agents and schedulers at their start.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

/// Has the kernel make room for open files while this process has one thread. Later the table is doubled each time it is
/// full, and then whoever opens a file waits until all cores have left the old one (expand_fdtable and
/// synchronize_rcu in Linux's fs/file.c): 10 to 40 ms in the middle of somebody's request, on two cores, at 256 files, 512, 1,024 and so on.
pub(crate) fn reserve_table() {
    let maximum = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let last = i32::try_from(TABLE_ROOM.min(maximum).saturating_sub(1)).unwrap_or(i32::MAX);
    // The table never shrinks. Where this fails it grows later.
    drop(fcntl_dupfd_cloexec(stderr(), last));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_has_room_before_it_is_needed() {
        raise_limit();
        reserve_table();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let room = status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap();
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        assert!(room.trim().parse::<u64>().unwrap() >= TABLE_ROOM.min(limit), "{room}");
    }
}
