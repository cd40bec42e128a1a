//! What a node has told: how far it has seen ranges whose leader is another node.
//!
//! An answer of the leader can be ahead of this node's own replica. A client that writes through
//! one node and then reads there at its own risk of staleness, or begins to watch, still finds
//! what it was told of, as it does with a member of etcd, which answers only what it has applied
//! itself. Nothing waits for that but the read that comes too early.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_model::{RangeId, Revision};
use holdfast_runtime::Deadline;
use parking_lot::Mutex;

use super::serve::{Query, ReadSpec, Served};
use super::{Gateway, Place};
use crate::api::{ApiError, Call, Header, Point, ReadLevel};

/// How long a read waits for what was told, at this node and then at the leader. One that is cut
/// off from both answers what it has.
const TOLD_WAIT: Duration = Duration::from_millis(100);

/// The newest points that were told, by range.
#[derive(Debug, Default)]
pub(super) struct Told {
    points: Mutex<BTreeMap<RangeId, Point>>,
}

impl Told {
    fn of(&self, range: RangeId) -> Option<Point> {
        self.points.lock().get(&range).copied()
    }

    /// Adds a point; `is_range` tells ranges that exist from those that are gone.
    fn note(
        &self,
        range: RangeId,
        point: Point,
        ranges: usize,
        is_range: impl Fn(RangeId) -> bool,
    ) {
        let mut points = self.points.lock();
        if let Some(told) = points.get_mut(&range) {
            *told = told.later(point);
            return;
        }
        if points.len() > ranges {
            points.retain(|range, _| is_range(*range));
        }
        points.insert(range, point);
    }

    /// Forgets a point that was reached, or cannot be, unless there is a newer one.
    fn forget(&self, range: RangeId, point: Point) {
        let mut points = self.points.lock();
        if points.get(&range) == Some(&point) {
            points.remove(&range);
        }
    }
}

impl Gateway {
    /// Remembers how far another node's answer was.
    pub(super) fn note_told(&self, header: &Header) {
        let point = Point { revision: header.revision, clock_ms: header.clock_ms };
        let map = self.parts.map.peek();
        let is_range = |range| map.ranges.contains_key(&range);
        self.told.note(header.range, point, map.ranges.len(), is_range);
    }

    /// What was told of a range and is not here yet.
    fn told_ahead(&self, range: RangeId) -> Option<Point> {
        let told = self.told.of(range)?;
        let Some(replica) = self.parts.host.replica(range) else { return Some(told) };
        let here = replica.reader().point();
        if here.revision < told.revision || here.clock_ms < told.clock_ms {
            return Some(told);
        }
        self.told.forget(range, told);
        None
    }

    /// The newest revision that was told of a range; 0 where this node's replica has it.
    pub(super) fn told_revision(&self, range: RangeId) -> Revision {
        self.told_ahead(range).map_or(Revision(0), |told| told.revision)
    }

    /// Reads at any replica, but nothing older than what this node has told.
    pub(super) async fn read_told(
        &self,
        call: &Call,
        place: Place<'_>,
        spec: &ReadSpec,
        query: &Query,
    ) -> Result<Served, ApiError> {
        let ahead = match spec.level {
            ReadLevel::Follower => self.resolve(place).ok().map(|target| target.range),
            // Whoever leads has whatever was told.
            ReadLevel::Linearizable | ReadLevel::Lease => None,
        };
        let ahead = ahead.and_then(|range| Some((range, self.told_ahead(range)?)));
        let Some((range, told)) = ahead else {
            return self.read(call, place, spec, query).await;
        };
        let min = Some(spec.min.map_or(told, |min| min.later(told)));
        let here = ReadSpec { min, ..spec.clone() };
        let leading = ReadSpec { level: ReadLevel::Lease, max_staleness: None, ..spec.clone() };
        for spec in [here, leading] {
            let deadline = call.deadline.min(Deadline::after(TOLD_WAIT));
            let served = self.read(&Call { deadline, ..call.clone() }, place, &spec, query).await;
            match served {
                Err(error) if is_of_place(&error) => {}
                served => return served,
            }
        }
        self.told.forget(range, told);
        self.read(call, place, spec, query).await
    }
}

/// Whether an error says nothing about what was asked, only about who was asked and when.
fn is_of_place(error: &ApiError) -> bool {
    error.is_elsewhere()
        || matches!(
            error,
            ApiError::Behind { .. } | ApiError::Deadline(_) | ApiError::Overloaded { .. }
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(revision: u64, clock_ms: u64) -> Point {
        Point { revision: Revision(revision), clock_ms }
    }

    #[test]
    fn the_newest_of_what_was_told_is_kept_until_just_that_is_forgotten() {
        let told = Told::default();
        told.note(RangeId(1), at(7, 20), 1, |_| true);
        told.note(RangeId(1), at(5, 30), 1, |_| true);
        assert_eq!(told.of(RangeId(1)), Some(at(7, 30)));
        told.forget(RangeId(1), at(7, 20));
        assert_eq!(told.of(RangeId(1)), Some(at(7, 30)), "another has been told since");
        told.forget(RangeId(1), at(7, 30));
        assert_eq!(told.of(RangeId(1)), None);
    }

    #[test]
    fn no_more_ranges_are_kept_than_there_are() {
        let told = Told::default();
        for range in 0..100 {
            told.note(RangeId(range), at(1, 1), 1, |kept| kept.0 == 0);
        }
        assert_eq!(
            told.points.lock().keys().copied().collect::<Vec<_>>(),
            [RangeId(0), RangeId(99)]
        );
    }
}
