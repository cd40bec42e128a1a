//! A sealed memtable becomes a table of level 0.

use crate::error::Result;
use crate::jobs::FlushWork;
use crate::jobs::output::Output;
use crate::jobs::retain::Retain;
use crate::memtable::Memtable;
use crate::stats::Counters;
use crate::table::{Stored, Written};
use crate::tombstone::Fragments;
use crate::tree::{Proposal, Tree};
use crate::types::Family;

pub(crate) fn run(tree: &Tree, work: &FlushWork) -> Result<()> {
    let point = work.memtable.seal().point;
    let (watermark, span) = (tree.watermark_for(point), tree.span_for(point));
    let span_epoch = span.as_ref().map_or(0, |span| span.epoch);
    let written = Written { floor: watermark, span_epoch, can_wait: false };
    // One table whatever its size: parts of a flush in level 0 would each be searched.
    let mut output = Output::new(tree, &work.generation, 0, u64::MAX, written);
    let dropped = write_out(&work.memtable, Retain::new(watermark, span), &mut output)?;
    let mut made = output.finish()?;
    let proposal = Proposal {
        flushed: Some(work.memtable.clone()),
        removed: Vec::new(),
        added: made.tables.iter().map(|table| (0, table.clone())).collect(),
        floor: if dropped == 0 { 0 } else { watermark },
    };
    let outcome = tree.commit(&work.generation, proposal);
    made.files.keep_after(&outcome);
    if outcome? {
        tree.home.graveyard.retire(&work.memtable);
        Counters::add(&tree.counters.flushes, 1);
        Counters::add(&tree.counters.flushed_bytes, made.bytes);
        Counters::add(&tree.counters.dropped_records, dropped);
    }
    Ok(())
}

/// Writes what readers may still want and returns how many records were left out.
///
/// What was in memory and is read stays there as long as the cache gives nothing up for it; data
/// that is only loaded would pay for memory nobody looks at. Tombstones stay in the table:
/// what they hide may be in any table below.
fn write_out(memtable: &Memtable, mut retain: Retain, output: &mut Output<'_>) -> Result<u64> {
    let mut dropped = 0;
    for family in Family::ALL {
        let ranges = Fragments::of(memtable.range_tombstones(family), retain.watermark(family));
        retain.obey(&ranges);
        dropped += u64::from(family.keeps_versions() && ranges.is_thinned());
        output.begin_family(family, ranges);
        let is_warm = memtable.is_read() && output.has_room_in_cache();
        let mut cursor = memtable.forward(family, None);
        while let Some(entry) = cursor.entry() {
            let value = entry.value.as_slice().map_or(Stored::Tombstone, Stored::Inline);
            let stamp = (entry.seq, entry.ordinal);
            if retain.keeps(family, entry.key, stamp, value.is_tombstone(), || true) {
                output.add(family, entry.key, entry.seq, entry.ordinal, value)?;
                if is_warm {
                    output.keep_warm();
                }
            } else {
                dropped += u64::from(family.keeps_versions());
            }
            cursor.next();
        }
        output.end_family()?;
    }
    Ok(dropped)
}
