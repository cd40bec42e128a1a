//! The state while entries are applied: the engine's, with what was changed laid over it.
//!
//! Owns: reads that see earlier changes of the same `apply` call, savepoints, the final batch.
//! Must never know: what an operation means.
//! Invariants:
//! * Nothing reaches the engine before [`Working::into_batch`]; one call makes one batch.
//! * A read answers the same whether what it asks for lies in the engine, was prefetched, or was
//!   changed a moment ago.
//! * An interval that was cleared holds what was set in it since, and nothing of the engine's.
//! * After [`Working::roll_back`] no read can tell that the savepoint was passed.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Bound;

use bytes::{Bytes, BytesMut};
use holdfast_lsm::{Batch, Engine, Family, ReadPoint, Record};
use holdfast_model::{LeaseId, Revision};
use prost::Message;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::prefetch::Known;
use crate::records::{Class, Due, Floors, family_name, unseal};
use crate::{Entry, Event, EventKind, Previous, Result, RevisionEvents};

/// Hashes keys for maps that are looked up and never iterated.
#[derive(Default)]
pub(crate) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    fn write_usize(&mut self, length: usize) {
        self.0 ^= length as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

pub(crate) type KeyMap<V> = HashMap<Bytes, V, BuildHasherDefault<KeyHasher>>;

/// One change of a key.
struct Write {
    event: Event,
    ordinal: u32,
    /// The write of the same key before it in this call.
    before: Option<usize>,
}

impl Write {
    fn live(&self) -> Option<&Entry> {
        (self.event.kind == EventKind::Put).then_some(&self.event.entry)
    }
}

/// The keys from `start` up to `end` in an internal family.
struct Interval {
    family: Family,
    start: Bytes,
    end: Bytes,
}

impl Interval {
    fn contains(&self, family: Family, key: &Bytes) -> bool {
        self.family == family && self.start <= *key && *key < self.end
    }
}

/// What to put back when a savepoint is rolled back.
struct Undo {
    family: Family,
    key: Bytes,
    overlaid: Option<Option<Bytes>>,
}

/// A place to roll back to.
pub(crate) struct Savepoint {
    writes: usize,
    cleared: usize,
    revision: Revision,
}

/// The engine's state with the changes of one `apply` call over it.
pub(crate) struct Working<'a> {
    engine: &'a Engine,
    /// What the engine had published when the call began.
    base: ReadPoint,
    /// The newest revision, changes of this call included.
    pub revision: Revision,
    /// Range time of the entry that is being applied.
    pub clock_ms: u64,
    /// No entry of the expiry index is due before it.
    pub floors: Floors,
    /// The earliest entry put into the expiry index by this call, rolled back ones included.
    pub earliest_due_ms: u64,
    /// As `earliest_due_ms`, of leases, locks and sessions alone.
    pub earliest_urgent_ms: u64,
    /// How many entries of the expiry index were removed: each leaves a tombstone for a while.
    pub unindexed: u64,
    /// The newest version of keys at `base`.
    fetched: KeyMap<Option<Entry>>,
    /// Records of internal families at `base`.
    records: BTreeMap<(Family, Bytes), Option<Bytes>>,
    writes: Vec<Write>,
    latest: KeyMap<usize>,
    internal: BTreeMap<(Family, Bytes), Option<Bytes>>,
    /// Intervals of internal families whose stored records are gone.
    cleared: Vec<Interval>,
    undo: Option<Vec<Undo>>,
}

impl<'a> Working<'a> {
    /// The state at `base`, of which `known` is known, at its revision (1 where nothing was ever
    /// applied).
    pub fn new(engine: &'a Engine, base: ReadPoint, known: Known, floors: Floors) -> Self {
        Self {
            engine,
            base,
            revision: base.revision.max(Revision(1)),
            clock_ms: base.clock_ms,
            floors,
            earliest_due_ms: u64::MAX,
            earliest_urgent_ms: u64::MAX,
            unindexed: 0,
            fetched: known.data,
            records: known.records,
            writes: Vec::new(),
            latest: KeyMap::default(),
            internal: BTreeMap::new(),
            cleared: Vec::new(),
            undo: None,
        }
    }

    /// Reads the newest versions of `keys` in one go; later reads of them cost a look-up.
    pub fn fetch(&mut self, mut keys: Vec<Bytes>) -> Result<()> {
        keys.sort_unstable();
        keys.dedup();
        keys.retain(|key| !self.fetched.contains_key(key));
        let slices: Vec<&[u8]> = keys.iter().map(Bytes::as_ref).collect();
        let records = self.engine.multi_get(Family::Data, &slices, self.base)?;
        self.fetched.reserve(keys.len());
        for (key, record) in keys.into_iter().zip(records) {
            let entry = record.map(|r| decode(key.clone(), r)).transpose()?;
            self.fetched.insert(key, entry);
        }
        Ok(())
    }

    /// The newest version of `key`, hidden or not.
    pub fn newest(&mut self, key: &Bytes) -> Result<Option<Entry>> {
        if let Some(at) = self.latest.get(key) {
            return Ok(self.writes.get(*at).and_then(Write::live).cloned());
        }
        if let Some(known) = self.fetched.get(key) {
            return Ok(known.clone());
        }
        let record = self.engine.get(Family::Data, key, self.base)?;
        let entry = record.map(|r| decode(key.clone(), r)).transpose()?;
        self.fetched.insert(key.clone(), entry.clone());
        Ok(entry)
    }

    /// The version of `key` at `revision`, which must not be compacted.
    pub fn at(&self, key: &Bytes, revision: Revision) -> Result<Option<Entry>> {
        let mut next = self.latest.get(key).copied();
        while let Some(write) = next.and_then(|at| self.writes.get(at)) {
            if write.event.entry.revision <= revision {
                return Ok(write.live().cloned());
            }
            next = write.before;
        }
        let point = self.base.at_revision(self.base.revision.min(revision));
        let record = self.engine.get(Family::Data, key, point)?;
        record.map(|r| decode(key.clone(), r)).transpose()
    }

    /// Visits the keys of `[start, end)` at `revision` in order, until `visit` says stop.
    pub fn scan(
        &self,
        start: &Bytes,
        end: &Bytes,
        revision: Revision,
        mut visit: impl FnMut(Entry) -> Result<Visit>,
    ) -> Result<()> {
        if !end.is_empty() && start >= end {
            return Ok(());
        }
        let inside = |key: &Bytes| key >= start && (end.is_empty() || key < end);
        let mut overlay: BTreeMap<Bytes, Option<Entry>> = BTreeMap::new();
        for write in &self.writes {
            let entry = &write.event.entry;
            if entry.revision <= revision && inside(&entry.key) {
                overlay.insert(entry.key.clone(), write.live().cloned());
            }
        }
        let point = self.base.at_revision(self.base.revision.min(revision));
        let stored = self.engine.scan(Family::Data, interval(start, end), point, false)?;
        merge(stored, overlay, |key, value| {
            visit(match value {
                Merged::Stored(record) => decode(key, record)?,
                Merged::Overlaid(entry) => entry,
            })
        })
    }

    /// Records one change of a key under `entry.revision`. For a removal `entry` needs only key
    /// and revision.
    pub fn write(&mut self, kind: EventKind, entry: Entry, ordinal: u32, previous: Previous) {
        assert!(entry.revision > self.base.revision, "a change is newer than what is applied");
        let before = self.latest.insert(entry.key.clone(), self.writes.len());
        self.writes.push(Write { event: Event { kind, entry, previous }, ordinal, before });
    }

    /// Whether `key` was changed under `revision`.
    pub fn is_written(&self, key: &Bytes, revision: Revision) -> bool {
        let write = self.latest.get(key).and_then(|at| self.writes.get(*at));
        write.is_some_and(|write| write.event.entry.revision == revision)
    }

    /// The record of `key` in an internal family.
    pub fn record<M: Message + Default>(&self, family: Family, key: &Bytes) -> Result<Option<M>> {
        self.raw(family, key)?.map(|value| unseal(family_name(family), value)).transpose()
    }

    fn raw(&self, family: Family, key: &Bytes) -> Result<Option<Bytes>> {
        if let Some(value) = self.internal.get(&(family, key.clone())) {
            return Ok(value.clone());
        }
        if self.is_cleared(family, key) {
            return Ok(None);
        }
        if let Some(known) = self.records.get(&(family, key.clone())) {
            return Ok(known.clone());
        }
        Ok(self.engine.get(family, key, self.base)?.map(|record| record.value))
    }

    /// Sets or removes a record of an internal family.
    pub fn set(&mut self, family: Family, key: Bytes, value: Option<Bytes>) {
        if let Some(undo) = &mut self.undo {
            let overlaid = self.internal.get(&(family, key.clone())).cloned();
            undo.push(Undo { family, key: key.clone(), overlaid });
        }
        self.internal.insert((family, key), value);
    }

    /// Removes every record of `[start, end)` in an internal family. It leaves one tombstone,
    /// however many they are: dearer than that of a record, so it is for many.
    pub fn clear(&mut self, family: Family, start: Bytes, end: Bytes) {
        if start >= end {
            return;
        }
        let set = self.internal.range((family, start.clone())..(family, end.clone()));
        let set: Vec<Bytes> = set.map(|((_, key), _)| key.clone()).collect();
        for key in set {
            self.set(family, key, None);
        }
        self.cleared.push(Interval { family, start, end });
    }

    fn is_cleared(&self, family: Family, key: &Bytes) -> bool {
        self.cleared.iter().any(|interval| interval.contains(family, key))
    }

    /// At most `limit` records of `[start, end)` in an internal family, in order of their keys.
    pub fn records(
        &self,
        family: Family,
        (start, end): (Bytes, Bytes),
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>> {
        let mut all = Vec::new();
        if limit == 0 || start >= end {
            return Ok(all);
        }
        let overlay: BTreeMap<Bytes, Option<Bytes>> = self
            .internal
            .range((family, start.clone())..(family, end.clone()))
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect();
        let stored = self.engine.scan(family, interval(&start, &end), self.base, false)?;
        let is_left = |found: &holdfast_lsm::Result<(Bytes, Record)>| {
            found.as_ref().map_or(true, |(key, _)| !self.is_cleared(family, key))
        };
        merge(stored.filter(is_left), overlay, |key, found| {
            let value = match found {
                Merged::Stored(record) => record.value,
                Merged::Overlaid(value) => value,
            };
            all.push((key, value));
            Ok(if all.len() < limit { Visit::On } else { Visit::Stop })
        })?;
        Ok(all)
    }

    /// At most `limit` entries of a class of the expiry index, due before `to_ms`, in order; each
    /// with the lease its key is attached to.
    pub fn due(&self, class: Class, to_ms: u64, limit: usize) -> Result<Vec<(Due, LeaseId)>> {
        let interval = class.interval(self.floors.of(class), to_ms);
        let records = self.records(Family::Expiry, interval, limit)?;
        records.iter().map(|(key, value)| Ok((Due::from_key(key)?, Due::lease(value)?))).collect()
    }

    /// Puts `due` into the expiry index; `lease` is the one its key is attached to.
    pub fn index(&mut self, due: &Due, lease: LeaseId) {
        let class = due.class();
        self.floors.set(class, self.floors.of(class).min(due.at_ms));
        self.earliest_due_ms = self.earliest_due_ms.min(due.at_ms);
        if class == Class::Urgent {
            self.earliest_urgent_ms = self.earliest_urgent_ms.min(due.at_ms);
        }
        self.set(Family::Expiry, due.key(), Some(Due::value(lease)));
    }

    /// Takes `due` out of the expiry index.
    pub fn unindex(&mut self, due: &Due) {
        self.unindexed += 1;
        self.set(Family::Expiry, due.key(), None);
    }

    /// Begins a stretch that can be rolled back. Stretches do not nest.
    pub fn savepoint(&mut self) -> Savepoint {
        assert!(self.undo.is_none(), "savepoints do not nest");
        self.undo = Some(Vec::new());
        let (writes, cleared) = (self.writes.len(), self.cleared.len());
        Savepoint { writes, cleared, revision: self.revision }
    }

    /// Ends a stretch, keeping what it changed.
    pub fn keep(&mut self, _savepoint: Savepoint) {
        self.undo = None;
    }

    /// Ends a stretch, undoing what it changed.
    pub fn roll_back(&mut self, savepoint: Savepoint) {
        self.revision = savepoint.revision;
        self.cleared.truncate(savepoint.cleared);
        while self.writes.len() > savepoint.writes {
            let Some(write) = self.writes.pop() else { break };
            match write.before {
                Some(before) => self.latest.insert(write.event.entry.key, before),
                None => self.latest.remove(&write.event.entry.key),
            };
        }
        for undo in self.undo.take().into_iter().flatten().rev() {
            match undo.overlaid {
                Some(value) => self.internal.insert((undo.family, undo.key), value),
                None => self.internal.remove(&(undo.family, undo.key)),
            };
        }
    }

    /// The engine batch of all changes, internal records numbered by `index`; and their events.
    pub fn into_batch(self, index: u64) -> (Batch, Vec<RevisionEvents>) {
        let mut batch = Batch::with_capacity(self.writes.len() + self.internal.len());
        let bytes = self.writes.iter().filter_map(Write::live).map(Entry::record_bytes_max).sum();
        let mut buffer = BytesMut::with_capacity(bytes);
        for write in &self.writes {
            let (entry, ordinal) = (&write.event.entry, write.ordinal);
            let seq = entry.revision.0;
            match write.live() {
                Some(live) => {
                    live.encode(&mut buffer);
                    let record = buffer.split().freeze();
                    batch.put(Family::Data, entry.key.clone(), seq, ordinal, record);
                }
                None => batch.delete(Family::Data, entry.key.clone(), seq, ordinal),
            }
        }
        // A record of the same index and ordinal stays in an interval that was deleted.
        for Interval { family, start, end } in &self.cleared {
            batch.delete_range(*family, start.clone(), end.clone(), index, 0);
        }
        let cleared = &self.cleared;
        for ((family, key), value) in self.internal {
            match value {
                Some(value) => batch.put(family, key, index, 0, value),
                None if cleared.iter().any(|interval| interval.contains(family, &key)) => {}
                None => batch.delete(family, key, index, 0),
            }
        }
        (batch, group(self.writes))
    }
}

/// Events by revision; writes are in the order of their revisions.
fn group(writes: Vec<Write>) -> Vec<RevisionEvents> {
    let mut revisions: Vec<RevisionEvents> = Vec::with_capacity(writes.len());
    for Write { event, .. } in writes {
        let revision = event.entry.revision;
        match revisions.last_mut() {
            Some(last) if last.revision == revision => last.events.push(event),
            _ => revisions.push(RevisionEvents { revision, events: vec![event] }),
        }
    }
    revisions
}

/// Whether a visit goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Visit {
    On,
    Stop,
}

/// A value as a merge finds it.
enum Merged<T> {
    Stored(Record),
    Overlaid(T),
}

/// Visits stored and overlaid keys in order; the overlay wins, and its `None` hides a stored key.
fn merge<T>(
    stored: impl Iterator<Item = holdfast_lsm::Result<(Bytes, Record)>>,
    overlay: BTreeMap<Bytes, Option<T>>,
    mut visit: impl FnMut(Bytes, Merged<T>) -> Result<Visit>,
) -> Result<()> {
    let mut overlay = overlay.into_iter().peekable();
    for found in stored {
        let (key, record) = found?;
        let mut replaced = false;
        while let Some((over, value)) = overlay.next_if(|(over, _)| *over <= key) {
            replaced |= over == key;
            if let Some(value) = value
                && visit(over, Merged::Overlaid(value))? == Visit::Stop
            {
                return Ok(());
            }
        }
        if !replaced && visit(key, Merged::Stored(record))? == Visit::Stop {
            return Ok(());
        }
    }
    for (over, value) in overlay {
        if let Some(value) = value
            && visit(over, Merged::Overlaid(value))? == Visit::Stop
        {
            return Ok(());
        }
    }
    Ok(())
}

/// The bounds of `[start, end)`; an empty end is no end.
pub(crate) fn interval(start: &Bytes, end: &Bytes) -> (Bound<Bytes>, Bound<Bytes>) {
    let upper = if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(end.clone()) };
    (Bound::Included(start.clone()), upper)
}

/// The entry of a record of the `data` family.
pub(crate) fn decode(key: Bytes, record: Record) -> Result<Entry> {
    Entry::decode(key, Revision(record.seq), record.value)
}
