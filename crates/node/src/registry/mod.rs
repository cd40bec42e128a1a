//! The replicas of this node and what they live on.
//!
//! Owns: the node's journal with its writer thread, the engines with their job threads, every
//! replica pinned to its reactor, creation and destruction of replicas, the budget of bytes under
//! way, the watch over free disk space.
//! Must never know: keyspaces, placement, who may do what.
//! Invariants:
//! * A replica exists once its group is durable in the journal, and not before.
//! * A replica that lost something durable is never opened again.
//! * All tasks of a replica run on one reactor, chosen by its range alone.

mod host;
mod jobs;
mod scrub;
mod space;
mod store;
mod view;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use holdfast_journal::{GroupId, Journal};
use holdfast_lsm::{Engine, Shared};
use holdfast_model::{ClusterId, NodeId, RangeDescriptor, RangeId, ReplicaId};
use holdfast_replica::{
    Admission, Deps, Failure, FatalHook, Peers, Replica, ReplicaOptions, Timings,
};
use holdfast_runtime::{Pool, Reactors, Stop, Workers};
use holdfast_wire::system::v1::ReplicaDescriptor;

use crate::config::Config;
use crate::identity::Identity;
use crate::peers::reactor_of;
use store::Store;

pub use store::Doors;
pub use view::role_name;

/// Ends the process: called when the disk can no longer be trusted.
pub type Fatal = Arc<dyn Fn(&str) + Send + Sync>;

/// How often replicas are looked after: parked when quiet, woken when their leader is.
const TEND_INTERVAL: Duration = Duration::from_millis(100);
/// Replicas opened at once at the start; each waits for the disk.
const OPENING_MAX: usize = 8;

/// Why a replica could not be created, opened or destroyed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// What the node was told about a replica makes no sense.
    #[error("replica descriptor: {0}")]
    Invalid(String),
    /// The replica lost something durable and must be replaced under another id.
    #[error("replica {} of {} is damaged and retired", .0.replica, .0.range)]
    Retired(GroupId),
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopped,
    /// The disk refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The journal refused.
    #[error("journal: {0}")]
    Journal(#[from] holdfast_journal::Error),
    /// The engine refused.
    #[error("engine: {0}")]
    Engine(#[from] holdfast_lsm::Error),
    /// The replica refused.
    #[error("replica: {0}")]
    Replica(#[from] holdfast_replica::Error),
    /// The journal's record of a replica cannot be read.
    #[error("the journal's description of replica {} of {} cannot be read", .0.replica, .0.range)]
    Descriptor(GroupId),
}

/// A replica of this node.
pub struct Hosted {
    /// Range and replica.
    pub group: GroupId,
    /// What it was created with.
    pub descriptor: ReplicaDescriptor,
    /// Its range as it was created.
    pub range: RangeDescriptor,
    /// The Raft group.
    pub replica: Replica,
    /// Its tree.
    pub engine: Arc<Engine>,
}

impl fmt::Debug for Hosted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hosted").field("group", &self.group).finish_non_exhaustive()
    }
}

/// What the registry needs from the node.
#[derive(Clone)]
pub struct RegistryDeps {
    /// The doors of `env`.
    pub doors: Doors,
    /// Who this node is.
    pub identity: Arc<Identity>,
    /// The way to other nodes.
    pub peers: Arc<dyn Peers>,
    /// Where replicas run.
    pub reactors: Reactors,
    /// Threads that may wait for a disk.
    pub pool: Pool,
    /// Who writes the journal, flushes and compacts.
    pub workers: Workers,
    /// Ends the process.
    pub fatal: Fatal,
}

/// All replicas of the node. Clones are the same registry.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

struct Inner {
    deps: RegistryDeps,
    store: Store,
    admission: Arc<Admission>,
    timings: Timings,
    range_bytes_max: u64,
    data_dir: PathBuf,
    replicas: ArcSwap<BTreeMap<RangeId, Arc<Hosted>>>,
    /// Replicas that exist but do not run, and why.
    broken: parking_lot::Mutex<BTreeMap<GroupId, String>>,
    // Creation (alone) and destruction (many at once) wait for the disk and must not overtake
    // each other.
    changing: tokio::sync::RwLock<()>,
    is_disk_full: AtomicBool,
    /// Bytes that fit on the disk before growth is refused, as of the last look.
    room_bytes: AtomicU64,
}

/// Bytes under way and the like, for metrics.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Bytes of proposals under way.
    pub in_flight_bytes: u64,
    /// Whether growth is refused for want of disk space.
    pub is_disk_full: bool,
}

impl Registry {
    /// Opens journal and engines and starts every replica the journal knows. Blocks for the
    /// journal's recovery: call it where that is allowed, then await.
    ///
    /// # Errors
    /// [`RegistryError`]: the node must not start. A single damaged replica is not an error; it
    /// stays closed and is reported.
    pub async fn open(config: &Config, deps: RegistryDeps) -> Result<Self, RegistryError> {
        let (doors, fatal, settings) = (deps.doors.clone(), deps.fatal.clone(), config.clone());
        let workers = deps.workers.clone();
        let opening = deps.pool.run(move || Store::open(doors, &settings, &workers, fatal));
        let (store, found) = opening.await.map_err(|_| RegistryError::Stopped)??;
        store.report_strays(&found.hit)?;
        let inner = Inner {
            admission: Admission::new(
                "bytes under way on the node",
                config.admission.node_bytes_max,
            ),
            timings: timings(config),
            range_bytes_max: config.admission.range_bytes_max,
            data_dir: PathBuf::from(&config.node.data_dir),
            replicas: ArcSwap::default(),
            broken: parking_lot::Mutex::default(),
            changing: tokio::sync::RwLock::new(()),
            is_disk_full: AtomicBool::new(false),
            room_bytes: AtomicU64::new(0),
            store,
            deps,
        };
        let registry = Self { inner: Arc::new(inner) };
        for group in found.hit {
            registry.retire(group, "it lost entries or votes that were durable");
        }
        registry.open_all(found.whole).await?;
        Ok(registry)
    }

    async fn open_all(
        &self,
        found: Vec<(GroupId, ReplicaDescriptor)>,
    ) -> Result<(), RegistryError> {
        use futures_util::StreamExt;
        let opened = futures_util::stream::iter(found)
            .map(|(group, descriptor)| async move {
                (group, self.open_replica(group, descriptor).await)
            })
            .buffer_unordered(OPENING_MAX)
            .collect::<Vec<_>>()
            .await;
        for (group, result) in opened {
            match result {
                Ok(hosted) => self.insert(hosted),
                // The replica is as good as before, and the disk may write again after a restart.
                Err(error @ RegistryError::Engine(holdfast_lsm::Error::Unsynced { .. })) => {
                    return Err(error);
                }
                Err(error) => self.retire(group, &error.to_string()),
            }
        }
        Ok(())
    }

    fn retire(&self, group: GroupId, reason: &str) {
        holdfast_env::sometimes!(REPLICA_RETIRED);
        tracing::error!(range = %group.range, replica = %group.replica, reason, "replica not run");
        self.inner.broken.lock().insert(group, reason.to_owned());
    }

    fn insert(&self, hosted: Arc<Hosted>) {
        self.inner.replicas.rcu(|old| {
            let mut next = BTreeMap::clone(old);
            next.insert(hosted.group.range, hosted.clone());
            next
        });
    }

    fn remove(&self, range: RangeId) {
        self.inner.replicas.rcu(|old| {
            let mut next = BTreeMap::clone(old);
            next.remove(&range);
            next
        });
    }

    async fn open_replica(
        &self,
        group: GroupId,
        descriptor: ReplicaDescriptor,
    ) -> Result<Arc<Hosted>, RegistryError> {
        let range = parsed(&descriptor)?;
        let registry = self.clone();
        let compaction = descriptor.compaction().into();
        let opening = move || registry.inner.store.open_engine(group, compaction);
        let opening = self.inner.deps.pool.run(opening);
        let engine = opening.await.map_err(|_| RegistryError::Stopped)??;
        let replica =
            Replica::open(self.options(group, &descriptor)?, self.deps_for(&engine, group));
        let replica = replica.await?;
        self.inner.store.jobs.add(group, engine.clone());
        let hosted = Hosted { group, descriptor, range, replica, engine };
        if hosted.descriptor.founder {
            let replicas = &hosted.range.replicas;
            let voters = replicas.iter().map(|r| (r.id, r.node)).collect();
            hosted.replica.initialize(voters).await?;
        }
        Ok(Arc::new(hosted))
    }

    fn options(
        &self,
        group: GroupId,
        descriptor: &ReplicaDescriptor,
    ) -> Result<ReplicaOptions, RegistryError> {
        let cluster = ClusterId::from_bytes(&descriptor.cluster_id)
            .ok_or_else(|| RegistryError::Invalid("cluster id is not 16 bytes".into()))?;
        let node = NodeId(descriptor.node_id);
        let dir = self.inner.store.replica_dir(group);
        let options = ReplicaOptions::new(cluster, node, group.range, group.replica, dir);
        Ok(ReplicaOptions {
            timings: self.inner.timings.clone(),
            in_flight_bytes_max: self.inner.range_bytes_max,
            ..options
        })
    }

    fn deps_for(&self, engine: &Arc<Engine>, group: GroupId) -> Deps {
        let inner = &self.inner;
        let fatal = inner.deps.fatal.clone();
        Deps {
            journal: inner.store.journal.clone(),
            engine: engine.clone(),
            peers: inner.deps.peers.clone(),
            clock: inner.deps.doors.clock.clone(),
            entropy: inner.deps.doors.entropy.clone(),
            disk: inner.deps.doors.disk.clone(),
            reactor: self.reactor(group.range).clone(),
            pool: inner.deps.pool.clone(),
            admission: inner.admission.clone(),
            engine_work: inner.store.jobs.hook(),
            fatal: FatalHook::new(move |reason| fatal(reason)),
        }
    }

    fn reactor(&self, range: RangeId) -> &holdfast_runtime::Handle {
        let reactors = &self.inner.deps.reactors;
        reactors.handle(reactor_of(range, reactors.len()))
    }

    /// Creates replicas on this node; those that exist are left alone.
    ///
    /// # Errors
    /// [`RegistryError`]: some may exist; repeat the call.
    pub async fn create(&self, replicas: Vec<ReplicaDescriptor>) -> Result<(), RegistryError> {
        use futures_util::{StreamExt, TryStreamExt};
        let _changing = self.inner.changing.write().await;
        let mut fresh = Vec::new();
        for descriptor in replicas {
            let range = parsed(&descriptor)?;
            let group = GroupId { range: range.id, replica: ReplicaId(descriptor.replica_id) };
            self.check_new(group, &descriptor, &range)?;
            match self.hosted().get(&range.id) {
                Some(hosted) if hosted.group == group => {
                    self.found_again(hosted, &descriptor).await?;
                }
                Some(hosted) => {
                    let other = hosted.group.replica;
                    let text = format!("replica {other} of {} is here already", range.id);
                    return Err(RegistryError::Invalid(text));
                }
                None => fresh.push((group, descriptor)),
            }
        }
        // Together, since each waits for the disk and all can share its syncs.
        futures_util::stream::iter(fresh)
            .map(|(group, descriptor)| self.create_one(group, descriptor))
            .buffer_unordered(OPENING_MAX)
            .try_collect::<()>()
            .await
    }

    async fn create_one(
        &self,
        group: GroupId,
        descriptor: ReplicaDescriptor,
    ) -> Result<(), RegistryError> {
        if self.inner.store.journal.descriptor(group).is_none() {
            self.inner.store.create_group(group, &descriptor).await?;
        }
        self.insert(self.open_replica(group, descriptor).await?);
        Ok(())
    }

    fn check_new(
        &self,
        group: GroupId,
        descriptor: &ReplicaDescriptor,
        range: &RangeDescriptor,
    ) -> Result<(), RegistryError> {
        let (cluster, node) = self
            .inner
            .deps
            .identity
            .membership()
            .ok_or_else(|| RegistryError::Invalid("this node belongs to no cluster".into()))?;
        let is_ours = descriptor.node_id == node.0
            && descriptor.cluster_id == cluster.to_bytes().as_slice()
            && range.replicas.iter().any(|r| r.id == group.replica && r.node == node);
        if !is_ours {
            return Err(RegistryError::Invalid(format!("{} is not for {node}", group.replica)));
        }
        if self.inner.broken.lock().contains_key(&group) {
            return Err(RegistryError::Retired(group));
        }
        Ok(())
    }

    /// A second request may make another replica the founder, if the first founder is gone.
    async fn found_again(
        &self,
        hosted: &Hosted,
        descriptor: &ReplicaDescriptor,
    ) -> Result<(), RegistryError> {
        if descriptor.founder && !hosted.descriptor.founder {
            let voters = hosted.range.replicas.iter().map(|r| (r.id, r.node)).collect();
            hosted.replica.initialize(voters).await?;
        }
        Ok(())
    }

    /// Destroys a replica with everything it holds. The caller has read the evidence, in range 0
    /// and linearizably, that it was removed from its range.
    ///
    /// # Errors
    /// [`RegistryError`]: call again; nothing is left half destroyed over a restart.
    pub async fn destroy(&self, group: GroupId) -> Result<(), RegistryError> {
        let _changing = self.inner.changing.read().await;
        let store = &self.inner.store;
        if let Some(hosted) = self.hosted().get(&group.range).filter(|h| h.group == group) {
            hosted.replica.stop().await;
            self.remove(group.range);
            store.jobs.remove(group);
            let engine = hosted.engine.clone();
            let destroyed = self.inner.deps.pool.run(move || engine.destroy()).await;
            destroyed.map_err(|_| RegistryError::Stopped)??;
        }
        let registry = self.clone();
        let removed = self.inner.deps.pool.run(move || registry.inner.store.remove_dir(group));
        removed.await.map_err(|_| RegistryError::Stopped)??;
        if store.journal.groups().contains(&group) {
            store.destroy_group(group).await?;
        }
        self.inner.broken.lock().remove(&group);
        tracing::info!(range = %group.range, replica = %group.replica, "replica destroyed");
        Ok(())
    }

    /// The replicas that run, by range.
    pub fn hosted(&self) -> Arc<BTreeMap<RangeId, Arc<Hosted>>> {
        self.inner.replicas.load_full()
    }

    /// This node's replica of `range`. Cost: one look-up in memory.
    pub fn replica(&self, range: RangeId) -> Option<Replica> {
        self.inner.replicas.load().get(&range).map(|hosted| hosted.replica.clone())
    }

    /// Replicas that exist here but do not run, with the reason.
    pub fn broken(&self) -> BTreeMap<GroupId, String> {
        self.inner.broken.lock().clone()
    }

    /// The node's journal.
    pub fn journal(&self) -> &Arc<Journal> {
        &self.inner.store.journal
    }

    /// What the engines share.
    pub fn memory(&self) -> &Arc<Shared> {
        &self.inner.store.memory
    }

    /// Figures for metrics.
    pub fn usage(&self) -> Usage {
        Usage {
            in_flight_bytes: self.inner.admission.used_bytes(),
            is_disk_full: self.is_disk_full(),
        }
    }

    /// Whether growth is refused for want of disk space.
    pub fn is_disk_full(&self) -> bool {
        self.inner.is_disk_full.load(Ordering::Acquire)
    }

    /// How many bytes fit on the disk before growth is refused; 0 until somebody has looked.
    pub fn room_bytes(&self) -> u64 {
        self.inner.room_bytes.load(Ordering::Relaxed)
    }

    /// Looks after the replicas until the node stops: parks quiet followers, takes out a replica
    /// that turned out to be damaged or has ended by itself.
    pub async fn tend(self, stop: Stop) {
        let mut beat = holdfast_runtime::interval(TEND_INTERVAL);
        while stop.or(beat.tick()).await.is_some() {
            let hit = self.inner.store.journal.hit_groups();
            for hosted in self.hosted().values() {
                hosted.replica.tend();
                if let Some(reason) = self.inner.store.jobs.corrupt(hosted.group) {
                    hosted.replica.report_damage(&reason);
                }
                if hit.contains(&hosted.group) {
                    hosted.replica.report_damage("the journal has found its log damaged");
                }
                if let Some(failure) = hosted.replica.failure() {
                    self.take_out(hosted, &failure).await;
                }
            }
        }
    }

    /// A replica that ended by itself is not asked any more, and named where operators look.
    async fn take_out(&self, hosted: &Hosted, failure: &Failure) {
        self.retire(hosted.group, &failure.to_string());
        self.remove(hosted.group.range);
        self.inner.store.jobs.remove(hosted.group);
        hosted.replica.stop().await;
    }

    /// Stops every replica, leaders handed over first, all at once, at most until `patience` has
    /// passed; then flushes, and ends journal and job threads.
    pub async fn shutdown(&self, patience: Duration) {
        let hosted = self.hosted();
        let stopping = hosted.values().map(|h| h.replica.shutdown());
        let stopped = futures_util::future::join_all(stopping);
        if holdfast_runtime::timeout(patience, stopped).await.is_err() {
            tracing::warn!("not every replica stopped in time");
        }
        self.inner.replicas.store(Arc::default());
        let registry = self.clone();
        let ended = self.inner.deps.pool.run(move || {
            registry.flush(&hosted);
            registry.inner.store.stop();
        });
        if ended.await.is_err() {
            tracing::warn!("storage was not stopped in order");
        }
    }

    /// Flushes what is in memory, so that the next start replays little. Blocks.
    fn flush(&self, hosted: &BTreeMap<RangeId, Arc<Hosted>>) {
        for hosted in hosted.values() {
            hosted.engine.seal();
            while let Some(job) = hosted.engine.next_job() {
                if job.kind() != holdfast_lsm::JobKind::Flush {
                    break;
                }
                if let Err(error) = job.run() {
                    tracing::warn!(range = %hosted.group.range, %error, "not flushed");
                    break;
                }
            }
        }
    }
}

/// The timings of every replica.
pub(crate) fn timings(config: &Config) -> Timings {
    Timings {
        heartbeat: Duration::from_millis(config.raft.heartbeat_ms),
        heartbeat_min: Duration::from_millis(config.raft.heartbeat_ms / 2),
        election_min: Duration::from_millis(config.raft.election_min_ms),
        election_max: Duration::from_millis(config.raft.election_max_ms),
        clock_offset_max: Duration::from_millis(config.cluster.max_clock_offset_ms),
        ..Timings::default()
    }
}

fn parsed(descriptor: &ReplicaDescriptor) -> Result<RangeDescriptor, RegistryError> {
    let range = descriptor.range.clone().unwrap_or_default();
    RangeDescriptor::try_from(range).map_err(|e| RegistryError::Invalid(e.to_string()))
}
