//! Who wants to know how calls went: the seam to metrics.

use std::fmt::Debug;
use std::time::Duration;

use holdfast_replica::ReadLevel;
use tonic::Code;

/// Kinds of calls, as metrics and logs name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // the names are those of the services' methods
pub enum Operation {
    Get,
    Put,
    Delete,
    Increment,
    Txn,
    BatchGet,
    BatchWrite,
    Scan,
    Watch,
    Session,
    Lease,
    Lock,
    Cluster,
}

impl Operation {
    /// Every kind, for registering metrics before the first call.
    pub const ALL: [Self; 13] = [
        Self::Get,
        Self::Put,
        Self::Delete,
        Self::Increment,
        Self::Txn,
        Self::BatchGet,
        Self::BatchWrite,
        Self::Scan,
        Self::Watch,
        Self::Session,
        Self::Lease,
        Self::Lock,
        Self::Cluster,
    ];

    /// Its name as a metric label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Delete => "delete",
            Self::Increment => "increment",
            Self::Txn => "txn",
            Self::BatchGet => "batch_get",
            Self::BatchWrite => "batch_write",
            Self::Scan => "scan",
            Self::Watch => "watch",
            Self::Session => "session",
            Self::Lease => "lease",
            Self::Lock => "lock",
            Self::Cluster => "cluster",
        }
    }
}

/// A read level's name as a metric label.
pub fn level_name(level: ReadLevel) -> &'static str {
    match level {
        ReadLevel::Linearizable => "linearizable",
        ReadLevel::Lease => "lease",
        ReadLevel::Follower => "follower",
    }
}

/// Told about every finished call, on the thread that served it: counts and returns.
pub trait Observer: Send + Sync + Debug + 'static {
    /// A call ended. `level` is set for reads. Streams report each page or cancelled watch.
    fn finished(
        &self,
        operation: Operation,
        level: Option<ReadLevel>,
        code: Code,
        elapsed: Duration,
    );

    /// A watch was opened.
    fn watch_opened(&self);

    /// A watch that was opened has ended.
    fn watch_closed(&self);
}

/// Nobody wants to know.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn finished(&self, _: Operation, _: Option<ReadLevel>, _: Code, _: Duration) {}
    fn watch_opened(&self) {}
    fn watch_closed(&self) {}
}
