//! The engine of this repository.

use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use holdfast_env::real::{RealDisk, RealEntropy};
use holdfast_lsm::{
    Batch, Engine, EngineOptions, Family, Pressure, ReadPoint, Shared, SharedOptions,
};
use holdfast_model::{LogIndex, Revision};

use crate::store::{Key, Settings, Store};

/// How long a write waits before it asks again whether it may go on.
const REST: Duration = Duration::from_micros(200);
/// How long the thread behind the engine rests when there is nothing to do and nobody wakes it.
const IDLE: Duration = Duration::from_millis(20);
/// The newest revisions that stay readable.
const HISTORY: u64 = 1_000;

struct Holdfast {
    engine: Arc<Engine>,
    revision: u64,
    is_closing: Arc<AtomicBool>,
    worker: Option<JoinHandle<()>>,
}

pub fn open(dir: &Path, settings: Settings) -> Result<Box<dyn Store>> {
    let shared = Shared::new(SharedOptions {
        cache_bytes: settings.cache_bytes,
        ..SharedOptions::default()
    })?;
    let options = EngineOptions {
        memtable_bytes: settings.memtable_bytes,
        block_bytes: settings.block_bytes,
        bloom_bits_per_key: settings.filter_bits,
        table_bytes: settings.table_bytes,
        level_base_bytes: settings.level_base_bytes,
        ..EngineOptions::default()
    };
    let engine = Engine::open(
        Arc::new(RealDisk),
        Arc::new(RealEntropy),
        dir,
        Arc::new(shared),
        Arc::new(|| u64::MAX),
        options,
    )?;
    let engine = Arc::new(engine);
    let is_closing = Arc::new(AtomicBool::new(false));
    let worker = {
        let (engine, is_closing) = (engine.clone(), is_closing.clone());
        thread::spawn(move || work(&engine, &is_closing))
    };
    let revision = engine.read_point().revision.0;
    Ok(Box::new(Holdfast { engine, revision, is_closing, worker: Some(worker) }))
}

fn work(engine: &Engine, is_closing: &AtomicBool) {
    while !is_closing.load(Ordering::Relaxed) {
        match engine.next_job() {
            Some(job) => job.run().expect("a job of the benchmark"),
            None => thread::park_timeout(IDLE),
        }
    }
}

impl Store for Holdfast {
    fn write(&mut self, pairs: &[(Key, &[u8])]) -> Result<()> {
        while self.engine.pressure() == Pressure::Stop {
            thread::sleep(REST);
        }
        let mut batch = Batch::with_capacity(pairs.len());
        for (key, value) in pairs {
            self.revision += 1;
            let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
            batch.put(Family::Data, key, self.revision, 0, value);
        }
        self.engine.set_watermark(Revision(self.revision.saturating_sub(HISTORY)));
        let point = ReadPoint {
            revision: Revision(self.revision),
            index: LogIndex(self.revision),
            clock_ms: 0,
        };
        self.engine.write(batch, point, 0)?;
        if self.engine.is_flush_due()
            && let Some(worker) = &self.worker
        {
            worker.thread().unpark();
        }
        Ok(())
    }

    fn get(&self, key: &Key) -> Result<Option<usize>> {
        let at = self.engine.read_point();
        Ok(self.engine.get(Family::Data, key, at)?.map(|record| record.value.len()))
    }

    fn scan(&self, from: &Key, count: usize) -> Result<usize> {
        let range = (Bound::Included(Bytes::copy_from_slice(from)), Bound::Unbounded);
        let at = self.engine.read_point();
        let mut bytes = 0;
        for record in self.engine.scan(Family::Data, range, at, false)?.take(count) {
            bytes += record?.1.value.len();
        }
        Ok(bytes)
    }

    fn settle(&mut self) -> Result<()> {
        self.engine.seal();
        let worker = self.worker.as_ref().context("the worker runs")?;
        worker.thread().unpark();
        let mut quiet = 0;
        while quiet < 5 {
            thread::sleep(Duration::from_millis(2));
            let stats = self.engine.stats();
            let is_idle = stats.sealed_memtables == 0 && stats.running_jobs == 0;
            quiet = if is_idle { quiet + 1 } else { 0 };
        }
        Ok(())
    }

    fn level0_tables(&self) -> u64 {
        self.engine.stats().level_tables[0]
    }

    fn resident_bytes(&self) -> Option<u64> {
        let stats = self.engine.stats();
        // As if every partition were in the cache.
        Some(stats.partition_bytes.max(stats.filter_bytes + stats.index_bytes))
    }
}

impl Drop for Holdfast {
    fn drop(&mut self) {
        self.is_closing.store(true, Ordering::Relaxed);
        if let Some(worker) = self.worker.take() {
            worker.thread().unpark();
            worker.join().expect("the worker ends");
        }
    }
}
