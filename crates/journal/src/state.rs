//! Everything the journal knows in memory, behind its one lock.
//!
//! Owns: groups, queue, ledger, cache bounds, room; what every call changes in them.
//! Must never know: files.
//! Invariants:
//! * Index and queue change together: what is readable is queued or written.
//! * Entries are admitted only into space that is allocated on disk, beyond one whole segment
//!   that is left to votes, truncations, marks and moved records.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use crate::batch::BATCH_OVERHEAD_MAX;
use crate::error::{Error, Result};
use crate::group::{Entry, Group, GroupId, Kept, LogPosition};
use crate::ledger::{Ledger, Place};
use crate::options::{CLIENT_USAGE_PERCENT_MAX, DESCRIPTOR_BYTES_MAX, JournalOptions};
use crate::options::{TAIL_BYTES, VOTE_BYTES_MAX};
use crate::queue::{Done, Draft, Queue, Queued};
use crate::record::{RecordKind, record_bytes};
use crate::stats::Stats;

/// The allowance of lagging followers is computed again after this many records.
const ALLOWANCE_RECORDS: u64 = 1024;

/// Most lines in the order of eviction, one per append whose payloads are cached.
const CACHE_LINES_MAX: usize = 64 * 1024;

/// The state behind the lock.
pub(crate) struct State {
    pub(crate) options: JournalOptions,
    pub(crate) groups: BTreeMap<GroupId, Group>,
    pub(crate) ledger: Ledger,
    pub(crate) queue: Queue,
    /// Groups whose committed position waits to be queued.
    pub(crate) committed_waits: BTreeSet<GroupId>,
    /// Records below this sequence number are durable.
    pub(crate) durable: u64,
    /// Bytes the writer took and has not reported yet.
    pub(crate) writing_bytes: u64,
    /// The longest of the records it took.
    pub(crate) writing_largest: u64,
    /// Bytes left in the current segment.
    pub(crate) current_room: u64,
    /// Prepared segments.
    pub(crate) spares: usize,
    /// Whether the disk refused to give another segment.
    pub(crate) disk_full: bool,
    pub(crate) poisoned: Option<String>,
    /// Whether the writer sleeps on the condition variable.
    pub(crate) parked: bool,
    /// Groups found damaged since the writer looked last; their verdict is to be written.
    pub(crate) verdicts: Vec<GroupId>,
    /// Whether the writer will look by itself within the delay of a mark. What nobody waits for
    /// is written then, and need not wake it.
    pub(crate) looks_soon: bool,
    pub(crate) counters: Stats,
    cached_bytes: u64,
    /// Appends whose payloads are cached, oldest first, by their last index.
    cache_order: VecDeque<(GroupId, u64)>,
    /// What followers may hold back of one group, and the sequence number it was computed at.
    allowance: (u64, u64),
}

impl State {
    /// The state without groups.
    pub(crate) fn new(options: JournalOptions, ledger: Ledger, next_sequence: u64) -> Self {
        Self {
            allowance: (options.retention_group_bytes, 0),
            options,
            groups: BTreeMap::new(),
            ledger,
            queue: Queue::starting_at(next_sequence),
            committed_waits: BTreeSet::new(),
            durable: next_sequence,
            writing_bytes: 0,
            writing_largest: 0,
            current_room: 0,
            spares: 0,
            disk_full: false,
            poisoned: None,
            parked: false,
            verdicts: Vec::new(),
            looks_soon: false,
            counters: Stats::default(),
            cached_bytes: 0,
            cache_order: VecDeque::new(),
        }
    }

    /// Fails if an earlier write failed.
    pub(crate) fn check(&self) -> Result<()> {
        match &self.poisoned {
            Some(reason) => Err(Error::Poisoned(reason.clone())),
            None => Ok(()),
        }
    }

    /// Whether the writer has anything to write, urgent or not.
    pub(crate) fn has_work(&self) -> bool {
        !self.queue.is_empty() || !self.committed_waits.is_empty() || !self.verdicts.is_empty()
    }

    /// A group that may be written to.
    fn writable<'a>(
        groups: &'a mut BTreeMap<GroupId, Group>,
        poisoned: &Option<String>,
        group: GroupId,
    ) -> Result<&'a mut Group> {
        if let Some(reason) = poisoned {
            return Err(Error::Poisoned(reason.clone()));
        }
        let state = groups.get_mut(&group).ok_or(Error::UnknownGroup(group))?;
        if state.hit { Err(Error::GroupHit(group)) } else { Ok(state) }
    }

    /// A group that may be read.
    pub(crate) fn readable(&self, group: GroupId) -> Result<&Group> {
        self.check()?;
        let state = self.groups.get(&group).ok_or(Error::UnknownGroup(group))?;
        if state.hit { Err(Error::GroupHit(group)) } else { Ok(state) }
    }

    /// Whether `bytes` of entries, the longest of them `largest`, fit beyond the reserve. What does
    /// not fit the end of a segment leaves a gap there, in the worst case before the largest.
    fn has_room(&self, bytes: u64, largest: u64) -> bool {
        let Some(beyond_reserve) = self.spares.checked_sub(1) else { return false };
        let wanted = self.queue.bytes() + self.writing_bytes + bytes;
        if wanted + BATCH_OVERHEAD_MAX <= self.current_room {
            return true;
        }
        let largest = largest.max(self.queue.largest()).max(self.writing_largest);
        let lost = largest + BATCH_OVERHEAD_MAX;
        let segment = self.options.segment_room(self.groups.len()).saturating_sub(lost);
        self.current_room.saturating_sub(lost) + segment * beyond_reserve as u64 >= wanted
    }

    /// Bytes of segment files that hold something.
    pub(crate) fn usage(&self) -> u64 {
        let used: u64 = self.ledger.segments.values().map(|s| s.segment.bytes).sum();
        used.saturating_sub(self.current_room)
    }

    /// Whether clients may write: below nine tenths of the limit, with room for a while.
    pub(crate) fn accepts_writes(&self) -> bool {
        let limit = self.options.limit_bytes / 100 * CLIENT_USAGE_PERCENT_MAX;
        self.poisoned.is_none()
            && !self.disk_full
            && self.usage() < limit
            && self.has_room(self.options.segment_bytes / 8, 0)
    }

    /// Appends entries. Returns the callback that this one outdates.
    pub(crate) fn append(
        &mut self,
        group: GroupId,
        entries: Vec<Entry>,
        done: Done,
    ) -> Result<Option<Done>> {
        let next = Self::writable(&mut self.groups, &self.poisoned, group)?.next_index();
        let (bytes, largest) = self.check_entries(group, next, &entries)?;
        let queue_full =
            self.queue.bytes() > 0 && self.queue.bytes() + bytes > self.options.queue_bytes_max;
        if queue_full || !self.has_room(bytes, largest) {
            self.counters.refused += 1;
            return Err(Error::Full { bytes });
        }
        let state = Self::writable(&mut self.groups, &self.poisoned, group)?;
        for entry in entries {
            let draft = Draft {
                kind: RecordKind::Entry,
                group,
                position: entry.position,
                payload: entry.payload.clone(),
                moves: None,
            };
            let sequence = self.queue.push(draft, &mut state.last_sequence);
            let bytes = record_bytes(entry.payload.len()) as u64;
            state.push(entry.position, bytes, (sequence, Place::default()));
            self.cached_bytes += state.cache(entry.payload);
        }
        if let Some(last) = state.last_index() {
            self.cache_order.push_back((group, last));
        }
        if self.cache_order.len() > CACHE_LINES_MAX {
            self.sweep_cache_order();
        }
        self.queue.urgent = true;
        Ok(self.queue.appended(group, done))
    }

    /// Checks indexes and sizes; returns the record bytes of all and of the longest.
    fn check_entries(
        &self,
        group: GroupId,
        next: Option<u64>,
        entries: &[Entry],
    ) -> Result<(u64, u64)> {
        let start = next.or(entries.first().map(|e| e.position.index)).unwrap_or(0);
        let maximum = self.options.entry_bytes_max();
        let (mut bytes, mut largest) = (0, 0);
        for (expected, entry) in (start..).zip(entries) {
            let found = entry.position.index;
            if found != expected {
                return Err(Error::NotContiguous { group, expected, found });
            }
            check_size("entry", entry.payload.len(), maximum)?;
            let record = record_bytes(entry.payload.len()) as u64;
            bytes += record;
            largest = largest.max(record);
        }
        Ok((bytes, largest))
    }

    /// Queues the group's vote.
    pub(crate) fn save_vote(&mut self, group: GroupId, vote: Bytes, done: Done) -> Result<()> {
        check_size("vote", vote.len(), VOTE_BYTES_MAX)?;
        Self::writable(&mut self.groups, &self.poisoned, group)?.vote = Some(vote.clone());
        self.push_kept(group, RecordKind::Vote, LogPosition::default(), vote);
        self.queue.urgent = true;
        self.queue.done(done);
        Ok(())
    }

    /// Removes entries after `last`, all if `None`.
    pub(crate) fn truncate_after(
        &mut self,
        group: GroupId,
        last: Option<u64>,
        done: Done,
    ) -> Result<()> {
        let state = Self::writable(&mut self.groups, &self.poisoned, group)?;
        let index = last.map_or(0, |last| last.saturating_add(1));
        let draft = Draft {
            kind: RecordKind::Truncate,
            group,
            position: LogPosition { term: 0, leader: 0, index },
            payload: Bytes::new(),
            moves: None,
        };
        self.queue.push(draft, &mut state.last_sequence);
        let sequence = self.queue.next_sequence;
        self.cached_bytes -= state.truncate_from(index, &mut self.ledger, sequence);
        self.queue.urgent = true;
        self.queue.done(done);
        Ok(())
    }

    /// Remembers the committed position; it is queued with the next batch.
    pub(crate) fn save_committed(&mut self, group: GroupId, position: LogPosition) -> Result<()> {
        let state = Self::writable(&mut self.groups, &self.poisoned, group)?;
        state.committed = Some(position);
        state.committed_waits = true;
        self.committed_waits.insert(group);
        Ok(())
    }

    /// Queues the committed positions that wait.
    pub(crate) fn queue_committed(&mut self) {
        for group in std::mem::take(&mut self.committed_waits) {
            let position = self.groups.get_mut(&group).filter(|state| !state.hit).and_then(|s| {
                s.committed_waits = false;
                s.committed
            });
            if let Some(position) = position {
                self.push_kept(group, RecordKind::Committed, position, Bytes::new());
            }
        }
    }

    /// Gives up entries up to `upto`.
    pub(crate) fn purge(&mut self, group: GroupId, upto: LogPosition) -> Result<()> {
        let state = Self::writable(&mut self.groups, &self.poisoned, group)?;
        if state.purged.is_some_and(|purged| purged.index >= upto.index) {
            return Ok(());
        }
        self.push_kept(group, RecordKind::Purge, upto, Bytes::new());
        let sequence = self.queue.next_sequence;
        let state = Self::writable(&mut self.groups, &self.poisoned, group)?;
        self.cached_bytes -= state.purge_to(upto, &mut self.ledger, sequence);
        Ok(())
    }

    /// Begins a group.
    pub(crate) fn create_group(
        &mut self,
        group: GroupId,
        descriptor: Bytes,
        done: Done,
    ) -> Result<()> {
        self.check()?;
        check_size("descriptor", descriptor.len(), DESCRIPTOR_BYTES_MAX)?;
        let maximum = self.options.groups_max();
        if self.groups.len() >= maximum {
            return Err(Error::TooManyGroups { maximum });
        }
        if self.groups.contains_key(&group) {
            return Err(Error::GroupExists(group));
        }
        let bytes = (record_bytes(descriptor.len()) + TAIL_BYTES) as u64;
        if !self.has_room(bytes, bytes) {
            self.counters.refused += 1;
            return Err(Error::Full { bytes: descriptor.len() as u64 });
        }
        self.groups.insert(group, Group::new(descriptor.clone()));
        self.push_kept(group, RecordKind::Created, LogPosition::default(), descriptor);
        self.queue.urgent = true;
        self.queue.done(done);
        Ok(())
    }

    /// Ends a group, also one that was hit.
    pub(crate) fn destroy_group(&mut self, group: GroupId, done: Done) -> Result<()> {
        self.check()?;
        let mut state = self.groups.remove(&group).ok_or(Error::UnknownGroup(group))?;
        let draft = Draft {
            kind: RecordKind::Destroyed,
            group,
            position: LogPosition::default(),
            payload: Bytes::new(),
            moves: None,
        };
        self.queue.push(draft, &mut state.last_sequence);
        let sequence = self.queue.next_sequence;
        self.cached_bytes -= state.release_all(&mut self.ledger, sequence);
        self.committed_waits.remove(&group);
        self.queue.urgent = true;
        self.queue.done(done);
        Ok(())
    }

    /// Queues a record that takes the place of the one of its kind.
    fn push_kept(
        &mut self,
        group: GroupId,
        kind: RecordKind,
        position: LogPosition,
        payload: Bytes,
    ) {
        let Some(state) = self.groups.get_mut(&group) else { return };
        let bytes = record_bytes(payload.len()) as u64;
        let draft = Draft { kind, group, position, payload, moves: None };
        let sequence = self.queue.push(draft, &mut state.last_sequence);
        let kept = Kept { sequence, bytes, place: Place::default() };
        state.keep(kind, kept, &mut self.ledger, sequence + 1);
    }

    /// Queues a copy of a live record of the oldest segment, if it is still live.
    pub(crate) fn push_moved(&mut self, draft: Draft) {
        let Some(state) = self.groups.get_mut(&draft.group).filter(|state| !state.hit) else {
            return;
        };
        let current = match draft.kind {
            RecordKind::Entry => state.slot(draft.position.index).map(|slot| slot.sequence),
            kind => state.kept(kind).map(|kept| kept.sequence),
        };
        if current.is_some() && current == draft.moves {
            self.counters.rewritten_records += 1;
            self.counters.rewritten_bytes += record_bytes(draft.payload.len()) as u64;
            self.queue.push(draft, &mut state.last_sequence);
            self.queue.urgent = true;
        }
    }

    /// Gives up everything a damaged group had; it may only be destroyed from now on.
    pub(crate) fn hit(&mut self, group: GroupId) {
        let sequence = self.queue.next_sequence;
        if let Some(state) = self.groups.get_mut(&group).filter(|state| !state.hit) {
            state.hit = true;
            self.cached_bytes -= state.release_all(&mut self.ledger, sequence);
            self.committed_waits.remove(&group);
            self.verdicts.push(group);
        }
    }

    /// Takes note of where records lie now and forgets payloads beyond the bound of the cache.
    pub(crate) fn place(&mut self, records: &[Queued]) {
        for record in records {
            let Some(state) = self.groups.get_mut(&record.group).filter(|state| !state.hit) else {
                continue;
            };
            let sequences = (record.sequence, record.replaced);
            let ledger = &mut self.ledger;
            match record.kind {
                RecordKind::Entry => {
                    state.place_entry(record.index, sequences, record.place, ledger);
                }
                RecordKind::Truncate | RecordKind::Destroyed => {
                    ledger.add_dead(record.place, record.bytes);
                }
                kind => state.place_kept(kind, sequences, record.place, ledger),
            }
        }
        self.evict();
    }

    /// Keeps the cache inside its bound, and the list of what it holds free of stale lines.
    fn evict(&mut self) {
        while let Some(&(group, upto)) = self.cache_order.front() {
            let over = self.cached_bytes > self.options.cache_bytes;
            let Some(state) = self.groups.get_mut(&group) else {
                self.cache_order.pop_front();
                continue;
            };
            match state.first_cached() {
                Some(first) if first <= upto => {
                    if !over {
                        return;
                    }
                    let Some(charge) = state.evict_oldest() else { return };
                    self.cached_bytes -= charge;
                }
                _ => {
                    self.cache_order.pop_front();
                }
            }
        }
    }

    /// Drops stale lines from the order of eviction; if that is not enough, joins the lines of
    /// each group, which only makes eviction coarser.
    fn sweep_cache_order(&mut self) {
        let groups = &self.groups;
        let first_cached = |group: &GroupId| groups.get(group).and_then(Group::first_cached);
        self.cache_order.retain(|(group, upto)| first_cached(group).is_some_and(|f| f <= *upto));
        if self.cache_order.len() <= CACHE_LINES_MAX / 2 {
            return;
        }
        let mut seen = BTreeSet::new();
        self.cache_order.retain(|(group, _)| seen.insert(*group));
        for (group, upto) in &mut self.cache_order {
            *upto = groups.get(group).and_then(Group::last_index).unwrap_or(*upto);
        }
    }

    /// What followers that lag behind may hold back of one group, bytes: the configured amount,
    /// less if all groups together would hold more than a quarter of the journal's limit. The
    /// groups that hold the most give way first.
    pub(crate) fn allowance(&mut self) -> u64 {
        let (value, computed_at) = self.allowance;
        let now = self.queue.next_sequence;
        if computed_at != 0 && now - computed_at < ALLOWANCE_RECORDS {
            return value;
        }
        let mut held: Vec<u64> = self.groups.values().map(Group::entry_bytes).collect();
        held.sort_unstable();
        let value = share_evenly(&held, self.options.limit_bytes / 4)
            .min(self.options.retention_group_bytes);
        self.allowance = (value, now);
        value
    }

    /// The counters with the sizes of this moment.
    pub(crate) fn stats(&self) -> Stats {
        Stats {
            segments_used: self.ledger.segments.len() as u64,
            segments_spare: self.spares as u64,
            live_bytes: self.ledger.live_bytes(),
            cached_bytes: self.cached_bytes,
            queued_bytes: self.queue.bytes() + self.writing_bytes,
            groups: self.groups.len() as u64,
            hit_groups: self.groups.values().filter(|group| group.hit).count() as u64,
            disk_full: self.disk_full,
            ..self.counters
        }
    }
}

/// The largest share such that all of `held` (ascending), each cut to the share, fit in `budget`.
fn share_evenly(held: &[u64], budget: u64) -> u64 {
    let mut left = budget;
    for (at, bytes) in held.iter().enumerate() {
        let share = left / (held.len() - at) as u64;
        if *bytes > share {
            return share;
        }
        left -= bytes;
    }
    u64::MAX
}

fn check_size(what: &'static str, bytes: usize, maximum: usize) -> Result<()> {
    if bytes > maximum { Err(Error::TooLarge { what, bytes, maximum }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::share_evenly;

    #[test]
    fn the_largest_holders_give_way_first() {
        assert_eq!(share_evenly(&[], 10), u64::MAX);
        assert_eq!(share_evenly(&[3, 3, 4], 10), u64::MAX);
        assert_eq!(share_evenly(&[1, 2, 100], 10), 7);
        assert_eq!(share_evenly(&[1, 50, 100], 11), 5);
    }
}
