//! Leases and locks as onlookers see them.

use std::ops::Bound;

use bytes::Bytes;
use holdfast_lsm::{Cached, Family};
use holdfast_model::LeaseId;

use super::{Reader, newest};
use crate::apply::state_of;
use crate::records::{
    Attachment, LeaseRecord, LockRecord, attachment_from_key, attachment_key, attachments_of,
    lease_key, unseal,
};
use crate::{Error, LockState, Result};

/// A lease as an onlooker sees it. It may have expired and wait for its removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    /// The lease.
    pub id: LeaseId,
    /// Its time to live, milliseconds.
    pub ttl_ms: u64,
    /// Range time of its expiry, milliseconds.
    pub expires_at_ms: u64,
    /// How many keys and locks are attached.
    pub attached: u64,
}

impl Reader {
    /// A lease.
    ///
    /// # Errors
    /// Engine errors; [`Error::MalformedRecord`].
    pub fn lease(&self, id: LeaseId) -> Result<Option<LeaseInfo>> {
        self.shared.noted(self.read_lease(id))
    }

    fn read_lease(&self, id: LeaseId) -> Result<Option<LeaseInfo>> {
        let record = self.engine.get(Family::Lease, &lease_key(id), newest())?;
        record.map(|record| lease_info(id, record.value)).transpose()
    }

    /// Like [`Reader::lease`], but says [`Cached::NeedsIo`] instead of reading from the disk.
    ///
    /// # Errors
    /// As [`Reader::lease`].
    pub fn lease_cached(&self, id: LeaseId) -> Result<Cached<Option<LeaseInfo>>> {
        self.shared.noted(self.read_lease_cached(id))
    }

    fn read_lease_cached(&self, id: LeaseId) -> Result<Cached<Option<LeaseInfo>>> {
        Ok(match self.engine.get_cached(Family::Lease, &lease_key(id), newest())? {
            Cached::Answer(Some(record)) => Cached::Answer(Some(lease_info(id, record.value)?)),
            Cached::Answer(None) => Cached::Answer(None),
            Cached::NeedsIo => Cached::NeedsIo,
        })
    }

    /// At most `limit` leases after `after`, by id.
    ///
    /// # Errors
    /// As [`Reader::lease`].
    pub fn leases(&self, after: LeaseId, limit: usize) -> Result<Vec<LeaseInfo>> {
        self.shared.noted(self.read_leases(after, limit))
    }

    fn read_leases(&self, after: LeaseId, limit: usize) -> Result<Vec<LeaseInfo>> {
        let mut leases = Vec::new();
        let mut next = after.0.checked_add(1);
        while let Some(from) = next.filter(|_| leases.len() < limit) {
            let bounds = (Bound::Included(lease_key(LeaseId(from))), Bound::Unbounded);
            let mut scan = self.engine.scan(Family::Lease, bounds, newest(), false)?;
            let Some((key, record)) = scan.next().transpose()? else { break };
            let bytes = key.first_chunk::<8>();
            let id = LeaseId(bytes.map_or(u64::MAX, |bytes| u64::from_be_bytes(*bytes)));
            // An attachment whose lease is ending has no record before it.
            if key.len() == 8 {
                leases.push(lease_info(id, record.value)?);
            }
            next = id.0.checked_add(1);
        }
        Ok(leases)
    }

    /// At most `limit` keys attached to a lease, after `after` (empty: from the first).
    ///
    /// # Errors
    /// As [`Reader::lease`].
    pub fn lease_keys(&self, id: LeaseId, after: &Bytes, limit: usize) -> Result<Vec<Bytes>> {
        self.shared.noted(self.read_lease_keys(id, after, limit))
    }

    fn read_lease_keys(&self, id: LeaseId, after: &Bytes, limit: usize) -> Result<Vec<Bytes>> {
        let (_, end) = attachments_of(id);
        let from = attachment_key(id, &Attachment::Key(after.clone()));
        let bounds = (Bound::Excluded(from), Bound::Excluded(end));
        let mut keys = Vec::new();
        for found in self.engine.scan(Family::Lease, bounds, newest(), false)? {
            match attachment_from_key(&found?.0)? {
                Attachment::Key(key) if keys.len() < limit => keys.push(key),
                Attachment::Key(_) | Attachment::Lock(_) => break,
            }
        }
        Ok(keys)
    }

    /// A lock as it stands at the newest read point; a holder whose time has come is not shown,
    /// one that lives by a lease is shown with the expiry of the lease.
    ///
    /// # Errors
    /// [`Error::WrongSpan`]; otherwise as [`Reader::lease`].
    pub fn lock(&self, name: &Bytes) -> Result<LockState> {
        self.shared.noted(self.read_lock(name))
    }

    fn read_lock(&self, name: &Bytes) -> Result<LockState> {
        let truth = self.configured()?;
        if !truth.owns(name) {
            return Err(Error::WrongSpan { epoch: truth.epoch });
        }
        let clock_ms = self.point().clock_ms;
        let Some(record) = self.engine.get(Family::Lock, name, newest())? else {
            return Ok(LockState::default());
        };
        let mut lock: LockRecord = unseal("lock", record.value)?;
        if let Some(holder) = &mut lock.holder {
            if holder.lease != 0 {
                let lease = self.read_lease(LeaseId(holder.lease))?;
                holder.expires_at_ms = lease.map_or(0, |lease| lease.expires_at_ms);
            }
            if holder.expires_at_ms <= clock_ms {
                lock.holder = None;
            }
        }
        Ok(state_of(&lock))
    }
}

fn lease_info(id: LeaseId, value: Bytes) -> Result<LeaseInfo> {
    let record: LeaseRecord = unseal("lease", value)?;
    Ok(LeaseInfo {
        id,
        ttl_ms: record.ttl_ms,
        expires_at_ms: record.expires_at_ms,
        attached: record.attached,
    })
}
