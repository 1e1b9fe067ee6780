//! The end of a flight: credentials checked, room made, callers handed to the task.

use std::sync::Arc;

use hawker_proto::{Geometry, TaskId};
use hawker_scheduler::{Input, Resolution as Learned, WantId};
use hawker_storage::{CreateError, WriteMode};
use tokio::time::Instant;

use super::about::About;
use super::flight::{Duty, Flight, Stage};
use super::named::{digest_of_bytes, mismatch};
use super::running::{Running, State};
use super::{Director, Internal, LATE_WANTS_MAX, Place};
use crate::config::WriteChoice;
use crate::control::caller::{CallerId, Failure};
use crate::control::link::Side;
use crate::control::origin::{Condition, OriginError, Spooled, check_access};
use crate::seam::ShardCommand;
use crate::share::SharedTask;

impl Director {
    /// Another host resolved, or resolves no more: what the scheduler answered leads to `about`.
    pub(super) async fn check_then_open(&mut self, want: WantId, about: About) {
        let Some(flight) = self.flights.get(&want) else { return };
        if flight.is_proven {
            return self.open(want, about).await;
        }
        let request = &flight.request;
        let ask = request.ask(None, Condition::Any);
        let client = self.parts.client.clone();
        let work = self.spawn(async move {
            let result = check_access(&client, ask).await;
            Internal::FlightChecked { want, about: Box::new(about), result }
        });
        self.set_work(want, Stage::Checking, work);
    }

    pub(super) async fn on_flight_checked(&mut self, want: WantId, about: About, result: Result<(), OriginError>) {
        match result {
            Ok(()) => {
                if let Some(flight) = self.flights.get_mut(&want) {
                    flight.is_proven = true;
                }
                self.open(want, about).await;
            }
            Err(error) => self.fail_flight(want, &error),
        }
    }

    pub(super) async fn on_spooled(&mut self, want: WantId, about: About, result: Result<Spooled, OriginError>) {
        if !self.flights.contains_key(&want) {
            return;
        }
        let spooled = match result {
            Ok(spooled) => spooled,
            Err(error) => return self.fail_flight(want, &error),
        };
        let geometry = match about.name.filter(|_| about.is_small()) {
            Some(name) if spooled.bytes.len() as u64 == about.geometry.length() => {
                let found = digest_of_bytes(&spooled.bytes, &name);
                if found != name {
                    return self.drop_flight(want, &mismatch(&found, &name), false, 0);
                }
                about.geometry
            }
            Some(_) => {
                let host = about.url.clone();
                let reason = "the body is not as long as its head says".to_owned();
                return self.fail_flight(want, &OriginError::Malformed { host, reason });
            }
            None => {
                let Some(geometry) = Geometry::of_stream(spooled.length) else { return };
                geometry
            }
        };
        let about = About { geometry, ..about };
        if let Some(flight) = self.flights.get_mut(&want).filter(|_| about.is_small()) {
            flight.inline.clone_from(&spooled.bytes);
        }
        // All of it is here: the lease that comes back proves it to others.
        self.tell_resolved(want, &about, geometry.length());
        let (keeper, values) = (self.keeper.clone(), spooled.values.clone());
        let work = self.spawn(async move {
            let meta = about.meta();
            let (task, geometry) = (about.task, about.geometry);
            let result = match spooled.into_spool() {
                Some(spool) => keeper.adopt(spool, task, geometry, meta.clone(), &values).await,
                None => Err(CreateError::Closed),
            };
            // The same content may have come by another way meanwhile.
            let result = match result {
                Err(CreateError::Exists) => keeper.open(task).await.ok_or(CreateError::Closed),
                other => other,
            };
            Internal::Opened { want, about: Box::new(about), result }
        });
        self.set_work(want, Stage::Opening, work);
    }

    /// Makes room for the task that a flight leads to, or joins it when it is open.
    pub(super) async fn open(&mut self, want: WantId, about: About) {
        self.tell_resolved(want, &about, self.arriving_bytes(want, &about));
        if let Some(running) = self.tasks.get_mut(&about.task) {
            running.refresh(&about);
            let shared = Arc::clone(running.shared());
            return self.land(want, about, shared).await;
        }
        let keeper = self.keeper.clone();
        let write = self.write_mode(about.geometry);
        let work = self.spawn(async move {
            let result = keeper.create(about.task, about.geometry, about.meta(), write).await;
            let result = match result {
                Err(CreateError::Exists) => keeper.open(about.task).await.ok_or(CreateError::Closed),
                other => other,
            };
            Internal::Opened { want, about: Box::new(about), result }
        });
        self.set_work(want, Stage::Opening, work);
    }

    pub(super) async fn on_opened(&mut self, want: WantId, about: About, result: Result<Arc<SharedTask>, CreateError>) {
        if !self.flights.contains_key(&want) {
            return;
        }
        match result {
            Ok(shared) => self.land(want, about, shared).await,
            Err(error) => self.drop_flight(want, &create_failure(&error), false, 0),
        }
    }

    /// What the body brings that a flight's resolve left open.
    fn arriving_bytes(&self, want: WantId, about: &About) -> u64 {
        let parked = self.flights.get(&want).and_then(|flight| flight.parked.as_ref());
        parked.map_or(0, |body| body.arriving_bytes(about.geometry.length()))
    }

    /// The flight has a task: registers it, starts what is missing, hands the callers over.
    async fn land(&mut self, want: WantId, about: About, shared: Arc<SharedTask>) {
        // The scheduler may have asked while the store made room. A download that runs under its leases and that it was
        // not told of would be refused them for ever.
        self.tell_resolved(want, &about, self.arriving_bytes(want, &about));
        let Some(mut flight) = self.flights.remove(&want) else { return };
        self.flights_by_key.remove(&flight.key);
        let task = about.task;
        let side = self.side_of(&flight, &about);
        if flight.duty == Duty::None
            && flight.ready.is_none()
            && self.is_connected()
            && self.late.len() < LATE_WANTS_MAX
        {
            self.late.insert(want, task);
        }
        let parked = flight.parked.take();
        let neighbors = flight.ready.take().filter(|(named, _)| *named == task).map(|(_, neighbors)| neighbors);
        self.tasks_by_key.insert(flight.key, task);
        if let Some(running) = self.tasks.get_mut(&task) {
            running.offer(&flight.request, parked);
        } else {
            let running = Running::new(shared, about, side, &flight.request, parked);
            self.tasks.insert(task, running);
            self.share(task).await;
        }
        self.begin(task, side).await;
        if let Some(neighbors) = neighbors {
            self.on_neighbors(task, neighbors, Vec::new()).await;
        }
        let prover = Some(flight.prover).filter(|_| flight.is_proven);
        for caller in std::mem::take(&mut flight.callers) {
            // The flight carried this caller's credentials, nobody else's.
            if let Some(waiting) = self.callers.get_mut(&caller).filter(|_| prover == Some(caller)) {
                waiting.is_proven = true;
            }
            self.attach(caller, task).await;
        }
    }

    /// Whose leases the task runs under.
    fn side_of(&self, flight: &Flight, about: &About) -> Side {
        let is_known = flight.duty != Duty::None || flight.ready.as_ref().is_some_and(|(task, _)| *task == about.task);
        if self.is_connected() && about.is_shared && is_known { Side::Cluster } else { Side::Own }
    }

    /// Tells the scheduler what this host learned for it, once it has asked.
    fn tell_resolved(&mut self, want: WantId, about: &About, arriving_bytes: u64) {
        if let Some(flight) = self.flights.get_mut(&want).filter(|flight| flight.duty == Duty::Owed) {
            flight.duty = Duty::Done;
            let inline = std::mem::take(&mut flight.inline);
            let resolution = Learned { inline, ..learned(about, arriving_bytes) };
            self.say(Side::Cluster, Input::Resolved { host: self.parts.host, want, resolution });
        }
    }

    /// A caller's content has a task. Credentials of its own are checked before it sees a byte.
    pub(super) async fn attach(&mut self, id: CallerId, task: TaskId) {
        self.mend(task).await;
        let Some(caller) = self.callers.get_mut(&id) else { return };
        caller.place = Place::Task(task);
        let Some(running) = self.tasks.get_mut(&task) else { return };
        running.add_caller(id);
        if caller.is_proven {
            return self.welcome(id, task).await;
        }
        let request = &caller.request;
        let ask = request.ask(None, Condition::Any);
        let client = self.parts.client.clone();
        self.spawn(async move {
            let result = check_access(&client, ask).await;
            Internal::CallerChecked { caller: id, task, result }
        });
    }

    pub(super) async fn on_caller_checked(&mut self, id: CallerId, task: TaskId, result: Result<(), OriginError>) {
        match result {
            Ok(()) => {
                if let Some(caller) = self.callers.get_mut(&id) {
                    caller.is_proven = true;
                }
                self.lend(id, task).await;
                self.welcome(id, task).await;
            }
            Err(error) => {
                self.fail_caller(id, &Failure::from(&error));
                self.leave_task(task, id).await;
            }
        }
    }

    /// The download's own credentials are not good any more, and those of a caller that came later are.
    pub(super) async fn lend(&mut self, id: CallerId, task: TaskId) {
        let Some(caller) = self.callers.get(&id) else { return };
        let is_refused = |running: &&mut Running| running.is_refused && running.state == State::Downloading;
        let Some(running) = self.tasks.get_mut(&task).filter(is_refused) else { return };
        running.renew(&caller.request);
        let command = ShardCommand::StartDownload {
            task: Arc::clone(running.shared()),
            origin: Some(running.origin_spec()),
            is_alone: running.side == Side::Own,
        };
        // The scheduler leases nothing to who was refused, until it hears of it again.
        self.announce(task);
        self.tell_shard(task, command).await;
    }

    fn write_mode(&self, geometry: Geometry) -> WriteMode {
        match self.parts.write {
            WriteChoice::Direct => WriteMode::Direct,
            WriteChoice::Buffered => WriteMode::Buffered,
            WriteChoice::Auto => {
                let is_large = free_memory().is_some_and(|free| geometry.length() > free / 4);
                if is_large || !self.parts.has_peers { WriteMode::Direct } else { WriteMode::Buffered }
            }
        }
    }

    pub(super) fn set_work(&mut self, want: WantId, stage: Stage, work: tokio::task::AbortHandle) {
        if let Some(flight) = self.flights.get_mut(&want) {
            flight.begin_work(stage, work);
        }
    }
}

/// The resolve's result in the scheduler's words.
pub(super) fn learned(about: &About, arriving_bytes: u64) -> Learned {
    Learned {
        task: about.task,
        geometry: about.geometry,
        validators: about.validators.encode(),
        valid: about.valid_until.saturating_duration_since(Instant::now()),
        is_shared: about.is_shared,
        has_ranges: about.has_ranges,
        digest: about.name,
        arriving_bytes,
        inline: Vec::new(),
    }
}

fn create_failure(error: &CreateError) -> Failure {
    match error {
        CreateError::OverLimit { .. } | CreateError::DiskFull { .. } => Failure::disk_full(error.to_string()),
        CreateError::Disk(io) => Failure::disk(error.to_string(), io.raw_os_error()),
        _ => Failure::disk(error.to_string(), None),
    }
}

/// Bytes that programs can have without swapping; `None` where /proc is not mounted.
fn free_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
