//! Between the types of the API and the messages of the wire, in both directions.
//!
//! Shared by the public services and by forwarding between nodes. Nothing is decided here.

use std::time::Duration;

use bytes::Bytes;
use holdfast_kv as kv;
use holdfast_model::{ClusterId, LeaseId, NodeId, RangeEpoch, RangeId, Revision, Term};
use holdfast_wire::v1;

use crate::api::{Header, Point, ReadLevel, Staleness};

pub(crate) fn header(header: &Header) -> v1::Header {
    v1::Header {
        cluster_id: Bytes::copy_from_slice(&header.cluster.to_bytes()),
        node_id: header.node.0,
        range_id: header.range.0,
        range_epoch: header.epoch.0,
        revision: header.revision.0,
        clock_ms: header.clock_ms,
        term: header.term.0,
        leader_node_id: header.leader.map_or(0, |node| node.0),
    }
}

pub(crate) fn header_from(message: &v1::Header) -> Header {
    Header {
        cluster: ClusterId::from_bytes(&message.cluster_id).unwrap_or_default(),
        node: NodeId(message.node_id),
        range: RangeId(message.range_id),
        epoch: RangeEpoch(message.range_epoch),
        revision: Revision(message.revision),
        clock_ms: message.clock_ms,
        term: Term(message.term),
        leader: (message.leader_node_id != 0).then_some(NodeId(message.leader_node_id)),
    }
}

pub(crate) fn entry(entry: kv::Entry) -> v1::Entry {
    v1::Entry {
        key: entry.key,
        value: entry.value,
        revision: entry.revision.0,
        create_revision: entry.create_revision.0,
        version: entry.version,
        lease_id: entry.lease.0,
        expires_at_ms: entry.expires_at_ms,
    }
}

pub(crate) fn entry_from(message: v1::Entry) -> kv::Entry {
    kv::Entry {
        key: message.key,
        value: message.value,
        revision: Revision(message.revision),
        create_revision: Revision(message.create_revision),
        version: message.version,
        lease: LeaseId(message.lease_id),
        expires_at_ms: message.expires_at_ms,
    }
}

pub(crate) fn staleness(staleness: Staleness) -> v1::Staleness {
    let bound_ms = u64::try_from(staleness.bound.as_millis()).unwrap_or(u64::MAX);
    v1::Staleness { bound_ms, clock_based: staleness.clock_based }
}

pub(crate) fn staleness_from(message: v1::Staleness) -> Staleness {
    let bound = Duration::from_millis(message.bound_ms);
    Staleness { bound, clock_based: message.clock_based }
}

pub(crate) fn level(level: ReadLevel) -> v1::ReadLevel {
    match level {
        ReadLevel::Linearizable => v1::ReadLevel::Linearizable,
        ReadLevel::Lease => v1::ReadLevel::Lease,
        ReadLevel::Follower => v1::ReadLevel::Follower,
    }
}

pub(crate) fn level_from(level: v1::ReadLevel) -> ReadLevel {
    match level {
        v1::ReadLevel::Unspecified | v1::ReadLevel::Linearizable => ReadLevel::Linearizable,
        v1::ReadLevel::Lease => ReadLevel::Lease,
        v1::ReadLevel::Follower => ReadLevel::Follower,
    }
}

pub(crate) fn point(range: RangeId, point: Point) -> v1::ReadPoint {
    v1::ReadPoint { revision: point.revision.0, clock_ms: point.clock_ms, range_id: range.0 }
}

pub(crate) fn event(event: kv::Event) -> v1::WatchEvent {
    let kind = match event.kind {
        kv::EventKind::Put => v1::watch_event::Kind::Put,
        kv::EventKind::Delete => v1::watch_event::Kind::Delete,
    };
    let previous = match event.previous {
        kv::Previous::Loaded(previous) => previous.map(entry),
        kv::Previous::OnDemand => None,
    };
    v1::WatchEvent { kind: kind.into(), entry: Some(entry(event.entry)), previous }
}

pub(crate) fn event_from(message: v1::WatchEvent) -> Option<kv::Event> {
    let kind = match message.kind() {
        v1::watch_event::Kind::Put => kv::EventKind::Put,
        v1::watch_event::Kind::Delete => kv::EventKind::Delete,
        v1::watch_event::Kind::Unspecified => return None,
    };
    Some(kv::Event {
        kind,
        entry: entry_from(message.entry?),
        previous: kv::Previous::Loaded(message.previous.map(entry_from)),
    })
}
