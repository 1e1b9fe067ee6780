//! Sending: a head, then a body, in as few calls as the socket allows.

use std::io::{self, IoSlice};

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags};

use super::{Answer, Attempt, FileOp};
use crate::op::{Body, File, Outcome, Strategy};
use crate::slab::BLOCK_BYTES;

/// One sendfile(2) call, and what one operation may send by reference before others have their turn; a fast reader
/// on loopback would keep the shard for a whole file otherwise.
const SENDFILE_BYTES_PER_TURN: u64 = 1024 * 1024;

/// A window onto a file that is sent by copy.
const CHUNK_BYTES: u64 = BLOCK_BYTES as u64;

/// A transmission under way.
pub(crate) struct Transmit {
    socket: File,
    head: Vec<u8>,
    body: Body,
    strategy: Strategy,
    head_sent: usize,
    body_sent: u64,
    /// The window that was read of a file sent by copy, and how much of it has been sent.
    chunk: Vec<u8>,
    chunk_sent: usize,
    /// The read of the next window, while a ring has it.
    pub(crate) reading: Option<FileOp>,
}

/// What has to happen next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Send what stands in memory.
    Memory,
    /// Send the file by reference.
    Sendfile,
    /// Read the next window of the file.
    Chunk,
    Nothing,
}

impl Transmit {
    pub(crate) fn new(socket: File, head: Vec<u8>, body: Body, strategy: Strategy) -> Self {
        if let Body::Block(_, range) = &body {
            assert!(range.start <= range.end && range.end <= BLOCK_BYTES, "range {range:?} is not in a block");
        }
        if let Body::File { offset, length, .. } = &body {
            assert!(offset.checked_add(*length).is_some(), "{length} bytes from {offset} is not in a file");
        }
        let (chunk, reading) = (Vec::new(), None);
        Self { socket, head, body, strategy, head_sent: 0, body_sent: 0, chunk, chunk_sent: 0, reading }
    }

    pub(crate) fn socket(&self) -> &File {
        &self.socket
    }

    pub(crate) fn next(&self) -> Next {
        let [head, memory] = self.parts();
        let file_left = self.file_left();
        if file_left > 0 && self.strategy == Strategy::Copy && memory.is_empty() {
            // Before the head, so that the head leaves with the first bytes of its body.
            return Next::Chunk;
        }
        if !head.is_empty() || !memory.is_empty() {
            return Next::Memory;
        }
        if file_left > 0 { Next::Sendfile } else { Next::Nothing }
    }

    /// What stands in memory unsent: of the head, and of the body.
    pub(crate) fn parts(&self) -> [&[u8]; 2] {
        let head = &self.head[self.head_sent..];
        let body = match &self.body {
            Body::None => &[],
            Body::Bytes(bytes) => &bytes[self.memory_sent()..],
            Body::Block(block, range) => &block.as_slice()[range.clone()][self.memory_sent()..],
            Body::File { .. } => &self.chunk[self.chunk_sent..],
        };
        [head, body]
    }

    /// MSG_MORE when bytes follow that are not in memory yet: a head must not leave as a packet of its own.
    pub(crate) fn flags(&self) -> SendFlags {
        let in_memory = (self.chunk.len() - self.chunk_sent) as u64;
        let more = if self.file_left() > in_memory { SendFlags::MORE } else { SendFlags::empty() };
        SendFlags::NOSIGNAL | more
    }

    /// `count` bytes of what `parts` gave are on their way.
    pub(crate) fn sent(&mut self, count: usize) {
        let of_head = count.min(self.head.len() - self.head_sent);
        let of_body = count - of_head;
        self.head_sent += of_head;
        self.body_sent += of_body as u64;
        if let Body::File { .. } = self.body {
            self.chunk_sent += of_body;
            assert!(self.chunk_sent <= self.chunk.len(), "sent {of_body} bytes that were not in the chunk");
        }
    }

    /// Whether a file's pages go out by reference, with calls of our own instead of the ring's: there is no sendfile
    /// opcode, and ring SPLICE is always handed to a worker thread (half the speed at 64 KiB).
    pub(crate) fn is_by_reference(&self) -> bool {
        self.strategy == Strategy::Sendfile && matches!(self.body, Body::File { .. })
    }

    /// Sends until done, until the socket is full, or until others should have their turn.
    pub(crate) fn attempt(&mut self) -> Attempt {
        let mut turn_left = SENDFILE_BYTES_PER_TURN;
        loop {
            let result = match self.next() {
                Next::Nothing => return Attempt::Finished,
                Next::Chunk => return Attempt::NeedsChunk,
                Next::Memory => self.send_memory(),
                Next::Sendfile if turn_left == 0 => return Attempt::Yielded,
                Next::Sendfile => self.send_file(&mut turn_left),
            };
            match result {
                Ok(()) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Attempt::Blocked,
                Err(error) => return Attempt::Failed(error.into()),
            }
        }
    }

    fn send_memory(&mut self) -> Result<(), Errno> {
        let [head, body] = self.parts();
        let slices = [IoSlice::new(head), IoSlice::new(body)];
        // A part that is empty is left out: the call copies and checks every slice.
        let slices = &slices[usize::from(head.is_empty())..2 - usize::from(body.is_empty())];
        let flags = self.flags() | SendFlags::DONTWAIT;
        let count = rustix::net::sendmsg(&self.socket, slices, &mut SendAncillaryBuffer::default(), flags)?;
        self.sent(count);
        Ok(())
    }

    fn send_file(&mut self, turn_left: &mut u64) -> Result<(), Errno> {
        let length = self.file_left().min(*turn_left);
        let Body::File { file, offset, .. } = &self.body else { unreachable!("only a file is sent by reference") };
        let mut offset = offset + self.body_sent;
        let count = rustix::fs::sendfile(&self.socket, file, Some(&mut offset), to_usize(length))?;
        if count == 0 {
            // The file ends before the body does; the caller's error below, since sendfile(2) has none for it.
            return Err(FILE_ENDED);
        }
        self.body_sent += count as u64;
        *turn_left -= count as u64;
        Ok(())
    }

    /// The read of the next window, into `buffer` (a vector for reuse).
    pub(crate) fn chunk_read(&mut self, mut buffer: Vec<u8>) -> FileOp {
        let length = to_usize(self.file_left().min(CHUNK_BYTES));
        let Body::File { file, offset, .. } = &self.body else { unreachable!("only a file is read in chunks") };
        buffer.resize(length, 0);
        FileOp::read_bytes(File::clone(file), buffer, offset + self.body_sent)
    }

    /// A vector for reuse by the next read, once its bytes have been sent.
    pub(crate) fn take_chunk(&mut self) -> Vec<u8> {
        self.chunk_sent = 0;
        std::mem::take(&mut self.chunk)
    }

    /// The window has been read, or not.
    ///
    /// # Errors
    /// The read failed, or the file ended before the body did.
    pub(crate) fn chunk_done(&mut self, op: FileOp, result: io::Result<Answer>) -> io::Result<()> {
        let Outcome::ReadBytes { result, bytes } = op.finish(result) else {
            unreachable!("a chunk is read into bytes")
        };
        if result? < bytes.len() {
            return Err(FILE_ENDED.into());
        }
        self.chunk = bytes;
        self.chunk_sent = 0;
        Ok(())
    }

    pub(crate) fn finish(self, result: io::Result<()>) -> Outcome {
        let count = self.head_sent as u64 + self.body_sent;
        Outcome::Transmitted { result: result.map(|()| count), head: self.head, body: self.body }
    }

    fn file_left(&self) -> u64 {
        if let Body::File { length, .. } = self.body { length - self.body_sent } else { 0 }
    }

    fn memory_sent(&self) -> usize {
        to_usize(self.body_sent)
    }
}

/// A file shorter than its body: bytes promised in the head cannot be sent. ENODATA, equal on both engines.
const FILE_ENDED: Errno = Errno::NODATA;

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a length in memory fits usize")
}
