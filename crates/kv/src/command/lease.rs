//! Operations on leases.

use prost::Message;

/// Creates a lease.
#[derive(Clone, PartialEq, Message)]
pub struct LeaseGrant {
    /// Its id (see `model::LeaseId`); never 0. Refused where it exists already.
    #[prost(fixed64, tag = "1")]
    pub id: u64,
    /// Its time to live, milliseconds of range time; every renewal starts it again.
    #[prost(uint64, tag = "2")]
    pub ttl_ms: u64,
}

/// Starts the time to live of leases again; an expired lease stays expired.
#[derive(Clone, PartialEq, Message)]
pub struct Renew {
    /// Their ids.
    #[prost(fixed64, repeated, tag = "1")]
    pub leases: Vec<u64>,
}

/// Ends a lease: all its keys are removed in one revision, its locks are handed on.
#[derive(Clone, PartialEq, Message)]
pub struct LeaseRevoke {
    /// Its id.
    #[prost(fixed64, tag = "1")]
    pub id: u64,
}
