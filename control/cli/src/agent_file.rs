//! An agent's settings file. Nothing here touches the world: the fuzz target of settings reads this very file.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use hawker_proto::url::{Url, shown};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::mirror_file::MirrorFile;
use crate::pairs::parse_label;
use crate::units::{parse_duration, parse_rate, parse_size};

/// A settings file. Its names are the flags' names; one that is unknown is a mistake, not a comment.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct AgentFile {
    pub(crate) scheduler: Option<String>,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) advertise: Option<IpAddr>,
    pub(crate) peer_port: Option<u16>,
    pub(crate) http_port: Option<u16>,
    pub(crate) socket: Option<PathBuf>,
    pub(crate) cluster_key: Option<PathBuf>,
    pub(crate) insecure: Option<bool>,
    pub(crate) seed: Option<bool>,
    #[serde(deserialize_with = "labels")]
    pub(crate) label: Vec<(String, String)>,
    pub(crate) engine: Option<String>,
    pub(crate) shards: Option<u8>,
    /// Bytes per second, as the two below it.
    #[serde(deserialize_with = "rate")]
    pub(crate) limit_up: Option<u64>,
    #[serde(deserialize_with = "rate")]
    pub(crate) limit_down: Option<u64>,
    #[serde(deserialize_with = "rate")]
    pub(crate) limit_origin: Option<u64>,
    /// Bytes.
    #[serde(deserialize_with = "size")]
    pub(crate) limit_disk: Option<u64>,
    #[serde(deserialize_with = "duration")]
    pub(crate) drain: Option<Duration>,
    pub(crate) no_guard: Option<bool>,
    /// What only a file can say: about registries.
    pub(crate) mirror: MirrorFile,
}

impl AgentFile {
    /// The settings that a file's text holds.
    ///
    /// # Errors
    /// What is wrong and in which line.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let file: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        for registry in &file.mirror.registry {
            registry.check().map_err(|error| format!("registry {}: {error}", registry.name))?;
        }
        Ok(file)
    }
}

/// A scheduler's URL; `10.0.0.1:7300` is what people type for `http://10.0.0.1:7300`.
pub(crate) fn parse_scheduler(text: &str) -> Result<String, String> {
    let url = if text.parse::<SocketAddr>().is_ok() { format!("http://{text}") } else { text.to_owned() };
    match Url::parse(&url) {
        Ok(_) => Ok(url),
        Err(error) => Err(format!("{}: {error}", shown(text))),
    }
}

/// `"200Mbit/s"` or a bare number.
#[derive(Deserialize)]
#[serde(untagged)]
enum Amount {
    Number(u64),
    Text(String),
}

fn amount<'de, T, D: Deserializer<'de>>(from: D, parse: fn(&str) -> Result<T, String>) -> Result<Option<T>, D::Error> {
    let text = match Amount::deserialize(from)? {
        Amount::Number(number) => number.to_string(),
        Amount::Text(text) => text,
    };
    parse(&text).map(Some).map_err(D::Error::custom)
}

fn rate<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    amount(from, parse_rate)
}

fn size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    amount(from, parse_size)
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    amount(from, parse_duration)
}

fn labels<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(String, String)>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    texts.iter().map(|text| parse_label(text)).collect::<Result<_, _>>().map_err(D::Error::custom)
}
