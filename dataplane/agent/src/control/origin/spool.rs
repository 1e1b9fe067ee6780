//! Bodies of unknown length: spooled to a file, hashed on the way, and made a task when they have ended.

use std::io;
use std::os::fd::AsFd;

use hawker_proto::geometry::LENGTH_MAX;
use hawker_proto::{BLOCK_BYTES, ChainingValue, hash};
use hawker_ring::Block;
use hawker_scheduler::INLINE_BYTES_MAX;
use hawker_storage::{File, SpoolError, SpoolId};

use super::body::{BlockSource, TaskLimit};
use super::error::OriginError;
use super::resolve::OpenBody;
use crate::control::keeper::Keeper;

/// Room asked for at once. Small beside any limit, large beside the cost of asking.
const RESERVE_BYTES: u64 = 16 * 1024 * 1024;

/// A whole body on disk. Dropped before it is adopted, it is thrown away.
#[derive(Debug)]
pub(crate) struct Spooled {
    spool: Unadopted,
    pub(crate) length: u64,
    /// Of every block, in order.
    pub(crate) values: Vec<ChainingValue>,
    /// All of it, when that is no more than rides inline.
    pub(crate) bytes: Vec<u8>,
}

impl Spooled {
    /// The spool, now the caller's to adopt.
    pub(crate) fn into_spool(mut self) -> Option<SpoolId> {
        self.spool.id.take()
    }
}

/// Writes the body to a spool, telling `progress` how far it is.
///
/// # Errors
/// The body breaks (there is no length to resume by: it starts anew), or the disk fails.
pub(crate) async fn spool(
    keeper: &Keeper,
    source: &BlockSource,
    open: OpenBody,
    limit: &TaskLimit,
    mut progress: impl FnMut(u64),
) -> Result<Spooled, OriginError> {
    let (id, file) = keeper.spool().await.map_err(disk)?;
    let spool = Unadopted { id: Some(id), keeper: keeper.clone() };
    let mut body = open.body;
    body.limit(limit);
    let (mut values, mut bytes) = (Vec::new(), Vec::new());
    let (mut length, mut reserved) = (0, 0);
    loop {
        let mut block = source.take().await;
        let filled = body.fill(source, &mut block, 0..BLOCK_BYTES as usize).await?;
        if filled > 0 {
            if length + filled as u64 > LENGTH_MAX {
                return Err(OriginError::Disk(io::Error::other("the body has no end")));
            }
            if length + filled as u64 > reserved {
                reserved += RESERVE_BYTES;
                keeper.reserve_spool(id, reserved).await.map_err(disk)?;
            }
            if length == 0 && filled <= INLINE_BYTES_MAX {
                bytes.extend_from_slice(&block.as_slice()[..filled]);
            }
            values.push(hash::block_value(length, &block.as_slice()[..filled]));
            write(&file, block, filled, length).await.map_err(OriginError::Disk)?;
            length += filled as u64;
            progress(length);
        }
        if filled < BLOCK_BYTES as usize {
            break;
        }
    }
    keeper.reserve_spool(id, length).await.map_err(disk)?;
    Ok(Spooled { spool, length, values, bytes })
}

async fn write(file: &File, block: Block, length: usize, offset: u64) -> io::Result<()> {
    let file = File::clone(file);
    let written = tokio::task::spawn_blocking(move || {
        let mut at = 0;
        while at < length {
            let done = rustix::io::pwrite(file.as_fd(), &block.as_slice()[at..length], offset + at as u64)?;
            if done == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            at += done;
        }
        Ok(())
    });
    written.await.map_err(io::Error::other)?
}

fn disk(error: SpoolError) -> OriginError {
    OriginError::Disk(match error {
        SpoolError::Disk(error) => error,
        error @ SpoolError::OverLimit { .. } => io::Error::new(io::ErrorKind::StorageFull, error.to_string()),
        error => io::Error::other(error.to_string()),
    })
}

#[derive(Debug)]
struct Unadopted {
    id: Option<SpoolId>,
    keeper: Keeper,
}

impl Drop for Unadopted {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.keeper.drop_spool(id);
        }
    }
}
