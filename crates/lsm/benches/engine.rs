//! What the engine's operations cost on one thread: 20-byte keys, 200-byte values, random order
//! unless said otherwise.
//!
//! `cargo bench -p holdfast-lsm -- [keys]`; prints nanoseconds per operation. Nothing is asserted.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::hint::black_box;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_env::Clock;
use holdfast_env::real::{RealClock, RealDisk, RealEntropy};
use holdfast_lsm::{Batch, Engine, EngineOptions, Family, ReadPoint, Shared, SharedOptions};
use holdfast_model::{LogIndex, Revision};

const KEYS_DEFAULT: u64 = 500_000;
const BATCH: u64 = 16;
const READS: u64 = 500_000;

struct Bench {
    engine: Engine,
    keys: u64,
    revision: u64,
    random: u64,
    value: Vec<u8>,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn new(keys: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let shared = SharedOptions { cache_bytes: 2 << 30, ..SharedOptions::default() };
        let engine = Engine::open(
            Arc::new(RealDisk),
            Arc::new(RealEntropy),
            &dir.path().join("engine"),
            Arc::new(Shared::new(shared).unwrap()),
            Arc::new(|| u64::MAX),
            EngineOptions::default(),
        )
        .unwrap();
        let mut bench = Self { engine, keys, revision: 1, random: 1, value: Vec::new(), _dir: dir };
        // Half of a value compresses, half does not.
        for _ in 0..125 {
            let noise = bench.next_random().to_le_bytes();
            bench.value.extend_from_slice(&noise[..4]);
            bench.value.extend_from_slice(b"abcd");
        }
        bench
    }

    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn write(&mut self, numbers: impl Iterator<Item = u64>) {
        let mut batch = Batch::with_capacity(BATCH as usize);
        for number in numbers {
            self.revision += 1;
            let start = self.next_random() as usize % 800;
            let value = Bytes::copy_from_slice(&self.value[start..start + 200]);
            batch.put(Family::Data, key(number), self.revision, 0, value);
        }
        self.apply(batch);
    }

    fn apply(&mut self, batch: Batch) {
        let point = ReadPoint {
            revision: Revision(self.revision),
            index: LogIndex(self.revision),
            clock_ms: 0,
        };
        self.engine.write(batch, point, 0).unwrap();
    }

    fn jobs(&self) -> Duration {
        time(|| {
            while let Some(job) = self.engine.next_job() {
                job.run().unwrap();
            }
        })
    }

    fn read(&mut self, name: &str, shift: u64) {
        let at = self.engine.read_point();
        let elapsed = time(|| {
            for _ in 0..READS {
                let number = self.next_random() % self.keys + shift;
                black_box(self.engine.get(Family::Data, &key(number), at).unwrap());
            }
        });
        report(name, elapsed, READS);
    }

    fn scan(&mut self, name: &str, reverse: bool) {
        let at = self.engine.read_point();
        let scans = READS / 20;
        let elapsed = time(|| {
            for _ in 0..scans {
                let from = key(self.next_random() % self.keys);
                let range = if reverse {
                    (Bound::Unbounded, Bound::Excluded(from))
                } else {
                    (Bound::Included(from), Bound::Unbounded)
                };
                let scan = self.engine.scan(Family::Data, range, at, reverse).unwrap();
                scan.take(10).for_each(|r| drop(black_box(r.unwrap())));
            }
        });
        report(name, elapsed, scans);
    }
}

fn key(number: u64) -> Bytes {
    Bytes::from(format!("user{number:016}"))
}

fn time(work: impl FnOnce()) -> Duration {
    let start = RealClock.monotonic();
    work();
    RealClock.monotonic() - start
}

fn report(name: &str, elapsed: Duration, operations: u64) {
    let each = elapsed.as_nanos() as f64 / operations as f64;
    println!("{name:<44} {each:>10.0} ns/op");
}

fn main() {
    let keys = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(KEYS_DEFAULT);
    applied(keys);
    sequential(keys);
    let mut bench = Bench::new(keys);
    random_fill(&mut bench);
    bench.engine.seal();
    report("flush and compact what is left, per key", bench.jobs(), keys);
    bench.read("get, first touch of blocks", 0);
    for name in ["get, cached", "get, cached, again"] {
        bench.read(name, 0);
    }
    bench.read("get, missing", 1 << 50);
    bench.read("get, missing between keys", bench.keys);
    bench.scan("scan of 10", false);
    bench.scan("scan of 10, backward", true);
    println!("{:#?}", bench.engine.stats());
}

/// What a replica applies: each put writes the key, the answer its session remembers, the
/// deletion of an answer nobody asks for any more, the head of the session, and how far it came.
fn applied(keys: u64) {
    const CLIENTS: u64 = 64;
    let mut bench = Bench::new(keys);
    let mut work = Duration::ZERO;
    let head = |client: u64| client.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    let answer = |client: u64, index: u64| {
        Bytes::from([&head(client)[..], &head(!client)[..], &index.to_be_bytes()[..]].concat())
    };
    let puts = keys / BATCH * BATCH;
    let elapsed = time(|| {
        for _ in 0..puts / BATCH {
            let mut batch = Batch::with_capacity(BATCH as usize * 4);
            for _ in 0..BATCH {
                bench.revision += 1;
                let (seq, client) = (bench.revision, bench.next_random() % CLIENTS);
                let number = bench.next_random() % keys;
                let value = Bytes::copy_from_slice(&bench.value[..200]);
                batch.put(Family::Data, key(number), seq, 0, value.clone());
                batch.put(Family::Session, answer(client, seq), seq, 0, value.slice(..40));
                batch.delete(Family::Session, answer(client, seq.saturating_sub(500)), seq, 0);
            }
            let (seq, applied) = (bench.revision, Bytes::from_static(b"applied"));
            batch.put(Family::Meta, applied.clone(), seq, 0, applied);
            bench.apply(batch);
            work += bench.jobs();
        }
    });
    report("replicated put, memory part", elapsed - work, puts);
}

fn sequential(keys: u64) {
    let mut bench = Bench::new(keys);
    let mut work = Duration::ZERO;
    let elapsed = time(|| {
        for start in (0..keys).step_by(BATCH as usize) {
            bench.write(start..start + BATCH);
            work += bench.jobs();
        }
    });
    report("sequential write, memory part", elapsed - work, keys);
    report("sequential write, with flush and compaction", elapsed, keys);
    bench.engine.seal();
    bench.jobs();
}

fn random_fill(bench: &mut Bench) {
    let (mut work, keys) = (Duration::ZERO, bench.keys);
    let memtable = 200_000.min(keys);
    let elapsed = time(|| {
        for start in (0..keys).step_by(BATCH as usize) {
            let numbers: Vec<u64> = (0..BATCH).map(|_| bench.next_random() % keys).collect();
            bench.write(numbers.into_iter());
            if start == memtable / BATCH * BATCH {
                work += time(|| bench.read("get, mostly from the memtable", 0));
            }
            work += bench.jobs();
        }
    });
    report("random write, memory part", elapsed - work, keys);
    report("random write, with flush, compaction and reads", elapsed, keys);
}
