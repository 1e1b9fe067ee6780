//! The scheduler dies, stands still, is cut off, or forgets everything, while agents download: what runs and what is
//! cached ends with the right bytes, new tasks work, and once it is there all is as before.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use hawker_tests::cluster::{Cluster, Wish};
use hawker_tests::lab::Lab;
use hawker_tests::process::{Process, wait_until};
use hawker_tests::{files, on_both_engines, workspace};
use rustix::process::Signal;

const LIMIT: Duration = Duration::from_mins(2);
const HOSTS: u32 = 3;
/// Six clusters share two cores; their links must be what holds them up, or a fault comes too late.
const RATE: &str = "24mbit";
/// Blocks of several pieces, and one byte: 8 s at that rate.
const RUNNING_BYTES: u64 = (20 << 20) + 1;
const SMALL_BYTES: u64 = (2 << 20) + 1;
/// Longer than any timeout of a session: an agent gives up after 8 s of silence, the scheduler after 10 s.
const AWAY: Duration = Duration::from_secs(12);

/// What befalls the scheduler in the middle of a download.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// kill -9, and nothing for a while.
    Killed,
    /// SIGSTOP: its connections stay.
    Stopped,
    /// What agents send does not arrive.
    Deaf,
    /// What it sends does not arrive.
    Mute,
    /// kill -9 and a new start with its directory.
    Restarted,
    /// kill -9 and a new start without it: another key, and the same epochs again.
    Forgetful,
}

impl Fault {
    const ALL: [Self; 6] = [Self::Killed, Self::Stopped, Self::Deaf, Self::Mute, Self::Restarted, Self::Forgetful];

    /// Whether it stays away until somebody does something.
    fn is_lasting(self) -> bool {
        !matches!(self, Self::Restarted | Self::Forgetful)
    }

    fn strike(self, cluster: &mut Cluster) {
        match self {
            Self::Killed => cluster.kill_scheduler(),
            Self::Stopped => cluster.scheduler().signal(Signal::STOP),
            Self::Deaf | Self::Mute => cluster.partition_scheduler(self == Self::Deaf, true),
            Self::Restarted | Self::Forgetful => {
                cluster.kill_scheduler();
                if self == Self::Forgetful {
                    cluster.forget_scheduler();
                }
                cluster.start_scheduler();
            }
        }
    }

    fn heal(self, cluster: &mut Cluster) {
        match self {
            Self::Killed => cluster.start_scheduler(),
            Self::Stopped => cluster.scheduler().signal(Signal::CONT),
            Self::Deaf | Self::Mute => cluster.partition_scheduler(self == Self::Deaf, false),
            Self::Restarted | Self::Forgetful => {}
        }
    }
}

fn obstacle() -> Option<String> {
    let has_iptables = workspace::find_program("iptables").is_some();
    Lab::obstacle().or_else(|| (!has_iptables).then(|| "iptables is not installed".to_owned()))
}

#[test]
fn whatever_befalls_the_scheduler_no_task_fails_and_all_is_well_afterwards() {
    on_both_engines("whatever_befalls_the_scheduler", obstacle().as_deref(), |engine| {
        let only = std::env::var("HAWKER_FAULT").ok();
        let faults =
            Fault::ALL.into_iter().filter(|fault| only.as_ref().is_none_or(|only| *only == format!("{fault:?}")));
        // All at once: most of it is waiting.
        std::thread::scope(|scope| {
            for fault in faults {
                scope.spawn(move || Scene::start(engine, fault).play());
            }
        });
    });
}

/// A cluster, what befalls its scheduler, and the files at its origin.
struct Scene {
    engine: &'static str,
    fault: Fault,
    cluster: Cluster,
}

impl Scene {
    fn start(engine: &'static str, fault: Fault) -> Self {
        let cluster = Cluster::start(Wish::new(HOSTS, RATE, engine));
        Self { engine, fault, cluster }
    }

    fn play(mut self) {
        let fault = self.fault;
        let cached = self.publish("cached", SMALL_BYTES, 1);
        self.get_all(&cached, &[0]);
        let running = self.publish("running", RUNNING_BYTES, 2);
        let fresh = self.publish("fresh", SMALL_BYTES, 3);

        let everybody = [0, 1, 2];
        let gets = everybody.map(|index| self.start_get(&running, index));
        let started = Instant::now();
        wait_until(LIMIT, "in the middle", || {
            everybody.iter().all(|index| self.bytes_have(*index) > RUNNING_BYTES / 5)
        });
        let had: Vec<u64> = everybody.iter().map(|index| self.bytes_have(*index)).collect();
        fault.strike(&mut self.cluster);
        let struck = Instant::now();
        // While it is away, or just back: what is cached, what others have, what is new.
        self.get_all(&cached, &[0, 1]);
        self.get_all(&fresh, &[0, 1]);
        let fresh_took = struck.elapsed();
        for (index, get) in gets.into_iter().enumerate() {
            self.check(&running, index, get);
        }
        let took = started.elapsed();
        if fault.is_lasting() {
            std::thread::sleep(AWAY.saturating_sub(struck.elapsed()));
            for index in everybody {
                self.cluster.wait_for_scheduler(index, false);
            }
        }
        fault.heal(&mut self.cluster);
        let healed = Instant::now();
        for index in everybody {
            self.cluster.wait_until_connected(index);
        }
        let reconnected = healed.elapsed();
        let of_later = self.get_what_is_new();
        // What came without the scheduler is of use to those who come later.
        self.get_all(&fresh, &[2]);
        self.get_all(&cached, &[2]);
        self.get_all(&running, &everybody);
        let again = if fault == Fault::Forgetful { self.join_anew(&running) } else { 0.0 };

        let ratios = [&running, &cached, &fresh].map(|file| self.ratio(file));
        println!(
            "{} {fault:?}: struck at {had:?} of {RUNNING_BYTES}, running took {took:.1?}, a new task {fresh_took:.1?}, \
             back after {reconnected:.1?}; origin_ratio: running {:.2}, cached {:.2}, new while away {:.2}, afterwards {of_later:.2?}",
            self.engine, ratios[0], ratios[1], ratios[2],
        );
        let [of_running, of_cached, of_fresh] = ratios;
        assert!(had.iter().all(|had| *had < RUNNING_BYTES), "{fault:?}: it was over before the fault");
        assert!(
            of_later.iter().any(|ratio| *ratio <= 1.05),
            "{fault:?}: each byte leaves the origin once again, not {of_later:.2?} times"
        );
        // Without a scheduler each host fetches a new task for itself; the third asks when all is well again.
        assert!(of_fresh <= 3.5 && of_cached <= 3.5, "{fault:?}: cached {of_cached:.2}, new {of_fresh:.2}");
        let of_running = of_running - again;
        assert!(of_running <= 1.5, "{fault:?}: running tasks go on with what the hosts have, not {of_running:.2}");
        assert!(again <= 1.05, "{fault:?}: a new host gets what there is, not {again:.2}");
    }

    /// How often new files leave the origin, until one leaves it once: on a busy machine a host may lose patience with a
    /// scheduler that has just come back, and go alone.
    fn get_what_is_new(&self) -> Vec<f64> {
        let mut ratios = Vec::new();
        for (name, seed) in [("later", 4), ("later-still", 5), ("last", 6)] {
            let file = self.publish(name, SMALL_BYTES, seed);
            self.get_all(&file, &[0, 1, 2]);
            ratios.push(self.ratio(&file));
            if ratios.last().is_some_and(|ratio| *ratio <= 1.05) {
                break;
            }
        }
        ratios
    }

    fn ratio(&self, file: &Content) -> f64 {
        self.cluster.nginx().body_bytes(file.name) as f64 / file.length as f64
    }

    /// A host that never knew the earlier scheduler has no use for what was vouched for under it. Returns how much of the
    /// file it costs the origin.
    fn join_anew(&mut self, file: &Content) -> f64 {
        self.cluster.kill_agent(2);
        self.cluster.forget_agent(2);
        self.cluster.start_agent(2);
        self.cluster.wait_until_connected(2);
        let before = self.cluster.nginx().body_bytes(file.name);
        let joined = Instant::now();
        self.get_all(file, &[2]);
        let again = (self.cluster.nginx().body_bytes(file.name) - before) as f64 / file.length as f64;
        println!(
            "{} {:?}: a new host {:.1?}, {again:.2} of it from the origin",
            self.engine,
            self.fault,
            joined.elapsed()
        );
        again
    }

    fn publish(&self, name: &'static str, length: u64, seed: u64) -> Content {
        let digest = files::write_random(&self.cluster.root().join(name), length, seed);
        Content { name, length, digest }
    }

    fn start_get(&self, file: &Content, index: usize) -> Process {
        let digest = format!("sha256:{}", file.digest);
        let url = self.cluster.nginx().url(file.name);
        self.cluster.get_to(index, &url, &self.output(file, index), &["--digest", &digest, "--overwrite"])
    }

    fn get_all(&self, file: &Content, hosts: &[usize]) {
        let gets: Vec<_> = hosts.iter().map(|index| (*index, self.start_get(file, *index))).collect();
        for (index, get) in gets {
            self.check(file, index, get);
        }
    }

    fn check(&self, file: &Content, index: usize, get: Process) {
        let ended = get.wait(LIMIT);
        let (fault, name) = (self.fault, file.name);
        assert_eq!(ended.code(), Some(0), "{fault:?}, {name} on host {index}: {}", ended.stderr);
        let digest = files::sha256(&self.output(file, index)).expect("an output");
        assert_eq!(digest, file.digest, "{fault:?}, {name} on host {index}: wrong bytes");
    }

    fn output(&self, file: &Content, index: usize) -> PathBuf {
        self.cluster.scratch().join(&format!("{}-{index}", file.name))
    }

    fn bytes_have(&self, index: usize) -> u64 {
        let status = self.cluster.status(index);
        let tasks = status["tasks"].as_array().into_iter().flatten();
        tasks.filter(|task| task["bytes"] == RUNNING_BYTES).filter_map(|task| task["bytes_have"].as_u64()).sum()
    }
}

struct Content {
    name: &'static str,
    length: u64,
    digest: String,
}
