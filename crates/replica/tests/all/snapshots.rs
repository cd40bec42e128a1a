//! Logs are purged, and who needs what was purged gets a snapshot.

use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_env::sim::SimDisk;
use holdfast_model::{LogIndex, NodeId, ReplicaId};
use holdfast_replica::{ReadLevel, WatchFilter, WatchItem};
use holdfast_runtime::{sleep, timeout};

use crate::cluster::{Cluster, read};

/// Writes more than the log keeps, flushes, and waits until the leader has purged.
async fn write_until_purged(cluster: &Cluster, tag: &str) {
    let value = "x".repeat(8 << 10);
    for i in 0..300 {
        cluster.put(&format!("{tag}{i}"), &value).await;
    }
    let leader = cluster.leader().await;
    leader.flush().await;
    let before = leader.replica.status().purged;
    let purged = async {
        while leader.replica.status().purged <= before {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(Duration::from_secs(20), purged).await.expect("the log is purged");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_away_too_long_catches_up_by_a_snapshot() {
    let mut cluster = Cluster::start(3).await;
    cluster.put("before", "v").await;
    let away = cluster.follower().await.id();
    let (replica, disk) = cluster.crash(away, 0).await;
    write_until_purged(&cluster, "k").await;
    assert_eq!(cluster.net.snapshots.load(Ordering::Relaxed), 0);
    cluster.boot(away, replica, disk).await.unwrap();
    cluster.settle().await;
    assert!(cluster.net.snapshots.load(Ordering::Relaxed) >= 1);
    assert!(cluster.nodes[&away].peek("k299").is_some());
    cluster.put("after", "v").await;
    cluster.settle().await;
    let hash = |id: NodeId| cluster.nodes[&id].replica.reader().state_hash().unwrap();
    assert_eq!(hash(away), hash(cluster.leader().await.id()));
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_was_installed_survives_a_power_failure() {
    let mut cluster = Cluster::start(3).await;
    let away = cluster.follower().await.id();
    let (replica, disk) = cluster.crash(away, 0).await;
    write_until_purged(&cluster, "k").await;
    cluster.boot(away, replica, disk).await.unwrap();
    cluster.settle().await;
    let (replica, disk) = cluster.crash(away, 0).await;
    cluster.boot(away, replica, disk).await.unwrap();
    cluster.settle().await;
    let node = &cluster.nodes[&away];
    assert_eq!(read(node, "k7", ReadLevel::Linearizable).await.map(|v| v.is_some()), Ok(true));
}

#[tokio::test(start_paused = true)]
async fn a_learner_added_after_a_purge_begins_with_a_snapshot() {
    let mut cluster = Cluster::start(3).await;
    write_until_purged(&cluster, "k").await;
    let (node, replica) = (NodeId(4), ReplicaId(1_004));
    cluster.boot(node, replica, SimDisk::new()).await.unwrap();
    cluster.leader().await.replica.add_learner(replica, node).await.unwrap();
    cluster.settle().await;
    assert!(cluster.net.snapshots.load(Ordering::Relaxed) >= 1);
    assert!(cluster.nodes[&node].peek("k0").is_some());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_purged_that_is_not_durable_in_the_engine() {
    let cluster = Cluster::start(3).await;
    let value = "x".repeat(1 << 10);
    for i in 0..400 {
        cluster.put(&format!("k{}", i % 4), &value).await;
    }
    for _ in 0..50 {
        sleep(Duration::from_millis(100)).await;
        for node in cluster.nodes.values() {
            let status = node.replica.status();
            assert!(status.purged.unwrap_or(LogIndex(0)) <= status.durable, "{status:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_goes_on_without_gap_over_a_snapshot() {
    let mut cluster = Cluster::start(3).await;
    let away = cluster.follower().await.id();
    let (replica, disk) = cluster.crash(away, 0).await;
    cluster.boot(away, replica, disk).await.unwrap();
    cluster.settle().await;
    let mut watch = cluster.nodes[&away].replica.watch(WatchFilter::key("k150".into())).unwrap();
    cluster.isolate(away, true);
    write_until_purged(&cluster, "k").await;
    cluster.isolate(away, false);
    cluster.settle().await;
    let item = timeout(Duration::from_secs(5), watch.next()).await.expect("the event comes");
    match item {
        Some(WatchItem::Events(events)) => assert_eq!(events.events[0].entry.key, "k150"),
        other => panic!("{other:?}"),
    }
}
