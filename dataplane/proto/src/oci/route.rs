//! What a request to a mirror asks for, and of which registry.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::error::ErrorCode;
use super::name::{Reference, Registry, RepositoryName, Tag, is_digest_form};
use crate::resolve::Digest;

/// A request, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Whose content is asked for.
    pub registry: Registry,
    /// How the client said so.
    pub named_by: NamedBy,
    /// What is asked for.
    pub asked: Asked,
    /// Path and query to ask the registry itself with: `/v2/...`, without `ns`.
    pub target: String,
}

/// How a request names its registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedBy {
    /// By `?ns=`; answers say OCI-Namespace.
    Query,
    /// By the path's first part.
    Path,
    /// Not at all.
    Default,
}

/// What a request asks for. Methods are the caller's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Whether this is a registry: `/v2/`.
    Ping,
    /// `/v2/<name>/manifests/<reference>`.
    Manifest {
        /// As the registry calls it.
        repository: RepositoryName,
        /// Which one.
        reference: Reference,
    },
    /// `/v2/<name>/blobs/<digest>`.
    Blob {
        /// As the registry calls it.
        repository: RepositoryName,
        /// Which one.
        digest: Digest,
    },
    /// `/v2/<name>/tags/list`.
    Tags {
        /// As the registry calls it.
        repository: RepositoryName,
    },
    /// `/v2/<name>/referrers/<digest>`.
    Referrers {
        /// As the registry calls it.
        repository: RepositoryName,
    },
    /// Anything else under `/v2/`: uploads, the catalog, digests of algorithms that are not known here. For the registry
    /// itself.
    Other,
}

impl Asked {
    /// The repository that is asked for, as its registry calls it.
    #[must_use]
    pub const fn repository(&self) -> Option<&RepositoryName> {
        match self {
            Self::Ping | Self::Other => None,
            Self::Manifest { repository, .. }
            | Self::Blob { repository, .. }
            | Self::Tags { repository }
            | Self::Referrers { repository } => Some(repository),
        }
    }
}

/// A request that no registry would take: the client's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteError {
    /// Not below `/v2/`: nothing of a registry's.
    NotRegistry,
    /// `ns` is there twice, or names no registry.
    Namespace,
    /// The path's first part looks like a registry's name and is none.
    Registry,
    /// A repository cannot be called so.
    Name,
    /// A tag cannot be called so.
    Tag,
    /// A digest that is none.
    Digest,
}

impl RouteError {
    /// The status to answer with.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::NotRegistry | Self::Name | Self::Tag => 404,
            Self::Namespace | Self::Registry | Self::Digest => 400,
        }
    }

    /// The code to answer with.
    #[must_use]
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::NotRegistry => ErrorCode::Unsupported,
            Self::Namespace | Self::Registry | Self::Name => ErrorCode::NameInvalid,
            Self::Tag => ErrorCode::ManifestUnknown,
            Self::Digest => ErrorCode::DigestInvalid,
        }
    }
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotRegistry => "there is nothing here; the registry API is below /v2/",
            Self::Namespace => "ns must name one registry, as in ?ns=docker.io",
            Self::Registry => "the path's first part must name a registry, as in /v2/quay.io/NAME/...",
            Self::Name => "this is no name of a repository: parts of lower-case letters and digits between slashes",
            Self::Tag => "this is no tag: at most 128 letters, digits, dots, dashes and underscores",
            Self::Digest => "this is no digest: an algorithm, a colon and its value in lower-case hexadecimal digits",
        })
    }
}

impl core::error::Error for RouteError {}

/// What the request target `target` (path and query) asks for; of `default` when it names no registry.
///
/// # Errors
/// See [`RouteError`].
pub fn route(target: &str, default: &Registry) -> Result<Route, RouteError> {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let rest = match path {
        "/v2" => "",
        _ => path.strip_prefix("/v2/").ok_or(RouteError::NotRegistry)?,
    };
    let (namespace, query) = split_query(query)?;
    let (registry, named_by, rest) = match namespace {
        Some(registry) => (registry, NamedBy::Query, rest),
        None => match registry_in_path(rest)? {
            Some((registry, rest)) => (registry, NamedBy::Path, rest),
            None => (default.clone(), NamedBy::Default, rest),
        },
    };
    let decoded = decode(rest).ok_or(RouteError::Name)?;
    let (asked, path) = asked(&decoded, rest, &registry)?;
    let mark = if query.is_empty() { "" } else { "?" };
    Ok(Route { registry, named_by, asked, target: format!("/v2/{path}{mark}{query}") })
}

/// The registry of `ns`, and the query without it.
fn split_query(query: Option<&str>) -> Result<(Option<Registry>, String), RouteError> {
    let mut registry = None;
    let mut others: Vec<&str> = Vec::new();
    for field in query.into_iter().flat_map(|query| query.split('&')) {
        let Some(value) = field.strip_prefix("ns=") else {
            if !field.is_empty() {
                others.push(field);
            }
            continue;
        };
        let named = decode(value).as_deref().and_then(Registry::parse).ok_or(RouteError::Namespace)?;
        if registry.replace(named).is_some() {
            return Err(RouteError::Namespace);
        }
    }
    Ok((registry, others.join("&")))
}

/// The registry that the path below `/v2/` begins with, and what follows.
fn registry_in_path(rest: &str) -> Result<Option<(Registry, &str)>, RouteError> {
    let (first, after) = rest.split_once('/').unwrap_or((rest, ""));
    let mut first = decode(first).ok_or(RouteError::Registry)?;
    // Podman and its kin read a mirror's place as the name of an image, where no colon may be.
    if let Some((host, port)) = first.rsplit_once("__").filter(|(_, port)| port.parse::<u16>().is_ok()) {
        first = format!("{host}:{port}");
    }
    if !Registry::is_named_by(&first) {
        return Ok(None);
    }
    Registry::parse(&first).map(|registry| Some((registry, after))).ok_or(RouteError::Registry)
}

/// What `decoded`, a path below `/v2/`, asks for, and the path to ask the registry with. `raw` is the same before it was
/// decoded, for what is passed on as it is.
fn asked(decoded: &str, raw: &str, registry: &Registry) -> Result<(Asked, String), RouteError> {
    let name = |text: &str| {
        let name = RepositoryName::parse(text).ok_or(RouteError::Name)?;
        Ok(registry.repository(name))
    };
    let other = || Ok((Asked::Other, raw.to_owned()));
    if decoded.is_empty() {
        return Ok((Asked::Ping, String::new()));
    }
    let Some((front, last)) = decoded.rsplit_once('/') else { return other() };
    let Some((text, kind)) = front.rsplit_once('/') else { return other() };
    match kind {
        "manifests" if last.contains(':') => {
            let Some(digest) = digest(last)? else { return other() };
            let repository = name(text)?;
            let path = format!("{repository}/manifests/{digest}");
            Ok((Asked::Manifest { repository, reference: Reference::Digest(digest) }, path))
        }
        "manifests" => {
            let repository = name(text)?;
            let tag = Tag::parse(last).ok_or(RouteError::Tag)?;
            let path = format!("{repository}/manifests/{tag}");
            Ok((Asked::Manifest { repository, reference: Reference::Tag(tag) }, path))
        }
        "blobs" if last != "uploads" && !last.is_empty() => {
            let Some(digest) = digest(last)? else { return other() };
            let repository = name(text)?;
            let path = format!("{repository}/blobs/{digest}");
            Ok((Asked::Blob { repository, digest }, path))
        }
        "tags" if last == "list" => {
            let repository = name(text)?;
            let path = format!("{repository}/tags/list");
            Ok((Asked::Tags { repository }, path))
        }
        "referrers" => {
            let Some(digest) = digest(last)? else { return other() };
            let repository = name(text)?;
            let path = format!("{repository}/referrers/{digest}");
            Ok((Asked::Referrers { repository }, path))
        }
        _ => other(),
    }
}

/// The digest that `text` is; `None` when only the registry may know its algorithm.
fn digest(text: &str) -> Result<Option<Digest>, RouteError> {
    match text.parse() {
        Ok(digest) => Ok(Some(digest)),
        Err(_) if is_digest_form(text) && !is_known_algorithm(text) => Ok(None),
        Err(_) => Err(RouteError::Digest),
    }
}

fn is_known_algorithm(text: &str) -> bool {
    matches!(text.split(':').next(), Some("sha256" | "sha512" | "blake3"))
}

/// `text` without its percent-encoding; `None` when that is no UTF-8, or holds a control character.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = rest.get(..2)?;
        let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
        bytes.push(nibble(digits[0])? << 4 | nibble(digits[1])?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control))
}
