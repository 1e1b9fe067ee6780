//! Fetches a leased range and hands it to the task's shard, block by block, hashed.

use std::time::Duration;

use tokio::sync::oneshot;

use hawker_proto::http1::OriginAnswer;
use hawker_proto::url::Url;
use hawker_proto::{ByteRange, Geometry, TaskId, hash};

use super::body::{BlockSource, Body, TaskLimit};
use super::client::{Ask, Condition, OriginClient};
use super::error::OriginError;
use super::resolve::{OpenBody, failure_of, jittered};
use crate::seam::{OriginEnd, OriginSpec, ShardCommand, ShardHandle, Trouble};

/// Tries in a row that bring nothing before the lease is given back.
const TRIES_MAX: u32 = 4;
/// First pause between them; doubled each time.
const PAUSE: Duration = Duration::from_millis(250);
/// A longer Retry-After is the lease's end: somebody else may do better.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A range to fetch.
#[derive(Debug)]
pub(crate) struct FetchJob {
    pub(crate) task: TaskId,
    pub(crate) serial: u64,
    /// Starts at a block; ends at one or at the end of the task.
    pub(crate) range: ByteRange,
    /// Of the whole task.
    pub(crate) geometry: Geometry,
    pub(crate) spec: OriginSpec,
    /// The resolve's own body, when the range starts at 0 and it is still open.
    pub(crate) parked: Option<OpenBody>,
    pub(crate) shard: ShardHandle,
    pub(crate) limit: TaskLimit,
}

/// Runs `job` to its end and returns how it ended, with the error that ended it. Ends early when the sender of `stop` is
/// dropped or used. The shard is to hear of the end too, after the blocks.
pub(crate) async fn run_fetch(
    client: OriginClient,
    source: BlockSource,
    mut job: FetchJob,
    stop: oneshot::Receiver<()>,
) -> (OriginEnd, Option<OriginError>) {
    let result = tokio::select! {
        result = fetch(&client, &source, &mut job) => result,
        _ = stop => Err(Failure { retry_after: Duration::ZERO, error: None }),
    };
    match result {
        Ok(()) => (OriginEnd::Complete, None),
        Err(Failure { error: Some(error), .. }) if !error.is_passing() => {
            (OriginEnd::Refused { status: error.status() }, Some(error))
        }
        Err(Failure { retry_after, error }) => {
            let trouble = error.as_ref().map_or(Trouble::Stopped, OriginError::trouble);
            (OriginEnd::Failed { retry_after, trouble }, error)
        }
    }
}

struct Failure {
    retry_after: Duration,
    /// `None`: stopped on purpose.
    error: Option<OriginError>,
}

async fn fetch(client: &OriginClient, source: &BlockSource, job: &mut FetchJob) -> Result<(), Failure> {
    let mut at = job.range.start();
    let mut parked = job.parked.take().filter(|_| at == 0);
    let mut tries = 0;
    while at < job.range.end() {
        let before = at;
        let error = match part(client, source, job, parked.take(), &mut at).await {
            Ok(()) if at > before => None,
            Ok(()) => Some(OriginError::Broken { host: host_of(job), reason: "the body was empty".to_owned() }),
            Err(error) => Some(error),
        };
        tries = if at > before { 0 } else { tries + 1 };
        let Some(error) = error else { continue };
        let pause = jittered(PAUSE * 2u32.pow(tries));
        let retry_after = error.retry_after().unwrap_or(Duration::ZERO).max(pause);
        if !error.is_passing() || tries == TRIES_MAX || retry_after > PAUSE_MAX {
            return Err(Failure { retry_after, error: Some(error) });
        }
        tracing::debug!(task = %job.task.short(), at, %error, "origin fetch goes on after a pause");
        tokio::time::sleep(retry_after).await;
    }
    Ok(())
}

/// One answer's worth: from `at` to the end of the range or of the answer. `at` moves by whole blocks only, so that a
/// broken body goes on at the first byte that is not with the shard.
async fn part(
    client: &OriginClient,
    source: &BlockSource,
    job: &FetchJob,
    parked: Option<OpenBody>,
    at: &mut u64,
) -> Result<(), OriginError> {
    let open = match parked {
        Some(open) => open,
        None => open_at(client, source, job, *at).await?,
    };
    let OpenBody { mut body, end } = open;
    body.limit(&job.limit);
    let end = job.range.end().min(end.unwrap_or(u64::MAX));
    let block_bytes = u64::from(job.geometry.block_bytes());
    while *at < end {
        let mut block = source.take().await;
        let length = usize::try_from((end - *at).min(block_bytes)).unwrap_or(usize::MAX);
        let filled = body.fill(source, &mut block, 0..length).await?;
        if filled < length {
            return Err(OriginError::Broken { host: host_of(job), reason: "the body ended early".to_owned() });
        }
        // An answer that ends between blocks is asked on from the block's start.
        if (length as u64) < block_bytes && *at + length as u64 != job.geometry.length() {
            return Ok(());
        }
        let value = hash::block_value(*at, &block.as_slice()[..length]);
        let (task, serial, offset) = (job.task, job.serial, *at);
        if !job.shard.send(ShardCommand::OriginData { task, serial, offset, block, length, value }).await {
            return Err(OriginError::Disk(std::io::Error::other("the shard has ended")));
        }
        *at += length as u64;
    }
    Ok(())
}

async fn open_at(
    client: &OriginClient,
    source: &BlockSource,
    job: &FetchJob,
    at: u64,
) -> Result<OpenBody, OriginError> {
    let url = Url::parse(&job.spec.url).map_err(OriginError::BadUrl)?;
    let range = ByteRange::new(at, job.range.end()).filter(|_| job.spec.is_range_ok);
    let condition = job.spec.validators.pin().map_or(Condition::Any, Condition::Same);
    let (headers, is_named) = (job.spec.headers.clone(), job.spec.is_named);
    let answered = client.open(&Ask { url, headers, range, condition, is_named }).await?;
    let host = answered.host.clone();
    if job.spec.is_contradicted(job.geometry.length(), &answered.answer, &answered.head) {
        return Err(OriginError::Changed { host });
    }
    match answered.answer {
        OriginAnswer::Partial { range: got, .. } if got.start() == at => {
            Ok(OpenBody { body: Body::new(answered.body, host), end: Some(got.end()) })
        }
        OriginAnswer::Whole { .. } => {
            let mut body = Body::new(answered.body, host.clone());
            body.limit(&job.limit);
            if body.skip(source, at).await? {
                Ok(OpenBody { body, end: Some(job.geometry.length()) })
            } else {
                Err(OriginError::Broken { host, reason: "the body ended early".to_owned() })
            }
        }
        _ => Err(failure_of(&answered)),
    }
}

fn host_of(job: &FetchJob) -> String {
    Url::parse(&job.spec.url).map(|url| url.authority()).unwrap_or_default()
}
