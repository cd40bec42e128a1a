//! Everything this node says to others: streams by node, forwarding, snapshots.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use holdfast_env::{Clock, Entropy};
use holdfast_model::limits::PEER_MESSAGE_BYTES_MAX;
use holdfast_model::{ClusterId, NodeId, RangeId};
use holdfast_replica::{PeerAddress, PeerError, Peers, Session, SnapshotSource};
use holdfast_runtime::net::{self, Net};
use holdfast_runtime::{Pool, Reactors, Tasks};
use holdfast_wire::peer::v1 as wire;
use holdfast_wire::peer::v1::forward_request::Work;
use holdfast_wire::peer::v1::hello::Class;
use holdfast_wire::peer::v1::message::Body;
use holdfast_wire::peer::v1::peer_client::PeerClient;
use holdfast_wire::v1::Node;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tonic::transport::{Channel, Endpoint};

use super::conn::{Conn, Urgency};
use super::forward::{ForwardError, ForwardSender};
use super::host::Host;
use super::introduce::{self, Standing};
use super::link::{self, PeerNode};
use super::outbox::OutboxOptions;
use super::snapshot::{self, Sending};
use super::walls::PeerWall;
use crate::identity::Identity;

/// HTTP/2 window of one stream, bytes: one large message and the frames behind it.
pub(super) const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// HTTP/2 window of one connection, bytes.
pub(super) const CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
/// A connection on which nothing came for this long is asked whether it lives.
pub(super) const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// And is given up if it does not say so within this time.
pub(super) const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest command that travels on the stream for short operations; a larger one has a call of
/// its own, so that nothing waits behind it.
const SHORT_BYTES_MAX: usize = 256 * 1024;
/// A heartbeat or read index that takes longer is of no use to anyone.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(5);

/// How the transport behaves; validated by `config`.
#[derive(Clone, Debug)]
pub struct TransportOptions {
    /// Heartbeats of all ranges to one node wait this long for each other.
    pub heartbeat_batch: Duration,
    /// Something is sent on every stream at least this often: the heartbeat interval.
    pub ping: Duration,
    /// A node that has said nothing for this long counts as lost: three heartbeats.
    pub silent_after: Duration,
    /// Wall clocks of nodes are assumed to differ by at most this.
    pub clock_offset_max: Duration,
    /// Limit of one attempt to connect.
    pub connect_timeout: Duration,
    /// Longest wait between attempts.
    pub reconnect_max: Duration,
    /// Rate of all outgoing snapshots together.
    pub snapshot_bytes_per_second: u64,
    /// Snapshots sent at once.
    pub snapshots_out_max: usize,
    /// Snapshots received at once.
    pub snapshots_in_max: usize,
}

/// What the transport needs from the node.
#[derive(Clone)]
pub struct TransportDeps {
    /// The network.
    pub net: Arc<dyn Net>,
    /// Clocks.
    pub clock: Arc<dyn Clock>,
    /// Randomness, for jitter.
    pub entropy: Arc<dyn Entropy>,
    /// Who this node is.
    pub identity: Arc<Identity>,
    /// What it says about itself (id 0: filled in once it has one).
    pub description: Node,
    /// The reactors replicas are pinned to.
    pub reactors: Reactors,
    /// Threads for what waits for a disk.
    pub pool: Pool,
    /// A thread for the identity file alone: introductions must not queue behind other work.
    pub identity_pool: Pool,
}

/// The outgoing side of the node. Clones are the same transport.
#[derive(Clone)]
pub struct Transport {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) options: TransportOptions,
    pub(super) net: Arc<dyn Net>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) identity: Arc<Identity>,
    pub(super) description: Node,
    pub(super) reactors: Reactors,
    pub(super) pool: Pool,
    pub(super) identity_pool: Pool,
    pub(super) tasks: Tasks,
    pub(super) host: OnceLock<Arc<dyn Host>>,
    pub(super) sending: Sending,
    /// Nothing is exchanged with anybody before it is [`Standing::Accepted`].
    pub(super) standing: watch::Sender<Standing>,
    nodes: ArcSwap<BTreeMap<NodeId, Arc<PeerNode>>>,
    // Serializes changes of `nodes`; readers never take it.
    changing: Mutex<()>,
    forwards: Mutex<BTreeMap<(NodeId, usize), PeerClient<Channel>>>,
}

impl Inner {
    pub(super) fn outbox_options(&self) -> OutboxOptions {
        OutboxOptions { heartbeat_batch: self.options.heartbeat_batch, ping: self.options.ping }
    }

    /// A channel to `address` that connects when first used, on the current reactor.
    pub(super) fn dial(&self, address: &str) -> Result<PeerClient<Channel>, String> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|_| format!("{address:?} is not an address"))?
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        let channel = net::channel(self.net.clone(), &endpoint, self.options.connect_timeout);
        Ok(PeerClient::new(channel)
            .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX))
    }

    pub(super) fn set_present(&self, node: &PeerNode, is_present: bool) {
        if node.is_present.swap(is_present, Ordering::AcqRel) == is_present {
            return;
        }
        let Some(host) = self.host.get() else { return };
        if is_present {
            host.peer_back(node.id);
        } else {
            host.peer_lost(node.id);
        }
    }

    pub(super) fn node(&self, id: NodeId) -> Result<Arc<PeerNode>, PeerError> {
        let node = self.nodes.load().get(&id).cloned();
        node.ok_or_else(|| PeerError::Unreachable(format!("the address of {id} is not known")))
    }

    /// The reactor a range's replica is pinned to; the same rule on every node.
    fn reactor_of(&self, range: RangeId) -> usize {
        reactor_of(range, self.reactors.len())
    }

    fn conn(&self, to: &PeerAddress, class: Class) -> Result<Arc<Conn>, PeerError> {
        self.node(to.node)?.conn(self.reactor_of(to.range), class)
    }

    fn call<T: 'static>(
        &self,
        to: &PeerAddress,
        body: Body,
        urgency: Urgency,
        limit: Duration,
        pick: fn(Body) -> Option<T>,
    ) -> BoxFuture<'static, Result<T, PeerError>> {
        match self.conn(to, Class::Control) {
            Err(error) => Box::pin(async { Err(error) }),
            Ok(conn) => {
                let answer = conn.call(to, body, urgency, limit);
                Box::pin(async move {
                    pick(answer.await?)
                        .ok_or_else(|| PeerError::Broken("the answer is of another kind".into()))
                })
            }
        }
    }
}

/// The reactor that the replica of `range` lives on, out of `count`.
pub fn reactor_of(range: RangeId, count: usize) -> usize {
    usize::try_from(range.0 % count as u64).unwrap_or(0)
}

impl Transport {
    /// A transport that knows no node yet.
    pub fn new(options: TransportOptions, deps: TransportDeps) -> Self {
        let sending = Sending::new(&options);
        let TransportDeps {
            net,
            clock,
            entropy,
            identity,
            description,
            reactors,
            pool,
            identity_pool,
        } = deps;
        let inner = Inner {
            options,
            net,
            clock,
            entropy,
            identity,
            description,
            reactors,
            pool,
            identity_pool,
            tasks: Tasks::new(),
            host: OnceLock::new(),
            sending,
            standing: watch::Sender::default(),
            nodes: ArcSwap::default(),
            changing: Mutex::new(()),
            forwards: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Where incoming messages go. Called once, before anything is served.
    ///
    /// # Panics
    /// On a second call.
    pub fn set_host(&self, host: Arc<dyn Host>) {
        assert!(self.inner.host.set(host).is_ok(), "the transport has a host already");
    }

    /// Makes `nodes` (without this node) the ones that streams are kept up to.
    pub fn set_nodes(&self, nodes: &BTreeMap<NodeId, String>) {
        let _changing = self.inner.changing.lock();
        let own = self.inner.identity.membership().map(|(_, node)| node);
        let old = self.inner.nodes.load_full();
        let mut next = BTreeMap::new();
        for (&id, address) in nodes.iter().filter(|(id, _)| Some(**id) != own) {
            let node = match old.get(&id) {
                Some(node) => {
                    address.clone_into(&mut node.address.lock());
                    node.clone()
                }
                None => self.start(id, address),
            };
            next.insert(id, node);
        }
        for (id, node) in old.iter().filter(|(id, _)| !next.contains_key(id)) {
            tracing::info!(node = %id, "no longer part of the cluster");
            node.tasks.ask_to_stop();
        }
        self.inner.nodes.store(Arc::new(next));
    }

    fn start(&self, id: NodeId, address: &str) -> Arc<PeerNode> {
        let reactors = &self.inner.reactors;
        let node = Arc::new(PeerNode {
            id,
            address: Mutex::new(address.to_owned()),
            links: (0..reactors.len()).map(|_| Default::default()).collect(),
            is_present: AtomicBool::new(false),
            silences: watch::Sender::new(0),
            wall: PeerWall::default(),
            introduced: Notify::new(),
            tasks: self.inner.tasks.child(),
        });
        for reactor in 0..reactors.len() {
            for class in [Class::Replication, Class::Control, Class::Forward] {
                let kept = link::keep_up(self.inner.clone(), node.clone(), reactor, class);
                node.tasks.spawn_on(reactors.handle(reactor), kept);
            }
        }
        node
    }

    /// The nodes that answer now.
    pub fn connected(&self) -> Vec<NodeId> {
        let nodes = self.inner.nodes.load();
        let present = nodes.values().filter(|n| n.is_present.load(Ordering::Acquire));
        present.map(|n| n.id).collect()
    }

    /// Whether `node` answers now.
    pub fn is_connected(&self, node: NodeId) -> bool {
        self.inner.nodes.load().get(&node).is_some_and(|n| n.is_present.load(Ordering::Acquire))
    }

    /// A client for the node at `address`, for calls of founding and administration. Its
    /// connection is driven by the current reactor.
    ///
    /// # Errors
    /// Says that `address` is not one.
    pub fn dial(&self, address: &str) -> Result<PeerClient<Channel>, String> {
        self.inner.dial(address)
    }

    /// As [`Transport::dial`], by node id.
    ///
    /// # Errors
    /// The node is not known.
    pub fn dial_node(&self, node: NodeId) -> Result<PeerClient<Channel>, String> {
        let node = self.inner.node(node).map_err(|e| e.to_string())?;
        let address = node.address.lock().clone();
        self.inner.dial(&address)
    }

    /// Asks whoever listens at `address` who it is, without joining anything.
    ///
    /// # Errors
    /// It does not answer, or speaks another protocol.
    pub async fn probe(&self, address: &str) -> Result<wire::HandshakeResponse, String> {
        let mut client = self.dial(address)?;
        let mut request = introduce::introduction(&self.inner, NodeId(0));
        request.cluster_id = bytes::Bytes::new();
        request.from_node = 0;
        let call = client.handshake(request);
        let answer = holdfast_runtime::timeout(self.inner.options.connect_timeout, call).await;
        let response = answer
            .map_err(|_| format!("{address} does not answer"))?
            .map_err(|status| format!("{address}: {}", status.message()))?
            .into_inner();
        if response.protocol_version != introduce::PROTOCOL_VERSION {
            return Err(format!("{address} speaks protocol {}", response.protocol_version));
        }
        Ok(response)
    }

    /// The cluster id of this node; zero before it has one.
    pub fn cluster(&self) -> ClusterId {
        self.inner.identity.membership().map(|(cluster, _)| cluster).unwrap_or_default()
    }

    /// Closes every stream and waits for their tasks.
    pub async fn stop(&self, patience: Duration) {
        self.inner.tasks.ask_to_stop();
        let nodes = self.inner.nodes.swap(Arc::default());
        for node in nodes.values() {
            if let Err(error) = node.tasks.stop(patience).await {
                tracing::warn!(node = %node.id, %error, "streams did not close in time");
            }
        }
    }

    /// A node that answers, and the count of its silences as it is now.
    fn present(&self, to: NodeId) -> Result<(Arc<PeerNode>, watch::Receiver<u64>), ForwardError> {
        let not_sent = |e: String| ForwardError::NotSent(to, e);
        let node = self.inner.node(to).map_err(|e| not_sent(e.to_string()))?;
        // Before the look: a silence that begins after it is counted.
        let silences = node.silences.subscribe();
        if !node.is_present.load(Ordering::Acquire) {
            return Err(not_sent("it is not connected".into()));
        }
        Ok((node, silences))
    }

    /// A client of the node, for calls of their own.
    fn forward_client(
        &self,
        node: &PeerNode,
        range: RangeId,
    ) -> Result<PeerClient<Channel>, ForwardError> {
        let (to, not_sent) = (node.id, |e: String| ForwardError::NotSent(node.id, e));
        let reactor = self.inner.reactor_of(range);
        let mut clients = self.inner.forwards.lock();
        if let Some(client) = clients.get(&(to, reactor)) {
            return Ok(client.clone());
        }
        let address = node.address.lock().clone();
        // The channel is driven by the reactor on which it is made.
        let _entered = self.inner.reactors.handle(reactor).enter();
        let client = self.inner.dial(&address).map_err(not_sent)?;
        clients.insert((to, reactor), client.clone());
        Ok(client)
    }

    /// The stream of the node for short operations, if it is up and this is one.
    fn stream(&self, node: &PeerNode, request: &wire::ForwardRequest) -> Option<Arc<Conn>> {
        let reactor = self.inner.reactor_of(RangeId(request.range_id));
        is_short(request).then(|| node.conn(reactor, Class::Forward).ok()).flatten()
    }

    fn signature(&self) -> (bytes::Bytes, u64) {
        let (cluster, node) = self.inner.identity.membership().unwrap_or_default();
        (cluster.to_bytes().to_vec().into(), node.0)
    }
}

/// Ends when the node falls silent.
async fn silence(mut count: watch::Receiver<u64>) {
    if count.changed().await.is_err() {
        // It is none of the cluster's any more. Its last answers may come.
        std::future::pending().await
    }
}

/// What a failed call says about whether it left this node.
fn forward_error(to: NodeId, status: &tonic::Status) -> ForwardError {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return ForwardError::NotSent(to, status.message().to_owned());
        }
        cause = error.source();
    }
    ForwardError::Unknown(to, status.message().to_owned())
}

/// Whether an operation travels on a stream with others, in front of and behind which it is soon
/// done: a command that is not large and waits for nobody.
fn is_short(request: &wire::ForwardRequest) -> bool {
    matches!(&request.work, Some(Work::Command(command)) if command.len() <= SHORT_BYTES_MAX)
}

/// What an answer on a stream says, or the lack of one.
fn forwarded(
    to: NodeId,
    answer: Result<Body, PeerError>,
) -> Result<wire::ForwardResponse, ForwardError> {
    match answer {
        Ok(Body::ForwardResponse(response)) => Ok(response),
        Ok(_) => Err(ForwardError::Unknown(to, "the answer is of another kind".into())),
        // The stream's other end has not begun with it.
        Err(PeerError::Refused(reason)) => Err(ForwardError::NotSent(to, reason)),
        Err(PeerError::Timeout) => Err(ForwardError::Unknown(to, "no answer in time".into())),
        Err(error) => Err(ForwardError::Unknown(to, error.to_string())),
    }
}

impl ForwardSender for Transport {
    fn forward(
        &self,
        to: NodeId,
        mut request: wire::ForwardRequest,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<wire::ForwardResponse, ForwardError>> {
        let (node, silences) = match self.present(to) {
            Ok(present) => present,
            Err(error) => return Box::pin(async { Err(error) }),
        };
        // The range has another leader soon: whoever can ask again is to do so there.
        let silent = move || Err(ForwardError::Unknown(to, "it fell silent".into()));
        if let Some(conn) = self.stream(&node, &request) {
            let asked = conn.forward(request);
            return Box::pin(async move {
                let asked = asked.map_err(|e| ForwardError::NotSent(to, e.to_string()))?;
                tokio::select! {
                    biased;
                    answer = asked.answer(timeout) => forwarded(to, answer),
                    () = silence(silences) => silent(),
                }
            });
        }
        let client = self.forward_client(&node, RangeId(request.range_id));
        (request.cluster_id, request.from_node) = self.signature();
        Box::pin(async move {
            let mut client = client?;
            let answer = tokio::select! {
                biased;
                answer = holdfast_runtime::timeout(timeout, client.forward(request)) => answer,
                () = silence(silences) => return silent(),
            };
            match answer {
                Err(_) => Err(ForwardError::Unknown(to, "no answer in time".into())),
                Ok(Err(status)) => Err(forward_error(to, &status)),
                Ok(Ok(response)) => Ok(response.into_inner()),
            }
        })
    }

    fn watch(
        &self,
        to: NodeId,
        mut request: wire::ForwardWatchRequest,
    ) -> BoxFuture<'static, Result<BoxStream<'static, wire::ForwardWatchResponse>, ForwardError>>
    {
        let client = self
            .present(to)
            .and_then(|(node, _)| self.forward_client(&node, RangeId(request.range_id)));
        (request.cluster_id, request.from_node) = self.signature();
        let limit = self.inner.options.connect_timeout;
        Box::pin(async move {
            let mut client = client?;
            let opened = holdfast_runtime::timeout(limit, client.forward_watch(request)).await;
            match opened {
                Err(_) => Err(ForwardError::Unknown(to, "no answer in time".into())),
                Ok(Err(status)) => Err(forward_error(to, &status)),
                Ok(Ok(response)) => {
                    let items = response.into_inner();
                    // An error ends the stream, as the contract of `watch` has it.
                    let items = items.take_while(|item| std::future::ready(item.is_ok()));
                    Ok(items.filter_map(|item| std::future::ready(item.ok())).boxed())
                }
            }
        })
    }
}

impl Peers for Transport {
    fn open_session(&self, to: &PeerAddress) -> Result<Session, PeerError> {
        self.inner.conn(to, Class::Replication)?.open_session(to)
    }

    fn heartbeat(
        &self,
        to: &PeerAddress,
        request: wire::AppendRequest,
        urgent: bool,
    ) -> BoxFuture<'static, Result<wire::AppendResponse, PeerError>> {
        let urgency = if urgent { Urgency::Now } else { Urgency::Batched };
        self.inner.call(to, Body::Heartbeat(request), urgency, HEARTBEAT_TIMEOUT, |b| match b {
            Body::HeartbeatResponse(response) => Some(response),
            _ => None,
        })
    }

    fn vote(
        &self,
        to: &PeerAddress,
        request: wire::VoteRequest,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<wire::VoteResponse, PeerError>> {
        self.inner.call(to, Body::Vote(request), Urgency::Now, timeout, |b| match b {
            Body::VoteResponse(response) => Some(response),
            _ => None,
        })
    }

    fn transfer(
        &self,
        to: &PeerAddress,
        request: wire::TransferLeader,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<wire::TransferResponse, PeerError>> {
        self.inner.call(to, Body::Transfer(request), Urgency::Now, timeout, |b| match b {
            Body::TransferResponse(response) => Some(response),
            _ => None,
        })
    }

    fn read_index(
        &self,
        to: &PeerAddress,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<wire::ReadIndexResponse, PeerError>> {
        let body = Body::ReadIndex(wire::ReadIndexRequest {});
        self.inner.call(to, body, Urgency::Now, timeout, |b| match b {
            Body::ReadIndexResponse(response) => Some(response),
            _ => None,
        })
    }

    fn send_snapshot(
        &self,
        to: &PeerAddress,
        header: wire::SnapshotHeader,
        source: Box<dyn SnapshotSource>,
    ) -> BoxFuture<'static, Result<wire::SnapshotResult, PeerError>> {
        let node = self.inner.node(to.node);
        let inner = self.inner.clone();
        let (cluster_id, from_node) = self.signature();
        let header = wire::SnapshotHeader { cluster_id, from_node, to_node: to.node.0, ..header };
        Box::pin(async move { snapshot::send(&inner, &*node?, header, source).await })
    }

    fn wall_offset_ms(&self, node: NodeId) -> Option<i64> {
        let nodes = self.inner.nodes.load();
        let node = nodes.get(&node).filter(|n| n.is_present.load(Ordering::Acquire))?;
        Some(node.wall.ahead_ms()?.saturating_sub(link::own_ahead_ms(&*self.inner.clock)))
    }
}
