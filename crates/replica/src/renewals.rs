//! Renewals of leases: collected into entries, or answered from what the log holds already.
//!
//! A lease that was renewed a moment ago is answered at once. Before that moment is over it is
//! renewed behind the answer, so that who renews without pause waits for nobody.
//!
//! Owns: the collector of renewals, and which of them need no entry.
//! Invariants:
//! * No answer promises more time than the log holds: a new leader, which knows nothing but the
//!   log, neither expires a lease early nor starts its time anew.
//! * What is answered without an entry is what a quorum's leader has applied: a deposed one
//!   answers nothing.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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
const RENEWALS_WAITING_MAX: usize = 10_000;
/// Time a proposal of renewals may take.
const PROPOSAL_MAX: Duration = Duration::from_secs(5);
/// A lease that was renewed by the log less than this part of its time ago is not renewed again:
/// who asks is told what is left.
const FRESH_TTL_DIVISOR: u64 = 10;
/// And at most this long ago, milliseconds, so that a long lease does not lose minutes.
const FRESH_MS_MAX: u64 = 500;

/// Who asks for a lease after this part of that time, in percent, has it renewed behind the answer:
/// the entry is there before the time is over.
const BEHIND_PERCENT: u64 = 70;
/// The same while an entry is being collected, so that leases renewed at different times come to
/// share entries.
const BEHIND_PERCENT_COLLECTING: u64 = 35;

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
    /// None where the caller has its answer.
    answer: Option<oneshot::Sender<Result<Renewed, ProposeError>>>,
}

/// The renewals of a range that are under way.
pub(crate) struct Renewals {
    waiting: mpsc::Sender<Renewing>,
    /// Whether an entry is being collected.
    is_collecting: AtomicBool,
    /// Leases that wait behind an answer, once each. Held for moments.
    behind: Mutex<BTreeSet<LeaseId>>,
}

impl Renewals {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Renewing>) {
        let (waiting, received) = mpsc::channel(RENEWALS_WAITING_MAX);
        let is_collecting = AtomicBool::new(false);
        (Self { waiting, is_collecting, behind: Mutex::default() }, received)
    }

    /// Renews leases whose callers have their answers. Where no room is left they are renewed when
    /// they are asked for again.
    fn renew_behind(&self, mut leases: Vec<LeaseId>) {
        if leases.is_empty() {
            return;
        }
        let mut behind = self.behind.lock().unwrap_or_else(PoisonError::into_inner);
        leases.retain(|lease| !behind.contains(lease));
        if leases.is_empty() {
            return;
        }
        let renewing = Renewing { leases: leases.clone(), answer: None };
        if self.waiting.try_send(renewing).is_ok() {
            behind.extend(leases);
        }
    }

    /// An attempt at the leases of `batch` is over, whatever came of it.
    fn attempted(&self, batch: &[Renewing]) {
        let mut behind = self.behind.lock().unwrap_or_else(PoisonError::into_inner);
        for renewing in batch.iter().filter(|renewing| renewing.answer.is_none()) {
            for lease in &renewing.leases {
                behind.remove(lease);
            }
        }
    }
}

/// Leases that need no entry before they are answered.
struct Fresh {
    renewals: Vec<Renewal>,
    /// Those among them that one should come for.
    due: Vec<LeaseId>,
    point: ReadPoint,
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
        let renewing = Renewing { leases, answer: Some(answer) };
        inner.renewals.waiting.try_send(renewing).map_err(|error| match error {
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
        let Fresh { renewals, due, point } = self.fresh(leases)?;
        self.renewals.renew_behind(due);
        let epoch = RangeEpoch(self.progress.epoch.load(Ordering::Acquire));
        Some(Renewed { renewals, point, term: Term(found.term), epoch })
    }

    /// The leases as they are applied here, if all of them were renewed a moment ago. Never waits
    /// for a disk.
    fn fresh(&self, leases: &[LeaseId]) -> Option<Fresh> {
        let point = self.reader.point();
        let now_ms = self.leadership.stamp_ms()?;
        let is_collecting = self.renewals.is_collecting.load(Ordering::Relaxed);
        let (mut renewals, mut due) = (Vec::with_capacity(leases.len()), Vec::new());
        for id in leases {
            // What is cold was not renewed a moment ago; what is not there is told by an entry.
            let Ok(Cached::Answer(Some(lease))) = self.reader.lease_cached(*id) else {
                return None;
            };
            let age = Age::of(&lease, now_ms)?;
            renewals.push(age.renewal(&lease, now_ms, point.clock_ms)?);
            if age.is_due(is_collecting) {
                due.push(*id);
            }
        }
        (!renewals.is_empty()).then_some(Fresh { renewals, due, point })
    }
}

/// How long ago the log renewed a lease that lives.
#[derive(Clone, Copy)]
struct Age {
    /// Milliseconds.
    age_ms: u64,
    /// Until when it needs no entry, milliseconds of age.
    fresh_ms: u64,
}

impl Age {
    /// At range time `now_ms`; `None` where the lease may have expired.
    fn of(lease: &LeaseInfo, now_ms: u64) -> Option<Self> {
        let left_ms = lease.expires_at_ms.checked_sub(now_ms).filter(|left_ms| *left_ms > 0)?;
        let age_ms = lease.ttl_ms.saturating_sub(left_ms);
        Some(Self { age_ms, fresh_ms: (lease.ttl_ms / FRESH_TTL_DIVISOR).min(FRESH_MS_MAX) })
    }

    /// What may be promised of the lease without renewing it, told against the clock `applied_ms`
    /// of the read point; `None` where an entry has to come first.
    fn renewal(self, lease: &LeaseInfo, now_ms: u64, applied_ms: u64) -> Option<Renewal> {
        let left_ms = lease.expires_at_ms.saturating_sub(now_ms);
        // Range time has gone on since the read point: what is left counts from now.
        let left_ms = if defect!(RENEWAL_BEYOND_LOG) { lease.ttl_ms } else { left_ms };
        let expires_at_ms = applied_ms.min(now_ms).saturating_add(left_ms);
        let renewal = Renewal { id: lease.id, ttl_ms: lease.ttl_ms, expires_at_ms };
        (self.age_ms <= self.fresh_ms).then_some(renewal)
    }

    /// Whether an entry should come soon.
    fn is_due(self, is_collecting: bool) -> bool {
        let percent = if is_collecting { BEHIND_PERCENT_COLLECTING } else { BEHIND_PERCENT };
        self.age_ms > self.fresh_ms * percent / 100
    }
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
        inner.renewals.is_collecting.store(true, Ordering::Relaxed);
        sleep(COLLECT).await;
        inner.renewals.is_collecting.store(false, Ordering::Relaxed);
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
    inner.renewals.attempted(&batch);
    let mut told = 0;
    for Renewing { leases, answer } in batch {
        let part = renewed.as_ref().map_err(Clone::clone).map(|all| {
            let renewals = all.renewals.iter().skip(told).take(leases.len()).copied().collect();
            Renewed { renewals, ..*all }
        });
        told += leases.len();
        if let Some(answer) = answer {
            // A caller that has gone no longer wants to know.
            let _ = answer.send(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(ttl_ms: u64, expires_at_ms: u64) -> LeaseInfo {
        LeaseInfo { id: LeaseId(1), ttl_ms, expires_at_ms, attached: 0 }
    }

    /// What is answered at range time `now_ms` without an entry.
    fn at_once(lease: &LeaseInfo, now_ms: u64, applied_ms: u64) -> Option<Renewal> {
        Age::of(lease, now_ms)?.renewal(lease, now_ms, applied_ms)
    }

    #[test]
    fn what_is_left_is_never_more_than_the_log_holds_whatever_the_applied_clock() {
        for applied_ms in [900, 1_000, 1_050, 2_000] {
            let renewal = at_once(&lease(1_000, 2_000), 1_050, applied_ms).unwrap();
            assert!(renewal.expires_at_ms - applied_ms.min(1_050) == 950);
            assert!(renewal.expires_at_ms <= 2_000);
        }
    }

    #[test]
    fn a_lease_is_fresh_for_a_tenth_of_its_time_and_half_a_second_at_most() {
        let is_fresh = |ttl_ms, age_ms: u64| {
            let granted_ms = 10_000;
            let now_ms = granted_ms + age_ms;
            at_once(&lease(ttl_ms, granted_ms + ttl_ms), now_ms, now_ms).is_some()
        };
        assert!(is_fresh(1_000, 100) && !is_fresh(1_000, 101));
        assert!(is_fresh(60_000, 500) && !is_fresh(60_000, 501));
        assert!(!is_fresh(1_000, 1_000) && !is_fresh(1_000, 5_000), "it may have expired");
    }

    #[test]
    fn a_lease_is_due_before_it_is_no_longer_fresh_and_earlier_where_others_are_collected() {
        let is_due =
            |age_ms, others| Age::of(&lease(60_000, 60_000), age_ms).unwrap().is_due(others);
        assert!(!is_due(350, false) && is_due(351, false));
        assert!(!is_due(175, true) && is_due(176, true));
    }
}
