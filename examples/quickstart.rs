//! The first five minutes: put, get, compare and swap, count, transaction, scan, delete.
//!
//! `make cluster`, then `cargo run --release -p holdfast-examples --example quickstart`.
#![allow(clippy::print_stdout)]

use anyhow::{Result, ensure};
use holdfast_client::{Client, Compare, Operation, ReadLevel, Relation};

#[tokio::main]
async fn main() -> Result<()> {
    let client = holdfast_examples::connect().await?;
    let place = holdfast_examples::unique("quickstart");
    one_key(&client, &place).await?;
    several_keys(&client, &place).await?;
    let left = client.delete_prefix(place.clone()).await?;
    println!("deleted what was left: {left} keys");
    client.close().await;
    println!("quickstart: done");
    Ok(())
}

async fn one_key(client: &Client, place: &str) -> Result<()> {
    let key = format!("{place}/greeting");
    let written = client.put(key.clone(), "hello").await?;
    println!("put {key} at revision {}", written.revision);

    let entry = client.get(key.clone()).await?;
    ensure!(entry.is_some_and(|entry| entry.value == "hello"));

    // A read that any replica may answer says how old it can be.
    let answer = client.get(key.clone()).level(ReadLevel::Follower).send().await?;
    println!("node {} answered, at most {:?} old", answer.origin.node, answer.staleness);

    // Only one of two writers who saw the same value succeeds.
    let first = client.cas(key.clone(), "hello", "hello, Ann").await?;
    let second = client.cas(key.clone(), "hello", "hello, Bob").await?;
    ensure!(first.applied && !second.applied);
    println!("the slower writer is told what stands there: {:?}", second.current);

    let visits = client.increment(format!("{place}/visits"), 1).await?;
    ensure!(visits.value == 1);
    let gone = client.delete(key).await?;
    ensure!(gone.deleted == 1);
    Ok(())
}

async fn several_keys(client: &Client, place: &str) -> Result<()> {
    // Keys anywhere: independent writes, one result each.
    let mut batch = client.batch();
    for letter in ["a", "b", "c"] {
        batch = batch.put(format!("{place}/{letter}"), letter);
    }
    for result in batch.await? {
        ensure!(result?.applied);
    }

    // Keys with one {tag} share a range, and so a transaction.
    let (ann, bob) = (format!("{place}/{{bank}}/ann"), format!("{place}/{{bank}}/bob"));
    client.put(ann.clone(), "100").await?;
    let paid = client
        .txn()
        .when(Compare::value(ann.clone(), Relation::Equal, "100"))
        .then(Operation::put(ann, "70"))
        .then(Operation::put(bob, "30"))
        .await?;
    ensure!(paid.succeeded);
    println!("30 moved from Ann to Bob in revision {}", paid.revision);

    let entries = client.scan(format!("{place}/")).collect().await?;
    for entry in &entries {
        println!("{} = {}", text(&entry.key), text(&entry.value));
    }
    ensure!(entries.len() == 6);
    Ok(())
}

fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}
