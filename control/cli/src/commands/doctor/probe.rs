//! One request, as a probe sends it.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hawker_proto::http1::{parse_date, parse_response};

/// What is well answers within this, and what is not should not keep anybody.
const LIMIT: Duration = Duration::from_secs(3);
const HEAD_BYTES_MAX: usize = 16 * 1024;

pub(super) struct Answer {
    pub(super) status: u16,
    /// The server's clock.
    pub(super) unix_s: Option<u64>,
}

/// A GET of `path` from `address`, its head only.
pub(super) fn get(address: &str, path: &str) -> io::Result<Answer> {
    let place = address.to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound)?;
    let mut socket = TcpStream::connect_timeout(&place, LIMIT)?;
    socket.set_read_timeout(Some(LIMIT))?;
    socket.set_write_timeout(Some(LIMIT))?;
    write!(socket, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut bytes = Vec::new();
    while bytes.len() < HEAD_BYTES_MAX {
        let mut part = [0; 1024];
        match socket.read(&mut part) {
            Ok(0) => break,
            Ok(length) => bytes.extend_from_slice(&part[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "it takes connections and does not answer"));
            }
            Err(error) => return Err(error),
        }
        if let Some((head, _)) = parse_response(&bytes).map_err(|error| io::Error::other(error.to_string()))? {
            return Ok(Answer { status: head.status, unix_s: head.header("date").and_then(parse_date) });
        }
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "no HTTP answer"))
}

/// This host's clock.
pub(super) fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
