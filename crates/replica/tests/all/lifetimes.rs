//! When what has a time to live ends, whatever becomes of leaders and of their clocks.

use std::time::Duration;

use bytes::Bytes;
use holdfast_env::Clock;
use holdfast_kv::command::{LeaseGrant, Put};
use holdfast_kv::{Command, Operation};
use holdfast_model::NodeId;
use holdfast_replica::{ReadError, ReadLevel};
use holdfast_runtime::sleep;

use crate::cluster::{Cluster, read};

const SECOND: Duration = Duration::from_secs(1);
/// How late something may end whose leader died: what a commit takes, and heard time that is older
/// than it seems.
const LATE: Duration = Duration::from_millis(600);

/// Three nodes, led by one whose clock shows `percent` of what passes.
async fn led_by_a_clock_at(percent: u32) -> (Cluster, NodeId) {
    let cluster = Cluster::start_on_clocks([percent, 100, 100]).await;
    let wrong = NodeId(1);
    cluster.put("k", "v").await;
    let leader = cluster.leader().await;
    if leader.id() != wrong {
        leader.replica.transfer_leader(Some(wrong)).await.unwrap();
    }
    (cluster, wrong)
}

/// Writes for so long; each write is heard by the followers.
async fn keep_busy(cluster: &Cluster, span: Duration) {
    let end = cluster.clock.monotonic() + span;
    while cluster.clock.monotonic() < end {
        cluster.put("other", "v").await;
        sleep(Duration::from_millis(100)).await;
    }
}

/// Grants a lease and binds `key` to it; when it was asked for.
async fn grant(cluster: &Cluster, id: u64, key: &'static str, ttl: Duration) -> Duration {
    let began = cluster.clock.monotonic();
    let ttl_ms = u64::try_from(ttl.as_millis()).unwrap();
    let granted = LeaseGrant { id, ttl_ms };
    cluster.propose(&Command::single(Operation::LeaseGrant(granted))).await;
    let bound = Put { key: key.into(), value: "v".into(), lease: id, ..Put::default() };
    cluster.propose(&Command::single(bound)).await;
    began
}

/// When `key` is gone, as far as anybody can read.
async fn end_of(cluster: &Cluster, key: &str) -> Duration {
    loop {
        match read(cluster.leader().await, key, ReadLevel::Linearizable).await {
            Ok(None) => return cluster.clock.monotonic(),
            // Nobody leads for a moment.
            Ok(Some(_)) | Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn kill(cluster: &mut Cluster, id: NodeId) {
    assert!(cluster.nodes[&id].is_leader(), "it was to lead until now");
    cluster.crash(id, 0).await;
    cluster.report_lost(id);
}

#[tokio::test(start_paused = true)]
async fn a_lease_of_a_leader_whose_clock_stood_still_ends_neither_early_nor_late() {
    let (mut cluster, frozen) = led_by_a_clock_at(100).await;
    let before = grant(&cluster, 1, "before", 12 * SECOND).await;
    cluster.clocks[&frozen].freeze();
    keep_busy(&cluster, 6 * SECOND).await;
    let stood = cluster.clock.monotonic() - before;
    let began = grant(&cluster, 2, "k", 3 * SECOND).await;
    kill(&mut cluster, frozen).await;
    let lived = end_of(&cluster, "k").await - began;
    assert!(lived >= 3 * SECOND && lived <= 3 * SECOND + LATE, "{lived:?}");
    // What was granted before lives longer by as much as the clock has lost, and no more.
    let lived = end_of(&cluster, "before").await - before;
    assert!(lived >= 12 * SECOND && lived <= 12 * SECOND + stood + LATE, "{lived:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lease_of_a_leader_whose_clock_was_slow_ends_neither_early_nor_late() {
    let (mut cluster, slow) = led_by_a_clock_at(90).await;
    keep_busy(&cluster, 40 * SECOND).await;
    let began = grant(&cluster, 1, "k", 3 * SECOND).await;
    kill(&mut cluster, slow).await;
    let lived = end_of(&cluster, "k").await - began;
    assert!(lived >= 3 * SECOND && lived <= 3 * SECOND + LATE, "{lived:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lease_of_a_leader_that_was_handed_over_ends_in_time() {
    let (cluster, slow) = led_by_a_clock_at(90).await;
    keep_busy(&cluster, 40 * SECOND).await;
    let began = grant(&cluster, 1, "k", 3 * SECOND).await;
    let to = cluster.nodes[&slow].replica.transfer_leader(None).await.unwrap();
    assert_ne!(to, cluster.nodes[&slow].replica_id());
    let lived = end_of(&cluster, "k").await - began;
    assert!(lived >= 3 * SECOND && lived <= 3 * SECOND + LATE, "{lived:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lease_runs_on_while_no_node_does() {
    let mut cluster = Cluster::start(3).await;
    grant(&cluster, 1, "k", 30 * SECOND).await;
    grant(&cluster, 2, "longer", 120 * SECOND).await;
    let ids: Vec<_> = cluster.nodes.keys().copied().collect();
    let mut images = Vec::new();
    for id in ids {
        let (replica, disk) = cluster.crash(id, 0).await;
        images.push((id, replica, disk));
    }
    sleep(60 * SECOND).await;
    for (id, replica, disk) in images {
        cluster.boot(id, replica, disk).await.unwrap();
    }
    let booted = cluster.clock.monotonic();
    let took = end_of(&cluster, "k").await - booted;
    assert!(took <= 4 * SECOND, "gone {took:?} after the start");
    let leader = cluster.leader().await;
    assert_eq!(read(leader, "longer", ReadLevel::Linearizable).await, Ok(Some("v".into())));
}

#[tokio::test(start_paused = true)]
async fn what_ended_while_its_leader_stood_still_is_not_shown_after_that() {
    let (cluster, leader) = led_by_a_clock_at(100).await;
    for (key, level) in [("a", ReadLevel::Linearizable), ("b", ReadLevel::Lease)] {
        let ttl = Put { key: key.into(), value: "v".into(), ttl_ms: 30_000, ..Put::default() };
        cluster.propose(&Command::single(ttl)).await;
        sleep(SECOND).await;
        assert_eq!(read(cluster.leader().await, key, level).await, Ok(Some("v".into())));
        cluster.clocks[&leader].skip(60 * SECOND);
        assert_eq!(read(cluster.leader().await, key, level).await, Ok(None), "{level:?}");
    }
}

/// What a read right after a pause of its leader finds under `key`, where another command was
/// carried out before it.
async fn read_after_a_pause(
    cluster: &Cluster,
    leader: NodeId,
    key: &str,
    level: ReadLevel,
) -> Option<Bytes> {
    assert_eq!(read(cluster.leader().await, key, level).await, Ok(Some("v".into())));
    cluster.clocks[&leader].skip(60 * SECOND);
    cluster.put("other", "v").await;
    read(cluster.leader().await, key, level).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn keys_of_a_lease_that_ended_while_its_leader_stood_still_are_not_shown_after_that() {
    let (cluster, leader) = led_by_a_clock_at(100).await;
    for (id, key, level) in [(1, "a", ReadLevel::Linearizable), (2, "b", ReadLevel::Lease)] {
        grant(&cluster, id, key, 30 * SECOND).await;
        let found = read_after_a_pause(&cluster, leader, key, level).await;
        assert_eq!(found, None, "{level:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_lease_of_many_that_ended_while_their_leader_stood_still_is_shown_after_that() {
    let (cluster, leader) = led_by_a_clock_at(100).await;
    let leases = (2..1_002).map(|id| Operation::LeaseGrant(LeaseGrant { id, ttl_ms: 29_000 }));
    cluster.propose(&Command::batch(leases)).await;
    grant(&cluster, 1, "k", 30 * SECOND).await;
    assert_eq!(read_after_a_pause(&cluster, leader, "k", ReadLevel::Linearizable).await, None);
}

#[tokio::test(start_paused = true)]
async fn what_ended_while_its_leader_stood_still_is_not_shown_behind_a_backlog_either() {
    let (cluster, leader) = led_by_a_clock_at(100).await;
    let many = |i: u32| Put { key: format!("old{i}").into(), ttl_ms: 1_000, ..Put::default() };
    cluster.propose(&Command::batch((0..1_000).map(|i| Operation::Put(many(i))))).await;
    let ttl = Put { key: "k".into(), value: "v".into(), ttl_ms: 30_000, ..Put::default() };
    cluster.propose(&Command::single(ttl)).await;
    sleep(SECOND + Duration::from_millis(20)).await;
    let reader = cluster.leader().await.replica.reader().clone();
    assert!(reader.next_due_ms().unwrap().unwrap() <= reader.point().clock_ms, "a backlog");
    cluster.clocks[&leader].skip(60 * SECOND);
    assert_eq!(read(cluster.leader().await, "k", ReadLevel::Linearizable).await, Ok(None));
}

#[tokio::test(start_paused = true)]
async fn a_read_ends_where_what_ended_cannot_be_removed() {
    let (cluster, leader) = led_by_a_clock_at(100).await;
    grant(&cluster, 1, "k", 30 * SECOND).await;
    cluster.isolate(leader, true);
    cluster.clocks[&leader].skip(60 * SECOND);
    let began = cluster.clock.monotonic();
    let cut_off = &cluster.nodes[&leader];
    let found = read(cut_off, "k", ReadLevel::Lease).await;
    assert!(matches!(found, Err(ReadError::NoQuorum(_))), "{found:?}");
    assert!(cluster.clock.monotonic() - began <= 6 * SECOND, "it had five seconds");
}
