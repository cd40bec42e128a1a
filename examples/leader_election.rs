//! One leader at a time, and the next one when it goes.
//!
//! `make cluster`, then `cargo run --release -p holdfast-examples --example leader_election`.
#![allow(clippy::print_stdout, clippy::disallowed_methods)]

use std::time::Duration;

use anyhow::{Result, ensure};
use holdfast_client::{Client, Election};
use tokio::task::JoinSet;

const CANDIDATES: [&str; 3] = ["ann", "bob", "cyd"];

/// One turn of a leader.
struct Term {
    name: &'static str,
    token: u64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let place = holdfast_examples::unique("scheduler");
    let client = holdfast_examples::connect().await?.with_deadline(Duration::from_secs(30))?;
    let election = election(&client, &place);
    ensure!(election.leader().await?.is_none(), "nobody leads yet");

    let mut candidates = JoinSet::new();
    for name in CANDIDATES {
        // Each candidate is a process of its own, so it has a client of its own.
        candidates.spawn(lead_once(name, place.clone()));
    }
    let leader = election.changed(0).await?;
    println!("an onlooker sees {:?} lead", String::from_utf8_lossy(&leader.value));

    let mut terms = Vec::new();
    while let Some(term) = candidates.join_next().await {
        terms.push(term??);
    }
    ensure!(terms.len() == CANDIDATES.len());
    ensure!(terms.is_sorted_by(|a, b| a.token < b.token), "tokens grow with every leader");
    ensure!(election.leader().await?.is_none(), "all have resigned");
    let order: Vec<&str> = terms.iter().map(|term| term.name).collect();
    println!("leader_election: done, {order:?} led in turn");
    Ok(())
}

fn election(client: &Client, place: &str) -> Election {
    client.election(place.to_owned()).ttl(Duration::from_secs(3))
}

/// Waits to lead, works, resigns.
async fn lead_once(name: &'static str, place: String) -> Result<Term> {
    let client = holdfast_examples::connect().await?.with_deadline(Duration::from_secs(30))?;
    let leadership = election(&client, &place).campaign(name).await?;
    let token = leadership.fencing_token();
    println!("{name} leads, token {token}");
    // A leader works only as long as it leads, and gives its token with everything it does.
    tokio::select! {
        () = leadership.lost() => anyhow::bail!("{name} lost the leadership"),
        () = tokio::time::sleep(Duration::from_millis(300)) => {}
    }
    leadership.release().await?;
    Ok(Term { name, token })
}
