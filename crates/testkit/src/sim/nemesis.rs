//! What is done to a cluster, drawn from the seed: several faults at once, each with its end.
//!
//! Faults stay survivable. What takes data away strikes one machine of a run, the scapegoat, so a
//! quorum of every range keeps a good copy; all else may strike anybody, and all machines may lose
//! power at once, since they start again.

mod aimed;
mod deeds;
mod strikes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use holdfast_env::sim::Random;

use super::cluster::{Cluster, LinkState, Violation};
use super::disks::Planted;
use super::faults::FaultKind;
use super::machine::Standing;

/// How much of what is not synced survives a power cut, percent.
const KEEP_PERCENTS: [u8; 5] = [0, 5, 50, 95, 100];
/// A fault is over after this long at most.
const FAULT_MAX_MS: u64 = 4_000;
/// A node that ended by itself, as it may, is started again after this long at most.
const DOWN_MAX_MS: u64 = 2_000;

/// A deed that is still to be done.
#[derive(Debug)]
enum Deed {
    /// The links that this fault cut are repaired.
    EndLinks,
    /// One link is cut or held from now on.
    CutLink(usize, usize, LinkState),
    /// A link is as fast as it was.
    EndLatency(usize, usize),
    /// A machine is switched on.
    Start(usize),
    /// A machine that is starting is felled.
    Fell(usize, FaultKind),
    /// A node that was asked to stop has stopped, or is looked at again.
    Stopped {
        machine: usize,
        boots: u64,
        until: Duration,
    },
    HandOver(usize),
    Thaw(usize),
    /// A process goes on, or a disk is as fast as it was; how often somebody was held up before.
    EndBrakes(usize, u64, FaultKind),
    EndDisk(usize, Planted, FaultKind),
    /// The power goes after syncs have lied.
    CutAfterLies(usize),
    /// The power goes in the middle of a piece of work on the disk, at the latest at this moment.
    CutMidway(usize, Duration),
    /// The power goes in the middle of a write, or the fault that was to cut it is given up.
    CutInWrite(usize, Arc<AtomicBool>, Duration),
    /// A follower that was away is heard again.
    Return(usize),
    /// The transfer of a snapshot breaks off.
    CutTransfer(aimed::Transfer),
    /// Nothing; the fault is over.
    Over,
}

impl Deed {
    /// The machine that waits for the deed, and is left alone by other faults.
    fn machine(&self) -> Option<usize> {
        match self {
            Self::Start(machine)
            | Self::Fell(machine, _)
            | Self::Stopped { machine, .. }
            | Self::EndDisk(machine, ..)
            | Self::CutAfterLies(machine)
            | Self::CutMidway(machine, _)
            | Self::CutInWrite(machine, ..)
            | Self::Return(machine)
            | Self::CutTransfer(aimed::Transfer { machine, .. })
            | Self::EndBrakes(machine, _, FaultKind::Pause | FaultKind::PauseLeader) => {
                Some(*machine)
            }
            _ => None,
        }
    }
}

/// A fault that took place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Struck {
    number: u64,
    pub(super) kind: FaultKind,
    pub(super) from: Duration,
    pub(super) to: Duration,
}

/// Draws faults and applies them.
#[derive(Debug)]
pub struct Nemesis {
    random: Random,
    kinds: Vec<FaultKind>,
    calm_max: Duration,
    /// Most faults at once.
    overlap_max: usize,
    /// What is to be done when, with the number of the fault it belongs to.
    agenda: BTreeMap<(Duration, u64), (u64, Deed)>,
    count: u64,
    /// States of links by the fault that wants them so.
    links: BTreeMap<u64, Vec<(usize, usize, LinkState)>>,
    /// The only machine whose data may go.
    scapegoat: usize,
    /// Its data may be gone.
    is_damaged: bool,
    /// It does not take part any more.
    is_lost: bool,
    struck: Vec<Struck>,
    /// When each fault began.
    begun: BTreeMap<u64, Duration>,
    next: Duration,
}

impl Nemesis {
    /// One that draws from `kinds`, at most `overlap_max` at once with at most `calm_max` between
    /// two beginnings.
    pub fn new(seed: u64, kinds: &[FaultKind], calm_max: Duration, overlap_max: usize) -> Self {
        let mut random = Random::new(seed);
        Self {
            scapegoat: random.below(1 << 16) as usize,
            random,
            kinds: kinds.to_vec(),
            calm_max,
            overlap_max: overlap_max.max(1),
            agenda: BTreeMap::new(),
            count: 0,
            links: BTreeMap::new(),
            is_damaged: false,
            is_lost: false,
            struck: Vec::new(),
            begun: BTreeMap::new(),
            next: Duration::ZERO,
        }
    }

    /// The faults that were installed, in the order of their beginnings.
    pub fn struck(&self) -> Vec<FaultKind> {
        self.struck.iter().map(|struck| struck.kind).collect()
    }

    /// As [`Nemesis::struck`], with their times.
    pub(super) fn times(&self) -> &[Struck] {
        &self.struck
    }

    /// Whether what this machine holds, or says of it, is to be taken with care.
    pub fn is_suspect(&self, machine: usize) -> bool {
        self.is_damaged && machine == self.scapegoat
    }

    /// Whether this machine takes no part any more.
    pub fn is_lost(&self, machine: usize) -> bool {
        self.is_lost && machine == self.scapegoat
    }

    /// Faults, one or more at a time, until `storm` has passed; `look` is called at every step.
    ///
    /// # Errors
    /// As [`Cluster::step`] and `look`.
    pub fn rage(
        &mut self,
        cluster: &mut Cluster,
        storm: Duration,
        mut look: impl FnMut(&Cluster, &Self) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        self.scapegoat %= cluster.nodes();
        let end = cluster.elapsed() + storm;
        self.next = cluster.elapsed() + self.below_ms(self.calm_max.as_millis() as u64);
        while cluster.elapsed() < end {
            self.pick_up(cluster);
            self.keep_agenda(cluster)?;
            if cluster.elapsed() >= self.next {
                self.next = cluster.elapsed() + self.below_ms(self.calm_max.as_millis() as u64);
                if self.under_way() < self.overlap_max {
                    let index = self.random.below(self.kinds.len() as u64) as usize;
                    self.strike(cluster, self.kinds[index]);
                }
            }
            cluster.step()?;
            look(cluster, self)?;
        }
        Ok(())
    }

    /// Lets every fault come to its end, and what was bent be straight again; nodes that are down
    /// start.
    ///
    /// # Errors
    /// As [`Cluster::step`].
    pub fn end(&mut self, cluster: &mut Cluster) -> Result<(), Violation> {
        for (_, (fault, deed)) in std::mem::take(&mut self.agenda) {
            match deed {
                Deed::Fell(..) | Deed::CutLink(..) | Deed::HandOver(_) => {}
                Deed::Return(_) | Deed::CutTransfer(_) => {}
                deed => self.perform(cluster, fault, deed)?,
            }
        }
        self.links.clear();
        cluster.repair_links();
        for machine in 0..cluster.nodes() {
            cluster.clock(machine).set_rate(1_000);
            cluster.clock(machine).thaw();
        }
        // What a deed left to be done later is done now.
        while let Some(((at, _), (fault, deed))) = self.agenda.pop_first() {
            while cluster.elapsed() < at {
                cluster.step()?;
            }
            self.perform(cluster, fault, deed)?;
        }
        self.pick_up(cluster);
        for machine in 0..cluster.nodes() {
            if !self.is_lost(machine) && cluster.standing(machine) == Standing::Down {
                cluster.start(machine);
            }
        }
        Ok(())
    }

    /// Whether a machine may be struck: its node is up and no other fault has it in hand.
    fn is_free(&self, cluster: &Cluster, machine: usize) -> bool {
        let in_hand: BTreeSet<usize> =
            self.agenda.values().filter_map(|(_, deed)| deed.machine()).collect();
        cluster.standing(machine) == Standing::Up
            && !in_hand.contains(&machine)
            && !self.is_lost(machine)
    }

    fn under_way(&self) -> usize {
        self.agenda.values().map(|(fault, _)| *fault).collect::<BTreeSet<_>>().len()
    }

    /// Nodes that ended by themselves, as they may, are started again some time later. One that
    /// does so because its data is gone is left alone.
    fn pick_up(&mut self, cluster: &mut Cluster) {
        for machine in 0..cluster.nodes() {
            let Standing::Ended(reason) = cluster.standing(machine) else { continue };
            cluster.kill(machine);
            let is_for_good = self.is_suspect(machine)
                && (reason.starts_with("does not start") || reason.starts_with("refused"));
            if is_for_good {
                cluster.say(format_args!("n{} is lost", machine + 1));
                self.is_lost = true;
                continue;
            }
            let later = self.below_ms(DOWN_MAX_MS);
            self.count += 1;
            self.plan(cluster, self.count, later, Deed::Start(machine));
        }
    }

    fn keep_agenda(&mut self, cluster: &mut Cluster) -> Result<(), Violation> {
        while let Some(entry) = self.agenda.first_entry() {
            if entry.key().0 > cluster.elapsed() {
                break;
            }
            let (fault, deed) = entry.remove();
            self.perform(cluster, fault, deed)?;
        }
        Ok(())
    }

    fn plan(&mut self, cluster: &Cluster, fault: u64, later: Duration, deed: Deed) {
        self.count += 1;
        self.agenda.insert((cluster.elapsed() + later, self.count), (fault, deed));
    }

    fn below_ms(&mut self, max: u64) -> Duration {
        Duration::from_millis(1 + self.random.below(max.max(1)))
    }
}
