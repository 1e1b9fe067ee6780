//! `hawker demo`: the main job with real processes on one machine.

mod hosts;
mod origin;
mod report;

use std::fs::File;
use std::io::{IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hawker_api::local::Progress;
use hawker_proto::resolve::Digest;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sha2::Digest as _;
use tempfile::TempDir;

use crate::arguments::DemoArguments;
use crate::client::{Order, Outcome, Placing, Watch, get};
use crate::exit::{Exit, Failure};
use crate::stop::Stop;
use crate::units::show_size;
use hosts::{Common, Host, write_cluster_key};
use origin::Origin;
use report::{HostReport, Report};

const CHUNK_BYTES: usize = 1 << 20;

/// Left free beside what the demo writes.
const SPARE_BYTES: u64 = 64 << 20;

pub(crate) fn run(arguments: &DemoArguments) -> Result<ExitCode, Failure> {
    let stop = Stop::on_signals()?;
    // Declared first, so that it is removed after the processes that write into it have ended.
    let directory = tempfile::Builder::new()
        .prefix("hawker-demo-")
        .tempdir()
        .map_err(|error| Failure::io("cannot make a temporary directory", &error))?;
    let free = free_bytes(directory.path())?;
    let say = |text: String| {
        if !arguments.json {
            println!("{text}");
        }
    };
    let (source, origin, url) = match &arguments.url {
        Some(url) => (None, None, url.clone()),
        None => {
            check_space(arguments, free, directory.path())?;
            let source = Source::write(&directory.path().join("source"), arguments.size, &stop)?;
            let origin = Origin::start(&source.path, arguments.host_rate)?;
            let url = origin.url();
            say(format!("origin     {url}, {} of random bytes", show_size(arguments.size)));
            (Some(source), Some(origin), url)
        }
    };
    let mut swarm = Swarm::start(arguments, &directory, free, &stop)?;
    say(format!("scheduler  {}", swarm.scheduler_address));
    say(format!(
        "agents     {} on 127.0.0.2 and up, engine {} ({})",
        swarm.agents.len(),
        swarm.engine,
        swarm.engine_reason
    ));

    let cpu_before = swarm.cpu_seconds();
    let downloads = download_on_all(&swarm, &url, directory.path(), &stop, arguments.json)?;
    let cpu_seconds = swarm.cpu_seconds() - cpu_before;
    stop.check()?;

    let hosts = downloads.into_iter().map(|download| check(download, source.as_ref())).collect::<Vec<_>>();
    let report = Report::new(
        hosts,
        &report::Measured {
            origin_bytes: origin.as_ref().map(Origin::body_bytes),
            host_rate: arguments.host_rate,
            cpu_seconds,
            engine: swarm.engine.clone(),
        },
    );
    if arguments.json {
        report.print_json();
    } else {
        report.print_table(arguments.host_rate);
    }
    if let Some(failure) = report.failure() {
        swarm.tell_why();
        return Err(failure);
    }
    Ok(ExitCode::SUCCESS)
}

/// The processes, and what the first agent says of its engine.
struct Swarm {
    // Agents end before the scheduler: the other way round they would log that it is gone.
    agents: Vec<Host>,
    scheduler: Host,
    scheduler_address: std::net::SocketAddr,
    engine: String,
    engine_reason: String,
}

impl Swarm {
    fn start(arguments: &DemoArguments, directory: &TempDir, free: u64, stop: &Stop) -> Result<Self, Failure> {
        let cluster_key = directory.path().join("cluster.key");
        write_cluster_key(&cluster_key)?;
        let (scheduler, address) = Host::scheduler(directory.path(), &cluster_key)?;
        let common = Common {
            directory: directory.path(),
            cluster_key: &cluster_key,
            scheduler: address,
            engine: &arguments.engine,
            host_rate: arguments.host_rate,
            disk_bytes: free,
        };
        let mut agents = Vec::new();
        for index in 0..arguments.agents {
            agents.push(Host::agent(index, &common)?);
        }
        let mut swarm =
            Self { agents, scheduler, scheduler_address: address, engine: String::new(), engine_reason: String::new() };
        for agent in &mut swarm.agents {
            let status = agent.wait_until_ready(stop)?;
            (swarm.engine, swarm.engine_reason) = (status.engine, status.engine_reason);
        }
        Ok(swarm)
    }

    fn cpu_seconds(&self) -> f64 {
        self.agents.iter().chain([&self.scheduler]).map(Host::cpu_seconds).sum()
    }

    /// Shows the logs' ends: the directory that holds them is about to go.
    fn tell_why(&mut self) {
        for host in self.agents.iter().chain([&self.scheduler]) {
            let Failure { hint, .. } = host.failed("");
            if !hint.is_empty() {
                eprintln!("log of {}:\n  {hint}", host.name);
            }
        }
    }
}

/// One host's download, whatever came of it.
struct Download {
    host: String,
    seconds: f64,
    output: PathBuf,
    result: Result<Outcome, Failure>,
}

fn download_on_all(
    swarm: &Swarm,
    url: &str,
    directory: &Path,
    stop: &Stop,
    is_quiet: bool,
) -> Result<Vec<Download>, Failure> {
    let order = Order {
        url: url.to_owned(),
        headers: Vec::new(),
        digest: None,
        tag: String::new(),
        application: String::new(),
        limit_bytes_per_s: 0,
        timeout: None,
    };
    let totals = Arc::new(Totals::default());
    thread::scope(|scope| {
        let mut running = Vec::new();
        for agent in &swarm.agents {
            let output = directory.join(format!("output-{}", agent.name));
            let (order, totals) = (&order, Arc::clone(&totals));
            let job = move || {
                let start = Instant::now();
                let placing = Placing::Copy { target: output.clone(), overwrite: false };
                let mut watch = Share { totals, done: 0 };
                let result = get(&agent.door(), order, &placing, &mut watch, stop);
                Download { host: agent.name.clone(), seconds: start.elapsed().as_secs_f64(), output, result }
            };
            let handle = thread::Builder::new().spawn_scoped(scope, job);
            running.push(handle.map_err(|error| Failure::io("cannot start a thread", &error))?);
        }
        let bar = show_totals(is_quiet);
        while !running.iter().all(thread::ScopedJoinHandle::is_finished) {
            bar.set_length(totals.wanted.load(Ordering::Relaxed));
            bar.set_position(totals.done.load(Ordering::Relaxed));
            thread::sleep(Duration::from_millis(50));
        }
        bar.finish_and_clear();
        let join = |handle: thread::ScopedJoinHandle<'_, Download>| {
            handle.join().map_err(|_| Failure::other("a download of the demo panicked"))
        };
        running.into_iter().map(join).collect()
    })
}

/// Bytes over all hosts.
#[derive(Debug, Default)]
struct Totals {
    done: AtomicU64,
    wanted: AtomicU64,
}

/// One host's part of the totals.
struct Share {
    totals: Arc<Totals>,
    done: u64,
}

impl Watch for Share {
    fn progress(&mut self, progress: &Progress) {
        if self.done == 0 {
            self.totals.wanted.fetch_add(progress.bytes_total, Ordering::Relaxed);
        }
        let grown = progress.bytes_done.saturating_sub(self.done);
        self.done += grown;
        self.totals.done.fetch_add(grown, Ordering::Relaxed);
    }

    fn note(&mut self, text: &str) {
        eprintln!("hawker: {text}");
    }
}

fn show_totals(is_quiet: bool) -> ProgressBar {
    let is_shown = !is_quiet && std::io::stderr().is_terminal();
    let target = if is_shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(0), target);
    let style = ProgressStyle::with_template("{wide_bar:.cyan/dim} {percent:>3}% of all hosts together");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━━─"))
}

/// The file that the demo's origin serves.
struct Source {
    path: PathBuf,
    sha256: Digest,
}

impl Source {
    /// Writes `length` bytes that no other run has: a cache cannot help.
    fn write(path: &Path, length: u64, stop: &Stop) -> Result<Self, Failure> {
        let cannot = |error: &std::io::Error| Failure::io("cannot write the demo's file", error);
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| Failure::other(format!("no random bytes: {error}")))?;
        let mut random = blake3::Hasher::new_keyed(&seed).finalize_xof();
        let mut file = File::create(path).map_err(|error| cannot(&error))?;
        let mut hasher = sha2::Sha256::new();
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut left = length;
        while left > 0 {
            stop.check()?;
            let count = usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
            random.fill(&mut chunk[..count]);
            hasher.update(&chunk[..count]);
            file.write_all(&chunk[..count]).map_err(|error| cannot(&error))?;
            left -= count as u64;
        }
        Ok(Self { path: path.to_path_buf(), sha256: Digest::Sha256(hasher.finalize().into()) })
    }
}

/// Hashes a host's output again, whatever its agent said of it.
fn check(download: Download, source: Option<&Source>) -> HostReport {
    let Download { host, seconds, output, result } = download;
    match result {
        Ok(outcome) => {
            let is_right = digests_of(&output).is_ok_and(|(sha256, blake3)| {
                // Of a URL nothing is known beforehand but what the agents sealed.
                source.is_none_or(|source| source.sha256 == sha256) && blake3.to_string() == outcome.digest
            });
            HostReport {
                host,
                seconds: outcome.seconds,
                bytes: outcome.bytes,
                origin_bytes: outcome.origin_bytes,
                peer_bytes: outcome.peer_bytes,
                digest: outcome.digest,
                is_right,
                failure: None,
            }
        }
        Err(failure) => HostReport::failed(host, seconds, failure),
    }
}

fn digests_of(path: &Path) -> std::io::Result<(Digest, Digest)> {
    use std::io::Read as _;
    let mut file = File::open(path)?;
    let (mut sha256, mut blake3) = (sha2::Sha256::new(), blake3::Hasher::new());
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let count = file.read(&mut chunk)?;
        if count == 0 {
            return Ok((Digest::Sha256(sha256.finalize().into()), Digest::Blake3(blake3.finalize().into())));
        }
        sha256.update(&chunk[..count]);
        blake3.update(&chunk[..count]);
    }
}

fn free_bytes(directory: &Path) -> Result<u64, Failure> {
    let found = rustix::fs::statvfs(directory);
    let found =
        found.map_err(|error| Failure::io(format_args!("cannot ask {}", directory.display()), &error.into()))?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// The origin's file, and on every host the agent's copy and the output.
fn check_space(arguments: &DemoArguments, free: u64, directory: &Path) -> Result<(), Failure> {
    let copies = 1 + 2 * u64::from(arguments.agents);
    let needed = arguments.size.saturating_mul(copies).saturating_add(SPARE_BYTES);
    if needed <= free {
        return Ok(());
    }
    let message =
        format!("the demo needs {} in {}, {} are free", show_size(needed), directory.display(), show_size(free));
    Err(Failure::new(Exit::DiskFull, message).hint("a smaller --size, fewer --agents, or TMPDIR=DIR on a larger disk"))
}
