//! What a client may believe about its writes.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use holdfast_env::Clock;
use holdfast_kv::command::{Condition, Increment, Put, SessionOpen};
use holdfast_kv::{Command, Operation, Outcome};
use holdfast_model::ClientId;
use holdfast_replica::{ENTRIES_IN_FLIGHT_MAX, ProposeError, ReadLevel, Role};
use holdfast_runtime::{Deadline, sleep, spawn, timeout};

use crate::cluster::{Cluster, deadline, put, put_operation, read, refusal};

#[tokio::test(start_paused = true)]
async fn a_single_replica_serves_writes_and_reads_alone() {
    let cluster = Cluster::start(1).await;
    let committed = cluster.put("k", "v").await;
    assert!(matches!(&committed.outcomes[0], Outcome::Applied(m) if m.revision.0 == 2));
    for level in [ReadLevel::Linearizable, ReadLevel::Lease, ReadLevel::Follower] {
        let leader = cluster.leader().await;
        assert_eq!(read(leader, "k", level).await, Ok(Some("v".into())), "{level:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_committed_reaches_every_replica() {
    let cluster = Cluster::start(3).await;
    for i in 0..50 {
        cluster.put(&format!("k{i}"), &format!("v{i}")).await;
    }
    cluster.settle().await;
    let hashes: Vec<_> =
        cluster.nodes.values().map(|n| n.replica.reader().state_hash().unwrap()).collect();
    assert_eq!(hashes[0], hashes[1]);
    assert_eq!(hashes[0], hashes[2]);
    for node in cluster.nodes.values() {
        assert_eq!(node.peek("k49"), Some("v49".into()));
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_compare_and_swaps_on_one_value_one_fails_and_shows_the_winner() {
    let cluster = Cluster::start(3).await;
    cluster.put("k", "old").await;
    let swap = |to: &str| {
        let condition = Some(Condition::IfValue("old".into()));
        let value = Bytes::copy_from_slice(to.as_bytes());
        Command::single(Put { key: "k".into(), value, condition, ..Put::default() })
    };
    let leader = cluster.leader().await;
    let (first, second) = (swap("a"), swap("b"));
    let (a, b) = tokio::join!(
        leader.replica.propose(&first, deadline()),
        leader.replica.propose(&second, deadline()),
    );
    let outcomes = [a.unwrap().outcomes.remove(0), b.unwrap().outcomes.remove(0)];
    let applied = outcomes.iter().filter(|o| matches!(o, Outcome::Applied(_))).count();
    assert_eq!(applied, 1);
    let winner = cluster.leader().await.peek("k");
    let shown = outcomes.iter().find_map(|o| match o {
        Outcome::ConditionFailed { current } => current.as_ref().map(|entry| entry.value.clone()),
        _ => None,
    });
    assert_eq!(shown, winner);
}

#[tokio::test(start_paused = true)]
async fn commands_that_wait_together_share_entries() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let before = leader.replica.reader().point().index.0;
    let writers: Vec<_> =
        (0..64)
            .map(|i| {
                let replica = leader.replica.clone();
                spawn(async move {
                    replica.propose(&put(&format!("k{i}"), "v"), deadline()).await.unwrap()
                })
            })
            .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let entries = leader.replica.reader().point().index.0 - before;
    assert!(entries <= 4, "64 commands in {entries} entries");
}

#[tokio::test(start_paused = true)]
async fn a_command_larger_than_an_entry_should_be_goes_alone_and_through() {
    let cluster = Cluster::start(3).await;
    let large = "x".repeat(60 << 10);
    let batch = (0..30).map(|i| put_operation(&format!("large{i}"), &large));
    cluster.propose(&Command::batch(batch)).await;
    cluster.settle().await;
    for node in cluster.nodes.values() {
        assert_eq!(node.peek("large29").map(|v| v.len()), Some(large.len()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_follower_refuses_writes_and_names_the_leader() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    let error = refusal(follower.replica.propose(&put("k", "v"), deadline()).await);
    let named = Some((leader.replica_id(), leader.id()));
    assert_eq!(error, ProposeError::NotLeader { leader: named });
    assert!(error.is_definite());
}

#[tokio::test(start_paused = true)]
async fn a_write_on_a_leader_that_was_cut_off_ends_unknown() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let old = leader.id();
    cluster.isolate(old, true);
    let soon = Deadline::after(Duration::from_millis(300));
    let error = refusal(leader.replica.propose(&put("k", "lost?"), soon).await);
    assert!(matches!(error, ProposeError::Unknown(_)), "{error}");
    cluster.propose_without(old, &put("k", "new")).await;
    cluster.isolate(old, false);
    cluster.settle().await;
    assert_eq!(cluster.nodes[&old].peek("k"), Some("new".into()));
}

#[tokio::test(start_paused = true)]
async fn an_entry_discarded_by_a_new_leader_is_reported_unknown_before_its_deadline() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let old = leader.id();
    cluster.isolate(old, true);
    let replica = leader.replica.clone();
    let patient = Deadline::after(Duration::from_secs(25));
    let write = spawn(async move { replica.propose(&put("k", "lost"), patient).await });
    cluster.propose_without(old, &put("k", "kept")).await;
    cluster.isolate(old, false);
    let error = refusal(timeout(Duration::from_secs(20), write).await.unwrap().unwrap());
    assert!(matches!(error, ProposeError::Unknown(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_leader_without_a_quorum_soon_refuses_writes_definitely() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    cluster.isolate(leader.id(), true);
    sleep(Duration::from_secs(1)).await;
    let error = refusal(leader.replica.propose(&put("k", "v"), deadline()).await);
    assert_eq!(error, ProposeError::NotLeader { leader: None });
}

#[tokio::test(start_paused = true)]
async fn what_waits_behind_the_entries_of_a_cut_off_leader_is_soon_refused_definitely() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    cluster.isolate(leader.id(), true);
    let (mut under_way, mut waiting) = (Vec::new(), Vec::new());
    for i in 0..ENTRIES_IN_FLIGHT_MAX + 100 {
        let (replica, command) = (leader.replica.clone(), put(&format!("k{i}"), "v"));
        let write = spawn(async move { replica.propose(&command, deadline()).await });
        match i < ENTRIES_IN_FLIGHT_MAX {
            true => under_way.push(write),
            false => waiting.push(write),
        }
        // Each of the first is an entry of its own.
        sleep(Duration::from_millis(2)).await;
    }
    let refused = timeout(Duration::from_millis(900), join_all(waiting)).await.unwrap();
    for answer in refused {
        assert_eq!(refusal(answer.unwrap()), ProposeError::NotLeader { leader: None });
    }
    assert!(under_way.iter().all(|write| !write.is_finished()), "their outcome is unknown");
}

#[tokio::test(start_paused = true)]
async fn increments_retried_in_a_session_across_failovers_count_once() {
    let mut cluster = Cluster::start(3).await;
    let client = ClientId(77);
    let open = SessionOpen { client: Bytes::copy_from_slice(&client.to_bytes()) };
    cluster.propose(&Command::single(Operation::SessionOpen(open))).await;
    let mut acknowledged = 0_u64;
    for seq in 1..=30 {
        let increment = Increment { key: "n".into(), delta: 1, ..Increment::default() };
        let command = Command::single(increment).in_session(client, seq, seq);
        if seq % 10 == 5 {
            let id = cluster.leader().await.id();
            let replica = cluster.leader().await.replica.clone();
            let again = command.clone();
            let attempt = spawn(async move { replica.propose(&again, deadline()).await });
            // The leader dies at some point of the write: before, in, or after its commit.
            sleep(Duration::from_micros(900 * seq)).await;
            let (replica, disk) = cluster.crash(id, 0).await;
            drop(attempt.await);
            cluster.report_lost(id);
            cluster.boot(id, replica, disk).await.unwrap();
        }
        let committed = cluster.propose(&command).await;
        acknowledged += 1;
        match &committed.outcomes[0] {
            Outcome::Applied(mutation) => assert_eq!(mutation.number as u64, acknowledged),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(cluster.leader().await.peek("n"), Some(acknowledged.to_string().into()));
}

#[tokio::test(start_paused = true)]
async fn a_range_over_its_byte_budget_refuses_instead_of_queueing() {
    let cluster = Cluster::start_tuned(3, |options| options.in_flight_bytes_max = 64 << 10).await;
    let leader = cluster.leader().await;
    let value = "x".repeat(20 << 10);
    let writers: Vec<_> = (0..16)
        .map(|i| {
            let (replica, value) = (leader.replica.clone(), value.clone());
            spawn(async move { replica.propose(&put(&format!("k{i}"), &value), deadline()).await })
        })
        .collect();
    let (mut done, mut refused) = (0, 0);
    for writer in writers {
        match writer.await.unwrap() {
            Ok(_) => done += 1,
            Err(ProposeError::Overloaded { budget, .. }) => {
                assert_eq!(budget, "bytes under way in the range");
                refused += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(done >= 1 && refused >= 1, "{done} done, {refused} refused");
    assert_eq!(leader.replica.status().in_flight_bytes, 0);
    cluster.put("after", "v").await;
}

#[tokio::test(start_paused = true)]
async fn a_stopping_leader_hands_over_and_refuses_definitely() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let old = leader.id();
    let before = cluster.clock.monotonic();
    leader.replica.shutdown().await;
    let error = refusal(leader.replica.propose(&put("k", "v"), deadline()).await);
    assert!(error.is_definite(), "{error}");
    let new = cluster.leader_among(|id| id != old).await;
    assert_eq!(new.replica.leader().role, Role::Leader);
    let took = cluster.clock.monotonic() - before;
    assert!(took < Duration::from_millis(500), "handing over took {took:?}");
}
