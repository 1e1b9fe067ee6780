//! Memory that requests point to and that no operation owns: message headers, vectors, peer addresses. It stays where
//! it is, however the engine's vectors grow.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ptr::NonNull;

/// One slot's scratch memory. The kernel writes an address there while an Accept is in flight, so it is only ever
/// reached through its pointer.
pub(super) struct Scratch(NonNull<Layout>);

struct Layout {
    message: libc::msghdr,
    vectors: [libc::iovec; 2],
    address: libc::sockaddr_storage,
    address_bytes: libc::socklen_t,
}

const ADDRESS_BYTES: libc::socklen_t = 128;
const _: () = assert!(size_of::<libc::sockaddr_storage>() == ADDRESS_BYTES as usize);

impl Scratch {
    pub(super) fn new() -> Self {
        // SAFETY: integers, arrays of them and pointers, for all of which zero is a value.
        let layout: Layout = unsafe { std::mem::zeroed() };
        Self(NonNull::from(Box::leak(Box::new(layout))))
    }

    /// Where an Accept puts its peer's address.
    pub(super) fn address(&mut self) -> (*mut libc::sockaddr, *mut libc::socklen_t) {
        let layout = self.layout();
        layout.address_bytes = ADDRESS_BYTES;
        ((&raw mut layout.address).cast(), &raw mut layout.address_bytes)
    }

    /// The address that an Accept has put there; `None` for what is not IP.
    pub(super) fn peer(&mut self) -> Option<SocketAddr> {
        let address = &raw const self.layout().address;
        // SAFETY: the family stands first in every address, and the storage is initialised.
        let family = unsafe { (*address).ss_family };
        match libc::c_int::from(family) {
            libc::AF_INET => {
                // SAFETY: the family says that the storage, large and aligned enough for all, holds this type.
                let v4 = unsafe { &*address.cast::<libc::sockaddr_in>() };
                let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
                Some(SocketAddr::new(ip.into(), u16::from_be(v4.sin_port)))
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                let v6 = unsafe { &*address.cast::<libc::sockaddr_in6>() };
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                Some(std::net::SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
            }
            _ => None,
        }
    }

    pub(super) fn message_to_send(&mut self, head: &[u8], body: &[u8]) -> *const libc::msghdr {
        self.message([(head.as_ptr().cast_mut(), head.len()), (body.as_ptr().cast_mut(), body.len())])
    }

    pub(super) fn message_to_receive(&mut self, body: &mut [u8], tail: &mut [u8]) -> *mut libc::msghdr {
        self.message([(body.as_mut_ptr(), body.len()), (tail.as_mut_ptr(), tail.len())])
    }

    fn message(&mut self, parts: [(*mut u8, usize); 2]) -> *mut libc::msghdr {
        let layout = self.layout();
        let mut count = 0;
        for (base, length) in parts {
            if length > 0 {
                layout.vectors[count] = libc::iovec { iov_base: base.cast(), iov_len: length };
                count += 1;
            }
        }
        layout.message.msg_iov = layout.vectors.as_mut_ptr();
        // An int on one C library and a size on the other.
        layout.message.msg_iovlen = count as _;
        &raw mut layout.message
    }

    fn layout(&mut self) -> &mut Layout {
        // SAFETY: allocated in `new`, freed in `drop`; ours alone while no Accept of this slot is in flight, and one
        // that is keeps the slot from every other use.
        unsafe { self.0.as_mut() }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: made by Box::leak in `new`, and dropped once; the engine has drained its ring or forgets us.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// Where the eventfd's counter is read to; only the kernel looks at it.
pub(super) struct Bell(Option<NonNull<u64>>);

impl Bell {
    pub(super) const BYTES: u32 = 8;

    pub(super) fn new() -> Self {
        Self(Some(NonNull::from(Box::leak(Box::new(0)))))
    }

    pub(super) fn buffer(&self) -> *mut u8 {
        self.0.expect("a leaked bell is not rung").as_ptr().cast()
    }

    /// Gives the memory to the kernel for good.
    pub(super) fn leak(&mut self) {
        self.0 = None;
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        if let Some(buffer) = self.0 {
            // SAFETY: made by Box::leak in `new`, and not leaked since: the engine has drained its ring.
            drop(unsafe { Box::from_raw(buffer.as_ptr()) });
        }
    }
}
