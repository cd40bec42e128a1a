//! A limit on what compactions read and write, shared by all engines of a node.
//!
//! A burst of compaction fills the device's queue, and every read and every sync of the journal
//! behind it waits. A token bucket spreads the burst: compactions wait for their bytes, flushes
//! take theirs at once, and so on credit, because memory and journal wait for them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use holdfast_env::Clock;
use parking_lot::{Condvar, Mutex};

/// The bucket holds what may be moved in this time: the longest burst.
const BURST: Duration = Duration::from_millis(100);
/// The longest single wait; a clock that was frozen meanwhile is looked at again.
const WAIT_MAX: Duration = Duration::from_millis(50);
/// A writer waits at most so often for one piece of its work, whatever the clock says.
const WAITS_MAX: u32 = 10_000;

/// See the module.
pub(crate) struct IoBudget {
    bytes_per_second: u64,
    clock: Arc<dyn Clock>,
    bucket: Mutex<Bucket>,
    /// Nobody signals it: it is how a thread waits.
    timer: Condvar,
}

impl fmt::Debug for IoBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoBudget").field("bytes_per_second", &self.bytes_per_second).finish()
    }
}

impl IoBudget {
    /// A bucket that fills with `bytes_per_second`, full at first.
    pub(crate) fn new(bytes_per_second: u64, clock: Arc<dyn Clock>) -> Self {
        let bucket = Bucket::full(bytes_per_second, clock.monotonic());
        Self { bytes_per_second, clock, bucket: Mutex::new(bucket), timer: Condvar::new() }
    }

    /// Takes `bytes` at once, on credit if need be.
    pub(crate) fn charge(&self, bytes: u64) {
        self.bucket.lock().take(bytes);
    }

    /// Takes `bytes` as soon as the bucket is not empty; waits until then.
    pub(crate) fn wait_for(&self, bytes: u64) {
        let mut bucket = self.bucket.lock();
        for _ in 0..WAITS_MAX {
            bucket.fill(self.bytes_per_second, self.clock.monotonic());
            let wait = bucket.wait(self.bytes_per_second);
            if wait.is_zero() {
                break;
            }
            self.timer.wait_for(&mut bucket, wait.min(WAIT_MAX));
        }
        bucket.take(bytes);
    }
}

/// What may be read or written now; negative: what was written on credit.
#[derive(Debug)]
struct Bucket {
    bytes: i64,
    filled_at: Duration,
}

impl Bucket {
    fn full(bytes_per_second: u64, now: Duration) -> Self {
        Self { bytes: bytes_in(bytes_per_second, BURST), filled_at: now }
    }

    fn fill(&mut self, bytes_per_second: u64, now: Duration) {
        let gained = bytes_in(bytes_per_second, now.saturating_sub(self.filled_at));
        // Too short a time for a byte counts next time.
        if gained > 0 {
            let full = bytes_in(bytes_per_second, BURST);
            self.bytes = self.bytes.saturating_add(gained).min(full);
            self.filled_at = now;
        }
    }

    /// How long until the bucket is not empty.
    fn wait(&self, bytes_per_second: u64) -> Duration {
        match u64::try_from(self.bytes) {
            Ok(1..) => Duration::ZERO,
            _ => {
                let missing = self.bytes.unsigned_abs() + 1;
                Duration::from_nanos(missing.saturating_mul(1_000_000_000) / bytes_per_second + 1)
            }
        }
    }

    fn take(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub_unsigned(bytes);
    }
}

fn bytes_in(bytes_per_second: u64, time: Duration) -> i64 {
    let bytes = u128::from(bytes_per_second) * time.as_nanos() / 1_000_000_000;
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn long_run_keeps_to_the_rate_and_a_burst_to_its_bound() {
        let mut bucket = Bucket::full(10 * MIB, Duration::ZERO);
        let (mut now, mut written) = (Duration::ZERO, 0);
        while now < Duration::from_secs(10) {
            bucket.fill(10 * MIB, now);
            let wait = bucket.wait(10 * MIB);
            if wait.is_zero() {
                bucket.take(MIB / 3);
                written += MIB / 3;
            }
            now += wait;
        }
        let expected = 100 * MIB;
        assert!(written >= expected && written <= expected + 2 * MIB, "{written}");
        bucket.fill(10 * MIB, now + Duration::from_secs(3_600));
        assert_eq!(bucket.bytes, bytes_in(10 * MIB, BURST), "rest is not saved up");
    }

    #[test]
    fn credit_of_a_flush_is_paid_back_before_a_compaction_goes_on() {
        let mut bucket = Bucket::full(10 * MIB, Duration::ZERO);
        bucket.take(21 * MIB);
        assert!(bucket.wait(10 * MIB) >= Duration::from_millis(1_999));
        bucket.fill(10 * MIB, Duration::from_millis(1_900));
        assert!(!bucket.wait(10 * MIB).is_zero());
        bucket.fill(10 * MIB, Duration::from_millis(2_001));
        assert!(bucket.wait(10 * MIB).is_zero());
    }

    #[test]
    fn small_steps_of_time_add_up() {
        let mut bucket = Bucket { bytes: 0, filled_at: Duration::ZERO };
        for step in 1..=1_000 {
            bucket.fill(1_000, Duration::from_micros(100 * step));
        }
        assert_eq!(bucket.bytes, 100);
    }
}
