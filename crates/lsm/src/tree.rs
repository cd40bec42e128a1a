//! The tree behind the engine: its state, who may replace it, and how an edit is committed.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use holdfast_env::Entropy;
use holdfast_env::sync::{AtomicBool, AtomicU64, Mutex, Ordering};

use crate::blob::BlobFile;
use crate::error::{Error, Result};
use crate::generation::{Generation, MANIFEST_NAME};
use crate::manifest::{Edit, ManifestLog};
use crate::memtable::{Memtable, Seal};
use crate::options::EngineOptions;
use crate::point::PublishedPoint;
use crate::read::{Direction, KeyRange, MemorySource, Source};
use crate::span::SpanFilter;
use crate::stats::Counters;
use crate::swap::ArcSwap;
use crate::table::{Home, SeqRange, Table};
use crate::tombstone::{Fragments, RangeTombstone};
use crate::types::{Batch, Family, ReadPoint};
use crate::version::Version;

/// Tells how far the journal is durable; never goes back.
pub type Durable = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What the engine, its jobs and its snapshots share.
pub(crate) struct Tree {
    pub(crate) dir: PathBuf,
    pub(crate) home: Home,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) options: EngineOptions,
    pub(crate) durable: Durable,
    pub(crate) published: PublishedPoint,
    pub(crate) state: ArcSwap<State>,
    /// Serialises replacement of `state`; held for memory operations only, never across I/O.
    pub(crate) swap: Mutex<()>,
    /// Serialises writers; a second writer is a mistake of the caller, but a harmless one.
    pub(crate) writer: Mutex<()>,
    pub(crate) watermark: AtomicU64,
    /// Which data keys are the tree's own, if that was ever said.
    pub(crate) span: ArcSwapOption<SpanFilter>,
    pub(crate) is_destroyed: AtomicBool,
    pub(crate) counters: Counters,
}

/// Everything a reader needs, replaced as one.
pub(crate) struct State {
    pub(crate) active: Arc<Memtable>,
    /// Newest first.
    pub(crate) sealed: Vec<Arc<Memtable>>,
    pub(crate) version: Arc<Version>,
}

impl State {
    pub(crate) fn memtables(&self) -> impl Iterator<Item = &Arc<Memtable>> {
        std::iter::once(&self.active).chain(&self.sealed)
    }

    /// Streams of everything `at` covers of `family`, newest first.
    pub(crate) fn sources(
        &self,
        family: Family,
        range: &KeyRange,
        direction: Direction,
        seqs: SeqRange,
    ) -> Result<Vec<Source>> {
        let mut sources = Vec::with_capacity(4);
        for memtable in self.memtables() {
            let cursor = match direction {
                Direction::Forward => {
                    memtable.forward(family, range.lower.as_deref().map(|k| (k, u64::MAX)))
                }
                Direction::Backward => {
                    memtable.backward(family, range.upper.as_deref().map(|k| (k, u64::MAX)))
                }
            };
            let source = MemorySource::new(cursor, direction, seqs.max);
            sources.push(Source::Memory(source));
        }
        // Latest-only families: a table holds nothing unpublished, and nothing older is left.
        let seqs = if family.keeps_versions() { seqs } else { SeqRange::ALL };
        self.version.sources(family, range, direction, seqs, &mut sources)?;
        Ok(sources)
    }
}

impl State {
    /// The range tombstones a reader of `range` at `seq_max` has to obey.
    pub(crate) fn ranges(&self, family: Family, range: &KeyRange, seq_max: u64) -> Fragments {
        let mut found: Vec<_> =
            self.memtables().flat_map(|m| m.visible_ranges(family, seq_max)).collect();
        // As for records: a table holds nothing unpublished.
        let seq_max = if family.keeps_versions() { seq_max } else { u64::MAX };
        found.extend(self.version.range_tombstones(family).filter(|t| t.seq <= seq_max).cloned());
        found.retain(|t| t.touches(range.lower.as_deref(), range.upper.as_deref()));
        if found.is_empty() { Fragments::default() } else { Fragments::of(found, u64::MAX) }
    }

    /// The range tombstones of the data family with these revisions.
    pub(crate) fn changed_ranges(&self, seqs: SeqRange) -> Vec<RangeTombstone> {
        let logged = |m: &Arc<Memtable>| m.logged_ranges(Family::Data, seqs.min, seqs.max);
        let mut found: Vec<_> = self.memtables().flat_map(logged).collect();
        let tables = self.version.range_tombstones(Family::Data);
        found.extend(tables.filter(|t| seqs.overlaps(t.seq, t.seq)).cloned());
        found
    }

    /// Streams of all changes of the data family with these revisions, each in its own order.
    pub(crate) fn change_sources(&self, seqs: SeqRange) -> Result<Vec<Source>> {
        let logged = |m: &Arc<Memtable>| m.logged(Family::Data, seqs.min, seqs.max);
        let mut sources: Vec<_> = self.memtables().map(|m| Source::Logged(logged(m))).collect();
        let (range, forward) = (KeyRange::default(), Direction::Forward);
        self.version.sources(Family::Data, &range, forward, seqs, &mut sources)?;
        Ok(sources)
    }
}

/// What a job wants to become part of the tree.
#[derive(Default)]
pub(crate) struct Proposal {
    /// The memtable whose content is in `added` from now on.
    pub(crate) flushed: Option<Arc<Memtable>>,
    pub(crate) removed: Vec<Arc<Table>>,
    pub(crate) added: Vec<(usize, Arc<Table>)>,
    /// Watermark the added tables were written with.
    pub(crate) floor: u64,
}

impl Tree {
    pub(crate) fn write(&self, batch: &Batch, point: ReadPoint, gate: u64) -> Result<()> {
        let _writer = self.writer.lock();
        if self.is_destroyed.load(Ordering::Relaxed) {
            return Err(Error::Void);
        }
        let before = self.published.load();
        assert!(
            point.index >= before.index && point.revision >= before.revision,
            "read points never go back"
        );
        let state = self.state.load();
        state.active.insert(batch, Seal { point, gate });
        self.published.store(point);
        let active = &state.active;
        if active.bytes() >= self.options.memtable_bytes || active.is_full_of_ranges() {
            self.rotate();
        }
        Ok(())
    }

    /// Seals the active memtable and begins another. The caller holds `writer`.
    pub(crate) fn rotate(&self) {
        let _swap = self.swap.lock();
        let state = self.state.load();
        let seal = state.active.seal();
        // A batch may have moved the point without writing; the tables should still follow.
        let moved = seal.point != state.newest_sealed_point();
        if state.active.is_empty() && !moved {
            return;
        }
        let active = Arc::new(Memtable::new(self.home.shared.clone(), seal, Some(&state.active)));
        let mut sealed = vec![state.active.clone()];
        sealed.extend(state.sealed.iter().cloned());
        let version = state.version.clone();
        self.state.store(Arc::new(State { active, sealed, version }));
    }

    /// Makes `proposal` durable and visible; false if its generation is void.
    pub(crate) fn commit(&self, generation: &Generation, proposal: Proposal) -> Result<bool> {
        let mut manifest = generation.manifest.lock();
        if generation.is_void() {
            return Ok(false);
        }
        // Versions change only under the manifest's lock: this one stays the newest until below.
        let version = self.state.load().version.clone();
        let mut edit = Edit {
            is_base: false,
            point: proposal.flushed.as_ref().map_or(version.point, |m| m.seal().point),
            floor: version.floor.max(proposal.floor),
            next_file: generation.next_file(),
            removed: proposal.removed.iter().map(|t| t.number()).collect(),
            added: proposal.leveled(),
            ..Edit::default()
        };
        let added: Vec<_> = proposal.added.iter().map(|(_, table)| table.clone()).collect();
        let next = Arc::new(version.after(&edit, &added));
        let (blobs_before, blobs_after) = (version.blobs(), next.blobs());
        let come = missing_in(&blobs_after, &blobs_before);
        let go = missing_in(&blobs_before, &blobs_after);
        edit.added_blobs = come.iter().map(|b| *b.descriptor()).collect();
        edit.removed_blobs = go.iter().map(|b| b.number()).collect();
        manifest.append(&edit)?;
        let kept: Vec<_> = proposal.added.iter().map(|(_, t)| t.number()).collect();
        for table in proposal.removed.iter().filter(|t| !kept.contains(&t.number())) {
            table.mark_obsolete();
        }
        for blob in go {
            blob.mark_obsolete();
        }
        self.install(next.clone(), proposal.flushed.as_ref());
        if manifest.grown_bytes() > self.options.manifest_bytes_max {
            self.rewrite(generation, &mut manifest, &next)?;
        }
        Ok(true)
    }

    fn install(&self, version: Arc<Version>, flushed: Option<&Arc<Memtable>>) {
        let _swap = self.swap.lock();
        let state = self.state.load();
        let mut sealed = state.sealed.clone();
        if let Some(flushed) = flushed {
            sealed.retain(|m| !Arc::ptr_eq(m, flushed));
        }
        let active = state.active.clone();
        self.state.store(Arc::new(State { active, sealed, version }));
    }

    /// Replaces a manifest that has grown. Without space the long one stays good.
    fn rewrite(
        &self,
        generation: &Generation,
        manifest: &mut ManifestLog,
        version: &Version,
    ) -> Result<()> {
        let path = generation.dir().join(MANIFEST_NAME);
        let base = version.to_base();
        match ManifestLog::create(self.home.disk.as_ref(), self.entropy.as_ref(), &path, &base) {
            Ok(fresh) => *manifest = fresh,
            Err(error) if error.is_no_space() => {}
            Err(error) => {
                manifest.poison();
                return Err(error);
            }
        }
        Ok(())
    }

    /// The span tables that end at `point` may be written with.
    pub(crate) fn span_for(&self, point: ReadPoint) -> Option<Arc<SpanFilter>> {
        self.span.load_full().filter(|span| span.is_known_at(point))
    }

    /// The watermark tables may be written with: never beyond what they hold, so that the newest
    /// durable state stays readable after a crash.
    pub(crate) fn watermark_for(&self, point: ReadPoint) -> u64 {
        self.watermark.load(Ordering::Relaxed).min(point.revision.0)
    }
}

/// What is in `blobs`, but not in `others`; both are sorted by number.
fn missing_in(blobs: &[Arc<BlobFile>], others: &[Arc<BlobFile>]) -> Vec<Arc<BlobFile>> {
    let is_in_others =
        |b: &&Arc<BlobFile>| others.binary_search_by_key(&b.number(), |o| o.number()).is_ok();
    blobs.iter().filter(|b| !is_in_others(b)).cloned().collect()
}

impl State {
    fn newest_sealed_point(&self) -> ReadPoint {
        self.sealed.first().map_or(self.version.point, |m| m.seal().point)
    }
}

impl Proposal {
    fn leveled(&self) -> Vec<crate::manifest::LeveledTable> {
        let leveled = |(level, table): &(usize, Arc<Table>)| crate::manifest::LeveledTable {
            level: *level,
            table: *table.descriptor(),
        };
        self.added.iter().map(leveled).collect()
    }
}
