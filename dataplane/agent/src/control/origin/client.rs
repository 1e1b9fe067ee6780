//! One GET, with TLS, redirects and their rules.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Request, Response, Version};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{HttpConnector, HttpInfo};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use hawker_proto::ByteRange;
use hawker_proto::http1::{self, OriginAnswer, RedirectError, ResponseHead};
use hawker_proto::url::Url;

use super::error::OriginError;
use super::reach::{Reach, Resolver, TooNear};

/// DNS and TCP together, per address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// From the request until the head of the answer, connecting included.
const HEAD_TIMEOUT: Duration = Duration::from_secs(20);
/// Idle connections are closed before common servers close them (nginx: 75 s), so that few requests meet a dead one.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Idle connections kept for one origin.
const IDLE_PER_HOST_MAX: usize = 8;
/// What Hawker calls itself unless the caller says otherwise.
const USER_AGENT: &str = concat!("hawker/", env!("CARGO_PKG_VERSION"));

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

/// Speaks to origins. Cheap to clone; connections are shared.
#[derive(Clone)]
pub(crate) struct OriginClient {
    /// One for each [`Reach`], with connections of its own: one that was opened for a near address is not there for
    /// questions that must go far.
    https: [Https; Reach::COUNT],
}

type Https = Client<HttpsConnector<HttpConnector<Resolver>>, Empty<Bytes>>;

impl fmt::Debug for OriginClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OriginClient").finish_non_exhaustive()
    }
}

impl OriginClient {
    /// A client that trusts the system's certificates (`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured). A host
    /// without any can still fetch over http; https then fails by name.
    pub(crate) fn new() -> Self {
        let mut roots = rustls::RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        let (added, ignored) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            tracing::warn!(
                ignored,
                errors = found.errors.len(),
                "no trusted certificates found: https origins will fail"
            );
        }
        Self::with_roots(roots)
    }

    /// A client that trusts `roots` alone.
    pub(crate) fn with_roots(roots: rustls::RootCertStore) -> Self {
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring supports TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { https: Reach::ALL.map(|least| https(tls.clone(), least)) }
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
            let response = self.send(ask, &url, &headers, least, from.as_ref()).await?;
            let direct = response.extensions().get::<HttpInfo>().map(HttpInfo::remote_addr);
            // An address that is not known may be any.
            least = least.max(direct.map_or(Reach::World, |address| Reach::of(address.ip())));
            let (head, body) = split(&url, response)?;
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

    async fn send(
        &self,
        ask: &Ask,
        url: &Url,
        headers: &[(String, String)],
        least: Reach,
        from: Option<&Url>,
    ) -> Result<Response<Incoming>, OriginError> {
        let request = request(ask, url, headers)?;
        let host = url.authority();
        let too_near =
            |to: String| OriginError::PrivateRedirect { host: from.map(Url::authority).unwrap_or_default(), to };
        // hyper asks no resolver about addresses.
        if !least.admits(url) {
            return Err(too_near(host));
        }
        match tokio::time::timeout(HEAD_TIMEOUT, self.https[least as usize].request(request)).await {
            Err(_) => Err(OriginError::Timeout { host, waited: HEAD_TIMEOUT }),
            Ok(Err(error)) if TooNear::is_in(&error) => Err(too_near(host)),
            Ok(Err(error)) if error.is_connect() => Err(OriginError::Connect { host, reason: innermost(&error) }),
            Ok(Err(error)) => Err(OriginError::Broken { host, reason: innermost(&error) }),
            Ok(Ok(response)) => Ok(response),
        }
    }
}

fn https(tls: rustls::ClientConfig, least: Reach) -> Https {
    let mut tcp = HttpConnector::new_with_resolver(Resolver::new(least));
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
        .http1_max_buf_size(http1::HTTP_HEAD_BYTES_MAX)
        .build(https)
}

fn request(ask: &Ask, url: &Url, headers: &[(String, String)]) -> Result<Request<Empty<Bytes>>, OriginError> {
    let uri: hyper::Uri = url.to_string().parse().map_err(|_| OriginError::BadHeader("Host".to_owned()))?;
    let mut request = Request::new(Empty::new());
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

/// The head in the form that `http1` judges. Fields that are not text mean nothing to Hawker and are left out.
fn split(url: &Url, response: Response<Incoming>) -> Result<(ResponseHead, Incoming), OriginError> {
    let (parts, body) = response.into_parts();
    let version_minor = u8::from(parts.version != Version::HTTP_10);
    let headers = parts
        .headers
        .iter()
        .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())))
        .collect();
    let head = ResponseHead { status: parts.status.as_u16(), version_minor, headers };
    // hyper accepts several equal Content-Length fields; whatever http1 refuses is refused here too.
    if let Err(error) = head.framing(false) {
        return Err(OriginError::Malformed { host: url.authority(), reason: error.to_string() });
    }
    Ok((head, body))
}

fn refused_redirect(from: &Url, error: RedirectError) -> OriginError {
    match error {
        RedirectError::Downgrade => OriginError::InsecureRedirect { host: from.authority() },
        RedirectError::Location(_) => OriginError::Malformed { host: from.authority(), reason: error.to_string() },
    }
}

/// The cause below hyper's wrappers, which only say "client error (Connect)".
pub(super) fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
