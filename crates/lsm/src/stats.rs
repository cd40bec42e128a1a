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

/// What [`overload_milli`] says where writers must stop.
const OVERLOAD_MILLI: u32 = 1_000;
/// Memtables waiting for their flush at which writers should slow down.
const SEALED_SLOW: u64 = 2;
/// Memtables waiting for their flush at which writers should stop.
const SEALED_STOP: u64 = 6;

/// Writers should stop at so many times the tables of level 0 that slow them down.
const LEVEL0_STOP: u64 = 2;
/// Writers should stop at so many times the debt that slows them down.
const DEBT_STOP: u64 = 4;

/// How far flushes and compactions are behind, in thousandths of what writers must stop at: 0 below
/// what slows them down, then rising evenly with each of the measures, of which the worst counts.
pub(crate) fn overload_milli(state: &State, options: &EngineOptions) -> u32 {
    let sealed = state.sealed.len() as u64;
    let level0 = state.version.level(0).len() as u64;
    let (debt, debt_slow) = (debt_bytes(&state.version, options), options.debt_bytes_slow);
    let slow = options.level0_tables_slow as u64;
    let measures = [
        slope_milli(sealed, SEALED_SLOW, SEALED_STOP),
        slope_milli(level0, slow, LEVEL0_STOP.saturating_mul(slow)),
        slope_milli(debt, debt_slow, debt_slow.saturating_mul(DEBT_STOP)),
    ];
    measures.into_iter().max().unwrap_or(0)
}

/// 0 below `slow`, 1,000 from `stop` on, evenly in between and not 0 at `slow`.
fn slope_milli(value: u64, slow: u64, stop: u64) -> u32 {
    if value < slow {
        return 0;
    }
    let above = u128::from(value - slow) + 1;
    let whole = u128::from(stop.saturating_sub(slow)) + 1;
    u32::try_from(above.min(whole) * u128::from(OVERLOAD_MILLI) / whole).unwrap_or(0).max(1)
}

impl Pressure {
    pub(crate) fn of(state: &State, options: &EngineOptions) -> Self {
        match overload_milli(state, options) {
            0 => Self::None,
            OVERLOAD_MILLI.. => Self::Stop,
            _ => Self::Slow,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slope_begins_where_writers_should_slow_down_and_ends_where_they_stop() {
        let slope: Vec<u32> = (0..9).map(|sealed| slope_milli(sealed, 2, 6)).collect();
        assert_eq!(slope, [0, 0, 200, 400, 600, 800, 1_000, 1_000, 1_000]);
        assert_eq!(slope_milli(u64::MAX, 1, u64::MAX), 1_000);
        assert_eq!(
            slope_milli(1 << 40, 1 << 40, 1 << 42),
            1,
            "it is never nothing above its start"
        );
        assert_eq!(slope_milli(5, 5, 5), 1_000);
    }
}
