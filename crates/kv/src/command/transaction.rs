//! Transactions: compares, then one of two lists of steps.

use bytes::Bytes;
use prost::Message;

use super::{Delete, DeleteRange, Increment, Put};

/// If all compares hold, `success` is carried out, else `failure`; all in one revision.
///
/// Steps run in order and see what earlier steps wrote. A key is written at most once. Where one
/// step is refused the whole transaction is, and nothing changes.
#[derive(Clone, PartialEq, Message)]
pub struct Txn {
    /// What is asked first; an empty list holds.
    #[prost(message, repeated, tag = "1")]
    pub compares: Vec<Compare>,
    /// Steps where all compares hold.
    #[prost(message, repeated, tag = "2")]
    pub success: Vec<TxnStep>,
    /// Steps where one does not.
    #[prost(message, repeated, tag = "3")]
    pub failure: Vec<TxnStep>,
}

/// One question about a key, or about every key of an interval.
///
/// A missing key has revision, create revision, version and lease 0; it never satisfies a
/// comparison of values.
#[derive(Clone, PartialEq, Message)]
pub struct Compare {
    /// The key, or the first key of the interval.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// First key after the interval; empty means the one key alone.
    #[prost(bytes = "bytes", tag = "2")]
    pub end: Bytes,
    /// How the entry's figure must relate to the given one.
    #[prost(enumeration = "Comparison", tag = "3")]
    pub comparison: i32,
    /// Which figure, and what to compare it with.
    #[prost(oneof = "CompareTarget", tags = "10, 11, 12, 13, 14, 15")]
    pub target: Option<CompareTarget>,
}

/// How two figures must relate: entry's figure, comparison, given figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Comparison {
    /// Same.
    Equal = 0,
    /// Not the same.
    NotEqual = 1,
    /// The entry's is greater.
    Greater = 2,
    /// The entry's is less.
    Less = 3,
}

/// Which figure of an entry is compared, and with what.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum CompareTarget {
    /// Revision of the newest version.
    #[prost(uint64, tag = "10")]
    Revision(u64),
    /// Revision of the first version.
    #[prost(uint64, tag = "11")]
    CreateRevision(u64),
    /// Number of versions since the key was created.
    #[prost(uint64, tag = "12")]
    Version(u64),
    /// The lease the key is attached to.
    #[prost(fixed64, tag = "13")]
    Lease(u64),
    /// The value, bytewise.
    #[prost(bytes = "bytes", tag = "14")]
    Value(Bytes),
    /// Whether the key exists (only `Equal` and `NotEqual`).
    #[prost(bool, tag = "15")]
    Exists(bool),
}

/// One step of a transaction.
#[derive(Clone, PartialEq, Message)]
pub struct TxnStep {
    /// What to do. Decodes to `None` where this build does not know it.
    #[prost(oneof = "TxnOperation", tags = "1, 2, 3, 4, 5, 6, 7")]
    pub operation: Option<TxnOperation>,
}

/// What a step of a transaction can do. Puts and deletes in it carry no condition.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum TxnOperation {
    /// Reads a key.
    #[prost(message, tag = "1")]
    Get(Get),
    /// Reads an interval.
    #[prost(message, tag = "2")]
    Range(RangeRead),
    /// Stores a value.
    #[prost(message, tag = "3")]
    Put(Put),
    /// Removes a key.
    #[prost(message, tag = "4")]
    Delete(Delete),
    /// Removes an interval.
    #[prost(message, tag = "5")]
    DeleteRange(DeleteRange),
    /// Adds to a number.
    #[prost(message, tag = "6")]
    Increment(Increment),
    /// A transaction inside the transaction: same revision.
    #[prost(message, tag = "7")]
    Txn(Txn),
}

impl From<TxnOperation> for TxnStep {
    fn from(operation: TxnOperation) -> Self {
        Self { operation: Some(operation) }
    }
}

/// Reads one key inside a transaction.
#[derive(Clone, PartialEq, Message)]
pub struct Get {
    /// The key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
}

/// Reads the keys of `[start, end)` inside a transaction, in ascending order.
#[derive(Clone, PartialEq, Message)]
pub struct RangeRead {
    /// First key.
    #[prost(bytes = "bytes", tag = "1")]
    pub start: Bytes,
    /// First key after the interval; empty means to the end of the range.
    #[prost(bytes = "bytes", tag = "2")]
    pub end: Bytes,
    /// Most entries to return; 0 means the ceiling (see `limits::SCAN_PAGE_KEYS_MAX`).
    #[prost(uint32, tag = "3")]
    pub limit: u32,
    /// Whether values are left out.
    #[prost(bool, tag = "4")]
    pub keys_only: bool,
}
