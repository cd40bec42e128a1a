//! What every `Disk` does alike: each check runs on the real and on the simulated one.

use std::io::{ErrorKind, IoSlice};
use std::path::Path;

use holdfast_env::real::RealDisk;
use holdfast_env::sim::SimDisk;
use holdfast_env::{Disk, OpenMode};

/// Runs `check` on both disks, each in an empty directory.
fn on_both(check: impl Fn(&dyn Disk, &Path)) {
    let directory = tempfile::tempdir().unwrap();
    check(&RealDisk, directory.path());
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/data")).unwrap();
    check(&disk, Path::new("/data"));
}

#[test]
fn what_is_written_is_read_back_at_any_offset() {
    on_both(|disk, dir| {
        let file = disk.open(&dir.join("a"), OpenMode::CreateNew).unwrap();
        let parts = [vec![1u8; 5_000], vec![2; 3], vec![3; 9_000]];
        let slices: Vec<IoSlice<'_>> = parts.iter().map(|p| IoSlice::new(p)).collect();
        file.write_all_vectored_at(&slices, 10).unwrap();
        assert_eq!(file.len().unwrap(), 14_013);
        let mut bytes = vec![9; 14_013];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let expected = [&[0; 10][..], &parts.concat()].concat();
        assert_eq!(bytes, expected);
        let beyond = file.read_exact_at(&mut [0; 2], 14_012).unwrap_err();
        assert_eq!(beyond.kind(), ErrorKind::UnexpectedEof);
    });
}

#[test]
fn open_modes_create_and_refuse_as_they_say() {
    on_both(|disk, dir| {
        let path = dir.join("a");
        let missing = disk.open(&path, OpenMode::Read).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        assert_eq!(disk.open(&path, OpenMode::Write).unwrap_err().kind(), ErrorKind::NotFound);
        disk.open(&path, OpenMode::CreateOrOpen).unwrap().write_all_at(b"x", 0).unwrap();
        let taken = disk.open(&path, OpenMode::CreateNew).unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
        assert_eq!(disk.open(&path, OpenMode::CreateOrOpen).unwrap().len().unwrap(), 1);
        let reader = disk.open(&path, OpenMode::Read).unwrap();
        assert!(reader.write_all_at(b"y", 0).is_err());
        assert_eq!(disk.read(&path).unwrap(), b"x");
    });
}

#[test]
fn lengths_are_cut_grown_and_allocated_with_zeros() {
    on_both(|disk, dir| {
        let file = disk.open(&dir.join("a"), OpenMode::CreateNew).unwrap();
        file.write_all_at(&[7; 6_000], 0).unwrap();
        file.set_len(5_000).unwrap();
        file.allocate(10_000).unwrap();
        file.allocate(100).unwrap();
        assert_eq!(file.len().unwrap(), 10_000, "allocation never cuts");
        let bytes = disk.read(&dir.join("a")).unwrap();
        assert_eq!(bytes[..5_000], [7; 5_000]);
        assert_eq!(bytes[5_000..], [0; 5_000]);
    });
}

#[test]
fn rename_replaces_files_and_moves_directories() {
    on_both(|disk, dir| {
        disk.replace(&dir.join("a"), b"old").unwrap();
        disk.replace(&dir.join("a"), b"new").unwrap();
        assert_eq!(disk.read(&dir.join("a")).unwrap(), b"new");
        disk.create_dir_all(&dir.join("x/y")).unwrap();
        disk.rename(&dir.join("a"), &dir.join("x/y/b")).unwrap();
        disk.rename(&dir.join("x"), &dir.join("z")).unwrap();
        assert_eq!(disk.list(dir).unwrap(), [dir.join("z")]);
        assert_eq!(disk.read(&dir.join("z/y/b")).unwrap(), b"new");
        let missing = disk.rename(&dir.join("x"), &dir.join("w")).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    });
}

#[test]
fn a_file_lives_until_its_last_name_and_handle_are_gone() {
    on_both(|disk, dir| {
        disk.replace(&dir.join("a"), b"text").unwrap();
        let handle = disk.open(&dir.join("a"), OpenMode::Read).unwrap();
        disk.hard_link(&dir.join("a"), &dir.join("b")).unwrap();
        let taken = disk.hard_link(&dir.join("a"), &dir.join("b")).unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
        disk.remove_file(&dir.join("a")).unwrap();
        assert_eq!(disk.read(&dir.join("b")).unwrap(), b"text");
        disk.remove_file(&dir.join("b")).unwrap();
        assert!(!disk.exists(&dir.join("b")).unwrap());
        assert_eq!(handle.len().unwrap(), 4);
    });
}

#[test]
fn a_tree_is_removed_with_everything_in_it() {
    on_both(|disk, dir| {
        disk.create_dir_all(&dir.join("t/u")).unwrap();
        disk.create_dir_all(&dir.join("t/u")).unwrap();
        disk.replace(&dir.join("t/u/f"), b"1").unwrap();
        disk.replace(&dir.join("t/g"), b"2").unwrap();
        assert_eq!(disk.list(&dir.join("t")).unwrap(), [dir.join("t/g"), dir.join("t/u")]);
        disk.remove_dir_all(&dir.join("t")).unwrap();
        assert!(!disk.exists(&dir.join("t")).unwrap());
        let missing = disk.remove_dir_all(&dir.join("t")).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        assert_eq!(disk.list(&dir.join("t")).unwrap_err().kind(), ErrorKind::NotFound);
    });
}

#[test]
fn a_lock_excludes_until_it_is_dropped() {
    on_both(|disk, dir| {
        let held = disk.lock(&dir.join("LOCK")).unwrap();
        let refused = disk.lock(&dir.join("LOCK")).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::WouldBlock);
        drop(held);
        disk.lock(&dir.join("LOCK")).unwrap();
    });
}

#[test]
fn space_is_never_more_available_than_there_is() {
    on_both(|disk, dir| {
        let space = disk.space(dir).unwrap();
        assert!(space.total_bytes > 0 && space.available_bytes <= space.total_bytes);
    });
}
