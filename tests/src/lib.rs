//! Holdfast as users run it: real processes, real sockets, real disks.
//!
//! Owns: starting, breaking and mending clusters for tests; histories and their checker.
//! Must never know: what the binaries are made of. Everything goes through the SDK, the command
//! line, or the public messages.
//! Invariants:
//! * Only processes that this program started are signalled, and none outlives it.
//! * Every cluster has ports and a folder of its own; nothing outside of `target/` is written.
//! * A scenario that fails prints the end of every node's log.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::print_stderr)]

pub mod abuse;
mod address;
pub mod availability;
mod binaries;
mod cli;
mod cluster;
mod disk;
mod guardian;
mod http;
pub mod leases;
mod link;
mod load;
pub mod nemesis;
mod node;
mod rpc;
mod scenario;
pub mod score;
pub mod torture;
mod wait;

pub use binaries::{binary, example, keep};
pub use cli::{Cli, Finished, Running};
pub use cluster::{Cluster, Options};
pub use disk::SmallDisk;
pub use http::{HttpAnswer, http_get};
pub use link::{Count, Links, Rule};
pub use load::{
    DEMANDED, Load, PUNCTUALITY, Seen, Stopped, busy, failures, fault, gets_at, punctuality,
    read_beside,
};
pub use node::{Node, WrongClock};
pub use rpc::{RawCodec, Rpc, refusal};
pub use scenario::{scenario, shared};
pub use wait::eventually;

/// Real records (key TAB value), a sample of what `holdfast load` is made for.
pub const SAMPLE: &str = include_str!("../data/sample.tsv");
