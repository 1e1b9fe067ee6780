//! Asking registries: any method, bodies both ways, in whose name, redirects and their rules.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Request, Version};
use hyper_util::client::legacy::connect::HttpInfo;

use hawker_proto::HostId;
use hawker_proto::http1::{self, ResponseHead};
use hawker_proto::oci::RepositoryName;
use hawker_proto::url::Url;

use super::registries::{Place, below};
use super::tokens::{Need, Tokens};
use crate::control::origin::{
    Hop, OriginError, Outgoing, Reach, Transports, USER_AGENT, innermost, nothing, refused_redirect, split,
};

/// A body that is silent for so long is given up.
const STALL: Duration = Duration::from_secs(20);
/// So long after the last byte of a body a registry must answer: it hashes what it was given first.
const UPLOAD_STALL: Duration = Duration::from_secs(120);
/// What takes longer was forgotten.
const UPLOAD_LIMIT: Duration = Duration::from_secs(24 * 3600);
/// Fields of a request that are for the mirror, or that each hop sets itself.
const OWN_FIELDS: [&str; 8] = [
    "accept-encoding",
    "authorization",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "range",
];
/// In whose name a registry is asked.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum Identity {
    /// Nobody's; with an anonymous token where the registry wants one.
    Anybody,
    /// The client's: its Authorization as it came.
    Client(String),
    /// This host's.
    Node,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anybody => "Anybody",
            Self::Client(_) => "Client",
            Self::Node => "Node",
        })
    }
}

/// A question to a registry.
pub(crate) struct Question {
    pub(crate) method: Method,
    /// `/v2/...`
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    /// Fields that follow every redirect.
    pub(crate) kept: Vec<(&'static str, String)>,
    pub(crate) body: Option<Upload>,
    /// Whether redirects are followed.
    pub(crate) is_followed: bool,
}

/// The body of a question.
pub(crate) struct Upload {
    pub(crate) bytes: Outgoing,
    /// `None`: chunked.
    pub(crate) length: Option<u64>,
    /// Grows while it moves.
    pub(crate) moved: Arc<AtomicU64>,
}

impl Question {
    /// A GET or HEAD with what of a client's `headers` concerns the registry.
    pub(crate) fn of(method: Method, target: &str, headers: &[(String, String)]) -> Self {
        let is_passed = |name: &str| !OWN_FIELDS.iter().any(|own| own.eq_ignore_ascii_case(name));
        let headers = http1::forwardable_headers(headers).into_iter().filter(|(name, _)| is_passed(name)).collect();
        Self { method, target: target.to_owned(), headers, kept: Vec::new(), body: None, is_followed: true }
    }
}

/// An answer whose head is read and whose body is still to come.
pub(crate) struct Answer {
    pub(crate) head: ResponseHead,
    pub(crate) body: Incoming,
    /// What was asked, before redirects.
    pub(crate) asked: Url,
    /// Below what: one of the registry's bases.
    pub(crate) base: Url,
    /// From how near the registry can be reached.
    reach: Reach,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("status", &self.head.status).finish_non_exhaustive()
    }
}

impl Answer {
    /// All of the body, `None` when it is longer than `max`.
    ///
    /// # Errors
    /// It breaks off or stalls.
    pub(crate) async fn read(self, max: usize) -> Result<Option<Vec<u8>>, OriginError> {
        let host = self.asked.authority();
        let mut body = Reading { body: self.body, host };
        let mut bytes = Vec::new();
        while let Some(next) = body.next().await? {
            if bytes.len() + next.len() > max {
                return Ok(None);
            }
            bytes.extend_from_slice(&next);
        }
        Ok(Some(bytes))
    }

    /// The body, piece by piece.
    pub(crate) fn into_reading(self) -> Reading {
        Reading { host: self.asked.authority(), body: self.body }
    }
}

/// A body that stalls at most so long.
pub(crate) struct Reading {
    body: Incoming,
    host: String,
}

impl Reading {
    /// The next bytes, `None` at the end.
    ///
    /// # Errors
    /// It breaks off or stalls.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, OriginError> {
        loop {
            match tokio::time::timeout(STALL, self.body.frame()).await {
                Err(_) => return Err(OriginError::Timeout { host: self.host.clone(), waited: STALL }),
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => {
                    return Err(OriginError::Broken { host: self.host.clone(), reason: innermost(&error) });
                }
                // Trailers are between two neighbors.
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => return Ok(Some(data)),
                    Err(_) => {}
                },
            }
        }
    }
}

/// Asks registries.
#[derive(Debug)]
pub(crate) struct Upstream {
    transports: Transports,
    pub(crate) tokens: Tokens,
    /// Questions put to registries.
    pub(crate) asked: AtomicU64,
    /// This agent's name in Via, by which it knows a question that went in a circle.
    via: String,
}

impl Upstream {
    pub(crate) fn new(transports: Transports, host: HostId) -> Self {
        let via = format!("hawker-{}", host.short());
        Self { tokens: Tokens::new(transports.clone()), transports, asked: AtomicU64::new(0), via }
    }

    pub(crate) fn via(&self) -> &str {
        &self.via
    }

    /// Asks `place`, in the name of `who`: what is pulled from its mirrors first, in nobody's name.
    ///
    /// # Errors
    /// No answer. One that refuses is an `Answer`.
    pub(crate) async fn ask(
        &self,
        place: &Place,
        who: &Identity,
        repository: Option<&RepositoryName>,
        mut question: Question,
    ) -> Result<Answer, OriginError> {
        let upload = question.body.take();
        let is_pull = upload.is_none() && matches!(question.method, Method::GET | Method::HEAD);
        if !is_pull {
            return self.pass(place, who, &question, upload).await;
        }
        let (own, mirrors) = place.bases().split_last().expect("a place has a URL of its own");
        for (index, base) in mirrors.iter().enumerate() {
            let result = self.ask_at(place, base, &Identity::Anybody, repository, &question).await;
            if let Ok(answer) = result
                && (answer.head.status < 300 || answer.head.status == 304)
            {
                place.prefer(index);
                return Ok(answer);
            }
        }
        let result = self.ask_at(place, own, who, repository, &question).await;
        place.note(result.as_ref().err());
        if result.is_ok() {
            place.prefer(mirrors.len());
        }
        result
    }

    /// The value of Authorization that lets `who` have what is in `repository`, as far as it is known.
    pub(crate) async fn authorization(
        &self,
        place: &Place,
        who: &Identity,
        repository: Option<&RepositoryName>,
    ) -> Option<String> {
        let base = place.preferred();
        match who {
            Identity::Client(value) if base == place.own() => Some(value.clone()),
            _ => {
                let is_node = *who == Identity::Node && base == place.own();
                self.tokens.ready(Need { place, base, is_node, repository }).await
            }
        }
    }

    async fn ask_at(
        &self,
        place: &Place,
        base: &Url,
        who: &Identity,
        repository: Option<&RepositoryName>,
        question: &Question,
    ) -> Result<Answer, OriginError> {
        let need = Need { place, base, is_node: *who == Identity::Node, repository };
        let used = match who {
            Identity::Client(value) => Some(value.clone()),
            Identity::Node | Identity::Anybody => self.tokens.ready(need).await,
        };
        let answer = self.follow(base, question, used.as_deref()).await?;
        if answer.head.status != 401 || matches!(who, Identity::Client(_)) {
            return Ok(answer);
        }
        if let Some(token) = self.tokens.obtain(need, &answer.head, answer.reach, used.as_deref()).await {
            let second = self.follow(base, question, Some(&token)).await?;
            if second.head.status != 401 {
                return Ok(second);
            }
        }
        // What is wrong with a token of ours is nothing to the client: it is told what somebody without one is told.
        if used.is_some() { self.follow(base, question, None).await } else { Ok(answer) }
    }

    /// A question that changes something: to the registry itself, once, in the client's own name.
    async fn pass(
        &self,
        place: &Place,
        who: &Identity,
        question: &Question,
        upload: Option<Upload>,
    ) -> Result<Answer, OriginError> {
        let base = place.own();
        let url = target(base, &question.target)?;
        let mut headers = question.headers.clone();
        if let Identity::Client(value) = who {
            headers.push(("authorization".to_owned(), value.clone()));
        }
        let mut request = request(&question.method, &url, &headers, &question.kept, &self.via)?;
        let mut moved = None;
        if let Some(upload) = upload {
            if let Some(length) = upload.length {
                request.headers_mut().insert(hyper::header::CONTENT_LENGTH, HeaderValue::from(length));
            }
            *request.body_mut() = upload.bytes;
            moved = Some(upload.moved);
        }
        self.asked.fetch_add(1, Ordering::Relaxed);
        let sending = self.transports.send(request, Hop { limit: UPLOAD_LIMIT, is_lenient: true, ..Hop::to(&url) });
        tokio::pin!(sending);
        let mut seen = 0;
        let response = loop {
            tokio::select! {
                response = &mut sending => break response?,
                () = tokio::time::sleep(UPLOAD_STALL) => {
                    let now = moved.as_ref().map_or(0, |moved| moved.load(Ordering::Relaxed));
                    if now == seen {
                        return Err(OriginError::Timeout { host: url.authority(), waited: UPLOAD_STALL });
                    }
                    seen = now;
                }
            }
        };
        let (head, body) = split(&url, question.method == Method::HEAD, response)?;
        Ok(Answer { head, body, asked: url.clone(), base: base.clone(), reach: Reach::World })
    }

    /// Asks below `base` and follows redirects until there is an answer.
    async fn follow(
        &self,
        base: &Url,
        question: &Question,
        authorization: Option<&str>,
    ) -> Result<Answer, OriginError> {
        let asked = target(base, &question.target)?;
        let is_head = question.method == Method::HEAD;
        let mut headers = question.headers.clone();
        headers.extend(authorization.map(|value| ("authorization".to_owned(), value.to_owned())));
        let (mut url, mut from) = (asked.clone(), None);
        // The client may ask for what it likes; where a registry sends it, is the registry's choice.
        let (mut least, mut reach) = (Reach::Host, None);
        for _ in 0..=http1::REDIRECTS_MAX {
            let request = request(&question.method, &url, &headers, &question.kept, &self.via)?;
            self.asked.fetch_add(1, Ordering::Relaxed);
            let hop = Hop { least, is_lenient: true, from: from.as_ref(), ..Hop::to(&url) };
            let response = self.transports.send(request, hop).await?;
            let address = response.extensions().get::<HttpInfo>().map(HttpInfo::remote_addr);
            // An address that is not known may be any.
            let here = address.map_or(Reach::World, |address| Reach::of(address.ip()));
            least = least.max(here);
            let reach = *reach.get_or_insert(here);
            let (head, body) = split(&url, is_head, response)?;
            let location = match head.status {
                301 | 302 | 303 | 307 | 308 if question.is_followed => head.header("location"),
                _ => None,
            };
            let Some(location) = location else {
                return Ok(Answer { head, body, asked, base: base.clone(), reach });
            };
            let next = http1::redirect_target(&url, location).map_err(|error| refused_redirect(&url, error))?;
            headers = http1::headers_after_redirect(&url, &next, &headers);
            from = Some(std::mem::replace(&mut url, next));
        }
        Err(OriginError::TooManyRedirects)
    }
}

fn target(base: &Url, target: &str) -> Result<Url, OriginError> {
    below(base, target).ok_or(OriginError::BadUrl(hawker_proto::url::UrlError::TooLong))
}

fn request(
    method: &Method,
    url: &Url,
    headers: &[(String, String)],
    kept: &[(&'static str, String)],
    via: &str,
) -> Result<Request<Outgoing>, OriginError> {
    let uri: hyper::Uri = url.to_string().parse().map_err(|_| OriginError::BadHeader("Host".to_owned()))?;
    let mut request = Request::new(nothing());
    *request.method_mut() = method.clone();
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_11;
    let fields = request.headers_mut();
    for (name, value) in headers {
        let bad = || OriginError::BadHeader(name.clone());
        let field = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
        fields.append(field, HeaderValue::from_str(value).map_err(|_| bad())?);
    }
    for (name, value) in kept {
        let value = HeaderValue::from_str(value).map_err(|_| OriginError::BadHeader((*name).to_owned()))?;
        fields.insert(HeaderName::from_static(name), value);
    }
    // Bytes as they are stored: what is compressed on the way has another digest.
    fields.insert("accept-encoding", HeaderValue::from_static("identity"));
    fields.append("via", HeaderValue::from_str(&format!("1.1 {via}")).expect("hexadecimal digits"));
    if !fields.contains_key("user-agent") {
        fields.insert("user-agent", HeaderValue::from_static(USER_AGENT));
    }
    Ok(request)
}
