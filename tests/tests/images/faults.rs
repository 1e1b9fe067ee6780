//! An agent that dies or hangs in the middle of a pull costs that pull a second or two.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use hawker_tests::cluster::{ask, clean};
use hawker_tests::containerd::Containerd;
use hawker_tests::images::Image;
use hawker_tests::process::{Ended, Process, Scratch, wait_until};
use hawker_tests::registry::{Access, Registry, Wish, fill};
use hawker_tests::{free_address, on_both_engines, workspace};
use rustix::process::{Pid, Signal, kill_process};

use super::{obstacle, runtime};
use crate::swarm::setup;

const LIMIT: Duration = Duration::from_mins(2);
const MIB: usize = 1 << 20;

/// A guarded agent alone on loopback, which is the mirror of one registry.
pub(super) struct Mirror {
    pub(super) guard: Process,
    pub(super) http: SocketAddr,
    socket: PathBuf,
}

impl Mirror {
    /// `registry`: lines of its section in the settings.
    pub(super) fn start(scratch: &Scratch, engine: &str, registries: &str, more: &[&str]) -> Self {
        let (http, socket) = (free_address(), scratch.join("socket"));
        let settings = scratch.join("agent.toml");
        std::fs::write(&settings, format!("[mirror]\n{registries}")).expect("room");
        let mut command = Command::new(workspace::hawker());
        command.args(["agent", "--peer-port", "0", "--http-port", &http.port().to_string(), "--engine", engine]);
        command.args(["--limit-disk", "8GiB", "--config"]).arg(settings).args(more);
        command.arg("--data-dir").arg(scratch.join("data")).arg("--socket").arg(&socket);
        clean(&mut command);
        command.env_remove("HAWKER_NO_GUARD");
        // Helpers for credentials, say.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", scratch.join("bin").display()));
        let mut guard = Process::start(scratch.path(), "agent", command);
        guard.wait_until(LIMIT, "answering", || ask(&socket, &["status"]).is_some());
        Self { guard, http, socket }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.http)
    }

    /// The JSON answer to a command.
    pub(super) fn ask(&self, arguments: &[&str]) -> serde_json::Value {
        ask(&self.socket, arguments).unwrap_or_else(|| panic!("the agent answers {arguments:?}"))
    }

    /// What a command prints for people.
    pub(super) fn tell(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(workspace::hawker());
        command.args(arguments).arg("--socket").arg(&self.socket);
        clean(&mut command);
        let output = command.output().expect("it runs");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What `hawker get` by this agent ends with.
    pub(super) fn get(&self, scratch: &Scratch, url: &str) -> Ended {
        let mut command = Command::new(workspace::hawker());
        command.args(["get", url, "-o"]).arg(scratch.join("output")).arg("--socket").arg(&self.socket);
        clean(&mut command);
        Process::start(scratch.path(), "get", command).wait(LIMIT)
    }

    /// Bytes that came from registries.
    fn origin_bytes(&self) -> u64 {
        ask(&self.socket, &["status"]).and_then(|status| status["bytes"]["origin"].as_u64()).unwrap_or(0)
    }
}

#[test]
fn a_pull_survives_an_agent_that_is_killed_or_stopped() {
    let test = "a_pull_survives_an_agent_that_is_killed_or_stopped";
    on_both_engines(test, obstacle().as_deref(), |engine| {
        let scratch = Scratch::new();
        let storage = scratch.join("storage");
        let image = Image::new(3, &[9 * MIB, 7 * MIB]);
        fill(
            &scratch,
            &storage,
            &[
                ("team/app:v1", &image),
                ("team/app:v2", &Image::new(4, &[9 * MIB, 7 * MIB])),
                ("team/app:v3", &Image::new(5, &[9 * MIB, 7 * MIB])),
            ],
        );
        let wish = Wish { address: free_address(), tls: None, access: Access::Everybody, lab: None };
        let registry = Registry::start(&scratch, &storage, &wish);
        let section = format!("[[mirror.registry]]\nname = '{}'\ninsecure = true\n", registry.name());
        // Four seconds for what is left when something happens.
        let mirror = Mirror::start(&scratch, engine, &section, &["--limit-origin", "4MiB/s"]);
        let containerd = Containerd::start(&scratch, "containerd", None);
        let own = Containerd::registries(&scratch, "containerd").join(registry.name().replace(':', "_") + "_");
        std::fs::create_dir_all(&own).expect("room");
        std::fs::write(own.join("hosts.toml"), format!("server = 'http://{}'\n", registry.name())).expect("room");
        let arguments = ["containerd", "--mirror", &mirror.url(), "--registry", &registry.name(), "--config"];
        setup(&arguments, &scratch.join("containerd/config.toml"));

        for (tag, fault) in [("v1", None), ("v2", Some(Signal::KILL)), ("v3", Some(Signal::STOP))] {
            let reference = format!("{}/team/app:{tag}", registry.name());
            let before = mirror.origin_bytes();
            let start = Instant::now();
            std::thread::scope(|scope| {
                let pull = scope.spawn(|| runtime().block_on(containerd.pull(&reference, None)));
                if let Some(fault) = fault {
                    wait_until(LIMIT, "half way", || mirror.origin_bytes() > before + 4 * MIB as u64);
                    let agent = agent_of(&mirror.guard);
                    kill_process(agent, fault).expect("our own agent");
                }
                let pulled = pull.join().expect("a pull that ends");
                pulled.unwrap_or_else(|error| panic!("{engine}, {fault:?}: {error}\n{}", containerd.log()));
            });
            println!("{engine}: {fault:?}: pulled in {:.2} s", start.elapsed().as_secs_f64());
            if tag == "v1" {
                containerd.assert_runs(&reference, &image);
            }
            wait_until(LIMIT, "answering again", || ask(&mirror.socket, &["status"]).is_some());
        }
    });
}

/// The agent's process: the only child of its guard.
fn agent_of(guard: &Process) -> Pid {
    hawker_tests::process::child_of(guard.id()).expect("an agent")
}
