//! One group in memory: where its records lie, what it knows, its most recent payloads.
//!
//! Owns: the index of a group, its share of the cache.
//! Must never know: other groups, files.
//! Invariants:
//! * Indexes have no gaps; the purge position ends right below the first one.
//! * The cache holds a suffix of the log, and every entry that is not written yet.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use bytes::Bytes;
use holdfast_model::{RangeId, ReplicaId};

use crate::ledger::{Ledger, Place};
use crate::record::{RecordKind, record_bytes};

/// One log: a replica of a range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId {
    /// The range.
    pub range: RangeId,
    /// Its replica on this node.
    pub replica: ReplicaId,
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.range, self.replica)
    }
}

/// A full Raft log id. Ordered by term, leader, index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition {
    /// Term of the leader that proposed the entry.
    pub term: u64,
    /// That leader.
    pub leader: u64,
    /// Index in the log.
    pub index: u64,
}

/// One entry of a log. The journal never looks into `payload`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the log.
    pub position: LogPosition,
    /// What it says.
    pub payload: Bytes,
}

/// What a group's log spans, as openraft asks for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// Everything up to here was purged.
    pub purged: Option<LogPosition>,
    /// The last entry, or the purge position if there is none.
    pub last: Option<LogPosition>,
}

/// A record that is needed until a newer one of its kind takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) sequence: u64,
    pub(crate) bytes: u64,
    pub(crate) place: Place,
}

/// An entry's line in the index.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub(crate) sequence: u64,
    /// Record bytes of this and all entries before it, since the group was opened.
    end_bytes: u64,
    pub(crate) place: Place,
}

/// Consecutive entries of one leader.
#[derive(Clone, Copy, Debug)]
struct Run {
    first: u64,
    term: u64,
    leader: u64,
}

/// The records a group keeps beside its entries, in the order they are rewritten.
pub(crate) const KEPT_KINDS: [RecordKind; 4] =
    [RecordKind::Created, RecordKind::Purge, RecordKind::Vote, RecordKind::Committed];

/// One group.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) last_sequence: u64,
    pub(crate) hit: bool,
    pub(crate) descriptor: Bytes,
    pub(crate) vote: Option<Bytes>,
    pub(crate) committed: Option<LogPosition>,
    /// Whether `committed` waits to be queued.
    pub(crate) committed_waits: bool,
    pub(crate) purged: Option<LogPosition>,
    kept: BTreeMap<RecordKind, Kept>,
    first: u64,
    slots: VecDeque<Slot>,
    /// `end_bytes` of the entry before the first.
    start_bytes: u64,
    runs: VecDeque<Run>,
    cache: VecDeque<Bytes>,
    live: BTreeMap<u32, u64>,
}

impl Group {
    /// A group without a log.
    pub(crate) fn new(descriptor: Bytes) -> Self {
        Self { descriptor, ..Self::default() }
    }

    /// The first index held, or to come if none is.
    pub(crate) fn first(&self) -> u64 {
        if self.slots.is_empty() { self.next_index().unwrap_or(0) } else { self.first }
    }

    /// The index after the last one; `None` if the log may start anywhere.
    pub(crate) fn next_index(&self) -> Option<u64> {
        if self.slots.is_empty() {
            return self.purged.map(|p| p.index + 1);
        }
        Some(self.first + self.slots.len() as u64)
    }

    /// The last index held.
    pub(crate) fn last_index(&self) -> Option<u64> {
        (!self.slots.is_empty()).then(|| self.first + self.slots.len() as u64 - 1)
    }

    /// What the log spans.
    pub(crate) fn log_state(&self) -> LogState {
        let last = self.last_index().and_then(|index| self.position(index));
        LogState { purged: self.purged, last: last.or(self.purged) }
    }

    /// The position of `index`, if it is held or is the purge position.
    pub(crate) fn position(&self, index: u64) -> Option<LogPosition> {
        if let Some(purged) = self.purged.filter(|p| p.index == index) {
            return Some(purged);
        }
        if index < self.first || index > self.last_index()? {
            return None;
        }
        let after = self.runs.partition_point(|run| run.first <= index);
        let run = self.runs.get(after.checked_sub(1)?)?;
        Some(LogPosition { term: run.term, leader: run.leader, index })
    }

    /// Where `index` lies.
    pub(crate) fn slot(&self, index: u64) -> Option<Slot> {
        self.slots.get(usize::try_from(index.checked_sub(self.first)?).ok()?).copied()
    }

    fn slot_mut(&mut self, index: u64) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    /// Length of the record of `index`, with padding.
    pub(crate) fn record_bytes_of(&self, index: u64) -> Option<u64> {
        let before = match index.checked_sub(1).and_then(|i| self.slot(i)) {
            Some(slot) => slot.end_bytes,
            None => self.start_bytes,
        };
        Some(self.slot(index)?.end_bytes - before)
    }

    /// Record bytes of all entries held.
    pub(crate) fn entry_bytes(&self) -> u64 {
        self.slots.back().map_or(0, |slot| slot.end_bytes - self.start_bytes)
    }

    /// The lowest index such that it and everything after it take at most `bytes`.
    pub(crate) fn index_within(&self, bytes: u64) -> u64 {
        let end = self.slots.back().map_or(self.start_bytes, |slot| slot.end_bytes);
        let floor = end.saturating_sub(bytes);
        if floor <= self.start_bytes {
            return self.first();
        }
        let dropped = self.slots.partition_point(|slot| slot.end_bytes < floor);
        // The slot that crosses the floor does not fit in whole, unless it ends right on it.
        self.first + dropped as u64 + 1
    }

    /// Adds an entry whose index continues the log, as written at `place` or still queued.
    pub(crate) fn push(&mut self, position: LogPosition, slot_bytes: u64, slot: (u64, Place)) {
        let (sequence, place) = slot;
        assert!(
            self.next_index().is_none_or(|next| next == position.index),
            "entries of a group have no gaps"
        );
        if self.slots.is_empty() {
            self.first = position.index;
            self.runs.clear();
        }
        let same = |run: &Run| run.term == position.term && run.leader == position.leader;
        if !self.runs.back().is_some_and(same) {
            let LogPosition { term, leader, index } = position;
            self.runs.push_back(Run { first: index, term, leader });
        }
        let end = self.slots.back().map_or(self.start_bytes, |slot| slot.end_bytes);
        self.slots.push_back(Slot { sequence, end_bytes: end + slot_bytes, place });
    }

    /// Remembers a payload that was just pushed. Returns what it is charged.
    pub(crate) fn cache(&mut self, payload: Bytes) -> u64 {
        let charge = cache_charge(&payload);
        self.cache.push_back(payload);
        charge
    }

    /// The cached payload of `index`.
    pub(crate) fn cached(&self, index: u64) -> Option<&Bytes> {
        let back = self.next_index()?.checked_sub(index)?;
        let at = self.cache.len().checked_sub(usize::try_from(back).ok()?)?;
        self.cache.get(at)
    }

    /// The first cached index, if any.
    pub(crate) fn first_cached(&self) -> Option<u64> {
        if self.cache.is_empty() {
            return None;
        }
        Some(self.next_index()? - self.cache.len() as u64)
    }

    /// Forgets the oldest cached payload unless it is the only copy. Returns what it was charged.
    pub(crate) fn evict_oldest(&mut self) -> Option<u64> {
        let index = self.first_cached()?;
        if !self.slot(index)?.place.is_written() {
            return None;
        }
        self.cache.pop_front().map(|payload| cache_charge(&payload))
    }

    /// Removes entries from `index` on, dead at `sequence`. Returns the cache charge freed.
    pub(crate) fn truncate_from(&mut self, index: u64, ledger: &mut Ledger, sequence: u64) -> u64 {
        let mut charge = 0;
        while self.last_index().is_some_and(|last| last >= index) {
            charge += self.cache.pop_back().map_or(0, |payload| cache_charge(&payload));
            let last = self.last_index().unwrap_or(0);
            let bytes = self.record_bytes_of(last).unwrap_or(0);
            if let Some(slot) = self.slots.pop_back() {
                self.release(slot.place, bytes, ledger, sequence);
            }
        }
        while self.runs.back().is_some_and(|run| run.first >= index) {
            self.runs.pop_back();
        }
        charge
    }

    /// Removes entries up to `upto`, dead at `sequence`. Returns the cache charge freed.
    pub(crate) fn purge_to(
        &mut self,
        upto: LogPosition,
        ledger: &mut Ledger,
        sequence: u64,
    ) -> u64 {
        let mut charge = 0;
        while !self.slots.is_empty() && self.first <= upto.index {
            if self.cache.len() == self.slots.len() {
                charge += self.cache.pop_front().map_or(0, |payload| cache_charge(&payload));
            }
            if let Some(slot) = self.slots.pop_front() {
                let bytes = slot.end_bytes - self.start_bytes;
                self.start_bytes = slot.end_bytes;
                self.release(slot.place, bytes, ledger, sequence);
            }
            self.first += 1;
        }
        while self.runs.get(1).is_some_and(|run| run.first <= self.first) {
            self.runs.pop_front();
        }
        self.purged = Some(upto);
        charge
    }

    /// The newest record of `kind`.
    pub(crate) fn kept(&self, kind: RecordKind) -> Option<Kept> {
        self.kept.get(&kind).copied()
    }

    /// Puts a newer record in the place of the one of its kind, which is dead at `at`.
    pub(crate) fn keep(&mut self, kind: RecordKind, kept: Kept, ledger: &mut Ledger, at: u64) {
        let before = self.kept.insert(kind, kept);
        if let Some(before) = before {
            self.release(before.place, before.bytes, ledger, at);
        }
    }

    /// The entry queued as `sequence` lies at `place` now. `replaced` is the sequence number the
    /// index still knows it by if it was moved.
    pub(crate) fn place_entry(
        &mut self,
        index: u64,
        (sequence, replaced): (u64, u64),
        place: Place,
        ledger: &mut Ledger,
    ) {
        let Some(bytes) = self.record_bytes_of(index) else { return };
        let Some(slot) = self.slot_mut(index) else { return };
        if slot.sequence != replaced {
            return;
        }
        let old = slot.place;
        slot.sequence = sequence;
        slot.place = place;
        self.release(old, bytes, ledger, sequence + 1);
        self.settle(place, bytes, ledger);
    }

    /// The kept record queued as `sequence` lies at `place` now; see [`Group::place_entry`].
    pub(crate) fn place_kept(
        &mut self,
        kind: RecordKind,
        (sequence, replaced): (u64, u64),
        place: Place,
        ledger: &mut Ledger,
    ) {
        let Some(kept) = self.kept.get_mut(&kind).filter(|kept| kept.sequence == replaced) else {
            return;
        };
        let (old, bytes) = (kept.place, kept.bytes);
        kept.sequence = sequence;
        kept.place = place;
        self.release(old, bytes, ledger, sequence + 1);
        self.settle(place, bytes, ledger);
    }

    /// Gives up everything, dead at `sequence`. Returns the cache charge freed.
    pub(crate) fn release_all(&mut self, ledger: &mut Ledger, sequence: u64) -> u64 {
        for (segment, bytes) in std::mem::take(&mut self.live) {
            ledger.remove(segment, bytes, sequence);
        }
        self.kept.clear();
        self.slots.clear();
        self.runs.clear();
        self.cache.drain(..).map(|payload| cache_charge(&payload)).sum()
    }

    /// Live bytes in `segment`.
    pub(crate) fn live_in(&self, segment: u32) -> u64 {
        self.live.get(&segment).copied().unwrap_or(0)
    }

    /// Indexes of the entries that lie in `segment`, lowest first.
    pub(crate) fn indexes_in(&self, segment: u32) -> impl Iterator<Item = (u64, Slot)> {
        let slots = self.slots.iter().copied();
        (self.first..).zip(slots).filter(move |(_, slot)| slot.place.segment == segment)
    }

    /// Takes over a kept record found by recovery.
    pub(crate) fn restore(&mut self, kind: RecordKind, kept: Kept, ledger: &mut Ledger) {
        self.kept.insert(kind, kept);
        self.settle(kept.place, kept.bytes, ledger);
    }

    /// Takes over the entries found by recovery, lowest index first. What lies in one segment is
    /// accounted for together.
    pub(crate) fn restore_entries(
        &mut self,
        entries: impl Iterator<Item = (LogPosition, Kept)>,
        ledger: &mut Ledger,
    ) {
        let (mut place, mut bytes) = (Place::default(), 0);
        for (position, at) in entries {
            self.push(position, at.bytes, (at.sequence, at.place));
            if at.place.segment != place.segment && bytes > 0 {
                self.settle(place, bytes, ledger);
                bytes = 0;
            }
            place = at.place;
            bytes += at.bytes;
        }
        if bytes > 0 {
            self.settle(place, bytes, ledger);
        }
    }

    fn settle(&mut self, place: Place, bytes: u64, ledger: &mut Ledger) {
        ledger.add(place, bytes);
        *self.live.entry(place.segment).or_default() += bytes;
    }

    fn release(&mut self, place: Place, bytes: u64, ledger: &mut Ledger, sequence: u64) {
        if !place.is_written() {
            return;
        }
        ledger.remove(place.segment, bytes, sequence);
        let left = self.live.entry(place.segment).or_default();
        *left = left.saturating_sub(bytes);
        if *left == 0 {
            self.live.remove(&place.segment);
        }
    }
}

/// What a cached payload is charged: its bytes and the index around it.
fn cache_charge(payload: &Bytes) -> u64 {
    record_bytes(payload.len()) as u64
}
