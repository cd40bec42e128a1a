//! The record: one entry, vote or event of one group.
//!
//! Owns: the layout below, its checksum.
//! Must never know: where records lie, what a payload says.
//! Invariants:
//! * A record verifies only at the offset of the segment it was written to.
//! * A record is a multiple of 8 bytes long.
//!
//! ```text
//! offset bytes field
//!      0     8 checksum   xxh3-64 of bytes 8.. up to the end of the payload,
//!                         seeded with segment seed + offset of the record
//!      8     4 length     of the payload
//!     12     1 kind       see Kind
//!     13     1 rewritten  1: moved here out of the oldest segment
//!     14     2 zero
//!     16     8 range      of the group
//!     24     8 replica    of the group
//!     32     8 previous   sequence number of the group's previous record; 0: none
//!     40     8 term       entry, purge, committed: the log position, else 0
//!     48     8 leader     ditto
//!     56     8 index      ditto; truncate: the first index removed
//!     64     n payload    entry, vote, created; else empty; then zeros to a multiple of 8
//! ```
//!
//! One record per entry, although entries of one append could share a header: the record is the
//! unit that is checked, read, moved and linked, and 64 bytes buy that everywhere. A record has a
//! sequence number, counted up from 1 over the journal's life; the batch around it gives the first.
//!
//! A moved ("rewrite") record means what it meant before. An entry is inserted by its index and
//! truncates nothing; a vote yields to every later vote, because records are replayed in order.

use holdfast_model::{RangeId, ReplicaId};
use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

use crate::bytes_at::{u32_at, u64_at};
use crate::group::{GroupId, LogPosition};

/// Bytes before the payload.
pub(crate) const RECORD_HEADER_BYTES: usize = 64;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum RecordKind {
    /// An entry of the group's log.
    Entry = 1,
    /// The group's vote.
    Vote = 2,
    /// Entries from `index` on are gone.
    Truncate = 3,
    /// Entries up to the position are gone.
    Purge = 4,
    /// The position known to be committed.
    Committed = 5,
    /// The group begins; the payload is its descriptor.
    Created = 6,
    /// The group ends.
    Destroyed = 7,
}

impl RecordKind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Entry,
            2 => Self::Vote,
            3 => Self::Truncate,
            4 => Self::Purge,
            5 => Self::Committed,
            6 => Self::Created,
            7 => Self::Destroyed,
            _ => return None,
        })
    }
}

/// The fields before the payload, without checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) kind: RecordKind,
    pub(crate) rewritten: bool,
    pub(crate) group: GroupId,
    pub(crate) previous: u64,
    pub(crate) position: LogPosition,
    pub(crate) payload_bytes: u32,
}

/// What a record with a payload of `payload_bytes` takes in a segment.
pub(crate) fn record_bytes(payload_bytes: usize) -> usize {
    RECORD_HEADER_BYTES + payload_bytes.next_multiple_of(8)
}

impl RecordHeader {
    /// The header with an empty checksum: it can be filled in once the record's place is known.
    pub(crate) fn encode(&self) -> [u8; RECORD_HEADER_BYTES] {
        let mut bytes = [0; RECORD_HEADER_BYTES];
        let words = [
            0,
            u64::from(self.payload_bytes)
                | (self.kind as u64) << 32
                | u64::from(self.rewritten) << 40,
            self.group.range.0,
            self.group.replica.0,
            self.previous,
            self.position.term,
            self.position.leader,
            self.position.index,
        ];
        for (field, word) in bytes.chunks_exact_mut(8).zip(words) {
            field.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let rewritten = match bytes.get(13)? {
            0 => false,
            1 => true,
            _ => return None,
        };
        Some(Self {
            kind: RecordKind::from_byte(*bytes.get(12)?)?,
            rewritten,
            group: GroupId {
                range: RangeId(u64_at(bytes, 16)?),
                replica: ReplicaId(u64_at(bytes, 24)?),
            },
            previous: u64_at(bytes, 32)?,
            position: LogPosition {
                term: u64_at(bytes, 40)?,
                leader: u64_at(bytes, 48)?,
                index: u64_at(bytes, 56)?,
            },
            payload_bytes: u32_at(bytes, 8)?,
        })
    }
}

/// The checksum of a record that lies in one piece; `bytes` ends with its payload.
pub(crate) fn checksum(seed: u64, bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes.get(8..).unwrap_or_default(), seed)
}

/// The checksum of a record whose payload lies elsewhere.
pub(crate) fn checksum_in_two(seed: u64, header: &[u8], payload: &[u8]) -> u64 {
    let mut hasher = Xxh3::with_seed(seed);
    hasher.update(header.get(8..).unwrap_or_default());
    hasher.update(payload);
    hasher.digest()
}

/// A record that verified.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordView<'a> {
    pub(crate) header: RecordHeader,
    pub(crate) payload: &'a [u8],
    /// Length with padding.
    pub(crate) bytes: usize,
}

/// The length with padding that the record at the start of `bytes` claims, if it fits in.
pub(crate) fn claimed_bytes(bytes: &[u8]) -> Option<usize> {
    let payload = usize::try_from(u32_at(bytes, 8)?).ok()?;
    let length = RECORD_HEADER_BYTES.checked_add(payload.checked_next_multiple_of(8)?)?;
    (length <= bytes.len()).then_some(length)
}

/// Checks and reads the record at the start of `bytes`; `None` if it is not what was written.
pub(crate) fn parse(bytes: &[u8], seed: u64) -> Option<RecordView<'_>> {
    let record = parse_checked(bytes)?;
    let checked = bytes.get(..RECORD_HEADER_BYTES + record.payload.len())?;
    (u64_at(bytes, 0)? == checksum(seed, checked)).then_some(record)
}

/// Reads the record at the start of `bytes`, whose checksum was found to match before.
pub(crate) fn parse_checked(bytes: &[u8]) -> Option<RecordView<'_>> {
    let length = claimed_bytes(bytes)?;
    let payload_bytes = usize::try_from(u32_at(bytes, 8)?).ok()?;
    let checked = bytes.get(..RECORD_HEADER_BYTES + payload_bytes)?;
    let payload = checked.get(RECORD_HEADER_BYTES..)?;
    Some(RecordView { header: RecordHeader::decode(checked)?, payload, bytes: length })
}
