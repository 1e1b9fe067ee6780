//! What the kernel says of processes and of the machine: CPU, memory.

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

/// How often a running process is asked for its memory: an agent's blocks come and go within a download, and 50
/// questions a second are no load.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A process's CPU time so far, in two forms: proc_pid_stat(5) counts ticks of 10 ms and includes threads that have
/// ended; schedstat counts nanoseconds of threads that live.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProcessCpu {
    ticks: u64,
    threads: BTreeMap<u32, u64>,
}

impl ProcessCpu {
    /// All threads of `pid`, kernel workers of its rings included.
    ///
    /// # Errors
    /// There is no such process.
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let ticks = cpu_ticks(&stat).ok_or(io::ErrorKind::InvalidData)?;
        let mut threads = BTreeMap::new();
        for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread that ends meanwhile is not there to be read: its time is in the ticks.
            let entry = entry?;
            let id = entry.file_name().to_str().and_then(|name| name.parse().ok());
            let text = std::fs::read_to_string(entry.path().join("schedstat")).unwrap_or_default();
            if let (Some(id), Some(nanoseconds)) = (id, first_number(&text)) {
                threads.insert(id, nanoseconds);
            }
        }
        Ok(Self { ticks, threads })
    }

    /// Seconds of CPU from `earlier` to now. The nanoseconds count, unless the ticks know of more: of threads that
    /// came and went, or of a kernel without schedstat.
    pub(crate) fn seconds_since(&self, earlier: &Self) -> f64 {
        let tick_s = 1.0 / rustix::param::clock_ticks_per_second() as f64;
        let by_ticks = self.ticks.saturating_sub(earlier.ticks) as f64 * tick_s;
        let exact = self.threads.iter().map(|(id, now)| {
            let before = earlier.threads.get(id).copied().unwrap_or(0);
            now.saturating_sub(before)
        });
        let by_threads = exact.sum::<u64>() as f64 / 1e9;
        // User and system time are cut to whole ticks each, at both ends.
        if by_ticks > by_threads + 2.0 * tick_s { by_ticks } else { by_threads }
    }
}

/// Fields 14 and 15 of proc_pid_stat(5). The second field is a name that may hold spaces, so counting starts after it.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn first_number(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

/// Seconds that all cores were busy since boot: interrupts and other processes too, but not what a hypervisor stole.
///
/// # Errors
/// There is no proc file system.
pub(crate) fn machine_cpu_seconds() -> io::Result<f64> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let ticks = busy_ticks(&stat).ok_or(io::ErrorKind::InvalidData)?;
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// proc_stat(5), first line: user nice system idle iowait irq softirq steal ...
fn busy_ticks(stat: &str) -> Option<u64> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = fields.as_slice() else { return None };
    Some(user + nice + system + irq + softirq)
}

/// What `pid` holds of memory that no file backs, with what it pinned.
///
/// # Errors
/// There is no such process.
pub(crate) fn memory_bytes(pid: u32) -> io::Result<u64> {
    Ok(memory_of_status(&std::fs::read_to_string(format!("/proc/{pid}/status"))?))
}

/// proc_pid_status(5): RssAnon + RssShmem + VmPin.
fn memory_of_status(status: &str) -> u64 {
    ["RssAnon:", "RssShmem:", "VmPin:"].iter().map(|name| kib_of(status, name) * 1024).sum()
}

fn kib_of(text: &str, name: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(name)).and_then(first_number).unwrap_or(0)
}

/// Watches a process's memory from a thread of its own, for the most it ever held.
#[derive(Debug)]
pub(crate) struct MemoryPeak {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<u64>,
}

impl MemoryPeak {
    /// Starts to look at `pid`.
    pub(crate) fn watch(pid: u32) -> Self {
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut peak = 0;
            loop {
                peak = memory_bytes(pid).unwrap_or(0).max(peak);
                if stopped.recv_timeout(LOOK_EVERY) != Err(mpsc::RecvTimeoutError::Timeout) {
                    return peak;
                }
            }
        });
        Self { stop, thread }
    }

    /// The most it saw, in bytes.
    pub(crate) fn end(self) -> u64 {
        drop(self.stop);
        self.thread.join().unwrap_or(0)
    }
}

/// Touches and frees `bytes` of memory, half of what is available at most. A balloon takes freed pages away from a
/// virtual machine after about two seconds, and getting one back costs more than all that is measured here.
pub(crate) fn warm_memory(bytes: u64) {
    let available = std::fs::read_to_string("/proc/meminfo").map_or(0, |text| kib_of(&text, "MemAvailable:") * 1024);
    let count = usize::try_from(bytes.min(available / 2)).unwrap_or(0);
    drop(std::hint::black_box(vec![1u8; count]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        assert_eq!(cpu_ticks("7 (a ) name) S 1 7 7 0 -1 4194560 100 0 0 0 31 11 0 0 20 0 1 0 100 0 0"), Some(42));
        assert_eq!(cpu_ticks("7 (name) S 1"), None);
        assert_eq!(cpu_ticks(""), None);
    }

    #[test]
    fn a_machine_is_busy_with_everything_but_waiting() {
        assert_eq!(busy_ticks("cpu  1 2 4 1000 1000 8 16 1000 0 0\ncpu0 1 1 1 1\n"), Some(31));
        assert_eq!(busy_ticks("cpu  1 2 4\n"), None);
        assert_eq!(busy_ticks("intr 1\n"), None);
    }

    #[test]
    fn memory_is_what_no_file_backs() {
        let status = "VmRSS:\t 900 kB\nRssAnon:\t  10 kB\nRssFile:\t 800 kB\nRssShmem:\t 2 kB\nVmPin:\t 1 kB\n";
        assert_eq!(memory_of_status(status), 13 * 1024);
        assert_eq!(memory_of_status(""), 0);
    }

    #[test]
    fn nanoseconds_count_unless_ticks_know_of_more() {
        let before = ProcessCpu { ticks: 10, threads: BTreeMap::from([(1, 100), (2, 500_000_000)]) };
        let after = ProcessCpu { ticks: 11, threads: BTreeMap::from([(1, 9_000_100), (3, 1_000_000)]) };
        assert_eq!(after.seconds_since(&before), 0.01);
        let ticks_per_s = rustix::param::clock_ticks_per_second();
        let after = ProcessCpu { ticks: 10 + ticks_per_s, ..after };
        assert_eq!(after.seconds_since(&before), 1.0);
    }

    #[test]
    fn this_process_and_this_machine_can_be_measured() {
        let pid = std::process::id();
        let cpu = ProcessCpu::of(pid).expect("a proc file system");
        assert!(cpu.threads.contains_key(&pid), "the main thread is one of the threads");
        assert!(machine_cpu_seconds().expect("a proc file system") > 0.0);
        assert!(MemoryPeak::watch(pid).end() > 0);
    }
}
