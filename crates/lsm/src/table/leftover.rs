//! What a table leaves in the block cache.
//!
//! Its blocks would stay there until others push them out: dead weight of the size of everything
//! compactions rewrite, in place of what somebody reads.

use std::sync::OnceLock;

use crate::shared::{BlockKey, Shared};
use crate::table::partition::KeptPartition;
use crate::table::top::Top;

/// The places of the blocks of a table that is gone.
#[derive(Debug)]
pub(crate) struct Leftover {
    pub(super) opened_as: u64,
    pub(super) top: Top,
    pub(super) kept: Box<[OnceLock<KeptPartition>]>,
}

impl Leftover {
    /// Takes all of it out of the cache. Cost: a look at the cache for every block of the table.
    ///
    /// Blocks of a partition that is not in memory are left to age; hardly any are there.
    pub(crate) fn uncache(&self, shared: &Shared) {
        let key = |offset| BlockKey { opened_as: self.opened_as, offset };
        for part in 0..self.top.len() {
            let Some((handle, _)) = self.top.entry(part) else { continue };
            let kept = self.kept.get(part).and_then(OnceLock::get);
            let kept = kept.map(|kept| kept.partition().clone());
            let cached = || shared.take_partition(&key(handle.offset));
            let Some(partition) = kept.or_else(cached) else { continue };
            for (handle, _) in partition.blocks().filter_map(|number| partition.block(number)) {
                shared.uncache(&key(handle.offset));
            }
        }
    }
}
