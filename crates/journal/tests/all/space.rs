//! Segments coming and going, limits, and a disk without room.

use std::path::Path;

use bytes::Bytes;
use holdfast_env::Disk;
use holdfast_env::sim::{Effect, Fault, Operation};
use holdfast_journal::{Error, JournalOptions};

use crate::rig::{DIR, Rig, at, entries, group, ignore, small};

/// Appends an entry of `bytes`; false when there is no room.
fn append(rig: &mut Rig, number: u64, bytes: usize) -> bool {
    let g = group(number);
    let next = rig.journal.log_state(g).last.map_or(1, |last| last.index + 1);
    match rig.journal.append(g, entries(1, next..next + 1, bytes), ignore()) {
        Ok(()) => {
            rig.settle();
            true
        }
        Err(Error::Full { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

/// How many segment files there are.
fn files(rig: &Rig) -> usize {
    let files = rig.disk.list(Path::new(DIR)).unwrap();
    files.iter().filter(|path| path.extension().is_some()).count()
}

#[test]
fn purged_segments_are_used_again_oldest_first() {
    let mut rig = Rig::new(small());
    let g = rig.create(1);
    rig.rest();
    let mut most = 0;
    for index in 1..500 {
        assert!(append(&mut rig, 1, 800));
        rig.journal.purge(g, at(1, index)).unwrap();
        most = most.max(files(&rig));
    }
    assert!(rig.journal.stats().segments_freed > 10);
    assert!(most <= 6, "{most} files for one live entry");
    rig.rest();
    let rig = rig.reopen(small());
    assert_eq!(rig.recovery.groups[0].purged, Some(at(1, 499)));
    assert_eq!(rig.recovery.groups[0].descriptor, "group 1");
}

#[test]
fn leftovers_of_idle_groups_are_moved_and_survive() {
    let mut rig = Rig::new(small());
    let (idle, busy) = (rig.create(1), rig.create(2));
    rig.journal.append(idle, entries(3, 5..9, 50), ignore()).unwrap();
    rig.journal.save_vote(idle, Bytes::from_static(b"idle vote"), ignore()).unwrap();
    rig.journal.purge(idle, at(3, 5)).unwrap();
    rig.journal.save_committed(idle, at(3, 7)).unwrap();
    for index in 1..300 {
        assert!(append(&mut rig, 2, 800));
        rig.journal.purge(busy, at(1, index)).unwrap();
    }
    rig.rest();
    assert!(rig.journal.stats().rewritten_bytes > 0);
    assert!(rig.journal.stats().segments_freed > 10);
    let expected = entries(3, 6..9, 50);
    assert_eq!(rig.journal.read(idle, 6..9, 999).unwrap(), expected);
    let rig = rig.reopen(small());
    assert_eq!(rig.recovery.hit, []);
    let found = &rig.recovery.groups[0];
    assert_eq!(found.vote.as_deref(), Some(&b"idle vote"[..]));
    assert_eq!(found.committed, Some(at(3, 7)));
    assert_eq!(found.purged, Some(at(3, 5)));
    assert_eq!(rig.journal.read(idle, 6..9, 999).unwrap(), expected);
}

#[test]
fn a_purge_is_durable_before_the_purged_segment_is_used_again() {
    // Not a single entry may be missing without its purge position: any crash image must open
    // with a contiguous log.
    for seed in 0..30 {
        let mut rig = Rig::new(small());
        let g = rig.create(1);
        for index in 1..80 + seed {
            assert!(append(&mut rig, 1, 700));
            if index % 7 == 0 {
                rig.journal.purge(g, at(1, index - 3)).unwrap();
            }
        }
        let image = rig.disk.crash(50, seed);
        let rig = Rig::open(std::sync::Arc::new(image), small()).unwrap();
        assert_eq!(rig.recovery.hit, []);
        let found = &rig.recovery.groups[0];
        let first = found.purged.map_or(1, |purged| purged.index + 1);
        assert_eq!(found.first_index, Some(first));
        assert_eq!(found.last_index, Some(79 + seed));
    }
}

#[test]
fn entries_stop_at_the_reserve_and_votes_go_on() {
    let options = JournalOptions { limit_bytes: 6 * small().segment_bytes, ..small() };
    let mut rig = Rig::new(options.clone());
    let g = rig.create(1);
    rig.create(2);
    let mut appended = 0;
    let mut refused_clients_at = None;
    while append(&mut rig, 1, 700) {
        appended += 1;
        if !rig.journal.accepts_writes() {
            refused_clients_at.get_or_insert(appended);
        }
        assert!(appended < 1000, "the limit is never reached");
    }
    assert!(refused_clients_at.unwrap() < appended, "clients are refused first");
    assert!(files(&rig) <= 6);
    for round in 0..600_u32 {
        let vote = Bytes::copy_from_slice(&round.to_le_bytes());
        rig.journal.save_vote(group(2), vote, ignore()).unwrap();
        rig.journal.truncate_after(group(2), None, ignore()).unwrap();
        rig.settle();
        // One segment more may be needed to move live entries out of the way of dead votes.
        assert!(files(&rig) <= 7, "dead votes were reclaimed from behind live entries");
    }
    assert_eq!(rig.journal.pins()[0].0, g, "it says who is to be purged");
    rig.journal.purge(g, at(1, appended)).unwrap();
    rig.rest();
    assert!(append(&mut rig, 1, 700), "room came back without a restart");
    assert!(rig.journal.accepts_writes());
    let rig = rig.reopen(options);
    assert_eq!(rig.journal.vote(group(2)).as_deref(), Some(&599_u32.to_le_bytes()[..]));
}

#[test]
fn a_full_disk_refuses_entries_before_anything_fails() {
    let mut rig = Rig::new(small());
    let g = rig.create(1);
    rig.rest();
    rig.disk.set_capacity(Some(4 * small().segment_bytes));
    let mut appended = 0;
    while append(&mut rig, 1, 700) {
        appended += 1;
        assert!(appended < 1000, "the disk is never full");
    }
    assert!(!rig.journal.accepts_writes());
    for _ in 0..5 {
        rig.journal.save_vote(g, Bytes::from_static(b"v"), ignore()).unwrap();
        rig.settle();
    }
    // It starts on a full disk, too.
    let mut rig = rig.reopen(small());
    assert_eq!(rig.recovery.groups[0].last_index, Some(appended));
    assert!(!append(&mut rig, 1, 700));
    rig.disk.set_capacity(None);
    rig.clock.advance(std::time::Duration::from_secs(1));
    rig.rest();
    assert!(append(&mut rig, 1, 700), "room came back without a restart");
    assert!(rig.journal.accepts_writes());
}

#[test]
fn a_disk_found_full_while_a_segment_is_filled_stops_nothing_that_runs() {
    let mut rig = Rig::new(small());
    // An open file answers to the name it was made by; number 1 is in use.
    let is_spare = |path: &Path| !path.ends_with("0000000000000001.fresh");
    let fault = Fault::new(Operation::Write, Effect::Enospc).on(is_spare).forever();
    let fault = rig.disk.inject(fault);
    let g = rig.create(1);
    rig.settle();
    assert!(rig.disk.fault_struck(fault) > 0);
    assert!(rig.journal.stats().disk_full && !rig.journal.accepts_writes());
    rig.journal.save_vote(g, Bytes::from_static(b"v"), ignore()).unwrap();
    rig.settle();
    rig.disk.remove_faults();
    rig.clock.advance(std::time::Duration::from_secs(1));
    rig.rest();
    assert!(rig.journal.accepts_writes());
    assert!(append(&mut rig, 1, 700));
}

#[test]
fn the_queue_refuses_what_the_writer_cannot_keep_up_with() {
    let mut rig = Rig::new(JournalOptions { queue_bytes_max: 4 * 1024, ..small() });
    let g = rig.create(1);
    rig.journal.append(g, entries(1, 1..4, 1000), ignore()).unwrap();
    let refused = rig.journal.append(g, entries(1, 4..6, 1000), ignore());
    assert!(matches!(refused, Err(Error::Full { .. })));
    assert_eq!(rig.journal.log_state(g).last, Some(at(1, 3)), "nothing of it was taken");
    rig.settle();
    rig.journal.append(g, entries(1, 4..6, 1000), ignore()).unwrap();
}

#[test]
fn followers_hold_back_at_most_their_share() {
    let options = JournalOptions {
        limit_bytes: 40 * small().segment_bytes,
        retention_group_bytes: 8 * 1024,
        ..small()
    };
    let mut rig = Rig::new(options);
    for number in 1..=20 {
        rig.create(number);
    }
    for _ in 0..20 {
        assert!(append(&mut rig, 1, 960));
    }
    // 64 bytes of header each: 8 KiB are eight entries.
    assert_eq!(rig.journal.retained_from(group(1)), 13);
    assert_eq!(rig.journal.retained_from(group(2)), 0);
    // With all groups that full, a quarter of the limit is divided: 8 KiB each are exactly it.
    for _ in 0..100 {
        for number in 2..=20 {
            let held = rig.journal.group_bytes(group(number));
            assert!(held > 12 * 1024 || append(&mut rig, number, 960));
        }
    }
    let held: u64 = (1..=20)
        .map(|number| {
            let from = rig.journal.retained_from(group(number));
            let last = rig.journal.log_state(group(number)).last.unwrap().index;
            (last + 1 - from) * 1024
        })
        .sum();
    assert!(held <= rig.journal.limit() / 4, "{held} bytes held back");
    assert!(held >= rig.journal.limit() / 4 / 2, "{held} bytes held back");
}

#[test]
fn limits_are_enforced_before_anything_changes() {
    let mut rig = Rig::new(small());
    let g = rig.create(1);
    let too_large = rig.journal.append(g, entries(1, 1..2, 9000), ignore());
    assert!(matches!(too_large, Err(Error::TooLarge { what: "entry", .. })));
    let too_large = rig.journal.save_vote(g, Bytes::from(vec![0; 65]), ignore());
    assert!(matches!(too_large, Err(Error::TooLarge { what: "vote", .. })));
    let too_large = rig.journal.create_group(group(2), Bytes::from(vec![0; 5000]), ignore());
    assert!(matches!(too_large, Err(Error::TooLarge { what: "descriptor", .. })));
    let exists = rig.journal.create_group(g, Bytes::new(), ignore());
    assert!(matches!(exists, Err(Error::GroupExists(_))));
    let mut groups = 1;
    let refused = loop {
        match rig.journal.create_group(group(100 + groups), Bytes::new(), ignore()) {
            Ok(()) => groups += 1,
            Err(error) => break error,
        }
        rig.settle();
    };
    assert!(matches!(refused, Error::TooManyGroups { maximum } if maximum as u64 == groups));
    assert_eq!(rig.journal.log_state(g).last, None);
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let wrong = [
        JournalOptions { segment_bytes: 4096, ..small() },
        JournalOptions { segment_bytes: 20_000, ..small() },
        JournalOptions { limit_bytes: 3 * small().segment_bytes, ..small() },
        JournalOptions { queue_bytes_max: 0, ..small() },
        JournalOptions { mark_delay: std::time::Duration::from_millis(11), ..small() },
    ];
    for options in wrong {
        assert!(matches!(options.validate(), Err(Error::Options { .. })), "{options:?}");
    }
    JournalOptions::default().validate().unwrap();
}
