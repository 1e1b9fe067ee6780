//! Wires: when a block that is sent now arrives.

use std::collections::VecDeque;
use std::time::Duration;

use hawker_proto::{BlockIndex, Instant, PieceIndex};

use crate::peer::PeerId;

/// One block on its way to a host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transmission {
    pub(crate) to: PeerId,
    pub(crate) piece: PieceIndex,
    pub(crate) block: BlockIndex,
    pub(crate) bytes: u32,
    /// On which it travels, see [`World::connection`](crate::world::World::connection).
    pub(crate) connection: u32,
    /// It differs from its record: a liar sent it.
    pub(crate) is_wrong: bool,
}

/// A sender's wire: one transmission at a time, in the order in which they were handed over.
#[derive(Debug)]
pub(crate) struct Uplink {
    bytes_per_s: u64,
    queue: VecDeque<Transmission>,
    /// To whom it sends now, and until when.
    sending: Option<(u32, Instant)>,
}

impl Uplink {
    pub(crate) const fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s, queue: VecDeque::new(), sending: None }
    }

    pub(crate) fn push(&mut self, transmission: Transmission) {
        self.queue.push_back(transmission);
    }

    /// The transmission that starts now, with the time it takes.
    pub(crate) fn start(&mut self, now: Instant) -> Option<(Transmission, Duration)> {
        if self.sending.is_some() {
            return None;
        }
        let transmission = self.queue.pop_front()?;
        let time = time_of(transmission.bytes, self.bytes_per_s);
        self.sending = Some((transmission.to.host, now + time));
        Some((transmission, time))
    }

    /// Whom what waits is for.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = u32> {
        self.queue.iter().map(|transmission| transmission.to.host)
    }

    /// When the first block for `host`, on the wire or waiting for it, has left; `None` when there is none.
    pub(crate) fn first_leaves_at(&self, host: u32) -> Option<Instant> {
        let (sending_to, mut at) = self.sending?;
        if sending_to == host {
            return Some(at);
        }
        for transmission in &self.queue {
            at += time_of(transmission.bytes, self.bytes_per_s);
            if transmission.to.host == host {
                return Some(at);
            }
        }
        None
    }

    pub(crate) const fn finish(&mut self) {
        self.sending = None;
    }

    /// Drops what was handed over for `to` and has not started.
    pub(crate) fn cut_off(&mut self, to: u32) {
        self.queue.retain(|transmission| transmission.to.host != to);
    }

    /// Drops what was handed over and has not started.
    pub(crate) fn cut(&mut self) {
        self.queue.clear();
    }
}

/// A receiver's wire, or a zone's border in one direction.
#[derive(Debug)]
pub(crate) struct Downlink {
    bytes_per_s: u64,
    free_at: Instant,
}

impl Downlink {
    pub(crate) const fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s, free_at: Instant::ZERO }
    }

    pub(crate) const fn bytes_per_s(&self) -> u64 {
        self.bytes_per_s
    }

    /// Takes nothing before.
    pub(crate) fn stop_until(&mut self, at: Instant) {
        self.free_at = self.free_at.max(at);
    }

    /// When a block is here whose first byte arrives at `first` and whose last one was sent so as to arrive at
    /// `last`: it overlaps with its sending, and waits for those before it.
    pub(crate) fn receive(&mut self, first: Instant, last: Instant, bytes: u32) -> Instant {
        let [_, last] = self.pass([first, last], bytes);
        last
    }

    /// As [`Self::receive`], with the time at which the first byte is through.
    pub(crate) fn pass(&mut self, [first, last]: [Instant; 2], bytes: u32) -> [Instant; 2] {
        let first = self.free_at.max(first);
        self.free_at = first + time_of(bytes, self.bytes_per_s);
        [first, self.free_at.max(last)]
    }
}

/// How long `bytes` take at a rate.
pub(crate) fn time_of(bytes: u32, bytes_per_s: u64) -> Duration {
    Duration::from_nanos(u64::from(bytes) * 1_000_000_000 / bytes_per_s.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_leaves_behind_those_before_it() {
        let at = |millis| Instant::ZERO + Duration::from_millis(millis);
        let mut uplink = Uplink::new(1_000);
        for (host, bytes) in [(1, 100), (2, 200), (1, 50), (3, 10)] {
            let to = PeerId { host, task: 0 };
            uplink.push(Transmission {
                to,
                piece: PieceIndex(0),
                block: BlockIndex(0),
                bytes,
                connection: 0,
                is_wrong: false,
            });
        }
        assert_eq!(uplink.first_leaves_at(2), None, "an idle wire holds nothing up");
        assert_eq!(uplink.start(at(5)).map(|(_, time)| time), Some(Duration::from_millis(100)));
        let leaves = [1, 2, 3, 4].map(|host| uplink.first_leaves_at(host));
        assert_eq!(leaves, [Some(at(105)), Some(at(305)), Some(at(365)), None]);
    }
}
