//! What all engines of a node share: memory budget, block cache, open files, counters.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Options of [`Shared`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedOptions {
    /// Size of the block cache, bytes.
    pub cache_bytes: u64,
    /// Most table files held open.
    pub open_files_max: usize,
    /// Memory all memtables of the node should stay under, bytes.
    pub memtable_budget_bytes: u64,
}

impl Default for SharedOptions {
    fn default() -> Self {
        Self { cache_bytes: 256 << 20, open_files_max: 1_000, memtable_budget_bytes: 512 << 20 }
    }
}

impl SharedOptions {
    /// Checks every option against its bounds.
    ///
    /// # Errors
    /// [`Error::Option`] names the first one that is out of its bounds.
    pub fn validate(&self) -> Result<()> {
        let checks = [
            (self.open_files_max >= 8, "open_files_max", "at least 8"),
            (self.memtable_budget_bytes >= 64 << 10, "memtable_budget_bytes", "at least 64 KiB"),
        ];
        for (holds, option, reason) in checks {
            if !holds {
                return Err(Error::Option { option, reason });
            }
        }
        Ok(())
    }
}

/// One per node, handed to every engine.
pub struct Shared {
    options: SharedOptions,
    memtable_bytes: AtomicU64,
}

impl Shared {
    /// Creates the shared parts.
    ///
    /// # Errors
    /// [`Error::Option`] if an option is out of its bounds.
    pub fn new(options: SharedOptions) -> Result<Self> {
        options.validate()?;
        Ok(Self { options, memtable_bytes: AtomicU64::new(0) })
    }

    /// Memory all memtables hold now, bytes; sealed ones count until they are flushed and unread.
    pub fn memtable_bytes(&self) -> u64 {
        self.memtable_bytes.load(Ordering::Relaxed)
    }

    /// Whether some engine should be sealed: the one that pins the oldest journal segment first.
    pub fn is_over_memtable_budget(&self) -> bool {
        self.memtable_bytes() > self.options.memtable_budget_bytes
    }

    pub(crate) fn memtable_grew(&self, bytes: u64) {
        self.memtable_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn memtable_freed(&self, bytes: u64) {
        self.memtable_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}
