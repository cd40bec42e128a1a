//! Watches: live events while a consumer keeps up, history read from the engine while it does not.
//!
//! Owns: who watches what, the bounded buffer of each watch, the change between live and history.
//! Invariants:
//! * Revisions come in order, whole, none twice, none left out.
//! * A buffer that is full ends live delivery for its watch: the events are in the engine, and the
//!   watch reads them there at its own pace. Nothing is lost until history itself is compacted
//!   away, which is told ([`WatchItem::Cancelled`]).
//! * All buffers together hold a bounded number of bytes, and one revision for each watch whose
//!   buffer is empty: who reads is not hindered by those who do not.
//! * Progress never runs ahead of delivered events.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use holdfast_env::defect;
use holdfast_kv::{Event, LockGrant, ReadPoint, Reader, RevisionEvents};
use holdfast_model::Revision;
use holdfast_runtime::Pool;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::error::WatchError;
use crate::watch_filter::{WatchFilter, detached};

/// Items that may wait in one watch's buffer, beside the bound in bytes.
const BUFFER_ITEMS_MAX: usize = 4_096;
/// History read at a time for one watch, bytes: its share of what all watches may hold, within
/// these bounds.
const HISTORY_BYTES_MIN: usize = 4 << 10;
const HISTORY_BYTES_MAX: usize = 256 << 10;
/// Waiters for lock grants, per range.
const GRANT_WAITERS_MAX: usize = 100_000;

/// What a watch delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchItem {
    /// What one revision did to the keys watched; revisions are never split.
    Events(RevisionEvents),
    /// Everything up to this point was delivered. Comes where it was asked for.
    Progress(ReadPoint),
    /// The watch is over.
    Cancelled {
        /// First revision that was not delivered: resume there.
        resume: Revision,
        /// Why.
        reason: WatchError,
    },
}

/// All watches of one replica.
pub(crate) struct Hub {
    /// A lock, since watches begin on other threads than the one that applies; held for map
    /// operations and non-blocking sends only.
    state: Mutex<State>,
    limits: WatchLimits,
    /// Bytes in all buffers.
    buffered: Arc<AtomicUsize>,
}

/// What the watches of one replica may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WatchLimits {
    /// Watches.
    pub(crate) watches_max: usize,
    /// Events buffered for one watch, bytes.
    pub(crate) buffer_bytes_max: usize,
    /// Events buffered for all watches, bytes.
    pub(crate) total_bytes_max: usize,
}

#[derive(Default)]
struct State {
    live: BTreeMap<u64, Live>,
    /// Live watches on a single key, by key.
    by_key: BTreeMap<Bytes, BTreeSet<u64>>,
    /// All other live watches.
    ranges: BTreeSet<u64>,
    next_id: u64,
    watches: usize,
    /// Everything up to here was published.
    point: ReadPoint,
    stopped: bool,
    grants: BTreeMap<(Bytes, Bytes), Vec<oneshot::Sender<LockGrant>>>,
    grant_waiters: usize,
}

struct Live {
    filter: Arc<WatchFilter>,
    /// Revisions below were delivered from history.
    from: Revision,
    items: mpsc::Sender<WatchItem>,
    buffered: Arc<AtomicUsize>,
}

impl State {
    fn remove_live(&mut self, id: u64) {
        let Some(live) = self.live.remove(&id) else { return };
        match live.filter.single_key() {
            Some(key) => {
                if let Some(ids) = self.by_key.get_mut(key) {
                    ids.remove(&id);
                    if ids.is_empty() {
                        self.by_key.remove(key);
                    }
                }
            }
            None => drop(self.ranges.remove(&id)),
        }
    }

    fn interested(&self, revision: &RevisionEvents) -> Vec<u64> {
        let by_key = revision.events.iter().filter_map(|e| self.by_key.get(&e.entry.key)).flatten();
        let mut ids: Vec<_> = self.ranges.iter().chain(by_key).copied().collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

impl Hub {
    pub(crate) fn new(limits: WatchLimits, point: ReadPoint) -> Arc<Self> {
        let state = Mutex::new(State { point, ..State::default() });
        Arc::new(Self { state, limits, buffered: Arc::default() })
    }

    /// Bytes of events that wait for their watchers.
    pub(crate) fn buffered_bytes(&self) -> usize {
        self.buffered.load(Ordering::Relaxed)
    }

    /// Hands on what an apply did. Never waits.
    pub(crate) fn publish(
        &self,
        events: &[RevisionEvents],
        grants: Vec<LockGrant>,
        point: ReadPoint,
    ) {
        let mut state = self.state.lock();
        if !state.live.is_empty() {
            for revision in events {
                self.deliver(&mut state, revision);
            }
        }
        state.point = point;
        for grant in grants {
            let waiters = state.grants.remove(&(grant.name.clone(), grant.owner.clone()));
            let waiters = waiters.unwrap_or_default();
            state.grant_waiters -= waiters.len();
            for waiter in waiters {
                // A waiter that has gone finds its grant in the lock's state.
                let _ = waiter.send(grant.clone());
            }
        }
    }

    fn deliver(&self, state: &mut State, revision: &RevisionEvents) {
        let interested = state.interested(revision);
        if interested.is_empty() {
            return;
        }
        let revision = detached(revision);
        for id in interested {
            let Some(live) = state.live.get(&id) else { continue };
            if revision.revision < live.from {
                continue;
            }
            let Some(cut) = live.filter.cut(&revision) else { continue };
            let weight = cut.weight();
            let before = live.buffered.load(Ordering::Acquire);
            let fits = before + weight <= self.limits.buffer_bytes_max
                && self.buffered_bytes() + weight <= self.limits.total_bytes_max;
            if before != 0 && !fits {
                if defect!(WATCH_LOSES_WHEN_FULL) {
                    continue;
                }
                state.remove_live(id);
                continue;
            }
            // Before it can be taken out: the taker subtracts.
            live.buffered.fetch_add(weight, Ordering::AcqRel);
            self.buffered.fetch_add(weight, Ordering::AcqRel);
            if live.items.try_send(WatchItem::Events(cut)).is_err() {
                live.buffered.fetch_sub(weight, Ordering::AcqRel);
                self.buffered.fetch_sub(weight, Ordering::AcqRel);
                state.remove_live(id);
            }
        }
    }

    /// The state jumped (a snapshot was installed): live watches go on from history.
    pub(crate) fn jumped(&self, point: ReadPoint) {
        let mut state = self.state.lock();
        state.live.clear();
        state.by_key.clear();
        state.ranges.clear();
        state.point = point;
        // Who waits for a lock looks at its state again.
        state.grants.clear();
        state.grant_waiters = 0;
    }

    /// Ends all watches.
    pub(crate) fn stop(&self) {
        let point = {
            let mut state = self.state.lock();
            state.stopped = true;
            state.point
        };
        self.jumped(point);
    }

    /// Begins a watch.
    pub(crate) fn watch(
        self: &Arc<Self>,
        reader: Reader,
        pool: Pool,
        filter: WatchFilter,
    ) -> Result<WatchStream, WatchError> {
        let mut state = self.state.lock();
        if state.stopped {
            return Err(WatchError::Stopped);
        }
        if state.watches >= self.limits.watches_max {
            return Err(WatchError::TooMany { limit: self.limits.watches_max });
        }
        let next = filter.from.unwrap_or(Revision(state.point.revision.0 + 1));
        let oldest = reader.compacted();
        if next.0 < oldest.0 {
            return Err(WatchError::Compacted { oldest });
        }
        state.watches += 1;
        drop(state);
        let (hub, filter) = (self.clone(), Arc::new(filter));
        let mode = Mode::History(History::default());
        let (progress, ended) = (false, false);
        Ok(WatchStream { hub, reader, pool, filter, next, mode, pending: None, progress, ended })
    }

    /// Waits for the grant of lock `name` to `owner`. To be called before the lock is asked for.
    pub(crate) fn wait_for_grant(
        self: &Arc<Self>,
        name: Bytes,
        owner: Bytes,
    ) -> Option<LockWaiter> {
        let mut state = self.state.lock();
        if state.stopped || state.grant_waiters >= GRANT_WAITERS_MAX {
            return None;
        }
        let (sender, granted) = oneshot::channel();
        let lock = (name, owner);
        state.grants.entry(lock.clone()).or_default().push(sender);
        state.grant_waiters += 1;
        Some(LockWaiter { hub: self.clone(), lock, granted })
    }

    /// Forgets the waiters for `lock` that have gone.
    fn forget_waiters(&self, lock: &(Bytes, Bytes)) {
        let mut state = self.state.lock();
        let Some(waiters) = state.grants.get_mut(lock) else { return };
        let before = waiters.len();
        waiters.retain(|waiter| !waiter.is_closed());
        let (gone, is_empty) = (before - waiters.len(), waiters.is_empty());
        if is_empty {
            state.grants.remove(lock);
        }
        state.grant_waiters -= gone;
    }

    /// Registers a live watch that has seen everything before `next`; `None` if there is newer
    /// history to read first.
    fn go_live(
        &self,
        filter: &Arc<WatchFilter>,
        next: Revision,
        progress: bool,
    ) -> Option<LiveFeed> {
        let mut state = self.state.lock();
        if state.stopped || next <= state.point.revision {
            return None;
        }
        let (items, receiver) = mpsc::channel(BUFFER_ITEMS_MAX);
        let buffered = Arc::new(AtomicUsize::new(0));
        let id = state.next_id;
        state.next_id += 1;
        match filter.single_key() {
            Some(key) => drop(state.by_key.entry(key.clone()).or_default().insert(id)),
            None => drop(state.ranges.insert(id)),
        }
        if progress {
            // The buffer is empty: there is room.
            let _ = items.try_send(WatchItem::Progress(state.point));
        }
        let live = Live { filter: filter.clone(), from: next, items, buffered: buffered.clone() };
        state.live.insert(id, live);
        Some(LiveFeed { id, items: receiver, buffered, total: self.buffered.clone() })
    }

    /// How much history one watch may hold.
    fn history_bytes(&self) -> usize {
        let share = self.limits.total_bytes_max / self.state.lock().watches.max(1);
        share.clamp(HISTORY_BYTES_MIN, HISTORY_BYTES_MAX)
    }

    fn progress(&self, id: u64) -> bool {
        let state = self.state.lock();
        let point = state.point;
        state.live.get(&id).is_some_and(|l| l.items.try_send(WatchItem::Progress(point)).is_ok())
    }
}

/// The grant somebody waits for. Dropping it ends the wait.
pub struct LockWaiter {
    hub: Arc<Hub>,
    /// Name and owner.
    lock: (Bytes, Bytes),
    granted: oneshot::Receiver<LockGrant>,
}

impl LockWaiter {
    /// The grant; `None` where the waiter should look at the lock itself, since the replica's
    /// state jumped or it stops. Cancel safe.
    pub async fn granted(&mut self) -> Option<LockGrant> {
        (&mut self.granted).await.ok()
    }
}

impl Drop for LockWaiter {
    fn drop(&mut self) {
        self.granted.close();
        self.hub.forget_waiters(&self.lock);
    }
}

enum Mode {
    /// Reading what happened before.
    History(History),
    Live(LiveFeed),
}

/// A part of history: what is read and not delivered yet, and up to where it reaches.
#[derive(Default)]
struct History {
    revisions: VecDeque<RevisionEvents>,
    complete_to: Revision,
}

struct LiveFeed {
    id: u64,
    items: mpsc::Receiver<WatchItem>,
    buffered: Arc<AtomicUsize>,
    /// Bytes in all buffers of the hub.
    total: Arc<AtomicUsize>,
}

impl LiveFeed {
    /// Events have left the buffer.
    fn taken(&self, bytes: usize) {
        self.buffered.fetch_sub(bytes, Ordering::AcqRel);
        self.total.fetch_sub(bytes, Ordering::AcqRel);
    }
}

impl Drop for LiveFeed {
    fn drop(&mut self) {
        // Nothing comes after this; what is left goes with the buffer.
        self.items.close();
        while let Ok(item) = self.items.try_recv() {
            if let WatchItem::Events(events) = &item {
                self.taken(events.weight());
            }
        }
    }
}

/// One watch. Dropping it ends it.
pub struct WatchStream {
    hub: Arc<Hub>,
    reader: Reader,
    pool: Pool,
    filter: Arc<WatchFilter>,
    /// First revision not delivered yet.
    next: Revision,
    mode: Mode,
    /// Taken from its source, not returned yet: the caller may drop the future in between.
    pending: Option<WatchItem>,
    /// Progress was asked for while history was read.
    progress: bool,
    ended: bool,
}

impl WatchStream {
    /// The next item; `None` after a [`WatchItem::Cancelled`]. Cancel safe.
    pub async fn next(&mut self) -> Option<WatchItem> {
        if self.ended {
            return None;
        }
        match self.step().await {
            Ok(item) => Some(item),
            Err(reason) => {
                self.ended = true;
                Some(WatchItem::Cancelled { resume: self.next, reason })
            }
        }
    }

    /// Has a [`WatchItem::Progress`] delivered as soon as all events up to now are.
    pub fn request_progress(&mut self) {
        match &self.mode {
            Mode::Live(feed) if self.hub.progress(feed.id) => {}
            _ => self.progress = true,
        }
    }

    /// First revision that was not delivered yet: where another watch would go on.
    pub fn resume(&self) -> Revision {
        self.next
    }

    async fn step(&mut self) -> Result<WatchItem, WatchError> {
        loop {
            if let Some(item) = self.pending.clone() {
                let item = self.with_previous(item).await?;
                self.pending = None;
                if let WatchItem::Events(events) = &item {
                    self.next = Revision(events.revision.0 + 1);
                }
                return Ok(item);
            }
            match &mut self.mode {
                Mode::Live(feed) => match feed.items.recv().await {
                    Some(item) => {
                        if let WatchItem::Events(events) = &item {
                            feed.taken(events.weight());
                        }
                        self.pending = Some(item);
                    }
                    None => {
                        if defect!(WATCH_REPLAYS_AFTER_SNAPSHOT) {
                            self.next = self.filter.from.unwrap_or(Revision(1));
                        }
                        self.mode = Mode::History(History::default());
                    }
                },
                Mode::History(history) => match history.revisions.pop_front() {
                    Some(events) => self.pending = Some(WatchItem::Events(events)),
                    None => {
                        self.next = self.next.max(Revision(history.complete_to.0 + 1));
                        self.advance().await?;
                    }
                },
            }
        }
    }

    /// Goes live, or reads the next part of history.
    async fn advance(&mut self) -> Result<(), WatchError> {
        if let Some(feed) = self.hub.go_live(&self.filter, self.next, self.progress) {
            self.progress = false;
            self.mode = Mode::Live(feed);
            return Ok(());
        }
        if self.hub.state.lock().stopped {
            return Err(WatchError::Stopped);
        }
        holdfast_env::sometimes!(WATCH_READ_HISTORY);
        let (reader, next) = (self.reader.clone(), self.next);
        let since = Revision(next.0.saturating_sub(1));
        let upto = reader.point().revision;
        let bytes_max = self.hub.history_bytes();
        let read = self.pool.run(move || reader.changes(since, upto, bytes_max, false)).await;
        let changes = match read {
            Ok(Ok(changes)) => changes,
            Ok(Err(holdfast_kv::Error::Compacted { oldest })) => {
                return Err(WatchError::Compacted { oldest });
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "history cannot be read");
                return Err(WatchError::Failed { resume: next });
            }
            Err(error) => {
                tracing::warn!(%error, "history cannot be read now");
                return Err(WatchError::Failed { resume: next });
            }
        };
        let cut = changes.revisions.iter().filter_map(|r| self.filter.cut(r));
        let revisions = cut.map(|revision| detached(&revision)).collect();
        self.mode = Mode::History(History { revisions, complete_to: changes.complete_to });
        Ok(())
    }

    /// Fills in (or leaves out) the versions before, as the watch wants it.
    async fn with_previous(&self, item: WatchItem) -> Result<WatchItem, WatchError> {
        let WatchItem::Events(mut events) = item else { return Ok(item) };
        if !self.filter.previous {
            for event in &mut events.events {
                event.previous = holdfast_kv::Previous::OnDemand;
            }
            return Ok(WatchItem::Events(events));
        }
        let is_known = |e: &Event| e.previous != holdfast_kv::Previous::OnDemand;
        if events.events.iter().all(is_known) {
            return Ok(WatchItem::Events(events));
        }
        let (reader, resume) = (self.reader.clone(), events.revision);
        let filled = self.pool.run(move || fill_previous(&reader, events)).await;
        match filled {
            Ok(Ok(events)) => Ok(WatchItem::Events(events)),
            Ok(Err(_)) | Err(_) => Err(WatchError::Failed { resume }),
        }
    }
}

fn fill_previous(
    reader: &Reader,
    mut events: RevisionEvents,
) -> holdfast_kv::Result<RevisionEvents> {
    for event in &mut events.events {
        if event.previous == holdfast_kv::Previous::OnDemand {
            event.previous = holdfast_kv::Previous::Loaded(reader.previous(event)?);
        }
    }
    Ok(events)
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        let mut state = self.hub.state.lock();
        state.watches -= 1;
        if let Mode::Live(feed) = &self.mode {
            state.remove_live(feed.id);
        }
    }
}
