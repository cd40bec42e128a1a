//! From a key to the newest of its nodes in one step.
//!
//! A search of the list passes some twenty nodes, each a cache miss; most reads ask the memtable
//! first and most of those find nothing there. The index answers both with about one miss.
//!
//! Invariants:
//! * Open addressing with linear probing; at most half of the slots are taken, none is ever freed.
//! * A slot leads to a node of one key for ever, to newer and newer nodes of it.
//! * Tables only grow: a larger one is filled before it is published, some nodes at every insert,
//!   so that no insert has to fill it; the smaller ones stay until the list is dropped. A reader
//!   that still uses a smaller one misses only keys inserted after it looked for the table, which
//!   its read point does not cover.
#![allow(unsafe_code)]

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use holdfast_env::sync::{AtomicUsize, Ordering as Sync};

use crate::memtable::arena::{Chunk, ChunkPool};
use crate::memtable::node::{Link, NodeId, NodeRef};

/// Slots of the smallest table, as a power of two.
const SLOTS_LOG2_MIN: usize = 6;
/// Slots of the largest table, as a power of two; hashes have 32 bits.
const SLOTS_LOG2_MAX: usize = 31;
/// Each table is so many times (as a power of two) larger than the one before.
const GROWTH_LOG2: usize = 2;
/// Eighths of the slots that are taken when the next table is begun.
const FULL_EIGHTHS: usize = 3;
/// Nodes that go into it at every insert: all of a list whose keys have up to two versions on
/// average are in before half of the slots are taken.
const FILL_PER_INSERT: usize = 8;
/// Smaller tables are not worth keeping for the next list.
const POOLED_BYTES_MIN: usize = 128 * 1024;
const TABLES: usize = (SLOTS_LOG2_MAX - SLOTS_LOG2_MIN) / GROWTH_LOG2 + 1;

/// See the module.
pub(super) struct KeyIndex {
    tables: [OnceLock<Slots>; TABLES],
    pool: Arc<ChunkPool>,
    /// The table in use.
    current: AtomicUsize,
}

/// The slots of a table.
struct Slots(Chunk);

impl Deref for Slots {
    type Target = [Link];

    #[inline]
    fn deref(&self) -> &[Link] {
        let count = self.0.bytes() / size_of::<Link>();
        // SAFETY: a chunk is aligned for links, was zeros, which is a link to nowhere, and is
        // changed by way of these links alone until it goes back to the pool.
        unsafe { std::slice::from_raw_parts(self.0.memory().cast::<Link>().as_ptr(), count) }
    }
}

/// How far the next table is filled; the list's one writer keeps it.
#[derive(Default)]
pub(super) struct Growth {
    is_under_way: bool,
    /// The first node that may be missing in it.
    rest: NodeId,
}

impl KeyIndex {
    /// An index that takes `keys` keys without growing; its tables come from `pool` and go back
    /// there.
    pub(super) fn with_capacity(keys: usize, pool: Arc<ChunkPool>) -> Self {
        let fits = |table: &usize| slots(*table) / 8 * FULL_EIGHTHS >= keys;
        let current = (0..TABLES).find(fits).unwrap_or(TABLES - 1);
        let tables = [const { OnceLock::new() }; TABLES];
        Self { tables, pool, current: AtomicUsize::new(current) }
    }

    /// Memory held, bytes.
    pub(super) fn bytes(&self) -> usize {
        self.tables.iter().filter_map(OnceLock::get).map(|t| t.0.bytes()).sum()
    }

    /// The newest node of `key`.
    #[inline]
    pub(super) fn get(&self, key: &[u8], hash: u32) -> Option<NodeRef<'_>> {
        let table = self.tables.get(self.current.load(Sync::Acquire))?.get()?;
        let mut slot = hash as usize & (table.len() - 1);
        // At most half of the slots are taken, so this ends.
        loop {
            let node = table.get(slot)?.load()?;
            if node.hash() == hash && node.key() == key {
                return Some(node);
            }
            slot = (slot + 1) & (table.len() - 1);
        }
    }

    /// Asks for the memory in which a key with this hash is looked for.
    #[inline]
    pub(super) fn prefetch(&self, hash: u32) {
        let table = self.tables.get(self.current.load(Sync::Relaxed)).and_then(OnceLock::get);
        if let Some(slot) = table.and_then(|t| t.get(hash as usize & (t.len() - 1))) {
            slot.prefetch_self();
        }
    }

    /// Makes `node` the newest of its key, if it is; true if the key is new here. Only the list's
    /// one writer may call this, and it must [`KeyIndex::make_room`] first.
    ///
    /// # Safety
    /// `node` must be a node of the list this index belongs to.
    pub(super) unsafe fn put(&self, growth: &Growth, node: NodeRef<'_>) -> bool {
        let current = self.current.load(Sync::Relaxed);
        let Some(table) = self.table(current) else { return false };
        if growth.is_under_way
            && let Some(next) = self.table(current + 1)
        {
            // SAFETY: the caller's promise.
            unsafe { put_into(next, node, true) };
        }
        // SAFETY: the caller's promise.
        unsafe { put_into(table, node, true) }
    }

    /// Makes room for one more key than `keys`: begins a larger table in time, and fills a part of
    /// it. `first` is the first node of the list.
    ///
    /// # Safety
    /// `first` must be a node of the list this index belongs to.
    pub(super) unsafe fn make_room(
        &self,
        growth: &mut Growth,
        keys: usize,
        first: Option<NodeRef<'_>>,
    ) {
        let current = self.current.load(Sync::Relaxed);
        if keys < slots(current) / 8 * FULL_EIGHTHS {
            return;
        }
        let Some(next) = self.table(current + 1) else { return };
        if !growth.is_under_way {
            *growth = Growth { is_under_way: true, rest: NodeId::of(first) };
        }
        // So many versions of so few keys have come that the rest must go in at once.
        let is_full = keys >= slots(current) / 2;
        for _ in 0..if is_full { usize::MAX } else { FILL_PER_INSERT } {
            // SAFETY: nodes live as long as their list, and links lead to nodes of the same one.
            let Some(node) = (unsafe { NodeRef::of(growth.rest) }) else {
                self.current.store(current + 1, Sync::Release);
                *growth = Growth::default();
                return;
            };
            // SAFETY: as above.
            unsafe { put_into(next, node, false) };
            growth.rest = NodeId::of(node.link(0).load());
        }
    }

    /// The table with this number, made if it has not been yet.
    fn table(&self, number: usize) -> Option<&[Link]> {
        let allocate = || Slots(self.pool.take_table(slots(number) * size_of::<Link>()));
        Some(self.tables.get(number)?.get_or_init(allocate))
    }
}

impl Drop for KeyIndex {
    fn drop(&mut self) {
        for table in self.tables.iter_mut().filter_map(OnceLock::take) {
            if table.0.bytes() >= POOLED_BYTES_MIN {
                self.pool.give_table(table.0);
            }
        }
    }
}

/// Slots of the table with this number.
fn slots(table: usize) -> usize {
    1 << (SLOTS_LOG2_MIN + GROWTH_LOG2 * table)
}

/// Puts `node` into the slot of its key; into a taken one only if it `is_newest` of equal ones.
///
/// # Safety
/// `node` must be a node of the list the table belongs to.
unsafe fn put_into(table: &[Link], node: NodeRef<'_>, is_newest: bool) -> bool {
    let mut slot = node.hash() as usize & (table.len() - 1);
    loop {
        let Some(link) = table.get(slot) else { return false };
        match link.load() {
            None => {
                // SAFETY: the caller's promise.
                unsafe { link.store(node) };
                return true;
            }
            Some(present) if present.hash() == node.hash() && present.key() == node.key() => {
                if is_newest && node.seq() >= present.seq() {
                    // SAFETY: the caller's promise.
                    unsafe { link.store(node) };
                }
                return false;
            }
            Some(_) => slot = (slot + 1) & (table.len() - 1),
        }
    }
}
