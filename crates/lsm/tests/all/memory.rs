//! What holds before anything is flushed.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_env::real::{RealDisk, RealEntropy};
use holdfast_lsm::{
    Batch, Engine, EngineOptions, Family, JobKind, ReadPoint, Shared, SharedOptions,
};
use holdfast_model::{LogIndex, Revision};

fn open() -> (tempfile::TempDir, Engine) {
    let (dir, _shared, engine) = open_with(SharedOptions::default());
    (dir, engine)
}

fn open_with(options: SharedOptions) -> (tempfile::TempDir, Arc<Shared>, Engine) {
    let shared = Arc::new(Shared::new(options).unwrap());
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(
        Arc::new(RealDisk),
        Arc::new(RealEntropy),
        dir.path(),
        shared.clone(),
        Arc::new(|| u64::MAX),
        EngineOptions::default(),
    )
    .unwrap();
    (dir, shared, engine)
}

fn point(revision: u64) -> ReadPoint {
    ReadPoint { revision: Revision(revision), index: LogIndex(revision), clock_ms: 0 }
}

fn put(engine: &Engine, key: &str, revision: u64, value: Option<&str>) {
    let mut batch = Batch::new();
    let key = Bytes::copy_from_slice(key.as_bytes());
    match value {
        Some(value) => {
            batch.put(Family::Data, key, revision, 0, Bytes::copy_from_slice(value.as_bytes()));
        }
        None => batch.delete(Family::Data, key, revision, 0),
    }
    engine.write(batch, point(revision), revision).unwrap();
}

fn value(engine: &Engine, key: &str, at: u64) -> Option<String> {
    let record = engine.get(Family::Data, key.as_bytes(), point(at)).unwrap()?;
    Some(String::from_utf8(record.value.to_vec()).unwrap())
}

#[test]
fn every_revision_of_a_key_is_read_as_it_was() {
    let (_dir, engine) = open();
    put(&engine, "a", 2, Some("one"));
    put(&engine, "b", 3, Some("other"));
    put(&engine, "a", 4, None);
    put(&engine, "a", 5, Some("two"));
    assert_eq!(engine.read_point(), point(5));
    assert_eq!(value(&engine, "a", 1), None);
    assert_eq!(value(&engine, "a", 2).as_deref(), Some("one"));
    assert_eq!(value(&engine, "a", 3).as_deref(), Some("one"));
    assert_eq!(value(&engine, "a", 4), None);
    assert_eq!(value(&engine, "a", 9).as_deref(), Some("two"));
    engine.seal();
    put(&engine, "a", 6, Some("three"));
    assert_eq!(value(&engine, "a", 5).as_deref(), Some("two"));
    assert_eq!(value(&engine, "a", 6).as_deref(), Some("three"));
}

#[test]
fn whoever_reads_a_flushed_memtable_last_does_not_free_it() {
    let (_dir, shared, engine) = open_with(SharedOptions::default());
    let empty = shared.memtable_bytes();
    put(&engine, "a", 2, Some("one"));
    engine.seal();
    let range = (Bound::Unbounded, Bound::Unbounded);
    let mut scan = engine.scan(Family::Data, range, point(2), false).unwrap();
    while let Some(job) = engine.next_job() {
        job.run().unwrap();
    }
    assert_eq!(engine.stats().sealed_memtables, 0, "it was flushed");
    let held = shared.memtable_bytes();
    assert!(held > empty, "it is read");
    assert_eq!(scan.next().unwrap().unwrap().0, "a");
    drop(scan);
    assert_eq!(shared.memtable_bytes(), held, "the reader freed it");
    let job = engine.next_job().expect("it can go");
    assert_eq!(job.kind(), JobKind::Cleaning);
    job.run().unwrap();
    assert_eq!(shared.memtable_bytes(), empty);
    assert!(engine.next_job().is_none());
}

#[test]
fn last_write_of_an_internal_key_wins_within_one_index() {
    let (_dir, engine) = open();
    let mut batch = Batch::new();
    let key = Bytes::from_static(b"applied");
    batch.put(Family::Meta, key.clone(), 7, 0, Bytes::from_static(b"1"));
    batch.put(Family::Meta, key.clone(), 7, 0, Bytes::from_static(b"2"));
    batch.put(Family::Meta, key.clone(), 7, 0, Bytes::from_static(b"3"));
    engine.write(batch, point(7), 0).unwrap();
    let read = engine.get(Family::Meta, &key, point(7)).unwrap().unwrap();
    assert_eq!(&read.value[..], b"3");
    for reverse in [false, true] {
        let range = (Bound::Unbounded, Bound::Unbounded);
        let all: Vec<_> = engine.scan(Family::Meta, range, point(7), reverse).unwrap().collect();
        assert_eq!(all.len(), 1);
        assert_eq!(&all[0].as_ref().unwrap().1.value[..], b"3");
    }
}

#[test]
fn scan_sees_live_records_of_its_range_in_both_directions() {
    let (_dir, engine) = open();
    for (revision, key) in (2..).zip(["d", "b", "a", "c", "e"]) {
        put(&engine, key, revision, Some(key));
    }
    put(&engine, "c", 9, None);
    put(&engine, "b", 10, Some("b2"));
    let range = |low: &'static str, high: &'static str| {
        (Bound::Included(Bytes::from(low)), Bound::Excluded(Bytes::from(high)))
    };
    let keys = |low, high, at, reverse| {
        engine
            .scan(Family::Data, range(low, high), point(at), reverse)
            .unwrap()
            .map(|r| String::from_utf8(r.unwrap().1.value.to_vec()).unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(keys("a", "e", 10, false), ["a", "b2", "d"]);
    assert_eq!(keys("a", "e", 10, true), ["d", "b2", "a"]);
    assert_eq!(keys("b", "z", 8, false), ["b", "c", "d", "e"]);
    assert_eq!(keys("b", "z", 8, true), ["e", "d", "c", "b"]);
}

#[test]
fn changes_come_in_order_and_never_cut_a_revision() {
    let (_dir, engine) = open();
    for revision in 2..20 {
        let mut batch = Batch::new();
        for ordinal in 0..3 {
            let key = Bytes::from(format!("key-{}", (revision * 7 + u64::from(ordinal)) % 11));
            batch.put(Family::Data, key, revision, ordinal, Bytes::from(vec![b'v'; 100]));
        }
        engine.write(batch, point(revision), 0).unwrap();
    }
    let mut since = Revision(4);
    let mut seen = Vec::new();
    while since < Revision(17) {
        let part = engine.changes(since, Revision(17), 1_000).unwrap();
        assert!(part.complete_to > since);
        seen.extend(part.changes.iter().map(|c| (c.revision.0, c.ordinal)));
        since = part.complete_to;
    }
    let expected: Vec<_> = (5..=17).flat_map(|r| (0..3).map(move |o| (r, o))).collect();
    assert_eq!(seen, expected);
}
