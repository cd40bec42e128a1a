//! Keys and values.

use bytes::Bytes;
use holdfast_kv as kv;
use holdfast_model::{ClientId, RangeId, Revision};

use super::{Answer, ApiError, Call, Header, Items, Point, ReadOptions, Reply, Staleness};

/// The operation number and session of a mutation that happens exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionTag {
    /// The client.
    pub client: ClientId,
    /// Number of the operation, unique for the client; of a batch: not used, items have their own.
    pub seq: u64,
    /// Lowest number still unanswered among the client's operations in the range.
    pub watermark: u64,
}

/// Reads one key.
#[derive(Clone, Debug, Default)]
pub struct Get {
    /// Keyspace; empty = `default`.
    pub keyspace: String,
    /// The key.
    pub key: Bytes,
    /// How current.
    pub read: ReadOptions,
    /// At this older revision; 0 = now.
    pub revision: Revision,
}

/// What a read of one key gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The entry; `None` where there is no such key.
    pub entry: Option<kv::Entry>,
    /// Follower reads only.
    pub staleness: Option<Staleness>,
}

/// What became of one key of a batch of reads.
pub type ItemFound = Result<Found, ApiError>;

/// What became of one write of a batch.
pub type ItemWritten = Result<Answer<kv::Outcome>, ApiError>;

/// One put, delete, increment or transaction.
///
/// All keys of a transaction must lie in one range.
#[derive(Clone, Debug)]
pub struct Write {
    /// Keyspace; empty = `default`.
    pub keyspace: String,
    /// `Put`, `Delete`, `Increment`, `Txn`; in a keyspace of one range also `Etcd`, `Compact`
    /// and `EtcdAlarm`.
    /// Others are refused here.
    pub operation: kv::Operation,
    /// Exactly once; without it at most once.
    pub session: Option<SessionTag>,
}

/// Reads as etcd means it: a transaction of ranges, in a keyspace of one range.
#[derive(Clone, Debug, Default)]
pub struct EtcdRead {
    /// Keyspace; empty = `default`.
    pub keyspace: String,
    /// What is read; a step that writes is refused.
    pub txn: kv::command::EtcdTxn,
    /// How current.
    pub read: ReadOptions,
}

/// Deletes every key that starts with a prefix: one revision per range, bounded per range.
#[derive(Clone, Debug)]
pub struct DeletePrefix {
    /// Keyspace; empty = `default`.
    pub keyspace: String,
    /// The prefix; empty = every key.
    pub prefix: Bytes,
    /// `seq` is used in every range.
    pub session: Option<SessionTag>,
}

/// What a range delete removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// How many keys.
    pub count: u64,
    /// A range had more than its bound: call again.
    pub more: bool,
}

/// Reads keys of any ranges.
#[derive(Clone, Debug, Default)]
pub struct BatchGet {
    /// Keyspace; empty = `default`.
    pub keyspace: String,
    /// The keys.
    pub keys: Vec<Bytes>,
    /// How current.
    pub read: ReadOptions,
}

/// One independent write of a batch: `Put`, `Delete` or `Increment`.
#[derive(Clone, Debug)]
pub struct BatchWriteItem {
    /// What to do.
    pub operation: kv::Operation,
    /// Its number under the batch's session.
    pub seq: u64,
}

/// Independent writes to keys of any ranges.
#[derive(Clone, Debug)]
pub struct BatchWrite {
    /// Keyspace; empty = `default`.
    pub keyspace: String,
    /// The writes.
    pub items: Vec<BatchWriteItem>,
    /// Session and watermark of all items; the watermark must hold in every range.
    pub session: Option<SessionTag>,
}

/// Reads keys in order, page by page.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// Keyspace; empty = `default`.
    pub keyspace: String,
    /// First key; empty = from the first one.
    pub start: Bytes,
    /// First key after the interval; empty = to the last one.
    pub end: Bytes,
    /// All keys that start with these bytes; not together with `start` and `end`.
    pub prefix: Bytes,
    /// How current.
    pub read: ReadOptions,
    /// Stop after so many keys; 0 = all.
    pub limit: u64,
    /// Leave values out.
    pub keys_only: bool,
    /// From the last key to the first.
    pub reverse: bool,
    /// Where an earlier scan of the same interval stopped; pins its read points.
    pub resume_token: Bytes,
    /// Only this range; 0 = all that can hold the keys.
    pub range: RangeId,
    /// Keys of a page; 0 = as many as allowed.
    pub page_keys: usize,
}

/// Part of a scan.
#[derive(Clone, Debug, PartialEq)]
pub struct ScanPage {
    /// Of the range, where there is one; else the cluster and node alone.
    pub header: Header,
    /// The entries.
    pub entries: Vec<kv::Entry>,
    /// Continues after the last entry; empty on the last page.
    pub resume_token: Bytes,
    /// The read point of every range of the scan; first page only.
    pub points: Vec<(RangeId, Point)>,
    /// Follower reads only: the largest bound of all ranges.
    pub staleness: Option<Staleness>,
}

/// Follows the changes of a key, of an interval, or of all keys with a prefix.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// Keyspace; empty = `default`.
    pub keyspace: String,
    /// The key, the first key of the interval, or the prefix (which may be empty).
    pub key: Bytes,
    /// Whether `key` is a prefix.
    pub prefix: bool,
    /// First key after the interval, empty = to the last one; `None` = no interval. Not together
    /// with `prefix`.
    pub end: Option<Bytes>,
    /// First revision wanted, in every range; 0 = from now on.
    pub from: Revision,
    /// Continue after what this token has seen; wins over `from`.
    pub resume_token: Bytes,
    /// Send the entry before the change with every event.
    pub previous: bool,
    /// Leave puts out.
    pub no_puts: bool,
    /// Leave deletes out.
    pub no_deletes: bool,
    /// Only this range; 0 = all that can hold the keys.
    pub range: RangeId,
    /// Every change of this number asks for a [`WatchItem::Progress`] of every range that this
    /// node hosts; others tell of their own accord now and then.
    pub progress: Option<tokio::sync::watch::Receiver<u64>>,
}

/// What a watch delivers.
#[derive(Clone, Debug, PartialEq)]
pub enum WatchItem {
    /// The watch stands; everything after the token will be delivered. Always the first item.
    Created {
        /// Of the range, where there is one.
        header: Header,
        /// Where the watch begins.
        resume_token: Bytes,
    },
    /// Whole revisions of one range, in order.
    Events {
        /// Of the range; its revision is that of the last event.
        header: Header,
        /// The changes.
        revisions: Vec<kv::RevisionEvents>,
        /// Everything up to here has been delivered.
        resume_token: Bytes,
    },
    /// Nothing happened up to the header's revision of its range.
    Progress {
        /// Of the range.
        header: Header,
        /// Everything up to here has been delivered.
        resume_token: Bytes,
    },
    /// The watch is over. Always the last item.
    Canceled {
        /// Why.
        error: ApiError,
        /// Where to continue; empty where it cannot be continued.
        resume_token: Bytes,
    },
}

/// Keys and values, routed to wherever they are.
pub trait Kv: Send + Sync + 'static {
    /// Reads one key.
    fn get<'a>(&'a self, call: &'a Call, request: Get) -> Reply<'a, Answer<Found>>;

    /// Carries out one mutation or transaction. A condition that does not hold is an answer.
    fn write<'a>(&'a self, call: &'a Call, request: Write) -> Reply<'a, Answer<kv::Outcome>>;

    /// Reads as etcd means it. The answer is formed at one revision, that of the header.
    fn etcd_read<'a>(
        &'a self,
        call: &'a Call,
        request: EtcdRead,
    ) -> Reply<'a, Answer<kv::EtcdOutcome>>;

    /// Deletes by prefix.
    fn delete_prefix<'a>(
        &'a self,
        call: &'a Call,
        request: DeletePrefix,
    ) -> Reply<'a, Answer<Deleted>>;

    /// Reads many keys; one result each, in their order.
    fn batch_get<'a>(
        &'a self,
        call: &'a Call,
        request: BatchGet,
    ) -> Reply<'a, Answer<Vec<ItemFound>>>;

    /// Carries out many writes; one result each, in their order. A slow range holds nothing back
    /// beyond the deadline.
    fn batch_write<'a>(
        &'a self,
        call: &'a Call,
        request: BatchWrite,
    ) -> Reply<'a, Answer<Vec<ItemWritten>>>;

    /// Reads keys in order. Each page has the call's whole time; the stream has no deadline.
    fn scan(&self, call: &Call, request: Scan) -> Items<ScanPage>;

    /// Follows changes, until the stream is dropped.
    fn watch(&self, call: &Call, request: Watch) -> Items<WatchItem>;
}
