//! From a key to the newest of its nodes in one step.
//!
//! A search of the list passes some twenty nodes, each a cache miss; most reads ask the memtable
//! first and most of those find nothing there. The index answers both with about one miss.
//!
//! Invariants:
//! * Open addressing with linear probing; at most half of the slots are taken, none is ever freed.
//! * A slot leads to a node of one key for ever, to newer and newer nodes of it.
//! * Tables only grow: a larger one is filled before it is published, the smaller ones stay until
//!   the list is dropped. A reader that still uses a smaller one misses only keys inserted after
//!   it looked for the table, which its read point does not cover.
#![allow(unsafe_code)]

use std::sync::OnceLock;

use holdfast_env::sync::{AtomicUsize, Ordering as Sync};

use crate::memtable::node::{Link, NodeRef};

/// Slots of the smallest table, as a power of two.
const SLOTS_LOG2_MIN: usize = 6;
/// Slots of the largest table, as a power of two; hashes have 32 bits.
const SLOTS_LOG2_MAX: usize = 31;
/// Each table is so many times (as a power of two) larger than the one before.
const GROWTH_LOG2: usize = 2;
const TABLES: usize = (SLOTS_LOG2_MAX - SLOTS_LOG2_MIN) / GROWTH_LOG2 + 1;

/// See the module.
pub(super) struct KeyIndex {
    tables: [OnceLock<Box<[Link]>>; TABLES],
    /// The table in use.
    current: AtomicUsize,
}

impl KeyIndex {
    /// An index that takes `keys` keys without growing.
    pub(super) fn with_capacity(keys: usize) -> Self {
        let fits = |table: &usize| slots(*table) >= keys.saturating_mul(2);
        let current = (0..TABLES).find(fits).unwrap_or(TABLES - 1);
        Self { tables: [const { OnceLock::new() }; TABLES], current: AtomicUsize::new(current) }
    }

    /// Memory held, bytes.
    pub(super) fn bytes(&self) -> usize {
        self.tables.iter().filter_map(OnceLock::get).map(|t| size_of_val::<[Link]>(t)).sum()
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
    /// one writer may call this, and it must `grow` first when the table is half full.
    ///
    /// # Safety
    /// `node` must be a node of the list this index belongs to.
    pub(super) unsafe fn put(&self, node: NodeRef<'_>) -> bool {
        let current = self.current.load(Sync::Relaxed);
        let Some(table) = self.tables.get(current) else { return false };
        let table = table.get_or_init(|| allocate(current));
        // SAFETY: the caller's promise.
        unsafe { put_into(table, node, true) }
    }

    /// Whether a table that holds `keys` keys has to grow before the next one.
    pub(super) fn is_full(&self, keys: usize) -> bool {
        keys >= slots(self.current.load(Sync::Relaxed)) / 2
    }

    /// Moves to the next larger table, filled with `nodes`, newest of each key first.
    ///
    /// # Safety
    /// `nodes` must be nodes of the list this index belongs to.
    pub(super) unsafe fn grow<'a>(&'a self, nodes: impl Iterator<Item = NodeRef<'a>>) {
        let next = self.current.load(Sync::Relaxed) + 1;
        let Some(slot) = self.tables.get(next) else { return };
        let table = slot.get_or_init(|| allocate(next));
        for node in nodes {
            // SAFETY: the caller's promise.
            unsafe { put_into(table, node, false) };
        }
        self.current.store(next, Sync::Release);
    }
}

/// Slots of the table with this number.
fn slots(table: usize) -> usize {
    1 << (SLOTS_LOG2_MIN + GROWTH_LOG2 * table)
}

fn allocate(table: usize) -> Box<[Link]> {
    (0..slots(table)).map(|_| Link::default()).collect()
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
