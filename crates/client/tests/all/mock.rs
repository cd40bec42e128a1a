//! Three nodes that say what a test wants them to say, over real sockets.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use holdfast_client::{Client, ClientBuilder};
use holdfast_model::{
    ClusterId, ClusterMap, History, KeyspaceDescriptor, KeyspaceId, NodeDescriptor, NodeId,
    RangeDescriptor, RangeEpoch, RangeId, ReplicaDescriptor, ReplicaId, ReplicaRole, Revision,
    Span,
};
use holdfast_runtime::net::{Net, RealNet, incoming};
use holdfast_runtime::thread;
use holdfast_wire::v1::{self, ErrorCode, ErrorInfo};
use holdfast_wire::{status_of, v1::cluster_server, v1::kv_server, v1::lease_server};
use holdfast_wire::{v1::lock_server, v1::session_server};
use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};
use tonic::{Request, Response, Status, Streaming};

pub const RANGES: u32 = 4;

/// What a node was asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    Get(v1::GetRequest),
    Put(v1::PutRequest),
    BatchWrite(v1::BatchWriteRequest),
    Open(v1::SessionOpenRequest),
    Close(v1::SessionCloseRequest),
    Acquire(v1::LockAcquireRequest),
    LockAlive(v1::LockKeepAliveRequest),
    Release(v1::LockReleaseRequest),
    LeaseAlive(v1::LeaseKeepAliveRequest),
    Scan(v1::ScanRequest),
    Watch(v1::WatchCreate),
}

/// What it says.
pub enum Reply {
    Get(v1::GetResponse),
    Put(v1::PutResponse),
    BatchWrite(v1::BatchWriteResponse),
    Acquire(v1::LockAcquireResponse),
    LeaseAlive(v1::LeaseKeepAliveResponse),
    Pages(Vec<Result<v1::ScanResponse, Status>>),
    Watched(Vec<Result<v1::WatchResponse, Status>>),
    Refuse(Status),
    /// The usual answer of this kind of call.
    Usual,
    /// Nothing, ever.
    Silence,
}

type Handler = dyn Fn(u64, &Call, usize) -> Reply + Send + Sync;

/// Everything that was asked, in order, with the node it was asked of.
pub type Log = Arc<Mutex<Vec<(u64, Call)>>>;

#[derive(Clone)]
struct Node {
    id: u64,
    map: Arc<Mutex<ClusterMap>>,
    log: Log,
    handler: Arc<Handler>,
}

/// The three nodes.
pub struct Cluster {
    pub log: Log,
    pub map: Arc<Mutex<ClusterMap>>,
    pub endpoints: Vec<String>,
    /// A runtime per node: when it goes, so do all its connections.
    servers: Mutex<Vec<Option<Runtime>>>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        (1..=3).for_each(|id| self.kill(id));
    }
}

impl Cluster {
    /// Starts nodes 1, 2 and 3; node 1 leads everything. `handler` gets the node's id, the call,
    /// and how many calls of that kind came before it.
    pub async fn start(
        handler: impl Fn(u64, &Call, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let handler: Arc<Handler> = Arc::new(handler);
        let map = Arc::new(Mutex::new(ClusterMap::new(ClusterId(7), Revision(1))));
        let log = Log::default();
        let (mut endpoints, mut servers) = (Vec::new(), Vec::new());
        for id in 1..=3 {
            let (map, log, handler) = (map.clone(), log.clone(), handler.clone());
            let node = Node { id, map, log, handler };
            let mut builder = Builder::new_multi_thread();
            let runtime = builder.worker_threads(1).enable_all().build().unwrap();
            let (tell, told) = tokio::sync::oneshot::channel();
            runtime.spawn(node.serve(tell));
            endpoints.push(told.await.unwrap());
            servers.push(Some(runtime));
        }
        *map.lock() = whole_map(&endpoints, 1);
        Self { log, map, endpoints, servers: Mutex::new(servers) }
    }

    pub fn builder(&self) -> ClientBuilder {
        Client::builder(self.endpoints.clone()).deadline(Duration::from_secs(5))
    }

    pub async fn client(&self) -> Client {
        self.builder().connect().await.unwrap()
    }

    /// Ends node `id` for good; its connections break.
    pub fn kill(&self, id: usize) {
        if let Some(runtime) = self.servers.lock()[id - 1].take() {
            thread("kill", move || drop(runtime)).unwrap().join();
        }
    }

    /// The nodes that were asked what `pick` takes, and what it took.
    pub fn asked<T>(&self, pick: impl Fn(&Call) -> Option<T>) -> Vec<(u64, T)> {
        let log = self.log.lock();
        log.iter().filter_map(|(node, call)| Some((*node, pick(call)?))).collect()
    }

    pub fn puts(&self) -> Vec<(u64, v1::PutRequest)> {
        self.asked(|call| match call {
            Call::Put(put) => Some(put.clone()),
            _ => None,
        })
    }

    pub fn gets(&self) -> Vec<(u64, v1::GetRequest)> {
        self.asked(|call| match call {
            Call::Get(get) => Some(get.clone()),
            _ => None,
        })
    }
}

fn whole_map(endpoints: &[String], leader: u64) -> ClusterMap {
    let mut map = ClusterMap::new(ClusterId(7), Revision(2));
    for (id, address) in (1..).zip(endpoints) {
        let node = NodeDescriptor {
            id: NodeId(id),
            client_address: address.clone(),
            peer_address: String::new(),
            http_address: String::new(),
            zone: String::new(),
            weight_milli: 1000,
        };
        map.nodes.insert(node.id, node);
    }
    let space = KeyspaceDescriptor {
        id: KeyspaceId(1),
        name: "default".to_owned(),
        ranges: RANGES,
        replication_factor: 3,
        history: History::default(),
        compaction: Default::default(),
        kind: Default::default(),
    };
    map.keyspaces.insert(space.name.clone(), space);
    for (id, span) in (1..).zip(Span::split_ring(RANGES)) {
        let replica = |node| ReplicaDescriptor {
            id: ReplicaId(1000 + id * 10 + node),
            node: NodeId(node),
            role: ReplicaRole::Voter,
        };
        map.put_range(RangeDescriptor {
            id: RangeId(id),
            keyspace: KeyspaceId(1),
            span,
            epoch: RangeEpoch(1),
            membership_log: (1, 1),
            replicas: (1..=3).map(replica).collect(),
            leader: Some(NodeId(leader)),
        });
    }
    map
}

/// A typed refusal.
pub fn refusal(code: ErrorCode, leader: u64) -> Reply {
    Reply::Refuse(status_of(ErrorInfo {
        code: code.into(),
        message: format!("{code:?} for the test"),
        leader_node_id: leader,
        ..Default::default()
    }))
}

/// What a server says whose outcome nobody knows.
pub fn unknown() -> Reply {
    refusal(ErrorCode::OutcomeUnknown, 0)
}

/// A header of the range of `key`, led by `leader`.
pub fn header(range_id: u64, leader: u64) -> Option<v1::Header> {
    Some(v1::Header { range_id, leader_node_id: leader, term: 5, ..Default::default() })
}

impl Node {
    async fn serve(self, tell: tokio::sync::oneshot::Sender<String>) {
        let listener = RealNet.bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        tell.send(listener.local_address().to_string()).unwrap();
        let router = tonic::transport::Server::builder()
            .add_service(kv_server::KvServer::new(self.clone()))
            .add_service(session_server::SessionServer::new(self.clone()))
            .add_service(lease_server::LeaseServer::new(self.clone()))
            .add_service(lock_server::LockServer::new(self.clone()))
            .add_service(cluster_server::ClusterServer::new(self));
        router.serve_with_incoming(incoming(listener)).await.unwrap();
    }

    fn take(&self, call: Call) -> Reply {
        let mut log = self.log.lock();
        let kind = std::mem::discriminant(&call);
        let before = log.iter().filter(|(_, c)| std::mem::discriminant(c) == kind).count();
        log.push((self.id, call.clone()));
        drop(log);
        (self.handler)(self.id, &call, before)
    }
}

/// Unwraps the reply that belongs to a unary call.
macro_rules! answer {
    ($node:expr, $call:expr, $kind:ident, $usual:expr) => {
        match $node.take($call) {
            Reply::$kind(answer) => Ok(Response::new(answer)),
            Reply::Usual => Ok(Response::new($usual)),
            Reply::Refuse(status) => Err(status),
            Reply::Silence => std::future::pending().await,
            _ => panic!("the test answers another kind of call"),
        }
    };
}

/// As [`answer`], for calls that have no other answer than the usual one.
macro_rules! obey {
    ($node:expr, $call:expr, $usual:expr) => {
        match $node.take($call) {
            Reply::Usual => Ok(Response::new($usual)),
            Reply::Refuse(status) => Err(status),
            Reply::Silence => std::future::pending().await,
            _ => panic!("the test answers another kind of call"),
        }
    };
}

type Answer<T> = Result<Response<T>, Status>;

fn unexpected<T>() -> Answer<T> {
    Err(Status::unimplemented("not part of this test"))
}

#[tonic::async_trait]
impl kv_server::Kv for Node {
    type ScanStream = BoxStream<'static, Result<v1::ScanResponse, Status>>;
    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

    async fn get(&self, request: Request<v1::GetRequest>) -> Answer<v1::GetResponse> {
        answer!(self, Call::Get(request.into_inner()), Get, v1::GetResponse::default())
    }

    async fn put(&self, request: Request<v1::PutRequest>) -> Answer<v1::PutResponse> {
        let usual = v1::PutResponse { applied: true, revision: 2, ..Default::default() };
        answer!(self, Call::Put(request.into_inner()), Put, usual)
    }

    async fn batch_write(
        &self,
        request: Request<v1::BatchWriteRequest>,
    ) -> Answer<v1::BatchWriteResponse> {
        let request = request.into_inner();
        let one = v1::BatchWriteResult { applied: true, revision: 2, ..Default::default() };
        let results = request.items.iter().map(|_| one.clone()).collect();
        let usual = v1::BatchWriteResponse { results, ..Default::default() };
        answer!(self, Call::BatchWrite(request), BatchWrite, usual)
    }

    async fn scan(&self, request: Request<v1::ScanRequest>) -> Answer<Self::ScanStream> {
        match self.take(Call::Scan(request.into_inner())) {
            Reply::Pages(pages) => Ok(Response::new(stream::iter(pages).boxed())),
            Reply::Refuse(status) => Err(status),
            _ => panic!("the test answers another kind of call"),
        }
    }

    async fn watch(
        &self,
        request: Request<Streaming<v1::WatchRequest>>,
    ) -> Answer<Self::WatchStream> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.and_then(|first| first.request);
        let Some(v1::watch_request::Request::Create(create)) = first else {
            return Err(Status::invalid_argument("no create"));
        };
        match self.take(Call::Watch(create)) {
            Reply::Watched(messages) => {
                // Stays open after the last message, as a real watch does.
                let open = stream::iter(messages).chain(stream::pending());
                let open = open.chain(requests.filter_map(|_| std::future::ready(None)));
                Ok(Response::new(Box::pin(open)))
            }
            Reply::Refuse(status) => Err(status),
            _ => panic!("the test answers another kind of call"),
        }
    }

    async fn delete(&self, _: Request<v1::DeleteRequest>) -> Answer<v1::DeleteResponse> {
        unexpected()
    }

    async fn increment(&self, _: Request<v1::IncrementRequest>) -> Answer<v1::IncrementResponse> {
        unexpected()
    }

    async fn txn(&self, _: Request<v1::TxnRequest>) -> Answer<v1::TxnResponse> {
        unexpected()
    }

    async fn batch_get(&self, _: Request<v1::BatchGetRequest>) -> Answer<v1::BatchGetResponse> {
        unexpected()
    }
}

#[tonic::async_trait]
impl session_server::Session for Node {
    async fn open(
        &self,
        request: Request<v1::SessionOpenRequest>,
    ) -> Answer<v1::SessionOpenResponse> {
        match self.take(Call::Open(request.into_inner())) {
            Reply::Refuse(status) => Err(status),
            Reply::Silence => std::future::pending().await,
            _ => Ok(Response::new(v1::SessionOpenResponse { header: None, idle_max_ms: 900_000 })),
        }
    }

    async fn keep_alive(
        &self,
        _: Request<v1::SessionKeepAliveRequest>,
    ) -> Answer<v1::SessionKeepAliveResponse> {
        Ok(Response::new(v1::SessionKeepAliveResponse::default()))
    }

    async fn close(
        &self,
        request: Request<v1::SessionCloseRequest>,
    ) -> Answer<v1::SessionCloseResponse> {
        let _ = self.take(Call::Close(request.into_inner()));
        Ok(Response::new(v1::SessionCloseResponse::default()))
    }
}

#[tonic::async_trait]
impl lock_server::Lock for Node {
    async fn acquire(
        &self,
        request: Request<v1::LockAcquireRequest>,
    ) -> Answer<v1::LockAcquireResponse> {
        let usual =
            v1::LockAcquireResponse { acquired: true, fencing_token: 9, ..Default::default() };
        answer!(self, Call::Acquire(request.into_inner()), Acquire, usual)
    }

    async fn keep_alive(
        &self,
        request: Request<v1::LockKeepAliveRequest>,
    ) -> Answer<v1::LockKeepAliveResponse> {
        let usual = v1::LockKeepAliveResponse { header: None, ttl_ms: 60_000 };
        obey!(self, Call::LockAlive(request.into_inner()), usual)
    }

    async fn release(
        &self,
        request: Request<v1::LockReleaseRequest>,
    ) -> Answer<v1::LockReleaseResponse> {
        let usual = v1::LockReleaseResponse { header: None, released: true };
        obey!(self, Call::Release(request.into_inner()), usual)
    }

    async fn inspect(&self, _: Request<v1::LockInspectRequest>) -> Answer<v1::LockInspectResponse> {
        unexpected()
    }
}

#[tonic::async_trait]
impl lease_server::Lease for Node {
    type KeepAliveStream = BoxStream<'static, Result<v1::LeaseKeepAliveResponse, Status>>;

    async fn keep_alive(
        &self,
        request: Request<Streaming<v1::LeaseKeepAliveRequest>>,
    ) -> Answer<Self::KeepAliveStream> {
        let first = request.into_inner().message().await?.unwrap_or_default();
        match self.take(Call::LeaseAlive(first)) {
            Reply::LeaseAlive(answer) => Ok(Response::new(stream::iter([Ok(answer)]).boxed())),
            Reply::Refuse(status) => Err(status),
            _ => panic!("the test answers another kind of call"),
        }
    }

    async fn grant(&self, _: Request<v1::LeaseGrantRequest>) -> Answer<v1::LeaseGrantResponse> {
        unexpected()
    }

    async fn revoke(&self, _: Request<v1::LeaseRevokeRequest>) -> Answer<v1::LeaseRevokeResponse> {
        unexpected()
    }

    async fn time_to_live(
        &self,
        _: Request<v1::LeaseTimeToLiveRequest>,
    ) -> Answer<v1::LeaseTimeToLiveResponse> {
        unexpected()
    }
}

#[tonic::async_trait]
impl cluster_server::Cluster for Node {
    type WatchMapStream = BoxStream<'static, Result<v1::MapResponse, Status>>;

    async fn map(&self, _: Request<v1::MapRequest>) -> Answer<v1::MapResponse> {
        Ok(Response::new(v1::MapResponse::from(&*self.map.lock())))
    }

    async fn watch_map(&self, _: Request<v1::MapRequest>) -> Answer<Self::WatchMapStream> {
        let now = v1::MapResponse::from(&*self.map.lock());
        Ok(Response::new(stream::iter([Ok(now)]).chain(stream::pending()).boxed()))
    }

    async fn init(&self, _: Request<v1::InitRequest>) -> Answer<v1::InitResponse> {
        unexpected()
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
        let version = "test".to_owned();
        let node_id = self.id;
        Ok(Response::new(v1::StatusResponse { node_id, version, ..Default::default() }))
    }

    async fn state_hash(&self, _: Request<v1::StateHashRequest>) -> Answer<v1::StateHashResponse> {
        unexpected()
    }

    async fn transfer_leader(
        &self,
        _: Request<v1::TransferLeaderRequest>,
    ) -> Answer<v1::TransferLeaderResponse> {
        unexpected()
    }

    async fn create_keyspace(
        &self,
        _: Request<v1::CreateKeyspaceRequest>,
    ) -> Answer<v1::CreateKeyspaceResponse> {
        unexpected()
    }

    async fn alter_keyspace(
        &self,
        _: Request<v1::AlterKeyspaceRequest>,
    ) -> Answer<v1::AlterKeyspaceResponse> {
        unexpected()
    }

    async fn drop_keyspace(
        &self,
        _: Request<v1::DropKeyspaceRequest>,
    ) -> Answer<v1::DropKeyspaceResponse> {
        unexpected()
    }
}
