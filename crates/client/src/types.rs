//! What requests and answers are made of.

use std::time::Duration;

use bytes::Bytes;
use holdfast_model::{LeaseId, NodeId, RangeId, Revision};
use holdfast_wire::v1;

/// How current a read has to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadLevel {
    /// Sees every write acknowledged before the read began; assumes nothing about clocks.
    #[default]
    Linearizable,
    /// Linearizable while clock rates differ by less than 10 %; answered by the leader alone.
    Lease,
    /// A prefix of history from the nearest replica, with a bound on its age.
    Follower,
}

impl ReadLevel {
    pub(crate) fn to_wire(self) -> v1::ReadLevel {
        match self {
            // Left out of the message: it is what the server does by default.
            Self::Linearizable => v1::ReadLevel::Unspecified,
            Self::Lease => v1::ReadLevel::Lease,
            Self::Follower => v1::ReadLevel::Follower,
        }
    }
}

/// A point in the history of one range: everything up to `revision`, as of `clock_ms`.
///
/// Hand the point of an answer to a later read (`at_least`) and that read sees no older state,
/// whatever replica serves it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ReadPoint {
    /// The range it belongs to.
    pub range: RangeId,
    /// Revision of the range.
    pub revision: Revision,
    /// Range clock, milliseconds since the Unix epoch as the range counts them.
    pub clock_ms: u64,
}

impl From<ReadPoint> for v1::ReadPoint {
    fn from(point: ReadPoint) -> Self {
        Self { revision: point.revision.0, clock_ms: point.clock_ms, range_id: point.range.0 }
    }
}

impl From<&v1::Header> for ReadPoint {
    fn from(header: &v1::Header) -> Self {
        Self {
            range: RangeId(header.range_id),
            revision: Revision(header.revision),
            clock_ms: header.clock_ms,
        }
    }
}

/// The bound of a follower read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Staleness {
    /// The answer contains every write acknowledged longer ago than this.
    pub bound: Duration,
    /// Whether the bound rests on clocks being set alike, because no probe has completed yet.
    pub clock_based: bool,
}

impl From<v1::Staleness> for Staleness {
    fn from(staleness: v1::Staleness) -> Self {
        Self {
            bound: Duration::from_millis(staleness.bound_ms),
            clock_based: staleness.clock_based,
        }
    }
}

/// One key with its version data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// Its value; empty where only keys were asked for.
    pub value: Bytes,
    /// Revision of its last change.
    pub revision: Revision,
    /// Revision at which this life of the key began.
    pub create_revision: Revision,
    /// How many times it was written in this life; 1 = just created.
    pub version: u64,
    /// The lease it is bound to.
    pub lease: Option<LeaseId>,
    /// Range time at which it expires, milliseconds since the Unix epoch.
    pub expires_at_ms: Option<u64>,
}

impl From<v1::Entry> for Entry {
    fn from(entry: v1::Entry) -> Self {
        Self {
            key: entry.key,
            value: entry.value,
            revision: Revision(entry.revision),
            create_revision: Revision(entry.create_revision),
            version: entry.version,
            lease: (entry.lease_id != 0).then_some(LeaseId(entry.lease_id)),
            expires_at_ms: (entry.expires_at_ms != 0).then_some(entry.expires_at_ms),
        }
    }
}

/// A condition on the current state of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The key must not exist.
    IfAbsent,
    /// The key must exist and have been changed last at this revision.
    IfRevision(Revision),
    /// The key must exist with this value.
    IfValue(Bytes),
}

impl From<Condition> for v1::Condition {
    fn from(condition: Condition) -> Self {
        use v1::condition::Kind;
        let kind = match condition {
            Condition::IfAbsent => Kind::IfAbsent(true),
            Condition::IfRevision(revision) => Kind::IfRevision(revision.0),
            Condition::IfValue(value) => Kind::IfValue(value),
        };
        Self { kind: Some(kind) }
    }
}

/// Where an answer comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The node that answered.
    pub node: NodeId,
    /// The point in the range's history the answer shows (reads) or made (writes).
    pub point: ReadPoint,
    /// Raft term of the range.
    pub term: u64,
}

impl From<Option<&v1::Header>> for Origin {
    fn from(header: Option<&v1::Header>) -> Self {
        header.map_or_else(Self::default, |header| Self {
            node: NodeId(header.node_id),
            point: header.into(),
            term: header.term,
        })
    }
}

/// Which replica answers [`ReadLevel::Follower`] reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FollowerChoice {
    /// Each in turn.
    #[default]
    RoundRobin,
    /// This node where it hosts the range and answers; else each in turn.
    Node(NodeId),
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
