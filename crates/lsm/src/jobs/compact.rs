//! Merges tables into the next level, or moves them where nothing is to be merged.

use std::sync::Arc;

use bytes::Bytes;

use crate::error::Result;
use crate::jobs::CompactWork;
use crate::jobs::output::Output;
use crate::jobs::pick::Plan;
use crate::jobs::retain::Retain;
use crate::jobs::split::{Done, Part};
use crate::read::{Direction, KeyRange, Merge, Source};
use crate::stats::Counters;
use crate::table::{LevelSource, Stored, Table, TableSource, Written};
use crate::tombstone::Fragments;
use crate::tree::{Proposal, Tree};
use crate::types::Family;

/// Does a part; with the last one the compaction becomes part of the tree.
pub(crate) fn run(tree: &Tree, work: &CompactWork) -> Result<()> {
    let outcome = match work.split.plan.is_move {
        true => move_down(tree, work),
        false => rewrite(tree, work).and_then(|done| match work.split.add(done) {
            Some(all) => commit(tree, work, all),
            None => Ok(()),
        }),
    };
    outcome.inspect_err(|_| work.split.fail())
}

fn move_down(tree: &Tree, work: &CompactWork) -> Result<()> {
    let plan = &work.split.plan;
    let tables: Vec<_> = plan.tables().cloned().collect();
    let (count, level) = (tables.len() as u64, plan.output_level);
    // What level 0 keeps in memory, the levels below it leave to the cache.
    let reopen = |table: &Arc<Table>| Ok((level, Arc::new(table.at_level(level)?)));
    let proposal = Proposal {
        flushed: None,
        added: if plan.reads_level0() {
            tables.iter().map(reopen).collect::<Result<_>>()?
        } else {
            tables.iter().map(|table| (level, table.clone())).collect()
        },
        removed: tables,
        floor: 0,
    };
    if tree.commit(&work.generation, proposal)? {
        Counters::add(&tree.counters.moves, count);
    }
    Ok(())
}

/// Writes the tables of a part.
fn rewrite(tree: &Tree, work: &CompactWork) -> Result<Done> {
    let plan = &work.split.plan;
    let table_bytes = tree.options.table_bytes;
    let span_epoch = plan.span.as_ref().map_or(0, |span| span.epoch);
    let written = Written { floor: plan.watermark, span_epoch, can_wait: true };
    let mut output = Output::new(tree, &work.generation, plan.output_level, table_bytes, written);
    output.keep_blobs(plan.tables().flat_map(|t| t.blobs()));
    let dropped = merge(plan, work.split.part(work.part), &mut output)?;
    Ok(Done { made: output.finish()?, dropped })
}

/// Puts what all parts have written in place of what they have read.
fn commit(tree: &Tree, work: &CompactWork, mut all: Vec<Done>) -> Result<()> {
    let plan = &work.split.plan;
    let dropped = all.iter().map(|done| done.dropped).sum();
    let tables = all.iter().flat_map(|done| &done.made.tables);
    let proposal = Proposal {
        flushed: None,
        removed: plan.tables().cloned().collect(),
        added: tables.map(|table| (plan.output_level, table.clone())).collect(),
        floor: if dropped == 0 { 0 } else { plan.watermark },
    };
    let outcome = tree.commit(&work.generation, proposal);
    all.iter_mut().for_each(|done| done.made.files.keep_after(&outcome));
    if outcome? {
        let counters = &tree.counters;
        Counters::add(&counters.compactions, 1);
        Counters::add(&counters.compaction_parts, all.len() as u64);
        Counters::add(&counters.compacted_bytes_in, plan.bytes());
        let bytes_out = all.iter().map(|done| done.made.bytes).sum();
        Counters::add(&counters.compacted_bytes_out, bytes_out);
        Counters::add(&counters.dropped_records, dropped);
    }
    Ok(())
}

/// Writes the merge of what the plan's tables have of a part and returns how many data records
/// were left out.
fn merge(plan: &Plan, part: &Part, output: &mut Output<'_>) -> Result<u64> {
    // What was written with this span holds nothing foreign.
    let is_foreign = |epoch| plan.tables().any(|t| t.properties().span_epoch < epoch);
    let span = plan.span.clone().filter(|span| is_foreign(span.epoch));
    let mut retain = Retain::new(plan.watermark, span);
    let mut dropped = 0;
    for family in Family::ALL {
        let Some(range) = part.range(family) else { continue };
        let ranges = ranges(plan, family, &range, retain.watermark(family));
        retain.obey(&ranges);
        dropped += u64::from(family.keeps_versions() && ranges.is_thinned());
        let (ranges, gone) = without_needless(plan, family, ranges);
        dropped += gone;
        output.begin_family(family, ranges);
        dropped += merge_family(plan, family, &range, &mut retain, output)?;
        output.end_family()?;
    }
    Ok(dropped)
}

fn merge_family(
    plan: &Plan,
    family: Family,
    range: &KeyRange,
    retain: &mut Retain,
    output: &mut Output<'_>,
) -> Result<u64> {
    let mut dropped = 0;
    let mut merge = Merge::new(sources(plan, family, range)?, Direction::Forward);
    while let Some(head) = merge.head() {
        let (key, seq, value) = (head.key(), head.seq(), head.stored()?);
        if range.upper.as_ref().is_some_and(|upper| key >= upper.as_ref()) {
            break;
        }
        let older_below = || plan.below.has_below(plan.output_level, family, key);
        let stamp = (seq, head.ordinal());
        if retain.keeps(family, key, stamp, value.is_tombstone(), older_below) {
            let fetched = fetch(plan, head, value)?;
            let value = fetched.as_deref().map_or(value, Stored::Inline);
            output.add(family, key, seq, head.ordinal(), value)?;
            if head.is_warm() {
                output.keep_warm();
            }
        } else {
            dropped += u64::from(family.keeps_versions());
        }
        merge.advance()?;
    }
    Ok(dropped)
}

/// What the plan's tables have of range tombstones in `range`, cut anew.
fn ranges(plan: &Plan, family: Family, range: &KeyRange, watermark: u64) -> Fragments {
    let (lower, upper) = (range.lower.as_ref(), range.upper.as_ref());
    let pieces = plan.tables().filter_map(|t| t.tombstones(family)).flat_map(Fragments::pieces);
    let within = pieces.filter_map(|piece| piece.within(lower, upper));
    Fragments::of(within.collect(), watermark)
}

/// Leaves out range tombstones that hide nothing any more, and counts those of the data.
fn without_needless(plan: &Plan, family: Family, ranges: Fragments) -> (Fragments, u64) {
    let before = ranges.pieces().len();
    let kept = ranges.keeping(|piece| {
        let may_go = !family.keeps_versions() || piece.seq < plan.watermark;
        !may_go || plan.below.has_any_below(plan.output_level, family, &piece.start, &piece.end)
    });
    let gone = if family.keeps_versions() { before - kept.pieces().len() } else { 0 };
    (kept, gone as u64)
}

/// The value a record refers to, if it shall not stay where it is.
fn fetch(plan: &Plan, source: &Source, value: Stored<'_>) -> Result<Option<Bytes>> {
    match value {
        Stored::Blob(reference) if plan.collected_blobs.contains(&reference.file) => {
            source.value_bytes()
        }
        _ => Ok(None),
    }
}

/// Streams of the plan's tables, newest first.
fn sources(plan: &Plan, family: Family, range: &KeyRange) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for input in &plan.inputs {
        if input.level == 0 {
            for table in input.tables.iter().filter(|t| t.family(family).is_some()) {
                sources.push(Source::Table(TableSource::whole(table.clone(), family, range)?));
            }
        } else {
            sources.push(Source::Level(LevelSource::whole(&input.tables, family, range)?));
        }
    }
    Ok(sources)
}
