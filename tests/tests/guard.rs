//! An agent that hangs or dies is killed and started again by its guard, within two seconds; what must not happen around
//! that does not.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hawker_tests::cluster::{ask, clean};
use hawker_tests::nginx::{Behaviour, Nginx};
use hawker_tests::process::{Process, Scratch, child_of, wait_until};
use hawker_tests::{files, free_address, on_both_engines, workspace};
use rustix::process::{Pid, Signal, kill_process};

/// Generous: other tests run beside these, and now and then everything stands still.
const LIMIT: Duration = Duration::from_mins(2);

/// A guard with its agent, on ports of their own.
struct Guarded {
    guard: Process,
    http: SocketAddr,
    scratch: Scratch,
}

impl Guarded {
    fn start(engine: &str) -> Self {
        let (scratch, http) = (Scratch::new(), free_address());
        let guard = Process::start(scratch.path(), "agent", command(engine, http, &scratch));
        let mut guarded = Self { guard, http, scratch };
        guarded.wait_until_healthy();
        guarded
    }

    fn wait_until_healthy(&mut self) {
        let http = self.http;
        self.guard.wait_until(LIMIT, "healthy", || is_healthy(http));
    }

    /// The agent's process: the only child of the guard.
    fn agent(&self) -> Option<Pid> {
        child_of(self.guard.id())
    }

    /// The agent's process, once it is another one than `old`.
    fn next_agent(&self, old: Pid) -> Pid {
        let mut found = None;
        wait_until(LIMIT, "started again", || {
            found = self.agent().filter(|agent| *agent != old);
            found.is_some()
        });
        found.expect("it was there")
    }

    fn restarts(&self) -> Option<u64> {
        ask(&self.scratch.join("socket"), &["status"])?["guard"]["restarts"].as_u64()
    }
}

/// As a user starts it: with a guard.
fn command(engine: &str, http: SocketAddr, scratch: &Scratch) -> Command {
    let mut command = Command::new(workspace::hawker());
    command.args(["agent", "--peer-port", "0", "--http-port", &http.port().to_string(), "--engine", engine]);
    command.args(["--limit-disk", "1GiB", "--data-dir"]).arg(scratch.join("data"));
    command.arg("--socket").arg(scratch.join("socket"));
    clean(&mut command);
    command.env_remove("HAWKER_NO_GUARD");
    command
}

/// A probe that gives up soon: the kernel takes connections for a process that is stopped.
fn is_healthy(http: SocketAddr) -> bool {
    use std::io::{Read as _, Write as _};
    let ask = || {
        let mut socket = std::net::TcpStream::connect_timeout(&http, Duration::from_millis(200))?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        socket.write_all(b"GET /healthz HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")?;
        let mut answer = [0; 15];
        socket.read_exact(&mut answer)?;
        Ok::<_, std::io::Error>(&answer == b"HTTP/1.1 200 OK")
    };
    ask().unwrap_or(false)
}

fn is_alive(pid: Pid) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()));
    status.is_ok_and(|status| !status.contains("State:\tZ"))
}

fn signal(pid: Pid, signal: Signal) {
    kill_process(pid, signal).expect("our own agent");
}

#[test]
fn a_stopped_or_killed_agent_answers_again_soon() {
    on_both_engines("a_stopped_or_killed_agent_answers_again_soon", None, |engine| {
        let mut guarded = Guarded::start(engine);
        assert_eq!(guarded.restarts(), Some(0));
        for fault in [Signal::STOP, Signal::KILL, Signal::ABORT] {
            let (agent, before) = (guarded.agent().expect("an agent"), guarded.restarts());
            let start = Instant::now();
            signal(agent, fault);
            guarded.next_agent(agent);
            guarded.wait_until_healthy();
            println!("{engine}: {fault:?}: answers again after {:.2} s", start.elapsed().as_secs_f64());
            assert!(!is_alive(agent));
            // More than one when the directory of the killed one was not free at once.
            assert!(guarded.restarts() > before, "{before:?}");
        }
        let log = guarded.guard.stderr();
        assert!(log.contains("gave no sign of life for a second"), "{log}");
        assert!(log.matches("started again").count() >= 3, "{log}");
        assert_eq!(guarded.guard.stop(LIMIT).code(), Some(0));
    });
}

#[test]
fn an_agent_that_dies_again_and_again_is_started_more_and_more_slowly() {
    on_both_engines("an_agent_that_dies_again_and_again_is_started_more_and_more_slowly", None, |engine| {
        let mut guarded = Guarded::start(engine);
        for _ in 0..5 {
            let agent = guarded.agent().expect("an agent");
            signal(agent, Signal::KILL);
            guarded.next_agent(agent);
        }
        guarded.wait_until_healthy();
        let log = guarded.guard.stderr();
        for pause in ["pause=0ns", "pause=250ms", "pause=500ms", "pause=1s", "pause=2s"] {
            assert_eq!(log.matches(pause).count(), 1, "{pause}: {log}");
        }
    });
}

#[test]
fn a_guard_is_small_and_takes_its_agent_along() {
    on_both_engines("a_guard_is_small_and_takes_its_agent_along", None, |engine| {
        let guarded = Guarded::start(engine);
        let status = std::fs::read_to_string(format!("/proc/{}/status", guarded.guard.id())).expect("it runs");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a field of proc(5)");
            line.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).expect("a number")
        };
        println!("{engine}: the guard keeps {} KiB", field("RssAnon:"));
        assert_eq!(field("Threads:"), 1);
        assert!(field("RssAnon:") < 4096, "{status}");
        let agent = guarded.agent().expect("an agent");
        guarded.guard.kill();
        wait_until(LIMIT, "gone with its guard", || !is_alive(agent));
    });
}

#[test]
fn a_guard_that_stood_still_itself_kills_nobody() {
    on_both_engines("a_guard_that_stood_still_itself_kills_nobody", None, |engine| {
        let mut guarded = Guarded::start(engine);
        let agent = guarded.agent().expect("an agent");
        guarded.guard.signal(Signal::STOP);
        // Longer than an agent may be silent: time has to pass here, there is no event.
        std::thread::sleep(Duration::from_secs(3));
        guarded.guard.signal(Signal::CONT);
        // Both stopped, as a terminal or a frozen machine does it, and the agent is woken last.
        guarded.guard.signal(Signal::STOP);
        signal(agent, Signal::STOP);
        std::thread::sleep(Duration::from_secs(2));
        guarded.guard.signal(Signal::CONT);
        signal(agent, Signal::CONT);
        guarded.wait_until_healthy();
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(guarded.agent(), Some(agent), "{}", guarded.guard.stderr());
        assert_eq!(guarded.restarts(), Some(0));
    });
}

#[test]
fn what_cannot_work_ends_with_its_exit_code() {
    on_both_engines("what_cannot_work_ends_with_its_exit_code", None, |engine| {
        let (scratch, http) = (Scratch::new(), free_address());
        let run = |name: &str, more: &[&str]| {
            let mut command = command(engine, http, &scratch);
            command.args(more);
            Process::start(scratch.path(), name, command).wait(LIMIT)
        };
        let usage = run("usage", &["--config", "/does/not/exist"]);
        assert_eq!(usage.code(), Some(2), "{}", usage.stderr);
        let open = run("open", &["--advertise", "192.0.2.1"]);
        assert_eq!(open.code(), Some(2), "a cluster key is missing: {}", open.stderr);
        let _taken = std::net::TcpListener::bind(http).expect("the port");
        let taken = run("taken", &[]);
        assert_eq!(taken.code(), Some(1), "{}", taken.stderr);
        assert!(taken.stderr.contains(&http.port().to_string()), "it names the port: {}", taken.stderr);
    });
}

#[test]
fn signals_reach_the_agent_once_however_they_are_sent() {
    let test = "signals_reach_the_agent_once_however_they_are_sent";
    let obstacle = workspace::find_program("nginx").is_none().then_some("nginx is not installed");
    on_both_engines(test, obstacle, |engine| {
        // A service manager signals all processes of a service, and the guard passes on what it got.
        let guarded = Guarded::start(engine);
        let (get, _origin) = slow_get(&guarded.scratch);
        let agent = guarded.agent().expect("an agent");
        let mut guard = guarded.guard;
        signal(agent, Signal::TERM);
        guard.signal(Signal::TERM);
        assert_eq!(guard.wait(LIMIT).code(), Some(0));
        assert!(!is_alive(agent));
        assert_eq!(get.wait(LIMIT).code(), Some(0), "a running download was waited for");

        // The second one means it.
        let mut guarded = Guarded::start(engine);
        let (_get, _origin) = slow_get(&guarded.scratch);
        guarded.guard.signal(Signal::INT);
        // Two that wait for the guard at once would be one.
        std::thread::sleep(Duration::from_millis(500));
        guarded.guard.signal(Signal::INT);
        assert_eq!(guarded.guard.wait(LIMIT).code(), Some(130));
    });
}

/// A download that runs for three seconds.
fn slow_get(scratch: &Scratch) -> (Process, Nginx) {
    let root = scratch.join("root");
    std::fs::create_dir(&root).expect("room");
    files::write_random(&root.join("file"), 6 << 20, 7);
    let nginx = Nginx::start(scratch, free_address(), &root, Behaviour::default(), None);
    let mut command = Command::new(workspace::hawker());
    command.args(["get", &nginx.url("file"), "--limit", "2MiB/s", "-o"]).arg(scratch.join("output"));
    command.arg("--socket").arg(scratch.join("socket"));
    clean(&mut command);
    let get = Process::start(scratch.path(), "get", command);
    wait_until(LIMIT, "downloading", || {
        ask(&scratch.join("socket"), &["status"])
            .is_some_and(|status| status["tasks"][0]["bytes_have"].as_u64() > Some(0))
    });
    (get, nginx)
}

#[test]
fn nobody_who_reads_its_output_is_no_reason_to_end() {
    on_both_engines("nobody_who_reads_its_output_is_no_reason_to_end", None, |engine| {
        let (scratch, http) = (Scratch::new(), free_address());
        let mut command = command(engine, http, &scratch);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut guard = Child(command.spawn().expect("it starts"));
        wait_until(LIMIT, "healthy", || is_healthy(http));
        drop((guard.0.stdout.take(), guard.0.stderr.take()));
        let agent = child_of(guard.0.id()).expect("an agent");
        signal(agent, Signal::KILL);
        wait_until(LIMIT, "started again", || child_of(guard.0.id()).is_some_and(|again| again != agent));
        wait_until(LIMIT, "healthy again", || is_healthy(http));
        assert!(guard.0.try_wait().expect("a child").is_none());
        let status = ask(Path::new(&scratch.join("socket")), &["status"]).expect("a status");
        // More than one when the directory of the killed one was not free at once.
        assert!(status["guard"]["restarts"].as_u64() >= Some(1), "{status}");
    });
}

/// Gone with this value.
struct Child(std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
