//! Records that wait for the writer.
//!
//! Owns: encoded records, their callbacks, the numbering of records.
//! Must never know: where records will lie.
//! Invariants:
//! * Records are written in the order they were queued; sequence numbers have no gaps.
//! * Of the callbacks for appended entries only the newest of each group is kept.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;

use crate::group::{GroupId, LogPosition};
use crate::ledger::Place;
use crate::record::{RECORD_HEADER_BYTES, RecordHeader, RecordKind, record_bytes};

/// Called once, without locks held, when what it was given with is durable or will never be.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Payloads from this size on are written from where they are instead of being copied.
const EXTERNAL_BYTES_MIN: usize = 16 * 1024;
/// A buffer that grew beyond this is given back after use.
const BUFFER_BYTES_KEPT_MAX: usize = 8 * 1024 * 1024;

/// A record that waits, or is being written.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) group: GroupId,
    pub(crate) kind: RecordKind,
    pub(crate) sequence: u64,
    /// The sequence number the index knows it by until it is written.
    pub(crate) replaced: u64,
    pub(crate) index: u64,
    /// Start of header (and payload, if it was copied) in the buffer.
    pub(crate) start: usize,
    /// Bytes of header and payload; what follows up to `bytes` is padding.
    pub(crate) checked_bytes: usize,
    pub(crate) external: Option<Bytes>,
    /// What it takes in the segment.
    pub(crate) bytes: u64,
    pub(crate) place: Place,
}

/// What the writer takes at once.
#[derive(Default)]
pub(crate) struct Work {
    pub(crate) buffer: Vec<u8>,
    pub(crate) records: Vec<Queued>,
    pub(crate) bytes: u64,
    /// The longest of the records.
    pub(crate) largest: u64,
    dones: Vec<Done>,
    appended: BTreeMap<GroupId, Done>,
}

impl Work {
    /// Takes the callbacks out, in the order they are to be called.
    pub(crate) fn take_dones(&mut self) -> Vec<Done> {
        let mut dones = std::mem::take(&mut self.dones);
        dones.extend(std::mem::take(&mut self.appended).into_values());
        dones
    }

    /// Makes it ready for its next use.
    pub(crate) fn clear(&mut self) {
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_BYTES_KEPT_MAX);
        self.records.clear();
        self.bytes = 0;
        self.largest = 0;
    }
}

/// What a record is made from.
pub(crate) struct Draft {
    pub(crate) kind: RecordKind,
    pub(crate) group: GroupId,
    pub(crate) position: LogPosition,
    pub(crate) payload: Bytes,
    /// `None` for what is written first, else the sequence number of the record it moves.
    pub(crate) moves: Option<u64>,
}

/// The queue. It has no bound of its own: entries are admitted by the journal against its room,
/// the rest is bounded by the number of groups.
#[derive(Default)]
pub(crate) struct Queue {
    work: Work,
    /// Sequence number of the next record.
    pub(crate) next_sequence: u64,
    /// Whether somebody waits for what is queued.
    pub(crate) urgent: bool,
}

impl Queue {
    /// An empty queue that numbers from `next_sequence` on.
    pub(crate) fn starting_at(next_sequence: u64) -> Self {
        Self { next_sequence, ..Self::default() }
    }

    /// Queues a record; `previous` is the group's last one and becomes this one.
    pub(crate) fn push(&mut self, draft: Draft, previous: &mut u64) -> u64 {
        let payload_bytes = draft.payload.len();
        let header = RecordHeader {
            kind: draft.kind,
            rewritten: draft.moves.is_some(),
            group: draft.group,
            previous: *previous,
            position: draft.position,
            payload_bytes: u32::try_from(payload_bytes).expect("payload sizes are checked before"),
        };
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        *previous = sequence;
        let external = payload_bytes >= EXTERNAL_BYTES_MIN;
        let bytes = record_bytes(payload_bytes);
        let work = &mut self.work;
        let start = work.buffer.len();
        work.buffer.extend_from_slice(&header.encode());
        if !external {
            work.buffer.extend_from_slice(&draft.payload);
        }
        let inline = bytes - if external { payload_bytes } else { 0 };
        work.buffer.resize(start + inline, 0);
        work.bytes += bytes as u64;
        work.largest = work.largest.max(bytes as u64);
        work.records.push(Queued {
            group: draft.group,
            kind: draft.kind,
            sequence,
            replaced: draft.moves.unwrap_or(sequence),
            index: draft.position.index,
            start,
            checked_bytes: RECORD_HEADER_BYTES + payload_bytes,
            external: external.then_some(draft.payload),
            bytes: bytes as u64,
            place: Place::default(),
        });
        sequence
    }

    /// Adds the callback of appended entries; the one it outdates is to be dropped by the caller
    /// without locks held.
    pub(crate) fn appended(&mut self, group: GroupId, done: Done) -> Option<Done> {
        self.work.appended.insert(group, done)
    }

    /// Adds a callback that is called in any case.
    pub(crate) fn done(&mut self, done: Done) {
        self.work.dones.push(done);
    }

    /// Bytes queued.
    pub(crate) fn bytes(&self) -> u64 {
        self.work.bytes
    }

    /// The longest record queued.
    pub(crate) fn largest(&self) -> u64 {
        self.work.largest
    }

    /// Whether nothing is queued.
    pub(crate) fn is_empty(&self) -> bool {
        self.work.records.is_empty()
    }

    /// Exchanges what is queued for `empty`.
    pub(crate) fn take(&mut self, empty: Work) -> Work {
        self.urgent = false;
        std::mem::replace(&mut self.work, empty)
    }
}
