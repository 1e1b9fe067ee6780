//! Small swarms with faults, drawn from a seed.

use core::time::Duration;

use crate::clock::Draws;
use crate::{MIB, Scenario, Zones};

impl Scenario {
    /// A swarm of a few hosts with whatever can go wrong: deaths, seen or silent, a scheduler that goes away, zones, late
    /// and slow hosts, liars (fewer than honest hosts that live), hosts that run rarely, an origin that refuses or is
    /// slow. At least one honest host lives. One seed is one scenario: a failure is repeated by it.
    #[must_use]
    pub fn drawn(seed: u64) -> Self {
        let mut draws = Draws::new(seed);
        let mut draw = |from: u64, to: u64| from + draws.below(to - from);
        let hosts = u32::try_from(draw(1, 17)).expect("small");
        // One file, or a few layers of very different sizes.
        let tasks = if draw(0, 3) == 0 { draw(2, 6) } else { 1 };
        let layers: Vec<u64> = (0..tasks).map(|_| (draw(0, 24 * MIB) >> (3 * draw(0, tasks))) + 1).collect();
        let rate = [1, 4, 20, 125][usize::try_from(draw(0, 4)).expect("small")] * 1_000_000;
        let command = format!("hawker sim --seeds 1 --seed {seed}");
        let equal = Self { seed, command: Some(command), ..Self::image(hosts, &layers, rate) };
        let around = equal.bound().max(Duration::from_millis(100));
        let mut part = |one_in: u64, most: Duration| match draw(0, one_in) {
            0 => most * u32::try_from(draw(0, 1 << 10)).expect("small") / (1 << 10),
            _ => Duration::ZERO,
        };
        let noise = part(3, Duration::from_millis(20));
        let start_spread = part(3, around * 2);
        let deaths_from = part(1, around);
        let deaths_until = deaths_from + part(2, around);
        let death_notice = part(2, Duration::from_secs(5));
        let away_from = part(1, around);
        let away_until = away_from + part(1, around + Duration::from_secs(5)) + Duration::from_millis(1);
        let latency = Duration::from_micros(20) + part(2, Duration::from_millis(50));
        let few = |count: u64| u32::try_from(count).expect("small");
        let liars = if draw(0, 2) == 0 { few(draw(0, u64::from(hosts).div_ceil(2))) } else { 0 };
        let deaths = if draw(0, 2) == 0 { few(draw(0, u64::from(hosts - 2 * liars))) } else { 0 };
        let slow_hosts = if draw(0, 3) == 0 { few(draw(0, u64::from(hosts) + 1)) } else { 0 };
        let scheduler_away = (draw(0, 3) == 0).then_some((away_from, away_until));
        let origin_bytes_per_s = rate * draw(1, 9) / 4;
        // Zones of very different sizes, hosts in none, and borders from a fourth of one host's wire to two of them.
        let zones = if draw(0, 3) == 0 { draw(1, 5) } else { 0 };
        let sizes: Vec<u32> = (0..zones).map(|_| few(draw(0, 1 + u64::from(hosts)))).collect();
        let border_bytes_per_s = rate * draw(1, 9) / 4;
        let border_latency = Duration::from_micros(draw(0, 20_000));
        let zones = Zones { sizes, border_bytes_per_s, latency: border_latency };
        let slow_factor = 1 + draw(0, 4);
        // Whoever has no neighbor left but one that claims everything and sends nothing starves once for each piece.
        let alone_with_liars = Duration::from_secs(if liars > 0 { 8 } else { 0 }) * equal.piece_count();
        let mut cluster = equal.cluster.clone();
        if draw(0, 3) == 0 {
            cluster.origin_connections_max = few(draw(1, 9));
        }
        if draw(0, 4) == 0 {
            cluster.origin_bytes_per_s = origin_bytes_per_s * draw(1, 9) / 4;
        }
        Self {
            cluster,
            noise,
            liars,
            start_spread,
            deaths,
            deaths_from,
            deaths_until,
            death_notice,
            latency,
            slow_hosts,
            slow_factor,
            scheduler_away,
            zones,
            origin_bytes_per_s,
            time_max: around * 50 + Duration::from_secs(120) + alone_with_liars,
            ..equal
        }
        .with_narrow_places(&mut draws, rate, around)
        .with_broken_places(&mut draws, around)
    }

    /// The same with connections that break, bodies of the origin that end early, and disks that lose what is written or
    /// rot.
    fn with_broken_places(self, draws: &mut Draws, around: Duration) -> Self {
        let mut draw = |one_in: u64, to: u64| {
            let value = draws.below(to) + 1;
            if draws.below(one_in) == 0 { u32::try_from(value).expect("small") } else { 0 }
        };
        let cuts = draw(3, 2 * u64::from(self.hosts));
        let cut_for = around * draw(1, 1 << 10) / (1 << 11) + Duration::from_millis(u64::from(draw(2, 5_000)));
        Self {
            cuts,
            cuts_until: around * draw(1, 1 << 11) / (1 << 10),
            cut_for,
            lost_writes_ppm: draw(4, 20_000),
            rotten_reads_ppm: draw(4, 20_000),
            broken_bodies_ppm: draw(4, 100_000),
            time_max: self.time_max + (cut_for + Duration::from_secs(10)) * cuts,
            ..self
        }
    }

    /// The same with an origin that refuses what is beyond a few connections, or whose connections are slow; with hosts
    /// that leave, some before they have everything; with disks from an eighth of the wires' rate.
    fn with_narrow_places(self, draws: &mut Draws, rate: u64, around: Duration) -> Self {
        let mut draw = |from: u64, to: u64| from + draws.below(to - from);
        let few = |count: u64| u32::try_from(count).expect("small");
        let origin_connections_max = if draw(0, 4) == 0 { few(draw(1, 17)) } else { 0 };
        let origin_connection_bytes_per_s = if draw(0, 4) == 0 { rate * draw(1, 9) / 8 } else { 0 };
        let staying = self.hosts - 2 * self.liars - self.deaths;
        let leaves = if draw(0, 4) == 0 { few(draw(0, u64::from(staying))) } else { 0 };
        let leaves_from = around * few(draw(0, 1 << 10)) / (1 << 10);
        let leaves_until = leaves_from + around * few(draw(0, 1 << 10)) / (1 << 10);
        let slow_disks = if draw(0, 4) == 0 { few(draw(0, u64::from(self.hosts) + 1)) } else { 0 };
        let slow_disk_bytes_per_s = rate * draw(1, 9) / 8;
        // The scheduler does not learn how many connections an origin serves: each refusal costs its host seconds.
        let refused = Duration::from_secs(if origin_connections_max > 0 { 4 } else { 0 }) * self.piece_count();
        Self {
            origin_connections_max,
            origin_connection_bytes_per_s,
            leaves,
            leaves_from,
            leaves_until,
            slow_disks,
            slow_disk_bytes_per_s,
            time_max: self.time_max + refused,
            ..self
        }
    }
}
