//! Opening a journal: one scan over all segments.
//!
//! Owns: which batches count, where the log ends, what was lost.
//! Invariants:
//! * Everything acknowledged is found, or its group is reported as hit.
//! * Nothing above a torn tail is ever taken for a part of the log again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use bytes::Bytes;
use holdfast_env::{Clock, Disk, Entropy, OpenMode};

use crate::batch::{BATCH_HEADER_BYTES, BatchHeader, BatchKind, Tail, parse_tails};
use crate::error::{At, Error, Result};
use crate::group::{Group, GroupId, LogPosition};
use crate::journal::Journal;
use crate::ledger::{Ledger, Place};
use crate::options::{JournalOptions, SEGMENT_BYTES_MIN, SPARES};
use crate::queue::Work;
use crate::record::{RecordView, claimed_bytes, parse};
use crate::replay::Replay;
use crate::scan::Window;
use crate::segment::{FileName, SEGMENT_HEADER_BYTES, Segment, SegmentHeader, seed};
use crate::space::{Spares, create_first};
use crate::state::State;
use crate::writer::Writer;

/// A group as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredGroup {
    /// Which one.
    pub group: GroupId,
    /// What it was created with.
    pub descriptor: Bytes,
    /// Its vote.
    pub vote: Option<Bytes>,
    /// What was known to be committed; may be older than what was saved last.
    pub committed: Option<LogPosition>,
    /// The purge position.
    pub purged: Option<LogPosition>,
    /// First index held.
    pub first_index: Option<u64>,
    /// Last index held.
    pub last_index: Option<u64>,
}

/// What opening found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Whole groups, in order.
    pub groups: Vec<RecoveredGroup>,
    /// Groups that lost something durable. Retire their replicas and destroy them here.
    pub hit: Vec<GroupId>,
    /// Bytes read.
    pub scanned_bytes: u64,
    /// Segments found in use.
    pub segments: usize,
    /// Damaged places below the end of the log: file and offset.
    pub damage: Vec<(PathBuf, u64)>,
    /// Whether a batch that was torn by a crash was cut off.
    pub torn_tail: bool,
}

impl Journal {
    /// Opens the journal in `directory`, creating it if there is none.
    ///
    /// Damage does not keep it from opening; see [`Recovery::hit`]. The caller makes sure that
    /// one process at a time opens a directory. Cost: one read of all segments in use.
    ///
    /// # Errors
    /// [`Error::Options`]; [`Error::Io`]; [`Error::Corrupt`] if not even one segment's header can
    /// be read, or the segments are of different journals: the store has to be replaced.
    pub fn open(
        disk: Arc<dyn Disk>,
        entropy: Arc<dyn Entropy>,
        clock: Arc<dyn Clock>,
        directory: &Path,
        options: JournalOptions,
    ) -> Result<(Arc<Journal>, Writer, Recovery)> {
        options.validate()?;
        create_directory(disk.as_ref(), directory)?;
        let files = Files::list(disk.as_ref(), directory)?;
        let (mut segments, journal_id) = open_segments(disk.as_ref(), &files, entropy.as_ref())?;
        let mut next_number = files.next_number();
        if segments.is_empty() {
            let header = SegmentHeader {
                journal: journal_id,
                sequence: next_number,
                segment_bytes: options.segment_bytes,
                first_sequence: 1,
                first_number: 1,
            };
            next_number += 1;
            let segment = create_first(disk.as_ref(), directory, &header)?;
            segments.push(OpenSegment { segment, header: Some(header), is_short: false });
        }
        let mut scanner = Scanner::new(&segments);
        scanner.run();
        let end = scanner.end;
        let mut recovery = scanner.report;
        recovery.scanned_bytes = scanner.window.scanned_bytes;
        let mut ledger = Ledger::default();
        let used = segments.get(..=end.segment).unwrap_or_default();
        recovery.segments = used.len();
        for used in used {
            ledger.open(Arc::clone(&used.segment));
        }
        let current = used.last().expect("there is a segment, and the log ends in one");
        let current = Arc::clone(&current.segment);
        let groups = scanner.replay.finish(&mut ledger);
        ledger.assume_full();
        describe(&groups, &mut recovery);
        let tails = groups.iter().map(|(id, group)| {
            (*id, Tail { group: *id, last: group.last_sequence, hit: group.hit })
        });
        let tails: BTreeMap<GroupId, Tail> = tails.collect();
        let state = State::new(options.clone(), groups, ledger, end.sequence);
        let mut writer = Writer {
            journal: Arc::new(Journal::new(state)),
            disk,
            clock,
            directory: directory.to_path_buf(),
            options,
            journal_id,
            run: entropy.u64(),
            current,
            offset: end.offset,
            number: end.number,
            link: end.link.unwrap_or(0),
            claim: end.number,
            sequence: end.sequence,
            tails,
            spares: Spares::new(next_number),
            unmarked: !scanner.marked,
            last_sync: std::time::Duration::ZERO,
            idle: Work::default(),
        };
        writer.keep_verdict()?;
        writer.settle_files(&files, segments.get(used.len()..).unwrap_or_default())?;
        writer.settle_end()?;
        Ok((Arc::clone(&writer.journal), writer, recovery))
    }
}

/// Creates the directory durably; those above it are the caller's.
fn create_directory(disk: &dyn Disk, directory: &Path) -> Result<()> {
    disk.create_dir_all(directory).at("create directory", directory)?;
    let parent = directory.parent().unwrap_or(directory);
    disk.sync_dir(parent).at("sync directory", parent)
}

fn describe(groups: &BTreeMap<GroupId, Group>, recovery: &mut Recovery) {
    for (id, group) in groups {
        if group.hit {
            recovery.hit.push(*id);
            continue;
        }
        recovery.groups.push(RecoveredGroup {
            group: *id,
            descriptor: group.descriptor.clone(),
            vote: group.vote.clone(),
            committed: group.committed,
            purged: group.purged,
            first_index: group.last_index().map(|_| group.first()),
            last_index: group.last_index(),
        });
    }
}

/// The files of the directory.
struct Files {
    in_use: Vec<(u32, PathBuf)>,
    spare: Vec<(u32, PathBuf)>,
    fresh: Vec<(u32, PathBuf)>,
}

impl Files {
    fn list(disk: &dyn Disk, directory: &Path) -> Result<Self> {
        let (mut in_use, mut spare, mut fresh) = (Vec::new(), Vec::new(), Vec::new());
        for path in disk.list(directory).at("list", directory)? {
            match FileName::of(&path) {
                Some(FileName::InUse(number)) => in_use.push((number, path)),
                Some(FileName::Spare(number)) => spare.push((number, path)),
                Some(FileName::Fresh(number)) => fresh.push((number, path)),
                None => {}
            }
        }
        in_use.sort();
        spare.sort();
        fresh.sort();
        Ok(Self { in_use, spare, fresh })
    }

    /// A number that no file has, and no segment had that is still there.
    fn next_number(&self) -> u32 {
        let files = self.in_use.iter().chain(&self.spare).chain(&self.fresh);
        let numbers = files.map(|(number, _)| *number);
        numbers.max().unwrap_or(0) + 1
    }
}

/// A file in use.
struct OpenSegment {
    segment: Arc<Segment>,
    header: Option<SegmentHeader>,
    /// Whether the file lost its end, and maybe batches there.
    is_short: bool,
}

/// Opens all files in use and finds out which journal they belong to.
fn open_segments(
    disk: &dyn Disk,
    files: &Files,
    entropy: &dyn Entropy,
) -> Result<(Vec<OpenSegment>, u64)> {
    let mut opened = Vec::new();
    let mut journal = None;
    for (number, path) in &files.in_use {
        let file = disk.open(path, OpenMode::Write).at("open", path)?;
        let length = file.len().at("measure", path)?;
        let header = SegmentHeader::read(file.as_ref()).filter(|h| h.sequence == *number);
        let id = header.map(|header| header.journal);
        if id.is_some_and(|id| *journal.get_or_insert(id) != id) {
            let what = "a segment of the same journal as the others";
            return Err(Error::Corrupt { path: path.clone(), offset: 0, what });
        }
        opened.push((*number, path.clone(), file, length, header));
    }
    let journal = match (journal, opened.first()) {
        (Some(journal), _) => journal,
        (None, None) => entropy.u64(),
        (None, Some((_, path, ..))) => {
            let what = "a whole segment header";
            return Err(Error::Corrupt { path: path.clone(), offset: 0, what });
        }
    };
    let segments = opened.into_iter().map(|(sequence, path, file, length, header)| {
        let bytes = header.map_or(length.max(SEGMENT_BYTES_MIN), |header| header.segment_bytes);
        let seed = seed(journal, sequence);
        let readers = AtomicUsize::new(0);
        let segment = Arc::new(Segment { sequence, path, file, bytes, seed, readers });
        OpenSegment { segment, header, is_short: length < bytes }
    });
    Ok((segments.collect(), journal))
}

/// Where the next batch goes, and what it continues.
#[derive(Clone, Copy, Debug)]
struct End {
    segment: usize,
    offset: u64,
    number: u64,
    sequence: u64,
    link: Option<u64>,
}

/// Walks from batch to batch.
struct Scanner<'a> {
    segments: &'a [OpenSegment],
    window: Window,
    replay: Replay,
    report: Recovery,
    end: End,
    /// Whether the first batch was found, or its number is known from a header.
    begun: bool,
    /// Whether the last batch was a mark, so that nothing is without cover.
    marked: bool,
}

impl<'a> Scanner<'a> {
    fn new(segments: &'a [OpenSegment]) -> Self {
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
            window: Window::default(),
            replay: Replay::starting_at(end.sequence),
            report: Recovery::default(),
            end,
            begun: header.is_some(),
            marked: true,
        }
    }

    fn run(&mut self) {
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
        self.report.torn_tail |= first.is_some();
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
                self.report.torn_tail = true;
                return false;
            }
            self.note_damage(at);
            if header.kind == BatchKind::Records {
                self.take_records(at, header, true);
            }
        }
        self.end = next;
        self.marked = whole && header.kind == BatchKind::Mark;
        true
    }

    /// The first segment has no header: begin with the first batch there is.
    fn begin(&mut self, at: End, header: &BatchHeader) {
        self.begun = true;
        let opening = at.offset == SEGMENT_HEADER_BYTES && header.kind == BatchKind::Mark;
        // After anything but the opening mark, what was lost before it is not known.
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
        let (records, whole) = parse_records(body, segment, start, header.records);
        if !whole && !damaged {
            return false;
        }
        let mut expected = 0;
        for (ordinal, offset, record) in &records {
            if *ordinal != expected {
                self.replay.lose();
            }
            expected = ordinal + 1;
            let offset = u32::try_from(*offset).unwrap_or(u32::MAX);
            let place = Place { segment: segment.sequence, offset };
            self.replay.apply(header.first_sequence + u64::from(*ordinal), record, place);
        }
        if expected != header.records {
            self.replay.lose();
        }
        whole
    }
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

impl Writer {
    /// Makes durable which groups were hit: the verdict must outlive its evidence.
    fn keep_verdict(&mut self) -> Result<()> {
        if self.tails.values().any(|tail| tail.hit) {
            self.write_mark()?;
            self.sync()?;
        }
        Ok(())
    }

    /// Makes spares of what is not in use, and removes what is of no use.
    fn settle_files(&mut self, files: &Files, later: &[OpenSegment]) -> Result<()> {
        let begun = later.iter().map(|open| &open.segment.path);
        let unused = begun.chain(files.spare.iter().map(|(_, path)| path));
        let mut changed = !files.fresh.is_empty();
        for (_, path) in &files.fresh {
            self.disk.remove_file(path).at("remove", path)?;
        }
        for path in unused {
            let file = self.disk.open(path, OpenMode::Write).at("open", path)?;
            let fits = file.len().at("measure", path)? == self.options.segment_bytes;
            if self.spares.len() < SPARES && fits {
                let spare = self.spares.next_path(&self.directory);
                self.disk.rename(path, &spare).at("rename", path)?;
                self.spares.adopt(spare, file, self.options.segment_bytes);
            } else {
                self.disk.remove_file(path).at("remove", path)?;
            }
            changed = true;
        }
        if changed {
            self.disk.sync_dir(&self.directory).at("sync directory", &self.directory)?;
        }
        Ok(())
    }

    /// Makes what was found durable: a crash may have left it unsynced. Prepares the reserve.
    fn settle_end(&mut self) -> Result<()> {
        while self.keep_spares()? {}
        self.current.file.allocate(self.current.bytes).at("allocate", &self.current.path)?;
        if self.offset == SEGMENT_HEADER_BYTES {
            self.write_opening_mark()?;
        }
        self.sync()?;
        let mut state = self.journal.lock();
        state.spares = self.spares.len();
        state.current_room = self.current.bytes - self.offset;
        Ok(())
    }
}
