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
mod exit;
mod local;
mod output;
mod script;
mod transfer;
mod version;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    let cli = args::Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("rt");
    let result = runtime.block_on(async {
        match &cli.command {
            args::Command::Local(verb) => local::run(verb).await,
            _ => Ok(exit::Exit::Usage),
        }
    });
    match result {
        Ok(exit) => exit.code().into(),
        Err(error) => {
            output::note(&format!("holdfast: {error:#}"));
            3.into()
        }
    }
}
