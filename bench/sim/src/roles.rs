//! Which hosts are slow, which die, which leave and which lie: drawn from the seed, so that faults fall on any part of the swarm.

use crate::Scenario;
use crate::clock::Draws;

/// Keeps these draws apart from all others of the run: a swarm with faults starts as the one without.
const SALT: u64 = 0x005e_ed0f_f001;

pub(crate) struct Roles {
    is_slow: Vec<bool>,
    has_slow_disk: Vec<bool>,
    /// In the order in which they die.
    pub(crate) dying: Vec<u32>,
    pub(crate) liars: Vec<u32>,
    /// In the order in which they leave.
    pub(crate) leaving: Vec<u32>,
}

impl Roles {
    /// Seeds neither lie nor die, and are slow only as `slow_seeds` says. Who lies does not die, and neither of them leaves.
    pub(crate) fn draw(scenario: &Scenario) -> Self {
        let mut draws = Draws::new(scenario.seed ^ SALT);
        let wanting = scenario.seeds.min(scenario.hosts)..scenario.hosts;
        let mut faulty = shuffled(wanting.clone().collect(), &mut draws).into_iter();
        let dying = faulty.by_ref().take(scenario.deaths as usize).collect();
        let liars = faulty.by_ref().take(scenario.liars as usize).collect();
        let leaving = faulty.take(scenario.leaves as usize).collect();
        let mut is_slow: Vec<bool> = (0..scenario.hosts).map(|host| host < scenario.slow_seeds).collect();
        for host in shuffled(wanting.clone().collect(), &mut draws).into_iter().take(scenario.slow_hosts as usize) {
            is_slow[host as usize] = true;
        }
        let mut has_slow_disk = vec![false; scenario.hosts as usize];
        for host in shuffled(wanting.collect(), &mut draws).into_iter().take(scenario.slow_disks as usize) {
            has_slow_disk[host as usize] = true;
        }
        Self { is_slow, has_slow_disk, dying, liars, leaving }
    }

    pub(crate) fn is_slow(&self, host: u32) -> bool {
        self.is_slow[host as usize]
    }

    pub(crate) fn has_slow_disk(&self, host: u32) -> bool {
        self.has_slow_disk[host as usize]
    }
}

/// Fisher and Yates.
fn shuffled(mut hosts: Vec<u32>, draws: &mut Draws) -> Vec<u32> {
    for at in (1..hosts.len()).rev() {
        let other = usize::try_from(draws.below(at as u64 + 1)).expect("below a usize");
        hosts.swap(at, other);
    }
    hosts
}
