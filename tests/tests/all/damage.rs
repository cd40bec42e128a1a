//! Files that change on the disk under a node: what is damaged is never served, the rest goes on.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_client::{Client, ReadLevel};
use holdfast_tests::{Cluster, Options, eventually, scenario};

const LIMIT: Duration = Duration::from_secs(60);
const KEYS: usize = 200;

/// What node `i` says of its replica of `range`.
async fn failure(cluster: &Cluster, i: usize, range: u64) -> Result<String> {
    let replicas = cluster.status(i).await?.replicas;
    let replica = replicas.into_iter().find(|r| r.range_id == range);
    Ok(replica.context("no replica there")?.failure)
}

/// Reads everything from node `i` alone, at any age; nothing wrong may come.
async fn read_there(cluster: &Cluster, i: usize) -> Result<usize> {
    let client = Client::builder([cluster.node(i).client.clone()]).direct(true).connect().await?;
    let client = client.with_deadline(Duration::from_secs(2))?;
    let mut answered = 0;
    for n in 0..KEYS {
        let get = client.get(format!("{{damage}}/{n}")).level(ReadLevel::Follower);
        if let Ok(answer) = get.send().await {
            let entry = answer.entry.with_context(|| format!("{n} is missing"))?;
            ensure!(entry.value == format!("value {n}"), "{n} is {:?}", entry.value);
            answered += 1;
        }
    }
    Ok(answered)
}

#[test]
fn a_replica_whose_files_are_damaged_is_retired_and_the_range_goes_on_without_it() {
    scenario(Options::nodes(3), async |cluster| {
        let client = cluster.client().await?.with_deadline(Duration::from_secs(30))?;
        for n in 0..KEYS {
            client.put(format!("{{damage}}/{n}"), format!("value {n}")).await?;
        }
        let (leader, range) = cluster.leader_of(&client, "{damage}").await?;
        let hit = leader % 3 + 1;
        eventually(LIMIT, async || {
            let there = read_there(cluster, hit).await?;
            ensure!(there == KEYS, "only {there} keys have arrived");
            Ok(())
        })
        .await?;
        // Stopped in order: everything is in tables.
        cluster.node_mut(hit).stop().await?;
        ensure!(cluster.node(hit).damage_tables(range)? > 0, "there are tables");
        for _ in 0..2 {
            cluster.node_mut(hit).start()?;
            cluster.answers(hit).await?;
            eventually(LIMIT, async || {
                read_there(cluster, hit).await?;
                let failure = failure(cluster, hit, range).await?;
                ensure!(!failure.is_empty(), "nobody has noticed");
                Ok(())
            })
            .await?;
            let problems = cluster.cli().run("cluster status")?;
            ensure!(problems.stderr.contains("replica of range"), "{problems:?}");
            client.put("{damage}/after", "v").await?;
            ensure!(client.get("{damage}/7").await?.is_some(), "the others serve it");
            ensure!(cluster.node_mut(hit).is_running(), "its other replicas go on");
            cluster.node_mut(hit).kill()?;
        }
        Ok(())
    });
}
