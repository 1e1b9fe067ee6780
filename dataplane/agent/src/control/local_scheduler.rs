//! A scheduler of our own, in this process: it leases to this host what no other scheduler leases to it.
//!
//! The same machine that runs behind a server. Its key is made at start and known to nobody, so what is fetched under
//! its leases stays with this host.

use std::sync::Arc;
use std::time::Duration;

use hawker_proto::trust::SignedLease;
use hawker_proto::{HostKey, PublicKey};
use hawker_scheduler::{Cluster, ClusterConfig, HostInfo, Input, Output, ToHost};
use tokio::sync::mpsc;

use super::director::{bare_serial, own_serial};
use super::link::{LinkEvent, LinkFacts, Side};
use crate::clock;

/// Longest sleep when nothing is due.
const IDLE: Duration = Duration::from_secs(3600);

/// The machine and who it signs for.
#[derive(Debug)]
pub(crate) struct LocalScheduler {
    cluster: Cluster,
    key: HostKey,
    facts: Arc<LinkFacts>,
}

impl LocalScheduler {
    /// A scheduler whose only host is `host`. `seed` is its key's and must be random.
    pub(crate) fn new(seed: [u8; 32], host: HostInfo, facts: &Arc<LinkFacts>) -> Self {
        let key = HostKey::from_seed(seed);
        let mut cluster = Cluster::new(ClusterConfig::alone(), key.clone(), 1, 1);
        cluster.handle(clock::now(), clock::unix_ms(), Input::Join(host));
        facts.connected(1);
        Self { cluster, key, facts: Arc::clone(facts) }
    }

    /// Whose signature is on its leases.
    pub(crate) fn public_key(&self) -> PublicKey {
        self.key.public()
    }

    /// Answers what comes from `inbox` until the director is gone.
    pub(crate) async fn run(mut self, mut inbox: mpsc::Receiver<Input>, events: mpsc::Sender<LinkEvent>) {
        let mut unsaid = None;
        loop {
            unsaid = unsaid.or_else(|| self.cluster.poll());
            if !self.facts.is_connected() {
                // Its queue was full. There is no session to begin anew: what it lacks it asks for.
                self.facts.connected(1);
            }
            let wait = self.cluster.deadline().map_or(IDLE, |at| at.since(clock::now())).min(IDLE);
            let input = tokio::select! {
                // What the director says is always taken, or the two might wait for each other.
                input = inbox.recv() => match input {
                    Some(input) => inward(input),
                    None => return,
                },
                place = events.reserve(), if unsaid.is_some() => {
                    let Ok(place) = place else { return };
                    if let Some(Output::Send { message, .. }) = unsaid.take() {
                        place.send(LinkEvent::Message(Side::Own, self.outward(message)));
                    }
                    continue;
                }
                () = tokio::time::sleep(wait), if unsaid.is_none() => Input::Tick,
            };
            self.cluster.handle(clock::now(), clock::unix_ms(), input);
        }
    }

    /// Leases get serials that no scheduler of a cluster uses.
    fn outward(&self, message: ToHost) -> ToHost {
        match message {
            ToHost::Lease { lease: SignedLease { mut lease, .. }, valid } => {
                lease.serial = own_serial(lease.serial);
                ToHost::Lease { lease: lease.sign(&self.key), valid }
            }
            other => other,
        }
    }
}

fn inward(input: Input) -> Input {
    match input {
        Input::LeaseDone { host, serial, upto, outcome } => {
            Input::LeaseDone { host, serial: bare_serial(serial), upto, outcome }
        }
        other => other,
    }
}
