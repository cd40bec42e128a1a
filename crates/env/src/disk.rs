//! The door to files.
//!
//! The interface is as narrow as an engine needs: positioned reads and writes, explicit syncs of
//! data and of directory entries, preallocation, atomic rename, hard links. What is not synced is
//! not promised to survive.

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How [`Disk::open`] opens a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, for reading only.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// A new file, for reading and writing; fails with `AlreadyExists` if there is one.
    CreateNew,
    /// A file for reading and writing, created if missing, kept as it is if not.
    CreateOrOpen,
}

/// Space of the file system a directory lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// All of it, bytes.
    pub total_bytes: u64,
    /// What this process may still use, bytes.
    pub available_bytes: u64,
}

/// An exclusive lock on a file, held until dropped.
pub trait FileLock: Send + Sync + Debug {}

/// An open file. All methods take positions, so one handle serves many readers.
pub trait File: Send + Sync + Debug {
    /// Reads up to `buffer.len()` bytes at `offset`; 0 at or after the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Reads exactly `buffer.len()` bytes at `offset`, else fails with `UnexpectedEof`.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            let rest = buffer.get_mut(done..).unwrap_or_default();
            match self.read_at(rest, offset + done as u64) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Says that `length` bytes at `offset` will be read soon, so that they may be fetched while
    /// the caller does something else. Only advice: there is nothing to fail.
    fn will_read(&self, _offset: u64, _length: u64) {}

    /// Has the device begin with what was written there, so that a later sync finds little left to
    /// do. Only advice: nothing is durable afterwards, and there is nothing to fail.
    fn write_out(&self, _offset: u64, _length: u64) {}

    /// Writes all of `bytes` at `offset`, growing the file if needed.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Writes all slices one after another from `offset` on, in one system call where possible.
    fn write_all_vectored_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut at = offset;
        for slice in slices {
            self.write_all_at(slice, at)?;
            at += slice.len() as u64;
        }
        Ok(())
    }

    /// Makes the content (and the length) durable.
    fn sync_data(&self) -> io::Result<()>;

    /// Makes content and all metadata durable.
    fn sync_all(&self) -> io::Result<()>;

    /// Cuts or grows (with zeros) the file to `length` bytes.
    fn set_len(&self, length: u64) -> io::Result<()>;

    /// Reserves space for `[0, length)` and grows the file to `length`, reading as zeros.
    fn allocate(&self, length: u64) -> io::Result<()>;

    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no content.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// A file system.
pub trait Disk: Send + Sync + Debug {
    /// Opens the file at `path`.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;

    /// Creates the directory and its parents, mode 0700; nothing happens where they exist.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Atomically renames a file or directory, replacing a file of that name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives the file a second name.
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Deletes a file name.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Deletes a directory with everything in it.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Paths of what the directory holds, sorted by name.
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>>;

    /// Whether there is a file or directory of that name.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// Makes the entries of a directory (created, renamed, removed names) durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Space of the file system `path` lies on.
    fn space(&self, path: &Path) -> io::Result<DiskSpace>;

    /// Takes the exclusive lock on the file at `path`, creating it.
    ///
    /// # Errors
    /// `WouldBlock` if another process or handle holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn FileLock>>;

    /// Reads a whole small file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.open(path, OpenMode::Read)?;
        let mut bytes = vec![0; usize::try_from(file.len()?).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Replaces a small file durably: temporary name, sync, rename, sync of the directory.
    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let temporary = path.with_extension("tmp");
        let file = self.open(&temporary, OpenMode::CreateOrOpen)?;
        file.set_len(0)?;
        file.write_all_at(bytes, 0)?;
        file.sync_all()?;
        self.rename(&temporary, path)?;
        match path.parent() {
            Some(parent) => self.sync_dir(parent),
            None => Ok(()),
        }
    }
}
