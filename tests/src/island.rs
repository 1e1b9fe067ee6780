//! A network namespace that reaches nothing but itself: any address may be its own, public ones too.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::workspace;

/// Gone when this value is.
#[derive(Debug)]
pub struct Island {
    name: String,
}

impl Island {
    /// Why this machine can have none, `None` when it can.
    #[must_use]
    pub fn obstacle() -> Option<String> {
        if !rustix::process::geteuid().is_root() {
            return Some("network namespaces need root".to_owned());
        }
        Self::try_up(&[], "").err()
    }

    /// An island with `addresses` (each with its prefix length) on its loopback, whose processes read `hosts` as
    /// `/etc/hosts`.
    ///
    /// # Panics
    /// When it cannot be made, though [`Self::obstacle`] saw nothing.
    #[must_use]
    pub fn up(addresses: &[&str], hosts: &str) -> Self {
        Self::try_up(addresses, hosts).unwrap_or_else(|error| panic!("the island does not come up: {error}"))
    }

    fn try_up(addresses: &[&str], hosts: &str) -> Result<Self, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let island = Self { name: format!("hawker-i{}x{count}", std::process::id()) };
        ip(&["netns", "add", &island.name])?;
        std::fs::create_dir_all(island.directory()).map_err(|error| error.to_string())?;
        std::fs::write(island.directory().join("hosts"), hosts).map_err(|error| error.to_string())?;
        ip(&["-n", &island.name, "link", "set", "lo", "up"])?;
        for address in addresses {
            ip(&["-n", &island.name, "address", "add", address, "dev", "lo"])?;
        }
        Ok(island)
    }

    /// A command that will run there. Its pid is the program's own.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program_ip());
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs `inside` on a thread whose new sockets are there; they stay there wherever they are used.
    ///
    /// # Panics
    /// When `inside` does, or the namespace is gone.
    pub fn run<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(Path::new("/run/netns").join(&self.name)).expect("the island is up");
        let entered = move || {
            use std::os::fd::AsFd as _;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may");
            inside()
        };
        std::thread::scope(|scope| scope.spawn(entered).join().expect("what runs inside does not panic"))
    }

    /// What `ip netns exec` puts over /etc.
    fn directory(&self) -> PathBuf {
        Path::new("/etc/netns").join(&self.name)
    }
}

impl Drop for Island {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.directory());
        if let Err(error) = ip(&["netns", "delete", &self.name]) {
            eprintln!("the island {} is still there: {error}", self.name);
        }
    }
}

fn program_ip() -> PathBuf {
    workspace::find_program("ip").unwrap_or_else(|| "ip".into())
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program_ip()).args(arguments).output().map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}
