//! Hosts come, fall silent, come back and go.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

use crate::cluster::{Cluster, Timer, Work};
use crate::event::{HostInfo, Output, ToHost, WantId};
use crate::host::{Host, Parts, Pool, Role};
use crate::table::Slot;
use crate::task::Peer;

/// How long a host that came back has for naming its running tasks again.
const ANNOUNCE_WAIT: Duration = Duration::from_secs(2);

/// Tasks that a host is taken out of at a time: each may have neighbors to tell.
const PEERS_PER_STEP: usize = 4;

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
        let host = if let Some(host) = self.host_slots.get(&id).copied() {
            self.come_back(host, info, zone, stay);
            host
        } else {
            let host = self.hosts.insert(Host {
                info,
                zone,
                is_connected: true,
                is_suspect: false,
                is_leaving: false,
                last_seen: self.now,
                gone_at: None,
                stay,
                pool: Pool::default(),
                peers: Parts::default(),
                wants: BTreeMap::new(),
            });
            self.host_slots.insert(id, host);
            host
        };
        self.set_timer(self.config.suspect_after, Timer::Liveness { host, stay });
    }

    /// The same host on a new stream: perhaps the same agent, which goes on, perhaps a new one, which knows nothing.
    /// What it does not announce soon is forgotten.
    fn come_back(&mut self, host: Slot<Host>, mut info: HostInfo, zone: u16, stay: u64) {
        let row = &mut self.hosts[host];
        // Its tasks have it in the lists of the zone it first named.
        let zone = if row.peers.is_empty() { zone } else { row.zone };
        // Its tasks have summed up the rate it first gave.
        info.link_bytes_per_s = row.info.link_bytes_per_s;
        (row.info, row.zone, row.stay) = (info, zone, stay);
        (row.is_connected, row.is_suspect, row.last_seen, row.gone_at) = (true, false, self.now, None);
        // Back before all that it had was taken from it.
        row.is_leaving = false;
        let peers: Vec<Slot<Peer>> = row.peers.iter().map(|(_, peer)| peer).collect();
        for peer in peers {
            self.peers[peer].is_stale = true;
            // Who asked may be gone.
            self.forget_ask(peer);
        }
        self.vacate_all(host);
        self.hurry_resolves(host);
        self.set_timer(ANNOUNCE_WAIT, Timer::ForgetStale { host, stay });
    }

    /// Whoever resolves there has a short time to be heard of again.
    fn hurry_resolves(&mut self, host: Slot<Host>) {
        let grace = self.config.reconnect_grace;
        let latest = self.now + grace;
        let mut timers: Vec<(WantId, u64)> = Vec::new();
        for (want, open) in &mut self.hosts[host].wants {
            if let Role::Resolves { attempt, silent_at, .. } = &mut open.role {
                *silent_at = latest.min(*silent_at);
                timers.push((*want, *attempt));
            }
        }
        for (want, attempt) in timers {
            self.set_timer(grace, Timer::Resolver { host, want, attempt });
        }
    }

    pub(crate) fn disconnected(&mut self, host: Slot<Host>) {
        let gone_at = self.now + self.config.reconnect_grace;
        let row = &mut self.hosts[host];
        (row.is_connected, row.is_suspect, row.gone_at) = (false, true, Some(gone_at));
        let stay = row.stay;
        self.vacate_all(host);
        self.hurry_resolves(host);
        self.set_timer(self.config.reconnect_grace, Timer::Liveness { host, stay });
    }

    pub(crate) fn seen(&mut self, host: Slot<Host>) {
        let row = &mut self.hosts[host];
        row.last_seen = self.now;
        if row.is_connected && row.is_suspect {
            row.is_suspect = false;
            self.contest_all(host);
        }
    }

    pub(crate) fn check_liveness(&mut self, host: Slot<Host>, stay: u64) {
        let Some(row) = self.hosts.get_mut(host).filter(|row| row.stay == stay) else { return };
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
        let is_suspect = row.is_suspect;
        let next = if is_suspect { self.config.gone_after } else { suspect_after };
        let wait = next.saturating_sub(silence).max(Duration::from_millis(1));
        self.set_timer(wait, Timer::Liveness { host, stay });
        if is_suspect {
            self.vacate_all(host);
        }
    }

    pub(crate) fn forget_stale(&mut self, host: Slot<Host>, stay: u64) {
        let Some(row) = self.hosts.get(host).filter(|row| row.stay == stay) else { return };
        let peers = row.peers.iter().map(|(_, peer)| peer).filter(|peer| self.peers[*peer].is_stale).collect();
        self.backlog.push_back(Work::ForgetStale { host, stay, peers });
    }

    /// Takes the host out of the next of `peers`, unless it named them meanwhile. True when there are more.
    pub(crate) fn forget_next_stale(&mut self, host: Slot<Host>, stay: u64, peers: &mut Vec<Slot<Peer>>) -> bool {
        for _ in 0..PEERS_PER_STEP {
            let is_same = self.hosts.get(host).is_some_and(|row| row.stay == stay);
            let Some(peer) = peers.pop().filter(|_| is_same) else { return false };
            if self.peers.get(peer).is_some_and(|row| row.host == host && row.is_stale) {
                self.remove_peer(peer);
            }
        }
        true
    }

    /// Takes the host out of everything: leases, pieces, neighbors, resolves.
    pub(crate) fn forget_host(&mut self, host: Slot<Host>) {
        let stay = self.next_number();
        let row = &mut self.hosts[host];
        // First, so that nothing below chooses it again. Its timers are those of another stay.
        (row.is_connected, row.is_suspect, row.is_leaving, row.stay) = (false, true, true, stay);
        let wants: Vec<WantId> = row.wants.keys().copied().collect();
        for want in wants {
            self.drop_want(host, want);
        }
        self.backlog.push_back(Work::Forget { host, stay });
    }

    /// Takes the host out of the next of its tasks, and forgets it after the last. True when there are more.
    pub(crate) fn forget_next(&mut self, host: Slot<Host>, stay: u64) -> bool {
        for _ in 0..PEERS_PER_STEP {
            let Some(row) = self.hosts.get(host).filter(|row| row.stay == stay) else { return false };
            let Some(peer) = row.peers.last() else {
                let row = self.hosts.remove(host);
                assert_eq!(row.pool.iter().count(), 0, "a host without peers has no links");
                self.host_slots.remove(&row.info.id);
                return false;
            };
            self.remove_peer(peer);
        }
        true
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
