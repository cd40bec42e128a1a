//! Bytes that change on the platter while the node runs: the replica they belong to takes no
//! further part, also after a restart, and the range goes on without it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_env::Disk;
use holdfast_env::sim::SimDisk;
use holdfast_journal::{GroupId, Journal, SegmentInspector};
use holdfast_model::NodeId;
use holdfast_replica::{ProposeError, ReadError, ReadLevel, ReadRequest, Role};
use holdfast_runtime::{sleep, timeout};
use holdfast_wire::peer::v1 as peer;

use crate::cluster::{Cluster, Node, RANGE, SEGMENT_BYTES, deadline, journal_options, put, read};

const PATIENCE: Duration = Duration::from_secs(10);

/// Flips one bit of the payload of each entry the node's journal holds.
fn damage_log(disk: &SimDisk) -> usize {
    let files = disk.files(Path::new("/node/journal")).unwrap();
    let mut flipped = 0;
    for path in files.into_keys().filter(|path| SegmentInspector::is_segment(path)) {
        let batches: Vec<_> = SegmentInspector::open(disk, &path).unwrap().collect();
        let entries = batches.iter().flat_map(|batch| &batch.records);
        for entry in entries.filter(|record| record.payload.len() > 1_000) {
            // Headers are shorter than this, payloads longer.
            disk.flip_bit(&path, entry.offset + 500, 3).unwrap();
            flipped += 1;
        }
    }
    flipped
}

/// Flips bits in every table of the node's engine.
pub fn damage_tables(disk: &SimDisk) -> usize {
    let is_table = |path: &PathBuf| path.extension().is_some_and(|e| e == "tbl");
    let files = disk.files(Path::new("/node/replica")).unwrap();
    let tables: Vec<_> = files.into_iter().filter(|(path, _)| is_table(path)).collect();
    for (path, _) in &tables {
        for offset in [8, 16, 32, 64] {
            disk.flip_bit(path, offset, 1).unwrap();
        }
    }
    tables.len()
}

pub async fn retired(node: &Node) {
    let ended = async {
        while node.replica.leader().role != Role::Stopped {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, ended).await.expect("a damaged replica ends");
    let failure = node.replica.failure().expect("it says why");
    assert!(failure.is_damage, "{failure}");
    assert!(!node.fatal.load(Ordering::Acquire), "other replicas of the node are sound");
}

/// Checks that a retired replica refuses everything.
async fn takes_no_part(node: &Node) {
    for level in [ReadLevel::Linearizable, ReadLevel::Lease, ReadLevel::Follower] {
        let refused = node.replica.read(&ReadRequest::new(level, deadline())).await.map(drop);
        assert_eq!(refused, Err(ReadError::Stopped), "{level:?}");
    }
    let refused = node.replica.propose(&put("k", "v"), deadline()).await;
    assert_eq!(refused, Err(ProposeError::Stopped));
    for leadership_transfer in [false, true] {
        let vote = Some(peer::Vote { term: 99, node: 7, committed: false });
        let request = peer::VoteRequest { vote, leadership_transfer, ..Default::default() };
        assert!(node.replica.handle_vote(request).await.is_err(), "its vote counts no more");
    }
    let vote = Some(peer::Vote { term: 99, node: 7, committed: true });
    let append = peer::AppendRequest { vote, ..Default::default() };
    assert!(node.replica.handle_heartbeat(append).await.is_err(), "it acknowledges nothing");
}

/// Checks that a later run of the process knows the verdict, though nobody sees the damage.
async fn is_retired_for_ever(cluster: &mut Cluster, id: NodeId) {
    sleep(Duration::from_millis(100)).await;
    let group = GroupId { range: RANGE, replica: cluster.nodes[&id].replica_id() };
    let (_, disk) = cluster.crash(id, 0).await;
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let (_, _, recovery) = Journal::open(
        disk,
        Arc::new(holdfast_env::sim::SimEntropy::new(1)),
        cluster.clock.clone(),
        Path::new("/node/journal"),
        journal_options(SEGMENT_BYTES),
    )
    .unwrap();
    assert_eq!(recovery.hit, [group]);
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_log_is_damaged_is_retired_when_a_follower_needs_the_entry() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await.id();
    let behind = cluster.follower().await.id();
    cluster.isolate(behind, true);
    // More than the journal's cache holds, less than a follower may hold back.
    for i in 0..20 {
        cluster.put(&format!("k{i}"), &"x".repeat(8 << 10)).await;
    }
    assert!(damage_log(&cluster.nodes[&leader].disk) > 0);
    cluster.isolate(behind, false);
    retired(&cluster.nodes[&leader]).await;
    takes_no_part(&cluster.nodes[&leader]).await;
    cluster.propose_without(leader, &put("after", "v")).await;
    let successor = cluster.leader_among(|id| id != leader).await;
    for i in 0..20 {
        let found = read(successor, &format!("k{i}"), ReadLevel::Linearizable).await.unwrap();
        assert_eq!(found.map(|value| value.len()), Some(8 << 10), "k{i} was acknowledged");
    }
    is_retired_for_ever(&mut cluster, leader).await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_whose_table_is_damaged_is_retired_by_the_first_read_that_meets_it() {
    let mut cluster = Cluster::start(3).await;
    for i in 0..20 {
        cluster.put(&format!("k{i}"), &"x".repeat(1 << 10)).await;
    }
    cluster.settle().await;
    let follower = cluster.follower().await;
    let id = follower.id();
    follower.flush().await;
    assert!(damage_tables(&follower.disk) > 0);
    assert_eq!(follower.replica.failure(), None, "nobody has looked");
    let reader = follower.replica.reader();
    let found = reader.get(&"k0".into(), holdfast_kv::At::Current);
    assert!(found.is_err_and(|error| error.is_corruption()));
    retired(&cluster.nodes[&id]).await;
    takes_no_part(&cluster.nodes[&id]).await;
    cluster.put("after", "v").await;
    is_retired_for_ever(&mut cluster, id).await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_whose_apply_meets_damage_is_retired_and_does_not_end_the_process() {
    let mut cluster = Cluster::start(3).await;
    for i in 0..20 {
        cluster.put(&format!("k{i}"), &"x".repeat(1 << 10)).await;
    }
    cluster.settle().await;
    let leader = cluster.leader().await.id();
    cluster.nodes[&leader].flush().await;
    assert!(damage_tables(&cluster.nodes[&leader].disk) > 0);
    // Carried out by the others; the damaged leader cannot look up what stands there.
    let outcome = cluster.nodes[&leader].replica.propose(&put("k0", "new"), deadline()).await;
    assert!(matches!(outcome, Err(ProposeError::Unknown(_))), "{outcome:?}");
    retired(&cluster.nodes[&leader]).await;
    takes_no_part(&cluster.nodes[&leader]).await;
    cluster.propose_without(leader, &put("after", "v")).await;
    let successor = cluster.leader_among(|id| id != leader).await;
    let found = read(successor, "k0", ReadLevel::Linearizable).await;
    assert_eq!(found, Ok(Some("new".into())), "a quorum holds it");
    is_retired_for_ever(&mut cluster, leader).await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_is_asked_to_stop_has_not_failed() {
    let cluster = Cluster::start(3).await;
    let node = cluster.follower().await;
    node.replica.shutdown().await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(node.replica.failure(), None);
    node.replica.report_damage("of files that are being destroyed");
    assert_eq!(node.replica.failure(), None);
}
