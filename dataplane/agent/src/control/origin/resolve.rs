//! What a URL is right now: one GET whose head names the content and whose body is its beginning.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use hawker_proto::ByteRange;
use hawker_proto::http1::{OriginAnswer, is_transient};
use hawker_proto::resolve::{Sharing, Validators, Version, sharing, version_of};

use super::body::Body;
use super::client::{Answered, Ask, Condition, OriginClient};
use super::error::OriginError;
use crate::control::validators::ValidatorSet;

/// How much the resolving GET asks for unless a scheduler says otherwise: the first lease. An answer that knows the
/// total tells all that a HEAD would.
pub(crate) const RESOLVE_BYTES: u64 = 16 * 1024 * 1024;
/// Questions put to an origin that is not there or is busy, before the caller hears of it.
const TRIES_MAX: u32 = 4;
/// First pause between them; doubled each time.
const PAUSE: Duration = Duration::from_millis(200);
/// A Retry-After beyond this is an answer for the user to act on, not something to sit out.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// What the origin said.
#[derive(Debug)]
pub(crate) enum Resolution {
    /// What is there now.
    Fresh(Box<Resolved>),
    /// Still the version that was asked about.
    NotModified,
}

/// The content behind a URL, and its first bytes.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) version: Version,
    /// `None`: the origin does not say how long it is.
    pub(crate) length: Option<u64>,
    pub(crate) is_range_ok: bool,
    /// False: no-store, private or Vary forbid giving it to others.
    pub(crate) is_shared: bool,
    pub(crate) etag: Option<String>,
    pub(crate) last_modified: Option<String>,
    pub(crate) media_type: Option<String>,
    pub(crate) max_age: Option<Duration>,
    /// Where shards may fetch ranges themselves.
    pub(crate) direct: Option<SocketAddr>,
    pub(crate) body: OpenBody,
}

impl Resolved {
    /// What names the version later.
    pub(crate) fn validators(&self) -> ValidatorSet {
        ValidatorSet {
            etag: self.etag.clone(),
            last_modified: self.last_modified.clone(),
            media_type: self.media_type.clone(),
        }
    }
}

/// A body that begins at byte 0, not yet read.
pub(crate) struct OpenBody {
    pub(super) body: Body,
    /// One past the last byte that this answer brings; `None` until it ends.
    pub(super) end: Option<u64>,
}

impl OpenBody {
    /// Bytes that it brings, from byte 0 of content of `length` bytes.
    pub(crate) fn arriving_bytes(&self, length: u64) -> u64 {
        self.end.map_or(length, |end| end.min(length))
    }
}

impl fmt::Debug for OpenBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenBody(to {:?})", self.end)
    }
}

/// Asks what `ask.url` is, with `ask.range` of its first bytes; `ask.condition` may be [`Condition::Newer`].
///
/// # Errors
/// The origin refuses, contradicts itself, or is away after some tries.
pub(crate) async fn resolve(client: &OriginClient, mut ask: Ask, nonce: [u8; 16]) -> Result<Resolution, OriginError> {
    ask.range = ask.range.or(ByteRange::new(0, RESOLVE_BYTES));
    let answered = open_patiently(client, &ask).await?;
    let needs_whole = matches!(
        answered.answer,
        // An empty file has no byte 0 (nginx answers 416), and `*` as total says too little.
        OriginAnswer::OutOfRange { .. } | OriginAnswer::Partial { total: None, .. }
    );
    if !needs_whole {
        return classify(answered, &ask.condition, nonce);
    }
    drop(answered);
    ask.range = None;
    classify(open_patiently(client, &ask).await?, &ask.condition, nonce)
}

/// Asks for one byte with the caller's own credentials: proof that it may have the content.
///
/// # Errors
/// As [`resolve`].
pub(crate) async fn check_access(client: &OriginClient, mut ask: Ask) -> Result<(), OriginError> {
    ask.range = ByteRange::new(0, 1);
    let answered = open_patiently(client, &ask).await?;
    match &answered.answer {
        OriginAnswer::Partial { .. } | OriginAnswer::Whole { .. } | OriginAnswer::OutOfRange { total: Some(0) } => {
            Ok(())
        }
        _ => Err(failure_of(&answered)),
    }
}

/// Opens `ask`, again and again while the failure is a passing one.
async fn open_patiently(client: &OriginClient, ask: &Ask) -> Result<Answered, OriginError> {
    let mut pause = PAUSE;
    let mut tries = 1;
    loop {
        let error = match client.open(ask).await {
            Ok(answered) if !is_refusal(&answered.answer) => return Ok(answered),
            Ok(answered) => failure_of(&answered),
            Err(error) => error,
        };
        let wait = error.retry_after().unwrap_or(Duration::ZERO).max(jittered(pause));
        if !error.is_passing() || tries == TRIES_MAX || wait > PAUSE_MAX {
            return Err(error);
        }
        tokio::time::sleep(wait).await;
        pause *= 2;
        tries += 1;
    }
}

fn is_refusal(answer: &OriginAnswer) -> bool {
    matches!(answer, OriginAnswer::Refused { .. } | OriginAnswer::Malformed(_) | OriginAnswer::Redirect { .. })
}

/// What an answer that brings no content means.
pub(super) fn failure_of(answered: &Answered) -> OriginError {
    let host = answered.host.clone();
    match &answered.answer {
        OriginAnswer::Refused { status, retry_after } if is_transient(*status) => {
            OriginError::Busy { host, status: *status, retry_after: *retry_after }
        }
        OriginAnswer::Refused { status: 412, .. } => OriginError::Changed { host },
        OriginAnswer::Refused { status, .. } => OriginError::Refused { host, status: *status },
        OriginAnswer::OutOfRange { .. } => OriginError::Refused { host, status: 416 },
        OriginAnswer::Malformed(reason) => OriginError::Malformed { host, reason: reason.to_string() },
        _ => OriginError::Malformed { host, reason: format!("status {} was not asked for", answered.head.status) },
    }
}

fn classify(answered: Answered, condition: &Condition, nonce: [u8; 16]) -> Result<Resolution, OriginError> {
    let (length, end, is_range_ok) = match &answered.answer {
        OriginAnswer::Partial { range, total: Some(total) } => (Some(*total), Some(range.end()), true),
        // A 200 to a ranged question: no ranges, unless the head insists.
        OriginAnswer::Whole { length } => {
            let accepts = answered.head.header("accept-ranges");
            (*length, *length, accepts.is_some_and(|units| units.eq_ignore_ascii_case("bytes")))
        }
        OriginAnswer::NotModified if matches!(condition, Condition::Newer { .. }) => {
            return Ok(Resolution::NotModified);
        }
        _ => return Err(failure_of(&answered)),
    };
    let Answered { head, body, host, direct, .. } = answered;
    let text = |name: &str| head.header(name).map(str::to_owned);
    let (etag, last_modified) = (text("etag"), text("last-modified"));
    let validators = Validators {
        etag: etag.as_deref(),
        last_modified: last_modified.as_deref(),
        date: head.header("date"),
        length,
    };
    Ok(Resolution::Fresh(Box::new(Resolved {
        version: version_of(&validators, nonce),
        length,
        is_range_ok: is_range_ok && length.is_some(),
        is_shared: sharing(head.values("cache-control"), head.values("vary")) == Sharing::Shared,
        media_type: text("content-type"),
        max_age: head.values("cache-control").find_map(max_age),
        etag,
        last_modified,
        direct,
        body: OpenBody { body: Body::new(body, host), end },
    })))
}

fn max_age(value: &str) -> Option<Duration> {
    let seconds = value.split(',').find_map(|directive| directive.trim().strip_prefix("max-age="))?;
    seconds.trim_matches('"').parse().ok().map(Duration::from_secs)
}

/// Half to one and a half times `pause`, so that hosts that failed together do not come back together.
pub(crate) fn jittered(pause: Duration) -> Duration {
    let mut byte = [128];
    // Without randomness the pause is merely not jittered.
    let _ = getrandom::fill(&mut byte);
    pause / 2 + pause * u32::from(byte[0]) / 255
}
