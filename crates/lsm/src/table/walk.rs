//! Walking the records of one block, either way.

use std::cell::OnceCell;
use std::ops::Range;

use bytes::Bytes;

use crate::table::block::{Block, Parsed, Position, Stored};

/// Stands at a record of a block, with its key put together. Its methods that move return `None`
/// if the block is damaged, and whether they found a record otherwise.
pub(crate) struct BlockWalk {
    block: Option<Block>,
    /// The block's content as a buffer, once a value was shared.
    bytes: OnceCell<Bytes>,
    key: Vec<u8>,
    record: Option<Parsed>,
    /// Going forward: where the next record begins.
    next: Position,
    /// Going backward: records of the current interval that come before this one, with their
    /// keys in `keys`; and the restarts not visited yet.
    before: Vec<(Range<usize>, Parsed)>,
    keys: Vec<u8>,
    intervals: usize,
}

impl BlockWalk {
    /// Stands nowhere.
    pub(crate) fn new() -> Self {
        Self {
            block: None,
            bytes: OnceCell::new(),
            key: Vec::new(),
            record: None,
            next: Position::default(),
            before: Vec::new(),
            keys: Vec::new(),
            intervals: 0,
        }
    }

    /// Enters `block` in front of its first record; with `from`, of one not behind `from`'s first.
    pub(crate) fn enter_forward(&mut self, block: Block, from: Option<&[u8]>) -> Option<()> {
        let restart = from.map_or(Some(0), |key| block.seek_restart(key, u64::MAX))?;
        self.key.clear();
        self.next = block.restart(restart)?;
        (self.block, self.bytes) = (Some(block), OnceCell::new());
        Some(())
    }

    /// Enters `block` behind its last record; with `before`, behind the last one before it.
    pub(crate) fn enter_backward(&mut self, block: Block, before: Option<&[u8]>) -> Option<()> {
        let last = block.restarts() - 1;
        self.intervals = 1 + before.map_or(Some(last), |key| block.seek_restart(key, u64::MAX))?;
        self.before.clear();
        (self.block, self.bytes) = (Some(block), OnceCell::new());
        Some(())
    }

    /// Leaves the block; there is no record.
    pub(crate) fn leave(&mut self) {
        (self.block, self.bytes) = (None, OnceCell::new());
        self.record = None;
    }

    #[inline]
    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    #[inline]
    pub(crate) fn record(&self) -> Option<&Parsed> {
        self.record.as_ref()
    }

    /// The value as it is stored; `None` if there is no record or its reference is damaged.
    pub(crate) fn stored(&self) -> Option<Stored<'_>> {
        let (record, block) = (self.record.as_ref()?, self.block.as_ref()?);
        block.stored(record)
    }

    /// The stored value sharing the block's memory; empty for a tombstone.
    pub(crate) fn share(&self) -> Bytes {
        let (Some(record), Some(block)) = (&self.record, &self.block) else { return Bytes::new() };
        let bytes = self.bytes.get_or_init(|| block.clone().into_bytes());
        bytes.slice(record.value.clone())
    }

    /// Moves to the next record.
    #[inline]
    pub(crate) fn forward(&mut self) -> Option<bool> {
        let Some(block) = &self.block else { return Some(false) };
        if block.is_end(self.next) {
            return Some(false);
        }
        let record = block.parse(self.next)?;
        if record.shared > self.key.len() {
            return None;
        }
        self.key.truncate(record.shared);
        self.key.extend_from_slice(block.slice(record.key.clone()));
        self.next = record.next();
        self.record = Some(record);
        Some(true)
    }

    /// Moves to the record before.
    pub(crate) fn backward(&mut self) -> Option<bool> {
        while self.before.is_empty() {
            let Some(interval) = self.intervals.checked_sub(1) else { return Some(false) };
            self.intervals = interval;
            self.unfold(interval)?;
        }
        let Some((key, record)) = self.before.pop() else { return Some(false) };
        self.key.clear();
        self.key.extend_from_slice(self.keys.get(key)?);
        self.record = Some(record);
        Some(true)
    }

    /// Puts the keys of one interval between restarts together.
    fn unfold(&mut self, interval: usize) -> Option<()> {
        let Some(block) = &self.block else { return Some(()) };
        let mut position = block.restart(interval)?;
        let end =
            if interval + 1 < block.restarts() { Some(block.restart(interval + 1)?) } else { None };
        self.keys.clear();
        let mut last = 0..0;
        while !block.is_end(position) && Some(position) != end {
            let record = block.parse(position)?;
            position = record.next();
            if record.shared > last.len() {
                return None;
            }
            let start = self.keys.len();
            self.keys.extend_from_within(last.start..last.start + record.shared);
            self.keys.extend_from_slice(block.slice(record.key.clone()));
            last = start..self.keys.len();
            self.before.push((last.clone(), record));
        }
        Some(())
    }
}
