//! The engine's front: open, write, read.

use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use holdfast_env::{Disk, Entropy};
use holdfast_model::{LogIndex, Revision};

use crate::error::{Error, Result};
use crate::jobs::{Job, next_job};
use crate::open::open_tree;
use crate::options::EngineOptions;
use crate::read::{Direction, KeyRange, Scan, collect_changes, get_many};
use crate::replace::{self, Verified};
use crate::scrub::Scrubber;
use crate::shared::Shared;
use crate::snapshot::{self, Snapshot};
use crate::span::{Owns, SpanFilter};
use crate::stats::{Pressure, Stats, overload_milli};
use crate::table::{Fill, Lookup, SeqRange, key_hash};
use crate::tree::{Durable, State, Tree};
use crate::types::{Batch, Cached, Changes, Family, ReadPoint, Record};

/// The LSM tree of one replica: one writer (apply), many readers, no threads of its own.
///
/// Everything written is in memory until a [`Job`] has flushed it; after a crash the caller
/// applies the journal again from [`Engine::durable_point`] on.
pub struct Engine {
    tree: Arc<Tree>,
}

impl Engine {
    /// Opens the engine in `dir`, creating it if there is none. The directory `dir` lies in
    /// should exist durably; only the entry of `dir` itself is made durable here.
    ///
    /// `durable` is asked before anything becomes durable here, so that the engine never gets
    /// ahead of the journal. Cost: every table's footer, index and filter is read.
    ///
    /// # Errors
    /// [`Error::Option`] for bad options; environment errors; [`Error::Corrupt`]: the replica must
    /// be replaced.
    pub fn open(
        disk: Arc<dyn Disk>,
        entropy: Arc<dyn Entropy>,
        dir: &Path,
        shared: Arc<Shared>,
        durable: Durable,
        options: EngineOptions,
    ) -> Result<Self> {
        options.validate()?;
        let tree = open_tree(disk, entropy, dir, shared, durable, options)?;
        Ok(Self { tree: Arc::new(tree) })
    }

    /// Applies `batch` atomically and publishes `point`: readers see all of it or nothing.
    ///
    /// `gate` is the journal's logical end after the entries of this batch: what the batch changes
    /// does not become durable here before the journal is durable up to there. Cost: memory
    /// operations only; never waits for a disk.
    ///
    /// # Panics
    /// If a data key is written twice in one revision, or if `point` goes back.
    ///
    /// # Errors
    /// [`Error::Void`] after [`Engine::destroy`].
    pub fn write(&self, batch: Batch, point: ReadPoint, gate: u64) -> Result<()> {
        self.tree.write(&batch, point, gate)
    }

    /// The newest published read point.
    pub fn read_point(&self) -> ReadPoint {
        self.tree.published.load()
    }

    /// What survives a crash: the point whose state is in tables a durable manifest names.
    pub fn durable_point(&self) -> ReadPoint {
        self.tree.state.load().version.point
    }

    /// The newest record of `key` that `at` covers; `None` if it is missing or deleted.
    ///
    /// In families other than [`Family::Data`] only the latest record is kept; an old `at` then
    /// finds what is left, never anything unpublished.
    ///
    /// # Errors
    /// [`Error::Compacted`] if versions at `at` may be gone. Environment and corruption errors.
    pub fn get(&self, family: Family, key: &[u8], at: ReadPoint) -> Result<Option<Record>> {
        let state = self.tree.state.load();
        match find(&state, family, key, at, Fill::FromDisk)? {
            Lookup::Found(record) => Ok(record),
            Lookup::Absent | Lookup::NeedsIo(_) => Ok(None),
        }
    }

    /// Like [`Engine::get`], but says [`Cached::NeedsIo`] instead of reading from the disk.
    ///
    /// # Errors
    /// As [`Engine::get`].
    pub fn get_cached(
        &self,
        family: Family,
        key: &[u8],
        at: ReadPoint,
    ) -> Result<Cached<Option<Record>>> {
        find_cached(&self.tree.state.load(), family, key, at)
    }

    /// [`Engine::get`] of many keys in one consistent look; answers in the order of `keys`, which
    /// may be in any. Cost: less than the sum of the single reads, by what neighbours share; blocks
    /// to be read that follow each other in a table are read at once.
    ///
    /// To wait for several disk reads at the same time, ask [`Engine::multi_get_cached`] first and
    /// share what is left among threads.
    ///
    /// # Errors
    /// As [`Engine::get`].
    pub fn multi_get(
        &self,
        family: Family,
        keys: &[&[u8]],
        at: ReadPoint,
    ) -> Result<Vec<Option<Record>>> {
        let state = self.tree.state.load();
        get_many(keys, |key, fill| find(&state, family, key, at, fill))
    }

    /// [`Engine::get_cached`] of many keys; answers in the order of `keys`. What needs the disk can
    /// be asked again by [`Engine::multi_get`] at the same `at`, in parts on several threads: the
    /// answers belong to the same state.
    ///
    /// # Errors
    /// As [`Engine::get`].
    pub fn multi_get_cached(
        &self,
        family: Family,
        keys: &[&[u8]],
        at: ReadPoint,
    ) -> Result<Vec<Cached<Option<Record>>>> {
        let state = self.tree.state.load();
        keys.iter().map(|key| find_cached(&state, family, key, at)).collect()
    }

    /// Live records of a key range in key order, or backward.
    ///
    /// # Errors
    /// As [`Engine::get`]; also from the iterator.
    pub fn scan(
        &self,
        family: Family,
        range: (Bound<Bytes>, Bound<Bytes>),
        at: ReadPoint,
        reverse: bool,
    ) -> Result<Scan> {
        let direction = if reverse { Direction::Backward } else { Direction::Forward };
        let state = self.tree.state.load_full();
        check_floor(&state, family, at)?;
        let range = KeyRange::new(range);
        let seqs = SeqRange::to(at.seq_max(family));
        let sources = state.sources(family, &range, direction, seqs)?;
        let ranges = state.ranges(family, &range, seqs.max);
        Ok(Scan::new(state, sources, ranges, range, direction))
    }

    /// Changes of [`Family::Data`], tombstones included, of revisions in `(since, upto]`.
    ///
    /// Holds at most about `bytes_max` bytes of them, but always at least one whole revision:
    /// ask again from [`Changes::complete_to`] until it reaches `upto`. An `upto` beyond the
    /// published revision means the published one. Cost: a look at these changes in the memtables,
    /// and at every table block that holds such revisions.
    ///
    /// # Errors
    /// [`Error::Compacted`] if changes after `since` may be gone.
    pub fn changes(&self, since: Revision, upto: Revision, bytes_max: usize) -> Result<Changes> {
        let upto = upto.min(self.read_point().revision);
        let state = self.tree.state.load_full();
        // At the floor itself nothing was dropped: what is kept for readers there is its change.
        if state.version.floor > since.0.saturating_add(1) {
            return Err(Error::Compacted { floor: state.version.floor });
        }
        let seqs = SeqRange { min: since.0.saturating_add(1), max: upto.0 };
        let sources = state.change_sources(seqs)?;
        collect_changes(sources, state.changed_ranges(seqs), since, upto, bytes_max)
    }

    /// Follows the replicated compacted revision: versions only readers below it need may go.
    /// It never moves back.
    pub fn set_watermark(&self, compacted: Revision) {
        self.tree.watermark.fetch_max(compacted.0, Ordering::Relaxed);
    }

    /// Lets flushes and compactions drop the data keys that `owns` denies: a part of the range
    /// moved away. Readers must hide these keys themselves; the engine shows them until they are
    /// gone, in no particular order.
    ///
    /// `since` is the index of the entry that changed the span for the `epoch`-th time; a span of
    /// an epoch at or below the one in force is ignored. To be said again after every opening.
    pub fn set_span(&self, epoch: u64, since: LogIndex, owns: Owns) {
        let _writer = self.tree.writer.lock();
        let is_newer = self.tree.span.load().as_ref().is_none_or(|span| span.epoch < epoch);
        if is_newer {
            self.tree.span.store(Some(Arc::new(SpanFilter { epoch, since, owns })));
        }
    }

    /// The watermark last set; at least what the tables were already written with.
    pub fn watermark(&self) -> Revision {
        Revision(self.tree.watermark.load(Ordering::Relaxed))
    }

    /// Seals the active memtable, so that it will be flushed; nothing happens if it is empty.
    pub fn seal(&self) {
        let _writer = self.tree.writer.lock();
        self.tree.rotate();
    }

    /// Whether a sealed memtable waits for its flush, or one should be sealed for the memory's
    /// sake. Compactions follow from flushes and from the watermark, which nobody waits for. Cheap
    /// enough to be asked after every write.
    pub fn is_flush_due(&self) -> bool {
        !self.tree.state.load().sealed.is_empty() || self.tree.home.shared.is_over_memtable_budget()
    }

    /// Work that should be done now, if there is any: a flush whose gate is passed, a compaction,
    /// files to delete. Run it on a thread that may wait for the disk.
    ///
    /// Jobs of one engine may run at the same time. After a job failed for lack of space wait
    /// before asking again: the same work is handed out.
    pub fn next_job(&self) -> Option<Job> {
        next_job(&self.tree)
    }

    /// A reader that checks all files, at the pace it is driven.
    pub fn scrubber(&self) -> Scrubber {
        Scrubber::new(self.tree.clone())
    }

    /// The durable state without the memtables, held in place until the snapshot is dropped.
    pub fn pin(&self) -> Snapshot {
        Snapshot::new(&self.tree)
    }

    /// Makes a copy of the durable state in `dir`, by hard links, that [`Engine::open`] can open.
    ///
    /// # Errors
    /// Environment errors; `dir` then holds a part and should be removed.
    pub fn checkpoint(&self, dir: &Path) -> Result<ReadPoint> {
        snapshot::checkpoint(&self.tree, dir)
    }

    /// Puts the snapshot staged in `staged` (see [`Staging`](crate::Staging)) in place of
    /// everything the engine holds, memtables included, and publishes its read point.
    ///
    /// `gate` is the journal's end after it was truncated for the snapshot. The directory is
    /// moved; nothing may be written meanwhile; scans that already run go on over the old state.
    ///
    /// # Errors
    /// [`Error::NotDurable`]: nothing happened, try again when the journal is durable up to
    /// `gate`. [`Error::Corrupt`]: the staged files are damaged, the engine is as before.
    pub fn replace_from(&self, staged: &Path, gate: u64) -> Result<ReadPoint> {
        replace::replace_from(&self.tree, staged, gate)
    }

    /// [`Engine::replace_from`] of files that were checked before: only opens and switches.
    ///
    /// # Errors
    /// As [`Engine::replace_from`].
    pub fn switch_to(&self, staged: &Verified, gate: u64) -> Result<ReadPoint> {
        replace::switch_to(&self.tree, staged, gate)
    }

    /// Deletes everything, atomically: after a crash the engine is whole or gone.
    ///
    /// # Errors
    /// Environment errors: call again.
    pub fn destroy(&self) -> Result<()> {
        replace::destroy(&self.tree)
    }

    /// The options it was opened with.
    pub fn options(&self) -> &EngineOptions {
        &self.tree.options
    }

    /// Sizes and counters now. Cost: a walk over the list of tables.
    pub fn stats(&self) -> Stats {
        Stats::of(&self.tree)
    }

    /// [`Engine::pressure`] as a slope: 0 where it is none, 1,000 where writers must stop, and in
    /// between how far flushes and compactions are behind.
    pub fn overload_milli(&self) -> u32 {
        overload_milli(&self.tree.state.load(), &self.tree.options)
    }

    /// How urgently writers should slow down; the engine itself never makes them wait.
    pub fn pressure(&self) -> Pressure {
        Pressure::of(&self.tree.state.load(), &self.tree.options)
    }
}

/// Looks for the newest record of `key` that `at` covers, in memory alone.
fn find_cached(
    state: &State,
    family: Family,
    key: &[u8],
    at: ReadPoint,
) -> Result<Cached<Option<Record>>> {
    Ok(match find(state, family, key, at, Fill::CacheOnly)? {
        Lookup::Found(record) => Cached::Answer(record),
        Lookup::Absent => Cached::Answer(None),
        Lookup::NeedsIo(_) => Cached::NeedsIo,
    })
}

/// Looks for the newest record of `key` that `at` covers.
fn find(state: &State, family: Family, key: &[u8], at: ReadPoint, fill: Fill) -> Result<Lookup> {
    check_floor(state, family, at)?;
    let seq_max = at.seq_max(family);
    let hash = key_hash(family, key);
    for memtable in state.memtables() {
        let covering = memtable.covering(family, key, seq_max);
        if let Some(entry) = memtable.get(family, key, hash, seq_max) {
            let is_hidden = covering.is_some_and(|newest| newest > (entry.seq, entry.ordinal));
            return Ok(Lookup::Found(if is_hidden { None } else { entry.to_record() }));
        }
        if covering.is_some() {
            return Ok(Lookup::Found(None));
        }
    }
    let seq_max = if family.keeps_versions() { seq_max } else { u64::MAX };
    state.version.get(family, key, hash, seq_max, fill)
}

/// Versions below the floor may be gone; a read there must not answer from what is left.
fn check_floor(state: &State, family: Family, at: ReadPoint) -> Result<()> {
    let floor = state.version.floor;
    if family.keeps_versions() && floor > at.revision.0 {
        return Err(Error::Compacted { floor });
    }
    Ok(())
}
