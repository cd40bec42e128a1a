//! How openraft's votes, memberships and entry payloads are written into the journal and engine.
//!
//! Little-endian; lengths are checked before anything is allocated. openraft's own serialisation
//! is never stored: it changes between releases.
//!
//! Vote, 18 bytes:
//! ```text
//! offset  size  field
//!      0     1  format: 1
//!      1     1  1 if committed (granted by a quorum), else 0
//!      2     8  term
//!     10     8  replica
//! ```
//! Membership:
//! ```text
//! offset  size  field
//!      0     1  format: 1
//!      1     1  configurations: 1 if uniform, 2 if joint (0: none yet)
//!      2     2  replicas, voters and learners
//!      4  17×n  per replica, ascending: id (8), node (8), mask (1: bit i = voter in
//!              configuration i)
//! ```
//! Entry payload: empty is a blank entry; a first byte 0 (which no protobuf message begins with) is
//! followed by a membership; anything else is an encoded `kv::Envelope`.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use holdfast_model::{LogIndex, NodeId, ReplicaId, Term};

use crate::error::{Error, Result};
use crate::raft::types::{Encoded, Entry, Host, LeaderId, LogId, Membership, Payload, Vote};

const VOTE_FORMAT: u8 = 1;
const VOTE_BYTES: usize = 18;
const MEMBERSHIP_FORMAT: u8 = 1;
const MEMBERSHIP_HEAD_BYTES: usize = 4;
const MEMBER_BYTES: usize = 17;
/// Bits of a member's configuration mask, and so the most configurations that are understood.
const CONFIGURATIONS_MAX: u8 = 8;
const MEMBERSHIP_TAG: u8 = 0;

pub(crate) fn encode_vote(vote: &Vote) -> Bytes {
    let mut buffer = BytesMut::with_capacity(VOTE_BYTES);
    buffer.put_u8(VOTE_FORMAT);
    buffer.put_u8(u8::from(vote.committed));
    buffer.put_u64_le(vote.leader_id.term);
    buffer.put_u64_le(vote.leader_id.node_id.0);
    buffer.freeze()
}

pub(crate) fn decode_vote(mut bytes: &[u8]) -> Result<Vote> {
    let corrupt = Error::Corrupt { what: "vote" };
    if bytes.len() != VOTE_BYTES || bytes.get_u8() != VOTE_FORMAT {
        return Err(corrupt);
    }
    let committed = match bytes.get_u8() {
        0 => false,
        1 => true,
        _ => return Err(corrupt),
    };
    let leader_id = LeaderId { term: bytes.get_u64_le(), node_id: ReplicaId(bytes.get_u64_le()) };
    Ok(Vote { leader_id, committed })
}

pub(crate) fn encode_membership(membership: &Membership) -> Bytes {
    let mut buffer = BytesMut::new();
    put_membership(&mut buffer, membership);
    buffer.freeze()
}

fn put_membership(buffer: &mut BytesMut, membership: &Membership) {
    let configurations = membership.get_joint_config();
    let members: Vec<_> = membership.nodes().collect();
    assert!(configurations.len() <= usize::from(CONFIGURATIONS_MAX), "at most a joint of two");
    buffer.reserve(MEMBERSHIP_HEAD_BYTES + members.len() * MEMBER_BYTES);
    buffer.put_u8(MEMBERSHIP_FORMAT);
    buffer.put_u8(configurations.len() as u8);
    buffer.put_u16_le(u16::try_from(members.len()).expect("a range has few replicas"));
    for (replica, host) in members {
        buffer.put_u64_le(replica.0);
        buffer.put_u64_le(host.0.0);
        let voter = |mask: u8, (i, c): (usize, &BTreeSet<ReplicaId>)| {
            mask | (u8::from(c.contains(replica)) << i)
        };
        buffer.put_u8(configurations.iter().enumerate().fold(0, voter));
    }
}

pub(crate) fn decode_membership(mut bytes: &[u8]) -> Result<Membership> {
    let corrupt = || Error::Corrupt { what: "membership" };
    if bytes.len() < MEMBERSHIP_HEAD_BYTES || bytes.get_u8() != MEMBERSHIP_FORMAT {
        return Err(corrupt());
    }
    let configurations = bytes.get_u8();
    let count = usize::from(bytes.get_u16_le());
    if configurations > CONFIGURATIONS_MAX || bytes.len() != count * MEMBER_BYTES {
        return Err(corrupt());
    }
    let mut voters = vec![BTreeSet::new(); usize::from(configurations)];
    let mut nodes = BTreeMap::new();
    for _ in 0..count {
        let replica = ReplicaId(bytes.get_u64_le());
        let host = Host(NodeId(bytes.get_u64_le()));
        let mask = bytes.get_u8();
        if nodes.insert(replica, host).is_some() || u16::from(mask) >> configurations != 0 {
            return Err(corrupt());
        }
        for (i, configuration) in voters.iter_mut().enumerate() {
            if mask & (1 << i) != 0 {
                configuration.insert(replica);
            }
        }
    }
    Membership::new(voters, nodes).map_err(|_| corrupt())
}

/// The bytes of an entry's payload, as journal and wire carry them. No copy for normal entries.
pub(crate) fn encode_payload(payload: &Payload) -> Bytes {
    match payload {
        Payload::Blank => Bytes::new(),
        Payload::Normal(Encoded(bytes)) => bytes.clone(),
        Payload::Membership(membership) => {
            let mut buffer = BytesMut::new();
            buffer.put_u8(MEMBERSHIP_TAG);
            put_membership(&mut buffer, membership);
            buffer.freeze()
        }
    }
}

/// The payload these bytes stand for. No copy for normal entries.
pub(crate) fn decode_payload(bytes: Bytes) -> Result<Payload> {
    Ok(match bytes.first() {
        None => Payload::Blank,
        Some(&MEMBERSHIP_TAG) => {
            Payload::Membership(decode_membership(bytes.get(1..).unwrap_or_default())?)
        }
        Some(_) => Payload::Normal(Encoded(bytes)),
    })
}

pub(crate) fn to_journal(log_id: &LogId) -> holdfast_journal::LogPosition {
    holdfast_journal::LogPosition {
        term: log_id.leader_id.term,
        leader: log_id.leader_id.node_id.0,
        index: log_id.index,
    }
}

pub(crate) fn from_journal(position: holdfast_journal::LogPosition) -> LogId {
    log_id(position.term, position.leader, position.index)
}

pub(crate) fn to_kv(log_id: &LogId) -> holdfast_kv::LogPosition {
    holdfast_kv::LogPosition {
        term: Term(log_id.leader_id.term),
        leader: log_id.leader_id.node_id,
        index: LogIndex(log_id.index),
    }
}

pub(crate) fn from_kv(position: holdfast_kv::LogPosition) -> LogId {
    log_id(position.term.0, position.leader.0, position.index.0)
}

pub(crate) fn log_id(term: u64, leader: u64, index: u64) -> LogId {
    LogId { leader_id: LeaderId { term, node_id: ReplicaId(leader) }, index }
}

/// An entry as the state machine takes it.
pub(crate) fn to_kv_entry(entry: &Entry) -> holdfast_kv::LogEntry {
    let kind = match &entry.payload {
        Payload::Blank => holdfast_kv::Kind::Blank,
        Payload::Normal(Encoded(bytes)) => holdfast_kv::Kind::Normal(bytes.clone()),
        Payload::Membership(membership) => {
            holdfast_kv::Kind::Membership(encode_membership(membership))
        }
    };
    holdfast_kv::LogEntry { position: to_kv(&entry.log_id), kind }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joint() -> Membership {
        let nodes: BTreeMap<_, _> = [(1000, 1), (1001, 2), (1002, 3), (1003, 4)]
            .map(|(r, n)| (ReplicaId(r), Host(NodeId(n))))
            .into();
        let voters = vec![
            BTreeSet::from([ReplicaId(1000), ReplicaId(1001)]),
            BTreeSet::from([ReplicaId(1001), ReplicaId(1002)]),
        ];
        Membership::new(voters, nodes).unwrap()
    }

    #[test]
    fn votes_keep_their_bytes() {
        for committed in [false, true] {
            let leader_id = LeaderId { term: 0x0102, node_id: ReplicaId(0x0304) };
            let vote = Vote { leader_id, committed };
            let bytes = encode_vote(&vote);
            let golden = [1, u8::from(committed), 2, 1, 0, 0, 0, 0, 0, 0, 4, 3, 0, 0, 0, 0, 0, 0];
            assert_eq!(bytes[..], golden);
            assert_eq!(decode_vote(&bytes).unwrap(), vote);
            for cut in 0..bytes.len() {
                assert!(decode_vote(&bytes[..cut]).is_err());
            }
        }
    }

    #[test]
    fn memberships_keep_their_bytes() {
        let bytes = encode_membership(&joint());
        let mut golden = vec![1, 2, 4, 0];
        let replicas = [(1000_u64, 1_u64, 1), (1001, 2, 3), (1002, 3, 2), (1003, 4, 0)];
        for (replica, node, mask) in replicas {
            golden.extend(replica.to_le_bytes());
            golden.extend(node.to_le_bytes());
            golden.push(mask);
        }
        assert_eq!(bytes[..], golden);
        assert_eq!(decode_membership(&bytes).unwrap(), joint());
        assert_eq!(
            decode_membership(&encode_membership(&Membership::default())).unwrap(),
            Membership::default()
        );
        for cut in 0..bytes.len() {
            assert!(decode_membership(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn a_voter_of_no_configuration_or_a_replica_twice_is_corrupt() {
        let mut bytes = encode_membership(&joint()).to_vec();
        bytes[20] = 4;
        assert!(decode_membership(&bytes).is_err());
        let mut bytes = encode_membership(&joint()).to_vec();
        bytes.copy_within(4..12, 21);
        assert!(decode_membership(&bytes).is_err());
    }

    #[test]
    fn payloads_of_each_kind_come_back_as_they_were() {
        let envelope = holdfast_kv::Envelope::pack(9, &[]);
        for payload in
            [Payload::Blank, Payload::Normal(Encoded(envelope)), Payload::Membership(joint())]
        {
            assert_eq!(decode_payload(encode_payload(&payload)).unwrap(), payload);
        }
    }
}
