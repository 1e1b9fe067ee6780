//! What names in registries stand for, as hosts that asked a registry said: for hosts that cannot ask one.

use alloc::collections::BTreeMap;
use core::time::Duration;

use crate::cluster::Cluster;
use crate::event::{TagFact, TagKey, ToHost};
use crate::host::Host;
use crate::table::Slot;

/// All that is known, bounded by `Limits::tags_max`: what was seen longest ago goes first.
#[derive(Debug, Default)]
pub(crate) struct Tags {
    by_key: BTreeMap<TagKey, Row>,
    by_age: BTreeMap<(u64, TagKey), ()>,
}

#[derive(Debug)]
struct Row {
    seen_unix_ms: u64,
    fact: TagFact,
}

impl Tags {
    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// The newest sight counts.
    fn see(&mut self, key: TagKey, seen_unix_ms: u64, fact: TagFact, tags_max: usize) {
        if let Some(known) = self.by_key.get(&key) {
            if known.seen_unix_ms > seen_unix_ms {
                return;
            }
            self.by_age.remove(&(known.seen_unix_ms, key));
        }
        self.by_key.insert(key, Row { seen_unix_ms, fact });
        self.by_age.insert((seen_unix_ms, key), ());
        while self.by_key.len() > tags_max {
            let Some(((_, oldest), ())) = self.by_age.pop_first() else { break };
            self.by_key.remove(&oldest);
        }
    }

    /// What is known, and how long ago it was seen.
    fn recall(&self, key: TagKey, unix_ms: u64) -> Option<TagFact> {
        let row = self.by_key.get(&key)?;
        Some(TagFact { age: Duration::from_millis(unix_ms.saturating_sub(row.seen_unix_ms)), ..row.fact.clone() })
    }

    pub(crate) fn assert_invariants(&self, tags_max: usize) {
        assert!(self.by_key.len() <= tags_max);
        assert_eq!(self.by_key.len(), self.by_age.len());
        assert!(self.by_key.iter().all(|(key, row)| self.by_age.contains_key(&(row.seen_unix_ms, *key))));
    }
}

impl Cluster {
    pub(crate) fn tag_seen(&mut self, tag: TagKey, fact: TagFact) {
        let is_long = |text: &str| text.len() > self.config.limits.text_bytes_max;
        if is_long(&fact.digest) || is_long(&fact.media_type) {
            return;
        }
        // The wall clock, because what was seen may be older than this scheduler.
        let age_ms = u64::try_from(fact.age.as_millis()).unwrap_or(u64::MAX);
        self.tags.see(tag, self.unix_ms.saturating_sub(age_ms), fact, self.config.limits.tags_max);
    }

    pub(crate) fn ask_tag(&mut self, host: Slot<Host>, tag: TagKey) {
        let fact = self.tags.recall(tag, self.unix_ms);
        self.send(host, ToHost::Tag { tag, fact });
    }
}
