//! openraft's type parameters as a range fills them.

use std::fmt;

use bytes::Bytes;
use holdfast_kv::Outcome;
use holdfast_lsm::ReadPoint;
use holdfast_model::{NodeId, ReplicaId};
use openraft::raft::responder::Responder;

use crate::raft::runtime::Runtime;
use crate::raft::snapshot::SnapshotPayload;

/// One range's Raft group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TypeConfig;

impl openraft::RaftTypeConfig for TypeConfig {
    type D = Encoded;
    type R = Applied;
    type NodeId = ReplicaId;
    type Node = Host;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = Vote;
    type Payload = Payload;
    type Entry = Entry;
    type AsyncRuntime = Runtime;
    type Responder<T>
        = Callback<T>
    where
        T: Send + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: Send + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(crate) type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, ReplicaId>;
pub(crate) type LogId = openraft::LogId<LeaderId>;
pub(crate) type Vote = openraft::Vote<LeaderId>;
pub(crate) type Payload = openraft::EntryPayload<Encoded, ReplicaId, Host>;
pub(crate) type Entry = openraft::Entry<LeaderId, Payload>;
pub(crate) type Membership = openraft::Membership<ReplicaId, Host>;
pub(crate) type StoredMembership = openraft::StoredMembership<LeaderId, ReplicaId, Host>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<LeaderId, ReplicaId, Host>;
pub(crate) type Snapshot = openraft::Snapshot<LeaderId, ReplicaId, Host, SnapshotPayload>;
pub(crate) type AppendEntries = openraft::raft::AppendEntriesRequest<TypeConfig>;
pub(crate) type VoteRequest = openraft::raft::VoteRequest<TypeConfig>;
pub(crate) type VoteResponse = openraft::raft::VoteResponse<TypeConfig>;
pub(crate) type Transfer = openraft::raft::TransferLeaderRequest<TypeConfig>;
pub(crate) type AppendResult = openraft::raft::StreamAppendResult<TypeConfig>;
pub(crate) type AppendError = openraft::raft::StreamAppendError<TypeConfig>;
pub(crate) type RpcError = openraft::errors::RPCError<TypeConfig>;
pub(crate) type Fatal = openraft::errors::Fatal<TypeConfig>;
pub(crate) type WriteResult = openraft::raft::ClientWriteResult<TypeConfig>;

/// A normal entry's payload: the encoded `kv::Envelope`.
///
/// Encoded once at the leader; journal, wire and apply share these bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Encoded(pub(crate) Bytes);

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The node that hosts a replica. Addresses are no part of a membership.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Host(pub(crate) NodeId);

/// What applying one entry gave.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// Per command, per item; empty for blanks and memberships.
    pub(crate) outcomes: Vec<Vec<Outcome>>,
    /// The read point of the batch the entry was applied in.
    pub(crate) point: ReadPoint,
    /// The range's epoch after it.
    pub(crate) epoch: u64,
}

/// Calls back with the result of a write, on the task that applied it: no task of ours has to wake
/// up in between. Dropped without a call where openraft stops.
pub struct Callback<T>(Box<dyn FnOnce(T) + Send>);

impl<T> Callback<T> {
    pub(crate) fn new(call: impl FnOnce(T) + Send + 'static) -> Self {
        Self(Box::new(call))
    }
}

impl<T: Send + 'static> Responder<TypeConfig, T> for Callback<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}
