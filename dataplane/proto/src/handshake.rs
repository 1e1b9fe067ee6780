//! How two hosts prove who they are before anything else goes over a link.
//!
//! ```text
//! dialer                                   acceptor
//!   HELLO(nonce, key, versions, roles)  ->
//!                                       <- HELLO(nonce, key, versions, roles)
//!                                       <- AUTH(mac, signature)
//!   AUTH(mac, signature)                ->            the dialer may send OPEN right behind it
//!
//! transcript = link kind u8 | version u16 | prover's side u8 (1 dialer, 2 acceptor) | hello of the dialer
//!              | hello of the acceptor
//! hello      = version_min u16 | version_max u16 | roles u8 | secured u8 | key 32 | nonce 32
//! mac        = keyed by the cluster key, domain "hawker-auth-v1"; zero when neither side has one
//! signature  = by the host key, domain "hawker-auth-v1"
//! ```
//!
//! Both nonces make every transcript new, so that an old AUTH proves nothing; the prover's side makes the two AUTHs
//! differ, so that one cannot be sent back; the versions both offered are inside, so that nobody can talk two hosts
//! down to an older one. The HostId is a hash of the key. Not here: on a plain link, somebody in the middle may still
//! change what follows; blocks are checked against signed records all the same.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::ops::RangeInclusive;

use crate::frame::{ErrorCode, Frame, FrameKind, Hello};
use crate::{ClusterKey, HostId, HostKey, PublicKey, Signature};

/// The oldest protocol version spoken here.
pub const VERSION_MIN: u16 = 1;
/// The newest protocol version spoken here.
pub const VERSION_MAX: u16 = 1;

const AUTH_DOMAIN: &str = "hawker-auth-v1";
const HELLO_TRANSCRIPT_BYTES: usize = 70;
const TRANSCRIPT_BYTES: usize = 4 + 2 * HELLO_TRANSCRIPT_BYTES;

/// What one side brings to a handshake.
#[derive(Clone, Copy, Debug)]
pub struct HandshakeConfig<'a> {
    /// Who we are.
    pub host_key: &'a HostKey,
    /// What proves that we belong; `None` when the operator said `--insecure`.
    pub cluster: Option<&'a ClusterKey>,
    /// 32 bytes from the system's random generator, never used before.
    pub nonce: [u8; 32],
    /// [`crate::frame::ROLE_WANTS`], [`crate::frame::ROLE_SERVES`], or both.
    pub roles: u8,
}

/// One side of a handshake on a peer link, without the socket.
#[derive(Clone, Debug)]
pub struct Handshake {
    side: Side,
    host_key: HostKey,
    cluster: Option<ClusterKey>,
    ours: Hello,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    AwaitHello,
    AwaitAuth(Transcript),
    /// Done or failed: nothing more is taken.
    Over,
}

/// What a frame led to: frames to send, in order, and the peer once it has proved itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// To be sent before anything else.
    pub send: Vec<Frame>,
    /// The handshake is over: from now on frames are those of the peer protocol.
    pub done: Option<Peer>,
}

/// A peer that has proved its key, and the cluster key if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its id.
    pub host: HostId,
    /// Its public key.
    pub key: PublicKey,
    /// The version both speak.
    pub version: u16,
    /// What it does on this link.
    pub roles: u8,
}

impl Handshake {
    /// The side that connected, and the HELLO it sends first.
    #[must_use]
    pub fn dial(config: &HandshakeConfig<'_>) -> (Self, Frame) {
        let handshake = Self::new(config, Side::Dialer);
        let hello = Frame::Hello(handshake.ours);
        (handshake, hello)
    }

    /// The side that was connected to; it speaks when spoken to.
    #[must_use]
    pub fn accept(config: &HandshakeConfig<'_>) -> Self {
        Self::new(config, Side::Acceptor)
    }

    fn new(config: &HandshakeConfig<'_>, side: Side) -> Self {
        let ours = Hello {
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            nonce: config.nonce,
            host: config.host_key.public(),
            roles: config.roles,
            is_secured: config.cluster.is_some(),
        };
        let (host_key, cluster) = (config.host_key.clone(), config.cluster.cloned());
        Self { side, host_key, cluster, ours, state: State::AwaitHello }
    }

    /// Takes the peer's next frame.
    ///
    /// # Errors
    /// The link must be closed; [`HandshakeError::answer`] says what to tell the peer first. The handshake takes
    /// nothing more.
    pub fn handle(&mut self, frame: &Frame) -> Result<Step, HandshakeError> {
        let state = core::mem::replace(&mut self.state, State::Over);
        match (state, frame) {
            (_, Frame::Error { code, text, .. }) => Err(HandshakeError::Refused { code: *code, text: text.clone() }),
            (State::AwaitHello, Frame::Hello(theirs)) => self.on_hello(*theirs),
            (State::AwaitAuth(transcript), Frame::Auth { mac, signature }) => {
                self.on_auth(&transcript, &Proof { mac: *mac, signature: *signature })
            }
            (_, frame) => Err(HandshakeError::Unexpected(frame.kind())),
        }
    }

    fn on_hello(&mut self, theirs: Hello) -> Result<Step, HandshakeError> {
        let (dialer, acceptor) = match self.side {
            Side::Dialer => (self.ours, theirs),
            Side::Acceptor => (theirs, self.ours),
        };
        let transcript = Transcript::new(LinkKind::Peer, dialer, acceptor)?;
        self.state = State::AwaitAuth(transcript);
        let send = match self.side {
            Side::Dialer => Vec::new(),
            Side::Acceptor => vec![Frame::Hello(self.ours), self.auth(&transcript)],
        };
        Ok(Step { send, done: None })
    }

    fn on_auth(&self, transcript: &Transcript, proof: &Proof) -> Result<Step, HandshakeError> {
        transcript.verify(self.side.other(), self.cluster.as_ref(), proof)?;
        let send = match self.side {
            Side::Dialer => vec![self.auth(transcript)],
            Side::Acceptor => Vec::new(),
        };
        Ok(Step { send, done: Some(transcript.peer(self.side.other())) })
    }

    fn auth(&self, transcript: &Transcript) -> Frame {
        let proof = transcript.prove(self.side, &self.host_key, self.cluster.as_ref());
        Frame::Auth { mac: proof.mac, signature: proof.signature }
    }
}

/// Which end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The end that connected.
    Dialer,
    /// The end that was connected to.
    Acceptor,
}

impl Side {
    const fn other(self) -> Self {
        match self {
            Self::Dialer => Self::Acceptor,
            Self::Acceptor => Self::Dialer,
        }
    }
}

/// What the link is for, so that a proof given on one kind means nothing on the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkKind {
    /// Host to host.
    Peer,
    /// Agent (the dialer) to scheduler.
    Control,
}

/// Everything both sides said before they proved it. The gRPC session carries the same fields in messages of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transcript {
    link: LinkKind,
    version: u16,
    dialer: Hello,
    acceptor: Hello,
}

/// What an AUTH holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// Keyed by the cluster key; zero when neither side has one.
    pub mac: [u8; 32],
    /// By the prover's host key.
    pub signature: Signature,
}

impl Transcript {
    /// The transcript of two HELLOs that can go together.
    ///
    /// # Errors
    /// [`HandshakeError::Version`], [`HandshakeError::OneSideInsecure`] or [`HandshakeError::Itself`].
    pub fn new(link: LinkKind, dialer: Hello, acceptor: Hello) -> Result<Self, HandshakeError> {
        if dialer.host == acceptor.host || dialer.nonce == acceptor.nonce {
            return Err(HandshakeError::Itself);
        }
        let version = dialer.version_max.min(acceptor.version_max);
        if version < dialer.version_min.max(acceptor.version_min) {
            let versions = |hello: Hello| hello.version_min..=hello.version_max;
            return Err(HandshakeError::Version { dialer: versions(dialer), acceptor: versions(acceptor) });
        }
        if dialer.is_secured != acceptor.is_secured {
            return Err(HandshakeError::OneSideInsecure);
        }
        Ok(Self { link, version, dialer, acceptor })
    }

    /// The version both speak: the newest.
    #[must_use]
    pub const fn version(&self) -> u16 {
        self.version
    }

    /// What `side` said.
    #[must_use]
    pub const fn hello(&self, side: Side) -> &Hello {
        match side {
            Side::Dialer => &self.dialer,
            Side::Acceptor => &self.acceptor,
        }
    }

    /// The host at `side`: to be believed only after [`Self::verify`].
    #[must_use]
    pub fn peer(&self, side: Side) -> Peer {
        let hello = self.hello(side);
        Peer { host: hello.host.host_id(), key: hello.host, version: self.version, roles: hello.roles }
    }

    /// Proves that we, at `side`, hold the host key and the cluster key.
    ///
    /// # Panics
    /// When `host_key` is not the one our HELLO named, or `cluster` is there though it said no (or the reverse).
    #[must_use]
    pub fn prove(&self, side: Side, host_key: &HostKey, cluster: Option<&ClusterKey>) -> Proof {
        assert_eq!(host_key.public(), self.hello(side).host, "the key our HELLO named");
        assert_eq!(cluster.is_some(), self.hello(side).is_secured, "what our HELLO said");
        let bytes = self.to_bytes(side);
        let mac = cluster.map_or([0; 32], |key| key.mac(AUTH_DOMAIN, &[&bytes]));
        Proof { mac, signature: host_key.sign(AUTH_DOMAIN, &bytes) }
    }

    /// Checks the proof of the other end, at `side`.
    ///
    /// # Errors
    /// [`HandshakeError::Membership`], [`HandshakeError::Identity`]; [`HandshakeError::OneSideInsecure`] when we have a
    /// cluster key and the transcript has none (or the reverse).
    pub fn verify(&self, side: Side, cluster: Option<&ClusterKey>, proof: &Proof) -> Result<(), HandshakeError> {
        let bytes = self.to_bytes(side);
        let is_member = match cluster {
            _ if cluster.is_some() != self.hello(side).is_secured => return Err(HandshakeError::OneSideInsecure),
            Some(key) => key.verify_mac(AUTH_DOMAIN, &[&bytes], &proof.mac),
            None => proof.mac == [0; 32],
        };
        if !is_member {
            return Err(HandshakeError::Membership);
        }
        let host = self.hello(side).host;
        host.verify(AUTH_DOMAIN, &bytes, &proof.signature).map_err(|_| HandshakeError::Identity)
    }

    /// What the end at `side` signs: see the module's diagram.
    fn to_bytes(self, side: Side) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(TRANSCRIPT_BYTES);
        bytes.push(match self.link {
            LinkKind::Peer => 1,
            LinkKind::Control => 2,
        });
        bytes.extend_from_slice(&self.version.to_le_bytes());
        bytes.push(match side {
            Side::Dialer => 1,
            Side::Acceptor => 2,
        });
        for hello in [&self.dialer, &self.acceptor] {
            bytes.extend_from_slice(&hello.version_min.to_le_bytes());
            bytes.extend_from_slice(&hello.version_max.to_le_bytes());
            bytes.extend_from_slice(&[hello.roles, u8::from(hello.is_secured)]);
            bytes.extend_from_slice(&hello.host.0);
            bytes.extend_from_slice(&hello.nonce);
        }
        assert_eq!(bytes.len(), TRANSCRIPT_BYTES);
        bytes
    }
}

/// Why two hosts do not talk. The link closes; who must act is said at each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandshakeError {
    /// The peer sent another frame than is due: it is broken, or hostile.
    Unexpected(FrameKind),
    /// No version in common: the operator updates the older one.
    Version {
        /// What the dialer speaks.
        dialer: RangeInclusive<u16>,
        /// What the acceptor speaks.
        acceptor: RangeInclusive<u16>,
    },
    /// One of the two has a cluster key and the other runs `--insecure`: the operator gives both the same key.
    OneSideInsecure,
    /// The peer shows our own key or nonce: it reflects our frames, or the address is one of our own.
    Itself,
    /// The peer did not prove the cluster key: it has another one, or is not of this cluster.
    Membership,
    /// The peer did not prove the host key it showed.
    Identity,
    /// The peer refused us, and said why.
    Refused {
        /// Its code.
        code: ErrorCode,
        /// Its words.
        text: String,
    },
}

impl HandshakeError {
    /// What to tell the peer before closing; nothing to a peer that refused first.
    #[must_use]
    pub fn answer(&self) -> Option<Frame> {
        let code = match self {
            Self::Unexpected(_) | Self::Itself => ErrorCode::Protocol,
            Self::Version { .. } => ErrorCode::Version,
            Self::OneSideInsecure | Self::Membership | Self::Identity => ErrorCode::Unauthorized,
            Self::Refused { .. } => return None,
        };
        Some(Frame::Error { channel: 0, code, text: alloc::format!("{self}") })
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unexpected(kind) => write!(f, "unexpected {kind:?} frame during the handshake"),
            Self::Version { dialer, acceptor } => {
                let ([from, to], [least, most]) = [dialer, acceptor].map(|range| [range.start(), range.end()]).into();
                write!(
                    f,
                    "no common protocol version: the dialer speaks {from} to {to}, the acceptor {least} to {most}: \
                     update the older one"
                )
            }
            Self::OneSideInsecure => {
                f.write_str("one side has a cluster key and the other runs --insecure: give both the same key")
            }
            Self::Itself => f.write_str("the peer is this host itself, or reflects its frames"),
            Self::Membership => f.write_str("the peer did not prove the cluster key: give both the same key"),
            Self::Identity => f.write_str("the peer did not prove the host key it showed"),
            Self::Refused { code, text } => write!(f, "the peer refused the link ({code:?}): {text}"),
        }
    }
}

impl core::error::Error for HandshakeError {}

#[cfg(test)]
mod tests;
