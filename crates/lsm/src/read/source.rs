//! One sorted stream of records of a family: a memtable, a table or a level.
//!
//! Forward streams go by key ascending, sequence number descending; backward ones exactly the
//! other way round.

use bytes::Bytes;

use crate::error::Result;
use crate::memtable::{Cursor, Entry, Logged};
use crate::table::{LevelSource, Stored, TableSource};

/// Which way a stream goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Forward,
    Backward,
}

/// A stream of records; `key` and the others may be called only while it is valid.
pub(crate) enum Source {
    Memory(MemorySource),
    /// A memtable's records in the order of insertion: for readers that do not merge.
    Logged(Logged),
    Table(TableSource),
    Level(LevelSource),
}

impl Source {
    pub(crate) fn is_valid(&self) -> bool {
        match self {
            Self::Memory(s) => s.entry().is_some(),
            Self::Logged(s) => s.entry().is_some(),
            Self::Table(s) => s.is_valid(),
            Self::Level(s) => s.current().is_some(),
        }
    }

    #[inline]
    pub(crate) fn key(&self) -> &[u8] {
        match self {
            Self::Memory(s) => s.entry().map_or(&[], |e| e.key),
            Self::Logged(s) => s.entry().map_or(&[], |e| e.key),
            Self::Table(s) => s.key(),
            Self::Level(s) => s.current().map_or(&[], TableSource::key),
        }
    }

    #[inline]
    pub(crate) fn seq(&self) -> u64 {
        match self {
            Self::Memory(s) => s.entry().map_or(0, |e| e.seq),
            Self::Logged(s) => s.entry().map_or(0, |e| e.seq),
            Self::Table(s) => s.seq(),
            Self::Level(s) => s.current().map_or(0, TableSource::seq),
        }
    }

    pub(crate) fn ordinal(&self) -> u32 {
        match self {
            Self::Memory(s) => s.entry().map_or(0, |e| e.ordinal),
            Self::Logged(s) => s.entry().map_or(0, |e| e.ordinal),
            Self::Table(s) => s.ordinal(),
            Self::Level(s) => s.current().map_or(0, TableSource::ordinal),
        }
    }

    /// Whether readers have asked for what lies around the record lately, as far as is known.
    pub(crate) fn is_warm(&self) -> bool {
        match self {
            Self::Memory(_) | Self::Logged(_) => false,
            Self::Table(s) => s.is_warm(),
            Self::Level(s) => s.current().is_some_and(TableSource::is_warm),
        }
    }

    /// The value as it is stored, without a copy.
    pub(crate) fn stored(&self) -> Result<Stored<'_>> {
        let value = match self {
            Self::Memory(s) => s.entry().and_then(|e| e.value.as_slice()),
            Self::Logged(s) => s.entry().and_then(|e| e.value.as_slice()),
            Self::Table(s) => return s.stored(),
            Self::Level(s) => match s.current() {
                Some(table) => return table.stored(),
                None => None,
            },
        };
        Ok(value.map_or(Stored::Tombstone, Stored::Inline))
    }

    /// The value as a buffer of its own; `None` for a tombstone. Waits for the disk if the value
    /// lies in a blob file.
    pub(crate) fn value_bytes(&self) -> Result<Option<Bytes>> {
        match self {
            Self::Memory(s) => Ok(s.entry().and_then(|e| e.value.to_bytes())),
            Self::Logged(s) => Ok(s.entry().and_then(|e| e.value.to_bytes())),
            Self::Table(s) => s.value_bytes(),
            Self::Level(s) => s.current().map_or(Ok(None), TableSource::value_bytes),
        }
    }

    pub(crate) fn advance(&mut self) -> Result<()> {
        match self {
            Self::Memory(s) => {
                s.advance();
                Ok(())
            }
            Self::Logged(s) => {
                s.next();
                Ok(())
            }
            Self::Table(s) => s.advance(),
            Self::Level(s) => s.advance(),
        }
    }
}

/// A memtable's records up to a sequence number.
pub(crate) struct MemorySource {
    cursor: Cursor,
    direction: Direction,
    seq_max: u64,
}

impl MemorySource {
    pub(crate) fn new(cursor: Cursor, direction: Direction, seq_max: u64) -> Self {
        let mut source = Self { cursor, direction, seq_max };
        source.skip_invisible();
        source
    }

    fn entry(&self) -> Option<Entry<'_>> {
        self.cursor.entry()
    }

    fn advance(&mut self) {
        self.step();
        self.skip_invisible();
    }

    fn step(&mut self) {
        match self.direction {
            Direction::Forward => self.cursor.next(),
            Direction::Backward => self.cursor.previous(),
        }
    }

    fn skip_invisible(&mut self) {
        while self.entry().is_some_and(|e| e.seq > self.seq_max) {
            self.step();
        }
    }
}
