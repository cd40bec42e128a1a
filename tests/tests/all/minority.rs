//! Some nodes are gone, and stay away.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use holdfast_client::{Compare, Error, Operation, ReadLevel, Relation};
use holdfast_tests::{Options, scenario};

use crate::key_in_each_range;

#[test]
fn with_one_node_stopped_everything_works() {
    scenario(Options::nodes(3), async |cluster| {
        let client = cluster.client().await?.with_deadline(Duration::from_secs(20))?;
        let keys = key_in_each_range(&client, "one/")?;
        cluster.node_mut(1).kill()?;
        let mut watch = client.watch_prefix("one/").start().await?;
        for (n, key) in keys.iter().enumerate() {
            let put = client.put(key.clone(), n.to_string()).await?;
            ensure!(put.applied && put.version == 1, "{key}: {put:?}");
            let swap = client.cas(key.clone(), n.to_string(), "swapped").await?;
            ensure!(swap.applied, "{key}: {swap:?}");
            for level in [ReadLevel::Linearizable, ReadLevel::Lease] {
                let entry = client.get(key.clone()).level(level).await?.context("missing")?;
                ensure!(entry.value == "swapped", "{key} at {level:?}: {entry:?}");
            }
            let follower = client.get(key.clone()).level(ReadLevel::Follower);
            let answer = follower.at_least(swap.origin.point).send().await?;
            ensure!(answer.staleness.is_some(), "{key}: no bound");
            ensure!(answer.entry.is_some_and(|e| e.value == "swapped"), "{key}: an old value");
        }
        let mut events = 0;
        while events < 2 * keys.len() {
            events += watch.next().await?.events.len();
        }
        let scanned = client.scan("one/").collect().await?;
        ensure!(scanned.len() == keys.len(), "{} of {} keys", scanned.len(), keys.len());
        let txn = client.txn().when(Compare::value("{t}/a", Relation::Equal, "1"));
        let txn = txn.or_else(Operation::put("{t}/a", "1")).await?;
        ensure!(!txn.succeeded && txn.revision.0 > 0, "{txn:?}");
        let guard = client.lock("one").acquire().await?;
        guard.release().await?;
        let lease = client.grant_lease("{t}", Duration::from_secs(10)).await?;
        client.put("{t}/leased", "x").lease(lease.id()).await?;
        ensure!(lease.revoke().await? == 1, "the leased key did not go");
        let deleted = client.delete_prefix("one/").await?;
        ensure!(deleted == keys.len() as u64, "{deleted} of {} keys", keys.len());
        Ok(())
    });
}

/// Whether `error` says that the cluster could not do it, or that nobody knows.
fn is_clear(error: &Error) -> bool {
    error.is_unknown() || matches!(error, Error::Unavailable(_) | Error::Deadline { .. })
}

#[test]
fn with_two_nodes_stopped_only_follower_reads_are_answered_and_say_how_old_they_are() {
    scenario(Options::nodes(3), async |cluster| {
        let client = cluster.client().await?;
        let keys = key_in_each_range(&client, "two/")?;
        for key in &keys {
            client.put(key.clone(), "before").await?;
        }
        let written = Instant::now();
        // Node 3 has to have it, too.
        for key in &keys {
            let direct = holdfast_client::Client::builder([cluster.node(3).client.clone()]);
            let entry = direct.direct(true).connect().await?.get(key.clone()).await?;
            ensure!(entry.is_some_and(|e| e.value == "before"), "node 3 lacks {key}");
        }
        cluster.node_mut(1).kill()?;
        cluster.node_mut(2).kill()?;
        // Whoever led on node 3 finds out that nobody follows any more.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let deadline = Duration::from_secs(2);
        let short = client.with_deadline(deadline)?;
        for key in &keys {
            let begun = Instant::now();
            let put = short.put(key.clone(), "after").await;
            let error = put.err().with_context(|| format!("{key} was written by one of three"))?;
            ensure!(is_clear(&error), "put: {error:?}");
            let took = begun.elapsed();
            ensure!(took < deadline + Duration::from_secs(2), "put failed after {took:?}");
            for level in [ReadLevel::Linearizable, ReadLevel::Lease] {
                let begun = Instant::now();
                let read = short.get(key.clone()).level(level).await;
                let error = read.err().with_context(|| format!("{key} was read at {level:?}"))?;
                ensure!(is_clear(&error) && !error.is_unknown(), "{level:?}: {error:?}");
                let took = begun.elapsed();
                ensure!(took < deadline + Duration::from_secs(2), "failed after {took:?}");
            }
        }
        let mut bounds = Vec::new();
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let (key, asked) = (keys[0].clone(), Instant::now());
            let answer = short.get(key).level(ReadLevel::Follower).send().await?;
            ensure!(answer.entry.is_some_and(|e| e.value == "before"));
            let bound = answer.staleness.context("no bound")?.bound;
            ensure!(bound < written.elapsed() + Duration::from_secs(30), "useless: {bound:?}");
            bounds.push((asked, bound));
        }
        ensure!(bounds[1].1 > bounds[0].1, "the age does not grow: {bounds:?}");
        let fresh = short.get(keys[0].clone()).level(ReadLevel::Follower);
        let error = fresh.max_staleness(Duration::from_millis(100)).await.err();
        ensure!(matches!(error, Some(Error::TooStale { .. })), "a fresh read: {error:?}");
        Ok(())
    });
}

#[test]
fn a_cluster_that_lost_its_majority_serves_again_when_one_node_returns() {
    scenario(Options::nodes(3), async |cluster| {
        let client = cluster.client().await?;
        let keys = key_in_each_range(&client, "back/")?;
        cluster.node_mut(1).kill()?;
        cluster.node_mut(3).kill()?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        cluster.node_mut(3).start()?;
        cluster.answers(3).await?;
        let patient = client.with_deadline(Duration::from_secs(30))?;
        for key in &keys {
            patient.put(key.clone(), "again").await?;
            let entry = patient.get(key.clone()).await?;
            ensure!(entry.is_some_and(|e| e.value == "again"), "{key} is missing");
        }
        Ok(())
    });
}
