//! The vocabulary of Holdfast: identifiers, hash positions, spans, the cluster map, every limit.
//!
//! Owns: the words every other crate speaks, and every size limit with its unit.
//! Must never know: protobuf, async, files, Raft.
//! Invariants:
//! * Identifiers are never reused; the newtypes keep them from being mixed up.
//! * The spans of one keyspace partition the ring.

mod ids;
pub mod limits;
mod map;
mod position;
mod span;

pub use ids::{
    ClientId, ClusterId, KeyspaceId, LeaseId, LogIndex, NodeId, RangeEpoch, RangeId, ReplicaId,
    Revision, StoreId, Term,
};
pub use map::{
    ClusterMap, Compaction, History, KeyspaceDescriptor, KeyspaceKind, MapError, NodeDescriptor,
    RangeDescriptor, ReplicaDescriptor, ReplicaRole,
};
pub use position::{hashed_part, position};
pub use span::Span;

/// The keyspace every request without a keyspace name works on.
pub const DEFAULT_KEYSPACE: &str = "default";
/// The keyspace the etcd v3 API works on unless told otherwise.
pub const ETCD_KEYSPACE: &str = "etcd";
/// The keyspace of the system range; reserved, never created by users.
pub const SYSTEM_KEYSPACE: &str = "sys";
