//! What is done to a cluster, drawn from the seed.
//!
//! Faults stay survivable: never more machines are down for good than a minority, and a disk
//! loses only what was not synced. All machines may lose power at once, since they start again.

use std::fmt;
use std::time::Duration;

use holdfast_env::sim::Random;

use super::cluster::{Cluster, LinkState, Violation};
use super::machine::Standing;

/// How much of what is not synced survives a power cut, percent.
const KEEP_PERCENTS: [u8; 5] = [0, 5, 50, 95, 100];
/// Slowest link.
const LATENCY_MAX_MS: u64 = 400;
/// A fault is over after this long at most.
const FAULT_MAX_MS: u64 = 4_000;
/// An orderly stop takes at most this long.
const STOP_MAX: Duration = Duration::from_secs(15);

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// One machine hears nobody and is heard by nobody.
    Isolate,
    /// A majority and a minority do not hear each other.
    Halves,
    /// Everybody hears a majority, and no two the same one.
    MajorityRing,
    /// Two halves share one machine that hears both.
    Bridge,
    /// One machine does not hear another, which hears it.
    OneWay,
    /// What two machines say to each other comes late, all at once.
    Hold,
    /// A link is slow, and reorders more.
    Latency,
    /// A process ends at once.
    Kill,
    /// The process that leads most ranges ends at once.
    KillLeader,
    /// A machine loses power.
    PowerCut,
    /// All machines lose power at once.
    PowerCutAll,
    /// A process is killed, and again during its recovery.
    KillInRecovery,
    /// A node stops in order and starts again.
    Restart,
    /// A leader is asked to hand over.
    Transfer,
    /// A machine's clock runs up to ten per cent fast or slow.
    ClockRate,
    /// A machine's wall clock jumps.
    ClockJump,
    /// A machine's clocks stand still for a while.
    ClockFreeze,
}

impl FaultKind {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::Isolate,
        Self::Halves,
        Self::MajorityRing,
        Self::Bridge,
        Self::OneWay,
        Self::Hold,
        Self::Latency,
        Self::Kill,
        Self::KillLeader,
        Self::PowerCut,
        Self::PowerCutAll,
        Self::KillInRecovery,
        Self::Restart,
        Self::Transfer,
        Self::ClockRate,
        Self::ClockJump,
        Self::ClockFreeze,
    ];
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Draws faults and applies them.
#[derive(Debug)]
pub struct Nemesis {
    random: Random,
    kinds: Vec<FaultKind>,
    calm_max: Duration,
    struck: Vec<FaultKind>,
}

impl Nemesis {
    /// One that draws from `kinds`.
    pub fn new(seed: u64, kinds: &[FaultKind], calm_max: Duration) -> Self {
        let kinds = kinds.to_vec();
        Self { random: Random::new(seed), kinds, calm_max, struck: Vec::new() }
    }

    /// The faults that were installed, in order.
    pub fn struck(&self) -> &[FaultKind] {
        &self.struck
    }

    /// Faults one after another, with pauses, until `storm` has passed.
    ///
    /// # Errors
    /// As [`Cluster::step`].
    pub fn rage(&mut self, cluster: &mut Cluster, storm: Duration) -> Result<(), Violation> {
        let end = cluster.elapsed() + storm;
        while cluster.elapsed() < end {
            let calm = self.below_ms(self.calm_max.as_millis() as u64);
            cluster.run_for(calm)?;
            if let Some(kind) = self.pick() {
                self.strike(cluster, kind)?;
                self.struck.push(kind);
            }
        }
        Ok(())
    }

    fn pick(&mut self) -> Option<FaultKind> {
        let index = self.random.below(self.kinds.len() as u64) as usize;
        self.kinds.get(index).copied()
    }

    fn below_ms(&mut self, max: u64) -> Duration {
        Duration::from_millis(1 + self.random.below(max))
    }

    fn machine(&mut self, cluster: &Cluster) -> usize {
        self.random.below(cluster.nodes() as u64) as usize
    }

    fn shuffled(&mut self, cluster: &Cluster) -> Vec<usize> {
        let mut machines: Vec<usize> = (0..cluster.nodes()).collect();
        for i in (1..machines.len()).rev() {
            machines.swap(i, self.random.below(i as u64 + 1) as usize);
        }
        machines
    }

    fn strike(&mut self, cluster: &mut Cluster, kind: FaultKind) -> Result<(), Violation> {
        cluster.say(format_args!("fault: {kind}"));
        match kind {
            FaultKind::Isolate
            | FaultKind::Halves
            | FaultKind::MajorityRing
            | FaultKind::Bridge
            | FaultKind::OneWay
            | FaultKind::Hold => self.part(cluster, kind),
            FaultKind::Latency => self.slow(cluster),
            FaultKind::Kill | FaultKind::KillLeader | FaultKind::PowerCut => {
                self.fell_some(cluster, kind)
            }
            FaultKind::PowerCutAll => self.fell_all(cluster),
            FaultKind::KillInRecovery => self.kill_in_recovery(cluster),
            FaultKind::Restart => self.restart(cluster),
            FaultKind::Transfer => self.transfer(cluster),
            FaultKind::ClockRate | FaultKind::ClockJump | FaultKind::ClockFreeze => {
                self.bend(cluster, kind)
            }
        }
    }

    /// Cuts links for a while.
    fn part(&mut self, cluster: &mut Cluster, kind: FaultKind) -> Result<(), Violation> {
        let order = self.shuffled(cluster);
        let half = order.len() / 2;
        let (minority, majority) = order.split_at(half);
        match kind {
            FaultKind::Isolate => cluster.set_links(&order[..1], &order[1..], LinkState::Cut),
            FaultKind::Halves => cluster.set_links(minority, majority, LinkState::Cut),
            FaultKind::Bridge => {
                let (bridge, rest) = (majority.first(), &majority[1..]);
                cluster.say(format_args!("the bridge is n{}", bridge.map_or(0, |b| b + 1)));
                cluster.set_links(minority, rest, LinkState::Cut);
            }
            FaultKind::MajorityRing => cut_to_ring(cluster, &order),
            FaultKind::OneWay => {
                cluster.set_links(&order[..1], &order[1..2], LinkState::OneWay { to: order[0] });
            }
            _ => cluster.set_links(&order[..1], &order[1..], LinkState::Held),
        }
        let names: Vec<_> = order.iter().map(|machine| format!("n{}", machine + 1)).collect();
        cluster.say(format_args!("{kind} with {}", names.join(" ")));
        cluster.run_for(self.below_ms(FAULT_MAX_MS))?;
        cluster.say("links are repaired");
        cluster.repair_links();
        Ok(())
    }

    fn slow(&mut self, cluster: &mut Cluster) -> Result<(), Violation> {
        let order = self.shuffled(cluster);
        let latency = self.below_ms(LATENCY_MAX_MS);
        cluster.say(format_args!(
            "up to {latency:?} between n{} and n{}",
            order[0] + 1,
            order[1] + 1
        ));
        let usual = cluster.set_latency(order[0], order[1], latency);
        cluster.run_for(self.below_ms(FAULT_MAX_MS))?;
        cluster.set_latency(order[0], order[1], usual);
        Ok(())
    }

    /// Takes one machine, or a minority, down for a while.
    fn fell_some(&mut self, cluster: &mut Cluster, kind: FaultKind) -> Result<(), Violation> {
        let mut victims = self.shuffled(cluster);
        if kind == FaultKind::KillLeader {
            victims.sort_by_key(|machine| std::cmp::Reverse(cluster.led_by(*machine)));
        }
        let minority = (cluster.nodes() - 1) / 2;
        victims.truncate(1 + self.random.below(minority as u64) as usize);
        for machine in &victims {
            self.fell(cluster, *machine, kind);
        }
        cluster.run_for(self.below_ms(FAULT_MAX_MS))?;
        victims.iter().for_each(|machine| cluster.start(*machine));
        Ok(())
    }

    fn fell(&mut self, cluster: &mut Cluster, machine: usize, kind: FaultKind) {
        if kind == FaultKind::PowerCut {
            let keep = KEEP_PERCENTS[self.random.below(5) as usize];
            cluster.cut_power(machine, keep);
        } else {
            cluster.kill(machine);
        }
    }

    fn fell_all(&mut self, cluster: &mut Cluster) -> Result<(), Violation> {
        for machine in 0..cluster.nodes() {
            self.fell(cluster, machine, FaultKind::PowerCut);
        }
        for machine in self.shuffled(cluster) {
            cluster.run_for(self.below_ms(500))?;
            cluster.start(machine);
        }
        Ok(())
    }

    fn kill_in_recovery(&mut self, cluster: &mut Cluster) -> Result<(), Violation> {
        let machine = self.machine(cluster);
        let kind = if self.random.chance(50) { FaultKind::PowerCut } else { FaultKind::Kill };
        self.fell(cluster, machine, kind);
        for _ in 0..=self.random.below(3) {
            cluster.start(machine);
            cluster.run_for(self.below_ms(100))?;
            self.fell(cluster, machine, kind);
        }
        cluster.start(machine);
        Ok(())
    }

    fn restart(&mut self, cluster: &mut Cluster) -> Result<(), Violation> {
        let machine = self.machine(cluster);
        if cluster.standing(machine) != Standing::Up {
            cluster.say("it was not up");
            return Ok(());
        }
        cluster.ask_to_stop(machine);
        cluster.run_until("a node stops in order", STOP_MAX, |cluster| {
            cluster.standing(machine) == Standing::Down
        })?;
        // The process is gone: its disk is what it left.
        cluster.kill(machine);
        cluster.start(machine);
        Ok(())
    }

    fn transfer(&mut self, cluster: &mut Cluster) -> Result<(), Violation> {
        let machine = self.machine(cluster);
        cluster.hand_over(machine);
        cluster.run_for(self.below_ms(500))
    }

    fn bend(&mut self, cluster: &mut Cluster, kind: FaultKind) -> Result<(), Violation> {
        let machine = self.machine(cluster);
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
                cluster.run_for(self.below_ms(FAULT_MAX_MS))?;
                clock.thaw();
            }
        }
        Ok(())
    }
}

/// Leaves everybody the links to the next ones in a ring, together a bare majority.
fn cut_to_ring(cluster: &mut Cluster, order: &[usize]) {
    let count = order.len();
    let reach = (count / 2).div_ceil(2);
    for i in 0..count {
        for j in i + 1..count {
            let distance = (j - i).min(count - (j - i));
            // Three in a ring all hear each other: one link has to go.
            let is_cut = if count == 3 { (i, j) == (0, 2) } else { distance > reach };
            if is_cut {
                cluster.set_links(&order[i..=i], &order[j..=j], LinkState::Cut);
            }
        }
    }
}
