//! When a replica may vote, campaign, rest and hand over.

use std::sync::Arc;
use std::time::Duration;

use holdfast_model::{NodeId, ReplicaId};
use holdfast_runtime::{sleep, timeout};
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use openraft::metrics::RaftServerMetrics;

use crate::error::{Error, Result};
use crate::leadership::{LeaderInfo, Role};
use crate::raft::types::TypeConfig;
use crate::replica::Inner;

/// Pause between two voters' quick campaigns, so that they do not split the vote.
const QUICK_STAGGER: Duration = Duration::from_millis(60);
/// Pause after a quick campaign that found no majority.
const QUICK_RETRY: Duration = Duration::from_millis(150);
/// Quick campaigns after one loss; ordinary elections go on anyway.
const QUICK_ATTEMPTS_MAX: usize = 10;
/// A lease has run out for certain this long after its end.
const LEASE_MARGIN: Duration = Duration::from_millis(20);
/// How far behind a voter may be to be handed leadership, entries.
const TRANSFER_LAG_MAX: u64 = 64;
/// How long a transfer may take.
const TRANSFER_MAX: Duration = Duration::from_secs(2);
/// How often a waiting transfer looks for a voter that has caught up.
const TRANSFER_POLL: Duration = Duration::from_millis(20);

/// Follows openraft's view of who leads.
pub(crate) async fn follow(inner: Arc<Inner>) {
    let mut metrics = inner.raft.server_metrics();
    loop {
        let now = metrics.borrow_and_update().clone();
        let (info, membership) = (info_of(&now), now.membership_config.membership().clone());
        if info.leader.map(|(replica, _)| replica) == Some(inner.options.replica) {
            // A parked leader would fall silent.
            inner.raft.runtime_config().tick(true);
        }
        inner.leadership.update(info, &membership);
        if metrics.changed().await.is_err() {
            break;
        }
    }
    let ended = inner.raft.metrics().borrow_watched().running_state.clone();
    inner.health.failed(match ended {
        Err(fatal) => format!("Raft core: {fatal}"),
        Ok(()) => "Raft core ended".into(),
    });
    let stopped = LeaderInfo { role: Role::Stopped, ..inner.leadership.info() };
    inner.leadership.update(stopped, &Default::default());
}

fn info_of(metrics: &RaftServerMetrics<TypeConfig>) -> LeaderInfo {
    let membership = metrics.membership_config.membership();
    let node = |id: &ReplicaId| membership.get_node(id).map(|host| host.0);
    let leader = metrics.current_leader.and_then(|id| Some((id, node(&id)?)));
    let role = match metrics.state {
        ServerState::Learner => Role::Learner,
        ServerState::Follower => Role::Follower,
        ServerState::Candidate => Role::Candidate,
        ServerState::Leader => Role::Leader,
        ServerState::Shutdown => Role::Stopped,
    };
    LeaderInfo { role, leader, term: holdfast_model::Term(metrics.vote.leader_id.term) }
}

/// Lets the replica campaign once every lease it may have granted before its start has run out.
///
/// A replica that never voted has granted none, and the only voter of a range has nobody to wait
/// for: both may at once.
pub(crate) async fn begin_campaigning(inner: Arc<Inner>) {
    if !inner.is_only_voter() && inner.may_have_granted_lease {
        sleep(inner.options.timings.boot_delay()).await;
    }
    inner.raft.runtime_config().elect(true);
    inner.boot_delay_over.store(true, std::sync::atomic::Ordering::Release);
    if inner.is_only_voter() && !inner.leadership.is_leader() {
        // Nobody can object; waiting for a timeout would only delay the start.
        let _ = inner.raft.trigger().elect(false).await;
    }
}

/// Campaigns soon after the connection to the leader's node was lost, instead of waiting for the
/// random election timeout.
///
/// All voters are told alike; they go one after another, and a voter whose log is behind is
/// refused by the pre-vote of the others, so the most up-to-date one wins.
pub(crate) async fn campaign_quickly(inner: Arc<Inner>, lost: NodeId) {
    let before = inner.leadership.info();
    let still_lost = |info: LeaderInfo| {
        info.term == before.term
            && info.leader.is_none_or(|(_, node)| node == lost)
            && matches!(info.role, Role::Follower | Role::Candidate)
            && inner.is_lost(lost)
    };
    let rank = inner.rank_without(lost);
    if before.leader.map(|(_, node)| node) != Some(lost) || rank.is_none() {
        return;
    }
    let stagger = QUICK_STAGGER * rank.unwrap_or_default();
    sleep(inner.lease_left() + LEASE_MARGIN + stagger).await;
    for _ in 0..QUICK_ATTEMPTS_MAX {
        // An append that arrived meanwhile has renewed the lease: the leader lives.
        if !still_lost(inner.leadership.info()) || !inner.lease_left().is_zero() {
            return;
        }
        if inner.may_campaign() && inner.raft.trigger().elect(true).await.is_err() {
            return;
        }
        sleep(QUICK_RETRY).await;
    }
}

/// Hands leadership to `to`, or to the voter that is most up to date.
pub(crate) async fn transfer(inner: &Inner, to: Option<NodeId>) -> Result<ReplicaId> {
    let leader = inner.leadership.leader();
    if !inner.leadership.is_leader() {
        return Err(Error::NotLeader { leader });
    }
    let chosen = async {
        loop {
            if let Some(replica) = successor(inner, to)? {
                return Ok::<_, Error>(replica);
            }
            sleep(TRANSFER_POLL).await;
        }
    };
    let late = |_| Error::Timeout("no other voter has caught up");
    let chosen = timeout(TRANSFER_MAX, chosen).await.map_err(late)??;
    let mut leaders = inner.leadership.watch();
    let stopped = |error: crate::raft::types::Fatal| Error::Stopped(error.to_string());
    inner.raft.trigger().transfer_leader(chosen).await.map_err(stopped)?;
    let own = inner.options.replica;
    let taken = leaders.wait_for(|info| info.leader.is_some_and(|(replica, _)| replica != own));
    match timeout(TRANSFER_MAX, taken).await {
        Ok(Ok(info)) => {
            holdfast_env::sometimes!(LEADERSHIP_TRANSFERRED);
            Ok(info.leader.map_or(chosen, |(replica, _)| replica))
        }
        Ok(Err(_)) => Err(Error::Stopped("while leadership was handed over".into())),
        Err(_) => Err(Error::Timeout("the successor did not take over")),
    }
}

/// The voter to hand over to: the most up-to-date one, or the one on `to`; `None` while it lags.
fn successor(inner: &Inner, to: Option<NodeId>) -> Result<Option<ReplicaId>> {
    let metrics = inner.raft.metrics();
    let metrics = metrics.borrow_watched();
    let membership = metrics.membership_config.membership();
    let own = inner.options.replica;
    let host = |id: &ReplicaId| membership.get_node(id).map(|host| host.0);
    let candidates: Vec<_> = membership
        .voter_ids()
        .filter(|id| *id != own && to.is_none_or(|to| host(id) == Some(to)))
        .filter(|id| host(id).is_some_and(|node| !inner.is_lost(node)))
        .collect();
    if candidates.is_empty() {
        return Err(Error::Membership("there is no other voter to hand over to".into()));
    }
    let last = metrics.last_log_index.unwrap_or(0);
    let Some(replication) = &metrics.replication else { return Ok(None) };
    let matched = |id: &ReplicaId| replication.get(id).copied().flatten().map(|m| m.index);
    let best = candidates.into_iter().filter_map(|id| Some((matched(&id)?, id))).max();
    Ok(best.filter(|(index, _)| index + TRANSFER_LAG_MAX >= last).map(|(_, id)| id))
}
