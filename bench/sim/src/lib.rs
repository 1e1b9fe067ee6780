//! The simulator: the production machines in virtual time.
//!
//! Every host runs the [`Download`](hawker_swarm::Download) and [`Upload`](hawker_swarm::Upload) that an agent runs, and
//! one [`Cluster`](hawker_scheduler::Cluster) tells them what a server would: who resolves, who links with whom, who
//! fetches what. Only the network, the origin, the clock and the shells between them are models. One seed gives one
//! trace, so a failure is repeated by its seed.
//!
//! The network is modelled per block: a block occupies its sender's uplink and its receiver's downlink for its length
//! over their rates, both in order of arrival, and is cut through (the two overlap). What is not modelled: loss, TCP's
//! slow start, a core that is smaller than the sum of its edges, what disks take to read.

mod agent;
mod budget;
mod clock;
mod disk;
mod drawn;
mod event;
mod faults;
mod fetching;
mod host;
mod image;
mod leaving;
mod liar;
mod links;
mod network;
mod origin;
mod peer;
mod plot;
mod reader;
mod reasons;
mod report;
mod roles;
mod scheduler;
mod series;
mod shell;
mod table;
mod world;
mod zones;

pub use image::IMAGE_LAYERS;
pub use plot::plot;
pub use report::{Report, TaskReport};
pub use series::{SAMPLES_MAX, Sample};
pub use zones::Zones;

use core::time::Duration;

use hawker_proto::Geometry;
use hawker_scheduler::ClusterConfig;
use hawker_swarm::{DownloadConfig, UploadConfig};

const MIB: u64 = 1024 * 1024;

/// What to simulate.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Hosts that want all tasks, from the start (but see `start_spread`).
    pub hosts: u32,
    /// What they want: a file, or the layers of an image. Links, wires and slots are a host's own, shared by its tasks.
    pub tasks: Vec<Geometry>,
    /// Every host's uplink in bytes per second.
    pub up_bytes_per_s: u64,
    /// Every host's downlink in bytes per second.
    pub down_bytes_per_s: u64,
    /// One way, between any two hosts, and to the origin and the scheduler.
    pub latency: Duration,
    /// How long at most an announcement waits on a link for the block that is being sent there: agents queue it before
    /// all others, and let a socket hold 128 KiB that are not on the wire, 1 ms at 1 Gbit/s. On any other link it
    /// leaves at once. Zero models links on which it overtakes blocks.
    pub have_delay: Duration,
    /// A host handles what reached it only every so often: up to this late (uniformly drawn). Models process
    /// scheduling; zero for none.
    pub noise: Duration,
    /// The origin's uplink in bytes per second.
    pub origin_bytes_per_s: u64,
    /// What it sends on one connection in bytes per second: 50 to 100 MB/s at object stores. 0: no less than on all.
    pub origin_connection_bytes_per_s: u64,
    /// GETs that it serves at a time; it refuses all others with a 503. 0: no limit. The heads of its answers, which a
    /// resolve takes, do not count.
    pub origin_connections_max: u32,
    /// Where hosts are, and what crosses from one zone into another.
    pub zones: Zones,
    /// Upload slots of a host.
    pub slots: u32,
    /// Hosts, counted from the first, that have all tasks from the start.
    pub seeds: u32,
    /// Of these, counted from the first, whose wires are slower.
    pub slow_seeds: u32,
    /// Hosts, drawn among those that are no seeds, whose wires are slower than the others' ...
    pub slow_hosts: u32,
    /// ... by this factor, both ways.
    pub slow_factor: u64,
    /// Hosts start at times drawn uniformly from this.
    pub start_spread: Duration,
    /// Hosts, drawn among those that are no seeds, that lie, each in one of several ways.
    pub liars: u32,
    /// Hosts, drawn among those that are neither seeds nor liars, that vanish, one after the other ...
    pub deaths: u32,
    /// ... from this time on ...
    pub deaths_from: Duration,
    /// ... to this one.
    pub deaths_until: Duration,
    /// How long after a death the others see its links broken: zero when its kernel says so.
    pub death_notice: Duration,
    /// Hosts, drawn among those that neither lie nor die, that leave as an agent that is told to stop does ...
    pub leaves: u32,
    /// ... one after the other, from this time on ...
    pub leaves_from: Duration,
    /// ... to this one.
    pub leaves_until: Duration,
    /// Hosts, drawn among those that are no seeds, whose disks are slow: a piece is there when it is written, and what
    /// the memory of an agent does not hold until then is not received ...
    pub slow_disks: u32,
    /// ... and write so many bytes per second. All others write as fast as they receive.
    pub slow_disk_bytes_per_s: u64,
    /// Times, evenly over `cuts_until`, at which a host drawn anew loses all its connections, those with the scheduler and
    /// the origin too ...
    pub cuts: u32,
    /// ... from the start to this time ...
    pub cuts_until: Duration,
    /// ... and gets no new ones for this long.
    pub cut_for: Duration,
    /// Of a million pieces that are written, those that are lost.
    pub lost_writes_ppm: u32,
    /// Of a million blocks that are read for others, those whose piece turns out rotten.
    pub rotten_reads_ppm: u32,
    /// Of a million blocks of the origin's bodies, those after which the connection breaks.
    pub broken_bodies_ppm: u32,
    /// When the scheduler vanishes, and when it starts again without a memory.
    pub scheduler_away: Option<(Duration, Duration)>,
    /// Policy.
    pub cluster: ClusterConfig,
    /// Policy.
    pub download: DownloadConfig,
    /// Policy.
    pub upload: UploadConfig,
    /// Every draw of the run.
    pub seed: u64,
    /// The command that repeats the run: printed when it fails. `None`: the scenario itself is printed.
    pub command: Option<String>,
    /// A run that takes longer in virtual time has failed.
    pub time_max: Duration,
}

impl Scenario {
    /// Equal hosts at `bytes_per_s` both ways, and an origin of the same rate; one task.
    ///
    /// # Panics
    /// When `length` is more than a task can have.
    #[must_use]
    pub fn equal_hosts(hosts: u32, length: u64, bytes_per_s: u64) -> Self {
        Self::image(hosts, &[length], bytes_per_s)
    }

    /// As [`Self::equal_hosts`], with a task for each length, all wanted at once: see [`IMAGE_LAYERS`].
    ///
    /// # Panics
    /// When a length is more than a task can have.
    #[must_use]
    pub fn image(hosts: u32, layers: &[u64], bytes_per_s: u64) -> Self {
        let form = |length: &u64| Geometry::of_length(*length).expect("a length that a task can have");
        Self {
            hosts,
            tasks: layers.iter().map(form).collect(),
            up_bytes_per_s: bytes_per_s,
            down_bytes_per_s: bytes_per_s,
            latency: Duration::from_micros(100),
            have_delay: Duration::from_millis(1),
            noise: Duration::ZERO,
            origin_bytes_per_s: bytes_per_s,
            origin_connection_bytes_per_s: 0,
            origin_connections_max: 0,
            zones: Zones::default(),
            slots: 2,
            seeds: 0,
            slow_seeds: 0,
            slow_hosts: 0,
            slow_factor: 1,
            start_spread: Duration::ZERO,
            liars: 0,
            deaths: 0,
            deaths_from: Duration::ZERO,
            deaths_until: Duration::ZERO,
            death_notice: Duration::ZERO,
            leaves: 0,
            leaves_from: Duration::ZERO,
            leaves_until: Duration::ZERO,
            slow_disks: 0,
            slow_disk_bytes_per_s: 0,
            cuts: 0,
            cuts_until: Duration::ZERO,
            cut_for: Duration::ZERO,
            lost_writes_ppm: 0,
            rotten_reads_ppm: 0,
            broken_bodies_ppm: 0,
            scheduler_away: None,
            cluster: ClusterConfig::default(),
            download: DownloadConfig::default(),
            upload: UploadConfig::default(),
            seed: 1,
            command: None,
            time_max: Duration::from_secs(3600),
        }
    }

    /// Bytes of all tasks.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.tasks.iter().map(|geometry| geometry.length()).sum()
    }

    /// Pieces of all tasks.
    #[must_use]
    pub fn piece_count(&self) -> u32 {
        self.tasks.iter().map(|geometry| geometry.piece_count()).sum()
    }

    /// The time below which no swarm can be: that of one copy at the slowest wire it must pass (a zone's border too: it
    /// is taken that no zone has the task from the start), or of all copies over all uplinks together.
    #[must_use]
    pub fn bound(&self) -> Duration {
        let wanting = self.hosts.saturating_sub(self.seeds);
        // Whoever is slow, only how many counts: among the seeds, and behind them.
        let is_slow = |host: u32| {
            if host < self.seeds { host < self.slow_seeds } else { host - self.seeds < self.slow_hosts }
        };
        let slower_rate = |rate: u64, host: u32| if is_slow(host) { rate / self.slow_factor } else { rate };
        let up = |host: u32| u128::from(slower_rate(self.up_bytes_per_s, host));
        let origin = match (self.origin_connections_max, self.origin_connection_bytes_per_s) {
            (0, _) | (_, 0) => self.origin_bytes_per_s,
            (count, rate) => self.origin_bytes_per_s.min(rate.saturating_mul(u64::from(count))),
        };
        let source: u128 = u128::from(origin) + (0..self.seeds).map(up).sum::<u128>();
        let all: u128 = source + (self.seeds..self.hosts).map(up).sum::<u128>();
        let down = (self.seeds..self.hosts).map(|host| u128::from(slower_rate(self.down_bytes_per_s, host))).min();
        let disk = (self.slow_disks > 0).then_some(u128::from(self.slow_disk_bytes_per_s));
        let down = down.into_iter().chain(disk).min();
        let length = u128::from(self.length()) * 1_000_000_000;
        let into_zone = (!self.zones.sizes.is_empty()).then(|| u128::from(self.zones.border_bytes_per_s));
        let nanos = [
            length / source.max(1),
            length / down.unwrap_or(u128::MAX).max(1),
            length * u128::from(wanting) / all.max(1),
            length / into_zone.unwrap_or(u128::MAX).max(1),
        ];
        Duration::from_nanos(nanos.into_iter().max().and_then(|nanos| u64::try_from(nanos).ok()).unwrap_or(u64::MAX))
    }
}

/// Says how to repeat a run that fails, wherever in it.
struct OnFailure<'a>(&'a Scenario);

impl Drop for OnFailure<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            match &self.0.command {
                Some(command) => eprintln!("repeat it with: {command}"),
                None => eprintln!("the run that failed: {:?}", self.0),
            }
        }
    }
}

/// Runs the scenario to its end.
///
/// # Panics
/// When a machine breaks an invariant, a byte is accepted twice, or the run does not end within `time_max`; how to
/// repeat the run is printed.
#[must_use]
pub fn run(scenario: &Scenario) -> Report {
    let began = std::time::Instant::now();
    let _guard = OnFailure(scenario);
    let mut report = world::World::new(scenario).run(None).0;
    report.wall_s = began.elapsed().as_secs_f64();
    report
}

/// The same, with at most [`SAMPLES_MAX`] samples of its course; `observe` sees them, and those that are thinned out
/// later, while it runs.
///
/// # Panics
/// As [`run`].
#[must_use]
pub fn run_observed(scenario: &Scenario, observe: &mut dyn FnMut(&Sample)) -> (Report, Vec<Sample>) {
    let began = std::time::Instant::now();
    let _guard = OnFailure(scenario);
    let sampler = series::Sampler::new(scenario.bound(), observe);
    let (mut report, samples) = world::World::new(scenario).run(Some(sampler));
    report.wall_s = began.elapsed().as_secs_f64();
    (report, samples)
}
