//! What the benchmark asks of an engine.

use std::path::Path;

use anyhow::Result;

/// Bytes of a key.
pub const KEY_BYTES: usize = 20;
/// Bytes of a value.
pub const VALUE_BYTES: usize = 200;

pub type Key = [u8; KEY_BYTES];

/// The same for every engine.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub cache_bytes: u64,
    pub memtable_bytes: u64,
    pub block_bytes: usize,
    pub filter_bits: usize,
    pub table_bytes: u64,
    pub level_base_bytes: u64,
}

/// Bytes of cache per key: enough for the blocks of all of them while some are being rewritten.
const CACHE_BYTES_PER_KEY: u64 = 3 * (KEY_BYTES + VALUE_BYTES) as u64;

impl Settings {
    /// A cache that holds so many keys.
    pub fn holding(keys: u64) -> Self {
        Self {
            cache_bytes: keys * CACHE_BYTES_PER_KEY,
            memtable_bytes: 64 << 20,
            block_bytes: 8 << 10,
            filter_bits: 10,
            table_bytes: 32 << 20,
            level_base_bytes: 256 << 20,
        }
    }
}

/// An engine under test: one writing and reading thread, one thread of its own behind it.
pub trait Store {
    /// Writes all pairs as one batch, not synced.
    fn write(&mut self, pairs: &[(Key, &[u8])]) -> Result<()>;

    /// Length of the value.
    fn get(&self, key: &Key) -> Result<Option<usize>>;

    /// Reads up to `count` records from `from` on; returns the bytes of their values.
    fn scan(&self, from: &Key, count: usize) -> Result<usize>;

    /// Flushes everything and waits until there is nothing left to compact.
    fn settle(&mut self) -> Result<()>;

    /// Tables in level 0, which every read has to ask.
    fn level0_tables(&self) -> u64;

    /// Memory of indexes and filters, bytes, if the engine tells.
    fn resident_bytes(&self) -> Option<u64>;
}

/// Opens, or creates, an engine in a directory.
pub type Open = fn(&Path, Settings) -> Result<Box<dyn Store>>;

/// The key with this number.
pub fn key(number: u64) -> Key {
    let mut key = *b"user0000000000000000";
    let mut rest = number;
    for digit in key.iter_mut().rev() {
        if rest == 0 {
            break;
        }
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    key
}
