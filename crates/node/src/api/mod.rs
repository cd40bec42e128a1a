//! What a node offers, whichever protocol asks: the one choke point of every adapter.
//!
//! Adapters (holdfast.v1 now, etcd and REST beside it) translate their messages into these calls
//! and answers; sizes, identity and routing are dealt with behind them, in [`Gateway`].
//! Invariants:
//! * Limits and permission are checked before a call is routed or anything is proposed; what the
//!   users of a keyspace of its own may, by the replica that serves it.
//! * An error that is not [`ApiError::is_unknown`] means that a mutation did not and will not
//!   happen.
//! * A call ends by its deadline. A stream ends when it is dropped, and so does what it waits for.

mod call;
mod cluster;
mod coordination;
mod kv;
mod observe;

pub use call::{Answer, Call, Header, Point, Rank, ReadOptions, Staleness, Standing};
pub use cluster::{Cluster, ClusterAdmin};
pub use coordination::{
    Lease, LeaseGrant, LeaseRemaining, LeaseState, ListedLease, Lock, LockAcquire, LockAcquired,
    LockKeepAlive, LockName, LockRelease, Session, SessionOf,
};
pub use holdfast_replica::ReadLevel;
pub use kv::{
    BatchGet, BatchWrite, BatchWriteItem, DeletePrefix, Deleted, EtcdRead, Found, Get, ItemFound,
    ItemWritten, Kv, Scan, ScanPage, SessionTag, Watch, WatchItem, Write,
};
pub use observe::{Observer, Operation, Silent, level_name};

pub use crate::errors::{ApiError, LeaderHint};
pub use crate::router::{Gateway, GatewayParts, Host};
pub use crate::users::Password;

/// A boxed future of an API call.
pub type Reply<'a, T> = futures_util::future::BoxFuture<'a, Result<T, ApiError>>;
/// A boxed stream of an API call.
pub type Items<T> = futures_util::stream::BoxStream<'static, Result<T, ApiError>>;
