//! Segments coming and going: rotation, spares, freeing the oldest, moving what is left in it.
//!
//! Owns: spare files, when to move records.
//! Invariants:
//! * A file's name changes durably before its content does.
//! * A segment is freed only when the records that made it free are durable, and when a batch
//!   and the witness, or the witness twice, said durably that it is not needed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use bytes::Bytes;
use holdfast_env::{Disk, File, OpenMode};

use crate::error::{At, Error, Result, is_space};
use crate::group::{GroupId, KEPT_KINDS, LogPosition};
use crate::options::{
    REWRITE_BYTES_PER_STEP, REWRITE_FACTOR_MAX, SPACE_RETRY, SPARES, ZERO_BYTES_PER_STEP,
};
use crate::queue::Draft;
use crate::read::{Stored, read_run, run_length};
use crate::record::RecordKind;
use crate::segment::{FileName, Reading, SEGMENT_HEADER_BYTES, Segment, SegmentHeader, seed};
use crate::state::State;
use crate::writer::Writer;

/// A prepared file.
#[derive(Debug)]
struct Spare {
    path: PathBuf,
    file: Arc<dyn File>,
    /// Up to here it was written once, so that writing again changes no metadata.
    filled_bytes: u64,
}

impl Spare {
    /// Fills the next part of `bytes` with zeros.
    fn fill(&mut self, bytes: u64) -> Result<()> {
        let part = ZERO_BYTES_PER_STEP.min(bytes - self.filled_bytes);
        let zeros = vec![0; usize::try_from(part).expect("a part is small")];
        self.file.write_all_at(&zeros, self.filled_bytes).at("write", &self.path)?;
        self.filled_bytes += part;
        Ok(())
    }

    /// Makes it the segment that `header` describes, durably; the old name is gone after that.
    fn into_use(
        self,
        disk: &dyn Disk,
        directory: &Path,
        header: &SegmentHeader,
    ) -> Result<Arc<Segment>> {
        self.file.write_all_at(&header.encode(), 0).at("write", &self.path)?;
        self.file.sync_all().at("sync", &self.path)?;
        let path = FileName::InUse(header.sequence).path(directory);
        disk.rename(&self.path, &path).at("rename", &self.path)?;
        if !holdfast_env::defect!(SKIP_DIRECTORY_FSYNC) {
            disk.sync_dir(directory).at("sync directory", directory)?;
        }
        Ok(Arc::new(Segment {
            sequence: header.sequence,
            path,
            file: self.file,
            bytes: header.segment_bytes,
            seed: seed(header.journal, header.sequence),
            readers: AtomicUsize::new(0),
        }))
    }
}

/// Prepared files, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    files: Vec<Spare>,
    /// The next number for a file name.
    next_number: u32,
    /// When to ask a full disk again.
    retry_at: Duration,
    /// Bytes written since a fresh file was filled last.
    written_bytes: u64,
}

/// Live records of the oldest segment that are to be moved.
struct Moving {
    group: GroupId,
    /// With the sequence number the index knows each by.
    entries: Vec<(Stored, u64)>,
}

impl Spares {
    /// No files yet; names from `next_number` on.
    pub(crate) fn new(next_number: u32) -> Self {
        Self { next_number, ..Self::default() }
    }

    /// Takes over a file that was used before, of the right size.
    pub(crate) fn adopt(&mut self, path: PathBuf, file: Arc<dyn File>, bytes: u64) {
        self.files.push(Spare { path, file, filled_bytes: bytes });
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    /// A path for the next spare.
    pub(crate) fn next_path(&mut self, directory: &Path) -> PathBuf {
        FileName::Spare(self.number()).path(directory)
    }

    /// Takes note of `bytes` written to the log: fresh files are filled at the same pace.
    pub(crate) fn note_written(&mut self, bytes: u64) {
        self.written_bytes += bytes;
    }

    /// Takes the oldest file out, one that is filled if there is one.
    fn take(&mut self, bytes: u64) -> Spare {
        let filled = self.files.iter().position(|spare| spare.filled_bytes >= bytes);
        self.files.remove(filled.unwrap_or(0))
    }

    fn number(&mut self) -> u32 {
        let number = self.next_number;
        self.next_number = number.checked_add(1).expect("2^32 segments are never used");
        number
    }
}

/// Makes the first segment of a journal: allocated, filled, with a durable header and name.
pub(crate) fn create_first(
    disk: &dyn Disk,
    directory: &Path,
    header: &SegmentHeader,
) -> Result<Arc<Segment>> {
    let path = FileName::Fresh(header.sequence).path(directory);
    let file = disk.open(&path, OpenMode::CreateNew).at("create", &path)?;
    file.allocate(header.segment_bytes).at("allocate", &path)?;
    let mut spare = Spare { path, file, filled_bytes: 0 };
    while spare.filled_bytes < header.segment_bytes {
        spare.fill(header.segment_bytes)?;
    }
    spare.into_use(disk, directory, header)
}

impl Writer {
    /// Ends the current segment and begins the next one with a mark.
    pub(crate) fn rotate(&mut self) -> Result<()> {
        self.sync()?;
        if self.spares.files.is_empty() {
            self.add_spare()?;
        }
        self.begin_segment()
    }

    /// Takes a prepared file into use.
    fn begin_segment(&mut self) -> Result<()> {
        let spare = self.spares.take(self.options.segment_bytes);
        let sequence = self.spares.number();
        let header = SegmentHeader {
            journal: self.journal_id,
            sequence,
            segment_bytes: self.options.segment_bytes,
            first_sequence: self.sequence,
            first_number: self.number,
        };
        self.current = spare.into_use(self.disk.as_ref(), &self.directory, &header)?;
        self.offset = SEGMENT_HEADER_BYTES;
        self.covered = SEGMENT_HEADER_BYTES;
        let mut state = self.journal.lock();
        state.ledger.open(Arc::clone(&self.current));
        state.spares = self.spares.len();
        state.current_room = self.current.bytes - self.offset;
        drop(state);
        self.write_opening_mark()
    }

    /// One round of housekeeping. Returns whether another one may find something to do.
    pub(crate) fn tend(&mut self) -> Result<bool> {
        let mut busy = self.free_oldest()?;
        busy |= self.keep_spares()?;
        busy |= self.fill_spare()?;
        busy |= self.move_oldest()?;
        let mut state = self.journal.lock();
        state.spares = self.spares.len();
        state.current_room = self.current.bytes - self.offset;
        Ok(busy)
    }

    /// Frees the oldest segment if nothing needs it.
    fn free_oldest(&mut self) -> Result<bool> {
        if !self.gives_up_oldest()? {
            return Ok(false);
        }
        let mut state = self.journal.lock();
        let Some(segment) = state.ledger.take_below(self.oldest) else { return Ok(false) };
        state.counters.segments_freed += 1;
        drop(state);
        let reusable = segment.bytes == self.options.segment_bytes;
        if self.spares.len() < self.options.spares_max() && reusable {
            let path = self.spares.next_path(&self.directory);
            self.disk.rename(&segment.path, &path).at("rename", &segment.path)?;
            self.spares.adopt(path, Arc::clone(&segment.file), segment.bytes);
        } else {
            self.disk.remove_file(&segment.path).at("remove", &segment.path)?;
        }
        self.disk.sync_dir(&self.directory).at("sync directory", &self.directory)?;
        Ok(true)
    }

    /// Whether the oldest segment is not needed and that is said durably. While callers wait their
    /// batch says it, else a mark does. Where no mark fits any more the witness says it in both
    /// slots until the next batch: in a full journal the next segment has to wait for this one.
    fn gives_up_oldest(&mut self) -> Result<bool> {
        let state = self.journal.lock();
        let needed = state.ledger.first_needed(state.durable).unwrap_or(self.oldest);
        if needed > self.oldest {
            self.oldest = needed;
            self.oldest_since = self.number;
        }
        let (any, urgent) = (state.ledger.begins_below(self.oldest), state.queue.urgent);
        drop(state);
        let said = self.claim > self.oldest_since;
        if !any || (urgent && !said) {
            return Ok(false);
        }
        let fits = self.mark_fits();
        if !said && fits {
            self.write_mark()?;
            self.sync()?;
            self.unmarked = false;
        }
        if self.witness.last().oldest < self.oldest {
            self.bear_witness()?;
            if !said && !fits {
                self.bear_witness()?;
            }
        }
        Ok(true)
    }

    /// Prepares another file if there are too few and limit and disk allow it.
    pub(crate) fn keep_spares(&mut self) -> Result<bool> {
        let files = self.journal.lock().ledger.segments.len() + self.spares.len();
        let wanted = self.spares.len() < SPARES && files < self.options.segments_max();
        if !wanted || self.clock.monotonic() < self.spares.retry_at {
            return Ok(false);
        }
        match self.add_spare() {
            Ok(()) => {
                self.journal.lock().disk_full = false;
                Ok(true)
            }
            Err(error) if error.is_space() => {
                self.out_of_space();
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Notes that the disk is full; it is asked again later.
    fn out_of_space(&mut self) {
        self.spares.retry_at = self.clock.monotonic() + SPACE_RETRY;
        self.journal.lock().disk_full = true;
    }

    /// Prepares a file; without room on the disk nothing is left behind.
    fn add_spare(&mut self) -> Result<()> {
        let path = FileName::Fresh(self.spares.number()).path(&self.directory);
        let file = self.disk.open(&path, OpenMode::CreateNew).at("create", &path)?;
        let made = file.allocate(self.options.segment_bytes).and_then(|()| file.sync_all());
        match made {
            Ok(()) => {}
            Err(error) if is_space(&error) => {
                drop(file);
                self.disk.remove_file(&path).at("remove", &path)?;
                return Err(Error::Io { operation: "allocate", path, source: error });
            }
            failed => return failed.at("allocate", &path),
        }
        self.disk.sync_dir(&self.directory).at("sync directory", &self.directory)?;
        self.spares.files.push(Spare { path, file, filled_bytes: 0 });
        self.journal.lock().counters.segments_made += 1;
        Ok(())
    }

    /// Fills a part of a fresh file with zeros: writing to allocated but unwritten space would
    /// change metadata with every sync (measured: a third slower). While callers wait it only
    /// keeps pace with the log, so that the file is ready when the current one is full.
    fn fill_spare(&mut self) -> Result<bool> {
        let bytes = self.options.segment_bytes;
        let keeps_pace = self.spares.written_bytes < ZERO_BYTES_PER_STEP;
        if keeps_pace && self.journal.lock().queue.urgent {
            return Ok(false);
        }
        self.spares.written_bytes = 0;
        let path = FileName::Spare(self.spares.next_number).path(&self.directory);
        let Some(at) = self.spares.files.iter().position(|s| s.filled_bytes < bytes) else {
            return Ok(false);
        };
        let Some(spare) = self.spares.files.get_mut(at) else { return Ok(false) };
        match spare.fill(bytes) {
            Ok(()) => {}
            // Some file systems cannot allocate; they notice only now that there is no room.
            Err(error) if error.is_space() => {
                let spare = self.spares.files.remove(at);
                self.disk.remove_file(&spare.path).at("remove", &spare.path)?;
                self.out_of_space();
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        spare.file.sync_data().at("sync", &spare.path)?;
        if spare.filled_bytes == bytes {
            // A crash may undo the new name: then the file is made again.
            self.disk.rename(&spare.path, &path).at("rename", &spare.path)?;
            spare.path = path;
            self.spares.number();
        }
        Ok(true)
    }

    /// Queues copies of live records of the oldest segment, if it is worth it.
    fn move_oldest(&mut self) -> Result<bool> {
        let mut state = self.journal.lock();
        let Some(reading) = worth_moving(&state) else { return Ok(false) };
        let segment = reading.segment().sequence;
        let before = state.queue.next_sequence;
        move_kept(&mut state, segment);
        let moving = entries_in(&state, segment);
        drop(state);
        let mut moved = false;
        for group in moving {
            moved |= self.move_entries(&reading, group)?;
        }
        drop(reading);
        Ok(moved || self.journal.lock().queue.next_sequence != before)
    }

    /// Reads entries of one group and queues them again.
    fn move_entries(&mut self, reading: &Reading, moving: Moving) -> Result<bool> {
        let group = moving.group;
        let (stored, sequences): (Vec<Stored>, Vec<u64>) = moving.entries.into_iter().unzip();
        let mut payloads = Vec::with_capacity(stored.len());
        let mut rest = stored.as_slice();
        while !rest.is_empty() {
            let (run, later) = rest.split_at(run_length(rest));
            rest = later;
            match read_run(reading, group, run) {
                Ok(read) => payloads.extend(read),
                Err(error) if error.is_corruption() => {
                    self.journal.lock().hit(group);
                    return Ok(true);
                }
                Err(error) => return Err(error),
            }
        }
        let mut state = self.journal.lock();
        for ((stored, sequence), payload) in stored.iter().zip(sequences).zip(payloads) {
            let position = stored.position;
            let moves = Some(sequence);
            state.push_moved(Draft { kind: RecordKind::Entry, group, position, payload, moves });
        }
        Ok(true)
    }
}

/// Whether to move what lives in the oldest segment: the fuller the journal, the more is moved to
/// free a segment. Moved records may use the reserve.
///
/// Moving has to come to an end: each time it needs records that died since, or makes the number
/// of segments smaller. So what it costs is bounded, in bytes moved for bytes written to disk:
/// * a sixteenth of a segment at most for each segment that is freed, always;
/// * above five eighths of the limit one byte for each one that died since, where half of the
///   segment did. From half on whoever owns the journal flushes and purges what pins it;
/// * above three quarters even segments full of live records, if dead ones wait behind them that
///   make up for it: four bytes for each one that died. A log that lies idle and that nobody
///   purges is passed over until a quarter of its size has died elsewhere.
/// * Votes and truncations must go on: once the reserve is begun, moving frees a segment whatever
///   it costs. Entries are not admitted then.
fn worth_moving(state: &State) -> Option<Reading> {
    let oldest = state.ledger.oldest()?;
    let used = state.ledger.segments.len();
    let most = state.options.segments_max();
    let segment_room = state.options.segment_room(state.groups.len());
    let (live, total) = (oldest.live_bytes, oldest.total_bytes);
    let few_left = used > 2 && live <= oldest.segment.bytes / 16;
    let half_dead = used * 8 > most * 5 && live <= total / 2;
    let dead = state.ledger.dead_bytes();
    let pays = dead * REWRITE_FACTOR_MAX >= state.ledger.live_bytes() || used >= most;
    let dead_behind = used * 4 > most * 3 && dead >= segment_room && pays;
    // Beyond the limit, if need be: a full segment may not fit into what others left over.
    let spares = state.spares + usize::from(!state.disk_full);
    let room = state.current_room + segment_room * spares as u64;
    let fits = live + live / 8 + state.queue.bytes() <= room;
    let worth = live > 0 && fits && (few_left || half_dead || dead_behind);
    worth.then(|| Reading::begin(&oldest.segment))
}

/// Queues copies of what groups keep in `segment` beside entries; it is all in memory.
fn move_kept(state: &mut State, segment: u32) {
    let mut drafts = Vec::new();
    for (id, group) in state.groups.iter().filter(|(_, group)| group.live_in(segment) > 0) {
        for kind in KEPT_KINDS {
            let kept = group.kept(kind).filter(|kept| kept.place.segment == segment);
            let Some(kept) = kept else { continue };
            let (position, payload) = match kind {
                RecordKind::Created => (None, Some(group.descriptor.clone())),
                RecordKind::Vote => (None, group.vote.clone()),
                RecordKind::Purge => (group.purged, None),
                _ => (group.committed, None),
            };
            drafts.push(Draft {
                kind,
                group: *id,
                position: position.unwrap_or_default(),
                payload: payload.unwrap_or_else(Bytes::new),
                moves: Some(kept.sequence),
            });
        }
    }
    for draft in drafts {
        state.push_moved(draft);
    }
}

/// Entries that live in `segment`, as many as one step may move.
fn entries_in(state: &State, segment: u32) -> Vec<Moving> {
    let mut all = Vec::new();
    let mut bytes = 0;
    for (id, group) in state.groups.iter().filter(|(_, group)| group.live_in(segment) > 0) {
        let mut entries = Vec::new();
        for (index, slot) in group.indexes_in(segment) {
            if bytes >= REWRITE_BYTES_PER_STEP {
                break;
            }
            let record = group.record_bytes_of(index).unwrap_or(0);
            let position = group.position(index).unwrap_or(LogPosition { index, ..<_>::default() });
            let kind = RecordKind::Entry;
            bytes += record;
            entries
                .push((Stored { kind, position, place: slot.place, bytes: record }, slot.sequence));
        }
        if !entries.is_empty() {
            all.push(Moving { group: *id, entries });
        }
    }
    all
}
