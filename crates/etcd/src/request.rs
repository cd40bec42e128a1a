//! Requests on keys as commands of the state machine, checked in etcd's order.
//!
//! Puts and deletes that ask for nothing a native command cannot give become native ones: they
//! cost less to carry out.

use holdfast_kv::Operation;
use holdfast_kv::command::{
    Comparison, Delete, EtcdCompare, EtcdDelete, EtcdOperation, EtcdOrder, EtcdPut, EtcdRange,
    EtcdSort, EtcdStep, EtcdTarget, EtcdTxn, Put,
};
use holdfast_wire::etcd::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use holdfast_wire::etcd::etcdserverpb::request_op::Request;
use holdfast_wire::etcd::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};

use crate::EtcdError;

/// A version that no entry has: a question after it has the same answer whatever it is asked of.
const VERSION_OF_NONE: i64 = i64::MIN;

/// A range read.
///
/// # Errors
/// [`EtcdError::EmptyKey`], [`EtcdError::InvalidSortOption`].
pub fn range(request: RangeRequest) -> Result<EtcdRange, EtcdError> {
    if request.key.is_empty() {
        return Err(EtcdError::EmptyKey);
    }
    let unknown = |_| EtcdError::InvalidSortOption;
    EtcdOrder::try_from(request.sort_order).map_err(unknown)?;
    EtcdSort::try_from(request.sort_target).map_err(unknown)?;
    Ok(EtcdRange {
        key: request.key,
        range_end: request.range_end,
        limit: request.limit,
        revision: request.revision,
        order: request.sort_order,
        sort: request.sort_target,
        keys_only: request.keys_only,
        count_only: request.count_only,
        min_mod_revision: request.min_mod_revision,
        max_mod_revision: request.max_mod_revision,
        min_create_revision: request.min_create_revision,
        max_create_revision: request.max_create_revision,
        part_bytes: 0,
    })
}

/// A range read outside a transaction: what it asks of a time before the first revision is asked of
/// the present. Inside one etcd refuses it as compacted.
///
/// # Errors
/// As [`range`].
pub fn lone_range(request: RangeRequest) -> Result<EtcdRange, EtcdError> {
    let range = range(request)?;
    Ok(EtcdRange { revision: range.revision.max(0), ..range })
}

/// A put.
///
/// # Errors
/// [`EtcdError::EmptyKey`], [`EtcdError::ValueProvided`], [`EtcdError::LeaseProvided`].
pub fn put(request: PutRequest) -> Result<Operation, EtcdError> {
    let put = checked_put(request)?;
    if put.ignore_value || put.ignore_lease {
        let success = vec![EtcdOperation::Put(put).into()];
        return Ok(EtcdTxn { success, ..EtcdTxn::default() }.into());
    }
    let EtcdPut { key, value, lease, return_previous, .. } = put;
    Ok(Put { key, value, lease, return_previous, ..Put::default() }.into())
}

/// A removal of a key or an interval.
///
/// # Errors
/// [`EtcdError::EmptyKey`].
pub fn delete_range(request: DeleteRangeRequest) -> Result<Operation, EtcdError> {
    let delete = checked_delete(request)?;
    if delete.range_end.is_empty() {
        let EtcdDelete { key, return_previous, .. } = delete;
        return Ok(Delete { key, return_previous, condition: None }.into());
    }
    let success = vec![EtcdOperation::DeleteRange(delete).into()];
    Ok(EtcdTxn { success, ..EtcdTxn::default() }.into())
}

/// A transaction of at most `operations_max` operations: as many as its longest list has, and in
/// nested ones as many as are left.
///
/// # Errors
/// [`EtcdError::TooManyOperations`], and those of its steps. That nothing is written twice is
/// checked with the command.
pub fn txn(request: TxnRequest, operations_max: usize) -> Result<EtcdTxn, EtcdError> {
    let TxnRequest { compare, success, failure } = request;
    let operations = compare.len().max(success.len()).max(failure.len());
    let left = operations_max.checked_sub(operations).ok_or(EtcdError::TooManyOperations)?;
    if compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(EtcdError::EmptyKey);
    }
    Ok(EtcdTxn {
        compares: compare.into_iter().map(question).collect(),
        success: steps(success, left)?,
        failure: steps(failure, left)?,
    })
}

fn steps(requests: Vec<RequestOp>, operations_max: usize) -> Result<Vec<EtcdStep>, EtcdError> {
    let step = |request: RequestOp| {
        let operation = match request.request.ok_or(EtcdError::KeyNotFound)? {
            Request::RequestRange(request) => EtcdOperation::Range(range(request)?),
            Request::RequestPut(request) => EtcdOperation::Put(checked_put(request)?),
            Request::RequestDeleteRange(request) => {
                EtcdOperation::DeleteRange(checked_delete(request)?)
            }
            Request::RequestTxn(request) => EtcdOperation::Txn(txn(request, operations_max)?),
        };
        Ok(operation.into())
    };
    requests.into_iter().map(step).collect()
}

fn checked_put(request: PutRequest) -> Result<EtcdPut, EtcdError> {
    if request.key.is_empty() {
        return Err(EtcdError::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(EtcdError::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(EtcdError::LeaseProvided);
    }
    Ok(EtcdPut {
        key: request.key,
        value: request.value,
        lease: request.lease.cast_unsigned(),
        return_previous: request.prev_kv,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    })
}

fn checked_delete(request: DeleteRangeRequest) -> Result<EtcdDelete, EtcdError> {
    if request.key.is_empty() {
        return Err(EtcdError::EmptyKey);
    }
    let DeleteRangeRequest { key, range_end, prev_kv } = request;
    Ok(EtcdDelete { key, range_end, return_previous: prev_kv })
}

/// A compare. etcd takes one whose figure is of another kind as a compare with nothing, one with
/// an unknown result as true, and figures of an unknown kind as equal.
fn question(request: Compare) -> EtcdCompare {
    let Compare { result, target, key, range_end, target_union: given } = request;
    let result = CompareResult::try_from(result).ok();
    let (comparison, target) = match (result, CompareTarget::try_from(target)) {
        (Some(result), Ok(target)) => (comparison(result), figure(target, given)),
        (Some(CompareResult::Equal) | None, _) => {
            (Comparison::NotEqual, EtcdTarget::Version(VERSION_OF_NONE))
        }
        (Some(_), Err(_)) => (Comparison::Equal, EtcdTarget::Version(VERSION_OF_NONE)),
    };
    EtcdCompare { key, range_end, comparison: comparison.into(), target: Some(target) }
}

fn comparison(result: CompareResult) -> Comparison {
    match result {
        CompareResult::Equal => Comparison::Equal,
        CompareResult::Greater => Comparison::Greater,
        CompareResult::Less => Comparison::Less,
        CompareResult::NotEqual => Comparison::NotEqual,
    }
}

fn figure(target: CompareTarget, given: Option<TargetUnion>) -> EtcdTarget {
    match (target, given) {
        (CompareTarget::Version, Some(TargetUnion::Version(given))) => EtcdTarget::Version(given),
        (CompareTarget::Version, _) => EtcdTarget::Version(0),
        (CompareTarget::Create, Some(TargetUnion::CreateRevision(given))) => {
            EtcdTarget::CreateRevision(given)
        }
        (CompareTarget::Create, _) => EtcdTarget::CreateRevision(0),
        (CompareTarget::Mod, Some(TargetUnion::ModRevision(given))) => {
            EtcdTarget::ModRevision(given)
        }
        (CompareTarget::Mod, _) => EtcdTarget::ModRevision(0),
        (CompareTarget::Value, Some(TargetUnion::Value(given))) => EtcdTarget::Value(given),
        (CompareTarget::Value, _) => EtcdTarget::Value(bytes::Bytes::new()),
        (CompareTarget::Lease, Some(TargetUnion::Lease(given))) => EtcdTarget::Lease(given),
        (CompareTarget::Lease, _) => EtcdTarget::Lease(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put_of(key: &'static str) -> RequestOp {
        let put = PutRequest { key: key.into(), ..PutRequest::default() };
        RequestOp { request: Some(Request::RequestPut(put)) }
    }

    #[test]
    fn a_request_without_a_key_is_refused() {
        assert_eq!(range(RangeRequest::default()), Err(EtcdError::EmptyKey));
        assert_eq!(put(PutRequest::default()), Err(EtcdError::EmptyKey));
        assert_eq!(delete_range(DeleteRangeRequest::default()), Err(EtcdError::EmptyKey));
        let compare = vec![Compare::default()];
        let request = TxnRequest { compare, ..TxnRequest::default() };
        assert_eq!(txn(request, 128), Err(EtcdError::EmptyKey));
        let success = vec![put_of("")];
        let request = TxnRequest { success, ..TxnRequest::default() };
        assert_eq!(txn(request, 128), Err(EtcdError::EmptyKey));
    }

    #[test]
    fn a_revision_before_the_first_means_the_present_outside_a_transaction_only() {
        let request = RangeRequest { key: "k".into(), revision: -5, ..RangeRequest::default() };
        assert_eq!(lone_range(request.clone()).map(|range| range.revision), Ok(0));
        assert_eq!(range(request).map(|range| range.revision), Ok(-5));
    }

    #[test]
    fn an_unknown_order_or_target_is_refused() {
        let request = RangeRequest { key: "k".into(), ..RangeRequest::default() };
        for (sort_order, sort_target, fine) in
            [(0, 0, true), (2, 4, true), (3, 0, false), (0, 5, false), (-1, 0, false)]
        {
            let result = range(RangeRequest { sort_order, sort_target, ..request.clone() });
            assert_eq!(result.is_ok(), fine, "{sort_order} {sort_target}");
            assert!(fine || result == Err(EtcdError::InvalidSortOption));
        }
    }

    #[test]
    fn a_put_that_keeps_something_brings_nothing_for_it() {
        let request = PutRequest { key: "k".into(), ..PutRequest::default() };
        let value = PutRequest { value: "v".into(), ignore_value: true, ..request.clone() };
        assert_eq!(put(value), Err(EtcdError::ValueProvided));
        let lease = PutRequest { lease: 7, ignore_lease: true, ..request.clone() };
        assert_eq!(put(lease), Err(EtcdError::LeaseProvided));
        let kept = PutRequest { ignore_value: true, ..request.clone() };
        assert!(matches!(put(kept), Ok(Operation::Etcd(_))));
        let plain = PutRequest { lease: -2, prev_kv: true, ..request };
        let Ok(Operation::Put(plain)) = put(plain) else { panic!("not a native put") };
        assert_eq!((plain.lease, plain.return_previous), (u64::MAX - 1, true));
    }

    #[test]
    fn one_key_is_removed_natively_and_an_interval_at_one_revision() {
        let request = DeleteRangeRequest { key: "k".into(), ..DeleteRangeRequest::default() };
        assert!(matches!(delete_range(request.clone()), Ok(Operation::Delete(_))));
        let interval = DeleteRangeRequest { range_end: "l".into(), ..request };
        let Ok(Operation::Etcd(txn)) = delete_range(interval) else { panic!("not one revision") };
        assert_eq!(txn.success.len(), 1);
    }

    #[test]
    fn nested_transactions_get_what_is_left_of_the_operations() {
        let nested = |count: usize| {
            let success = vec![put_of("k"); count];
            let inner = Request::RequestTxn(TxnRequest { success, ..TxnRequest::default() });
            TxnRequest {
                success: vec![RequestOp { request: Some(inner) }],
                ..TxnRequest::default()
            }
        };
        assert!(txn(nested(3), 4).is_ok());
        assert_eq!(txn(nested(4), 4), Err(EtcdError::TooManyOperations));
    }

    #[test]
    fn an_empty_step_is_a_key_that_is_not_found() {
        let success = vec![RequestOp { request: None }];
        let request = TxnRequest { success, ..TxnRequest::default() };
        assert_eq!(txn(request, 128), Err(EtcdError::KeyNotFound));
    }

    #[test]
    fn a_compare_without_its_figure_compares_with_nothing() {
        let of = |target: CompareTarget, given| {
            let target = target.into();
            question(Compare { target, target_union: given, ..Compare::default() }).target
        };
        assert_eq!(of(CompareTarget::Mod, None), Some(EtcdTarget::ModRevision(0)));
        let other = Some(TargetUnion::Version(9));
        assert_eq!(of(CompareTarget::Mod, other.clone()), Some(EtcdTarget::ModRevision(0)));
        assert_eq!(of(CompareTarget::Version, other), Some(EtcdTarget::Version(9)));
        assert_eq!(of(CompareTarget::Value, None), Some(EtcdTarget::Value("".into())));
    }

    #[test]
    fn a_compare_of_an_unknown_kind_takes_its_figures_for_equal() {
        let of = |result: i32, target: i32| {
            let asked = question(Compare { result, target, ..Compare::default() });
            assert_eq!(asked.target, Some(EtcdTarget::Version(VERSION_OF_NONE)));
            asked.comparison()
        };
        let equal = CompareResult::Equal.into();
        let less = CompareResult::Less.into();
        assert_eq!(of(equal, 99), Comparison::NotEqual, "always true");
        assert_eq!(of(less, 99), Comparison::Equal, "never true");
        assert_eq!(of(99, CompareTarget::Version.into()), Comparison::NotEqual, "always true");
    }
}
