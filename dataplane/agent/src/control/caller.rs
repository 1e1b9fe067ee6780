//! Whoever asked for content on this host, and what it is told.

use std::fmt;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use hawker_proto::identity::ClusterKey;
use hawker_proto::resolve::{CanonicalUrl, Digest, ResolveKey, resolve_key, resolve_key_of_digest};
use hawker_proto::url::Url;
use hawker_proto::{ByteRange, Root};
use rustix::io::Errno;
use tokio::sync::{mpsc, watch};

use super::director::Ask;
use super::origin::{self, Condition, OriginError, hint, meaning};
use crate::seam::Trouble;
use crate::share::SharedTask;

/// Events that wait for a caller.
pub(crate) const CALLER_QUEUE_MAX: usize = 32;

/// A caller's name for as long as it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct CallerId(pub(crate) u64);

/// The exit codes of the command line.
pub(crate) mod code {
    pub(crate) const OTHER: u32 = 1;
    pub(crate) const USAGE: u32 = 2;
    pub(crate) const ORIGIN_REFUSED: u32 = 3;
    pub(crate) const DIGEST_MISMATCH: u32 = 4;
    pub(crate) const DISK_FULL: u32 = 5;
    pub(crate) const TIMEOUT: u32 = 6;
}

/// A checked request for content.
#[derive(Clone)]
pub(crate) struct GetRequest {
    pub(crate) url: Url,
    pub(crate) canonical: CanonicalUrl,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) is_credentialed: bool,
    pub(crate) tag: String,
    pub(crate) application: String,
    pub(crate) digest: Option<Digest>,
    /// The content goes by this digest, whatever the URL: one task for all who want it. Whoever asks so has seen to it
    /// that its caller may have the content.
    pub(crate) name: Option<Digest>,
    /// With `name`: its registry gives it to anybody, so that it may ride in the scheduler's answers.
    pub(crate) is_public: bool,
    pub(crate) limit_bytes_per_s: Option<u64>,
}

impl fmt::Debug for GetRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The query and the headers may hold credentials.
        f.debug_struct("GetRequest").field("host", &self.url.authority()).finish_non_exhaustive()
    }
}

impl GetRequest {
    /// Whether an origin sees no difference between the two.
    pub(crate) fn has_credentials_of(&self, other: &Self) -> bool {
        self.url == other.url && self.headers == other.headers
    }

    /// The request that a stored task stands for, without credentials: nothing is fetched by it unless somebody asks.
    ///
    /// # Errors
    /// The URL on disk is none.
    pub(crate) fn of_stored(url: &str) -> Result<Self, Failure> {
        Self::parse(hawker_api::local::Get { url: url.to_owned(), ..Default::default() })
    }

    /// A blob of a registry, which its digest names: `url` and `headers` are one way to have it.
    ///
    /// # Errors
    /// The URL is none.
    pub(crate) fn of_blob(url: &str, headers: Vec<(String, String)>, digest: Digest) -> Result<Self, Failure> {
        let request = Self::parse(hawker_api::local::Get { url: url.to_owned(), ..Default::default() })?;
        Ok(Self { headers, name: Some(digest), is_credentialed: false, ..request })
    }

    /// The question to the origin.
    pub(crate) fn ask(&self, range: Option<ByteRange>, condition: Condition) -> origin::Ask {
        let (url, headers) = (self.url.clone(), self.headers.clone());
        origin::Ask { url, headers, range, condition, is_named: self.name.is_some() }
    }

    /// What the request is called between hosts.
    pub(crate) fn resolve_key(&self, cluster: Option<&ClusterKey>) -> ResolveKey {
        match &self.name {
            Some(digest) => resolve_key_of_digest(digest),
            None => resolve_key(cluster, &self.canonical, &self.tag, &self.application, &self.headers),
        }
    }

    /// Checks what a caller asks for.
    ///
    /// # Errors
    /// A URL or a digest that is none: the caller's fault.
    pub(crate) fn parse(get: hawker_api::local::Get) -> Result<Self, Failure> {
        let usage = |message: String| Failure::new(code::USAGE, message, "");
        let url = Url::parse(&get.url).map_err(|error| usage(format!("this URL cannot be fetched: {error}")))?;
        let (canonical, is_signed) =
            CanonicalUrl::parse(&get.url).map_err(|error| usage(format!("this URL cannot be fetched: {error}")))?;
        let headers: Vec<(String, String)> =
            get.headers.into_iter().map(|header| (header.name, header.value)).collect();
        let digest = match get.digest.as_str() {
            "" => None,
            text => {
                let parsed = text.parse().map_err(|_| {
                    usage(format!(
                        "digest `{text}` is none: write sha256: or blake3: and 64, or sha512: and 128 hexadecimal digits"
                    ))
                })?;
                Some(parsed)
            }
        };
        Ok(Self {
            is_credentialed: is_signed || hawker_proto::resolve::is_credentialed(&headers),
            url,
            canonical,
            headers,
            tag: get.tag,
            application: get.application,
            digest,
            name: None,
            is_public: false,
            limit_bytes_per_s: (get.limit_bytes_per_s > 0).then_some(get.limit_bytes_per_s),
        })
    }
}

/// A question to the director that is not answered yet; dropped, it is taken back.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) events: mpsc::Receiver<CallerEvent>,
    _interest: Interest,
}

impl Asked {
    /// Asks for content in the name of `caller`; `None` when the agent stops.
    pub(crate) async fn begin(asks: &mpsc::Sender<Ask>, caller: CallerId, request: GetRequest) -> Option<Self> {
        let (sender, events) = mpsc::channel(CALLER_QUEUE_MAX);
        asks.send(Ask::Get { caller, request: Box::new(request), events: sender }).await.ok()?;
        Some(Self { events, _interest: Interest { caller, asks: asks.clone() } })
    }
}

/// Tells the director that nobody waits here any more.
#[derive(Debug)]
struct Interest {
    caller: CallerId,
    asks: mpsc::Sender<Ask>,
}

impl Drop for Interest {
    fn drop(&mut self) {
        let (caller, asks) = (self.caller, self.asks.clone());
        // Also when this task is cancelled; not when the whole runtime ends, and nobody cares then.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { drop(asks.send(Ask::Gone { caller }).await) });
        }
    }
}

/// What a caller is told.
#[derive(Debug)]
pub(crate) enum CallerEvent {
    /// The content has a name and a place; pieces become readable from now on.
    Opened(Opened),
    /// The origin does not say how long it is; so many bytes are here.
    Spooled { bytes: u64 },
    /// All of it is here and sealed.
    Done { root: Root },
    /// It cannot be had.
    Failed(Failure),
}

/// A task that a caller may read.
#[derive(Clone, Debug)]
pub(crate) struct Opened {
    pub(crate) task: Arc<SharedTask>,
    /// Changes when pieces arrived.
    pub(crate) changed: watch::Receiver<u64>,
    pub(crate) neighbors: Arc<AtomicU32>,
    /// Bytes that were here before, and bytes by source (origin, peers) until then: pieces may come before the caller's
    /// own task hears of this.
    pub(crate) cached: u64,
    pub(crate) sources: (u64, u64),
}

/// Why a request failed, as a user reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The command's exit code.
    pub(crate) code: u32,
    /// What failed, with the value that failed; no secrets.
    pub(crate) message: String,
    /// What to do next.
    pub(crate) hint: String,
    /// What the origin answered, 0 when it is not the one that failed.
    pub(crate) status: u16,
}

impl Failure {
    pub(crate) fn new(code: u32, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: hint.into(), status: 0 }
    }

    pub(crate) fn other(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(code::OTHER, message, hint)
    }

    /// An origin that answered `status`, or nonsense when it is 0.
    pub(crate) fn origin_status(host: &str, status: u16) -> Self {
        let message = match status {
            0 => format!("{host} sends answers that make no sense"),
            status => format!("{host} answers {status}{}", meaning(status)),
        };
        Self { status, ..Self::new(code::ORIGIN_REFUSED, message, hint(status)) }
    }

    /// An origin that failed so again and again.
    pub(crate) fn trouble(host: &str, trouble: Trouble) -> Option<Self> {
        let host = host.to_owned();
        match trouble {
            Trouble::Stopped => None,
            Trouble::Status(status) => Some(Self::from(&OriginError::Busy { host, status, retry_after: None })),
            Trouble::Broken => {
                let reason = "it ended too early".to_owned();
                Some(Self::from(&OriginError::Broken { host, reason }))
            }
            Trouble::Silent(waited) => Some(Self::from(&OriginError::Timeout { host, waited })),
        }
    }

    pub(crate) fn disk_full(message: impl Into<String>) -> Self {
        Self::new(code::DISK_FULL, message, "free some space, or give the agent another --data-dir")
    }

    /// A data directory that failed; `os_error` is what the kernel said of it.
    pub(crate) fn disk(message: impl Into<String>, os_error: Option<i32>) -> Self {
        match os_error.map(Errno::from_raw_os_error) {
            Some(Errno::NOSPC | Errno::DQUOT) => Self::disk_full(message),
            Some(Errno::MFILE) => Self::other(message, "raise the agent's limit of open files (ulimit -n)"),
            Some(Errno::UCLEAN) => {
                Self::other(message, "the file system of the data directory is damaged: stop the agent and run fsck")
            }
            _ => Self::other(message, "check the disk of the data directory"),
        }
    }
}

impl From<&OriginError> for Failure {
    fn from(error: &OriginError) -> Self {
        let message = error.to_string();
        match error {
            OriginError::Refused { status, .. } | OriginError::Busy { status, .. } => {
                Self { status: *status, ..Self::new(code::ORIGIN_REFUSED, message, hint(*status)) }
            }
            OriginError::Changed { .. } => Self::new(code::ORIGIN_REFUSED, message, hint(412)),
            OriginError::Malformed { .. }
            | OriginError::TooManyRedirects
            | OriginError::InsecureRedirect { .. }
            | OriginError::PrivateRedirect { .. } => Self::new(code::ORIGIN_REFUSED, message, hint(0)),
            OriginError::BadUrl(_) | OriginError::BadHeader(_) => Self::new(code::USAGE, message, ""),
            OriginError::Connect { .. } => Self::other(message, "check the host name, the network and the certificate"),
            OriginError::Broken { .. } => Self::other(message, "run the command again: it goes on where it stopped"),
            OriginError::Timeout { .. } => Self::new(code::TIMEOUT, message, "try again later"),
            // The limit of the store is no error of the kernel.
            OriginError::Disk(error) if error.kind() == ErrorKind::StorageFull => Self::disk_full(message),
            OriginError::Disk(error) => Self::disk(message, error.raw_os_error()),
        }
    }
}

/// Tells a caller; one that does not listen any more is dropped by its session.
pub(crate) fn tell(events: &mpsc::Sender<CallerEvent>, event: CallerEvent) {
    // Room is kept for the few events that matter: only `Spooled` repeats, and it is not sent into a full queue.
    let is_repeated = matches!(event, CallerEvent::Spooled { .. });
    if !is_repeated || events.capacity() > CALLER_QUEUE_MAX / 2 {
        let _ = events.try_send(event);
    }
}
