//! Long values in files of their own.

use std::ops::Bound;

use bytes::Bytes;
use holdfast_lsm::{Cached, EngineOptions, Family};

use crate::harness::{World, files_of, small_options};

const LONG: usize = 600;

fn options() -> EngineOptions {
    EngineOptions { blob_bytes_min: LONG, blob_file_bytes: 8 << 10, ..small_options() }
}

fn long(n: u32) -> Bytes {
    let noise =
        |i: u32| (n.wrapping_mul(31).wrapping_add(i).wrapping_mul(2_654_435_761) >> 24) as u8;
    (0..LONG as u32).map(noise).collect()
}

fn write(world: &mut World, round: u32) {
    for n in 0..100u32 {
        let key = Bytes::from(format!("key-{:03}", n * 37 % 100));
        world.write(&[(Family::Data, key, Some(long(n + 1_000 * round)))]);
    }
    world.flush();
}

#[test]
fn long_values_are_read_back_and_not_rewritten_by_compactions() {
    let mut world = World::new(options());
    for round in 0..6 {
        write(&mut world, round);
    }
    world.check();
    world.restart();
    world.check();
    let stats = world.engine.stats();
    assert!(stats.blob_files >= 6 && stats.blob_bytes >= 6 * 100 * LONG as u64, "{stats:?}");
    assert_eq!(stats.level_bytes.iter().sum::<u64>() * 4 / stats.blob_bytes, 0, "{stats:?}");
}

#[test]
fn values_one_byte_too_short_stay_in_the_table() {
    let mut world = World::new(options());
    world.write(&[(Family::Data, Bytes::from("k"), Some(long(1).slice(1..)))]);
    world.flush();
    assert_eq!(world.engine.stats().blob_files, 0);
    world.write(&[(Family::Data, Bytes::from("k"), Some(long(1)))]);
    world.flush();
    assert_eq!(world.engine.stats().blob_files, 1);
    world.check();
}

#[test]
fn space_of_dead_long_values_comes_back_and_live_ones_move() {
    let mut world = World::new(options());
    for round in 0..4 {
        write(&mut world, round);
    }
    let full = world.engine.stats().blob_bytes;
    // A few keys keep their old values for ever.
    for n in 0..90u32 {
        let key = Bytes::from(format!("key-{:03}", n * 37 % 100));
        world.write(&[(Family::Data, key, None)]);
    }
    world.put("the last", "one");
    world.set_watermark(world.model.point.revision.0);
    world.flush();
    world.check();
    let stats = world.engine.stats();
    assert!(stats.blob_live_bytes * 2 >= stats.blob_bytes - 40 * stats.blob_files, "{stats:?}");
    assert!(stats.blob_bytes * 10 < full, "{stats:?}");
    let on_disk = files_of(&world.disk, &world.dir, ".blob").len() as u64;
    assert_eq!(on_disk, stats.blob_files, "the others are deleted");
    world.restart();
    world.check();
}

#[test]
fn cached_read_of_a_long_value_asks_for_the_disk_once() {
    let mut world = World::new(options());
    world.write(&[(Family::Data, Bytes::from("k"), Some(long(1)))]);
    world.flush();
    world.restart();
    let at = world.model.point;
    assert_eq!(world.engine.get_cached(Family::Data, b"k", at).unwrap(), Cached::NeedsIo);
    let record = world.engine.get(Family::Data, b"k", at).unwrap();
    assert_eq!(record.as_ref().map(|r| r.value.clone()), Some(long(1)));
    assert_eq!(world.engine.get_cached(Family::Data, b"k", at).unwrap(), Cached::Answer(record));
}

#[test]
fn scan_keeps_the_blob_files_it_began_with() {
    let mut world = World::new(options());
    write(&mut world, 0);
    let old = files_of(&world.disk, &world.dir, ".blob");
    let expected = world.model.live(Family::Data, world.model.point);
    let range = (Bound::Unbounded, Bound::Unbounded);
    let scan = world.engine.scan(Family::Data, range, world.model.point, false).unwrap();
    world.set_watermark(u64::from(u32::MAX));
    for round in 1..4 {
        write(&mut world, round);
    }
    let exists = |path: &std::path::PathBuf| holdfast_env::Disk::exists(&world.disk, path).unwrap();
    assert!(old.iter().all(exists), "a scan still reads them");
    assert_eq!(scan.map(Result::unwrap).collect::<Vec<_>>(), expected);
    world.work().unwrap();
    assert!(!old.iter().any(exists));
}
