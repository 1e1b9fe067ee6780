//! Commands that stay: `agent`, `scheduler`, `up`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::pairs::parse_label;
use crate::units::{parse_duration, parse_rate, parse_size};

const AGENT_LONG: &str = "\
Runs the agent of this host until SIGTERM or Ctrl-C; then it finishes what it sends, for --drain at most, and ends.

A flag wins over its HAWKER_* variable, the variable over the --config file, the file over the default. The file is TOML \
with the flags' names, such as:

  scheduler = \"http://10.0.0.1:7300\"
  advertise = \"10.0.0.2\"
  cluster-key = \"/etc/hawker/cluster.key\"
  limit-up = \"1Gbit/s\"
  label = [\"zone=a\", \"rack=7\"]

The cluster key proves membership: 64 hex digits in a file that only its owner can read, the same on every host \
(`openssl rand -hex 32`); HAWKER_CLUSTER_KEY_TEXT may hold the digits themselves. Beyond loopback an agent does not \
start without one, unless --insecure is said.

Two processes run: the agent, and a guard of a few MiB that kills and restarts it within two seconds when it hangs or dies, \
since a client would wait long for a stuck mirror and asks the registry at once when none listens. Signals go to the guard; \
an agent that cannot work (exit code 2, or a failed first start) ends both with its exit code.";

const AGENT_EXAMPLES: &str = "\
Examples:
  hawker agent --scheduler http://10.0.0.1:7300 --advertise 10.0.0.2 --cluster-key /etc/hawker/cluster.key
  hawker agent --config /etc/hawker/agent.toml --limit-up 1Gbit/s
  hawker agent --data-dir /tmp/a --socket /tmp/a.sock --peer-port 0 --http-port 0     a second one on this machine";

/// Run the agent of this host
#[derive(Args, Clone, Debug, Default)]
#[command(long_about = AGENT_LONG, after_long_help = AGENT_EXAMPLES)]
pub(crate) struct AgentArguments {
    /// A TOML file with any of these flags
    #[arg(long, env = "HAWKER_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The scheduler, http://HOST:PORT; without one the agent works alone
    #[arg(long, env = "HAWKER_SCHEDULER", value_name = "URL")]
    pub(crate) scheduler: Option<String>,
    /// Where tasks are kept (default: /var/lib/hawker as root, else $XDG_DATA_HOME/hawker)
    #[arg(long, env = "HAWKER_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The address at which other agents reach this host; the peer port binds it [default: 127.0.0.1]
    #[arg(long, env = "HAWKER_ADVERTISE", value_name = "IP")]
    pub(crate) advertise: Option<IpAddr>,
    /// TCP port for other agents, 0 for any free one [default: 7310]
    #[arg(long, env = "HAWKER_PEER_PORT", value_name = "PORT")]
    pub(crate) peer_port: Option<u16>,
    /// Port of /healthz and /metrics on 127.0.0.1, 0 for any free one [default: 7311]
    #[arg(long, env = "HAWKER_HTTP_PORT", value_name = "PORT")]
    pub(crate) http_port: Option<u16>,
    /// Socket for `hawker get` and the like (default: /run/hawker/agent.sock as root, else
    /// $XDG_RUNTIME_DIR/hawker/agent.sock)
    #[arg(long, env = "HAWKER_SOCKET", value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// File with the cluster key, 64 hex digits
    #[arg(long, env = "HAWKER_CLUSTER_KEY", value_name = "FILE", conflicts_with = "insecure")]
    pub(crate) cluster_key: Option<PathBuf>,
    /// Let anybody who reaches this host take part
    #[arg(long, env = "HAWKER_INSECURE", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) insecure: Option<bool>,
    /// Go to the origin before others and keep whole files
    #[arg(long, env = "HAWKER_SEED", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) seed: Option<bool>,
    /// What the scheduler may know of this host, such as zone=a; may be repeated
    #[arg(long, env = "HAWKER_LABEL", value_name = "NAME=VALUE", value_parser = parse_label, value_delimiter = ',')]
    pub(crate) label: Vec<(String, String)>,
    /// What drives sockets and files: auto, uring or epoll [default: auto]
    #[arg(long, env = "HAWKER_ENGINE", value_name = "ENGINE", value_parser = ["auto", "uring", "epoll"])]
    pub(crate) engine: Option<String>,
    /// Threads that move data [default: min(4, usable cores)]
    #[arg(long, env = "HAWKER_SHARDS", value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) shards: Option<u8>,
    /// Rate at which this host sends to others [default: free]
    #[arg(long, env = "HAWKER_LIMIT_UP", value_name = "RATE", value_parser = parse_rate)]
    pub(crate) limit_up: Option<u64>,
    /// Rate at which this host receives, from others and from origins together [default: free]
    #[arg(long, env = "HAWKER_LIMIT_DOWN", value_name = "RATE", value_parser = parse_rate)]
    pub(crate) limit_down: Option<u64>,
    /// Rate at which this host receives from origins [default: free]
    #[arg(long, env = "HAWKER_LIMIT_ORIGIN", value_name = "RATE", value_parser = parse_rate)]
    pub(crate) limit_origin: Option<u64>,
    /// The most disk the agent takes [default: what keeps the file system 25 % free, and 15 % while more is wanted]
    #[arg(long, env = "HAWKER_LIMIT_DISK", value_name = "BYTES", value_parser = parse_size)]
    pub(crate) limit_disk: Option<u64>,
    /// How long SIGTERM waits for running transfers [default: 10s]
    #[arg(long, env = "HAWKER_DRAIN", value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) drain: Option<Duration>,
    /// Run without the small process that kills and restarts an agent that hangs: under a debugger, say
    #[arg(long, env = "HAWKER_NO_GUARD", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) no_guard: Option<bool>,
    /// End when the process that started this one ends
    #[arg(long, hide = true)]
    pub(crate) with_parent: bool,
    /// A guard started this one for the N-th time after the first, and listens at standard input
    #[arg(long, hide = true, value_name = "N")]
    pub(crate) guarded: Option<u32>,
}

/// Run the scheduler, which tells agents whom to talk to
#[derive(Args, Clone, Debug)]
#[command(long_about = "\
Runs the scheduler until SIGTERM or Ctrl-C. Agents tell it what they want and have; it tells them whom to talk to and who \
fetches what from the origin. No content passes through it. Downloads that run go on while it is away; a restarted \
scheduler learns everything from its agents. Its signing key and epoch are on disk.

The same port answers HTTP: /healthz for everybody, /metrics and gRPC reflection on this machine or with the token.")]
pub(crate) struct SchedulerArguments {
    /// Where agents connect
    #[arg(long, env = "HAWKER_LISTEN", value_name = "IP:PORT", default_value = "127.0.0.1:7300")]
    pub(crate) listen: SocketAddr,
    /// Where the signing key and the epoch are kept (default: /var/lib/hawker/scheduler as root, else
    /// $XDG_DATA_HOME/hawker/scheduler)
    #[arg(long, env = "HAWKER_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// File with the cluster key, 64 hex digits; HAWKER_CLUSTER_KEY_TEXT may hold the digits themselves
    #[arg(long, env = "HAWKER_CLUSTER_KEY", value_name = "FILE", conflicts_with = "insecure")]
    pub(crate) cluster_key: Option<PathBuf>,
    /// Let anybody who reaches this port take part
    #[arg(long, env = "HAWKER_INSECURE")]
    pub(crate) insecure: bool,
    /// Bearer token that opens /metrics and gRPC reflection to other machines
    #[arg(long, env = "HAWKER_METRICS_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub(crate) metrics_token: Option<String>,
    /// End when the process that started this one ends
    #[arg(long, hide = true)]
    pub(crate) with_parent: bool,
}

/// Run a scheduler and a seed agent in one process on loopback, without configuration
#[derive(Args, Clone, Debug)]
#[command(long_about = "\
Runs a scheduler and a seed agent in one process, on loopback and without configuration, and says what listens where and \
what to type next. A cluster key is made at the first start, readable by its owner only.")]
pub(crate) struct UpArguments {
    /// Where everything is kept (default: /var/lib/hawker as root, else $XDG_DATA_HOME/hawker)
    #[arg(long, env = "HAWKER_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Socket for `hawker get` and the like (default: /run/hawker/agent.sock as root, else
    /// $XDG_RUNTIME_DIR/hawker/agent.sock)
    #[arg(long, env = "HAWKER_SOCKET", value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// The most disk it takes [default: what keeps the file system 25 % free, and 15 % while more is wanted]
    #[arg(long, env = "HAWKER_LIMIT_DISK", value_name = "BYTES", value_parser = parse_size)]
    pub(crate) limit_disk: Option<u64>,
}
