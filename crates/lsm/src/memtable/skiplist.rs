//! A skip list on an arena: one writer, many readers, nothing ever removed.
//!
//! Owns: node layout, memory of the nodes, publication of a node to readers.
//! Must never know: families, read points, files.
//! Invariants:
//! * Nodes are sorted by key ascending, then sequence number descending, then newest insert first.
//! * A node is fully written before a link to it is stored with `Release`; readers follow links
//!   with `Acquire`. Links change, everything else of a node never does.
//! * Memory of a node is freed only when the list is dropped; cursors own the list.
//! * Only the holder of the writer's mutex stores links or allocates.
//! Source: LevelDB's and Pebble's arena skip lists.
//!
//! ```text
//! node, 8-byte aligned:
//!   0  prefix       u64   first 8 bytes of the key, big-endian, zero padded: most comparisons
//!   8  seq          u64
//!  16  value_bytes  u32
//!  20  ordinal      u32
//!  24  key_bytes    u16
//!  26  height       u8
//!  27  kind         u8    0 tombstone, 1 value inline, 2 value in a `Bytes`
//!  32  tower        height links of 8 bytes, level 0 first
//!   …  `Bytes` (kind 2 only), key, value (kind 1 only)
//! ```
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cmp::Ordering;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering as Sync};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};

/// Levels of the tallest node; with one in four rising this serves 16 million nodes.
const HEIGHT_MAX: usize = 12;
/// Size of the first chunk; chunks double up to [`CHUNK_BYTES_MAX`].
const CHUNK_BYTES_MIN: usize = 4 * 1024;
/// Size of the largest chunk nodes share; a larger node has a chunk of its own.
const CHUNK_BYTES_MAX: usize = 1024 * 1024;
/// Longer values stay in the `Bytes` they came in; copying them would cost more than sharing.
const INLINE_BYTES_MAX: usize = 4 * 1024;

const KIND_TOMBSTONE: u8 = 0;
const KIND_INLINE: u8 = 1;
const KIND_SHARED: u8 = 2;

#[repr(C)]
struct Node {
    prefix: u64,
    seq: u64,
    value_bytes: u32,
    ordinal: u32,
    key_bytes: u16,
    height: u8,
    kind: u8,
}

type Link = AtomicPtr<Node>;

const TOWER_OFFSET: usize = size_of::<Node>();
const NODE_ALIGN: usize = 8;
const _: () = assert!(TOWER_OFFSET == 32 && align_of::<Node>() == NODE_ALIGN);
const _: () = assert!(size_of::<Link>() == 8 && align_of::<Bytes>() <= NODE_ALIGN);

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

/// The list. See the module's invariants.
pub(crate) struct SkipList {
    head: [Link; HEIGHT_MAX],
    height: AtomicUsize,
    bytes: AtomicUsize,
    /// Whether any two entries have equal key and sequence number.
    duplicates: AtomicBool,
    writer: Mutex<Inner>,
}

/// What only the writer touches.
struct Inner {
    arena: Arena,
    random: u64,
    /// Where the last node was inserted: its predecessor at every level, null for the head. The
    /// next key often belongs right behind it.
    splice: [*mut Node; HEIGHT_MAX],
    /// Values in `Bytes`, to be dropped with the list.
    shared: Vec<NonNull<Bytes>>,
}

// SAFETY: the pointers lead into memory the list owns and never frees before it is dropped; they
// are used under the mutex only.
unsafe impl Send for Inner {}

impl SkipList {
    pub(crate) fn new() -> Self {
        let inner = Inner {
            arena: Arena::default(),
            random: 0x9e37_79b9_7f4a_7c15,
            splice: [ptr::null_mut(); HEIGHT_MAX],
            shared: Vec::new(),
        };
        Self {
            head: Default::default(),
            height: AtomicUsize::new(1),
            bytes: AtomicUsize::new(0),
            duplicates: AtomicBool::new(false),
            writer: Mutex::new(inner),
        }
    }

    /// Memory held, bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Sync::Relaxed)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.head[0].load(Sync::Acquire).is_null()
    }

    /// Becomes the one writer until the guard is dropped.
    pub(crate) fn writer(&self) -> Writer<'_> {
        Writer { list: self, inner: self.writer.lock() }
    }

    /// The first entry of `key` with a sequence number of at most `seq`.
    pub(crate) fn get(&self, key: &[u8], seq: u64) -> Option<Entry<'_>> {
        let node = self.seek(&Target::new(key, seq));
        // SAFETY: `seek` returns null or a published node of this list, which lives as long.
        let entry = unsafe { entry(NonNull::new(node)?) };
        (entry.key == key).then_some(entry)
    }

    fn link(&self, node: *mut Node, level: usize) -> &Link {
        if node.is_null() {
            return &self.head[level];
        }
        // SAFETY: callers pass nodes of this list they reached at `level` or above, so the tower
        // has that link; the memory lives as long as the list.
        unsafe {
            assert_tower(node, level);
            &*tower(node).add(level)
        }
    }

    /// The first node at or after `target`, or null.
    fn seek(&self, target: &Target<'_>) -> *mut Node {
        let mut level = self.height.load(Sync::Relaxed) - 1;
        let mut before = ptr::null_mut();
        let mut beyond = ptr::null_mut();
        loop {
            let next = self.link(before, level).load(Sync::Acquire);
            // A node already known to lie beyond the target is met again one level lower.
            if next != beyond && !next.is_null() && target.is_after(next) {
                before = next;
                continue;
            }
            if level == 0 {
                return next;
            }
            beyond = next;
            level -= 1;
        }
    }

    /// The last node before `target` (of all nodes without one), or null.
    fn seek_before(&self, target: Option<&Target<'_>>) -> *mut Node {
        let mut level = self.height.load(Sync::Relaxed) - 1;
        let mut before = ptr::null_mut();
        loop {
            let next = self.link(before, level).load(Sync::Acquire);
            if !next.is_null() && target.is_none_or(|t| t.is_after(next)) {
                before = next;
            } else if level == 0 {
                return before;
            } else {
                level -= 1;
            }
        }
    }
}

impl Drop for SkipList {
    fn drop(&mut self) {
        for value in self.writer.get_mut().shared.drain(..) {
            // SAFETY: each was written once by `insert`, is dropped once here, and no reader is
            // left: cursors and entries borrow or own the list.
            unsafe { ptr::drop_in_place(value.as_ptr()) };
        }
    }
}

/// The right to insert.
pub(crate) struct Writer<'a> {
    list: &'a SkipList,
    inner: MutexGuard<'a, Inner>,
}

impl Writer<'_> {
    /// Inserts an entry; of equal key and sequence number the newest comes first.
    ///
    /// Returns whether an entry of the same key and sequence number existed.
    pub(crate) fn insert(
        &mut self,
        key: &[u8],
        seq: u64,
        ordinal: u32,
        value: Option<&Bytes>,
    ) -> bool {
        let target = Target::new(key, seq);
        self.find_splice(&target);
        let height = self.inner.random_height();
        let node = self.inner.create(&target, height, ordinal, value);
        let follower = self.list.link(self.inner.splice[0], 0).load(Sync::Relaxed);
        // SAFETY: a non-null link leads to a published node of this list.
        let duplicate =
            !follower.is_null() && unsafe { target.compare(follower) } == Ordering::Equal;
        if duplicate {
            self.list.duplicates.store(true, Sync::Relaxed);
        }
        for level in 0..height {
            let link = self.list.link(self.inner.splice[level], level);
            let next = link.load(Sync::Relaxed);
            // SAFETY: `node` was just created with `height` links and is not shared yet at this
            // level; its lower levels may be, but nobody stores there except this writer.
            unsafe { (*tower(node).add(level)).store(next, Sync::Relaxed) };
            link.store(node, Sync::Release);
            self.inner.splice[level] = node;
        }
        if height > self.list.height.load(Sync::Relaxed) {
            self.list.height.store(height, Sync::Relaxed);
        }
        self.list.bytes.store(self.inner.arena.bytes, Sync::Relaxed);
        duplicate
    }

    /// Sets the splice to the predecessors of `target` at all levels.
    fn find_splice(&mut self, target: &Target<'_>) {
        let last = self.inner.splice[0];
        if !last.is_null() && target.is_after(last) {
            let next = self.list.link(last, 0).load(Sync::Relaxed);
            // Nothing lies between the last insert and the target: at every level the last
            // predecessor still is the predecessor.
            if next.is_null() || !target.is_after(next) {
                return;
            }
        }
        let mut before = ptr::null_mut();
        let mut beyond = ptr::null_mut();
        for level in (0..HEIGHT_MAX).rev() {
            loop {
                let next: *mut Node = self.list.link(before, level).load(Sync::Relaxed);
                if next.is_null() || next == beyond || !target.is_after(next) {
                    beyond = next;
                    break;
                }
                before = next;
            }
            self.inner.splice[level] = before;
        }
    }
}

impl Inner {
    /// 1 with probability ¾, 2 with ¾ of the rest, and so on.
    fn random_height(&mut self) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let rises = (self.random | 1 << (2 * (HEIGHT_MAX - 1))).trailing_zeros() / 2;
        1 + rises as usize
    }

    /// Allocates and fills a node; its links are null and nobody knows it yet.
    fn create(
        &mut self,
        target: &Target<'_>,
        height: usize,
        ordinal: u32,
        value: Option<&Bytes>,
    ) -> *mut Node {
        let key = target.key;
        let (kind, inline): (u8, &[u8]) = match value {
            None => (KIND_TOMBSTONE, &[]),
            Some(value) if value.len() <= INLINE_BYTES_MAX => (KIND_INLINE, value),
            Some(_) => (KIND_SHARED, &[]),
        };
        let shared_bytes = if kind == KIND_SHARED { size_of::<Bytes>() } else { 0 };
        let key_offset = TOWER_OFFSET + height * size_of::<Link>() + shared_bytes;
        let memory = self.arena.allocate(key_offset + key.len() + inline.len());
        let node = memory.cast::<Node>().as_ptr();
        let header = Node {
            prefix: target.prefix,
            seq: target.seq,
            value_bytes: value.map_or(0, |v| u32::try_from(v.len()).expect("value length")),
            ordinal,
            key_bytes: u16::try_from(key.len()).expect("keys are checked by `Batch`"),
            height: u8::try_from(height).expect("height is at most 12"),
            kind,
        };
        // SAFETY: the arena returned that many bytes, 8-byte aligned and unused; every part below
        // lies inside them in the order the layout draws.
        unsafe {
            node.write(header);
            for level in 0..height {
                tower(node).add(level).cast_mut().write(Link::default());
            }
            if let (KIND_SHARED, Some(value)) = (kind, value) {
                let slot = memory.as_ptr().add(key_offset - shared_bytes).cast::<Bytes>();
                slot.write(value.clone());
                self.shared.push(NonNull::new_unchecked(slot));
                self.arena.bytes += value.len();
            }
            let bytes = memory.as_ptr().add(key_offset);
            ptr::copy_nonoverlapping(key.as_ptr(), bytes, key.len());
            ptr::copy_nonoverlapping(inline.as_ptr(), bytes.add(key.len()), inline.len());
        }
        node
    }
}

/// What is looked for.
struct Target<'a> {
    key: &'a [u8],
    seq: u64,
    prefix: u64,
}

impl<'a> Target<'a> {
    fn new(key: &'a [u8], seq: u64) -> Self {
        Self { key, seq, prefix: prefix(key) }
    }

    /// Whether `node`, which must be a live node of the list, sorts before this target.
    fn is_after(&self, node: *mut Node) -> bool {
        // SAFETY: callers pass non-null links of the list they search.
        unsafe { self.compare(node) == Ordering::Greater }
    }

    /// How this target sorts against `node`.
    ///
    /// # Safety
    /// `node` must be a fully written node whose memory is alive.
    unsafe fn compare(&self, node: *mut Node) -> Ordering {
        // SAFETY: the caller's promise; the header is never written again.
        let (node_prefix, node_seq) = unsafe { ((*node).prefix, (*node).seq) };
        match self.prefix.cmp(&node_prefix) {
            Ordering::Equal => {}
            other => return other,
        }
        // SAFETY: the caller's promise.
        let node_key = unsafe { key(node) };
        self.key.cmp(node_key).then(node_seq.cmp(&self.seq))
    }
}

/// The first eight bytes as a number that compares like them.
fn prefix(key: &[u8]) -> u64 {
    match key.first_chunk::<8>() {
        Some(first) => u64::from_be_bytes(*first),
        None => {
            let mut padded = [0; 8];
            padded[..key.len()].copy_from_slice(key);
            u64::from_be_bytes(padded)
        }
    }
}

/// The links of a node.
///
/// # Safety
/// `node` must be a node of a living list.
unsafe fn tower(node: *mut Node) -> *const Link {
    // SAFETY: the tower lies right behind the header in the same allocation.
    unsafe { node.cast::<u8>().add(TOWER_OFFSET).cast::<Link>() }
}

/// Checks in debug builds that a node has a link at `level`.
///
/// # Safety
/// `node` must be a node of a living list.
unsafe fn assert_tower(node: *mut Node, level: usize) {
    // SAFETY: the caller's promise.
    debug_assert!(level < usize::from(unsafe { (*node).height }));
}

/// Start of the part behind the tower.
///
/// # Safety
/// `node` must be a fully written node of a living list.
unsafe fn body(node: *mut Node) -> *const u8 {
    // SAFETY: the caller's promise; header and tower lie in the same allocation.
    unsafe { tower(node).add(usize::from((*node).height)).cast::<u8>() }
}

/// The key of a node.
///
/// # Safety
/// `node` must be a fully written node, alive for `'a`.
unsafe fn key<'a>(node: *mut Node) -> &'a [u8] {
    // SAFETY: the caller's promise; `create` laid the key out exactly here.
    unsafe {
        let shared = if (*node).kind == KIND_SHARED { size_of::<Bytes>() } else { 0 };
        std::slice::from_raw_parts(body(node).add(shared), usize::from((*node).key_bytes))
    }
}

/// Everything a node holds.
///
/// # Safety
/// `node` must be a fully written node, alive for `'a`.
unsafe fn entry<'a>(node: NonNull<Node>) -> Entry<'a> {
    let node = node.as_ptr();
    // SAFETY: the caller's promise; `create` laid key and value out exactly here.
    unsafe {
        let key = key(node);
        let value = match (*node).kind {
            KIND_TOMBSTONE => Value::Tombstone,
            KIND_SHARED => Value::Shared(&*body(node).cast::<Bytes>()),
            _ => {
                let start = body(node).add(key.len());
                Value::Inline(std::slice::from_raw_parts(start, (*node).value_bytes as usize))
            }
        };
        Entry { key, seq: (*node).seq, ordinal: (*node).ordinal, value }
    }
}

/// Memory of the nodes: chunks that grow, freed together.
#[derive(Default)]
struct Arena {
    chunks: Vec<(NonNull<u8>, Layout)>,
    free: Option<NonNull<u8>>,
    free_bytes: usize,
    /// Allocated chunks and shared values, bytes.
    bytes: usize,
}

impl Arena {
    /// `bytes` of unused memory, 8-byte aligned.
    fn allocate(&mut self, bytes: usize) -> NonNull<u8> {
        let bytes = bytes.next_multiple_of(NODE_ALIGN);
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
        let layout = Layout::from_size_align(bytes, NODE_ALIGN).expect("chunks are small");
        // SAFETY: the size is never zero: a node has at least its header.
        let Some(memory) = NonNull::new(unsafe { alloc(layout) }) else {
            handle_alloc_error(layout);
        };
        self.chunks.push((memory, layout));
        self.bytes += bytes;
        memory
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        for (memory, layout) in self.chunks.drain(..) {
            // SAFETY: allocated by `chunk` with this layout and freed once; the list is gone.
            unsafe { dealloc(memory.as_ptr(), layout) };
        }
    }
}

/// A place in a list that keeps the list alive.
pub(crate) struct Cursor {
    list: Arc<SkipList>,
    node: *mut Node,
}

// SAFETY: the node lies in memory owned by the list, which the cursor owns and which may be read
// from any thread.
unsafe impl Send for Cursor {}

impl Cursor {
    /// At the first entry at or after (`key`, `seq`); at the very first without a key.
    pub(crate) fn forward(list: Arc<SkipList>, from: Option<(&[u8], u64)>) -> Self {
        let node = match from {
            Some((key, seq)) => list.seek(&Target::new(key, seq)),
            None => list.head[0].load(Sync::Acquire),
        };
        Self { list, node }
    }

    /// At the last entry before (`key`, `seq`); at the very last without a key.
    pub(crate) fn backward(list: Arc<SkipList>, before: Option<(&[u8], u64)>) -> Self {
        let target = before.map(|(key, seq)| Target::new(key, seq));
        let node = list.seek_before(target.as_ref());
        let mut cursor = Self { list, node };
        cursor.settle();
        cursor
    }

    /// The entry here, `None` past the end.
    pub(crate) fn entry(&self) -> Option<Entry<'_>> {
        // SAFETY: a non-null node is a published node of the list the cursor owns.
        NonNull::new(self.node).map(|node| unsafe { entry(node) })
    }

    /// Moves to the following entry.
    pub(crate) fn next(&mut self) {
        if !self.node.is_null() {
            self.node = self.list.link(self.node, 0).load(Sync::Acquire);
        }
    }

    /// Moves to the preceding entry. Cost: a search, there are no backward links.
    ///
    /// Of several entries with equal key and sequence number only the newest is visited.
    pub(crate) fn previous(&mut self) {
        let Some(entry) = self.entry() else { return };
        let node = self.list.seek_before(Some(&Target::new(entry.key, entry.seq)));
        self.node = node;
        self.settle();
    }

    /// From the oldest of equal entries, where a backward search ends, to the newest.
    fn settle(&mut self) {
        if !self.list.duplicates.load(Sync::Relaxed) {
            return;
        }
        if let Some(entry) = self.entry() {
            let node = self.list.seek(&Target::new(entry.key, entry.seq));
            self.node = node;
        }
    }
}
