//! What is measured, the same for every engine.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::time::{ClockId, clock_gettime};

use crate::report;
use crate::store::{Open, Settings, Store, VALUE_BYTES, key};
use crate::tails::Tails;

/// Operations of one batch.
pub const BATCH: usize = 16;
/// Records of a short and of a long scan.
const SHORT: usize = 10;
const LONG: usize = 1_000;
/// A cache that holds next to nothing.
const CACHE_BYTES_COLD: u64 = 2 << 20;
/// Flushes it takes at most until level 0 is compacted away.
const FLUSHES_MAX: usize = 20;

/// One figure of one engine.
#[derive(Clone, Debug)]
pub struct Figure {
    pub name: &'static str,
    /// Time by the clock on the wall per operation, or the figure itself, see `unit`.
    pub value: f64,
    /// Processor time of the whole process per operation; none where `value` is not a time.
    pub cpu: Option<f64>,
    pub unit: &'static str,
}

/// The state of the runs of one engine.
pub struct Run {
    engine: &'static str,
    open: Open,
    settings: Settings,
    keys: u64,
    random: Random,
    values: Vec<u8>,
    pub figures: Vec<Figure>,
}

impl Run {
    pub fn new(engine: &'static str, open: Open, settings: Settings, keys: u64) -> Self {
        let mut run = Self {
            engine,
            open,
            settings,
            keys,
            random: Random(1),
            values: Vec::new(),
            figures: Vec::new(),
        };
        // Half of a value compresses, half does not.
        for _ in 0..1_000 {
            let noise = run.next_random().to_le_bytes();
            run.values.extend_from_slice(&noise[..4]);
            run.values.extend_from_slice(b"abcd");
        }
        run
    }

    /// Everything, in a directory of its own.
    pub fn all(&mut self, dir: &Path) -> Result<()> {
        self.sequential(&dir.join("sequential"))?;
        let path = dir.join("random");
        self.random_writes(&path)?;
        self.reads(&path)?;
        self.cold_reads(&path)?;
        self.mixed(&path)?;
        self.tails(&path)?;
        fs::remove_dir_all(dir)?;
        Ok(())
    }

    fn sequential(&mut self, path: &Path) -> Result<()> {
        let mut store = (self.open)(path, self.settings)?;
        let keys = self.keys;
        self.fill("sequential fill", store.as_mut(), 0..keys, |_, n| n)
    }

    fn random_writes(&mut self, path: &Path) -> Result<()> {
        let mut store = (self.open)(path, self.settings)?;
        let (keys, before) = (self.keys, written_bytes());
        let raw = keys * (VALUE_BYTES as u64 + 20);
        // A permutation, so that every key is there: an odd factor modulo the next power of two.
        let mask = keys.next_power_of_two() - 1;
        let scatter = move |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) & mask;
        let present = (0..=mask).filter(move |n| scatter(*n) < keys);
        self.fill("random fill", store.as_mut(), present, move |_, n| scatter(n))?;
        let keys_twice = keys;
        self.fill("overwrite", store.as_mut(), 0..keys_twice, move |run, _| {
            run.next_random() % keys
        })?;
        let written = written_bytes().saturating_sub(before);
        self.figure("write amplification", written as f64 / (2 * raw) as f64, "×");
        self.figure("space amplification", bytes_of(path)? as f64 / raw as f64, "×");
        if let Some(bytes) = store.resident_bytes() {
            self.figure("filter and index", bytes as f64 / keys as f64, "B/key");
        }
        Ok(())
    }

    /// Writes what `number` makes of the items, flushes and compacts, all of it measured.
    fn fill(
        &mut self,
        name: &'static str,
        store: &mut dyn Store,
        items: impl Iterator<Item = u64>,
        number: impl Fn(&mut Self, u64) -> u64,
    ) -> Result<()> {
        let values = self.values.clone();
        let watch = Watch::start();
        let (mut count, mut batch) = (0, Vec::with_capacity(BATCH));
        for item in items {
            let start = self.next_random() as usize % (values.len() - VALUE_BYTES);
            batch.push((key(number(self, item)), &values[start..start + VALUE_BYTES]));
            count += 1;
            if batch.len() == BATCH {
                store.write(&batch)?;
                batch.clear();
            }
        }
        store.write(&batch)?;
        let (foreground, _) = watch.read(count);
        store.settle()?;
        let (all, cpu) = watch.read(count);
        // How many tables are left in level 0 is chance; reads shall meet the same in all engines.
        for _ in 0..FLUSHES_MAX {
            if store.level0_tables() == 0 {
                break;
            }
            store.write(&[(key(0), &values[..VALUE_BYTES])])?;
            store.settle()?;
        }
        self.time(name, foreground, cpu);
        let settled = match name {
            "sequential fill" => "sequential fill, settled",
            "random fill" => "random fill, settled",
            _ => "overwrite, settled",
        };
        self.time(settled, all, cpu);
        Ok(())
    }

    fn reads(&mut self, path: &Path) -> Result<()> {
        let watch = Watch::start();
        let store = (self.open)(path, self.settings)?;
        let opened = watch.read(1).0 / 1e6;
        self.figure("open", opened, "ms");
        let (keys, reads) = (self.keys, self.keys.min(500_000));
        for n in 0..keys {
            ensure!(store.get(&key(n))? == Some(VALUE_BYTES), "key {n} is missing");
        }
        self.measure("get, cached", reads, |random| {
            Ok(usize::from(store.get(&key(random % keys))?.is_some()))
        })?;
        self.measure("get, hot thousandth", reads, |random| {
            Ok(usize::from(store.get(&key(random % (keys / 1_000).max(1)))?.is_some()))
        })?;
        self.measure("get, missing", reads, |random| {
            let mut missing = key(random % keys);
            missing[19] |= 0x40;
            Ok(usize::from(store.get(&missing)?.is_none()))
        })?;
        self.measure("scan of 10", reads / 10, |random| store.scan(&key(random % keys), SHORT))?;
        self.measure("scan of 1,000", reads / 500, |random| store.scan(&key(random % keys), LONG))
    }

    /// Blocks come from the system's page cache: what is measured is the engine's own part.
    fn cold_reads(&mut self, path: &Path) -> Result<()> {
        let settings = Settings { cache_bytes: CACHE_BYTES_COLD, ..self.settings };
        let store = (self.open)(path, settings)?;
        let (keys, reads) = (self.keys, self.keys.min(200_000));
        self.measure("get, uncached", reads, |random| {
            Ok(usize::from(store.get(&key(random % keys))?.is_some()))
        })
    }

    /// Nine reads, then a write, of one key each.
    fn mixed(&mut self, path: &Path) -> Result<()> {
        let mut store = (self.open)(path, self.settings)?;
        let (keys, operations) = (self.keys, self.keys.min(500_000));
        let value = self.values[..VALUE_BYTES].to_vec();
        for n in 0..keys {
            store.get(&key(n))?;
        }
        let watch = Watch::start();
        for n in 0..operations {
            let wanted = key(self.next_random() % keys);
            if n % 10 == 9 {
                store.write(&[(wanted, &value)])?;
            } else {
                ensure!(store.get(&wanted)?.is_some(), "a key is missing");
            }
        }
        let (value, cpu) = watch.read(operations);
        self.time("mixed 90/10", value, cpu);
        Ok(())
    }

    /// Tails and stalls, beside compaction and without it.
    fn tails(&mut self, path: &Path) -> Result<()> {
        let mut store = (self.open)(path, self.settings)?;
        let tails = Tails::new(self.keys, self.values[..VALUE_BYTES].to_vec());
        for figure in tails.run(store.as_mut())? {
            self.note(figure);
        }
        Ok(())
    }

    fn measure(
        &mut self,
        name: &'static str,
        count: u64,
        mut operation: impl FnMut(u64) -> Result<usize>,
    ) -> Result<()> {
        let watch = Watch::start();
        for _ in 0..count {
            ensure!(operation(self.next_random())? > 0, "{name} found nothing");
        }
        let (value, cpu) = watch.read(count);
        self.time(name, value, cpu);
        Ok(())
    }

    fn figure(&mut self, name: &'static str, value: f64, unit: &'static str) {
        self.note(Figure { name, value, cpu: None, unit });
    }

    fn time(&mut self, name: &'static str, value: f64, cpu: f64) {
        self.note(Figure { name, value, cpu: Some(cpu), unit: "ns" });
    }

    /// Keeps a figure, and says it at once: a whole run takes half an hour.
    fn note(&mut self, figure: Figure) {
        eprintln!("{}: {}: {}", self.engine, figure.name, report::cell(&figure));
        self.figures.push(figure);
    }

    fn next_random(&mut self) -> u64 {
        self.random.next()
    }
}

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Wall and processor time since its start.
struct Watch {
    wall: Instant,
    cpu: Duration,
}

impl Watch {
    fn start() -> Self {
        Self { wall: Instant::now(), cpu: cpu_time() }
    }

    /// Nanoseconds per operation: by the wall, and of the processor.
    fn read(&self, operations: u64) -> (f64, f64) {
        let each = |time: Duration| time.as_nanos() as f64 / operations.max(1) as f64;
        (each(self.wall.elapsed()), each(cpu_time() - self.cpu))
    }
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Bytes this process has handed to the file system so far.
fn written_bytes() -> u64 {
    let io = fs::read_to_string("/proc/self/io").unwrap_or_default();
    let field = io.lines().find_map(|line| line.strip_prefix("wchar: "));
    field.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}

fn bytes_of(path: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        bytes += if meta.is_dir() { bytes_of(&entry.path())? } else { meta.len() };
    }
    Ok(bytes)
}
