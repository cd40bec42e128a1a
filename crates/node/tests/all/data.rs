//! Puts, gets, conditions, counters, transactions, batches.

use holdfast_wire::v1::{self, condition::Kind};

use super::harness::{Running, get, level, put};

fn condition(kind: Kind) -> Option<v1::Condition> {
    Some(v1::Condition { kind: Some(kind) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_is_seen_by_a_get_of_every_level_with_its_version_data() {
    let running = Running::single().await;
    let mut kv = running.kv().await;
    let first = kv.put(put("k", "v1")).await.unwrap().into_inner();
    let second = kv.put(put("k", "v2")).await.unwrap().into_inner();
    assert!(second.applied && second.revision == first.revision + 1);
    assert_eq!((second.create_revision, second.version), (first.revision, 2));
    for read_level in [v1::ReadLevel::Linearizable, v1::ReadLevel::Lease, v1::ReadLevel::Follower] {
        let request = v1::GetRequest { read: level(read_level), ..get("k") };
        let found = kv.get(request).await.unwrap().into_inner();
        let entry = found.entry.unwrap();
        assert_eq!(entry.value, "v2");
        assert_eq!((entry.revision, entry.version), (second.revision, 2));
        assert_eq!(found.staleness.is_some(), read_level == v1::ReadLevel::Follower);
        let header = found.header.unwrap();
        assert_eq!(header.cluster_id.len(), 16);
        assert!(header.revision >= second.revision && header.range_id != 0 && header.term != 0);
        assert_eq!((header.node_id, header.leader_node_id), (1, 1));
    }
    let older = v1::GetRequest { revision: first.revision, ..get("k") };
    assert_eq!(kv.get(older).await.unwrap().into_inner().entry.unwrap().value, "v1");
    let missing = kv.get(get("other")).await.unwrap().into_inner();
    assert!(!missing.found && missing.entry.is_none());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_condition_that_does_not_hold_changes_nothing_and_shows_what_stands_there() {
    let running = Running::single().await;
    let mut kv = running.kv().await;
    let absent = v1::PutRequest { condition: condition(Kind::IfAbsent(true)), ..put("k", "v1") };
    let created = kv.put(absent.clone()).await.unwrap().into_inner();
    assert!(created.applied);
    let refused = kv.put(absent).await.unwrap().into_inner();
    assert!(!refused.applied);
    assert_eq!(refused.current.unwrap().value, "v1");
    let wrong =
        v1::PutRequest { condition: condition(Kind::IfValue("v9".into())), ..put("k", "v2") };
    assert!(!kv.put(wrong).await.unwrap().into_inner().applied);
    let right = v1::PutRequest {
        condition: condition(Kind::IfRevision(created.revision)),
        return_previous: true,
        ..put("k", "v2")
    };
    let done = kv.put(right).await.unwrap().into_inner();
    assert!(done.applied);
    assert_eq!(done.previous.unwrap().value, "v1");
    let delete = v1::DeleteRequest {
        key: "k".into(),
        condition: condition(Kind::IfValue("v1".into())),
        ..Default::default()
    };
    let kept = kv.delete(delete).await.unwrap().into_inner();
    assert!(!kept.applied && kept.deleted == 0 && kept.current.unwrap().value == "v2");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_inside_a_session_is_carried_out_once() {
    let running = Running::single().await;
    let mut kv = running.kv().await;
    let first = kv.get(get("n")).await.unwrap().into_inner().header.unwrap();
    let mut session = v1::session_client::SessionClient::new(running.channel().await);
    let open = v1::SessionOpenRequest {
        keyspace: String::new(),
        range_id: first.range_id,
        client_id: vec![7; 16].into(),
    };
    assert!(session.open(open).await.unwrap().into_inner().idle_max_ms > 0);
    let increment = v1::IncrementRequest {
        key: "n".into(),
        delta: 5,
        session: Some(v1::SessionTag { client_id: vec![7; 16].into(), seq: 1, watermark: 1 }),
        ..Default::default()
    };
    let once = kv.increment(increment.clone()).await.unwrap().into_inner();
    let again = kv.increment(increment.clone()).await.unwrap().into_inner();
    assert_eq!((once.value, again.value), (5, 5));
    assert_eq!(once.revision, again.revision);
    let mut next = increment;
    next.session.as_mut().unwrap().seq = 2;
    assert_eq!(kv.increment(next).await.unwrap().into_inner().value, 10);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_changes_all_its_keys_in_one_revision_or_none() {
    use v1::txn_operation::Operation;
    let running = Running::single().await;
    let mut kv = running.kv().await;
    let operation = |operation| v1::TxnOperation { operation: Some(operation) };
    let write = |key: &'static str| {
        let put = v1::TxnPut { key: key.into(), value: "x".into(), ..Default::default() };
        operation(Operation::Put(put))
    };
    let compare = v1::Compare {
        key: "{t}a".into(),
        operator: v1::compare::Operator::Equal.into(),
        target: Some(v1::compare::Target::Exists(false)),
    };
    let read = v1::TxnGet { key: "{t}".into(), range_end: "{u".into(), limit: 0 };
    let request = v1::TxnRequest {
        compares: vec![compare],
        success: vec![write("{t}a"), write("{t}b")],
        failure: vec![operation(Operation::Get(read))],
        ..Default::default()
    };
    let done = kv.txn(request.clone()).await.unwrap().into_inner();
    assert!(done.succeeded && done.revision != 0 && done.results.len() == 2);
    let other = kv.txn(request).await.unwrap().into_inner();
    assert!(!other.succeeded && other.revision == 0);
    let revisions: Vec<u64> = other.results[0].entries.iter().map(|e| e.revision).collect();
    assert_eq!(revisions, [done.revision, done.revision]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_over_all_ranges_answers_every_item_in_its_place() {
    use v1::batch_write_item::Operation;
    let running = Running::single().await;
    let mut kv = running.kv().await;
    let item = |index: usize| {
        let put = v1::TxnPut {
            key: format!("key-{index}").into(),
            value: format!("value-{index}").into(),
            ..Default::default()
        };
        v1::BatchWriteItem { operation: Some(Operation::Put(put)), ..Default::default() }
    };
    let items = (0..1_000).map(item).collect();
    let request = v1::BatchWriteRequest { items, ..Default::default() };
    let answer = kv.batch_write(request).await.unwrap().into_inner();
    assert_eq!(answer.results.len(), 1_000);
    assert!(answer.results.iter().all(|result| result.applied && result.revision != 0));
    let ranges: std::collections::BTreeSet<u64> =
        answer.results.iter().map(|result| result.range_id).collect();
    assert_eq!(ranges.len(), 8);
    let keys = (0..1_000).rev().map(|index| format!("key-{}", index * 2).into()).collect();
    let request = v1::BatchGetRequest { keys, ..Default::default() };
    let answer = kv.batch_get(request).await.unwrap().into_inner();
    for (place, item) in answer.items.into_iter().enumerate() {
        let index = (999 - place) * 2;
        assert_eq!(item.status.unwrap().grpc_code, 0);
        assert_eq!(item.found, index < 1_000);
        if let Some(entry) = item.entry {
            assert_eq!(entry.value, format!("value-{index}"));
        }
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_with_a_ttl_is_gone_after_its_time_at_every_strong_level() {
    let running = Running::single().await;
    let mut kv = running.kv().await;
    let short = v1::PutRequest { ttl_ms: Some(1_000), ..put("s", "x") };
    kv.put(short).await.unwrap();
    assert!(kv.get(get("s")).await.unwrap().into_inner().found);
    holdfast_runtime::sleep(std::time::Duration::from_millis(1_200)).await;
    for read_level in [v1::ReadLevel::Linearizable, v1::ReadLevel::Lease] {
        let request = v1::GetRequest { read: level(read_level), ..get("s") };
        assert!(!kv.get(request).await.unwrap().into_inner().found, "{read_level:?}");
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prefix_is_deleted_in_every_range() {
    let running = Running::single().await;
    let mut kv = running.kv().await;
    for index in 0..50 {
        kv.put(put(format!("a-{index}"), "x")).await.unwrap();
        kv.put(put(format!("b-{index}"), "x")).await.unwrap();
    }
    let request = v1::DeleteRequest { key: "a-".into(), prefix: true, ..Default::default() };
    let answer = kv.delete(request).await.unwrap().into_inner();
    assert_eq!((answer.deleted, answer.more), (50, false));
    assert!(!kv.get(get("a-7")).await.unwrap().into_inner().found);
    assert!(kv.get(get("b-7")).await.unwrap().into_inner().found);
    running.stop().await;
}
