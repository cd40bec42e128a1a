//! A counter that many write to at once, exact all the same.
//!
//! One key takes as many increments as its range commits. Spread over shards, the additions go to
//! many ranges in parallel. Each runs exactly once, however often the network makes the client
//! send it.
//!
//! `make cluster`, then `cargo run --release -p holdfast-examples --example sharded_counter`.
#![allow(clippy::print_stdout)]

use anyhow::{Result, ensure};
use tokio::task::JoinSet;

const SHARDS: usize = 16;
const WRITERS: i64 = 8;
const ADDITIONS: i64 = 50;

#[tokio::main]
async fn main() -> Result<()> {
    let client = holdfast_examples::connect().await?;
    let counter = client.counter(holdfast_examples::unique("visits"), SHARDS)?;
    ensure!(counter.value().await? == 0);

    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let counter = counter.clone();
        writers.spawn(async move {
            for _ in 0..ADDITIONS {
                counter.add(1).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(writer) = writers.join_next().await {
        writer??;
    }

    let total = counter.value().await?;
    ensure!(total == WRITERS * ADDITIONS, "{total} is not {}", WRITERS * ADDITIONS);
    counter.reset().await?;
    client.close().await;
    println!("sharded_counter: done, {WRITERS} writers × {ADDITIONS} additions = {total}");
    Ok(())
}
