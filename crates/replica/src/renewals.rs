//! Renewals of leases: collected into entries, or answered from what the log holds already.
//!
//! Owns: the collector of renewals, and which of them need no entry.
//! Invariants:
//! * No answer promises more time than the log holds: a new leader, which knows nothing but the
//!   log, neither expires a lease early nor starts its time anew.
//! * What is answered without an entry is what a quorum's leader has applied: a deposed one
//!   answers nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_env::defect;
use holdfast_kv::command::Renew;
use holdfast_kv::{Command, LeaseInfo, Operation, Outcome, RENEW_LEASES_MAX, ReadPoint, Renewal};
use holdfast_lsm::Cached;
use holdfast_model::{LeaseId, RangeEpoch, Term};
use holdfast_runtime::{Deadline, sleep};
use tokio::sync::{mpsc, oneshot};

use crate::error::ProposeError;
use crate::replica::{Inner, Replica};

/// How long renewals are collected into one entry.
const COLLECT: Duration = Duration::from_millis(100);
/// Renewals that may wait, per range.
pub(crate) const RENEWALS_WAITING_MAX: usize = 10_000;
/// Time a proposal of renewals may take.
const PROPOSAL_MAX: Duration = Duration::from_secs(5);
/// A lease that was renewed by the log less than this part of its time ago is not renewed again:
/// who asks is told what is left.
const FRESH_TTL_DIVISOR: u64 = 10;
/// And at most this long ago, milliseconds, so that a long lease does not lose minutes.
const FRESH_MS_MAX: u64 = 500;

/// While an entry is being collected only this part of that time counts, so that leases renewed at
/// different times come to share entries.
const FRESH_DIVISOR_COLLECTING: u64 = 2;

/// Leases that were renewed, as the log holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewed {
    /// One for each lease asked for, in order. What is left of it now is `expires_at_ms` less the
    /// clock of `point`.
    pub renewals: Vec<Renewal>,
    /// The read point of the answer.
    pub point: ReadPoint,
    /// The leader's term.
    pub term: Term,
    /// The range's epoch.
    pub epoch: RangeEpoch,
}

/// Renewals of one caller.
pub(crate) struct Renewing {
    leases: Vec<LeaseId>,
    answer: oneshot::Sender<Result<Renewed, ProposeError>>,
}

impl Replica {
    /// Renews leases, together with whoever else renews within a tenth of a second.
    ///
    /// Leases that an entry has just renewed cost none: while a quorum has answered this leader
    /// within its lease, the answer is the time that is left of them.
    ///
    /// # Errors
    /// As [`Replica::propose`].
    pub async fn renew(
        &self,
        leases: Vec<LeaseId>,
        deadline: Deadline,
    ) -> Result<Renewed, ProposeError> {
        let inner = &self.inner;
        if !inner.health.is_good() {
            return Err(ProposeError::Stopped);
        }
        if !inner.leadership.is_leader() {
            return Err(ProposeError::NotLeader { leader: inner.leadership.leader() });
        }
        if let Some(fresh) = inner.renewed_lately(&leases, deadline).await {
            return Ok(fresh);
        }
        let (answer, renewed) = oneshot::channel();
        inner.renewals.try_send(Renewing { leases, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ProposeError::Overloaded {
                budget: "waiting renewals of the range",
                retry_after: COLLECT,
            },
            mpsc::error::TrySendError::Closed(_) => ProposeError::Stopped,
        })?;
        match deadline.limit(renewed).await {
            Ok(Ok(renewed)) => renewed,
            Ok(Err(_)) => Err(ProposeError::Unknown("the replica stopped")),
            Err(_) => Err(ProposeError::Unknown("the deadline passed while it was under way")),
        }
    }
}

impl Inner {
    /// The leases as the log has just renewed them, if it has all of them and this replica leads
    /// for certain.
    async fn renewed_lately(&self, leases: &[LeaseId], deadline: Deadline) -> Option<Renewed> {
        // Nothing is asked of anybody before it is known that it may be worth it.
        self.fresh(leases)?;
        let found = deadline.limit(self.lease_rounds.join()).await.ok()?.ok()?;
        // Otherwise what was found is applied a little later; an entry takes as long.
        if *self.progress.applied.borrow() < found.index {
            return None;
        }
        let (renewals, point) = self.fresh(leases)?;
        let epoch = RangeEpoch(self.progress.epoch.load(Ordering::Acquire));
        Some(Renewed { renewals, point, term: Term(found.term), epoch })
    }

    /// The leases as they are applied here, if all of them were renewed a moment ago. Never waits
    /// for a disk.
    fn fresh(&self, leases: &[LeaseId]) -> Option<(Vec<Renewal>, ReadPoint)> {
        let point = self.reader.point();
        let now_ms = self.leadership.stamp_ms()?;
        let is_collecting = self.renewals_collecting.load(Ordering::Relaxed);
        let divisor = if is_collecting { FRESH_DIVISOR_COLLECTING } else { 1 };
        let renewal = |id: &LeaseId| match self.reader.lease_cached(*id) {
            Ok(Cached::Answer(Some(lease))) => renewal(&lease, now_ms, point.clock_ms, divisor),
            // What is cold was not renewed a moment ago; what is not there is told by an entry.
            Ok(_) | Err(_) => None,
        };
        let renewals = leases.iter().map(renewal).collect::<Option<Vec<_>>>()?;
        (!renewals.is_empty()).then_some((renewals, point))
    }
}

/// What may be promised of `lease` at range time `now_ms` without renewing it, told against the
/// clock `applied_ms` of the read point; `None` where an entry is due. `divisor` shortens the time
/// for which none is.
fn renewal(lease: &LeaseInfo, now_ms: u64, applied_ms: u64, divisor: u64) -> Option<Renewal> {
    let left_ms = lease.expires_at_ms.checked_sub(now_ms).filter(|left_ms| *left_ms > 0)?;
    let age_ms = lease.ttl_ms.saturating_sub(left_ms);
    let is_fresh = age_ms <= (lease.ttl_ms / FRESH_TTL_DIVISOR).min(FRESH_MS_MAX) / divisor;
    // Range time has gone on since the read point: what is left counts from now.
    let left_ms = if defect!(RENEWAL_BEYOND_LOG) { lease.ttl_ms } else { left_ms };
    let expires_at_ms = applied_ms.min(now_ms).saturating_add(left_ms);
    is_fresh.then_some(Renewal { id: lease.id, ttl_ms: lease.ttl_ms, expires_at_ms })
}

/// Collects renewals into one entry each tenth of a second: one task of the replica.
pub(crate) async fn collect(inner: Arc<Inner>, mut waiting: mpsc::Receiver<Renewing>) {
    let mut carried = None;
    loop {
        let first = match carried.take() {
            Some(renewing) => renewing,
            None => match waiting.recv().await {
                Some(renewing) => renewing,
                None => return,
            },
        };
        inner.renewals_collecting.store(true, Ordering::Relaxed);
        sleep(COLLECT).await;
        inner.renewals_collecting.store(false, Ordering::Relaxed);
        let (mut count, mut batch) = (first.leases.len(), vec![first]);
        while let Ok(next) = waiting.try_recv() {
            count += next.leases.len();
            if count > RENEW_LEASES_MAX {
                carried = Some(next);
                break;
            }
            batch.push(next);
        }
        renew_batch(&inner, batch).await;
    }
}

async fn renew_batch(inner: &Inner, batch: Vec<Renewing>) {
    let leases = batch.iter().flat_map(|r| r.leases.iter().map(|lease| lease.0)).collect();
    let command = Command::single(Operation::Renew(Renew { leases }));
    let proposed = inner.proposer.propose(&command, Deadline::after(PROPOSAL_MAX)).await;
    let renewed = proposed.and_then(|committed| {
        let (point, term, epoch) = (committed.point, committed.term, committed.epoch);
        match committed.outcomes.into_iter().next() {
            Some(Outcome::Renewed(renewals)) => Ok(Renewed { renewals, point, term, epoch }),
            _ => Err(ProposeError::Unknown("the range did not answer a renewal as one")),
        }
    });
    let mut told = 0;
    for Renewing { leases, answer } in batch {
        let part = renewed.as_ref().map_err(Clone::clone).map(|all| {
            let renewals = all.renewals.iter().skip(told).take(leases.len()).copied().collect();
            Renewed { renewals, ..*all }
        });
        told += leases.len();
        // A caller that has gone no longer wants to know.
        let _ = answer.send(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(ttl_ms: u64, expires_at_ms: u64) -> LeaseInfo {
        LeaseInfo { id: LeaseId(1), ttl_ms, expires_at_ms, attached: 0 }
    }

    #[test]
    fn what_is_left_is_never_more_than_the_log_holds_whatever_the_applied_clock() {
        for applied_ms in [900, 1_000, 1_050, 2_000] {
            let renewal = renewal(&lease(1_000, 2_000), 1_050, applied_ms, 1).unwrap();
            assert!(renewal.expires_at_ms - applied_ms.min(1_050) == 950);
            assert!(renewal.expires_at_ms <= 2_000);
        }
    }

    #[test]
    fn a_lease_is_fresh_for_a_tenth_of_its_time_and_half_a_second_at_most() {
        let is_fresh = |ttl_ms, age_ms: u64| {
            let granted_ms = 10_000;
            let lease = lease(ttl_ms, granted_ms + ttl_ms);
            let now_ms = granted_ms + age_ms;
            renewal(&lease, now_ms, now_ms, 1).is_some()
        };
        assert!(is_fresh(1_000, 100) && !is_fresh(1_000, 101));
        assert!(is_fresh(60_000, 500) && !is_fresh(60_000, 501));
        assert!(!is_fresh(1_000, 1_000) && !is_fresh(1_000, 5_000), "it may have expired");
        let is_fresh_enough = |age_ms| renewal(&lease(60_000, 60_000), age_ms, 0, 2).is_some();
        assert!(is_fresh_enough(250) && !is_fresh_enough(251), "others are being collected");
    }
}
