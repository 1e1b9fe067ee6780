//! Certificates of origins, good and bad.

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SigningKey as _, date_time_ymd};
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

    /// The certificate, DER.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// A signature by ECDSA with P-256 and SHA-256: its two numbers, 32 bytes each.
    ///
    /// # Panics
    /// Never: keys are of that kind.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let der = self.key.sign(message).expect("a key of that kind");
        // SEQUENCE { INTEGER, INTEGER }, each with its length in one byte, and with a zero before a first bit that is set.
        let mut rest = &der[2..];
        let mut numbers = Vec::new();
        for _ in 0..2 {
            let (number, after) = rest[2..].split_at(usize::from(rest[1]));
            let digits = &number[number.len().saturating_sub(32)..];
            numbers.extend(std::iter::repeat_n(0, 32 - digits.len()));
            numbers.extend_from_slice(digits);
            rest = after;
        }
        numbers
    }

    /// Writes certificate and key as a server reads them from files.
    ///
    /// # Panics
    /// When they cannot be written.
    pub fn write(&self, certificate: &Path, key: &Path) {
        write_roots(certificate, &[self]);
        std::fs::write(key, pem("PRIVATE KEY", &self.key.serialize_der())).expect("room");
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

/// Vouches for others.
#[derive(Debug)]
pub struct Authority {
    params: CertificateParams,
    identity: Identity,
}

impl Authority {
    /// An authority called `name`.
    ///
    /// # Panics
    /// Never: any text is a name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("randomness");
        let certificate = params.self_signed(&key).expect("a certificate").der().clone();
        Self { params, identity: Identity { certificate, key } }
    }

    /// Its own certificate and key.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// A certificate for `host`.
    ///
    /// # Panics
    /// When `host` is no name.
    #[must_use]
    pub fn issue(&self, host: &str) -> Identity {
        let params = CertificateParams::new(vec![host.to_owned()]).expect("a host name");
        let key = KeyPair::generate().expect("randomness");
        let issuer = Issuer::from_params(&self.params, &self.identity.key);
        let certificate = params.signed_by(&key, &issuer).expect("a certificate").der().clone();
        Identity { certificate, key }
    }
}

/// Writes what `SSL_CERT_FILE` may name: `trusted` and nobody else.
///
/// # Panics
/// When the file cannot be written.
pub fn write_roots(path: &Path, trusted: &[&Identity]) {
    let roots = trusted.iter().map(|identity| pem("CERTIFICATE", &identity.certificate));
    std::fs::write(path, roots.collect::<String>()).expect("room");
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
