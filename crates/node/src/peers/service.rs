//! What other nodes may ask of this one: the gRPC service on the peer port.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, Stream, StreamExt};
use holdfast_model::limits::PEER_MESSAGE_BYTES_MAX;
use holdfast_model::{ClusterId, NodeId, StoreId};
use holdfast_runtime::net::{self, Listener};
use holdfast_runtime::{Stop, Tasks};
use holdfast_wire::peer::v1 as wire;
use holdfast_wire::peer::v1::hello::Class;
use holdfast_wire::peer::v1::peer_server::{Peer, PeerServer};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use super::forward::ForwardHandler;
use super::introduce::{self, PROTOCOL_VERSION, Standing};
use super::link;
use super::serve::Serve;
use super::snapshot;
use super::transport::{
    CONNECTION_WINDOW_BYTES, Inner, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT, STREAM_WINDOW_BYTES,
    Transport,
};
use crate::identity::Introduction;

/// A stream whose first frame does not come within this time is closed.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Frames on their way from a stream's reactor to its connection's.
const PUMP_FRAMES: usize = 4;

/// Executes what the system range's leader, or a founder, asks of this node.
pub trait SystemHandler: Send + Sync + 'static {
    /// Takes an identity and replicas, if this node is empty.
    fn found(&self, request: wire::FoundRequest) -> BoxFuture<'static, wire::FoundResponse>;

    /// Creates replicas; those that exist are left alone.
    fn create_replicas(
        &self,
        request: wire::CreateReplicaRequest,
    ) -> BoxFuture<'static, Result<(), Status>>;

    /// Revision of range 0 that this node's copy of the map shows.
    fn map_revision(&self) -> u64;

    /// Hands over the leadership of a range this node leads.
    fn transfer_leadership(
        &self,
        request: wire::TransferLeadershipRequest,
    ) -> BoxFuture<'static, wire::TransferLeadershipResponse>;
}

/// The service; one per node, cloned for every reactor.
#[derive(Clone)]
pub struct PeerService {
    inner: Arc<Inner>,
    system: Arc<dyn SystemHandler>,
    forward: Arc<dyn ForwardHandler>,
}

impl PeerService {
    /// A service for the transport's node, whose host must be set.
    pub fn new(
        transport: &Transport,
        system: Arc<dyn SystemHandler>,
        forward: Arc<dyn ForwardHandler>,
    ) -> Self {
        Self { inner: transport.inner.clone(), system, forward }
    }

    /// Serves `listener` on every reactor until the tasks stop.
    pub fn serve(self, listener: Arc<dyn Listener>, tasks: &Tasks) {
        let reactors = self.inner.reactors.clone();
        for reactor in 0..reactors.len() {
            let listener = Box::new(SharedListener(listener.clone()));
            let served = self.clone().serve_one(listener, tasks.stop_wish());
            tasks.spawn_on(reactors.handle(reactor), served);
        }
    }

    async fn serve_one(self, listener: Box<SharedListener>, stop: Stop) {
        let service = PeerServer::new(self)
            .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX);
        let served = Server::builder()
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
            .add_service(service)
            .serve_with_incoming(net::incoming(listener));
        // Streams between nodes never end by themselves: stopping drops them.
        if let Some(Err(error)) = stop.or(served).await {
            tracing::error!(%error, "peer port failed");
        }
    }

    fn check_cluster(&self, cluster: &[u8]) -> Result<NodeId, Status> {
        let Some((own, node)) = self.inner.identity.membership() else {
            return Err(Status::failed_precondition("this node belongs to no cluster"));
        };
        let theirs = ClusterId::from_bytes(cluster).unwrap_or_default();
        if theirs != own {
            return Err(Status::failed_precondition(format!(
                "this node belongs to cluster {own}, not to {theirs}"
            )));
        }
        Ok(node)
    }

    fn check_snapshot(&self, header: &wire::SnapshotHeader) -> Result<(), Status> {
        let own = self.check_cluster(&header.cluster_id)?;
        if header.to_node == own.0 {
            return Ok(());
        }
        Err(Status::failed_precondition(format!("this is {own}")))
    }

    /// Checks a node that claims to be of the same cluster, and remembers it. Answers with why it
    /// must never take part again, empty if it may.
    async fn check_introduction(&self, request: &wire::HandshakeRequest) -> Result<String, Status> {
        let own = self.check_cluster(&request.cluster_id)?;
        if request.to_node != 0 && request.to_node != own.0 {
            return Err(Status::failed_precondition(format!(
                "this is {own}, not {}",
                NodeId(request.to_node)
            )));
        }
        let store = StoreId::from_bytes(&request.store_id)
            .ok_or_else(|| Status::invalid_argument("store id is not 16 bytes"))?;
        let peer = Introduction {
            node: NodeId(request.from_node),
            store,
            boot_counter: request.boot_counter,
            boot_id: request.boot_id,
            peer_address: request.peer_address.clone(),
        };
        if peer.node == own {
            return Err(Status::failed_precondition(format!("{own} is this node itself")));
        }
        let node = peer.node;
        match self.inner.meet(peer, request.known.clone()).await {
            Ok(()) => {
                if let Ok(node) = self.inner.node(node) {
                    node.introduced.notify_waiters();
                }
                Ok(String::new())
            }
            Err(error) if error.refuses() == Some(node) => {
                tracing::error!(%node, %error, "peer refused");
                Ok(error.to_string())
            }
            Err(error) => Err(Status::unavailable(error.to_string())),
        }
    }

    /// Whether this node may take part.
    fn check_standing(&self) -> Result<(), Status> {
        match *self.inner.standing.borrow() {
            Standing::Accepted => Ok(()),
            _ => Err(Status::unavailable("this node was not introduced yet")),
        }
    }

    fn check_hello(&self, hello: &wire::Hello) -> Result<(NodeId, Class), Status> {
        let own = self.check_cluster(&hello.cluster_id)?;
        if hello.to_node != own.0 {
            return Err(Status::failed_precondition(format!("this is {own}")));
        }
        let node = NodeId(hello.from_node);
        if !self.inner.identity.knows(node, &hello.store_id, hello.boot_id) {
            return Err(Status::failed_precondition("introduce yourself first"));
        }
        Ok((node, hello.class()))
    }
}

type Frames = Pin<Box<dyn Stream<Item = Result<wire::Frame, Status>> + Send>>;

#[tonic::async_trait]
impl Peer for PeerService {
    type ExchangeStream = Frames;
    type ForwardWatchStream = BoxStream<'static, Result<wire::ForwardWatchResponse, Status>>;

    async fn handshake(
        &self,
        request: Request<wire::HandshakeRequest>,
    ) -> Result<Response<wire::HandshakeResponse>, Status> {
        let request = request.into_inner();
        if request.protocol_version != PROTOCOL_VERSION {
            return Err(Status::failed_precondition(format!(
                "this node speaks protocol {PROTOCOL_VERSION}, not {}",
                request.protocol_version
            )));
        }
        let membership = self.inner.identity.membership();
        // Whoever belongs to no cluster only asks who we are, and learns it.
        let is_member = !request.cluster_id.is_empty() && membership.is_some();
        let refusal = match is_member {
            true => self.check_introduction(&request).await?,
            false => String::new(),
        };
        let node_id = membership.map_or(0, |(_, node)| node.0);
        Ok(Response::new(wire::HandshakeResponse {
            cluster_id: membership.map(|(c, _)| c.to_bytes().to_vec().into()).unwrap_or_default(),
            node_id,
            store_id: self.inner.identity.store().to_bytes().to_vec().into(),
            boot_counter: self.inner.identity.boot_counter(),
            boot_id: self.inner.identity.boot_id(),
            protocol_version: PROTOCOL_VERSION,
            wall_ms: introduce::wall_ms(&self.inner),
            reactors: u32::try_from(self.inner.reactors.len()).unwrap_or(1),
            node: Some(holdfast_wire::v1::Node { id: node_id, ..self.inner.description.clone() }),
            map_revision: self.system.map_revision(),
            refusal,
            known: self.inner.identity.known(),
        }))
    }

    async fn exchange(
        &self,
        request: Request<Streaming<wire::Frame>>,
    ) -> Result<Response<Frames>, Status> {
        let mut frames = request.into_inner();
        let first = holdfast_runtime::timeout(HELLO_TIMEOUT, frames.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no hello"))??;
        let hello = first
            .and_then(|frame| frame.hello)
            .ok_or_else(|| Status::invalid_argument("a stream begins with hello"))?;
        let (node, class) = self.check_hello(&hello)?;
        let accepted = holdfast_runtime::timeout(HELLO_TIMEOUT, self.inner.accepted()).await;
        accepted.map_err(|_| Status::unavailable("this node was not introduced yet"))?;
        let host = self.inner.host.get().cloned();
        let host = host.ok_or_else(|| Status::unavailable("this node is starting"))?;
        let reactor = hello.from_reactor as usize;
        let answer = link::hello(&self.inner, node, reactor, class);
        let handlers = (host, self.forward.clone());
        let served = Serve::new(frames, handlers, node, answer, self.inner.options.ping);
        if self.inner.reactors.len() == 1 {
            return Ok(Response::new(Box::pin(served)));
        }
        // The stream's work belongs on the reactor of the replicas it carries; one hop per frame.
        let (sender, receiver) = mpsc::channel(PUMP_FRAMES);
        let handle = self.inner.reactors.handle(reactor);
        self.inner.tasks.spawn_on(handle, pump(served, sender, self.inner.tasks.stop_wish()));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn offer_snapshot(
        &self,
        request: Request<wire::SnapshotHeader>,
    ) -> Result<Response<wire::SnapshotOffer>, Status> {
        let host = self.inner.host.get().cloned();
        let host = host.ok_or_else(|| Status::unavailable("this node is starting"))?;
        let header = request.into_inner();
        self.check_snapshot(&header)?;
        let offer = host.offer(NodeId(header.from_node), header).await;
        offer.map(Response::new).map_err(|refusal| Status::failed_precondition(refusal.reason))
    }

    async fn send_snapshot(
        &self,
        request: Request<Streaming<wire::SnapshotChunk>>,
    ) -> Result<Response<wire::SnapshotResult>, Status> {
        self.check_standing()?;
        let host = self.inner.host.get().cloned();
        let host = host.ok_or_else(|| Status::unavailable("this node is starting"))?;
        let check = |header: &wire::SnapshotHeader| self.check_snapshot(header);
        let pool = self.inner.pool.clone();
        let slots = self.inner.sending.receiving.clone();
        snapshot::receive(host, pool, slots, request.into_inner(), check).await.map(Response::new)
    }

    async fn forward(
        &self,
        request: Request<wire::ForwardRequest>,
    ) -> Result<Response<wire::ForwardResponse>, Status> {
        let request = request.into_inner();
        self.check_cluster(&request.cluster_id)?;
        Ok(Response::new(self.forward.forward(request).await))
    }

    async fn forward_watch(
        &self,
        request: Request<wire::ForwardWatchRequest>,
    ) -> Result<Response<Self::ForwardWatchStream>, Status> {
        let request = request.into_inner();
        self.check_cluster(&request.cluster_id)?;
        Ok(Response::new(self.forward.watch(request).map(Ok).boxed()))
    }

    async fn found(
        &self,
        request: Request<wire::FoundRequest>,
    ) -> Result<Response<wire::FoundResponse>, Status> {
        Ok(Response::new(self.system.found(request.into_inner()).await))
    }

    async fn create_replica(
        &self,
        request: Request<wire::CreateReplicaRequest>,
    ) -> Result<Response<wire::CreateReplicaResponse>, Status> {
        let request = request.into_inner();
        self.check_cluster(&request.cluster_id)?;
        self.check_standing()?;
        self.system.create_replicas(request).await?;
        Ok(Response::new(wire::CreateReplicaResponse {}))
    }

    async fn transfer_leadership(
        &self,
        request: Request<wire::TransferLeadershipRequest>,
    ) -> Result<Response<wire::TransferLeadershipResponse>, Status> {
        let request = request.into_inner();
        self.check_cluster(&request.cluster_id)?;
        Ok(Response::new(self.system.transfer_leadership(request).await))
    }
}

async fn pump<S>(
    mut served: Serve<S>,
    sender: mpsc::Sender<Result<wire::Frame, Status>>,
    stop: Stop,
) where
    S: Stream<Item = Result<wire::Frame, Status>> + Unpin,
{
    while let Some(Some(frame)) = stop.or(served.next()).await {
        if sender.send(frame).await.is_err() {
            return;
        }
    }
}

/// One listener accepted from by every reactor; a connection lives where it was accepted.
#[derive(Debug)]
pub(crate) struct SharedListener(pub(crate) Arc<dyn Listener>);

impl Listener for SharedListener {
    fn accept(&self) -> net::BoxFuture<'_, std::io::Result<net::Stream>> {
        self.0.accept()
    }

    fn local_address(&self) -> std::net::SocketAddr {
        self.0.local_address()
    }
}
