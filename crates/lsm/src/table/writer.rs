//! Writes one table file from records in order.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_env::Disk;

use crate::checksum::BirthId;
use crate::error::Result;
use crate::limits::BLOCK_BYTES_MAX;
use crate::options::Compression;
use crate::shared::{BlockKey, Shared};
use crate::sink::{Pace, Sink};
use crate::table::block::Stored;
use crate::table::builder::BlockBuilder;
use crate::table::filter::key_hash;
use crate::table::format::{FOOTER_BYTES, Footer, Handle};
use crate::table::index::separator;
use crate::table::partition::{BuiltPartition, PartitionBuilder};
use crate::table::properties::{FamilyProperties, Properties};
use crate::table::tombstones::TableTombstones;
use crate::table::top::TopBuilder;
use crate::tombstone::{Fragments, RangeTombstone};
use crate::types::Family;

/// A partition that describes so many bytes of blocks is closed: places in it have 32 bits.
const PARTITION_DATA_BYTES: u64 = 1 << 30;
const _: () = assert!(PARTITION_DATA_BYTES + 2 * (BLOCK_BYTES_MAX as u64) < 1 << 32);

/// Options of a table file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WriterOptions {
    pub(crate) block_bytes: usize,
    pub(crate) restart_interval: usize,
    pub(crate) bloom_bits_per_key: usize,
    pub(crate) partition_bytes: usize,
    pub(crate) compression: Compression,
}

/// What the records of a table were judged by, and how urgent it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    /// The watermark.
    pub(crate) floor: u64,
    /// Epoch of the span, 0 if there was none.
    pub(crate) span_epoch: u64,
    /// Whether the writer can wait for its share of the disk.
    pub(crate) can_wait: bool,
}

/// What the manifest remembers of a table or blob file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileDescriptor {
    pub(crate) number: u64,
    pub(crate) bytes: u64,
    pub(crate) birth: BirthId,
    /// Checksum of the whole file.
    pub(crate) checksum: u64,
}

/// Records go in sorted by family, key, then sequence number descending; a file comes out.
pub(crate) struct TableWriter {
    sink: Sink,
    options: WriterOptions,
    block: BlockBuilder,
    /// What its blocks are cached under, also once it is opened.
    opened_as: u64,
    shared: Arc<Shared>,
    /// Whether the block that is being built goes to the cache, too.
    is_warm: bool,
    partition: PartitionBuilder,
    /// Complete partitions, each with the end of the data it describes; written behind all data.
    partitions: Vec<(BuiltPartition, u64)>,
    /// A finished block whose separator waits for the next key.
    open_entry: Option<(Handle, (u64, u64), Vec<u8>)>,
    properties: Properties,
    /// Range tombstones, cut and in order.
    ranges: Vec<(Family, Vec<RangeTombstone>)>,
    last_key: Vec<u8>,
    last_seq: u64,
}

impl TableWriter {
    /// Creates the file; nobody refers to it before its descriptor is in a manifest.
    pub(crate) fn create(
        disk: &dyn Disk,
        path: &Path,
        number: u64,
        birth: BirthId,
        options: WriterOptions,
        pace: Pace,
    ) -> Result<Self> {
        let shared = pace.shared.clone();
        Ok(Self {
            opened_as: shared.next_opening(),
            shared,
            is_warm: false,
            sink: Sink::create(disk, path, number, birth, pace)?,
            options,
            block: BlockBuilder::new(options.restart_interval),
            partition: PartitionBuilder::default(),
            partitions: Vec::new(),
            open_entry: None,
            properties: Properties::default(),
            ranges: Vec::new(),
            last_key: Vec::new(),
            last_seq: 0,
        })
    }

    /// Adds the next record.
    ///
    /// # Panics
    /// If the record does not sort after the last one.
    pub(crate) fn add(
        &mut self,
        family: Family,
        key: &[u8],
        seq: u64,
        ordinal: u32,
        value: Stored<'_>,
    ) -> Result<()> {
        let same_family = self.properties.families.last().is_some_and(|f| f.family == family);
        let same_key = same_family && self.last_key == key;
        if same_family {
            assert!(
                self.last_key.as_slice() < key || (same_key && seq < self.last_seq),
                "records of a table are sorted"
            );
        } else {
            self.begin_family(family, key)?;
        }
        let full = self.block.bytes() + BlockBuilder::record_bytes(key, value)
            > self.options.block_bytes
            && !self.block.is_empty();
        if full || !self.block.fits(seq) {
            self.finish_block()?;
        }
        self.close_entry(Some(key));
        if !same_key || self.partition.has_no_keys() {
            self.partition.add_key(key_hash(family, key));
        }
        self.block.add(key, seq, ordinal, value);
        self.count(same_key, key, seq, value);
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        self.last_seq = seq;
        Ok(())
    }

    fn begin_family(&mut self, family: Family, key: &[u8]) -> Result<()> {
        self.finish_block()?;
        self.close_entry(None);
        self.finish_partition();
        self.end_family();
        let last = self.properties.families.last();
        assert!(last.is_none_or(|f| f.family < family), "families of a table are sorted");
        self.properties.families.push(FamilyProperties {
            family,
            blocks: 0,
            records: 0,
            tombstones: 0,
            raw_bytes: 0,
            seq_min: u64::MAX,
            seq_max: 0,
            key_min: Bytes::copy_from_slice(key),
            key_max: Bytes::new(),
        });
        Ok(())
    }

    fn end_family(&mut self) {
        if let Some(family) = self.properties.families.last_mut() {
            family.key_max = Bytes::copy_from_slice(&self.last_key);
        }
    }

    fn count(&mut self, same_key: bool, key: &[u8], seq: u64, value: Stored<'_>) {
        if let Stored::Blob(reference) = value {
            self.properties.count_blob(reference.file, u64::from(reference.handle.bytes));
        }
        let Some(family) = self.properties.families.last_mut() else { return };
        family.records += 1;
        family.tombstones += u64::from(value.is_tombstone());
        family.raw_bytes += (key.len() + value.len()) as u64;
        family.seq_min = family.seq_min.min(seq);
        family.seq_max = family.seq_max.max(seq);
        // A shadowed version can go when the watermark reaches what shadows it, a tombstone when
        // the watermark is above it.
        let reclaimable_at = match (same_key, value.is_tombstone()) {
            (true, _) => self.last_seq,
            (false, true) => seq + 1,
            (false, false) => return,
        };
        if family.family.keeps_versions() {
            self.properties.garbage += 1;
            self.properties.reclaimable_at = self.properties.reclaimable_at.max(reclaimable_at);
        }
    }

    /// Notes that a record with so many bytes of key and value expires at this range time.
    pub(crate) fn count_expiry(&mut self, at_ms: u64, bytes: usize) {
        self.properties.expiry.add(at_ms, bytes as u64);
    }

    /// Adds a piece of a range tombstone; pieces come by family and in their own order, whatever
    /// records come in between.
    pub(crate) fn add_range(&mut self, family: Family, piece: RangeTombstone) {
        self.properties.count_range(family, piece.seq);
        match self.ranges.last_mut() {
            Some((last, pieces)) if *last == family => pieces.push(piece),
            _ => self.ranges.push((family, vec![piece])),
        }
    }

    /// Bytes of the file so far, the block being built included.
    pub(crate) fn bytes(&self) -> u64 {
        self.sink.position() + self.block.bytes() as u64
    }

    /// What its blocks are cached under.
    pub(crate) fn opened_as(&self) -> u64 {
        self.opened_as
    }

    /// Puts the block of the last record into the cache when it is complete.
    pub(crate) fn keep_warm(&mut self) {
        self.is_warm = true;
    }

    fn finish_block(&mut self) -> Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        self.close_entry(None);
        let content = self.block.finish();
        let handle = self.sink.append_block(content, self.options.compression);
        if std::mem::take(&mut self.is_warm) {
            let key = BlockKey { opened_as: self.opened_as, offset: handle.offset };
            self.shared.cache_written(key, content);
        }
        let last_key = self.block.last_key().to_vec();
        self.open_entry = Some((handle, self.block.seq_bounds(), last_key));
        self.block.clear();
        if let Some(family) = self.properties.families.last_mut() {
            family.blocks += 1;
        }
        self.sink.write_if_full()
    }

    /// Gives the last finished block its separator, now that the key after it is known.
    fn close_entry(&mut self, next: Option<&[u8]>) {
        let Some((handle, seqs, last)) = self.open_entry.take() else { return };
        let separator = next.map_or(last.as_slice(), |next| separator(&last, next));
        self.partition.add_block(handle, seqs, separator);
        let bytes = self.partition.bytes(self.options.bloom_bits_per_key);
        if bytes >= self.options.partition_bytes
            || self.partition.data_bytes() >= PARTITION_DATA_BYTES
        {
            self.finish_partition();
        }
    }

    fn finish_partition(&mut self) {
        let data_end = self.sink.position();
        let partition = self.partition.finish(self.options.bloom_bits_per_key);
        self.partitions.extend(partition.map(|partition| (partition, data_end)));
    }

    /// Writes what is left and makes the file durable (its directory entry is the caller's).
    pub(crate) fn finish(mut self, written: Written) -> Result<FileDescriptor> {
        self.finish_block()?;
        self.close_entry(None);
        self.finish_partition();
        self.end_family();
        self.properties.floor = written.floor;
        self.properties.span_epoch = written.span_epoch;
        let (mut top, mut sink) = (TopBuilder::default(), self.sink);
        for (partition, data_end) in self.partitions {
            let handle = sink.append_block(&partition.content, Compression::None);
            top.push(&partition, handle, data_end);
            sink.write_if_full()?;
        }
        let top = sink.append_block(&top.encode(), Compression::None);
        let tombstones = append_tombstones(&mut sink, self.ranges);
        let properties = sink.append_block(&self.properties.encode(), Compression::None);
        let (birth, file_bytes) = (sink.birth(), properties.end() + FOOTER_BYTES as u64);
        let footer = Footer { top, tombstones, properties, file_bytes, birth };
        sink.append(&footer.encode());
        sink.finish()
    }
}

/// Writes the block of range tombstones, if there are any.
fn append_tombstones(sink: &mut Sink, ranges: Vec<(Family, Vec<RangeTombstone>)>) -> Handle {
    let cut = |(family, pieces)| {
        let fragments = Fragments::from_sorted(pieces).expect("pieces come cut and in order");
        (family, fragments)
    };
    let tombstones = TableTombstones::of(ranges.into_iter().map(cut).collect());
    if tombstones.is_empty() {
        return Handle { offset: sink.position(), bytes: 0 };
    }
    sink.append_block(&tombstones.encode(), Compression::None)
}
