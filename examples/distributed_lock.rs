//! A lock, and why it needs a fenced resource.
//!
//! A holder may be paused longer than its lock lives: by a garbage collector, by the hypervisor.
//! It wakes up believing in a lock that someone else has. No lock service can prevent that; the
//! resource can, by refusing every token below the highest it has seen.
//!
//! `make cluster`, then `cargo run --release -p holdfast-examples --example distributed_lock`.
#![allow(clippy::print_stdout)]

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use holdfast_client::LockGuard;
use tokio::runtime::{Builder, Runtime};

const TTL: Duration = Duration::from_secs(2);

/// What the lock protects. It checks tokens itself: that is what makes it safe.
#[derive(Default)]
struct Ledger {
    highest_token: u64,
    lines: Vec<String>,
}

impl Ledger {
    fn write(&mut self, token: u64, line: &str) -> Result<()> {
        if token < self.highest_token {
            bail!("token {token} is older than {}", self.highest_token);
        }
        self.highest_token = token;
        self.lines.push(line.to_owned());
        Ok(())
    }
}

/// One process of a fleet. A runtime that nobody drives is a process that is paused: it renews
/// nothing.
struct Process {
    name: &'static str,
    runtime: Runtime,
}

impl Process {
    fn start(name: &'static str) -> Result<Self> {
        Ok(Self { name, runtime: Builder::new_current_thread().enable_all().build()? })
    }

    fn lock(&self, lock: &str) -> Result<LockGuard> {
        let (lock, name) = (lock.to_owned(), self.name);
        self.runtime.block_on(async move {
            let client = holdfast_examples::connect().await?;
            let client = client.with_deadline(Duration::from_secs(20))?;
            Ok(client.lock(lock).ttl(TTL).value(name).acquire().await?)
        })
    }
}

fn main() -> Result<()> {
    let lock = holdfast_examples::unique("ledger");
    let mut ledger = Ledger::default();
    let (ann, bob) = (Process::start("ann")?, Process::start("bob")?);

    let anns = ann.lock(&lock)?;
    ledger.write(anns.fencing_token(), "ann: begin")?;
    println!("ann holds the lock, token {}; now she is paused", anns.fencing_token());

    let bobs = bob.lock(&lock)?;
    println!("bob has it after ann's time was over, token {}", bobs.fencing_token());
    ensure!(bobs.fencing_token() > anns.fencing_token());
    ledger.write(bobs.fencing_token(), "bob: begin")?;

    // Ann wakes up and goes on where she was, before she has had a chance to notice.
    let refused = ledger.write(anns.fencing_token(), "ann: end");
    println!("the ledger refuses ann: {}", refused.expect_err("an old token must be refused"));
    ann.runtime.block_on(anns.lost());
    println!("ann learns that her lock is lost");

    ledger.write(bobs.fencing_token(), "bob: end")?;
    bob.runtime.block_on(bobs.release())?;
    ensure!(ledger.lines == ["ann: begin", "bob: begin", "bob: end"]);
    println!("distributed_lock: done, {:?}", ledger.lines);
    Ok(())
}
