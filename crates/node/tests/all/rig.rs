//! Two transports, each with a service and a host that notes what it hears.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, StreamExt};
use holdfast_env::sim::{SimDisk, SimEntropy};
use holdfast_env::{Clock, Disk};
use holdfast_model::{ClusterId, NodeId, RangeId, ReplicaId};
use holdfast_node::identity::Identity;
use holdfast_node::peers::{
    ForwardHandler, Host, HostSession, PeerService, Route, SnapshotSink, SystemHandler, Transport,
    TransportDeps, TransportOptions,
};
use holdfast_replica::PeerAddress;
use holdfast_runtime::net::{Listener, Net};
use holdfast_runtime::{Pool, Reactors, Tasks};
use holdfast_wire::peer::v1 as wire;
use holdfast_wire::peer::v1::message::Body;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use crate::net::TestNet;

pub const CLUSTER: ClusterId = ClusterId(7);

/// The runtime's clock, which tests pause; its wall clock they step.
#[derive(Debug)]
struct VirtualClock {
    began: tokio::time::Instant,
    wall_step_ms: Arc<AtomicU64>,
}

impl Clock for VirtualClock {
    fn monotonic(&self) -> Duration {
        self.began.elapsed()
    }

    fn wall(&self) -> Duration {
        let step = Duration::from_millis(self.wall_step_ms.load(Ordering::Relaxed));
        Duration::from_secs(1_700_000_000) + self.began.elapsed() + step
    }
}

/// What a host has heard.
#[derive(Debug, Default)]
pub struct Heard {
    pub snapshot: Mutex<Vec<u8>>,
    pub finished: Mutex<usize>,
}

pub struct TestHost {
    pub heard: Arc<Heard>,
    /// Other nodes that count as present.
    pub present: watch::Sender<BTreeMap<NodeId, bool>>,
}

impl Host for TestHost {
    /// Answers every request with its own previous position, after a turn of the reactor.
    fn session(&self, route: Route, capacity: usize) -> Result<HostSession, wire::Refusal> {
        if route.range.0 >= 100 {
            return Err(holdfast_node::peers::unknown_replica(route));
        }
        let (requests, mut receiver) = mpsc::channel::<wire::AppendRequest>(capacity);
        let (sender, responses) = mpsc::channel(capacity);
        holdfast_runtime::spawn(async move {
            while let Some(request) = receiver.recv().await {
                holdfast_runtime::yield_now().await;
                let response = wire::AppendResponse { log_id: request.prev, ..Default::default() };
                if sender.send(response).await.is_err() {
                    return;
                }
            }
        });
        Ok(HostSession { requests, responses })
    }

    fn request(&self, route: Route, body: Body) -> BoxFuture<'static, Body> {
        Box::pin(async move {
            match body {
                Body::Vote(_) if route.range.0 == 99 => std::future::pending().await,
                Body::Vote(_) => Body::VoteResponse(wire::VoteResponse {
                    granted: route.range.0.is_multiple_of(2),
                    ..Default::default()
                }),
                Body::Heartbeat(_) => Body::HeartbeatResponse(wire::AppendResponse::default()),
                _ => Body::Refusal(holdfast_node::peers::busy("not in this test")),
            }
        })
    }

    /// What was heard before a snapshot broke off is not to be sent again.
    fn offer(
        &self,
        _: NodeId,
        _: wire::SnapshotHeader,
    ) -> BoxFuture<'static, Result<wire::SnapshotOffer, wire::Refusal>> {
        let bytes = self.heard.snapshot.lock().len() as u64;
        let files = vec![wire::StagedFile { file: "a".into(), bytes }];
        Box::pin(async move { Ok(wire::SnapshotOffer { files }) })
    }

    fn snapshot(
        &self,
        _: NodeId,
        _: wire::SnapshotHeader,
    ) -> BoxFuture<'static, Result<Box<dyn SnapshotSink>, wire::Refusal>> {
        let heard = self.heard.clone();
        Box::pin(async move { Ok(Box::new(Sink(heard)) as Box<dyn SnapshotSink>) })
    }

    fn peer_lost(&self, node: NodeId) {
        self.present.send_modify(|present| {
            present.insert(node, false);
        });
    }

    fn peer_back(&self, node: NodeId) {
        self.present.send_modify(|present| {
            present.insert(node, true);
        });
    }
}

struct Sink(Arc<Heard>);

impl SnapshotSink for Sink {
    fn write(&mut self, chunk: wire::SnapshotData) -> std::io::Result<()> {
        let mut content = self.0.snapshot.lock();
        if chunk.offset != content.len() as u64 {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        content.extend_from_slice(&chunk.bytes);
        Ok(())
    }

    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<wire::SnapshotResult, wire::Refusal>> {
        *self.0.finished.lock() += 1;
        let received_bytes = self.0.snapshot.lock().len() as u64;
        Box::pin(async move { Ok(wire::SnapshotResult { vote: None, received_bytes }) })
    }
}

struct Services;

impl SystemHandler for Services {
    fn found(&self, _: wire::FoundRequest) -> BoxFuture<'static, wire::FoundResponse> {
        Box::pin(async { wire::FoundResponse { refused: true, ..Default::default() } })
    }

    fn create_replicas(
        &self,
        _: wire::CreateReplicaRequest,
    ) -> BoxFuture<'static, Result<(), tonic::Status>> {
        Box::pin(async { Ok(()) })
    }

    fn map_revision(&self) -> u64 {
        0
    }

    fn transfer_leadership(
        &self,
        _: wire::TransferLeadershipRequest,
    ) -> BoxFuture<'static, wire::TransferLeadershipResponse> {
        Box::pin(async { wire::TransferLeadershipResponse::default() })
    }
}

impl ForwardHandler for Services {
    /// Range 99 is never answered; others answer the bytes they were sent.
    fn forward(&self, request: wire::ForwardRequest) -> BoxFuture<'static, wire::ForwardResponse> {
        Box::pin(async move {
            if request.range_id == 99 {
                std::future::pending::<()>().await;
            }
            let resume_key = match request.work {
                Some(wire::forward_request::Work::Command(command)) => Some(command),
                _ => None,
            };
            wire::ForwardResponse { resume_key, ..Default::default() }
        })
    }

    fn watch(
        &self,
        _: wire::ForwardWatchRequest,
    ) -> BoxStream<'static, wire::ForwardWatchResponse> {
        futures_util::stream::pending().boxed()
    }
}

/// A node reduced to its transport.
pub struct Side {
    pub transport: Transport,
    pub heard: Arc<Heard>,
    pub present: watch::Receiver<BTreeMap<NodeId, bool>>,
    pub tasks: Tasks,
    /// How far its wall clock was stepped ahead.
    pub wall_step_ms: Arc<AtomicU64>,
}

/// Where node `id` listens.
pub fn address(id: u64) -> String {
    format!("10.0.0.{id}:1")
}

/// What distinguishes a node from what it should be.
#[derive(Clone, Copy, Debug)]
pub struct Person {
    pub id: u64,
    pub cluster: ClusterId,
    /// Seed of everything random, so also of the store id.
    pub seed: u64,
    /// How often its directory was started before.
    pub boots: usize,
}

impl Person {
    pub fn node(id: u64) -> Self {
        Self { id, cluster: CLUSTER, seed: id, boots: 0 }
    }
}

pub fn options() -> TransportOptions {
    TransportOptions {
        heartbeat_batch: Duration::from_millis(20),
        ping: Duration::from_millis(250),
        silent_after: Duration::from_millis(750),
        clock_offset_max: Duration::from_millis(500),
        connect_timeout: Duration::from_secs(1),
        reconnect_max: Duration::from_secs(1),
        snapshot_bytes_per_second: 1 << 20,
        snapshots_out_max: 2,
        snapshots_in_max: 2,
    }
}

impl Side {
    pub async fn start(net: &Arc<TestNet>, person: Person) -> Self {
        let side = Self::unintroduced(net, person).await;
        side.transport.introduce(&BTreeMap::new(), Duration::ZERO).await;
        side
    }

    /// A node that has not been introduced to anybody.
    pub async fn unintroduced(net: &Arc<TestNet>, person: Person) -> Self {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
        let dir = PathBuf::from("/node");
        disk.create_dir_all(&dir).unwrap();
        let entropy = Arc::new(SimEntropy::new(person.seed));
        for _ in 0..person.boots {
            Identity::open(disk.clone(), &*entropy, dir.clone()).unwrap();
        }
        let identity = Arc::new(Identity::open(disk, &*entropy, dir).unwrap());
        identity.join(person.cluster, NodeId(person.id)).unwrap();
        let description =
            holdfast_wire::v1::Node { peer_address: address(person.id), ..Default::default() };
        let wall_step_ms = Arc::<AtomicU64>::default();
        let began = tokio::time::Instant::now();
        let clock = VirtualClock { began, wall_step_ms: wall_step_ms.clone() };
        let deps = TransportDeps {
            net: net.clone(),
            clock: Arc::new(clock),
            entropy,
            identity,
            description,
            reactors: Reactors::current(1),
            pool: Pool::inline(),
            identity_pool: Pool::inline(),
        };
        let transport = Transport::new(options(), deps);
        let heard = Arc::new(Heard::default());
        let (present, receiver) = watch::channel(BTreeMap::new());
        transport.set_host(Arc::new(TestHost { heard: heard.clone(), present }));
        let tasks = Tasks::new();
        let bound: SocketAddr = address(person.id).parse().unwrap();
        let listener: Arc<dyn Listener> = Arc::from(net.bind(bound).await.unwrap());
        let service = PeerService::new(&transport, Arc::new(Services), Arc::new(Services));
        service.serve(listener, &tasks);
        Self { transport, heard, present: receiver, tasks, wall_step_ms }
    }

    /// Keeps streams up to `others`.
    pub fn know(&self, others: &[u64]) {
        let nodes = others.iter().map(|id| (NodeId(*id), address(*id))).collect();
        self.transport.set_nodes(&nodes);
    }

    /// Waits until `node` counts as present or lost.
    pub async fn until(&mut self, node: u64, is_present: bool) {
        let seen = self.present.wait_for(|p| p.get(&NodeId(node)) == Some(&is_present));
        let limit = Duration::from_secs(30);
        holdfast_runtime::timeout(limit, seen).await.expect("in time").unwrap();
    }
}

/// Two nodes that are connected both ways.
pub async fn pair(net: &Arc<TestNet>) -> (Side, Side) {
    let mut one = Side::start(net, Person::node(1)).await;
    let mut two = Side::start(net, Person::node(2)).await;
    one.know(&[2]);
    two.know(&[1]);
    one.until(2, true).await;
    two.until(1, true).await;
    (one, two)
}

/// The replica of `range` on node 2, spoken to from node 1.
pub fn replica(range: u64) -> PeerAddress {
    PeerAddress {
        cluster: CLUSTER,
        range: RangeId(range),
        from: ReplicaId(1000 + 2 * range),
        to: ReplicaId(1001 + 2 * range),
        node: NodeId(2),
    }
}

/// An append whose place is `index` and whose payload has `bytes` bytes.
pub fn append(index: u64, bytes: usize) -> wire::AppendRequest {
    let entry = wire::LogEntry { log_id: None, payload: Bytes::from(vec![1; bytes]) };
    wire::AppendRequest {
        prev: Some(wire::LogId { term: 1, leader: 1, index }),
        entries: vec![entry],
        ..Default::default()
    }
}
