//! One task that is open here.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use hawker_proto::HostId;
use hawker_proto::hash::Root;
use hawker_proto::trust::SignedLease;
use hawker_scheduler::Neighbor;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::about::About;
use crate::control::caller::{CallerId, Failure, GetRequest};
use crate::control::link::Side;
use crate::control::origin::{OpenBody, TaskLimit};
use crate::seam::OriginSpec;
use crate::share::SharedTask;

/// A task that is open here.
#[derive(Debug)]
pub(super) struct Running {
    shared: Arc<SharedTask>,
    pub(super) about: About,
    pub(super) state: State,
    /// Whose leases it runs under.
    pub(super) side: Side,
    pub(super) callers: HashSet<CallerId>,
    pub(super) changed: watch::Sender<u64>,
    pub(super) neighbor_count: Arc<AtomicU32>,
    pub(super) neighbors: HashSet<HostId>,
    /// Whoever began it lends URL and headers for fetches from the origin.
    pub(super) request: GetRequest,
    pub(super) limit: TaskLimit,
    pub(super) parked: Option<(OpenBody, Instant)>,
    pub(super) leases: HashMap<u64, Held>,
    /// Fetches that run in control; dropping the sender stops one.
    pub(super) jobs: HashMap<u64, oneshot::Sender<()>>,
    /// The last caller left then.
    pub(super) abandoned_at: Option<Instant>,
    pub(super) advanced_at: Instant,
    pub(super) failures: u32,
    pub(super) last_failure: Option<Failure>,
    pub(super) used_at: Instant,
    /// Bytes at the last progress report, and the rate since the one before.
    pub(super) bytes_reported: u64,
    pub(super) bytes_per_s: u64,
}

/// A lease that is being fetched.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) lease: SignedLease,
    pub(super) expires: Instant,
    pub(super) upto: u64,
}

/// What becomes of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Just opened, or nobody fetches it: some pieces may be here.
    Idle,
    /// Waits for other downloads to end.
    Queued,
    /// A shard fetches it.
    Downloading,
    /// All is here; the store makes it durable.
    Sealing,
    /// Whole and durable.
    Sealed(Root),
}

impl Running {
    pub(super) fn new(
        shared: Arc<SharedTask>,
        about: About,
        side: Side,
        request: &GetRequest,
        parked: Option<OpenBody>,
    ) -> Self {
        let now = Instant::now();
        let bytes_reported = shared.file().bytes_received();
        Self {
            state: shared.file().root().filter(|_| shared.file().is_sealed()).map_or(State::Idle, State::Sealed),
            shared,
            about,
            side,
            callers: HashSet::new(),
            changed: watch::Sender::new(0),
            neighbor_count: Arc::default(),
            neighbors: HashSet::new(),
            request: request.clone(),
            limit: TaskLimit::default(),
            parked: parked.map(|body| (body, now)),
            leases: HashMap::new(),
            jobs: HashMap::new(),
            abandoned_at: None,
            advanced_at: now,
            failures: 0,
            last_failure: None,
            used_at: now,
            bytes_reported,
            bytes_per_s: 0,
        }
    }

    pub(super) fn shared(&self) -> &Arc<SharedTask> {
        &self.shared
    }

    /// Whether a new caller may have it without a new resolve.
    pub(super) fn is_joinable(&self) -> bool {
        let is_fresh = self.about.valid_until > Instant::now();
        self.about.is_shared && (is_fresh || self.is_active())
    }

    /// Whether bytes are on their way, or will be.
    pub(super) fn is_active(&self) -> bool {
        matches!(self.state, State::Queued | State::Downloading | State::Sealing)
    }

    pub(super) fn has_callers(&self) -> bool {
        !self.callers.is_empty()
    }

    /// A new resolve led here again.
    pub(super) fn refresh(&mut self, about: &About) {
        self.about = about.clone();
    }

    /// A new flight brings a newer request and perhaps an open body; neither replaces what is in use.
    pub(super) fn offer(&mut self, request: &GetRequest, parked: Option<OpenBody>) {
        if !self.is_active() {
            self.request = request.clone();
            self.parked = parked.map(|body| (body, Instant::now()));
        }
    }

    pub(super) fn add_caller(&mut self, caller: CallerId) {
        self.callers.insert(caller);
        self.abandoned_at = None;
        self.used_at = Instant::now();
    }

    pub(super) fn take_parked(&mut self) -> Option<OpenBody> {
        self.parked.take().map(|(body, _)| body)
    }

    /// Pieces arrived.
    pub(super) fn advance(&mut self) {
        self.advanced_at = Instant::now();
        self.failures = 0;
        self.changed.send_modify(|count| *count += 1);
    }

    pub(super) fn set_neighbors(&mut self, add: &[Neighbor], remove: &[HostId]) {
        for host in remove {
            self.neighbors.remove(host);
        }
        self.neighbors.extend(add.iter().map(|neighbor| neighbor.id));
        let count = u32::try_from(self.neighbors.len()).unwrap_or(u32::MAX);
        self.neighbor_count.store(count, Ordering::Relaxed);
    }

    /// What fetches from the origin need.
    pub(super) fn origin_spec(&self) -> OriginSpec {
        OriginSpec {
            url: self.request.url.to_string(),
            headers: self.request.headers.clone(),
            validator: self.about.validators.pin(),
            is_range_ok: self.about.has_ranges,
            direct: self.about.direct,
        }
    }
}
