//! Contents: tasks that arrive, rot, fail, and are read slowly or not at all.

use super::*;
use crate::seam::KeeperRequest;

#[test]
fn content_is_sent_while_it_arrives() {
    on_both_engines(Rates::default(), |mut plane| async move {
        let bytes = content((5 << 20) + 77);
        let task = empty_task(&plane, &bytes).await;
        let geometry = task.geometry();
        let (mut whole, mut part) = (Client::connect(&plane).await, Client::connect(&plane).await);
        let from = size(geometry.piece_range(PieceIndex(1)).start()) + 1000;
        let cases = [(&mut whole, String::new(), 0), (&mut part, format!("Range: bytes={from}-\r\n"), from)];
        let mut sending = Vec::new();
        let mut clients = Vec::new();
        for (client, fields, start) in cases {
            client.get("/blob", &fields).await;
            let exchange = asked(&mut plane).await;
            let reply = selected(&exchange, bytes.len(), "\"1\"");
            sending.push(exchange.reply_task(reply, Arc::clone(&task)).await);
            clients.push((client, start));
        }
        for (client, start) in &mut clients {
            // At once: the client knows what it gets before any of it is here.
            let head = client.head().await;
            assert_eq!(head.status, if *start == 0 { 200 } else { 206 });
            assert_eq!(head.length(), bytes.len() - *start);
            assert!(is_silent(client).await);
        }
        for piece in 0..geometry.piece_count() {
            store(&plane.shards.handles, &task, &bytes, piece).await;
            let range = geometry.piece_range(PieceIndex(piece));
            for (client, start) in &mut clients {
                let (first, end) = (size(range.start()).max(*start), size(range.end()));
                if end <= *start {
                    continue;
                }
                assert!(client.bytes(end - first).await == bytes[first..end], "piece {piece} from {start}");
            }
        }
        for (mut sending, (_, start)) in sending.into_iter().zip(clients) {
            let sent = timeout(HANG, sending.sent()).await.expect("sent");
            assert_eq!((sent.content_bytes, sent.is_complete), ((bytes.len() - start) as u64, true));
        }
        assert!(!task.file().is_pinned(), "the answer is over");
        plane
    });
}

#[test]
fn conditions_select_what_is_sent() {
    on_both_engines(Rates::default(), |mut plane| async move {
        let bytes = content(700_000);
        let task = whole_task(&plane, &bytes).await;
        let mut client = Client::connect(&plane).await;
        let all = 0..bytes.len();
        for (fields, status, range) in [
            ("", 200, all.clone()),
            ("Range: bytes=0-0\r\n", 206, 0..1),
            ("Range: bytes=262143-262144\r\n", 206, 262_143..262_145),
            ("Range: bytes=-5\r\n", 206, 699_995..700_000),
            ("Range: bytes=1-\r\nIf-Range: \"1\"\r\n", 206, 1..700_000),
            ("Range: bytes=1-\r\nIf-Range: \"2\"\r\n", 200, all.clone()),
            ("Range: bytes=700000-\r\n", 416, 0..0),
            ("If-None-Match: \"1\"\r\n", 304, 0..0),
            ("If-Match: \"2\"\r\n", 412, 0..0),
        ] {
            client.get("/blob", fields).await;
            let exchange = asked(&mut plane).await;
            let reply = selected(&exchange, bytes.len(), "\"1\"");
            let mut sending = exchange.reply_task(reply, Arc::clone(&task)).await;
            let head = client.head().await;
            assert_eq!(head.status, status, "{fields}");
            if status == 416 {
                assert_eq!(head.field("Content-Range"), Some("bytes */700000"));
            }
            assert!(client.bytes(range.len()).await == bytes[range.clone()], "{fields}");
            let sent = timeout(HANG, sending.sent()).await.expect("sent");
            assert_eq!((sent.content_bytes, sent.is_complete), (range.len() as u64, true), "{fields}");
        }
        plane
    });
}

#[test]
fn block_that_rotted_never_leaves_and_the_answer_goes_on_when_it_is_back() {
    on_both_engines(Rates::default(), |mut plane| async move {
        let bytes = content((3 << 20) + 1);
        let task = whole_task(&plane, &bytes).await;
        let geometry = task.geometry();
        let bad = geometry.block_at(1 << 20).expect("within").0;
        let range = geometry.piece_range(bad);
        hawker_storage::blocking::write_at(task.file().content(), b"rot", range.end() - 3).expect("a disk");
        for piece in 0..geometry.piece_count() {
            task.file().doubt_piece(PieceIndex(piece));
        }
        let mut client = Client::connect(&plane).await;
        client.get("/blob", "").await;
        let exchange = asked(&mut plane).await;
        let reply = selected(&exchange, bytes.len(), "\"1\"");
        let mut sending = exchange.reply_task(reply, Arc::clone(&task)).await;
        client.head().await;
        let before = client.bytes(size(range.start())).await;
        assert!(before == bytes[..size(range.start())]);
        loop {
            match plane.event().await {
                ShardEvent::PieceLost { piece, .. } => {
                    assert_eq!(piece, bad);
                    break;
                }
                ShardEvent::PeerWants { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        // Longer than the shards' clock ticks: what is held back is asked for again and again.
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        store(&plane.shards.handles, &task, &bytes, bad.0).await;
        let rest = client.bytes(bytes.len() - before.len()).await;
        assert!(rest == bytes[before.len()..]);
        assert!(timeout(HANG, sending.sent()).await.expect("sent").is_complete);
        plane
    });
}

#[test]
fn download_that_fails_ends_the_answer_behind_what_is_right() {
    on_both_engines(Rates::default(), |mut plane| async move {
        let bytes = content((2 << 20) + 5);
        let task = empty_task(&plane, &bytes).await;
        store(&plane.shards.handles, &task, &bytes, 0).await;
        store(&plane.shards.handles, &task, &bytes, 2).await;
        let here = size(task.geometry().piece_range(PieceIndex(0)).end());
        for upto in [u64::MAX, 1000] {
            let mut client = Client::connect(&plane).await;
            client.get("/blob", "").await;
            let exchange = asked(&mut plane).await;
            let reply = selected(&exchange, bytes.len(), "\"1\"");
            let mut sending = exchange.reply_task(reply, Arc::clone(&task)).await;
            let head = client.head().await;
            assert_eq!(head.length(), bytes.len());
            let mut got = Vec::new();
            if upto == u64::MAX {
                got = client.bytes(here).await;
            }
            sending.lost(upto);
            got.extend(client.rest().await);
            assert!(got == bytes[..got.len()] && got.len() <= here, "{} bytes", got.len());
            let sent = timeout(HANG, sending.sent()).await.expect("over");
            assert_eq!((sent.content_bytes, sent.is_complete), (got.len() as u64, false));
        }
        plane
    });
}

#[test]
fn last_byte_waits_until_the_content_is_what_its_digest_names() {
    on_both_engines(Rates::default(), |mut plane| async move {
        for (length, is_right) in [((1 << 20) + 77, true), ((1 << 20) + 78, false)] {
            let bytes = content(length);
            let task = empty_task(&plane, &bytes).await;
            task.set_in_doubt(true);
            let mut client = Client::connect(&plane).await;
            client.get("/blob", "").await;
            let exchange = asked(&mut plane).await;
            let reply = selected(&exchange, bytes.len(), "\"1\"");
            let mut sending = exchange.reply_task(reply, Arc::clone(&task)).await;
            assert_eq!(client.head().await.status, 200);
            for piece in 0..task.geometry().piece_count() {
                store(&plane.shards.handles, &task, &bytes, piece).await;
            }
            let (last, others) = bytes.split_last().expect("bytes");
            assert!(client.bytes(others.len()).await == others);
            assert!(is_silent(&mut client).await);
            if is_right {
                task.set_in_doubt(false);
                for handle in &plane.shards.handles {
                    handle.send(ShardCommand::Changed { task: task.id() }).await;
                }
                assert_eq!(client.bytes(1).await, [*last]);
            } else {
                sending.lost(u64::MAX);
                assert!(client.rest().await.is_empty(), "it ends without it");
            }
            let sent = timeout(HANG, sending.sent()).await.expect("over");
            assert_eq!(sent.is_complete, is_right);
        }
        plane
    });
}

/// Clients that ask for a large content and read none of it.
const DEAF: usize = 1_000;

#[test]
fn clients_that_read_nothing_hold_nobody_up() {
    crate::shard::tests::raise_descriptors(4 * DEAF as u64);
    on_both_engines(Rates::default(), |mut plane| async move {
        let bytes = content(24 << 20);
        let task = whole_task(&plane, &bytes).await;
        for piece in 0..task.geometry().piece_count() {
            // As after a restart: each block is read and compared before it leaves.
            task.file().doubt_piece(PieceIndex(piece));
        }
        let mut deaf = Vec::new();
        for _ in 0..DEAF {
            let mut client = Client::connect(&plane).await;
            client.get("/blob", "").await;
            let exchange = asked(&mut plane).await;
            let reply = selected(&exchange, bytes.len(), "\"1\"");
            deaf.push((client, exchange.reply_task(reply, Arc::clone(&task)).await));
        }
        let mut client = Client::connect(&plane).await;
        client.get("/blob", "").await;
        let exchange = asked(&mut plane).await;
        let reply = selected(&exchange, bytes.len(), "\"1\"");
        let mut sending = exchange.reply_task(reply, Arc::clone(&task)).await;
        client.head().await;
        assert!(client.bytes(bytes.len()).await == bytes, "wrong bytes");
        assert!(timeout(HANG, sending.sent()).await.expect("sent").is_complete);
        let blocks: u64 = plane.shards.counters.iter().map(|one| one.slab_bytes.value()).sum();
        assert!(blocks <= 32 << 20, "{blocks} bytes of blocks for who reads nothing");
        let mut late = deaf.swap_remove(7).0;
        late.head().await;
        assert!(late.bytes(bytes.len()).await == bytes, "one that begins to read gets all");
        plane
    });
}

#[test]
fn kept_answer_is_given_again_without_control_until_the_task_is_gone() {
    on_both_engines(Rates::default(), |mut plane| async move {
        let bytes = content((1 << 20) + 9);
        let task = whole_task(&plane, &bytes).await;
        let (reply, sealed) = tokio::sync::oneshot::channel();
        let root = hawker_proto::hash::root_of_bytes(&bytes);
        let seal = ShardCommand::Keeper(KeeperRequest::Seal { task: task.id(), root, reply });
        plane.shards.handles[0].send(seal).await;
        timeout(HANG, sealed).await.expect("an answer").expect("a keeper").expect("sealed");
        let mut client = Client::connect(&plane).await;
        let fields = "Authorization: Bearer mine\r\n";
        client.get("/blob", &format!("{fields}Range: bytes=2-6\r\n")).await;
        let mut exchange = asked(&mut plane).await;
        exchange.keep(HANG);
        let reply = selected(&exchange, bytes.len(), "\"1\"");
        let mut sending = exchange.reply_task(reply, Arc::clone(&task)).await;
        assert_eq!(client.head().await.status, 206);
        assert!(client.bytes(5).await == bytes[2..7]);
        assert!(timeout(HANG, sending.sent()).await.expect("sent").is_complete);
        // A part was asked for first, and all is answered, and any part.
        for turn in 0..3 {
            client.get("/blob", fields).await;
            let head = client.head().await;
            assert_eq!((head.status, head.field("ETag")), (200, Some("\"1\"")), "{turn}");
            assert!(client.bytes(bytes.len()).await == bytes, "{turn}");
        }
        client.say(format!("HEAD /blob HTTP/1.1\r\nHost: here\r\n{fields}\r\n")).await;
        assert_eq!(client.head().await.length(), bytes.len());
        for (condition, is_current) in [("", true), ("If-Range: \"1\"\r\n", true), ("If-Range: \"2\"\r\n", false)] {
            client.get("/blob", &format!("{fields}Range: bytes=1000000-\r\n{condition}")).await;
            let (status, start) = if is_current { (206, 1_000_000) } else { (200, 0) };
            assert_eq!(client.head().await.status, status, "{condition}");
            assert!(client.bytes(bytes.len() - start).await == bytes[start..], "{condition}");
        }
        assert!(plane.requests.try_recv().is_err(), "control was asked once");
        // Other credentials, a part that there is not, what is known already, and a task that is gone are control's.
        let beyond = format!("{fields}Range: bytes={}-\r\n", bytes.len());
        let known = format!("{fields}If-None-Match: \"1\"\r\n");
        for other in ["", "Authorization: Bearer yours\r\n", &beyond, &known] {
            client.get("/blob", other).await;
            asked(&mut plane).await.reply(text(403, "no\n")).await;
            assert_eq!(client.text().await.0, 403);
        }
        for handle in &plane.shards.handles {
            handle.send(ShardCommand::Unshare { task: task.id() }).await;
        }
        // Commands are taken in order: what comes from the client next is behind it.
        let (reply, listed) = tokio::sync::oneshot::channel();
        plane.shards.handles[0].send(ShardCommand::Keeper(KeeperRequest::List { reply })).await;
        timeout(HANG, listed).await.expect("an answer").expect("a keeper");
        client.get("/blob", fields).await;
        asked(&mut plane).await.reply(text(404, "gone\n")).await;
        assert_eq!(client.text().await.0, 404);
        let kept: u64 = plane.shards.counters.iter().map(|one| one.http_kept.value()).sum();
        assert_eq!(kept, 7);
        plane
    });
}

#[test]
fn shards_that_stop_in_mid_body_end_it_cleanly() {
    for engine in ENGINES {
        runtime().block_on(async {
            let mut plane = Plane::start(1, engine, Rates::default(), &HostKey::from_seed([99; 32]));
            let bytes = content(48 << 20);
            let task = whole_task(&plane, &bytes).await;
            let mut client = Client::connect(&plane).await;
            client.get("/blob", "").await;
            let exchange = asked(&mut plane).await;
            let reply = selected(&exchange, bytes.len(), "\"1\"");
            let sending = exchange.reply_task(reply, Arc::clone(&task)).await;
            client.head().await;
            let mut got = client.bytes(1 << 20).await;
            drop(task);
            let stopping = tokio::spawn(plane.stop());
            got.extend(client.rest().await);
            assert!(got.len() < bytes.len() && got == bytes[..got.len()], "{engine:?}: {} bytes", got.len());
            timeout(HANG, stopping).await.expect("it stops").expect("no panic");
            drop(sending);
        });
    }
}

#[test]
fn upload_limit_is_not_about_clients_of_this_host() {
    let rates = Rates { up: Some(1000), ..Rates::default() };
    on_both_engines(rates, |mut plane| async move {
        let bytes = content(4 << 20);
        let task = whole_task(&plane, &bytes).await;
        let mut client = Client::connect(&plane).await;
        client.get("/blob", "").await;
        let exchange = asked(&mut plane).await;
        let reply = selected(&exchange, bytes.len(), "\"1\"");
        // At 1,000 bytes a second this would be an hour.
        let _sending = exchange.reply_task(reply, task).await;
        client.head().await;
        assert!(client.bytes(bytes.len()).await == bytes);
        plane
    });
}
