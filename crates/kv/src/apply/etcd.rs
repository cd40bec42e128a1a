//! Transactions as etcd means them.
//!
//! A walk in four passes: choose the branches, check the steps on them, clear what is hidden, carry
//! them out. The first two see the state before the transaction, so that what is refused is
//! refused before anything is changed. The walk is the same on the live state and on a reader's.

use std::cmp::Ordering;

use bytes::Bytes;
use holdfast_model::limits::{RANGE_DELETE_KEYS_MAX, REQUEST_BYTES_MAX};
use holdfast_model::{LeaseId, Revision};

use super::transaction::{Ground as _, Live};
use super::{Applier, Step};
use crate::command::{
    Comparison, ETCD_DEPTH_MAX, EtcdCompare, EtcdDelete, EtcdKeys, EtcdOperation, EtcdOrder,
    EtcdPut, EtcdRange, EtcdSort, EtcdStep, EtcdTarget, EtcdTxn, Put,
};
use crate::working::Visit;
use crate::{Entry, EtcdOutcome, EtcdResult, Outcome, Previous, Refusal};

/// Entries of a sorted range that may always be held, however few of them are answered.
const HELD_MIN: usize = 64;

/// What a transaction runs on.
pub(crate) trait EtcdGround {
    /// The newest revision, changes of the transaction not included.
    fn base(&self) -> Revision;
    /// The oldest readable revision; 0 where nothing was compacted.
    fn compacted(&self) -> Revision;
    /// Most keys the compares and steps of a transaction may look at together.
    fn keys_max(&self) -> usize;
    /// Whether the transaction has changed something yet.
    fn has_changed(&self) -> bool;
    /// Visits keys in order: as the steps so far left them, or as they were at a revision.
    fn visit(
        &mut self,
        keys: &EtcdKeys,
        at: Option<Revision>,
        each: &mut dyn FnMut(Entry) -> Visit,
    ) -> Step<()>;
    /// Refuses a lease that nothing can be attached to; `held` is the key's own.
    fn check_lease(&mut self, id: LeaseId, held: LeaseId) -> Step<()>;
    /// Makes sure that what hides behind a key is gone before the key is stored.
    fn clear(&mut self, key: &Bytes) -> Step<()>;
    /// Stores a value; gives what it replaced.
    fn put(&mut self, put: &Put) -> Step<Option<Entry>>;
    /// Removes an entry that was visited; `previous` is what watchers are told.
    fn delete(&mut self, entry: &Entry, previous: Previous) -> Step<()>;
}

impl Applier<'_> {
    pub(super) fn etcd(&mut self, txn: &EtcdTxn) -> Step<Outcome> {
        self.configured()?;
        let savepoint = self.work.savepoint();
        match self.run_etcd(txn) {
            Ok(outcome) => {
                self.work.keep(savepoint);
                Ok(outcome.map_or(Outcome::ConditionFailed { current: None }, Outcome::Etcd))
            }
            Err(stop) => {
                self.work.roll_back(savepoint);
                Err(stop)
            }
        }
    }

    fn run_etcd(&mut self, txn: &EtcdTxn) -> Step<Option<EtcdOutcome>> {
        let mut live = Live { applier: self, ordinal: 0 };
        let Some((succeeded, results)) = etcd_walk(&mut live, txn)? else { return Ok(None) };
        let changed = live.ordinal > 0;
        if changed {
            self.next_revision();
        }
        Ok(Some(EtcdOutcome { succeeded, revision: self.work.revision, changed, results }))
    }
}

impl EtcdGround for Live<'_, '_> {
    fn base(&self) -> Revision {
        self.applier.work.revision
    }

    fn compacted(&self) -> Revision {
        self.applier.compacted
    }

    /// Everybody waits for apply.
    fn keys_max(&self) -> usize {
        RANGE_DELETE_KEYS_MAX
    }

    fn has_changed(&self) -> bool {
        self.ordinal > 0
    }

    fn visit(
        &mut self,
        keys: &EtcdKeys,
        at: Option<Revision>,
        each: &mut dyn FnMut(Entry) -> Visit,
    ) -> Step<()> {
        let found = match (keys, at) {
            (EtcdKeys::One(key), None) => self.get(key)?,
            (EtcdKeys::One(key), Some(revision)) => {
                self.applier.own(key)?;
                self.applier.work.at(key, revision)?
            }
            (EtcdKeys::Interval(start, end), None) => {
                return super::transaction::Ground::visit(self, start, end, each);
            }
            (EtcdKeys::Interval(start, end), Some(revision)) => {
                let truth = self.applier.configured()?;
                self.applier.work.scan(start, end, revision, |entry| {
                    Ok(if truth.owns(&entry.key) { each(entry) } else { Visit::On })
                })?;
                return Ok(());
            }
        };
        found.map(each);
        Ok(())
    }

    fn check_lease(&mut self, id: LeaseId, held: LeaseId) -> Step<()> {
        self.applier.check_lease(id, held)
    }

    fn clear(&mut self, key: &Bytes) -> Step<()> {
        self.applier.own(key)?;
        let hidden = self.applier.find(key)?.hidden;
        self.applier.bury(hidden)?;
        Ok(())
    }

    fn put(&mut self, put: &Put) -> Step<Option<Entry>> {
        super::transaction::Ground::put(self, put)
    }

    fn delete(&mut self, entry: &Entry, previous: Previous) -> Step<()> {
        self.write_once(&entry.key)?;
        let (revision, ordinal) = (self.revision(), self.next_ordinal());
        self.applier.remove(entry, revision, ordinal, previous)?;
        Ok(())
    }
}

/// Runs a transaction: whether its compares held, and the results of the branch that ran. None, and
/// nothing is changed, where a put keeps what a missing key has.
pub(crate) fn etcd_walk<G: EtcdGround>(
    ground: &mut G,
    txn: &EtcdTxn,
) -> Step<Option<(bool, Vec<EtcdResult>)>> {
    let keys_left = ground.keys_max();
    let mut walk = Walk { ground, keys_left, bytes_left: REQUEST_BYTES_MAX };
    let path = walk.choose(txn, 1)?;
    if !walk.check(&path)? {
        return Ok(None);
    }
    walk.clear(&path)?;
    let results = walk.execute(&path)?;
    Ok(Some((path.succeeded, results)))
}

/// The branch a transaction takes, and those of the transactions on it, in their order.
struct Path<'t> {
    succeeded: bool,
    steps: &'t [EtcdStep],
    nested: Vec<Path<'t>>,
}

/// The walk over a transaction, with what it may still look at and answer.
struct Walk<'g, G> {
    ground: &'g mut G,
    keys_left: usize,
    bytes_left: usize,
}

impl<G: EtcdGround> Walk<'_, G> {
    fn choose<'t>(&mut self, txn: &'t EtcdTxn, depth: usize) -> Step<Path<'t>> {
        if depth > ETCD_DEPTH_MAX {
            return Err(Refusal::Malformed { what: "transactions are nested too deep" }.into());
        }
        let mut succeeded = true;
        for compare in &txn.compares {
            succeeded = succeeded && self.compare(compare)?;
        }
        let steps = if succeeded { &txn.success } else { &txn.failure };
        let mut nested = Vec::new();
        for step in steps {
            if let Some(EtcdOperation::Txn(txn)) = &step.operation {
                nested.push(self.choose(txn, depth + 1)?);
            }
        }
        Ok(Path { succeeded, steps, nested })
    }

    fn compare(&mut self, compare: &EtcdCompare) -> Step<bool> {
        let malformed = Refusal::Malformed { what: "compare without target or comparison" };
        let comparison = Comparison::try_from(compare.comparison).map_err(|_| malformed)?;
        let target = compare.target.as_ref().ok_or(malformed)?;
        let (mut holds, mut seen) = (true, false);
        self.visit(&compare.keys(), None, |entry| {
            seen = true;
            holds = compares(target, comparison, &entry);
            if holds { Visit::On } else { Visit::Stop }
        })?;
        let of_nothing = || match target {
            EtcdTarget::Value(_) => false,
            _ => compares(target, comparison, &Entry::default()),
        };
        Ok(if seen { holds } else { of_nothing() })
    }

    /// Refuses what the state before the transaction does not allow, in the order of the steps.
    /// Whether every key is there of which a put keeps something.
    fn check(&mut self, path: &Path<'_>) -> Step<bool> {
        let mut nested = path.nested.iter();
        for step in path.steps {
            let stands = match &step.operation {
                Some(EtcdOperation::Range(range)) => {
                    self.check_revision(range.revision)?;
                    true
                }
                Some(EtcdOperation::Put(put)) => self.check_put(put)?,
                Some(EtcdOperation::DeleteRange(_)) => true,
                Some(EtcdOperation::Txn(_)) => nested.next().map_or(Ok(true), |p| self.check(p))?,
                None => return Err(Refusal::Malformed { what: "operation is missing" }.into()),
            };
            if !stands {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn check_revision(&self, revision: i64) -> Step<()> {
        let (newest, oldest) = (self.ground.base(), self.ground.compacted());
        if revision > signed(newest.0) {
            return Err(Refusal::FutureRevision { newest }.into());
        }
        // Before the first compaction etcd's oldest revision is -1.
        let oldest_signed = if oldest.0 == 0 { -1 } else { signed(oldest.0) };
        if revision != 0 && revision < oldest_signed {
            return Err(Refusal::Compacted { oldest }.into());
        }
        Ok(())
    }

    fn check_put(&mut self, put: &EtcdPut) -> Step<bool> {
        let old = self.entry(&put.key)?;
        let held = old.as_ref().map_or(LeaseId(0), |entry| entry.lease);
        self.ground.check_lease(LeaseId(put.lease), held)?;
        Ok(old.is_some() || !put.ignore_value && !put.ignore_lease)
    }

    fn clear(&mut self, path: &Path<'_>) -> Step<()> {
        for step in path.steps {
            if let Some(EtcdOperation::Put(put)) = &step.operation {
                self.ground.clear(&put.key)?;
            }
        }
        path.nested.iter().try_for_each(|path| self.clear(path))
    }

    fn execute(&mut self, path: &Path<'_>) -> Step<Vec<EtcdResult>> {
        let mut nested = path.nested.iter();
        let mut results = Vec::with_capacity(path.steps.len());
        for step in path.steps {
            results.push(match &step.operation {
                Some(EtcdOperation::Range(range)) => self.range(range)?,
                Some(EtcdOperation::Put(put)) => self.put(put)?,
                Some(EtcdOperation::DeleteRange(delete)) => self.delete_range(delete)?,
                Some(EtcdOperation::Txn(_)) => {
                    let Some(path) = nested.next() else { continue };
                    let results = self.execute(path)?;
                    EtcdResult::Txn { succeeded: path.succeeded, results }
                }
                None => return Err(Refusal::Malformed { what: "operation is missing" }.into()),
            });
        }
        Ok(results)
    }

    fn put(&mut self, put: &EtcdPut) -> Step<EtcdResult> {
        let (mut value, mut lease) = (put.value.clone(), put.lease);
        if put.ignore_value || put.ignore_lease {
            // It was there when the transaction began: an earlier step has removed it.
            let old = self.entry(&put.key)?.ok_or(Refusal::DuplicateKey)?;
            if put.ignore_value {
                value = old.value;
            }
            if put.ignore_lease {
                lease = old.lease.0;
            }
        }
        let stored = Put { key: put.key.clone(), value, lease, ..Put::default() };
        let previous = self.ground.put(&stored)?.filter(|_| put.return_previous);
        self.spend(previous.as_ref().map_or(0, Entry::weight))?;
        Ok(EtcdResult::Put { previous, revision: self.revision() })
    }

    fn delete_range(&mut self, delete: &EtcdDelete) -> Step<EtcdResult> {
        let mut doomed = Vec::new();
        self.visit(&delete.keys(), None, |mut entry| {
            if !delete.return_previous {
                // Many values are not held for the sake of watchers: they can read them again.
                entry.value = Bytes::new();
            }
            doomed.push(entry);
            Visit::On
        })?;
        let count = doomed.len() as u64;
        for entry in &doomed {
            if delete.return_previous {
                self.spend(entry.weight())?;
                self.ground.delete(entry, Previous::Loaded(Some(entry.clone())))?;
            } else {
                self.ground.delete(entry, Previous::OnDemand)?;
            }
        }
        let previous = if delete.return_previous { doomed } else { Vec::new() };
        Ok(EtcdResult::DeleteRange { count, previous, revision: self.revision() })
    }

    fn range(&mut self, range: &EtcdRange) -> Step<EtcdResult> {
        let unknown = |_| Refusal::Malformed { what: "order or sort of a range" };
        let order = EtcdOrder::try_from(range.order).map_err(unknown)?;
        let sort = EtcdSort::try_from(range.sort).map_err(unknown)?;
        let limit = usize::try_from(range.limit).ok().filter(|limit| *limit > 0);
        // What is neither filtered nor sorted needs no more than shows that there is more.
        let gathered_max = limit.filter(|_| range.comes_sorted() && !range.is_filtered());
        let gathered_max = gathered_max.map_or(usize::MAX, |limit| limit.saturating_add(1));
        // Of what has to be sorted no more is held than twice what is answered.
        let wanted = limit.map_or(usize::MAX, |limit| limit.saturating_add(1));
        let held_max = wanted.saturating_mul(2).max(HELD_MIN);
        let (mut entries, mut count) = (Vec::new(), 0);
        let (mut bytes, bytes_left) = (0, self.bytes_left);
        let part_bytes = usize::try_from(range.part_bytes).ok().filter(|bytes| *bytes > 0);
        let mut is_cut = false;
        self.visit(&range.keys(), at(range.revision), |mut entry| {
            if part_bytes.is_some_and(|most| bytes >= most || entries.len() == gathered_max) {
                is_cut = true;
                return Visit::Stop;
            }
            count += u64::from(part_bytes.is_none());
            if range.count_only || entries.len() == gathered_max || !passes(range, &entry) {
                return Visit::On;
            }
            if range.keys_only && sort != EtcdSort::Value {
                // etcd answers it from its index, which does not know leases.
                (entry.value, entry.lease) = (Bytes::new(), LeaseId(0));
            }
            bytes += entry.weight();
            entries.push(entry);
            if entries.len() >= held_max {
                arrange(&mut entries, sort, order);
                entries.truncate(wanted);
                bytes = entries.iter().map(Entry::weight).sum();
            }
            if bytes > bytes_left { Visit::Stop } else { Visit::On }
        })?;
        if bytes > bytes_left {
            return Err(too_large());
        }
        arrange(&mut entries, sort, order);
        let more = is_cut || limit.is_some_and(|limit| entries.len() > limit);
        entries.truncate(limit.unwrap_or(usize::MAX));
        if range.keys_only {
            entries.iter_mut().for_each(|entry| entry.value = Bytes::new());
        }
        self.spend(entries.iter().map(Entry::weight).sum())?;
        Ok(EtcdResult::Range { entries, more, count, revision: self.revision() })
    }

    /// The newest revision, with the transaction's own where it has changed something.
    fn revision(&self) -> Revision {
        Revision(self.ground.base().0 + u64::from(self.ground.has_changed()))
    }

    fn entry(&mut self, key: &Bytes) -> Step<Option<Entry>> {
        let mut found = None;
        self.visit(&EtcdKeys::One(key.clone()), None, |entry| {
            found = Some(entry);
            Visit::On
        })?;
        Ok(found)
    }

    /// Visits keys, and counts them.
    fn visit(
        &mut self,
        keys: &EtcdKeys,
        at: Option<Revision>,
        mut each: impl FnMut(Entry) -> Visit,
    ) -> Step<()> {
        let mut left = Some(self.keys_left);
        self.ground.visit(keys, at, &mut |entry| {
            left = left.and_then(|left| left.checked_sub(1));
            if left.is_some() { each(entry) } else { Visit::Stop }
        })?;
        let limit = self.ground.keys_max() as u64;
        self.keys_left = left.ok_or(Refusal::TooManyKeys { limit })?;
        Ok(())
    }

    /// Counts what goes into the results.
    fn spend(&mut self, bytes: usize) -> Step<()> {
        self.bytes_left = self.bytes_left.checked_sub(bytes).ok_or_else(too_large)?;
        Ok(())
    }
}

fn too_large() -> super::Stop {
    Refusal::ResultTooLarge { limit: REQUEST_BYTES_MAX as u64 }.into()
}

/// The revision a range reads at; none means the newest.
fn at(revision: i64) -> Option<Revision> {
    u64::try_from(revision).ok().filter(|revision| *revision > 0).map(Revision)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Whether an entry lies within the bounds of a range.
fn passes(range: &EtcdRange, entry: &Entry) -> bool {
    let inside = |revision: Revision, min: i64, max: i64| {
        let revision = signed(revision.0);
        (min == 0 || revision >= min) && (max == 0 || revision <= max)
    };
    inside(entry.revision, range.min_mod_revision, range.max_mod_revision)
        && inside(entry.create_revision, range.min_create_revision, range.max_create_revision)
}

/// Sorts entries that come in the order of their keys.
fn arrange(entries: &mut [Entry], sort: EtcdSort, order: EtcdOrder) {
    let ordering = |a: &Entry, b: &Entry| match sort {
        EtcdSort::Key => a.key.cmp(&b.key),
        EtcdSort::Version => a.version.cmp(&b.version),
        EtcdSort::Create => a.create_revision.cmp(&b.create_revision),
        EtcdSort::Mod => a.revision.cmp(&b.revision),
        EtcdSort::Value => a.value.cmp(&b.value),
    };
    match order {
        EtcdOrder::Descend => entries.sort_by(|a, b| ordering(b, a)),
        EtcdOrder::None | EtcdOrder::Ascend if sort == EtcdSort::Key => {}
        EtcdOrder::None | EtcdOrder::Ascend => entries.sort_by(ordering),
    }
}

/// Whether an entry's figure relates to the target's as the comparison says.
fn compares(target: &EtcdTarget, comparison: Comparison, entry: &Entry) -> bool {
    let ordering = match target {
        EtcdTarget::Version(given) => signed(entry.version).cmp(given),
        EtcdTarget::CreateRevision(given) => signed(entry.create_revision.0).cmp(given),
        EtcdTarget::ModRevision(given) => signed(entry.revision.0).cmp(given),
        EtcdTarget::Lease(given) => entry.lease.0.cast_signed().cmp(given),
        EtcdTarget::Value(given) => entry.value.cmp(given),
    };
    match comparison {
        Comparison::Equal => ordering == Ordering::Equal,
        Comparison::NotEqual => ordering != Ordering::Equal,
        Comparison::Greater => ordering == Ordering::Greater,
        Comparison::Less => ordering == Ordering::Less,
    }
}
