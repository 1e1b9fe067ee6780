//! What names in registries stand for, as the whole cluster remembers it: told to the scheduler, and asked of it by hosts
//! that cannot ask a registry. Only the scheduler's word counts, never a peer's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hawker_proto::HostId;
use hawker_scheduler::{Input, TagFact, TagKey};
use tokio::sync::{oneshot, watch};

use super::link::Outbox;

/// A scheduler that knows nothing of tags says nothing either.
const PATIENCE: Duration = Duration::from_secs(1);
/// Names asked for at a time; for further ones the answer is that nobody knows.
const ASKED_MAX: usize = 1024;

/// Who waits for which answer.
type Asked = HashMap<TagKey, Vec<oneshot::Sender<Option<TagFact>>>>;

/// The cluster's memory of tags. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct TagBook {
    host: HostId,
    /// `None`: no scheduler is configured.
    cluster: Option<Outbox>,
    asked: Arc<Mutex<Asked>>,
    sessions: Arc<watch::Sender<u64>>,
}

impl TagBook {
    pub(crate) fn new(host: HostId, cluster: Option<Outbox>) -> Self {
        Self { host, cluster, asked: Arc::default(), sessions: Arc::new(watch::Sender::new(0)) }
    }

    /// What the scheduler remembers of `name`: `registry/repository:tag`, or `registry/repository@digest`. `None` when
    /// it remembers nothing, or is away.
    pub(crate) async fn recall(&self, name: &str) -> Option<TagFact> {
        let cluster = self.cluster.as_ref().filter(|cluster| cluster.facts().is_connected())?;
        let tag = key_of(name);
        let (sender, answer) = oneshot::channel();
        {
            let mut asked = self.lock();
            for waiting in asked.values_mut() {
                waiting.retain(|sender| !sender.is_closed());
            }
            asked.retain(|_, waiting| !waiting.is_empty());
            if asked.len() >= ASKED_MAX {
                return None;
            }
            asked.entry(tag).or_default().push(sender);
        }
        if !cluster.send(Input::AskTag { host: self.host, tag }) {
            return None;
        }
        tokio::time::timeout(PATIENCE, answer).await.ok()?.ok()?
    }

    /// Tells the scheduler what a registry said. Lost when it is away: see [`Self::next_session`].
    pub(crate) fn report(&self, name: &str, fact: TagFact) {
        if let Some(cluster) = &self.cluster {
            cluster.send(Input::TagSeen { host: self.host, tag: key_of(name), fact });
        }
    }

    /// As [`Self::report`], waiting for room in the queue: for many at a time. False when the scheduler is away.
    pub(crate) async fn report_patiently(&self, name: &str, fact: TagFact) -> bool {
        let Some(cluster) = &self.cluster else { return false };
        cluster.send_patiently(Input::TagSeen { host: self.host, tag: key_of(name), fact }).await
    }

    /// Changes whenever a session with a scheduler opens, which may know nothing yet.
    pub(crate) fn sessions(&self) -> watch::Receiver<u64> {
        self.sessions.subscribe()
    }

    pub(super) fn session_opened(&self) {
        self.sessions.send_modify(|count| *count += 1);
    }

    pub(super) fn heard(&self, tag: TagKey, fact: Option<&TagFact>) {
        for waiting in self.lock().remove(&tag).unwrap_or_default() {
            // Whoever asked may have lost patience.
            let _ = waiting.send(fact.cloned());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key_of(name: &str) -> TagKey {
    TagKey(hawker_proto::hash::root_of_bytes(name.as_bytes()).0)
}
