//! What all engines of a node share: memory budget, block cache, open files, counters.

use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use holdfast_env::{Clock, File};
use quick_cache::Weighter;
use quick_cache::sync::{Cache, DefaultLifecycle};

use crate::budget::IoBudget;
use crate::error::{Error, Result};
use crate::memtable::ChunkPool;
use crate::table::Partition;

/// Expected size of a cached block, bytes; only sizes the cache's tables.
const BLOCK_BYTES_EXPECTED: u64 = 8 << 10;
/// What the cache itself takes for an entry, bytes.
const ENTRY_BYTES: u64 = 64;

/// Options of [`Shared`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedOptions {
    /// Size of the block cache, bytes.
    pub cache_bytes: u64,
    /// Filters and indexes kept for as long as their tables are open, bytes; what is beyond goes
    /// through the block cache. Those of level 0 and of small tables are kept in any case.
    pub index_bytes: u64,
    /// Most table files held open.
    pub open_files_max: usize,
    /// Memory all memtables of the node should stay under, bytes.
    pub memtable_budget_bytes: u64,
    /// Bytes flushes may write and compactions may read and write per second, all engines of the
    /// node together; 0 for as many as the disk takes. Compactions wait; flushes take theirs at
    /// once and compactions wait for these, too. The journal is not limited.
    pub write_bytes_per_second: u64,
}

impl Default for SharedOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 256 << 20,
            index_bytes: 256 << 20,
            open_files_max: 1_000,
            memtable_budget_bytes: 512 << 20,
            write_bytes_per_second: 0,
        }
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
        let rate = self.write_bytes_per_second;
        let rate = (rate == 0 || rate >= 1 << 20, "write_bytes_per_second", "at least 1 MiB, or 0");
        for (holds, option, reason) in checks.into_iter().chain([rate]) {
            if !holds {
                return Err(Error::Option { option, reason });
            }
        }
        Ok(())
    }
}

/// Where a cached block comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockKey {
    /// Number of the opening of its table.
    pub(crate) opened_as: u64,
    pub(crate) offset: u64,
}

impl Hash for BlockKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.opened_as.rotate_left(40) ^ self.offset);
    }
}

/// Spreads the few numbers that name blocks and files; the same in every run, so that a simulated
/// node evicts the same blocks for the same seed.
#[derive(Default)]
struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        const ODD: u128 = 0x9e37_79b9_7f4a_7c15;
        let product = u128::from(self.0 ^ number ^ 0xa076_1d64_78bd_642f) * ODD;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
}

/// What the block cache holds.
#[derive(Clone)]
enum Cached {
    /// The content of a data block, or a blob.
    Content(Arc<[u8]>),
    Partition(Arc<Partition>),
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<BlockKey, Cached> for ByBytes {
    fn weight(&self, _: &BlockKey, cached: &Cached) -> u64 {
        match cached {
            Cached::Content(content) => content.len() as u64 + ENTRY_BYTES,
            Cached::Partition(partition) => {
                let (filter, index) = partition.bytes();
                (filter + index) as u64
            }
        }
    }
}

type Numbers = BuildHasherDefault<NumberHasher>;
type BlockCache = Cache<BlockKey, Cached, ByBytes, Numbers>;
type FileCache = Cache<u64, Arc<dyn File>, quick_cache::UnitWeighter, Numbers>;

/// One per node, handed to every engine.
pub struct Shared {
    options: SharedOptions,
    memtable_bytes: Arc<AtomicU64>,
    chunks: Arc<ChunkPool>,
    budget: Option<IoBudget>,
    blocks: BlockCache,
    files: FileCache,
    /// Memory of filters and indexes that are kept.
    index_bytes: AtomicU64,
    openings: AtomicU64,
    /// Hits are not counted: one counter for all cores would cost more than a hit.
    blocks_read: AtomicU64,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("options", &self.options).finish_non_exhaustive()
    }
}

/// Counters of [`Shared`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SharedStats {
    /// Memory all memtables hold, bytes.
    pub memtable_bytes: u64,
    /// Memory kept for the next memtables, bytes: at most what these leave of their budget.
    pub pooled_bytes: u64,
    /// Memory the block cache holds, bytes.
    pub cache_bytes: u64,
    /// Memory of filters and indexes that are kept outside the cache, bytes.
    pub index_bytes: u64,
    /// Blocks read from the disk because they were not in the cache.
    pub blocks_read: u64,
    /// Table files held open.
    pub open_files: u64,
}

impl Shared {
    /// Creates the shared parts; what is written is not limited without a clock.
    ///
    /// # Errors
    /// [`Error::Option`] if an option is out of its bounds.
    pub fn new(options: SharedOptions) -> Result<Self> {
        options.validate()?;
        let blocks_expected =
            usize::try_from(options.cache_bytes / BLOCK_BYTES_EXPECTED).unwrap_or(usize::MAX);
        let blocks = Cache::with(
            blocks_expected,
            options.cache_bytes,
            ByBytes,
            Numbers::default(),
            DefaultLifecycle::default(),
        );
        let files = Cache::with(
            options.open_files_max,
            options.open_files_max as u64,
            quick_cache::UnitWeighter,
            Numbers::default(),
            DefaultLifecycle::default(),
        );
        let memtable_bytes = Arc::new(AtomicU64::new(0));
        let chunks =
            Arc::new(ChunkPool::new(options.memtable_budget_bytes, memtable_bytes.clone()));
        Ok(Self {
            options,
            memtable_bytes,
            chunks,
            budget: None,
            blocks,
            files,
            index_bytes: AtomicU64::new(0),
            openings: AtomicU64::new(0),
            blocks_read: AtomicU64::new(0),
        })
    }

    /// Creates the shared parts with a limit on what compactions write.
    ///
    /// # Errors
    /// As [`Shared::new`].
    pub fn with_clock(options: SharedOptions, clock: Arc<dyn Clock>) -> Result<Self> {
        let mut shared = Self::new(options)?;
        let rate = shared.options.write_bytes_per_second;
        shared.budget = (rate > 0).then(|| IoBudget::new(rate, clock));
        Ok(shared)
    }

    /// Takes `bytes` from what may be read and written; who can, waits for them.
    pub(crate) fn take_io(&self, bytes: u64, can_wait: bool) {
        match &self.budget {
            Some(budget) if can_wait => budget.wait_for(bytes),
            Some(budget) => budget.charge(bytes),
            None => {}
        }
    }

    /// Counters now.
    pub fn stats(&self) -> SharedStats {
        SharedStats {
            memtable_bytes: self.memtable_bytes(),
            pooled_bytes: self.chunks.bytes(),
            cache_bytes: self.blocks.weight(),
            index_bytes: self.index_bytes.load(Ordering::Relaxed),
            blocks_read: self.blocks_read.load(Ordering::Relaxed),
            open_files: self.files.len() as u64,
        }
    }

    pub(crate) fn chunks(&self) -> &Arc<ChunkPool> {
        &self.chunks
    }

    /// A number no table of this process was opened under before.
    pub(crate) fn next_opening(&self) -> u64 {
        self.openings.fetch_add(1, Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn cached_content(&self, key: &BlockKey) -> Option<Arc<[u8]>> {
        match self.blocks.get(key)? {
            Cached::Content(content) => Some(content),
            Cached::Partition(_) => None,
        }
    }

    pub(crate) fn cache_content(&self, key: BlockKey, content: Arc<[u8]>) {
        self.blocks_read.fetch_add(1, Ordering::Relaxed);
        self.blocks.insert(key, Cached::Content(content));
    }

    /// What is cached, without counting as a use of it.
    pub(crate) fn peek_content(&self, key: &BlockKey) -> Option<Arc<[u8]>> {
        match self.blocks.peek(key)? {
            Cached::Content(content) => Some(content),
            Cached::Partition(_) => None,
        }
    }

    /// Caches the content of a block that was just written.
    pub(crate) fn cache_written(&self, key: BlockKey, content: &[u8]) {
        self.blocks.insert(key, Cached::Content(content.into()));
    }

    /// Whether the cache takes a block without giving another one up.
    pub(crate) fn has_room_in_cache(&self) -> bool {
        self.blocks.weight() + BLOCK_BYTES_EXPECTED <= self.blocks.capacity()
    }

    pub(crate) fn cached_partition(&self, key: &BlockKey) -> Option<Arc<Partition>> {
        match self.blocks.get(key)? {
            Cached::Partition(partition) => Some(partition),
            Cached::Content(_) => None,
        }
    }

    pub(crate) fn cache_partition(&self, key: BlockKey, partition: Arc<Partition>) {
        self.blocks_read.fetch_add(1, Ordering::Relaxed);
        self.blocks.insert(key, Cached::Partition(partition));
    }

    /// Takes a partition out of the cache.
    pub(crate) fn take_partition(&self, key: &BlockKey) -> Option<Arc<Partition>> {
        match self.blocks.remove(key)?.1 {
            Cached::Partition(partition) => Some(partition),
            Cached::Content(_) => None,
        }
    }

    /// Takes a block of which nobody will ask any more out of the cache.
    pub(crate) fn uncache(&self, key: &BlockKey) {
        self.blocks.remove(key);
    }

    /// Whether so many bytes more of filters and indexes may be kept.
    pub(crate) fn has_room_for_index(&self, bytes: u64) -> bool {
        let kept = self.index_bytes.load(Ordering::Relaxed);
        kept.saturating_add(bytes) <= self.options.index_bytes
    }

    /// Charges what is kept of filters and indexes; false, and nothing charged, if there is no
    /// room for it and it need not be kept (`must`).
    pub(crate) fn keep_index(&self, bytes: u64, must: bool) -> bool {
        let before = self.index_bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = must || before.saturating_add(bytes) <= self.options.index_bytes;
        if !fits {
            self.release_index(bytes);
        }
        fits
    }

    pub(crate) fn release_index(&self, bytes: u64) {
        self.index_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn open_file(&self, opened_as: u64) -> Option<Arc<dyn File>> {
        self.files.get(&opened_as)
    }

    pub(crate) fn keep_open(&self, opened_as: u64, file: Arc<dyn File>) {
        self.files.insert(opened_as, file);
    }

    /// Closes the file of a table that is gone; its blocks leave the cache as others come.
    pub(crate) fn forget(&self, opened_as: u64) {
        self.files.remove(&opened_as);
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
