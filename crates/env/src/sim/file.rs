//! Open files and held locks of a simulated disk.

use std::io::{self, IoSlice};
use std::path::PathBuf;

use rustix::io::Errno;

use super::content::BadSector;
use super::disk::{SimDisk, Verdict, power_cut};
use super::fault::{Effect, Operation, eio, enospc};
use super::tree::Inode;
use crate::{File, FileLock};

/// A handle; the file lives as long as one is open, whatever happens to its name.
#[derive(Debug)]
pub(super) struct SimFile {
    pub(super) disk: SimDisk,
    /// The name it was opened by: what faults go by.
    pub(super) path: PathBuf,
    pub(super) inode: Inode,
    pub(super) is_writable: bool,
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.disk.state.lock().tree.closed(self.inode);
    }
}

impl SimFile {
    fn check_writable(&self) -> io::Result<()> {
        if self.is_writable { Ok(()) } else { Err(Errno::BADF.into()) }
    }

    fn resize(&self, length: impl FnOnce(u64) -> u64) -> io::Result<()> {
        self.check_writable()?;
        self.disk.change(Operation::Resize, &self.path, |state| {
            let length = length(state.tree.content(self.inode)?.len());
            state.check_room(self.inode, length)?;
            state.tree.content(self.inode)?.set_len(length);
            Ok(())
        })
    }
}

impl File for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.disk.announce(Operation::Read, &self.path, offset, buffer.len());
        let mut state = self.disk.state.lock();
        let verdict = state.enter(Operation::Read, &self.path)?;
        let content = state.tree.content(self.inode)?;
        let count = content.read(buffer, offset).map_err(|BadSector| eio())?;
        if let Verdict::Strike(Effect::FlipBit { bit }) = verdict
            && let Some(byte) = buffer.get_mut(bit / 8)
        {
            *byte ^= 1 << (bit % 8);
        }
        Ok(count)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.check_writable()?;
        self.disk.announce(Operation::Write, &self.path, offset, bytes.len());
        let mut state = self.disk.state.lock();
        state.counters.bytes_written += bytes.len() as u64;
        match state.enter(Operation::Write, &self.path)? {
            Verdict::Cut => state.write(self.inode, bytes, offset).and(Err(power_cut())),
            Verdict::Strike(Effect::PhantomWrite) => Ok(()),
            Verdict::Strike(Effect::MisdirectedWrite { distance }) => {
                state.write(self.inode, bytes, offset + distance)
            }
            Verdict::Strike(Effect::ShortWrite { bytes: count }) if count < bytes.len() => {
                state.write(self.inode, &bytes[..count], offset).and(Err(enospc()))
            }
            Verdict::Proceed | Verdict::Strike(_) => state.write(self.inode, bytes, offset),
        }
    }

    /// One operation, as one `pwritev` is.
    fn write_all_vectored_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        self.write_all_at(&bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync_all()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.disk.announce(Operation::Sync, &self.path, 0, 0);
        let mut state = self.disk.state.lock();
        let verdict = state.enter(Operation::Sync, &self.path)?;
        let content = state.tree.content(self.inode)?;
        match verdict {
            Verdict::Proceed => content.sync(),
            Verdict::Cut => return Err(power_cut()),
            Verdict::Strike(Effect::SyncFails) => {
                content.lose_unsynced();
                return Err(eio());
            }
            Verdict::Strike(_) => {}
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.resize(|_| length)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.resize(|present| present.max(length))
    }

    fn len(&self) -> io::Result<u64> {
        self.disk
            .change(Operation::Look, &self.path, |state| Ok(state.tree.content(self.inode)?.len()))
    }
}

/// The exclusive lock of a file while `is_held`; always a handle of it.
#[derive(Debug)]
pub(super) struct SimLock {
    pub(super) disk: SimDisk,
    pub(super) inode: Inode,
    pub(super) is_held: bool,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.state.lock();
        state.tree.closed(self.inode);
        if self.is_held {
            state.locked.remove(&self.inode);
        }
    }
}

impl FileLock for SimLock {}
