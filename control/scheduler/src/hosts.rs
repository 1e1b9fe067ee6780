//! Hosts come, fall silent, come back and go.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

use hawker_proto::HostId;

use crate::cluster::{Cluster, Timer};
use crate::event::{HostInfo, Output, ToHost, WantId};
use crate::host::{Host, Pool, Role};
use crate::table::Slot;
use crate::task::Peer;

/// How long a host that came back has for naming its running tasks again.
const ANNOUNCE_WAIT: Duration = Duration::from_secs(2);

impl Cluster {
    pub(crate) fn join(&mut self, info: HostInfo) {
        let id = info.id;
        let is_known = self.host_slots.contains_key(&id);
        if self.bans.is_banned(id, self.now) || !is_known && self.hosts.len() >= self.config.limits.hosts_max {
            // The full cluster says the same as the closed door: go away for now.
            self.outputs.push_back(Output::Send { host: id, message: ToHost::Ban { host: id } });
            return;
        }
        let stay = self.next_number();
        let zone = self.zone_of(&info);
        if let Some(host) = self.host_slots.get(&id).copied() {
            self.come_back(host, info, zone, stay);
        } else {
            let host = self.hosts.insert(Host {
                info,
                zone,
                is_connected: true,
                is_suspect: false,
                last_seen: self.now,
                gone_at: None,
                stay,
                pool: Pool::default(),
                peers: BTreeMap::new(),
                wants: BTreeMap::new(),
            });
            self.host_slots.insert(id, host);
        }
        self.set_timer(self.config.suspect_after, Timer::Liveness { host: id, stay });
    }

    /// The same host on a new stream: perhaps the same agent, which goes on, perhaps a new one, which knows nothing.
    /// What it does not announce soon is forgotten.
    fn come_back(&mut self, host: Slot<Host>, mut info: HostInfo, zone: u16, stay: u64) {
        let row = &mut self.hosts[host];
        // Its tasks have summed up the rate it first gave.
        info.link_bytes_per_s = row.info.link_bytes_per_s;
        (row.info, row.zone, row.stay) = (info, zone, stay);
        (row.is_connected, row.is_suspect, row.last_seen, row.gone_at) = (true, false, self.now, None);
        for peer in row.peers.values() {
            self.peers[*peer].is_stale = true;
        }
        let id = row.info.id;
        self.hurry_resolves(host);
        self.set_timer(ANNOUNCE_WAIT, Timer::ForgetStale { host: id, stay });
    }

    /// Whoever resolves there has a short time to be heard of again.
    fn hurry_resolves(&mut self, host: Slot<Host>) {
        let grace = self.config.reconnect_grace;
        let latest = self.now + grace;
        let id = self.hosts[host].info.id;
        let mut timers: Vec<(WantId, u64)> = Vec::new();
        for (want, open) in &mut self.hosts[host].wants {
            if let Role::Resolves { attempt, silent_at, .. } = &mut open.role {
                *silent_at = latest.min(*silent_at);
                timers.push((*want, *attempt));
            }
        }
        for (want, attempt) in timers {
            self.set_timer(grace, Timer::Resolver { host: id, want, attempt });
        }
    }

    pub(crate) fn disconnected(&mut self, host: Slot<Host>) {
        let gone_at = self.now + self.config.reconnect_grace;
        let row = &mut self.hosts[host];
        (row.is_connected, row.is_suspect, row.gone_at) = (false, true, Some(gone_at));
        let (id, stay) = (row.info.id, row.stay);
        self.hurry_resolves(host);
        self.set_timer(self.config.reconnect_grace, Timer::Liveness { host: id, stay });
    }

    pub(crate) fn seen(&mut self, host: Slot<Host>) {
        let row = &mut self.hosts[host];
        row.last_seen = self.now;
        if row.is_connected {
            row.is_suspect = false;
        }
    }

    pub(crate) fn check_liveness(&mut self, id: HostId, stay: u64) {
        let Some(host) = self.host_slots.get(&id).copied().filter(|host| self.hosts[*host].stay == stay) else {
            return;
        };
        let row = &mut self.hosts[host];
        let silence = self.now.since(row.last_seen);
        let is_gone = match row.gone_at {
            Some(at) => at <= self.now,
            None => silence >= self.config.gone_after,
        };
        if is_gone {
            self.counters.hosts_lost += 1;
            self.forget_host(host);
            return;
        }
        if row.gone_at.is_some() {
            // The timer of the broken stream comes.
            return;
        }
        let suspect_after = self.config.suspect_after;
        row.is_suspect = silence >= suspect_after;
        let next = if row.is_suspect { self.config.gone_after } else { suspect_after };
        let wait = next.saturating_sub(silence).max(Duration::from_millis(1));
        self.set_timer(wait, Timer::Liveness { host: id, stay });
    }

    pub(crate) fn forget_stale(&mut self, id: HostId, stay: u64) {
        let Some(host) = self.host_slots.get(&id).copied().filter(|host| self.hosts[*host].stay == stay) else {
            return;
        };
        let stale: Vec<Slot<Peer>> =
            self.hosts[host].peers.values().copied().filter(|peer| self.peers[*peer].is_stale).collect();
        for peer in stale {
            self.remove_peer(peer);
        }
    }

    /// Takes the host out of everything: leases, pieces, neighbors, resolves.
    pub(crate) fn forget_host(&mut self, host: Slot<Host>) {
        // First, so that nothing below chooses it again.
        self.hosts[host].is_connected = false;
        self.hosts[host].is_suspect = true;
        let wants: Vec<WantId> = self.hosts[host].wants.keys().copied().collect();
        for want in wants {
            self.drop_want(host, want);
        }
        while let Some(peer) = self.hosts[host].peers.first_key_value().map(|(_, peer)| *peer) {
            self.remove_peer(peer);
        }
        let row = self.hosts.remove(host);
        assert_eq!(row.pool.iter().count(), 0, "a host without peers has no links");
        self.host_slots.remove(&row.info.id);
    }

    fn zone_of(&mut self, info: &HostInfo) -> u16 {
        let Some((_, zone)) = info.labels.iter().find(|(name, _)| name == "zone") else { return 0 };
        if let Some(known) = self.zones.get(zone) {
            return *known;
        }
        let next = self.zones.len() + 1;
        match u16::try_from(next) {
            Ok(number) if next <= self.config.limits.zones_max => {
                self.zones.insert(zone.clone(), number);
                number
            }
            _ => 0,
        }
    }
}
