//! Content that goes by its digest: what is whole is compared with its name before it counts.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hawker_proto::TaskId;
use hawker_proto::hash::{Root, block_values};
use hawker_proto::resolve::{Digest, DigestHasher, ResolveKey, task_id_of_digest};
use hawker_scheduler::{Input, WantId};
use hawker_storage::{CreateError, SpoolError, SpoolId, blocking};
use tokio::time::Instant;

use super::about::About;
use super::flight::Stage;
use super::hashing::{Follower, digest_of};
use super::{Director, Internal};
use crate::control::caller::{Failure, code};
use crate::control::keeper::Keeper;
use crate::control::link::Side;
use crate::seam::ShardCommand;
use crate::share::SharedTask;

/// After the cluster gave other bytes than the name says, a host fetches from the origin alone for so long.
const DISTRUST: Duration = Duration::from_secs(600);
/// Names that are distrusted at a time; further ones take the place of the oldest.
const DISTRUSTED_MAX: usize = 1024;
/// A reader lets go of what turned out to be wrong within this.
const REMOVE_TRIES: u32 = 100;
const REMOVE_PAUSE: Duration = Duration::from_millis(100);

impl Director {
    /// Hashes the content of a named task as it arrives, so that little is left when all of it is here.
    pub(super) fn follow(&mut self, task: TaskId) {
        let Some(running) = self.tasks.get_mut(&task) else { return };
        let name = running.about.name.filter(|name| !matches!(name, Digest::Blake3(_)));
        if let Some(name) = name.filter(|_| running.follower.is_none()) {
            let (shared, changed) = (Arc::clone(running.shared()), running.changed.subscribe());
            running.follower = Some(Follower::start(shared, name, changed, Arc::clone(&self.hashers)));
        }
    }

    /// Compares the content of a named task, all of which is here, with its name.
    pub(super) fn verify(&mut self, task: TaskId, root: Root, expected: Digest) {
        let Some(running) = self.tasks.get_mut(&task) else { return };
        let (shared, hashers, follower) =
            (Arc::clone(running.shared()), Arc::clone(&self.hashers), running.follower.take());
        self.spawn(async move {
            let result = match (expected, follower) {
                (Digest::Blake3(_), _) => Ok(Digest::Blake3(root.0)),
                (_, Some(follower)) => match follower.digest().await {
                    Ok(found) if found == expected => Ok(found),
                    // A piece that was read may have rotted, and been replaced: what is here now counts.
                    _ => digest_of(&shared, &expected, &hashers).await,
                },
                (_, None) => digest_of(&shared, &expected, &hashers).await,
            };
            Internal::Verified { task, root, result }
        });
    }

    pub(super) async fn on_verified(&mut self, task: TaskId, root: Root, result: io::Result<Digest>) {
        let Some(running) = self.tasks.get(&task) else { return };
        let (key, name) = (running.about.key, running.about.name);
        match result {
            Ok(found) if name.is_none_or(|name| name == found) => {
                running.shared().set_in_doubt(false);
                self.tell_all(|| ShardCommand::Changed { task }).await;
                self.seal(task, root);
            }
            Ok(found) => {
                let name = name.expect("tasks without a name are right");
                tracing::warn!(task = %task.short(), %name, %found, "the content is not what its digest names");
                self.distrust(key);
                self.fail_task(task, &mismatch(&found, &name)).await;
                self.on_dropped(task, "it is not what its digest names").await;
                self.remove_soon(task);
            }
            Err(error) => {
                let failure = Failure::disk(format!("the content cannot be read back: {error}"), error.raw_os_error());
                self.fail_task(task, &failure).await;
            }
        }
    }

    /// The scheduler sent all of it along: compared with its name, and kept without a byte from anybody else.
    pub(super) async fn take_inline(&mut self, want: WantId, about: About, bytes: Vec<u8>) {
        let is_right = about.name.is_some_and(|name| digest_of_bytes(&bytes, &name) == name);
        let Some(flight) = self.flights.get_mut(&want) else { return };
        // It cannot be vouched for, so that others need not hear of it; whoever asks the scheduler gets the same bytes.
        flight.ready = None;
        self.say(Side::Cluster, Input::Left { host: self.parts.host, task: about.task });
        if !is_right || bytes.len() as u64 != about.geometry.length() {
            tracing::warn!(task = %about.task.short(), "the scheduler sent other bytes than the digest names");
            return self.resolve(want);
        }
        let keeper = self.keeper.clone();
        let work = self.spawn(async move {
            let result = keep_bytes(&keeper, &about, bytes).await;
            Internal::Opened { want, about: Box::new(about), result }
        });
        self.set_work(want, Stage::Opening, work);
    }

    fn remove_soon(&self, task: TaskId) {
        let keeper = self.keeper.clone();
        tokio::spawn(async move {
            for _ in 0..REMOVE_TRIES {
                if keeper.remove(task).await {
                    return;
                }
                tokio::time::sleep(REMOVE_PAUSE).await;
            }
            tracing::warn!(task = %task.short(), "content that is not what its digest names is still in use");
        });
    }

    fn distrust(&mut self, key: ResolveKey) {
        let now = Instant::now();
        self.distrusted.retain(|_, until| *until > now);
        if self.distrusted.len() >= DISTRUSTED_MAX
            && let Some(oldest) = self.distrusted.iter().min_by_key(|(_, until)| **until).map(|(key, _)| *key)
        {
            self.distrusted.remove(&oldest);
        }
        self.distrusted.insert(key, now + DISTRUST);
    }

    /// Whether other hosts gave wrong bytes for what `want` names.
    pub(super) fn is_distrusted(&self, want: WantId) -> bool {
        let until = self.flights.get(&want).and_then(|flight| self.distrusted.get(&flight.key));
        until.is_some_and(|until| *until > Instant::now())
    }
}

/// Whether a task that somebody says is `name` can be that: its own name follows from it.
pub(super) fn is_named(task: TaskId, length: u64, name: &Digest) -> bool {
    task == task_id_of_digest(Some(length), name) || task == task_id_of_digest(None, name)
}

pub(super) fn mismatch(found: &Digest, expected: &Digest) -> Failure {
    let hint = "the origin serves something else than you expect: check the URL and the digest";
    Failure::new(code::DIGEST_MISMATCH, format!("the content is {found}, not {expected}"), hint)
}

/// The digest of `bytes`, of the same kind as `kind`.
pub(crate) fn digest_of_bytes(bytes: &[u8], kind: &Digest) -> Digest {
    let mut hasher = DigestHasher::like(kind);
    hasher.update(bytes);
    hasher.finish()
}

/// Makes `bytes` a task.
async fn keep_bytes(keeper: &Keeper, about: &About, bytes: Vec<u8>) -> Result<Arc<SharedTask>, CreateError> {
    let values = block_values(about.geometry, 0, &bytes);
    let spooled = keep_file(keeper, bytes).await.map_err(|error| match error {
        SpoolError::Disk(error) => CreateError::Disk(error),
        SpoolError::OverLimit { needed_bytes, limit_bytes } => CreateError::OverLimit { needed_bytes, limit_bytes },
        SpoolError::Busy => CreateError::Busy,
        SpoolError::NotFound | SpoolError::Closed => CreateError::Closed,
    })?;
    match keeper.adopt(spooled, about.task, about.geometry, about.meta(), &values).await {
        Err(CreateError::Exists) => keeper.open(about.task).await.ok_or(CreateError::Closed),
        other => other,
    }
}

async fn keep_file(keeper: &Keeper, bytes: Vec<u8>) -> Result<SpoolId, SpoolError> {
    let (spool, file) = keeper.spool().await?;
    keeper.reserve_spool(spool, bytes.len() as u64).await?;
    let write = tokio::task::spawn_blocking(move || blocking::write_at(&file, &bytes, 0)).await;
    match write.unwrap_or_else(|error| Err(io::Error::other(error.to_string()))) {
        Ok(()) => Ok(spool),
        Err(error) => {
            keeper.drop_spool(spool);
            Err(SpoolError::Disk(error))
        }
    }
}
