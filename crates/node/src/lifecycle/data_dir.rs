//! The data directory as a whole: one process at a time, one format.

use std::io;
use std::path::{Path, PathBuf};

use holdfast_env::{Disk, FileLock, OpenMode};

use crate::system::FORMAT_VERSION;

/// First words of the `VERSION` file; the number of the format follows.
const VERSION_PREFIX: &str = "holdfast data format ";

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process has it.
    #[error("{0} is in use by another process")]
    InUse(PathBuf),
    /// Written by a newer version of the program.
    #[error("{dir} has data format {found}; this program reads up to {FORMAT_VERSION}")]
    Newer {
        /// The directory.
        dir: PathBuf,
        /// The format found.
        found: u32,
    },
    /// There is something, but not a data directory.
    #[error("{0} is not a data directory of holdfastd: {1}")]
    Foreign(PathBuf, &'static str),
    /// The disk refused.
    #[error("{0}: {1}")]
    Io(PathBuf, #[source] io::Error),
}

/// A data directory held by this process until dropped.
#[derive(Debug)]
pub struct DataDir {
    _lock: Box<dyn FileLock>,
}

impl DataDir {
    /// Creates or opens `dir` (mode 0700), takes its lock and checks its format.
    ///
    /// # Errors
    /// [`DataDirError`]: nothing in the directory was touched.
    pub fn open(disk: &dyn Disk, dir: &Path) -> Result<Self, DataDirError> {
        let io = |e| DataDirError::Io(dir.to_owned(), e);
        create_durably(disk, dir).map_err(io)?;
        let lock = disk.lock(&dir.join("LOCK")).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => DataDirError::InUse(dir.to_owned()),
            _ => io(error),
        })?;
        let version = dir.join("VERSION");
        if disk.exists(&version).map_err(io)? {
            check(dir, &disk.read(&version).map_err(io)?)?;
        } else {
            let others = disk.list(dir).map_err(io)?;
            // What a crash in the middle of the first start may have left is ours.
            let ours = ["LOCK", "VERSION.tmp"];
            let is_foreign =
                |p: &PathBuf| !p.file_name().is_some_and(|n| ours.iter().any(|o| n == *o));
            if others.iter().any(is_foreign) {
                return Err(DataDirError::Foreign(dir.to_owned(), "it has files but no VERSION"));
            }
            write(disk, &version).map_err(io)?;
        }
        Ok(Self { _lock: lock })
    }
}

/// Creates `dir` and what is missing above it, so that a power cut leaves none of it out: a
/// name is durable once the directory above it is synced.
pub(crate) fn create_durably(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    let mut above: Vec<&Path> = Vec::new();
    for path in dir.ancestors().filter(|path| !path.as_os_str().is_empty()) {
        if !above.is_empty() && disk.exists(path)? {
            break;
        }
        above.push(path);
    }
    let existed = disk.exists(dir)?;
    disk.create_dir_all(dir)?;
    // Also where it exists: whoever created it may have ended before its name was durable.
    for path in above.into_iter().rev() {
        let parent = path.parent().map_or(path, |parent| {
            if parent.as_os_str().is_empty() { Path::new(".") } else { parent }
        });
        match disk.sync_dir(parent) {
            // What others made above us, and do not let us open, is theirs to keep.
            Err(error) if existed && error.kind() == io::ErrorKind::PermissionDenied => {}
            other => other?,
        }
    }
    Ok(())
}

fn write(disk: &dyn Disk, version: &Path) -> io::Result<()> {
    let temporary = version.with_extension("tmp");
    let file = disk.open(&temporary, OpenMode::CreateOrOpen)?;
    file.set_len(0)?;
    file.write_all_at(format!("{VERSION_PREFIX}{FORMAT_VERSION}\n").as_bytes(), 0)?;
    file.sync_all()?;
    disk.rename(&temporary, version)?;
    version.parent().map_or(Ok(()), |dir| disk.sync_dir(dir))
}

fn check(dir: &Path, content: &[u8]) -> Result<(), DataDirError> {
    let text = String::from_utf8_lossy(content);
    let found = text.strip_prefix(VERSION_PREFIX).and_then(|rest| rest.trim().parse::<u32>().ok());
    match found {
        None => Err(DataDirError::Foreign(dir.to_owned(), "its VERSION cannot be read")),
        Some(found) if found > FORMAT_VERSION => {
            Err(DataDirError::Newer { dir: dir.to_owned(), found })
        }
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use holdfast_env::sim::SimDisk;

    use super::*;

    fn put(disk: &SimDisk, path: &str, content: &str) {
        let file = disk.open(path.as_ref(), OpenMode::CreateOrOpen).unwrap();
        file.set_len(0).unwrap();
        file.write_all_at(content.as_bytes(), 0).unwrap();
    }

    #[test]
    fn one_process_at_a_time_has_a_directory() {
        let disk = SimDisk::new();
        let held = DataDir::open(&disk, "/d".as_ref()).unwrap();
        let second = DataDir::open(&disk, "/d".as_ref()).unwrap_err();
        assert!(matches!(second, DataDirError::InUse(_)), "{second}");
        drop(held);
        DataDir::open(&disk, "/d".as_ref()).unwrap();
    }

    #[test]
    fn new_directory_is_there_after_a_power_cut_with_everything_above_it() {
        for dir in ["/d", "/some/where/deep/d"] {
            let disk = SimDisk::new();
            drop(DataDir::open(&disk, dir.as_ref()).unwrap());
            let image = disk.crash(0, 1);
            assert!(image.exists(&Path::new(dir).join("VERSION")).unwrap(), "{dir}");
        }
    }

    #[test]
    fn a_newer_format_and_a_foreign_directory_are_refused() {
        let disk = SimDisk::new();
        drop(DataDir::open(&disk, "/d".as_ref()).unwrap());
        put(&disk, "/d/VERSION", "holdfast data format 2\n");
        let error = DataDir::open(&disk, "/d".as_ref()).unwrap_err();
        assert!(matches!(error, DataDirError::Newer { found: 2, .. }), "{error}");
        put(&disk, "/d/VERSION", "something else\n");
        assert!(matches!(
            DataDir::open(&disk, "/d".as_ref()).unwrap_err(),
            DataDirError::Foreign(..)
        ));
        disk.create_dir_all("/e".as_ref()).unwrap();
        put(&disk, "/e/letters.txt", "not ours");
        assert!(matches!(
            DataDir::open(&disk, "/e".as_ref()).unwrap_err(),
            DataDirError::Foreign(..)
        ));
    }
}
