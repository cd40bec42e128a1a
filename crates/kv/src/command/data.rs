//! Operations on single keys and intervals of keys.

use bytes::Bytes;
use prost::Message;

/// What must hold for a put or delete to be carried out.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Condition {
    /// The key does not exist.
    #[prost(message, tag = "10")]
    IfAbsent(()),
    /// The key's newest revision is this one; 0 means the key does not exist.
    #[prost(uint64, tag = "11")]
    IfRevision(u64),
    /// The key exists and has this value.
    #[prost(bytes = "bytes", tag = "12")]
    IfValue(Bytes),
}

/// Stores a value under a key.
#[derive(Clone, PartialEq, Message)]
pub struct Put {
    /// The key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// The value.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
    /// Time to live in milliseconds of range time; 0 means for ever.
    #[prost(uint64, tag = "3")]
    pub ttl_ms: u64,
    /// The lease the key is attached to; 0 means none, and detaches the key from an earlier one.
    #[prost(fixed64, tag = "4")]
    pub lease: u64,
    /// Whether the outcome carries the entry that was replaced.
    #[prost(bool, tag = "5")]
    pub return_previous: bool,
    /// What must hold; none means always.
    #[prost(oneof = "Condition", tags = "10, 11, 12")]
    pub condition: Option<Condition>,
}

/// Removes a key; removing a missing key succeeds and changes nothing.
#[derive(Clone, PartialEq, Message)]
pub struct Delete {
    /// The key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Whether the outcome carries the entry that was removed.
    #[prost(bool, tag = "2")]
    pub return_previous: bool,
    /// What must hold; none means always.
    #[prost(oneof = "Condition", tags = "10, 11, 12")]
    pub condition: Option<Condition>,
}

/// Removes all keys of `[start, end)` in one revision.
///
/// Refused, with nothing removed, where that would be more than
/// [`RANGE_DELETE_KEYS_MAX`](holdfast_model::limits::RANGE_DELETE_KEYS_MAX) keys.
#[derive(Clone, PartialEq, Message)]
pub struct DeleteRange {
    /// First key.
    #[prost(bytes = "bytes", tag = "1")]
    pub start: Bytes,
    /// First key after the interval; empty means to the end of the range.
    #[prost(bytes = "bytes", tag = "2")]
    pub end: Bytes,
    /// Whether a transaction's result carries the removed entries (bounded, see `Refusal`).
    #[prost(bool, tag = "3")]
    pub return_previous: bool,
}

/// Adds to a number kept as decimal text; a missing key counts as 0.
///
/// The key keeps its lease, and its expiry unless `ttl_ms` gives another.
#[derive(Clone, PartialEq, Message)]
pub struct Increment {
    /// The key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// What to add.
    #[prost(sint64, tag = "2")]
    pub delta: i64,
    /// Time to live in milliseconds of range time; 0 keeps what the key has.
    #[prost(uint64, tag = "3")]
    pub ttl_ms: u64,
}
