//! The durable engine of one replica: a log-structured merge tree without a log of its own.
//!
//! Owns: memtable, tables, manifest, block cache, compaction, snapshots.
//! Must never know: Raft, transactions, network, tokio.
//! Invariants:
//! * What a reader sees is what some published read point covers, whole batches only.
//! * Nothing becomes durable here before the journal is durable up to its gate.
//! * A version of a data key leaves only if a newer one, or a range tombstone, at or below the
//!   watermark shadows it; a tombstone only below the watermark, with nothing older left under it.
//! * No reader waits for a flush, a compaction or a manifest write: all of them end in one
//!   pointer swap.
//!
//! Source: O'Neil et al., The Log-Structured Merge-Tree; formats drawn in `table` and `manifest`.

mod blob;
mod budget;
mod checksum;
mod codec;
mod engine;
mod error;
#[cfg(test)]
mod fuzz;
mod generation;
mod graveyard;
pub mod inspect;
mod jobs;
pub mod limits;
mod manifest;
mod memtable;
mod open;
mod options;
mod point;
mod prefetch;
mod read;
mod replace;
#[cfg(all(test, shuttle))]
mod schedules;
mod scrub;
mod shared;
mod sink;
mod snapshot;
mod span;
mod stats;
mod swap;
mod table;
mod tombstone;
mod tree;
mod types;
mod version;

pub use engine::Engine;
pub use error::{Error, Result};
pub use jobs::{Job, JobKind};
pub use options::{CompactionStyle, Compression, EngineOptions, ExpiresAt};
pub use read::Scan;
pub use replace::{Completed, Staging, Verified};
pub use scrub::{Scrubbed, Scrubber};
pub use shared::{Shared, SharedOptions, SharedStats};
pub use snapshot::{FileCheck, Snapshot, SnapshotFile};
pub use span::Owns;
pub use stats::{Pressure, Stats};
pub use tree::Durable;
pub use types::{Batch, Cached, Change, Changes, Family, RangeDeletion, ReadPoint, Record};
