//! Which tables of a sorted level a key range touches.

use std::sync::Arc;

use crate::table::{FamilyKey, Table};

/// From the smallest to the largest key of some tables, both included.
pub(crate) struct Hull<'a> {
    smallest: &'a FamilyKey,
    largest: &'a FamilyKey,
}

impl<'a> Hull<'a> {
    pub(crate) fn of_one(table: &'a Arc<Table>) -> Self {
        Self { smallest: table.smallest(), largest: table.largest() }
    }

    /// `None` if there are no tables.
    pub(crate) fn of(tables: &'a [Arc<Table>]) -> Option<Self> {
        let smallest = tables.iter().map(|t| t.smallest()).min()?;
        let largest = tables.iter().map(|t| t.largest()).max()?;
        Some(Self { smallest, largest })
    }
}

/// The tables of a sorted level that share keys with `hull`.
pub(crate) fn overlapping<'a>(level: &'a [Arc<Table>], hull: &Hull<'_>) -> &'a [Arc<Table>] {
    let start = level.partition_point(|t| t.largest() < hull.smallest);
    let end = level.partition_point(|t| t.smallest() <= hull.largest);
    level.get(start..end).unwrap_or_default()
}

/// Bytes of the tables of a sorted level that share keys with `hull`.
pub(crate) fn overlapping_bytes(level: &[Arc<Table>], hull: &Hull<'_>) -> u64 {
    overlapping(level, hull).iter().map(|t| t.bytes()).sum()
}
