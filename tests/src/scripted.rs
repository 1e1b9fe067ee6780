//! An origin on a real socket that does what a script says, byte by byte: right, wrong, late or never.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A head beyond this is none of ours.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// A client that is silent for so long is gone, or forgot to hang up.
const SILENCE: Duration = Duration::from_mins(5);

/// What a client asked.
#[derive(Clone, Debug)]
pub struct Request {
    /// Requests before this one, of all connections.
    pub number: usize,
    /// Since the first request.
    pub age: Duration,
    /// The whole head.
    pub head: String,
    /// Of the Range field, half-open.
    pub range: Option<Range<usize>>,
}

impl Request {
    /// The value of a field.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// Whether it is about bytes behind the first ones, which a resolve brings.
    #[must_use]
    pub fn is_later(&self) -> bool {
        self.range.as_ref().is_some_and(|range| range.start > 0)
    }

    fn parse(head: &str, number: usize, age: Duration) -> Self {
        let mut request = Self { number, age, head: head.to_owned(), range: None };
        request.range = request.header("range").and_then(|value| {
            let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
            Some(first.parse().ok()?..last.parse::<usize>().ok()? + 1)
        });
        request
    }
}

/// One thing that the origin does with a connection.
#[derive(Clone, Debug)]
pub enum Act {
    /// Sends text: a head, the frame of a chunk, garbage.
    Text(String),
    /// Sends a part of some content.
    Body(Arc<[u8]>, Range<usize>),
    /// Does nothing for so long.
    Wait(Duration),
    /// Does nothing until the client hangs up.
    Hang,
    /// Ends the connection with a reset, when the client has what was sent.
    Reset,
    /// Awaits the next request on the same connection; without this the connection ends.
    Keep,
}

/// Decides what is done about a request.
pub type Script = Arc<dyn Fn(&Request) -> Vec<Act> + Send + Sync>;

/// A listening origin on loopback. It serves until the test's process ends.
#[derive(Clone)]
pub struct Scripted {
    address: SocketAddr,
    is_tls: bool,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    script: Script,
    requests: Vec<Request>,
    began: Option<Instant>,
}

impl std::fmt::Debug for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scripted").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Scripted {
    /// Serves what `script` says, over TLS when that is given.
    ///
    /// # Panics
    /// When loopback has no free port.
    #[must_use]
    pub fn start(script: Script, tls: Option<Arc<ServerConfig>>) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST.into(), script, tls)
    }

    /// The same at an address of this host, or of the island that the thread is on.
    ///
    /// # Panics
    /// When it has no free port.
    #[must_use]
    pub fn start_at(address: IpAddr, script: Script, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind((address, 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let shared = Arc::new(Mutex::new(Shared { script, requests: Vec::new(), began: None }));
        let origin = Self { address, is_tls: tls.is_some(), shared };
        let served = origin.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (origin, tls) = (served.clone(), tls.clone());
                // A client that hangs up is no failure of the origin.
                thread::spawn(move || drop(origin.serve(stream, tls)));
            }
        });
        origin
    }

    /// A URL of it; its host is `localhost`.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://localhost:{}/{path}", self.address.port())
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// From now on it does what `script` says.
    pub fn change(&self, script: Script) {
        self.lock().script = script;
    }

    /// What was asked so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.lock().requests.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, stream: TcpStream, tls: Option<Arc<ServerConfig>>) -> io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        let raw = stream.try_clone()?;
        match tls {
            None => self.answer(stream, &raw),
            Some(config) => {
                let session = ServerConnection::new(config).map_err(io::Error::other)?;
                let mut stream = StreamOwned::new(session, stream);
                let result = self.answer(&mut stream, &raw);
                stream.conn.send_close_notify();
                result.and_then(|()| stream.flush())
            }
        }
    }

    fn answer(&self, mut stream: impl Read + Write, raw: &TcpStream) -> io::Result<()> {
        while let Some(head) = read_head(&mut stream)? {
            let acts = {
                let mut shared = self.lock();
                let age = shared.began.get_or_insert_with(Instant::now).elapsed();
                let request = Request::parse(&head, shared.requests.len(), age);
                shared.requests.push(request.clone());
                let script = Arc::clone(&shared.script);
                drop(shared);
                script(&request)
            };
            let is_kept = matches!(acts.last(), Some(Act::Keep));
            for act in acts {
                perform(&mut stream, raw, &act)?;
            }
            if !is_kept {
                return stream.flush();
            }
        }
        Ok(())
    }
}

fn perform(stream: &mut (impl Read + Write), raw: &TcpStream, act: &Act) -> io::Result<()> {
    match act {
        Act::Text(text) => stream.write_all(text.as_bytes()),
        Act::Body(content, range) => stream.write_all(&content[range.clone()]),
        Act::Wait(time) => {
            stream.flush()?;
            thread::sleep(*time);
            Ok(())
        }
        Act::Hang => {
            stream.flush()?;
            while stream.read(&mut [0; 64])? > 0 {}
            Ok(())
        }
        Act::Reset => {
            stream.flush()?;
            // What the client has not read when the reset comes is lost to it.
            thread::sleep(Duration::from_millis(100));
            rustix::net::sockopt::set_socket_linger(raw, Some(Duration::ZERO))?;
            Ok(())
        }
        Act::Keep => stream.flush(),
    }
}

/// The next request's head; `None` when the client has hung up.
fn read_head(stream: &mut impl Read) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    // A byte at a time: nothing of the next request is taken.
    while !bytes.ends_with(b"\r\n\r\n") {
        if bytes.len() == HEAD_BYTES_MAX || stream.read(&mut byte)? == 0 {
            return Ok(None);
        }
        bytes.push(byte[0]);
    }
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// What a good origin answers: the range or the whole, with the head fields `fields` (each ending in CRLF) besides.
#[must_use]
pub fn honest(request: &Request, content: &Arc<[u8]>, fields: &str) -> Vec<Act> {
    let length = content.len();
    let Some(range) = request.range.clone() else { return whole(content, fields) };
    if range.start >= length {
        let text = format!("HTTP/1.1 416 No\r\nContent-Range: bytes */{length}\r\nContent-Length: 0\r\n\r\n");
        return vec![Act::Text(text), Act::Keep];
    }
    let range = range.start..range.end.min(length);
    let head = part_head(&range, length, fields);
    vec![Act::Text(head), Act::Body(Arc::clone(content), range), Act::Keep]
}

/// The whole, whatever was asked for.
#[must_use]
pub fn whole(content: &Arc<[u8]>, fields: &str) -> Vec<Act> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{fields}\r\n", content.len());
    vec![Act::Text(head), Act::Body(Arc::clone(content), 0..content.len()), Act::Keep]
}

/// The head of a 206 that brings `range` of `total` bytes.
#[must_use]
pub fn part_head(range: &Range<usize>, total: usize, fields: &str) -> String {
    let (first, last) = (range.start, range.end - 1);
    let length = range.len();
    format!(
        "HTTP/1.1 206 Part\r\nContent-Range: bytes {first}-{last}/{total}\r\nContent-Length: {length}\r\n{fields}\r\n"
    )
}

/// An answer without content that anybody wants; `fields` as in [`honest`].
#[must_use]
pub fn refusal(status: u16, fields: &str) -> Vec<Act> {
    let body = "not the content";
    vec![
        Act::Text(format!("HTTP/1.1 {status} As told\r\nContent-Length: {}\r\n{fields}\r\n{body}", body.len())),
        Act::Keep,
    ]
}

/// A chunked body of `content[range]` after `head`, in chunks of `chunk_bytes`, ended by `end` (`0\r\n\r\n`, or worse).
#[must_use]
pub fn chunked(head: &str, content: &Arc<[u8]>, range: Range<usize>, chunk_bytes: usize, end: &str) -> Vec<Act> {
    let mut acts = vec![Act::Text(head.to_owned())];
    let mut at = range.start;
    while at < range.end {
        let until = range.end.min(at + chunk_bytes);
        acts.push(Act::Text(format!("{:x}\r\n", until - at)));
        acts.push(Act::Body(Arc::clone(content), at..until));
        acts.push(Act::Text("\r\n".to_owned()));
        at = until;
    }
    acts.push(Act::Text(end.to_owned()));
    acts
}

/// `content[range]`, `step_bytes` at a time with `pause` after each.
#[must_use]
pub fn slowly(content: &Arc<[u8]>, range: Range<usize>, step_bytes: usize, pause: Duration) -> Vec<Act> {
    let steps = range.clone().step_by(step_bytes);
    steps
        .flat_map(|at| [Act::Body(Arc::clone(content), at..range.end.min(at + step_bytes)), Act::Wait(pause)])
        .collect()
}
