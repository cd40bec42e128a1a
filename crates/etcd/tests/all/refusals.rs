//! What is refused, in etcd's words.

use holdfast_wire::etcd::etcdserverpb::request_op::Request as Step;
use holdfast_wire::etcd::etcdserverpb::{PutRequest, RangeRequest, TxnRequest};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};

use super::harness::{Kv, Running, one, put_request, soon};
use super::keys::step;

async fn refused(kv: &mut Kv, request: PutRequest) -> Status {
    soon(kv.put(request)).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_request_is_refused_in_the_words_its_clients_look_for() {
    let running = Running::start().await;
    let mut kv = running.kv().await;
    let cases = [
        (put_request("", "x"), Code::InvalidArgument, "key is not provided"),
        (
            PutRequest { ignore_value: true, ..put_request("a", "x") },
            Code::InvalidArgument,
            "value is provided",
        ),
        (
            PutRequest { ignore_value: true, ..put_request("a", "") },
            Code::InvalidArgument,
            "key not found",
        ),
        (
            PutRequest { lease: 77, ..put_request("a", "x") },
            Code::NotFound,
            "requested lease not found",
        ),
    ];
    for (request, code, text) in cases {
        let status = refused(&mut kv, request).await;
        assert_eq!(
            (status.code(), status.message()),
            (code, format!("etcdserver: {text}").as_str())
        );
    }
    let future = RangeRequest { revision: 99, ..one("a") };
    let status = soon(kv.range(future)).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    assert_eq!(status.message(), "etcdserver: mvcc: required revision is a future revision");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_has_bounds_and_writes_no_key_twice() {
    let running = Running::start().await;
    let mut kv = running.kv().await;
    let put = |n: usize| step(Step::RequestPut(put_request(&format!("k{n}"), "x")));
    let success: Vec<_> = (0..129).map(put).collect();
    let status = soon(kv.txn(TxnRequest { success, ..Default::default() })).await.unwrap_err();
    assert_eq!(status.message(), "etcdserver: too many operations in txn request");
    let success = vec![put(1), put(1)];
    let status = soon(kv.txn(TxnRequest { success, ..Default::default() })).await.unwrap_err();
    assert_eq!(status.message(), "etcdserver: duplicate key given in txn request");
    let (success, failure) = (vec![put(1)], vec![put(1)]);
    let txn = TxnRequest { success, failure, ..Default::default() };
    assert!(soon(kv.txn(txn)).await.is_ok(), "only one of the branches is carried out");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_and_messages_are_held_to_their_length() {
    let running = Running::start_with(&["etcd.request_bytes_max=65536"]).await;
    let mut kv = running.kv().await;
    assert!(soon(kv.put(put_request("a", &"x".repeat(60_000)))).await.is_ok());
    let status = refused(&mut kv, put_request("a", &"x".repeat(66_000))).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.message(), "etcdserver: request is too large");
    let limit = 65_536 + 512 * 1_024;
    let status = refused(&mut kv, put_request("a", &"x".repeat(limit))).await;
    assert_eq!(status.code(), Code::ResourceExhausted);
    let text = format!("grpc: received message larger than max ({} vs. {limit})", limit + 7);
    assert_eq!(status.message(), text);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_wants_a_leader_is_served_while_there_is_one() {
    let running = Running::start().await;
    let mut kv = running.kv().await;
    let mut request = Request::new(one("a"));
    request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    assert!(soon(kv.range(request)).await.is_ok());
    running.stop().await;
}
