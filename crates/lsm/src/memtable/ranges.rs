//! The range tombstones of a memtable.
//!
//! They are few and mostly there are none: then a read costs one load. Readers of the newest state
//! ask a list of pieces that is replaced as a whole; those of an older one, rare, look through the
//! log of what was inserted.
//!
//! Invariants:
//! * Only the engine's one writer inserts.
//! * `latest` is replaced before the batch is published; a reader that finds it too new falls back
//!   to the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use crate::tombstone::{Fragments, RangeTombstone, Stamp};

/// See the module.
#[derive(Default)]
pub(super) struct Ranges {
    /// The newest tombstone over every key.
    latest: ArcSwapOption<Fragments>,
    // Held for memory operations only; most readers never take it.
    log: Mutex<Vec<RangeTombstone>>,
    count: AtomicUsize,
    bytes: AtomicUsize,
}

impl Ranges {
    pub(super) fn insert(&self, tombstone: &RangeTombstone) {
        let mut pieces =
            self.latest.load().as_ref().map_or_else(Vec::new, |latest| latest.pieces().to_vec());
        pieces.push(tombstone.clone());
        let latest = Fragments::of(pieces, u64::MAX);
        let mut log = self.log.lock();
        log.push(tombstone.clone());
        let bytes = self.bytes.load(Ordering::Relaxed) + 2 * tombstone.bytes();
        self.bytes.store(bytes, Ordering::Relaxed);
        self.count.store(log.len(), Ordering::Release);
        self.latest.store(Some(Arc::new(latest)));
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many were inserted.
    pub(super) fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Memory held, bytes, roughly.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The newest that covers `key` with a sequence number of at most `seq_max`.
    #[inline]
    pub(super) fn covering(&self, key: &[u8], seq_max: u64) -> Option<Stamp> {
        if self.is_empty() { None } else { self.find(key, seq_max) }
    }

    fn find(&self, key: &[u8], seq_max: u64) -> Option<Stamp> {
        let newest = self.latest.load().as_ref()?.covering(key, u64::MAX)?;
        if newest.0 <= seq_max {
            return Some(newest);
        }
        let log = self.log.lock();
        let covers = |t: &&RangeTombstone| t.seq <= seq_max && t.contains(key);
        log.iter().filter(covers).map(RangeTombstone::stamp).max()
    }

    /// The newest over every key, cut; enough for a family that keeps no versions.
    pub(super) fn latest(&self) -> Vec<RangeTombstone> {
        self.latest.load().as_ref().map_or_else(Vec::new, |latest| latest.pieces().to_vec())
    }

    /// All with these sequence numbers, both included, as they were inserted.
    pub(super) fn logged(&self, seq_min: u64, seq_max: u64) -> Vec<RangeTombstone> {
        if self.is_empty() {
            return Vec::new();
        }
        let is_wanted = |t: &&RangeTombstone| seq_min <= t.seq && t.seq <= seq_max;
        self.log.lock().iter().filter(is_wanted).cloned().collect()
    }

    /// What readers at `seq_max` need to know, cut or not.
    pub(super) fn visible(&self, seq_max: u64) -> Vec<RangeTombstone> {
        let latest = self.latest();
        if latest.iter().all(|piece| piece.seq <= seq_max) {
            latest
        } else {
            self.logged(0, seq_max)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn tombstone(start: &'static str, end: &'static str, seq: u64) -> RangeTombstone {
        let (start, end) =
            (Bytes::from_static(start.as_bytes()), Bytes::from_static(end.as_bytes()));
        RangeTombstone { start, end, seq, ordinal: 0 }
    }

    #[test]
    fn reader_of_an_older_state_finds_the_tombstone_a_newer_one_lies_over() {
        let ranges = Ranges::default();
        assert_eq!(ranges.covering(b"b", 100), None);
        ranges.insert(&tombstone("a", "c", 3));
        ranges.insert(&tombstone("a", "z", 7));
        assert_eq!(ranges.covering(b"b", 9), Some((7, 0)));
        assert_eq!(ranges.covering(b"b", 6), Some((3, 0)));
        assert_eq!(ranges.covering(b"d", 6), None);
        assert_eq!(ranges.covering(b"b", 2), None);
        assert_eq!(ranges.latest().len(), 1, "pieces that tell the same are one");
        let older = Fragments::of(ranges.visible(6), 6);
        assert!(older.hides(b"b", (2, 0), 6) && !older.hides(b"d", (2, 0), 6));
        assert_eq!(ranges.logged(4, 9), [tombstone("a", "z", 7)]);
    }
}
