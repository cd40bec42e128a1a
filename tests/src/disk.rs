//! A disk that a test can fill without harm to anybody: a file system in memory, of a size.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// File that takes the space away.
const BALLAST: &str = "ballast";

/// A mounted file system; unmounted when it is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    place: PathBuf,
}

impl SmallDisk {
    /// Mounts one of `bytes` at `place`; none where that is not allowed.
    pub(crate) fn mount(place: &Path, bytes: u64) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={bytes},mode=0700"), "tmpfs"]).arg(place);
        let status = mount.stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success()).then(|| Self { place: place.to_owned() })
    }

    /// Bytes that are free on it.
    ///
    /// # Errors
    /// Of the system.
    pub fn free(&self) -> Result<u64> {
        let stat = statvfs(&self.place)?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    /// Leaves only `free` bytes.
    ///
    /// # Errors
    /// Of the system.
    pub fn fill(&self, free: u64) -> Result<()> {
        let taken = self.free()?.saturating_sub(free);
        let ballast = File::create(self.place.join(BALLAST))?;
        if taken > 0 {
            fallocate(&ballast, FallocateFlags::empty(), 0, taken).context("filling the disk")?;
        }
        Ok(())
    }

    /// Gives back what was taken.
    ///
    /// # Errors
    /// Of the system.
    pub fn empty(&self) -> Result<()> {
        Ok(fs::remove_file(self.place.join(BALLAST))?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // What cannot be unmounted now goes with the machine's next start.
        let _ = Command::new("umount").arg("-l").arg(&self.place).status();
    }
}
