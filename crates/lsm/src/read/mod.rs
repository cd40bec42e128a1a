//! Reading many records: sources in key order, their merge, scans and changes.

mod changes;
mod merge;
mod multi;
mod scan;
mod source;

pub(crate) use changes::collect_changes;
pub(crate) use merge::Merge;
pub(crate) use multi::get_many;
pub(crate) use scan::KeyRange;
pub use scan::Scan;
pub(crate) use source::{Direction, MemorySource, Source};
