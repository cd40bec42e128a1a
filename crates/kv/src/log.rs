//! What the state machine is fed, and what it gives back.

use bytes::Bytes;
use holdfast_model::{LogIndex, ReplicaId, Revision, Term};

use crate::{LockGrant, Outcome, ReadPoint, RevisionEvents, Truth};

/// Where an entry stands in the range's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPosition {
    /// Term of the leader that proposed it.
    pub term: Term,
    /// That leader.
    pub leader: ReplicaId,
    /// Its index.
    pub index: LogIndex,
}

/// One committed entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its position.
    pub position: LogPosition,
    /// What it holds.
    pub kind: Kind,
}

/// What an entry holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An encoded [`Envelope`](crate::Envelope).
    Normal(Bytes),
    /// A membership, in the encoding of whoever understands it.
    Membership(Bytes),
    /// Nothing: a leader's first entry.
    Blank,
}

/// How far a state has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The last entry in it; none where nothing was ever applied.
    pub position: Option<LogPosition>,
    /// The last membership in it, with its position.
    pub membership: Option<(LogPosition, Bytes)>,
    /// Its revision, log index and range time.
    pub point: ReadPoint,
}

/// What one `apply` call did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApplyResult {
    /// One outcome per entry, command and item, in their order.
    pub outcomes: Vec<Vec<Vec<Outcome>>>,
    /// What changed, ascending by revision. Revisions that touched no key (a lock's grant) are
    /// left out.
    pub events: Vec<RevisionEvents>,
    /// Locks that got a holder: wake who waits for them.
    pub grants: Vec<LockGrant>,
    /// The range's truth, where an entry set it.
    pub truth: Option<Truth>,
    /// The compacted revision, where an entry moved it.
    pub compacted: Option<Revision>,
    /// The earliest time something put under a time limit by these entries may be due, range time;
    /// none where nothing was. See [`Reader::next_due_ms`](crate::Reader::next_due_ms).
    pub due_ms: Option<u64>,
    /// The same of leases, locks and sessions alone. See
    /// [`Reader::next_urgent_due_ms`](crate::Reader::next_urgent_due_ms).
    pub urgent_due_ms: Option<u64>,
    /// The read point after the last entry; published.
    pub point: ReadPoint,
}
