//! Random options: what must not change an answer is different in every run.

use std::time::Duration;

use holdfast_env::sim::Random;
use holdfast_journal::JournalOptions;
use holdfast_lsm::{CompactionStyle, Compression, EngineOptions};

/// One of `choices`.
pub fn pick<T: Copy>(random: &mut Random, choices: &[T]) -> T {
    choices[random.below(choices.len() as u64) as usize]
}

/// Options that make a few hundred records go through every mechanism of the engine.
pub fn engine(random: &mut Random) -> EngineOptions {
    let power = |random: &mut Random, from: u64, upto: u64| 1 << (from + random.below(upto - from));
    let compression = [Compression::None, Compression::Lz4];
    let (upper, lower) = (pick(random, &compression), pick(random, &compression));
    EngineOptions {
        memtable_bytes: power(random, 12, 17),
        block_bytes: power(random, 8, 13) as usize,
        restart_interval: 1 + random.below(8) as usize,
        table_bytes: power(random, 12, 16),
        bloom_bits_per_key: 1 + random.below(15) as usize,
        partition_bytes: power(random, 6, 14) as usize,
        resident_index_bytes: pick(random, &[0, 1_000, u64::MAX]),
        blob_bytes_min: power(random, 6, 16) as usize,
        blob_file_bytes: power(random, 10, 15),
        compaction_style: pick(random, &[CompactionStyle::Leveled, CompactionStyle::Tiered]),
        compression: std::array::from_fn(|level| if level == 0 { upper } else { lower }),
        level0_tables: 1 + random.below(3) as usize,
        compaction_part_bytes: power(random, 10, 17),
        level_base_bytes: power(random, 12, 16),
        level_multiplier: 2 + random.below(3),
        manifest_bytes_max: power(random, 10, 13),
        ..EngineOptions::default()
    }
}

/// Options that make a journal rotate, move and free segments within a few hundred entries.
pub fn journal(random: &mut Random) -> JournalOptions {
    let segment_bytes = 32 << 10;
    JournalOptions {
        segment_bytes,
        limit_bytes: (6 + random.below(10)) * segment_bytes,
        cache_bytes: pick(random, &[0, 4 << 10, 1 << 20]),
        queue_bytes_max: 16 << 10,
        retention_group_bytes: 16 << 10,
        mark_delay: Duration::from_millis(5),
    }
}
