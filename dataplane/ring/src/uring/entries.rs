//! Requests for the ring, made from operations.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use io_uring::squeue::Entry;
use io_uring::{opcode, types};

use super::scratch::{Bell, Scratch};
use crate::work::{Direction, FileOp, Receive, Transmit};

/// One request reads or writes this much at most: its length field has 32 bits, its result 31.
const TRANSFER_BYTES_MAX: usize = 1 << 30;

/// include/uapi/linux/io_uring.h: wait for the socket before the first attempt. Linux 5.19.
const RECVSEND_POLL_FIRST: u16 = 1;

pub(super) fn accept(listener: &OwnedFd, scratch: &mut Scratch) -> Entry {
    let (address, length) = scratch.address();
    opcode::Accept::new(fd(listener), address, length).flags(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK).build()
}

pub(super) fn poll(socket: &OwnedFd, direction: Direction) -> Entry {
    let events = match direction {
        Direction::In => libc::POLLIN,
        Direction::Out => libc::POLLOUT,
    };
    opcode::PollAdd::new(fd(socket), u32::from(events.unsigned_abs())).build()
}

pub(super) fn send(transmit: &Transmit, scratch: &mut Scratch) -> Entry {
    let flags = transmit.flags().bits() | libc::MSG_WAITALL.unsigned_abs();
    let [head, body] = transmit.parts();
    let message = scratch.message_to_send(head, body);
    opcode::SendMsg::new(fd(transmit.socket()), message).flags(flags).build()
}

pub(super) fn receive(receive: &mut Receive, scratch: &mut Scratch) -> Entry {
    // The ring would take what has come, wait for all of the low water mark again, and that may never come.
    let is_for_much = receive.wait_for_much();
    let flags = if receive.is_wait_all() && !is_for_much { libc::MSG_WAITALL.unsigned_abs() } else { 0 };
    let first = if is_for_much { RECVSEND_POLL_FIRST } else { 0 };
    let socket = fd(receive.socket());
    let [body, tail] = receive.parts();
    let message = scratch.message_to_receive(body, tail);
    opcode::RecvMsg::new(socket, message).ioprio(first).flags(flags).build()
}

pub(super) fn bell(eventfd: BorrowedFd<'_>, bell: &Bell) -> Entry {
    opcode::Read::new(types::Fd(eventfd.as_raw_fd()), bell.buffer(), Bell::BYTES).build()
}

pub(super) fn file(op: &mut FileOp) -> Entry {
    let here = types::Fd(libc::AT_FDCWD);
    match op {
        FileOp::Read(transfer) => {
            let offset = transfer.position();
            let (file, memory) = transfer.file_and_memory();
            opcode::Read::new(fd(file), memory.as_mut_ptr(), clip(memory.len())).offset(offset).build()
        }
        FileOp::Write(transfer) => {
            let memory = transfer.rest();
            opcode::Write::new(fd(&transfer.file), memory.as_ptr(), clip(memory.len()))
                .offset(transfer.position())
                .build()
        }
        FileOp::Open { path, flags, mode } => {
            let flags = i32::try_from(flags.bits()).expect("open(2) takes an int");
            opcode::OpenAt::new(here, path.as_ptr()).flags(flags).mode(mode.bits()).build()
        }
        FileOp::Allocate { file, len } => opcode::Fallocate::new(fd(file), *len).build(),
        FileOp::Sync { file, data_only } => {
            let flags = if *data_only { types::FsyncFlags::DATASYNC } else { types::FsyncFlags::empty() };
            opcode::Fsync::new(fd(file)).flags(flags).build()
        }
        FileOp::Rename { from, to } => opcode::RenameAt::new(here, from.as_ptr(), here, to.as_ptr()).build(),
        FileOp::Unlink { path } => opcode::UnlinkAt::new(here, path.as_ptr()).build(),
        FileOp::Close { file } => {
            let file = file.as_ref().expect("there is something to close");
            opcode::Close::new(fd(file)).build()
        }
    }
}

fn fd(file: &OwnedFd) -> types::Fd {
    types::Fd(file.as_raw_fd())
}

fn clip(length: usize) -> u32 {
    u32::try_from(length.min(TRANSFER_BYTES_MAX)).expect("clipped to 30 bits")
}
