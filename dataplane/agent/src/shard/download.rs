//! Runs the Download machine of each task this shard fetches: its outputs become frames, writes and reports.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hawker_proto::frame::Frame;
use hawker_proto::hash::{self, ChainingValue, Root};
use hawker_proto::trust::{BATCH_PIECES_MAX, Grant, PieceRecord, RecordBatch, SignedAllowance, SignedLease};
use hawker_proto::{BlockIndex, HostId, Instant, PieceIndex, TaskId};
use hawker_ring::{Block, Op};
use hawker_storage::TaskFile;
use hawker_swarm::{Download, DownloadConfig, DownloadInput, DownloadOutput, LeaseId, NeighborId, OriginOutcome};

use super::child::{Candidate, Route};
use super::origin::Stream;
use super::{Purpose, Shard};
use crate::rates::{Bucket, Meter};
use crate::seam::{DownloadError, OriginEnd, OriginSpec, ShardEvent};
use crate::share::SharedTask;

/// Records wait this long for others to share a signature.
const SIGN_AFTER: Duration = Duration::from_millis(20);
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
    run: u64,
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
    assemblies: HashMap<PieceIndex, Assembly>,
    /// Leases that count with the scheduler's keys: proofs are signed under them, also after they are over.
    pub(super) leases: Vec<SignedLease>,
    /// Until when the leases hold whose fetch has not begun.
    pub(super) lease_ends: HashMap<LeaseId, Instant>,
    /// The scheduler's word for when it is away.
    pub(super) allowance: Option<SignedAllowance>,
    /// Grants of others whose signatures were found right.
    pub(super) grants: HashSet<Grant>,
    /// Pieces with a record of our own that no batch proves yet.
    unsigned: Vec<PieceIndex>,
    unsigned_since: Option<Instant>,
    /// Origin fetches that run, here or in control, and how far they are.
    pub(super) streams: HashMap<LeaseId, Stream>,
    advanced: Instant,
    is_advance_due: bool,
    /// BLAKE3 of content of one block: only its bytes give it.
    single_root: Option<Root>,
    pub(super) is_complete: bool,
}

/// The blocks of one piece that are written, and the values of those that came from the origin.
#[derive(Debug, Default)]
struct Assembly {
    /// A bit a block; a piece has at most 64.
    written: u64,
    values: HashMap<BlockIndex, ChainingValue>,
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

    fn file(&self) -> &Arc<TaskFile> {
        self.task.file()
    }

    /// The lease under which this host may vouch for a piece: the latest, for an earlier scheduler's key may be lost.
    fn lease_over(&self, piece: PieceIndex) -> Option<SignedLease> {
        let range = self.task.geometry().piece_range(piece);
        self.leases.iter().rev().find(|lease| lease.lease.range.contains(range)).copied()
    }

    /// Whether the scheduler counts on this host's word for a piece that is here, or nobody gave any.
    fn lacks_proof(&self, piece: PieceIndex) -> bool {
        match self.lease_over(piece) {
            Some(lease) => !self.task.is_proven_in(piece, lease.lease.epoch),
            None => !self.task.is_proven(piece),
        }
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
    fn announce_everywhere(&mut self, task: TaskId) {
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

    /// Remembers the root of content of one block while its bytes are at hand.
    pub(super) fn note_single_block(&mut self, task: TaskId, memory: &Block, length: usize) {
        let driver = self.downloads.get_mut(&task);
        if let Some(driver) = driver.filter(|driver| driver.task.geometry().block_count_total() == 1) {
            driver.single_root = Some(hash::root_of_bytes(&memory.as_slice()[..length]));
        }
    }

    /// A verified block goes to disk.
    pub(super) fn write_block(
        &mut self,
        task: TaskId,
        piece: PieceIndex,
        block: BlockIndex,
        memory: Block,
        length: usize,
    ) {
        let Some(driver) = self.downloads.get(&task) else { return };
        let offset = driver.task.geometry().block_range(piece, block).start();
        let (file, run) = (driver.file(), driver.run);
        // O_DIRECT takes whole sectors; a shorter tail goes through the page cache.
        let is_aligned = (length as u64).is_multiple_of(hawker_storage::DIRECT_ALIGNMENT);
        let target = file.direct().filter(|_| is_aligned).unwrap_or_else(|| file.content());
        let op = Op::Write { file: Arc::clone(target), block: memory, range: 0..length, offset };
        self.submit(op, Purpose::Write { task, run, piece, block });
    }

    /// The value of a block that came from the origin, kept until its piece is whole. False: it differs from what is
    /// recorded, so the origin's content changed or somebody lied.
    pub(super) fn note_origin_value(
        &mut self,
        task: TaskId,
        piece: PieceIndex,
        block: BlockIndex,
        value: ChainingValue,
    ) -> bool {
        let Some(driver) = self.downloads.get_mut(&task) else { return true };
        if let Some(record) = driver.task.file().record(piece) {
            return record.get(block.0 as usize) == Some(&value);
        }
        driver.assemblies.entry(piece).or_default().values.insert(block, value);
        true
    }

    /// Tells control that a download cannot go on.
    pub(super) fn fail_download(&mut self, task: TaskId, error: DownloadError) {
        let Some(driver) = self.downloads.get_mut(&task) else { return };
        if !std::mem::replace(&mut driver.has_failed, true) {
            self.events.push(ShardEvent::Failed { task, error });
        }
    }

    pub(super) fn on_wrote(
        &mut self,
        task: TaskId,
        run: u64,
        piece: PieceIndex,
        block: BlockIndex,
        result: io::Result<usize>,
    ) {
        let Some(driver) = self.downloads.get_mut(&task).filter(|driver| driver.run == run) else { return };
        if result.is_ok() && driver.file().has_piece(piece) {
            // The same bytes once more, from a peer and from the origin: they were on their way when the piece was whole.
            return;
        }
        if let Err(error) = result {
            driver.assemblies.remove(&piece);
            let message = format!("cannot write to the data directory: {error}");
            let error = DownloadError::Disk { message, os_error: error.raw_os_error() };
            self.fail_download(task, error);
            self.tell(task, DownloadInput::PieceLost { piece });
            return;
        }
        let block_count = driver.task.geometry().block_count(piece);
        let assembly = driver.assemblies.entry(piece).or_default();
        assembly.written |= 1 << block.0;
        if assembly.written.count_ones() == block_count {
            self.finish_piece(task, piece);
        }
    }

    /// All blocks of a piece are written: it is received, recorded and announced.
    fn finish_piece(&mut self, task: TaskId, piece: PieceIndex) {
        let Some(driver) = self.downloads.get_mut(&task) else { return };
        let Some(assembly) = driver.assemblies.remove(&piece) else { return };
        let file = Arc::clone(driver.file());
        if file.has_piece(piece) {
            return;
        }
        // One that cannot be read back is replaced.
        if file.record(piece).is_none() {
            let block_count = driver.task.geometry().block_count(piece);
            let values: Option<Vec<ChainingValue>> =
                (0..block_count).map(|block| assembly.values.get(&BlockIndex(block)).copied()).collect();
            if values.is_none_or(|values| file.put_record(piece, &values).is_err()) {
                self.tell(task, DownloadInput::PieceLost { piece });
                return;
            }
        }
        file.mark_received(piece);
        Self::mark_checked(&driver.task, piece);
        self.counters.pieces.add(1);
        if driver.lacks_proof(piece) {
            driver.unsigned.push(piece);
            driver.unsigned_since.get_or_insert(self.now);
        }
        self.tell(task, DownloadInput::PieceStored { piece });
    }

    /// A stored piece turned out bad: it is fetched again, by the shard that downloads the task or by a new download.
    pub(super) fn on_piece_lost(&mut self, task: TaskId, piece: PieceIndex) {
        // Children that heard of the piece shall hear of it again when it is back.
        self.announce_everywhere(task);
        if self.downloads.contains_key(&task) {
            self.tell(task, DownloadInput::PieceLost { piece });
        } else {
            self.events.push(ShardEvent::PieceLost { task, piece });
        }
    }

    /// Signs batches of records that waited long enough or are enough.
    fn sign_due(&mut self, task: TaskId) {
        let now = self.now;
        let Some(driver) = self.downloads.get_mut(&task) else { return };
        let Some(since) = driver.unsigned_since else { return };
        let is_due = now.since(since) >= SIGN_AFTER || driver.unsigned.len() >= BATCH_PIECES_MAX || driver.is_complete;
        if !is_due {
            return;
        }
        driver.unsigned_since = None;
        let unsigned = std::mem::take(&mut driver.unsigned);
        let mut groups: Vec<(Grant, Vec<PieceIndex>)> = Vec::new();
        for piece in unsigned {
            if !driver.lacks_proof(piece) {
                continue;
            }
            let allowance = driver.allowance.filter(|_| !driver.is_alone).map(Grant::Allowance);
            let Some(grant) = driver.lease_over(piece).map(Grant::Lease).or(allowance) else {
                // No right to vouch for it yet: it stays this host's own until a lease covers it.
                driver.unsigned.push(piece);
                continue;
            };
            match groups.iter_mut().find(|(other, pieces)| *other == grant && pieces.len() < BATCH_PIECES_MAX) {
                Some((_, pieces)) => pieces.push(piece),
                None => groups.push((grant, vec![piece])),
            }
        }
        if groups.is_empty() {
            return;
        }
        for (grant, pieces) in groups {
            sign_batch(&self.identity.key, &driver.task, grant, &pieces);
        }
        self.announce_everywhere(task);
    }

    /// Pieces in a new lease's range that are here without a proof can be vouched for now.
    pub(super) fn sign_under(&mut self, task: TaskId, lease: SignedLease) {
        let now = self.now;
        let Some(driver) = self.downloads.get_mut(&task) else { return };
        if lease.verify(&self.scheduler_keys).is_err() {
            return;
        }
        let pieces = driver.task.geometry().pieces_within(lease.lease.range);
        driver.leases.push(lease);
        for piece in pieces.map(PieceIndex) {
            let is_ours = driver.task.file().has_piece(piece) && driver.lacks_proof(piece);
            if is_ours && !driver.unsigned.contains(&piece) {
                driver.unsigned.push(piece);
            }
        }
        if !driver.unsigned.is_empty() {
            driver.unsigned_since.get_or_insert(now);
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

/// Signs the records of `pieces`, at most a batch, and keeps the proof.
fn sign_batch(key: &hawker_proto::identity::HostKey, task: &SharedTask, grant: Grant, pieces: &[PieceIndex]) {
    let record = |piece: &PieceIndex| {
        let blocks = task.file().record(*piece)?;
        Some(PieceRecord { piece: *piece, blocks })
    };
    let records: Vec<PieceRecord> = pieces.iter().filter_map(record).collect();
    if records.is_empty() {
        return;
    }
    let batch = RecordBatch::sign(key, task.id(), task.geometry(), grant, records);
    let encoded = batch.encode();
    task.add_proof(&batch, encoded);
}

/// The root of content of one block that was received by an earlier process: read back, one block at most.
fn read_single_block(file: &TaskFile) -> Option<Root> {
    let length = usize::try_from(file.geometry().length()).ok()?;
    let bytes = hawker_storage::blocking::read_at(file.content(), length, 0).ok()?;
    let is_right = file.record(PieceIndex(0))? == [hash::block_value(0, &bytes)];
    is_right.then(|| hash::root_of_bytes(&bytes))
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
