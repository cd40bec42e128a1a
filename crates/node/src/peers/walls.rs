//! What is known of the wall clock of another node.
//!
//! A node tells its wall clock when it is asked, and it may have told it at any moment between the
//! question and the answer: what comes of it is in doubt by half of the time between them. An
//! answer that was held back for seconds tells nothing of the clock, and a clock that is right must
//! not be called wrong for it.

use std::time::Duration;

use parking_lot::Mutex;

/// How far a wall clock is ahead of this node's monotonic one, as far as one call can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    /// Milliseconds, by the middle of the call.
    pub(super) ahead_ms: i64,
    /// By how much it may be more or less: half of what the call took, in milliseconds.
    doubt_ms: u64,
}

impl Reading {
    /// Of a call that took from `before` to `after` by this node's monotonic clock, and told `wall`
    /// milliseconds.
    pub(super) fn new(before: Duration, after: Duration, wall_ms: u64) -> Self {
        let middle_ms = i64::try_from(((before + after) / 2).as_millis()).unwrap_or(i64::MAX);
        let half = after.saturating_sub(before) / 2;
        Self {
            ahead_ms: i64::try_from(wall_ms).unwrap_or(i64::MAX).saturating_sub(middle_ms),
            doubt_ms: u64::try_from(half.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Whether it is too much in doubt to tell clocks apart that may differ by `most_ms`.
    fn is_vague(&self, most_ms: u64) -> bool {
        self.doubt_ms > most_ms / 2
    }
}

/// What is known of one node's wall clock.
#[derive(Debug, Default)]
pub(super) struct PeerWall(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// How far it is ahead of our monotonic one, milliseconds: that a step of our wall clock parts
    /// us is seen at once, not when clocks are compared next.
    ahead_ms: Option<i64>,
    /// Whether it was seen to be wrong, and not seen to be right since.
    is_wrong: bool,
}

impl PeerWall {
    /// How far it is ahead of our monotonic clock, milliseconds; `None` if that is not known.
    pub(super) fn ahead_ms(&self) -> Option<i64> {
        self.0.lock().ahead_ms
    }

    /// Takes a reading into account, while our own wall clock is `own_ms` ahead of our monotonic
    /// one and both may differ by `most_ms`. Returns by how much they differ if that is news, too
    /// much, and beyond doubt.
    pub(super) fn note(&self, reading: Reading, own_ms: i64, most_ms: u64) -> Option<i64> {
        let mut known = self.0.lock();
        if reading.is_vague(most_ms) {
            // It may still tell that what was known, itself in some doubt, does not hold any more.
            let most = reading.doubt_ms.saturating_add(most_ms / 2);
            known.ahead_ms = known.ahead_ms.filter(|a| a.abs_diff(reading.ahead_ms) <= most);
            return None;
        }
        known.ahead_ms = Some(reading.ahead_ms);
        let offset_ms = reading.ahead_ms.saturating_sub(own_ms);
        let was_wrong = known.is_wrong;
        if offset_ms.unsigned_abs() <= most_ms {
            known.is_wrong = false;
        } else if offset_ms.unsigned_abs() - reading.doubt_ms > most_ms {
            known.is_wrong = true;
        }
        (known.is_wrong && !was_wrong).then_some(offset_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST_MS: u64 = 500;
    /// How far our own wall clock is ahead of our monotonic one.
    const OWN_MS: i64 = 1_000_000;

    /// A reading at 10 s of a clock that is `offset_ms` ahead of ours; the call took `took_ms`, of
    /// which the question took `there_ms`.
    fn reading(offset_ms: i64, took_ms: u64, there_ms: u64) -> Reading {
        let before = Duration::from_secs(10);
        let told_at = i64::try_from(10_000 + there_ms).unwrap();
        let wall_ms = u64::try_from(told_at + OWN_MS + offset_ms).unwrap();
        Reading::new(before, before + Duration::from_millis(took_ms), wall_ms)
    }

    #[test]
    fn an_answer_that_was_held_back_neither_alarms_nor_replaces_what_was_known() {
        let wall = PeerWall::default();
        let held = reading(0, 3_000, 1);
        assert_eq!(held.ahead_ms - OWN_MS, -1_499, "it looks as if the clock were wrong");
        assert_eq!(wall.note(held, OWN_MS, MOST_MS), None);
        assert_eq!(wall.ahead_ms(), None, "nothing is known of it");
        assert_eq!(wall.note(reading(20, 2, 1), OWN_MS, MOST_MS), None);
        assert_eq!(wall.note(held, OWN_MS, MOST_MS), None);
        assert_eq!(wall.ahead_ms(), Some(OWN_MS + 20));
    }

    #[test]
    fn a_vague_reading_that_what_was_known_cannot_explain_makes_it_unknown() {
        let wall = PeerWall::default();
        assert_eq!(wall.note(reading(0, 2, 1), OWN_MS, MOST_MS), None);
        assert_eq!(wall.note(reading(60_000, 3_000, 1), OWN_MS, MOST_MS), None);
        assert_eq!(wall.ahead_ms(), None);
    }

    #[test]
    fn a_wrong_clock_alarms_once_and_again_after_it_was_right() {
        let wall = PeerWall::default();
        let note = |offset_ms| wall.note(reading(offset_ms, 2, 1), OWN_MS, MOST_MS);
        assert_eq!(note(700), Some(700));
        assert_eq!(note(700), None);
        assert_eq!(note(-300), None);
        assert_eq!(note(-700), Some(-700));
        assert_eq!(wall.ahead_ms(), Some(OWN_MS - 700));
    }

    #[test]
    fn a_clock_alarms_only_when_it_is_wrong_at_either_end_of_the_doubt() {
        let wall = PeerWall::default();
        // 400 ms that look like 600, and 600 that are.
        let late = reading(400, 400, 400);
        assert_eq!(late.ahead_ms - OWN_MS, 600);
        assert_eq!(wall.note(late, OWN_MS, MOST_MS), None);
        assert_eq!(wall.note(reading(600, 2, 1), OWN_MS, MOST_MS), Some(600));
    }
}
