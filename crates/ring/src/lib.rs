//! Who holds what: pure arithmetic from nodes and ranges to replicas, leaders and moves.
//!
//! Every node throws 256 tokens per unit of weight on a ring of 2^64 points, every range one; a
//! range prefers the nodes whose tokens follow its own clockwise. So a joining node takes its share
//! from all others evenly and nothing else moves. Plain consistent hashing leaves some nodes far
//! above the average and knows no zones; both are mended by skipping nodes on the walk.
//!
//! Owns: tokens ([`Ring`]), preferred replicas ([`Ring::place`]), leader targets ([`leaders`]), the
//! moves between two placements ([`moves`]).
//! Must never know: clocks, sockets, who leads now.
//! Invariants:
//! * The same input gives the same output on every machine: no float, no hash-map order.
//! * A range has as many replicas as asked for, or one on every node that has weight.
//! * Replicas lie in distinct zones while zones remain.
//! * No node is above 1.25 times its share, unless zones leave no other choice.
//! Source: Karger et al. 1997 (consistent hashing); Mirrokni, Thorup, Zadimoghaddam 2016 (bounded
//! loads); Harvey et al. 2003 (optimal semi-matchings, for leaders).

mod leaders;
mod moves;
mod ring;
mod shares;

use std::collections::BTreeMap;

use holdfast_model::{NodeId, RangeId};

pub use leaders::leaders;
pub use moves::{Move, moves};
pub use ring::{Ring, RingNode, TOKENS_PER_WEIGHT};

/// The replicas of each range, most preferred node first.
pub type Placement = BTreeMap<RangeId, Vec<NodeId>>;
