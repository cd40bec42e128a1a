//! Segments used again and again: what that costs, and how large the journal gets.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use holdfast_journal::{CLIENT_USAGE_PERCENT_MAX, Error, JournalOptions, Stats};

use crate::rig::{DIR, Rig, at, entries, group, ignore, small};

/// Lengths of all segment files of the journal together.
fn disk_bytes(rig: &Rig) -> u64 {
    let files = rig.disk.files(Path::new(DIR)).unwrap();
    let segments = files.iter().filter(|(path, _)| path.extension().is_some());
    segments.map(|(_, bytes)| bytes.len() as u64).sum()
}

fn next_index(rig: &Rig, number: u64) -> u64 {
    rig.journal.log_state(group(number)).last.map_or(1, |last| last.index + 1)
}

/// Queues an entry of `bytes` without writing it; false when there is no room.
fn queue(rig: &Rig, number: u64, bytes: usize) -> bool {
    let next = next_index(rig, number);
    match rig.journal.append(group(number), entries(1, next..next + 1, bytes), ignore()) {
        Ok(()) => true,
        Err(Error::Full { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

/// Appends an entry of `bytes`, and settles.
fn append(rig: &mut Rig, number: u64, bytes: usize) -> bool {
    let queued = queue(rig, number, bytes);
    rig.settle();
    queued
}

/// Appends an entry, and purges all but the last `kept` entries.
fn turn_over(rig: &mut Rig, number: u64, bytes: usize, kept: u64) {
    assert!(append(rig, number, bytes));
    let last = next_index(rig, number) - 1;
    if last > kept {
        rig.journal.purge(group(number), at(1, last - kept)).unwrap();
    }
}

#[test]
fn in_the_steady_state_an_append_is_one_write_and_one_sync_and_no_file_is_made() {
    let mut rig = Rig::new(small());
    rig.create(1);
    for _ in 0..200 {
        turn_over(&mut rig, 1, 800, 3);
    }
    let (before, size) = (rig.journal.stats(), disk_bytes(&rig));
    let (mut plain, mut turns) = (0, 0);
    let names = rig.disk.counters().directory_syncs;
    for _ in 0..400 {
        let (segments, counters) = (rig.journal.stats().segments_freed, rig.disk.counters());
        let current = rig.journal.stats().segments_used;
        turn_over(&mut rig, 1, 800, 3);
        let now = rig.disk.counters();
        let stats = rig.journal.stats();
        if stats.segments_freed == segments && stats.segments_used == current {
            plain += 1;
            assert_eq!(now.mutations - counters.mutations, 2, "one write and one sync");
            assert_eq!((now.writes - counters.writes, now.syncs - counters.syncs), (1, 1));
        } else {
            turns += 1;
        }
        assert_eq!(disk_bytes(&rig), size, "no file grew, none was made, none was removed");
    }
    let after = rig.journal.stats();
    assert!(after.segments_freed >= before.segments_freed + 10, "segments were used again");
    assert_eq!(after.segments_made, before.segments_made);
    let names = rig.disk.counters().directory_syncs - names;
    let freed = after.segments_freed - before.segments_freed;
    assert!(names <= 2 * freed + 2, "a new name when it is begun, and one when it is free");
    assert!(plain > 300 && turns >= 10, "{plain} plain appends, {turns} with a new segment");
}

#[test]
fn a_log_that_grows_and_shrinks_keeps_its_files_for_the_next_time() {
    let options = JournalOptions { limit_bytes: 64 * small().segment_bytes, ..small() };
    let mut rig = Rig::new(options);
    let g = rig.create(1);
    let wave = |rig: &mut Rig| {
        for _ in 0..100 {
            assert!(append(rig, 1, 800));
        }
        rig.journal.purge(g, at(1, next_index(rig, 1) - 1)).unwrap();
        rig.rest();
    };
    // How many segments a wave takes depends on where it begins.
    for _ in 0..4 {
        wave(&mut rig);
    }
    let made = rig.journal.stats().segments_made;
    for _ in 0..20 {
        wave(&mut rig);
    }
    assert_eq!(rig.journal.stats().segments_made, made);
    assert!(rig.journal.stats().segments_spare <= 8, "an eighth of the limit");
}

#[test]
fn a_block_is_written_whole_by_the_first_batch_that_touches_it() {
    let mut rig = Rig::new(small());
    rig.create(1);
    for _ in 0..400 {
        turn_over(&mut rig, 1, 40, 3);
    }
    // Behind the last batch in use nothing is left of an earlier use of the block.
    let files = rig.disk.files(Path::new(DIR)).unwrap();
    let newest = files.keys().rev().find(|path| path.extension().is_some_and(|e| e == "journal"));
    let inspector =
        holdfast_journal::SegmentInspector::open(rig.disk.as_ref(), newest.unwrap()).unwrap();
    let end = inspector.map(|batch| batch.offset + batch.bytes).last().unwrap();
    let content = &files[newest.unwrap()];
    let block = end.next_multiple_of(4096) as usize;
    assert!(block > end as usize, "the test ends in the middle of a block");
    assert!(content[end as usize..block].iter().all(|byte| *byte == 0));
    assert!(rig.journal.stats().segments_freed > 3, "the file was used before");
}

/// Bytes moved for each byte that callers had written.
fn amplification(before: Stats, after: Stats) -> f64 {
    let moved = (after.rewritten_bytes - before.rewritten_bytes) as f64;
    let written = (after.bytes_written - before.bytes_written) as f64;
    moved / (written - moved)
}

#[test]
fn an_idle_log_is_passed_over_not_moved_round_and_round() {
    let options = JournalOptions { limit_bytes: 40 * small().segment_bytes, ..small() };
    // Segments the idle log takes; most that may be moved for each byte written.
    for (segments, most) in [(2, 0.1), (10, 0.3), (20, 0.8), (28, 1.6)] {
        let mut rig = Rig::new(options.clone());
        let (idle, busy) = (rig.create(1), rig.create(2));
        while rig.journal.stats().segments_used <= segments {
            assert!(append(&mut rig, 1, 960));
        }
        let (before, held) = (rig.journal.stats(), rig.journal.group_bytes(idle));
        for _ in 0..2_000 {
            turn_over(&mut rig, 2, 960, 3);
        }
        let after = rig.journal.stats();
        let ratio = amplification(before, after);
        assert!(ratio <= most, "{segments} idle segments: {ratio} bytes moved for each written");
        assert_eq!(rig.journal.group_bytes(idle), held);
        assert!(disk_bytes(&rig) <= rig.journal.limit());
        // Whoever is to be flushed and purged is said; after that the segments come back.
        rig.journal.purge(busy, at(1, next_index(&rig, 2) - 1)).unwrap();
        rig.rest();
        assert_eq!(rig.journal.pins()[0].0, idle);
        rig.journal.purge(idle, at(1, next_index(&rig, 1) - 1)).unwrap();
        rig.rest();
        assert!(rig.journal.stats().segments_used <= 3, "{:?}", rig.journal.stats());
    }
}

#[test]
fn at_most_four_bytes_are_moved_for_each_that_died_however_the_dead_are_spread() {
    // A batch of one such entry leaves no gap: moved records lie no closer than others.
    const PAYLOAD: usize = 1400;
    const GROUPS: u64 = 29;
    let options = JournalOptions { limit_bytes: 40 * small().segment_bytes, ..small() };
    let mut rig = Rig::new(options);
    // Each group fills a segment; then all of them turn over slowly: the dead lie everywhere.
    for number in 1..=GROUPS {
        rig.create(number);
        while rig.journal.stats().segments_used <= number {
            assert!(append(&mut rig, number, PAYLOAD));
        }
    }
    let before = rig.journal.stats();
    for round in 0..3_000 {
        let number = round * 11 % GROUPS + 1;
        assert!(append(&mut rig, number, PAYLOAD));
        let first = rig.journal.log_state(group(number)).purged.map_or(1, |p| p.index + 1);
        rig.journal.purge(group(number), at(1, first)).unwrap();
    }
    let moved = rig.journal.stats().rewritten_bytes - before.rewritten_bytes;
    let ratio = moved as f64 / (3_000 * (64 + PAYLOAD)) as f64;
    assert!(ratio > 1.0, "the test moves a lot: {ratio}");
    assert!(ratio <= 4.0, "{ratio} bytes moved for each written");
}

#[test]
fn nothing_large_is_moved_while_there_is_room() {
    let options = JournalOptions { limit_bytes: 40 * small().segment_bytes, ..small() };
    let mut rig = Rig::new(options);
    rig.create(1);
    rig.create(2);
    while rig.journal.stats().segments_used < 6 {
        assert!(append(&mut rig, 1, 960));
    }
    while rig.journal.stats().segments_used < 27 {
        turn_over(&mut rig, 2, 960, 3);
    }
    assert_eq!(rig.journal.stats().rewritten_records, 0);
    assert_eq!(rig.journal.pins()[0].0, group(1), "it says who keeps the segments");
}

#[test]
fn entries_of_any_size_never_begin_the_reserve_and_leave_no_room_unused() {
    let segment = small().segment_bytes;
    for segments in 4..9 {
        for payload in [0, 1, 100, 447, 1000, 3333, 8192] {
            let limit_bytes = segments * segment;
            let options = JournalOptions { limit_bytes, queue_bytes_max: segment, ..small() };
            let mut rig = Rig::new(options);
            rig.create(1);
            let many = |rig: &Rig| (0..9).take_while(|_| queue(rig, 1, payload)).count();
            while many(&rig) > 0 {
                rig.settle();
                assert!(disk_bytes(&rig) <= limit_bytes);
            }
            let stats = rig.journal.stats();
            assert_eq!(stats.segments_spare, 1, "the reserve is whole: {payload} {stats:?}");
            assert_eq!(stats.segments_used, segments - 1);
            // What is left of the last segment is less than such an entry and its gap.
            let left = (segments - 1) * segment - rig.journal.usage();
            let lost = (2 * (64 + payload.next_multiple_of(8)) + 2 * 584) as u64;
            assert!(left <= lost, "{left} bytes are left to entries of {payload}");
            assert!(rig.journal.stats().refused > 0);
        }
    }
}

#[test]
fn clients_are_refused_from_nine_tenths_of_the_limit_on_to_the_byte() {
    let options = JournalOptions { limit_bytes: 40 * small().segment_bytes, ..small() };
    let mut rig = Rig::new(options);
    rig.create(1);
    let threshold = rig.journal.limit() / 100 * CLIENT_USAGE_PERCENT_MAX;
    let (mut below, mut above) = (0, u64::MAX);
    while append(&mut rig, 1, 300) {
        match rig.journal.accepts_writes() {
            true => below = rig.journal.usage().max(below),
            false => above = rig.journal.usage().min(above),
        }
    }
    assert!(below < threshold && threshold <= above, "{below} < {threshold} <= {above}");
    assert!(above - below <= 512, "one batch lies between");
}

#[test]
fn votes_and_truncations_take_one_segment_beyond_the_limit_at_most() {
    for segments in [4, 6, 12] {
        let limit_bytes = segments * small().segment_bytes;
        let mut rig = Rig::new(JournalOptions { limit_bytes, ..small() });
        for number in 1..=20 {
            rig.create(number);
        }
        while append(&mut rig, 1, 960) {}
        let held = rig.journal.group_bytes(group(1));
        for round in 0..200_u32 {
            for number in 1..=20 {
                let vote = Bytes::copy_from_slice(&round.to_le_bytes());
                rig.journal.save_vote(group(number), vote, ignore()).unwrap();
                if number > 1 {
                    rig.journal.truncate_after(group(number), None, ignore()).unwrap();
                }
            }
            rig.settle();
            let size = disk_bytes(&rig);
            assert!(size <= limit_bytes + small().segment_bytes, "{size} bytes of {limit_bytes}");
        }
        assert!(rig.journal.stats().segments_freed > 0, "dead votes were reclaimed");
        assert_eq!(rig.journal.group_bytes(group(1)), held, "no entry was given up for it");
    }
}

#[test]
fn every_statistic_moves() {
    let mut rig = Rig::new(small());
    let first = rig.journal.stats();
    let (one, two) = (rig.create(1), rig.create(2));
    rig.create(3);
    rig.journal.append(two, entries(1, 1..3, 50), ignore()).unwrap();
    rig.settle();
    assert!(queue(&rig, 1, 100));
    let queued = rig.journal.stats();
    assert_eq!((first.queued_bytes, queued.queued_bytes), (0, 168));
    assert!(queued.cached_bytes > first.cached_bytes && queued.live_bytes > first.live_bytes);
    while queue(&rig, 1, 900) {}
    assert_eq!(rig.journal.stats().refused, queued.refused + 1);
    rig.rest();
    for _ in 0..200 {
        turn_over(&mut rig, 1, 900, 2);
    }
    rig.journal.retire_group(group(3));
    rig.disk.set_capacity(Some(0));
    while append(&mut rig, 1, 900) {}
    let now = rig.journal.stats();
    assert_eq!((now.groups, now.hit_groups), (3, 1));
    assert!(now.disk_full && !queued.disk_full);
    assert!(now.segments_used > first.segments_used && now.segments_spare < first.segments_spare);
    assert!(now.segments_made >= queued.segments_made && now.segments_freed > 0);
    assert!(now.records_written > 200 && now.batches_written > 200 && now.syncs > 200);
    assert!(now.bytes_written > 200 * 1024 && now.marks_written > first.marks_written);
    assert!(now.rewritten_records > 0 && now.rewritten_bytes >= 64 * now.rewritten_records);
    assert_eq!(now.sync_times.counts.iter().sum::<u64>(), now.syncs);
    assert_eq!(now.sync_times.total, Duration::ZERO, "the simulated clock stands still");
    assert!(rig.journal.log_state(one).purged.is_some());
}
