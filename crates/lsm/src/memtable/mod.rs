//! What was applied and is not in tables yet: one skip list per family, and its range tombstones.
//!
//! Owns: insertion of batches, the read point and gate of what is inside, its share of the budget.
//! Must never know: files, when it is flushed.
//! Invariants:
//! * A memtable is sealed only between batches: it holds whole batches.
//! * Memory is charged to the node's budget as it grows and given back when the last reader left.

mod arena;
mod key_index;
mod log;
mod node;
mod ranges;
mod skiplist;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use holdfast_env::sync::Mutex;

pub(crate) use arena::ChunkPool;
pub(crate) use node::Entry;
use ranges::Ranges;
use skiplist::SkipList;
pub(crate) use skiplist::{Cursor, Logged};

use crate::shared::Shared;
use crate::table::key_hash;
use crate::tombstone::{RangeTombstone, Stamp};
use crate::types::{Batch, Family, ReadPoint, Record};

/// Range tombstones of a family at which a memtable is sealed: an insert copies twice as many.
const RANGES_MAX: usize = 1_024;
/// The same for the family that keeps versions, where pieces are as many as the square of it.
const VERSIONED_RANGES_MAX: usize = 128;

/// A memtable with so many deletions is worth a flush.
const DELETIONS_MIN: u64 = 1_024;
/// Batches of fewer deletions do not count: sealing is for what was deleted in bulk.
const BULK_MIN: u64 = 16;
/// A range tombstone counts as so many deletions.
const RANGE_DELETIONS: u64 = 64;

/// What was deleted in bulk.
#[derive(Default)]
struct Deletions {
    many: AtomicU64,
    /// The revision that had been reached with the last of them.
    newest: AtomicU64,
}

impl Deletions {
    fn count(&self, batch: &Batch, point: ReadPoint) {
        let single = batch.operations().iter().filter(|o| o.value.is_none()).count() as u64;
        let many = single + RANGE_DELETIONS * batch.range_tombstones().len() as u64;
        if many >= BULK_MIN {
            self.many.fetch_add(many, Ordering::Relaxed);
            self.newest.store(point.revision.0, Ordering::Relaxed);
        }
    }
}

/// The newest state a memtable holds and how far the journal must be durable to flush it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seal {
    pub(crate) point: ReadPoint,
    pub(crate) gate: u64,
}

/// Operations whose places in the index are asked for before the first of them is inserted: each
/// is a cache miss of its own, and so they come at the same time.
const HASHES_AHEAD: usize = 32;

/// A memtable that answered so many reads is read from.
const HITS_READ: u64 = 32;

/// Reads a memtable answered, up to [`HITS_READ`]. Readers of all cores write here at first, so
/// nothing else may lie in the same cache lines.
#[derive(Default)]
#[repr(align(128))]
struct Hits(AtomicU64);

impl Hits {
    /// Counts, roughly: of counts at the same moment one may be lost.
    #[inline]
    fn count(&self) {
        let hits = self.0.load(Ordering::Relaxed);
        if hits < HITS_READ {
            self.0.store(hits + 1, Ordering::Relaxed);
        }
    }
}

/// A memtable, active or sealed.
pub(crate) struct Memtable {
    lists: [Arc<SkipList>; Family::COUNT],
    ranges: [Ranges; Family::COUNT],
    deletions: Deletions,
    hits: Hits,
    seal: Mutex<Seal>,
    charged: Mutex<u64>,
    shared: Arc<Shared>,
}

impl Memtable {
    /// An empty memtable that begins at `seal` and expects to become like `before`.
    pub(crate) fn new(shared: Arc<Shared>, seal: Seal, before: Option<&Self>) -> Self {
        let list = |family: usize| {
            let before = before.map(|b| b.lists[family].as_ref());
            Arc::new(SkipList::new(shared.chunks().clone(), before))
        };
        Self {
            lists: std::array::from_fn(list),
            ranges: Default::default(),
            deletions: Deletions::default(),
            hits: Hits::default(),
            seal: Mutex::new(seal),
            charged: Mutex::new(0),
            shared,
        }
    }

    /// Inserts the whole batch. The caller is the engine's one writer.
    ///
    /// # Panics
    /// If a key of [`Family::Data`] is written twice in one revision.
    pub(crate) fn insert(&self, batch: &Batch, seal: Seal) {
        let mut operations = batch.operations();
        while let Some(first) = operations.first() {
            let family = first.family;
            let run = operations.iter().take_while(|o| o.family == family).count();
            let (now, later) = operations.split_at(run.min(HASHES_AHEAD));
            let list = &self.lists[family.index()];
            let mut hashes = [0; HASHES_AHEAD];
            for (hash, o) in hashes.iter_mut().zip(now) {
                *hash = list_hash(key_hash(family, &o.key));
                list.prefetch(*hash);
            }
            let mut writer = list.writer();
            for (o, hash) in now.iter().zip(hashes) {
                let existed = writer.insert(&o.key, hash, o.seq, o.ordinal, o.value.as_ref());
                assert!(
                    !(existed && family.keeps_versions()),
                    "a data key is written at most once per revision"
                );
            }
            operations = later;
        }
        for (family, tombstone) in batch.range_tombstones() {
            self.ranges[family.index()].insert(tombstone);
        }
        self.deletions.count(batch, seal.point);
        *self.seal.lock() = seal;
        self.charge();
    }

    /// Charges the node's budget with what was allocated since the last time.
    fn charge(&self) {
        let bytes = self.bytes();
        let mut charged = self.charged.lock();
        self.shared.memtable_grew(bytes - *charged);
        *charged = bytes;
    }

    /// Memory held, bytes.
    pub(crate) fn bytes(&self) -> u64 {
        let ranges = self.ranges.iter().map(|r| r.bytes() as u64).sum::<u64>();
        self.lists.iter().map(|l| l.bytes() as u64).sum::<u64>() + ranges
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lists.iter().all(|l| l.is_empty()) && self.ranges.iter().all(Ranges::is_empty)
    }

    /// Whether it holds so many range tombstones that it should be sealed for their sake.
    pub(crate) fn is_full_of_ranges(&self) -> bool {
        let is_full = |family: &Family| {
            let latest_only = !family.keeps_versions();
            let max = if latest_only { RANGES_MAX } else { VERSIONED_RANGES_MAX };
            self.ranges[family.index()].len() >= max
        };
        Family::ALL.iter().any(is_full)
    }

    /// Whether it holds so many deletions, none above `watermark`, that it should be sealed for the
    /// sake of the space that they give back.
    pub(crate) fn is_worth_reclaiming(&self, watermark: u64) -> bool {
        self.deletions.many.load(Ordering::Relaxed) >= DELETIONS_MIN
            && self.deletions.newest.load(Ordering::Relaxed) <= watermark
    }

    /// The newest range tombstone of at most this sequence number that covers `key`.
    #[inline]
    pub(crate) fn covering(&self, family: Family, key: &[u8], seq_max: u64) -> Option<Stamp> {
        self.ranges[family.index()].covering(key, seq_max)
    }

    /// Range tombstones as a flush needs them: all of the data, else the newest over every key.
    pub(crate) fn range_tombstones(&self, family: Family) -> Vec<RangeTombstone> {
        let ranges = &self.ranges[family.index()];
        if family.keeps_versions() { ranges.logged(0, u64::MAX) } else { ranges.latest() }
    }

    /// What readers at `seq_max` need to know of range tombstones.
    pub(crate) fn visible_ranges(&self, family: Family, seq_max: u64) -> Vec<RangeTombstone> {
        self.ranges[family.index()].visible(seq_max)
    }

    /// Range tombstones with these sequence numbers, both included, as they were inserted.
    pub(crate) fn logged_ranges(&self, family: Family, min: u64, max: u64) -> Vec<RangeTombstone> {
        self.ranges[family.index()].logged(min, max)
    }

    pub(crate) fn seal(&self) -> Seal {
        *self.seal.lock()
    }

    /// The newest entry of `key`, whose [`key_hash`] is `hash`, with at most this sequence number.
    #[inline]
    pub(crate) fn get(
        &self,
        family: Family,
        key: &[u8],
        hash: u64,
        seq_max: u64,
    ) -> Option<Entry<'_>> {
        let found = self.lists[family.index()].get(key, list_hash(hash), seq_max);
        if found.is_some() {
            self.hits.count();
        }
        found
    }

    /// Whether reads found what they looked for here: a load of data alone does none.
    pub(crate) fn is_read(&self) -> bool {
        self.hits.0.load(Ordering::Relaxed) >= HITS_READ
    }

    /// Entries of `family` with these sequence numbers, both included, as they were inserted.
    pub(crate) fn logged(&self, family: Family, seq_min: u64, seq_max: u64) -> Logged {
        self.lists[family.index()].logged(seq_min, seq_max)
    }

    pub(crate) fn forward(&self, family: Family, from: Option<(&[u8], u64)>) -> Cursor {
        Cursor::forward(self.lists[family.index()].clone(), from)
    }

    pub(crate) fn backward(&self, family: Family, before: Option<(&[u8], u64)>) -> Cursor {
        Cursor::backward(self.lists[family.index()].clone(), before)
    }
}

/// The half of a key's hash that filters use least.
fn list_hash(hash: u64) -> u32 {
    (hash >> 16) as u32
}

impl fmt::Debug for Memtable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memtable").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

impl Drop for Memtable {
    fn drop(&mut self) {
        self.shared.memtable_freed(*self.charged.get_mut());
    }
}

impl Entry<'_> {
    /// The record, `None` for a tombstone.
    pub(crate) fn to_record(self) -> Option<Record> {
        let value = self.value.to_bytes()?;
        Some(Record { seq: self.seq, ordinal: self.ordinal, value })
    }
}
