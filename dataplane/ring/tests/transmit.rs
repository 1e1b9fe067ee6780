//! Sending, on both engines.

mod common;

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use common::{Rig, block, connection, narrow_connection, on_both_engines, pattern, read_in_thread, reset};
use hawker_ring::{BLOCK_BYTES, Body, File, Op, Outcome, Strategy};

on_both_engines!(
    head_and_every_body_arrive_in_order,
    a_head_alone_and_nothing_at_all_complete,
    a_slow_reader_gets_everything,
    a_slow_reader_of_a_file_gets_everything,
    buffers_come_back_after_sending,
    a_peer_that_resets_fails_the_sender,
    a_file_that_is_too_short_is_an_error,
    many_senders_share_the_engine,
    a_yielding_sendfile_lets_others_through,
);

const SIZES: [usize; 6] = [0, 1, 4095, BLOCK_BYTES, 1024 * 1024 + 1, 5 * 1024 * 1024 + 3];

fn file_with(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).expect("file");
    file.write_all(bytes).expect("write");
    Arc::new(file.into())
}

fn send(rig: &mut Rig<'_>, head: &[u8], body: Body, strategy: Strategy, expected: &[u8]) {
    let (socket, peer) = connection();
    let reader = read_in_thread(peer, expected.len());
    let outcome = rig.run(Op::Transmit { socket, head: head.to_vec(), body, strategy });
    let Outcome::Transmitted { result, head: back, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(result.expect("sent"), expected.len() as u64);
    assert_eq!(back, head, "the head comes back as it was");
    assert!(reader.join().expect("reader") == expected, "the peer got other bytes");
}

fn head_and_every_body_arrive_in_order(rig: &mut Rig<'_>) {
    let content = pattern(SIZES[5] + 1000, 1);
    let file = file_with(&content);
    for head in [&pattern(32, 2)[..], &[]] {
        for size in SIZES {
            let expect = |offset: usize| [head, &content[offset..offset + size]].concat();
            send(rig, head, Body::Bytes(content[..size].to_vec()), Strategy::Copy, &expect(0));
            for (offset, strategy) in [(0, Strategy::Sendfile), (777, Strategy::Sendfile), (777, Strategy::Copy)] {
                let body = Body::File { file: File::clone(&file), offset: offset as u64, length: size as u64 };
                send(rig, head, body, strategy, &expect(offset));
            }
            if size <= BLOCK_BYTES {
                let start = if size < BLOCK_BYTES { 1 } else { 0 };
                let mut block = block();
                block.as_mut_slice()[start..start + size].copy_from_slice(&content[..size]);
                send(rig, head, Body::Block(block, start..start + size), Strategy::Copy, &expect(0));
            }
        }
    }
}

fn a_head_alone_and_nothing_at_all_complete(rig: &mut Rig<'_>) {
    send(rig, b"head", Body::None, Strategy::Copy, b"head");
    send(rig, b"", Body::None, Strategy::Sendfile, b"");
}

fn slow(rig: &mut Rig<'_>, body: Body, strategy: Strategy, content: &[u8]) {
    let (socket, mut peer) = narrow_connection();
    let token = rig.submit(Op::Transmit { socket, head: b"head".to_vec(), body, strategy });
    // More than both buffers hold, and nobody reads: the sender has to wait, whatever the number of turns.
    for _ in 0..20 {
        rig.turn(Some(Duration::from_millis(1)));
    }
    assert!(!rig.is_done(token), "sent {} bytes into a wall", content.len());
    assert_eq!(rig.engine.in_flight(), 1);
    let expected = content.len() + 4;
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let mut part = vec![0; 10_001];
        while bytes.len() < expected {
            let count = peer.read(&mut part).expect("read");
            assert!(count > 0, "ended early");
            bytes.extend_from_slice(&part[..count]);
        }
        bytes
    });
    let outcome = rig.finish(token);
    let Outcome::Transmitted { result, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(result.expect("sent"), expected as u64);
    assert!(reader.join().expect("reader")[4..] == *content);
}

fn a_slow_reader_gets_everything(rig: &mut Rig<'_>) {
    let content = pattern(8 * 1024 * 1024, 3);
    slow(rig, Body::Bytes(content.clone()), Strategy::Copy, &content);
}

fn a_slow_reader_of_a_file_gets_everything(rig: &mut Rig<'_>) {
    let content = pattern(8 * 1024 * 1024 + 5, 4);
    let file = file_with(&content);
    for strategy in [Strategy::Sendfile, Strategy::Copy] {
        let body = Body::File { file: File::clone(&file), offset: 0, length: content.len() as u64 };
        slow(rig, body, strategy, &content);
    }
}

fn buffers_come_back_after_sending(rig: &mut Rig<'_>) {
    let (socket, peer) = connection();
    let reader = read_in_thread(peer, 5);
    let mut block = block();
    block.as_mut_slice()[10] = 7;
    let (head, body) = (b"head".to_vec(), Body::Block(block, 10..11));
    let outcome = rig.run(Op::Transmit { socket, head, body, strategy: Strategy::Copy });
    let Outcome::Transmitted { body: Body::Block(block, range), .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!((block.as_slice()[10], range), (7, 10..11));
    assert_eq!(reader.join().expect("reader"), b"head\x07");
}

fn a_peer_that_resets_fails_the_sender(rig: &mut Rig<'_>) {
    let content = pattern(8 * 1024 * 1024, 5);
    let file = file_with(&content);
    let bodies = [
        (Body::Bytes(content.clone()), Strategy::Copy),
        (Body::File { file: File::clone(&file), offset: 0, length: content.len() as u64 }, Strategy::Copy),
        (Body::File { file, offset: 0, length: content.len() as u64 }, Strategy::Sendfile),
    ];
    for (body, strategy) in bodies {
        let (socket, peer) = narrow_connection();
        let token = rig.submit(Op::Transmit { socket, head: Vec::new(), body, strategy });
        rig.turn(Some(Duration::from_millis(1)));
        reset(peer);
        let outcome = rig.finish(token);
        let Outcome::Transmitted { result: Err(error), .. } = outcome else { panic!("{outcome:?}") };
        assert!([libc::ECONNRESET, libc::EPIPE].contains(&common::errno(&error)), "{error}");
    }
}

fn a_file_that_is_too_short_is_an_error(rig: &mut Rig<'_>) {
    let file = file_with(&pattern(1000, 6));
    for strategy in [Strategy::Sendfile, Strategy::Copy] {
        let (socket, _peer) = connection();
        let body = Body::File { file: File::clone(&file), offset: 500, length: 501 };
        let outcome = rig.run(Op::Transmit { socket, head: Vec::new(), body, strategy });
        let Outcome::Transmitted { result: Err(error), .. } = outcome else { panic!("{outcome:?}") };
        assert_eq!(common::errno(&error), libc::ENODATA);
    }
}

fn many_senders_share_the_engine(rig: &mut Rig<'_>) {
    let content = pattern(3 * 1024 * 1024, 7);
    let file = file_with(&content);
    let mut readers = Vec::new();
    let mut tokens = Vec::new();
    for index in 0..40u8 {
        let (socket, peer) = connection();
        readers.push(read_in_thread(peer, content.len() + 1));
        let body = match index % 3 {
            0 => Body::Bytes(content.clone()),
            _ => Body::File { file: File::clone(&file), offset: 0, length: content.len() as u64 },
        };
        let strategy = if index % 3 == 1 { Strategy::Copy } else { Strategy::Sendfile };
        tokens.push(rig.submit(Op::Transmit { socket, head: vec![index], body, strategy }));
    }
    assert_eq!(rig.engine.in_flight(), 40);
    for token in tokens {
        let outcome = rig.finish(token);
        let Outcome::Transmitted { result, .. } = outcome else { panic!("{outcome:?}") };
        assert_eq!(result.expect("sent"), content.len() as u64 + 1);
    }
    assert_eq!(rig.engine.in_flight(), 0);
    for (index, reader) in readers.into_iter().enumerate() {
        let bytes = reader.join().expect("reader");
        assert!(usize::from(bytes[0]) == index && bytes[1..] == content);
    }
}

fn a_yielding_sendfile_lets_others_through(rig: &mut Rig<'_>) {
    let content = pattern(24 * 1024 * 1024, 8);
    let file = file_with(&content);
    let (bulk, bulk_peer) = connection();
    let (small, small_peer) = connection();
    let bulk_reader = read_in_thread(bulk_peer, content.len());
    let small_reader = read_in_thread(small_peer, 4);
    let body = Body::File { file, offset: 0, length: content.len() as u64 };
    let first = rig.submit(Op::Transmit { socket: bulk, head: Vec::new(), body, strategy: Strategy::Sendfile });
    let (head, body) = (b"ping".to_vec(), Body::None);
    let second = rig.submit(Op::Transmit { socket: small, head, body, strategy: Strategy::Copy });
    rig.finish(second);
    assert!(!rig.is_done(first), "24 MiB went out in front of four bytes");
    small_reader.join().expect("reader");
    let outcome = rig.finish(first);
    let Outcome::Transmitted { result, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(result.expect("sent"), content.len() as u64);
    assert!(bulk_reader.join().expect("reader") == content);
}
