//! Connections to other agents: what the two roles have in common.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use hawker_proto::frame::{CONTROL_BYTES_MAX, Frame, FrameKind, Head};
use hawker_proto::handshake::{Handshake, HandshakeConfig, Peer};
use hawker_proto::{HostId, Instant, TaskId};
use hawker_ring::{Block, File, Op, Strategy, TailBuf, Token};
use hawker_swarm::{LinkId, NeighborId, UploadInput};

use super::parent::ServeChannel;
use super::unsent::Counted;
use super::wire::{OUTBOX_BYTES_MAX, Wire, WireEvent};
use super::{Identity, Purpose, SLAB_PAUSE, Shard};
use crate::rates::take_all;

/// Time from connect to the end of the handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// A link that carries no task is closed after this.
const IDLE_LIMIT: Duration = Duration::from_secs(30);

/// One connection, dialed or accepted.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) socket: Option<File>,
    pub(super) wire: Wire,
    pub(super) handshake: Option<Handshake>,
    pub(super) peer: Option<Peer>,
    /// The operation in flight in each direction.
    receive: Option<u64>,
    transmit: Option<u64>,
    /// Length of the block that the transmit in flight carries.
    transmit_block: u32,
    /// Control bytes that it carries.
    transmit_head: usize,
    /// Control bytes that wait or are on their way.
    unsent: Counted,
    /// Where spent receive tails wait for the next receive.
    tail: Vec<u8>,
    opened: Instant,
    last_used: Instant,
    /// Nothing more is taken from the peer: the link closes once it has been told why.
    is_ending: bool,
    pub(super) role: Role,
}

/// Which end of the link this host is.
#[derive(Debug)]
pub(super) enum Role {
    /// We dialed: we ask, the other serves.
    Child(ChildRole),
    /// We accepted: we serve.
    Parent { channels: HashMap<u16, ServeChannel> },
}

#[derive(Debug)]
pub(super) struct ChildRole {
    /// Who must answer; another host's proof closes the link.
    pub(super) host: HostId,
    pub(super) channels: HashMap<u16, (TaskId, NeighborId)>,
    pub(super) next_channel: u16,
    /// From our HELLO to the answer.
    pub(super) round_trip: Duration,
}

impl Link {
    pub(super) fn new(role: Role, now: Instant) -> Self {
        Self {
            socket: None,
            wire: Wire::new(),
            handshake: None,
            peer: None,
            receive: None,
            transmit: None,
            transmit_block: 0,
            transmit_head: 0,
            unsent: Counted::default(),
            tail: Vec::new(),
            opened: now,
            last_used: now,
            is_ending: false,
            role,
        }
    }

    pub(super) fn is_parent(&self) -> bool {
        matches!(self.role, Role::Parent { .. })
    }

    pub(super) fn opened(&self) -> Instant {
        self.opened
    }

    fn has_channels(&self) -> bool {
        match &self.role {
            Role::Child(child) => !child.channels.is_empty(),
            Role::Parent { channels } => !channels.is_empty(),
        }
    }
}

/// The handshake's configuration with a nonce of its own.
pub(super) fn with_handshake<T>(identity: &Identity, roles: u8, run: impl FnOnce(&HandshakeConfig<'_>) -> T) -> T {
    let mut nonce = [0; 32];
    // Without randomness there is no authentication; the system call fails only before the kernel's pool is ready.
    getrandom::fill(&mut nonce).expect("the kernel gives random bytes");
    let cluster = identity.cluster.as_ref();
    run(&HandshakeConfig { host_key: &identity.key, cluster, nonce, roles })
}

impl Shard {
    pub(super) fn add_link(&mut self, link: Link) -> u32 {
        let id = self.next_link;
        self.next_link = self.next_link.wrapping_add(1);
        self.links.insert(id, link);
        id
    }

    /// Queues a frame on a link, if it still exists.
    pub(super) fn send_frame(&mut self, id: u32, frame: &Frame) {
        if let Some(link) = self.links.get_mut(&id) {
            link.wire.push(frame);
            self.dirty_links.insert(id);
        }
    }

    /// Starts a transmit on every link that has something to say and says nothing yet.
    pub(super) fn flush_links(&mut self) {
        let links = self.links.len();
        for id in std::mem::take(&mut self.dirty_links) {
            let Some(link) = self.links.get_mut(&id) else { continue };
            let unsent = link.wire.outbox_bytes() + link.transmit_head;
            let is_fair = self.unsent.note(&mut link.unsent, unsent, links);
            if !is_fair || link.wire.outbox_bytes() > OUTBOX_BYTES_MAX {
                self.close_link(id, "the peer reads nothing");
                continue;
            }
            let Some(socket) = link.socket.clone().filter(|_| link.transmit.is_none()) else { continue };
            let Some((head, body, block)) = link.wire.next_transmit() else { continue };
            (link.transmit_block, link.transmit_head) = (block, head.len());
            let op = Op::Transmit { socket, head, body, strategy: Strategy::Sendfile };
            let token = self.submit(op, Purpose::Transmit { link: id });
            if let Some(link) = self.links.get_mut(&id) {
                link.transmit = Some(token);
            }
        }
    }

    pub(super) fn on_transmitted(&mut self, id: u32, is_sent: bool, head: Vec<u8>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        (link.transmit, link.transmit_head) = (None, 0);
        link.last_used = self.now;
        link.wire.recycle(head);
        if !is_sent {
            self.close_link(id, "sending failed");
            return;
        }
        let bytes = std::mem::take(&mut link.transmit_block);
        if bytes > 0 {
            self.counters.uploaded_bytes.add(u64::from(bytes));
            self.upload.handle(self.now, UploadInput::BlockSent { link: LinkId(id), bytes });
        }
        if link.is_ending && link.wire.outbox_bytes() == 0 {
            self.close_link(id, "refused");
            return;
        }
        self.dirty_links.insert(id);
        self.continue_announcing(id);
    }

    pub(super) fn on_received(&mut self, id: u32, is_open: bool, block: Option<Block>, tail: Vec<u8>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.receive = None;
        link.last_used = self.now;
        if is_open {
            link.wire.received(block, &tail);
            link.tail = tail;
            self.pump(id);
        } else {
            self.close_link(id, "closed by the peer, or broken");
        }
    }

    /// Handles all that has arrived on a link, then receives more.
    pub(super) fn pump(&mut self, id: u32) {
        while let Some(link) = self.links.get_mut(&id).filter(|link| !link.is_ending) {
            match link.wire.next_event() {
                Ok(WireEvent::Frame(frame)) => self.on_frame(id, frame),
                Ok(WireEvent::BlockHead(head)) => {
                    if !self.begin_block(id, head) {
                        return;
                    }
                }
                Ok(WireEvent::Block { head, block, length }) => self.on_peer_block(id, head, block, length),
                Ok(WireEvent::Starved) => {
                    self.receive_more(id);
                    return;
                }
                Err(error) => {
                    tracing::debug!(%error, "a peer sent nonsense");
                    self.close_liar(id, "protocol error");
                }
            }
        }
    }

    fn receive_more(&mut self, id: u32) {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.receive.is_none()) else { return };
        let Some(socket) = link.socket.clone() else { return };
        let (body, tail_max) = link.wire.next_receive();
        let tail = TailBuf::up_to(std::mem::take(&mut link.tail), tail_max);
        let token = self.submit(Op::Receive { socket, body, tail }, Purpose::Receive { link: id });
        if let Some(link) = self.links.get_mut(&id) {
            link.receive = Some(token);
        }
    }

    /// Makes room for a block that is announced; false when it must wait.
    fn begin_block(&mut self, id: u32, head: Head) -> bool {
        debug_assert_eq!(head.kind(), FrameKind::Block);
        let Some(length) = self.expected_block(id, &head) else {
            self.close_liar(id, "a block that does not belong here");
            return false;
        };
        let wait = self.pay_for_block(id, &head, length).err();
        let block = if wait.is_none() { self.slab.take() } else { None };
        let Some(link) = self.links.get_mut(&id) else { return false };
        if let Some(block) = block {
            link.wire.begin_block(head, block);
            return true;
        }
        link.wire.postpone();
        self.stalled_links.push(id);
        self.wake_after(wait.unwrap_or(SLAB_PAUSE));
        false
    }

    /// Takes a block's bytes from the host's download rate and from its task's.
    fn pay_for_block(&mut self, id: u32, head: &Head, length: u32) -> Result<(), Duration> {
        let task = self.neighbor_at(id, head.channel()).map(|(task, _)| task);
        match task.and_then(|task| self.downloads.get_mut(&task)) {
            Some(driver) => take_all(&mut [&mut driver.meter, &mut self.meters.down], self.now, length),
            None => self.meters.down.take(self.now, length),
        }
    }

    fn on_frame(&mut self, id: u32, frame: Frame) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.handshake.is_some() {
            self.on_handshake_frame(id, &frame);
            return;
        }
        match (&link.role, frame) {
            (_, Frame::Ping { aux }) => self.send_frame(id, &Frame::Pong { aux }),
            (_, Frame::Pong { .. }) => {}
            (Role::Child(_), frame) => self.on_parent_says(id, frame),
            (Role::Parent { .. }, frame) => self.on_child_says(id, &frame),
        }
    }

    fn on_handshake_frame(&mut self, id: u32, frame: &Frame) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let Some(handshake) = &mut link.handshake else { return };
        match handshake.handle(frame) {
            Ok(step) => {
                for frame in &step.send {
                    link.wire.push(frame);
                }
                self.dirty_links.insert(id);
                if let Some(peer) = step.done {
                    link.handshake = None;
                    link.peer = Some(peer);
                    self.on_link_ready(id);
                }
            }
            Err(error) => {
                self.counters.refused.add(1);
                tracing::info!(%error, "a peer's handshake failed");
                let Some(answer) = error.answer() else { return self.close_link(id, "refused by the peer") };
                link.wire.push(&answer);
                link.is_ending = true;
                self.dirty_links.insert(id);
            }
        }
    }

    fn on_link_ready(&mut self, id: u32) {
        let Some(link) = self.links.get(&id) else { return };
        if link.is_parent() {
            self.counters.links_in.add(1);
            self.upload.handle(self.now, UploadInput::LinkUp { link: LinkId(id) });
        } else {
            self.counters.links_out.add(1);
            if let Some(link) = self.links.get_mut(&id) {
                link.wire.expect_payload(CONTROL_BYTES_MAX);
            }
            self.on_child_ready(id);
        }
    }

    /// Closes a link and tells the machines that counted on it.
    pub(super) fn close_link(&mut self, id: u32, reason: &'static str) {
        let Some(link) = self.links.remove(&id) else { return };
        tracing::debug!(link = id, is_parent = link.is_parent(), reason, "link closed");
        for token in [link.receive, link.transmit].into_iter().flatten() {
            self.engine.cancel(Token(token));
        }
        self.unsent.forget(link.unsent);
        let was_ready = link.peer.is_some();
        match link.role {
            Role::Parent { channels } => {
                if was_ready {
                    self.counters.links_in.add(u64::MAX);
                    self.upload.handle(self.now, UploadInput::LinkDown { link: LinkId(id) });
                }
                self.forget_watchers(id, channels.into_values());
            }
            Role::Child(child) => {
                if was_ready {
                    self.counters.links_out.add(u64::MAX);
                }
                self.on_child_closed(id, child);
            }
        }
        if let Some(file) = link.socket {
            self.submit(Op::Close { file }, Purpose::Close);
        }
    }

    /// Closes links that never finished their handshake or carry no task any more.
    pub(super) fn close_idle_links(&mut self) {
        let is_over = |link: &Link| {
            let is_late = link.peer.is_none() && self.now.since(link.opened) > HANDSHAKE_LIMIT;
            is_late || (!link.has_channels() && self.now.since(link.last_used) > IDLE_LIMIT)
        };
        let over: Vec<u32> = self.links.iter().filter(|(_, link)| is_over(link)).map(|(id, _)| *id).collect();
        for id in over {
            self.close_link(id, "idle");
        }
    }

    /// Room for one more served link. Those that have not proved who they are go first, the oldest of them: whoever
    /// only opens connections must not keep hosts of the cluster out.
    fn make_room_for_child(&mut self) -> bool {
        let (mut proven, mut strangers, mut oldest) = (0, 0, None::<(Instant, u32)>);
        for (id, link) in self.links.iter().filter(|(_, link)| link.is_parent()) {
            if link.handshake.is_none() {
                proven += 1;
            } else {
                strangers += 1;
                let age = (link.opened, *id);
                oldest = Some(oldest.map_or(age, |older| older.min(age)));
            }
        }
        if let Some((_, id)) = oldest.filter(|_| strangers >= self.limits.strangers) {
            self.close_link(id, "newer connections need its place");
        }
        proven < self.limits.parent_links
    }

    /// Takes a connection that was accepted, here or on the shard with the listener.
    pub(super) fn adopt_connection(&mut self, socket: File, from: SocketAddr) {
        if self.is_draining || !self.make_room_for_child() {
            self.counters.refused.add(1);
            tracing::debug!(%from, "no room for another link");
            return;
        }
        if let Err(error) = hawker_ring::net::tune(&socket, &self.socket_options) {
            tracing::debug!(%error, %from, "setting socket options failed");
        }
        let mut link = Link::new(Role::Parent { channels: HashMap::new() }, self.now);
        link.socket = Some(socket);
        link.handshake = Some(with_handshake(&self.identity, hawker_proto::frame::ROLE_SERVES, Handshake::accept));
        let id = self.add_link(link);
        self.pump(id);
    }
}
