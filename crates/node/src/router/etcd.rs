//! Keyspaces of etcd's kind: transactions as etcd means them, and what does not belong there.

use holdfast_kv as kv;
use holdfast_kv::command::{EtcdKeys, EtcdOperation, EtcdTxn, Txn, TxnOperation};
use holdfast_model::{KeyspaceKind, Revision};
use holdfast_replica::Replica;

use super::attempt::not_hosted;
use super::read::check_options;
use super::serve::{Query, Reply, engine_error};
use super::{Gateway, Place, keyspace_of, no_range};
use crate::api::{Answer, ApiError, Call, EtcdRead, Header, Rank, Standing};
use crate::auth::{Keys, Verb};

impl Gateway {
    /// Reads as etcd means it; see [`crate::api::Kv::etcd_read`].
    pub async fn etcd_read(
        &self,
        call: &Call,
        request: EtcdRead,
    ) -> Result<Answer<kv::EtcdOutcome>, ApiError> {
        self.enter(call, &request.keyspace).await?;
        let EtcdRead { keyspace, txn, read } = request;
        check_options(&read)?;
        self.allow_etcd(call, &keyspace, &txn)?;
        let place = self.etcd_range(&keyspace)?;
        let spec = self.spec(place, &read, None);
        self.validate(&kv::Command::single(txn.clone()))?;
        let served = self.read_told(call, place, &spec, &Query::Etcd(txn)).await?;
        match served.reply {
            Reply::Etcd(Ok(value)) => Ok(Answer { header: served.header, value }),
            other => Err(super::unexpected("etcd", &other)),
        }
    }

    /// How a keyspace of one range stands, told from memory. Of one that this node does not know
    /// nothing is told, and a leader is taken for granted: a call finds out.
    pub fn standing(&self, keyspace: &str) -> Standing {
        let map = self.parts.map.peek();
        let ranges = map.ranges_of(keyspace).unwrap_or_default();
        let [range] = ranges.as_slice() else {
            return Standing { has_leader: true, ..Standing::default() };
        };
        let Some(replica) = self.parts.host.replica(range.id) else {
            return Standing { has_leader: range.leader.is_some(), ..Standing::default() };
        };
        Standing {
            header: Some(self.header_told(&replica)),
            oldest: replica.reader().compacted(),
            has_leader: replica.leader().leader.is_some(),
            alarms: replica.reader().alarms(),
        }
    }

    /// The hash of the history of a keyspace of one range up to `revision`, 0 meaning the newest,
    /// in this node's own replica: for those who compare replicas. Reads all of it.
    ///
    /// # Errors
    /// [`ApiError::NotHere`] without a replica here; [`ApiError::Compacted`],
    /// [`ApiError::FutureRevision`].
    pub async fn history_hash(
        &self,
        call: &Call,
        keyspace: &str,
        revision: Revision,
    ) -> Result<Answer<kv::HistoryHash>, ApiError> {
        self.enter(call, keyspace).await?;
        self.allow(call, Verb::Administer, keyspace, Keys::None)?;
        let range = self.resolve(self.etcd_range(keyspace)?)?.range;
        let replica = self.parts.host.replica(range).ok_or_else(|| not_hosted(range))?;
        self.allow_rank(&replica, &call.identity, Rank::Administrator)?;
        let reader = replica.reader().clone();
        let hash = self.parts.pool.run(move || reader.history_hash(revision));
        let hash = hash.await.map_err(|error| ApiError::NotReady(error.to_string()))?;
        let value = hash.map_err(engine_error)?;
        Ok(Answer { header: self.own_header(&replica), value })
    }

    /// The header of a keyspace of one range as it stands: never older than what was told.
    fn header_told(&self, replica: &Replica) -> Header {
        let header = self.own_header(replica);
        let told = self.told_revision(replica.options().range);
        Header { revision: header.revision.max(told), ..header }
    }

    /// The header of what a replica tells of itself.
    fn own_header(&self, replica: &Replica) -> Header {
        let point = replica.reader().point();
        let (revision, clock_ms) = (point.revision, point.clock_ms);
        Header { revision, clock_ms, ..self.header_of(replica) }
    }

    /// Asks for every compare and step of both branches; whoever is told what was there before
    /// reads it.
    pub(super) fn allow_etcd(
        &self,
        call: &Call,
        keyspace: &str,
        txn: &EtcdTxn,
    ) -> Result<(), ApiError> {
        let may = |verb, keys: EtcdKeys| {
            let keys = match &keys {
                EtcdKeys::One(key) => Keys::One(key),
                EtcdKeys::Interval(start, end) => Keys::Interval { start, end },
            };
            self.allow(call, verb, keyspace, keys)
        };
        for compare in &txn.compares {
            may(Verb::Read, compare.keys())?;
        }
        for step in txn.success.iter().chain(&txn.failure) {
            match &step.operation {
                Some(EtcdOperation::Range(range)) => may(Verb::Read, range.keys())?,
                Some(EtcdOperation::Put(put)) => {
                    let keys = EtcdKeys::One(put.key.clone());
                    if put.return_previous {
                        may(Verb::Read, keys.clone())?;
                    }
                    may(Verb::Write, keys)?;
                }
                Some(EtcdOperation::DeleteRange(delete)) => {
                    if delete.return_previous {
                        may(Verb::Read, delete.keys())?;
                    }
                    may(Verb::Write, delete.keys())?;
                }
                Some(EtcdOperation::Txn(nested)) => self.allow_etcd(call, keyspace, nested)?,
                None => return Err(ApiError::Invalid("operation of a transaction: none".into())),
            }
        }
        Ok(())
    }

    /// The one range of a keyspace whose revisions order everything.
    pub(super) fn only_range<'a>(&self, keyspace: &'a str) -> Result<Place<'a>, ApiError> {
        let map = self.parts.map.peek();
        let ranges = map.ranges_of(keyspace).map_err(|error| no_range(&map, error))?;
        match ranges.as_slice() {
            [range] => Ok(Place::Range { keyspace, range: range.id }),
            several => {
                let has = several.len();
                let text = format!("keyspace: one range is needed, {keyspace:?} has {has}");
                Err(ApiError::Invalid(text))
            }
        }
    }

    /// The range of a keyspace that is one etcd.
    pub(super) fn etcd_range<'a>(&self, keyspace: &'a str) -> Result<Place<'a>, ApiError> {
        match self.kind_of(keyspace)? {
            KeyspaceKind::Etcd => self.only_range(keyspace),
            KeyspaceKind::Native => {
                let text = format!("keyspace {keyspace:?} is not one of etcd's kind");
                Err(ApiError::FailedPrecondition(text))
            }
        }
    }

    /// Whether a keyspace is known to be of etcd's kind.
    pub(super) fn is_etcd(&self, keyspace: &str) -> bool {
        matches!(self.kind_of(keyspace), Ok(KeyspaceKind::Etcd))
    }

    fn kind_of(&self, keyspace: &str) -> Result<KeyspaceKind, ApiError> {
        Ok(keyspace_of(&self.parts.map.peek(), keyspace)?.kind)
    }

    /// Refuses what would leave a gap in the revisions of an etcd: what ends by a TTL of its own
    /// is removed at a revision of its own when somebody writes over it.
    pub(super) fn fits_kind(
        &self,
        keyspace: &str,
        operation: &kv::Operation,
    ) -> Result<(), ApiError> {
        if ends_by_itself(operation) {
            return self.refuse_in_etcd(keyspace, "a TTL; use a lease");
        }
        Ok(())
    }

    /// Refuses `what` in a keyspace of etcd's kind.
    pub(super) fn refuse_in_etcd(&self, keyspace: &str, what: &str) -> Result<(), ApiError> {
        match self.kind_of(keyspace)? {
            KeyspaceKind::Native => Ok(()),
            KeyspaceKind::Etcd => {
                let text = format!("keyspace {keyspace:?} is of etcd's kind and takes not {what}");
                Err(ApiError::FailedPrecondition(text))
            }
        }
    }
}

/// Whether an operation writes a key with a TTL.
fn ends_by_itself(operation: &kv::Operation) -> bool {
    match operation {
        kv::Operation::Put(put) => put.ttl_ms != 0,
        kv::Operation::Increment(increment) => increment.ttl_ms != 0,
        kv::Operation::Txn(txn) => has_ttl(txn),
        _ => false,
    }
}

fn has_ttl(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).any(|step| match &step.operation {
        Some(TxnOperation::Put(put)) => put.ttl_ms != 0,
        Some(TxnOperation::Increment(increment)) => increment.ttl_ms != 0,
        Some(TxnOperation::Txn(nested)) => has_ttl(nested),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use holdfast_kv::command::{Delete, Put, TxnStep};

    use super::*;

    fn txn(operation: TxnOperation) -> Txn {
        let step = TxnStep { operation: Some(operation) };
        Txn { failure: vec![step], ..Txn::default() }
    }

    #[test]
    fn a_ttl_is_found_wherever_a_transaction_hides_it() {
        let put = |ttl_ms| Put { key: "k".into(), ttl_ms, ..Put::default() };
        for (ttl_ms, found) in [(0, false), (1_000, true)] {
            assert_eq!(ends_by_itself(&put(ttl_ms).into()), found);
            let nested = txn(TxnOperation::Txn(txn(TxnOperation::Put(put(ttl_ms)))));
            assert_eq!(ends_by_itself(&nested.into()), found);
        }
        assert!(!ends_by_itself(&Delete { key: "k".into(), ..Delete::default() }.into()));
    }
}
