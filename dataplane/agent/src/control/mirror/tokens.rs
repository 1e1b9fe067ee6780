//! Tokens of registries: what a Bearer challenge asks for, got from the server that it names, kept until it ends.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::HeaderValue;
use hyper::{Method, Request};
use serde::Deserialize;

use hawker_proto::http1::ResponseHead;
use hawker_proto::oci::{Challenge, RepositoryName, parse_challenges};
use hawker_proto::url::{Scheme, Url};

use super::credentials::{Credentials, Secret};
use super::registries::Place;
use crate::control::origin::{HEAD_TIMEOUT, Hop, Outgoing, Reach, Transports, USER_AGENT, nothing};

/// Bytes of a token server's answer, at most.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// What a token that says nothing is good for: distribution's token specification.
const EXPIRES_S: u64 = 60;
/// Tokens are used no longer than this, whatever they say.
const EXPIRES_S_MAX: u64 = 3600;
/// So long before its end a token is not used any more: a request takes its time.
const MARGIN: Duration = Duration::from_secs(10);
/// Repositories whose tokens are kept.
const KNOWN_MAX: usize = 4096;
/// Who asks for a token, where that must be said (OAuth 2).
const CLIENT_ID: &str = "hawker";
/// What token servers that do not speak OAuth 2 answer to a POST, as containerd has met them: distribution's
/// specification says 404, others know no such method or ask for a password.
const NO_OAUTH: [u16; 4] = [400, 401, 404, 405];
/// Credentials of this host are looked up anew after so long.
const BASIC_LASTS: Duration = Duration::from_secs(60);

/// Tokens, and how to get them.
pub(crate) struct Tokens {
    transports: Transports,
    credentials: Credentials,
    known: Mutex<HashMap<Key, Arc<Known>>>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

/// What Authorization is needed for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need<'a> {
    pub(crate) place: &'a Place,
    /// Which of its bases is asked.
    pub(crate) base: &'a Url,
    /// In this host's name, not in nobody's.
    pub(crate) is_node: bool,
    pub(crate) repository: Option<&'a RepositoryName>,
}

impl Need<'_> {
    fn key(&self) -> Key {
        Key { authority: self.base.authority(), is_node: self.is_node, repository: self.repository.cloned() }
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    /// Of the base that is asked.
    authority: String,
    is_node: bool,
    repository: Option<RepositoryName>,
}

/// What a registry wants of those who ask for a repository.
struct Known {
    challenge: Challenge,
    reach: Reach,
    /// Whoever holds it asks for a token; others wait for that one.
    authorization: tokio::sync::Mutex<Option<(String, Instant)>>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl Tokens {
    pub(crate) fn new(transports: Transports) -> Self {
        Self { transports, credentials: Credentials, known: Mutex::default() }
    }

    /// Authorization for a repository that was asked for before; got anew when it has ended.
    pub(crate) async fn ready(&self, need: Need<'_>) -> Option<String> {
        let known = Arc::clone(self.lock().get(&need.key())?);
        self.current(need, &known, None).await
    }

    /// Authorization for what `head` refused, `used` not being good enough. `reach`: of whoever refused.
    pub(crate) async fn obtain(
        &self,
        need: Need<'_>,
        head: &ResponseHead,
        reach: Reach,
        used: Option<&str>,
    ) -> Option<String> {
        let mut challenges: Vec<_> = head.values("www-authenticate").flat_map(parse_challenges).collect();
        let is_usable = |challenge: &Challenge| need.is_node || matches!(challenge, Challenge::Bearer { .. });
        // A token says less than a password.
        challenges.sort_by_key(|challenge| *challenge == Challenge::Basic);
        let challenge = challenges.into_iter().find(is_usable)?;
        let key = need.key();
        let known = {
            let mut all = self.lock();
            let is_same = all.get(&key).is_some_and(|known| known.challenge == challenge && known.reach == reach);
            if !is_same {
                if all.len() >= KNOWN_MAX {
                    all.clear();
                }
                let authorization = tokio::sync::Mutex::default();
                all.insert(key.clone(), Arc::new(Known { challenge, reach, authorization }));
            }
            Arc::clone(&all[&key])
        };
        self.current(need, &known, used).await
    }

    /// What is known, unless that is `used` or has ended; then anew.
    async fn current(&self, need: Need<'_>, known: &Known, used: Option<&str>) -> Option<String> {
        let Need { place, is_node, repository, .. } = need;
        let mut authorization = known.authorization.lock().await;
        if let Some((value, until)) = &*authorization
            && *until > Instant::now()
            && Some(value.as_str()) != used
        {
            return Some(value.clone());
        }
        *authorization = None;
        let secret = if is_node { self.credentials.find(place, repository).await } else { None };
        let (value, lasts) = match &known.challenge {
            Challenge::Basic => (basic(secret.as_ref()?)?, BASIC_LASTS),
            Challenge::Bearer { realm, service, scope } => {
                let realm = Url::parse(realm).ok()?;
                if realm.scheme() == Scheme::Http && !place.is_insecure {
                    tracing::warn!(registry = %place.name, "the registry's token server is not https: it is not asked");
                    return None;
                }
                let secret = secret.filter(|_| {
                    let is_trusted = place.trusts(&realm);
                    if !is_trusted {
                        tracing::warn!(registry = %place.name, realm = %realm.authority(),
                            "the registry's token server is another host: it is not shown this host's credentials; \
                             list it under `realms` if it should be");
                    }
                    is_trusted
                });
                let hop = Hop { whose: place.own(), is_lenient: true, least: known.reach, ..Hop::to(&realm) };
                let wish = Wish { service: service.as_deref(), scope: scope.as_deref() };
                let (token, lasts) = self.exchange(hop, wish, secret.as_ref()).await?;
                (format!("Bearer {token}"), lasts)
            }
        };
        // One that would be refused by our own client is none.
        HeaderValue::from_str(&value).ok()?;
        *authorization = Some((value.clone(), Instant::now() + lasts));
        Some(value)
    }

    /// A token of the server at `hop`: for an identity by OAuth 2 (distribution's specification, auth/oauth), otherwise
    /// as every such server gives it (auth/token).
    async fn exchange(&self, hop: Hop<'_>, wish: Wish<'_>, secret: Option<&Secret>) -> Option<(String, Duration)> {
        let password = secret.and_then(basic);
        if let Some(identity) = secret.and_then(|secret| secret.identity.as_deref()) {
            let mut request = Request::new(Full::from(wish.form(identity)).map_err(|never| match never {}).boxed());
            *request.method_mut() = Method::POST;
            let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
            request.headers_mut().insert("content-type", kind);
            match self.ask(request, hop).await {
                Ok(token) => return Some(token),
                Err(Some(status)) if NO_OAUTH.contains(&status) && password.is_some() => {}
                Err(_) => return None,
            }
        }
        let url = wish.url(hop.url)?;
        let mut request = Request::new(nothing());
        if let Some(password) = password {
            let mut value = HeaderValue::from_str(&password).ok()?;
            value.set_sensitive(true);
            request.headers_mut().insert("authorization", value);
        }
        self.ask(request, Hop { url: &url, ..hop }).await.ok()
    }

    /// # Errors
    /// No token is given: with this status, when there was an answer.
    async fn ask(&self, mut request: Request<Outgoing>, hop: Hop<'_>) -> Result<(String, Duration), Option<u16>> {
        let realm = hop.url;
        *request.uri_mut() = realm.to_string().parse().map_err(|_| None)?;
        request.headers_mut().insert("accept", HeaderValue::from_static("application/json"));
        request.headers_mut().insert("user-agent", HeaderValue::from_static(USER_AGENT));
        // No redirect is followed: who gives out tokens is named by the challenge.
        let response = match self.transports.send(request, hop).await {
            Ok(response) if response.status() == 200 => response,
            Ok(response) => {
                tracing::debug!(realm = %realm.authority(), status = %response.status(), "no token is given");
                return Err(Some(response.status().as_u16()));
            }
            Err(error) => {
                tracing::debug!(%error, "the token server does not answer");
                return Err(None);
            }
        };
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect();
        let body = tokio::time::timeout(HEAD_TIMEOUT, body).await.map_err(|_| None)?;
        let bytes = body.map_err(|_| None)?.to_bytes();
        let answer: TokenAnswer = serde_json::from_slice(&bytes).map_err(|_| None)?;
        let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty()).ok_or(None)?;
        let lasts = Duration::from_secs(answer.expires_in.unwrap_or(EXPIRES_S).min(EXPIRES_S_MAX));
        Ok((token, lasts.saturating_sub(MARGIN)))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Arc<Known>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn basic(secret: &Secret) -> Option<String> {
    let (name, password) = secret.password.as_ref()?;
    Some(format!("Basic {}", STANDARD.encode(format!("{name}:{password}"))))
}

/// What a token is to be for, as the challenge says it.
#[derive(Clone, Copy)]
struct Wish<'a> {
    service: Option<&'a str>,
    /// Several, with spaces between.
    scope: Option<&'a str>,
}

impl Wish<'_> {
    /// `realm` with the question in its query: each scope is a field.
    fn url(&self, realm: &Url) -> Option<Url> {
        let scopes = self.scope.into_iter().flat_map(|scope| scope.split(' ')).filter(|scope| !scope.is_empty());
        let fields = self.service.map(|service| ("service", service)).into_iter();
        let query = joined(fields.chain(scopes.map(|scope| ("scope", scope))));
        let mark = if realm.query().is_some() { '&' } else { '?' };
        let text = if query.is_empty() { realm.to_string() } else { format!("{realm}{mark}{query}") };
        Url::parse(&text).ok()
    }

    /// The question as a form, with a refresh token: all scopes are one field.
    fn form(&self, refresh_token: &str) -> String {
        let [service, scope] = [("service", self.service), ("scope", self.scope)]
            .map(|(name, value)| value.filter(|value| !value.is_empty()).map(|value| (name, value)));
        let own = [("grant_type", "refresh_token"), ("client_id", CLIENT_ID), ("refresh_token", refresh_token)];
        joined(own.into_iter().chain(service).chain(scope))
    }
}

/// `a=1&b=2`
fn joined<'a>(fields: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    fields.map(|(name, value)| format!("{name}={}", encoded(value))).collect::<Vec<_>>().join("&")
}

/// Percent-encoded but for what RFC 3986, section 2.3 calls unreserved, and `:`, `/` and `,`, which scopes hold.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:/,".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn question_for_a_token_is_encoded() {
        let realm = Url::parse("https://a.io/t?x=1").unwrap();
        let wish = Wish { service: Some("a b&c"), scope: Some("repository:l/a:pull repository:m:pull") };
        assert_eq!(
            wish.url(&realm).unwrap().to_string(),
            "https://a.io/t?x=1&service=a%20b%26c&scope=repository:l/a:pull&scope=repository:m:pull"
        );
        assert_eq!(
            wish.form("a+b/c="),
            "grant_type=refresh_token&client_id=hawker&refresh_token=a%2Bb/c%3D&service=a%20b%26c\
             &scope=repository:l/a:pull%20repository:m:pull"
        );
        let nothing = Wish { service: None, scope: None };
        assert_eq!(nothing.url(&realm).unwrap(), realm);
        assert_eq!(nothing.form("t"), "grant_type=refresh_token&client_id=hawker&refresh_token=t");
        assert!(Url::parse("ftp://a.io/").is_err() && Url::parse("https://u:p@a.io/").is_err());
    }
}
