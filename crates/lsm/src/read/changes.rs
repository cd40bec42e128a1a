//! Changes of the data family in the order they were made, in bounded memory.

use std::collections::BTreeMap;

use bytes::Bytes;
use holdfast_model::Revision;

use crate::error::Result;
use crate::read::source::Source;
use crate::table::Stored;
use crate::tombstone::RangeTombstone;
use crate::types::{Change, Changes, RangeDeletion};

/// Bookkeeping per collected change, bytes.
const CHANGE_OVERHEAD_BYTES: usize = 128;
/// Values from this size on share the memory they were read into, bytes.
const SHARE_BYTES_MIN: usize = 4 * 1024;

/// Collects what `sources` hold of revisions in `(since, upto]`.
///
/// Tables are in key order, so every source is read to its end; memory stays bounded because the
/// newest revisions are given up whenever more than `bytes_max` is held. At least one revision
/// is always kept, whatever its size.
pub(crate) fn collect_changes(
    sources: Vec<Source>,
    ranges: Vec<RangeTombstone>,
    since: Revision,
    upto: Revision,
    bytes_max: usize,
) -> Result<Changes> {
    let mut kept = Kept { upto: upto.0, ..Kept::default() };
    // Oldest first: once memory is full, newer revisions are passed over without a copy.
    for mut source in sources.into_iter().rev() {
        while source.is_valid() {
            if source.seq() > since.0 && source.seq() <= kept.upto {
                kept.add(&source, bytes_max)?;
            }
            source.advance()?;
        }
    }
    let changes = kept.changes.into_values().collect();
    let range_deletions = join(ranges, kept.upto);
    Ok(Changes { changes, range_deletions, complete_to: Revision(kept.upto) })
}

/// Deletions of revisions up to `upto` out of their pieces: tables hold them cut.
fn join(mut pieces: Vec<RangeTombstone>, upto: u64) -> Vec<RangeDeletion> {
    pieces.retain(|piece| piece.seq <= upto);
    pieces.sort_unstable_by(|a, b| (a.stamp(), &a.start).cmp(&(b.stamp(), &b.start)));
    let mut whole: Vec<RangeDeletion> = Vec::with_capacity(pieces.len());
    for RangeTombstone { start, end, seq, ordinal } in pieces {
        let revision = Revision(seq);
        match whole.last_mut() {
            Some(last)
                if (last.revision, last.ordinal) == (revision, ordinal) && last.end >= start =>
            {
                last.end = end.max(last.end.clone());
            }
            _ => whole.push(RangeDeletion { revision, ordinal, start, end }),
        }
    }
    whole
}

#[derive(Default)]
struct Kept {
    changes: BTreeMap<(u64, u32, Bytes), Change>,
    bytes: usize,
    upto: u64,
}

impl Kept {
    fn add(&mut self, source: &Source, bytes_max: usize) -> Result<()> {
        let key = Bytes::copy_from_slice(source.key());
        let value = owned_value(source)?;
        self.bytes += cost(&key, value.as_ref());
        let (revision, ordinal) = (source.seq(), source.ordinal());
        let change = Change { revision: Revision(revision), ordinal, key: key.clone(), value };
        self.changes.insert((revision, ordinal, key), change);
        while self.bytes > bytes_max && self.give_up_newest() {}
        Ok(())
    }

    /// Drops all of the newest revision held, unless it is the only one.
    fn give_up_newest(&mut self) -> bool {
        let (Some(first), Some(last)) = (self.changes.keys().next(), self.changes.keys().last())
        else {
            return false;
        };
        let newest = last.0;
        if first.0 == newest {
            return false;
        }
        for change in self.changes.split_off(&(newest, 0, Bytes::new())).into_values() {
            self.bytes -= cost(&change.key, change.value.as_ref());
        }
        self.upto = newest - 1;
        true
    }
}

/// The value; a small one is copied, so that it does not hold on to a whole block.
fn owned_value(source: &Source) -> Result<Option<Bytes>> {
    match source.stored()? {
        Stored::Inline(value) if value.len() < SHARE_BYTES_MIN => {
            Ok(Some(Bytes::copy_from_slice(value)))
        }
        _ => source.value_bytes(),
    }
}

fn cost(key: &Bytes, value: Option<&Bytes>) -> usize {
    key.len() + value.map_or(0, Bytes::len) + CHANGE_OVERHEAD_BYTES
}
