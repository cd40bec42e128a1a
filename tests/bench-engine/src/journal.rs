//! The journal beside raft-engine: group commit against the disk's own rate, and recovery.
//!
//! Every write is synced, on both sides. Holdfast's journal is asked as a node asks it: appends
//! queue, callbacks tell; raft-engine blocks its callers, so that each of its groups has a thread.

use std::fs::{self, File};
use std::io::Write as _;
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
const TURN: Duration = Duration::from_millis(500);
const TURNS: usize = 6;
/// Appends a group has under way at most, where it does not wait for each.
const WINDOW: usize = 4;

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

    /// Keeps `window` appends of each of `groups` under way for a turn; returns how many became
    /// durable, and the time that took.
    fn turn(&self, groups: u64, window: usize) -> Result<(u64, Duration)> {
        let payload = Bytes::from(vec![b'e'; PAYLOAD_BYTES]);
        let (sender, receiver) = mpsc::channel();
        // Only the newest callback of a group is called; it speaks for those before it.
        let append = |number: u64| -> Result<()> {
            let group = group(number);
            let next = self.journal.log_state(group).last.map_or(1, |last| last.index + 1);
            let sender = sender.clone();
            let done = Box::new(move |result| drop(sender.send((number, next, result))));
            Ok(self.journal.append(group, vec![entry(next, payload.clone())], done)?)
        };
        let began = Instant::now();
        let first: Vec<u64> = (0..groups).map(|n| self.last(n)).collect();
        for number in (0..groups).cycle().take(groups as usize * window) {
            append(number)?;
        }
        let mut durable = first.clone();
        while began.elapsed() < TURN {
            let (number, index, result) = receiver.recv()?;
            result?;
            let before = durable.get_mut(number as usize).context("a known group")?;
            for _ in *before..index {
                append(number)?;
            }
            *before = index;
        }
        let took = began.elapsed();
        let count = durable.iter().zip(&first).map(|(now, first)| now - first).sum();
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
    write: Vec<u8>,
}

impl Disk {
    fn new(dir: &Path, write_bytes: usize) -> Result<Self> {
        const BYTES: u64 = 128 << 20;
        let mut file =
            File::options().create_new(true).read(true).write(true).open(dir.join("raw"))?;
        let zeros = vec![0; 1 << 20];
        for _ in 0..BYTES >> 20 {
            file.write_all(&zeros)?;
        }
        file.sync_all()?;
        Ok(Self { file, bytes: BYTES, offset: 0, write: vec![b'w'; write_bytes] })
    }

    fn turn(&mut self) -> Result<(u64, Duration)> {
        let (began, mut count) = (Instant::now(), 0);
        while began.elapsed() < TURN {
            if self.offset + self.write.len() as u64 > self.bytes {
                self.offset = 0;
            }
            self.file.write_all_at(&self.write, self.offset)?;
            self.file.sync_data()?;
            self.offset += self.write.len() as u64;
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

fn commits(dir: &Path) -> Result<Vec<Figure>> {
    let log = Running::open(&dir.join("log"))?;
    log.create_groups()?;
    // One entry makes a batch of 512 bytes.
    let mut disk = Disk::new(dir, 512)?;
    let (mut raw, mut one, mut piped) = (Rate::default(), Rate::default(), Rate::default());
    let (mut many, mut many_syncs) = (Rate::default(), Rate::default());
    let (mut piped_syncs, mut one_syncs) = (Rate::default(), Rate::default());
    let syncs = || log.journal.stats().syncs;
    for _ in 0..TURNS {
        raw.add(disk.turn()?);
        let turns = [
            (1, 1, &mut one, &mut one_syncs),
            (1, WINDOW, &mut piped, &mut piped_syncs),
            (GROUPS, 1, &mut many, &mut many_syncs),
        ];
        for (groups, window, entries, synced) in turns {
            let before = syncs();
            let (count, took) = log.turn(groups, window)?;
            entries.add((count, took));
            synced.add((syncs() - before, took));
        }
    }
    Ok(vec![
        figure("disk alone: fdatasync", raw.per_second(), "/s"),
        figure("one group, one entry at a time: entries", one.per_second(), "/s"),
        figure("one group, four entries under way: fdatasync", piped_syncs.per_second(), "/s"),
        figure("one group, four entries under way: entries", piped.per_second(), "/s"),
        figure("64 groups, one entry each: fdatasync", many_syncs.per_second(), "/s"),
        figure("64 groups, one entry each: entries", many.per_second(), "/s"),
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
    let disk = get("disk alone: fdatasync");
    let one = get("one group, four entries under way: fdatasync");
    let many = get("64 groups, one entry each: fdatasync");
    let grown =
        get("64 groups, one entry each: entries") / get("one group, one entry at a time: entries");
    let mut wanted = vec![
        ("fdatasync of one group, of the disk's own rate".to_owned(), one / disk, 0.95),
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
