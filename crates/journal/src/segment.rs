//! The segment: one preallocated file of the journal.
//!
//! Owns: file names, the header below, the seed of every checksum in the file.
//! Must never know: groups.
//! Invariants:
//! * A segment's sequence number is never used again, not even for the same file.
//! * A file named `.journal` has, or once had, a durable header of that sequence number.
//!
//! ```text
//! offset bytes field
//!      0     8 magic      "HFJOURNL"
//!      8     4 version    1
//!     12     4 zero
//!     16     8 journal    random id of the journal, the same in all its segments
//!     24     8 sequence   of the segment, as in its name
//!     32     8 length     of the file
//!     40     8 first      sequence number of the first record to come
//!     48     8 number     of the first batch to come
//!     56     8 checksum   xxh3-64 of bytes 0..56
//!   4096       the same 64 bytes again, for the case that one block is lost
//!   8192       batches
//! ```
//!
//! Files are called `0000000000000007.fresh` until they are allocated and filled with zeros once,
//! so that `fdatasync` has only data to write; `.journal` in use; `.spare` when they wait for their
//! next use. Used ones become spare strictly oldest first.
//!
//! The seed of a segment is xxh3-64 of journal id and sequence number: content of an earlier use
//! of the file, of another segment or of another journal never verifies.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use holdfast_env::File;
use xxhash_rust::xxh3::xxh3_64;

use crate::batch::BLOCK_BYTES;
use crate::bytes_at::{u32_at, u64_at};

/// Where batches begin.
pub(crate) const SEGMENT_HEADER_BYTES: u64 = 2 * BLOCK_BYTES;
const HEADER_BYTES: usize = 64;
const CHECKED_BYTES: usize = 56;
const MAGIC: u64 = u64::from_le_bytes(*b"HFJOURNL");
const VERSION: u32 = 1;
const IN_USE: &str = "journal";
const SPARE: &str = "spare";
const FRESH: &str = "fresh";

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Random id of the journal.
    pub journal: u64,
    /// Sequence number of the segment.
    pub sequence: u32,
    /// Length of the file, bytes.
    pub segment_bytes: u64,
    /// Sequence number of the first record to come.
    pub first_sequence: u64,
    /// Number of the first batch to come.
    pub first_number: u64,
}

impl SegmentHeader {
    /// Everything before the first batch.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut copy = Vec::with_capacity(HEADER_BYTES);
        let words = [
            MAGIC,
            u64::from(VERSION),
            self.journal,
            u64::from(self.sequence),
            self.segment_bytes,
            self.first_sequence,
            self.first_number,
        ];
        for word in words {
            copy.extend_from_slice(&word.to_le_bytes());
        }
        copy.extend_from_slice(&xxh3_64(&copy).to_le_bytes());
        copy.resize(BLOCK_BYTES as usize, 0);
        copy.extend_from_within(..);
        copy
    }

    /// Reads either copy of the header; `None` if neither is whole or readable.
    pub(crate) fn read(file: &dyn File) -> Option<Self> {
        let copy = |offset| {
            let mut bytes = [0; HEADER_BYTES];
            file.read_exact_at(&mut bytes, offset).ok()?;
            Self::parse_copy(&bytes)
        };
        copy(0).or_else(|| copy(BLOCK_BYTES))
    }

    fn parse_copy(bytes: &[u8]) -> Option<Self> {
        let checked = bytes.get(..CHECKED_BYTES)?;
        let whole = u64_at(bytes, 0)? == MAGIC
            && u32_at(bytes, 8)? == VERSION
            && u64_at(bytes, CHECKED_BYTES)? == xxh3_64(checked);
        if !whole {
            return None;
        }
        Some(Self {
            journal: u64_at(bytes, 16)?,
            sequence: u32::try_from(u64_at(bytes, 24)?).ok()?,
            segment_bytes: u64_at(bytes, 32)?,
            first_sequence: u64_at(bytes, 40)?,
            first_number: u64_at(bytes, 48)?,
        })
    }
}

/// The seed of all checksums of a segment; the offset is added.
pub(crate) fn seed(journal: u64, sequence: u32) -> u64 {
    let mut bytes = [0; 16];
    let (id, number) = bytes.split_at_mut(8);
    id.copy_from_slice(&journal.to_le_bytes());
    number.copy_from_slice(&u64::from(sequence).to_le_bytes());
    xxh3_64(&bytes)
}

/// An open segment file.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) sequence: u32,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn File>,
    pub(crate) bytes: u64,
    pub(crate) seed: u64,
    /// Reads under way; the file is not used again before they end.
    pub(crate) readers: AtomicUsize,
}

impl Segment {
    /// The seed of what lies at `offset`.
    pub(crate) fn seed_at(&self, offset: u64) -> u64 {
        self.seed.wrapping_add(offset)
    }
}

/// A read under way: keeps the segment from being used again.
#[derive(Debug)]
pub(crate) struct Reading(Arc<Segment>);

impl Reading {
    /// Announces a read; to be called under the lock that also decides about using files again.
    pub(crate) fn begin(segment: &Arc<Segment>) -> Self {
        segment.readers.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(segment))
    }

    /// The segment read from.
    pub(crate) fn segment(&self) -> &Segment {
        &self.0
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.readers.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What a file in the journal's directory is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileName {
    InUse(u32),
    Spare(u32),
    Fresh(u32),
}

impl FileName {
    /// Understands a file name; `None` for files that are not the journal's.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let number = u64::from_str_radix(path.file_stem()?.to_str()?, 16).ok()?;
        let number = u32::try_from(number).ok()?;
        match path.extension()?.to_str()? {
            IN_USE => Some(Self::InUse(number)),
            SPARE => Some(Self::Spare(number)),
            FRESH => Some(Self::Fresh(number)),
            _ => None,
        }
    }

    /// The file's path.
    pub(crate) fn path(self, directory: &Path) -> PathBuf {
        let (number, extension) = match self {
            Self::InUse(number) => (number, IN_USE),
            Self::Spare(number) => (number, SPARE),
            Self::Fresh(number) => (number, FRESH),
        };
        directory.join(format!("{number:016x}.{extension}"))
    }
}
