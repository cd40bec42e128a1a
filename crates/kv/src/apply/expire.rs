//! Removing what is due: leases, locks and sessions first, then keys; each in the order of time.
//!
//! The index entries of much that is due at once are cleared as one interval, from the beginning of
//! their class: so they leave one tombstone, and the next time a longer one over it.

use bytes::Bytes;
use holdfast_lsm::Family;
use holdfast_model::LeaseId;

use super::{Applier, CLEAR_RECORDS_MIN, Step};
use crate::command::Expire;
use crate::event::{EventKind, Previous};
use crate::records::{Class, Due, Subject};
use crate::{Entry, Outcome, Result};

/// Most index entries one `Expire` handles, whatever it asks for.
const EXPIRE_KEYS_MAX: usize = 100_000;

impl Applier<'_> {
    /// Handles what the index holds up to the entry's time: each key goes under its own revision,
    /// a lease's keys under one. Ends when as many as the entry allows are gone or looked at. Reads
    /// nothing of the keys themselves: the index says what must be known to remove one.
    pub(super) fn expire(&mut self, expire: &Expire) -> Step<Outcome> {
        self.configured()?;
        let bound = usize::try_from(expire.keys_max).unwrap_or(EXPIRE_KEYS_MAX);
        let bound = bound.clamp(1, EXPIRE_KEYS_MAX);
        let after_ms = self.work.clock_ms.saturating_add(1);
        let (mut keys, mut spent, mut more) = (0, 0, false);
        for class in Class::ALL {
            let due = self.work.due(class, after_ms, bound + 1)?;
            let mut handled = 0;
            for (due, lease) in &due {
                if spent >= bound {
                    break;
                }
                let removed = self.handle(due, *lease)?;
                handled += 1;
                keys += removed;
                spent += usize::try_from(removed).unwrap_or(bound).max(1);
            }
            if handled >= CLEAR_RECORDS_MIN {
                let next = due.get(handled).map(|(due, _)| due.key());
                let end = next.unwrap_or_else(|| class.first_key(after_ms));
                self.work.clear(Family::Expiry, class.first_key(0), end);
            }
            let next_ms = due.get(handled).map(|(due, _)| due.at_ms);
            let floor_ms = next_ms.unwrap_or(after_ms).max(self.work.floors.of(class));
            self.work.floors.set(class, floor_ms);
            more |= next_ms.is_some();
        }
        Ok(Outcome::Expired { keys, more })
    }

    /// How many keys one entry of the index removed.
    fn handle(&mut self, due: &Due, lease: LeaseId) -> Result<u64> {
        self.work.unindex(due);
        match &due.subject {
            Subject::Key(key) => self.key_due(key, lease),
            Subject::Lease(lease) => self.lease_due(*lease),
            Subject::Lock(name) => self.lock_due(name).map(|()| 0),
            Subject::Session(client) => {
                self.sessions.due(*client, &mut self.work);
                Ok(0)
            }
        }
    }

    fn key_due(&mut self, key: &Bytes, lease: LeaseId) -> Result<u64> {
        // A foreign key is on its way out of the engine: whether it is still there must not matter.
        if !self.owns(key) {
            return Ok(0);
        }
        let revision = self.next_revision();
        self.reattach(key, lease, LeaseId(0))?;
        let tombstone = Entry { key: key.clone(), revision, ..Entry::default() };
        self.work.write(EventKind::Delete, tombstone, 0, Previous::OnDemand);
        Ok(1)
    }
}
