//! Clients that ask at a steady rate, whatever else the cluster does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use hdrhistogram::Histogram;
use holdfast_client::{Batch, Client};
use tokio::time::{Instant, sleep_until};

use crate::bench::driver::{self, Random};

/// How many clients share the rate; each has one operation under way.
const CLIENTS: u32 = 64;
/// Different keys, and how many are written at once before the start.
const KEYS: u64 = 10_000;
const FILL_KEYS: u64 = 500;
/// Keys that are written to learn the revision of each range.
const PROBES: u64 = 64;

/// Half puts, half linearizable gets.
#[derive(Clone)]
pub struct Steady {
    client: Client,
    value: Bytes,
    /// Between two operations of one client.
    interval: Duration,
    /// Puts acknowledged so far.
    puts: Arc<AtomicU64>,
}

/// What the clients saw; latencies in microseconds from the time an operation was due.
pub struct Seen {
    /// Of puts.
    pub puts: Histogram<u64>,
    /// Of gets.
    pub gets: Histogram<u64>,
    /// Operations that failed.
    pub errors: u64,
}

impl Seen {
    fn new() -> Self {
        Self { puts: driver::histogram(), gets: driver::histogram(), errors: 0 }
    }
}

impl Steady {
    /// Clients that together start `rate` operations a second.
    pub fn new(client: Client, value_bytes: u32, rate: u32) -> Self {
        let value = Bytes::from(vec![b'v'; value_bytes as usize]);
        let interval = Duration::from_secs(1) * CLIENTS / rate.max(1);
        Self { client, value, interval, puts: Arc::default() }
    }

    fn key(number: u64) -> String {
        format!("beside-{number:06}")
    }

    /// Writes every key once.
    ///
    /// # Errors
    /// A write that fails.
    pub async fn fill(&self) -> Result<()> {
        for start in (0..KEYS).step_by(FILL_KEYS as usize) {
            self.write(start..KEYS.min(start + FILL_KEYS)).await?;
        }
        Ok(())
    }

    /// Writes these keys; the newest revision of each range they are in.
    async fn write(&self, keys: std::ops::Range<u64>) -> Result<BTreeMap<u64, u64>> {
        let put = |batch: Batch, i| batch.put(Self::key(i), self.value.clone());
        let mut newest = BTreeMap::new();
        for answer in keys.fold(self.client.batch(), put).await? {
            let answer = answer?;
            self.puts.fetch_add(1, Ordering::Relaxed);
            let revision = newest.entry(answer.range.0).or_default();
            *revision = answer.revision.0.max(*revision);
        }
        Ok(newest)
    }

    /// Changes of all ranges that these clients did not make. Exact while they rest, else up to as
    /// many too high as have a put under way.
    ///
    /// # Errors
    /// A write that fails.
    pub async fn changes_of_others(&self) -> Result<u64> {
        let revisions: u64 = self.write(0..PROBES).await?.values().sum();
        Ok(revisions - self.puts.load(Ordering::Relaxed).min(revisions))
    }

    /// Works until `end` comes true.
    ///
    /// # Errors
    /// A client that could not run; failed operations are counted, not returned.
    pub async fn run(&self, end: impl Future<Output = ()>) -> Result<Seen> {
        let (stop, start) = (Arc::new(AtomicBool::new(false)), Instant::now());
        let clients: Vec<_> =
            (0..CLIENTS).map(|i| tokio::spawn(self.clone().work(i, start, stop.clone()))).collect();
        end.await;
        stop.store(true, Ordering::Relaxed);
        let mut all = Seen::new();
        for client in clients {
            let seen = client.await?;
            all.puts.add(seen.puts)?;
            all.gets.add(seen.gets)?;
            all.errors += seen.errors;
        }
        Ok(all)
    }

    async fn work(self, number: u32, start: Instant, stop: Arc<AtomicBool>) -> Seen {
        let mut random = Random::new(u64::from(number));
        let mut due = start + self.interval * number / CLIENTS;
        let mut seen = Seen::new();
        while !stop.load(Ordering::Relaxed) {
            // An operation that waited for the one before counts from when it should have begun.
            let is_late = Instant::now() > due;
            sleep_until(due).await;
            let begin = if is_late { due } else { Instant::now() };
            let key = Self::key(random.below(KEYS));
            let (histogram, is_done) = if random.below(2) == 0 {
                let is_done = self.client.put(key, self.value.clone()).send().await.is_ok();
                self.puts.fetch_add(u64::from(is_done), Ordering::Relaxed);
                (&mut seen.puts, is_done)
            } else {
                let answer = self.client.get(key).send().await;
                (&mut seen.gets, answer.is_ok_and(|answer| answer.entry.is_some()))
            };
            histogram.saturating_record(begin.elapsed().as_micros() as u64);
            seen.errors += u64::from(!is_done);
            due += self.interval;
        }
        seen
    }
}
