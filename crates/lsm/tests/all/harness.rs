//! An engine on a simulated disk beside a model that keeps every version in maps.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use holdfast_env::Disk;
use holdfast_env::sim::{SimDisk, SimEntropy};
use holdfast_lsm::{
    Batch, Cached, CompactionStyle, Compression, Durable, Engine, EngineOptions, Error, Family,
    JobKind, ReadPoint, Record, Shared, SharedOptions,
};
use holdfast_model::{LogIndex, Revision};

/// Most jobs one call of [`World::work`] runs.
const JOBS_MAX: usize = 10_000;

type Versions = BTreeMap<u64, (u32, Option<Bytes>)>;

/// One change as the model's batches have it.
#[derive(Clone, Debug)]
pub enum Op {
    Set(Family, Bytes, Option<Bytes>),
    /// Deletes from the first key up to the second.
    DeleteRange(Family, Bytes, Bytes),
}

/// A deleted interval: sequence number, ordinal, start, end.
type Range = (u64, u32, Bytes, Bytes);

/// Every version of every key ever written and not lost.
#[derive(Clone, Default)]
pub struct Model {
    pub families: BTreeMap<Family, BTreeMap<Bytes, Versions>>,
    pub ranges: BTreeMap<Family, Vec<Range>>,
    pub point: ReadPoint,
    /// Largest watermark ever set.
    pub watermark: u64,
    /// Keys from here on moved away with the entry of this index.
    pub moved: Option<(u64, Bytes)>,
}

impl Model {
    pub fn get(&self, family: Family, key: &[u8], at: ReadPoint) -> Option<Record> {
        let versions = self.families.get(&family)?.get(key)?;
        let (seq, (ordinal, value)) = versions.range(..=at.seq_max(family)).next_back()?;
        let hides = |(at_seq, at_ordinal, start, end): &&Range| {
            *at_seq <= at.seq_max(family)
                && (*at_seq, *at_ordinal) > (*seq, *ordinal)
                && start.as_ref() <= key
                && key < end.as_ref()
        };
        if self.ranges.get(&family).into_iter().flatten().any(|range| hides(&range)) {
            return None;
        }
        Some(Record { seq: *seq, ordinal: *ordinal, value: value.clone()? })
    }

    pub fn range_deletions(&self, since: u64, upto: u64) -> Vec<Range> {
        let ranges = self.ranges.get(&Family::Data).into_iter().flatten();
        ranges.filter(|range| since < range.0 && range.0 <= upto).cloned().collect()
    }

    pub fn live(&self, family: Family, at: ReadPoint) -> Vec<(Bytes, Record)> {
        let keys = self.families.get(&family).into_iter().flat_map(BTreeMap::keys);
        let keys = keys.filter(|key| family != Family::Data || self.owns(key));
        keys.filter_map(|k| Some((k.clone(), self.get(family, k, at)?))).collect()
    }

    pub fn changes(&self, since: u64, upto: u64) -> Vec<(u64, u32, Bytes, Option<Bytes>)> {
        let mut all = Vec::new();
        if since >= upto {
            return all;
        }
        let keys = self.families.get(&Family::Data).into_iter().flatten();
        for (key, versions) in keys.filter(|(key, _)| self.owns(key)) {
            for (seq, (ordinal, value)) in versions.range(since + 1..=upto) {
                all.push((*seq, *ordinal, key.clone(), value.clone()));
            }
        }
        all.sort();
        all
    }

    /// Whether readers of the data show the key: the state may not know yet that it moved.
    pub fn owns(&self, key: &[u8]) -> bool {
        let is_foreign =
            |(since, bound): &(u64, Bytes)| *since <= self.point.index.0 && key >= bound.as_ref();
        !self.moved.as_ref().is_some_and(is_foreign)
    }

    /// Forgets what came after `point`.
    pub fn fall_back(&mut self, point: ReadPoint) {
        for (family, keys) in &mut self.families {
            for versions in keys.values_mut() {
                versions.retain(|seq, _| *seq <= point.seq_max(*family));
            }
        }
        for (family, ranges) in &mut self.ranges {
            ranges.retain(|range| range.0 <= point.seq_max(*family));
        }
        self.point = point;
    }
}

pub struct World {
    pub disk: SimDisk,
    pub dir: PathBuf,
    pub options: EngineOptions,
    pub engine: Engine,
    pub model: Model,
    /// How far the pretended journal is durable.
    pub durable: Arc<AtomicU64>,
    pub gate: u64,
    seed: u64,
}

/// Options that make small amounts of data go through every mechanism.
pub fn small_options() -> EngineOptions {
    EngineOptions {
        memtable_bytes: 32 << 10,
        block_bytes: 512,
        restart_interval: 4,
        table_bytes: 8 << 10,
        bloom_bits_per_key: 10,
        partition_bytes: 256,
        resident_index_bytes: 512,
        compaction_style: CompactionStyle::Leveled,
        blob_bytes_min: 150,
        blob_file_bytes: 2 << 10,
        compression: [Compression::Lz4; 7],
        level0_tables: 2,
        level0_tables_slow: 8,
        debt_bytes_slow: 256 << 10,
        level_base_bytes: 16 << 10,
        level_multiplier: 3,
        compaction_part_bytes: 12 << 10,
        expires_at: None,
        manifest_bytes_max: 1 << 10,
    }
}

pub fn open_engine(
    disk: &SimDisk,
    dir: &Path,
    durable: &Arc<AtomicU64>,
    options: &EngineOptions,
    seed: u64,
) -> Result<Engine, Error> {
    let durable = durable.clone();
    let durable: Durable = Arc::new(move || durable.load(Ordering::Relaxed));
    // A cache of a few blocks: most reads go to the disk, some do not.
    let shared = SharedOptions {
        cache_bytes: 16 << 10,
        index_bytes: options.resident_index_bytes.saturating_mul(4),
        open_files_max: 8,
        ..Default::default()
    };
    Engine::open(
        Arc::new(disk.clone()),
        Arc::new(SimEntropy::new(seed)),
        dir,
        Arc::new(Shared::new(shared).unwrap()),
        durable,
        options.clone(),
    )
}

impl World {
    pub fn new(options: EngineOptions) -> Self {
        Self::on(SimDisk::new(), options).unwrap()
    }

    pub fn on(disk: SimDisk, options: EngineOptions) -> Result<Self, Error> {
        let dir = PathBuf::from("/data/r1");
        disk.create_dir_all(Path::new("/data"))
            .and_then(|()| disk.sync_dir(Path::new("/")))
            .unwrap();
        let durable = Arc::new(AtomicU64::new(u64::MAX));
        let engine = open_engine(&disk, &dir, &durable, &options, 1)?;
        let model = Model { point: engine.read_point(), ..Model::default() };
        Ok(Self { disk, dir, options, engine, model, durable, gate: 0, seed: 1 })
    }

    /// Writes one batch of `(family, key, value)`: data gets the next revision, the rest the next
    /// index.
    pub fn write(&mut self, changes: &[(Family, Bytes, Option<Bytes>)]) {
        let op = |(family, key, value): &(Family, Bytes, Option<Bytes>)| {
            Op::Set(*family, key.clone(), value.clone())
        };
        self.write_ops(&changes.iter().map(op).collect::<Vec<_>>());
    }

    pub fn delete_range(&mut self, family: Family, start: &str, end: &str) {
        let (start, end) = (Bytes::from(start.to_owned()), Bytes::from(end.to_owned()));
        self.write_ops(&[Op::DeleteRange(family, start, end)]);
    }

    /// [`World::write`] of deleted intervals, too.
    pub fn write_ops(&mut self, ops: &[Op]) {
        let family = |op: &Op| match op {
            Op::Set(family, ..) | Op::DeleteRange(family, ..) => *family,
        };
        let point = self.next_point(ops.iter().any(|op| family(op) == Family::Data));
        let mut batch = Batch::new();
        for (ordinal, op) in (0..).zip(ops) {
            let (family, key, value) = match op {
                Op::Set(family, key, value) => (family, key, value),
                Op::DeleteRange(family, start, end) => {
                    let seq = point.seq_max(*family);
                    batch.delete_range(*family, start.clone(), end.clone(), seq, ordinal);
                    if start < end {
                        let range = (seq, ordinal, start.clone(), end.clone());
                        self.model.ranges.entry(*family).or_default().push(range);
                    }
                    continue;
                }
            };
            let seq = point.seq_max(*family);
            let versions =
                self.model.families.entry(*family).or_default().entry(key.clone()).or_default();
            if *family == Family::Data && versions.contains_key(&seq) {
                continue;
            }
            versions.insert(seq, (ordinal, value.clone()));
            match value {
                Some(value) => batch.put(*family, key.clone(), seq, ordinal, value.clone()),
                None => batch.delete(*family, key.clone(), seq, ordinal),
            }
        }
        self.gate += 1;
        self.engine.write(batch, point, self.gate).unwrap();
        self.model.point = point;
    }

    fn next_point(&self, writes_data: bool) -> ReadPoint {
        let point = self.model.point;
        ReadPoint {
            revision: Revision(point.revision.0 + u64::from(writes_data)),
            index: LogIndex(point.index.0 + 1),
            clock_ms: point.clock_ms + 10,
        }
    }

    pub fn put(&mut self, key: &str, value: &str) {
        let (key, value) = (Bytes::from(key.to_owned()), Bytes::from(value.to_owned()));
        self.write(&[(Family::Data, key, Some(value))]);
    }

    pub fn set_watermark(&mut self, revision: u64) {
        self.model.watermark = self.model.watermark.max(revision);
        self.engine.set_watermark(Revision(revision));
    }

    /// Runs jobs until there are none; returns how many of each kind.
    pub fn work(&self) -> Result<BTreeMap<&'static str, usize>, Error> {
        let mut done = BTreeMap::new();
        for _ in 0..JOBS_MAX {
            let Some(job) = self.engine.next_job() else { return Ok(done) };
            let name = match job.kind() {
                JobKind::Flush => "flush",
                JobKind::Compaction => "compaction",
                JobKind::Cleaning => "cleaning",
            };
            job.run()?;
            *done.entry(name).or_default() += 1;
        }
        panic!("jobs never end");
    }

    /// Seals and flushes everything, without compactions beyond what is due.
    pub fn flush(&self) {
        self.engine.seal();
        self.work().unwrap();
    }

    /// Drops the engine, takes the disk `image` instead and opens again.
    pub fn reopen_on(&mut self, image: SimDisk) -> Result<(), Error> {
        let known_durable = self.engine.durable_point();
        self.seed += 1;
        self.disk = image;
        self.engine = open_engine(&self.disk, &self.dir, &self.durable, &self.options, self.seed)?;
        let point = self.engine.durable_point();
        assert!(point.index >= known_durable.index, "durable state was lost");
        assert_eq!(self.engine.read_point(), point);
        self.model.fall_back(point);
        Ok(())
    }

    pub fn restart(&mut self) {
        let image = self.disk.kill();
        self.reopen_on(image).unwrap();
    }

    /// Compares everything readable with the model.
    pub fn check(&self) {
        check(&self.engine, &self.model);
    }
}

/// Compares everything readable of `engine` with `model`.
pub fn check(engine: &Engine, model: &Model) {
    try_check(engine, model).unwrap_or_else(|error| panic!("{error}"));
}

/// [`check`], for engines whose disk may refuse or be found damaged. Wrong answers panic.
pub fn try_check(engine: &Engine, model: &Model) -> Result<(), Error> {
    assert_eq!(engine.read_point(), model.point);
    for family in Family::ALL {
        check_family(engine, model, family, model.point)?;
    }
    let revision = model.point.revision.0;
    let oldest = model.watermark.min(revision);
    for at in [oldest, (oldest + revision) / 2] {
        check_family(engine, model, Family::Data, model.point.at_revision(Revision(at)))?;
    }
    try_check_changes(engine, model, oldest.saturating_sub(1), revision)?;
    check_below_watermark(engine, model)
}

fn check_family(
    engine: &Engine,
    model: &Model,
    family: Family,
    at: ReadPoint,
) -> Result<(), Error> {
    let expected = model.live(family, at);
    let everything = (Bound::Unbounded, Bound::Unbounded);
    let scan = |reverse| {
        let scan = engine.scan(family, everything.clone(), at, reverse)?;
        let is_shown = |found: &Result<(Bytes, Record), Error>| match found {
            Ok((key, _)) => family != Family::Data || model.owns(key),
            Err(_) => true,
        };
        scan.filter(is_shown).collect::<Result<Vec<_>, _>>()
    };
    assert_eq!(scan(false)?, expected, "{family:?} at {at:?}");
    let mut backward = scan(true)?;
    backward.reverse();
    assert_eq!(backward, expected, "{family:?} backward at {at:?}");
    let keys = model.families.get(&family).into_iter().flatten().map(|(key, _)| key.as_ref());
    let keys: Vec<&[u8]> = keys.filter(|key| family != Family::Data || model.owns(key)).collect();
    let cached = engine.multi_get_cached(family, &keys, at)?;
    let found = engine.multi_get(family, &keys, at)?;
    let mut backward = keys.clone();
    backward.extend([b"never written".as_ref(), b"zzz"].into_iter().chain(keys.iter().copied()));
    backward.reverse();
    let mut again = engine.multi_get(family, &backward, at)?;
    again.reverse();
    let (front, back) = again.split_at(found.len());
    assert_eq!((front, back), (&found[..], &[&[None, None], &found[..]].concat()[..]));
    for (cached, found) in cached.into_iter().zip(&found) {
        assert!(cached == Cached::NeedsIo || cached == Cached::Answer(found.clone()));
    }
    for (key, found) in keys.into_iter().zip(found) {
        assert_eq!(found, model.get(family, key, at), "{family:?} {key:?} at {at:?}");
        match engine.get_cached(family, key, at)? {
            Cached::Answer(answer) => assert_eq!(answer, found),
            Cached::NeedsIo => {}
        }
    }
    assert_eq!(engine.get(family, b"never written", at)?, None);
    Ok(())
}

pub fn check_changes(engine: &Engine, model: &Model, since: u64, upto: u64) {
    try_check_changes(engine, model, since, upto).unwrap();
}

fn try_check_changes(engine: &Engine, model: &Model, since: u64, upto: u64) -> Result<(), Error> {
    let (mut found, mut ranges) = (Vec::new(), Vec::new());
    let mut from = Revision(since);
    while from < Revision(upto) {
        let part = engine.changes(from, Revision(upto), 600)?;
        assert!(part.complete_to > from);
        let fields = |c: holdfast_lsm::Change| (c.revision.0, c.ordinal, c.key, c.value);
        let owned = part.changes.into_iter().filter(|change| model.owns(&change.key));
        found.extend(owned.map(fields));
        let fields = |r: holdfast_lsm::RangeDeletion| (r.revision.0, r.ordinal, r.start, r.end);
        ranges.extend(part.range_deletions.into_iter().map(fields));
        from = part.complete_to;
    }
    assert_eq!(found, model.changes(since, upto), "changes in ({since}, {upto}]");
    assert_eq!(ranges, model.range_deletions(since, upto), "ranges in ({since}, {upto}]");
    Ok(())
}

/// Below the watermark an answer may be refused, but never be wrong.
fn check_below_watermark(engine: &Engine, model: &Model) -> Result<(), Error> {
    let at = model.point.at_revision(Revision(model.watermark.min(model.point.revision.0) / 2));
    let keys = model.families.get(&Family::Data).into_iter().flatten().map(|(k, _)| k);
    for key in keys.filter(|key| model.owns(key)) {
        match engine.get(Family::Data, key, at) {
            Ok(found) => assert_eq!(found, model.get(Family::Data, key, at)),
            Err(Error::Compacted { floor }) => assert!(floor > at.revision.0),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The files of the current generation whose names end in `suffix`.
pub fn files_of(disk: &SimDisk, dir: &Path, suffix: &str) -> Vec<PathBuf> {
    let generations = disk.list(dir).unwrap();
    let inside = generations.iter().filter_map(|g| disk.list(g).ok()).flatten();
    inside.filter(|p| p.to_string_lossy().ends_with(suffix)).collect()
}
