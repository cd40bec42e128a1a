//! Many sorted streams as one.

use std::cmp::Ordering;

use crate::error::Result;
use crate::read::source::{Direction, Source};

/// The merge of sources that all go the same way.
///
/// Of records with equal key and sequence number the one of the newer source comes first when
/// going forward, last when going backward.
///
/// Sources are large and stay where they are; their order is a short list of numbers. There are
/// few of them, and mostly the one that was next is so again, which one comparison shows.
pub(crate) struct Merge {
    /// Newest first.
    sources: Vec<Source>,
    /// Numbers of the sources that stand at a record, the one with the next record last.
    order: Vec<u32>,
    direction: Direction,
}

impl Merge {
    /// Merges `sources`, newest first.
    pub(crate) fn new(sources: Vec<Source>, direction: Direction) -> Self {
        let mut merge = Self { order: Vec::with_capacity(sources.len()), sources, direction };
        let valid = (0..).zip(&merge.sources).filter(|(_, s)| s.is_valid());
        let mut order: Vec<u32> = valid.map(|(number, _)| number).collect();
        order.sort_unstable_by(|a, b| merge.compare(*b, *a));
        merge.order = order;
        merge
    }

    /// The source that stands at the next record, `None` at the end.
    #[inline]
    pub(crate) fn head(&self) -> Option<&Source> {
        self.sources.get(*self.order.last()? as usize)
    }

    /// Passes the record at the head.
    #[inline]
    pub(crate) fn advance(&mut self) -> Result<()> {
        let Some(number) = self.order.last().copied() else { return Ok(()) };
        let Some(source) = self.sources.get_mut(number as usize) else { return Ok(()) };
        source.advance()?;
        if !source.is_valid() {
            self.order.pop();
            return Ok(());
        }
        self.sink();
        Ok(())
    }

    /// Puts the last in `order` to its place.
    fn sink(&mut self) {
        let mut at = self.order.len() - 1;
        while at > 0 && self.compare(self.order[at], self.order[at - 1]) == Ordering::Greater {
            self.order.swap(at, at - 1);
            at -= 1;
        }
    }

    /// How the records two sources stand at follow each other.
    fn compare(&self, a: u32, b: u32) -> Ordering {
        let (one, other) = (&self.sources[a as usize], &self.sources[b as usize]);
        let forward = (one.key().cmp(other.key()))
            .then_with(|| other.seq().cmp(&one.seq()))
            .then_with(|| a.cmp(&b));
        match self.direction {
            Direction::Forward => forward,
            Direction::Backward => forward.reverse(),
        }
    }
}
