//! The asking side of a link: dialing neighbors, opening tasks with them, and what they answer.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hawker_proto::frame::{Frame, Head, ROLE_WANTS, apply_have};
use hawker_proto::handshake::Handshake;
use hawker_proto::hash::block_value;
use hawker_proto::trust::{RecordBatch, VerifyError};
use hawker_proto::{BLOCK_BYTES, HostId, Instant, PieceIndex, PieceMap, TaskId};
use hawker_ring::{Block, File, Op};
use hawker_scheduler::Neighbor;
use hawker_swarm::{DownloadInput, NeighborId};

use super::link::{ChildRole, Link, Role, with_handshake};
use super::{Purpose, Shard};
use crate::share::Source;

/// Wait before a lost neighbor is dialed again: doubles from the first to the last.
const REDIAL_MIN: Duration = Duration::from_millis(100);
const REDIAL_MAX: Duration = Duration::from_secs(2);

/// A host that the scheduler named for a task.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) address: SocketAddr,
    /// In another zone.
    pub(super) is_remote: bool,
    /// The open channel, once there is one.
    pub(super) neighbor: Option<NeighborId>,
    pub(super) retry_at: Instant,
    pub(super) backoff: Duration,
}

/// Where a neighbor of a download is reached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    pub(super) link: u32,
    pub(super) channel: u16,
    pub(super) host: HostId,
    /// Batches from it under grants of schedulers that are none of ours.
    strange_batches: u32,
}

impl Shard {
    pub(super) fn on_neighbors(&mut self, task: TaskId, add: Vec<Neighbor>, remove: &[HostId]) {
        let now = self.now;
        let Some(driver) = self.downloads.get_mut(&task) else { return };
        for Neighbor { id: host, address, is_remote } in add {
            if host == self.identity.host || driver.banned.contains(&host) {
                continue;
            }
            let fresh = Candidate { address, is_remote, neighbor: None, retry_at: now, backoff: REDIAL_MIN };
            let candidate = driver.candidates.entry(host).or_insert(fresh);
            // A restarted agent may listen elsewhere, and deserves an early try.
            (candidate.address, candidate.is_remote) = (address, is_remote);
            candidate.retry_at = now;
        }
        let gone = remove.iter().filter_map(|host| driver.candidates.remove(host)?.neighbor);
        let routes: Vec<Route> = gone.filter_map(|neighbor| driver.routes.get(&neighbor).copied()).collect();
        for route in routes {
            self.close_channel(task, route);
        }
        self.connect_candidates(task);
    }

    /// Opens the task with every candidate that is due: over the link to it, else by dialing one.
    pub(super) fn connect_candidates(&mut self, task: TaskId) {
        let Some(driver) = self.downloads.get_mut(&task).filter(|driver| !driver.is_complete) else { return };
        let now = self.now;
        let mut due = Vec::new();
        for (host, candidate) in &mut driver.candidates {
            if candidate.neighbor.is_none() && candidate.retry_at <= now {
                candidate.retry_at = now + candidate.backoff;
                candidate.backoff = (candidate.backoff * 2).min(REDIAL_MAX);
                due.push((*host, candidate.address));
            }
        }
        for (host, address) in due {
            match self.children_by_host.get(&host).copied() {
                Some(link) if self.links.get(&link).is_some_and(|link| link.peer.is_some()) => {
                    self.open_channel(task, link);
                }
                Some(_) => {}
                None => self.dial(host, address),
            }
        }
    }

    fn dial(&mut self, host: HostId, to: SocketAddr) {
        if self.children_by_host.len() >= self.limits.child_links || self.is_draining {
            return;
        }
        let role = ChildRole { host, channels: HashMap::new(), next_channel: 1, round_trip: Duration::ZERO };
        let id = self.add_link(Link::new(Role::Child(role), self.now));
        self.children_by_host.insert(host, id);
        let options = self.socket_options.clone();
        self.submit(Op::Connect { to, options }, Purpose::Dial { link: id });
    }

    pub(super) fn on_dialed(&mut self, id: u32, result: io::Result<File>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        match result {
            Ok(socket) => {
                let (handshake, hello) = with_handshake(&self.identity, ROLE_WANTS, Handshake::dial);
                link.socket = Some(socket);
                link.handshake = Some(handshake);
                link.wire.push(&hello);
                self.dirty_links.insert(id);
                self.pump(id);
            }
            Err(error) => {
                tracing::debug!(%error, "a neighbor cannot be reached");
                self.close_link(id, "connecting failed");
            }
        }
    }

    /// The handshake with a parent is over.
    pub(super) fn on_child_ready(&mut self, id: u32) {
        let now = self.now;
        let Some(link) = self.links.get_mut(&id) else { return };
        let elapsed = now.since(link.opened());
        let Role::Child(child) = &mut link.role else { return };
        // Connect and handshake are two round trips.
        child.round_trip = elapsed / 2;
        let host = child.host;
        if link.peer.as_ref().is_none_or(|peer| peer.host != host) {
            self.close_link(id, "another host answered");
            return;
        }
        let wanting = |driver: &super::Driver| {
            let is_open = driver.candidates.get(&host).is_some_and(|candidate| candidate.neighbor.is_none());
            is_open && !driver.is_complete
        };
        let tasks: Vec<TaskId> =
            self.downloads.iter().filter(|(_, driver)| wanting(driver)).map(|(task, _)| *task).collect();
        for task in tasks {
            self.open_channel(task, id);
        }
    }

    fn open_channel(&mut self, task: TaskId, id: u32) {
        let Some(driver) = self.downloads.get_mut(&task) else { return };
        let Some(link) = self.links.get_mut(&id) else { return };
        let Role::Child(child) = &mut link.role else { return };
        let Some(candidate) = driver.candidates.get_mut(&child.host).filter(|one| one.neighbor.is_none()) else {
            return;
        };
        // Channel numbers wrap after 65,535 tasks on one link; one in use is skipped.
        let taken = |channel: &u16| *channel != 0 && !child.channels.contains_key(channel);
        let Some(channel) = (child.next_channel..=u16::MAX).chain(1..child.next_channel).find(taken) else { return };
        child.next_channel = channel.wrapping_add(1).max(1);
        let neighbor = NeighborId(self.next_neighbor);
        self.next_neighbor = self.next_neighbor.wrapping_add(1);
        child.channels.insert(channel, (task, neighbor));
        candidate.neighbor = Some(neighbor);
        driver.routes.insert(neighbor, Route { link: id, channel, host: child.host, strange_batches: 0 });
        let (round_trip, is_remote) = (child.round_trip, candidate.is_remote);
        link.wire.push(&Frame::Open { channel, task, geometry: driver.task.geometry() });
        driver.machine.handle(self.now, DownloadInput::NeighborUp { neighbor, round_trip, is_remote });
        self.dirty_links.insert(id);
        self.dirty_downloads.insert(task);
    }

    /// Ends a task's use of a link; the link stays for others.
    pub(super) fn close_channel(&mut self, task: TaskId, route: Route) {
        let mut neighbor = None;
        if let Some(Role::Child(child)) = self.links.get_mut(&route.link).map(|link| &mut link.role) {
            neighbor = child.channels.remove(&route.channel).map(|(_, neighbor)| neighbor);
            self.send_frame(route.link, &Frame::Close { channel: route.channel });
        }
        if let Some(neighbor) = neighbor {
            self.neighbor_down(task, neighbor);
        }
    }

    fn neighbor_down(&mut self, task: TaskId, neighbor: NeighborId) {
        let now = self.now;
        let Some(driver) = self.downloads.get_mut(&task) else { return };
        let Some(route) = driver.routes.remove(&neighbor) else { return };
        if let Some(candidate) = driver.candidates.get_mut(&route.host) {
            candidate.neighbor = None;
            candidate.retry_at = now + candidate.backoff;
        }
        driver.machine.handle(now, DownloadInput::NeighborDown { neighbor });
        self.dirty_downloads.insert(task);
    }

    pub(super) fn on_child_closed(&mut self, id: u32, child: ChildRole) {
        if self.children_by_host.get(&child.host) == Some(&id) {
            self.children_by_host.remove(&child.host);
        }
        for (task, neighbor) in child.channels.into_values() {
            self.neighbor_down(task, neighbor);
        }
    }

    pub(super) fn neighbor_at(&self, id: u32, channel: u16) -> Option<(TaskId, NeighborId)> {
        match &self.links.get(&id)?.role {
            Role::Child(child) => child.channels.get(&channel).copied(),
            Role::Parent { .. } => None,
        }
    }

    /// A frame from a parent. One on a channel that was closed meanwhile means nothing.
    pub(super) fn on_parent_says(&mut self, id: u32, frame: Frame) {
        if matches!(frame, Frame::Goodbye) {
            self.on_goodbye(id);
            return;
        }
        if let Frame::Error { channel: 0, code, .. } = &frame {
            tracing::debug!(?code, "a parent ended the link");
            self.close_link(id, "error from the parent");
            return;
        }
        let Some((task, neighbor)) = self.neighbor_at(id, frame.channel()) else { return };
        let input = match frame {
            Frame::Have { first_piece, bits, .. } => {
                self.on_have(id, task, neighbor, first_piece, &bits);
                return;
            }
            Frame::Records { batch, .. } => {
                self.on_records(id, task, neighbor, batch);
                return;
            }
            Frame::Error { code, .. } => {
                tracing::debug!(?code, task = %task.short(), "a parent refused the task");
                if let Some(route) = self.downloads.get(&task).and_then(|driver| driver.routes.get(&neighbor).copied())
                {
                    self.close_channel(task, route);
                }
                return;
            }
            Frame::Queued { piece, .. } => DownloadInput::Queued { neighbor, piece },
            Frame::Granted { blocks, millis, .. } => {
                self.measure_round_trip(id, task, neighbor);
                DownloadInput::Granted { neighbor, blocks, until: Duration::from_millis(u64::from(millis)) }
            }
            Frame::Gone { piece, .. } => DownloadInput::Gone { neighbor, piece },
            _ => {
                self.close_liar(id, "a frame that parents do not send");
                return;
            }
        };
        self.tell(task, input);
    }

    /// How far away a parent is changes with the queues between; once a grant is often enough to know, and rare enough
    /// for a system call.
    fn measure_round_trip(&mut self, id: u32, task: TaskId, neighbor: NeighborId) {
        let socket = self.links.get(&id).and_then(|link| link.socket.as_ref());
        if let Some(round_trip) = socket.and_then(|socket| hawker_ring::net::round_trip(socket).ok()) {
            self.tell(task, DownloadInput::RoundTrip { neighbor, round_trip });
        }
    }

    /// The parent drains: other neighbors have what it was asked for.
    fn on_goodbye(&mut self, id: u32) {
        let Some(Role::Child(child)) = self.links.get(&id).map(|link| &link.role) else { return };
        let channels: HashSet<(TaskId, NeighborId)> = child.channels.values().copied().collect();
        for (task, neighbor) in channels {
            self.neighbor_down(task, neighbor);
        }
        self.close_link(id, "the parent drains");
    }

    fn on_have(&mut self, id: u32, task: TaskId, neighbor: NeighborId, first_piece: u32, bits: &[u8]) {
        let Some(driver) = self.downloads.get_mut(&task) else { return };
        let piece_count = driver.task.geometry().piece_count();
        if let ([byte], true) = (bits, first_piece < piece_count) {
            // One piece, usually: no map of the whole task for it.
            for bit in (0..8).filter(|bit| byte >> bit & 1 == 1) {
                if first_piece + bit < piece_count {
                    let piece = PieceIndex(first_piece + bit);
                    driver.machine.handle(self.now, DownloadInput::HavePiece { neighbor, piece });
                }
            }
            self.dirty_downloads.insert(task);
            return;
        }
        let mut pieces = PieceMap::empty(piece_count);
        if apply_have(&mut pieces, first_piece, bits).is_err() {
            self.close_liar(id, "HAVE outside the task");
            return;
        }
        self.tell(task, DownloadInput::Have { neighbor, pieces });
    }

    /// Records from a parent count by their signatures, never by who passed them on.
    fn on_records(&mut self, id: u32, task: TaskId, neighbor: NeighborId, encoded: Vec<u8>) {
        let Some(driver) = self.downloads.get(&task) else { return };
        let shared = Arc::clone(&driver.task);
        let batch = match RecordBatch::decode(&encoded) {
            Ok(batch) => batch,
            Err(error) => {
                tracing::info!(%error, "records from a peer make no sense");
                self.close_liar(id, "bad records");
                return;
            }
        };
        if shared.is_covered(&batch) {
            return;
        }
        let verdict = if driver.grants.contains(&batch.grant) {
            batch.verify_under_known_grant(task, shared.geometry())
        } else {
            batch.verify(task, shared.geometry(), &self.scheduler_keys)
        };
        match verdict {
            Ok(()) => self.accept_records(task, &shared, &batch, encoded),
            Err(VerifyError::GrantSignature) => self.on_strange_records(id, task, neighbor),
            Err(error) => {
                tracing::info!(%error, "records from a peer were refused");
                self.close_liar(id, "bad records");
            }
        }
    }

    /// No lie if the parent's are of a scheduler that lost its key since, or is so new that we lack its key: what else the
    /// parent shows may be of use. But no honest one has more batches than pieces.
    fn on_strange_records(&mut self, id: u32, task: TaskId, neighbor: NeighborId) {
        self.counters.refused.add(1);
        let Some(driver) = self.downloads.get_mut(&task) else { return };
        let piece_count = driver.task.geometry().piece_count();
        let Some(route) = driver.routes.get_mut(&neighbor) else { return };
        route.strange_batches += 1;
        if route.strange_batches == 1 {
            tracing::debug!(task = %task.short(), host = %route.host, "records under an unknown scheduler");
        }
        if route.strange_batches > piece_count {
            self.close_link(id, "records under an unknown scheduler");
        }
    }

    /// Closes a link to a parent that did what no honest one does, and remembers that. One that has not proved who it
    /// is, and a child, are only sent away.
    pub(super) fn close_liar(&mut self, id: u32, reason: &'static str) {
        self.counters.refused.add(1);
        let accused = match self.links.get(&id) {
            Some(Link { role: Role::Child(child), peer: Some(_), .. }) => {
                let tasks: HashSet<TaskId> = child.channels.values().map(|(task, _)| *task).collect();
                Some((child.host, tasks))
            }
            _ => None,
        };
        self.close_link(id, reason);
        if let Some((host, tasks)) = accused {
            for task in tasks {
                self.accuse(task, host);
            }
        }
    }

    /// A block came from a parent: it counts only when it equals its record.
    pub(super) fn on_peer_block(&mut self, id: u32, head: Head, memory: Block, length: usize) {
        let Some((task, neighbor)) = self.neighbor_at(id, head.channel()) else { return };
        let (piece, block) = (head.piece(), head.block_index());
        let Some(driver) = self.downloads.get_mut(&task) else { return };
        if !driver.task.geometry().has_block(piece, block) {
            // The channel was bound to another task while the block was under way.
            return;
        }
        let range = driver.task.geometry().block_range(piece, block);
        let record = driver.task.file().record(piece);
        let Some(expected) = record.as_ref().and_then(|record| record.get(block.0 as usize)) else {
            // Nobody asks for what has no record. If there was one, our disk lost it, and the parent is not to blame.
            if driver.task.is_proven(piece) {
                return;
            }
            self.close_liar(id, "a block that nobody could ask for");
            return;
        };
        if block_value(range.start(), &memory.as_slice()[..length]) != *expected {
            self.counters.bad_blocks.add(1);
            let host = driver.routes.get(&neighbor).map(|route| route.host);
            self.tell(task, DownloadInput::BlockBad { neighbor, piece, block });
            if let Some(host) = host {
                self.accuse(task, host);
            }
            return;
        }
        let is_wanted = driver.machine.is_block_wanted(piece, block);
        driver.machine.handle(self.now, DownloadInput::BlockIn { neighbor, piece, block });
        self.dirty_downloads.insert(task);
        if is_wanted {
            if let Some(candidate) =
                driver.routes.get(&neighbor).and_then(|route| driver.candidates.get_mut(&route.host))
            {
                // Only what was of use shows that the next dial may be soon.
                candidate.backoff = REDIAL_MIN;
            }
            self.counters.peer_bytes.add(length as u64);
            driver.task.count(Source::Peer, length as u64);
            self.note_single_block(task, &memory, length);
            self.write_block(task, piece, block, memory, length);
        }
    }

    /// Length of the block that `head` announces; `None` when the link may not send it.
    pub(super) fn expected_block(&self, id: u32, head: &Head) -> Option<u32> {
        let link = self.links.get(&id)?;
        link.peer.as_ref()?;
        let Role::Child(child) = &link.role else { return None };
        let length = head.payload_bytes();
        let Some((task, _)) = child.channels.get(&head.channel()) else {
            // The channel was closed while the block was under way: it is received and dropped.
            return (length <= BLOCK_BYTES).then_some(length);
        };
        let Some(driver) = self.downloads.get(task) else { return (length <= BLOCK_BYTES).then_some(length) };
        let geometry = driver.task.geometry();
        let is_there = geometry.has_block(head.piece(), head.block_index());
        let expected = is_there.then(|| geometry.block_range(head.piece(), head.block_index()).length())?;
        (expected == u64::from(length)).then_some(length)
    }
}
