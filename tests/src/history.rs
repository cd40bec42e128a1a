//! What clients saw, and whether a store that keeps its promises could have shown it.
//!
//! Answers carry revisions, so the server itself proposes the order of all writes of a key (a
//! *witness*). The checker replays it: the order must fit real time, every read must fit its
//! place in it, nothing acknowledged may be missing. Operations whose outcome is unknown may have
//! happened at any time after they began, once. Cost: O(n log n).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use holdfast_client::ReadLevel;

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was made at this revision.
    Acknowledged(u64),
    /// Nobody knows.
    Unknown,
    /// It did not happen, says the answer.
    Refused,
}

/// A write of a value that is written only once.
#[derive(Clone, Debug)]
pub struct Write {
    /// The key.
    pub key: String,
    /// The value, unique in the history.
    pub value: u64,
    /// When the call began.
    pub start: Instant,
    /// When the answer was there.
    pub end: Instant,
    /// What it said.
    pub outcome: Outcome,
}

/// What a read found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Revision of the entry.
    pub revision: u64,
    /// Its value.
    pub value: u64,
}

/// A read that was answered.
#[derive(Clone, Debug)]
pub struct Read {
    /// The key.
    pub key: String,
    /// The level.
    pub level: ReadLevel,
    /// When the call began.
    pub start: Instant,
    /// When the answer was there.
    pub end: Instant,
    /// The entry; `None`: no such key.
    pub seen: Option<Seen>,
    /// Follower reads: the age the answer can have at most.
    pub bound: Option<Duration>,
}

/// Everything some clients did.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Writes, in any order.
    pub writes: Vec<Write>,
    /// Reads, in any order.
    pub reads: Vec<Read>,
}

/// Moments by which a revision was known to exist, for "what must be seen from then on".
#[derive(Debug, Default)]
struct Floor {
    /// Moment and the highest revision known by then; both grow.
    known: Vec<(Instant, u64)>,
}

impl Floor {
    fn new(mut known: Vec<(Instant, u64)>) -> Self {
        known.sort_unstable();
        let mut highest = 0;
        for (_, revision) in &mut known {
            highest = highest.max(*revision);
            *revision = highest;
        }
        Self { known }
    }

    /// The highest revision known before `moment`.
    fn before(&self, moment: Instant) -> u64 {
        let index = self.known.partition_point(|(known, _)| *known < moment);
        let last = index.checked_sub(1).and_then(|index| self.known.get(index));
        last.map_or(0, |(_, revision)| *revision)
    }
}

impl History {
    /// Writes that were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.writes.iter().filter(|w| matches!(w.outcome, Outcome::Acknowledged(_))).count()
    }

    /// Reads of `level` that were answered.
    pub fn reads_at(&self, level: ReadLevel) -> usize {
        self.reads.iter().filter(|read| read.level == level).count()
    }

    /// Checks all keys.
    ///
    /// # Errors
    /// The first thing that a store which keeps its promises cannot have shown.
    pub fn check(&self) -> Result<()> {
        let mut keys: BTreeMap<&str, (Vec<&Write>, Vec<&Read>)> = BTreeMap::new();
        for write in &self.writes {
            keys.entry(&write.key).or_default().0.push(write);
        }
        for read in &self.reads {
            keys.entry(&read.key).or_default().1.push(read);
        }
        keys.values().try_for_each(|(writes, reads)| check_key(writes, reads))
    }
}

fn check_key(writes: &[&Write], reads: &[&Read]) -> Result<()> {
    let places = places(writes, reads)?;
    let acknowledged: Vec<(Instant, u64)> = writes
        .iter()
        .filter_map(|write| match write.outcome {
            Outcome::Acknowledged(revision) => Some((write.end, revision)),
            _ => None,
        })
        .collect();
    let current = reads.iter().filter(|read| read.level != ReadLevel::Follower);
    let observed = current
        .filter_map(|read| Some((read.end, read.seen?.revision)))
        .chain(acknowledged.clone());
    let (written, known) = (Floor::new(acknowledged), Floor::new(observed.collect()));
    for write in writes {
        if let Outcome::Acknowledged(revision) = write.outcome {
            let floor = known.before(write.start);
            ensure!(revision > floor, "{write:?} stands before revision {floor}, known earlier");
        }
    }
    for read in reads {
        let revision = read.seen.map_or(0, |seen| seen.revision);
        let floor = match (read.level, read.bound) {
            (ReadLevel::Follower, None) => 0,
            (ReadLevel::Follower, Some(bound)) => {
                read.start.checked_sub(bound).map_or(0, |moment| written.before(moment))
            }
            _ => known.before(read.start),
        };
        ensure!(revision >= floor, "stale: {read:?} must show revision {floor} or a later one");
    }
    ensure!(places.len() <= writes.len(), "more changes than writes");
    Ok(())
}

/// The value written at each revision, as writes and reads agree on it.
fn places(writes: &[&Write], reads: &[&Read]) -> Result<BTreeMap<u64, u64>> {
    let by_value: BTreeMap<u64, &&Write> = writes.iter().map(|w| (w.value, w)).collect();
    ensure!(by_value.len() == writes.len(), "a value was written twice");
    let mut at_revision: BTreeMap<u64, u64> = BTreeMap::new();
    let mut of_value: BTreeMap<u64, u64> = BTreeMap::new();
    let mut place = |revision: u64, value: u64| {
        let known = *at_revision.entry(revision).or_insert(value);
        ensure!(known == value, "revision {revision} holds {known} and {value}");
        let known = *of_value.entry(value).or_insert(revision);
        ensure!(known == revision, "{value} was written twice, at {known} and {revision}");
        Ok(())
    };
    for write in writes {
        if let Outcome::Acknowledged(revision) = write.outcome {
            place(revision, write.value)?;
        }
    }
    for read in reads {
        let Some(seen) = read.seen else { continue };
        let write = by_value.get(&seen.value);
        ensure!(write.is_some(), "{read:?} shows what nobody wrote");
        let Some(write) = write else { continue };
        ensure!(write.outcome != Outcome::Refused, "{read:?} shows a refused {write:?}");
        ensure!(write.start <= read.end, "{read:?} shows the future {write:?}");
        place(seen.revision, seen.value)?;
    }
    Ok(at_revision)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds histories of one key on a clock that counts milliseconds.
    struct Maker {
        zero: Instant,
        history: History,
    }

    impl Maker {
        fn new() -> Self {
            // Far enough from the clock's own beginning for every bound.
            Self { zero: Instant::now() + Duration::from_secs(100), history: History::default() }
        }

        fn at(&self, ms: u64) -> Instant {
            self.zero + Duration::from_millis(ms)
        }

        fn write(mut self, start: u64, end: u64, value: u64, outcome: Outcome) -> Self {
            let (start, end) = (self.at(start), self.at(end));
            let key = "k".to_owned();
            self.history.writes.push(Write { key, value, start, end, outcome });
            self
        }

        fn read(self, start: u64, end: u64, level: ReadLevel, seen: (u64, u64)) -> Self {
            self.bounded(start, end, level, seen, None)
        }

        fn bounded(
            mut self,
            start: u64,
            end: u64,
            level: ReadLevel,
            (revision, value): (u64, u64),
            bound: Option<u64>,
        ) -> Self {
            let (start, end) = (self.at(start), self.at(end));
            let seen = (revision > 0).then_some(Seen { revision, value });
            let bound = bound.map(Duration::from_millis);
            self.history.reads.push(Read { key: "k".to_owned(), level, start, end, seen, bound });
            self
        }

        fn verdict(self) -> Result<(), String> {
            self.history.check().map_err(|error| error.to_string())
        }
    }

    use Outcome::{Acknowledged, Refused, Unknown};
    use ReadLevel::{Follower, Lease, Linearizable};

    #[test]
    fn a_history_in_order_passes() {
        let history = Maker::new()
            .write(0, 10, 1, Acknowledged(2))
            .write(20, 40, 2, Acknowledged(3))
            .write(25, 45, 3, Unknown)
            .read(12, 13, Linearizable, (2, 1))
            .read(30, 31, Lease, (2, 1))
            .read(50, 51, Linearizable, (4, 3))
            .bounded(60, 61, Follower, (3, 2), Some(5));
        assert_eq!(history.verdict(), Ok(()));
    }

    #[test]
    fn a_read_that_misses_an_acknowledged_write_is_found() {
        for level in [Linearizable, Lease] {
            let base = Maker::new().write(0, 10, 1, Acknowledged(2));
            let stale = base.write(20, 30, 2, Acknowledged(3)).read(31, 32, level, (2, 1));
            assert!(stale.verdict().is_err_and(|e| e.contains("stale")));
        }
        let lost = Maker::new().write(0, 10, 1, Acknowledged(2)).read(11, 12, Lease, (0, 0));
        assert!(lost.verdict().is_err_and(|e| e.contains("stale")));
    }

    #[test]
    fn a_read_that_goes_back_behind_another_is_found() {
        let back = Maker::new()
            .write(0, 10, 1, Acknowledged(2))
            .write(20, 90, 2, Acknowledged(3))
            .read(30, 31, Linearizable, (3, 2))
            .read(40, 41, Linearizable, (2, 1));
        assert!(back.verdict().is_err_and(|e| e.contains("stale")));
    }

    #[test]
    fn a_follower_read_may_be_as_old_as_its_bound_and_no_older() {
        let maker =
            || Maker::new().write(0, 10, 1, Acknowledged(2)).write(20, 30, 2, Acknowledged(3));
        assert_eq!(maker().bounded(40, 41, Follower, (2, 1), Some(15)).verdict(), Ok(()));
        assert_eq!(maker().bounded(40, 41, Follower, (2, 1), None).verdict(), Ok(()));
        let old = maker().bounded(40, 41, Follower, (2, 1), Some(5)).verdict();
        assert!(old.is_err_and(|e| e.contains("stale")));
    }

    #[test]
    fn a_write_that_ran_twice_is_found() {
        let twice = Maker::new().write(0, 10, 1, Unknown).read(20, 21, Linearizable, (2, 1)).read(
            30,
            31,
            Linearizable,
            (3, 1),
        );
        assert!(twice.verdict().is_err_and(|e| e.contains("written twice")));
    }

    #[test]
    fn what_was_refused_or_never_written_or_not_yet_written_must_not_be_seen() {
        let refused = Maker::new().write(0, 1, 1, Refused).read(2, 3, Lease, (2, 1));
        assert!(refused.verdict().is_err_and(|e| e.contains("refused")));
        let invented = Maker::new().read(2, 3, Lease, (2, 1));
        assert!(invented.verdict().is_err_and(|e| e.contains("nobody wrote")));
        let early = Maker::new().write(9, 10, 1, Acknowledged(2)).read(2, 3, Lease, (2, 1));
        assert!(early.verdict().is_err_and(|e| e.contains("future")));
    }

    #[test]
    fn revisions_against_real_time_are_found() {
        let turned =
            Maker::new().write(0, 10, 1, Acknowledged(3)).write(20, 30, 2, Acknowledged(2));
        assert!(turned.verdict().is_err_and(|e| e.contains("stands before")));
        let shared = Maker::new().write(0, 10, 1, Acknowledged(3)).write(5, 30, 2, Acknowledged(3));
        assert!(shared.verdict().is_err_and(|e| e.contains("holds 1 and 2")));
    }
}
