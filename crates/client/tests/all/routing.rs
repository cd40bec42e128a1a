//! Whom a request goes to.

use std::collections::BTreeSet;
use std::time::Duration;

use holdfast_client::{Client, Error, FollowerChoice, NodeId, ReadLevel};
use holdfast_model::{Span, position};
use holdfast_wire::status_of;
use holdfast_wire::v1::{self, ErrorCode, ErrorInfo};

use crate::mock::{Call, Cluster, RANGES, Reply, header, refusal};

fn range_of(key: &[u8]) -> u64 {
    let at = position(key);
    let spans = Span::split_ring(RANGES);
    (1..).zip(spans).find(|(_, span)| span.contains(at)).unwrap().0
}

#[tokio::test]
async fn a_request_goes_to_the_leader_of_the_range_of_its_key() {
    let cluster = Cluster::start(|_, _, _| Reply::Usual).await;
    cluster.map.lock().ranges.get_mut(&2.into()).unwrap().leader = Some(NodeId(3));
    let client = cluster.client().await;
    for n in 0..40 {
        client.put(format!("key-{n}"), "v").await.unwrap();
    }
    for (node, put) in cluster.puts() {
        let expected = if range_of(&put.key) == 2 { 3 } else { 1 };
        assert_eq!(node, expected, "{:?}", put.key);
    }
    let ranges: BTreeSet<u64> = cluster.puts().iter().map(|(_, p)| range_of(&p.key)).collect();
    assert_eq!(ranges.len(), RANGES as usize, "the keys reach every range");
}

#[tokio::test]
async fn a_leader_hint_is_followed_at_once_and_remembered() {
    let cluster = Cluster::start(|node, call, _| match call {
        Call::Get(_) if node != 2 => refusal(ErrorCode::NotLeader, 2),
        _ => Reply::Usual,
    })
    .await;
    let client = cluster.client().await;
    for _ in 0..3 {
        client.get("k").await.unwrap();
    }
    let nodes: Vec<u64> = cluster.gets().into_iter().map(|(node, _)| node).collect();
    assert_eq!(nodes, [1, 2, 2, 2]);
}

#[tokio::test]
async fn the_leader_named_by_an_answer_is_asked_next() {
    let cluster = Cluster::start(|_, call, _| match call {
        Call::Get(get) => Reply::Get(v1::GetResponse {
            header: header(range_of(&get.key), 3),
            ..Default::default()
        }),
        _ => Reply::Usual,
    })
    .await;
    let client = cluster.client().await;
    client.get("k").await.unwrap();
    client.get("k").await.unwrap();
    let nodes: Vec<u64> = cluster.gets().into_iter().map(|(node, _)| node).collect();
    assert_eq!(nodes, [1, 3]);
}

#[tokio::test]
async fn two_nodes_that_take_each_other_for_the_leader_are_not_asked_in_a_hurry() {
    let cluster = Cluster::start(|node, call, _| match call {
        Call::Get(_) => refusal(ErrorCode::NotLeader, if node == 1 { 2 } else { 1 }),
        _ => Reply::Usual,
    })
    .await;
    let deadline = Duration::from_millis(300);
    let client = cluster.builder().deadline(deadline).connect().await.unwrap();
    let error = client.get("k").await.unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error}");
    assert!(cluster.gets().len() < 30, "{} attempts", cluster.gets().len());
}

#[tokio::test]
async fn a_range_without_quorum_takes_nothing_from_the_other_ranges_of_its_node() {
    let cluster = Cluster::start(|node, call, _| match call {
        Call::Get(get) if node == 1 && range_of(&get.key) == 1 => refusal(ErrorCode::NoQuorum, 0),
        _ => Reply::Usual,
    })
    .await;
    let client = cluster.client().await;
    let in_range = |wanted: u64| {
        let mut keys = (0..).map(|n| format!("key-{n}"));
        keys.find(|key| range_of(key.as_bytes()) == wanted).unwrap()
    };
    client.get(in_range(1)).await.unwrap();
    client.get(in_range(2)).await.unwrap();
    assert_eq!(cluster.gets().pop().unwrap().0, 1, "the leader of range 2 is asked");
}

/// Node 1 is cut off from the others and answers everything with `code`, at the end of its time.
async fn with_a_leader_cut_off(code: ErrorCode) -> Cluster {
    Cluster::start(move |node, call, _| match call {
        Call::Put(_) if node == 1 => Reply::Refuse(status_of(ErrorInfo {
            code: code.into(),
            message: "cut off".to_owned(),
            outcome_unknown: code == ErrorCode::OutcomeUnknown,
            deadline_passed: code != ErrorCode::NotLeader,
            ..Default::default()
        })),
        Call::Put(_) => Reply::Put(v1::PutResponse {
            header: header(range_of(b"k"), node),
            applied: true,
            ..Default::default()
        }),
        _ => Reply::Usual,
    })
    .await
}

#[tokio::test]
async fn another_node_is_asked_where_a_leader_took_all_its_time_or_knows_no_leader() {
    for code in [ErrorCode::OutcomeUnknown, ErrorCode::Deadline, ErrorCode::NotLeader] {
        let cluster = with_a_leader_cut_off(code).await;
        // Whose turn it is depends on chance: each client begins with another node.
        for n in 1..=6 {
            let client = cluster.client().await;
            client.put("k", "v").await.unwrap();
            client.put("k", "w").await.unwrap();
            let nodes: Vec<u64> = cluster.puts().into_iter().map(|(node, _)| node).collect();
            assert_eq!(nodes.iter().filter(|node| **node == 1).count(), n, "{code:?} {nodes:?}");
            assert_eq!(nodes.len(), 3 * n, "{code:?} {nodes:?}");
        }
    }
}

#[tokio::test]
async fn a_read_is_served_by_another_node_when_the_leader_is_dead() {
    let cluster = Cluster::start(|_, _, _| Reply::Usual).await;
    let client = cluster.client().await;
    client.get("k").await.unwrap();
    cluster.kill(1);
    for _ in 0..5 {
        client.get("k").await.unwrap();
    }
    assert!(cluster.gets().iter().skip(1).all(|(node, _)| *node != 1));
}

#[tokio::test]
async fn a_client_connects_where_one_endpoint_of_three_lives() {
    let cluster = Cluster::start(|_, _, _| Reply::Usual).await;
    cluster.kill(1);
    cluster.kill(2);
    let client = cluster.client().await;
    assert_eq!(client.map().nodes.len(), 3);
}

#[tokio::test]
async fn follower_reads_take_turns_unless_a_node_is_chosen() {
    let cluster = Cluster::start(|_, _, _| Reply::Usual).await;
    let client = cluster.client().await.with_read_level(ReadLevel::Follower);
    for _ in 0..6 {
        client.get("k").await.unwrap();
    }
    let nodes: BTreeSet<u64> = cluster.gets().into_iter().map(|(node, _)| node).collect();
    assert_eq!(nodes, BTreeSet::from([1, 2, 3]));
    let levels = cluster.gets().into_iter().map(|(_, get)| get.read.unwrap().level());
    assert!(levels.into_iter().all(|level| level == v1::ReadLevel::Follower));

    cluster.log.lock().clear();
    let choice = FollowerChoice::Node(NodeId(2));
    let fixed = cluster.builder().follower_choice(choice).connect().await.unwrap();
    for _ in 0..4 {
        fixed.get("k").level(ReadLevel::Follower).await.unwrap();
    }
    assert!(cluster.gets().iter().all(|(node, _)| *node == 2));
}

#[tokio::test]
async fn a_direct_client_asks_its_first_endpoint_alone_and_takes_its_word() {
    let cluster = Cluster::start(|_, call, _| match call {
        Call::Get(_) => refusal(ErrorCode::NotLeader, 1),
        _ => Reply::Usual,
    })
    .await;
    let second = [cluster.endpoints[1].clone()];
    let client = Client::builder(second).direct(true).connect().await.unwrap();
    assert!(matches!(client.get("k").await, Err(Error::Unavailable(_))));
    client.put("k", "v").await.unwrap();
    assert_eq!(cluster.gets().len(), 1, "nothing is retried");
    let (node, put) = cluster.puts().remove(0);
    assert!(node == 2 && put.direct && put.session.is_none());
}

#[tokio::test]
async fn an_unknown_keyspace_is_said_to_be_unknown_without_asking_for_the_key() {
    let cluster = Cluster::start(|_, _, _| Reply::Usual).await;
    let client = cluster.client().await.keyspace("nowhere");
    let error = client.put("k", "v").await.unwrap_err();
    assert!(matches!(error, Error::UnknownKeyspace(_)), "{error}");
    assert!(cluster.puts().is_empty());
}

#[tokio::test]
async fn a_keyspace_made_after_connecting_is_found() {
    let cluster = Cluster::start(|_, _, _| Reply::Usual).await;
    let client = cluster.client().await.keyspace("young");
    {
        let mut map = cluster.map.lock();
        let mut space = map.keyspaces["default"].clone();
        space.name = "young".to_owned();
        map.keyspaces.insert(space.name.clone(), space);
        map.revision.0 += 1;
    }
    client.put("k", "v").await.unwrap();
    assert_eq!(cluster.puts()[0].1.keyspace, "young");
}

#[tokio::test]
async fn an_unreachable_cluster_fails_by_the_deadline() {
    // Port 1 of the loopback refuses connections.
    let deadline = Duration::from_millis(200);
    let connecting = Client::builder(["127.0.0.1:1"]).deadline(deadline).connect();
    let result = holdfast_runtime::timeout(Duration::from_secs(5), connecting).await;
    let error = result.expect("it ends by itself").unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }) && error.is_retryable(), "{error}");
}

#[tokio::test]
async fn a_large_value_travels_both_ways() {
    let value = vec![7; 10 * 1024 * 1024];
    let sent = value.clone();
    let cluster = Cluster::start(move |_, call, _| match call {
        Call::Get(get) => {
            let entry = v1::Entry {
                key: get.key.clone(),
                value: sent.clone().into(),
                ..Default::default()
            };
            Reply::Get(v1::GetResponse { found: true, entry: Some(entry), ..Default::default() })
        }
        _ => Reply::Usual,
    })
    .await;
    let client = cluster.client().await;
    let entry = client.get("large").await.unwrap().unwrap();
    assert!(entry.value == value);
    // Requests over the mock's own limit of 4 MiB are its refusal, which must not look unknown.
    client.put("large", value[..3 * 1024 * 1024].to_vec()).await.unwrap();
    assert_eq!(cluster.puts()[0].1.value.len(), 3 * 1024 * 1024);
}
