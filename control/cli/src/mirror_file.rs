//! The part of an agent's settings file about registries. Nothing here touches the world, as in `agent_file`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use hawker_proto::oci::Registry;
use hawker_proto::url::Url;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::units::parse_duration;

/// `[mirror]`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct MirrorFile {
    pub(crate) enabled: Option<bool>,
    #[serde(deserialize_with = "optional_registry")]
    pub(crate) default_registry: Option<Registry>,
    pub(crate) only_configured: Option<bool>,
    pub(crate) registry: Vec<RegistryFile>,
    pub(crate) tags: Vec<TagsFile>,
}

/// `[[mirror.registry]]`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct RegistryFile {
    #[serde(deserialize_with = "registry")]
    pub(crate) name: Registry,
    #[serde(default, deserialize_with = "optional_base")]
    pub(crate) url: Option<Url>,
    #[serde(default, deserialize_with = "bases")]
    pub(crate) mirrors: Vec<Url>,
    pub(crate) ca: Option<PathBuf>,
    #[serde(default)]
    pub(crate) insecure: bool,
    #[serde(default)]
    pub(crate) credentials: CredentialsFile,
    pub(crate) auth_file: Option<PathBuf>,
    pub(crate) helper: Option<String>,
    /// Hosts.
    #[serde(default)]
    pub(crate) realms: Vec<String>,
    #[serde(default, deserialize_with = "optional_duration")]
    pub(crate) permit: Option<Duration>,
    #[serde(default, deserialize_with = "optional_duration")]
    pub(crate) grace: Option<Duration>,
}

/// In whose name a registry is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum CredentialsFile {
    #[default]
    Forward,
    Node,
    Bypass,
}

/// `[[mirror.tags]]`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct TagsFile {
    pub(crate) pattern: String,
    #[serde(deserialize_with = "policy")]
    pub(crate) policy: PolicyFile,
}

/// How long a tag is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PolicyFile {
    Always,
    Pinned,
    For(Duration),
}

impl RegistryFile {
    /// What does not go together.
    pub(crate) fn check(&self) -> Result<(), String> {
        let plain = self.url.iter().chain(&self.mirrors).find(|url| url.scheme() == hawker_proto::url::Scheme::Http);
        if let Some(url) = plain.filter(|_| !self.insecure) {
            return Err(format!("{url} is not https: write `insecure = true` if that is meant"));
        }
        let has_source = self.auth_file.is_some() || self.helper.is_some();
        match self.credentials {
            CredentialsFile::Node if !has_source => {
                Err("credentials = \"node\" needs an auth-file or a helper".to_owned())
            }
            CredentialsFile::Forward | CredentialsFile::Bypass if has_source => {
                Err("auth-file and helper are for credentials = \"node\"".to_owned())
            }
            _ => Ok(()),
        }
    }
}

fn parsed<'de, T, E: fmt::Display, D: Deserializer<'de>>(
    from: D,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, D::Error> {
    parse(&String::deserialize(from)?).map_err(D::Error::custom)
}

fn registry<'de, D: Deserializer<'de>>(from: D) -> Result<Registry, D::Error> {
    parsed(from, |text| {
        Registry::parse(text).ok_or_else(|| format!("`{text}` is no registry: a host and, if need be, a port"))
    })
}

fn optional_registry<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Registry>, D::Error> {
    registry(from).map(Some)
}

/// A URL that paths are added to.
fn parse_base(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    if url.query().is_some() { Err("a registry's URL has no query".to_owned()) } else { Ok(url) }
}

fn optional_base<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Url>, D::Error> {
    parsed(from, parse_base).map(Some)
}

fn bases<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Url>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    texts.iter().map(|text| parse_base(text)).collect::<Result<_, _>>().map_err(D::Error::custom)
}

fn optional_duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    parsed(from, parse_duration).map(Some)
}

fn policy<'de, D: Deserializer<'de>>(from: D) -> Result<PolicyFile, D::Error> {
    parsed(from, |text| match text {
        "always" => Ok(PolicyFile::Always),
        "pinned" => Ok(PolicyFile::Pinned),
        text => parse_duration(text)
            .map(PolicyFile::For)
            .map_err(|_| format!("`{text}` is not always, pinned or a duration such as 10m")),
    })
}
