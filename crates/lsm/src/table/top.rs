//! Where the partitions lie and what they bound: the part of an index that is always in memory.
//!
//! ```text
//! content of the top block:
//!   0  count  u32
//!   4  for every partition, in file order:
//!        blocks      u32   data blocks it describes
//!        data_bytes  u64   bytes of these, stored
//!   …  an index whose blocks are the partitions   (`index.rs`)
//! ```

use std::ops::Range;

use crate::codec::{Decoder, Encode};
use crate::table::fence::Keys;
use crate::table::format::Handle;
use crate::table::index::{Index, IndexBuilder};
use crate::table::partition::BuiltPartition;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Top {
    index: Index,
    /// For every partition the number and the offset of its first block; then both ends.
    starts: Vec<(usize, u64)>,
}

impl Top {
    /// Number of partitions.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// Memory held, bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.index.bytes() + self.starts.len() * size_of::<(usize, u64)>()
    }

    /// Where a partition lies, with its sequence bounds.
    pub(crate) fn entry(&self, part: usize) -> Option<(Handle, (u64, u64))> {
        self.index.entry(part)
    }

    /// Numbers of the blocks a partition describes, and where they lie.
    pub(crate) fn blocks(&self, part: usize) -> (Range<usize>, Range<u64>) {
        match self.starts.get(part..part + 2) {
            Some([start, end]) => (start.0..end.0, start.1..end.1),
            _ => (0..0, 0..0),
        }
    }

    /// The partition that describes the block with this number.
    pub(crate) fn part_of(&self, block: usize) -> usize {
        self.starts.partition_point(|start| start.0 <= block).saturating_sub(1)
    }

    /// Reads the top of a table whose partitions end at `end`, and the separators of these; they
    /// begin where the data ends.
    pub(crate) fn decode(content: &[u8], end: u64) -> Result<(Self, Keys), &'static str> {
        const CUT: &str = "top is cut";
        let mut decoder = Decoder::new(content);
        let mut starts = vec![(0, 0)];
        let mut at = (0usize, 0u64);
        // The vector grows as fields are found, so a wrong count allocates nothing.
        for _ in 0..decoder.u32().ok_or(CUT)? {
            let blocks = decoder.u32().ok_or(CUT)? as usize;
            let bytes = decoder.u64().ok_or(CUT)?;
            at = (at.0 + blocks, at.1.checked_add(bytes).ok_or(CUT)?);
            starts.push(at);
        }
        let (index, separators) = Index::decode(decoder.rest(), at.1..end)?;
        // A table of range tombstones alone has none.
        if index.len() + 1 != starts.len() {
            return Err("top has the wrong number of partitions");
        }
        Ok((Self { index, starts }, separators))
    }
}

/// The top of a table being written.
#[derive(Debug, Default)]
pub(crate) struct TopBuilder {
    index: IndexBuilder,
    /// Blocks and bytes of data of each partition.
    parts: Vec<(usize, u64)>,
    data_end: u64,
}

impl TopBuilder {
    /// Adds a partition stored at `handle` whose data ends at `data_end`.
    pub(crate) fn push(&mut self, partition: &BuiltPartition, handle: Handle, data_end: u64) {
        self.parts.push((partition.blocks, data_end - self.data_end));
        self.data_end = data_end;
        self.index.push(handle, partition.seqs, &partition.separator);
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4 + 12 * self.parts.len() + self.index.content().len());
        out.put_u32(u32::try_from(self.parts.len()).expect("partitions are few"));
        for (blocks, data_bytes) in &self.parts {
            out.put_u32(u32::try_from(*blocks).expect("blocks are few"));
            out.put_u64(*data_bytes);
        }
        out.extend_from_slice(self.index.content());
        out
    }
}
