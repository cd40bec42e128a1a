//! What can go wrong, sorted by whose fault it is.

use std::io;
use std::path::{Path, PathBuf};

/// An error of the engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    // Caller: the request does not fit the state; nothing changed.
    /// The revision asked for may have lost versions; nothing older than `floor` can be read.
    /// A read of the current state starts again with a fresh read point.
    #[error("revision is compacted: nothing below {floor} can be read")]
    Compacted {
        /// The oldest revision that can be read.
        floor: u64,
    },
    /// The journal is not yet durable up to the gate of what should become durable. Wait, retry.
    #[error("journal is durable to {durable}, the change needs {gate}")]
    NotDurable {
        /// The position the journal must reach.
        gate: u64,
        /// The position it has reached.
        durable: u64,
    },
    /// The engine was destroyed, or the job belongs to a generation that was replaced.
    #[error("engine generation is void")]
    Void,
    /// An option is out of its bounds.
    #[error("option {option} is out of bounds: {reason}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// What is expected.
        reason: &'static str,
    },
    /// A file of a snapshot is unknown, or a chunk does not fit it.
    #[error("snapshot has no such chunk: {what}")]
    Chunk {
        /// What was asked for.
        what: String,
    },

    // Environment: the machine refused.
    /// The disk is full. What was being written is deleted, what was in memory stays there.
    #[error("no space for {path}: {source}")]
    NoSpace {
        /// The file that could not grow.
        path: PathBuf,
        /// The system's own words.
        source: io::Error,
    },
    /// A file operation failed.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Whether the process must stop: durability is unknown from here on.
        fatal: bool,
        /// The system's own words.
        source: io::Error,
    },
    /// What an open found could not be made durable: nothing may rest on it. Open again, after a
    /// restart of the process.
    #[error("what was found in {path} cannot be made durable: {source}")]
    Unsynced {
        /// The file, or the directory.
        path: PathBuf,
        /// The system's own words.
        source: io::Error,
    },
    /// An earlier fatal error left the manifest in an unknown state; nothing more is written.
    #[error("manifest is in an unknown state after an earlier failure")]
    Poisoned,

    // Corruption: what is on the disk is not what was written.
    /// A checksum, length or structure is wrong; the replica must be replaced.
    #[error("corrupt {path} at byte {offset}: {what}")]
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// Where in the file.
        offset: u64,
        /// What was found.
        what: &'static str,
    },
}

impl Error {
    /// Whether the process must stop: a sync that counts failed, or the device did (fsyncgate).
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Io { fatal: true, .. } | Self::Unsynced { .. } | Self::Poisoned)
    }

    /// Whether the disk content is damaged: this replica is retired and replaced.
    pub fn is_corruption(&self) -> bool {
        matches!(self, Self::Corrupt { .. })
    }

    /// Whether the disk is full: the operation may be tried again when there is space.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::NoSpace { .. })
    }

    pub(crate) fn corrupt(path: &Path, offset: u64, what: &'static str) -> Self {
        Self::Corrupt { path: path.to_path_buf(), offset, what }
    }

    /// A failure while files nobody refers to yet are written: fatal only if the device failed.
    pub(crate) fn unreferenced(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::sorted(action, path, source, false)
    }

    /// A failure of a write or sync that the durable state depends on: fatal.
    pub(crate) fn durable(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::sorted(action, path, source, true)
    }

    fn sorted(action: &'static str, path: &Path, source: io::Error, fatal: bool) -> Self {
        let path = path.to_path_buf();
        if !fatal && is_full(&source) {
            return Self::NoSpace { path, source };
        }
        let fatal = fatal || is_device_failure(&source);
        Self::Io { action, path, fatal, source }
    }
}

/// ENOSPC or EDQUOT.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// EIO, which has no `ErrorKind` of its own.
fn is_device_failure(error: &io::Error) -> bool {
    const EIO: i32 = 5;
    error.raw_os_error() == Some(EIO)
}

/// The engine's results.
pub type Result<T> = std::result::Result<T, Error>;
