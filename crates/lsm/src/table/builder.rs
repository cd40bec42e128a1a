//! Builds the content of one data block; layout in `block.rs`.

use crate::blob::REFERENCE_BYTES;
use crate::codec::Encode;
use crate::table::block::{FIXED_BYTES, REFERENCE, Stored, TAIL_BYTES, TOMBSTONE};

/// Records of one family, in order, on their way to a block.
pub(crate) struct BlockBuilder {
    keys: Vec<u8>,
    values: Vec<u8>,
    restarts: Vec<(u32, u32)>,
    restart_interval: usize,
    since_restart: usize,
    last_key: Vec<u8>,
    base_seq: u64,
    seq_min: u64,
    seq_max: u64,
    records: u32,
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
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Bytes of the block if it were finished now.
    pub(crate) fn bytes(&self) -> usize {
        self.keys.len() + self.values.len() + 8 * self.restarts.len() + TAIL_BYTES
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
        let delta = i32::try_from(seq.wrapping_sub(self.base_seq).cast_signed())
            .expect("the writer closes a block before a sequence number that does not fit");
        let shared = if self.restarts.is_empty() || self.since_restart == self.restart_interval {
            let offset = |n: usize| u32::try_from(n).expect("blocks are below 1 GiB");
            self.restarts.push((offset(self.keys.len()), offset(self.values.len())));
            self.since_restart = 0;
            0
        } else {
            shared_prefix(&self.last_key, key)
        };
        let length = |n: usize| u16::try_from(n).expect("keys are at most 16 KiB");
        let (value_bytes, reference);
        let value = match value {
            Stored::Tombstone => {
                value_bytes = TOMBSTONE;
                &[]
            }
            Stored::Inline(value) => {
                value_bytes = u32::try_from(value.len()).expect("values are bounded");
                value
            }
            Stored::Blob(blob) => {
                value_bytes = REFERENCE | REFERENCE_BYTES as u32;
                reference = blob.encode();
                &reference[..]
            }
        };
        self.keys.put_u16(length(shared));
        self.keys.put_u16(length(key.len() - shared));
        self.keys.put_u32(value_bytes);
        self.keys.put_u32(delta.cast_unsigned());
        self.keys.put_u32(ordinal);
        self.keys.extend_from_slice(&key[shared..]);
        self.values.extend_from_slice(value);
        self.last_key.truncate(shared);
        self.last_key.extend_from_slice(&key[shared..]);
        self.since_restart += 1;
        self.records += 1;
        self.seq_min = self.seq_min.min(seq);
        self.seq_max = self.seq_max.max(seq);
    }

    /// Bytes a record takes at most.
    pub(crate) fn record_bytes(key: &[u8], value: Stored<'_>) -> usize {
        let value_bytes = match value {
            Stored::Tombstone => 0,
            Stored::Inline(value) => value.len(),
            Stored::Blob(_) => REFERENCE_BYTES,
        };
        FIXED_BYTES + key.len() + value_bytes
    }

    /// The content of the complete block; [`BlockBuilder::clear`] afterwards.
    pub(crate) fn finish(&mut self) -> &[u8] {
        let keys_bytes = u32::try_from(self.keys.len()).expect("blocks are below 1 GiB");
        self.keys.append(&mut self.values);
        for (key_offset, value_offset) in &self.restarts {
            self.keys.put_u32(*key_offset);
            self.keys.put_u32(*value_offset);
        }
        self.keys.put_u64(self.base_seq);
        self.keys.put_u32(keys_bytes);
        self.keys.put_u32(u32::try_from(self.restarts.len()).expect("restarts are few"));
        &self.keys
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

/// How many bytes two keys have in common at their start.
pub(crate) fn shared_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
