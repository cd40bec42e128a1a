//! Whether a replica can be trusted, and why it ended where it ended by itself.
//!
//! Owns: the verdict over a damaged replica, made durable; the reason of an unforeseen end.
//! Invariants:
//! * A replica whose log or state is found damaged takes no further part from that moment on: no
//!   vote, no acknowledgement, no read. Damage cannot be undone, so neither can the verdict.
//! * The verdict outlives the process: the journal keeps it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use holdfast_journal::{GroupId, Journal};
use tokio::sync::Notify;

use crate::deps::FatalHook;

/// Why a replica ended without having been asked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What was found, for people.
    pub reason: String,
    /// Something of the replica is not what was written: its id is retired, it must be replaced.
    /// Otherwise it may go on after a restart.
    pub is_damage: bool,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_damage {
            true => write!(f, "damaged and retired: {}", self.reason),
            false => write!(f, "stopped: {}", self.reason),
        }
    }
}

/// The health of one replica, looked at before everything it does for others.
pub(crate) struct Health {
    group: GroupId,
    journal: Arc<Journal>,
    fatal: FatalHook,
    failure: OnceLock<Failure>,
    is_over: AtomicBool,
    is_stopping: AtomicBool,
    /// Rung once, when the replica has to end.
    pub(crate) ended: Notify,
}

impl Health {
    pub(crate) fn new(group: GroupId, journal: Arc<Journal>, fatal: FatalHook) -> Arc<Self> {
        Arc::new(Self {
            group,
            journal,
            fatal,
            failure: OnceLock::new(),
            is_over: AtomicBool::new(false),
            is_stopping: AtomicBool::new(false),
            ended: Notify::new(),
        })
    }

    /// Whether the replica may take part. Cost: one atomic load.
    pub(crate) fn is_good(&self) -> bool {
        !self.is_over.load(Ordering::Acquire)
    }

    /// Why it may not.
    pub(crate) fn failure(&self) -> Option<Failure> {
        self.failure.get().cloned()
    }

    /// What happens from now on was asked for.
    pub(crate) fn stopping(&self) {
        self.is_stopping.store(true, Ordering::Release);
    }

    /// Whether it is being stopped.
    pub(crate) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Acquire)
    }

    /// The disk can no longer be trusted: the process ends.
    pub(crate) fn untrustworthy_disk(&self, reason: &str) {
        self.fatal.call(reason);
    }

    /// Takes an error of the state machine: does what it asks for.
    pub(crate) fn judge(&self, error: &holdfast_kv::Error) {
        if error.is_fatal() {
            self.untrustworthy_disk(&format!("state machine: {error}"));
        } else if error.is_corruption() {
            self.damaged(format!("state machine: {error}"));
        }
    }

    /// Something of the replica is not what was written.
    pub(crate) fn damaged(&self, reason: String) {
        if !self.is_stopping() {
            self.journal.retire_group(self.group);
            self.end(Failure { reason, is_damage: true });
        }
    }

    /// The replica cannot go on, and nothing of it is damaged.
    pub(crate) fn failed(&self, reason: String) {
        if !self.is_stopping() {
            self.end(Failure { reason, is_damage: false });
        }
    }

    fn end(&self, failure: Failure) {
        if self.failure.set(failure.clone()).is_ok() {
            let GroupId { range, replica } = self.group;
            tracing::error!(%range, %replica, %failure, "replica takes no part any more");
            self.is_over.store(true, Ordering::Release);
            self.ended.notify_one();
        }
    }
}
