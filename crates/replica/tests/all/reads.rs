//! What a read may claim at each level.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use holdfast_env::Clock;
use holdfast_kv::command::Put;
use holdfast_kv::{Command, Operation};
use holdfast_model::NodeId;
use holdfast_replica::{ReadError, ReadLevel, ReadRequest};
use holdfast_runtime::{Deadline, sleep, spawn};

use crate::cluster::{Cluster, deadline, put, read};

#[tokio::test(start_paused = true)]
async fn a_linearizable_read_on_a_follower_sees_what_was_acknowledged_before_it() {
    let cluster = Cluster::start(3).await;
    let follower = cluster.follower().await;
    for i in 0..20 {
        let value = format!("v{i}");
        cluster.put("k", &value).await;
        let seen = read(follower, "k", ReadLevel::Linearizable).await;
        assert_eq!(seen, Ok(Some(value.into())));
    }
    assert!(cluster.net.read_indexes.load(Ordering::Relaxed) >= 20);
}

/// A cluster with a follower that learns of entries late, though it answers as quickly as ever.
async fn one_learns_late(by: Duration) -> (Cluster, NodeId) {
    let cluster = Cluster::start(3).await;
    cluster.put("k", "v").await;
    let late = cluster.follower().await.id();
    cluster.net.slow_entries.lock().insert(late, by);
    (cluster, late)
}

#[tokio::test(start_paused = true)]
async fn a_read_on_a_follower_that_learns_of_entries_late_waits_for_them() {
    let (cluster, late) = one_learns_late(Duration::from_millis(50)).await;
    for i in 0..20 {
        let value = format!("v{i}");
        cluster.put("k", &value).await;
        for level in [ReadLevel::Linearizable, ReadLevel::Lease] {
            let seen = read(&cluster.nodes[&late], "k", level).await;
            assert_eq!(seen, Ok(Some(value.clone().into())), "{level:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_never_takes_the_answer_of_a_round_that_began_before_it() {
    let (cluster, late) = one_learns_late(Duration::from_millis(20)).await;
    let follower = &cluster.nodes[&late];
    let ended = Arc::new(AtomicBool::new(false));
    // Others read all the time, so that a round is always under way.
    let others: Vec<_> = (0..4)
        .map(|i| {
            let (replica, ended) = (follower.replica.clone(), ended.clone());
            spawn(async move {
                sleep(Duration::from_millis(i)).await;
                while !ended.load(Ordering::Acquire) {
                    let request = ReadRequest::new(ReadLevel::Linearizable, deadline());
                    replica.read(&request).await.map(drop).unwrap();
                }
            })
        })
        .collect();
    for i in 0..200 {
        let value = format!("v{i}");
        cluster.put("k", &value).await;
        let seen = read(follower, "k", ReadLevel::Linearizable).await;
        assert_eq!(seen, Ok(Some(value.into())));
        sleep(Duration::from_millis(i % 5)).await;
    }
    ended.store(true, Ordering::Release);
    for other in others {
        other.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn reads_that_wait_together_share_rounds() {
    let cluster = Cluster::start(3).await;
    cluster.put("k", "v").await;
    let leader = cluster.leader().await;
    let before = cluster.net.urgent_heartbeats.load(Ordering::Relaxed);
    let readers: Vec<_> = (0..100)
        .map(|_| {
            let replica = leader.replica.clone();
            let request = ReadRequest::new(ReadLevel::Linearizable, deadline());
            spawn(async move { replica.read(&request).await.map(drop) })
        })
        .collect();
    for reader in readers {
        reader.await.unwrap().unwrap();
    }
    let probes = cluster.net.urgent_heartbeats.load(Ordering::Relaxed) - before;
    assert!((1..=8).contains(&probes), "100 reads took {probes} probes to two followers");
}

#[tokio::test(start_paused = true)]
async fn follower_reads_that_wait_together_share_a_question_to_the_leader() {
    let cluster = Cluster::start(3).await;
    cluster.put("k", "v").await;
    let follower = cluster.follower().await;
    let before = cluster.net.read_indexes.load(Ordering::Relaxed);
    let readers: Vec<_> = (0..100)
        .map(|_| {
            let replica = follower.replica.clone();
            let request = ReadRequest::new(ReadLevel::Linearizable, deadline());
            spawn(async move { replica.read(&request).await.map(drop) })
        })
        .collect();
    for reader in readers {
        reader.await.unwrap().unwrap();
    }
    let asked = cluster.net.read_indexes.load(Ordering::Relaxed) - before;
    assert!((1..=3).contains(&asked), "100 reads asked {asked} times");
}

#[tokio::test(start_paused = true)]
async fn a_round_whose_answer_is_late_holds_up_no_read_behind_it() {
    let cluster = Cluster::start(3).await;
    cluster.put("k", "v").await;
    let follower = cluster.follower().await;
    *cluster.net.slow_read_index.lock() = Some(Duration::from_millis(300));
    let began = cluster.clock.monotonic();
    let late = {
        let replica = follower.replica.clone();
        let request = ReadRequest::new(ReadLevel::Linearizable, deadline());
        spawn(async move { replica.read(&request).await.map(drop) })
    };
    sleep(Duration::from_millis(5)).await;
    assert_eq!(read(follower, "k", ReadLevel::Linearizable).await, Ok(Some("v".into())));
    assert!(cluster.clock.monotonic() - began < Duration::from_millis(100));
    late.await.unwrap().unwrap();
    assert!(cluster.clock.monotonic() - began >= Duration::from_millis(300));
}

#[tokio::test(start_paused = true)]
async fn lease_reads_need_no_round_while_the_lease_is_fresh() {
    let cluster = Cluster::start(3).await;
    cluster.put("k", "v").await;
    let leader = cluster.leader().await;
    let probes = || cluster.net.urgent_heartbeats.load(Ordering::Relaxed);
    let (before, began) = (probes(), cluster.clock.monotonic());
    for _ in 0..50 {
        assert_eq!(read(leader, "k", ReadLevel::Lease).await, Ok(Some("v".into())));
    }
    assert_eq!(probes(), before);
    assert_eq!(cluster.clock.monotonic(), began, "answered without waiting for anything");
}

#[tokio::test(start_paused = true)]
async fn a_lease_read_on_a_follower_is_answered_by_a_quorum_round() {
    let cluster = Cluster::start(3).await;
    let follower = cluster.follower().await;
    for i in 0..5 {
        let value = format!("v{i}");
        cluster.put("k", &value).await;
        assert_eq!(read(follower, "k", ReadLevel::Lease).await, Ok(Some(value.into())));
    }
    assert!(cluster.net.read_indexes.load(Ordering::Relaxed) >= 5);
}

#[tokio::test(start_paused = true)]
async fn a_deposed_leader_never_serves_what_its_successor_has_replaced() {
    let cluster = Cluster::start(3).await;
    cluster.put("k", "old").await;
    let old = cluster.leader().await.id();
    cluster.isolate(old, true);
    let watcher = {
        let replica = cluster.nodes[&old].replica.clone();
        spawn(async move {
            // The moments at which the cut-off leader still serves.
            let mut served = Vec::new();
            for _ in 0..200 {
                let soon = Deadline::after(Duration::from_millis(5));
                for level in [ReadLevel::Lease, ReadLevel::Linearizable] {
                    if replica.read(&ReadRequest::new(level, soon)).await.is_ok() {
                        served.push(tokio::time::Instant::now());
                    }
                }
                sleep(Duration::from_millis(5)).await;
            }
            served
        })
    };
    cluster.propose_without(old, &put("k", "new")).await;
    let replaced = tokio::time::Instant::now();
    let served = watcher.await.unwrap();
    assert!(!served.is_empty(), "the lease lasted a while");
    assert!(served.iter().all(|moment| *moment < replaced), "{served:?} against {replaced:?}");
}

#[tokio::test(start_paused = true)]
async fn what_ended_while_nobody_led_is_shown_by_no_later_leader() {
    let cluster = Cluster::start(3).await;
    let brief = Put { key: "brief".into(), value: "v".into(), ttl_ms: 1_000, ..Put::default() };
    cluster.propose(&Command::single(Operation::Put(brief))).await;
    cluster.settle().await;
    let old = cluster.leader().await.id();
    let ids: Vec<_> = cluster.nodes.keys().copied().collect();
    ids.iter().for_each(|id| cluster.isolate(*id, true));
    sleep(Duration::from_secs(3)).await;
    let others: Vec<_> = cluster.nodes.values().filter(|node| node.id() != old).collect();
    assert!(others.iter().all(|node| node.peek("brief").is_some()), "nobody could remove it");
    // Reads that wait for whoever leads next are answered as soon as somebody does.
    let levels = [ReadLevel::Lease, ReadLevel::Linearizable];
    let reads = others.iter().flat_map(|node| levels.map(|level| read(node, "brief", level)));
    let reads = futures_util::future::join_all(reads);
    cluster.net.set_link(others[0].id(), others[1].id(), true);
    assert_eq!(reads.await, vec![Ok(None); 4]);
}

#[tokio::test(start_paused = true)]
async fn a_linearizable_read_without_a_quorum_fails_within_its_deadline() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    cluster.isolate(leader.id(), true);
    let began = cluster.clock.monotonic();
    let request =
        ReadRequest::new(ReadLevel::Linearizable, Deadline::after(Duration::from_secs(2)));
    let error = leader.replica.read(&request).await.map(drop).unwrap_err();
    assert!(matches!(error, ReadError::NoQuorum(_)), "{error}");
    assert!(cluster.clock.monotonic() - began <= Duration::from_millis(2_100));
}

#[tokio::test(start_paused = true)]
async fn a_follower_proves_its_bound_and_refuses_what_it_cannot_prove() {
    let cluster = Cluster::start(3).await;
    cluster.put("k", "v").await;
    let follower = cluster.follower().await;
    let bounded = |max: Duration| ReadRequest {
        max_staleness: Some(max),
        ..ReadRequest::new(ReadLevel::Follower, Deadline::after(Duration::from_millis(500)))
    };
    let view = follower.replica.read(&bounded(Duration::from_millis(50))).await.unwrap();
    let bound = view.staleness.unwrap();
    assert!(!bound.clock_based && bound.bound <= Duration::from_millis(50), "{bound:?}");
    cluster.isolate(follower.id(), true);
    sleep(Duration::from_secs(3)).await;
    let error = follower.replica.read(&bounded(Duration::from_secs(1))).await;
    match error.map(drop).unwrap_err() {
        ReadError::TooStale { bound: Some(bound) } => assert!(bound >= Duration::from_secs(3)),
        other => panic!("{other}"),
    }
    let any = ReadRequest::new(ReadLevel::Follower, deadline());
    let view = follower.replica.read(&any).await.unwrap();
    assert!(view.staleness.unwrap().bound >= Duration::from_secs(3));
    assert_eq!(follower.peek("k"), Some("v".into()));
}

/// A follower read that accepts nothing older than `max_ms`.
fn no_older_than(max_ms: u64, wait: Duration) -> ReadRequest {
    let max_staleness = Some(Duration::from_millis(max_ms));
    ReadRequest { max_staleness, ..ReadRequest::new(ReadLevel::Follower, Deadline::after(wait)) }
}

#[tokio::test(start_paused = true)]
async fn the_first_bounded_reads_after_a_long_rest_share_a_probe_and_get_a_fresh_bound() {
    let cluster = Cluster::start(3).await;
    cluster.put("k", "v").await;
    let follower = cluster.follower().await;
    let any = ReadRequest::new(ReadLevel::Follower, deadline());
    follower.replica.read(&any).await.unwrap();
    sleep(Duration::from_secs(60)).await;
    let asked = || cluster.net.read_indexes.load(Ordering::Relaxed);
    let (before, began) = (asked(), cluster.clock.monotonic());
    sleep(Duration::from_secs(60)).await;
    assert_eq!(asked(), before, "nobody reads, nobody asks");
    let reads: Vec<_> = (0..100)
        .map(|_| {
            let replica = follower.replica.clone();
            spawn(async move {
                let request = no_older_than(100, Duration::from_secs(1));
                replica.read(&request).await.unwrap().staleness.unwrap()
            })
        })
        .collect();
    for read in reads {
        let bound = read.await.unwrap();
        assert!(!bound.clock_based && bound.bound <= Duration::from_millis(100), "{bound:?}");
    }
    assert!((1..=3).contains(&(asked() - before)), "100 reads asked {} times", asked() - before);
    assert!(cluster.clock.monotonic() - began < Duration::from_millis(60_100));
}

#[tokio::test(start_paused = true)]
async fn a_read_of_any_age_is_answered_at_once_with_the_bound_that_is_known() {
    let cluster = Cluster::start(3).await;
    cluster.put("k", "v").await;
    let follower = cluster.follower().await;
    follower.replica.read(&no_older_than(100, Duration::from_secs(1))).await.unwrap();
    sleep(Duration::from_secs(60)).await;
    let began = cluster.clock.monotonic();
    let any = ReadRequest::new(ReadLevel::Follower, deadline());
    let bound = follower.replica.read(&any).await.unwrap().staleness.unwrap();
    assert_eq!(cluster.clock.monotonic(), began, "answered without waiting for anything");
    assert!(bound.bound >= Duration::from_secs(40), "probes have rested: {bound:?}");
    sleep(Duration::from_millis(300)).await;
    let bound = follower.replica.read(&any).await.unwrap().staleness.unwrap();
    assert!(bound.bound <= Duration::from_millis(350), "the read has begun the probes: {bound:?}");
}

#[tokio::test(start_paused = true)]
async fn a_bounded_read_waits_for_the_next_leader_within_its_deadline() {
    let cluster = Cluster::start(3).await;
    cluster.put("k", "v").await;
    cluster.settle().await;
    let leader = cluster.leader().await.id();
    let follower = cluster.follower().await;
    cluster.isolate(leader, true);
    cluster.report_lost(leader);
    sleep(Duration::from_millis(200)).await;
    let bound = follower.replica.read(&no_older_than(100, Duration::from_secs(3))).await;
    let bound = bound.unwrap().staleness.unwrap();
    assert!(bound.bound <= Duration::from_millis(100), "{bound:?}");
}

#[tokio::test(start_paused = true)]
async fn a_bounded_read_that_nobody_can_prove_is_refused_before_its_deadline() {
    let cluster = Cluster::start(3).await;
    cluster.put("k", "v").await;
    let follower = cluster.follower().await;
    cluster.isolate(follower.id(), true);
    sleep(Duration::from_secs(1)).await;
    for wait in [Duration::from_millis(500), Duration::from_secs(30)] {
        let began = cluster.clock.monotonic();
        let refused = follower.replica.read(&no_older_than(100, wait)).await.map(drop);
        assert!(matches!(refused, Err(ReadError::TooStale { bound: Some(_) })), "{refused:?}");
        let waited = cluster.clock.monotonic() - began;
        assert!(waited <= wait.min(Duration::from_secs(2)), "{waited:?} of {wait:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_bound_holds_what_it_says_while_writes_go_on() {
    let cluster = Cluster::start(3).await;
    cluster.put("n", "0").await;
    let follower = cluster.follower().await;
    let mut acknowledged = vec![(cluster.clock.monotonic(), 0_u64)];
    for i in 1..200_u64 {
        cluster.put("n", &i.to_string()).await;
        acknowledged.push((cluster.clock.monotonic(), i));
        let request = ReadRequest::new(ReadLevel::Follower, deadline());
        let view = follower.replica.read(&request).await.unwrap();
        let seen: u64 = match follower.peek("n") {
            Some(value) => String::from_utf8(value.to_vec()).unwrap().parse().unwrap(),
            None => 0,
        };
        let bound = view.staleness.unwrap().bound;
        let since = cluster.clock.monotonic().saturating_sub(bound);
        let owed = acknowledged.iter().filter(|(at, _)| *at <= since).map(|(_, i)| *i).max();
        assert!(owed.is_none_or(|owed| seen >= owed), "saw {seen}, owed {owed:?} by {bound:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn before_any_proof_a_bound_rests_on_clocks_and_says_so() {
    let cluster = Cluster::start(3).await;
    cluster.put("k", "v").await;
    let follower = cluster.follower().await;
    let request = ReadRequest::new(ReadLevel::Follower, deadline());
    let first = follower.replica.read(&request).await.unwrap().staleness.unwrap();
    assert!(first.clock_based);
    sleep(Duration::from_millis(100)).await;
    let later = follower.replica.read(&request).await.unwrap().staleness.unwrap();
    assert!(!later.clock_based, "reads have begun the probes");
}

#[tokio::test(start_paused = true)]
async fn a_token_is_served_only_where_its_point_is_reached() {
    let cluster = Cluster::start(3).await;
    cluster.put("k", "1").await;
    cluster.settle().await;
    let follower = cluster.follower().await;
    cluster.isolate(follower.id(), true);
    let committed = cluster.put("k", "2").await;
    let request = ReadRequest {
        min_point: Some((committed.point.revision, committed.point.clock_ms)),
        ..ReadRequest::new(ReadLevel::Follower, Deadline::after(Duration::from_millis(200)))
    };
    let error = follower.replica.read(&request).await.map(drop).unwrap_err();
    assert!(matches!(error, ReadError::Behind { .. }), "{error}");
    cluster.isolate(follower.id(), false);
    let request = ReadRequest { deadline: Deadline::after(Duration::from_secs(10)), ..request };
    follower.replica.read(&request).await.unwrap();
    assert_eq!(follower.peek("k"), Some("2".into()));
}
