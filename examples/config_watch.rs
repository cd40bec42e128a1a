//! Configuration that every service sees change, without polling and without missing anything.
//!
//! The pattern: first watch, then read what is there, then follow the watch. What happened in
//! between is seen twice, and the newer revision of a key wins.
//!
//! `make cluster`, then `cargo run --release -p holdfast-examples --example config_watch`.
#![allow(clippy::print_stdout, clippy::disallowed_methods)]

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use holdfast_client::{Client, Event, EventKind, Revision};
use tokio::sync::oneshot;

/// The configuration as a service keeps it: value and revision by name.
type Settings = BTreeMap<String, (String, Revision)>;

#[tokio::main]
async fn main() -> Result<()> {
    let client = holdfast_examples::connect().await?;
    // One {tag}: all settings lie in one range, so that their changes have one order.
    let place = format!("{{{}}}/", holdfast_examples::unique("config"));
    client.put(format!("{place}rate"), "100").await?;

    let (ready, is_ready) = oneshot::channel();
    let service = tokio::spawn(follow(client.clone(), place.clone(), ready));
    is_ready.await.context("the service ended early")?;

    // An operator, anywhere.
    client.put(format!("{place}rate"), "250").await?;
    client.put(format!("{place}region"), "north").await?;
    client.delete(format!("{place}region")).await?;
    client.put(format!("{place}stop"), "now").await?;

    let settings = service.await??;
    ensure!(settings.get("rate").is_some_and(|(value, _)| value == "250"));
    ensure!(!settings.contains_key("region"));
    client.delete_prefix(place).await?;
    println!("config_watch: done, {settings:?}");
    Ok(())
}

/// A service that lives until it is told to stop.
async fn follow(client: Client, place: String, ready: oneshot::Sender<()>) -> Result<Settings> {
    let mut watch = client.watch_prefix(place.clone()).start().await?;
    let mut settings = Settings::new();
    for entry in client.scan(place.clone()).collect().await? {
        let value = String::from_utf8_lossy(&entry.value).into_owned();
        settings.insert(name_of(&place, &entry.key), (value, entry.revision));
    }
    println!("started with {settings:?}");
    // The receiver is gone only if the operator gave up.
    let _ = ready.send(());
    while !settings.contains_key("stop") {
        for event in watch.next().await?.events {
            apply(&mut settings, &place, event);
        }
    }
    Ok(settings)
}

fn apply(settings: &mut Settings, place: &str, event: Event) {
    let name = name_of(place, &event.entry.key);
    let known = settings.get(&name).map_or(Revision(0), |(_, revision)| *revision);
    if event.entry.revision <= known {
        return;
    }
    println!("{:?} {name} at revision {}", event.kind, event.entry.revision);
    match event.kind {
        EventKind::Put => {
            let value = String::from_utf8_lossy(&event.entry.value).into_owned();
            settings.insert(name, (value, event.entry.revision));
        }
        EventKind::Delete => {
            settings.remove(&name);
        }
    }
}

fn name_of(place: &str, key: &[u8]) -> String {
    String::from_utf8_lossy(key.strip_prefix(place.as_bytes()).unwrap_or(key)).into_owned()
}
