//! From what was typed, set in the environment and written in a file to what an agent is told.
//!
//! A flag wins over its variable, the variable over the file, the file over the default. clap has merged the first two.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hawker_agent::EngineChoice;
use hawker_agent::config::{
    AgentConfig, CredentialsPolicy, DiskLimit, MirrorConfig, Rates, RegistryConfig, TagPolicy, TagRule, WriteChoice,
};

use crate::agent_file::{AgentFile, parse_scheduler};
use crate::arguments::AgentArguments;
use crate::client::default_socket;
use crate::exit::Failure;
use crate::keys;
use crate::mirror_file::{CredentialsFile, MirrorFile, PolicyFile, RegistryFile, TagsFile};

/// Not among the ephemeral ports, and next to each other: one firewall rule.
pub(crate) const PEER_PORT: u16 = 7310;
pub(crate) const HTTP_PORT: u16 = 7311;

const DRAIN: Duration = Duration::from_secs(10);

/// What the agent is told.
pub(crate) fn resolve(arguments: &AgentArguments) -> Result<AgentConfig, Failure> {
    let (file, place) = match &arguments.config {
        Some(path) => (read_file(path)?, path.display().to_string()),
        None => (AgentFile::default(), String::new()),
    };
    let in_file = |name: &str, error: String| Failure::usage(format!("{place}: {name}: {error}"));
    // 0 is free, as everywhere.
    let limit = |rate: Option<u64>| rate.filter(|bytes_per_s| *bytes_per_s > 0);

    let rates = Rates {
        up: limit(arguments.limit_up.or(file.limit_up)),
        down: limit(arguments.limit_down.or(file.limit_down)),
        origin: limit(arguments.limit_origin.or(file.limit_origin)),
    };
    let labels = if arguments.label.is_empty() { file.label } else { arguments.label.clone() };
    let engine = arguments.engine.as_deref().or(file.engine.as_deref()).unwrap_or("auto");
    let is_insecure = arguments.insecure.or(file.insecure).unwrap_or(false);
    let key_path = arguments.cluster_key.as_deref().or(file.cluster_key.as_deref());
    // Said on the command line, --insecure means what it says, whatever key the file names.
    let cluster_key = if arguments.insecure == Some(true) { None } else { keys::find(key_path)? };
    let http_port = arguments.http_port.or(file.http_port).unwrap_or(HTTP_PORT);
    let shards = arguments.shards.or(file.shards);
    if shards == Some(0) {
        return Err(in_file("shards", "at least 1 is needed".to_owned()));
    }
    Ok(AgentConfig {
        data_dir: arguments.data_dir.clone().or(file.data_dir).map_or_else(default_data_dir, Ok)?,
        scheduler: arguments.scheduler.clone().or(file.scheduler).map(|url| check_scheduler(&url)).transpose()?,
        advertise: arguments.advertise.or(file.advertise).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        peer_port: Some(arguments.peer_port.or(file.peer_port).unwrap_or(PEER_PORT)),
        http: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, http_port))),
        socket: Some(arguments.socket.clone().or(file.socket).unwrap_or_else(default_socket)),
        cluster_key,
        is_insecure_allowed: is_insecure,
        is_seed: arguments.seed.or(file.seed).unwrap_or(false),
        labels,
        engine: parse_engine(engine).map_err(|error| in_file("engine", error))?,
        shards: shards.map(usize::from),
        rates,
        disk: arguments.limit_disk.or(file.limit_disk).map_or(DiskLimit::KeepFree, DiskLimit::Bytes),
        write: WriteChoice::Auto,
        drain: arguments.drain.or(file.drain).unwrap_or(DRAIN),
        restarts: arguments.guarded,
        mirror: mirror(file.mirror),
    })
}

/// Whether a guard should watch over the agent.
pub(crate) fn wants_guard(arguments: &AgentArguments) -> Result<bool, Failure> {
    let said = match (&arguments.no_guard, &arguments.config) {
        (None, Some(path)) => read_file(path)?.no_guard,
        (said, _) => *said,
    };
    Ok(!said.unwrap_or(false))
}

/// What a settings file says of registries.
pub(crate) fn read_mirror(path: &Path) -> Result<MirrorConfig, Failure> {
    Ok(mirror(read_file(path)?.mirror))
}

fn mirror(file: MirrorFile) -> MirrorConfig {
    let default = MirrorConfig::default();
    MirrorConfig {
        is_enabled: file.enabled.unwrap_or(default.is_enabled),
        default_registry: file.default_registry,
        is_only_configured: file.only_configured.unwrap_or(default.is_only_configured),
        registries: file.registry.into_iter().map(registry).collect(),
        tags: file.tags.into_iter().map(tags).collect(),
    }
}

fn registry(file: RegistryFile) -> RegistryConfig {
    RegistryConfig {
        url: file.url,
        mirrors: file.mirrors,
        ca: file.ca,
        is_insecure: file.insecure,
        credentials: match file.credentials {
            CredentialsFile::Forward => CredentialsPolicy::Forward,
            CredentialsFile::Node => CredentialsPolicy::Node,
            CredentialsFile::Bypass => CredentialsPolicy::Bypass,
        },
        auth_file: file.auth_file,
        helper: file.helper,
        realms: file.realms,
        permit: file.permit.unwrap_or(RegistryConfig::PERMIT),
        grace: file.grace.unwrap_or(RegistryConfig::GRACE),
        ..RegistryConfig::of(file.name)
    }
}

fn tags(file: TagsFile) -> TagRule {
    let policy = match file.policy {
        PolicyFile::Always => TagPolicy::Always,
        PolicyFile::Pinned => TagPolicy::Pinned,
        PolicyFile::For(lasts) => TagPolicy::For(lasts),
    };
    TagRule { pattern: file.pattern, policy }
}

/// Where an agent keeps its tasks when nobody says otherwise.
pub(crate) fn default_data_dir() -> Result<PathBuf, Failure> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/hawker"));
    }
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("XDG_DATA_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".local/share")))
        .map(|directory| directory.join("hawker"))
        .ok_or_else(|| Failure::usage("neither HOME nor XDG_DATA_HOME is set").hint("name a directory with --data-dir"))
}

pub(crate) fn parse_engine(text: &str) -> Result<EngineChoice, String> {
    match text {
        "auto" => Ok(EngineChoice::Auto),
        "uring" => Ok(EngineChoice::Uring),
        "epoll" => Ok(EngineChoice::Epoll),
        _ => Err(format!("`{text}` is not auto, uring or epoll")),
    }
}

fn check_scheduler(text: &str) -> Result<String, Failure> {
    parse_scheduler(text)
        .map_err(|error| Failure::usage(format!("--scheduler {error}")).hint("such as http://10.0.0.1:7300"))
}

fn read_file(path: &Path) -> Result<AgentFile, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
    AgentFile::parse(&text).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    fn with_file(text: &str, arguments: AgentArguments) -> Result<AgentConfig, Failure> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.toml");
        std::fs::write(&path, text).unwrap();
        resolve(&AgentArguments { config: Some(path), ..arguments })
    }

    #[test]
    fn a_file_may_hold_every_flag() {
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("key");
        keys::find_or_make(&key).unwrap();
        let text = format!(
            "scheduler = '10.0.0.1:7300'\ndata-dir = '/d'\nadvertise = '10.0.0.2'\npeer-port = 1\nhttp-port = 2\n\
             socket = '/s'\ncluster-key = '{}'\ninsecure = false\nseed = true\nlabel = ['zone=a', 'rack=7']\n\
             engine = 'epoll'\nshards = 3\nlimit-up = '200Mbit/s'\nlimit-down = 1000\nlimit-origin = 0\n\
             limit-disk = '1GiB'\ndrain = '3s'\n",
            key.display()
        );
        let config = with_file(&text, AgentArguments::default()).unwrap();
        assert_eq!(config.scheduler.as_deref(), Some("http://10.0.0.1:7300"));
        assert_eq!(config.data_dir, Path::new("/d"));
        assert_eq!(config.advertise, IpAddr::from([10, 0, 0, 2]));
        assert_eq!((config.peer_port, config.http.map(|http| http.port())), (Some(1), Some(2)));
        assert_eq!(config.socket.as_deref(), Some(Path::new("/s")));
        assert!(config.cluster_key.is_some() && config.is_seed && !config.is_insecure_allowed);
        assert_eq!(config.labels, [("zone".to_owned(), "a".to_owned()), ("rack".to_owned(), "7".to_owned())]);
        assert_eq!((config.engine, config.shards), (EngineChoice::Epoll, Some(3)));
        assert_eq!(config.rates, Rates { up: Some(25_000_000), down: Some(1000), origin: None });
        assert_eq!((config.disk, config.drain), (DiskLimit::Bytes(1 << 30), Duration::from_secs(3)));
    }

    #[test]
    fn a_file_says_how_registries_are_asked() {
        let text = "[mirror]\ndefault-registry = 'h.io:5000'\nonly-configured = true\n\
             [[mirror.registry]]\nname = 'index.docker.io'\nmirrors = ['https://m.io/hub/']\ncredentials = 'node'\n\
             auth-file = '/a'\nrealms = ['auth.io']\npermit = '10s'\n\
             [[mirror.registry]]\nname = 'h.io:5000'\nurl = 'http://h.io:5000'\ninsecure = true\n\
             [[mirror.tags]]\npattern = '*:latest'\npolicy = 'always'\n\
             [[mirror.tags]]\npattern = 'h.io:5000/*'\npolicy = '10m'\n";
        let mirror = with_file(text, AgentArguments::default()).unwrap().mirror;
        assert!(mirror.is_enabled && mirror.is_only_configured);
        assert_eq!(mirror.default_registry.unwrap().as_str(), "h.io:5000");
        let [hub, other] = mirror.registries.as_slice() else { panic!("two registries") };
        assert_eq!((hub.name.as_str(), hub.mirrors[0].to_string()), ("docker.io", "https://m.io/hub/".to_owned()));
        assert_eq!((hub.credentials, hub.permit), (CredentialsPolicy::Node, Duration::from_secs(10)));
        assert_eq!((other.credentials, other.grace), (CredentialsPolicy::Forward, RegistryConfig::GRACE));
        assert!(other.is_insecure);
        let policies: Vec<_> = mirror.tags.iter().map(|rule| rule.policy).collect();
        assert_eq!(policies, [TagPolicy::Always, TagPolicy::For(Duration::from_secs(600))]);
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let arguments = AgentArguments { peer_port: Some(9), limit_up: Some(0), ..AgentArguments::default() };
        let config = with_file("peer-port = 1\nlimit-up = 5\nlimit-down = 6", arguments).unwrap();
        assert_eq!(config.peer_port, Some(9));
        assert_eq!(config.rates, Rates { up: None, down: Some(6), origin: None });
        assert_eq!(config.http.map(|http| http.port()), Some(HTTP_PORT));
        assert_eq!(config.disk, DiskLimit::KeepFree);
    }

    #[test]
    fn a_mistake_in_the_file_names_the_file_and_the_value() {
        for (text, part) in [
            ("peer_port = 1", "peer_port"),
            ("limit-up = '5M'", "5M"),
            ("engine = 'kqueue'", "kqueue"),
            ("label = ['zone']", "zone"),
            ("shards = 0", "shards"),
            ("scheduler = 'ftp://x'", "ftp://x"),
            ("cluster-key = '/does/not/exist'", "/does/not/exist"),
            ("[mirror]\ndefault = 'x'", "default"),
            ("[mirror]\ndefault-registry = 'a/b'", "a/b"),
            ("[[mirror.registry]]\nurl = 'https://x'", "name"),
            ("[[mirror.registry]]\nname = 'h.io'\nurl = 'http://h.io'", "insecure"),
            ("[[mirror.registry]]\nname = 'h.io'\ncredentials = 'node'", "auth-file"),
            ("[[mirror.registry]]\nname = 'h.io'\nhelper = 'x'", "node"),
            ("[[mirror.registry]]\nname = 'h.io'\ncredentials = 'mine'", "mine"),
            ("[[mirror.tags]]\npattern = 'x'\npolicy = 'sometimes'", "sometimes"),
        ] {
            let failure = with_file(text, AgentArguments::default()).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage, "{text}");
            assert!(failure.message.contains(part), "{text}: {}", failure.message);
        }
    }
}
