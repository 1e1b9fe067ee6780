//! From where an address can be reached, so that a redirect never leads further in than its origin stands: a public
//! origin must not make an agent ask what only its network, or only its host, can ask.

use std::error::Error;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use hawker_proto::url::{Host, Url};
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use tower_service::Service;

/// From where an address can be reached; wider is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reach {
    /// From this host or this link alone: loopback, link-local (where clouds keep their metadata), multicast.
    Host,
    /// From a private network.
    Site,
    /// From everywhere.
    World,
}

impl Reach {
    pub(super) const COUNT: usize = 3;
    /// Narrowest first.
    pub(super) const ALL: [Self; Self::COUNT] = [Self::Host, Self::Site, Self::World];

    /// Of an address, and of the IPv4 address inside of one that carries one. Source: the special-purpose address
    /// registries (RFC 6890). Addresses for documentation count as public: nobody keeps anything there.
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => of_v4(address),
            IpAddr::V6(address) => of_v6(address),
        }
    }

    /// Whether `url` may be asked for when nothing narrower than this may. A name is judged when it is resolved.
    pub(super) fn admits(self, url: &Url) -> bool {
        match url.host() {
            Host::Name(_) => true,
            Host::V4(address) => Self::of((*address).into()) >= self,
            Host::V6(address) => Self::of((*address).into()) >= self,
        }
    }
}

fn of_v4(address: Ipv4Addr) -> Reach {
    let [a, b, c, _] = address.octets();
    if a == 0 || address.is_loopback() || address.is_link_local() || address.is_multicast() || address.is_broadcast() {
        return Reach::Host;
    }
    // Shared by a provider (RFC 6598), protocol assignments, benchmarks (RFC 2544), reserved.
    let is_shared = a == 100 && b & 0xc0 == 64;
    let is_special = (a, b, c) == (192, 0, 0) || (a == 198 && b & 0xfe == 18) || a >= 240;
    if address.is_private() || is_shared || is_special { Reach::Site } else { Reach::World }
}

fn of_v6(address: Ipv6Addr) -> Reach {
    let parts = address.segments();
    let v4 = |high: u16, low: u16| of_v4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match parts {
        _ if address.is_loopback() || address.is_unspecified() || address.is_multicast() => Reach::Host,
        [first, ..] if first & 0xffc0 == 0xfe80 => Reach::Host,
        // fc00::/7, and fec0::/10 of before.
        [first, ..] if first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfec0 => Reach::Site,
        // NAT64 (RFC 6052, RFC 8215), 6to4, Teredo and what was compatible with IPv4 once.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0, 0, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        [0x64, 0xff9b, 1, ..] | [0x2001, 0, ..] => Reach::Site,
        _ => Reach::World,
    }
}

/// Resolves names to addresses that can be reached from at least so far. What it gives is what is connected to, so
/// that a name cannot mean one address when it is checked and another when it is used.
#[derive(Clone, Debug)]
pub(super) struct Resolver {
    system: GaiResolver,
    least: Reach,
}

impl Resolver {
    pub(super) fn new(least: Reach) -> Self {
        Self { system: GaiResolver::new(), least }
    }
}

/// A name has no address that may be connected to.
#[derive(Debug)]
pub(super) struct TooNear;

impl fmt::Display for TooNear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name stands for an address of a private network")
    }
}

impl Error for TooNear {}

impl TooNear {
    /// Whether it is the cause of `error`.
    pub(super) fn is_in(error: &(dyn Error + 'static)) -> bool {
        error.is::<Self>() || error.source().is_some_and(Self::is_in)
    }
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.system.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let (found, least) = (self.system.call(name), self.least);
        Box::pin(async move {
            let all: Vec<SocketAddr> = found.await?.collect();
            let is_known = !all.is_empty();
            let far: Vec<SocketAddr> = all.into_iter().filter(|address| Reach::of(address.ip()) >= least).collect();
            if is_known && far.is_empty() { Err(TooNear.into()) } else { Ok(far.into_iter()) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_known_for_what_they_are() {
        let table = [
            (Reach::Host, "127.0.0.1 127.9.9.9 0.0.0.0 0.1.2.3 169.254.169.254 224.0.0.1 255.255.255.255"),
            (Reach::Host, "::1 :: fe80::1 febf::1 ff02::1 ::ffff:127.0.0.1 ::ffff:169.254.169.254 ::127.0.0.1"),
            (Reach::Host, "64:ff9b::127.0.0.1 64:ff9b::a9fe:a9fe 2002:7f00:1:: 2002:a9fe:a9fe::1"),
            (Reach::Site, "10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.255 192.168.0.1 100.64.0.1 100.127.0.1"),
            (Reach::Site, "192.0.0.8 198.18.0.1 198.19.0.1 240.0.0.1 ::ffff:10.0.0.1 ::10.0.0.1 64:ff9b::10.0.0.1"),
            (Reach::Site, "fc00::1 fd00::1 fd00:ec2::254 fec0::1 64:ff9b:1::1 2001:0:1::1 2002:a00:1::1"),
            (Reach::World, "1.1.1.1 11.0.0.1 172.15.0.1 172.32.0.1 192.167.0.1 100.63.0.1 100.128.0.1 169.253.0.1"),
            (Reach::World, "2606:4700::1 2001:db8::1 ::ffff:1.1.1.1 64:ff9b::1.1.1.1 2002:101:101::1 203.0.113.1"),
        ];
        for (reach, addresses) in table {
            for address in addresses.split(' ') {
                assert_eq!(Reach::of(address.parse().unwrap()), reach, "{address}");
            }
        }
    }

    #[tokio::test]
    async fn name_that_means_this_host_is_not_resolved_for_others() {
        let name: Name = "localhost".parse().unwrap();
        assert!(Resolver::new(Reach::Host).call(name.clone()).await.unwrap().count() > 0);
        for least in [Reach::Site, Reach::World] {
            let error = Resolver::new(least).call(name.clone()).await.unwrap_err();
            assert!(TooNear::is_in(error.as_ref()), "{error}");
        }
    }
}
