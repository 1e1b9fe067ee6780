//! What registries, repositories and tags may be called.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use core::fmt;

use crate::resolve::Digest;
use crate::url::Url;

/// What Docker Hub is called in the names of images; its API stands elsewhere.
pub const DOCKER_HUB: &str = "docker.io";
/// Other names of Docker Hub: of its index, and of its API, which containerd puts into `ns` now and then.
const DOCKER_HUB_ALIASES: [&str; 2] = ["index.docker.io", "registry-1.docker.io"];
/// Where Docker Hub's API is.
const DOCKER_HUB_API: &str = "https://registry-1.docker.io/";
/// Characters of a tag, at most: distribution specification, section "Pulling manifests".
pub const TAG_CHARS_MAX: usize = 128;
/// Characters of a repository's name, at most. The specification asks for no bound, and says that clients limit
/// registry and name together to 255.
const REPOSITORY_CHARS_MAX: usize = 255;

/// A registry as the names of images call it: a host in lower case and, unless it is 443, a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Registry(String);

impl Registry {
    /// The registry that `text` names; `None` when it names none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.is_empty() || text.contains(['/', '?', '#', '@', '%']) {
            return None;
        }
        let authority = Url::parse(&format!("https://{text}/")).ok()?.authority();
        let is_hub = DOCKER_HUB_ALIASES.contains(&authority.as_str());
        Some(Self(if is_hub { DOCKER_HUB.to_owned() } else { authority }))
    }

    /// Docker Hub.
    #[must_use]
    pub fn docker_hub() -> Self {
        Self(DOCKER_HUB.to_owned())
    }

    /// Whether the first part of an image's name is a registry rather than a part of the repository's name: the rule of
    /// Docker's reference grammar.
    pub(super) fn is_named_by(text: &str) -> bool {
        text == "localhost" || text.contains(['.', ':'])
    }

    /// Its name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where its API is when nobody says otherwise.
    #[must_use]
    pub fn default_url(&self) -> String {
        if self.0 == DOCKER_HUB { DOCKER_HUB_API.to_owned() } else { format!("https://{}/", self.0) }
    }

    /// The name that `repository` has there: Docker Hub keeps images of one word under `library/`.
    pub(super) fn repository(&self, repository: RepositoryName) -> RepositoryName {
        let is_short = self.0 == DOCKER_HUB && !repository.0.contains('/');
        if is_short { RepositoryName(format!("library/{}", repository.0)) } else { repository }
    }
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A repository of a registry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryName(String);

impl RepositoryName {
    /// `text` as a repository's name: parts of `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` between slashes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_name = text.len() <= REPOSITORY_CHARS_MAX && text.split('/').all(is_component);
        is_name.then(|| Self(text.to_owned()))
    }

    /// Its name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_component(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    let separators = text.split(|character: char| character.is_ascii_lowercase() || character.is_ascii_digit());
    let is_separator = |run: &str| matches!(run, "" | "." | "_" | "__") || run.bytes().all(|byte| byte == b'-');
    is_word(*first) && is_word(*last) && separators.into_iter().all(is_separator)
}

/// A tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(String);

impl Tag {
    /// `text` as a tag.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_char = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let is_tag = !text.is_empty()
            && text.len() <= TAG_CHARS_MAX
            && !text.starts_with(['.', '-'])
            && text.bytes().all(is_char);
        is_tag.then(|| Self(text.to_owned()))
    }

    /// The tag.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What names a manifest within its repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reference {
    /// May mean another manifest tomorrow.
    Tag(Tag),
    /// Means one for ever.
    Digest(Digest),
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// Whether `text` has the form of a digest, of whatever algorithm: `algorithm ":" encoded` of the image specification.
pub(super) fn is_digest_form(text: &str) -> bool {
    let Some((algorithm, encoded)) = text.split_once(':') else { return false };
    let is_word =
        |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    algorithm.split(['+', '.', '_', '-']).all(is_word)
        && !encoded.is_empty()
        && encoded.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"=_-".contains(&byte))
}
