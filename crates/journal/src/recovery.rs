//! Opening a journal: one scan over all segments.
//!
//! Owns: files found in the directory, the report, the state to go on from.
//! Invariants:
//! * Everything acknowledged is found, or its group is reported as hit, also if a whole file is
//!   gone or as it was before.
//! * What was found, and the verdict on every group, is durable before anything new is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use bytes::Bytes;
use holdfast_env::{Clock, Disk, Entropy, OpenMode};

use crate::batch::Tail;
use crate::error::{At, Error, Result};
use crate::group::{Group, GroupId, LogPosition};
use crate::journal::Journal;
use crate::ledger::Ledger;
use crate::options::{JournalOptions, SEGMENT_BYTES_MIN};
use crate::queue::Work;
use crate::replay::Replay;
use crate::segment::{FileName, SEGMENT_HEADER_BYTES, Segment, SegmentHeader, seed};
use crate::space::{Spares, create_first};
use crate::state::State;
use crate::walk::{End, OpenSegment, Scanner};
use crate::witness::{Testimony, Witness};
use crate::writer::Writer;

/// What is written again at a time.
const WRITE_AGAIN_BYTES: usize = 64 * 1024;

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
    /// be read, a journal was there and no segment is, or the files are of different journals:
    /// the store has to be replaced.
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
        let (mut segments, journal_id) =
            open_segments(disk.as_ref(), &files, OpenMode::Write, || entropy.u64())?;
        let mut next_number = files.next_number();
        if segments.is_empty() {
            segments.push(first_segment(&*disk, directory, &options, (journal_id, next_number))?);
            next_number += 1;
        }
        let mut scanner = Scanner::new(&segments, files.said);
        scanner.run();
        let said = files.said.unwrap_or(Testimony { journal: journal_id, ..<_>::default() });
        let witness = Witness::open(disk.as_ref(), directory, said)?;
        let used = segments.get(..=scanner.end.segment).unwrap_or_default();
        let later = segments.get(used.len()..).unwrap_or_default();
        let mut writer = Writer {
            journal_id,
            run: entropy.u64(),
            directory: directory.to_path_buf(),
            spares: Spares::new(next_number),
            unmarked: !scanner.marked,
            ..Writer::resume((disk, clock, witness), options, used, &scanner.end)
        };
        let mut recovery = scanner.report;
        recovery.segments = used.len();
        recovery.scanned_bytes = scanner.window.scanned_bytes;
        writer.take_groups(scanner.replay, &mut recovery);
        writer.keep_verdict()?;
        writer.settle_files(&files, later)?;
        writer.settle_end()?;
        Ok((Arc::clone(&writer.journal), writer, recovery))
    }
}

/// Creates the directory durably; those above it are the caller's.
fn create_directory(disk: &dyn Disk, directory: &Path) -> Result<()> {
    disk.create_dir_all(directory).at("create directory", directory)?;
    let parent = match directory.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => directory,
    };
    disk.sync_dir(parent).at("sync directory", parent)
}

/// Makes the first segment of a new journal.
fn first_segment(
    disk: &dyn Disk,
    directory: &Path,
    options: &JournalOptions,
    (journal, sequence): (u64, u32),
) -> Result<OpenSegment> {
    let header = SegmentHeader {
        journal,
        sequence,
        segment_bytes: options.segment_bytes,
        first_sequence: 1,
        first_number: 1,
    };
    let segment = create_first(disk, directory, &header)?;
    Ok(OpenSegment { segment, header: Some(header), is_short: false })
}

pub(crate) fn describe(groups: &BTreeMap<GroupId, Group>, recovery: &mut Recovery) {
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
pub(crate) struct Files {
    directory: PathBuf,
    in_use: Vec<(u32, PathBuf)>,
    pub(crate) spare: Vec<(u32, PathBuf)>,
    fresh: Vec<(u32, PathBuf)>,
    /// What the witness says.
    pub(crate) said: Option<Testimony>,
}

impl Files {
    pub(crate) fn list(disk: &dyn Disk, directory: &Path) -> Result<Self> {
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
        let said = Testimony::read(disk, directory)?;
        if let (Some(said), true) = (said, in_use.is_empty()) {
            let path = FileName::InUse(said.newest).path(directory);
            return Err(Error::Corrupt { path, offset: 0, what: "any segment in use" });
        }
        let directory = directory.to_path_buf();
        Ok(Self { directory, in_use, spare, fresh, said })
    }

    /// A number that no file has, and no segment had that is still there.
    fn next_number(&self) -> u32 {
        let files = self.in_use.iter().chain(&self.spare).chain(&self.fresh);
        let numbers = files.map(|(number, _)| *number).chain(self.said.map(|said| said.newest));
        numbers.max().unwrap_or(0) + 1
    }
}

/// Opens all files in use and finds out which journal they belong to.
pub(crate) fn open_segments(
    disk: &dyn Disk,
    files: &Files,
    mode: OpenMode,
    fresh_id: impl FnOnce() -> u64,
) -> Result<(Vec<OpenSegment>, u64)> {
    let mut opened = Vec::new();
    let mut journal = None;
    for (number, path) in &files.in_use {
        let file = disk.open(path, mode).at("open", path)?;
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
        (None, None) => fresh_id(),
        (None, Some((_, path, ..))) => {
            let what = "a whole segment header";
            return Err(Error::Corrupt { path: path.clone(), offset: 0, what });
        }
    };
    if let Some(said) = &files.said {
        said.check_journal(&files.directory, journal)?;
    }
    let segments = opened.into_iter().map(|(sequence, path, file, length, header)| {
        let bytes = header.map_or(length.max(SEGMENT_BYTES_MIN), |header| header.segment_bytes);
        let seed = seed(journal, sequence);
        let readers = AtomicUsize::new(0);
        let segment = Arc::new(Segment { sequence, path, file, bytes, seed, readers });
        OpenSegment { segment, header, is_short: length < bytes }
    });
    Ok((segments.collect(), journal))
}

impl Writer {
    /// A writer that goes on at `end`, with segments but without groups.
    fn resume(
        (disk, clock, witness): (Arc<dyn Disk>, Arc<dyn Clock>, Witness),
        options: JournalOptions,
        used: &[OpenSegment],
        end: &End,
    ) -> Self {
        let current = used.last().expect("there is a segment, and the log ends in one");
        let mut ledger = Ledger::default();
        for open in used {
            ledger.open(Arc::clone(&open.segment));
        }
        let state = State::new(options.clone(), ledger, end.sequence);
        Self {
            journal: Arc::new(Journal::new(state)),
            disk,
            clock,
            directory: PathBuf::new(),
            options,
            journal_id: 0,
            run: 0,
            current: Arc::clone(&current.segment),
            offset: end.offset,
            covered: end.offset,
            number: end.number,
            link: end.link.unwrap_or(0),
            claim: end.number,
            sequence: end.sequence,
            oldest: used.first().map_or(0, |open| open.segment.sequence),
            oldest_since: end.number,
            witness,
            witnessed_at: Duration::ZERO,
            tails: BTreeMap::new(),
            spares: Spares::default(),
            unmarked: false,
            last_sync: Duration::ZERO,
            idle: Work::default(),
        }
    }

    /// Takes over the replayed groups, and reports them.
    fn take_groups(&mut self, replay: Replay, recovery: &mut Recovery) {
        let mut state = self.journal.lock();
        state.groups = replay.finish(&mut state.ledger);
        describe(&state.groups, recovery);
        let tails = state.groups.iter().map(|(id, group)| {
            (*id, Tail { group: *id, last: group.last_sequence, hit: group.hit })
        });
        self.tails = tails.collect();
    }

    /// Writes what was found in the current segment once more. The sync that failed before the last
    /// process ended may have left pages that read well, count as clean and never reached the disk:
    /// the next sync writes back only what is written again. Segments before this one were synced.
    fn write_again(&self) -> Result<()> {
        let (file, path) = (&self.current.file, &self.current.path);
        let mut chunk = vec![0; WRITE_AGAIN_BYTES];
        let mut at = 0;
        while at < self.offset {
            let left = usize::try_from(self.offset - at).unwrap_or(usize::MAX);
            let bytes = &mut chunk[..left.min(WRITE_AGAIN_BYTES)];
            // What cannot be read was reported as damage.
            if file.read_exact_at(bytes, at).is_ok() {
                file.write_all_at(bytes, at).at("write", path)?;
            }
            at += bytes.len() as u64;
        }
        Ok(())
    }

    /// Makes durable which groups were hit: the verdict must outlive its evidence. It is written
    /// twice, so that no single fault takes it back.
    fn keep_verdict(&mut self) -> Result<()> {
        if self.tails.values().any(|tail| tail.hit) {
            self.write_mark()?;
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
            if self.spares.len() < self.options.spares_max() && fits {
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
        self.write_again()?;
        self.sync()?;
        // In both slots: after damage what the witness said before may not be true any more.
        self.bear_witness()?;
        self.bear_witness()?;
        let mut state = self.journal.lock();
        state.spares = self.spares.len();
        state.current_room = self.current.bytes - self.offset;
        Ok(())
    }
}
