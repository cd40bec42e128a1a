//! Records of one table, or of a level of tables that do not overlap, as a stream.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::Result;
use crate::read::{Direction, KeyRange};
use crate::table::block::{Block, Stored};
use crate::table::format::Handle;
use crate::table::partition::Partition;
use crate::table::properties::FamilyProperties;
use crate::table::reader::{Fill, Table};
use crate::table::walk::BlockWalk;
use crate::types::Family;

/// Bytes read ahead by a stream that reads a whole table.
const READ_AHEAD_BYTES: u64 = 256 << 10;

/// Sequence numbers a stream shows, both ends included.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SeqRange {
    pub(crate) min: u64,
    pub(crate) max: u64,
}

impl SeqRange {
    /// Every sequence number.
    pub(crate) const ALL: Self = Self { min: 0, max: u64::MAX };

    /// Everything up to `max`.
    pub(crate) fn to(max: u64) -> Self {
        Self { min: 0, max }
    }

    fn contains(self, seq: u64) -> bool {
        self.min <= seq && seq <= self.max
    }

    pub(crate) fn overlaps(self, min: u64, max: u64) -> bool {
        self.min <= max && min <= self.max
    }
}

/// How a stream gets its blocks.
enum Loading {
    /// Through the cache.
    Cached,
    /// Past the cache, many at once: the caller reads everything and only once.
    Ahead { buffer: Vec<u8>, start: u64, scratch: Vec<u8> },
}

/// The stream of one table.
pub(crate) struct TableSource {
    table: Arc<Table>,
    direction: Direction,
    seqs: SeqRange,
    loading: Loading,
    /// Blocks not visited yet; taken from the front going forward, from the back going backward.
    blocks: Range<usize>,
    /// The partition of the current block.
    partition: Option<Arc<Partition>>,
    handle: Handle,
    /// Whether the current block was in the cache.
    is_warm: bool,
    walk: BlockWalk,
    /// Where the first block is entered; the others are entered at their edge.
    edge: Option<Bytes>,
}

impl TableSource {
    /// The records of `family` in `range` (its far end is checked by the reader).
    pub(crate) fn new(
        table: Arc<Table>,
        family: Family,
        range: &KeyRange,
        direction: Direction,
        seqs: SeqRange,
    ) -> Result<Self> {
        let mut blocks = table.blocks(family);
        let edge = match direction {
            Direction::Forward => range.lower.clone(),
            Direction::Backward => range.upper.clone(),
        };
        match (direction, &edge) {
            (Direction::Forward, Some(lower)) => blocks.start = table.seek(family, lower)?,
            (Direction::Backward, Some(upper)) => {
                // The block whose separator reaches `upper` may still hold keys below it.
                blocks.end = blocks.end.min(table.seek(family, upper)? + 1);
            }
            _ => {}
        }
        let mut source = Self::at(table, direction, seqs, Loading::Cached, blocks, edge.clone());
        source.advance()?;
        if let Some(edge) = edge {
            source.pass(&edge)?;
        }
        Ok(source)
    }

    /// The records of `family` in `range` (its end is checked by the reader), read past the cache
    /// in large pieces.
    pub(crate) fn whole(table: Arc<Table>, family: Family, range: &KeyRange) -> Result<Self> {
        let mut blocks = table.blocks(family);
        if let Some(lower) = &range.lower {
            blocks.start = table.seek(family, lower)?;
        }
        if let Some(upper) = &range.upper {
            blocks.end = blocks.end.min(table.seek(family, upper)? + 1);
        }
        let loading = Loading::Ahead { buffer: Vec::new(), start: 0, scratch: Vec::new() };
        let edge = range.lower.clone();
        let (forward, all) = (Direction::Forward, SeqRange::ALL);
        let mut source = Self::at(table, forward, all, loading, blocks, edge.clone());
        source.advance()?;
        if let Some(edge) = edge {
            source.pass(&edge)?;
        }
        Ok(source)
    }

    fn at(
        table: Arc<Table>,
        direction: Direction,
        seqs: SeqRange,
        loading: Loading,
        blocks: Range<usize>,
        edge: Option<Bytes>,
    ) -> Self {
        let (partition, handle, walk) = (None, Handle::default(), BlockWalk::new());
        let is_warm = false;
        Self { table, direction, seqs, loading, blocks, partition, handle, is_warm, walk, edge }
    }

    /// Moves over records outside the near end of the range.
    fn pass(&mut self, edge: &[u8]) -> Result<()> {
        let is_outside = |source: &Self| match source.direction {
            Direction::Forward => source.key() < edge,
            Direction::Backward => source.key() >= edge,
        };
        while self.is_valid() && is_outside(self) {
            self.advance()?;
        }
        Ok(())
    }

    #[inline]
    pub(crate) fn is_valid(&self) -> bool {
        self.walk.record().is_some()
    }

    #[inline]
    pub(crate) fn key(&self) -> &[u8] {
        self.walk.key()
    }

    #[inline]
    pub(crate) fn seq(&self) -> u64 {
        self.walk.record().map_or(0, |r| r.seq)
    }

    pub(crate) fn ordinal(&self) -> u32 {
        self.walk.record().map_or(0, |r| r.ordinal)
    }

    /// Whether the record lies in a block somebody has read lately: a stream that reads past the
    /// cache found it there.
    pub(crate) fn is_warm(&self) -> bool {
        self.is_warm
    }

    /// The value as it is stored.
    pub(crate) fn stored(&self) -> Result<Stored<'_>> {
        self.walk.stored().ok_or_else(|| self.table.damaged(self.handle))
    }

    /// The value wherever it lies; `None` for a tombstone. Waits for the disk.
    pub(crate) fn value_bytes(&self) -> Result<Option<Bytes>> {
        Ok(match self.stored()? {
            Stored::Tombstone => None,
            Stored::Inline(_) => Some(self.walk.share()),
            Stored::Blob(reference) => self.table.blob(reference, Fill::FromDisk)?,
        })
    }

    /// Moves to the next visible record, or past the end.
    pub(crate) fn advance(&mut self) -> Result<()> {
        loop {
            let moved = match self.direction {
                Direction::Forward => self.walk.forward(),
                Direction::Backward => self.walk.backward(),
            };
            let moved = moved.ok_or_else(|| self.table.damaged(self.handle))?;
            if !moved && !self.next_block()? {
                self.walk.leave();
                return Ok(());
            }
            if moved && self.walk.record().is_some_and(|r| self.seqs.contains(r.seq)) {
                return Ok(());
            }
        }
    }

    /// Enters the next block that can hold visible records; false if there is none.
    fn next_block(&mut self) -> Result<bool> {
        while let Some(number) = self.take_number() {
            let edge = self.edge.take();
            let Some((handle, (min, max))) = self.locate(number)? else { continue };
            if !self.seqs.overlaps(min, max) {
                continue;
            }
            self.handle = handle;
            let block = self.load(handle)?;
            let entered = match self.direction {
                Direction::Forward => self.walk.enter_forward(block, edge.as_deref()),
                Direction::Backward => self.walk.enter_backward(block, edge.as_deref()),
            };
            entered.ok_or_else(|| self.table.damaged(handle))?;
            return Ok(true);
        }
        Ok(false)
    }

    fn take_number(&mut self) -> Option<usize> {
        match self.direction {
            Direction::Forward => self.blocks.next(),
            Direction::Backward => self.blocks.next_back(),
        }
    }

    /// Where a block lies and what it bounds. `None` if its whole partition holds nothing visible:
    /// then the rest of the partition is passed, too, without being read.
    fn locate(&mut self, number: usize) -> Result<Option<(Handle, (u64, u64))>> {
        if let Some(partition) = &self.partition
            && partition.blocks().contains(&number)
        {
            return Ok(partition.block(number));
        }
        let part = self.table.top().part_of(number);
        let bounds = self.table.top().entry(part).map_or((0, u64::MAX), |(_, seqs)| seqs);
        if !self.seqs.overlaps(bounds.0, bounds.1) {
            let (blocks, _) = self.table.top().blocks(part);
            match self.direction {
                Direction::Forward => self.blocks.start = blocks.end.min(self.blocks.end),
                Direction::Backward => self.blocks.end = blocks.start.max(self.blocks.start),
            }
            return Ok(None);
        }
        let partition = match self.loading {
            Loading::Cached => match self.table.partition(part, Fill::FromDisk)? {
                Some(partition) => partition.into_owned(),
                None => return Ok(None),
            },
            Loading::Ahead { .. } => self.table.partition_once(part)?,
        };
        let located = partition.block(number);
        self.partition = Some(partition);
        Ok(located)
    }

    fn load(&mut self, handle: Handle) -> Result<Block> {
        let Loading::Ahead { buffer, start, scratch } = &mut self.loading else {
            let block = self.table.block(handle, Fill::FromDisk)?;
            return block.ok_or_else(|| self.table.damaged(handle));
        };
        let cached = self.table.peek_block(handle)?;
        self.is_warm = cached.is_some();
        if let Some(block) = cached {
            return Ok(block);
        }
        let buffered = *start..*start + buffer.len() as u64;
        if !(buffered.contains(&handle.offset) && handle.end() <= buffered.end) {
            let part = self.table.top().part_of(self.blocks.end.max(1) - 1);
            let last = self.table.top().blocks(part).1.end;
            let end = last.min(handle.offset + READ_AHEAD_BYTES).max(handle.end());
            buffer.resize(usize::try_from(end - handle.offset).unwrap_or(0), 0);
            self.table.read_paced(handle.offset, buffer)?;
            *start = handle.offset;
        }
        let from = usize::try_from(handle.offset - *start).unwrap_or(usize::MAX);
        let stored = buffer.get(from..from.saturating_add(handle.bytes as usize));
        self.table.block_from(handle, stored.unwrap_or_default(), scratch)
    }
}

/// The stream of tables that do not overlap, opened one after another.
pub(crate) struct LevelSource {
    tables: Arc<[Arc<Table>]>,
    /// Tables not visited yet; taken from the front going forward, from the back going backward.
    waiting: Range<usize>,
    current: Option<TableSource>,
    family: Family,
    range: KeyRange,
    direction: Direction,
    seqs: SeqRange,
    is_whole: bool,
}

impl LevelSource {
    /// The records of `family` in `range` of `tables`, which are in key order.
    pub(crate) fn new(
        tables: &Arc<[Arc<Table>]>,
        family: Family,
        range: &KeyRange,
        direction: Direction,
        seqs: SeqRange,
    ) -> Result<Self> {
        let is_before = |t: &Arc<Table>| {
            let lower = range.lower.as_deref().unwrap_or_default();
            (t.largest().family, t.largest().key.as_ref()) < (family, lower)
        };
        let is_within = |t: &Arc<Table>| match range.upper.as_deref() {
            Some(upper) => (t.smallest().family, t.smallest().key.as_ref()) < (family, upper),
            None => t.smallest().family <= family,
        };
        let waiting = tables.partition_point(is_before)..tables.partition_point(is_within);
        let mut source = Self {
            tables: tables.clone(),
            waiting,
            current: None,
            family,
            range: range.clone(),
            direction,
            seqs,
            is_whole: false,
        };
        source.settle()?;
        Ok(source)
    }

    /// The records of `family` in `range` (its end is checked by the reader), read past the cache
    /// in large pieces.
    pub(crate) fn whole(tables: &[Arc<Table>], family: Family, range: &KeyRange) -> Result<Self> {
        let mut source = Self {
            tables: tables.into(),
            waiting: 0..tables.len(),
            current: None,
            family,
            range: range.clone(),
            direction: Direction::Forward,
            seqs: SeqRange::ALL,
            is_whole: true,
        };
        source.settle()?;
        Ok(source)
    }

    /// The table stream that stands at a record, if any is left.
    pub(crate) fn current(&self) -> Option<&TableSource> {
        self.current.as_ref()
    }

    pub(crate) fn advance(&mut self) -> Result<()> {
        if let Some(current) = &mut self.current {
            current.advance()?;
        }
        self.settle()
    }

    fn settle(&mut self) -> Result<()> {
        while self.current.as_ref().is_none_or(|c| !c.is_valid()) {
            let next = match self.direction {
                Direction::Forward => self.waiting.next(),
                Direction::Backward => self.waiting.next_back(),
            };
            let Some(table) = next.and_then(|number| self.tables.get(number)) else {
                self.current = None;
                return Ok(());
            };
            if !table.family(self.family).is_some_and(|f| self.concerns(f)) {
                continue;
            }
            let table = table.clone();
            self.current = Some(if self.is_whole {
                TableSource::whole(table, self.family, &self.range)?
            } else {
                TableSource::new(table, self.family, &self.range, self.direction, self.seqs)?
            });
        }
        Ok(())
    }

    /// Whether a table with these properties can hold records the stream shows.
    fn concerns(&self, family: &FamilyProperties) -> bool {
        self.range.touches(family) && self.seqs.overlaps(family.seq_min, family.seq_max)
    }
}
