//! Files and directories nobody refers to any more, and cached blocks of such, waiting for a job
//! to be rid of them.
//!
//! The last reader of an old version may be anyone, also a request thread that must not wait for
//! an unlink of a large file; it only leaves the name here.

use std::io;
use std::path::PathBuf;

use holdfast_env::Disk;
use holdfast_env::sync::Mutex;

use crate::error::{Error, Result};
use crate::shared::Shared;
use crate::table::Leftover;

/// What is to go.
#[derive(Debug)]
pub(crate) enum Grave {
    File(PathBuf),
    Directory(PathBuf),
    /// What the block cache still holds of a table.
    Cached(Leftover),
}

impl Grave {
    /// Deletes it; it is fine if somebody else already has.
    pub(crate) fn clear(&self, disk: &dyn Disk, shared: &Shared) -> Result<()> {
        let (path, outcome) = match self {
            Self::Cached(leftover) => {
                leftover.uncache(shared);
                return Ok(());
            }
            Self::File(path) => (path, disk.remove_file(path)),
            Self::Directory(path) => (path, disk.remove_dir_all(path)),
        };
        match outcome {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(Error::unreferenced("delete", path, e))
            }
            _ => Ok(()),
        }
    }
}

/// What was left behind.
#[derive(Debug, Default)]
pub(crate) struct Graveyard {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    graves: Vec<Grave>,
    filter_checks: u64,
    filter_useful: u64,
}

impl Graveyard {
    /// Leaves something to be deleted. At most two per table or generation the engine ever had.
    pub(crate) fn bury(&self, grave: Grave) {
        self.inner.lock().graves.push(grave);
    }

    /// Keeps the filter counters of a table that goes.
    pub(crate) fn bury_counts(&self, checks: u64, useful: u64) {
        let mut inner = self.inner.lock();
        inner.filter_checks += checks;
        inner.filter_useful += useful;
    }

    /// Filter counters of the tables that are gone.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let inner = self.inner.lock();
        (inner.filter_checks, inner.filter_useful)
    }

    /// Everything left so far.
    pub(crate) fn take(&self) -> Vec<Grave> {
        std::mem::take(&mut self.inner.lock().graves)
    }
}
