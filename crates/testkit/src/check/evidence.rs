//! Is there anything to judge at all?
//!
//! A run in which hardly anything was asked, everything failed, or the fault was never there
//! passes every other checker. It proves nothing, and fails here.

use std::collections::BTreeMap;

use super::{Checker, Finding, Verdict};
use crate::history::{History, Record};

/// How much there has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Operations that were answered.
    pub answered_min: usize,
    /// Of a hundred operations so many were answered.
    pub answered_percent_min: usize,
    /// Operations answered while each fault was there.
    pub answered_per_fault_min: usize,
    /// Faults that were there.
    pub faults_min: usize,
    /// Events that watches delivered.
    pub events_min: usize,
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            answered_min: 100,
            answered_percent_min: 50,
            answered_per_fault_min: 0,
            faults_min: 0,
            events_min: 0,
        }
    }
}

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evidence(pub Quota);

impl Checker for Evidence {
    fn name(&self) -> &'static str {
        "evidence"
    }

    fn check(&self, history: &History) -> Verdict {
        let quota = self.0;
        let all = history.operations().count();
        let answered = history.operations().filter(|o| o.answer().is_some()).count();
        enough("answered operations", answered, quota.answered_min)?;
        enough(
            "answered operations of a hundred",
            answered * 100 / all.max(1),
            quota.answered_percent_min,
        )?;
        let events = history.batches().map(|batch| batch.events.len()).sum();
        enough("events", events, quota.events_min)?;
        let mut faults = 0;
        for record in &history.records {
            let Record::Fault(fault) = record else { continue };
            if !fault.installed {
                return Err(Finding::Undecided(format!("never took place: {fault:?}")));
            }
            let during = history.operations().filter(|operation| {
                operation.answer().is_some()
                    && operation.call >= fault.from
                    && operation.back <= fault.to
            });
            enough(&fault.name, during.count(), quota.answered_per_fault_min)?;
            faults += 1;
        }
        enough("faults", faults, quota.faults_min)?;
        processes_are_sequential(history)?;
        Ok(answered)
    }
}

fn enough(what: &str, found: usize, needed: usize) -> Result<(), Finding> {
    if found >= needed {
        return Ok(());
    }
    Err(Finding::Undecided(format!("{what}: {found} where {needed} are needed")))
}

/// A process asks one thing at a time; the items of a batch are asked at once. A history that says
/// otherwise was written down wrongly, and nothing can be concluded from it.
fn processes_are_sequential(history: &History) -> Result<(), Finding> {
    let mut last: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    for operation in history.operations() {
        let span = (operation.call, operation.back);
        if span.0 > span.1 {
            return Err(Finding::Undecided(format!("ended before it began: {operation:?}")));
        }
        if let Some(known) = last.insert(operation.process, span)
            && known != span
            && known.1 > span.0
        {
            return Err(Finding::Undecided(format!("asked two things at once: {operation:?}")));
        }
    }
    Ok(())
}
