//! What can go wrong, sorted by who has to act.

use holdfast_model::{LogIndex, RangeEpoch, Revision};

/// An error of the state machine or its reader.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    // The caller asked for something it cannot have; nothing is broken.
    /// The revision was given up; read at `oldest` or later.
    #[error("revision is compacted, the oldest readable one is {oldest}")]
    Compacted {
        /// The oldest readable revision.
        oldest: Revision,
    },
    /// The revision or read point has not been reached here; wait for it or ask another replica.
    #[error("revision lies in the future, the newest one is {newest}")]
    Future {
        /// The newest revision.
        newest: Revision,
    },
    /// The key is not in the range's span; look it up again.
    #[error("key is not in this range at epoch {epoch}")]
    WrongSpan {
        /// The range's epoch; 0 where it was never configured.
        epoch: RangeEpoch,
    },
    /// The state moved on while all of it was read; ask again.
    #[error("the state changed while it was read")]
    Unsettled,
    /// An entry does not continue the log; a defect of the caller.
    #[error("entry {given} applied where {expected} was due")]
    OutOfOrder {
        /// The index that continues the log.
        expected: LogIndex,
        /// The index that was given.
        given: LogIndex,
    },

    // The environment failed; the replica stops.
    /// The engine failed.
    #[error("engine: {0}")]
    Engine(#[source] holdfast_lsm::Error),
    /// An earlier `apply` failed half-way; open the state machine again.
    #[error("an earlier apply failed; the state machine must be opened again")]
    Poisoned,

    // The log or the state is not what this build can understand; the replica stops.
    /// An entry of an apply behaviour this build does not know; upgrade it.
    #[error("entry needs apply version {needed}, this build knows {known}")]
    UnknownVersion {
        /// What the entry needs.
        needed: u32,
        /// What this build knows.
        known: u32,
    },
    /// An entry holds an operation this build does not know; upgrade it.
    #[error("entry {index} holds an operation this build does not know")]
    UnknownOperation {
        /// The entry.
        index: LogIndex,
    },
    /// An entry's payload cannot be decoded.
    #[error("entry {index} cannot be decoded: {source}")]
    MalformedEntry {
        /// The entry.
        index: LogIndex,
        /// Why.
        #[source]
        source: prost::DecodeError,
    },
    /// A record of the engine is not what was written.
    #[error("malformed record in family {family}: {what}")]
    MalformedRecord {
        /// The family.
        family: &'static str,
        /// What is wrong.
        what: &'static str,
    },
}

impl Error {
    /// Whether every replica fails alike in the same state: answer the client. Otherwise the
    /// replica stops, since it may differ from the others.
    pub fn is_deterministic(&self) -> bool {
        matches!(self, Self::Compacted { .. } | Self::Future { .. } | Self::WrongSpan { .. })
    }

    /// Whether something of this replica is not what was written: it must be replaced.
    pub fn is_corruption(&self) -> bool {
        match self {
            Self::Engine(error) => error.is_corruption(),
            Self::MalformedRecord { .. } => true,
            _ => false,
        }
    }

    /// Whether the process must stop, since the disk can no longer be trusted.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Engine(error) if error.is_fatal())
    }
}

impl From<holdfast_lsm::Error> for Error {
    fn from(error: holdfast_lsm::Error) -> Self {
        match error {
            holdfast_lsm::Error::Compacted { floor } => Self::Compacted { oldest: Revision(floor) },
            other => Self::Engine(other),
        }
    }
}
