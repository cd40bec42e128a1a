//! Leases: keys and locks that live as long as somebody renews.
//!
//! A lease is indexed where it was due when it was indexed last; renewals move only its record.
//! When that time comes `Expire` finds the record's own time and indexes it again. So a renewal
//! costs one record, and the index one change per TTL.

use bytes::Bytes;
use holdfast_env::defect;
use holdfast_lsm::Family;
use holdfast_model::limits::RANGE_DELETE_KEYS_MAX;
use holdfast_model::{LeaseId, RangeEpoch};

use super::{Applier, CLEAR_RECORDS_MIN, Step};
use crate::command::{LeaseGrant, LeaseRevoke, Renew};
use crate::records::{
    Attachment, Due, LeaseRecord, Subject, attachment_from_key, attachment_key, attachments_of,
    lease_key, seal,
};
use crate::{LeaseOutcome, Outcome, Refusal, Renewal, Result};

/// How many keys of a lease are read in one go.
const FETCH_KEYS: usize = 1_000;

impl Applier<'_> {
    pub(super) fn lease_grant(&mut self, grant: &LeaseGrant) -> Step<Outcome> {
        let id = LeaseId(grant.id);
        self.own_lease(id)?;
        if id.0 == 0 || grant.ttl_ms == 0 {
            return Err(Refusal::Malformed { what: "lease without id or TTL" }.into());
        }
        if self.lease(id)?.is_some() {
            return Err(Refusal::LeaseExists.into());
        }
        let expires_at_ms = self.work.clock_ms.saturating_add(grant.ttl_ms);
        let record = LeaseRecord {
            ttl_ms: grant.ttl_ms,
            expires_at_ms,
            indexed_ms: expires_at_ms,
            attached: 0,
        };
        self.work.index(&Due::new(expires_at_ms, Subject::Lease(id)), LeaseId(0));
        self.set_lease(id, Some(&record));
        let revision = self.work.revision;
        let ttl_ms = grant.ttl_ms;
        Ok(Outcome::Lease(LeaseOutcome { id, ttl_ms, expires_at_ms, keys_removed: 0, revision }))
    }

    pub(super) fn renew(&mut self, renew: &Renew) -> Step<Outcome> {
        self.configured()?;
        let mut renewals = Vec::with_capacity(renew.leases.len());
        for id in renew.leases.iter().copied().map(LeaseId) {
            let mut renewal = Renewal { id, ttl_ms: 0, expires_at_ms: 0 };
            if let Some(mut record) = self.live_lease(id)? {
                record.expires_at_ms = self.work.clock_ms.saturating_add(record.ttl_ms);
                self.set_lease(id, Some(&record));
                renewal.ttl_ms = record.ttl_ms;
                renewal.expires_at_ms = record.expires_at_ms;
            }
            renewals.push(renewal);
        }
        Ok(Outcome::Renewed(renewals))
    }

    pub(super) fn lease_revoke(&mut self, revoke: &LeaseRevoke) -> Step<Outcome> {
        let id = LeaseId(revoke.id);
        self.own_lease(id)?;
        let Some(record) = self.lease(id)? else {
            return Err(Refusal::LeaseNotFound.into());
        };
        let keys_removed = self.end_lease(id, &record)?;
        let revision = self.work.revision;
        Ok(Outcome::Lease(LeaseOutcome { id, ttl_ms: 0, expires_at_ms: 0, keys_removed, revision }))
    }

    /// Ends a lease: its keys go in one revision, its locks are handed on. How many keys went.
    pub(super) fn end_lease(&mut self, id: LeaseId, record: &LeaseRecord) -> Result<u64> {
        self.work.unindex(&Due::new(record.indexed_ms, Subject::Lease(id)));
        self.set_lease(id, None);
        let (first, last) = attachments_of(id);
        let (mut keys, mut locks) = (Vec::new(), Vec::new());
        let interval = (first.clone(), last.clone());
        let attached = self.work.records(Family::Lease, interval, usize::MAX)?;
        let attached: Vec<_> = attached.into_iter().map(|(key, _)| key).collect();
        for attached in &attached {
            match attachment_from_key(attached)? {
                Attachment::Key(key) => keys.push(key),
                Attachment::Lock(name) => locks.push(name),
            }
        }
        self.forget_attached(attached, first, last);
        keys.retain(|key| self.owns(key));
        let mut doomed = Vec::with_capacity(keys.len());
        for chunk in keys.chunks(FETCH_KEYS) {
            self.work.fetch(chunk.to_vec())?;
            for key in chunk {
                doomed.extend(self.work.newest(key)?);
            }
        }
        if !doomed.is_empty() {
            let revision = self.next_revision();
            self.remove_all(&doomed, revision)?;
        }
        for name in locks {
            self.lock_without_lease(&name, id)?;
        }
        Ok(doomed.len() as u64)
    }

    /// Removes the records of what was attached, which are all from `first` up to `last`.
    fn forget_attached(&mut self, attached: Vec<Bytes>, first: Bytes, last: Bytes) {
        if attached.len() >= CLEAR_RECORDS_MIN {
            self.work.clear(Family::Lease, first, last);
            return;
        }
        for key in attached {
            self.work.set(Family::Lease, key, None);
        }
    }

    /// The expiry index has come to a lease: it ends, or is indexed where it is due now.
    pub(super) fn lease_due(&mut self, id: LeaseId) -> Result<u64> {
        let Some(mut record) = self.lease(id)? else { return Ok(0) };
        if record.expires_at_ms <= self.work.clock_ms || defect!(LEASE_ENDS_AT_FIRST_EXPIRY) {
            return self.end_lease(id, &record);
        }
        record.indexed_ms = record.expires_at_ms;
        self.work.index(&Due::new(record.indexed_ms, Subject::Lease(id)), LeaseId(0));
        self.set_lease(id, Some(&record));
        Ok(0)
    }

    /// Refuses to attach to a lease that is missing, expired or full; `held` is what the key has.
    pub(super) fn check_lease(&self, id: LeaseId, held: LeaseId) -> Step<()> {
        if id.0 == 0 {
            return Ok(());
        }
        let record = self.live_lease(id)?.ok_or(Refusal::LeaseNotFound)?;
        let limit = RANGE_DELETE_KEYS_MAX as u64;
        if held != id && record.attached >= limit {
            return Err(Refusal::LeaseFull { limit }.into());
        }
        Ok(())
    }

    /// The lease, where it exists and has not expired.
    pub(super) fn live_lease(&self, id: LeaseId) -> Result<Option<LeaseRecord>> {
        let clock_ms = self.work.clock_ms;
        Ok(self.lease(id)?.filter(|record| record.expires_at_ms > clock_ms))
    }

    fn lease(&self, id: LeaseId) -> Result<Option<LeaseRecord>> {
        self.work.record(Family::Lease, &lease_key(id))
    }

    fn set_lease(&mut self, id: LeaseId, record: Option<&LeaseRecord>) {
        self.work.set(Family::Lease, lease_key(id), record.map(seal));
    }

    pub(super) fn attach(&mut self, id: LeaseId, attachment: &Attachment) -> Result<()> {
        self.count(id, 1)?;
        self.work.set(Family::Lease, attachment_key(id, attachment), Some(Bytes::new()));
        Ok(())
    }

    pub(super) fn detach(&mut self, id: LeaseId, attachment: &Attachment) -> Result<()> {
        self.count(id, -1)?;
        self.work.set(Family::Lease, attachment_key(id, attachment), None);
        Ok(())
    }

    /// Adds to a lease's count of attachments; a lease that is ending has none any more.
    fn count(&mut self, id: LeaseId, change: i64) -> Result<()> {
        if let Some(mut record) = self.lease(id)? {
            record.attached = record.attached.saturating_add_signed(change);
            self.set_lease(id, Some(&record));
        }
        Ok(())
    }

    fn own_lease(&self, id: LeaseId) -> std::result::Result<(), Refusal> {
        match self.truth {
            Some(truth) if truth.owns_position(|| id.position()) => Ok(()),
            Some(truth) => Err(Refusal::WrongSpan { epoch: truth.epoch }),
            None => Err(Refusal::WrongSpan { epoch: RangeEpoch(0) }),
        }
    }
}
