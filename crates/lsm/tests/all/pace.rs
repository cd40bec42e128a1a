//! What compactions move per second is bounded; flushes are never held up.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use holdfast_env::Clock;
use holdfast_env::sim::{SimDisk, SimEntropy};
use holdfast_lsm::{Batch, Engine, Family, JobKind, ReadPoint, Shared, SharedOptions};
use holdfast_model::{LogIndex, Revision};

use crate::harness::small_options;

const RATE: u64 = 1 << 20;

/// A clock that moves on only when somebody looks at it: who never waits hardly moves it.
#[derive(Debug, Default)]
struct WatchedClock {
    millis: AtomicU64,
}

impl WatchedClock {
    const STEP_MS: u64 = 50;

    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.millis.load(Ordering::Relaxed))
    }
}

impl Clock for WatchedClock {
    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.millis.fetch_add(Self::STEP_MS, Ordering::Relaxed))
    }

    fn wall(&self) -> Duration {
        self.elapsed()
    }
}

/// Engines that share a limit of 1 MiB/s.
fn engines(clock: Arc<WatchedClock>, count: usize) -> Vec<Engine> {
    let options = SharedOptions { write_bytes_per_second: RATE, ..SharedOptions::default() };
    let shared = Arc::new(Shared::with_clock(options, clock).unwrap());
    let disk = SimDisk::new();
    let open = |number: usize| {
        let mut options = small_options();
        (options.memtable_bytes, options.compression) =
            (8 << 20, [holdfast_lsm::Compression::None; 7]);
        Engine::open(
            Arc::new(disk.clone()),
            Arc::new(SimEntropy::new(number as u64)),
            Path::new(&format!("/r{number}")),
            shared.clone(),
            Arc::new(|| u64::MAX),
            options,
        )
        .unwrap()
    };
    (0..count).map(open).collect()
}

/// Writes a table of about 300 KiB over keys that all tables share.
fn flush(engine: &Engine) {
    let mut point = engine.read_point();
    for n in 0..3_000u32 {
        point = ReadPoint {
            revision: Revision(point.revision.0 + 1),
            index: LogIndex(point.index.0 + 1),
            clock_ms: 0,
        };
        let mut batch = Batch::new();
        let (key, value) = (Bytes::from(format!("key-{n:05}")), Bytes::from(vec![b'v'; 90]));
        batch.put(Family::Data, key, point.revision.0, 0, value);
        engine.write(batch, point, 0).unwrap();
    }
    engine.seal();
    let job = engine.next_job().unwrap();
    assert_eq!(job.kind(), JobKind::Flush);
    job.run().unwrap();
}

#[test]
fn compactions_of_all_engines_together_keep_to_the_rate_and_pay_for_the_flushes() {
    let clock = Arc::new(WatchedClock::default());
    let engines = engines(clock.clone(), 2);
    for _ in 0..2 {
        engines.iter().for_each(flush);
    }
    let before = clock.elapsed();
    assert!(before <= Duration::from_millis(WatchedClock::STEP_MS), "a flush has waited");
    let flushed: u64 = engines.iter().map(|e| e.stats().flushed_bytes).sum();
    assert!(flushed > RATE, "{flushed}");
    thread::scope(|scope| {
        for engine in &engines {
            scope.spawn(|| {
                while let Some(job) = engine.next_job() {
                    job.run().unwrap();
                }
            });
        }
    });
    let stats: Vec<_> = engines.iter().map(Engine::stats).collect();
    assert!(stats.iter().all(|s| s.compactions > 0), "{stats:?}");
    let moved: u64 = stats.iter().map(|s| s.compacted_bytes_in + s.compacted_bytes_out).sum();
    let took = clock.elapsed().as_secs_f64();
    // A burst, and the last table of each engine, are on credit.
    let owed = (flushed + moved).saturating_sub(RATE * 3 / 2) as f64 / RATE as f64;
    assert!(owed > 1.5 && took >= owed, "{flushed} + {moved} bytes in {took} s");
    assert!(took < 3.0 * (owed + 1.5), "{flushed} + {moved} bytes in {took} s");
}
