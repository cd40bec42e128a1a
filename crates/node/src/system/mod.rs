//! Range 0: its layout, founding, the map every node caches, keyspaces, placement of leaders.
//!
//! Owns: what stands under `sys/`, who writes it and when; the node's part in keeping ranges as
//! range 0 wants them.
//! Must never know: how a request of a client is served.
//! Invariants:
//! * A cluster is founded by one explicit act; an empty node never does it by itself.
//! * The truth of a range is its own state; `sys/ranges` is a copy its leader publishes.
//! * A replica is destroyed only after `sys/replicas` was read linearizably and says `removed`.
//! * Every change of more than one record can be taken up by another node where it was left.

mod admin;
mod follow;
mod founding;
mod keyspaces;
mod layout;
mod leaders;
mod map;
mod plan;
mod seeds;
mod steward;
mod store;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use holdfast_env::{Clock, Disk, Entropy};
use holdfast_model::NodeId;
use holdfast_runtime::{Pool, Tasks};
use holdfast_wire::peer::v1 as wire;
use holdfast_wire::v1::Node;
use tokio::sync::Notify;
use tonic::Status;

use crate::api::{ApiError, Kv};
use crate::identity::Identity;
use crate::peers::{SystemHandler, Transport};
use crate::registry::Registry;
use layout::Records;
use store::SystemStore;

pub use admin::{Admin, FORMAT_VERSION, VERSION};
pub use map::MapCache;

/// Where a node is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Opening its data.
    Starting = 0,
    /// Belongs to no cluster.
    Empty = 1,
    /// Takes requests.
    Serving = 2,
    /// Hands over and ends.
    Draining = 3,
}

impl State {
    /// Its name in status answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Empty => "empty",
            Self::Serving => "serving",
            Self::Draining => "draining",
        }
    }
}

/// What the system part of a node is made of.
#[derive(Clone)]
pub struct SystemDeps {
    /// Files.
    pub disk: Arc<dyn Disk>,
    /// Clocks.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Data directory.
    pub data_dir: PathBuf,
    /// Who this node is.
    pub identity: Arc<Identity>,
    /// What it says about itself.
    pub description: Node,
    /// The way to other nodes.
    pub transport: Transport,
    /// The replicas.
    pub registry: Registry,
    /// The copy of the map.
    pub map: Arc<MapCache>,
    /// Threads that may wait for a disk.
    pub pool: Pool,
    /// Whether leaders are moved to spread them.
    pub balance_leaders: bool,
    /// Peer addresses that are asked whether there is a cluster already.
    pub seeds: Vec<String>,
}

/// The system part of a node.
pub struct System {
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    data_dir: PathBuf,
    identity: Arc<Identity>,
    description: Node,
    transport: Transport,
    registry: Registry,
    map: Arc<MapCache>,
    pool: Pool,
    balance_leaders: bool,
    seeds: Vec<String>,
    started: Duration,
    state: AtomicU8,
    /// The node's own API. Weak, because it asks the system part: a ring would keep everything of a
    /// node that was dropped in memory for good.
    kv: OnceLock<Weak<dyn Kv>>,
    records: ArcSwap<Records>,
    /// Held while the copies of range 0 are replaced.
    publishing: parking_lot::Mutex<()>,
    /// Held by the one call that reads range 0 because the copy lacks something.
    catching_up: tokio::sync::Mutex<()>,
    /// Wakes the steward.
    changed: Notify,
    founding: Arc<tokio::sync::Mutex<()>>,
}

impl System {
    /// The system part, not yet at work.
    pub fn new(deps: SystemDeps) -> Arc<Self> {
        let started = deps.clock.monotonic();
        Arc::new(Self {
            disk: deps.disk,
            clock: deps.clock,
            entropy: deps.entropy,
            data_dir: deps.data_dir,
            identity: deps.identity,
            description: deps.description,
            transport: deps.transport,
            registry: deps.registry,
            map: deps.map,
            pool: deps.pool,
            balance_leaders: deps.balance_leaders,
            seeds: deps.seeds,
            started,
            state: AtomicU8::new(State::Starting as u8),
            kv: OnceLock::new(),
            records: ArcSwap::default(),
            publishing: parking_lot::Mutex::default(),
            catching_up: tokio::sync::Mutex::default(),
            changed: Notify::new(),
            founding: Arc::default(),
        })
    }

    /// Starts following range 0 and looking after this node's ranges, through `kv`, for as long as
    /// the caller keeps that.
    ///
    /// # Panics
    /// On a second call.
    pub fn start(self: &Arc<Self>, kv: &Arc<dyn Kv>, tasks: &Tasks) {
        assert!(self.kv.set(Arc::downgrade(kv)).is_ok(), "the system part is started once");
        self.connect();
        self.set_state(State::Serving);
        let system = self.clone();
        tasks.spawn_until_stop(async move { system.resume_founding().await });
        tasks.spawn(self.clone().follow(tasks.stop_wish()));
        tasks.spawn(self.clone().save_map(tasks.stop_wish()));
        tasks.spawn(self.clone().look_after(tasks.stop_wish()));
        tasks.spawn(self.clone().look_after_keyspaces(tasks.stop_wish()));
        tasks.spawn(self.clone().look_after_removed(tasks.stop_wish()));
        tasks.spawn(self.clone().notice_cluster(tasks.stop_wish()));
    }

    fn store(&self) -> Result<SystemStore, ApiError> {
        let starting = || ApiError::NotReady("the node is starting".into());
        let kv = self.kv.get().ok_or_else(starting)?.upgrade();
        kv.map(SystemStore::new).ok_or_else(|| ApiError::NotReady("the node has ended".into()))
    }

    /// Where the node is in its life.
    pub fn state(&self) -> State {
        match self.state.load(Ordering::Acquire) {
            0 => State::Starting,
            3 => State::Draining,
            _ if self.identity.membership().is_none() => State::Empty,
            _ => State::Serving,
        }
    }

    /// Notes where the node is; an empty one is recognized by itself.
    pub fn set_state(&self, state: State) {
        self.state.store(state as u8, Ordering::Release);
    }

    /// This node; 0 before it belongs to a cluster.
    pub fn node(&self) -> NodeId {
        self.identity.membership().map(|(_, node)| node).unwrap_or_default()
    }

    /// Whether the node can be used: it belongs to a cluster, knows the map, and each of its
    /// replicas knows a leader.
    ///
    /// # Errors
    /// What is missing.
    pub fn readiness(&self) -> Result<(), String> {
        match self.state() {
            State::Serving => {}
            state => return Err(format!("the node is {}", state.name())),
        }
        if self.map.peek().revision.0 == 0 {
            return Err("the map is not known yet".into());
        }
        if let Some((group, reason)) = self.registry.broken().into_iter().next() {
            return Err(format!("replica {} of {}: {reason}", group.replica, group.range));
        }
        let hosted = self.registry.hosted();
        match hosted.values().find(|h| h.replica.leader().leader.is_none()) {
            Some(h) => Err(format!("{} has no known leader", h.group.range)),
            None => Ok(()),
        }
    }
}

impl SystemHandler for Arc<System> {
    fn found(&self, request: wire::FoundRequest) -> BoxFuture<'static, wire::FoundResponse> {
        let system = self.clone();
        Box::pin(async move { system.on_found(request).await })
    }

    fn create_replicas(
        &self,
        request: wire::CreateReplicaRequest,
    ) -> BoxFuture<'static, Result<(), Status>> {
        let registry = self.registry.clone();
        Box::pin(async move {
            let created = registry.create(request.replicas).await;
            created.map_err(|error| Status::failed_precondition(error.to_string()))
        })
    }

    fn map_revision(&self) -> u64 {
        self.map.peek().revision.0
    }

    fn transfer_leadership(
        &self,
        request: wire::TransferLeadershipRequest,
    ) -> BoxFuture<'static, wire::TransferLeadershipResponse> {
        let system = self.clone();
        Box::pin(async move { system.on_transfer(request).await })
    }
}
