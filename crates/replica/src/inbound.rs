//! What peers say to this replica; the node's transport feeds it in, on the replica's reactor.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::{Stream, StreamExt};
use holdfast_env::defect;
use holdfast_model::{ReplicaId, Term};
use holdfast_runtime::timeout;
use holdfast_wire::peer::v1 as peer;
use holdfast_wire::v1::{ErrorCode, ErrorInfo};
use tokio::sync::mpsc;

use crate::error::{Error, ReadError, Result};
use crate::peers::SESSION_RESPONSES_MAX;
use crate::raft::snapshot::Incoming;
use crate::raft::types::{AppendEntries, Fatal, Snapshot, VoteResponse};
use crate::raft::{convert, runtime, snapshot};
use crate::replica::{Inner, Replica};

/// How long a read index asked for by a follower may take.
const READ_INDEX_MAX: std::time::Duration = std::time::Duration::from_secs(2);

impl Replica {
    /// Serves a replication session: takes requests in order, answers each in order.
    ///
    /// The answers end after the requests have, or after one that ends the session (a conflict, a
    /// higher vote, a stopped group); a malformed request ends it without an answer.
    pub fn handle_session(
        &self,
        requests: mpsc::Receiver<peer::AppendRequest>,
    ) -> mpsc::Receiver<peer::AppendResponse> {
        let (answers, receiver) = mpsc::channel(SESSION_RESPONSES_MAX);
        if !self.inner.health.is_good() {
            return receiver;
        }
        let inner = self.inner.clone();
        let input = requests_of(inner.clone(), requests);
        let serve = async move {
            let mut results = Box::pin(inner.raft.stream_append(input));
            while let Some(result) = results.next().await {
                let answer = match result {
                    Ok(result) => convert::append_result_to_wire(&result),
                    Err(fatal) => convert::append_fatal_to_wire(fatal.to_string()),
                };
                if answers.send(answer).await.is_err() {
                    return;
                }
            }
        };
        self.inner.spawn(serve);
        receiver
    }

    /// Serves one heartbeat.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub async fn handle_heartbeat(
        &self,
        request: peer::AppendRequest,
    ) -> Result<peer::AppendResponse> {
        self.inner.check_health()?;
        let clock_ms = request.clock_ms;
        let request = convert::append_from_wire(request)?;
        self.inner.heard_in(request.vote.leader_id.term, clock_ms);
        let inner = &self.inner;
        let appended = runtime::scope(inner.context.clone(), inner.raft.append_entries(request));
        Ok(match appended.await {
            Ok(response) => append_response(response),
            Err(error) => convert::append_fatal_to_wire(error.to_string()),
        })
    }

    /// Serves a request for a vote or pre-vote.
    ///
    /// Refused during the boot delay: this replica has forgotten the leases it granted. A handing
    /// over of leadership is exempt, since the leader itself has given its lease up.
    ///
    /// # Errors
    /// [`Error::Malformed`]; [`Error::Stopped`] also for the refusal.
    pub async fn handle_vote(&self, request: peer::VoteRequest) -> Result<peer::VoteResponse> {
        let inner = &self.inner;
        inner.check_health()?;
        if !inner.may_campaign() && !request.leadership_transfer {
            holdfast_env::sometimes!(VOTE_REFUSED_BY_BOOT_DELAY);
            return Err(Error::Stopped("its vote waits until old leases have run out".into()));
        }
        let vote = convert::vote_request_from_wire(&request)?;
        if request.pre_vote && defect!(PRE_VOTE_STUB) {
            let granted = VoteResponse::new(vote.vote, vote.last_log_id, true);
            return Ok(convert::vote_response_to_wire(&granted));
        }
        let context = inner.context.clone();
        let response = match request.pre_vote {
            true => runtime::scope(context, inner.raft.pre_vote(vote)).await,
            false => runtime::scope(context, inner.raft.vote(vote)).await,
        };
        let response = response.map_err(|e| Error::Stopped(e.to_string()))?;
        match (response.vote_granted, request.pre_vote) {
            (true, _) => {}
            (false, true) => holdfast_env::sometimes!(PRE_VOTE_REFUSED),
            (false, false) => holdfast_env::sometimes!(VOTE_REFUSED),
        }
        Ok(convert::vote_response_to_wire(&response))
    }

    /// Serves the news that leadership is handed over.
    ///
    /// # Errors
    /// [`Error::Malformed`], [`Error::Stopped`].
    pub async fn handle_transfer(
        &self,
        request: peer::TransferLeader,
    ) -> Result<peer::TransferResponse> {
        let inner = &self.inner;
        inner.check_health()?;
        let request = convert::transfer_from_wire(&request)?;
        let handled = inner.raft.handle_transfer_leader(request);
        let handled = runtime::scope(inner.context.clone(), handled).await;
        match handled.map_err(|fatal: Fatal| Error::Stopped(fatal.to_string()))? {
            Ok(()) => Ok(peer::TransferResponse {}),
            Err(error) => Err(Error::Stopped(error.to_string())),
        }
    }

    /// Serves a follower that wants a read index: of a round that starts now, by quorum, never by
    /// lease. Only the leader has one; the answer carries the error otherwise.
    pub async fn handle_read_index(&self) -> peer::ReadIndexResponse {
        let inner = &self.inner;
        let leads = inner.leadership.is_leader() && inner.health.is_good();
        let found = match leads {
            true => timeout(READ_INDEX_MAX, inner.rounds.join()).await,
            false => Ok(Err(ReadError::NotLeader { leader: inner.leadership.leader() })),
        };
        let found = found.unwrap_or_else(|_| Err(ReadError::NoQuorum("round timed out".into())));
        let clock_ms = inner.reader.point().clock_ms;
        let leader_replica = inner.options.replica.0;
        let (log_id, error) = match found {
            Ok(found) => {
                let leader = found.leader.0;
                (Some(peer::LogId { term: found.term, leader, index: found.index }), None)
            }
            Err(error) => (None, Some(read_error_info(&error))),
        };
        peer::ReadIndexResponse { log_id, error, clock_ms, leader_replica }
    }

    /// What of a snapshot has arrived here before, so that its sender can leave it out. A transfer
    /// that is under way ends with this. Waits for the disk, on the pool.
    ///
    /// # Errors
    /// As [`Replica::begin_snapshot`].
    pub async fn offer_snapshot(
        &self,
        header: &peer::SnapshotHeader,
    ) -> Result<peer::SnapshotOffer> {
        let incoming = self.incoming(header)?;
        let area = self.inner.staging.clone();
        let offered = self.inner.pool.run(move || area.offer(&incoming.manifest)).await;
        let files = offered.map_err(|e| Error::Stopped(e.to_string()))??;
        Ok(peer::SnapshotOffer { files })
    }

    /// Begins to receive a snapshot, after what was offered for it. Waits for the disk, on the
    /// pool.
    ///
    /// # Errors
    /// [`Error::Misdirected`], [`Error::Malformed`]; [`Error::Engine`] where it cannot be staged.
    pub async fn begin_snapshot(&self, header: &peer::SnapshotHeader) -> Result<SnapshotReceiver> {
        let inner = self.inner.clone();
        let incoming = self.incoming(header)?;
        let (area, number) = (inner.staging.clone(), inner.entropy.u64());
        let (manifest, total_bytes) = (incoming.manifest.clone(), incoming.total_bytes);
        let begun = inner.pool.run(move || area.begin(&manifest, total_bytes, number)).await;
        let turn = begun.map_err(|e| Error::Stopped(e.to_string()))??;
        Ok(SnapshotReceiver { inner, incoming, turn })
    }

    /// The header of a snapshot for this replica, checked.
    fn incoming(&self, header: &peer::SnapshotHeader) -> Result<Incoming> {
        let inner = &self.inner;
        inner.check_health()?;
        let options = &inner.options;
        if header.cluster_id[..] != options.cluster.to_bytes() {
            return Err(Error::Misdirected("snapshot of another cluster"));
        }
        if header.range_id != options.range.0 || header.to_replica != options.replica.0 {
            return Err(Error::Misdirected("snapshot for another replica"));
        }
        Incoming::from_header(header)
    }
}

fn requests_of(
    inner: Arc<Inner>,
    requests: mpsc::Receiver<peer::AppendRequest>,
) -> impl Stream<Item = AppendEntries> + Send + 'static {
    futures_util::stream::unfold((inner, requests), |(inner, mut requests)| async move {
        let request = requests.recv().await?;
        let clock_ms = request.clock_ms;
        match convert::append_from_wire(request) {
            Ok(request) => {
                inner.heard_in(request.vote.leader_id.term, clock_ms);
                Some((request, (inner, requests)))
            }
            Err(error) => {
                tracing::warn!(range = %inner.options.range, %error, "session ends");
                None
            }
        }
    })
}

fn append_response(
    response: openraft::raft::AppendEntriesResponse<crate::raft::types::TypeConfig>,
) -> peer::AppendResponse {
    use openraft::raft::AppendEntriesResponse as Response;
    use peer::append_response::Kind;
    let (kind, log_id, vote) = match response {
        Response::Success => (Kind::Matched, None, None),
        Response::PartialSuccess(matched) => {
            (Kind::Matched, matched.as_ref().map(convert::log_id_to_wire), None)
        }
        Response::Conflict => (Kind::Conflict, Some(peer::LogId::default()), None),
        Response::HigherVote(vote) => (Kind::HigherVote, None, Some(convert::vote_to_wire(&vote))),
    };
    peer::AppendResponse { kind: kind.into(), log_id, vote, detail: String::new() }
}

fn read_error_info(error: &ReadError) -> ErrorInfo {
    let code = match error {
        ReadError::NotLeader { .. } => ErrorCode::NotLeader,
        ReadError::NoQuorum(_) => ErrorCode::NoQuorum,
        ReadError::TooStale { .. } => ErrorCode::TooStale,
        ReadError::Behind { .. } => ErrorCode::NotReady,
        ReadError::Deadline => ErrorCode::Deadline,
        ReadError::Overloaded => ErrorCode::Overloaded,
        ReadError::Stopped => ErrorCode::NotHere,
    };
    ErrorInfo { code: code.into(), message: error.to_string(), ..Default::default() }
}

/// The receiving end of one snapshot.
pub struct SnapshotReceiver {
    inner: Arc<Inner>,
    incoming: Incoming,
    /// What it writes with, until another transfer takes over.
    turn: u64,
}

impl SnapshotReceiver {
    /// Stages one chunk. Waits for the disk: call it on a thread that may.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a damaged chunk, [`Error::Engine`]: drop the receiver; the sender
    /// comes again and goes on. [`Error::Stopped`]: it has come again already.
    pub fn write(&mut self, data: &peer::SnapshotData) -> Result<()> {
        self.inner.staging.write(self.turn, data)
    }

    /// Syncs what was staged and switches to it. The answer is this replica's vote.
    ///
    /// # Errors
    /// [`Error::Malformed`] where chunks are missing, [`Error::Engine`], [`Error::Stopped`].
    pub async fn finish(self) -> Result<peer::SnapshotResult> {
        let Self { inner, incoming, turn } = self;
        let area = inner.staging.clone();
        let finished = inner.pool.run(move || area.finish(turn)).await;
        let (staged, received_bytes) = finished.map_err(|e| Error::Stopped(e.to_string()))??;
        inner.heard();
        if !fits_log(&inner, &incoming) {
            return Err(Error::Malformed("snapshot contradicts what is committed here"));
        }
        let payload = snapshot::SnapshotPayload::Staged(staged);
        let content = Snapshot { meta: incoming.meta, snapshot: payload };
        let installing = inner.raft.install_full_snapshot(incoming.vote, content);
        let installed = runtime::scope(inner.context.clone(), installing).await;
        let response = installed.map_err(|fatal: Fatal| Error::Stopped(fatal.to_string()))?;
        Ok(peer::SnapshotResult {
            vote: Some(convert::vote_to_wire(&response.vote)),
            received_bytes,
        })
    }

    /// Who sends.
    pub fn sender(&self) -> ReplicaId {
        self.incoming.vote.leader_id.node_id
    }
}

/// Whether a protocol-following leader can have sent this snapshot; openraft panics otherwise.
fn fits_log(inner: &Inner, incoming: &Incoming) -> bool {
    use openraft::async_runtime::WatchReceiver;
    let committed = inner.raft.data_metrics().borrow_watched().local_committed;
    match (committed, incoming.meta.last_log_id) {
        (Some(committed), Some(last)) => last <= committed || last.index > committed.index,
        _ => true,
    }
}

impl Inner {
    /// Refuses to take part once the replica cannot be trusted.
    fn check_health(&self) -> Result<()> {
        match self.health.failure() {
            Some(failure) => Err(Error::Stopped(failure.to_string())),
            None if self.health.is_stopping() => Err(Error::Stopped("it is stopping".into())),
            None => Ok(()),
        }
    }

    /// Refuses to read once the replica cannot be trusted.
    pub(crate) fn check_health_of_read(&self) -> std::result::Result<(), ReadError> {
        if self.health.is_good() { Ok(()) } else { Err(ReadError::Stopped) }
    }

    /// Notes that the leader of `term` made itself heard, and what time it has, unless it is known
    /// to be deposed: that one's messages renew no lease, and must not keep a follower from looking
    /// for its leader.
    fn heard_in(&self, term: u64, clock_ms: u64) {
        if term >= self.leadership.info().term.0 || defect!(DEPOSED_LEADER_HEARD) {
            self.heard();
            self.leadership.heard(Term(term), clock_ms);
        }
    }

    /// Notes that the leader made itself heard.
    pub(crate) fn heard(&self) {
        let now = self.clock.monotonic().as_nanos();
        self.heard_at_nanos.store(u64::try_from(now).unwrap_or(u64::MAX), Ordering::Release);
    }
}
