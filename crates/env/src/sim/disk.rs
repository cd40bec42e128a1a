//! A file system in memory that keeps its promises and not one more.
//!
//! [`SimDisk::crash`] gives the image a power cut leaves, [`SimDisk::kill`] the one the end of a
//! process leaves; either way the old disk is dead, so that no straggler writes into the image.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;

use super::content::{BadSector, Content, PAGE_BYTES, SECTOR_BYTES};
use super::fault::{Effect, Fault, FaultId, Faults, Operation, eio, enospc};
use super::file::{SimFile, SimLock};
use super::random::Random;
use super::tree::{Inode, Tree};
use crate::{Disk, DiskSpace, File, FileLock, OpenMode};

/// What `space` tells of a disk without a limit.
const UNLIMITED_BYTES: u64 = 1 << 50;

/// Marks the errors of a disk without power.
#[derive(Debug)]
struct PowerCut;

impl std::fmt::Display for PowerCut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the simulated disk has no power")
    }
}

impl std::error::Error for PowerCut {}

pub(super) fn power_cut() -> io::Error {
    io::Error::other(PowerCut)
}

/// Whether `error` is that of a disk without power.
pub fn is_power_cut(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<PowerCut>())
}

/// How often a disk was called, refused calls included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskCounters {
    /// Calls of every kind.
    pub operations: u64,
    /// Calls that change the disk or what survives; the numbers [`SimDisk::cut_power_at`] takes.
    pub mutations: u64,
    /// Reads of bytes.
    pub reads: u64,
    /// Writes of bytes; a vectored write is one.
    pub writes: u64,
    /// Syncs of files.
    pub syncs: u64,
    /// Syncs of directories.
    pub directory_syncs: u64,
    /// Bytes that were to be written.
    pub bytes_written: u64,
    /// Calls refused because the disk had no room.
    pub refused_full: u64,
}

/// A call on a disk, as a watcher sees it before it happens.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// What is about to happen.
    pub operation: Operation,
    /// To which file or directory; an open file goes by the name it was opened by.
    pub path: &'a Path,
    /// Where in the file, for reads and writes.
    pub offset: u64,
    /// How many bytes, for reads and writes.
    pub bytes: usize,
}

/// See [`SimDisk::watch`].
type Watcher = Arc<dyn Fn(&SimDisk, Call<'_>) + Send + Sync>;

/// Who watches a disk.
#[derive(Clone, Default)]
pub(super) struct Watch(Arc<Mutex<Option<Watcher>>>);

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let is_watched = self.0.lock().is_some();
        f.debug_tuple("Watch").field(&is_watched).finish()
    }
}

/// Everything of a disk, behind one lock: calls on it are one after another.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) tree: Tree,
    faults: Faults,
    pub(super) counters: DiskCounters,
    cut_at: Option<u64>,
    is_cut: bool,
    capacity_bytes: Option<u64>,
    pub(super) locked: BTreeSet<Inode>,
}

/// How a call goes on after power and faults were asked.
pub(super) enum Verdict {
    Proceed,
    /// The power goes during this call: a sync does not happen, anything else half happens.
    Cut,
    Strike(Effect),
}

impl State {
    pub(super) fn enter(&mut self, operation: Operation, path: &Path) -> io::Result<Verdict> {
        if self.is_cut {
            return Err(power_cut());
        }
        self.count(operation);
        if operation.is_mutating() && self.cut_at == Some(self.counters.mutations) {
            self.is_cut = true;
            return Ok(Verdict::Cut);
        }
        match self.faults.strike(operation, path) {
            None => Ok(Verdict::Proceed),
            Some(effect) => match effect.refusal() {
                Some(error) => Err(error),
                None => Ok(Verdict::Strike(effect)),
            },
        }
    }

    fn count(&mut self, operation: Operation) {
        let counters = &mut self.counters;
        counters.operations += 1;
        counters.mutations += u64::from(operation.is_mutating());
        match operation {
            Operation::Read => counters.reads += 1,
            Operation::Write => counters.writes += 1,
            Operation::Sync => counters.syncs += 1,
            Operation::SyncDir => counters.directory_syncs += 1,
            _ => {}
        }
    }

    /// Refuses to let the file grow to `length` where the disk has no room for it.
    pub(super) fn check_room(&mut self, inode: Inode, length: u64) -> io::Result<()> {
        let Some(capacity) = self.capacity_bytes else { return Ok(()) };
        let present = self.tree.content(inode)?.len();
        let pages = length.div_ceil(PAGE_BYTES).saturating_sub(present.div_ceil(PAGE_BYTES));
        let fits = self.tree.used_bytes() + pages * PAGE_BYTES <= capacity;
        if pages == 0 || fits {
            return Ok(());
        }
        self.counters.refused_full += 1;
        Err(enospc())
    }

    pub(super) fn write(&mut self, inode: Inode, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.check_room(inode, offset + bytes.len() as u64)?;
        self.tree.content(inode)?.write(bytes, offset);
        Ok(())
    }
}

/// A simulated disk. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct SimDisk {
    pub(super) state: Arc<Mutex<State>>,
    watch: Watch,
}

impl SimDisk {
    /// An empty disk without limit or fault. Only `/` (and thus the empty path) exists.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on files may take `bytes` in whole pages; what would take more fails with ENOSPC.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.lock().capacity_bytes = bytes;
    }

    /// Calls so far.
    pub fn counters(&self) -> DiskCounters {
        self.state.lock().counters
    }

    /// Cuts the power during the `mutation`-th mutating call, counted from 1 since the disk began:
    /// a sync does not happen, any other call may or may not have happened, and it and every
    /// later call fail ([`is_power_cut`]). `None` lifts a plan that has not struck yet.
    pub fn cut_power_at(&self, mutation: Option<u64>) {
        self.state.lock().cut_at = mutation;
    }

    /// Cuts the power now.
    pub fn cut_power(&self) {
        self.state.lock().is_cut = true;
    }

    /// Whether the power is cut.
    pub fn is_cut(&self) -> bool {
        self.state.lock().is_cut
    }

    /// Cuts the power and gives the disk as it may be found afterwards: what was synced, and of the
    /// rest each block and each directory entry with `keep_percent`. `seed` decides which, and
    /// whether writes tear between sectors (512 B) or pages (4 KiB). The image has no faults,
    /// the same capacity, and counts from zero.
    pub fn crash(&self, keep_percent: u8, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let block_bytes = if random.chance(50) { SECTOR_BYTES } else { PAGE_BYTES };
        self.succeed(|tree| tree.after_crash(keep_percent, block_bytes, &mut random))
    }

    /// The disk as [`SimDisk::crash`] would leave it, while this one goes on.
    pub fn image(&self, keep_percent: u8, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let block_bytes = if random.chance(50) { SECTOR_BYTES } else { PAGE_BYTES };
        let state = self.state.lock();
        Self::holding(&state, state.tree.after_crash(keep_percent, block_bytes, &mut random))
    }

    /// Has `watcher` told of every call before it happens: to take an image between any two, or
    /// to learn which bytes are read as one. One watcher at a time; it may call this disk, and
    /// is told of that as well.
    pub fn watch(&self, watcher: impl Fn(&Self, Call<'_>) + Send + Sync + 'static) {
        *self.watch.0.lock() = Some(Arc::new(watcher));
    }

    /// Ends the watch.
    pub fn unwatch(&self) {
        *self.watch.0.lock() = None;
    }

    pub(super) fn announce(&self, operation: Operation, path: &Path, offset: u64, bytes: usize) {
        let watcher = self.watch.0.lock().clone();
        if let Some(watcher) = watcher {
            watcher(self, Call { operation, path, offset, bytes });
        }
    }

    /// Ends the process that uses the disk: its handles and locks die, while everything written,
    /// synced or not, is still in the page cache of the new disk and can yet be lost by a crash.
    pub fn kill(&self) -> Self {
        self.succeed(Tree::after_kill)
    }

    fn succeed(&self, tree: impl FnOnce(&Tree) -> Tree) -> Self {
        let mut state = self.state.lock();
        state.is_cut = true;
        Self::holding(&state, tree(&state.tree))
    }

    /// A disk like the one of `state`, that holds `tree`.
    fn holding(state: &State, tree: Tree) -> Self {
        let capacity_bytes = state.capacity_bytes;
        let successor = State { tree, capacity_bytes, ..State::default() };
        Self { state: Arc::new(Mutex::new(successor)), watch: Watch::default() }
    }

    /// Plans a fault.
    pub fn inject(&self, fault: Fault) -> FaultId {
        self.state.lock().faults.inject(fault)
    }

    /// Ends a fault; its count stays.
    pub fn remove_fault(&self, id: FaultId) {
        self.state.lock().faults.remove(id);
    }

    /// Ends all faults; their counts stay.
    pub fn remove_faults(&self) {
        self.state.lock().faults.remove_all();
    }

    /// How many calls the fault has struck. A test whose fault struck none has shown nothing.
    pub fn fault_struck(&self, id: FaultId) -> u64 {
        self.state.lock().faults.struck(id)
    }

    /// Flips bit `bit` (0–7) of the byte at `offset`, on the platter.
    ///
    /// # Errors
    /// `NotFound`; `InvalidInput` where the file is shorter.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) -> io::Result<()> {
        self.damage(path, offset, 1, |content| {
            let mut byte = [0];
            let _ = content.read(&mut byte, offset);
            content.write(&[byte[0] ^ (1 << (bit % 8))], offset);
        })
    }

    /// Swaps two aligned blocks of `block_bytes`, numbered from 0, on the platter.
    ///
    /// # Errors
    /// `NotFound`; `InvalidInput` where the file does not hold both blocks whole.
    pub fn swap_blocks(&self, path: &Path, block_bytes: u64, a: u64, b: u64) -> io::Result<()> {
        self.damage(path, a.max(b) * block_bytes, block_bytes, |content| {
            let mut blocks = [vec![0; block_bytes as usize], vec![0; block_bytes as usize]];
            let _ = content.read(&mut blocks[0], a * block_bytes);
            let _ = content.read(&mut blocks[1], b * block_bytes);
            content.write(&blocks[0], b * block_bytes);
            content.write(&blocks[1], a * block_bytes);
        })
    }

    /// Cuts the file to `length` on the platter.
    ///
    /// # Errors
    /// `NotFound`; `InvalidInput` where the file is shorter.
    pub fn truncate(&self, path: &Path, length: u64) -> io::Result<()> {
        self.damage(path, length, 0, |content| content.set_len(length))
    }

    /// The sectors that hold `length` bytes at `offset` fail with EIO until they are written.
    ///
    /// # Errors
    /// `NotFound`; `InvalidInput` where the file is shorter.
    pub fn mark_bad(&self, path: &Path, offset: u64, length: u64) -> io::Result<()> {
        self.damage(path, offset, length, |content| content.mark_bad(offset, length))
    }

    fn damage(
        &self,
        path: &Path,
        offset: u64,
        length: u64,
        damage: impl FnOnce(&mut Content),
    ) -> io::Result<()> {
        let mut state = self.state.lock();
        let inode = state.tree.find_file(path)?;
        let content = state.tree.content(inode)?;
        if offset + length > content.len() {
            return Err(Errno::INVAL.into());
        }
        content.damage(damage);
        Ok(())
    }

    /// Every file below `path` with its live content: to compare two runs. Not counted as a call.
    ///
    /// # Errors
    /// `NotFound`; EIO for a bad sector.
    pub fn files(&self, path: &Path) -> io::Result<BTreeMap<PathBuf, Vec<u8>>> {
        let state = self.state.lock();
        let files = state.tree.files_below(path)?;
        let read = files.into_iter().map(|(path, content)| {
            let mut bytes = vec![0; content.len() as usize];
            content.read(&mut bytes, 0).map_err(|BadSector| eio())?;
            Ok((path, bytes))
        });
        read.collect()
    }

    /// A call that changes the tree and that no effect short of a refusal applies to.
    pub(super) fn change<T>(
        &self,
        operation: Operation,
        path: &Path,
        change: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        self.announce(operation, path, 0, 0);
        let mut state = self.state.lock();
        match state.enter(operation, path)? {
            Verdict::Cut => change(&mut state).and(Err(power_cut())),
            Verdict::Proceed | Verdict::Strike(_) => change(&mut state),
        }
    }

    fn open_existing(&self, path: &Path) -> io::Result<Inode> {
        self.change(Operation::Look, path, |state| {
            let inode = state.tree.find_file(path)?;
            state.tree.opened(inode);
            Ok(inode)
        })
    }

    fn open_new(&self, path: &Path) -> io::Result<Inode> {
        self.change(Operation::Create, path, |state| {
            let inode = state.tree.create_file(path)?;
            state.tree.opened(inode);
            Ok(inode)
        })
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let inode = match mode {
            OpenMode::Read | OpenMode::Write => self.open_existing(path)?,
            OpenMode::CreateNew => self.open_new(path)?,
            OpenMode::CreateOrOpen => match self.open_existing(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.open_new(path)?,
                other => other?,
            },
        };
        let is_writable = mode != OpenMode::Read;
        Ok(Arc::new(SimFile { disk: self.clone(), path: path.to_owned(), inode, is_writable }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.change(Operation::Create, path, |state| state.tree.create_dir_all(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(Operation::Rename, from, |state| state.tree.rename(from, to))
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(Operation::Link, from, |state| state.tree.hard_link(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.change(Operation::Remove, path, |state| state.tree.remove_file(path))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.change(Operation::Remove, path, |state| state.tree.remove_dir_all(path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.change(Operation::Look, path, |state| state.tree.list(path))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.change(Operation::Look, path, |state| Ok(state.tree.exists(path)))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.announce(Operation::SyncDir, path, 0, 0);
        let mut state = self.state.lock();
        match state.enter(Operation::SyncDir, path)? {
            Verdict::Proceed => state.tree.sync_dir(path),
            Verdict::Cut => Err(power_cut()),
            Verdict::Strike(Effect::SyncFails) => Err(eio()),
            Verdict::Strike(_) => Ok(()),
        }
    }

    fn space(&self, path: &Path) -> io::Result<DiskSpace> {
        self.change(Operation::Look, path, |state| {
            let total_bytes = state.capacity_bytes.unwrap_or(UNLIMITED_BYTES);
            let available_bytes = total_bytes.saturating_sub(state.tree.used_bytes());
            Ok(DiskSpace { total_bytes, available_bytes })
        })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn FileLock>> {
        let inode = match self.open_existing(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.open_new(path)?,
            other => other?,
        };
        let mut lock = SimLock { disk: self.clone(), inode, is_held: false };
        self.change(Operation::Lock, path, |state| match state.locked.insert(inode) {
            true => Ok(()),
            false => Err(io::ErrorKind::WouldBlock.into()),
        })?;
        lock.is_held = true;
        Ok(Box::new(lock))
    }
}
