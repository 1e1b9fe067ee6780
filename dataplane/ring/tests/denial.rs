//! What happens when the host says no: io_uring denied by seccomp, and no descriptors left.

mod common;

use std::process::Command;

use common::{Rig, errno, listener, open_engine};
use hawker_ring::{EngineChoice, EngineKind, File, Op, Outcome, detect};

/// Denies io_uring_setup, io_uring_enter and io_uring_register with EPERM, as container runtimes do, to this thread.
fn deny_io_uring() {
    const LOAD_SYSCALL_NUMBER: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const JUMP_IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    let step =
        |code, jt, jf, k| libc::sock_filter { code: u16::try_from(code).expect("an opcode has 16 bits"), jt, jf, k };
    let number = |number: libc::c_long| u32::try_from(number).expect("a system call number");
    let mut filter = [
        step(LOAD_SYSCALL_NUMBER, 0, 0, 0),
        step(JUMP_IF_EQUAL, 3, 0, number(libc::SYS_io_uring_setup)),
        step(JUMP_IF_EQUAL, 2, 0, number(libc::SYS_io_uring_enter)),
        step(JUMP_IF_EQUAL, 1, 0, number(libc::SYS_io_uring_register)),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs()),
    ];
    let length = u16::try_from(filter.len()).expect("a short filter");
    let program = libc::sock_fprog { len: length, filter: filter.as_mut_ptr() };
    // SAFETY: takes integers only.
    let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(result, 0, "no_new_privs");
    // SAFETY: the program and the filter it points to are alive; the kernel copies both.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(result, 0, "seccomp: {}", std::io::Error::last_os_error());
}

/// In a thread of its own, which takes the filter with it when it ends.
fn without_io_uring(test: fn()) {
    let thread = std::thread::spawn(move || {
        deny_io_uring();
        test();
    });
    thread.join().expect("the test passes");
}

#[test]
fn denied_by_seccomp_auto_takes_epoll_and_says_why() {
    without_io_uring(|| {
        let detection = detect(EngineChoice::Auto).expect("auto always finds an engine");
        assert_eq!((detection.kind, detection.tier.as_str()), (EngineKind::Epoll, "epoll"));
        assert!(detection.reason.contains("seccomp"), "{}", detection.reason);
    });
}

#[test]
fn denied_by_seccomp_uring_is_refused_with_the_reason() {
    without_io_uring(|| {
        let unavailable = detect(EngineChoice::Uring).expect_err("io_uring is denied");
        assert!(unavailable.to_string().contains("seccomp"), "{unavailable}");
    });
}

#[test]
fn a_choice_is_honoured_and_explained() {
    let detection = detect(EngineChoice::Epoll).expect("epoll is everywhere");
    assert_eq!(detection.kind, EngineKind::Epoll);
    assert!(detection.reason.contains("asked for"), "{}", detection.reason);
    let auto = detect(EngineChoice::Auto).expect("auto always finds an engine");
    match detect(EngineChoice::Uring) {
        Ok(detection) => {
            assert_eq!((detection.kind, auto.kind), (EngineKind::Uring, EngineKind::Uring));
            assert!(detection.tier.starts_with("uring-6."), "{}", detection.tier);
        }
        Err(unavailable) => {
            eprintln!("skipped: {unavailable}");
            assert_eq!(auto.kind, EngineKind::Epoll);
        }
    }
    assert_eq!("uring".parse(), Ok(EngineChoice::Uring));
    assert!("fast".parse::<EngineChoice>().is_err());
}

/// Names the engine to the process that may exhaust its descriptors.
const CHILD: &str = "HAWKER_RING_TEST_ENGINE";

#[test]
fn a_listener_survives_running_out_of_descriptors() {
    match std::env::var(CHILD).as_deref() {
        Ok("uring") => exhaust_descriptors(EngineChoice::Uring),
        Ok(_) => exhaust_descriptors(EngineChoice::Epoll),
        Err(_) => {
            for engine in ["uring", "epoll"] {
                let program = std::env::current_exe().expect("this test");
                let status = Command::new(program)
                    .args(["--exact", "a_listener_survives_running_out_of_descriptors", "--nocapture"])
                    .env(CHILD, engine)
                    .status()
                    .expect("the test runs again");
                assert!(status.success(), "with {engine}");
            }
        }
    }
}

fn exhaust_descriptors(choice: EngineChoice) {
    let Some(mut engine) = open_engine(choice) else { return };
    let mut rig = Rig::new(&mut *engine);
    let (listener, address) = listener();
    let _peer = std::net::TcpStream::connect(address).expect("connect");
    let mut hoard = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        hoard.push(file);
    }
    for _ in 0..3 {
        let Outcome::Accepted(result) = rig.run(Op::Accept { listener: File::clone(&listener) }) else {
            panic!("not an accept")
        };
        assert_eq!(errno(&result.expect_err("no descriptor is left")), libc::EMFILE);
    }
    hoard.clear();
    let Outcome::Accepted(result) = rig.run(Op::Accept { listener }) else { panic!("not an accept") };
    result.expect("the connection waited");
}
