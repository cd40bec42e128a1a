//! The same work done by fjall: both give the same answers.

use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions};
use holdfast_env::real::{RealDisk, RealEntropy};
use holdfast_env::sim::Random;
use holdfast_lsm::{Batch, Engine, EngineOptions, Family, ReadPoint, Shared, SharedOptions};
use holdfast_model::{LogIndex, Revision};

use crate::options;

/// Batches of a run.
const BATCHES: u64 = 400;
/// Every so many batches both are closed and opened again.
const REOPEN_EVERY: u64 = 100;
/// Every so many batches everything is compared.
const COMPARE_EVERY: u64 = 40;

type Pairs = Vec<(Bytes, Bytes)>;

struct Peers {
    engine: Engine,
    database: Database,
    keyspace: Keyspace,
}

fn open(dir: &Path, options: &EngineOptions) -> Peers {
    let shared = Arc::new(Shared::new(SharedOptions::default()).unwrap());
    let (disk, entropy) = (Arc::new(RealDisk), Arc::new(RealEntropy));
    let at = dir.join("holdfast");
    let durable = Arc::new(|| u64::MAX);
    let engine = Engine::open(disk, entropy, &at, shared, durable, options.clone()).unwrap();
    let database = Database::builder(dir.join("fjall")).worker_threads(1).open().unwrap();
    let create = || KeyspaceCreateOptions::default().max_memtable_size(64 << 10);
    let keyspace = database.keyspace("same", create).unwrap();
    Peers { engine, database, keyspace }
}

/// Runs one seed in `dir`, which must be empty; returns how many answers were compared.
pub fn run(dir: &Path, seed: u64) -> u64 {
    std::fs::create_dir_all(dir).unwrap();
    let mut random = Random::new(seed);
    let options = options::engine(&mut random);
    let mut peers = open(dir, &options);
    let mut compared = 0;
    for batch in 1..=BATCHES {
        write(&peers, &mut random);
        if random.below(6) == 0 {
            work(&peers.engine);
        }
        compared += compare_some(&peers, &mut random);
        if batch % COMPARE_EVERY == 0 {
            compared += compare(&peers, (Bound::Unbounded, Bound::Unbounded));
        }
        if batch % REOPEN_EVERY == 0 {
            peers.engine.seal();
            work(&peers.engine);
            peers.database.persist(fjall::PersistMode::SyncAll).unwrap();
            drop(peers);
            peers = open(dir, &options);
            compared += compare(&peers, (Bound::Unbounded, Bound::Unbounded));
        }
    }
    compared
}

fn work(engine: &Engine) {
    while let Some(job) = engine.next_job() {
        job.run().unwrap();
    }
}

fn key(random: &mut Random) -> Bytes {
    let prefix = ["", "a", "user/", "user/profile/"][random.below(4) as usize];
    Bytes::from(format!("{prefix}{:x}", random.below(300)))
}

/// One batch on both.
fn write(peers: &Peers, random: &mut Random) {
    let before = peers.engine.read_point();
    let point = ReadPoint {
        revision: Revision(before.revision.0 + 1),
        index: LogIndex(before.index.0 + 1),
        clock_ms: 0,
    };
    let (mut ours, mut theirs) = (Batch::new(), peers.database.batch());
    let mut written = Vec::new();
    for ordinal in 0..1 + random.below(12) as u32 {
        let key = key(random);
        if key.is_empty() || written.contains(&key) {
            continue;
        }
        if random.below(4) == 0 {
            ours.delete(Family::Data, key.clone(), point.revision.0, ordinal);
            theirs.remove(&peers.keyspace, &key[..]);
        } else {
            let mut value = vec![0; random.below(300) as usize];
            random.fill(&mut value);
            theirs.insert(&peers.keyspace, &key[..], &value[..]);
            ours.put(Family::Data, key.clone(), point.revision.0, ordinal, value.into());
        }
        written.push(key);
    }
    peers.engine.write(ours, point, 0).unwrap();
    theirs.commit().unwrap();
    let watermark = point.revision.0.saturating_sub(random.below(50));
    peers.engine.set_watermark(Revision(watermark));
}

/// Some keys and a range.
fn compare_some(peers: &Peers, random: &mut Random) -> u64 {
    let at = peers.engine.read_point();
    for _ in 0..8 {
        let key = key(random);
        let ours = peers.engine.get(Family::Data, &key, at).unwrap().map(|r| r.value);
        let theirs = peers.keyspace.get(&key[..]).unwrap();
        assert_eq!(ours.as_deref(), theirs.as_deref(), "{key:?}");
    }
    let (one, other) = (key(random), key(random));
    let (from, to) = if one <= other { (one, other) } else { (other, one) };
    8 + compare(peers, (Bound::Included(from), Bound::Excluded(to)))
}

/// A range in both directions.
fn compare(peers: &Peers, range: (Bound<Bytes>, Bound<Bytes>)) -> u64 {
    let bounds = (range.0.as_ref().map(|b| &b[..]), range.1.as_ref().map(|b| &b[..]));
    let both = |record: fjall::Guard| {
        let (key, value) = record.into_inner().unwrap();
        (Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value))
    };
    let theirs: Pairs = peers.keyspace.range::<&[u8], _>(bounds).map(both).collect();
    let mut backward: Pairs = peers.keyspace.range::<&[u8], _>(bounds).rev().map(both).collect();
    backward.reverse();
    assert_eq!(theirs, backward, "the peer agrees with itself");
    for reverse in [false, true] {
        let at = peers.engine.read_point();
        let scan = peers.engine.scan(Family::Data, range.clone(), at, reverse).unwrap();
        let ours = scan.map(|found| found.map(|(key, record)| (key, record.value)));
        let mut ours: Pairs = ours.collect::<Result<_, _>>().unwrap();
        if reverse {
            ours.reverse();
        }
        assert_eq!(ours, theirs, "{range:?}, reverse: {reverse}");
    }
    2 * theirs.len() as u64
}
