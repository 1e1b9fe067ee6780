//! Limits: thousands of slow connections, no descriptors left, little memory, small socket buffers, a thousand downloads
//! at once. Established work goes on, what is too much is refused with words, and nobody exits.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hawker_tests::caller::{Answer, get_all};
use hawker_tests::crowd::{Crowd, raise_descriptors};
use hawker_tests::island::Island;
use hawker_tests::liar::{Identity, Link, Session};
use hawker_tests::loopback::{CLUSTER_KEY, Loopback, hawker_after};
use hawker_tests::memory::MemoryGroup;
use hawker_tests::process::{Process, Scratch, wait_until};
use hawker_tests::{files, http_get, is_full, workspace};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

const LIMIT: Duration = Duration::from_mins(2);

fn on_both_engines(test: &str, check: impl Fn(&'static str)) {
    let obstacle = workspace::find_program("nginx").is_none().then_some("nginx is not installed");
    hawker_tests::on_both_engines(test, obstacle, check);
}

/// A figure of /proc/PID/status, in bytes.
fn status_bytes(pid: u32, names: &[&str]) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let kib = |name: &&str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(*name)?.strip_prefix(':'));
        line.expect("Linux says so").trim().trim_end_matches(" kB").parse().expect("a number")
    };
    names.iter().map(kib).sum::<u64>() * 1024
}

/// What counts as an agent's memory.
fn memory_bytes(pid: u32) -> u64 {
    status_bytes(pid, &["RssAnon", "RssShmem", "VmPin"])
}

fn descriptors(pid: u32) -> u64 {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count() as u64
}

/// CPU time that a process has used, user and system.
fn cpu_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().expect("ticks")).sum();
    // USER_HZ is 100 wherever Linux runs.
    Duration::from_millis(ticks * 10)
}

/// The most memory that it is seen to take while `work` runs.
fn peak_memory<T>(pids: &[u32], work: impl FnOnce() -> T) -> (T, u64) {
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut peak = 0;
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                peak = pids.iter().map(|pid| memory_bytes(*pid)).max().unwrap_or(0).max(peak);
                std::thread::sleep(Duration::from_millis(20));
            }
            peak
        });
        let done = work();
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        (done, watch.join().expect("a figure"))
    })
}

/// Connections of a crowd: R8.
const SLOW: usize = 10_000;

#[test]
fn ten_thousand_slow_connections_keep_nobody_out() {
    on_both_engines("ten_thousand_slow_connections", |engine| {
        raise_descriptors(20_000);
        let mut cluster = Loopback::start(engine, 2);
        let long = files::random_bytes(12 << 20, 9_001);
        cluster.publish("long", &long);
        // Two seconds at least: established when the flood comes, and long not over when it is there.
        let running = cluster.start_get_with(0, "long", &long, &["--limit", "2MiB"]);
        wait_until(LIMIT, "running", || cluster.ask(0, &["status"])["bytes"]["origin"].as_u64() > Some(0));

        let pids = [cluster.agent(0).id(), cluster.scheduler_process().id()];
        let rest = pids.map(memory_bytes);
        let [peers, http] = cluster.listeners(0);
        let start = Instant::now();
        let crowd = Crowd::gather(&[peers, http, cluster.scheduler()], SLOW);
        wait_until(LIMIT, "crowded", || crowd.opened() >= SLOW);
        let crowded = start.elapsed();
        let ((), peak) = peak_memory(&pids, || {
            assert_open_to_members(engine, &cluster, "crowded", 9_000);
            let _right = cluster.assert_right(0, "long", &long, &running.wait(LIMIT));
        });
        println!(
            "{engine}: crowd of {SLOW} in {crowded:.1?}, {} opened; all served after {:.1?}; agent {} and scheduler {} \
             descriptors; memory {} and {} KiB at first, at most {} KiB",
            crowd.opened(),
            start.elapsed(),
            descriptors(pids[0]),
            descriptors(pids[1]),
            rest[0] / 1024,
            rest[1] / 1024,
            peak / 1024,
        );
        assert!(peak < 256 << 20, "{peak} bytes");
        assert!(cluster.agent(0).is_running() && cluster.scheduler_process().is_running());
    });
}

/// Members, probes and commands get what they ask for.
fn assert_open_to_members(engine: &str, cluster: &Loopback, name: &str, seed: u64) {
    let [peers, http] = cluster.listeners(0);
    let content = &files::random_bytes((2 << 20) + 1, seed);
    cluster.publish(name, content);
    let _first = cluster.get(0, name, content, LIMIT);
    let report = cluster.get(1, name, content, LIMIT);
    let task = report["task"].as_str().expect("a task").parse().expect("an id");
    // One that is sent away comes again, as agents do.
    let mut link = again("a link", || Link::dial(peers, &Identity::new(2, CLUSTER_KEY)).ok());
    link.assert_serves(1, task, content);
    again("a session", || {
        let session = Session::join(cluster.scheduler(), &Identity::new(3, CLUSTER_KEY), peers);
        let deadline = Instant::now() + Duration::from_secs(5);
        while !session.is_welcome() && !session.is_over() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        session.is_welcome().then_some(())
    });
    assert!(http_get(http, "/healthz", "").ends_with("ok\n"), "{engine}: health");
    assert!(http_get(cluster.scheduler(), "/healthz", "").ends_with("ok\n"), "{engine}: the scheduler's health");
}

fn again<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(done) = attempt() {
            return done;
        }
        assert!(Instant::now() < deadline, "{what}: never");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn too_few_descriptors_are_named_at_start_and_a_soft_limit_is_raised() {
    on_both_engines("too_few_descriptors", |engine| {
        let scratch = Scratch::new();
        let start = |name: &str, line: &str, arguments: &[&str]| {
            let mut command = hawker_after(line);
            command.args(arguments).arg("--data-dir").arg(scratch.join(name));
            hawker_tests::cluster::clean(&mut command);
            Process::start(scratch.path(), name, command)
        };
        let socket = scratch.join("socket");
        let socket = socket.to_str().expect("text");
        let agent = ["agent", "--peer-port", "0", "--http-port", "0", "--limit-disk", "1GiB", "--socket", socket];
        let agent = [&agent[..], &["--engine", engine]].concat();
        let scheduler = ["scheduler", "--listen", "127.0.0.1:0"];
        for (kind, arguments) in [("agent", &agent[..]), ("scheduler", &scheduler[..])] {
            let ended = start(&format!("{kind}-small"), "ulimit -n 64", arguments).wait(LIMIT);
            assert_eq!(ended.code(), Some(1), "{engine} {kind}: {}", ended.stderr);
            assert!(
                ended.stderr.contains("may open 64 files") && ended.stderr.contains("ulimit -n"),
                "{}",
                ended.stderr
            );
            let mut raised = start(&format!("{kind}-raised"), "ulimit -S -n 64 && ulimit -H -n 2048", arguments);
            raised.wait_until(LIMIT, "listening", || false_until_listening(&raised_stdout(&scratch, kind)));
            let limits = std::fs::read_to_string(format!("/proc/{}/limits", raised.id())).expect("it runs");
            let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
            assert_eq!(line.split_whitespace().nth(3), Some("2048"), "{line}");
            assert_eq!(raised.stop(LIMIT).code(), Some(0));
        }
    });
}

fn raised_stdout(scratch: &Scratch, kind: &str) -> PathBuf {
    scratch.join(&format!("{kind}-raised.stdout"))
}

fn false_until_listening(stdout: &Path) -> bool {
    std::fs::read_to_string(stdout).is_ok_and(|text| text.contains("listens at"))
}

fn set_limit(pid: u32, current: u64, maximum: u64) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
    let limit = Rlimit { current: Some(current), maximum: Some(maximum) };
    prlimit(Some(pid), Resource::Nofile, limit).expect("our own child");
}

#[test]
fn without_descriptors_listeners_wait_and_go_on() {
    on_both_engines("without_descriptors", |engine| {
        raise_descriptors(4_096);
        // Few enough that the crowd would take them all if it could.
        let mut cluster = Loopback::start_after(engine, 2, "ulimit -n 160", &["ulimit -n 256"]);
        let [peers, http] = cluster.listeners(0);
        let to = [peers, http, cluster.scheduler()];
        let crowd = Crowd::gather(&to, 1_500);
        wait_until(LIMIT, "crowded", || crowd.opened() >= 1_500);
        assert_open_to_members(engine, &cluster, "crowded", 9_100);
        let pids = [cluster.agent(0).id(), cluster.scheduler_process().id()];
        println!("{engine}: {} and {} descriptors, limits 256 and 160", descriptors(pids[0]), descriptors(pids[1]));
        drop(crowd);

        // None at all, whatever anybody plans.
        for (pid, maximum) in pids.into_iter().zip([256, 160]) {
            set_limit(pid, 16, maximum);
        }
        let began = pids.map(cpu_time);
        let crowd = Crowd::gather(&to, 60);
        let complaints =
            [(0, "accepting a peer failed"), (0, "the HTTP port accepts nobody"), (1, "cannot accept a connection")];
        wait_until(LIMIT, "out of descriptors", || {
            let logs = [cluster.agent(0).stderr(), cluster.scheduler_process().stderr()];
            complaints.iter().all(|(process, text)| logs[*process].contains(text))
        });
        let window = Instant::now();
        std::thread::sleep(Duration::from_secs(2));
        for ((pid, began), what) in pids.into_iter().zip(began).zip(["agent", "scheduler"]) {
            let used = cpu_time(pid) - began;
            println!("{engine}: {what} without descriptors: {used:.2?} CPU in {:.1?}", window.elapsed());
            assert!(used < Duration::from_millis(1_500), "{what} spins: {used:?}");
        }
        drop(crowd);
        for (pid, maximum) in pids.into_iter().zip([256, 160]) {
            set_limit(pid, maximum, maximum);
        }
        assert_open_to_members(engine, &cluster, "after", 9_101);
        assert!(cluster.agent(0).is_running() && cluster.scheduler_process().is_running());
    });
}

/// Content of many files, cut from one piece of noise.
struct Files {
    noise: Vec<u8>,
    lengths: Vec<usize>,
}

impl Files {
    /// Small, medium and large ones, `count` in all: 30 MiB for 400, 3 GiB for 1,000 at full size.
    fn mixed(count: usize) -> Self {
        let (large, small) = if is_full() { (256 << 20, 1 << 20) } else { (4 << 20, 48 << 10) };
        let length = |index: usize| match index % 100 {
            0 => large + index,
            1 => (1 << 20) + index,
            _ => 1 + (index * 7_919) % small,
        };
        Self { noise: files::random_bytes(large + 2 * count, 9_200), lengths: (0..count).map(length).collect() }
    }

    fn content(&self, index: usize) -> &[u8] {
        &self.noise[index..][..self.lengths[index]]
    }

    fn publish(&self, cluster: &Loopback) -> Vec<String> {
        let name = |index: usize| format!("many-{index}");
        (0..self.lengths.len()).for_each(|index| cluster.publish(&name(index), self.content(index)));
        (0..self.lengths.len()).map(|index| cluster.nginx().url(&name(index))).collect()
    }

    /// What a store holds for the answers; how many were refused, all of them with `reason`.
    fn assert_right(&self, who: &str, answers: &[Answer], reason: &str) -> usize {
        let mut refused = 0;
        for (index, answer) in answers.iter().enumerate() {
            match answer {
                Answer::Done(done) => {
                    assert_eq!(done.length, self.lengths[index] as u64, "{who}, {index}");
                    let stored = std::fs::read(&done.sealed_path);
                    let stored =
                        stored.unwrap_or_else(|error| panic!("{who}, {index}: {:?}: {error}", done.sealed_path));
                    assert!(stored == self.content(index), "{who}, {index}: wrong bytes in {}", done.sealed_path);
                }
                Answer::Refused(text) if !reason.is_empty() && text.contains(reason) => refused += 1,
                other => panic!("{who}, {index}: {other:?}"),
            }
        }
        refused
    }
}

/// More than run at a time, in any case; a thousand at full size.
fn many() -> usize {
    if is_full() { 1_000 } else { 400 }
}

#[test]
fn a_thousand_downloads_fit_in_256_mib() {
    let test = "a_thousand_downloads_fit";
    if let Err(obstacle) = MemoryGroup::new(256 << 20) {
        return hawker_tests::skip(test, &obstacle);
    }
    on_both_engines(test, |engine| {
        let group = MemoryGroup::new(256 << 20).expect("just tried");
        let peak = many_downloads_and_a_crowd(engine, &group.line());
        println!(
            "{engine}: group's maximum {} KiB with the page cache",
            group.figure("memory.max_usage_in_bytes").trim().parse::<u64>().expect("bytes") / 1024,
        );
        assert_eq!(group.kills(), 0, "somebody was killed");
        assert!(peak < 256 << 20, "at most {peak} bytes");
        if is_full() {
            // Nothing keeps it small but itself.
            raise_descriptors(DESCRIPTORS_ENOUGH);
            let peak = many_downloads_and_a_crowd(engine, &format!("ulimit -n {DESCRIPTORS_ENOUGH}"));
            assert!(peak < 256 << 20, "without a cgroup at most {peak} bytes");
        }
    });
}

/// Descriptors for as many downloads, links and commands as an agent takes at all.
const DESCRIPTORS_ENOUGH: u64 = 20_000;

/// Many downloads at once, by an agent that starts after `line`, beside a child and a thousand slow connections. All are
/// right. Returns the most memory that the agent took.
fn many_downloads_and_a_crowd(engine: &str, line: &str) -> u64 {
    let many = many();
    raise_descriptors(8_192);
    let mut cluster = Loopback::start_after(engine, 2, ":", &[line]);
    let pid = cluster.agent(0).id();
    let rest = memory_bytes(pid);
    let files = Files::mixed(many);
    let urls = files.publish(&cluster);
    let [peers, http] = cluster.listeners(0);
    let _crowd = Crowd::gather(&[peers, http], 1_000);
    let start = Instant::now();
    let limit = if is_full() { LIMIT * 5 } else { LIMIT * 2 };
    let ((own, child), peak) = peak_memory(&[pid], || {
        std::thread::scope(|scope| {
            let child = scope.spawn(|| get_all(&cluster.socket(1), &urls[..many / 10], limit));
            (get_all(&cluster.socket(0), &urls, limit), child.join().expect("no panic"))
        })
    });
    println!(
        "{engine}: {many} downloads in {:.1?}; at rest {} KiB, at most {} KiB; {} descriptors",
        start.elapsed(),
        rest / 1024,
        peak / 1024,
        descriptors(pid),
    );
    assert_eq!(files.assert_right(engine, &own, ""), 0);
    assert_eq!(files.assert_right("child", &child, ""), 0);
    assert!(cluster.agent(0).is_running());
    assert!(rest < 20 << 20, "at rest {rest}");
    peak
}

/// So many on few descriptors: most are refused.
const MANY: usize = 1_000;

#[test]
fn a_thousand_downloads_on_few_descriptors_end_right_or_with_words() {
    on_both_engines("a_thousand_downloads_on_few", |engine| {
        raise_descriptors(8_192);
        let mut cluster = Loopback::start_after(engine, 1, ":", &["ulimit -n 512"]);
        let long = files::random_bytes(8 << 20, 9_300);
        cluster.publish("long", &long);
        let running = cluster.start_get_with(0, "long", &long, &["--limit", "2MiB"]);
        wait_until(LIMIT, "running", || cluster.ask(0, &["status"])["bytes"]["origin"].as_u64() > Some(0));
        let files = Files { noise: files::random_bytes(256 << 10, 9_301), lengths: vec![128 << 10; MANY] };
        let urls = files.publish(&cluster);
        let start = Instant::now();
        let answers = get_all(&cluster.socket(0), &urls, LIMIT);
        let refused = files.assert_right(engine, &answers, "open files");
        println!("{engine}: {} of {MANY} in {:.1?}, {refused} refused", MANY - refused, start.elapsed());
        assert!(refused < MANY, "none was served");
        let _right = cluster.assert_right(0, "long", &long, &running.wait(LIMIT));
        // Whoever was refused and comes again is served.
        let answers = get_all(&cluster.socket(0), &urls[..50], LIMIT);
        assert!(answers.iter().all(|answer| matches!(answer, Answer::Done(_))), "{answers:?}");
        assert!(cluster.agent(0).is_running());
    });
}

#[test]
fn small_socket_buffers_stall_nothing() {
    let test = "small_socket_buffers";
    if let Some(obstacle) = Island::obstacle() {
        return hawker_tests::skip(test, &obstacle);
    }
    on_both_engines(test, |engine| {
        let island = Island::up(&[], "127.0.0.1 localhost\n");
        island.run(|| {
            for name in ["tcp_wmem", "tcp_rmem"] {
                std::fs::write(format!("/proc/sys/net/ipv4/{name}"), "4096 4096 4096").expect("an island's own");
            }
            let cluster = Loopback::start(engine, 3);
            let content = files::random_bytes((12 << 20) + 1, 9_400);
            cluster.publish("file", &content);
            let start = Instant::now();
            let gets: Vec<Process> = (0..2).map(|index| cluster.start_get(index, "file", &content)).collect();
            for (index, get) in (0..).zip(gets) {
                let _right = cluster.assert_right(index, "file", &content, &get.wait(LIMIT));
            }
            let together = start.elapsed();
            let report = cluster.get(2, "file", &content, LIMIT);
            println!(
                "{engine}: two at once {together:.1?}, a third from them {:.1?}: {report}",
                start.elapsed() - together
            );
        });
    });
}
