//! Range time: the clock a leader stamps its entries with.
//!
//! It runs on the leader's monotonic clock, so a step of the wall clock moves nothing. A new
//! leader starts where the range clock would stand by now; it may start later, near wall time,
//! only while most of the range's nodes agree about wall time. After that it is slewed towards
//! the wall clock by at most a thousandth of the time that passes.

use std::time::Duration;

/// The most that slewing adds to or takes from passing time: one part in this many.
const SLEW_DIVISOR: i128 = 1_000;

/// The running clock of one leadership. Pure: it is told the times.
#[derive(Clone, Debug)]
pub(crate) struct RangeTime {
    /// Range time at `seen`, nanoseconds.
    nanos: i128,
    /// Monotonic time when it was last looked at.
    seen: Duration,
}

impl RangeTime {
    /// The clock of a new leader.
    ///
    /// `clock_ms` is the range clock it has applied, `since_apply` how long ago by its own
    /// monotonic clock (zero where that was not in this process). `wall` is its wall clock, given
    /// only while most of the range's nodes agree with it within `offset_max`.
    pub(crate) fn start(
        clock_ms: u64,
        since_apply: Duration,
        monotonic: Duration,
        wall: Option<Duration>,
        offset_max: Duration,
    ) -> Self {
        let ran_on = i128::from(clock_ms) * 1_000_000 + nanos(since_apply);
        let agreed = wall.map_or(0, |wall| nanos(wall.saturating_sub(offset_max)));
        Self { nanos: ran_on.max(agreed), seen: monotonic }
    }

    /// Range time now, milliseconds. Never goes back while `monotonic` does not.
    pub(crate) fn now_ms(&mut self, monotonic: Duration, wall: Option<Duration>) -> u64 {
        let passed = nanos(monotonic.saturating_sub(self.seen));
        self.seen = self.seen.max(monotonic);
        self.nanos += passed;
        if let Some(wall) = wall {
            let slew_max = passed / SLEW_DIVISOR;
            self.nanos += (nanos(wall) - self.nanos).clamp(-slew_max, slew_max);
        }
        u64::try_from(self.nanos / 1_000_000).unwrap_or(0)
    }
}

fn nanos(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX)
}

/// Whether most of `nodes` (this one among them, as offset 0) have a wall clock within
/// `offset_max` of this node's. `None` stands for a node whose clock is not known.
pub(crate) fn most_agree(offsets_ms: &[Option<i64>], offset_max: Duration) -> bool {
    let limit = u64::try_from(offset_max.as_millis()).unwrap_or(u64::MAX);
    let agreeing = offsets_ms.iter().flatten().filter(|o| o.unsigned_abs() <= limit).count();
    agreeing * 2 > offsets_ms.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFSET: Duration = Duration::from_millis(500);

    fn seconds(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn a_new_leader_goes_on_from_the_range_clock() {
        let mut time = RangeTime::start(7_000, seconds(2), seconds(50), None, OFFSET);
        assert_eq!(time.now_ms(seconds(50), None), 9_000);
        assert_eq!(time.now_ms(seconds(51), None), 10_000);
    }

    #[test]
    fn a_new_leader_starts_near_an_agreed_wall_clock_but_never_before_the_range_clock() {
        let mut ahead = RangeTime::start(7_000, seconds(0), seconds(1), Some(seconds(90)), OFFSET);
        assert_eq!(ahead.now_ms(seconds(1), Some(seconds(90))), 89_500);
        let mut behind =
            RangeTime::start(95_000, seconds(0), seconds(1), Some(seconds(90)), OFFSET);
        assert_eq!(behind.now_ms(seconds(1), Some(seconds(90))), 95_000);
    }

    #[test]
    fn a_step_of_the_wall_clock_moves_range_time_by_a_thousandth_at_most() {
        let mut time = RangeTime::start(1_000_000, seconds(0), seconds(0), None, OFFSET);
        let forward = time.now_ms(seconds(10), Some(seconds(1_000_000)));
        assert_eq!(forward, 1_010_010);
        let back = time.now_ms(seconds(20), Some(seconds(1)));
        assert_eq!(back, 1_020_000);
    }

    #[test]
    fn range_time_never_goes_back() {
        let mut time = RangeTime::start(5_000, seconds(0), seconds(10), None, OFFSET);
        let mut last = 0;
        for monotonic in [10, 11, 9, 11, 12] {
            let now = time.now_ms(seconds(monotonic), Some(seconds(0)));
            assert!(now >= last, "{now} after {last}");
            last = now;
        }
    }

    #[test]
    fn agreement_takes_more_than_half_of_the_nodes() {
        assert!(most_agree(&[Some(0)], OFFSET));
        assert!(most_agree(&[Some(0), Some(-500), None], OFFSET));
        assert!(!most_agree(&[Some(0), Some(501), None], OFFSET));
        assert!(!most_agree(&[Some(0), None], OFFSET));
        assert!(!most_agree(&[], OFFSET));
    }
}
