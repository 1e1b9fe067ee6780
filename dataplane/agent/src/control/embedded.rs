//! `hawker get` without an agent: an agent of its own on a private directory beside the file.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hawker_ring::EngineChoice;

use crate::config::{AgentConfig, DiskLimit, MirrorConfig, Rates, WriteChoice};

/// The directory in which the download of `file` lives until it is whole: `.FILE.hawker-part` beside it, on the same
/// file system, so that the end is a rename. Running the command again finds it and goes on.
#[must_use]
pub fn part_dir(file: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(file.file_name().unwrap_or_default());
    name.push(".hawker-part");
    file.with_file_name(name)
}

/// The configuration of an agent that serves one `hawker get`: no peers, no ports, no socket (see
/// [`crate::Agent::connect`]), no limit on disk, written past the page cache.
#[must_use]
pub fn embedded_config(part_dir: &Path) -> AgentConfig {
    AgentConfig {
        data_dir: part_dir.to_owned(),
        scheduler: None,
        advertise: IpAddr::V4(Ipv4Addr::LOCALHOST),
        peer_port: None,
        http: None,
        socket: None,
        cluster_key: None,
        is_insecure_allowed: true,
        is_seed: false,
        labels: Vec::new(),
        engine: EngineChoice::Auto,
        shards: Some(1),
        rates: Rates::default(),
        disk: DiskLimit::Unlimited,
        write: WriteChoice::Direct,
        drain: Duration::ZERO,
        restarts: None,
        mirror: MirrorConfig { is_enabled: false, ..MirrorConfig::default() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_directory_stands_beside_its_file() {
        assert_eq!(part_dir(Path::new("/a/b.iso")), Path::new("/a/.b.iso.hawker-part"));
        assert_eq!(part_dir(Path::new("b.iso")), Path::new(".b.iso.hawker-part"));
    }
}
