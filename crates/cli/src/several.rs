//! Commands on several keys: mget, mset, txn.

use std::io::Read as _;

use anyhow::{Context, Result};
use holdfast_client::{Client, Compare, Operation, Relation, TxnAnswer};
use holdfast_model::Revision;
use serde_json::json;

use crate::args::{Cli, Output, ReadArgs};
use crate::data::entry_json;
use crate::exit::{Exit, refused};
use crate::output;
use crate::script::{self, Step, Test};
use crate::session;

/// Longest script that is read.
const SCRIPT_BYTES_MAX: u64 = 16 << 20;

/// Keys of one batch.
const BATCH_KEYS_MAX: usize = holdfast_model::limits::BATCH_OPERATIONS_MAX;

/// Refuses more keys than a batch has: the SDK would cut them into several.
fn check_count(keys: usize) -> Result<()> {
    match keys > BATCH_KEYS_MAX {
        true => Err(refused(format!("keys of a batch: at most {BATCH_KEYS_MAX}, given {keys}"))),
        false => Ok(()),
    }
}

/// `mget`: exit code 1 if a key is missing, the worst error's if one could not be read.
///
/// # Errors
/// Those of the SDK that concern the whole batch.
pub async fn get(cli: &Cli, client: &Client, keys: &[String], read: &ReadArgs) -> Result<Exit> {
    check_count(keys.len())?;
    let mut batch = client.batch_get(keys.iter().cloned()).level(session::level(read)?);
    if let Some(bound) = read.max_staleness {
        batch = batch.max_staleness(bound);
    }
    let mut exit = Exit::Done;
    for (key, answer) in keys.iter().zip(batch.send().await?) {
        match answer {
            Ok(answer) => match answer.entry {
                Some(entry) => match cli.output {
                    Output::Json => output::line(&entry_json(&entry).to_string())?,
                    Output::Raw => output::emit(&entry.value)?,
                    Output::Table => output::line(&format!(
                        "{}\t{}",
                        output::readable(&entry.key),
                        output::readable(&entry.value)
                    ))?,
                },
                None => {
                    output::note(&format!("{key}: no such key"));
                    exit = if exit == Exit::Done { Exit::No } else { exit };
                }
            },
            Err(error) => {
                output::note(&format!("{key}: {error}"));
                exit = session::exit_of(&error);
            }
        }
    }
    Ok(exit)
}

/// `mset`: independent writes, one status each.
///
/// # Errors
/// A pair without `=`, and those of the SDK that concern the whole batch.
pub async fn set(cli: &Cli, client: &Client, pairs: &[String]) -> Result<Exit> {
    check_count(pairs.len())?;
    let mut batch = client.batch();
    let mut keys = Vec::new();
    for pair in pairs {
        let (key, value) =
            pair.split_once('=').ok_or_else(|| refused(format!("{pair:?} is not KEY=VALUE")))?;
        batch = batch.put(key.to_owned(), value.to_owned());
        keys.push(key);
    }
    let mut exit = Exit::Done;
    for (key, answer) in keys.into_iter().zip(batch.send().await?) {
        match answer {
            Ok(answer) => match cli.output {
                Output::Json => {
                    output::line(&json!({"key": key, "revision": answer.revision.0}).to_string())?;
                }
                Output::Raw => {}
                Output::Table => output::line(&format!("{key}: revision {}", answer.revision.0))?,
            },
            Err(error) => {
                output::note(&format!("{key}: {error}"));
                exit = session::exit_of(&error);
            }
        }
    }
    Ok(exit)
}

fn compare(key: String, test: Test) -> Compare {
    match test {
        Test::Exists(true) => Compare::exists(key),
        Test::Exists(false) => Compare::missing(key),
        Test::Value(true, value) => Compare::value(key, Relation::Equal, value),
        Test::Value(false, value) => Compare::value(key, Relation::NotEqual, value),
        Test::Revision(n) => Compare::revision(key, Relation::Equal, Revision(n)),
        Test::Version(n) => Compare::version(key, Relation::Equal, n),
    }
}

fn operation(step: Step) -> Operation {
    match step {
        Step::Put(key, value) => Operation::put(key, value),
        Step::Delete(key) => Operation::delete(key),
        Step::Get(key) => Operation::get(key),
        Step::Increment(key, by) => Operation::increment(key, by),
    }
}

/// `txn`: exit code 1 if the compares did not hold.
///
/// # Errors
/// A script that does not parse, and those of the SDK.
pub async fn transact(cli: &Cli, client: &Client) -> Result<Exit> {
    let mut text = String::new();
    std::io::stdin().take(SCRIPT_BYTES_MAX).read_to_string(&mut text).context("standard input")?;
    let script = script::parse(&text).map_err(refused)?;
    let mut txn = client.txn();
    for (key, test) in script.compares {
        txn = txn.when(compare(key, test));
    }
    for step in script.success {
        txn = txn.then(operation(step));
    }
    for step in script.failure {
        txn = txn.or_else(operation(step));
    }
    let answer = txn.send().await?;
    print(cli, &answer)?;
    Ok(if answer.succeeded { Exit::Done } else { Exit::No })
}

fn print(cli: &Cli, answer: &TxnAnswer) -> Result<()> {
    if cli.output == Output::Json {
        let results: Vec<_> = answer
            .results
            .iter()
            .map(|r| {
                let entries: Vec<_> = r.entries.iter().map(entry_json).collect();
                json!({"count": r.count, "value": r.value, "entries": entries})
            })
            .collect();
        let succeeded = answer.succeeded;
        let revision = answer.revision.0;
        let text = json!({"succeeded": succeeded, "revision": revision, "results": results});
        return Ok(output::line(&text.to_string())?);
    }
    for result in &answer.results {
        for entry in &result.entries {
            output::line(&format!(
                "{}\t{}",
                output::readable(&entry.key),
                output::readable(&entry.value)
            ))?;
        }
    }
    let word = if answer.succeeded { "succeeded" } else { "compares failed" };
    output::note(&format!("{word}, revision {}", answer.revision.0));
    Ok(())
}
