//! How far the state has come, in memory and durably.
//!
//! The engine knows the log index its tables reach; what openraft asks for is a full position and
//! the membership as of it. Positions are kept as runs: one where term or leader changed.

use std::collections::VecDeque;

use bytes::Bytes;
use holdfast_lsm::{Engine, Family, ReadPoint};
use holdfast_model::{LogIndex, ReplicaId, Revision, Term};

use crate::records::{APPLIED, AppliedRecord, MEMBERSHIP, MembershipRecord, seal, unseal};
use crate::{Applied, LogPosition, Result};

/// What was applied, and enough of its past to tell what is durable.
pub(crate) struct Progress {
    applied: Applied,
    /// What was there when the engine was opened: durable.
    opened: Applied,
    /// First position of each term and leader since the durable one, ascending.
    runs: VecDeque<LogPosition>,
    /// Memberships since the durable one, ascending.
    memberships: VecDeque<(LogPosition, Bytes)>,
}

impl Progress {
    /// Reads how far an engine has come that has just been opened.
    pub fn load(engine: &Engine) -> Result<Self> {
        let point = engine.read_point();
        let get = |key: &Bytes| Ok::<_, crate::Error>(engine.get(Family::Meta, key, point)?);
        let mut applied = Applied { point: at_least_one(point), ..Applied::default() };
        if let Some(record) = get(&APPLIED)? {
            let record: AppliedRecord = unseal("meta", record.value)?;
            applied.position = Some(position(record.term, record.leader, record.index));
        }
        if let Some(record) = get(&MEMBERSHIP)? {
            let record: MembershipRecord = unseal("meta", record.value)?;
            let position = position(record.term, record.leader, record.index);
            applied.membership = Some((position, record.membership));
        }
        Ok(Self {
            runs: applied.position.into_iter().collect(),
            memberships: applied.membership.clone().into_iter().collect(),
            opened: applied.clone(),
            applied,
        })
    }

    /// What was applied.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// The position `index` must have to continue the log; none where any may come.
    pub fn next_index(&self) -> Option<LogIndex> {
        self.applied.position.map(|position| LogIndex(position.index.0 + 1))
    }

    /// Notes applied entries: the last one's position, and memberships among them.
    pub fn advance(
        &mut self,
        positions: impl Iterator<Item = LogPosition>,
        memberships: Vec<(LogPosition, Bytes)>,
        point: ReadPoint,
    ) {
        for position in positions {
            let known = self.runs.back();
            if known.is_none_or(|run| (run.term, run.leader) != (position.term, position.leader)) {
                self.runs.push_back(position);
            }
            self.applied.position = Some(position);
        }
        if let Some(last) = memberships.last() {
            self.applied.membership = Some(last.clone());
        }
        self.memberships.extend(memberships);
        self.applied.point = point;
    }

    /// Forgets what is not needed to tell what is durable from `durable` on.
    pub fn forget_before(&mut self, durable: ReadPoint) {
        while self.runs.get(1).is_some_and(|next| next.index <= durable.index) {
            self.runs.pop_front();
        }
        while self.memberships.get(1).is_some_and(|next| next.0.index <= durable.index) {
            self.memberships.pop_front();
        }
    }

    /// What survives a crash, where the engine's tables reach `durable`.
    pub fn durable(&self, durable: ReadPoint) -> Applied {
        let opened = self.opened.position.map(|position| position.index);
        if durable.revision.0 == 0 || opened.is_some_and(|opened| durable.index <= opened) {
            return self.opened.clone();
        }
        let run = self.runs.iter().rev().find(|run| run.index <= durable.index);
        let membership = self.memberships.iter().rev().find(|m| m.0.index <= durable.index);
        Applied {
            position: run.map(|run| LogPosition { index: durable.index, ..*run }),
            membership: membership.cloned(),
            point: durable,
        }
    }
}

/// The record of how far a batch brings the state.
pub(crate) fn applied_record(position: LogPosition, point: ReadPoint) -> Bytes {
    seal(&AppliedRecord {
        term: position.term.0,
        leader: position.leader.0,
        index: position.index.0,
        revision: point.revision.0,
        clock_ms: point.clock_ms,
    })
}

/// The record of a membership.
pub(crate) fn membership_record(position: LogPosition, membership: &Bytes) -> Bytes {
    seal(&MembershipRecord {
        term: position.term.0,
        leader: position.leader.0,
        index: position.index.0,
        membership: membership.clone(),
    })
}

/// A range's first revision is 1, also before anything was applied.
pub(crate) fn at_least_one(point: ReadPoint) -> ReadPoint {
    ReadPoint { revision: point.revision.max(Revision(1)), ..point }
}

fn position(term: u64, leader: u64, index: u64) -> LogPosition {
    LogPosition { term: Term(term), leader: ReplicaId(leader), index: LogIndex(index) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress() -> Progress {
        Progress {
            applied: Applied::default(),
            opened: Applied::default(),
            runs: VecDeque::new(),
            memberships: VecDeque::new(),
        }
    }

    fn point(index: u64) -> ReadPoint {
        ReadPoint { revision: Revision(1), index: LogIndex(index), clock_ms: 0 }
    }

    #[test]
    fn the_durable_position_has_the_term_and_membership_of_its_index() {
        let mut progress = progress();
        let member = |index| (position(2, 7, index), Bytes::from(format!("m{index}")));
        let entries = [position(1, 5, 0), position(1, 5, 1), position(2, 7, 2), position(2, 7, 3)];
        progress.advance(entries.into_iter(), vec![member(2), member(3)], point(3));
        assert_eq!(progress.durable(ReadPoint::default()), Applied::default());
        for (index, term, leader) in [(1, 1, 5), (2, 2, 7), (3, 2, 7)] {
            let durable = progress.durable(point(index));
            assert_eq!(durable.position, Some(position(term, leader, index)));
            assert_eq!(durable.membership, (index >= 2).then(|| member(index)));
            progress.forget_before(point(index));
            assert_eq!(progress.durable(point(index)), durable, "after forgetting");
        }
        assert_eq!(progress.runs.len() + progress.memberships.len(), 2);
    }
}
