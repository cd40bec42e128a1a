//! Keys that end by themselves.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_client::{Client, EventKind, ReadLevel};
use holdfast_tests::{Cluster, shared};
use tokio::task::JoinSet;

const TTL: Duration = Duration::from_secs(2);
/// How much later than its time a key may be shown: 100 ms and a commit.
const LATE_MAX: Duration = Duration::from_millis(200);

/// What one observer of one node saw.
#[derive(Debug)]
struct Observed {
    what: String,
    /// Start of the last answer that showed the key, and the bound it came with.
    last_shown: Option<(Instant, Duration)>,
    /// End of the first answer that did not.
    first_gone: Option<Instant>,
}

/// Reads `key` of the node at `address` itself until it is gone.
async fn observe(address: String, key: String, level: ReadLevel) -> Result<Observed> {
    let client = Client::builder([address.clone()]).direct(true).connect().await?;
    let mut seen =
        Observed { what: format!("{address} {level:?}"), last_shown: None, first_gone: None };
    let end = Instant::now() + TTL + Duration::from_secs(10);
    while seen.first_gone.is_none() && Instant::now() < end {
        let start = Instant::now();
        // A follower cannot answer at lease level, and says so.
        if let Ok(answer) = client.get(key.clone()).level(level).send().await {
            let bound = answer.staleness.map_or(Duration::ZERO, |staleness| staleness.bound);
            match answer.entry {
                Some(_) => seen.last_shown = Some((start, bound)),
                None => seen.first_gone = Some(Instant::now()),
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(seen)
}

fn observe_everywhere(cluster: &Cluster, key: &str) -> JoinSet<Result<Observed>> {
    let mut observers = JoinSet::new();
    for i in 1..=cluster.size() {
        for level in [ReadLevel::Linearizable, ReadLevel::Lease, ReadLevel::Follower] {
            let (address, key) = (cluster.node(i).client.clone(), key.to_owned());
            observers.spawn(observe(address, key, level));
        }
    }
    observers
}

#[test]
fn a_key_with_a_ttl_is_gone_in_time_on_every_node_at_every_level() {
    shared(async |cluster| {
        let client = cluster.client().await?;
        let begun = Instant::now();
        let put = client.put("ttl/short", "x").ttl(TTL).await?;
        let written = Instant::now();
        ensure!(put.applied, "{put:?}");
        let mut observers = observe_everywhere(cluster, "ttl/short");
        let mut seen_by_level = 0;
        while let Some(seen) = observers.join_next().await {
            let seen = seen??;
            let Some((shown, bound)) = seen.last_shown else { continue };
            seen_by_level += 1;
            let gone = seen.first_gone.with_context(|| format!("{seen:?} never saw it go"))?;
            ensure!(gone >= begun + TTL, "{seen:?}: gone {:?} after the put", gone - begun);
            let late = shown.saturating_duration_since(written + TTL + bound);
            println!("{}: shown until {late:?} after its time and bound", seen.what);
            ensure!(late <= LATE_MAX, "{seen:?}: shown {late:?} after its time and bound");
        }
        // Three nodes at two levels each, and the leader at the lease level.
        ensure!(seen_by_level >= 7, "only {seen_by_level} observers saw the key");
        Ok(())
    });
}

#[test]
fn an_expired_key_is_absent_to_conditions_and_watches_see_its_end() {
    shared(async |cluster| {
        let client = cluster.client().await?;
        let mut watch = client.watch("ttl/watched").start().await?;
        client.put("ttl/watched", "first").ttl(Duration::from_secs(1)).await?;
        let refused = client.put("ttl/watched", "second").if_absent().await?;
        ensure!(!refused.applied, "it was absent at once");
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        let put = client.put("ttl/watched", "second").if_absent().await?;
        ensure!(put.applied && put.version == 1, "{put:?}");
        let mut kinds = Vec::new();
        while kinds.len() < 3 {
            kinds.extend(watch.next().await?.events.into_iter().map(|event| event.kind));
        }
        ensure!(kinds == [EventKind::Put, EventKind::Delete, EventKind::Put], "{kinds:?}");
        Ok(())
    });
}

#[test]
fn keys_bound_to_a_lease_live_as_long_as_it_is_renewed_and_no_longer() {
    shared(async |cluster| {
        let client = cluster.client().await?;
        let lease = client.grant_lease("{ttl}", Duration::from_secs(2)).await?;
        client.put("{ttl}/a", "x").lease(lease.id()).await?;
        client.put("{ttl}/b", "x").lease(lease.id()).await?;
        let alive = lease.keep_alive();
        tokio::time::sleep(Duration::from_secs(4)).await;
        ensure!(!alive.is_lost(), "lost while it was renewed");
        ensure!(client.get("{ttl}/a").await?.is_some(), "gone while the lease was renewed");
        let state = lease.state(true).await?.context("the lease is gone")?;
        ensure!(state.keys.len() == 2, "{state:?}");
        drop(alive);
        let ended = tokio::time::Instant::now();
        tokio::time::sleep(Duration::from_secs(4)).await;
        for key in ["{ttl}/a", "{ttl}/b"] {
            ensure!(client.get(key).await?.is_none(), "{key} after {:?}", ended.elapsed());
        }
        ensure!(lease.state(false).await?.is_none(), "the lease outlived its time");
        Ok(())
    });
}

#[test]
fn a_lease_whose_renewals_begin_late_in_its_life_is_kept_all_the_same() {
    shared(async |cluster| {
        let client = cluster.client().await?;
        let lease = client.grant_lease("{late}", Duration::from_secs(4)).await?;
        client.put("{late}/k", "x").lease(lease.id()).await?;
        // More than two thirds of its time: a pause of a third would be one too long.
        tokio::time::sleep(Duration::from_millis(3_000)).await;
        let alive = lease.keep_alive();
        tokio::time::sleep(Duration::from_secs(3)).await;
        ensure!(!alive.is_lost(), "given up without a renewal");
        ensure!(client.get("{late}/k").await?.is_some(), "gone while the lease was renewed");
        Ok(())
    });
}
