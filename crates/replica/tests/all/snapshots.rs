//! Logs are purged, and who needs what was purged gets a snapshot.

use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_env::sim::SimDisk;
use holdfast_model::{LogIndex, NodeId, ReplicaId};
use holdfast_replica::{ReadLevel, WatchFilter, WatchItem, WatchStream};
use holdfast_runtime::{sleep, timeout};

use crate::cluster::{Cluster, Node, read};
use crate::damage::{damage_tables, retired};
use crate::net::SNAPSHOT_CHUNK;

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
    let leader = &cluster.leader().await.replica;
    let planned = leader.membership().position.unwrap();
    leader.add_learner(replica, node, planned).await.unwrap();
    cluster.settle().await;
    assert!(cluster.net.snapshots.load(Ordering::Relaxed) >= 1);
    assert!(cluster.nodes[&node].peek("k0").is_some());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_purged_that_is_not_durable_in_the_engine() {
    let cluster = Cluster::start(3).await;
    // More than the log keeps in any case, and than fits into a memtable.
    let value = "x".repeat(8 << 10);
    let mut purges = 0;
    for i in 0..600 {
        cluster.put(&format!("k{}", i % 4), &value).await;
        sleep(Duration::from_millis(20)).await;
        for node in cluster.nodes.values() {
            let status = node.replica.status();
            purges += u32::from(status.purged.is_some());
            assert!(status.purged.unwrap_or(LogIndex(0)) <= status.durable, "{status:?}");
        }
    }
    assert!(purges > 0, "nothing was purged");
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

#[tokio::test(start_paused = true)]
async fn a_watch_tells_nothing_twice_over_a_snapshot() {
    let cluster = Cluster::start(3).await;
    let away = cluster.follower().await.id();
    let everything = WatchFilter::range(Bound::Unbounded, Bound::Unbounded);
    let mut watch = cluster.nodes[&away].replica.watch(everything).unwrap();
    let mut last = 1;
    for i in 0..10 {
        cluster.put(&format!("before{i}"), "v").await;
        last = next_revision(&mut watch, last).await;
    }
    let snapshots = cluster.net.snapshots.load(Ordering::Relaxed);
    cluster.isolate(away, true);
    write_until_purged(&cluster, "k").await;
    cluster.isolate(away, false);
    cluster.settle().await;
    assert!(cluster.net.snapshots.load(Ordering::Relaxed) > snapshots, "it needed a snapshot");
    let newest = cluster.put("after", "v").await.point.revision.0;
    while last < newest {
        last = next_revision(&mut watch, last).await;
    }
}

/// The revision of the next events, which follow those of revision `last` without a gap.
async fn next_revision(watch: &mut WatchStream, last: u64) -> u64 {
    let item = timeout(Duration::from_secs(5), watch.next()).await.expect("events come");
    match item {
        Some(WatchItem::Events(events)) => {
            assert_eq!(events.revision.0, last + 1);
            events.revision.0
        }
        other => panic!("{other:?}"),
    }
}

/// A cluster with a node away that needs a snapshot of some hundred chunks.
/// The transfer breaks off after `percent` of it.
async fn one_needs_a_snapshot(percent: usize) -> (Cluster, NodeId, usize) {
    let mut cluster = Cluster::start(3).await;
    let away = cluster.follower().await.id();
    let (replica, disk) = cluster.crash(away, 0).await;
    // Nothing that packs well: the snapshot is to be large.
    for round in 0_u64..4 {
        for i in 0_u64..40 {
            let mut random = (round << 32 | i) + 1;
            let value: String = (0..2_000)
                .map(|_| {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    char::from(b' ' + u8::try_from((random >> 40) % 90).unwrap())
                })
                .collect();
            cluster.put(&format!("large/{round}/{i}"), &value).await;
        }
    }
    write_until_purged(&cluster, "k").await;
    // Everything durable, so that the next attempt sends the same files.
    cluster.leader().await.flush().await;
    sleep(Duration::from_secs(5)).await;
    let total = usize::try_from(cluster.leader().await.engine.pin().bytes()).unwrap();
    assert!(total > 200 * SNAPSHOT_CHUNK, "{total} bytes");
    *cluster.net.breaks_after.lock() = Some(total * percent / 100);
    cluster.boot(away, replica, disk).await.unwrap();
    (cluster, away, total)
}

/// Waits until transfers have broken off `times` times.
async fn broken_off(cluster: &Cluster, times: usize) {
    let broken = async {
        while cluster.net.breaks.load(Ordering::Relaxed) < times {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(20), broken).await.expect("a transfer breaks off");
}

async fn has_caught_up(cluster: &Cluster, away: NodeId) {
    cluster.settle().await;
    let hash = |node: &Node| node.replica.reader().state_hash().unwrap();
    assert_eq!(hash(&cluster.nodes[&away]), hash(cluster.leader().await));
    assert_eq!(cluster.nodes[&away].replica.failure(), None);
}

/// Files of transfers that have not ended.
fn staged(disk: &SimDisk) -> Vec<(PathBuf, usize)> {
    let files = disk.files(Path::new("/node")).unwrap().into_iter();
    let is_staged = |path: &PathBuf| path.to_string_lossy().contains(".staging-");
    files.filter(|(path, _)| is_staged(path)).map(|(path, bytes)| (path, bytes.len())).collect()
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_breaks_in_the_middle_is_sent_once() {
    let (cluster, away, total) = one_needs_a_snapshot(20).await;
    for times in 1..4 {
        broken_off(&cluster, times).await;
        *cluster.net.breaks_after.lock() = Some(total / 5);
    }
    broken_off(&cluster, 4).await;
    *cluster.net.breaks_after.lock() = None;
    has_caught_up(&cluster, away).await;
    assert!(cluster.net.snapshots.load(Ordering::Relaxed) >= 5, "it broke off four times");
    let sent = cluster.net.snapshot_bytes.load(Ordering::Relaxed);
    assert!((total..=total + SNAPSHOT_CHUNK).contains(&sent), "{sent} bytes for {total}");
    assert_eq!(staged(&cluster.nodes[&away].disk), [], "nothing is left over");
}

#[tokio::test(start_paused = true)]
async fn of_a_staged_snapshot_that_was_damaged_only_the_damaged_file_is_sent_again() {
    let (cluster, away, total) = one_needs_a_snapshot(50).await;
    broken_off(&cluster, 1).await;
    let disk = &cluster.nodes[&away].disk;
    let (path, bytes) = staged(disk).into_iter().next().expect("something is staged");
    // The first file is sent first: its beginning has arrived.
    disk.flip_bit(&path, 100, 5).unwrap();
    *cluster.net.breaks_after.lock() = None;
    has_caught_up(&cluster, away).await;
    let sent = cluster.net.snapshot_bytes.load(Ordering::Relaxed);
    assert!(sent > total, "the damage was not noticed");
    assert!(sent <= total + bytes + SNAPSHOT_CHUNK, "{sent} of {total}, {bytes} in that file");
}

#[tokio::test(start_paused = true)]
async fn what_a_crash_leaves_of_a_staged_snapshot_is_removed_and_sent_again() {
    let (mut cluster, away, total) = one_needs_a_snapshot(50).await;
    broken_off(&cluster, 1).await;
    let (replica, disk) = cluster.crash(away, 100).await;
    assert_ne!(staged(&disk), [], "the crash has left something");
    let before = cluster.net.snapshot_bytes.load(Ordering::Relaxed);
    cluster.boot(away, replica, disk).await.unwrap();
    assert_eq!(staged(&cluster.nodes[&away].disk), []);
    *cluster.net.breaks_after.lock() = None;
    has_caught_up(&cluster, away).await;
    let sent = cluster.net.snapshot_bytes.load(Ordering::Relaxed) - before;
    assert_eq!(sent, total);
}

#[tokio::test(start_paused = true)]
async fn a_sender_whose_file_is_damaged_is_retired_and_another_sends() {
    let (cluster, away, _) = one_needs_a_snapshot(0).await;
    broken_off(&cluster, 1).await;
    let leader = cluster.leader().await.id();
    assert!(damage_tables(&cluster.nodes[&leader].disk) > 0);
    // Nothing has arrived yet. The third node holds files of its own.
    *cluster.net.breaks_after.lock() = None;
    retired(&cluster.nodes[&leader]).await;
    let successor = cluster.leader_among(|id| id != leader).await;
    let target = successor.replica.reader().point().index;
    let caught_up = async {
        while cluster.nodes[&away].replica.reader().point().index < target {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(30), caught_up).await.expect("the successor's snapshot arrives");
    let hash = |node: &Node| node.replica.reader().state_hash().unwrap();
    assert_eq!(hash(&cluster.nodes[&away]), hash(successor));
}
