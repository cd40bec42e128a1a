//! Who judges the history of a run, and by which measure.

use super::faults::FaultKind;
use super::options::Options;
use crate::check::{Evidence, Punctuality, Quota, Report, everything, judge};
use crate::history::History;
use crate::workload::Kind;

/// A run with fewer answers says nothing.
const ANSWERED_MIN: usize = 20;
/// Of a hundred operations so many are answered, even in the worst weather.
const ANSWERED_PERCENT_MIN: usize = 20;
/// By how many thousandths clocks run wrong, where they do.
const DRIFT_PERMILLE: u64 = 100;
/// How late a key may end where nothing is in the way, milliseconds.
const LATE_CALM_MS: u64 = 500;
/// How late a key may end under faults: nobody ends it before there is a leader, milliseconds.
const LATE_MS: u64 = 15_000;

/// Lets every checker judge.
pub(super) fn judge_run(history: &History, options: &Options) -> Report {
    let is_calm = options.faults.is_empty();
    let drifts = options.faults.contains(&FaultKind::ClockRate);
    let punctuality = Punctuality {
        drift_permille: if drifts { DRIFT_PERMILLE } else { 0 },
        late_ms: if is_calm { LATE_CALM_MS } else { LATE_MS },
    };
    let mut checkers = everything(punctuality);
    let quota = Quota {
        answered_min: ANSWERED_MIN,
        answered_percent_min: ANSWERED_PERCENT_MIN,
        ..Quota::default()
    };
    checkers.push(Box::new(Evidence(quota)));
    let report = judge(history, &checkers);
    demands(options).into_iter().fold(report, |report, name| report.demand(name, 1))
}

/// Checkers that must have had something to judge, by the work that was done.
fn demands(options: &Options) -> Vec<&'static str> {
    let mut demands = vec!["hashes"];
    for kind in &options.workloads {
        match kind {
            Kind::Registers | Kind::Batches => demands.extend(["witness", "linearizable", "lost"]),
            Kind::Counters => demands.push("once"),
            Kind::Bank => demands.push("bank"),
            _ => {}
        }
    }
    demands
}
