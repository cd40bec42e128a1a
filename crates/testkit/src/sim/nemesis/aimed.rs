//! Faults that are aimed at one moment of a machine's work: they wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::super::cluster::{Cluster, LinkState};
use super::super::disks;
use super::super::faults::FaultKind;
use super::super::machine::Standing;
use super::strikes::all;
use super::{Deed, FAULT_MAX_MS, Nemesis};

/// How often is looked whether the moment has come.
const LOOK: Duration = Duration::from_millis(1);
/// How much of a torn write survives, percent.
const TORN_PERCENTS: [u8; 3] = [5, 50, 95];
/// A write that is to be torn comes within this time.
const WRITE_WITHIN: Duration = Duration::from_secs(2);
/// A follower is away for so long at least …
const AWAY_MIN: Duration = Duration::from_secs(4);
/// … and for this much more at most.
const AWAY_MORE_MS: u64 = 4_000;
/// A follower that is back gets its snapshot within this time.
const TRANSFER_WITHIN: Duration = Duration::from_secs(6);
/// So many chunks arrive at most before the transfer breaks off.
const CHUNKS_MAX: u64 = 4;

/// A transfer that is to break off.
#[derive(Debug)]
pub(super) struct Transfer {
    /// Who receives.
    pub(super) machine: usize,
    /// Chunks that have arrived.
    arrived: Arc<AtomicU64>,
    /// It breaks off after so many.
    after: u64,
    /// It is waited for until then.
    until: Duration,
}

impl Nemesis {
    /// Plans a power cut in the middle of a write of the journal.
    pub(super) fn tear_write(&mut self, cluster: &mut Cluster, fault: u64, machine: usize) -> bool {
        let is_cut = disks::tear(&cluster.disk(machine), &mut self.random);
        let until = cluster.elapsed() + WRITE_WITHIN;
        self.plan(cluster, fault, Duration::ZERO, Deed::CutInWrite(machine, is_cut, until));
        // It takes place when a write is met.
        false
    }

    /// Takes the power from a machine whose disk has lost it in the middle of a write.
    pub(super) fn cut_in_write(
        &mut self,
        cluster: &mut Cluster,
        fault: u64,
        (machine, is_cut, until): (usize, Arc<AtomicBool>, Duration),
    ) {
        if cluster.standing(machine) != Standing::Up {
            return cluster.disk(machine).unwatch();
        }
        if is_cut.load(Ordering::Relaxed) {
            let keep = TORN_PERCENTS[self.random.below(3) as usize];
            cluster.cut_power(machine, keep);
            self.note(cluster, fault, FaultKind::TornWrite);
            let later = self.below_ms(FAULT_MAX_MS);
            return self.plan(cluster, fault, later, Deed::Start(machine));
        }
        if cluster.elapsed() >= until {
            return cluster.disk(machine).unwatch();
        }
        self.plan(cluster, fault, LOOK, Deed::CutInWrite(machine, is_cut, until));
    }

    /// Cuts a machine off from the others, until they have forgotten what it would need.
    pub(super) fn leave_behind(
        &mut self,
        cluster: &mut Cluster,
        fault: u64,
        machine: usize,
    ) -> bool {
        // Two that are away at once could stop all writing, and nobody would need a snapshot.
        if self.agenda.values().any(|(_, deed)| matches!(deed, Deed::Return(_))) {
            return false;
        }
        self.cut_off(cluster, fault, machine);
        self.note(cluster, fault, FaultKind::Isolate);
        let away = AWAY_MIN + self.below_ms(AWAY_MORE_MS);
        self.plan(cluster, fault, away, Deed::Return(machine));
        // It takes place when a transfer is met.
        false
    }

    fn cut_off(&mut self, cluster: &mut Cluster, fault: u64, machine: usize) {
        cluster.say(format_args!("n{} hears no other node", machine + 1));
        let others: Vec<usize> = (0..cluster.nodes()).filter(|other| *other != machine).collect();
        self.links.insert(fault, all(&[machine], &others, LinkState::Cut));
        self.apply_links(cluster);
    }

    /// A machine is back. The snapshot that it is sent breaks off, for its disk refuses a chunk or
    /// the network fails.
    pub(super) fn return_and_break_off(
        &mut self,
        cluster: &mut Cluster,
        fault: u64,
        machine: usize,
    ) {
        cluster.say(format_args!("links of fault {fault} are repaired"));
        self.links.remove(&fault);
        self.apply_links(cluster);
        if cluster.standing(machine) != Standing::Up {
            return;
        }
        let (disk, after) = (cluster.disk(machine), 1 + self.random.below(CHUNKS_MAX));
        if self.random.chance(50) {
            let planted = disks::refuse_snapshot(&disk, after);
            let end = Deed::EndDisk(machine, planted, FaultKind::SnapshotCut);
            return self.plan(cluster, fault, TRANSFER_WITHIN, end);
        }
        let (arrived, until) = (disks::count_staged(&disk), cluster.elapsed() + TRANSFER_WITHIN);
        let transfer = Transfer { machine, arrived, after, until };
        self.plan(cluster, fault, Duration::ZERO, Deed::CutTransfer(transfer));
    }

    /// Cuts a machine off once enough of a snapshot has arrived there.
    pub(super) fn cut_transfer(&mut self, cluster: &mut Cluster, fault: u64, transfer: Transfer) {
        let is_up = cluster.standing(transfer.machine) == Standing::Up;
        let is_due = transfer.arrived.load(Ordering::Relaxed) >= transfer.after;
        if is_up && !is_due && cluster.elapsed() < transfer.until {
            return self.plan(cluster, fault, LOOK, Deed::CutTransfer(transfer));
        }
        cluster.disk(transfer.machine).unwatch();
        if is_up && is_due {
            self.cut_off(cluster, fault, transfer.machine);
            self.note(cluster, fault, FaultKind::SnapshotCut);
            let later = self.below_ms(FAULT_MAX_MS);
            self.plan(cluster, fault, later, Deed::EndLinks);
            // It is over once the transfer had time to go on.
            self.plan(cluster, fault, later + TRANSFER_WITHIN, Deed::Over);
        }
    }
}
