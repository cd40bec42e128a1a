//! What can go wrong in the journal, sorted by who has to act.

use std::io;
use std::path::PathBuf;

use crate::group::GroupId;

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a journal operation failed.
///
/// *Caller* errors changed nothing and say what to do differently. *Environment* errors come from
/// the disk: [`Error::is_fatal`] tells which of them must end the process. *Corruption* errors
/// concern bytes that were durable once: the replica they belong to is retired.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    // Caller.
    /// The group was never created here, or was destroyed.
    #[error("{0} has no log in this journal")]
    UnknownGroup(GroupId),
    /// The group exists already.
    #[error("{0} has a log in this journal already")]
    GroupExists(GroupId),
    /// More groups than one list of groups may hold in a segment of this size.
    #[error("the journal holds its maximum of {maximum} groups")]
    TooManyGroups {
        /// Groups a journal with these options may hold.
        maximum: usize,
    },
    /// An entry, vote or descriptor is larger than allowed.
    #[error("{what} of {bytes} bytes is larger than {maximum} bytes")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size, bytes.
        bytes: usize,
        /// The limit, bytes.
        maximum: usize,
    },
    /// Appended entries do not continue the group's log.
    #[error("{group} continues at index {expected}, not at {found}")]
    NotContiguous {
        /// The group.
        group: GroupId,
        /// The index that would have continued the log.
        expected: u64,
        /// The index that was given.
        found: u64,
    },
    /// The start of the range asked for was purged.
    #[error("{group} holds nothing below index {first}")]
    Purged {
        /// The group.
        group: GroupId,
        /// The first index it still holds, or would hold next.
        first: u64,
    },
    /// Options contradict each other.
    #[error("journal option {option}: {reason}")]
    Options {
        /// Name of the option.
        option: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },

    // Environment.
    /// No room for entries: nothing was queued. Purge or wait for the writer, then retry.
    #[error("the journal has no room for {bytes} more bytes of entries")]
    Full {
        /// What was to be appended, bytes.
        bytes: u64,
    },
    /// A file operation failed.
    #[error("{operation} {}: {source}", path.display())]
    Io {
        /// What was being done.
        operation: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// An earlier write or sync failed; nothing is accepted any more.
    #[error("the journal failed earlier: {0}")]
    Poisoned(String),

    // Corruption.
    /// Records of the group were lost or damaged; it may only be destroyed.
    #[error("the log of {0} is damaged; retire the replica")]
    GroupHit(GroupId),
    /// Durable bytes are not what was written.
    #[error("{} is damaged at offset {offset}: {what}", path.display())]
    Corrupt {
        /// The segment.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What was expected.
        what: &'static str,
    },
}

impl Error {
    /// Whether the process must end: after a failed write or sync nobody knows what is on disk,
    /// and trying again would only pretend to know.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::Poisoned(_))
    }

    /// Whether durable data was found damaged.
    pub fn is_corruption(&self) -> bool {
        matches!(self, Self::GroupHit(_) | Self::Corrupt { .. })
    }

    /// Whether the disk or the journal's limit has no room; true errors of this kind pass when
    /// space returns.
    pub fn is_space(&self) -> bool {
        match self {
            Self::Full { .. } => true,
            Self::Io { source, .. } => is_space(source),
            _ => false,
        }
    }
}

/// Whether the file system says that there is no room.
pub(crate) fn is_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Names the file and the operation of an I/O error.
pub(crate) trait At<T> {
    /// Wraps the error.
    fn at(self, operation: &'static str, path: &std::path::Path) -> Result<T>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, operation: &'static str, path: &std::path::Path) -> Result<T> {
        self.map_err(|source| Error::Io { operation, path: path.to_path_buf(), source })
    }
}
