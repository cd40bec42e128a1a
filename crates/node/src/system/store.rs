//! Range 0 as a key-value store: read, written and watched through the node's own API.
//!
//! Nothing about it is special: it is routed, forwarded and retried like any other keyspace, only
//! under the cluster's own identity.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use holdfast_kv::command::{
    Compare, CompareTarget, Comparison, Condition, Delete, Put, Txn, TxnOperation, TxnStep,
};
use holdfast_kv::{self as kv, Operation, Outcome};
use holdfast_model::limits::BATCH_OPERATIONS_MAX;
use holdfast_model::{RangeId, Revision, SYSTEM_KEYSPACE};
use holdfast_runtime::Deadline;

use super::layout::{PREFIX, Records};
use crate::api::{
    ApiError, BatchWrite, BatchWriteItem, Call, Get, Items, Kv, ReadLevel, ReadOptions, Scan,
    Watch, WatchItem, Write,
};
use crate::auth::Identity;

/// One access to range 0 takes at most this long.
pub(super) const ACCESS_TIMEOUT: Duration = Duration::from_secs(5);

/// Range 0.
#[derive(Clone)]
pub(super) struct SystemStore {
    kv: Arc<dyn Kv>,
}

/// A put of `value` under `key`, carried out while `condition` holds.
pub(super) fn put(key: Bytes, value: Vec<u8>, condition: Option<Condition>) -> Operation {
    Operation::Put(Put { key, value: value.into(), condition, ..Put::default() })
}

/// A delete of `key`, carried out while it has `revision`.
pub(super) fn delete_if(key: Bytes, revision: u64) -> Operation {
    let condition = Some(Condition::IfRevision(revision));
    Operation::Delete(Delete { key, condition, ..Delete::default() })
}

/// A comparison of a key's revision; 0 = it does not exist.
pub(super) fn at_revision(key: Bytes, revision: u64) -> Compare {
    Compare {
        key,
        end: Bytes::new(),
        comparison: Comparison::Equal.into(),
        target: Some(CompareTarget::Revision(revision)),
    }
}

/// A step of a transaction that stores a value.
pub(super) fn put_step(key: Bytes, value: Vec<u8>) -> TxnStep {
    let put = Put { key, value: value.into(), ..Put::default() };
    TxnStep { operation: Some(TxnOperation::Put(put)) }
}

impl SystemStore {
    pub(super) fn new(kv: Arc<dyn Kv>) -> Self {
        Self { kv }
    }

    fn call(deadline: Deadline) -> Call {
        let deadline = deadline.min(Deadline::after(ACCESS_TIMEOUT));
        Call { identity: Identity::system(), deadline, direct: false }
    }

    /// Reads one key, linearizably.
    pub(super) async fn get(
        &self,
        key: Bytes,
        deadline: Deadline,
    ) -> Result<Option<kv::Entry>, ApiError> {
        let get = Get { keyspace: SYSTEM_KEYSPACE.into(), key, ..Get::default() };
        Ok(self.kv.get(&Self::call(deadline), get).await?.value.entry)
    }

    /// Carries out independent writes. Conditions that do not hold are not errors: somebody else
    /// was faster, and the watch will say so.
    pub(super) async fn write(
        &self,
        operations: Vec<Operation>,
        deadline: Deadline,
    ) -> Result<(), ApiError> {
        for chunk in operations.chunks(BATCH_OPERATIONS_MAX) {
            let items = chunk
                .iter()
                .map(|operation| BatchWriteItem { operation: operation.clone(), seq: 0 })
                .collect();
            let batch = BatchWrite { keyspace: SYSTEM_KEYSPACE.into(), items, session: None };
            let answer = self.kv.batch_write(&Self::call(deadline), batch).await?;
            for result in answer.value {
                result?;
            }
        }
        Ok(())
    }

    /// Runs `success` if all compares hold; says whether they did.
    pub(super) async fn transact(
        &self,
        compares: Vec<Compare>,
        success: Vec<TxnStep>,
        deadline: Deadline,
    ) -> Result<bool, ApiError> {
        let txn = Txn { compares, success, failure: Vec::new() };
        let write = Write {
            keyspace: SYSTEM_KEYSPACE.into(),
            operation: Operation::Txn(txn),
            session: None,
        };
        match self.kv.write(&Self::call(deadline), write).await?.value {
            Outcome::Txn(outcome) => Ok(outcome.succeeded),
            other => Err(ApiError::Internal(format!("a transaction answered {other:?}"))),
        }
    }

    /// All records as fresh as `level` says, and the revision they stand for.
    pub(super) async fn records(
        &self,
        level: ReadLevel,
        deadline: Deadline,
    ) -> Result<Records, ApiError> {
        let scan = Scan {
            keyspace: SYSTEM_KEYSPACE.into(),
            prefix: Bytes::from_static(PREFIX),
            read: ReadOptions { level, ..ReadOptions::default() },
            ..Scan::default()
        };
        let call = Self::call(deadline);
        let mut pages = self.kv.scan(&call, scan);
        let mut records = Records::default();
        while let Some(page) = pages.next().await {
            let page = page?;
            if let Some((_, point)) = page.points.iter().find(|(range, _)| *range == RangeId(0)) {
                records.revision = point.revision.0;
            }
            for entry in page.entries {
                records
                    .set(&entry.key, Some(&entry.value), entry.revision.0)
                    .map_err(|e| ApiError::Internal(e.to_string()))?;
            }
        }
        Ok(records)
    }

    /// Changes from `from` on.
    pub(super) fn watch(&self, from: Revision) -> Items<WatchItem> {
        let watch = Watch {
            keyspace: SYSTEM_KEYSPACE.into(),
            key: Bytes::from_static(PREFIX),
            prefix: true,
            from,
            ..Watch::default()
        };
        self.kv.watch(&Self::call(Deadline::after(ACCESS_TIMEOUT)), watch)
    }
}
