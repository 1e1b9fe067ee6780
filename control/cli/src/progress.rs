//! How a download goes, for people: a bar on a terminal, a line now and then elsewhere, nothing when nobody looks.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use hawker_api::local::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::client::Watch;
use crate::units::{show_rate, show_size};

/// Often enough to see that it lives, rare enough for a log.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// What suits where standard error goes.
pub(crate) fn watch_for_stderr() -> Box<dyn Watch> {
    if std::io::stderr().is_terminal() { Box::new(Bar::new()) } else { Box::new(Lines { last: Instant::now() }) }
}

/// Tells no progress.
pub(crate) struct Silent;

impl Watch for Silent {
    fn progress(&mut self, _progress: &Progress) {}

    fn note(&mut self, text: &str) {
        eprintln!("hawker: {text}");
    }
}

struct Bar {
    bar: ProgressBar,
}

impl Bar {
    fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        Self { bar }
    }
}

impl Watch for Bar {
    fn progress(&mut self, progress: &Progress) {
        if self.bar.length().is_none() && progress.bytes_total > 0 {
            self.bar.set_length(progress.bytes_total);
            let style = ProgressStyle::with_template("{wide_bar:.cyan/dim} {percent:>3}% {msg}");
            self.bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━━─"));
        }
        self.bar.set_position(progress.bytes_done);
        self.bar.set_message(describe(progress));
    }

    fn note(&mut self, text: &str) {
        self.bar.suspend(|| eprintln!("hawker: {text}"));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

struct Lines {
    last: Instant,
}

impl Watch for Lines {
    fn progress(&mut self, progress: &Progress) {
        if self.last.elapsed() >= LINE_EVERY {
            self.last = Instant::now();
            eprintln!("{}", describe(progress));
        }
    }

    fn note(&mut self, text: &str) {
        eprintln!("hawker: {text}");
    }
}

/// `12.0 MiB of 64.0 MiB, 23.9 MB/s, 2 s left; origin 12 %, peers 88 % (7 neighbors)`
fn describe(progress: &Progress) -> String {
    let mut text = show_size(progress.bytes_done);
    if progress.bytes_total > 0 {
        text += &format!(" of {}", show_size(progress.bytes_total));
    }
    text += &format!(", {}", show_rate(progress.bytes_per_s as f64));
    let left = progress.bytes_total.saturating_sub(progress.bytes_done);
    if left > 0 && progress.bytes_per_s > 0 {
        text += &format!(", {} left", show_time(left.div_ceil(progress.bytes_per_s)));
    }
    text += &describe_sources(progress.origin_bytes, progress.peer_bytes, progress.cache_bytes);
    if progress.neighbors > 0 {
        text += &format!(" ({} neighbors)", progress.neighbors);
    }
    text
}

/// `; origin 12 %, peers 88 %`, empty when there are no bytes.
pub(crate) fn describe_sources(origin: u64, peers: u64, cache: u64) -> String {
    let total = origin + peers + cache;
    let sources = [("origin", origin), ("peers", peers), ("cache", cache)];
    let shown: Vec<String> = sources
        .into_iter()
        .filter(|(_, bytes)| *bytes > 0)
        .map(|(name, bytes)| format!("{name} {:.0} %", bytes as f64 * 100.0 / total as f64))
        .collect();
    if shown.is_empty() { String::new() } else { format!("; {}", shown.join(", ")) }
}

fn show_time(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_tells_rate_remaining_time_and_sources() {
        let progress = Progress {
            bytes_done: 12 << 20,
            bytes_total: 64 << 20,
            origin_bytes: 3 << 20,
            peer_bytes: 9 << 20,
            bytes_per_s: 26_000_000,
            neighbors: 7,
            ..Progress::default()
        };
        let text = describe(&progress);
        assert_eq!(text, "12.0 MiB of 64.0 MiB, 26.0 MB/s, 3 s left; origin 25 %, peers 75 % (7 neighbors)");
    }

    #[test]
    fn progress_without_a_length_claims_none() {
        assert_eq!(describe(&Progress::default()), "0 B, 0.0 kB/s");
    }
}
