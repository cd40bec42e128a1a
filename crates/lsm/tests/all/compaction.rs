//! What compactions keep, drop and leave alone.

use bytes::Bytes;
use holdfast_lsm::{CompactionStyle, EngineOptions, ExpiresAt, Family, JobKind, Pressure};

use crate::harness::{World, check, check_changes, files_of, small_options};

fn data_records(world: &World) -> u64 {
    world.engine.stats().records
}

fn overwrite(world: &mut World, rounds: u32) {
    for round in 0..rounds {
        for n in 0..100 {
            world.put(&format!("key-{n:03}"), &format!("value {n} of round {round:04}, padded"));
        }
        world.flush();
    }
}

#[test]
fn versions_are_kept_until_the_watermark_passes_and_then_leave_the_last_level() {
    let mut world = World::new(small_options());
    overwrite(&mut world, 10);
    world.check();
    assert_eq!(data_records(&world), 1_000, "history is kept below the watermark");
    world.set_watermark(world.model.point.revision.0);
    world.work().unwrap();
    world.check();
    assert!(data_records(&world) <= 300, "few versions beside the newest are left");
    assert!(world.engine.stats().dropped_records >= 700);
}

#[test]
fn deleted_data_gives_its_place_back() {
    let mut world = World::new(small_options());
    overwrite(&mut world, 4);
    let full = world.engine.stats().level_bytes.iter().sum::<u64>();
    for n in 0..100 {
        let key = Bytes::from(format!("key-{n:03}"));
        world.write(&[(Family::Data, key, None)]);
    }
    world.put("the last", "one");
    world.set_watermark(world.model.point.revision.0);
    world.flush();
    world.check();
    let left = world.engine.stats().level_bytes.iter().sum::<u64>();
    assert!(left * 10 < full, "{left} of {full} bytes are left");
    assert_eq!(data_records(&world), 1);
}

#[test]
fn tables_shrink_to_nothing_while_nothing_is_written_and_only_the_watermark_moves() {
    let options = EngineOptions { memtable_bytes: 8 << 20, ..small_options() };
    let mut world = World::new(options);
    let keys: Vec<Bytes> = (0..3_000).map(|n| Bytes::from(format!("key-{n:05}"))).collect();
    for part in keys.chunks(100) {
        let put = |key: &Bytes| (Family::Data, key.clone(), Some(Bytes::from(vec![b'v'; 90])));
        world.write(&part.iter().map(put).collect::<Vec<_>>());
    }
    world.flush();
    let full = world.engine.stats().level_bytes.iter().sum::<u64>();
    for part in keys.chunks(100) {
        let delete = |key: &Bytes| (Family::Data, key.clone(), None);
        world.write(&part.iter().map(delete).collect::<Vec<_>>());
    }
    let newest = world.model.point.revision.0;
    for watermark in [newest / 2, newest - 1] {
        world.set_watermark(watermark);
        world.work().unwrap();
        assert!(world.engine.stats().memtable_bytes > 0, "history is still kept");
    }
    world.set_watermark(newest);
    world.work().unwrap();
    let left = world.engine.stats().level_bytes.iter().sum::<u64>();
    assert!(left * 20 < full, "{left} of {full} bytes: {:?}", world.engine.stats());
    world.check();
}

/// Values are their expiry in ms and filler.
fn first_number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.split(' ').next()?.parse().ok()
}

/// What is left of a table of expired keys, a third of which are deleted, beneath as many live
/// ones: too few tombstones to count by themselves.
fn left_beneath_live_keys(options: EngineOptions) -> (u64, World) {
    let options = EngineOptions { memtable_bytes: 8 << 20, level0_tables: 4, ..options };
    let mut world = World::new(options);
    let key = |n: u32, kind: &str| Bytes::from(format!("key-{n:05}-{kind}"));
    let value = |at: u32| Some(Bytes::from(format!("{at} {}", "v".repeat(80))));
    for n in 0..1_000 {
        world.write(&[(Family::Data, key(n, "mortal"), value(5_000))]);
    }
    for _ in 0..4 {
        world.put("another", "table");
        world.flush();
    }
    assert_eq!(world.engine.stats().level_tables[0], 0);
    for n in 0..1_000 {
        world.write(&[(Family::Data, key(n, "live"), value(90_000_000))]);
        if n % 3 == 0 {
            world.write(&[(Family::Data, key(n, "mortal"), None)]);
        }
    }
    world.put("the last", "one");
    world.flush();
    world.set_watermark(world.model.point.revision.0);
    world.work().unwrap();
    (world.engine.stats().records, world)
}

#[test]
fn tombstones_come_down_early_to_what_has_expired_and_nothing_else_is_lost() {
    let expires_at = Some(ExpiresAt(first_number));
    let (guided, world) = left_beneath_live_keys(EngineOptions { expires_at, ..small_options() });
    let (unguided, _) = left_beneath_live_keys(small_options());
    assert!(unguided > 2_300, "they wait for more to come: {unguided} records");
    assert!(guided < 1_700, "{guided} records");
    let gone_by = world.model.point.clock_ms;
    assert!(gone_by > 5_000);
    world.check();
    let at = world.model.point;
    let expired = world.engine.get(Family::Data, b"key-00001-mortal", at).unwrap();
    assert!(expired.is_some(), "expired, and not deleted: it stays");
}

#[test]
fn tombstones_come_down_early_to_what_has_expired_in_blob_files() {
    let options = EngineOptions { blob_bytes_min: 64, ..small_options() };
    let expires_at = Some(ExpiresAt(first_number));
    let (guided, world) = left_beneath_live_keys(EngineOptions { expires_at, ..options.clone() });
    let (unguided, _) = left_beneath_live_keys(options);
    assert!(world.engine.stats().blob_files > 0);
    assert!(unguided > 2_300, "they wait for more to come: {unguided} records");
    assert!(guided < 1_700, "{guided} records");
    world.check();
}

#[test]
fn internal_families_keep_one_record_per_key_and_no_tombstones() {
    let mut world = World::new(small_options());
    for round in 0..20u32 {
        for family in [Family::Session, Family::Expiry, Family::Meta] {
            for n in 0..20 {
                let value = ((n + round) % 4 != 0).then(|| Bytes::from(vec![n as u8; 50]));
                world.write(&[(family, Bytes::from(format!("key-{n}")), value)]);
            }
        }
        world.flush();
    }
    for family in [Family::Session, Family::Expiry, Family::Meta] {
        for n in 0..20 {
            world.write(&[(family, Bytes::from(format!("key-{n}")), None)]);
        }
    }
    world.put("data", "stays");
    for _ in 0..small_options().level0_tables {
        world.put("more", "of it");
        world.flush();
    }
    world.check();
    let families = [Family::Session, Family::Expiry, Family::Meta];
    assert!(families.iter().all(|f| world.model.live(*f, world.model.point).is_empty()));
    assert!(data_records(&world) <= 4, "{:?}", world.engine.stats());
}

#[test]
fn tables_that_overlap_nothing_move_down_without_being_rewritten() {
    let mut world = World::new(small_options());
    for n in 0..3_000 {
        world.put(&format!("key-{n:06}"), &format!("{:0100}", n * 7919));
        world.work().unwrap();
    }
    let stats = world.engine.stats();
    assert!(stats.moves > 10, "{stats:?}");
    let rewritten = stats.compacted_bytes_out as f64 / stats.flushed_bytes as f64;
    assert!(rewritten < 0.5, "{rewritten} bytes rewritten per byte flushed");
    world.check();
}

#[test]
fn levels_come_to_their_sizes_and_level_zero_stays_short() {
    let mut world = World::new(small_options());
    for n in 0..6_000u32 {
        let key = n.wrapping_mul(2_654_435_761) % 2_000;
        world.put(&format!("key-{key:06}"), &format!("{:0100}", n * 7919));
        if n % 100 == 0 {
            world.set_watermark(world.model.point.revision.0 - 50.min(u64::from(n)));
        }
        world.work().unwrap();
    }
    let stats = world.engine.stats();
    assert!(stats.level_tables[0] < small_options().level0_tables as u64, "{stats:?}");
    assert_eq!(stats.debt_bytes, 0, "{stats:?}");
    let used = stats.level_bytes.iter().skip(1).filter(|b| **b > 0).count();
    assert!(used >= 2, "several levels are used: {stats:?}");
    let upper: u64 = stats.level_bytes[1..6].iter().sum();
    assert!(upper < stats.level_bytes[6], "most data lies in the last level: {stats:?}");
    world.check();
}

#[test]
fn filters_spare_most_looks_for_missing_keys() {
    let mut world = World::new(small_options());
    overwrite(&mut world, 1);
    let before = world.engine.stats();
    for n in 0..1_000 {
        let key = format!("key-050-missing-{n}");
        assert_eq!(
            world.engine.get(Family::Data, key.as_bytes(), world.model.point).unwrap(),
            None
        );
    }
    let after = world.engine.stats();
    let checks = after.filter_checks - before.filter_checks;
    let useful = after.filter_useful - before.filter_useful;
    assert!(checks >= 1_000 && useful * 100 >= checks * 95, "{useful} of {checks}");
}

#[test]
fn obsolete_files_are_deleted_by_a_job_after_the_last_reader_left() {
    let mut world = World::new(small_options());
    overwrite(&mut world, 1);
    let old = files_of(&world.disk, &world.dir, ".tbl");
    let range = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
    let mut scan = world.engine.scan(Family::Data, range, world.model.point, false).unwrap();
    assert!(scan.next().is_some());
    let expected = world.model.live(Family::Data, world.model.point);
    world.set_watermark(u64::from(u32::MAX));
    overwrite(&mut world, 5);
    let exists = |path: &std::path::PathBuf| holdfast_env::Disk::exists(&world.disk, path).unwrap();
    assert!(old.iter().all(exists), "a scan still reads them");
    let rest: Vec<_> = scan.map(Result::unwrap).collect();
    assert_eq!(rest, expected[1..], "the scan goes on over the version it began with");
    let job = world.engine.next_job().unwrap();
    assert_eq!(job.kind(), JobKind::Cleaning);
    job.run().unwrap();
    assert!(!old.iter().any(exists));
}

#[test]
fn jobs_of_a_replaced_generation_change_nothing() {
    let mut source = World::new(small_options());
    overwrite(&mut source, 3);
    let checkpoint = std::path::Path::new("/data/checkpoint");
    source.engine.checkpoint(checkpoint).unwrap();
    let staged = checkpoint.join("gen-0000000001");
    source.put("lost", "with the old generation");
    source.engine.seal();
    let job = source.engine.next_job().unwrap();
    assert_eq!(job.kind(), JobKind::Flush);
    let old = files_of(&source.disk, &source.dir, "MANIFEST");
    let point = source.engine.replace_from(&staged, 0).unwrap();
    job.run().unwrap();
    source.model.families.get_mut(&Family::Data).unwrap().remove(&b"lost"[..]);
    source.model.point = point;
    check(&source.engine, &source.model);
    source.work().unwrap();
    assert!(!holdfast_env::Disk::exists(&source.disk, &old[0]).unwrap(), "it is cleaned away");
    assert_eq!(source.engine.stats().generation, 2);
    source.restart();
    source.check();
}

#[test]
fn a_job_that_is_dropped_is_handed_out_again() {
    let mut world = World::new(small_options());
    world.put("a", "1");
    world.engine.seal();
    let job = world.engine.next_job().unwrap();
    assert!(world.engine.next_job().is_none(), "one flush at a time");
    drop(job);
    world.work().unwrap();
    assert_eq!(world.engine.durable_point(), world.model.point);
}

#[test]
fn pressure_rises_while_flushes_are_held_back() {
    let mut world = World::new(small_options());
    world.durable.store(0, std::sync::atomic::Ordering::Relaxed);
    let mut seen = vec![world.engine.pressure()];
    let mut slope = vec![world.engine.overload_milli()];
    for n in 0..8 {
        world.put("key", &n.to_string());
        world.engine.seal();
        seen.push(world.engine.pressure());
        slope.push(world.engine.overload_milli());
    }
    assert!(seen.is_sorted());
    assert_eq!((seen[0], seen[8]), (Pressure::None, Pressure::Stop));
    assert!(slope.is_sorted() && (slope[0], slope[8]) == (0, 1_000), "{slope:?}");
    assert!(slope.windows(2).all(|pair| pair[1] - pair[0] <= 200), "{slope:?}");
    world.durable.store(u64::MAX, std::sync::atomic::Ordering::Relaxed);
    world.work().unwrap();
    assert_eq!(world.engine.pressure(), Pressure::None);
}

#[test]
fn recent_changes_are_found_without_reading_old_blocks_or_their_partitions() {
    let options = EngineOptions { table_bytes: 256 << 10, ..small_options() };
    let mut world = World::new(options);
    for n in 0..2_000 {
        world.put(&format!("key-{n:06}"), &format!("{:060}", n * 7919));
    }
    world.flush();
    let reads = |work: &dyn Fn()| {
        let before = world.disk.counters().reads;
        work();
        world.disk.counters().reads - before
    };
    let all = reads(&|| check_changes(&world.engine, &world.model, 0, 2_000));
    let recent = reads(&|| check_changes(&world.engine, &world.model, 1_995, 2_000));
    assert!(recent <= 20 && all > 1_000, "{recent} and {all} reads");
}

/// Bytes rewritten per byte flushed, after many more bytes than level 0 holds.
fn rewritten(style: CompactionStyle) -> f64 {
    let options = EngineOptions { table_bytes: 64 << 10, ..small_options() };
    let mut world = World::new(EngineOptions { compaction_style: style, ..options });
    for n in 0..2_000u32 {
        let key = n.wrapping_mul(2_654_435_761) % 2_047;
        world.put(&format!("key-{key:06}"), &format!("{:0100}", n * 7919));
        world.work().unwrap();
    }
    world.check();
    let stats = world.engine.stats();
    assert!(stats.level_tables[0] < small_options().level0_tables as u64, "{stats:?}");
    stats.compacted_bytes_out as f64 / stats.flushed_bytes as f64
}

#[test]
fn tiered_trees_rewrite_less_than_leveled_ones() {
    let (leveled, tiered) =
        (rewritten(CompactionStyle::Leveled), rewritten(CompactionStyle::Tiered));
    assert!(tiered < leveled * 0.75, "{tiered} tiered, {leveled} leveled");
}

#[test]
fn tree_may_change_its_style_at_any_opening() {
    let mut world = World::new(small_options());
    for style in [
        CompactionStyle::Leveled,
        CompactionStyle::Tiered,
        CompactionStyle::Leveled,
        CompactionStyle::Tiered,
    ] {
        world.options.compaction_style = style;
        world.restart();
        for n in 0..300u32 {
            world.put(&format!("key-{:06}", n * 7919 % 700), &format!("{n:0100}"));
            world.work().unwrap();
        }
        world.flush();
        world.check();
    }
}

#[test]
fn tiered_tree_rests_when_its_first_level_is_taken_and_level_zero_is_empty() {
    let style = CompactionStyle::Tiered;
    let mut world = World::new(EngineOptions { compaction_style: style, ..small_options() });
    // Runs that shrink from one to the next fill the levels from the last one up.
    for (round, tables) in [16u32, 12, 8, 6, 5, 4, 3, 2].into_iter().enumerate() {
        for n in 0..tables * 20 {
            world.put(&format!("key-{n:03}-{round}"), &format!("{:0100}", n * 7919));
        }
        world.flush();
        world.put("another", "table");
        world.flush();
    }
    assert_eq!(world.work().unwrap().get("compaction"), None);
    let stats = world.engine.stats();
    assert!(stats.level_tables[0] < 2, "{stats:?}");
    world.check();
}

#[test]
fn pressure_rises_with_what_compactions_have_to_rewrite_and_falls_when_they_have() {
    // Level 0 alone calls for a compaction; nothing else would raise the pressure.
    let options =
        EngineOptions { level0_tables_slow: 1_000, debt_bytes_slow: 8 << 10, ..small_options() };
    let mut world = World::new(options);
    let mut seen = vec![world.engine.pressure()];
    for round in 0..16u32 {
        for n in 0..60 {
            world.put(&format!("key-{n:03}"), &format!("{:060}", n * 7919 + round));
        }
        world.engine.seal();
        let job = world.engine.next_job().unwrap();
        assert_eq!(job.kind(), JobKind::Flush);
        job.run().unwrap();
        seen.push(world.engine.pressure());
    }
    assert!(seen.is_sorted(), "{seen:?}");
    assert!(seen.contains(&Pressure::Slow) && seen.last() == Some(&Pressure::Stop), "{seen:?}");
    world.work().unwrap();
    assert_eq!(world.engine.pressure(), Pressure::None);
}

#[test]
fn filters_of_level_zero_stay_in_memory_and_those_below_leave_it() {
    let options =
        EngineOptions { resident_index_bytes: 0, memtable_bytes: 8 << 10, ..small_options() };
    // Keys in order are moved down, keys all over are merged down.
    for factor in [1, 7919] {
        let mut world = World::new(options.clone());
        for n in 0..100 {
            world.put(&format!("key-{:03}", n * factor % 1_000), &format!("{:060}", n * 7919));
        }
        world.flush();
        let stats = world.engine.stats();
        assert!(stats.level_tables[0] == 0 || stats.filter_bytes > 0, "{stats:?}");
        while world.engine.stats().level_tables[0] != 1 {
            world.put("key-500", &format!("{:060}", 1));
            world.flush();
        }
        assert!(world.engine.stats().filter_bytes > 0);
        while world.engine.stats().level_tables[0] != 0 {
            world.put("key-501", &format!("{:060}", 2));
            world.flush();
        }
        let stats = world.engine.stats();
        assert_eq!(stats.filter_bytes, 0, "{stats:?}");
        assert!(stats.partition_bytes > 0);
        world.check();
    }
}
