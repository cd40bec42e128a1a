//! Lifetimes: a key ends with its TTL or its lease, neither early nor late.
//!
//! In true time, which no server knows. A grant or renewal promises a time that began when it was
//! asked for at the earliest and when it was answered at the latest; clocks may run wrong by a
//! known part. Before the earliest end the key must be there, unless somebody may have deleted or
//! replaced it; after the latest end, and some patience, it must not.

use std::collections::BTreeMap;

use super::log::keys_changed;
use super::{Checker, Finding, Verdict};
use crate::history::{History, Item, Operation, Outcome, Request, Told};

const MS: u64 = 1_000_000;

/// How exact a run's times have to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Punctuality {
    /// By how many thousandths the clock of a range may run fast or slow.
    pub drift_permille: u64,
    /// How long after its time a key may still be shown, milliseconds: what a commit takes, or the
    /// choice of a leader where faults are about.
    pub late_ms: u64,
}

impl Default for Punctuality {
    fn default() -> Self {
        Self { drift_permille: 0, late_ms: 1_000 }
    }
}

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lifetimes(pub Punctuality);

/// From when to when something ends in any case; nanoseconds.
#[derive(Clone, Copy, Debug)]
struct End {
    earliest: u64,
    latest: u64,
}

/// What is known of a lease.
#[derive(Debug, Default)]
struct Lease {
    /// What each successful grant or renewal promised: when it was answered, the end.
    promised: Vec<(u64, End)>,
    /// Renewals nobody knows about, by the time of their call.
    doubtful: Vec<u64>,
    /// When somebody first tried to revoke it.
    revoked: Option<u64>,
}

impl Checker for Lifetimes {
    fn name(&self) -> &'static str {
        "lifetimes"
    }

    fn check(&self, history: &History) -> Verdict {
        let leases = self.leases(history);
        let mut keys: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
        for operation in history.operations() {
            if !matches!(operation.outcome, Outcome::Failed(_)) {
                for key in keys_changed(operation) {
                    keys.entry(key).or_default().push(operation);
                }
            }
        }
        keys.retain(|_, writes| writes.iter().any(|write| is_mortal(write)));
        let mut judged = 0;
        for operation in history.operations() {
            for (key, seen) in sightings(operation, &keys) {
                let Some(writes) = keys.get(key) else { continue };
                judged += self.judge(key, seen, operation, writes, &leases)?;
            }
        }
        Ok(judged)
    }
}

fn is_mortal(operation: &Operation) -> bool {
    matches!(
        &operation.request,
        Request::Put { ttl_ms: Some(_), .. } | Request::Put { lease: Some(_), .. }
    )
}

/// What current reads say: keys, and the entry found. Keys that no scan listed count as missing.
fn sightings<'h>(
    operation: &'h Operation,
    keys: &BTreeMap<&'h str, Vec<&'h Operation>>,
) -> Vec<(&'h str, Option<&'h Item>)> {
    let Some(answer) = operation.answer() else { return Vec::new() };
    match (&operation.request, &answer.told) {
        (Request::Get { key, level }, Told::Read(item)) if level.is_current() => {
            vec![(key.as_str(), item.as_ref())]
        }
        (Request::Scan { prefix, level }, Told::Scanned { entries, .. }) if level.is_current() => {
            let covered = keys.keys().filter(|key| key.starts_with(prefix.as_str()));
            let found: BTreeMap<&str, &Item> =
                entries.iter().map(|placed| (placed.key.as_str(), &placed.item)).collect();
            covered.map(|key| (*key, found.get(key).copied())).collect()
        }
        _ => Vec::new(),
    }
}

impl Lifetimes {
    /// Something promised for `ttl_ms` by an operation.
    fn end(&self, operation: &Operation, ttl_ms: u64) -> End {
        let ttl = ttl_ms * MS;
        let drift = ttl / 1_000 * self.0.drift_permille;
        End { earliest: operation.call + ttl - drift, latest: operation.back + ttl + drift }
    }

    fn leases(&self, history: &History) -> BTreeMap<u64, Lease> {
        let mut leases: BTreeMap<u64, Lease> = BTreeMap::new();
        for operation in history.operations() {
            match (&operation.request, &operation.outcome) {
                (Request::Grant { .. }, Outcome::Done(answer)) => {
                    if let Told::Granted { lease, ttl_ms } = answer.told {
                        let promise = (operation.back, self.end(operation, ttl_ms));
                        leases.entry(lease).or_default().promised.push(promise);
                    }
                }
                (Request::Renew { lease }, Outcome::Done(answer)) => {
                    if let Told::Renewed(ttl_ms @ 1..) = answer.told {
                        let promise = (operation.back, self.end(operation, ttl_ms));
                        leases.entry(*lease).or_default().promised.push(promise);
                    }
                }
                // A renewal that failed may have been logged on the way all the same.
                (Request::Renew { lease }, _) => {
                    leases.entry(*lease).or_default().doubtful.push(operation.call);
                }
                (Request::Revoke { .. }, Outcome::Failed(_)) => {}
                (Request::Revoke { lease }, _) => {
                    let first = &mut leases.entry(*lease).or_default().revoked;
                    *first = Some(first.map_or(operation.call, |at| at.min(operation.call)));
                }
                _ => {}
            }
        }
        leases
    }

    /// Judges what a read saw of a key, where the key's last write is clear; answers how many
    /// facts that were.
    fn judge(
        &self,
        key: &str,
        seen: Option<&Item>,
        read: &Operation,
        writes: &[&Operation],
        leases: &BTreeMap<u64, Lease>,
    ) -> Result<usize, Finding> {
        let Some(write) = the_last(writes, read) else { return Ok(0) };
        let Request::Put { value, ttl_ms, lease, .. } = &write.request else { return Ok(0) };
        let (end, revoked) = match (ttl_ms, lease.and_then(|lease| leases.get(&lease))) {
            (Some(ttl_ms), _) => (self.end(write, *ttl_ms), None),
            (None, Some(lease)) => match lease_end(lease, read) {
                Some(end) => (end, lease.revoked),
                None => return Ok(0),
            },
            (None, None) => return Ok(0),
        };
        match seen {
            None if read.back < end.earliest && revoked.is_none_or(|at| at >= read.back) => {
                Err(Finding::Violation(format!(
                    "{key} was missing {} ms before its time: {write:?}, {read:?}",
                    (end.earliest - read.back) / MS
                )))
            }
            Some(item) if item.value == *value && read.call > end.latest + self.0.late_ms * MS => {
                Err(Finding::Violation(format!(
                    "{key} was shown {} ms after its time: {write:?}, {read:?}",
                    (read.call - end.latest) / MS
                )))
            }
            _ => Ok(1),
        }
    }
}

/// The acknowledged write that a read must see, unless it has ended: all others came before it,
/// and none was under way or unknown when the read was answered.
fn the_last<'h>(writes: &[&'h Operation], read: &Operation) -> Option<&'h Operation> {
    let begun = || writes.iter().filter(|write| write.call < read.back);
    let last = begun().max_by_key(|write| write.call)?;
    let is_clear = begun().all(|write| {
        std::ptr::eq(*write, *last) || (write.back < last.call && write.answer().is_some())
    });
    let is_written = matches!(last.answer()?.told, Told::Written { .. });
    (is_clear && is_written && last.back < read.call).then_some(last)
}

/// The end of a lease as far as it was promised when `read` took place; none where that is open.
fn lease_end(lease: &Lease, read: &Operation) -> Option<End> {
    let earliest = lease.promised.iter().filter(|(back, _)| *back < read.call);
    let earliest = earliest.map(|(_, end)| end.earliest).max()?;
    let latest = lease.promised.iter().map(|(_, end)| end.latest).max()?;
    let is_open = lease.doubtful.iter().any(|call| *call < read.back);
    let latest = if is_open { u64::MAX / 2 } else { latest };
    Some(End { earliest, latest })
}
