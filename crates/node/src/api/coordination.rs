//! Sessions, leases and locks.

use bytes::Bytes;
use holdfast_kv as kv;
use holdfast_model::{ClientId, LeaseId, RangeId};

use super::{Answer, Call, ReadOptions, Reply, SessionTag};

/// Which session of which range.
#[derive(Clone, Debug)]
pub struct SessionOf {
    /// Keyspace; empty = `default`.
    pub keyspace: String,
    /// The range.
    pub range: RangeId,
    /// The client.
    pub client: ClientId,
    /// Keep-alive: lowest number still unanswered; 0 = unchanged.
    pub watermark: u64,
}

/// Exactly-once sessions of a range.
pub trait Session: Send + Sync + 'static {
    /// Opens a session; answers how long it may stay idle, milliseconds of range time. Idempotent.
    fn open<'a>(&'a self, call: &'a Call, session: SessionOf) -> Reply<'a, Answer<u64>>;

    /// Keeps an idle session from ending.
    fn keep_alive<'a>(&'a self, call: &'a Call, session: SessionOf) -> Reply<'a, Answer<u64>>;

    /// Ends a session; its id is never opened again in that range.
    fn close<'a>(&'a self, call: &'a Call, session: SessionOf) -> Reply<'a, Answer<u64>>;
}

/// Grants a lease.
#[derive(Clone, Debug)]
pub struct LeaseGrant {
    /// Keyspace; empty = `default`.
    pub keyspace: String,
    /// Time to live, milliseconds.
    pub ttl_ms: u64,
    /// Placed with this key; may be empty where the keyspace has one range.
    pub key: Bytes,
    /// The wanted id; 0 = the node chooses.
    pub id: LeaseId,
    /// Exactly once.
    pub session: Option<SessionTag>,
}

/// What is left of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseRemaining {
    /// The lease.
    pub id: LeaseId,
    /// Time left as the log has it, milliseconds; 0 = it does not exist (any more).
    pub ttl_ms: u64,
    /// The time to live it was granted with, milliseconds; 0 likewise.
    pub granted_ms: u64,
}

/// A lease of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedLease {
    /// The lease.
    pub id: LeaseId,
    /// The time to live it was granted with, milliseconds.
    pub ttl_ms: u64,
    /// Range time of its expiry, milliseconds.
    pub expires_at_ms: u64,
}

/// A lease as a read sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseState {
    /// The time to live it was granted with, milliseconds.
    pub ttl_ms: u64,
    /// Range time of its expiry, milliseconds.
    pub expires_at_ms: u64,
    /// Its keys, where asked for.
    pub keys: Vec<Bytes>,
}

/// Leases: keys that live as long as somebody renews.
pub trait Lease: Send + Sync + 'static {
    /// Grants a lease.
    fn grant<'a>(
        &'a self,
        call: &'a Call,
        request: LeaseGrant,
    ) -> Reply<'a, Answer<kv::LeaseOutcome>>;

    /// Starts its time to live again. Renewals of many leases share a log entry.
    fn renew<'a>(
        &'a self,
        call: &'a Call,
        keyspace: &'a str,
        id: LeaseId,
    ) -> Reply<'a, Answer<LeaseRemaining>>;

    /// Ends it and removes its keys in one revision.
    fn revoke<'a>(
        &'a self,
        call: &'a Call,
        keyspace: &'a str,
        id: LeaseId,
        session: Option<SessionTag>,
    ) -> Reply<'a, Answer<kv::LeaseOutcome>>;

    /// Looks at it; `None` where it does not exist.
    fn look<'a>(
        &'a self,
        call: &'a Call,
        keyspace: &'a str,
        id: LeaseId,
        keys: bool,
    ) -> Reply<'a, Answer<Option<LeaseState>>>;

    /// At most `limit` leases after `after`, by id, in a keyspace of one range.
    fn leases<'a>(
        &'a self,
        call: &'a Call,
        keyspace: &'a str,
        after: LeaseId,
        limit: usize,
    ) -> Reply<'a, Answer<Vec<ListedLease>>>;
}

/// Which lock, and who asks.
#[derive(Clone, Debug)]
pub struct LockName {
    /// Keyspace; empty = `default`.
    pub keyspace: String,
    /// Name; `{tag}` works as in keys.
    pub name: Bytes,
    /// Identifies the acquirer.
    pub owner: Bytes,
}

/// Takes a lock, or waits for it.
#[derive(Clone, Debug)]
pub struct LockAcquire {
    /// Which one, and who asks; the same owner asking again gets the same answer.
    pub lock: LockName,
    /// Life without keep-alive, of the lock and of a place in the queue, milliseconds.
    pub ttl_ms: u64,
    /// Stay in the queue until granted or the deadline. The place is kept alive while the call
    /// lasts and given up when it is dropped.
    pub wait: bool,
    /// Text that onlookers see.
    pub value: Bytes,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockAcquired {
    /// The fencing token; 0 = not acquired.
    pub token: u64,
    /// The lock as it is.
    pub state: kv::LockState,
}

/// Keeps a held lock.
#[derive(Clone, Debug)]
pub struct LockKeepAlive {
    /// Which one, and who holds it.
    pub lock: LockName,
    /// The token of the grant.
    pub token: u64,
}

/// Gives a lock back.
#[derive(Clone, Debug)]
pub struct LockRelease {
    /// Which one, and who holds it or waits.
    pub lock: LockName,
    /// The token of the grant; 0 = also give up a place in the queue.
    pub token: u64,
}

/// Locks with fencing tokens.
pub trait Lock: Send + Sync + 'static {
    /// Takes a lock.
    fn acquire<'a>(
        &'a self,
        call: &'a Call,
        request: LockAcquire,
    ) -> Reply<'a, Answer<LockAcquired>>;

    /// Starts its time to live again; answers what is left, milliseconds.
    fn keep_alive<'a>(&'a self, call: &'a Call, request: LockKeepAlive) -> Reply<'a, Answer<u64>>;

    /// Gives it back; answers whether it was held or waited for.
    fn release<'a>(&'a self, call: &'a Call, request: LockRelease) -> Reply<'a, Answer<bool>>;

    /// Looks at it.
    fn inspect<'a>(
        &'a self,
        call: &'a Call,
        keyspace: &'a str,
        name: Bytes,
        read: ReadOptions,
    ) -> Reply<'a, Answer<kv::LockState>>;
}
