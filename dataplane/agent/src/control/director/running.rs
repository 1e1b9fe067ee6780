//! One task that is open here.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hawker_proto::HostId;
use hawker_proto::hash::Root;
use hawker_proto::trust::SignedLease;
use hawker_scheduler::Neighbor;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::about::About;
use super::hashing::Follower;
use crate::control::caller::{CallerId, Failure, GetRequest};
use crate::control::link::Side;
use crate::control::origin::{OpenBody, TaskLimit};
use crate::seam::{OriginEnd, OriginSpec, Trouble};
use crate::share::SharedTask;

/// A download whose origin refuses this host lives by its peers; it is given up after this long without a byte.
const PEERS_PATIENCE: Duration = Duration::from_secs(10);
/// A lone download whose origin fails is given up after this long without a byte ...
const ORIGIN_PATIENCE: Duration = Duration::from_secs(30);
/// ... and so many failed fetches, or when the origin is not to be asked for as long again.
const ORIGIN_FAILURES_MAX: u32 = 3;

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
    /// Hashes what arrives under a name.
    pub(super) follower: Option<Follower>,
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
    /// The origin is not asked before: it said so, or a failure did.
    pub(super) quiet_until: Instant,
    pub(super) is_refused: bool,
    /// Callers whose credentials the origin refuses meanwhile.
    pub(super) refused_callers: HashSet<CallerId>,
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
        shared.set_in_doubt(about.name.is_some() && !shared.file().is_sealed());
        Self {
            state: shared.file().root().filter(|_| shared.file().is_sealed()).map_or(State::Idle, State::Sealed),
            shared,
            about,
            side,
            callers: HashSet::new(),
            changed: watch::Sender::new(0),
            follower: None,
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
            quiet_until: now,
            is_refused: false,
            refused_callers: HashSet::new(),
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

    /// The origin admits us with this request.
    pub(super) fn renew(&mut self, request: &GetRequest) {
        self.request = request.clone();
        self.about.direct = None;
        self.advanced_at = Instant::now();
        (self.is_refused, self.last_failure) = (false, None);
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

    /// A fetch from the origin is over: enough of those that failed, and a long silence, end the download.
    pub(super) fn note_end(&mut self, end: OriginEnd) {
        let host = self.request.url.authority();
        match end {
            OriginEnd::Complete => {}
            OriginEnd::Failed { retry_after, trouble } => {
                let Some(failure) = Failure::trouble(&host, trouble) else { return };
                self.failures = self.failures.saturating_add(1);
                self.quiet_until = self.quiet_until.max(Instant::now() + retry_after);
                // What control said of its own fetch says more than that a connection broke.
                if trouble != Trouble::Broken || self.last_failure.is_none() {
                    self.last_failure = Some(failure);
                }
            }
            // Peers may have the rest. When they do not, nobody fetches it here any more.
            OriginEnd::Refused { status } => {
                self.is_refused = true;
                if status > 0 {
                    self.last_failure = Some(Failure::origin_status(&host, status));
                }
            }
        }
    }

    /// Whether nothing came for long, and nothing will as far as the origin is concerned.
    pub(super) fn is_hopeless(&self, now: Instant) -> bool {
        let quiet = self.quiet_until.saturating_duration_since(now);
        let is_out = quiet >= ORIGIN_PATIENCE || (quiet.is_zero() && self.failures >= ORIGIN_FAILURES_MAX);
        let still = now.duration_since(self.advanced_at);
        (is_out && still >= ORIGIN_PATIENCE) || (self.is_refused && still >= PEERS_PATIENCE)
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
            validators: self.about.validators.clone(),
            is_range_ok: self.about.has_ranges,
            is_named: self.request.name.is_some(),
            direct: self.about.direct,
        }
    }
}
