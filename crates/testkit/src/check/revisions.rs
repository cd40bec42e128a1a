//! Revisions are dense and never taken twice.
//!
//! That none is taken twice, and that they agree with time, the witness finds. Here they are
//! counted: between the first and the last one that were seen, each must be somebody's, and there
//! must be enough to account for the rest: operations of unknown outcome, keys that end by
//! themselves, grants of locks that nobody heard of. Only in histories of which nobody else wrote
//! to the same ranges.

use std::collections::BTreeMap;

use super::log::{Log, keys_changed};
use super::{Checker, Finding, Verdict};
use crate::history::{History, Outcome, Request, Told};

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Revisions;

impl Checker for Revisions {
    fn name(&self) -> &'static str {
        "revisions"
    }

    fn check(&self, history: &History) -> Verdict {
        if !history.is_exclusive {
            return Ok(0);
        }
        let log = Log::of(history)?;
        let (spare, endless) = spare(&log);
        let mut judged = 0;
        let mut missing: BTreeMap<u64, u64> = BTreeMap::new();
        for (range, of_range) in &log.ranges {
            let (Some(first), Some(last)) = (of_range.seen.first(), of_range.seen.last()) else {
                continue;
            };
            judged += of_range.seen.len();
            missing.insert(*range, last - first + 1 - of_range.seen.len() as u64);
        }
        let all: u64 = missing.values().sum();
        if !endless && all > spare {
            return Err(Finding::Violation(format!(
                "revisions nobody made, by range: {missing:?}; {spare} at most could be explained"
            )));
        }
        Ok(judged)
    }
}

/// How many revisions may have been taken without being seen; and whether there is no bound.
fn spare(log: &Log<'_>) -> (u64, bool) {
    let mut spare = 0;
    let mut endless = false;
    for (index, operation) in log.operations.iter().enumerate() {
        let is_seen = log.resolved.contains_key(&index);
        match (&operation.request, &operation.outcome) {
            (_, Outcome::Failed(_)) if !matches!(operation.request, Request::Lock { .. }) => {}
            // A waiter may be granted the lock after it gave up, or lose it before it hears of it
            // and queue again.
            (Request::Lock { .. }, _) => spare += 1,
            (Request::Revoke { .. }, _) => spare += 1,
            (Request::Put { ttl_ms, lease, .. }, outcome) => {
                spare += u64::from(outcome.is_unknown() && !is_seen);
                // It ends once, or its lease ends it with others.
                spare += u64::from(ttl_ms.is_some() || lease.is_some());
            }
            (_, outcome) if outcome.is_unknown() && !is_seen => {
                spare += u64::from(!keys_changed(operation).is_empty());
            }
            _ => {}
        }
        // An answer that does not tell its revision leaves a place that cannot be named.
        if let Some(answer) = operation.answer() {
            endless |= answer.point.revision == 0
                && matches!(answer.told, Told::Written { .. } | Told::Number(_));
        }
    }
    (spare, endless)
}
