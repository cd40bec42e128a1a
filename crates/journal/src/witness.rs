//! The witness: a small file that says what else of the journal has to be there.
//!
//! Owns: the layout below, the file.
//! Must never know: groups, batches.
//! Invariants:
//! * What it says was durable before it says so.
//! * While one of its slots is written the other one is whole.
//!
//! Segments vouch for each other as long as a later one is there. That the newest one is gone or
//! is as it was some time ago, and that the last batch and the mark that covers it are damaged
//! together, only another file can tell. That the oldest one is gone and was not freed, the
//! batches tell as well: so that no single fault makes a freed segment look like a lost one, it
//! is freed after a batch *and* the witness said durably that it is not needed (or both slots of
//! the witness, until there is a batch).
//!
//! It is written after the first sync in a segment and before that is acknowledged, after every
//! mark that ends a burst, before a segment is freed, and once in [`WITNESS_PERIOD`] while writing
//! never pauses. Without a whole slot nothing is missed: it is made again.
//!
//! ```text
//! offset bytes field
//!      0     8 magic     "HFWITNES"
//!      8     4 version   1
//!     12     4 zero
//!     16     8 journal   random id of the journal, as in its segments
//!     24     8 count     of the times it was written; even ones lie here, odd ones in the other
//!     32     8 oldest    sequence number of the oldest segment that is needed
//!     40     8 newest    of the newest segment that holds a durable batch
//!     48     8 records   below this sequence number were durable
//!     56     8 checksum  xxh3-64 of bytes 0..56, seeded with the offset of the slot
//!   4096       the other slot
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use holdfast_env::{Disk, File, OpenMode};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::batch::BLOCK_BYTES;
use crate::bytes_at::{u32_at, u64_at};
use crate::error::{At, Error, Result};

/// How old the witness becomes at most while writing never pauses.
pub(crate) const WITNESS_PERIOD: Duration = Duration::from_secs(1);
const NAME: &str = "witness";
const SLOTS: u64 = 2;
const FILE_BYTES: u64 = SLOTS * BLOCK_BYTES;
const SLOT_BYTES: usize = 64;
const CHECKED_BYTES: usize = 56;
const MAGIC: u64 = u64::from_le_bytes(*b"HFWITNES");
const VERSION: u32 = 1;

/// What the witness says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Testimony {
    /// Random id of the journal.
    pub journal: u64,
    /// How often it was written.
    pub count: u64,
    /// Sequence number of the oldest segment that is needed.
    pub oldest: u32,
    /// Sequence number of the newest segment that holds a durable batch.
    pub newest: u32,
    /// Records below this sequence number were durable.
    pub records: u64,
}

impl Testimony {
    /// Reads the newest whole slot. `None` if there is no file or nothing whole in it.
    ///
    /// # Errors
    /// [`Error::Io`] if the file is there and cannot be opened.
    pub(crate) fn read(disk: &dyn Disk, directory: &Path) -> Result<Option<Self>> {
        let path = path(directory);
        let file = match disk.open(&path, OpenMode::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.at("open", &path)?,
        };
        let slot = |slot| {
            let offset = slot * BLOCK_BYTES;
            let mut bytes = [0; SLOT_BYTES];
            file.read_exact_at(&mut bytes, offset).ok()?;
            Self::parse(&bytes, offset)
        };
        Ok((0..SLOTS).filter_map(slot).max_by_key(|testimony| testimony.count))
    }

    /// What lies at the start of a slot.
    pub(crate) fn encode(&self, offset: u64) -> Vec<u8> {
        let words = [
            MAGIC,
            u64::from(VERSION),
            self.journal,
            self.count,
            u64::from(self.oldest),
            u64::from(self.newest),
            self.records,
        ];
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.extend_from_slice(&xxh3_64_with_seed(&bytes, offset).to_le_bytes());
        bytes
    }

    /// Reads and checks the slot at `offset`.
    pub(crate) fn parse(bytes: &[u8], offset: u64) -> Option<Self> {
        let checked = bytes.get(..CHECKED_BYTES)?;
        let whole = u64_at(bytes, 0)? == MAGIC
            && u32_at(bytes, 8)? == VERSION
            && u64_at(bytes, CHECKED_BYTES)? == xxh3_64_with_seed(checked, offset);
        if !whole {
            return None;
        }
        Some(Self {
            journal: u64_at(bytes, 16)?,
            count: u64_at(bytes, 24)?,
            oldest: u32::try_from(u64_at(bytes, 32)?).ok()?,
            newest: u32::try_from(u64_at(bytes, 40)?).ok()?,
            records: u64_at(bytes, 48)?,
        })
    }

    /// Fails if the witness speaks of another journal than `journal`.
    pub(crate) fn check_journal(&self, directory: &Path, journal: u64) -> Result<()> {
        if self.journal == journal {
            return Ok(());
        }
        let what = "a witness of the same journal as the segments";
        Err(Error::Corrupt { path: path(directory), offset: 0, what })
    }
}

/// The witness of an open journal.
#[derive(Debug)]
pub(crate) struct Witness {
    path: PathBuf,
    file: Arc<dyn File>,
    last: Testimony,
}

impl Witness {
    /// Opens the file, making it durably if it is not there or too short. `last` is what it said.
    pub(crate) fn open(disk: &dyn Disk, directory: &Path, last: Testimony) -> Result<Self> {
        let path = path(directory);
        let file = disk.open(&path, OpenMode::CreateOrOpen).at("open", &path)?;
        let bytes = file.len().at("measure", &path)?;
        if bytes < FILE_BYTES {
            let zeros = vec![0; usize::try_from(FILE_BYTES - bytes).expect("two blocks are small")];
            file.write_all_at(&zeros, bytes).at("write", &path)?;
            file.sync_all().at("sync", &path)?;
        }
        disk.sync_dir(directory).at("sync directory", directory)?;
        Ok(Self { path, file, last })
    }

    /// What it says.
    pub(crate) fn last(&self) -> &Testimony {
        &self.last
    }

    /// Says something else, durably. A whole block is written: into a part of one the kernel
    /// can only write after it has read the rest.
    pub(crate) fn say(&mut self, oldest: u32, newest: u32, records: u64) -> Result<()> {
        let count = self.last.count.wrapping_add(1);
        let next = Testimony { count, oldest, newest, records, ..self.last };
        let offset = count % SLOTS * BLOCK_BYTES;
        let mut block = next.encode(offset);
        block.resize(BLOCK_BYTES as usize, 0);
        self.file.write_all_at(&block, offset).at("write", &self.path)?;
        self.file.sync_data().at("sync", &self.path)?;
        self.last = next;
        Ok(())
    }
}

fn path(directory: &Path) -> PathBuf {
    directory.join(NAME)
}
