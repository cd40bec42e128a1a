//! An open table: its index, filter and properties in memory, its blocks behind the cache.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use holdfast_env::{Disk, File, OpenMode};

use crate::checksum::Whole;
use crate::error::{Error, Result};
use crate::graveyard::{Grave, Graveyard};
use crate::limits::{BLOCK_BYTES_MAX, TABLE_BYTES_MAX};
use crate::shared::{BlockKey, Shared};
use crate::table::block::{Block, Found};
use crate::table::filter::Filter;
use crate::table::format::{FOOTER_BYTES, Footer, Handle, load_block};
use crate::table::index::{Index, Stretch};
use crate::table::properties::{FamilyKey, FamilyProperties, Properties};
use crate::table::writer::TableDescriptor;
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
    /// A block is not cached and the disk must not be waited for.
    NeedsIo,
}

/// Where tables live: the doors and shared parts a table needs.
#[derive(Clone)]
pub(crate) struct Home {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) graveyard: Arc<Graveyard>,
}

/// The part of a table one family has.
#[derive(Debug)]
struct Section {
    stretch: Stretch,
    properties: FamilyProperties,
}

/// An open table file.
pub(crate) struct Table {
    descriptor: TableDescriptor,
    path: PathBuf,
    home: Home,
    /// Number of this opening: what cached blocks and the open file are filed under.
    opened_as: u64,
    index: Index,
    filter: Filter,
    sections: [Option<Section>; Family::COUNT],
    properties: Properties,
    smallest: FamilyKey,
    largest: FamilyKey,
    is_obsolete: AtomicBool,
    filter_checks: AtomicU64,
    filter_useful: AtomicU64,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Table {
    /// Opens the file at `path` and checks everything but its data blocks.
    pub(crate) fn open(home: Home, path: PathBuf, descriptor: TableDescriptor) -> Result<Self> {
        let file = home
            .disk
            .open(&path, OpenMode::Read)
            .map_err(|e| missing_is_corrupt(e, &path, "open"))?;
        let mut parts = Parts::load(file.as_ref(), &path, &descriptor)?;
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
        let (Some(smallest), Some(largest)) =
            (edge(families.first(), false), edge(families.last(), true))
        else {
            return Err(Error::corrupt(&path, 0, "table is empty"));
        };
        let opened_as = home.shared.next_opening();
        home.shared.keep_open(opened_as, file);
        Ok(Self {
            descriptor,
            path,
            home,
            opened_as,
            index: parts.index,
            filter: parts.filter,
            sections,
            properties: parts.properties,
            smallest,
            largest,
            is_obsolete: AtomicBool::new(false),
            filter_checks: AtomicU64::new(0),
            filter_useful: AtomicU64::new(0),
        })
    }

    pub(crate) fn descriptor(&self) -> &TableDescriptor {
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

    pub(crate) fn smallest(&self) -> &FamilyKey {
        &self.smallest
    }

    pub(crate) fn largest(&self) -> &FamilyKey {
        &self.largest
    }

    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    /// Memory held by filter and index, bytes.
    pub(crate) fn resident_bytes(&self) -> (u64, u64) {
        (self.filter.bytes() as u64, self.index.bytes() as u64)
    }

    /// How often the filter was asked, and how often it spared a block.
    pub(crate) fn filter_counts(&self) -> (u64, u64) {
        let load = |c: &AtomicU64| c.load(Ordering::Relaxed);
        (load(&self.filter_checks), load(&self.filter_useful))
    }

    /// The blocks of `family`, empty if it has none.
    pub(crate) fn blocks(&self, family: Family) -> Range<usize> {
        self.section(family).map_or(0..0, |s| s.stretch.blocks.clone())
    }

    /// The first block of `family` that may hold `key` or something behind it.
    pub(crate) fn seek(&self, family: Family, key: &[u8]) -> usize {
        self.section(family).map_or(0, |s| self.index.seek(&s.stretch, key))
    }

    /// Smallest and largest key and the sequence bounds of `family`.
    pub(crate) fn family(&self, family: Family) -> Option<&FamilyProperties> {
        self.section(family).map(|s| &s.properties)
    }

    fn section(&self, family: Family) -> Option<&Section> {
        self.sections.get(family.index())?.as_ref()
    }

    /// The file is deleted when the last version that names it is gone.
    pub(crate) fn mark_obsolete(&self) {
        self.is_obsolete.store(true, Ordering::Relaxed);
    }

    /// The newest record of `key` with a sequence number of at most `seq_max`.
    pub(crate) fn get(
        &self,
        family: Family,
        key: &[u8],
        hash: u64,
        seq_max: u64,
        fill: Fill,
    ) -> Result<Lookup> {
        let Some(section) = self.section(family) else { return Ok(Lookup::Absent) };
        let bounds = &section.properties;
        if key < bounds.key_min.as_ref()
            || key > bounds.key_max.as_ref()
            || seq_max < bounds.seq_min
        {
            return Ok(Lookup::Absent);
        }
        count_one(&self.filter_checks);
        if !self.filter.may_contain(hash) {
            count_one(&self.filter_useful);
            return Ok(Lookup::Absent);
        }
        self.search(&section.stretch, key, seq_max, fill)
    }

    fn search(&self, stretch: &Stretch, key: &[u8], seq_max: u64, fill: Fill) -> Result<Lookup> {
        let first = self.index.seek(stretch, key);
        // Versions of one key may span several blocks; every other search ends in its first.
        for number in first..stretch.blocks.end {
            let Some(entry) = self.index.entry(number) else { break };
            if entry.seq_min <= seq_max {
                let Some(block) = self.block(number, fill)? else { return Ok(Lookup::NeedsIo) };
                match block.find(key, seq_max).ok_or_else(|| self.damaged(number))? {
                    Found::Absent => break,
                    Found::End => {}
                    Found::Record(found) if found.is_tombstone => return Ok(Lookup::Found(None)),
                    Found::Record(found) => {
                        let value = block.share(found.value);
                        let record = Record { seq: found.seq, ordinal: found.ordinal, value };
                        return Ok(Lookup::Found(Some(record)));
                    }
                }
            }
            if self.index.separator(number) != key {
                break;
            }
        }
        Ok(Lookup::Absent)
    }

    /// A data block, from the cache or the disk; `None` if neither is allowed to have it.
    pub(crate) fn block(&self, number: usize, fill: Fill) -> Result<Option<Arc<Block>>> {
        let handle = self.handle(number)?;
        let key = BlockKey { opened_as: self.opened_as, offset: handle.offset };
        if let Some(block) = self.home.shared.cached_block(&key) {
            return Ok(Some(block));
        }
        if fill == Fill::CacheOnly {
            return Ok(None);
        }
        let file = self.file()?;
        let content = read_block(file.as_ref(), &self.path, &self.descriptor, handle)?;
        let block = Arc::new(self.decode(content, handle)?);
        self.home.shared.cache_block(key, block.clone());
        Ok(Some(block))
    }

    /// A data block out of `stored`, its bytes as they lie in the file; the cache is left alone.
    pub(crate) fn block_from(&self, number: usize, stored: &[u8]) -> Result<Arc<Block>> {
        let handle = self.handle(number)?;
        let content = load_block(stored.to_vec(), self.descriptor.birth, handle.offset)
            .map_err(|what| Error::corrupt(&self.path, handle.offset, what))?;
        self.decode(content, handle).map(Arc::new)
    }

    fn decode(&self, content: Vec<u8>, handle: Handle) -> Result<Block> {
        Block::new(content).map_err(|what| Error::corrupt(&self.path, handle.offset, what))
    }

    /// Fills `buffer` from the file at `offset`, unchecked.
    pub(crate) fn read_raw(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.file()?
            .read_exact_at(buffer, offset)
            .map_err(|e| missing_is_corrupt(e, &self.path, "read"))
    }

    pub(crate) fn handle(&self, number: usize) -> Result<Handle> {
        match self.index.entry(number) {
            Some(entry) => Ok(entry.handle),
            None => Err(self.damaged(number)),
        }
    }

    /// The error for a block whose records contradict themselves.
    pub(crate) fn damaged(&self, number: usize) -> Error {
        let offset = self.index.entry(number).map_or(0, |e| e.handle.offset);
        Error::corrupt(&self.path, offset, "block is malformed")
    }

    /// The open file, opened again if it was closed to stay under the node's limit.
    pub(crate) fn file(&self) -> Result<Arc<dyn File>> {
        if let Some(file) = self.home.shared.open_file(self.opened_as) {
            return Ok(file);
        }
        let file = self
            .home
            .disk
            .open(&self.path, OpenMode::Read)
            .map_err(|e| missing_is_corrupt(e, &self.path, "open"))?;
        self.home.shared.keep_open(self.opened_as, file.clone());
        Ok(file)
    }
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
        let (checks, useful) = self.filter_counts();
        self.home.graveyard.bury_counts(checks, useful);
        if self.is_obsolete.load(Ordering::Relaxed) {
            self.home.graveyard.bury(Grave::File(std::mem::take(&mut self.path)));
        }
    }
}

/// What is read when a table is opened.
struct Parts {
    footer: Footer,
    index: Index,
    filter: Filter,
    properties: Properties,
}

impl Parts {
    fn load(file: &dyn File, path: &Path, descriptor: &TableDescriptor) -> Result<Self> {
        let actual = file.len().map_err(|e| Error::unreferenced("measure", path, e))?;
        if actual != descriptor.bytes || actual > TABLE_BYTES_MAX || actual < FOOTER_BYTES as u64 {
            return Err(Error::corrupt(path, actual, "table has the wrong length"));
        }
        let footer_offset = actual - FOOTER_BYTES as u64;
        let mut bytes = [0; FOOTER_BYTES];
        file.read_exact_at(&mut bytes, footer_offset)
            .map_err(|e| Error::unreferenced("read", path, e))?;
        let footer = Footer::decode(&bytes, actual, descriptor.birth)
            .map_err(|what| Error::corrupt(path, footer_offset, what))?;
        let load = |handle| read_block(file, path, descriptor, handle);
        let damaged = |handle: Handle| move |what| Error::corrupt(path, handle.offset, what);
        let index = Index::decode(&load(footer.index)?, footer.index.offset)
            .map_err(damaged(footer.index))?;
        let filter = Filter::decode(&load(footer.filter)?).map_err(damaged(footer.filter))?;
        let properties =
            Properties::decode(&load(footer.properties)?).map_err(damaged(footer.properties))?;
        Ok(Self { footer, index, filter, properties })
    }

    /// Which blocks belong to which family; `None` if the counts contradict the index.
    fn sections(&mut self) -> Option<[Option<Section>; Family::COUNT]> {
        let mut sections = [const { None }; Family::COUNT];
        let mut start = 0;
        for properties in &self.properties.families {
            let end = start + properties.blocks as usize;
            let stretch = self.index.stretch(start..end);
            let section = Section { stretch, properties: properties.clone() };
            *sections.get_mut(properties.family.index())? = Some(section);
            start = end;
        }
        (start == self.index.len()).then_some(sections)
    }
}

fn read_block(
    file: &dyn File,
    path: &Path,
    descriptor: &TableDescriptor,
    handle: Handle,
) -> Result<Vec<u8>> {
    if handle.bytes as usize > BLOCK_BYTES_MAX {
        return Err(Error::corrupt(path, handle.offset, "block is too long"));
    }
    let mut stored = vec![0; handle.bytes as usize];
    file.read_exact_at(&mut stored, handle.offset)
        .map_err(|e| missing_is_corrupt(e, path, "read"))?;
    load_block(stored, descriptor.birth, handle.offset)
        .map_err(|what| Error::corrupt(path, handle.offset, what))
}

/// A file the manifest names that is missing or too short is damage, not bad luck.
fn missing_is_corrupt(error: std::io::Error, path: &Path, action: &'static str) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => Error::corrupt(path, 0, "file is missing"),
        std::io::ErrorKind::UnexpectedEof => Error::corrupt(path, 0, "file is cut"),
        _ => Error::unreferenced(action, path, error),
    }
}

/// Reads the whole file once and compares it with its descriptor.
pub(crate) fn verify_file(
    disk: &dyn Disk,
    path: &Path,
    descriptor: &TableDescriptor,
) -> Result<()> {
    const READ_BYTES: u64 = 1 << 20;
    let file = disk.open(path, OpenMode::Read).map_err(|e| missing_is_corrupt(e, path, "open"))?;
    let actual = file.len().map_err(|e| Error::unreferenced("measure", path, e))?;
    if actual != descriptor.bytes {
        return Err(Error::corrupt(path, actual, "file has the wrong length"));
    }
    let mut whole = Whole::new(descriptor.birth);
    let mut buffer = vec![0; READ_BYTES as usize];
    let mut offset = 0;
    while offset < actual {
        let part = usize::try_from((actual - offset).min(READ_BYTES)).unwrap_or(0);
        let bytes = buffer.get_mut(..part).unwrap_or_default();
        file.read_exact_at(bytes, offset).map_err(|e| missing_is_corrupt(e, path, "read"))?;
        whole.update(bytes);
        offset += part as u64;
    }
    if whole.digest() != descriptor.checksum {
        return Err(Error::corrupt(path, 0, "file checksum"));
    }
    Ok(())
}
