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
//!            index block            one entry per data block     (`index.rs`)
//!            filter block           blocked Bloom filter         (`filter.rs`)
//!            properties block       ranges and counts            (`properties.rs`)
//! end − 88   footer                                              (`format.rs`)
//! ```
//! Every block is followed by a trailer with its checksum (`format.rs`).

mod block;
mod builder;
mod cursor;
mod filter;
mod format;
mod index;
mod properties;
mod reader;
mod walk;
mod writer;

pub(crate) use block::Block;
pub(crate) use cursor::{LevelSource, SeqRange, TableSource};
pub(crate) use filter::key_hash;
pub(crate) use properties::{FamilyKey, FamilyProperties, Properties};
pub(crate) use reader::{Fill, Home, Lookup, Table, verify_file};
pub(crate) use writer::{TableDescriptor, TableWriter, WriterOptions};
