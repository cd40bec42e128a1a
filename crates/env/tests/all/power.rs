//! What the simulated disk keeps through power cuts, ends of processes and faults.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::{Arc, Mutex};

use holdfast_env::sim::{Effect, Fault, Operation, SimDisk, is_power_cut};
use holdfast_env::{Disk, OpenMode};

const KEEPS: [u8; 5] = [0, 5, 50, 95, 100];

fn path(name: &str) -> &Path {
    Path::new(name)
}

/// A disk with the durable directory `/d`.
fn disk() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir_all(path("/d")).unwrap();
    disk.sync_dir(path("/")).unwrap();
    disk
}

#[test]
fn what_was_synced_survives_every_power_cut() {
    for keep in KEEPS {
        for seed in 0..20 {
            let disk = disk();
            disk.replace(path("/d/a"), b"promised").unwrap();
            let file = disk.open(path("/d/a"), OpenMode::Write).unwrap();
            file.write_all_at(b"more", 8).unwrap();
            let image = disk.crash(keep, seed);
            assert!(image.read(path("/d/a")).unwrap().starts_with(b"promised"));
        }
    }
}

#[test]
fn a_synced_file_without_a_synced_directory_may_be_gone() {
    let survivors = |keep| {
        (0..100).filter(move |seed| {
            let disk = disk();
            let file = disk.open(path("/d/a"), OpenMode::CreateNew).unwrap();
            file.write_all_at(b"x", 0).unwrap();
            file.sync_all().unwrap();
            disk.crash(keep, *seed).exists(path("/d/a")).unwrap()
        })
    };
    assert_eq!(survivors(0).count(), 0);
    assert!((20..80).contains(&survivors(50).count()));
    assert_eq!(survivors(100).count(), 100);
}

#[test]
fn a_directory_that_was_not_synced_takes_its_files_with_it() {
    let disk = disk();
    disk.create_dir_all(path("/d/new")).unwrap();
    disk.replace(path("/d/new/a"), b"x").unwrap();
    assert!(!disk.crash(0, 1).exists(path("/d/new")).unwrap());
}

#[test]
fn a_rename_is_atomic_whatever_survives() {
    let mut seen = BTreeSet::new();
    for seed in 0..100 {
        let disk = disk();
        disk.replace(path("/d/a"), b"old").unwrap();
        let file = disk.open(path("/d/t"), OpenMode::CreateNew).unwrap();
        file.write_all_at(b"new", 0).unwrap();
        file.sync_all().unwrap();
        disk.rename(path("/d/t"), path("/d/a")).unwrap();
        let image = disk.crash(50, seed);
        let content = image.read(path("/d/a")).unwrap();
        let is_at_both = content == b"new" && image.exists(path("/d/t")).unwrap();
        assert!(!is_at_both);
        seen.insert(content);
    }
    assert_eq!(seen, BTreeSet::from([b"new".to_vec(), b"old".to_vec()]));
}

#[test]
fn a_chain_of_renames_never_leaves_a_file_at_two_names() {
    for seed in 0..200 {
        let disk = disk();
        disk.replace(path("/d/a"), b"x").unwrap();
        disk.rename(path("/d/a"), path("/d/b")).unwrap();
        disk.rename(path("/d/b"), path("/d/c")).unwrap();
        assert_eq!(disk.crash(50, seed).list(path("/d")).unwrap().len(), 1);
    }
}

#[test]
fn a_removed_name_comes_back_unless_the_directory_was_synced() {
    let removed = || {
        let disk = disk();
        disk.replace(path("/d/a"), b"x").unwrap();
        disk.remove_file(path("/d/a")).unwrap();
        disk
    };
    assert_eq!(removed().crash(0, 1).read(path("/d/a")).unwrap(), b"x");
    let synced = removed();
    synced.sync_dir(path("/d")).unwrap();
    assert!(!synced.crash(0, 1).exists(path("/d/a")).unwrap());
}

#[test]
fn syncing_the_target_directory_settles_a_rename_between_directories() {
    let disk = disk();
    disk.create_dir_all(path("/d/from")).unwrap();
    disk.create_dir_all(path("/d/to")).unwrap();
    disk.sync_dir(path("/d")).unwrap();
    disk.open(path("/d/from/a"), OpenMode::CreateNew).unwrap();
    disk.rename(path("/d/from/a"), path("/d/to/a")).unwrap();
    disk.sync_dir(path("/d/to")).unwrap();
    let image = disk.crash(0, 1);
    assert!(image.exists(path("/d/to/a")).unwrap());
    assert!(!image.exists(path("/d/from/a")).unwrap());
}

#[test]
fn a_removed_file_stays_readable_to_its_handles_through_many_removals() {
    let disk = disk();
    disk.replace(path("/d/keep"), b"kept").unwrap();
    let handle = disk.open(path("/d/keep"), OpenMode::Read).unwrap();
    disk.remove_file(path("/d/keep")).unwrap();
    for i in 0..200 {
        let name = format!("/d/{i}");
        disk.replace(path(&name), b"x").unwrap();
        disk.remove_file(path(&name)).unwrap();
    }
    disk.sync_dir(path("/d")).unwrap();
    assert_eq!(handle.len().unwrap(), 4);
}

#[test]
fn every_call_fails_from_the_planned_power_cut_on() {
    let disk = disk();
    disk.replace(path("/d/a"), b"old").unwrap();
    let file = disk.open(path("/d/a"), OpenMode::Write).unwrap();
    disk.cut_power_at(Some(disk.counters().mutations + 2));
    file.write_all_at(b"new", 0).unwrap();
    assert!(is_power_cut(&file.sync_all().unwrap_err()));
    assert!(is_power_cut(&file.write_all_at(b"late", 0).unwrap_err()));
    assert!(is_power_cut(&disk.exists(path("/d/a")).unwrap_err()));
    assert!(is_power_cut(&file.read_at(&mut [0], 0).unwrap_err()));
    assert_eq!(disk.crash(0, 1).read(path("/d/a")).unwrap(), b"old", "the sync did not happen");
    assert_eq!(disk.crash(100, 1).read(path("/d/a")).unwrap(), b"new");
}

#[test]
fn the_old_disk_cannot_write_into_the_image() {
    let disk = disk();
    disk.replace(path("/d/a"), b"old").unwrap();
    let file = disk.open(path("/d/a"), OpenMode::Write).unwrap();
    let image = disk.crash(100, 1);
    assert!(is_power_cut(&file.write_all_at(b"new", 0).unwrap_err()));
    assert_eq!(image.read(path("/d/a")).unwrap(), b"old");
}

#[test]
fn a_killed_process_leaves_unsynced_bytes_that_a_later_crash_can_take() {
    let disk = disk();
    let lock = disk.lock(path("/d/LOCK")).unwrap();
    disk.replace(path("/d/a"), b"old").unwrap();
    disk.open(path("/d/a"), OpenMode::Write).unwrap().write_all_at(b"new", 0).unwrap();
    let after = disk.kill();
    assert_eq!(after.read(path("/d/a")).unwrap(), b"new");
    after.lock(path("/d/LOCK")).unwrap();
    drop(lock);
    assert_eq!(after.crash(0, 1).read(path("/d/a")).unwrap(), b"old");
}

#[test]
fn the_same_seed_gives_the_same_image() {
    let image = |seed| {
        let disk = disk();
        for i in 0..20u8 {
            let file = disk.open(path(&format!("/d/{i}")), OpenMode::CreateNew).unwrap();
            file.write_all_at(&[i; 3_000], 0).unwrap();
        }
        disk.crash(50, seed).files(path("/")).unwrap()
    };
    assert_eq!(image(3), image(3));
    assert_ne!(image(3), image(4));
}

#[test]
fn a_failed_sync_loses_the_pages_though_the_next_one_succeeds() {
    let disk = disk();
    disk.replace(path("/d/a"), b"old").unwrap();
    let file = disk.open(path("/d/a"), OpenMode::Write).unwrap();
    let fault = disk.inject(Fault::new(Operation::Sync, Effect::SyncFails));
    file.write_all_at(b"new", 0).unwrap();
    assert!(file.sync_data().is_err());
    file.sync_data().unwrap();
    assert_eq!(disk.fault_struck(fault), 1);
    assert_eq!(disk.read(path("/d/a")).unwrap(), b"new", "the page cache still shows it");
    assert_eq!(disk.crash(100, 1).read(path("/d/a")).unwrap(), b"old");
}

#[test]
fn a_lying_sync_makes_nothing_durable() {
    let disk = disk();
    disk.replace(path("/d/a"), b"old").unwrap();
    let file = disk.open(path("/d/a"), OpenMode::Write).unwrap();
    disk.inject(Fault::new(Operation::Sync, Effect::SyncLies));
    file.write_all_at(b"new", 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!(disk.crash(0, 1).read(path("/d/a")).unwrap(), b"old");
}

#[test]
fn write_faults_do_to_the_bytes_what_they_say() {
    let written = |effect| {
        let disk = disk();
        disk.replace(path("/d/a"), b"........").unwrap();
        let file = disk.open(path("/d/a"), OpenMode::Write).unwrap();
        disk.inject(Fault::new(Operation::Write, effect).on(|path| path.ends_with("a")));
        let result = file.write_all_at(b"abcd", 0);
        (result.map_err(|e| e.kind()), disk.read(path("/d/a")).unwrap())
    };
    let full: io::Result<()> = Err(ErrorKind::StorageFull.into());
    let full = full.map_err(|e| e.kind());
    assert_eq!(written(Effect::ShortWrite { bytes: 3 }), (full, b"abc.....".to_vec()));
    assert_eq!(written(Effect::PhantomWrite), (Ok(()), b"........".to_vec()));
    let misdirected = Effect::MisdirectedWrite { distance: 4 };
    assert_eq!(written(misdirected), (Ok(()), b"....abcd".to_vec()));
    assert_eq!(written(Effect::Enospc), (full, b"........".to_vec()));
    assert!(written(Effect::Eio).0.is_err());
}

#[test]
fn a_flipped_bit_on_read_is_gone_the_next_time() {
    let disk = disk();
    disk.replace(path("/d/a"), &[0; 4]).unwrap();
    disk.inject(Fault::new(Operation::Read, Effect::FlipBit { bit: 9 }));
    assert_eq!(disk.read(path("/d/a")).unwrap(), [0, 2, 0, 0]);
    assert_eq!(disk.read(path("/d/a")).unwrap(), [0; 4]);
}

#[test]
fn damage_on_the_platter_survives_a_crash() {
    let disk = disk();
    let bytes: Vec<u8> = (0..4).flat_map(|i| [i; 512]).collect();
    disk.replace(path("/d/a"), &bytes).unwrap();
    disk.flip_bit(path("/d/a"), 5, 7).unwrap();
    disk.swap_blocks(path("/d/a"), 512, 1, 3).unwrap();
    let damaged = disk.crash(0, 1).read(path("/d/a")).unwrap();
    assert_eq!(damaged[5], 128);
    assert_eq!((damaged[512], damaged[1_536]), (3, 1));
    let disk = disk.crash(0, 2);
    disk.truncate(path("/d/a"), 700).unwrap();
    assert_eq!(disk.crash(100, 1).read(path("/d/a")).unwrap().len(), 700);
}

#[test]
fn damage_outside_the_file_is_refused() {
    let disk = disk();
    disk.replace(path("/d/a"), &[0; 100]).unwrap();
    let invalid = ErrorKind::InvalidInput;
    assert_eq!(disk.flip_bit(path("/d/a"), 100, 0).unwrap_err().kind(), invalid);
    assert_eq!(disk.truncate(path("/d/a"), 101).unwrap_err().kind(), invalid);
    assert_eq!(disk.swap_blocks(path("/d/a"), 64, 0, 1).unwrap_err().kind(), invalid);
    assert_eq!(disk.flip_bit(path("/d/b"), 0, 0).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_bad_sector_is_healed_by_writing_it() {
    let disk = disk();
    disk.replace(path("/d/a"), &[1; 1_024]).unwrap();
    disk.mark_bad(path("/d/a"), 512, 1).unwrap();
    let file = disk.open(path("/d/a"), OpenMode::Write).unwrap();
    assert!(file.read_at(&mut [0; 512], 0).is_ok());
    assert!(file.read_at(&mut [0; 512], 512).is_err());
    file.write_all_at(&[2; 512], 512).unwrap();
    assert!(file.read_at(&mut [0; 512], 512).is_ok());
}

#[test]
fn a_full_disk_refuses_growth_and_gives_space_back_on_removal() {
    let disk = disk();
    disk.set_capacity(Some(8_192));
    let file = disk.open(path("/d/a"), OpenMode::CreateNew).unwrap();
    file.write_all_at(&[1; 5_000], 0).unwrap();
    assert_eq!(file.write_all_at(&[1], 8_192).unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(file.allocate(10_000).unwrap_err().kind(), ErrorKind::StorageFull);
    file.write_all_at(&[1; 8_192], 0).unwrap();
    assert_eq!(disk.space(path("/")).unwrap().available_bytes, 0);
    disk.remove_file(path("/d/a")).unwrap();
    assert_eq!(disk.space(path("/")).unwrap().available_bytes, 0, "it is still open");
    drop(file);
    assert_eq!(disk.space(path("/")).unwrap().available_bytes, 8_192);
}

#[test]
fn counters_tell_calls_apart() {
    let disk = disk();
    let before = disk.counters();
    disk.replace(path("/d/a"), b"12345").unwrap();
    disk.read(path("/d/a")).unwrap();
    let after = disk.counters();
    assert_eq!(after.syncs - before.syncs, 1);
    assert_eq!(after.directory_syncs - before.directory_syncs, 1);
    assert_eq!(after.bytes_written - before.bytes_written, 5);
    assert_eq!(after.mutations - before.mutations, 6, "create, cut, write, sync, rename, sync");
    assert_eq!(after.reads - before.reads, 1);
}

/// The pattern every store relies on, cut at each of its operations.
#[test]
fn replace_leaves_the_old_or_the_new_file_at_every_power_cut() {
    let mut outcomes = BTreeSet::new();
    for cut in 1..=6 {
        for (keep, seed) in KEEPS.iter().flat_map(|keep| (0..10).map(move |seed| (*keep, seed))) {
            let disk = disk();
            disk.replace(path("/d/a"), &[1; 1_500]).unwrap();
            disk.cut_power_at(Some(disk.counters().mutations + cut));
            assert!(disk.replace(path("/d/a"), &[2; 700]).is_err());
            let found = disk.crash(keep, seed).read(path("/d/a")).unwrap();
            assert!(found == [1; 1_500] || found == [2; 700], "cut {cut}, {keep} %, seed {seed}");
            outcomes.insert(found.len());
        }
    }
    assert_eq!(outcomes.len(), 2, "both ends were seen");
}

#[test]
fn a_watcher_takes_images_between_any_two_calls_and_the_disk_goes_on() {
    let disk = SimDisk::new();
    let images = Arc::new(Mutex::new(Vec::new()));
    let taken = Arc::clone(&images);
    disk.watch(move |disk, call| {
        if call.operation.is_mutating() {
            taken.lock().unwrap().push((call.operation, disk.image(0, 1)));
        }
    });
    let (dir, path) = (Path::new("/d"), Path::new("/d/f"));
    disk.create_dir_all(dir).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    let file = disk.open(path, OpenMode::CreateNew).unwrap();
    disk.sync_dir(dir).unwrap();
    file.write_all_at(b"durable", 0).unwrap();
    file.sync_all().unwrap();
    disk.unwatch();
    file.write_all_at(b"more", 0).unwrap();
    let images = images.lock().unwrap();
    let expected = [
        (Operation::Create, None),
        (Operation::SyncDir, None),
        (Operation::Create, None),
        (Operation::SyncDir, None),
        (Operation::Write, Some(&b""[..])),
        (Operation::Sync, Some(b"")),
    ];
    let found = images.iter().map(|(operation, image)| (*operation, image.read(path).ok()));
    let expected = expected.map(|(operation, bytes)| (operation, bytes.map(<[u8]>::to_vec)));
    assert_eq!(found.collect::<Vec<_>>(), expected);
    assert_eq!(disk.image(0, 1).read(path).unwrap(), b"durable");
    assert_eq!(disk.read(path).unwrap(), b"moreble");
}
