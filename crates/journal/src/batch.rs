//! The batch: what one write puts into a segment.
//!
//! Owns: the layout below, the list of groups in a mark.
//! Must never know: which records it carries.
//! Invariants:
//! * A batch starts on a 512-byte boundary, right after the batch before it.
//! * Batch numbers have no gaps; each batch names the checksum of the one before it.
//! * Every batch with a number below a valid batch's `claim` was durable once.
//!
//! ```text
//! offset bytes field
//!      0     8 checksum  xxh3-64 of bytes 8..80, seeded with segment seed + offset
//!      8     4 magic     "HFJB"
//!     12     1 kind      1 records, 2 mark, 3 filler
//!     13     3 zero
//!     16     8 run       random number of the process run that wrote it
//!     24     8 link      checksum of the batch before it
//!     32     8 number    of the batch
//!     40     8 claim     batches below this number were durable when this one was written
//!     48     8 first     sequence number of its first record, or of the next to come
//!     56     4 length    of the body
//!     60     4 records   in the body
//!     64     8 body sum  xxh3-64 of the body of a mark, seeded alike; else 0
//!     72     8 oldest    sequence number of the oldest segment needed when it was written
//!     80     n body      then zeros to a multiple of 512
//! ```
//!
//! **Torn tail or corruption.** Above the last claim nothing was acknowledged, so what is broken
//! there was torn by a crash and is cut off. Below a claim everything was durable, so what is
//! broken there was damaged later. The last batch of a burst would be covered by nothing: a *mark*
//! follows it within 10 ms. The mark starts on another 4 KiB block than the batch it covers, so
//! that one bad block cannot take both; a *filler*, whose body is zeros, bridges the gap.
//!
//! **Lost or freed.** A segment is freed only after a batch that names a later one as `oldest` is
//! durable and the witness says so too, or both slots of the witness do (`witness.rs`): if the one
//! that they name is not there, it was lost, and every group that was there before is hit.
//!
//! `run` and `link` keep batches of an earlier run, left behind a torn tail, from being taken for
//! a continuation of what was written over their beginning.
//!
//! **Mark.** The body lists every group's last record before `first`, ordered by group. A group
//! whose chain of records ends exactly there is whole, whatever else was damaged. Every segment
//! begins with a mark.
//!
//! ```text
//!      0     8 range
//!      8     8 replica
//!     16     8 last      sequence number of the group's last record
//!     24     8 flags     1: the group was hit by corruption and waits for its end
//! ```

use holdfast_model::{RangeId, ReplicaId};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::bytes_at::{u32_at, u64_at};
use crate::group::GroupId;
use crate::options::TAIL_BYTES;

/// Bytes before the body.
pub(crate) const BATCH_HEADER_BYTES: usize = 80;
/// Batches start at multiples of this.
pub(crate) const BATCH_ALIGN: u64 = 512;
/// What a batch takes beside its records at most: header and padding.
pub(crate) const BATCH_OVERHEAD_MAX: u64 = BATCH_HEADER_BYTES as u64 + BATCH_ALIGN;
/// What a bad spot of a disk takes at most: marks keep clear of the block they vouch for.
pub(crate) const BLOCK_BYTES: u64 = 4096;
const MAGIC: u32 = u32::from_le_bytes(*b"HFJB");
const FLAG_HIT: u64 = 1;

/// What a batch carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BatchKind {
    /// Records of groups.
    Records = 1,
    /// Every group's last position.
    Mark = 2,
    /// Nothing; it takes up space.
    Filler = 3,
}

/// The fields before the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub(crate) kind: BatchKind,
    pub(crate) run: u64,
    pub(crate) link: u64,
    pub(crate) number: u64,
    pub(crate) claim: u64,
    pub(crate) first_sequence: u64,
    pub(crate) body_bytes: u32,
    pub(crate) records: u32,
    pub(crate) body_checksum: u64,
    pub(crate) oldest: u32,
}

impl BatchHeader {
    /// The header with its checksum, which is the next batch's link.
    pub(crate) fn encode(&self, seed: u64) -> ([u8; BATCH_HEADER_BYTES], u64) {
        let mut bytes = [0; BATCH_HEADER_BYTES];
        let words = [
            0,
            u64::from(MAGIC) | (self.kind as u64) << 32,
            self.run,
            self.link,
            self.number,
            self.claim,
            self.first_sequence,
            u64::from(self.body_bytes) | u64::from(self.records) << 32,
            self.body_checksum,
            u64::from(self.oldest),
        ];
        for (field, word) in bytes.chunks_exact_mut(8).zip(words) {
            field.copy_from_slice(&word.to_le_bytes());
        }
        let checksum = xxh3_64_with_seed(bytes.get(8..).unwrap_or_default(), seed);
        if let Some(field) = bytes.first_chunk_mut() {
            *field = checksum.to_le_bytes();
        }
        (bytes, checksum)
    }

    /// Reads and checks the header at the start of `bytes`, with its checksum.
    pub(crate) fn parse(bytes: &[u8], seed: u64) -> Option<(Self, u64)> {
        let bytes = bytes.get(..BATCH_HEADER_BYTES)?;
        if u32_at(bytes, 8)? != MAGIC {
            return None;
        }
        let checksum = u64_at(bytes, 0)?;
        if checksum != xxh3_64_with_seed(bytes.get(8..)?, seed) {
            return None;
        }
        let kind = match bytes.get(12)? {
            1 => BatchKind::Records,
            2 => BatchKind::Mark,
            3 => BatchKind::Filler,
            _ => return None,
        };
        let header = Self {
            kind,
            run: u64_at(bytes, 16)?,
            link: u64_at(bytes, 24)?,
            number: u64_at(bytes, 32)?,
            claim: u64_at(bytes, 40)?,
            first_sequence: u64_at(bytes, 48)?,
            body_bytes: u32_at(bytes, 56)?,
            records: u32_at(bytes, 60)?,
            body_checksum: u64_at(bytes, 64)?,
            oldest: u32::try_from(u64_at(bytes, 72)?).ok()?,
        };
        Some((header, checksum))
    }

    /// What the batch takes in its segment.
    pub(crate) fn batch_bytes(&self) -> u64 {
        batch_bytes(u64::from(self.body_bytes))
    }

    /// The sequence number after its last record.
    pub(crate) fn end_sequence(&self) -> u64 {
        self.first_sequence.saturating_add(u64::from(self.records))
    }
}

/// What a batch with a body of `body_bytes` takes in its segment.
pub(crate) fn batch_bytes(body_bytes: u64) -> u64 {
    (BATCH_HEADER_BYTES as u64 + body_bytes).next_multiple_of(BATCH_ALIGN)
}

/// A group's line in a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// The group.
    pub group: GroupId,
    /// Sequence number of its last record.
    pub last: u64,
    /// Whether corruption hit it.
    pub hit: bool,
}

/// Encodes the body of a mark.
pub(crate) fn encode_tails(tails: impl Iterator<Item = Tail>) -> Vec<u8> {
    let mut body = Vec::new();
    for tail in tails {
        let flags = if tail.hit { FLAG_HIT } else { 0 };
        for word in [tail.group.range.0, tail.group.replica.0, tail.last, flags] {
            body.extend_from_slice(&word.to_le_bytes());
        }
    }
    body
}

/// Checks and reads the body of a mark.
pub(crate) fn parse_tails(header: &BatchHeader, body: &[u8], seed: u64) -> Option<Vec<Tail>> {
    if xxh3_64_with_seed(body, seed) != header.body_checksum {
        return None;
    }
    let lines = body.chunks_exact(TAIL_BYTES);
    if !lines.remainder().is_empty() {
        return None;
    }
    lines
        .map(|line| {
            Some(Tail {
                group: GroupId {
                    range: RangeId(u64_at(line, 0)?),
                    replica: ReplicaId(u64_at(line, 8)?),
                },
                last: u64_at(line, 16)?,
                hit: u64_at(line, 24)? & FLAG_HIT != 0,
            })
        })
        .collect()
}

/// The checksum of a mark's body.
pub(crate) fn body_checksum(body: &[u8], seed: u64) -> u64 {
    xxh3_64_with_seed(body, seed)
}
