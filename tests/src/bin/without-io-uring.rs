//! Runs a command with io_uring denied, as the default seccomp profiles of Docker and containerd deny it:
//! `without-io-uring COMMAND [ARGUMENT...]`. The three system calls fail with EPERM, in children too.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

/// `io_uring_setup`, `io_uring_enter`, `io_uring_register`: the same numbers on every architecture since Linux 5.1.
const IO_URING_CALLS: [i64; 3] = [425, 426, 427];
const EPERM: u32 = 1;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let Some(program) = arguments.next() else {
        eprintln!("usage: without-io-uring COMMAND [ARGUMENT...]");
        return ExitCode::from(2);
    };
    if let Err(error) = deny_io_uring() {
        eprintln!("without-io-uring: no seccomp filter: {error}");
        return ExitCode::FAILURE;
    }
    let error = Command::new(&program).args(arguments).exec();
    eprintln!("without-io-uring: {}: {error}", program.display());
    ExitCode::FAILURE
}

fn deny_io_uring() -> Result<(), Box<dyn std::error::Error>> {
    let calls: BTreeMap<_, _> = IO_URING_CALLS.map(|call| (call, Vec::new())).into();
    let architecture = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(calls, SeccompAction::Allow, SeccompAction::Errno(EPERM), architecture)?;
    let program: BpfProgram = filter.try_into()?;
    Ok(apply_filter(&program)?)
}
