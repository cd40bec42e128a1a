//! openraft's messages as the peer protocol spells them, and back.
//!
//! What a peer sends is checked here; a message that lacks a part is refused, never filled up.

use holdfast_model::ReplicaId;
use holdfast_wire::peer::v1 as peer;
use openraft::Membership;

use crate::error::{Error, Result};
use crate::raft::codec;
use crate::raft::types::{
    AppendEntries, AppendError, AppendResult, Entry, LeaderId, LogId, StoredMembership, Transfer,
    Vote, VoteRequest, VoteResponse,
};

pub(crate) fn vote_to_wire(vote: &Vote) -> peer::Vote {
    peer::Vote {
        term: vote.leader_id.term,
        node: vote.leader_id.node_id.0,
        committed: vote.committed,
    }
}

pub(crate) fn vote_from_wire(vote: Option<&peer::Vote>) -> Result<Vote> {
    let vote = vote.ok_or(Error::Malformed("vote is missing"))?;
    let leader_id = LeaderId { term: vote.term, node_id: ReplicaId(vote.node) };
    Ok(Vote { leader_id, committed: vote.committed })
}

pub(crate) fn log_id_to_wire(log_id: &LogId) -> peer::LogId {
    peer::LogId {
        term: log_id.leader_id.term,
        leader: log_id.leader_id.node_id.0,
        index: log_id.index,
    }
}

pub(crate) fn log_id_from_wire(log_id: &peer::LogId) -> LogId {
    codec::log_id(log_id.term, log_id.leader, log_id.index)
}

/// `clock_ms` is the leader's range time.
pub(crate) fn append_to_wire(request: &AppendEntries, clock_ms: u64) -> peer::AppendRequest {
    let entry = |entry: &Entry| peer::LogEntry {
        log_id: Some(log_id_to_wire(&entry.log_id)),
        payload: codec::encode_payload(&entry.payload),
    };
    peer::AppendRequest {
        vote: Some(vote_to_wire(&request.vote)),
        prev: request.prev_log_id.as_ref().map(log_id_to_wire),
        commit: request.leader_commit.as_ref().map(log_id_to_wire),
        entries: request.entries.iter().map(entry).collect(),
        clock_ms,
    }
}

pub(crate) fn append_from_wire(request: peer::AppendRequest) -> Result<AppendEntries> {
    let vote = vote_from_wire(request.vote.as_ref())?;
    let prev_log_id = request.prev.as_ref().map(log_id_from_wire);
    let first = prev_log_id.map_or(0, |id| id.index + 1);
    let mut entries = Vec::with_capacity(request.entries.len());
    for (next, entry) in (first..).zip(request.entries) {
        let log_id = entry.log_id.as_ref().ok_or(Error::Malformed("entry without a log id"))?;
        if log_id.index != next {
            return Err(Error::Malformed("entries with a gap"));
        }
        let payload = codec::decode_payload(entry.payload)
            .map_err(|_| Error::Malformed("entry with a malformed membership"))?;
        entries.push(Entry { log_id: log_id_from_wire(log_id), payload });
    }
    let leader_commit = request.commit.as_ref().map(log_id_from_wire);
    Ok(AppendEntries { vote, prev_log_id, entries, leader_commit })
}

pub(crate) fn append_result_to_wire(result: &AppendResult) -> peer::AppendResponse {
    use peer::append_response::Kind;
    let (kind, log_id, vote) = match result {
        Ok(matched) => (Kind::Matched, matched.as_ref().map(log_id_to_wire), None),
        Err(AppendError::Conflict(prev)) => (Kind::Conflict, Some(log_id_to_wire(prev)), None),
        Err(AppendError::HigherVote(vote)) => (Kind::HigherVote, None, Some(vote_to_wire(vote))),
    };
    peer::AppendResponse { kind: kind.into(), log_id, vote, detail: String::new() }
}

/// The answer to an append where the Raft group has stopped.
pub(crate) fn append_fatal_to_wire(detail: String) -> peer::AppendResponse {
    let kind = peer::append_response::Kind::Fatal.into();
    peer::AppendResponse { kind, log_id: None, vote: None, detail }
}

/// # Errors
/// [`Error::Stopped`] if the peer's group has stopped, [`Error::Malformed`].
pub(crate) fn append_result_from_wire(response: &peer::AppendResponse) -> Result<AppendResult> {
    use peer::append_response::Kind;
    let log_id = response.log_id.as_ref().map(log_id_from_wire);
    Ok(match response.kind() {
        Kind::Matched => Ok(log_id),
        Kind::Conflict => {
            Err(AppendError::Conflict(log_id.ok_or(Error::Malformed("conflict without a log id"))?))
        }
        Kind::HigherVote => Err(AppendError::HigherVote(vote_from_wire(response.vote.as_ref())?)),
        Kind::Fatal => return Err(Error::Stopped(response.detail.clone())),
        Kind::Unspecified => return Err(Error::Malformed("append answer of no kind")),
    })
}

pub(crate) fn vote_request_to_wire(request: &VoteRequest, pre_vote: bool) -> peer::VoteRequest {
    peer::VoteRequest {
        vote: Some(vote_to_wire(&request.vote)),
        last_log_id: request.last_log_id.as_ref().map(log_id_to_wire),
        leadership_transfer: request.leadership_transfer,
        pre_vote,
    }
}

pub(crate) fn vote_request_from_wire(request: &peer::VoteRequest) -> Result<VoteRequest> {
    Ok(VoteRequest {
        vote: vote_from_wire(request.vote.as_ref())?,
        last_log_id: request.last_log_id.as_ref().map(log_id_from_wire),
        leadership_transfer: request.leadership_transfer,
    })
}

pub(crate) fn vote_response_to_wire(response: &VoteResponse) -> peer::VoteResponse {
    peer::VoteResponse {
        vote: Some(vote_to_wire(&response.vote)),
        granted: response.vote_granted,
        last_log_id: response.last_log_id.as_ref().map(log_id_to_wire),
    }
}

pub(crate) fn vote_response_from_wire(response: &peer::VoteResponse) -> Result<VoteResponse> {
    Ok(VoteResponse {
        vote: vote_from_wire(response.vote.as_ref())?,
        vote_granted: response.granted,
        last_log_id: response.last_log_id.as_ref().map(log_id_from_wire),
    })
}

pub(crate) fn transfer_to_wire(request: &Transfer) -> peer::TransferLeader {
    peer::TransferLeader {
        from_leader: Some(vote_to_wire(request.from_leader())),
        to_replica: request.to_node_id().0,
        last_log_id: request.last_log_id().map(log_id_to_wire),
    }
}

pub(crate) fn transfer_from_wire(request: &peer::TransferLeader) -> Result<Transfer> {
    Ok(Transfer::new(
        vote_from_wire(request.from_leader.as_ref())?,
        ReplicaId(request.to_replica),
        request.last_log_id.as_ref().map(log_id_from_wire),
    ))
}

/// The membership a snapshot header carries.
pub(crate) fn membership_from_header(header: &peer::SnapshotHeader) -> Result<StoredMembership> {
    let log_id = header.membership_log_id.as_ref().map(log_id_from_wire);
    let membership = match header.membership.is_empty() {
        true => Membership::default(),
        false => codec::decode_membership(&header.membership)
            .map_err(|_| Error::Malformed("snapshot with a malformed membership"))?,
    };
    Ok(StoredMembership::new(log_id, membership))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::{Encoded, Payload};

    fn request() -> AppendEntries {
        let entry = |index, payload| Entry { log_id: codec::log_id(3, 1001, index), payload };
        AppendEntries {
            vote: Vote::new_committed(3, ReplicaId(1001)),
            prev_log_id: Some(codec::log_id(2, 1000, 6)),
            entries: vec![
                entry(7, Payload::Blank),
                entry(8, Payload::Normal(Encoded(holdfast_kv::Envelope::pack(1, &[])))),
            ],
            leader_commit: Some(codec::log_id(2, 1000, 5)),
        }
    }

    #[test]
    fn an_append_survives_the_wire() {
        let back = append_from_wire(append_to_wire(&request(), 7)).unwrap();
        assert_eq!(format!("{back:?}"), format!("{:?}", request()));
        assert_eq!(back.entries, request().entries);
    }

    #[test]
    fn an_append_with_a_gap_or_without_a_vote_is_refused() {
        let mut gap = append_to_wire(&request(), 7);
        gap.entries.remove(0);
        assert!(append_from_wire(gap).is_err());
        let voteless = peer::AppendRequest { vote: None, ..append_to_wire(&request(), 7) };
        assert!(append_from_wire(voteless).is_err());
    }

    #[test]
    fn answers_to_appends_survive_the_wire() {
        let vote = Vote::new(9, ReplicaId(7));
        let id = codec::log_id(1, 2, 3);
        let results: [AppendResult; 4] = [
            Ok(None),
            Ok(Some(id)),
            Err(AppendError::Conflict(id)),
            Err(AppendError::HigherVote(vote)),
        ];
        for result in results {
            let back = append_result_from_wire(&append_result_to_wire(&result)).unwrap();
            assert_eq!(back, result);
        }
        let fatal = append_result_from_wire(&append_fatal_to_wire("disk".into()));
        assert!(matches!(fatal, Err(Error::Stopped(_))));
        assert!(append_result_from_wire(&peer::AppendResponse::default()).is_err());
    }

    #[test]
    fn a_vote_request_keeps_the_mark_of_a_transfer() {
        let mut request = VoteRequest::new(Vote::new(9, ReplicaId(7)), None);
        request.leadership_transfer = true;
        let wire = vote_request_to_wire(&request, true);
        assert!(wire.pre_vote && wire.leadership_transfer);
        assert_eq!(vote_request_from_wire(&wire).unwrap(), request);
    }
}
