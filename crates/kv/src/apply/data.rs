//! Put, delete, range delete, increment.

use bytes::Bytes;
use holdfast_env::defect;
use holdfast_model::limits::RANGE_DELETE_KEYS_MAX;
use holdfast_model::{LeaseId, Revision};

use super::{Applier, Step};
use crate::command::{Condition, Delete, DeleteRange, Increment, Put};
use crate::records::{Attachment, Due, Subject};
use crate::working::Visit;
use crate::{Entry, EventKind, Mutation, Outcome, Previous, Refusal, Result};

/// What a key is to become.
pub(super) struct Stored<'a> {
    pub key: &'a Bytes,
    pub value: Bytes,
    pub lease: LeaseId,
    pub expires_at_ms: u64,
}

/// The newest version of a key, told apart by whether its time has come.
pub(super) struct Found {
    /// It counts as the key's entry.
    pub visible: Option<Entry>,
    /// It counts as missing, and is removed before the key is written.
    pub hidden: Option<Entry>,
}

impl Found {
    fn lease(&self) -> LeaseId {
        self.visible.as_ref().or(self.hidden.as_ref()).map_or(LeaseId(0), |entry| entry.lease)
    }
}

impl Applier<'_> {
    pub(super) fn put(&mut self, put: &Put) -> Step<Outcome> {
        self.own(&put.key)?;
        let found = self.find(&put.key)?;
        if !holds(put.condition.as_ref(), found.visible.as_ref()) {
            return Ok(Outcome::ConditionFailed { current: found.visible });
        }
        let stored = self.stored_by(put);
        self.check_lease(stored.lease, found.lease())?;
        self.bury(found.hidden)?;
        let revision = self.next_revision();
        let previous = put.return_previous.then(|| found.visible.clone()).flatten();
        let stored = self.store(stored, found.visible, revision, 0)?;
        Ok(Outcome::Applied(Mutation { previous, ..stored }))
    }

    pub(super) fn delete(&mut self, delete: &Delete) -> Step<Outcome> {
        self.own(&delete.key)?;
        let visible = self.find(&delete.key)?.visible;
        if !holds(delete.condition.as_ref(), visible.as_ref()) {
            return Ok(Outcome::ConditionFailed { current: visible });
        }
        let mut outcome = Mutation { revision: self.work.revision, ..Mutation::default() };
        if let Some(entry) = visible {
            outcome.revision = self.next_revision();
            outcome.count = 1;
            outcome.previous = delete.return_previous.then(|| entry.clone());
            let previous = Previous::Loaded(Some(entry.clone()));
            self.remove(&entry, outcome.revision, 0, previous)?;
        }
        Ok(Outcome::Applied(outcome))
    }

    pub(super) fn delete_range(&mut self, delete: &DeleteRange) -> Step<Outcome> {
        self.configured()?;
        let revision = self.work.revision;
        let mut doomed = self.doomed(&delete.start, &delete.end, revision)?;
        let more = doomed.len() > RANGE_DELETE_KEYS_MAX;
        doomed.truncate(RANGE_DELETE_KEYS_MAX);
        let mut outcome = Mutation { revision, more, ..Mutation::default() };
        if !doomed.is_empty() {
            outcome.revision = self.next_revision();
            outcome.count = doomed.len() as u64;
            self.remove_all(&doomed, outcome.revision)?;
        }
        Ok(Outcome::Applied(outcome))
    }

    pub(super) fn increment(&mut self, increment: &Increment) -> Step<Outcome> {
        self.own(&increment.key)?;
        let found = self.find(&increment.key)?;
        let (number, stored) = self.incremented(increment, found.visible.as_ref())?;
        self.bury(found.hidden)?;
        let revision = self.next_revision();
        let stored = self.store(stored, found.visible, revision, 0)?;
        Ok(Outcome::Applied(Mutation { number, ..stored }))
    }

    /// Looks a key up at the range's time.
    pub(super) fn find(&mut self, key: &Bytes) -> Result<Found> {
        let clock_ms = self.work.clock_ms;
        Ok(match self.work.newest(key)? {
            Some(entry) if entry.is_expired(clock_ms) => {
                Found { visible: None, hidden: Some(entry) }
            }
            visible => Found { visible, hidden: None },
        })
    }

    /// What a put makes of its key.
    pub(super) fn stored_by<'p>(&self, put: &'p Put) -> Stored<'p> {
        Stored {
            key: &put.key,
            value: put.value.clone(),
            lease: LeaseId(put.lease),
            expires_at_ms: self.expiry(put.ttl_ms),
        }
    }

    /// The sum an increment comes to, and what it makes of its key.
    pub(super) fn incremented<'i>(
        &self,
        increment: &'i Increment,
        old: Option<&Entry>,
    ) -> std::result::Result<(i64, Stored<'i>), Refusal> {
        let base = old.map_or(Ok(0), |entry| number(&entry.value))?;
        let sum = base.checked_add(increment.delta).ok_or(Refusal::Overflow)?;
        let kept = old.map_or(0, |entry| entry.expires_at_ms);
        let expires_at_ms =
            if increment.ttl_ms == 0 { kept } else { self.expiry(increment.ttl_ms) };
        let lease = old.map_or(LeaseId(0), |entry| entry.lease);
        let value = Bytes::from(sum.to_string());
        Ok((sum, Stored { key: &increment.key, value, lease, expires_at_ms }))
    }

    fn expiry(&self, ttl_ms: u64) -> u64 {
        if ttl_ms == 0 { 0 } else { self.work.clock_ms.saturating_add(ttl_ms) }
    }

    /// Removes a key whose time has come, under a revision of its own.
    pub(super) fn bury(&mut self, hidden: Option<Entry>) -> Result<()> {
        let Some(entry) = hidden else { return Ok(()) };
        let revision = self.next_revision();
        let previous = Previous::Loaded(Some(entry.clone()));
        self.remove(&entry, revision, 0, previous)
    }

    /// Writes a version over `old`, and tells what it is. The lease was checked before.
    pub(super) fn store(
        &mut self,
        stored: Stored<'_>,
        old: Option<Entry>,
        revision: Revision,
        ordinal: u32,
    ) -> Result<Mutation> {
        let old_lease = old.as_ref().map_or(LeaseId(0), |entry| entry.lease);
        let old_expiry = old.as_ref().map_or(0, |entry| entry.expires_at_ms);
        self.reindex(stored.key, (old_expiry, old_lease), (stored.expires_at_ms, stored.lease));
        self.reattach(stored.key, old_lease, stored.lease)?;
        let entry = Entry {
            key: stored.key.clone(),
            value: stored.value,
            revision,
            create_revision: old.as_ref().map_or(revision, |entry| entry.create_revision),
            version: old.as_ref().map_or(0, |entry| entry.version) + 1,
            lease: stored.lease,
            expires_at_ms: stored.expires_at_ms,
        };
        let (create_revision, version) = (entry.create_revision, entry.version);
        self.work.write(EventKind::Put, entry, ordinal, Previous::Loaded(old));
        Ok(Mutation { revision, create_revision, version, count: 1, ..Mutation::default() })
    }

    /// Removes a key that exists.
    pub(super) fn remove(
        &mut self,
        entry: &Entry,
        revision: Revision,
        ordinal: u32,
        previous: Previous,
    ) -> Result<()> {
        self.reindex(&entry.key, (entry.expires_at_ms, entry.lease), (0, LeaseId(0)));
        self.reattach(&entry.key, entry.lease, LeaseId(0))?;
        let tombstone = Entry { key: entry.key.clone(), revision, ..Entry::default() };
        self.work.write(EventKind::Delete, tombstone, ordinal, previous);
        Ok(())
    }

    /// Removes many keys under one revision.
    pub(super) fn remove_all(&mut self, doomed: &[Entry], revision: Revision) -> Result<()> {
        for (ordinal, entry) in (0..).zip(doomed) {
            self.remove(entry, revision, ordinal, Previous::OnDemand)?;
        }
        Ok(())
    }

    /// Visible keys of `[start, end)` at `revision`, without values: one more than may be removed,
    /// where there are so many.
    pub(super) fn doomed(
        &self,
        start: &Bytes,
        end: &Bytes,
        revision: Revision,
    ) -> Step<Vec<Entry>> {
        let truth = self.configured()?;
        let clock_ms = self.work.clock_ms;
        let mut doomed = Vec::new();
        self.work.scan(start, end, revision, |mut entry| {
            if !entry.is_expired(clock_ms) && truth.owns(&entry.key) {
                entry.value = Bytes::new();
                doomed.push(entry);
            }
            Ok(if doomed.len() > RANGE_DELETE_KEYS_MAX { Visit::Stop } else { Visit::On })
        })?;
        Ok(doomed)
    }

    /// Follows a change of the time a key expires, and of the lease it is attached to.
    fn reindex(&mut self, key: &Bytes, old: (u64, LeaseId), new: (u64, LeaseId)) {
        let ((old_ms, _), (new_ms, lease)) = (old, new);
        if old_ms != 0 && old_ms != new_ms && !defect!(EXPIRY_INDEX_KEPT) {
            self.work.unindex(&Due::new(old_ms, Subject::Key(key.clone())));
        }
        if new_ms != 0 && old != new {
            self.work.index(&Due::new(new_ms, Subject::Key(key.clone())), lease);
        }
    }

    pub(super) fn reattach(&mut self, key: &Bytes, old: LeaseId, new: LeaseId) -> Result<()> {
        if old == new {
            return Ok(());
        }
        if old.0 != 0 {
            self.detach(old, &Attachment::Key(key.clone()))?;
        }
        if new.0 != 0 {
            self.attach(new, &Attachment::Key(key.clone()))?;
        }
        Ok(())
    }
}

/// Whether a condition holds for what stands there.
fn holds(condition: Option<&Condition>, current: Option<&Entry>) -> bool {
    match condition {
        None => true,
        Some(Condition::IfAbsent(())) => current.is_none(),
        Some(Condition::IfRevision(revision)) => {
            current.map_or(0, |entry| entry.revision.0) == *revision
        }
        Some(Condition::IfValue(value)) => current.is_some_and(|entry| entry.value == value),
    }
}

/// Reads a decimal 64-bit number as an increment writes it: digits, perhaps after a minus sign.
pub(super) fn number(value: &[u8]) -> std::result::Result<i64, Refusal> {
    let digits = value.strip_prefix(b"-").unwrap_or(value);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Refusal::NotANumber);
    }
    let text = std::str::from_utf8(value).map_err(|_| Refusal::NotANumber)?;
    text.parse().map_err(|_| Refusal::NotANumber)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_decimal_text_within_64_bits_is_a_number() {
        for (text, expected) in
            [("0", 0), ("-0", 0), ("007", 7), ("-9223372036854775808", i64::MIN)]
        {
            assert_eq!(number(text.as_bytes()), Ok(expected), "{text}");
        }
        for text in ["", "-", "+1", " 1", "1 ", "1.0", "0x1", "9223372036854775808", "--1", "١"] {
            assert_eq!(number(text.as_bytes()), Err(Refusal::NotANumber), "{text}");
        }
    }
}
