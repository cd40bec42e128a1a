//! What is sent again, under which name, and what a call ends as.

use std::time::Duration;

use holdfast_client::{Client, Error, Operation};
use holdfast_wire::v1::{self, ErrorCode};
use tonic::Status;

use crate::mock::{Call, Cluster, Reply, refusal, unknown};

async fn without_sessions(cluster: &Cluster) -> Client {
    cluster.builder().sessions(false).connect().await.unwrap()
}

fn tags(cluster: &Cluster) -> Vec<v1::SessionTag> {
    cluster.puts().into_iter().map(|(_, put)| put.session.unwrap()).collect()
}

#[tokio::test]
async fn a_put_without_session_is_never_sent_again_after_an_unknown_outcome() {
    let cluster = Cluster::start(|_, call, _| match call {
        Call::Put(_) => unknown(),
        _ => Reply::Usual,
    })
    .await;
    let client = without_sessions(&cluster).await;
    assert!(client.put("k", "v").await.unwrap_err().is_unknown());
    assert_eq!(cluster.puts().len(), 1);
    assert!(cluster.puts()[0].1.session.is_none());
}

#[tokio::test]
async fn a_put_without_session_whose_connection_breaks_is_unknown_and_not_sent_again() {
    let cluster = Cluster::start(|_, call, _| match call {
        Call::Put(_) => Reply::Silence,
        _ => Reply::Usual,
    })
    .await;
    let client = without_sessions(&cluster).await;
    let put = client.put("k", "v").send();
    tokio::pin!(put);
    while cluster.puts().is_empty() {
        assert!(futures_util::poll!(&mut put).is_pending());
        holdfast_runtime::yield_now().await;
    }
    cluster.kill(1);
    assert!(put.await.unwrap_err().is_unknown());
    assert_eq!(cluster.puts().len(), 1);
}

#[tokio::test]
async fn a_put_without_session_that_is_not_answered_in_time_is_unknown() {
    let cluster = Cluster::start(|_, call, _| match call {
        Call::Put(_) => Reply::Silence,
        _ => Reply::Usual,
    })
    .await;
    let client = without_sessions(&cluster).await;
    let put = client.put("k", "v").deadline(Duration::from_millis(100));
    assert!(put.await.unwrap_err().is_unknown());
    assert_eq!(cluster.puts().len(), 1);
}

#[tokio::test]
async fn a_put_without_session_is_sent_again_where_nothing_was_proposed() {
    let cluster = Cluster::start(|_, call, before| match (call, before) {
        (Call::Put(_), 0) => refusal(ErrorCode::NotLeader, 0),
        (Call::Put(_), 1) => refusal(ErrorCode::NoQuorum, 0),
        (Call::Put(_), 2) => refusal(ErrorCode::Overloaded, 0),
        _ => Reply::Usual,
    })
    .await;
    let client = without_sessions(&cluster).await;
    assert!(client.put("k", "v").await.unwrap().applied);
    assert_eq!(cluster.puts().len(), 4);
}

#[tokio::test]
async fn a_put_without_session_goes_elsewhere_when_its_node_refuses_connections() {
    let cluster = Cluster::start(|_, _, _| Reply::Usual).await;
    let second = [cluster.endpoints[1].clone()];
    let client = Client::builder(second).sessions(false).connect().await.unwrap();
    cluster.kill(1);
    assert!(client.put("k", "v").await.unwrap().applied);
    assert_ne!(cluster.puts()[0].0, 1);
}

#[tokio::test]
async fn a_put_in_a_session_is_sent_again_under_the_same_number() {
    let cluster = Cluster::start(|_, call, before| match (call, before) {
        (Call::Put(_), 0) => unknown(),
        (Call::Put(_), 1) => Reply::Refuse(Status::unavailable("a proxy says so")),
        (Call::Put(_), 2) => refusal(ErrorCode::NotLeader, 2),
        _ => Reply::Usual,
    })
    .await;
    let client = cluster.client().await;
    assert!(client.put("k", "v").await.unwrap().applied);
    let tags = tags(&cluster);
    assert_eq!(tags.len(), 4);
    assert!(tags.iter().all(|tag| *tag == tags[0]), "{tags:?}");
    assert_eq!(tags[0].client_id.len(), 16);
    client.put("k", "w").await.unwrap();
    let next = cluster.puts().pop().unwrap().1.session.unwrap();
    assert_eq!((next.seq, next.watermark), (tags[0].seq + 1, tags[0].seq + 1));
}

#[tokio::test]
async fn a_put_in_a_session_outlives_the_node_that_swallowed_it() {
    let cluster = Cluster::start(|node, call, _| match call {
        Call::Put(_) if node == 1 => Reply::Silence,
        _ => Reply::Usual,
    })
    .await;
    let client = cluster.client().await;
    assert!(client.put("k", "v").await.unwrap().applied);
    let tags = tags(&cluster);
    assert_eq!(tags.len(), 2);
    assert_eq!(tags[0], tags[1]);
    assert_ne!(cluster.puts()[1].0, 1);
}

#[tokio::test]
async fn a_refusal_after_an_unknown_attempt_leaves_the_outcome_unknown() {
    let cluster = Cluster::start(|_, call, before| match (call, before) {
        (Call::Put(_), 0) => unknown(),
        (Call::Put(_), _) => refusal(ErrorCode::DiskFull, 0),
        _ => Reply::Usual,
    })
    .await;
    let client = cluster.client().await;
    let error = client.put("k", "v").await.unwrap_err();
    assert!(error.is_unknown(), "{error}");
    let refused = client.put("k", "v").await.unwrap_err();
    assert!(matches!(refused, Error::DiskFull(_)), "{refused}");
}

#[tokio::test]
async fn an_unknown_attempt_before_the_deadline_makes_the_end_unknown() {
    let cluster = Cluster::start(|_, call, before| match (call, before) {
        (Call::Put(_), 0) => unknown(),
        (Call::Put(_), _) => refusal(ErrorCode::NoQuorum, 0),
        _ => Reply::Usual,
    })
    .await;
    let client = cluster.client().await;
    let put = client.put("k", "v").deadline(Duration::from_millis(200));
    assert!(put.await.unwrap_err().is_unknown());
}

#[tokio::test]
async fn a_put_nobody_proposed_by_the_deadline_did_not_happen() {
    let cluster = Cluster::start(|_, call, _| match call {
        Call::Put(_) => refusal(ErrorCode::NoQuorum, 0),
        _ => Reply::Usual,
    })
    .await;
    let client = cluster.client().await;
    let put = client.put("k", "v").deadline(Duration::from_millis(200));
    let error = put.await.unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }) && !error.is_unknown(), "{error}");
    assert!(cluster.puts().len() > 1);
}

#[tokio::test]
async fn a_session_that_cannot_be_opened_leaves_nothing_unknown() {
    let cluster = Cluster::start(|_, call, _| match call {
        Call::Open(_) => unknown(),
        _ => Reply::Usual,
    })
    .await;
    let client = cluster.client().await;
    let put = client.put("k", "v").deadline(Duration::from_millis(200));
    let error = put.await.unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error}");
    assert!(cluster.puts().is_empty());
}

#[tokio::test]
async fn the_watermark_waits_for_the_oldest_open_operation() {
    let cluster = Cluster::start(|_, call, _| match call {
        Call::Put(put) if put.value == "slow" => Reply::Silence,
        _ => Reply::Usual,
    })
    .await;
    let client = cluster.client().await;
    let slow = client.put("k", "slow").send();
    tokio::pin!(slow);
    while cluster.puts().is_empty() {
        assert!(futures_util::poll!(&mut slow).is_pending());
        holdfast_runtime::yield_now().await;
    }
    for _ in 0..3 {
        client.put("k", "fast").await.unwrap();
    }
    let slow_seq = tags(&cluster)[0].seq;
    assert!(tags(&cluster).iter().all(|tag| tag.watermark == slow_seq));
}

#[tokio::test]
async fn an_operation_given_up_frees_the_watermark() {
    let cluster = Cluster::start(|_, call, _| match call {
        Call::Put(put) if put.value == "slow" => Reply::Silence,
        _ => Reply::Usual,
    })
    .await;
    let client = cluster.client().await;
    let slow = client.put("k", "slow").deadline(Duration::from_millis(100));
    assert!(slow.await.unwrap_err().is_unknown());
    client.put("k", "fast").await.unwrap();
    let last = cluster.puts().pop().unwrap().1.session.unwrap();
    assert_eq!(last.watermark, last.seq);
}

#[tokio::test]
async fn a_lost_session_is_replaced_under_a_new_client_id() {
    let cluster = Cluster::start(|_, call, before| match (call, before) {
        (Call::Put(_), 1) => refusal(ErrorCode::SessionExpired, 0),
        _ => Reply::Usual,
    })
    .await;
    let client = cluster.client().await;
    client.put("k", "1").await.unwrap();
    client.put("k", "2").await.unwrap();
    let tags = tags(&cluster);
    assert_eq!(tags.len(), 3);
    assert_eq!(tags[0].client_id, tags[1].client_id);
    assert_ne!(tags[1].client_id, tags[2].client_id);
    assert!(tags[2].seq > tags[1].seq);
}

#[tokio::test]
async fn a_session_lost_after_an_unknown_attempt_leaves_the_outcome_unknown() {
    let cluster = Cluster::start(|_, call, before| match (call, before) {
        (Call::Put(_), 0) => unknown(),
        (Call::Put(_), 1) => refusal(ErrorCode::SessionExpired, 0),
        _ => Reply::Usual,
    })
    .await;
    let client = cluster.client().await;
    assert!(client.put("k", "v").await.unwrap_err().is_unknown());
    assert_eq!(cluster.puts().len(), 2, "never a second operation for one put");
    client.put("k", "w").await.unwrap();
    let tags = tags(&cluster);
    assert_ne!(tags[1].client_id, tags[2].client_id);
}

#[tokio::test]
async fn an_item_of_a_batch_is_sent_again_alone_under_its_number() {
    let item_error = |code: ErrorCode| v1::BatchWriteResult {
        status: Some(v1::ItemStatus {
            grpc_code: 14,
            error: Some(v1::ErrorInfo { code: code.into(), ..Default::default() }),
        }),
        ..Default::default()
    };
    let cluster = Cluster::start(move |_, call, _| match call {
        Call::BatchWrite(batch) if batch.items.len() == 4 => {
            let done = v1::BatchWriteResult { applied: true, ..Default::default() };
            let results = vec![
                done,
                item_error(ErrorCode::OutcomeUnknown),
                item_error(ErrorCode::NoQuorum),
                item_error(ErrorCode::NotANumber),
            ];
            Reply::BatchWrite(v1::BatchWriteResponse { header: None, results })
        }
        _ => Reply::Usual,
    })
    .await;
    let client = cluster.client().await;
    let batch = client
        .batch()
        .put("{t}a", "1")
        .put("{t}b", "2")
        .push(Operation::delete("{t}c"))
        .increment("{t}d", 1);
    let results = batch.await.unwrap();
    let applied: Vec<bool> = results.iter().map(|r| r.as_ref().is_ok_and(|r| r.applied)).collect();
    assert_eq!(applied, [true, true, true, false]);
    assert!(matches!(results[3], Err(Error::NotANumber(_))));
    let batches = cluster.asked(|call| match call {
        Call::BatchWrite(batch) => Some(batch.clone()),
        _ => None,
    });
    let seqs = |b: &v1::BatchWriteRequest| b.items.iter().map(|i| i.seq).collect::<Vec<_>>();
    assert_eq!(batches.len(), 2);
    let first = seqs(&batches[0].1);
    assert_eq!(seqs(&batches[1].1), first[1..3]);
    assert_eq!(batches[0].1.session, batches[1].1.session);
}

#[tokio::test]
async fn an_item_refused_after_an_attempt_without_answer_stays_unknown() {
    let cluster = Cluster::start(|_, call, before| match (call, before) {
        (Call::BatchWrite(_), 0) => unknown(),
        (Call::BatchWrite(batch), _) => {
            let error = v1::ErrorInfo { code: ErrorCode::NoQuorum.into(), ..Default::default() };
            let status = Some(v1::ItemStatus { grpc_code: 14, error: Some(error) });
            let refused = v1::BatchWriteResult { status, ..Default::default() };
            let results = vec![refused; batch.items.len()];
            Reply::BatchWrite(v1::BatchWriteResponse { header: None, results })
        }
        _ => Reply::Usual,
    })
    .await;
    let client = cluster.client().await;
    let batch = client.batch().put("k", "v").deadline(Duration::from_millis(400));
    let results = batch.await.unwrap();
    assert!(results[0].as_ref().is_err_and(Error::is_unknown), "{results:?}");
}

#[tokio::test]
async fn a_batch_is_cut_by_range_and_answers_in_the_order_of_its_items() {
    let cluster = Cluster::start(|_, call, _| match call {
        Call::BatchWrite(batch) => {
            let result = |item: &v1::BatchWriteItem| match &item.operation {
                Some(v1::batch_write_item::Operation::Increment(increment)) => {
                    let value = increment.delta;
                    v1::BatchWriteResult { applied: true, value, ..Default::default() }
                }
                other => panic!("{other:?}"),
            };
            let results = batch.items.iter().map(result).collect();
            Reply::BatchWrite(v1::BatchWriteResponse { header: None, results })
        }
        _ => Reply::Usual,
    })
    .await;
    let client = cluster.client().await;
    let batch = (0..600).fold(client.batch(), |b, n| b.increment(format!("key-{n}"), n));
    let values: Vec<i64> = batch.await.unwrap().into_iter().map(|r| r.unwrap().value).collect();
    assert_eq!(values, (0..600).collect::<Vec<i64>>());
    let batches = cluster.asked(|call| match call {
        Call::BatchWrite(batch) => Some(batch.items.len()),
        _ => None,
    });
    assert!(batches.len() >= 4 && batches.iter().all(|(_, items)| *items <= 250));
}

#[tokio::test]
async fn closing_a_client_ends_its_sessions() {
    let cluster = Cluster::start(|_, _, _| Reply::Usual).await;
    let client = cluster.client().await;
    client.put("k", "v").await.unwrap();
    let used = tags(&cluster).remove(0).client_id;
    client.close().await;
    let closed = cluster.asked(|call| match call {
        Call::Close(close) => Some(close.client_id.clone()),
        _ => None,
    });
    assert_eq!(closed.into_iter().map(|(_, id)| id).collect::<Vec<_>>(), [used]);
}

#[tokio::test]
async fn a_deadline_over_a_minute_is_refused_before_anything_is_sent() {
    let cluster = Cluster::start(|_, _, _| Reply::Usual).await;
    let client = cluster.client().await;
    let error = client.get("k").deadline(Duration::from_secs(61)).await.unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error}");
    assert!(cluster.gets().is_empty());
}
