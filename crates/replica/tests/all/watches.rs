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
    watch.request_progress();
    assert!(matches!(next(&mut watch).await, WatchItem::Progress(_)), "it is live");
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
async fn a_thousand_watchers_that_never_read_hold_bounded_memory_while_100_mb_are_written() {
    const WATCHERS: usize = 1_000;
    const VALUE: usize = 64 << 10;
    const TOTAL: usize = 4 << 20;
    let cluster = Cluster::start_tuned(1, |options| {
        options.watch_buffer_bytes = 256 << 10;
        options.watch_total_bytes = TOTAL;
    })
    .await;
    let leader = cluster.leader().await;
    let mut watches = Vec::new();
    for i in 0..WATCHERS {
        let filter = match i % 2 {
            0 => everything(),
            _ => WatchFilter::key(format!("k{}", i % 16).into()),
        };
        let mut watch = leader.replica.watch(filter).unwrap();
        // Live from here on: who has never asked for anything holds nothing.
        watch.request_progress();
        assert!(matches!(next(&mut watch).await, WatchItem::Progress(_)));
        watches.push(watch);
    }
    let value = "x".repeat(VALUE);
    let (mut written, mut held_max) = (0, 0);
    while written < 100_000_000 {
        cluster.put(&format!("k{}", written / VALUE % 16), &value).await;
        written += VALUE;
        let held = leader.replica.status().watch_buffered_bytes;
        held_max = held_max.max(held);
    }
    // Beyond the common bound each holds the one revision it took while it held nothing.
    let bound = (TOTAL + WATCHERS * (VALUE + 200)) as u64;
    assert!(held_max <= bound, "{held_max} bytes, bound {bound}");
    assert!(held_max >= TOTAL as u64, "the buffers were never full");
    let last = leader.replica.reader().point().revision.0;
    for i in [0, 1, WATCHERS - 2] {
        let (mut seen, mut count) = (1, 0);
        let step = if i % 2 == 0 { 1 } else { 16 };
        while seen + step <= last {
            let revision = next_revision(&mut watches[i]).await.0;
            assert!(count == 0 || revision == seen + step, "{revision} after {seen}");
            (seen, count) = (revision, count + 1);
        }
        assert!(count >= (last - 1) / step - 1, "{count} of {last} revisions");
    }
    drop(watches);
    assert_eq!(leader.replica.status().watch_buffered_bytes, 0, "nothing is held for nobody");
}

#[tokio::test(start_paused = true)]
async fn who_reads_gets_events_live_beside_those_who_do_not() {
    let cluster = Cluster::start_tuned(1, |options| {
        options.watch_buffer_bytes = 8 << 10;
        options.watch_total_bytes = 8 << 10;
    })
    .await;
    let leader = cluster.leader().await;
    let mut idle = leader.replica.watch(everything()).unwrap();
    let mut eager = leader.replica.watch(everything()).unwrap();
    cluster.put("k", "v").await;
    assert_eq!(next_revision(&mut idle).await.0, 2);
    assert_eq!(next_revision(&mut eager).await.0, 2);
    for revision in 3..200 {
        cluster.put("k", &"x".repeat(1 << 10)).await;
        assert_eq!(next_revision(&mut eager).await.0, revision);
        let held = leader.replica.status().watch_buffered_bytes;
        assert!(held <= 10 << 10, "{held} bytes are held");
    }
    for revision in 3..200 {
        assert_eq!(next_revision(&mut idle).await.0, revision);
    }
}

#[tokio::test(start_paused = true)]
async fn a_watcher_whose_history_is_compacted_while_it_sleeps_is_told_the_oldest_revision() {
    let cluster = Cluster::start_tuned(1, |options| options.watch_buffer_bytes = 8 << 10).await;
    let leader = cluster.leader().await;
    let mut watch = leader.replica.watch(everything()).unwrap();
    watch.request_progress();
    assert!(matches!(next(&mut watch).await, WatchItem::Progress(_)), "it is live");
    for _ in 0..100 {
        cluster.put("k", &"x".repeat(1 << 10)).await;
    }
    cluster.propose(&Command::single(Compact { revision: 80 })).await;
    let mut due = 2;
    loop {
        match next(&mut watch).await {
            // What was buffered is still delivered, without a gap.
            WatchItem::Events(events) => {
                assert_eq!(events.revision.0, due);
                due += 1;
            }
            WatchItem::Cancelled { resume, reason } => {
                assert_eq!(resume, Revision(due));
                assert_eq!(reason, WatchError::Compacted { oldest: Revision(80) });
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!((4..20).contains(&due), "about a bufferful was delivered, up to {due}");
    assert_eq!(watch.next().await, None);
    let from = Some(Revision(80));
    let mut again = leader.replica.watch(WatchFilter { from, ..everything() }).unwrap();
    assert_eq!(next_revision(&mut again).await.0, 80);
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
