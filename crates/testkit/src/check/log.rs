//! The log of every range, put together from what clients were told.
//!
//! Answers carry revisions, so each says something about one place in the log: an acknowledged
//! write says who stands there, an entry that was read says what a key became there, an event of
//! a watch says both. Put together they give the versions of every key. Whatever two answers say
//! about one place must agree; that alone finds split brains and writes that ran twice.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;
use crate::history::{Change, History, Item, Operation, Point, Request, Step, StepTold, Told};

/// What a key became at a revision.
#[derive(Clone, Debug)]
pub(super) struct Version {
    pub revision: u64,
    /// The entry; none: it went.
    pub item: Option<Item>,
    /// The operation that made it, if that was acknowledged or can be told.
    pub maker: Option<usize>,
}

/// Moments by which a revision was known to exist.
#[derive(Clone, Debug, Default)]
pub(super) struct Floor(Vec<(u64, u64)>);

impl Floor {
    fn new(mut known: Vec<(u64, u64)>) -> Self {
        known.sort_unstable();
        let mut highest = 0;
        for (_, revision) in &mut known {
            highest = highest.max(*revision);
            *revision = highest;
        }
        Self(known)
    }

    /// The highest revision known before `moment`.
    pub fn before(&self, moment: u64) -> u64 {
        let index = self.0.partition_point(|(known, _)| *known < moment);
        let last = index.checked_sub(1).and_then(|index| self.0.get(index));
        last.map_or(0, |(_, revision)| *revision)
    }
}

/// The log of one range.
#[derive(Clone, Debug, Default)]
pub(super) struct RangeLog {
    /// Acknowledged changes: revision → operation.
    pub made: BTreeMap<u64, usize>,
    /// Revisions that were seen, by whomever they were made.
    pub seen: BTreeSet<u64>,
    /// Versions of each key, in order.
    pub keys: BTreeMap<String, BTreeMap<u64, Version>>,
    /// What was known when, from every answer and event.
    pub known: Floor,
    /// What was acknowledged when, from writes alone.
    pub written: Floor,
}

/// The logs of all ranges.
pub(super) struct Log<'h> {
    pub operations: Vec<&'h Operation>,
    pub ranges: BTreeMap<u64, RangeLog>,
    /// Operations of unknown outcome that were seen to have happened: operation → place.
    pub resolved: BTreeMap<usize, (u64, u64)>,
    /// By key: operations of unknown outcome that may have changed it and were not seen.
    pub unresolved: BTreeMap<&'h str, Vec<usize>>,
    writers: BTreeMap<(&'h str, &'h str), Vec<usize>>,
    /// Keys that increments of unknown outcome may have changed.
    counted: BTreeSet<&'h str>,
}

/// The steps of `operation` that could change something: of either side where that is unknown.
pub(super) fn changing_steps(operation: &Operation) -> Vec<&Step> {
    let Request::Txn { then, otherwise, .. } = &operation.request else { return Vec::new() };
    let steps: Vec<&Step> = match operation.steps() {
        Some((steps, _)) => steps.iter().collect(),
        None => then.iter().chain(otherwise).collect(),
    };
    steps.into_iter().filter(|step| !matches!(step, Step::Get(_))).collect()
}

/// The keys an operation may change.
pub(super) fn keys_changed(operation: &Operation) -> Vec<&str> {
    match &operation.request {
        Request::Put { key, .. } | Request::Delete { key, .. } | Request::Increment { key, .. } => {
            vec![key]
        }
        Request::Txn { .. } => changing_steps(operation).into_iter().map(Step::key).collect(),
        _ => Vec::new(),
    }
}

/// Keys with what became of them; none: they went.
pub(super) type Changed<'h> = Vec<(&'h str, Option<Item>)>;

/// What an acknowledged change made of its keys, at the revision of its answer.
pub(super) fn changes(operation: &Operation) -> Option<(Point, Changed<'_>)> {
    let answer = operation.answer()?;
    let point = answer.point;
    if point.revision == 0 {
        return None;
    }
    let revision = point.revision;
    let item = |value: String, create: u64, version: u64| {
        Some(Item { value, revision, create, version, ..Item::default() })
    };
    let changed = match (&operation.request, &answer.told) {
        (Request::Put { key, value, .. }, Told::Written { create, version }) => {
            vec![(key.as_str(), item(value.clone(), *create, *version))]
        }
        (Request::Delete { key, .. }, Told::Deleted(count)) if *count > 0 => {
            vec![(key.as_str(), None)]
        }
        (Request::Increment { key, .. }, Told::Number(number)) => {
            vec![(key.as_str(), item(number.to_string(), 0, 0))]
        }
        (Request::Txn { .. }, Told::Txn { changed: true, .. }) => {
            let (steps, results) = operation.steps()?;
            let pairs = steps.iter().zip(results).filter_map(|(step, told)| match (step, told) {
                (Step::Put(key, value), _) => Some((key.as_str(), item(value.clone(), 0, 0))),
                (Step::Delete(_), StepTold::Deleted(0)) => None,
                (Step::Delete(key), _) => Some((key.as_str(), None)),
                (Step::Increment(key, _), StepTold::Number(number)) => {
                    Some((key.as_str(), item(number.to_string(), 0, 0)))
                }
                _ => None,
            });
            pairs.collect()
        }
        (Request::Lock { .. }, Told::Locked(_)) => Vec::new(),
        _ => return None,
    };
    Some((point, changed))
}

/// Every entry an answer showed: range, key, entry.
pub(super) fn shown(operation: &Operation) -> Vec<(u64, &str, &Item)> {
    let Some(answer) = operation.answer() else { return Vec::new() };
    let range = answer.point.range;
    match (&answer.told, operation.request.key()) {
        (Told::Read(Some(item)) | Told::Refused(Some(item)), Some(key)) => vec![(range, key, item)],
        (Told::Scanned { entries, .. }, _) => {
            entries.iter().map(|e| (e.range, e.key.as_str(), &e.item)).collect()
        }
        (Told::Txn { .. }, _) => {
            let (steps, results) = operation.steps().unwrap_or_default();
            let pairs = steps.iter().zip(results).filter_map(|pair| match pair {
                (Step::Get(key), StepTold::Read(Some(item))) => Some((range, key.as_str(), item)),
                _ => None,
            });
            pairs.collect()
        }
        _ => Vec::new(),
    }
}

impl<'h> Log<'h> {
    /// Puts the logs together.
    ///
    /// # Errors
    /// Two answers that contradict each other, an entry nobody wrote, a write that ran twice.
    pub fn of(history: &'h History) -> Result<Self, Finding> {
        let mut log = Self::of_nothing();
        log.operations = history.operations().collect();
        log.note_writers();
        log.set_floors(history);
        log.place_acknowledged()?;
        log.place_shown(history)?;
        log.note_unresolved();
        Ok(log)
    }

    /// No log at all.
    pub fn of_nothing() -> Self {
        Self {
            operations: Vec::new(),
            ranges: BTreeMap::new(),
            resolved: BTreeMap::new(),
            unresolved: BTreeMap::new(),
            writers: BTreeMap::new(),
            counted: BTreeSet::new(),
        }
    }

    fn note_writers(&mut self) {
        for (index, operation) in self.operations.iter().enumerate() {
            if let Request::Put { key, value, .. } = &operation.request {
                self.writers.entry((key, value)).or_default().push(index);
            }
            let is_open = operation.outcome.is_unknown();
            if let (Request::Increment { key, .. }, true) = (&operation.request, is_open) {
                self.counted.insert(key);
            }
            for step in changing_steps(operation) {
                match step {
                    Step::Put(key, value) => {
                        self.writers.entry((key, value)).or_default().push(index);
                    }
                    Step::Increment(key, _) if is_open => {
                        self.counted.insert(key);
                    }
                    _ => {}
                }
            }
        }
    }

    fn set_floors(&mut self, history: &History) {
        type Moments = Vec<(u64, u64)>;
        let mut known: BTreeMap<u64, (Moments, Moments)> = BTreeMap::new();
        for operation in &self.operations {
            let Some(answer) = operation.answer() else { continue };
            let mut note = |point: &Point| {
                known.entry(point.range).or_default().0.push((operation.back, point.revision));
            };
            match &answer.told {
                Told::Scanned { points, .. } => points.iter().for_each(note),
                _ => note(&answer.point),
            }
            if let Some((point, _)) = changes(operation) {
                known.entry(point.range).or_default().1.push((operation.back, point.revision));
            }
        }
        for batch in history.batches() {
            let last = batch.events.last().map_or(0, crate::history::Event::revision);
            known.entry(batch.range).or_default().0.push((batch.at, last));
        }
        for (range, (known, written)) in known {
            let log = self.ranges.entry(range).or_default();
            (log.known, log.written) = (Floor::new(known), Floor::new(written));
        }
    }

    fn place_acknowledged(&mut self) -> Result<(), Finding> {
        for index in 0..self.operations.len() {
            let Some((point, changed)) = changes(self.operations[index]) else { continue };
            let range = self.ranges.entry(point.range).or_default();
            range.seen.insert(point.revision);
            if let Some(other) = range.made.insert(point.revision, index) {
                return Err(Finding::Violation(format!(
                    "revision {} of range {} was made twice: by {:?} and by {:?}",
                    point.revision, point.range, self.operations[other], self.operations[index]
                )));
            }
            for (key, item) in changed {
                let version = Version { revision: point.revision, item, maker: Some(index) };
                range.keys.entry(key.to_owned()).or_default().insert(point.revision, version);
            }
        }
        Ok(())
    }

    fn place_shown(&mut self, history: &'h History) -> Result<(), Finding> {
        for index in 0..self.operations.len() {
            let operation = self.operations[index];
            for (range, key, item) in shown(operation) {
                self.place(range, key, item.revision, Some(item), &|| format!("{operation:?}"))?;
            }
        }
        for batch in history.batches() {
            for event in &batch.events {
                let source = || format!("watch {} with {event:?}", batch.watch);
                let item = match &event.change {
                    Change::Put(item) => Some(item),
                    Change::Delete(_) => None,
                };
                self.place(batch.range, &event.key, event.revision(), item, &source)?;
                if let Some(before) = &event.previous {
                    self.place(batch.range, &event.key, before.revision, Some(before), &source)?;
                }
            }
        }
        Ok(())
    }

    /// Notes that `key` became `item` at `revision`, as `source` says.
    fn place(
        &mut self,
        range: u64,
        key: &str,
        revision: u64,
        item: Option<&Item>,
        source: &dyn Fn() -> String,
    ) -> Result<(), Finding> {
        let log = self.ranges.entry(range).or_default();
        log.seen.insert(revision);
        if let Some(known) = log.keys.get_mut(key).and_then(|key| key.get_mut(&revision)) {
            return merge(known, item).map_err(|what| {
                Finding::Violation(format!("{key} at revision {revision}: {what}; {}", source()))
            });
        }
        if let Some(maker) = log.made.get(&revision) {
            let text = format!(
                "{} shows a change of {key} at revision {revision}, which is {:?}",
                source(),
                self.operations[*maker]
            );
            return Err(Finding::Violation(text));
        }
        let maker = match item {
            Some(item) => self.writer(range, key, item, source)?,
            None => None,
        };
        let version = Version { revision, item: item.cloned(), maker };
        let keys = &mut self.ranges.entry(range).or_default().keys;
        keys.entry(key.to_owned()).or_default().insert(revision, version);
        Ok(())
    }

    /// Who of those without an answer may have written `item`; none where several may.
    fn writer(
        &mut self,
        range: u64,
        key: &str,
        item: &Item,
        source: &dyn Fn() -> String,
    ) -> Result<Option<usize>, Finding> {
        let all = self.writers.get(&(key, item.value.as_str())).cloned().unwrap_or_default();
        let is_open = |index: &&usize| self.operations[**index].outcome.is_unknown();
        let open: Vec<usize> = all.iter().filter(is_open).copied().collect();
        if let ([only], 1) = (open.as_slice(), all.len()) {
            let place = (range, item.revision);
            if let Some(other) = self.resolved.insert(*only, place) {
                return Err(Finding::Violation(format!(
                    "{:?} happened twice, at {other:?} and {place:?}; {}",
                    self.operations[*only],
                    source()
                )));
            }
            return Ok(Some(*only));
        }
        if !open.is_empty() || self.may_count(key, &item.value) {
            return Ok(None);
        }
        let acknowledged = all.iter().find(|index| self.operations[**index].answer().is_some());
        Err(Finding::Violation(match (acknowledged, all.first()) {
            (Some(other), _) => format!(
                "{} shows at revision {} what {:?} wrote at another",
                source(),
                item.revision,
                self.operations[*other]
            ),
            (None, Some(other)) => {
                format!("{} shows what was refused: {:?}", source(), self.operations[*other])
            }
            (None, None) => format!("{} shows what nobody wrote to {key}", source()),
        }))
    }

    /// Whether `value` may be the work of an increment of unknown outcome.
    fn may_count(&self, key: &str, value: &str) -> bool {
        self.counted.contains(key) && value.parse::<i64>().is_ok()
    }

    fn note_unresolved(&mut self) {
        for (index, operation) in self.operations.iter().enumerate() {
            if operation.outcome.is_unknown() && !self.resolved.contains_key(&index) {
                for key in keys_changed(operation) {
                    self.unresolved.entry(key).or_default().push(index);
                }
            }
        }
    }

    /// Whether an operation that nobody saw happen may have changed `key` before `moment`.
    pub fn may_have_changed(&self, key: &str, moment: u64) -> bool {
        let mut open = self.unresolved.get(key).into_iter().flatten();
        open.any(|index| self.operations[*index].call < moment)
    }
}

/// Takes over what `item` adds to a known version.
fn merge(known: &mut Version, item: Option<&Item>) -> Result<(), String> {
    match (&mut known.item, item) {
        (None, None) => Ok(()),
        (Some(known), Some(item)) => {
            let told = |a: u64, b: u64| a == 0 || b == 0 || a == b;
            let agree = known.value == item.value
                && told(known.create, item.create)
                && told(known.version, item.version)
                && told(known.lease, item.lease)
                && told(known.expires_ms, item.expires_ms);
            if !agree {
                return Err(format!("{known:?} and {item:?}"));
            }
            known.create = known.create.max(item.create);
            known.version = known.version.max(item.version);
            known.lease = known.lease.max(item.lease);
            known.expires_ms = known.expires_ms.max(item.expires_ms);
            Ok(())
        }
        (known, item) => Err(format!("{known:?} and {item:?}")),
    }
}
