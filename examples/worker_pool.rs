//! Many workers, two machines to work on: a semaphore whose slots name the machines.
//!
//! Each machine checks the fencing tokens of its slot, so that not even a worker that was paused
//! longer than its permit lives makes a third one work at a time.
//!
//! `make cluster`, then `cargo run --release -p holdfast-examples --example worker_pool`.
#![allow(clippy::print_stdout, clippy::disallowed_methods)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use holdfast_client::Permit;
use tokio::task::JoinSet;

const MACHINES: u32 = 2;
const WORKERS: usize = 5;

/// What a slot stands for. It checks tokens itself: that is what makes it safe.
#[derive(Default)]
struct Machine {
    highest_token: u64,
    is_busy: bool,
    jobs: usize,
}

type Machines = Arc<Mutex<Vec<Machine>>>;

/// Gives the permit's machine something to do, or tells it that it is done.
fn tell(machines: &Machines, permit: &Permit, busy: bool) -> Result<()> {
    let mut machines = machines.lock().expect("no worker panics");
    let machine = machines.get_mut(permit.slot() as usize).context("no such machine")?;
    if permit.fencing_token() < machine.highest_token {
        bail!("token {} is older than {}", permit.fencing_token(), machine.highest_token);
    }
    ensure!(machine.is_busy != busy, "machine {} was given two jobs", permit.slot());
    machine.highest_token = permit.fencing_token();
    machine.is_busy = busy;
    machine.jobs += usize::from(busy);
    Ok(())
}

/// Waits for a machine and works on it.
async fn work(worker: usize, pool: String, machines: Machines) -> Result<()> {
    // Each worker is a process of its own, so it has a client of its own.
    let client = holdfast_examples::connect().await?;
    let semaphore = client.semaphore(pool, MACHINES).value(format!("worker {worker}"));
    let permit = semaphore.patience(Duration::from_secs(60)).acquire().await?;
    println!("worker {worker}: machine {}, token {}", permit.slot(), permit.fencing_token());
    tell(&machines, &permit, true)?;
    tokio::select! {
        () = permit.lost() => bail!("worker {worker} lost its permit"),
        () = tokio::time::sleep(Duration::from_millis(200)) => {}
    }
    tell(&machines, &permit, false)?;
    permit.release().await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let pool = holdfast_examples::unique("machines");
    let machines: Machines = Arc::default();
    machines.lock().expect("no worker panics").resize_with(MACHINES as usize, Machine::default);
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        workers.spawn(work(worker, pool.clone(), machines.clone()));
    }
    while let Some(worker) = workers.join_next().await {
        worker??;
    }
    let jobs: Vec<usize> =
        machines.lock().expect("no worker panics").iter().map(|machine| machine.jobs).collect();
    ensure!(jobs.iter().sum::<usize>() == WORKERS, "{jobs:?}");
    println!("worker_pool: done, {jobs:?} jobs on {MACHINES} machines");
    Ok(())
}
