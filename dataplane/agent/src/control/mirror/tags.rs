//! What tags stood for when their registries were asked last, kept across restarts, and how long that is believed.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hawker_proto::resolve::Digest;
use hawker_scheduler::TagFact;
use serde::{Deserialize, Serialize};

use crate::config::{TagPolicy, TagRule};

/// Its name in the data directory.
const FILE: &str = "tags.json";
/// Of the file's form; another one is not read.
const VERSION: u32 = 1;
/// Tags that are kept; the one that was seen longest ago goes first.
const TAGS_MAX: usize = 10_000;
/// Bytes of a media type, at most.
const MEDIA_TYPE_BYTES_MAX: usize = 255;
/// Changes are gathered for so long before they are written.
const GATHER: Duration = Duration::from_secs(1);

/// What a name (`registry/repository:tag` or `registry/repository@digest`) stood for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fact {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    /// Bytes of the manifest.
    pub(crate) length: u64,
    /// Whether the registry gives it to anybody.
    pub(crate) is_public: bool,
    /// When the registry said so, in milliseconds since 1970: the file outlives the agent.
    pub(crate) seen_unix_ms: u64,
}

impl Fact {
    /// How long ago the registry said so; no time when the clock was set back.
    pub(crate) fn age(&self) -> Duration {
        Duration::from_millis(unix_ms().saturating_sub(self.seen_unix_ms))
    }

    pub(crate) fn to_cluster(&self) -> TagFact {
        let (digest, media_type) = (self.digest.to_string(), self.media_type.clone());
        TagFact { digest, media_type, length: self.length, is_public: self.is_public, age: self.age() }
    }

    pub(crate) fn of_cluster(fact: &TagFact) -> Option<Self> {
        let age = u64::try_from(fact.age.as_millis()).ok()?;
        Some(Self {
            digest: fact.digest.parse().ok()?,
            media_type: fact.media_type.clone(),
            length: fact.length,
            is_public: fact.is_public,
            seen_unix_ms: unix_ms().saturating_sub(age),
        })
    }
}

/// Milliseconds since 1970.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    tags: Vec<Row>,
}

#[derive(Serialize, Deserialize)]
struct Row {
    name: String,
    digest: String,
    media_type: String,
    length: u64,
    is_public: bool,
    seen_unix_ms: u64,
}

/// The table. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Tags(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    table: Mutex<Table>,
    /// Held while the file is written: a slow disk must not bring two writers to one fresh file.
    writer: Mutex<()>,
}

#[derive(Debug, Default)]
struct Table {
    facts: HashMap<String, Fact>,
    /// Whether somebody writes what changed.
    is_writing: bool,
}

impl Tags {
    /// The table that was kept in `directory`; an empty one when it cannot be read, since registries are there to ask.
    pub(crate) fn open(directory: &Path) -> Self {
        let path = directory.join(FILE);
        let facts = match std::fs::read(&path) {
            Ok(bytes) => decode(&bytes).unwrap_or_else(|| {
                tracing::warn!(path = %path.display(), "what tags stood for cannot be read: registries are asked anew");
                HashMap::new()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => HashMap::new(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "what tags stood for cannot be read");
                HashMap::new()
            }
        };
        Self(Arc::new(Inner { path, table: Mutex::new(Table { facts, is_writing: false }), writer: Mutex::default() }))
    }

    pub(crate) fn get(&self, name: &str) -> Option<Fact> {
        self.lock().facts.get(name).cloned()
    }

    /// Remembers `fact`, in memory at once and on disk within a second.
    pub(crate) fn set(&self, name: &str, fact: Fact) {
        if fact.media_type.len() > MEDIA_TYPE_BYTES_MAX {
            return;
        }
        let mut table = self.lock();
        if !table.facts.contains_key(name) && table.facts.len() >= TAGS_MAX {
            // A tenth at a time, so that a full table is not searched for each new tag.
            let mut ages: Vec<u64> = table.facts.values().map(|fact| fact.seen_unix_ms).collect();
            let (_, limit, _) = ages.select_nth_unstable(TAGS_MAX / 10);
            let limit = *limit;
            table.facts.retain(|_, fact| fact.seen_unix_ms > limit);
        }
        table.facts.insert(name.to_owned(), fact);
        self.write_soon(table);
    }

    /// Forgets the names that `matches`; how many those are.
    pub(crate) fn forget(&self, matches: impl Fn(&str) -> bool) -> usize {
        let mut table = self.lock();
        let before = table.facts.len();
        table.facts.retain(|name, _| !matches(name));
        let count = before - table.facts.len();
        if count > 0 {
            self.write_soon(table);
        }
        count
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<(String, Fact)> {
        self.lock().facts.iter().map(|(name, fact)| (name.clone(), fact.clone())).collect()
    }

    fn write_soon(&self, mut table: MutexGuard<'_, Table>) {
        // Outside of a runtime there is nobody to write later.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if std::mem::replace(&mut table.is_writing, true) {
            return;
        }
        drop(table);
        let tags = self.clone();
        runtime.spawn(async move {
            tokio::time::sleep(GATHER).await;
            // A runtime that ends writes no more.
            drop(tokio::task::spawn_blocking(move || tags.write_now()).await);
        });
    }

    fn write_now(&self) {
        let _alone = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = {
            let mut table = self.lock();
            table.is_writing = false;
            encode(&table.facts)
        };
        if let Err(error) = write(&self.0.path, &bytes) {
            tracing::warn!(path = %self.0.path.display(), %error, "what tags stand for is in memory only");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn encode(facts: &HashMap<String, Fact>) -> Vec<u8> {
    let row = |(name, fact): (&String, &Fact)| Row {
        name: name.clone(),
        digest: fact.digest.to_string(),
        media_type: fact.media_type.clone(),
        length: fact.length,
        is_public: fact.is_public,
        seen_unix_ms: fact.seen_unix_ms,
    };
    let file = File { version: VERSION, tags: facts.iter().map(row).collect() };
    serde_json::to_vec(&file).expect("texts and numbers are JSON")
}

fn decode(bytes: &[u8]) -> Option<HashMap<String, Fact>> {
    let file: File = serde_json::from_slice(bytes).ok()?;
    if file.version != VERSION {
        return None;
    }
    let fact = |row: Row| {
        let Row { name, digest, media_type, length, is_public, seen_unix_ms } = row;
        Some((name, Fact { digest: digest.parse().ok()?, media_type, length, is_public, seen_unix_ms }))
    };
    Some(file.tags.into_iter().take(TAGS_MAX).filter_map(fact).collect())
}

/// Whole or not at all, also after a power cut.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let fresh = path.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    let directory = path.parent().map(std::fs::File::open);
    directory.map_or(Ok(()), |directory| directory?.sync_all())
}

/// How long `name` is believed: the first rule that fits says it.
pub(crate) fn policy(rules: &[TagRule], name: &str) -> TagPolicy {
    let fitting = rules.iter().find(|rule| fits(&rule.pattern, name));
    fitting.map_or(TagPolicy::Always, |rule| rule.policy)
}

/// Whether `name` is `pattern`, where `*` stands for anything.
pub(crate) fn fits(pattern: &str, name: &str) -> bool {
    let Some((front, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(front) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return name.ends_with(part);
        }
        // The first place is as good as any: what follows may stand anywhere behind it.
        let Some(at) = name.find(part) else { return false };
        name = &name[at + part.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(seen_unix_ms: u64) -> Fact {
        let (digest, media_type) = (Digest::Sha256([7; 32]), "a/b".to_owned());
        Fact { digest, media_type, length: 5, is_public: true, seen_unix_ms }
    }

    #[test]
    fn patterns_fit_what_they_say() {
        for (pattern, name, is_fit) in [
            ("docker.io/library/a:1", "docker.io/library/a:1", true),
            ("docker.io/library/a:1", "docker.io/library/a:12", false),
            ("*:latest", "h.io/a:latest", true),
            ("*:latest", "h.io/a:latest2", false),
            ("h.io/*:v*", "h.io/a/b:v1", true),
            ("h.io/*:v*", "h.io/a/b:1", false),
            ("*", "anything", true),
            ("a*a", "a", false),
            ("a*b*a", "abba", true),
            ("", "", true),
        ] {
            assert_eq!(fits(pattern, name), is_fit, "{pattern} {name}");
        }
        let rules = [
            TagRule { pattern: "*:latest".to_owned(), policy: TagPolicy::Always },
            TagRule { pattern: "h.io/*".to_owned(), policy: TagPolicy::Pinned },
        ];
        assert_eq!(policy(&rules, "h.io/a:latest"), TagPolicy::Always);
        assert_eq!(policy(&rules, "h.io/a:1"), TagPolicy::Pinned);
        assert_eq!(policy(&rules, "q.io/a:1"), TagPolicy::Always);
    }

    #[tokio::test]
    async fn table_outlives_the_agent() {
        let directory = tempfile::tempdir().unwrap();
        let tags = Tags::open(directory.path());
        tags.set("h.io/a:1", fact(unix_ms()));
        tags.set("h.io/a:2", fact(unix_ms()));
        assert_eq!(tags.forget(|name| name.ends_with(":2")), 1);
        while !directory.path().join(FILE).exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let again = Tags::open(directory.path());
        assert_eq!(again.get("h.io/a:1"), tags.get("h.io/a:1"));
        assert_eq!(again.get("h.io/a:2"), None);
        for bytes in [&b"{}"[..], b"", b"{\"version\":2,\"tags\":[]}", b"\xff"] {
            std::fs::write(directory.path().join(FILE), bytes).unwrap();
            assert!(Tags::open(directory.path()).all().is_empty());
        }
    }

    #[test]
    fn full_table_forgets_what_was_seen_longest_ago() {
        let directory = tempfile::tempdir().unwrap();
        let tags = Tags::open(directory.path());
        for index in 0..=TAGS_MAX {
            tags.set(&format!("h.io/a:{index}"), fact(index as u64 + 1));
        }
        assert!(tags.all().len() <= TAGS_MAX && tags.all().len() > TAGS_MAX / 2);
        assert!(tags.get("h.io/a:0").is_none() && tags.get(&format!("h.io/a:{TAGS_MAX}")).is_some());
    }
}
