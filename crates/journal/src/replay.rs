//! What records mean, one after another: the state of every group, and whether it is whole.
//!
//! Owns: the chain of every group's records, the verdict "hit".
//! Must never know: files, batches.
//! Invariants:
//! * A group that may have lost a record that was durable once ends as hit.
//! * Moved records are inserted by index and truncate nothing.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::batch::Tail;
use crate::entries::Entries;
use crate::group::{Group, GroupId, Kept, LogPosition};
use crate::ledger::{Ledger, Place};
use crate::record::{RecordKind, RecordView};

#[derive(Debug, Default)]
struct ReplayedGroup {
    last: u64,
    created: bool,
    /// Records were lost somewhere, and nothing seen since proves that none was of this group.
    suspect: bool,
    hit: bool,
    /// It was there before the first record replayed.
    is_older: bool,
    descriptor: Bytes,
    vote: Option<Bytes>,
    committed: Option<LogPosition>,
    purged: Option<LogPosition>,
    kept: BTreeMap<RecordKind, Kept>,
    entries: Entries,
}

/// All groups, as far as records were replayed.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    /// Records below this sequence number were given up before; a chain may lead there.
    pub(crate) origin: u64,
    groups: BTreeMap<GroupId, ReplayedGroup>,
    /// Bytes of all records seen in each segment.
    totals: BTreeMap<u32, u64>,
}

impl Replay {
    /// Nothing replayed; the first record to come is at least `origin`.
    pub(crate) fn starting_at(origin: u64) -> Self {
        Self { origin, ..Self::default() }
    }

    /// Takes the next record.
    pub(crate) fn apply(&mut self, sequence: u64, record: &RecordView<'_>, place: Place) {
        *self.totals.entry(place.segment).or_default() += record.bytes as u64;
        let header = &record.header;
        let before_origin = header.previous < self.origin;
        let group = self.groups.entry(header.group).or_insert_with(|| ReplayedGroup {
            last: if before_origin { header.previous } else { 0 },
            is_older: before_origin && header.previous > 0,
            ..ReplayedGroup::default()
        });
        if group.last == header.previous {
            group.suspect = false;
        } else {
            group.hit = true;
        }
        group.last = sequence;
        let kept = Kept { sequence, bytes: record.bytes as u64, place };
        if header.kind == RecordKind::Destroyed {
            self.groups.remove(&header.group);
        } else {
            group.apply(record, kept);
        }
    }

    /// Durable records were lost here: every group may have lost one.
    pub(crate) fn lose(&mut self) {
        for group in self.groups.values_mut() {
            group.suspect = true;
        }
    }

    /// What was replayed did not begin where the log does: every group that was there before may
    /// have lost a record.
    pub(crate) fn lose_beginning(&mut self) {
        for group in self.groups.values_mut().filter(|group| group.is_older) {
            group.hit = true;
        }
    }

    /// Compares with the list of groups in a mark.
    pub(crate) fn check(&mut self, tails: &[Tail]) {
        for tail in tails {
            let known = self.groups.contains_key(&tail.group);
            let group = self.groups.entry(tail.group).or_default();
            // What a mark at the very beginning lists has all its live records still to come.
            let same = if known { group.last == tail.last } else { tail.last < self.origin };
            group.is_older |= !known;
            group.hit |= tail.hit || !same;
            group.suspect &= !same;
            group.last = tail.last;
        }
        let listed = |group: &GroupId| tails.binary_search_by_key(group, |t| t.group).is_ok();
        // A group that is not listed ended; if that was not seen, it was lost with the gap.
        self.groups.retain(|id, group| listed(id) || !group.suspect);
        for (_, group) in self.groups.iter_mut().filter(|(id, _)| !listed(id)) {
            group.hit = true;
        }
    }

    /// The last record of every group, with the verdict.
    pub(crate) fn finish(self, ledger: &mut Ledger) -> BTreeMap<GroupId, Group> {
        let groups = self.groups.into_iter();
        let groups = groups.map(|(id, group)| (id, group.into_group(ledger))).collect();
        for (segment, bytes) in self.totals {
            ledger.set_total(segment, bytes);
        }
        groups
    }
}

impl ReplayedGroup {
    fn apply(&mut self, record: &RecordView<'_>, kept: Kept) {
        let header = &record.header;
        let position = header.position;
        match header.kind {
            RecordKind::Entry => {
                let beyond = self.purged.is_none_or(|purged| purged.index < position.index);
                let agrees = match header.rewritten {
                    true => self.entries.insert(position, kept),
                    false => self.entries.append(position, kept),
                };
                self.hit |= !(beyond && agrees);
                return;
            }
            RecordKind::Vote => self.vote = Some(Bytes::copy_from_slice(record.payload)),
            RecordKind::Truncate => {
                self.entries.truncate_from(position.index);
                return;
            }
            RecordKind::Purge => {
                self.entries.purge_to(position.index);
                self.purged = Some(position);
            }
            RecordKind::Committed => self.committed = Some(position),
            RecordKind::Created => {
                self.created = true;
                self.descriptor = Bytes::copy_from_slice(record.payload);
            }
            RecordKind::Destroyed => return,
        }
        self.kept.insert(header.kind, kept);
    }

    fn into_group(self, ledger: &mut Ledger) -> Group {
        let hit =
            self.hit || self.suspect || !self.created || !self.entries.are_contiguous(self.purged);
        let mut group = Group::new(self.descriptor);
        group.last_sequence = self.last;
        group.hit = hit;
        if hit {
            return group;
        }
        group.vote = self.vote;
        group.committed = self.committed;
        group.purged = self.purged;
        for (kind, kept) in self.kept {
            group.restore(kind, kept, ledger);
        }
        group.restore_entries(self.entries.into_iter(), ledger);
        group
    }
}
