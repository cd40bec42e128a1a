//! Bytes that change on the platter: detected, or without effect.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use holdfast_env::sim::SimDisk;
use holdfast_env::{Disk, OpenMode};
use holdfast_journal::{BatchKind, Error, Journal, SegmentInspector};

use crate::rig::{DIR, Rig, at, entries, group, ignore, small};
use crate::world::{World, ops};

/// A world at rest: everything is durable and covered by a mark.
fn at_rest(seed: u64, count: usize) -> World {
    let mut world = World::new(Rig::new(small()));
    let mut work = ops(seed, 10 * count).into_iter();
    for op in work.by_ref().take(count) {
        world.apply(op).unwrap();
    }
    while world.model.len() < 3 {
        world.apply(work.next().unwrap()).unwrap();
    }
    for g in world.rig.journal.groups() {
        let vote = world.rig.journal.vote(g).unwrap_or(Bytes::from_static(b"last"));
        world.rig.journal.save_vote(g, vote, ignore()).unwrap();
    }
    world.rig.rest();
    let journal = &world.rig.journal;
    assert_eq!(journal.groups().len(), world.model.len());
    world
}

fn segments(disk: &SimDisk) -> Vec<(PathBuf, Vec<u8>)> {
    let files = disk.files(Path::new(DIR)).unwrap();
    files.into_iter().filter(|(path, _)| SegmentInspector::is_segment(path)).collect()
}

/// Opens a damaged image: every group is whole or reported. Returns how many were reported, all
/// of them if it did not open.
fn check(image: SimDisk, world: &World, what: &str) -> usize {
    let rig = match Rig::open(Arc::new(image), small()) {
        Ok(rig) => rig,
        Err(error) => {
            assert!(error.is_corruption(), "{what}: {error}");
            return world.model.len();
        }
    };
    for (g, state) in &world.model {
        let hit = rig.recovery.hit.contains(g);
        // A vote that was never saved was set to rest the journal.
        let vote = rig.journal.vote(*g);
        let whole = state.matches(&rig.journal, *g) || vote.as_deref() == Some(b"last");
        assert!(hit || (rig.journal.groups().contains(g) && whole), "{what}: {g} is not whole");
        if hit {
            let refused = rig.journal.append(*g, entries(1, 1..2, 1), ignore());
            assert!(matches!(refused, Err(Error::GroupHit(_))), "{what}");
        }
    }
    rig.recovery.hit.len()
}

#[test]
fn a_flipped_bit_in_any_byte_is_detected_or_harmless() {
    let world = at_rest(5, 90);
    let (mut harmless, mut detected) = (0, 0);
    for (path, bytes) in segments(&world.rig.disk) {
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64 + 1;
        // Behind the last batch is nothing to damage, and of zeros every seventh will do.
        let worth = |offset: &u64| bytes[*offset as usize] != 0 || offset.is_multiple_of(7);
        for offset in (0..used).filter(worth) {
            let image = world.rig.disk.crash(100, 0);
            image.flip_bit(&path, offset, offset as u8).unwrap();
            match check(image, &world, &format!("{} at {offset}", path.display())) {
                0 => harmless += 1,
                _ => detected += 1,
            }
        }
    }
    assert!(harmless > 1000 && detected > 1000, "{harmless} harmless, {detected} detected");
}

#[test]
fn a_lost_or_swapped_block_is_detected_or_harmless() {
    for seed in [6, 7, 8] {
        let world = at_rest(seed, 400);
        let mut detected = 0;
        for (path, bytes) in segments(&world.rig.disk) {
            for block_bytes in [512, 4096] {
                let blocks = bytes.len() as u64 / block_bytes;
                for block in 0..blocks {
                    let what = format!("{}, {block_bytes} B block {block}", path.display());
                    let image = world.rig.disk.crash(100, 0);
                    image.mark_bad(&path, block * block_bytes, block_bytes).unwrap();
                    detected += check(image, &world, &format!("{what} unreadable"));
                    let other = (block * 7 + 3) % blocks;
                    let image = world.rig.disk.crash(100, 0);
                    image.swap_blocks(&path, block_bytes, block, other).unwrap();
                    detected += check(image, &world, &format!("{what} swapped with {other}"));
                }
            }
        }
        assert!(detected > 0);
    }
}

#[test]
fn a_truncated_or_missing_segment_is_detected() {
    let world = at_rest(9, 400);
    let files = segments(&world.rig.disk);
    assert!(files.len() > 2);
    for (path, bytes) in &files {
        for length in (0..bytes.len() as u64).step_by(512) {
            let image = world.rig.disk.crash(100, 0);
            image.truncate(path, length).unwrap();
            check(image, &world, &format!("{} cut to {length}", path.display()));
        }
    }
    for (path, _) in &files {
        let image = world.rig.disk.crash(100, 0);
        image.remove_file(path).unwrap();
        check(image, &world, &format!("{} removed", path.display()));
    }
}

#[test]
fn a_segment_that_is_as_it_was_at_any_time_before_is_detected_or_harmless() {
    for seed in [10, 11, 12] {
        let mut world = World::new(Rig::new(small()));
        let mut before = Vec::new();
        for op in ops(seed, 400) {
            world.apply(op).unwrap();
            before.push(world.rig.disk.files(Path::new(DIR)).unwrap());
        }
        world.rig.rest();
        let now = world.rig.disk.files(Path::new(DIR)).unwrap();
        let mut detected = 0;
        for (at, files) in before.iter().enumerate().step_by(7) {
            for (path, bytes) in files.iter().filter(|(path, b)| now.get(*path) != Some(b)) {
                if !now.contains_key(path) {
                    continue;
                }
                let image = world.rig.disk.crash(100, 0);
                image.open(path, OpenMode::Write).unwrap().write_all_at(bytes, 0).unwrap();
                detected += check(image, &world, &format!("{} of step {at}", path.display()));
            }
        }
        assert!(detected > 0, "work {seed}");
    }
}

/// Two groups whose segments were used again, at rest.
fn turned_over() -> Rig {
    let mut rig = Rig::new(small());
    let (idle, busy) = (rig.create(1), rig.create(2));
    for index in 1..120 {
        rig.journal.append(busy, entries(1, index..index + 1, 900), ignore()).unwrap();
        if index > 60 {
            rig.journal.purge(busy, at(1, index - 40)).unwrap();
        }
        rig.settle();
    }
    rig.journal.append(idle, entries(1, 1..2, 20), ignore()).unwrap();
    rig.rest();
    assert!(rig.journal.stats().segments_freed > 0);
    rig
}

#[test]
fn the_loss_of_the_oldest_or_the_newest_segment_hits_and_stays_told() {
    let rig = turned_over();
    let files = segments(&rig.disk);
    for (path, _) in [files.first().unwrap(), files.last().unwrap()] {
        let image = rig.disk.crash(100, 0);
        image.remove_file(path).unwrap();
        let mut lost = Rig::open(Arc::new(image), small()).unwrap();
        assert_eq!(lost.recovery.hit, [group(1), group(2)], "{}", path.display());
        assert_eq!(lost.recovery.damage, [(path.clone(), 0)]);
        let three = lost.create(3);
        // The verdict is written down, and what came after it is no part of it.
        let again = lost.reopen(small());
        assert_eq!(again.recovery.hit, [group(1), group(2)]);
        assert_eq!(again.journal.groups(), [group(1), group(2), three]);
    }
}

/// What happens to a disk.
type Harm<'a> = &'a dyn Fn(&SimDisk);

#[test]
fn a_freed_segment_is_not_missed_whichever_file_forgets_that_it_was_freed() {
    let rig = turned_over();
    let (path, _) = segments(&rig.disk).pop().unwrap();
    let last = SegmentInspector::open(rig.disk.as_ref(), &path).unwrap().last().unwrap();
    assert_eq!(last.kind, BatchKind::Mark);
    let witness = Path::new(DIR).join("witness");
    let harms: [(&str, Harm<'_>); 5] = [
        ("no mark", &|disk| disk.flip_bit(&path, last.offset, 1).unwrap()),
        ("no witness", &|disk| disk.remove_file(&witness).unwrap()),
        ("half a witness", &|disk| disk.truncate(&witness, 4096).unwrap()),
        ("one slot", &|disk| disk.flip_bit(&witness, 20, 1).unwrap()),
        ("the other slot", &|disk| disk.flip_bit(&witness, 4096 + 20, 1).unwrap()),
    ];
    for (what, harm) in harms {
        let image = rig.disk.crash(100, 0);
        harm(&image);
        let found = Rig::open(Arc::new(image), small()).unwrap();
        assert_eq!(found.recovery.hit, [], "{what}");
        assert_eq!(found.recovery.damage, [], "{what}");
    }
}

#[test]
fn the_last_batch_and_the_mark_that_covers_it_are_missed_together() {
    let (mut rig, path, _) = three_groups();
    rig.journal.save_vote(group(2), Bytes::from_static(b"vote"), ignore()).unwrap();
    rig.rest();
    let batches: Vec<_> = SegmentInspector::open(rig.disk.as_ref(), &path).unwrap().collect();
    let vote = batches.iter().rfind(|batch| batch.kind == BatchKind::Records).unwrap();
    let mark = batches.last().unwrap();
    assert_ne!(vote.offset / 4096, 2, "what was before it lies elsewhere");
    let image = rig.disk.crash(100, 0);
    image.swap_blocks(&path, 4096, vote.offset / 4096, mark.offset / 4096).unwrap();
    let rig = Rig::open(Arc::new(image), small()).unwrap();
    assert_eq!(rig.recovery.hit, [group(1), group(2), group(3)]);
    assert!(!rig.recovery.damage.is_empty());
}

#[test]
fn a_journal_without_any_segment_is_not_taken_for_an_empty_one() {
    let (rig, path, _) = three_groups();
    let image = rig.disk.crash(100, 0);
    image.remove_file(&path).unwrap();
    let refused = Rig::open(Arc::new(image), small()).err().unwrap();
    assert!(refused.is_corruption(), "{refused}");
}

#[test]
fn a_witness_of_another_journal_is_refused() {
    let (rig, ..) = three_groups();
    let other = SimDisk::new();
    let entropy = Arc::new(holdfast_env::sim::SimEntropy::new(99));
    let clock = Arc::clone(&rig.clock) as Arc<dyn holdfast_env::Clock>;
    let dir = Path::new(DIR);
    drop(Journal::open(Arc::new(other.clone()), entropy, clock, dir, small()).unwrap());
    let image = rig.disk.crash(100, 0);
    let witness = dir.join("witness");
    let bytes = other.read(&witness).unwrap();
    image.open(&witness, OpenMode::Write).unwrap().write_all_at(&bytes, 0).unwrap();
    let refused = Rig::open(Arc::new(image), small()).err().unwrap();
    assert!(refused.is_corruption(), "{refused}");
}

/// Three groups with some entries each, at rest; where each group's first entry lies.
fn three_groups() -> (Rig, PathBuf, Vec<u64>) {
    let mut rig = Rig::new(small());
    for number in 1..=3 {
        rig.create(number);
    }
    for number in 1..=3 {
        rig.journal.append(group(number), entries(1, 1..4, 64), ignore()).unwrap();
    }
    rig.rest();
    let (path, _) = segments(&rig.disk).pop().unwrap();
    let inspector = SegmentInspector::open(rig.disk.as_ref(), &path).unwrap();
    let records: Vec<_> = inspector.flat_map(|batch| batch.records).collect();
    let first = |number| {
        let of_group = |r: &&holdfast_journal::InspectedRecord| {
            r.group == group(number) && r.position == at(1, 1)
        };
        records.iter().find(of_group).unwrap().offset
    };
    let offsets = (1..=3).map(first).collect();
    (rig, path, offsets)
}

#[test]
fn a_damaged_payload_hits_only_its_own_group() {
    let (rig, path, offsets) = three_groups();
    let image = rig.disk.crash(100, 0);
    image.flip_bit(&path, offsets[1] + 70, 3).unwrap();
    let rig = Rig::open(Arc::new(image), small()).unwrap();
    assert_eq!(rig.recovery.hit, [group(2)]);
    assert_eq!(rig.recovery.damage.len(), 1);
    assert_eq!(rig.journal.read(group(1), 1..9, u64::MAX).unwrap(), entries(1, 1..4, 64));
    assert_eq!(rig.journal.read(group(3), 1..9, u64::MAX).unwrap(), entries(1, 1..4, 64));
}

#[test]
fn a_hit_group_stays_hit_until_it_is_destroyed() {
    let (rig, path, offsets) = three_groups();
    let image = rig.disk.crash(100, 0);
    image.flip_bit(&path, offsets[0] + 70, 3).unwrap();
    let mut rig = Rig::open(Arc::new(image), small()).unwrap();
    // Enough work to use the damaged segment again.
    for index in 4..400 {
        rig.journal.append(group(2), entries(1, index..index + 1, 900), ignore()).unwrap();
        rig.journal.purge(group(2), at(1, index)).unwrap();
        rig.settle();
    }
    assert!(!segments(&rig.disk).iter().any(|(segment, _)| *segment == path));
    let rig = rig.reopen(small());
    assert_eq!(rig.recovery.hit, [group(1)]);
    rig.journal.destroy_group(group(1), ignore()).unwrap();
    let mut rig = rig;
    rig.settle();
    let rig = rig.reopen(small());
    assert_eq!(rig.recovery.hit, []);
    assert_eq!(rig.journal.groups(), [group(2), group(3)]);
}

#[test]
fn the_last_batch_of_a_burst_is_covered_by_a_mark_on_another_block() {
    let (rig, path, offsets) = three_groups();
    let batches: Vec<_> = SegmentInspector::open(rig.disk.as_ref(), &path).unwrap().collect();
    let mark = batches.last().unwrap();
    assert_eq!(mark.kind, BatchKind::Mark);
    assert_eq!(mark.tails.len(), 3);
    let covered = batches.iter().rfind(|batch| batch.kind == BatchKind::Records).unwrap();
    assert!(mark.claim > covered.number);
    assert_ne!(mark.offset / 4096, (covered.offset + covered.bytes - 1) / 4096);
    let image = rig.disk.crash(100, 0);
    image.mark_bad(&path, offsets[2] / 4096 * 4096, 4096).unwrap();
    let rig = Rig::open(Arc::new(image), small()).unwrap();
    assert_eq!(rig.recovery.hit.len(), 3, "the loss of acknowledged entries shows");
}

#[test]
fn a_damaged_entry_is_refused_when_it_is_read() {
    let mut rig = Rig::new(holdfast_journal::JournalOptions { cache_bytes: 0, ..small() });
    let g = rig.create(1);
    rig.journal.append(g, entries(1, 1..4, 64), ignore()).unwrap();
    rig.settle();
    let (path, _) = segments(&rig.disk).pop().unwrap();
    let records = SegmentInspector::open(rig.disk.as_ref(), &path).unwrap();
    let records: Vec<_> = records.flat_map(|batch| batch.records).collect();
    let second = records.iter().find(|record| record.position == at(1, 2)).unwrap();
    rig.disk.flip_bit(&path, second.offset + 66, 0).unwrap();
    assert_eq!(rig.journal.read(g, 1..2, 1000).unwrap(), entries(1, 1..2, 64));
    let refused = rig.journal.read(g, 1..4, 1000).unwrap_err();
    assert!(refused.is_corruption() && !refused.is_fatal(), "{refused}");
}

#[test]
fn a_group_whose_entry_is_found_damaged_takes_no_part_any_more_not_even_after_a_restart() {
    let mut rig = Rig::new(holdfast_journal::JournalOptions { cache_bytes: 0, ..small() });
    let (g, other) = (rig.create(1), rig.create(2));
    for group in [g, other] {
        rig.journal.append(group, entries(1, 1..4, 64), ignore()).unwrap();
        rig.journal.save_vote(group, Bytes::from_static(b"vote"), ignore()).unwrap();
    }
    rig.rest();
    let (path, _) = segments(&rig.disk).pop().unwrap();
    let records = SegmentInspector::open(rig.disk.as_ref(), &path).unwrap();
    let records: Vec<_> = records.flat_map(|batch| batch.records).collect();
    let second = records.iter().find(|r| r.group == g && r.position == at(1, 2)).unwrap();
    rig.disk.flip_bit(&path, second.offset + 66, 0).unwrap();
    assert_eq!(rig.journal.hit_groups(), []);
    rig.journal.read(g, 1..4, 1000).unwrap_err();
    assert_eq!(rig.journal.hit_groups(), [g]);
    let vote = rig.journal.save_vote(g, Bytes::from_static(b"later"), ignore());
    assert!(matches!(vote, Err(Error::GroupHit(_))), "{vote:?}");
    // The evidence goes, the verdict stays.
    rig.disk.flip_bit(&path, second.offset + 66, 0).unwrap();
    rig.rest();
    let rig = rig.reopen(small());
    assert_eq!(rig.recovery.hit, [g]);
    assert_eq!(rig.journal.read(other, 1..4, 1000).unwrap(), entries(1, 1..4, 64));
    assert_eq!(rig.journal.vote(other).as_deref(), Some(&b"vote"[..]));
}

#[test]
fn a_group_that_is_given_up_right_after_its_creation_stays_given_up() {
    let mut rig = Rig::new(small());
    let created = rig.journal.create_group(group(1), Bytes::new(), ignore());
    created.unwrap();
    rig.journal.retire_group(group(1));
    rig.journal.retire_group(group(9));
    rig.rest();
    let mut rig = rig.reopen(small());
    assert_eq!(rig.recovery.hit, [group(1)]);
    rig.journal.destroy_group(group(1), ignore()).unwrap();
    rig.rest();
    assert_eq!(rig.reopen(small()).recovery.hit, []);
}
