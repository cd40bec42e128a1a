//! Watches: every change once, in order.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use holdfast_client::{Client, Event, EventKind, RangeId, Revision, Watch};
use holdfast_tests::{Options, scenario, shared};

/// Collects events until one is for `last`; checks that batches are whole and in order.
async fn collect(watch: &mut Watch, last: &str) -> Result<Vec<(RangeId, Event)>> {
    let mut events = Vec::new();
    let mut newest: BTreeMap<RangeId, Revision> = BTreeMap::new();
    loop {
        let next = tokio::time::timeout(Duration::from_secs(40), watch.next()).await;
        let Ok(batch) = next else {
            bail!("no event {last} after {} events", events.len());
        };
        let batch = batch?;
        let newest = newest.entry(batch.range).or_default();
        for event in &batch.events {
            let revision = event.entry.revision;
            ensure!(revision > *newest, "range {}: {revision} after {newest}", batch.range);
            ensure!(revision <= batch.revision, "{revision} in a batch up to {}", batch.revision);
        }
        let last_of_batch = batch.events.last().map(|event| event.entry.revision);
        *newest = last_of_batch.unwrap_or_default().max(*newest);
        let is_last = batch.events.iter().any(|event| event.entry.key == last);
        events.extend(batch.events.into_iter().map(|event| (batch.range, event)));
        if is_last {
            return Ok(events);
        }
    }
}

/// Writes `count` numbered values to a few keys; answers (key, value, revision).
async fn write(client: Client, prefix: &str, count: u64) -> Result<Vec<(String, String, u64)>> {
    let mut written = Vec::new();
    for n in 0..count {
        let key = format!("{prefix}{}", n % 7);
        let put = client.put(key.clone(), n.to_string()).await?;
        written.push((key, n.to_string(), put.revision.0));
    }
    Ok(written)
}

fn told(events: &[(RangeId, Event)]) -> Vec<(String, String, u64)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let put =
        |event: &Event| (text(&event.entry.key), text(&event.entry.value), event.entry.revision.0);
    events.iter().map(|(_, event)| put(event)).collect()
}

#[test]
fn a_watch_over_all_ranges_tells_each_change_once_and_each_range_in_order() {
    shared(async |cluster| {
        let client = cluster.client().await?;
        let mut watch = client.watch_prefix("watches/all/").start().await?;
        let written = write(client.clone(), "watches/all/", 100).await?;
        client.put("watches/elsewhere", "x").await?;
        // One range says nothing of the others: wait for the last change of every key.
        let mut events = Vec::new();
        while events.len() < written.len() {
            let batch = watch.next().await?;
            events.extend(batch.events.into_iter().map(|event| (batch.range, event)));
        }
        let mut told = told(&events);
        let mut expected = written.clone();
        for list in [&mut told, &mut expected] {
            list.sort();
        }
        ensure!(told == expected, "told {told:?}\nwritten {expected:?}");
        let mut newest = BTreeMap::new();
        for (range, event) in &events {
            let before = newest.insert(range, event.entry.revision).unwrap_or_default();
            ensure!(before < event.entry.revision, "{range}: {before}, then {event:?}");
        }
        Ok(())
    });
}

#[test]
fn a_watch_tells_deletes_and_previous_entries_and_filters_what_is_not_wanted() {
    shared(async |cluster| {
        let client = cluster.client().await?;
        let mut all = client.watch("watches/kinds").previous().start().await?;
        let mut deletes = client.watch("watches/kinds").no_puts().start().await?;
        client.put("watches/kinds", "a").await?;
        client.put("watches/kinds", "b").await?;
        client.delete("watches/kinds").await?;
        let mut events = Vec::new();
        while events.len() < 3 {
            events.extend(all.next().await?.events);
        }
        let previous: Vec<_> =
            events.iter().map(|e| e.previous.as_ref().map(|p| p.value.clone())).collect();
        ensure!(previous == [None, Some("a".into()), Some("b".into())], "{events:?}");
        ensure!(events[2].kind == EventKind::Delete, "{events:?}");
        let only = deletes.next().await?.events;
        ensure!(only.len() == 1 && only[0].kind == EventKind::Delete, "{only:?}");
        Ok(())
    });
}

#[test]
fn a_transaction_is_told_whole() {
    shared(async |cluster| {
        let client = cluster.client().await?;
        let mut watch = client.watch_prefix("{watches}/").start().await?;
        for _ in 0..20 {
            let mut txn = client.txn();
            for n in 0..5 {
                txn = txn.then(holdfast_client::Operation::put(format!("{{watches}}/{n}"), "x"));
            }
            txn.await?;
        }
        let mut seen = 0;
        while seen < 100 {
            let batch = watch.next().await?;
            let mut sizes: BTreeMap<Revision, usize> = BTreeMap::new();
            for event in &batch.events {
                *sizes.entry(event.entry.revision).or_default() += 1;
            }
            ensure!(sizes.values().all(|size| *size == 5), "a revision was split: {sizes:?}");
            seen += batch.events.len();
        }
        Ok(())
    });
}

#[test]
fn a_watch_from_an_old_revision_tells_what_was_and_goes_on_with_what_is() {
    shared(async |cluster| {
        let admin = cluster.client().await?;
        admin.cluster().create_keyspace("watches-old", 1, 0, None).await?;
        let client = admin.keyspace("watches-old");
        let before = write(client.clone(), "k", 50).await?;
        let from = Revision(before[10].2);
        let mut watch = client.watch_prefix("k").from_revision(from).start().await?;
        let after = write(client.clone(), "k", 20).await?;
        client.put("k-last", "x").await?;
        let events = collect(&mut watch, "k-last").await?;
        let mut told = told(&events);
        told.pop();
        let expected: Vec<_> = before.into_iter().skip(10).chain(after).collect();
        ensure!(told == expected, "told {told:?}\nwritten {expected:?}");
        // The same again, the second half by another watch that resumes after the first.
        let mut first = client.watch_prefix("k").from_revision(from).start().await?;
        let batch = first.next().await?;
        client.put("k-end", "x").await?;
        let rest = client.watch_prefix("k").resume(batch.resume_token.clone()).start();
        let rest = collect(&mut rest.await?, "k-end").await?;
        let both = batch.events.len() + rest.len();
        ensure!(both == told.len() + 2, "{both} instead of {} events", told.len() + 2);
        Ok(())
    });
}

#[test]
fn a_watch_from_a_revision_of_the_future_is_silent_until_the_range_has_reached_it() {
    shared(async |cluster| {
        let admin = cluster.client().await?;
        // With one copy only, two of the three nodes follow the range through the third.
        for copies in [3, 1] {
            let name = format!("watches-ahead-{copies}");
            admin.cluster().create_keyspace(&name, 1, copies, None).await?;
            let before = write(admin.keyspace(&name), "k", 3).await?;
            let from = Revision(before[2].2 + 6);
            let mut watches = Vec::new();
            for endpoint in cluster.endpoints() {
                let client = Client::connect([endpoint]).await?.keyspace(&name);
                watches.push(client.watch_prefix("k").from_revision(from).start().await?);
            }
            let mut after = write(admin.keyspace(&name), "k", 10).await?;
            after.retain(|(_, _, revision)| *revision >= from.0);
            ensure!(after.len() == 5, "{after:?}");
            admin.keyspace(&name).put("k-last", "x").await?;
            for (i, watch) in watches.iter_mut().enumerate() {
                let mut told = told(&collect(watch, "k-last").await?);
                told.pop();
                ensure!(told == after, "node {}: told {told:?}\nwritten {after:?}", i + 1);
            }
        }
        Ok(())
    });
}

#[test]
fn a_watch_goes_on_across_the_death_of_leaders_without_a_gap_or_a_duplicate() {
    scenario(Options::nodes(3), async |cluster| {
        let client = cluster.client().await?.with_deadline(Duration::from_secs(30))?;
        let mut watch = client.watch_prefix("w/").start().await?;
        let telling = tokio::spawn(async move { collect(&mut watch, "w/last").await });
        let mut written = Vec::new();
        for _ in 0..2 {
            written.extend(write(client.clone(), "w/", 100).await?);
            let (leader, _) = cluster.leader_of(&client, "w/0").await?;
            let writing = tokio::spawn(write(client.clone(), "w/", 200));
            tokio::time::sleep(Duration::from_millis(100)).await;
            cluster.node_mut(leader).kill()?;
            written.extend(writing.await??);
            cluster.node_mut(leader).start()?;
            cluster.healthy().await?;
        }
        // Written last, yet in another range something may be told later: give it time.
        tokio::time::sleep(Duration::from_secs(2)).await;
        client.put("w/last", "x").await?;
        let events = telling.await??;
        let told = told(&events);
        let unique: BTreeSet<_> = told.iter().collect();
        ensure!(unique.len() == told.len(), "something was told twice");
        let missing: Vec<_> = written.iter().filter(|change| !unique.contains(change)).collect();
        ensure!(missing.is_empty(), "{} changes were not told: {missing:?}", missing.len());
        ensure!(told.len() == written.len() + 1, "{} of {}", told.len(), written.len());
        let last = told.last().context("nothing")?;
        ensure!(last.0 == "w/last", "{last:?}");
        Ok(())
    });
}
