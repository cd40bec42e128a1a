//! Reads at every level: what they wait for, what they may claim.

use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_env::defect;
use holdfast_kv::{ReadPoint, Reader};
use holdfast_model::{RangeEpoch, Revision, Term};
use holdfast_runtime::{Deadline, sleep};

use crate::error::ReadError;
use crate::reads::{ReadIndex, Rounds};
use crate::replica::Replica;

/// Pause before a round is tried again that found no leader or no quorum.
const ROUND_RETRY: Duration = Duration::from_millis(20);
/// How long a follower read that needs a better bound waits for one at most: a failover is over by
/// then, and whoever asks may do better elsewhere.
const PROOF_MAX: Duration = Duration::from_millis(1_500);
/// A proven bound is enlarged by this much, percent: enough for a clock that runs a tenth slow,
/// and so shows an age of which a ninth is missing.
const BOUND_MARGIN_PERCENT: u32 = 12;

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReadLevel {
    /// Linearizable without any assumption about clocks; on the leader or a follower.
    #[default]
    Linearizable,
    /// Linearizable while clock rates differ by less than 10 %; without a round on the leader,
    /// as [`ReadLevel::Linearizable`] on a follower.
    Lease,
    /// A prefix of history, with a bound on its age; anywhere.
    Follower,
}

/// What a read asks for.
#[derive(Clone, Copy, Debug)]
pub struct ReadRequest {
    /// How fresh it must be.
    pub level: ReadLevel,
    /// The oldest answer that will do, at [`ReadLevel::Follower`]; `None`: any age.
    pub max_staleness: Option<Duration>,
    /// A read point (revision, range clock) the answer must have reached, at any level.
    pub min_point: Option<(Revision, u64)>,
    /// When to give up.
    pub deadline: Deadline,
}

impl ReadRequest {
    /// A read at `level` without further conditions.
    pub fn new(level: ReadLevel, deadline: Deadline) -> Self {
        Self { level, max_staleness: None, min_point: None, deadline }
    }
}

/// How old an answer may be at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Everything acknowledged longer ago than this is in the answer.
    pub bound: Duration,
    /// The bound rests on wall clocks that agree, not on a round: nothing better is known yet.
    pub clock_based: bool,
}

/// Leave to read now.
///
/// Read from `reader` at its current state; check the span there (`Reader` does for keys).
#[derive(Clone)]
pub struct ReadView {
    /// The applied state.
    pub reader: Reader,
    /// A read point that fulfils the request; what `reader` shows is this or newer.
    pub point: ReadPoint,
    /// How old the answer may be, at [`ReadLevel::Follower`].
    pub staleness: Option<Bound>,
    /// The term this replica was in.
    pub term: Term,
    /// The range's epoch.
    pub epoch: RangeEpoch,
}

impl Replica {
    /// Waits until a read at the level asked for may be answered from here.
    ///
    /// Cost: at most one quorum round, shared with all reads that wait (linearizable); a message
    /// within the process (lease, while the lease is fresh); nothing (follower). No lock is taken
    /// and nothing is copied but the view.
    ///
    /// # Errors
    /// [`ReadError`]. Linearizable and lease reads wait for a leader and a quorum until the
    /// deadline.
    pub async fn read(&self, request: &ReadRequest) -> Result<ReadView, ReadError> {
        self.inner.check_health_of_read()?;
        let (term, staleness) = match request.level {
            ReadLevel::Linearizable => {
                let found = self.by_round(&self.inner.rounds, false, request).await?;
                (Term(found.term), None)
            }
            ReadLevel::Lease => {
                let found = self.by_lease(request).await?;
                (Term(found.term), None)
            }
            ReadLevel::Follower => {
                let bound = self.within_staleness(request).await?;
                (self.inner.leadership.info().term, Some(bound))
            }
        };
        let point = self.reach(request).await?;
        self.inner.check_health_of_read()?;
        let epoch = RangeEpoch(self.inner.progress.epoch.load(Ordering::Acquire));
        Ok(ReadView { reader: self.inner.reader.clone(), point, staleness, term, epoch })
    }

    /// A lease round on the leader. Only the leader has a lease: elsewhere, and where leadership
    /// is lost meanwhile, a quorum round takes its place, which proves more.
    async fn by_lease(&self, request: &ReadRequest) -> Result<ReadIndex, ReadError> {
        if self.inner.leadership.is_leader() {
            match self.by_round(&self.inner.lease_rounds, true, request).await {
                Err(ReadError::NotLeader { .. }) => {}
                settled => return settled,
            }
        }
        self.by_round(&self.inner.rounds, false, request).await
    }

    /// Joins rounds until one succeeds and what it found is applied here.
    async fn by_round(
        &self,
        rounds: &Rounds,
        by_lease: bool,
        request: &ReadRequest,
    ) -> Result<ReadIndex, ReadError> {
        let deadline = request.deadline;
        let mut last = ReadError::Deadline;
        loop {
            match deadline.limit(rounds.join()).await {
                Ok(Ok(found)) => {
                    self.applied(found.index, deadline).await?;
                    return Ok(found);
                }
                Ok(Err(error)) if is_final(&error, by_lease) => return Err(error),
                Ok(Err(error)) => last = unsettled(error),
                Err(_) => return Err(last),
            }
            if deadline.remaining() <= ROUND_RETRY {
                return Err(last);
            }
            sleep(ROUND_RETRY).await;
        }
    }

    /// Waits until the log is applied up to `index`.
    async fn applied(&self, index: u64, deadline: Deadline) -> Result<(), ReadError> {
        let applied = &self.inner.progress.applied;
        if *applied.borrow() >= index || defect!(FOLLOWER_READ_BEFORE_APPLY) {
            return Ok(());
        }
        let mut applied = applied.subscribe();
        let waited = deadline.limit(applied.wait_for(|applied| *applied >= index)).await;
        match waited {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ReadError::Stopped),
            Err(_) => Err(self.behind()),
        }
    }

    /// Waits until the read point of a token is reached.
    async fn reach(&self, request: &ReadRequest) -> Result<ReadPoint, ReadError> {
        let point = self.inner.reader.point();
        let Some((revision, clock_ms)) = request.min_point else { return Ok(point) };
        let reached = |point: ReadPoint| point.revision >= revision && point.clock_ms >= clock_ms;
        if reached(point) || defect!(TOKEN_NOT_AWAITED) {
            return Ok(point);
        }
        let mut applied = self.inner.progress.applied.subscribe();
        let reader = &self.inner.reader;
        let waited = request.deadline.limit(applied.wait_for(|_| reached(reader.point()))).await;
        match waited {
            Ok(Ok(_)) => Ok(reader.point()),
            Ok(Err(_)) => Err(ReadError::Stopped),
            Err(_) => Err(self.behind()),
        }
    }

    fn behind(&self) -> ReadError {
        let point = self.inner.reader.point();
        ReadError::Behind { revision: point.revision, index: point.index }
    }

    /// The bound of a follower read. Where the request needs a better one than is known, it is
    /// proven anew, by a round that all such reads share.
    async fn within_staleness(&self, request: &ReadRequest) -> Result<Bound, ReadError> {
        self.inner.follower_reads.note(self.inner.clock.monotonic());
        let bound = self.bound();
        let Some(max) = request.max_staleness else { return Ok(bound) };
        if bound.bound <= max {
            return Ok(bound);
        }
        let deadline = Deadline::after(PROOF_MAX.min(request.deadline.remaining()));
        let probe = ReadRequest { deadline, ..*request };
        let probed = self.by_round(&self.inner.rounds, false, &probe).await;
        let bound = self.bound();
        match (bound.bound <= max, probed) {
            (true, _) => Ok(bound),
            (false, Err(error @ (ReadError::Stopped | ReadError::Overloaded))) => Err(error),
            (false, _) => Err(ReadError::TooStale { bound: Some(bound.bound) }),
        }
    }

    /// How old the applied state may be, as far as this replica can tell.
    fn bound(&self) -> Bound {
        let inner = &self.inner;
        let applied = *inner.progress.applied.borrow();
        if let Some(proven) = inner.proofs.proven(applied) {
            let age = inner.clock.monotonic().saturating_sub(proven);
            return Bound { bound: enlarged(age), clock_based: false };
        }
        let stamp = Duration::from_millis(inner.reader.point().clock_ms);
        let age = inner.clock.wall().saturating_sub(stamp);
        Bound { bound: age + inner.options.timings.clock_offset_max, clock_based: true }
    }
}

/// How long ago something may have been that this node's clock shows to be `age` old.
fn enlarged(age: Duration) -> Duration {
    age * (100 + BOUND_MARGIN_PERCENT) / 100
}

/// Whether waiting for another round would not help.
fn is_final(error: &ReadError, by_lease: bool) -> bool {
    match error {
        ReadError::NotLeader { .. } => by_lease,
        ReadError::NoQuorum(_) => false,
        _ => true,
    }
}

/// What a linearizable read says if it finds nothing better until its deadline.
fn unsettled(error: ReadError) -> ReadError {
    match error {
        ReadError::NotLeader { leader: None } => ReadError::NoQuorum("no leader is known".into()),
        ReadError::NotLeader { leader: Some((replica, node)) } => {
            ReadError::NoQuorum(format!("leader {replica} on {node} does not answer"))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_holds_where_the_clock_that_shows_it_runs_a_tenth_slow() {
        let shown = Duration::from_secs(9);
        assert!(enlarged(shown) >= Duration::from_secs(10));
    }
}
