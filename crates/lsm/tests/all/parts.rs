//! Large compactions are cut into parts that run at the same time and become one edit.

use std::path::Path;

use bytes::Bytes;
use holdfast_env::sim::{Effect, Fault, Operation};
use holdfast_lsm::{EngineOptions, Family, Job, JobKind};

use crate::harness::{World, files_of, small_options};

/// A tree with a compaction due that reads some two hundred kilobytes, of several families.
fn due() -> World {
    let options = EngineOptions {
        memtable_bytes: 1 << 20,
        compaction_part_bytes: 16 << 10,
        level_base_bytes: 1 << 20,
        ..small_options()
    };
    let mut world = World::new(options);
    for round in 0..2u32 {
        for n in 0..600u32 {
            let key = Bytes::from(format!("key-{:04}", n * 7 % 600));
            let filler = (n + round).wrapping_mul(2_654_435_761);
            let value = Bytes::from(format!("{filler:x}").repeat(12));
            let other = (Family::Lease, key.clone(), Some(value.slice(..10)));
            world.write(&[(Family::Data, key, Some(value)), other]);
        }
        world.delete_range(Family::Data, "key-0100", "key-0450");
        world.delete_range(Family::Lease, "key-0100", "key-0150");
        world.engine.seal();
        let flush = world.engine.next_job().unwrap();
        assert_eq!(flush.kind(), JobKind::Flush);
        flush.run().unwrap();
    }
    world
}

/// Every part of the compaction that is due.
fn parts(world: &World) -> Vec<Job> {
    let jobs: Vec<Job> = std::iter::from_fn(|| world.engine.next_job()).collect();
    assert!(jobs.iter().all(|job| job.kind() == JobKind::Compaction));
    jobs
}

#[test]
fn parts_of_a_compaction_run_at_the_same_time_and_become_visible_together() {
    let mut world = due();
    world.set_watermark(world.model.point.revision.0 - 300);
    let jobs = parts(&world);
    assert!((3..=8).contains(&jobs.len()), "{} parts", jobs.len());
    let whole: u64 = world.engine.stats().level_bytes.iter().sum();
    assert!(jobs.iter().all(|job| job.bytes() < whole / 2));
    let before = world.engine.stats().level_tables;
    let last = std::thread::scope(|scope| {
        let mut jobs = jobs.into_iter().rev();
        let last = jobs.next().unwrap();
        let running: Vec<_> = jobs.map(|job| scope.spawn(|| job.run().unwrap())).collect();
        running.into_iter().for_each(|job| job.join().unwrap());
        last
    });
    assert_eq!(world.engine.stats().level_tables, before, "one part is missing");
    world.check();
    last.run().unwrap();
    let stats = world.engine.stats();
    assert_eq!(stats.level_tables[0], 0);
    assert_eq!(stats.compactions, 1);
    assert!(stats.compaction_parts > 2 && stats.dropped_records > 0, "{stats:?}");
    world.check();
    world.work().unwrap();
    world.restart();
    world.check();
}

#[test]
fn part_that_is_given_back_is_handed_out_again_and_an_untouched_compaction_is_forgotten() {
    let world = due();
    let count = parts(&world).len();
    assert_eq!(world.engine.stats().running_jobs, 0);
    let mut jobs = parts(&world);
    assert_eq!(jobs.len(), count, "all were given back, so all are handed out again");
    jobs.pop().unwrap().run().unwrap();
    drop(jobs);
    let jobs = parts(&world);
    assert_eq!(jobs.len(), count - 1, "what was done is not done again");
    jobs.into_iter().for_each(|job| job.run().unwrap());
    assert_eq!(world.engine.stats().compactions, 1);
    world.check();
}

#[test]
fn compaction_of_which_a_part_fails_leaves_the_tree_and_no_file_behind() {
    let mut world = due();
    let before = files_of(&world.disk, &world.dir, ".tbl");
    let mut jobs = parts(&world);
    jobs.pop().unwrap().run().unwrap();
    assert!(files_of(&world.disk, &world.dir, ".tbl").len() > before.len());
    let is_table = |path: &Path| path.extension().is_some_and(|e| e == "tbl");
    world.disk.inject(Fault::new(Operation::Create, Effect::Enospc).on(is_table));
    assert!(jobs.pop().unwrap().run().unwrap_err().is_no_space());
    world.disk.remove_faults();
    for job in jobs {
        job.run().unwrap();
    }
    assert_eq!(world.engine.stats().compactions, 0);
    assert_eq!(files_of(&world.disk, &world.dir, ".tbl"), before);
    world.check();
    world.work().unwrap();
    assert_eq!(world.engine.stats().level_tables[0], 0, "it is done when there is space");
    world.check();
    world.restart();
    world.check();
}

#[test]
fn engine_that_is_closed_between_parts_forgets_them() {
    let mut world = due();
    let mut jobs = parts(&world);
    jobs.pop().unwrap().run().unwrap();
    drop(jobs);
    let image = world.disk.crash(100, 5);
    world.reopen_on(image).unwrap();
    world.check();
    let named = world.engine.stats().level_tables.iter().sum::<u64>();
    assert_eq!(files_of(&world.disk, &world.dir, ".tbl").len() as u64, named);
    world.work().unwrap();
    world.check();
}

#[test]
fn parts_of_a_replaced_or_destroyed_engine_change_nothing() {
    let world = due();
    let jobs = parts(&world);
    world.engine.destroy().unwrap();
    for job in jobs {
        // Its directory is gone: it may fail, and must not do more.
        let _ = job.run();
    }
    assert_eq!(world.engine.stats().compactions, 0);
}
