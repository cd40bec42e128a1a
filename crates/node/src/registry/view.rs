//! What a replica looks like to the rest of the node.

use std::collections::BTreeSet;

use holdfast_kv::Truth;
use holdfast_model::NodeId;
use holdfast_replica::{Role, Status};
use holdfast_wire::v1;

use super::Hosted;

/// A follower this many entries behind counts as caught up.
const LAG_ENTRIES_MAX: u64 = 500;

impl Hosted {
    /// Whether this replica leads its range, as it knows.
    pub fn leads(&self) -> bool {
        self.replica.leader().role == Role::Leader
    }

    /// The range's own truth as applied here; `None` before its first configuration.
    pub fn truth(&self) -> Option<Truth> {
        self.replica.reader().truth()
    }

    /// The copy its leader publishes for the map; `None` while there is nothing to publish: not
    /// configured, or the membership is not committed or is changing.
    pub fn copy(&self, leader: NodeId) -> Option<v1::Range> {
        let truth = self.truth()?;
        let membership = self.replica.membership();
        let position = membership.position.filter(|_| membership.committed)?;
        if membership.is_joint() {
            return None;
        }
        let voters = membership.voters.first()?;
        let replica = |(id, node): (&holdfast_model::ReplicaId, &NodeId)| v1::Replica {
            id: id.0,
            node_id: node.0,
            voter: voters.contains(id),
        };
        Some(v1::Range {
            id: truth.range.0,
            keyspace_id: truth.keyspace.0,
            start: truth.span.start,
            end: truth.span.end,
            epoch: truth.epoch.0,
            membership_term: position.term.0,
            membership_index: position.index.0,
            replicas: membership.members.iter().map(replica).collect(),
            leader_node_id: leader.0,
        })
    }

    /// Whether this replica leads and every other member is among `connected` and caught up.
    pub fn is_fully_replicated(&self, connected: &BTreeSet<NodeId>) -> bool {
        let status = self.replica.status();
        is_fully_replicated(&status, connected)
    }

    /// The replica as status answers show it.
    pub fn status(&self, connected: &BTreeSet<NodeId>) -> v1::ReplicaStatus {
        let status = self.replica.status();
        let stats = self.engine.stats();
        v1::ReplicaStatus {
            range_id: self.group.range.0,
            replica_id: self.group.replica.0,
            role: role_name(status.role).into(),
            term: status.term.0,
            leader_node_id: status.leader.map_or(0, |(_, node)| node.0),
            last_log_index: status.last_log.map_or(0, |index| index.0),
            committed_index: status.committed.map_or(0, |position| position.index.0),
            applied_index: status.applied.map_or(0, |position| position.index.0),
            durable_index: status.durable.0,
            revision: status.point.revision.0,
            clock_ms: status.point.clock_ms,
            data_bytes: stats.memtable_bytes + stats.level_bytes.iter().sum::<u64>(),
            fully_replicated: is_fully_replicated(&status, connected),
            keyspace: self.descriptor.keyspace.clone(),
            failure: String::new(),
        }
    }
}

fn is_fully_replicated(status: &Status, connected: &BTreeSet<NodeId>) -> bool {
    if status.role != Role::Leader {
        return false;
    }
    let last = status.last_log.map_or(0, |index| index.0);
    let is_close = |id| {
        let matched = status.followers.get(id).copied().flatten();
        matched.is_some_and(|index| index.0 + LAG_ENTRIES_MAX >= last)
    };
    let own = status.leader.map(|(id, _)| id);
    let mut others = status.membership.members.iter().filter(|(id, _)| Some(**id) != own);
    others.all(|(id, node)| connected.contains(node) && is_close(id))
}

/// The name of a role in status answers and metrics.
pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::Learner => "learner",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Leader => "leader",
        Role::Stopped => "stopped",
    }
}
