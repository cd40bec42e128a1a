//! What was not written as it should be, or changed later, is noticed and never answered from.

use std::ops::Bound;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use holdfast_env::sim::{Effect, Fault, Operation, SimDisk};
use holdfast_env::{Disk, OpenMode};
use holdfast_lsm::{Engine, Error, Family, Staging};

use crate::harness::{World, files_of, open_engine, small_options};

/// A flushed and compacted engine of a few tables and every family.
fn filled() -> World {
    let mut world = World::new(small_options());
    for n in 0..120u32 {
        let key = Bytes::from(format!("key-{:03}", n * 37 % 90));
        let padding = if n % 10 == 3 { 200 } else { 0 };
        let value = (n % 7 != 0).then(|| format!("value {n} of {key:?}{:padding$}", ""));
        let value = value.map(Bytes::from);
        let family = Family::ALL[n as usize % Family::COUNT];
        world.write(&[(family, key.clone(), value.clone()), (Family::Data, key, value)]);
        if n % 40 == 20 {
            world.delete_range(family, "key-01", "key-03");
            world.delete_range(Family::Data, "key-05", "key-06");
        }
        if n % 40 == 39 {
            world.flush();
        }
    }
    world
}

/// Reads every record of every family.
fn read_all(engine: &Engine) -> Result<usize, Error> {
    let mut records = 0;
    for family in Family::ALL {
        let everything = (Bound::Unbounded, Bound::Unbounded);
        for record in engine.scan(family, everything, engine.read_point(), false)? {
            record?;
            records += 1;
        }
    }
    Ok(records)
}

fn open_and_read(world: &World, disk: &SimDisk) -> Result<usize, Error> {
    let engine = open_engine(disk, &world.dir, &world.durable, &world.options, 5)?;
    read_all(&engine)
}

fn assert_noticed(world: &World, disk: &SimDisk, what: &str) {
    match open_and_read(world, disk) {
        Err(error) => assert!(error.is_corruption(), "{what}: {error}"),
        Ok(_) => panic!("{what}: nobody noticed"),
    }
}

fn length(disk: &SimDisk, path: &Path) -> u64 {
    disk.open(path, OpenMode::Read).unwrap().len().unwrap()
}

#[test]
fn every_flipped_bit_of_a_table_is_noticed() {
    let world = filled();
    let table = files_of(&world.disk, &world.dir, ".tbl").pop().unwrap();
    for offset in 0..length(&world.disk, &table) {
        let image = world.disk.clone();
        image.flip_bit(&table, offset, (offset % 8) as u8).unwrap();
        assert_noticed(&world, &image, &format!("byte {offset} of {table:?}"));
        image.flip_bit(&table, offset, (offset % 8) as u8).unwrap();
    }
    assert!(open_and_read(&world, &world.disk).is_ok(), "all flips are undone");
}

#[test]
fn every_flipped_bit_of_a_blob_file_is_noticed() {
    let world = filled();
    let blobs = files_of(&world.disk, &world.dir, ".blob");
    for blob in &blobs {
        for offset in 0..length(&world.disk, blob) {
            world.disk.flip_bit(blob, offset, (offset % 8) as u8).unwrap();
            let image = copy_of(&world.disk);
            world.disk.flip_bit(blob, offset, (offset % 8) as u8).unwrap();
            // A value nobody can see any more is read by nobody, but by whoever takes the files.
            if open_and_read(&world, &image).is_ok() {
                let engine = open_engine(&image, &world.dir, &world.durable, &world.options, 5);
                let staged = transferred(&engine.unwrap());
                assert!(staged.is_err_and(|e| e.is_corruption()), "byte {offset} of {blob:?}");
            }
        }
    }
    assert!(!blobs.is_empty() && open_and_read(&world, &world.disk).is_ok());
    let engine = open_engine(&world.disk, &world.dir, &world.durable, &world.options, 5);
    assert!(transferred(&engine.unwrap()).is_ok());
}

/// Stages everything the engine holds on another disk, where every byte is checked.
fn transferred(engine: &Engine) -> Result<(), Error> {
    let snapshot = engine.pin();
    let disk = std::sync::Arc::new(SimDisk::new());
    let staging = Staging::create(disk, Path::new("/staging"), snapshot.manifest())?;
    for (number, file) in snapshot.files().iter().enumerate() {
        let chunk = snapshot.read_chunk(number, 0, 1 << 20)?;
        staging.write(&file.name, 0, &chunk)?;
    }
    staging.finish_verified().map(drop)
}

#[test]
fn a_blob_file_that_is_missing_or_cut_is_noticed() {
    let world = filled();
    let blob = files_of(&world.disk, &world.dir, ".blob").pop().unwrap();
    let missing = copy_of(&world.disk);
    missing.remove_file(&blob).unwrap();
    assert_noticed(&world, &missing, "a missing blob file");
    let cut = copy_of(&world.disk);
    cut.truncate(&blob, length(&cut, &blob) - 1).unwrap();
    assert_noticed(&world, &cut, "a cut blob file");
}

#[test]
fn every_flipped_bit_of_current_is_noticed() {
    let world = filled();
    let current = world.dir.join("CURRENT");
    for offset in 0..length(&world.disk, &current) {
        world.disk.flip_bit(&current, offset, 3).unwrap();
        assert_noticed(&world, &world.disk, &format!("byte {offset} of CURRENT"));
        world.disk.flip_bit(&current, offset, 3).unwrap();
    }
}

#[test]
fn damage_in_the_base_of_a_manifest_is_noticed() {
    let world = filled();
    let manifest = files_of(&world.disk, &world.dir, "MANIFEST").pop().unwrap();
    // The header's reserved word at 12..16 means nothing; the base record begins at 32.
    for offset in (0..12).chain(16..80) {
        world.disk.flip_bit(&manifest, offset, 1).unwrap();
        assert_noticed(&world, &world.disk, &format!("byte {offset} of the manifest"));
        world.disk.flip_bit(&manifest, offset, 1).unwrap();
    }
}

fn copy_of(disk: &SimDisk) -> SimDisk {
    let copy = SimDisk::new();
    for (path, bytes) in disk.files(Path::new("/")).unwrap() {
        copy.create_dir_all(path.parent().unwrap()).unwrap();
        let file = copy.open(&path, OpenMode::CreateNew).unwrap();
        file.write_all_at(&bytes, 0).unwrap();
    }
    copy
}

#[test]
fn a_table_that_is_missing_cut_or_another_one_is_noticed() {
    let world = filled();
    let tables = files_of(&world.disk, &world.dir, ".tbl");
    let (first, second) = (&tables[0], &tables[1]);
    let image = || copy_of(&world.disk);
    let missing = image();
    missing.remove_file(first).unwrap();
    assert_noticed(&world, &missing, "a missing table");
    let cut = image();
    cut.truncate(first, length(&cut, first) - 1).unwrap();
    assert_noticed(&world, &cut, "a cut table");
    let exchanged = image();
    let aside = PathBuf::from("/data/aside");
    exchanged.rename(first, &aside).unwrap();
    exchanged.rename(second, first).unwrap();
    exchanged.rename(&aside, second).unwrap();
    assert_noticed(&world, &exchanged, "two tables exchanged");
    let swapped = image();
    swapped.swap_blocks(first, 512, 0, 1).unwrap();
    assert_noticed(&world, &swapped, "two blocks swapped");
    assert!(open_and_read(&world, &image()).is_ok());
}

#[test]
fn tables_without_current_are_not_taken_for_a_new_engine() {
    let world = filled();
    world.disk.remove_file(&world.dir.join("CURRENT")).unwrap();
    assert_noticed(&world, &world.disk, "a missing CURRENT");
}

#[test]
fn a_bit_flipped_on_the_way_from_the_disk_is_noticed() {
    let world = filled();
    let is_table = |path: &Path| path.extension().is_some_and(|e| e == "tbl");
    for call in 0..200 {
        let flip = Fault::new(Operation::Read, Effect::FlipBit { bit: 77 }).on(is_table);
        let fault = world.disk.inject(flip.after(call));
        let outcome = open_and_read(&world, &world.disk);
        world.disk.remove_faults();
        if world.disk.fault_struck(fault) == 0 {
            assert!(call > 10, "the reads of tables were not struck");
            assert!(outcome.is_ok());
            return;
        }
        assert!(outcome.is_err_and(|e| e.is_corruption()), "read {call}");
    }
}

/// Runs writes and jobs until something fails, then says what.
fn until_error(world: &mut World) -> Option<Error> {
    for round in 0..6 {
        for n in 0..40 {
            let bytes = if n % 8 == 0 { 200 } else { 50 };
            world.put(&format!("key-{:03}", n * 3 + round), &"v".repeat(bytes));
        }
        world.engine.seal();
        if let Err(error) = world.work() {
            return Some(error);
        }
    }
    None
}

/// Injects `effect` into the n-th `operation` for every n, and hands over what came of it.
fn sweep(operation: Operation, effect: Effect, judge: impl Fn(&mut World, Option<Error>, &str)) {
    for call in 0..10_000 {
        let mut world = World::new(small_options());
        let fault = world.disk.inject(Fault::new(operation, effect).after(call));
        let error = until_error(&mut world);
        world.disk.remove_faults();
        if world.disk.fault_struck(fault) == 0 {
            assert!(call > 0, "{operation:?} was not struck");
            return;
        }
        judge(&mut world, error, &format!("{effect:?} in {operation:?} {call}"));
    }
    panic!("the workload never ends");
}

#[test]
fn a_full_disk_changes_nothing_and_work_goes_on_when_there_is_space() {
    for operation in [Operation::Create, Operation::Resize] {
        sweep(operation, Effect::Enospc, |world, error, what| {
            // A manifest that cannot be rewritten for lack of space is no error at all.
            assert!(error.is_none_or(|e| e.is_no_space() && !e.is_fatal()), "{what}");
            world.check();
            let finished = until_error(world);
            assert!(finished.is_none(), "{what}: {finished:?}");
            world.check();
            world.restart();
            world.flush();
            world.check();
        });
    }
}

#[test]
fn a_device_error_while_writing_is_fatal_and_loses_nothing_durable() {
    for (operation, effect) in [
        (Operation::Write, Effect::Eio),
        (Operation::Sync, Effect::SyncFails),
        (Operation::SyncDir, Effect::SyncFails),
        (Operation::Rename, Effect::Eio),
    ] {
        sweep(operation, effect, |world, error, what| {
            let error = error.unwrap_or_else(|| panic!("{what}: swallowed"));
            assert!(error.is_fatal(), "{what}: {error}");
            world.check();
            // The process aborts; what is found afterwards is whole.
            let image = world.disk.crash(50, 11);
            world.reopen_on(image).unwrap_or_else(|e| panic!("{what}: {e}"));
            world.check();
        });
    }
}

#[test]
fn what_an_open_shows_after_a_failed_sync_survives_a_power_cut() {
    sweep(Operation::Sync, Effect::SyncFails, |world, error, what| {
        assert!(error.is_some_and(|e| e.is_fatal()), "{what}");
        // The process aborts, and the page cache stays.
        world.restart();
        let shown = world.engine.durable_point();
        for keep in [0, 50] {
            let mut after = World::new(small_options());
            after.model = world.model.clone();
            let image = world.disk.crash(keep, 1);
            after.reopen_on(image).unwrap_or_else(|e| panic!("{what}, keep {keep}: {e}"));
            assert!(after.engine.durable_point().index >= shown.index, "{what}, keep {keep}");
            after.check();
        }
    });
}

#[test]
fn engine_that_cannot_make_durable_what_it_found_does_not_open() {
    for (operation, calls) in [(Operation::SyncDir, 2), (Operation::Sync, 1), (Operation::Write, 1)]
    {
        for call in 0..calls {
            let mut world = World::new(small_options());
            world.put("a", "1");
            world.flush();
            let image = world.disk.kill();
            let effect =
                if operation == Operation::Write { Effect::Eio } else { Effect::SyncFails };
            let fault = image.inject(Fault::new(operation, effect).after(call));
            let refused = world.reopen_on(image.clone()).unwrap_err();
            assert_eq!(image.fault_struck(fault), 1, "{operation:?} {call}");
            assert!(matches!(refused, Error::Unsynced { .. }) && refused.is_fatal(), "{refused}");
            image.remove_faults();
            world.reopen_on(image.kill()).unwrap();
            world.check();
        }
    }
}

#[test]
fn nothing_is_committed_after_a_manifest_sync_failed() {
    let mut world = World::new(small_options());
    world.put("a", "1");
    world.flush();
    world.put("b", "2");
    world.engine.seal();
    let on_manifest = |path: &Path| path.to_string_lossy().contains("MANIFEST");
    world.disk.inject(Fault::new(Operation::Sync, Effect::SyncFails).on(on_manifest));
    assert!(world.work().unwrap_err().is_fatal());
    assert!(matches!(world.work(), Err(Error::Poisoned)));
    assert_eq!(world.engine.durable_point().index.0, 1);
    world.check();
}
