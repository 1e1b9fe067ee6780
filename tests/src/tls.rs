//! Certificates of origins, good and bad.

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A self-signed certificate and its key.
#[derive(Debug)]
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl Identity {
    /// A certificate for `host`, valid for all of this century, or until 2001 when `is_expired`.
    ///
    /// # Panics
    /// When `host` is no name.
    #[must_use]
    pub fn new(host: &str, is_expired: bool) -> Self {
        let mut params = CertificateParams::new(vec![host.to_owned()]).expect("a host name");
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(if is_expired { 2001 } else { 2100 }, 1, 1);
        let key = KeyPair::generate().expect("randomness");
        let certificate = params.self_signed(&key).expect("a certificate").der().clone();
        Self { certificate, key }
    }

    /// What a TLS server that shows this certificate runs with.
    ///
    /// # Panics
    /// Never: key and certificate were made for each other.
    #[must_use]
    pub fn server(&self) -> Arc<ServerConfig> {
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring supports TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], key)
            .expect("the key is the certificate's");
        Arc::new(config)
    }
}

/// Writes what `SSL_CERT_FILE` may name: `trusted` and nobody else.
///
/// # Panics
/// When the file cannot be written.
pub fn write_roots(path: &Path, trusted: &[&Identity]) {
    let pem = trusted.iter().map(|identity| {
        let text = base64::engine::general_purpose::STANDARD.encode(&identity.certificate);
        let lines: Vec<&str> =
            text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
    });
    std::fs::write(path, pem.collect::<String>()).expect("room");
}
