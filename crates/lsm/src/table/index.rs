//! Where blocks lie and what they bound.
//!
//! ```text
//! content of an index, for every block in file order:
//!   0  bytes      u32   stored, trailer included; blocks lie one behind the other
//!   4  seq_min    u64
//!  12  seq_max    u64
//!  20  separator  u16 length, then bytes: at or after the block's last key, before the first
//!                       key of the next block of the family
//! ```
//! A partition is an index of data blocks, the top of a table an index of partitions.

use std::ops::Range;

use crate::codec::{Decoder, Encode};
use crate::limits::KEY_BYTES_MAX;
use crate::table::builder::shared_prefix;
use crate::table::fence::Keys;
use crate::table::format::Handle;

/// What an index holds in memory for one block besides its separator.
const ENTRY_BYTES: usize = size_of::<IndexEntry>() + size_of::<u64>() + size_of::<u32>();

/// What the index knows of one block.
#[derive(Clone, Copy, Debug)]
struct IndexEntry {
    seq_min: u64,
    seq_max: u64,
    /// Where it ends, counted from the begin of the first block.
    end: u32,
}

const _: () = assert!(size_of::<IndexEntry>() == 24);

/// An index in memory, without the separators of its blocks.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// Where the first block begins.
    start: u64,
    entries: Box<[IndexEntry]>,
}

impl Index {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Memory held, bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.entries.len() * size_of::<IndexEntry>()
    }

    /// Where a block lies, with the bounds of its sequence numbers.
    #[inline]
    pub(crate) fn entry(&self, block: usize) -> Option<(Handle, (u64, u64))> {
        let IndexEntry { seq_min, seq_max, end } = *self.entries.get(block)?;
        let before = block.checked_sub(1).and_then(|before| self.entries.get(before));
        let begin = before.map_or(0, |before| before.end);
        let handle = Handle { offset: self.start + u64::from(begin), bytes: end - begin };
        Some((handle, (seq_min, seq_max)))
    }

    /// Reads an index whose blocks fill `place`, and their separators.
    pub(crate) fn decode(content: &[u8], place: Range<u64>) -> Result<(Self, Keys), &'static str> {
        let mut decoder = Decoder::new(content);
        let (mut entries, mut separators) = (Vec::new(), Keys::default());
        let mut end = 0u32;
        while !decoder.is_empty() {
            let mut fields = || {
                let bytes = decoder.u32()?;
                let seqs = (decoder.u64()?, decoder.u64()?);
                let length = usize::from(decoder.u16()?);
                Some((bytes, seqs, decoder.bytes(length)?))
            };
            let (bytes, (seq_min, seq_max), separator) = fields().ok_or("index is cut")?;
            if separator.len() > KEY_BYTES_MAX {
                return Err("index has a long separator");
            }
            end = end.checked_add(bytes).ok_or("index spans too much")?;
            entries.push(IndexEntry { seq_min, seq_max, end });
            separators.push(separator);
        }
        if place.start.checked_add(u64::from(end)) != Some(place.end) {
            return Err("index does not cover the blocks");
        }
        Ok((Self { start: place.start, entries: entries.into() }, separators))
    }
}

/// An index being written.
#[derive(Debug, Default)]
pub(crate) struct IndexBuilder {
    content: Vec<u8>,
    last: Vec<u8>,
    blocks: usize,
    data_bytes: u64,
}

impl IndexBuilder {
    /// Adds a block that lies right behind the one before.
    pub(crate) fn push(&mut self, handle: Handle, seqs: (u64, u64), separator: &[u8]) {
        self.content.put_u32(handle.bytes);
        self.content.put_u64(seqs.0);
        self.content.put_u64(seqs.1);
        self.content.put_u16(u16::try_from(separator.len()).expect("keys are at most 16 KiB"));
        self.content.extend_from_slice(separator);
        self.last.clear();
        self.last.extend_from_slice(separator);
        self.blocks += 1;
        self.data_bytes += u64::from(handle.bytes);
    }

    pub(crate) fn len(&self) -> usize {
        self.blocks
    }

    /// Bytes of all blocks, stored.
    pub(crate) fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// Memory the index will hold, roughly, with its separators.
    pub(crate) fn bytes(&self) -> usize {
        self.content.len() + self.blocks * ENTRY_BYTES / 2
    }

    /// The separator of the last block.
    pub(crate) fn last_separator(&self) -> &[u8] {
        &self.last
    }

    pub(crate) fn content(&self) -> &[u8] {
        &self.content
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
    fn index_is_read_as_it_was_written_and_one_with_a_gap_is_refused() {
        let mut builder = IndexBuilder::default();
        builder.push(Handle { offset: 7, bytes: 100 }, (1, 2), b"m");
        builder.push(Handle { offset: 107, bytes: 50 }, (3, 4), b"z");
        let content = builder.content();
        let (index, separators) = Index::decode(content, 7..157).unwrap();
        assert_eq!((index.len(), separators.len(), separators.get(1)), (2, 2, &b"z"[..]));
        assert_eq!(index.entry(0), Some((Handle { offset: 7, bytes: 100 }, (1, 2))));
        assert_eq!(index.entry(1), Some((Handle { offset: 107, bytes: 50 }, (3, 4))));
        assert_eq!(index.entry(2), None);
        assert!(Index::decode(content, 7..158).is_err());
        assert!(Index::decode(content, 8..157).is_err());
        assert!(Index::decode(&content[..content.len() - 1], 7..157).is_err());
    }
}
