//! Nodes are stopped with SIGTERM and come back.

use std::time::Duration;

use anyhow::{Result, ensure};
use holdfast_tests::{Cluster, Load, Options, busy, eventually, scenario};

#[test]
fn a_rolling_restart_fails_no_call_of_a_running_client() {
    scenario(Options::nodes(3), async |cluster| {
        let client = cluster.client().await?;
        let client = client.with_deadline(Duration::from_secs(10))?;
        let load = Load::start(&Load::keyspace(&client, "load", 4).await?, busy(1));
        for i in 1..=3 {
            load.acknowledges(50).await?;
            let status = cluster.node_mut(i).stop().await?;
            ensure!(status.success(), "node {i} ended with {status}");
            load.acknowledges(50).await?;
            cluster.node_mut(i).start()?;
            cluster.answers(i).await?;
            cluster.healthy().await?;
        }
        load.stop().await?.is_flawless()?;
        Ok(())
    });
}

/// Ranges that node `i` leads.
async fn led_by(cluster: &Cluster, i: usize) -> Result<Vec<u64>> {
    let replicas = cluster.status(i).await?.replicas;
    Ok(replicas.into_iter().filter(|r| r.role == "leader").map(|r| r.range_id).collect())
}

#[test]
fn a_node_that_is_stopped_hands_every_leadership_over_before_it_ends() {
    scenario(Options::nodes(3), async |cluster| {
        let limit = Duration::from_secs(20);
        let led = eventually(limit, async || {
            let led = led_by(cluster, 1).await?;
            ensure!(!led.is_empty(), "node 1 leads nothing yet");
            Ok(led)
        });
        let led = led.await?;
        let status = cluster.node_mut(1).stop().await?;
        // At once: an election without a hand-over would take longer than this question.
        let mut others = led_by(cluster, 2).await?;
        others.extend(led_by(cluster, 3).await?);
        ensure!(status.success(), "node 1 ended with {status}");
        let orphans: Vec<_> = led.iter().filter(|range| !others.contains(range)).collect();
        ensure!(orphans.is_empty(), "of {led:?}, {orphans:?} are without a leader");
        Ok(())
    });
}

#[test]
fn what_was_written_before_a_graceful_stop_of_all_nodes_is_there_after_it() {
    scenario(Options::nodes(3), async |cluster| {
        let client = cluster.client().await?;
        let client = client.with_deadline(Duration::from_secs(30))?;
        let load = Load::start(&Load::keyspace(&client, "load", 4).await?, busy(1));
        load.acknowledges(300).await?;
        let stopped = load.quit().await?;
        for i in 1..=3 {
            cluster.node(i).terminate()?;
        }
        for i in 1..=3 {
            let status = cluster.node_mut(i).ended(Duration::from_secs(20)).await?;
            ensure!(status.success(), "node {i} ended with {status}");
        }
        for i in 1..=3 {
            cluster.node_mut(i).start()?;
        }
        for i in 1..=3 {
            cluster.answers(i).await?;
        }
        cluster.healthy().await?;
        stopped.settle().await?.is_flawless()?;
        Ok(())
    });
}
