//! Every workload of the test kit on real processes, judged by all of its checkers.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use holdfast_client::Client;
use holdfast_testkit::check::{Evidence, Punctuality, Quota, everything, judge};
use holdfast_testkit::history::{self, Fault, Record, Recorder, RunClock};
use holdfast_testkit::kv::ClientKv;
use holdfast_testkit::workload::{Plan, Workload};
use holdfast_tests::{Cluster, Options, keep, scenario, shared};

/// Most records of a run.
const RECORDS_MAX: usize = 500_000;
/// What each request is given.
const DEADLINE: Duration = Duration::from_secs(10);
/// Clocks of one machine run alike; the machine may be busy.
const PUNCTUALITY: Punctuality = Punctuality { drift_permille: 10, late_ms: 2_000 };

/// A keyspace of its own, so that nobody else writes to its ranges.
async fn keyspace(cluster: &Cluster, name: &str) -> Result<Client> {
    let client = cluster.client().await?;
    client.cluster().create_keyspace(name, 4, 0, None).await?;
    Ok(client.keyspace(name).with_deadline(DEADLINE)?)
}

fn workload(client: Client, seed: u64) -> (Workload, Recorder) {
    let clock = RunClock::begin();
    let recorder = Recorder::new(seed, Arc::new(clock), RECORDS_MAX);
    let plan = Plan { operations: 40, ..Plan::new(seed, "w/") };
    (Workload::new(plan, Arc::new(ClientKv::new(client)), recorder.clone()), recorder)
}

/// Lets everybody judge; a history that does not pass is kept, to be judged again at leisure.
fn judged(recorder: &Recorder, quota: Quota) -> Result<()> {
    let history = recorder.history().map_err(|dropped| anyhow!("{dropped} records dropped"))?;
    let mut checkers = everything(PUNCTUALITY);
    checkers.push(Box::new(Evidence(quota)));
    let demands = ["witness", "linearizable", "lost", "revisions", "once", "sets", "bank"];
    let others = ["fencing", "lifetimes", "watches", "staleness"];
    let report = judge(&history, &checkers);
    let names = demands.into_iter().chain(others);
    let report = names.fold(report, |report, name| report.demand(name, 5));
    if report.is_clean() {
        return Ok(());
    }
    let mut text = Vec::new();
    history::write(&history, &mut text)?;
    let path = keep(&format!("history-{}.jsonl", history.seed), &text)?;
    bail!("{report}\nhistory: {}", path.display())
}

#[test]
fn every_checker_accepts_what_clients_of_three_nodes_see() {
    shared(async |cluster| {
        let client = keyspace(cluster, "workloads").await?;
        let (workload, recorder) = workload(client, 1);
        workload.run(async {}).await.map_err(|why| anyhow!(why))?;
        judged(&recorder, Quota { events_min: 50, ..Quota::default() })
    });
}

#[test]
fn every_checker_accepts_what_clients_see_while_leaders_are_killed() {
    scenario(Options::nodes(3), async |cluster| {
        let client = keyspace(cluster, "workloads").await?;
        let (workload, recorder) = workload(client.clone(), 2);
        let running = tokio::spawn({
            let workload = workload.clone();
            async move { workload.actors().await }
        });
        let watching = tokio::spawn({
            let workload = workload.clone();
            async move { workload.watchers().await }
        });
        for name in ["first", "second"] {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let range = client.map().ranges_of("workloads")?.first().map_or(0, |r| r.id.0);
            let victim = cluster.leader(range).await?;
            let from = recorder.now();
            cluster.node_mut(victim).kill()?;
            tokio::time::sleep(Duration::from_secs(3)).await;
            let installed = !cluster.node_mut(victim).is_running();
            let (name, to) = (format!("{name} kill"), recorder.now());
            recorder.push(Record::Fault(Fault { name, from, to, installed }));
            cluster.node_mut(victim).start()?;
            cluster.answers(victim).await?;
            cluster.healthy().await?;
        }
        running.await?;
        let settled = workload.settle().await;
        workload.stop();
        watching.await?;
        settled.map_err(|why| anyhow!(why))?;
        let quota = Quota { answered_per_fault_min: 5, faults_min: 2, ..Quota::default() };
        judged(&recorder, quota)
    });
}
