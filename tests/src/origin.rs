//! An origin that does less than nginx: no ranges, no length, refusals.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// How the origin answers a GET.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 200 with Content-Length, whatever Range was asked for.
    WholeWithLength,
    /// 200, chunked.
    Chunked,
    /// 200, no length: the body ends where the connection does.
    UntilClose,
    /// This status and a body that must not be taken for content.
    Status(u16),
    /// Promises the whole content, sends half, closes.
    CutShort,
}

/// A listening origin on loopback. It serves until the test's process ends.
#[derive(Debug)]
pub struct Origin {
    address: SocketAddr,
    body_bytes: Arc<AtomicU64>,
}

impl Origin {
    /// Serves `content` under every path.
    ///
    /// # Panics
    /// When loopback has no free port.
    #[must_use]
    pub fn start(answer: Answer, content: Vec<u8>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port on loopback");
        let address = listener.local_addr().expect("a bound listener has an address");
        let body_bytes = Arc::new(AtomicU64::new(0));
        let content: Arc<[u8]> = content.into();
        let counter = Arc::clone(&body_bytes);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (content, counter) = (Arc::clone(&content), Arc::clone(&counter));
                // A client that hangs up is no failure of the origin.
                thread::spawn(move || drop(serve(&stream, answer, &content, &counter)));
            }
        });
        Self { address, body_bytes }
    }

    /// Some URL of it.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// Body bytes sent so far.
    #[must_use]
    pub fn body_bytes(&self) -> u64 {
        self.body_bytes.load(Ordering::Relaxed)
    }
}

fn serve(stream: &TcpStream, answer: Answer, content: &[u8], counter: &AtomicU64) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    // One request per connection: every answer says `Connection: close`.
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let refusal = b"not the content";
    let (status, framing, body) = match answer {
        Answer::WholeWithLength => (200, format!("Content-Length: {}\r\n", content.len()), content),
        Answer::Chunked => (200, "Transfer-Encoding: chunked\r\n".to_owned(), content),
        Answer::UntilClose => (200, String::new(), content),
        Answer::Status(status) => (status, format!("Content-Length: {}\r\n", refusal.len()), refusal.as_slice()),
        Answer::CutShort => (200, format!("Content-Length: {}\r\n", content.len()), &content[..content.len() / 2]),
    };
    let mut to = stream;
    to.write_all(format!("HTTP/1.1 {status} As told\r\n{framing}Connection: close\r\n\r\n").as_bytes())?;
    let is_chunked = answer == Answer::Chunked;
    // An odd size: nothing of the receiver's is a multiple of it.
    for chunk in body.chunks(37_123) {
        if is_chunked {
            to.write_all(format!("{:x}\r\n", chunk.len()).as_bytes())?;
        }
        to.write_all(chunk)?;
        counter.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        if is_chunked {
            to.write_all(b"\r\n")?;
        }
    }
    if is_chunked {
        to.write_all(b"0\r\n\r\n")?;
    }
    Ok(())
}
