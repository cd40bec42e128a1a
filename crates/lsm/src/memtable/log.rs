//! The nodes of a list in the order they were inserted.
//!
//! Kept in pieces: to grow one long vector would copy megabytes while a writer waits.
//!
//! Invariants:
//! * Every piece but the last is full.
#![allow(unsafe_code)]

use crate::memtable::node::{NodeId, NodeRef};

/// Nodes of a piece.
const PIECE: usize = 4_096;

/// See the module.
pub(super) struct NodeLog {
    pieces: Vec<Vec<NodeId>>,
    last_seq: u64,
    /// Whether the nodes are in the order of sequence numbers, too.
    is_sorted: bool,
}

impl Default for NodeLog {
    fn default() -> Self {
        Self { pieces: Vec::new(), last_seq: 0, is_sorted: true }
    }
}

impl NodeLog {
    /// Memory held, bytes.
    pub(super) fn bytes(&self) -> usize {
        let pieces: usize = self.pieces.last().map_or(0, Vec::capacity);
        (pieces + self.pieces.len().saturating_sub(1) * PIECE) * size_of::<NodeId>()
    }

    pub(super) fn len(&self) -> usize {
        let last = self.pieces.last().map_or(0, Vec::len);
        self.pieces.len().saturating_sub(1) * PIECE + last
    }

    /// Adds a node with this sequence number.
    pub(super) fn push(&mut self, node: NodeId, seq: u64) {
        self.is_sorted &= self.last_seq <= seq;
        self.last_seq = seq;
        match self.pieces.last_mut() {
            Some(piece) if piece.len() < PIECE => piece.push(node),
            // Short lists are many; only the first piece of one grows.
            None => self.pieces.push(vec![node]),
            Some(_) => {
                let mut piece = Vec::with_capacity(PIECE);
                piece.push(node);
                self.pieces.push(piece);
            }
        }
    }

    /// Nodes with sequence numbers from `seq_min` to `seq_max`.
    ///
    /// # Safety
    /// The list these are nodes of must be alive.
    pub(super) unsafe fn between(&self, seq_min: u64, seq_max: u64) -> Vec<NodeId> {
        // SAFETY: the caller's promise.
        let seq = |id: &NodeId| unsafe { NodeRef::of(*id) }.map_or(0, NodeRef::seq);
        if !self.is_sorted {
            let is_wanted = |id: &&NodeId| (seq_min..=seq_max).contains(&seq(id));
            return self.pieces.iter().flatten().filter(is_wanted).copied().collect();
        }
        let first = |piece: &Vec<NodeId>| piece.first().map_or(0, seq);
        // The last piece that begins below may end within.
        let from = self.pieces.partition_point(|piece| first(piece) < seq_min).saturating_sub(1);
        let pieces = self.pieces.iter().skip(from).take_while(|piece| first(piece) <= seq_max);
        let within = |piece: &Vec<NodeId>| {
            let start = piece.partition_point(|id| seq(id) < seq_min);
            let end = piece.partition_point(|id| seq(id) <= seq_max);
            piece.get(start..end).unwrap_or_default().to_vec()
        };
        pieces.flat_map(within).collect()
    }
}
