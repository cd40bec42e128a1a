//! The witness: revisions say in which order everything happened; was that possible?
//!
//! Three questions, for every operation. Does the order fit real time: does a change have a
//! revision above all that were known when it was called, and does a current read show no less?
//! Does every answer follow from the changes before its place? Was each condition true just
//! before the change it allowed? Cost: O(n log n); a pass is a proof for this history.
//!
//! Where operations of unknown outcome, expiries or ends of leases may have changed a key without
//! being seen, that key's answers are given the benefit of the doubt, but what has been seen to
//! be gone must not come back.

use std::collections::{BTreeMap, BTreeSet};

use super::log::{Log, RangeLog, Version, changes};
use super::{Checker, Finding, Verdict};
use crate::history::{
    Answer, Compare, History, Item, Operation, Outcome, Request, Step, StepTold, Told, When,
};

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Witness;

/// What an answer says about a key.
#[derive(Clone, Debug)]
enum Shown<'a> {
    Entry(&'a Item),
    Absent,
    Value(&'a str),
    Revision(u64),
    /// As it must have been for an increment to give its answer.
    Number(i64),
    /// As it must have been for a write to be the next after so many of one life.
    Written {
        create: u64,
        version: u64,
    },
}

/// Says that `key` looked so at some revision from `lo` to `hi`.
#[derive(Clone, Debug)]
struct Sighting<'a> {
    range: u64,
    key: &'a str,
    lo: u64,
    hi: u64,
    /// Range time of the answer; 0 where the answer's may be later than the moment it shows.
    clock_ms: u64,
    shown: Shown<'a>,
    operation: usize,
}

impl Checker for Witness {
    fn name(&self) -> &'static str {
        "witness"
    }

    fn check(&self, history: &History) -> Verdict {
        let log = Log::of(history)?;
        let mut judge = Judge { log: &log, gone: BTreeMap::new(), there: BTreeMap::new() };
        for (index, operation) in log.operations.iter().enumerate() {
            let judged = judge.real_time(index, operation);
            let judged = judged.and_then(|()| judge.answer(index, operation));
            judged.map_err(|what| Finding::Violation(format!("{what}: {operation:?}")))?;
        }
        judge.nothing_came_back()?;
        Ok(log.operations.len())
    }
}

/// A version and the place where it was (last, first) seen: revision, range time, by whom.
type Places<'a> = BTreeMap<(u64, &'a str, u64), (u64, u64, usize)>;

struct Judge<'a> {
    log: &'a Log<'a>,
    /// The first place at which a version was seen to be gone though nobody was seen to end it.
    gone: Places<'a>,
    /// The last place at which a version was seen.
    there: Places<'a>,
}

impl<'a> Judge<'a> {
    fn range(&self, range: u64) -> Option<&'a RangeLog> {
        self.log.ranges.get(&range)
    }

    /// The highest revision of `range` known before `moment`.
    fn floor(&self, range: u64, moment: u64) -> u64 {
        self.range(range).map_or(0, |range| range.known.before(moment))
    }

    fn real_time(&self, index: usize, operation: &Operation) -> Result<(), String> {
        if let Some((range, revision)) = self.log.resolved.get(&index) {
            let floor = self.floor(*range, operation.call);
            return above(*revision, floor);
        }
        let Outcome::Done(answer) = &operation.outcome else { return Ok(()) };
        let floor = self.floor(answer.point.range, operation.call);
        if changes(operation).is_some() {
            return above(answer.point.revision, floor);
        }
        match (&operation.request, &answer.told) {
            (Request::Get { level, .. } | Request::Scan { level, .. }, _)
                if !level.is_current() =>
            {
                Ok(())
            }
            (_, Told::Scanned { points, .. }) => points
                .iter()
                .try_for_each(|p| at_least(p.revision, self.floor(p.range, operation.call))),
            _ if answer.point.revision == 0 => Ok(()),
            _ => at_least(answer.point.revision, floor),
        }
    }

    fn answer(&mut self, index: usize, operation: &'a Operation) -> Result<(), String> {
        let Outcome::Done(answer) = &operation.outcome else { return Ok(()) };
        let mut sightings = Vec::new();
        refusal_is_due(operation, answer)?;
        self.of_single(index, operation, answer, &mut sightings);
        self.of_txn(index, operation, answer, &mut sightings)?;
        self.of_scan(index, operation, answer, &mut sightings);
        sightings.iter().try_for_each(|sighting| self.judge(sighting))
    }

    /// What an operation on one key says about it.
    fn of_single(
        &self,
        index: usize,
        operation: &'a Operation,
        answer: &'a Answer,
        to: &mut Vec<Sighting<'a>>,
    ) {
        let Some(key) = operation.request.key() else { return };
        let point = answer.point;
        let base = Sighting {
            range: point.range,
            key,
            lo: point.revision,
            hi: point.revision,
            clock_ms: point.clock_ms,
            shown: Shown::Absent,
            operation: index,
        };
        let is_told = point.revision > 0;
        let last = base.lo.saturating_sub(1);
        let before = Sighting { lo: last, hi: last, clock_ms: 0, ..base.clone() };
        match &answer.told {
            Told::Read(item) if is_told => {
                to.push(Sighting { shown: entry(item.as_ref()), ..base });
            }
            // Reads of a batch name no revision; old ones among them could be of any.
            Told::Read(item) => {
                let is_old = matches!(&operation.request,
                    Request::Get { level, .. } if !level.is_current());
                let lo = if is_old { 0 } else { self.floor(point.range, operation.call) };
                let shown = entry(item.as_ref());
                to.push(Sighting { lo, hi: u64::MAX, clock_ms: 0, shown, ..base });
            }
            Told::Refused(item) => {
                let lo = self.floor(point.range, operation.call);
                let hi = if is_told { point.revision } else { u64::MAX };
                let shown = entry(item.as_ref());
                to.push(Sighting { lo: lo.min(hi), hi, clock_ms: 0, shown, ..base });
            }
            Told::Deleted(0) if is_told => to.push(Sighting { clock_ms: 0, ..base }),
            Told::Written { create, version } if is_told && *version > 0 => {
                let (create, version) = (*create, *version - 1);
                let shown =
                    if version == 0 { Shown::Absent } else { Shown::Written { create, version } };
                to.push(Sighting { shown, ..before.clone() });
            }
            Told::Number(number) if is_told => {
                if let Request::Increment { delta, .. } = &operation.request {
                    let shown = Shown::Number(number.wrapping_sub(*delta));
                    to.push(Sighting { shown, ..before.clone() });
                }
            }
            _ => {}
        }
        let is_applied = matches!(answer.told, Told::Written { .. } | Told::Deleted(1..));
        let when = match &operation.request {
            Request::Put { when, .. } | Request::Delete { when, .. } => when.as_ref(),
            _ => None,
        };
        if let (Some(when), true, true) = (when, is_applied, is_told) {
            to.push(Sighting { shown: allowed(when), ..before });
        }
    }

    /// What a transaction says about its keys.
    fn of_txn(
        &self,
        index: usize,
        operation: &'a Operation,
        answer: &'a Answer,
        to: &mut Vec<Sighting<'a>>,
    ) -> Result<(), String> {
        let Request::Txn { compares, .. } = &operation.request else { return Ok(()) };
        let Told::Txn { succeeded, changed, .. } = &answer.told else { return Ok(()) };
        let at = answer.point.revision.saturating_sub(u64::from(*changed));
        let sighting = |key: &'a str, shown| Sighting {
            range: answer.point.range,
            key,
            lo: at,
            hi: at,
            clock_ms: 0,
            shown,
            operation: index,
        };
        if *succeeded {
            to.extend(compares.iter().map(|c| sighting(&c.key, allowed(&c.when))));
        } else {
            let holds = |c: &Compare| self.certainly_holds(answer.point.range, at, c, operation);
            if compares.iter().all(holds) {
                return Err("all compares held, but the other side ran".to_owned());
            }
        }
        let (steps, results) = operation.steps().unwrap_or_default();
        let mut touched: Vec<&str> = Vec::new();
        for (step, told) in steps.iter().zip(results) {
            let shown = match (step, told) {
                (Step::Get(_), StepTold::Read(item)) => Some(entry(item.as_ref())),
                (Step::Increment(_, delta), StepTold::Number(number)) => {
                    Some(Shown::Number(number.wrapping_sub(*delta)))
                }
                (Step::Delete(_), StepTold::Deleted(0)) => Some(Shown::Absent),
                _ => None,
            };
            // Later steps see what earlier ones wrote.
            if let (Some(shown), false) = (shown, touched.contains(&step.key())) {
                to.push(sighting(step.key(), shown));
            }
            if !matches!(step, Step::Get(_)) {
                touched.push(step.key());
            }
        }
        Ok(())
    }

    /// What a scan says about every key it covers, missing ones included.
    fn of_scan(
        &self,
        index: usize,
        operation: &'a Operation,
        answer: &'a Answer,
        to: &mut Vec<Sighting<'a>>,
    ) {
        let Request::Scan { prefix, .. } = &operation.request else { return };
        let Told::Scanned { points, entries } = &answer.told else { return };
        for point in points {
            let here = || entries.iter().filter(|placed| placed.range == point.range);
            let found: BTreeSet<&str> = here().map(|placed| placed.key.as_str()).collect();
            let sighting = |key: &'a str, shown| Sighting {
                range: point.range,
                key,
                lo: point.revision,
                hi: point.revision,
                clock_ms: point.clock_ms,
                shown,
                operation: index,
            };
            // Keys whose only writers were never seen are in no log; they may be missing as well.
            let of_range = self.range(point.range);
            let keys = of_range.into_iter().flat_map(|range| range.keys.range(prefix.clone()..));
            let keys = keys.map(|(key, _)| key);
            let missing = keys.take_while(|key| key.starts_with(prefix.as_str()));
            let missing = missing.filter(|key| !found.contains(key.as_str()));
            to.extend(missing.map(|key| sighting(key, Shown::Absent)));
            to.extend(here().map(|placed| sighting(&placed.key, Shown::Entry(&placed.item))));
        }
    }

    fn versions(&self, range: u64, key: &str) -> Option<&'a BTreeMap<u64, Version>> {
        self.range(range)?.keys.get(key)
    }

    /// Whether `compare` held at revision `at` whatever operations of unknown outcome did.
    fn certainly_holds(&self, range: u64, at: u64, compare: &Compare, by: &Operation) -> bool {
        if self.log.may_have_changed(&compare.key, by.back) {
            return false;
        }
        let versions = self.versions(range, &compare.key);
        let last = versions.and_then(|versions| versions.range(..=at).next_back());
        let item = last.and_then(|(_, version)| version.item.as_ref());
        if item.is_some_and(|item| self.is_mortal(last.map(|(_, v)| v), item)) {
            return false;
        }
        match &compare.when {
            When::Absent => item.is_none(),
            When::Revision(revision) => item.is_some_and(|item| item.revision == *revision),
            When::Value(value) => item.is_some_and(|item| item.value == *value),
        }
    }

    /// Whether a version may go without anybody deleting it.
    fn is_mortal(&self, version: Option<&Version>, item: &Item) -> bool {
        let maker = version.and_then(|version| version.maker);
        let asked = maker.is_some_and(|maker| {
            matches!(
                &self.log.operations[maker].request,
                Request::Put { ttl_ms: Some(_), .. } | Request::Put { lease: Some(_), .. }
            )
        });
        asked || item.lease != 0 || item.expires_ms != 0
    }

    fn judge(&mut self, sighting: &Sighting<'a>) -> Result<(), String> {
        match &sighting.shown {
            Shown::Entry(item) => self.judge_entry(sighting, item),
            Shown::Absent => self.judge_absence(sighting),
            _ => self.judge_before(sighting),
        }
    }

    fn judge_entry(&mut self, sighting: &Sighting<'a>, item: &Item) -> Result<(), String> {
        let Sighting { range, key, lo, hi, clock_ms, operation, .. } = *sighting;
        if item.revision > hi {
            return Err(format!("{key} comes from revision {}, after {hi}", item.revision));
        }
        if item.expires_ms != 0 && clock_ms >= item.expires_ms {
            return Err(format!("{key} is shown though its time has come"));
        }
        let versions = self.versions(range, key);
        let next = versions.and_then(|v| v.range(item.revision + 1..).next());
        if let Some((next, version)) = next
            && *next <= lo
        {
            return Err(format!("stale: {key} at {lo}, changed by {version:?}"));
        }
        let place = (lo, clock_ms, operation);
        let last = self.there.entry((range, key, item.revision)).or_insert(place);
        *last = (*last).max(place);
        Ok(())
    }

    fn judge_absence(&mut self, sighting: &Sighting<'a>) -> Result<(), String> {
        let Sighting { range, key, lo, hi, clock_ms, operation, .. } = *sighting;
        let Some(versions) = self.versions(range, key) else { return Ok(()) };
        let before = versions.range(..=lo).next_back().map(|(_, version)| version);
        let within = versions.range(lo.saturating_add(1)..=hi.max(lo.saturating_add(1)));
        let within = within.map(|(_, version)| version).filter(|version| version.revision <= hi);
        let mut doubtful = None;
        if before.is_none() {
            return Ok(());
        }
        for version in before.into_iter().chain(within) {
            let Some(item) = &version.item else { return Ok(()) };
            let hidden = item.expires_ms != 0 && (clock_ms == 0 || item.expires_ms <= clock_ms);
            let mortal = item.expires_ms == 0 && self.is_mortal(Some(version), item);
            let by = self.log.operations[operation];
            if hidden || mortal || self.log.may_have_changed(key, by.back) {
                doubtful = Some(version.revision);
            }
        }
        let Some(revision) = doubtful else {
            return Err(format!("{key} is missing at {hi}; it was {:?}", before.map(|v| &v.item)));
        };
        if lo == hi {
            let place = (lo, if clock_ms == 0 { u64::MAX } else { clock_ms }, operation);
            let first = self.gone.entry((range, key, revision)).or_insert(place);
            *first = (*first).min(place);
        }
        Ok(())
    }

    /// What must have stood there just before a change for the change to be as it is.
    fn judge_before(&self, sighting: &Sighting<'a>) -> Result<(), String> {
        let Sighting { range, key, lo, operation, .. } = *sighting;
        let versions = self.versions(range, key);
        let last = versions.and_then(|v| v.range(..=lo).next_back()).map(|(_, version)| version);
        let item = last.and_then(|version| version.item.as_ref());
        let holds = match &sighting.shown {
            Shown::Value(value) => item.is_some_and(|item| item.value == **value),
            Shown::Revision(revision) => item.is_some_and(|item| item.revision == *revision),
            Shown::Number(number) => match item {
                Some(item) => {
                    item.value.parse::<i64>() == Ok(*number)
                        || (*number == 0 && self.is_mortal(last, item))
                }
                None => *number == 0,
            },
            Shown::Written { create, version } => item.is_some_and(|item| {
                (item.version == 0 || item.version == *version)
                    && (item.create == 0 || item.create == *create)
            }),
            Shown::Entry(_) | Shown::Absent => true,
        };
        let by = self.log.operations[operation];
        let is_open = !matches!(sighting.shown, Shown::Revision(_))
            && self.log.may_have_changed(key, by.back);
        if holds || is_open {
            return Ok(());
        }
        Err(format!("{key} before it must have been {:?}, but was {last:?}", sighting.shown))
    }

    /// What was gone at one place of the log must not be there at a later one.
    fn nothing_came_back(&self) -> Result<(), Finding> {
        for (version, gone) in &self.gone {
            let there = self.there.get(version);
            if let Some(there) = there
                && (there.0, there.1) > (gone.0, gone.1)
            {
                return Err(Finding::Violation(format!(
                    "{version:?} was gone for {:?} and came back for {:?}",
                    self.log.operations[gone.2], self.log.operations[there.2]
                )));
            }
        }
        Ok(())
    }
}

/// Whether what a refused condition met does not meet it.
fn refusal_is_due(operation: &Operation, answer: &Answer) -> Result<(), String> {
    let Told::Refused(item) = &answer.told else { return Ok(()) };
    let when = match &operation.request {
        Request::Put { when, .. } | Request::Delete { when, .. } => when.as_ref(),
        _ => None,
    };
    let holds = match (when, item) {
        (None, _) | (Some(When::Absent), None) => true,
        (Some(When::Value(value)), Some(item)) => item.value == *value,
        (Some(When::Revision(revision)), Some(item)) => item.revision == *revision,
        _ => false,
    };
    if holds { Err("refused though the condition held".to_owned()) } else { Ok(()) }
}

fn above(revision: u64, floor: u64) -> Result<(), String> {
    if revision > floor {
        return Ok(());
    }
    Err(format!("made revision {revision} though {floor} was known before the call"))
}

fn at_least(revision: u64, floor: u64) -> Result<(), String> {
    if revision >= floor {
        return Ok(());
    }
    Err(format!("stale: shows revision {revision} though {floor} was known before the call"))
}

fn entry(item: Option<&Item>) -> Shown<'_> {
    item.map_or(Shown::Absent, Shown::Entry)
}

fn allowed(when: &When) -> Shown<'_> {
    match when {
        When::Absent => Shown::Absent,
        When::Revision(revision) => Shown::Revision(*revision),
        When::Value(value) => Shown::Value(value),
    }
}
