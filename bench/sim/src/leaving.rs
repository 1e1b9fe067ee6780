//! Hosts that go: those that vanish, and those that leave as an agent that is told to stop does.

use std::time::Duration;

use hawker_scheduler::Input;
use hawker_swarm::DownloadInput;

use crate::event::Event;
use crate::host::Host;
use crate::peer::PeerId;
use crate::world::World;

/// How long an agent that was told to stop lets its downloads go on.
const DRAIN: Duration = Duration::from_secs(10);

impl World<'_> {
    /// The host vanishes: nobody is told.
    pub(crate) fn die(&mut self, host: u32) {
        self.hosts[host as usize].is_dead = true;
        self.go(host);
        let notice = self.scenario.death_notice;
        self.clock.push(self.clock.now() + notice, Event::Bereft { host });
    }

    /// The host is told to stop: it takes leave of the scheduler and of those whom it serves, and lets its own downloads
    /// go on for a while.
    pub(crate) fn leave(&mut self, host: u32) {
        let now = self.clock.now();
        let row = &mut self.hosts[host as usize];
        row.is_leaving = true;
        let (is_up, id) = (row.is_up, row.control.id);
        if !is_up {
            self.stop(host);
            return;
        }
        self.say(host, Input::Leave { host: id });
        self.hosts[host as usize].control.lose_stream();
        for peer in self.peers_of(host) {
            self.download(peer, DownloadInput::Scheduler { is_connected: false });
            for child in self.peer(peer).children.clone() {
                let at = now + self.latency(host, child);
                self.clock.push(at, Event::Goodbye { child: PeerId { host: child, ..peer }, parent: host });
            }
        }
        let stops_at = if self.hosts[host as usize].done_at.is_some() { now } else { now + DRAIN };
        // Goodbyes travel on the links that end with the host.
        let stops_at = stops_at.max(now + (self.scenario.latency + self.scenario.zones.latency) * 2);
        self.clock.push(stops_at, Event::Stop { host });
    }

    /// The host that was told to stop does: its links close.
    pub(crate) fn stop(&mut self, host: u32) {
        let row = &mut self.hosts[host as usize];
        if !row.is_dead && !row.has_left {
            row.has_left = true;
            self.go(host);
            self.bereft(host);
        }
    }

    fn go(&mut self, host: u32) {
        let Host { is_up, done_at, uplink, .. } = &mut self.hosts[host as usize];
        *is_up = false;
        uplink.cut();
        self.unfinished -= u32::from(done_at.is_none());
        for (peer, lease) in self.origin.of_host(host) {
            self.close_fetch(peer, lease);
        }
    }
}

impl Host {
    /// It died, or left.
    pub(crate) const fn is_gone(&self) -> bool {
        self.is_dead || self.has_left
    }
}
