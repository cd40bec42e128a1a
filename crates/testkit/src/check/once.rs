//! Exactly once: a counter is the sum of its increments, each counted once.
//!
//! For keys that are only ever incremented, by positive numbers. Every current read, and every
//! answer, must lie between the sum of what was acknowledged before its call and the sum of all
//! that was called before its end; so an increment that ran twice shows as soon as the rest is
//! known, and one that was dropped at the next read.

use std::collections::{BTreeMap, BTreeSet};

use super::{Checker, Finding, Verdict};
use crate::history::{History, Operation, Outcome, Request, Step, Told};

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExactlyOnce;

#[derive(Default)]
struct Counter<'h> {
    added: Vec<&'h Operation>,
    /// When it was asked for, when answered, the number, whether that is an increment's.
    seen: Vec<(u64, u64, i64, bool)>,
}

/// Sums of deltas by time.
struct Sums(Vec<(u64, i64)>);

impl Sums {
    fn new(mut added: Vec<(u64, i64)>) -> Self {
        added.sort_unstable();
        let mut sum = 0;
        for (_, delta) in &mut added {
            sum += *delta;
            *delta = sum;
        }
        Self(added)
    }

    /// The sum of all before `moment`.
    fn before(&self, moment: u64) -> i64 {
        let count = self.0.partition_point(|(at, _)| *at < moment);
        count.checked_sub(1).map_or(0, |last| self.0[last].1)
    }
}

impl Checker for ExactlyOnce {
    fn name(&self) -> &'static str {
        "once"
    }

    fn check(&self, history: &History) -> Verdict {
        let mut judged = 0;
        for (key, counter) in counters(history) {
            judged += judge(key, &counter)?;
        }
        Ok(judged)
    }
}

/// Keys that are incremented and nothing else.
fn counters(history: &History) -> BTreeMap<&str, Counter<'_>> {
    let mut counters: BTreeMap<&str, Counter<'_>> = BTreeMap::new();
    let mut others: BTreeSet<&str> = BTreeSet::new();
    for operation in history.operations() {
        match &operation.request {
            Request::Increment { key, delta } if *delta > 0 => {
                counters.entry(key).or_default().added.push(operation);
            }
            Request::Get { .. } | Request::Scan { .. } => {}
            Request::Txn { then, otherwise, .. } => {
                let steps = then.iter().chain(otherwise);
                let changing = steps.filter(|step| !matches!(step, Step::Get(_)));
                others.extend(changing.map(Step::key));
            }
            request => others.extend(request.key()),
        }
    }
    counters.retain(|key, _| !others.contains(key));
    for operation in history.operations() {
        let Some(answer) = operation.answer() else { continue };
        let number = match (&operation.request, &answer.told) {
            (Request::Get { level, .. }, Told::Read(item)) if level.is_current() => {
                Some((item.as_ref().map_or(Ok(0), |item| item.value.parse()).ok(), false))
            }
            (Request::Increment { .. }, Told::Number(sum)) => Some((Some(*sum), true)),
            _ => None,
        };
        let key = operation.request.key().unwrap_or_default();
        if let (Some((number, is_sum)), Some(counter)) = (number, counters.get_mut(key)) {
            // What is no number lies outside of every bound.
            let number = number.unwrap_or(i64::MIN);
            counter.seen.push((operation.call, operation.back, number, is_sum));
        }
    }
    counters
}

fn delta(operation: &Operation) -> i64 {
    match &operation.request {
        Request::Increment { delta, .. } => *delta,
        _ => 0,
    }
}

fn judge(key: &str, counter: &Counter<'_>) -> Result<usize, Finding> {
    let happened = counter.added.iter().filter(|o| matches!(o.outcome, Outcome::Done(_)));
    let low = Sums::new(happened.map(|o| (o.back, delta(o))).collect());
    let possible = counter.added.iter().filter(|o| !matches!(o.outcome, Outcome::Failed(_)));
    let high = Sums::new(possible.map(|o| (o.call, delta(o))).collect());
    let mut sums = BTreeSet::new();
    for (call, back, number, is_sum) in &counter.seen {
        let (low, high) = (low.before(*call), high.before(*back));
        if *number < low || *number > high {
            return Err(Finding::Violation(format!(
                "{key} was {number} between {call} and {back}; increments say {low} to {high}"
            )));
        }
        if *is_sum && !sums.insert(number) {
            let text = format!("two increments of {key} both answered {number}");
            return Err(Finding::Violation(text));
        }
    }
    Ok(counter.seen.len())
}
