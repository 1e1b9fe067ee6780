//! Content that goes by its digest.

use hawker_proto::hash::{block_values, root_of_bytes};
use hawker_proto::resolve::{Digest, DigestHasher, task_id_of_digest};

use super::*;
use crate::control::caller::code;
use crate::control::director::hashing::Follower;

fn sha256(bytes: &[u8]) -> Digest {
    let mut hasher = DigestHasher::like(&Digest::Sha256([0; 32]));
    hasher.update(bytes);
    hasher.finish()
}

fn blob(url: &str, token: &str, digest: Digest) -> GetRequest {
    GetRequest::of_blob(url, vec![("authorization".to_owned(), token.to_owned())], digest).unwrap()
}

const BLOB: &str = "/v2/a/blobs/x";

/// A download of a megabyte by its digest that goes by the cluster.
struct Begun {
    origin: Origin,
    task: Arc<SharedTask>,
    bytes: Vec<u8>,
    digest: Digest,
    events: mpsc::Receiver<CallerEvent>,
}

impl World {
    async fn begin(&mut self) -> Begun {
        self.connect().await;
        let bytes = content(usize::try_from(MIB).unwrap());
        let digest = sha256(&bytes);
        let origin = origin_of(MIB).await;
        let events = self.ask(blob(&origin.url(BLOB), "Bearer one", digest)).await;
        let (want, _) = self.named_want().await;
        self.answer(self.ready(want, task_id_of_digest(Some(MIB), &digest), MIB)).await;
        let (task, is_alone) = self.started().await;
        assert!(!is_alone);
        Begun { origin, task, bytes, digest, events }
    }

    async fn named_want(&mut self) -> (WantId, Digest) {
        match self.said().await {
            Input::Want { want, key: WantKey::Digest(digest, Some(_)), origin: Some(_), .. } => (want, digest),
            other => panic!("{other:?}"),
        }
    }

    /// Plays the shard: `bytes` came, whatever they are.
    async fn complete(&self, task: &SharedTask, bytes: &[u8]) {
        for piece in (0..task.geometry().piece_count()).map(PieceIndex) {
            store(task, bytes, piece);
        }
        let event = ShardEvent::Complete { task: task.id(), root: root_of_bytes(bytes) };
        self.shard_events.send(event).await.unwrap();
    }
}

/// Plays the shard: a piece of `bytes` came.
fn store(task: &SharedTask, bytes: &[u8], piece: PieceIndex) {
    let (file, geometry) = (task.file(), task.geometry());
    let range = geometry.piece_range(piece);
    let slice = &bytes[usize::try_from(range.start()).unwrap()..usize::try_from(range.end()).unwrap()];
    blocking::write_at(file.content(), slice, range.start()).unwrap();
    file.put_record(piece, &block_values(geometry, range.start(), slice)).unwrap();
    file.mark_received(piece);
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
    let Begun { origin, task, bytes, digest, events } = world.begin().await;
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

    let events = world.ask(blob(&origin.url(BLOB), "Bearer one", digest)).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn content_is_hashed_in_whatever_order_it_arrives() {
    let mut world = World::new();
    let Begun { task, bytes, digest, .. } = world.begin().await;
    let (changed, hashers) = (watch::Sender::new(0), Arc::new(Semaphore::new(1)));
    let follow = || Follower::start(Arc::clone(&task), digest, changed.subscribe(), Arc::clone(&hashers));
    let follower = follow();
    let pieces = task.geometry().piece_count();
    for piece in (1..pieces).rev().chain([0]).map(PieceIndex) {
        store(&task, &bytes, piece);
        changed.send_modify(|count| *count += 1);
    }
    assert_eq!(timeout(HANG, follower.digest()).await.expect("an end").unwrap(), digest);
    // What was lost is not waited for when all had come, nor when the download ends.
    task.file().clear_piece(PieceIndex(pieces - 1));
    assert!(timeout(HANG, follow().digest()).await.expect("an end").is_err());
    let given_up = follow();
    drop(changed);
    assert!(timeout(HANG, given_up.digest()).await.expect("an end").is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn piece_that_rotted_after_it_was_hashed_and_came_again_is_no_mismatch() {
    let mut world = World::new();
    let Begun { task, bytes, events, .. } = world.begin().await;
    // Whoever hashes holds the task until all of it is hashed.
    let holders = Arc::strong_count(&task);
    for piece in (1..task.geometry().piece_count()).map(PieceIndex) {
        store(&task, &bytes, piece);
    }
    let first = usize::try_from(task.geometry().piece_range(PieceIndex(0)).end()).unwrap();
    let values = block_values(task.geometry(), 0, &bytes[..first]);
    task.file().put_record(PieceIndex(0), &values).unwrap();
    blocking::write_at(task.file().content(), &vec![!bytes[0]; first], 0).unwrap();
    task.file().mark_received(PieceIndex(0));
    world.shard_events.send(ShardEvent::Advanced { task: task.id() }).await.unwrap();
    timeout(HANG, async {
        while Arc::strong_count(&task) >= holders {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("it is hashed as it arrives");
    task.file().clear_piece(PieceIndex(0));
    store(&task, &bytes, PieceIndex(0));
    let event = ShardEvent::Complete { task: task.id(), root: root_of_bytes(&bytes) };
    world.shard_events.send(event).await.unwrap();
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
