//! What the engine tells about itself.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::jobs::debt_bytes;
use crate::limits::LEVELS;
use crate::options::EngineOptions;
use crate::tree::{State, Tree};

/// Counters of one engine since it was opened.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) flushes: AtomicU64,
    pub(crate) flushed_bytes: AtomicU64,
    pub(crate) compactions: AtomicU64,
    pub(crate) compaction_parts: AtomicU64,
    pub(crate) compacted_bytes_in: AtomicU64,
    pub(crate) compacted_bytes_out: AtomicU64,
    pub(crate) moves: AtomicU64,
    pub(crate) dropped_records: AtomicU64,
    pub(crate) running_jobs: AtomicU64,
    pub(crate) scrubbed_bytes: AtomicU64,
    pub(crate) scrub_rounds: AtomicU64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }
}

/// Sizes and counters of one engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Memory of the active and all sealed memtables, bytes.
    pub memtable_bytes: u64,
    /// Memtables waiting to be flushed.
    pub sealed_memtables: u64,
    /// Tables of each level.
    pub level_tables: [u64; LEVELS],
    /// Bytes of each level.
    pub level_bytes: [u64; LEVELS],
    /// Records in all tables.
    pub records: u64,
    /// Tombstones and shadowed versions of data keys in all tables.
    pub garbage_records: u64,
    /// Pieces of range tombstones in all tables.
    pub range_tombstones: u64,
    /// Blob files.
    pub blob_files: u64,
    /// Bytes of all blob files.
    pub blob_bytes: u64,
    /// Bytes of blob files that records refer to.
    pub blob_live_bytes: u64,
    /// Bytes that compactions still have to rewrite until every level has its size.
    pub debt_bytes: u64,
    /// Memory of all filters, bytes.
    pub filter_bytes: u64,
    /// Memory of all indexes, bytes.
    pub index_bytes: u64,
    /// Length of all partitions of filters and indexes, bytes: about the memory they take where
    /// they are all resident or cached.
    pub partition_bytes: u64,
    /// Times a filter was asked.
    pub filter_checks: u64,
    /// Times a filter spared the look into a table.
    pub filter_useful: u64,
    /// Flushes done.
    pub flushes: u64,
    /// Bytes of tables flushes wrote.
    pub flushed_bytes: u64,
    /// Compactions done that rewrote tables.
    pub compactions: u64,
    /// Parts of these compactions, each a job of its own.
    pub compaction_parts: u64,
    /// Bytes of tables compactions read.
    pub compacted_bytes_in: u64,
    /// Bytes of tables compactions wrote.
    pub compacted_bytes_out: u64,
    /// Tables moved down a level without being rewritten.
    pub moves: u64,
    /// Records flushes and compactions left out because nobody may read them any more.
    pub dropped_records: u64,
    /// Bytes read again only to be checked.
    pub scrubbed_bytes: u64,
    /// Times all files were read again and found as they were written.
    pub scrub_rounds: u64,
    /// Jobs handed out and not yet done or dropped.
    pub running_jobs: u64,
    /// Number of the generation; grows with every snapshot installed.
    pub generation: u64,
}

impl Stats {
    pub(crate) fn of(tree: &Tree) -> Self {
        let state = tree.state.load();
        let version = &state.version;
        let load = |c: &AtomicU64| c.load(Ordering::Relaxed);
        let counters = &tree.counters;
        let (filter_checks, filter_useful) = tree.home.graveyard.counts();
        let blobs = version.blobs();
        let mut stats = Self {
            blob_files: blobs.len() as u64,
            blob_bytes: blobs.iter().map(|b| b.bytes()).sum(),
            blob_live_bytes: version.blob_use().values().sum(),
            memtable_bytes: state.memtables().map(|m| m.bytes()).sum(),
            sealed_memtables: state.sealed.len() as u64,
            level_tables: std::array::from_fn(|level| version.level(level).len() as u64),
            level_bytes: std::array::from_fn(|level| version.level_bytes(level)),
            debt_bytes: debt_bytes(version, &tree.options),
            filter_checks,
            filter_useful,
            flushes: load(&counters.flushes),
            flushed_bytes: load(&counters.flushed_bytes),
            compactions: load(&counters.compactions),
            compaction_parts: load(&counters.compaction_parts),
            compacted_bytes_in: load(&counters.compacted_bytes_in),
            compacted_bytes_out: load(&counters.compacted_bytes_out),
            moves: load(&counters.moves),
            dropped_records: load(&counters.dropped_records),
            scrubbed_bytes: load(&counters.scrubbed_bytes),
            scrub_rounds: load(&counters.scrub_rounds),
            running_jobs: load(&counters.running_jobs),
            generation: version.generation.number(),
            ..Self::default()
        };
        for table in version.tables() {
            let (filter_bytes, index_bytes) = table.resident_bytes();
            let (checks, useful) = table.filter_counts();
            stats.filter_bytes += filter_bytes;
            stats.index_bytes += index_bytes;
            stats.partition_bytes += table.partition_bytes();
            stats.filter_checks += checks;
            stats.filter_useful += useful;
            stats.records += table.properties().records();
            stats.range_tombstones += table.properties().ranges;
            stats.garbage_records += table.properties().garbage;
        }
        stats
    }
}

/// How urgently writers should slow down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// All is well.
    None,
    /// Flushes or compactions fall behind: admit less.
    Slow,
    /// They are far behind: admit nothing that grows the state.
    Stop,
}

/// Memtables waiting for their flush at which writers should slow down.
const SEALED_SLOW: usize = 2;
/// Memtables waiting for their flush at which writers should stop.
const SEALED_STOP: usize = 6;

/// Writers should stop at so many times the tables of level 0 that slow them down.
const LEVEL0_STOP: usize = 2;
/// Writers should stop at so many times the debt that slows them down.
const DEBT_STOP: u64 = 4;

impl Pressure {
    pub(crate) fn of(state: &State, options: &EngineOptions) -> Self {
        let sealed = state.sealed.len();
        let level0 = state.version.level(0).len();
        let (debt, slow) = (debt_bytes(&state.version, options), options.debt_bytes_slow);
        let stops = [
            sealed >= SEALED_STOP,
            level0 >= LEVEL0_STOP * options.level0_tables_slow,
            debt >= slow.saturating_mul(DEBT_STOP),
        ];
        let slows = [sealed >= SEALED_SLOW, level0 >= options.level0_tables_slow, debt >= slow];
        if stops.contains(&true) {
            Self::Stop
        } else if slows.contains(&true) {
            Self::Slow
        } else {
            Self::None
        }
    }
}
