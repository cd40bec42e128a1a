//! TiKV's raft-engine 0.4: every write synced, compression off, as Holdfast's journal has none.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use protobuf::descriptor::UninterpretedOption;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};

use crate::journal::{FILL_BYTES, GROUPS, PAYLOAD_BYTES, RECOVERED, Rate, cool, figure};
use crate::workload::Figure;

/// How long each figure is measured.
const TURN: Duration = Duration::from_secs(3);

/// A message that comes with the library and holds a number and bytes.
#[derive(Clone)]
struct Numbered;

impl MessageExt for Numbered {
    type Entry = UninterpretedOption;

    fn index(entry: &UninterpretedOption) -> u64 {
        entry.get_positive_int_value()
    }
}

fn entry(index: u64, payload: &Bytes) -> UninterpretedOption {
    let mut entry = UninterpretedOption::new();
    entry.set_positive_int_value(index);
    entry.set_string_value(payload.to_vec());
    entry
}

fn open(dir: &Path) -> Result<Engine> {
    let config = Config {
        dir: dir.to_string_lossy().into_owned(),
        batch_compression_threshold: ReadableSize(0),
        ..Config::default()
    };
    Ok(Engine::open(config)?)
}

fn append(engine: &Engine, group: u64, entries: &[UninterpretedOption], sync: bool) -> Result<()> {
    let mut batch = LogBatch::default();
    batch.add_entries::<Numbered>(group, entries)?;
    engine.write(&mut batch, sync)?;
    Ok(())
}

/// Each of `groups` writes one entry after another from a thread of its own.
fn commits(engine: &Engine, groups: u64) -> Result<f64> {
    let payload = Bytes::from(vec![b'e'; PAYLOAD_BYTES]);
    let (count, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let began = Instant::now();
    let write = |group: u64| -> Result<()> {
        let mut next = engine.last_index(group).unwrap_or(0) + 1;
        while !is_over.load(Ordering::Relaxed) {
            append(engine, group, &[entry(next, &payload)], true)?;
            count.fetch_add(1, Ordering::Relaxed);
            next += 1;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let write = &write;
        let threads: Vec<_> = (1..=groups).map(|g| scope.spawn(move || write(g))).collect();
        thread::sleep(TURN);
        is_over.store(true, Ordering::Relaxed);
        threads.into_iter().try_for_each(|t| t.join().expect("a writer does not panic"))
    })?;
    let mut rate = Rate::default();
    rate.add((count.load(Ordering::Relaxed), began.elapsed()));
    Ok(rate.per_second())
}

fn fill(engine: &Engine, bytes: u64, payload: usize) -> Result<()> {
    let value = Bytes::from(vec![b'e'; payload]);
    let each = (FILL_BYTES / payload).max(1) as u64;
    for round in 0..bytes / (each * payload as u64) {
        let group = round % GROUPS + 1;
        let next = engine.last_index(group).unwrap_or(0) + 1;
        let entries: Vec<_> = (next..next + each).map(|index| entry(index, &value)).collect();
        append(engine, group, &entries, false)?;
    }
    engine.sync()?;
    Ok(())
}

/// The figures that have a counterpart.
pub fn run(dir: &Path, bytes: u64) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    {
        let engine = open(&dir.join("log"))?;
        let one = commits(&engine, 1)?;
        figures.push(figure("one group, one entry at a time: entries", one, "/s"));
        let many = commits(&engine, GROUPS)?;
        figures.push(figure("64 groups, one entry each: entries", many, "/s"));
    }
    for (payload, [warm, cold]) in RECOVERED {
        let dir = dir.join(payload.to_string());
        fill(&open(&dir)?, bytes, payload)?;
        for name in [warm, cold] {
            if name == cold {
                cool(&dir)?;
            }
            let began = Instant::now();
            let engine = open(&dir)?;
            let took = began.elapsed();
            ensure!(engine.raft_groups().len() as u64 == GROUPS, "all groups are found again");
            let speed = bytes as f64 / 1e6 / took.as_secs_f64();
            figures.push(figure(name, speed, "MB/s"));
        }
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(figures)
}
