//! An origin on loopback from which the first agent gets the file, and which counts what it sends.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::content::Content;
use crate::error::BenchError;

/// Head bytes of a request, at most.
const HEAD_BYTES_MAX: u64 = 16 * 1024;

/// A listening origin. It serves until the bench's process ends.
#[derive(Debug)]
pub(super) struct Origin {
    address: SocketAddr,
    served: Arc<Served>,
}

/// What the threads of connections share.
#[derive(Debug)]
struct Served {
    path: PathBuf,
    bytes: u64,
    bytes_sent: AtomicU64,
}

impl Origin {
    /// Serves `content` under every path.
    pub(super) fn start(content: &Content) -> Result<Self, BenchError> {
        let listen = || {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            Ok((listener.local_addr()?, listener))
        };
        let (address, listener) = listen().map_err(BenchError::io("listen on loopback"))?;
        let served =
            Arc::new(Served { path: content.path().to_owned(), bytes: content.bytes(), bytes_sent: AtomicU64::new(0) });
        let origin = Self { address, served: Arc::clone(&served) };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let served = Arc::clone(&served);
                // A client that hangs up is no failure of the origin.
                std::thread::spawn(move || drop(answer(&stream, &served)));
            }
        });
        Ok(origin)
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/content", self.address)
    }

    pub(super) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Body bytes that were asked for so far.
    pub(super) fn bytes_sent(&self) -> u64 {
        self.served.bytes_sent.load(Ordering::Relaxed)
    }
}

/// One request per connection.
fn answer(stream: &TcpStream, served: &Served) -> io::Result<()> {
    let Served { path, bytes, bytes_sent } = served;
    let bytes = *bytes;
    let mut reader = BufReader::new(stream).take(HEAD_BYTES_MAX);
    let mut range = None;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        range = range.or_else(|| range_of(&line, bytes));
        line.clear();
    }
    let (status, Range { start, end }) = range.map_or(("200 OK", 0..bytes), |range| ("206 Partial Content", range));
    let mut head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nETag: \"bench\"\r\nAccept-Ranges: bytes\r\n\
         Cache-Control: public, max-age=86400\r\nConnection: close\r\n",
        end - start
    );
    if status.starts_with("206") {
        head += &format!("Content-Range: bytes {start}-{}/{bytes}\r\n", end - 1);
    }
    let mut out = stream;
    out.write_all(head.as_bytes())?;
    out.write_all(b"\r\n")?;
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(start))?;
    // Before they are sent: a client that hangs up has had some of them.
    bytes_sent.fetch_add(end - start, Ordering::Relaxed);
    io::copy(&mut file.take(end - start), &mut out).map(drop)
}

/// The one form of Range that Hawker sends, `bytes=FIRST-LAST`, cut at the end of the content.
fn range_of(line: &str, bytes: u64) -> Option<Range<u64>> {
    let (name, value) = line.trim_end().split_once(':')?;
    let value = value.trim().strip_prefix("bytes=").filter(|_| name.eq_ignore_ascii_case("range"))?;
    let (first, last) = value.split_once('-')?;
    let start: u64 = first.parse().ok()?;
    let end = if last.is_empty() { bytes } else { last.parse::<u64>().ok()?.saturating_add(1).min(bytes) };
    (start < end).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_hawker_writes_them() {
        assert_eq!(range_of("Range: bytes=0-0\r\n", 10), Some(0..1));
        assert_eq!(range_of("range: bytes=4-\r\n", 10), Some(4..10));
        assert_eq!(range_of("Range: bytes=4-99\r\n", 10), Some(4..10));
        for line in ["Range: bytes=10-12", "Range: bytes=-5", "Range: lines=1-2", "X-Range: bytes=0-0", "\r\n"] {
            assert_eq!(range_of(line, 10), None, "{line}");
        }
    }
}
