//! The store as a workload sees it: simulated, real, or a model of one.
//!
//! Owns: the trait, and its implementation over the Rust SDK.
//! Must never know: what is asked, and why.
//! Invariants:
//! * An operation that may have happened is never reported as failed.
//! * What an answer did not tell is left out, never guessed.

mod client;

use async_trait::async_trait;

use crate::history::{Event, Outcome, Request};

pub use client::ClientKv;

/// A store under test.
#[async_trait]
pub trait Kv: Send + Sync {
    /// Carries out one request, retries of the client included.
    async fn execute(&self, request: &Request) -> Outcome;

    /// Carries out independent requests at once, one outcome each: all of them gets, or none.
    async fn batch(&self, requests: &[Request]) -> Vec<Outcome>;

    /// Starts a watch: every change that is called after this has returned will be seen.
    ///
    /// # Errors
    /// Why it could not be started; it may be tried again.
    async fn watch(&self, start: &WatchStart) -> Result<Box<dyn Watching>, String>;
}

/// What a watch is to look at, and from where on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchStart {
    /// The key, or how the keys begin.
    pub key: String,
    /// Whether all keys that begin so are watched.
    pub is_prefix: bool,
    /// The first revision wanted, in every range.
    pub from: Option<u64>,
    /// Go on after the batch with this token; wins over `from`.
    pub resume: Option<Vec<u8>>,
    /// Leave puts out.
    pub no_puts: bool,
    /// Leave deletes out.
    pub no_deletes: bool,
}

/// A watch under way.
#[async_trait]
pub trait Watching: Send {
    /// Waits for the next batch; may be dropped while it waits, and called again.
    ///
    /// # Errors
    /// Why the watch has ended.
    async fn next(&mut self) -> Result<Delivered, String>;
}

/// What a watch delivered at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// The range.
    pub range: u64,
    /// The range has been followed up to this revision.
    pub revision: u64,
    /// The changes.
    pub events: Vec<Event>,
    /// Goes on after this batch.
    pub token: Vec<u8>,
}
