//! Measuring: closed loops over the SDK, CPU per operation, a gRPC echo as the ceiling.

mod driver;
mod echo;
mod expiry;
mod nodes;
mod report;
mod restart;
mod steady;
mod suite;
mod workload;

use std::time::Duration;

use anyhow::{Context, Result};

use crate::args::{BenchArgs, Cli, Output, Workload};
use crate::bench::report::Report;
use crate::exit::Exit;
use crate::output;

/// Runs one measurement against the cluster of the command line, or the suite on own nodes.
///
/// # Errors
/// The cluster cannot be reached.
pub async fn run(cli: &Cli, arguments: &BenchArgs) -> Result<Exit> {
    if let Some(address) = &arguments.serve_echo {
        echo::serve(address, arguments.value_bytes).await?;
        return Ok(Exit::Done);
    }
    let report = match arguments.workload {
        Workload::Suite => suite::run(arguments).await?,
        Workload::Restart => restart::run(arguments).await?,
        Workload::Expiry => expiry::run(arguments).await?,
        workload => one(cli, arguments, workload).await?,
    };
    match cli.output {
        Output::Json => output::line(&report.json().to_string())?,
        Output::Table | Output::Raw => output::emit(report.text().as_bytes())?,
    }
    if let Some(path) = &arguments.report {
        std::fs::write(path, report.html()).with_context(|| path.display().to_string())?;
    }
    let (met, total) = report.aims();
    let has_run = report.rows.iter().all(|row| row.rate > 0.0);
    Ok(match (has_run, met == total) {
        (false, _) => Exit::Failed,
        (true, false) => Exit::No,
        (true, true) => Exit::Done,
    })
}

/// One measurement against the cluster of the command line.
async fn one(cli: &Cli, arguments: &BenchArgs, workload: Workload) -> Result<Report> {
    let plan = workload::Plan::new(&cli.endpoints, &cli.keyspace, arguments).await?;
    if workload != Workload::Put && workload != Workload::Cas {
        output::note(&format!("writing {} keys first", arguments.keys));
        plan.fill().await?;
    }
    let outcome = plan.run(workload, Duration::from_secs(arguments.seconds)).await?;
    for message in &outcome.messages {
        output::note(message);
    }
    let rows = vec![suite::row(workload::name(workload), 0, &outcome, None)];
    Ok(Report { rows, setting: suite::setting(arguments), ..Report::new() })
}
