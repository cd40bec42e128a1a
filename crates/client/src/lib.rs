//! The Rust SDK of Holdfast: a strongly consistent, sharded key-value store.
//!
//! ```no_run
//! use holdfast_client::Client;
//!
//! # async fn f() -> Result<(), holdfast_client::Error> {
//! let client = Client::connect(["127.0.0.1:7401"]).await?;
//! client.put("greeting", "hello").await?;
//! let entry = client.get("greeting").await?;
//! assert_eq!(entry.map(|e| e.value), Some("hello".into()));
//! # Ok(())
//! # }
//! ```
//!
//! Owns: the cluster map's cache, routing, retries, sessions, locks, resuming watches and scans.
//! Must never know: how a server works inside; it speaks `wire` and nothing else.
//! Invariants:
//! * A mutation that may have happened is never reported as failed ([`Error::is_unknown`]), and
//!   never sent again under a name the range does not recognise.
//! * What the map says is a hint about whom to ask; the answer decides.
//! * No lock is held over an await; the hot path takes one, for the numbering of mutations.
//! Source: `api.md` (sessions, errors), `consensus.md` (outcomes).

mod attempts;
mod batch;
mod call;
mod client;
mod cluster;
mod counter;
mod doors;
mod election;
mod error;
mod lease;
mod lock;
mod map;
mod method;
mod mutate;
mod operation;
mod options;
mod prefix;
mod read;
mod scan;
mod semaphore;
mod session;
mod streams;
mod transport;
mod turns;
mod txn;
mod types;
mod watch;
mod write;

pub use batch::{Batch, BatchAnswer, BatchGet, BatchGetAnswer};
pub use client::{Client, ClientBuilder};
pub use cluster::{Cluster, Founded, KeyspaceOptions, NodeStatus, ReplicaStatus};
pub use counter::{COUNTER_SHARDS_MAX, Counter};
pub use doors::Doors;
pub use election::{Election, Leader, Leaders, Leadership};
pub use error::Error;
pub use holdfast_model::{
    ClusterId, ClusterMap, History, KeyspaceDescriptor, KeyspaceKind, LeaseId, NodeId, RangeId,
    Revision,
};
pub use lease::{GrantLease, KeepAlive, Lease, LeaseState};
pub use lock::{Lock, LockGuard, LockState};
pub use operation::{Compare, Operation, Relation};
pub use prefix::DeletePrefix;
pub use read::{Get, GetAnswer};
pub use scan::{Scan, ScanBuilder, ScanPage};
pub use semaphore::{Holder, Permit, Semaphore, SemaphoreState};
pub use txn::{Txn, TxnAnswer, TxnResult};
pub use types::{Condition, Entry, FollowerChoice, Origin, ReadLevel, ReadPoint, Staleness};
pub use watch::{Event, EventKind, Watch, WatchBatch, WatchBuilder};
pub use write::{Delete, DeleteAnswer, Increment, IncrementAnswer, Put, PutAnswer};
