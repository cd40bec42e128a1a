//! Files are read again and compared with what was written.

use holdfast_env::sim::{Effect, Fault, Operation};
use holdfast_lsm::{Engine, Error, Scrubber};

use crate::harness::{World, files_of, small_options};

fn filled() -> World {
    let mut world = World::new(small_options());
    for n in 0..400u32 {
        let bytes = if n % 10 == 0 { 300 } else { 50 };
        world.put(&format!("key-{:03}", n * 37 % 300), &format!("{n:0bytes$}"));
    }
    world.flush();
    world
}

/// Drives a scrubber through one round in steps of `bytes`; the files it found good.
fn round(scrubber: &mut Scrubber, bytes: u64) -> Result<u64, Error> {
    let mut files = 0;
    for _ in 0..100_000 {
        let step = scrubber.step(bytes)?;
        assert!(step.bytes <= bytes);
        files += step.files;
        if step.is_round_done {
            return Ok(files);
        }
    }
    panic!("a round never ends");
}

fn files(engine: &Engine) -> u64 {
    let stats = engine.stats();
    stats.level_tables.iter().sum::<u64>() + stats.blob_files
}

#[test]
fn one_round_reads_every_file_once_at_the_pace_it_is_told() {
    let world = filled();
    let stats = world.engine.stats();
    let bytes = stats.level_bytes.iter().sum::<u64>() + stats.blob_bytes;
    let mut scrubber = world.engine.scrubber();
    for (rounds, step) in [(1, 100), (2, 1 << 20)] {
        assert_eq!(round(&mut scrubber, step).unwrap(), files(&world.engine));
        let stats = world.engine.stats();
        assert_eq!((stats.scrub_rounds, stats.scrubbed_bytes), (rounds, rounds * bytes));
    }
    assert!(stats.blob_files > 0);
}

#[test]
fn damage_of_any_file_is_found_though_nobody_reads_it() {
    let world = filled();
    let tables = files_of(&world.disk, &world.dir, ".tbl");
    let blobs = files_of(&world.disk, &world.dir, ".blob");
    for path in tables.iter().chain(&blobs) {
        world.disk.flip_bit(path, 60, 2).unwrap();
        let mut scrubber = world.engine.scrubber();
        let error = round(&mut scrubber, 1_000).unwrap_err();
        assert!(error.is_corruption() && error.to_string().contains(&*path.to_string_lossy()));
        // The round goes on with the other files.
        assert!(round(&mut scrubber, 1_000).is_ok());
        world.disk.flip_bit(path, 60, 2).unwrap();
    }
    assert!(round(&mut world.engine.scrubber(), 1_000).is_ok());
}

#[test]
fn file_that_could_not_be_read_is_tried_again() {
    let world = filled();
    let mut scrubber = world.engine.scrubber();
    let fault = Fault::new(Operation::Read, Effect::Eio).after(3);
    world.disk.inject(fault);
    assert!(round(&mut scrubber, 1_000).is_err());
    world.disk.remove_faults();
    let before = world.engine.stats().scrub_rounds;
    assert!(round(&mut scrubber, 1_000).unwrap() >= 1);
    assert_eq!(world.engine.stats().scrub_rounds, before + 1);
}

#[test]
fn scrubbing_goes_on_while_tables_are_merged_and_deleted() {
    let mut world = filled();
    let mut scrubber = world.engine.scrubber();
    for n in 0..300u32 {
        scrubber.step(700).unwrap();
        world.put(&format!("key-{:03}", n * 7 % 300), &"v".repeat(60));
        if n % 40 == 0 {
            world.set_watermark(world.model.point.revision.0);
            world.flush();
        }
    }
    world.check();
    assert!(world.engine.stats().scrub_rounds > 0);
}
