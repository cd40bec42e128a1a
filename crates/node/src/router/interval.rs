//! Intervals of keys, and the ranges that can hold them.

use bytes::{Bytes, BytesMut};
use holdfast_model::{ClusterMap, RangeId, hashed_part, position};

use super::{Gateway, keyspace_of, no_range, range_of};
use crate::api::ApiError;

/// Keys `[start, end)`; an empty end is the end of the keyspace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interval {
    pub start: Bytes,
    pub end: Bytes,
}

impl Interval {
    /// All keys that start with `prefix`.
    pub fn prefix(prefix: &Bytes) -> Self {
        Self { start: prefix.clone(), end: after_prefix(prefix) }
    }

    /// The one key.
    pub fn one(key: &Bytes) -> Self {
        let mut end = BytesMut::with_capacity(key.len() + 1);
        end.extend_from_slice(key);
        end.extend_from_slice(&[0]);
        Self { start: key.clone(), end: end.freeze() }
    }

    /// Whether no key can lie in it.
    pub fn is_empty(&self) -> bool {
        !self.end.is_empty() && self.end <= self.start
    }
}

/// The first key after all keys that start with `prefix`; empty where there is none.
fn after_prefix(prefix: &[u8]) -> Bytes {
    let kept = prefix.iter().rposition(|byte| *byte != u8::MAX).map_or(0, |last| last + 1);
    let mut end = BytesMut::from(prefix.get(..kept).unwrap_or_default());
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end.freeze()
}

/// The position that all keys starting with `prefix` share, if they must: the prefix holds a
/// whole `{tag}`.
fn position_of_prefix(prefix: &[u8]) -> Option<u64> {
    let tagged = hashed_part(prefix).len() < prefix.len();
    tagged.then(|| position(prefix))
}

impl Gateway {
    /// The ranges that keys starting with `prefix` can lie in, in ring order; never none.
    pub(super) fn ranges_of_prefix(
        &self,
        keyspace: &str,
        prefix: &[u8],
    ) -> Result<Vec<RangeId>, ApiError> {
        let map = self.parts.map.peek();
        if let Some(position) = position_of_prefix(prefix) {
            let range = map.lookup(keyspace, position).map_err(|error| no_range(&map, error))?;
            return Ok(vec![range.id]);
        }
        all_ranges(&map, keyspace)
    }

    /// The ranges a scan or watch asks: the named one, that of a key, or those of a prefix.
    pub(super) fn ranges_of_question(
        &self,
        keyspace: &str,
        named: RangeId,
        prefix: &[u8],
        one_key: bool,
    ) -> Result<Vec<RangeId>, ApiError> {
        let map = self.parts.map.peek();
        if named.0 != 0 {
            return range_of(&map, keyspace, named).map(|range| vec![range.id]);
        }
        if one_key {
            let at = position(prefix);
            let range = map.lookup(keyspace, at).map_err(|error| no_range(&map, error))?;
            return Ok(vec![range.id]);
        }
        self.ranges_of_prefix(keyspace, prefix)
    }
}

/// Every range of a keyspace, which must cover the ring in this copy of the map.
fn all_ranges(map: &ClusterMap, keyspace: &str) -> Result<Vec<RangeId>, ApiError> {
    let name = &keyspace_of(map, keyspace)?.name;
    let ranges = map.ranges_of(keyspace).map_err(|error| no_range(map, error))?;
    let mut next = Some(0);
    for range in &ranges {
        if next != Some(range.span.start) {
            break;
        }
        next = (range.span.end != 0).then_some(range.span.end);
    }
    if next.is_some() {
        let text = format!("keyspace {name:?} is not completely known to this node yet");
        return Err(ApiError::NotHere(text));
    }
    Ok(ranges.iter().map(|range| range.id).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_model::{KeyspaceDescriptor, KeyspaceId, RangeDescriptor, RangeEpoch, Span};

    #[test]
    fn the_interval_of_a_prefix_holds_exactly_the_keys_that_start_with_it() {
        let cases: [(&[u8], &[u8]); 5] = [
            (b"", b""),
            (b"a", b"b"),
            (b"a\xff", b"b"),
            (b"\xff\xff", b""),
            (b"a\xff\x00", b"a\xff\x01"),
        ];
        for (prefix, end) in cases {
            let interval = Interval::prefix(&Bytes::from_static(prefix));
            assert_eq!(interval.end, end, "{prefix:?}");
        }
    }

    #[test]
    fn the_interval_of_a_key_holds_no_longer_key() {
        let interval = Interval::one(&Bytes::from_static(b"k"));
        assert!(interval.start.as_ref() <= b"k".as_slice());
        assert!(interval.end.as_ref() > b"k".as_slice());
        assert!(interval.end.as_ref() <= b"k\x00".as_slice());
    }

    #[test]
    fn only_a_prefix_with_a_whole_tag_lies_in_one_range() {
        assert_eq!(position_of_prefix(b"{user1}."), Some(position(b"user1")));
        assert_eq!(position_of_prefix(b"a{user1}"), Some(position(b"user1")));
        for open in [&b""[..], b"plain", b"{user1", b"a{}", b"}{"] {
            assert_eq!(position_of_prefix(open), None, "{open:?}");
        }
    }

    #[test]
    fn a_map_with_a_hole_in_the_ring_is_not_scanned() {
        let mut map = ClusterMap::new(holdfast_model::ClusterId(1), Default::default());
        let space = KeyspaceDescriptor {
            id: KeyspaceId(1),
            name: "default".into(),
            ranges: 4,
            replication_factor: 1,
            history: Default::default(),
            compaction: Default::default(),
            kind: Default::default(),
        };
        map.keyspaces.insert("default".into(), space);
        for (i, span) in Span::split_ring(4).into_iter().enumerate() {
            assert!(all_ranges(&map, "").is_err(), "{i} ranges");
            map.put_range(RangeDescriptor {
                id: RangeId(i as u64 + 1),
                keyspace: KeyspaceId(1),
                span,
                epoch: RangeEpoch(1),
                membership_log: (1, 1),
                replicas: Vec::new(),
                leader: None,
            });
        }
        assert_eq!(all_ranges(&map, "").unwrap().len(), 4);
        map.remove_range(RangeId(2));
        assert!(all_ranges(&map, "").is_err());
    }
}
