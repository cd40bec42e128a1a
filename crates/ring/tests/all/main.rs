//! The bounds that placement promises, on synthetic clusters of three to three thousand nodes.
#![allow(clippy::unwrap_used)]

mod golden;
mod leading;
mod placing;

use std::collections::BTreeMap;

use holdfast_model::{NodeId, RangeId};
use holdfast_ring::{Placement, Ring, RingNode};

/// A node of weight 1.0 with the given zone.
fn node(id: u64, zone: &str) -> RingNode {
    RingNode { id: NodeId(id), zone: zone.into(), weight_milli: 1_000 }
}

/// Nodes 1..=count without zones.
fn nodes(count: u64) -> Vec<RingNode> {
    (1..=count).map(|id| node(id, "")).collect()
}

/// Ranges 1..=count with three replicas each.
fn ranges(count: u64) -> Vec<(RangeId, u32)> {
    (1..=count).map(|id| (RangeId(id), 3)).collect()
}

fn place(nodes: &[RingNode], count: u64) -> Placement {
    Ring::new(nodes).place(&ranges(count))
}

/// Replicas per node; nodes without any are listed with 0.
fn loads(nodes: &[RingNode], placement: &Placement) -> BTreeMap<NodeId, u64> {
    let mut loads: BTreeMap<NodeId, u64> = nodes.iter().map(|node| (node.id, 0)).collect();
    for replicas in placement.values() {
        replicas.iter().for_each(|node| *loads.entry(*node).or_default() += 1);
    }
    loads
}
