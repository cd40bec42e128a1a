//! A follower that was away for too long gets a snapshot.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use holdfast_client::{Client, ReadLevel};
use holdfast_tests::{Cluster, Options, eventually, scenario};

/// Values of 1 MiB that are written while a follower is away.
const VALUES: u64 = 40;
/// How long catching up may take.
const LIMIT: Duration = Duration::from_secs(60);

fn value(n: u64) -> Bytes {
    (0..1_u64 << 17).flat_map(|i| (i * 31 + n).to_le_bytes()).collect()
}

/// The range `{snap}` lies in, as node `i` has it.
async fn replica(
    cluster: &Cluster,
    i: usize,
    range: u64,
) -> Result<holdfast_wire::v1::ReplicaStatus> {
    let replicas = cluster.status(i).await?.replicas;
    replicas.into_iter().find(|r| r.range_id == range).context("no replica there")
}

/// Reads one value of node `i` itself, from its own engine.
async fn read_there(cluster: &Cluster, i: usize, n: u64) -> Result<Bytes> {
    let client = Client::builder([cluster.node(i).client.clone()]).direct(true);
    let get = client.connect().await?.get(format!("{{snap}}/{n}"));
    let answer = get.level(ReadLevel::Linearizable).send().await?;
    ensure!(answer.origin.node.0 == cluster.status(i).await?.node_id, "someone else answered");
    Ok(answer.entry.with_context(|| format!("value {n} is missing"))?.value)
}

#[test]
fn a_follower_that_was_away_too_long_catches_up_by_a_snapshot_and_serves() {
    let options = Options::nodes(3)
        .set("journal.retention_range_bytes=4194304")
        .set("engine.memtable_bytes=4194304");
    scenario(options, async |cluster| {
        let client = cluster.client().await?.with_deadline(Duration::from_secs(30))?;
        client.put("{snap}/before", "here").await?;
        let (leader, range) = cluster.leader_of(&client, "{snap}").await?;
        let away = leader % 3 + 1;
        let seen = replica(cluster, away, range).await?.last_log_index;
        cluster.node_mut(away).kill()?;
        for n in 0..VALUES {
            client.put(format!("{{snap}}/{n}"), value(n)).await?;
        }
        client.delete("{snap}/before").await?;
        // Evidence: what the follower needs next is purged everywhere, says the log of a leader.
        let purged = eventually(LIMIT, async || {
            let text = holdfast_tests::http_get(&cluster.node(leader).http, "/metrics")?.body;
            let name = "holdfast_range_purged_index";
            let label = format!("range=\"{range}\"");
            let line = text.lines().find(|l| l.starts_with(name) && l.contains(&label));
            let line = line.with_context(|| format!("no metric {name} of range {range}"))?;
            let purged: u64 = line.rsplit(' ').next().unwrap_or_default().parse()?;
            ensure!(purged > seen, "purged up to {purged}, the follower has {seen}");
            Ok(purged)
        });
        println!("purged up to {}, the follower has {seen}", purged.await?);
        cluster.node_mut(away).start()?;
        cluster.answers(away).await?;
        cluster.healthy().await?;
        let goal = replica(cluster, leader, range).await?.committed_index;
        let caught_up = eventually(LIMIT, async || {
            let own = replica(cluster, away, range).await?;
            ensure!(own.applied_index >= goal, "applied {} of {goal}", own.applied_index);
            Ok(())
        });
        caught_up.await?;
        for n in [0, VALUES / 2, VALUES - 1] {
            ensure!(read_there(cluster, away, n).await? == value(n), "value {n} is damaged");
        }
        // It counts as a voter again: with the third node gone, it makes the majority.
        let third = (1..=3).find(|i| *i != leader && *i != away).context("three nodes")?;
        cluster.node_mut(third).kill()?;
        client.put("{snap}/after", "written").await?;
        // What it installed survives its own death.
        cluster.node_mut(third).start()?;
        cluster.healthy().await?;
        cluster.node_mut(away).kill()?;
        cluster.node_mut(away).start()?;
        cluster.answers(away).await?;
        cluster.healthy().await?;
        ensure!(read_there(cluster, away, 7).await? == value(7), "value 7 is damaged");
        let scanned = client.scan("{snap}/").keys_only().collect().await?;
        ensure!(scanned.len() as u64 == VALUES + 1, "{} keys", scanned.len());
        Ok(())
    });
}
