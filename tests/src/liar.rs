//! A peer that speaks the real protocol and lies: as a parent ([`Parent`]), as a child ([`Link::dial`]), and to the
//! scheduler ([`Session`]).

mod link;
mod parent;
mod session;

pub use link::{Link, Message};
pub use parent::{Lie, Parent, Seen, Subject};
pub use session::Session;

use hawker_proto::{ClusterKey, HostKey};

/// Who the liar is: a member of the cluster, with a host key of its own.
#[derive(Clone, Debug)]
pub struct Identity {
    pub key: HostKey,
    pub cluster: ClusterKey,
}

impl Identity {
    /// The member that `seed` describes, of the cluster whose key is `cluster`.
    #[must_use]
    pub fn new(seed: u8, cluster: [u8; 32]) -> Self {
        Self { key: HostKey::from_seed([seed; 32]), cluster: ClusterKey::from_bytes(cluster) }
    }

    /// A nonce that no other handshake of this process had.
    #[must_use]
    pub fn nonce(&self) -> [u8; 32] {
        static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        *blake3::hash(&[self.key.seed().as_slice(), &count.to_le_bytes()].concat()).as_bytes()
    }
}
