//! What is refused of an etcd transaction before anything is proposed.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{Checked, Invalid, Limits, at_most, rule};
use crate::command::{
    Comparison, ETCD_DEPTH_MAX, EtcdCompare, EtcdOperation, EtcdOrder, EtcdPut, EtcdRange,
    EtcdSort, EtcdStep, EtcdTarget, EtcdTxn,
};

impl Limits {
    pub(super) fn etcd(&self, txn: &EtcdTxn) -> Checked {
        self.etcd_part(txn, 1, self.transaction_operations_max)?;
        Writes::of(&txn.success)?;
        Writes::of(&txn.failure)?;
        Ok(())
    }

    /// A transaction takes as many operations as its longest list has; what it leaves of the
    /// budget each of its nested ones may take.
    fn etcd_part(&self, txn: &EtcdTxn, depth: usize, budget: usize) -> Checked {
        at_most("nested transactions", ETCD_DEPTH_MAX, depth)?;
        let operations = txn.compares.len().max(txn.success.len()).max(txn.failure.len());
        at_most("operations of a transaction", budget, operations)?;
        for compare in &txn.compares {
            self.etcd_compare(compare)?;
        }
        for step in txn.success.iter().chain(&txn.failure) {
            self.etcd_step(step, depth, budget - operations)?;
        }
        Ok(())
    }

    fn etcd_compare(&self, compare: &EtcdCompare) -> Checked {
        self.etcd_keys(&compare.key, &compare.range_end)?;
        if let Some(EtcdTarget::Value(value)) = &compare.target {
            self.value(value)?;
        }
        match (&compare.target, Comparison::try_from(compare.comparison)) {
            (None, _) => rule("the target of a compare is missing"),
            (_, Err(_)) => rule("the comparison is unknown"),
            _ => Ok(()),
        }
    }

    fn etcd_step(&self, step: &EtcdStep, depth: usize, budget: usize) -> Checked {
        match &step.operation {
            None => rule("an operation is missing"),
            Some(EtcdOperation::Range(range)) => self.etcd_range(range),
            Some(EtcdOperation::Put(put)) => self.etcd_put(put),
            Some(EtcdOperation::DeleteRange(d)) => self.etcd_keys(&d.key, &d.range_end),
            Some(EtcdOperation::Txn(txn)) => self.etcd_part(txn, depth + 1, budget),
        }
    }

    fn etcd_range(&self, range: &EtcdRange) -> Checked {
        self.etcd_keys(&range.key, &range.range_end)?;
        if EtcdOrder::try_from(range.order).is_err() || EtcdSort::try_from(range.sort).is_err() {
            return rule("the order or sort of a range is unknown");
        }
        let by_key = range.comes_sorted() && range.sort == i32::from(EtcdSort::Key);
        let is_plain = by_key && !range.is_filtered() && !range.count_only;
        if range.part_bytes > 0 && !is_plain {
            return rule("part of a range is neither sorted nor filtered nor counted");
        }
        Ok(())
    }

    fn etcd_put(&self, put: &EtcdPut) -> Checked {
        self.key(&put.key)?;
        self.value(&put.value)?;
        if put.ignore_value && !put.value.is_empty() {
            return rule("a put that keeps the value brings none");
        }
        if put.ignore_lease && put.lease != 0 {
            return rule("a put that keeps the lease brings none");
        }
        Ok(())
    }

    fn etcd_keys(&self, key: &Bytes, range_end: &Bytes) -> Checked {
        self.key(key)?;
        at_most("bytes of a key", self.key_bytes_max, range_end.len())
    }
}

/// What the steps of a branch write.
#[derive(Default)]
struct Writes<'t> {
    stored: BTreeSet<&'t [u8]>,
    /// Keys that are removed by name.
    removed: BTreeSet<&'t [u8]>,
    /// Intervals that are removed, none of which touches another: start, and end where there is
    /// one.
    cleared: BTreeMap<&'t [u8], Option<&'t [u8]>>,
}

impl<'t> Writes<'t> {
    /// The writes of a branch, no step of which stores what another one writes.
    fn of(steps: &'t [EtcdStep]) -> Result<Self, Invalid> {
        let mut writes = Self::default();
        for step in steps {
            let added = match &step.operation {
                Some(EtcdOperation::Put(put)) => {
                    Self { stored: BTreeSet::from([put.key.as_ref()]), ..Self::default() }
                }
                Some(EtcdOperation::DeleteRange(delete)) => {
                    let (key, range_end) = (delete.key.as_ref(), delete.range_end.as_ref());
                    let mut added = Self::default();
                    match range_end {
                        [] => _ = added.removed.insert(key),
                        [0] => added.clear(key, None),
                        end => added.clear(key, Some(end)),
                    }
                    added
                }
                Some(EtcdOperation::Txn(txn)) => {
                    // One of both runs: they may write the same.
                    let mut either = Self::of(&txn.success)?;
                    either.add(Self::of(&txn.failure)?);
                    either
                }
                Some(EtcdOperation::Range(_)) | None => continue,
            };
            if writes.collides(&added) {
                return Err(Invalid::DuplicateKey);
            }
            writes.add(added);
        }
        Ok(writes)
    }

    fn collides(&self, other: &Self) -> bool {
        let stores_over = |a: &Self, b: &Self| {
            let removed = |key: &&[u8]| b.removed.contains(*key) || b.is_cleared(key);
            a.stored.iter().any(removed)
        };
        let both = |key: &&[u8]| self.stored.contains(*key);
        other.stored.iter().any(both) || stores_over(self, other) || stores_over(other, self)
    }

    fn is_cleared(&self, key: &[u8]) -> bool {
        let before = self.cleared.range(..=key).next_back();
        before.is_some_and(|(_, end)| end.is_none_or(|end| key < end))
    }

    fn add(&mut self, other: Self) {
        self.stored.extend(other.stored);
        self.removed.extend(other.removed);
        for (start, end) in other.cleared {
            self.clear(start, end);
        }
    }

    /// Adds an interval, joined with those it touches.
    fn clear(&mut self, mut start: &'t [u8], mut end: Option<&'t [u8]>) {
        if end.is_some_and(|end| end <= start) {
            return;
        }
        let before = self.cleared.range(..=start).next_back();
        if let Some((first, last)) = before.map(|(first, last)| (*first, *last))
            && last.is_none_or(|last| last >= start)
        {
            (start, end) = (first, later(end, last));
        }
        while let Some((first, last)) = self.cleared.range(start..).next().map(|(f, l)| (*f, *l)) {
            if end.is_some_and(|end| first > end) {
                break;
            }
            self.cleared.remove(first);
            end = later(end, last);
        }
        self.cleared.insert(start, end);
    }
}

/// The later of two ends.
fn later<'t>(a: Option<&'t [u8]>, b: Option<&'t [u8]>) -> Option<&'t [u8]> {
    a.zip(b).map(|(a, b)| a.max(b))
}
