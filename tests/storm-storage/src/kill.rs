//! Processes that are killed while they write to the real disk.
//!
//! The child appends entries, applies them, flushes and purges behind them, and prints every index
//! that was acknowledged. The parent kills it at some moment, opens what is left and looks for
//! everything that was printed. What entry `n` of a seed says is known to both.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_env::Disk;
use holdfast_env::real::{RealClock, RealDisk, RealEntropy};
use holdfast_env::sim::Random;
use holdfast_journal::{
    Entry, GroupId, Journal, JournalOptions, LogPosition, Recovery, Step, Writer,
};
use holdfast_lsm::{Durable, Engine, EngineOptions, Shared, SharedOptions};
use holdfast_model::{RangeId, ReplicaId, Revision};

use crate::command::Command;
use crate::harness::{Model, check};

/// What makes this program the child; directory and seed follow.
pub const CHILD: &str = "--child";

const GROUP: GroupId = GroupId { range: RangeId(1), replica: ReplicaId(1) };
/// Kills of one directory, before the next one is begun.
const KILLS_PER_DIRECTORY: u64 = 10;
/// Longest life of a child, milliseconds, after its first acknowledgement.
const LIFE_MS_MAX: u64 = 60;
/// Entries queued before the child waits for the writer.
const QUEUED_MAX: u64 = 64;
/// Revisions that stay readable.
const HISTORY: u64 = 200;

fn engine_options() -> EngineOptions {
    EngineOptions {
        memtable_bytes: 32 << 10,
        table_bytes: 32 << 10,
        level0_tables: 2,
        level_base_bytes: 32 << 10,
        level_multiplier: 3,
        blob_bytes_min: 512,
        blob_file_bytes: 16 << 10,
        manifest_bytes_max: 4 << 10,
        ..EngineOptions::default()
    }
}

fn journal_options() -> JournalOptions {
    JournalOptions {
        segment_bytes: 256 << 10,
        limit_bytes: 8 << 20,
        cache_bytes: 64 << 10,
        queue_bytes_max: 256 << 10,
        ..JournalOptions::default()
    }
}

/// Entry `index` of `seed`.
fn command(seed: u64, index: u64) -> Command {
    Command::random(&mut Random::new(seed ^ index.rotate_left(32)), false)
}

/// Engine and journal of a directory, with the log applied.
struct Opened {
    journal: Arc<Journal>,
    writer: Writer,
    engine: Engine,
    recovery: Recovery,
    last: u64,
}

fn open(dir: &Path, seed: u64) -> Opened {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let (clock, entropy) = (Arc::new(RealClock), Arc::new(RealEntropy));
    disk.create_dir_all(dir).unwrap();
    let options = journal_options();
    let at = dir.join("journal");
    let opened = Journal::open(disk.clone(), entropy.clone(), clock, &at, options);
    let (journal, mut writer, recovery) = opened.unwrap();
    if journal.groups().is_empty() {
        journal.create_group(GROUP, Bytes::new(), Box::new(|_| {})).unwrap();
        writer.step().unwrap();
    }
    let shared = Arc::new(Shared::new(SharedOptions::default()).unwrap());
    let gate = journal.clone();
    let durable: Durable = Arc::new(move || gate.durable());
    let engine =
        Engine::open(disk, entropy, &dir.join("r1"), shared, durable, engine_options()).unwrap();
    let point = engine.durable_point().index.0;
    let last = journal.log_state(GROUP).last.map_or(0, |last| last.index);
    assert!(last >= point, "the engine is at {point}, ahead of the journal at {last}");
    let gate = journal.logical_end();
    for entry in journal.read(GROUP, point + 1..last + 1, u64::MAX).unwrap() {
        let index = entry.position.index;
        assert_eq!(
            entry.payload,
            command(seed, index).encode(),
            "entry {index} is as it was appended"
        );
        Command::decode(entry.payload).apply(&engine, index, gate).unwrap();
    }
    assert_eq!(engine.read_point().index.0, last, "the log has no gap");
    Opened { journal, writer, engine, recovery, last }
}

/// The child: writes until it is killed.
pub fn child(dir: &Path, seed: u64) {
    let Opened { journal, mut writer, engine, mut last, .. } = open(dir, seed);
    std::thread::scope(|scope| {
        let journal = &journal;
        scope.spawn(move || {
            loop {
                if let Step::Idle { .. } = writer.step().unwrap() {
                    writer.wait(Duration::from_millis(5));
                }
            }
        });
        scope.spawn(|| tend(journal, &engine));
        loop {
            if journal.logical_end() - journal.durable() > QUEUED_MAX {
                std::thread::yield_now();
                continue;
            }
            let entry = command(seed, last + 1);
            let position = LogPosition { term: 1, leader: 1, index: last + 1 };
            let entries = vec![Entry { position, payload: entry.encode() }];
            let acknowledged = last + 1;
            let done = Box::new(move |result: std::io::Result<()>| {
                result.unwrap();
                let mut out = std::io::stdout().lock();
                // The pipe keeps what was written, whatever becomes of this process.
                let _ = writeln!(out, "{acknowledged}").and_then(|()| out.flush());
            });
            if journal.append(GROUP, entries, done).is_err() {
                std::thread::yield_now();
                continue;
            }
            last += 1;
            entry.apply(&engine, last, journal.logical_end()).unwrap();
            let revision = engine.read_point().revision.0;
            engine.set_watermark(Revision(revision.saturating_sub(HISTORY)));
        }
    });
}

/// Flushes, compacts and purges, for ever.
fn tend(journal: &Journal, engine: &Engine) {
    loop {
        match engine.next_job() {
            Some(job) => job.run().unwrap(),
            None => std::thread::sleep(Duration::from_millis(1)),
        }
        let durable = engine.durable_point().index.0;
        if let Some(position) = journal.position(GROUP, durable) {
            journal.purge(GROUP, position).unwrap();
        }
    }
}

/// Kills `kills` children of `program` in directories below `scratch`; returns how many entries
/// were acknowledged and found again. Panics at the first that is missing.
pub fn run(program: &Path, scratch: &Path, kills: u64, seed: u64) -> u64 {
    let mut random = Random::new(seed);
    let mut acknowledged = 0;
    let mut killed = 0;
    while killed < kills {
        let dir = scratch.join(format!("kill-{seed}-{killed}"));
        let mut model = Model::default();
        for _ in 0..KILLS_PER_DIRECTORY.min(kills - killed) {
            let last = kill_one(program, &dir, seed, &mut random);
            look_at(&dir, seed, last, &mut model);
            acknowledged += last;
            killed += 1;
        }
        RealDisk.remove_dir_all(&dir).unwrap();
    }
    acknowledged
}

/// Starts a child, kills it, and returns the last index it acknowledged.
fn kill_one(program: &Path, dir: &Path, seed: u64, random: &mut Random) -> u64 {
    let mut child = Process::new(program)
        .arg(CHILD)
        .arg(dir)
        .arg(seed.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = lines.next().expect("the child acknowledges something").unwrap();
    std::thread::sleep(Duration::from_millis(random.below(LIFE_MS_MAX)));
    child.kill().unwrap();
    child.wait().unwrap();
    // A line may be cut in the middle; then it acknowledged nothing that could be misread: digits
    // are missing at its end, so it is smaller.
    let rest = lines.map_while(Result::ok).filter_map(|line| line.parse().ok());
    rest.fold(first.parse().unwrap(), u64::max)
}

/// Everything acknowledged is there, and everything there is right.
fn look_at(dir: &Path, seed: u64, acknowledged: u64, model: &mut Model) {
    let opened = open(dir, seed);
    let Opened { engine, recovery, last, .. } = &opened;
    assert_eq!((recovery.hit.len(), recovery.damage.len()), (0, 0), "a kill damages nothing");
    assert!(*last >= acknowledged, "{acknowledged} was acknowledged, {last} is the last");
    for index in model.point.index.0 + 1..=*last {
        command(seed, index).apply_to_model(model, index);
    }
    // The child gives up history as it applies, which is before the journal has written: as of
    // entries that the kill then took, of which there are no more than it queues.
    let mut furthest = model.clone();
    for index in last + 1..=last + QUEUED_MAX + 1 {
        command(seed, index).apply_to_model(&mut furthest, index);
    }
    let (watermark, bound) = (engine.watermark().0, given_up(&furthest));
    assert!(watermark <= bound, "history is gone up to {watermark}, nothing asked beyond {bound}");
    model.watermark = model.watermark.max(given_up(model)).max(watermark);
    check(engine, model);
}

/// Up to which revision a child that has applied what `model` has gives up history.
fn given_up(model: &Model) -> u64 {
    model.point.revision.0.saturating_sub(HISTORY)
}
