//! Sockets before an engine has them: listeners and options.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::op::{File, SocketOptions};

/// Bind and listen. An IPv6 address takes IPv4 too (`[::]` is every address of both), and SO_REUSEADDR lets a
/// restarted process have its port back while old connections linger in TIME_WAIT.
///
/// # Errors
/// As bind(2) and listen(2): address in use, not this host's, or not permitted. The host's configuration.
pub fn listen(address: SocketAddr, backlog: u16) -> io::Result<File> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(i32::from(backlog))?;
    Ok(Arc::new(OwnedFd::from(socket)))
}

/// Sets `options` on a socket, an accepted one say; `source` is of no use after connect and is left out.
///
/// # Errors
/// As setsockopt(2): a congestion control that the host does not have or allow (ENOENT, EPERM).
pub fn tune(socket: impl AsFd, options: &SocketOptions) -> io::Result<()> {
    let socket = SockRef::from(&socket);
    if options.is_nodelay {
        socket.set_tcp_nodelay(true)?;
    }
    if let Some(bytes) = options.notsent_lowat {
        socket.set_tcp_notsent_lowat(bytes)?;
    }
    if let Some(bytes) = options.send_buffer_bytes {
        socket.set_send_buffer_size(bytes)?;
    }
    if let Some(bytes) = options.receive_buffer_bytes {
        socket.set_recv_buffer_size(bytes)?;
    }
    if let Some(name) = &options.congestion {
        sockopt::set_tcp_congestion(&*socket, name)?;
    }
    Ok(())
}

/// How long ago the kernel received data on a TCP socket, read or not: a sign of life inside a long receive.
///
/// # Errors
/// Not a TCP socket.
pub fn last_received(socket: impl AsFd) -> io::Result<Duration> {
    Ok(Duration::from_millis(u64::from(tcp_info(socket)?.tcpi_last_data_recv)))
}

/// The round trip of a TCP socket as the kernel smooths it, with the queues that its segments met on the way.
///
/// # Errors
/// Not a TCP socket.
pub fn round_trip(socket: impl AsFd) -> io::Result<Duration> {
    Ok(Duration::from_micros(u64::from(tcp_info(socket)?.tcpi_rtt)))
}

/// SO_RCVLOWAT: how many bytes must have come before a wait for the socket ends. At 1, as sockets are made, any do.
pub(crate) fn set_receive_low_water(socket: &OwnedFd, bytes: usize) -> io::Result<()> {
    let value = libc::c_int::try_from(bytes).map_err(io::Error::other)?;
    let length = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    let (level, name) = (libc::SOL_SOCKET, libc::SO_RCVLOWAT);
    // SAFETY: setsockopt(2) reads `length` bytes of a live value of that size.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn tcp_info(socket: impl AsFd) -> io::Result<libc::tcp_info> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).map_err(io::Error::other)?;
    let socket = socket.as_fd().as_raw_fd();
    // SAFETY: `info` has room for `length` bytes and outlives the call; the descriptor is borrowed for as long.
    let result = unsafe {
        libc::getsockopt(socket, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut length)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed at first and then partly written by the kernel; every bit pattern is a valid `tcp_info`.
    Ok(unsafe { info.assume_init() })
}

/// The address a listener got, with its port when 0 was asked for.
///
/// # Errors
/// Not an IP socket.
pub fn local_address(socket: impl AsFd) -> io::Result<SocketAddr> {
    SockRef::from(&socket).local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// A nonblocking socket, its options set, whose connection to `to` is under way: it is writable when that has ended.
pub(crate) fn start_connect(to: SocketAddr, options: &SocketOptions) -> io::Result<File> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    tune(&socket, options)?;
    if let Some(source) = options.source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    match socket.connect(&to.into()) {
        Err(error) if !is_under_way(&error) => Err(error),
        _ => Ok(Arc::new(OwnedFd::from(socket))),
    }
}

fn is_under_way(error: &io::Error) -> bool {
    // connect(2): interrupted, a nonblocking connect goes on as if it had said EINPROGRESS.
    let errno = rustix::io::Errno::from_io_error(error);
    matches!(errno, Some(rustix::io::Errno::INPROGRESS | rustix::io::Errno::INTR))
}

/// How a connection that was under way has ended.
pub(crate) fn connect_result(socket: &OwnedFd) -> io::Result<()> {
    SockRef::from(socket).take_error()?.map_or(Ok(()), Err)
}

/// An IPv4 peer of a dual-stack listener as what it is.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => SocketAddr::new(address.ip().to_canonical(), address.port()),
        _ => address,
    }
}

/// What to dial to reach a listener bound to `address` from its own host.
#[must_use]
pub fn loopback_of(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port()),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), address.port()),
        _ => address,
    }
}
