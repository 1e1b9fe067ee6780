//! What a guard does when its agent is gone. No clock, no process: figures in, a decision out.

use std::fmt;
use std::time::Duration;

use crate::exit::Exit;

/// Pause before the second of several deaths in a row; each further one doubles it.
const PAUSE: Duration = Duration::from_millis(250);
/// Longest pause: a client that asks the registry meanwhile has lost nothing, and one that could come back should.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// An agent that lived so long does not count as dying again and again.
const WELL_AFTER: Duration = Duration::from_mins(1);

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Exited(u8),
    /// By this signal; 0 when nobody knows.
    Killed(i32),
}

impl fmt::Display for End {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(formatter, "exit code {code}"),
            Self::Killed(signal) => write!(formatter, "signal {signal}"),
        }
    }
}

/// The course of one agent's process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    pub(super) end: End,
    /// Whether its ports ever answered.
    pub(super) has_run: bool,
    pub(super) lasted: Duration,
    /// Whether it was told to end.
    pub(super) is_asked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// With this exit code.
    End(u8),
    /// After this pause.
    Restart(Duration),
}

/// `restarts`: how often it was started before; `deaths` counts those in a row.
pub(super) fn next(life: &Life, restarts: u32, deaths: &mut u32) -> Next {
    match life.end {
        End::Exited(code) if is_final(code, life, restarts) => return Next::End(code),
        // As shells count.
        End::Killed(signal) if life.is_asked => return Next::End(u8::try_from(128 + signal).unwrap_or(1)),
        _ => {}
    }
    *deaths = if life.lasted >= WELL_AFTER { 1 } else { *deaths + 1 };
    let doubled = |times: u32| PAUSE.saturating_mul(1 << times.min(16)).min(PAUSE_MAX);
    Next::Restart(deaths.checked_sub(2).map_or(Duration::ZERO, doubled))
}

/// An agent that ends on purpose, or that cannot be what the command line asks for.
fn is_final(code: u8, life: &Life, restarts: u32) -> bool {
    let never_ran = !life.has_run && restarts == 0;
    life.is_asked || code == 0 || code == Exit::Usage as u8 || code == Exit::Interrupted as u8 || never_ran
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAN: Life = Life { end: End::Killed(9), has_run: true, lasted: Duration::from_secs(5), is_asked: false };

    fn after(life: Life, restarts: u32) -> Next {
        next(&life, restarts, &mut 0)
    }

    #[test]
    fn a_killed_agent_comes_back_at_once() {
        assert_eq!(after(RAN, 0), Next::Restart(Duration::ZERO));
        assert_eq!(after(Life { has_run: false, ..RAN }, 0), Next::Restart(Duration::ZERO));
        // A panic.
        assert_eq!(after(Life { end: End::Exited(101), ..RAN }, 3), Next::Restart(Duration::ZERO));
    }

    #[test]
    fn one_that_dies_again_and_again_waits_longer_each_time_but_never_for_ever() {
        let mut deaths = 0;
        let pauses: Vec<Next> = (0..9).map(|restarts| next(&RAN, restarts, &mut deaths)).collect();
        let expected = [0, 250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000];
        assert_eq!(pauses, expected.map(|millis| Next::Restart(Duration::from_millis(millis))));
        let well = Life { lasted: WELL_AFTER, ..RAN };
        assert_eq!(next(&well, 9, &mut deaths), Next::Restart(Duration::ZERO));
        deaths = u32::MAX - 1;
        assert_eq!(next(&RAN, 9, &mut deaths), Next::Restart(PAUSE_MAX));
    }

    #[test]
    fn what_cannot_work_and_what_ends_on_purpose_keeps_its_exit_code() {
        let first = Life { has_run: false, ..RAN };
        assert_eq!(after(Life { end: End::Exited(1), ..first }, 0), Next::End(1), "the port is taken, say");
        assert_eq!(after(Life { end: End::Exited(2), ..first }, 7), Next::End(2));
        assert_eq!(after(Life { end: End::Exited(0), ..RAN }, 7), Next::End(0));
        assert_eq!(after(Life { end: End::Exited(130), ..RAN }, 0), Next::End(130));
        assert_eq!(after(Life { end: End::Exited(1), is_asked: true, ..RAN }, 1), Next::End(1));
        assert_eq!(after(Life { is_asked: true, ..RAN }, 1), Next::End(137));
        // It ran before: what keeps it from starting now may pass.
        assert_eq!(after(Life { end: End::Exited(1), ..first }, 1), Next::Restart(Duration::ZERO));
    }
}
