//! The engine's front: open, write, read.

use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use bytes::Bytes;
use holdfast_env::{Disk, Entropy};
use holdfast_model::Revision;
use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::memtable::{Memtable, Seal};
use crate::options::EngineOptions;
use crate::point::PublishedPoint;
use crate::read::{Direction, KeyRange, MemorySource, Scan, Source, collect_changes};
use crate::shared::Shared;
use crate::types::{Batch, Cached, Changes, Family, ReadPoint, Record};

/// Tells how far the journal is durable; never goes back.
pub type Durable = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The LSM tree of one replica: one writer (apply), many readers, no threads of its own.
///
/// Everything written is in memory until a [`Job`](crate::Job) has flushed it; after a crash the
/// caller applies the journal again from [`Engine::durable_point`] on.
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

/// What the engine and its jobs share.
pub(crate) struct Inner {
    pub(crate) dir: PathBuf,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) options: EngineOptions,
    pub(crate) shared: Arc<Shared>,
    pub(crate) durable: Durable,
    pub(crate) published: PublishedPoint,
    pub(crate) state: ArcSwap<State>,
    /// Serialises replacement of `state`; held for memory operations only, never across I/O.
    pub(crate) swap: Mutex<()>,
    /// Serialises writers; a second writer is a mistake of the caller, but a harmless one.
    pub(crate) writer: Mutex<()>,
    pub(crate) watermark: AtomicU64,
}

/// Everything a reader needs, replaced as one.
pub(crate) struct State {
    pub(crate) active: Arc<Memtable>,
    /// Newest first.
    pub(crate) sealed: Vec<Arc<Memtable>>,
}

impl State {
    fn memtables(&self) -> impl Iterator<Item = &Arc<Memtable>> {
        std::iter::once(&self.active).chain(&self.sealed)
    }
}

impl Engine {
    /// Opens the engine in `dir`, creating it if there is none.
    ///
    /// `durable` is asked before anything becomes durable here, so that the engine never gets
    /// ahead of the journal.
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
        disk.create_dir_all(dir).map_err(|e| Error::unreferenced("create", dir, e))?;
        let active = Arc::new(Memtable::new(shared.clone(), Seal::default()));
        let inner = Inner {
            dir: dir.to_path_buf(),
            disk,
            entropy,
            options,
            shared,
            durable,
            published: PublishedPoint::default(),
            state: ArcSwap::from_pointee(State { active, sealed: Vec::new() }),
            swap: Mutex::new(()),
            writer: Mutex::new(()),
            watermark: AtomicU64::new(0),
        };
        Ok(Self { inner: Arc::new(inner) })
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
        self.inner.write(&batch, point, gate)
    }

    /// The newest published read point.
    pub fn read_point(&self) -> ReadPoint {
        self.inner.published.load()
    }

    /// What survives a crash: the point whose state is in tables a durable manifest names.
    pub fn durable_point(&self) -> ReadPoint {
        ReadPoint::default()
    }

    /// The newest record of `key` that `at` covers; `None` if it is missing or deleted.
    ///
    /// In families other than [`Family::Data`] only the latest record is kept; an old `at` then
    /// finds what is left, never anything unpublished.
    ///
    /// # Errors
    /// [`Error::Compacted`] if versions at `at` may be gone. Environment and corruption errors.
    pub fn get(&self, family: Family, key: &[u8], at: ReadPoint) -> Result<Option<Record>> {
        match self.get_cached(family, key, at)? {
            Cached::Answer(answer) => Ok(answer),
            Cached::NeedsIo => Ok(None),
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
        let state = self.inner.state.load();
        let seq_max = at.seq_max(family);
        let found = state.memtables().find_map(|m| m.get(family, key, seq_max));
        Ok(Cached::Answer(found.and_then(|entry| entry.to_record())))
    }

    /// [`Engine::get`] of many keys in one consistent look; answers in the order of `keys`.
    ///
    /// # Errors
    /// As [`Engine::get`].
    pub fn multi_get(
        &self,
        family: Family,
        keys: &[&[u8]],
        at: ReadPoint,
    ) -> Result<Vec<Option<Record>>> {
        keys.iter().map(|key| self.get(family, key, at)).collect()
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
        let state = self.inner.state.load_full();
        let range = KeyRange::new(range);
        let seq_max = at.seq_max(family);
        let sources = memory_sources(&state, family, &range, direction, seq_max).collect();
        Ok(Scan::new(state, sources, range, direction))
    }

    /// Changes of [`Family::Data`], tombstones included, of revisions in `(since, upto]`.
    ///
    /// Holds at most about `bytes_max` bytes of them, but always at least one whole revision:
    /// ask again from [`Changes::complete_to`] until it reaches `upto`.
    ///
    /// # Errors
    /// [`Error::Compacted`] if changes after `since` may be gone.
    pub fn changes(&self, since: Revision, upto: Revision, bytes_max: usize) -> Result<Changes> {
        let state = self.inner.state.load_full();
        let upto = upto.min(self.read_point().revision);
        let range = KeyRange::default();
        let sources =
            memory_sources(&state, Family::Data, &range, Direction::Forward, upto.0).collect();
        collect_changes(sources, since, upto, bytes_max)
    }

    /// Follows the replicated compacted revision: versions only readers below it need may go.
    pub fn set_watermark(&self, compacted: Revision) {
        self.inner.watermark.fetch_max(compacted.0, Ordering::Relaxed);
    }

    /// The watermark last set.
    pub fn watermark(&self) -> Revision {
        Revision(self.inner.watermark.load(Ordering::Relaxed))
    }

    /// Seals the active memtable, so that it will be flushed; nothing happens if it is empty.
    pub fn seal(&self) {
        let _writer = self.inner.writer.lock();
        self.inner.rotate();
    }
}

impl Inner {
    fn write(&self, batch: &Batch, point: ReadPoint, gate: u64) -> Result<()> {
        let _writer = self.writer.lock();
        let before = self.published.load();
        assert!(
            point.index >= before.index && point.revision >= before.revision,
            "read points never go back"
        );
        let state = self.state.load();
        state.active.insert(batch, Seal { point, gate });
        self.published.store(point);
        if state.active.bytes() >= self.options.memtable_bytes {
            self.rotate();
        }
        Ok(())
    }

    /// Seals the active memtable and begins another. The caller holds `writer`.
    fn rotate(&self) {
        let _swap = self.swap.lock();
        let state = self.state.load();
        if state.active.is_empty() {
            return;
        }
        let active = Arc::new(Memtable::new(self.shared.clone(), state.active.seal()));
        let mut sealed = vec![state.active.clone()];
        sealed.extend(state.sealed.iter().cloned());
        self.state.store(Arc::new(State { active, sealed }));
    }
}

fn memory_sources(
    state: &State,
    family: Family,
    range: &KeyRange,
    direction: Direction,
    seq_max: u64,
) -> impl Iterator<Item = Source> {
    state.memtables().map(move |memtable| {
        let cursor = match direction {
            Direction::Forward => {
                memtable.forward(family, range.lower.as_deref().map(|k| (k, u64::MAX)))
            }
            Direction::Backward => {
                memtable.backward(family, range.upper.as_deref().map(|k| (k, u64::MAX)))
            }
        };
        Source::Memory(MemorySource::new(cursor, direction, seq_max))
    })
}
