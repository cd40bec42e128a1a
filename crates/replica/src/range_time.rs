//! Range time: the clock a leader stamps its entries with.
//!
//! It runs on the leader's monotonic clock, so a step of the wall clock moves nothing. Every
//! message of a leader tells its followers what time it has, and a new leader goes on from what it
//! heard last. It does not start at wall time: where the clock of the leader before was slow, that
//! would be ahead of what this one promised. Only who has heard of no leader since its process
//! began starts where the range clock would stand by now, or later, near wall time, while most of
//! the range's nodes agree about that. After that the clock is slewed towards wall time by at most
//! a thousandth of the time that passes.
//!
//! Invariants:
//! * A leader's clock never goes back, and never starts before the range clock it has applied.
//! * What was given a time to live by one leader does not end early by true time because another
//!   leads. It may end late: by as much as the first one's clock lost meanwhile, and by up to half
//!   a second where the last message was long on its way.
//!
//! Two things together break the second: a clock that stands still, and messages that stay out for
//! more than half a second while it does.

use std::time::Duration;

use holdfast_model::Term;

/// The most that slewing adds to or takes from passing time: one part in this many.
const SLEW_DIVISOR: i128 = 1_000;

/// How much faster than it passes heard time may be taken back: a message that comes after a
/// silence may have been sent before it, while those that come one after another show a clock that
/// is slow.
const FALL_FACTOR: u32 = 2;
/// The most of heard time that one message takes back.
const FALL_MAX: Duration = Duration::from_millis(500);

/// The clock of the range as its leaders told it, running on by this node's own monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    /// Of the leader who told it.
    term: Term,
    /// Range time at `at`, nanoseconds.
    nanos: i128,
    /// Monotonic time when it was heard.
    at: Duration,
}

impl Heard {
    /// The leader of `term` says at `monotonic` that it is `clock_ms`, or said so a little before.
    pub(crate) fn new(term: Term, clock_ms: u64, monotonic: Duration) -> Self {
        Self { term, nanos: i128::from(clock_ms) * 1_000_000, at: monotonic }
    }

    /// What is known after `told` was heard as well.
    ///
    /// Of two accounts the newer one counts, also where it is earlier than the older one has
    /// become: the leader's clock is slow then. But it may also have been sent long ago, when the
    /// network or this process stood still; so no message takes back more than [`FALL_MAX`].
    pub(crate) fn and_then(self, told: Self) -> Self {
        if told.term < self.term {
            return self;
        }
        let passed = told.at.saturating_sub(self.at);
        let fall = passed.saturating_mul(FALL_FACTOR).min(FALL_MAX);
        Self { nanos: told.nanos.max(self.nanos_at(told.at) - nanos(fall)), ..told }
    }

    fn nanos_at(&self, monotonic: Duration) -> i128 {
        self.nanos + nanos(monotonic.saturating_sub(self.at))
    }
}

/// The running clock of one leadership. Pure: it is told the times.
#[derive(Clone, Debug)]
pub(crate) struct RangeTime {
    /// Range time at `seen`, nanoseconds.
    nanos: i128,
    /// Monotonic time when it was last looked at.
    seen: Duration,
}

impl RangeTime {
    /// The clock of a new leader that has heard another one, or led before.
    ///
    /// `clock_ms` is the range clock it has applied.
    pub(crate) fn go_on(clock_ms: u64, heard: Heard, monotonic: Duration) -> Self {
        let applied = i128::from(clock_ms) * 1_000_000;
        Self { nanos: heard.nanos_at(monotonic).max(applied), seen: monotonic }
    }

    /// The clock of a new leader that has heard of none.
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
        millis(self.nanos)
    }

    /// Range time at `monotonic`, milliseconds, as far as it is known without the wall clock.
    pub(crate) fn at_ms(&self, monotonic: Duration) -> u64 {
        millis(self.nanos + nanos(monotonic.saturating_sub(self.seen)))
    }
}

fn millis(nanos: i128) -> u64 {
    u64::try_from(nanos / 1_000_000).unwrap_or(0)
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

    fn millis(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// What is heard of a leader in term 1 whose messages say `clock_ms` at `at_ms`, at `then_ms`.
    fn heard_at(then_ms: u64, messages: impl IntoIterator<Item = (u64, u64)>) -> u64 {
        let told = |(at_ms, clock_ms)| Heard::new(Term(1), clock_ms, millis(at_ms));
        let heard = messages.into_iter().map(told).reduce(|a, b| a.and_then(b)).unwrap();
        RangeTime::go_on(0, heard, millis(then_ms)).at_ms(millis(then_ms))
    }

    /// Every quarter of a second from `from_ms` to `upto_ms`.
    fn heartbeats(from_ms: u64, upto_ms: u64) -> impl Iterator<Item = u64> {
        (from_ms..=upto_ms).step_by(250)
    }

    #[test]
    fn a_new_leader_goes_on_from_what_the_last_one_said() {
        let heard = heartbeats(0, 10_000).map(|at| (at, 7_000 + at));
        assert_eq!(heard_at(12_000, heard), 19_000);
    }

    #[test]
    fn a_new_leader_takes_nothing_for_passed_that_a_slow_clock_has_not_shown() {
        let slow = heartbeats(0, 10_000).map(|at| (at, 7_000 + at * 9 / 10));
        assert_eq!(heard_at(10_000, slow), 16_000);
        let frozen = heartbeats(0, 10_000).map(|at| (at, 7_000));
        assert_eq!(heard_at(11_000, frozen), 8_000);
        let busy_and_frozen = (0..10_000).map(|at| (at, 7_000));
        assert_eq!(heard_at(10_000, busy_and_frozen), 7_001);
    }

    #[test]
    fn a_message_that_was_long_on_its_way_takes_back_little() {
        // Nothing for five seconds, then all of it at once, in order or not.
        let late: Vec<_> = heartbeats(5_250, 10_000).map(|sent| (10_100, sent)).collect();
        let heard = |part: &[(u64, u64)]| {
            let before = heartbeats(0, 5_000).map(|at| (at, at));
            heard_at(10_100, before.chain(part.iter().copied()))
        };
        assert_eq!(heard(&late[..1]), 10_100 - 500);
        assert_eq!(heard(&late), 10_000);
        let turned: Vec<_> = late.iter().rev().copied().collect();
        assert_eq!(heard(&turned), 10_000);
    }

    #[test]
    fn a_silence_before_a_clock_stands_still_is_made_up_for() {
        let before = heartbeats(0, 5_000).map(|at| (at, at));
        let frozen = heartbeats(10_000, 20_000).map(|at| (at, 5_000));
        assert_eq!(heard_at(20_000, before.chain(frozen)), 5_000);
    }

    #[test]
    fn what_a_deposed_leader_says_is_not_heard() {
        let heard = Heard::new(Term(2), 5_000, millis(0));
        assert_eq!(heard.and_then(Heard::new(Term(1), 9_000, millis(10))), heard);
        let newer = heard.and_then(Heard::new(Term(3), 9_000, millis(10)));
        assert_eq!(newer, Heard::new(Term(3), 9_000, millis(10)));
    }

    #[test]
    fn a_new_leader_never_starts_before_what_it_has_applied() {
        let heard = Heard::new(Term(1), 5_000, millis(0));
        let mut time = RangeTime::go_on(9_000, heard, millis(100));
        assert_eq!(time.now_ms(millis(200), None), 9_100);
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
