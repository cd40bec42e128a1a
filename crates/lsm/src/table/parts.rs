//! Reading a table file: what is read when it is opened, single blocks, all of it.

use std::cell::RefCell;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use holdfast_env::{Disk, File, OpenMode};

use crate::checksum::Whole;
use crate::error::{Error, Result};
use crate::limits::{BLOCK_BYTES_MAX, TABLE_BYTES_MAX};
use crate::table::fence::{Fence, Keys};
use crate::table::format::{FOOTER_BYTES, Footer, Handle, load_block, room};
use crate::table::partition::Partition;
use crate::table::properties::{FamilyProperties, Properties};
use crate::table::tombstones::TableTombstones;
use crate::table::top::Top;
use crate::table::writer::FileDescriptor;
use crate::types::Family;

/// The part of a table one family has.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) parts: Range<usize>,
    /// The separators of these partitions.
    pub(super) fence: Fence,
    pub(super) blocks: Range<usize>,
    pub(super) properties: FamilyProperties,
}

/// What is read when a table is opened.
pub(super) struct Parts {
    descriptor: FileDescriptor,
    pub(super) footer: Footer,
    pub(super) top: Top,
    pub(super) tombstones: TableTombstones,
    separators: Keys,
    pub(super) properties: Properties,
}

impl Parts {
    pub(super) fn load(file: &dyn File, path: &Path, descriptor: &FileDescriptor) -> Result<Self> {
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
        let load = |handle| read_block(file, path, descriptor, handle, <[u8]>::to_vec);
        let damaged = |handle: Handle| move |what| Error::corrupt(path, handle.offset, what);
        let (top, separators) =
            Top::decode(&load(footer.top)?, footer.top.offset).map_err(damaged(footer.top))?;
        let properties =
            Properties::decode(&load(footer.properties)?).map_err(damaged(footer.properties))?;
        let tombstones = match footer.tombstones.bytes {
            0 => TableTombstones::default(),
            _ => TableTombstones::decode(&load(footer.tombstones)?)
                .map_err(damaged(footer.tombstones))?,
        };
        if tombstones.pieces().count() as u64 != properties.ranges {
            let offset = footer.properties.offset;
            return Err(Error::corrupt(path, offset, "range tombstones do not add up"));
        }
        Ok(Self { descriptor: *descriptor, footer, top, separators, tombstones, properties })
    }

    /// Every partition, read in large pieces.
    pub(super) fn partitions(&self, file: &dyn File, path: &Path) -> Result<Vec<Arc<Partition>>> {
        const READ_BYTES: u64 = 1 << 20;
        let (mut buffer, mut start, mut scratch) = (Vec::new(), 0, Vec::new());
        let mut partitions = Vec::with_capacity(self.top.len());
        for (part, handle) in (0..self.top.len()).filter_map(|p| Some((p, self.top.entry(p)?.0))) {
            if handle.bytes as usize > BLOCK_BYTES_MAX {
                return Err(Error::corrupt(path, handle.offset, "block is too long"));
            }
            if handle.end() > start + buffer.len() as u64 {
                let end = self.footer.top.offset.min(handle.offset + READ_BYTES).max(handle.end());
                start = handle.offset;
                buffer.resize(usize::try_from(end - start).unwrap_or(0), 0);
                file.read_exact_at(&mut buffer, start)
                    .map_err(|e| missing_is_corrupt(e, path, "read"))?;
            }
            let from = usize::try_from(handle.offset - start).unwrap_or(usize::MAX);
            let stored = buffer.get(from..from.saturating_add(handle.bytes as usize));
            let stored = stored.unwrap_or_default();
            let content = load_block(stored, self.descriptor.birth, handle.offset, &mut scratch)
                .map_err(|what| Error::corrupt(path, handle.offset, what))?;
            partitions.push(decode_partition(content, path, &self.top, part)?);
        }
        Ok(partitions)
    }

    /// Which partitions and blocks belong to which family; `None` if the counts contradict.
    pub(super) fn sections(&self) -> Option<[Option<Section>; Family::COUNT]> {
        let mut sections = [const { None }; Family::COUNT];
        let (mut block, mut part) = (0, 0);
        for properties in &self.properties.families {
            let (first_block, first_part) = (block, part);
            block += properties.blocks as usize;
            while part < self.top.len() && self.top.blocks(part).0.end <= block {
                part += 1;
            }
            // A partition never holds blocks of two families.
            if part == first_part || self.top.blocks(part - 1).0.end != block {
                return None;
            }
            let parts = first_part..part;
            let fence = Fence::new(&self.separators, parts.clone());
            let slot = sections.get_mut(properties.family.index())?;
            let (blocks, properties) = (first_block..block, properties.clone());
            *slot = Some(Section { parts, fence, blocks, properties });
        }
        (part == self.top.len()).then_some(sections)
    }
}

pub(super) fn load_partition(
    file: &dyn File,
    path: &Path,
    descriptor: &FileDescriptor,
    top: &Top,
    part: usize,
) -> Result<Arc<Partition>> {
    let Some((handle, _)) = top.entry(part) else {
        return Err(Error::corrupt(path, 0, "table has no such partition"));
    };
    read_block(file, path, descriptor, handle, |content| {
        decode_partition(content, path, top, part)
    })?
}

fn decode_partition(content: &[u8], path: &Path, top: &Top, part: usize) -> Result<Arc<Partition>> {
    let offset = top.entry(part).map_or(0, |(handle, _)| handle.offset);
    let (blocks, data) = top.blocks(part);
    match Partition::decode(content, blocks.start, data) {
        Ok(partition) if partition.blocks() == blocks => Ok(Arc::new(partition)),
        Ok(_) => Err(Error::corrupt(path, offset, "partition has the wrong blocks")),
        Err(what) => Err(Error::corrupt(path, offset, what)),
    }
}

/// Buffers for a block on its way from the disk, kept by every thread that reads: fresh memory
/// for each block would cost more than its checksum.
#[derive(Default)]
struct Scratch {
    stored: Vec<u8>,
    raw: Vec<u8>,
}

/// Buffers longer than this are not kept.
const SCRATCH_BYTES_MAX: usize = 256 << 10;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Reads and checks a block; `take` makes what is wanted of its content.
pub(crate) fn read_block<T>(
    file: &dyn File,
    path: &Path,
    descriptor: &FileDescriptor,
    handle: Handle,
    take: impl FnOnce(&[u8]) -> T,
) -> Result<T> {
    if handle.bytes as usize > BLOCK_BYTES_MAX {
        return Err(Error::corrupt(path, handle.offset, "block is too long"));
    }
    let mut scratch = SCRATCH.take();
    let stored = room(&mut scratch.stored, handle.bytes as usize);
    file.read_exact_at(stored, handle.offset).map_err(|e| missing_is_corrupt(e, path, "read"))?;
    let content = load_block(stored, descriptor.birth, handle.offset, &mut scratch.raw)
        .map_err(|what| Error::corrupt(path, handle.offset, what))?;
    let taken = take(content);
    if scratch.stored.len().max(scratch.raw.len()) <= SCRATCH_BYTES_MAX {
        SCRATCH.set(scratch);
    }
    Ok(taken)
}

/// A file the manifest names that is missing or too short is damage, not bad luck.
pub(crate) fn missing_is_corrupt(
    error: std::io::Error,
    path: &Path,
    action: &'static str,
) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => Error::corrupt(path, 0, "file is missing"),
        std::io::ErrorKind::UnexpectedEof => Error::corrupt(path, 0, "file is cut"),
        _ => Error::unreferenced(action, path, error),
    }
}

/// Reads the whole file once and compares it with its descriptor.
pub(crate) fn verify_file(disk: &dyn Disk, path: &Path, descriptor: &FileDescriptor) -> Result<()> {
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
