//! An origin: its budget, and how fast it really sends.

use alloc::collections::{BTreeSet, VecDeque};
use core::time::Duration;

use hawker_proto::Instant;
use hawker_proto::resolve::ResolveKey;

use crate::event::OriginId;
use crate::table::Slot;
use crate::task::Task;

/// Leases outstanding cover this much of the origin's rate: enough that its link never runs dry while asks travel,
/// little enough that nobody sits on the tail.
const WINDOW: Duration = Duration::from_millis(750);

/// Shortest span over which a rate is measured. Leases report in lumps of a fifth of a second.
const MEASURE_MIN: Duration = Duration::from_millis(400);

/// How long one connection more is not tried after a refusal; doubled by each further one.
const REFUSAL_WAIT: Duration = Duration::from_secs(1);
const REFUSALS_MAX: u32 = 6;

/// One `scheme://host:port`, for all tasks from there.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) id: OriginId,
    /// Leases and resolves open.
    pub(crate) connections: u32,
    /// Leases open.
    pub(crate) leases: u32,
    /// Bytes leased and not yet reported.
    pub(crate) outstanding: u64,
    /// It asked for quiet until then.
    pub(crate) quiet_until: Instant,
    /// Connections that it served when it refused one more.
    served_max: Option<u32>,
    refusals: u32,
    /// One more is not tried before.
    try_at: Instant,
    /// Tasks that have free pieces and asks for them, and where the next round among them begins.
    pub(crate) hungry: BTreeSet<Slot<Task>>,
    pub(crate) next_task: Slot<Task>,
    /// Resolves that wait for a connection.
    pub(crate) resolves: VecDeque<ResolveKey>,
    /// Tasks and resolves that name it.
    pub(crate) users: u32,
    /// A timer is set for then.
    pub(crate) wake_at: Option<Instant>,
    /// Doublings of lease times, since leases ran out before they were fetched.
    pub(crate) patience: u32,
    /// Shortest time from telling a host to resolve to its answer: what a request costs besides its bytes.
    round_trip: Option<Duration>,
    rate: u64,
    measured_since: Instant,
    measured_bytes: u64,
    /// Bytes that may be leased now. Negative: a lease of whole pieces took more than there was, and the next waits.
    tokens: i64,
    refilled_at: Instant,
}

impl Origin {
    pub(crate) fn new(id: OriginId, now: Instant, bytes_per_s: u64) -> Self {
        Self {
            id,
            connections: 0,
            leases: 0,
            outstanding: 0,
            quiet_until: Instant::ZERO,
            served_max: None,
            refusals: 0,
            try_at: Instant::ZERO,
            hungry: BTreeSet::new(),
            next_task: Slot::new(0),
            resolves: VecDeque::new(),
            users: 0,
            wake_at: None,
            patience: 0,
            round_trip: None,
            rate: 0,
            measured_since: now,
            measured_bytes: 0,
            tokens: signed(bytes_per_s),
            refilled_at: now,
        }
    }

    /// Connections that may be opened now, where `most` may be open.
    pub(crate) fn vacant(&self, most: u32) -> u32 {
        self.served_max.map_or(most, |served| most.min(served)).saturating_sub(self.connections)
    }

    /// It answered a request with a failure and no byte. True when that was one too many: it serves others.
    pub(crate) fn refused(&mut self, now: Instant) -> bool {
        if self.connections == 0 {
            return false;
        }
        self.served_max = Some(self.connections);
        self.try_at = now + REFUSAL_WAIT * (1 << self.refusals);
        self.refusals = (self.refusals + 1).min(REFUSALS_MAX);
        true
    }

    /// A lease was fetched: it may serve more by now.
    pub(crate) fn fetched(&mut self, now: Instant) {
        if let Some(served) = self.served_max.as_mut().filter(|_| self.try_at <= now) {
            *served = served.saturating_add(1);
            self.try_at = now + REFUSAL_WAIT * (1 << self.refusals);
        }
    }

    /// A resolve took so long.
    pub(crate) fn answered(&mut self, span: Duration) {
        self.round_trip = Some(self.round_trip.map_or(span, |least| least.min(span)));
    }

    /// Bytes of a lease below which requests cost more than their bytes at `rate` bytes/s; `None` while unknown.
    pub(crate) fn worth_asking(&self, rate: u64) -> Option<u64> {
        Some(bytes_in(rate, self.round_trip?))
    }

    /// Measured bytes/s over all holders; 0 while unknown.
    pub(crate) const fn rate(&self) -> u64 {
        self.rate
    }

    /// Bytes that should be outstanding; `None` while the rate is unknown.
    pub(crate) fn window(&self) -> Option<u64> {
        (self.rate > 0).then(|| bytes_in(self.rate, WINDOW))
    }

    pub(crate) fn lease_opened(&mut self, now: Instant, bytes: u64) {
        if self.leases == 0 {
            // What happened while nothing was leased says nothing about the rate.
            (self.measured_since, self.measured_bytes) = (now, 0);
        }
        self.leases += 1;
        self.connections += 1;
        self.outstanding += bytes;
    }

    pub(crate) fn lease_closed(&mut self, unreported: u64) {
        self.leases -= 1;
        self.connections -= 1;
        self.outstanding -= unreported;
    }

    /// `bytes` more have arrived at some holder.
    pub(crate) fn delivered(&mut self, now: Instant, bytes: u64) {
        self.outstanding -= bytes;
        self.measured_bytes += bytes;
        let span = now.since(self.measured_since);
        if span >= MEASURE_MIN {
            let fresh = rate_of(self.measured_bytes, span);
            self.rate = if self.rate == 0 { fresh } else { self.rate.midpoint(fresh) };
            (self.measured_since, self.measured_bytes) = (now, 0);
        }
    }

    /// One holder alone fetched that fast: the origin is no slower.
    pub(crate) fn at_least(&mut self, bytes: u64, span: Duration) {
        if span >= Duration::from_millis(1) {
            self.rate = self.rate.max(rate_of(bytes, span));
        }
    }

    /// When bytes may be leased at `limit` bytes/s (0: any): `Ok` now, else when.
    pub(crate) fn affordable(&mut self, now: Instant, limit: u64) -> Result<(), Instant> {
        if limit == 0 {
            return Ok(());
        }
        let earned = bytes_in(limit, now.since(self.refilled_at));
        if earned > 0 {
            // A full bucket is one second. Without a whole byte earned the clock stays, or frequent calls would earn
            // nothing for ever.
            self.tokens = self.tokens.saturating_add(signed(earned)).min(signed(limit));
            self.refilled_at = now;
        }
        if self.tokens > 0 {
            return Ok(());
        }
        let missing = u128::from(self.tokens.unsigned_abs()) + 1;
        let nanos = (missing * 1_000_000_000).div_ceil(u128::from(limit));
        Err(now + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    pub(crate) fn spend(&mut self, bytes: u64, limit: u64) {
        if limit > 0 {
            self.tokens = self.tokens.saturating_sub(signed(bytes));
        }
    }

    /// Whether nothing refers to it any more.
    pub(crate) const fn is_unused(&self) -> bool {
        self.users == 0 && self.connections == 0
    }
}

/// Bytes that `rate` bytes/s carry in `span`.
pub(crate) fn bytes_in(rate: u64, span: Duration) -> u64 {
    u64::try_from(u128::from(rate) * span.as_nanos() / 1_000_000_000).unwrap_or(u64::MAX)
}

fn rate_of(bytes: u64, span: Duration) -> u64 {
    u64::try_from(u128::from(bytes) * 1_000_000_000 / span.as_nanos().max(1)).unwrap_or(u64::MAX)
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
