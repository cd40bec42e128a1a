//! Reading segment files without a journal, for people.
//!
//! Owns: an iterator over the batches of one file, a survey of a whole directory.
//! Invariants:
//! * Nothing is written.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;

use bytes::Bytes;
use holdfast_env::{Disk, OpenMode};

use crate::batch::{BATCH_HEADER_BYTES, BatchHeader, BatchKind, Tail, parse_tails};
use crate::error::{At, Error, Result};
use crate::group::{GroupId, LogPosition};
use crate::ledger::Ledger;
use crate::record::RecordKind;
use crate::recovery::{Files, Recovery, describe, open_segments};
use crate::scan::Window;
use crate::segment::{FileName, SEGMENT_HEADER_BYTES, Segment, SegmentHeader, seed};
use crate::walk::{Scanner, parse_records};
use crate::witness::Testimony;

/// A record of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InspectedRecord {
    /// Its sequence number.
    pub sequence: u64,
    /// Where it lies in the file.
    pub offset: u64,
    /// What it says.
    pub kind: RecordKind,
    /// Whether it was moved here out of an older segment.
    pub rewritten: bool,
    /// Whose it is.
    pub group: GroupId,
    /// Sequence number of the group's record before.
    pub previous: u64,
    /// Position, as far as the kind has one.
    pub position: LogPosition,
    /// Payload, as far as the kind has one.
    pub payload: Bytes,
}

/// A batch of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InspectedBatch {
    /// Where it lies in the file.
    pub offset: u64,
    /// What it takes, bytes.
    pub bytes: u64,
    /// What it carries.
    pub kind: BatchKind,
    /// Its number.
    pub number: u64,
    /// Batches below this number were durable when it was written.
    pub claim: u64,
    /// Sequence number of its first record.
    pub first_sequence: u64,
    /// Sequence number of the oldest segment that was needed when it was written.
    pub oldest: u32,
    /// Whether it names the batch before it in this file; the first one cannot tell.
    pub linked: bool,
    /// Whether everything in it is whole.
    pub whole: bool,
    /// Its whole records.
    pub records: Vec<InspectedRecord>,
    /// The groups a mark lists.
    pub tails: Vec<Tail>,
}

/// Walks over the whole batches of a segment file, remains of torn ones included. What cannot be
/// read counts as damaged.
#[derive(Debug)]
pub struct SegmentInspector {
    header: SegmentHeader,
    segment: Segment,
    window: Window,
    offset: u64,
    link: Option<u64>,
}

impl SegmentInspector {
    /// Opens a segment file for reading.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it has no whole header.
    pub fn open(disk: &dyn Disk, path: &Path) -> Result<Self> {
        let file = disk.open(path, OpenMode::Read).at("open", path)?;
        let header = SegmentHeader::read(file.as_ref()).ok_or_else(|| Error::Corrupt {
            path: path.to_path_buf(),
            offset: 0,
            what: "a whole segment header",
        })?;
        let segment = Segment {
            sequence: header.sequence,
            path: path.to_path_buf(),
            file,
            bytes: header.segment_bytes,
            seed: seed(header.journal, header.sequence),
            readers: AtomicUsize::new(0),
        };
        let window = Window::default();
        Ok(Self { header, segment, window, offset: SEGMENT_HEADER_BYTES, link: None })
    }

    /// Whether a file is a segment in use, by its name.
    pub fn is_segment(path: &Path) -> bool {
        matches!(FileName::of(path), Some(FileName::InUse(_)))
    }

    /// The header of the segment.
    pub fn header(&self) -> SegmentHeader {
        self.header
    }

    fn advance(&mut self) -> Option<InspectedBatch> {
        let found = self.window.next_header(&self.segment, self.offset);
        let (offset, header, checksum) = found?;
        let linked = self.link.is_none_or(|link| link == header.link);
        self.offset = offset + header.batch_bytes();
        self.link = Some(checksum);
        let mut batch = InspectedBatch {
            offset,
            bytes: header.batch_bytes(),
            kind: header.kind,
            number: header.number,
            claim: header.claim,
            first_sequence: header.first_sequence,
            oldest: header.oldest,
            linked,
            whole: true,
            records: Vec::new(),
            tails: Vec::new(),
        };
        self.fill(&mut batch, &header);
        Some(batch)
    }

    fn fill(&mut self, batch: &mut InspectedBatch, header: &BatchHeader) {
        let start = batch.offset + BATCH_HEADER_BYTES as u64;
        let body = self.window.bytes(&self.segment, start, u64::from(header.body_bytes));
        match header.kind {
            BatchKind::Filler => {}
            BatchKind::Mark => {
                let tails = parse_tails(header, body, self.segment.seed_at(start));
                batch.whole = tails.is_some();
                batch.tails = tails.unwrap_or_default();
            }
            BatchKind::Records => {
                let (records, whole) = parse_records(body, &self.segment, start, header.records);
                batch.whole = whole;
                let inspected = records.iter().map(|(ordinal, offset, record)| InspectedRecord {
                    sequence: header.first_sequence + u64::from(*ordinal),
                    offset: *offset,
                    kind: record.header.kind,
                    rewritten: record.header.rewritten,
                    group: record.header.group,
                    previous: record.header.previous,
                    position: record.header.position,
                    payload: Bytes::copy_from_slice(record.payload),
                });
                batch.records = inspected.collect();
            }
        }
    }
}

impl Iterator for SegmentInspector {
    type Item = InspectedBatch;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance()
    }
}

/// A segment in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InspectedSegment {
    /// Its file.
    pub path: PathBuf,
    /// Its sequence number.
    pub sequence: u32,
    /// Length of the file, bytes.
    pub bytes: u64,
    /// Bytes of its records.
    pub record_bytes: u64,
    /// Bytes of those that are needed.
    pub live_bytes: u64,
}

/// A journal's directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InspectedJournal {
    /// What opening it would find.
    pub recovery: Recovery,
    /// The segments in use, oldest first.
    pub segments: Vec<InspectedSegment>,
    /// Files that wait for their next use.
    pub spares: usize,
    /// What the witness says; `None` if nothing of it is whole.
    pub witness: Option<Testimony>,
    /// Where the log ends, in the last segment.
    pub end: u64,
}

/// Reads all of a journal's directory and tells what opening it would find. Nothing is written,
/// so that verdicts on groups are not kept either.
///
/// # Errors
/// Those of [`Journal::open`](crate::Journal::open) for a directory that is there.
pub fn inspect_directory(disk: &dyn Disk, directory: &Path) -> Result<InspectedJournal> {
    let files = Files::list(disk, directory)?;
    let (segments, _) = open_segments(disk, &files, OpenMode::Read, || 0)?;
    let (spares, witness) = (files.spare.len(), files.said);
    let mut found = InspectedJournal { spares, witness, ..InspectedJournal::default() };
    if segments.is_empty() {
        return Ok(found);
    }
    let mut scanner = Scanner::new(&segments, witness);
    scanner.run();
    let used = segments.get(..=scanner.end.segment).unwrap_or_default();
    let mut ledger = Ledger::default();
    for open in used {
        ledger.open(std::sync::Arc::clone(&open.segment));
    }
    found.end = scanner.end.offset;
    found.recovery = scanner.report;
    found.recovery.segments = used.len();
    found.recovery.scanned_bytes = scanner.window.scanned_bytes;
    describe(&scanner.replay.finish(&mut ledger), &mut found.recovery);
    found.segments = ledger
        .segments
        .values()
        .map(|entry| InspectedSegment {
            path: entry.segment.path.clone(),
            sequence: entry.segment.sequence,
            bytes: entry.segment.bytes,
            record_bytes: entry.total_bytes,
            live_bytes: entry.live_bytes,
        })
        .collect();
    Ok(found)
}
