//! openraft's network on the [`Peers`] port.
//!
//! openraft asks for one network object per peer and purpose, so each knows what it carries:
//! replication sessions, single heartbeats, or snapshots.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use holdfast_journal::Journal;
use holdfast_model::{ClusterId, NodeId, RangeId, ReplicaId};
use holdfast_runtime::sleep;
use openraft::errors::{NetworkError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption,
};
use openraft::raft::{SnapshotResponse, TransferLeaderResponse};
use openraft::{OptionalSend, RPCTypes, RaftNetworkFactory};
use parking_lot::Mutex;

use crate::health::Health;
use crate::peers::{PeerAddress, PeerError, Peers};
use crate::raft::convert;
use crate::raft::session::SessionStream;
use crate::raft::snapshot::{self, SnapshotPayload};
use crate::raft::tail::Tail;
use crate::raft::types::{
    AppendEntries, AppendResult, Host, RpcError, Snapshot, Transfer, TypeConfig, Vote, VoteRequest,
    VoteResponse,
};

/// Pauses after failed attempts to reach a peer; the last one repeats.
const BACKOFF_MS: [u64; 6] = [50, 100, 200, 400, 800, 1_000];

/// How often a snapshot under way asks whether the journal can still afford it.
const AFFORD_POLL: Duration = Duration::from_secs(1);

/// Tells the leader's range time, milliseconds.
pub(crate) type TellTime = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What all network objects of one replica share.
pub(crate) struct NetworkShared {
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) cluster: ClusterId,
    pub(crate) range: RangeId,
    pub(crate) node: NodeId,
    pub(crate) replica: ReplicaId,
    pub(crate) journal: Arc<Journal>,
    pub(crate) session_idle_max: Duration,
    /// Read rounds under way: heartbeats go out at once while there are any. openraft does not
    /// tell a probe for a read from a periodic heartbeat.
    pub(crate) rounds: AtomicUsize,
    /// Log indexes that snapshots under way end at: nothing after them may be purged.
    pub(crate) holds: Holds,
    pub(crate) health: Arc<Health>,
    /// Where the log ends and how far it is committed.
    pub(crate) tail: Arc<Tail>,
    pub(crate) time: TellTime,
}

impl NetworkShared {
    /// The address of `replica` on `node`.
    pub(crate) fn address(&self, to: ReplicaId, node: NodeId) -> PeerAddress {
        PeerAddress { cluster: self.cluster, range: self.range, from: self.replica, to, node }
    }
}

/// Indexes held back from purging, each by somebody who will let go of it.
#[derive(Debug, Default)]
pub(crate) struct Holds(Mutex<BTreeMap<u64, usize>>);

impl Holds {
    /// The lowest index held.
    pub(crate) fn lowest(&self) -> Option<u64> {
        self.0.lock().keys().next().copied()
    }

    fn add(&self, index: u64) {
        *self.0.lock().entry(index).or_default() += 1;
    }

    fn remove(&self, index: u64) {
        let mut holds = self.0.lock();
        if let Some(count) = holds.get_mut(&index) {
            *count -= 1;
            if *count == 0 {
                holds.remove(&index);
            }
        }
    }
}

/// One hold, let go of when dropped.
struct Hold(Arc<NetworkShared>, u64);

impl Hold {
    fn new(shared: &Arc<NetworkShared>, index: u64) -> Self {
        shared.holds.add(index);
        Self(shared.clone(), index)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.holds.remove(self.1);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Replication,
    Heartbeat,
    Snapshot,
}

/// Makes the network objects of one replica.
#[derive(Clone)]
pub(crate) struct Factory(pub(crate) Arc<NetworkShared>);

impl Factory {
    fn client(&self, target: ReplicaId, host: Host, purpose: Purpose) -> Network {
        Network { address: self.0.address(target, host.0), shared: self.0.clone(), purpose }
    }
}

impl RaftNetworkFactory<TypeConfig> for Factory {
    type Network = Network;

    async fn new_client(&mut self, target: ReplicaId, host: &Host) -> Network {
        self.client(target, *host, Purpose::Replication)
    }

    async fn new_heartbeat_client(&mut self, target: ReplicaId, host: &Host) -> Network {
        self.client(target, *host, Purpose::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: ReplicaId, host: &Host) -> Network {
        self.client(target, *host, Purpose::Snapshot)
    }
}

/// One way to one peer.
pub(crate) struct Network {
    shared: Arc<NetworkShared>,
    address: PeerAddress,
    purpose: Purpose,
}

impl Network {
    fn failed(&self, error: &PeerError, action: RPCTypes, timeout: Duration) -> RpcError {
        rpc_error(&self.address, error, action, timeout)
    }
}

pub(crate) fn rpc_error(
    to: &PeerAddress,
    error: &PeerError,
    action: RPCTypes,
    timeout: Duration,
) -> RpcError {
    match error {
        PeerError::Unreachable(_) | PeerError::Refused(_) => Unreachable::new(error).into(),
        PeerError::Broken(_) => NetworkError::new(error).into(),
        PeerError::Timeout => Timeout { action, id: to.from, target: to.to, timeout }.into(),
    }
}

impl NetBackoff<TypeConfig> for Network {
    fn backoff(&self) -> Option<Backoff> {
        let last = BACKOFF_MS.last().copied().unwrap_or(1_000);
        let pauses = BACKOFF_MS.into_iter().chain(std::iter::repeat(last));
        Some(Backoff::new(pauses.map(Duration::from_millis)))
    }
}

impl NetStreamAppend<TypeConfig> for Network {
    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<AppendResult, RpcError>>, RpcError>>
    where
        S: Stream<Item = AppendEntries> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let ttl = option.hard_ttl();
            let action = RPCTypes::AppendEntries;
            // openraft's pauses between attempts are inside its stream: who fails without having
            // asked it for a request is called again at once.
            let Some(request) = input.next().await else {
                let nothing: BoxStream<'s, _> = Box::pin(stream::empty());
                return Ok(nothing);
            };
            if self.purpose != Purpose::Heartbeat {
                let idle_max = self.shared.session_idle_max;
                let opened = self.shared.peers.open_session(&self.address);
                let session = opened.map_err(|e| self.failed(&e, action, idle_max))?;
                let (to, shared) = (self.address, &self.shared);
                let (tail, time) = (shared.tail.clone(), shared.time.clone());
                let session = SessionStream::new(to, request, input, session, idle_max, tail, time);
                let answers: BoxStream<'s, _> = Box::pin(session);
                return Ok(answers);
            }
            let urgent = self.shared.rounds.load(Ordering::Acquire) > 0;
            let request = convert::append_to_wire(&request, (self.shared.time)());
            let answer = self.shared.peers.heartbeat(&self.address, request, urgent).await;
            let answer = answer.map_err(|e| self.failed(&e, action, ttl))?;
            let result = convert::append_result_from_wire(&answer);
            let result = result.map_err(|e| Unreachable::new(&e).into());
            // Exactly one answer, then the end: openraft waits for both.
            let answers: BoxStream<'s, _> = Box::pin(stream::iter([result]));
            Ok(answers)
        })
    }
}

impl Network {
    async fn ask_vote(
        &self,
        request: VoteRequest,
        pre_vote: bool,
        option: RPCOption,
    ) -> Result<VoteResponse, RpcError> {
        let ttl = option.hard_ttl();
        let request = convert::vote_request_to_wire(&request, pre_vote);
        let answer = self.shared.peers.vote(&self.address, request, ttl).await;
        let answer = answer.map_err(|e| self.failed(&e, RPCTypes::Vote, ttl))?;
        convert::vote_response_from_wire(&answer).map_err(|e| NetworkError::new(&e).into())
    }
}

impl NetVote<TypeConfig> for Network {
    async fn vote(
        &mut self,
        request: VoteRequest,
        option: RPCOption,
    ) -> Result<VoteResponse, RpcError> {
        self.ask_vote(request, false, option).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest,
        option: RPCOption,
    ) -> Result<VoteResponse, RpcError> {
        self.ask_vote(request, true, option).await
    }
}

impl NetTransferLeader<TypeConfig> for Network {
    async fn transfer_leader(
        &mut self,
        request: Transfer,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let ttl = option.hard_ttl();
        let request = convert::transfer_to_wire(&request);
        let answer = self.shared.peers.transfer(&self.address, request, ttl).await;
        answer.map_err(|e| self.failed(&e, RPCTypes::TransferLeader, ttl))?;
        Ok(Ok(()))
    }
}

impl NetSnapshot<TypeConfig> for Network {
    type SnapshotData = SnapshotPayload;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let hold = snapshot.meta.last_log_id.map(|last| Hold::new(&self.shared, last.index));
        let (shared, node) = (&self.shared, self.shared.node);
        let (header, source) =
            snapshot::outgoing(&self.address, node, &vote, snapshot, &shared.health)
                .map_err(|e| StreamingError::from(NetworkError::new(&e)))?;
        let sending = shared.peers.send_snapshot(&self.address, header, source);
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            () = unaffordable(&shared.journal) => {
                Err(NetworkError::from_string("the log has no room for a slow snapshot").into())
            }
            sent = sending => {
                drop(hold);
                let ttl = option.hard_ttl();
                let sent = sent.map_err(|e| self.failed(&e, RPCTypes::InstallSnapshot, ttl))?;
                let vote = convert::vote_from_wire(sent.vote.as_ref())
                    .map_err(|e| StreamingError::from(NetworkError::new(&e)))?;
                Ok(SnapshotResponse::new(vote))
            }
        }
    }
}

/// Returns once the journal is so full that no snapshot under way may hold the log back.
async fn unaffordable(journal: &Journal) {
    while journal.accepts_writes() {
        sleep(AFFORD_POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_lasts_until_its_last_holder_lets_go() {
        let holds = Holds::default();
        holds.add(7);
        holds.add(7);
        holds.add(9);
        holds.remove(7);
        assert_eq!(holds.lowest(), Some(7));
        holds.remove(7);
        assert_eq!(holds.lowest(), Some(9));
        holds.remove(9);
        assert_eq!(holds.lowest(), None);
    }
}
