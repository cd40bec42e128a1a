//! What every call carries and every answer says.

use std::time::Duration;

use holdfast_kv as kv;
use holdfast_model::{ClusterId, NodeId, RangeEpoch, RangeId, Revision, Term};
use holdfast_replica::ReadLevel;
use holdfast_runtime::Deadline;

use crate::auth::Identity;

/// Who asks, until when, and whether this node alone may answer.
#[derive(Clone, Debug)]
pub struct Call {
    /// Who asks.
    pub identity: Identity,
    /// When the answer is due; the call never takes longer.
    pub deadline: Deadline,
    /// Answer from this node's own replica or refuse; no routing.
    pub direct: bool,
}

/// What a call about an etcd keyspace as a whole asks of its caller, where users are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rank {
    /// To be somebody.
    User,
    /// To have the role `root`.
    Administrator,
}

/// Stands in every answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node whose replica answered.
    pub node: NodeId,
    /// The range that was asked; 0 where several were.
    pub range: RangeId,
    /// Epoch of its span.
    pub epoch: RangeEpoch,
    /// Its revision when the answer was formed (reads), or that of the change (writes).
    pub revision: Revision,
    /// Its range clock, milliseconds.
    pub clock_ms: u64,
    /// Raft term.
    pub term: Term,
    /// Who leads it, as far as the answering node knows.
    pub leader: Option<NodeId>,
}

/// How a keyspace of one range stands as this node knows it, told from memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Of this node's replica as it is now, which may lag, but at no revision older than one this
    /// node has told; `None` where it hosts none.
    pub header: Option<Header>,
    /// The oldest revision that can be read there; 0 = all of them.
    pub oldest: Revision,
    /// Whether somebody is known to lead.
    pub has_leader: bool,
    /// The alarms that are raised there, by kind and member.
    pub alarms: Vec<kv::Alarm>,
}

/// An answer with its header.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer<T> {
    /// Where and when it was formed.
    pub header: Header,
    /// What was asked for.
    pub value: T,
}

impl<T> Answer<T> {
    /// The same header around another value.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Answer<U> {
        Answer { header: self.header, value: change(self.value) }
    }
}

/// How current a read has to be.
#[derive(Clone, Debug, Default)]
pub struct ReadOptions {
    /// The level; linearizable if not said.
    pub level: ReadLevel,
    /// Follower level only: refuse what cannot be proven younger; `None` = any age.
    pub max_staleness: Option<Duration>,
    /// Serve only at or after these points, each of one range (range 0 = of any).
    pub min_points: Vec<(RangeId, Point)>,
}

impl ReadOptions {
    /// The point that a replica of `range` must have reached.
    pub fn min_point(&self, range: RangeId) -> Option<Point> {
        let of_range = |(id, _): &&(RangeId, Point)| *id == range || id.0 == 0;
        self.min_points.iter().filter(of_range).map(|(_, point)| *point).reduce(Point::later)
    }
}

/// A point in the history of a range: everything up to a revision, as of a range time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Point {
    /// Revision; 0 = none.
    pub revision: Revision,
    /// Range clock, milliseconds; 0 = none.
    pub clock_ms: u64,
}

impl Point {
    /// The earliest point that has reached both.
    #[must_use]
    pub fn later(self, other: Self) -> Self {
        Self {
            revision: self.revision.max(other.revision),
            clock_ms: self.clock_ms.max(other.clock_ms),
        }
    }
}

/// How old a follower's answer can be at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Staleness {
    /// It contains every write acknowledged longer ago than this.
    pub bound: Duration,
    /// The bound rests on clocks being within the configured offset.
    pub clock_based: bool,
}

impl Staleness {
    /// Of what was read in two places: as old as the older one, and proven only if both are.
    pub(crate) fn together_with(self, other: Self) -> Self {
        let bound = self.bound.max(other.bound);
        Self { bound, clock_based: self.clock_based || other.clock_based }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rests_on_clocks_in_one_place_rests_on_clocks_as_a_whole() {
        let [short, long] = [500, 691].map(Duration::from_millis);
        let by_clock = Staleness { bound: short, clock_based: true };
        let proven = Staleness { bound: long, clock_based: false };
        let both = Staleness { bound: long, clock_based: true };
        assert_eq!(by_clock.together_with(proven), both);
        assert_eq!(proven.together_with(by_clock), both);
    }
}
