//! Reading a range's state beside the machine that changes it.
//!
//! Owns: which read point a read sees, what is hidden from it, pages and their bounds.
//! Must never know: whether the read point is fresh enough for the caller; `replica` does.
//! Invariants:
//! * A read of the current state hides what has expired by the clock of its read point. A read at
//!   an explicit revision hides nothing.
//! * Nothing outside the span is shown.
//! * What can be read is judged by the replicated compacted revision, never by what is left.

mod coordination;
mod etcd;
mod history;
mod history_hash;
mod pages;

use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use bytes::Bytes;
use holdfast_lsm::{Cached, Engine, Family, ReadPoint, Record};
use holdfast_model::{LogIndex, RangeEpoch, Revision};

pub use coordination::LeaseInfo;
pub use history::ChangesPage;
pub use history_hash::HistoryHash;
pub use pages::{CountPage, Page, ScanRequest};

use crate::apply::compactable;
use crate::auth::AuthStore;
use crate::command::EtcdAlarmKind;
use crate::progress::at_least_one;
use crate::records::{Class, Due, Floors, Mark};
use crate::working::decode;
use crate::{Alarm as EtcdAlarm, Entry, Error, Result, Truth};

/// How often a current read starts again because compaction overtook it.
const RESTARTS_MAX: usize = 64;

/// What readers see besides the engine; replaced as one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Published {
    /// The last entry of the states it belongs to: it is published before them. [`NEVER`] while
    /// there is no state to belong to.
    pub since: LogIndex,
    pub truth: Option<Truth>,
    pub compacted: Revision,
    pub marks: Vec<Mark>,
    /// By kind and member.
    pub alarms: Vec<EtcdAlarm>,
    pub auth: Arc<AuthStore>,
}

/// No state comes up to it.
const NEVER: LogIndex = LogIndex(u64::MAX);

impl Published {
    /// What stands while one state takes the place of another: everything is refused.
    pub fn withdrawn() -> Self {
        Self { since: NEVER, ..Self::default() }
    }
}

/// What machine and readers share.
#[derive(Default)]
pub(crate) struct SharedState {
    pub published: ArcSwap<Published>,
    pub floors: ArcSwap<Floors>,
    pub sessions: AtomicU64,
    pub session_answers: AtomicU64,
    pub session_bytes: AtomicU64,
    /// Told of every error that is nobody's but this replica's.
    alarm: OnceLock<Alarm>,
}

type Alarm = Box<dyn Fn(&Error) + Send + Sync>;

impl SharedState {
    /// Raises the alarm where `result` means that this replica is damaged or its disk is.
    fn noted<T>(&self, result: Result<T>) -> Result<T> {
        if let (Err(error), Some(alarm)) = (&result, self.alarm.get())
            && (error.is_corruption() || error.is_fatal())
        {
            alarm(error);
        }
        result
    }
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

/// How full the session table is; its bound is
/// [`SESSION_TABLE_BYTES_MAX`](crate::SESSION_TABLE_BYTES_MAX).
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

    /// Has `alarm` called with every error that means that the replica is damaged or its disk
    /// fails, whichever view of the state meets it. It must return at once; only the first one
    /// given counts.
    pub fn on_damage(&self, alarm: impl Fn(&Error) + Send + Sync + 'static) {
        // A second alarm is refused by contract; the first one stays.
        let _ = self.shared.alarm.set(Box::new(alarm));
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

    /// The alarms that are raised, by kind and member.
    pub fn alarms(&self) -> Vec<EtcdAlarm> {
        self.shared.published.load().alarms.clone()
    }

    /// Whether an alarm says that a replica's data differ from the others': nothing of it should
    /// be told.
    pub fn is_corrupt(&self) -> bool {
        let published = self.shared.published.load();
        published.alarms.last().is_some_and(|worst| worst.kind == EtcdAlarmKind::Corrupt)
    }

    /// The users of the range's keyspace, and what they may.
    ///
    /// Look at the revision again after a read that was allowed by them: it may have seen a later
    /// state, of later rules. Cost: one look.
    ///
    /// # Errors
    /// [`Error::WrongSpan`] before the first configuration, and while a snapshot takes the state's
    /// place: nothing is known of users then, and nothing is served.
    pub fn auth(&self) -> Result<Arc<AuthStore>> {
        let published = self.shared.published.load();
        match published.truth {
            Some(_) => Ok(published.auth.clone()),
            None => Err(Error::WrongSpan { epoch: RangeEpoch(0) }),
        }
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
            shown(view, key, record)
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

    /// Like [`Reader::multi_get`], but says [`Cached::NeedsIo`] of keys that are not in memory:
    /// ask for these again at the same state, in parts on threads that may wait for the disk.
    ///
    /// # Errors
    /// As [`Reader::multi_get`].
    pub fn multi_get_cached(&self, keys: &[Bytes], at: At) -> Result<Vec<Cached<Option<Entry>>>> {
        self.look(at, |view| {
            for key in keys {
                self.check_span(view, key)?;
            }
            let slices: Vec<&[u8]> = keys.iter().map(Bytes::as_ref).collect();
            let records = self.engine.multi_get_cached(Family::Data, &slices, view.point)?;
            let shown = |(key, record): (&Bytes, _)| {
                Ok(match record {
                    Cached::Answer(record) => Cached::Answer(shown(view, key, record)?),
                    Cached::NeedsIo => Cached::NeedsIo,
                })
            };
            keys.iter().zip(records).map(shown).collect()
        })
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
        let floors = **self.shared.floors.load();
        let mut first: Option<u64> = None;
        for class in Class::ALL {
            let due = self.shared.noted(first_due_ms(&self.engine, class, floors.of(class)))?;
            first = first.into_iter().chain(due).min();
        }
        Ok(first)
    }

    /// As [`Reader::next_due_ms`], of leases, locks and sessions alone: they are waited for.
    ///
    /// # Errors
    /// As [`Reader::lease`].
    pub fn next_urgent_due_ms(&self) -> Result<Option<u64>> {
        let floors = **self.shared.floors.load();
        let class = Class::Urgent;
        self.shared.noted(first_due_ms(&self.engine, class, floors.of(class)))
    }

    /// A hash of the whole logical state; see `hash.rs` for what it covers.
    ///
    /// Equal for two replicas at the same applied index, whatever their engines look like. Cost:
    /// reads everything.
    ///
    /// # Errors
    /// As [`Reader::lease`]; [`Error::Unsettled`] where entries were applied or a snapshot took the
    /// state's place meanwhile.
    pub fn state_hash(&self) -> Result<u64> {
        let (point, published) = (self.point(), self.shared.published.load_full());
        let hash = crate::hash::state_hash(&self.engine, point, &published);
        let hash = self.shared.noted(hash)?;
        let now = self.shared.published.load();
        if published.since > point.index || !Arc::ptr_eq(&published, &now) || self.point() != point
        {
            return Err(Error::Unsettled);
        }
        Ok(hash)
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
                answer => return self.shared.noted(answer),
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

/// Internal families keep the latest record alone, so they are read as they are now.
fn newest() -> ReadPoint {
    ReadPoint { revision: Revision(u64::MAX), index: LogIndex(u64::MAX), clock_ms: u64::MAX }
}

/// When the first entry of a class of the expiry index at or after `from_ms` is due.
pub(crate) fn first_due_ms(engine: &Engine, class: Class, from_ms: u64) -> Result<Option<u64>> {
    let (first, last) = class.interval(from_ms, u64::MAX);
    let bounds = (Bound::Included(first), Bound::Excluded(last));
    let mut scan = engine.scan(Family::Expiry, bounds, newest(), false)?;
    let first = scan.next().transpose()?;
    first.map(|(key, _)| Due::from_key(&key).map(|due| due.at_ms)).transpose()
}
