//! What a demo found, for people and for scripts.

use serde::Serialize;

use crate::exit::{Exit, Failure};
use crate::units::{show_rate, show_size};

/// One host's download.
#[derive(Debug)]
pub(super) struct HostReport {
    pub(super) host: String,
    pub(super) seconds: f64,
    pub(super) bytes: u64,
    pub(super) origin_bytes: u64,
    pub(super) peer_bytes: u64,
    pub(super) digest: String,
    pub(super) is_right: bool,
    pub(super) failure: Option<Failure>,
}

impl HostReport {
    pub(super) fn failed(host: String, seconds: f64, failure: Failure) -> Self {
        Self {
            host,
            seconds,
            bytes: 0,
            origin_bytes: 0,
            peer_bytes: 0,
            digest: String::new(),
            is_right: false,
            failure: Some(failure),
        }
    }
}

/// What was measured from outside.
#[derive(Debug)]
pub(super) struct Measured {
    /// What the demo's own origin sent; `None`: the agents' own counts have to do.
    pub(super) origin_bytes: Option<u64>,
    pub(super) host_rate: u64,
    pub(super) cpu_seconds: f64,
    pub(super) engine: String,
}

/// The whole demo.
#[derive(Debug)]
pub(super) struct Report {
    hosts: Vec<HostReport>,
    file_bytes: u64,
    origin_bytes: u64,
    makespan: f64,
    origin_ratio: f64,
    makespan_ratio: Option<f64>,
    cpu_s_per_gb: f64,
    engine: String,
}

/// What `--json` prints; the names are promised to scripts.
#[derive(Debug, Serialize)]
struct ReportJson<'a> {
    hosts: Vec<HostJson<'a>>,
    origin_ratio: f64,
    makespan_ratio: Option<f64>,
    cpu_s_per_gb: f64,
    engine: &'a str,
}

#[derive(Debug, Serialize)]
struct HostJson<'a> {
    host: &'a str,
    seconds: f64,
    origin_bytes: u64,
    peer_bytes: u64,
    digest_ok: bool,
}

impl Report {
    pub(super) fn new(mut hosts: Vec<HostReport>, measured: &Measured) -> Self {
        // Immutable content has one digest: a host that differs from the first is wrong.
        let first = hosts.first().map(|host| host.digest.clone()).unwrap_or_default();
        for host in &mut hosts {
            host.is_right &= host.digest == first;
        }
        let file_bytes = hosts.iter().map(|host| host.bytes).max().unwrap_or(0);
        let origin_bytes =
            measured.origin_bytes.unwrap_or_else(|| hosts.iter().map(|host| host.origin_bytes).sum::<u64>());
        let delivered: u64 = hosts.iter().map(|host| host.bytes).sum();
        let makespan = hosts.iter().map(|host| host.seconds).fold(0.0, f64::max);
        let alone = file_bytes as f64 / measured.host_rate as f64;
        Self {
            file_bytes,
            origin_bytes,
            makespan,
            origin_ratio: ratio(origin_bytes as f64, file_bytes as f64),
            makespan_ratio: (measured.host_rate > 0 && file_bytes > 0).then(|| makespan / alone),
            cpu_s_per_gb: ratio(measured.cpu_seconds, delivered as f64 / 1e9),
            engine: measured.engine.clone(),
            hosts,
        }
    }

    /// Why the demo has failed, `None` when every host has the right bytes.
    pub(super) fn failure(&self) -> Option<Failure> {
        let wrong = self.hosts.iter().find(|host| !host.is_right)?;
        Some(match &wrong.failure {
            Some(failure) => Failure { message: format!("{}: {}", wrong.host, failure.message), ..failure.clone() },
            None => Failure::new(Exit::DigestMismatch, format!("{} ended with wrong bytes", wrong.host)),
        })
    }

    pub(super) fn print_json(&self) {
        let hosts = self.hosts.iter().map(|host| HostJson {
            host: &host.host,
            seconds: host.seconds,
            origin_bytes: host.origin_bytes,
            peer_bytes: host.peer_bytes,
            digest_ok: host.is_right,
        });
        crate::commands::print_json(&ReportJson {
            hosts: hosts.collect(),
            origin_ratio: self.origin_ratio,
            makespan_ratio: self.makespan_ratio,
            cpu_s_per_gb: self.cpu_s_per_gb,
            engine: &self.engine,
        });
    }

    pub(super) fn print_table(&self, host_rate: u64) {
        println!("\n{:<12}  {:>8}  {:>12}  {:>12}  digest", "host", "seconds", "from origin", "from peers");
        for host in &self.hosts {
            println!(
                "{:<12}  {:>8.2}  {:>12}  {:>12}  {}",
                host.host,
                host.seconds,
                show_size(host.origin_bytes),
                show_size(host.peer_bytes),
                if host.is_right { "ok" } else { "WRONG" }
            );
        }
        println!(
            "\norigin sent {}: {:.2} x the file (downloads without Hawker: {}.00 x)",
            show_size(self.origin_bytes),
            self.origin_ratio,
            self.hosts.len()
        );
        match self.makespan_ratio {
            Some(ratio) => println!(
                "all done after {:.2} s: {ratio:.2} x one plain download at {} (without Hawker: about {}.00 x)",
                self.makespan,
                show_rate(host_rate as f64),
                self.hosts.len()
            ),
            None => println!(
                "all done after {:.2} s: {} a host",
                self.makespan,
                show_rate(ratio(self.file_bytes as f64, self.makespan))
            ),
        }
        println!("CPU of agents and scheduler: {:.2} s per GB delivered, engine {}", self.cpu_s_per_gb, self.engine);
    }
}

/// Zero when there is nothing to compare with, which JSON can say and a division cannot.
fn ratio(amount: f64, of: f64) -> f64 {
    if of > 0.0 { amount / of } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(seconds: f64, digest: &str) -> HostReport {
        HostReport {
            host: "127.0.0.2".to_owned(),
            seconds,
            bytes: 50_000_000,
            origin_bytes: 26_000_000,
            peer_bytes: 24_000_000,
            digest: digest.to_owned(),
            is_right: true,
            failure: None,
        }
    }

    fn measured(host_rate: u64) -> Measured {
        Measured { origin_bytes: None, host_rate, cpu_seconds: 0.2, engine: "epoll".to_owned() }
    }

    #[test]
    fn ratios_compare_with_one_plain_download() {
        let report = Report::new(vec![host(2.2, "a"), host(2.0, "a")], &measured(25_000_000));
        assert!((report.origin_ratio - 1.04).abs() < 1e-9);
        assert!((report.makespan_ratio.unwrap() - 1.1).abs() < 1e-9);
        assert!((report.cpu_s_per_gb - 2.0).abs() < 1e-9);
        assert!(report.failure().is_none());
    }

    #[test]
    fn a_free_rate_has_no_makespan_ratio() {
        assert_eq!(Report::new(vec![host(2.2, "a")], &measured(0)).makespan_ratio, None);
    }

    #[test]
    fn one_wrong_digest_fails_the_demo() {
        let report = Report::new(vec![host(1.0, "a"), host(1.0, "b")], &measured(0));
        assert_eq!(report.failure().unwrap().exit, Exit::DigestMismatch);
    }

    #[test]
    fn a_host_that_failed_gives_its_reason() {
        let failed = HostReport::failed("127.0.0.3".to_owned(), 1.0, Failure::new(Exit::OriginRefused, "404"));
        let report = Report::new(vec![host(1.0, "a"), failed], &measured(0));
        let failure = report.failure().unwrap();
        assert_eq!((failure.exit, failure.message.as_str()), (Exit::OriginRefused, "127.0.0.3: 404"));
    }
}
