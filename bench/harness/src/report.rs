//! What comes out: rows for programs, a table for people.

use std::fmt;

use hawker_ring::EngineKind;
use serde::Serialize;

use crate::options::{Strategy, WriteMode};
use crate::stats::{median, spread};

/// All rows of one bench. Serialises to `{"results": [...]}`; displays as a table.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// One row a variant, in the order of the variants.
    pub results: Vec<Row>,
    /// What a reader of the table should know besides.
    #[serde(skip)]
    pub notes: Vec<String>,
}

/// One variant: medians over its runs. GB = 10^9 bytes.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// `serve`; `fetch`; `relay`, and beside it `relay-direct`: the first hop alone, in the same rounds.
    pub name: &'static str,
    /// `uring` or `epoll`.
    pub engine: &'static str,
    /// `null` where the agent chooses by itself.
    pub strategy: Option<Strategy>,
    /// `null` where nothing is written. Of a relay it is B's; C always writes direct.
    pub write: Option<WriteMode>,
    /// Connections to the measured server; an agent's child asks its parent over one link.
    pub connections: u32,
    /// Bytes of a request of `serve`, and of the task's pieces between agents.
    pub piece_bytes: u64,
    /// Bytes of content over wall time.
    pub gb_per_s: f64,
    /// CPU of the measured processes: the server; parent, child and `get`; relay B alone.
    pub cpu_s_per_gb: f64,
    /// Of `serve`, the time from when a block was the next one due on its connection to its last byte, median over the
    /// run; else the wall time of the median run.
    pub p50_us: f64,
    /// The same, 99th percentile; else the wall time of the slowest run.
    pub p99_us: f64,
    /// RssAnon + RssShmem + VmPin at the peak: the server's; the child's; B's.
    pub memory_mib: f64,
    /// Runs behind the medians.
    pub runs: u32,
    /// Of `gb_per_s`: (largest - smallest) / median.
    pub spread: f64,
    /// CPU of the whole machine, load generator and everybody else included.
    #[serde(skip)]
    pub machine_cpu_s_per_gb: f64,
}

/// What names a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Variant {
    pub(crate) name: &'static str,
    pub(crate) engine: EngineKind,
    pub(crate) strategy: Option<Strategy>,
    pub(crate) write: Option<WriteMode>,
    pub(crate) connections: u32,
    pub(crate) piece_bytes: u64,
}

/// One run of a variant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    pub(crate) cpu_s: f64,
    pub(crate) machine_cpu_s: f64,
    /// Of blocks within the run; `None` when only the run as a whole was timed.
    pub(crate) latency: Option<Latency>,
    pub(crate) memory_bytes: u64,
}

/// Of many blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Latency {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

impl Row {
    pub(crate) fn new(variant: &Variant, samples: &[Sample]) -> Self {
        let of = |figure: fn(&Sample) -> f64| samples.iter().map(figure).collect::<Vec<f64>>();
        let rates = of(|sample| gb(sample) / sample.seconds);
        let walls_us = of(|sample| sample.seconds * 1e6);
        let latencies: Option<Vec<Latency>> = samples.iter().map(|sample| sample.latency).collect();
        let (p50_us, p99_us) = match latencies {
            Some(all) => (
                median(&all.iter().map(|one| one.p50_us).collect::<Vec<_>>()),
                median(&all.iter().map(|one| one.p99_us).collect::<Vec<_>>()),
            ),
            None => (median(&walls_us), walls_us.iter().copied().fold(0.0, f64::max)),
        };
        Self {
            name: variant.name,
            engine: variant.engine.name(),
            strategy: variant.strategy,
            write: variant.write,
            connections: variant.connections,
            piece_bytes: variant.piece_bytes,
            gb_per_s: rounded(median(&rates), 3),
            cpu_s_per_gb: rounded(median(&of(|sample| sample.cpu_s / gb(sample))), 4),
            p50_us: rounded(p50_us, 1),
            p99_us: rounded(p99_us, 1),
            memory_mib: rounded(median(&of(|sample| sample.memory_bytes as f64 / f64::from(1 << 20))), 2),
            runs: u32::try_from(samples.len()).expect("runs are counted in 32 bits"),
            spread: rounded(spread(&rates), 3),
            machine_cpu_s_per_gb: rounded(median(&of(|sample| sample.machine_cpu_s / gb(sample))), 4),
        }
    }
}

fn gb(sample: &Sample) -> f64 {
    sample.bytes as f64 / 1e9
}

/// Digits beyond what a run can tell are noise to a reader.
fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

/// Above the columns of the table. KiB is of a piece; machine is the CPU-s/GB of everything that ran.
const HEADINGS: &str = "\
bench        engine strategy  write      conn     GB/s   spread CPU-s/GB  machine     p50 us     p99 us      MiB  runs     KiB\n";

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HEADINGS)?;
        for row in &self.results {
            writeln!(
                f,
                "{:<13}{:<7}{:<10}{:<10}{:>5}{:>9.2}{:>8.0}%{:>9.3}{:>9.3}{:>11.0}{:>11.0}{:>9.1}{:>6}{:>8}",
                row.name,
                row.engine,
                row.strategy.map_or("-", Strategy::name),
                row.write.map_or("-", WriteMode::name),
                row.connections,
                row.gb_per_s,
                row.spread * 100.0,
                row.cpu_s_per_gb,
                row.machine_cpu_s_per_gb,
                row.p50_us,
                row.p99_us,
                row.memory_mib,
                row.runs,
                row.piece_bytes / 1024,
            )?;
        }
        for note in &self.notes {
            writeln!(f, "{note}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VARIANT: Variant = Variant {
        name: "serve",
        engine: EngineKind::Epoll,
        strategy: Some(Strategy::Sendfile),
        write: None,
        connections: 64,
        piece_bytes: 1 << 20,
    };

    fn sample(seconds: f64, latency: Option<Latency>) -> Sample {
        Sample { bytes: 2_000_000_000, seconds, cpu_s: 0.5, machine_cpu_s: 1.0, latency, memory_bytes: 3 << 20 }
    }

    #[test]
    fn the_keys_of_a_row_stay_as_scripts_know_them() {
        let row = Row::new(&VARIANT, &[sample(1.0, None)]);
        let report = Report { results: vec![row], notes: vec!["a note".to_owned()] };
        let text = serde_json::to_string(&report).expect("a report is JSON");
        assert_eq!(
            text,
            "{\"results\":[{\"name\":\"serve\",\"engine\":\"epoll\",\"strategy\":\"sendfile\",\"write\":null,\
             \"connections\":64,\"piece_bytes\":1048576,\"gb_per_s\":2.0,\"cpu_s_per_gb\":0.25,\"p50_us\":1000000.0,\
             \"p99_us\":1000000.0,\"memory_mib\":3.0,\"runs\":1,\"spread\":0.0}]}"
        );
    }

    #[test]
    fn a_row_holds_the_medians_of_its_runs() {
        let latency = |us| Some(Latency { p50_us: us, p99_us: us * 10.0 });
        let samples = [sample(1.0, latency(5.0)), sample(4.0, latency(7.0)), sample(2.0, latency(6.0))];
        let row = Row::new(&VARIANT, &samples);
        assert_eq!((row.gb_per_s, row.runs), (1.0, 3));
        assert_eq!((row.p50_us, row.p99_us), (6.0, 60.0));
        assert_eq!(row.spread, 1.5);
        assert_eq!((row.cpu_s_per_gb, row.machine_cpu_s_per_gb), (0.25, 0.5));
    }

    #[test]
    fn runs_timed_as_a_whole_show_their_median_and_their_slowest() {
        let row = Row::new(&VARIANT, &[sample(1.0, None), sample(3.0, None), sample(2.0, None)]);
        assert_eq!((row.p50_us, row.p99_us), (2e6, 3e6));
    }

    #[test]
    fn the_table_shows_every_row_and_note() {
        let row = Row::new(&VARIANT, &[sample(1.0, None)]);
        let report = Report { results: vec![row], notes: vec!["a note".to_owned()] };
        let text = report.to_string();
        assert_eq!(text.lines().count(), 3);
        assert!(text.contains("sendfile") && text.ends_with("a note\n"), "{text}");
    }
}
