//! Reading entries: what is cached from memory, the rest from segments.
//!
//! Owns: how a range becomes file reads, the check of what was read.
//! Invariants:
//! * Planning needs the lock, reading does not.
//! * A segment is not used again while it is read.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

use crate::error::{At, Error, Result};
use crate::group::{Entry, Group, GroupId, LogPosition};
use crate::ledger::Place;
use crate::record::{RECORD_HEADER_BYTES, RecordKind, parse};
use crate::segment::Reading;
use crate::state::State;

/// Records this close to each other are read at once.
const GAP_BYTES_MAX: u64 = 16 * 1024;
/// A read grows to this size by joining records.
const READ_BYTES_MAX: u64 = 1024 * 1024;

/// A record in a file.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) kind: RecordKind,
    pub(crate) position: LogPosition,
    pub(crate) place: Place,
    pub(crate) bytes: u64,
}

/// What to read to answer one call.
#[derive(Debug)]
pub(crate) struct Plan {
    group: GroupId,
    stored: Vec<Stored>,
    cached: Vec<Entry>,
    readings: BTreeMap<u32, Reading>,
}

/// Plans the read of `range`. The cache holds a suffix, so that stored entries come first.
pub(crate) fn plan(
    state: &State,
    group: GroupId,
    range: Range<u64>,
    bytes_max: u64,
) -> Result<Plan> {
    let log = state.readable(group)?;
    let mut plan =
        Plan { group, stored: Vec::new(), cached: Vec::new(), readings: BTreeMap::new() };
    let end = log.last_index().map_or(0, |last| last + 1).min(range.end);
    if range.start < log.first() && range.start < range.end {
        return Err(Error::Purged { group, first: log.first() });
    }
    let mut bytes = 0;
    for index in range.start..end {
        let size = log.record_bytes_of(index).unwrap_or(0) - RECORD_HEADER_BYTES as u64;
        bytes += size;
        if index > range.start && bytes > bytes_max {
            break;
        }
        plan.add(state, log, index);
    }
    Ok(plan)
}

impl Plan {
    fn add(&mut self, state: &State, log: &Group, index: u64) {
        let (Some(position), Some(slot)) = (log.position(index), log.slot(index)) else { return };
        if let Some(payload) = log.cached(index) {
            self.cached.push(Entry { position, payload: payload.clone() });
            return;
        }
        assert!(slot.place.is_written(), "what is not cached was written");
        let bytes = log.record_bytes_of(index).unwrap_or(0);
        let kind = RecordKind::Entry;
        self.stored.push(Stored { kind, position, place: slot.place, bytes });
        if let Some(entry) = state.ledger.segments.get(&slot.place.segment) {
            self.readings
                .entry(slot.place.segment)
                .or_insert_with(|| Reading::begin(&entry.segment));
        }
    }

    /// Reads, checks, and puts together.
    pub(crate) fn run(self) -> Result<Vec<Entry>> {
        let mut entries = Vec::with_capacity(self.stored.len() + self.cached.len());
        let mut rest = self.stored.as_slice();
        while let Some(first) = rest.first() {
            let (run, later) = rest.split_at(run_length(rest));
            rest = later;
            let Some(reading) = self.readings.get(&first.place.segment) else {
                unreachable!("a record lies in a segment that is in use")
            };
            for (stored, payload) in run.iter().zip(read_run(reading, self.group, run)?) {
                entries.push(Entry { position: stored.position, payload });
            }
        }
        entries.extend(self.cached);
        Ok(entries)
    }
}

/// How many of `stored` one read can cover.
pub(crate) fn run_length(stored: &[Stored]) -> usize {
    let Some(first) = stored.first() else { return 0 };
    let start = u64::from(first.place.offset);
    let mut end = start + first.bytes;
    let joins = |next: &&Stored| {
        let offset = u64::from(next.place.offset);
        let near = offset >= end && offset - end <= GAP_BYTES_MAX;
        let joins = next.place.segment == first.place.segment
            && near
            && offset + next.bytes - start <= READ_BYTES_MAX;
        end = offset + next.bytes;
        joins
    };
    1 + stored.iter().skip(1).take_while(joins).count()
}

/// Reads neighbouring records with one call and returns their payloads.
pub(crate) fn read_run(reading: &Reading, group: GroupId, run: &[Stored]) -> Result<Vec<Bytes>> {
    let segment = reading.segment();
    let (Some(first), Some(last)) = (run.first(), run.last()) else { return Ok(Vec::new()) };
    let start = u64::from(first.place.offset);
    let length = u64::from(last.place.offset) + last.bytes - start;
    let mut buffer = vec![0; usize::try_from(length).expect("a read is bounded")];
    match segment.file.read_exact_at(&mut buffer, start) {
        Ok(()) => {}
        // The bad block may lie between the records, where nobody needs it.
        Err(_) if run.len() > 1 => return read_one_by_one(reading, group, run),
        failed => failed.at("read", &segment.path)?,
    }
    let buffer = Bytes::from(buffer);
    run.iter()
        .map(|stored| {
            let offset = u64::from(stored.place.offset);
            let at = usize::try_from(offset - start).expect("inside the buffer");
            let bytes = usize::try_from(stored.bytes).expect("inside the buffer");
            let record = buffer.slice(at..at + bytes);
            let wrong = |what| Error::Corrupt { path: segment.path.clone(), offset, what };
            let view = parse(&record, segment.seed_at(offset))
                .ok_or_else(|| wrong("a record whose checksum matches"))?;
            let same = view.header.group == group
                && view.header.kind == stored.kind
                && (stored.kind != RecordKind::Entry || view.header.position == stored.position);
            if !same {
                return Err(wrong("the record the index knows"));
            }
            Ok(record.slice_ref(view.payload))
        })
        .collect()
}

fn read_one_by_one(reading: &Reading, group: GroupId, run: &[Stored]) -> Result<Vec<Bytes>> {
    let mut payloads = Vec::with_capacity(run.len());
    for stored in run {
        payloads.extend(read_run(reading, group, std::slice::from_ref(stored))?);
    }
    Ok(payloads)
}
