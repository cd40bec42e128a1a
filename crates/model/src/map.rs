//! The cluster map as every node and client caches it: a copy, never the truth.
//!
//! A range's span and epoch live in its own replicated state and its replica set in its Raft
//! membership. The map is a published copy of both, ordered per range by (epoch, membership log
//! position); newer wins. Nothing is served, refused or deleted because of the map.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::{ClusterId, KeyspaceId, NodeId, RangeEpoch, RangeId, ReplicaId, Revision, Span};

/// How long a keyspace keeps old versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum History {
    /// Only the newest version of each key.
    Latest,
    /// Versions newer than this much range time.
    Duration(Duration),
    /// The last so many revisions.
    Revisions(u64),
    /// All, until `Compact` is called.
    Manual,
}

impl Default for History {
    fn default() -> Self {
        Self::Duration(Duration::from_secs(600))
    }
}

/// A server process, as the cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeDescriptor {
    /// Its id.
    pub id: NodeId,
    /// Where clients reach it, `host:port`.
    pub client_address: String,
    /// Where other nodes reach it, `host:port`.
    pub peer_address: String,
    /// Its HTTP port, `host:port`; empty when off.
    pub http_address: String,
    /// Failure zone; empty when not configured.
    pub zone: String,
    /// Share of the ring in thousandths (1000 = weight 1.0; 0 = drained).
    pub weight_milli: u32,
}

/// How the storage engine of a replica merges its tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compaction {
    /// Levels of growing size: little dead data and few places to look, for more rewriting.
    #[default]
    Leveled,
    /// Runs of growing size: less rewriting, for up to twice the space and more places to look.
    Tiered,
}

/// What a keyspace is to its clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyspaceKind {
    /// Keys in any number of ranges.
    #[default]
    Native,
    /// One etcd: one range that is never split, and no revision without an event. Keys end with
    /// leases there, not by a TTL of their own, and locks are keys.
    Etcd,
}

/// A named collection of keys with its own settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyspaceDescriptor {
    /// Its id, never reused.
    pub id: KeyspaceId,
    /// Its name.
    pub name: String,
    /// How many ranges it was created with.
    pub ranges: u32,
    /// Replicas per range (limited by the number of nodes).
    pub replication_factor: u32,
    /// How long old versions stay.
    pub history: History,
    /// How tables are merged; set once.
    pub compaction: Compaction,
    /// What it is to its clients; set once.
    pub kind: KeyspaceKind,
}

/// Whether a replica counts in quorums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaRole {
    /// Votes.
    Voter,
    /// Receives the log only.
    Learner,
}

/// One copy of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaDescriptor {
    /// Its id.
    pub id: ReplicaId,
    /// The node that hosts it.
    pub node: NodeId,
    /// Whether it votes.
    pub role: ReplicaRole,
}

/// One range: its span and replicas as last published by its leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeDescriptor {
    /// Its id.
    pub id: RangeId,
    /// The keyspace it belongs to.
    pub keyspace: KeyspaceId,
    /// The arc of the ring it owns.
    pub span: Span,
    /// How often the span has changed.
    pub epoch: RangeEpoch,
    /// Term and index of the membership entry the replica set was taken from.
    pub membership_log: (u64, u64),
    /// Its replicas.
    pub replicas: Vec<ReplicaDescriptor>,
    /// Who led it when last heard of; a hint.
    pub leader: Option<NodeId>,
}

impl RangeDescriptor {
    /// Whether `self` is a newer copy than `other` of the same range.
    pub fn supersedes(&self, other: &Self) -> bool {
        (self.epoch, self.membership_log) > (other.epoch, other.membership_log)
    }

    /// The replica hosted by `node`, if any.
    pub fn replica_on(&self, node: NodeId) -> Option<ReplicaDescriptor> {
        self.replicas.iter().copied().find(|r| r.node == node)
    }
}

/// Nodes, keyspaces and ranges as of one revision of the system range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterMap {
    /// The cluster; zero before it is founded.
    pub cluster: ClusterId,
    /// Revision of range 0 this copy reflects.
    pub revision: Revision,
    /// Nodes by id.
    pub nodes: BTreeMap<NodeId, NodeDescriptor>,
    /// Keyspaces by name.
    pub keyspaces: BTreeMap<String, KeyspaceDescriptor>,
    /// Ranges by id.
    pub ranges: BTreeMap<RangeId, RangeDescriptor>,
    /// Ranges by keyspace and span start; kept by [`ClusterMap::put_range`].
    by_start: BTreeMap<(KeyspaceId, u64), RangeId>,
}

/// A look-up the map cannot answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// No keyspace has that name.
    #[error("keyspace {0:?} does not exist")]
    UnknownKeyspace(String),
    /// The keyspace has no range there yet (it is being created, or this copy is old).
    #[error("keyspace {0:?} has no range at position {1:016x} in this copy of the map")]
    NoRange(String, u64),
}

impl ClusterMap {
    /// An empty map of `cluster` as of `revision`.
    pub fn new(cluster: ClusterId, revision: Revision) -> Self {
        Self { cluster, revision, ..Self::default() }
    }

    /// Stores `range`, replacing an older copy; an older or equal copy is ignored.
    ///
    /// The leader hint of an equal copy is taken over.
    pub fn put_range(&mut self, range: RangeDescriptor) {
        if let Some(known) = self.ranges.get_mut(&range.id) {
            if !range.supersedes(known) {
                if !known.supersedes(&range) && range.leader.is_some() {
                    known.leader = range.leader;
                }
                return;
            }
            let old = (known.keyspace, known.span.start);
            if self.by_start.get(&old) == Some(&range.id) {
                self.by_start.remove(&old);
            }
        }
        self.by_start.insert((range.keyspace, range.span.start), range.id);
        self.ranges.insert(range.id, range);
    }

    /// Forgets a range that was dropped.
    pub fn remove_range(&mut self, id: RangeId) {
        if let Some(range) = self.ranges.remove(&id) {
            self.by_start.remove(&(range.keyspace, range.span.start));
        }
    }

    /// The keyspace called `name` (empty means `default`).
    ///
    /// # Errors
    /// [`MapError::UnknownKeyspace`].
    pub fn keyspace(&self, name: &str) -> Result<&KeyspaceDescriptor, MapError> {
        let name = if name.is_empty() { crate::DEFAULT_KEYSPACE } else { name };
        self.keyspaces.get(name).ok_or_else(|| MapError::UnknownKeyspace(name.to_owned()))
    }

    /// The range of `keyspace` that holds `position`. Cost: two tree look-ups.
    ///
    /// # Errors
    /// [`MapError`]: refresh the map, then look again.
    pub fn lookup(&self, keyspace: &str, position: u64) -> Result<&RangeDescriptor, MapError> {
        let space = self.keyspace(keyspace)?;
        self.by_start
            .range((space.id, 0)..=(space.id, position))
            .next_back()
            .and_then(|(_, id)| self.ranges.get(id))
            .filter(|range| range.span.contains(position))
            .ok_or_else(|| MapError::NoRange(space.name.clone(), position))
    }

    /// All ranges of `keyspace`, in ring order.
    ///
    /// # Errors
    /// [`MapError::UnknownKeyspace`].
    pub fn ranges_of(&self, keyspace: &str) -> Result<Vec<&RangeDescriptor>, MapError> {
        let space = self.keyspace(keyspace)?;
        Ok(self
            .by_start
            .range((space.id, 0)..=(space.id, u64::MAX))
            .filter_map(|(_, id)| self.ranges.get(id))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map_with(count: u32) -> ClusterMap {
        let mut map = ClusterMap::default();
        map.keyspaces.insert(
            "default".into(),
            KeyspaceDescriptor {
                id: KeyspaceId(1),
                name: "default".into(),
                ranges: count,
                replication_factor: 3,
                history: History::default(),
                compaction: Compaction::default(),
                kind: KeyspaceKind::default(),
            },
        );
        for (i, span) in Span::split_ring(count).into_iter().enumerate() {
            map.put_range(RangeDescriptor {
                id: RangeId(i as u64 + 1),
                keyspace: KeyspaceId(1),
                span,
                epoch: RangeEpoch(1),
                membership_log: (1, 1),
                replicas: Vec::new(),
                leader: None,
            });
        }
        map
    }

    #[test]
    fn every_position_has_exactly_the_range_that_contains_it() {
        let map = map_with(8);
        for position in [0, 1, u64::MAX / 2, u64::MAX / 2 + 1, u64::MAX] {
            assert!(map.lookup("", position).unwrap().span.contains(position));
        }
        assert_eq!(map.ranges_of("default").unwrap().len(), 8);
        assert_eq!(map.lookup("x", 0), Err(MapError::UnknownKeyspace("x".into())));
    }

    #[test]
    fn an_older_copy_never_replaces_a_newer_one() {
        let mut map = map_with(2);
        let mut newer = map.ranges[&RangeId(1)].clone();
        newer.membership_log = (2, 9);
        newer.leader = Some(NodeId(3));
        map.put_range(newer.clone());
        let mut older = newer.clone();
        older.membership_log = (1, 5);
        older.leader = Some(NodeId(1));
        map.put_range(older);
        assert_eq!(map.ranges[&RangeId(1)], newer);
    }
}
