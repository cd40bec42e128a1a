//! Answers of a watch stream.

use holdfast_kv::{Event as Change, EventKind, Previous, RevisionEvents};
use holdfast_wire::etcd::etcdserverpb::{ResponseHeader, WatchResponse};
use holdfast_wire::etcd::mvccpb::Event;
use holdfast_wire::etcd::mvccpb::event::EventType;
use prost::Message;

use crate::key_value;

/// The id of what is said about no watch, or about all of them.
pub(super) const BROADCAST_ID: i64 = -1;

/// A watch that never stood.
pub(super) fn refused(header: ResponseHeader, cancel_reason: String) -> WatchResponse {
    WatchResponse {
        header: Some(header),
        watch_id: BROADCAST_ID,
        created: true,
        canceled: true,
        cancel_reason,
        ..WatchResponse::default()
    }
}

/// A watch that stood and cannot go on: history before `oldest` is given up, or another reason.
pub(super) fn ended(
    header: ResponseHeader,
    watch_id: i64,
    oldest: Option<u64>,
    cancel_reason: String,
) -> WatchResponse {
    let compact_revision = i64::try_from(oldest.unwrap_or(0)).unwrap_or(i64::MAX);
    WatchResponse {
        header: Some(header),
        watch_id,
        canceled: true,
        compact_revision,
        cancel_reason,
        ..WatchResponse::default()
    }
}

/// What whole revisions did.
pub(super) fn happened(
    header: ResponseHeader,
    watch_id: i64,
    revisions: Vec<RevisionEvents>,
) -> WatchResponse {
    let events = revisions.into_iter().flat_map(|revision| revision.events).map(event).collect();
    WatchResponse { header: Some(header), watch_id, events, ..WatchResponse::default() }
}

fn event(change: Change) -> Event {
    let kind = match change.kind {
        EventKind::Put => EventType::Put,
        EventKind::Delete => EventType::Delete,
    };
    let is_new = kind == EventType::Put && change.entry.version == 1;
    let previous = match change.previous {
        Previous::Loaded(previous) => previous.filter(|_| !is_new),
        Previous::OnDemand => None,
    };
    Event {
        r#type: kind.into(),
        kv: Some(key_value(change.entry)),
        prev_kv: previous.map(key_value),
    }
}

/// An answer in pieces that each weigh less than `bytes_max`, or hold one event.
pub(super) fn fragments(answer: WatchResponse, bytes_max: Option<usize>) -> Vec<WatchResponse> {
    let limit = bytes_max.unwrap_or(usize::MAX);
    if answer.events.len() < 2 || answer.encoded_len() < limit {
        return vec![answer];
    }
    let WatchResponse { events, .. } = answer;
    let frame = WatchResponse { events: Vec::new(), fragment: true, ..answer };
    let empty = frame.encoded_len();
    let (mut pieces, mut weight) = (vec![frame.clone()], empty);
    for event in events {
        let event_bytes = field_bytes(event.encoded_len());
        let is_first = pieces.last().is_none_or(|piece| piece.events.is_empty());
        if !is_first && weight + event_bytes >= limit {
            pieces.push(frame.clone());
            weight = empty;
        }
        weight += event_bytes;
        if let Some(piece) = pieces.last_mut() {
            piece.events.push(event);
        }
    }
    if let Some(last) = pieces.last_mut() {
        last.fragment = false;
    }
    pieces
}

/// What a message of `bytes` takes inside another one: a tag of one byte, its length, itself.
fn field_bytes(bytes: usize) -> usize {
    1 + prost::length_delimiter_len(bytes) + bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_kv::Entry;
    use holdfast_model::Revision;

    fn change(kind: EventKind, version: u64) -> Change {
        let key = "k".into();
        let entry = Entry { key, version, revision: Revision(7), ..Entry::default() };
        let before = Entry { value: "before".into(), ..entry.clone() };
        Change { kind, entry, previous: Previous::Loaded(Some(before)) }
    }

    fn answer(values: &[usize]) -> WatchResponse {
        let events = values.iter().map(|bytes| {
            let entry = Entry { value: vec![7; *bytes].into(), ..Entry::default() };
            event(Change { kind: EventKind::Put, entry, previous: Previous::OnDemand })
        });
        let header = Some(ResponseHeader { revision: 9, ..ResponseHeader::default() });
        WatchResponse { header, watch_id: 4, events: events.collect(), ..WatchResponse::default() }
    }

    #[test]
    fn what_was_there_before_is_told_of_changes_and_removals_not_of_new_keys() {
        let revision = |event| vec![RevisionEvents { revision: Revision(7), events: vec![event] }];
        for (kind, version, told) in
            [(EventKind::Put, 1, false), (EventKind::Put, 2, true), (EventKind::Delete, 0, true)]
        {
            let answer = happened(ResponseHeader::default(), 1, revision(change(kind, version)));
            assert_eq!(answer.events[0].prev_kv.is_some(), told, "{kind:?} {version}");
        }
    }

    #[test]
    fn pieces_hold_every_event_once_and_all_but_the_last_say_that_more_comes() {
        let whole = answer(&[40, 40, 500, 10, 10, 10, 60]);
        let pieces = fragments(whole.clone(), Some(120));
        assert!(pieces.len() > 2);
        let (last, before) = pieces.split_last().unwrap();
        assert!(!last.fragment && before.iter().all(|piece| piece.fragment));
        for piece in &pieces {
            assert_eq!((&piece.header, piece.watch_id), (&whole.header, 4));
            assert!(piece.events.len() == 1 || piece.encoded_len() < 120);
        }
        let events: Vec<_> = pieces.into_iter().flat_map(|piece| piece.events).collect();
        assert_eq!(events, whole.events);
    }

    #[test]
    fn without_a_bound_or_below_it_an_answer_stays_whole() {
        for bytes_max in [None, Some(4096)] {
            assert_eq!(fragments(answer(&[9; 20]), bytes_max), [answer(&[9; 20])]);
        }
        assert_eq!(fragments(answer(&[500]), Some(100)).len(), 1);
    }
}
