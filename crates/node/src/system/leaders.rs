//! Who should lead what: spread evenly, the first preferred healthy replica where there is choice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use holdfast_model::{ClusterMap, NodeId, RangeId, ReplicaRole};
use holdfast_ring::Placement;

/// Leaders are moved only after nodes and their health stayed as they are for this long: a node
/// that has just come back is still catching up, and views of health differ for a moment.
const SETTLED: Duration = Duration::from_secs(5);

/// The wanted leaders, as long as nothing changes.
#[derive(Debug, Default)]
pub(super) struct Targets {
    healthy: BTreeSet<NodeId>,
    placement: Placement,
    settled_at: Duration,
    targets: BTreeMap<RangeId, NodeId>,
}

impl Targets {
    /// The wanted leaders, or none while things are moving.
    pub(super) fn update(
        &mut self,
        map: &ClusterMap,
        healthy: BTreeSet<NodeId>,
        now: Duration,
    ) -> &BTreeMap<RangeId, NodeId> {
        let placement = placement(map);
        if healthy != self.healthy || placement != self.placement {
            self.targets = BTreeMap::new();
            self.settled_at = now + SETTLED;
            (self.healthy, self.placement) = (healthy, placement);
        } else if self.targets.is_empty() && now >= self.settled_at {
            self.targets = holdfast_ring::leaders(&self.placement, &self.healthy);
        }
        &self.targets
    }
}

/// Who holds what by the map; replica ids grow with preference.
fn placement(map: &ClusterMap) -> Placement {
    let of_range = |range: &holdfast_model::RangeDescriptor| {
        let mut voters: Vec<_> = range
            .replicas
            .iter()
            .filter(|r| r.role == ReplicaRole::Voter)
            .map(|r| (r.id, r.node))
            .collect();
        voters.sort_unstable();
        (range.id, voters.into_iter().map(|(_, node)| node).collect())
    };
    map.ranges.values().map(of_range).collect()
}

#[cfg(test)]
mod tests {
    use holdfast_model::{
        ClusterId, KeyspaceId, RangeDescriptor, RangeEpoch, ReplicaDescriptor, ReplicaId, Revision,
        Span,
    };

    use super::*;

    fn map() -> ClusterMap {
        let mut map = ClusterMap::new(ClusterId(1), Revision(1));
        for (i, span) in Span::split_ring(8).into_iter().enumerate() {
            let replica = |n: u64| ReplicaDescriptor {
                id: ReplicaId(1000 + 3 * i as u64 + n),
                node: NodeId(1 + (i as u64 + n) % 3),
                role: ReplicaRole::Voter,
            };
            map.put_range(RangeDescriptor {
                id: RangeId(i as u64),
                keyspace: KeyspaceId(1),
                span,
                epoch: RangeEpoch(1),
                membership_log: (1, 1),
                replicas: (0..3).map(replica).collect(),
                leader: None,
            });
        }
        map
    }

    fn nodes(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    #[test]
    fn nothing_is_wanted_until_the_nodes_have_settled() {
        let mut targets = Targets::default();
        let map = map();
        let second = Duration::from_secs(1);
        assert!(targets.update(&map, nodes(&[1, 2, 3]), second).is_empty());
        assert!(targets.update(&map, nodes(&[1, 2, 3]), 5 * second).is_empty());
        assert_eq!(targets.update(&map, nodes(&[1, 2, 3]), 6 * second).len(), 8);
        assert!(targets.update(&map, nodes(&[1, 2]), 7 * second).is_empty());
        let wanted = targets.update(&map, nodes(&[1, 2]), 20 * second);
        assert!(wanted.values().all(|node| node.0 != 3), "{wanted:?}");
    }

    #[test]
    fn wanted_leaders_are_spread_within_one() {
        let mut targets = Targets::default();
        let map = map();
        targets.update(&map, nodes(&[1, 2, 3]), Duration::ZERO);
        let wanted = targets.update(&map, nodes(&[1, 2, 3]), Duration::from_secs(60));
        let mut led = BTreeMap::new();
        for node in wanted.values() {
            *led.entry(*node).or_insert(0) += 1;
        }
        assert!(led.values().all(|n| (2..=3).contains(n)), "{led:?}");
    }
}
