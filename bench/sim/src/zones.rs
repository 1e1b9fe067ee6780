//! Zones: hosts behind borders that all traffic with other zones and with the origin shares.

use std::time::Duration;

use hawker_proto::Instant;

use crate::network::Downlink;

/// Where hosts are.
#[derive(Clone, Debug, Default)]
pub struct Zones {
    /// Hosts of each zone, dealt out in turn: the first host to the first zone, the second to the second, and on until
    /// all are full. Hosts beyond the sum have no zone and no border. Empty: no zones.
    pub sizes: Vec<u32>,
    /// Of every border, each way, in bytes per second.
    pub border_bytes_per_s: u64,
    /// One way between hosts of different zones, in addition to the latency that all have.
    pub latency: Duration,
}

impl Zones {
    /// `count` zones of equal size (the first ones have one more when `hosts` cannot be divided).
    #[must_use]
    pub fn equal(hosts: u32, count: u32, border_bytes_per_s: u64) -> Self {
        let sizes = (0..count).map(|zone| hosts / count + u32::from(zone < hosts % count)).collect();
        Self { sizes, border_bytes_per_s, latency: Duration::ZERO }
    }

    /// The zone of every host.
    pub(crate) fn deal(&self, hosts: u32) -> Vec<Option<u32>> {
        let mut left = self.sizes.clone();
        let mut dealt = Vec::new();
        while left.iter().any(|left| *left > 0) {
            for (zone, left) in (0..).zip(&mut left).filter(|(_, left)| **left > 0) {
                *left -= 1;
                dealt.push(Some(zone));
            }
        }
        dealt.resize(hosts as usize, None);
        dealt
    }
}

/// The borders in a run.
pub(crate) struct Borders {
    of_host: Vec<Option<u32>>,
    out: Vec<Downlink>,
    into: Vec<Downlink>,
    latency: Duration,
    /// Bytes that came into a zone.
    pub(crate) bytes_in: u64,
}

impl Borders {
    pub(crate) fn new(zones: &Zones, hosts: u32) -> Self {
        let wires = || zones.sizes.iter().map(|_| Downlink::new(zones.border_bytes_per_s)).collect();
        Self { of_host: zones.deal(hosts), out: wires(), into: wires(), latency: zones.latency, bytes_in: 0 }
    }

    /// `None`: it is in no zone.
    pub(crate) fn zone_of(&self, host: u32) -> Option<u32> {
        self.of_host[host as usize]
    }

    pub(crate) fn is_between(&self, host: u32, other: u32) -> bool {
        self.zone_of(host) != self.zone_of(other)
    }

    /// What a way between two hosts takes longer than within a zone.
    pub(crate) fn latency(&self, from: u32, to: u32) -> Duration {
        if self.is_between(from, to) { self.latency } else { Duration::ZERO }
    }

    /// When the first and the last byte of a block that would be at `to` at these times without borders are past
    /// those on its way. `from` is `None` for the origin, which is outside all zones.
    pub(crate) fn pass(&mut self, from: Option<u32>, to: u32, ends: [Instant; 2], bytes: u32) -> [Instant; 2] {
        let (from, to) = (from.and_then(|host| self.zone_of(host)), self.zone_of(to));
        if from == to {
            return ends;
        }
        let mut ends = ends;
        if let Some(from) = from {
            ends = self.out[from as usize].pass(ends, bytes);
        }
        if let Some(to) = to {
            self.bytes_in += u64::from(bytes);
            ends = self.into[to as usize].pass(ends, bytes);
        }
        ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_dealt_out_in_turn() {
        let zones = Zones { sizes: vec![1, 3, 2], ..Zones::default() };
        let dealt = [Some(0), Some(1), Some(2), Some(1), Some(2), Some(1), None];
        assert_eq!(zones.deal(7), dealt);
        assert_eq!(Zones::equal(7, 3, 1).sizes, [3, 2, 2]);
    }

    #[test]
    fn border_is_shared_by_its_zone_and_by_nobody_else() {
        // 1,000 bytes take a second at each border.
        let mut borders = Borders::new(&Zones::equal(4, 2, 1_000), 4);
        let at = |millis| Instant::ZERO + Duration::from_millis(millis);
        let ends = [at(0), at(100)];
        assert_eq!(borders.pass(Some(0), 2, ends, 1_000), ends, "inside a zone");
        assert_eq!(borders.pass(Some(0), 1, ends, 1_000)[1], at(1_000), "cut through");
        assert_eq!(borders.pass(None, 3, ends, 1_000)[1], at(2_000), "behind the block before it");
        assert_eq!(borders.pass(None, 0, ends, 1_000)[1], at(1_000), "another border");
        assert_eq!(borders.bytes_in, 3_000);
    }
}
