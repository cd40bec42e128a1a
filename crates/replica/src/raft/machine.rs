//! openraft's state machine on `kv` and the engine.
//!
//! Apply is memory work only: what a batch asks for and is not in memory is read ahead by other
//! threads, and what it makes durable follows later, gated on the journal. So it never waits for
//! a disk. A replica whose apply fails otherwise than for the client stops.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{Stream, StreamExt};
use holdfast_env::defect;
use holdfast_journal::Journal;
use holdfast_kv::{ApplyResult, LogEntry, Prepared, ReadPoint, Reader, StateMachine};
use holdfast_lsm::Engine;
use holdfast_runtime::Pool;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};
use tokio::sync::{Notify, watch};

use crate::health::Health;
use crate::leadership::Leadership;
use crate::raft::codec;
use crate::raft::snapshot::SnapshotPayload;
use crate::raft::types::{
    Applied, LogId, Payload, Snapshot, SnapshotMeta, StoredMembership, TypeConfig,
};
use crate::watch::Hub;

/// Entries applied as one engine batch.
const BATCH_ENTRIES_MAX: usize = 64;
/// Payload applied as one engine batch, bytes.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// Threads that read what a batch asks for and what is not in memory.
const COLD_READS_MAX: usize = 8;

/// How often a flush looks whether the journal lets it go on.
const FLUSH_POLL: Duration = Duration::from_millis(2);

/// How long after its time something may still be shown, milliseconds of the leader's clock.
const SHOWN_LATE_MAX_MS: u64 = 100;

/// Batches that are applied while a read waits for what ended to be removed, at most: an `Expire`
/// is under way all that time, so it takes more than a thousand leases that end at once, or a range
/// that refuses everybody's commands, for one of them to be shown after that.
const BATCHES_AWAITED_MAX: usize = 64;

/// When something is due next, range time; one thread looks it up, another lowers it meanwhile.
struct Due {
    at_ms: AtomicU64,
    /// The lowest that came since the last look began.
    fresh_ms: AtomicU64,
}

impl Default for Due {
    fn default() -> Self {
        Self { at_ms: AtomicU64::new(u64::MAX), fresh_ms: AtomicU64::new(u64::MAX) }
    }
}

impl Due {
    fn at_ms(&self) -> u64 {
        self.at_ms.load(Ordering::Acquire)
    }

    /// Notes that something may be due at `at_ms`; whether that is the earliest.
    fn lower(&self, at_ms: u64) -> bool {
        self.fresh_ms.fetch_min(at_ms, Ordering::AcqRel);
        at_ms < self.at_ms.fetch_min(at_ms, Ordering::AcqRel)
    }

    /// To be called before it is looked up what is there. What was known stands meanwhile: whoever
    /// waits for what is overdue must not pass.
    fn begin_look(&self) {
        self.fresh_ms.store(u64::MAX, Ordering::Release);
    }

    /// The look found `at_ms`; what came while it lasted may be earlier.
    fn end_look(&self, at_ms: u64) {
        self.at_ms.store(at_ms, Ordering::Release);
        self.at_ms.fetch_min(self.fresh_ms.load(Ordering::Acquire), Ordering::AcqRel);
    }
}

/// What the rest of the replica learns from apply.
pub(crate) struct Progress {
    /// Index of the last applied entry.
    pub(crate) applied: watch::Sender<u64>,
    pub(crate) epoch: AtomicU64,
    /// When something is due.
    due: Due,
    /// When a lease, a lock or a session is due.
    urgent_due: Due,
    /// Rung when something became due earlier than was known.
    pub(crate) due_earlier: Notify,
    /// Told whenever it was looked up what is due.
    looked_up: watch::Sender<()>,
    /// Rung when a read waits for the range's clock to go on.
    pub(crate) clock_wanted: Notify,
    pub(crate) hub: Arc<Hub>,
    pub(crate) leadership: Arc<Leadership>,
}

impl Progress {
    /// Nothing is applied or due yet; see [`Progress::reset`].
    pub(crate) fn new(hub: Arc<Hub>, leadership: Arc<Leadership>) -> Self {
        Self {
            applied: watch::Sender::new(0),
            epoch: AtomicU64::new(0),
            due: Due::default(),
            urgent_due: Due::default(),
            due_earlier: Notify::new(),
            looked_up: watch::Sender::new(()),
            clock_wanted: Notify::new(),
            hub,
            leadership,
        }
    }

    /// Takes over the state as it stands, after opening or installing a snapshot.
    pub(crate) fn reset(&self, reader: &Reader) {
        let point = reader.point();
        self.published(point);
        self.epoch.store(reader.truth().map_or(0, |truth| truth.epoch.0), Ordering::Release);
        self.look_for_due(reader);
        self.hub.jumped(point);
    }

    fn published(&self, point: ReadPoint) {
        self.leadership.applied(point.clock_ms);
        self.applied.send_if_modified(|applied| {
            let moved = *applied != point.index.0;
            *applied = point.index.0;
            moved
        });
    }

    /// Notes that something may be due at `first_ms`, and a lease, a lock or a session at
    /// `urgent_ms`.
    fn note_due(&self, first_ms: Option<u64>, urgent_ms: Option<u64>) {
        if let Some(urgent_ms) = urgent_ms {
            self.urgent_due.lower(urgent_ms);
        }
        if first_ms.is_some_and(|first_ms| self.due.lower(first_ms)) {
            self.due_earlier.notify_one();
        }
    }

    /// When something is due, range time; `u64::MAX` where nothing is.
    pub(crate) fn due_ms(&self) -> u64 {
        self.due.at_ms()
    }

    /// Waits until nothing is shown any more that ended longer than [`SHOWN_LATE_MAX_MS`] before
    /// this by this leader's clock. An `Expire` follows at once where something is due, so there is
    /// nothing to wait for, except where the process stood still or commits take long.
    ///
    /// Ends after [`BATCHES_AWAITED_MAX`] whatever is shown then; not at all while nothing can be
    /// committed. Cost: one comparison where nothing is due ever, a look at the clock otherwise.
    pub(crate) async fn nothing_shown_late(&self) {
        if self.due_ms() == u64::MAX {
            return;
        }
        let upto_ms = self.leadership.told_ms().saturating_sub(SHOWN_LATE_MAX_MS);
        if !self.shows_ended_before(upto_ms) {
            return;
        }
        let (mut applied, mut looked_up) = (self.applied.subscribe(), self.looked_up.subscribe());
        let mut batches = 0;
        while batches < BATCHES_AWAITED_MAX && self.shows_ended_before(upto_ms) {
            self.clock_wanted.notify_one();
            // Neither sender goes before this does.
            tokio::select! {
                _ = applied.changed() => batches += 1,
                _ = looked_up.changed() => {}
            }
        }
    }

    /// Whether what ended before `upto_ms` is shown. What has a time of its own is hidden once the
    /// applied clock has reached that; the keys of a lease go with its revoke alone.
    fn shows_ended_before(&self, upto_ms: u64) -> bool {
        self.due_ms() < upto_ms
            && (self.leadership.applied_ms() < upto_ms || self.urgent_due.at_ms() < upto_ms)
    }

    /// Looks up when something is due next. Cost: two looks into the expiry index.
    pub(crate) fn look_for_due(&self, reader: &Reader) {
        self.due.begin_look();
        self.urgent_due.begin_look();
        let found = reader.next_urgent_due_ms().and_then(|u| Ok((u, reader.next_due_ms()?)));
        let (urgent, first) = found.unwrap_or_else(|error| {
            tracing::error!(%error, "expiry index is unreadable");
            (None, None)
        });
        self.urgent_due.end_look(urgent.unwrap_or(u64::MAX));
        self.due.end_look(first.unwrap_or(u64::MAX));
        if first.is_some() {
            self.due_earlier.notify_one();
        }
        self.looked_up.send_replace(());
    }
}

/// The state machine as openraft drives it.
pub(crate) struct Machine {
    pub(crate) state: StateMachine,
    pub(crate) reader: Reader,
    pub(crate) engine: Arc<Engine>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) pool: Pool,
    pub(crate) progress: Arc<Progress>,
    pub(crate) engine_work: Arc<dyn Fn() + Send + Sync>,
    pub(crate) health: Arc<Health>,
}

impl Machine {
    fn failed(&self, error: holdfast_kv::Error) -> io::Error {
        self.health.judge(&error);
        io::Error::other(error)
    }

    /// Decodes what was collected, and reads what it asks for and what is not in memory: on other
    /// threads, many at once, while this reactor goes on.
    async fn prepare(&self, entries: &[LogEntry]) -> io::Result<Prepared> {
        let mut prepared = self.state.prepare(entries).map_err(|e| self.failed(e))?;
        let cold = prepared.take_cold(COLD_READS_MAX);
        let reads = cold.into_iter().map(|part| self.pool.run(move || part.read()));
        for read in join_all(reads).await {
            match read {
                Ok(read) => prepared.warm(read.map_err(|e| self.failed(e))?),
                // The pool has no room: apply reads it itself.
                Err(error) => tracing::debug!(%error, "cold keys are not read ahead"),
            }
        }
        Ok(prepared)
    }

    /// Applies what was collected as one batch, publishes it, answers.
    async fn apply_batch(&mut self, batch: &mut ApplyBatch) -> io::Result<()> {
        if batch.entries.is_empty() {
            return Ok(());
        }
        let prepared = self.prepare(&batch.entries).await?;
        let gate = self.journal.logical_end();
        let result = self.state.apply_prepared(prepared, gate).map_err(|e| self.failed(e))?;
        let ApplyResult { outcomes, events, grants, truth, point, .. } = result;
        if let Some(truth) = truth {
            self.progress.epoch.store(truth.epoch.0, Ordering::Release);
        }
        self.progress.published(point);
        self.progress.note_due(result.due_ms, result.urgent_due_ms);
        self.progress.hub.publish(&events, grants, point);
        let epoch = self.progress.epoch.load(Ordering::Acquire);
        for (responder, outcomes) in batch.responders.drain(..).zip(outcomes) {
            if let Some(responder) = responder {
                responder.send(Applied { outcomes, point, epoch });
            }
        }
        batch.entries.clear();
        batch.bytes = 0;
        // To wake a thread costs more than to apply an entry.
        if self.engine.is_flush_due() {
            (self.engine_work)();
        }
        Ok(())
    }

    /// What a crash would leave, as openraft names it.
    fn durable_meta(&self) -> io::Result<SnapshotMeta> {
        match defect!(PURGE_BEFORE_DURABLE) {
            true => meta_of(&self.state.applied()),
            false => meta_of(&self.state.durable_applied()),
        }
    }
}

fn meta_of(applied: &holdfast_kv::Applied) -> io::Result<SnapshotMeta> {
    Ok(SnapshotMeta {
        last_log_id: applied.position.map(codec::from_kv),
        last_membership: membership_of(applied)?,
    })
}

fn membership_of(applied: &holdfast_kv::Applied) -> io::Result<StoredMembership> {
    let Some((position, bytes)) = &applied.membership else {
        return Ok(StoredMembership::default());
    };
    let membership = codec::decode_membership(bytes).map_err(io::Error::other)?;
    Ok(StoredMembership::new(Some(codec::from_kv(*position)), membership))
}

/// Entries collected for one engine batch.
#[derive(Default)]
struct ApplyBatch {
    entries: Vec<LogEntry>,
    responders: Vec<Option<openraft::storage::ApplyResponder<TypeConfig>>>,
    bytes: usize,
}

impl ApplyBatch {
    fn push(&mut self, (entry, responder): EntryResponder<TypeConfig>) {
        self.bytes += match &entry.payload {
            Payload::Normal(encoded) => encoded.0.len(),
            Payload::Blank | Payload::Membership(_) => 0,
        };
        self.entries.push(codec::to_kv_entry(&entry));
        self.responders.push(responder);
    }

    fn is_full(&self) -> bool {
        self.entries.len() >= BATCH_ENTRIES_MAX || self.bytes >= BATCH_BYTES_MAX
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotPayload;
    type SnapshotBuilder = Builder;

    /// At start this is what the engine has made durable: its memtable is empty then.
    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let applied = self.state.applied();
        Ok((applied.position.map(codec::from_kv), membership_of(&applied)?))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let mut batch = ApplyBatch::default();
        while let Some(entry) = entries.next().await {
            batch.push(entry?);
            if batch.is_full() {
                self.apply_batch(&mut batch).await?;
                // A long catch-up shares the reactor with heartbeats.
                holdfast_runtime::yield_now().await;
            }
        }
        self.apply_batch(&mut batch).await
    }

    /// Without `force` what is durable now makes the snapshot. With it, what is applied now: the
    /// engine is flushed first.
    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder> {
        if force && let Err(error) = self.flush().await {
            return Some(Builder(Err(error)));
        }
        Some(Builder(self.durable_snapshot()))
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder(self.durable_snapshot())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        payload: SnapshotPayload,
    ) -> io::Result<()> {
        let SnapshotPayload::Staged(staged) = payload else {
            return Err(io::Error::other("only what was staged can be installed"));
        };
        self.state.withdraw();
        // Taken after openraft has truncated the log: the engine never gets ahead of it.
        let gate = self.journal.logical_end();
        // What cannot be installed was received so: the own state is as it was, and not damaged.
        if let Err(error) = staged.install(&self.engine, &self.journal, gate).await? {
            if error.is_fatal() {
                self.health.untrustworthy_disk(&format!("snapshot: {error}"));
            }
            return Err(io::Error::other(error));
        }
        self.state.replaced().map_err(|e| self.failed(e))?;
        let installed = meta_of(&self.state.applied())?;
        if installed.last_log_id != meta.last_log_id {
            return Err(io::Error::other("the snapshot holds another state than its header says"));
        }
        self.progress.reset(&self.reader);
        holdfast_env::sometimes!(SNAPSHOT_INSTALLED);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let snapshot = self.durable_snapshot()?;
        Ok(snapshot.meta.last_log_id.is_some().then_some(snapshot))
    }
}

impl Machine {
    /// Makes durable what is applied.
    async fn flush(&self) -> io::Result<()> {
        let applied = self.state.applied().position;
        self.engine.seal();
        (self.engine_work)();
        while self.state.durable_applied().position < applied {
            // The node's own workers may have taken the flush; then there is nothing to do here.
            let Some(job) = self.engine.next_job() else {
                holdfast_runtime::sleep(FLUSH_POLL).await;
                continue;
            };
            let run = self.pool.run(move || job.run()).await.map_err(io::Error::other)?;
            run.map_err(|error| self.failed(error.into()))?;
        }
        Ok(())
    }

    /// The on-disk version with its own applied position; pins its files while it is held.
    fn durable_snapshot(&self) -> io::Result<Snapshot> {
        loop {
            let durable = self.engine.durable_point();
            let meta = self.durable_meta()?;
            let pin = self.engine.pin();
            // A flush may end in between; then all are looked at again. Flushes are rare.
            if pin.point() == durable && self.engine.durable_point() == durable {
                return Ok(Snapshot { meta, snapshot: SnapshotPayload::Pinned(Box::new(pin)) });
            }
        }
    }
}

/// "Builds" a snapshot: what is durable already is one. Nothing is copied, nothing stays pinned.
pub(crate) struct Builder(io::Result<Snapshot>);

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotPayload;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        std::mem::replace(&mut self.0, Err(io::Error::other("built already")))
    }
}
