//! From a URL to a task: store, scheduler, origin, in this order, once for all callers that ask the same.

use std::time::Duration;

use hawker_proto::resolve::{ResolveKey, Version, task_id_of_digest, task_id_of_version};
use hawker_proto::{ByteRange, Geometry, TaskId};
use hawker_scheduler::{Input, Neighbor, OriginId, ResolveFailure, WantId, WantKey};
use hawker_storage::{TaskMeta, TaskState, TaskSummary};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::about::{About, VALID, VALID_NAMED, validators_of};
use super::running::Running;
use super::{Director, Internal, Outbox, Place};
use crate::clock;
use crate::control::caller::{CallerEvent, CallerId, Failure, GetRequest, tell};
use crate::control::link::Side;
use crate::control::origin::{Condition, OpenBody, OriginError, Resolution, Resolved, TaskLimit, resolve, spool};

/// An origin may say more, up to this: a wrong Cache-Control must not pin a host to old content for a day.
const VALID_MAX: Duration = Duration::from_secs(300);
/// The scheduler has this long at least; beyond it a get goes to the origin by itself.
const PATIENCE_MIN: Duration = Duration::from_millis(50);
/// ... and so many round trips.
const PATIENCE_ROUND_TRIPS: u32 = 4;
/// ... but never longer than this.
const PATIENCE_MAX: Duration = Duration::from_secs(2);
/// How often a resolver says that it is still at it.
const RESOLVING_EVERY: Duration = Duration::from_secs(1);
/// Most that somebody else's resolve is waited for before this host resolves for itself.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// A resolve under way.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) key: ResolveKey,
    /// Of the first caller: its credentials are used.
    pub(super) request: GetRequest,
    /// That caller, who may have left since.
    pub(super) prover: CallerId,
    pub(super) callers: Vec<CallerId>,
    pub(super) stage: Stage,
    /// The sealed task that the store has under the key, no longer fresh.
    stored: Option<Box<(TaskSummary, TaskMeta)>>,
    /// When the want was sent last: for the round trip.
    asked_at: Option<Instant>,
    began: Instant,
    pub(super) duty: Duty,
    said_resolving: Instant,
    /// How much of it the resolve's GET is to ask for, when the scheduler said so.
    pub(super) first_bytes: Option<u64>,
    /// What the scheduler named, perhaps after this host had begun by itself.
    pub(super) ready: Option<(TaskId, Vec<Neighbor>)>,
    /// The origin accepted the first caller's credentials.
    pub(super) is_proven: bool,
    pub(super) parked: Option<OpenBody>,
    /// The content, when it is small, for the scheduler's answers to others.
    pub(super) inline: Vec<u8>,
    pub(super) limit: TaskLimit,
    work: Option<AbortHandle>,
}

/// Whether the scheduler made this host the resolver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Duty {
    None,
    /// It waits for Resolved or ResolveFailed.
    Owed,
    /// It was told.
    Done,
}

/// How far a flight is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Asking the store.
    Finding,
    /// Waiting for other resolves and downloads to end: each holds a connection, or files.
    Queued,
    /// Asking the scheduler; at the instant, patience ends.
    Wanting(Instant),
    /// The scheduler said that another host resolves; at the instant, ask again.
    Waiting(Instant),
    /// Asking the origin.
    Resolving,
    /// The origin checks our credentials for content that another host resolved.
    Checking,
    /// A body of unknown length arrives.
    Spooling,
    /// The store makes room.
    Opening,
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Some(work) = &self.work {
            work.abort();
        }
    }
}

impl Flight {
    /// Goes on to `stage`, which `work` will end.
    pub(super) fn begin_work(&mut self, stage: Stage, work: AbortHandle) {
        self.stage = stage;
        self.work = Some(work);
    }
}

impl Director {
    /// Puts a caller where its content is, or is being looked for.
    pub(super) async fn place(&mut self, id: CallerId) {
        let Some(caller) = self.callers.get_mut(&id) else { return };
        let request = &caller.request;
        let key = request.resolve_key(self.parts.cluster_key.as_ref());
        if let Some(want) = self.flights_by_key.get(&key).copied()
            && let Some(flight) = self.flights.get_mut(&want)
        {
            flight.callers.push(id);
            caller.place = Place::Flight(want);
            return;
        }
        let joinable = self.tasks_by_key.get(&key).copied();
        if let Some(task) = joinable.filter(|task| self.tasks.get(task).is_some_and(Running::is_joinable)) {
            self.attach(id, task).await;
            return;
        }
        let request = caller.request.clone();
        self.begin_flight(id, key, request);
    }

    fn begin_flight(&mut self, caller: CallerId, key: ResolveKey, request: GetRequest) {
        let want = WantId(self.next_want);
        self.next_want += 1;
        if let Some(caller) = self.callers.get_mut(&caller) {
            caller.place = Place::Flight(want);
        }
        let limit = TaskLimit::default();
        limit.set(request.limit_bytes_per_s);
        let is_proven = !request.is_credentialed;
        let now = Instant::now();
        let mut flight = Flight {
            key,
            request,
            prover: caller,
            callers: vec![caller],
            stage: Stage::Finding,
            stored: None,
            asked_at: None,
            began: now,
            duty: Duty::None,
            said_resolving: now,
            first_bytes: None,
            ready: None,
            is_proven,
            parked: None,
            inline: Vec::new(),
            limit,
            work: None,
        };
        let keeper = self.keeper.clone();
        flight.work =
            Some(self.spawn(async move {
                Internal::Found { want, found: keeper.find_resolved(key.0).await.map(Box::new) }
            }));
        self.flights_by_key.insert(key, want);
        self.flights.insert(want, flight);
    }

    pub(super) async fn on_found(&mut self, want: WantId, found: Option<(TaskSummary, TaskMeta)>) {
        // A session that opened meanwhile has already asked the scheduler.
        let Some(flight) = self.flights.get_mut(&want).filter(|flight| flight.stage == Stage::Finding) else { return };
        let sealed = found.filter(|(summary, _)| summary.state == TaskState::Sealed);
        if let Some((summary, meta)) = sealed {
            let age_ms = clock::unix_ms().saturating_sub(meta.resolved_unix_ms);
            // A named task was compared with its name before it was sealed.
            if flight.request.name.is_some() || Duration::from_millis(age_ms) < VALID {
                let about = About::from_meta(summary.task, summary.geometry, &meta, true);
                self.open(want, about).await;
                return;
            }
            flight.stored = Some(Box::new((summary, meta)));
        }
        if self.queued_flights.is_empty() && self.has_room() {
            return self.want(want);
        }
        if let Some(flight) = self.flights.get_mut(&want) {
            flight.stage = Stage::Queued;
        }
        self.queued_flights.push_back(want);
    }

    /// Whether one more resolve may become one more download.
    fn has_room(&self) -> bool {
        let resolving = self.flights.values().filter(|flight| !matches!(flight.stage, Stage::Finding | Stage::Queued));
        let downloading = self.tasks.values().filter(|task| task.is_active());
        resolving.count() + downloading.count() < self.parts.limits.downloads
    }

    /// Starts flights that wait while there is room.
    pub(super) fn start_queued_flights(&mut self) {
        while !self.queued_flights.is_empty() && self.has_room() {
            let next = self.queued_flights.pop_front();
            // Its callers may have left.
            if let Some((want, flight)) = next.and_then(|want| Some((want, self.flights.get_mut(&want)?))) {
                (flight.stage, flight.began) = (Stage::Finding, Instant::now());
                self.want(want);
            }
        }
    }

    /// Asks the scheduler; without one, the origin.
    pub(super) fn want(&mut self, want: WantId) {
        if self.flights.get(&want).is_some_and(|flight| flight.stage == Stage::Queued) {
            return;
        }
        if !self.is_connected() || self.is_distrusted(want) {
            return self.resolve(want);
        }
        let patience = self.patience();
        let Some(flight) = self.flights.get_mut(&want) else { return };
        let origin = Some(OriginId(flight.request.url.origin_hash()));
        let key = match flight.request.name {
            Some(digest) => WantKey::Digest(digest, Some(flight.key)),
            None => WantKey::Resolve(flight.key),
        };
        let input = Input::Want { host: self.parts.host, want, key, origin };
        if matches!(flight.stage, Stage::Finding | Stage::Waiting(_)) {
            flight.stage = Stage::Wanting(Instant::now() + patience);
        }
        flight.asked_at = Some(Instant::now());
        if !self.say(Side::Cluster, input) {
            self.resolve(want);
        }
    }

    fn patience(&self) -> Duration {
        let facts = self.parts.cluster.as_ref().map(Outbox::facts);
        let round_trip = facts.and_then(|facts| facts.round_trip()).unwrap_or_default();
        (round_trip * PATIENCE_ROUND_TRIPS).clamp(PATIENCE_MIN, PATIENCE_MAX)
    }

    /// The scheduler answered this flight: how long that took is how long others may take.
    pub(super) fn measure(&mut self, want: WantId) {
        let asked = self.flights.get_mut(&want).and_then(|flight| flight.asked_at.take());
        if let (Some(asked), Some(cluster)) = (asked, &self.parts.cluster) {
            cluster.facts().measured(asked.elapsed());
        }
    }

    /// Asks the origin.
    pub(super) fn resolve(&mut self, want: WantId) {
        let Some(flight) = self.flights.get(&want) else { return };
        if !matches!(flight.stage, Stage::Finding | Stage::Wanting(_) | Stage::Waiting(_)) {
            return;
        }
        let condition = match flight.stored.as_deref() {
            Some((_, meta)) if flight.request.name.is_none() && !validators_of(meta).is_empty() => {
                Condition::Newer { etag: meta.etag.clone(), last_modified: meta.last_modified.clone() }
            }
            _ => Condition::Any,
        };
        let request = &flight.request;
        let range = flight.first_bytes.and_then(|bytes| ByteRange::new(0, bytes));
        let ask = request.ask(range, condition);
        let client = self.parts.client.clone();
        let mut nonce = [0; 16];
        let work = self.spawn(async move {
            let result = match getrandom::fill(&mut nonce) {
                Ok(()) => resolve(&client, ask, nonce).await,
                Err(error) => Err(OriginError::Disk(std::io::Error::other(error.to_string()))),
            };
            Internal::Resolved { want, result }
        });
        if let Some(flight) = self.flights.get_mut(&want) {
            flight.stage = Stage::Resolving;
            flight.work = Some(work);
        }
    }

    pub(super) async fn on_resolved(&mut self, want: WantId, result: Result<Resolution, OriginError>) {
        let Some(flight) = self.flights.get_mut(&want) else { return };
        flight.is_proven = true;
        match result {
            Ok(Resolution::Fresh(resolved)) => self.on_fresh(want, *resolved).await,
            Ok(Resolution::NotModified) => {
                let Some(stored) = flight.stored.take() else { return };
                let (summary, mut meta) = *stored;
                meta.resolved_unix_ms = clock::unix_ms();
                let about = About::from_meta(summary.task, summary.geometry, &meta, true);
                self.keeper.set_meta(summary.task, meta).await;
                self.open(want, about).await;
            }
            Err(error) => self.fail_flight(want, &error),
        }
    }

    async fn on_fresh(&mut self, want: WantId, resolved: Resolved) {
        let Some(flight) = self.flights.get_mut(&want) else { return };
        let (name, version) = (flight.request.name, &resolved.version);
        let task = match &name {
            Some(digest) => task_id_of_digest(resolved.length, digest),
            None => task_id_of_version(resolved.length, flight.key, version),
        };
        let geometry = match resolved.length {
            Some(length) => Geometry::of_length(length),
            // Replaced when the length is known.
            None => Geometry::of_stream(0),
        };
        let host = flight.request.url.authority();
        let Some(geometry) = geometry else {
            let error = OriginError::Malformed { host, reason: "the content is longer than 256 TiB".to_owned() };
            return self.fail_flight(want, &error);
        };
        let valid = match name {
            Some(_) => VALID_NAMED,
            None => resolved.max_age.map_or(VALID, |age| age.clamp(VALID, VALID_MAX)),
        };
        let about = About {
            task,
            geometry,
            key: flight.key,
            name,
            is_public: flight.request.is_public,
            valid_until: Instant::now() + valid,
            is_shared: name.is_some() || resolved.is_shared,
            has_ranges: resolved.is_range_ok,
            is_credentialed: flight.request.is_credentialed,
            direct: resolved.direct,
            url: flight.request.canonical.as_str().to_owned(),
            is_unversioned: matches!(version, Version::Nonce(_)),
            // Every registry has validators of its own for it.
            validators: if name.is_some() { resolved.validators().unpinned() } else { resolved.validators() },
        };
        if resolved.length.is_some() && !about.is_small() {
            flight.parked = Some(resolved.body);
            self.open(want, about).await;
        } else {
            self.spool_body(want, about, resolved.body);
        }
    }

    fn spool_body(&mut self, want: WantId, about: About, body: OpenBody) {
        let Some(flight) = self.flights.get(&want) else { return };
        let (keeper, source, limit) = (self.keeper.clone(), self.parts.blocks.clone(), flight.limit.clone());
        let internal = self.internal.clone();
        let work = self.spawn(async move {
            // A full queue only makes progress coarser.
            let tell = |bytes| drop(internal.try_send(Internal::Spooling { want, bytes }));
            let result = spool(&keeper, &source, body, &limit, tell).await;
            Internal::Spooled { want, about: Box::new(about), result }
        });
        if let Some(flight) = self.flights.get_mut(&want) {
            flight.stage = Stage::Spooling;
            flight.work = Some(work);
        }
    }

    pub(super) fn on_spooling(&mut self, want: WantId, bytes: u64) {
        let Some(flight) = self.flights.get(&want) else { return };
        for caller in flight.callers.iter().filter_map(|id| self.callers.get(id)) {
            tell(&caller.events, CallerEvent::Spooled { bytes });
        }
    }

    /// A caller went away; the last one takes the flight with it.
    pub(super) fn leave_flight(&mut self, want: WantId, caller: CallerId) {
        let Some(flight) = self.flights.get_mut(&want) else { return };
        flight.callers.retain(|id| *id != caller);
        if flight.callers.is_empty() {
            self.end_flight(want, false, 0, "nobody waits any longer");
        }
    }

    /// Ends a flight because of what its origin said.
    pub(super) fn fail_flight(&mut self, want: WantId, error: &OriginError) {
        let Some(flight) = self.flights.get(&want) else { return };
        let host = flight.request.url.authority();
        tracing::info!(%host, key = %TaskId(flight.key.0).short(), %error, "resolve failed");
        // Credentials are part of the key, so a refusal holds for everybody who asks with it; but not of a digest's.
        let is_final = flight.request.name.is_none() && matches!(error, OriginError::Refused { .. });
        self.drop_flight(want, &Failure::from(error), is_final, error.status());
    }

    pub(super) fn drop_flight(&mut self, want: WantId, failure: &Failure, is_final: bool, status: u16) {
        let callers = self.flights.get(&want).map(|flight| flight.callers.clone()).unwrap_or_default();
        for caller in callers {
            self.fail_caller(caller, failure);
        }
        self.end_flight(want, is_final, status, &failure.message);
    }

    fn end_flight(&mut self, want: WantId, is_final: bool, status: u16, text: &str) {
        let Some(flight) = self.flights.remove(&want) else { return };
        self.flights_by_key.remove(&flight.key);
        if flight.duty == Duty::Owed {
            let failure = ResolveFailure { is_final, status, text: text.to_owned() };
            self.say(Side::Cluster, Input::ResolveFailed { host: self.parts.host, want, failure });
        }
    }

    /// The soonest that a flight's patience ends.
    pub(super) fn next_due(&self) -> Instant {
        let dues = self.flights.values().filter_map(|flight| match flight.stage {
            Stage::Wanting(at) | Stage::Waiting(at) => Some(at),
            _ => None,
        });
        dues.min().unwrap_or_else(|| Instant::now() + Duration::from_secs(3600))
    }

    pub(super) async fn on_due(&mut self) {
        let now = Instant::now();
        let due = |stage| matches!(stage, Stage::Wanting(at) | Stage::Waiting(at) if at <= now);
        let wants: Vec<WantId> =
            self.flights.iter().filter(|(_, flight)| due(flight.stage)).map(|(want, _)| *want).collect();
        for want in wants {
            let Some(flight) = self.flights.get(&want) else { continue };
            let is_wait_over = flight.began.elapsed() >= WAIT_MAX;
            match flight.stage {
                Stage::Waiting(_) if !is_wait_over => self.want(want),
                // Silence: the get must not wait for a scheduler that is away.
                _ => self.resolve(want),
            }
        }
    }

    /// A resolver that is slow says so, or another host is asked.
    pub(super) fn tick_flights(&mut self) {
        let mut slow = Vec::new();
        for (want, flight) in &mut self.flights {
            if flight.duty == Duty::Owed && flight.said_resolving.elapsed() >= RESOLVING_EVERY {
                flight.said_resolving = Instant::now();
                slow.push(*want);
            }
        }
        for want in slow {
            self.say(Side::Cluster, Input::Resolving { host: self.parts.host, want });
        }
    }
}
