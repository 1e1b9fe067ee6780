//! The worker that is an agent: the real one, with a write mode that no flag of the binary chooses.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use hawker_agent::Agent;
use hawker_agent::config::{AgentConfig, DiskLimit, MirrorConfig, Rates, WriteChoice};
use hawker_agent::proto::identity::ClusterKey;
use landlock::{AccessNet, CompatLevel, Compatible, NetPort, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError};
use serde::{Deserialize, Serialize};

use crate::error::BenchError;
use crate::options::WriteMode;
use crate::worker::{say_ready, wait_for_end};

/// What an agent is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AgentOrder {
    /// As `--engine` takes it.
    pub(crate) engine: String,
    pub(crate) write: WriteMode,
    pub(crate) data_dir: PathBuf,
    pub(crate) socket: PathBuf,
    /// `http://HOST:PORT`.
    pub(crate) scheduler: String,
    /// Hex digits of a key that this bench drew for itself.
    pub(crate) cluster_key: String,
    /// The only TCP ports that this agent can reach; `None`: all.
    pub(crate) may_dial: Option<Vec<u16>>,
}

/// Is an agent until standard input ends.
pub(crate) fn run_agent(order: &AgentOrder) -> Result<(), BenchError> {
    if let Some(ports) = &order.may_dial {
        // Before there is a second thread: Landlock holds the caller and what it starts.
        confine(ports).map_err(|error| {
            BenchError::Host(format!("a relay is held in line by Landlock for TCP (Linux 6.7), which says: {error}"))
        })?;
    }
    let agent = Agent::start(config(order)?).map_err(|error| BenchError::Host(format!("an agent: {error}")))?;
    let address = agent.peer_address();
    say_ready(&address.map_or_else(|| "-".to_owned(), |address| address.to_string()))?;
    wait_for_end();
    agent.stop();
    Ok(())
}

fn config(order: &AgentOrder) -> Result<AgentConfig, BenchError> {
    let cluster_key = ClusterKey::from_text(&order.cluster_key)
        .map_err(|error| BenchError::Usage(format!("the bench's cluster key: {error}")))?;
    Ok(AgentConfig {
        data_dir: order.data_dir.clone(),
        scheduler: Some(order.scheduler.clone()),
        advertise: IpAddr::V4(Ipv4Addr::LOCALHOST),
        peer_port: Some(0),
        http: None,
        socket: Some(order.socket.clone()),
        cluster_key: Some(cluster_key),
        is_insecure_allowed: false,
        is_seed: false,
        labels: Vec::new(),
        engine: order.engine.parse().map_err(BenchError::Usage)?,
        shards: None,
        rates: Rates::default(),
        // The bench removes all of it; a full disk fails the run.
        disk: DiskLimit::Unlimited,
        write: match order.write {
            WriteMode::Direct => WriteChoice::Direct,
            WriteMode::Buffered => WriteChoice::Buffered,
        },
        drain: Duration::ZERO,
        restarts: None,
        mirror: MirrorConfig::default(),
    })
}

/// Lets this process connect to no TCP port but `ports`, by either engine: the kernel's check is behind both.
fn confine(ports: &[u16]) -> Result<(), RulesetError> {
    let rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let mut rules = rules.handle_access(AccessNet::ConnectTcp)?.create()?;
    for &port in ports {
        rules = rules.add_rule(NetPort::new(port, AccessNet::ConnectTcp))?;
    }
    rules.restrict_self().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Write as _};
    use std::net::{TcpListener, TcpStream};

    /// Says so where `tests/run` counts.
    fn skip(what: &str) {
        eprintln!("skipped: {what}");
        let Some(path) = std::env::var_os("HAWKER_SKIPPED") else { return };
        let file = std::fs::File::options().append(true).create(true).open(path);
        // The report is a convenience: a test must not fail because it cannot be written.
        let _ = file.and_then(|mut file| writeln!(file, "{what}"));
    }

    #[test]
    fn a_confined_agent_reaches_its_ports_and_no_other() {
        let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port on loopback");
        let (near, far) = (listen(), listen());
        let address = |listener: &TcpListener| listener.local_addr().expect("a bound listener has an address");
        let (near_address, far_address) = (address(&near), address(&far));
        // A thread of its own: what Landlock holds, it holds for good.
        let tried = std::thread::spawn(move || {
            confine(&[near_address.port()])?;
            Ok((TcpStream::connect(near_address).map(drop), TcpStream::connect(far_address).map(drop)))
        });
        let tried: Result<_, RulesetError> = tried.join().expect("no panic");
        let Ok((to_near, to_far)) = tried else {
            return skip("a_confined_agent_reaches_its_ports_and_no_other: no Landlock for TCP (Linux 6.7)");
        };
        assert_eq!(to_far.expect_err("a port that was not listed").kind(), ErrorKind::PermissionDenied);
        assert!(to_near.is_ok(), "{to_near:?}");
    }
}
