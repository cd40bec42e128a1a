//! Transactions as etcd's protocol means them.
//!
//! They differ from [`Txn`](super::Txn) in when questions are asked: every compare, those of nested
//! transactions too, sees the state before the first step. Keys are named as etcd names them, see
//! [`EtcdKeys`]; figures are signed, since its clients send negative ones.

use bytes::Bytes;
use prost::Message;

use super::Comparison;

/// Deepest nesting of an etcd transaction; bounds the recursion of whoever walks one.
pub const ETCD_DEPTH_MAX: usize = 32;

/// The range end that stands for all keys from the first one on.
const TO_THE_END: &[u8] = &[0];

/// If all compares hold, `success` is carried out, else `failure`; all in one revision.
///
/// The branches of nested transactions are chosen before the first step as well. Steps run in
/// order and see what earlier ones wrote. Where one is refused nothing changes.
#[derive(Clone, PartialEq, Message)]
pub struct EtcdTxn {
    /// What is asked first; an empty list holds.
    #[prost(message, repeated, tag = "1")]
    pub compares: Vec<EtcdCompare>,
    /// Steps where all compares hold.
    #[prost(message, repeated, tag = "2")]
    pub success: Vec<EtcdStep>,
    /// Steps where one does not.
    #[prost(message, repeated, tag = "3")]
    pub failure: Vec<EtcdStep>,
}

/// One question about a key, or about every key of an interval.
///
/// Where there is no key it is asked of an entry of zeros; a comparison of values then is false.
#[derive(Clone, PartialEq, Message)]
pub struct EtcdCompare {
    /// The key, or the first key of the interval.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// See [`EtcdKeys`].
    #[prost(bytes = "bytes", tag = "2")]
    pub range_end: Bytes,
    /// How the entry's figure must relate to the given one.
    #[prost(enumeration = "Comparison", tag = "3")]
    pub comparison: i32,
    /// Which figure, and what to compare it with.
    #[prost(oneof = "EtcdTarget", tags = "10, 11, 12, 13, 14")]
    pub target: Option<EtcdTarget>,
}

/// Which figure of an entry is compared, and with what.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum EtcdTarget {
    /// Number of versions since the key was created.
    #[prost(int64, tag = "10")]
    Version(i64),
    /// Revision of the first version.
    #[prost(int64, tag = "11")]
    CreateRevision(i64),
    /// Revision of the newest version.
    #[prost(int64, tag = "12")]
    ModRevision(i64),
    /// The value, bytewise.
    #[prost(bytes = "bytes", tag = "13")]
    Value(Bytes),
    /// The lease the key is attached to, as a signed number.
    #[prost(int64, tag = "14")]
    Lease(i64),
}

/// One step of a transaction.
#[derive(Clone, PartialEq, Message)]
pub struct EtcdStep {
    /// What to do. Decodes to `None` where this build does not know it.
    #[prost(oneof = "EtcdOperation", tags = "1, 2, 3, 4")]
    pub operation: Option<EtcdOperation>,
}

/// What a step can do.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum EtcdOperation {
    /// Reads keys.
    #[prost(message, tag = "1")]
    Range(EtcdRange),
    /// Stores a value.
    #[prost(message, tag = "2")]
    Put(EtcdPut),
    /// Removes keys.
    #[prost(message, tag = "3")]
    DeleteRange(EtcdDelete),
    /// A transaction inside the transaction: same revision.
    #[prost(message, tag = "4")]
    Txn(EtcdTxn),
}

impl From<EtcdOperation> for EtcdStep {
    fn from(operation: EtcdOperation) -> Self {
        Self { operation: Some(operation) }
    }
}

/// Reads keys, filters, sorts and cuts them, in that order.
#[derive(Clone, PartialEq, Message)]
pub struct EtcdRange {
    /// The key, or the first key of the interval.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// See [`EtcdKeys`].
    #[prost(bytes = "bytes", tag = "2")]
    pub range_end: Bytes,
    /// Most entries to return; 0 and less mean all.
    #[prost(int64, tag = "3")]
    pub limit: i64,
    /// The revision to read at; 0 and less mean the newest, the transaction's own changes included.
    #[prost(int64, tag = "4")]
    pub revision: i64,
    /// In which direction entries are sorted.
    #[prost(enumeration = "EtcdOrder", tag = "5")]
    pub order: i32,
    /// By which figure entries are sorted.
    #[prost(enumeration = "EtcdSort", tag = "6")]
    pub sort: i32,
    /// Whether values are left out; leases too, unless entries are sorted by value.
    #[prost(bool, tag = "7")]
    pub keys_only: bool,
    /// Whether the entries are left out; only their number is told.
    #[prost(bool, tag = "8")]
    pub count_only: bool,
    /// Leaves out entries whose newest version is older; 0 leaves out none.
    #[prost(int64, tag = "9")]
    pub min_mod_revision: i64,
    /// Leaves out entries whose newest version is younger; 0 leaves out none.
    #[prost(int64, tag = "10")]
    pub max_mod_revision: i64,
    /// Leaves out entries that were created earlier; 0 leaves out none.
    #[prost(int64, tag = "11")]
    pub min_create_revision: i64,
    /// Leaves out entries that were created later; 0 leaves out none.
    #[prost(int64, tag = "12")]
    pub max_create_revision: i64,
    /// Where not 0, part of a range is wanted: keys are not counted, and the answer ends when it
    /// weighs so many bytes; `more` then tells whether keys follow. Never empty while they do.
    #[prost(uint64, tag = "13")]
    pub part_bytes: u64,
}

/// In which direction entries are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum EtcdOrder {
    /// As the keys come; another figure than the key then sorts the first `limit` keys and the one
    /// after them upwards.
    None = 0,
    /// Upwards.
    Ascend = 1,
    /// Downwards.
    Descend = 2,
}

/// By which figure entries are sorted; entries that are equal in it stay in the order of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum EtcdSort {
    /// The key.
    Key = 0,
    /// The number of versions.
    Version = 1,
    /// The revision of the first version.
    Create = 2,
    /// The revision of the newest version.
    Mod = 3,
    /// The value.
    Value = 4,
}

/// Stores a value, or moves a key to another lease.
#[derive(Clone, PartialEq, Message)]
pub struct EtcdPut {
    /// The key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// The value; empty with `ignore_value`.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
    /// The lease; 0 detaches the key, and goes with `ignore_lease`.
    #[prost(fixed64, tag = "3")]
    pub lease: u64,
    /// Whether the result carries the entry that was replaced.
    #[prost(bool, tag = "4")]
    pub return_previous: bool,
    /// Keeps the value; refused where the key is missing.
    #[prost(bool, tag = "5")]
    pub ignore_value: bool,
    /// Keeps the lease; refused where the key is missing.
    #[prost(bool, tag = "6")]
    pub ignore_lease: bool,
}

/// Removes a key or the keys of an interval.
#[derive(Clone, PartialEq, Message)]
pub struct EtcdDelete {
    /// The key, or the first key of the interval.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// See [`EtcdKeys`].
    #[prost(bytes = "bytes", tag = "2")]
    pub range_end: Bytes,
    /// Whether the result carries the removed entries.
    #[prost(bool, tag = "3")]
    pub return_previous: bool,
}

/// The keys that a key and a range end name in etcd's protocol.
///
/// No range end names the one key; a range end of one zero byte, all keys from the key on; any
/// other, the keys before it. An end at or before the key names none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EtcdKeys {
    /// One key.
    One(Bytes),
    /// From the first to before the second; an empty second is no end.
    Interval(Bytes, Bytes),
}

impl EtcdKeys {
    /// The keys of a pair.
    pub fn of(key: &Bytes, range_end: &Bytes) -> Self {
        match range_end.as_ref() {
            [] => Self::One(key.clone()),
            TO_THE_END => Self::Interval(key.clone(), Bytes::new()),
            _ => Self::Interval(key.clone(), range_end.clone()),
        }
    }
}

impl EtcdTxn {
    /// Whether a step of either branch stores something.
    pub fn stores(&self) -> bool {
        self.success.iter().chain(&self.failure).any(|step| match &step.operation {
            Some(EtcdOperation::Put(_)) => true,
            Some(EtcdOperation::Txn(txn)) => txn.stores(),
            Some(EtcdOperation::Range(_) | EtcdOperation::DeleteRange(_)) | None => false,
        })
    }
}

impl EtcdCompare {
    /// The keys that are asked about.
    pub fn keys(&self) -> EtcdKeys {
        EtcdKeys::of(&self.key, &self.range_end)
    }
}

impl EtcdRange {
    /// Whether entries are left out for their revisions.
    pub fn is_filtered(&self) -> bool {
        let bounds = [self.min_mod_revision, self.max_mod_revision];
        let created = [self.min_create_revision, self.max_create_revision];
        bounds.into_iter().chain(created).any(|bound| bound != 0)
    }

    /// Whether the order asked for is that in which keys come.
    pub fn comes_sorted(&self) -> bool {
        let by_key = self.sort == EtcdSort::Key as i32;
        self.order == EtcdOrder::None as i32 || by_key && self.order == EtcdOrder::Ascend as i32
    }

    /// The keys that are read.
    pub fn keys(&self) -> EtcdKeys {
        EtcdKeys::of(&self.key, &self.range_end)
    }
}

impl EtcdDelete {
    /// The keys that are removed.
    pub fn keys(&self) -> EtcdKeys {
        EtcdKeys::of(&self.key, &self.range_end)
    }
}
