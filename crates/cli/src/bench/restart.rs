//! Many records on three replicas, all nodes killed at once: how long until everything is served
//! again, and how much memory it takes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use holdfast_client::Client;
use holdfast_model::History;

use crate::args::{BenchArgs, Workload};
use crate::bench::nodes::Nodes;
use crate::bench::report::{Report, bound, told};
use crate::bench::suite;
use crate::bench::workload::{self, Plan};
use crate::output;

const KEYSPACE: &str = "restart";
const RANGES: u32 = 8;
/// Longest a restart should take, seconds.
const RESTART_SECONDS_MAX: f64 = 3.0;
/// Longest it is waited for.
const RESTART_LIMIT: Duration = Duration::from_secs(60);
/// Least time the probes have, however long the nodes took.
const PROBE_MIN: Duration = Duration::from_secs(5);
/// Keys written and read to see that every range serves.
const PROBES: u64 = 256;
/// What the nodes are told to use, bytes: memtables, blocks, filters and indexes, recent log.
const MEMORY: [(&str, u64); 4] = [
    ("engine.memtable_budget_bytes", 128 << 20),
    ("engine.cache_bytes", 256 << 20),
    ("engine.index_bytes", 128 << 20),
    ("journal.cache_bytes", 64 << 20),
];
/// Most memory a node may have, as a share of what it was told to use.
const MEMORY_SHARE_MAX: f64 = 1.2;

/// Runs it.
///
/// # Errors
/// Nodes that do not start or do not serve again.
pub async fn run(arguments: &BenchArgs) -> Result<Report> {
    let settings = MEMORY.iter().map(|(key, bytes)| format!("{key}={bytes}")).collect();
    let nodes = Nodes::start(settings).await?;
    let endpoints = nodes.endpoints();
    workload::create_keyspace(&endpoints, KEYSPACE, RANGES, History::default()).await?;
    let plan = Plan::new(&endpoints, KEYSPACE, arguments).await?;
    output::note(&format!("writing {} records", arguments.keys));
    let begin = Instant::now();
    plan.fill_in_bulk(|_| None).await?;
    let fill_rate = arguments.keys as f64 / begin.elapsed().as_secs_f64();
    let filled_bytes = nodes.resident_bytes_max();
    nodes.kill();
    let begin = Instant::now();
    nodes.launch()?;
    let plan = serving(&endpoints, arguments, begin + RESTART_LIMIT).await?;
    let restart = begin.elapsed().as_secs_f64();
    output::note("reading and writing for the memory's sake");
    let seconds = Duration::from_secs(arguments.seconds);
    let outcome = plan.run(Workload::Mixed, seconds).await?;
    for message in &outcome.messages {
        output::note(message);
    }
    let resident_bytes = filled_bytes.max(nodes.resident_bytes_max());
    let budget_bytes: u64 = MEMORY.iter().map(|(_, bytes)| bytes).sum();
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    Ok(Report {
        rows: vec![suite::row("mixed 90/10 after it", RANGES, &outcome, None)],
        findings: vec![
            told("records on every node", arguments.keys as f64, "records"),
            told("records written", fill_rate, "records/s"),
            told("files of all ranges, largest node", mib(nodes.range_bytes_max() as f64), "MiB"),
            bound("SIGKILL of all nodes to all ranges serving", restart, "s", RESTART_SECONDS_MAX),
            bound(
                "memory of the largest node",
                mib(resident_bytes as f64),
                "MiB",
                (mib(budget_bytes as f64) * MEMORY_SHARE_MAX).round(),
            ),
            bound("failed operations", outcome.errors as f64, "operations", 0.0),
        ],
        setting: suite::setting(arguments),
        ..Report::new()
    })
}

/// Waits until every range takes a write and shows what was written before.
async fn serving(endpoints: &[String], arguments: &BenchArgs, end: Instant) -> Result<Plan> {
    loop {
        match Plan::new(endpoints, KEYSPACE, arguments).await {
            Ok(plan) => {
                let left = end.saturating_duration_since(Instant::now()).max(PROBE_MIN);
                probe(&plan, left).await.context("after the restart")?;
                return Ok(plan);
            }
            Err(error) if Instant::now() >= end => return Err(error.context("after the restart")),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn probe(plan: &Plan, limit: Duration) -> Result<()> {
    let client: &Client = plan.client();
    let stride = (plan.keys() / PROBES).max(1);
    let keys: Vec<_> = (0..PROBES.min(plan.keys())).map(|i| plan.key(i * stride)).collect();
    for (key, answer) in keys.iter().zip(client.batch_get(keys.clone()).deadline(limit).await?) {
        if answer?.entry.is_none() {
            bail!("{key:?} was acknowledged and is lost");
        }
    }
    let mut batch = client.batch().deadline(limit);
    for i in 0..PROBES {
        batch = batch.put(format!("probe-{i}"), "served");
    }
    batch.await?.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(())
}
