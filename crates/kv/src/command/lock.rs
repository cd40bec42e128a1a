//! Operations on locks.
//!
//! A lock has at most one holder and a first-come-first-served queue of waiters. Who holds or
//! waits is told apart by `owner`, drawn by the client; so every operation can be repeated. Holder
//! and waiter live by a TTL of their own or by a lease, never by both.

use bytes::Bytes;
use prost::Message;

/// Longest id of a lock's holder or waiter, bytes.
pub const LOCK_OWNER_BYTES_MAX: usize = 64;
/// Longest value of a lock, bytes.
pub const LOCK_VALUE_BYTES_MAX: usize = 1_024;
/// Most waiters of one lock; bounds the lock's record, which every change of the queue rewrites.
pub const LOCK_WAITERS_MAX: usize = 256;

/// Takes a lock if it is free, else queues for it or answers who has it.
///
/// Repeated by the holder it answers the same token again; repeated by a waiter, its place.
#[derive(Clone, PartialEq, Message)]
pub struct LockAcquire {
    /// Name of the lock; routes like a key.
    #[prost(bytes = "bytes", tag = "1")]
    pub name: Bytes,
    /// Who asks.
    #[prost(bytes = "bytes", tag = "2")]
    pub owner: Bytes,
    /// How long the lock, or the place in the queue, lives without a keep-alive, milliseconds of
    /// range time; 0 with a lease.
    #[prost(uint64, tag = "3")]
    pub ttl_ms: u64,
    /// The lease it lives by; 0 with a TTL.
    #[prost(fixed64, tag = "4")]
    pub lease: u64,
    /// Whether to queue where the lock is taken.
    #[prost(bool, tag = "5")]
    pub wait: bool,
    /// Text shown to whoever inspects the lock; at most [`LOCK_VALUE_BYTES_MAX`] bytes.
    #[prost(bytes = "bytes", tag = "6")]
    pub value: Bytes,
}

/// Starts the TTL of the holder, or of a waiter, again.
#[derive(Clone, PartialEq, Message)]
pub struct LockKeepAlive {
    /// Name of the lock.
    #[prost(bytes = "bytes", tag = "1")]
    pub name: Bytes,
    /// Who holds or waits.
    #[prost(bytes = "bytes", tag = "2")]
    pub owner: Bytes,
    /// The token of the grant to extend; 0 means whatever `owner` has.
    #[prost(uint64, tag = "3")]
    pub token: u64,
}

/// Gives a lock back or leaves its queue; the first live waiter gets the lock.
#[derive(Clone, PartialEq, Message)]
pub struct LockRelease {
    /// Name of the lock.
    #[prost(bytes = "bytes", tag = "1")]
    pub name: Bytes,
    /// Who holds or waits; empty where the token says it.
    #[prost(bytes = "bytes", tag = "2")]
    pub owner: Bytes,
    /// The token of the grant; 0 means whatever `owner` has.
    #[prost(uint64, tag = "3")]
    pub token: u64,
    /// Gives up a place in the queue and never a held lock: what a waiter that is cancelled sends,
    /// so that it cannot release what its own retry was granted meanwhile.
    #[prost(bool, tag = "4")]
    pub queue_only: bool,
}
