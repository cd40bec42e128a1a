//! Group commit, callbacks, marks, and what happens when the disk fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use holdfast_env::sim::{Effect, Fault, Operation};
use holdfast_journal::{Error, Step};

use crate::rig::{Rig, at, counting, entries, group, ignore, small};

#[test]
fn sixty_four_groups_share_one_write_and_one_sync() {
    let mut rig = Rig::new(small());
    for number in 0..64 {
        rig.journal.create_group(group(number), Bytes::new(), ignore()).unwrap();
    }
    rig.settle();
    let count = Arc::new(AtomicUsize::new(0));
    for round in 0..8 {
        let before = rig.disk.counters();
        for number in 0..64 {
            let fresh = entries(1, round..round + 1, 20);
            rig.journal.append(group(number), fresh, counting(&count)).unwrap();
        }
        // The entries, and the purges of the round before.
        let expected = if round == 0 { 64 } else { 128 };
        let step = rig.writer.step().unwrap();
        assert!(matches!(step, Step::Wrote { records, .. } if records == expected), "{step:?}");
        let syncs = rig.disk.counters().syncs - before.syncs;
        assert!(syncs == 1 || rig.journal.stats().segments_used > 1, "{syncs} syncs");
        for number in 0..64 {
            rig.journal.purge(group(number), at(1, round)).unwrap();
        }
    }
    assert_eq!(count.load(Ordering::SeqCst), 8 * 64);
    assert!(rig.journal.stats().syncs < 30);
}

#[test]
fn only_the_newest_append_of_a_group_is_called_back() {
    let mut rig = Rig::new(small());
    let (one, two) = (rig.create(1), rig.create(2));
    let counts = [(); 4].map(|()| Arc::new(AtomicUsize::new(0)));
    rig.journal.append(one, entries(1, 1..2, 9), counting(&counts[0])).unwrap();
    rig.journal.append(one, entries(1, 2..3, 9), counting(&counts[1])).unwrap();
    rig.journal.append(two, entries(1, 1..2, 9), counting(&counts[2])).unwrap();
    rig.journal.save_vote(one, Bytes::from_static(b"v"), counting(&counts[3])).unwrap();
    rig.writer.step().unwrap();
    assert_eq!(counts.map(|count| count.load(Ordering::SeqCst)), [0, 1, 1, 1]);
}

#[test]
fn votes_and_truncations_are_always_called_back() {
    let mut rig = Rig::new(small());
    let g = rig.create(1);
    let count = Arc::new(AtomicUsize::new(0));
    for _ in 0..3 {
        rig.journal.save_vote(g, Bytes::from_static(b"v"), counting(&count)).unwrap();
        rig.journal.truncate_after(g, None, counting(&count)).unwrap();
    }
    rig.writer.step().unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 6);
}

#[test]
fn a_mark_follows_a_burst_within_ten_milliseconds_and_only_once() {
    let mut rig = Rig::new(small());
    let g = rig.create(1);
    rig.rest();
    let marks = rig.journal.stats().marks_written;
    rig.journal.append(g, entries(1, 1..2, 9), ignore()).unwrap();
    rig.writer.step().unwrap();
    rig.settle();
    let Step::Idle { next: Some(next) } = rig.writer.step().unwrap() else {
        panic!("a mark is due")
    };
    assert!(next <= Duration::from_millis(10));
    assert_eq!(rig.journal.stats().marks_written, marks);
    rig.clock.advance(next);
    rig.writer.step().unwrap();
    assert_eq!(rig.journal.stats().marks_written, marks + 1);
    rig.rest();
    rig.rest();
    assert_eq!(rig.journal.stats().marks_written, marks + 1);
    assert_eq!(rig.writer.step().unwrap(), Step::Idle { next: None });
}

#[test]
fn the_committed_position_costs_no_sync_of_its_own() {
    let mut rig = Rig::new(small());
    let g = rig.create(1);
    rig.rest();
    let syncs = rig.journal.stats().syncs;
    for index in 1..6 {
        rig.journal.append(g, entries(1, index..index + 1, 9), ignore()).unwrap();
        rig.writer.step().unwrap();
        rig.journal.save_committed(g, at(1, index)).unwrap();
    }
    assert_eq!(rig.journal.stats().syncs, syncs + 5);
    rig.rest();
    assert_eq!(rig.journal.stats().syncs, syncs + 6, "it went with the mark");
    assert_eq!(rig.reopen(small()).recovery.groups[0].committed, Some(at(1, 5)));
}

#[test]
fn the_writer_is_woken_when_there_is_something_to_do() {
    let rig = Rig::new(small());
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    rig.journal.set_wake(move || {
        counter.fetch_add(1, Ordering::SeqCst);
    });
    rig.journal.create_group(group(1), Bytes::new(), ignore()).unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 1);
    rig.journal.append(group(1), entries(1, 1..3, 9), ignore()).unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 1, "it is awake already");
    // Does not sleep: there is work.
    rig.writer.wait(Duration::from_secs(3600));
}

#[test]
fn what_nobody_waits_for_wakes_only_a_writer_that_would_not_look_by_itself() {
    let mut rig = Rig::new(small());
    let g = rig.create(1);
    rig.rest();
    rig.rest();
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    rig.journal.set_wake(move || {
        counter.fetch_add(1, Ordering::SeqCst);
    });
    rig.journal.append(g, entries(1, 1..2, 9), ignore()).unwrap();
    rig.writer.step().unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 1);
    rig.settle();
    let Step::Idle { next: Some(next) } = rig.writer.step().unwrap() else {
        panic!("a mark is due")
    };
    rig.journal.save_committed(g, at(1, 1)).unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 1, "it goes with the mark");
    rig.clock.advance(next);
    rig.rest();
    assert_eq!(rig.writer.step().unwrap(), Step::Idle { next: None });
    rig.journal.purge(g, at(1, 1)).unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 2, "nothing else would have it written");
}

/// The first failure of `operation` poisons the journal.
fn poisons(operation: Operation, effect: Effect) {
    let mut rig = Rig::new(small());
    let g = rig.create(1);
    let failed = Arc::new(AtomicUsize::new(0));
    let failing = || {
        let failed = Arc::clone(&failed);
        let done = move |result: std::io::Result<()>| {
            assert!(result.is_err(), "acknowledged after a failed {operation:?}");
            failed.fetch_add(1, Ordering::SeqCst);
        };
        Box::new(done)
    };
    rig.journal.append(g, entries(1, 1..2, 9), failing()).unwrap();
    rig.journal.save_vote(g, Bytes::from_static(b"v"), failing()).unwrap();
    let fault = rig.disk.inject(Fault::new(operation, effect));
    let error = rig.writer.step().unwrap_err();
    assert!(error.is_fatal(), "{error}");
    assert_eq!(rig.disk.fault_struck(fault), 1);
    assert_eq!(failed.load(Ordering::SeqCst), 2);
    assert!(matches!(rig.writer.step(), Err(Error::Poisoned(_))), "nothing is tried again");
    let refused = rig.journal.append(g, entries(1, 2..3, 9), ignore());
    assert!(matches!(refused, Err(Error::Poisoned(_))));
    let refused = rig.journal.save_vote(g, Bytes::new(), ignore());
    assert!(matches!(refused, Err(Error::Poisoned(_))));
    assert!(!rig.journal.accepts_writes());
    assert!(rig.journal.durable() < rig.journal.logical_end());
}

#[test]
fn a_failed_sync_poisons_the_journal() {
    poisons(Operation::Sync, Effect::SyncFails);
}

#[test]
fn a_failed_write_poisons_the_journal() {
    poisons(Operation::Write, Effect::Eio);
}

#[test]
fn a_short_write_poisons_the_journal() {
    poisons(Operation::Write, Effect::ShortWrite { bytes: 100 });
}
