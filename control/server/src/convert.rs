//! Messages of the session to the cluster's inputs, and its outputs to messages.

use std::time::Duration;

use hawker_api::field::{self, FieldError};
use hawker_api::scheduler as api;
use hawker_api::scheduler::agent_message::Message as Said;
use hawker_api::scheduler::scheduler_message::Message as Told;
use hawker_proto::resolve::{Digest, ResolveKey};
use hawker_proto::{HostId, PieceIndex};
use hawker_scheduler::{
    Announcement, Input, LeaseOutcome, Neighbor, OriginId, Resolution, ResolveFailure, Source, TagFact, TagKey, ToHost,
    WantId, WantKey,
};

/// Leases one host names of one task.
const LEASES_MAX: usize = 64;

/// What `host` says. Whether it makes sense for the cluster as it is, is for the cluster to judge.
pub(crate) fn input_of(host: HostId, message: api::AgentMessage) -> Result<Input, FieldError> {
    // A message of a newer agent: it lives, and can do without an answer, for it agreed to speak this version.
    let Some(said) = message.message else { return Ok(Input::Heartbeat { host }) };
    Ok(match said {
        Said::Hello(_) => return Err(FieldError { field: "message", expected: "no second Hello" }),
        Said::Heartbeat(_) => Input::Heartbeat { host },
        Said::Want(want) => want_of(host, &want)?,
        Said::Resolving(resolving) => Input::Resolving { host, want: WantId(resolving.want) },
        Said::Resolved(resolved) => {
            Input::Resolved { host, want: WantId(resolved.want), resolution: resolution_of(resolved)? }
        }
        Said::ResolveFailed(failed) => {
            let status = u16::try_from(failed.status).unwrap_or(0);
            let failure = ResolveFailure { is_final: failed.is_final, status, text: failed.text };
            Input::ResolveFailed { host, want: WantId(failed.want), failure }
        }
        Said::Announce(announce) => Input::Announce { host, announcement: announcement_of(announce)? },
        Said::Progress(progress) => progress_of(host, &progress)?,
        Said::AskLease(ask) => {
            let task = field::task_id("task", &ask.task)?;
            let api::AskLease { bytes, bytes_per_s, source_bytes_per_s, lacked_piece, .. } = ask;
            let lacked = lacked_piece.map(PieceIndex);
            Input::AskLease { host, task, bytes, bytes_per_s, source_bytes_per_s, lacked }
        }
        Said::LeaseDone(done) => {
            Input::LeaseDone { host, serial: done.serial, upto: done.upto, outcome: outcome_of(&done)? }
        }
        Said::Finished(finished) => Input::Finished { host, task: field::task_id("task", &finished.task)? },
        Said::Left(left) => Input::Left { host, task: field::task_id("task", &left.task)? },
        Said::BadHost(bad) => Input::BadHost {
            reporter: host,
            host: field::host_id("host", &bad.host)?,
            task: field::task_id("task", &bad.task)?,
        },
        Said::TagSeen(seen) => Input::TagSeen { host, tag: tag_of(&seen.tag)?, fact: fact_of(seen.fact)? },
        Said::AskTag(ask) => Input::AskTag { host, tag: tag_of(&ask.tag)? },
        Said::Goodbye(_) => Input::Leave { host },
    })
}

fn want_of(host: HostId, want: &api::Want) -> Result<Input, FieldError> {
    let resolve = field::optional_array("resolve_key", &want.resolve_key)?.map(ResolveKey);
    let task = field::optional_array("task", &want.task)?;
    let digest = digest_of(&want.digest)?;
    let key = match (task, digest, resolve) {
        (Some(task), _, _) => WantKey::Task(hawker_proto::TaskId(task)),
        (None, Some(digest), resolve) => WantKey::Digest(digest, resolve),
        (None, None, Some(resolve)) => WantKey::Resolve(resolve),
        (None, None, None) => return Err(FieldError { field: "want", expected: "resolve_key, task or digest" }),
    };
    Ok(Input::Want { host, want: WantId(want.want), key, origin: origin_of(&want.origin)? })
}

fn resolution_of(resolved: api::Resolved) -> Result<Resolution, FieldError> {
    Ok(Resolution {
        task: field::task_id("task", &resolved.task)?,
        geometry: field::geometry("geometry", resolved.geometry.as_ref())?,
        validators: resolved.validators,
        valid: Duration::from_millis(resolved.valid_ms),
        is_shared: resolved.is_shared,
        has_ranges: resolved.has_ranges,
        digest: digest_of(&resolved.digest)?,
        arriving_bytes: resolved.arriving_bytes,
        inline: resolved.inline,
    })
}

fn announcement_of(announce: api::Announce) -> Result<Announcement, FieldError> {
    if announce.leases.len() > LEASES_MAX {
        return Err(FieldError { field: "leases", expected: "at most 64 leases" });
    }
    let geometry = field::geometry("geometry", announce.geometry.as_ref())?;
    let key = field::optional_array("resolve_key", &announce.resolve_key)?.map(ResolveKey);
    let leases = announce.leases.iter().map(|lease| field::signed_lease("leases", lease));
    Ok(Announcement {
        task: field::task_id("task", &announce.task)?,
        geometry,
        have: field::piece_map("have", geometry, &announce.have, announce.is_complete)?,
        is_running: announce.is_running,
        leases: leases.collect::<Result<_, _>>()?,
        origin: origin_of(&announce.origin)?,
        has_ranges: announce.has_ranges,
        is_shared: announce.is_shared,
        source: key.map(|key| Source {
            key,
            validators: announce.validators,
            valid: Duration::from_millis(announce.valid_ms),
        }),
        digest: digest_of(&announce.digest)?,
    })
}

fn progress_of(host: HostId, progress: &api::Progress) -> Result<Input, FieldError> {
    Ok(Input::Progress {
        host,
        task: field::task_id("task", &progress.task)?,
        have_count: progress.have_count,
        bytes_per_s: progress.bytes_per_s,
        leases: progress.leases.iter().take(LEASES_MAX).map(|lease| (lease.serial, lease.upto)).collect(),
    })
}

fn outcome_of(done: &api::LeaseDone) -> Result<LeaseOutcome, FieldError> {
    use api::LeaseOutcome as Outcome;
    // Of a newer agent: what it did not get is looked for at its peers before it leaves the origin again.
    let outcome = Outcome::try_from(done.outcome).unwrap_or(Outcome::Returned);
    match outcome {
        Outcome::Unspecified => Err(FieldError { field: "outcome", expected: "how the lease ended" }),
        Outcome::Complete => Ok(LeaseOutcome::Complete),
        Outcome::Returned => Ok(LeaseOutcome::Returned),
        Outcome::Failed => Ok(LeaseOutcome::Failed { retry_after: Duration::from_millis(done.retry_after_ms.into()) }),
        Outcome::Refused => Ok(LeaseOutcome::Refused),
        Outcome::Changed => Ok(LeaseOutcome::Changed),
    }
}

fn digest_of(text: &str) -> Result<Option<Digest>, FieldError> {
    if text.is_empty() {
        return Ok(None);
    }
    let expected = "sha256:hex, sha512:hex or blake3:hex";
    text.parse().map(Some).map_err(|_| FieldError { field: "digest", expected })
}

fn tag_of(bytes: &[u8]) -> Result<TagKey, FieldError> {
    Ok(TagKey(field::array("tag", bytes)?))
}

fn fact_of(fact: Option<api::TagFact>) -> Result<TagFact, FieldError> {
    let fact = fact.ok_or(FieldError { field: "fact", expected: "what the tag stands for" })?;
    let api::TagFact { digest, media_type, length, is_public, age_ms } = fact;
    Ok(TagFact { digest, media_type, length, is_public, age: Duration::from_millis(age_ms) })
}

fn origin_of(bytes: &[u8]) -> Result<Option<OriginId>, FieldError> {
    Ok(field::optional_array("origin", bytes)?.map(OriginId))
}

/// What the cluster tells an agent.
pub(crate) fn message_of(message: ToHost) -> api::SchedulerMessage {
    let told = match message {
        ToHost::Ready { want, task, geometry, validators, neighbors, has_ranges, is_shared, inline } => {
            Told::Ready(api::Ready {
                want: want.0,
                task: task.0.to_vec(),
                geometry: Some(geometry.into()),
                validators,
                neighbors: neighbors.iter().map(neighbor_of).collect(),
                has_ranges,
                is_shared,
                inline,
            })
        }
        ToHost::Resolve { want, upto, valid, previous } => {
            let (task, validators) = previous.map_or((Vec::new(), Vec::new()), |(task, old)| (task.0.to_vec(), old));
            Told::Resolve(api::Resolve { want: want.0, upto, valid_ms: millis(valid), validators, task })
        }
        ToHost::Wait { want, retry } => Told::Wait(api::Wait { want: want.0, retry_ms: millis(retry) }),
        ToHost::WantFailed { want, failure, retry } => Told::WantFailed(api::WantFailed {
            want: want.0,
            status: failure.status.into(),
            text: failure.text,
            // 0 means never.
            retry_ms: retry.map_or(0, |retry| millis(retry).max(1)),
        }),
        ToHost::Neighbors { task, add, remove } => Told::Neighbors(api::Neighbors {
            task: task.0.to_vec(),
            add: add.iter().map(neighbor_of).collect(),
            remove: remove.iter().map(|host| host.0.to_vec()).collect(),
        }),
        ToHost::Imports { task, stripes } => {
            Told::Imports(api::Imports { task: task.0.to_vec(), stripes: stripes.bits() })
        }
        ToHost::Lease { lease, valid } => {
            Told::Lease(api::Lease { lease: lease.encode().to_vec(), valid_ms: millis(valid) })
        }
        ToHost::NoLease { task, retry, is_done, is_changed } => {
            Told::NoLease(api::NoLease { task: task.0.to_vec(), retry_ms: millis(retry), is_done, is_changed })
        }
        ToHost::Allowance { task, allowance } => {
            Told::Allowance(api::Allowance { task: task.0.to_vec(), allowance: allowance.encode().to_vec() })
        }
        ToHost::Ban { host } => Told::Ban(api::Ban { host: host.0.to_vec() }),
        ToHost::Tag { tag, fact } => Told::Tag(api::Tag {
            tag: tag.0.to_vec(),
            fact: fact.map(|TagFact { digest, media_type, length, is_public, age }| api::TagFact {
                digest,
                media_type,
                length,
                is_public,
                age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
            }),
        }),
        ToHost::Report { task } => Told::Report(api::Report { task: task.0.to_vec() }),
    };
    api::SchedulerMessage { message: Some(told) }
}

fn neighbor_of(neighbor: &Neighbor) -> api::Neighbor {
    (neighbor.id, neighbor.address, neighbor.is_remote).into()
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: HostId = HostId([1; 32]);

    fn input(said: Said) -> Result<Input, FieldError> {
        input_of(HOST, api::AgentMessage { message: Some(said) })
    }

    #[test]
    fn message_of_a_newer_agent_is_a_sign_of_life_and_nonsense_is_refused() {
        let newer = input_of(HOST, api::AgentMessage { message: None });
        assert_eq!(newer, Ok(Input::Heartbeat { host: HOST }));
        assert!(input(Said::Hello(api::Hello::default())).is_err());
        assert!(input(Said::Want(api::Want::default())).is_err());
        assert!(input(Said::LeaseDone(api::LeaseDone::default())).is_err());
        assert!(input(Said::Announce(api::Announce::default())).is_err());
        assert!(input(Said::Resolved(api::Resolved::default())).is_err());
        let digest = api::Want { digest: "md5:0".into(), ..api::Want::default() };
        assert_eq!(input(Said::Want(digest)).unwrap_err().field, "digest");
    }

    #[test]
    fn want_by_name_goes_before_digest_and_key() {
        let mut want = api::Want {
            want: 3,
            resolve_key: vec![2; 32],
            task: vec![4; 32],
            digest: String::new(),
            origin: vec![5; 32],
        };
        let key_of = |want: &api::Want| match input(Said::Want(want.clone())).unwrap() {
            Input::Want { key, .. } => key,
            other => panic!("{other:?}"),
        };
        assert_eq!(key_of(&want), WantKey::Task(hawker_proto::TaskId([4; 32])));
        want.task.clear();
        assert_eq!(key_of(&want), WantKey::Resolve(ResolveKey([2; 32])));
        want.digest = format!("blake3:{}", "00".repeat(32));
        assert_eq!(key_of(&want), WantKey::Digest(Digest::Blake3([0; 32]), Some(ResolveKey([2; 32]))));
    }
}
