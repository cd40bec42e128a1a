//! One append-only log for all groups of a node.
//!
//! Owns: record format, segments, group commit, recovery, space reclaim.
//! Must never know: openraft types, what an entry says, tokio.
//! Invariants:
//! * Entry indexes of a group have no gaps.
//! * A callback is called with `Ok` only after one `fdatasync` covered what it was given with,
//!   and everything queued before it.
//! * A segment is used again only when nothing in it is needed, which is durable itself.
//! * A segment that is needed and not there is missed, whichever it is.
//! * A failed write or sync poisons the journal; nothing is tried twice.
//!
//! Source: Raft thesis §3.8 and §11; formats drawn in `record.rs`, `batch.rs`, `segment.rs`,
//! `witness.rs`.
//!
//! # The way of an entry
//!
//! [`Journal::append`] encodes it into a shared buffer and puts it into the group's index, under
//! one short lock; from then on it can be read. The [`Writer`] takes everything that queued while
//! its last sync ran, fills in checksums (they depend on the place), and writes it as one batch
//! with one vectored write and one `fdatasync`. Then it tells the index where the records lie and
//! calls the callbacks. No timer fills a batch: what queues during a sync is the next one.
//!
//! # Who runs it
//!
//! The crate owns no thread. [`Writer::step`] does one round; production calls it in a loop on a
//! thread of its own and sleeps in [`Writer::wait`], simulation calls it from a task that
//! [`Journal::set_wake`] wakes. One process opens a directory at a time: the caller sees to that.

mod batch;
mod bytes_at;
mod entries;
mod error;
#[cfg(test)]
mod fuzz;
mod group;
mod inspect;
mod journal;
mod ledger;
mod options;
mod queue;
mod read;
mod record;
mod recovery;
mod replay;
mod scan;
#[cfg(all(test, shuttle))]
mod schedules;
mod segment;
mod space;
mod state;
mod stats;
mod walk;
mod witness;
mod writer;

pub use batch::{BatchKind, Tail};
pub use error::{Error, Result};
pub use group::{Entry, GroupId, LogPosition, LogState};
pub use inspect::{
    InspectedBatch, InspectedJournal, InspectedRecord, InspectedSegment, SegmentInspector,
    inspect_directory,
};
pub use journal::Journal;
pub use options::{
    CLIENT_USAGE_PERCENT_MAX, DESCRIPTOR_BYTES_MAX, JournalOptions, SEGMENT_BYTES_MAX,
    SEGMENT_BYTES_MIN, SEGMENTS_MIN, VOTE_BYTES_MAX,
};
pub use queue::Done;
pub use record::RecordKind;
pub use recovery::{RecoveredGroup, Recovery};
pub use segment::SegmentHeader;
pub use stats::{SYNC_TIMES, Stats, SyncTimes};
pub use witness::Testimony;
pub use writer::{Step, Writer};
