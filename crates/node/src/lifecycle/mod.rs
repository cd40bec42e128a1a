//! A node from start to stop.
//!
//! Owns: the order in which the parts come up and go down, the listening sockets, the data
//! directory as a whole.
//! Must never know: what the parts do.
//! Invariants:
//! * Addresses are bound before the data is opened: a taken port costs nothing.
//! * Nothing is said to peers before the boot counter on disk was raised.
//! * The node takes part in nothing before the others had their say about it.
//! * When `shutdown` returns, no task of the node runs and the journal is drained.

mod accept;
mod data_dir;
mod standing;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use holdfast_model::{ClusterMap, NodeId, RangeId};
use holdfast_replica::Replica;
use holdfast_runtime::net::{Listener, Net};
use holdfast_runtime::{Deadline, Pool, Reactors, Stop, Tasks, Workers};
use holdfast_wire::v1;
use tokio::sync::Semaphore;
use tonic::transport::Server;

use crate::api::{ApiError, Kv};
use crate::auth::Open;
use crate::config::Config;
use crate::identity::Identity;
use crate::metrics::{Metrics, Sources};
use crate::peers::{PeerService, SharedListener, Transport, TransportDeps, TransportOptions};
use crate::registry::{Doors, Fatal, Registry, RegistryDeps, RegistryError};
use crate::router::{Gateway, GatewayParts, Host};
use crate::sealed::{self, Kind, SealedError};
use crate::services;
use crate::system::{Admin, MapCache, State, System, SystemDeps};
use crate::users;

pub(crate) use data_dir::create_durably;
pub use data_dir::{DataDir, DataDirError};

/// Threads for small work that waits for a disk: cold reads, snapshots, identity.
const POOL_THREADS: usize = 4;
/// Work that may wait for them.
const POOL_QUEUE_MAX: usize = 4_096;
/// HTTP/2 window of one client stream and connection, bytes.
const CLIENT_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// Streams of one client connection.
const CLIENT_STREAMS_MAX: u32 = 4_096;
/// A client connection on which nothing came for this long is asked whether it lives.
const CLIENT_KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Founding by `--single` takes at most this long.
const SINGLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Missed heartbeats after which a peer counts as lost.
const HEARTBEATS_MISSED_MAX: u32 = 3;

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A small file of it cannot be read.
    #[error(transparent)]
    File(#[from] SealedError),
    /// Journal or replicas cannot be opened.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// An address cannot be bound.
    #[error("cannot listen on {address} ({key})")]
    Bind {
        /// The configuration key.
        key: &'static str,
        /// The address.
        address: String,
        /// The refusal; usually another process holds the port.
        source: std::io::Error,
    },
    /// Another node knows that this directory is not what it was: lost, or rolled back. Remove it
    /// and let the node join as a new one.
    #[error("{0}")]
    Refused(String),
    /// `--single` does not fit the data or the configuration.
    #[error("--single: {0}")]
    Single(String),
    /// The system gives no threads, or the build is broken.
    #[error("{0}")]
    System(String),
}

/// The world a node lives in.
#[derive(Clone)]
pub struct World {
    /// Files, clocks, randomness.
    pub doors: Doors,
    /// Connections.
    pub net: Arc<dyn Net>,
    /// Who does what waits for a disk or never ends.
    pub workers: Workers,
    /// Ends the process.
    pub fatal: Fatal,
    /// Other protocols on the client port.
    pub adapters: Vec<services::Adapter>,
    /// Further client ports.
    pub more_doors: Vec<services::Door>,
    /// Of the users that keyspaces have.
    pub users: users::Settings,
}

/// A running node.
pub struct Node {
    config: Config,
    identity: Arc<Identity>,
    system: Arc<System>,
    registry: Registry,
    transport: Transport,
    gateway: Gateway,
    /// The same, for the system part, which does not keep it.
    kv: Arc<dyn Kv>,
    metrics: Arc<Metrics>,
    map: Arc<MapCache>,
    tasks: Tasks,
    clients: Tasks,
    reactors: Reactors,
    pool: Pool,
    client_address: SocketAddr,
    _data_dir: DataDir,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("id", &self.system.node()).finish_non_exhaustive()
    }
}

/// The node as the router sees it.
#[derive(Clone)]
struct RouterHost {
    registry: Registry,
    system: Arc<System>,
}

impl std::fmt::Debug for RouterHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RouterHost").finish_non_exhaustive()
    }
}

impl Host for RouterHost {
    fn node(&self) -> NodeId {
        self.system.node()
    }

    fn replica(&self, range: RangeId) -> Option<Replica> {
        self.registry.replica(range)
    }

    fn admit(&self) -> Result<(), ApiError> {
        match self.system.state() {
            State::Serving => Ok(()),
            State::Empty => {
                Err(ApiError::NotReady("this node does not belong to a cluster yet".into()))
            }
            state => Err(ApiError::NotReady(format!("this node is {}", state.name()))),
        }
    }
}

/// The parts that have to be there before the reactors get work.
struct Ground {
    config: Config,
    world: World,
    data_dir: PathBuf,
    lock: DataDir,
    identity: Arc<Identity>,
    map: ClusterMap,
    reactors: Reactors,
    pool: Pool,
    identity_pool: Pool,
    /// Free places for client connections.
    places: Arc<Semaphore>,
    clients: Vec<ClientPort>,
    peer: Arc<dyn Listener>,
}

/// A client port that is bound.
struct ClientPort {
    listener: Arc<dyn Listener>,
    adapters: Vec<services::Adapter>,
}

impl Node {
    /// Starts a node: opens its data, joins its peers, serves clients. With `single` an empty
    /// directory founds a cluster of this node alone.
    ///
    /// # Errors
    /// [`StartError`]: nothing runs.
    pub async fn start(config: Config, world: World, single: bool) -> Result<Self, StartError> {
        let ground = prepare(config, world, single).await?;
        let handle = ground.reactors.handle(0).clone();
        // Whatever spawns from here on lives on the reactors, not on the caller's runtime.
        let raised = holdfast_runtime::spawn_on(&handle, raise(ground, single));
        raised.await.map_err(|e| StartError::System(format!("start: {e}")))?
    }

    /// What the node is, hosts and reaches.
    pub fn status(&self) -> v1::StatusResponse {
        self.system.status()
    }

    /// Whether it can be used.
    ///
    /// # Errors
    /// What is missing.
    pub fn readiness(&self) -> Result<(), String> {
        self.system.readiness()
    }

    /// Its figures.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Its API, for adapters in the same process.
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// The replicas it hosts.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Its copy of the map.
    pub fn map(&self) -> &Arc<MapCache> {
        &self.map
    }

    /// Where clients reach it, with the port that was picked.
    pub fn client_address(&self) -> SocketAddr {
        self.client_address
    }

    /// Stops in order: refuses new requests, hands leaders over, answers what is under way,
    /// closes streams, flushes, drains the journal. Takes `patience` at most, then leaves the rest
    /// to recovery.
    pub async fn shutdown(&self, patience: Duration) {
        let deadline = Deadline::after(patience);
        self.system.set_state(State::Draining);
        tracing::info!("draining");
        self.hand_over(deadline).await;
        let left = deadline.remaining() / 2;
        if let Err(error) = self.clients.stop(left).await {
            tracing::warn!(%error, "client connections are cut");
        }
        self.registry.shutdown(deadline.remaining()).await;
        self.transport.stop(deadline.remaining()).await;
        if let Err(error) = self.tasks.stop(deadline.remaining()).await {
            tracing::warn!(%error, "stopping nevertheless");
        }
        if let Err(error) = self.reactors.stop(deadline.remaining()).await {
            tracing::warn!(%error, "reactors are left");
        }
        self.pool.stop();
        tracing::info!("stopped");
    }

    async fn hand_over(&self, deadline: Deadline) {
        let hosted = self.registry.hosted();
        let led = hosted.values().filter(|h| h.leads() && h.range.replicas.len() > 1);
        let handed = led.map(|h| async {
            if let Err(error) = h.replica.transfer_leader(None).await {
                tracing::info!(range = %h.group.range, %error, "leadership is not handed over");
            }
        });
        let all = futures_util::future::join_all(handed);
        if holdfast_runtime::timeout(deadline.remaining() / 3, all).await.is_err() {
            tracing::warn!("not every leadership was handed over in time");
        }
    }

    /// The configuration it runs with.
    pub fn config(&self) -> &Config {
        &self.config
    }
}

async fn bind(
    world: &World,
    key: &'static str,
    address: &str,
) -> Result<Arc<dyn Listener>, StartError> {
    let refused = |source| StartError::Bind { key, address: address.to_owned(), source };
    let parsed: SocketAddr =
        address.parse().map_err(|_| refused(std::io::ErrorKind::InvalidInput.into()))?;
    Ok(Arc::from(world.net.bind(parsed).await.map_err(refused)?))
}

/// The client ports, the one of section `[listen]` first.
async fn bind_clients(
    world: &World,
    listen: &crate::config::ListenSection,
) -> Result<Vec<ClientPort>, StartError> {
    let listener = bind(world, "listen.client", &listen.client).await?;
    let mut ports = vec![ClientPort { listener, adapters: world.adapters.clone() }];
    for door in &world.more_doors {
        let listener = bind(world, door.key, &door.address).await?;
        let is_exposed = !listener.local_address().ip().is_loopback();
        if is_exposed && !listen.insecure {
            let (key, address) = (door.key, &door.address);
            return Err(StartError::System(format!(
                "{key}: {address} is not a loopback address and connections are not encrypted; \
                 set listen.insecure = true only on a network you trust"
            )));
        }
        ports.push(ClientPort { listener, adapters: door.adapters.clone() });
    }
    Ok(ports)
}

async fn prepare(config: Config, world: World, single: bool) -> Result<Ground, StartError> {
    let text = |e: std::io::Error| StartError::System(e.to_string());
    let data_dir = PathBuf::from(&config.node.data_dir);
    let workers = &world.workers;
    let reactors = workers.reactors("reactor", config.runtime.reactor_count()).map_err(text)?;
    let pool = workers.pool("blocking", POOL_THREADS, POOL_QUEUE_MAX).map_err(text)?;
    let identity_pool = workers.pool("identity", 1, POOL_QUEUE_MAX).map_err(text)?;
    // A listener belongs to the runtime it was bound on; accepted connections to the acceptor's.
    let (net, listen) = (world.clone(), config.listen.clone());
    let bound = holdfast_runtime::spawn_on(reactors.handle(0), async move {
        let clients = bind_clients(&net, &listen).await?;
        let peer = bind(&net, "listen.peer", &listen.peer).await?;
        Ok::<_, StartError>((clients, peer))
    });
    let (clients, peer) = bound.await.map_err(|e| StartError::System(e.to_string()))??;
    let doors = world.doors.clone();
    let lock = DataDir::open(&*doors.disk, &data_dir)?;
    let identity = Identity::open(doors.disk.clone(), &*doors.entropy, data_dir.clone())?;
    if let Some(reason) = identity.refusal() {
        return Err(StartError::Refused(reason));
    }
    let identity = Arc::new(identity);
    let map = load_map(&doors, &data_dir, &identity)?;
    if single {
        check_single(&config, &map)?;
    }
    let places = Arc::new(Semaphore::new(config.listen.connections_max));
    Ok(Ground {
        config,
        world,
        data_dir,
        lock,
        identity,
        map,
        reactors,
        pool,
        identity_pool,
        places,
        clients,
        peer,
    })
}

fn load_map(
    doors: &Doors,
    data_dir: &std::path::Path,
    identity: &Identity,
) -> Result<ClusterMap, StartError> {
    let Some((cluster, _)) = identity.membership() else { return Ok(ClusterMap::default()) };
    let saved: Option<v1::MapResponse> = sealed::load(&*doors.disk, data_dir, Kind::Map)?;
    let map = saved.and_then(|m| ClusterMap::try_from(m).ok()).filter(|m| m.cluster == cluster);
    Ok(map.unwrap_or_else(|| ClusterMap::new(cluster, holdfast_model::Revision(0))))
}

fn check_single(config: &Config, map: &ClusterMap) -> Result<(), StartError> {
    if !config.cluster.seeds.is_empty() {
        let text = "cluster.seeds names other nodes; found with `holdfast cluster init` instead";
        return Err(StartError::Single(text.into()));
    }
    if map.nodes.len() > 1 {
        return Err(StartError::Single("the data belongs to a cluster of more nodes".into()));
    }
    Ok(())
}

fn describe(config: &Config) -> v1::Node {
    v1::Node {
        id: 0,
        client_address: config.client_address(),
        peer_address: config.peer_address(),
        http_address: config.http_address(),
        zone: config.node.zone.clone(),
        weight_milli: config.node.weight_milli(),
    }
}

fn transport_options(config: &Config) -> TransportOptions {
    let heartbeat = Duration::from_millis(config.raft.heartbeat_ms);
    TransportOptions {
        heartbeat_batch: config.peers.heartbeat_batch(),
        ping: heartbeat,
        silent_after: heartbeat * HEARTBEATS_MISSED_MAX,
        clock_offset_max: Duration::from_millis(config.cluster.max_clock_offset_ms),
        connect_timeout: Duration::from_millis(config.peers.connect_timeout_ms),
        reconnect_max: Duration::from_millis(config.peers.reconnect_max_ms),
        snapshot_bytes_per_second: config.peers.snapshot_bytes_per_second,
        snapshots_out_max: config.peers.snapshots_out_max,
        snapshots_in_max: config.peers.snapshots_in_max,
    }
}

/// Brings the parts up, in order; runs on reactor 0.
async fn raise(ground: Ground, single: bool) -> Result<Node, StartError> {
    let map = Arc::new(MapCache::new(ground.map.clone()));
    let transport = transport(&ground);
    let deps = RegistryDeps {
        doors: ground.world.doors.clone(),
        identity: ground.identity.clone(),
        peers: Arc::new(transport.clone()),
        reactors: ground.reactors.clone(),
        pool: ground.pool.clone(),
        workers: ground.world.workers.clone(),
        fatal: ground.world.fatal.clone(),
    };
    let registry = Registry::open(&ground.config, deps).await?;
    transport.set_host(registry.host());
    let system = system(&ground, &map, &transport, &registry);
    let metrics = metrics(&ground, &transport, &registry);
    let gateway = gateway(&ground, &map, &transport, &registry, &system, &metrics);
    let Ground { config, lock, identity, reactors, pool, places, clients, peer, .. } = ground;
    let client_address = clients.first().map(|port| port.listener.local_address());
    let no_port = || StartError::System("there is no client port".into());
    let node = Node {
        identity,
        system,
        registry,
        transport,
        kv: Arc::new(gateway.clone()),
        gateway,
        metrics,
        map,
        tasks: Tasks::new(),
        clients: Tasks::new(),
        reactors,
        pool,
        client_address: client_address.ok_or_else(no_port)?,
        _data_dir: lock,
        config,
    };
    node.serve(clients, peer, places).await?;
    if single {
        node.found_single().await?;
    }
    Ok(node)
}

fn transport(ground: &Ground) -> Transport {
    let doors = &ground.world.doors;
    let deps = TransportDeps {
        net: ground.world.net.clone(),
        clock: doors.clock.clone(),
        entropy: doors.entropy.clone(),
        identity: ground.identity.clone(),
        description: describe(&ground.config),
        reactors: ground.reactors.clone(),
        pool: ground.pool.clone(),
        identity_pool: ground.identity_pool.clone(),
    };
    Transport::new(transport_options(&ground.config), deps)
}

fn system(
    ground: &Ground,
    map: &Arc<MapCache>,
    transport: &Transport,
    registry: &Registry,
) -> Arc<System> {
    let doors = &ground.world.doors;
    System::new(SystemDeps {
        disk: doors.disk.clone(),
        clock: doors.clock.clone(),
        entropy: doors.entropy.clone(),
        data_dir: ground.data_dir.clone(),
        identity: ground.identity.clone(),
        description: describe(&ground.config),
        transport: transport.clone(),
        registry: registry.clone(),
        map: map.clone(),
        pool: ground.pool.clone(),
        balance_leaders: ground.config.cluster.balance_leaders,
        seeds: ground.config.cluster.seeds.clone(),
    })
}

fn metrics(ground: &Ground, transport: &Transport, registry: &Registry) -> Arc<Metrics> {
    let doors = &ground.world.doors;
    Metrics::new(Sources {
        registry: registry.clone(),
        transport: transport.clone(),
        disk: doors.disk.clone(),
        data_dir: ground.data_dir.clone(),
        clock: doors.clock.clone(),
        started: doors.clock.monotonic(),
        pool: ground.pool.clone(),
        places: ground.places.clone(),
        places_max: ground.config.listen.connections_max,
    })
}

fn gateway(
    ground: &Ground,
    map: &Arc<MapCache>,
    transport: &Transport,
    registry: &Registry,
    system: &Arc<System>,
    metrics: &Arc<Metrics>,
) -> Gateway {
    let doors = &ground.world.doors;
    Gateway::new(GatewayParts {
        host: Arc::new(RouterHost { registry: registry.clone(), system: system.clone() }),
        map: map.clone(),
        forward: Arc::new(transport.clone()),
        admin: Arc::new(Admin(system.clone())),
        authorizer: Arc::new(Open),
        observer: metrics.clone(),
        limits: ground.config.limits.clone(),
        users: ground.world.users,
        pool: ground.pool.clone(),
        clock: doors.clock.clone(),
        entropy: doors.entropy.clone(),
    })
}

impl Node {
    async fn serve(
        &self,
        clients: Vec<ClientPort>,
        peer: Arc<dyn Listener>,
        places: Arc<Semaphore>,
    ) -> Result<(), StartError> {
        let service = PeerService::new(
            &self.transport,
            Arc::new(self.system.clone()),
            Arc::new(self.gateway.clone()),
        );
        service.serve(peer, &self.tasks);
        self.introduce().await?;
        self.system.start(&self.kv, &self.tasks);
        self.tasks.spawn(self.registry.clone().tend(self.tasks.stop_wish()));
        let space =
            self.registry.clone().watch_space(self.config.disk.clone(), self.tasks.stop_wish());
        self.tasks.spawn(space);
        clients.into_iter().try_for_each(|port| self.serve_clients(port, &places))
    }

    fn serve_clients(&self, client: ClientPort, places: &Arc<Semaphore>) -> Result<(), StartError> {
        let broken = |e: ApiError| StartError::System(e.to_string());
        for reactor in 0..self.reactors.len() {
            let port = services::port(&self.gateway, &client.adapters).map_err(broken)?;
            let listener = Box::new(SharedListener(client.listener.clone()));
            let stop = self.clients.stop_wish();
            let served = serve_clients(port, listener, places.clone(), stop);
            self.clients.spawn_on(self.reactors.handle(reactor), served);
        }
        Ok(())
    }

    async fn found_single(&self) -> Result<(), StartError> {
        if self.identity.membership().is_some() {
            return Ok(());
        }
        let founding = self.system.found_alone(Deadline::after(SINGLE_TIMEOUT));
        founding.await.map_err(|e| StartError::Single(e.to_string()))
    }
}

async fn serve_clients(
    port: services::Port,
    listener: Box<SharedListener>,
    places: Arc<Semaphore>,
    stop: Stop,
) {
    let wanted = stop.clone();
    let served = Server::builder()
        .initial_stream_window_size(CLIENT_WINDOW_BYTES)
        .initial_connection_window_size(2 * CLIENT_WINDOW_BYTES)
        .max_concurrent_streams(CLIENT_STREAMS_MAX)
        .http2_keepalive_interval(Some(CLIENT_KEEP_ALIVE))
        .serve_with_incoming_shutdown(port, accept::counted(listener, places), async move {
            wanted.wanted().await;
        });
    if let Err(error) = served.await {
        tracing::error!(%error, "client port failed");
    }
}
