//! One simulated host: what all its tasks share.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hawker_proto::Instant;
use hawker_swarm::{Places, Upload};

use crate::Scenario;
use crate::agent::Control;
use crate::disk::Disk;
use crate::liar::Liar;
use crate::network::{Downlink, Uplink};
use crate::roles::Roles;

pub(crate) struct Host {
    pub(crate) control: Control,
    pub(crate) upload: Upload,
    /// What its downloads hold at parents, by task.
    pub(crate) places: Places<u16>,
    pub(crate) uplink: Uplink,
    pub(crate) downlink: Downlink,
    pub(crate) disk: Disk,
    pub(crate) slots_free: u32,
    /// Links that it dialed: when each is ready for a channel. All tasks share them.
    pub(crate) dialed: BTreeMap<u32, Instant>,
    /// Links that others dialed, and how many channels each carries.
    pub(crate) served: BTreeMap<u32, u16>,
    /// Hosts that sent it wrong bytes.
    pub(crate) shunned: BTreeSet<u32>,
    /// What it keeps if it lies.
    pub(crate) liar: Option<Liar>,
    pub(crate) is_slow: bool,
    /// What it says of its wire.
    pub(crate) link_bytes_per_s: u64,
    /// When it handles what reached it meanwhile.
    pub(crate) ready_at: Instant,
    /// When it ran last.
    pub(crate) turn_at: Instant,
    /// A wake-up already among the events.
    pub(crate) upload_wake: Option<Instant>,
    pub(crate) started_at: Instant,
    pub(crate) is_up: bool,
    pub(crate) is_dead: bool,
    /// It has no connections, and gets none.
    pub(crate) is_cut: bool,
    /// When it lost them last, and how often it did.
    pub(crate) cut_at: Instant,
    pub(crate) cuts: u32,
    /// It was told to stop: it takes nobody new, and opens no stream.
    pub(crate) is_leaving: bool,
    /// It was told to stop, and did.
    pub(crate) has_left: bool,
    /// Tasks it does not have yet.
    pub(crate) tasks_left: usize,
    /// When it had all of them.
    pub(crate) done_at: Option<Instant>,
    pub(crate) bytes_sent: u64,
}

impl Host {
    pub(crate) fn new(scenario: &Scenario, index: u32, start: Instant, roles: &Roles) -> Self {
        let is_slow = roles.is_slow(index);
        let slower = if is_slow { scenario.slow_factor } else { 1 };
        Self {
            control: Control::new(index),
            upload: Upload::new(scenario.upload),
            places: Places::default(),
            uplink: Uplink::new(scenario.up_bytes_per_s / slower),
            downlink: Downlink::new(scenario.down_bytes_per_s / slower),
            disk: Disk::new(if roles.has_slow_disk(index) { scenario.slow_disk_bytes_per_s } else { 0 }),
            slots_free: scenario.slots,
            dialed: BTreeMap::new(),
            served: BTreeMap::new(),
            shunned: BTreeSet::new(),
            liar: None,
            is_slow,
            link_bytes_per_s: scenario.up_bytes_per_s / slower,
            ready_at: start,
            turn_at: start,
            upload_wake: None,
            started_at: start,
            is_up: false,
            is_dead: false,
            is_cut: false,
            cut_at: Instant::ZERO,
            cuts: 0,
            is_leaving: false,
            has_left: false,
            tasks_left: scenario.tasks.len(),
            done_at: None,
            bytes_sent: 0,
        }
    }

    /// How long it took, from its own start.
    pub(crate) fn duration(&self) -> Option<Duration> {
        self.done_at.map(|at| at.since(self.started_at))
    }

    /// Draws when the host runs again after it ran now: all that reached it until then is handled in one turn.
    pub(crate) fn rest(&mut self, now: Instant, noise: Duration, draw: impl FnOnce(u64) -> u64) {
        if !noise.is_zero() && now >= self.ready_at {
            self.turn_at = now;
            let nanos = u64::try_from(noise.as_nanos()).unwrap_or(u64::MAX);
            self.ready_at = now + Duration::from_nanos(draw(nanos));
        }
    }
}
