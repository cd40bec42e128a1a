//! Locks: one holder, a queue of waiters, a token that grows with every grant.
//!
//! A grant takes a revision of its own, and that revision is the fencing token: it is greater than
//! every token before it, for every lock of the range. Whoever waits is granted the lock by the
//! entry that frees it, and only if it still lives at that moment. The holder's TTL is indexed
//! like a lease's: a keep-alive moves the record alone.

use bytes::Bytes;
use holdfast_env::defect;
use holdfast_lsm::Family;
use holdfast_model::limits::RANGE_DELETE_KEYS_MAX;
use holdfast_model::{LeaseId, Revision};

use super::{Applier, Step};
use crate::command::{LOCK_WAITERS_MAX, LockAcquire, LockKeepAlive, LockRelease};
use crate::records::{Attachment, Due, LockRecord, Party, Subject, seal};
use crate::{LockGrant, LockOutcome, LockStanding, LockState, Outcome, Refusal, Result};

impl Applier<'_> {
    pub(super) fn lock_acquire(&mut self, acquire: &LockAcquire) -> Step<Outcome> {
        self.own(&acquire.name)?;
        if (acquire.ttl_ms == 0) == (acquire.lease == 0) {
            return Err(Refusal::Malformed { what: "a lock lives by a TTL or a lease" }.into());
        }
        let old = self.lock(&acquire.name)?;
        self.check_party_lease(LeaseId(acquire.lease), &old)?;
        let mut lock = old.clone();
        self.hand_on(&acquire.name, &mut lock)?;
        self.drop_dead_waiters(&mut lock, |party| party.owner == acquire.owner)?;
        let known = standing(&lock, &acquire.owner).is_some();
        if lock.holder.is_none() {
            let party = self.party(acquire);
            self.grant(&acquire.name, &mut lock, party);
        } else if !known && acquire.wait {
            if lock.waiters.len() >= LOCK_WAITERS_MAX {
                self.drop_dead_waiters(&mut lock, |_| true)?;
            }
            if lock.waiters.len() >= LOCK_WAITERS_MAX {
                self.set_lock(&acquire.name, &old, lock)?;
                let limit = LOCK_WAITERS_MAX as u64;
                return Err(Refusal::LockQueueFull { limit }.into());
            }
            let party = self.party(acquire);
            lock.waiters.push(party);
        }
        let changed = !known && standing(&lock, &acquire.owner).is_some();
        self.conclude(&acquire.name, &acquire.owner, &old, lock, changed)
    }

    pub(super) fn lock_keep_alive(&mut self, keep: &LockKeepAlive) -> Step<Outcome> {
        self.own(&keep.name)?;
        let old = self.lock(&keep.name)?;
        let mut lock = old.clone();
        self.hand_on(&keep.name, &mut lock)?;
        let clock_ms = self.work.clock_ms;
        let mine = |party: &&mut Party| {
            party.owner == keep.owner && (keep.token == 0 || party.token == keep.token)
        };
        let mut parties = lock.holder.iter_mut().chain(&mut lock.waiters);
        let found = match parties.find(mine) {
            Some(party) if party.lease == 0 && party.expires_at_ms > clock_ms => {
                party.expires_at_ms = clock_ms.saturating_add(party.ttl_ms);
                true
            }
            Some(party) => party.lease != 0,
            None => false,
        };
        if !found {
            self.set_lock(&keep.name, &old, lock)?;
            return Err(Refusal::LockNotHeld.into());
        }
        self.conclude(&keep.name, &keep.owner, &old, lock, true)
    }

    pub(super) fn lock_release(&mut self, release: &LockRelease) -> Step<Outcome> {
        self.own(&release.name)?;
        let old = self.lock(&release.name)?;
        let mut lock = old.clone();
        self.hand_on(&release.name, &mut lock)?;
        let mine = |party: &Party| {
            (release.token == 0 || party.token == release.token || defect!(LOCK_GRANTED_TO_TWO))
                && (party.owner == release.owner || release.owner.is_empty() && release.token != 0)
        };
        let waiters = lock.waiters.len();
        lock.waiters.retain(|party| !mine(party));
        let mut changed = lock.waiters.len() != waiters;
        if !release.queue_only && lock.holder.as_ref().is_some_and(mine) {
            lock.holder = None;
            changed = true;
            self.hand_on(&release.name, &mut lock)?;
        }
        self.conclude(&release.name, &release.owner, &old, lock, changed)
    }

    /// The expiry index has come to a lock: it is handed on, or indexed where it is due now.
    pub(super) fn lock_due(&mut self, name: &Bytes) -> Result<()> {
        let old = LockRecord { indexed_ms: 0, ..self.lock(name)? };
        let mut lock = old.clone();
        self.hand_on(name, &mut lock)?;
        self.set_lock(name, &old, lock)
    }

    /// A lease has ended: whoever held or waited by it is gone.
    pub(super) fn lock_without_lease(&mut self, name: &Bytes, id: LeaseId) -> Result<()> {
        let old = self.lock(name)?;
        let mut lock = old.clone();
        lock.waiters.retain(|party| party.lease != id.0);
        if lock.holder.as_ref().is_some_and(|party| party.lease == id.0) {
            lock.holder = None;
        }
        self.hand_on(name, &mut lock)?;
        self.set_lock(name, &old, lock)
    }

    /// Drops a holder whose time has come; a lock without a holder goes to the first live waiter.
    fn hand_on(&mut self, name: &Bytes, lock: &mut LockRecord) -> Result<()> {
        if let Some(holder) = &lock.holder
            && self.is_alive(holder)?
        {
            return Ok(());
        }
        lock.holder = None;
        while lock.holder.is_none() && !lock.waiters.is_empty() {
            let party = lock.waiters.remove(0);
            if self.is_alive(&party)? || defect!(LOCK_GRANTED_AFTER_EXPIRY) {
                self.grant(name, lock, party);
            }
        }
        Ok(())
    }

    fn grant(&mut self, name: &Bytes, lock: &mut LockRecord, mut party: Party) {
        let token = self.next_revision();
        party.token = token.0;
        if party.lease == 0 {
            party.expires_at_ms = self.work.clock_ms.saturating_add(party.ttl_ms);
        }
        self.grants.push(LockGrant {
            name: name.clone(),
            owner: party.owner.clone(),
            token,
            expires_at_ms: party.expires_at_ms,
        });
        lock.holder = Some(party);
    }

    /// Drops the waiters `suspect` names that have lost their place.
    fn drop_dead_waiters(
        &self,
        lock: &mut LockRecord,
        suspect: impl Fn(&Party) -> bool,
    ) -> Result<()> {
        let mut kept = Vec::with_capacity(lock.waiters.len());
        for party in std::mem::take(&mut lock.waiters) {
            if !suspect(&party) || self.is_alive(&party)? {
                kept.push(party);
            }
        }
        lock.waiters = kept;
        Ok(())
    }

    fn is_alive(&self, party: &Party) -> Result<bool> {
        if party.lease == 0 {
            return Ok(party.expires_at_ms > self.work.clock_ms);
        }
        Ok(self.live_lease(LeaseId(party.lease))?.is_some())
    }

    fn party(&self, acquire: &LockAcquire) -> Party {
        let by_ttl = acquire.lease == 0;
        Party {
            owner: acquire.owner.clone(),
            token: 0,
            ttl_ms: acquire.ttl_ms,
            expires_at_ms: if by_ttl {
                self.work.clock_ms.saturating_add(acquire.ttl_ms)
            } else {
                0
            },
            lease: acquire.lease,
            value: acquire.value.clone(),
        }
    }

    /// Stores the lock and tells how `owner` stands to it.
    fn conclude(
        &mut self,
        name: &Bytes,
        owner: &Bytes,
        old: &LockRecord,
        lock: LockRecord,
        changed: bool,
    ) -> Step<Outcome> {
        let (standing, expires_at_ms) = standing(&lock, owner).unwrap_or((LockStanding::Absent, 0));
        let state = state_of(&lock);
        self.set_lock(name, old, lock)?;
        Ok(Outcome::Lock(LockOutcome { standing, expires_at_ms, changed, state }))
    }

    /// How `owner` stands to a lock as it is now, for an answer given again.
    pub(super) fn lock_now(&self, name: &Bytes) -> Result<LockState> {
        let mut lock = self.lock(name)?;
        if let Some(holder) = &lock.holder
            && !self.is_alive(holder)?
        {
            lock.holder = None;
        }
        Ok(state_of(&lock))
    }

    fn lock(&self, name: &Bytes) -> Result<LockRecord> {
        Ok(self.work.record(Family::Lock, name)?.unwrap_or_default())
    }

    /// Stores a lock that was `old`; keeps index and attachments in step with it.
    fn set_lock(&mut self, name: &Bytes, old: &LockRecord, mut lock: LockRecord) -> Result<()> {
        let by_ttl = lock.holder.as_ref().filter(|holder| holder.lease == 0);
        let due_ms = by_ttl.map_or(0, |holder| holder.expires_at_ms);
        let in_place = due_ms != 0 && old.indexed_ms != 0 && old.indexed_ms <= due_ms;
        lock.indexed_ms = if in_place { old.indexed_ms } else { due_ms };
        if lock == *old {
            return Ok(());
        }
        if old.indexed_ms != lock.indexed_ms {
            if old.indexed_ms != 0 {
                self.work.unindex(&Due::new(old.indexed_ms, Subject::Lock(name.clone())));
            }
            if lock.indexed_ms != 0 {
                self.work
                    .index(&Due::new(lock.indexed_ms, Subject::Lock(name.clone())), LeaseId(0));
            }
        }
        let (before, after) = (leases(old), leases(&lock));
        for id in after.iter().filter(|id| !before.contains(id)) {
            self.attach(*id, &Attachment::Lock(name.clone()))?;
        }
        for id in before.iter().filter(|id| !after.contains(id)) {
            self.detach(*id, &Attachment::Lock(name.clone()))?;
        }
        let value = lock.holder.is_some().then(|| seal(&lock));
        self.work.set(Family::Lock, name.clone(), value);
        Ok(())
    }

    fn check_party_lease(&self, id: LeaseId, lock: &LockRecord) -> Step<()> {
        if id.0 == 0 {
            return Ok(());
        }
        let record = self.live_lease(id)?.ok_or(Refusal::LeaseNotFound)?;
        let limit = RANGE_DELETE_KEYS_MAX as u64;
        if record.attached >= limit && !leases(lock).contains(&id) {
            return Err(Refusal::LeaseFull { limit }.into());
        }
        Ok(())
    }
}

/// The leases a lock's holder and waiters live by, each once.
fn leases(lock: &LockRecord) -> Vec<LeaseId> {
    let mut leases: Vec<LeaseId> =
        lock.holder.iter().chain(&lock.waiters).map(|party| LeaseId(party.lease)).collect();
    leases.retain(|id| id.0 != 0);
    leases.sort_unstable();
    leases.dedup();
    leases
}

/// How `owner` stands to a lock, and until when; none where it neither holds nor waits.
fn standing(lock: &LockRecord, owner: &Bytes) -> Option<(LockStanding, u64)> {
    if let Some(holder) = lock.holder.as_ref().filter(|holder| holder.owner == owner) {
        return Some((LockStanding::Held { token: Revision(holder.token) }, holder.expires_at_ms));
    }
    let (ahead, waiter) = (0..).zip(&lock.waiters).find(|(_, waiter)| waiter.owner == owner)?;
    Some((LockStanding::Waiting { ahead }, waiter.expires_at_ms))
}

/// A lock as an onlooker sees it.
pub(crate) fn state_of(lock: &LockRecord) -> LockState {
    let waiters = lock.waiters.len() as u64;
    match &lock.holder {
        None => LockState { waiters, ..LockState::default() },
        Some(holder) => LockState {
            owner: holder.owner.clone(),
            token: Revision(holder.token),
            value: holder.value.clone(),
            expires_at_ms: holder.expires_at_ms,
            lease: LeaseId(holder.lease),
            waiters,
        },
    }
}
