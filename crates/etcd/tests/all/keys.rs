//! Keys: puts, ranges, removals, transactions, compaction.

use futures_util::TryStreamExt;
use holdfast_wire::etcd::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use holdfast_wire::etcd::etcdserverpb::range_request::{SortOrder, SortTarget};
use holdfast_wire::etcd::etcdserverpb::request_op::Request as Step;
use holdfast_wire::etcd::etcdserverpb::response_op::Response as Part;
use holdfast_wire::etcd::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};

use super::harness::{Running, all, delete, keys, one, put, put_request, range, soon};

pub fn step(step: Step) -> RequestOp {
    RequestOp { request: Some(step) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revisions_begin_at_one_and_grow_by_one_with_every_change() {
    let running = Running::start().await;
    let mut kv = running.kv().await;
    let header = range(&mut kv, all()).await.header.unwrap();
    assert_eq!(header.revision, 1);
    assert!(header.cluster_id != 0 && header.member_id != 0 && header.raft_term != 0);
    assert_eq!(put(&mut kv, "a", "1").await.header.unwrap().revision, 2);
    assert_eq!(put(&mut kv, "a", "2").await.header.unwrap().revision, 3);
    let found = range(&mut kv, one("a")).await;
    let entry = &found.kvs[0];
    assert_eq!((entry.create_revision, entry.mod_revision, entry.version), (2, 3, 2));
    assert_eq!((entry.value.as_ref(), found.count, found.more), (b"2".as_slice(), 1, false));
    assert_eq!(delete(&mut kv, "nothing").await, 0);
    assert_eq!(range(&mut kv, all()).await.header.unwrap().revision, 3, "nothing was removed");
    assert_eq!(delete(&mut kv, "a").await, 1);
    assert_eq!(put(&mut kv, "a", "3").await.header.unwrap().revision, 5);
    let entry = range(&mut kv, one("a")).await.kvs.remove(0);
    assert_eq!((entry.create_revision, entry.version), (5, 1));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_tells_what_was_there_and_keeps_what_it_is_asked_to() {
    let running = Running::start().await;
    let mut kv = running.kv().await;
    put(&mut kv, "a", "1").await;
    let request = PutRequest { prev_kv: true, ..put_request("a", "2") };
    let before = soon(kv.put(request)).await.unwrap().into_inner().prev_kv.unwrap();
    assert_eq!((before.value.as_ref(), before.mod_revision), (b"1".as_slice(), 2));
    let kept = PutRequest { ignore_value: true, prev_kv: true, ..put_request("a", "") };
    let answer = soon(kv.put(kept)).await.unwrap().into_inner();
    assert_eq!(answer.header.unwrap().revision, 4);
    let entry = range(&mut kv, one("a")).await.kvs.remove(0);
    assert_eq!((entry.value.as_ref(), entry.mod_revision), (b"2".as_slice(), 4));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_is_sorted_limited_counted_and_read_at_its_revision() {
    let running = Running::start().await;
    let mut kv = running.kv().await;
    for (key, value) in [("a", "3"), ("b", "2"), ("c", "1"), ("a", "9")] {
        put(&mut kv, key, value).await;
    }
    let limited = range(&mut kv, RangeRequest { limit: 2, ..all() }).await;
    assert_eq!(
        (keys(&limited), limited.more, limited.count),
        (vec!["a".into(), "b".into()], true, 3)
    );
    let sorted = RangeRequest {
        sort_order: SortOrder::Descend.into(),
        sort_target: SortTarget::Mod.into(),
        ..all()
    };
    assert_eq!(keys(&range(&mut kv, sorted).await), ["a", "c", "b"]);
    let before = range(&mut kv, RangeRequest { revision: 3, ..all() }).await;
    assert_eq!(
        (keys(&before), before.kvs[0].value.as_ref()),
        (vec!["a".into(), "b".into()], b"3".as_slice())
    );
    assert_eq!(before.header.unwrap().revision, 5, "that of now");
    let counted = range(&mut kv, RangeRequest { count_only: true, ..all() }).await;
    assert_eq!((counted.count, counted.kvs.len()), (3, 0));
    let serializable = RangeRequest { serializable: true, range_end: "c".into(), ..one("b") };
    assert_eq!(keys(&range(&mut kv, serializable).await), ["b"]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_compares_then_changes_everything_at_one_revision() {
    let running = Running::start().await;
    let mut kv = running.kv().await;
    put(&mut kv, "a", "1").await;
    let compare = |version| Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Version.into(),
        key: "a".into(),
        target_union: Some(TargetUnion::Version(version)),
        ..Default::default()
    };
    let txn = |version| TxnRequest {
        compare: vec![compare(version)],
        success: vec![
            step(Step::RequestPut(put_request("b", "2"))),
            step(Step::RequestDeleteRange(DeleteRangeRequest {
                key: "a".into(),
                prev_kv: true,
                ..Default::default()
            })),
            step(Step::RequestRange(all())),
        ],
        failure: vec![step(Step::RequestRange(one("a")))],
    };
    let held = soon(kv.txn(txn(1))).await.unwrap().into_inner();
    assert!(held.succeeded);
    assert_eq!(held.header.unwrap().revision, 3);
    let Some(Part::ResponseDeleteRange(deleted)) = &held.responses[1].response else { panic!() };
    assert_eq!((deleted.deleted, deleted.prev_kvs[0].value.as_ref()), (1, b"1".as_slice()));
    let Some(Part::ResponseRange(found)) = &held.responses[2].response else { panic!() };
    assert_eq!(keys(found), ["b"]);
    let failed = soon(kv.txn(txn(1))).await.unwrap().into_inner();
    assert!(!failed.succeeded);
    assert_eq!(failed.header.unwrap().revision, 3, "nothing has changed");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interval_is_removed_at_one_revision() {
    let running = Running::start().await;
    let mut kv = running.kv().await;
    for key in ["a", "b", "c"] {
        put(&mut kv, key, "x").await;
    }
    let (key, range_end) = ("a".into(), "c".into());
    let request = DeleteRangeRequest { key, range_end, prev_kv: true };
    let answer = soon(kv.delete_range(request)).await.unwrap().into_inner();
    assert_eq!((answer.deleted, answer.prev_kvs.len()), (2, 2));
    assert_eq!(answer.header.unwrap().revision, 5);
    assert_eq!(keys(&range(&mut kv, all()).await), ["c"]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_compacted_cannot_be_read_and_the_rest_can() {
    let running = Running::start().await;
    let mut kv = running.kv().await;
    for value in ["1", "2", "3"] {
        put(&mut kv, "a", value).await;
    }
    let compact = |revision| CompactionRequest { revision, physical: true };
    let header = soon(kv.compact(compact(3))).await.unwrap().into_inner().header.unwrap();
    assert_eq!(header.revision, 4);
    let old = soon(kv.range(RangeRequest { revision: 2, ..one("a") })).await.unwrap_err();
    assert_eq!(old.message(), "etcdserver: mvcc: required revision has been compacted");
    let kept = range(&mut kv, RangeRequest { revision: 3, ..one("a") }).await;
    assert_eq!(kept.kvs[0].value.as_ref(), b"2");
    let again = soon(kv.compact(compact(3))).await.unwrap_err();
    assert_eq!(again.message(), "etcdserver: mvcc: required revision has been compacted");
    let future = soon(kv.compact(compact(99))).await.unwrap_err();
    assert_eq!(future.message(), "etcdserver: mvcc: required revision is a future revision");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_streamed_range_is_one_range_in_pieces() {
    let running = Running::start().await;
    let mut kv = running.kv().await;
    for n in 0..40 {
        put(&mut kv, &format!("k{n:02}"), "x").await;
    }
    let whole = range(&mut kv, all()).await;
    let stream = soon(kv.range_stream(all())).await.unwrap().into_inner();
    let pieces: Vec<_> = soon(stream.try_collect::<Vec<_>>()).await.unwrap();
    let pieces: Vec<_> = pieces.into_iter().map(|piece| piece.range_response.unwrap()).collect();
    assert!(pieces.len() > 1);
    let last = pieces.last().unwrap();
    assert_eq!((last.count, &last.header), (40, &whole.header));
    let kvs: Vec<_> = pieces.iter().flat_map(|piece| piece.kvs.clone()).collect();
    assert_eq!(kvs, whole.kvs);
    running.stop().await;
}
