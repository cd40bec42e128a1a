//! Which records survive a flush or a compaction.
//!
//! Data: every version above the watermark; of the rest the newest of each key, because readers at
//! the watermark see it. If that one is a tombstone below the watermark with nothing older beneath
//! it, it goes too; one exactly at the watermark stays, it is the change of that revision.
//! What a range tombstone at or below the watermark hides goes; of other families, whatever one
//! hides.
//! Keys that left the tree with a part of its span: nothing.
//! Other families: the newest of each key; a tombstone only while something older lies beneath.

use std::sync::Arc;

use crate::span::SpanFilter;
use crate::tombstone::{Fragments, Stamp};
use crate::types::Family;

/// Judges records that come sorted by family, key and descending sequence number.
pub(crate) struct Retain {
    watermark: u64,
    family: Option<Family>,
    key: Vec<u8>,
    span: Option<Arc<SpanFilter>>,
    /// Range tombstones of the family, of which those at or below its watermark count.
    ranges: Fragments,
    /// Whether the key is not the tree's own any more.
    is_foreign: bool,
    /// Whether a newer version of the key already serves everybody who may still read.
    is_covered: bool,
}

impl Retain {
    pub(crate) fn new(watermark: u64, span: Option<Arc<SpanFilter>>) -> Self {
        let (family, key) = (None, Vec::new());
        let ranges = Fragments::default();
        Self { watermark, family, key, span, ranges, is_foreign: false, is_covered: false }
    }

    /// Up to which sequence number nobody reads anything but the newest of `family`.
    pub(crate) fn watermark(&self, family: Family) -> u64 {
        if family.keeps_versions() { self.watermark } else { u64::MAX }
    }

    /// Obeys these range tombstones; they are those of the family whose records come next.
    pub(crate) fn obey(&mut self, ranges: &Fragments) {
        self.ranges.clone_from(ranges);
    }

    /// Whether the record stays. `older_below` tells whether an older version of the key may lie
    /// in deeper levels; it is asked only about tombstones.
    pub(crate) fn keeps(
        &mut self,
        family: Family,
        key: &[u8],
        (seq, ordinal): Stamp,
        is_tombstone: bool,
        older_below: impl FnOnce() -> bool,
    ) -> bool {
        if self.family != Some(family) || self.key != key {
            self.family = Some(family);
            self.key.clear();
            self.key.extend_from_slice(key);
            self.is_covered = false;
            let span = self.span.as_ref().filter(|_| family == Family::Data);
            self.is_foreign = span.is_some_and(|span| !(span.owns)(key));
        }
        let watermark = self.watermark(family);
        // What is exactly at the watermark is a change somebody may still ask for.
        let is_hidden = seq < watermark && self.ranges.hides(key, (seq, ordinal), watermark);
        if self.is_covered || self.is_foreign || is_hidden {
            return false;
        }
        let older_below = || older_below() && !holdfast_env::defect!(TOMBSTONE_DROPPED_EARLY);
        if !family.keeps_versions() {
            self.is_covered = true;
            return !is_tombstone || older_below();
        }
        self.is_covered = seq <= self.watermark;
        let may_go = is_tombstone && seq < self.watermark;
        !may_go || older_below()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tombstone::RangeTombstone;

    fn kept(watermark: u64, versions: &[(u64, bool)], older_below: bool) -> Vec<u64> {
        let mut retain = Retain::new(watermark, None);
        let keeps = |(seq, tombstone): &&(u64, bool)| {
            retain.keeps(Family::Data, b"k", (*seq, 0), *tombstone, || older_below)
        };
        versions.iter().filter(keeps).map(|(seq, _)| *seq).collect()
    }

    #[test]
    fn versions_above_the_watermark_and_the_newest_at_it_stay() {
        let versions = [(9, false), (7, false), (5, false), (3, false)];
        assert_eq!(kept(0, &versions, false), [9, 7, 5, 3]);
        assert_eq!(kept(6, &versions, false), [9, 7, 5]);
        assert_eq!(kept(7, &versions, false), [9, 7]);
        assert_eq!(kept(100, &versions, false), [9]);
    }

    #[test]
    fn keys_outside_the_span_go_in_the_data_family_alone() {
        let owns: crate::span::Owns = Arc::new(|key| key < &b"m"[..]);
        let since = holdfast_model::LogIndex(1);
        let mut retain = Retain::new(0, Some(Arc::new(SpanFilter { epoch: 1, since, owns })));
        let mut keeps = |family, key: &[u8]| retain.keeps(family, key, (5, 0), false, || true);
        assert!(keeps(Family::Data, b"a") && !keeps(Family::Data, b"n"));
        assert!(keeps(Family::Lock, b"n"));
    }

    #[test]
    fn tombstone_goes_only_below_the_watermark_with_nothing_beneath() {
        let versions = [(9, false), (5, true), (3, false)];
        assert_eq!(kept(4, &versions, false), [9, 5, 3]);
        assert_eq!(kept(5, &versions, false), [9, 5], "one exactly at the watermark stays");
        assert_eq!(kept(6, &versions, false), [9]);
        assert_eq!(kept(6, &versions, true), [9, 5], "it still hides what lies deeper");
    }

    #[test]
    fn range_tombstone_takes_what_it_hides_once_the_watermark_has_reached_it() {
        let range = RangeTombstone { start: "a".into(), end: "m".into(), seq: 6, ordinal: 2 };
        let kept = |watermark, family, key: &[u8]| {
            let mut retain = Retain::new(watermark, None);
            retain.obey(&Fragments::of(vec![range.clone()], retain.watermark(family)));
            let stamps = [(9, 0), (6, 2), (6, 1), (3, 0)];
            let mut keeps = |s: &&Stamp| retain.keeps(family, key, **s, false, || true);
            stamps.iter().filter(&mut keeps).copied().collect::<Vec<_>>()
        };
        assert_eq!(kept(5, Family::Data, b"k"), [(9, 0), (6, 2), (6, 1), (3, 0)]);
        assert_eq!(kept(6, Family::Data, b"k"), [(9, 0), (6, 2)], "a key has one of a revision");
        assert_eq!(kept(7, Family::Data, b"k"), [(9, 0), (6, 2)]);
        assert_eq!(kept(5, Family::Data, b"m"), [(9, 0), (6, 2), (6, 1), (3, 0)]);
        assert_eq!(kept(0, Family::Lease, b"k"), [(9, 0)], "the newest alone");
    }
}
