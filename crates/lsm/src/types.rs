//! The words of the engine: families, read points, records and batches.

use bytes::Bytes;
use holdfast_model::{LogIndex, Revision};

use crate::limits::KEY_BYTES_MAX;
use crate::tombstone::RangeTombstone;

/// A group of records that share rules of retention and numbering.
///
/// Families sort one after another in a table, never share a block and are read apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Family {
    /// What clients store. Keeps versions; the sequence number is the revision.
    Data = 0,
    /// Outcomes remembered for clients' sessions. Latest only, numbered by log index.
    Session = 1,
    /// When keys expire. Latest only, numbered by log index.
    Expiry = 2,
    /// Leases and what is attached to them. Latest only, numbered by log index.
    Lease = 3,
    /// Locks and their waiters. Latest only, numbered by log index.
    Lock = 4,
    /// The range's own state: applied position, membership, span, clock. Latest only.
    Meta = 5,
}

impl Family {
    /// How many families there are.
    pub const COUNT: usize = 6;
    /// Every family in its order.
    pub const ALL: [Self; Self::COUNT] =
        [Self::Data, Self::Session, Self::Expiry, Self::Lease, Self::Lock, Self::Meta];

    /// The family written as this byte, if there is one.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }

    /// The byte the family is written as; also its index in [`Family::ALL`].
    pub fn byte(self) -> u8 {
        self as u8
    }

    /// Its name, as people read it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Session => "session",
            Self::Expiry => "expiry",
            Self::Lease => "lease",
            Self::Lock => "lock",
            Self::Meta => "meta",
        }
    }

    /// Whether older versions of a key stay readable until the watermark passes them.
    pub fn keeps_versions(self) -> bool {
        self == Self::Data
    }

    pub(crate) fn index(self) -> usize {
        usize::from(self.byte())
    }
}

/// What a reader sees: everything up to one applied batch, nothing after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadPoint {
    /// Newest revision of the range.
    pub revision: Revision,
    /// Index of the last applied log entry.
    pub index: LogIndex,
    /// The range clock, milliseconds.
    pub clock_ms: u64,
}

impl ReadPoint {
    /// The largest sequence number of `family` this point covers.
    pub fn seq_max(&self, family: Family) -> u64 {
        if family.keeps_versions() { self.revision.0 } else { self.index.0 }
    }

    /// The same point, looking at an older (or newer) revision of the data.
    pub fn at_revision(self, revision: Revision) -> Self {
        Self { revision, ..self }
    }
}

/// One live record as a read returns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Sequence number: the revision in [`Family::Data`], the log index elsewhere.
    pub seq: u64,
    /// Place of the operation within its revision.
    pub ordinal: u32,
    /// The value; shares memory with the block or batch it comes from.
    pub value: Bytes,
}

/// The answer of a read that must not wait for a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cached<T> {
    /// The answer; it was all in memory.
    Answer(T),
    /// A block would have to be read: ask again where waiting is allowed.
    NeedsIo,
}

/// One operation of a batch.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) family: Family,
    pub(crate) key: Bytes,
    pub(crate) seq: u64,
    pub(crate) ordinal: u32,
    /// `None` is a tombstone.
    pub(crate) value: Option<Bytes>,
}

/// Changes that become visible together.
///
/// In [`Family::Data`] a key is written at most once per revision. In the other families the last
/// write of a key wins, also within one log index.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    operations: Vec<Operation>,
    ranges: Vec<(Family, RangeTombstone)>,
    bytes: usize,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty batch with room for `operations` operations.
    pub fn with_capacity(operations: usize) -> Self {
        Self { operations: Vec::with_capacity(operations), ..Self::default() }
    }

    /// Sets `key` to `value`.
    ///
    /// # Panics
    /// If the key is longer than [`KEY_BYTES_MAX`].
    pub fn put(&mut self, family: Family, key: Bytes, seq: u64, ordinal: u32, value: Bytes) {
        self.push(Operation { family, key, seq, ordinal, value: Some(value) });
    }

    /// Removes `key`; it leaves a tombstone.
    ///
    /// # Panics
    /// If the key is longer than [`KEY_BYTES_MAX`].
    pub fn delete(&mut self, family: Family, key: Bytes, seq: u64, ordinal: u32) {
        self.push(Operation { family, key, seq, ordinal, value: None });
    }

    /// Removes every key from `start` up to, but not including, `end`; nothing if there are none.
    ///
    /// Hidden is what is older: records with a smaller sequence number, and those with the same one
    /// and a smaller ordinal, whatever their order in the batch. A record with the same sequence
    /// number and the same ordinal stays. Cost: that of a few deletions, however many keys there
    /// are; [`Engine::changes`](crate::Engine::changes) tells the interval, not the keys.
    ///
    /// # Panics
    /// If `start` or `end` is longer than [`KEY_BYTES_MAX`].
    pub fn delete_range(
        &mut self,
        family: Family,
        start: Bytes,
        end: Bytes,
        seq: u64,
        ordinal: u32,
    ) {
        let is_short = start.len().max(end.len()) <= KEY_BYTES_MAX;
        assert!(is_short, "an engine key is at most 16 KiB");
        if start < end {
            self.bytes += start.len() + end.len();
            self.ranges.push((family, RangeTombstone { start, end, seq, ordinal }));
        }
    }

    /// Number of operations.
    pub fn len(&self) -> usize {
        self.operations.len() + self.ranges.len()
    }

    /// Whether the batch changes nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn range_tombstones(&self) -> &[(Family, RangeTombstone)] {
        &self.ranges
    }

    pub(crate) fn operations(&self) -> &[Operation] {
        &self.operations
    }

    fn push(&mut self, operation: Operation) {
        assert!(operation.key.len() <= KEY_BYTES_MAX, "an engine key is at most 16 KiB");
        self.bytes += operation.key.len() + operation.value.as_ref().map_or(0, Bytes::len);
        self.operations.push(operation);
    }
}

/// One change of [`Family::Data`] as [`Engine::changes`](crate::Engine::changes) tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The revision that made it.
    pub revision: Revision,
    /// Place of the operation within its revision.
    pub ordinal: u32,
    /// The key.
    pub key: Bytes,
    /// The value written; `None` if the key was deleted.
    pub value: Option<Bytes>,
}

/// One deletion of an interval of [`Family::Data`] as [`Engine::changes`](crate::Engine::changes)
/// tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeDeletion {
    /// The revision that made it.
    pub revision: Revision,
    /// Place of the operation within its revision.
    pub ordinal: u32,
    /// The first key of the interval.
    pub start: Bytes,
    /// The first key behind it.
    pub end: Bytes,
}

/// Changes in the order they were made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Sorted by revision, then ordinal; revisions are never cut in the middle.
    pub changes: Vec<Change>,
    /// Intervals that were deleted as a whole, sorted by revision, then ordinal; the keys they
    /// hid are not told one by one.
    pub range_deletions: Vec<RangeDeletion>,
    /// Every change up to and including this revision is in both; ask on from here.
    pub complete_to: Revision,
}
