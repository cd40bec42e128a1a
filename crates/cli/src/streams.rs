//! Commands that stream: scan and watch.

use anyhow::Result;
use holdfast_client::{Client, Entry, EventKind};
use holdfast_model::Revision;
use serde_json::json;

use crate::args::{Cli, Output, ReadArgs};
use crate::data::{bytes_json, entry_json};
use crate::exit::Exit;
use crate::output;
use crate::session;

/// What `scan` was asked for.
#[derive(Clone, Copy, Debug)]
pub struct ScanArgs<'a> {
    /// Only keys that start with this.
    pub prefix: &'a str,
    /// Stop after so many; 0 = all.
    pub limit: u64,
    /// Keys without values.
    pub keys_only: bool,
    /// From the last key to the first.
    pub reverse: bool,
    /// Read level.
    pub read: &'a ReadArgs,
}

fn print(cli: &Cli, entry: &Entry, keys_only: bool) -> Result<()> {
    match cli.output {
        Output::Json => output::line(&entry_json(entry).to_string())?,
        Output::Raw if keys_only => output::emit(&entry.key)?,
        Output::Raw => output::emit(&entry.value)?,
        Output::Table if keys_only => output::line(&output::readable(&entry.key))?,
        Output::Table => output::line(&format!(
            "{}\t{}",
            output::readable(&entry.key),
            output::readable(&entry.value)
        ))?,
    }
    Ok(())
}

/// `scan`.
///
/// # Errors
/// Those of the SDK.
pub async fn scan(cli: &Cli, client: &Client, arguments: ScanArgs<'_>) -> Result<Exit> {
    let mut scan = client
        .scan(arguments.prefix.to_owned())
        .level(session::level(arguments.read)?)
        .limit(arguments.limit);
    if let Some(bound) = arguments.read.max_staleness {
        scan = scan.max_staleness(bound);
    }
    if arguments.keys_only {
        scan = scan.keys_only();
    }
    if arguments.reverse {
        scan = scan.reverse();
    }
    let mut scan = scan.start()?;
    while let Some(page) = scan.next_page().await? {
        for entry in &page.entries {
            print(cli, entry, arguments.keys_only)?;
        }
    }
    Ok(Exit::Done)
}

/// `watch`: ends after `limit` events (0 = never).
///
/// # Errors
/// Those of the SDK; a compacted start is said with the oldest revision.
pub async fn watch(
    cli: &Cli,
    client: &Client,
    prefix: &str,
    from: Option<u64>,
    limit: u64,
) -> Result<Exit> {
    let mut builder = client.watch_prefix(prefix.to_owned());
    if let Some(revision) = from {
        builder = builder.from_revision(Revision(revision));
    }
    let mut watch = builder.start().await?;
    let mut seen = 0;
    loop {
        let batch = watch.next().await?;
        for event in &batch.events {
            let (entry, put) = (&event.entry, event.kind == EventKind::Put);
            match cli.output {
                Output::Json => {
                    let mut object = serde_json::Map::new();
                    object.insert("event".into(), json!(if put { "put" } else { "delete" }));
                    bytes_json(&mut object, "key", &entry.key);
                    if put {
                        bytes_json(&mut object, "value", &entry.value);
                    }
                    object.insert("revision".into(), json!(entry.revision.0));
                    object.insert("range".into(), json!(batch.range.0));
                    output::line(&serde_json::Value::Object(object).to_string())?;
                }
                Output::Raw => output::emit(&entry.value)?,
                Output::Table if put => output::line(&format!(
                    "put\t{}\t{}",
                    output::readable(&entry.key),
                    output::readable(&entry.value)
                ))?,
                Output::Table => {
                    output::line(&format!("delete\t{}", output::readable(&entry.key)))?;
                }
            }
            seen += 1;
            if limit > 0 && seen >= limit {
                return Ok(Exit::Done);
            }
        }
    }
}
