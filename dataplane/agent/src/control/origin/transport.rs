//! Connections to origins and registries: TLS, pools, and from how near an address may be.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, Version};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};

use hawker_proto::http1::{self, ResponseHead};
use hawker_proto::url::Url;

use super::error::OriginError;
use super::reach::{Reach, Resolver, TooNear};

/// DNS and TCP together, per address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// From the request until the head of the answer, connecting included.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(20);
/// Idle connections are closed before common servers close them (nginx: 75 s), so that few requests meet a dead one.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Idle connections kept for one origin.
const IDLE_PER_HOST_MAX: usize = 8;

/// The body of a request.
pub(crate) type Outgoing = BoxBody<Bytes, io::Error>;

/// A request without a body.
pub(crate) fn nothing() -> Outgoing {
    Empty::new().map_err(|never| match never {}).boxed()
}

/// Sends requests to whom the same certificates count.
#[derive(Clone)]
struct Transport {
    /// One for each [`Reach`], with connections of its own: one that was opened for a near address is not there for
    /// questions that must go far.
    https: [Https; Reach::COUNT],
}

type Https = Client<HttpsConnector<HttpConnector<Resolver>>, Outgoing>;

/// Where a request goes, and under which rules.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hop<'a> {
    pub(crate) url: &'a Url,
    /// Whose certificates count there: the URL itself, or the registry that named it.
    pub(crate) whose: &'a Url,
    /// Whether [`Trust::Anybody`] counts: for a registry, and for content whose digest is known.
    pub(crate) is_lenient: bool,
    /// Nothing nearer than this may be asked.
    pub(crate) least: Reach,
    /// Who redirected there.
    pub(crate) from: Option<&'a Url>,
    /// How long to wait for the head of the answer.
    pub(crate) limit: Duration,
}

impl<'a> Hop<'a> {
    /// To `url`, from wherever.
    pub(crate) const fn to(url: &'a Url) -> Self {
        Self { url, whose: url, is_lenient: false, least: Reach::Host, from: None, limit: HEAD_TIMEOUT }
    }
}

/// Who is believed to be a host.
#[derive(Debug)]
pub(crate) enum Trust {
    /// Whom these certificates vouch for, beside the system's.
    Also(Vec<CertificateDer<'static>>),
    /// Whoever answers there.
    Anybody,
}

/// Sends requests. Cheap to clone; connections are shared.
#[derive(Clone)]
pub(crate) struct Transports {
    usual: Transport,
    /// Of registries with a trust of their own, by `host:port` as [`Url::authority`] writes it.
    own: Arc<HashMap<String, Own>>,
}

struct Own {
    transport: Transport,
    is_anybody: bool,
}

impl fmt::Debug for Transports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transports").field("own", &self.own.len()).finish_non_exhaustive()
    }
}

impl Transports {
    /// Trusts the system's certificates (`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured), and for each of `own` whom it
    /// names. A host without any can still ask over http; https then fails by name.
    pub(crate) fn new(own: Vec<(String, Trust)>) -> Self {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        let (added, ignored) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            tracing::warn!(
                ignored,
                errors = found.errors.len(),
                "no trusted certificates found: https origins will fail"
            );
        }
        let with_own = |(authority, trust)| {
            let own = match trust {
                Trust::Anybody => Own { transport: Transport::to_anybody(), is_anybody: true },
                Trust::Also(certificates) => {
                    let mut roots = roots.clone();
                    roots.add_parsable_certificates(certificates);
                    Own { transport: Transport::new(roots), is_anybody: false }
                }
            };
            (authority, own)
        };
        let own = own.into_iter().map(with_own).collect();
        Self { usual: Transport::new(roots), own: Arc::new(own) }
    }

    /// Trusts `roots` alone, and anybody at these authorities.
    #[cfg(test)]
    pub(crate) fn with_roots(roots: RootCertStore, anybody: &[String]) -> Self {
        let own =
            |authority: &String| (authority.clone(), Own { transport: Transport::to_anybody(), is_anybody: true });
        Self { usual: Transport::new(roots), own: Arc::new(anybody.iter().map(own).collect()) }
    }

    /// Sends `request` where `hop` says.
    ///
    /// # Errors
    /// No answer.
    pub(crate) async fn send(
        &self,
        request: Request<Outgoing>,
        hop: Hop<'_>,
    ) -> Result<Response<Incoming>, OriginError> {
        let Hop { url, whose, is_lenient, least, from, limit } = hop;
        let host = url.authority();
        let too_near =
            |to: String| OriginError::PrivateRedirect { host: from.map(Url::authority).unwrap_or_default(), to };
        // hyper asks no resolver about addresses.
        if !least.admits(url) {
            return Err(too_near(host));
        }
        // Whoever names another host vouches for it with certificates only.
        let counts = |own: &&Own| !own.is_anybody || (is_lenient && whose.host() == url.host());
        let own = self.own.get(&whose.authority()).filter(counts);
        let transport = own.map_or(&self.usual, |own| &own.transport);
        match tokio::time::timeout(limit, transport.https[least as usize].request(request)).await {
            Err(_) => Err(OriginError::Timeout { host, waited: limit }),
            Ok(Err(error)) if TooNear::is_in(&error) => Err(too_near(host)),
            Ok(Err(error)) if error.is_connect() => Err(OriginError::Connect { host, reason: innermost(&error) }),
            Ok(Err(error)) => Err(OriginError::Broken { host, reason: innermost(&error) }),
            Ok(Ok(response)) => Ok(response),
        }
    }
}

impl Transport {
    fn new(roots: RootCertStore) -> Self {
        Self::over(|tls, _| tls.with_root_certificates(roots))
    }

    fn to_anybody() -> Self {
        Self::over(|tls, provider| tls.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(provider))))
    }

    fn over(verify: impl FnOnce(Unarmed, Arc<CryptoProvider>) -> Armed) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("ring supports TLS 1.2 and 1.3");
        let tls = verify(tls, provider).with_no_client_auth();
        Self { https: Reach::ALL.map(|least| https(tls.clone(), least)) }
    }
}

type Unarmed = rustls::ConfigBuilder<rustls::ClientConfig, rustls::WantsVerifier>;
type Armed = rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert>;

/// Takes any certificate. Whoever answers must have its key all the same: a signature that is wrong is a broken
/// connection, not a choice.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
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

/// The head in the form that `http1` judges. Fields that are not text mean nothing to Hawker and are left out.
///
/// # Errors
/// There is more than one reading of where the body ends.
pub(crate) fn split(
    url: &Url,
    is_head_request: bool,
    response: Response<Incoming>,
) -> Result<(ResponseHead, Incoming), OriginError> {
    let (parts, body) = response.into_parts();
    let version_minor = u8::from(parts.version != Version::HTTP_10);
    let headers = parts
        .headers
        .iter()
        .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())))
        .collect();
    let head = ResponseHead { status: parts.status.as_u16(), version_minor, headers };
    // hyper accepts several equal Content-Length fields; whatever http1 refuses is refused here too.
    if let Err(error) = head.framing(is_head_request) {
        return Err(OriginError::Malformed { host: url.authority(), reason: error.to_string() });
    }
    Ok((head, body))
}

/// The cause below hyper's wrappers, which only say "client error (Connect)".
pub(crate) fn innermost(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
