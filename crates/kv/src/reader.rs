//! Reading a range's state beside the machine that changes it.
//!
//! Owns: which read point a read sees, what is hidden from it, pages and their bounds.
//! Must never know: whether the read point is fresh enough for the caller; `replica` does.
//! Invariants:
//! * A read of the current state hides what has expired by the clock of its read point. A read at
//!   an explicit revision hides nothing.
//! * Nothing outside the span is shown.
//! * What can be read is judged by the replicated compacted revision, never by what is left.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use bytes::{BufMut, Bytes, BytesMut};
use holdfast_lsm::{Cached, Engine, Family, ReadPoint, Record};
use holdfast_model::limits::{SCAN_PAGE_BYTES_MAX, SCAN_PAGE_KEYS_MAX};
use holdfast_model::{LeaseId, LogIndex, RangeEpoch, Revision};

use crate::apply::{compactable, state_of};
use crate::progress::at_least_one;
use crate::records::{
    Attachment, Due, LeaseRecord, LockRecord, Mark, attachment_from_key, attachment_key,
    attachments_of, lease_key, unseal,
};
use crate::working::{decode, interval};
use crate::{Entry, Error, Event, EventKind, LockState, Previous, Result, RevisionEvents, Truth};

/// Most keys one page looks at, hidden and foreign ones included.
const PAGE_EXAMINED_MAX: usize = 10_000;
/// Most keys one `count` looks at.
const COUNT_EXAMINED_MAX: usize = 100_000;
/// How often a current read starts again because compaction overtook it.
const RESTARTS_MAX: usize = 64;

/// What readers see besides the engine; replaced as one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Published {
    pub truth: Option<Truth>,
    pub compacted: Revision,
    pub marks: Vec<Mark>,
}

/// What machine and readers share.
#[derive(Default)]
pub(crate) struct SharedState {
    pub published: ArcSwap<Published>,
    pub expiry_floor_ms: AtomicU64,
    pub sessions: AtomicU64,
    pub session_answers: AtomicU64,
    pub session_bytes: AtomicU64,
}

/// At which state a read looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The newest published one.
    Current,
    /// A read point of before (of a token or page): its revision, hiding by its clock.
    Point(ReadPoint),
    /// A revision, hiding nothing.
    Revision(Revision),
}

/// What a scan asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanRequest {
    /// First key.
    pub start: Bytes,
    /// First key after the interval; empty means to the end.
    pub end: Bytes,
    /// Most entries of the page; at most `SCAN_PAGE_KEYS_MAX`, 0 means that.
    pub limit: usize,
    /// Most bytes of the page; at most `SCAN_PAGE_BYTES_MAX`, 0 means that. One entry always fits.
    pub bytes_max: usize,
    /// Leave values out.
    pub keys_only: bool,
    /// From the last key down.
    pub reverse: bool,
    /// At which state.
    pub at: At,
}

impl ScanRequest {
    /// The first page of all keys of `[start, end)` of the current state.
    pub fn new(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        Self {
            start: start.into(),
            end: end.into(),
            limit: 0,
            bytes_max: 0,
            keys_only: false,
            reverse: false,
            at: At::Current,
        }
    }
}

/// One page of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// In order of keys; may be empty while there is more, where much was hidden.
    pub entries: Vec<Entry>,
    /// Where the next page goes on: its `start`, or its `end` in reverse. None on the last page.
    pub resume: Option<Bytes>,
    /// The read point of the page; pass it as `At::Point` for the next.
    pub point: ReadPoint,
}

/// A part of a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CountPage<K> {
    /// How many keys were found.
    pub count: u64,
    /// Where to go on; none where the count is complete.
    pub resume: Option<K>,
    /// The read point of the count.
    pub point: ReadPoint,
}

/// Changes in order, and how far they are complete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangesPage {
    /// Whole revisions, ascending; those that touched no key are left out.
    pub revisions: Vec<RevisionEvents>,
    /// Everything up to this revision is told; go on from here.
    pub complete_to: Revision,
}

/// A lease as an onlooker sees it. It may have expired and wait for its removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    /// The lease.
    pub id: LeaseId,
    /// Its time to live, milliseconds.
    pub ttl_ms: u64,
    /// Range time of its expiry, milliseconds.
    pub expires_at_ms: u64,
    /// How many keys and locks are attached.
    pub attached: u64,
}

/// How full the session table is; judge by it before proposing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionStats {
    /// Sessions, ended ones whose id is still refused included.
    pub sessions: u64,
    /// Remembered answers.
    pub answers: u64,
    /// What the table weighs, bytes.
    pub bytes: u64,
}

/// A view of one range's state. Cheap to clone; never blocks `apply`.
#[derive(Clone)]
pub struct Reader {
    engine: Arc<Engine>,
    shared: Arc<SharedState>,
}

/// What a read looks at.
struct View {
    point: ReadPoint,
    /// Range time by which entries are hidden; none hides nothing.
    hide_ms: Option<u64>,
    truth: Truth,
}

impl View {
    fn shows(&self, entry: &Entry) -> bool {
        self.hide_ms.is_none_or(|clock_ms| !entry.is_expired(clock_ms))
    }
}

impl Reader {
    pub(crate) fn new(engine: Arc<Engine>, shared: Arc<SharedState>) -> Self {
        Self { engine, shared }
    }

    /// The newest read point.
    pub fn point(&self) -> ReadPoint {
        at_least_one(self.engine.read_point())
    }

    /// The range's truth; none before its first configuration.
    pub fn truth(&self) -> Option<Truth> {
        self.shared.published.load().truth
    }

    /// The oldest readable revision; 0 where nothing was compacted.
    pub fn compacted(&self) -> Revision {
        self.shared.published.load().compacted
    }

    /// The revision the range's history allows to compact to at range time `now_ms`; what a
    /// leader proposes as `Compact`. None where there is nothing to gain.
    pub fn compactable(&self, now_ms: u64) -> Option<Revision> {
        let point = self.point();
        let published = self.shared.published.load();
        let history = published.truth?.history;
        compactable(history, &published.marks, point, published.compacted, now_ms)
    }

    /// The entry of `key`.
    ///
    /// # Errors
    /// [`Error::Compacted`], [`Error::Future`], [`Error::WrongSpan`]: tell the caller. Others:
    /// the replica stops.
    pub fn get(&self, key: &Bytes, at: At) -> Result<Option<Entry>> {
        self.look(at, |view| {
            self.check_span(view, key)?;
            let record = self.engine.get(Family::Data, key, view.point)?;
            Ok(shown(view, key, record)?)
        })
    }

    /// Like [`Reader::get`], but says [`Cached::NeedsIo`] instead of reading from the disk.
    ///
    /// # Errors
    /// As [`Reader::get`].
    pub fn get_cached(&self, key: &Bytes, at: At) -> Result<Cached<Option<Entry>>> {
        self.look(at, |view| {
            self.check_span(view, key)?;
            Ok(match self.engine.get_cached(Family::Data, key, view.point)? {
                Cached::Answer(record) => Cached::Answer(shown(view, key, record)?),
                Cached::NeedsIo => Cached::NeedsIo,
            })
        })
    }

    /// The entries of many keys at one state, in the order of `keys`.
    ///
    /// # Errors
    /// As [`Reader::get`]; one key outside the span fails them all.
    pub fn multi_get(&self, keys: &[Bytes], at: At) -> Result<Vec<Option<Entry>>> {
        self.look(at, |view| {
            for key in keys {
                self.check_span(view, key)?;
            }
            let slices: Vec<&[u8]> = keys.iter().map(Bytes::as_ref).collect();
            let records = self.engine.multi_get(Family::Data, &slices, view.point)?;
            keys.iter().zip(records).map(|(key, record)| shown(view, key, record)).collect()
        })
    }

    /// One page of the keys of an interval, in order.
    ///
    /// # Errors
    /// As [`Reader::get`]; the span is not checked but shown.
    pub fn scan(&self, request: &ScanRequest) -> Result<Page> {
        let limit = match request.limit {
            0 => SCAN_PAGE_KEYS_MAX,
            limit => limit.min(SCAN_PAGE_KEYS_MAX),
        };
        let bytes_max = match request.bytes_max {
            0 => SCAN_PAGE_BYTES_MAX,
            bytes => bytes.min(SCAN_PAGE_BYTES_MAX),
        };
        self.look(request.at, |view| {
            let mut page = Page { entries: Vec::new(), resume: None, point: view.point };
            let mut bytes = 0;
            page.resume = self.walk(view, request, PAGE_EXAMINED_MAX, |mut entry| {
                if request.keys_only {
                    entry.value = Bytes::new();
                }
                let weight = entry.weight();
                let full = page.entries.len() == limit || bytes + weight > bytes_max;
                if full && !page.entries.is_empty() {
                    return false;
                }
                bytes += weight;
                page.entries.push(entry);
                true
            })?;
            Ok(page)
        })
    }

    /// How many keys lie in `[start, end)`; looks at a bounded number of keys per call.
    ///
    /// # Errors
    /// As [`Reader::scan`].
    pub fn count(&self, start: &Bytes, end: &Bytes, at: At) -> Result<CountPage<Bytes>> {
        let request = ScanRequest { at, ..ScanRequest::new(start.clone(), end.clone()) };
        self.look(at, |view| {
            let mut count = 0;
            let resume = self.walk(view, &request, COUNT_EXAMINED_MAX, |_| {
                count += 1;
                true
            })?;
            Ok(CountPage { count, resume, point: view.point })
        })
    }

    /// Visits shown entries until `take` declines one or `examined_max` keys were looked at; then
    /// gives the place to go on from.
    fn walk(
        &self,
        view: &View,
        request: &ScanRequest,
        examined_max: usize,
        mut take: impl FnMut(Entry) -> bool,
    ) -> Result<Option<Bytes>> {
        let bounds = interval(&request.start, &request.end);
        if !request.end.is_empty() && request.end <= request.start {
            return Ok(None);
        }
        let scan = self.engine.scan(Family::Data, bounds, view.point, request.reverse)?;
        for (examined, found) in (1..).zip(scan) {
            let (key, record) = found?;
            let entry = decode(key, record)?;
            let key = entry.key.clone();
            let visible = view.shows(&entry) && view.truth.owns(&key);
            if visible && !take(entry) {
                return Ok(Some(if request.reverse { successor(&key) } else { key }));
            }
            if examined >= examined_max {
                return Ok(Some(if request.reverse { key } else { successor(&key) }));
            }
        }
        Ok(None)
    }

    /// Changes of revisions in `(since, upto]`, for watchers that were not there.
    ///
    /// At most about `bytes_max` bytes, but at least one whole revision where there is one. With
    /// `previous` every event carries the version before, as far as history reaches.
    ///
    /// # Errors
    /// [`Error::Compacted`] where changes after `since` are given up: the watcher must start over.
    pub fn changes(
        &self,
        since: Revision,
        upto: Revision,
        bytes_max: usize,
        previous: bool,
    ) -> Result<ChangesPage> {
        let truth = self.configured()?;
        if since.0 + 1 < self.compacted().0 {
            return Err(Error::Compacted { oldest: self.compacted() });
        }
        let newest = self.point().revision;
        let upto = upto.min(newest);
        if since >= upto {
            return Ok(ChangesPage { revisions: Vec::new(), complete_to: since.min(newest) });
        }
        let found = self.engine.changes(since, upto, bytes_max)?;
        let mut page = ChangesPage { revisions: Vec::new(), complete_to: found.complete_to };
        for change in found.changes {
            if !truth.owns(&change.key) {
                continue;
            }
            let (kind, entry) = match change.value {
                Some(value) => (EventKind::Put, Entry::decode(change.key, change.revision, value)?),
                None => {
                    let (key, revision) = (change.key, change.revision);
                    (EventKind::Delete, Entry { key, revision, ..Entry::default() })
                }
            };
            let mut event = Event { kind, entry, previous: Previous::OnDemand };
            if previous {
                event.previous = Previous::Loaded(self.previous(&event)?);
            }
            match page.revisions.last_mut() {
                Some(last) if last.revision == change.revision => last.events.push(event),
                _ => {
                    let revision = change.revision;
                    page.revisions.push(RevisionEvents { revision, events: vec![event] });
                }
            }
        }
        Ok(page)
    }

    /// The version before an event; none where there was none or history has lost it.
    ///
    /// # Errors
    /// Engine errors.
    pub fn previous(&self, event: &Event) -> Result<Option<Entry>> {
        if let Previous::Loaded(previous) = &event.previous {
            return Ok(previous.clone());
        }
        let key = &event.entry.key;
        let before = Revision(event.entry.revision.0.saturating_sub(1));
        if before < self.compacted() {
            return Ok(None);
        }
        match self.engine.get(Family::Data, key, self.point().at_revision(before)) {
            Ok(record) => record.map(|record| decode(key.clone(), record)).transpose(),
            Err(holdfast_lsm::Error::Compacted { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A lease.
    ///
    /// # Errors
    /// Engine errors; [`Error::MalformedRecord`].
    pub fn lease(&self, id: LeaseId) -> Result<Option<LeaseInfo>> {
        let record = self.engine.get(Family::Lease, &lease_key(id), newest())?;
        record.map(|record| lease_info(id, record.value)).transpose()
    }

    /// At most `limit` leases after `after`, by id.
    ///
    /// # Errors
    /// As [`Reader::lease`].
    pub fn leases(&self, after: LeaseId, limit: usize) -> Result<Vec<LeaseInfo>> {
        let mut leases = Vec::new();
        let mut next = after.0.checked_add(1);
        while let Some(from) = next.filter(|_| leases.len() < limit) {
            let bounds = (Bound::Included(lease_key(LeaseId(from))), Bound::Unbounded);
            let mut scan = self.engine.scan(Family::Lease, bounds, newest(), false)?;
            let Some((key, record)) = scan.next().transpose()? else { break };
            let bytes = key.first_chunk::<8>();
            let id = LeaseId(bytes.map_or(u64::MAX, |bytes| u64::from_be_bytes(*bytes)));
            // An attachment whose lease is ending has no record before it.
            if key.len() == 8 {
                leases.push(lease_info(id, record.value)?);
            }
            next = id.0.checked_add(1);
        }
        Ok(leases)
    }

    /// At most `limit` keys attached to a lease, after `after` (empty: from the first).
    ///
    /// # Errors
    /// As [`Reader::lease`].
    pub fn lease_keys(&self, id: LeaseId, after: &Bytes, limit: usize) -> Result<Vec<Bytes>> {
        let (_, end) = attachments_of(id);
        let from = attachment_key(id, &Attachment::Key(after.clone()));
        let bounds = (Bound::Excluded(from), Bound::Excluded(end));
        let mut keys = Vec::new();
        for found in self.engine.scan(Family::Lease, bounds, newest(), false)? {
            match attachment_from_key(&found?.0)? {
                Attachment::Key(key) if keys.len() < limit => keys.push(key),
                Attachment::Key(_) | Attachment::Lock(_) => break,
            }
        }
        Ok(keys)
    }

    /// A lock as it stands at the newest read point; a holder whose time has come is not shown,
    /// one that lives by a lease is shown with the expiry of the lease.
    ///
    /// # Errors
    /// [`Error::WrongSpan`]; otherwise as [`Reader::lease`].
    pub fn lock(&self, name: &Bytes) -> Result<LockState> {
        let truth = self.configured()?;
        if !truth.owns(name) {
            return Err(Error::WrongSpan { epoch: truth.epoch });
        }
        let clock_ms = self.point().clock_ms;
        let Some(record) = self.engine.get(Family::Lock, name, newest())? else {
            return Ok(LockState::default());
        };
        let mut lock: LockRecord = unseal("lock", record.value)?;
        if let Some(holder) = &mut lock.holder {
            if holder.lease != 0 {
                let lease = self.lease(LeaseId(holder.lease))?;
                holder.expires_at_ms = lease.map_or(0, |lease| lease.expires_at_ms);
            }
            if holder.expires_at_ms <= clock_ms {
                lock.holder = None;
            }
        }
        Ok(state_of(&lock))
    }

    /// How full the session table is.
    pub fn session_stats(&self) -> SessionStats {
        SessionStats {
            sessions: self.shared.sessions.load(Ordering::Relaxed),
            answers: self.shared.session_answers.load(Ordering::Relaxed),
            bytes: self.shared.session_bytes.load(Ordering::Relaxed),
        }
    }

    /// Range time of the earliest thing an `Expire` would look at; none where nothing is due ever.
    ///
    /// # Errors
    /// As [`Reader::lease`].
    pub fn next_due_ms(&self) -> Result<Option<u64>> {
        first_due_ms(&self.engine, self.shared.expiry_floor_ms.load(Ordering::Acquire))
    }

    /// A hash of the whole logical state; see `hash.rs` for what it covers.
    ///
    /// Equal for two replicas at the same applied index, whatever their engines look like. Call it
    /// while nothing is applied. Cost: reads everything.
    ///
    /// # Errors
    /// As [`Reader::lease`].
    pub fn state_hash(&self) -> Result<u64> {
        let published = self.shared.published.load();
        crate::hash::state_hash(&self.engine, self.point(), &published)
    }

    /// Runs a read at a state; a current read that compaction has overtaken starts again.
    fn look<T>(&self, at: At, read: impl Fn(&View) -> Result<T>) -> Result<T> {
        let mut restarts = 0;
        loop {
            let answer = self.view(at).and_then(|view| read(&view));
            match answer {
                Err(Error::Compacted { .. }) if at == At::Current && restarts < RESTARTS_MAX => {
                    restarts += 1;
                }
                answer => return answer,
            }
        }
    }

    fn view(&self, at: At) -> Result<View> {
        // The point first: what is published after it may only refuse more.
        let newest = self.point();
        let published = self.shared.published.load();
        let truth = published.truth.ok_or(Error::WrongSpan { epoch: RangeEpoch(0) })?;
        let (point, hide_ms) = match at {
            At::Current => {
                return Ok(View { point: newest, hide_ms: Some(newest.clock_ms), truth });
            }
            At::Point(point) => (point, Some(point.clock_ms)),
            At::Revision(revision) => (newest.at_revision(revision), None),
        };
        if point.revision > newest.revision || point.clock_ms > newest.clock_ms {
            return Err(Error::Future { newest: newest.revision });
        }
        if point.revision < published.compacted {
            return Err(Error::Compacted { oldest: published.compacted });
        }
        Ok(View { point: ReadPoint { index: newest.index, ..point }, hide_ms, truth })
    }

    fn check_span(&self, view: &View, key: &[u8]) -> Result<()> {
        if view.truth.owns(key) {
            Ok(())
        } else {
            Err(Error::WrongSpan { epoch: view.truth.epoch })
        }
    }

    fn configured(&self) -> Result<Truth> {
        self.truth().ok_or(Error::WrongSpan { epoch: RangeEpoch(0) })
    }
}

fn shown(view: &View, key: &Bytes, record: Option<Record>) -> Result<Option<Entry>> {
    let Some(record) = record else { return Ok(None) };
    let entry = decode(key.clone(), record)?;
    Ok(Some(entry).filter(|entry| view.shows(entry)))
}

fn lease_info(id: LeaseId, value: Bytes) -> Result<LeaseInfo> {
    let record: LeaseRecord = unseal("lease", value)?;
    Ok(LeaseInfo {
        id,
        ttl_ms: record.ttl_ms,
        expires_at_ms: record.expires_at_ms,
        attached: record.attached,
    })
}

/// Internal families keep the latest record alone, so they are read as they are now.
fn newest() -> ReadPoint {
    ReadPoint { revision: Revision(u64::MAX), index: LogIndex(u64::MAX), clock_ms: u64::MAX }
}

/// When the first entry of the expiry index at or after `from_ms` is due.
pub(crate) fn first_due_ms(engine: &Engine, from_ms: u64) -> Result<Option<u64>> {
    let bounds = (Bound::Included(Due::first_key(from_ms)), Bound::Unbounded);
    let mut scan = engine.scan(Family::Expiry, bounds, newest(), false)?;
    let first = scan.next().transpose()?;
    first.map(|(key, _)| Due::from_key(&key).map(|due| due.at_ms)).transpose()
}

/// The smallest key after `key`.
fn successor(key: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}
