//! Walking over batches of a segment.
//!
//! Owns: buffered reading, finding whole batch headers.
//! Invariants:
//! * What lies beyond the end of a file, or cannot be read, reads as zeros: it is damage, which
//!   concerns some groups, and no reason not to start.
//! * Nothing is taken for a batch that does not fit its segment.

use crate::batch::{BATCH_ALIGN, BATCH_HEADER_BYTES, BLOCK_BYTES, BatchHeader};
use crate::segment::Segment;

/// Bytes read at once. What follows is fetched while they are looked at.
const WINDOW_BYTES: u64 = 4 * 1024 * 1024;
/// How far ahead of the window the disk is asked to read.
const AHEAD_BYTES: u64 = 2 * WINDOW_BYTES;

/// A part of a segment in memory.
#[derive(Debug, Default)]
pub(crate) struct Window {
    segment: u32,
    start: u64,
    buffer: Vec<u8>,
    /// Bytes read so far, over all segments.
    pub(crate) scanned_bytes: u64,
}

impl Window {
    /// `length` bytes at `offset`.
    pub(crate) fn bytes(&mut self, segment: &Segment, offset: u64, length: u64) -> &[u8] {
        let held = self.segment == segment.sequence
            && offset >= self.start
            && offset + length <= self.start + self.buffer.len() as u64;
        if !held {
            self.load(segment, offset, length);
        }
        let at = usize::try_from(offset - self.start).unwrap_or(usize::MAX);
        let end = at.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
        self.buffer.get(at..end).unwrap_or_default()
    }

    fn load(&mut self, segment: &Segment, offset: u64, length: u64) {
        let wanted = length.max(WINDOW_BYTES).min(segment.bytes.saturating_sub(offset).max(length));
        let ahead = offset + wanted;
        segment.file.will_read(ahead, AHEAD_BYTES.min(segment.bytes.saturating_sub(ahead)));
        self.buffer.resize(usize::try_from(wanted).expect("a segment fits in memory"), 0);
        let mut done = 0;
        while let Some(rest) = self.buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match segment.file.read_at(rest, offset + done as u64) {
                Ok(0) => {
                    rest.fill(0);
                    break;
                }
                Ok(n) => done += n,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => {
                    done += skip_bad_block(segment, rest, offset + done as u64);
                }
            }
        }
        self.segment = segment.sequence;
        self.start = offset;
        self.scanned_bytes += done as u64;
    }

    /// The whole header at `offset`, with its checksum.
    pub(crate) fn header_at(
        &mut self,
        segment: &Segment,
        offset: u64,
    ) -> Option<(BatchHeader, u64)> {
        if offset + BATCH_ALIGN > segment.bytes {
            return None;
        }
        let bytes = self.bytes(segment, offset, BATCH_HEADER_BYTES as u64);
        let found = BatchHeader::parse(bytes, segment.seed_at(offset));
        found.filter(|(header, _)| offset + header.batch_bytes() <= segment.bytes)
    }

    /// The first whole header at or after `offset`.
    pub(crate) fn next_header(
        &mut self,
        segment: &Segment,
        mut offset: u64,
    ) -> Option<(u64, BatchHeader, u64)> {
        while offset + BATCH_ALIGN <= segment.bytes {
            if let Some((header, checksum)) = self.header_at(segment, offset) {
                return Some((offset, header, checksum));
            }
            offset += BATCH_ALIGN;
        }
        None
    }
}

/// Reads the block at the start of `rest` sector by sector, leaving zeros where that fails.
/// Returns how far that went.
fn skip_bad_block(segment: &Segment, rest: &mut [u8], offset: u64) -> usize {
    let end = (offset + 1).next_multiple_of(BLOCK_BYTES) - offset;
    let length = rest.len().min(usize::try_from(end).unwrap_or(usize::MAX));
    let mut at = offset;
    for sector in rest.get_mut(..length).unwrap_or_default().chunks_mut(BATCH_ALIGN as usize) {
        if segment.file.read_exact_at(sector, at).is_err() {
            sector.fill(0);
        }
        at += sector.len() as u64;
    }
    length
}
