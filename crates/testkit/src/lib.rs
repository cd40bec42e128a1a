//! The instruments by which Holdfast is put to the test.
//!
//! Owns: histories of what clients asked and were told, and the checkers that judge them.
//! Must never know: how the shipped crates work inside, beyond the ports it stands in for; only
//! `tests` names this crate.
//! Invariants:
//! * A checker that cannot decide says so, and a run without a decision has failed.
//! * An operation whose outcome nobody knows may happen until the end of time, or never.
//! * Whatever is drawn by chance is drawn from a seed, and the seed is printed.
//! Source: `reliability.md`.

pub mod check;
pub mod history;
pub mod kv;
pub mod sim;
pub mod workload;

pub use holdfast_env::sim::Random;
