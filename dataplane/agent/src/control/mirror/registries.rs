//! Which registries there are, and how each is spoken to.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use hawker_proto::oci::Registry;
use hawker_proto::url::{Host, Scheme, Url};

use crate::config::{CredentialsPolicy, MirrorConfig, RegistryConfig};
use crate::control::origin::{OriginError, Trust};

/// Registries that clients named and no settings do, remembered at a time.
const OTHERS_MAX: usize = 256;

/// A registry, and where it is.
pub(crate) struct Place {
    pub(crate) name: Registry,
    /// Where its API is: the registry itself last, its mirrors before.
    bases: Vec<Url>,
    /// Which of `bases` answered last.
    preferred: AtomicUsize,
    pub(crate) is_insecure: bool,
    pub(crate) policy: CredentialsPolicy,
    pub(crate) auth_file: Option<std::path::PathBuf>,
    pub(crate) helper: Option<String>,
    realms: Vec<String>,
    pub(crate) permit: Duration,
    pub(crate) grace: Duration,
    /// Why it could not be asked last; `None`: it could.
    trouble: Mutex<Option<String>>,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("name", &self.name).field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl Place {
    fn new(config: &RegistryConfig) -> Self {
        let own = config.url.clone().unwrap_or_else(|| default_url(&config.name, config.is_insecure));
        let is_insecure = config.is_insecure || own.scheme() == Scheme::Http;
        Self {
            name: config.name.clone(),
            bases: config.mirrors.iter().cloned().chain([own]).collect(),
            preferred: AtomicUsize::new(0),
            is_insecure,
            policy: config.credentials,
            auth_file: config.auth_file.clone(),
            helper: config.helper.clone(),
            realms: config.realms.clone(),
            permit: config.permit,
            grace: config.grace,
            trouble: Mutex::default(),
        }
    }

    /// Says once in the log why the registry cannot be asked, and once that it can again: clients show their users a
    /// status at most.
    pub(crate) fn note(&self, error: Option<&OriginError>) {
        let now = error.map(OriginError::to_string);
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if *trouble == now {
            return;
        }
        match &now {
            Some(error) => tracing::warn!(registry = %self.name, %error, "a registry cannot be asked"),
            None => tracing::info!(registry = %self.name, "a registry answers again"),
        }
        *trouble = now;
    }

    /// The registry's own base.
    pub(crate) fn own(&self) -> &Url {
        self.bases.last().expect("a place has a URL of its own")
    }

    /// Mirrors first, the registry last.
    pub(crate) fn bases(&self) -> &[Url] {
        &self.bases
    }

    /// Where the content was last found.
    pub(crate) fn preferred(&self) -> &Url {
        self.bases.get(self.preferred.load(Ordering::Relaxed)).unwrap_or_else(|| self.own())
    }

    pub(crate) fn prefer(&self, index: usize) {
        self.preferred.store(index, Ordering::Relaxed);
    }

    /// Whether the server that gives out tokens at `realm` may be shown this host's credentials: it must be the
    /// registry's own, or the registry could send them anywhere (CVE-2026-33540).
    pub(crate) fn trusts(&self, realm: &Url) -> bool {
        let host = realm.host().to_string();
        let is_private = realm.scheme() == Scheme::Https || self.is_insecure;
        is_private && (self.realms.contains(&host) || is_same_site(self.own().host(), realm.host()))
    }
}

/// Who settings say is to be believed, by the hosts that it counts for.
///
/// # Errors
/// A file of certificates that cannot be read or holds none, by its name.
pub(crate) fn trusts(config: &MirrorConfig) -> Result<Vec<(String, Trust)>, String> {
    let mut own = Vec::new();
    for registry in &config.registries {
        let place = Place::new(registry);
        let Some(path) = &registry.ca else {
            let unverified = place.bases.iter().filter(|base| registry.is_insecure && base.scheme() == Scheme::Https);
            for base in unverified {
                tracing::warn!(registry = %registry.name, host = %base.authority(),
                    "`insecure`: whoever answers there is believed to be the registry, and sees its credentials");
                own.push((base.authority(), Trust::Anybody));
            }
            continue;
        };
        let failed = |error: String| format!("the certificates of {}: {}: {error}", registry.name, path.display());
        let found = CertificateDer::pem_file_iter(path).map_err(|error| failed(error.to_string()))?;
        let found: Vec<_> = found.collect::<Result<_, _>>().map_err(|error| failed(error.to_string()))?;
        if found.is_empty() {
            return Err(failed("there is no certificate in it".to_owned()));
        }
        own.extend(place.bases.iter().map(|base| (base.authority(), Trust::Also(found.clone()))));
    }
    Ok(own)
}

/// `target` (`/v2/...`) below `base`.
pub(crate) fn below(base: &Url, target: &str) -> Option<Url> {
    base.join(&format!("{}{target}", base.path().trim_end_matches('/'))).ok()
}

/// One host, or two names below one that somebody registered. Without the public suffix list: what has a short part
/// before the last one (`co.uk`) must share one more.
fn is_same_site(registry: &Host, realm: &Host) -> bool {
    let (Host::Name(registry), Host::Name(realm)) = (registry, realm) else { return registry == realm };
    if registry == realm {
        return true;
    }
    let labels = |name: &str| name.trim_end_matches('.').rsplit('.').map(str::to_owned).collect::<Vec<_>>();
    let (ours, theirs) = (labels(registry), labels(realm));
    let shared = ours.iter().zip(&theirs).take_while(|(a, b)| a == b).count();
    let needed = if ours.get(1).is_some_and(|label| label.len() <= 3) { 3 } else { 2 };
    shared >= needed
}

/// `https://NAME/`; in the clear on this host, as Docker does it, and where that was asked for.
fn default_url(name: &Registry, is_insecure: bool) -> Url {
    let secure = Url::parse(&name.default_url()).expect("a registry's name is a host");
    let is_here = match secure.host() {
        Host::Name(name) => name == "localhost",
        Host::V4(address) => address.is_loopback(),
        Host::V6(address) => address.is_loopback(),
    };
    if !is_insecure && !is_here {
        return secure;
    }
    let clear = format!("http://{}/", name.as_str());
    Url::parse(&clear).expect("a registry's name is a host")
}

/// All registries.
#[derive(Debug)]
pub(crate) struct Registries {
    configured: HashMap<Registry, Arc<Place>>,
    is_only_configured: bool,
    default: Registry,
    /// Whether somebody said which is the default.
    pub(crate) is_default_chosen: bool,
    others: Mutex<Others>,
}

#[derive(Debug, Default)]
struct Others {
    places: HashMap<Registry, Arc<Place>>,
    order: VecDeque<Registry>,
}

impl Registries {
    pub(crate) fn new(config: &MirrorConfig) -> Self {
        let place = |registry: &RegistryConfig| (registry.name.clone(), Arc::new(Place::new(registry)));
        Self {
            configured: config.registries.iter().map(place).collect(),
            is_only_configured: config.is_only_configured,
            default: config.default_registry.clone().unwrap_or_else(Registry::docker_hub),
            is_default_chosen: config.default_registry.is_some(),
            others: Mutex::default(),
        }
    }

    /// What is meant by a request that names no registry.
    pub(crate) fn default_registry(&self) -> &Registry {
        &self.default
    }

    /// Where `name` is; `None` when it may not be asked.
    pub(crate) fn find(&self, name: &Registry) -> Option<Arc<Place>> {
        if let Some(place) = self.configured.get(name) {
            return Some(Arc::clone(place));
        }
        if self.is_only_configured && *name != self.default {
            return None;
        }
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = others.places.get(name) {
            return Some(Arc::clone(place));
        }
        if others.order.len() >= OTHERS_MAX
            && let Some(oldest) = others.order.pop_front()
        {
            others.places.remove(&oldest);
        }
        let place = Arc::new(Place::new(&RegistryConfig::of(name.clone())));
        others.order.push_back(name.clone());
        others.places.insert(name.clone(), Arc::clone(&place));
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(name: &str) -> Registry {
        Registry::parse(name).unwrap()
    }

    fn place(name: &str) -> Place {
        Place::new(&RegistryConfig::of(registry(name)))
    }

    #[test]
    fn registries_are_where_their_names_say() {
        for (name, url) in [
            ("docker.io", "https://registry-1.docker.io/"),
            ("quay.io", "https://quay.io/"),
            ("h.io:5000", "https://h.io:5000/"),
            ("localhost:5000", "http://localhost:5000/"),
            ("127.0.0.1:5000", "http://127.0.0.1:5000/"),
        ] {
            assert_eq!(place(name).own().to_string(), url);
        }
        let insecure = RegistryConfig { is_insecure: true, ..RegistryConfig::of(registry("h.io:5000")) };
        assert_eq!(Place::new(&insecure).own().to_string(), "http://h.io:5000/");
    }

    #[test]
    fn credentials_go_to_the_registrys_own_token_server_only() {
        for (name, realm, is_trusted) in [
            ("docker.io", "https://auth.docker.io/token", true),
            ("registry.gitlab.com", "https://gitlab.com/jwt/auth", true),
            ("ghcr.io", "https://ghcr.io/token", true),
            ("ghcr.io", "http://ghcr.io/token", false),
            ("ghcr.io", "https://evil.io/token", false),
            ("a.co.uk", "https://b.co.uk/token", false),
            ("r.a.co.uk", "https://auth.a.co.uk/token", true),
            ("10.0.0.1:5000", "https://10.0.0.2/token", false),
            ("127.0.0.1:5000", "http://127.0.0.1:5001/token", true),
            ("docker.io", "https://docker.io.evil.io/token", false),
        ] {
            assert_eq!(place(name).trusts(&Url::parse(realm).unwrap()), is_trusted, "{name} {realm}");
        }
        let listed = RegistryConfig { realms: vec!["auth.example".to_owned()], ..RegistryConfig::of(registry("h.io")) };
        assert!(Place::new(&listed).trusts(&Url::parse("https://auth.example/token").unwrap()));
    }

    #[test]
    fn only_configured_registries_are_asked_when_so_said() {
        let config = MirrorConfig {
            is_only_configured: true,
            registries: vec![RegistryConfig::of(registry("h.io"))],
            ..MirrorConfig::default()
        };
        let all = Registries::new(&config);
        assert!(all.find(&registry("h.io")).is_some() && all.find(&registry("docker.io")).is_some());
        assert!(all.find(&registry("quay.io")).is_none());
        let open = Registries::new(&MirrorConfig::default());
        for index in 0..2 * OTHERS_MAX {
            assert!(open.find(&registry(&format!("r{index}.io"))).is_some());
        }
        assert_eq!(open.others.lock().unwrap().places.len(), OTHERS_MAX);
    }

    #[test]
    fn targets_stand_below_a_base() {
        let below = |base: &str| below(&Url::parse(base).unwrap(), "/v2/a/tags/list?n=1").unwrap().to_string();
        assert_eq!(below("https://h.io/"), "https://h.io/v2/a/tags/list?n=1");
        assert_eq!(below("https://h.io/hub/"), "https://h.io/hub/v2/a/tags/list?n=1");
    }
}
