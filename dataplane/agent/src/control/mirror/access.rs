//! Who may have what: an object that is here is given only to those whom its registry lets in, asked a short time ago and
//! with their own credentials.
//!
//! Two things must be known: that a caller may read a repository, and that the object belongs to it. A right to one
//! repository is none to what another holds (CVE-2024-39897), however its digest was learned.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use hawker_proto::http1::ResponseHead;
use hawker_proto::oci::RepositoryName;
use hawker_proto::resolve::Digest;
use hyper::Method;

use super::registries::Place;
use super::upstream::{Identity, Question, Upstream};
use crate::control::origin::OriginError;

/// What answered to nobody's credentials is everybody's for so long, before it is asked again.
const PUBLIC_LASTS: Duration = Duration::from_secs(300);
/// An answer is given again by itself for so long at most, that figures and the access log stay near the truth.
const KEPT: Duration = Duration::from_secs(10);
/// Facts of one kind that are remembered; twice as many before the oldest go.
const FACTS_MAX: usize = 32 * 1024;

/// A fact's name: what it is about, hashed.
type Name = [u8; 16];

/// A map that forgets what was put in long ago.
#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    max: usize,
}

impl<K: std::hash::Hash + Eq, V> Recent<K, V> {
    /// Remembers at least the last `max`, at most twice as many.
    pub(crate) fn new(max: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), max }
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.max {
            self.old = std::mem::take(&mut self.young);
        }
        self.old.remove(&key);
        self.young.insert(key, value);
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    pub(crate) fn remove(&mut self, key: &K) {
        self.young.remove(key);
        self.old.remove(key);
    }
}

/// How long it counts that somebody was let in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) permit: Duration,
    pub(crate) grace: Duration,
}

/// The circumstances of a question.
#[derive(Clone, Copy, Debug)]
pub(crate) struct When {
    pub(crate) now: Instant,
    pub(crate) terms: Terms,
    /// Whether the registry cannot be asked.
    pub(crate) is_away: bool,
}

/// What is known of who may read what.
#[derive(Debug)]
pub(crate) struct Permits {
    /// When a caller was let into a repository.
    proven: Recent<Name, Instant>,
    /// When a repository answered to anybody.
    public: Recent<Name, Instant>,
    /// What belongs to a repository.
    held: Recent<Name, ()>,
}

impl Default for Permits {
    fn default() -> Self {
        Self { proven: Recent::new(FACTS_MAX), public: Recent::new(FACTS_MAX), held: Recent::new(4 * FACTS_MAX) }
    }
}

impl Permits {
    /// The registry let `who` into `repository`.
    pub(crate) fn allow(&mut self, now: Instant, repository: &str, who: &Identity) {
        self.proven.insert(caller(repository, who), now);
        if *who == Identity::Anybody {
            self.public.insert(name(&[b"public", repository.as_bytes()]), now);
        }
    }

    /// The registry did not.
    pub(crate) fn refuse(&mut self, repository: &str, who: &Identity) {
        self.proven.remove(&caller(repository, who));
        if *who == Identity::Anybody {
            self.public.remove(&name(&[b"public", repository.as_bytes()]));
        }
    }

    /// `object` belongs to `repository`: the registry said so, or a manifest that does.
    pub(crate) fn hold(&mut self, repository: &str, object: &Digest) {
        self.held.insert(held(repository, object), ());
    }

    /// It does not, any more.
    pub(crate) fn let_go(&mut self, repository: &str, object: &Digest) {
        self.held.remove(&held(repository, object));
    }

    /// Whether `repository` is known to answer to anybody, however long ago.
    pub(crate) fn is_public(&self, repository: &str) -> bool {
        self.public.get(&name(&[b"public", repository.as_bytes()])).is_some()
    }

    /// For how long from now `who` may have `object` of `repository` without asking its registry; `None`: not at all.
    pub(crate) fn granted(&self, when: When, repository: &str, who: &Identity, object: &Digest) -> Option<Duration> {
        let When { now, terms, is_away } = when;
        self.held.get(&held(repository, object))?;
        let left = |at: Option<&Instant>, lasts: Duration| lasts.checked_sub(now.duration_since(*at?));
        let public = self.public.get(&name(&[b"public", repository.as_bytes()]));
        let proven = self.proven.get(&caller(repository, who));
        let (by_all, by_caller) = match is_away {
            true => (public.map(|_| PUBLIC_LASTS), left(proven, terms.grace)),
            false => (left(public, PUBLIC_LASTS), left(proven, terms.permit)),
        };
        by_all.max(by_caller).filter(|left| !left.is_zero())
    }
}

fn caller(repository: &str, who: &Identity) -> Name {
    match who {
        Identity::Anybody => name(&[b"anybody", repository.as_bytes()]),
        Identity::Node => name(&[b"node", repository.as_bytes()]),
        Identity::Client(value) => name(&[b"client", repository.as_bytes(), value.as_bytes()]),
    }
}

fn held(repository: &str, object: &Digest) -> Name {
    name(&[b"held", repository.as_bytes(), object.to_string().as_bytes()])
}

fn name(parts: &[&[u8]]) -> Name {
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part);
    }
    let hash = hawker_proto::hash::root_of_bytes(&bytes).0;
    std::array::from_fn(|index| hash[index])
}

/// What a registry said no with, to be said again.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) head: ResponseHead,
}

/// What the gate says.
#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    /// Come in; with what the registry said of the object, when it was asked now.
    Granted(Option<Arc<ResponseHead>>),
    /// The registry cannot be asked, and what is known is enough.
    GrantedAway,
    /// The registry says no.
    Refused(Arc<Refusal>),
    /// The registry cannot be asked, and too little is known: what it answered, if it did.
    Away(Arc<Result<ResponseHead, OriginError>>),
}

/// An object of a repository, as a caller asks for it.
#[derive(Debug)]
pub(crate) struct Object<'a> {
    pub(crate) place: &'a Place,
    pub(crate) who: &'a Identity,
    pub(crate) repository: &'a RepositoryName,
    pub(crate) digest: &'a Digest,
    /// `/v2/...`
    pub(crate) target: &'a str,
    /// The client's own.
    pub(crate) headers: &'a [(String, String)],
}

impl Object<'_> {
    /// Registry and repository.
    pub(crate) fn scope(&self) -> String {
        format!("{}/{}", self.place.name, self.repository)
    }
}

/// The last answer to a question, and when it came.
type Flight = tokio::sync::Mutex<Option<(Instant, Verdict)>>;

/// Asks registries whom they let in, once for all who ask at the same time.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    permits: Mutex<Permits>,
    flights: Mutex<HashMap<Name, Weak<Flight>>>,
}

impl Gate {
    /// Looks into, or changes, what is known.
    pub(crate) fn permits(&self) -> std::sync::MutexGuard<'_, Permits> {
        self.permits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the caller may have the object; asks the registry for its head when that is not known. Counts in
    /// `checks` when it does.
    pub(crate) async fn enter(
        &self,
        upstream: &Upstream,
        object: &Object<'_>,
        checks: &super::figures::Count,
    ) -> Verdict {
        let came = Instant::now();
        let scope = object.scope();
        if self.is_granted(&scope, object, false) {
            return Verdict::Granted(None);
        }
        let flight = self.flight(&scope, object);
        let mut last = flight.lock().await;
        if let Some((at, verdict)) = &*last
            && *at >= came
        {
            return verdict.clone();
        }
        if self.is_granted(&scope, object, false) {
            return Verdict::Granted(None);
        }
        checks.add(1);
        let verdict = self.check(upstream, object, &scope).await;
        *last = Some((Instant::now(), verdict.clone()));
        verdict
    }

    /// Whether it may while the registry cannot be asked.
    pub(crate) fn is_granted_away(&self, object: &Object<'_>) -> bool {
        self.is_granted(&object.scope(), object, true)
    }

    fn is_granted(&self, scope: &str, object: &Object<'_>, is_away: bool) -> bool {
        let terms = Terms { permit: object.place.permit, grace: object.place.grace };
        let when = When { now: Instant::now(), terms, is_away };
        self.permits().granted(when, scope, object.who, object.digest).is_some()
    }

    /// For how long an answer about the object may be given again without a look at what is known.
    pub(crate) fn lasts(&self, object: &Object<'_>) -> Duration {
        let terms = Terms { permit: object.place.permit, grace: object.place.grace };
        let when = When { now: Instant::now(), terms, is_away: false };
        let left = self.permits().granted(when, &object.scope(), object.who, object.digest);
        left.unwrap_or_default().min(KEPT)
    }

    fn flight(&self, scope: &str, object: &Object<'_>) -> Arc<Flight> {
        let who = caller(scope, object.who);
        let key = name(&[&who, object.digest.to_string().as_bytes()]);
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.retain(|_, flight| flight.strong_count() > 0);
        if let Some(flight) = flights.get(&key).and_then(Weak::upgrade) {
            return flight;
        }
        let flight = Arc::new(Flight::default());
        flights.insert(key, Arc::downgrade(&flight));
        flight
    }

    async fn check(&self, upstream: &Upstream, object: &Object<'_>, scope: &str) -> Verdict {
        let mut question = Question::of(Method::HEAD, object.target, object.headers);
        // Where a registry keeps its blobs, others are asked; that it says where is permission enough.
        question.is_followed = false;
        let answer = upstream.ask(object.place, object.who, Some(object.repository), question).await;
        let head = match answer {
            Ok(answer) => answer.head,
            Err(error) => return self.away(object, Err(error)),
        };
        match head.status {
            200..=399 => {
                let mut permits = self.permits();
                permits.allow(Instant::now(), scope, object.who);
                permits.hold(scope, object.digest);
                Verdict::Granted(Some(Arc::new(head)))
            }
            429 | 500.. => self.away(object, Ok(head)),
            status => {
                let mut permits = self.permits();
                if matches!(status, 401 | 403) {
                    permits.refuse(scope, object.who);
                }
                permits.let_go(scope, object.digest);
                Verdict::Refused(Arc::new(Refusal { head }))
            }
        }
    }

    fn away(&self, object: &Object<'_>, why: Result<ResponseHead, OriginError>) -> Verdict {
        if self.is_granted_away(object) { Verdict::GrantedAway } else { Verdict::Away(Arc::new(why)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms { permit: Duration::from_secs(30), grace: Duration::from_secs(3600) };

    fn client(value: &str) -> Identity {
        Identity::Client(value.to_owned())
    }

    #[test]
    fn permits_hold_as_long_as_the_table_says() {
        let (blob, other) = (Digest::Sha256([1; 32]), Digest::Sha256([2; 32]));
        let start = Instant::now();
        let (alice, bob) = (client("Basic alice"), client("Basic bob"));
        let mut permits = Permits::default();
        permits.allow(start, "r/private", &alice);
        permits.hold("r/private", &blob);
        permits.hold("r/other", &other);
        permits.allow(start, "r/public", &Identity::Anybody);
        permits.hold("r/public", &blob);
        // Repository, caller, object, seconds later, whether it is granted: as long as the registry answers, and while not.
        for (repository, who, object, later, is_granted, is_granted_away) in [
            ("r/private", &alice, &blob, 0, true, true),
            ("r/private", &alice, &blob, 29, true, true),
            ("r/private", &alice, &blob, 30, false, true),
            ("r/private", &alice, &blob, 3599, false, true),
            ("r/private", &alice, &blob, 3600, false, false),
            ("r/private", &bob, &blob, 0, false, false),
            ("r/private", &Identity::Anybody, &blob, 0, false, false),
            ("r/private", &Identity::Node, &blob, 0, false, false),
            // What belongs to another repository.
            ("r/private", &alice, &other, 0, false, false),
            ("r/other", &alice, &other, 0, false, false),
            ("r/public", &bob, &blob, 299, true, true),
            ("r/public", &bob, &blob, 300, false, true),
            ("r/public", &Identity::Anybody, &blob, 1_000_000, false, true),
            ("r/public", &bob, &other, 0, false, false),
        ] {
            let now = start + Duration::from_secs(later);
            let granted =
                |is_away| permits.granted(When { now, terms: TERMS, is_away }, repository, who, object).is_some();
            assert_eq!((granted(false), granted(true)), (is_granted, is_granted_away), "{repository} {who:?} {later}");
        }
        let when = When { now: start, terms: TERMS, is_away: false };
        permits.refuse("r/private", &alice);
        assert!(permits.granted(When { is_away: true, ..when }, "r/private", &alice, &blob).is_none());
        permits.refuse("r/public", &bob);
        assert!(permits.is_public("r/public"), "one who is refused does not make it private");
        permits.refuse("r/public", &Identity::Anybody);
        assert!(!permits.is_public("r/public"));
        permits.let_go("r/private", &blob);
        permits.allow(start, "r/private", &alice);
        assert!(permits.granted(when, "r/private", &alice, &blob).is_none());
    }

    #[test]
    fn what_was_put_in_long_ago_is_forgotten_first() {
        let mut recent = Recent::new(10);
        for key in 0..1000 {
            recent.insert(key, ());
            assert!(recent.young.len() + recent.old.len() <= 20);
            assert!((key - key.min(9)..=key).all(|key| recent.get(&key).is_some()));
        }
    }
}
