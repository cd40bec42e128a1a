//! The entries of one group while records are replayed.
//!
//! Owns: a compact index that takes entries in any order, fast for the usual one.
//! Must never know: what else a group has.
//! Invariants:
//! * Runs do not overlap; each holds consecutive indexes.
//! * What was appended first is not necessarily found first: entries that were moved out of the
//!   oldest segment lie behind later ones. They make runs of their own, which meet in the end.

use std::collections::{BTreeMap, VecDeque};

use crate::group::{Kept, LogPosition};
use crate::ledger::Place;

/// One entry: 24 bytes, since there may be many millions.
#[derive(Clone, Copy, Debug)]
struct Slot {
    sequence: u64,
    place: Place,
    bytes: u32,
    /// Which of `leaders` proposed it.
    leader: u32,
}

/// Entries by index.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    /// By first index; none is empty.
    runs: BTreeMap<u64, VecDeque<Slot>>,
    /// Terms and leaders that occurred, newest last.
    leaders: Vec<(u64, u64)>,
}

impl Entries {
    /// Takes an entry that was appended; false if there is one of this index or above.
    pub(crate) fn append(&mut self, position: LogPosition, kept: Kept) -> bool {
        let slot = self.slot(position, kept);
        match self.runs.last_entry() {
            Some(mut run) => {
                let end = *run.key() + run.get().len() as u64;
                if position.index == end {
                    run.get_mut().push_back(slot);
                    return true;
                }
                let continues = position.index > end;
                self.set(position.index, slot);
                continues
            }
            None => {
                self.runs.insert(position.index, VecDeque::from([slot]));
                true
            }
        }
    }

    /// Takes an entry that was moved, and truncates nothing; false if the one it takes the place
    /// of was another.
    pub(crate) fn insert(&mut self, position: LogPosition, kept: Kept) -> bool {
        let slot = self.slot(position, kept);
        let before = self.set(position.index, slot);
        before.is_none_or(|before| before.leader == slot.leader)
    }

    fn slot(&mut self, position: LogPosition, kept: Kept) -> Slot {
        let leader = (position.term, position.leader);
        let known = self.leaders.iter().rposition(|known| *known == leader);
        let number = known.unwrap_or_else(|| {
            self.leaders.push(leader);
            self.leaders.len() - 1
        });
        Slot {
            sequence: kept.sequence,
            place: kept.place,
            bytes: u32::try_from(kept.bytes).expect("a record fits a segment"),
            leader: u32::try_from(number).expect("every leader takes a record"),
        }
    }

    /// Puts a slot in its place; returns the one that was there.
    fn set(&mut self, index: u64, slot: Slot) -> Option<Slot> {
        if let Some((first, run)) = self.runs.range_mut(..=index).next_back() {
            let at = index - first;
            if at == run.len() as u64 {
                run.push_back(slot);
                return None;
            }
            if let Some(held) = usize::try_from(at).ok().and_then(|at| run.get_mut(at)) {
                return Some(std::mem::replace(held, slot));
            }
        }
        self.runs.insert(index, VecDeque::from([slot]));
        None
    }

    /// Forgets entries from `index` on.
    pub(crate) fn truncate_from(&mut self, index: u64) {
        self.runs.split_off(&index);
        if let Some(mut run) = self.runs.last_entry() {
            let kept = index - run.key();
            run.get_mut().truncate(usize::try_from(kept).unwrap_or(usize::MAX));
        }
    }

    /// Forgets entries up to `index`.
    pub(crate) fn purge_to(&mut self, index: u64) {
        while let Some(run) = self.runs.first_entry().filter(|run| *run.key() <= index) {
            let (first, mut slots) = run.remove_entry();
            let gone = usize::try_from(index - first).unwrap_or(usize::MAX).saturating_add(1);
            slots.drain(..gone.min(slots.len()));
            if !slots.is_empty() {
                self.runs.insert(index + 1, slots);
            }
        }
    }

    /// Whether indexes have no gaps, and begin right after the purge position.
    pub(crate) fn are_contiguous(&self, purged: Option<LogPosition>) -> bool {
        let mut next = purged.map(|purged| purged.index + 1);
        self.runs.iter().all(|(first, run)| {
            let joins = next.is_none_or(|next| next == *first);
            next = Some(first + run.len() as u64);
            joins
        })
    }

    /// All entries, lowest index first.
    pub(crate) fn into_iter(self) -> impl Iterator<Item = (LogPosition, Kept)> {
        let leaders = self.leaders;
        let slots = self.runs.into_iter().flat_map(|(first, run)| (first..).zip(run));
        slots.map(move |(index, slot)| {
            let leader = usize::try_from(slot.leader).ok().and_then(|at| leaders.get(at));
            let (term, leader) = *leader.expect("every number is one of a leader");
            let bytes = u64::from(slot.bytes);
            let kept = Kept { sequence: slot.sequence, bytes, place: slot.place };
            (LogPosition { term, leader, index }, kept)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64) -> LogPosition {
        LogPosition { term: 2, leader: 1, index }
    }

    fn kept(sequence: u64) -> Kept {
        Kept { sequence, bytes: 64, place: Place { segment: 1, offset: 8192 } }
    }

    fn found(entries: Entries) -> Vec<(u64, u64)> {
        entries.into_iter().map(|(position, kept)| (position.index, kept.sequence)).collect()
    }

    #[test]
    fn moved_entries_that_lie_behind_later_ones_join_them() {
        let mut entries = Entries::default();
        assert!(entries.append(at(7), kept(1)) && entries.append(at(8), kept(2)));
        assert!(entries.insert(at(3), kept(3)) && entries.insert(at(4), kept(4)));
        assert!(!entries.are_contiguous(None));
        assert!(entries.insert(at(5), kept(5)) && entries.insert(at(6), kept(6)));
        assert!(entries.are_contiguous(None) && entries.are_contiguous(Some(at(2))));
        assert!(!entries.are_contiguous(Some(at(1))));
        assert!(entries.insert(at(8), kept(7)) && entries.append(at(9), kept(8)));
        let expected = [(3, 3), (4, 4), (5, 5), (6, 6), (7, 1), (8, 7), (9, 8)];
        assert_eq!(found(entries), expected);
    }

    #[test]
    fn truncating_and_purging_cut_runs_where_they_have_to() {
        let mut entries = Entries::default();
        for index in 10..20 {
            assert!(entries.append(at(index), kept(index)));
        }
        assert!(entries.insert(at(5), kept(1)));
        entries.truncate_from(15);
        entries.purge_to(11);
        assert!(entries.are_contiguous(Some(at(11))));
        assert!(entries.append(at(15), kept(30)));
        entries.truncate_from(13);
        assert_eq!(found(entries), [(12, 12)]);
        let mut entries = Entries::default();
        assert!(entries.append(at(1), kept(1)));
        entries.purge_to(u64::MAX - 1);
        entries.truncate_from(0);
        assert!(entries.are_contiguous(Some(at(99))));
        assert_eq!(found(entries), []);
    }

    #[test]
    fn what_contradicts_an_earlier_entry_is_said() {
        let mut entries = Entries::default();
        assert!(entries.append(at(1), kept(1)) && entries.append(at(2), kept(2)));
        assert!(!entries.append(at(2), kept(3)), "appended twice");
        assert!(!entries.append(at(1), kept(3)), "below the end");
        assert!(entries.append(at(4), kept(4)), "a gap is judged in the end");
        assert!(!entries.are_contiguous(None));
        let other = LogPosition { term: 3, ..at(4) };
        assert!(!entries.insert(other, kept(5)), "moved, but not the same");
        assert!(!entries.insert(at(4), kept(6)), "and back");
    }
}
