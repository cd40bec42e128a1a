//! The handle of one replica: what its node and the API above see of a Raft group.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use holdfast_env::defect;
use holdfast_env::{Clock, Entropy};
use holdfast_journal::{GroupId, Journal};
use holdfast_kv::{Command, Reader, StateMachine};
use holdfast_lsm::Engine;
use holdfast_model::{NodeId, ReplicaId};
use holdfast_runtime::{Deadline, Handle, Pool, Tasks, spawn_on};
use openraft::async_runtime::WatchReceiver;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use crate::admission::Admission;
use crate::deps::Deps;
use crate::elections;
use crate::error::{Error, ProposeError, Result, WatchError};
use crate::health::{Failure, Health};
use crate::keeper;
use crate::leadership::{LeaderInfo, Leadership, Role, WallClocks};
use crate::options::ReplicaOptions;
use crate::peers::Peers;
use crate::proposer::{Committed, Growth, NoGrowth, Packer, Proposer};
use crate::raft::Group;
use crate::raft::log_store::LogStore;
use crate::raft::machine::{Machine, Progress};
use crate::raft::network::{Factory, Holds, NetworkShared};
use crate::raft::runtime::{self, Context};
use crate::raft::staging::{self, StagingArea};
use crate::raft::tail::Tail;
use crate::reads::{Assurance, FollowerReads, Proofs, RoundTask, Rounds};
use crate::renewals::{self, Renewals, Renewing};
use crate::watch::{Hub, LockWaiter, WatchLimits, WatchStream};
use crate::watch_filter::WatchFilter;

/// How long tasks of a stopping replica may take to end.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// One copy of a range. Clones are the same replica.
#[derive(Clone)]
pub struct Replica {
    pub(crate) inner: Arc<Inner>,
}

/// What the handle and the tasks of a replica share.
pub(crate) struct Inner {
    pub(crate) options: ReplicaOptions,
    pub(crate) group: GroupId,
    pub(crate) journal: Arc<Journal>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) staging: Arc<StagingArea>,
    pub(crate) pool: Pool,
    reactor: Handle,
    tasks: Tasks,
    pub(crate) context: Arc<Context>,
    pub(crate) raft: Group,
    pub(crate) reader: Reader,
    pub(crate) progress: Arc<Progress>,
    pub(crate) leadership: Arc<Leadership>,
    pub(crate) health: Arc<Health>,
    pub(crate) network: Arc<NetworkShared>,
    pub(crate) proposer: Proposer,
    pub(crate) rounds: Rounds,
    pub(crate) lease_rounds: Rounds,
    pub(crate) proofs: Arc<Proofs>,
    pub(crate) follower_reads: FollowerReads,
    pub(crate) renewals: Renewals,
    /// When the leader was heard last, monotonic nanoseconds.
    pub(crate) heard_at_nanos: AtomicU64,
    pub(crate) boot_delay_over: AtomicBool,
    pub(crate) may_have_granted_lease: bool,
    /// Nodes whose connection is lost. A lock, since nodes are lost on other threads.
    lost: Mutex<BTreeSet<NodeId>>,
    parked: AtomicBool,
}

/// Wall clocks as the connections to other nodes have measured them.
struct PeerWalls(Arc<dyn Peers>);

impl WallClocks for PeerWalls {
    fn offset_ms(&self, node: NodeId) -> Option<i64> {
        self.0.wall_offset_ms(node)
    }
}

/// The task ends of the queues that callers hold the other ends of.
struct Queues {
    proposals: mpsc::Receiver<crate::proposer::Proposal>,
    rounds: mpsc::Receiver<crate::reads::Answer>,
    lease_rounds: mpsc::Receiver<crate::reads::Answer>,
    renewals: mpsc::Receiver<Renewing>,
}

impl Replica {
    /// Opens a replica whose group exists in the journal and whose engine is open, and starts it.
    ///
    /// It takes up the log where the engine's durable state ends, and is passive until it hears a
    /// leader or may campaign. All its tasks run on `deps.reactor`; this may be called anywhere.
    ///
    /// # Errors
    /// [`Error::Option`]; [`Error::Machine`], [`Error::Corrupt`]: the replica must be replaced;
    /// [`Error::Stopped`] where openraft refuses what it finds.
    pub async fn open(options: ReplicaOptions, deps: Deps) -> Result<Self> {
        options.validate()?;
        let reactor = deps.reactor.clone();
        let (clock, entropy) = (deps.clock.clone(), deps.entropy.clone());
        let context = Arc::new(Context { clock, entropy });
        let opening = open_here(options, deps, context.clone());
        let opened = spawn_on(&reactor, runtime::scope(context, opening)).await;
        opened.map_err(|error| Error::Stopped(format!("while opening: {error}")))?
    }

    /// Founds the group: its first members are `voters`. For one of them only; nothing happens
    /// where the group has members already. It is not durable when it returns: call it again
    /// after every start until the group has a leader.
    ///
    /// # Errors
    /// [`Error::Membership`] if this replica is not among the voters, [`Error::Stopped`].
    pub async fn initialize(&self, voters: BTreeMap<ReplicaId, NodeId>) -> Result<()> {
        crate::membership::initialize(&self.inner, voters).await
    }

    /// Proposes a command and waits until it is committed and applied here.
    ///
    /// Commands that wait together share one entry. Validate it before (`kv::validate`).
    ///
    /// # Errors
    /// All but [`ProposeError::Unknown`] mean that nothing was appended: the command may be sent
    /// elsewhere. After `Unknown` only a session tells what became of it.
    pub async fn propose(
        &self,
        command: &Command,
        deadline: Deadline,
    ) -> std::result::Result<Committed, ProposeError> {
        if !self.inner.health.is_good() {
            return Err(ProposeError::Stopped);
        }
        self.inner.proposer.propose(command, deadline).await
    }

    /// Begins a watch on this replica's applied state.
    ///
    /// # Errors
    /// [`WatchError::Compacted`] where `filter.from` is gone, [`WatchError::TooMany`],
    /// [`WatchError::Stopped`].
    pub fn watch(&self, filter: WatchFilter) -> std::result::Result<WatchStream, WatchError> {
        let inner = &self.inner;
        inner.progress.hub.watch(inner.reader.clone(), inner.pool.clone(), filter)
    }

    /// Waits for lock `name` to be granted to `owner`; to be called before the lock is asked for,
    /// so that no grant is missed. `None` where too many wait.
    pub fn wait_for_grant(&self, name: Bytes, owner: Bytes) -> Option<LockWaiter> {
        self.inner.progress.hub.wait_for_grant(name, owner)
    }

    /// The applied state, as it is: for reads whose freshness was settled otherwise.
    pub fn reader(&self) -> &Reader {
        &self.inner.reader
    }

    /// The options the replica was opened with.
    pub fn options(&self) -> &ReplicaOptions {
        &self.inner.options
    }

    /// Who leads, as far as this replica knows.
    pub fn leader(&self) -> LeaderInfo {
        self.inner.leadership.info()
    }

    /// Whether this replica leads, as far as it knows. Cost: one atomic load.
    pub fn is_leader(&self) -> bool {
        self.inner.leadership.is_leader()
    }

    /// Follows who leads.
    pub fn leader_watch(&self) -> watch::Receiver<LeaderInfo> {
        self.inner.leadership.watch()
    }

    /// Hands leadership to the voter on `to`, or to the most up-to-date one. Returns the new
    /// leader.
    ///
    /// # Errors
    /// [`Error::NotLeader`]; [`Error::Membership`] where nobody can take it; [`Error::Timeout`]:
    /// nobody took it, an election follows.
    pub async fn transfer_leader(&self, to: Option<NodeId>) -> Result<ReplicaId> {
        let context = self.inner.context.clone();
        runtime::scope(context, elections::transfer(&self.inner, to)).await
    }

    /// Why this replica ended, if it ended without having been asked to.
    pub fn failure(&self) -> Option<Failure> {
        self.inner.health.failure()
    }

    /// Something of this replica is not what was written, as somebody else found out: it takes no
    /// further part in anything, for ever.
    pub fn report_damage(&self, reason: &str) {
        self.inner.health.damaged(reason.to_owned());
    }

    /// Stops the replica: hands leadership over first, then ends all tasks.
    ///
    /// What waits is answered with `Stopped` where it was not proposed, as unknown otherwise.
    pub async fn shutdown(&self) {
        let inner = &self.inner;
        if inner.leadership.is_leader()
            && let Err(error) = self.transfer_leader(None).await
        {
            tracing::info!(range = %inner.options.range, %error, "leadership is not handed over");
        }
        self.stop().await;
    }

    /// Stops the replica at once, as a crash of the process would end it.
    pub async fn stop(&self) {
        let inner = &self.inner;
        inner.health.stopping();
        inner.progress.hub.stop();
        inner.tasks.ask_to_stop();
        // openraft's core has ended after this, however it ended.
        let _ = inner.raft.shutdown().await;
        if let Err(error) = inner.tasks.stop(STOP_PATIENCE).await {
            tracing::warn!(range = %inner.options.range, %error, "replica is slow to stop");
        }
    }

    /// The connection to `node` is lost, or three of its heartbeats are missing: if it hosts the
    /// leader, the voters campaign as soon as their leases have run out.
    pub fn peer_lost(&self, node: NodeId) {
        self.unpark();
        if self.inner.lost.lock().insert(node) {
            let inner = self.inner.clone();
            self.inner.spawn(elections::campaign_quickly(inner, node));
        }
    }

    /// `node` is connected again.
    pub fn peer_back(&self, node: NodeId) {
        self.inner.lost.lock().remove(&node);
    }

    /// Parks or wakes the ticker of this replica; the node calls it for every replica each tenth of
    /// a second.
    ///
    /// A follower that has heard its own group's leader within half of the shortest election
    /// timeout needs no ticks: nothing of it is due. Without a known leader it is never parked.
    pub fn tend(&self) {
        let info = self.inner.leadership.info();
        let is_quiet = info.role == Role::Follower && info.leader.is_some();
        let fresh = self.inner.unheard_for() < self.inner.options.timings.election_min / 2;
        match is_quiet && fresh && self.inner.may_campaign() {
            true => self.park(),
            false => self.unpark(),
        }
    }

    /// Stops the ticks of a follower; it then never campaigns by itself.
    pub fn park(&self) {
        if !self.inner.parked.swap(true, Ordering::AcqRel) {
            self.inner.raft.runtime_config().tick(false);
        }
    }

    /// Lets the ticks go on.
    pub fn unpark(&self) {
        if self.inner.parked.swap(false, Ordering::AcqRel) {
            self.inner.raft.runtime_config().tick(true);
        }
    }
}

/// Opens on the reactor, in the replica's context.
async fn open_here(options: ReplicaOptions, deps: Deps, context: Arc<Context>) -> Result<Replica> {
    let (config, state) = (options.to_raft()?, open_state(&options, &deps).await?);
    let reader = state.reader();
    let group = GroupId { range: options.range, replica: options.replica };
    let may_have_granted_lease =
        deps.journal.vote(group).is_some() && !defect!(VOTER_FORGETS_LEASE);
    let walls = Arc::new(PeerWalls(deps.peers.clone()));
    let offset_max = options.timings.clock_offset_max;
    let leadership = Arc::new(Leadership::new(deps.clock.clone(), options.node, offset_max, walls));
    let progress = new_progress(&options, &reader, &leadership);
    let health = new_health(group, &deps, &reader);
    let network = new_network(&options, &deps, &health, &leadership);
    let staging = new_staging(&options, &deps);
    let (tail, journal) = (network.tail.clone(), deps.journal.clone());
    let log = LogStore { journal, group, tail, health: health.clone() };
    let machine = new_machine(state, &deps, &progress, &health);
    let factory = Factory(network.clone());
    let built = Group::build(options.replica, config, factory, log, machine).await;
    let raft = built.map_err(|fatal| Error::Stopped(fatal.to_string()))?;
    let (rounds, waiting_rounds) = Rounds::new();
    let (lease_rounds, waiting_lease_rounds) = Rounds::new();
    let (renewals, waiting_renewals) = Renewals::new();
    let (proposer, proposals) = new_proposer(&options, &deps, &leadership);
    let queues = Queues {
        proposals,
        rounds: waiting_rounds,
        lease_rounds: waiting_lease_rounds,
        renewals: waiting_renewals,
    };
    let inner = Arc::new(Inner {
        group,
        journal: deps.journal,
        engine: deps.engine,
        admission: deps.admission,
        clock: deps.clock,
        entropy: deps.entropy,
        staging,
        pool: deps.pool,
        reactor: deps.reactor,
        tasks: Tasks::new(),
        context,
        raft,
        reader,
        progress,
        leadership,
        health,
        network,
        proposer,
        rounds,
        lease_rounds,
        proofs: Arc::default(),
        follower_reads: FollowerReads::default(),
        renewals,
        heard_at_nanos: AtomicU64::new(0),
        boot_delay_over: AtomicBool::new(false),
        may_have_granted_lease,
        lost: Mutex::default(),
        parked: AtomicBool::new(false),
        options,
    });
    inner.raft.run();
    inner.start(queues);
    Ok(Replica { inner })
}

/// The health of a replica, judged by whoever reads its state.
fn new_health(group: GroupId, deps: &Deps, reader: &Reader) -> Arc<Health> {
    let health = Health::new(group, deps.journal.clone(), deps.fatal.clone());
    let judge = health.clone();
    reader.on_damage(move |error| judge.judge(error));
    health
}

/// Reads the state machine's state, on a thread that may wait for the disk.
async fn open_state(options: &ReplicaOptions, deps: &Deps) -> Result<StateMachine> {
    let (disk, dir, engine) = (deps.disk.clone(), options.dir.clone(), deps.engine.clone());
    let opening = move || {
        if let Err(error) = staging::remove_leftovers(disk.as_ref(), &dir) {
            tracing::warn!(%error, "leftovers of snapshots stay");
        }
        StateMachine::open(engine)
    };
    let opened = deps.pool.run(opening).await;
    opened.map_err(|error| Error::Stopped(error.to_string()))?.map_err(Error::Machine)
}

fn new_progress(
    options: &ReplicaOptions,
    reader: &Reader,
    leadership: &Arc<Leadership>,
) -> Arc<Progress> {
    let limits = WatchLimits {
        watches_max: options.watches_max,
        buffer_bytes_max: options.watch_buffer_bytes,
        total_bytes_max: options.watch_total_bytes,
    };
    let hub = Hub::new(limits, reader.point());
    let progress = Progress::new(hub, leadership.clone());
    progress.reset(reader);
    Arc::new(progress)
}

fn new_staging(options: &ReplicaOptions, deps: &Deps) -> Arc<StagingArea> {
    let (disk, pool, clock) = (deps.disk.clone(), deps.pool.clone(), deps.clock.clone());
    StagingArea::new(disk, pool, clock, options.dir.clone())
}

fn new_machine(
    state: StateMachine,
    deps: &Deps,
    progress: &Arc<Progress>,
    health: &Arc<Health>,
) -> Machine {
    Machine {
        reader: state.reader(),
        state,
        engine: deps.engine.clone(),
        journal: deps.journal.clone(),
        pool: deps.pool.clone(),
        progress: progress.clone(),
        engine_work: deps.engine_work.clone(),
        health: health.clone(),
    }
}

fn new_network(
    options: &ReplicaOptions,
    deps: &Deps,
    health: &Arc<Health>,
    leadership: &Arc<Leadership>,
) -> Arc<NetworkShared> {
    let group = GroupId { range: options.range, replica: options.replica };
    let last = deps.journal.log_state(group).last;
    let leadership = leadership.clone();
    Arc::new(NetworkShared {
        peers: deps.peers.clone(),
        cluster: options.cluster,
        range: options.range,
        node: options.node,
        replica: options.replica,
        journal: deps.journal.clone(),
        session_idle_max: options.timings.session_idle_max,
        rounds: Default::default(),
        holds: Holds::default(),
        health: health.clone(),
        tail: Tail::new(last.map_or(0, |position| position.index)),
        time: Arc::new(move || leadership.told_ms()),
    })
}

fn new_proposer(
    options: &ReplicaOptions,
    deps: &Deps,
    leadership: &Arc<Leadership>,
) -> (Proposer, mpsc::Receiver<crate::proposer::Proposal>) {
    let range_budget = Admission::new("bytes under way in the range", options.in_flight_bytes_max);
    let node_budget = deps.admission.clone();
    let (journal, engine, node) = (deps.journal.clone(), deps.engine.clone(), node_budget.clone());
    let growth = Growth::new(move || {
        if node.refuses_growth() || !journal.accepts_writes() {
            return Err(NoGrowth::Full);
        }
        Ok(engine.overload_milli())
    });
    Proposer::new(leadership.clone(), range_budget, node_budget, growth)
}

impl Inner {
    /// Runs `future` on the replica's reactor, with its clock, until the replica stops.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        let stop = self.tasks.stop_wish();
        let until_stop = async move {
            // Stopped or done: the task is over either way.
            let _ = stop.or(future).await;
        };
        self.tasks.spawn_on(&self.reactor, runtime::scope(self.context.clone(), until_stop));
    }

    fn start(self: &Arc<Self>, queues: Queues) {
        self.spawn(elections::follow(self.clone()));
        self.spawn(keeper::retire(self.clone()));
        self.spawn(elections::begin_campaigning(self.clone()));
        let lease = self.options.timings.election_max;
        let (raft, clock) = (self.raft.clone(), self.clock.clone());
        let packer = Packer::new(queues.proposals, raft, &self.proposer, lease, clock);
        self.spawn(packer.run());
        let lease = Assurance::Lease(self.options.timings.lease_ack_age_max());
        self.spawn_rounds(queues.rounds, Assurance::Quorum);
        self.spawn_rounds(queues.lease_rounds, lease);
        self.spawn(renewals::collect(self.clone(), queues.renewals));
        self.spawn(keeper::expire(self.clone()));
        self.spawn(keeper::compact(self.clone()));
        self.spawn(keeper::purge(self.clone()));
        self.spawn(keeper::probe(self.clone()));
    }

    fn spawn_rounds(&self, waiting: mpsc::Receiver<crate::reads::Answer>, assurance: Assurance) {
        let rounds = Arc::new(RoundTask {
            waiting: tokio::sync::Mutex::new(waiting),
            assurance,
            raft: self.raft.clone(),
            leadership: self.leadership.clone(),
            progress: self.progress.clone(),
            network: self.network.clone(),
            proofs: self.proofs.clone(),
            clock: self.clock.clone(),
            timings: self.options.timings.clone(),
        });
        for _ in 0..RoundTask::at_once() {
            self.spawn(rounds.clone().run());
        }
    }

    /// Whether votes and campaigns may go on: no lease of before the start can be running.
    pub(crate) fn may_campaign(&self) -> bool {
        self.boot_delay_over.load(Ordering::Acquire)
    }

    /// Whether this replica is the only voter of its range.
    pub(crate) fn is_only_voter(&self) -> bool {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let mut voters = metrics.membership_config.membership().voter_ids();
        voters.next() == Some(self.options.replica) && voters.next().is_none()
    }

    /// The place of this replica among the voters not on `node`; `None` if it is not one.
    pub(crate) fn rank_without(&self, node: NodeId) -> Option<u32> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let elsewhere = |id: &ReplicaId| membership.get_node(id).is_some_and(|h| h.0 != node);
        let rank =
            membership.voter_ids().filter(elsewhere).position(|id| id == self.options.replica)?;
        u32::try_from(rank).ok()
    }

    /// Whether the connection to `node` is lost.
    pub(crate) fn is_lost(&self, node: NodeId) -> bool {
        self.lost.lock().contains(&node)
    }

    /// How long nothing was heard of the leader.
    pub(crate) fn unheard_for(&self) -> Duration {
        let heard = Duration::from_nanos(self.heard_at_nanos.load(Ordering::Acquire));
        self.clock.monotonic().saturating_sub(heard)
    }

    /// What is left of the lease this replica has granted its leader.
    pub(crate) fn lease_left(&self) -> Duration {
        self.options.timings.election_max.saturating_sub(self.unheard_for())
    }

    /// Whether the ticks are stopped.
    pub(crate) fn is_parked(&self) -> bool {
        self.parked.load(Ordering::Acquire)
    }

    /// The lowest index that a follower whose claim lasts (at `retained_from` or later) has
    /// matched; `u64::MAX` where nobody holds anything back.
    pub(crate) fn lowest_matched(&self, retained_from: u64) -> u64 {
        let metrics = self.raft.data_metrics();
        let metrics = metrics.borrow_watched();
        let Some(replication) = &metrics.replication else { return u64::MAX };
        let matched = replication.values().map(|matched| matched.map_or(0, |m| m.index));
        matched.filter(|index| index + 1 >= retained_from).min().unwrap_or(u64::MAX)
    }
}
