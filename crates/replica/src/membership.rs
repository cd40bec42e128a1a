//! Who belongs to a range: founding, learners, joint changes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use holdfast_kv::LogPosition;
use holdfast_model::{NodeId, ReplicaId};
use holdfast_runtime::timeout;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, InitializeError, RaftError};
use openraft::{ChangeMembers, Precondition};

use crate::error::{Error, Result};
use crate::raft::codec;
use crate::raft::runtime;
use crate::raft::types::{Host, StoredMembership, TypeConfig};
use crate::replica::{Inner, Replica};

/// How long one step of a change may take. openraft itself would wait for ever.
const CHANGE_MAX: Duration = Duration::from_secs(10);

/// How far behind a learner may be to become a voter, entries.
const NEWCOMER_LAG_MAX: u64 = 500;

/// The members of a range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MembershipInfo {
    /// The entry it was set by; changes are planned on it. None before the founding.
    pub position: Option<LogPosition>,
    /// Whether that entry is committed.
    pub committed: bool,
    /// One set of voters, or two while a change is under way (joint consensus).
    pub voters: Vec<BTreeSet<ReplicaId>>,
    /// All members, learners included, and the nodes that host them.
    pub members: BTreeMap<ReplicaId, NodeId>,
}

impl MembershipInfo {
    pub(crate) fn of(stored: &StoredMembership, committed: bool) -> Self {
        let membership = stored.membership();
        Self {
            position: stored.log_id().as_ref().map(codec::to_kv),
            committed,
            voters: membership.get_joint_config().clone(),
            members: membership.nodes().map(|(id, host)| (*id, host.0)).collect(),
        }
    }

    /// Whether a change is under way.
    pub fn is_joint(&self) -> bool {
        self.voters.len() > 1
    }
}

impl Replica {
    /// The members as this replica knows them.
    pub fn membership(&self) -> MembershipInfo {
        let metrics = self.inner.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let (effective, committed) =
            (&metrics.membership_config, &metrics.committed_membership_config);
        MembershipInfo::of(effective, effective.log_id() == committed.log_id())
    }

    /// Adds a learner, which receives the log and has no vote, if the membership is still the one
    /// set by the entry at `planned_on`; returns when the entry is applied here, not when the
    /// learner has caught up.
    ///
    /// # Errors
    /// [`Error::NotLeader`], [`Error::Membership`], [`Error::Timeout`]: it may still happen.
    pub async fn add_learner(
        &self,
        replica: ReplicaId,
        node: NodeId,
        planned_on: LogPosition,
    ) -> Result<()> {
        let nodes = [(replica, Host(node))].into();
        self.change(ChangeMembers::AddNodes(nodes), true, planned_on).await
    }

    /// Makes `voters` the voters, by joint consensus, if the membership is still the one set by
    /// the entry at `planned_on`. Former voters are removed. Newcomers must be learners that have
    /// caught up: with others a quorum could wait long for its slowest half.
    ///
    /// # Errors
    /// As [`Replica::add_learner`]; [`Error::Membership`] also where a newcomer is no learner or
    /// has not caught up.
    pub async fn change_voters(
        &self,
        voters: BTreeSet<ReplicaId>,
        planned_on: LogPosition,
    ) -> Result<()> {
        self.check_newcomers(&voters)?;
        self.change(ChangeMembers::ReplaceAllVoters(voters), false, planned_on).await
    }

    async fn change(
        &self,
        change: ChangeMembers<ReplicaId, Host>,
        retain: bool,
        planned_on: LogPosition,
    ) -> Result<()> {
        let inner = &self.inner;
        let planned = codec::log_id(planned_on.term.0, planned_on.leader.0, planned_on.index.0);
        let unchanged = Precondition::LastMembershipLogId { last_membership_log_id: Some(planned) };
        let changing = inner.raft.change_membership_if(change, retain, [unchanged]);
        let changing = runtime::scope(inner.context.clone(), changing);
        let changed = timeout(CHANGE_MAX, changing).await;
        settle(changed.map(|result| result.map(drop)))
    }

    /// Refuses voters that this leader does not know to be close behind it.
    fn check_newcomers(&self, voters: &BTreeSet<ReplicaId>) -> Result<()> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let Some(replication) = &metrics.replication else {
            return Err(Error::NotLeader { leader: self.inner.leadership.leader() });
        };
        let known: BTreeSet<_> = metrics.membership_config.membership().voter_ids().collect();
        let last = metrics.last_log_index.unwrap_or(0);
        for newcomer in voters.difference(&known) {
            let matched = replication.get(newcomer).copied().flatten();
            if matched.is_none_or(|matched| matched.index + NEWCOMER_LAG_MAX < last) {
                return Err(Error::Membership(format!("{newcomer} has not caught up")));
            }
        }
        Ok(())
    }
}

/// See [`Replica::initialize`].
pub(crate) async fn initialize(inner: &Inner, voters: BTreeMap<ReplicaId, NodeId>) -> Result<()> {
    let members: BTreeMap<_, _> = voters.into_iter().map(|(id, node)| (id, Host(node))).collect();
    let initializing = inner.raft.initialize(members);
    match runtime::scope(inner.context.clone(), initializing).await {
        // The group was founded before: what is asked for has happened.
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
        Err(RaftError::APIError(error @ InitializeError::NotInMembers(_))) => {
            Err(Error::Membership(error.to_string()))
        }
        Err(RaftError::Fatal(fatal)) => Err(Error::Stopped(fatal.to_string())),
    }
}

type Changed = std::result::Result<
    std::result::Result<(), RaftError<TypeConfig, ClientWriteError<TypeConfig>>>,
    holdfast_runtime::Elapsed,
>;

fn settle(changed: Changed) -> Result<()> {
    match changed {
        Ok(Ok(())) => Ok(()),
        Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
            Err(Error::NotLeader { leader: crate::proposer::leader_of(&forward) })
        }
        Ok(Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)))) => {
            Err(Error::Timeout("leadership was lost while the change was under way"))
        }
        Ok(Err(RaftError::APIError(error))) => Err(Error::Membership(error.to_string())),
        Ok(Err(RaftError::Fatal(fatal))) => Err(Error::Stopped(fatal.to_string())),
        Err(_) => Err(Error::Timeout("membership change")),
    }
}
