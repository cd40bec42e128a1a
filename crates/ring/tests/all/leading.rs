use std::collections::{BTreeMap, BTreeSet};

use holdfast_model::{NodeId, RangeId};
use holdfast_ring::{Placement, leaders};
use proptest::prelude::*;

use super::{nodes, place};

fn healthy(ids: impl IntoIterator<Item = u64>) -> BTreeSet<NodeId> {
    ids.into_iter().map(NodeId).collect()
}

/// Leaderships per node of `among`.
fn led(leaders: &BTreeMap<RangeId, NodeId>, among: &BTreeSet<NodeId>) -> Vec<usize> {
    among.iter().map(|node| leaders.values().filter(|leader| *leader == node).count()).collect()
}

fn as_preferred(leaders: &BTreeMap<RangeId, NodeId>, placement: &Placement) -> usize {
    leaders.iter().filter(|(range, leader)| placement[range].first() == Some(leader)).count()
}

fn assert_even(led: &[usize]) {
    let (least, most) = (led.iter().min().unwrap(), led.iter().max().unwrap());
    assert!(most - least <= 1, "{led:?}");
}

#[test]
fn leaders_are_spread_within_one_per_node() {
    for (count, ranges) in [(3, 1), (3, 8), (3, 64), (5, 64), (10, 256), (100, 1_024)] {
        let placement = place(&nodes(count), ranges);
        let all = healthy(1..=count);
        let leaders = leaders(&placement, &all);
        assert_eq!(leaders.len() as u64, ranges);
        assert_even(&led(&leaders, &all));
        assert!(leaders.iter().all(|(range, leader)| placement[range].contains(leader)));
    }
}

#[test]
fn the_leaders_of_a_dead_node_are_spread_over_the_living() {
    let placement = place(&nodes(5), 64);
    let living = healthy([1, 2, 4, 5]);
    let leaders = leaders(&placement, &living);
    assert_eq!(leaders.len(), 64);
    assert_even(&led(&leaders, &living));
}

#[test]
fn a_range_without_a_healthy_replica_has_no_leader() {
    let placement =
        Placement::from([(RangeId(1), vec![NodeId(1), NodeId(2)]), (RangeId(2), vec![NodeId(3)])]);
    let leaders = leaders(&placement, &healthy([2]));
    assert_eq!(leaders, BTreeMap::from([(RangeId(1), NodeId(2))]));
}

#[test]
fn preferred_replicas_lead_where_that_is_even() {
    let row = |id, nodes: [u64; 2]| (RangeId(id), nodes.map(NodeId).to_vec());
    let placement = Placement::from([row(1, [1, 2]), row(2, [2, 1]), row(3, [3, 1])]);
    let leaders = leaders(&placement, &healthy(1..=3));
    assert_eq!(as_preferred(&leaders, &placement), 3);
}

/// (sum of squared loads, ranges not led as preferred) of the best of all layouts.
fn best(placement: &Placement, healthy: &BTreeSet<NodeId>) -> (usize, usize) {
    let rows: Vec<Vec<NodeId>> = placement
        .values()
        .map(|replicas| replicas.iter().copied().filter(|node| healthy.contains(node)).collect())
        .filter(|row: &Vec<NodeId>| !row.is_empty())
        .collect();
    let layouts: usize = rows.iter().map(Vec::len).product();
    let score = |mut number: usize| {
        let (mut loads, mut others) = (BTreeMap::<NodeId, usize>::new(), 0);
        for row in &rows {
            let choice = number % row.len();
            number /= row.len();
            *loads.entry(row[choice]).or_default() += 1;
            others += usize::from(choice != 0);
        }
        (loads.values().map(|load| load * load).sum(), others)
    };
    (0..layouts).map(score).min().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn no_layout_is_more_even_nor_as_even_and_more_preferred(
        rows in proptest::collection::vec(
            proptest::sample::subsequence((1..=5).collect::<Vec<u64>>(), 1..=3).prop_shuffle(),
            0..8,
        ),
        sick in 0u64..=6,
    ) {
        let placement: Placement = (1..).map(RangeId).zip(
            rows.iter().map(|row| row.iter().copied().map(NodeId).collect::<Vec<_>>()),
        ).collect();
        let healthy = healthy((1..=5).filter(|id| *id != sick));
        let found = leaders(&placement, &healthy);
        let squares = led(&found, &healthy).iter().map(|load| load * load).sum::<usize>();
        let first = |range| placement[range].iter().find(|node| healthy.contains(node));
        let others = found.iter().filter(|(range, leader)| first(range) != Some(leader)).count();
        prop_assert_eq!((squares, others), best(&placement, &healthy));
    }
}
