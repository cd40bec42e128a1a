//! Deeds when their time has come: faults end, machines start again.

use std::time::Duration;

use super::super::cluster::{Cluster, LinkState, Violation};
use super::super::faults::FaultKind;
use super::super::machine::Standing;
use super::{Deed, KEEP_PERCENTS, Nemesis, Struck};

/// A node that stops in order is looked at so often.
const LOOK: Duration = Duration::from_millis(20);

impl Nemesis {
    /// Does what is due of a fault, which lasts until now at least.
    pub(super) fn perform(
        &mut self,
        cluster: &mut Cluster,
        fault: u64,
        deed: Deed,
    ) -> Result<(), Violation> {
        let done = self.act(cluster, fault, deed);
        let now = cluster.elapsed();
        let of_fault = self.struck.iter_mut().filter(|struck| struck.number == fault);
        of_fault.for_each(|struck| struck.to = now);
        done
    }

    fn act(&mut self, cluster: &mut Cluster, fault: u64, deed: Deed) -> Result<(), Violation> {
        match deed {
            Deed::EndLinks => {
                cluster.say(format_args!("links of fault {fault} are repaired"));
                self.links.remove(&fault);
                self.apply_links(cluster);
            }
            Deed::CutLink(a, b, state) => {
                self.links.insert(fault, vec![(a, b, state)]);
                self.apply_links(cluster);
            }
            Deed::EndLatency(a, b) => {
                let usual = cluster.set_latency(a, b, Duration::from_millis(1));
                cluster.set_latency(a, b, usual);
            }
            Deed::Start(machine) if cluster.standing(machine) == Standing::Down => {
                cluster.start(machine);
            }
            Deed::Fell(machine, kind) => self.fell(cluster, machine, kind),
            Deed::Stopped { machine, boots, until } => {
                return self.await_stop(cluster, fault, (machine, boots, until));
            }
            Deed::HandOver(machine) => cluster.hand_over(machine),
            Deed::Thaw(machine) => cluster.clock(machine).thaw(),
            Deed::EndBrakes(machine, before, kind) => {
                self.end_brakes(cluster, fault, (machine, before, kind));
            }
            Deed::EndDisk(machine, planted, kind) => {
                let is_met = planted.end();
                cluster.disk(machine).set_capacity(None);
                if is_met {
                    self.note(cluster, fault, kind);
                }
                cluster.say(format_args!("{kind} of n{} ends, met: {is_met}", machine + 1));
                self.forgive(cluster, machine);
            }
            Deed::CutAfterLies(machine) if cluster.standing(machine) == Standing::Up => {
                self.fell(cluster, machine, FaultKind::PowerCut);
                let later = self.below_ms(super::FAULT_MAX_MS);
                self.plan(cluster, fault, later, Deed::Start(machine));
            }
            Deed::CutMidway(machine, until) => self.cut_midway(cluster, fault, (machine, until)),
            Deed::CutInWrite(machine, id, until) => {
                self.cut_in_write(cluster, fault, (machine, id, until));
            }
            Deed::Return(machine) => self.return_and_break_off(cluster, fault, machine),
            Deed::CutTransfer(transfer) => self.cut_transfer(cluster, fault, transfer),
            Deed::Start(_) | Deed::CutAfterLies(_) | Deed::Over => {}
        }
        Ok(())
    }

    /// A pause or slowness is over; it took place if it held anybody up.
    pub(super) fn end_brakes(
        &mut self,
        cluster: &mut Cluster,
        fault: u64,
        (machine, before, kind): (usize, u64, FaultKind),
    ) {
        match kind {
            FaultKind::Pause | FaultKind::PauseLeader => cluster.resume(machine),
            FaultKind::SlowDisk => cluster.brakes(machine).slow_down(1),
            _ => {}
        }
        if cluster.brakes(machine).held_up() > before {
            self.note(cluster, fault, kind);
        }
    }

    /// A machine has to hold out again, unless its data may be gone.
    fn forgive(&self, cluster: &mut Cluster, machine: usize) {
        if !self.is_suspect(machine) && !matches!(cluster.standing(machine), Standing::Ended(_)) {
            cluster.excuse(machine, false);
        }
    }

    fn await_stop(
        &mut self,
        cluster: &mut Cluster,
        fault: u64,
        (machine, boots, until): (usize, u64, Duration),
    ) -> Result<(), Violation> {
        if cluster.boots(machine) != boots {
            return Ok(());
        }
        if cluster.standing(machine) == Standing::Down {
            // The process is gone: its disk is what it left.
            cluster.kill(machine);
            cluster.start(machine);
            return Ok(());
        }
        if cluster.elapsed() >= until {
            return Err(Violation(format!("n{} does not stop in order", machine + 1)));
        }
        self.plan(cluster, fault, LOOK, Deed::Stopped { machine, boots, until });
        Ok(())
    }

    /// Takes the power from a machine whose disk has lost it in the middle of some work.
    fn cut_midway(
        &mut self,
        cluster: &mut Cluster,
        fault: u64,
        (machine, until): (usize, Duration),
    ) {
        if cluster.standing(machine) == Standing::Down {
            return;
        }
        let is_up = cluster.standing(machine) == Standing::Up;
        if is_up && !cluster.disk(machine).is_cut() && cluster.elapsed() < until {
            let again = Duration::from_millis(1);
            self.plan(cluster, fault, again, Deed::CutMidway(machine, until));
            return;
        }
        self.fell(cluster, machine, FaultKind::PowerCut);
        let later = self.below_ms(super::FAULT_MAX_MS);
        self.plan(cluster, fault, later, Deed::Start(machine));
    }

    /// Ends a process, or cuts the power of its machine.
    pub(super) fn fell(&mut self, cluster: &mut Cluster, machine: usize, kind: FaultKind) {
        if kind == FaultKind::PowerCut {
            let keep = KEEP_PERCENTS[self.random.below(5) as usize];
            cluster.cut_power(machine, keep);
        } else {
            cluster.kill(machine);
        }
    }

    /// A fault is known to have taken place.
    pub(super) fn note(&mut self, cluster: &Cluster, fault: u64, kind: FaultKind) {
        let now = cluster.elapsed();
        let from = self.begun.get(&fault).copied().unwrap_or(now);
        self.struck.push(Struck { number: fault, kind, from, to: now });
    }

    /// Gives every link the worst state that any fault wants.
    pub(super) fn apply_links(&mut self, cluster: &mut Cluster) {
        let mut wanted = std::collections::BTreeMap::new();
        for (a, b, state) in self.links.values().flatten() {
            let link = (*a.min(b), *a.max(b));
            let worst = wanted.entry(link).or_insert(LinkState::Up);
            *worst = worse(*worst, *state);
        }
        for a in 0..cluster.ends() {
            for b in a + 1..cluster.ends() {
                cluster.set_link(a, b, wanted.get(&(a, b)).copied().unwrap_or(LinkState::Up));
            }
        }
    }
}

/// What is left of a link that two faults have hold of.
fn worse(one: LinkState, other: LinkState) -> LinkState {
    match (one, other) {
        (LinkState::Up, state) | (state, LinkState::Up) => state,
        (LinkState::Held, LinkState::Held) => LinkState::Held,
        (one @ LinkState::OneWay { .. }, other) if one == other => one,
        _ => LinkState::Cut,
    }
}
