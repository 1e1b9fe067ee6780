//! The serving side of a link: channels that children opened, announcements to them, blocks for them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hawker_proto::frame::{ErrorCode, Frame, Head, have_windows};
use hawker_proto::{BLOCK_BYTES, Geometry, PieceIndex, PieceMap, TaskId};
use hawker_ring::{Block, Body, Op};
use hawker_swarm::{LinkId, UploadInput};

use super::link::Role;
use super::serve::is_resident;
use super::wire::{OUTBOX_BYTES_LOW, Outgoing};
use super::{DelayedSend, Purpose, SLAB_PAUSE, Shard};
use crate::seam::ShardEvent;
use crate::share::SharedTask;

/// Tasks one child may open on one link.
const CHANNELS_PER_LINK_MAX: usize = 256;

/// One task on one served link.
#[derive(Debug)]
pub(super) struct ServeChannel {
    task: TaskId,
    geometry: Geometry,
    /// What the child was told we have.
    announced: PieceMap,
    /// How many of the task's proofs the child was sent.
    proofs_sent: usize,
    /// The child was told something, if only that we have nothing yet.
    is_answered: bool,
}

impl Shard {
    pub(super) fn share(&mut self, task: Arc<SharedTask>) {
        let id = task.id();
        self.shared.insert(id, task);
        self.changed.insert(id);
    }

    pub(super) fn unshare(&mut self, task: TaskId) {
        self.shared.remove(&task);
        self.unshare_http(task);
        for (link, channel) in self.watchers.remove(&task).unwrap_or_default() {
            if let Some(Role::Parent { channels }) = self.links.get_mut(&link).map(|link| &mut link.role) {
                channels.remove(&channel);
            }
            self.refuse_channel(link, channel, ErrorCode::NoSuchTask);
        }
    }

    /// Forgets a closed link's interest in its tasks.
    pub(super) fn forget_watchers(&mut self, link: u32, channels: impl Iterator<Item = ServeChannel>) {
        for channel in channels {
            if let Some(watchers) = self.watchers.get_mut(&channel.task) {
                watchers.retain(|(watcher, _)| *watcher != link);
                if watchers.is_empty() {
                    self.watchers.remove(&channel.task);
                }
            }
        }
    }

    fn refuse_channel(&mut self, link: u32, channel: u16, code: ErrorCode) {
        self.send_frame(link, &Frame::Error { channel, code, text: String::new() });
    }

    /// A frame from a child.
    pub(super) fn on_child_says(&mut self, link: u32, frame: &Frame) {
        match *frame {
            Frame::Open { channel, task, geometry } => self.on_open(link, channel, task, geometry),
            Frame::Close { channel } => self.on_close(link, channel),
            Frame::Request { channel, piece, block, count } => {
                self.on_request(link, channel, piece, block.0..block.0.saturating_add(count));
            }
            Frame::Cancel { channel, piece } => {
                self.upload.handle(self.now, UploadInput::Cancel { link: LinkId(link), channel, piece });
            }
            Frame::BadPiece { channel, piece, .. } => {
                // Read and checked before it leaves again, by any shard: if the child is right, it does not leave at
                // all; if it lied, it cost one check.
                if let Some(task) = self.channel_task(link, channel).and_then(|task| self.shared.get(&task)) {
                    task.file().doubt_piece(piece);
                }
            }
            Frame::Goodbye => {}
            _ => {
                self.counters.refused.add(1);
                self.close_link(link, "a frame that children do not send");
            }
        }
    }

    fn on_open(&mut self, id: u32, channel: u16, task: TaskId, geometry: Geometry) {
        let shared = self.shared.get(&task).map(|shared| shared.geometry());
        let Some(Role::Parent { channels }) = self.links.get_mut(&id).map(|link| &mut link.role) else { return };
        if channel == 0 || channels.contains_key(&channel) {
            self.close_link(id, "a channel opened twice");
            return;
        }
        if channels.len() >= CHANNELS_PER_LINK_MAX {
            self.refuse_channel(id, channel, ErrorCode::Busy);
            return;
        }
        if shared.is_some_and(|ours| ours != geometry) {
            self.refuse_channel(id, channel, ErrorCode::WrongGeometry);
            return;
        }
        // A map as long as the child says is 32 MiB at its word, for each of its channels.
        let announced = PieceMap::empty(shared.map_or(0, Geometry::piece_count));
        let open = ServeChannel { task, geometry, announced, proofs_sent: 0, is_answered: false };
        channels.insert(channel, open);
        self.watchers.entry(task).or_default().push((id, channel));
        if let Some(shared) = self.shared.get(&task).cloned() {
            self.announce(id, channel, &shared, &shared.announceable());
        } else if self.events.has_room() {
            // All hosts hear of a task at about the same time: this child may only be a little earlier than our
            // own caller. The channel stays open and is answered when the task is here.
            self.events.push(ShardEvent::PeerWants { task });
        }
    }

    fn on_close(&mut self, id: u32, channel: u16) {
        let Some(Role::Parent { channels }) = self.links.get_mut(&id).map(|link| &mut link.role) else { return };
        let Some(open) = channels.remove(&channel) else { return };
        if let Some(watchers) = self.watchers.get_mut(&open.task) {
            watchers.retain(|watcher| *watcher != (id, channel));
        }
    }

    fn channel_task(&self, link: u32, channel: u16) -> Option<TaskId> {
        match &self.links.get(&link)?.role {
            Role::Parent { channels } => channels.get(&channel).map(|open| open.task),
            Role::Child(_) => None,
        }
    }

    fn on_request(&mut self, link: u32, channel: u16, piece: PieceIndex, blocks: std::ops::Range<u32>) {
        let task = self.channel_task(link, channel).and_then(|task| self.shared.get(&task));
        let Some(task) = task else { return };
        let geometry = task.geometry();
        if !geometry.has_piece(piece) || blocks.end > geometry.block_count(piece) {
            self.counters.refused.add(1);
            self.close_link(link, "a request outside the task");
            return;
        }
        if task.file().has_piece(piece) {
            let request = UploadInput::Request { link: LinkId(link), channel, piece, blocks };
            self.upload.handle(self.now, request);
        } else {
            self.send_frame(link, &Frame::Gone { channel, piece });
        }
    }

    /// Tells every child of a task what is new.
    pub(super) fn announce_task(&mut self, task: TaskId) {
        let Some(shared) = self.shared.get(&task).cloned() else { return };
        let Some(watchers) = self.watchers.get(&task).cloned() else { return };
        let ready = shared.announceable();
        for (link, channel) in watchers {
            self.announce(link, channel, &shared, &ready);
        }
    }

    /// Goes on with announcements that were held back while the link was busy.
    pub(super) fn continue_announcing(&mut self, link: u32) {
        let Some(Role::Parent { channels }) = self.links.get(&link).map(|link| &link.role) else { return };
        let behind = |open: &ServeChannel| {
            self.shared.get(&open.task).filter(|task| task.has_proofs_after(open.proofs_sent)).cloned()
        };
        let behind: Vec<(u16, Arc<SharedTask>)> =
            channels.iter().filter_map(|(channel, open)| Some((*channel, behind(open)?))).collect();
        for (channel, task) in behind {
            self.announce(link, channel, &task, &task.announceable());
        }
    }

    /// Sends proofs and then the pieces they prove, as far as the link's queue is short.
    fn announce(&mut self, id: u32, channel: u16, task: &SharedTask, ready: &PieceMap) {
        let low = OUTBOX_BYTES_LOW.min(self.unsent.share(self.links.len()) / 2);
        let Some(link) = self.links.get_mut(&id) else { return };
        let Role::Parent { channels } = &mut link.role else { return };
        let Some(open) = channels.get_mut(&channel) else { return };
        if task.geometry() != open.geometry {
            self.on_close(id, channel);
            self.refuse_channel(id, channel, ErrorCode::WrongGeometry);
            return;
        }
        for batch in task.proofs_after(open.proofs_sent) {
            if link.wire.outbox_bytes() > low {
                self.dirty_links.insert(id);
                return;
            }
            open.proofs_sent += 1;
            link.wire.push(&Frame::Records { channel, batch: batch.to_vec() });
        }
        if open.announced.piece_count() != ready.piece_count() {
            // The task came after the channel.
            open.announced = PieceMap::empty(ready.piece_count());
        }
        let fresh: Vec<PieceIndex> = ready.difference(&open.announced).collect();
        if fresh.len() > 16 || !open.is_answered {
            for frame in have_windows(channel, ready) {
                link.wire.push(&frame);
            }
        } else {
            for piece in &fresh {
                link.wire.push(&Frame::have(channel, *piece));
            }
        }
        open.is_answered = true;
        open.announced = ready.clone();
        self.dirty_links.insert(id);
    }

    /// Sends one granted block: by reference when it is resident and known good, else read and checked first.
    pub(super) fn serve_block(&mut self, mut send: DelayedSend) {
        let DelayedSend { link, channel, piece, block, .. } = send;
        let task = self.channel_task(link, channel).and_then(|task| self.shared.get(&task).cloned());
        // The request was checked against the task its channel had then; a child may have bound it to another since.
        let is_here = |task: &Arc<SharedTask>| task.geometry().has_block(piece, block) && task.file().has_piece(piece);
        let Some(task) = task.filter(is_here) else {
            self.withhold(send);
            return;
        };
        let range = task.geometry().block_range(piece, block);
        let length = u32::try_from(range.length()).unwrap_or(BLOCK_BYTES);
        if !send.is_paid {
            if let Err(wait) = self.meters.up.take(self.now, length) {
                self.delay(send, wait);
                return;
            }
            send.is_paid = true;
        }
        let file = Arc::clone(task.file().content());
        if task.file().is_checked(piece, block) && is_resident(&task, range.start(), range.end()) {
            let body = Body::File { file, offset: range.start(), length: range.length() };
            self.send_block(send, body, length);
            return;
        }
        let Some(memory) = self.slab.take_reserved() else {
            self.delay(send, SLAB_PAUSE);
            return;
        };
        let op = Op::Read { file, block: memory, range: 0..length as usize, offset: range.start() };
        self.submit(op, Purpose::ServeRead { link, channel, piece, block });
    }

    fn delay(&mut self, send: DelayedSend, wait: Duration) {
        self.delayed_sends.push_back(send);
        self.wake_after(wait);
    }

    fn send_block(&mut self, send: DelayedSend, body: Body, length: u32) {
        let head = Head::block(send.channel, send.piece, send.block, length).encode();
        if let Some(link) = self.links.get_mut(&send.link) {
            link.wire.push_block(Outgoing { head, body, length });
            self.dirty_links.insert(send.link);
        }
    }

    /// Tells the child that the piece is not here any more.
    fn withhold(&mut self, send: DelayedSend) {
        self.send_frame(send.link, &Frame::Gone { channel: send.channel, piece: send.piece });
        self.upload.handle(self.now, UploadInput::BlockSent { link: LinkId(send.link), bytes: 0 });
    }

    /// A block came from disk: it leaves only when it equals its record.
    pub(super) fn on_serve_read(&mut self, send: DelayedSend, result: io::Result<usize>, memory: Block) {
        let task = self.channel_task(send.link, send.channel).and_then(|task| self.shared.get(&task).cloned());
        let Some(task) = task.filter(|task| task.geometry().has_block(send.piece, send.block)) else {
            self.withhold(send);
            return;
        };
        let range = task.geometry().block_range(send.piece, send.block);
        let length = u32::try_from(range.length()).unwrap_or(BLOCK_BYTES);
        if self.check_block(&task, send.piece, send.block, result, &memory) {
            self.send_block(send, Body::Block(memory, 0..length as usize), length);
            return;
        }
        self.withhold(send);
    }
}
