//! A replica that has stopped leaves nothing of itself in memory.

use std::sync::{Arc, Weak};
use std::time::Duration;

use holdfast_journal::Journal;
use holdfast_lsm::Engine;
use holdfast_model::NodeId;
use holdfast_runtime::{sleep, spawn, timeout};

use crate::cluster::{Cluster, Node, deadline, halt, put};

/// No step of a test takes longer than this, in virtual time.
const PATIENCE: Duration = Duration::from_secs(30);

/// Both, since they have different things under way.
async fn leader_and_follower(cluster: &Cluster) -> [NodeId; 2] {
    [cluster.leader().await.id(), cluster.follower().await.id()]
}

/// Has commands wait on every node for what may never come.
async fn keep_waiting(cluster: &Cluster) {
    for i in 0..8 {
        for node in cluster.nodes.values() {
            let (replica, command) = (node.replica.clone(), put(&format!("k{i}"), "w"));
            spawn(async move {
                let _ = replica.propose(&command, deadline()).await;
            });
        }
        sleep(Duration::from_millis(3)).await;
    }
}

/// Ends node `id` as a move to other nodes would, and returns what must be gone then.
async fn remove(cluster: &mut Cluster, id: NodeId) -> (Weak<Engine>, Weak<Journal>) {
    let node: Node = cluster.nodes.remove(&id).expect("the node runs");
    cluster.net.detach(node.replica_id());
    let left = (Arc::downgrade(&node.engine), Arc::downgrade(&node.journal));
    halt(&node).await;
    left
}

async fn is_gone(left: impl Fn() -> usize, what: &str) {
    let gone = async {
        while left() > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let gone = timeout(PATIENCE, gone).await;
    assert!(gone.is_ok(), "{what} has still {} owners", left());
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_stops_after_a_power_cut_leaves_neither_engine_nor_journal() {
    for cut in [None, Some(1), Some(2), Some(5)] {
        for place in 0..2 {
            let mut cluster = Cluster::start(3).await;
            let id = leader_and_follower(&cluster).await[place];
            let disk = &cluster.nodes[&id].disk;
            disk.cut_power_at(cut.map(|cut| disk.counters().mutations + cut));
            keep_waiting(&cluster).await;
            let (engine, journal) = remove(&mut cluster, id).await;
            is_gone(|| engine.strong_count(), "the engine").await;
            is_gone(|| journal.strong_count(), "the journal").await;
            cluster.end().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_hanging_journal_has_queued_keeps_no_stopped_replica() {
    for place in 0..2 {
        let mut cluster = Cluster::start(3).await;
        let id = leader_and_follower(&cluster).await[place];
        let node = &cluster.nodes[&id];
        let (journal, queued) = (node.journal.clone(), node.journal.logical_end());
        node.hang_journal().await;
        keep_waiting(&cluster).await;
        let (engine, left) = remove(&mut cluster, id).await;
        assert!(journal.logical_end() > queued, "nothing waits for the journal");
        assert!(journal.durable() < journal.logical_end(), "the journal did not hang");
        is_gone(|| engine.strong_count(), "the engine").await;
        drop(journal);
        is_gone(|| left.strong_count(), "the journal").await;
        cluster.end().await;
    }
}
