//! The digest of a content that has a sequential one, computed while the content arrives.

use std::io;
use std::sync::Arc;

use hawker_proto::ByteRange;
use hawker_proto::resolve::{Digest, DigestHasher};
use hawker_storage::blocking;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinHandle;

use crate::share::SharedTask;

/// Bytes that are read and hashed at a time.
const STEP_BYTES: u64 = 1 << 20;
/// Bytes that one content may have hashed before others have their turn.
const TURN_BYTES: u64 = 64 << 20;

/// Hashes a content from its start as far as it is here, while it arrives.
#[derive(Debug)]
pub(super) struct Follower {
    hashing: JoinHandle<io::Result<Digest>>,
    /// Says that all has come.
    over: oneshot::Sender<()>,
}

impl Follower {
    /// Follows `task`, of which `changed` says when more is here, for a digest of the same kind as `kind`. `hashers` has a
    /// permit for each thread that may hash. It ends by itself when `changed` does.
    pub(super) fn start(
        task: Arc<SharedTask>,
        kind: Digest,
        mut changed: watch::Receiver<u64>,
        hashers: Arc<Semaphore>,
    ) -> Self {
        let (over, mut is_over) = oneshot::channel();
        let hashing = tokio::spawn(async move {
            let mut progress = Progress::new(&kind);
            loop {
                changed.mark_unchanged();
                progress = progress.advance(&task, &hashers).await?;
                if progress.offset == task.geometry().length() {
                    return progress.end(&task);
                }
                tokio::select! {
                    _ = &mut is_over => return progress.advance(&task, &hashers).await?.end(&task),
                    more = changed.changed() => more.map_err(|_| io::Error::other("the download was given up"))?,
                }
            }
        });
        Self { hashing, over }
    }

    /// The digest, when all of the content has come.
    ///
    /// # Errors
    /// It cannot be read back, was given up, or lost a piece since.
    pub(super) async fn digest(self) -> io::Result<Digest> {
        // One that is done waits for nothing.
        let _ = self.over.send(());
        self.hashing.await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

/// The digest of `task`'s content, all of which is here.
///
/// # Errors
/// It cannot be read back.
pub(super) async fn digest_of(task: &Arc<SharedTask>, kind: &Digest, hashers: &Semaphore) -> io::Result<Digest> {
    Progress::new(kind).advance(task, hashers).await?.end(task)
}

/// How far a content is hashed.
struct Progress {
    hasher: DigestHasher,
    offset: u64,
}

impl Progress {
    fn new(kind: &Digest) -> Self {
        Self { hasher: DigestHasher::like(kind), offset: 0 }
    }

    fn end(self, task: &SharedTask) -> io::Result<Digest> {
        match self.offset == task.geometry().length() {
            true => Ok(self.hasher.finish()),
            false => Err(io::Error::other("a piece was lost")),
        }
    }

    /// Hashes what is here behind what is hashed.
    async fn advance(mut self, task: &Arc<SharedTask>, hashers: &Semaphore) -> io::Result<Self> {
        loop {
            let end = task.geometry().length().min(self.offset + TURN_BYTES);
            let here = ByteRange::new(self.offset, end).map_or(self.offset, |range| task.stored_until(range));
            let upto = here.min(end);
            if upto <= self.offset {
                return Ok(self);
            }
            let _permit = hashers.acquire().await.map_err(io::Error::other)?;
            let content = Arc::clone(task.file().content());
            let read = tokio::task::spawn_blocking(move || {
                while self.offset < upto {
                    let length = usize::try_from((upto - self.offset).min(STEP_BYTES)).unwrap_or_default();
                    self.hasher.update(&blocking::read_at(&content, length, self.offset)?);
                    self.offset += length as u64;
                }
                Ok(self)
            });
            self = read.await.unwrap_or_else(|error| Err(io::Error::other(error)))?;
        }
    }
}
