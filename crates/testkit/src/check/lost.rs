//! No acknowledged write is lost.
//!
//! Looks at the end of a history, without revisions: a key that was written must be read after all
//! its writes had ended, and what is found there must not have been overwritten, by a write that
//! was acknowledged and called only after the found one had ended.

use std::collections::BTreeMap;

use super::log::keys_changed;
use super::{Checker, Finding, Verdict};
use crate::history::{History, Item, Operation, Outcome, Request, Step, StepTold, Told};

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct NothingLost;

/// What is known of one key.
#[derive(Default)]
struct Key<'h> {
    /// Operations that changed it, or may have.
    writes: Vec<&'h Operation>,
    /// The current read that was called last: when, what it found.
    read: Option<(u64, Option<&'h Item>)>,
}

impl Checker for NothingLost {
    fn name(&self) -> &'static str {
        "lost"
    }

    fn check(&self, history: &History) -> Verdict {
        let mut keys: BTreeMap<&str, Key<'_>> = BTreeMap::new();
        for operation in history.operations() {
            if !matches!(operation.outcome, Outcome::Failed(_)) && !was_refused(operation) {
                for key in keys_changed(operation) {
                    keys.entry(key).or_default().writes.push(operation);
                }
            }
        }
        for operation in history.operations() {
            note_reads(operation, &mut keys);
        }
        let mut judged = 0;
        for (name, key) in &keys {
            judged += judge(name, key)?;
        }
        Ok(judged)
    }
}

fn was_refused(operation: &Operation) -> bool {
    let told = operation.answer().map(|answer| &answer.told);
    matches!(told, Some(Told::Refused(_) | Told::Deleted(0) | Told::Txn { changed: false, .. }))
}

fn note_reads<'h>(operation: &'h Operation, keys: &mut BTreeMap<&'h str, Key<'h>>) {
    let Some(answer) = operation.answer() else { return };
    match (&operation.request, &answer.told) {
        (Request::Get { key, level }, Told::Read(item)) if level.is_current() => {
            if let Some(key) = keys.get_mut(key.as_str()) {
                key.note(operation.call, item.as_ref());
            }
        }
        (Request::Scan { prefix, level }, Told::Scanned { entries, .. }) if level.is_current() => {
            let found: BTreeMap<&str, &'h Item> =
                entries.iter().map(|placed| (placed.key.as_str(), &placed.item)).collect();
            for (name, key) in keys.iter_mut().filter(|(name, _)| name.starts_with(prefix.as_str()))
            {
                key.note(operation.call, found.get(name).copied());
            }
        }
        _ => {}
    }
}

impl<'h> Key<'h> {
    fn note(&mut self, call: u64, item: Option<&'h Item>) {
        if self.read.is_none_or(|(known, _)| call >= known) {
            self.read = Some((call, item));
        }
    }
}

/// What `operation` left under `key`: its value, or none where it went. Unknown sums: none.
fn left<'h>(operation: &'h Operation, key: &str) -> Left<'h> {
    match (&operation.request, operation.answer().map(|answer| &answer.told)) {
        (Request::Put { value, .. }, _) => Left::Value(value),
        (Request::Delete { .. }, _) => Left::Nothing,
        (Request::Increment { .. }, Some(Told::Number(sum))) => Left::Number(*sum),
        (Request::Txn { .. }, Some(Told::Txn { .. })) => {
            let (steps, results) = operation.steps().unwrap_or_default();
            let mut of_key = steps.iter().zip(results).filter(|(step, _)| step.key() == key);
            match of_key.rfind(|(step, _)| !matches!(step, Step::Get(_))) {
                Some((Step::Put(_, value), _)) => Left::Value(value),
                Some((Step::Delete(_), _)) => Left::Nothing,
                Some((_, StepTold::Number(sum))) => Left::Number(*sum),
                _ => Left::Anything,
            }
        }
        _ => Left::Anything,
    }
}

enum Left<'h> {
    Value(&'h str),
    Number(i64),
    Nothing,
    Anything,
}

impl Left<'_> {
    fn is(&self, item: Option<&Item>) -> bool {
        match (self, item) {
            (Self::Value(value), Some(item)) => item.value == **value,
            (Self::Number(number), Some(item)) => item.value == number.to_string(),
            (Self::Nothing, None) | (Self::Anything, _) => true,
            _ => false,
        }
    }
}

fn is_mortal(operation: &Operation) -> bool {
    matches!(
        &operation.request,
        Request::Put { ttl_ms: Some(_), .. } | Request::Put { lease: Some(_), .. }
    )
}

/// Judges one key; answers how many acknowledged writes it had.
fn judge(name: &str, key: &Key<'_>) -> Result<usize, Finding> {
    let acknowledged = || key.writes.iter().filter(|write| write.answer().is_some());
    let count = acknowledged().count();
    if count == 0 {
        return Ok(0);
    }
    let last_back = acknowledged().map(|write| write.back).max().unwrap_or(0);
    let Some((_, found)) = key.read.filter(|(call, _)| *call > last_back) else {
        let text = format!("{name} was not read after its last write: nobody knows what is left");
        return Err(Finding::Undecided(text));
    };
    let is_overwritten = |write: &Operation| {
        !write.outcome.is_unknown() && acknowledged().any(|later| later.call > write.back)
    };
    let explains = |write: &&&Operation| {
        let is_end = found.is_none() && is_mortal(write);
        (is_end || left(write, name).is(found)) && !is_overwritten(write)
    };
    if key.writes.iter().any(|write| explains(&write)) {
        return Ok(count);
    }
    let last = acknowledged().max_by_key(|write| write.call);
    Err(Finding::Violation(format!(
        "{name} ends as {found:?}, but the acknowledged {last:?} is not in it"
    )))
}
