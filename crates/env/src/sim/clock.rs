//! Time that moves when told.
//!
//! One [`SimTime`] is the true time of a simulated world; every node has a [`SimClock`] that reads
//! it through its own rate and offset, and can be stopped. Wall and monotonic time are kept apart:
//! a jump of the wall clock never moves the monotonic one.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::Clock;

/// One thousand per mille: the rate of a clock that runs with true time.
const RATE_TRUE_PERMILLE: u32 = 1_000;

/// 2026-01-01T00:00:00Z, where simulated wall clocks start.
const WALL_START: Duration = Duration::from_secs(1_767_225_600);

/// The true time of a simulated world, shared by the clocks of its nodes.
#[derive(Debug, Default)]
pub struct SimTime {
    elapsed: Mutex<Duration>,
}

impl SimTime {
    /// A world whose time stands at zero.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Lets `duration` pass for everybody.
    pub fn advance(&self, duration: Duration) {
        *self.elapsed.lock() += duration;
    }

    /// Moves to `elapsed` since the start; an earlier time is ignored, true time never goes back.
    pub fn advance_to(&self, elapsed: Duration) {
        let mut now = self.elapsed.lock();
        *now = elapsed.max(*now);
    }

    /// True time since the start.
    pub fn elapsed(&self) -> Duration {
        *self.elapsed.lock()
    }
}

/// What a clock showed when it was last touched, and how it has run since.
#[derive(Debug)]
struct Reading {
    /// True time of the last touch.
    at: Duration,
    monotonic: Duration,
    wall: Duration,
    rate_permille: u32,
    frozen: bool,
    paused: bool,
}

impl Reading {
    /// What has passed on this clock since the last touch.
    fn passed(&self, now: Duration) -> Duration {
        let elapsed = now.saturating_sub(self.at);
        let stands = self.frozen || self.paused;
        if stands { Duration::ZERO } else { scaled(elapsed, self.rate_permille) }
    }

    /// Moves the last touch to `now`, so that a change takes effect from here on.
    fn touch(&mut self, now: Duration) {
        if self.paused {
            // What passes meanwhile is made up for in one leap.
            return;
        }
        let passed = self.passed(now);
        self.monotonic += passed;
        self.wall += passed;
        self.at = now;
    }
}

fn scaled(duration: Duration, permille: u32) -> Duration {
    let nanoseconds = duration.as_nanos() * u128::from(permille) / u128::from(RATE_TRUE_PERMILLE);
    Duration::new(
        u64::try_from(nanoseconds / 1_000_000_000).unwrap_or(u64::MAX),
        (nanoseconds % 1_000_000_000) as u32,
    )
}

/// A node's clock: true time through a rate, an offset and, at times, a stop.
#[derive(Debug)]
pub struct SimClock {
    time: Arc<SimTime>,
    reading: Mutex<Reading>,
}

impl Default for SimClock {
    fn default() -> Self {
        Self::new(SimTime::new())
    }
}

impl SimClock {
    /// A correct clock of the world `time`: monotonic from zero, wall from the start of 2026.
    pub fn new(time: Arc<SimTime>) -> Self {
        let at = time.elapsed();
        let reading = Reading {
            at,
            monotonic: Duration::ZERO,
            wall: WALL_START + at,
            rate_permille: RATE_TRUE_PERMILLE,
            frozen: false,
            paused: false,
        };
        Self { time, reading: Mutex::new(reading) }
    }

    /// Lets true time pass, for this clock and all others of the same world.
    pub fn advance(&self, duration: Duration) {
        self.time.advance(duration);
    }

    /// From now on the clock runs at `rate_permille` thousandths of true time (1000 = right).
    pub fn set_rate(&self, rate_permille: u32) {
        self.change(|reading| reading.rate_permille = rate_permille);
    }

    /// The wall clock jumps ahead; the monotonic clock does not notice.
    pub fn jump_wall_ahead(&self, by: Duration) {
        self.change(|reading| reading.wall += by);
    }

    /// The wall clock jumps back, at most to the epoch; the monotonic clock does not notice.
    pub fn jump_wall_back(&self, by: Duration) {
        self.change(|reading| reading.wall = reading.wall.saturating_sub(by));
    }

    /// Both clocks stop, as a broken machine's do. A paused process is not this: its clocks go on.
    pub fn freeze(&self) {
        self.change(|reading| reading.frozen = true);
    }

    /// Both clocks run on from where they stopped; what passed meanwhile is lost to them.
    pub fn thaw(&self) {
        self.change(|reading| reading.frozen = false);
    }

    /// The process that reads the clock is stopped, and so cannot see it run.
    pub fn pause(&self) {
        self.change(|reading| reading.paused = true);
    }

    /// The process goes on, and sees that its clocks did as well: they leap ahead.
    pub fn resume(&self) {
        self.reading.lock().paused = false;
    }

    fn change(&self, change: impl FnOnce(&mut Reading)) {
        let mut reading = self.reading.lock();
        reading.touch(self.time.elapsed());
        change(&mut reading);
    }
}

impl Clock for SimClock {
    fn monotonic(&self) -> Duration {
        let reading = self.reading.lock();
        reading.monotonic + reading.passed(self.time.elapsed())
    }

    fn wall(&self) -> Duration {
        let reading = self.reading.lock();
        reading.wall + reading.passed(self.time.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn time_stands_still_until_it_is_advanced() {
        let clock = SimClock::default();
        assert_eq!(clock.monotonic(), Duration::ZERO);
        assert_eq!(clock.wall(), WALL_START);
        clock.advance(SECOND);
        assert_eq!(clock.monotonic(), SECOND);
        assert_eq!(clock.wall(), WALL_START + SECOND);
    }

    #[test]
    fn clocks_of_one_world_drift_apart_by_their_rates() {
        let time = SimTime::new();
        let (fast, slow) = (SimClock::new(time.clone()), SimClock::new(time.clone()));
        fast.set_rate(1_100);
        slow.set_rate(900);
        time.advance(10 * SECOND);
        assert_eq!(fast.monotonic(), 11 * SECOND);
        assert_eq!(slow.monotonic(), 9 * SECOND);
        fast.set_rate(1_000);
        time.advance(SECOND);
        assert_eq!(fast.monotonic(), 12 * SECOND, "a new rate leaves the past alone");
    }

    #[test]
    fn a_wall_clock_jump_does_not_move_the_monotonic_clock() {
        let clock = SimClock::default();
        clock.advance(SECOND);
        clock.jump_wall_back(3_600 * SECOND);
        assert_eq!(clock.wall(), WALL_START + SECOND - 3_600 * SECOND);
        clock.jump_wall_ahead(7_200 * SECOND);
        assert_eq!(clock.wall(), WALL_START + SECOND + 3_600 * SECOND);
        assert_eq!(clock.monotonic(), SECOND);
    }

    #[test]
    fn a_frozen_clock_loses_the_time_it_stood() {
        let clock = SimClock::default();
        clock.freeze();
        clock.advance(5 * SECOND);
        assert_eq!(clock.monotonic(), Duration::ZERO);
        clock.thaw();
        clock.advance(SECOND);
        assert_eq!(clock.monotonic(), SECOND);
    }

    #[test]
    fn a_paused_process_sees_its_clocks_leap_by_what_it_missed() {
        let clock = SimClock::default();
        clock.advance(SECOND);
        clock.pause();
        clock.advance(5 * SECOND);
        assert_eq!(clock.monotonic(), SECOND);
        clock.set_rate(1_100);
        clock.resume();
        assert_eq!(clock.monotonic(), SECOND + 5 * SECOND * 11 / 10);
        clock.advance(SECOND);
        assert_eq!(clock.monotonic(), SECOND + 6 * SECOND * 11 / 10);
    }

    #[test]
    fn true_time_never_goes_back() {
        let time = SimTime::new();
        time.advance_to(2 * SECOND);
        time.advance_to(SECOND);
        assert_eq!(time.elapsed(), 2 * SECOND);
    }
}
