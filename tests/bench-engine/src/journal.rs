//! The journal beside raft-engine: group commit against the disk's own rate, and recovery.
//!
//! Every write is synced, on both sides. Holdfast's journal is asked as a node asks it: appends
//! queue, callbacks tell; raft-engine blocks its callers, so that each of its groups has a thread.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use holdfast_env::real::{RealClock, RealDisk, RealEntropy};
use holdfast_journal::{
    Entry, Error, GroupId, Journal, JournalOptions, LogPosition, Recovery, Step, Writer,
};
use holdfast_model::{RangeId, ReplicaId};

use crate::raft_engine;
use crate::report::Shown;
use crate::workload::Figure;

/// Groups that write at once.
pub const GROUPS: u64 = 64;
/// Payload of an entry while syncs are counted.
pub const PAYLOAD_BYTES: usize = 200;
/// Payloads of the logs that are recovered, with the names of their figures.
pub const RECOVERED: [(usize, [&str; 2]); 3] = [
    (200, ["recovery, 200 B entries, warm", "recovery, 200 B entries, cold"]),
    (1 << 10, ["recovery, 1 KiB entries, warm", "recovery, 1 KiB entries, cold"]),
    (64 << 10, ["recovery, 64 KiB entries, warm", "recovery, 64 KiB entries, cold"]),
];
/// Entries of one group that are appended at once while a log is filled, bytes.
pub const FILL_BYTES: usize = 64 << 10;
/// Disk and journal take turns of this length, so that both see the same neighbours.
const TURN: Duration = Duration::from_millis(100);
const TURNS: usize = 60;
/// Time between two entries, of all groups together, where they are written all the time, whatever
/// is under way: then the disk is what a sync waits for, and not that this program answers the one
/// before. The same with one group and with 64, so that as much is synced at a time.
const EVERY: Duration = Duration::from_micros(10);
/// Names of the figures.
const DISK_ONE: &str = "disk alone, writes as those of one group: fdatasync";
const SYNCS_ONE: &str = "one group, an entry every 10 µs: fdatasync";
const DISK_MANY: &str = "disk alone, writes as those of 64 groups: fdatasync";
const SYNCS_MANY: &str = "64 groups, an entry every 10 µs: fdatasync";
const ENTRIES_ONE: &str = "one group, one entry at a time: entries";
const ENTRIES_MANY: &str = "64 groups, one entry each: entries";
/// Batches of the journal are multiples of this.
const BATCH_BYTES: u64 = 512;
/// Entries under way at most.
const UNDER_WAY_MAX: u64 = 4_096;

/// When the next entry is appended.
#[derive(Clone, Copy)]
enum Pace {
    /// When the one before it in its group is durable.
    Answered,
    /// So long after the one before it, groups in turn.
    Every(Duration),
}

/// A journal with its writer's thread.
struct Running {
    journal: Arc<Journal>,
    recovery: Recovery,
    /// Time it took to open it.
    opening: Duration,
    is_closing: Arc<AtomicBool>,
    writer: Option<JoinHandle<()>>,
}

impl Running {
    fn open(dir: &Path) -> Result<Self> {
        let options = JournalOptions { limit_bytes: 16 << 30, ..JournalOptions::default() };
        let began = Instant::now();
        let (journal, mut writer, recovery) = Journal::open(
            Arc::new(RealDisk),
            Arc::new(RealEntropy),
            Arc::new(RealClock),
            dir,
            options,
        )?;
        let opening = began.elapsed();
        // A node that runs has its next segments prepared.
        while !matches!(writer.step()?, Step::Idle { next: None }) {}
        let is_closing = Arc::new(AtomicBool::new(false));
        let closing = is_closing.clone();
        let writer = Some(thread::spawn(move || work(writer, &closing)));
        Ok(Self { journal, recovery, opening, is_closing, writer })
    }

    fn create_groups(&self) -> Result<()> {
        let (sender, receiver) = mpsc::channel();
        for number in 0..GROUPS {
            let sender = sender.clone();
            let done = Box::new(move |result| drop(sender.send(result)));
            self.journal.create_group(group(number), Bytes::new(), done)?;
        }
        for _ in 0..GROUPS {
            receiver.recv()??;
        }
        Ok(())
    }

    /// Lets `groups` append for a turn; returns how many entries became durable, and the time that
    /// took.
    fn turn(&self, groups: u64, pace: Pace) -> Result<(u64, Duration)> {
        let mut appends = Appends::new(self, groups);
        let began = Instant::now();
        match pace {
            Pace::Answered => appends.answered()?,
            Pace::Every(interval) => appends.every(interval)?,
        }
        let took = began.elapsed();
        let count = appends.durable();
        // What is still under way belongs to nobody's turn.
        while self.journal.durable() < self.journal.logical_end() {
            thread::sleep(Duration::from_millis(1));
        }
        for number in 0..groups {
            let upto = LogPosition { term: 1, leader: 1, index: self.last(number) };
            self.journal.purge(group(number), upto)?;
        }
        Ok((count, took))
    }

    fn last(&self, number: u64) -> u64 {
        self.journal.log_state(group(number)).last.map_or(0, |last| last.index)
    }

    /// Fills all groups in turn until `bytes` of payload are written.
    fn fill(&self, bytes: u64, payload: usize) -> Result<()> {
        let value = Bytes::from(vec![b'e'; payload]);
        let each = (FILL_BYTES / payload).max(1) as u64;
        for round in 0.. {
            let number = round % GROUPS;
            if round * each * payload as u64 >= bytes {
                break;
            }
            let next = self.last(number) + 1;
            let entries = |()| (next..next + each).map(|i| entry(i, value.clone())).collect();
            while let Err(error) = self.journal.append(group(number), entries(()), Box::new(|_| {}))
            {
                ensure!(matches!(error, Error::Full { .. }), "{error}");
                thread::sleep(Duration::from_millis(1));
            }
        }
        while self.journal.durable() < self.journal.logical_end() {
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

type Answer = (u64, u64, io::Result<()>);

/// The appends of one turn.
struct Appends<'a> {
    running: &'a Running,
    payload: Bytes,
    sender: mpsc::Sender<Answer>,
    receiver: mpsc::Receiver<Answer>,
    /// Last index of each group before the turn, appended, and known to be durable.
    first: Vec<u64>,
    last: Vec<u64>,
    durable: Vec<u64>,
}

impl<'a> Appends<'a> {
    fn new(running: &'a Running, groups: u64) -> Self {
        let (sender, receiver) = mpsc::channel();
        let first: Vec<u64> = (0..groups).map(|number| running.last(number)).collect();
        let payload = Bytes::from(vec![b'e'; PAYLOAD_BYTES]);
        Self {
            running,
            payload,
            sender,
            receiver,
            last: first.clone(),
            durable: first.clone(),
            first,
        }
    }

    fn append(&mut self, number: u64) -> Result<()> {
        let last = self.last.get_mut(number as usize).context("a known group")?;
        *last += 1;
        let (index, sender) = (*last, self.sender.clone());
        // Only the newest callback of a group is called; it speaks for those before it.
        let done = Box::new(move |result: io::Result<()>| {
            drop(sender.send((number, index, result)));
        });
        let entries = vec![entry(index, self.payload.clone())];
        Ok(self.running.journal.append(group(number), entries, done)?)
    }

    fn note(&mut self, (number, index, result): Answer) -> Result<u64> {
        result?;
        *self.durable.get_mut(number as usize).context("a known group")? = index;
        Ok(number)
    }

    /// Entries of this turn that are durable.
    fn durable(&self) -> u64 {
        self.durable.iter().zip(&self.first).map(|(now, first)| now - first).sum()
    }

    fn answered(&mut self) -> Result<()> {
        let began = Instant::now();
        for number in 0..self.first.len() as u64 {
            self.append(number)?;
        }
        while began.elapsed() < TURN {
            let answer = self.receiver.recv()?;
            let number = self.note(answer)?;
            self.append(number)?;
        }
        Ok(())
    }

    fn every(&mut self, interval: Duration) -> Result<()> {
        let (began, groups) = (Instant::now(), self.first.len() as u64);
        let (mut due, mut appended) = (began, 0);
        while began.elapsed() < TURN {
            while let Ok(answer) = self.receiver.try_recv() {
                self.note(answer)?;
            }
            if Instant::now() < due || appended - self.durable() >= UNDER_WAY_MAX {
                std::hint::spin_loop();
                continue;
            }
            self.append(appended % groups)?;
            appended += 1;
            due += interval;
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.is_closing.store(true, Ordering::Release);
        self.journal.wake();
        if let Some(writer) = self.writer.take() {
            writer.join().expect("the writer does not panic");
        }
    }
}

fn work(mut writer: Writer, is_closing: &AtomicBool) {
    loop {
        if let Step::Idle { next } = writer.step().expect("the disk works") {
            if next.is_none() && is_closing.load(Ordering::Acquire) {
                return;
            }
            writer.wait(Duration::from_secs(1));
        }
    }
}

fn group(number: u64) -> GroupId {
    GroupId { range: RangeId(number), replica: ReplicaId(number) }
}

fn entry(index: u64, payload: Bytes) -> Entry {
    Entry { position: LogPosition { term: 1, leader: 1, index }, payload }
}

/// What the disk does: the same writes and syncs into a file that was written before.
struct Disk {
    file: File,
    bytes: u64,
    offset: u64,
}

impl Disk {
    fn new(dir: &Path) -> Result<Self> {
        const BYTES: u64 = 128 << 20;
        let mut file =
            File::options().create_new(true).read(true).write(true).open(dir.join("raw"))?;
        let zeros = vec![0; 1 << 20];
        for _ in 0..BYTES >> 20 {
            file.write_all(&zeros)?;
        }
        file.sync_all()?;
        Ok(Self { file, bytes: BYTES, offset: 0 })
    }

    /// Writes and syncs `write_bytes` after `write_bytes` for a turn, beside a thread that waits
    /// without rest, as the one that appends does: interrupts of the disk fall on it, too.
    fn turn(&mut self, write_bytes: u64) -> Result<(u64, Duration)> {
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    std::hint::black_box(Instant::now());
                    std::hint::spin_loop();
                }
            });
            let done = self.writes(write_bytes);
            is_over.store(true, Ordering::Relaxed);
            done
        })
    }

    fn writes(&mut self, write_bytes: u64) -> Result<(u64, Duration)> {
        let write = vec![b'w'; usize::try_from(write_bytes)?];
        let (began, mut count) = (Instant::now(), 0);
        while began.elapsed() < TURN {
            if self.offset + write_bytes > self.bytes {
                self.offset = 0;
            }
            self.file.write_all_at(&write, self.offset)?;
            self.file.sync_data()?;
            self.offset += write_bytes;
            count += 1;
        }
        Ok((count, began.elapsed()))
    }
}

/// What adds up over turns.
#[derive(Clone, Copy, Default)]
pub struct Rate {
    count: u64,
    took: Duration,
}

impl Rate {
    /// Adds a turn.
    pub fn add(&mut self, (count, took): (u64, Duration)) {
        self.count += count;
        self.took += took;
    }

    /// Per second.
    pub fn per_second(self) -> f64 {
        self.count as f64 / self.took.as_secs_f64()
    }
}

/// A figure without processor time.
pub fn figure(name: &'static str, value: f64, unit: &'static str) -> Figure {
    Figure { name, value, cpu: None, unit }
}

/// Takes the files of a directory out of the page cache.
pub fn cool(dir: &Path) -> Result<()> {
    for path in fs::read_dir(dir)? {
        let file = File::open(path?.path())?;
        file.sync_all()?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    }
    Ok(())
}

/// What the syncs of one turn were, beside those of the disk alone.
#[derive(Clone, Copy, Default)]
struct Syncs {
    journal: Rate,
    disk: Rate,
}

impl Syncs {
    /// A turn of the journal and one of the disk, which writes as many bytes at a time as the
    /// journal just did.
    fn turn(&mut self, log: &Running, groups: u64, disk: &mut Disk) -> Result<()> {
        let before = log.journal.stats();
        let (_, took) = log.turn(groups, Pace::Every(EVERY))?;
        let after = log.journal.stats();
        let syncs = after.syncs - before.syncs;
        let bytes = (after.bytes_written - before.bytes_written) / syncs.max(1);
        self.journal.add((syncs, took));
        self.disk.add(disk.turn(bytes.next_multiple_of(BATCH_BYTES))?);
        Ok(())
    }
}

fn commits(dir: &Path) -> Result<Vec<Figure>> {
    let log = Running::open(&dir.join("log"))?;
    log.create_groups()?;
    let mut disk = Disk::new(dir)?;
    let (mut one, mut many) = (Rate::default(), Rate::default());
    let (mut one_syncs, mut many_syncs) = (Syncs::default(), Syncs::default());
    for _ in 0..TURNS {
        one.add(log.turn(1, Pace::Answered)?);
        one_syncs.turn(&log, 1, &mut disk)?;
        many_syncs.turn(&log, GROUPS, &mut disk)?;
        many.add(log.turn(GROUPS, Pace::Answered)?);
    }
    Ok(vec![
        figure(DISK_ONE, one_syncs.disk.per_second(), "/s"),
        figure(SYNCS_ONE, one_syncs.journal.per_second(), "/s"),
        figure(DISK_MANY, many_syncs.disk.per_second(), "/s"),
        figure(SYNCS_MANY, many_syncs.journal.per_second(), "/s"),
        figure(ENTRIES_ONE, one.per_second(), "/s"),
        figure(ENTRIES_MANY, many.per_second(), "/s"),
    ])
}

fn recovery(dir: &Path, bytes: u64, figures: &mut Vec<Figure>) -> Result<()> {
    for (payload, [warm, cold]) in RECOVERED {
        let dir = dir.join(payload.to_string());
        {
            let log = Running::open(&dir)?;
            log.create_groups()?;
            log.fill(bytes, payload)?;
        }
        for name in [warm, cold] {
            if name == cold {
                cool(&dir)?;
            }
            let log = Running::open(&dir)?;
            let size = log.journal.usage();
            ensure!(log.recovery.hit.is_empty() && size > bytes, "the log is whole");
            ensure!(log.recovery.groups.len() as u64 == GROUPS);
            let speed = size as f64 / 1e6 / log.opening.as_secs_f64();
            figures.push(figure(name, speed, "MB/s"));
        }
        fs::remove_dir_all(&dir)?;
    }
    Ok(())
}

/// Measures both; logs of `bytes` are recovered.
pub fn run(root: &Path, bytes: u64) -> Result<Vec<Shown>> {
    let dir = root.join("journal");
    fs::create_dir_all(&dir)?;
    let mut figures = commits(&dir)?;
    recovery(&dir, bytes, &mut figures)?;
    let mut shown = vec![Shown { engine: "holdfast", figures }];
    let peer = dir.join("raft-engine");
    fs::create_dir_all(&peer)?;
    shown.push(Shown { engine: "raft-engine", figures: raft_engine::run(&peer, bytes)? });
    fs::remove_dir_all(&dir)?;
    Ok(shown)
}

/// The targets of the journal, with what was reached; how many were met, and missed.
pub fn judge(shown: &[Shown]) -> (String, usize, usize) {
    let Some(ours) = shown.first() else { return (String::new(), 0, 0) };
    let get = |name: &str| ours.figures.iter().find(|f| f.name == name).map_or(0.0, |f| f.value);
    let (one, many) = (get(SYNCS_ONE), get(SYNCS_MANY));
    let grown = get(ENTRIES_MANY) / get(ENTRIES_ONE);
    let mut wanted = vec![
        ("fdatasync of one group, of the disk's own rate".to_owned(), one / get(DISK_ONE), 0.95),
        ("fdatasync of 64 groups, of the rate of one".to_owned(), many / one, 0.95),
        ("entries of 64 groups, times those of one".to_owned(), grown, 20.0),
    ];
    for name in RECOVERED.iter().flat_map(|(_, names)| names) {
        wanted.push((format!("{name}, MB/s"), get(name), 500.0));
    }
    let (mut out, mut met) = (String::new(), 0);
    for (what, reached, least) in &wanted {
        let holds = reached >= least;
        met += usize::from(holds);
        let word = if holds { "met:" } else { "MISSED:" };
        out.push_str(&format!("* {word} journal: {what}: {reached:.2}, wanted {least}\n"));
    }
    (out, met, wanted.len() - met)
}
