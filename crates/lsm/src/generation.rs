//! One incarnation of the tree: a directory with its manifest and tables.
//!
//! A snapshot install puts another generation in place of this one; jobs that began under the old
//! one find it void when they want to commit.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_env::sync::{AtomicBool, AtomicU64, Mutex, Ordering};

use crate::graveyard::{Grave, Graveyard};
use crate::jobs::Split;
use crate::manifest::ManifestLog;

/// Name of the manifest in a generation's directory.
pub(crate) const MANIFEST_NAME: &str = "MANIFEST";
/// Name of the file that names the current generation, in the engine's directory.
pub(crate) const CURRENT_NAME: &str = "CURRENT";
const TABLE_SUFFIX: &str = ".tbl";
const BLOB_SUFFIX: &str = ".blob";
const GENERATION_PREFIX: &str = "gen-";

/// What running jobs have taken for themselves.
#[derive(Default)]
pub(crate) struct Claims {
    pub(crate) is_flushing: bool,
    /// Whether a compaction reads from level 0; only one may, or older data could pass newer.
    pub(crate) takes_level0: bool,
    pub(crate) tables: BTreeSet<u64>,
    /// Compactions that have begun and not ended.
    pub(crate) splits: Vec<Arc<Split>>,
    /// Version, watermark and epoch of the span at which there was nothing to compact. Whoever
    /// asks for jobs asks often, of hundreds of trees: the answer stays true until one of the
    /// three changes or a job gives its claims back.
    pub(crate) idle_at: Option<(u64, u64, u64)>,
}

impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claims").field("tables", &self.tables).finish_non_exhaustive()
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Generation {
    number: u64,
    dir: PathBuf,
    next_file: AtomicU64,
    /// Held while an edit is written, synced and installed: edits have one order.
    pub(crate) manifest: Mutex<ManifestLog>,
    pub(crate) claims: Mutex<Claims>,
    is_void: AtomicBool,
    graveyard: Arc<Graveyard>,
}

impl Generation {
    pub(crate) fn new(
        number: u64,
        dir: PathBuf,
        next_file: u64,
        manifest: ManifestLog,
        graveyard: Arc<Graveyard>,
    ) -> Self {
        Self {
            number,
            dir,
            next_file: AtomicU64::new(next_file),
            manifest: Mutex::new(manifest),
            claims: Mutex::default(),
            is_void: AtomicBool::new(false),
            graveyard,
        }
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A file number never used in this generation.
    pub(crate) fn take_file_number(&self) -> u64 {
        self.next_file.fetch_add(1, Ordering::Relaxed)
    }

    /// File numbers from here on are unused.
    pub(crate) fn next_file(&self) -> u64 {
        self.next_file.load(Ordering::Relaxed)
    }

    pub(crate) fn table_path(&self, number: u64) -> PathBuf {
        self.dir.join(table_name(number))
    }

    pub(crate) fn blob_path(&self, number: u64) -> PathBuf {
        self.dir.join(blob_name(number))
    }

    /// Ends the generation: its jobs are void, its directory goes with its last reader.
    pub(crate) fn end(&self) {
        self.is_void.store(true, Ordering::Release);
    }

    pub(crate) fn is_void(&self) -> bool {
        self.is_void.load(Ordering::Acquire)
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if self.is_void() {
            self.graveyard.bury(Grave::Directory(std::mem::take(&mut self.dir)));
        }
    }
}

/// File name of a table.
pub(crate) fn table_name(number: u64) -> String {
    format!("{number:010}{TABLE_SUFFIX}")
}

/// The number in a table's file name, if it is one.
pub(crate) fn table_number(name: &str) -> Option<u64> {
    name.strip_suffix(TABLE_SUFFIX)?.parse().ok()
}

/// File name of a blob file.
pub(crate) fn blob_name(number: u64) -> String {
    format!("{number:010}{BLOB_SUFFIX}")
}

/// The number in a blob file's name, if it is one.
pub(crate) fn blob_number(name: &str) -> Option<u64> {
    name.strip_suffix(BLOB_SUFFIX)?.parse().ok()
}

/// Directory name of a generation.
pub(crate) fn generation_name(number: u64) -> String {
    format!("{GENERATION_PREFIX}{number:010}")
}

/// Whether this is the name of a generation's directory.
pub(crate) fn is_generation_name(name: &str) -> bool {
    name.strip_prefix(GENERATION_PREFIX).is_some_and(|n| n.parse::<u64>().is_ok())
}
