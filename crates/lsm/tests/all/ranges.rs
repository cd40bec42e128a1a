//! Deleting intervals: what readers see, what is left of the space, what changes tell.

use bytes::Bytes;
use holdfast_lsm::{Batch, CompactionStyle, EngineOptions, Error, Family, ReadPoint};
use holdfast_model::{LogIndex, Revision};

use crate::harness::{Op, World, files_of, small_options};

fn fill(world: &mut World, family: Family, keys: u32, value_bytes: usize) {
    for n in 0..keys {
        let key = Bytes::from(format!("key-{:05}", n * 7919 % keys));
        world.write(&[(family, key, Some(Bytes::from(vec![b'v'; value_bytes])))]);
        if n % 50 == 49 {
            world.work().unwrap();
        }
    }
    world.flush();
}

fn used_bytes(world: &World) -> u64 {
    let stats = world.engine.stats();
    stats.level_bytes.iter().sum::<u64>() + stats.blob_bytes
}

#[test]
fn interval_is_gone_for_readers_from_its_revision_on_wherever_it_lies() {
    let mut world = World::new(small_options());
    fill(&mut world, Family::Data, 300, 40);
    let before = world.model.point;
    world.delete_range(Family::Data, "key-00100", "key-00200");
    world.put("key-00150", "again");
    let held = world.engine.read_point();
    let count = |world: &World, at: ReadPoint| {
        let all = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
        world.engine.scan(Family::Data, all, at, false).unwrap().count()
    };
    for _ in 0..3 {
        world.check();
        assert_eq!((count(&world, before), count(&world, held)), (300, 201));
        world.put("another", "table");
        world.flush();
    }
    world.restart();
    world.check();
}

#[test]
fn record_of_the_same_batch_stays_if_its_ordinal_is_not_smaller() {
    let mut world = World::new(small_options());
    world.put("a", "old");
    let key = |text: &'static str| Bytes::from_static(text.as_bytes());
    let point = ReadPoint { revision: Revision(2), index: LogIndex(2), clock_ms: 0 };
    let mut batch = Batch::new();
    batch.put(Family::Data, key("b"), 2, 0, key("before"));
    batch.put(Family::Data, key("c"), 2, 1, key("with"));
    batch.put(Family::Data, key("d"), 2, 2, key("after"));
    batch.delete_range(Family::Data, key("a"), key("z"), 2, 1);
    batch.delete_range(Family::Data, key("z"), key("a"), 2, 9);
    assert_eq!(batch.len(), 4, "an interval without keys is no operation");
    world.engine.write(batch, point, 2).unwrap();
    for _ in 0..2 {
        let live = |k: &[u8]| world.engine.get(Family::Data, k, point).unwrap().is_some();
        assert_eq!([live(b"a"), live(b"b"), live(b"c"), live(b"d")], [false, false, true, true]);
        world.flush();
    }
}

#[test]
fn deleted_interval_gives_its_place_back_without_another_write() {
    for family in [Family::Data, Family::Lease] {
        let mut world = World::new(small_options());
        fill(&mut world, family, 2_500, 60);
        world.write(&[(Family::Meta, Bytes::from("stays"), Some(Bytes::from("here")))]);
        let full = used_bytes(&world);
        assert!(full > 60 << 10, "{full}");
        world.delete_range(family, "key-", "key-99999");
        world.put("the watermark", "can pass the interval");
        world.flush();
        world.set_watermark(world.model.point.revision.0);
        world.work().unwrap();
        let left = used_bytes(&world);
        assert!(left * 20 < full, "{left} of {full} bytes are left of {family:?}");
        assert_eq!(world.engine.stats().range_tombstones, 0, "it hides nothing any more");
        world.check();
    }
}

#[test]
fn history_below_an_interval_stays_until_the_watermark_passes_it() {
    let mut world = World::new(small_options());
    fill(&mut world, Family::Data, 500, 60);
    let before = world.model.point.revision.0;
    world.set_watermark(before);
    let records = world.engine.stats().records;
    world.delete_range(Family::Data, "key-", "key-99999");
    for _ in 0..4 {
        world.put("more", "tables");
        world.flush();
    }
    assert!(world.engine.stats().records >= records);
    world.check();
    world.set_watermark(before + 2);
    world.work().unwrap();
    assert!(world.engine.stats().records < 20, "{:?}", world.engine.stats());
    world.check();
}

#[test]
fn long_values_below_an_interval_leave_their_blob_files() {
    let mut world = World::new(small_options());
    fill(&mut world, Family::Data, 200, 400);
    let full = world.engine.stats().blob_bytes;
    assert!(world.engine.stats().blob_files > 1 && full > 4_000);
    world.delete_range(Family::Data, "key-00010", "key-99999");
    world.put("the last", "one");
    world.flush();
    world.set_watermark(world.model.point.revision.0);
    world.work().unwrap();
    world.check();
    let stats = world.engine.stats();
    assert!(stats.blob_bytes * 10 < full, "{stats:?}");
    assert_eq!(files_of(&world.disk, &world.dir, ".blob").len() as u64, stats.blob_files);
}

#[test]
fn interval_over_many_tables_is_cut_with_them_and_told_as_one() {
    for style in [CompactionStyle::Leveled, CompactionStyle::Tiered] {
        let mut world = World::new(EngineOptions { compaction_style: style, ..small_options() });
        fill(&mut world, Family::Data, 600, 60);
        world.delete_range(Family::Data, "key-00010", "key-00590");
        let deleted = world.model.point.revision.0;
        for n in 0..600u32 {
            world.put(&format!("key-{:05}", n * 7 % 600), "written again, and long enough");
            if n % 40 == 0 {
                world.flush();
            }
        }
        let pieces = world.engine.stats().range_tombstones;
        assert!(pieces > 1 || style == CompactionStyle::Tiered, "{:?}", world.engine.stats());
        let changes = world.engine.changes(Revision(deleted - 1), Revision(deleted), 1 << 20);
        let told = changes.unwrap().range_deletions;
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(
            (told[0].start.as_ref(), told[0].end.as_ref()),
            (&b"key-00010"[..], &b"key-00590"[..])
        );
        world.check();
        world.restart();
        world.check();
    }
}

#[test]
fn table_of_range_tombstones_alone_is_written_read_and_merged() {
    let mut world = World::new(small_options());
    fill(&mut world, Family::Data, 100, 60);
    world.set_watermark(1);
    world.delete_range(Family::Data, "key-00020", "key-00040");
    world.flush();
    let stats = world.engine.stats();
    assert!(stats.records == 100 && stats.range_tombstones > 0, "{stats:?}");
    world.check();
    world.restart();
    world.check();
    fill(&mut world, Family::Data, 100, 60);
    world.check();
}

#[test]
fn memtable_is_sealed_before_its_intervals_are_too_many() {
    let mut world = World::new(EngineOptions { memtable_bytes: 64 << 20, ..small_options() });
    for n in 0..3_000u32 {
        let (start, end) = (format!("{:05}", n * 2), format!("{:05}", n * 2 + 1));
        world.write_ops(&[Op::DeleteRange(Family::Lease, start.into(), end.into())]);
    }
    assert_eq!(world.engine.stats().sealed_memtables, 2);
    world.work().unwrap();
    world.check();
}

#[test]
fn growing_interval_takes_the_room_of_one() {
    let mut world = World::new(EngineOptions { memtable_bytes: 1 << 20, ..small_options() });
    world.write(&[(Family::Expiry, Bytes::from("9"), Some(Bytes::new()))]);
    for n in 0..500u32 {
        let key = Bytes::from(format!("0{n:05}"));
        world.write(&[(Family::Expiry, key, Some(Bytes::new()))]);
        world.delete_range(Family::Expiry, "0", &format!("0{n:05}"));
    }
    world.engine.seal();
    world.engine.next_job().unwrap().run().unwrap();
    let stats = world.engine.stats();
    assert!(stats.range_tombstones <= 1 && stats.records <= 2, "{stats:?}");
    world.check();
}

#[test]
fn reader_below_the_watermark_is_refused_where_an_older_interval_was_left_out() {
    for flush_each in [true, false] {
        let mut world = World::new(small_options());
        world.put("a", "1");
        world.put("m", "2");
        world.flush();
        for _ in 0..3 {
            world.delete_range(Family::Data, "a", "z");
            if flush_each {
                world.flush();
            }
        }
        let newest = world.model.point.revision.0;
        world.set_watermark(newest);
        world.engine.seal();
        // The first job alone: what follows would drop records and say so anyway.
        if let Some(flush) = world.engine.next_job() {
            flush.run().unwrap();
        }
        for revision in 1..newest {
            let at = world.model.point.at_revision(Revision(revision));
            match world.engine.get(Family::Data, b"a", at) {
                Ok(found) => assert_eq!(found, world.model.get(Family::Data, b"a", at)),
                Err(error) => assert!(matches!(error, Error::Compacted { .. }), "{error}"),
            }
            match world.engine.changes(Revision(revision), Revision(newest), 1 << 20) {
                Ok(found) => {
                    let told = found.range_deletions.len();
                    assert_eq!(told, world.model.range_deletions(revision, newest).len());
                }
                Err(error) => assert!(matches!(error, Error::Compacted { .. }), "{error}"),
            }
        }
        world.check();
    }
}
