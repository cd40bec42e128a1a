//! How much of the disk reads touch.

use holdfast_lsm::{Cached, Compression, EngineOptions, Family};
use holdfast_model::Revision;

use crate::harness::{World, small_options};

const KEYS: usize = 2_000;

fn key(number: usize) -> String {
    format!("key-{number:05}")
}

/// Keys written in their order, merged down, and nothing of them in the cache.
fn filled(options: EngineOptions) -> World {
    let mut world = World::new(options);
    for number in 0..KEYS {
        world.put(&key(number), &format!("{number:060}"));
    }
    world.flush();
    world.restart();
    world
}

/// Reads of the disk that `read` makes.
fn reads(world: &World, read: impl FnOnce(&World)) -> u64 {
    let before = world.disk.counters().reads;
    read(world);
    world.disk.counters().reads - before
}

fn wide_options() -> EngineOptions {
    EngineOptions {
        compression: [Compression::None; 7],
        resident_index_bytes: u64::MAX,
        table_bytes: 64 << 10,
        memtable_bytes: 1 << 20,
        ..small_options()
    }
}

#[test]
fn neighbouring_keys_are_read_from_the_disk_at_once() {
    let world = filled(wide_options());
    let keys: Vec<String> = (500..600).map(key).collect();
    let slices: Vec<&[u8]> = keys.iter().map(String::as_bytes).collect();
    let at = world.model.point;
    let cached = world.engine.multi_get_cached(Family::Data, &slices, at).unwrap();
    assert!(cached.iter().all(|answer| *answer == Cached::NeedsIo));
    let together = reads(&world, |world| {
        let found = world.engine.multi_get(Family::Data, &slices, at).unwrap();
        assert!(found.iter().all(Option::is_some));
    });
    // The blocks of a hundred keys of 80 bytes, in one table or on the edge of two.
    assert!((1..=2).contains(&together), "{together} reads");
    let cached = world.engine.multi_get_cached(Family::Data, &slices, at).unwrap();
    assert!(cached.iter().any(|answer| matches!(answer, Cached::Answer(Some(_)))));

    let world = filled(wide_options());
    let apart = reads(&world, |world| {
        for key in &slices {
            assert!(world.engine.get(Family::Data, key, at).unwrap().is_some());
        }
    });
    assert!(apart >= 8 * together, "{apart} reads one by one");
}

#[test]
fn changes_of_few_revisions_touch_only_the_blocks_that_hold_them() {
    // Partitions in memory, and partitions that would have to be read as well.
    for resident_index_bytes in [u64::MAX, 0] {
        let world = filled(EngineOptions { resident_index_bytes, ..wide_options() });
        let (since, upto) = (Revision(1_200), Revision(1_206));
        let few = reads(&world, |world| {
            let found = world.engine.changes(since, upto, 1 << 20).unwrap();
            assert_eq!((found.changes.len(), found.complete_to), (6, upto));
        });
        // Six records lie in one block or two; with their partition, and the next one's.
        let most = if resident_index_bytes == 0 { 4 } else { 2 };
        assert!((1..=most).contains(&few), "{few} reads");
        let none = reads(&world, |world| {
            assert!(world.engine.changes(upto, upto, 1 << 20).unwrap().changes.is_empty());
        });
        assert_eq!(none, 0);
        let all = reads(&world, |world| {
            let found = world.engine.changes(Revision(0), Revision(9_999), 1 << 20).unwrap();
            assert_eq!(found.changes.len(), KEYS);
        });
        assert!(all > 100, "{all} reads");
    }
}
