//! Which data keys still belong to the tree after a part of it moved away.
//!
//! Invariants:
//! * A foreign key leaves only with a state that already knows it is foreign: a merge or flush
//!   uses the span if the durable state it ends in covers the entry that changed it. Earlier
//!   entries may have to be applied again after a crash, and must find what they found before.
//! * Readers hide foreign keys from that entry on; whether they are still there changes nothing.

use std::fmt;
use std::sync::Arc;

use holdfast_model::LogIndex;

use crate::types::ReadPoint;

/// Tells whether a key of [`Family::Data`](crate::Family::Data) belongs to the tree.
pub type Owns = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// A span and when it came into force.
#[derive(Clone)]
pub(crate) struct SpanFilter {
    /// Counts the changes of the span.
    pub(crate) epoch: u64,
    /// The entry that changed it.
    pub(crate) since: LogIndex,
    pub(crate) owns: Owns,
}

impl SpanFilter {
    /// Whether a state that ends at `point` knows of this span.
    pub(crate) fn is_known_at(&self, point: ReadPoint) -> bool {
        self.since <= point.index
    }
}

impl fmt::Debug for SpanFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpanFilter")
            .field("epoch", &self.epoch)
            .field("since", &self.since)
            .finish_non_exhaustive()
    }
}
