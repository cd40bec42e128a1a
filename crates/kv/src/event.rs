//! What watchers learn: the changes of each revision, in order.

use holdfast_model::Revision;

use crate::Entry;

/// All changes of one revision, ordered by operation. Never split, never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionEvents {
    /// The revision.
    pub revision: Revision,
    /// Its changes.
    pub events: Vec<Event>,
}

impl RevisionEvents {
    /// What the events count with in byte budgets, previous entries included.
    pub fn weight(&self) -> usize {
        self.events.iter().map(Event::weight).sum()
    }
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was written.
    Put,
    /// It was removed: by a client, by expiry or with its lease.
    Delete,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The version that was written; for a removal only `key` and `revision` are set.
    pub entry: Entry,
    /// The version before.
    pub previous: Previous,
}

impl Event {
    /// What the event counts with in byte budgets.
    pub fn weight(&self) -> usize {
        let previous = match &self.previous {
            Previous::Loaded(Some(entry)) => entry.weight(),
            Previous::Loaded(None) | Previous::OnDemand => 0,
        };
        self.entry.weight() + previous
    }
}

/// The version of a key before an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Previous {
    /// Known: this one, or none.
    Loaded(Option<Entry>),
    /// Not loaded; `Reader::previous` reads it where a watcher wants it.
    OnDemand,
}
