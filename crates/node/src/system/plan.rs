//! Pure planning: which ranges a cluster or keyspace begins with, and where.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_model::{
    DEFAULT_KEYSPACE, ETCD_KEYSPACE, History, KeyspaceId, NodeId, RangeId, Span,
    limits::RANGES_PER_KEYSPACE_DEFAULT,
};
use holdfast_ring::{Placement, Ring, RingNode};
use holdfast_wire::v1;

use super::layout::{REPLICA_ID_MIN, system_keyspace};

/// Replicas of a keyspace that does not say.
pub(super) const REPLICATION_FACTOR_DEFAULT: u32 = 3;
/// Replicas of range 0 in a cluster of five nodes and more.
const SYSTEM_REPLICAS_MAX: u32 = 5;

/// What a cluster begins with.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Beginning {
    pub(super) keyspaces: Vec<v1::Keyspace>,
    /// `leader_node_id` is the founder.
    pub(super) ranges: Vec<v1::Range>,
}

/// Which ids are handed out next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NextIds {
    pub(super) range: u64,
    pub(super) replica: u64,
}

pub(super) fn ring(nodes: &[v1::Node]) -> Ring {
    let node = |n: &v1::Node| RingNode {
        id: NodeId(n.id),
        zone: n.zone.clone(),
        weight_milli: n.weight_milli,
    };
    Ring::new(&nodes.iter().map(node).collect::<Vec<_>>())
}

/// The ranges of `keyspace`, placed on `nodes` beside `existing`, ids taken from `next`. Leaders
/// are chosen among `healthy`, so that all nodes together lead evenly.
pub(super) fn ranges(
    keyspace: &v1::Keyspace,
    nodes: &[v1::Node],
    existing: &Placement,
    healthy: &BTreeSet<NodeId>,
    next: &mut NextIds,
) -> Vec<v1::Range> {
    let spans = Span::split_ring(keyspace.ranges);
    let ids: Vec<RangeId> = (next.range..).take(spans.len()).map(RangeId).collect();
    next.range += spans.len() as u64;
    // Ranges are placed in the order of their ids, so the older ones come out as they were.
    let mut wanted: Vec<(RangeId, u32)> = existing
        .iter()
        .map(|(id, nodes)| (*id, u32::try_from(nodes.len()).unwrap_or(u32::MAX)))
        .collect();
    wanted.extend(ids.iter().map(|id| (*id, keyspace.replication_factor)));
    let placed = ring(nodes).place(&wanted);
    let mut all = existing.clone();
    for id in &ids {
        all.insert(*id, placed.get(id).cloned().unwrap_or_default());
    }
    let leaders = holdfast_ring::leaders(&all, healthy);
    let mut ranges = Vec::new();
    for (id, span) in ids.into_iter().zip(spans) {
        let nodes = all.get(&id).map(Vec::as_slice).unwrap_or_default();
        let founder = leaders.get(&id).or(nodes.first()).copied().unwrap_or_default();
        ranges.push(range(keyspace, id, span, nodes, founder, next));
    }
    ranges
}

fn range(
    keyspace: &v1::Keyspace,
    id: RangeId,
    span: Span,
    nodes: &[NodeId],
    founder: NodeId,
    next: &mut NextIds,
) -> v1::Range {
    // Replica ids grow with preference, so that order is not lost where a set is kept by id.
    let replicas = (next.replica..)
        .zip(nodes)
        .map(|(id, node)| v1::Replica { id, node_id: node.0, voter: true })
        .collect::<Vec<_>>();
    next.replica += replicas.len() as u64;
    v1::Range {
        id: id.0,
        keyspace_id: keyspace.id,
        start: span.start,
        end: span.end,
        epoch: 1,
        membership_term: 0,
        membership_index: 0,
        replicas,
        leader_node_id: founder.0,
    }
}

/// What a cluster of `nodes` (with ids) begins with.
pub(super) fn beginning(nodes: &[v1::Node], replication_factor: u32) -> (Beginning, NextIds) {
    let count = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
    let keyspace = |id: u64, name: &str, ranges: u32, history: History| v1::Keyspace {
        id: KeyspaceId(id).0,
        name: name.into(),
        ranges,
        replication_factor: replication_factor.min(count),
        history: Some(history.into()),
        compaction: v1::Compaction::Leveled.into(),
        kind: v1::KeyspaceKind::Native.into(),
    };
    let system_replicas = if count >= SYSTEM_REPLICAS_MAX {
        SYSTEM_REPLICAS_MAX
    } else {
        REPLICATION_FACTOR_DEFAULT.min(count)
    };
    let keyspaces = vec![
        system_keyspace(system_replicas),
        keyspace(1, DEFAULT_KEYSPACE, RANGES_PER_KEYSPACE_DEFAULT, History::default()),
        v1::Keyspace {
            kind: v1::KeyspaceKind::Etcd.into(),
            ..keyspace(2, ETCD_KEYSPACE, 1, History::Manual)
        },
    ];
    let healthy = nodes.iter().map(|n| NodeId(n.id)).collect();
    let mut next = NextIds { range: 0, replica: REPLICA_ID_MIN };
    let mut all = Vec::new();
    let mut placed = Placement::new();
    for keyspace in &keyspaces {
        let new = ranges(keyspace, nodes, &placed, &healthy, &mut next);
        placed.extend(new.iter().map(placement_of));
        all.extend(new);
    }
    (Beginning { keyspaces, ranges: all }, next)
}

/// A range's nodes, most preferred first.
pub(super) fn placement_of(range: &v1::Range) -> (RangeId, Vec<NodeId>) {
    let mut replicas: Vec<_> = range.replicas.iter().map(|r| (r.id, NodeId(r.node_id))).collect();
    replicas.sort_unstable();
    (RangeId(range.id), replicas.into_iter().map(|(_, node)| node).collect())
}

/// Replicas of `ranges` by the node that is to host them.
pub(super) fn by_node(ranges: &[v1::Range]) -> BTreeMap<NodeId, Vec<(&v1::Range, u64)>> {
    let mut nodes: BTreeMap<NodeId, Vec<(&v1::Range, u64)>> = BTreeMap::new();
    for range in ranges {
        for replica in &range.replicas {
            nodes.entry(NodeId(replica.node_id)).or_default().push((range, replica.id));
        }
    }
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(count: u64) -> Vec<v1::Node> {
        (1..=count).map(|id| v1::Node { id, weight_milli: 1000, ..v1::Node::default() }).collect()
    }

    fn led_by(ranges: &[v1::Range]) -> BTreeMap<u64, usize> {
        let mut led = BTreeMap::new();
        for range in ranges {
            *led.entry(range.leader_node_id).or_insert(0) += 1;
        }
        led
    }

    #[test]
    fn a_cluster_begins_with_range_0_eight_default_ranges_and_one_for_etcd() {
        let (beginning, next) = beginning(&nodes(3), 3);
        let ids: Vec<_> = beginning.ranges.iter().map(|r| (r.id, r.keyspace_id)).collect();
        assert_eq!(ids.len(), 10);
        assert_eq!((ids[0], ids[1], ids[8], ids[9]), ((0, 0), (1, 1), (8, 1), (9, 2)));
        assert_eq!(next, NextIds { range: 10, replica: 1030 });
        assert!(beginning.ranges.iter().all(|r| r.replicas.len() == 3));
        let led = led_by(&beginning.ranges);
        assert!(led.values().all(|n| (3..=4).contains(n)), "{led:?}");
    }

    #[test]
    fn replica_ids_are_unique_and_start_at_1000() {
        let (beginning, _) = beginning(&nodes(7), 3);
        let ids: Vec<_> =
            beginning.ranges.iter().flat_map(|r| r.replicas.iter().map(|r| r.id)).collect();
        assert_eq!(ids.iter().min(), Some(&1000));
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
        assert_eq!(beginning.ranges[0].replicas.len(), 5, "range 0 has five replicas on 7 nodes");
    }

    #[test]
    fn one_node_alone_has_one_replica_of_everything() {
        let (beginning, _) = beginning(&nodes(1), 3);
        assert!(beginning.ranges.iter().all(|r| r.replicas.len() == 1));
        assert!(beginning.keyspaces.iter().all(|k| k.replication_factor == 1));
    }

    #[test]
    fn ranges_of_a_keyspace_partition_the_ring_and_are_led_by_healthy_nodes_only() {
        let (start, mut next) = beginning(&nodes(3), 3);
        let existing: Placement = start.ranges.iter().map(placement_of).collect();
        let keyspace = v1::Keyspace { id: 3, ranges: 64, ..system_keyspace(3) };
        let healthy = BTreeSet::from([NodeId(1), NodeId(3)]);
        let new = ranges(&keyspace, &nodes(3), &existing, &healthy, &mut next);
        assert_eq!(new.len(), 64);
        assert_eq!((new[0].start, new[63].end, new[0].id), (0, 0, 10));
        for pair in new.windows(2) {
            assert_eq!(pair[0].end, pair[1].start);
        }
        assert_eq!(led_by(&new).keys().copied().collect::<Vec<_>>(), [1, 3]);
        assert_eq!(by_node(&new).len(), 3);
    }
}
