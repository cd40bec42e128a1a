//! Every rule of `validate` refuses exactly what breaks it.

use bytes::Bytes;
use holdfast_kv::command::*;
use holdfast_kv::{Invalid, Limits, Operation, validate};
use holdfast_model::ClientId;

fn check(operation: impl Into<Operation>) -> Result<(), Invalid> {
    validate(&Command::single(operation), &Limits::default())
}

#[track_caller]
fn refused(operation: impl Into<Operation>, what: &str) {
    let invalid = check(operation).expect_err("accepted");
    assert!(invalid.to_string().contains(what), "{invalid}");
}

#[track_caller]
fn accepted(operation: impl Into<Operation>) {
    assert_eq!(check(operation), Ok(()));
}

fn put(key: usize, value: usize) -> Put {
    Put { key: vec![b'k'; key].into(), value: vec![0; value].into(), ..Put::default() }
}

#[test]
fn keys_values_and_ttls_have_bounds() {
    accepted(put(1, 0));
    accepted(put(4_096, 10 << 20));
    refused(put(0, 1), "bytes of a key");
    refused(put(4_097, 1), "bytes of a key");
    refused(put(1, (10 << 20) + 1), "bytes of a value");
    for (ttl_ms, fine) in [(0, true), (1_000, true), (999, false), (1, false)] {
        assert_eq!(check(Put { ttl_ms, ..put(1, 1) }).is_ok(), fine, "TTL {ttl_ms}");
    }
    let ten_years_ms = 10 * 365 * 24 * 3_600 * 1_000;
    accepted(Put { ttl_ms: ten_years_ms, ..put(1, 1) });
    refused(Put { ttl_ms: ten_years_ms + 1, ..put(1, 1) }, "TTL");
    refused(Put { ttl_ms: 1_000, lease: 1, ..put(1, 1) }, "by a TTL or by a lease");
    let condition = Some(Condition::IfValue(vec![0; (10 << 20) + 1].into()));
    refused(Delete { key: "k".into(), condition, ..Delete::default() }, "bytes of a value");
    refused(Increment::default(), "bytes of a key");
}

#[test]
fn intervals_must_not_be_backwards() {
    let delete = |start: &'static str, end: &'static str| DeleteRange {
        start: start.into(),
        end: end.into(),
        return_previous: false,
    };
    accepted(delete("", ""));
    accepted(delete("b", ""));
    accepted(delete("a", "b"));
    refused(delete("b", "a"), "interval");
    refused(delete("b", "b"), "interval");
}

#[test]
fn batches_and_requests_have_bounds() {
    let limits = Limits::default();
    let batch = |count| Command::batch((0..count).map(|_| Operation::Put(put(1, 1))));
    assert_eq!(validate(&batch(1_000), &limits), Ok(()));
    let most = Invalid::TooLarge { what: "operations of a command", limit: 1_000, given: 1_001 };
    assert_eq!(validate(&batch(1_001), &limits), Err(most));
    let least = Invalid::TooSmall { what: "operations of a command", limit: 1, given: 0 };
    assert_eq!(validate(&batch(0), &limits), Err(least));
    let heavy = Command::batch((0..2).map(|_| Operation::Put(put(1, 9 << 20))));
    let error = validate(&heavy, &limits).expect_err("accepted");
    assert!(error.to_string().starts_with("bytes of a command: at most"), "{error}");
    let empty = Command { items: vec![Item::default()], ..Command::default() };
    assert_eq!(validate(&empty, &limits), Err(Invalid::Rule("an operation is missing")));
}

#[test]
fn numbers_of_a_session_must_grow_from_the_watermark() {
    let limits = Limits::default();
    let command = || Command::batch([Operation::Put(put(1, 1)), Operation::Put(put(1, 1))]);
    let check =
        |command: &Command| validate(command, &limits).map_err(|invalid| invalid.to_string());
    assert_eq!(check(&command().in_session(ClientId(1), 4, 4)), Ok(()));
    assert!(check(&command().in_session(ClientId(1), 5, 4)).is_err());
    let mut twice = command().in_session(ClientId(1), 1, 4);
    twice.items[1].seq = 4;
    assert!(check(&twice).unwrap_err().contains("behind another: at least 5, given 4"));
    let mut short = command().in_session(ClientId(1), 1, 4);
    short.session = Some(SessionTag { client: "short".into(), watermark: 1 });
    assert!(check(&short).unwrap_err().contains("bytes of a client id: at least 16, given 5"));
    let open = Command::single(SessionOpen { client: vec![1; 16].into() });
    assert!(check(&open.in_session(ClientId(1), 1, 1)).unwrap_err().contains("sessions"));
    refused(SessionOpen { client: vec![1; 15].into() }, "client id");
    refused(SessionClose { client: vec![1; 17].into() }, "client id");
}

#[test]
fn leases_and_locks_have_bounds() {
    accepted(LeaseGrant { id: 1, ttl_ms: 1_000 });
    refused(LeaseGrant { id: 0, ttl_ms: 1_000 }, "lease id");
    refused(LeaseGrant { id: 1, ttl_ms: 0 }, "TTL");
    refused(LeaseRevoke { id: 0 }, "lease id");
    refused(Renew { leases: vec![1; 10_001] }, "renewal");
    let lock = LockAcquire {
        name: "l".into(),
        owner: "o".into(),
        ttl_ms: 1_000,
        ..LockAcquire::default()
    };
    accepted(lock.clone());
    accepted(LockAcquire { ttl_ms: 0, lease: 1, ..lock.clone() });
    refused(LockAcquire { ttl_ms: 0, ..lock.clone() }, "TTL or by a lease");
    refused(LockAcquire { lease: 1, ..lock.clone() }, "TTL or by a lease");
    refused(LockAcquire { ttl_ms: 1, ..lock.clone() }, "TTL");
    refused(LockAcquire { name: Bytes::new(), ..lock.clone() }, "lock's name");
    refused(LockAcquire { name: vec![0; 256].into(), ..lock.clone() }, "lock's name");
    refused(LockAcquire { owner: Bytes::new(), ..lock.clone() }, "lock's owner");
    refused(LockAcquire { owner: vec![0; 65].into(), ..lock.clone() }, "lock's owner");
    refused(LockAcquire { value: vec![0; 1_025].into(), ..lock }, "lock's value");
    let release = LockRelease { name: "l".into(), token: 3, ..LockRelease::default() };
    accepted(release.clone());
    refused(LockRelease { token: 0, ..release }, "lock's owner");
}

fn steps(operations: Vec<TxnOperation>) -> Vec<TxnStep> {
    operations.into_iter().map(TxnStep::from).collect()
}

fn in_txn(operations: Vec<TxnOperation>) -> Txn {
    Txn { success: steps(operations), ..Txn::default() }
}

fn store(key: &'static str) -> TxnOperation {
    TxnOperation::Put(Put { key: key.into(), ..Put::default() })
}

fn remove(start: &'static str, end: &'static str) -> TxnOperation {
    let (start, end) = (start.into(), end.into());
    TxnOperation::DeleteRange(DeleteRange { start, end, return_previous: false })
}

#[test]
fn a_transaction_writes_a_key_at_most_once() {
    let twice = "each key at most once";
    accepted(in_txn(vec![store("a"), store("b"), remove("c", "d")]));
    refused(in_txn(vec![store("a"), store("a")]), twice);
    refused(in_txn(vec![store("a"), remove("a", "b")]), twice);
    refused(in_txn(vec![remove("", ""), store("x")]), twice);
    accepted(in_txn(vec![remove("a", "b"), store("b")]));
    accepted(in_txn(vec![remove("a", "c"), remove("b", "d")]));
    let add = TxnOperation::Increment(Increment { key: "a".into(), delta: 1, ttl_ms: 0 });
    refused(in_txn(vec![add.clone(), store("a")]), twice);
    let either = Txn {
        success: steps(vec![store("a")]),
        failure: steps(vec![store("a")]),
        ..Txn::default()
    };
    accepted(either.clone());
    accepted(in_txn(vec![TxnOperation::Txn(either.clone()), store("b")]));
    refused(in_txn(vec![TxnOperation::Txn(either), store("a")]), twice);
}

#[test]
fn transactions_have_bounds_and_no_conditions() {
    let get = || TxnOperation::Get(Get { key: "a".into() });
    accepted(in_txn((0..128).map(|_| get()).collect()));
    refused(in_txn((0..129).map(|_| get()).collect()), "operations of a transaction");
    let mut nested = in_txn(vec![get()]);
    for _ in 1..4 {
        nested = in_txn(vec![TxnOperation::Txn(nested)]);
    }
    accepted(nested.clone());
    refused(in_txn(vec![TxnOperation::Txn(nested)]), "nested");
    let conditional =
        Put { key: "a".into(), condition: Some(Condition::IfAbsent(())), ..Put::default() };
    refused(in_txn(vec![TxnOperation::Put(conditional)]), "conditions");
    refused(Txn { success: vec![TxnStep::default()], ..Txn::default() }, "missing");
    let compare = |comparison: i32, target| Txn {
        compares: vec![Compare { key: "a".into(), comparison, target, ..Compare::default() }],
        ..Txn::default()
    };
    accepted(compare(0, Some(CompareTarget::Exists(true))));
    refused(compare(2, Some(CompareTarget::Exists(true))), "existence");
    refused(compare(9, Some(CompareTarget::Version(1))), "comparison");
    refused(compare(0, None), "target");
}
