//! What is known of a run of data blocks: where they lie and which keys they do not hold.
//!
//! ```text
//! content of a partition block:
//!   0  filter_bytes  u32
//!   4  filter        of every key in these blocks   (`filter.rs`)
//!   …  index         of these blocks                (`index.rs`)
//! ```
//! The blocks of a partition belong to one family. A key whose versions go on in the next
//! partition is in the filters of both.

use std::ops::{Deref, Range};
use std::sync::Arc;

use crate::codec::{Decoder, Encode};
use crate::table::fence::Fence;
use crate::table::filter::Filter;
use crate::table::format::Handle;
use crate::table::index::{Index, IndexBuilder};

/// A partition in memory.
#[derive(Debug)]
pub(crate) struct Partition {
    /// Number of its first block in the table.
    first: usize,
    filter: Filter,
    fence: Fence,
    index: Index,
}

impl Partition {
    /// Takes a partition's content apart. Its blocks begin with number `first` of the table and
    /// lie one behind the other in `data`.
    pub(crate) fn decode(
        content: &[u8],
        first: usize,
        data: Range<u64>,
    ) -> Result<Self, &'static str> {
        let mut decoder = Decoder::new(content);
        let mut split = || {
            let bytes = decoder.u32()? as usize;
            Some((decoder.bytes(bytes)?, decoder.rest()))
        };
        let (filter, index) = split().ok_or("partition is cut")?;
        let filter = Filter::decode(filter)?;
        let (index, separators) = Index::decode(index, data)?;
        let fence = Fence::new(&separators, 0..separators.len());
        Ok(Self { first, filter, fence, index })
    }

    /// Memory held by filter and index, bytes.
    pub(crate) fn bytes(&self) -> (usize, usize) {
        (self.filter.bytes(), self.index.bytes() + self.fence.bytes() + size_of::<Self>())
    }

    /// Numbers of its blocks in the table.
    pub(crate) fn blocks(&self) -> Range<usize> {
        self.first..self.first + self.index.len()
    }

    pub(crate) fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Where the block with this number of the table lies, with its sequence bounds.
    pub(crate) fn block(&self, number: usize) -> Option<(Handle, (u64, u64))> {
        self.index.entry(number.checked_sub(self.first)?)
    }

    /// Whether the separator of the block with this number is `key`: then versions of it may
    /// follow in the next block.
    pub(crate) fn ends_in(&self, number: usize, key: &[u8]) -> bool {
        self.fence.is_key(number - self.first, key)
    }

    /// Number of the first block that may hold `key` or something behind it.
    #[inline]
    pub(crate) fn seek(&self, key: &[u8]) -> usize {
        self.first + self.fence.seek(key)
    }
}

/// A partition that stays as long as its table is open. Its filter lies beside it: of a key that is
/// not there nothing else is looked at, and each further look would wait for memory.
#[derive(Clone, Debug)]
pub(crate) struct KeptPartition {
    filter: Filter,
    partition: Arc<Partition>,
}

impl KeptPartition {
    pub(crate) fn new(partition: Arc<Partition>) -> Self {
        Self { filter: partition.filter.clone(), partition }
    }

    #[inline]
    pub(crate) fn filter(&self) -> &Filter {
        &self.filter
    }

    pub(crate) fn partition(&self) -> &Arc<Partition> {
        &self.partition
    }
}

/// A partition somewhere in memory.
pub(crate) enum PartRef<'a> {
    /// It stays as long as its table is open.
    Kept(&'a Arc<Partition>),
    /// It came through the cache.
    Cached(Arc<Partition>),
}

impl Deref for PartRef<'_> {
    type Target = Partition;

    fn deref(&self) -> &Partition {
        match self {
            Self::Kept(partition) => partition,
            Self::Cached(partition) => partition,
        }
    }
}

impl PartRef<'_> {
    /// The partition for as long as the caller likes.
    pub(crate) fn into_owned(self) -> Arc<Partition> {
        match self {
            Self::Kept(partition) => partition.clone(),
            Self::Cached(partition) => partition,
        }
    }
}

/// A partition being written.
#[derive(Default)]
pub(crate) struct PartitionBuilder {
    index: IndexBuilder,
    hashes: Vec<u64>,
    seqs: Option<(u64, u64)>,
}

impl PartitionBuilder {
    /// Adds a key of a block that is to come.
    pub(crate) fn add_key(&mut self, hash: u64) {
        self.hashes.push(hash);
    }

    /// Whether no key was added yet.
    pub(crate) fn has_no_keys(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Adds a block whose keys were added.
    pub(crate) fn add_block(&mut self, handle: Handle, seqs: (u64, u64), separator: &[u8]) {
        self.index.push(handle, seqs, separator);
        let (min, max) = self.seqs.unwrap_or(seqs);
        self.seqs = Some((min.min(seqs.0), max.max(seqs.1)));
    }

    /// Bytes of the blocks added.
    pub(crate) fn data_bytes(&self) -> u64 {
        self.index.data_bytes()
    }

    /// Memory the partition will hold, bytes, roughly.
    pub(crate) fn bytes(&self, bits_per_key: usize) -> usize {
        self.index.bytes() + self.hashes.len() * bits_per_key / 8
    }

    /// The complete partition; the builder is empty again. `None` if it has no blocks.
    pub(crate) fn finish(&mut self, bits_per_key: usize) -> Option<BuiltPartition> {
        let Self { index, hashes, seqs } = std::mem::take(self);
        let seqs = seqs?;
        let filter = Filter::build(&hashes, bits_per_key).encode();
        let mut content = Vec::with_capacity(4 + filter.len() + index.content().len());
        content.put_u32(u32::try_from(filter.len()).expect("a filter is below 4 GiB"));
        content.extend_from_slice(&filter);
        content.extend_from_slice(index.content());
        let separator = index.last_separator().to_vec();
        Some(BuiltPartition { content, seqs, separator, blocks: index.len() })
    }
}

/// A partition on its way to the file.
pub(crate) struct BuiltPartition {
    pub(crate) content: Vec<u8>,
    pub(crate) seqs: (u64, u64),
    pub(crate) separator: Vec<u8>,
    pub(crate) blocks: usize,
}
