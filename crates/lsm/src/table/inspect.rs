//! Reading a table file for people: every part of it, and what contradicts something else.
//!
//! Owns: the walk over all parts, the comparison of what they say of each other.
//! Invariants:
//! * Nothing is written, and damage ends only the part it is in.

use std::path::Path;

use bytes::Bytes;
use holdfast_env::{Disk, File, OpenMode};

use crate::error::{Error, Result};
use crate::inspect::{
    InspectedFamily, InspectedRecord, InspectedTable, InspectedValue, Problem, Section,
};
use crate::table::block::{Block, Stored};
use crate::table::filter::key_hash;
use crate::table::format::{FOOTER_BYTES, Footer, Handle};
use crate::table::missing_is_corrupt;
use crate::table::partition::Partition;
use crate::table::parts::{Parts, load_partition, read_block};
use crate::table::properties::FamilyProperties;
use crate::table::walk::BlockWalk;
use crate::table::writer::FileDescriptor;

/// Receives records; returns whether it wants more.
pub(crate) type Visit<'a> = &'a mut dyn FnMut(InspectedRecord) -> bool;

/// Reads the table at `path`: what describes it and, if `deep`, every data block, whose records
/// go to `visit` until it has enough.
pub(crate) fn inspect(
    disk: &dyn Disk,
    path: &Path,
    deep: bool,
    visit: Visit<'_>,
) -> Result<InspectedTable> {
    let file = disk.open(path, OpenMode::Read).map_err(|e| missing_is_corrupt(e, path, "open"))?;
    let bytes = file.len().map_err(|e| Error::unreferenced("measure", path, e))?;
    let mut walk = Walk {
        file: file.as_ref(),
        path,
        descriptor: FileDescriptor { number: 0, bytes, birth: 0, checksum: 0 },
        found: InspectedTable { bytes, ..InspectedTable::default() },
        is_wanted: true,
    };
    match walk.open() {
        Ok(parts) => walk.parts(&parts, deep, visit),
        Err(error) => walk.note(error)?,
    }
    Ok(walk.found)
}

struct Walk<'a> {
    file: &'a dyn File,
    path: &'a Path,
    descriptor: FileDescriptor,
    found: InspectedTable,
    is_wanted: bool,
}

/// What was counted of one family, to be compared with its properties.
#[derive(Default)]
struct Counts {
    records: u64,
    tombstones: u64,
    last: Option<(Bytes, u64)>,
}

impl Walk<'_> {
    /// Reads everything but partitions and data. The birth id is the one the file itself claims.
    fn open(&mut self) -> Result<Parts> {
        let Some(offset) = self.found.bytes.checked_sub(FOOTER_BYTES as u64) else {
            return Err(Error::corrupt(self.path, 0, "file is cut"));
        };
        let mut footer = [0; FOOTER_BYTES];
        self.file
            .read_exact_at(&mut footer, offset)
            .map_err(|e| missing_is_corrupt(e, self.path, "read"))?;
        self.descriptor.birth = Footer::claimed_birth(&footer).unwrap_or(0);
        self.found.birth = self.descriptor.birth;
        Parts::load(self.file, self.path, &self.descriptor)
    }

    /// Takes corruption down; other errors end the inspection.
    fn note(&mut self, error: Error) -> Result<()> {
        match error {
            Error::Corrupt { path, offset, what } => {
                self.found.problems.push(Problem { path, offset, what: what.to_owned() });
                Ok(())
            }
            other => Err(other),
        }
    }

    fn wrong(&mut self, offset: u64, what: impl Into<String>) {
        let (path, what) = (self.path.to_path_buf(), what.into());
        self.found.problems.push(Problem { path, offset, what });
    }

    fn section(&mut self, name: &'static str, handle: Handle, is_checked: bool) {
        let (offset, bytes) = (handle.offset, u64::from(handle.bytes));
        self.found.sections.push(Section { name, offset, bytes, is_checked });
    }

    fn parts(&mut self, parts: &Parts, deep: bool, visit: Visit<'_>) {
        self.describe(parts);
        let Some(sections) = parts.sections() else {
            self.wrong(parts.footer.properties.offset, "blocks of families do not add up");
            return;
        };
        for section in sections.iter().flatten() {
            let mut counts = Counts::default();
            let mut is_whole = true;
            for part in section.parts.clone() {
                let Some((handle, _)) = parts.top.entry(part) else { continue };
                match load_partition(self.file, self.path, &self.descriptor, &parts.top, part) {
                    Ok(partition) => {
                        self.section("partition", handle, true);
                        is_whole &=
                            self.blocks(&partition, &section.properties, deep, &mut counts, visit);
                    }
                    Err(error) => {
                        is_whole = false;
                        self.wrong(handle.offset, error.to_string());
                    }
                }
            }
            let told = &section.properties;
            let same = counts.records == told.records && counts.tombstones == told.tombstones;
            if deep && is_whole && !same {
                let what = format!("{:?} has other counts than its properties say", told.family);
                self.wrong(parts.footer.properties.offset, what);
            }
        }
        self.found.sections.sort_by_key(|section| section.offset);
    }

    fn describe(&mut self, parts: &Parts) {
        let footer = &parts.footer;
        self.section("top", footer.top, true);
        if footer.tombstones.bytes > 0 {
            self.section("range tombstones", footer.tombstones, true);
        }
        self.section("properties", footer.properties, true);
        let offset = self.found.bytes - FOOTER_BYTES as u64;
        self.section("footer", Handle { offset, bytes: FOOTER_BYTES as u32 }, true);
        let properties = &parts.properties;
        self.found.floor = properties.floor;
        self.found.garbage = properties.garbage;
        self.found.span_epoch = properties.span_epoch;
        self.found.range_tombstones = properties.ranges;
        self.found.blobs = properties.blobs.iter().map(|used| (used.file, used.bytes)).collect();
        self.found.families = properties.families.iter().map(family).collect();
    }

    /// The data blocks of a partition; false if one of them cannot be read whole.
    fn blocks(
        &mut self,
        partition: &Partition,
        told: &FamilyProperties,
        deep: bool,
        counts: &mut Counts,
        visit: Visit<'_>,
    ) -> bool {
        let mut is_whole = true;
        for number in partition.blocks() {
            let Some((handle, seqs)) = partition.block(number) else { continue };
            if !deep {
                self.section("data", handle, false);
                continue;
            }
            let read = read_block(self.file, self.path, &self.descriptor, handle, |content| {
                Block::new(content.into())
            });
            let block = match read {
                Ok(Ok(block)) => block,
                Ok(Err(what)) => {
                    is_whole = false;
                    self.wrong(handle.offset, what);
                    continue;
                }
                Err(error) => {
                    is_whole = false;
                    self.wrong(handle.offset, error.to_string());
                    continue;
                }
            };
            self.section("data", handle, true);
            let mut place = Place { partition, told, seqs, offset: handle.offset, counts };
            is_whole &= self.records(block, &mut place, visit);
        }
        is_whole
    }

    fn records(&mut self, block: Block, place: &mut Place<'_>, visit: Visit<'_>) -> bool {
        let mut walk = BlockWalk::new();
        let mut more = walk.enter_forward(block, None).and_then(|()| walk.forward());
        while more == Some(true) {
            let (Some(parsed), Some(stored)) = (walk.record(), walk.stored()) else {
                more = None;
                break;
            };
            let (seq, ordinal) = (parsed.seq, parsed.ordinal);
            if let Some(what) = place.contradiction(walk.key(), seq) {
                self.wrong(place.offset, what);
            }
            place.counts.records += 1;
            place.counts.tombstones += u64::from(stored.is_tombstone());
            let size = (stored.len() as u64).checked_ilog2().map_or(0, |log| log as usize + 1);
            if let Some(count) = self.found.value_sizes.get_mut(size) {
                *count += 1;
            }
            let key = Bytes::copy_from_slice(walk.key());
            place.counts.last = Some((key.clone(), seq));
            if let Stored::Blob(at) = stored {
                self.found.references.push((at.file, at.handle.offset, at.handle.bytes, at.raw));
            }
            if self.is_wanted {
                let value = match stored {
                    Stored::Tombstone => InspectedValue::Tombstone,
                    Stored::Inline(value) => InspectedValue::Inline(Bytes::copy_from_slice(value)),
                    Stored::Blob(at) => InspectedValue::Blob { file: at.file, bytes: at.raw },
                };
                let family = place.told.family;
                self.is_wanted = visit(InspectedRecord { family, key, seq, ordinal, value });
            }
            more = walk.forward();
        }
        if more.is_none() {
            self.wrong(place.offset, "block is malformed");
        }
        more.is_some()
    }
}

/// Where a record stands, and what was said of those that stand there.
struct Place<'a> {
    partition: &'a Partition,
    told: &'a FamilyProperties,
    seqs: (u64, u64),
    offset: u64,
    counts: &'a mut Counts,
}

impl Place<'_> {
    /// What a record says against what was said before it.
    fn contradiction(&self, key: &[u8], seq: u64) -> Option<&'static str> {
        let follows = self.counts.last.as_ref().is_none_or(|(last_key, last_seq)| {
            (last_key.as_ref(), std::cmp::Reverse(*last_seq)) < (key, std::cmp::Reverse(seq))
        });
        let told = self.told;
        match () {
            () if !follows => Some("records are not in order"),
            () if seq < self.seqs.0 || seq > self.seqs.1 => {
                Some("a sequence number is outside the bounds of its block")
            }
            () if key < told.key_min.as_ref() || key > told.key_max.as_ref() => {
                Some("a key is outside the bounds of its family")
            }
            () if !self.partition.filter().may_contain(key_hash(told.family, key)) => {
                Some("the filter denies a key that is there")
            }
            () => None,
        }
    }
}

fn family(told: &FamilyProperties) -> InspectedFamily {
    InspectedFamily {
        family: told.family,
        blocks: told.blocks,
        records: told.records,
        tombstones: told.tombstones,
        raw_bytes: told.raw_bytes,
        seqs: (told.seq_min, told.seq_max),
        keys: (told.key_min.clone(), told.key_max.clone()),
    }
}
