//! Memory for nodes: chunks that grow, handed out piece by piece, freed together.
//!
//! Fresh memory is paid for twice, by a page fault and by the kernel's zeroing of the page: that
//! was a tenth of the cost of a write. Chunks of full size are therefore kept when a memtable is
//! dropped and serve the next one, up to a part of the node's memtable budget.
//!
//! Invariants:
//! * Every piece is 8-byte aligned, inside one chunk, and overlaps no other piece.
//! * A chunk never moves; it belongs to one arena, or to the pool, or is freed.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::Arc;

use holdfast_env::sync::Mutex;

/// Size of the first chunk; chunks double up to [`CHUNK_BYTES_MAX`].
const CHUNK_BYTES_MIN: usize = 4 * 1024;
/// Size of the largest chunk nodes share; a larger node has a chunk of its own.
pub(crate) const CHUNK_BYTES_MAX: usize = if cfg!(shuttle) { 8 * 1024 } else { 1024 * 1024 };
/// Alignment of every piece.
pub(super) const ALIGN: usize = 8;

/// Memory owned by whoever holds this.
#[derive(Debug)]
struct Chunk {
    memory: NonNull<u8>,
    layout: Layout,
}

// SAFETY: a chunk is plain memory that belongs to its holder alone.
unsafe impl Send for Chunk {}

impl Chunk {
    fn new(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes, ALIGN).expect("chunks are small");
        // SAFETY: the size is never zero: a node has at least its header.
        let Some(memory) = NonNull::new(unsafe { alloc(layout) }) else {
            handle_alloc_error(layout);
        };
        Self { memory, layout }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with this layout and freed only here, by its one owner.
        unsafe { dealloc(self.memory.as_ptr(), self.layout) };
    }
}

/// Chunks of [`CHUNK_BYTES_MAX`] that wait for the next arena.
#[derive(Debug)]
pub(crate) struct ChunkPool {
    free: Mutex<Vec<Chunk>>,
    chunks_max: usize,
}

impl ChunkPool {
    /// A pool that never holds more than `bytes_max`.
    pub(crate) fn new(bytes_max: u64) -> Self {
        let chunks_max = usize::try_from(bytes_max).unwrap_or(usize::MAX) / CHUNK_BYTES_MAX;
        Self { free: Mutex::default(), chunks_max }
    }

    /// Memory held, bytes.
    pub(crate) fn bytes(&self) -> u64 {
        (self.free.lock().len() * CHUNK_BYTES_MAX) as u64
    }

    fn take(&self) -> Chunk {
        let kept = self.free.lock().pop();
        kept.unwrap_or_else(|| Chunk::new(CHUNK_BYTES_MAX))
    }

    /// Keeps what it may of the chunks that fit; the rest is freed.
    fn give(&self, mut chunks: Vec<Chunk>) {
        chunks.retain(|c| c.layout.size() == CHUNK_BYTES_MAX);
        let mut free = self.free.lock();
        let room = self.chunks_max.saturating_sub(free.len());
        let excess = chunks.split_off(room.min(chunks.len()));
        free.append(&mut chunks);
        drop(free);
        drop(excess);
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
        self.bytes += chunk.layout.size();
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
        let pool = Arc::new(ChunkPool::new(64 << 20));
        drop(filled(&pool, 8 << 20));
        let kept = pool.bytes();
        assert!((6 << 20..=8 << 20).contains(&kept), "{kept} bytes are kept");
        let next = filled(&pool, 8 << 20);
        assert!(pool.bytes() <= 1 << 20, "the next arena of the size took them");
        drop(next);
        assert!(pool.bytes() >= kept);
    }

    #[test]
    fn pool_never_holds_more_than_its_bound() {
        let pool = Arc::new(ChunkPool::new(3 << 20));
        drop([filled(&pool, 8 << 20), filled(&pool, 8 << 20)]);
        assert_eq!(pool.bytes(), 3 << 20);
        let none = Arc::new(ChunkPool::new(1000));
        drop(filled(&none, 8 << 20));
        assert_eq!(none.bytes(), 0);
    }
}
