//! Bodies of requests, and contents that control brings.

use hawker_proto::http1::ReplyBody;
use hawker_proto::{ByteRange, http1::Refusal};

use super::*;
use crate::control::http::exchange::BodyError;
use crate::seam::HTTP_STREAM_BYTES_MAX;

fn stream_of(length: u64) -> Reply {
    let range = ByteRange::new(0, length).expect("a range");
    Reply::new(200, Vec::new(), ReplyBody::Content { range, total: length, available: 0 }).expect("an answer")
}

#[test]
fn body_comes_when_it_is_asked_for_and_no_faster_than_it_is_taken() {
    on_both_engines(Rates::default(), |mut plane| async move {
        let mut client = Client::connect(&plane).await;
        let bytes = content(20 << 20);
        client
            .say(format!(
                "PUT /upload HTTP/1.1\r\nHost: here\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n",
                bytes.len()
            ))
            .await;
        let mut exchange = asked(&mut plane).await;
        assert!(is_silent(&mut client).await, "nobody asked for it yet");
        let (mut reads, mut writes) = client.socket.into_split();
        let sent = bytes.clone();
        let taken = tokio::spawn(async move {
            let mut got = Vec::new();
            while let Some(part) = exchange.body().await.expect("a right body") {
                assert!(part.len() <= 64 << 10, "{} bytes at a time", part.len());
                got.extend(part);
            }
            (got, exchange)
        });
        let mut go_on = [0; 25];
        timeout(HANG, reads.read_exact(&mut go_on)).await.expect("100").expect("open");
        assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
        timeout(HANG, writes.write_all(&sent)).await.expect("it is taken").expect("open");
        let (got, exchange) = timeout(HANG, taken).await.expect("all of it").expect("no panic");
        assert!(got == bytes);
        let answered = tokio::spawn(exchange.reply(text(201, "kept\n")));
        let mut client = Client { socket: reads.reunite(writes).expect("the same") };
        assert_eq!(client.text().await, (201, "kept\n".to_owned()));
        assert!(answered.await.expect("no panic").is_complete);

        // Nobody takes it: the client can send no more than fits into buffers.
        client.say("PUT /upload HTTP/1.1\r\nHost: here\r\nContent-Length: 500000000\r\n\r\n").await;
        let _undecided = asked(&mut plane).await;
        let flood = timeout(Duration::from_millis(500), client.socket.write_all(&bytes)).await;
        assert!(flood.is_err(), "20 MiB went where?");
        plane
    });
}

#[test]
fn broken_body_is_told_and_a_client_that_leaves_within_it_too() {
    on_both_engines(Rates::default(), |mut plane| async move {
        let mut client = Client::connect(&plane).await;
        client.say("POST / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nxyz\r\n").await;
        let mut exchange = asked(&mut plane).await;
        assert_eq!(exchange.body().await, Ok(Some(b"abc".to_vec())));
        assert_eq!(exchange.body().await, Err(BodyError::Refused(Refusal::Chunk)));
        let answered = tokio::spawn(exchange.reply(text(Refusal::Chunk.status(), "no\n")));
        let head = client.head().await;
        assert_eq!((head.status, head.field("Connection")), (400, Some("close")));
        assert!(answered.await.expect("no panic").is_complete);

        let mut client = Client::connect(&plane).await;
        client.say("POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 10\r\n\r\nabc").await;
        let mut exchange = asked(&mut plane).await;
        assert_eq!(exchange.body().await, Ok(Some(b"abc".to_vec())));
        drop(client);
        assert_eq!(timeout(HANG, exchange.body()).await.expect("an end"), Err(BodyError::Gone));
        plane
    });
}

#[test]
fn stream_waits_for_a_slow_client_and_arrives_whole() {
    on_both_engines(Rates::default(), |mut plane| async move {
        let bytes = content(40 << 20);
        let mut client = Client::connect(&plane).await;
        client.get("/stream", "").await;
        let mut stream = asked(&mut plane).await.reply_stream(stream_of(bytes.len() as u64)).await;
        let pushed = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let (counter, source) = (Arc::clone(&pushed), bytes.clone());
        let pushing = tokio::spawn(async move {
            for part in source.chunks(700_000) {
                stream.push(part.to_vec()).await.expect("a client");
                counter.fetch_add(part.len(), std::sync::atomic::Ordering::Relaxed);
            }
            stream.sent().await
        });
        client.head().await;
        client.bytes(1).await;
        // What the sockets hold, and no more than the window beside it: the rest waits for the client.
        let mut before = usize::MAX;
        while before != pushed.load(std::sync::atomic::Ordering::Relaxed) {
            before = pushed.load(std::sync::atomic::Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert!(before < bytes.len() - HTTP_STREAM_BYTES_MAX, "{before} bytes for a client that reads nothing");
        assert!(client.bytes(bytes.len() - 1).await == bytes[1..]);
        let sent = timeout(HANG, pushing).await.expect("all is sent").expect("no panic");
        assert_eq!((sent.content_bytes, sent.is_complete), (bytes.len() as u64, true));
        plane
    });
}

#[test]
fn stream_that_ends_early_is_short_for_the_client() {
    on_both_engines(Rates::default(), |mut plane| async move {
        for is_told in [true, false] {
            let mut client = Client::connect(&plane).await;
            client.get("/stream", "").await;
            let mut stream = asked(&mut plane).await.reply_stream(stream_of(1000)).await;
            stream.push(vec![b'x'; 300]).await.expect("a client");
            if is_told {
                stream.lost();
            }
            drop(stream);
            let head = client.head().await;
            assert_eq!(head.length(), 1000);
            assert_eq!(client.rest().await, vec![b'x'; 300]);
        }
        plane
    });
}

#[test]
fn whoever_pushes_hears_that_the_client_is_gone() {
    on_both_engines(Rates::default(), |mut plane| async move {
        let mut client = Client::connect(&plane).await;
        client.get("/stream", "").await;
        let mut stream = asked(&mut plane).await.reply_stream(stream_of(1 << 40)).await;
        client.head().await;
        client.socket.set_zero_linger().expect("a socket");
        drop(client);
        let pushing = async { while stream.push(vec![0; 100_000]).await.is_ok() {} };
        timeout(HANG, pushing).await.expect("an end");
        // A HEAD has no body to push.
        let mut client = Client::connect(&plane).await;
        client.say("HEAD /stream HTTP/1.1\r\nHost: here\r\n\r\n").await;
        let mut stream = asked(&mut plane).await.reply_stream(stream_of(5)).await;
        assert_eq!(client.head().await.length(), 5);
        let sent = timeout(HANG, stream.sent()).await.expect("over");
        assert_eq!((sent.content_bytes, sent.is_complete), (0, true));
        assert!(stream.push(vec![1; 5]).await.is_err());
        plane
    });
}
