use std::collections::BTreeSet;

use holdfast_model::{NodeId, RangeId};
use holdfast_ring::{Placement, Ring, RingNode, moves};
use proptest::prelude::*;

use super::{loads, node, nodes, place, ranges};

/// (nodes, ranges): from the smallest cluster to thousands of nodes.
const SIZES: [(u64, u64); 7] =
    [(3, 512), (4, 512), (5, 1_024), (10, 2_048), (50, 8_192), (300, 32_768), (3_000, 65_536)];

/// Replicas that `after` holds at another node than `before`, without those on `gone`.
fn moved(before: &Placement, after: &Placement, gone: Option<NodeId>) -> u64 {
    moves(before, after).iter().filter(|m| m.from != gone).count() as u64
}

#[test]
fn every_range_has_its_replicas_on_distinct_nodes() {
    for (count, range_count) in SIZES {
        let placement = place(&nodes(count), range_count);
        assert_eq!(placement.len() as u64, range_count);
        for replicas in placement.values() {
            assert_eq!(replicas.iter().collect::<BTreeSet<_>>().len(), 3);
        }
    }
}

#[test]
fn no_node_is_above_its_bound_of_one_and_a_quarter_shares() {
    for (count, range_count) in SIZES {
        let nodes = nodes(count);
        let bound = (range_count * 3 * 125).div_ceil(count * 100);
        for (node, load) in loads(&nodes, &place(&nodes, range_count)) {
            assert!(load <= bound, "{node} of {count} holds {load}, bound {bound}");
        }
    }
}

#[test]
fn a_joining_node_moves_little_more_than_its_own_share() {
    for (count, range_count) in SIZES {
        let before = place(&nodes(count), range_count);
        let after = place(&nodes(count + 1), range_count);
        let share = range_count * 3 / (count + 1);
        let moved = moved(&before, &after, None);
        assert!(moved * 10 <= share * 13, "{moved} moved at {count}, share {share}");
    }
}

#[test]
fn a_leaving_node_moves_its_own_replicas_and_few_others() {
    for (count, range_count) in SIZES.into_iter().filter(|(count, _)| *count > 3) {
        let all = nodes(count);
        let before = place(&all, range_count);
        let after = place(&all[1..], range_count);
        let others = moved(&before, &after, Some(all[0].id));
        let total = range_count * 3;
        assert!(others * 100 <= total * 5, "{others} others of {total} moved at {count}");
    }
}

#[test]
fn weights_are_honoured_within_a_tenth() {
    let weights = [500u32, 1_000, 2_000];
    let weigh = |mut node: RingNode| {
        node.weight_milli = weights[(node.id.0 % 3) as usize];
        node
    };
    let nodes: Vec<RingNode> = nodes(60).into_iter().map(weigh).collect();
    let loads = loads(&nodes, &place(&nodes, 16_384));
    let total: u64 = loads.values().sum();
    for (class, weight) in weights.into_iter().enumerate() {
        let members = loads.iter().filter(|(node, _)| node.0 % 3 == class as u64);
        let held: u64 = members.map(|(_, load)| *load).sum();
        let fair = total * u64::from(weight) / 3_500;
        assert!(held * 10 >= fair * 9 && held * 10 <= fair * 11, "{weight}: {held}, fair {fair}");
    }
}

#[test]
fn a_drained_node_holds_nothing() {
    let mut nodes = nodes(5);
    nodes[2].weight_milli = 0;
    let placement = place(&nodes, 256);
    assert_eq!(loads(&nodes, &placement)[&nodes[2].id], 0);
    assert!(placement.values().all(|replicas| replicas.len() == 3));
}

#[test]
fn a_node_too_heavy_for_its_share_holds_one_replica_of_each_range() {
    let mut nodes = nodes(4);
    nodes[0].weight_milli = 100_000;
    let placement = place(&nodes, 256);
    let loads = loads(&nodes, &placement);
    assert_eq!(loads[&nodes[0].id], 256);
    assert!(nodes[1..].iter().all(|n| loads[&n.id] * 100 <= 256 * 2 * 125 / 3 + 100), "{loads:?}");
}

#[test]
fn too_few_nodes_give_one_replica_each() {
    for count in 0..3 {
        let placement = place(&nodes(count), 8);
        assert!(placement.values().all(|replicas| replicas.len() as u64 == count));
    }
}

#[test]
fn replicas_lie_in_distinct_zones_while_zones_remain() {
    // Three zones of very different sizes: each must hold a replica of every range.
    let zones = ["a", "b", "b", "b", "c", "c", "c", "c", "c", "c", "c"];
    let nodes: Vec<RingNode> = (1..).zip(zones).map(|(id, zone)| node(id, zone)).collect();
    let zone_of = |id: &NodeId| nodes.iter().find(|n| n.id == *id).unwrap().zone.clone();
    for wanted in [2u32, 3, 5] {
        let wishes: Vec<_> = (1..=600).map(|id| (RangeId(id), wanted)).collect();
        for replicas in Ring::new(&nodes).place(&wishes).values() {
            let zones: BTreeSet<String> = replicas.iter().map(zone_of).collect();
            assert_eq!(zones.len(), (wanted as usize).min(3));
        }
    }
    let held = loads(&nodes, &place(&nodes, 600));
    let of_c = held.iter().filter(|(node, _)| node.0 >= 5).map(|(_, load)| *load);
    assert!(of_c.into_iter().all(|load| load <= 108), "600 / 7 × 1.25: {held:?}");
}

#[test]
fn later_ranges_do_not_push_earlier_ones_from_nodes_with_room() {
    let nodes = nodes(9);
    let (few, many) = (place(&nodes, 500), place(&nodes, 1_000));
    let moved = moved(&few, &many, None);
    assert!(moved * 50 <= 500 * 3, "{moved} moved");
}

proptest! {
    #[test]
    fn the_order_of_the_input_does_not_matter(
        weights in proptest::collection::vec(0u32..3_000, 1..12),
        zones in 1usize..4,
        seed in any::<u64>(),
    ) {
        let build = |(i, weight): (usize, &u32)| RingNode {
            id: NodeId(i as u64 + 1),
            zone: format!("z{}", i % zones),
            weight_milli: *weight,
        };
        let mut nodes: Vec<RingNode> = weights.iter().enumerate().map(build).collect();
        let mut ranges = ranges(40);
        let straight = Ring::new(&nodes).place(&ranges);
        let turn = (seed % 40) as usize;
        ranges.rotate_left(turn);
        let length = nodes.len();
        nodes.rotate_left(turn % length);
        prop_assert_eq!(&straight, &Ring::new(&nodes).place(&ranges));
        let weighty = weights.iter().filter(|w| **w > 0).count();
        for replicas in straight.values() {
            prop_assert_eq!(replicas.len(), weighty.min(3));
            prop_assert_eq!(replicas.iter().collect::<BTreeSet<_>>().len(), replicas.len());
        }
    }
}
