//! Transactions: compares, then the steps of one branch, under one revision.
//!
//! Running a transaction and giving its answer again to a retry are the same walk over compares
//! and steps, on two grounds ([`Ground`]): the live state, or the state just before the original,
//! of which history still knows everything.

use std::collections::BTreeMap;

use bytes::Bytes;
use holdfast_model::Revision;
use holdfast_model::limits::{RANGE_DELETE_KEYS_MAX, REQUEST_BYTES_MAX, SCAN_PAGE_KEYS_MAX};

use super::data::number;
use super::{Applier, Step, Stop};
use crate::command::{
    Compare, CompareTarget, Comparison, Delete, DeleteRange, Increment, Put, RangeRead, Txn,
    TxnOperation, TxnStep,
};
use crate::validate::TXN_DEPTH_MAX;
use crate::working::Visit;
use crate::{Entry, Outcome, Previous, Refusal, TxnOutcome, TxnResult};

/// What a transaction runs on.
pub(super) trait Ground {
    /// The entry of a key, as the steps so far left it.
    fn get(&mut self, key: &Bytes) -> Step<Option<Entry>>;
    /// Visits the keys of `[start, end)` in order, as the steps so far left them.
    fn visit(
        &mut self,
        start: &Bytes,
        end: &Bytes,
        each: &mut dyn FnMut(Entry) -> Visit,
    ) -> Step<()>;
    /// Stores a value; gives what it replaced.
    fn put(&mut self, put: &Put) -> Step<Option<Entry>>;
    /// Removes a key; gives what was removed.
    fn delete(&mut self, key: &Bytes) -> Step<Option<Entry>>;
    /// Adds to a number; gives the sum.
    fn increment(&mut self, increment: &Increment) -> Step<i64>;
    /// Makes sure a branch meets no hidden keys where it stores.
    fn clear(&mut self, steps: &[TxnStep]) -> Step<()>;
}

impl Applier<'_> {
    pub(super) fn txn(&mut self, txn: &Txn) -> Step<Outcome> {
        self.configured()?;
        let savepoint = self.work.savepoint();
        match self.run(txn) {
            Ok(outcome) => {
                self.work.keep(savepoint);
                Ok(Outcome::Txn(outcome))
            }
            Err(stop) => {
                self.work.roll_back(savepoint);
                Err(stop)
            }
        }
    }

    fn run(&mut self, txn: &Txn) -> Step<TxnOutcome> {
        let mut live = Live { applier: self, ordinal: 0 };
        let (succeeded, results) = Walk::new(&mut live).txn(txn, 1)?;
        let changed = live.ordinal > 0;
        if changed {
            self.next_revision();
        }
        let revision = self.work.revision;
        Ok(TxnOutcome { succeeded, revision, changed, results, results_lost: false })
    }

    /// Gives the answer of a transaction again that ran at `revision` and range time `clock_ms`.
    pub(super) fn rerun(&self, txn: &Txn, told: TxnOutcome, clock_ms: u64) -> Step<TxnOutcome> {
        let base = Revision(told.revision.0 - u64::from(told.changed));
        if base < self.compacted {
            return Ok(TxnOutcome { results_lost: true, ..told });
        }
        let mut past =
            Past { applier: self, base, made: told.revision, clock_ms, overlay: BTreeMap::new() };
        let (_, results) = Walk::new(&mut past).txn(txn, 1)?;
        Ok(TxnOutcome { results, ..told })
    }
}

/// The walk over a transaction, with what its results may still weigh.
struct Walk<'g, G> {
    ground: &'g mut G,
    bytes_left: usize,
}

impl<'g, G: Ground> Walk<'g, G> {
    fn new(ground: &'g mut G) -> Self {
        Self { ground, bytes_left: REQUEST_BYTES_MAX }
    }

    fn txn(&mut self, txn: &Txn, depth: usize) -> Step<(bool, Vec<TxnResult>)> {
        if depth > TXN_DEPTH_MAX {
            return Err(Refusal::Malformed { what: "transactions are nested too deep" }.into());
        }
        let mut succeeded = true;
        for compare in &txn.compares {
            succeeded = succeeded && self.compare(compare)?;
        }
        let steps = if succeeded { &txn.success } else { &txn.failure };
        if depth == 1 {
            self.ground.clear(steps)?;
        }
        let mut results = Vec::with_capacity(steps.len());
        for step in steps {
            results.push(self.step(step, depth)?);
        }
        Ok((succeeded, results))
    }

    fn step(&mut self, step: &TxnStep, depth: usize) -> Step<TxnResult> {
        let Some(operation) = &step.operation else {
            return Err(Refusal::Malformed { what: "operation is missing" }.into());
        };
        Ok(match operation {
            TxnOperation::Get(get) => {
                let entry = self.ground.get(&get.key)?;
                TxnResult::Get(self.told(entry)?)
            }
            TxnOperation::Range(range) => self.range(range)?,
            TxnOperation::Put(put) => {
                let previous = self.ground.put(put)?.filter(|_| put.return_previous);
                TxnResult::Put { previous: self.told(previous)? }
            }
            TxnOperation::Delete(delete) => self.delete(delete)?,
            TxnOperation::DeleteRange(delete) => self.delete_range(delete)?,
            TxnOperation::Increment(increment) => {
                TxnResult::Increment(self.ground.increment(increment)?)
            }
            TxnOperation::Txn(txn) => {
                let (succeeded, results) = self.txn(txn, depth + 1)?;
                TxnResult::Txn { succeeded, results }
            }
        })
    }

    fn range(&mut self, range: &RangeRead) -> Step<TxnResult> {
        let limit = match usize::try_from(range.limit) {
            Ok(limit) if (1..=SCAN_PAGE_KEYS_MAX).contains(&limit) => limit,
            _ => SCAN_PAGE_KEYS_MAX,
        };
        let mut entries = Vec::new();
        let (mut more, mut bytes) = (false, 0);
        let bytes_left = self.bytes_left;
        self.ground.visit(&range.start, &range.end, &mut |mut entry| {
            if entries.len() == limit {
                more = true;
                return Visit::Stop;
            }
            if range.keys_only {
                entry.value = Bytes::new();
            }
            bytes += entry.weight();
            entries.push(entry);
            if bytes > bytes_left { Visit::Stop } else { Visit::On }
        })?;
        self.spend(bytes)?;
        Ok(TxnResult::Range { entries, more })
    }

    fn delete(&mut self, delete: &Delete) -> Step<TxnResult> {
        let removed = self.ground.delete(&delete.key)?;
        let count = u64::from(removed.is_some());
        let previous = self.told(removed.filter(|_| delete.return_previous))?;
        Ok(TxnResult::Delete { count, previous: previous.into_iter().collect() })
    }

    fn delete_range(&mut self, delete: &DeleteRange) -> Step<TxnResult> {
        let mut doomed = Vec::new();
        self.ground.visit(&delete.start, &delete.end, &mut |entry| {
            doomed.push(entry.key);
            if doomed.len() > RANGE_DELETE_KEYS_MAX { Visit::Stop } else { Visit::On }
        })?;
        if doomed.len() > RANGE_DELETE_KEYS_MAX {
            return Err(Refusal::TooManyKeys { limit: RANGE_DELETE_KEYS_MAX as u64 }.into());
        }
        let count = doomed.len() as u64;
        let mut previous = Vec::new();
        for key in &doomed {
            let removed = self.ground.delete(key)?.filter(|_| delete.return_previous);
            previous.extend(self.told(removed)?);
        }
        Ok(TxnResult::Delete { count, previous })
    }

    /// Counts an entry that goes into the results.
    fn told(&mut self, entry: Option<Entry>) -> Step<Option<Entry>> {
        self.spend(entry.as_ref().map_or(0, Entry::weight))?;
        Ok(entry)
    }

    fn spend(&mut self, bytes: usize) -> Step<()> {
        let limit = REQUEST_BYTES_MAX as u64;
        self.bytes_left =
            self.bytes_left.checked_sub(bytes).ok_or(Refusal::ResultTooLarge { limit })?;
        Ok(())
    }

    fn compare(&mut self, compare: &Compare) -> Step<bool> {
        let malformed = Refusal::Malformed { what: "compare without target or comparison" };
        let comparison = Comparison::try_from(compare.comparison).map_err(|_| malformed)?;
        let target = compare.target.as_ref().ok_or(malformed)?;
        if compare.end.is_empty() {
            let entry = self.ground.get(&compare.key)?;
            return Ok(compares(target, comparison, entry.as_ref()));
        }
        let (mut holds, mut seen) = (true, 0);
        self.ground.visit(&compare.key, &compare.end, &mut |entry| {
            holds = compares(target, comparison, Some(&entry));
            seen += 1;
            if holds && seen <= RANGE_DELETE_KEYS_MAX { Visit::On } else { Visit::Stop }
        })?;
        if seen > RANGE_DELETE_KEYS_MAX {
            return Err(Refusal::TooManyKeys { limit: RANGE_DELETE_KEYS_MAX as u64 }.into());
        }
        Ok(holds)
    }
}

/// Whether an entry's figure relates to the target's as the comparison says.
fn compares(target: &CompareTarget, comparison: Comparison, entry: Option<&Entry>) -> bool {
    let figure = |of: fn(&Entry) -> u64| entry.map_or(0, of);
    let ordering = match target {
        CompareTarget::Revision(given) => figure(|e| e.revision.0).cmp(given),
        CompareTarget::CreateRevision(given) => figure(|e| e.create_revision.0).cmp(given),
        CompareTarget::Version(given) => figure(|e| e.version).cmp(given),
        CompareTarget::Lease(given) => figure(|e| e.lease.0).cmp(given),
        CompareTarget::Exists(given) => entry.is_some().cmp(given),
        CompareTarget::Value(given) => match entry {
            Some(entry) => entry.value.cmp(given),
            None => return false,
        },
    };
    match comparison {
        Comparison::Equal => ordering.is_eq(),
        Comparison::NotEqual => ordering.is_ne(),
        Comparison::Greater => ordering.is_gt(),
        Comparison::Less => ordering.is_lt(),
    }
}

/// The live state: steps change it, under the revision after the newest.
pub(super) struct Live<'b, 'a> {
    pub applier: &'b mut Applier<'a>,
    /// How many changes the transaction has made.
    pub ordinal: u32,
}

impl Live<'_, '_> {
    /// The revision of the changes.
    pub fn revision(&self) -> Revision {
        Revision(self.applier.work.revision.0 + 1)
    }

    pub fn next_ordinal(&mut self) -> u32 {
        self.ordinal += 1;
        self.ordinal - 1
    }

    /// Refuses a key that was written by an earlier step.
    pub fn write_once(&self, key: &Bytes) -> Result<(), Refusal> {
        let again = self.applier.work.is_written(key, self.revision());
        if again { Err(Refusal::DuplicateKey) } else { Ok(()) }
    }
}

impl Ground for Live<'_, '_> {
    fn get(&mut self, key: &Bytes) -> Step<Option<Entry>> {
        self.applier.own(key)?;
        Ok(self.applier.find(key)?.visible)
    }

    fn visit(
        &mut self,
        start: &Bytes,
        end: &Bytes,
        each: &mut dyn FnMut(Entry) -> Visit,
    ) -> Step<()> {
        let truth = self.applier.configured()?;
        let clock_ms = self.applier.work.clock_ms;
        let revision = self.revision();
        self.applier.work.scan(start, end, revision, |entry| {
            let shown = !entry.is_expired(clock_ms) && truth.owns(&entry.key);
            Ok(if shown { each(entry) } else { Visit::On })
        })?;
        Ok(())
    }

    fn put(&mut self, put: &Put) -> Step<Option<Entry>> {
        if put.condition.is_some() {
            return Err(Refusal::Malformed { what: "condition inside a transaction" }.into());
        }
        self.applier.own(&put.key)?;
        self.write_once(&put.key)?;
        let old = self.applier.find(&put.key)?.visible;
        let stored = self.applier.stored_by(put);
        let held = old.as_ref().map_or(holdfast_model::LeaseId(0), |entry| entry.lease);
        self.applier.check_lease(stored.lease, held)?;
        let (revision, ordinal) = (self.revision(), self.next_ordinal());
        self.applier.store(stored, old.clone(), revision, ordinal)?;
        Ok(old)
    }

    fn delete(&mut self, key: &Bytes) -> Step<Option<Entry>> {
        self.applier.own(key)?;
        let Some(entry) = self.applier.find(key)?.visible else { return Ok(None) };
        self.write_once(key)?;
        let (revision, ordinal) = (self.revision(), self.next_ordinal());
        let previous = Previous::Loaded(Some(entry.clone()));
        self.applier.remove(&entry, revision, ordinal, previous)?;
        Ok(Some(entry))
    }

    fn increment(&mut self, increment: &Increment) -> Step<i64> {
        self.applier.own(&increment.key)?;
        self.write_once(&increment.key)?;
        let old = self.applier.find(&increment.key)?.visible;
        let (sum, stored) = self.applier.incremented(increment, old.as_ref())?;
        let (revision, ordinal) = (self.revision(), self.next_ordinal());
        self.applier.store(stored, old, revision, ordinal)?;
        Ok(sum)
    }

    /// Hidden keys go under revisions of their own, before the transaction's.
    fn clear(&mut self, steps: &[TxnStep]) -> Step<()> {
        for step in steps {
            let key = match &step.operation {
                Some(TxnOperation::Put(put)) => &put.key,
                Some(TxnOperation::Increment(increment)) => &increment.key,
                Some(TxnOperation::Txn(txn)) => {
                    self.clear(&txn.success)?;
                    self.clear(&txn.failure)?;
                    continue;
                }
                _ => continue,
            };
            self.applier.own(key)?;
            let hidden = self.applier.find(key)?.hidden;
            self.applier.bury(hidden)?;
        }
        Ok(())
    }
}

/// The state just before a transaction ran, and what its steps made of it.
struct Past<'b, 'a> {
    applier: &'b Applier<'a>,
    /// The revision it ran on.
    base: Revision,
    /// The revision it made.
    made: Revision,
    /// Range time when it ran.
    clock_ms: u64,
    overlay: BTreeMap<Bytes, Option<Entry>>,
}

impl Past<'_, '_> {
    /// The version the transaction itself made of `key`.
    fn made(&mut self, key: &Bytes) -> Step<Option<Entry>> {
        let entry = self.applier.work.at(key, self.made)?;
        self.overlay.insert(key.clone(), entry.clone());
        Ok(entry)
    }
}

impl Ground for Past<'_, '_> {
    fn get(&mut self, key: &Bytes) -> Step<Option<Entry>> {
        if let Some(entry) = self.overlay.get(key) {
            return Ok(entry.clone());
        }
        let entry = self.applier.work.at(key, self.base)?;
        Ok(entry.filter(|entry| !entry.is_expired(self.clock_ms)))
    }

    fn visit(
        &mut self,
        start: &Bytes,
        end: &Bytes,
        each: &mut dyn FnMut(Entry) -> Visit,
    ) -> Step<()> {
        let truth = self.applier.configured()?;
        let inside = |key: &Bytes| key >= start && (end.is_empty() || key < end);
        let mut over = self.overlay.iter().filter(|(key, _)| inside(key)).peekable();
        let mut stopped = false;
        self.applier.work.scan(start, end, self.base, |entry| {
            let mut replaced = false;
            while let Some((key, value)) = over.next_if(|(key, _)| **key <= entry.key) {
                replaced |= *key == entry.key;
                if let Some(value) = value {
                    stopped = stopped || each(value.clone()) == Visit::Stop;
                }
            }
            if !replaced && !entry.is_expired(self.clock_ms) && truth.owns(&entry.key) {
                stopped = stopped || each(entry) == Visit::Stop;
            }
            Ok(if stopped { Visit::Stop } else { Visit::On })
        })?;
        for value in over.filter_map(|(_, value)| value.as_ref()) {
            stopped = stopped || each(value.clone()) == Visit::Stop;
        }
        Ok(())
    }

    fn put(&mut self, put: &Put) -> Step<Option<Entry>> {
        let old = self.get(&put.key)?;
        self.made(&put.key)?;
        Ok(old)
    }

    fn delete(&mut self, key: &Bytes) -> Step<Option<Entry>> {
        let old = self.get(key)?;
        self.overlay.insert(key.clone(), None);
        Ok(old)
    }

    fn increment(&mut self, increment: &Increment) -> Step<i64> {
        let entry = self.made(&increment.key)?;
        let value = entry.ok_or_else(|| Stop::from(Refusal::NotANumber))?.value;
        Ok(number(&value)?)
    }

    fn clear(&mut self, _steps: &[TxnStep]) -> Step<()> {
        Ok(())
    }
}
