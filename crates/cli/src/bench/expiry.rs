//! Many keys that expire within one second, beside clients that go on at a steady rate.

use std::time::Duration;

use anyhow::{Result, bail};
use hdrhistogram::Histogram;
use holdfast_model::History;
use tokio::time::{Instant, sleep, sleep_until};

use crate::args::BenchArgs;
use crate::bench::nodes::Nodes;
use crate::bench::report::{Finding, Report, bound, told};
use crate::bench::steady::{Seen, Steady};
use crate::bench::workload::{self, Plan};
use crate::output;

const KEYSPACE: &str = "expiry";
const RANGES: u32 = 8;
/// Small memtables: the keys lie in tables, as in a large store.
const SETTINGS: [&str; 2] =
    ["engine.memtable_bytes=8388608", "engine.memtable_budget_bytes=67108864"];
/// How much history the keyspace keeps: expired keys are in it until then.
const HISTORY: Duration = Duration::from_secs(10);
/// Operations a second of the clients beside it: what leaves the machine room.
const RATE: u32 = 2_000;
/// Slowest rate at which the keys are expected to be written.
const FILL_RATE_MIN: u64 = 15_000;
/// Time between the end of writing and the measurement.
const SETTLE: Duration = Duration::from_secs(5);
/// Longest it is waited until all keys are removed, and until their space is free.
const EXPIRY_LIMIT: Duration = Duration::from_secs(300);
const RECLAIM_LIMIT: Duration = Duration::from_secs(120);
/// How much slower than in peace the slowest hundredth of operations may be.
const SLOWER_MAX: f64 = 2.0;
/// How often it is looked how many are removed, in peace as well: that takes a batch of puts, which
/// the clients feel.
const METER_INTERVAL: Duration = Duration::from_secs(2);
/// What may be left of the files, per cent.
const LEFT_PERCENT_MAX: f64 = 10.0;

/// Runs it.
///
/// # Errors
/// Nodes that do not start, keys that cannot be written in time or that do not go.
pub async fn run(arguments: &BenchArgs) -> Result<Report> {
    let settings = SETTINGS.iter().map(|setting| (*setting).to_owned()).collect();
    let nodes = Nodes::start(settings).await?;
    let endpoints = nodes.endpoints();
    let history = History::Duration(HISTORY);
    workload::create_keyspace(&endpoints, KEYSPACE, RANGES, history).await?;
    let plan = Plan::new(&endpoints, KEYSPACE, arguments).await?;
    let quiet_time = Duration::from_secs(arguments.seconds);
    let filling = Duration::from_secs(arguments.keys / FILL_RATE_MIN + 1);
    let due = Instant::now() + filling + SETTLE + quiet_time + SETTLE;
    output::note(&format!("writing {} keys", arguments.keys));
    let second = |i: u64| Duration::from_millis(i.wrapping_mul(7_919) % 1_000);
    plan.fill_in_bulk(|i| Some(due.duration_since(Instant::now()) + second(i))).await?;
    if Instant::now() + SETTLE + quiet_time >= due {
        bail!("the keys were not written in time: {filling:?} for {} keys", arguments.keys);
    }
    let beside = Steady::new(plan.client().clone(), arguments.value_bytes, RATE);
    beside.fill().await?;
    sleep(SETTLE).await;
    let held_bytes = nodes.range_bytes_max();
    let quiet = beside.run(metered(&beside, quiet_time)).await?;
    sleep_until(due - Duration::from_millis(100)).await;
    let before = beside.changes_of_others().await?;
    let storm = beside.run(removed(&beside, before + arguments.keys, due)).await?;
    removed(&beside, before + arguments.keys, due).await;
    let gone = beside.changes_of_others().await? - before;
    let removed = due.elapsed();
    if gone != arguments.keys {
        bail!("{gone} keys were removed {removed:?} after they were due");
    }
    let (left, reclaimed) = reclaimed(&nodes, held_bytes).await;
    let mut findings = findings(&quiet, &storm);
    findings.extend([
        told("keys that expired", gone as f64, "keys"),
        told("from the first due to the last removed", removed.as_secs_f64(), "s"),
        told("files of all ranges before", held_bytes as f64 / f64::from(1 << 20), "MiB"),
        bound("files left, without a client's write", left, "%", LEFT_PERCENT_MAX),
        told("from the last removed to that", reclaimed.as_secs_f64(), "s"),
    ]);
    let setting = format!(
        "{} keys of {} B expire within 1 s, {RATE} operations a second beside them, history {} s",
        arguments.keys,
        arguments.value_bytes,
        HISTORY.as_secs()
    );
    Ok(Report { findings, setting, ..Report::new() })
}

/// What the clients beside it felt.
fn findings(quiet: &Seen, storm: &Seen) -> Vec<Finding> {
    let p99 = |latency: &Histogram<u64>| latency.value_at_quantile(0.99) as f64 / 1e3;
    let slower = |storm, quiet| p99(storm) / p99(quiet);
    let (puts, gets) = (slower(&storm.puts, &quiet.puts), slower(&storm.gets, &quiet.gets));
    vec![
        told("put p99, quiet", p99(&quiet.puts), "ms"),
        bound("put p99 while they expire", puts, "x quiet", SLOWER_MAX),
        told("get p99, quiet", p99(&quiet.gets), "ms"),
        bound("get p99 while they expire", gets, "x quiet", SLOWER_MAX),
        bound("failed operations", (quiet.errors + storm.errors) as f64, "operations", 0.0),
    ]
}

/// Waits for `time`, and looks meanwhile as often as [`removed`] does.
async fn metered(beside: &Steady, time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        // What it finds does not matter, and whether it can be asked shows in the clients' errors.
        let _ = beside.changes_of_others().await;
        sleep_until(end.min(Instant::now() + METER_INTERVAL)).await;
    }
}

/// Waits until ranges have seen `changes` that are not of `beside`, or for too long.
async fn removed(beside: &Steady, changes: u64, due: Instant) {
    while due.elapsed() < EXPIRY_LIMIT {
        if beside.changes_of_others().await.is_ok_and(|seen| seen >= changes) {
            return;
        }
        sleep(METER_INTERVAL).await;
    }
}

/// Waits until the files have shrunk; what is left of them in per cent, and how long it took.
async fn reclaimed(nodes: &Nodes, held_bytes: u64) -> (f64, Duration) {
    let begin = Instant::now();
    loop {
        let left = 100.0 * nodes.range_bytes_max() as f64 / held_bytes.max(1) as f64;
        if left <= LEFT_PERCENT_MAX || begin.elapsed() >= RECLAIM_LIMIT {
            return (left, begin.elapsed());
        }
        sleep(Duration::from_millis(500)).await;
    }
}
