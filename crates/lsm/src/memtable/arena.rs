//! Memory for nodes: chunks that grow, handed out piece by piece, freed together.
//!
//! Fresh memory is paid for twice, by a page fault and by the kernel's zeroing of the page: that
//! was a tenth of the cost of a write, and a large piece of it stalls the writer (where the kernel
//! gives huge pages to a virtual machine, 5 ms for each 2 MiB were seen). So chunks of full size
//! and tables are kept when a memtable is dropped, and serve the next one, as far as the node's
//! memtable budget has room beside the memtables themselves.
//!
//! Invariants:
//! * Every piece is 8-byte aligned, inside one chunk, and overlaps no other piece.
//! * A chunk never moves; it belongs to one arena, or to the pool, or is freed.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use holdfast_env::sync::Mutex;

/// Size of the first chunk; chunks double up to [`CHUNK_BYTES_MAX`].
const CHUNK_BYTES_MIN: usize = 4 * 1024;
/// Size of the largest chunk nodes share; a larger node has a chunk of its own.
pub(crate) const CHUNK_BYTES_MAX: usize = if cfg!(shuttle) { 8 * 1024 } else { 1024 * 1024 };
/// Alignment of every piece.
pub(super) const ALIGN: usize = 8;

/// Memory owned by whoever holds this.
#[derive(Debug)]
pub(super) struct Chunk {
    memory: NonNull<u8>,
    layout: Layout,
}

// SAFETY: a chunk is plain memory that belongs to its holder alone.
unsafe impl Send for Chunk {}
// SAFETY: a shared chunk lets nobody at its memory; who does has a rule of his own.
unsafe impl Sync for Chunk {}

impl Chunk {
    fn new(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes, ALIGN).expect("chunks are small");
        // SAFETY: the size is never zero: a node has at least its header.
        Self::of(unsafe { alloc(layout) }, layout)
    }

    /// A chunk of zeros; where it is long, the system sees to them when a page is first touched.
    fn zeroed(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes, ALIGN).expect("tables are bounded");
        // SAFETY: the size is never zero: a table has at least 64 slots.
        Self::of(unsafe { alloc_zeroed(layout) }, layout)
    }

    fn of(memory: *mut u8, layout: Layout) -> Self {
        let Some(memory) = NonNull::new(memory) else { handle_alloc_error(layout) };
        Self { memory, layout }
    }

    pub(super) fn memory(&self) -> NonNull<u8> {
        self.memory
    }

    pub(super) fn bytes(&self) -> usize {
        self.layout.size()
    }

    fn fill_with_zeros(&mut self) {
        // SAFETY: the memory belongs to this chunk, which nobody else holds.
        unsafe { self.memory.write_bytes(0, self.bytes()) };
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` or `zeroed` with this layout, freed only here, by its owner.
        unsafe { dealloc(self.memory.as_ptr(), self.layout) };
    }
}

/// Chunks of [`CHUNK_BYTES_MAX`] that wait for the next arena, and tables for the next index.
#[derive(Debug)]
pub(crate) struct ChunkPool {
    kept: Mutex<Kept>,
    /// Memory that all memtables hold.
    used: Arc<AtomicU64>,
    /// What that and what is kept here may be together.
    budget: u64,
}

#[derive(Debug, Default)]
struct Kept {
    chunks: Vec<Chunk>,
    /// All zeros.
    tables: Vec<Chunk>,
    bytes: u64,
}

impl ChunkPool {
    /// A pool that keeps what `used` leaves of `budget`, bytes.
    pub(crate) fn new(budget: u64, used: Arc<AtomicU64>) -> Self {
        Self { kept: Mutex::default(), used, budget }
    }

    /// Memory held, bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.kept.lock().bytes
    }

    fn take(&self) -> Chunk {
        let mut kept = self.kept.lock();
        let chunk = kept.chunks.pop();
        kept.bytes -= chunk.as_ref().map_or(0, |c| c.bytes() as u64);
        drop(kept);
        chunk.unwrap_or_else(|| Chunk::new(CHUNK_BYTES_MAX))
    }

    /// `bytes` of zeros.
    pub(super) fn take_table(&self, bytes: usize) -> Chunk {
        let mut kept = self.kept.lock();
        let at = kept.tables.iter().position(|t| t.bytes() == bytes);
        let table = at.map(|at| kept.tables.swap_remove(at));
        kept.bytes -= table.as_ref().map_or(0, |t| t.bytes() as u64);
        drop(kept);
        table.unwrap_or_else(|| Chunk::zeroed(bytes))
    }

    fn room(&self, kept: &Kept) -> u64 {
        let used = self.used.load(Ordering::Relaxed).saturating_add(kept.bytes);
        self.budget.saturating_sub(used)
    }

    /// Keeps what it may of the chunks that fit; the rest is freed.
    fn give(&self, mut chunks: Vec<Chunk>) {
        chunks.retain(|c| c.bytes() == CHUNK_BYTES_MAX);
        let mut kept = self.kept.lock();
        let room = self.room(&kept) / CHUNK_BYTES_MAX as u64;
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        let excess = chunks.split_off(room.min(chunks.len()));
        kept.bytes += (chunks.len() * CHUNK_BYTES_MAX) as u64;
        kept.chunks.append(&mut chunks);
        drop(kept);
        drop(excess);
    }

    /// Keeps a table, if it may.
    pub(super) fn give_table(&self, mut table: Chunk) {
        let bytes = table.bytes() as u64;
        if self.room(&self.kept.lock()) < bytes {
            return;
        }
        table.fill_with_zeros();
        let mut kept = self.kept.lock();
        kept.bytes += bytes;
        kept.tables.push(table);
    }
}

/// Memory of the nodes: chunks that grow, freed together.
pub(super) struct Arena {
    chunks: Vec<Chunk>,
    free: Option<NonNull<u8>>,
    free_bytes: usize,
    /// Allocated so far, bytes.
    pub(super) bytes: usize,
    pool: Arc<ChunkPool>,
}

impl Arena {
    /// An empty arena whose full chunks come from `pool` and go back there.
    pub(super) fn new(pool: Arc<ChunkPool>) -> Self {
        Self { chunks: Vec::new(), free: None, free_bytes: 0, bytes: 0, pool }
    }

    /// `bytes` of unused memory, 8-byte aligned. It holds whatever was there before.
    pub(super) fn allocate(&mut self, bytes: usize) -> NonNull<u8> {
        let bytes = bytes.next_multiple_of(ALIGN);
        if bytes > CHUNK_BYTES_MAX / 4 {
            return self.keep(Chunk::new(bytes));
        }
        let free = match self.free {
            Some(free) if self.free_bytes >= bytes => free,
            _ => self.grow(bytes),
        };
        self.free_bytes -= bytes;
        // SAFETY: `bytes` were free behind `free`, so this is at most one past the chunk's end.
        self.free = Some(unsafe { free.add(bytes) });
        free
    }

    fn grow(&mut self, bytes: usize) -> NonNull<u8> {
        let doubled = CHUNK_BYTES_MIN << self.chunks.len().min(8);
        let size = doubled.min(CHUNK_BYTES_MAX).max(bytes);
        self.free_bytes = size;
        let is_full_size = size == CHUNK_BYTES_MAX;
        self.keep(if is_full_size { self.pool.take() } else { Chunk::new(size) })
    }

    fn keep(&mut self, chunk: Chunk) -> NonNull<u8> {
        let memory = chunk.memory;
        self.bytes += chunk.bytes();
        self.chunks.push(chunk);
        memory
    }
}

// SAFETY: the chunks belong to the arena alone; pointers into them are plain memory.
unsafe impl Send for Arena {}

impl Drop for Arena {
    fn drop(&mut self) {
        self.pool.give(std::mem::take(&mut self.chunks));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(budget: u64) -> Arc<ChunkPool> {
        Arc::new(ChunkPool::new(budget, Arc::default()))
    }

    fn filled(pool: &Arc<ChunkPool>, bytes: usize) -> Arena {
        let mut arena = Arena::new(pool.clone());
        while arena.bytes < bytes {
            let piece = arena.allocate(60_000);
            // SAFETY: the arena handed out that many bytes.
            unsafe { piece.write_bytes(0xab, 60_000) };
        }
        arena
    }

    #[test]
    fn full_chunks_of_a_dropped_arena_serve_the_next_one() {
        let pool = pool(64 << 20);
        drop(filled(&pool, 8 << 20));
        let kept = pool.bytes();
        assert!((6 << 20..=8 << 20).contains(&kept), "{kept} bytes are kept");
        let next = filled(&pool, 8 << 20);
        assert!(pool.bytes() <= 1 << 20, "the next arena of the size took them");
        drop(next);
        assert!(pool.bytes() >= kept);
    }

    #[test]
    fn pool_and_memtables_never_hold_more_than_the_budget() {
        let small = pool(3 << 20);
        drop([filled(&small, 8 << 20), filled(&small, 8 << 20)]);
        assert_eq!(small.bytes(), 3 << 20);
        small.give_table(Chunk::zeroed(1 << 20));
        assert_eq!(small.bytes(), 3 << 20);
        let none = pool(1000);
        drop(filled(&none, 8 << 20));
        assert_eq!(none.bytes(), 0);
        let used = Arc::new(ChunkPool::new(8 << 20, Arc::new(AtomicU64::new(6 << 20))));
        drop(filled(&used, 8 << 20));
        assert_eq!(used.bytes(), 2 << 20);
    }

    #[test]
    fn a_table_that_was_used_comes_back_as_zeros() {
        let pool = pool(64 << 20);
        let table = pool.take_table(1 << 20);
        // SAFETY: the chunk has that many bytes.
        unsafe { table.memory().write_bytes(0xab, 1 << 20) };
        let memory = table.memory();
        pool.give_table(table);
        assert_eq!(pool.bytes(), 1 << 20);
        let again = pool.take_table(1 << 20);
        assert_eq!((again.memory(), pool.bytes()), (memory, 0));
        // SAFETY: as above, and all of it was written.
        let bytes = unsafe { std::slice::from_raw_parts(memory.as_ptr(), 1 << 20) };
        assert!(bytes.iter().all(|b| *b == 0));
    }
}
