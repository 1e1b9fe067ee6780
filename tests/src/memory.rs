//! Little memory, and memory that is taken away: a cgroup (version 1).

use std::path::{Path, PathBuf};
use std::time::Duration;

/// A memory cgroup, gone when this value is.
#[derive(Debug)]
pub struct MemoryGroup(PathBuf);

impl MemoryGroup {
    const ROOT: &'static str = "/sys/fs/cgroup/memory";

    /// A group that may hold so many bytes.
    ///
    /// # Errors
    /// Why this machine can have none.
    pub fn new(limit_bytes: u64) -> Result<Self, String> {
        let group = Self(Path::new(Self::ROOT).join(format!("hawker-test-{}", std::process::id())));
        std::fs::create_dir(&group.0).map_err(|error| format!("no memory cgroup (v1) can be made: {error}"))?;
        std::fs::write(group.0.join("memory.limit_in_bytes"), limit_bytes.to_string())
            .map_err(|error| format!("no memory limit can be set: {error}"))?;
        Ok(group)
    }

    /// Puts the shell that reads it, and what it becomes, into the group.
    #[must_use]
    pub fn line(&self) -> String {
        format!("echo $$ > {}/cgroup.procs", self.0.display())
    }

    /// Puts a running process into the group; what it has in memory stays where it is.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn take(&self, pid: u32) {
        std::fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("it runs");
    }

    /// Drives out every page that can be read again, mapped ones too.
    pub fn reclaim(&self) {
        // Fails when not all pages can go.
        let _ = std::fs::write(self.0.join("memory.force_empty"), "0");
    }

    /// What a file of the group says.
    ///
    /// # Panics
    /// When the group has no such figure.
    #[must_use]
    pub fn figure(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).expect("the group is there")
    }

    /// Processes that were killed for want of memory.
    ///
    /// # Panics
    /// When the kernel does not say so.
    #[must_use]
    pub fn kills(&self) -> u64 {
        let text = self.figure("memory.oom_control");
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok()).expect("a count")
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // Who was in it may still be on its way out.
        let gone = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            std::fs::remove_dir(&self.0).is_ok()
        });
        if !gone {
            eprintln!("{} is still there", self.0.display());
        }
    }
}
