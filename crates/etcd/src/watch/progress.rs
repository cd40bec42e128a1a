//! How far the watches of a stream are, when the client asks and now and then.
//!
//! A client that asks for progress is told one revision for all watches: that of the watch which
//! is furthest behind, once every watch has said how far it is. One that reads history says so
//! when it has caught up.

use std::collections::BTreeSet;

use holdfast_model::Revision;
use holdfast_wire::etcd::etcdserverpb::{ResponseHeader, WatchResponse};

use super::Multiplexer;
use super::answer::BROADCAST_ID;

/// One wish for progress of all watches.
#[derive(Debug, Default)]
pub(super) struct Round {
    /// Watches that have not said how far they are.
    awaited: BTreeSet<i64>,
    /// The lowest revision that was said, in a whole header.
    lowest: Option<ResponseHeader>,
}

impl Round {
    fn of(awaited: BTreeSet<i64>) -> Self {
        Self { awaited, lowest: None }
    }

    /// A watch has said how far it is. Whether there is nobody left to wait for.
    fn reached(&mut self, id: i64, header: ResponseHeader) -> bool {
        if self.awaited.remove(&id) {
            let is_lower = |lowest: &ResponseHeader| header.revision < lowest.revision;
            if self.lowest.as_ref().is_none_or(is_lower) {
                self.lowest = Some(header);
            }
        }
        self.awaited.is_empty()
    }

    /// A watch has ended. Whether there is nobody left to wait for.
    fn left(&mut self, id: i64) -> bool {
        self.awaited.remove(&id);
        self.awaited.is_empty()
    }
}

impl Multiplexer {
    /// Asks every watch how far it is, unless that is being found out already.
    pub(super) fn begin_round(&mut self) {
        if self.round.is_some() || self.watches.is_empty() {
            return;
        }
        self.round = Some(Round::of(self.watches.keys().copied().collect()));
        for watch in self.watches.values() {
            watch.ask();
        }
    }

    /// Asks those that want to hear now and then and have had nothing to hear.
    pub(super) fn ask_the_quiet(&mut self) {
        for watch in self.watches.values_mut() {
            watch.beat();
        }
    }

    /// A watch is as far as `header`: what is to be said to all of them.
    pub(super) fn reached(&mut self, id: i64, header: ResponseHeader) -> Option<WatchResponse> {
        let revision = Revision(u64::try_from(header.revision).unwrap_or(0));
        let has_begun = self.watches.get(&id).is_some_and(|watch| watch.has_begun_by(revision));
        let round = self.round.as_mut()?;
        if !has_begun && round.awaited.contains(&id) {
            // etcd says nothing while a watch waits for a revision to come.
            self.round = None;
            return None;
        }
        let is_over = round.reached(id, header);
        self.end_round(is_over)
    }

    /// A watch has ended: what is to be said to the others.
    pub(super) fn left_round(&mut self, id: i64) -> Option<WatchResponse> {
        let is_over = self.round.as_mut()?.left(id);
        self.end_round(is_over)
    }

    fn end_round(&mut self, is_over: bool) -> Option<WatchResponse> {
        if !is_over {
            return None;
        }
        let header = Some(self.round.take()?.lowest?);
        Some(WatchResponse { header, watch_id: BROADCAST_ID, ..WatchResponse::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(revision: i64) -> ResponseHeader {
        ResponseHeader { revision, ..ResponseHeader::default() }
    }

    #[test]
    fn all_watches_are_as_far_as_the_one_furthest_behind() {
        let mut round = Round::of([1, 2, 3].into());
        assert!(!round.reached(2, at(9)));
        assert!(!round.reached(1, at(7)));
        assert!(!round.reached(1, at(3)), "said before, and counted once");
        assert!(round.reached(3, at(8)));
        assert_eq!(round.lowest, Some(at(7)));
    }

    #[test]
    fn nobody_waits_for_a_watch_that_has_ended() {
        let mut round = Round::of([1, 2].into());
        assert!(!round.reached(1, at(7)));
        assert!(round.left(2));
        assert_eq!(round.lowest, Some(at(7)));
        assert!(Round::of([1].into()).left(1));
    }
}
