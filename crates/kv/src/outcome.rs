//! What became of an item: one [`Outcome`] each, the same on every replica.

use bytes::Bytes;
use holdfast_model::{LeaseId, RangeEpoch, Revision};

use crate::auth::{AuthAnswer, AuthRefusal};
use crate::command::EtcdAlarmKind;
use crate::{Entry, Truth};

/// What became of one item of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A put, delete or increment was carried out (a delete also where nothing was there).
    Applied(Mutation),
    /// The condition of a put or delete did not hold; nothing changed. Of an etcd transaction: a
    /// put keeps the value or lease of a key that does not exist.
    ConditionFailed {
        /// What stands there instead; none where the key does not exist.
        current: Option<Entry>,
    },
    /// A transaction ran one of its branches.
    Txn(TxnOutcome),
    /// A transaction as etcd means it ran.
    Etcd(EtcdOutcome),
    /// A lease was granted or revoked.
    Lease(LeaseOutcome),
    /// What became of each lease of a renewal, in its order.
    Renewed(Vec<Renewal>),
    /// A lock operation was carried out.
    Lock(LockOutcome),
    /// A session was opened, kept alive or closed.
    Session {
        /// It ends after this much idle range time, milliseconds; 0 after a close.
        idle_max_ms: u64,
    },
    /// What was due was removed.
    Expired {
        /// How many keys, those of leases included.
        keys: u64,
        /// Whether more is due at the same range time.
        more: bool,
    },
    /// The compacted revision was moved.
    Compacted {
        /// The oldest readable revision now.
        oldest: Revision,
    },
    /// The alarms that were asked for, or the one that was raised or cleared.
    Alarms(Vec<Alarm>),
    /// An operation on the users of an etcd keyspace was carried out.
    EtcdAuth(AuthAnswer),
    /// The range's truth was set.
    Configured(Truth),
    /// Nothing was asked for.
    Noop,
    /// The item was refused by the state of the range; nothing changed.
    Refused(Refusal),
}

/// An alarm of an etcd keyspace. Sorted by kind, the graver ones last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alarm {
    /// What it says.
    pub kind: EtcdAlarmKind,
    /// The member it is about.
    pub member: u64,
}

/// A mutation that was carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mutation {
    /// Its revision; the range's current one where nothing changed.
    pub revision: Revision,
    /// Revision at which the key's life began; 0 after a delete.
    pub create_revision: Revision,
    /// The key's version count; 0 after a delete.
    pub version: u64,
    /// The entry before, where asked for. A retry answered by the session reads it again and
    /// leaves it out where history no longer has it.
    pub previous: Option<Entry>,
    /// How many keys were written or removed.
    pub count: u64,
    /// The number after an increment; 0 otherwise.
    pub number: i64,
    /// A range delete met its bound and left keys; repeat it.
    pub more: bool,
}

/// A transaction that ran.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxnOutcome {
    /// Whether all compares held.
    pub succeeded: bool,
    /// Its revision; the range's current one where nothing changed.
    pub revision: Revision,
    /// Whether it changed anything.
    pub changed: bool,
    /// One result per step of the branch that ran. Empty for a retry whose results no longer can
    /// be told (`results_lost`).
    pub results: Vec<TxnResult>,
    /// The answer is a retry's, and history no longer has what the results need.
    pub results_lost: bool,
}

/// What one step of a transaction gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnResult {
    /// What a get found.
    Get(Option<Entry>),
    /// What a range read found.
    Range {
        /// In ascending order of keys.
        entries: Vec<Entry>,
        /// Whether the limit cut the answer.
        more: bool,
    },
    /// A value was stored.
    Put {
        /// What it replaced, where asked for.
        previous: Option<Entry>,
    },
    /// Keys were removed, by a delete or a range delete.
    Delete {
        /// How many.
        count: u64,
        /// The removed entries, where asked for.
        previous: Vec<Entry>,
    },
    /// The number after an increment.
    Increment(i64),
    /// What a transaction in the transaction gave.
    Txn {
        /// Whether its compares held.
        succeeded: bool,
        /// One result per step of the branch that ran.
        results: Vec<TxnResult>,
    },
}

/// A transaction as etcd means it that ran.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EtcdOutcome {
    /// Whether all compares held.
    pub succeeded: bool,
    /// Its revision; the range's current one where nothing changed.
    pub revision: Revision,
    /// Whether it changed anything.
    pub changed: bool,
    /// One result per step of the branch that ran.
    pub results: Vec<EtcdResult>,
}

/// What one step of an etcd transaction gave. `revision` is the range's newest one after the step,
/// as etcd tells it in the header of the step's response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EtcdResult {
    /// What a range read found.
    Range {
        /// Filtered, sorted and cut; empty where only the count was asked for.
        entries: Vec<Entry>,
        /// Whether the limit cut the answer.
        more: bool,
        /// How many keys the range has, before filters and limit.
        count: u64,
        /// The newest revision after the step.
        revision: Revision,
    },
    /// A value was stored.
    Put {
        /// What it replaced, where asked for.
        previous: Option<Entry>,
        /// The newest revision after the step.
        revision: Revision,
    },
    /// Keys were removed.
    DeleteRange {
        /// How many.
        count: u64,
        /// The removed entries in order of keys, where asked for.
        previous: Vec<Entry>,
        /// The newest revision after the step.
        revision: Revision,
    },
    /// What a transaction in the transaction gave.
    Txn {
        /// Whether its compares held.
        succeeded: bool,
        /// One result per step of the branch that ran.
        results: Vec<EtcdResult>,
    },
}

/// A lease after a grant or revoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseOutcome {
    /// The lease.
    pub id: LeaseId,
    /// Its time to live, milliseconds; 0 after a revoke.
    pub ttl_ms: u64,
    /// Range time of its expiry, milliseconds; 0 after a revoke.
    pub expires_at_ms: u64,
    /// How many keys a revoke removed.
    pub keys_removed: u64,
    /// Revision of the removal; the range's current one where nothing changed.
    pub revision: Revision,
}

/// What became of one lease of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// The lease.
    pub id: LeaseId,
    /// Its time to live, milliseconds; 0 where it does not exist or has expired.
    pub ttl_ms: u64,
    /// Range time of its expiry, milliseconds; 0 where it does not exist or has expired.
    pub expires_at_ms: u64,
}

/// How a caller stands to a lock after its operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockStanding {
    /// The caller holds the lock.
    Held {
        /// The fencing token: the revision of the grant. Grows with every grant, for ever.
        token: Revision,
    },
    /// The caller waits; a grant is announced in `ApplyResult::grants`.
    Waiting {
        /// How many wait before it.
        ahead: u64,
    },
    /// The caller neither holds nor waits: somebody else holds, or it was given back.
    Absent,
}

/// The lock after an operation on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockOutcome {
    /// How the caller stands.
    pub standing: LockStanding,
    /// Range time until which the standing lives without a keep-alive, milliseconds; 0 where the
    /// caller is absent.
    pub expires_at_ms: u64,
    /// A release: whether it gave up a lock or a place. Else: whether something changed.
    pub changed: bool,
    /// The lock as it is now.
    pub state: LockState,
}

/// A lock as an onlooker sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockState {
    /// Who holds it; empty where nobody does.
    pub owner: Bytes,
    /// The holder's fencing token; 0 where nobody holds it.
    pub token: Revision,
    /// The holder's value.
    pub value: Bytes,
    /// Range time until which it is held without a keep-alive, milliseconds; 0 if not held.
    pub expires_at_ms: u64,
    /// The lease the holder lives by; id 0 means its own TTL.
    pub lease: LeaseId,
    /// How many wait.
    pub waiters: u64,
}

impl LockState {
    /// Whether somebody holds it.
    pub fn is_held(&self) -> bool {
        self.token.0 != 0
    }
}

/// A lock that got a holder: wakes the waiter it went to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockGrant {
    /// Name of the lock.
    pub name: Bytes,
    /// Who holds it now.
    pub owner: Bytes,
    /// The fencing token.
    pub token: Revision,
    /// Range time until which it is held without a keep-alive, milliseconds.
    pub expires_at_ms: u64,
}

/// Why the state of a range refused an item. Deterministic: every replica refuses alike, and the
/// same item is answered alike until the state changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The session was never opened, has ended, or the id was used before.
    #[error("the session has expired; open another under a new client id")]
    SessionExpired,
    /// The seq lies below the session's watermark; nothing was executed by this item.
    #[error("the operation's number lies below the session's watermark {watermark}")]
    SessionStale {
        /// The session's watermark.
        watermark: u64,
    },
    /// The seq was used before for another payload.
    #[error("the operation's number was used before for another operation")]
    SessionPayload,
    /// The session has too many unanswered operations.
    #[error("the session has {limit} unanswered operations; raise its watermark")]
    SessionUnanswered {
        /// The bound.
        limit: u64,
    },
    /// The answers the range remembers for all sessions weigh as much as they may; nothing was
    /// executed, but the command's watermark was taken. Try again later.
    #[error("the sessions of the range weigh {limit} bytes; raise their watermarks")]
    SessionMemory {
        /// The bound, bytes.
        limit: u64,
    },
    /// The range has as many sessions as it may have.
    #[error("the range has {limit} sessions")]
    SessionTableFull {
        /// The bound.
        limit: u64,
    },
    /// The session belongs to another user.
    #[error("the session belongs to another user")]
    SessionOwner,
    /// A key, lease or lock does not lie in the range's span: ask the cluster map again.
    #[error("the key is not in this range at epoch {epoch}")]
    WrongSpan {
        /// The range's epoch; 0 where it was never configured.
        epoch: RangeEpoch,
    },
    /// A transaction writes a key twice.
    #[error("a transaction writes a key more than once")]
    DuplicateKey,
    /// The value is not a decimal 64-bit number.
    #[error("the value is not a decimal 64-bit number")]
    NotANumber,
    /// The sum does not fit into 64 bits.
    #[error("the number would overflow")]
    Overflow,
    /// The lease does not exist or has expired.
    #[error("the lease does not exist or has expired")]
    LeaseNotFound,
    /// The lease exists already.
    #[error("the lease exists already")]
    LeaseExists,
    /// The lease has as many keys and locks as one revoke can remove.
    #[error("the lease has {limit} keys")]
    LeaseFull {
        /// The bound.
        limit: u64,
    },
    /// A range delete in a transaction would remove more than its bound.
    #[error("a range delete in a transaction removes at most {limit} keys")]
    TooManyKeys {
        /// The bound.
        limit: u64,
    },
    /// The results of a transaction would be larger than its bound.
    #[error("the results of a transaction are at most {limit} bytes")]
    ResultTooLarge {
        /// The bound, bytes.
        limit: u64,
    },
    /// The lock has as many waiters as it may have.
    #[error("the lock has {limit} waiters")]
    LockQueueFull {
        /// The bound.
        limit: u64,
    },
    /// The caller neither holds the lock under that token nor waits for it.
    #[error("the lock is not held under this token")]
    LockNotHeld,
    /// The revision is compacted already.
    #[error("revisions before {oldest} are compacted")]
    Compacted {
        /// The oldest readable revision.
        oldest: Revision,
    },
    /// The revision lies in the future.
    #[error("the newest revision is {newest}")]
    FutureRevision {
        /// The newest revision.
        newest: Revision,
    },
    /// An alarm says that there is no room: what stores something is refused until it is cleared.
    #[error("an alarm says that there is no space")]
    NoSpace,
    /// An alarm says that a replica's data differ from the others': nothing is served until it is
    /// cleared.
    #[error("an alarm says that the data of a replica are corrupt")]
    Corrupt,
    /// As many alarms are raised as can be.
    #[error("{limit} alarms are raised")]
    TooManyAlarms {
        /// The bound.
        limit: u64,
    },
    /// For the user who asks, or for the state of the users.
    #[error(transparent)]
    Auth(#[from] AuthRefusal),
    /// The configuration is older than the range's, or contradicts it.
    #[error("the range is at epoch {epoch} and does not take this configuration")]
    StaleConfiguration {
        /// The range's epoch.
        epoch: RangeEpoch,
    },
    /// The operation breaks a rule that is checked before proposing.
    #[error("the operation is malformed: {what}")]
    Malformed {
        /// Which rule.
        what: &'static str,
    },
}
