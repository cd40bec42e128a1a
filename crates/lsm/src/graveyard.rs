//! Files and directories nobody refers to any more, cached blocks of such, and memtables that were
//! flushed, waiting for a job to be rid of them.
//!
//! The last reader of an old version may be anyone, also a request thread that must not wait for
//! an unlink of a large file; it only leaves the name here. Nor for a memtable of a million records
//! to be taken apart: that is held here until nobody else holds it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use holdfast_env::Disk;
use holdfast_env::sync::Mutex;

use crate::error::{Error, Result};
use crate::memtable::Memtable;
use crate::shared::Shared;
use crate::table::Leftover;

/// What is to go.
#[derive(Debug)]
pub(crate) enum Grave {
    File(PathBuf),
    Directory(PathBuf),
    /// What the block cache still holds of a table.
    Cached(Leftover),
    /// Goes with its grave.
    Memtable(#[allow(dead_code, reason = "held to be dropped")] Arc<Memtable>),
}

impl Grave {
    /// Deletes it; it is fine if somebody else already has.
    pub(crate) fn clear(&self, disk: &dyn Disk, shared: &Shared) -> Result<()> {
        let (path, outcome) = match self {
            Self::Cached(leftover) => {
                leftover.uncache(shared);
                return Ok(());
            }
            Self::Memtable(_) => return Ok(()),
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
    /// Flushed, and maybe still read: about as many as there are readers at most.
    retired: Vec<Arc<Memtable>>,
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

    /// Holds a memtable that new readers do not find any more until the others are done with it;
    /// where there are none the caller is the one to free it.
    pub(crate) fn retire(&self, memtable: &Arc<Memtable>) {
        if Arc::strong_count(memtable) > 1 {
            self.inner.lock().retired.push(memtable.clone());
        }
    }

    /// Everything left so far, but for memtables that are still read.
    pub(crate) fn take(&self) -> Vec<Grave> {
        let mut inner = self.inner.lock();
        let mut graves = std::mem::take(&mut inner.graves);
        // Who alone holds one stays alone: nobody finds it any more.
        let unread = inner.retired.extract_if(.., |memtable| Arc::strong_count(memtable) == 1);
        graves.extend(unread.map(Grave::Memtable));
        graves
    }
}
