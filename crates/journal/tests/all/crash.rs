//! Power cuts: at every operation on the disk, with every share of what was not synced.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use holdfast_env::sim::{Effect, Fault, Operation, SimDisk};
use holdfast_journal::SegmentInspector;

use crate::rig::{DIR, Rig, at, entries, ignore, small};
use crate::world::{Op, World, matches, ops};

/// Works until done or until the power goes.
fn run(disk: SimDisk, work: &[Op]) -> Option<World> {
    let mut world = World::new(Rig::open(Arc::new(disk), small()).ok()?);
    for op in work {
        if world.apply(*op).is_err() {
            break;
        }
    }
    Some(world)
}

/// Opens an image: it must show the state after some change, not before the last acknowledged one.
fn check(image: SimDisk, world: Option<&World>, what: &str) -> Rig {
    let rig = Rig::open(Arc::new(image), small()).unwrap();
    assert_eq!(rig.recovery.hit, [], "{what}");
    assert_eq!(rig.recovery.damage, [], "{what}");
    let Some(world) = world else {
        assert!(rig.journal.groups().is_empty(), "{what}");
        return rig;
    };
    let acknowledged = world.acknowledged.load(Ordering::SeqCst);
    let states = world.history.get(acknowledged..).unwrap();
    let shown = states.iter().rev().any(|model| matches(model, &rig.journal));
    assert!(shown, "{what}: lost something acknowledged, or made something up");
    rig
}

/// Whatever a crash left behind, the journal goes on, and keeps that too.
fn check_it_goes_on(mut rig: Rig, seed: u64, what: &str) {
    let mut appended = Vec::new();
    for group in rig.journal.groups() {
        let next = rig.journal.log_state(group).last.map_or(1, |last| last.index + 1);
        let fresh = entries(77, next..next + 2, 300);
        rig.journal.append(group, fresh.clone(), ignore()).unwrap();
        appended.push((group, next, fresh));
    }
    while rig.journal.durable() < rig.journal.logical_end() {
        rig.writer.step().unwrap();
    }
    let image = rig.disk.crash(50, seed);
    let rig = Rig::open(Arc::new(image), small()).unwrap();
    assert_eq!(rig.recovery.hit, [], "{what}");
    for (group, next, fresh) in appended {
        assert_eq!(rig.journal.read(group, next..next + 9, u64::MAX).unwrap(), fresh, "{what}");
    }
}

fn cut_at_every_operation(seed: u64, count: usize) {
    let work = ops(seed, count);
    let dry = run(SimDisk::new(), &work).unwrap();
    let mutations = dry.rig.disk.counters().mutations;
    assert!(dry.rig.journal.stats().segments_freed > 0, "the work never uses a segment again");
    assert!(dry.rig.journal.stats().rewritten_bytes > 0, "the work never moves a record");
    for cut in 1..=mutations {
        let disk = SimDisk::new();
        disk.cut_power_at(Some(cut));
        let world = run(disk.clone(), &work);
        for (at, keep) in [0, 5, 50, 95, 100].into_iter().enumerate() {
            let what = format!("work {seed}, power cut at {cut}, {keep} % kept");
            let rig = check(disk.crash(keep, seed + at as u64), world.as_ref(), &what);
            if cut % 5 == at as u64 {
                check_it_goes_on(rig, cut, &what);
            }
        }
    }
}

#[test]
fn a_power_cut_at_any_operation_loses_nothing_acknowledged() {
    cut_at_every_operation(1, 420);
}

#[test]
fn a_power_cut_at_any_operation_of_other_work_loses_nothing_acknowledged() {
    cut_at_every_operation(2, 420);
}

#[test]
fn a_killed_process_loses_nothing_it_wrote() {
    let world = run(SimDisk::new(), &ops(3, 300)).unwrap();
    let image = world.rig.disk.kill();
    let rig = check(image, Some(&world), "killed");
    // What the page cache held is not durable yet: opening has to see to that.
    check(rig.disk.crash(0, 3), Some(&world), "killed, then without power");
}

#[test]
fn what_recovery_showed_survives_the_next_power_cut() {
    for seed in 0..40 {
        let work = ops(seed, 120);
        let world = run(SimDisk::new(), &work).unwrap();
        let first = check(world.rig.disk.crash(50, seed), Some(&world), "first crash");
        let shown: Vec<_> =
            first.journal.groups().iter().map(|g| (*g, first.journal.log_state(*g))).collect();
        let second = Rig::open(Arc::new(first.disk.crash(0, seed)), small()).unwrap();
        let again: Vec<_> =
            second.journal.groups().iter().map(|g| (*g, second.journal.log_state(*g))).collect();
        assert_eq!(shown, again, "work {seed}");
    }
}

#[test]
fn remains_of_a_torn_batch_are_never_taken_for_a_continuation() {
    let mut remains = 0;
    for seed in 0..200 {
        let mut rig = Rig::new(small());
        let g = rig.create(1);
        rig.journal.append(g, entries(1, 1..9, 100), ignore()).unwrap();
        rig.rest();
        // A purge, then filler and mark, all written and not synced: some of it survives.
        rig.journal.purge(g, at(1, 4)).unwrap();
        rig.disk.cut_power_at(Some(rig.disk.counters().mutations + 4));
        rig.clock.advance(std::time::Duration::from_millis(10));
        rig.writer.step().unwrap_err();
        let mut rig = Rig::open(Arc::new(rig.disk.crash(50, seed)), small()).unwrap();
        // A record of the same size: what lies behind it has the right place and number.
        rig.journal.truncate_after(g, Some(6), ignore()).unwrap();
        rig.writer.step().unwrap();
        let purged = rig.journal.log_state(g).purged;
        let image = rig.disk.crash(0, seed);
        let path = std::path::Path::new(DIR).join("0000000000000001.journal");
        let inspector = SegmentInspector::open(&image, &path).unwrap();
        let stale = inspector.filter(|batch| !batch.linked).count();
        let rig = Rig::open(Arc::new(image), small()).unwrap();
        assert_eq!(rig.journal.log_state(g).last, Some(at(1, 6)), "seed {seed}");
        assert_eq!(rig.journal.log_state(g).purged, purged, "seed {seed}");
        assert_eq!(rig.recovery.torn_tail, stale > 0, "seed {seed}");
        remains += stale;
    }
    assert!(remains > 0, "no image had remains");
}

#[test]
fn what_recovery_shows_after_a_failed_sync_survives_a_power_cut() {
    let mut rig = Rig::new(small());
    let g = rig.create(1);
    rig.journal.append(g, entries(1, 1..4, 300), ignore()).unwrap();
    rig.disk.inject(Fault::new(Operation::Sync, Effect::SyncFails));
    assert!(rig.writer.step().is_err());
    let shown = Rig::open(Arc::new(rig.disk.kill()), small()).unwrap();
    let found = shown.journal.read(g, 1..4, u64::MAX).unwrap();
    assert_eq!(found.len(), 3, "the page cache still has them");
    let after = Rig::open(Arc::new(shown.disk.crash(0, 1)), small()).unwrap();
    assert_eq!((after.recovery.hit, after.recovery.damage), (vec![], vec![]));
    assert_eq!(after.journal.read(g, 1..4, u64::MAX).unwrap(), found);
}
