//! Many keys in one look.
//!
//! What memory answers is answered first, in key order, so that neighbours find filters, indexes
//! and blocks still close by. Blocks that are missing are then read together, those that follow
//! each other in a table at once, and the keys that wait for them are asked again.

use std::sync::Arc;

use crate::error::Result;
use crate::table::{Cold, Fill, Lookup, Table};
use crate::types::Record;

/// Most bytes read at once.
const RUN_BYTES_MAX: u64 = 256 << 10;
/// Keys whose blocks are read together: what they bring into the cache should still be there when
/// they are asked again.
const KEYS_TOGETHER: usize = 128;
/// Rounds of reading what is missing; a key needs one for each table that may hold it. What is not
/// answered then reads for itself.
const ROUNDS_MAX: usize = 4;

/// The records of `keys`, in their order. `find` looks for one of them.
pub(crate) fn get_many<'a>(
    keys: &[&'a [u8]],
    find: impl Fn(&'a [u8], Fill) -> Result<Lookup>,
) -> Result<Vec<Option<Record>>> {
    let mut order: Vec<(&[u8], usize)> = keys.iter().copied().zip(0..).collect();
    order.sort_unstable();
    let mut found = vec![None; keys.len()];
    for together in order.chunks(KEYS_TOGETHER) {
        let mut waiting = together.to_vec();
        for _ in 0..ROUNDS_MAX {
            let (mut cold, mut still) = (Vec::new(), Vec::new());
            for (key, number) in waiting {
                match (find(key, Fill::CacheOnly)?, found.get_mut(number)) {
                    (Lookup::NeedsIo(block), _) => {
                        cold.extend(block);
                        still.push((key, number));
                    }
                    (Lookup::Found(record), Some(slot)) => *slot = record,
                    _ => {}
                }
            }
            waiting = still;
            if cold.is_empty() {
                break;
            }
            load(cold)?;
        }
        for (key, number) in waiting {
            if let (Lookup::Found(record), Some(slot)) =
                (find(key, Fill::FromDisk)?, found.get_mut(number))
            {
                *slot = record;
            }
        }
    }
    Ok(found)
}

/// Brings blocks into the cache.
fn load(mut cold: Vec<Cold>) -> Result<()> {
    cold.sort_unstable_by_key(|c| (Arc::as_ptr(&c.table) as usize, c.handle.offset));
    cold.dedup_by(|a, b| Arc::ptr_eq(&a.table, &b.table) && a.handle == b.handle);
    let mut rest = cold.as_slice();
    while let Some(first) = rest.first() {
        let (now, later) = rest.split_at(run_length(&first.table, rest));
        let handles: Vec<_> = now.iter().map(|c| c.handle).collect();
        first.table.load_blocks(&handles)?;
        rest = later;
    }
    Ok(())
}

/// How many of the blocks lie one behind the other in `table`.
fn run_length(table: &Arc<Table>, cold: &[Cold]) -> usize {
    let start = cold.first().map_or(0, |c| c.handle.offset);
    let follows = |pair: &[Cold]| match pair {
        [a, b] => {
            Arc::ptr_eq(&b.table, table)
                && b.handle.offset == a.handle.end()
                && b.handle.end() - start <= RUN_BYTES_MAX
        }
        _ => false,
    };
    1 + cold.windows(2).take_while(|pair| follows(pair)).count()
}
