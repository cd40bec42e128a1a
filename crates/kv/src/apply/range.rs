//! The range's own truth, its compacted revision, and the marks history is judged by.

use std::time::Duration;

use holdfast_lsm::{Family, ReadPoint};
use holdfast_model::{History, KeyspaceId, RangeEpoch, RangeId, Revision, Span};

use super::{Applier, Step};
use crate::command::{Compact, Configure};
use crate::records::{COMPACTED, CompactedRecord, MARKS, Mark, MarksRecord, TRUTH, seal};
use crate::{Outcome, Refusal, Truth};

/// Into how many marks the time history is kept for is divided.
const MARKS_PER_HISTORY: u64 = 32;
/// Least range time between two marks.
const MARK_SPACING_MIN: Duration = Duration::from_secs(1);
/// Most marks kept: one history, and as many that a late compaction has not dropped yet.
const MARKS_MAX: usize = 2 * MARKS_PER_HISTORY as usize;

impl Truth {
    /// The truth a configuration sets; none where its span is no span.
    pub(crate) fn of(configure: &Configure) -> Option<Self> {
        Some(Self {
            range: RangeId(configure.range),
            keyspace: KeyspaceId(configure.keyspace),
            span: Span::new(configure.span_start, configure.span_end)?,
            epoch: RangeEpoch(configure.epoch),
            history: configure.history.map(History::from).unwrap_or_default(),
            apply_version: configure.apply_version,
        })
    }

    /// The configuration that sets this truth; also its record.
    pub(crate) fn to_configure(self) -> Configure {
        let mut configure =
            Configure::new(self.range, self.keyspace, self.span, self.epoch, self.history);
        configure.apply_version = self.apply_version;
        configure
    }
}

impl Applier<'_> {
    pub(super) fn configure(&mut self, configure: &Configure) -> Step<Outcome> {
        let current = self.truth;
        let refusal = Refusal::StaleConfiguration {
            epoch: current.map_or(RangeEpoch(0), |truth| truth.epoch),
        };
        let mut truth = Truth::of(configure)
            .filter(|truth| truth.epoch.0 > 0)
            .ok_or(Refusal::Malformed { what: "span or epoch of a range" })?;
        if let Some(current) = current {
            let same_range = (truth.range, truth.keyspace) == (current.range, current.keyspace);
            let newer = truth.epoch > current.epoch;
            if !same_range || !newer && (truth.epoch, truth.span) != (current.epoch, current.span) {
                return Err(refusal.into());
            }
            truth.apply_version = truth.apply_version.max(current.apply_version);
        }
        self.truth = Some(truth);
        self.truth_changed = true;
        self.work.set(Family::Meta, TRUTH, Some(seal(&truth.to_configure())));
        Ok(Outcome::Configured(truth))
    }

    pub(super) fn compact(&mut self, compact: &Compact) -> Step<Outcome> {
        self.configured()?;
        let revision = Revision(compact.revision);
        if revision <= self.compacted {
            return Err(Refusal::Compacted { oldest: self.compacted }.into());
        }
        if revision > self.work.revision {
            return Err(Refusal::FutureRevision { newest: self.work.revision }.into());
        }
        self.compacted = revision;
        self.compacted_changed = true;
        let record = CompactedRecord { revision: revision.0 };
        self.work.set(Family::Meta, COMPACTED, Some(seal(&record)));
        // The last one stays: the next keeps its distance to it.
        let given_up = self.marks.iter().take_while(|mark| mark.revision < revision.0).count();
        let given_up = given_up.min(self.marks.len().saturating_sub(1));
        self.marks.drain(..given_up);
        self.marks_changed |= given_up > 0;
        Ok(Outcome::Compacted { oldest: revision })
    }

    /// Notes which revision is current at this entry's time, before the entry changes it.
    pub(super) fn mark(&mut self) {
        let Some(Truth { history: History::Duration(kept), .. }) = self.truth else {
            self.marks_changed |= !self.marks.is_empty();
            self.marks.clear();
            return;
        };
        let mark = Mark { clock_ms: self.work.clock_ms, revision: self.work.revision.0 };
        if let Some(last) = self.marks.last() {
            let due_ms = last.clock_ms.saturating_add(spacing_ms(kept));
            if mark.clock_ms < due_ms || mark.revision == last.revision {
                return;
            }
        }
        if self.marks.len() >= MARKS_MAX {
            self.marks.remove(0);
        }
        self.marks.push(mark);
        self.marks_changed = true;
    }

    /// Stores the marks, where they have changed.
    pub(super) fn store_marks(&mut self) {
        if self.marks_changed {
            let record = MarksRecord { marks: self.marks.clone() };
            self.work.set(Family::Meta, MARKS, Some(seal(&record)));
        }
    }
}

fn spacing_ms(kept: Duration) -> u64 {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    (millis(kept) / MARKS_PER_HISTORY).max(millis(MARK_SPACING_MIN))
}

/// The revision history allows to compact to at range time `now_ms`; none where it is none yet.
pub(crate) fn compactable(
    history: History,
    marks: &[Mark],
    point: ReadPoint,
    compacted: Revision,
    now_ms: u64,
) -> Option<Revision> {
    let newest = point.revision.0;
    let target = match history {
        History::Manual => None,
        History::Latest => Some(newest),
        History::Revisions(count) => newest.checked_sub(count),
        History::Duration(kept) => {
            let kept_ms = u64::try_from(kept.as_millis()).unwrap_or(u64::MAX);
            let horizon_ms = now_ms.checked_sub(kept_ms)?;
            let mark = marks.iter().rev().find(|mark| mark.clock_ms <= horizon_ms);
            // Nothing was changed since the range's clock stood there.
            let idle = (point.clock_ms <= horizon_ms).then_some(newest);
            idle.or(mark.map(|mark| mark.revision))
        }
    };
    // Before revision 2 there is nothing to give up.
    target.map(Revision).filter(|revision| *revision > compacted.max(Revision(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_younger_than_the_history_is_compactable() {
        let marks: Vec<Mark> =
            (1..=5).map(|i| Mark { clock_ms: i * 1_000, revision: i * 10 }).collect();
        let history = History::Duration(Duration::from_millis(2_500));
        let point = ReadPoint { revision: Revision(99), clock_ms: 70_000, ..ReadPoint::default() };
        let at = |now_ms| compactable(history, &marks, point, Revision(10), now_ms);
        assert_eq!(at(2_000), None, "before one history has passed");
        assert_eq!(at(3_600), None, "the mark at 1 s is compacted already");
        assert_eq!(at(4_499), None);
        assert_eq!(at(4_500), Some(Revision(20)));
        assert_eq!(at(72_499), Some(Revision(50)));
        assert_eq!(at(72_500), Some(Revision(99)), "nothing has changed for one history");
    }

    #[test]
    fn histories_by_revision_keep_their_count() {
        let at = |history, newest| {
            let point = ReadPoint { revision: Revision(newest), ..ReadPoint::default() };
            compactable(history, &[], point, Revision(5), 0)
        };
        assert_eq!(at(History::Revisions(10), 9), None);
        assert_eq!(at(History::Revisions(10), 15), None);
        assert_eq!(at(History::Revisions(10), 16), Some(Revision(6)));
        assert_eq!(at(History::Latest, 16), Some(Revision(16)));
        assert_eq!(at(History::Manual, 16), None);
    }
}
