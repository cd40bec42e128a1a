//! Both ends of an operation that travels to another node: its messages, and serving it there.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use holdfast_kv as kv;
use holdfast_model::limits::LEASES_LISTED_MAX;
use holdfast_model::{LeaseId, RangeId, Revision};
use holdfast_replica::Replica;
use holdfast_wire::peer::v1::{
    self as peer, ForwardRequest, ForwardResponse, ForwardWatchRequest, ForwardWatchResponse,
    forward_read::Query as Asked, forward_request::Work,
};
use prost::Message;

use super::attempt::{self, answer_by, not_hosted};
use super::outcome;
use super::serve::{self, Page, Proposed, Query, ReadSpec, Reply, ScanQuery, Served};
use super::{Gateway, watch};
use crate::api::{ApiError, LeaseState, ListedLease, Password, Point, Rank};
use crate::auth::Identity;
use crate::convert;
use crate::limits::at_most;
use crate::peers::ForwardHandler;

/// A read as it travels.
pub(super) fn read_message(spec: &ReadSpec, query: &Query) -> peer::ForwardRead {
    let min = spec.min.unwrap_or_default();
    let at = spec.at.unwrap_or_default();
    let asked = match query {
        Query::Get(key) => Asked::Get(peer::ForwardGet { keys: vec![key.clone()] }),
        Query::GetMany(keys) => Asked::Get(peer::ForwardGet { keys: keys.clone() }),
        Query::Scan(scan) => Asked::Scan(peer::ForwardScan {
            start: scan.start.clone(),
            end: scan.end.clone(),
            limit: u32::try_from(scan.limit).unwrap_or(u32::MAX),
            bytes_max: scan.bytes_max as u64,
            keys_only: scan.keys_only,
            reverse: scan.reverse,
        }),
        Query::Lease { id, .. } => Asked::Lease(id.0),
        Query::Leases { after, limit } => Asked::Leases(peer::ForwardLeases {
            after: after.0,
            limit: u32::try_from(*limit).unwrap_or(u32::MAX),
        }),
        Query::Lock(name) => Asked::Lock(name.clone()),
        Query::Etcd(txn) => Asked::Etcd(txn.encode_to_vec().into()),
        Query::Rank(Rank::User) => Asked::Rank(peer::ForwardRank::User.into()),
        Query::Rank(Rank::Administrator) => Asked::Rank(peer::ForwardRank::Administrator.into()),
        Query::Authenticate { name, password } => Asked::Authenticate(peer::ForwardPassword {
            name: name.clone(),
            password: password.bytes().clone(),
        }),
    };
    peer::ForwardRead {
        level: convert::level(spec.level).into(),
        max_staleness_ms: spec.max_staleness.map_or(0, millis),
        min_revision: min.revision.0,
        min_clock_ms: min.clock_ms,
        at_revision: at.revision.0,
        at_clock_ms: at.clock_ms,
        lease_keys: matches!(query, Query::Lease { keys: true, .. }),
        query: Some(asked),
    }
}

/// A read as it arrived.
fn read_from(message: peer::ForwardRead) -> Result<(ReadSpec, Query), ApiError> {
    let point = |revision: u64, clock_ms: u64| {
        let some = revision != 0 || clock_ms != 0;
        some.then_some(Point { revision: Revision(revision), clock_ms })
    };
    let bound = message.max_staleness_ms;
    let spec = ReadSpec {
        level: convert::level_from(message.level()),
        max_staleness: (bound != 0).then(|| Duration::from_millis(bound)),
        min: point(message.min_revision, message.min_clock_ms),
        at: point(message.at_revision, message.at_clock_ms),
    };
    let query = match message.query {
        Some(Asked::Get(get)) => Query::GetMany(get.keys),
        Some(Asked::Scan(scan)) => Query::Scan(ScanQuery {
            start: scan.start,
            end: scan.end,
            limit: scan.limit as usize,
            bytes_max: usize::try_from(scan.bytes_max).unwrap_or(usize::MAX),
            keys_only: scan.keys_only,
            reverse: scan.reverse,
        }),
        Some(Asked::Lease(id)) => Query::Lease { id: LeaseId(id), keys: message.lease_keys },
        Some(Asked::Leases(peer::ForwardLeases { after, limit })) => {
            at_most("leases of a list", LEASES_LISTED_MAX, limit as usize)?;
            Query::Leases { after: LeaseId(after), limit: limit as usize }
        }
        Some(Asked::Lock(name)) => Query::Lock(name),
        Some(Asked::Etcd(bytes)) => Query::Etcd(etcd_from(bytes)?),
        Some(Asked::Rank(rank)) => match peer::ForwardRank::try_from(rank) {
            Ok(peer::ForwardRank::User) => Query::Rank(Rank::User),
            // Whatever a later version asks for: nobody without the highest has it.
            _ => Query::Rank(Rank::Administrator),
        },
        Some(Asked::Authenticate(peer::ForwardPassword { name, password })) => {
            Query::Authenticate { name, password: Password::new(password) }
        }
        None => return Err(ApiError::Malformed("a forwarded read asks for nothing".into())),
    };
    Ok((spec, query))
}

/// An answered read as it travels.
fn served_message(served: Served) -> ForwardResponse {
    let mut answer = ForwardResponse {
        header: Some(convert::header(&served.header)),
        staleness: served.staleness.map(convert::staleness),
        ..ForwardResponse::default()
    };
    let found = |entry: Option<kv::Entry>| peer::ForwardFound { entry: entry.map(convert::entry) };
    match served.reply {
        Reply::Get(entry) => answer.found = vec![found(entry)],
        Reply::GetMany(entries) => answer.found = entries.into_iter().map(found).collect(),
        Reply::Page(page) => {
            answer.entries = page.entries.into_iter().map(convert::entry).collect();
            answer.resume_key = page.resume;
        }
        Reply::Lease(lease) => {
            answer.lease = Some(peer::ForwardLeaseState {
                found: lease.is_some(),
                ttl_ms: lease.as_ref().map_or(0, |lease| lease.ttl_ms),
                expires_at_ms: lease.as_ref().map_or(0, |lease| lease.expires_at_ms),
                keys: lease.map(|lease| lease.keys).unwrap_or_default(),
            });
        }
        Reply::Leases(leases) => {
            let listed = |lease: ListedLease| peer::ForwardRenewal {
                id: lease.id.0,
                ttl_ms: lease.ttl_ms,
                expires_at_ms: lease.expires_at_ms,
            };
            answer.leases = leases.into_iter().map(listed).collect();
        }
        Reply::Lock(state) => answer.lock = Some(outcome::lock_state_message(state)),
        Reply::Etcd(Ok(etcd)) => answer.etcd = Some(outcome::etcd_message(etcd)),
        Reply::Etcd(Err(refusal)) => answer.error = Some(outcome::refused(&refusal).info()),
        Reply::Rank => {}
        Reply::Token(token) => answer.token = token,
    }
    answer
}

/// An answered read as it arrived.
pub(super) fn served(mut answer: ForwardResponse, query: &Query) -> Result<Served, ApiError> {
    attempt::refusal(&mut answer)?;
    let header = attempt::header(&answer);
    let staleness = answer.staleness.map(convert::staleness_from);
    let entry = |found: peer::ForwardFound| found.entry.map(convert::entry_from);
    let reply = match query {
        Query::Get(_) => {
            let found = answer.found.into_iter().next();
            Reply::Get(entry(found.ok_or_else(|| short("a key"))?))
        }
        Query::GetMany(keys) if keys.len() == answer.found.len() => {
            Reply::GetMany(answer.found.into_iter().map(entry).collect())
        }
        Query::GetMany(_) => return Err(short("a key")),
        Query::Scan(_) => Reply::Page(Page {
            entries: answer.entries.into_iter().map(convert::entry_from).collect(),
            resume: answer.resume_key,
        }),
        Query::Lease { .. } => {
            let lease = answer.lease.ok_or_else(|| short("the lease"))?;
            let peer::ForwardLeaseState { found, ttl_ms, expires_at_ms, keys } = lease;
            Reply::Lease(found.then_some(LeaseState { ttl_ms, expires_at_ms, keys }))
        }
        Query::Leases { .. } => {
            let listed = |lease: peer::ForwardRenewal| ListedLease {
                id: LeaseId(lease.id),
                ttl_ms: lease.ttl_ms,
                expires_at_ms: lease.expires_at_ms,
            };
            Reply::Leases(answer.leases.into_iter().map(listed).collect())
        }
        Query::Lock(_) => {
            let lock = answer.lock.ok_or_else(|| short("the lock"))?;
            Reply::Lock(outcome::lock_state_from(lock))
        }
        Query::Etcd(_) => {
            let etcd = answer.etcd.ok_or_else(|| short("the transaction"))?;
            Reply::Etcd(Ok(outcome::etcd_from(etcd)?))
        }
        Query::Rank(_) => Reply::Rank,
        Query::Authenticate { .. } => Reply::Token(answer.token),
    };
    Ok(Served { header, staleness, reply })
}

/// The transaction of a forwarded read.
fn etcd_from(bytes: Bytes) -> Result<kv::command::EtcdTxn, ApiError> {
    kv::command::EtcdTxn::decode(bytes)
        .map_err(|error| ApiError::Malformed(format!("forwarded transaction: {error}")))
}

fn short(what: &str) -> ApiError {
    ApiError::Internal(format!("a forwarded read came back without {what}"))
}

/// A carried-out command as it arrived.
pub(super) fn proposed(mut answer: ForwardResponse) -> Result<Proposed, ApiError> {
    attempt::refusal(&mut answer)?;
    let header = attempt::header(&answer);
    Ok(Proposed { header, items: attempt::outcomes(&mut answer) })
}

fn proposed_message(proposed: Proposed) -> ForwardResponse {
    ForwardResponse {
        header: Some(convert::header(&proposed.header)),
        outcomes: proposed.items.into_iter().map(outcome::to_message).collect(),
        ..ForwardResponse::default()
    }
}

impl Gateway {
    /// Serves what another node forwarded, from a replica of this node alone.
    async fn serve_forwarded(&self, request: ForwardRequest) -> Result<ForwardResponse, ApiError> {
        self.parts.host.admit()?;
        let replica = self.hosted(RangeId(request.range_id))?;
        let time = Duration::from_millis(request.deadline_ms);
        let deadline = answer_by(self.parts.limits.deadline(Some(time)));
        let who = &Identity::of_peer(&request.user, request.token.as_deref());
        match request.work {
            Some(Work::Command(bytes)) => {
                let command = &mut self.forwarded_command(bytes)?;
                let proposed = serve::propose(self, &replica, who, command, deadline).await;
                proposed.map(proposed_message)
            }
            Some(Work::LockWait(bytes)) => {
                let command = &mut self.forwarded_command(bytes)?;
                let waited = self.acquire_here(&replica, who, command, deadline).await;
                waited.map(proposed_message)
            }
            Some(Work::Read(read)) => {
                let (spec, query) = read_from(read)?;
                if let Query::Etcd(txn) = &query {
                    // The other node may be configured otherwise.
                    self.validate(&kv::Command::single(txn.clone()))?;
                }
                let served = serve::read(self, &replica, who, &spec, &query, deadline).await;
                served.map(served_message)
            }
            None => Err(ApiError::Malformed("a forwarded request asks for nothing".into())),
        }
    }

    fn hosted(&self, range: RangeId) -> Result<Replica, ApiError> {
        self.parts.host.replica(range).ok_or_else(|| not_hosted(range))
    }

    /// Decodes a command and checks it again: the other node may be configured otherwise.
    fn forwarded_command(&self, bytes: Bytes) -> Result<kv::Command, ApiError> {
        let command = kv::Command::decode(bytes)
            .map_err(|error| ApiError::Malformed(format!("forwarded command: {error}")))?;
        self.validate(&command)?;
        Ok(command)
    }
}

impl ForwardHandler for Gateway {
    fn forward(&self, request: ForwardRequest) -> BoxFuture<'static, ForwardResponse> {
        let gateway = self.clone();
        async move {
            gateway.serve_forwarded(request).await.unwrap_or_else(|error| ForwardResponse {
                error: Some(error.info()),
                ..ForwardResponse::default()
            })
        }
        .boxed()
    }

    fn watch(&self, request: ForwardWatchRequest) -> BoxStream<'static, ForwardWatchResponse> {
        watch::serve_forwarded(self, request).boxed()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ReadLevel;

    #[test]
    fn a_read_asks_the_same_on_the_other_side() {
        let spec = ReadSpec {
            level: ReadLevel::Follower,
            max_staleness: Some(Duration::from_millis(250)),
            min: Some(Point { revision: Revision(4), clock_ms: 9 }),
            at: Some(Point { revision: Revision(3), clock_ms: 0 }),
        };
        let query = Query::Scan(ScanQuery {
            start: "a".into(),
            end: "b".into(),
            limit: 10,
            bytes_max: 1 << 20,
            keys_only: true,
            reverse: true,
        });
        let range = kv::command::EtcdRange { key: "a".into(), limit: 3, ..Default::default() };
        let step = kv::command::EtcdOperation::Range(range).into();
        let txn = kv::command::EtcdTxn { success: vec![step], ..Default::default() };
        let leases = Query::Leases { after: LeaseId(7), limit: 3 };
        let (name, password) = ("anna".to_owned(), Password::new("secret"));
        let authenticate = Query::Authenticate { name, password };
        let ranks = [Rank::User, Rank::Administrator].map(Query::Rank);
        let others = [Query::Etcd(txn), leases, authenticate];
        for query in std::iter::once(query).chain(others).chain(ranks) {
            let (back, asked) = read_from(read_message(&spec, &query)).unwrap();
            assert_eq!(format!("{back:?} {asked:?}"), format!("{spec:?} {query:?}"));
        }
    }

    #[test]
    fn a_lookup_answer_with_a_missing_key_is_not_taken_for_a_missing_entry() {
        let query = Query::GetMany(vec!["a".into(), "b".into()]);
        let answer = ForwardResponse {
            found: vec![peer::ForwardFound::default()],
            ..ForwardResponse::default()
        };
        assert!(served(answer, &query).is_err());
    }
}
