//! One rollout: from flags to a scenario, and from its report to words.

use std::fs::File;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use hawker_proto::geometry::LENGTH_MAX;
use hawker_sim::{Report, Sample, Scenario, Zones};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::estimate::{Estimate, available_memory};
use super::{catch_panics, caught, typed_command};
use crate::arguments::RolloutArguments;
use crate::commands::print_json;
use crate::exit::Failure;
use crate::units::show_size;

/// Beyond this in virtual time a run has failed: so many times the bound, and a while for timers.
const BOUNDS_MAX: u32 = 50;
const TIMERS_MAX: Duration = Duration::from_secs(600);

pub(super) fn run(chosen: &RolloutArguments, seed: u64) -> Result<ExitCode, Failure> {
    let scenario = scenario(chosen, seed)?;
    // Opened first: hours of simulation must not end at a path that cannot be written.
    let plot = chosen.plot.as_ref().map(|path| {
        let file = File::options().write(true).create(true).truncate(false).open(path);
        file.map_err(|error| Failure::io(format_args!("cannot write {}", path.display()), &error))
    });
    let plot = plot.transpose()?;
    for warning in Estimate::of(&scenario).warnings(available_memory()) {
        eprintln!("hawker: {warning}");
    }
    catch_panics();
    let bar = bar();
    let simulated = caught(|| hawker_sim::run_observed(&scenario, &mut |sample| show_progress(&bar, chosen, sample)));
    bar.finish_and_clear();
    let (report, samples) = simulated.map_err(|what| broken(&what))?;
    if let (Some(file), Some(path)) = (plot, &chosen.plot) {
        write_plot(file, &hawker_sim::plot(&scenario, &report, &samples))
            .map_err(|error| Failure::io(format_args!("cannot write {}", path.display()), &error))?;
    }
    if chosen.json {
        print_json(&report);
    } else {
        print!("{}", table(&scenario, &report));
    }
    match report.failed_hosts {
        0 => Ok(ExitCode::SUCCESS),
        count => Err(broken(&format!("{count} of {} hosts live and did not finish", report.hosts))),
    }
}

fn broken(what: &str) -> Failure {
    Failure::other(format!("the simulation failed: {what}")).hint(format!("repeat it: {}", typed_command()))
}

fn write_plot(mut file: File, svg: &str) -> std::io::Result<()> {
    file.set_len(0)?;
    file.write_all(svg.as_bytes())
}

/// The scenario that the flags describe.
fn scenario(chosen: &RolloutArguments, seed: u64) -> Result<Scenario, Failure> {
    let usage = |message: &str, hint: &str| Err(Failure::usage(message).hint(hint));
    if chosen.size.contains(&0) {
        return usage("--size 0: there is nothing to roll out", "write it such as 256MiB or 2GB");
    }
    // Of all together, too: nothing overflows.
    if chosen.size.iter().try_fold(0, |sum: u64, size| sum.checked_add(*size)).is_none_or(|sum| sum > LENGTH_MAX) {
        return usage("--size is more than Hawker takes", "256TiB is the most");
    }
    if chosen.host_rate == 0 || chosen.origin_rate == 0 {
        return usage("nothing arrives at a rate of 0", "write --host-rate and --origin-rate such as 1Gbit or 25MB/s");
    }
    if chosen.slow > 0.0 && chosen.host_rate < chosen.slow_factor {
        return usage("nothing arrives at the slow hosts", "a smaller --slow-factor or a higher --host-rate");
    }
    if chosen.zones.is_some_and(|zones| zones > chosen.hosts) {
        return usage("--zones is more than --hosts: some zones would be empty", "fewer zones");
    }
    if chosen.zone_uplink == Some(0) {
        return usage("nothing enters a zone at a rate of 0", "write --zone-uplink such as 10Gbit");
    }
    let zones = match (chosen.zones, chosen.zone_uplink) {
        (Some(count), Some(rate)) => Zones::equal(chosen.hosts, count, rate),
        _ => Zones::default(),
    };
    let equal = Scenario::image(chosen.hosts, &chosen.size, chosen.host_rate);
    let deaths = part(chosen.churn, chosen.hosts);
    if deaths == chosen.hosts {
        return usage("--churn leaves no host alive", "a smaller share, such as 5%");
    }
    let liars = part(chosen.liars, chosen.hosts);
    if deaths.saturating_add(liars) >= chosen.hosts {
        return usage("--churn and --liars leave no honest host alive", "a smaller share, such as 5%");
    }
    let scenario = Scenario {
        seed,
        origin_bytes_per_s: chosen.origin_rate,
        latency: chosen.rtt / 2,
        start_spread: chosen.stagger,
        deaths,
        liars,
        slow_hosts: part(chosen.slow, chosen.hosts),
        slow_factor: chosen.slow_factor,
        zones,
        ..equal
    };
    let bound = scenario.bound();
    let time_max = bound.saturating_mul(BOUNDS_MAX).saturating_add(chosen.stagger).saturating_add(TIMERS_MAX);
    Ok(Scenario { deaths_until: bound + chosen.stagger, time_max, ..scenario })
}

/// So many of the hosts: the nearest number, but some when any are asked for.
fn part(share: f64, hosts: u32) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within 0..=hosts, rounded")]
    let count = (share * f64::from(hosts)).round() as u32;
    count.max(u32::from(share > 0.0))
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(1000), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{wide_bar:.cyan/dim} {percent:>3}% of the bytes, {msg}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━━─"))
}

fn show_progress(bar: &ProgressBar, chosen: &RolloutArguments, sample: &Sample) {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share is within 0..=1")]
    bar.set_position((1000.0 * sample.share) as u64);
    let (done, hosts, at) = (sample.hosts_done, chosen.hosts, sample.at.as_secs_f64());
    bar.set_message(format!("{done} of {hosts} hosts finished at {at:.2} s of virtual time"));
}

/// The figures for people: key, value, and what it is measured against.
fn table(scenario: &Scenario, report: &Report) -> String {
    let Report { makespan_s, p50_s, p99_s, bound_s, makespan_ratio, p99_ratio, origin_ratio, waste, .. } = report;
    let length = scenario.length();
    let mut lines = vec![
        format!("{} in {} pieces to {} hosts, seed {}\n", show_size(length), report.pieces, report.hosts, report.seed),
        row("makespan", seconds(*makespan_s), "until the last host had everything"),
        row("p50", seconds(*p50_s), "half of the hosts took no longer"),
        row("p99", seconds(*p99_s), "99 of 100 hosts took no longer"),
        row("lower bound", seconds(*bound_s), "no swarm can be faster on these links"),
        row("makespan_ratio", format!("{makespan_ratio:.3}"), "makespan over the lower bound"),
        row("p99_ratio", format!("{p99_ratio:.3}"), "p99 over the lower bound"),
        row("origin_ratio", format!("{origin_ratio:.3}"), "copies that left the origin"),
        row("waste", format!("{:.2} %", 100.0 * waste), "of the received bytes were there already"),
    ];
    if !scenario.zones.sizes.is_empty() {
        let ratio = format!("{:.3}", report.cross_zone_ratio);
        lines.push(row("cross_zone_ratio", ratio, "copies that came into each zone"));
    }
    if report.dead_hosts > 0 {
        lines.push(row("dead hosts", report.dead_hosts.to_string(), "as --churn asked"));
    }
    if report.liars > 0 {
        lines.push(row("liars", report.liars.to_string(), &format!("as --liars asked; {} were banned", report.bans)));
    }
    let (messages, cpu) = (report.scheduler_messages_per_host, report.scheduler_cpu_s);
    lines.push(row("scheduler", format!("{messages:.0}"), "messages a host"));
    lines.push(row("", format!("{cpu:.3} s"), "of one core, all hosts together"));
    lines.push(row("simulated in", format!("{:.1} s", report.wall_s), &format!("{} events", report.events)));
    lines.concat()
}

fn row(key: &str, value: impl Into<String>, what: &str) -> String {
    format!("{key:<16}{:>12}   {what}\n", value.into())
}

fn seconds(seconds: f64) -> String {
    format!("{seconds:.3} s")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen() -> RolloutArguments {
        RolloutArguments {
            hosts: 40,
            size: vec![16 << 20],
            host_rate: 125_000_000,
            origin_rate: 25_000_000,
            rtt: Duration::from_millis(10),
            zones: None,
            zone_uplink: None,
            churn: 0.05,
            liars: 0.1,
            slow: 0.2,
            slow_factor: 4,
            stagger: Duration::from_secs(3),
            plot: None,
            json: false,
        }
    }

    #[test]
    fn flags_become_a_scenario() {
        let scenario = scenario(&chosen(), 9).unwrap();
        assert_eq!((scenario.hosts, scenario.deaths, scenario.slow_hosts, scenario.seed), (40, 2, 8, 9));
        assert_eq!(scenario.liars, 4);
        assert_eq!((scenario.up_bytes_per_s, scenario.origin_bytes_per_s), (125_000_000, 25_000_000));
        assert_eq!((scenario.latency, scenario.start_spread), (Duration::from_millis(5), Duration::from_secs(3)));
        assert!(scenario.deaths_until > scenario.start_spread && scenario.time_max > scenario.bound() * 10);
    }

    #[test]
    fn what_cannot_be_is_refused_as_usage() {
        let impossible = [
            RolloutArguments { size: vec![0], ..chosen() },
            RolloutArguments { size: vec![1, 0], ..chosen() },
            RolloutArguments { size: vec![LENGTH_MAX + 1], ..chosen() },
            RolloutArguments { size: vec![LENGTH_MAX, 1], ..chosen() },
            RolloutArguments { size: vec![u64::MAX, u64::MAX], ..chosen() },
            RolloutArguments { host_rate: 0, ..chosen() },
            RolloutArguments { origin_rate: 0, ..chosen() },
            RolloutArguments { host_rate: 3, ..chosen() },
            RolloutArguments { churn: 1.0, ..chosen() },
            RolloutArguments { churn: 0.5, liars: 0.5, ..chosen() },
            RolloutArguments { zones: Some(41), zone_uplink: Some(1), ..chosen() },
            RolloutArguments { zones: Some(4), zone_uplink: Some(0), ..chosen() },
        ];
        for chosen in impossible {
            let failure = scenario(&chosen, 1).unwrap_err();
            assert_eq!(failure.exit, crate::exit::Exit::Usage, "{chosen:?}");
            assert!(!failure.hint.is_empty(), "{}", failure.message);
        }
    }

    #[test]
    fn zones_are_of_equal_size_and_share_a_border_each() {
        let chosen = RolloutArguments { zones: Some(4), zone_uplink: Some(500_000_000), ..chosen() };
        let zones = scenario(&chosen, 1).unwrap().zones;
        assert_eq!((zones.sizes, zones.border_bytes_per_s), (vec![10; 4], 500_000_000));
    }

    #[test]
    fn several_sizes_are_layers_of_one_image() {
        let layers = scenario(&RolloutArguments { size: vec![5 << 20, 300, 1 << 20], ..chosen() }, 1).unwrap();
        assert_eq!((layers.tasks.len(), layers.length()), (3, (6 << 20) + 300));
    }

    #[test]
    fn a_share_above_zero_is_at_least_one_host() {
        assert_eq!([part(0.0, 10), part(0.001, 10), part(0.25, 10), part(1.0, 10)], [0, 1, 3, 10]);
    }

    #[test]
    fn failure_repeats_the_command() {
        let failure = broken("an invariant");
        assert!(failure.hint.starts_with("repeat it: hawker"), "{}", failure.hint);
    }
}
