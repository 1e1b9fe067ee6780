//! A body as a stream of bytes that stalls at most so long, paid for from the host's limits, copied into blocks.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};

use hawker_ring::{Block, Slab};

use super::error::OriginError;
use super::transport::innermost;
use crate::clock;
use crate::rates::{Bucket, HostRates};

/// A body that is silent for so long is given up; what came before is kept.
const STALL: Duration = Duration::from_secs(5);
/// How often an empty slab is asked again: blocks come home from shards without a word to us.
const SLAB_RETRY: Duration = Duration::from_millis(2);

/// The rate that the callers of one task allow it; changes while it runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct TaskLimit(Arc<Mutex<Limited>>);

#[derive(Debug, Default)]
struct Limited {
    bytes_per_s: Option<u64>,
    bucket: Option<Arc<Bucket>>,
}

impl TaskLimit {
    /// The bucket that every source of the task draws from.
    pub(crate) fn bucket(&self) -> Option<Arc<Bucket>> {
        self.lock().bucket.clone()
    }

    /// True when that changes something.
    pub(crate) fn set(&self, bytes_per_s: Option<u64>) -> bool {
        let mut limited = self.lock();
        let is_change = limited.bytes_per_s != bytes_per_s;
        if is_change {
            *limited = Limited { bytes_per_s, bucket: bytes_per_s.map(|rate| Arc::new(Bucket::new(rate))) };
        }
        is_change
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Limited> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The blocks of the control half, lent to shards with every `OriginData`, and the limits its origins respect.
#[derive(Clone)]
pub(crate) struct BlockSource {
    slab: Arc<Mutex<Slab>>,
    rates: Arc<HostRates>,
}

impl fmt::Debug for BlockSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockSource").finish_non_exhaustive()
    }
}

impl BlockSource {
    pub(crate) fn new(slab: Slab, rates: Arc<HostRates>) -> Self {
        Self { slab: Arc::new(Mutex::new(slab)), rates }
    }

    /// A block, as soon as one is free. Waiting here is what holds a fast origin back while disks are slow.
    pub(crate) async fn take(&self) -> Block {
        loop {
            let block = self.lock().take();
            if let Some(block) = block {
                return block;
            }
            tokio::time::sleep(SLAB_RETRY).await;
        }
    }

    /// Gives memory back that was not used for a while.
    pub(crate) fn trim(&self) {
        self.lock().trim();
    }

    async fn pay(&self, limit: &TaskLimit, bytes: usize) {
        if let Some(bucket) = limit.bucket() {
            while let Err(wait) = bucket.draw(clock::now(), bytes as u64) {
                tokio::time::sleep(wait).await;
            }
        }
        while let Some(wait) = self.rates.take_origin(clock::now(), bytes as u64) {
            tokio::time::sleep(wait).await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Slab> {
        self.slab.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The rest of a body.
pub(super) struct Body {
    incoming: Incoming,
    /// Received, not yet taken.
    rest: Bytes,
    host: String,
    limit: TaskLimit,
}

impl Body {
    pub(super) fn new(incoming: Incoming, host: String) -> Self {
        Self { incoming, rest: Bytes::new(), host, limit: TaskLimit::default() }
    }

    /// From now on the body also pays `limit`.
    pub(super) fn limit(&mut self, limit: &TaskLimit) {
        self.limit = limit.clone();
    }

    /// Fills `into` of `block`; stops early at the end of the body. Returns the bytes written.
    pub(super) async fn fill(
        &mut self,
        source: &BlockSource,
        block: &mut Block,
        into: Range<usize>,
    ) -> Result<usize, OriginError> {
        let mut at = into.start;
        while at < into.end && self.more(source).await? {
            let part = self.rest.split_to(self.rest.len().min(into.end - at));
            block.as_mut_slice()[at..at + part.len()].copy_from_slice(&part);
            at += part.len();
        }
        Ok(at - into.start)
    }

    /// Reads and forgets `bytes`: for origins that cannot start in the middle. False when the body ends before.
    pub(super) async fn skip(&mut self, source: &BlockSource, mut bytes: u64) -> Result<bool, OriginError> {
        while bytes > 0 {
            if !self.more(source).await? {
                return Ok(false);
            }
            let part = usize::try_from(bytes).unwrap_or(usize::MAX).min(self.rest.len());
            drop(self.rest.split_to(part));
            bytes -= part as u64;
        }
        Ok(true)
    }

    /// Makes `rest` non-empty; false at the end of the body. hyper reports a body that ends before its length.
    async fn more(&mut self, source: &BlockSource) -> Result<bool, OriginError> {
        while self.rest.is_empty() {
            let frame = match tokio::time::timeout(STALL, self.incoming.frame()).await {
                Err(_) => return Err(OriginError::Timeout { host: self.host.clone(), waited: STALL }),
                Ok(None) => return Ok(false),
                Ok(Some(Err(error))) => {
                    return Err(OriginError::Broken { host: self.host.clone(), reason: innermost(&error) });
                }
                Ok(Some(Ok(frame))) => frame,
            };
            // Trailers say nothing that Hawker keeps.
            if let Ok(data) = frame.into_data() {
                source.pay(&self.limit, data.len()).await;
                self.rest = data;
            }
        }
        Ok(true)
    }
}
