//! openraft's own storage suite on the real adapter, on the real and the simulated disk.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use holdfast_env::real::{RealClock, RealDisk, RealEntropy};
use holdfast_env::sim::SimDisk;
use holdfast_env::{Disk, Entropy};
use holdfast_journal::{GroupId, Journal, JournalOptions};
use holdfast_kv::StateMachine;
use holdfast_lsm::{Engine, EngineOptions, Shared, SharedOptions};
use holdfast_model::{ClusterId, NodeId, RangeId, ReplicaId};
use holdfast_runtime::{Pool, Thread, thread};
use openraft::OptionalSend;
use openraft::StorageError;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};

use super::log_store::LogStore;
use super::machine::{Builder, Machine, Progress};
use super::snapshot::{Incoming, SnapshotPayload, outgoing};
use super::staging::StagingArea;
use super::tail::Tail;
use super::types::{
    Entry, LogId, Payload, Snapshot, SnapshotMeta, StoredMembership, TypeConfig, Vote,
};
use crate::deps::FatalHook;
use crate::health::Health;
use crate::leadership::{Leadership, WallClocks};
use crate::peers::PeerAddress;
use crate::watch::{Hub, WatchLimits};

const GROUP: GroupId = GroupId { range: RangeId(1), replica: ReplicaId(1000) };

const WATCHES: WatchLimits =
    WatchLimits { watches_max: 1, buffer_bytes_max: 4096, total_bytes_max: 4096 };

struct NoWalls;

impl WallClocks for NoWalls {
    fn offset_ms(&self, _: NodeId) -> Option<i64> {
        None
    }
}

/// Keeps a journal's writer thread running.
struct Guard {
    stop: Arc<AtomicBool>,
    journal: Arc<Journal>,
    writer: Option<Thread<()>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.journal.wake();
        if let Some(writer) = self.writer.take() {
            writer.join();
        }
    }
}

struct Stores {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    built: AtomicU64,
}

impl Stores {
    fn open(&self) -> (Guard, LogStore, Suited) {
        let number = self.built.fetch_add(1, Ordering::Relaxed);
        let root = self.root.join(format!("{number}"));
        let entropy: Arc<dyn Entropy> = Arc::new(RealEntropy);
        let options = JournalOptions {
            segment_bytes: 1 << 20,
            limit_bytes: 8 << 20,
            cache_bytes: 1 << 20,
            queue_bytes_max: 1 << 20,
            ..JournalOptions::default()
        };
        let clock = Arc::new(RealClock);
        let (journal, mut writer, _) = Journal::open(
            self.disk.clone(),
            entropy.clone(),
            clock.clone(),
            &root.join("journal"),
            options,
        )
        .unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let writer = thread("journal", move || {
            while !stopped.load(Ordering::Acquire) {
                writer.step().unwrap();
                writer.wait(Duration::from_millis(20));
            }
        });
        journal
            .create_group(GROUP, bytes::Bytes::new(), Box::new(|result| result.unwrap()))
            .unwrap();
        let durable = journal.clone();
        let engine_dir = root.join("engine");
        let engine = Engine::open(
            self.disk.clone(),
            entropy,
            &engine_dir,
            Arc::new(Shared::new(SharedOptions::default()).unwrap()),
            Arc::new(move || durable.durable()),
            EngineOptions::default(),
        );
        let engine = Arc::new(engine.unwrap());
        let fatal = FatalHook::new(|reason| panic!("{reason}"));
        let health = Health::new(GROUP, journal.clone(), fatal);
        let tail = Tail::new(0);
        let log = LogStore { journal: journal.clone(), group: GROUP, health: health.clone(), tail };
        let state = StateMachine::open(engine.clone()).unwrap();
        let reader = state.reader();
        let leadership = Leadership::new(clock, NodeId(1), Duration::ZERO, Arc::new(NoWalls));
        let progress = Progress::new(Hub::new(WATCHES, reader.point()), Arc::new(leadership));
        let machine = Machine {
            state,
            reader,
            engine,
            journal: journal.clone(),
            pool: Pool::inline(),
            progress: Arc::new(progress),
            engine_work: Arc::new(|| {}),
            health,
        };
        let suited = Suited { machine, disk: self.disk.clone(), engine_dir, last: None };
        (Guard { stop, journal, writer: Some(writer.unwrap()) }, log, suited)
    }
}

impl StoreBuilder<TypeConfig, LogStore, Suited, Guard> for Stores {
    async fn build(&self) -> Result<(Guard, LogStore, Suited), StorageError<TypeConfig>> {
        Ok(self.open())
    }
}

/// The machine as the suite uses it. The suite applies logs with gaps, which `kv` refuses, and
/// installs a snapshot of one machine in another without a wire between; both are filled in here.
struct Suited {
    machine: Machine,
    disk: Arc<dyn Disk>,
    engine_dir: PathBuf,
    last: Option<LogId>,
}

impl RaftStateMachine<TypeConfig> for Suited {
    type SnapshotData = SnapshotPayload;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        self.machine.applied_state().await
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let mut filled = Vec::new();
        while let Some(entry) = entries.next().await {
            let (entry, responder) = entry?;
            let next = self.last.map_or(entry.log_id.index, |last| last.index + 1);
            for index in next..entry.log_id.index {
                let log_id = LogId { index, ..entry.log_id };
                filled.push(Ok((Entry { log_id, payload: Payload::Blank }, None)));
            }
            self.last = Some(entry.log_id);
            filled.push(Ok((entry, responder)));
        }
        self.machine.apply(futures_util::stream::iter(filled)).await
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder> {
        self.machine.try_create_snapshot_builder(force).await
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.machine.get_snapshot_builder().await
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        payload: SnapshotPayload,
    ) -> io::Result<()> {
        let to = PeerAddress {
            cluster: ClusterId(1),
            range: GROUP.range,
            from: ReplicaId(1001),
            to: GROUP.replica,
            node: NodeId(1),
        };
        let vote = Vote::new_committed(u64::MAX, ReplicaId(1001));
        let snapshot = Snapshot { meta: meta.clone(), snapshot: payload };
        let (header, mut source) =
            outgoing(&to, NodeId(2), &vote, snapshot, &self.machine.health).unwrap();
        let incoming = Incoming::from_header(&header).unwrap();
        assert_eq!(incoming.meta, *meta);
        let (disk, pool) = (self.disk.clone(), Pool::inline());
        let area = StagingArea::new(disk, pool, Arc::new(RealClock), self.engine_dir.clone());
        assert_eq!(area.offer(&incoming.manifest).unwrap(), []);
        let turn = area.begin(&incoming.manifest, incoming.total_bytes, 7).unwrap();
        while let Some(chunk) = source.next_chunk(100)? {
            area.write(turn, &chunk).unwrap();
        }
        let (staged, _) = area.finish(turn).unwrap();
        self.machine.install_snapshot(&incoming.meta, SnapshotPayload::Staged(staged)).await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        self.machine.get_current_snapshot().await
    }
}

fn run_suite(disk: Arc<dyn Disk>, root: PathBuf) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stores = Stores { disk, root, built: AtomicU64::new(0) };
    runtime.block_on(async {
        Suite::<TypeConfig, LogStore, Suited, Stores, Guard>::test_all(stores).await.unwrap();
    });
}

#[test]
fn openraft_storage_suite_passes_on_the_real_disk() {
    let dir = tempfile::tempdir().unwrap();
    run_suite(Arc::new(RealDisk), dir.path().to_path_buf());
}

#[test]
fn openraft_storage_suite_passes_on_the_simulated_disk() {
    run_suite(Arc::new(SimDisk::new()), PathBuf::from("/node"));
}
