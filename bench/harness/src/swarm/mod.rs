//! Agents as processes: P2, a file from parent to child, and P2r, the same through a relay.

mod agent;
mod cluster;
mod origin;

use std::time::Instant;

use hawker_agent::proto::Geometry;
use hawker_ring::EngineKind;

use crate::Options;
use crate::content::Content;
use crate::error::BenchError;
use crate::measure::{MemoryPeak, machine_cpu_seconds, warm_memory};
use crate::options::WriteMode;
use crate::process::Scratch;
use crate::report::{Report, Row, Sample, Variant};

pub(crate) use agent::{AgentOrder, run_agent};

use cluster::{Cluster, Get, Node};
use origin::Origin;

/// Beside the page cache of what is written: block memory and socket buffers of all processes.
const TOUCHED_BYTES: u64 = 1 << 30;

/// What a variant of a scenario does once.
type Measure = fn(&mut Cluster<'_>, &Variant, Round) -> Result<Sample, BenchError>;

/// Which go this is, and over how many bytes.
#[derive(Clone, Copy, Debug)]
struct Round {
    /// The first one warms up, compares every byte, and is thrown away.
    is_first: bool,
    bytes: u64,
}

/// P2: the child's `get` is the only one, and its parent has the whole file in the page cache.
pub(crate) fn fetch(options: &Options, directory: &Scratch) -> Result<Report, BenchError> {
    let mut report = run(options, directory, &["fetch"], |_| run_fetch)?;
    report.notes.push(
        "loopback, cubic, verified, a link as the outcome; CPU of parent, child and `get`; memory of the child"
            .to_owned(),
    );
    Ok(report)
}

/// P2r, and the first hop alone in the same rounds.
pub(crate) fn relay(options: &Options, directory: &Scratch) -> Result<Report, BenchError> {
    let names = ["relay-direct", "relay"];
    let choose = |name: &str| if name == "relay" { run_relay as Measure } else { run_first_hop };
    let mut report = run(options, directory, &names, choose)?;
    let notes: Vec<String> = report.results.chunks_exact(2).map(note_on_relay).collect();
    report.notes.extend(notes);
    report.notes.push(
        "loopback, cubic, verified; relay: A -> B -> C with B and C asking at once, until both have it, C writing \
         direct; relay-direct: A -> B alone; CPU and memory of B"
            .to_owned(),
    );
    Ok(report)
}

fn note_on_relay(rows: &[Row]) -> String {
    let [direct, relay] = rows else { unreachable!("rows come in pairs") };
    let write = relay.write.map_or("-", WriteMode::name);
    let ratio = direct.gb_per_s / relay.gb_per_s.max(f64::MIN_POSITIVE);
    format!("{} {write}: wall of A -> B -> C is {ratio:.2} x that of A -> B", relay.engine)
}

fn run(
    options: &Options,
    directory: &Scratch,
    names: &[&'static str],
    choose: impl Fn(&str) -> Measure,
) -> Result<Report, BenchError> {
    let (engines, note) = options.engines()?;
    let variants = variants(options, &engines, names)?;
    let content = Content::create(&directory.path().join("content"), options.bytes)?;
    let origin = Origin::start(&content)?;
    let start = |&engine: &EngineKind| Cluster::start(engine, options, directory, (&origin, &content));
    let mut clusters = engines.iter().map(start).collect::<Result<Vec<Cluster<'_>>, BenchError>>()?;
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); variants.len()];
    for round in 0..=options.runs {
        for (variant, samples) in variants.iter().zip(&mut samples) {
            let cluster = clusters.iter_mut().find(|cluster| cluster.engine == variant.engine);
            let cluster = cluster.expect("there is a cluster for every engine");
            let round = Round { is_first: round == 0, bytes: content.bytes() };
            let sample = choose(variant.name)(cluster, variant, round)?;
            if !round.is_first {
                samples.push(sample);
            }
        }
    }
    let results = variants.iter().zip(&samples).map(|(variant, samples)| Row::new(variant, samples)).collect();
    Ok(Report { results, notes: note.into_iter().collect() })
}

fn variants(options: &Options, engines: &[EngineKind], names: &[&'static str]) -> Result<Vec<Variant>, BenchError> {
    let geometry = Geometry::of_length(options.bytes)
        .ok_or_else(|| BenchError::Usage(format!("{} bytes are more than a task can have", options.bytes)))?;
    let piece_bytes = u64::from(geometry.piece_bytes());
    let mut variants = Vec::new();
    for write in options.write_modes() {
        for &engine in engines {
            for name in names {
                let write = Some(write);
                variants.push(Variant { name, engine, strategy: None, write, connections: 1, piece_bytes });
            }
        }
    }
    Ok(variants)
}

fn run_fetch(cluster: &mut Cluster<'_>, variant: &Variant, round: Round) -> Result<Sample, BenchError> {
    let child = cluster.child(write_of(variant), None)?;
    let taken = measure(cluster, &child, &[&child], round)?;
    Ok(taken.sample(round, taken.parent_cpu_s + taken.measured_cpu_s + taken.gets_cpu_s))
}

fn run_first_hop(cluster: &mut Cluster<'_>, variant: &Variant, round: Round) -> Result<Sample, BenchError> {
    let relay = cluster.child(write_of(variant), None)?;
    let taken = measure(cluster, &relay, &[&relay], round)?;
    Ok(taken.sample(round, taken.measured_cpu_s))
}

fn run_relay(cluster: &mut Cluster<'_>, variant: &Variant, round: Round) -> Result<Sample, BenchError> {
    let relay = cluster.child(write_of(variant), None)?;
    let last = cluster.child(WriteMode::Direct, Some(&relay))?;
    let taken = measure(cluster, &relay, &[&relay, &last], round)?;
    Ok(taken.sample(round, taken.measured_cpu_s))
}

fn write_of(variant: &Variant) -> WriteMode {
    variant.write.expect("agents write")
}

/// What one go took.
#[derive(Clone, Copy, Debug)]
struct Taken {
    seconds: f64,
    parent_cpu_s: f64,
    measured_cpu_s: f64,
    gets_cpu_s: f64,
    machine_cpu_s: f64,
    memory_bytes: u64,
}

impl Taken {
    fn sample(self, round: Round, cpu_s: f64) -> Sample {
        let Self { seconds, machine_cpu_s, memory_bytes, .. } = self;
        Sample { bytes: round.bytes, seconds, cpu_s, machine_cpu_s, latency: None, memory_bytes }
    }
}

/// All `nodes` get the file at once; the clock stops when the last has it.
fn measure(cluster: &Cluster<'_>, measured: &Node, nodes: &[&Node], round: Round) -> Result<Taken, BenchError> {
    // What earlier goes left for the disk to do is not this one's.
    rustix::fs::sync();
    cluster.heat_parent()?;
    warm_memory(TOUCHED_BYTES + round.bytes * nodes.len() as u64);
    let machine_cpu = || machine_cpu_seconds().map_err(BenchError::io("read the machine's CPU time"));
    let memory = MemoryPeak::watch(measured.process.id());
    let (parent_cpu, measured_cpu, machine) = (cluster.parent.cpu()?, measured.cpu()?, machine_cpu()?);
    let started = Instant::now();
    let gets = nodes.iter().map(|node| Get::start(cluster, node)).collect::<Result<Vec<_>, BenchError>>()?;
    let got = gets.into_iter().map(Get::end).collect::<Result<Vec<_>, BenchError>>()?;
    let seconds = started.elapsed().as_secs_f64();
    let taken = Taken {
        seconds,
        parent_cpu_s: cluster.parent.cpu()?.seconds_since(&parent_cpu),
        measured_cpu_s: measured.cpu()?.seconds_since(&measured_cpu),
        gets_cpu_s: got.iter().map(|got| got.cpu_s).sum(),
        machine_cpu_s: machine_cpu()? - machine,
        memory_bytes: memory.end(),
    };
    got.iter().try_for_each(|got| got.check(cluster, round.is_first))?;
    Ok(taken)
}
