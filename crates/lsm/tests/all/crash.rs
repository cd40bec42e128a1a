//! A power cut during any disk operation leaves a whole, earlier state.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use holdfast_env::sim::{Effect, Fault, Operation, SimDisk};
use holdfast_lsm::{CompactionStyle, Completed, EngineOptions, Error, Family, Staging};

use crate::harness::{Op, World, check, open_engine, small_options};

const KEEP_PERCENT: [u8; 5] = [0, 5, 50, 95, 100];

/// Writes, flushes, compacts and cleans a little of everything.
fn workload(world: &mut World) -> Result<(), Error> {
    for round in 0..8u32 {
        for n in 0..30 {
            let key = Bytes::from(format!("key-{:02}", (n * 7 + round) % 40));
            let bytes = if n % 6 == 1 { 200 } else { 60 };
            let value = (n % 9 != 0).then(|| Bytes::from(vec![b'a' + round as u8; bytes]));
            let applied = (Family::Meta, Bytes::from_static(b"applied"), Some(Bytes::from("x")));
            world.write(&[(Family::Data, key, value), applied]);
        }
        let (start, end) = (format!("key-{:02}", round * 5), format!("key-{:02}", round * 5 + 9));
        let cleared = |family| Op::DeleteRange(family, start.clone().into(), end.clone().into());
        let kept = Op::Set(Family::Lease, start.clone().into(), Some(Bytes::from("of the batch")));
        world.write_ops(&[cleared(Family::Data), cleared(Family::Lease), kept]);
        if round % 3 == 2 {
            world.set_watermark(world.model.point.revision.0 - 20);
        }
        world.engine.seal();
        world.work()?;
    }
    Ok(())
}

/// Runs `workload` on a disk that loses power at its `cut`-th mutation.
fn cut_at(cut: u64, options: &EngineOptions) -> Option<(World, bool)> {
    let disk = SimDisk::new();
    disk.cut_power_at(Some(cut));
    let mut world = World::on(disk, options.clone()).ok()?;
    let is_whole = workload(&mut world).is_ok();
    Some((world, is_whole))
}

#[test]
fn power_cut_at_any_operation_leaves_a_whole_durable_point() {
    cut_at_every_operation(&small_options());
}

#[test]
fn power_cut_at_any_operation_of_a_tiered_tree_leaves_a_whole_durable_point() {
    let compaction_style = CompactionStyle::Tiered;
    cut_at_every_operation(&EngineOptions { compaction_style, ..small_options() });
}

fn cut_at_every_operation(options: &EngineOptions) {
    // Making /data is the harness's own doing; the engine's first operation follows it.
    let first_cut = 3;
    for cut in first_cut.. {
        let Some((mut world, is_whole)) = cut_at(cut, options) else {
            continue;
        };
        assert!(cut < 10_000, "the workload never ends");
        let model = world.model.clone();
        let known = world.engine.durable_point();
        for (seed, keep) in KEEP_PERCENT.into_iter().enumerate() {
            let image = world.disk.crash(keep, cut * 10 + seed as u64);
            world.model = model.clone();
            world.reopen_on(image).unwrap_or_else(|e| panic!("cut {cut}, keep {keep}: {e}"));
            assert!(world.model.point.index >= known.index, "cut {cut}, keep {keep}");
            world.check();
        }
        if is_whole {
            return;
        }
    }
}

#[test]
fn power_cut_while_the_engine_is_founded_leaves_nothing_or_an_empty_engine() {
    for cut in 3.. {
        let disk = SimDisk::new();
        disk.cut_power_at(Some(cut));
        let is_founded = World::on(disk.clone(), small_options()).is_ok();
        for keep in KEEP_PERCENT {
            let mut world = World::on(disk.crash(keep, cut), small_options())
                .unwrap_or_else(|e| panic!("cut {cut}, keep {keep}: {e}"));
            world.put("it", "works");
            world.flush();
            world.check();
        }
        if is_founded {
            return;
        }
    }
}

fn source() -> World {
    let mut world = World::new(small_options());
    workload(&mut world).unwrap();
    world.flush();
    world
}

fn stage(receiver: &World, source: &World) -> Result<std::path::PathBuf, Error> {
    let snapshot = source.engine.pin();
    let disk = Arc::new(receiver.disk.clone());
    let staging = Staging::create(disk, Path::new("/data/staging"), snapshot.manifest())?;
    for (number, file) in snapshot.files().iter().enumerate() {
        let chunk = snapshot.read_chunk(number, 0, 1 << 20)?;
        staging.write(&file.name, 0, &chunk)?;
    }
    staging.finish()
}

#[test]
fn staging_goes_on_with_files_that_two_snapshots_share_and_names_damaged_ones() {
    let mut source = source();
    let receiver = World::new(small_options());
    let disk = Arc::new(receiver.disk.clone());
    let first = source.engine.pin();
    let staging = Staging::create(disk, Path::new("/data/staging"), first.manifest()).unwrap();
    for (number, file) in first.files().iter().enumerate() {
        let chunk = first.read_chunk(number, 0, 1 << 20).unwrap();
        staging.write(&file.name, 0, &chunk).unwrap();
        let mut check = first.check(number).unwrap();
        check.update(&chunk);
        assert!(check.matches());
        check.update(b"more");
        assert!(!check.matches());
    }
    source.put("another", "file");
    source.flush();
    let second = source.engine.pin();
    let is_shared = |name: &str| first.files().iter().any(|file| file.name == name);
    let fresh: Vec<_> =
        second.files().iter().enumerate().filter(|(_, file)| !is_shared(&file.name)).collect();
    assert!(!fresh.is_empty() && fresh.len() < second.files().len());
    let staging = staging.adopt(second.manifest()).unwrap();
    for (number, file) in fresh {
        let chunk = second.read_chunk(number, 0, 1 << 20).unwrap();
        staging.write(&file.name, 0, &chunk).unwrap();
    }
    let shared = second.files().iter().find(|file| is_shared(&file.name)).unwrap();
    let good = staging.read(&shared.name, 0, 32).unwrap();
    staging.write(&shared.name, 0, &[7; 32]).unwrap();
    let staging = match staging.complete().unwrap() {
        Completed::Damaged(staging, files) => {
            assert_eq!(files, std::slice::from_ref(&shared.name));
            staging
        }
        Completed::Verified(_) => panic!("the damage is not noticed"),
    };
    staging.write(&shared.name, 0, &good).unwrap();
    let Completed::Verified(verified) = staging.complete().unwrap() else {
        panic!("everything is there");
    };
    receiver.engine.switch_to(&verified, 0).unwrap();
    check(&receiver.engine, &source.model);
}

#[test]
fn power_cut_during_a_snapshot_install_leaves_the_old_state_or_the_new() {
    let source = source();
    let (mut saw_old, mut saw_new) = (false, false);
    for cut in 1.. {
        let mut receiver = World::new(small_options());
        receiver.put("old", "state");
        receiver.flush();
        let before = receiver.disk.counters().mutations;
        receiver.disk.cut_power_at(Some(before + cut));
        let outcome = stage(&receiver, &source).and_then(|d| receiver.engine.replace_from(&d, 0));
        for keep in KEEP_PERCENT {
            let image = receiver.disk.crash(keep, cut);
            let engine =
                open_engine(&image, &receiver.dir, &receiver.durable, &receiver.options, 9)
                    .unwrap_or_else(|e| panic!("cut {cut}, keep {keep}: {e}"));
            let is_new = engine.read_point() == source.model.point;
            assert!(is_new || outcome.is_err(), "an installed snapshot was lost");
            check(&engine, if is_new { &source.model } else { &receiver.model });
            (saw_old, saw_new) = (saw_old || !is_new, saw_new || is_new);
        }
        if outcome.is_ok() {
            break;
        }
    }
    assert!(saw_old && saw_new);
}

#[test]
fn failed_sync_of_names_during_a_snapshot_install_and_a_power_cut_take_back_nothing() {
    let source = source();
    for call in 0..100 {
        let mut receiver = World::new(small_options());
        receiver.put("old", "state");
        receiver.flush();
        let fault = Fault::new(Operation::SyncDir, Effect::SyncFails).after(call);
        let fault = receiver.disk.inject(fault);
        let installed = stage(&receiver, &source).and_then(|d| receiver.engine.replace_from(&d, 0));
        if receiver.disk.fault_struck(fault) == 0 {
            assert!(installed.is_ok() && call > 2);
            return;
        }
        receiver.disk.remove_faults();
        // The process ends and starts again; then the power goes.
        let killed = receiver.disk.kill();
        let open = |disk: &SimDisk| {
            open_engine(disk, &receiver.dir, &receiver.durable, &receiver.options, 9)
        };
        let shown = open(&killed).unwrap().read_point();
        for (seed, keep) in KEEP_PERCENT.into_iter().cycle().take(20).enumerate() {
            let engine = open(&killed.crash(keep, seed as u64))
                .unwrap_or_else(|e| panic!("call {call}, keep {keep}: {e}"));
            assert_eq!(engine.read_point(), shown, "call {call}, keep {keep}");
        }
    }
    panic!("the install never ends");
}

#[test]
fn power_cut_during_destruction_leaves_everything_or_nothing() {
    for cut in 1.. {
        let mut world = source();
        let before = world.disk.counters().mutations;
        world.disk.cut_power_at(Some(before + cut));
        let outcome = world.engine.destroy();
        for keep in KEEP_PERCENT {
            let image = world.disk.crash(keep, cut);
            let engine = open_engine(&image, &world.dir, &world.durable, &world.options, 9)
                .unwrap_or_else(|e| panic!("cut {cut}, keep {keep}: {e}"));
            if engine.read_point() == world.model.point {
                assert!(outcome.is_err(), "a destroyed engine came back");
                check(&engine, &world.model);
            } else {
                assert_eq!(engine.stats().level_tables, [0; 7]);
            }
        }
        if outcome.is_ok() {
            world.disk = world.disk.crash(100, 0);
            return;
        }
    }
}

#[test]
fn nothing_becomes_durable_before_the_journal_is() {
    let mut world = World::new(small_options());
    world.durable.store(0, Ordering::Relaxed);
    world.put("a", "1");
    world.engine.seal();
    world.put("a", "2");
    assert!(world.engine.next_job().is_none(), "the gate of the first memtable is 1");
    world.durable.store(1, Ordering::Relaxed);
    world.work().unwrap();
    assert_eq!(world.engine.durable_point().index.0, 1);
    world.engine.seal();
    assert!(world.engine.next_job().is_none(), "the gate of the second memtable is 2");
    world.check();
    world.restart();
    assert_eq!(world.model.point.index.0, 1);
    world.check();
}

#[test]
fn snapshot_waits_for_the_journal_before_it_is_installed() {
    let source = source();
    let mut receiver = World::new(small_options());
    receiver.durable = Arc::new(AtomicU64::new(5));
    receiver.restart();
    let staged = stage(&receiver, &source).unwrap();
    let early = receiver.engine.replace_from(&staged, 6);
    assert!(matches!(early, Err(Error::NotDurable { gate: 6, durable: 5 })));
    receiver.durable.store(6, Ordering::Relaxed);
    receiver.engine.replace_from(&staged, 6).unwrap();
    check(&receiver.engine, &source.model);
}
