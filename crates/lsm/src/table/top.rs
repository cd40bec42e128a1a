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
use crate::table::format::Handle;
use crate::table::index::{Index, Stretch};
use crate::table::partition::BuiltPartition;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Top {
    index: Index,
    /// For every partition the number and the offset of its first block; then both ends.
    starts: Vec<(usize, u64)>,
}

impl Top {
    pub(crate) fn push(&mut self, partition: &BuiltPartition, handle: Handle, data_end: u64) {
        if self.starts.is_empty() {
            self.starts.push((0, 0));
        }
        let block = self.starts.last().map_or(0, |s| s.0) + partition.blocks;
        self.starts.push((block, data_end));
        self.index.push(handle, partition.seqs, &partition.separator);
    }

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

    /// Prepares `parts`, which are those of one family, for [`Top::seek`].
    pub(crate) fn stretch(&mut self, parts: Range<usize>) -> Stretch {
        self.index.stretch(parts)
    }

    /// The first partition of `parts` that may hold `key` or something behind it; its end if none.
    #[inline]
    pub(crate) fn seek(&self, parts: &Stretch, key: &[u8]) -> usize {
        self.index.seek(parts, key)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4 + 12 * self.len() + self.index.bytes());
        out.put_u32(u32::try_from(self.len()).expect("partitions are few"));
        for pair in self.starts.windows(2) {
            let [start, end] = pair else { continue };
            out.put_u32(u32::try_from(end.0 - start.0).expect("blocks are few"));
            out.put_u64(end.1 - start.1);
        }
        out.extend_from_slice(&self.index.encode());
        out
    }

    /// Reads the top of a table whose partitions end at `end`; they begin where the data ends.
    pub(crate) fn decode(content: &[u8], end: u64) -> Result<Self, &'static str> {
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
        let index = Index::decode(decoder.rest(), at.1..end)?;
        // A table of range tombstones alone has none.
        if index.len() + 1 != starts.len() {
            return Err("top has the wrong number of partitions");
        }
        Ok(Self { index, starts })
    }
}
