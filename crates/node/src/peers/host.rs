//! The seam between the transport and the replicas of this node.

use futures_util::future::BoxFuture;
use holdfast_model::{NodeId, RangeId, ReplicaId};
use holdfast_wire::peer::v1::message::Body;
use holdfast_wire::peer::v1::{
    AppendRequest, AppendResponse, Refusal, SnapshotData, SnapshotHeader, SnapshotOffer,
    SnapshotResult,
};
use tokio::sync::mpsc;

/// Who a message comes from and which replica it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The range both replicate.
    pub range: RangeId,
    /// The speaking replica.
    pub from: ReplicaId,
    /// The replica spoken to.
    pub to: ReplicaId,
    /// The node that speaks, as its connection has proved.
    pub node: NodeId,
}

/// The receiving half of a replication session: requests in, answers out, both in order.
#[derive(Debug)]
pub struct HostSession {
    /// Takes requests; dropping it ends the session.
    pub requests: mpsc::Sender<AppendRequest>,
    /// One answer per request; ends when the replica has ended the session.
    pub responses: mpsc::Receiver<AppendResponse>,
}

/// The replicas of this node, as the transport delivers to them; implemented by the registry.
pub trait Host: Send + Sync + 'static {
    /// Begins a replication session. `capacity` requests must fit without waiting.
    ///
    /// # Errors
    /// A [`Refusal`] that is sent back.
    fn session(&self, route: Route, capacity: usize) -> Result<HostSession, Refusal>;

    /// Serves a heartbeat, vote, transfer or read-index request; the answer may be a refusal.
    fn request(&self, route: Route, body: Body) -> BoxFuture<'static, Body>;

    /// Says what of a snapshot is here already; a transfer of it that is under way ends.
    fn offer(
        &self,
        node: NodeId,
        header: SnapshotHeader,
    ) -> BoxFuture<'static, Result<SnapshotOffer, Refusal>>;

    /// Begins to receive a snapshot.
    fn snapshot(
        &self,
        node: NodeId,
        header: SnapshotHeader,
    ) -> BoxFuture<'static, Result<Box<dyn SnapshotSink>, Refusal>>;

    /// The connection to `node` broke, or it has been silent for three heartbeats.
    fn peer_lost(&self, node: NodeId);

    /// `node` answers again.
    fn peer_back(&self, node: NodeId);
}

/// Where the chunks of a snapshot go.
pub trait SnapshotSink: Send {
    /// Stages one chunk. Blocks for the disk.
    ///
    /// # Errors
    /// The transfer is refused; the sender comes again later and goes on.
    fn write(&mut self, chunk: SnapshotData) -> std::io::Result<()>;

    /// Verifies what was staged and installs it.
    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<SnapshotResult, Refusal>>;
}

/// A refusal of a message for a replica this node does not host.
pub fn unknown_replica(route: Route) -> Refusal {
    Refusal {
        reason: format!("{} of {} is not on this node", route.to, route.range),
        unknown_replica: true,
    }
}

/// A refusal of a message this node cannot serve now.
pub fn busy(reason: impl Into<String>) -> Refusal {
    Refusal { reason: reason.into(), unknown_replica: false }
}
