//! Builds the content of one data block; layout in `block.rs`.

use std::ops::Range;

use crate::blob::REFERENCE_BYTES;
use crate::codec::Encode;
use crate::table::block::{
    FIXED_BYTES_MAX, HEAD_BYTES, NARROW_BYTES_MAX, NO_VALUE, RESTART_HEAD_BYTES, Stored, WIDE_KEY,
    restart_head,
};

/// Where a whole key lies in the keys, and where its record and its value begin.
struct Restart {
    key: Range<usize>,
    key_offset: u32,
    value_offset: u32,
}

/// Records of one family, in order, on their way to a block.
pub(crate) struct BlockBuilder {
    keys: Vec<u8>,
    values: Vec<u8>,
    restarts: Vec<Restart>,
    restart_interval: usize,
    since_restart: usize,
    last_key: Vec<u8>,
    base_seq: u64,
    seq_min: u64,
    seq_max: u64,
    records: u32,
    content: Vec<u8>,
}

impl BlockBuilder {
    pub(crate) fn new(restart_interval: usize) -> Self {
        Self {
            keys: Vec::new(),
            values: Vec::new(),
            restarts: Vec::new(),
            restart_interval,
            since_restart: 0,
            last_key: Vec::new(),
            base_seq: 0,
            seq_min: u64::MAX,
            seq_max: 0,
            records: 0,
            content: Vec::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Bytes of the block if it were finished now.
    pub(crate) fn bytes(&self) -> usize {
        let bytes = HEAD_BYTES + self.keys.len() + self.values.len();
        let restart_bytes = RESTART_HEAD_BYTES + 4;
        let narrow = bytes + restart_bytes * self.restarts.len();
        if narrow <= NARROW_BYTES_MAX { narrow } else { narrow + 4 * self.restarts.len() }
    }

    /// The last key added.
    pub(crate) fn last_key(&self) -> &[u8] {
        &self.last_key
    }

    /// Smallest and largest sequence number added.
    pub(crate) fn seq_bounds(&self) -> (u64, u64) {
        (self.seq_min, self.seq_max)
    }

    /// Whether the block's base can express `seq`.
    pub(crate) fn fits(&self, seq: u64) -> bool {
        self.is_empty() || i32::try_from(seq.wrapping_sub(self.base_seq).cast_signed()).is_ok()
    }

    /// Adds a record that sorts after the last one and whose `seq` fits.
    pub(crate) fn add(&mut self, key: &[u8], seq: u64, ordinal: u32, value: Stored<'_>) {
        if self.is_empty() {
            self.base_seq = seq;
        }
        let is_restart = self.restarts.is_empty() || self.since_restart == self.restart_interval;
        let shared = if is_restart { 0 } else { shared_prefix(&self.last_key, key) };
        let suffix = key.get(shared..).unwrap_or_default();
        let (key_offset, value_offset) = (self.keys.len(), self.values.len());
        self.put_fixed([shared, suffix.len()], seq, ordinal, value);
        if is_restart {
            let offset = |n: usize| u32::try_from(n).expect("blocks are below 1 GiB");
            let key = self.keys.len()..self.keys.len() + suffix.len();
            let (key_offset, value_offset) = (offset(key_offset), offset(value_offset));
            self.restarts.push(Restart { key, key_offset, value_offset });
            self.since_restart = 0;
        }
        self.keys.extend_from_slice(suffix);
        match value {
            Stored::Tombstone => {}
            Stored::Inline(value) => self.values.extend_from_slice(value),
            Stored::Blob(blob) => self.values.extend_from_slice(&blob.encode()),
        }
        self.last_key.truncate(shared);
        self.last_key.extend_from_slice(suffix);
        self.since_restart += 1;
        self.records += 1;
        self.seq_min = self.seq_min.min(seq);
        self.seq_max = self.seq_max.max(seq);
    }

    /// What lies in front of a key.
    fn put_fixed(&mut self, lengths: [usize; 2], seq: u64, ordinal: u32, value: Stored<'_>) {
        let (value_bytes, no_value) = match value {
            Stored::Tombstone => (0, NO_VALUE),
            Stored::Inline(value) => (value.len(), 0),
            Stored::Blob(_) => (REFERENCE_BYTES, NO_VALUE),
        };
        let value_bytes = u32::try_from(value_bytes).expect("values are bounded");
        let delta = i32::try_from(seq.wrapping_sub(self.base_seq).cast_signed())
            .expect("the writer closes a block before a sequence number that does not fit");
        let zigzag = (delta << 1 ^ delta >> 31).cast_unsigned();
        let value_code = match value_bytes {
            0..=0xff => 0,
            0x100..=0xffff => 1,
            _ => 2,
        };
        let (seq_width, ordinal_width) = (width(zigzag).max(1), width(ordinal));
        let (ordinal_code, ordinal_width) =
            if ordinal_width > 2 { (3, 4) } else { (ordinal_width, ordinal_width) };
        let is_wide = lengths.iter().any(|length| *length > 0xff);
        let wide = if is_wide { WIDE_KEY } else { 0 };
        let codes = value_code | (seq_width - 1) << 2 | ordinal_code << 4;
        self.keys.put_u8(codes as u8 | wide | no_value);
        for length in lengths {
            let length = u32::try_from(length).expect("keys are at most 16 KiB");
            put_low(&mut self.keys, length, if is_wide { 2 } else { 1 });
        }
        put_low(&mut self.keys, value_bytes, 1 << value_code);
        put_low(&mut self.keys, zigzag, seq_width);
        put_low(&mut self.keys, ordinal, ordinal_width);
    }

    /// Bytes a record takes at most.
    pub(crate) fn record_bytes(key: &[u8], value: Stored<'_>) -> usize {
        let value_bytes = match value {
            Stored::Tombstone => 0,
            Stored::Inline(value) => value.len(),
            Stored::Blob(_) => REFERENCE_BYTES,
        };
        FIXED_BYTES_MAX + key.len() + value_bytes
    }

    /// The content of the complete block; [`BlockBuilder::clear`] afterwards.
    pub(crate) fn finish(&mut self) -> &[u8] {
        let is_narrow = self.bytes() <= NARROW_BYTES_MAX;
        let key = |r: &Restart| self.keys.get(r.key.clone()).unwrap_or_default();
        let (first, last) = (self.restarts.first().map(key), self.restarts.last().map(key));
        let common = shared_prefix(first.unwrap_or_default(), last.unwrap_or_default());
        let out = &mut self.content;
        out.clear();
        out.put_u64(self.base_seq);
        out.put_u32(u32::try_from(self.keys.len()).expect("blocks are below 1 GiB"));
        out.put_u32(u32::try_from(self.restarts.len()).expect("restarts are few"));
        out.put_u16(u16::try_from(common).expect("keys are at most 16 KiB"));
        out.put_u16(0);
        for restart in &self.restarts {
            out.put_u32(restart_head(key(restart).get(common..).unwrap_or_default()));
        }
        for offset in self.restarts.iter().flat_map(|r| [r.key_offset, r.value_offset]) {
            put_low(out, offset, if is_narrow { 2 } else { 4 });
        }
        out.extend_from_slice(&self.keys);
        out.extend_from_slice(&self.values);
        out
    }

    /// Begins the next block.
    pub(crate) fn clear(&mut self) {
        self.keys.clear();
        self.values.clear();
        self.restarts.clear();
        self.since_restart = 0;
        self.last_key.clear();
        (self.base_seq, self.seq_min, self.seq_max, self.records) = (0, u64::MAX, 0, 0);
    }
}

/// Bytes a number takes without its leading zeros.
fn width(number: u32) -> u32 {
    (u32::BITS - number.leading_zeros()).div_ceil(8)
}

/// Appends the lowest `width` bytes of a number.
fn put_low(out: &mut Vec<u8>, number: u32, width: u32) {
    let bytes = number.to_le_bytes();
    out.extend_from_slice(bytes.get(..width as usize).unwrap_or(&bytes));
}

/// How many bytes two keys have in common at their start.
#[inline]
pub(crate) fn shared_prefix(a: &[u8], b: &[u8]) -> usize {
    let (words_a, words_b) = (a.as_chunks::<8>().0, b.as_chunks::<8>().0);
    let mut shared = 0;
    for (a, b) in words_a.iter().zip(words_b) {
        let differing = u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b);
        if differing != 0 {
            return shared + (differing.trailing_zeros() / 8) as usize;
        }
        shared += 8;
    }
    let rest = a.iter().zip(b).skip(shared);
    shared + rest.take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::blob::BlobRef;
    use crate::table::block::{Block, Found};
    use crate::table::format::Handle;
    use crate::table::walk::BlockWalk;

    /// A record as the tests write it.
    type Wanted = (Vec<u8>, u64, u32, Option<usize>);

    fn built(records: &[Wanted], restart_interval: usize) -> Block {
        let mut builder = BlockBuilder::new(restart_interval);
        let longest = records.iter().filter_map(|r| r.3).max().unwrap_or(0);
        let value = vec![7; longest];
        for (key, seq, ordinal, length) in records {
            assert!(builder.fits(*seq));
            let value = length.map_or(Stored::Tombstone, |n| Stored::Inline(&value[..n]));
            builder.add(key, *seq, *ordinal, value);
        }
        let bytes = builder.bytes();
        let content: Arc<[u8]> = builder.finish().into();
        assert_eq!(content.len(), bytes, "the builder knows its size");
        Block::new(content).unwrap()
    }

    fn check(records: &[Wanted], restart_interval: usize) {
        let block = built(records, restart_interval);
        let mut walk = BlockWalk::new();
        walk.enter_forward(block.clone(), None).unwrap();
        for (key, seq, ordinal, length) in records {
            assert_eq!(walk.forward(), Some(true));
            let record = walk.record().unwrap();
            assert_eq!((walk.key(), record.seq, record.ordinal), (&key[..], *seq, *ordinal));
            assert_eq!((!record.is_tombstone).then_some(record.value.len()), *length);
            let Some(Found::Record(found)) = block.find(key, *seq) else { panic!("{key:?}") };
            assert_eq!((found.seq, found.value), (*seq, record.value.clone()));
            let mut beyond = key.clone();
            beyond.push(0);
            if !records.iter().any(|r| r.0 == beyond) {
                assert!(!matches!(block.find(&beyond, u64::MAX), Some(Found::Record(_)) | None));
            }
        }
        assert_eq!(walk.forward(), Some(false));
        walk.enter_backward(block, None).unwrap();
        for (key, ..) in records.iter().rev() {
            assert_eq!(walk.backward(), Some(true));
            assert_eq!(walk.key(), &key[..]);
        }
    }

    #[test]
    fn records_of_every_width_are_found_and_walked_either_way() {
        let lengths = [None, Some(0), Some(1), Some(255), Some(256), Some(65_535), Some(65_536)];
        let distances = [0, 1, 63, 64, 127, 128, 32_767, 32_768, 8_388_608, i32::MAX as u64];
        let mut records = Vec::new();
        for n in 0..200u64 {
            let at = n as usize;
            // Keys of all lengths, also beyond 255 bytes, with much or little in common.
            let mut key = format!("k{:02}", n / 10).into_bytes();
            key.resize(3 + at % 7 * 60, b'-');
            key.extend_from_slice(format!("{n:03}").as_bytes());
            let distance = distances[at % distances.len()];
            let base = 1 << 33;
            let seq = if n % 3 == 0 { base - distance } else { base + distance };
            let ordinal = [0, 1, 255, 256, 65_536, u32::MAX][at % 6];
            let length = lengths[at % if n < 100 { 5 } else { 7 }];
            records.push((key, if n == 0 { base } else { seq }, ordinal, length));
        }
        records.sort();
        // The first record is the base of all others.
        records[0].1 = 1 << 33;
        for restart_interval in [1, 3, 16, 256] {
            check(&records[..40], restart_interval);
            check(&records, restart_interval);
            check(&records[7..8], restart_interval);
        }
    }

    #[test]
    fn versions_of_one_key_over_many_restarts_are_found_by_their_numbers() {
        let mut records = vec![(b"a".to_vec(), 5_000, 0, Some(3))];
        records.extend((0..50).rev().map(|n| (b"b".to_vec(), 100 + 2 * n, 0, Some(n as usize))));
        records.push((b"b\0".to_vec(), 7, 1, None));
        for restart_interval in [1, 4, 100] {
            check(&records, restart_interval);
            let block = built(&records, restart_interval);
            for n in 0..49 {
                let found = block.find(b"b", 101 + 2 * n);
                assert!(matches!(found, Some(Found::Record(r)) if r.seq == 100 + 2 * n));
            }
            assert!(matches!(block.find(b"b", 99), Some(Found::Absent)));
        }
    }

    #[test]
    fn a_reference_is_read_as_it_was_written() {
        let reference = BlobRef {
            file: 3,
            handle: Handle { offset: 9, bytes: 50 },
            raw: 70_000,
            expires_at: None,
        };
        let mut builder = BlockBuilder::new(4);
        builder.add(b"k", 1, 0, Stored::Blob(reference));
        let block = Block::new(builder.finish().into()).unwrap();
        let Some(Found::Record(found)) = block.find(b"k", 1) else { panic!("not found") };
        assert!(matches!(block.stored(&found), Some(Stored::Blob(read)) if read == reference));
    }

    #[test]
    fn shared_prefix_counts_the_bytes_in_common() {
        let cases = [("", "a", 0), ("ab", "ab", 2), ("ab", "abc", 2), ("12345678", "12345679", 7)];
        for (a, b, shared) in cases {
            assert_eq!(shared_prefix(a.as_bytes(), b.as_bytes()), shared);
        }
        assert_eq!(shared_prefix(b"123456789abcdefgX", b"123456789abcdefgY"), 16);
        assert_eq!(shared_prefix(b"123456789abcX", b"123456789abcYZZZZ"), 12);
    }
}
