//! `hawker get`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use hawker_proto::resolve::Digest;

use crate::units::{parse_duration, parse_rate};

const LONG: &str = "\
Downloads URL to FILE through the agent of this host.

FILE appears under its name only when it is whole and right; until then its bytes are in `.FILE.hawker-part` beside it. \
When the agent restarts in between, the download goes on by itself.

Without --socket, and with no agent at the default socket, an agent inside this command does the work: parallel ranges, \
every byte written once, verified. When it is interrupted, the same command later goes on where it was; what it has is \
kept in `.FILE.hawker-part` until then. A digest that does not match, or a refusal of the origin, leaves nothing behind.";

const EXAMPLES: &str = "\
Examples:
  hawker get http://origin/model.bin -o model.bin
  hawker get https://example.org/a.tar -o a.tar --digest sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
  hawker get https://private.example.org/a -o a -H 'Authorization: Bearer TOKEN' --limit 200Mbit/s --timeout 10m
  hawker get http://origin/a -o a --json | jq .origin_bytes";

/// Download a file through the agent, or without one
#[derive(Args, Debug)]
#[command(long_about = LONG, after_long_help = EXAMPLES)]
pub(crate) struct GetArguments {
    /// What to download: http or https
    pub(crate) url: String,
    /// Where to put it
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Socket of the agent (default: /run/hawker/agent.sock as root, else $XDG_RUNTIME_DIR/hawker/agent.sock)
    #[arg(long, env = "HAWKER_SOCKET", value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// What the content must be: sha256:HEX, sha512:HEX or blake3:HEX, checked here before FILE appears
    #[arg(long, value_name = "DIGEST", value_parser = parse_digest)]
    pub(crate) digest: Option<Digest>,
    /// A header for the origin, 'Name: value'; may be repeated
    // Parsed later: clap repeats what it refuses, and this is a secret.
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    pub(crate) headers: Vec<String>,
    /// Keeps this content apart from the same URL with another tag
    #[arg(long, value_name = "TAG", default_value = "")]
    pub(crate) tag: String,
    /// Keeps this content apart from that of other applications
    #[arg(long, value_name = "NAME", default_value = "")]
    pub(crate) application: String,
    /// Rate of this download, such as 200Mbit/s or 25MB/s
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    pub(crate) limit: Option<u64>,
    /// Give up after this long, such as 30s or 10m: exit code 6
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// Replace FILE when it exists
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Make FILE a hard link to the agent's copy when both are on one file system: no second copy, but read-only
    #[arg(long)]
    pub(crate) link: bool,
    /// What drives sockets and files of the agent inside this command: auto, uring or epoll [default: auto]
    #[arg(long, env = "HAWKER_ENGINE", value_name = "ENGINE", value_parser = ["auto", "uring", "epoll"])]
    pub(crate) engine: Option<String>,
    /// Print one JSON object: url, task, bytes, seconds, origin_bytes, peer_bytes, cache_bytes, digest
    #[arg(long)]
    pub(crate) json: bool,
}

fn parse_digest(text: &str) -> Result<Digest, String> {
    text.parse().map_err(|_| format!("`{text}` is not sha256: or blake3: and 64, or sha512: and 128 hex digits"))
}
