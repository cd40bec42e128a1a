//! Writes one table file from records in order.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use holdfast_env::{Disk, File, OpenMode};

use crate::checksum::{BirthId, Whole};
use crate::error::{Error, Result};
use crate::options::Compression;
use crate::table::builder::BlockBuilder;
use crate::table::filter::key_hash;
use crate::table::format::{Footer, Handle, store_block};
use crate::table::index::separator;
use crate::table::partition::{BuiltPartition, PartitionBuilder};
use crate::table::properties::{FamilyProperties, Properties};
use crate::table::top::Top;
use crate::types::Family;

/// Bytes collected before they are written.
const WRITE_BYTES: usize = 1 << 20;
/// Space is reserved in steps of this size, so that a full disk is met here and not at the sync.
const RESERVE_BYTES: u64 = 8 << 20;

/// Options of a table file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WriterOptions {
    pub(crate) block_bytes: usize,
    pub(crate) restart_interval: usize,
    pub(crate) bloom_bits_per_key: usize,
    pub(crate) partition_bytes: usize,
    pub(crate) compression: Compression,
}

/// What the manifest remembers of a table file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TableDescriptor {
    pub(crate) number: u64,
    pub(crate) bytes: u64,
    pub(crate) birth: BirthId,
    /// Checksum of the whole file.
    pub(crate) checksum: u64,
}

/// Records go in sorted by family, key, then sequence number descending; a file comes out.
pub(crate) struct TableWriter {
    file: Arc<dyn File>,
    path: PathBuf,
    options: WriterOptions,
    descriptor: TableDescriptor,
    whole: Whole,
    pending: Vec<u8>,
    written: u64,
    reserved: u64,
    block: BlockBuilder,
    partition: PartitionBuilder,
    /// Complete partitions, each with the end of the data it describes; written behind all data.
    partitions: Vec<(BuiltPartition, u64)>,
    /// A finished block whose separator waits for the next key.
    open_entry: Option<(Handle, (u64, u64), Vec<u8>)>,
    properties: Properties,
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
    ) -> Result<Self> {
        let file = disk
            .open(path, OpenMode::CreateNew)
            .map_err(|e| Error::unreferenced("create", path, e))?;
        Ok(Self {
            file,
            path: path.to_path_buf(),
            options,
            descriptor: TableDescriptor { number, bytes: 0, birth, checksum: 0 },
            whole: Whole::new(birth),
            pending: Vec::with_capacity(WRITE_BYTES + 2 * options.block_bytes),
            written: 0,
            reserved: 0,
            block: BlockBuilder::new(options.restart_interval),
            partition: PartitionBuilder::default(),
            partitions: Vec::new(),
            open_entry: None,
            properties: Properties::default(),
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
        value: Option<&[u8]>,
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

    fn count(&mut self, same_key: bool, key: &[u8], seq: u64, value: Option<&[u8]>) {
        let Some(family) = self.properties.families.last_mut() else { return };
        family.records += 1;
        family.tombstones += u64::from(value.is_none());
        family.raw_bytes += (key.len() + value.map_or(0, <[u8]>::len)) as u64;
        family.seq_min = family.seq_min.min(seq);
        family.seq_max = family.seq_max.max(seq);
        // A shadowed version can go when the watermark reaches what shadows it, a tombstone when
        // the watermark is above it.
        let reclaimable_at = match (same_key, value) {
            (true, _) => self.last_seq,
            (false, None) => seq + 1,
            (false, Some(_)) => return,
        };
        if family.family.keeps_versions() {
            self.properties.garbage += 1;
            self.properties.reclaimable_at = self.properties.reclaimable_at.max(reclaimable_at);
        }
    }

    /// Bytes of the file so far, the block being built included.
    pub(crate) fn bytes(&self) -> u64 {
        self.written + (self.pending.len() + self.block.bytes()) as u64
    }

    fn finish_block(&mut self) -> Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        self.close_entry(None);
        let offset = self.written + self.pending.len() as u64;
        let content = self.block.finish();
        let (compression, birth) = (self.options.compression, self.descriptor.birth);
        let handle = store_block(content, compression, birth, offset, &mut self.pending);
        let last_key = self.block.last_key().to_vec();
        self.open_entry = Some((handle, self.block.seq_bounds(), last_key));
        self.block.clear();
        if let Some(family) = self.properties.families.last_mut() {
            family.blocks += 1;
        }
        if self.pending.len() >= WRITE_BYTES { self.write_pending(false) } else { Ok(()) }
    }

    /// Gives the last finished block its separator, now that the key after it is known.
    fn close_entry(&mut self, next: Option<&[u8]>) {
        let Some((handle, seqs, last)) = self.open_entry.take() else { return };
        let separator = next.map_or(last.as_slice(), |next| separator(&last, next));
        self.partition.add_block(handle, seqs, separator);
        if self.partition.bytes(self.options.bloom_bits_per_key) >= self.options.partition_bytes {
            self.finish_partition();
        }
    }

    fn finish_partition(&mut self) {
        let data_end = self.written + self.pending.len() as u64;
        let partition = self.partition.finish(self.options.bloom_bits_per_key);
        self.partitions.extend(partition.map(|partition| (partition, data_end)));
    }

    fn write_pending(&mut self, is_last: bool) -> Result<()> {
        let end = self.written + self.pending.len() as u64;
        if end > self.reserved {
            self.reserved = if is_last { end } else { end.next_multiple_of(RESERVE_BYTES) };
            self.file
                .allocate(self.reserved)
                .map_err(|e| Error::unreferenced("reserve", &self.path, e))?;
        }
        self.file
            .write_all_at(&self.pending, self.written)
            .map_err(|e| Error::unreferenced("write", &self.path, e))?;
        self.whole.update(&self.pending);
        self.written = end;
        self.pending.clear();
        Ok(())
    }

    /// Writes what is left and makes the file durable (its directory entry is the caller's).
    pub(crate) fn finish(mut self, floor: u64) -> Result<TableDescriptor> {
        self.finish_block()?;
        self.close_entry(None);
        self.finish_partition();
        self.end_family();
        self.properties.floor = floor;
        let mut top = Top::default();
        for (partition, data_end) in std::mem::take(&mut self.partitions) {
            let handle = self.store(&partition.content, Compression::None);
            top.push(&partition, handle, data_end);
        }
        let top = self.store(&top.encode(), Compression::None);
        let properties = self.store(&self.properties.encode(), Compression::None);
        let birth = self.descriptor.birth;
        let mut footer = Footer { top, properties, file_bytes: 0, birth };
        footer.file_bytes = properties.end() + crate::table::format::FOOTER_BYTES as u64;
        self.pending.extend_from_slice(&footer.encode());
        self.write_pending(true)?;
        self.file
            .set_len(self.written)
            .and_then(|()| self.file.sync_all())
            .map_err(|e| Error::unreferenced("sync", &self.path, e))?;
        Ok(TableDescriptor {
            bytes: self.written,
            checksum: self.whole.digest(),
            ..self.descriptor
        })
    }

    fn store(&mut self, content: &[u8], compression: Compression) -> Handle {
        let offset = self.written + self.pending.len() as u64;
        store_block(content, compression, self.descriptor.birth, offset, &mut self.pending)
    }
}
