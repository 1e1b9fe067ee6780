//! Content that goes by its digest.

use hawker_proto::hash::{block_values, root_of_bytes};
use hawker_proto::resolve::{Digest, DigestHasher, task_id_of_digest};

use super::*;
use crate::control::caller::code;

fn sha256(bytes: &[u8]) -> Digest {
    let mut hasher = DigestHasher::like(&Digest::Sha256([0; 32]));
    hasher.update(bytes);
    hasher.finish()
}

fn blob(url: &str, token: &str, digest: Digest) -> GetRequest {
    GetRequest::of_blob(url, vec![("authorization".to_owned(), token.to_owned())], digest).unwrap()
}

impl World {
    async fn named_want(&mut self) -> (WantId, Digest) {
        match self.said().await {
            Input::Want { want, key: WantKey::Digest(digest, Some(_)), origin: Some(_), .. } => (want, digest),
            other => panic!("{other:?}"),
        }
    }

    /// Plays the shard: `bytes` came, whatever they are.
    async fn complete(&self, task: &SharedTask, bytes: &[u8]) {
        let (file, geometry) = (task.file(), task.geometry());
        blocking::write_at(file.content(), bytes, 0).unwrap();
        for piece in (0..geometry.piece_count()).map(PieceIndex) {
            let range = geometry.piece_range(piece);
            let (start, end) = (range.start(), range.end());
            let slice = &bytes[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()];
            file.put_record(piece, &block_values(geometry, start, slice)).unwrap();
            file.mark_received(piece);
        }
        let event = ShardEvent::Complete { task: task.id(), root: root_of_bytes(bytes) };
        self.shard_events.send(event).await.unwrap();
    }
}

async fn last(mut events: mpsc::Receiver<CallerEvent>) -> CallerEvent {
    loop {
        match timeout(HANG, events.recv()).await.expect("an end").expect("an end") {
            CallerEvent::Opened(_) => {}
            end => return end,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_blob_from_two_registries_is_one_task_that_outlives_both() {
    let mut world = World::new();
    world.connect().await;
    let bytes = content(usize::try_from(MIB).unwrap());
    let digest = sha256(&bytes);
    let origin = origin_of(MIB).await;
    let first = world.ask(blob(&origin.url("/v2/a/blobs/x"), "Bearer one", digest)).await;
    let (want, named) = world.named_want().await;
    assert_eq!(named, digest);
    world.answer(ToHost::Resolve { want, upto: 4 * MIB, valid: Duration::from_secs(5), previous: None }).await;
    let Input::Resolved { resolution, .. } = world.said().await else { panic!("the resolver answers") };
    assert_eq!(resolution.task, task_id_of_digest(Some(MIB), &digest));
    assert_eq!(resolution.digest, Some(digest));
    assert!(resolution.is_shared && resolution.valid > Duration::from_secs(3600));
    let no_pins = crate::control::validators::ValidatorSet::decode(&resolution.validators);
    assert!(no_pins.is_empty() && no_pins.media_type.is_some(), "another registry has other validators: {no_pins:?}");
    let (task, is_alone) = world.started().await;
    assert!(!is_alone);
    let second = world.ask(blob("http://other.example/v2/b/blobs/x", "Bearer two", digest)).await;
    world.complete(&task, &bytes).await;
    for events in [first, second] {
        assert!(matches!(last(events).await, CallerEvent::Done { .. }));
    }
    assert_eq!(origin.requests().len(), 1);
    // Neither the scheduler nor a registry is asked for what is here.
    world.links.send(LinkEvent::Down).await.unwrap();
    let third = world.ask(blob("http://127.0.0.1:1/v2/c/blobs/x", "Bearer three", digest)).await;
    assert!(matches!(last(third).await, CallerEvent::Done { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn task_that_cannot_be_the_named_content_is_not_taken() {
    let mut world = World::new();
    world.connect().await;
    let digest = sha256(&content(usize::try_from(MIB).unwrap()));
    let origin = origin_of(MIB).await;
    let _events = world.ask(blob(&origin.url("/v2/a/blobs/x"), "Bearer one", digest)).await;
    let (want, _) = world.named_want().await;
    world.answer(world.ready(want, TaskId([9; 32]), MIB)).await;
    let (task, is_alone) = world.started().await;
    assert_eq!((task.id(), is_alone), (task_id_of_digest(Some(MIB), &digest), true));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_content_is_dropped_and_then_fetched_without_others() {
    let mut world = World::new();
    world.connect().await;
    let bytes = content(usize::try_from(MIB).unwrap());
    let digest = sha256(&bytes);
    let origin = origin_of(MIB).await;
    let url = origin.url("/v2/a/blobs/x");
    let events = world.ask(blob(&url, "Bearer one", digest)).await;
    let (want, _) = world.named_want().await;
    world.answer(world.ready(want, task_id_of_digest(Some(MIB), &digest), MIB)).await;
    let (task, is_alone) = world.started().await;
    assert!(!is_alone);
    // Every piece is vouched for, by a host that lies.
    let mut wrong = bytes.clone();
    wrong[7] ^= 1;
    world.complete(&task, &wrong).await;
    let CallerEvent::Failed(failure) = last(events).await else { panic!("wrong bytes were taken") };
    assert_eq!(failure.code, code::DIGEST_MISMATCH);
    assert!(failure.message.contains(&digest.to_string()), "{failure:?}");
    drop(task);
    let is_left = |input: &Input| matches!(input, Input::Left { .. });
    while !is_left(&world.said().await) {}

    let events = world.ask(blob(&url, "Bearer one", digest)).await;
    // Behind what was said to the first download.
    let (task, is_alone) = loop {
        if let ShardCommand::StartDownload { task, is_alone, .. } = world.command().await {
            break (task, is_alone);
        }
    };
    assert!(is_alone && task.file().received().is_empty(), "nothing of it is kept");
    world.complete(&task, &bytes).await;
    assert!(matches!(last(events).await, CallerEvent::Done { .. }));
}

fn small(url: &str, digest: Digest) -> GetRequest {
    GetRequest { is_public: true, ..GetRequest::of_blob(url, Vec::new(), digest).unwrap() }
}

/// The content of a task that was handed out whole.
fn read(task: &SharedTask) -> Vec<u8> {
    assert!(task.file().received().is_full());
    blocking::read_at(task.file().content(), usize::try_from(task.geometry().length()).unwrap(), 0).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn small_public_content_leaves_its_registry_once_and_rides_with_the_answers() {
    let mut world = World::new();
    world.connect().await;
    let bytes = content(10_000);
    let digest = sha256(&bytes);
    let origin = origin_of(10_000).await;
    let _events = world.ask(small(&origin.url("/v2/a/manifests/x"), digest)).await;
    let (want, _) = world.named_want().await;
    world.answer(ToHost::Resolve { want, upto: 4 * MIB, valid: Duration::from_secs(5), previous: None }).await;
    let Input::Resolved { resolution, .. } = world.said().await else { panic!("the resolver answers") };
    assert_eq!((resolution.inline.as_slice(), resolution.arriving_bytes), (bytes.as_slice(), 10_000));
    let (task, _) = world.started().await;
    assert_eq!(read(&task), bytes);
    assert_eq!(origin.requests().len(), 1);

    let mut other = World::new();
    other.connect().await;
    let mut events = other.ask(small("http://127.0.0.1:1/v2/a/manifests/x", digest)).await;
    let (want, _) = other.named_want().await;
    let mut ready = other.ready(want, resolution.task, 10_000);
    let ToHost::Ready { inline, neighbors, .. } = &mut ready else { unreachable!() };
    (*inline, *neighbors) = (resolution.inline, Vec::new());
    other.answer(ready).await;
    let opened = timeout(HANG, events.recv()).await.unwrap();
    let Some(CallerEvent::Opened(opened)) = opened else { panic!("{opened:?}") };
    assert_eq!(read(&opened.task), bytes);
    assert!(matches!(other.said().await, Input::Left { .. }), "it proves nothing to others");
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_a_scheduler_got_wrong_is_fetched() {
    let mut world = World::new();
    world.connect().await;
    let bytes = content(10_000);
    let digest = sha256(&bytes);
    let origin = origin_of(10_000).await;
    let _events = world.ask(small(&origin.url("/v2/a/manifests/x"), digest)).await;
    let (want, _) = world.named_want().await;
    let mut ready = world.ready(want, task_id_of_digest(Some(10_000), &digest), 10_000);
    let ToHost::Ready { inline, .. } = &mut ready else { unreachable!() };
    *inline = vec![0; 10_000];
    world.answer(ready).await;
    let (task, is_alone) = world.started().await;
    assert!(is_alone);
    assert_eq!((read(&task), origin.requests().len()), (bytes, 1));
}
