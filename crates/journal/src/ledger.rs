//! How much of each segment is still needed.
//!
//! Owns: live bytes per segment, and from when on a segment may be used again.
//! Invariants:
//! * A segment whose live bytes are 0 is free once the records that freed it are durable.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::segment::Segment;

/// Where a record lies. Segment 0 does not exist: the record is still queued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) segment: u32,
    pub(crate) offset: u32,
}

impl Place {
    /// Whether the record was written.
    pub(crate) fn is_written(self) -> bool {
        self.segment != 0
    }
}

/// A segment in use.
#[derive(Debug)]
pub(crate) struct SegmentUse {
    pub(crate) segment: Arc<Segment>,
    pub(crate) live_bytes: u64,
    /// Bytes of all its records.
    pub(crate) total_bytes: u64,
    /// Every record below this sequence number must be durable before the file is used again.
    pub(crate) freed_at: u64,
}

/// All segments in use.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) segments: BTreeMap<u32, SegmentUse>,
}

impl Ledger {
    /// Takes a segment into use.
    pub(crate) fn open(&mut self, segment: Arc<Segment>) {
        let entry = SegmentUse { segment, live_bytes: 0, total_bytes: 0, freed_at: 0 };
        let before = self.segments.insert(entry.segment.sequence, entry);
        assert!(before.is_none(), "a segment's sequence number is never used again");
    }

    /// A live record of `bytes` was written at `place`.
    pub(crate) fn add(&mut self, place: Place, bytes: u64) {
        if let Some(entry) = self.segments.get_mut(&place.segment) {
            entry.live_bytes += bytes;
            entry.total_bytes += bytes;
        }
    }

    /// A record of `bytes` was written at `place` that nobody needs once it was replayed.
    pub(crate) fn add_dead(&mut self, place: Place, bytes: u64) {
        if let Some(entry) = self.segments.get_mut(&place.segment) {
            entry.total_bytes += bytes;
        }
    }

    /// `bytes` of live records in `segment` are dead once `sequence` is durable.
    pub(crate) fn remove(&mut self, segment: u32, bytes: u64, sequence: u64) {
        if let Some(entry) = self.segments.get_mut(&segment) {
            assert!(entry.live_bytes >= bytes, "more was freed than lived in {segment}");
            entry.live_bytes -= bytes;
            entry.freed_at = entry.freed_at.max(sequence);
        }
    }

    /// The oldest segment, if it is not the only one.
    pub(crate) fn oldest(&self) -> Option<&SegmentUse> {
        if self.segments.len() < 2 {
            return None;
        }
        self.segments.values().next()
    }

    /// Sequence number of the oldest segment that is needed; the newest one always is.
    pub(crate) fn first_needed(&self, durable: u64) -> Option<u32> {
        let is_free = |entry: &SegmentUse| {
            entry.live_bytes == 0
                && entry.freed_at <= durable
                && entry.segment.readers.load(Ordering::Acquire) == 0
        };
        let needed = self.segments.iter().find(|(_, entry)| !is_free(entry));
        needed.or_else(|| self.segments.last_key_value()).map(|(sequence, _)| *sequence)
    }

    /// Whether there is a segment below `sequence`.
    pub(crate) fn begins_below(&self, sequence: u32) -> bool {
        self.segments.first_key_value().is_some_and(|(first, _)| *first < sequence)
    }

    /// Takes the oldest segment out if it is below `sequence`.
    pub(crate) fn take_below(&mut self, sequence: u32) -> Option<Arc<Segment>> {
        let first = self.segments.first_entry().filter(|entry| *entry.key() < sequence);
        first.map(|entry| entry.remove().segment)
    }

    /// Recovery is done and saw `total_bytes` of records in `segment`, dead ones included.
    pub(crate) fn set_total(&mut self, segment: u32, total_bytes: u64) {
        if let Some(entry) = self.segments.get_mut(&segment) {
            entry.total_bytes = entry.live_bytes.max(total_bytes);
        }
    }

    /// What is dead in all segments but the current one, with a share of what surrounds records:
    /// a segment counts as the part of its records that is dead. Tells by records, not by free
    /// space, so that moving live records never seems to gain anything.
    pub(crate) fn dead_bytes(&self) -> u64 {
        let closed = self.segments.values().rev().skip(1);
        let dead = closed.map(|entry| {
            let dead = u128::from(entry.total_bytes - entry.live_bytes);
            let part = dead * u128::from(entry.segment.bytes);
            part.checked_div(u128::from(entry.total_bytes)).unwrap_or(0)
        });
        u64::try_from(dead.sum::<u128>()).unwrap_or(u64::MAX)
    }

    /// Live bytes of all segments.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.segments.values().map(|entry| entry.live_bytes).sum()
    }
}
