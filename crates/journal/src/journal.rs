//! The journal as its callers see it.

use std::fmt;
use std::ops::Range;
use std::sync::OnceLock;

use bytes::Bytes;
use holdfast_env::sync::{Condvar, Mutex, MutexGuard};

use crate::error::{Error, Result};
use crate::group::{Entry, GroupId, LogPosition, LogState};
use crate::queue::Done;
use crate::read;
use crate::state::State;
use crate::stats::Stats;

/// Called when the writer has something to do.
type Wake = Box<dyn Fn() + Send + Sync>;

/// One append-only log for all groups of a node.
///
/// Every call takes one short lock and does no I/O, except [`Journal::read`] of entries that are
/// no longer cached. What is queued is written by the [`Writer`](crate::Writer).
///
/// After a failed write or sync every call fails with [`Error::Poisoned`](crate::Error::Poisoned),
/// and the process must end.
pub struct Journal {
    state: Mutex<State>,
    work: Condvar,
    wake: OnceLock<Wake>,
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Journal {
    pub(crate) fn new(state: State) -> Self {
        Self { state: Mutex::new(state), work: Condvar::new(), wake: OnceLock::new() }
    }

    /// The state. Why a lock: index and queue must change together, and for nanoseconds only.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Where the writer sleeps.
    pub(crate) fn work(&self) -> &Condvar {
        &self.work
    }

    /// Has `wake` called, without locks held, whenever work for the writer turns up. For writers
    /// that do not sleep in [`Writer::wait`](crate::Writer::wait). Only the first call counts.
    pub fn set_wake(&self, wake: impl Fn() + Send + Sync + 'static) {
        // A second hook is refused by contract; the first one stays.
        let _ = self.wake.set(Box::new(wake));
    }

    /// Wakes the writer although there may be nothing to do, for example to stop its thread.
    pub fn wake(&self) {
        self.lock().parked = false;
        self.work.notify_one();
        if let Some(wake) = self.wake.get() {
            wake();
        }
    }

    /// Runs `change` under the lock, then wakes the writer if it has work that it had not before.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        let mut state = self.lock();
        let (urgent, work) = (state.queue.urgent, state.has_work());
        let result = change(&mut state)?;
        let turned_up = !state.looks_soon && state.has_work() != work;
        let wake = state.queue.urgent != urgent || turned_up;
        let parked = wake && std::mem::take(&mut state.parked);
        drop(state);
        if parked {
            self.work.notify_one();
        }
        if let Some(hook) = self.wake.get().filter(|_| wake) {
            hook();
        }
        Ok(result)
    }

    /// Appends `entries` of `group`; they are readable at once and durable when `done` is called.
    ///
    /// Indexes must continue the group's log; the log of a group that never held an entry may
    /// start anywhere. If more entries of the group are appended before `done` was called, it may
    /// be dropped: the newer one speaks for both.
    ///
    /// Cost: one copy of payloads below 16 KiB; write and sync are shared with all groups.
    ///
    /// # Errors
    /// [`Error::Full`](crate::Error::Full): nothing was queued; purge or wait, then retry. Other
    /// errors of the caller leave everything as it was. `done` is dropped with any error.
    pub fn append(&self, group: GroupId, entries: Vec<Entry>, done: Done) -> Result<()> {
        // The outdated callback is dropped here, after the lock was given back.
        let outdated = self.change(|state| state.append(group, entries, done))?;
        drop(outdated);
        Ok(())
    }

    /// Saves the group's vote (at most 64 bytes); it is durable when `done` is called.
    ///
    /// Never fails for space. # Errors: as for [`Journal::append`].
    pub fn save_vote(&self, group: GroupId, vote: Bytes, done: Done) -> Result<()> {
        self.change(|state| state.save_vote(group, vote, done))
    }

    /// Removes the entries after index `last`, all entries if `None`; durable when `done` is
    /// called, which it is in any case. Never fails for space.
    pub fn truncate_after(&self, group: GroupId, last: Option<u64>, done: Done) -> Result<()> {
        self.change(|state| state.truncate_after(group, last, done))
    }

    /// Remembers what is committed. It becomes durable with some later batch; a crash may lose it.
    pub fn save_committed(&self, group: GroupId, position: LogPosition) -> Result<()> {
        self.change(|state| state.save_committed(group, position))
    }

    /// Gives up the entries up to `upto`, which may lie beyond the last one (after a snapshot).
    ///
    /// Not synced: a crash may bring the entries back, but never loses them without `upto`.
    pub fn purge(&self, group: GroupId, upto: LogPosition) -> Result<()> {
        self.change(|state| state.purge(group, upto))
    }

    /// Begins a group with a descriptor (at most 4 KiB) that recovery gives back.
    ///
    /// # Errors
    /// `GroupExists`, `TooLarge`, `TooManyGroups`, `Full`.
    pub fn create_group(&self, group: GroupId, descriptor: Bytes, done: Done) -> Result<()> {
        self.change(|state| state.create_group(group, descriptor, done))
    }

    /// Ends a group, with everything it had. The only change a damaged group allows.
    pub fn destroy_group(&self, group: GroupId, done: Done) -> Result<()> {
        self.change(|state| state.destroy_group(group, done))
    }

    /// Gives a group up because something of it, here or elsewhere, turned out to be damaged:
    /// from now on it may only be destroyed, also by a later run of the process.
    ///
    /// The verdict is durable with the next mark, a few milliseconds later. Giving it up again, or
    /// a group that is not there, does nothing.
    pub fn retire_group(&self, group: GroupId) {
        let given_up = self.change(|state| {
            state.hit(group);
            Ok(())
        });
        assert!(given_up.is_ok(), "giving up needs nothing");
    }

    /// Groups that corruption hit, in order.
    pub fn hit_groups(&self) -> Vec<GroupId> {
        let state = self.lock();
        state.groups.iter().filter(|(_, group)| group.hit).map(|(id, _)| *id).collect()
    }

    /// All groups, damaged ones included, in order.
    pub fn groups(&self) -> Vec<GroupId> {
        self.lock().groups.keys().copied().collect()
    }

    /// Whether corruption hit the group.
    pub fn is_hit(&self, group: GroupId) -> bool {
        self.lock().groups.get(&group).is_some_and(|state| state.hit)
    }

    /// The descriptor the group was created with.
    pub fn descriptor(&self, group: GroupId) -> Option<Bytes> {
        self.lock().readable(group).ok().map(|state| state.descriptor.clone())
    }

    /// The newest vote, durable or not.
    pub fn vote(&self, group: GroupId) -> Option<Bytes> {
        self.lock().readable(group).ok().and_then(|state| state.vote.clone())
    }

    /// The newest committed position.
    pub fn committed(&self, group: GroupId) -> Option<LogPosition> {
        self.lock().readable(group).ok().and_then(|state| state.committed)
    }

    /// What the group's log spans; empty for a group that is not there.
    pub fn log_state(&self, group: GroupId) -> LogState {
        self.lock().readable(group).map(|state| state.log_state()).unwrap_or_default()
    }

    /// The position of `index`: of an entry held, or the purge position. No I/O.
    pub fn position(&self, group: GroupId, index: u64) -> Option<LogPosition> {
        self.lock().readable(group).ok().and_then(|state| state.position(index))
    }

    /// The entries of `range` that are held, in order, up to `bytes_max` of payload but at least
    /// one if there is one.
    ///
    /// Cost: none for cached entries, else reads of up to 1 MiB; every checksum is verified.
    ///
    /// # Errors
    /// [`Error::Purged`](crate::Error::Purged) if the range starts below the first index held.
    /// [`Error::Corrupt`](crate::Error::Corrupt): the group is hit from now on, as after
    /// [`Journal::retire_group`]; retire the replica.
    pub fn read(&self, group: GroupId, range: Range<u64>, bytes_max: u64) -> Result<Vec<Entry>> {
        let plan = read::plan(&self.lock(), group, range, bytes_max)?;
        let read = plan.run();
        if read.as_ref().is_err_and(Error::is_corruption) {
            self.retire_group(group);
        }
        read
    }

    /// The position after everything queued so far. Positions count records, and only compare
    /// inside one run of the process.
    pub fn logical_end(&self) -> u64 {
        self.lock().queue.next_sequence
    }

    /// Everything below this position is durable.
    pub fn durable(&self) -> u64 {
        self.lock().durable
    }

    /// Groups that keep the oldest segment from being used again, those with the most bytes first.
    /// Make their engines durable and purge them to free it.
    pub fn pins(&self) -> Vec<(GroupId, u64)> {
        let state = self.lock();
        let Some(oldest) = state.ledger.oldest().map(|entry| entry.segment.sequence) else {
            return Vec::new();
        };
        let live = state.groups.iter().map(|(group, state)| (*group, state.live_in(oldest)));
        let mut pins: Vec<_> = live.filter(|(_, bytes)| *bytes > 0).collect();
        drop(state);
        pins.sort_by_key(|(group, bytes)| (std::cmp::Reverse(*bytes), *group));
        pins
    }

    /// The lowest index that followers which lag behind may hold back from being purged: at most
    /// `retention_group_bytes` of the group and a quarter of the limit for all groups together.
    /// A follower that needs less than this has lost its claim and gets a snapshot.
    pub fn retained_from(&self, group: GroupId) -> u64 {
        let mut state = self.lock();
        let allowance = state.allowance();
        state.readable(group).map(|group| group.index_within(allowance)).unwrap_or(0)
    }

    /// Record bytes of the entries a group holds.
    pub fn group_bytes(&self, group: GroupId) -> u64 {
        self.lock().readable(group).map(|state| state.entry_bytes()).unwrap_or(0)
    }

    /// Bytes of segments in use.
    pub fn usage(&self) -> u64 {
        self.lock().usage()
    }

    /// Bytes all segments together may take.
    pub fn limit(&self) -> u64 {
        self.lock().options.limit_bytes
    }

    /// Whether client writes may be proposed: false from nine tenths of the limit on, on a full
    /// disk, and after a failure. Followers' appends go on until [`Journal::append`] says `Full`.
    pub fn accepts_writes(&self) -> bool {
        self.lock().accepts_writes()
    }

    /// Counters and sizes.
    pub fn stats(&self) -> Stats {
        self.lock().stats()
    }
}
