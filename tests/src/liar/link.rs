//! One peer connection of the liar: blocking, frame by frame.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::RangeInclusive;
use std::time::Duration;

use hawker_proto::frame::{Frame, FrameKind, HEAD_BYTES, Head, Hello, ROLE_SERVES, ROLE_WANTS, apply_have};
use hawker_proto::handshake::{Handshake, HandshakeConfig, LinkKind, Proof, Side, Transcript};
use hawker_proto::hash::block_value;
use hawker_proto::trust::RecordBatch;
use hawker_proto::{BlockIndex, Geometry, PieceIndex, PieceMap, TaskId};

use super::Identity;

/// An honest agent answers sooner, on however busy a machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// What came over a link.
#[derive(Debug)]
pub enum Message {
    Frame(Frame),
    Block(Head, Vec<u8>),
}

/// A connection after its handshake.
#[derive(Debug)]
pub struct Link {
    socket: TcpStream,
}

impl Link {
    /// Connects as a child.
    ///
    /// # Errors
    /// The agent is not there, or did not take the handshake.
    pub fn dial(to: SocketAddr, identity: &Identity) -> io::Result<Self> {
        let (handshake, hello) = Handshake::dial(&config(identity, ROLE_WANTS));
        let mut link = Self::connect(to)?;
        link.send(&hello)?;
        link.shake(handshake)?;
        Ok(link)
    }

    /// Connects as a child that speaks `versions`.
    ///
    /// # Errors
    /// The agent is not there, or did not take the handshake: then with the words of its refusal.
    pub fn dial_speaking(to: SocketAddr, identity: &Identity, versions: RangeInclusive<u16>) -> io::Result<Self> {
        let ours = hello(identity, ROLE_WANTS, versions);
        let mut link = Self::connect(to)?;
        link.send(&Frame::Hello(ours))?;
        let theirs = link.receive_hello()?;
        let transcript = Transcript::new(LinkKind::Peer, ours, theirs).map_err(io::Error::other)?;
        match link.receive()? {
            Message::Frame(Frame::Auth { mac, signature }) => {
                let proof = Proof { mac, signature };
                transcript.verify(Side::Acceptor, Some(&identity.cluster), &proof).map_err(io::Error::other)?;
            }
            other => return Err(io::Error::other(format!("{other:?}"))),
        }
        let Proof { mac, signature } = transcript.prove(Side::Dialer, &identity.key, Some(&identity.cluster));
        link.send(&Frame::Auth { mac, signature })?;
        Ok(link)
    }

    /// What a parent that speaks `versions` answers to a child that connected, whether they have one in common or not.
    /// The answer of the child comes back: its words when it refuses.
    ///
    /// # Errors
    /// It went away without a word.
    pub fn greet(socket: TcpStream, identity: &Identity, versions: RangeInclusive<u16>) -> io::Result<Message> {
        let mut link = Self { socket };
        link.receive_hello()?;
        link.send(&Frame::Hello(hello(identity, ROLE_SERVES, versions)))?;
        link.receive()
    }

    fn receive_hello(&mut self) -> io::Result<Hello> {
        match self.receive()? {
            Message::Frame(Frame::Hello(hello)) => Ok(hello),
            Message::Frame(Frame::Error { code, text, .. }) => Err(io::Error::other(format!("{code:?}: {text}"))),
            other => Err(io::Error::other(format!("{other:?}"))),
        }
    }

    /// Connects and says nothing yet.
    ///
    /// # Errors
    /// The agent is not there.
    pub fn connect(to: SocketAddr) -> io::Result<Self> {
        let socket = TcpStream::connect_timeout(&to, PATIENCE)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_nodelay(true)?;
        Ok(Self { socket })
    }

    /// Takes a child that connected.
    ///
    /// # Errors
    /// It went away.
    pub fn accept(socket: TcpStream, identity: &Identity) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        let mut link = Self { socket };
        link.shake(Handshake::accept(&config(identity, ROLE_SERVES)))?;
        Ok(link)
    }

    fn shake(&mut self, mut handshake: Handshake) -> io::Result<()> {
        loop {
            let Message::Frame(frame) = self.receive()? else { return Err(io::ErrorKind::InvalidData.into()) };
            let step = handshake.handle(&frame).map_err(io::Error::other)?;
            for frame in &step.send {
                self.send(frame)?;
            }
            if step.done.is_some() {
                return Ok(());
            }
        }
    }

    /// The socket, to do with it what the protocol does not know.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// The other end is gone.
    pub fn send(&mut self, frame: &Frame) -> io::Result<()> {
        self.write(&frame.encode())
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// The other end is gone.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes)
    }

    /// Sends a block with the head that it says it has.
    ///
    /// # Errors
    /// The other end is gone.
    pub fn send_block(&mut self, channel: u16, piece: PieceIndex, block: BlockIndex, bytes: &[u8]) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).expect("a block");
        self.write(&[Head::block(channel, piece, block, length).encode().as_slice(), bytes].concat())
    }

    /// The next frame or block.
    ///
    /// # Errors
    /// The other end is gone, silent for too long, or sends what is no frame.
    pub fn receive(&mut self) -> io::Result<Message> {
        let mut head = [0; HEAD_BYTES];
        self.socket.read_exact(&mut head)?;
        let head = Head::decode(&head).map_err(io::Error::other)?;
        let mut payload = vec![0; head.payload_bytes() as usize];
        self.socket.read_exact(&mut payload)?;
        if head.kind() == FrameKind::Block {
            return Ok(Message::Block(head, payload));
        }
        Frame::decode(&head, &payload).map(Message::Frame).map_err(io::Error::other)
    }

    /// Opens a task as its child and collects every batch of records, until all pieces are announced.
    ///
    /// # Errors
    /// The parent refused, or is gone.
    pub fn collect(&mut self, channel: u16, task: TaskId, geometry: Geometry) -> io::Result<Vec<Vec<u8>>> {
        self.send(&Frame::Open { channel, task, geometry })?;
        let (mut batches, mut have) = (Vec::new(), PieceMap::empty(geometry.piece_count()));
        while !have.is_full() {
            match self.receive()? {
                Message::Frame(Frame::Records { batch, .. }) => batches.push(batch),
                Message::Frame(Frame::Have { first_piece, bits, .. }) => {
                    apply_have(&mut have, first_piece, &bits).map_err(io::Error::other)?;
                }
                Message::Frame(Frame::Error { code, text, .. }) => {
                    return Err(io::Error::other(format!("{code:?} {text}")));
                }
                _ => {}
            }
        }
        Ok(batches)
    }

    /// Asks for one piece of an opened task. `None` when the parent says that it is gone.
    ///
    /// # Errors
    /// The parent is gone.
    pub fn piece(&mut self, channel: u16, geometry: Geometry, piece: PieceIndex) -> io::Result<Option<Vec<u8>>> {
        let count = geometry.block_count(piece);
        self.send(&Frame::Request { channel, piece, block: BlockIndex(0), count })?;
        let mut bytes = Vec::new();
        for _ in 0..count {
            loop {
                match self.receive()? {
                    Message::Block(_, block) => break bytes.extend(block),
                    Message::Frame(Frame::Gone { .. }) => return Ok(None),
                    Message::Frame(_) => {}
                }
            }
        }
        Ok(Some(bytes))
    }

    /// Takes every piece of a task and compares each with its record, and all with `content`.
    ///
    /// # Panics
    /// When the parent serves anything else.
    pub fn assert_serves(&mut self, channel: u16, task: TaskId, content: &[u8]) {
        let geometry = Geometry::of_length(content.len() as u64).expect("a length");
        let batches = self.collect(channel, task, geometry).expect("an honest parent shows what it has");
        let mut proven = 0;
        for batch in batches.iter().map(|batch| RecordBatch::decode(batch).expect("a batch")) {
            for record in batch.records {
                let bytes = self.piece(channel, geometry, record.piece).expect("it answers").expect("it has it");
                let start = usize::try_from(geometry.piece_range(record.piece).start()).expect("small");
                assert_eq!(bytes, content[start..start + bytes.len()], "{:?}", record.piece);
                let blocks = bytes.chunks(geometry.block_bytes() as usize).zip(0..);
                for (block, index) in blocks {
                    let offset = geometry.block_range(record.piece, BlockIndex(index)).start();
                    assert_eq!(block_value(offset, block), record.blocks[index as usize]);
                }
                proven += 1;
            }
        }
        assert!(proven >= geometry.piece_count(), "{proven} of {} pieces are proven", geometry.piece_count());
    }
}

fn hello(identity: &Identity, roles: u8, versions: RangeInclusive<u16>) -> Hello {
    let (version_min, version_max) = versions.into_inner();
    Hello { version_min, version_max, nonce: identity.nonce(), host: identity.key.public(), roles, is_secured: true }
}

fn config(identity: &Identity, roles: u8) -> HandshakeConfig<'_> {
    HandshakeConfig { host_key: &identity.key, cluster: Some(&identity.cluster), nonce: identity.nonce(), roles }
}
