//! What a run came to.

use core::fmt;
use core::time::Duration;

use hawker_proto::{Geometry, Instant};
use hawker_swarm::Progress;
use serde::Serialize;

use crate::host::Host;
use crate::peer::PeerId;
use crate::world::World;
use crate::{MIB, Scenario};

/// Figures of one run; times in seconds of virtual time unless said.
///
/// Serialises to the object that `hawker sim --json` prints.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Hosts that wanted the task.
    pub hosts: u32,
    /// Pieces of the task.
    pub pieces: u32,
    /// Of the scenario.
    pub seed: u64,
    /// Until the last host had everything.
    pub makespan_s: f64,
    /// Median of the hosts' times, each from its own start.
    pub p50_s: f64,
    /// 99 of 100 hosts took no longer, each from its own start.
    pub p99_s: f64,
    /// As `p99_s`, of the hosts whose wires are not slow.
    pub fast_p99_s: f64,
    /// See [`Scenario::bound`].
    pub bound_s: f64,
    /// `makespan_s` over `bound_s`.
    pub makespan_ratio: f64,
    /// `p99_s` over `bound_s`.
    pub p99_ratio: f64,
    /// Body bytes that the origin sent, over the length of the task.
    pub origin_ratio: f64,
    /// The longest that somebody who reads a task in order waited at any host without a new contiguous byte, from the
    /// host's start on, over `bound_s`.
    pub reader_wait_ratio: f64,
    /// Bytes received though they were there already, over all bytes received.
    pub waste: f64,
    /// The wait of `reader_wait_ratio`, over all hosts that live.
    pub reader_wait_s: f64,
    /// On 99 of 100 hosts that live nobody waited longer.
    pub reader_wait_p99_s: f64,
    /// Bytes that crossed into a zone, from another one or from the origin, over the zones' number times the length of
    /// the tasks; 0 with fewer than two zones.
    pub cross_zone_ratio: f64,
    /// Hosts that live and do not have all of the task. A run does not end before it is zero.
    pub failed_hosts: u32,
    /// To and from the scheduler.
    pub scheduler_messages_per_host: f64,
    /// Time of a core in the scheduler's machine.
    pub scheduler_cpu_s: f64,
    /// Events of the simulation.
    pub events: u64,
    /// How long the run took, real time.
    pub wall_s: f64,
    /// Bytes fetched though some host had them, or was fetching them, over the length of the task.
    pub origin_repeated_ratio: f64,
    /// Hosts that fetched from the origin at the same time, on average while it sent.
    pub origin_holders: f64,
    /// Most leases that were fetched at the same time.
    pub origin_leases_max: usize,
    /// Time until its last byte in which the origin sent nothing.
    pub origin_idle_s: f64,
    /// GETs that the origin refused because it served enough already.
    pub origin_refusals: u64,
    /// Leases given.
    pub leases: u64,
    /// Leases whose time was over before they were fetched.
    pub leases_cut: u64,
    /// Of these, hosts that lie. What follows of hosts' times and states does not count them.
    pub liars: u32,
    /// Hosts that the scheduler banned.
    pub bans: u64,
    /// Bytes that liars sent in vain, over the length of all tasks.
    pub harm_ratio: f64,
    /// Hosts that left, with or without everything.
    pub left_hosts: u32,
    /// Hosts that died.
    pub dead_hosts: u32,
    /// Grants given by all hosts.
    pub grants: u64,
    /// Messages between hosts that are not blocks; an announcement counts once per neighbor.
    pub messages: u64,
    /// Part of the makespan in which the uplinks of the hosts were sending.
    pub uplink_use: f64,
    /// Of each task, in the order of the scenario's.
    pub tasks: Vec<TaskReport>,
    /// Stands for the sequence of all events: two runs with the same one took the same course.
    pub trace: u64,
}

/// Figures of one task of a run; times in seconds from each host's own start.
#[derive(Clone, Debug, Serialize)]
pub struct TaskReport {
    /// Bytes of the task.
    pub length: u64,
    /// Pieces of the task.
    pub pieces: u32,
    /// Until half of the hosts had it.
    pub p50_s: f64,
    /// Until 99 of 100 hosts had it.
    pub p99_s: f64,
    /// Until all hosts had it.
    pub max_s: f64,
}

/// A ratio of two amounts; 0 of nothing.
pub(crate) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    // Exact to 2^-20, far below what is asserted, without a lossy cast.
    let scaled = (u128::from(part) << 20) / u128::from(whole);
    u32::try_from(scaled).map_or(f64::INFINITY, |scaled| f64::from(scaled) / f64::from(1u32 << 20))
}

/// What this thread has used of its core.
pub(crate) fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0))
}

impl Report {
    pub(crate) fn of(world: &World<'_>) -> Self {
        let scenario = world.scenario;
        let wanting = || world.hosts.iter().skip(scenario.seeds as usize).filter(|host| host.liar.is_none());
        let times = Times::of(wanting().filter_map(Host::duration));
        let fast_times = Times::of(wanting().filter(|host| !host.is_slow).filter_map(Host::duration));
        let makespan = wanting().filter_map(|host| host.done_at).max().unwrap_or(Instant::ZERO).since(Instant::ZERO);
        let (p50, p99) = (times.nth(50), times.nth(99));
        let bound = scenario.bound();
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let sum = |figure: fn(&Progress) -> u64| {
            world.peers.iter().map(|peer| figure(&peer.download.progress())).sum::<u64>()
        };
        let wasted = sum(|progress| progress.bytes_wasted);
        let taken = sum(|progress| progress.bytes_from_peers);
        let could = u128::from(scenario.up_bytes_per_s) * makespan.as_nanos() / 1_000_000_000;
        let could = u64::try_from(could).unwrap_or(u64::MAX).saturating_mul(u64::from(scenario.hosts));
        let count = |is_counted: fn(&Host) -> bool| {
            u32::try_from(wanting().filter(|host| is_counted(host)).count()).unwrap_or(u32::MAX)
        };
        let length = scenario.length();
        let longest = |host: u32| world.peers_of(host).map(|peer| world.peer(peer).reader.longest_wait()).max();
        let lives = |host: &u32| !world.hosts[*host as usize].is_gone();
        let waits = Times::of((scenario.seeds..scenario.hosts).filter(lives).filter_map(longest));
        let zones = scenario.zones.sizes.len() as u64;
        Self {
            hosts: scenario.hosts.saturating_sub(scenario.seeds),
            pieces: scenario.piece_count(),
            seed: scenario.seed,
            makespan_s: makespan.as_secs_f64(),
            p50_s: p50.as_secs_f64(),
            p99_s: p99.as_secs_f64(),
            fast_p99_s: fast_times.nth(99).as_secs_f64(),
            bound_s: bound.as_secs_f64(),
            makespan_ratio: ratio(nanos(makespan), nanos(bound)),
            p99_ratio: ratio(nanos(p99), nanos(bound)),
            origin_ratio: ratio(world.origin.bytes, length),
            reader_wait_ratio: ratio(nanos(waits.nth(100)), nanos(bound)),
            cross_zone_ratio: if zones < 2 { 0.0 } else { ratio(world.borders.bytes_in, zones * length) },
            waste: ratio(wasted, taken + wasted),
            reader_wait_s: waits.nth(100).as_secs_f64(),
            reader_wait_p99_s: waits.nth(99).as_secs_f64(),
            failed_hosts: count(|host| !host.is_gone() && host.done_at.is_none()),
            scheduler_messages_per_host: ratio(world.scheduler.messages, u64::from(scenario.hosts)),
            scheduler_cpu_s: world.scheduler.cpu.as_secs_f64(),
            events: world.event_count(),
            wall_s: 0.0,
            origin_repeated_ratio: ratio(world.origin.bytes_repeated, length),
            origin_holders: world.origin.holders(),
            origin_leases_max: world.leases_running_max,
            origin_idle_s: world.origin.idle_time().as_secs_f64(),
            origin_refusals: world.origin.refusals,
            leases: world.scheduler.lease_count(),
            leases_cut: world.leases_cut,
            liars: scenario.liars,
            bans: world.scheduler.counters().bans,
            harm_ratio: ratio(world.harm.bytes(), length),
            left_hosts: count(|host| host.has_left),
            dead_hosts: count(|host| host.is_dead),
            grants: world.grants,
            messages: world.messages,
            uplink_use: ratio(world.hosts.iter().map(|host| host.bytes_sent).sum(), could),
            tasks: (0..).zip(&scenario.tasks).map(|(task, geometry)| TaskReport::of(world, task, *geometry)).collect(),
            trace: world.trace(),
        }
    }

    /// The one line that names the scenario and its figures.
    #[must_use]
    pub fn line(&self, scenario: &Scenario) -> String {
        format!(
            "{} hosts x {} Mbit/s, {} MiB in {} tasks of {} pieces, {:?} one way: {self}",
            scenario.hosts,
            scenario.up_bytes_per_s * 8 / 1_000_000,
            scenario.length() / MIB,
            scenario.tasks.len(),
            scenario.piece_count(),
            scenario.latency,
        )
    }
}

impl TaskReport {
    fn of(world: &World<'_>, task: u16, geometry: Geometry) -> Self {
        let duration = |host: u32| {
            let done_at = world.peer(PeerId { host, task }).done_at?;
            Some(done_at.since(world.hosts[host as usize].started_at))
        };
        let times = Times::of((world.scenario.seeds..world.scenario.hosts).filter_map(duration));
        Self {
            length: geometry.length(),
            pieces: geometry.piece_count(),
            p50_s: times.nth(50).as_secs_f64(),
            p99_s: times.nth(99).as_secs_f64(),
            max_s: times.nth(100).as_secs_f64(),
        }
    }
}

/// How long each host took, sorted.
struct Times(Vec<Duration>);

impl Times {
    fn of(times: impl Iterator<Item = Duration>) -> Self {
        let mut times: Vec<Duration> = times.collect();
        times.sort_unstable();
        Self(times)
    }

    /// So many of a hundred hosts took no longer; zero when there are none.
    fn nth(&self, percent: usize) -> Duration {
        let index = (self.0.len() * percent).div_ceil(100).saturating_sub(1);
        self.0.get(index).copied().unwrap_or_default()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "makespan_ratio {:.3} origin_ratio {:.3} cross_zone_ratio {:.3} ({:.3} s, median {:.3} s, p99 {:.3} s, of the fast \
             {:.3} s, {} dead, {} liars, {} banned), reader_wait_ratio {:.3}, \
             waste {:.4}, {} leases at {:.1} hosts, origin idle {:.3} s, repeated {:.3}, uplinks {:.2} busy, {} grants, \
             {} messages, scheduler {:.0} a host and {:.3} s, {} events, {:.1} s, seed {}",
            self.makespan_ratio,
            self.origin_ratio,
            self.cross_zone_ratio,
            self.makespan_s,
            self.p50_s,
            self.p99_s,
            self.fast_p99_s,
            self.dead_hosts,
            self.liars,
            self.bans,
            self.reader_wait_ratio,
            self.waste,
            self.leases,
            self.origin_holders,
            self.origin_idle_s,
            self.origin_repeated_ratio,
            self.uplink_use,
            self.grants,
            self.messages,
            self.scheduler_messages_per_host,
            self.scheduler_cpu_s,
            self.events,
            self.wall_s,
            self.seed,
        )
    }
}
