//! What a replica tells about itself.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_kv::{LogPosition, ReadPoint};
use holdfast_model::{LogIndex, NodeId, ReplicaId, Term};
use openraft::Instant;
use openraft::async_runtime::WatchReceiver;

use crate::leadership::Role;
use crate::membership::MembershipInfo;
use crate::raft::codec;
use crate::replica::Replica;

/// A replica at one moment. Parts are read one after another: indexes may be of slightly different
/// moments, each of them true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// What it is.
    pub role: Role,
    /// Who leads, as far as it knows.
    pub leader: Option<(ReplicaId, NodeId)>,
    /// For how long the range has shown no sign of life here: since the leader was heard of or, on
    /// the leader, since a quorum last answered it. Whoever leads is only remembered meanwhile.
    pub silence: Duration,
    /// Its term.
    pub term: Term,
    /// The last entry it holds.
    pub last_log: Option<LogIndex>,
    /// The last entry it knows to be committed.
    pub committed: Option<LogPosition>,
    /// The last entry it has applied.
    pub applied: Option<LogPosition>,
    /// Up to where its engine is durable.
    pub durable: LogIndex,
    /// Up to where its log is purged.
    pub purged: Option<LogIndex>,
    /// Up to where every member holds the log; on the leader only.
    pub fully_replicated: Option<LogIndex>,
    /// How far each other member has followed, as the leader knows; none if not at all.
    pub followers: BTreeMap<ReplicaId, Option<LogIndex>>,
    /// Its read point.
    pub point: ReadPoint,
    /// Its ticks are stopped.
    pub parked: bool,
    /// Commands under way, bytes.
    pub in_flight_bytes: u64,
    /// Events that wait for watchers, bytes.
    pub watch_buffered_bytes: u64,
    /// Members.
    pub membership: MembershipInfo,
}

impl Replica {
    /// The replica now. Cost: copies of small things under short locks.
    pub fn status(&self) -> Status {
        let inner = &self.inner;
        let info = inner.leadership.info();
        let metrics = inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let position = |log_id: crate::raft::types::LogId| codec::to_kv(&log_id);
        let replication = metrics.replication.as_ref();
        let own = inner.options.replica;
        let others = replication.into_iter().flatten().filter(|(id, _)| **id != own);
        let followers: BTreeMap<_, _> =
            others.map(|(id, matched)| (*id, matched.map(|m| LogIndex(m.index)))).collect();
        let lowest = followers.values().map(|m| m.map_or(0, |index| index.0)).min();
        let last = metrics.last_log_index;
        let acked = metrics.last_quorum_acked.map(|at| at.into_inner().elapsed());
        let silence = match info.role {
            Role::Leader if inner.is_only_voter() => Duration::ZERO,
            Role::Leader => acked.unwrap_or(Duration::MAX),
            _ => inner.unheard_for(),
        };
        Status {
            role: info.role,
            leader: info.leader,
            silence,
            term: info.term,
            last_log: last.map(LogIndex),
            committed: metrics.local_committed.map(position),
            applied: metrics.last_applied.map(position),
            durable: inner.engine.durable_point().index,
            purged: metrics.purged.map(|purged| LogIndex(purged.index)),
            fully_replicated: replication.and(Some(lowest.or(last).unwrap_or(0))).map(LogIndex),
            followers,
            point: inner.reader.point(),
            parked: inner.is_parked(),
            in_flight_bytes: inner.proposer.in_flight_bytes(),
            watch_buffered_bytes: inner.progress.hub.buffered_bytes() as u64,
            membership: MembershipInfo::of(&metrics.membership_config, {
                metrics.committed_membership_config.log_id() == metrics.membership_config.log_id()
            }),
        }
    }
}
