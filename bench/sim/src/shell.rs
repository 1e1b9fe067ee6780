//! What an agent's shell does: hands inputs to the machines of a host, and what they put out to the wires.

use std::collections::BTreeSet;
use std::time::Duration;

use hawker_proto::{ByteRange, Instant};
use hawker_swarm::{DownloadInput, DownloadOutput, LeaseId, UploadInput, UploadOutput};

use crate::host::Host;
use crate::network::Transmission;
use crate::world::{Event, Message, World};

/// From a block that takes so long on, bytes between blocks are modelled: the wire sends one after the other where TCP
/// would mix them, and a receiver must not take its turn for silence.
const SLOW_BLOCK: Duration = Duration::from_millis(10);

/// How long a death may lead to a second fetch: the grace of its stream, and the questions to all others.
const DEATH_ECHO: Duration = Duration::from_secs(10);

impl World<'_> {
    pub(crate) fn download(&mut self, host: u32, input: DownloadInput) {
        let Host { is_up, control, .. } = &self.hosts[host as usize];
        if !*is_up || !control.is_ready {
            return;
        }
        let now = self.clock.now();
        self.hosts[host as usize].download.handle(now, input);
        while let Some(output) = self.hosts[host as usize].download.poll() {
            self.put_out(host, output);
        }
        let host_state = &mut self.hosts[host as usize];
        if let Some(at) = host_state.download.deadline()
            && host_state.download_wake.is_none_or(|wake| at < wake)
        {
            host_state.download_wake = Some(at);
            self.clock.push(at, Event::DownloadWake { host });
        }
    }

    fn put_out(&mut self, host: u32, output: DownloadOutput) {
        match output {
            DownloadOutput::Request { neighbor, piece, blocks } => {
                self.send(host, neighbor.0, Message::Request { piece, start: blocks.start, end: blocks.end });
            }
            DownloadOutput::Cancel { neighbor, piece } => self.send(host, neighbor.0, Message::Cancel { piece }),
            DownloadOutput::Announce { piece } => {
                self.clock.push(self.clock.now() + self.scenario.latency, Event::Announce { host, piece });
            }
            DownloadOutput::AskLease { bytes, rate } => self.ask_lease(host, bytes, rate),
            DownloadOutput::ReturnLease { lease, range: _ } => self.lease_over(host, lease),
            DownloadOutput::FetchOrigin { lease, range } | DownloadOutput::Originate { lease, range } => {
                self.fetch(host, lease, range);
            }
            DownloadOutput::StopOrigin { lease } => {
                self.stop_fetch(host, lease);
            }
            DownloadOutput::BadPiece { .. } | DownloadOutput::Ban { .. } => {
                panic!("an honest host was accused, seed {}", self.scenario.seed);
            }
            DownloadOutput::Complete => {
                assert!(
                    self.hosts[host as usize].is_full(),
                    "complete without all blocks, seed {}",
                    self.scenario.seed
                );
                self.hosts[host as usize].done_at = Some(self.clock.now());
                self.unfinished -= 1;
                self.finished(host);
            }
        }
    }

    fn fetch(&mut self, host: u32, lease: LeaseId, range: ByteRange) {
        let repeated = self.bytes_to_be_had(range);
        // Without a scheduler hosts do not know what others fetch, nor does a new one what was fetched before. And while
        // it asks who has what a dead host had, whoever dies before answering may have passed it on.
        let is_recent = |at: Instant| self.clock.now().since(at) < self.scenario.death_notice + DEATH_ECHO;
        let has_reason = self.scenario.scheduler_away.is_some() || self.last_death.is_some_and(is_recent);
        assert!(
            repeated == 0 || has_reason,
            "host {host} fetches {range:?} of which {repeated} bytes are to be had, seed {}",
            self.scenario.seed
        );
        self.origin.bytes_repeated += repeated;
        self.origin.open(host, lease, range);
        self.serve_origin();
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
                UploadOutput::Queued { link, piece, .. } => self.send(host, link.0, Message::Queued { piece }),
                UploadOutput::Granted { link, blocks, millis, .. } => {
                    self.grants += 1;
                    self.send(host, link.0, Message::Granted { blocks, millis });
                }
                UploadOutput::Send { link, piece, block, .. } => {
                    let length = self.scenario.geometry.block_range(piece, block).length();
                    let bytes = u32::try_from(length).expect("a block");
                    self.hosts[host as usize].uplink.push(Transmission { to: link.0, piece, block, bytes });
                    self.transmit(host);
                }
                UploadOutput::ReleaseSlot => self.hosts[host as usize].slots_free += 1,
                UploadOutput::Refuse { .. } => panic!("an honest host was refused, seed {}", self.scenario.seed),
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

    fn send(&mut self, from: u32, to: u32, message: Message) {
        self.messages += 1;
        self.clock.push(self.clock.now() + self.scenario.latency, Event::Message { to, from, message });
    }

    pub(crate) fn transmit(&mut self, from: u32) {
        let now = self.clock.now();
        let Some((block, time)) = self.hosts[from as usize].uplink.start() else { return };
        self.clock.push(now + time, Event::UplinkFree { host: from });
        self.hosts[from as usize].bytes_sent += u64::from(block.bytes);
        let latency = self.scenario.latency;
        if time >= SLOW_BLOCK {
            let waiting = self.hosts[from as usize].uplink.waiting();
            let receivers: BTreeSet<u32> = waiting.chain([block.to]).collect();
            for to in receivers {
                self.clock.push(now + latency + time / 2, Event::Arriving { to, from });
            }
        }
        let downlink = &mut self.hosts[block.to as usize].downlink;
        let at = downlink.receive(now + latency, now + latency + time, block.bytes);
        self.clock.push(at, Event::Arrived { from, block });
        // The sender's socket drains as the receiver takes it.
        let left = now + at.since(now + latency);
        self.clock.push(left, Event::Sent { from, to: block.to, bytes: block.bytes });
    }

    pub(crate) fn serve_origin(&mut self) {
        if self.is_origin_busy {
            return;
        }
        let now = self.clock.now();
        let Some((host, lease, part)) = self.origin.next_part() else { return };
        self.is_origin_busy = true;
        let bytes = u32::try_from(part.length()).expect("a block");
        let time = Duration::from_nanos(part.length() * 1_000_000_000 / self.scenario.origin_bytes_per_s.max(1));
        self.origin.note_sending(now, time);
        self.clock.push(now + time, Event::OriginFree);
        let latency = self.scenario.latency;
        let at = self.hosts[host as usize].downlink.receive(now + latency, now + latency + time, bytes);
        self.clock.push(at, Event::Body { host, lease, part });
    }
}
