//! Packs the commands that wait into Raft entries and hands their outcomes back.
//!
//! Every command that waits once the reactor has nothing else to do, or after a moment, goes into
//! one entry, and only a few entries are under way at once. So the batch grows by itself with the
//! load, and a single client never waits for company: there is no timer here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use holdfast_env::Clock;
use holdfast_kv::{Command, Envelope, Operation, Outcome, ReadPoint};
use holdfast_model::{RangeEpoch, Term};
use holdfast_runtime::{Deadline, sleep, timeout};
use openraft::Instant;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, ForwardToLeader};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::admission::{Admission, Permit};
use crate::error::ProposeError;
use crate::gather::gather;
use crate::leadership::Leadership;
use crate::options::{ENTRIES_IN_FLIGHT_MAX, ENTRY_BYTES_MAX, PROPOSALS_WAITING_MAX};
use crate::raft::Group;
use crate::raft::types::{Callback, Encoded, TypeConfig, WriteResult};

/// Most commands of one entry: what packing and apply do between two turns of the reactor.
const COMMANDS_PER_ENTRY_MAX: usize = 1_024;
/// The overload at which nothing that grows is accepted any more.
const OVERLOAD_MILLI: u32 = 1_000;
/// Longest a command waits for flushes and compactions that are behind, short of a refusal.
const PAUSE_MAX: Duration = Duration::from_millis(10);
/// How often commands that wait for room look whether this leader still has its lease.
const LEASE_LOOK_EVERY: Duration = Duration::from_millis(50);
/// What an overloaded client is asked to wait.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// A command that was carried out, on a quorum of journals and applied here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// One outcome per item of the command.
    pub outcomes: Vec<Outcome>,
    /// The read point of the batch it was applied in: a read at it or later sees the command.
    pub point: ReadPoint,
    /// Term of the entry it went in.
    pub term: Term,
    /// Epoch of the range then.
    pub epoch: RangeEpoch,
}

const WAITING: u8 = 0;
const PROPOSED: u8 = 1;
const WITHDRAWN: u8 = 2;

/// Settles who wins where a deadline passes while the proposer packs: a command is either packed
/// or withdrawn, never both.
#[derive(Debug, Default)]
struct Claim(AtomicU8);

impl Claim {
    fn propose(&self) -> bool {
        self.take(PROPOSED)
    }

    fn withdraw(&self) -> bool {
        self.take(WITHDRAWN)
    }

    fn take(&self, to: u8) -> bool {
        self.0.compare_exchange(WAITING, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// A command on its way into an entry.
pub(crate) struct Proposal {
    command: Bytes,
    claim: Arc<Claim>,
    answer: Answer,
}

/// Where the outcome goes, and what it holds of the budgets meanwhile.
struct Answer {
    sender: oneshot::Sender<Result<Committed, ProposeError>>,
    _permits: [Permit; 2],
}

/// The callers' side.
#[derive(Clone)]
pub(crate) struct Proposer {
    queue: mpsc::Sender<Proposal>,
    leadership: Arc<Leadership>,
    range_budget: Arc<Admission>,
    node_budget: Arc<Admission>,
    growth: Arc<Growth>,
}

impl Proposer {
    pub(crate) fn new(
        leadership: Arc<Leadership>,
        range_budget: Arc<Admission>,
        node_budget: Arc<Admission>,
        growth: Arc<Growth>,
    ) -> (Self, mpsc::Receiver<Proposal>) {
        let (queue, proposals) = mpsc::channel(PROPOSALS_WAITING_MAX);
        (Self { queue, leadership, range_budget, node_budget, growth }, proposals)
    }

    /// See [`Replica::propose`](crate::Replica::propose).
    pub(crate) async fn propose(
        &self,
        command: &Command,
        deadline: Deadline,
    ) -> Result<Committed, ProposeError> {
        if !self.leadership.is_leader() {
            return Err(ProposeError::NotLeader { leader: self.leadership.leader() });
        }
        match self.growth.check() {
            Ok(0) => {}
            found if grows(command) => self.slow_down(found, deadline).await?,
            _ => {}
        }
        let permits = self.admit(command.weight() as u64)?;
        let claim = Arc::new(Claim::default());
        let (sender, outcome) = oneshot::channel();
        let answer = Answer { sender, _permits: permits };
        let proposal = Proposal { command: command.to_bytes(), claim: claim.clone(), answer };
        self.queue.try_send(proposal).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => overloaded("waiting commands of the range"),
            mpsc::error::TrySendError::Closed(_) => ProposeError::Stopped,
        })?;
        match deadline.limit(outcome).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) if claim.withdraw() => Err(ProposeError::Stopped),
            Ok(Err(_)) => Err(ProposeError::Unknown("the replica stopped")),
            Err(_) if claim.withdraw() => Err(ProposeError::Deadline),
            Err(_) => Err(ProposeError::Unknown("the deadline passed while it was under way")),
        }
    }

    /// Lets a command that makes the data grow wait while flushes and compactions are behind, the
    /// longer the more they are: so writers come to the pace of the disk before they are refused.
    async fn slow_down(
        &self,
        found: Result<u32, NoGrowth>,
        deadline: Deadline,
    ) -> Result<(), ProposeError> {
        let overload = found.map_err(|why| match why {
            NoGrowth::Overrun => overloaded("flushes and compactions of the range"),
            NoGrowth::Full => ProposeError::DiskFull,
        })?;
        holdfast_env::sometimes!(WRITE_SLOWED);
        deadline.limit(sleep(pause(overload))).await.map_err(|_| ProposeError::Deadline)
    }

    /// Bytes of the range's commands under way.
    pub(crate) fn in_flight_bytes(&self) -> u64 {
        self.range_budget.used_bytes()
    }

    fn admit(&self, bytes: u64) -> Result<[Permit; 2], ProposeError> {
        let range = self.range_budget.try_acquire(bytes);
        let range = range.ok_or_else(|| overloaded(self.range_budget.name()))?;
        let node = self.node_budget.try_acquire(bytes);
        let node = node.ok_or_else(|| overloaded(self.node_budget.name()))?;
        Ok([range, node])
    }
}

/// Why commands that make data grow are not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoGrowth {
    /// Flushes and compactions are far behind; it passes.
    Overrun,
    /// The disk or the journal has no room.
    Full,
}

/// Whether commands that make data grow are accepted, looked up once per entry while they are: the
/// journal is asked under a lock that all ranges share.
pub(crate) struct Growth {
    look: Box<Look>,
    refused: AtomicBool,
    /// How far flushes and compactions were behind, in thousandths.
    overload_milli: AtomicU32,
}

type Look = dyn Fn() -> Result<u32, NoGrowth> + Send + Sync;

impl Growth {
    /// `look` tells how far flushes and compactions are behind; from 1,000 on nothing may grow.
    pub(crate) fn new(
        look: impl Fn() -> Result<u32, NoGrowth> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let (refused, overload_milli) = (AtomicBool::new(false), AtomicU32::new(0));
        Arc::new(Self { look: Box::new(look), refused, overload_milli })
    }

    /// What was found last; while that was a refusal, what is found now.
    fn check(&self) -> Result<u32, NoGrowth> {
        match self.refused.load(Ordering::Relaxed) {
            true => self.look_again(),
            false => Ok(self.overload_milli.load(Ordering::Relaxed)),
        }
    }

    fn look_again(&self) -> Result<u32, NoGrowth> {
        let found = (self.look)().and_then(|overload| match overload {
            OVERLOAD_MILLI.. => Err(NoGrowth::Overrun),
            less => Ok(less),
        });
        self.refused.store(found.is_err(), Ordering::Relaxed);
        self.overload_milli.store(found.unwrap_or(OVERLOAD_MILLI), Ordering::Relaxed);
        found
    }
}

/// How long a command waits at this overload: with its square, so that little is felt little.
fn pause(overload_milli: u32) -> Duration {
    let milli = overload_milli.min(OVERLOAD_MILLI);
    PAUSE_MAX * milli * milli / (OVERLOAD_MILLI * OVERLOAD_MILLI)
}

fn overloaded(budget: &'static str) -> ProposeError {
    ProposeError::Overloaded { budget, retry_after: RETRY_AFTER }
}

/// Whether a command may make the data grow. What frees space goes on where the disk is full.
fn grows(command: &Command) -> bool {
    let operation_grows = |operation: &Operation| match operation {
        Operation::Put(_)
        | Operation::Increment(_)
        | Operation::Txn(_)
        | Operation::LeaseGrant(_)
        | Operation::LockAcquire(_)
        | Operation::SessionOpen(_) => true,
        Operation::Etcd(txn) => txn.stores(),
        Operation::Delete(_)
        | Operation::DeleteRange(_)
        | Operation::Renew(_)
        | Operation::LeaseRevoke(_)
        | Operation::LockKeepAlive(_)
        | Operation::LockRelease(_)
        | Operation::SessionKeepAlive(_)
        | Operation::SessionClose(_)
        | Operation::Expire(_)
        | Operation::Compact(_)
        | Operation::Configure(_)
        | Operation::EtcdAuth(_)
        | Operation::EtcdAlarm(_)
        | Operation::Noop(()) => false,
    };
    command.items.iter().filter_map(|item| item.operation.as_ref()).any(operation_grows)
}

/// Entries under way, and somebody who waits for there to be fewer.
#[derive(Debug, Default)]
struct Flight {
    entries: AtomicUsize,
    landed: Notify,
}

impl Flight {
    fn is_full(&self) -> bool {
        self.entries.load(Ordering::Acquire) >= ENTRIES_IN_FLIGHT_MAX
    }

    fn take_off(self: &Arc<Self>) -> Airborne {
        self.entries.fetch_add(1, Ordering::AcqRel);
        Airborne(self.clone())
    }
}

/// One entry under way; landed when dropped, also where openraft drops the callback.
struct Airborne(Arc<Flight>);

impl Drop for Airborne {
    fn drop(&mut self) {
        self.0.entries.fetch_sub(1, Ordering::AcqRel);
        self.0.landed.notify_one();
    }
}

/// The proposer's own side: one task of the replica.
pub(crate) struct Packer {
    proposals: mpsc::Receiver<Proposal>,
    /// Taken out of the queue, but did not fit into the last entry.
    carried: Option<Proposal>,
    raft: Group,
    leadership: Arc<Leadership>,
    growth: Arc<Growth>,
    flight: Arc<Flight>,
    /// How long a leader that no quorum answers has its writes accepted by openraft.
    lease: Duration,
    clock: Arc<dyn Clock>,
    /// Reused between entries.
    commands: Vec<Bytes>,
}

impl Packer {
    pub(crate) fn new(
        proposals: mpsc::Receiver<Proposal>,
        raft: Group,
        proposer: &Proposer,
        lease: Duration,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let (leadership, growth) = (proposer.leadership.clone(), proposer.growth.clone());
        let (flight, commands) = (Arc::default(), Vec::new());
        let carried = None;
        Self { proposals, carried, raft, leadership, growth, flight, lease, clock, commands }
    }

    /// Packs and proposes until the replica stops.
    pub(crate) async fn run(mut self) {
        loop {
            let first = match self.carried.take() {
                Some(proposal) => proposal,
                None => match self.proposals.recv().await {
                    Some(proposal) => proposal,
                    None => return,
                },
            };
            if !self.has_room().await {
                let leader = self.leadership.leader().filter(|_| !self.leadership.is_leader());
                answer_all(vec![first.answer], &ProposeError::NotLeader { leader });
                continue;
            }
            gather(&*self.clock).await;
            let answers = self.pack(first);
            if !answers.is_empty() {
                self.propose(answers).await;
            }
        }
    }

    /// Waits for room for another entry. False where there may never be any: entries of a leader
    /// that was cut off stay under way until it is heard of again, and what waits behind them must
    /// not, because another leader would take it.
    async fn has_room(&self) -> bool {
        while self.flight.is_full() {
            if !self.may_commit() {
                return false;
            }
            // Early or late, the loop looks again.
            let _ = timeout(LEASE_LOOK_EVERY, self.flight.landed.notified()).await;
        }
        true
    }

    /// Whether openraft would take an entry now: this replica leads, and its lease lasts.
    fn may_commit(&self) -> bool {
        if !self.leadership.is_leader() || self.leadership.is_only_voter() {
            return self.leadership.is_leader();
        }
        let metrics = self.raft.data_metrics();
        let acked = metrics.borrow_watched().last_quorum_acked;
        acked.is_some_and(|at| at.into_inner().elapsed() < self.lease)
    }

    /// Takes `first` and what waits behind it, as far as one entry holds.
    fn pack(&mut self, first: Proposal) -> Vec<Answer> {
        let mut answers = Vec::new();
        let mut bytes = 0;
        let mut next = Some(first);
        self.commands.clear();
        while let Some(proposal) = next {
            if bytes > 0 && bytes + proposal.command.len() > ENTRY_BYTES_MAX {
                self.carried = Some(proposal);
                break;
            }
            if proposal.claim.propose() {
                bytes += proposal.command.len();
                self.commands.push(proposal.command);
                answers.push(proposal.answer);
            }
            if answers.len() >= COMMANDS_PER_ENTRY_MAX {
                break;
            }
            next = self.proposals.try_recv().ok();
        }
        answers
    }

    async fn propose(&mut self, answers: Vec<Answer>) {
        let Some(stamp_ms) = self.leadership.stamp_ms() else {
            let leader = self.leadership.leader();
            return answer_all(answers, &ProposeError::NotLeader { leader });
        };
        // For the commands that come next; these were let in.
        let _ = self.growth.look_again();
        let envelope = Encoded(Envelope::pack(stamp_ms, &self.commands));
        let airborne = self.flight.take_off();
        let callback = Callback::new(move |result: WriteResult| {
            drop(airborne);
            distribute(answers, result);
        });
        // Where openraft has stopped it drops the callback, and with it all who wait: unknown.
        let _ = self.raft.client_write_ff(envelope, Some(callback)).await;
    }
}

/// Hands the outcomes of an entry to those who wait for them.
fn distribute(answers: Vec<Answer>, result: WriteResult) {
    let response = match result {
        Ok(response) => response,
        Err(error) => return answer_all(answers, &propose_error(&error)),
    };
    let applied = response.data;
    let term = Term(response.log_id.leader_id.term);
    assert_eq!(answers.len(), applied.outcomes.len(), "one outcome per command");
    for (answer, outcomes) in answers.into_iter().zip(applied.outcomes) {
        let epoch = RangeEpoch(applied.epoch);
        let committed = Committed { outcomes, point: applied.point, term, epoch };
        // A caller that has gone no longer wants to know.
        let _ = answer.sender.send(Ok(committed));
    }
}

fn answer_all(answers: Vec<Answer>, error: &ProposeError) {
    for answer in answers {
        let _ = answer.sender.send(Err(error.clone()));
    }
}

fn propose_error(error: &ClientWriteError<TypeConfig>) -> ProposeError {
    match error {
        ClientWriteError::ForwardToLeader(forward) => {
            ProposeError::NotLeader { leader: leader_of(forward) }
        }
        ClientWriteError::LogEntryDiscarded(_) => {
            ProposeError::Unknown("leadership was lost while it was under way")
        }
        ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_) => {
            ProposeError::Unknown("openraft answered for a membership")
        }
    }
}

/// Whom openraft points to.
pub(crate) fn leader_of(
    forward: &ForwardToLeader<TypeConfig>,
) -> Option<(holdfast_model::ReplicaId, holdfast_model::NodeId)> {
    forward.leader_id.zip(forward.leader_node.map(|host| host.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_proposed_or_withdrawn_but_never_both() {
        let claim = Claim::default();
        assert!(claim.propose());
        assert!(!claim.withdraw());
        let claim = Claim::default();
        assert!(claim.withdraw());
        assert!(!claim.propose());
    }

    #[test]
    fn growth_is_refused_from_the_next_entry_on_and_accepted_as_soon_as_there_is_space() {
        let full = Arc::new(AtomicBool::new(false));
        let disk = full.clone();
        let look = move || match disk.load(Ordering::Relaxed) {
            true => Err(NoGrowth::Full),
            false => Ok(0),
        };
        let growth = Growth::new(look);
        full.store(true, Ordering::Relaxed);
        assert_eq!(growth.check(), Ok(0), "nobody has looked since");
        assert_eq!(growth.look_again(), Err(NoGrowth::Full));
        assert_eq!(growth.check(), Err(NoGrowth::Full));
        full.store(false, Ordering::Relaxed);
        assert_eq!(growth.check(), Ok(0));
    }

    #[test]
    fn writers_slow_down_evenly_before_they_are_refused() {
        let overload = Arc::new(AtomicU32::new(0));
        let engine = overload.clone();
        let growth = Growth::new(move || Ok(engine.load(Ordering::Relaxed)));
        let mut pauses = Vec::new();
        for milli in (0..1_000).step_by(100) {
            overload.store(milli, Ordering::Relaxed);
            let _ = growth.look_again();
            pauses.push(pause(growth.check().unwrap()));
        }
        assert_eq!(pauses[0], Duration::ZERO);
        assert!(pauses.is_sorted() && pauses[1] > Duration::ZERO && pauses[9] < PAUSE_MAX);
        let steps = pauses.windows(2).map(|pair| pair[1] - pair[0]);
        assert!(steps.max().unwrap() <= PAUSE_MAX / 5, "no step is a cliff: {pauses:?}");
        overload.store(1_000, Ordering::Relaxed);
        assert_eq!(growth.look_again(), Err(NoGrowth::Overrun));
        assert_eq!(growth.check(), Err(NoGrowth::Overrun));
        overload.store(500, Ordering::Relaxed);
        assert_eq!(growth.check(), Ok(500), "a refusal is looked at again");
    }

    #[test]
    fn what_frees_space_is_not_refused_on_a_full_disk() {
        assert!(grows(&Command::single(holdfast_kv::command::Put::default())));
        assert!(!grows(&Command::single(holdfast_kv::command::Delete::default())));
        let mixed =
            [Operation::Delete(Default::default()), Operation::Increment(Default::default())];
        assert!(grows(&Command::batch(mixed)));
    }
}
