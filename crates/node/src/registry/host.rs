//! What peers say, handed to the replica it is for.

use std::sync::{Arc, Weak};

use futures_util::future::BoxFuture;
use holdfast_model::{NodeId, RangeId, ReplicaId};
use holdfast_replica::{Replica, Role, SnapshotReceiver};
use holdfast_wire::peer::v1::message::Body;
use holdfast_wire::peer::v1::{
    Refusal, SnapshotData, SnapshotHeader, SnapshotOffer, SnapshotResult,
};
use tokio::sync::mpsc;

use super::{Inner, Registry};
use crate::peers::{Host, HostSession, Route, SnapshotSink, busy, unknown_replica};

impl Registry {
    /// What the transport delivers to, for as long as the registry is there.
    pub fn host(&self) -> Arc<dyn Host> {
        Arc::new(Inbound(Arc::downgrade(&self.inner)))
    }

    /// The replica a message is for, if it is here under exactly that id.
    fn addressed(&self, route: Route) -> Result<Replica, Refusal> {
        let hosted = self.hosted();
        let replica = hosted.get(&route.range).filter(|h| h.group.replica == route.to);
        let replica = replica.ok_or_else(|| unknown_replica(route))?.replica.clone();
        match replica.leader().role {
            // Its group still speaks to it while the node stops.
            Role::Stopped => Err(busy("the replica has stopped")),
            _ => Ok(replica),
        }
    }
}

async fn serve(replica: Replica, body: Body) -> Body {
    let served = match body {
        Body::Heartbeat(m) => replica.handle_heartbeat(m).await.map(Body::HeartbeatResponse),
        Body::Vote(m) => replica.handle_vote(m).await.map(Body::VoteResponse),
        Body::Transfer(m) => replica.handle_transfer(m).await.map(Body::TransferResponse),
        Body::ReadIndex(_) => Ok(Body::ReadIndexResponse(replica.handle_read_index().await)),
        _ => return Body::Refusal(busy("this is not a request")),
    };
    served.unwrap_or_else(|error| Body::Refusal(busy(error.to_string())))
}

/// The registry as the transport knows it. Weak, because the registry holds the transport: a ring
/// would keep journal and engines of a node that was dropped in memory for good.
struct Inbound(Weak<Inner>);

impl Inbound {
    fn addressed(&self, route: Route) -> Result<Replica, Refusal> {
        self.registry().ok_or_else(|| busy("the node has ended"))?.addressed(route)
    }

    fn registry(&self) -> Option<Registry> {
        self.0.upgrade().map(|inner| Registry { inner })
    }

    fn each(&self, tell: impl Fn(&Replica)) {
        if let Some(registry) = self.registry() {
            registry.hosted().values().for_each(|hosted| tell(&hosted.replica));
        }
    }
}

impl Host for Inbound {
    fn session(&self, route: Route, capacity: usize) -> Result<HostSession, Refusal> {
        let replica = self.addressed(route)?;
        let (requests, receiver) = mpsc::channel(capacity);
        Ok(HostSession { requests, responses: replica.handle_session(receiver) })
    }

    fn request(&self, route: Route, body: Body) -> BoxFuture<'static, Body> {
        match self.addressed(route) {
            Ok(replica) => Box::pin(serve(replica, body)),
            Err(refusal) => Box::pin(async { Body::Refusal(refusal) }),
        }
    }

    fn offer(
        &self,
        node: NodeId,
        header: SnapshotHeader,
    ) -> BoxFuture<'static, Result<SnapshotOffer, Refusal>> {
        let replica = self.addressed(route_of(node, &header));
        Box::pin(
            async move { replica?.offer_snapshot(&header).await.map_err(|e| busy(e.to_string())) },
        )
    }

    fn snapshot(
        &self,
        node: NodeId,
        header: SnapshotHeader,
    ) -> BoxFuture<'static, Result<Box<dyn SnapshotSink>, Refusal>> {
        let replica = self.addressed(route_of(node, &header));
        Box::pin(async move {
            let receiver = replica?.begin_snapshot(&header).await;
            let receiver = receiver.map_err(|e| busy(e.to_string()))?;
            Ok(Box::new(Sink(receiver)) as Box<dyn SnapshotSink>)
        })
    }

    fn peer_lost(&self, node: NodeId) {
        self.each(|replica| replica.peer_lost(node));
    }

    fn peer_back(&self, node: NodeId) {
        self.each(|replica| replica.peer_back(node));
    }
}

fn route_of(node: NodeId, header: &SnapshotHeader) -> Route {
    Route {
        range: RangeId(header.range_id),
        from: ReplicaId(header.from_replica),
        to: ReplicaId(header.to_replica),
        node,
    }
}

struct Sink(SnapshotReceiver);

impl SnapshotSink for Sink {
    fn write(&mut self, chunk: SnapshotData) -> std::io::Result<()> {
        self.0.write(&chunk).map_err(std::io::Error::other)
    }

    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<SnapshotResult, Refusal>> {
        Box::pin(async move { self.0.finish().await.map_err(|e| busy(e.to_string())) })
    }
}
