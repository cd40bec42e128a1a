//! Interleavings of appenders and the writer, chosen at random by shuttle.
//!
//! Only in a build with `--cfg shuttle`; `make storm-storage` runs them. A failure prints its
//! schedule, and `shuttle::replay` of that string runs it again. The model has no time: whoever
//! sleeps is woken or sleeps for ever, so that a lost wake-up is a deadlock and not a delay.
#![allow(clippy::unwrap_used)] // a test may stop where it stands

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_env::sim::{SimClock, SimDisk, SimEntropy, SimTime};
use holdfast_env::sync::{AtomicU64, Ordering};
use holdfast_model::{RangeId, ReplicaId};
use shuttle::scheduler::RandomScheduler;
use shuttle::{Config, Runner, thread};

use crate::{Entry, GroupId, Journal, JournalOptions, LogPosition, Recovery, Step, Writer};

/// Bytes of a thread's stack: opening a journal is deeper than shuttle expects.
const STACK_BYTES: usize = 1 << 20;
/// Groups that append at the same time.
const GROUPS: u64 = 3;
/// Entries each of them appends, one after the other.
const ENTRIES: u64 = 4;

fn open(disk: &SimDisk) -> (Arc<Journal>, Writer, Recovery) {
    let options = JournalOptions {
        segment_bytes: 32 * 1024,
        limit_bytes: 8 * 32 * 1024,
        queue_bytes_max: 16 * 1024,
        ..JournalOptions::default()
    };
    let (clock, entropy) = (SimClock::new(SimTime::new()), SimEntropy::new(1));
    let disk = Arc::new(disk.clone());
    Journal::open(disk, Arc::new(entropy), Arc::new(clock), Path::new("/journal"), options).unwrap()
}

fn group(number: u64) -> GroupId {
    GroupId { range: RangeId(number), replica: ReplicaId(number) }
}

/// What the disk would hold after a power cut that keeps nothing, as the last index of a group.
fn survivor(disk: &SimDisk, number: u64) -> u64 {
    let (journal, ..) = open(&disk.image(0, 1));
    journal.log_state(group(number)).last.map_or(0, |last| last.index)
}

/// Appends without waiting; every acknowledgement is counted, and true when it is given.
fn append_all(journal: &Arc<Journal>, disk: &SimDisk, number: u64, acked: &Arc<AtomicU64>) {
    for index in 1..=ENTRIES {
        let position = LogPosition { term: 1, leader: 1, index };
        let entry = Entry { position, payload: Bytes::from(vec![index as u8; 40]) };
        let (acked, disk, end) = (acked.clone(), disk.clone(), journal.clone());
        let done = Box::new(move |result: std::io::Result<()>| {
            result.unwrap();
            // Looked at once per group: opening an image is slow.
            assert!(index < ENTRIES || survivor(&disk, number) >= index, "acknowledged too early");
            acked.fetch_max(number << 32 | index, Ordering::SeqCst);
            drop(end);
        });
        journal.append(group(number), vec![entry], done).unwrap();
    }
}

#[test]
fn nobody_waits_for_ever_and_nobody_is_told_too_early_in_any_schedule() {
    let count = std::env::var("SCHEDULES").ok().and_then(|n| n.parse().ok()).unwrap_or(200);
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    Runner::new(RandomScheduler::new(count), config).run(|| {
        let disk = SimDisk::new();
        let (journal, mut writer, _) = open(&disk);
        for number in 1..=GROUPS {
            journal.create_group(group(number), Bytes::new(), Box::new(|_| {})).unwrap();
        }
        writer.step().unwrap();
        let acked: Vec<Arc<AtomicU64>> = (0..GROUPS).map(|_| Arc::default()).collect();
        let appenders: Vec<_> = (1..=GROUPS)
            .zip(acked.clone())
            .map(|(number, acked)| {
                let (journal, disk) = (journal.clone(), disk.clone());
                thread::spawn(move || append_all(&journal, &disk, number, &acked))
            })
            .collect();
        let is_done = |acked: &Arc<AtomicU64>| acked.load(Ordering::SeqCst) & 0xff == ENTRIES;
        while !acked.iter().all(is_done) {
            if let Step::Idle { .. } = writer.step().unwrap() {
                writer.wait(Duration::from_secs(1));
            }
        }
        appenders.into_iter().for_each(|appender| appender.join().unwrap());
        for number in 1..=GROUPS {
            assert_eq!(survivor(&disk, number), ENTRIES);
        }
    });
}
