//! A lab of network namespaces, made and removed by `perf-scripts/lab`.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::workspace;

/// What a lab should be like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub hosts: u32,
    /// As `tc` writes it, `0` is free.
    pub rate: &'static str,
    pub loss_percent: u32,
}

/// Hosts h1..hN and `origin`, each a network namespace with one shaped link. Gone when this value is.
#[derive(Debug)]
pub struct Lab {
    id: String,
    hosts: u32,
}

impl Lab {
    /// Why this machine can have no lab, `None` when it can.
    #[must_use]
    pub fn obstacle() -> Option<String> {
        if !rustix::process::geteuid().is_root() {
            return Some("network namespaces need root".to_owned());
        }
        let missing = ["ip", "tc", "nginx", "curl"].into_iter().find(|name| workspace::find_program(name).is_none());
        if let Some(name) = missing {
            return Some(format!("{name} is not installed"));
        }
        // Root in a container may lack the right to make namespaces or the kernel's tbf.
        let probe = Shape { hosts: 1, rate: "200mbit", loss_percent: 0 };
        Self::try_up(probe).err().map(|error| format!("no network namespaces here: {error}"))
    }

    /// Makes a lab.
    ///
    /// # Panics
    /// When it cannot be made, though [`Lab::obstacle`] saw none.
    #[must_use]
    pub fn up(shape: Shape) -> Self {
        Self::try_up(shape).unwrap_or_else(|error| panic!("the lab does not come up: {error}"))
    }

    fn try_up(shape: Shape) -> Result<Self, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!("t{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let output = script(&id)
            .args(["up", "-n", &shape.hosts.to_string(), "--rate", shape.rate])
            .args(["--loss", &shape.loss_percent.to_string()])
            .output()
            .map_err(|error| error.to_string())?;
        if output.status.success() {
            return Ok(Self { id, hosts: shape.hosts });
        }
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }

    /// What the names of its namespaces start with.
    #[must_use]
    pub fn prefix(&self) -> String {
        format!("hawker-{}-", self.id)
    }

    /// Names of its hosts, without the origin.
    #[must_use]
    pub fn hosts(&self) -> Vec<String> {
        (1..=self.hosts).map(|index| format!("h{index}")).collect()
    }

    /// The address of `host` or `origin`, by the rule of the script.
    #[must_use]
    pub fn address(&self, host: &str) -> String {
        match host.strip_prefix('h').and_then(|index| index.parse::<u32>().ok()) {
            Some(index) => format!("10.77.{}.{}", 1 + (index - 1) / 250, 1 + (index - 1) % 250),
            None => "10.77.0.1".to_owned(),
        }
    }

    /// A command that will run on `host`. Its pid is the program's own: `ip netns exec` becomes it.
    #[must_use]
    pub fn command(&self, host: &str, program: &Path) -> Command {
        let ip = workspace::find_program("ip").unwrap_or_else(|| "ip".into());
        let mut command = Command::new(ip);
        command.args(["netns", "exec", &format!("{}{host}", self.prefix())]).arg(program);
        command
    }

    /// The same with this machine's /sys: `ip netns exec` mounts another one, without the control groups that containers
    /// need.
    #[must_use]
    pub fn command_beside_cgroups(&self, host: &str, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}{host}", self.prefix())).arg(program);
        command
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        match script(&self.id).arg("down").output() {
            Ok(output) if output.status.success() => {}
            left => eprintln!("the lab {} is still there: {left:?}", self.id),
        }
    }
}

fn script(id: &str) -> Command {
    let mut command = Command::new("bash");
    command.arg(workspace::root().join("perf-scripts/lab")).args(["--id", id]);
    command
}
