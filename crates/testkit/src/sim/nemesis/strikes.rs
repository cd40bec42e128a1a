//! Faults as they begin.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::cluster::{Cluster, LinkState};
use super::super::disks;
use super::super::faults::FaultKind;
use super::super::machine::Standing;
use super::{Deed, FAULT_MAX_MS, Nemesis};

/// Slowest link.
const LATENCY_MAX_MS: u64 = 400;
/// An orderly stop takes at most this long.
const STOP_MAX: Duration = Duration::from_secs(15);
/// Longest stop of a process.
const PAUSE_MAX_MS: u64 = 6_000;
/// A link that flaps is lost for at most this long each time.
const FLAP_MAX_MS: u64 = 60;
/// So often it flaps at most.
const FLAPS_MAX: u64 = 12;
/// Power that goes in the middle of some work goes within so many calls that change the disk …
const CUT_CALLS_MAX: u64 = 40;
/// … and within this time.
const CUT_WITHIN: Duration = Duration::from_millis(500);
/// Hand-overs of a storm.
const HAND_OVERS_MAX: u64 = 12;
/// A disk is slower by this factor at most.
const SLOWNESS_MAX: u64 = 60;

impl Nemesis {
    /// Begins a fault of `kind`, unless there is nobody to strike.
    pub(super) fn strike(&mut self, cluster: &mut Cluster, kind: FaultKind) {
        self.count += 1;
        let fault = self.count;
        self.begun.insert(fault, cluster.elapsed());
        let free: Vec<usize> =
            self.shuffled(cluster).into_iter().filter(|m| self.is_free(cluster, *m)).collect();
        cluster.say(format_args!("fault {fault}: {kind}"));
        let is_installed = match kind {
            FaultKind::Isolate
            | FaultKind::Halves
            | FaultKind::MajorityRing
            | FaultKind::Bridge
            | FaultKind::OneWay
            | FaultKind::Hold
            | FaultKind::ClientCut => self.part(cluster, fault, kind),
            FaultKind::Flap => self.flap(cluster, fault),
            FaultKind::Latency => self.slow_link(cluster, fault),
            FaultKind::PowerCutAll => self.fell_all(cluster, fault),
            FaultKind::TransferStorm => self.hand_over_often(cluster, fault),
            kind => self.strike_machine(cluster, fault, kind, free),
        };
        // Pauses and faults of disks take place when they hold somebody up, or a call meets them.
        if is_installed {
            self.note(cluster, fault, kind);
        }
    }

    fn strike_machine(
        &mut self,
        cluster: &mut Cluster,
        fault: u64,
        kind: FaultKind,
        mut free: Vec<usize>,
    ) -> bool {
        if matches!(kind, FaultKind::KillLeader | FaultKind::PauseLeader | FaultKind::Transfer) {
            free.sort_by_key(|machine| std::cmp::Reverse(cluster.led_by(*machine)));
        }
        if kind == FaultKind::SnapshotCut {
            free.sort_by_key(|machine| cluster.led_by(*machine));
        }
        if kind.is_destructive() {
            free.retain(|machine| *machine == self.scapegoat);
        }
        let Some(&victim) = free.first() else {
            cluster.say("nobody to strike");
            return false;
        };
        match kind {
            FaultKind::Kill | FaultKind::KillLeader | FaultKind::PowerCut => {
                self.fell_some(cluster, fault, kind, free)
            }
            FaultKind::KillInRecovery => self.kill_in_recovery(cluster, fault, victim),
            FaultKind::Restart => self.restart(cluster, fault, victim),
            FaultKind::Pause
            | FaultKind::PauseLeader
            | FaultKind::SlowDisk
            | FaultKind::HungDisk => self.brake(cluster, fault, kind, victim),
            FaultKind::Transfer => {
                cluster.hand_over(victim);
                self.plan_within(cluster, fault, 500, Deed::Over)
            }
            FaultKind::ClockRate | FaultKind::ClockJump | FaultKind::ClockFreeze => {
                self.bend(cluster, fault, kind, victim)
            }
            FaultKind::Wipe => self.wipe(cluster, fault, victim),
            FaultKind::TornWrite => self.tear_write(cluster, fault, victim),
            FaultKind::SnapshotCut => self.leave_behind(cluster, fault, victim),
            kind => self.spoil_disk(cluster, fault, kind, victim),
        }
    }

    fn plan_within(&mut self, cluster: &Cluster, fault: u64, max_ms: u64, deed: Deed) -> bool {
        let later = self.below_ms(max_ms);
        self.plan(cluster, fault, later, deed);
        true
    }

    fn shuffled(&mut self, cluster: &Cluster) -> Vec<usize> {
        let mut machines: Vec<usize> = (0..cluster.nodes()).collect();
        for i in (1..machines.len()).rev() {
            machines.swap(i, self.random.below(i as u64 + 1) as usize);
        }
        machines
    }

    /// Cuts links for a while.
    fn part(&mut self, cluster: &mut Cluster, fault: u64, kind: FaultKind) -> bool {
        let order = self.shuffled(cluster);
        let half = order.len() / 2;
        let (minority, majority) = order.split_at(half);
        let clients: Vec<usize> = (cluster.nodes()..cluster.ends()).collect();
        let links = match kind {
            FaultKind::Isolate => all(&order[..1], &order[1..], LinkState::Cut),
            FaultKind::Halves => all(minority, majority, LinkState::Cut),
            FaultKind::Bridge => all(minority, &majority[1..], LinkState::Cut),
            FaultKind::MajorityRing => ring(&order),
            FaultKind::OneWay => all(&order[..1], &order[1..2], LinkState::OneWay { to: order[0] }),
            FaultKind::ClientCut => all(&order[..1], &clients, LinkState::Cut),
            _ => all(&order[..1], &order[1..], LinkState::Held),
        };
        let names: Vec<_> = order.iter().map(|machine| format!("n{}", machine + 1)).collect();
        cluster.say(format_args!("{kind} with {}", names.join(" ")));
        let is_installed = !links.is_empty();
        self.links.insert(fault, links);
        self.apply_links(cluster);
        self.plan_within(cluster, fault, FAULT_MAX_MS, Deed::EndLinks);
        is_installed
    }

    fn flap(&mut self, cluster: &mut Cluster, fault: u64) -> bool {
        let ends = cluster.ends() as u64;
        let mut at = Duration::ZERO;
        for _ in 0..=self.random.below(FLAPS_MAX) {
            let (a, b) = (self.random.below(ends) as usize, self.random.below(ends) as usize);
            // Clients have nothing to say to each other.
            if a == b || a.min(b) >= cluster.nodes() {
                continue;
            }
            self.plan(cluster, fault, at, Deed::CutLink(a, b, LinkState::Cut));
            at += self.below_ms(FLAP_MAX_MS);
            self.plan(cluster, fault, at, Deed::EndLinks);
            at += self.below_ms(FLAP_MAX_MS);
        }
        !at.is_zero()
    }

    fn slow_link(&mut self, cluster: &mut Cluster, fault: u64) -> bool {
        let order = self.shuffled(cluster);
        let (a, b) = (order[0], order[1]);
        let latency = self.below_ms(LATENCY_MAX_MS);
        cluster.say(format_args!("up to {latency:?} between n{} and n{}", a + 1, b + 1));
        cluster.set_latency(a, b, latency);
        self.plan_within(cluster, fault, FAULT_MAX_MS, Deed::EndLatency(a, b))
    }

    /// Takes one machine, or a minority, down for a while.
    fn fell_some(
        &mut self,
        cluster: &mut Cluster,
        fault: u64,
        kind: FaultKind,
        mut victims: Vec<usize>,
    ) -> bool {
        let minority = (cluster.nodes() - 1) / 2;
        victims.truncate(1 + self.random.below(minority as u64) as usize);
        let later = self.below_ms(FAULT_MAX_MS);
        for machine in victims {
            if kind == FaultKind::PowerCut && self.random.chance(50) {
                let disk = cluster.disk(machine);
                let calls = 1 + self.random.below(CUT_CALLS_MAX);
                disk.cut_power_at(Some(disk.counters().mutations + calls));
                let until = cluster.elapsed() + CUT_WITHIN;
                self.plan(cluster, fault, Duration::ZERO, Deed::CutMidway(machine, until));
            } else {
                self.fell(cluster, machine, kind);
                self.plan(cluster, fault, later, Deed::Start(machine));
            }
        }
        true
    }

    /// All machines lose power, those that other faults have in hand included.
    fn fell_all(&mut self, cluster: &mut Cluster, fault: u64) -> bool {
        let (mine, others): (BTreeMap<_, _>, _) = std::mem::take(&mut self.agenda)
            .into_iter()
            .partition(|(_, (_, deed))| deed.machine().is_some());
        self.agenda = others;
        for (ended, deed) in mine.into_values() {
            if let Deed::EndBrakes(machine, before, kind) = deed {
                self.end_brakes(cluster, ended, (machine, before, kind));
            } else if let Deed::EndDisk(machine, planted, kind) = deed {
                if planted.end() {
                    self.note(cluster, ended, kind);
                }
                cluster.disk(machine).set_capacity(None);
                if !self.is_suspect(machine) {
                    cluster.excuse(machine, false);
                }
            } else if let Deed::Return(_) = deed {
                self.links.remove(&ended);
                self.apply_links(cluster);
            }
        }
        let mut later = Duration::ZERO;
        for machine in self.shuffled(cluster) {
            if self.is_lost(machine) {
                continue;
            }
            if cluster.standing(machine) != Standing::Down {
                self.fell(cluster, machine, FaultKind::PowerCut);
            }
            later += self.below_ms(500);
            self.plan(cluster, fault, later, Deed::Start(machine));
        }
        true
    }

    fn kill_in_recovery(&mut self, cluster: &mut Cluster, fault: u64, machine: usize) -> bool {
        let kind = if self.random.chance(50) { FaultKind::PowerCut } else { FaultKind::Kill };
        self.fell(cluster, machine, kind);
        let mut later = Duration::from_millis(1);
        for _ in 0..=self.random.below(3) {
            self.plan(cluster, fault, later, Deed::Start(machine));
            later += self.below_ms(100);
            self.plan(cluster, fault, later, Deed::Fell(machine, kind));
            later += Duration::from_millis(1);
        }
        self.plan(cluster, fault, later, Deed::Start(machine));
        true
    }

    fn restart(&mut self, cluster: &mut Cluster, fault: u64, machine: usize) -> bool {
        cluster.ask_to_stop(machine);
        let (boots, until) = (cluster.boots(machine), cluster.elapsed() + STOP_MAX);
        self.plan(cluster, fault, Duration::ZERO, Deed::Stopped { machine, boots, until });
        true
    }

    /// Pauses a process, or slows a disk down. Whether it did anything shows when it is over.
    fn brake(
        &mut self,
        cluster: &mut Cluster,
        fault: u64,
        kind: FaultKind,
        machine: usize,
    ) -> bool {
        let before = cluster.brakes(machine).held_up();
        let duration = self.below_ms(PAUSE_MAX_MS);
        match kind {
            FaultKind::SlowDisk => {
                let factor = 2 + self.random.below(SLOWNESS_MAX) as u32;
                cluster.say(format_args!("disk of n{} {factor} times slower", machine + 1));
                cluster.brakes(machine).slow_down(factor);
            }
            FaultKind::HungDisk => {
                cluster.say(format_args!("disk of n{} hangs for {duration:?}", machine + 1));
                cluster.brakes(machine).hang(duration);
            }
            _ => cluster.pause(machine, duration),
        }
        self.plan(cluster, fault, duration, Deed::EndBrakes(machine, before, kind));
        false
    }

    fn hand_over_often(&mut self, cluster: &mut Cluster, fault: u64) -> bool {
        let mut later = Duration::ZERO;
        for _ in 0..=self.random.below(HAND_OVERS_MAX) {
            let machine = self.random.below(cluster.nodes() as u64) as usize;
            later += self.below_ms(200);
            self.plan(cluster, fault, later, Deed::HandOver(machine));
        }
        true
    }

    fn bend(&mut self, cluster: &mut Cluster, fault: u64, kind: FaultKind, machine: usize) -> bool {
        let clock = cluster.clock(machine);
        match kind {
            FaultKind::ClockRate => {
                let rate = 900 + self.random.below(201) as u32;
                cluster.say(format_args!("clock of n{} at {rate} per mille", machine + 1));
                clock.set_rate(rate);
            }
            FaultKind::ClockJump => {
                let by = self.below_ms(3_600_000);
                let ahead = self.random.chance(50);
                cluster.say(format_args!("clock of n{} jumps {by:?}", machine + 1));
                if ahead { clock.jump_wall_ahead(by) } else { clock.jump_wall_back(by) }
            }
            _ => {
                cluster.say(format_args!("clock of n{} stands still", machine + 1));
                clock.freeze();
                self.plan_within(cluster, fault, FAULT_MAX_MS, Deed::Thaw(machine));
            }
        }
        true
    }

    /// The machine comes back with an empty disk, and must not be taken for what it was.
    fn wipe(&mut self, cluster: &mut Cluster, fault: u64, machine: usize) -> bool {
        (self.is_damaged, self.is_lost) = (true, true);
        cluster.excuse(machine, true);
        cluster.kill(machine);
        cluster.wipe(machine);
        self.plan_within(cluster, fault, FAULT_MAX_MS, Deed::Start(machine))
    }

    /// Faults that calls have to meet, and damage that is there at once.
    fn spoil_disk(
        &mut self,
        cluster: &mut Cluster,
        fault: u64,
        kind: FaultKind,
        machine: usize,
    ) -> bool {
        let disk = cluster.disk(machine);
        if kind.is_destructive() {
            self.is_damaged = true;
        }
        cluster.excuse(machine, true);
        if matches!(kind, FaultKind::BitFlip | FaultKind::BadSector) {
            let damage = disks::damage(kind, &disk, &mut self.random);
            cluster.say(format_args!("disk of n{}: {damage:?}", machine + 1));
            return damage.is_some();
        }
        let Some(planted) = disks::plant(kind, &disk, &mut self.random) else { return false };
        cluster.say(format_args!("disk of n{}: {planted:?}", machine + 1));
        let later = self.below_ms(FAULT_MAX_MS);
        if kind == FaultKind::SyncLies {
            self.plan(cluster, fault, later, Deed::CutAfterLies(machine));
        }
        self.plan(
            cluster,
            fault,
            later + Duration::from_millis(1),
            Deed::EndDisk(machine, planted, kind),
        );
        false
    }
}

pub(super) fn all(
    some: &[usize],
    others: &[usize],
    state: LinkState,
) -> Vec<(usize, usize, LinkState)> {
    some.iter().flat_map(|a| others.iter().map(move |b| (*a, *b, state))).collect()
}

/// Leaves everybody the links to the next ones in a ring, together a bare majority.
fn ring(order: &[usize]) -> Vec<(usize, usize, LinkState)> {
    let count = order.len();
    let reach = (count / 2).div_ceil(2);
    let mut cut = Vec::new();
    for i in 0..count {
        for j in i + 1..count {
            let distance = (j - i).min(count - (j - i));
            // Three in a ring all hear each other: one link has to go.
            let is_cut = if count == 3 { (i, j) == (0, 2) } else { distance > reach };
            if is_cut {
                cut.push((order[i], order[j], LinkState::Cut));
            }
        }
    }
    cut
}
