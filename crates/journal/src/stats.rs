//! What a journal tells of itself.

use std::time::Duration;

/// Upper bounds of the counts in [`SyncTimes`]; the last count has none.
pub const SYNC_TIMES: [Duration; 12] = [
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(200),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_secs(1),
];

/// How long syncs of segment content took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncTimes {
    /// Syncs that took at most as long as the bound of the same place in [`SYNC_TIMES`], and longer
    /// than the bound before; the last one counts those that took longer than all bounds.
    pub counts: [u64; SYNC_TIMES.len() + 1],
    /// All of them together.
    pub total: Duration,
}

/// Counters of a journal's life since it was opened, and sizes as they are now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Records written.
    pub records_written: u64,
    /// Batches written, marks and fillers included.
    pub batches_written: u64,
    /// Bytes written, headers and padding included.
    pub bytes_written: u64,
    /// Marks written.
    pub marks_written: u64,
    /// Syncs of segment content.
    pub syncs: u64,
    /// How long they took.
    pub sync_times: SyncTimes,
    /// Live records moved out of the oldest segment.
    pub rewritten_records: u64,
    /// Bytes of them.
    pub rewritten_bytes: u64,
    /// Appends and groups refused for want of room.
    pub refused: u64,
    /// Segment files made; those used again are not counted.
    pub segments_made: u64,
    /// Segments that became free.
    pub segments_freed: u64,
    /// Segments in use.
    pub segments_used: u64,
    /// Segments prepared.
    pub segments_spare: u64,
    /// Bytes of records that are needed.
    pub live_bytes: u64,
    /// Bytes of cached payloads.
    pub cached_bytes: u64,
    /// Bytes of records that wait to be written.
    pub queued_bytes: u64,
    /// Groups.
    pub groups: u64,
    /// Groups that corruption hit, and that wait for their end.
    pub hit_groups: u64,
    /// Whether the disk had no room for another segment when it was asked last.
    pub disk_full: bool,
}

impl Stats {
    /// Counts a sync.
    pub(crate) fn note_sync(&mut self, took: Duration) {
        self.syncs += 1;
        let times = &mut self.sync_times;
        let at = SYNC_TIMES.partition_point(|bound| *bound < took);
        if let Some(count) = times.counts.get_mut(at) {
            *count += 1;
        }
        times.total += took;
    }
}
