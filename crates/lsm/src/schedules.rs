//! Interleavings of writer, readers and jobs, chosen at random by shuttle.
//!
//! Only in a build with `--cfg shuttle`; `make storm-storage` runs them. A failure prints its
//! schedule, and `shuttle::replay` of that string runs it again.
#![allow(clippy::unwrap_used)] // a test may stop where it stands

use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use holdfast_env::Disk;
use holdfast_env::sim::{SimDisk, SimEntropy};
use holdfast_env::sync::{AtomicBool, Ordering};
use holdfast_model::{LogIndex, Revision};
use shuttle::scheduler::RandomScheduler;
use shuttle::{Config, Runner, thread};

use crate::memtable::{ChunkPool, Memtable, Seal};
use crate::point::PublishedPoint;
use crate::shared::{Shared, SharedOptions};
use crate::types::{Batch, Family, ReadPoint};
use crate::{Engine, EngineOptions, Job};

/// Bytes of a thread's stack: opening an engine is deeper than shuttle expects.
const STACK_BYTES: usize = 1 << 20;

/// How many schedules a test runs: `SCHEDULES`, or a few.
fn schedules() -> usize {
    std::env::var("SCHEDULES").ok().and_then(|n| n.parse().ok()).unwrap_or(200)
}

fn explore(share: usize, test: impl Fn() + Send + Sync + 'static) {
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    let count = (schedules() / share).max(1);
    Runner::new(RandomScheduler::new(count), config).run(test);
}

fn point(n: u64) -> ReadPoint {
    ReadPoint { revision: Revision(n), index: LogIndex(n), clock_ms: n }
}

fn key(n: u64) -> Bytes {
    Bytes::from(format!("key-{:02}", n * 7 % 40))
}

fn batch(n: u64, value_bytes: usize) -> Batch {
    let mut batch = Batch::new();
    let value = Bytes::from(vec![n as u8; value_bytes]);
    batch.put(Family::Data, key(n), n, 0, value.clone());
    batch.put(Family::Meta, Bytes::from_static(b"applied"), n, 1, value);
    batch
}

/// A reader of `memtable` sees everything a published point covers, in order.
fn read_once(memtable: &Memtable, published: &PublishedPoint) {
    let at = published.load();
    let seen = at.revision.0;
    for n in 1..=seen {
        let hash = crate::table::key_hash(Family::Data, &key(n));
        let entry = memtable.get(Family::Data, &key(n), hash, seen).expect("it was published");
        assert_eq!(entry.value.as_slice().unwrap()[0], entry.seq as u8, "a whole value");
        assert!(entry.seq >= n && entry.seq <= seen);
    }
    let mut cursor = memtable.forward(Family::Data, None);
    let mut last: Option<(Bytes, u64)> = None;
    let mut covered = 0;
    while let Some(entry) = cursor.entry() {
        let here = (Bytes::copy_from_slice(entry.key), entry.seq);
        if let Some(last) = &last {
            assert!((&last.0, here.1) < (&here.0, last.1), "records are in order");
        }
        covered += u64::from(entry.seq <= seen);
        last = Some(here);
        cursor.next();
    }
    assert_eq!(covered, seen, "a scan misses nothing that was published");
}

#[test]
fn readers_of_a_memtable_see_all_that_was_published_in_every_schedule() {
    explore(1, || {
        let shared = Arc::new(Shared::new(SharedOptions::default()).unwrap());
        let memtable = Arc::new(Memtable::new(shared, Seal::default(), None));
        let published = Arc::new(PublishedPoint::default());
        let write = |n| {
            memtable.insert(&batch(n, 9), Seal { point: point(n), gate: n });
            published.store(point(n));
        };
        (1..=30).for_each(&write);
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let (memtable, published) = (memtable.clone(), published.clone());
                thread::spawn(move || (0..2).for_each(|_| read_once(&memtable, &published)))
            })
            .collect();
        // The index of keys grows at 32 of them, under the readers' eyes.
        (31..=36).for_each(&write);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        read_once(&memtable, &published);
    });
}

#[test]
fn memory_of_a_memtable_serves_the_next_one_only_after_its_last_reader() {
    explore(4, || {
        let options = SharedOptions { memtable_budget_bytes: 1 << 20, ..<_>::default() };
        let shared = Arc::new(Shared::new(options).unwrap());
        let chunks: Arc<ChunkPool> = shared.chunks().clone();
        let fill = |memtable: &Memtable, from: u64| {
            for n in from..from + 40 {
                memtable.insert(&batch(n, 800), Seal { point: point(n), gate: n });
            }
        };
        let old = Arc::new(Memtable::new(shared.clone(), Seal::default(), None));
        fill(&old, 1);
        let reader = thread::spawn({
            let mut cursor = old.forward(Family::Data, None);
            move || {
                let mut seen = 0;
                while let Some(entry) = cursor.entry() {
                    let value = entry.value.as_slice().unwrap();
                    assert!(value.iter().all(|byte| *byte == entry.seq as u8), "overwritten");
                    holdfast_env::sync::interleave();
                    seen += 1;
                    cursor.next();
                }
                assert_eq!(seen, 40);
            }
        });
        drop(old);
        let next = Memtable::new(shared, Seal { point: point(40), gate: 40 }, None);
        fill(&next, 101);
        reader.join().unwrap();
        drop(next);
        assert!(chunks.bytes() > 0, "memory came back to the pool");
    });
}

fn options() -> EngineOptions {
    EngineOptions {
        memtable_bytes: 4 << 10,
        block_bytes: 256,
        table_bytes: 4 << 10,
        level0_tables: 2,
        level_base_bytes: 4 << 10,
        level_multiplier: 2,
        blob_bytes_min: 64,
        blob_file_bytes: 1 << 10,
        compaction_part_bytes: 4 << 10,
        expires_at: None,
        manifest_bytes_max: 1 << 10,
        ..EngineOptions::default()
    }
}

fn open(disk: &SimDisk) -> Arc<Engine> {
    let (disk, entropy) = (Arc::new(disk.clone()), Arc::new(SimEntropy::new(1)));
    let shared = Arc::new(Shared::new(SharedOptions::default()).unwrap());
    let durable = Arc::new(|| u64::MAX);
    Engine::open(disk, entropy, Path::new("/r1"), shared, durable, options()).map(Arc::new).unwrap()
}

/// Every answer at one read point is of that read point.
fn check_reads(engine: &Engine) {
    let at = engine.read_point();
    let seen = at.revision.0;
    let everything = (Bound::Unbounded, Bound::Unbounded);
    let scanned: Vec<_> = engine
        .scan(Family::Data, everything, at, false)
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(scanned.len() as u64, seen.min(40), "a scan at {seen}");
    for (found, record) in &scanned {
        assert_eq!(engine.get(Family::Data, found, at).unwrap().as_ref(), Some(record));
        assert!(record.value.iter().all(|byte| *byte == record.seq as u8));
    }
    let applied = engine.get(Family::Meta, b"applied", engine.read_point()).unwrap();
    assert!(applied.map_or(0, |record| record.seq) >= seen, "the batch is atomic");
}

#[test]
fn readers_never_notice_flushes_compactions_and_retired_files() {
    explore(8, || {
        let disk = SimDisk::new();
        let engine = open(&disk);
        let is_done = Arc::new(AtomicBool::new(false));
        let repeat = |work: fn(&Engine)| {
            let (engine, is_done) = (engine.clone(), is_done.clone());
            move || {
                while !is_done.load(Ordering::Relaxed) {
                    work(&engine);
                    thread::yield_now();
                }
            }
        };
        let work: fn(&Engine) = |engine| engine.next_job().map_or(Ok(()), Job::run).unwrap();
        let others = [thread::spawn(repeat(work)), thread::spawn(repeat(work))];
        let reader = thread::spawn(repeat(check_reads));
        for n in 1..=48 {
            engine.write(batch(n, 40 + n as usize % 3 * 30), point(n), n).unwrap();
            if n % 8 == 0 {
                engine.seal();
            }
        }
        is_done.store(true, Ordering::Relaxed);
        others.into_iter().chain([reader]).for_each(|thread| thread.join().unwrap());
        while let Some(job) = engine.next_job() {
            job.run().unwrap();
        }
        check_reads(&engine);
        check_files(&disk, &engine);
    });
}

/// Retired files are gone, and no other: the directory holds what the manifest names.
fn check_files(disk: &SimDisk, engine: &Engine) {
    let named = engine.pin().files().len();
    let files: Vec<PathBuf> = disk.list(Path::new("/r1/gen-0000000001")).unwrap();
    let kept = files.iter().filter(|path| path.extension().is_some()).count();
    assert_eq!(kept, named, "{files:?}");
}
