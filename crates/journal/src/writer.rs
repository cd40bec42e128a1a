//! The writer: turns what queued into batches, syncs once, calls back.
//!
//! Owns: the current segment, batch numbers, marks.
//! Must never know: what records mean.
//! Invariants:
//! * Batches of one segment are durable before the first byte of the next one is written.
//! * A callback runs after the sync that covers it, without locks held; after the first one in a
//!   segment the witness knows the segment.
//! * After the first failure nothing is written any more.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use holdfast_env::{Clock, Disk};

use crate::batch::{
    BATCH_ALIGN, BATCH_HEADER_BYTES, BLOCK_BYTES, BatchHeader, BatchKind, Tail, batch_bytes,
    body_checksum, encode_tails,
};
use crate::error::{At, Error, Result};
use crate::group::GroupId;
use crate::journal::Journal;
use crate::ledger::Place;
use crate::options::{JournalOptions, TAIL_BYTES};
use crate::queue::{Queued, Work};
use crate::record::{RECORD_HEADER_BYTES, RecordKind, checksum, checksum_in_two};
use crate::segment::Segment;
use crate::space::Spares;
use crate::state::State;
use crate::witness::{WITNESS_PERIOD, Witness};

static PADDING: [u8; (BATCH_ALIGN + BLOCK_BYTES) as usize] =
    [0; (BATCH_ALIGN + BLOCK_BYTES) as usize];

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Wrote and synced; callbacks were called.
    Wrote {
        /// Records written.
        records: usize,
        /// Record bytes written.
        bytes: u64,
    },
    /// Tended segments: freed, prepared or moved something. Step again.
    Tended,
    /// Nothing to do, until work is queued or, if given, this much time has passed.
    Idle {
        /// When a mark is due.
        next: Option<Duration>,
    },
}

/// Writes the journal. There is one; see [`Journal`].
pub struct Writer {
    pub(crate) journal: Arc<Journal>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) directory: PathBuf,
    pub(crate) options: JournalOptions,
    pub(crate) journal_id: u64,
    /// Random number of this run of the process.
    pub(crate) run: u64,
    pub(crate) current: Arc<Segment>,
    /// Where the next batch goes.
    pub(crate) offset: u64,
    /// Up to here the current segment was written in this use.
    pub(crate) covered: u64,
    /// Number of the next batch.
    pub(crate) number: u64,
    /// Checksum of the last batch.
    pub(crate) link: u64,
    /// Batches below this number are durable.
    pub(crate) claim: u64,
    /// Sequence number of the next record to be written.
    pub(crate) sequence: u64,
    /// The oldest segment that is needed, as batches say from number `oldest_since` on.
    pub(crate) oldest: u32,
    pub(crate) oldest_since: u64,
    pub(crate) witness: Witness,
    pub(crate) witnessed_at: Duration,
    /// The last written record of every group.
    pub(crate) tails: BTreeMap<GroupId, Tail>,
    pub(crate) spares: Spares,
    /// Whether acknowledged records are not covered by a later claim.
    pub(crate) unmarked: bool,
    pub(crate) last_sync: Duration,
    /// Buffers for their next use.
    pub(crate) idle: Work,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("segment", &self.current.sequence)
            .field("offset", &self.offset)
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl Writer {
    /// One round: takes everything queued, writes it, syncs once, calls back; or, when there is
    /// nothing queued, writes a mark that is due or tends the segments.
    ///
    /// # Errors
    /// Every error is fatal: all callbacks were called with an error, the journal refuses
    /// everything from now on, and the process must end.
    pub fn step(&mut self) -> Result<Step> {
        let Some((mut work, mark)) = self.take()? else {
            let tended = self.tend().map_err(|error| self.fail(None, error))?;
            if tended {
                return Ok(Step::Tended);
            }
            return Ok(Step::Idle { next: self.mark_due(&mut self.journal.lock()) });
        };
        if let Err(error) = self.write(&mut work, mark) {
            return Err(self.fail(Some(work), error));
        }
        let step = Step::Wrote { records: work.records.len(), bytes: work.bytes };
        self.finish(work, mark);
        let due = mark || self.last_sync >= self.witnessed_at + WITNESS_PERIOD;
        if due && self.witness.last().records != self.sequence {
            self.bear_witness().map_err(|error| self.fail(None, error))?;
        }
        self.tend().map_err(|error| self.fail(None, error))?;
        Ok(step)
    }

    /// Sleeps until there is something to do, at most for `timeout`.
    pub fn wait(&self, timeout: Duration) {
        let mut state = self.journal.lock();
        let due = self.mark_due(&mut state);
        if state.queue.urgent || state.poisoned.is_some() {
            return;
        }
        state.parked = true;
        self.journal.work().wait_for(&mut state, due.map_or(timeout, |due| due.min(timeout)));
        state.parked = false;
    }

    /// How long until a mark is due, if one is needed.
    fn mark_due(&self, state: &mut State) -> Option<Duration> {
        let needed = self.unmarked || state.has_work();
        state.looks_soon = needed;
        let due = self.last_sync + self.options.mark_delay;
        needed.then(|| due.saturating_sub(self.clock.monotonic()))
    }

    /// Takes what is queued if it is urgent or a mark is due; says whether to write a mark.
    fn take(&mut self) -> Result<Option<(Work, bool)>> {
        let now = self.clock.monotonic();
        let mut state = self.journal.lock();
        state.check()?;
        let due =
            (self.unmarked || state.has_work()) && now >= self.last_sync + self.options.mark_delay;
        let urgent = state.queue.urgent;
        if !urgent && !due {
            return Ok(None);
        }
        state.queue_committed();
        for group in std::mem::take(&mut state.verdicts) {
            // A group whose first record is among those taken now gets its line here.
            let fresh = Tail { group, last: 0, hit: true };
            self.tails.entry(group).or_insert(fresh).hit = true;
        }
        let work = state.queue.take(std::mem::take(&mut self.idle));
        state.writing_bytes = work.bytes;
        state.writing_largest = work.largest;
        Ok(Some((work, !urgent)))
    }

    fn write(&mut self, work: &mut Work, mark: bool) -> Result<()> {
        let mut from = 0;
        while from < work.records.len() {
            let room = self.current.bytes - self.offset;
            let count = fitting(work.records.get(from..).unwrap_or_default(), room);
            if count == 0 {
                self.rotate()?;
                continue;
            }
            self.write_records(work, from..from + count)?;
            from += count;
        }
        if mark {
            self.write_mark()?;
        }
        if holdfast_env::defect!(ACKNOWLEDGE_BEFORE_FSYNC) {
            let early = std::mem::take(work);
            self.finish(early, mark);
        }
        self.sync()?;
        if self.witness.last().newest != self.current.sequence {
            self.bear_witness()?;
        }
        Ok(())
    }

    /// Has the witness say what is there now.
    pub(crate) fn bear_witness(&mut self) -> Result<()> {
        assert_eq!(self.claim, self.number, "the witness speaks of what is durable");
        self.witness.say(self.oldest, self.current.sequence, self.sequence)?;
        self.witnessed_at = self.clock.monotonic();
        Ok(())
    }

    /// Tells the index, then the callers.
    fn finish(&mut self, mut work: Work, mark: bool) {
        let mut state = self.journal.lock();
        state.place(&work.records);
        state.durable = self.sequence;
        state.writing_bytes = 0;
        state.writing_largest = 0;
        state.current_room = self.current.bytes - self.offset;
        state.counters.records_written += work.records.len() as u64;
        drop(state);
        self.unmarked = !mark;
        for done in work.take_dones() {
            done(Ok(()));
        }
        work.clear();
        self.idle = work;
    }

    /// Poisons the journal and tells everybody who waits.
    fn fail(&mut self, work: Option<Work>, error: Error) -> Error {
        let reason = error.to_string();
        let mut state = self.journal.lock();
        state.poisoned.get_or_insert_with(|| reason.clone());
        let queued = state.queue.take(Work::default());
        drop(state);
        for mut work in work.into_iter().chain([queued]) {
            for done in work.take_dones() {
                done(Err(io::Error::other(reason.clone())));
            }
        }
        error
    }

    /// Makes everything written durable.
    pub(crate) fn sync(&mut self) -> Result<()> {
        let began = self.clock.monotonic();
        let mut synced = self.current.file.sync_data();
        if synced.is_err() && holdfast_env::defect!(FAILED_FSYNC_RETRIED) {
            synced = self.current.file.sync_data();
        }
        synced.at("sync", &self.current.path)?;
        self.claim = self.number;
        self.last_sync = self.clock.monotonic();
        self.journal.lock().counters.note_sync(self.last_sync.saturating_sub(began));
        Ok(())
    }

    /// Writes `range` of the records as one batch.
    fn write_records(&mut self, work: &mut Work, range: std::ops::Range<usize>) -> Result<()> {
        let mut at = self.offset + BATCH_HEADER_BYTES as u64;
        let body_start = at;
        let records = work.records.get_mut(range).unwrap_or_default();
        for record in records.iter_mut() {
            seal(&mut work.buffer, record, self.current.seed_at(at));
            let offset = u32::try_from(at).expect("segments are at most 1 GiB");
            record.place = Place { segment: self.current.sequence, offset };
            at += record.bytes;
            self.note_tail(record);
        }
        let header = BatchHeader {
            records: u32::try_from(records.len()).expect("a batch fits a segment"),
            ..self.header(BatchKind::Records, at - body_start)
        };
        self.write_batch(&header, slices_of(&work.buffer, records))
    }

    fn note_tail(&mut self, record: &Queued) {
        if record.kind == RecordKind::Destroyed {
            self.tails.remove(&record.group);
            return;
        }
        let fresh = Tail { group: record.group, last: 0, hit: false };
        self.tails.entry(record.group).or_insert(fresh).last = record.sequence;
    }

    /// Whether a mark fits the current segment.
    pub(crate) fn mark_fits(&self) -> bool {
        let body_bytes = (self.tails.len() * TAIL_BYTES) as u64;
        let start = self.offset.next_multiple_of(BLOCK_BYTES);
        start + batch_bytes(body_bytes) <= self.current.bytes
    }

    /// Covers everything durable, from another block than the last batch lies in.
    pub(crate) fn write_mark(&mut self) -> Result<()> {
        if !self.mark_fits() {
            // The next segment begins with a mark.
            return self.rotate();
        }
        let body = encode_tails(self.tails.values().copied());
        let start = self.offset.next_multiple_of(BLOCK_BYTES);
        if start > self.offset {
            // Zeros are really written: remains of torn batches below a claim would mislead.
            let gap = start - self.offset - BATCH_HEADER_BYTES as u64;
            let zeros = vec![0; usize::try_from(gap).expect("less than a block")];
            let filler = self.header(BatchKind::Filler, gap);
            self.write_batch(&filler, vec![IoSlice::new(&zeros)])?;
        }
        self.write_mark_here(&body)
    }

    /// Writes a mark right where the next batch goes.
    pub(crate) fn write_opening_mark(&mut self) -> Result<()> {
        let body = encode_tails(self.tails.values().copied());
        self.write_mark_here(&body)
    }

    fn write_mark_here(&mut self, body: &[u8]) -> Result<()> {
        assert_eq!(body.len(), self.tails.len() * TAIL_BYTES, "a line per group");
        let seed = self.current.seed_at(self.offset + BATCH_HEADER_BYTES as u64);
        let header = BatchHeader {
            body_checksum: body_checksum(body, seed),
            ..self.header(BatchKind::Mark, body.len() as u64)
        };
        self.write_batch(&header, vec![IoSlice::new(body)])?;
        self.journal.lock().counters.marks_written += 1;
        Ok(())
    }

    fn header(&self, kind: BatchKind, body_bytes: u64) -> BatchHeader {
        BatchHeader {
            kind,
            run: self.run,
            link: self.link,
            number: self.number,
            claim: self.claim,
            first_sequence: self.sequence,
            body_bytes: u32::try_from(body_bytes).expect("a batch fits a segment"),
            records: 0,
            body_checksum: 0,
            oldest: self.oldest,
        }
    }

    /// Writes a batch, padded. A block that it is the first to write to is written whole: into a
    /// part of a block the kernel can only write after it has read the rest from the disk.
    fn write_batch(&mut self, header: &BatchHeader, body: Vec<IoSlice<'_>>) -> Result<()> {
        let end = self.offset + header.batch_bytes();
        assert!(end <= self.current.bytes, "a batch fits its segment");
        let (head, link) = header.encode(self.current.seed_at(self.offset));
        let mut slices = Vec::with_capacity(body.len() + 2);
        slices.push(IoSlice::new(&head));
        slices.extend(body);
        let bytes: u64 = slices.iter().map(|slice| slice.len() as u64).sum();
        let padded = if end > self.covered { end.next_multiple_of(BLOCK_BYTES) } else { end };
        self.covered = self.covered.max(padded);
        let padding = padded - self.offset - bytes;
        let padding = usize::try_from(padding).expect("less than two blocks");
        slices.push(IoSlice::new(PADDING.get(..padding).unwrap_or_default()));
        let file = &self.current.file;
        file.write_all_vectored_at(&slices, self.offset).at("write", &self.current.path)?;
        self.spares.note_written(header.batch_bytes());
        self.offset = end;
        self.number += 1;
        self.link = link;
        self.sequence = header.end_sequence();
        let mut state = self.journal.lock();
        state.counters.batches_written += 1;
        state.counters.bytes_written += bytes + padding as u64;
        Ok(())
    }
}

/// How many of `records` fit in a batch of `room` bytes.
fn fitting(records: &[Queued], room: u64) -> usize {
    let mut body = 0;
    let fits = |record: &&Queued| {
        body += record.bytes;
        batch_bytes(body) <= room
    };
    records.iter().take_while(fits).count()
}

/// Fills in the checksum of a record that begins where `seed` says.
fn seal(buffer: &mut [u8], record: &Queued, seed: u64) {
    let length = match record.external {
        Some(_) => RECORD_HEADER_BYTES,
        None => record.checked_bytes,
    };
    let bytes = buffer.get_mut(record.start..record.start + length).unwrap_or_default();
    let sum = match &record.external {
        Some(payload) => checksum_in_two(seed, bytes, payload),
        None => checksum(seed, bytes),
    };
    if let Some(field) = bytes.first_chunk_mut() {
        *field = sum.to_le_bytes();
    }
}

/// The pieces of `records`, in order; what was copied is one piece up to the next payload that
/// was not.
fn slices_of<'a>(buffer: &'a [u8], records: &'a [Queued]) -> Vec<IoSlice<'a>> {
    let mut slices = Vec::new();
    let mut from = records.first().map_or(0, |record| record.start);
    let mut end = from;
    for record in records {
        end = record.start + usize::try_from(record.bytes).expect("a record fits in memory");
        let Some(payload) = &record.external else { continue };
        end -= payload.len();
        let upto = record.start + RECORD_HEADER_BYTES;
        slices.push(IoSlice::new(buffer.get(from..upto).unwrap_or_default()));
        slices.push(IoSlice::new(payload));
        from = upto;
    }
    slices.push(IoSlice::new(buffer.get(from..end).unwrap_or_default()));
    slices
}
