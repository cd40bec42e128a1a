//! Nodes of a skip list: their layout in the arena, and links between them.
//!
//! Invariants:
//! * A node is fully written before a link to it is stored with `Release`; readers follow links
//!   with `Acquire`. Links change, everything else of a node never does.
//! * A link leads only to nodes of its own list, which live until the list is dropped. So whoever
//!   may borrow a link may borrow what it leads to.
//!
//! ```text
//! node, 8-byte aligned:
//!   0  prefix       u64   what most comparisons need of the key, see `Prefix`
//!   8  seq          u64
//!  16  value_bytes  u32
//!  20  ordinal      u32
//!  24  key_bytes    u16
//!  26  height       u8
//!  27  kind         u8    0 tombstone, 1 value inline, 2 value in a `Bytes`
//!  28  hash         u32   of the key
//!  32  tower        height links of 8 bytes, level 0 first
//!   …  `Bytes` (kind 2 only), key, value (kind 1 only)
//! ```
#![allow(unsafe_code)]

use std::cmp::Ordering;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use bytes::Bytes;
use holdfast_env::sync::{AtomicPtr, Ordering as Sync};

use crate::memtable::arena::{ALIGN, Arena, ChunkPool};
use crate::prefetch::prefetch;

/// Longer values stay in the `Bytes` they came in; copying them would cost more than sharing.
const INLINE_BYTES_MAX: usize = 4 * 1024;

const KIND_TOMBSTONE: u8 = 0;
const KIND_INLINE: u8 = 1;
const KIND_SHARED: u8 = 2;

#[repr(C)]
struct Header {
    prefix: u64,
    seq: u64,
    value_bytes: u32,
    ordinal: u32,
    key_bytes: u16,
    height: u8,
    kind: u8,
    hash: u32,
}

const TOWER_OFFSET: usize = size_of::<Header>();
const _: () = assert!(TOWER_OFFSET == 32 && align_of::<Header>() == ALIGN);
const _: () = assert!(size_of::<Link>() == 8 && align_of::<Bytes>() <= ALIGN);

/// What a node holds.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) seq: u64,
    pub(crate) ordinal: u32,
    pub(crate) value: Value<'a>,
}

/// The value of a node.
#[derive(Clone, Copy)]
pub(crate) enum Value<'a> {
    Tombstone,
    Inline(&'a [u8]),
    Shared(&'a Bytes),
}

impl<'a> Value<'a> {
    /// The value's bytes, `None` for a tombstone.
    pub(crate) fn as_slice(&self) -> Option<&'a [u8]> {
        match self {
            Self::Tombstone => None,
            Self::Inline(bytes) => Some(bytes),
            Self::Shared(bytes) => Some(bytes),
        }
    }

    /// The value as an owned buffer, copied only if it lies in the arena.
    pub(crate) fn to_bytes(self) -> Option<Bytes> {
        match self {
            Self::Tombstone => None,
            Self::Inline(bytes) => Some(Bytes::copy_from_slice(bytes)),
            Self::Shared(bytes) => Some(bytes.clone()),
        }
    }
}

/// A way to a node, or to none.
#[derive(Debug, Default)]
pub(super) struct Link(AtomicPtr<Header>);

impl Link {
    /// The node this leads to, completely written.
    #[inline]
    pub(super) fn load(&self) -> Option<NodeRef<'_>> {
        let node = NonNull::new(self.0.load(Sync::Acquire))?;
        Some(NodeRef { node, list: PhantomData })
    }

    /// Asks for the memory of the node this leads to, which may be looked at soon.
    #[inline]
    pub(super) fn prefetch(&self) {
        prefetch(self.0.load(Sync::Relaxed));
    }

    /// Asks for the memory of the link itself.
    #[inline]
    pub(super) fn prefetch_self(&self) {
        prefetch(self);
    }

    /// Leads to `node` from now on.
    ///
    /// # Safety
    /// `node` must be a node of the list this link belongs to.
    pub(super) unsafe fn store(&self, node: NodeRef<'_>) {
        self.0.store(node.node.as_ptr(), Sync::Release);
    }

    /// Leads where `other`, a link of the same list, leads; for links nobody can follow yet.
    fn copy(&self, other: &Self) {
        self.0.store(other.0.load(Sync::Relaxed), Sync::Relaxed);
    }
}

/// A node that is alive, and fully written, for `'a`.
#[derive(Clone, Copy)]
pub(super) struct NodeRef<'a> {
    node: NonNull<Header>,
    list: PhantomData<&'a Header>,
}

impl PartialEq for NodeRef<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.node == other.node
    }
}

/// A node without the promise that it is alive.
#[derive(Clone, Copy, Default)]
pub(super) struct NodeId(Option<NonNull<Header>>);

// SAFETY: only a name; making use of it takes `NodeRef::of`, which has its own condition.
unsafe impl Send for NodeId {}

impl NodeId {
    pub(super) fn of(node: Option<NodeRef<'_>>) -> Self {
        Self(node.map(|n| n.node))
    }
}

impl<'a> NodeRef<'a> {
    /// The node named `id`.
    ///
    /// # Safety
    /// `id` must come from a node of a list that lives for `'a`.
    pub(super) unsafe fn of(id: NodeId) -> Option<Self> {
        id.0.map(|node| Self { node, list: PhantomData })
    }

    fn header(self) -> &'a Header {
        // SAFETY: a `NodeRef` is alive and fully written, and headers never change.
        unsafe { self.node.as_ref() }
    }

    pub(super) fn seq(self) -> u64 {
        self.header().seq
    }

    pub(super) fn hash(self) -> u32 {
        self.header().hash
    }

    /// The link at `level`.
    ///
    /// # Panics
    /// If the node is lower than that.
    #[inline]
    pub(super) fn link(self, level: usize) -> &'a Link {
        assert!(level < usize::from(self.header().height), "a node is reached by its own levels");
        // SAFETY: the tower has `height` links right behind the header, in the same allocation.
        unsafe { &*self.tower().add(level) }
    }

    fn tower(self) -> *const Link {
        // SAFETY: the tower lies right behind the header in the same allocation.
        unsafe { self.node.as_ptr().cast::<u8>().add(TOWER_OFFSET).cast::<Link>() }
    }

    /// Start of the part behind the tower.
    fn body(self) -> *const u8 {
        // SAFETY: the part behind the tower begins at most one past the allocation's end.
        unsafe { self.tower().add(usize::from(self.header().height)).cast::<u8>() }
    }

    #[inline]
    pub(super) fn key(self) -> &'a [u8] {
        let header = self.header();
        let shared = if header.kind == KIND_SHARED { size_of::<Bytes>() } else { 0 };
        // SAFETY: `create` laid the key out exactly here.
        unsafe {
            std::slice::from_raw_parts(self.body().add(shared), usize::from(header.key_bytes))
        }
    }

    pub(super) fn entry(self) -> Entry<'a> {
        let (header, key) = (self.header(), self.key());
        // SAFETY: `create` laid the value out exactly here, as its kind says.
        let value = unsafe {
            match header.kind {
                KIND_TOMBSTONE => Value::Tombstone,
                KIND_SHARED => Value::Shared(&*self.body().cast::<Bytes>()),
                _ => {
                    let start = self.body().add(key.len());
                    let bytes = header.value_bytes as usize;
                    Value::Inline(std::slice::from_raw_parts(start, bytes))
                }
            }
        };
        Entry { key, seq: header.seq, ordinal: header.ordinal, value }
    }
}

/// What is looked for, or to be inserted.
pub(super) struct Target<'a> {
    pub(super) key: &'a [u8],
    pub(super) seq: u64,
    prefix: u64,
}

impl<'a> Target<'a> {
    pub(super) fn new(prefix: &Prefix, key: &'a [u8], seq: u64) -> Self {
        Self { key, seq, prefix: prefix.of(key) }
    }

    /// The part of the key that comparisons look at first.
    pub(super) fn prefix(&self) -> u64 {
        self.prefix
    }

    /// How this target sorts against `node`: by key, then by sequence number descending.
    #[inline]
    pub(super) fn compare(&self, node: NodeRef<'_>) -> Ordering {
        let header = node.header();
        match self.prefix.cmp(&header.prefix) {
            Ordering::Equal => self.key.cmp(node.key()).then(header.seq.cmp(&self.seq)),
            other => other,
        }
    }

    /// Whether `node` sorts before this target.
    #[inline]
    pub(super) fn is_after(&self, node: NodeRef<'_>) -> bool {
        self.compare(node) == Ordering::Greater
    }
}

/// Turns keys into numbers that never compare against the order of the keys: eight bytes of each
/// key behind what most keys of the list have in common.
#[derive(Debug, Default)]
pub(super) struct Prefix {
    common: Box<[u8]>,
}

impl Prefix {
    /// For a list most of whose keys will begin with `common`.
    pub(super) fn behind(common: &[u8]) -> Self {
        Self { common: common.into() }
    }

    /// The number of `key`; equal ones say nothing about the order of their keys.
    #[inline]
    fn of(&self, key: &[u8]) -> u64 {
        let (first, rest) = key.split_at(key.len().min(self.common.len()));
        match first.cmp(&self.common) {
            Ordering::Equal => leading_bytes(rest),
            Ordering::Less => 0,
            Ordering::Greater => u64::MAX,
        }
    }
}

/// The first eight bytes as a number that compares like them.
#[inline]
fn leading_bytes(key: &[u8]) -> u64 {
    match key.first_chunk::<8>() {
        Some(first) => u64::from_be_bytes(*first),
        None => {
            let mut padded = [0; 8];
            padded[..key.len()].copy_from_slice(key);
            u64::from_be_bytes(padded)
        }
    }
}

/// Nodes and the values they share with others.
pub(super) struct Nodes {
    arena: Arena,
    shared: Vec<NonNull<Bytes>>,
    shared_bytes: usize,
}

// SAFETY: nodes and their values are plain memory owned by the arena; `Bytes` is `Send`.
unsafe impl Send for Nodes {}

impl Nodes {
    /// No nodes; memory for them comes from `pool`.
    pub(super) fn new(pool: Arc<ChunkPool>) -> Self {
        Self { arena: Arena::new(pool), shared: Vec::new(), shared_bytes: 0 }
    }

    /// Memory held, bytes.
    pub(super) fn bytes(&self) -> usize {
        self.arena.bytes + self.shared_bytes
    }

    /// A node for `target` whose links lead where those in `next` do. Nothing leads to it yet.
    pub(super) fn create(
        &mut self,
        target: &Target<'_>,
        hash: u32,
        ordinal: u32,
        value: Option<&Bytes>,
        next: &[&Link],
    ) -> NodeId {
        let (key, height) = (target.key, next.len());
        let (kind, inline): (u8, &[u8]) = match value {
            None => (KIND_TOMBSTONE, &[]),
            Some(value) if value.len() <= INLINE_BYTES_MAX => (KIND_INLINE, value),
            Some(_) => (KIND_SHARED, &[]),
        };
        let shared_bytes = if kind == KIND_SHARED { size_of::<Bytes>() } else { 0 };
        let key_offset = TOWER_OFFSET + height * size_of::<Link>() + shared_bytes;
        let memory = self.arena.allocate(key_offset + key.len() + inline.len());
        let node = memory.cast::<Header>();
        let header = Header {
            prefix: target.prefix,
            seq: target.seq,
            value_bytes: value.map_or(0, |v| u32::try_from(v.len()).expect("value length")),
            ordinal,
            key_bytes: u16::try_from(key.len()).expect("keys are checked by `Batch`"),
            height: u8::try_from(height).expect("height is at most 12"),
            kind,
            hash,
        };
        // SAFETY: the arena returned that many bytes, 8-byte aligned and unused; every part below
        // lies inside them in the order the layout draws.
        unsafe {
            node.write(header);
            let tower = memory.as_ptr().add(TOWER_OFFSET).cast::<Link>();
            for (level, next) in next.iter().enumerate() {
                let link = Link::default();
                link.copy(next);
                tower.add(level).write(link);
            }
            if let (KIND_SHARED, Some(value)) = (kind, value) {
                let slot = memory.as_ptr().add(key_offset - shared_bytes).cast::<Bytes>();
                slot.write(value.clone());
                self.shared.push(NonNull::new_unchecked(slot));
                self.shared_bytes += value.len();
            }
            let bytes = memory.as_ptr().add(key_offset);
            ptr::copy_nonoverlapping(key.as_ptr(), bytes, key.len());
            ptr::copy_nonoverlapping(inline.as_ptr(), bytes.add(key.len()), inline.len());
        }
        NodeId(Some(node))
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for value in self.shared.drain(..) {
            // SAFETY: written once by `create` and dropped once here; whoever reads nodes borrows
            // or owns the list these belong to, so nobody does any more.
            unsafe { ptr::drop_in_place(value.as_ptr()) };
        }
    }
}
