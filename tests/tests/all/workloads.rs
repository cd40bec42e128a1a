//! Every workload of the test kit on real processes, judged by all of its checkers.

use std::time::Duration;

use anyhow::Result;
use holdfast_client::Client;
use holdfast_testkit::check::Quota;
use holdfast_testkit::workload::Plan;
use holdfast_tests::{Cluster, DEMANDED, Load, Options, Seen, fault, scenario, shared};

/// What each request is given.
const DEADLINE: Duration = Duration::from_secs(10);

/// A load of every kind, in a keyspace of its own.
async fn load(cluster: &Cluster, seed: u64) -> Result<Load> {
    let client: Client = cluster.client().await?.with_deadline(DEADLINE)?;
    let space = Load::keyspace(&client, "workloads", 4).await?;
    Ok(Load::start(&space, Plan { operations: 40, ..Plan::new(seed, "w/") }))
}

fn judged(seen: &Seen, quota: Quota) -> Result<()> {
    seen.judge(quota, &DEMANDED)?;
    Ok(())
}

#[test]
fn every_checker_accepts_what_clients_of_three_nodes_see() {
    shared(async |cluster| {
        let mut load = load(cluster, 1).await?;
        load.done().await?;
        judged(&load.stop().await?, Quota { events_min: 50, ..Quota::default() })
    });
}

#[test]
fn every_checker_accepts_what_clients_see_while_leaders_are_killed() {
    scenario(Options::nodes(3), async |cluster| {
        let mut load = load(cluster, 2).await?;
        for name in ["first", "second"] {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let (victim, _) = cluster.leader_of(load.client(), "w/reg/0").await?;
            let from = load.recorder().now();
            cluster.node_mut(victim).kill()?;
            tokio::time::sleep(Duration::from_secs(3)).await;
            let is_dead = !cluster.node_mut(victim).is_running();
            fault(load.recorder(), format!("{name} kill"), from, is_dead);
            cluster.node_mut(victim).start()?;
            cluster.answers(victim).await?;
            cluster.healthy().await?;
        }
        load.done().await?;
        let quota = Quota { answered_per_fault_min: 5, faults_min: 2, ..Quota::default() };
        judged(&load.stop().await?, quota)
    });
}
