//! What the tests share: a journal on some disk, and short ways to use it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use holdfast_env::sim::{SimClock, SimDisk, SimEntropy, SimTime};
use holdfast_env::{Clock, Disk, Entropy};
use holdfast_journal::{
    Done, Entry, GroupId, Journal, JournalOptions, LogPosition, Recovery, Step, Writer,
};
use holdfast_model::{RangeId, ReplicaId};

pub const DIR: &str = "/journal";

/// Small segments, so that everything happens soon.
pub fn small() -> JournalOptions {
    JournalOptions {
        segment_bytes: 32 * 1024,
        limit_bytes: 16 * 32 * 1024,
        cache_bytes: 4 * 1024,
        queue_bytes_max: 16 * 1024,
        retention_group_bytes: 16 * 1024,
        mark_delay: Duration::from_millis(5),
    }
}

pub fn group(number: u64) -> GroupId {
    GroupId { range: RangeId(number), replica: ReplicaId(1000 + number) }
}

pub fn at(term: u64, index: u64) -> LogPosition {
    LogPosition { term, leader: 1, index }
}

pub fn entry(term: u64, index: u64, payload: &[u8]) -> Entry {
    Entry { position: at(term, index), payload: Bytes::copy_from_slice(payload) }
}

pub fn entries(term: u64, range: std::ops::Range<u64>, bytes: usize) -> Vec<Entry> {
    range.map(|index| entry(term, index, &vec![index as u8; bytes])).collect()
}

pub fn ignore() -> Done {
    Box::new(|_| {})
}

/// A callback that counts how often it was called with `Ok`.
pub fn counting(count: &Arc<AtomicUsize>) -> Done {
    let count = Arc::clone(count);
    Box::new(move |result| {
        result.unwrap();
        count.fetch_add(1, Ordering::SeqCst);
    })
}

/// A journal on a simulated disk.
pub struct Rig {
    pub disk: Arc<SimDisk>,
    pub clock: Arc<SimClock>,
    pub journal: Arc<Journal>,
    pub writer: Writer,
    pub recovery: Recovery,
}

impl Rig {
    pub fn new(options: JournalOptions) -> Self {
        Self::open(Arc::new(SimDisk::new()), options).unwrap()
    }

    pub fn open(disk: Arc<SimDisk>, options: JournalOptions) -> holdfast_journal::Result<Self> {
        let clock = Arc::new(SimClock::new(SimTime::new()));
        let (journal, writer, recovery) = open_on(
            Arc::clone(&disk) as Arc<dyn Disk>,
            Arc::clone(&clock) as Arc<dyn Clock>,
            Path::new(DIR),
            options,
            7,
        )?;
        Ok(Self { disk, clock, journal, writer, recovery })
    }

    /// Closes and opens again without a crash.
    pub fn reopen(self, options: JournalOptions) -> Self {
        let disk = Arc::clone(&self.disk);
        drop(self);
        Self::open(disk, options).unwrap()
    }

    /// Steps until there is nothing to do but wait.
    pub fn settle(&mut self) {
        settle(&mut self.writer);
    }

    /// Lets the mark delay pass, and settles.
    pub fn rest(&mut self) {
        self.settle();
        self.clock.advance(Duration::from_millis(10));
        self.settle();
    }

    pub fn create(&mut self, number: u64) -> GroupId {
        let descriptor = Bytes::from(format!("group {number}"));
        self.journal.create_group(group(number), descriptor, ignore()).unwrap();
        self.settle();
        group(number)
    }
}

pub fn settle(writer: &mut Writer) {
    for _ in 0..1_000 {
        if let Step::Idle { .. } = writer.step().unwrap() {
            return;
        }
    }
    panic!("the writer never comes to rest");
}

pub fn open_on(
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    dir: &Path,
    options: JournalOptions,
    seed: u64,
) -> holdfast_journal::Result<(Arc<Journal>, Writer, Recovery)> {
    let entropy: Arc<dyn Entropy> = Arc::new(SimEntropy::new(seed));
    Journal::open(disk, entropy, clock, dir, options)
}
