//! One writer, many readers and several jobs at the same time, on a real disk.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bytes::Bytes;
use holdfast_env::real::{RealDisk, RealEntropy};
use holdfast_lsm::{Batch, Engine, Error, Family, ReadPoint, Shared, SharedOptions};
use holdfast_model::{LogIndex, Revision};

use crate::harness::small_options;

const ACCOUNTS: u64 = 16;
const WRITES: u64 = 20_000;

fn account(number: u64) -> Bytes {
    Bytes::from(format!("account/{number:04}"))
}

fn open() -> (tempfile::TempDir, Engine) {
    let dir = tempfile::tempdir().unwrap();
    let shared = SharedOptions { cache_bytes: 64 << 10, ..SharedOptions::default() };
    let engine = Engine::open(
        Arc::new(RealDisk),
        Arc::new(RealEntropy),
        &dir.path().join("engine"),
        Arc::new(Shared::new(shared).unwrap()),
        Arc::new(|| u64::MAX),
        small_options(),
    )
    .unwrap();
    (dir, engine)
}

/// Moves one unit between two accounts in every revision: the sum never changes.
fn transfer(engine: &Engine, balances: &mut [u64], revision: u64) {
    let from = (revision * 7 % ACCOUNTS) as usize;
    let to = (from + 1 + (revision * 3 % (ACCOUNTS - 1)) as usize) % ACCOUNTS as usize;
    if balances[from] > 0 {
        balances[from] -= 1;
        balances[to] += 1;
    }
    let mut batch = Batch::new();
    for (ordinal, number) in (0..).zip([from, to]) {
        let value = Bytes::from(balances[number].to_string());
        batch.put(Family::Data, account(number as u64), revision, ordinal, value);
    }
    write(engine, batch, revision);
}

fn write(engine: &Engine, mut batch: Batch, revision: u64) {
    let index = Bytes::from(revision.to_string());
    batch.put(Family::Meta, Bytes::from_static(b"applied"), revision, 0, index);
    let point =
        ReadPoint { revision: Revision(revision), index: LogIndex(revision), clock_ms: revision };
    engine.write(batch, point, revision).unwrap();
}

/// The sum of all accounts at the newest read point, by a scan and by single reads.
fn sums(engine: &Engine, reverse: bool) -> Option<(u64, u64)> {
    let at = engine.read_point();
    let parse = |value: &[u8]| std::str::from_utf8(value).unwrap().parse::<u64>().unwrap();
    let everything = (Bound::Unbounded, Bound::Unbounded);
    let retry = |e: Error| assert!(matches!(e, Error::Compacted { .. }), "{e}");
    let scan = engine.scan(Family::Data, everything, at, reverse).map_err(retry).ok()?;
    let scanned = scan.map(|r| parse(&r.unwrap().1.value)).sum();
    let mut read = 0;
    for number in 0..ACCOUNTS {
        let record = engine.get(Family::Data, &account(number), at).map_err(retry).ok()?;
        read += parse(&record.unwrap().value);
    }
    Some((scanned, read))
}

#[test]
fn readers_see_whole_batches_while_tables_are_written_and_merged() {
    let (_dir, engine) = open();
    let mut balances = vec![100u64; ACCOUNTS as usize];
    let mut batch = Batch::new();
    for number in 0..ACCOUNTS {
        batch.put(Family::Data, account(number), 1, number as u32, Bytes::from_static(b"100"));
    }
    write(&engine, batch, 1);
    let is_done = AtomicBool::new(false);
    let jobs = || {
        while !is_done.load(Ordering::Relaxed) {
            match engine.next_job() {
                Some(job) => job.run().unwrap(),
                None => thread::yield_now(),
            }
        }
    };
    let read = |reverse| {
        let mut compared = 0;
        while compared == 0 || !is_done.load(Ordering::Relaxed) {
            let Some((scanned, read)) = sums(&engine, reverse) else { continue };
            assert_eq!((scanned, read), (100 * ACCOUNTS, 100 * ACCOUNTS));
            compared += 1;
        }
    };
    thread::scope(|scope| {
        scope.spawn(jobs);
        scope.spawn(jobs);
        scope.spawn(|| read(false));
        scope.spawn(|| read(true));
        for revision in 2..WRITES {
            transfer(&engine, &mut balances, revision);
            if revision % 500 == 0 {
                engine.set_watermark(Revision(revision - 300));
            }
            if revision % 50 == 0 {
                thread::yield_now();
            }
        }
        is_done.store(true, Ordering::Relaxed);
    });
    engine.seal();
    while let Some(job) = engine.next_job() {
        job.run().unwrap();
    }
    let stats = engine.stats();
    assert!(stats.flushes > 5 && stats.compactions > 2 && stats.dropped_records > 0, "{stats:?}");
    assert_eq!(sums(&engine, false), Some((100 * ACCOUNTS, 100 * ACCOUNTS)));
}

#[test]
fn budget_counts_what_memtables_hold_and_gives_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let options = SharedOptions { memtable_budget_bytes: 64 << 10, ..SharedOptions::default() };
    let shared = Arc::new(Shared::new(options).unwrap());
    let engines: Vec<Engine> = ["a", "b"]
        .iter()
        .map(|name| {
            Engine::open(
                Arc::new(RealDisk),
                Arc::new(RealEntropy),
                &dir.path().join(name),
                shared.clone(),
                Arc::new(|| u64::MAX),
                Default::default(),
            )
            .unwrap()
        })
        .collect();
    assert_eq!(shared.memtable_bytes(), 0);
    for (engine, bytes) in engines.iter().zip([30_000usize, 50_000]) {
        let mut batch = Batch::new();
        batch.put(Family::Data, account(1), 1, 0, Bytes::from(vec![1; bytes]));
        write(engine, batch, 1);
    }
    assert!(shared.is_over_memtable_budget(), "{}", shared.memtable_bytes());
    for engine in &engines {
        engine.seal();
        while let Some(job) = engine.next_job() {
            job.run().unwrap();
        }
    }
    assert_eq!(shared.memtable_bytes(), 0);
}
