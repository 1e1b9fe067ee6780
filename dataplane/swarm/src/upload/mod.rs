//! The links that one shard serves: who may send now, and which block next.
//!
//! A link with requests waits in one queue. A slot of the host serves one link until its grant ends (blocks, time or
//! nothing left to send), then the link queues again behind all others: no child holds a slot for long, and none that
//! waits is passed over. Few slots, because a host that feeds two children finishes pieces that they can pass on while
//! one that feeds forty finishes none.

mod events;
#[cfg(test)]
mod tests;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::ops::Range;
use core::time::Duration;

use hawker_proto::{BlockIndex, Instant, PieceIndex};

pub use events::{LinkId, UploadInput, UploadOutput};

use crate::UploadConfig;

/// How often a slot is asked for when the host had none: the shell's `SlotFreed` normally comes first.
const SLOT_RETRY: Duration = Duration::from_millis(10);
/// Blocks of a piece, hence of a request, at most.
const REQUEST_BLOCKS_MAX: u32 = hawker_proto::geometry::PIECE_BYTES_MAX / hawker_proto::BLOCK_BYTES;

/// The machine of the links that one shard accepted. Slots belong to the host: the shell lends them.
#[derive(Debug)]
pub struct Upload {
    config: UploadConfig,
    links: BTreeMap<LinkId, Link>,
    /// Links that wait for a slot, longest wait first.
    queue: VecDeque<LinkId>,
    /// Links that hold a slot, in the order in which they send next.
    granted: VecDeque<LinkId>,
    /// Links whose children have not been told yet that they wait.
    untold: Vec<LinkId>,
    outputs: VecDeque<UploadOutput>,
    /// The host had no slot; not asked again before this, or `SlotFreed`. Slots are shared between threads, so they
    /// are not touched for every block.
    retry_at: Option<Instant>,
}

#[derive(Debug, Default)]
struct Link {
    requests: VecDeque<Request>,
    /// `Send`s without their `BlockSent`.
    sends: u32,
    state: LinkState,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum LinkState {
    /// Nothing asked for.
    #[default]
    Idle,
    /// In the queue.
    Queued,
    /// Holds a slot: until its blocks are sent, but at least until `least`, and no longer than `until`. `is_over`: its
    /// time is, and it only waits for what is on the wire.
    Granted { blocks_left: u32, least: Instant, until: Instant, is_over: bool },
}

#[derive(Debug)]
struct Request {
    channel: u16,
    piece: PieceIndex,
    /// Not yet sent; never empty.
    blocks: Range<u32>,
}

impl Upload {
    /// An upload without links.
    #[must_use]
    pub fn new(config: UploadConfig) -> Self {
        assert!(config.sends_per_link_max > 0 && config.grant_blocks > 0 && !config.grant_duration.is_zero());
        assert!(config.grant_duration_min <= config.grant_duration, "a grant ends before it may");
        Self {
            config,
            links: BTreeMap::new(),
            queue: VecDeque::new(),
            granted: VecDeque::new(),
            untold: Vec::new(),
            outputs: VecDeque::new(),
            retry_at: None,
        }
    }

    /// Takes one input. Inputs that make no sense (they come from peers) change nothing.
    pub fn handle(&mut self, _now: Instant, input: UploadInput) {
        match input {
            UploadInput::LinkUp { link } => self.link_up(link),
            UploadInput::LinkDown { link } => self.remove(link),
            UploadInput::Request { link, channel, piece, blocks } => {
                self.request(link, Request { channel, piece, blocks });
            }
            UploadInput::Cancel { link, channel, piece } => self.cancel(link, channel, piece),
            UploadInput::BlockSent { link, bytes: _ } => {
                if let Some(sender) = self.links.get_mut(&link) {
                    sender.sends = sender.sends.saturating_sub(1);
                    if sender.may_queue() {
                        self.enqueue(link);
                    }
                }
            }
            UploadInput::SlotFreed => self.retry_at = None,
        }
    }

    /// The next thing to do; `take_slot` takes a slot of the host if one is free. Call until `None` after every
    /// `handle`, and when the deadline passes.
    pub fn poll(&mut self, now: Instant, take_slot: &mut dyn FnMut() -> bool) -> Option<UploadOutput> {
        if self.outputs.is_empty() {
            self.end_grants(now);
        }
        // A slot that goes back is back before another is taken.
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        self.grant(now, take_slot).or_else(|| self.tell()).or_else(|| self.send(now))
    }

    /// When to call `poll` if nothing else happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let front = self.queue.front()?;
        debug_assert!(self.links.contains_key(front));
        let ends = self.granted.iter().filter_map(|link| match self.links.get(link)?.state {
            LinkState::Granted { until, .. } => Some(until),
            _ => None,
        });
        ends.chain(self.retry_at).min()
    }

    /// Links that wait for a slot.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Links that hold a slot.
    #[must_use]
    pub fn granted(&self) -> usize {
        self.granted.len()
    }

    /// Checks what must always hold.
    ///
    /// # Panics
    /// On a bug of this crate.
    pub fn assert_invariants(&self) {
        assert!(self.links.len() <= self.config.links_max);
        for (id, link) in &self.links {
            let times = |list: &VecDeque<LinkId>| list.iter().filter(|other| *other == id).count();
            let (is_queued, is_granted) = match link.state {
                LinkState::Idle => (false, false),
                LinkState::Queued => (true, false),
                LinkState::Granted { .. } => (false, true),
            };
            assert_eq!(times(&self.queue), usize::from(is_queued), "{id:?}");
            assert_eq!(times(&self.granted), usize::from(is_granted), "{id:?}");
            assert!(!is_queued || !link.requests.is_empty(), "{id:?} waits for nothing");
            let is_stalled = link.sends > 0;
            assert!(is_queued || is_granted || is_stalled || link.requests.is_empty(), "{id:?} is forgotten");
            assert!(link.sends <= self.config.sends_per_link_max);
            assert!(link.requests.len() <= self.config.requests_per_link_max);
            assert!(link.requests.iter().all(|request| !request.blocks.is_empty()));
        }
        assert!(self.queue.iter().chain(&self.granted).all(|id| self.links.contains_key(id)));
    }

    fn link_up(&mut self, link: LinkId) {
        if self.links.len() >= self.config.links_max {
            self.outputs.push_back(UploadOutput::Refuse { link });
        } else {
            self.links.entry(link).or_default();
        }
    }

    fn remove(&mut self, id: LinkId) {
        let Some(link) = self.links.remove(&id) else { return };
        self.untold.retain(|other| *other != id);
        match link.state {
            LinkState::Idle => {}
            LinkState::Queued => self.queue.retain(|other| *other != id),
            LinkState::Granted { .. } => {
                self.granted.retain(|other| *other != id);
                self.release_slot();
            }
        }
    }

    fn release_slot(&mut self) {
        self.outputs.push_back(UploadOutput::ReleaseSlot);
        self.retry_at = None;
    }

    fn request(&mut self, id: LinkId, request: Request) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let is_sane = !request.blocks.is_empty() && request.blocks.end <= REQUEST_BLOCKS_MAX;
        if !is_sane || link.requests.len() >= self.config.requests_per_link_max {
            self.remove(id);
            self.outputs.push_back(UploadOutput::Refuse { link: id });
            return;
        }
        link.requests.push_back(request);
        if link.may_queue() {
            self.enqueue(id);
        }
    }

    fn enqueue(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.state = LinkState::Queued;
        self.queue.push_back(id);
        self.untold.push(id);
    }

    fn cancel(&mut self, id: LinkId, channel: u16, piece: PieceIndex) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.requests.retain(|request| request.channel != channel || request.piece != piece);
        if link.requests.is_empty() && link.state == LinkState::Queued {
            link.state = LinkState::Idle;
            self.queue.retain(|other| *other != id);
            self.untold.retain(|other| *other != id);
        }
    }

    /// Ends the grants that are used up: of time, blocks or requests. The slot is free when the last block is sent, or
    /// blocks of ever more children would queue on a slow wire; but not later than a second time is over, because a child
    /// that does not read would hold it for ever.
    fn end_grants(&mut self, now: Instant) {
        let mut index = 0;
        while let Some(id) = self.granted.get(index).copied() {
            let Some(link) = self.links.get_mut(&id) else { return };
            let LinkState::Granted { blocks_left, least, until, is_over } = link.state else { return };
            let is_late = now >= until;
            let is_sent = blocks_left == 0 && now >= least;
            let is_used_up = (is_late || is_sent || link.requests.is_empty()) && link.sends == 0;
            let is_stalled = is_late && is_over;
            if is_late && !is_over {
                let until = now + self.config.grant_duration;
                link.state = LinkState::Granted { blocks_left: 0, least, until, is_over: true };
            }
            if !(is_used_up || is_stalled) {
                index += 1;
                continue;
            }
            link.state = LinkState::Idle;
            let may_queue = link.may_queue();
            self.granted.remove(index);
            self.release_slot();
            if may_queue {
                self.enqueue(id);
            }
        }
    }

    fn grant(&mut self, now: Instant, take_slot: &mut dyn FnMut() -> bool) -> Option<UploadOutput> {
        let id = *self.queue.front()?;
        if self.retry_at.is_some_and(|retry_at| now < retry_at) {
            return None;
        }
        if !take_slot() {
            self.retry_at = Some(now + SLOT_RETRY);
            return None;
        }
        self.retry_at = None;
        self.queue.pop_front();
        self.granted.push_back(id);
        self.untold.retain(|other| *other != id);
        let link = self.links.get_mut(&id).expect("a queued link exists");
        let blocks = self.config.grant_blocks;
        let (least, until) = (now + self.config.grant_duration_min, now + self.config.grant_duration);
        link.state = LinkState::Granted { blocks_left: blocks, least, until, is_over: false };
        let channel = link.requests.front().expect("a queued link has requests").channel;
        let millis = u32::try_from(self.config.grant_duration.as_millis()).unwrap_or(u32::MAX);
        Some(UploadOutput::Granted { link: id, channel, blocks, millis })
    }

    fn tell(&mut self) -> Option<UploadOutput> {
        let id = self.untold.pop()?;
        let position = self.queue.iter().position(|other| *other == id)?;
        let request = self.links.get(&id)?.requests.front()?;
        let position = u32::try_from(position).unwrap_or(u32::MAX);
        Some(UploadOutput::Queued { link: id, channel: request.channel, piece: request.piece, position })
    }

    /// The next block of the next link in turn that may send one.
    fn send(&mut self, now: Instant) -> Option<UploadOutput> {
        for _ in 0..self.granted.len() {
            let id = self.granted.pop_front()?;
            self.granted.push_back(id);
            let Some(link) = self.links.get_mut(&id) else { continue };
            if link.sends < self.config.sends_per_link_max
                && let Some(output) = link.next_block(id, now)
            {
                return Some(output);
            }
        }
        None
    }
}

impl Link {
    /// It waits for something and is in no list yet. A child that does not read what it was sent waits until it does:
    /// it would hold slot after slot for nothing.
    fn may_queue(&self) -> bool {
        self.state == LinkState::Idle && self.sends == 0 && !self.requests.is_empty()
    }

    fn next_block(&mut self, id: LinkId, now: Instant) -> Option<UploadOutput> {
        let LinkState::Granted { blocks_left, least, .. } = &mut self.state else { return None };
        let left = blocks_left.checked_sub(1).or((now < *least).then_some(0))?;
        let request = self.requests.front_mut()?;
        let block = request.blocks.next()?;
        let (channel, piece) = (request.channel, request.piece);
        if request.blocks.is_empty() {
            self.requests.pop_front();
        }
        *blocks_left = left;
        self.sends += 1;
        Some(UploadOutput::Send { link: id, channel, piece, block: BlockIndex(block) })
    }
}
