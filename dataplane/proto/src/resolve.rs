//! From what a user names to an immutable task: URL -> [`ResolveKey`] -> [`Version`] -> [`TaskId`].
//!
//! These are identities: hosts of any release must compute the same bytes, or they fetch the same file twice.
//!
//! ```text
//! field(x)   = length of x in bytes, u64 LE | x
//! TaskId     = SHA-256( "hawker-task-v1" | variant u8 | length u64 LE, 2^64 - 1 = unknown | fields )
//!                variant 1: field(digest as text, "sha256:...", "sha512:..." or "blake3:...")
//!                variant 2: field(ResolveKey), field(version)
//! version    = 1 | strong ETag with its quotes
//!            | 2 | length u64 LE | Last-Modified as sent
//!            | 3 | nonce 16
//! ResolveKey = BLAKE3( field("hawker-resolve-v1") field(canonical URL) field(tag) field(application)
//!              field(credentials) )
//! credentials = empty when no header of `is_in_resolve_key` is there, else
//!              BLAKE3 keyed( field(name) field(value) ... ), names in lower case and sorted,
//!              key = BLAKE3 derive_key("hawker-credentials-v1", cluster key, empty when there is none)
//!            or, of content that is named by its digest,
//!              BLAKE3( field("hawker-resolve-digest-v1") field(digest as text) )
//! ```

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use sha2::{Digest as _, Sha256, Sha512};

use crate::http1::parse_date;
use crate::identity::update_field;
use crate::ids::{parse_hex, write_hex};
use crate::url::{Url, UrlError};
use crate::{ClusterKey, TaskId};

mod signature;

/// How old Last-Modified must be to name a version: it counts whole seconds, so that a younger file may change once
/// more within the same one. 60 s as RFC 9110, section 8.8.2.2 suggests.
const MODIFIED_AGE_S_MIN: u64 = 60;

const TASK_DOMAIN: &[u8] = b"hawker-task-v1";
const RESOLVE_DOMAIN: &[u8] = b"hawker-resolve-v1";
const RESOLVE_DIGEST_DOMAIN: &[u8] = b"hawker-resolve-digest-v1";
const CREDENTIALS_CONTEXT: &str = "hawker-credentials-v1";

/// A hash of content that a user or a registry states beforehand.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Digest {
    /// SHA-256, of OCI registries and `sha256sum`.
    Sha256([u8; 32]),
    /// SHA-512, which OCI registries may use, too.
    Sha512([u8; 64]),
    /// BLAKE3, which a sealed task's root already is.
    Blake3([u8; 32]),
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, bytes) = match self {
            Self::Sha256(bytes) => ("sha256:", bytes.as_slice()),
            Self::Sha512(bytes) => ("sha512:", bytes.as_slice()),
            Self::Blake3(bytes) => ("blake3:", bytes.as_slice()),
        };
        f.write_str(name)?;
        write_hex(f, bytes)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, ParseDigestError> {
        let (name, hex) = text.split_once(':').ok_or(ParseDigestError)?;
        let digest = match name {
            "sha256" => parse_hex(hex).map(Self::Sha256),
            "sha512" => parse_hex(hex).map(Self::Sha512),
            "blake3" => parse_hex(hex).map(Self::Blake3),
            _ => return Err(ParseDigestError),
        };
        digest.map_err(|_| ParseDigestError)
    }
}

/// Computes a digest of the kind that is expected, over content that comes in order.
#[derive(Clone, Debug)]
pub enum DigestHasher {
    /// For [`Digest::Sha256`].
    Sha256(Sha256),
    /// For [`Digest::Sha512`].
    Sha512(alloc::boxed::Box<Sha512>),
    /// For [`Digest::Blake3`].
    Blake3(alloc::boxed::Box<blake3::Hasher>),
}

impl DigestHasher {
    /// A hasher of the kind of `expected`.
    #[must_use]
    pub fn like(expected: &Digest) -> Self {
        match expected {
            Digest::Sha256(_) => Self::Sha256(Sha256::new()),
            Digest::Sha512(_) => Self::Sha512(alloc::boxed::Box::new(Sha512::new())),
            Digest::Blake3(_) => Self::Blake3(alloc::boxed::Box::new(blake3::Hasher::new())),
        }
    }

    /// Takes the next bytes of the content.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
            Self::Blake3(hasher) => drop(hasher.update(bytes)),
        }
    }

    /// The digest of all of it.
    #[must_use]
    pub fn finish(self) -> Digest {
        match self {
            Self::Sha256(hasher) => Digest::Sha256(hasher.finalize().into()),
            Self::Sha512(hasher) => Digest::Sha512(hasher.finalize().into()),
            Self::Blake3(hasher) => Digest::Blake3(hasher.finalize().into()),
        }
    }
}

/// Text that is no digest: the fault of whoever wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseDigestError;

impl fmt::Display for ParseDigestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected sha256: or blake3: and 64, or sha512: and 128 lower-case hexadecimal digits")
    }
}

impl core::error::Error for ParseDigestError {}

/// A URL as it counts for identity: two spellings of one address are equal, and no signature is left in it, so that it
/// may be stored and logged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CanonicalUrl(String);

impl CanonicalUrl {
    /// The canonical form of `text`, and whether a signature (of S3, GCS, OSS, OBS, COS, Azure or CloudFront) was taken
    /// out of its query. A signature is a credential: whoever asks must then prove access themselves.
    ///
    /// # Errors
    /// As [`Url::parse`].
    pub fn parse(text: &str) -> Result<(Self, bool), UrlError> {
        let url = Url::parse(text)?;
        let path = upper_case_escapes(url.path());
        let query = url.query().map(upper_case_escapes);
        let stripped = query.as_deref().and_then(signature::strip);
        let is_signed = stripped.is_some();
        let query = stripped.map_or(query, |rest| Some(rest).filter(|rest| !rest.is_empty()));
        Ok((Self(url.with_target(&path, query.as_deref())), is_signed))
    }

    /// The URL.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CanonicalUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `%2f` and `%2F` are one character: RFC 3986, section 6.2.2.1.
fn upper_case_escapes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('%') {
        let is_escape = |escape: &&str| escape[1..].bytes().all(|digit| digit.is_ascii_hexdigit());
        let (before, from) = rest.split_at(start);
        let escape = from.get(..3).filter(is_escape).unwrap_or("%");
        out.push_str(before);
        out.push_str(&escape.to_ascii_uppercase());
        rest = &from[escape.len()..];
    }
    out + rest
}

/// Names what a user asked for: the same key, the same resolve.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResolveKey(pub [u8; 32]);

impl fmt::Display for ResolveKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for ResolveKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ResolveKey({self})")
    }
}

/// The key of `url` asked for with `headers`, for the purpose that `tag` and `application` name (both may be empty).
/// Credentials enter only as a hash keyed by the cluster key: nobody outside can try passwords against a ResolveKey.
#[must_use]
pub fn resolve_key(
    cluster: Option<&ClusterKey>,
    url: &CanonicalUrl,
    tag: &str,
    application: &str,
    headers: &[(String, String)],
) -> ResolveKey {
    let credentials = credentials_hash(cluster, headers);
    let mut hasher = blake3::Hasher::new();
    update_field(&mut hasher, RESOLVE_DOMAIN);
    for text in [url.as_str(), tag, application] {
        update_field(&mut hasher, text.as_bytes());
    }
    update_field(&mut hasher, credentials.as_ref().map_or(&[], |hash| hash.as_bytes().as_slice()));
    ResolveKey(*hasher.finalize().as_bytes())
}

/// The key of content whose digest is known beforehand: the same from whatever URL and for whoever asks, so that a host
/// must see to it that its callers may have the content.
#[must_use]
pub fn resolve_key_of_digest(digest: &Digest) -> ResolveKey {
    let mut hasher = blake3::Hasher::new();
    update_field(&mut hasher, RESOLVE_DIGEST_DOMAIN);
    update_field(&mut hasher, alloc::format!("{digest}").as_bytes());
    ResolveKey(*hasher.finalize().as_bytes())
}

fn credentials_hash(cluster: Option<&ClusterKey>, headers: &[(String, String)]) -> Option<blake3::Hash> {
    let mut fields: Vec<(String, &str)> = headers
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim_matches([' ', '\t'])))
        .filter(|(name, _)| is_in_resolve_key(name))
        .collect();
    // Stable: the order of two fields of one name means something.
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    let secret = cluster.map_or(&[][..], |key| key.as_bytes());
    let mut hasher = blake3::Hasher::new_keyed(&blake3::derive_key(CREDENTIALS_CONTEXT, secret));
    for (name, value) in &fields {
        update_field(&mut hasher, name.as_bytes());
        update_field(&mut hasher, value.as_bytes());
    }
    (!fields.is_empty()).then(|| hasher.finalize())
}

/// What a header's name holds when its value proves who somebody is. By part and not by name, because every server has
/// one of its own (`PRIVATE-TOKEN`, `X-JFrog-Art-Api`, `X-Goog-Api-Key`): too many only cost sharing, one too few
/// would hand one user's file to another.
const CREDENTIAL_WORDS: [&str; 12] = [
    "access-key",
    "api-key",
    "apikey",
    "art-api",
    "auth",
    "cookie",
    "credential",
    "passw",
    "secret",
    "session",
    "signature",
    "token",
];

fn is_credential(name: &str) -> bool {
    CREDENTIAL_WORDS.iter().any(|word| name.contains(word))
}

/// Whether a request header, its name in lower case, is part of a [`ResolveKey`].
fn is_in_resolve_key(name: &str) -> bool {
    name == "accept" || is_credential(name)
}

/// Whether any of `headers` is a credential, so that each user must prove access before getting a byte.
#[must_use]
pub fn is_credentialed(headers: &[(String, String)]) -> bool {
    headers.iter().any(|(name, _)| is_credential(&name.to_ascii_lowercase()))
}

/// What tells this content of a URL from an earlier or later one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// A strong entity tag, with its quotes.
    ETag(String),
    /// A modification time old enough to be sure, and the length.
    Modified {
        /// Last-Modified as the origin sent it.
        last_modified: String,
        /// Bytes of content.
        length: u64,
    },
    /// The origin gives nothing to tell by: this resolve is its own version, and nobody else's.
    Nonce([u8; 16]),
}

/// What a response says about its version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Validators<'a> {
    /// `ETag`.
    pub etag: Option<&'a str>,
    /// `Last-Modified`.
    pub last_modified: Option<&'a str>,
    /// `Date`.
    pub date: Option<&'a str>,
    /// Bytes of the whole content, from Content-Length or Content-Range.
    pub length: Option<u64>,
}

/// The version of a response: its strong ETag; else Last-Modified with the length, when at least 60 s older than Date;
/// else `nonce`, which the caller draws at random.
#[must_use]
pub fn version_of(validators: &Validators<'_>, nonce: [u8; 16]) -> Version {
    if let Some(etag) = validators.etag.filter(|etag| is_strong_etag(etag)) {
        return Version::ETag(etag.to_owned());
    }
    if let (Some(last_modified), Some(date), Some(length)) =
        (validators.last_modified, validators.date, validators.length)
        && let (Some(modified_s), Some(date_s)) = (parse_date(last_modified), parse_date(date))
        && date_s.checked_sub(modified_s).is_some_and(|age_s| age_s >= MODIFIED_AGE_S_MIN)
    {
        return Version::Modified { last_modified: last_modified.to_owned(), length };
    }
    Version::Nonce(nonce)
}

/// RFC 9110, section 8.8.3: quoted, and without `W/` before it.
fn is_strong_etag(etag: &str) -> bool {
    let inner = etag.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    inner.is_some_and(|inner| !inner.is_empty() && !inner.contains('"') && !inner.bytes().any(|b| b.is_ascii_control()))
}

/// The task of content whose digest is known beforehand: the same from whatever URL.
#[must_use]
pub fn task_id_of_digest(length: Option<u64>, digest: &Digest) -> TaskId {
    task_id(1, length, &[alloc::format!("{digest}").as_bytes()])
}

/// The task of one version of what `key` names.
#[must_use]
pub fn task_id_of_version(length: Option<u64>, key: ResolveKey, version: &Version) -> TaskId {
    let mut bytes = Vec::new();
    match version {
        Version::ETag(etag) => {
            bytes.push(1);
            bytes.extend_from_slice(etag.as_bytes());
        }
        Version::Modified { last_modified, length } => {
            bytes.push(2);
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(last_modified.as_bytes());
        }
        Version::Nonce(nonce) => {
            bytes.push(3);
            bytes.extend_from_slice(nonce);
        }
    }
    task_id(2, length, &[&key.0, &bytes])
}

fn task_id(variant: u8, length: Option<u64>, fields: &[&[u8]]) -> TaskId {
    let mut hasher = Sha256::new();
    hasher.update(TASK_DOMAIN);
    hasher.update([variant]);
    hasher.update(length.unwrap_or(u64::MAX).to_le_bytes());
    for field in fields {
        hasher.update((field.len() as u64).to_le_bytes());
        hasher.update(field);
    }
    TaskId(hasher.finalize().into())
}

/// Whether a response may serve others than the one who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sharing {
    /// Anybody with the same [`ResolveKey`].
    Shared,
    /// Only this request, unless an operator says otherwise.
    Private,
}

/// What `Cache-Control` and `Vary` say, each given as all of its values. Private: no-store, private, and Vary on
/// anything that neither the [`ResolveKey`] holds nor is without effect here (Accept-Encoding: we ask for identity;
/// Origin: we send none). In doubt, private.
pub fn sharing<'a>(
    cache_control: impl IntoIterator<Item = &'a str>,
    vary: impl IntoIterator<Item = &'a str>,
) -> Sharing {
    let is_private_directive = |item: &str| {
        // A quoted comma splits too: its parts then count as directives, which errs on the private side.
        let name = item.split('=').next().unwrap_or_default().trim_matches([' ', '\t', '"']);
        name.eq_ignore_ascii_case("no-store") || name.eq_ignore_ascii_case("private")
    };
    let is_harmless = |item: &str| {
        let name = item.trim().to_ascii_lowercase();
        matches!(name.as_str(), "" | "accept-encoding" | "origin") || is_in_resolve_key(&name)
    };
    let is_private = cache_control.into_iter().flat_map(|value| value.split(',')).any(is_private_directive)
        || !vary.into_iter().flat_map(|value| value.split(',')).all(is_harmless);
    if is_private { Sharing::Private } else { Sharing::Shared }
}

#[cfg(test)]
mod tests;
