//! Memory for nodes: chunks that grow, handed out piece by piece, freed together.
//!
//! Invariants:
//! * Every piece is 8-byte aligned, inside one chunk, and overlaps no other piece.
//! * A chunk never moves and is freed only when the arena is dropped.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// Size of the first chunk; chunks double up to [`CHUNK_BYTES_MAX`].
const CHUNK_BYTES_MIN: usize = 4 * 1024;
/// Size of the largest chunk nodes share; a larger node has a chunk of its own.
const CHUNK_BYTES_MAX: usize = 1024 * 1024;
/// Alignment of every piece.
pub(super) const ALIGN: usize = 8;

/// Memory of the nodes: chunks that grow, freed together.
#[derive(Default)]
pub(super) struct Arena {
    chunks: Vec<(NonNull<u8>, Layout)>,
    free: Option<NonNull<u8>>,
    free_bytes: usize,
    /// Allocated so far, bytes.
    pub(super) bytes: usize,
}

impl Arena {
    /// `bytes` of unused memory, 8-byte aligned.
    pub(super) fn allocate(&mut self, bytes: usize) -> NonNull<u8> {
        let bytes = bytes.next_multiple_of(ALIGN);
        if bytes > CHUNK_BYTES_MAX / 4 {
            return self.chunk(bytes);
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
        self.chunk(size)
    }

    fn chunk(&mut self, bytes: usize) -> NonNull<u8> {
        let layout = Layout::from_size_align(bytes, ALIGN).expect("chunks are small");
        // SAFETY: the size is never zero: a node has at least its header.
        let Some(memory) = NonNull::new(unsafe { alloc(layout) }) else {
            handle_alloc_error(layout);
        };
        self.chunks.push((memory, layout));
        self.bytes += bytes;
        memory
    }
}

// SAFETY: the chunks belong to the arena alone; pointers into them are plain memory.
unsafe impl Send for Arena {}

impl Drop for Arena {
    fn drop(&mut self) {
        for (memory, layout) in self.chunks.drain(..) {
            // SAFETY: allocated by `chunk` with this layout and freed once; the list is gone.
            unsafe { dealloc(memory.as_ptr(), layout) };
        }
    }
}
