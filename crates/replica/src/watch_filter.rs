//! What a watch wants to see of a revision, and what it holds of it meanwhile.

use std::ops::Bound;

use bytes::Bytes;
use holdfast_kv::{Entry, Event, EventKind, Previous, RevisionEvents};
use holdfast_model::Revision;

use crate::options::ENTRY_BYTES_MAX;

/// Values from this size on are held where they lie: the entry they came in holds little else.
const HELD_IN_PLACE_BYTES: usize = ENTRY_BYTES_MAX / 2;

/// What a watch wants to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchFilter {
    /// First key.
    pub start: Bound<Bytes>,
    /// Last key.
    pub end: Bound<Bytes>,
    /// First revision to deliver; `None`: from now on.
    pub from: Option<Revision>,
    /// Whether events carry the version before.
    pub previous: bool,
    /// Leave out writes.
    pub no_puts: bool,
    /// Leave out removals.
    pub no_deletes: bool,
}

impl WatchFilter {
    /// Everything about one key, from now on.
    pub fn key(key: Bytes) -> Self {
        Self::range(Bound::Included(key.clone()), Bound::Included(key))
    }

    /// Everything about an interval of keys, from now on.
    pub fn range(start: Bound<Bytes>, end: Bound<Bytes>) -> Self {
        Self { start, end, from: None, previous: false, no_puts: false, no_deletes: false }
    }

    pub(crate) fn single_key(&self) -> Option<&Bytes> {
        match (&self.start, &self.end) {
            (Bound::Included(start), Bound::Included(end)) if start == end => Some(start),
            _ => None,
        }
    }

    pub(crate) fn wants(&self, event: &Event) -> bool {
        let key = &event.entry.key;
        let after_start = match &self.start {
            Bound::Included(start) => key >= start,
            Bound::Excluded(start) => key > start,
            Bound::Unbounded => true,
        };
        let before_end = match &self.end {
            Bound::Included(end) => key <= end,
            Bound::Excluded(end) => key < end,
            Bound::Unbounded => true,
        };
        let kind = match event.kind {
            EventKind::Put => !self.no_puts,
            EventKind::Delete => !self.no_deletes,
        };
        after_start && before_end && kind
    }

    /// The part of a revision this watch wants; `None` where that is nothing.
    pub(crate) fn cut(&self, revision: &RevisionEvents) -> Option<RevisionEvents> {
        let mut events: Vec<_> =
            revision.events.iter().filter(|e| self.wants(e)).cloned().collect();
        if !self.previous {
            events.iter_mut().for_each(|event| event.previous = Previous::OnDemand);
        }
        (!events.is_empty()).then_some(RevisionEvents { revision: revision.revision, events })
    }
}

/// A copy of a revision that holds nothing but its own bytes.
///
/// Events as apply tells them are slices of the entry they came in, or of a block they were read
/// from. One of a few bytes that waits for its watcher would keep a mebibyte alive.
pub(crate) fn detached(revision: &RevisionEvents) -> RevisionEvents {
    let events = revision.events.iter().map(|event| Event {
        kind: event.kind,
        entry: detached_entry(&event.entry),
        previous: match &event.previous {
            Previous::Loaded(Some(entry)) => Previous::Loaded(Some(detached_entry(entry))),
            other => other.clone(),
        },
    });
    RevisionEvents { revision: revision.revision, events: events.collect() }
}

fn detached_entry(entry: &Entry) -> Entry {
    let copy = |bytes: &Bytes| match bytes.len() < HELD_IN_PLACE_BYTES {
        true => Bytes::copy_from_slice(bytes),
        false => bytes.clone(),
    };
    Entry { key: copy(&entry.key), value: copy(&entry.value), ..entry.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_a_watcher_does_not_keep_the_entry_alive_it_came_in() {
        let entry = Bytes::from(vec![7; ENTRY_BYTES_MAX]);
        let stored = Entry { key: entry.slice(..3), value: entry.slice(3..99), ..Entry::default() };
        let event = Event {
            kind: EventKind::Put,
            entry: stored.clone(),
            previous: Previous::Loaded(Some(stored.clone())),
        };
        let revision = RevisionEvents { revision: Revision(2), events: vec![event] };
        drop(stored);
        let held = detached(&revision);
        assert_eq!(held, revision);
        drop(revision);
        assert!(entry.try_into_mut().is_ok(), "nobody else holds it");
    }
}
