//! Read rounds, shared by all reads that wait, and what they prove about staleness.
//!
//! A read joins the *next* round, never one under way: the round it gets starts after it arrived.
//! What arrives while as many rounds run as may becomes the next one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use holdfast_env::{Clock, defect};
use holdfast_model::{NodeId, ReplicaId};
use holdfast_runtime::timeout;
use holdfast_wire::v1::ErrorCode;
use openraft::LinearizerOption;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{LinearizableReadError, RaftError};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::error::ReadError;
use crate::gather::gather;
use crate::leadership::Leadership;
use crate::options::{READS_WAITING_MAX, Timings};
use crate::proposer::leader_of;
use crate::raft::Group;
use crate::raft::machine::Progress;
use crate::raft::network::NetworkShared;

/// How long one round may take before it is given up and its reads decide what to do.
const ROUND_MAX: Duration = Duration::from_millis(1_000);
/// Rounds of one kind that are under way at once. A round is mostly waiting for others; with three
/// of them 64 clients are answered 6 % more reads at 4 % less processor time than with one, and an
/// answer that is lost holds nobody up who comes later. More gain nothing.
const ROUNDS_AT_ONCE: usize = 3;
/// Most reads that join one round.
const READS_PER_ROUND_MAX: usize = 4_096;
/// Rounds whose index is not applied yet, and whose proof is remembered meanwhile.
const PROOFS_MAX: usize = 64;

/// What a round found: everything acknowledged before it began is in the log up to `index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReadIndex {
    pub(crate) term: u64,
    pub(crate) leader: ReplicaId,
    pub(crate) index: u64,
}

pub(crate) type Answer = oneshot::Sender<Result<ReadIndex, ReadError>>;

/// How a round makes sure that it is not answered by a deposed leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Assurance {
    /// A quorum answers a heartbeat sent after the round began.
    Quorum,
    /// A quorum has answered within this time; a heartbeat round otherwise. Leader only.
    Lease(Duration),
}

/// The readers' side of one kind of round.
#[derive(Clone)]
pub(crate) struct Rounds(mpsc::Sender<Answer>);

impl Rounds {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Answer>) {
        let (queue, waiting) = mpsc::channel(READS_WAITING_MAX);
        (Self(queue), waiting)
    }

    /// Joins the next round and waits for what it finds.
    pub(crate) async fn join(&self) -> Result<ReadIndex, ReadError> {
        let (answer, found) = oneshot::channel();
        self.0.try_send(answer).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ReadError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => ReadError::Stopped,
        })?;
        found.await.unwrap_or(Err(ReadError::Stopped))
    }
}

/// Runs rounds of one kind: a few tasks of the replica that take turns at what waits.
pub(crate) struct RoundTask {
    /// Held by whose turn it is, while it waits for reads and gathers them.
    pub(crate) waiting: tokio::sync::Mutex<mpsc::Receiver<Answer>>,
    pub(crate) assurance: Assurance,
    pub(crate) raft: Group,
    pub(crate) leadership: Arc<Leadership>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) network: Arc<NetworkShared>,
    pub(crate) proofs: Arc<Proofs>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) timings: Timings,
}

impl RoundTask {
    /// How many tasks are to [`run`](Self::run) it.
    pub(crate) fn at_once() -> usize {
        if defect!(READ_JOINS_ROUND_UNDER_WAY) { 1 } else { ROUNDS_AT_ONCE }
    }

    /// Runs rounds until the replica stops, one at a time.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut answers = Vec::new();
        loop {
            self.join(&mut answers).await;
            if answers.is_empty() {
                return;
            }
            if answers.len() > 1 {
                holdfast_env::sometimes!(READ_ROUND_SHARED);
            }
            let began = self.clock.monotonic();
            let found = self.round().await;
            if defect!(READ_JOINS_ROUND_UNDER_WAY) {
                while let Ok(late) = self.waiting.lock().await.try_recv() {
                    answers.push(late);
                }
            }
            let began = match defect!(BOUND_FROM_END_OF_ROUND) {
                true => self.clock.monotonic(),
                false => began,
            };
            if let (Ok(found), Assurance::Quorum) = (&found, self.assurance) {
                self.proofs.add(found.index, began);
            }
            for answer in answers.drain(..) {
                // A reader that has gone no longer wants to know.
                let _ = answer.send(found.clone());
            }
        }
    }

    /// Takes the reads of the next round, what is on the way already included; none at the end.
    async fn join(&self, answers: &mut Vec<Answer>) {
        let mut waiting = self.waiting.lock().await;
        let first = waiting.recv_many(answers, READS_PER_ROUND_MAX).await;
        if first == 0 || self.assurance != Assurance::Quorum {
            return;
        }
        gather(&*self.clock).await;
        while answers.len() < READS_PER_ROUND_MAX
            && let Ok(answer) = waiting.try_recv()
        {
            answers.push(answer);
        }
    }

    async fn round(&self) -> Result<ReadIndex, ReadError> {
        if self.leadership.is_leader() {
            return self.lead_round().await;
        }
        match (self.leadership.leader(), self.assurance) {
            (Some((leader, node)), Assurance::Quorum) if leader != self.network.replica => {
                self.ask_leader(leader, node).await
            }
            (leader, _) => Err(ReadError::NotLeader { leader }),
        }
    }

    async fn lead_round(&self) -> Result<ReadIndex, ReadError> {
        // What ended while nobody led must not be shown: the range's clock goes on with the first
        // entry of this term. Nor what ended while this process stood still.
        let caught_up = async {
            self.leadership.settled().await;
            self.progress.nothing_shown_late().await;
        };
        if timeout(ROUND_MAX, caught_up).await.is_err() {
            return Err(ReadError::NoQuorum("what ended cannot be removed".into()));
        }
        if self.assurance == Assurance::Quorum && defect!(READ_INDEX_WITHOUT_QUORUM) {
            return self.unconfirmed();
        }
        let age_max = match self.assurance {
            Assurance::Quorum => Duration::ZERO,
            Assurance::Lease(age_max) => age_max,
        };
        let option = LinearizerOption::new(Some(age_max), true).with_wait_timeout(ROUND_MAX);
        // Heartbeats that go out meanwhile are probes of this round: they must not wait.
        self.network.rounds.fetch_add(1, Ordering::AcqRel);
        let linearizer = self.raft.get_read_linearizer(option).await;
        self.network.rounds.fetch_sub(1, Ordering::AcqRel);
        match linearizer {
            Ok(linearizer) => {
                let log_id = *linearizer.read_log_id().log_id();
                let leader = self.network.replica;
                Ok(ReadIndex { term: log_id.leader_id.term, leader, index: log_id.index })
            }
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                Err(ReadError::NotLeader { leader: leader_of(&forward) })
            }
            Err(RaftError::APIError(error @ LinearizableReadError::QuorumNotEnough(_))) => {
                Err(ReadError::NoQuorum(error.to_string()))
            }
            Err(RaftError::Fatal(_)) => Err(ReadError::Stopped),
        }
    }

    /// What this leader knows to be committed, whoever leads by now: no answer to give away.
    fn unconfirmed(&self) -> Result<ReadIndex, ReadError> {
        let committed = self.raft.data_metrics().borrow_watched().local_committed;
        let log_id = committed.ok_or_else(|| ReadError::NoQuorum("nothing is committed".into()))?;
        let leader = self.network.replica;
        Ok(ReadIndex { term: log_id.leader_id.term, leader, index: log_id.index })
    }

    async fn ask_leader(&self, leader: ReplicaId, node: NodeId) -> Result<ReadIndex, ReadError> {
        let address = self.network.address(leader, node);
        let wait = ROUND_MAX + self.timings.heartbeat;
        let asking = self.network.peers.read_index(&address, wait);
        let answer = timeout(wait, asking).await;
        let unreachable = |why: String| Err(ReadError::NoQuorum(why));
        let answer = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return unreachable(format!("leader: {error}")),
            Err(elapsed) => return unreachable(format!("leader: {elapsed}")),
        };
        if let Some(error) = answer.error {
            return match error.code() {
                ErrorCode::NotLeader => Err(ReadError::NotLeader { leader: None }),
                _ => unreachable(error.message),
            };
        }
        match answer.log_id {
            Some(log_id) => Ok(ReadIndex { term: log_id.term, leader, index: log_id.index }),
            None => unreachable("leader answered without a read index".into()),
        }
    }
}

/// What completed rounds prove: once the index a round found is applied here, everything
/// acknowledged before the round began is.
#[derive(Debug, Default)]
pub(crate) struct Proofs(Mutex<ProofState>);

#[derive(Debug, Default)]
struct ProofState {
    /// Found but not applied here yet, in the order the rounds began.
    pending: VecDeque<(u64, Duration)>,
    proven: Option<Duration>,
}

impl Proofs {
    fn add(&self, index: u64, began: Duration) {
        let mut state = self.0.lock();
        if state.pending.len() >= PROOFS_MAX {
            state.pending.pop_back();
        }
        state.pending.push_back((index, began));
    }

    /// The latest moment (monotonic) up to which everything acknowledged is applied here, given
    /// that the log is applied up to `applied`.
    pub(crate) fn proven(&self, applied: u64) -> Option<Duration> {
        let mut state = self.0.lock();
        while let Some(&(index, began)) = state.pending.front() {
            if index > applied {
                break;
            }
            state.proven = state.proven.max(Some(began));
            state.pending.pop_front();
        }
        state.proven
    }
}

/// Whether follower reads come, so that bounds are worth proving.
#[derive(Debug, Default)]
pub(crate) struct FollowerReads {
    /// Rung when they begin to come.
    pub(crate) begun: Notify,
    active: AtomicBool,
    last_nanos: AtomicU64,
}

impl FollowerReads {
    /// Notes one.
    pub(crate) fn note(&self, now: Duration) {
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        self.last_nanos.store(now, Ordering::Relaxed);
        if !self.active.load(Ordering::Acquire) && !self.active.swap(true, Ordering::AcqRel) {
            self.begun.notify_one();
        }
    }

    /// How long none came.
    pub(crate) fn idle_for(&self, now: Duration) -> Duration {
        now.saturating_sub(Duration::from_nanos(self.last_nanos.load(Ordering::Relaxed)))
    }

    /// Stops until the next one comes.
    pub(crate) fn pause(&self) {
        self.active.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn a_round_proves_nothing_before_its_index_is_applied() {
        let proofs = Proofs::default();
        proofs.add(5, seconds(10));
        proofs.add(8, seconds(11));
        assert_eq!(proofs.proven(4), None);
        assert_eq!(proofs.proven(5), Some(seconds(10)));
        assert_eq!(proofs.proven(7), Some(seconds(10)));
        assert_eq!(proofs.proven(9), Some(seconds(11)));
    }

    #[test]
    fn remembered_proofs_are_bounded_and_the_oldest_wins_its_place() {
        let proofs = Proofs::default();
        for i in 0..=PROOFS_MAX as u64 {
            proofs.add(i, seconds(i));
        }
        assert_eq!(proofs.proven(0), Some(seconds(0)));
        assert_eq!(proofs.proven(u64::MAX), Some(seconds(PROOFS_MAX as u64)));
    }
}
