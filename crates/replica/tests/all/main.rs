//! Whole Raft groups in one process: a network of function calls, simulated disks, virtual time.
#![allow(clippy::disallowed_methods)] // Virtual time is read off tokio's paused clock.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

mod cluster;
mod damage;
mod elections;
mod lifetimes;
mod net;
mod power;
mod reads;
mod release;
mod renewals;
mod snapshots;
mod watches;
mod writes;
