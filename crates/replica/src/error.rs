//! What can go wrong, sorted by who has to act.

use std::time::Duration;

use holdfast_model::{LogIndex, NodeId, ReplicaId, Revision};

/// A replica could not be opened, or one of its administrative calls failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    // Caller: the request does not fit; nothing changed.
    /// An option is out of its bounds.
    #[error("option {option} is out of bounds: {reason}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// What is expected.
        reason: &'static str,
    },
    /// A peer's message names another cluster, range or replica, or cannot be understood.
    #[error("message is not for this replica: {0}")]
    Misdirected(&'static str),
    /// A peer's message cannot be decoded; the stream it came on is to be closed.
    #[error("malformed message: {0}")]
    Malformed(&'static str),
    /// The replica does not lead; ask `leader`.
    #[error("not the leader")]
    NotLeader {
        /// Who leads, as far as known.
        leader: Option<(ReplicaId, NodeId)>,
    },
    /// The operation did not come to an end in time; it may still happen.
    #[error("not done in time: {0}")]
    Timeout(&'static str),
    /// The membership is not the one the change was planned on, or another change is under way.
    #[error("membership change refused: {0}")]
    Membership(String),

    // Environment.
    /// The journal failed.
    #[error("journal: {0}")]
    Journal(#[source] holdfast_journal::Error),
    /// The engine failed.
    #[error("engine: {0}")]
    Engine(#[source] holdfast_lsm::Error),
    /// The state machine failed; the replica stops.
    #[error("state machine: {0}")]
    Machine(#[source] holdfast_kv::Error),
    /// The replica has stopped, or is stopping.
    #[error("replica has stopped: {0}")]
    Stopped(String),

    // Corruption: the replica must be replaced.
    /// Something of this replica in the journal or engine is not what was written.
    #[error("corrupt {what}")]
    Corrupt {
        /// What.
        what: &'static str,
    },
}

/// Results of administrative calls.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a command was not carried out, or is not known to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Not appended here; safe to send to `leader`, or to look for it.
    #[error("not the leader")]
    NotLeader {
        /// Who leads, as far as known; none also while this leader's lease has run out.
        leader: Option<(ReplicaId, NodeId)>,
    },
    /// Not appended: the bytes under way have reached their bound.
    #[error("overloaded: {budget} is used up; retry after {retry_after:?}")]
    Overloaded {
        /// Which budget.
        budget: &'static str,
        /// When to try again.
        retry_after: Duration,
    },
    /// Not appended: the disk or the journal's budget is nearly full.
    #[error("disk is full; only deletes are taken")]
    DiskFull,
    /// Not appended: the deadline passed first.
    #[error("deadline passed before the command was proposed")]
    Deadline,
    /// The command may or may not have been, or still be, carried out. Retry only in a session.
    #[error("outcome unknown: {0}")]
    Unknown(&'static str),
    /// Not appended: the replica is stopping or has stopped.
    #[error("replica has stopped")]
    Stopped,
}

impl ProposeError {
    /// Whether this attempt certainly changed nothing, so that it may be sent elsewhere.
    pub fn is_definite(&self) -> bool {
        !matches!(self, Self::Unknown(_))
    }
}

/// Why a read could not be answered. Reads change nothing: all of these may be tried again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The level needs the leader.
    #[error("not the leader")]
    NotLeader {
        /// Who leads, as far as known.
        leader: Option<(ReplicaId, NodeId)>,
    },
    /// No quorum confirmed the read in time.
    #[error("no quorum: {0}")]
    NoQuorum(String),
    /// The staleness this replica can prove is larger than the request allows.
    #[error("too stale: the proven bound is {bound:?}")]
    TooStale {
        /// The bound that can be proven; none where nothing can.
        bound: Option<Duration>,
    },
    /// The replica has not reached the read point the request names.
    #[error("behind: applied revision {revision} at index {index}")]
    Behind {
        /// The revision it has reached.
        revision: Revision,
        /// The log index it has reached.
        index: LogIndex,
    },
    /// The deadline passed first.
    #[error("deadline passed")]
    Deadline,
    /// The bound on waiting reads of this range is reached.
    #[error("overloaded: too many reads wait")]
    Overloaded,
    /// The replica is stopping or has stopped.
    #[error("replica has stopped")]
    Stopped,
}

/// Why a watch could not begin or go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// Revisions from the one asked for on are gone; `oldest` is the first that can be watched.
    #[error("revision is compacted, the oldest that can be watched is {oldest}")]
    Compacted {
        /// The oldest revision a watch may begin with.
        oldest: Revision,
    },
    /// The range has as many watches as it may have.
    #[error("the range has {limit} watches")]
    TooMany {
        /// The bound.
        limit: usize,
    },
    /// The history could not be read; the watch is over. Resume at `resume`.
    #[error("history cannot be read")]
    Failed {
        /// First revision that was not delivered.
        resume: Revision,
    },
    /// The replica is stopping or has stopped; resume elsewhere.
    #[error("replica has stopped")]
    Stopped,
}
