//! The state machine: entries in, outcomes and events out.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use holdfast_lsm::{Engine, Family, ReadPoint};
use holdfast_model::{LogIndex, Revision};
use prost::Message;

use crate::apply::Applier;
use crate::command::{
    APPLY_VERSION, Command, CompareTarget, Configure, Envelope, Operation, TxnOperation, TxnStep,
};
use crate::progress::{Progress, applied_record, membership_record};
use crate::reader::{Published, Reader, SharedState, first_due_ms};
use crate::records::{
    APPLIED, COMPACTED, CompactedRecord, MARKS, MEMBERSHIP, MarksRecord, TRUTH, unseal,
};
use crate::sessions::Sessions;
use crate::working::Working;
use crate::{Applied, ApplyResult, Error, Kind, LogEntry, LogPosition, Outcome, Result, Truth};

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
    expiry_floor_ms: u64,
    /// Entries removed from the expiry index since its floor was last looked for.
    unindexed: u64,
    poisoned: bool,
}

/// A decoded entry.
struct Decoded {
    position: LogPosition,
    body: Body,
}

enum Body {
    Envelope(Envelope),
    Membership(Bytes),
    Blank,
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
            expiry_floor_ms: 0,
            unindexed: 0,
            poisoned: false,
        };
        machine.load()?;
        Ok(machine)
    }

    /// Takes up the state of the engine after [`Engine::replace_from`]; readers cloned off before
    /// go on with it.
    ///
    /// # Errors
    /// As [`StateMachine::open`]; the machine then refuses to apply.
    pub fn replaced(&mut self) -> Result<()> {
        self.poisoned = true;
        self.progress = Progress::load(&self.engine)?;
        self.load()?;
        self.poisoned = false;
        Ok(())
    }

    fn load(&mut self) -> Result<()> {
        let point = self.engine.read_point();
        let meta = |key: &Bytes| -> Result<Option<Bytes>> {
            Ok(self.engine.get(Family::Meta, key, point)?.map(|record| record.value))
        };
        let mut published = Published::default();
        if let Some(value) = meta(&TRUTH)? {
            let configure: Configure = unseal("meta", value)?;
            let bad = Error::MalformedRecord { family: "meta", what: "truth without a span" };
            published.truth = Some(Truth::of(&configure).ok_or(bad)?);
        }
        if let Some(value) = meta(&COMPACTED)? {
            let record: CompactedRecord = unseal("meta", value)?;
            published.compacted = Revision(record.revision);
        }
        if let Some(value) = meta(&MARKS)? {
            let record: MarksRecord = unseal("meta", value)?;
            published.marks = record.marks;
        }
        self.engine.set_watermark(published.compacted);
        self.shared.published.store(Arc::new(published));
        self.sessions = Sessions::load(&self.engine, point)?;
        self.expiry_floor_ms = first_due_ms(&self.engine, 0)?.unwrap_or(point.clock_ms);
        self.unindexed = 0;
        self.publish_counters();
        Ok(())
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

    /// Carries out committed entries, in the order of the log.
    ///
    /// Everything they change becomes one engine batch and visible at once. `gate` is the
    /// journal's logical end after the last of them: the change does not become durable here
    /// before the journal is durable up to it. Cost: one `multi_get` of the keys named, then
    /// memory; entries need not be cut in any particular way, the state comes out the same.
    ///
    /// # Errors
    /// [`Error::OutOfOrder`], [`Error::UnknownVersion`], [`Error::UnknownOperation`],
    /// [`Error::MalformedEntry`]: nothing was applied; stop the replica. Engine errors: the
    /// machine refuses further calls ([`Error::Poisoned`]); stop the replica.
    pub fn apply(&mut self, entries: &[LogEntry], gate: u64) -> Result<ApplyResult> {
        if self.poisoned {
            return Err(Error::Poisoned);
        }
        let decoded = self.decode(entries)?;
        let Some(last) = decoded.last().map(|entry| entry.position) else {
            let point = self.progress.applied().point;
            return Ok(ApplyResult { point, ..ApplyResult::default() });
        };
        self.poisoned = true;
        let result = self.apply_decoded(decoded, last, gate)?;
        self.poisoned = false;
        Ok(result)
    }

    /// Decodes all entries before anything is changed.
    fn decode(&self, entries: &[LogEntry]) -> Result<Vec<Decoded>> {
        let mut expected = self.progress.next_index();
        let mut decoded = Vec::with_capacity(entries.len());
        for entry in entries {
            let index = entry.position.index;
            if let Some(expected) = expected.filter(|expected| *expected != index) {
                return Err(Error::OutOfOrder { expected, given: index });
            }
            expected = Some(LogIndex(index.0 + 1));
            let body = match &entry.kind {
                Kind::Normal(payload) => Body::Envelope(decode_envelope(index, payload)?),
                Kind::Membership(membership) => Body::Membership(membership.clone()),
                Kind::Blank => Body::Blank,
            };
            decoded.push(Decoded { position: entry.position, body });
        }
        Ok(decoded)
    }

    fn apply_decoded(
        &mut self,
        decoded: Vec<Decoded>,
        last: LogPosition,
        gate: u64,
    ) -> Result<ApplyResult> {
        let positions: Vec<LogPosition> = decoded.iter().map(|entry| entry.position).collect();
        let base = self.progress.applied().point;
        let mut work = Working::new(&self.engine, base, self.expiry_floor_ms);
        work.fetch(keys_of(&decoded))?;
        let published = self.shared.published.load();
        let mut applier = Applier {
            work,
            sessions: &mut self.sessions,
            truth: published.truth,
            truth_changed: false,
            compacted: published.compacted,
            compacted_changed: false,
            marks: published.marks.clone(),
            marks_changed: false,
            grants: Vec::new(),
            index: 0,
        };
        let mut outcomes: Vec<Vec<Vec<Outcome>>> = Vec::with_capacity(positions.len());
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
        applier.store_marks();
        let Applier { mut work, sessions, truth, compacted, marks, grants, .. } = applier;
        let (truth_changed, compacted_changed) = (applier.truth_changed, applier.compacted_changed);
        sessions.store(&mut work);
        let point =
            ReadPoint { revision: work.revision, index: last.index, clock_ms: work.clock_ms };
        work.set(Family::Meta, APPLIED, Some(applied_record(last, point)));
        if let Some((position, membership)) = memberships.last() {
            let record = membership_record(*position, membership);
            work.set(Family::Meta, MEMBERSHIP, Some(record));
        }
        self.expiry_floor_ms = work.expiry_floor_ms;
        self.unindexed += work.unindexed;
        let earliest_due_ms = work.earliest_due_ms;
        let (batch, events) = work.into_batch(last.index.0);
        // Before the batch: a reader may refuse what it could still have, never the reverse.
        if applier.marks_changed || truth_changed || compacted_changed {
            self.shared.published.store(Arc::new(Published { truth, compacted, marks }));
        }
        self.publish_counters();
        self.engine.write(batch, point, gate)?;
        if compacted_changed {
            self.engine.set_watermark(compacted);
        }
        self.progress.advance(positions.into_iter(), memberships, point);
        self.progress.forget_before(self.engine.durable_point());
        self.raise_expiry_floor()?;
        Ok(ApplyResult {
            outcomes,
            events,
            grants,
            truth: truth.filter(|_| truth_changed),
            compacted: compacted_changed.then_some(compacted),
            due_ms: (earliest_due_ms != u64::MAX).then_some(earliest_due_ms),
            point,
        })
    }

    fn publish_counters(&self) {
        let shared = &self.shared;
        shared.expiry_floor_ms.store(self.expiry_floor_ms, Ordering::Release);
        shared.sessions.store(self.sessions.len(), Ordering::Relaxed);
        shared.session_answers.store(self.sessions.answers(), Ordering::Relaxed);
        shared.session_bytes.store(self.sessions.bytes(), Ordering::Relaxed);
    }

    /// Looks for the first live entry of the expiry index once many were removed.
    fn raise_expiry_floor(&mut self) -> Result<()> {
        if self.unindexed < UNINDEXED_MAX {
            return Ok(());
        }
        self.unindexed = 0;
        let clock_ms = self.progress.applied().point.clock_ms;
        let first = first_due_ms(&self.engine, self.expiry_floor_ms)?;
        self.expiry_floor_ms = first.unwrap_or(clock_ms).max(self.expiry_floor_ms);
        self.publish_counters();
        Ok(())
    }
}

fn decode_envelope(index: LogIndex, payload: &Bytes) -> Result<Envelope> {
    let envelope = Envelope::decode(payload.clone())
        .map_err(|source| Error::MalformedEntry { index, source })?;
    if envelope.apply_version > APPLY_VERSION {
        let needed = envelope.apply_version;
        return Err(Error::UnknownVersion { needed, known: APPLY_VERSION });
    }
    let items = envelope.commands.iter().flat_map(|command| &command.items);
    if items.map(|item| &item.operation).any(|operation| !is_known(operation.as_ref())) {
        return Err(Error::UnknownOperation { index });
    }
    Ok(envelope)
}

fn is_known(operation: Option<&Operation>) -> bool {
    fn steps_known(steps: &[TxnStep]) -> bool {
        steps.iter().all(|step| match &step.operation {
            None => false,
            Some(TxnOperation::Txn(txn)) => steps_known(&txn.success) && steps_known(&txn.failure),
            Some(_) => true,
        })
    }
    match operation {
        None => false,
        Some(Operation::Txn(txn)) => {
            let target_known = |target: &Option<CompareTarget>| target.is_some();
            txn.compares.iter().all(|compare| target_known(&compare.target))
                && steps_known(&txn.success)
                && steps_known(&txn.failure)
        }
        Some(Operation::Configure(configure)) => configure.apply_version <= APPLY_VERSION,
        Some(_) => true,
    }
}

/// The keys whose newest versions the entries will ask for.
fn keys_of(decoded: &[Decoded]) -> Vec<Bytes> {
    let mut keys = Vec::new();
    for entry in decoded {
        if let Body::Envelope(envelope) = &entry.body {
            for Command { items, .. } in &envelope.commands {
                for operation in items.iter().filter_map(|item| item.operation.as_ref()) {
                    push_keys(operation, &mut keys);
                }
            }
        }
    }
    keys
}

fn push_keys(operation: &Operation, keys: &mut Vec<Bytes>) {
    match operation {
        Operation::Put(put) => keys.push(put.key.clone()),
        Operation::Delete(delete) => keys.push(delete.key.clone()),
        Operation::Increment(increment) => keys.push(increment.key.clone()),
        Operation::Txn(txn) => {
            let points = txn.compares.iter().filter(|compare| compare.end.is_empty());
            keys.extend(points.map(|compare| compare.key.clone()));
            for step in txn.success.iter().chain(&txn.failure) {
                match &step.operation {
                    Some(TxnOperation::Get(get)) => keys.push(get.key.clone()),
                    Some(TxnOperation::Put(put)) => keys.push(put.key.clone()),
                    Some(TxnOperation::Delete(delete)) => keys.push(delete.key.clone()),
                    Some(TxnOperation::Increment(increment)) => keys.push(increment.key.clone()),
                    _ => {}
                }
            }
        }
        _ => {}
    }
}
