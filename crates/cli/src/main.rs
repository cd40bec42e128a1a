//! The command line of Holdfast.
//!
//! Owns: data and cluster commands, load and dump, the benchmark, local clusters.
//! Must never know: how a server works inside.
//! Invariants:
//! * Standard output carries answers only; notes, bars and reports go to standard error.
//! * The exit code tells done, no, refused, failed and unknown apart.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod admin;
mod args;
mod bench;
mod cluster;
mod data;
mod exit;
mod inspect;
mod local;
mod lock;
mod output;
mod script;
mod session;
mod several;
mod streams;
mod transfer;
mod version;

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser};
use holdfast_client::Client;

use crate::args::{Cli, Command};
use crate::exit::Exit;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::note(&format!("holdfast: no runtime: {error}"));
            return Exit::Failed.code().into();
        }
    };
    let result = runtime.block_on(run(&cli));
    // Nothing that still runs in the background matters once the answer is there.
    runtime.shutdown_background();
    match result {
        Ok(exit) => exit.code().into(),
        Err(error) => {
            output::note(&format!("holdfast: {error:#}"));
            exit_of(&error).code().into()
        }
    }
}

fn exit_of(error: &anyhow::Error) -> Exit {
    if error.downcast_ref::<exit::Refused>().is_some() {
        return Exit::Usage;
    }
    error.downcast_ref::<holdfast_client::Error>().map_or(Exit::Failed, session::exit_of)
}

async fn run(cli: &Cli) -> Result<Exit> {
    match &cli.command {
        Command::Local(verb) => local::run(verb).await,
        Command::Cluster(command) => cluster::run(cli, command).await,
        Command::Keyspace(command) => cluster::keyspace(cli, command).await,
        Command::Bench(arguments) => bench::run(cli, arguments).await,
        Command::Inspect(arguments) => inspect::run(cli, arguments),
        Command::Version => version::run(cli).await,
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "holdfast", &mut script);
            output::emit(&script)?;
            Ok(Exit::Done)
        }
        _ => {
            let client = session::client(cli)?;
            let exit = with_client(cli, &client).await;
            // What was dropped on the way (a place in a queue) is given back first.
            client.close().await;
            exit
        }
    }
}

async fn with_client(cli: &Cli, client: &Client) -> Result<Exit> {
    match &cli.command {
        Command::Mget { keys, read } => several::get(cli, client, keys, read).await,
        Command::Mset { pairs } => several::set(cli, client, pairs).await,
        Command::Txn => several::transact(cli, client).await,
        Command::Scan { prefix, limit, keys_only, reverse, read } => {
            let (limit, keys_only, reverse) = (*limit, *keys_only, *reverse);
            let arguments = streams::ScanArgs { prefix, limit, keys_only, reverse, read };
            streams::scan(cli, client, arguments).await
        }
        Command::Watch { prefix, from, limit } => {
            streams::watch(cli, client, prefix, *from, *limit).await
        }
        Command::Load { file, resume } => transfer::load(cli, client, file, *resume).await,
        Command::Dump { prefix, format } => transfer::dump(client, prefix, *format).await,
        Command::Lock { name, permits, ttl, command } => {
            let (permits, ttl, limit) = (*permits, *ttl, cli.patience);
            lock::run(client, lock::LockArgs { name, permits, ttl, limit, command }).await
        }
        Command::Elect { name, value, ttl } => {
            lock::elect(client, name, value, *ttl, cli.patience, cli.output).await
        }
        _ => data::run(cli, client).await,
    }
}
