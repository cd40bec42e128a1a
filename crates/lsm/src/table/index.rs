//! Where blocks lie and what they bound.
//!
//! ```text
//! content of an index, for every block in file order:
//!   0  offset     u64
//!   8  seq_min    u64
//!  16  seq_max    u64
//!  24  bytes      u32   stored, trailer included
//!  28  separator  u16 length, then bytes: at or after the block's last key, before the first
//!                       key of the next block of the family
//! ```
//! A partition is an index of data blocks, the top of a table an index of partitions.

use std::cmp::Ordering;
use std::ops::Range;

use crate::codec::{Decoder, Encode};
use crate::limits::KEY_BYTES_MAX;
use crate::table::builder::shared_prefix;
use crate::table::format::Handle;

/// What the index knows of one block.
#[derive(Clone, Copy, Debug)]
struct IndexEntry {
    offset: u64,
    seq_min: u64,
    seq_max: u64,
    bytes: u32,
    separator_end: u32,
}

const _: () = assert!(size_of::<IndexEntry>() == 32);

/// An index in memory: 40 bytes per block and its separator.
#[derive(Debug, Default)]
pub(crate) struct Index {
    separators: Vec<u8>,
    entries: Vec<IndexEntry>,
    /// Eight bytes of each separator behind what all of its family have in common: most of a
    /// search runs over these, eight to a cache line. Empty while the index is being built.
    heads: Vec<u64>,
}

/// The blocks of one family and how many first bytes all their separators have in common.
#[derive(Clone, Debug)]
pub(crate) struct Stretch {
    pub(crate) blocks: Range<usize>,
    common_bytes: usize,
}

impl Index {
    pub(crate) fn push(&mut self, handle: Handle, seqs: (u64, u64), separator: &[u8]) {
        self.separators.extend_from_slice(separator);
        let separator_end = u32::try_from(self.separators.len()).expect("an index is below 4 GiB");
        let Handle { offset, bytes } = handle;
        let (seq_min, seq_max) = seqs;
        self.entries.push(IndexEntry { offset, seq_min, seq_max, bytes, separator_end });
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Memory held, bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.separators.len() + self.entries.len() * (size_of::<IndexEntry>() + size_of::<u64>())
    }

    /// Where a block lies, with the bounds of its sequence numbers.
    #[inline]
    pub(crate) fn entry(&self, block: usize) -> Option<(Handle, (u64, u64))> {
        let IndexEntry { offset, seq_min, seq_max, bytes, .. } = *self.entries.get(block)?;
        Some((Handle { offset, bytes }, (seq_min, seq_max)))
    }

    pub(crate) fn separator(&self, block: usize) -> &[u8] {
        let end = |i: usize| self.entries.get(i).map_or(0, |e| e.separator_end as usize);
        let start = block.checked_sub(1).map_or(0, end);
        self.separators.get(start..end(block)).unwrap_or_default()
    }

    /// Prepares `blocks`, which are those of one family, for [`Index::seek`].
    pub(crate) fn stretch(&mut self, blocks: Range<usize>) -> Stretch {
        let last = blocks.end.saturating_sub(1);
        let common_bytes = shared_prefix(self.separator(blocks.start), self.separator(last));
        self.heads.resize(self.entries.len(), 0);
        for block in blocks.clone() {
            let head = head(self.separator(block).get(common_bytes..).unwrap_or_default());
            if let Some(slot) = self.heads.get_mut(block) {
                *slot = head;
            }
        }
        Stretch { blocks, common_bytes }
    }

    /// The first block of `stretch` whose separator is at or after `key`; its end if none.
    #[inline]
    pub(crate) fn seek(&self, stretch: &Stretch, key: &[u8]) -> usize {
        let Range { start, end } = stretch.blocks;
        let common = self.separator(start).get(..stretch.common_bytes).unwrap_or_default();
        let (first, rest) = key.split_at(key.len().min(common.len()));
        match first.cmp(common) {
            Ordering::Less => return start,
            Ordering::Greater => return end,
            Ordering::Equal => {}
        }
        let wanted = head(rest);
        let heads = self.heads.get(start..end).unwrap_or_default();
        let low = start + heads.partition_point(|head| *head < wanted);
        // Equal heads are rare unless separators differ only behind them.
        let equal = heads.get(low - start..).unwrap_or_default();
        let high = low + equal.partition_point(|head| *head == wanted);
        self.seek_whole(low..high, key)
    }

    fn seek_whole(&self, blocks: Range<usize>, key: &[u8]) -> usize {
        let (mut low, mut high) = (blocks.start, blocks.end);
        while low < high {
            let middle = low.midpoint(high);
            if self.separator(middle) < key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes());
        for (block, entry) in self.entries.iter().enumerate() {
            let separator = self.separator(block);
            out.put_u64(entry.offset);
            out.put_u64(entry.seq_min);
            out.put_u64(entry.seq_max);
            out.put_u32(entry.bytes);
            out.put_u16(u16::try_from(separator.len()).expect("keys are at most 16 KiB"));
            out.extend_from_slice(separator);
        }
        out
    }

    /// Reads an index whose blocks must lie one behind the other and fill `place`.
    pub(crate) fn decode(content: &[u8], place: Range<u64>) -> Result<Self, &'static str> {
        let mut decoder = Decoder::new(content);
        let mut index = Self::default();
        let mut expected = place.start;
        while !decoder.is_empty() {
            let mut fields = || {
                let offset = decoder.u64()?;
                let seqs = (decoder.u64()?, decoder.u64()?);
                let bytes = decoder.u32()?;
                let length = usize::from(decoder.u16()?);
                Some((Handle { offset, bytes }, seqs, decoder.bytes(length)?))
            };
            let (handle, seqs, separator) = fields().ok_or("index is cut")?;
            if handle.offset != expected || separator.len() > KEY_BYTES_MAX {
                return Err("index has a gap");
            }
            expected = handle.end();
            index.push(handle, seqs, separator);
        }
        if expected != place.end {
            return Err("index does not cover the blocks");
        }
        index.entries.shrink_to_fit();
        index.separators.shrink_to_fit();
        Ok(index)
    }
}

/// The first eight bytes as a number; of unequal numbers the smaller has the smaller bytes.
fn head(bytes: &[u8]) -> u64 {
    match bytes.first_chunk::<8>() {
        Some(first) => u64::from_be_bytes(*first),
        None => bytes
            .iter()
            .fold(0, |head, byte| head << 8 | u64::from(*byte))
            .checked_shl(8 * (8 - u32::try_from(bytes.len()).unwrap_or(8)))
            .unwrap_or(0),
    }
}

/// A short key at or after `last` and before `next`; `last` itself if nothing is shorter.
pub(crate) fn separator<'a>(last: &'a [u8], next: &'a [u8]) -> &'a [u8] {
    debug_assert!(last <= next);
    let shared = shared_prefix(last, next);
    // One byte more of `next` is above `last`, and below `next` if more bytes follow.
    match next.get(..shared + 1) {
        Some(short) if short.len() < next.len() && short.len() < last.len() => short,
        _ => last,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separator_lies_between_its_neighbours_and_is_short() {
        let cases: [(&str, &str, &str); 5] = [
            ("abcdef", "abzzzz", "abz"),
            ("abc", "abc", "abc"),
            ("abc", "abcd", "abc"),
            ("a", "b", "a"),
            ("apple", "b", "apple"),
        ];
        for (last, next, expected) in cases {
            let found = separator(last.as_bytes(), next.as_bytes());
            assert_eq!(found, expected.as_bytes());
            assert!(found >= last.as_bytes() && (found < next.as_bytes() || last == next));
        }
    }

    #[test]
    fn seek_finds_the_first_separator_at_or_after_a_key() {
        let separators: Vec<Vec<u8>> =
            ["ab", "ab/1", "ab/12345678", "ab/123456789", "ab/2", "ab/2", "abz", "abz\0"]
                .map(|s| s.as_bytes().to_vec())
                .into();
        let mut index = Index::default();
        for (n, separator) in (0..).zip(&separators) {
            index.push(Handle { offset: n * 10, bytes: 10 }, (0, 0), separator);
        }
        for blocks in [0..8, 1..6, 2..4, 3..4] {
            let stretch = index.stretch(blocks.clone());
            let around = [&b""[..], b"a", b"ab", b"ab/", b"ab/123456780", b"ab/3", b"abz", b"b"];
            for key in around.into_iter().chain(separators.iter().map(Vec::as_slice)) {
                let expected = blocks.clone().find(|b| separators[*b].as_slice() >= key);
                let expected = expected.unwrap_or(blocks.end);
                assert_eq!(index.seek(&stretch, key), expected, "{key:?} in {blocks:?}");
            }
        }
    }

    #[test]
    fn index_with_a_gap_is_refused() {
        let mut index = Index::default();
        index.push(Handle { offset: 0, bytes: 100 }, (1, 2), b"m");
        index.push(Handle { offset: 100, bytes: 50 }, (1, 2), b"z");
        let content = index.encode();
        assert_eq!(Index::decode(&content, 0..150).unwrap().len(), 2);
        assert!(Index::decode(&content, 0..151).is_err());
        assert!(Index::decode(&content, 1..150).is_err());
        assert!(Index::decode(&content[..content.len() - 1], 0..150).is_err());
    }
}
