//! The durable engine of one replica: a log-structured merge tree without a log of its own.
//!
//! Owns: memtable, tables, manifest, block cache, compaction, snapshots.
//! Must never know: Raft, transactions, network, tokio.
//! Invariants:
//! * What a reader sees is what some published read point covers, whole batches only.
//! * Nothing becomes durable here before the journal is durable up to its gate.
//! * A version of a data key leaves only if a newer one at or below the watermark shadows it; a
//!   tombstone only below the watermark, with nothing older left under it.
//! * No reader waits for a flush, a compaction or a manifest write: all of them end in one
//!   pointer swap.
//! Source: O'Neil et al., The Log-Structured Merge-Tree; formats drawn in `table` and `manifest`.

mod engine;
mod error;
pub mod limits;
mod memtable;
mod options;
mod point;
mod read;
mod shared;
mod types;

pub use engine::{Durable, Engine};
pub use error::{Error, Result};
pub use options::{Compression, EngineOptions};
pub use read::Scan;
pub use shared::{Shared, SharedOptions};
pub use types::{Batch, Cached, Change, Changes, Family, ReadPoint, Record};
