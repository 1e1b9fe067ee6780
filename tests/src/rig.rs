//! One agent on a disk that a test commands, and an origin.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::cluster::{ask, clean};
use crate::disk::{Cut, Disk, Faults};
use crate::nginx::{Behaviour, Nginx};
use crate::process::{Ended, Process, Scratch};
use crate::{files, free_address, workspace};

const LIMIT: Duration = Duration::from_mins(1);
/// Without a journal an error costs what it hits; with one ext4 turns read-only at the first.
pub const NO_JOURNAL: &[&str] = &["-O", "^has_journal"];

/// Why this machine can have no [`Rig`], `None` when it can.
#[must_use]
pub fn obstacle() -> Option<String> {
    let missing = ["nginx", "unshare"].into_iter().find(|name| workspace::find_program(name).is_none());
    missing.map(|name| format!("{name} is not installed")).or_else(Disk::obstacle)
}

/// An agent whose data directory lies on a disk that the test commands, and an origin.
#[derive(Debug)]
pub struct Rig {
    // Dropped in this order: who uses the disk goes first.
    pub agent: Option<Process>,
    pub nginx: Nginx,
    pub disk: Disk,
    pub scratch: Scratch,
    /// Number of the boot that the agent believes to run in; `None`: the machine's own.
    boot: Option<u32>,
    engine: &'static str,
    gets: u32,
}

impl Rig {
    /// A formatted disk, an origin without files, and a running agent; callers ask [`obstacle`] first.
    ///
    /// # Panics
    /// When something does not start.
    #[must_use]
    pub fn new(engine: &'static str, disk_bytes: usize, mkfs: &[&str]) -> Self {
        let scratch = Scratch::new();
        std::fs::create_dir(scratch.join("root")).expect("room");
        let nginx = Nginx::start(&scratch, free_address(), &scratch.join("root"), Behaviour::default(), None);
        let disk = Disk::new(&scratch.join("disk"), disk_bytes, mkfs);
        let mut rig = Self { agent: None, nginx, disk, scratch, boot: None, engine, gets: 0 };
        rig.start();
        rig
    }

    /// The data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.disk.path().join("data")
    }

    /// Starts the agent on what an earlier one left.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn start(&mut self) {
        let socket = self.scratch.join("socket");
        let boot = self.boot.map(|boot| {
            let file = self.scratch.join("boot");
            std::fs::write(&file, format!("00000000-0000-4000-8000-{boot:012x}\n")).expect("room");
            file
        });
        let mut agent = start_agent(&self.scratch, &self.data(), &socket, self.engine, "agent", boot.as_deref());
        agent.wait_until(LIMIT, "answering", || ask(&socket, &["status"]).is_some());
        self.agent = Some(agent);
    }

    /// Ends the agent and starts it on the disk as it is: nothing is in memory.
    ///
    /// # Panics
    /// When the agent does not end well.
    pub fn restart(&mut self) {
        self.stop();
        self.disk.remount();
        self.start();
    }

    /// As [`Rig::restart`], on a file system that was checked and repaired.
    ///
    /// # Panics
    /// When the agent does not end well, or the file system cannot be repaired.
    pub fn restart_checked(&mut self) {
        self.stop();
        self.disk.check();
        self.start();
    }

    /// Ends the agent.
    ///
    /// # Panics
    /// When it does not end well.
    pub fn stop(&mut self) {
        let agent = self.agent.take().expect("a running agent");
        assert_eq!(agent.stop(LIMIT).code(), Some(0));
    }

    /// A file of the origin, and its digest.
    #[expect(clippy::must_use_candidate, reason = "not every test looks at the digest")]
    pub fn file(&self, name: &str, length: u64, seed: u64) -> String {
        files::write_random(&self.scratch.join("root").join(name), length, seed)
    }

    /// Starts a download of one of the origin's files.
    #[must_use]
    pub fn begin(&mut self, name: &str, more: &[&str]) -> Process {
        self.gets += 1;
        let mut command = Command::new(workspace::hawker());
        // Slow ones may be several at once.
        let is_slow = more.contains(&"--limit");
        let output = if is_slow { self.scratch.join(&format!("slow-{name}")) } else { self.output() };
        command.args(["get", &self.nginx.url(name), "--json", "--overwrite", "-o"]).arg(output);
        command.arg("--socket").arg(self.scratch.join("socket")).args(more);
        clean(&mut command);
        Process::start(self.scratch.path(), &format!("get-{}", self.gets), command)
    }

    /// A download to its end.
    pub fn get(&mut self, name: &str, more: &[&str]) -> Ended {
        self.begin(name, more).wait(LIMIT)
    }

    /// Where downloads without `--limit` put their file.
    #[must_use]
    pub fn output(&self) -> PathBuf {
        self.scratch.join("output")
    }

    /// A download that ends well, and what it says.
    ///
    /// # Panics
    /// When it does not, or a byte is wrong.
    pub fn get_right(&mut self, name: &str, digest: &str) -> serde_json::Value {
        let ended = self.get(name, &[]);
        assert_eq!(ended.code(), Some(0), "{} {name}: {}", self.engine, ended.stderr);
        assert_eq!(files::sha256(&self.output()).expect("FILE"), digest, "{} {name}", self.engine);
        ended.json()
    }

    /// The agent lives and answers.
    ///
    /// # Panics
    /// When it does not.
    pub fn assert_alive(&mut self) {
        assert!(self.agent.as_mut().expect("an agent").is_running(), "{}: the agent ended", self.engine);
        assert!(ask(&self.scratch.join("socket"), &["status"]).is_some(), "{}: no answer", self.engine);
    }

    /// The only task's file of this kind.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn part(&self, extension: &str) -> PathBuf {
        self.parts(extension).pop().expect("a task")
    }

    /// All tasks' files of this kind.
    ///
    /// # Panics
    /// When the data directory cannot be listed.
    #[must_use]
    pub fn parts(&self, extension: &str) -> Vec<PathBuf> {
        let shards = std::fs::read_dir(self.data().join("tasks")).expect("tasks").flatten();
        let names = shards.flat_map(|shard| std::fs::read_dir(shard.path()).expect("a directory").flatten());
        names.map(|name| name.path()).filter(|path| path.extension().is_some_and(|ext| ext == extension)).collect()
    }

    /// What the table of the only task of this length says, once it is there.
    #[must_use]
    pub fn pieces(&self, length: u64) -> Option<Pieces> {
        self.parts("table")
            .iter()
            .filter_map(|path| Pieces::parse(&std::fs::read(path).ok()?))
            .find(|pieces| pieces.length == length)
    }

    /// Whether a power cut leaves the pieces that are durable by this table.
    #[must_use]
    pub fn is_durable(&self, pieces: &Pieces) -> bool {
        self.disk.has_flushed(pieces.durable.len(), &pieces.durable)
    }

    /// Where byte `at` of a file stands on the disk; `at` begins a sector that is like no other.
    ///
    /// # Panics
    /// When it is not found.
    #[must_use]
    pub fn place(&self, path: &Path, at: usize) -> usize {
        let bytes = std::fs::read(path).expect("a file");
        let directory = std::fs::File::open(self.data()).expect("the data directory");
        rustix::fs::syncfs(&directory).expect("the disk is well");
        self.disk.find(&bytes[at..bytes.len().min(at + 4096)]).expect("the file lies on the disk")
    }
}

impl Rig {
    /// Kills the agent as a crash would, and starts it again.
    ///
    /// # Panics
    /// When it does not answer then.
    pub fn crash(&mut self) {
        self.agent.take().expect("a running agent").kill();
        self.start();
    }

    /// Cuts the power: what was not flushed is gone, or partly there, and the machine boots again.
    ///
    /// # Panics
    /// When the file system or the agent does not come back.
    pub fn cut_power(&mut self, cut: Cut) {
        let image = self.disk.cut(cut);
        self.agent.take().expect("a running agent").kill();
        let boot = self.boot.unwrap_or(0) + 1;
        self.boot = Some(boot);
        self.disk = Disk::of_image(&self.scratch.join(&format!("disk-{boot}")), image);
        self.start();
    }
}

/// Which pieces of a task are here, by the words of its table (storage/FORMAT.md).
#[derive(Debug)]
pub struct Pieces {
    length: u64,
    piece_bytes: u64,
    received: Vec<u8>,
    durable: Vec<u8>,
}

impl Pieces {
    fn parse(table: &[u8]) -> Option<Self> {
        let piece_bytes = u64::from(u32::from_le_bytes(table.get(12..16)?.try_into().ok()?));
        let length = u64::from_le_bytes(table.get(16..24)?.try_into().ok()?);
        let words = usize::try_from(length.div_ceil(piece_bytes).div_ceil(32)).ok()?;
        let bitmap = |index: usize| Some(table.get(4096 + index * words * 8..4096 + (index + 1) * words * 8)?.to_vec());
        Some(Self { length, piece_bytes, received: bitmap(0)?, durable: bitmap(1)? })
    }

    /// Bytes of the pieces that are received, and of those that are durable, at least.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        let words = |bitmap: &[u8]| bitmap.chunks(8).map(|word| u64::from(u32_of(word).count_ones())).sum::<u64>();
        let last = self.piece_bytes - 1;
        let bytes = |bitmap| (words(bitmap) * self.piece_bytes).saturating_sub(last);
        (bytes(&self.received), bytes(&self.durable))
    }
}

fn u32_of(word: &[u8]) -> u32 {
    u32::from_le_bytes(word[..4].try_into().expect("half a word"))
}

impl Drop for Rig {
    fn drop(&mut self) {
        // A process that waits for a disk that hangs cannot be killed.
        self.disk.set_faults(Faults::default());
    }
}

/// Starts an agent without a scheduler, in the boot that the file names, if any.
#[must_use]
pub fn start_agent(
    scratch: &Scratch,
    data: &Path,
    socket: &Path,
    engine: &str,
    name: &str,
    boot: Option<&Path>,
) -> Process {
    let mut command = match boot {
        None => Command::new(workspace::hawker()),
        Some(boot) => {
            let mut command = Command::new("unshare");
            let script = "mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"";
            command.args(["-m", "sh", "-c", script]).arg(boot).arg(workspace::hawker());
            command
        }
    };
    command.arg("agent").arg("--data-dir").arg(data).arg("--socket").arg(socket).args(["--engine", engine]);
    command.args(["--peer-port", "0", "--http-port", "0", "--limit-disk", "1GiB"]);
    clean(&mut command);
    Process::start(scratch.path(), name, command)
}
