//! What a replica is given by its node.

use std::fmt;
use std::sync::Arc;

use holdfast_env::{Clock, Disk, Entropy};
use holdfast_journal::Journal;
use holdfast_lsm::Engine;
use holdfast_runtime::{Handle, Pool};

use crate::admission::Admission;
use crate::peers::Peers;

/// The doors and shared parts of the node a replica lives on.
#[derive(Clone)]
pub struct Deps {
    /// The node's journal; the replica's group exists in it.
    pub journal: Arc<Journal>,
    /// The replica's engine, opened with this journal's durable position.
    pub engine: Arc<Engine>,
    /// The way to other nodes.
    pub peers: Arc<dyn Peers>,
    /// Clocks.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Files, for staging snapshots.
    pub disk: Arc<dyn Disk>,
    /// The single-threaded runtime all tasks of the replica live on.
    pub reactor: Handle,
    /// Where reads that wait for the disk run.
    pub pool: Pool,
    /// The node's budget of bytes under way.
    pub admission: Arc<Admission>,
    /// Called after the engine may have got work (flush, compaction). Must return at once.
    pub engine_work: Arc<dyn Fn() + Send + Sync>,
    /// Called when the disk can no longer be trusted: must end the process.
    pub fatal: FatalHook,
}

/// Ends the process (in tests: notes that it would have ended).
#[derive(Clone)]
pub struct FatalHook(Arc<dyn Fn(&str) + Send + Sync>);

impl FatalHook {
    /// A hook that calls `hook` with the reason.
    pub fn new(hook: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(hook))
    }

    /// Reports that the process cannot go on.
    pub(crate) fn call(&self, reason: &str) {
        tracing::error!(reason, "fatal");
        (self.0)(reason);
    }
}

impl fmt::Debug for FatalHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FatalHook")
    }
}
