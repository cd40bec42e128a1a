//! The journal's options and fixed limits.

use std::time::Duration;

use holdfast_model::limits::PEER_MESSAGE_BYTES_MAX;

use crate::batch::BATCH_HEADER_BYTES;
use crate::error::{Error, Result};
use crate::segment::SEGMENT_HEADER_BYTES;

/// Longest vote, bytes.
pub const VOTE_BYTES_MAX: usize = 64;
/// Longest group descriptor, bytes.
pub const DESCRIPTOR_BYTES_MAX: usize = 4 * 1024;
/// Client writes are refused when this share of the limit is used, percent.
pub const CLIENT_USAGE_PERCENT_MAX: u64 = 90;
/// Smallest segment, bytes.
pub const SEGMENT_BYTES_MIN: u64 = 32 * 1024;
/// Largest segment, bytes: offsets are 32 bits wide.
pub const SEGMENT_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Fewest segments the limit must allow: one in use, one reserved, two to turn around in.
pub const SEGMENTS_MIN: u64 = 4;
/// Prepared segments waiting for use: one is the reserve, one lets the writer rotate at once.
pub(crate) const SPARES: usize = 2;
/// Of all segments one in so many may wait for its next use, instead of being deleted and made
/// again when the log grows and shrinks.
const SPARE_SHARE: usize = 8;
/// Most bytes moved for each byte that died, where the journal is nearly full.
pub(crate) const REWRITE_FACTOR_MAX: u64 = 4;
/// Bytes of one entry of a group's list in a mark.
pub(crate) const TAIL_BYTES: usize = 32;
/// Most live bytes moved out of the oldest segment in one step.
pub(crate) const REWRITE_BYTES_PER_STEP: u64 = 1024 * 1024;
/// How much of a fresh segment is filled with zeros in one step; while there is something to
/// write, one step for as many bytes written.
pub(crate) const ZERO_BYTES_PER_STEP: u64 = 512 * 1024;
/// How long to wait before a segment is asked of a full disk again.
pub(crate) const SPACE_RETRY: Duration = Duration::from_millis(500);

/// How a journal behaves. Sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalOptions {
    /// Size of a segment file.
    pub segment_bytes: u64,
    /// Size of all segment files together, the reserve included. Votes and truncations, which
    /// never fail for space, may take one segment more while dead ones are reclaimed.
    pub limit_bytes: u64,
    /// Payloads of recent entries kept in memory, beside those not written yet.
    pub cache_bytes: u64,
    /// Entries that may wait for the writer.
    pub queue_bytes_max: u64,
    /// What followers that lag behind may hold back of one group.
    pub retention_group_bytes: u64,
    /// A mark is written when nothing was written for this long after a burst.
    pub mark_delay: Duration,
}

impl Default for JournalOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 128 * 1024 * 1024,
            limit_bytes: 4 * 1024 * 1024 * 1024,
            cache_bytes: 64 * 1024 * 1024,
            queue_bytes_max: 64 * 1024 * 1024,
            retention_group_bytes: 64 * 1024 * 1024,
            mark_delay: Duration::from_millis(5),
        }
    }
}

impl JournalOptions {
    /// Checks every option.
    ///
    /// # Errors
    /// [`Error::Options`] names the first one that is out of bounds.
    pub fn validate(&self) -> Result<()> {
        let wrong = |option, reason| Err(Error::Options { option, reason });
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes) {
            return wrong("segment_bytes", "must be between 32 KiB and 1 GiB");
        }
        if !self.segment_bytes.is_multiple_of(4096) {
            return wrong("segment_bytes", "must be a multiple of 4096");
        }
        if self.limit_bytes / self.segment_bytes < SEGMENTS_MIN {
            return wrong("limit_bytes", "must hold four segments");
        }
        if self.queue_bytes_max == 0 || self.queue_bytes_max > self.segment_bytes {
            return wrong("queue_bytes_max", "must be between 1 and segment_bytes");
        }
        if self.mark_delay.is_zero() || self.mark_delay > Duration::from_millis(10) {
            return wrong("mark_delay", "must be above 0 and at most 10 ms");
        }
        Ok(())
    }

    /// Largest payload of one entry.
    pub fn entry_bytes_max(&self) -> usize {
        usize::try_from(self.segment_bytes / 4).unwrap_or(usize::MAX).min(PEER_MESSAGE_BYTES_MAX)
    }

    /// Most groups, so that their list never takes more than a quarter of a segment.
    pub fn groups_max(&self) -> usize {
        let list = self.segment_bytes / 4 - BATCH_HEADER_BYTES as u64;
        usize::try_from(list).unwrap_or(usize::MAX) / TAIL_BYTES
    }

    /// Most segment files.
    pub(crate) fn segments_max(&self) -> usize {
        usize::try_from(self.limit_bytes / self.segment_bytes).unwrap_or(usize::MAX)
    }

    /// Most files that are kept for their next use. More than are prepared: two segments may begin
    /// before the oldest ones are free, and would find their files deleted.
    pub(crate) fn spares_max(&self) -> usize {
        (self.segments_max() / SPARE_SHARE).max(2 * SPARES)
    }

    /// What one segment can hold at least, headers and its opening list taken off.
    pub(crate) fn segment_room(&self, groups: usize) -> u64 {
        let list = (BATCH_HEADER_BYTES + groups * TAIL_BYTES) as u64;
        self.segment_bytes.saturating_sub(SEGMENT_HEADER_BYTES + list.next_multiple_of(512))
    }
}
