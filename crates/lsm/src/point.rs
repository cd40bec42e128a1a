//! The published read point: three words that many read and one writer replaces.

use std::sync::atomic::fence;

use holdfast_env::sync::{AtomicU64, Ordering, spin_loop};
use holdfast_model::{LogIndex, Revision};

use crate::types::ReadPoint;

/// A sequence lock: readers never write and retry only while a store is under way.
#[derive(Debug, Default)]
pub(crate) struct PublishedPoint {
    /// Odd while the words are being replaced.
    stamp: AtomicU64,
    revision: AtomicU64,
    index: AtomicU64,
    clock_ms: AtomicU64,
}

impl PublishedPoint {
    /// The newest point. Everything written before it was published is visible afterwards.
    pub(crate) fn load(&self) -> ReadPoint {
        loop {
            let before = self.stamp.load(Ordering::Acquire);
            let point = ReadPoint {
                revision: Revision(self.revision.load(Ordering::Relaxed)),
                index: LogIndex(self.index.load(Ordering::Relaxed)),
                clock_ms: self.clock_ms.load(Ordering::Relaxed),
            };
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && before == self.stamp.load(Ordering::Relaxed) {
                return point;
            }
            spin_loop();
        }
    }

    /// Replaces the point. Only one thread at a time may store.
    pub(crate) fn store(&self, point: ReadPoint) {
        let stamp = self.stamp.load(Ordering::Relaxed);
        self.stamp.store(stamp + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        self.revision.store(point.revision.0, Ordering::Relaxed);
        self.index.store(point.index.0, Ordering::Relaxed);
        self.clock_ms.store(point.clock_ms, Ordering::Relaxed);
        self.stamp.store(stamp + 2, Ordering::Release);
    }
}
