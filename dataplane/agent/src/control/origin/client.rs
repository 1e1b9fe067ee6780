//! One GET, with TLS, redirects and their rules.

use std::fmt;
use std::net::SocketAddr;

use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Request, Version};
use hyper_util::client::legacy::connect::HttpInfo;

use hawker_proto::ByteRange;
use hawker_proto::http1::{self, OriginAnswer, RedirectError, ResponseHead};
use hawker_proto::url::Url;

use super::error::OriginError;
use super::reach::Reach;
use super::transport::{Hop, Outgoing, Transports, nothing, split};

/// What Hawker calls itself unless the caller says otherwise.
pub(crate) const USER_AGENT: &str = concat!("hawker/", env!("CARGO_PKG_VERSION"));

/// Header fields that are Hawker's to set, whatever a caller gives: they frame the message or choose the range.
const OWN_FIELDS: [&str; 14] = [
    "accept-encoding",
    "connection",
    "content-length",
    "expect",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "range",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// What the answer must be about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Condition {
    /// Whatever is there.
    #[default]
    Any,
    /// The version with this validator: an ETag in its quotes, or a Last-Modified date.
    Same(String),
    /// Answer 304 when it is still this version.
    Newer { etag: Option<String>, last_modified: Option<String> },
}

/// A GET.
#[derive(Clone)]
pub(crate) struct Ask {
    pub(crate) url: Url,
    /// The caller's; sent to the URL's own origin only.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) range: Option<ByteRange>,
    pub(crate) condition: Condition,
    /// Whether its digest is known: bytes that are wrong are seen to be, whoever sent them.
    pub(crate) is_named: bool,
}

impl fmt::Debug for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // URL and headers may hold credentials.
        f.debug_struct("Ask").field("range", &self.range).finish_non_exhaustive()
    }
}

/// An answer whose head is read and whose body is still to come.
pub(crate) struct Answered {
    pub(crate) head: ResponseHead,
    pub(crate) answer: OriginAnswer,
    pub(crate) body: Incoming,
    /// Where the bytes came from in the end.
    pub(crate) host: String,
    /// The peer's address when the question was plain http and answered without a redirect.
    pub(crate) direct: Option<SocketAddr>,
}

impl fmt::Debug for Answered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answered").field("host", &self.host).field("answer", &self.answer).finish_non_exhaustive()
    }
}

/// Asks origins for content. Cheap to clone; connections are shared.
#[derive(Clone, Debug)]
pub(crate) struct OriginClient {
    transports: Transports,
}

impl OriginClient {
    /// A client over `transports`.
    pub(crate) const fn new(transports: Transports) -> Self {
        Self { transports }
    }

    /// A client that trusts `roots` alone.
    #[cfg(test)]
    pub(crate) fn with_roots(roots: rustls::RootCertStore) -> Self {
        Self::new(Transports::with_roots(roots, &[]))
    }

    /// Sends `ask` and follows redirects until there is an answer.
    ///
    /// # Errors
    /// No answer, or one that no redirect rule allows. An answer that refuses is an `Answered`.
    pub(crate) async fn open(&self, ask: &Ask) -> Result<Answered, OriginError> {
        let mut url = ask.url.clone();
        let mut headers = ask.headers.clone();
        // The caller may ask for what it likes; where an origin sends it, is the origin's choice.
        let mut least = Reach::Host;
        let mut from = None;
        for hop in 0..=http1::REDIRECTS_MAX {
            let question = request(ask, &url, &headers)?;
            let is_lenient = ask.is_named;
            let way = Hop { least, is_lenient, from: from.as_ref(), ..Hop::to(&url) };
            let response = self.transports.send(question, way).await?;
            let direct = response.extensions().get::<HttpInfo>().map(HttpInfo::remote_addr);
            // An address that is not known may be any.
            least = least.max(direct.map_or(Reach::World, |address| Reach::of(address.ip())));
            let (head, body) = split(&url, false, response)?;
            let answer = http1::interpret(ask.range, &head);
            let OriginAnswer::Redirect { location, .. } = &answer else {
                let direct = direct.filter(|_| hop == 0 && url.scheme() == hawker_proto::url::Scheme::Http);
                return Ok(Answered { head, answer, body, host: url.authority(), direct });
            };
            let next = http1::redirect_target(&url, location).map_err(|error| refused_redirect(&url, error))?;
            headers = http1::headers_after_redirect(&url, &next, &headers);
            from = Some(std::mem::replace(&mut url, next));
        }
        Err(OriginError::TooManyRedirects)
    }
}

fn request(ask: &Ask, url: &Url, headers: &[(String, String)]) -> Result<Request<Outgoing>, OriginError> {
    let uri: hyper::Uri = url.to_string().parse().map_err(|_| OriginError::BadHeader("Host".to_owned()))?;
    let mut request = Request::new(nothing());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_11;
    let fields = request.headers_mut();
    for (name, value) in headers.iter().filter(|(name, _)| !is_own_field(name)) {
        let bad = || OriginError::BadHeader(name.clone());
        let field = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
        fields.append(field, HeaderValue::from_str(value).map_err(|_| bad())?);
    }
    let mut set = |name: &'static str, value: &str| match HeaderValue::from_str(value) {
        Ok(value) => {
            fields.insert(HeaderName::from_static(name), value);
            Ok(())
        }
        Err(_) => Err(OriginError::BadHeader(name.to_owned())),
    };
    // Bytes as they are stored: a range of a compressed representation would be a range of something else.
    set("accept-encoding", "identity")?;
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("user-agent")) {
        set("user-agent", USER_AGENT)?;
    }
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("accept")) {
        set("accept", "*/*")?;
    }
    if let Some(range) = ask.range {
        set("range", &http1::range_header(range))?;
    }
    match &ask.condition {
        Condition::Any => {}
        Condition::Same(etag) if etag.starts_with('"') => set("if-match", etag)?,
        // A date with a range; a whole body is compared by its head instead.
        Condition::Same(date) if ask.range.is_some() => set("if-range", date)?,
        Condition::Same(date) => set("if-unmodified-since", date)?,
        Condition::Newer { etag: Some(etag), .. } => set("if-none-match", etag)?,
        Condition::Newer { last_modified: Some(date), .. } => set("if-modified-since", date)?,
        Condition::Newer { .. } => {}
    }
    Ok(request)
}

fn is_own_field(name: &str) -> bool {
    OWN_FIELDS.iter().any(|own| name.eq_ignore_ascii_case(own))
}

pub(crate) fn refused_redirect(from: &Url, error: RedirectError) -> OriginError {
    match error {
        RedirectError::Downgrade => OriginError::InsecureRedirect { host: from.authority() },
        RedirectError::Location(_) => OriginError::Malformed { host: from.authority(), reason: error.to_string() },
    }
}
