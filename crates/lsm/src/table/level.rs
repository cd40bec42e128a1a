//! Which table of a sorted level can hold a key.

use std::sync::Arc;

use crate::table::fence::{Fence, Keys};
use crate::table::reader::Table;
use crate::types::Family;

/// The largest keys of a level's tables, for each family apart, in a form to be searched: asking
/// the tables themselves would touch several places in memory for each one passed.
#[derive(Debug, Default)]
pub(crate) struct LevelMap {
    families: [FamilyMap; Family::COUNT],
}

#[derive(Debug, Default)]
struct FamilyMap {
    /// Number of the first table that says anything about the family.
    first: usize,
    largest: Fence,
}

impl LevelMap {
    /// The map of `tables`, which are sorted and do not overlap.
    pub(crate) fn new(tables: &[Arc<Table>]) -> Self {
        let of_family = |family| {
            let mut first = None;
            let mut keys = Keys::default();
            for (number, table) in tables.iter().enumerate() {
                if let Some(largest) = table.largest_of(family) {
                    first.get_or_insert(number);
                    keys.push(&largest);
                }
            }
            let largest = Fence::new(&keys, 0..keys.len());
            FamilyMap { first: first.unwrap_or(0), largest }
        };
        Self { families: Family::ALL.map(of_family) }
    }

    /// Number of the only table that can say anything about `key`, by a record or a range
    /// tombstone; of the next one, or of none, if none can.
    #[inline]
    pub(crate) fn table_of(&self, family: Family, key: &[u8]) -> Option<usize> {
        let map = self.families.get(family.index())?;
        // Tables of a family follow each other, so its numbers have no gap.
        (!map.largest.is_empty()).then(|| map.first + map.largest.seek(key))
    }
}
