//! Options of one engine, validated before use.

use crate::error::{Error, Result};
use crate::limits::LEVELS;

/// How blocks are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// As they are.
    None,
    /// LZ4, where it saves at least an eighth.
    Lz4,
}

/// Tells at which range time, in milliseconds, a value of [`Family::Data`](crate::Family::Data)
/// expires; `None` is never. It only guides compactions.
#[derive(Clone, Copy, Debug)]
pub struct ExpiresAt(pub fn(&[u8]) -> Option<u64>);

impl PartialEq for ExpiresAt {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::fn_addr_eq(self.0, other.0)
    }
}

impl Eq for ExpiresAt {}

/// How tables are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompactionStyle {
    /// Levels of growing size: little dead data and few places to look, for more rewriting.
    Leveled,
    /// Runs of growing size, merged when they are alike: records are rewritten about as often as
    /// the data has doubled, for up to twice the space and more places to look.
    Tiered,
}

/// Options of one engine; they may differ from one opening to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// The active memtable is sealed at this size, bytes.
    pub memtable_bytes: u64,
    /// A data block is closed at this size before compression, bytes.
    pub block_bytes: usize,
    /// Records between two restart points of a block.
    pub restart_interval: usize,
    /// A compaction closes a table at this size, bytes.
    pub table_bytes: u64,
    /// Filter bits per key.
    pub bloom_bits_per_key: usize,
    /// Index and filter are cut into partitions of about this size, bytes.
    pub partition_bytes: usize,
    /// The partitions of a table are kept in memory if they are together at most this long,
    /// bytes, and those of level 0 always; the others go through the block cache.
    pub resident_index_bytes: u64,
    /// Values from this length on are written to blob files, bytes.
    pub blob_bytes_min: usize,
    /// A blob file is closed at this size, bytes.
    pub blob_file_bytes: u64,
    /// How tables are merged.
    pub compaction_style: CompactionStyle,
    /// Tells when a value expires: where much has expired, deletions are brought down to it early.
    pub expires_at: Option<ExpiresAt>,
    /// Compression of each level.
    pub compression: [Compression; LEVELS],
    /// A compaction that reads more is cut into parts of about this size, bytes, that may run at
    /// the same time.
    pub compaction_part_bytes: u64,
    /// Tables in level 0 that call for a compaction.
    pub level0_tables: usize,
    /// Tables in level 0 at which writers should be slowed down; see `Stats::level0_tables`.
    pub level0_tables_slow: usize,
    /// Bytes still to be rewritten by compactions at which writers should be slowed down; at four
    /// times as many they should stop.
    pub debt_bytes_slow: u64,
    /// Size at which the first sorted level is full, bytes.
    pub level_base_bytes: u64,
    /// How many times larger each further level is.
    pub level_multiplier: u64,
    /// The manifest is rewritten when it has grown by this much, bytes.
    pub manifest_bytes_max: u64,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            memtable_bytes: 64 << 20,
            block_bytes: 8 << 10,
            restart_interval: 8,
            table_bytes: 32 << 20,
            bloom_bits_per_key: 10,
            partition_bytes: 8 << 10,
            resident_index_bytes: 256 << 10,
            blob_bytes_min: (32 << 10) + 1,
            blob_file_bytes: 64 << 20,
            compaction_style: CompactionStyle::Leveled,
            expires_at: None,
            compression: [Compression::Lz4; LEVELS],
            compaction_part_bytes: 64 << 20,
            level0_tables: 4,
            level0_tables_slow: 20,
            debt_bytes_slow: 16 << 30,
            level_base_bytes: 256 << 20,
            level_multiplier: 10,
            manifest_bytes_max: 1 << 20,
        }
    }
}

impl EngineOptions {
    /// Checks every option against its bounds.
    ///
    /// # Errors
    /// [`Error::Option`] names the first one that is out of its bounds.
    pub fn validate(&self) -> Result<()> {
        let checks = [
            (self.memtable_bytes >= 4 << 10, "memtable_bytes", "at least 4 KiB"),
            (
                (256..=1 << 20).contains(&self.block_bytes),
                "block_bytes",
                "between 256 bytes and 1 MiB",
            ),
            ((1..=256).contains(&self.restart_interval), "restart_interval", "between 1 and 256"),
            (
                (4 << 10..=1 << 30).contains(&self.table_bytes),
                "table_bytes",
                "between 4 KiB and 1 GiB",
            ),
            ((1..=32).contains(&self.bloom_bits_per_key), "bloom_bits_per_key", "1 to 32"),
            (
                (64..=1 << 20).contains(&self.partition_bytes),
                "partition_bytes",
                "between 64 bytes and 1 MiB",
            ),
            (self.blob_bytes_min >= 64, "blob_bytes_min", "at least 64 bytes"),
            (
                (1 << 10..=1 << 30).contains(&self.blob_file_bytes),
                "blob_file_bytes",
                "between 1 KiB and 1 GiB",
            ),
            ((1..=64).contains(&self.level0_tables), "level0_tables", "between 1 and 64"),
            (
                self.level0_tables_slow >= self.level0_tables,
                "level0_tables_slow",
                "at least level0_tables",
            ),
            (self.compaction_part_bytes >= 1 << 10, "compaction_part_bytes", "at least 1 KiB"),
            (self.level_base_bytes >= 4 << 10, "level_base_bytes", "at least 4 KiB"),
            ((2..=100).contains(&self.level_multiplier), "level_multiplier", "between 2 and 100"),
            (self.manifest_bytes_max >= 1 << 10, "manifest_bytes_max", "at least 1 KiB"),
        ];
        for (holds, option, reason) in checks {
            if !holds {
                return Err(Error::Option { option, reason });
            }
        }
        Ok(())
    }
}
