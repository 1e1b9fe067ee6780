//! A parent that lies to whoever dials it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hawker_proto::frame::{Frame, Head, have_windows};
use hawker_proto::trust::{Grant, Lease, RecordBatch};
use hawker_proto::{BlockIndex, Geometry, HostKey, PieceIndex, PieceMap, TaskId};

use super::{Identity, Link, Message};

/// What the parent does wrong. Before that it does everything right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// One bit of every block is flipped.
    WrongBytes,
    /// A wrong block, then the link is closed, again and again: who counts by link never sees two.
    WrongBytesOnceALink,
    /// The bytes of the next piece.
    SwappedPieces,
    /// Blocks of another length than the task's.
    ShortBlocks,
    LongBlocks,
    /// Blocks that nobody asked for: of a piece beyond the task.
    BlocksBeyondTheTask,
    /// Records that the holder of the lease did not sign.
    ForgedRecords,
    /// Records under a lease that no scheduler signed.
    ForgedLease,
    /// Good records of another task.
    ReplayedRecords,
    /// Records that are no records.
    NonsenseRecords,
    /// HAVE for everything, GONE for whatever is asked.
    HaveForWhatItLacks,
    /// Every request is queued, and said to be queued for ever.
    EndlessQueued,
    /// Grants that are taken back at once.
    RevokedGrants,
    /// A grant, a block's head, then a byte each second.
    ByteASecond,
    /// The same, but often enough to look alive.
    ByteInFiftyMillis,
    /// The connection is reset when something is asked.
    Reset,
    /// Nothing after connect, after the task is opened, after a request.
    SilentAtConnect,
    SilentAtOpen,
    SilentAtRequest,
    /// Bytes that are no frames.
    Garbage,
    /// A head that announces 4 GiB.
    OversizedFrame,
    /// HAVE for pieces beyond the task.
    HaveOutside,
    /// A frame that only children send.
    FrameOfAChild,
}

impl Lie {
    pub const ALL: [Self; 23] = [
        Self::WrongBytes,
        Self::WrongBytesOnceALink,
        Self::SwappedPieces,
        Self::ShortBlocks,
        Self::LongBlocks,
        Self::BlocksBeyondTheTask,
        Self::ForgedRecords,
        Self::ForgedLease,
        Self::ReplayedRecords,
        Self::NonsenseRecords,
        Self::HaveForWhatItLacks,
        Self::EndlessQueued,
        Self::RevokedGrants,
        Self::ByteASecond,
        Self::ByteInFiftyMillis,
        Self::Reset,
        Self::SilentAtConnect,
        Self::SilentAtOpen,
        Self::SilentAtRequest,
        Self::Garbage,
        Self::OversizedFrame,
        Self::HaveOutside,
        Self::FrameOfAChild,
    ];

    /// Whether it is what no honest host ever does, so that the liar is left alone for good.
    #[must_use]
    pub fn is_proven(self) -> bool {
        !matches!(
            self,
            Self::ForgedLease
                | Self::HaveForWhatItLacks
                | Self::EndlessQueued
                | Self::RevokedGrants
                | Self::ByteASecond
                | Self::ByteInFiftyMillis
                | Self::Reset
                | Self::SilentAtConnect
                | Self::SilentAtOpen
                | Self::SilentAtRequest
        )
    }
}

/// The task that the parent says it has, with what it learned from an honest host.
#[derive(Debug)]
pub struct Subject {
    pub task: TaskId,
    pub content: Vec<u8>,
    /// Encoded batches for all of its pieces.
    pub records: Vec<Vec<u8>>,
    /// A good batch of another task.
    pub other_records: Vec<u8>,
}

impl Subject {
    /// How the task divides.
    ///
    /// # Panics
    /// When it is larger than any task.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        Geometry::of_length(self.content.len() as u64).expect("a length")
    }

    fn block(&self, piece: PieceIndex, block: BlockIndex) -> Vec<u8> {
        let range = self.geometry().block_range(piece, block);
        let at = |offset| usize::try_from(offset).expect("small");
        self.content[at(range.start())..at(range.end())].to_vec()
    }
}

/// What children did to the parent.
#[derive(Debug, Default)]
pub struct Seen {
    pub dials: AtomicU32,
    pub opens: AtomicU32,
    pub requests: AtomicU32,
    /// Lies told: wrong blocks, or whatever the lie is about.
    pub lies: AtomicU32,
    pub bad_pieces: AtomicU32,
}

impl Seen {
    /// Dials, opens, requests, lies, BAD_PIECE so far.
    #[must_use]
    pub fn counts(&self) -> [u32; 5] {
        [&self.dials, &self.opens, &self.requests, &self.lies, &self.bad_pieces]
            .map(|counter| counter.load(Ordering::Relaxed))
    }
}

/// A parent that listens on loopback until the test's process ends.
#[derive(Debug)]
pub struct Parent {
    pub address: SocketAddr,
    pub seen: Arc<Seen>,
}

struct Script {
    lie: Lie,
    identity: Identity,
    subject: Arc<Subject>,
    seen: Arc<Seen>,
}

impl Parent {
    /// Listens.
    ///
    /// # Panics
    /// When loopback has no free port.
    #[must_use]
    pub fn start(lie: Lie, identity: &Identity, subject: &Arc<Subject>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port on loopback");
        let address = listener.local_addr().expect("a bound listener has an address");
        let seen = Arc::new(Seen::default());
        let script = Script { lie, identity: identity.clone(), subject: Arc::clone(subject), seen: Arc::clone(&seen) };
        let script = Arc::new(script);
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let script = Arc::clone(&script);
                // A child that hangs up has done right.
                thread::spawn(move || drop(script.serve(socket)));
            }
        });
        Self { address, seen }
    }
}

impl Script {
    fn lied(&self) {
        self.seen.lies.fetch_add(1, Ordering::Relaxed);
    }

    fn serve(&self, socket: TcpStream) -> io::Result<()> {
        self.seen.dials.fetch_add(1, Ordering::Relaxed);
        if self.lie == Lie::SilentAtConnect {
            self.lied();
            return until_closed(&socket);
        }
        let mut link = Link::accept(socket, &self.identity)?;
        loop {
            match link.receive()? {
                Message::Frame(Frame::Open { channel, .. }) => {
                    self.seen.opens.fetch_add(1, Ordering::Relaxed);
                    self.show(&mut link, channel)?;
                }
                Message::Frame(Frame::Request { channel, piece, block, count }) => {
                    self.seen.requests.fetch_add(1, Ordering::Relaxed);
                    self.answer(&mut link, channel, piece, block.0..block.0 + count)?;
                }
                Message::Frame(Frame::BadPiece { .. }) => {
                    self.seen.bad_pieces.fetch_add(1, Ordering::Relaxed);
                }
                _ => {}
            }
        }
    }

    /// The answer to OPEN.
    fn show(&self, link: &mut Link, channel: u16) -> io::Result<()> {
        let geometry = self.subject.geometry();
        let forged = |forge: &dyn Fn(RecordBatch) -> RecordBatch| {
            let good = self.subject.records.iter().map(|batch| RecordBatch::decode(batch).expect("a good batch"));
            good.map(|batch| forge(batch).encode()).collect::<Vec<_>>()
        };
        let records = match self.lie {
            Lie::SilentAtOpen => {
                self.lied();
                return until_closed(link.socket());
            }
            Lie::Garbage => {
                self.lied();
                return link.write(&crate::files::random_bytes(64 << 10, 99));
            }
            Lie::OversizedFrame => {
                self.lied();
                let mut head = Frame::Have { channel, first_piece: 0, bits: Vec::new() }.encode();
                head[..4].copy_from_slice(&u32::MAX.to_le_bytes());
                return link.write(&head);
            }
            Lie::HaveOutside => {
                self.lied();
                return link.send(&Frame::Have { channel, first_piece: 1 << 20, bits: vec![255; 1024] });
            }
            Lie::FrameOfAChild => {
                self.lied();
                return link.send(&Frame::Request { channel, piece: PieceIndex(0), block: BlockIndex(0), count: 1 });
            }
            Lie::NonsenseRecords => vec![crate::files::random_bytes(1000, 98)],
            Lie::ReplayedRecords => vec![self.subject.other_records.clone()],
            Lie::ForgedRecords => forged(&|mut batch| {
                batch.records[0].blocks[0].0[0] ^= 1;
                batch
            }),
            Lie::ForgedLease => forged(&|batch| self.forge_lease(batch)),
            _ => self.subject.records.clone(),
        };
        if matches!(self.lie, Lie::NonsenseRecords | Lie::ReplayedRecords | Lie::ForgedRecords | Lie::ForgedLease) {
            self.lied();
        }
        for batch in records {
            link.send(&Frame::Records { channel, batch })?;
        }
        for frame in have_windows(channel, &PieceMap::full(geometry.piece_count())) {
            link.send(&frame)?;
        }
        Ok(())
    }

    /// A lease that a scheduler of the liar's own signed for the liar, and records under it.
    fn forge_lease(&self, batch: RecordBatch) -> RecordBatch {
        let range = batch.geometry.range_of_pieces(0..batch.geometry.piece_count());
        let holder = self.identity.key.public();
        let lease = Lease { task: batch.task, range, holder, epoch: 1, serial: 1, expires_unix_ms: u64::MAX };
        let grant = Grant::Lease(lease.sign(&HostKey::from_seed([250; 32])));
        RecordBatch::sign(&self.identity.key, batch.task, batch.geometry, grant, batch.records)
    }

    fn answer(&self, link: &mut Link, channel: u16, piece: PieceIndex, blocks: std::ops::Range<u32>) -> io::Result<()> {
        let granted = Frame::Granted { channel, blocks: 16, millis: 2000 };
        let queued = Frame::Queued { channel, piece, position: 0 };
        match self.lie {
            Lie::HaveForWhatItLacks => {
                self.lied();
                return link.send(&Frame::Gone { channel, piece });
            }
            Lie::EndlessQueued => {
                self.lied();
                return (0..20).try_for_each(|_| link.send(&queued));
            }
            Lie::RevokedGrants => {
                self.lied();
                link.send(&granted)?;
                return link.send(&queued);
            }
            Lie::Reset => {
                self.lied();
                rustix::net::sockopt::set_socket_linger(link.socket(), Some(Duration::ZERO))?;
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            Lie::SilentAtRequest => {
                self.lied();
                return until_closed(link.socket());
            }
            _ => link.send(&granted)?,
        }
        for block in blocks.map(BlockIndex) {
            self.lied();
            self.lie_with_block(link, channel, piece, block)?;
        }
        Ok(())
    }

    fn lie_with_block(&self, link: &mut Link, channel: u16, piece: PieceIndex, block: BlockIndex) -> io::Result<()> {
        let mut bytes = self.subject.block(piece, block);
        match self.lie {
            Lie::WrongBytes | Lie::WrongBytesOnceALink => bytes[0] ^= 1,
            Lie::SwappedPieces => {
                let other = self.subject.block(PieceIndex(u32::from(piece.0 == 0)), block);
                bytes = other[..bytes.len()].to_vec();
            }
            Lie::ShortBlocks => bytes.truncate(bytes.len() / 2),
            Lie::LongBlocks => bytes.resize(bytes.len() + 1, 0),
            Lie::BlocksBeyondTheTask => return link.send_block(channel, PieceIndex(1 << 20), block, &bytes),
            Lie::ByteASecond => return trickle(link, channel, piece, block, &bytes, Duration::from_secs(1)),
            Lie::ByteInFiftyMillis => return trickle(link, channel, piece, block, &bytes, Duration::from_millis(50)),
            _ => {}
        }
        link.send_block(channel, piece, block, &bytes)?;
        if self.lie == Lie::WrongBytesOnceALink {
            // Not reset: the lie shall arrive.
            link.socket().shutdown(std::net::Shutdown::Write)?;
            until_closed(link.socket())?;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }
}

fn trickle(
    link: &mut Link,
    channel: u16,
    piece: PieceIndex,
    block: BlockIndex,
    bytes: &[u8],
    pause: Duration,
) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).expect("a block");
    link.write(&Head::block(channel, piece, block, length).encode())?;
    let end = Instant::now() + Duration::from_secs(60);
    for byte in bytes.iter().take_while(|_| Instant::now() < end) {
        link.write(&[*byte])?;
        thread::sleep(pause);
    }
    Ok(())
}

/// Reads and says nothing until the child has had enough.
fn until_closed(mut socket: &TcpStream) -> io::Result<()> {
    io::copy(&mut socket, &mut io::sink()).map(|_| ())
}
