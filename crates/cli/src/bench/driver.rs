//! The closed loop: many clients, each with one operation under way, for a fixed time.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};

use crate::output;

/// Longest latency a histogram tells apart, microseconds (one minute).
const LATENCY_US_MAX: u64 = 60_000_000;
/// Messages of errors that are kept of one run.
const ERRORS_KEPT_MAX: usize = 3;

/// A small generator (SplitMix64): good enough to choose keys, cheap enough not to be measured.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator of its own sequence.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound` (> 0).
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

/// What one run gave.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Operations that succeeded.
    pub operations: u64,
    /// Operations that failed.
    pub errors: u64,
    /// Some of their messages.
    pub messages: Vec<String>,
    /// How long it ran.
    pub elapsed: Duration,
    /// Latencies of successes, microseconds.
    pub latency: Histogram<u64>,
}

impl Outcome {
    /// Successes a second.
    pub fn rate(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// The latency below which this part of all operations stayed, milliseconds.
    pub fn quantile_ms(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1000.0
    }
}

/// An empty histogram of latencies in microseconds.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are constants in order")
}

fn bar(label: &str, duration: Duration) -> ProgressBar {
    if !output::decorated() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(duration.as_millis() as u64).with_message(label.to_owned());
    let style = ProgressStyle::with_template("{msg:28} [{bar:30}] {prefix}");
    bar.set_style(style.expect("the template is constant").progress_chars("=> "));
    bar
}

/// Runs `clients` loops of what `make` builds for each client (by number) for `duration`.
///
/// `make(i)` gives a function that performs one operation each time it is called.
pub async fn run<M, O, F>(label: &str, clients: u32, duration: Duration, make: M) -> Result<Outcome>
where
    M: Fn(u32) -> O,
    O: FnMut() -> F + Send + 'static,
    F: Future<Output = Result<()>> + Send,
{
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let mut tasks = Vec::new();
    for i in 0..clients {
        let mut operation = make(i);
        let (stop, done) = (stop.clone(), done.clone());
        tasks.push(tokio::spawn(async move {
            let mut latency = histogram();
            let (mut operations, mut errors, mut messages) = (0, 0, Vec::new());
            while !stop.load(Ordering::Relaxed) {
                let begin = Instant::now();
                match operation().await {
                    Ok(()) => {
                        operations += 1;
                        latency.saturating_record(begin.elapsed().as_micros() as u64);
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => {
                        errors += 1;
                        if messages.len() < ERRORS_KEPT_MAX {
                            messages.push(format!("{error:#}"));
                        }
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
            }
            (operations, errors, messages, latency)
        }));
    }
    let bar = bar(label, duration);
    let mut last = 0;
    while started.elapsed() < duration {
        let left = duration.saturating_sub(started.elapsed());
        tokio::time::sleep(left.min(Duration::from_millis(250))).await;
        let now = done.load(Ordering::Relaxed);
        bar.set_position(started.elapsed().as_millis() as u64);
        bar.set_prefix(format!("{:>9} ops  {:>8} ops/s", now, (now - last) * 4));
        last = now;
    }
    stop.store(true, Ordering::Relaxed);
    let elapsed = started.elapsed();
    bar.finish_and_clear();
    let mut outcome =
        Outcome { operations: 0, errors: 0, messages: Vec::new(), elapsed, latency: histogram() };
    for task in tasks {
        let (operations, errors, messages, latency) = task.await?;
        outcome.operations += operations;
        outcome.errors += errors;
        outcome.messages.extend(messages);
        outcome.latency.add(latency)?;
    }
    outcome.messages.sort();
    outcome.messages.dedup();
    outcome.messages.truncate(ERRORS_KEPT_MAX);
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_numbers_stay_below_their_bound_and_differ_by_seed() {
        let (mut a, mut b) = (Random::new(1), Random::new(2));
        assert!((0..1000).all(|_| a.below(10) < 10));
        assert_ne!(a.next(), b.next());
    }

    #[tokio::test]
    async fn every_success_is_counted_and_every_error_too() {
        let outcome = run("test", 4, Duration::from_millis(120), |i| {
            move || async move {
                tokio::time::sleep(Duration::from_millis(1)).await;
                if i == 0 { anyhow::bail!("no") } else { Ok(()) }
            }
        })
        .await
        .unwrap();
        assert!(outcome.operations > 0 && outcome.errors > 0);
        assert_eq!(outcome.latency.len(), outcome.operations);
        assert_eq!(outcome.messages, ["no"]);
    }
}
