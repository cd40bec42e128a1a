//! Scans and watches that go on over breaks.

use bytes::Bytes;
use holdfast_client::{Error, EventKind, Revision};
use holdfast_wire::v1::{self, ErrorCode};
use tonic::Status;

use crate::mock::{Call, Cluster, Reply, header, refusal};

fn page(keys: &[&'static str], token: &'static str) -> Result<v1::ScanResponse, Status> {
    let entry = |key: &&'static str| v1::Entry {
        key: Bytes::from_static(key.as_bytes()),
        ..Default::default()
    };
    let entries = keys.iter().map(entry).collect();
    Ok(v1::ScanResponse { entries, resume_token: token.into(), ..Default::default() })
}

fn created(token: &'static str) -> Result<v1::WatchResponse, Status> {
    let resume_token = token.into();
    let header = header(1, 1).map(|header| v1::Header { revision: 40, ..header });
    Ok(v1::WatchResponse { watch_id: 1, created: true, header, resume_token, ..Default::default() })
}

fn put(key: &'static str, revision: u64, token: &'static str) -> Result<v1::WatchResponse, Status> {
    let entry = Some(v1::Entry { key: key.into(), revision, ..Default::default() });
    let kind = v1::watch_event::Kind::Put.into();
    Ok(v1::WatchResponse {
        watch_id: 1,
        header: header(1, 1),
        events: vec![v1::WatchEvent { kind, entry, previous: None }],
        resume_token: token.into(),
        ..Default::default()
    })
}

fn broken<T>() -> Result<T, Status> {
    Err(Status::unavailable("the connection broke"))
}

fn watches(cluster: &Cluster) -> Vec<(u64, v1::WatchCreate)> {
    cluster.asked(|call| match call {
        Call::Watch(create) => Some(create.clone()),
        _ => None,
    })
}

#[tokio::test]
async fn a_scan_goes_on_after_the_last_page_it_gave() {
    let cluster = Cluster::start(|_, call, before| match (call, before) {
        (Call::Scan(_), 0) => Reply::Pages(vec![page(&["a", "b"], "after-b"), broken()]),
        (Call::Scan(_), 1) => refusal(ErrorCode::NotReady, 0),
        (Call::Scan(_), _) => Reply::Pages(vec![page(&["c"], "after-c"), page(&["d"], "")]),
        _ => Reply::Usual,
    })
    .await;
    let client = cluster.client().await;
    let entries = client.scan("").collect().await.unwrap();
    let keys: Vec<Bytes> = entries.into_iter().map(|entry| entry.key).collect();
    assert_eq!(keys, ["a", "b", "c", "d"]);
    let tokens = cluster.asked(|call| match call {
        Call::Scan(scan) => Some(scan.resume_token.clone()),
        _ => None,
    });
    let tokens: Vec<Bytes> = tokens.into_iter().map(|(_, token)| token).collect();
    assert_eq!(tokens, ["", "after-b", "after-b"]);
}

#[tokio::test]
async fn a_resumed_scan_keeps_to_its_limit() {
    let cluster = Cluster::start(|_, call, before| match (call, before) {
        (Call::Scan(_), 0) => Reply::Pages(vec![page(&["a", "b"], "after-b"), broken()]),
        (Call::Scan(_), _) => Reply::Pages(vec![page(&["c"], "after-c")]),
        _ => Reply::Usual,
    })
    .await;
    let client = cluster.client().await;
    let entries = client.scan("").limit(3).collect().await.unwrap();
    assert_eq!(entries.len(), 3);
    let limits = cluster.asked(|call| match call {
        Call::Scan(scan) => Some(scan.limit),
        _ => None,
    });
    assert_eq!(limits.into_iter().map(|(_, limit)| limit).collect::<Vec<_>>(), [3, 1]);
}

#[tokio::test]
async fn a_scan_whose_state_is_compacted_away_says_so() {
    let cluster = Cluster::start(|_, call, _| match call {
        Call::Scan(_) => refusal(ErrorCode::Compacted, 0),
        _ => Reply::Usual,
    })
    .await;
    let client = cluster.client().await;
    let error = client.scan("").collect().await.unwrap_err();
    assert!(matches!(error, Error::Compacted { .. }), "{error}");
}

#[tokio::test]
async fn a_watch_goes_on_from_its_token_without_gap_or_repetition() {
    let cluster = Cluster::start(|_, call, before| match (call, before) {
        (Call::Watch(_), 0) => {
            Reply::Watched(vec![created("t0"), put("a", 41, "t1"), put("b", 42, "t2"), broken()])
        }
        (Call::Watch(_), 1) => refusal(ErrorCode::NotHere, 0),
        (Call::Watch(_), _) => Reply::Watched(vec![created(""), put("c", 43, "t3")]),
        _ => Reply::Usual,
    })
    .await;
    let client = cluster.client().await;
    let mut watch = client.watch_prefix("").start().await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let batch = watch.next().await.unwrap();
        assert_eq!(batch.events[0].kind, EventKind::Put);
        seen.push(batch.events[0].entry.key.clone());
    }
    assert_eq!(seen, ["a", "b", "c"]);
    assert_eq!(watch.resume_token(), "t3");
    let tokens: Vec<Bytes> = watches(&cluster).into_iter().map(|(_, w)| w.resume_token).collect();
    assert_eq!(tokens, ["", "t2", "t2"]);
}

#[tokio::test]
async fn a_watch_that_breaks_before_its_first_event_misses_nothing() {
    let cluster = Cluster::start(|_, call, before| match (call, before) {
        (Call::Watch(_), 0) => Reply::Watched(vec![created(""), broken()]),
        (Call::Watch(_), _) => Reply::Watched(vec![created(""), put("k", 41, "t1")]),
        _ => Reply::Usual,
    })
    .await;
    let client = cluster.client().await;
    let mut watch = client.watch("k").start().await.unwrap();
    assert_eq!(watch.next().await.unwrap().events[0].entry.revision, Revision(41));
    assert_eq!(watches(&cluster)[1].1.from_revision, 41, "one after the revision it began at");
}

#[tokio::test]
async fn a_watch_over_ranges_without_a_token_ends_rather_than_leave_a_gap() {
    let cluster = Cluster::start(|_, call, _| match call {
        Call::Watch(_) => Reply::Watched(vec![created(""), broken()]),
        _ => Reply::Usual,
    })
    .await;
    let client = cluster.client().await;
    let mut watch = client.watch_prefix("").start().await.unwrap();
    let error = watch.next().await.unwrap_err();
    assert!(matches!(error, Error::StreamLost(_)), "{error}");
    assert_eq!(watches(&cluster).len(), 1);
}

#[tokio::test]
async fn a_watch_before_the_compacted_revision_says_so() {
    let cluster = Cluster::start(|_, call, _| match call {
        Call::Watch(_) => {
            let info = v1::ErrorInfo {
                bound: 30,
                code: ErrorCode::Compacted.into(),
                ..Default::default()
            };
            let end = v1::WatchResponse {
                canceled: true,
                cancel_error: Some(info),
                ..Default::default()
            };
            Reply::Watched(vec![Ok(end)])
        }
        _ => Reply::Usual,
    })
    .await;
    let client = cluster.client().await;
    let error = client.watch("k").from_revision(Revision(3)).start().await.unwrap_err();
    assert_eq!(error, Error::Compacted { oldest: Revision(30) });
}

#[tokio::test]
async fn a_slow_consumer_that_was_cancelled_goes_on_from_its_token() {
    let cluster = Cluster::start(|_, call, before| match (call, before) {
        (Call::Watch(_), 0) => {
            let info = v1::ErrorInfo { code: ErrorCode::Overloaded.into(), ..Default::default() };
            let resume_token = "t1".into();
            let end = v1::WatchResponse {
                canceled: true,
                cancel_error: Some(info),
                resume_token,
                ..Default::default()
            };
            Reply::Watched(vec![created("t0"), put("a", 41, "t1"), Ok(end)])
        }
        (Call::Watch(_), _) => Reply::Watched(vec![created(""), put("b", 42, "t2")]),
        _ => Reply::Usual,
    })
    .await;
    let client = cluster.client().await;
    let mut watch = client.watch_prefix("").start().await.unwrap();
    watch.next().await.unwrap();
    assert_eq!(watch.next().await.unwrap().events[0].entry.key, "b");
    assert_eq!(watches(&cluster)[1].1.resume_token, "t1");
}
