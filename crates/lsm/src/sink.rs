//! Writing a file nobody refers to yet, front to back.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_env::{Disk, File, OpenMode};

use crate::checksum::{BirthId, Whole};
use crate::error::{Error, Result};
use crate::options::Compression;
use crate::shared::Shared;
use crate::table::{FileDescriptor, Handle, store_block};

/// Bytes collected before they are written, and the most that the device gets at a time: a sync of
/// the journal waits for that.
const WRITE_BYTES: usize = 256 << 10;
/// Space is reserved in steps of this size, so that a full disk is met here and not at the sync.
const RESERVE_BYTES: u64 = 8 << 20;

/// A file being written.
pub(crate) struct Sink {
    file: Arc<dyn File>,
    path: PathBuf,
    descriptor: FileDescriptor,
    whole: Whole,
    pending: Vec<u8>,
    written: u64,
    reserved: u64,
    pace: Pace,
}

/// Whose budget a file is written on.
#[derive(Clone)]
pub(crate) struct Pace {
    pub(crate) shared: Arc<Shared>,
    /// Whether the writer can wait for its bytes.
    pub(crate) can_wait: bool,
}

impl Sink {
    /// Creates the file; nobody refers to it before its descriptor is in a manifest.
    pub(crate) fn create(
        disk: &dyn Disk,
        path: &Path,
        number: u64,
        birth: BirthId,
        pace: Pace,
    ) -> Result<Self> {
        let file = disk
            .open(path, OpenMode::CreateNew)
            .map_err(|e| Error::unreferenced("create", path, e))?;
        Ok(Self {
            file,
            path: path.to_path_buf(),
            descriptor: FileDescriptor { number, bytes: 0, birth, checksum: 0 },
            whole: Whole::new(birth),
            pending: Vec::new(),
            written: 0,
            reserved: 0,
            pace,
        })
    }

    pub(crate) fn birth(&self) -> BirthId {
        self.descriptor.birth
    }

    pub(crate) fn number(&self) -> u64 {
        self.descriptor.number
    }

    /// Where the next byte goes.
    pub(crate) fn position(&self) -> u64 {
        self.written + self.pending.len() as u64
    }

    /// Appends plain bytes; call [`Sink::write_if_full`] now and then.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// Appends `content` as a block with its trailer.
    pub(crate) fn append_block(&mut self, content: &[u8], compression: Compression) -> Handle {
        let (birth, offset) = (self.birth(), self.position());
        store_block(content, compression, birth, offset, &mut self.pending)
    }

    /// Writes what was collected, if it is much.
    pub(crate) fn write_if_full(&mut self) -> Result<()> {
        if self.pending.len() >= WRITE_BYTES { self.write(false) } else { Ok(()) }
    }

    fn write(&mut self, is_last: bool) -> Result<()> {
        let end = self.position();
        self.pace.shared.take_io(self.pending.len() as u64, self.pace.can_wait);
        if end > self.reserved {
            self.reserved = if is_last { end } else { end.next_multiple_of(RESERVE_BYTES) };
            self.file
                .allocate(self.reserved)
                .map_err(|e| Error::unreferenced("reserve", &self.path, e))?;
        }
        self.file
            .write_all_at(&self.pending, self.written)
            .map_err(|e| Error::unreferenced("write", &self.path, e))?;
        self.file.write_out(self.written, self.pending.len() as u64);
        self.whole.update(&self.pending);
        self.written = end;
        self.pending.clear();
        Ok(())
    }

    /// Writes what is left and makes the file durable (its directory entry is the caller's).
    pub(crate) fn finish(mut self) -> Result<FileDescriptor> {
        self.write(true)?;
        self.file
            .set_len(self.written)
            .and_then(|()| self.file.sync_all())
            .map_err(|e| Error::unreferenced("sync", &self.path, e))?;
        let (bytes, checksum) = (self.written, self.whole.digest());
        Ok(FileDescriptor { bytes, checksum, ..self.descriptor })
    }
}
