//! Deleting all keys of an interval at once.
//!
//! A range tombstone `[start, end)` hides every record of its family whose key lies in it and
//! which is older. A record and a range tombstone of one sequence number are ordered by their
//! ordinals; of two equal ones the record counts as the later. So a batch may clear an interval
//! with ordinal 0 and fill it again with ordinal 0. Range tombstones are visible at a read point
//! exactly like the record of a deletion: if their sequence number is covered.
//!
//! Invariants:
//! * Pieces of one list have the same bounds or do not overlap: they are cut at every bound of
//!   every tombstone. So what covers a key is found by one binary search.
//! * What hides a record lies in the same source as the record or in a newer one, never in an older
//!   one: tables are bounded by their range tombstones, too, and are merged by these bounds. A
//!   read that meets a tombstone in a source needs to look no further down.
//!
//! Source: RocksDB's DeleteRange and Pebble's range deletions (fragmented at write).

use std::cmp::Reverse;
use std::collections::BTreeMap;

use bytes::Bytes;

/// Sequence number and ordinal: what is older is smaller.
pub(crate) type Stamp = (u64, u32);

/// A range deletion, or a piece of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RangeTombstone {
    pub(crate) start: Bytes,
    /// The first key behind it.
    pub(crate) end: Bytes,
    pub(crate) seq: u64,
    pub(crate) ordinal: u32,
}

impl RangeTombstone {
    pub(crate) fn stamp(&self) -> Stamp {
        (self.seq, self.ordinal)
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        self.start.as_ref() <= key && key < self.end.as_ref()
    }

    /// Whether it has keys from `lower` (inclusive) to `upper` (exclusive); `None` is no bound.
    pub(crate) fn touches(&self, lower: Option<&[u8]>, upper: Option<&[u8]>) -> bool {
        lower.is_none_or(|lower| lower < self.end.as_ref())
            && upper.is_none_or(|upper| self.start.as_ref() < upper)
    }

    /// The part of it from `lower` up to `upper`, if it has one; `None` is no bound.
    pub(crate) fn within(&self, lower: Option<&Bytes>, upper: Option<&Bytes>) -> Option<Self> {
        let start = lower.map_or(&self.start, |lower| lower.max(&self.start)).clone();
        let end = upper.map_or(&self.end, |upper| upper.min(&self.end)).clone();
        (start < end).then_some(Self { start, end, ..*self })
    }

    /// The largest key it may contain: exact if `end` is the successor of a key, else `end`.
    pub(crate) fn largest(&self) -> Bytes {
        match self.end.split_last() {
            Some((0, rest)) => self.end.slice(..rest.len()),
            _ => self.end.clone(),
        }
    }

    /// Memory and file bytes it takes, roughly.
    pub(crate) fn bytes(&self) -> usize {
        self.start.len() + self.end.len() + size_of::<Self>()
    }
}

/// The smallest key greater than `key`.
pub(crate) fn successor(key: &[u8]) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}

/// Pieces sorted by their start; of equal bounds the newest first. See the module's invariants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fragments {
    pieces: Vec<RangeTombstone>,
    /// Whether some that others hide were left out.
    is_thinned: bool,
}

impl Fragments {
    /// Cuts tombstones into pieces. Of those that cover a key, the ones at or above `watermark` are
    /// kept, which are changes somebody may ask for, and the newest below it unless one is exactly
    /// at it: that one hides from everybody what the others hide.
    pub(crate) fn of(mut tombstones: Vec<RangeTombstone>, watermark: u64) -> Self {
        let mut edges: Vec<Bytes> =
            tombstones.iter().flat_map(|t| [t.start.clone(), t.end.clone()]).collect();
        edges.sort_unstable();
        edges.dedup();
        tombstones.sort_unstable_by(|a, b| a.start.cmp(&b.start));
        let mut coming = tombstones.into_iter().peekable();
        let mut open: BTreeMap<Reverse<Stamp>, Bytes> = BTreeMap::new();
        let mut cut = Self::default();
        for edge in edges.windows(2) {
            let [start, end] = edge else { continue };
            open.retain(|_, until| *until > *start);
            while let Some(t) = coming.next_if(|t| t.start <= *start) {
                let until = open.entry(Reverse(t.stamp())).or_default();
                *until = t.end.clone().max(until.clone());
            }
            cut.push_group(start, end, open.keys().map(|stamp| stamp.0), watermark);
        }
        cut
    }

    /// Pieces that are cut already, as they are stored; `None` if they are not in order.
    pub(crate) fn from_sorted(pieces: Vec<RangeTombstone>) -> Option<Self> {
        let in_order = pieces.windows(2).all(|pair| match pair {
            [a, b] if a.start == b.start => a.end == b.end && a.stamp() > b.stamp(),
            [a, b] => a.end <= b.start,
            _ => true,
        });
        let is_sound = in_order && pieces.iter().all(|p| p.start < p.end);
        is_sound.then_some(Self { pieces, is_thinned: false })
    }

    /// Adds the pieces from `start` to `end`, or makes the last ones longer if they are the same.
    fn push_group(
        &mut self,
        start: &Bytes,
        end: &Bytes,
        stamps: impl Iterator<Item = Stamp>,
        watermark: u64,
    ) {
        let mut kept: Vec<Stamp> = Vec::new();
        for stamp in stamps {
            let is_hidden = kept.last().is_some_and(|newer| newer.0 <= watermark);
            if is_hidden && stamp.0 < watermark {
                self.is_thinned = true;
                break;
            }
            kept.push(stamp);
        }
        let first = self.pieces.len() - self.last_group().count();
        let last = self.pieces.get_mut(first..).unwrap_or_default();
        let goes_on = last.first().is_some_and(|p| p.end == *start)
            && last.iter().map(RangeTombstone::stamp).eq(kept.iter().copied());
        if goes_on {
            last.iter_mut().for_each(|piece| piece.end = end.clone());
            return;
        }
        self.pieces.extend(kept.into_iter().map(|(seq, ordinal)| RangeTombstone {
            start: start.clone(),
            end: end.clone(),
            seq,
            ordinal,
        }));
    }

    /// The last pieces with the same bounds.
    fn last_group(&self) -> impl Iterator<Item = &RangeTombstone> {
        let start = self.pieces.last().map(|last| &last.start);
        self.pieces.iter().rev().take_while(move |p| Some(&p.start) == start)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Whether some were left out when they were cut: who reads below the watermark misses them.
    pub(crate) fn is_thinned(&self) -> bool {
        self.is_thinned
    }

    pub(crate) fn pieces(&self) -> &[RangeTombstone] {
        &self.pieces
    }

    /// Those pieces for which `keeps` is true.
    pub(crate) fn keeping(mut self, keeps: impl FnMut(&RangeTombstone) -> bool) -> Self {
        self.pieces.retain(keeps);
        self
    }

    pub(crate) fn into_pieces(self) -> Vec<RangeTombstone> {
        self.pieces
    }

    /// Memory held, bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.pieces.iter().map(RangeTombstone::bytes).sum()
    }

    /// The newest that covers `key` with a sequence number of at most `seq_max`.
    pub(crate) fn covering(&self, key: &[u8], seq_max: u64) -> Option<Stamp> {
        let behind = self.pieces.partition_point(|p| p.start.as_ref() <= key);
        let last = self.pieces.get(behind.checked_sub(1)?)?;
        if key >= last.end.as_ref() {
            return None;
        }
        let first = self.pieces.partition_point(|p| p.start < last.start);
        let group = self.pieces.get(first..behind)?;
        group.iter().find(|p| p.seq <= seq_max).map(RangeTombstone::stamp)
    }

    /// How much of what lies from `first` to `last` is covered, in thousandths: as if keys were
    /// spread evenly over the first eight bytes in which the two differ.
    pub(crate) fn share_milli(&self, first: &[u8], last: &[u8]) -> u64 {
        let common = first.iter().zip(last).take_while(|(a, b)| a == b).count();
        let place = |key: &[u8]| {
            let within = key.max(first).min(last);
            let mut head = [0; 8];
            let rest = within.iter().skip(common);
            head.iter_mut().zip(rest).for_each(|(slot, byte)| *slot = *byte);
            u64::from_be_bytes(head)
        };
        let whole = place(last).saturating_sub(place(first)).max(1);
        let begin = self.pieces.partition_point(|p| p.end.as_ref() <= first);
        let behind = self.pieces.partition_point(|p| p.start.as_ref() <= last);
        let touching = self.pieces.get(begin..behind).unwrap_or_default();
        let mut covered = 0u64;
        for (at, piece) in touching.iter().enumerate() {
            let is_repeated = at
                .checked_sub(1)
                .and_then(|i| touching.get(i))
                .is_some_and(|b| b.start == piece.start);
            if piece.contains(first) && piece.contains(last) {
                return 1_000;
            }
            if !is_repeated {
                covered =
                    covered.saturating_add(place(&piece.end).saturating_sub(place(&piece.start)));
            }
        }
        let milli = u128::from(covered.min(whole)) * 1_000 / u128::from(whole);
        u64::try_from(milli).unwrap_or(1_000)
    }

    /// Whether a record with this key and stamp is hidden from readers at `seq_max`.
    pub(crate) fn hides(&self, key: &[u8], stamp: Stamp, seq_max: u64) -> bool {
        !self.is_empty() && self.covering(key, seq_max).is_some_and(|newest| newest > stamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tombstone(start: &str, end: &str, seq: u64) -> RangeTombstone {
        let (start, end) = (Bytes::from(start.to_owned()), Bytes::from(end.to_owned()));
        RangeTombstone { start, end, seq, ordinal: 0 }
    }

    fn shown(fragments: &Fragments) -> String {
        let one = |p: &RangeTombstone| {
            let text = |key: &Bytes| String::from_utf8_lossy(key).into_owned();
            format!("{}-{}@{}", text(&p.start), text(&p.end), p.seq)
        };
        fragments.pieces().iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn overlapping_tombstones_are_cut_at_every_bound_and_joined_where_nothing_differs() {
        let raw = || vec![tombstone("b", "f", 5), tombstone("d", "h", 9), tombstone("h", "k", 9)];
        assert_eq!(shown(&Fragments::of(raw(), 0)), "b-d@5 d-f@9 d-f@5 f-k@9");
        assert_eq!(shown(&Fragments::of(raw(), 9)), "b-d@5 d-k@9");
        assert_eq!(shown(&Fragments::of(raw(), 5)), "b-d@5 d-f@9 d-f@5 f-k@9");
        assert!(Fragments::of(raw(), 9).is_thinned() && !Fragments::of(raw(), 5).is_thinned());
        assert!(Fragments::of(Vec::new(), 0).is_empty());
    }

    #[test]
    fn fragments_cover_what_the_tombstones_cover_at_every_sequence_number() {
        let key = |n: u64| char::from(b'a' + (n % 12) as u8).to_string();
        for seed in 0..300u64 {
            let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut next = move || {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random
            };
            let raw: Vec<_> = (1..=next() % 9)
                .map(|seq| (key(next()), key(next()), seq))
                .filter(|(start, end, _)| start < end)
                .map(|(start, end, seq)| tombstone(&start, &end, seq))
                .collect();
            let fragments = Fragments::of(raw.clone(), 0);
            let stored = Fragments::from_sorted(fragments.pieces().to_vec());
            assert_eq!(stored.as_ref(), Some(&fragments), "seed {seed}");
            for (n, seq_max) in (0..12).flat_map(|n| (0..10).map(move |seq| (n, seq))) {
                let key = key(n);
                let covers = |t: &&RangeTombstone| t.contains(key.as_bytes()) && t.seq <= seq_max;
                let expected = raw.iter().filter(covers).map(RangeTombstone::stamp).max();
                let found = fragments.covering(key.as_bytes(), seq_max);
                assert_eq!(found, expected, "seed {seed}, {key} at {seq_max}");
            }
        }
    }

    #[test]
    fn share_covered_is_about_that_of_the_keys() {
        let raw = vec![tombstone("key-2", "key-4", 5), tombstone("key-3", "key-5", 9)];
        let fragments = Fragments::of(raw, 0);
        let share =
            |first: &str, last: &str| fragments.share_milli(first.as_bytes(), last.as_bytes());
        assert_eq!(share("key-3", "key-3"), 1_000);
        assert_eq!(share("key-30", "key-39"), 1_000);
        assert_eq!(share("key-6", "key-7"), 0);
        assert!((280..320).contains(&share("key-0", "key-:")), "{}", share("key-0", "key-:"));
        assert!((450..550).contains(&share("key-4", "key-6")));
        assert_eq!(Fragments::default().share_milli(b"a", b"a"), 0);
    }

    #[test]
    fn record_of_the_same_stamp_is_later_than_the_tombstone() {
        let fragments = Fragments::of(vec![tombstone("a", "c", 7)], 0);
        assert!(fragments.hides(b"b", (6, 9), 7) && !fragments.hides(b"b", (6, 9), 6));
        assert!(!fragments.hides(b"b", (7, 0), 7));
        assert!(!fragments.hides(b"c", (1, 0), 7));
    }

    #[test]
    fn pieces_that_overlap_or_are_out_of_order_are_refused() {
        let refused = |pieces| Fragments::from_sorted(pieces).is_none();
        assert!(refused(vec![tombstone("a", "c", 1), tombstone("b", "d", 2)]));
        assert!(refused(vec![tombstone("a", "c", 1), tombstone("a", "c", 2)]));
        assert!(refused(vec![tombstone("c", "c", 1)]));
        assert!(refused(vec![tombstone("a", "c", 2), tombstone("a", "d", 1)]));
    }

    #[test]
    fn largest_key_is_exact_behind_a_key_and_careful_elsewhere() {
        let mut cut = tombstone("a", "m", 1);
        assert_eq!(cut.largest(), "m");
        cut.end = successor(b"k");
        assert_eq!(cut.largest(), "k");
    }
}
