//! Receiving, on both engines.

mod common;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use common::{Rig, block, connection, on_both_engines, pattern, reset, write_in_thread};
use hawker_ring::{BLOCK_BYTES, Body, File, Op, Outcome, Received, Strategy, TailBuf};

on_both_engines!(
    body_and_tail_arrive_exactly,
    bytes_in_small_pieces_are_put_together,
    what_was_not_asked_for_stays_in_the_socket,
    up_to_takes_what_has_come,
    up_to_behind_a_body_does_not_wait,
    a_long_wait_leaves_the_socket_as_it_was,
    nothing_wanted_completes_at_once,
    the_end_of_the_stream_comes_with_counts,
    a_reset_is_never_taken_for_an_end,
    both_directions_run_at_once,
    many_receivers_share_the_engine,
    the_socket_lives_as_long_as_its_operation,
);

fn receive(rig: &mut Rig<'_>, op: Op) -> (std::io::Result<Received>, Vec<u8>, Vec<u8>) {
    let outcome = rig.run(op);
    let Outcome::Received { result, block, tail } = outcome else { panic!("{outcome:?}") };
    let body = block.map_or_else(Vec::new, |(block, range)| block.as_slice()[range].to_vec());
    (result, body, tail)
}

fn all(body_bytes: usize, tail_bytes: usize) -> Received {
    Received { body_bytes, tail_bytes, is_eof: false }
}

fn exchange(rig: &mut Rig<'_>, size: usize, start: usize, tail_bytes: usize, step: usize) {
    let (socket, peer) = connection();
    let content = pattern(size + tail_bytes, 11);
    let writer = write_in_thread(peer, content.clone(), step);
    let body = Some((block(), start..start + size));
    // A vector that was used before, to be overwritten.
    let tail = TailBuf::exact(vec![0xff; 5], tail_bytes);
    let (result, body, tail) = receive(rig, Op::Receive { socket, body, tail });
    assert_eq!(result.expect("received"), all(size, tail_bytes));
    assert!(body == content[..size] && tail == content[size..], "{size} + {tail_bytes} bytes by {step}");
    writer.join().expect("writer");
}

fn body_and_tail_arrive_exactly(rig: &mut Rig<'_>) {
    for size in [0, 1, 4095, 4096, BLOCK_BYTES - 1, BLOCK_BYTES] {
        for tail_bytes in [0, 1, 32, 100_000] {
            let start = usize::from(size < BLOCK_BYTES);
            exchange(rig, size, start, tail_bytes, usize::MAX);
        }
    }
}

fn bytes_in_small_pieces_are_put_together(rig: &mut Rig<'_>) {
    exchange(rig, BLOCK_BYTES, 0, 32, 1009);
    exchange(rig, 50, 3, 32, 1);
    exchange(rig, BLOCK_BYTES - 77, 77, 4097, 3001);
}

fn what_was_not_asked_for_stays_in_the_socket(rig: &mut Rig<'_>) {
    let (socket, peer) = connection();
    let content = pattern(1000, 12);
    let _peer = write_in_thread(peer, content.clone(), usize::MAX).join().expect("writer");
    let mut rest = &content[..];
    for (body_bytes, tail_bytes) in [(100, 32), (0, 68), (500, 0), (299, 1)] {
        let op = Op::Receive {
            socket: File::clone(&socket),
            body: Some((block(), 0..body_bytes)),
            tail: TailBuf::exact(Vec::new(), tail_bytes),
        };
        let (result, body, tail) = receive(rig, op);
        assert_eq!(result.expect("received"), all(body_bytes, tail_bytes));
        assert!(body == rest[..body_bytes] && tail == rest[body_bytes..body_bytes + tail_bytes]);
        rest = &rest[body_bytes + tail_bytes..];
    }
    assert!(rest.is_empty());
}

fn up_to_takes_what_has_come(rig: &mut Rig<'_>) {
    let (socket, mut peer) = connection();
    let receive_some =
        |socket: &File| Op::Receive { socket: File::clone(socket), body: None, tail: TailBuf::up_to(Vec::new(), 4096) };
    let token = rig.submit(receive_some(&socket));
    rig.turn(Some(Duration::ZERO));
    assert!(!rig.is_done(token), "nothing has come yet");
    peer.write_all(b"hello").expect("write");
    let outcome = rig.finish(token);
    let Outcome::Received { result, tail, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!((result.expect("received"), &tail[..]), (all(0, 5), &b"hello"[..]));
    drop(peer);
    let (result, _, tail) = receive(rig, receive_some(&socket));
    assert_eq!(result.expect("an end"), Received { body_bytes: 0, tail_bytes: 0, is_eof: true });
    assert!(tail.is_empty());
}

fn up_to_behind_a_body_does_not_wait(rig: &mut Rig<'_>) {
    let (socket, peer) = connection();
    let content = pattern(5000, 13);
    let _peer = write_in_thread(peer, content.clone(), usize::MAX).join().expect("writer");
    for (body_bytes, expected_tail) in [(4000, 1000), (0, 0)] {
        let body = Some((block(), 0..body_bytes));
        let limit = if body_bytes == 0 { 0 } else { 4096 };
        let tail = TailBuf::up_to(Vec::new(), limit);
        let (result, _, tail) = receive(rig, Op::Receive { socket: File::clone(&socket), body, tail });
        assert_eq!(result.expect("received"), all(body_bytes, expected_tail));
        assert_eq!(tail.len(), expected_tail);
    }
}

/// Whoever waits for much is not woken by little. What comes after it is little again, whether the wait ended by
/// itself or was cancelled.
fn a_long_wait_leaves_the_socket_as_it_was(rig: &mut Rig<'_>) {
    for is_cancelled in [false, true] {
        let (socket, mut peer) = connection();
        let content = pattern(200_000, 17);
        let whole = Some((block(), 0..content.len()));
        let tail = TailBuf::up_to(Vec::new(), 4096);
        let token = rig.submit(Op::Receive { socket: File::clone(&socket), body: whole, tail });
        // Halves of halves: the end of each wait leaves a smaller rest.
        let mut sent = 0;
        while content.len() - sent > 1000 {
            let next = sent + (content.len() - sent) / 2;
            peer.write_all(&content[sent..next]).expect("write");
            sent = next;
            rig.turn(Some(Duration::from_millis(1)));
            assert!(!rig.is_done(token), "{sent} bytes are all");
        }
        if is_cancelled {
            rig.engine.cancel(token);
        } else {
            peer.write_all(&content[sent..]).expect("write");
        }
        let Outcome::Received { result, block, .. } = rig.finish(token) else { panic!("not a reception") };
        assert_eq!(result.is_err(), is_cancelled, "{result:?}");
        let (block, range) = block.expect("the block comes back");
        assert!(is_cancelled || block.as_slice()[range] == content);
        peer.write_all(b"!").expect("write");
        // A cancelled wait leaves in the socket what it did not take.
        let mut rest = Vec::new();
        while !rest.ends_with(b"!") {
            let some = TailBuf::up_to(Vec::new(), 100_000);
            let (result, _, tail) = receive(rig, Op::Receive { socket: File::clone(&socket), body: None, tail: some });
            assert!(result.is_ok_and(|received| !received.is_eof));
            rest.extend(tail);
        }
        assert!(is_cancelled || rest == b"!", "{} bytes", rest.len());
    }
}

fn nothing_wanted_completes_at_once(rig: &mut Rig<'_>) {
    let (socket, _peer) = connection();
    let (result, _, _) = receive(rig, Op::Receive { socket, body: None, tail: TailBuf::default() });
    assert_eq!(result.expect("received"), all(0, 0));
}

fn the_end_of_the_stream_comes_with_counts(rig: &mut Rig<'_>) {
    for (sent, body_bytes, tail_bytes) in [(0, 0, 0), (1000, 1000, 0), (BLOCK_BYTES + 10, BLOCK_BYTES, 10)] {
        // Both a stream that has ended before and one that ends while the operation waits.
        for waits in [false, true] {
            let (socket, peer) = connection();
            let content = pattern(sent, 14);
            let mut token = None;
            let op = || Op::Receive {
                socket: File::clone(&socket),
                body: Some((block(), 0..BLOCK_BYTES)),
                tail: TailBuf::exact(Vec::new(), 32),
            };
            if waits {
                token = Some(rig.submit(op()));
                rig.turn(Some(Duration::ZERO));
            }
            let peer = write_in_thread(peer, content.clone(), usize::MAX);
            if !waits {
                peer.join().expect("writer").shutdown(Shutdown::Both).expect("shutdown");
                token = Some(rig.submit(op()));
            } else {
                rig.turn(Some(Duration::from_millis(1)));
                drop(peer.join());
            }
            let outcome = rig.finish(token.expect("submitted"));
            let Outcome::Received { result, block, tail } = outcome else { panic!("{outcome:?}") };
            assert_eq!(result.expect("an end"), Received { body_bytes, tail_bytes, is_eof: true });
            assert_eq!(tail, content[body_bytes..]);
            assert!(block.expect("the block").0.as_slice()[..body_bytes] == content[..body_bytes]);
        }
    }
}

fn a_reset_is_never_taken_for_an_end(rig: &mut Rig<'_>) {
    for sent in [0, 1000] {
        for waits in [false, true] {
            let (socket, mut peer) = connection();
            let body = Some((block(), 0..BLOCK_BYTES));
            let op = Op::Receive { socket: File::clone(&socket), body, tail: TailBuf::default() };
            let token = if waits {
                let token = rig.submit(op);
                rig.turn(Some(Duration::ZERO));
                peer.write_all(&pattern(sent, 15)).expect("write");
                rig.turn(Some(Duration::from_millis(1)));
                reset(peer);
                token
            } else {
                peer.write_all(&pattern(sent, 15)).expect("write");
                reset(peer);
                rig.submit(op)
            };
            let outcome = rig.finish(token);
            let Outcome::Received { result: Err(error), block, .. } = outcome else {
                panic!("{sent} bytes, then a reset, waits {waits}: {outcome:?}")
            };
            assert_eq!(common::errno(&error), libc::ECONNRESET);
            assert!(block.is_some(), "the block comes back");
        }
    }
}

fn both_directions_run_at_once(rig: &mut Rig<'_>) {
    let (socket, mut peer) = connection();
    let op = Op::Receive { socket: File::clone(&socket), body: None, tail: TailBuf::exact(Vec::new(), 4 << 20) };
    let receiving = rig.submit(op);
    let content = pattern(4 << 20, 16);
    let (head, body, strategy) = (Vec::new(), Body::Bytes(content.clone()), Strategy::Copy);
    let sending = rig.submit(Op::Transmit { socket, head, body, strategy });
    let echo = std::thread::spawn(move || {
        let mut buffer = vec![0; 65536];
        let mut left = 4 << 20;
        while left > 0 {
            let count = peer.read(&mut buffer).expect("read");
            peer.write_all(&buffer[..count]).expect("write");
            left -= count;
        }
    });
    let outcome = rig.finish(sending);
    assert!(matches!(outcome, Outcome::Transmitted { result: Ok(count), .. } if count == 4 << 20), "{outcome:?}");
    let Outcome::Received { result, tail, .. } = rig.finish(receiving) else { panic!("not a reception") };
    assert_eq!(result.expect("received"), all(0, 4 << 20));
    assert!(tail == content);
    echo.join().expect("echo");
}

fn many_receivers_share_the_engine(rig: &mut Rig<'_>) {
    let mut slab = common::slab(40);
    let mut writers = Vec::new();
    let mut tokens = Vec::new();
    for index in 0..40 {
        let (socket, peer) = connection();
        writers.push(write_in_thread(peer, pattern(BLOCK_BYTES + 32, index), 30_000));
        let body = Some((slab.take().expect("a block"), 0..BLOCK_BYTES));
        tokens.push(rig.submit(Op::Receive { socket, body, tail: TailBuf::exact(Vec::new(), 32) }));
    }
    for (index, token) in tokens.into_iter().enumerate() {
        let Outcome::Received { result, block, tail } = rig.finish(token) else { panic!("not a reception") };
        assert_eq!(result.expect("received"), all(BLOCK_BYTES, 32));
        let content = pattern(BLOCK_BYTES + 32, index as u64);
        assert!(block.expect("the block").0.as_slice()[..] == content[..BLOCK_BYTES]);
        assert!(tail == content[BLOCK_BYTES..]);
    }
    for writer in writers {
        writer.join().expect("writer");
    }
    assert_eq!(slab.blocks_out(), 0);
}

fn the_socket_lives_as_long_as_its_operation(rig: &mut Rig<'_>) {
    let (socket, mut peer) = connection();
    let token = rig.submit(Op::Receive { socket, body: None, tail: TailBuf::exact(Vec::new(), 5) });
    // The caller's handle is gone. Were the descriptor closed, these would get its number and its bytes.
    let others: Vec<_> = (0..8).map(|_| connection()).collect();
    rig.turn(Some(Duration::ZERO));
    peer.write_all(b"alive").expect("write");
    let Outcome::Received { result, tail, .. } = rig.finish(token) else { panic!("not a reception") };
    assert_eq!((result.expect("received"), &tail[..]), (all(0, 5), &b"alive"[..]));
    // And now it is closed.
    assert_eq!(peer.read(&mut [0; 1]).expect("the end"), 0);
    drop(others);
}
