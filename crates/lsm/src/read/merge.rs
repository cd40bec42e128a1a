//! Many sorted streams as one.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use crate::error::Result;
use crate::read::source::{Direction, Source};

/// The merge of sources that all go the same way.
///
/// Of records with equal key and sequence number the one of the newer source comes first when
/// going forward, last when going backward.
pub(crate) struct Merge {
    heap: BinaryHeap<Item>,
}

struct Item {
    source: Source,
    /// Age of the source, 0 is the newest.
    age: usize,
    direction: Direction,
}

impl Merge {
    /// Merges `sources`, newest first.
    pub(crate) fn new(sources: Vec<Source>, direction: Direction) -> Self {
        let items = sources.into_iter().enumerate().filter(|(_, s)| s.is_valid());
        let heap = items.map(|(age, source)| Item { source, age, direction }).collect();
        Self { heap }
    }

    /// The source that stands at the next record, `None` at the end.
    pub(crate) fn head(&self) -> Option<&Source> {
        self.heap.peek().map(|item| &item.source)
    }

    /// Passes the record at the head.
    pub(crate) fn advance(&mut self) -> Result<()> {
        let Some(mut head) = self.heap.peek_mut() else { return Ok(()) };
        head.source.advance()?;
        if !head.source.is_valid() {
            PeekMut::pop(head);
        }
        Ok(())
    }
}

impl Ord for Item {
    /// The greatest item is the next record; the heap keeps the greatest on top.
    fn cmp(&self, other: &Self) -> Ordering {
        let forward = self
            .source
            .key()
            .cmp(other.source.key())
            .then_with(|| other.source.seq().cmp(&self.source.seq()))
            .then_with(|| self.age.cmp(&other.age));
        match self.direction {
            Direction::Forward => forward.reverse(),
            Direction::Backward => forward,
        }
    }
}

impl PartialOrd for Item {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Item {}
