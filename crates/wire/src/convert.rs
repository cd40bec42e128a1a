//! Checked conversions between messages and `model`.

use std::time::Duration;

use holdfast_model::{
    ClusterId, ClusterMap, Compaction, History, KeyspaceDescriptor, KeyspaceId, KeyspaceKind,
    NodeDescriptor, NodeId, RangeDescriptor, RangeEpoch, RangeId, ReplicaDescriptor, ReplicaId,
    ReplicaRole, Revision, Span,
};

use crate::v1;

/// A message whose fields do not make sense; the sender is of another version or broken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed {what}: {problem}")]
pub struct WireError {
    /// Which message.
    pub what: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

fn bad(what: &'static str, problem: impl Into<String>) -> WireError {
    WireError { what, problem: problem.into() }
}

impl From<&NodeDescriptor> for v1::Node {
    fn from(n: &NodeDescriptor) -> Self {
        Self {
            id: n.id.0,
            client_address: n.client_address.clone(),
            peer_address: n.peer_address.clone(),
            http_address: n.http_address.clone(),
            zone: n.zone.clone(),
            weight_milli: n.weight_milli,
        }
    }
}

impl TryFrom<v1::Node> for NodeDescriptor {
    type Error = WireError;

    fn try_from(n: v1::Node) -> Result<Self, WireError> {
        if n.id == 0 {
            return Err(bad("node", "id 0"));
        }
        Ok(Self {
            id: NodeId(n.id),
            client_address: n.client_address,
            peer_address: n.peer_address,
            http_address: n.http_address,
            zone: n.zone,
            weight_milli: n.weight_milli,
        })
    }
}

impl From<History> for v1::History {
    fn from(history: History) -> Self {
        use v1::history::Kind;
        let kind = match history {
            History::Latest => Kind::Latest(true),
            History::Duration(d) => {
                Kind::DurationMs(u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
            }
            History::Revisions(n) => Kind::Revisions(n),
            History::Manual => Kind::Manual(true),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<v1::History> for History {
    type Error = WireError;

    fn try_from(history: v1::History) -> Result<Self, WireError> {
        use v1::history::Kind;
        match history.kind {
            Some(Kind::Latest(true)) => Ok(Self::Latest),
            Some(Kind::DurationMs(ms)) => Ok(Self::Duration(Duration::from_millis(ms))),
            Some(Kind::Revisions(n)) => Ok(Self::Revisions(n)),
            Some(Kind::Manual(true)) => Ok(Self::Manual),
            Some(Kind::Latest(false) | Kind::Manual(false)) | None => {
                Err(bad("history", "no kind is set"))
            }
        }
    }
}

impl From<Compaction> for v1::Compaction {
    fn from(compaction: Compaction) -> Self {
        match compaction {
            Compaction::Leveled => Self::Leveled,
            Compaction::Tiered => Self::Tiered,
        }
    }
}

impl From<v1::Compaction> for Compaction {
    /// What is not known (of a later version) is leveled: it only costs.
    fn from(compaction: v1::Compaction) -> Self {
        match compaction {
            v1::Compaction::Unspecified | v1::Compaction::Leveled => Self::Leveled,
            v1::Compaction::Tiered => Self::Tiered,
        }
    }
}

impl From<KeyspaceKind> for v1::KeyspaceKind {
    fn from(kind: KeyspaceKind) -> Self {
        match kind {
            KeyspaceKind::Native => Self::Native,
            KeyspaceKind::Etcd => Self::Etcd,
        }
    }
}

impl From<v1::KeyspaceKind> for KeyspaceKind {
    fn from(kind: v1::KeyspaceKind) -> Self {
        match kind {
            v1::KeyspaceKind::Unspecified | v1::KeyspaceKind::Native => Self::Native,
            v1::KeyspaceKind::Etcd => Self::Etcd,
        }
    }
}

impl From<&KeyspaceDescriptor> for v1::Keyspace {
    fn from(k: &KeyspaceDescriptor) -> Self {
        Self {
            id: k.id.0,
            name: k.name.clone(),
            ranges: k.ranges,
            replication_factor: k.replication_factor,
            history: Some(k.history.into()),
            compaction: v1::Compaction::from(k.compaction).into(),
            kind: v1::KeyspaceKind::from(k.kind).into(),
        }
    }
}

impl TryFrom<v1::Keyspace> for KeyspaceDescriptor {
    type Error = WireError;

    fn try_from(k: v1::Keyspace) -> Result<Self, WireError> {
        if k.name.is_empty() {
            return Err(bad("keyspace", "no name"));
        }
        let history = k.history.ok_or_else(|| bad("keyspace", "no history"))?;
        let compaction = k.compaction().into();
        let kind = v1::KeyspaceKind::try_from(k.kind);
        let kind = kind.map_err(|_| bad("keyspace", "its kind is not known"))?.into();
        Ok(Self {
            compaction,
            kind,
            id: KeyspaceId(k.id),
            name: k.name,
            ranges: k.ranges,
            replication_factor: k.replication_factor,
            history: history.try_into()?,
        })
    }
}

impl From<&RangeDescriptor> for v1::Range {
    fn from(r: &RangeDescriptor) -> Self {
        let replicas = r
            .replicas
            .iter()
            .map(|c| v1::Replica {
                id: c.id.0,
                node_id: c.node.0,
                voter: c.role == ReplicaRole::Voter,
            })
            .collect();
        Self {
            id: r.id.0,
            keyspace_id: r.keyspace.0,
            start: r.span.start,
            end: r.span.end,
            epoch: r.epoch.0,
            membership_term: r.membership_log.0,
            membership_index: r.membership_log.1,
            replicas,
            leader_node_id: r.leader.map_or(0, |n| n.0),
        }
    }
}

impl TryFrom<v1::Range> for RangeDescriptor {
    type Error = WireError;

    fn try_from(r: v1::Range) -> Result<Self, WireError> {
        let span = Span::new(r.start, r.end)
            .ok_or_else(|| bad("range", format!("span {:x}..{:x}", r.start, r.end)))?;
        let replica = |c: v1::Replica| {
            if c.id == 0 || c.node_id == 0 {
                return Err(bad("replica", "id 0"));
            }
            let role = if c.voter { ReplicaRole::Voter } else { ReplicaRole::Learner };
            Ok(ReplicaDescriptor { id: ReplicaId(c.id), node: NodeId(c.node_id), role })
        };
        Ok(Self {
            id: RangeId(r.id),
            keyspace: KeyspaceId(r.keyspace_id),
            span,
            epoch: RangeEpoch(r.epoch),
            membership_log: (r.membership_term, r.membership_index),
            replicas: r.replicas.into_iter().map(replica).collect::<Result<_, _>>()?,
            leader: (r.leader_node_id != 0).then_some(NodeId(r.leader_node_id)),
        })
    }
}

impl From<&ClusterMap> for v1::MapResponse {
    fn from(map: &ClusterMap) -> Self {
        Self {
            cluster_id: map.cluster.to_bytes().to_vec().into(),
            revision: map.revision.0,
            nodes: map.nodes.values().map(Into::into).collect(),
            keyspaces: map.keyspaces.values().map(Into::into).collect(),
            ranges: map.ranges.values().map(Into::into).collect(),
            node_id: 0,
        }
    }
}

impl TryFrom<v1::MapResponse> for ClusterMap {
    type Error = WireError;

    fn try_from(message: v1::MapResponse) -> Result<Self, WireError> {
        let cluster = ClusterId::from_bytes(&message.cluster_id)
            .ok_or_else(|| bad("map", "cluster id is not 16 bytes"))?;
        let mut map = Self::new(cluster, Revision(message.revision));
        for node in message.nodes {
            let node = NodeDescriptor::try_from(node)?;
            map.nodes.insert(node.id, node);
        }
        for keyspace in message.keyspaces {
            let keyspace = KeyspaceDescriptor::try_from(keyspace)?;
            map.keyspaces.insert(keyspace.name.clone(), keyspace);
        }
        for range in message.ranges {
            map.put_range(range.try_into()?);
        }
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_survives_the_wire() {
        let mut map = ClusterMap::new(ClusterId(7), Revision(9));
        let node = NodeDescriptor {
            id: NodeId(1),
            client_address: "127.0.0.1:7401".into(),
            peer_address: "127.0.0.1:7411".into(),
            http_address: String::new(),
            zone: "a".into(),
            weight_milli: 1000,
        };
        map.nodes.insert(node.id, node);
        let keyspace = KeyspaceDescriptor {
            id: KeyspaceId(1),
            name: "default".into(),
            ranges: 2,
            replication_factor: 3,
            history: History::default(),
            compaction: Compaction::Tiered,
            kind: KeyspaceKind::Etcd,
        };
        map.keyspaces.insert(keyspace.name.clone(), keyspace);
        for (i, span) in Span::split_ring(2).into_iter().enumerate() {
            map.put_range(RangeDescriptor {
                id: RangeId(i as u64 + 1),
                keyspace: KeyspaceId(1),
                span,
                epoch: RangeEpoch(1),
                membership_log: (1, 1),
                replicas: vec![ReplicaDescriptor {
                    id: ReplicaId(1000),
                    node: NodeId(1),
                    role: ReplicaRole::Voter,
                }],
                leader: Some(NodeId(1)),
            });
        }
        let wire = v1::MapResponse::from(&map);
        assert_eq!(ClusterMap::try_from(wire), Ok(map));
    }

    #[test]
    fn a_map_with_a_wrapping_span_is_refused() {
        let range = v1::Range { id: 1, start: 5, end: 4, ..Default::default() };
        assert!(RangeDescriptor::try_from(range).is_err());
    }
}
