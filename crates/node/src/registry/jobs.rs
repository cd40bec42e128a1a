//! The workers that flush and compact the engines of all replicas.
//!
//! A flush goes before any compaction, since it frees memory and journal. When all memtables
//! together exceed their budget, or the journal fills up, the engine that holds back the oldest
//! journal segment is sealed first. Who has nothing else to do reads files again (`scrub.rs`).

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use holdfast_env::Clock;
use holdfast_journal::{GroupId, Journal};
use holdfast_lsm::{Engine, Job, JobKind, Shared};
use holdfast_runtime::{Nudge, Rank, Turn, Work, Worker, Workers};
use parking_lot::{Condvar, Mutex};

use super::Fatal;
use super::scrub::{Engines, Scrub};

/// Threads look for work at least this often: a flush may have waited for the journal.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// After a job failed for want of space.
const SPACE_WAIT: Duration = Duration::from_millis(500);
/// At most one engine is sealed for the journal's sake in this time.
const JOURNAL_SEAL_INTERVAL: Duration = Duration::from_secs(1);

/// The workers.
pub(super) struct Jobs {
    shared: Arc<JobsShared>,
    workers: Mutex<Vec<Worker>>,
}

struct JobsShared {
    // Guards a small map for the time of a look-up; threads otherwise share nothing.
    engines: Engines,
    scrub: Scrub,
    signal: Mutex<()>,
    work: Condvar,
    /// What wakes workers that are tasks and do not sleep at `work`.
    nudges: Mutex<Vec<Nudge>>,
    has_work: AtomicBool,
    is_stopping: AtomicBool,
    flushing: AtomicUsize,
    turn: AtomicUsize,
    sealed_for_journal_at: AtomicU64,
    journal: Arc<Journal>,
    memory: Arc<Shared>,
    clock: Arc<dyn Clock>,
    fatal: Fatal,
    corrupt: Mutex<BTreeMap<GroupId, String>>,
}

impl Jobs {
    pub(super) fn start(
        workers: (&Workers, usize),
        scrub_bytes_per_second: u64,
        journal: Arc<Journal>,
        memory: Arc<Shared>,
        clock: Arc<dyn Clock>,
        fatal: Fatal,
    ) -> io::Result<Self> {
        let shared = Arc::new(JobsShared {
            engines: Mutex::default(),
            scrub: Scrub::new(scrub_bytes_per_second, clock.clone()),
            signal: Mutex::new(()),
            work: Condvar::new(),
            nudges: Mutex::default(),
            has_work: AtomicBool::new(false),
            is_stopping: AtomicBool::new(false),
            flushing: AtomicUsize::new(0),
            turn: AtomicUsize::new(0),
            sealed_for_journal_at: AtomicU64::new(0),
            journal,
            memory,
            clock,
            fatal,
            corrupt: Mutex::default(),
        });
        let mut started = Vec::new();
        let (workers, count) = workers;
        for i in 0..count {
            let nudges = |nudge| shared.nudges.lock().push(nudge);
            let looper = Looper(shared.clone());
            // Whoever waits for an answer goes before who tidies up.
            started.push(workers.start(&format!("jobs-{i}"), Rank::Behind, looper, nudges)?);
        }
        Ok(Self { shared, workers: Mutex::new(started) })
    }

    pub(super) fn add(&self, group: GroupId, engine: Arc<Engine>) {
        self.shared.engines.lock().insert(group, engine);
    }

    pub(super) fn remove(&self, group: GroupId) {
        self.shared.engines.lock().remove(&group);
    }

    /// A hook that tells the workers that there may be work. Cheap enough for every apply.
    pub(super) fn hook(&self) -> Arc<dyn Fn() + Send + Sync> {
        let shared = self.shared.clone();
        Arc::new(move || shared.wake())
    }

    /// Why an engine's work was given up, if it was.
    pub(super) fn corrupt(&self, group: GroupId) -> Option<String> {
        self.shared.corrupt.lock().get(&group).cloned()
    }

    /// Ends the workers after the jobs they are at.
    pub(super) fn stop(&self) {
        self.shared.is_stopping.store(true, Ordering::Release);
        self.shared.work.notify_all();
        std::mem::take(&mut *self.workers.lock()).into_iter().for_each(Worker::join);
    }
}

/// One of the workers.
struct Looper(Arc<JobsShared>);

impl Work for Looper {
    fn step(&mut self) -> Turn {
        self.0.step()
    }

    fn wait(&mut self, turn: Turn) {
        match turn {
            Turn::Wait(time) => self.0.rest(time, true),
            Turn::Rest(time) => self.0.rest(time, false),
            Turn::Again | Turn::End => {}
        }
    }
}

impl JobsShared {
    fn wake(&self) {
        if !self.has_work.swap(true, Ordering::AcqRel) {
            self.work.notify_one();
            self.nudges.lock().iter().for_each(Nudge::nudge);
        }
    }

    fn step(&self) -> Turn {
        if self.is_stopping.load(Ordering::Acquire) {
            return Turn::End;
        }
        self.has_work.store(false, Ordering::Release);
        // Before every job: compactions may follow one another for long.
        self.seal_for_space();
        if let Some((group, job)) = self.next() {
            return self.carry_out(group, job);
        }
        if let Some((group, error)) = self.scrub.step(&self.engines) {
            self.give_up(group, &error);
        }
        Turn::Wait(LOOK_INTERVAL)
    }

    /// Blocks for `wait`; not where there is work, if the caller is `eager` for it.
    fn rest(&self, wait: Duration, eager: bool) {
        let mut signal = self.signal.lock();
        let has_work = eager && self.has_work.load(Ordering::Acquire);
        if !has_work && !self.is_stopping.load(Ordering::Acquire) {
            self.work.wait_for(&mut signal, wait);
        }
    }

    fn next(&self) -> Option<(GroupId, Job)> {
        let engines: Vec<_> =
            self.engines.lock().iter().map(|(g, e)| (*g, Arc::clone(e))).collect();
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % engines.len().max(1);
        let mut compaction = None;
        for (group, engine) in engines.iter().cycle().skip(first).take(engines.len()) {
            match engine.next_job() {
                // A compaction that is not taken goes back by being dropped.
                Some(job) if job.kind() == JobKind::Compaction => {
                    compaction.get_or_insert((*group, job));
                }
                Some(job) => return Some((*group, job)),
                None => {}
            }
        }
        compaction
    }

    fn carry_out(&self, group: GroupId, job: Job) -> Turn {
        let is_flush = job.kind() == JobKind::Flush;
        if is_flush {
            self.flushing.fetch_add(1, Ordering::AcqRel);
        }
        let result = job.run();
        if is_flush {
            self.flushing.fetch_sub(1, Ordering::AcqRel);
        }
        let Err(error) = result else { return Turn::Again };
        if error.is_fatal() {
            (self.fatal)(&format!("engine of {}: {error}", group.range));
        } else if error.is_corruption() {
            self.give_up(group, &error);
        } else {
            tracing::warn!(range = %group.range, %error, "engine job failed, will be repeated");
            return Turn::Rest(SPACE_WAIT);
        }
        Turn::Again
    }

    /// Does no more work for an engine whose files are damaged.
    fn give_up(&self, group: GroupId, error: &holdfast_lsm::Error) {
        // One that was removed meanwhile is nobody's concern.
        if self.engines.lock().remove(&group).is_some() {
            tracing::error!(range = %group.range, replica = %group.replica, %error, "corrupt");
            self.corrupt.lock().insert(group, error.to_string());
        }
    }

    /// Seals one memtable where memory or journal need it; its flush is then the next job.
    fn seal_for_space(&self) {
        if self.flushing.load(Ordering::Acquire) > 0 {
            return;
        }
        if self.memory.is_over_memtable_budget() {
            self.seal_oldest();
        } else if self.journal.usage() > self.journal.limit() / 2 {
            let now = u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(u64::MAX);
            let last = self.sealed_for_journal_at.load(Ordering::Acquire);
            let interval = u64::try_from(JOURNAL_SEAL_INTERVAL.as_millis()).unwrap_or(u64::MAX);
            if now.saturating_sub(last) >= interval {
                self.sealed_for_journal_at.store(now, Ordering::Release);
                self.seal_oldest();
            }
        }
    }

    fn seal_oldest(&self) {
        let engines = self.engines.lock().clone();
        let holds = |engine: &Arc<Engine>| {
            let stats = engine.stats();
            stats.memtable_bytes > 0 && stats.sealed_memtables == 0
        };
        let pinned = self.journal.pins().into_iter().map(|(group, _)| group);
        let oldest = pinned.filter_map(|group| engines.get(&group)).find(|engine| holds(engine));
        let largest =
            || engines.values().filter(|e| holds(e)).max_by_key(|e| e.stats().memtable_bytes);
        if let Some(engine) = oldest.or_else(largest) {
            engine.seal();
            self.wake();
        }
    }
}
