//! Bad input of every kind: its own clear error, and nothing changed.

use bytes::Bytes;
use holdfast_wire::v1::{self, ErrorCode};
use tonic::Code;

use super::harness::{Running, get, put, raw_call, refused};

const MIB: usize = 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_key_and_value_are_taken_and_one_byte_more_is_refused() {
    let running = Running::single().await;
    let mut kv = running.kv().await;
    let value = Bytes::from(vec![7; 10 * MIB]);
    kv.put(put(vec![1; 4096], value.clone())).await.unwrap();
    let found = kv.get(get(vec![1; 4096])).await.unwrap().into_inner();
    assert!(found.entry.unwrap().value == value);
    let error = kv.put(put("k", vec![7; 10 * MIB + 1])).await.unwrap_err();
    let info = refused(&error, Code::InvalidArgument, ErrorCode::TooLarge);
    assert_eq!(info.bound, 10 * MIB as u64);
    assert!(info.message.contains("10485760") && info.message.contains("10485761"));
    let error = kv.put(put(vec![1; 4097], "v")).await.unwrap_err();
    assert_eq!(refused(&error, Code::InvalidArgument, ErrorCode::TooLarge).bound, 4096);
    let error = kv.get(get(vec![1; 4097])).await.unwrap_err();
    refused(&error, Code::InvalidArgument, ErrorCode::TooLarge);
    assert!(!kv.get(get("k")).await.unwrap().into_inner().found);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_over_the_limit_is_refused_with_the_limit() {
    let running = Running::single().await;
    let error = running.kv().await.put(put("k", vec![7; 17 * MIB])).await.unwrap_err();
    let info = refused(&error, Code::InvalidArgument, ErrorCode::TooLarge);
    assert_eq!(info.bound, 16 * MIB as u64);
    assert!(!running.kv().await.get(get("k")).await.unwrap().into_inner().found);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_message_are_refused_as_malformed() {
    let running = Running::single().await;
    for method in ["/holdfast.v1.Kv/Put", "/holdfast.v1.Lease/Grant", "/holdfast.v1.Cluster/Map"] {
        let body = Bytes::from_static(&[0xff, 0xff, 0xff, 0x01]);
        let error = raw_call(running.channel().await, method, body).await.unwrap_err();
        refused(&error, Code::InvalidArgument, ErrorCode::Malformed);
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_make_no_sense_are_refused_before_anything_is_proposed() {
    let running = Running::single().await;
    let mut kv = running.kv().await;
    let before = kv.put(put("k", "v")).await.unwrap().into_inner().revision;
    let ttl = |ttl_ms| v1::PutRequest { ttl_ms: Some(ttl_ms), ..put("k", "x") };
    let condition =
        |kind| v1::PutRequest { condition: Some(v1::Condition { kind }), ..put("k", "x") };
    let puts = [
        put("", "x"),
        ttl(0),
        ttl(999),
        v1::PutRequest { lease_id: 5, ..ttl(5_000) },
        condition(None),
        condition(Some(v1::condition::Kind::IfRevision(0))),
        v1::PutRequest {
            session: Some(v1::SessionTag { client_id: "short".into(), seq: 1, watermark: 1 }),
            ..put("k", "x")
        },
    ];
    for request in puts {
        let error = kv.put(request).await.unwrap_err();
        refused(&error, Code::InvalidArgument, ErrorCode::Invalid);
    }
    let error = kv.put(ttl(11 * 365 * 86_400_000)).await.unwrap_err();
    refused(&error, Code::InvalidArgument, ErrorCode::TooLarge);
    let keys = (0..1_001).map(|index| format!("k{index}").into()).collect();
    let error = kv.batch_get(v1::BatchGetRequest { keys, ..Default::default() }).await.unwrap_err();
    let info = refused(&error, Code::InvalidArgument, ErrorCode::TooLarge);
    assert_eq!(info.bound, 1_000);
    let error = kv.batch_write(v1::BatchWriteRequest::default()).await.unwrap_err();
    refused(&error, Code::InvalidArgument, ErrorCode::Invalid);
    let after = kv.put(put("k", "v")).await.unwrap().into_inner().revision;
    assert_eq!(after, before + 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_keyspace_and_keys_of_several_ranges_are_told_apart() {
    use v1::txn_operation::Operation;
    let running = Running::single().await;
    let mut kv = running.kv().await;
    let request = v1::GetRequest { keyspace: "nowhere".into(), ..get("k") };
    let error = kv.get(request).await.unwrap_err();
    let info = refused(&error, Code::NotFound, ErrorCode::UnknownKeyspace);
    assert!(info.message.contains("nowhere") && !info.retryable);
    let get = |key: String| {
        let get = v1::TxnGet { key: key.into(), ..Default::default() };
        v1::TxnOperation { operation: Some(Operation::Get(get)) }
    };
    let success = (0..20).map(|index| get(format!("k{index}"))).collect();
    let error = kv.txn(v1::TxnRequest { success, ..Default::default() }).await.unwrap_err();
    let info = refused(&error, Code::InvalidArgument, ErrorCode::Invalid);
    assert!(info.message.contains("{tag}"), "{}", info.message);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_of_the_future_is_out_of_range_with_the_newest() {
    let running = Running::single().await;
    let mut kv = running.kv().await;
    let newest = kv.put(put("k", "v")).await.unwrap().into_inner().revision;
    let request = v1::GetRequest { revision: newest + 1, ..get("k") };
    let error = kv.get(request).await.unwrap_err();
    let info = refused(&error, Code::OutOfRange, ErrorCode::FutureRevision);
    assert_eq!(info.bound, newest);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_increment_of_text_is_refused_and_changes_nothing() {
    let running = Running::single().await;
    let mut kv = running.kv().await;
    kv.put(put("k", "text")).await.unwrap();
    let request = v1::IncrementRequest { key: "k".into(), delta: 1, ..Default::default() };
    let error = kv.increment(request).await.unwrap_err();
    refused(&error, Code::FailedPrecondition, ErrorCode::NotANumber);
    assert_eq!(kv.get(get("k")).await.unwrap().into_inner().entry.unwrap().value, "text");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_session_is_expired_and_a_number_below_its_watermark_is_not_executed() {
    let running = Running::single().await;
    let mut kv = running.kv().await;
    let request = v1::PutRequest {
        session: Some(v1::SessionTag { client_id: vec![9; 16].into(), seq: 1, watermark: 1 }),
        ..put("k", "v")
    };
    let error = kv.put(request).await.unwrap_err();
    refused(&error, Code::FailedPrecondition, ErrorCode::SessionExpired);
    assert!(!kv.get(get("k")).await.unwrap().into_inner().found);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_a_cluster_says_that_it_is_not_ready() {
    let running = Running::empty().await;
    let error = running.kv().await.get(get("k")).await.unwrap_err();
    refused(&error, Code::Unavailable, ErrorCode::NotReady);
    let mut cluster = v1::cluster_client::ClusterClient::new(running.channel().await);
    let error = cluster.map(v1::MapRequest {}).await.unwrap_err();
    refused(&error, Code::Unavailable, ErrorCode::NotReady);
    let status = cluster.status(v1::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.state, "empty");
    running.stop().await;
}
