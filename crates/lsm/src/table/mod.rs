//! Sorted, immutable files of records.
//!
//! Owns: the table file: blocks, index, filter, properties, footer; reading and writing it.
//! Must never know: levels, the manifest, what keys mean.
//! Invariants:
//! * Records are sorted by family, key, then sequence number descending; a block holds one family.
//! * Every byte of the file is covered by a checksum seeded with the birth id and its offset.
//! * A length read from the file is checked against a bound before memory is allocated for it.
//! Source: LevelDB's table format; Putze et al., Cache-, Hash- and Space-Efficient Bloom Filters.
//!
//! ```text
//! offset 0   data blocks            all of a family before the next family
//!            partition blocks       index and filter of a run of data blocks   (`partition.rs`)
//!            top block              one entry per partition                    (`top.rs`)
//!            properties block       ranges and counts                          (`properties.rs`)
//! end − 72   footer                                                            (`format.rs`)
//! ```
//! Every block is followed by a trailer with its checksum (`format.rs`).
//!
//! One index and one filter for the whole file are simplest, and best for small files. Those of a
//! large file would hold memory for data nobody asks for, and to open it would mean to read them
//! all. So both are cut into partitions that are read when they are needed and leave the cache
//! when they are not; the partitions of a small file are simply kept.

mod block;
mod builder;
mod cursor;
mod expiry;
mod fence;
mod filter;
mod format;
#[cfg(test)]
pub(crate) mod fuzz;
mod index;
mod inspect;
mod leftover;
mod level;
mod partition;
mod parts;
mod properties;
mod reader;
mod tombstones;
mod top;
mod walk;
mod writer;

pub(crate) use block::Stored;
pub(crate) use cursor::{LevelSource, SeqRange, TableSource};
pub(crate) use filter::key_hash;
pub(crate) use format::{Handle, store_block};
pub(crate) use inspect::inspect;
pub(crate) use leftover::Leftover;
pub(crate) use level::LevelMap;
pub(crate) use partition::Partition;
pub(crate) use parts::{missing_is_corrupt, read_block, verify_file};
pub(crate) use properties::{FamilyKey, FamilyProperties, Properties};
pub(crate) use reader::{Cold, Fill, Home, Lookup, Spot, Table};
pub(crate) use tombstones::PIECES_MAX;
pub(crate) use writer::{FileDescriptor, TableWriter, WriterOptions, Written};
