//! The content of one data block, and searching it.
//!
//! What a search needs lies together at the front, so that it touches few cache lines and mostly
//! one page: four bytes of every restart key, then the places of these, then all keys; the values
//! come behind and are touched only by who wants one. A search runs over the heads of the restart
//! keys, then over the records of one interval.
//!
//! A hash index in the block was the alternative. It would replace the search among the heads,
//! which takes one cache line that is loaded anyway, and cost a byte per record.
//!
//! ```text
//! head:
//!    0  base_seq    u64
//!    8  keys_bytes  u32   bytes of all keys
//!   12  restarts    u32   records whose key is whole (`shared` is 0); at least one
//!   16  common      u16   bytes these keys have in common
//!   18  zero        u16
//! heads, for every restart:
//!       head        u32   the four bytes of its key behind the common ones, the first byte in the
//!                         highest place; zeros where the key ends
//! places, for every restart, u16 each if the content is at most 65,535 bytes long, else u32:
//!       key_offset        where the record begins, counted from the first record
//!       value_offset      where its value begins, counted from the first value
//! keys, for every record:
//!    0  control     u8    bits 0–1: bytes of `value_bytes` (0: 1, 1: 2, 2: 4)
//!                         bits 2–3: bytes of `seq` less one
//!                         bits 4–5: bytes of `ordinal` (0: none, it is 0; 1: 1, 2: 2, 3: 4)
//!                         bit 6: `shared` and `unshared` are u16, else u8
//!                         bit 7: no value: a tombstone if `value_bytes` is 0, else a reference
//!                         (`blob.rs`)
//!    1  shared            bytes of the key it has in common with the record before it
//!    …  unshared          bytes of the key that follow here
//!    …  value_bytes
//!    …  seq               difference to the base, 2n for n ≥ 0 and −2n − 1 below
//!    …  ordinal
//!    …  key bytes
//! values, one behind the other in the order of the records
//! ```

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::blob::{BlobRef, REFERENCE_BYTES};
use crate::codec::Decoder;
use crate::table::builder::shared_prefix;

/// Bytes of the head.
pub(crate) const HEAD_BYTES: usize = 20;
/// Bytes of the head of a restart key.
pub(crate) const RESTART_HEAD_BYTES: usize = 4;
/// Longest content whose places have 16 bits, bytes.
pub(crate) const NARROW_BYTES_MAX: usize = 0xffff;
/// Most bytes of a record in front of its key.
pub(crate) const FIXED_BYTES_MAX: usize = 17;
/// Fewest bytes of a record.
const RECORD_BYTES_MIN: usize = 5;
/// Bit of the control byte: lengths of the key have 16 bits.
pub(crate) const WIDE_KEY: u8 = 1 << 6;
/// Bit of the control byte: no value lies in the block.
pub(crate) const NO_VALUE: u8 = 1 << 7;

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

/// A data block in memory: its content, and where the parts of it begin.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    content: Arc<[u8]>,
    base_seq: u64,
    keys_start: usize,
    keys_end: usize,
    restarts: usize,
    common: usize,
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
    #[inline]
    pub(crate) fn new(content: Arc<[u8]>) -> Result<Self, &'static str> {
        const CUT: &str = "block is cut";
        let mut decoder = Decoder::new(&content);
        let base_seq = decoder.u64().ok_or(CUT)?;
        let keys_bytes = decoder.u32().ok_or(CUT)? as usize;
        let restarts = decoder.u32().ok_or(CUT)? as usize;
        let common = usize::from(decoder.u16().ok_or(CUT)?);
        let restart_bytes = RESTART_HEAD_BYTES + 2 * place_bytes(content.len());
        let keys_start = HEAD_BYTES.saturating_add(restarts.saturating_mul(restart_bytes));
        let keys_end = keys_start.saturating_add(keys_bytes);
        if restarts == 0 || keys_bytes < RECORD_BYTES_MIN || keys_end > content.len() {
            return Err("block is malformed");
        }
        Ok(Self { content, base_seq, keys_start, keys_end, restarts, common })
    }

    /// The bytes it was made of.
    pub(crate) fn content(&self) -> &Arc<[u8]> {
        &self.content
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

    /// The content as a buffer that shares the block's memory.
    pub(crate) fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self.content)
    }

    /// The record at `position`; `None` if the block is damaged.
    #[inline]
    pub(crate) fn parse(&self, position: Position) -> Option<Parsed> {
        match self.content.get(position.key..)?.first_chunk() {
            Some(fixed) => self.parse_fixed(fixed, position),
            None => self.parse_fixed(&self.last_fixed(position.key), position),
        }
    }

    #[inline(always)]
    fn parse_fixed(&self, fixed: &[u8; FIXED_BYTES_MAX], position: Position) -> Option<Parsed> {
        let control = fixed[0];
        if control & 3 == 3 {
            return None;
        }
        let key_width = 1 + usize::from(control & WIDE_KEY != 0);
        let value_width = 1 << (control & 3);
        let seq_width = 1 + usize::from(control >> 2 & 3);
        let ordinal_width = (1 << (control >> 4 & 3)) >> 1;
        let seq_at = 1 + 2 * key_width + value_width;
        let mut lengths = Fields::of(fixed.get(1..)?)?;
        let shared = lengths.take(key_width) as usize;
        let unshared = lengths.take(key_width) as usize;
        let value_bytes = lengths.take(value_width) as usize;
        let mut numbers = Fields::of(fixed.get(seq_at..)?)?;
        let zigzag = numbers.take(seq_width);
        let ordinal = numbers.take(ordinal_width);
        let key_start = position.key + seq_at + seq_width + ordinal_width;
        let key_end = key_start + unshared;
        let value_end = position.value.checked_add(value_bytes)?;
        let has_no_value = control & NO_VALUE != 0;
        let is_reference = has_no_value && value_bytes == REFERENCE_BYTES;
        let is_tombstone = has_no_value && value_bytes == 0;
        if key_end > self.keys_end
            || value_end > self.content.len()
            || has_no_value != (is_reference || is_tombstone)
        {
            return None;
        }
        let delta = i64::from(zigzag >> 1) ^ -i64::from(zigzag & 1);
        Some(Parsed {
            shared,
            key: key_start..key_end,
            value: position.value..value_end,
            is_tombstone,
            is_reference,
            seq: self.base_seq.wrapping_add_signed(delta),
            ordinal,
        })
    }

    /// What lies in front of the key of a record near the end of the content, with zeros behind.
    #[cold]
    fn last_fixed(&self, at: usize) -> [u8; FIXED_BYTES_MAX] {
        let mut fixed = [0; FIXED_BYTES_MAX];
        for (to, from) in fixed.iter_mut().zip(self.content.get(at..).unwrap_or_default()) {
            *to = *from;
        }
        fixed
    }

    /// Where the record of a restart begins.
    #[inline]
    pub(crate) fn restart(&self, index: usize) -> Option<Position> {
        let width = place_bytes(self.content.len());
        let places = HEAD_BYTES + RESTART_HEAD_BYTES * self.restarts;
        let place = self.content.get(places + 2 * width * index..self.keys_start)?;
        let (key, value) = match width {
            2 => {
                let [a, b, c, d] = *place.first_chunk()?;
                (u16::from_le_bytes([a, b]).into(), u16::from_le_bytes([c, d]).into())
            }
            _ => {
                let [a, b, c, d, e, f, g, h] = *place.first_chunk()?;
                (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
            }
        };
        Some(Position {
            key: self.keys_start + key as usize,
            value: self.keys_end + value as usize,
        })
    }

    /// The last restart whose record is before (`key`, `seq`), else the first.
    pub(crate) fn seek_restart(&self, key: &[u8], seq: u64) -> Option<usize> {
        let first = self.slice(self.parse(self.restart(0)?)?.key);
        let (start, rest) = key.split_at(key.len().min(self.common));
        match start.cmp(first.get(..self.common)?) {
            Ordering::Less => Some(0),
            Ordering::Greater => Some(self.restarts - 1),
            Ordering::Equal => self.search_restart(rest, key, seq),
        }
    }

    /// [`Block::seek_restart`] for a key that begins with what the restart keys have in common;
    /// `rest` is what comes behind it. Any restart for another key, which is then smaller than
    /// all keys of the block or larger.
    #[inline]
    fn search_restart(&self, rest: &[u8], key: &[u8], seq: u64) -> Option<usize> {
        let heads = self.content.get(HEAD_BYTES..self.keys_start)?.as_chunks().0;
        let heads = heads.get(..self.restarts)?;
        let wanted = restart_head(rest);
        let low = heads.partition_point(|head| u32::from_le_bytes(*head) < wanted);
        let mut before = low;
        // Equal heads: versions of one key, or keys that differ only behind them.
        while heads.get(before).is_some_and(|head| u32::from_le_bytes(*head) == wanted) {
            let record = self.parse(self.restart(before)?)?;
            let order = self.slice(record.key).cmp(key).then_with(|| seq.cmp(&record.seq));
            if order != Ordering::Less {
                break;
            }
            before += 1;
        }
        Some(before.saturating_sub(1))
    }

    /// The first record of `key` with a sequence number of at most `seq_max`.
    ///
    /// Keys are not put together: while the records before the target are passed it is enough to
    /// know how many bytes of the target the last key matched. `None`: the block is damaged.
    pub(crate) fn find(&self, key: &[u8], seq_max: u64) -> Option<Found> {
        let rest = key.get(self.common..).unwrap_or_default();
        let mut position = self.restart(self.search_restart(rest, key, seq_max)?)?;
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

/// Bytes of each of the two places of a restart.
pub(crate) fn place_bytes(content_bytes: usize) -> usize {
    if content_bytes <= NARROW_BYTES_MAX { 2 } else { 4 }
}

/// The first four bytes as a number; of unequal numbers the smaller has the smaller bytes.
#[inline]
pub(crate) fn restart_head(bytes: &[u8]) -> u32 {
    match bytes.first_chunk() {
        Some(first) => u32::from_be_bytes(*first),
        None => {
            let mut padded = [0; RESTART_HEAD_BYTES];
            for (to, from) in padded.iter_mut().zip(bytes) {
                *to = *from;
            }
            u32::from_be_bytes(padded)
        }
    }
}

/// Fields of up to four bytes, one behind the other, together at most eight.
struct Fields(u64);

impl Fields {
    #[inline]
    fn of(bytes: &[u8]) -> Option<Self> {
        Some(Self(u64::from_le_bytes(*bytes.first_chunk()?)))
    }

    #[inline]
    fn take(&mut self, width: usize) -> u32 {
        let bits = 8 * width;
        let field = self.0 & ((1 << bits) - 1);
        self.0 >>= bits;
        field as u32
    }
}
