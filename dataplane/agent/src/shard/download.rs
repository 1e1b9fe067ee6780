//! Runs the Download machine of each task this shard fetches: its outputs become frames, writes and reports.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use hawker_proto::frame::Frame;
use hawker_proto::hash::{self, ChainingValue, Root};
use hawker_proto::trust::{Grant, RecordBatch, SignedAllowance, SignedLease};
use hawker_proto::{BlockIndex, HostId, Instant, PieceIndex, TaskId};
use hawker_storage::TaskFile;
use hawker_swarm::{Download, DownloadConfig, DownloadInput, DownloadOutput, LeaseId, NeighborId, OriginOutcome};

use super::Shard;
use super::assembly::{Assembly, read_single_block};
use super::child::{Candidate, Route};
use super::signing::SIGN_AFTER;
use super::stream::Stream;
use crate::rates::{Bucket, Meter};
use crate::seam::{DownloadError, OriginEnd, OriginSpec, ShardEvent};
use crate::share::SharedTask;

/// Grants that a task remembers: those of leases at work come up again, older ones hardly.
const GRANTS_MAX: usize = 256;
/// Progress of a task is reported at most this often.
const ADVANCE_EVERY: Duration = Duration::from_millis(20);
/// Lies of one host until a download leaves it alone: one may be a sector that rotted.
const LIES_MAX: u32 = 2;

/// One task on its way to this host.
pub(super) struct Driver {
    pub(super) task: Arc<SharedTask>,
    /// Which of this shard's downloads it is: a write of an earlier one of the same task may still be on its way.
    pub(super) run: u64,
    /// Control was told of a failure, and ends it: once, since the next caller must not hear of it too.
    has_failed: bool,
    pub(super) machine: Download,
    /// Keeps the task from eviction while it is fetched.
    _pin: hawker_storage::Pin,
    pub(super) candidates: HashMap<HostId, Candidate>,
    pub(super) routes: HashMap<NeighborId, Route>,
    pub(super) banned: HashSet<HostId>,
    /// How often a host lied, over all its links: see [`Shard::accuse`].
    lies: HashMap<HostId, u32>,
    pub(super) origin: Option<OriginSpec>,
    /// Control answers for the scheduler.
    pub(super) is_alone: bool,
    /// The callers' own limit.
    pub(super) meter: Meter,
    /// Blocks of unfinished pieces.
    pub(super) assemblies: HashMap<PieceIndex, Assembly>,
    /// Leases that count with the scheduler's keys: proofs are signed under them, also after they are over.
    pub(super) leases: Vec<SignedLease>,
    /// Until when the leases hold whose fetch has not begun.
    pub(super) lease_ends: HashMap<LeaseId, Instant>,
    /// The scheduler's word for when it is away.
    pub(super) allowance: Option<SignedAllowance>,
    /// Grants of others whose signatures were found right.
    pub(super) grants: HashSet<Grant>,
    /// Pieces with a record of our own that no batch proves yet.
    pub(super) unsigned: Vec<PieceIndex>,
    pub(super) unsigned_since: Option<Instant>,
    /// Origin fetches that run, here or in control, and how far they are.
    pub(super) streams: HashMap<LeaseId, Stream>,
    advanced: Instant,
    is_advance_due: bool,
    /// BLAKE3 of content of one block: only its bytes give it.
    pub(super) single_root: Option<Root>,
    pub(super) is_complete: bool,
}

impl Driver {
    /// When something is due that no completion announces.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let sign = self.unsigned_since.map(|since| since + SIGN_AFTER);
        let advance = self.is_advance_due.then(|| self.advanced + ADVANCE_EVERY);
        let redial = self.candidates.values().filter(|one| one.neighbor.is_none()).map(|one| one.retry_at).min();
        let redial = redial.filter(|_| !self.is_complete);
        let expiry = self.streams.values().filter_map(|stream| stream.ends).min();
        [self.machine.deadline(), sign, advance, redial, expiry].into_iter().flatten().min()
    }

    pub(super) fn file(&self) -> &Arc<TaskFile> {
        self.task.file()
    }
}

impl Shard {
    pub(super) fn start_download(&mut self, task: &Arc<SharedTask>, origin: Option<OriginSpec>, is_alone: bool) {
        let id = task.id();
        if let Some(driver) = self.downloads.get_mut(&id) {
            // A new caller of a running download: its origin is as good, and may be fresher.
            driver.origin = origin.or(driver.origin.take());
            self.tell(id, DownloadInput::Admitted);
            return;
        }
        let seed = u64::from_le_bytes(self.identity.host.0[..8].try_into().expect("eight bytes")) ^ self.now.as_nanos();
        let have = task.file().received();
        let machine = Download::new(DownloadConfig::default(), task.geometry(), have, seed, self.now);
        self.next_run += 1;
        let driver = Driver {
            task: Arc::clone(task),
            run: self.next_run,
            has_failed: false,
            machine,
            _pin: task.file().pin(),
            candidates: HashMap::new(),
            routes: HashMap::new(),
            banned: HashSet::new(),
            lies: HashMap::new(),
            origin,
            is_alone,
            meter: Meter::default(),
            assemblies: HashMap::new(),
            leases: Vec::new(),
            lease_ends: HashMap::new(),
            allowance: None,
            grants: HashSet::new(),
            unsigned: Vec::new(),
            unsigned_since: None,
            streams: HashMap::new(),
            advanced: Instant::ZERO,
            is_advance_due: true,
            single_root: None,
            is_complete: false,
        };
        self.downloads.insert(id, driver);
        self.tell_known_records(id);
        let is_connected = is_alone || self.is_scheduler_connected;
        self.tell(id, DownloadInput::Scheduler { is_connected });
    }

    /// After a restart: pieces whose records were kept can be asked for at once.
    fn tell_known_records(&mut self, id: TaskId) {
        let Some(driver) = self.downloads.get(&id) else { return };
        let missing = driver.file().received();
        let pieces: Vec<PieceIndex> = missing.missing().filter(|piece| driver.file().has_record(*piece)).collect();
        if !pieces.is_empty() {
            self.tell(id, DownloadInput::Records { pieces });
        }
    }

    pub(super) fn stop_download(&mut self, task: TaskId) {
        let Some(driver) = self.downloads.get(&task) else { return };
        let routes: Vec<Route> = driver.routes.values().copied().collect();
        let streams: Vec<LeaseId> = driver.streams.keys().copied().collect();
        for route in routes {
            self.close_channel(task, route);
        }
        for lease in streams {
            self.stop_stream(task, lease);
        }
        if let Some(driver) = self.downloads.remove(&task) {
            self.places.remove(task, &driver.machine);
        }
    }

    /// Hands an input to a task's machine, which runs later in the turn.
    pub(super) fn tell(&mut self, task: TaskId, input: DownloadInput) {
        if let Some(driver) = self.downloads.get_mut(&task) {
            driver.machine.handle(self.now, input);
            self.dirty_downloads.insert(task);
        }
    }

    pub(super) fn tick_downloads(&mut self) {
        let now = self.now;
        let is_due = |driver: &Driver| driver.deadline().is_some_and(|at| at <= now);
        let due: Vec<TaskId> = self.downloads.iter().filter(|(_, driver)| is_due(driver)).map(|(id, _)| *id).collect();
        for task in due {
            self.note_arriving(task);
            self.end_expired_streams(task);
            self.tell(task, DownloadInput::Tick);
            self.connect_candidates(task);
        }
    }

    /// A block takes longer than a timeout on a slow link: bytes that came lately are a sign of life.
    fn note_arriving(&mut self, task: TaskId) {
        let Some(driver) = self.downloads.get_mut(&task) else { return };
        for (neighbor, route) in &driver.routes {
            let Some(link) = self.links.get(&route.link).filter(|link| link.wire.is_mid_block()) else { continue };
            let heard = link.socket.as_ref().and_then(|socket| hawker_ring::net::last_received(socket).ok());
            if heard.is_some_and(|ago| ago < Duration::from_millis(100)) {
                driver.machine.handle(self.now, DownloadInput::Arriving { neighbor: *neighbor });
            }
        }
    }

    /// Runs what the machine wants, signs and reports what is due.
    pub(super) fn drive(&mut self, task: TaskId) {
        while let Some(output) = self.downloads.get_mut(&task).and_then(|driver| driver.machine.poll()) {
            self.on_download_output(task, output);
        }
        self.sign_due(task);
        self.report_advance(task);
        self.finish(task);
    }

    fn on_download_output(&mut self, task: TaskId, output: DownloadOutput) {
        match output {
            DownloadOutput::Request { neighbor, piece, blocks } => {
                let count = blocks.end - blocks.start;
                self.say(task, neighbor, |channel| Frame::Request {
                    channel,
                    piece,
                    block: BlockIndex(blocks.start),
                    count,
                });
            }
            DownloadOutput::Cancel { neighbor, piece } => {
                self.say(task, neighbor, |channel| Frame::Cancel { channel, piece });
            }
            DownloadOutput::BadPiece { neighbor, piece, block } => {
                self.say(task, neighbor, |channel| Frame::BadPiece { channel, piece, block });
            }
            DownloadOutput::AskLease { bytes, rate, source_rate, lacked } => {
                self.events.push(ShardEvent::AskLease { task, bytes, rate, source_rate, lacked });
            }
            DownloadOutput::ReturnLease { lease, range } => {
                if let Some(driver) = self.downloads.get_mut(&task) {
                    driver.lease_ends.remove(&lease);
                }
                // What leads the range and is stored here needs nobody's fetch; the rest goes back.
                let stored = self.downloads.get(&task).map(|driver| driver.task.stored_until(range));
                let (upto, end) = (stored.unwrap_or(range.start()), OriginEnd::Complete);
                self.events.push(ShardEvent::LeaseDone { task, serial: lease.0, upto, end });
            }
            DownloadOutput::FetchOrigin { lease, range } | DownloadOutput::Originate { lease, range } => {
                self.start_stream(task, lease, range);
            }
            DownloadOutput::StopOrigin { lease } => {
                // Whole up to here; what is left of the lease goes back.
                let upto = self.downloads.get(&task).and_then(|driver| driver.streams.get(&lease)).map(|one| one.upto);
                self.stop_stream(task, lease);
                if let Some(upto) = upto.filter(|_| !lease.is_own()) {
                    let end = OriginEnd::Complete;
                    self.events.push(ShardEvent::LeaseDone { task, serial: lease.0, upto, end });
                }
                let outcome = OriginOutcome::Failed { retry_after: Duration::ZERO };
                self.tell(task, DownloadInput::OriginEnded { lease, outcome });
            }
            DownloadOutput::Announce { .. } => {
                if let Some(driver) = self.downloads.get_mut(&task) {
                    driver.is_advance_due = true;
                }
                self.announce_everywhere(task);
            }
            DownloadOutput::Ban { neighbor } => self.ban_neighbor(task, neighbor),
            DownloadOutput::Complete => {
                if let Some(driver) = self.downloads.get_mut(&task) {
                    driver.is_complete = true;
                }
            }
        }
    }

    fn say(&mut self, task: TaskId, neighbor: NeighborId, frame: impl FnOnce(u16) -> Frame) {
        let route = self.downloads.get(&task).and_then(|driver| driver.routes.get(&neighbor).copied());
        if let Some(route) = route {
            self.send_frame(route.link, &frame(route.channel));
        }
    }

    /// The machine had enough of a neighbor's bad blocks.
    fn ban_neighbor(&mut self, task: TaskId, neighbor: NeighborId) {
        let route = self.downloads.get(&task).and_then(|driver| driver.routes.get(&neighbor));
        if let Some(host) = route.map(|route| route.host) {
            self.ban(task, host);
        }
    }

    /// Leaves a host alone for the rest of a download, and tells the scheduler.
    fn ban(&mut self, task: TaskId, host: HostId) {
        let Some(driver) = self.downloads.get_mut(&task) else { return };
        if !driver.banned.insert(host) {
            return;
        }
        let neighbor = driver.candidates.remove(&host).and_then(|candidate| candidate.neighbor);
        let route = neighbor.and_then(|neighbor| driver.routes.get(&neighbor).copied());
        tracing::warn!(host = %host.short(), task = %task.short(), "a host lied and is banned here");
        self.events.push(ShardEvent::BadHost { task, host });
        if let Some(route) = route {
            self.close_channel(task, route);
        }
    }

    /// A host did what no honest one does. Counted by host: a liar may close its link after each lie.
    pub(super) fn accuse(&mut self, task: TaskId, host: HostId) {
        let Some(driver) = self.downloads.get_mut(&task) else { return };
        let lies = driver.lies.entry(host).or_default();
        *lies += 1;
        if *lies >= LIES_MAX {
            self.ban(task, host);
        }
    }

    /// Lets every shard tell its children of a task's new pieces.
    pub(super) fn announce_everywhere(&mut self, task: TaskId) {
        self.changed.insert(task);
        self.notices.say(&self.handles, self.index, task);
    }

    /// Keeps a verified batch from a peer: its pieces may be asked for now.
    pub(super) fn accept_records(&mut self, task: TaskId, shared: &SharedTask, batch: &RecordBatch, encoded: Vec<u8>) {
        let mut pieces = Vec::with_capacity(batch.records.len());
        for record in &batch.records {
            match shared.file().put_record(record.piece, &record.blocks) {
                Ok(()) => pieces.push(record.piece),
                Err(error) => tracing::warn!(%error, piece = record.piece.0, "two proofs contradict each other"),
            }
        }
        if pieces.len() == batch.records.len() {
            shared.add_proof(batch, encoded);
        }
        if let Some(driver) = self.downloads.get_mut(&task) {
            if driver.grants.len() == GRANTS_MAX {
                driver.grants.clear();
            }
            driver.grants.insert(batch.grant);
        }
        self.tell(task, DownloadInput::Records { pieces });
        self.changed.insert(task);
    }

    /// Tells control that a download cannot go on.
    pub(super) fn fail_download(&mut self, task: TaskId, error: DownloadError) {
        let Some(driver) = self.downloads.get_mut(&task) else { return };
        if !std::mem::replace(&mut driver.has_failed, true) {
            self.events.push(ShardEvent::Failed { task, error });
        }
    }

    fn report_advance(&mut self, task: TaskId) {
        let now = self.now;
        let Some(driver) = self.downloads.get_mut(&task).filter(|driver| driver.is_advance_due) else { return };
        if driver.is_complete || now.since(driver.advanced) >= ADVANCE_EVERY {
            driver.is_advance_due = false;
            driver.advanced = now;
            self.events.push(ShardEvent::Advanced { task });
        }
    }

    /// Ends a download that has everything: reports the root, frees its links.
    fn finish(&mut self, task: TaskId) {
        let Some(driver) = self.downloads.get(&task).filter(|driver| driver.is_complete) else { return };
        if !driver.task.file().received().is_full() {
            // A piece was lost after the machine was done; it says Complete again.
            return;
        }
        match root_of(driver) {
            Some(root) => self.events.push(ShardEvent::Complete { task, root }),
            None => {
                let message = "a record of this task cannot be read back".to_owned();
                let error = DownloadError::Disk { message, os_error: None };
                self.fail_download(task, error);
            }
        }
        self.stop_download(task);
    }

    pub(super) fn on_scheduler(&mut self, is_connected: bool, keys: Vec<hawker_proto::identity::PublicKey>) {
        self.is_scheduler_connected = is_connected;
        if !keys.is_empty() {
            self.scheduler_keys = keys;
            self.downloads.values_mut().for_each(|driver| driver.grants.clear());
        }
        let tasks: Vec<TaskId> =
            self.downloads.iter().filter(|(_, driver)| !driver.is_alone).map(|(task, _)| *task).collect();
        for task in tasks {
            self.tell(task, DownloadInput::Scheduler { is_connected });
        }
    }

    pub(super) fn set_alone(&mut self, task: TaskId, is_alone: bool) {
        let is_scheduler_connected = self.is_scheduler_connected;
        if let Some(driver) = self.downloads.get_mut(&task) {
            driver.is_alone = is_alone;
        }
        self.tell(task, DownloadInput::Scheduler { is_connected: is_alone || is_scheduler_connected });
    }

    pub(super) fn set_limit(&mut self, task: TaskId, bucket: Option<Arc<Bucket>>) {
        if let Some(driver) = self.downloads.get_mut(&task) {
            driver.meter = Meter::new(bucket);
        }
    }
}

/// BLAKE3 of the whole content, from the records of its pieces. `None` when one cannot be read back.
fn root_of(driver: &Driver) -> Option<Root> {
    let geometry = driver.task.geometry();
    if geometry.block_count_total() <= 1 {
        return driver.single_root.or_else(|| read_single_block(driver.file()));
    }
    if geometry.piece_count() == 1 {
        return hash::root_of_blocks(geometry.length(), &driver.task.file().record(PieceIndex(0))?);
    }
    let values: Option<Vec<ChainingValue>> =
        (0..geometry.piece_count()).map(|piece| driver.task.file().piece_value(PieceIndex(piece))).collect();
    hash::root_of_pieces(geometry, &values?)
}
