//! Measuring: closed loops over the SDK, CPU per operation, a gRPC echo as the ceiling.

mod driver;
mod echo;
mod report;
mod suite;
mod workload;

use std::time::Duration;

use anyhow::Result;

use crate::args::{BenchArgs, Cli, Workload};
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
    if arguments.workload == Workload::Suite {
        let all_met = suite::run(arguments).await?;
        return Ok(if all_met { Exit::Done } else { Exit::No });
    }
    let plan = workload::Plan::new(&cli.endpoints, &cli.keyspace, arguments).await?;
    if arguments.workload != Workload::Put && arguments.workload != Workload::Cas {
        output::note(&format!("writing {} keys first", arguments.keys));
        plan.fill().await?;
    }
    let outcome = plan.run(arguments.workload, Duration::from_secs(arguments.seconds)).await?;
    let row = suite::row(workload::name(arguments.workload), 0, &outcome, None);
    output::emit(report::text(std::slice::from_ref(&row)).as_bytes())?;
    for message in &outcome.messages {
        output::note(message);
    }
    if let Some(path) = &arguments.report {
        std::fs::write(path, report::html("Holdfast benchmark", &[row]))?;
    }
    Ok(if outcome.operations > 0 { Exit::Done } else { Exit::Failed })
}
