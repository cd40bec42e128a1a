//! The parts that transactions and batches are made of.

use std::time::Duration;

use bytes::Bytes;
use holdfast_model::{LeaseId, Revision};
use holdfast_wire::v1;

use crate::types::millis;

/// One operation of a transaction or a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation(pub(crate) v1::txn_operation::Operation);

impl Operation {
    /// Writes `value` under `key`.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        let (key, value) = (key.into(), value.into());
        Self(v1::txn_operation::Operation::Put(v1::TxnPut { key, value, ..Default::default() }))
    }

    /// Deletes `key`.
    pub fn delete(key: impl Into<Bytes>) -> Self {
        let delete = v1::TxnDelete { key: key.into(), return_previous: false };
        Self(v1::txn_operation::Operation::Delete(delete))
    }

    /// Adds `delta` to the decimal number under `key`.
    pub fn increment(key: impl Into<Bytes>, delta: i64) -> Self {
        let increment = v1::TxnIncrement { key: key.into(), delta };
        Self(v1::txn_operation::Operation::Increment(increment))
    }

    /// Reads `key`. In transactions only.
    pub fn get(key: impl Into<Bytes>) -> Self {
        let get = v1::TxnGet { key: key.into(), ..Default::default() };
        Self(v1::txn_operation::Operation::Get(get))
    }

    /// Reads the keys from `start` up to `end`, at most `limit` (0 = 1,000), as far as they lie
    /// in the range of the transaction. In transactions only.
    pub fn get_range(start: impl Into<Bytes>, end: impl Into<Bytes>, limit: u32) -> Self {
        let get = v1::TxnGet { key: start.into(), range_end: end.into(), limit };
        Self(v1::txn_operation::Operation::Get(get))
    }

    /// A put: lets the key expire after this long. Without effect on other operations.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        if let v1::txn_operation::Operation::Put(put) = &mut self.0 {
            put.ttl_ms = Some(millis(ttl));
        }
        self
    }

    /// A put: binds the key to a lease. Without effect on other operations.
    #[must_use]
    pub fn lease(mut self, lease: LeaseId) -> Self {
        if let v1::txn_operation::Operation::Put(put) = &mut self.0 {
            put.lease_id = lease.0;
        }
        self
    }

    /// A put or delete: answers with the entry before. Without effect on other operations.
    #[must_use]
    pub fn return_previous(mut self) -> Self {
        match &mut self.0 {
            v1::txn_operation::Operation::Put(put) => put.return_previous = true,
            v1::txn_operation::Operation::Delete(delete) => delete.return_previous = true,
            _ => {}
        }
        self
    }
}

/// The key an operation is about.
pub(crate) fn key_of(operation: &v1::txn_operation::Operation) -> &Bytes {
    use v1::txn_operation::Operation as Kind;
    match operation {
        Kind::Get(get) => &get.key,
        Kind::Put(put) => &put.key,
        Kind::Delete(delete) => &delete.key,
        Kind::Increment(increment) => &increment.key,
    }
}

/// How two sides of a comparison relate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// The same.
    Equal,
    /// Not the same.
    NotEqual,
    /// What stands there is less.
    Less,
    /// What stands there is greater.
    Greater,
}

impl From<Relation> for v1::compare::Operator {
    fn from(relation: Relation) -> Self {
        match relation {
            Relation::Equal => Self::Equal,
            Relation::NotEqual => Self::NotEqual,
            Relation::Less => Self::Less,
            Relation::Greater => Self::Greater,
        }
    }
}

/// One thing a transaction looks at before it acts.
#[derive(Clone, Debug, PartialEq)]
pub struct Compare(pub(crate) v1::Compare);

impl Compare {
    /// The key exists.
    pub fn exists(key: impl Into<Bytes>) -> Self {
        Self::new(key, Relation::Equal, v1::compare::Target::Exists(true))
    }

    /// The key does not exist.
    pub fn missing(key: impl Into<Bytes>) -> Self {
        Self::new(key, Relation::Equal, v1::compare::Target::Exists(false))
    }

    /// The key's value relates so to `value`.
    pub fn value(key: impl Into<Bytes>, is: Relation, value: impl Into<Bytes>) -> Self {
        Self::new(key, is, v1::compare::Target::Value(value.into()))
    }

    /// The key's revision relates so to `revision`; a missing key has revision 0.
    pub fn revision(key: impl Into<Bytes>, is: Relation, revision: Revision) -> Self {
        Self::new(key, is, v1::compare::Target::Revision(revision.0))
    }

    /// The revision at which the key's life began relates so to `revision`.
    pub fn create_revision(key: impl Into<Bytes>, is: Relation, revision: Revision) -> Self {
        Self::new(key, is, v1::compare::Target::CreateRevision(revision.0))
    }

    /// How many times the key was written relates so to `version`; a missing key has 0.
    pub fn version(key: impl Into<Bytes>, is: Relation, version: u64) -> Self {
        Self::new(key, is, v1::compare::Target::Version(version))
    }

    /// The lease the key is bound to relates so to `lease`.
    pub fn lease(key: impl Into<Bytes>, is: Relation, lease: LeaseId) -> Self {
        Self::new(key, is, v1::compare::Target::LeaseId(lease.0))
    }

    fn new(key: impl Into<Bytes>, is: Relation, target: v1::compare::Target) -> Self {
        let operator = v1::compare::Operator::from(is).into();
        Self(v1::Compare { key: key.into(), operator, target: Some(target) })
    }
}
