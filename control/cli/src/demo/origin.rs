//! The demo's origin: one file over HTTP/1.1 with ranges, held to a rate, counting what it sends.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, Response, StatusCode, header};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use crate::exit::Failure;

/// Small enough that several connections share the rate evenly, large enough to cost little.
const CHUNK_BYTES: u64 = 64 * 1024;

/// What may be sent at once after a pause: 10 ms of the rate, as Hawker's own limiter allows.
const BURST: Duration = Duration::from_millis(10);

/// A listening origin. It ends with this value.
#[derive(Debug)]
pub(super) struct Origin {
    address: SocketAddr,
    content: Arc<Content>,
    _runtime: Runtime,
}

#[derive(Debug)]
struct Content {
    file: File,
    length: u64,
    etag: String,
    sent: AtomicU64,
    rate: Option<Pace>,
}

impl Origin {
    /// Serves the file at `path` on loopback; `bytes_per_s` 0 is free.
    pub(super) fn start(path: &Path, bytes_per_s: u64) -> Result<Self, Failure> {
        let cannot = |error: &io::Error| Failure::io("cannot start the demo's origin", error);
        let file = File::open(path).map_err(|error| cannot(&error))?;
        let length = file.metadata().map_err(|error| cannot(&error))?.len();
        let content = Arc::new(Content {
            file,
            length,
            // One file, one process: any text that stays the same will do.
            etag: format!("\"{length:x}-demo\""),
            sent: AtomicU64::new(0),
            rate: (bytes_per_s > 0).then(|| Pace::new(bytes_per_s)),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|error| cannot(&error))?;
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).map_err(|error| cannot(&error))?;
        let address = listener.local_addr().map_err(|error| cannot(&error))?;
        let router = Router::new().route("/file", get(answer)).with_state(Arc::clone(&content));
        runtime.spawn(async move { axum::serve(listener, router).await });
        Ok(Self { address, content, _runtime: runtime })
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/file", self.address)
    }

    /// Body bytes sent so far.
    pub(super) fn body_bytes(&self) -> u64 {
        self.content.sent.load(Ordering::Relaxed)
    }
}

async fn answer(State(content): State<Arc<Content>>, method: Method, headers: HeaderMap) -> Response<Body> {
    let field = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let is_ours = |tags: &str| tags == "*" || tags.split(',').any(|tag| tag.trim() == content.etag);
    if field(header::IF_MATCH).is_some_and(|tags| !is_ours(tags)) {
        return empty(StatusCode::PRECONDITION_FAILED, &content);
    }
    if field(header::IF_NONE_MATCH).is_some_and(is_ours) {
        return empty(StatusCode::NOT_MODIFIED, &content);
    }
    let is_range_valid = field(header::IF_RANGE).is_none_or(|tag| tag == content.etag);
    let asked = field(header::RANGE).filter(|_| is_range_valid).and_then(|text| parse_range(text, content.length));
    match asked {
        Some(Ok(range)) => {
            let mut response = empty(StatusCode::PARTIAL_CONTENT, &content);
            let text = format!("bytes {}-{}/{}", range.start, range.end - 1, content.length);
            set(&mut response, header::CONTENT_RANGE, &text);
            fill(&mut response, &content, range, &method);
            response
        }
        Some(Err(Unsatisfiable)) => {
            let mut response = empty(StatusCode::RANGE_NOT_SATISFIABLE, &content);
            set(&mut response, header::CONTENT_RANGE, &format!("bytes */{}", content.length));
            response
        }
        None => {
            let mut response = empty(StatusCode::OK, &content);
            fill(&mut response, &content, 0..content.length, &method);
            response
        }
    }
}

/// The range asked for lies past the end.
#[derive(Debug, PartialEq, Eq)]
struct Unsatisfiable;

/// One range of RFC 9110, section 14.1.2; anything else is `None`: the whole content answers it.
fn parse_range(text: &str, length: u64) -> Option<Result<Range<u64>, Unsatisfiable>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let range = if first.is_empty() {
        let suffix: u64 = last.parse().ok()?;
        length.saturating_sub(suffix)..length
    } else {
        let end = if last.is_empty() { length } else { last.parse::<u64>().ok()?.checked_add(1)?.min(length) };
        first.parse().ok()?..end
    };
    Some(if range.is_empty() { Err(Unsatisfiable) } else { Ok(range) })
}

fn empty(status: StatusCode, content: &Content) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    set(&mut response, header::ETAG, &content.etag);
    set(&mut response, header::ACCEPT_RANGES, "bytes");
    set(&mut response, header::CONTENT_TYPE, "application/octet-stream");
    response
}

fn set(response: &mut Response<Body>, name: header::HeaderName, value: &str) {
    // Numbers and the tag above are valid values; a header that cannot be made is left out.
    if let Ok(value) = value.parse() {
        response.headers_mut().insert(name, value);
    }
}

/// Promises the length, so that the body is not sent chunked, and sends it unless only the head was asked for.
fn fill(response: &mut Response<Body>, content: &Arc<Content>, range: Range<u64>, method: &Method) {
    set(response, header::CONTENT_LENGTH, &(range.end - range.start).to_string());
    if *method != Method::HEAD {
        *response.body_mut() = body(content, range);
    }
}

fn body(content: &Arc<Content>, range: Range<u64>) -> Body {
    let (sender, receiver) = mpsc::channel::<io::Result<Vec<u8>>>(1);
    tokio::spawn(send(Arc::clone(content), range, sender));
    Body::from_stream(ReceiverStream::new(receiver))
}

async fn send(content: Arc<Content>, range: Range<u64>, to: mpsc::Sender<io::Result<Vec<u8>>>) {
    let mut offset = range.start;
    while offset < range.end {
        let count = CHUNK_BYTES.min(range.end - offset);
        if let Some(rate) = &content.rate {
            rate.wait_for(count).await;
        }
        let mut chunk = vec![0; usize::try_from(count).unwrap_or(usize::MAX)];
        // A page-cache read of 64 KiB: shorter than handing it to another thread.
        let read = content.file.read_exact_at(&mut chunk, offset).map(|()| chunk);
        let is_failed = read.is_err();
        if to.send(read).await.is_err() || is_failed {
            return;
        }
        content.sent.fetch_add(count, Ordering::Relaxed);
        offset += count;
    }
}

/// A rate that connections share: each takes its turn on one timeline.
#[derive(Debug)]
struct Pace {
    bytes_per_s: f64,
    free_at: Mutex<Instant>,
}

impl Pace {
    fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s: bytes_per_s as f64, free_at: Mutex::new(Instant::now()) }
    }

    async fn wait_for(&self, bytes: u64) {
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_s);
        let at = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            *free_at = (*free_at).max(now.checked_sub(BURST).unwrap_or(now)) + takes;
            *free_at
        };
        tokio::time::sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_half_open_inside_and_inclusive_outside() {
        assert_eq!(parse_range("bytes=0-0", 10), Some(Ok(0..1)));
        assert_eq!(parse_range("bytes=3-", 10), Some(Ok(3..10)));
        assert_eq!(parse_range("bytes=3-99", 10), Some(Ok(3..10)));
        assert_eq!(parse_range("bytes=-4", 10), Some(Ok(6..10)));
        assert_eq!(parse_range("bytes=10-", 10), Some(Err(Unsatisfiable)));
        assert_eq!(parse_range("bytes=0-", 0), Some(Err(Unsatisfiable)));
        for text in ["bytes=0-1,3-4", "lines=0-1", "bytes=a-b", "bytes=-", "bytes=0-18446744073709551615"] {
            assert_eq!(parse_range(text, 10), None, "{text}");
        }
    }
}
