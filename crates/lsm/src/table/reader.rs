//! An open table: its top and properties in memory, its partitions too or behind the cache, where
//! its blocks are.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use holdfast_env::{Disk, File, OpenMode};

use crate::blob::{BlobFile, BlobRef};
use crate::error::{Error, Result};
use crate::graveyard::{Grave, Graveyard};
use crate::shared::{BlockKey, Shared};
use crate::table::block::{Block, Found, Parsed, Stored};
use crate::table::filter::Filter;
use crate::table::format::{Handle, load_block};
use crate::table::leftover::Leftover;
use crate::table::partition::{KeptPartition, PartRef, Partition};
use crate::table::parts::{Parts, Section, load_partition, missing_is_corrupt, read_block};
use crate::table::properties::{FamilyKey, FamilyProperties, Properties};
use crate::table::tombstones::TableTombstones;
use crate::table::top::Top;
use crate::table::writer::FileDescriptor;
use crate::tombstone::{Fragments, RangeTombstone};
use crate::types::{Family, Record};

/// Whether a read may wait for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fill {
    /// It may; blocks read go to the cache.
    FromDisk,
    /// It may not: only what is cached counts.
    CacheOnly,
}

/// What a table says about a key.
pub(crate) enum Lookup {
    /// It holds the newest record wanted; `None` inside is a tombstone.
    Found(Option<Record>),
    /// It holds nothing: look further down.
    Absent,
    /// Something is not cached and the disk must not be waited for; a data block if it is given.
    NeedsIo(Option<Cold>),
}

/// A data block that is not in memory.
pub(crate) struct Cold {
    pub(crate) table: Arc<Table>,
    pub(crate) handle: Handle,
}

/// Where tables live: the doors and shared parts a table needs.
#[derive(Clone)]
pub(crate) struct Home {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) graveyard: Arc<Graveyard>,
    /// Partitions of a table that are together at most so long are kept, bytes.
    pub(crate) resident_index_bytes: u64,
}

impl Home {
    /// The file opened as `opened_as`, opened again if it was closed to stay under the node's
    /// limit.
    pub(crate) fn file(&self, opened_as: u64, path: &Path) -> Result<Arc<dyn File>> {
        if let Some(file) = self.shared.open_file(opened_as) {
            return Ok(file);
        }
        let file = self
            .disk
            .open(path, OpenMode::Read)
            .map_err(|e| missing_is_corrupt(e, path, "open"))?;
        self.shared.keep_open(opened_as, file.clone());
        Ok(file)
    }
}

impl fmt::Debug for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Home").finish_non_exhaustive()
    }
}

/// Finds the blob file with a number, for a table that refers to it.
pub(crate) type BlobsOf<'a> = &'a dyn Fn(u64) -> Option<Arc<BlobFile>>;

/// An open table file.
pub(crate) struct Table {
    descriptor: FileDescriptor,
    path: PathBuf,
    home: Home,
    /// Number of this opening: what cached blocks and the open file are filed under.
    opened_as: u64,
    top: Top,
    /// For every partition, what is kept of it; the others go through the cache.
    kept: Box<[OnceLock<KeptPartition>]>,
    /// What was charged for those.
    kept_bytes: AtomicU64,
    sections: [Option<Section>; Family::COUNT],
    properties: Properties,
    tombstones: TableTombstones,
    /// The blob files its records refer to, by their numbers.
    blobs: Vec<Arc<BlobFile>>,
    smallest: FamilyKey,
    largest: FamilyKey,
    is_obsolete: AtomicBool,
    counts: Counts,
}

/// The place of a key in a table.
#[derive(Clone, Copy)]
pub(crate) struct Spot<'a> {
    table: &'a Arc<Table>,
    /// The section of its family, and the first partition that may hold it.
    place: Option<(&'a Section, usize)>,
}

impl Spot<'_> {
    pub(crate) fn table(&self) -> &Arc<Table> {
        self.table
    }

    /// The newest record of the key with a sequence number of at most `seq_max`; `key` and `hash`
    /// are those the place was found with.
    #[inline]
    pub(crate) fn get(&self, key: &[u8], hash: u64, seq_max: u64, fill: Fill) -> Result<Lookup> {
        match self.place {
            Some(place) => self.table.get(place, key, hash, seq_max, fill),
            None => Ok(Lookup::Absent),
        }
    }
}

/// How often the filter was asked, and how often it spared a block. Readers of all cores write
/// here, so nothing else may lie in the same cache lines.
#[derive(Default)]
#[repr(align(128))]
struct Counts {
    checks: AtomicU64,
    useful: AtomicU64,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Table {
    /// Opens the file at `path`, a table of `level`, and checks everything but its data blocks.
    ///
    /// Every read asks the tables of level 0 and they are few, so their partitions are always
    /// kept; the others as far as the node has memory for them. `opened_as` is what its blocks are
    /// cached under.
    pub(crate) fn open(
        home: Home,
        path: PathBuf,
        descriptor: FileDescriptor,
        (level, opened_as): (usize, u64),
        blobs: BlobsOf<'_>,
    ) -> Result<Self> {
        let file = home
            .disk
            .open(&path, OpenMode::Read)
            .map_err(|e| missing_is_corrupt(e, &path, "open"))?;
        let parts = Parts::load(file.as_ref(), &path, &descriptor)?;
        let is_always_kept = level == 0 || partition_bytes(&parts.top) <= home.resident_index_bytes;
        let (kept, kept_bytes) =
            keep_partitions(&home.shared, &parts, file.as_ref(), &path, is_always_kept)?;
        let sections = parts.sections().ok_or_else(|| {
            Error::corrupt(
                &path,
                parts.footer.properties.offset,
                "blocks of families do not add up",
            )
        })?;
        let edge = |f: Option<&FamilyProperties>, max: bool| {
            f.map(|f| FamilyKey {
                family: f.family,
                key: if max { f.key_max.clone() } else { f.key_min.clone() },
            })
        };
        let families = &parts.properties.families;
        let hidden = parts.tombstones.bounds();
        let smallest = edge(families.first(), false).into_iter().chain(hidden.clone().map(|b| b.0));
        let largest = edge(families.last(), true).into_iter().chain(hidden.map(|b| b.1));
        let (Some(smallest), Some(largest)) = (smallest.min(), largest.max()) else {
            return Err(Error::corrupt(&path, 0, "table is empty"));
        };
        let blobs: Option<Vec<_>> =
            parts.properties.blobs.iter().map(|used| blobs(used.file)).collect();
        let blobs = blobs.ok_or_else(|| {
            Error::corrupt(
                &path,
                parts.footer.properties.offset,
                "blob file is not in the manifest",
            )
        })?;
        home.shared.keep_open(opened_as, file);
        Ok(Self {
            blobs,
            descriptor,
            path,
            home,
            opened_as,
            top: parts.top,
            kept,
            kept_bytes,
            sections,
            properties: parts.properties,
            tombstones: parts.tombstones,
            smallest,
            largest,
            is_obsolete: AtomicBool::new(false),
            counts: Counts::default(),
        })
    }

    /// The same file opened again as a table of `level`; what is cached of it stays so.
    pub(crate) fn at_level(&self, level: usize) -> Result<Self> {
        let blobs = |number| self.blobs.iter().find(|b| b.number() == number).cloned();
        let place = (level, self.opened_as);
        Self::open(self.home.clone(), self.path.clone(), self.descriptor, place, &blobs)
    }

    pub(crate) fn descriptor(&self) -> &FileDescriptor {
        &self.descriptor
    }

    pub(crate) fn number(&self) -> u64 {
        self.descriptor.number
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.descriptor.bytes
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn properties(&self) -> &Properties {
        &self.properties
    }

    /// The range tombstones of `family`.
    #[inline]
    pub(crate) fn tombstones(&self, family: Family) -> Option<&Fragments> {
        self.tombstones.family(family)
    }

    /// The smallest key it holds or hides.
    pub(crate) fn smallest(&self) -> &FamilyKey {
        &self.smallest
    }

    /// The largest key it holds or may hide.
    pub(crate) fn largest(&self) -> &FamilyKey {
        &self.largest
    }

    /// The blob files its records refer to.
    pub(crate) fn blobs(&self) -> &[Arc<BlobFile>] {
        &self.blobs
    }

    /// The value a record refers to; `None` if it is not cached and the disk must not be waited
    /// for.
    pub(crate) fn blob(&self, reference: BlobRef, fill: Fill) -> Result<Option<Bytes>> {
        let at = self.blobs.binary_search_by_key(&reference.file, |b| b.number());
        let file = at.ok().and_then(|at| self.blobs.get(at));
        let file = file.ok_or_else(|| Error::corrupt(&self.path, 0, "no such blob file"))?;
        file.read(reference, fill)
    }

    pub(crate) fn top(&self) -> &Top {
        &self.top
    }

    /// Memory held by filter and index outside the cache, bytes.
    pub(crate) fn resident_bytes(&self) -> (u64, u64) {
        let (mut filter, mut index) = (0, self.top.bytes() + self.tombstones.bytes());
        for kept in self.kept.iter().filter_map(OnceLock::get) {
            let bytes = kept.partition().bytes();
            (filter, index) = (filter + bytes.0, index + bytes.1);
        }
        (filter as u64, index as u64)
    }

    /// Length of its partitions, bytes.
    pub(crate) fn partition_bytes(&self) -> u64 {
        partition_bytes(&self.top)
    }

    /// Where its partitions end, and the bytes of the data they describe.
    pub(crate) fn partition_ends(&self) -> Vec<(FamilyKey, u64)> {
        let mut ends = Vec::with_capacity(self.top.len());
        for section in self.sections.iter().flatten() {
            for (number, part) in section.parts.clone().enumerate() {
                let key = Bytes::from(section.fence.key(number));
                let (_, data) = self.top.blocks(part);
                let end = FamilyKey { family: section.properties.family, key };
                ends.push((end, data.end - data.start));
            }
        }
        ends
    }

    /// How often the filter was asked, and how often it spared a block.
    pub(crate) fn filter_counts(&self) -> (u64, u64) {
        let load = |c: &AtomicU64| c.load(Ordering::Relaxed);
        (load(&self.counts.checks), load(&self.counts.useful))
    }

    /// The blocks of `family`, empty if it has none.
    pub(crate) fn blocks(&self, family: Family) -> Range<usize> {
        self.section(family).map_or(0..0, |s| s.blocks.clone())
    }

    /// The first block of `family` that may hold `key` or something behind it.
    pub(crate) fn seek(&self, family: Family, key: &[u8]) -> Result<usize> {
        let Some(section) = self.section(family) else { return Ok(0) };
        let part = section.parts.start + section.fence.seek(key);
        if part >= section.parts.end {
            return Ok(section.blocks.end);
        }
        Ok(self.partition(part, Fill::FromDisk)?.map_or(section.blocks.end, |p| p.seek(key)))
    }

    /// Smallest and largest key and the sequence bounds of `family`.
    pub(crate) fn family(&self, family: Family) -> Option<&FamilyProperties> {
        self.section(family).map(|s| &s.properties)
    }

    /// Whether `key` lies within the bounds of `family`.
    pub(crate) fn may_hold(&self, family: Family, key: &[u8]) -> bool {
        self.family(family).is_some_and(|f| f.key_min.as_ref() <= key && key <= f.key_max.as_ref())
    }

    /// Whether the table says anything about `key`: by a record, or maybe by a range tombstone.
    #[inline]
    pub(crate) fn may_know(&self, family: Family, key: &[u8]) -> bool {
        self.may_hold(family, key) || self.tombstones.family(family).is_some()
    }

    /// The largest key of `family` the table says anything about.
    pub(crate) fn largest_of(&self, family: Family) -> Option<Bytes> {
        let hidden = self.tombstones.family(family).and_then(|t| t.pieces().last());
        let hidden = hidden.map(RangeTombstone::largest);
        self.family(family).map(|f| f.key_max.clone()).max(hidden)
    }

    fn section(&self, family: Family) -> Option<&Section> {
        self.sections.get(family.index())?.as_ref()
    }

    /// The file is deleted when the last version that names it is gone.
    pub(crate) fn mark_obsolete(&self) {
        self.is_obsolete.store(true, Ordering::Relaxed);
    }

    /// Finds the place of `key` and asks for the memory its filter is in: whoever looks into
    /// several tables asks all of them first, so that these waits are one.
    #[inline]
    pub(crate) fn spot(self: &Arc<Self>, family: Family, key: &[u8], hash: u64) -> Spot<'_> {
        let place = self.section(family).map(|section| {
            let first = section.parts.start + section.fence.seek(key);
            if let Some(kept) = self.kept_at(first) {
                kept.filter().prefetch(hash);
            }
            (section, first)
        });
        Spot { table: self, place }
    }

    /// The newest record of `key` with a sequence number of at most `seq_max`, in the `section`
    /// and not before its partition `first`.
    fn get(
        self: &Arc<Self>,
        (section, first): (&Section, usize),
        key: &[u8],
        hash: u64,
        seq_max: u64,
        fill: Fill,
    ) -> Result<Lookup> {
        if seq_max < section.properties.seq_min {
            return Ok(Lookup::Absent);
        }
        let parts = first..section.parts.end;
        let kept = if parts.is_empty() { None } else { self.kept_at(first) };
        if kept.is_some_and(|kept| self.refuses(kept.filter(), hash)) {
            return Ok(Lookup::Absent);
        }
        // Versions of one key may span several partitions; every other search ends in its first.
        for part in parts {
            let Some(partition) = self.partition(part, fill)? else {
                return Ok(Lookup::NeedsIo(None));
            };
            if part == first && kept.is_none() && self.refuses(partition.filter(), hash) {
                return Ok(Lookup::Absent);
            }
            match self.search(&partition, key, seq_max, fill)? {
                Searched::Decided(lookup) => return Ok(lookup),
                Searched::GoesOn => {}
            }
        }
        Ok(Lookup::Absent)
    }

    /// Whether a filter says that no key with this hash is there.
    #[inline]
    fn refuses(&self, filter: &Filter, hash: u64) -> bool {
        count_one(&self.counts.checks);
        let refuses = !filter.may_contain(hash);
        if refuses {
            count_one(&self.counts.useful);
        }
        refuses
    }

    /// A partition that is kept.
    #[inline]
    fn kept_at(&self, part: usize) -> Option<&KeptPartition> {
        self.kept.get(part).and_then(OnceLock::get)
    }

    /// Looks into the blocks of one partition.
    fn search(
        self: &Arc<Self>,
        partition: &Partition,
        key: &[u8],
        seq_max: u64,
        fill: Fill,
    ) -> Result<Searched> {
        let decided = |lookup| Ok(Searched::Decided(lookup));
        for number in partition.seek(key)..partition.blocks().end {
            let Some((handle, seqs)) = partition.block(number) else { break };
            if seqs.0 <= seq_max {
                let Some(block) = self.block(handle, fill)? else {
                    return decided(Lookup::NeedsIo(Some(Cold { table: self.clone(), handle })));
                };
                match block.find(key, seq_max).ok_or_else(|| self.damaged(handle))? {
                    Found::Absent => return decided(Lookup::Absent),
                    Found::End => {}
                    Found::Record(found) => {
                        let stored = block.stored(&found).ok_or_else(|| self.damaged(handle))?;
                        let value = match stored {
                            Stored::Tombstone => return decided(Lookup::Found(None)),
                            Stored::Inline(_) => return decided(inline(block, found)),
                            Stored::Blob(reference) => match self.blob(reference, fill)? {
                                Some(value) => value,
                                None => return decided(Lookup::NeedsIo(None)),
                            },
                        };
                        let record = Record { seq: found.seq, ordinal: found.ordinal, value };
                        return decided(Lookup::Found(Some(record)));
                    }
                }
            }
            if !partition.ends_in(number, key) {
                return decided(Lookup::Absent);
            }
        }
        Ok(Searched::GoesOn)
    }

    /// A partition, from memory or the disk; `None` if neither is allowed to have it.
    #[inline]
    pub(crate) fn partition(&self, part: usize, fill: Fill) -> Result<Option<PartRef<'_>>> {
        if let Some(kept) = self.kept_at(part) {
            return Ok(Some(PartRef::Kept(kept.partition())));
        }
        self.partition_cached(part, fill)
    }

    fn partition_cached(&self, part: usize, fill: Fill) -> Result<Option<PartRef<'_>>> {
        let Some((handle, _)) = self.top.entry(part) else {
            return Err(Error::corrupt(&self.path, 0, "table has no such partition"));
        };
        let key = BlockKey { opened_as: self.opened_as, offset: handle.offset };
        if let Some(partition) = self.home.shared.cached_partition(&key) {
            return Ok(Some(PartRef::Cached(partition)));
        }
        if fill == Fill::CacheOnly {
            return Ok(None);
        }
        let partition = self.read_partition(part)?;
        if !self.keep(part, &partition) {
            self.home.shared.cache_partition(key, partition.clone());
        }
        Ok(Some(PartRef::Cached(partition)))
    }

    /// Keeps a partition for as long as the table is open, if the node has memory for it.
    fn keep(&self, part: usize, partition: &Arc<Partition>) -> bool {
        let bytes = partition.bytes();
        let bytes = (bytes.0 + bytes.1) as u64;
        let Some(slot) = self.kept.get(part) else { return false };
        if !self.home.shared.keep_index(bytes, false) {
            return false;
        }
        if slot.set(KeptPartition::new(partition.clone())).is_ok() {
            self.kept_bytes.fetch_add(bytes, Ordering::Relaxed);
        } else {
            self.home.shared.release_index(bytes);
        }
        true
    }

    /// A partition, past the cache: for who reads everything and only once.
    pub(crate) fn partition_once(&self, part: usize) -> Result<Arc<Partition>> {
        match self.kept_at(part) {
            Some(kept) => Ok(kept.partition().clone()),
            None => self.read_partition(part),
        }
    }

    fn read_partition(&self, part: usize) -> Result<Arc<Partition>> {
        let file = self.file()?;
        load_partition(file.as_ref(), &self.path, &self.descriptor, &self.top, part)
    }

    /// A data block, from the cache or the disk; `None` if neither is allowed to have it.
    #[inline]
    pub(crate) fn block(&self, handle: Handle, fill: Fill) -> Result<Option<Block>> {
        let key = BlockKey { opened_as: self.opened_as, offset: handle.offset };
        match self.home.shared.cached_content(&key) {
            Some(content) => self.decode(content, handle).map(Some),
            None => self.read_uncached(key, handle, fill),
        }
    }

    fn read_uncached(&self, key: BlockKey, handle: Handle, fill: Fill) -> Result<Option<Block>> {
        if fill == Fill::CacheOnly {
            return Ok(None);
        }
        let file = self.file()?;
        let content: Arc<[u8]> =
            read_block(file.as_ref(), &self.path, &self.descriptor, handle, |content| {
                content.into()
            })?;
        let block = self.decode(content, handle)?;
        self.home.shared.cache_content(key, block.content().clone());
        Ok(Some(block))
    }

    /// Brings data blocks that lie one behind the other into the cache, by one read.
    pub(crate) fn load_blocks(&self, handles: &[Handle]) -> Result<()> {
        let (Some(first), Some(last)) = (handles.first(), handles.last()) else { return Ok(()) };
        let bytes = usize::try_from(last.end() - first.offset).unwrap_or(0);
        let (mut stored, mut scratch) = (vec![0; bytes], Vec::new());
        self.read_raw(first.offset, &mut stored)?;
        for handle in handles {
            let from = usize::try_from(handle.offset - first.offset).unwrap_or(usize::MAX);
            let stored = stored.get(from..from.saturating_add(handle.bytes as usize));
            let block = self.block_from(*handle, stored.unwrap_or_default(), &mut scratch)?;
            let key = BlockKey { opened_as: self.opened_as, offset: handle.offset };
            self.home.shared.cache_content(key, block.content().clone());
        }
        Ok(())
    }

    /// A data block that is in the cache, for a compaction: that is no use of it.
    pub(crate) fn peek_block(&self, handle: Handle) -> Result<Option<Block>> {
        let key = BlockKey { opened_as: self.opened_as, offset: handle.offset };
        let content = self.home.shared.peek_content(&key);
        content.map(|content| self.decode(content, handle)).transpose()
    }

    /// A data block out of `stored`, its bytes as they lie in the file; the cache is left alone.
    pub(crate) fn block_from(
        &self,
        handle: Handle,
        stored: &[u8],
        scratch: &mut Vec<u8>,
    ) -> Result<Block> {
        let content = load_block(stored, self.descriptor.birth, handle.offset, scratch)
            .map_err(|what| Error::corrupt(&self.path, handle.offset, what))?;
        self.decode(content.into(), handle)
    }

    #[inline]
    fn decode(&self, content: Arc<[u8]>, handle: Handle) -> Result<Block> {
        Block::new(content).map_err(|what| Error::corrupt(&self.path, handle.offset, what))
    }

    /// [`Table::read_raw`] for a compaction, which waits for its share of the disk.
    pub(crate) fn read_paced(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.home.shared.take_io(buffer.len() as u64, true);
        self.read_raw(offset, buffer)
    }

    /// Fills `buffer` from the file at `offset`, unchecked.
    pub(crate) fn read_raw(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.file()?
            .read_exact_at(buffer, offset)
            .map_err(|e| missing_is_corrupt(e, &self.path, "read"))
    }

    /// The error for a block whose records contradict themselves.
    pub(crate) fn damaged(&self, handle: Handle) -> Error {
        Error::corrupt(&self.path, handle.offset, "block is malformed")
    }

    fn file(&self) -> Result<Arc<dyn File>> {
        self.home.file(self.opened_as, &self.path)
    }
}

/// Length of all partitions, bytes.
fn partition_bytes(top: &Top) -> u64 {
    (0..top.len()).filter_map(|part| top.entry(part)).map(|(h, _)| u64::from(h.bytes)).sum()
}

/// A place for every partition, filled if the node has memory for all of them, or else if they
/// `must` be; and what was charged for them.
type Kept = (Box<[OnceLock<KeptPartition>]>, AtomicU64);

fn keep_partitions(
    shared: &Shared,
    parts: &Parts,
    file: &dyn File,
    path: &Path,
    must: bool,
) -> Result<Kept> {
    let empty = || (0..parts.top.len()).map(|_| OnceLock::new()).collect();
    if !must && !shared.has_room_for_index(partition_bytes(&parts.top)) {
        return Ok((empty(), AtomicU64::new(0)));
    }
    let partitions = parts.partitions(file, path)?;
    let bytes = partitions.iter().map(|p| (p.bytes().0 + p.bytes().1) as u64).sum();
    if !shared.keep_index(bytes, must) {
        return Ok((empty(), AtomicU64::new(0)));
    }
    let kept = partitions.into_iter().map(KeptPartition::new);
    Ok((kept.map(OnceLock::from).collect(), AtomicU64::new(bytes)))
}

/// Counts, roughly: of counts at the same moment one may be lost. A locked addition would be
/// dearer than the filter it counts.
#[inline]
fn count_one(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

impl Drop for Table {
    fn drop(&mut self) {
        self.home.shared.forget(self.opened_as);
        self.home.shared.release_index(*self.kept_bytes.get_mut());
        let (checks, useful) = self.filter_counts();
        self.home.graveyard.bury_counts(checks, useful);
        if self.is_obsolete.load(Ordering::Relaxed) {
            let (top, kept) = (std::mem::take(&mut self.top), std::mem::take(&mut self.kept));
            let leftover = Leftover { opened_as: self.opened_as, top, kept };
            self.home.graveyard.bury(Grave::Cached(leftover));
            self.home.graveyard.bury(Grave::File(std::mem::take(&mut self.path)));
        }
    }
}

/// A record whose value lies in `block`; it keeps the block in memory.
fn inline(block: Block, found: Parsed) -> Lookup {
    let value = block.into_bytes().slice(found.value);
    Lookup::Found(Some(Record { seq: found.seq, ordinal: found.ordinal, value }))
}

/// What the blocks of a partition say about a key.
enum Searched {
    Decided(Lookup),
    /// Versions of the key may follow in the next partition.
    GoesOn,
}
