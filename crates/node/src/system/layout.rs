//! The keys of range 0 and what stands under them.
//!
//! ```text
//!  sys/cluster            Cluster: id, next ids, replication factor
//!  sys/nodes/<id>         NodeRecord: addresses, zone, weight, store id
//!  sys/keyspaces/<name>   KeyspaceRecord: settings; the plan while it is being created
//!  sys/ranges/<id>        RangeRecord: the published copy of a range
//!  sys/replicas/<id>      ReplicaRecord: active, or removed (the evidence for destroying it)
//! ```
//! Numbers are decimal with leading zeros to 20 digits, so that key order is number order.

use std::collections::BTreeMap;

use bytes::Bytes;
use holdfast_model::{
    ClusterId, ClusterMap, KeyspaceDescriptor, KeyspaceId, NodeDescriptor, RangeDescriptor,
    RangeId, ReplicaId, Revision, SYSTEM_KEYSPACE,
};
use holdfast_wire::system::v1::{
    Cluster, KeyspaceRecord, NodeRecord, RangeRecord, ReplicaRecord, replica_record,
};
use holdfast_wire::v1;
use prost::Message;

/// Prefix of every key of the layout.
pub(super) const PREFIX: &[u8] = b"sys/";
/// The record that says that the cluster is founded.
pub(super) const CLUSTER: &[u8] = b"sys/cluster";
const NODES: &str = "sys/nodes/";
const KEYSPACES: &str = "sys/keyspaces/";
const RANGES: &str = "sys/ranges/";
const REPLICAS: &str = "sys/replicas/";
/// First id given to a replica.
pub(super) const REPLICA_ID_MIN: u64 = 1_000;

fn numbered(prefix: &str, id: u64) -> Bytes {
    Bytes::from(format!("{prefix}{id:020}"))
}

pub(super) fn node_key(id: u64) -> Bytes {
    numbered(NODES, id)
}

pub(super) fn keyspace_key(name: &str) -> Bytes {
    Bytes::from(format!("{KEYSPACES}{name}"))
}

pub(super) fn range_key(id: RangeId) -> Bytes {
    numbered(RANGES, id.0)
}

pub(super) fn replica_key(id: ReplicaId) -> Bytes {
    numbered(REPLICAS, id.0)
}

/// A value with the revision it was written at.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Versioned<T> {
    pub(super) value: T,
    pub(super) revision: u64,
}

/// Everything in range 0, decoded, as of one revision.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Records {
    /// Revision of range 0 it reflects.
    pub(super) revision: u64,
    pub(super) cluster: Option<Versioned<Cluster>>,
    pub(super) nodes: BTreeMap<u64, NodeRecord>,
    pub(super) keyspaces: BTreeMap<String, Versioned<KeyspaceRecord>>,
    pub(super) ranges: BTreeMap<RangeId, Versioned<RangeRecord>>,
    pub(super) replicas: BTreeMap<ReplicaId, Versioned<ReplicaRecord>>,
}

/// A key or value of range 0 that does not decode; written by another version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("range 0 holds a record this version cannot read: {0}")]
pub(super) struct Unreadable(String);

enum Name<'a> {
    Cluster,
    Node(u64),
    Keyspace(&'a str),
    Range(RangeId),
    Replica(ReplicaId),
    /// Settings and users are read by others.
    Other,
}

fn name(key: &[u8]) -> Option<Name<'_>> {
    let key = std::str::from_utf8(key).ok()?;
    if key.as_bytes() == CLUSTER {
        return Some(Name::Cluster);
    }
    let number = |text: &str| text.parse::<u64>().ok();
    if let Some(id) = key.strip_prefix(NODES) {
        return number(id).map(Name::Node);
    }
    if let Some(name) = key.strip_prefix(KEYSPACES) {
        return Some(Name::Keyspace(name));
    }
    if let Some(id) = key.strip_prefix(RANGES) {
        return number(id).map(|id| Name::Range(RangeId(id)));
    }
    if let Some(id) = key.strip_prefix(REPLICAS) {
        return number(id).map(|id| Name::Replica(ReplicaId(id)));
    }
    Some(Name::Other)
}

fn decode<M: Message + Default>(key: &[u8], value: &[u8]) -> Result<M, Unreadable> {
    M::decode(value).map_err(|_| Unreadable(String::from_utf8_lossy(key).into_owned()))
}

impl Records {
    /// Takes over one key as it is after a change; `None` where it was deleted.
    pub(super) fn set(
        &mut self,
        key: &[u8],
        value: Option<&[u8]>,
        revision: u64,
    ) -> Result<(), Unreadable> {
        let name =
            name(key).ok_or_else(|| Unreadable(String::from_utf8_lossy(key).into_owned()))?;
        let Some(value) = value else {
            self.forget(&name);
            return Ok(());
        };
        match name {
            Name::Cluster => {
                self.cluster = Some(Versioned { value: decode(key, value)?, revision });
            }
            Name::Node(id) => drop(self.nodes.insert(id, decode(key, value)?)),
            Name::Keyspace(name) => {
                let value = decode(key, value)?;
                self.keyspaces.insert(name.to_owned(), Versioned { value, revision });
            }
            Name::Range(id) => {
                self.ranges.insert(id, Versioned { value: decode(key, value)?, revision });
            }
            Name::Replica(id) => {
                self.replicas.insert(id, Versioned { value: decode(key, value)?, revision });
            }
            Name::Other => {}
        }
        Ok(())
    }

    fn forget(&mut self, name: &Name<'_>) {
        match name {
            Name::Cluster => self.cluster = None,
            Name::Node(id) => drop(self.nodes.remove(id)),
            Name::Keyspace(name) => drop(self.keyspaces.remove(*name)),
            Name::Range(id) => drop(self.ranges.remove(id)),
            Name::Replica(id) => drop(self.replicas.remove(id)),
            Name::Other => {}
        }
    }

    /// The map these records make. Keyspaces appear once they serve and until they are dropped.
    pub(super) fn map(&self) -> Result<ClusterMap, Unreadable> {
        let unreadable = |e: holdfast_wire::WireError| Unreadable(e.to_string());
        let cluster = self.cluster.as_ref().map(|c| c.value.cluster_id.clone());
        let cluster = ClusterId::from_bytes(&cluster.unwrap_or_default()).unwrap_or_default();
        let mut map = ClusterMap::new(cluster, Revision(self.revision));
        for record in self.nodes.values() {
            let node = NodeDescriptor::try_from(record.node.clone().unwrap_or_default())
                .map_err(unreadable)?;
            map.nodes.insert(node.id, node);
        }
        for record in self.keyspaces.values().map(|r| &r.value) {
            if record.creating || record.dropping {
                continue;
            }
            let keyspace = record.keyspace.clone().unwrap_or_default();
            let keyspace = KeyspaceDescriptor::try_from(keyspace).map_err(unreadable)?;
            map.keyspaces.insert(keyspace.name.clone(), keyspace);
        }
        for record in self.ranges.values() {
            let range = record.value.range.clone().unwrap_or_default();
            map.put_range(RangeDescriptor::try_from(range).map_err(unreadable)?);
        }
        Ok(map)
    }

    /// Whether range 0 says that the replica was removed.
    pub(super) fn is_removed(&self, replica: ReplicaId) -> bool {
        self.replicas.get(&replica).is_some_and(|r| is_removed(&r.value))
    }
}

/// Whether the record is the evidence that a replica may be destroyed.
pub(super) fn is_removed(record: &ReplicaRecord) -> bool {
    record.state() == replica_record::State::Removed
}

/// The keyspace of range 0.
pub(super) fn system_keyspace(replication_factor: u32) -> v1::Keyspace {
    v1::Keyspace {
        id: KeyspaceId(0).0,
        name: SYSTEM_KEYSPACE.into(),
        ranges: 1,
        replication_factor,
        history: Some(holdfast_model::History::default().into()),
        compaction: v1::Compaction::Leveled.into(),
        kind: v1::KeyspaceKind::Native.into(),
    }
}

/// The records of a range's replicas when they begin.
pub(super) fn replica_records(range: &v1::Range) -> Vec<(Bytes, Bytes)> {
    let record = |replica: &v1::Replica| {
        let record = ReplicaRecord {
            range_id: range.id,
            node_id: replica.node_id,
            state: replica_record::State::Active.into(),
        };
        (replica_key(ReplicaId(replica.id)), record.encode_to_vec().into())
    };
    range.replicas.iter().map(record).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyspace(creating: bool, dropping: bool) -> KeyspaceRecord {
        let keyspace = v1::Keyspace { id: 7, name: "a".into(), ..system_keyspace(3) };
        KeyspaceRecord { keyspace: Some(keyspace), creating, dropping, ..KeyspaceRecord::default() }
    }

    #[test]
    fn keys_sort_as_their_numbers_do() {
        assert!(range_key(RangeId(9)) < range_key(RangeId(10)));
        assert!(range_key(RangeId(u64::MAX)) > range_key(RangeId(10)));
    }

    #[test]
    fn a_keyspace_is_in_the_map_only_while_it_serves() {
        for (creating, dropping, is_there) in
            [(true, false, false), (false, false, true), (false, true, false)]
        {
            let mut records = Records::default();
            let value = keyspace(creating, dropping).encode_to_vec();
            records.set(&keyspace_key("a"), Some(&value), 3).unwrap();
            assert_eq!(records.map().unwrap().keyspaces.contains_key("a"), is_there);
        }
    }

    #[test]
    fn what_is_deleted_is_forgotten_and_what_does_not_decode_is_an_error() {
        let mut records = Records::default();
        let record = ReplicaRecord {
            state: replica_record::State::Removed.into(),
            ..ReplicaRecord::default()
        };
        let key = replica_key(ReplicaId(1000));
        records.set(&key, Some(&record.encode_to_vec()), 3).unwrap();
        assert!(records.is_removed(ReplicaId(1000)));
        records.set(&key, None, 4).unwrap();
        assert!(!records.is_removed(ReplicaId(1000)));
        assert_eq!(records, Records::default());
        assert!(records.set(&key, Some(&[0xff; 3]), 5).is_err());
        assert!(records.set(b"sys/settings/x", Some(&[0xff; 3]), 5).is_ok());
    }
}
