//! What a range knows about itself: the truth that every map is only a copy of.

use holdfast_model::{History, KeyspaceId, RangeEpoch, RangeId, Span};

/// A range's span, epoch, keyspace and settings, as of its own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truth {
    /// The range.
    pub range: RangeId,
    /// The keyspace it belongs to.
    pub keyspace: KeyspaceId,
    /// The arc of the ring it owns.
    pub span: Span,
    /// How often the span has changed, counted from 1.
    pub epoch: RangeEpoch,
    /// How long old versions stay.
    pub history: History,
    /// The apply behaviour of the range.
    pub apply_version: u32,
}

impl Truth {
    /// Whether `key` lies in the range's span. Cost: one hash; none where the span is the ring.
    pub fn owns(&self, key: &[u8]) -> bool {
        self.owns_position(|| holdfast_model::position(key))
    }

    /// Whether a position lies in the range's span; it is asked for only where it matters.
    pub(crate) fn owns_position(&self, position: impl FnOnce() -> u64) -> bool {
        self.span == Span::ALL || self.span.contains(position())
    }
}
