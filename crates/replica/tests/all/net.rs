//! A network of function calls: every message takes a millisecond, links can be cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use holdfast_model::{NodeId, ReplicaId};
use holdfast_replica::{
    Error, PeerAddress, PeerError, Peers, Replica, SESSION_REQUESTS_MAX, SESSION_RESPONSES_MAX,
    Session, SnapshotSource,
};
use holdfast_runtime::{sleep, spawn};
use holdfast_wire::peer::v1 as peer;
use parking_lot::Mutex;
use tokio::sync::mpsc;

const LATENCY: Duration = Duration::from_millis(1);
/// How long a caller waits for an answer that does not come.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a snapshot that travel together.
pub const SNAPSHOT_CHUNK: usize = 1 << 10;
const SNAPSHOT_PAUSE: Duration = Duration::from_micros(100);

/// The network of one test.
#[derive(Default)]
pub struct Net {
    replicas: Mutex<BTreeMap<ReplicaId, Replica>>,
    cut: Mutex<BTreeSet<(NodeId, NodeId)>>,
    /// Nodes that are heard, and hear nothing.
    deaf: Mutex<BTreeSet<NodeId>>,
    /// How much longer entries take to these nodes; everything else is as quick as ever.
    pub slow_entries: Mutex<BTreeMap<NodeId, Duration>>,
    pub urgent_heartbeats: AtomicUsize,
    pub read_indexes: AtomicUsize,
    /// How much longer the answer to the next question for a read index takes.
    pub slow_read_index: Mutex<Option<Duration>>,
    pub snapshots: AtomicUsize,
    /// Bytes of snapshots that arrived, and how many more may before the transfer breaks.
    pub snapshot_bytes: AtomicUsize,
    pub breaks_after: Mutex<Option<usize>>,
    /// Transfers that broke so.
    pub breaks: AtomicUsize,
}

impl Net {
    pub fn attach(&self, replica: &Replica) {
        self.replicas.lock().insert(replica.options().replica, replica.clone());
    }

    pub fn detach(&self, replica: ReplicaId) {
        self.replicas.lock().remove(&replica);
    }

    /// Cuts or heals both directions between two nodes.
    pub fn set_link(&self, a: NodeId, b: NodeId, up: bool) {
        let mut cut = self.cut.lock();
        for link in [(a, b), (b, a)] {
            match up {
                true => cut.remove(&link),
                false => cut.insert(link),
            };
        }
    }

    /// Whatever is sent to `id` is lost without a word from now on.
    pub fn deafen(&self, id: NodeId) {
        self.deaf.lock().insert(id);
    }

    fn is_deaf(&self, id: NodeId) -> bool {
        self.deaf.lock().contains(&id)
    }

    /// Counts bytes of a snapshot, unless it is to break before them.
    fn take(&self, bytes: usize) -> Result<(), Error> {
        if let Some(left) = &mut *self.breaks_after.lock() {
            let Some(rest) = left.checked_sub(bytes) else {
                self.breaks.fetch_add(1, Ordering::Relaxed);
                return Err(Error::Stopped("the connection broke".into()));
            };
            *left = rest;
        }
        self.snapshot_bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    fn is_up(&self, from: NodeId, to: NodeId) -> bool {
        !self.cut.lock().contains(&(from, to))
    }

    fn reach(&self, from: NodeId, to: &PeerAddress) -> Result<Replica, PeerError> {
        let replica = self.replicas.lock().get(&to.to).cloned();
        let unreachable = || PeerError::Unreachable(format!("{} is not there", to.to));
        let replica = replica.filter(|_| self.is_up(from, to.node)).ok_or_else(unreachable)?;
        assert_eq!(replica.options().node, to.node, "a replica is asked for where it lives");
        assert_eq!(replica.options().range, to.range);
        Ok(replica)
    }
}

/// One node's end of the network. It does not keep the network alive: the network keeps the
/// replicas alive, and they keep their ends.
pub struct End {
    net: Weak<Net>,
    node: NodeId,
}

impl End {
    pub fn of(net: &Arc<Net>, node: NodeId) -> Self {
        Self { net: Arc::downgrade(net), node }
    }

    fn net(&self) -> Result<Arc<Net>, PeerError> {
        self.net.upgrade().ok_or_else(|| PeerError::Unreachable("there is no network".into()))
    }

    /// Calls `serve` on the replica at `to` after a latency, and answers after another.
    fn call<T, F>(
        &self,
        to: &PeerAddress,
        serve: impl FnOnce(Replica) -> F + Send + 'static,
    ) -> BoxFuture<'static, Result<T, PeerError>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let (net, node, to) = (self.net(), self.node, *to);
        Box::pin(async move {
            let net = net?;
            net.reach(node, &to)?;
            sleep(LATENCY).await;
            if net.is_deaf(to.node) {
                sleep(PATIENCE).await;
                return Err(PeerError::Timeout);
            }
            let replica = net.reach(node, &to)?;
            let answer = serve(replica).await.map_err(|e| PeerError::Refused(e.to_string()))?;
            sleep(LATENCY).await;
            if net.is_deaf(node) {
                sleep(PATIENCE).await;
                return Err(PeerError::Timeout);
            }
            net.reach(node, &to)?;
            Ok(answer)
        })
    }
}

impl Peers for End {
    fn open_session(&self, to: &PeerAddress) -> Result<Session, PeerError> {
        let net = self.net()?;
        let replica = net.reach(self.node, to)?;
        let (requests, mut outgoing) = mpsc::channel(SESSION_REQUESTS_MAX);
        let (incoming, accepted) = mpsc::channel(SESSION_REQUESTS_MAX);
        let (answers, responses) = mpsc::channel(SESSION_RESPONSES_MAX);
        let mut served = replica.handle_session(accepted);
        let (node, to) = (self.node, *to);
        let (there, back) = (net.clone(), net);
        spawn(async move {
            while let Some(request) = outgoing.recv().await {
                let more = there.slow_entries.lock().get(&to.node).copied().unwrap_or_default();
                sleep(LATENCY + more).await;
                if there.is_deaf(to.node) {
                    continue;
                }
                if there.reach(node, &to).is_err() || incoming.send(request).await.is_err() {
                    return;
                }
            }
        });
        spawn(async move {
            while let Some(answer) = served.recv().await {
                sleep(LATENCY).await;
                if back.is_deaf(node) {
                    continue;
                }
                let answer = back.reach(node, &to).map(|_| answer);
                let broken = answer.is_err();
                if answers.send(answer).await.is_err() || broken {
                    return;
                }
            }
        });
        Ok(Session { requests, responses })
    }

    fn heartbeat(
        &self,
        to: &PeerAddress,
        request: peer::AppendRequest,
        urgent: bool,
    ) -> BoxFuture<'static, Result<peer::AppendResponse, PeerError>> {
        if let Ok(net) = self.net() {
            net.urgent_heartbeats.fetch_add(usize::from(urgent), Ordering::Relaxed);
        }
        self.call(to, move |replica| async move { replica.handle_heartbeat(request).await })
    }

    fn vote(
        &self,
        to: &PeerAddress,
        request: peer::VoteRequest,
        _: Duration,
    ) -> BoxFuture<'static, Result<peer::VoteResponse, PeerError>> {
        self.call(to, move |replica| async move { replica.handle_vote(request).await })
    }

    fn transfer(
        &self,
        to: &PeerAddress,
        request: peer::TransferLeader,
        _: Duration,
    ) -> BoxFuture<'static, Result<peer::TransferResponse, PeerError>> {
        self.call(to, move |replica| async move { replica.handle_transfer(request).await })
    }

    fn read_index(
        &self,
        to: &PeerAddress,
        _: Duration,
    ) -> BoxFuture<'static, Result<peer::ReadIndexResponse, PeerError>> {
        let mut late = Duration::ZERO;
        if let Ok(net) = self.net() {
            net.read_indexes.fetch_add(1, Ordering::Relaxed);
            late = net.slow_read_index.lock().take().unwrap_or_default();
        }
        self.call(to, move |replica| async move {
            let answer = replica.handle_read_index().await;
            sleep(late).await;
            Ok(answer)
        })
    }

    fn send_snapshot(
        &self,
        to: &PeerAddress,
        header: peer::SnapshotHeader,
        mut source: Box<dyn SnapshotSource>,
    ) -> BoxFuture<'static, Result<peer::SnapshotResult, PeerError>> {
        let net = self.net();
        self.call(to, move |replica| async move {
            let net = net.map_err(|e| Error::Stopped(e.to_string()))?;
            net.snapshots.fetch_add(1, Ordering::Relaxed);
            source.resume(replica.offer_snapshot(&header).await?.files);
            let mut receiver = replica.begin_snapshot(&header).await?;
            let unreadable = |e: std::io::Error| Error::Stopped(e.to_string());
            while let Some(chunk) = source.next_chunk(SNAPSHOT_CHUNK).map_err(unreadable)? {
                net.take(chunk.bytes.len())?;
                receiver.write(&chunk)?;
                sleep(SNAPSHOT_PAUSE).await;
            }
            receiver.finish().await
        })
    }

    fn wall_offset_ms(&self, node: NodeId) -> Option<i64> {
        self.net().ok().filter(|net| net.is_up(self.node, node)).map(|_| 0)
    }
}
