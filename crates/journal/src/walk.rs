//! Walking over the batches of all segments, from the first to the end of the log.
//!
//! Owns: which batches count, the difference between a torn tail and corruption, what is missed.
//! Must never know: what records mean.
//! Invariants:
//! * A batch counts if it continues the one before it; another one only below a later claim.
//! * Nothing above a torn tail is ever taken for a part of the log again.
//! Source: the rules drawn in `batch.rs`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::batch::{BATCH_HEADER_BYTES, BatchHeader, BatchKind, parse_tails};
use crate::ledger::Place;
use crate::record::{RecordView, claimed_bytes, parse, parse_checked};
use crate::recovery::Recovery;
use crate::replay::Replay;
use crate::scan::Window;
use crate::segment::{FileName, SEGMENT_HEADER_BYTES, Segment, SegmentHeader};
use crate::witness::Testimony;

/// A file in use.
pub(crate) struct OpenSegment {
    pub(crate) segment: Arc<Segment>,
    pub(crate) header: Option<SegmentHeader>,
    /// Whether the file lost its end, and maybe batches there.
    pub(crate) is_short: bool,
}

/// Where the next batch goes, and what it continues.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    pub(crate) segment: usize,
    pub(crate) offset: u64,
    pub(crate) number: u64,
    pub(crate) sequence: u64,
    pub(crate) link: Option<u64>,
}

/// Walks from batch to batch.
pub(crate) struct Scanner<'a> {
    segments: &'a [OpenSegment],
    witness: Option<Testimony>,
    /// The oldest segment that is needed, as the latest batch says.
    oldest: Option<u32>,
    pub(crate) window: Window,
    pub(crate) replay: Replay,
    pub(crate) report: Recovery,
    pub(crate) end: End,
    /// Whether the first batch was found, or its number is known from a header.
    begun: bool,
    /// Whether the last batch was a mark, so that nothing is without cover.
    pub(crate) marked: bool,
}

impl<'a> Scanner<'a> {
    /// Begins at the oldest segment there is.
    pub(crate) fn new(segments: &'a [OpenSegment], witness: Option<Testimony>) -> Self {
        let header = segments.first().and_then(|open| open.header);
        let end = End {
            segment: 0,
            offset: SEGMENT_HEADER_BYTES,
            number: header.map_or(1, |header| header.first_number),
            sequence: header.map_or(1, |header| header.first_sequence),
            link: None,
        };
        Self {
            segments,
            witness,
            oldest: witness.map(|said| said.oldest),
            window: Window::default(),
            replay: Replay::starting_at(end.sequence),
            report: Recovery::default(),
            end,
            begun: header.is_some(),
            marked: true,
        }
    }

    /// Goes to the end.
    pub(crate) fn run(&mut self) {
        while let Some((at, header, checksum)) = self.locate() {
            if !self.take(at, &header, checksum) {
                break;
            }
        }
        // Where the log ends the file must go on, and later files must at least have begun.
        let rest = self.segments.iter().enumerate().skip(self.end.segment);
        let damaged = |(at, open): (usize, &OpenSegment)| {
            open.is_short || (at > self.end.segment && open.header.is_none())
        };
        if rest.into_iter().any(damaged) {
            self.note_damage(self.end);
            self.replay.lose();
        }
        self.miss();
    }

    /// Looks for what has to be there and is not.
    fn miss(&mut self) {
        let (Some(first), Some(last)) = (self.segments.first(), self.segments.last()) else {
            return;
        };
        if let Some(oldest) = self.oldest.filter(|oldest| *oldest < first.segment.sequence) {
            self.report.damage.push((beside(&first.segment.path, oldest), 0));
            self.replay.lose_beginning();
        }
        let Some(said) = self.witness else { return };
        if said.newest > last.segment.sequence {
            self.report.damage.push((beside(&last.segment.path, said.newest), 0));
            self.replay.lose();
        } else if said.records > self.end.sequence {
            self.note_damage(self.end);
            self.replay.lose();
        }
    }

    /// The next batch of the log: the one that follows here, or in the next segment, or, after
    /// damage, the first whole one.
    fn locate(&mut self) -> Option<(End, BatchHeader, u64)> {
        let mut first = None;
        let mut segment = self.end.segment;
        let mut offset = self.end.offset;
        while let Some(open) = self.segments.get(segment) {
            let found = self.window.next_header(&open.segment, offset);
            let Some((at, header, checksum)) = found.filter(|(_, h, _)| self.counts(segment, h))
            else {
                segment += 1;
                offset = SEGMENT_HEADER_BYTES;
                continue;
            };
            offset = at + header.batch_bytes();
            let here = End { segment, offset: at, ..self.end };
            if self.follows(&header) {
                return Some((here, header, checksum));
            }
            if header.number < self.end.number {
                continue;
            }
            first.get_or_insert((here, header, checksum));
            if header.claim > self.end.number || !self.begun {
                self.note_damage(self.end);
                return first;
            }
        }
        // What is left are remains of batches that were never acknowledged.
        if first.is_some() {
            holdfast_env::sometimes!(TORN_TAIL_RECOVERED);
            self.report.torn_tail = true;
        }
        None
    }

    /// Whether a batch in `segment` can be a part of the log. Beyond the last batch that fitted
    /// may lie remains of torn ones, with numbers that the next segment took again.
    fn counts(&self, segment: usize, header: &BatchHeader) -> bool {
        let next = self.segments.get(segment + 1).and_then(|open| open.header);
        next.is_none_or(|next| header.number < next.first_number)
    }

    /// Whether a batch continues the log.
    fn follows(&self, header: &BatchHeader) -> bool {
        self.begun
            && header.number == self.end.number
            && self.end.link.is_none_or(|link| link == header.link)
    }

    fn note_damage(&mut self, at: End) {
        if let Some(open) = self.segments.get(at.segment) {
            self.report.damage.push((open.segment.path.clone(), at.offset));
        }
    }

    /// Whether a batch at or after `from` claims that batch `number` was durable.
    fn is_claimed(&mut self, number: u64, from: End) -> bool {
        let (mut segment, mut offset) = (from.segment, from.offset);
        while let Some(open) = self.segments.get(segment) {
            let found = self.window.next_header(&open.segment, offset);
            match found.filter(|(_, header, _)| self.counts(segment, header)) {
                Some((_, header, _)) if header.claim > number => return true,
                Some((at, header, _)) => offset = at + header.batch_bytes(),
                None => {
                    segment += 1;
                    offset = SEGMENT_HEADER_BYTES;
                }
            }
        }
        false
    }

    /// Takes a batch into account. False: it is torn, the log ends before it.
    fn take(&mut self, at: End, header: &BatchHeader, checksum: u64) -> bool {
        if !self.begun {
            self.begin(at, header);
        } else if header.first_sequence != self.end.sequence {
            self.replay.lose();
        }
        let next = End {
            segment: at.segment,
            offset: at.offset + header.batch_bytes(),
            number: header.number + 1,
            sequence: header.end_sequence(),
            link: Some(checksum),
        };
        let whole = match header.kind {
            BatchKind::Filler => true,
            BatchKind::Mark => self.take_mark(at, header),
            BatchKind::Records => self.take_records(at, header, false),
        };
        if !whole {
            if !self.is_claimed(header.number, next) {
                holdfast_env::sometimes!(TORN_TAIL_RECOVERED);
                self.report.torn_tail = true;
                return false;
            }
            self.note_damage(at);
            if header.kind == BatchKind::Records {
                self.take_records(at, header, true);
            }
        }
        self.oldest = self.oldest.max(Some(header.oldest));
        self.end = next;
        self.marked = whole && header.kind == BatchKind::Mark;
        true
    }

    /// The first segment has no header: begin with the first batch there is.
    fn begin(&mut self, at: End, header: &BatchHeader) {
        self.begun = true;
        let opening =
            at.segment == 0 && at.offset == SEGMENT_HEADER_BYTES && header.kind == BatchKind::Mark;
        // After anything but its own opening mark, what was lost before it is not known.
        self.replay.origin = if opening { header.first_sequence } else { 0 };
    }

    fn take_mark(&mut self, at: End, header: &BatchHeader) -> bool {
        let Some(OpenSegment { segment, .. }) = self.segments.get(at.segment) else {
            return false;
        };
        let start = at.offset + BATCH_HEADER_BYTES as u64;
        let body = self.window.bytes(segment, start, u64::from(header.body_bytes));
        let tails = parse_tails(header, body, segment.seed_at(start));
        if let Some(tails) = &tails {
            self.replay.check(tails);
        }
        tails.is_some()
    }

    /// Replays the records of a batch if all are whole, or with `damaged` those that are.
    fn take_records(&mut self, at: End, header: &BatchHeader, damaged: bool) -> bool {
        let Some(OpenSegment { segment, .. }) = self.segments.get(at.segment) else {
            return false;
        };
        let start = at.offset + BATCH_HEADER_BYTES as u64;
        let body = self.window.bytes(segment, start, u64::from(header.body_bytes));
        let apply = |replay: &mut Replay, ordinal: u32, offset: u64, record: &RecordView<'_>| {
            let offset = u32::try_from(offset).unwrap_or(u32::MAX);
            let place = Place { segment: segment.sequence, offset };
            replay.apply(header.first_sequence + u64::from(ordinal), record, place);
        };
        if !damaged && are_whole(body, segment, start, header.records) {
            let mut at = 0;
            for ordinal in 0..header.records {
                let record = parse_checked(body.get(at..).unwrap_or_default());
                let record = record.expect("it was read a moment ago");
                apply(&mut self.replay, ordinal, start + at as u64, &record);
                at += record.bytes;
            }
            return true;
        }
        let accepts_torn = holdfast_env::defect!(ACCEPT_TORN_RECORD);
        if !damaged && !accepts_torn {
            return false;
        }
        let (records, whole) = parse_records(body, segment, start, header.records);
        let mut expected = 0;
        for (ordinal, offset, record) in &records {
            if *ordinal != expected && !accepts_torn {
                self.replay.lose();
            }
            expected = ordinal + 1;
            apply(&mut self.replay, *ordinal, *offset, record);
        }
        if expected != header.records && !accepts_torn {
            self.replay.lose();
        }
        whole || accepts_torn
    }
}

/// The path of segment `sequence` in the directory of another one.
fn beside(path: &Path, sequence: u32) -> PathBuf {
    FileName::InUse(sequence).path(path.parent().unwrap_or(path))
}

/// Whether a body is nothing but `count` whole records.
fn are_whole(body: &[u8], segment: &Segment, start: u64, count: u32) -> bool {
    let mut at = 0;
    for _ in 0..count {
        let rest = body.get(at..).unwrap_or_default();
        let Some(record) = parse(rest, segment.seed_at(start + at as u64)) else { return false };
        at += record.bytes;
    }
    at == body.len()
}

/// A record with its number in the batch and its offset in the segment.
pub(crate) type Located<'a> = (u32, u64, RecordView<'a>);

/// The whole records of a body, and whether that is all of it. A damaged record is stepped over
/// if its length still leads to a whole one.
pub(crate) fn parse_records<'a>(
    body: &'a [u8],
    segment: &Segment,
    start: u64,
    count: u32,
) -> (Vec<Located<'a>>, bool) {
    let mut records = Vec::new();
    let mut at = 0;
    let mut bad = 0;
    for ordinal in 0..count {
        let rest = body.get(at..).unwrap_or_default();
        let offset = start + at as u64;
        match parse(rest, segment.seed_at(offset)) {
            Some(record) => {
                bad = 0;
                at += record.bytes;
                records.push((ordinal, offset, record));
            }
            None => {
                bad += 1;
                match claimed_bytes(rest) {
                    Some(length) if bad == 1 => at += length,
                    _ => break,
                }
            }
        }
    }
    let whole = records.len() == count as usize && at == body.len();
    (records, whole)
}
