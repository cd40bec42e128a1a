//! Versions of this binary, of the servers it reaches, and of the text formats.

use anyhow::Result;
use serde_json::json;

use crate::admin;
use crate::args::{Cli, Output};
use crate::exit::Exit;
use crate::output::{self, Table};

/// Version of the package.
pub const SHORT: &str = env!("CARGO_PKG_VERSION");

/// Prints the versions; servers that do not answer are said so.
///
/// # Errors
/// Standard output is gone.
pub async fn run(cli: &Cli) -> Result<Exit> {
    let mut table = Table::new(["what", "version", "data format"]);
    table.row(vec!["holdfast".into(), SHORT.into(), "-".into()]);
    let mut servers = Vec::new();
    for address in &cli.endpoints {
        let (version, format) = match admin::status(address, cli.timeout()).await {
            Ok(status) => (status.version, status.format_version.to_string()),
            Err(_) => ("no answer".into(), "-".into()),
        };
        servers.push(json!({"endpoint": address, "version": version, "format": format}));
        table.row(vec![format!("server {address}"), version, format]);
    }
    match cli.output {
        Output::Json => output::line(&json!({"client": SHORT, "servers": servers}).to_string())?,
        _ => output::emit(table.render().as_bytes())?,
    }
    Ok(Exit::Done)
}
