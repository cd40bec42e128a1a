//! The tables of the tree at one moment, never changed, replaced as a whole.
//!
//! Invariants:
//! * Level 0 is ordered newest first and may overlap; below it tables are sorted and disjoint.
//! * Of one key, a higher level never holds an older version than a lower level; nor does it hold
//!   a range tombstone over the key that is older than such a version.
//! * `floor` is the highest watermark any table was ever written with, and at most the revision
//!   of `point`: a read of the newest state is always possible.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::blob::BlobFile;
use crate::error::{Error, Result};
use crate::generation::Generation;
use crate::limits::LEVELS;
use crate::manifest::{Edit, LeveledTable};
use crate::read::{Direction, KeyRange, Source};
use crate::table::{
    FamilyProperties, Fill, LevelMap, LevelSource, Lookup, SeqRange, Spot, Table, TableSource,
};
use crate::tombstone::RangeTombstone;
use crate::types::{Family, ReadPoint};

/// See the module.
pub(crate) struct Version {
    pub(crate) generation: Arc<Generation>,
    /// Counts the versions of the generation.
    number: u64,
    levels: [Arc<[Arc<Table>]>; LEVELS],
    /// Where keys lie in the sorted levels.
    maps: [LevelMap; LEVELS],
    /// The sorted levels that have tables: most have none.
    sorted: Box<[usize]>,
    /// Bytes of each level.
    level_bytes: [u64; LEVELS],
    /// The durable read point: everything up to it is in the tables.
    pub(crate) point: ReadPoint,
    pub(crate) floor: u64,
}

impl Version {
    /// The version `base` describes; `tables` are its tables, opened, in the same order.
    pub(crate) fn new(
        generation: Arc<Generation>,
        base: &Edit,
        tables: Vec<Arc<Table>>,
    ) -> Result<Self> {
        let mut levels = [const { Vec::new() }; LEVELS];
        for (LeveledTable { level, .. }, table) in base.added.iter().zip(tables) {
            if let Some(level) = levels.get_mut(*level) {
                level.push(table);
            }
        }
        let dir = generation.dir().to_path_buf();
        let version = Self::of(generation, 0, levels, base);
        version.check(&dir)?;
        Ok(version)
    }

    /// This version after `edit`, whose tables are opened in `added`.
    pub(crate) fn after(&self, edit: &Edit, added: &[Arc<Table>]) -> Self {
        let mut levels = self.levels.each_ref().map(|level| level.to_vec());
        for level in &mut levels {
            level.retain(|t| !edit.removed.contains(&t.number()));
        }
        for (LeveledTable { level, .. }, table) in edit.added.iter().zip(added) {
            levels[*level].push(table.clone());
        }
        let generation = self.generation.clone();
        let version = Self::of(generation, self.number + 1, levels, edit);
        debug_assert!(version.check(Path::new("")).is_ok(), "an edit keeps levels disjoint");
        version
    }

    fn of(
        generation: Arc<Generation>,
        number: u64,
        levels: [Vec<Arc<Table>>; LEVELS],
        edit: &Edit,
    ) -> Self {
        let levels = sorted(levels);
        let level_bytes = levels.each_ref().map(|level| level.iter().map(|t| t.bytes()).sum());
        let (point, floor) = (edit.point, edit.floor);
        let mut maps: [LevelMap; LEVELS] = Default::default();
        for (map, level) in maps.iter_mut().zip(&levels).skip(1) {
            *map = LevelMap::new(level);
        }
        let sorted = (1..LEVELS).filter(|level| !levels[*level].is_empty()).collect();
        Self { generation, number, levels, maps, sorted, level_bytes, point, floor }
    }

    fn check(&self, dir: &Path) -> Result<()> {
        let disjoint = |level: &Arc<[Arc<Table>]>| {
            level.windows(2).all(|pair| match pair {
                [a, b] => a.largest() < b.smallest(),
                _ => true,
            })
        };
        if self.levels[1..].iter().all(disjoint) && self.floor <= self.point.revision.0 {
            Ok(())
        } else {
            Err(Error::corrupt(dir, 0, "tables of a level overlap"))
        }
    }

    /// This version as the first record of a manifest.
    pub(crate) fn to_base(&self) -> Edit {
        let leveled = |(level, tables): (usize, &Arc<[Arc<Table>]>)| {
            tables.iter().map(move |t| LeveledTable { level, table: *t.descriptor() }).collect()
        };
        Edit {
            is_base: true,
            point: self.point,
            floor: self.floor,
            next_file: self.generation.next_file(),
            removed: Vec::new(),
            removed_blobs: Vec::new(),
            added_blobs: self.blobs().iter().map(|b| *b.descriptor()).collect(),
            added: self.levels.iter().enumerate().flat_map(|l| -> Vec<_> { leveled(l) }).collect(),
        }
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn level(&self, level: usize) -> &[Arc<Table>] {
        self.levels.get(level).map_or(&[], |tables| tables)
    }

    pub(crate) fn level_bytes(&self, level: usize) -> u64 {
        self.level_bytes.get(level).copied().unwrap_or(0)
    }

    pub(crate) fn tables(&self) -> impl Iterator<Item = &Arc<Table>> {
        self.levels.iter().flat_map(|level| level.iter())
    }

    /// The blob files its tables refer to, by their numbers.
    pub(crate) fn blobs(&self) -> Vec<Arc<BlobFile>> {
        let mut blobs: Vec<_> = self.tables().flat_map(|t| t.blobs()).cloned().collect();
        blobs.sort_by_key(|b| b.number());
        blobs.dedup_by_key(|b| b.number());
        blobs
    }

    /// Bytes of every blob file that its tables refer to.
    pub(crate) fn blob_use(&self) -> BTreeMap<u64, u64> {
        let mut used = BTreeMap::new();
        for blob in self.tables().flat_map(|t| &t.properties().blobs) {
            *used.entry(blob.file).or_default() += blob.bytes;
        }
        used
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
        for table in self.levels[0].iter().filter(|t| t.may_know(family, key)) {
            let spot = table.spot(family, key, hash);
            match get_unhidden(spot, family, key, hash, seq_max, fill)? {
                Lookup::Absent => {}
                decided => return Ok(decided),
            }
        }
        let mut spots = [None; LEVELS];
        for (spot, level) in spots.iter_mut().zip(self.sorted.iter().copied()) {
            *spot = self.table_of(level, family, key).map(|t| t.spot(family, key, hash));
        }
        for spot in spots.into_iter().flatten() {
            match get_unhidden(spot, family, key, hash, seq_max, fill)? {
                Lookup::Absent => {}
                decided => return Ok(decided),
            }
        }
        Ok(Lookup::Absent)
    }

    /// The range tombstones of `family`, of all tables.
    pub(crate) fn range_tombstones(&self, family: Family) -> impl Iterator<Item = &RangeTombstone> {
        self.tables().filter_map(move |t| t.tombstones(family)).flat_map(|f| f.pieces())
    }

    /// Streams of all tables over `range`, newest first.
    pub(crate) fn sources(
        &self,
        family: Family,
        range: &KeyRange,
        direction: Direction,
        seqs: SeqRange,
        out: &mut Vec<Source>,
    ) -> Result<()> {
        for table in self.levels[0].iter() {
            let concerns =
                |f: &FamilyProperties| range.touches(f) && seqs.overlaps(f.seq_min, f.seq_max);
            if table.family(family).is_some_and(concerns) {
                let table = table.clone();
                let source = TableSource::new(table, family, range, direction, seqs)?;
                out.push(Source::Table(source));
            }
        }
        for level in self.levels[1..].iter().filter(|level| !level.is_empty()) {
            let source = LevelSource::new(level, family, range, direction, seqs)?;
            out.push(Source::Level(source));
        }
        Ok(())
    }

    /// Whether a table below `level` may hold `key`.
    pub(crate) fn has_below(&self, level: usize, family: Family, key: &[u8]) -> bool {
        (level + 1..LEVELS)
            .any(|level| self.table_of(level, family, key).is_some_and(|t| t.may_hold(family, key)))
    }

    /// The only table of a sorted level that can hold `key`, or the next one of its family.
    #[inline]
    fn table_of(&self, level: usize, family: Family, key: &[u8]) -> Option<&Arc<Table>> {
        let number = self.maps.get(level)?.table_of(family, key)?;
        self.levels.get(level)?.get(number)
    }

    /// Whether a table below `level` may hold a key from `start` up to `end`.
    pub(crate) fn has_any_below(
        &self,
        level: usize,
        family: Family,
        start: &[u8],
        end: &[u8],
    ) -> bool {
        let holds = |table: &Arc<Table>| {
            let overlaps = |f: &FamilyProperties| *start <= *f.key_max && *f.key_min < *end;
            table.family(family).is_some_and(overlaps)
        };
        self.levels.iter().skip(level + 1).any(|tables| tables.iter().any(holds))
    }
}

/// What a table says of `key`, its range tombstones heeded.
#[inline]
fn get_unhidden(
    spot: Spot<'_>,
    family: Family,
    key: &[u8],
    hash: u64,
    seq_max: u64,
    fill: Fill,
) -> Result<Lookup> {
    let ranges = spot.table().tombstones(family);
    let Some(hidden_at) = ranges.and_then(|t| t.covering(key, seq_max)) else {
        return spot.get(key, hash, seq_max, fill);
    };
    // Whatever lies further down is older than the tombstone.
    Ok(match spot.get(key, hash, seq_max, fill)? {
        Lookup::Found(Some(record)) if (record.seq, record.ordinal) < hidden_at => {
            Lookup::Found(None)
        }
        Lookup::Absent => Lookup::Found(None),
        decided => decided,
    })
}

fn sorted(mut levels: [Vec<Arc<Table>>; LEVELS]) -> [Arc<[Arc<Table>]>; LEVELS] {
    for (number, level) in levels.iter_mut().enumerate() {
        if number == 0 {
            level.sort_by_key(|t| std::cmp::Reverse(t.number()));
        } else {
            level.sort_by(|a, b| a.smallest().cmp(b.smallest()));
        }
    }
    levels.map(Arc::from)
}
