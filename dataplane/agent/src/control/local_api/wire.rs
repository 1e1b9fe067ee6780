//! Frames over the socket, with a descriptor riding along.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use hawker_api::frame::{self, HEAD_BYTES};
use prost::Message;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;

/// Longest request: 8 KiB of URL and 32 KiB of headers, and what else a get says.
const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// The next message.
///
/// # Errors
/// The connection ends, or its bytes are no message.
pub(super) async fn receive<M: Message + Default>(stream: &mut UnixStream) -> io::Result<M> {
    let mut head = [0; HEAD_BYTES];
    stream.read_exact(&mut head).await?;
    let invalid = |error: &dyn std::error::Error| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
    let length = frame::payload_bytes(head).map_err(|error| invalid(&error))?;
    if length > REQUEST_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a request is longer than any URL and headers"));
    }
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await?;
    M::decode(payload.as_slice()).map_err(|error| invalid(&error))
}

/// Sends a message, and `fd` with its first byte.
///
/// # Errors
/// The connection ends.
pub(super) async fn send(stream: &mut UnixStream, message: &impl Message, fd: Option<&OwnedFd>) -> io::Result<()> {
    let mut bytes = Vec::new();
    frame::encode(message, &mut bytes)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    let sent = match fd {
        Some(fd) => stream.async_io(Interest::WRITABLE, || send_with(stream.as_fd(), &bytes, fd.as_fd())).await?,
        None => 0,
    };
    stream.write_all(&bytes[sent..]).await
}

fn send_with(socket: BorrowedFd<'_>, bytes: &[u8], fd: BorrowedFd<'_>) -> io::Result<usize> {
    let fds = [fd];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)), "space for one descriptor");
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?)
}

/// Resolves when the other side has closed; what it sends meanwhile means nothing.
pub(super) async fn closed(stream: &UnixStream) {
    let mut bytes = [0; 64];
    loop {
        if stream.ready(Interest::READABLE).await.is_err() {
            return;
        }
        match stream.try_read(&mut bytes) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}
