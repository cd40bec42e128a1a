//! Answers as etcd's clients read them.

use holdfast_kv::{Entry, EtcdOutcome, EtcdResult, Mutation};
use holdfast_model::{ClusterId, KeyspaceId, Revision};
use holdfast_node::api::Header;
use holdfast_wire::etcd::etcdserverpb::response_op::Response;
use holdfast_wire::etcd::etcdserverpb::{
    DeleteRangeResponse, PutResponse, RangeResponse, ResponseHeader, ResponseOp, TxnResponse,
};
use holdfast_wire::etcd::mvccpb::KeyValue;
use xxhash_rust::xxh3::xxh3_64;

/// Makes answers of one keyspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answers {
    cluster_id: u64,
}

impl Answers {
    /// Of a keyspace, which is an etcd cluster of its own.
    pub fn of(cluster: ClusterId, keyspace: KeyspaceId) -> Self {
        let mut bytes = [0; 24];
        let (head, tail) = bytes.split_at_mut(16);
        head.copy_from_slice(&cluster.to_bytes());
        tail.copy_from_slice(&keyspace.0.to_be_bytes());
        // 0 would mean that the header was not filled.
        Self { cluster_id: xxh3_64(&bytes).max(1) }
    }

    /// The header of an answer that was formed at `header`'s revision.
    pub fn header(self, header: &Header) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.cluster_id,
            member_id: header.node.0,
            revision: signed(header.revision.0),
            raft_term: header.term.0,
        }
    }

    /// The answer to a put that was carried out natively.
    pub fn put(self, header: &Header, mutation: Mutation) -> PutResponse {
        let prev_kv = mutation.previous.map(key_value);
        PutResponse { header: Some(self.header(header)), prev_kv }
    }

    /// The answer to the removal of one key that was carried out natively.
    pub fn delete(self, header: &Header, mutation: Mutation) -> DeleteRangeResponse {
        DeleteRangeResponse {
            header: Some(self.header(header)),
            deleted: signed(mutation.count),
            prev_kvs: mutation.previous.map(key_value).into_iter().collect(),
        }
    }

    /// The answer to a transaction. Its parts tell their revision, and nothing else of the header.
    pub fn txn(self, header: &Header, outcome: EtcdOutcome) -> TxnResponse {
        let EtcdOutcome { succeeded, results, .. } = outcome;
        let responses = results.into_iter().map(part).collect();
        TxnResponse { header: Some(self.header(header)), succeeded, responses }
    }

    /// The answer to a range, which was carried out as a transaction of one step; `None` where the
    /// outcome is another's.
    pub fn range(self, header: &Header, outcome: EtcdOutcome) -> Option<RangeResponse> {
        match only(outcome)? {
            Response::ResponseRange(range) => {
                Some(RangeResponse { header: Some(self.header(header)), ..range })
            }
            _ => None,
        }
    }

    /// The answer to a put, likewise.
    pub fn etcd_put(self, header: &Header, outcome: EtcdOutcome) -> Option<PutResponse> {
        match only(outcome)? {
            Response::ResponsePut(put) => {
                Some(PutResponse { header: Some(self.header(header)), ..put })
            }
            _ => None,
        }
    }

    /// The answer to the removal of an interval, likewise.
    pub fn delete_range(
        self,
        header: &Header,
        outcome: EtcdOutcome,
    ) -> Option<DeleteRangeResponse> {
        match only(outcome)? {
            Response::ResponseDeleteRange(delete) => {
                Some(DeleteRangeResponse { header: Some(self.header(header)), ..delete })
            }
            _ => None,
        }
    }
}

/// An entry as etcd's clients read it.
pub fn key_value(entry: Entry) -> KeyValue {
    KeyValue {
        key: entry.key,
        create_revision: signed(entry.create_revision.0),
        mod_revision: signed(entry.revision.0),
        version: signed(entry.version),
        value: entry.value,
        lease: entry.lease.0.cast_signed(),
    }
}

/// The response of the one step of an outcome.
fn only(outcome: EtcdOutcome) -> Option<Response> {
    let mut results = outcome.results.into_iter();
    match (results.next(), results.next()) {
        (Some(result), None) => part(result).response,
        _ => None,
    }
}

fn part(result: EtcdResult) -> ResponseOp {
    let response = match result {
        EtcdResult::Range { entries, more, count, revision } => {
            let kvs = entries.into_iter().map(key_value).collect();
            let (header, count) = (at(revision), signed(count));
            Response::ResponseRange(RangeResponse { header, kvs, more, count })
        }
        EtcdResult::Put { previous, revision } => {
            let prev_kv = previous.map(key_value);
            Response::ResponsePut(PutResponse { header: at(revision), prev_kv })
        }
        EtcdResult::DeleteRange { count, previous, revision } => {
            let prev_kvs = previous.into_iter().map(key_value).collect();
            let (header, deleted) = (at(revision), signed(count));
            Response::ResponseDeleteRange(DeleteRangeResponse { header, deleted, prev_kvs })
        }
        EtcdResult::Txn { succeeded, results } => {
            let responses = results.into_iter().map(part).collect();
            let header = Some(ResponseHeader::default());
            Response::ResponseTxn(TxnResponse { header, succeeded, responses })
        }
    };
    ResponseOp { response: Some(response) }
}

fn at(revision: Revision) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision: signed(revision.0), ..ResponseHeader::default() })
}

/// Revisions and counts never come near the bound.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use holdfast_model::{LeaseId, NodeId, Term};

    use super::*;

    fn header() -> Header {
        Header { node: NodeId(3), revision: Revision(9), term: Term(4), ..Header::default() }
    }

    fn answers() -> Answers {
        Answers::of(ClusterId(7), KeyspaceId(2))
    }

    fn entry() -> Entry {
        Entry {
            key: "k".into(),
            value: "v".into(),
            revision: Revision(5),
            create_revision: Revision(3),
            version: 2,
            lease: LeaseId(u64::MAX),
            expires_at_ms: 0,
        }
    }

    fn outcome(results: Vec<EtcdResult>) -> EtcdOutcome {
        EtcdOutcome { succeeded: true, revision: Revision(9), changed: true, results }
    }

    #[test]
    fn every_keyspace_is_a_cluster_of_its_own() {
        let other_keyspace = Answers::of(ClusterId(7), KeyspaceId(3));
        let other_cluster = Answers::of(ClusterId(8), KeyspaceId(2));
        assert_ne!(answers(), other_keyspace);
        assert_ne!(answers(), other_cluster);
        assert_eq!(answers(), Answers::of(ClusterId(7), KeyspaceId(2)));
    }

    #[test]
    fn an_entry_keeps_every_figure_and_a_lease_its_sign() {
        let expected = KeyValue {
            key: "k".into(),
            create_revision: 3,
            mod_revision: 5,
            version: 2,
            value: "v".into(),
            lease: -1,
        };
        assert_eq!(key_value(entry()), expected);
    }

    #[test]
    fn a_step_answered_alone_has_the_header_of_the_call() {
        let revision = Revision(8);
        let (more, count) = (true, 7);
        let range = EtcdResult::Range { entries: vec![entry()], more, count, revision };
        let answer = answers().range(&header(), outcome(vec![range.clone()])).unwrap();
        let told = answer.header.unwrap();
        assert_eq!((told.member_id, told.revision, told.raft_term), (3, 9, 4));
        assert_eq!((answer.kvs.len(), answer.more, answer.count), (1, true, 7));
        assert!(answers().etcd_put(&header(), outcome(vec![range.clone()])).is_none());
        assert!(answers().range(&header(), outcome(vec![range.clone(), range])).is_none());
    }

    #[test]
    fn the_parts_of_a_transaction_tell_their_revision_alone() {
        let revision = Revision(9);
        let put = EtcdResult::Put { previous: Some(entry()), revision };
        let nested = EtcdResult::Txn { succeeded: false, results: vec![put.clone()] };
        let answer = answers().txn(&header(), outcome(vec![put, nested]));
        assert_eq!(answer.header, Some(answers().header(&header())));
        let [first, second] = answer.responses.as_slice() else { panic!("two parts") };
        let Some(Response::ResponsePut(put)) = &first.response else { panic!("a put") };
        assert_eq!(put.header, at(revision));
        let Some(Response::ResponseTxn(nested)) = &second.response else { panic!("nested") };
        assert_eq!(nested.header, Some(ResponseHeader::default()));
        assert!(!nested.succeeded);
    }
}
