//! Files written by this version of the formats, kept to be read by every later one.
//!
//! `BLESS=1 cargo test` writes them anew; do that only for a new version of a format.
#![allow(clippy::disallowed_methods)]

use std::path::{Path, PathBuf};

use bytes::Bytes;
use holdfast_env::sim::SimDisk;
use holdfast_env::{Disk, OpenMode};
use holdfast_lsm::{Compression, EngineOptions, Family};

use crate::harness::{World, check, open_engine};

fn options(compression: Compression) -> EngineOptions {
    EngineOptions {
        block_bytes: 256,
        restart_interval: 3,
        blob_bytes_min: 100,
        compression: [compression; 7],
        ..EngineOptions::default()
    }
}

/// A little of everything a table can hold.
fn written(compression: Compression) -> World {
    let mut world = World::new(options(compression));
    for n in 0..20u32 {
        let key = Bytes::from(format!("user/{:02}", n % 8));
        let bytes = if n % 7 == 6 { 120 } else { 40 };
        let value = (n % 5 != 4).then(|| Bytes::from(vec![b'0' + (n % 10) as u8; bytes]));
        let applied = (Family::Meta, Bytes::from("applied"), Some(Bytes::from(n.to_string())));
        let lease = (Family::Lease, Bytes::from(format!("lease-{n}")), Some(Bytes::new()));
        world.write(&[(Family::Data, key, value), applied, lease]);
    }
    world.delete_range(Family::Data, "user/02", "user/04");
    world.delete_range(Family::Lease, "lease-0", "lease-14");
    world.set_watermark(12);
    world.flush();
    world
}

fn golden_dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

const FILES: [&str; 4] = [
    "CURRENT",
    "gen-0000000001/MANIFEST",
    "gen-0000000001/0000000001.tbl",
    "gen-0000000001/0000000002.blob",
];

/// The engine's files, the manifest without its reserved zeros.
fn files(world: &World) -> Vec<(&'static str, Vec<u8>)> {
    let read = |name: &&'static str| {
        let mut bytes = world.disk.read(&world.dir.join(name)).unwrap();
        if name.ends_with("MANIFEST") {
            let end = bytes.iter().rposition(|b| *b != 0).unwrap() + 1;
            bytes.truncate(end);
        }
        (*name, bytes)
    };
    FILES.iter().map(read).collect()
}

fn stored_name(name: &str) -> String {
    name.replace('/', "-")
}

fn bless(name: &str, world: &World) {
    if std::env::var_os("BLESS").is_none() {
        return;
    }
    let dir = golden_dir(name);
    std::fs::create_dir_all(&dir).unwrap();
    for (name, bytes) in files(world) {
        std::fs::write(dir.join(stored_name(name)), bytes).unwrap();
    }
}

fn stored(name: &str, file: &str) -> Vec<u8> {
    std::fs::read(golden_dir(name).join(stored_name(file))).unwrap()
}

#[test]
fn formats_of_version_1_are_written_byte_for_byte() {
    let world = written(Compression::None);
    bless("v1", &world);
    for (name, bytes) in files(&world) {
        assert!(bytes == stored("v1", name), "{name} is written differently");
    }
}

#[test]
fn files_of_version_1_are_read_as_they_were_written() {
    for (name, compression) in [("v1", Compression::None), ("v1-lz4", Compression::Lz4)] {
        let world = written(compression);
        bless(name, &world);
        let disk = SimDisk::new();
        disk.create_dir_all(&world.dir.join("gen-0000000001")).unwrap();
        for file in FILES {
            let handle = disk.open(&world.dir.join(file), OpenMode::CreateNew).unwrap();
            handle.write_all_at(&stored(name, file), 0).unwrap();
        }
        let engine =
            open_engine(&disk, &world.dir, &world.durable, &options(compression), 3).unwrap();
        assert_eq!(engine.watermark().0, 12);
        check(&engine, &world.model);
    }
}
