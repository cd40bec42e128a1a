//! The content of one data block, and searching it.
//!
//! Keys lie together in front of the values: a search touches a few cache lines of keys and then
//! the one value it wants, instead of a line or two per record it passes.
//!
//! ```text
//! keys, for every record:
//!    0  shared        u16   bytes of the key it has in common with the record before it
//!    2  unshared      u16   bytes of the key that follow here
//!    4  value_bytes   u32   bit 31: tombstone; bit 30: a reference (`blob.rs`)
//!    8  seq_delta     i32   sequence number minus the block's base
//!   12  ordinal       u32
//!   16  key bytes
//! values, one behind the other in the order of the records
//! restarts, for every record whose key is whole (`shared` is 0):
//!       key_offset    u32   where the record begins
//!       value_offset  u32   where its value begins, counted from the first value
//! tail:
//!       base_seq      u64
//!       keys_bytes    u32   where the values begin
//!       restart_count u32
//! ```

use std::cmp::Ordering;
use std::ops::Range;

use bytes::Bytes;

use crate::blob::{BlobRef, REFERENCE_BYTES};
use crate::codec::Decoder;
use crate::table::builder::shared_prefix;

/// Fixed part of a record, bytes.
pub(crate) const FIXED_BYTES: usize = 16;
/// Bytes of the tail.
pub(crate) const TAIL_BYTES: usize = 16;
/// `value_bytes` of a tombstone.
pub(crate) const TOMBSTONE: u32 = 1 << 31;
/// Marks the `value_bytes` of a reference.
pub(crate) const REFERENCE: u32 = 1 << 30;
/// Largest plain `value_bytes`.
const VALUE_BYTES_MASK: u32 = REFERENCE - 1;
const RESTART_BYTES: usize = 8;

/// The value of a record as a table holds it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stored<'a> {
    Tombstone,
    Inline(&'a [u8]),
    Blob(BlobRef),
}

impl Stored<'_> {
    pub(crate) fn is_tombstone(&self) -> bool {
        matches!(self, Self::Tombstone)
    }

    /// Length of the value, wherever it lies.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Tombstone => 0,
            Self::Inline(value) => value.len(),
            Self::Blob(reference) => reference.raw as usize,
        }
    }
}

/// A data block in memory.
#[derive(Debug)]
pub(crate) struct Block {
    content: Bytes,
    keys_end: usize,
    values_end: usize,
    restarts: usize,
    base_seq: u64,
}

/// Where a record begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) key: usize,
    pub(crate) value: usize,
}

/// One record of a block, its key relative to the record before it.
#[derive(Clone, Debug)]
pub(crate) struct Parsed {
    pub(crate) shared: usize,
    pub(crate) key: Range<usize>,
    pub(crate) value: Range<usize>,
    pub(crate) is_tombstone: bool,
    /// Whether the value is a reference to a blob.
    pub(crate) is_reference: bool,
    pub(crate) seq: u64,
    pub(crate) ordinal: u32,
}

impl Parsed {
    /// Where the next record begins.
    pub(crate) fn next(&self) -> Position {
        Position { key: self.key.end, value: self.value.end }
    }
}

/// What a search in a block found.
pub(crate) enum Found {
    /// The record wanted.
    Record(Parsed),
    /// There is none in the table: a greater key was met.
    Absent,
    /// The block ended before the question was decided.
    End,
}

impl Block {
    /// Takes a block's content apart.
    pub(crate) fn new(content: Vec<u8>) -> Result<Self, &'static str> {
        const CUT: &str = "block is cut";
        let tail = content.len().checked_sub(TAIL_BYTES).ok_or(CUT)?;
        let mut decoder = Decoder::new(content.get(tail..).ok_or(CUT)?);
        let base_seq = decoder.u64().ok_or(CUT)?;
        let keys_end = decoder.u32().ok_or(CUT)? as usize;
        let restarts = decoder.u32().ok_or(CUT)? as usize;
        let table_bytes = restarts.checked_mul(RESTART_BYTES).ok_or(CUT)?;
        let values_end = tail.checked_sub(table_bytes).ok_or(CUT)?;
        if restarts == 0 || keys_end < FIXED_BYTES || keys_end > values_end {
            return Err("block is malformed");
        }
        Ok(Self { content: content.into(), keys_end, values_end, restarts, base_seq })
    }

    /// Memory held, bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.content.len() + size_of::<Self>()
    }

    /// Whether there is no record at `position`, because it is behind the last one.
    pub(crate) fn is_end(&self, position: Position) -> bool {
        position.key >= self.keys_end
    }

    /// Number of restarts; at least one.
    pub(crate) fn restarts(&self) -> usize {
        self.restarts
    }

    pub(crate) fn slice(&self, range: Range<usize>) -> &[u8] {
        self.content.get(range).unwrap_or_default()
    }

    /// The value of a record; `None` if its reference is damaged.
    pub(crate) fn stored(&self, record: &Parsed) -> Option<Stored<'_>> {
        let bytes = self.slice(record.value.clone());
        Some(match (record.is_tombstone, record.is_reference) {
            (true, _) => Stored::Tombstone,
            (_, true) => Stored::Blob(BlobRef::decode(bytes)?),
            _ => Stored::Inline(bytes),
        })
    }

    /// The value as a buffer that shares the block's memory.
    pub(crate) fn share(&self, range: Range<usize>) -> Bytes {
        self.content.slice(range)
    }

    /// The record at `position`; `None` if the block is damaged.
    #[inline]
    pub(crate) fn parse(&self, position: Position) -> Option<Parsed> {
        let fixed: &[u8; FIXED_BYTES] = self.content.get(position.key..)?.first_chunk()?;
        let shared = u16::from_le_bytes([fixed[0], fixed[1]]);
        let unshared = u16::from_le_bytes([fixed[2], fixed[3]]);
        let value_bytes = u32::from_le_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
        let delta = i32::from_le_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]);
        let ordinal = u32::from_le_bytes([fixed[12], fixed[13], fixed[14], fixed[15]]);
        let is_tombstone = value_bytes == TOMBSTONE;
        let is_reference = value_bytes == REFERENCE | REFERENCE_BYTES as u32;
        if !is_tombstone && !is_reference && value_bytes > VALUE_BYTES_MASK {
            return None;
        }
        let value_bytes = value_bytes & VALUE_BYTES_MASK;
        let key_start = position.key + FIXED_BYTES;
        let key_end = key_start + usize::from(unshared);
        let value_end = position.value + value_bytes as usize;
        if key_end > self.keys_end || value_end > self.values_end {
            return None;
        }
        Some(Parsed {
            shared: usize::from(shared),
            key: key_start..key_end,
            value: position.value..value_end,
            is_tombstone,
            is_reference,
            seq: self.base_seq.wrapping_add_signed(i64::from(delta)),
            ordinal,
        })
    }

    /// Where the record of a restart begins.
    pub(crate) fn restart(&self, index: usize) -> Option<Position> {
        let at = self.values_end + RESTART_BYTES * index;
        let [a, b, c, d, e, f, g, h] = *self.content.get(at..)?.first_chunk::<RESTART_BYTES>()?;
        Some(Position {
            key: u32::from_le_bytes([a, b, c, d]) as usize,
            value: self.keys_end + u32::from_le_bytes([e, f, g, h]) as usize,
        })
    }

    /// The last restart whose record is before (`key`, `seq`), else the first.
    pub(crate) fn seek_restart(&self, key: &[u8], seq: u64) -> Option<usize> {
        let (mut low, mut high) = (0, self.restarts);
        // Restarts below `low` are before the target (or the first), from `high` on they are not.
        while low + 1 < high {
            let middle = low.midpoint(high);
            let record = self.parse(self.restart(middle)?)?;
            let order = self.slice(record.key).cmp(key).then_with(|| seq.cmp(&record.seq));
            if order == Ordering::Less {
                low = middle;
            } else {
                high = middle;
            }
        }
        Some(low)
    }

    /// The first record of `key` with a sequence number of at most `seq_max`.
    ///
    /// Keys are not put together: while the records before the target are passed it is enough to
    /// know how many bytes of the target the last key matched. `None`: the block is damaged.
    pub(crate) fn find(&self, key: &[u8], seq_max: u64) -> Option<Found> {
        let mut position = self.restart(self.seek_restart(key, seq_max)?)?;
        let mut matched = 0;
        while !self.is_end(position) {
            let record = self.parse(position)?;
            position = record.next();
            if record.shared == 0 {
                // Also true of every restart record, whatever it has in common.
                matched = 0;
            }
            match record.shared.cmp(&matched) {
                // Differs from the target where the record before it did: still smaller.
                Ordering::Greater => continue,
                // Differs from the last key inside what matched, upwards: beyond the target.
                Ordering::Less => return Some(Found::Absent),
                Ordering::Equal => {}
            }
            let suffix = self.slice(record.key.clone());
            let wanted = key.get(matched..)?;
            match suffix.cmp(wanted) {
                Ordering::Less => matched += shared_prefix(suffix, wanted),
                Ordering::Greater => return Some(Found::Absent),
                Ordering::Equal if record.seq <= seq_max => return Some(Found::Record(record)),
                Ordering::Equal => matched = key.len(),
            }
        }
        Some(Found::End)
    }
}
