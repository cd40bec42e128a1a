//! What a split moved away leaves the tree, when it may.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_lsm::{Family, Owns};
use holdfast_model::LogIndex;

use crate::harness::{World, check, open_engine, small_options};

/// Keys below "key-500" stay.
fn lower() -> Owns {
    Arc::new(|key| key < &b"key-500"[..])
}

fn filled() -> World {
    let mut world = World::new(small_options());
    for n in 0..1_000u32 {
        let bytes = if n % 10 == 0 { 300 } else { 50 };
        world.put(&format!("key-{:03}", n * 37 % 1_000), &"v".repeat(bytes));
    }
    world.flush();
    world
}

/// What is physically left of the keys that moved away.
fn foreign(world: &World) -> usize {
    let from = std::ops::Bound::Included(Bytes::from("key-500"));
    let range = (from, std::ops::Bound::Unbounded);
    world.engine.scan(Family::Data, range, world.model.point, false).unwrap().count()
}

/// Makes the model forget what moved away.
fn forget(world: &mut World) {
    let data = world.model.families.get_mut(&Family::Data).unwrap();
    data.retain(|key, _| key.as_ref() < &b"key-500"[..]);
}

#[test]
fn foreign_keys_and_their_blobs_leave_every_table_and_the_others_stay() {
    let mut world = filled();
    let before = world.engine.stats();
    world.engine.set_span(2, world.model.point.index, lower());
    assert_eq!(foreign(&world), 500, "nothing happens before a job runs");
    world.work().unwrap();
    assert_eq!(foreign(&world), 0);
    forget(&mut world);
    world.check();
    let after = world.engine.stats();
    let bytes = |s: &holdfast_lsm::Stats| s.level_bytes.iter().sum::<u64>() + s.blob_bytes;
    assert!(bytes(&after) * 10 < bytes(&before) * 7, "{before:?} {after:?}");
    world.put("key-001", "goes on");
    world.put("key-999", "arrives after all, and is dropped at its flush");
    world.flush();
    assert_eq!(foreign(&world), 0);
    forget(&mut world);
    world.check();
}

#[test]
fn foreign_keys_stay_until_the_durable_state_knows_that_they_are_foreign() {
    let mut world = filled();
    let split = LogIndex(world.model.point.index.0 + 1);
    world.engine.set_span(2, split, lower());
    world.work().unwrap();
    assert_eq!(foreign(&world), 500, "entries before the split may be applied again");
    world.put("key-000", "the entry that changed the span");
    world.work().unwrap();
    assert_eq!(foreign(&world), 500, "it is not durable yet");
    world.flush();
    assert_eq!(foreign(&world), 0);
    forget(&mut world);
    world.check();
    world.restart();
    world.check();
}

#[test]
fn tables_written_with_the_span_are_not_written_again_after_a_restart() {
    let mut world = filled();
    world.engine.set_span(2, world.model.point.index, lower());
    world.work().unwrap();
    world.restart();
    world.engine.set_span(2, world.model.point.index, lower());
    world.work().unwrap();
    assert_eq!(world.engine.stats().compactions, 0);
    let everything: Owns = Arc::new(|_| true);
    world.engine.set_span(1, world.model.point.index, everything);
    world.put("key-777", "is still foreign: an older span is ignored");
    world.flush();
    assert_eq!(foreign(&world), 0);
}

#[test]
fn power_cut_at_any_operation_of_a_split_loses_nothing_that_may_be_asked_for() {
    let (mut saw_all, mut saw_none) = (false, false);
    for cut in 1..10_000 {
        let mut world = World::new(small_options());
        for n in 0..200u32 {
            world.put(&format!("key-{:03}", n * 37 % 200 * 5), &"v".repeat(60));
        }
        world.flush();
        let split = LogIndex(world.model.point.index.0 + 1);
        world.disk.cut_power_at(Some(world.disk.counters().mutations + cut));
        world.put("key-000", "the entry that changed the span");
        world.engine.set_span(2, split, lower());
        world.put("key-001", "another");
        world.engine.seal();
        let is_whole = world.work().is_ok();
        for keep in [0, 50, 100] {
            let disk = world.disk.crash(keep, cut);
            let (dir, durable) = (&world.dir, &world.durable);
            let engine = open_engine(&disk, dir, durable, &world.options, 9).unwrap();
            let point = engine.durable_point();
            let mut expected = world.model.clone();
            expected.point = point;
            let data = expected.families.get_mut(&Family::Data).unwrap();
            data.values_mut().for_each(|v| v.retain(|seq, _| *seq <= point.revision.0));
            let everything = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
            let scan = engine.scan(Family::Data, everything, point, false).unwrap();
            let found: Vec<_> = scan.map(Result::unwrap).collect();
            if point.index < split {
                // The split will be applied again: everything must be as it was.
                check(&engine, &expected);
                saw_all = true;
            } else {
                let mut owned = expected.live(Family::Data, point);
                owned.retain(|(key, _)| key.as_ref() < &b"key-500"[..]);
                let kept = found.iter().filter(|(key, _)| key.as_ref() < &b"key-500"[..]);
                assert!(kept.eq(&owned), "cut {cut}, keep {keep}");
                saw_none |= found.len() == owned.len();
            }
        }
        if is_whole {
            assert!(saw_all && saw_none);
            return;
        }
    }
    panic!("the work never ends");
}
