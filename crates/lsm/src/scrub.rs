//! Reading again, slowly, what nobody may have read for years.
//!
//! A damaged block of cold data is found when it is needed, on the day the other replicas are
//! damaged, too. So every file is read from end to end now and then and compared with the checksum
//! the manifest has of it. The caller gives the pace: one step reads as much as it is told to.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::checksum::Whole;
use crate::error::{Error, Result};
use crate::generation::Generation;
use crate::snapshot::Held;
use crate::stats::Counters;
use crate::tree::Tree;

/// Bytes read at once.
const READ_BYTES: u64 = 256 << 10;

/// Goes round and round over the files of one engine.
pub struct Scrubber {
    tree: Arc<Tree>,
    /// Files up to this number were read in this round.
    done: u64,
    current: Option<Reading>,
    buffer: Vec<u8>,
}

/// What one step has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Bytes read.
    pub bytes: u64,
    /// Files that were read to their end, and found as they were written.
    pub files: u64,
    /// Whether all files of the engine have been read since the last round ended.
    pub is_round_done: bool,
}

/// A file that is being read; it stays in place meanwhile.
struct Reading {
    file: Held,
    /// Keeps the directory in place, too.
    _generation: Arc<Generation>,
    whole: Whole,
    offset: u64,
}

impl fmt::Debug for Scrubber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scrubber").field("done", &self.done).finish_non_exhaustive()
    }
}

impl Scrubber {
    pub(crate) fn new(tree: Arc<Tree>) -> Self {
        Self { tree, done: 0, current: None, buffer: Vec::new() }
    }

    /// Reads about `bytes_max` bytes more, or up to the end of the round. Waits for the disk; the
    /// cache is neither used nor filled.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if a file is not what was written: the replica must be replaced. The
    /// next step begins with the file behind it. [`Error::Void`] if the engine was destroyed.
    /// Environment errors: the same file is tried again.
    pub fn step(&mut self, bytes_max: u64) -> Result<Scrubbed> {
        let mut scrubbed = Scrubbed::default();
        while scrubbed.bytes < bytes_max {
            let Some(mut reading) = self.current.take().or_else(|| self.next_file()) else {
                self.done = 0;
                scrubbed.is_round_done = true;
                Counters::add(&self.tree.counters.scrub_rounds, 1);
                break;
            };
            let bytes = match reading.advance(&mut self.buffer, bytes_max - scrubbed.bytes) {
                Err(_) if self.tree.is_destroyed.load(Ordering::Relaxed) => {
                    return Err(Error::Void);
                }
                outcome => outcome?,
            };
            scrubbed.bytes += bytes;
            Counters::add(&self.tree.counters.scrubbed_bytes, bytes);
            if reading.offset < reading.file.descriptor().bytes {
                self.current = Some(reading);
                continue;
            }
            self.done = reading.file.descriptor().number;
            reading.compare()?;
            scrubbed.files += 1;
        }
        Ok(scrubbed)
    }

    /// The next file of the version as it is now.
    fn next_file(&self) -> Option<Reading> {
        let version = self.tree.state.load().version.clone();
        let next = Held::all(&version)
            .into_iter()
            .filter(|held| held.descriptor().number > self.done)
            .min_by_key(|held| held.descriptor().number)?;
        let whole = Whole::new(next.descriptor().birth);
        let _generation = version.generation.clone();
        Some(Reading { file: next, _generation, whole, offset: 0 })
    }
}

impl Reading {
    /// Reads on; returns how much was read.
    fn advance(&mut self, buffer: &mut Vec<u8>, bytes_max: u64) -> Result<u64> {
        let left = self.file.descriptor().bytes - self.offset;
        let bytes = left.min(READ_BYTES).min(bytes_max);
        buffer.resize(usize::try_from(bytes).unwrap_or(0), 0);
        self.file.read_raw(self.offset, buffer)?;
        self.whole.update(buffer);
        self.offset += bytes;
        Ok(bytes)
    }

    fn compare(self) -> Result<()> {
        if self.whole.digest() == self.file.descriptor().checksum {
            return Ok(());
        }
        Err(Error::corrupt(self.file.path(), 0, "file checksum"))
    }
}
