//! How nodes introduce themselves, and what happens to one that is not accepted.
//!
//! A node whose disk was rolled back has forgotten votes it gave and entries it acknowledged; if
//! it takes part again, what was acknowledged with its help can be lost. It cannot tell by itself:
//! others must. So a node, after every start, introduces itself to all nodes it knows before it
//! takes part in anything, and both sides of every introduction tell which starts of every other
//! node they have heard of. Whoever is told of a later start of its own than this one, or is
//! refused by anybody, never takes part again: [`Standing::Refused`] is final, and is remembered.
//!
//! What is promised: a node takes part (votes, acknowledges, leads, serves) only after every node
//! it knows has accepted it or was silent for the patience given to [`Transport::introduce`], and
//! it exchanges nothing with a node that has not accepted it. What it did in a start that its disk
//! has forgotten is known to everybody it did it with, durably, and to everybody who was connected
//! to one of those since. A rolled-back node is refused if any of them can be reached when it
//! starts, or as soon as one can. Waiting for *all* of them, however long they are silent, would
//! give more, at a price that is too high: a cluster with one node down could not restart another.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use holdfast_model::{ClusterId, NodeId, StoreId};
use holdfast_wire::peer::v1::peer_client::PeerClient;
use holdfast_wire::peer::v1::{HandshakeRequest, HandshakeResponse};
use holdfast_wire::system::v1::KnownNode;
use tokio::sync::watch;
use tonic::transport::Channel;

use super::transport::{Inner, Transport};
use super::walls::Reading;
use crate::identity::{IdentityError, Introduction};

/// Version of everything in `holdfast.peer.v1`; nodes of different versions do not talk.
pub(crate) const PROTOCOL_VERSION: u32 = 1;
/// Wait before a node that was silent is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// What the other nodes think of this one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// They have not been asked, or have not answered.
    #[default]
    Unknown,
    /// Nobody who answered objects: it takes part.
    Accepted,
    /// Somebody knows that its data is not what it was; says who, and why. Final.
    Refused(String),
}

impl Transport {
    /// What the other nodes think of this one, now and from now on.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.inner.standing.subscribe()
    }

    /// Introduces this node to `nodes`, so that it may take part: it may once all have accepted
    /// it, or `patience` is over and nobody has refused it.
    pub async fn introduce(&self, nodes: &BTreeMap<NodeId, String>, patience: Duration) {
        let inner = &self.inner;
        let own = inner.identity.membership();
        if let Some((cluster, own)) = own {
            let others = nodes.iter().filter(|(id, _)| **id != own);
            let asked = others.map(|(id, address)| inner.accepted_by(cluster, *id, address));
            // Whoever is silent is asked again when the streams to it come up.
            let _ = holdfast_runtime::timeout(patience, join_all(asked)).await;
        }
        inner.standing.send_if_modified(|standing| {
            let is_open = *standing == Standing::Unknown;
            if is_open {
                *standing = Standing::Accepted;
            }
            is_open
        });
    }
}

impl Inner {
    /// Returns once the node at `address` has accepted this one, or anybody has refused it.
    async fn accepted_by(&self, cluster: ClusterId, node: NodeId, address: &str) {
        let Ok(mut client) = self.dial(address) else { return };
        while *self.standing.borrow() == Standing::Unknown {
            let shaken = shake(self, &mut client, cluster, node);
            match holdfast_runtime::timeout(self.options.connect_timeout, shaken).await {
                Ok(Ok(_)) => return,
                Ok(Err(problem)) => tracing::debug!(%node, problem, "not introduced"),
                Err(_) => tracing::debug!(%node, "no answer to the introduction"),
            }
            holdfast_runtime::sleep(ASK_AGAIN).await;
        }
    }

    /// Returns once this node may take part; never, if it is refused.
    pub(super) async fn accepted(&self) {
        let mut standing = self.standing.subscribe();
        if standing.wait_for(|standing| *standing == Standing::Accepted).await.is_err() {
            std::future::pending().await
        }
    }

    /// Takes it that this node is refused by `by`.
    fn refused(&self, by: NodeId, problem: &str) {
        self.standing.send_if_modified(|standing| {
            let is_first = !matches!(standing, Standing::Refused(_));
            if is_first {
                *standing = Standing::Refused(format!("{by} refuses this node: {problem}"));
            }
            is_first
        });
    }

    /// Remembers a peer and what it has heard of others, on a thread that may wait for the disk.
    pub(super) async fn meet(
        &self,
        peer: Introduction,
        heard: Vec<KnownNode>,
    ) -> Result<(), IdentityError> {
        let (identity, node) = (self.identity.clone(), peer.node);
        let met = self.identity_pool.run(move || identity.meet(&peer, &heard)).await;
        let met = met.map_err(|e| IdentityError::Storage(e.to_string()))?;
        if let Err(error) = &met
            && self.identity.membership().map(|(_, own)| own) == error.refuses()
        {
            self.refused(node, &error.to_string());
        }
        met
    }
}

/// Introduces this node to `to` (0: whoever it is) and checks what it says of itself.
///
/// Answers with how far its wall clock is ahead of this node's monotonic one.
pub(super) async fn shake(
    inner: &Inner,
    client: &mut PeerClient<Channel>,
    cluster: ClusterId,
    to: NodeId,
) -> Result<(HandshakeResponse, Reading), String> {
    let before = inner.clock.monotonic();
    let response = client
        .handshake(introduction(inner, to))
        .await
        .map_err(|status| status.message().to_owned())?
        .into_inner();
    let after = inner.clock.monotonic();
    let problem = mismatch(&response, cluster, to);
    if let Some(problem) = problem {
        return Err(problem);
    }
    let node = NodeId(response.node_id);
    if !response.refusal.is_empty() {
        inner.refused(node, &response.refusal);
        return Err(response.refusal);
    }
    let peer = Introduction {
        node,
        store: StoreId::from_bytes(&response.store_id).ok_or("store id is not 16 bytes")?,
        boot_counter: response.boot_counter,
        boot_id: response.boot_id,
        peer_address: response.node.as_ref().map(|n| n.peer_address.clone()).unwrap_or_default(),
    };
    inner.meet(peer, response.known.clone()).await.map_err(|error| error.to_string())?;
    let reading = Reading::new(before, after, response.wall_ms);
    Ok((response, reading))
}

fn mismatch(response: &HandshakeResponse, cluster: ClusterId, to: NodeId) -> Option<String> {
    if response.protocol_version != PROTOCOL_VERSION {
        let theirs = response.protocol_version;
        return Some(format!("it speaks protocol {theirs}, this node {PROTOCOL_VERSION}"));
    }
    if response.cluster_id.is_empty() {
        return Some(format!("the node that was {to} has an empty data directory"));
    }
    let theirs = ClusterId::from_bytes(&response.cluster_id).unwrap_or_default();
    if theirs != cluster {
        return Some(format!("it belongs to cluster {theirs}, this node to {cluster}"));
    }
    (to.0 != 0 && response.node_id != to.0)
        .then(|| format!("{} answers at the address of {to}", NodeId(response.node_id)))
}

/// What this node says of itself, and of others.
pub(super) fn introduction(inner: &Inner, to: NodeId) -> HandshakeRequest {
    let membership = inner.identity.membership();
    HandshakeRequest {
        cluster_id: membership.map(|(c, _)| c.to_bytes().to_vec().into()).unwrap_or_default(),
        from_node: membership.map_or(0, |(_, node)| node.0),
        store_id: inner.identity.store().to_bytes().to_vec().into(),
        boot_counter: inner.identity.boot_counter(),
        boot_id: inner.identity.boot_id(),
        to_node: to.0,
        protocol_version: PROTOCOL_VERSION,
        peer_address: inner.description.peer_address.clone(),
        wall_ms: wall_ms(inner),
        known: inner.identity.known(),
    }
}

pub(super) fn wall_ms(inner: &Inner) -> u64 {
    u64::try_from(inner.clock.wall().as_millis()).unwrap_or(u64::MAX)
}
