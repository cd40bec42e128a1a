//! Nodes of one range each, on simulated disks, all in the current runtime.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use holdfast_env::sim::{SimDisk, SimEntropy};
use holdfast_env::{Clock, Disk};
use holdfast_journal::{GroupId, Journal, JournalOptions, Step, Writer};
use holdfast_kv::command::{Configure, Put};
use holdfast_kv::{At, Command, Operation, Outcome};
use holdfast_lsm::{Engine, EngineOptions, Shared, SharedOptions};
use holdfast_model::{
    ClusterId, History, KeyspaceId, NodeId, RangeEpoch, RangeId, ReplicaId, Span,
};
use holdfast_replica::{
    Admission, Committed, Deps, FatalHook, ProposeError, ReadError, ReadLevel, ReadRequest,
    Replica, ReplicaOptions, Role,
};
use holdfast_runtime::{Deadline, Handle, Pool, sleep, spawn, timeout};
use tokio::sync::Notify;

use crate::net::{End, Net};

pub const RANGE: RangeId = RangeId(5);
/// Large enough for entries of more than a mebibyte.
pub const SEGMENT_BYTES: u64 = 8 << 20;
const WALL_START: Duration = Duration::from_secs(1_700_000_000);
/// No step of a test takes longer than this, in virtual time.
const PATIENCE: Duration = Duration::from_secs(30);

/// The runtime's virtual time as a clock, which may run fast or slow.
#[derive(Debug)]
pub struct VirtualClock {
    start: tokio::time::Instant,
    /// What passes on it while 100 pass.
    percent: u32,
    /// How far its wall clock was set ahead, milliseconds.
    ahead_ms: AtomicU64,
    /// How much passed on it while everybody else stood still, milliseconds.
    skipped_ms: AtomicU64,
    /// When it stopped, if it did.
    frozen: OnceLock<Duration>,
}

impl VirtualClock {
    pub fn start() -> Self {
        Self::running_at(100)
    }

    pub fn running_at(percent: u32) -> Self {
        Self {
            start: tokio::time::Instant::now(),
            percent,
            ahead_ms: AtomicU64::new(0),
            skipped_ms: AtomicU64::new(0),
            frozen: OnceLock::new(),
        }
    }

    /// Sets the wall clock, and nothing else, ahead.
    pub fn set_ahead(&self, by: Duration) {
        let by_ms = u64::try_from(by.as_millis()).unwrap();
        self.ahead_ms.store(by_ms, Ordering::Release);
    }

    /// Lets `by` pass on it at once, as it does for a process that stood still.
    pub fn skip(&self, by: Duration) {
        let by_ms = u64::try_from(by.as_millis()).unwrap();
        self.skipped_ms.fetch_add(by_ms, Ordering::AcqRel);
    }

    /// Lets it stand still from now on.
    pub fn freeze(&self) {
        self.frozen.get_or_init(|| self.elapsed());
    }

    fn elapsed(&self) -> Duration {
        let skipped = Duration::from_millis(self.skipped_ms.load(Ordering::Acquire));
        let running = || self.start.elapsed() * self.percent / 100 + skipped;
        self.frozen.get().copied().unwrap_or_else(running)
    }
}

impl Clock for VirtualClock {
    fn monotonic(&self) -> Duration {
        Duration::from_secs(1_000) + self.elapsed()
    }

    fn wall(&self) -> Duration {
        let ahead = Duration::from_millis(self.ahead_ms.load(Ordering::Acquire));
        WALL_START + self.elapsed() + ahead
    }
}

/// One node with its one replica.
pub struct Node {
    pub replica: Replica,
    pub engine: Arc<Engine>,
    pub journal: Arc<Journal>,
    pub disk: SimDisk,
    pub fatal: Arc<AtomicBool>,
    stop: Arc<Notify>,
    hang: Arc<Notify>,
}

impl Node {
    pub fn id(&self) -> NodeId {
        self.replica.options().node
    }

    pub fn replica_id(&self) -> ReplicaId {
        self.replica.options().replica
    }

    pub fn is_leader(&self) -> bool {
        self.replica.leader().role == Role::Leader
    }

    /// Makes durable in the engine what is applied.
    pub async fn flush(&self) {
        let applied = self.engine.read_point();
        self.engine.seal();
        let flushed = async {
            while self.engine.durable_point().index < applied.index {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, flushed).await.expect("the engine flushes");
    }

    /// Lets the journal take what it is given, and write nothing of it any more.
    pub async fn hang_journal(&self) {
        self.hang.notify_one();
        // The writer goes to rest.
        sleep(Duration::from_millis(10)).await;
    }

    /// The value of `key` in the applied state, without any guarantee.
    pub fn peek(&self, key: &str) -> Option<Bytes> {
        let entry = self.replica.reader().get(&Bytes::copy_from_slice(key.as_bytes()), At::Current);
        entry.expect("the key is readable").map(|entry| entry.value)
    }
}

/// A group of nodes.
pub struct Cluster {
    pub net: Arc<Net>,
    /// What the test goes by.
    pub clock: Arc<VirtualClock>,
    /// What each node goes by; where none is set, by the test's own.
    pub clocks: BTreeMap<NodeId, Arc<VirtualClock>>,
    pub nodes: BTreeMap<NodeId, Node>,
    entropy: Arc<SimEntropy>,
    pub tune: fn(&mut ReplicaOptions),
}

/// Options of every node's journal.
pub fn journal_options(segment_bytes: u64) -> JournalOptions {
    JournalOptions {
        segment_bytes,
        limit_bytes: 8 * segment_bytes,
        cache_bytes: 64 << 10,
        queue_bytes_max: segment_bytes,
        retention_group_bytes: 256 << 10,
        ..JournalOptions::default()
    }
}

impl Cluster {
    /// `count` nodes that form a configured group with a leader.
    pub async fn start(count: u64) -> Self {
        Self::start_tuned(count, |_| {}).await
    }

    pub async fn start_tuned(count: u64, tune: fn(&mut ReplicaOptions)) -> Self {
        Self::start_with(count, tune, BTreeMap::new()).await
    }

    /// As many nodes as `percents`, whose clocks run so fast.
    pub async fn start_on_clocks<const N: usize>(percents: [u32; N]) -> Self {
        let clock = |percent| Arc::new(VirtualClock::running_at(percent));
        let clocks = (1..).map(NodeId).zip(percents.map(clock)).collect();
        Self::start_with(u64::try_from(N).unwrap(), |_| {}, clocks).await
    }

    async fn start_with(
        count: u64,
        tune: fn(&mut ReplicaOptions),
        clocks: BTreeMap<NodeId, Arc<VirtualClock>>,
    ) -> Self {
        let mut cluster = Self {
            net: Arc::default(),
            clock: Arc::new(VirtualClock::start()),
            clocks,
            nodes: BTreeMap::new(),
            entropy: Arc::new(SimEntropy::new(42)),
            tune,
        };
        for id in 1..=count {
            cluster.boot(NodeId(id), ReplicaId(1_000 + id), SimDisk::new()).await.unwrap();
        }
        cluster.found().await;
        cluster
    }

    async fn found(&self) {
        let voters = self.nodes.values().map(|n| (n.replica_id(), n.id())).collect();
        let founder = self.nodes.values().next().expect("there is a node");
        founder.replica.initialize(voters).await.unwrap();
        let configured = self.propose(&configure()).await;
        assert!(matches!(configured.outcomes[0], Outcome::Configured(_)));
    }

    /// Starts a node on what `disk` holds.
    pub async fn boot(
        &mut self,
        id: NodeId,
        replica: ReplicaId,
        disk: SimDisk,
    ) -> holdfast_replica::Result<()> {
        let peers = Arc::new(End::of(&self.net, id));
        let clock = self.clocks.get(&id).unwrap_or(&self.clock).clone();
        let entropy = self.entropy.clone();
        let mut options =
            ReplicaOptions::new(ClusterId(9), id, RANGE, replica, PathBuf::from("/node/replica"));
        (self.tune)(&mut options);
        let node = open_node(options, disk, SEGMENT_BYTES, clock, entropy, peers).await?;
        self.net.attach(&node.replica);
        self.nodes.insert(id, node);
        Ok(())
    }

    /// Ends a node as a power failure would; returns its replica and what its disk kept.
    pub async fn crash(&mut self, id: NodeId, keep_percent: u8) -> (ReplicaId, SimDisk) {
        let node = self.nodes.remove(&id).expect("the node runs");
        let image = node.disk.crash(keep_percent, 7);
        let replica = node.replica_id();
        self.net.detach(replica);
        halt(&node).await;
        (replica, image)
    }

    /// Ends all nodes. Until then their tasks live as long as the test.
    pub async fn end(self) {
        for node in self.nodes.values() {
            self.net.detach(node.replica_id());
            halt(node).await;
        }
    }

    /// Tells everybody that the connection to `id` is gone, as the transport would.
    pub fn report_lost(&self, id: NodeId) {
        for node in self.nodes.values().filter(|node| node.id() != id) {
            node.replica.peer_lost(id);
        }
    }

    /// Cuts `id` off from everybody, or joins it again.
    pub fn isolate(&self, id: NodeId, cut_off: bool) {
        for other in self.nodes.keys().filter(|other| **other != id) {
            self.net.set_link(id, *other, !cut_off);
        }
    }

    /// The leader, waiting for one if need be.
    pub async fn leader(&self) -> &Node {
        self.leader_among(|_| true).await
    }

    pub async fn leader_among(&self, eligible: impl Fn(NodeId) -> bool) -> &Node {
        let found = async {
            loop {
                let leads = |node: &&Node| node.is_leader() && eligible(node.id());
                if let Some(node) = self.nodes.values().find(leads) {
                    return node;
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, found).await.expect("a leader is elected")
    }

    /// Some node that follows.
    pub async fn follower(&self) -> &Node {
        let leader = self.leader().await.id();
        self.nodes.values().find(|node| node.id() != leader).expect("there is a follower")
    }

    /// Proposes until it is committed; only definite refusals are tried again.
    pub async fn propose(&self, command: &Command) -> Committed {
        let committed = async {
            loop {
                let leader = self.leader().await;
                match leader.replica.propose(command, deadline()).await {
                    Ok(committed) => return committed,
                    Err(error) => assert!(error.is_definite(), "{error}"),
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, committed).await.expect("the command is committed")
    }

    /// Proposes on the leader that is elected while `old` is cut off.
    pub async fn propose_without(&self, old: NodeId, command: &Command) -> Committed {
        let committed = async {
            loop {
                let leader = self.leader_among(|id| id != old).await;
                match leader.replica.propose(command, deadline()).await {
                    Ok(committed) => return committed,
                    Err(error) => assert!(error.is_definite(), "{error}"),
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, committed).await.expect("the command is committed")
    }

    pub async fn put(&self, key: &str, value: &str) -> Committed {
        self.propose(&put(key, value)).await
    }

    /// Waits until every node has applied what any has.
    pub async fn settle(&self) {
        let index = |node: &Node| node.replica.reader().point().index;
        let target = self.nodes.values().map(index).max().expect("there is a node");
        let settled = async {
            while self.nodes.values().any(|node| index(node) < target) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, settled).await.expect("everybody catches up");
    }
}

/// The command that gives the range its truth.
pub fn configure() -> Command {
    let span = Span::ALL;
    let truth = Configure::new(RANGE, KeyspaceId(1), span, RangeEpoch(1), History::Manual);
    Command::single(truth)
}

pub fn deadline() -> Deadline {
    Deadline::after(Duration::from_secs(5))
}

pub fn put(key: &str, value: &str) -> Command {
    Command::single(put_operation(key, value))
}

pub fn put_operation(key: &str, value: &str) -> Operation {
    let (key, value) = (Bytes::copy_from_slice(key.as_bytes()), value.as_bytes().to_vec().into());
    Operation::Put(Put { key, value, ..Put::default() })
}

/// Reads `key` through `node` at `level`.
pub async fn read(node: &Node, key: &str, level: ReadLevel) -> Result<Option<Bytes>, ReadError> {
    node.replica.read(&ReadRequest::new(level, deadline())).await?;
    Ok(node.peek(key))
}

/// Stops the tasks of a node; its disk stays as it is.
pub async fn halt(node: &Node) {
    node.replica.stop().await;
    node.stop.notify_waiters();
    node.stop.notify_one();
}

/// Makes the node's directory, durably; what is made inside is synced by its makers.
fn make_home(disk: &SimDisk) -> std::io::Result<()> {
    disk.create_dir_all(Path::new("/node"))?;
    disk.sync_dir(Path::new("/"))
}

/// Opens journal, engine and replica on `disk`.
pub async fn open_node(
    options: ReplicaOptions,
    disk: SimDisk,
    segment_bytes: u64,
    clock: Arc<VirtualClock>,
    entropy: Arc<SimEntropy>,
    peers: Arc<End>,
) -> holdfast_replica::Result<Node> {
    make_home(&disk).map_err(|_| holdfast_replica::Error::Stopped("no home".into()))?;
    let fatal = Arc::new(AtomicBool::new(false));
    let group = GroupId { range: options.range, replica: options.replica };
    let any_disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let path = Path::new("/node/journal");
    let options_of_journal = journal_options(segment_bytes);
    let opened =
        Journal::open(any_disk.clone(), entropy.clone(), clock.clone(), path, options_of_journal);
    let (journal, writer, recovery) = opened.map_err(holdfast_replica::Error::Journal)?;
    assert_eq!(recovery.hit, [], "a power failure damages no group");
    let (stop, hang) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let until = [stop.clone(), hang.clone()];
    spawn(write_journal(journal.clone(), writer, until));
    if !journal.groups().contains(&group) {
        let created = journal.create_group(group, Bytes::new(), Box::new(drop));
        created.map_err(holdfast_replica::Error::Journal)?;
    }
    let durable = journal.clone();
    let engine = Engine::open(
        any_disk.clone(),
        entropy.clone(),
        &options.dir,
        // No cache: what is in a table is read from the disk, where it may be damaged.
        Arc::new(
            Shared::new(SharedOptions { cache_bytes: 0, ..SharedOptions::default() }).unwrap(),
        ),
        Arc::new(move || durable.durable()),
        EngineOptions { memtable_bytes: 64 << 10, ..EngineOptions::default() },
    );
    let engine = Arc::new(engine.map_err(holdfast_replica::Error::Engine)?);
    spawn(run_jobs(engine.clone(), stop.clone()));
    let ended = fatal.clone();
    let deps = Deps {
        journal: journal.clone(),
        engine: engine.clone(),
        peers,
        clock,
        entropy,
        disk: any_disk,
        reactor: Handle::current(),
        pool: Pool::inline(),
        admission: Admission::new("bytes under way on the node", 64 << 20),
        engine_work: Arc::new(|| {}),
        fatal: FatalHook::new(move |_| ended.store(true, Ordering::Release)),
    };
    let replica = Replica::open(options, deps).await?;
    Ok(Node { replica, engine, journal, disk, fatal, stop, hang })
}

/// The journal's writer as a task.
async fn write_journal(journal: Arc<Journal>, mut writer: Writer, until: [Arc<Notify>; 2]) {
    let [stop, hang] = until;
    let work = Arc::new(Notify::new());
    let ring = work.clone();
    journal.set_wake(move || ring.notify_one());
    loop {
        let Ok(step) = writer.step() else { return };
        if let Step::Idle { next } = step {
            let next = next.unwrap_or(Duration::from_secs(3_600)).max(Duration::from_millis(1));
            tokio::select! {
                () = work.notified() => {}
                () = sleep(next) => {}
                () = hang.notified() => return,
                () = stop.notified() => {
                    stop.notify_one();
                    return;
                }
            }
        } else {
            // One sync takes a moment, in which the next batch gathers.
            sleep(Duration::from_micros(500)).await;
        }
    }
}

/// The engine's jobs as a task.
async fn run_jobs(engine: Arc<Engine>, stop: Arc<Notify>) {
    loop {
        while let Some(job) = engine.next_job() {
            if job.run().is_err() {
                return;
            }
        }
        tokio::select! {
            () = sleep(Duration::from_millis(20)) => {}
            () = stop.notified() => {
                stop.notify_one();
                return;
            }
        }
    }
}

/// The error of a refused proposal.
pub fn refusal(result: Result<Committed, ProposeError>) -> ProposeError {
    result.expect_err("the command is refused")
}
