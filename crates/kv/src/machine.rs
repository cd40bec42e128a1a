//! The state machine: entries in, outcomes and events out.

use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use holdfast_env::defect;
use holdfast_lsm::{Engine, Family, ReadPoint};
use holdfast_model::{LogIndex, RangeEpoch, Revision, Span};

use crate::apply::Applier;
use crate::auth::{AuthPart, AuthRole, AuthStore};
use crate::command::Configure;
use crate::decode::{Body, Decoded, decode};
use crate::prefetch::Prepared;
use crate::progress::Progress;
use crate::reader::{Published, Reader, SharedState, first_due_ms};
use crate::records::{
    ALARMS, AUTH, AlarmsRecord, AuthRecord, AuthRoleRecord, AuthUserRecord, COMPACTED, Class,
    CompactedRecord, Floors, MARKS, MarksRecord, TRUTH, auth_part_from_key, auth_parts, unseal,
};
use crate::sessions::Sessions;
use crate::working::Working;
use crate::{Applied, ApplyResult, Error, LogEntry, LogPosition, Result, Truth};

/// After so many removals from the expiry index its first live entry is looked for again, so that
/// readers and `Expire` do not wade through tombstones.
const UNINDEXED_MAX: u64 = 4_096;

/// The state of one range: the only writer of its engine's data.
///
/// `apply` is called by one task; readers are cloned off and work beside it.
pub struct StateMachine {
    engine: Arc<Engine>,
    shared: Arc<SharedState>,
    progress: Progress,
    sessions: Sessions,
    floors: Floors,
    /// Entries removed from the expiry index since its floor was last looked for.
    unindexed: u64,
    poisoned: bool,
}

impl StateMachine {
    /// Takes up the state an engine holds: what its durable tables have.
    ///
    /// Entries after [`StateMachine::applied`] are to be applied again; the state then is what it
    /// was before. Cost: reads the session table.
    ///
    /// # Errors
    /// Engine errors; [`Error::MalformedRecord`]: the replica must be replaced.
    pub fn open(engine: Arc<Engine>) -> Result<Self> {
        let shared = Arc::new(SharedState::default());
        let mut machine = Self {
            progress: Progress::load(&engine)?,
            sessions: Sessions::default(),
            engine,
            shared,
            floors: Floors::default(),
            unindexed: 0,
            poisoned: false,
        };
        machine.load()?;
        Ok(machine)
    }

    /// Puts a staged snapshot (see [`holdfast_lsm::Staging`]) in place of the state; readers cloned
    /// off before go on with it. Meanwhile they refuse everything, as before a configuration.
    ///
    /// `gate` is the journal's logical end after it was truncated for the snapshot.
    ///
    /// # Errors
    /// Engine errors: those of [`Engine::replace_from`] that leave the engine as it was leave the
    /// machine as it was. [`Error::MalformedRecord`]: the machine refuses to apply; the replica
    /// must be replaced.
    pub fn install(&mut self, staged: &Path, gate: u64) -> Result<()> {
        let before = self.shared.published.load_full();
        self.withdraw();
        if let Err(error) = self.engine.replace_from(staged, gate) {
            self.shared.published.store(before);
            return Err(error.into());
        }
        self.replaced()
    }

    /// Lets readers refuse everything, as before a configuration, until
    /// [`StateMachine::replaced`]. Without it readers would judge a snapshot's state by the old
    /// span for a moment.
    pub fn withdraw(&self) {
        self.shared.published.store(Arc::new(Published::withdrawn()));
    }

    /// Takes up the state of the engine after [`Engine::replace_from`], where somebody else called
    /// it; [`StateMachine::withdraw`] comes before that.
    ///
    /// # Errors
    /// As [`StateMachine::open`]; the machine then refuses to apply.
    pub fn replaced(&mut self) -> Result<()> {
        self.poisoned = true;
        self.progress = Progress::load(&self.engine)?;
        let before = std::mem::take(&mut self.sessions);
        self.load()?;
        if defect!(SESSIONS_KEPT_OVER_SNAPSHOT) {
            self.sessions = before;
        }
        self.poisoned = false;
        Ok(())
    }

    fn load(&mut self) -> Result<()> {
        let point = self.engine.read_point();
        let meta = |key: &Bytes| -> Result<Option<Bytes>> {
            Ok(self.engine.get(Family::Meta, key, point)?.map(|record| record.value))
        };
        let mut published = Published { since: point.index, ..Published::default() };
        if let Some(record) = self.engine.get(Family::Meta, &TRUTH, point)? {
            let configure: Configure = unseal("meta", record.value)?;
            let bad = Error::MalformedRecord { family: "meta", what: "truth without a span" };
            let truth = Truth::of(&configure).ok_or(bad)?;
            self.tell_span(truth, LogIndex(record.seq));
            published.truth = Some(truth);
        }
        if let Some(value) = meta(&COMPACTED)? {
            let record: CompactedRecord = unseal("meta", value)?;
            published.compacted = Revision(record.revision);
        }
        if let Some(value) = meta(&MARKS)? {
            let record: MarksRecord = unseal("meta", value)?;
            published.marks = record.marks;
        }
        if let Some(value) = meta(&ALARMS)? {
            let record: AlarmsRecord = unseal("meta", value)?;
            published.alarms = record.alarms()?;
        }
        if let Some(value) = meta(&AUTH)? {
            published.auth = Arc::new(self.load_auth(unseal("meta", value)?, point)?);
        }
        self.engine.set_watermark(published.compacted);
        self.shared.published.store(Arc::new(published));
        self.sessions = Sessions::load(&self.engine, point)?;
        self.floors = Floors::default();
        self.raise_floors(point.clock_ms)?;
        self.unindexed = 0;
        self.publish_counters();
        Ok(())
    }

    fn load_auth(&self, state: AuthRecord, point: ReadPoint) -> Result<AuthStore> {
        let mut auth = state.store()?;
        let (first, last) = auth_parts();
        let bounds = (Bound::Included(first), Bound::Excluded(last));
        for found in self.engine.scan(Family::Meta, bounds, point, false)? {
            let (key, record) = found?;
            match auth_part_from_key(&key)? {
                AuthPart::User(name) => {
                    let record: AuthUserRecord = unseal("meta", record.value)?;
                    auth.set_user(&name, Some(record.user()));
                }
                AuthPart::Role(name) => {
                    let record: AuthRoleRecord = unseal("meta", record.value)?;
                    auth.set_role(&name, Some(AuthRole::new(record.permissions)));
                }
                AuthPart::State => {}
            }
        }
        Ok(auth)
    }

    /// How far the state has come.
    pub fn applied(&self) -> Applied {
        self.progress.applied().clone()
    }

    /// How far the state would have come after a crash now.
    pub fn durable_applied(&self) -> Applied {
        self.progress.durable(self.engine.durable_point())
    }

    /// A view for readers, cheap to clone.
    pub fn reader(&self) -> Reader {
        Reader::new(self.engine.clone(), self.shared.clone())
    }

    /// The engine below.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Decodes and checks committed entries, and looks up in memory what they will ask for. Read
    /// what is cold ([`Prepared::take_cold`]) before they are applied: what is not read then is
    /// read by apply. Nothing may be applied in between. Cost: memory alone.
    ///
    /// # Errors
    /// As [`StateMachine::apply`], which nothing was applied by.
    pub fn prepare(&self, entries: &[LogEntry]) -> Result<Prepared> {
        if self.poisoned {
            return Err(Error::Poisoned);
        }
        let decoded = decode(entries, self.progress.next_index())?;
        let base = self.progress.applied().point;
        Prepared::new(&self.engine, base, decoded, self.floors)
    }

    /// Carries out committed entries, in the order of the log.
    ///
    /// Everything they change becomes one engine batch and visible at once. `gate` is the
    /// journal's logical end after the last of them: the change does not become durable here
    /// before the journal is durable up to it. Entries need not be cut in any particular way, the
    /// state comes out the same. Waits for the disk where something is not in memory.
    ///
    /// # Errors
    /// [`Error::OutOfOrder`], [`Error::UnknownVersion`], [`Error::UnknownOperation`],
    /// [`Error::MalformedEntry`]: nothing was applied; stop the replica. Engine errors: the
    /// machine refuses further calls ([`Error::Poisoned`]); stop the replica.
    pub fn apply(&mut self, entries: &[LogEntry], gate: u64) -> Result<ApplyResult> {
        let prepared = self.prepare(entries)?;
        self.apply_prepared(prepared, gate)
    }

    /// [`StateMachine::apply`] of entries that were prepared. Cost: memory, where what was cold
    /// has been read.
    ///
    /// # Errors
    /// Engine errors, as [`StateMachine::apply`].
    ///
    /// # Panics
    /// If something was applied since they were prepared.
    pub fn apply_prepared(&mut self, prepared: Prepared, gate: u64) -> Result<ApplyResult> {
        let point = self.progress.applied().point;
        assert_eq!(prepared.base, point, "entries are prepared for the state they are applied to");
        let Some(last) = prepared.decoded.last().map(|entry| entry.position) else {
            return Ok(ApplyResult { point, ..ApplyResult::default() });
        };
        self.poisoned = true;
        let result = self.apply_decoded(prepared, last, gate)?;
        self.poisoned = false;
        Ok(result)
    }

    fn apply_decoded(
        &mut self,
        prepared: Prepared,
        last: LogPosition,
        gate: u64,
    ) -> Result<ApplyResult> {
        let Prepared { decoded, known, base, .. } = prepared;
        let positions: Vec<LogPosition> = decoded.iter().map(|entry| entry.position).collect();
        let work = Working::new(&self.engine, base, known, self.floors);
        let published = self.shared.published.load_full();
        let mut applier = Applier::new(work, &mut self.sessions, &published);
        let mut outcomes = Vec::with_capacity(positions.len());
        let mut memberships = Vec::new();
        for Decoded { position, body } in decoded {
            outcomes.push(match body {
                Body::Envelope(envelope) => applier.envelope(envelope, position.index.0)?,
                Body::Membership(membership) => {
                    memberships.push((position, membership));
                    Vec::new()
                }
                Body::Blank => Vec::new(),
            });
        }
        let changes = applier.finish(last, memberships.last());
        self.floors = changes.floors;
        self.unindexed += changes.unindexed;
        // Before the batch: a reader may refuse what it could still have, never the reverse.
        if let Some(published) = changes.published {
            self.shared.published.store(Arc::new(published));
        }
        self.publish_counters();
        self.engine.write(changes.batch, changes.point, gate)?;
        if let Some(truth) = changes.truth {
            self.tell_span(truth, changes.point.index);
        }
        if let Some(compacted) = changes.compacted {
            self.engine.set_watermark(compacted);
        }
        self.progress.advance(positions.into_iter(), memberships, changes.point);
        self.progress.forget_before(self.engine.durable_point());
        if self.unindexed >= UNINDEXED_MAX {
            self.unindexed = 0;
            self.raise_floors(changes.point.clock_ms)?;
            self.publish_counters();
        }
        Ok(ApplyResult {
            outcomes,
            events: changes.events,
            grants: changes.grants,
            truth: changes.truth,
            compacted: changes.compacted,
            due_ms: changes.due_ms,
            urgent_due_ms: changes.urgent_due_ms,
            point: changes.point,
        })
    }

    /// Lets the engine drop the keys that lie outside the span since the entry at `since`, or one
    /// before it. Readers and apply judge by the truth and never see them.
    fn tell_span(&self, truth: Truth, since: LogIndex) {
        // A range that has always owned everything has nothing to drop.
        if truth.span != Span::ALL || truth.epoch > RangeEpoch(1) {
            self.engine.set_span(truth.epoch.0, since, Arc::new(move |key| truth.owns(key)));
        }
    }

    fn publish_counters(&self) {
        let shared = &self.shared;
        shared.floors.store(Arc::new(self.floors));
        shared.sessions.store(self.sessions.len(), Ordering::Relaxed);
        shared.session_answers.store(self.sessions.answers(), Ordering::Relaxed);
        shared.session_bytes.store(self.sessions.bytes(), Ordering::Relaxed);
    }

    /// Looks for the first live entry of each class of the expiry index; where there is none, no
    /// later one can be due before `clock_ms`.
    fn raise_floors(&mut self, clock_ms: u64) -> Result<()> {
        for class in Class::ALL {
            let floor_ms = self.floors.of(class);
            let first = first_due_ms(&self.engine, class, floor_ms)?;
            self.floors.set(class, first.unwrap_or(clock_ms).max(floor_ms));
        }
        Ok(())
    }
}
