//! Three nodes: whichever is asked, the right one answers.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use holdfast_model::Compaction;
use holdfast_runtime::timeout;
use holdfast_wire::v1::{
    self, ErrorCode, cluster_client::ClusterClient, lock_client::LockClient, watch_request,
};
use tokio::sync::{Mutex, MutexGuard};
use tokio_stream::StreamExt;
use tonic::Code;

use super::harness::{Running, eventually, get, level, put, refused};

/// One cluster at a time: three nodes of ten ranges each are enough for a small machine.
static TURN: Mutex<()> = Mutex::const_new(());

pub async fn three() -> (MutexGuard<'static, ()>, Vec<Running>) {
    let turn = TURN.lock().await;
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(Running::empty().await);
    }
    let peer_addresses = nodes.iter().map(Running::peer_address).collect();
    let mut cluster = ClusterClient::new(nodes[0].channel().await);
    let init = v1::InitRequest { peer_addresses, replication_factor: 3 };
    let mut request = tonic::Request::new(init);
    request.set_timeout(Duration::from_secs(60));
    assert_eq!(cluster.init(request).await.unwrap().into_inner().nodes.len(), 3);
    for node in &nodes {
        node.ready().await;
    }
    (turn, nodes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_founder_founds_no_second_cluster_beside_its_own() {
    let _turn = TURN.lock().await;
    let mut nodes = Running::seeded(3).await;
    let all: Vec<_> = nodes.iter().map(Running::peer_address).collect();
    let found = async |node: &Running, peer_addresses: &[String]| {
        let peer_addresses = peer_addresses.to_vec();
        let init = v1::InitRequest { peer_addresses, replication_factor: 3 };
        let mut request = tonic::Request::new(init);
        request.set_timeout(Duration::from_secs(60));
        ClusterClient::new(node.channel().await).init(request).await
    };
    found(&nodes[0], &all).await.unwrap();
    for node in &nodes {
        node.ready().await;
    }
    nodes[1].kv().await.put(put("k", "v")).await.unwrap();
    let founder = nodes.remove(0).wiped().await;
    // Whether all are named again or it alone: its data is lost, and others know it.
    for addresses in [&all[..], &all[..1]] {
        let error = found(&founder, addresses).await.unwrap_err();
        refused(&error, Code::FailedPrecondition, ErrorCode::FailedPrecondition);
    }
    assert!(founder.node.registry().hosted().is_empty());
    assert!(nodes[1].kv().await.get(get("k")).await.unwrap().into_inner().found);
    founder.stop().await;
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_serves_every_key_at_every_level() {
    let (_turn, nodes) = three().await;
    let mut leaders = BTreeSet::new();
    for index in 0..24 {
        let (writer, reader) = (&nodes[index % 3], &nodes[(index + 1) % 3]);
        let key = format!("key-{index}");
        let written = writer.kv().await.put(put(key.clone(), "x")).await.unwrap().into_inner();
        leaders.insert(written.header.unwrap().leader_node_id);
        let mut kv = reader.kv().await;
        for read_level in [v1::ReadLevel::Linearizable, v1::ReadLevel::Lease] {
            let request = v1::GetRequest { read: level(read_level), ..get(key.clone()) };
            let found = kv.get(request).await.unwrap().into_inner();
            assert_eq!(found.entry.unwrap().revision, written.revision, "{read_level:?}");
        }
        let point = v1::ReadPoint { revision: written.revision, ..Default::default() };
        let read = v1::ReadOptions {
            level: v1::ReadLevel::Follower.into(),
            min_points: vec![point],
            ..Default::default()
        };
        let request = v1::GetRequest { read: Some(read), ..get(key) };
        let found = kv.get(request).await.unwrap().into_inner();
        assert_eq!(found.entry.unwrap().revision, written.revision);
        assert!(found.staleness.is_some());
    }
    assert!(leaders.len() > 1, "leaders: {leaders:?}");
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_direct_write_to_a_follower_is_refused_with_the_way_to_the_leader() {
    let (_turn, nodes) = three().await;
    // Where it is routed it is also tried again until the range has its keys.
    nodes[0].kv().await.put(put("k", "x")).await.unwrap();
    let direct = v1::PutRequest { direct: true, ..put("k", "x") };
    let (mut done, mut hints) = (0, Vec::new());
    for node in &nodes {
        match node.kv().await.put(direct.clone()).await {
            Ok(_) => done += 1,
            Err(error) => {
                let info = refused(&error, Code::Unavailable, ErrorCode::NotLeader);
                assert!(info.retryable && !info.outcome_unknown);
                hints.push((info.leader_node_id, info.leader_address));
            }
        }
    }
    assert_eq!((done, hints.len()), (1, 2));
    assert_eq!(hints[0], hints[1]);
    let leader = nodes.iter().find(|node| node.node.client_address().to_string() == hints[0].1);
    leader.unwrap().kv().await.put(direct).await.unwrap();
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_is_waited_for_through_a_node_that_does_not_lead_it() {
    let (_turn, nodes) = three().await;
    let acquire = |owner: u8, wait| v1::LockAcquireRequest {
        name: "l".into(),
        owner: vec![owner; 16].into(),
        ttl_ms: 60_000,
        wait,
        ..Default::default()
    };
    let mut holder = LockClient::new(nodes[0].channel().await);
    let first = holder.acquire(acquire(1, false)).await.unwrap().into_inner();
    assert!(first.acquired);
    let mut waiting = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        let mut lock = LockClient::new(node.channel().await);
        let request = acquire(index as u8 + 2, true);
        waiting.push(holdfast_runtime::spawn(async move { lock.acquire(request).await }));
    }
    let inspect = v1::LockInspectRequest { name: "l".into(), ..Default::default() };
    let inspected = holder.clone();
    eventually("all three wait", || {
        let (mut lock, inspect) = (inspected.clone(), inspect.clone());
        async move { lock.inspect(inspect).await.unwrap().into_inner().state.unwrap().waiters == 3 }
    })
    .await;
    let mut held = (1, first.fencing_token);
    for _ in 0..3 {
        let release = v1::LockReleaseRequest {
            name: "l".into(),
            owner: vec![held.0; 16].into(),
            fencing_token: held.1,
            ..Default::default()
        };
        assert!(holder.release(release).await.unwrap().into_inner().released);
        let inspect = v1::LockInspectRequest { name: "l".into(), ..Default::default() };
        let state = holder.inspect(inspect).await.unwrap().into_inner().state.unwrap();
        assert!(state.held && state.fencing_token > held.1);
        held = (state.owner[0], state.fencing_token);
    }
    for granted in waiting {
        assert!(granted.await.unwrap().unwrap().into_inner().acquired);
    }
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_on_through_the_other_nodes_after_a_leader_has_gone() {
    let (_turn, mut nodes) = three().await;
    let gone = nodes.remove(2);
    gone.stop().await;
    for index in 0..32 {
        let key = format!("key-{index}");
        let mut kv = nodes[index % 2].kv().await;
        let mut request = tonic::Request::new(put(key.clone(), "x"));
        request.set_timeout(Duration::from_secs(10));
        kv.put(request).await.unwrap();
        let mut other = nodes[(index + 1) % 2].kv().await;
        assert!(other.get(get(key)).await.unwrap().into_inner().found);
    }
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_that_a_node_does_not_host_are_read_scanned_and_watched_through_it() {
    let (_turn, nodes) = three().await;
    let mut cluster = ClusterClient::new(nodes[0].channel().await);
    let create = v1::CreateKeyspaceRequest {
        name: "thin".into(),
        ranges: 4,
        replication_factor: 1,
        ..Default::default()
    };
    let mut request = tonic::Request::new(create);
    request.set_timeout(Duration::from_secs(60));
    cluster.create_keyspace(request).await.unwrap();
    for node in &nodes {
        let known = || async { node.node.map().load().keyspaces.contains_key("thin") };
        eventually("the node knows the keyspace", known).await;
    }
    let thin = || "thin".to_owned();
    let mut watches = Vec::new();
    for node in &nodes {
        let create =
            v1::WatchCreate { watch_id: 1, keyspace: thin(), prefix: true, ..Default::default() };
        let asked = v1::WatchRequest { request: Some(watch_request::Request::Create(create)) };
        // A stream that stays open: the watch lives as long as it does.
        let requests = tokio_stream::iter([asked]).chain(tokio_stream::pending());
        let mut answers = node.kv().await.watch(requests).await.unwrap().into_inner();
        assert!(answers.message().await.unwrap().unwrap().created);
        watches.push(answers);
    }
    let keys: BTreeSet<Bytes> = (0..40).map(|index| format!("key-{index:02}").into()).collect();
    for (index, key) in keys.iter().enumerate() {
        let request = v1::PutRequest { keyspace: thin(), ..put(key.clone(), "x") };
        nodes[index % 3].kv().await.put(request).await.unwrap();
    }
    for (node, answers) in nodes.iter().zip(&mut watches) {
        let mut kv = node.kv().await;
        for key in &keys {
            let request = v1::GetRequest { keyspace: thin(), ..get(key.clone()) };
            assert!(kv.get(request).await.unwrap().into_inner().found);
        }
        let scan = v1::ScanRequest { keyspace: thin(), page_keys: 9, ..Default::default() };
        let mut pages = kv.scan(scan).await.unwrap().into_inner();
        let mut scanned = Vec::new();
        while let Some(page) = pages.message().await.unwrap() {
            scanned.extend(page.entries.into_iter().map(|entry| entry.key));
        }
        assert!(scanned.iter().eq(&keys));
        let mut seen = BTreeSet::new();
        while seen.len() < keys.len() {
            let answer = timeout(Duration::from_secs(30), answers.message()).await;
            let answer = answer.expect("events come").unwrap().unwrap();
            assert!(!answer.canceled, "{answer:?}");
            for event in answer.events {
                assert!(seen.insert(event.entry.unwrap().key), "an event came twice");
            }
        }
        assert_eq!(seen, keys);
    }
    drop(watches);
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_of_a_tiered_keyspace_are_tiered_and_still_are_after_a_restart() {
    let mut node = Running::single().await;
    let tiered = |node: &Running| {
        let page = node.node.metrics().render().unwrap();
        let line = page.lines().find(|line| line.starts_with("holdfast_tiered_replicas"));
        line.unwrap().rsplit(' ').next().unwrap().to_owned()
    };
    assert_eq!(tiered(&node), "0");
    let create = |name: &str, compaction: i32| v1::CreateKeyspaceRequest {
        name: name.into(),
        ranges: 2,
        compaction,
        ..Default::default()
    };
    let mut cluster = ClusterClient::new(node.channel().await);
    let request = create("runs", v1::Compaction::Tiered.into());
    let created = cluster.create_keyspace(request).await.unwrap().into_inner().keyspace.unwrap();
    assert_eq!(created.compaction(), v1::Compaction::Tiered);
    cluster.create_keyspace(create("levels", 0)).await.unwrap();
    let status = cluster.create_keyspace(create("other", 7)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert_eq!(tiered(&node), "2");
    node = node.restarted().await;
    assert_eq!(tiered(&node), "2");
    let keyspaces = node.node.map().load().keyspaces.clone();
    assert_eq!(keyspaces["runs"].compaction, Compaction::Tiered);
    assert_eq!(keyspaces["levels"].compaction, Compaction::Leveled);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_missed_the_creation_of_a_keyspace_does_not_deny_it() {
    let (_turn, mut nodes) = three().await;
    let absent = nodes.pop().unwrap().stopped().await;
    let create = v1::CreateKeyspaceRequest { name: "new".into(), ..Default::default() };
    ClusterClient::new(nodes[0].channel().await).create_keyspace(create).await.unwrap();
    let mut others = Vec::new();
    for node in nodes {
        others.push(node.stopped().await);
    }
    let back = absent.start(false).await;
    let asked = |time: Duration| {
        let mut request =
            tonic::Request::new(v1::PutRequest { keyspace: "new".into(), ..put("k", "x") });
        request.set_timeout(time);
        request
    };
    let mut kv = back.kv().await;
    // Alone it cannot know.
    let error = kv.put(asked(Duration::from_secs(1))).await.unwrap_err();
    let info = holdfast_wire::error_info(&error).unwrap();
    assert!(info.retryable && info.code() != ErrorCode::UnknownKeyspace, "{info:?}");
    let mut nodes = vec![back];
    for other in others {
        nodes.push(other.start(false).await);
    }
    // It asks by itself, as soon as there is somebody to ask.
    eventually("the keyspace is served", || {
        let mut kv = kv.clone();
        async move {
            let answer = kv.put(asked(Duration::from_secs(10))).await;
            let info = answer.as_ref().err().map(|e| holdfast_wire::error_info(e).unwrap());
            assert!(info.as_ref().is_none_or(|info| info.retryable), "{info:?}");
            answer.is_ok()
        }
    })
    .await;
    for node in nodes {
        node.stop().await;
    }
}
