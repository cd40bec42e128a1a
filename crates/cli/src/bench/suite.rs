//! The whole table: own nodes, every workload on 1, 8 and 64 ranges, beside the gRPC echo.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use holdfast_model::History;

use crate::args::{BenchArgs, Workload};
use crate::bench::driver::Outcome;
use crate::bench::echo;
use crate::bench::nodes::{Nodes, cpu_of};
use crate::bench::report::{Idle, Report, Row};
use crate::bench::workload::{self, Plan};
use crate::local::resident_bytes;
use crate::output;

/// Where the echo serves: beside the suite's own nodes.
const ECHO: &str = "127.0.0.77:17499";
/// Ranges of the measured keyspaces.
const RANGES: [u32; 3] = [1, 8, 64];
/// Ranges of the idle keyspace, and the share of a core it may cost a node.
const IDLE_RANGES: u32 = 64;
const IDLE_PERCENT_MAX: f64 = 7.0;
/// How long the nodes are left alone before they are measured idle.
const SETTLE: Duration = Duration::from_secs(5);

/// Most a workload should cost, as a multiple of the echo's processor time.
fn aim(workload: Workload, ranges: u32) -> Option<f64> {
    match (workload, ranges) {
        (Workload::Put, 1) => Some(4.5),
        (Workload::Put, 8) => Some(6.5),
        (Workload::Get, 1) => Some(2.0),
        (Workload::Get, 8) => Some(2.8),
        (Workload::GetLease, 1 | 8) => Some(1.7),
        (Workload::GetFollower, 1 | 8) => Some(1.5),
        _ => None,
    }
}

/// The echo's process; dropped, it is ended.
struct Echo(Child);

impl Echo {
    async fn start(value_bytes: u32) -> Result<Self> {
        let child = Command::new(std::env::current_exe()?)
            .args(["bench", "--serve-echo", ECHO, "--value-bytes", &value_bytes.to_string()])
            .stdin(Stdio::null())
            .spawn()
            .context("starting the echo server")?;
        let echo = Self(child);
        let end = Instant::now() + Duration::from_secs(5);
        while tokio::net::TcpStream::connect(ECHO).await.is_err() {
            if Instant::now() >= end {
                bail!("the echo server does not answer on {ECHO}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(echo)
    }

    fn pid(&self) -> i32 {
        self.0.id() as i32
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Processor time per operation of the echo: for messages of a put, and of a get.
#[derive(Clone, Copy)]
struct Ceiling {
    put_us: f64,
    get_us: f64,
}

impl Ceiling {
    fn of(self, workload: Workload) -> f64 {
        match workload {
            Workload::Put | Workload::Cas => self.put_us,
            Workload::Mixed => 0.9 * self.get_us + 0.1 * self.put_us,
            _ => self.get_us,
        }
    }
}

/// One line of the table; `cpu` are the processor seconds the servers used for it.
pub fn row(name: &str, ranges: u32, outcome: &Outcome, cpu: Option<f64>) -> Row {
    Row {
        workload: name.to_owned(),
        ranges,
        rate: outcome.rate(),
        p50_ms: outcome.quantile_ms(0.5),
        p99_ms: outcome.quantile_ms(0.99),
        p999_ms: outcome.quantile_ms(0.999),
        cpu_us: cpu.map(|seconds| seconds * 1e6 / outcome.operations.max(1) as f64),
        times_echo: None,
        aim: None,
        resident_bytes: None,
        errors: outcome.errors,
    }
}

async fn measure_echo(arguments: &BenchArgs, rows: &mut Vec<Row>) -> Result<Ceiling> {
    let echo_process = Echo::start(arguments.value_bytes).await?;
    let pids = [echo_process.pid()];
    let duration = Duration::from_secs(arguments.seconds);
    let mut per_operation = Vec::new();
    for (name, put) in [("echo put", true), ("echo get", false)] {
        echo::load(ECHO, arguments, put, Duration::from_secs(1)).await?;
        let before = cpu_of(&pids);
        let outcome = echo::load(ECHO, arguments, put, duration).await?;
        let mut row = row(name, 0, &outcome, Some(cpu_of(&pids) - before));
        row.resident_bytes = resident_bytes(echo_process.pid());
        per_operation.push(row.cpu_us.unwrap_or_default());
        row.times_echo = Some(1.0);
        rows.push(row);
    }
    match per_operation.as_slice() {
        [put_us, get_us] => Ok(Ceiling { put_us: *put_us, get_us: *get_us }),
        _ => bail!("the echo was not measured"),
    }
}

async fn measure_ranges(
    nodes: &Nodes,
    arguments: &BenchArgs,
    ranges: u32,
    ceiling: Ceiling,
    rows: &mut Vec<Row>,
) -> Result<()> {
    let endpoints = nodes.endpoints();
    let keyspace = format!("bench{ranges}");
    workload::create_keyspace(&endpoints, &keyspace, ranges, History::default()).await?;
    let plan = Plan::new(&endpoints, &keyspace, arguments).await?;
    plan.fill().await?;
    let pids = nodes.pids();
    for workload in [
        Workload::Put,
        Workload::Get,
        Workload::GetLease,
        Workload::GetFollower,
        Workload::Mixed,
        Workload::Cas,
    ] {
        plan.run(workload, Duration::from_secs(1)).await?;
        let before = cpu_of(&pids);
        let outcome = plan.run(workload, Duration::from_secs(arguments.seconds)).await?;
        let mut row = row(workload::name(workload), ranges, &outcome, Some(cpu_of(&pids) - before));
        row.times_echo = row.cpu_us.map(|us| us / ceiling.of(workload));
        row.aim = aim(workload, ranges);
        row.resident_bytes = pids.iter().filter_map(|pid| resident_bytes(*pid)).max();
        for message in &outcome.messages {
            output::note(&format!("{} on {ranges} ranges: {message}", row.workload));
        }
        rows.push(row);
    }
    // What follows shall not pay for this.
    workload::drop_keyspace(&endpoints, &keyspace).await
}

/// Share of one core that each node uses with nothing to do, beside a keyspace nobody uses.
async fn measure_idle(nodes: &Nodes, seconds: u64) -> Result<Idle> {
    let endpoints = nodes.endpoints();
    workload::create_keyspace(&endpoints, "idle", IDLE_RANGES, History::default()).await?;
    output::note(&format!("idle keyspace of {IDLE_RANGES} ranges: measuring for {seconds} s"));
    tokio::time::sleep(SETTLE).await;
    let pids = nodes.pids();
    let before: Vec<f64> = pids.iter().map(|pid| cpu_of(&[*pid])).collect();
    let begin = Instant::now();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let elapsed = begin.elapsed().as_secs_f64();
    let percent = |(pid, before): (&i32, &f64)| 100.0 * (cpu_of(&[*pid]) - before) / elapsed;
    let percent = pids.iter().zip(&before).map(percent).collect();
    workload::drop_keyspace(&endpoints, "idle").await?;
    Ok(Idle { percent, ranges: IDLE_RANGES, seconds, percent_max: IDLE_PERCENT_MAX })
}

/// What a measurement runs with, as a sentence.
pub fn setting(arguments: &BenchArgs) -> String {
    format!(
        "{} clients, {} B keys, {} B values, {} keys, {} s per measurement",
        arguments.clients,
        arguments.key_bytes,
        arguments.value_bytes,
        arguments.keys,
        arguments.seconds
    )
}

/// Runs everything.
///
/// # Errors
/// Nodes that do not start, or a measurement that could not run.
pub async fn run(arguments: &BenchArgs) -> Result<Report> {
    let nodes = Nodes::start(Vec::new()).await?;
    let idle = Some(measure_idle(&nodes, arguments.idle_seconds).await?);
    let mut rows = Vec::new();
    let ceiling = measure_echo(arguments, &mut rows).await?;
    for ranges in RANGES {
        measure_ranges(&nodes, arguments, ranges, ceiling, &mut rows).await?;
    }
    Ok(Report { rows, setting: setting(arguments), idle, ..Report::new() })
}
