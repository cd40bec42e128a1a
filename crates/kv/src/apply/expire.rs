//! Removing what is due, in the order of its time.
//!
//! The index entries of much that is due at once are cleared as one interval, from the beginning of
//! the index: so they leave one tombstone, and the next time a longer one over it.

use std::mem;

use bytes::Bytes;
use holdfast_lsm::Family;

use super::{Applier, CLEAR_RECORDS_MIN, Step};
use crate::command::Expire;
use crate::records::{Due, Subject};
use crate::{Outcome, Result};

/// Most index entries one `Expire` handles, whatever it asks for.
const EXPIRE_KEYS_MAX: usize = 100_000;
/// How many keys are read in one go.
const FETCH_KEYS: usize = 1_000;

impl Applier<'_> {
    /// Handles what the index holds up to the entry's time: each key goes under its own revision,
    /// a lease's keys under one. Ends when as many as the entry allows are gone or looked at.
    pub(super) fn expire(&mut self, expire: &Expire) -> Step<Outcome> {
        self.configured()?;
        let bound = usize::try_from(expire.keys_max).unwrap_or(EXPIRE_KEYS_MAX);
        let bound = bound.clamp(1, EXPIRE_KEYS_MAX);
        let after_ms = self.work.clock_ms.saturating_add(1);
        if self.work.expiry_floor_ms >= after_ms {
            return Ok(Outcome::Expired { keys: 0, more: false });
        }
        let first = Due::first_key(self.work.expiry_floor_ms);
        let last = Due::first_key(after_ms);
        let due = self.work.keys(Family::Expiry, &first, &last, bound + 1)?;
        let due = due.iter().map(Due::from_key).collect::<Result<Vec<_>>>()?;
        self.fetch_due(due.get(..bound).unwrap_or(&due))?;
        let (mut handled, mut keys, mut spent) = (0, 0, 0);
        for due in &due {
            if spent >= bound {
                break;
            }
            let removed = self.handle(due)?;
            handled += 1;
            keys += removed;
            spent += usize::try_from(removed).unwrap_or(bound).max(1);
        }
        if handled >= CLEAR_RECORDS_MIN {
            let end = due.get(handled).map_or_else(|| Due::first_key(after_ms), Due::key);
            self.work.clear(Family::Expiry, Bytes::new(), end);
        }
        let next = due.get(handled).map(|due| due.at_ms);
        self.work.expiry_floor_ms = next.unwrap_or(after_ms);
        Ok(Outcome::Expired { keys, more: next.is_some() })
    }

    /// How many keys one entry of the index removed.
    fn handle(&mut self, due: &Due) -> Result<u64> {
        self.work.unindex(due);
        match &due.subject {
            Subject::Key(key) => self.key_due(key, due.at_ms),
            Subject::Lease(lease) => self.lease_due(*lease),
            Subject::Lock(name) => self.lock_due(name).map(|()| 0),
            Subject::Session(client) => {
                self.sessions.due(*client, &mut self.work);
                Ok(0)
            }
        }
    }

    fn key_due(&mut self, key: &Bytes, at_ms: u64) -> Result<u64> {
        // A foreign key is on its way out of the engine: whether it is still there must not matter.
        if !self.owns(key) {
            return Ok(0);
        }
        match self.work.newest(key)? {
            Some(entry) if entry.expires_at_ms == at_ms => {
                self.bury(Some(entry))?;
                Ok(1)
            }
            _ => Ok(0),
        }
    }

    fn fetch_due(&mut self, due: &[Due]) -> Result<()> {
        let mut keys: Vec<Bytes> = Vec::new();
        for due in due {
            if let Subject::Key(key) = &due.subject {
                keys.push(key.clone());
            }
            if keys.len() >= FETCH_KEYS {
                self.work.fetch(mem::take(&mut keys))?;
            }
        }
        self.work.fetch(keys)
    }
}
