//! Who a host is (an Ed25519 key) and who belongs to the cluster (a shared key).
//!
//! Everything signed or authenticated carries a *domain*, a constant that names the structure and its version, so
//! that bytes signed as one thing never pass as another:
//!
//! ```text
//! signed bytes  = domain | 0x00 | message                                      (Ed25519, RFC 8032)
//! MAC           = BLAKE3 keyed( field(domain) | field(part) ... ),  field(x) = length of x, u64 LE | x
//! HostId        = BLAKE3(public key)
//! ```

use alloc::vec::Vec;
use core::fmt;

use ed25519_dalek::{Signer, SigningKey, VerifyingKey};

use crate::HostId;
use crate::ids::{ParseIdError, parse_hex, write_hex};

/// A host's secret: whoever holds it is that host.
#[derive(Clone)]
pub struct HostKey(SigningKey);

impl HostKey {
    /// The key of 32 random bytes, drawn by a shell from the system's generator and kept on disk.
    #[must_use]
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&seed))
    }

    /// The bytes to keep: see [`Self::from_seed`].
    #[must_use]
    pub fn seed(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// What others check this host's signatures with.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// The name that follows from the key.
    #[must_use]
    pub fn host_id(&self) -> HostId {
        self.public().host_id()
    }

    /// Signs `message` as what `domain` names.
    #[must_use]
    pub fn sign(&self, domain: &'static str, message: &[u8]) -> Signature {
        Signature(self.0.sign(&signed_bytes(domain, message)).to_bytes())
    }
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostKey(of {:?})", self.host_id())
    }
}

/// A host's (or a scheduler's) Ed25519 public key. Any 32 bytes: whether they are a key shows when they verify.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// The host that holds the secret half.
    #[must_use]
    pub fn host_id(&self) -> HostId {
        HostId(*blake3::hash(&self.0).as_bytes())
    }

    /// Checks that the holder of this key signed `message` as what `domain` names. Strict: a key of small order,
    /// under which anything verifies, is refused.
    ///
    /// # Errors
    /// The signature is another's, or of other bytes, or the key is none: the fault of whoever presented them.
    pub fn verify(&self, domain: &'static str, message: &[u8], signature: &Signature) -> Result<(), SignatureError> {
        let key = VerifyingKey::from_bytes(&self.0).map_err(|_| SignatureError)?;
        let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
        key.verify_strict(&signed_bytes(domain, message), &signature).map_err(|_| SignatureError)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// An Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signature(pub [u8; 64]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signature(")?;
        write_hex(f, &self.0)?;
        f.write_str(")")
    }
}

/// A signature that does not verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignatureError;

impl fmt::Display for SignatureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the signature is not by this key over these bytes")
    }
}

impl core::error::Error for SignatureError {}

fn signed_bytes(domain: &'static str, message: &[u8]) -> Vec<u8> {
    assert!(!domain.as_bytes().contains(&0), "a NUL ends the domain");
    [domain.as_bytes(), &[0], message].concat()
}

/// What all hosts of a cluster share and nobody else knows.
#[derive(Clone)]
pub struct ClusterKey([u8; 32]);

impl ClusterKey {
    /// The key of 32 random bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The secret itself, for the shell that writes the key file and for nothing else.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key as it stands in a key file or an environment variable: 64 lower-case hexadecimal digits, with white
    /// space around them allowed because editors end files with a newline.
    ///
    /// # Errors
    /// Any other text: the operator's fault. The error does not repeat the text.
    pub fn from_text(text: &str) -> Result<Self, ParseIdError> {
        parse_hex(text.trim_ascii()).map(Self)
    }

    /// Authenticates `parts` as what `domain` names: see the module's diagram.
    #[must_use]
    pub fn mac(&self, domain: &'static str, parts: &[&[u8]]) -> [u8; 32] {
        *keyed(&self.0, domain, parts).as_bytes()
    }

    /// Whether `mac` is [`Self::mac`] of the same; takes the same time wherever they differ.
    #[must_use]
    pub fn verify_mac(&self, domain: &'static str, parts: &[&[u8]], mac: &[u8; 32]) -> bool {
        // `blake3::Hash` compares in constant time.
        keyed(&self.0, domain, parts) == blake3::Hash::from_bytes(*mac)
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(secret)")
    }
}

fn keyed(key: &[u8; 32], domain: &'static str, parts: &[&[u8]]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_keyed(key);
    update_field(&mut hasher, domain.as_bytes());
    for part in parts {
        update_field(&mut hasher, part);
    }
    hasher.finalize()
}

/// Hashes `bytes` behind their length, so that no two lists of fields hash the same bytes.
pub(crate) fn update_field(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::ToString;

    const DOMAIN: &str = "hawker-test-v1";

    // Made with Python's `blake3` and `cryptography`, from the diagram at the top.
    const GOLDEN_HOST: &str = "6c31041268f471609c79f5f2dbcc38e4a4ab2f4d416109a4e09fcf50fd0f0062";
    const GOLDEN_SIGNATURE: &str = "Signature(e31160dff0de81fd0f84cb511a21532b54ab3534deed7ab5aaf6e2c7205a7283\
                                    a8b244d71ea90fae1ceadf8d9290dcd8b929f1ebf495b366466b2bb8344b6700)";
    const GOLDEN_MAC: &str = "d96455e650be37db0c6142c86c66ab6b2462571aac3cf77f761d26bde8265090";

    #[test]
    fn host_id_and_signature_have_golden_bytes() {
        // RFC 8032, section 7.1, test 1: the public key of this seed.
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60".parse::<HostId>().unwrap().0;
        let key = HostKey::from_seed(seed);
        assert_eq!(key.public().to_string(), "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        assert_eq!(key.host_id().to_string(), GOLDEN_HOST);
        assert_eq!(key.seed(), seed);
        let signature = key.sign(DOMAIN, b"message");
        assert_eq!(format!("{signature:?}"), GOLDEN_SIGNATURE);
    }

    #[test]
    fn signature_is_bound_to_key_domain_and_message() {
        let key = HostKey::from_seed([1; 32]);
        let signature = key.sign(DOMAIN, b"message");
        assert_eq!(key.public().verify(DOMAIN, b"message", &signature), Ok(()));
        assert_eq!(key.public().verify("hawker-test-v2", b"message", &signature), Err(SignatureError));
        assert_eq!(key.public().verify(DOMAIN, b"messagE", &signature), Err(SignatureError));
        assert_eq!(HostKey::from_seed([2; 32]).public().verify(DOMAIN, b"message", &signature), Err(SignatureError));
    }

    #[test]
    fn key_of_small_order_verifies_nothing() {
        let mut identity_point = [0; 32];
        identity_point[0] = 1;
        let mut signature = [0; 64];
        signature[0] = 1;
        let verdict = PublicKey(identity_point).verify(DOMAIN, b"anything", &Signature(signature));
        assert_eq!(verdict, Err(SignatureError));
        assert_eq!(PublicKey([0xff; 32]).verify(DOMAIN, b"", &Signature([0xff; 64])), Err(SignatureError));
    }

    #[test]
    fn mac_is_bound_to_key_domain_and_the_division_into_parts() {
        let key = ClusterKey::from_bytes([3; 32]);
        let mac = key.mac(DOMAIN, &[b"ab", b"c"]);
        assert_eq!(HostId(mac).to_string(), GOLDEN_MAC);
        assert!(key.verify_mac(DOMAIN, &[b"ab", b"c"], &mac));
        assert!(!key.verify_mac(DOMAIN, &[b"a", b"bc"], &mac));
        assert!(!key.verify_mac(DOMAIN, &[b"abc"], &mac));
        assert!(!key.verify_mac("hawker-test-v2", &[b"ab", b"c"], &mac));
        assert!(!ClusterKey::from_bytes([4; 32]).verify_mac(DOMAIN, &[b"ab", b"c"], &mac));
    }

    #[test]
    fn cluster_key_is_read_from_text_and_never_shown() {
        let text = format!("{}\n", "07".repeat(32));
        let key = ClusterKey::from_text(&text).unwrap();
        assert_eq!(key.as_bytes(), &[7; 32]);
        assert_eq!(format!("{key:?}"), "ClusterKey(secret)");
        assert!(!format!("{:?}", HostKey::from_seed([7; 32])).contains("0707"));
        assert!(ClusterKey::from_text("07").is_err());
        assert!(ClusterKey::from_text("").is_err());
    }
}
