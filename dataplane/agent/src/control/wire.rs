//! A session's messages to and from protobuf. What the scheduler sends is checked here, field by field.

use std::time::Duration;

use hawker_api::field::{self, FieldError};
use hawker_api::scheduler::agent_message::Message as Up;
use hawker_api::scheduler::scheduler_message::Message as Down;
use hawker_api::scheduler::{self, AgentMessage, SchedulerMessage};
use hawker_proto::{Stripes, TaskId};
use hawker_scheduler::{
    Announcement, Input, LeaseOutcome, Neighbor, OriginId, Resolution, ResolveFailure, Source, TagFact, TagKey, ToHost,
    WantId, WantKey,
};

/// The message for `input`; `None` for what only a connection says (join, disconnect, tick).
pub(crate) fn encode(input: Input) -> Option<AgentMessage> {
    let message = match input {
        Input::Leave { .. } => Up::Goodbye(scheduler::Goodbye {}),
        Input::Want { want, key, origin, .. } => Up::Want(want_message(want, key, origin)),
        Input::Resolving { want, .. } => Up::Resolving(scheduler::Resolving { want: want.0 }),
        Input::Resolved { want, resolution, .. } => Up::Resolved(resolved(want, resolution)),
        Input::ResolveFailed { want, failure, .. } => Up::ResolveFailed(scheduler::ResolveFailed {
            want: want.0,
            is_final: failure.is_final,
            status: u32::from(failure.status),
            text: failure.text,
        }),
        Input::Announce { announcement, .. } => Up::Announce(announce(announcement)),
        Input::Progress { task, have_count, bytes_per_s, leases, .. } => Up::Progress(scheduler::Progress {
            task: task.0.to_vec(),
            have_count,
            bytes_per_s,
            leases: leases.into_iter().map(|(serial, upto)| scheduler::LeaseProgress { serial, upto }).collect(),
        }),
        Input::AskLease { task, bytes, bytes_per_s, source_bytes_per_s, lacked, .. } => {
            let (task, lacked_piece) = (task.0.to_vec(), lacked.map(|piece| piece.0));
            Up::AskLease(scheduler::AskLease { task, bytes, bytes_per_s, source_bytes_per_s, lacked_piece })
        }
        Input::LeaseDone { serial, upto, outcome, .. } => Up::LeaseDone(lease_done(serial, upto, outcome)),
        Input::Finished { task, .. } => Up::Finished(scheduler::Finished { task: task.0.to_vec() }),
        Input::Left { task, .. } => Up::Left(scheduler::Left { task: task.0.to_vec() }),
        Input::BadHost { host, task, .. } => {
            Up::BadHost(scheduler::BadHost { host: host.0.to_vec(), task: task.0.to_vec() })
        }
        Input::TagSeen { tag, fact, .. } => {
            let TagFact { digest, media_type, length, is_public, age } = fact;
            let age_ms = millis(age);
            let fact = Some(scheduler::TagFact { digest, media_type, length, is_public, age_ms });
            Up::TagSeen(scheduler::TagSeen { tag: tag.0.to_vec(), fact })
        }
        Input::AskTag { tag, .. } => Up::AskTag(scheduler::AskTag { tag: tag.0.to_vec() }),
        Input::Join(_) | Input::Disconnected { .. } | Input::Heartbeat { .. } | Input::Tick => return None,
    };
    Some(AgentMessage { message: Some(message) })
}

fn want_message(want: WantId, key: WantKey, origin: Option<OriginId>) -> scheduler::Want {
    let mut message = scheduler::Want { want: want.0, origin: bytes(origin.map(|id| id.0)), ..Default::default() };
    match key {
        WantKey::Resolve(key) => message.resolve_key = key.0.to_vec(),
        WantKey::Task(task) => message.task = task.0.to_vec(),
        WantKey::Digest(digest, key) => {
            message.digest = digest.to_string();
            message.resolve_key = bytes(key.map(|key| key.0));
        }
    }
    message
}

fn resolved(want: WantId, resolution: Resolution) -> scheduler::Resolved {
    scheduler::Resolved {
        want: want.0,
        task: resolution.task.0.to_vec(),
        geometry: Some(resolution.geometry.into()),
        validators: resolution.validators,
        valid_ms: millis(resolution.valid),
        is_shared: resolution.is_shared,
        has_ranges: resolution.has_ranges,
        digest: resolution.digest.map(|digest| digest.to_string()).unwrap_or_default(),
        arriving_bytes: resolution.arriving_bytes,
        inline: resolution.inline,
    }
}

fn announce(announcement: Announcement) -> scheduler::Announce {
    let is_complete = announcement.have.is_full();
    let Source { key, validators, valid } = announcement.source.unwrap_or(Source {
        key: hawker_proto::resolve::ResolveKey([0; 32]),
        validators: Vec::new(),
        valid: Duration::ZERO,
    });
    let has_source = key.0 != [0; 32];
    scheduler::Announce {
        task: announcement.task.0.to_vec(),
        geometry: Some(announcement.geometry.into()),
        have: if is_complete { Vec::new() } else { announcement.have.to_bytes() },
        is_complete,
        is_running: announcement.is_running,
        leases: announcement.leases.iter().map(|lease| lease.encode().to_vec()).collect(),
        origin: bytes(announcement.origin.map(|id| id.0)),
        has_ranges: announcement.has_ranges,
        resolve_key: bytes(has_source.then_some(key.0)),
        validators,
        valid_ms: millis(valid),
        digest: announcement.digest.map(|digest| digest.to_string()).unwrap_or_default(),
        is_shared: announcement.is_shared,
    }
}

fn lease_done(serial: u64, upto: u64, outcome: LeaseOutcome) -> scheduler::LeaseDone {
    let (outcome, retry_after) = match outcome {
        LeaseOutcome::Complete => (scheduler::LeaseOutcome::Complete, Duration::ZERO),
        LeaseOutcome::Returned => (scheduler::LeaseOutcome::Returned, Duration::ZERO),
        LeaseOutcome::Failed { retry_after } => (scheduler::LeaseOutcome::Failed, retry_after),
        LeaseOutcome::Refused => (scheduler::LeaseOutcome::Refused, Duration::ZERO),
        LeaseOutcome::Changed => (scheduler::LeaseOutcome::Changed, Duration::ZERO),
    };
    let retry_after_ms = u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX);
    scheduler::LeaseDone { serial, upto, outcome: outcome.into(), retry_after_ms }
}

/// What the scheduler said; `None` for a message of a newer version.
///
/// # Errors
/// The scheduler sent a field that means nothing.
pub(crate) fn decode(message: SchedulerMessage) -> Result<Option<ToHost>, FieldError> {
    let Some(message) = message.message else { return Ok(None) };
    Ok(Some(match message {
        Down::Ready(ready) => decode_ready(ready)?,
        Down::Resolve(resolve) => decode_resolve(resolve)?,
        Down::Wait(wait) => ToHost::Wait { want: WantId(wait.want), retry: ms(wait.retry_ms) },
        Down::WantFailed(failed) => ToHost::WantFailed {
            want: WantId(failed.want),
            failure: ResolveFailure {
                is_final: failed.retry_ms == 0,
                status: u16::try_from(failed.status).unwrap_or(0),
                text: failed.text,
            },
            retry: (failed.retry_ms > 0).then(|| ms(failed.retry_ms)),
        },
        Down::Neighbors(neighbors) => ToHost::Neighbors {
            task: field::task_id("task", &neighbors.task)?,
            add: decode_neighbors(&neighbors.add)?,
            remove: neighbors.remove.iter().map(|id| field::host_id("remove", id)).collect::<Result<_, _>>()?,
        },
        Down::Imports(imports) => ToHost::Imports {
            task: field::task_id("task", &imports.task)?,
            stripes: Stripes::from_bits(imports.stripes),
        },
        Down::Lease(lease) => {
            ToHost::Lease { lease: field::signed_lease("lease", &lease.lease)?, valid: ms(lease.valid_ms) }
        }
        Down::NoLease(answer) => ToHost::NoLease {
            task: field::task_id("task", &answer.task)?,
            retry: ms(answer.retry_ms),
            is_done: answer.is_done,
            is_changed: answer.is_changed,
        },
        Down::Allowance(allowance) => ToHost::Allowance {
            task: field::task_id("task", &allowance.task)?,
            allowance: field::signed_allowance("allowance", &allowance.allowance)?,
        },
        Down::Ban(ban) => ToHost::Ban { host: field::host_id("host", &ban.host)? },
        Down::Tag(tag) => ToHost::Tag {
            tag: TagKey(field::array("tag", &tag.tag)?),
            fact: tag.fact.map(|fact| {
                let scheduler::TagFact { digest, media_type, length, is_public, age_ms } = fact;
                TagFact { digest, media_type, length, is_public, age: Duration::from_millis(age_ms) }
            }),
        },
        Down::Report(report) => ToHost::Report { task: field::task_id("task", &report.task)? },
        // Handshake messages: not here.
        Down::Challenge(_) | Down::Welcome(_) => {
            return Err(FieldError { field: "message", expected: "something that may follow a welcome" });
        }
    }))
}

fn decode_ready(ready: scheduler::Ready) -> Result<ToHost, FieldError> {
    Ok(ToHost::Ready {
        want: WantId(ready.want),
        task: field::task_id("task", &ready.task)?,
        geometry: field::geometry("geometry", ready.geometry.as_ref())?,
        validators: ready.validators,
        neighbors: decode_neighbors(&ready.neighbors)?,
        has_ranges: ready.has_ranges,
        is_shared: ready.is_shared,
        inline: ready.inline,
    })
}

fn decode_resolve(resolve: scheduler::Resolve) -> Result<ToHost, FieldError> {
    let task = field::optional_array("task", &resolve.task)?.map(TaskId);
    Ok(ToHost::Resolve {
        want: WantId(resolve.want),
        upto: resolve.upto,
        valid: ms(resolve.valid_ms),
        previous: task.map(|task| (task, resolve.validators)),
    })
}

fn decode_neighbors(neighbors: &[scheduler::Neighbor]) -> Result<Vec<Neighbor>, FieldError> {
    let decode = |message| {
        let (id, address, is_remote) = field::neighbor(message)?;
        Ok(Neighbor { id, address, is_remote })
    };
    neighbors.iter().map(decode).collect()
}

fn bytes(id: Option<[u8; 32]>) -> Vec<u8> {
    id.map(|id| id.to_vec()).unwrap_or_default()
}

fn ms(millis: u32) -> Duration {
    Duration::from_millis(u64::from(millis))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawker_proto::{Geometry, PieceIndex, PieceMap};

    #[test]
    fn announcement_carries_bits_only_while_incomplete() {
        let geometry = Geometry::of_length(1 << 20).unwrap();
        let mut announcement = Announcement {
            task: TaskId([1; 32]),
            geometry,
            have: PieceMap::empty(geometry.piece_count()),
            is_running: true,
            leases: Vec::new(),
            origin: None,
            has_ranges: true,
            is_shared: true,
            source: None,
            digest: None,
        };
        announcement.have.insert(PieceIndex(2));
        let partial = announce(announcement.clone());
        assert_eq!((partial.have, partial.is_complete), (vec![4, 0], false));
        announcement.have = PieceMap::full(geometry.piece_count());
        let whole = announce(announcement);
        assert!(whole.have.is_empty() && whole.is_complete && whole.resolve_key.is_empty());
    }

    #[test]
    fn nonsense_from_a_scheduler_names_its_field() {
        let ready = scheduler::Ready { task: vec![1; 31], ..Default::default() };
        let error = decode(SchedulerMessage { message: Some(Down::Ready(ready)) }).unwrap_err();
        assert_eq!(error.field, "task");
        assert!(decode(SchedulerMessage { message: Some(Down::Welcome(Default::default())) }).is_err());
        assert_eq!(decode(SchedulerMessage { message: None }), Ok(None));
    }
}
