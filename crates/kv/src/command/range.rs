//! Operations on the range itself; only its leader and the placement of the cluster propose them.

use std::time::Duration;

use holdfast_model::{History, KeyspaceId, RangeEpoch, RangeId, Span};
use prost::Message;

/// Removes what is due: keys, leases, locks, idle sessions, in the order of their time.
///
/// It names nothing: apply takes what the expiry index holds at the entry's range time.
#[derive(Clone, PartialEq, Message)]
pub struct Expire {
    /// Stop after this many removed keys and examined index entries; at least one is handled.
    #[prost(uint32, tag = "1")]
    pub keys_max: u32,
}

/// Gives up history before a revision.
#[derive(Clone, PartialEq, Message)]
pub struct Compact {
    /// The oldest revision that stays readable.
    #[prost(uint64, tag = "1")]
    pub revision: u64,
}

/// Sets the range's own truth.
///
/// Refused where `epoch` is lower than the range's, or equal with another span.
#[derive(Clone, PartialEq, Message)]
pub struct Configure {
    /// The range's id; must not change once set.
    #[prost(uint64, tag = "1")]
    pub range: u64,
    /// The keyspace it belongs to; must not change once set.
    #[prost(uint64, tag = "2")]
    pub keyspace: u64,
    /// First position of its span.
    #[prost(fixed64, tag = "3")]
    pub span_start: u64,
    /// First position after its span; 0 means the top of the ring.
    #[prost(fixed64, tag = "4")]
    pub span_end: u64,
    /// How often the span has changed, counted from 1.
    #[prost(uint64, tag = "5")]
    pub epoch: u64,
    /// The apply behaviour of the range from here on; 0 keeps what it has. Never lowered.
    #[prost(uint32, tag = "6")]
    pub apply_version: u32,
    /// How long old versions stay; none means the default.
    #[prost(oneof = "HistorySetting", tags = "10, 11, 12, 13")]
    pub history: Option<HistorySetting>,
}

impl Configure {
    /// The configuration of a range.
    pub fn new(
        range: RangeId,
        keyspace: KeyspaceId,
        span: Span,
        epoch: RangeEpoch,
        history: History,
    ) -> Self {
        Self {
            range: range.0,
            keyspace: keyspace.0,
            span_start: span.start,
            span_end: span.end,
            epoch: epoch.0,
            apply_version: super::APPLY_VERSION,
            history: Some(history.into()),
        }
    }
}

/// `model::History` as it is logged and stored.
#[derive(Clone, Copy, PartialEq, prost::Oneof)]
pub enum HistorySetting {
    /// Only the newest version of each key.
    #[prost(message, tag = "10")]
    Latest(()),
    /// Versions newer than this much range time, milliseconds.
    #[prost(uint64, tag = "11")]
    DurationMs(u64),
    /// The last so many revisions.
    #[prost(uint64, tag = "12")]
    Revisions(u64),
    /// All, until a [`Compact`].
    #[prost(message, tag = "13")]
    Manual(()),
}

impl From<History> for HistorySetting {
    fn from(history: History) -> Self {
        match history {
            History::Latest => Self::Latest(()),
            History::Duration(d) => {
                Self::DurationMs(u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
            }
            History::Revisions(count) => Self::Revisions(count),
            History::Manual => Self::Manual(()),
        }
    }
}

impl From<HistorySetting> for History {
    fn from(setting: HistorySetting) -> Self {
        match setting {
            HistorySetting::Latest(()) => Self::Latest,
            HistorySetting::DurationMs(ms) => Self::Duration(Duration::from_millis(ms)),
            HistorySetting::Revisions(count) => Self::Revisions(count),
            HistorySetting::Manual(()) => Self::Manual,
        }
    }
}
