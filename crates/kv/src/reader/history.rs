//! Changes told again from history.

use holdfast_env::defect;
use holdfast_lsm::{Change, Family};
use holdfast_model::Revision;

use super::Reader;
use crate::working::decode;
use crate::{Entry, Error, Event, EventKind, Previous, Result, RevisionEvents};

/// Changes in order, and how far they are complete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangesPage {
    /// Whole revisions, ascending; those that touched no key are left out.
    pub revisions: Vec<RevisionEvents>,
    /// Everything up to this revision is told; go on from here.
    pub complete_to: Revision,
}

impl Reader {
    /// Changes of revisions in `(since, upto]`, for watchers that were not there.
    ///
    /// At most about `bytes_max` bytes, but at least one whole revision where there is one. With
    /// `previous` every event carries the version before, as far as history reaches.
    ///
    /// # Errors
    /// [`Error::Compacted`] where changes after `since` are given up: the watcher must start over.
    pub fn changes(
        &self,
        since: Revision,
        upto: Revision,
        bytes_max: usize,
        previous: bool,
    ) -> Result<ChangesPage> {
        self.shared.noted(self.read_changes(since, upto, bytes_max, previous))
    }

    fn read_changes(
        &self,
        since: Revision,
        upto: Revision,
        bytes_max: usize,
        previous: bool,
    ) -> Result<ChangesPage> {
        let truth = self.configured()?;
        if since.0 + 1 < self.compacted().0 && !defect!(WATCH_LOSES_COMPACTED) {
            return Err(Error::Compacted { oldest: self.compacted() });
        }
        let newest = self.point().revision;
        let upto = upto.min(newest);
        if since >= upto {
            return Ok(ChangesPage { revisions: Vec::new(), complete_to: since.min(newest) });
        }
        let found = self.engine.changes(since, upto, bytes_max)?;
        let mut page = ChangesPage { revisions: Vec::new(), complete_to: found.complete_to };
        for change in found.changes {
            if !truth.owns(&change.key) {
                continue;
            }
            let revision = change.revision;
            let mut event = event(change)?;
            if previous {
                event.previous = Previous::Loaded(self.previous(&event)?);
            }
            match page.revisions.last_mut() {
                Some(last) if last.revision == revision => last.events.push(event),
                _ => page.revisions.push(RevisionEvents { revision, events: vec![event] }),
            }
        }
        Ok(page)
    }

    /// The version before an event; none where there was none or history has lost it.
    ///
    /// # Errors
    /// Engine errors.
    pub fn previous(&self, event: &Event) -> Result<Option<Entry>> {
        if let Previous::Loaded(previous) = &event.previous {
            return Ok(previous.clone());
        }
        let key = &event.entry.key;
        let before = Revision(event.entry.revision.0.saturating_sub(1));
        if before < self.compacted() {
            return Ok(None);
        }
        let found = self.engine.get(Family::Data, key, self.point().at_revision(before));
        self.shared.noted(match found {
            Ok(record) => record.map(|record| decode(key.clone(), record)).transpose(),
            Err(holdfast_lsm::Error::Compacted { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        })
    }
}

fn event(change: Change) -> Result<Event> {
    let Change { key, revision, value, .. } = change;
    let (kind, entry) = match value {
        Some(value) => (EventKind::Put, Entry::decode(key, revision, value)?),
        None => (EventKind::Delete, Entry { key, revision, ..Entry::default() }),
    };
    Ok(Event { kind, entry, previous: Previous::OnDemand })
}
