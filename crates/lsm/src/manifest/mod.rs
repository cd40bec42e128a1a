//! Which tables make up the tree: an append-only log of edits per generation.
//!
//! Owns: the manifest file, the `CURRENT` file, what an edit means.
//! Must never know: what is in a table.
//! Invariants:
//! * An edit is synced before anybody acts on it; the next one is written only after that. So at
//!   most the last edit can be torn, and a damaged edit with a good one behind it is corruption.
//! * The first record is a base that needs nothing before it.
//! * After a failed write or sync of unknown effect nothing more is written.
//! * What an open finds, and the names it finds it by, are made durable again before anything rests
//!   on them: after a failed sync the page cache shows what is not on the disk.
//! * Read points and floors never go back.
//! A damaged *last* edit cannot be told from a torn one; the journal can: it knows up to which
//! entry it was purged, and that is never beyond the engine's durable point.

mod current;
mod edit;
mod log;

#[cfg(test)]
pub(crate) use current::decode as decode_current;
pub(crate) use current::{read_current, write_current};
pub(crate) use edit::{Edit, LeveledTable};
pub(crate) use log::{ManifestLog, edits_of, encode_manifest, read_manifest};
