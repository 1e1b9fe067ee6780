//! Commands that stay: `agent`, `scheduler`, `up`. They end at SIGTERM or Ctrl-C, after draining.

use std::fs::DirBuilder;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::process::ExitCode;

use hawker_agent::config::AgentConfig;
use hawker_agent::{Agent, StartError};
use hawker_server::{Server, ServerConfig, ServerError};
use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::arguments::{AgentArguments, SchedulerArguments, UpArguments};
use crate::exit::Failure;
use crate::stop::Stop;
use crate::{keys, settings};

use super::guard;

/// The port that the README and the examples name.
const SCHEDULER_PORT: u16 = 7300;

const KEY_HINT: &str = "make a key with `openssl rand -hex 32 > cluster.key`, chmod 600, and copy it to every host";

pub(crate) fn agent(arguments: &AgentArguments) -> Result<ExitCode, Failure> {
    end_with_parent(arguments.with_parent || arguments.guarded.is_some())?;
    let config = settings::resolve(arguments)?;
    if arguments.guarded.is_some() {
        return guarded_agent(config);
    }
    if settings::wants_guard(arguments)? {
        return guard::watch();
    }
    let stop = Stop::on_signals()?;
    let agent = start_agent(config)?;
    say_places(&agent);
    stop.wait();
    agent.stop();
    Ok(ExitCode::SUCCESS)
}

/// An agent whose guard reads its signs of life.
fn guarded_agent(config: AgentConfig) -> Result<ExitCode, Failure> {
    let (stop, line) = guard::Line::open()?;
    let heart = line.beat()?;
    let agent = start_agent(config)?;
    heart.watch(agent.pulse());
    say_places(&agent);
    stop.wait();
    // The threads end in an order of their own.
    heart.watch_nobody();
    agent.stop();
    Ok(ExitCode::SUCCESS)
}

fn say_places(agent: &Agent) {
    // Whoever read the first line may be gone when the agent is started again.
    let _ = writeln!(std::io::stdout(), "agent listens at {}", places(agent));
}

pub(crate) fn scheduler(arguments: &SchedulerArguments) -> Result<ExitCode, Failure> {
    end_with_parent(arguments.with_parent)?;
    let stop = Stop::on_signals()?;
    let data_dir = match &arguments.data_dir {
        Some(directory) => directory.clone(),
        None => settings::default_data_dir()?.join("scheduler"),
    };
    let cluster_key = if arguments.insecure { None } else { keys::find(arguments.cluster_key.as_deref())? };
    let config = ServerConfig {
        cluster_key,
        is_insecure: arguments.insecure,
        bearer_token: arguments.metrics_token.clone(),
        ..ServerConfig::new(arguments.listen, data_dir)
    };
    let scheduler = Scheduler::start(config, &stop)?;
    println!("scheduler listens at {}", scheduler.address);
    stop.wait();
    scheduler.end()?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn up(arguments: &UpArguments) -> Result<ExitCode, Failure> {
    let stop = Stop::on_signals()?;
    let data_dir = match &arguments.data_dir {
        Some(directory) => directory.clone(),
        None => settings::default_data_dir()?,
    };
    make_private(&data_dir)?;
    let cluster_key = keys::find_or_make(&data_dir.join("cluster.key"))?;
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, SCHEDULER_PORT));
    let server = ServerConfig {
        cluster_key: Some(cluster_key.clone()),
        ..ServerConfig::new(listen, data_dir.join("scheduler"))
    };
    let scheduler = Scheduler::start(server, &stop)?;
    let defaults = AgentArguments {
        scheduler: Some(format!("http://{}", scheduler.address)),
        data_dir: Some(data_dir.join("agent")),
        socket: arguments.socket.clone(),
        limit_disk: arguments.limit_disk,
        seed: Some(true),
        ..AgentArguments::default()
    };
    let config = AgentConfig { cluster_key: Some(cluster_key), ..settings::resolve(&defaults)? };
    let agent = match start_agent(config) {
        Ok(agent) => agent,
        Err(failure) => {
            scheduler.end()?;
            return Err(failure);
        }
    };
    tell(&scheduler, &agent, &data_dir, arguments.socket.as_deref());
    stop.wait();
    agent.stop();
    scheduler.end()?;
    Ok(ExitCode::SUCCESS)
}

/// Says what listens where and what to type next.
fn tell(scheduler: &Scheduler, agent: &Agent, data_dir: &Path, socket: Option<&Path>) {
    let flag = socket.map(|path| format!(" --socket {}", path.display())).unwrap_or_default();
    println!("scheduler  {}", scheduler.address);
    println!("agent      {}", places(agent));
    println!("data       {}, cluster key {}", data_dir.display(), data_dir.join("cluster.key").display());
    println!("\nNext, in another terminal:");
    println!("  hawker get https://example.org/file -o file{flag}");
    println!("  hawker status{flag}");
    println!("\nCtrl-C ends it. Hosts beyond this one: see `hawker scheduler --help` and `hawker agent --help`.");
}

/// Peers, HTTP, socket and engine of an agent.
fn places(agent: &Agent) -> String {
    let address = |address: Option<SocketAddr>| address.map_or_else(|| "nowhere".to_owned(), |at| at.to_string());
    let socket = agent.socket().map_or_else(|| "nowhere".to_owned(), |path| path.display().to_string());
    let (engine, reason) = agent.engine();
    format!(
        "{} for peers, {} for http, {socket} for commands; engine {engine} ({reason})",
        address(agent.peer_address()),
        address(agent.http_address())
    )
}

/// A scheduler on threads of its own.
struct Scheduler {
    runtime: Runtime,
    serving: JoinHandle<Result<(), ServerError>>,
    end: oneshot::Sender<()>,
    address: SocketAddr,
}

impl Scheduler {
    /// Starts it. Should it end by itself, it asks `stop`.
    fn start(config: ServerConfig, stop: &Stop) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("scheduler")
            .enable_all()
            .build()
            .map_err(|error| Failure::io("cannot start the scheduler's threads", &error))?;
        let server = runtime.block_on(Server::bind(config)).map_err(|error| server_failure(&error))?;
        let address = server.address();
        let (end, ended) = oneshot::channel::<()>();
        let stop = stop.clone();
        let serving = runtime.spawn(async move {
            let result = server.run(async { drop(ended.await) }).await;
            stop.ask();
            result
        });
        Ok(Self { runtime, serving, end, address })
    }

    fn end(self) -> Result<(), Failure> {
        // Gone already when it ended by itself.
        let _ = self.end.send(());
        match self.runtime.block_on(self.serving) {
            Ok(result) => result.map_err(|error| server_failure(&error)),
            Err(_) => Err(Failure::other("the scheduler panicked; its log says where")),
        }
    }
}

fn server_failure(error: &ServerError) -> Failure {
    match error {
        ServerError::NoClusterKey(_) => Failure::usage(error.to_string()).hint(KEY_HINT),
        _ => Failure::other(error.to_string()),
    }
}

fn start_agent(config: AgentConfig) -> Result<Agent, Failure> {
    Agent::start(config).map_err(|error| match error {
        StartError::NeedsClusterKey { .. } => Failure::usage(error.to_string()).hint(KEY_HINT),
        StartError::Config { .. } => Failure::usage(error.to_string()),
        _ => Failure::other(error.to_string()),
    })
}

fn make_private(directory: &Path) -> Result<(), Failure> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|error| Failure::io(format_args!("cannot make {}", directory.display()), &error))
}

/// A demo that is killed must not leave its children behind.
fn end_with_parent(is_wanted: bool) -> Result<(), Failure> {
    if is_wanted {
        set_parent_process_death_signal(Some(Signal::KILL))
            .map_err(|error| Failure::io("cannot follow the parent process", &error.into()))?;
    }
    Ok(())
}
