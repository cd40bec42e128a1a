//! Watches: ordered, whole, without gap or duplicate, however slow the watcher.

use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;
use holdfast_kv::command::{Compact, LockAcquire, LockRelease};
use holdfast_kv::{Command, EventKind, LockStanding, Operation, Outcome, Previous};
use holdfast_model::Revision;
use holdfast_replica::{WatchError, WatchFilter, WatchItem, WatchStream};
use holdfast_runtime::{spawn, timeout};

use crate::cluster::{Cluster, deadline, put_operation};

async fn next(watch: &mut WatchStream) -> WatchItem {
    let item = timeout(Duration::from_secs(5), watch.next()).await;
    item.expect("an item comes").expect("the watch goes on")
}

async fn next_revision(watch: &mut WatchStream) -> (u64, Vec<(EventKind, Bytes)>) {
    match next(watch).await {
        WatchItem::Events(events) => {
            let changes = events.events.iter().map(|e| (e.kind, e.entry.key.clone())).collect();
            (events.revision.0, changes)
        }
        other => panic!("{other:?}"),
    }
}

fn everything() -> WatchFilter {
    WatchFilter::range(Bound::Unbounded, Bound::Unbounded)
}

#[tokio::test(start_paused = true)]
async fn a_watch_on_any_replica_sees_each_revision_once_and_in_order() {
    let cluster = Cluster::start(3).await;
    let mut watches: Vec<_> =
        cluster.nodes.values().map(|n| n.replica.watch(everything()).unwrap()).collect();
    for i in 0..50 {
        cluster.put(&format!("k{}", i % 7), &format!("{i}")).await;
    }
    for watch in &mut watches {
        for i in 0..50_u64 {
            let (revision, changes) = next_revision(watch).await;
            assert_eq!(revision, i + 2);
            let key = Bytes::from(format!("k{}", i % 7));
            assert_eq!(changes, [(EventKind::Put, key)]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_from_the_past_reads_history_and_goes_live_without_a_gap() {
    let cluster = Cluster::start(3).await;
    for i in 0..100 {
        cluster.put(&format!("k{i}"), "v").await;
    }
    let leader = cluster.leader().await;
    leader.flush().await;
    let filter = WatchFilter { from: Some(Revision(40)), ..everything() };
    let mut watch = leader.replica.watch(filter).unwrap();
    for i in 100..150 {
        cluster.put(&format!("k{i}"), "v").await;
    }
    for revision in 40..152 {
        assert_eq!(next_revision(&mut watch).await.0, revision);
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_watcher_costs_bounded_memory_and_misses_nothing() {
    let cluster = Cluster::start_tuned(1, |options| options.watch_buffer_bytes = 8 << 10).await;
    let leader = cluster.leader().await;
    let mut watch = leader.replica.watch(everything()).unwrap();
    cluster.put("k0", "v").await;
    assert_eq!(next_revision(&mut watch).await.0, 2);
    let value = "x".repeat(1 << 10);
    for i in 1..100 {
        cluster.put(&format!("k{i}"), &value).await;
    }
    for revision in 3..102 {
        assert_eq!(next_revision(&mut watch).await.0, revision);
    }
    cluster.put("last", "v").await;
    assert_eq!(next_revision(&mut watch).await.0, 102);
}

#[tokio::test(start_paused = true)]
async fn a_filter_lets_through_only_what_it_names() {
    let cluster = Cluster::start(1).await;
    let leader = cluster.leader().await;
    let range = WatchFilter::range(Bound::Included("b".into()), Bound::Excluded("d".into()));
    let no_puts = WatchFilter { no_puts: true, ..range.clone() };
    let mut watch = leader.replica.watch(WatchFilter { previous: true, ..range }).unwrap();
    let mut deletes = leader.replica.watch(no_puts).unwrap();
    let mut single = leader.replica.watch(WatchFilter::key("c".into())).unwrap();
    let delete = holdfast_kv::command::Delete { key: "c".into(), ..Default::default() };
    let operations = ["a", "b", "c", "d"].map(|key| put_operation(key, "v"));
    cluster.propose(&Command::batch(operations)).await;
    cluster.propose(&Command::single(delete)).await;
    assert_eq!(next_revision(&mut watch).await, (3, vec![(EventKind::Put, "b".into())]));
    assert_eq!(next_revision(&mut watch).await, (4, vec![(EventKind::Put, "c".into())]));
    match next(&mut watch).await {
        WatchItem::Events(events) => match &events.events[0].previous {
            Previous::Loaded(Some(entry)) => assert_eq!(entry.value, "v"),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
    assert_eq!(next_revision(&mut deletes).await, (6, vec![(EventKind::Delete, "c".into())]));
    assert_eq!(next_revision(&mut single).await.0, 4);
    assert_eq!(next_revision(&mut single).await.0, 6);
}

#[tokio::test(start_paused = true)]
async fn progress_never_runs_ahead_of_delivered_events() {
    let cluster = Cluster::start(1).await;
    let leader = cluster.leader().await;
    for i in 0..20 {
        cluster.put(&format!("k{i}"), "v").await;
    }
    let filter = WatchFilter { from: Some(Revision(2)), ..everything() };
    let mut watch = leader.replica.watch(filter).unwrap();
    watch.request_progress();
    let mut last = 1;
    loop {
        match next(&mut watch).await {
            WatchItem::Events(events) => last = events.revision.0,
            WatchItem::Progress(point) => {
                assert_eq!((point.revision.0, last), (21, 21));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    cluster.put("more", "v").await;
    watch.request_progress();
    assert_eq!(next_revision(&mut watch).await.0, 22);
    assert!(matches!(next(&mut watch).await, WatchItem::Progress(p) if p.revision.0 == 22));
}

#[tokio::test(start_paused = true)]
async fn a_watch_before_the_compacted_revision_is_refused_with_the_oldest() {
    let cluster = Cluster::start(1).await;
    for i in 0..20 {
        cluster.put("k", &format!("{i}")).await;
    }
    let leader = cluster.leader().await;
    let mut begun =
        leader.replica.watch(WatchFilter { from: Some(Revision(3)), ..everything() }).unwrap();
    cluster.propose(&Command::single(Compact { revision: 15 })).await;
    let from = Some(Revision(3));
    let refused = leader.replica.watch(WatchFilter { from, ..everything() }).map(drop);
    assert_eq!(refused, Err(WatchError::Compacted { oldest: Revision(15) }));
    match next(&mut begun).await {
        WatchItem::Cancelled { resume: Revision(3), reason: WatchError::Compacted { oldest } } => {
            assert_eq!(oldest, Revision(15));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(begun.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn watches_end_with_their_replica_and_say_where_to_resume() {
    let cluster = Cluster::start(3).await;
    let node = cluster.follower().await;
    let mut watch = node.replica.watch(everything()).unwrap();
    cluster.put("k", "v").await;
    assert_eq!(next_revision(&mut watch).await.0, 2);
    node.replica.stop().await;
    match next(&mut watch).await {
        WatchItem::Cancelled { resume, reason: WatchError::Stopped } => {
            assert_eq!(resume, Revision(3));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiter_for_a_lock_is_woken_by_its_grant() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let acquire = |owner: &'static str| {
        Command::single(Operation::LockAcquire(LockAcquire {
            name: "lock".into(),
            owner: owner.into(),
            ttl_ms: 60_000,
            wait: true,
            ..LockAcquire::default()
        }))
    };
    let held = |outcome: &Outcome| match outcome {
        Outcome::Lock(lock) => match lock.standing {
            LockStanding::Held { token } => Some(token),
            _ => None,
        },
        other => panic!("{other:?}"),
    };
    let first = cluster.propose(&acquire("a")).await;
    let token = held(&first.outcomes[0]).expect("nobody else holds it");
    let mut waiter = leader.replica.wait_for_grant("lock".into(), "b".into()).unwrap();
    let second = leader.replica.propose(&acquire("b"), deadline()).await.unwrap();
    assert_eq!(held(&second.outcomes[0]), None);
    let granted = spawn(async move { waiter.granted().await });
    let release = LockRelease {
        name: "lock".into(),
        owner: "a".into(),
        token: token.0,
        ..LockRelease::default()
    };
    cluster.propose(&Command::single(Operation::LockRelease(release))).await;
    let grant = timeout(Duration::from_secs(1), granted).await.unwrap().unwrap().unwrap();
    assert_eq!(grant.owner, "b");
    assert!(grant.token > token);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_gives_up_makes_room_for_the_next() {
    let cluster = Cluster::start(1).await;
    let replica = &cluster.leader().await.replica;
    for round in 0..3 {
        let waiters: Vec<_> = (0..60_000)
            .map(|i| replica.wait_for_grant("lock".into(), format!("{round}-{i}").into()))
            .collect();
        assert!(waiters.iter().all(Option::is_some), "round {round}");
    }
}
