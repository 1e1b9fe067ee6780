//! What the registry mirror is told at start.

use std::path::PathBuf;
use std::time::Duration;

use hawker_proto::oci::Registry;
use hawker_proto::url::Url;

/// How the agent stands for registries.
#[derive(Clone, Debug)]
pub struct MirrorConfig {
    /// Whether `/v2/` is answered at all.
    pub is_enabled: bool,
    /// What is meant by a request that names no registry; `None`: Docker Hub. When it is said, `/v2/` answers what that
    /// registry answers, so that a client learns there how to say who it is.
    pub default_registry: Option<Registry>,
    /// Whether registries that are not in `registries` are refused.
    pub is_only_configured: bool,
    /// Registries about which there is something to say.
    pub registries: Vec<RegistryConfig>,
    /// How long tags are believed; the first pattern that fits counts, and without one a tag is asked for each time.
    pub tags: Vec<TagRule>,
}

impl Default for MirrorConfig {
    fn default() -> Self {
        Self {
            is_enabled: true,
            default_registry: None,
            is_only_configured: false,
            registries: Vec::new(),
            tags: Vec::new(),
        }
    }
}

/// One registry.
#[derive(Clone, Debug)]
pub struct RegistryConfig {
    /// As images are called.
    pub name: Registry,
    /// Where its API is; `None`: `https://NAME/`, over plain http when it is insecure.
    pub url: Option<Url>,
    /// Who is asked first for what is pulled. Nobody's credentials are sent there.
    pub mirrors: Vec<Url>,
    /// Certificates that count beside the system's, in PEM.
    pub ca: Option<PathBuf>,
    /// Whether it may be spoken to in the clear, and, without `ca`, over TLS whatever certificate it shows.
    pub is_insecure: bool,
    /// In whose name it is asked.
    pub credentials: CredentialsPolicy,
    /// Docker's `config.json` or Podman's `auth.json`, for [`CredentialsPolicy::Node`].
    pub auth_file: Option<PathBuf>,
    /// `docker-credential-HELPER` is asked instead.
    pub helper: Option<String>,
    /// Further hosts that may be shown these credentials, because they give out the registry's tokens.
    pub realms: Vec<String>,
    /// How long it counts that a caller was let in.
    pub permit: Duration,
    /// How long that counts while the registry cannot be asked.
    pub grace: Duration,
}

impl RegistryConfig {
    /// How long it counts that a caller was let in, when nobody says otherwise.
    pub const PERMIT: Duration = Duration::from_secs(30);
    /// The same while the registry cannot be asked.
    pub const GRACE: Duration = Duration::from_secs(3600);

    /// A registry about which nothing is said.
    #[must_use]
    pub const fn of(name: Registry) -> Self {
        Self {
            name,
            url: None,
            mirrors: Vec::new(),
            ca: None,
            is_insecure: false,
            credentials: CredentialsPolicy::Forward,
            auth_file: None,
            helper: None,
            realms: Vec::new(),
            permit: Self::PERMIT,
            grace: Self::GRACE,
        }
    }
}

/// In whose name a registry is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialsPolicy {
    /// The client's own; without any, as anybody.
    Forward,
    /// This host's, for every client of this host, to pull only: a kubelet's credentials often never reach a mirror.
    Node,
    /// Not at all: the client is sent to the registry itself.
    Bypass,
}

/// How long the tags that a pattern fits are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagRule {
    /// `REGISTRY/REPOSITORY:TAG`, where `*` stands for anything.
    pub pattern: String,
    /// For how long.
    pub policy: TagPolicy,
}

/// How long a tag is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagPolicy {
    /// Not at all.
    Always,
    /// For so long after it was asked for.
    For(Duration),
    /// Until somebody invalidates it.
    Pinned,
}
