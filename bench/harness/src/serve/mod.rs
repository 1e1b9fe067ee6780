//! Serving blocks to peers: a process with one shard's ring, and a load generator on another core.

mod load;
mod server;

use std::net::SocketAddr;

use hawker_ring::EngineKind;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::content::Content;
use crate::error::BenchError;
use crate::measure::{ProcessCpu, machine_cpu_seconds, memory_bytes, warm_memory};
use crate::process::{Process, Scratch};
use crate::report::{Latency, Report, Row, Sample, Variant};
use crate::worker::Order;
use crate::{Options, Strategy};

pub(crate) use server::{ServeOrder, serve};

use load::{Load, Plan};

/// Pulled by all connections before the clock starts: windows, buffers and the server's memory are warm then.
const WARM_UP_BYTES: u64 = 128 << 20;

/// What socket buffers and the load generator take at most; touched before each run.
const TOUCHED_BYTES: u64 = 512 << 20;

/// Runs all variants, interleaved.
pub(crate) fn run(options: &Options, directory: &Scratch) -> Result<Report, BenchError> {
    let (engines, note) = options.engines()?;
    let variants = variants(options, &engines);
    let content = Content::create(&directory.path().join("content"), options.bytes)?;
    let cores = Cores::choose();
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); variants.len()];
    // Round 0 warms the machine up and is not kept.
    for round in 0..=options.runs {
        for (variant, samples) in variants.iter().zip(&mut samples) {
            let sample = measure(options, variant, &content, cores)?;
            if round > 0 {
                samples.push(sample);
            }
        }
    }
    let results = variants.iter().zip(&samples).map(|(variant, samples)| Row::new(variant, samples)).collect();
    let pinned = cores.map_or(
        "server and load generator share what cores there are",
        |_| "server and load generator on a core each; the generator copies what it receives",
    );
    let notes = note.into_iter().chain([format!("loopback, cubic, page cache hot; {pinned}")]).collect();
    Ok(Report { results, notes })
}

fn variants(options: &Options, engines: &[EngineKind]) -> Vec<Variant> {
    let mut variants = Vec::new();
    for &connections in &options.connections {
        for strategy in options.strategies() {
            for &engine in engines {
                let piece_bytes = u64::from(options.piece_bytes);
                let strategy = Some(strategy);
                variants.push(Variant { name: "serve", engine, strategy, write: None, connections, piece_bytes });
            }
        }
    }
    variants
}

/// One run in a server process of its own, so that no run inherits another's memory.
fn measure(
    options: &Options,
    variant: &Variant,
    content: &Content,
    cores: Option<Cores>,
) -> Result<Sample, BenchError> {
    content.heat()?;
    warm_memory(TOUCHED_BYTES);
    let order = ServeOrder {
        engine: variant.engine.name().to_owned(),
        strategy: variant.strategy.unwrap_or(Strategy::Copy),
        file: content.path().to_owned(),
        bytes: content.bytes(),
        piece_bytes: options.piece_bytes,
        core: cores.map(|cores| cores.server),
    };
    let (server, line) = Process::worker(options, &Order::Serve(order))?;
    let address: SocketAddr = line
        .parse()
        .map_err(|_| BenchError::Process(format!("the bench's server did not say where it listens: {line}")))?;
    let plan = Plan {
        address,
        connections: variant.connections,
        piece_bytes: options.piece_bytes,
        file_bytes: content.bytes(),
        core: cores.map(|cores| cores.load),
    };
    let mut load = Load::connect(&plan)?;
    load.pull(WARM_UP_BYTES.min(options.bytes))?;
    let (cpu, machine) = (process_cpu(&server)?, machine_cpu()?);
    let pulled = load.pull(options.bytes)?;
    let (cpu_end, machine_end) = (process_cpu(&server)?, machine_cpu()?);
    let microseconds = |quantile| pulled.latency_ns.value_at_quantile(quantile) as f64 / 1e3;
    Ok(Sample {
        bytes: pulled.bytes,
        seconds: pulled.elapsed.as_secs_f64(),
        cpu_s: cpu_end.seconds_since(&cpu),
        machine_cpu_s: machine_end - machine,
        latency: Some(Latency { p50_us: microseconds(0.5), p99_us: microseconds(0.99) }),
        memory_bytes: memory_bytes(server.id()).map_err(server.gone())?,
    })
}

fn process_cpu(server: &Process) -> Result<ProcessCpu, BenchError> {
    ProcessCpu::of(server.id()).map_err(server.gone())
}

fn machine_cpu() -> Result<f64, BenchError> {
    machine_cpu_seconds().map_err(BenchError::io("read the machine's CPU time"))
}

/// Where the two sides run, when this process may use two cores: a scheduler that moves them is noise.
#[derive(Clone, Copy, Debug)]
struct Cores {
    server: usize,
    load: usize,
}

impl Cores {
    fn choose() -> Option<Self> {
        let allowed = sched_getaffinity(None).ok()?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core));
        Some(Self { server: cores.next()?, load: cores.next()? })
    }
}

/// Holds the calling thread, and those it starts, on one core.
fn stay_on(core: usize) -> Result<(), BenchError> {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).map_err(|error| BenchError::Io { what: "stay on a core", error: error.into() })
}
