//! What has to happen for one placement to become another.

use holdfast_model::{NodeId, RangeId};

use crate::Placement;

/// One replica of a range changes its node; with one side missing, a range grows or shrinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// The range.
    pub range: RangeId,
    /// The node that loses its replica.
    pub from: Option<NodeId>,
    /// The node that gets one.
    pub to: Option<NodeId>,
}

/// The fewest moves from `actual` to `target`, by range; replicas at both stay where they are.
/// Ranges that only one of the two knows are left out: they are created or dropped, not moved.
pub fn moves(actual: &Placement, target: &Placement) -> Vec<Move> {
    let mut moves = Vec::new();
    for (range, wanted) in target {
        let Some(held) = actual.get(range) else { continue };
        let mut from = held.iter().filter(|node| !wanted.contains(node)).copied();
        let mut to = wanted.iter().filter(|node| !held.contains(node)).copied();
        loop {
            match (from.next(), to.next()) {
                (None, None) => break,
                (from, to) => moves.push(Move { range: *range, from, to }),
            }
        }
    }
    moves
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_at_both_ends_stay_and_the_rest_is_paired() {
        let placement = |nodes: &[u64]| {
            Placement::from([(RangeId(1), nodes.iter().copied().map(NodeId).collect())])
        };
        let one = |from: Option<u64>, to: Option<u64>| Move {
            range: RangeId(1),
            from: from.map(NodeId),
            to: to.map(NodeId),
        };
        let found = |a: &[u64], b: &[u64]| moves(&placement(a), &placement(b));
        assert_eq!(found(&[1, 2, 3], &[3, 2, 1]), []);
        assert_eq!(found(&[1, 2, 3], &[4, 2, 1]), [one(Some(3), Some(4))]);
        assert_eq!(found(&[1], &[1, 2]), [one(None, Some(2))]);
        assert_eq!(found(&[1, 2], &[2]), [one(Some(1), None)]);
        assert_eq!(moves(&placement(&[1]), &Placement::new()), []);
    }
}
