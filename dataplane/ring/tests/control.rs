//! Accept, connect, timers, cancellation and waking, on both engines.

mod common;

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use common::{Rig, block, c_path, connection, listener, narrow_connection, on_both_engines, temporary_directory};
use hawker_ring::net::{listen, local_address, loopback_of};
use hawker_ring::{
    BLOCK_BYTES, Body, File, Mode, OFlags, Op, Outcome, SocketOptions, Strategy, TailBuf, Token, is_cancelled,
};

on_both_engines!(
    connect_and_accept_meet,
    a_dual_stack_listener_takes_both_families,
    a_refused_connection_says_so,
    socket_options_are_set_before_connecting,
    an_unknown_congestion_control_is_an_error,
    timers_complete_in_order_and_not_early,
    equal_timers_complete_in_order_of_submission,
    a_turn_ends_when_its_wait_is_over,
    every_waiting_operation_can_be_cancelled_once,
    what_was_not_yet_submitted_can_be_cancelled,
    a_connection_under_way_can_be_cancelled,
    file_operations_end_once_whether_cancelled_or_not,
    a_cancelled_socket_can_be_used_again,
    cancelling_the_unknown_changes_nothing,
    many_cancelled_timers_leave_the_others_alone,
    waking_ends_a_turn_from_another_thread,
    wakes_are_coalesced,
    no_wake_is_lost,
    a_waker_outlives_its_engine,
);

fn accepted(outcome: Outcome) -> (File, SocketAddr) {
    let Outcome::Accepted(result) = outcome else { panic!("{outcome:?}") };
    result.expect("accepted")
}

fn connected(outcome: Outcome) -> std::io::Result<File> {
    let Outcome::Connected(result) = outcome else { panic!("{outcome:?}") };
    result
}

fn connect_and_accept_meet(rig: &mut Rig<'_>) {
    let (listener, address) = listener();
    for _ in 0..3 {
        let accepting = rig.submit(Op::Accept { listener: File::clone(&listener) });
        let options = SocketOptions { source: Some(Ipv4Addr::LOCALHOST.into()), ..Default::default() };
        let socket = connected(rig.run(Op::Connect { to: address, options })).expect("connected");
        let (theirs, peer) = accepted(rig.finish(accepting));
        assert_eq!(peer, local_address(&socket).expect("address"));
        let (body, strategy) = (Body::None, Strategy::Copy);
        let sending = rig.submit(Op::Transmit { socket, head: b"hello".to_vec(), body, strategy });
        let tail = TailBuf::exact(Vec::new(), 5);
        let Outcome::Received { tail, .. } = rig.run(Op::Receive { socket: theirs, body: None, tail }) else {
            panic!("not a reception")
        };
        assert_eq!(tail, b"hello");
        rig.finish(sending);
    }
}

fn a_dual_stack_listener_takes_both_families(rig: &mut Rig<'_>) {
    let Ok(listener) = listen(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0), 16) else {
        eprintln!("skipped: this host has no IPv6");
        return;
    };
    let port = local_address(&listener).expect("address").port();
    for host in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let to = SocketAddr::new(host, port);
        let accepting = rig.submit(Op::Accept { listener: File::clone(&listener) });
        let socket = match connected(rig.run(Op::Connect { to, options: SocketOptions::default() })) {
            Err(error) if host.is_ipv6() && error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {
                eprintln!("skipped: loopback has no IPv6 address");
                rig.engine.cancel(accepting);
                rig.finish(accepting);
                return;
            }
            result => result.expect("connected"),
        };
        let (_, peer) = accepted(rig.finish(accepting));
        assert_eq!(peer, local_address(&socket).expect("address"), "an IPv4 peer is shown as one");
    }
}

fn a_refused_connection_says_so(rig: &mut Rig<'_>) {
    let (listener, address) = listener();
    drop(listener);
    let error =
        connected(rig.run(Op::Connect { to: address, options: SocketOptions::default() })).expect_err("refused");
    assert_eq!(common::errno(&error), libc::ECONNREFUSED);
    assert_eq!(loopback_of(address), address);
}

fn socket_options_are_set_before_connecting(rig: &mut Rig<'_>) {
    let (_listener, address) = listener();
    let options = SocketOptions {
        congestion: Some("reno".into()),
        send_buffer_bytes: Some(100_000),
        receive_buffer_bytes: Some(200_000),
        ..Default::default()
    };
    let socket = connected(rig.run(Op::Connect { to: address, options })).expect("connected");
    let socket = socket2::SockRef::from(&socket);
    assert!(socket.tcp_nodelay().expect("nodelay"));
    assert_eq!(socket.tcp_notsent_lowat().expect("lowat"), 128 * 1024);
    // socket(7): the kernel doubles what it is given.
    assert_eq!(socket.send_buffer_size().expect("size"), 200_000);
    assert_eq!(socket.recv_buffer_size().expect("size"), 400_000);
    let name = socket.tcp_congestion().expect("congestion");
    assert!(name.starts_with(b"reno"));
}

fn an_unknown_congestion_control_is_an_error(rig: &mut Rig<'_>) {
    let (_listener, to) = listener();
    let options = SocketOptions { congestion: Some("no-such-thing".into()), ..Default::default() };
    let error = connected(rig.run(Op::Connect { to, options })).expect_err("no such congestion control");
    assert_eq!(common::errno(&error), libc::ENOENT);
}

fn timers_complete_in_order_and_not_early(rig: &mut Rig<'_>) {
    let started = Instant::now();
    let millis = [9, 1, 5, 3, 7];
    for after in millis {
        rig.engine.submit(Token(after), Op::Timer { after: Duration::from_millis(after) });
    }
    let mut order = Vec::new();
    let mut out = Vec::new();
    while order.len() < millis.len() {
        rig.engine.turn(None, &mut out);
        for completion in out.drain(..) {
            assert!(matches!(completion.outcome, Outcome::Timer(Ok(()))));
            assert!(started.elapsed() >= Duration::from_millis(completion.token.0), "early");
            order.push(completion.token.0);
        }
    }
    assert_eq!(order, [1, 3, 5, 7, 9]);
}

fn equal_timers_complete_in_order_of_submission(rig: &mut Rig<'_>) {
    for token in 0..100 {
        rig.engine.submit(Token(token), Op::Timer { after: Duration::ZERO });
    }
    let mut out = Vec::new();
    while rig.engine.in_flight() > 0 {
        rig.engine.turn(None, &mut out);
    }
    let order: Vec<_> = out.iter().map(|completion| completion.token.0).collect();
    assert_eq!(order, (0..100).collect::<Vec<_>>());
}

fn a_turn_ends_when_its_wait_is_over(rig: &mut Rig<'_>) {
    let (listener, _) = listener();
    let accepting = rig.submit(Op::Accept { listener });
    let forever = rig.submit(Op::Timer { after: Duration::MAX });
    for wait in [Duration::ZERO, Duration::from_millis(2)] {
        let started = Instant::now();
        assert_eq!(rig.turn(Some(wait)), 0);
        assert!(started.elapsed() >= wait);
    }
    for token in [accepting, forever] {
        rig.engine.cancel(token);
        rig.finish(token);
    }
}

/// Whether an operation ended because it was cancelled.
fn was_cancelled(outcome: &Outcome) -> bool {
    let (Outcome::Accepted(Err(error))
    | Outcome::Connected(Err(error))
    | Outcome::Opened(Err(error))
    | Outcome::Done(Err(error))
    | Outcome::Timer(Err(error))
    | Outcome::Transmitted { result: Err(error), .. }
    | Outcome::Received { result: Err(error), .. }
    | Outcome::Read { result: Err(error), .. }
    | Outcome::Wrote { result: Err(error), .. }
    | Outcome::ReadBytes { result: Err(error), .. }
    | Outcome::WroteBytes { result: Err(error), .. }) = outcome
    else {
        return false;
    };
    assert!(is_cancelled(error), "{error}");
    true
}

/// Operations that wait for what never comes, and what keeps it from coming.
fn waiting_operations() -> (Vec<Op>, Vec<TcpStream>) {
    let mut ops = vec![Op::Accept { listener: listener().0 }, Op::Timer { after: Duration::from_secs(3600) }];
    let mut peers = Vec::new();
    for body in [None, Some((block(), 0..BLOCK_BYTES))] {
        let (socket, peer) = connection();
        ops.push(Op::Receive { socket, body, tail: TailBuf::exact(Vec::new(), 32) });
        peers.push(peer);
    }
    let mut file = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).expect("file");
    file.write_all(&vec![1; 16 << 20]).expect("write");
    let file: File = Arc::new(file.into());
    let by_reference = || Body::File { file: File::clone(&file), offset: 0, length: 16 << 20 };
    let bodies = [
        (Body::Bytes(vec![0; 16 << 20]), Strategy::Copy),
        (by_reference(), Strategy::Sendfile),
        (by_reference(), Strategy::Copy),
    ];
    for (body, strategy) in bodies {
        let (socket, peer) = narrow_connection();
        ops.push(Op::Transmit { socket, head: vec![0; 32], body, strategy });
        peers.push(peer);
    }
    (ops, peers)
}

fn every_waiting_operation_can_be_cancelled_once(rig: &mut Rig<'_>) {
    let (ops, _peers) = waiting_operations();
    let tokens: Vec<_> = ops.into_iter().map(|op| rig.submit(op)).collect();
    for _ in 0..50 {
        rig.turn(Some(Duration::from_millis(1)));
    }
    for token in &tokens {
        assert!(!rig.is_done(*token));
        rig.engine.cancel(*token);
        rig.engine.cancel(*token);
    }
    for token in tokens {
        let outcome = rig.finish(token);
        assert!(was_cancelled(&outcome), "{outcome:?}");
    }
    assert_eq!(rig.engine.in_flight(), 0);
    assert_eq!(rig.turn(Some(Duration::from_millis(1))), 0, "nothing completes twice");
}

fn what_was_not_yet_submitted_can_be_cancelled(rig: &mut Rig<'_>) {
    let (ops, _peers) = waiting_operations();
    let tokens: Vec<_> = ops.into_iter().map(|op| rig.submit(op)).collect();
    for token in &tokens {
        rig.engine.cancel(*token);
    }
    for token in tokens {
        assert!(was_cancelled(&rig.finish(token)));
    }
    assert_eq!(rig.engine.in_flight(), 0);
}

fn a_connection_under_way_can_be_cancelled(rig: &mut Rig<'_>) {
    // A full backlog drops further connection requests: they stay under way.
    let listener = listen(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0), 1).expect("listener");
    let to = local_address(&listener).expect("address");
    let tokens: Vec<_> = (0..8).map(|_| rig.submit(Op::Connect { to, options: SocketOptions::default() })).collect();
    for _ in 0..20 {
        rig.turn(Some(Duration::from_millis(1)));
    }
    let waiting: Vec<_> = tokens.iter().copied().filter(|token| !rig.is_done(*token)).collect();
    assert!(!waiting.is_empty(), "all connected through a backlog of one");
    for token in &waiting {
        rig.engine.cancel(*token);
    }
    for token in tokens {
        let outcome = rig.finish(token);
        assert_eq!(was_cancelled(&outcome), waiting.contains(&token), "{outcome:?}");
    }
}

fn file_operations_end_once_whether_cancelled_or_not(rig: &mut Rig<'_>) {
    let directory = temporary_directory();
    let path = directory.path().join("a");
    let file = rig.open(&path, OFlags::RDWR | OFlags::CREATE);
    let file = || File::clone(&file);
    let missing = c_path(&directory.path().join("missing"));
    for turns in [0, 1] {
        let ops = vec![
            Op::WriteBytes { file: file(), bytes: vec![1; 4 << 20], offset: 0 },
            Op::Write { file: file(), block: block(), range: 0..BLOCK_BYTES, offset: 0 },
            Op::ReadBytes { file: file(), bytes: vec![1; 4 << 20], offset: 0 },
            Op::Read { file: file(), block: block(), range: 0..BLOCK_BYTES, offset: 0 },
            Op::Open { path: c_path(&path), flags: OFlags::RDONLY, mode: Mode::empty() },
            Op::Allocate { file: file(), len: 8 << 20 },
            Op::Sync { file: file(), data_only: false },
            Op::Rename { from: c_path(&path), to: c_path(&path) },
            Op::Close { file: file() },
        ];
        let tokens: Vec<_> = ops.into_iter().map(|op| rig.submit(op)).collect();
        for _ in 0..turns {
            rig.turn(Some(Duration::ZERO));
        }
        for token in &tokens {
            rig.engine.cancel(*token);
        }
        for token in tokens {
            // Either is right; what is not is neither, both, or another error.
            was_cancelled(&rig.finish(token));
        }
        let token = rig.submit(Op::Unlink { path: missing.clone() });
        rig.engine.cancel(token);
        assert!(was_cancelled(&rig.finish(token)), "it was never submitted");
    }
    assert_eq!(rig.engine.in_flight(), 0);
}

fn a_cancelled_socket_can_be_used_again(rig: &mut Rig<'_>) {
    let (socket, mut peer) = connection();
    let receive = || Op::Receive { socket: File::clone(&socket), body: None, tail: TailBuf::exact(Vec::new(), 4) };
    for _ in 0..3 {
        let token = rig.submit(receive());
        rig.turn(Some(Duration::ZERO));
        rig.engine.cancel(token);
        assert!(was_cancelled(&rig.finish(token)));
        peer.write_all(b"ping").expect("write");
        let Outcome::Received { result, tail, .. } = rig.run(receive()) else { panic!("not a reception") };
        assert_eq!((result.expect("received").tail_bytes, &tail[..]), (4, &b"ping"[..]));
    }
}

fn cancelling_the_unknown_changes_nothing(rig: &mut Rig<'_>) {
    rig.engine.cancel(Token(99));
    let token = rig.submit(Op::Timer { after: Duration::ZERO });
    assert!(matches!(rig.finish(token), Outcome::Timer(Ok(()))));
    rig.engine.cancel(token);
    assert_eq!(rig.turn(Some(Duration::ZERO)), 0);
    assert_eq!(rig.engine.in_flight(), 0);
}

fn many_cancelled_timers_leave_the_others_alone(rig: &mut Rig<'_>) {
    let kept = rig.submit(Op::Timer { after: Duration::from_millis(1) });
    for _ in 0..1000 {
        let token = rig.submit(Op::Timer { after: Duration::from_secs(3600) });
        rig.engine.cancel(token);
        assert!(was_cancelled(&rig.finish(token)));
    }
    assert!(matches!(rig.finish(kept), Outcome::Timer(Ok(()))));
}

fn waking_ends_a_turn_from_another_thread(rig: &mut Rig<'_>) {
    let counter = Arc::new(AtomicU32::new(0));
    for round in 1..=100 {
        let (waker, theirs) = (rig.engine.waker(), Arc::clone(&counter));
        let thread = std::thread::spawn(move || {
            theirs.fetch_add(1, Ordering::Relaxed);
            waker.wake();
        });
        while counter.load(Ordering::Relaxed) < round {
            assert_eq!(rig.turn(None), 0);
        }
        thread.join().expect("thread");
    }
}

fn wakes_are_coalesced(rig: &mut Rig<'_>) {
    let waker = rig.engine.waker();
    for _ in 0..10_000 {
        waker.wake();
    }
    assert_eq!(rig.turn(None), 0, "a wake from before the turn counts");
    // Were there a second wake in store, this turn would end without its timer.
    let timer = rig.submit(Op::Timer { after: Duration::from_millis(1) });
    assert_eq!(rig.turn(None), 1);
    rig.finish(timer);
    waker.wake();
    assert_eq!(rig.turn(None), 0, "and the next wake counts again");
}

fn no_wake_is_lost(rig: &mut Rig<'_>) {
    const MESSAGES: u32 = 20_000;
    let published = Arc::new(AtomicU32::new(0));
    let (waker, theirs) = (rig.engine.waker(), Arc::clone(&published));
    let thread = std::thread::spawn(move || {
        for _ in 0..MESSAGES {
            theirs.fetch_add(1, Ordering::Relaxed);
            waker.wake();
        }
    });
    // Waits without end after it has looked: a lost wake would hang here.
    while published.load(Ordering::Relaxed) < MESSAGES {
        rig.turn(None);
    }
    thread.join().expect("thread");
}

fn a_waker_outlives_its_engine(rig: &mut Rig<'_>) {
    let other = common::open_engine(match rig.engine.kind() {
        hawker_ring::EngineKind::Uring => hawker_ring::EngineChoice::Uring,
        hawker_ring::EngineKind::Epoll => hawker_ring::EngineChoice::Epoll,
    });
    let waker = other.expect("opened before").waker();
    waker.wake();
    waker.clone().wake();
}
