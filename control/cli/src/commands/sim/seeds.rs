//! Many small swarms with faults: the long run that looks for broken invariants.

use std::num::NonZero;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use hawker_sim::Scenario;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{catch_panics, caught};
use crate::exit::Failure;

/// Failures after which no more are looked for: they have one cause.
const FAILURES_MAX: usize = 10;

pub(super) fn run(first: u64, count: u64) -> Result<ExitCode, Failure> {
    let end = first
        .checked_add(count)
        .ok_or_else(|| Failure::usage(format!("--seed {first} and --seeds {count} go beyond {}", u64::MAX)))?;
    catch_panics();
    let bar = ProgressBar::with_draw_target(Some(count), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{wide_bar:.cyan/dim} {pos} of {len} swarms, {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━━─"));
    let next = AtomicU64::new(first);
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(|| {
                while let Some(seed) = take(&next, end) {
                    if let Err(what) = check(seed) {
                        bar.suspend(|| eprintln!("hawker: seed {seed}: {what}\n  {}", repeat_command(seed)));
                        let mut failed = failed.lock().expect("no holder panics");
                        failed.push(seed);
                        if failed.len() >= FAILURES_MAX {
                            next.store(end, Ordering::Relaxed);
                        }
                    }
                    bar.inc(1);
                }
            });
        }
    });
    let ran = bar.position();
    bar.finish_and_clear();
    let failed = failed.into_inner().expect("no holder panics");
    match failed.iter().min() {
        None => {
            println!("{count} swarms, seeds {first} to {}: every live host finished, no invariant broke", end - 1);
            Ok(ExitCode::SUCCESS)
        }
        Some(seed) => Err(Failure::other(format!("{} of {ran} swarms failed", failed.len()))
            .hint(format!("repeat one: {}", repeat_command(*seed)))),
    }
}

/// The next seed that nobody has taken.
fn take(next: &AtomicU64, end: u64) -> Option<u64> {
    let step = |seed: u64| (seed < end).then(|| seed + 1);
    next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).ok()
}

/// What failed, in words.
fn check(seed: u64) -> Result<(), String> {
    let report = caught(|| hawker_sim::run(&Scenario::drawn(seed)))?;
    match report.failed_hosts {
        0 => Ok(()),
        count => Err(format!("{count} of {} hosts did not finish", report.hosts)),
    }
}

fn repeat_command(seed: u64) -> String {
    format!("hawker sim --seeds 1 --seed {seed}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_is_taken_once_and_the_last_possible_one_too() {
        let next = AtomicU64::new(u64::MAX - 2);
        let taken: Vec<u64> = std::iter::from_fn(|| take(&next, u64::MAX)).collect();
        assert_eq!(taken, [u64::MAX - 2, u64::MAX - 1]);
    }

    #[test]
    fn run_without_failures_succeeds_and_too_many_seeds_are_refused() {
        assert_eq!(run(1, 2).unwrap(), ExitCode::SUCCESS);
        assert_eq!(run(u64::MAX, 2).unwrap_err().exit, crate::exit::Exit::Usage);
    }
}
