//! Messages of the public API from and to the types of [`crate::api`].

use std::time::Duration;

use bytes::Bytes;
use holdfast_kv as kv;
use holdfast_kv::command::{
    Compare, CompareTarget, Comparison, Condition, Delete, Get, Increment, Put, RangeRead, Txn,
    TxnOperation, TxnStep,
};
use holdfast_model::{ClientId, RangeId, Revision, limits as ceiling};
use holdfast_wire::v1;

use crate::api::{ApiError, Point, ReadOptions, SessionTag};
use crate::convert;
use crate::limits;

/// Keys of a range read in a transaction that does not say.
const TXN_RANGE_KEYS: u32 = 1_000;

pub(super) fn read_options(message: Option<v1::ReadOptions>) -> Result<ReadOptions, ApiError> {
    let Some(message) = message else { return Ok(ReadOptions::default()) };
    let level = v1::ReadLevel::try_from(message.level)
        .map_err(|_| ApiError::Invalid(format!("read level: 0 to 3, given {}", message.level)))?;
    let bound = message.max_staleness_ms;
    let points = message.min_points.into_iter().map(|p| {
        let point = Point { revision: Revision(p.revision), clock_ms: p.clock_ms };
        (RangeId(p.range_id), point)
    });
    Ok(ReadOptions {
        level: convert::level_from(level),
        max_staleness: (bound != 0).then(|| Duration::from_millis(bound)),
        min_points: points.collect(),
    })
}

pub(super) fn client_id(bytes: &[u8]) -> Result<ClientId, ApiError> {
    ClientId::from_bytes(bytes)
        .ok_or_else(|| ApiError::Invalid(format!("client id: 16 bytes, given {}", bytes.len())))
}

pub(super) fn session(tag: Option<v1::SessionTag>) -> Result<Option<SessionTag>, ApiError> {
    let Some(tag) = tag else { return Ok(None) };
    let client = client_id(&tag.client_id)?;
    Ok(Some(SessionTag { client, seq: tag.seq, watermark: tag.watermark }))
}

pub(super) fn condition(message: Option<v1::Condition>) -> Result<Option<Condition>, ApiError> {
    use v1::condition::Kind;
    let Some(message) = message else { return Ok(None) };
    match message.kind {
        Some(Kind::IfAbsent(_)) => Ok(Some(Condition::IfAbsent(()))),
        Some(Kind::IfRevision(0)) => {
            Err(ApiError::Invalid("if_revision: at least 1, given 0 (use if_absent)".into()))
        }
        Some(Kind::IfRevision(revision)) => Ok(Some(Condition::IfRevision(revision))),
        Some(Kind::IfValue(value)) => Ok(Some(Condition::IfValue(value))),
        None => Err(ApiError::Invalid("condition: none of its kinds is set".into())),
    }
}

/// A TTL as the state machine takes it: 0 = none, which a caller cannot ask for.
pub(super) fn ttl(ttl_ms: Option<u64>) -> Result<u64, ApiError> {
    match ttl_ms {
        None => Ok(0),
        Some(ttl_ms) => limits::ttl(ttl_ms).map(|()| ttl_ms),
    }
}

pub(super) fn txn_put(put: v1::TxnPut, condition: Option<Condition>) -> Result<Put, ApiError> {
    let v1::TxnPut { key, value, ttl_ms, lease_id, return_previous } = put;
    if ttl_ms.is_some() && lease_id != 0 {
        return Err(ApiError::Invalid("ttl_ms and lease_id: not both".into()));
    }
    Ok(Put { key, value, ttl_ms: ttl(ttl_ms)?, lease: lease_id, return_previous, condition })
}

pub(super) fn txn(request: v1::TxnRequest) -> Result<Txn, ApiError> {
    let count = request.compares.len() + request.success.len() + request.failure.len();
    limits::at_most("operations of a transaction", ceiling::TRANSACTION_OPERATIONS_MAX, count)?;
    let steps = |operations: Vec<v1::TxnOperation>| {
        operations.into_iter().map(txn_step).collect::<Result<Vec<_>, _>>()
    };
    Ok(Txn {
        compares: request.compares.into_iter().map(compare).collect::<Result<_, _>>()?,
        success: steps(request.success)?,
        failure: steps(request.failure)?,
    })
}

fn txn_step(operation: v1::TxnOperation) -> Result<TxnStep, ApiError> {
    use v1::txn_operation::Operation;
    let operation = match operation.operation {
        Some(Operation::Get(get)) if get.range_end.is_empty() => {
            TxnOperation::Get(Get { key: get.key })
        }
        Some(Operation::Get(get)) => {
            let limit = if get.limit == 0 { TXN_RANGE_KEYS } else { get.limit };
            limits::at_most("keys of a read", ceiling::SCAN_PAGE_KEYS_MAX, limit as usize)?;
            TxnOperation::Range(RangeRead {
                start: get.key,
                end: get.range_end,
                limit,
                ..RangeRead::default()
            })
        }
        Some(Operation::Put(put)) => TxnOperation::Put(txn_put(put, None)?),
        Some(Operation::Delete(v1::TxnDelete { key, return_previous })) => {
            TxnOperation::Delete(Delete { key, return_previous, condition: None })
        }
        Some(Operation::Increment(v1::TxnIncrement { key, delta })) => {
            TxnOperation::Increment(Increment { key, delta, ttl_ms: 0 })
        }
        None => return Err(ApiError::Invalid("operation of a transaction: none is set".into())),
    };
    Ok(TxnStep { operation: Some(operation) })
}

fn compare(message: v1::Compare) -> Result<Compare, ApiError> {
    use v1::compare::{Operator, Target};
    let comparison = match Operator::try_from(message.operator) {
        Ok(Operator::Equal) => Comparison::Equal,
        Ok(Operator::NotEqual) => Comparison::NotEqual,
        Ok(Operator::Less) => Comparison::Less,
        Ok(Operator::Greater) => Comparison::Greater,
        Ok(Operator::Unspecified) | Err(_) => {
            let text = format!("operator of a compare: 1 to 4, given {}", message.operator);
            return Err(ApiError::Invalid(text));
        }
    };
    let target = match message.target {
        Some(Target::Revision(revision)) => CompareTarget::Revision(revision),
        Some(Target::CreateRevision(revision)) => CompareTarget::CreateRevision(revision),
        Some(Target::Version(version)) => CompareTarget::Version(version),
        Some(Target::Value(value)) => CompareTarget::Value(value),
        Some(Target::LeaseId(lease)) => CompareTarget::Lease(lease),
        Some(Target::Exists(exists)) => CompareTarget::Exists(exists),
        None => return Err(ApiError::Invalid("target of a compare: none is set".into())),
    };
    let (key, end) = (message.key, Bytes::new());
    Ok(Compare { key, end, comparison: comparison.into(), target: Some(target) })
}

pub(super) fn txn_result(result: kv::TxnResult) -> v1::TxnResult {
    let entries = |entry: Option<kv::Entry>| entry.map(convert::entry).into_iter().collect();
    match result {
        kv::TxnResult::Get(entry) => {
            let count = u64::from(entry.is_some());
            v1::TxnResult { entries: entries(entry), count, ..Default::default() }
        }
        kv::TxnResult::Range { entries, more } => {
            let entries: Vec<_> = entries.into_iter().map(convert::entry).collect();
            let count = entries.len() as u64;
            v1::TxnResult { entries, count, more, ..Default::default() }
        }
        kv::TxnResult::Put { previous } => {
            v1::TxnResult { entries: entries(previous), count: 1, ..Default::default() }
        }
        kv::TxnResult::Delete { count, previous } => {
            let entries = previous.into_iter().map(convert::entry).collect();
            v1::TxnResult { entries, count, ..Default::default() }
        }
        kv::TxnResult::Increment(value) => v1::TxnResult { count: 1, value, ..Default::default() },
        // The public API has no nested transactions to ask for.
        kv::TxnResult::Txn { .. } => v1::TxnResult::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_of_zero_is_refused_and_none_means_for_ever() {
        assert_eq!(ttl(None), Ok(0));
        assert_eq!(ttl(Some(1_000)), Ok(1_000));
        assert!(ttl(Some(0)).is_err());
        assert!(ttl(Some(999)).is_err());
        assert!(ttl(Some(u64::MAX)).is_err());
    }

    #[test]
    fn a_ttl_and_a_lease_contradict_each_other() {
        let put = v1::TxnPut { ttl_ms: Some(5_000), lease_id: 7, ..Default::default() };
        assert!(matches!(txn_put(put, None), Err(ApiError::Invalid(_))));
    }

    #[test]
    fn a_condition_without_a_kind_is_not_taken_for_no_condition() {
        assert_eq!(condition(None), Ok(None));
        assert!(condition(Some(v1::Condition { kind: None })).is_err());
        let zero = v1::condition::Kind::IfRevision(0);
        assert!(condition(Some(v1::Condition { kind: Some(zero) })).is_err());
    }

    #[test]
    fn an_unknown_read_level_is_refused() {
        let message = |level| Some(v1::ReadOptions { level, ..Default::default() });
        assert!(read_options(message(3)).is_ok());
        assert!(read_options(message(4)).is_err());
    }

    #[test]
    fn a_transaction_over_its_limit_is_refused_by_count() {
        let get = v1::TxnOperation {
            operation: Some(v1::txn_operation::Operation::Get(Default::default())),
        };
        let request =
            |count| v1::TxnRequest { success: vec![get.clone(); count], ..Default::default() };
        assert!(txn(request(128)).is_ok());
        let error = txn(request(129)).unwrap_err();
        assert_eq!(error, ApiError::too_large("operations of a transaction", 128, 129));
    }
}
