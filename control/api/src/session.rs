//! The session's handshake: from its messages to hawker-proto's transcript, the same for both ends.
//!
//! The scheduler sends a [`Challenge`], the agent answers with a [`Hello`] that proves both its keys over it, the
//! scheduler answers with a `Welcome` that does the same: see the proto file. The agent is the dialer.

use std::fmt;

use hawker_proto::frame::Hello as Offer;
use hawker_proto::handshake::{HandshakeError, LinkKind, Proof, Side, Transcript};
use hawker_proto::{ClusterKey, HostKey};

use crate::field::{self, FieldError};
use crate::scheduler::{Challenge, Hello, VERSION, Welcome};

/// Why a session does not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionError {
    /// A message of the other side makes no sense: it is broken, or speaks something else.
    Field(FieldError),
    /// The two do not belong together, or the other side could not prove who it is.
    Handshake(HandshakeError),
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(error) => error.fmt(f),
            Self::Handshake(HandshakeError::Version { dialer: agent, acceptor: scheduler }) => write!(
                f,
                "no common protocol version: the agent speaks {} to {}, the scheduler {} to {}: update the older one",
                agent.start(),
                agent.end(),
                scheduler.start(),
                scheduler.end()
            ),
            Self::Handshake(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SessionError {}

impl From<FieldError> for SessionError {
    fn from(error: FieldError) -> Self {
        Self::Field(error)
    }
}

impl From<HandshakeError> for SessionError {
    fn from(error: HandshakeError) -> Self {
        Self::Handshake(error)
    }
}

/// What a scheduler opens a stream with. `nonce` is 32 fresh random bytes.
#[must_use]
pub fn challenge(key: &HostKey, cluster: Option<&ClusterKey>, nonce: [u8; 32]) -> Challenge {
    Challenge {
        nonce: nonce.to_vec(),
        public_key: key.public().0.to_vec(),
        is_insecure: cluster.is_none(),
        version_min: VERSION.into(),
        version_max: VERSION.into(),
    }
}

/// An agent's answer: `hello` with what it says of itself (address, labels, ...) gets nonce, keys, versions, proofs.
/// The transcript is for [`check_welcome`].
///
/// # Errors
/// The challenge is malformed, has no version in common with us, or one side has a cluster key and the other none.
pub fn answer(
    challenge: &Challenge,
    mut hello: Hello,
    key: &HostKey,
    cluster: Option<&ClusterKey>,
    nonce: [u8; 32],
) -> Result<(Hello, Transcript), SessionError> {
    hello.nonce = nonce.to_vec();
    hello.public_key = key.public().0.to_vec();
    (hello.version_min, hello.version_max) = (VERSION.into(), VERSION.into());
    let ours = Offer {
        version_min: VERSION,
        version_max: VERSION,
        nonce,
        host: key.public(),
        roles: 0,
        is_secured: cluster.is_some(),
    };
    let transcript = Transcript::new(LinkKind::Control, ours, offer_of_challenge(challenge)?)?;
    let proof = transcript.prove(Side::Dialer, key, cluster);
    hello.mac = if cluster.is_some() { proof.mac.to_vec() } else { Vec::new() };
    hello.signature = proof.signature.0.to_vec();
    Ok((hello, transcript))
}

/// Checks an agent's answer to the challenge that *this stream* was opened with, which is what makes an old answer
/// worthless. The transcript is for [`prove_welcome`].
///
/// # Errors
/// The answer is malformed, or does not prove the cluster key or the host key.
pub fn check_hello(
    challenge: &Challenge,
    hello: &Hello,
    cluster: Option<&ClusterKey>,
) -> Result<Transcript, SessionError> {
    let theirs = Offer {
        version_min: version("version_min", hello.version_min)?,
        version_max: version("version_max", hello.version_max)?,
        nonce: field::array("nonce", &hello.nonce)?,
        host: field::public_key("public_key", &hello.public_key)?,
        roles: 0,
        is_secured: !hello.mac.is_empty(),
    };
    let transcript = Transcript::new(LinkKind::Control, theirs, offer_of_challenge(challenge)?)?;
    transcript.verify(Side::Dialer, cluster, &proof_of(&hello.mac, &hello.signature)?)?;
    Ok(transcript)
}

/// Fills a Welcome's proofs.
pub fn prove_welcome(welcome: &mut Welcome, transcript: &Transcript, key: &HostKey, cluster: Option<&ClusterKey>) {
    let proof = transcript.prove(Side::Acceptor, key, cluster);
    welcome.mac = if cluster.is_some() { proof.mac.to_vec() } else { Vec::new() };
    welcome.signature = proof.signature.0.to_vec();
}

/// Checks that the scheduler is of our cluster and holds the key it showed.
///
/// # Errors
/// As [`check_hello`].
pub fn check_welcome(
    welcome: &Welcome,
    transcript: &Transcript,
    cluster: Option<&ClusterKey>,
) -> Result<(), SessionError> {
    transcript.verify(Side::Acceptor, cluster, &proof_of(&welcome.mac, &welcome.signature)?)?;
    Ok(())
}

fn offer_of_challenge(challenge: &Challenge) -> Result<Offer, FieldError> {
    Ok(Offer {
        version_min: version("version_min", challenge.version_min)?,
        version_max: version("version_max", challenge.version_max)?,
        nonce: field::array("nonce", &challenge.nonce)?,
        host: field::public_key("public_key", &challenge.public_key)?,
        roles: 0,
        is_secured: !challenge.is_insecure,
    })
}

/// No MAC stands for zeros, which is what a transcript without cluster key asks for.
fn proof_of(mac: &[u8], signature: &[u8]) -> Result<Proof, FieldError> {
    let mac = field::optional_array("mac", mac)?.unwrap_or_default();
    Ok(Proof { mac, signature: field::signature("signature", signature)? })
}

fn version(field: &'static str, number: u32) -> Result<u16, FieldError> {
    u16::try_from(number).map_err(|_| FieldError { field, expected: "a version below 65536" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> (HostKey, HostKey) {
        (HostKey::from_seed([1; 32]), HostKey::from_seed([2; 32]))
    }

    fn meet(scheduler: Option<&ClusterKey>, agent: Option<&ClusterKey>) -> Result<(), SessionError> {
        let (scheduler_key, agent_key) = keys();
        let challenge = challenge(&scheduler_key, scheduler, [3; 32]);
        let (hello, ours) = answer(&challenge, Hello::default(), &agent_key, agent, [4; 32])?;
        let theirs = check_hello(&challenge, &hello, scheduler)?;
        let mut welcome = Welcome::default();
        prove_welcome(&mut welcome, &theirs, &scheduler_key, scheduler);
        check_welcome(&welcome, &ours, agent)
    }

    #[test]
    fn both_sides_prove_themselves() {
        let key = ClusterKey::from_bytes([7; 32]);
        assert_eq!(meet(Some(&key), Some(&key)), Ok(()));
        assert_eq!(meet(None, None), Ok(()));
    }

    #[test]
    fn wrong_or_missing_cluster_key_is_refused() {
        let (key, other) = (ClusterKey::from_bytes([7; 32]), ClusterKey::from_bytes([8; 32]));
        assert_eq!(meet(Some(&key), Some(&other)), Err(HandshakeError::Membership.into()));
        assert_eq!(meet(Some(&key), None), Err(HandshakeError::OneSideInsecure.into()));
        assert_eq!(meet(None, Some(&key)), Err(HandshakeError::OneSideInsecure.into()));
    }

    #[test]
    fn answer_to_another_challenge_proves_nothing() {
        let (scheduler_key, agent_key) = keys();
        let first = challenge(&scheduler_key, None, [3; 32]);
        let (hello, _) = answer(&first, Hello::default(), &agent_key, None, [4; 32]).unwrap();
        let second = challenge(&scheduler_key, None, [5; 32]);
        assert_eq!(check_hello(&second, &hello, None), Err(HandshakeError::Identity.into()));
    }
}
