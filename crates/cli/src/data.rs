//! Commands on single keys: put, get, del, cas, incr.

use std::io::Read as _;

use anyhow::{Context, Result};
use bytes::Bytes;
use holdfast_client::{Client, Entry, PutAnswer, Staleness};
use holdfast_model::Revision;
use serde_json::{Value, json};

use crate::args::{Cli, Command, Output, ReadArgs};
use crate::exit::Exit;
use crate::output;
use crate::session;

/// An entry as JSON; bytes that are not UTF-8 stand under `…_base64`.
pub fn entry_json(entry: &Entry) -> Value {
    let mut object = serde_json::Map::new();
    bytes_json(&mut object, "key", &entry.key);
    bytes_json(&mut object, "value", &entry.value);
    object.insert("revision".into(), json!(entry.revision.0));
    object.insert("create_revision".into(), json!(entry.create_revision.0));
    object.insert("version".into(), json!(entry.version));
    if let Some(lease) = entry.lease {
        object.insert("lease".into(), json!(lease.to_string()));
    }
    if let Some(at) = entry.expires_at_ms {
        object.insert("expires_at_ms".into(), json!(at));
    }
    Value::Object(object)
}

/// Adds bytes to a JSON object: as text where they are UTF-8, else in base64.
pub fn bytes_json(object: &mut serde_json::Map<String, Value>, name: &str, bytes: &[u8]) {
    use base64::Engine as _;
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), json!(text)),
        Err(_) => {
            let code = base64::engine::general_purpose::STANDARD.encode(bytes);
            object.insert(format!("{name}_base64"), json!(code))
        }
    };
}

/// The current entry of a condition that did not hold, for standard error.
fn describe_current(current: Option<&Entry>) -> String {
    match current {
        None => "condition failed: the key does not exist".into(),
        Some(entry) => format!(
            "condition failed: {} = {} (revision {}, version {})",
            output::readable(&entry.key),
            output::readable(&entry.value),
            entry.revision.0,
            entry.version
        ),
    }
}

/// Runs a command on single keys.
///
/// # Errors
/// Those of the SDK.
pub async fn run(cli: &Cli, client: &Client) -> Result<Exit> {
    match &cli.command {
        Command::Put { key, value, ttl, if_absent, if_revision, if_value } => {
            let mut put = client.put(key.clone(), value_of(value)?);
            if let Some(ttl) = ttl {
                put = put.ttl(*ttl);
            }
            if *if_absent {
                put = put.if_absent();
            } else if let Some(revision) = if_revision {
                put = put.if_revision(Revision(*revision));
            } else if let Some(value) = if_value {
                put = put.if_value(value.clone());
            }
            written(cli, &put.send().await?)
        }
        Command::Cas { key, expected, new } => {
            let cas = client.cas(key.clone(), expected.clone(), value_of(new)?);
            written(cli, &cas.send().await?)
        }
        Command::Get { key, read, revision } => get(cli, client, key, read, *revision).await,
        Command::Del { key, prefix, if_revision } => {
            delete(cli, client, key.as_deref(), prefix.as_deref(), *if_revision).await
        }
        Command::Incr { key, by } => {
            let answer = client.increment(key.clone(), *by).send().await?;
            match cli.output {
                Output::Json => output::line(
                    &json!({"value": answer.value, "revision": answer.revision.0}).to_string(),
                )?,
                Output::Raw => output::emit(answer.value.to_string().as_bytes())?,
                Output::Table => output::line(&answer.value.to_string())?,
            }
            Ok(Exit::Done)
        }
        _ => Ok(Exit::Usage),
    }
}

fn value_of(argument: &str) -> Result<Bytes> {
    if argument != "-" {
        return Ok(Bytes::copy_from_slice(argument.as_bytes()));
    }
    let mut bytes = Vec::new();
    // One byte over the limit is enough to be told that it is over.
    let limit = holdfast_model::limits::VALUE_BYTES_MAX as u64 + 1;
    std::io::stdin().take(limit).read_to_end(&mut bytes).context("standard input")?;
    Ok(bytes.into())
}

fn written(cli: &Cli, answer: &PutAnswer) -> Result<Exit> {
    if !answer.applied {
        if cli.output == Output::Json {
            let current = answer.current.as_ref().map(entry_json);
            output::note(&json!({"applied": false, "current": current}).to_string());
        } else {
            output::note(&describe_current(answer.current.as_ref()));
        }
        return Ok(Exit::No);
    }
    match cli.output {
        Output::Json => output::line(
            &json!({
                "applied": true,
                "revision": answer.revision.0,
                "create_revision": answer.create_revision.0,
                "version": answer.version,
            })
            .to_string(),
        )?,
        Output::Raw => {}
        Output::Table => output::line(&format!("revision {}", answer.revision.0))?,
    }
    Ok(Exit::Done)
}

/// The bound of a follower answer as a sentence.
pub fn staleness_note(staleness: &Staleness) -> String {
    let basis = if staleness.clock_based { " (by clocks)" } else { "" };
    format!("at most {} ms old{basis}", staleness.bound.as_millis())
}

async fn get(
    cli: &Cli,
    client: &Client,
    key: &str,
    read: &ReadArgs,
    revision: Option<u64>,
) -> Result<Exit> {
    let mut get = client.get(key.to_owned()).level(session::level(read)?);
    if let Some(bound) = read.max_staleness {
        get = get.max_staleness(bound);
    }
    if let Some(revision) = revision {
        get = get.at_revision(Revision(revision));
    }
    let answer = get.send().await?;
    if let (Some(staleness), true) = (&answer.staleness, cli.output != Output::Json) {
        output::note(&staleness_note(staleness));
    }
    let Some(entry) = &answer.entry else {
        if cli.output != Output::Json {
            output::note(&format!("{key}: no such key"));
        }
        return Ok(Exit::No);
    };
    match cli.output {
        Output::Raw => output::emit(&entry.value)?,
        Output::Table => output::line(&output::readable(&entry.value))?,
        Output::Json => {
            let mut object = entry_json(entry);
            if let (Some(staleness), Some(object)) = (&answer.staleness, object.as_object_mut()) {
                let bound = u64::try_from(staleness.bound.as_millis()).unwrap_or(u64::MAX);
                object.insert("staleness_ms".into(), json!(bound));
                object.insert("staleness_clock_based".into(), json!(staleness.clock_based));
            }
            output::line(&object.to_string())?;
        }
    }
    Ok(Exit::Done)
}

async fn delete(
    cli: &Cli,
    client: &Client,
    key: Option<&str>,
    prefix: Option<&str>,
    if_revision: Option<u64>,
) -> Result<Exit> {
    let deleted = match (key, prefix) {
        (_, Some(prefix)) => client.delete_prefix(prefix.to_owned()).send().await?,
        (key, None) => {
            let mut delete = client.delete(key.unwrap_or_default().to_owned());
            if let Some(revision) = if_revision {
                delete = delete.if_revision(Revision(revision));
            }
            let answer = delete.send().await?;
            if !answer.applied {
                output::note(&describe_current(answer.current.as_ref()));
                return Ok(Exit::No);
            }
            answer.deleted
        }
    };
    match cli.output {
        Output::Json => output::line(&json!({"deleted": deleted}).to_string())?,
        Output::Raw => {}
        Output::Table => output::line(&format!("deleted {deleted}"))?,
    }
    Ok(Exit::Done)
}
