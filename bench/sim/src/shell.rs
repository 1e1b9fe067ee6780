//! What an agent's shell does: hands inputs to the machines of a host, and what they put out to the wires.

use std::collections::BTreeSet;
use std::time::Duration;

use hawker_proto::{BlockIndex, PieceIndex};
use hawker_swarm::{DownloadInput, DownloadOutput, LinkId, UploadInput, UploadOutput};

use crate::event::{Event, Message};
use crate::host::Host;
use crate::network::Transmission;
use crate::peer::PeerId;
use crate::world::World;

/// From a block that takes so long on, bytes between blocks are modelled: the wire sends one after the other where TCP
/// would mix them, and a receiver must not take its turn for silence.
const SLOW_BLOCK: Duration = Duration::from_millis(10);

impl World<'_> {
    pub(crate) fn download(&mut self, at: PeerId, input: DownloadInput) {
        if !self.hosts[at.host as usize].is_up || !self.peer(at).is_ready {
            return;
        }
        let now = self.clock.now();
        self.peer_mut(at).download.handle(now, input);
        self.share_places(at);
        self.drain_download(at);
    }

    /// The host's downloads take places at parents in turn, after `at` had an input.
    fn share_places(&mut self, at: PeerId) {
        let mut places = core::mem::take(&mut self.hosts[at.host as usize].places);
        places.note(at.task, &mut self.peer_mut(at).download);
        while let Some(task) = places.whose_turn() {
            let next = PeerId { task, ..at };
            if places.offer(task, &mut self.peer_mut(next).download) && next != at {
                self.drain_download(next);
            }
        }
        self.hosts[at.host as usize].places = places;
    }

    fn drain_download(&mut self, at: PeerId) {
        while let Some(output) = self.peer_mut(at).download.poll() {
            self.put_out(at, output);
        }
        let peer = self.peer_mut(at);
        if let Some(deadline) = peer.download.deadline()
            && peer.wake.is_none_or(|wake| deadline < wake)
        {
            peer.wake = Some(deadline);
            self.clock.push(deadline, Event::DownloadWake { peer: at });
        }
    }

    fn put_out(&mut self, at: PeerId, output: DownloadOutput) {
        match output {
            DownloadOutput::Request { neighbor, piece, blocks } => {
                self.send(at, neighbor.0, Message::Request { piece, start: blocks.start, end: blocks.end });
                if self.withdraws_requests(at.host) {
                    self.send(at, neighbor.0, Message::Cancel { piece });
                }
            }
            DownloadOutput::Cancel { neighbor, piece } => self.send(at, neighbor.0, Message::Cancel { piece }),
            DownloadOutput::Announce { piece } => {
                self.clock.push(self.clock.now() + self.scenario.latency, Event::Announce { peer: at, piece });
            }
            DownloadOutput::AskLease { .. } | DownloadOutput::Originate { .. } if self.is_liar(at.host) => {}
            DownloadOutput::AskLease { bytes, rate, source_rate, lacked } => {
                self.ask_lease(at, bytes, rate, source_rate, lacked);
            }
            DownloadOutput::ReturnLease { lease, range: _ } => self.lease_over(at.host, lease),
            DownloadOutput::FetchOrigin { lease, range } | DownloadOutput::Originate { lease, range } => {
                self.fetch(at, lease, range);
            }
            DownloadOutput::StopOrigin { lease } => {
                self.stop_fetch(at, lease);
            }
            DownloadOutput::BadPiece { neighbor, .. } => {
                assert!(self.is_liar(neighbor.0), "an honest host was accused, seed {}", self.scenario.seed);
            }
            DownloadOutput::Ban { neighbor } => self.shun(at, neighbor.0),
            DownloadOutput::Complete => self.complete(at),
        }
    }

    fn complete(&mut self, at: PeerId) {
        let (now, seed) = (self.clock.now(), self.scenario.seed);
        let peer = self.peer_mut(at);
        assert!(peer.is_full(), "complete without all blocks, seed {seed}");
        peer.done_at = Some(now);
        let host = &mut self.hosts[at.host as usize];
        host.tasks_left -= 1;
        if host.tasks_left == 0 {
            host.done_at = Some(now);
            self.unfinished -= u32::from(host.liar.is_none());
            if host.is_leaving {
                self.clock.push(now, Event::Stop { host: at.host });
            }
        }
        self.finished(at);
    }

    pub(crate) fn upload(&mut self, host: u32, input: UploadInput) {
        if self.hosts[host as usize].is_up {
            self.hosts[host as usize].upload.handle(self.clock.now(), input);
            self.drain_upload(host);
        }
    }

    pub(crate) fn drain_upload(&mut self, host: u32) {
        let now = self.clock.now();
        loop {
            let Host { upload, slots_free, .. } = &mut self.hosts[host as usize];
            let mut take_slot = || {
                let is_free = *slots_free > 0;
                *slots_free -= u32::from(is_free);
                is_free
            };
            let Some(output) = upload.poll(now, &mut take_slot) else { break };
            match output {
                UploadOutput::Queued { link, channel, piece, .. } => {
                    self.send(PeerId { host, task: channel }, link.0, Message::Queued { piece });
                }
                UploadOutput::Granted { link, channel, blocks, millis } => {
                    self.grants += 1;
                    self.send(PeerId { host, task: channel }, link.0, Message::Granted { blocks, millis });
                }
                UploadOutput::Send { link, channel, piece, block } => {
                    self.send_block(PeerId { host, task: channel }, link, piece, block);
                }
                UploadOutput::ReleaseSlot => self.hosts[host as usize].slots_free += 1,
                UploadOutput::Refuse { link } => {
                    assert!(self.is_liar(link.0), "an honest host was refused, seed {}", self.scenario.seed);
                }
            }
        }
        let host_state = &mut self.hosts[host as usize];
        if let Some(at) = host_state.upload.deadline()
            && host_state.upload_wake.is_none_or(|wake| at < wake)
        {
            host_state.upload_wake = Some(at);
            self.clock.push(at, Event::UploadWake { host });
        }
    }

    /// A message about a task, to the same task at `to`.
    pub(crate) fn send(&mut self, from: PeerId, to: u32, message: Message) {
        self.messages += 1;
        let connection = self.connection(from.host, to);
        let event = Event::Message { to: PeerId { host: to, ..from }, from: from.host, connection, message };
        let latency = self.latency(from.host, to);
        self.clock.push(self.clock.now() + latency, event);
    }

    /// Hands a block to the wire; one of a channel that was closed since it was asked for is withheld.
    fn send_block(&mut self, from: PeerId, link: LinkId, piece: PieceIndex, block: BlockIndex) {
        let is_open = self.scenario.tasks.len() == 1 || self.peer(from).children.contains(&link.0);
        if !is_open || self.withholds(from, link, piece) {
            let now = self.clock.now();
            self.hosts[from.host as usize].upload.handle(now, UploadInput::BlockSent { link, bytes: 0 });
            return;
        }
        let length = self.peer(from).geometry.block_range(piece, block).length();
        let bytes = u32::try_from(length).expect("a block");
        let to = PeerId { host: link.0, ..from };
        let is_wrong = self.falsifies(from.host);
        let connection = self.connection(from.host, link.0);
        let transmission = Transmission { to, piece, block, bytes, connection, is_wrong };
        self.hosts[from.host as usize].uplink.push(transmission);
        self.transmit(from.host);
    }

    pub(crate) fn transmit(&mut self, from: u32) {
        let now = self.clock.now();
        let Some((block, time)) = self.hosts[from as usize].uplink.start(now) else { return };
        self.clock.push(now + time, Event::UplinkFree { host: from });
        self.hosts[from as usize].bytes_sent += u64::from(block.bytes);
        let latency = self.latency(from, block.to.host);
        if time >= SLOW_BLOCK {
            let waiting = self.hosts[from as usize].uplink.waiting();
            let receivers: BTreeSet<u32> = waiting.chain([block.to.host]).collect();
            for to in receivers {
                self.clock.push(now + latency + time / 2, Event::Arriving { to, from });
            }
        }
        let ends = [now + latency, now + latency + time];
        let [first, last] = self.borders.pass(Some(from), block.to.host, ends, block.bytes);
        let downlink = &mut self.hosts[block.to.host as usize].downlink;
        let at = downlink.receive(first, last, block.bytes);
        self.clock.push(at, Event::Arrived { from, block });
        // The sender's socket drains as the receiver takes it.
        let left = now + at.since(now + latency);
        self.clock
            .push(left, Event::Sent { from, to: block.to.host, connection: block.connection, bytes: block.bytes });
    }
}
