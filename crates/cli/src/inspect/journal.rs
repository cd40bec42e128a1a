//! The journal: segments, groups, records.

use std::path::Path;

use anyhow::Result;
use holdfast_env::Disk;
use holdfast_journal::{
    BatchKind, Error, InspectedBatch, LogPosition, SegmentInspector, inspect_directory,
};
use serde_json::{Value, json};

use super::Wish;
use super::document::{Document, List};
use super::tree::shown;

/// A directory of segments, or one segment.
pub fn journal(disk: &dyn Disk, path: &Path, wish: Wish, document: &mut Document) -> Result<()> {
    if SegmentInspector::is_segment(path) {
        return segment(disk, path, wish, document);
    }
    let found = match inspect_directory(disk, path) {
        Ok(found) => found,
        Err(Error::Corrupt { path, offset, what }) => {
            document.problem(&path, offset, &format!("{what} was expected"));
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    document.part(path, "journal");
    document.fact("bytes read", found.recovery.scanned_bytes);
    document.fact("spare files", found.spares);
    document.fact("end of the log", found.end);
    document.fact("torn tail", found.recovery.torn_tail);
    if let Some(said) = found.witness {
        document.fact("oldest segment needed", said.oldest);
        document.fact("newest segment witnessed", said.newest);
        document.fact("records witnessed", said.records);
    }
    let heads = ["segment", "bytes", "record bytes", "live", "dead"];
    let mut segments = List::new("segments", &heads);
    for s in &found.segments {
        let dead = s.record_bytes - s.live_bytes;
        let cells = [u64::from(s.sequence), s.bytes, s.record_bytes, s.live_bytes, dead];
        segments.row(cells.map(Value::from).to_vec());
    }
    document.list(segments);
    let heads = ["group", "first", "last", "purged", "committed", "vote bytes"];
    let mut groups = List::new("groups", &heads);
    for group in &found.recovery.groups {
        groups.row(vec![
            json!(group.group.to_string()),
            json!(group.first_index),
            json!(group.last_index),
            position(group.purged),
            position(group.committed),
            json!(group.vote.as_ref().map(|vote| vote.len())),
        ]);
    }
    document.list(groups);
    for (path, offset) in &found.recovery.damage {
        document.problem(path, *offset, "durable batches are damaged or missing here");
    }
    for group in &found.recovery.hit {
        document.problem(path, 0, &format!("the log of {group} is not whole"));
    }
    if wish.dump {
        for found in found.segments {
            segment(disk, &found.path, wish, document)?;
        }
    }
    Ok(())
}

fn position(position: Option<LogPosition>) -> Value {
    position.map_or(Value::Null, |p| json!(format!("{}@{}", p.index, p.term)))
}

/// One segment. What is broken at its very end may be a torn batch that nobody was told of; only
/// the directory as a whole can tell.
fn segment(disk: &dyn Disk, path: &Path, wish: Wish, document: &mut Document) -> Result<()> {
    let inspector = match SegmentInspector::open(disk, path) {
        Ok(inspector) => inspector,
        Err(Error::Corrupt { path, offset, what }) => {
            document.problem(&path, offset, &format!("{what} was expected"));
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let header = inspector.header();
    document.part(path, "segment");
    document.fact("sequence", header.sequence);
    document.fact("bytes", header.segment_bytes);
    document.fact("first record", header.first_sequence);
    let heads =
        ["offset", "bytes", "kind", "number", "claim", "oldest", "records", "whole", "linked"];
    let mut list = List::new("batches", &heads);
    let heads = ["record", "offset", "kind", "group", "position", "moved", "payload"];
    let mut records = List::new("records", &heads);
    let mut batches: Vec<(u64, u64, bool)> = Vec::new();
    let mut claim = 0;
    for batch in inspector {
        claim = claim.max(batch.claim);
        batches.push((batch.offset, batch.number, batch.whole));
        if list.len() < wish.limit {
            list.row(row(&batch));
        }
        if wish.dump {
            dump(&batch, wish.limit, &mut records);
        }
    }
    document.fact("batches", batches.len());
    document.list(list);
    document.list(records);
    let mut expected = header.first_number;
    for (offset, number, whole) in batches.into_iter().filter(|(_, number, _)| *number < claim) {
        if number < expected {
            continue;
        }
        if number > expected {
            document.problem(path, offset, "durable batches before this one are missing");
        }
        if !whole {
            document.problem(path, offset, "a durable batch is damaged");
        }
        expected = number + 1;
    }
    Ok(())
}

fn row(batch: &InspectedBatch) -> Vec<Value> {
    let kind = match batch.kind {
        BatchKind::Records => "records",
        BatchKind::Mark => "mark",
        BatchKind::Filler => "filler",
    };
    vec![
        json!(batch.offset),
        json!(batch.bytes),
        json!(kind),
        json!(batch.number),
        json!(batch.claim),
        json!(batch.oldest),
        json!(batch.records.len().max(batch.tails.len())),
        json!(batch.whole),
        json!(batch.linked),
    ]
}

fn dump(batch: &InspectedBatch, limit: usize, list: &mut List) {
    for record in &batch.records {
        if list.len() >= limit {
            return;
        }
        list.row(vec![
            json!(record.sequence),
            json!(record.offset),
            json!(format!("{:?}", record.kind).to_lowercase()),
            json!(record.group.to_string()),
            position(Some(record.position)),
            json!(record.rewritten),
            json!(shown(&record.payload)),
        ]);
    }
}
