//! fjall. Its journal cannot be turned off; it is neither synced nor compressed here.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use fjall::config::{BlockSizePolicy, BloomConstructionPolicy, FilterPolicy, FilterPolicyEntry};
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions};

use crate::store::{Key, Settings, Store};

/// With one thread a flush and a compaction of 10 M keys wait for each other for ever (3.1);
/// RocksDB has two as well.
const WORKERS: usize = 2;

struct Fjall {
    database: Database,
    keyspace: Keyspace,
}

pub fn open(dir: &Path, settings: Settings) -> Result<Box<dyn Store>> {
    let database = Database::builder(dir)
        .cache_size(settings.cache_bytes)
        .manual_journal_persist(true)
        .journal_compression(CompressionType::None)
        .worker_threads(WORKERS)
        .open()?;
    let keyspace = database.keyspace("bench", || {
        let bits = BloomConstructionPolicy::BitsPerKey(settings.filter_bits as f32);
        KeyspaceCreateOptions::default()
            .manual_journal_persist(true)
            .max_memtable_size(settings.memtable_bytes)
            .filter_policy(FilterPolicy::all(FilterPolicyEntry::Bloom(bits)))
            .data_block_size_policy(BlockSizePolicy::all(settings.block_bytes as u32))
    })?;
    Ok(Box::new(Fjall { database, keyspace }))
}

impl Store for Fjall {
    fn write(&mut self, pairs: &[(Key, &[u8])]) -> Result<()> {
        let mut batch = self.database.batch();
        for (key, value) in pairs {
            batch.insert(&self.keyspace, &key[..], *value);
        }
        Ok(batch.commit()?)
    }

    fn get(&self, key: &Key) -> Result<Option<usize>> {
        Ok(self.keyspace.get(key)?.map(|value| value.len()))
    }

    fn scan(&self, from: &Key, count: usize) -> Result<usize> {
        let mut bytes = 0;
        for record in self.keyspace.range(&from[..]..).take(count) {
            bytes += record.into_inner()?.1.len();
        }
        Ok(bytes)
    }

    fn settle(&mut self) -> Result<()> {
        self.keyspace.rotate_memtable_and_wait()?;
        let mut quiet = 0;
        while quiet < 5 {
            thread::sleep(Duration::from_millis(2));
            let is_idle =
                self.database.active_compactions() == 0 && self.database.outstanding_flushes() == 0;
            quiet = if is_idle { quiet + 1 } else { 0 };
        }
        Ok(())
    }

    fn level0_tables(&self) -> u64 {
        self.keyspace.l0_table_count() as u64
    }

    fn resident_bytes(&self) -> Option<u64> {
        None
    }
}
