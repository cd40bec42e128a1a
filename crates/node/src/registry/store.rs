//! The node's storage: one journal with its writer, and what all engines share.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use holdfast_env::{Clock, Disk, Entropy};
use holdfast_journal::{GroupId, Journal, JournalOptions, Step, Writer};
use holdfast_lsm::{CompactionStyle, Engine, EngineOptions, ExpiresAt, Shared, SharedOptions};
use holdfast_model::Compaction;
use holdfast_runtime::{Rank, Turn, Work, Worker, Workers};
use holdfast_wire::system::v1::ReplicaDescriptor;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::oneshot;

use super::jobs::Jobs;
use super::{Fatal, RegistryError};
use crate::config::Config;
use crate::lifecycle::create_durably;

/// The writer looks for the wish to stop at least this often.
const WRITER_WAIT_MAX: Duration = Duration::from_secs(1);

/// The doors of `env` that a node uses.
#[derive(Clone, Debug)]
pub struct Doors {
    /// Files.
    pub disk: Arc<dyn Disk>,
    /// Clocks.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
}

/// What was found in the journal.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Replicas to open.
    pub(super) whole: Vec<(GroupId, ReplicaDescriptor)>,
    /// Replicas that lost something durable: never opened again.
    pub(super) hit: Vec<GroupId>,
}

pub(super) struct Store {
    pub(super) doors: Doors,
    pub(super) journal: Arc<Journal>,
    pub(super) memory: Arc<Shared>,
    pub(super) jobs: Jobs,
    data_dir: PathBuf,
    engine_options: EngineOptions,
    is_stopping: Arc<AtomicBool>,
    writer: Mutex<Option<Worker>>,
}

impl Store {
    pub(super) fn open(
        doors: Doors,
        config: &Config,
        workers: &Workers,
        fatal: Fatal,
    ) -> Result<(Self, Found), RegistryError> {
        let data_dir = PathBuf::from(&config.node.data_dir);
        let (journal, writer, recovery) = Journal::open(
            doors.disk.clone(),
            doors.entropy.clone(),
            doors.clock.clone(),
            &data_dir.join("journal"),
            journal_options(config),
        )?;
        for (file, offset) in &recovery.damage {
            tracing::error!(file = %file.display(), offset, "the journal is damaged");
        }
        let whole = recovery
            .groups
            .iter()
            .map(|g| {
                let descriptor = ReplicaDescriptor::decode(g.descriptor.clone());
                let descriptor = descriptor.map_err(|_| RegistryError::Descriptor(g.group))?;
                Ok((g.group, descriptor))
            })
            .collect::<Result<Vec<_>, RegistryError>>()?;
        tracing::info!(
            replicas = whole.len(),
            bytes = recovery.scanned_bytes,
            torn_tail = recovery.torn_tail,
            "journal recovered"
        );
        let memory = Shared::with_clock(shared_options(config), doors.clock.clone())?;
        let memory = Arc::new(memory);
        let jobs = Jobs::start(
            (workers, config.runtime.job_thread_count()),
            config.engine.scrub_bytes_per_second,
            journal.clone(),
            memory.clone(),
            doors.clock.clone(),
            fatal.clone(),
        )?;
        let is_stopping = Arc::new(AtomicBool::new(false));
        let work = JournalWork { writer, is_stopping: is_stopping.clone(), fatal };
        let hook = |nudge: holdfast_runtime::Nudge| journal.set_wake(move || nudge.nudge());
        let writer = workers.start("journal", Rank::Usual, work, hook)?;
        let engine_options = engine_options(config);
        let store = Self {
            doors,
            journal,
            memory,
            jobs,
            data_dir,
            engine_options,
            is_stopping,
            writer: Mutex::new(Some(writer)),
        };
        Ok((store, Found { whole, hit: recovery.hit }))
    }

    /// Where the files of a replica lie.
    pub(super) fn replica_dir(&self, group: GroupId) -> PathBuf {
        let name = format!("{}-{}", group.range.0, group.replica.0);
        self.data_dir.join("ranges").join(name)
    }

    /// Opens the engine of a replica, on a thread that may wait for the disk.
    pub(super) fn open_engine(
        &self,
        group: GroupId,
        compaction: Compaction,
    ) -> Result<Arc<Engine>, RegistryError> {
        let compaction_style = match compaction {
            Compaction::Leveled => CompactionStyle::Leveled,
            Compaction::Tiered => CompactionStyle::Tiered,
        };
        let dir = self.replica_dir(group);
        self.doors.disk.create_dir_all(&dir)?;
        let journal = self.journal.clone();
        let engine = Engine::open(
            self.doors.disk.clone(),
            self.doors.entropy.clone(),
            &dir,
            self.memory.clone(),
            Arc::new(move || journal.durable()),
            EngineOptions { compaction_style, ..self.engine_options.clone() },
        )?;
        Ok(Arc::new(engine))
    }

    /// Records in the journal that this node hosts a replica; durable when it returns.
    pub(super) async fn create_group(
        &self,
        group: GroupId,
        descriptor: &ReplicaDescriptor,
    ) -> Result<(), RegistryError> {
        let (done, result) = oneshot::channel();
        let bytes = descriptor.encode_to_vec().into();
        self.journal.create_group(group, bytes, Box::new(move |r| drop(done.send(r))))?;
        result.await.map_err(|_| RegistryError::Stopped)?.map_err(RegistryError::Io)
    }

    /// Forgets a replica; durable when it returns.
    pub(super) async fn destroy_group(&self, group: GroupId) -> Result<(), RegistryError> {
        let (done, result) = oneshot::channel();
        self.journal.destroy_group(group, Box::new(move |r| drop(done.send(r))))?;
        result.await.map_err(|_| RegistryError::Stopped)?.map_err(RegistryError::Io)
    }

    /// Removes what is left of a replica's directory.
    pub(super) fn remove_dir(&self, group: GroupId) -> Result<(), RegistryError> {
        let dir = self.replica_dir(group);
        if self.doors.disk.exists(&dir)? {
            self.doors.disk.remove_dir_all(&dir)?;
            self.doors.disk.sync_dir(dir.parent().unwrap_or(Path::new(".")))?;
        }
        Ok(())
    }

    /// Names directories of replicas the journal does not know. They are left alone: that a
    /// journal knows nothing of a replica is no evidence that it may be destroyed.
    pub(super) fn report_strays(&self, hit: &[GroupId]) -> Result<(), RegistryError> {
        let ranges = self.data_dir.join("ranges");
        create_durably(&*self.doors.disk, &ranges)?;
        let groups = self.journal.groups().into_iter().chain(hit.iter().copied());
        let known: Vec<_> = groups.map(|group| self.replica_dir(group)).collect();
        for path in self.doors.disk.list(&ranges)? {
            if !known.contains(&path) {
                tracing::warn!(path = %path.display(), "no replica owns this directory");
            }
        }
        Ok(())
    }

    /// Ends job workers and writer; everything queued for the journal is written first. Blocks.
    pub(super) fn stop(&self) {
        self.jobs.stop();
        self.is_stopping.store(true, Ordering::Release);
        self.journal.wake();
        if let Some(writer) = self.writer.lock().take() {
            writer.join();
        }
    }
}

/// The journal's writer as a worker.
struct JournalWork {
    writer: Writer,
    is_stopping: Arc<AtomicBool>,
    fatal: Fatal,
}

impl Work for JournalWork {
    fn step(&mut self) -> Turn {
        match self.writer.step() {
            Ok(Step::Wrote { .. } | Step::Tended) => Turn::Again,
            Ok(Step::Idle { next: None }) if self.is_stopping.load(Ordering::Acquire) => Turn::End,
            Ok(Step::Idle { next }) => {
                Turn::Wait(next.map_or(WRITER_WAIT_MAX, |next| next.min(WRITER_WAIT_MAX)))
            }
            Err(error) => {
                (self.fatal)(&format!("journal: {error}"));
                Turn::End
            }
        }
    }

    fn wait(&mut self, _turn: Turn) {
        self.writer.wait(WRITER_WAIT_MAX);
    }
}

fn journal_options(config: &Config) -> JournalOptions {
    JournalOptions {
        segment_bytes: config.journal.segment_bytes,
        limit_bytes: config.journal.limit_bytes,
        cache_bytes: config.journal.cache_bytes,
        queue_bytes_max: JournalOptions::default()
            .queue_bytes_max
            .min(config.journal.segment_bytes),
        retention_group_bytes: config.journal.retention_range_bytes,
        ..JournalOptions::default()
    }
}

fn shared_options(config: &Config) -> SharedOptions {
    SharedOptions {
        cache_bytes: config.engine.cache_bytes,
        index_bytes: config.engine.index_bytes,
        open_files_max: config.engine.open_files_max,
        memtable_budget_bytes: config.engine.memtable_budget_bytes,
        write_bytes_per_second: config.engine.write_bytes_per_second,
    }
}

fn engine_options(config: &Config) -> EngineOptions {
    EngineOptions {
        memtable_bytes: config.engine.memtable_bytes,
        expires_at: Some(ExpiresAt(holdfast_kv::record_expires_at_ms)),
        ..EngineOptions::default()
    }
}
