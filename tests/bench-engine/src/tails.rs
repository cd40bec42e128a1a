//! How long the slowest operations take, in peace and beside flushes and compactions.
//!
//! One thread reads at a fixed rate. For the second part it also writes, at four fifths of the rate
//! the engine was seen to sustain, in between. The rate of reads is the same in both parts because
//! the machine interrupts a thread so many times in a second, and so one read in a thousand as soon
//! as reads are few: as fast as it can would compare one read in a thousand of many with one of
//! few. What an operation waited for a processor is not the engine's doing: the kernel tells how
//! long that was. Nor is what the whole machine stood still: a watch that sleeps for a millisecond
//! at a time sees that.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::store::{Store, key};
use crate::workload::{BATCH, Figure, Random};

/// Writes by which the sustained rate is found, as a share of the keys.
const PROBE_SHARE: u64 = 2;
/// Share of that rate at which is written while tails are measured, per cent.
const RATE_PERCENT: u32 = 80;
/// Time from one read to the next, where writes leave it.
const READ_EVERY: Duration = Duration::from_micros(20);
/// How long each part runs.
const PART: Duration = Duration::from_secs(20);
/// Operations between two looks at how long the thread has waited for a processor.
const LOOK_EVERY: u64 = 128;
/// An operation that takes longer is a stall.
const STALL: Duration = Duration::from_millis(20);
/// How long the watch sleeps, and how much later it must wake up for that to be a standstill.
const WATCH_EVERY: Duration = Duration::from_millis(1);
const STANDSTILL: Duration = Duration::from_millis(10);
/// Standstills that are remembered.
const STANDSTILLS_MAX: usize = 10_000;

/// One run.
pub struct Tails {
    keys: u64,
    value: Vec<u8>,
    random: Random,
}

/// What one part saw.
#[derive(Default)]
struct Seen {
    reads: Vec<u32>,
    writes: Vec<u32>,
    /// The longest operation, less what it waited for a processor.
    longest: Duration,
    stalls: u64,
}

impl Tails {
    pub fn new(keys: u64, value: Vec<u8>) -> Self {
        Self { keys, value, random: Random(3) }
    }

    pub fn run(mut self, store: &mut dyn Store) -> Result<Vec<Figure>> {
        for n in 0..self.keys {
            store.get(&key(n))?;
        }
        let sustained = self.sustained(store)?;
        for n in 0..self.keys {
            store.get(&key(n))?;
        }
        let quiet = self.part(store, None)?;
        let busy = self.part(store, Some(sustained / RATE_PERCENT * 100))?;
        let figure = |name, value, unit| Figure { name, value, cpu: None, unit };
        let rate = BATCH as f64 / sustained.as_secs_f64();
        Ok(vec![
            figure("writes sustained", rate / 1e3, "k/s"),
            figure("get p99.9, quiet", quantile(quiet.reads, 0.999), "µs"),
            figure("get p99.9, while compacting", quantile(busy.reads, 0.999), "µs"),
            figure("batch of 16 p99.9, while compacting", quantile(busy.writes, 0.999), "µs"),
            figure("longest operation, while compacting", busy.longest.as_secs_f64() * 1e3, "ms"),
            figure("stalls > 20 ms, while compacting", busy.stalls as f64, "stalls"),
        ])
    }

    fn write(&mut self, store: &mut dyn Store) -> Result<()> {
        let keys: Vec<_> = (0..BATCH).map(|_| key(self.random.next() % self.keys)).collect();
        let batch: Vec<_> = keys.into_iter().map(|key| (key, self.value.as_slice())).collect();
        store.write(&batch)
    }

    /// Time of a batch at the rate that leaves nothing to be compacted behind.
    fn sustained(&mut self, store: &mut dyn Store) -> Result<Duration> {
        let batches = (self.keys / PROBE_SHARE / BATCH as u64).max(1);
        let begin = Instant::now();
        for _ in 0..batches {
            self.write(store)?;
        }
        store.settle()?;
        Ok(begin.elapsed() / u32::try_from(batches).context("few enough batches")?)
    }

    /// Reads for a while; writes a batch in every `interval`, if there is one.
    fn part(&mut self, store: &mut dyn Store, interval: Option<Duration>) -> Result<Seen> {
        let mut seen = Seen::default();
        let (waits, watch) = (Waits::open()?, Watch::start());
        let begin = Instant::now();
        let (mut read_due, mut write_due, mut count) = (begin, begin, 0_u64);
        let (mut running, mut waited) = waits.both()?;
        while begin.elapsed() < PART {
            let is_write = interval.is_some() && Instant::now() >= write_due;
            if !is_write && Instant::now() < read_due {
                std::hint::spin_loop();
                continue;
            }
            if count.is_multiple_of(LOOK_EVERY) {
                (running, waited) = waits.both()?;
            }
            count += 1;
            let wanted = key(self.random.next() % self.keys);
            let start = Instant::now();
            if is_write {
                self.write(store)?;
            } else {
                store.get(&wanted)?;
            }
            let took = start.elapsed();
            let tenths = u32::try_from(took.as_nanos() / 100).unwrap_or(u32::MAX);
            if is_write { &mut seen.writes } else { &mut seen.reads }.push(tenths);
            if took > STALL || took > seen.longest {
                let (ran, now) = waits.both()?;
                let queued = now.saturating_sub(waited);
                let still = if took > STALL { watch.stood_still(start) } else { Duration::ZERO };
                let own = took.saturating_sub(queued).saturating_sub(still);
                if took > STALL {
                    let what = if is_write { "batch" } else { "get" };
                    let ran = ran.saturating_sub(running);
                    eprintln!(
                        "a {what} took {took:.1?}: ran at most {ran:.1?}, waited {queued:.1?} for \
                         a processor, the machine stood still for {still:.1?}"
                    );
                }
                seen.longest = seen.longest.max(own);
                seen.stalls += u64::from(own > STALL);
            }
            match interval {
                Some(interval) if is_write => write_due += interval,
                // Reads that writes left no time for are not made up for.
                _ => read_due = (read_due + READ_EVERY).max(start),
            }
        }
        Ok(seen)
    }
}

/// Microseconds below which this share of `times`, tenths of a microsecond, lies.
fn quantile(mut times: Vec<u32>, share: f64) -> f64 {
    times.sort_unstable();
    let at = (times.len() as f64 * share) as usize;
    times.get(at.min(times.len().saturating_sub(1))).map_or(0.0, |tenths| f64::from(*tenths) / 10.0)
}

/// How long this thread has run, and has been ready to run and did not.
struct Waits(File);

impl Waits {
    fn open() -> Result<Self> {
        Ok(Self(File::open("/proc/thread-self/schedstat").context("the scheduler's figures")?))
    }

    fn both(&self) -> Result<(Duration, Duration)> {
        let mut text = [0; 64];
        let length = self.0.read_at(&mut text, 0)?;
        let mut figures = std::str::from_utf8(&text[..length])?.split_whitespace();
        let mut next = || -> Result<Duration> {
            let nanos = figures.next().context("two figures")?;
            Ok(Duration::from_nanos(nanos.parse()?))
        };
        Ok((next()?, next()?))
    }
}

/// Notes when the machine stood still: a thread that slept was woken up late, and not because other
/// threads had the processor.
struct Watch {
    is_over: Arc<AtomicBool>,
    /// When each ended, and how long it was.
    seen: Arc<Mutex<Vec<(Instant, Duration)>>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    fn start() -> Self {
        let (is_over, seen) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<Vec<_>>>::default());
        let thread = thread::spawn({
            let (is_over, seen) = (is_over.clone(), seen.clone());
            move || watch(&is_over, &seen)
        });
        Self { is_over, seen, thread: Some(thread) }
    }

    /// How long it stood still since `start`. The watch may be woken up after who asks.
    fn stood_still(&self, start: Instant) -> Duration {
        thread::sleep(2 * WATCH_EVERY);
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let since = seen.iter().rev().take_while(|(end, _)| *end >= start);
        since.map(|(end, long)| (*long).min(*end - start)).sum()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the watch does not panic");
        }
    }
}

fn watch(is_over: &AtomicBool, seen: &Mutex<Vec<(Instant, Duration)>>) {
    let waits = Waits::open().expect("the scheduler's figures were there before");
    while !is_over.load(Ordering::Relaxed) {
        let (began, before) = (Instant::now(), waits.both());
        thread::sleep(WATCH_EVERY);
        let late = began.elapsed().saturating_sub(WATCH_EVERY);
        let (Ok((_, before)), Ok((_, after))) = (before, waits.both()) else { return };
        let late = late.saturating_sub(after.saturating_sub(before));
        if late >= STANDSTILL {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.len() < STANDSTILLS_MAX {
                seen.push((Instant::now(), late));
            }
        }
    }
}
