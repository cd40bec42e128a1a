//! What callers may rely on, one call at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use holdfast_journal::{Error, Step};

use crate::rig::{Rig, at, counting, entries, entry, group, ignore, small};

#[test]
fn entries_are_readable_before_they_are_written() {
    let mut rig = Rig::new(small());
    let g = rig.create(1);
    rig.journal.append(g, entries(1, 1..4, 10), ignore()).unwrap();
    assert_eq!(rig.journal.read(g, 1..4, 1000).unwrap(), entries(1, 1..4, 10));
    assert_eq!(rig.journal.log_state(g).last, Some(at(1, 3)));
}

#[test]
fn everything_durable_is_there_after_reopening() {
    let mut rig = Rig::new(small());
    let g = rig.create(1);
    rig.journal.append(g, entries(1, 0..5, 100), ignore()).unwrap();
    rig.journal.append(g, entries(2, 5..9, 100), ignore()).unwrap();
    rig.journal.save_vote(g, Bytes::from_static(b"vote"), ignore()).unwrap();
    rig.journal.save_committed(g, at(1, 3)).unwrap();
    rig.journal.truncate_after(g, Some(7), ignore()).unwrap();
    rig.journal.purge(g, at(1, 1)).unwrap();
    rig.settle();
    let rig = rig.reopen(small());
    assert_eq!(rig.recovery.hit, []);
    let [found] = rig.recovery.groups.as_slice() else { panic!("one group") };
    assert_eq!(found.descriptor, "group 1");
    assert_eq!(found.vote.as_deref(), Some(&b"vote"[..]));
    assert_eq!(found.committed, Some(at(1, 3)));
    assert_eq!(found.purged, Some(at(1, 1)));
    assert_eq!((found.first_index, found.last_index), (Some(2), Some(7)));
    let mut expected = entries(1, 2..5, 100);
    expected.extend(entries(2, 5..8, 100));
    assert_eq!(rig.journal.read(g, 2..100, u64::MAX).unwrap(), expected);
    assert_eq!(rig.journal.position(g, 4), Some(at(1, 4)));
    assert_eq!(rig.journal.position(g, 5), Some(at(2, 5)));
    assert_eq!(rig.journal.position(g, 1), Some(at(1, 1)));
    assert_eq!(rig.journal.position(g, 8), None);
}

#[test]
fn nothing_is_acknowledged_before_the_writer_synced() {
    let mut rig = Rig::new(small());
    let g = rig.create(1);
    let count = Arc::new(AtomicUsize::new(0));
    rig.journal.append(g, entries(1, 1..2, 10), counting(&count)).unwrap();
    let end = rig.journal.logical_end();
    assert!(rig.journal.durable() < end);
    assert_eq!(count.load(Ordering::SeqCst), 0);
    assert!(matches!(rig.writer.step().unwrap(), Step::Wrote { records: 1, .. }));
    assert_eq!(count.load(Ordering::SeqCst), 1);
    assert_eq!(rig.journal.durable(), end);
}

#[test]
fn a_gap_in_indexes_is_refused() {
    let mut rig = Rig::new(small());
    let g = rig.create(1);
    rig.journal.append(g, entries(1, 4..6, 10), ignore()).unwrap();
    let refused = rig.journal.append(g, entries(1, 7..8, 10), ignore());
    assert!(matches!(refused, Err(Error::NotContiguous { expected: 6, found: 7, .. })));
    let refused = rig.journal.append(g, vec![entry(1, 6, b""), entry(1, 8, b"")], ignore());
    assert!(matches!(refused, Err(Error::NotContiguous { expected: 7, found: 8, .. })));
    assert_eq!(rig.journal.log_state(g).last, Some(at(1, 5)));
}

#[test]
fn a_group_that_was_never_created_has_no_log() {
    let rig = Rig::new(small());
    let refused = rig.journal.append(group(3), entries(1, 1..2, 10), ignore());
    assert!(matches!(refused, Err(Error::UnknownGroup(g)) if g == group(3)));
    assert_eq!(rig.journal.log_state(group(3)).last, None);
}

#[test]
fn a_read_gives_at_least_one_entry_and_no_more_bytes_than_asked() {
    for cache_bytes in [0, 1 << 20] {
        let options = holdfast_journal::JournalOptions { cache_bytes, ..small() };
        let mut rig = Rig::new(options);
        let g = rig.create(1);
        rig.journal.append(g, entries(1, 1..9, 104), ignore()).unwrap();
        rig.settle();
        assert_eq!(rig.journal.read(g, 1..9, 0).unwrap(), entries(1, 1..2, 104));
        assert_eq!(rig.journal.read(g, 2..9, 312).unwrap(), entries(1, 2..5, 104));
        assert_eq!(rig.journal.read(g, 7..20, 9999).unwrap(), entries(1, 7..9, 104));
        assert_eq!(rig.journal.read(g, 9..20, 9999).unwrap(), []);
        rig.journal.purge(g, at(1, 3)).unwrap();
        let refused = rig.journal.read(g, 3..5, 9999);
        assert!(matches!(refused, Err(Error::Purged { first: 4, .. })));
    }
}

#[test]
fn the_cache_stays_inside_its_bound() {
    let mut rig = Rig::new(small());
    let (one, two) = (rig.create(1), rig.create(2));
    for index in 1..30 {
        rig.journal.append(one, entries(1, index..index + 1, 700), ignore()).unwrap();
        rig.journal.append(two, entries(1, index..index + 1, 70), ignore()).unwrap();
        rig.settle();
        assert!(rig.journal.stats().cached_bytes <= small().cache_bytes);
    }
    assert!(rig.journal.stats().cached_bytes > 0);
    assert_eq!(rig.journal.read(one, 1..30, u64::MAX).unwrap(), entries(1, 1..30, 700));
    assert_eq!(rig.journal.read(two, 1..30, u64::MAX).unwrap(), entries(1, 1..30, 70));
    let reads = rig.disk.counters().reads;
    assert_eq!(rig.journal.read(one, 29..30, 9).unwrap(), entries(1, 29..30, 700));
    assert_eq!(rig.disk.counters().reads, reads, "recent entries cost no read");
}

#[test]
fn a_log_that_was_purged_beyond_its_end_goes_on_from_there() {
    let mut rig = Rig::new(small());
    let g = rig.create(1);
    rig.journal.append(g, entries(1, 1..4, 10), ignore()).unwrap();
    rig.journal.purge(g, at(5, 50)).unwrap();
    let state = rig.journal.log_state(g);
    assert_eq!((state.purged, state.last), (Some(at(5, 50)), Some(at(5, 50))));
    let refused = rig.journal.append(g, entries(5, 4..5, 10), ignore());
    assert!(matches!(refused, Err(Error::NotContiguous { expected: 51, .. })));
    rig.journal.append(g, entries(6, 51..53, 10), ignore()).unwrap();
    rig.settle();
    let rig = rig.reopen(small());
    assert_eq!(rig.journal.read(g, 51..99, 999).unwrap(), entries(6, 51..53, 10));
}

#[test]
fn a_destroyed_group_leaves_nothing_and_others_stay() {
    let mut rig = Rig::new(small());
    let (one, two) = (rig.create(1), rig.create(2));
    rig.journal.append(one, entries(1, 1..4, 10), ignore()).unwrap();
    rig.journal.append(two, entries(1, 1..4, 10), ignore()).unwrap();
    rig.settle();
    rig.journal.destroy_group(one, ignore()).unwrap();
    assert!(matches!(rig.journal.read(one, 1..4, 99), Err(Error::UnknownGroup(_))));
    rig.settle();
    let rig = rig.reopen(small());
    assert_eq!(rig.journal.groups(), [two]);
    assert_eq!(rig.journal.read(two, 1..4, 99).unwrap(), entries(1, 1..4, 10));
}
