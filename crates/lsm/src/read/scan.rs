//! Live records of a key range, in order.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::Result;
use crate::read::merge::Merge;
use crate::read::source::{Direction, Source};
use crate::table::FamilyProperties;
use crate::tombstone::{Fragments, successor};
use crate::tree::State;
use crate::types::Record;

/// Keys from `lower` (inclusive) to `upper` (exclusive).
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyRange {
    pub(crate) lower: Option<Bytes>,
    pub(crate) upper: Option<Bytes>,
}

impl KeyRange {
    pub(crate) fn new((lower, upper): (Bound<Bytes>, Bound<Bytes>)) -> Self {
        let lower = match lower {
            Bound::Unbounded => None,
            Bound::Included(key) => Some(key),
            Bound::Excluded(key) => Some(successor(&key)),
        };
        let upper = match upper {
            Bound::Unbounded => None,
            Bound::Included(key) => Some(successor(&key)),
            Bound::Excluded(key) => Some(key),
        };
        Self { lower, upper }
    }

    /// Whether a family with these bounds can hold keys of the range.
    pub(crate) fn touches(&self, family: &FamilyProperties) -> bool {
        self.lower.as_ref().is_none_or(|l| *l <= family.key_max)
            && self.upper.as_ref().is_none_or(|u| family.key_min < *u)
    }

    /// Whether `key` lies behind the end a stream in `direction` runs towards.
    fn is_passed(&self, key: &[u8], direction: Direction) -> bool {
        match direction {
            Direction::Forward => self.upper.as_ref().is_some_and(|u| key >= u.as_ref()),
            Direction::Backward => self.lower.as_ref().is_some_and(|l| key < l.as_ref()),
        }
    }
}

/// Iterates live records; owns the version it began with, so flushes and compactions do not
/// disturb it. Ends after the first error.
pub struct Scan {
    merge: Merge,
    range: KeyRange,
    direction: Direction,
    /// Key of the last decision: older versions of it are passed.
    decided: Option<Vec<u8>>,
    failed: bool,
    /// Range tombstones the scan sees; none, mostly.
    ranges: Fragments,
    /// Keeps tables and memtables of the version in place.
    _state: Arc<State>,
}

impl Scan {
    pub(crate) fn new(
        state: Arc<State>,
        sources: Vec<Source>,
        ranges: Fragments,
        range: KeyRange,
        direction: Direction,
    ) -> Self {
        let merge = Merge::new(sources, direction);
        Self { merge, range, direction, decided: None, failed: false, ranges, _state: state }
    }

    fn forward(&mut self) -> Result<Option<(Bytes, Record)>> {
        while let Some(head) = self.merge.head() {
            let key = head.key();
            if self.range.is_passed(key, self.direction) {
                return Ok(None);
            }
            if self.decided.as_deref() == Some(key) {
                self.merge.advance()?;
                continue;
            }
            let decided = self.decided.get_or_insert_default();
            decided.clear();
            decided.extend_from_slice(key);
            let found = record(head, &self.ranges)?;
            self.merge.advance()?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    fn backward(&mut self) -> Result<Option<(Bytes, Record)>> {
        while let Some(head) = self.merge.head() {
            if self.range.is_passed(head.key(), self.direction) {
                return Ok(None);
            }
            let key = Bytes::copy_from_slice(head.key());
            let mut newest = None;
            while let Some(head) = self.merge.head().filter(|head| head.key() == key) {
                newest = record(head, &self.ranges)?;
                self.merge.advance()?;
            }
            if newest.is_some() {
                return Ok(newest);
            }
        }
        Ok(None)
    }
}

/// The live record a source stands at, `None` if it is a tombstone or one of `ranges` hides it.
fn record(source: &Source, ranges: &Fragments) -> Result<Option<(Bytes, Record)>> {
    if ranges.hides(source.key(), (source.seq(), source.ordinal()), u64::MAX) {
        return Ok(None);
    }
    let Some(value) = source.value_bytes()? else { return Ok(None) };
    let record = Record { seq: source.seq(), ordinal: source.ordinal(), value };
    Ok(Some((Bytes::copy_from_slice(source.key()), record)))
}

impl Iterator for Scan {
    type Item = Result<(Bytes, Record)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = match self.direction {
            Direction::Forward => self.forward(),
            Direction::Backward => self.backward(),
        };
        self.failed = !matches!(next, Ok(Some(_)));
        next.transpose()
    }
}
