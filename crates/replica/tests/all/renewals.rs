//! Leases are kept alive at little cost, and never promised for longer than the log holds.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_env::Clock;
use holdfast_kv::command::{LeaseGrant, LeaseRevoke, Put};
use holdfast_kv::{Command, Operation};
use holdfast_model::LeaseId;
use holdfast_replica::{ProposeError, Renewed};
use holdfast_runtime::{Deadline, sleep, spawn};

use crate::cluster::{Cluster, Node, deadline, put};

fn grant(id: u64, ttl_ms: u64) -> Command {
    Command::single(Operation::LeaseGrant(LeaseGrant { id, ttl_ms }))
}

fn attached(key: String, lease: u64) -> Operation {
    Operation::Put(Put { key: key.into(), value: "v".into(), lease, ..Put::default() })
}

/// Asks until somebody answers for certain.
async fn renew(cluster: &Cluster, lease: u64) -> Renewed {
    loop {
        match cluster.leader().await.replica.renew(vec![LeaseId(lease)], deadline()).await {
            Ok(renewed) => return renewed,
            Err(_) => sleep(Duration::from_millis(5)).await,
        }
    }
}

/// What an answer promises is left, from now on.
fn left(renewed: &Renewed) -> Duration {
    let left_ms = renewed.renewals[0].expires_at_ms.saturating_sub(renewed.point.clock_ms);
    Duration::from_millis(left_ms)
}

fn log_end(node: &Node) -> u64 {
    node.replica.status().last_log.map_or(0, |index| index.0)
}

/// Entries per second that `leases` cost, each asked to be renewed again `pause` after its answer.
async fn entries_per_second(leases: u64, pause: Duration) -> f64 {
    let cluster = Cluster::start(3).await;
    for id in 1..=leases {
        cluster.propose(&grant(id, 10_000)).await;
    }
    let leader = cluster.leader().await;
    // The grants came one by one; after a second it no longer matters when.
    let began = cluster.clock.monotonic() + Duration::from_secs(1);
    let end = began + Duration::from_secs(5);
    let renewers: Vec<_> = (1..=leases)
        .map(|id| {
            let (replica, clock) = (leader.replica.clone(), cluster.clock.clone());
            spawn(async move {
                sleep(pause * u32::try_from(id).unwrap() / u32::try_from(leases).unwrap()).await;
                while clock.monotonic() < end {
                    let renewed = replica.renew(vec![LeaseId(id)], deadline()).await.unwrap();
                    assert!(left(&renewed) >= Duration::from_millis(9_400), "{renewed:?}");
                    sleep(pause).await;
                }
            })
        })
        .collect();
    sleep(Duration::from_secs(1)).await;
    let entries = log_end(leader);
    for renewer in renewers {
        renewer.await.unwrap();
    }
    let seconds = (cluster.clock.monotonic() - began).as_secs_f64();
    (log_end(leader) - entries) as f64 / seconds
}

#[tokio::test(start_paused = true)]
async fn a_thousand_renewals_a_second_cost_at_most_ten_entries_a_second() {
    let rate = entries_per_second(1_000, Duration::from_secs(1)).await;
    assert!((1.0..=10.0).contains(&rate), "{rate} entries per second");
}

#[tokio::test(start_paused = true)]
async fn clients_that_renew_far_too_often_cost_hardly_more_than_patient_ones() {
    let rate = entries_per_second(100, Duration::from_millis(100)).await;
    assert!((1.0..=4.0).contains(&rate), "{rate} entries per second");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_just_renewed_is_answered_at_once_without_an_entry() {
    let cluster = Cluster::start(3).await;
    cluster.propose(&grant(1, 10_000)).await;
    let first = renew(&cluster, 1).await;
    let leader = cluster.leader().await;
    let (entries, began) = (log_end(leader), cluster.clock.monotonic());
    sleep(Duration::from_millis(300)).await;
    let again = renew(&cluster, 1).await;
    assert_eq!(cluster.clock.monotonic() - began, Duration::from_millis(300), "at once");
    assert_eq!(log_end(leader), entries, "without an entry");
    assert!(left(&again) <= left(&first) - Duration::from_millis(300), "{again:?} {first:?}");
    sleep(Duration::from_millis(300)).await;
    let later = renew(&cluster, 1).await;
    assert_eq!(log_end(leader), entries + 1, "it was renewed long enough ago");
    assert!(left(&later) >= Duration::from_millis(9_990), "{later:?}");
}

#[tokio::test(start_paused = true)]
async fn who_renews_without_pause_waits_for_nobody() {
    let cluster = Cluster::start(3).await;
    for id in 1..=10 {
        cluster.propose(&grant(id, 10_000)).await;
    }
    let leader = cluster.leader().await;
    let (entries, began) = (log_end(leader), cluster.clock.monotonic());
    let mut slowest = Duration::ZERO;
    while cluster.clock.monotonic() - began < Duration::from_secs(10) {
        for id in 1..=10 {
            let asked = cluster.clock.monotonic();
            let renewed = leader.replica.renew(vec![LeaseId(id)], deadline()).await.unwrap();
            assert!(left(&renewed) >= Duration::from_millis(9_400), "{renewed:?}");
            slowest = slowest.max(cluster.clock.monotonic() - asked);
        }
        sleep(Duration::from_millis(5)).await;
    }
    assert!(slowest < Duration::from_millis(50), "one of them took {slowest:?}");
    let entries = log_end(leader) - entries;
    assert!((10..=40).contains(&entries), "{entries} entries in 10 seconds");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_gone_is_never_answered_from_memory() {
    let cluster = Cluster::start(3).await;
    cluster.propose(&grant(1, 10_000)).await;
    assert!(left(&renew(&cluster, 1).await) > Duration::ZERO);
    let revoke = Operation::LeaseRevoke(LeaseRevoke { id: 1 });
    cluster.propose(&Command::single(revoke)).await;
    let renewed = renew(&cluster, 1).await;
    assert_eq!((renewed.renewals[0].ttl_ms, renewed.renewals[0].expires_at_ms), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_a_quorum_has_left_promises_nothing() {
    let cluster = Cluster::start(3).await;
    // Fresh for half a second, which is shorter than the lease of a leader.
    cluster.propose(&grant(1, 60_000)).await;
    let old = cluster.leader().await.id();
    cluster.isolate(old, true);
    let replica = cluster.nodes[&old].replica.clone();
    let watcher = spawn(async move {
        let mut promised = Vec::new();
        for _ in 0..400 {
            let soon = Deadline::after(Duration::from_millis(5));
            match replica.renew(vec![LeaseId(1)], soon).await {
                Ok(_) => promised.push(tokio::time::Instant::now()),
                Err(error) => assert_ne!(error, ProposeError::Stopped),
            }
            sleep(Duration::from_millis(5)).await;
        }
        promised
    });
    cluster.propose_without(old, &put("k", "v")).await;
    let replaced = tokio::time::Instant::now();
    let promised = watcher.await.unwrap();
    assert!(!promised.is_empty(), "its own lease lasted a while");
    assert!(promised.iter().all(|moment| *moment < replaced));
}

#[tokio::test(start_paused = true)]
async fn after_a_leader_change_nothing_expires_before_what_an_answer_promised() {
    const LEASES: u64 = 20;
    let cluster = Cluster::start(3).await;
    for id in 1..=LEASES {
        cluster.propose(&grant(id, 8_000)).await;
        cluster.propose(&Command::single(attached(format!("k{id}"), id))).await;
    }
    // Monotonic time until which the last answer for a lease has promised its key.
    let mut promised = BTreeMap::new();
    for round in 0..4 {
        for id in 1..=LEASES {
            renew(&cluster, id).await;
            // This one is answered from what the log has just taken up.
            sleep(Duration::from_millis(100)).await;
            let renewed = renew(&cluster, id).await;
            // Range time is told in whole milliseconds, and may be slewed by a thousandth.
            let left = left(&renewed) * 999 / 1_000 - Duration::from_millis(1);
            let until = cluster.clock.monotonic() + left;
            let before = promised.insert(id, until).unwrap_or_default();
            assert!(until + Duration::from_millis(2) >= before, "a promise is not taken back");
        }
        let old = cluster.leader().await.id();
        if round % 2 == 0 {
            cluster.isolate(old, true);
            cluster.leader_among(|id| id != old).await;
            cluster.isolate(old, false);
        } else {
            cluster.nodes[&old].replica.transfer_leader(None).await.unwrap();
        }
    }
    let last = promised.values().max().copied().unwrap();
    let mut gone = 0;
    while cluster.clock.monotonic() < last + Duration::from_secs(1) {
        let now = cluster.clock.monotonic();
        gone = 0;
        for (id, until) in &promised {
            for node in cluster.nodes.values() {
                let is_there = node.peek(&format!("k{id}")).is_some();
                assert!(is_there || now >= *until, "k{id} went {:?} early", *until - now);
                gone += usize::from(!is_there);
            }
        }
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(gone, 3 * LEASES as usize, "everything has expired in the end");
}
