//! Operations on a replica of this node: the end of every way, local or forwarded.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use holdfast_kv as kv;
use holdfast_kv::command::EtcdOperation;
use holdfast_model::limits::RANGE_DELETE_KEYS_MAX;
use holdfast_model::{LeaseId, RangeId, Revision};
use holdfast_replica::{ProposeError, ReadError, ReadRequest, Replica};
use holdfast_runtime::Deadline;

use super::Gateway;
use super::allow::is_outdated;
use super::outcome::{self, ItemResult};
use crate::api::{
    ApiError, Header, LeaseState, ListedLease, Password, Point, Rank, ReadLevel, Staleness,
};
use crate::auth::Identity;

/// Most threads that read the keys of one request from the disk at the same time.
const COLD_PARTS_MAX: usize = 8;
/// How long a follower read waits for a revision that it names and this replica has not reached:
/// another node may have told it to the caller, and it is on its way here.
const REVISION_WAIT: Duration = Duration::from_millis(100);
/// How often a read of the newest state starts anew because compaction overtook it.
const RESTARTS_MAX: usize = 64;
/// How often a call is judged, because users of its keyspace changed before it was done.
const JUDGED_MAX: usize = 3;

/// What became of a command that was carried out.
#[derive(Clone, Debug)]
pub(crate) struct Proposed {
    pub header: Header,
    /// One per item.
    pub items: Vec<ItemResult>,
}

impl Proposed {
    /// Why the command belongs to another range, if that is so for all of it: where the range was
    /// split under a batch, some items may have been carried out, and must not be again.
    pub fn elsewhere(&self) -> Option<&ApiError> {
        let is_elsewhere = |item: &ItemResult| item.as_ref().is_err_and(ApiError::is_elsewhere);
        let error = self.items.first().and_then(|item| item.as_ref().err());
        error.filter(|_| self.items.iter().all(is_elsewhere))
    }

    /// Whether nothing was carried out because users changed after the command was judged.
    fn is_outdated(&self) -> bool {
        let outdated = Err(ApiError::Auth(kv::AuthRefusal::AuthOldRevision));
        !self.items.is_empty() && self.items.iter().all(|item| *item == outdated)
    }

    /// The outcome of a command of one item.
    pub fn single(self) -> Result<(Header, kv::Outcome), ApiError> {
        let missing = || Err(ApiError::Internal("a command came back without its outcome".into()));
        let outcome = self.items.into_iter().next().unwrap_or_else(missing)?;
        Ok((self.header, outcome))
    }
}

/// How a read is to be answered.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReadSpec {
    pub level: ReadLevel,
    pub max_staleness: Option<Duration>,
    /// Serve only at or after this point.
    pub min: Option<Point>,
    /// Read the state as of this point instead of the newest. A clock of 0: an older revision
    /// that a user named, at which nothing is hidden.
    pub at: Option<Point>,
}

/// What is asked of a replica.
#[derive(Clone, Debug)]
pub(crate) enum Query {
    Get(Bytes),
    GetMany(Vec<Bytes>),
    Scan(ScanQuery),
    Lease {
        id: LeaseId,
        keys: bool,
    },
    /// Leases after one, by id.
    Leases {
        after: LeaseId,
        limit: usize,
    },
    Lock(Bytes),
    /// A transaction that only reads.
    Etcd(kv::command::EtcdTxn),
    /// Whether the caller has a rank in the keyspace.
    Rank(Rank),
    /// A token for whoever knows the password.
    Authenticate {
        name: String,
        password: Password,
    },
}

impl Query {
    /// Whether it is about who somebody is, not about keys.
    fn is_about_users(&self) -> bool {
        matches!(self, Self::Rank(_) | Self::Authenticate { .. })
    }
}

/// Part of a scan.
#[derive(Clone, Debug)]
pub(crate) struct ScanQuery {
    pub start: Bytes,
    /// Empty = to the last key.
    pub end: Bytes,
    pub limit: usize,
    pub bytes_max: usize,
    pub keys_only: bool,
    pub reverse: bool,
}

/// What a replica answered.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reply {
    Get(Option<kv::Entry>),
    GetMany(Vec<Option<kv::Entry>>),
    Page(Page),
    Lease(Option<LeaseState>),
    Leases(Vec<ListedLease>),
    Lock(kv::LockState),
    /// A refusal is told as an error before the answer leaves the replica's node.
    Etcd(Result<kv::EtcdOutcome, kv::Refusal>),
    /// The caller has the rank.
    Rank,
    /// A token; `None` where the password is not the user's.
    Token(Option<String>),
}

/// Entries in the order of the scan.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Page {
    pub entries: Vec<kv::Entry>,
    /// The key the next part begins with (reverse: ends before); `None` = nothing is left.
    pub resume: Option<Bytes>,
}

/// An answered read.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pub header: Header,
    pub staleness: Option<Staleness>,
    pub reply: Reply,
}

impl Served {
    /// The point the answer was formed at.
    pub fn point(&self) -> Point {
        Point { revision: self.header.revision, clock_ms: self.header.clock_ms }
    }
}

/// Proposes `command` of `who` on `replica`, stamped with its user.
pub(crate) async fn propose(
    gateway: &Gateway,
    replica: &Replica,
    who: &Identity,
    command: &mut kv::Command,
    deadline: Deadline,
) -> Result<Proposed, ApiError> {
    let mut judged = 0;
    loop {
        gateway.allow_command(replica, who, command).await?;
        judged += 1;
        let proposed = propose_allowed(gateway, replica, command, deadline).await?;
        if judged >= JUDGED_MAX || !proposed.is_outdated() {
            return Ok(proposed);
        }
    }
}

async fn propose_allowed(
    gateway: &Gateway,
    replica: &Replica,
    command: &kv::Command,
    deadline: Deadline,
) -> Result<Proposed, ApiError> {
    if let Some(leases) = renewals_of(command) {
        return renew(gateway, replica, leases, deadline).await;
    }
    match replica.propose(command, deadline).await {
        Ok(committed) => Ok(Proposed {
            header: Header {
                revision: committed.point.revision,
                clock_ms: committed.point.clock_ms,
                term: committed.term,
                epoch: committed.epoch,
                ..gateway.header_of(replica)
            },
            items: committed.outcomes.into_iter().map(outcome::sorted).collect(),
        }),
        Err(error) => Err(propose_error(gateway, replica.options().range, error, deadline)),
    }
}

/// The leases of a command that only renews.
fn renewals_of(command: &kv::Command) -> Option<Vec<LeaseId>> {
    match (&command.session, command.items.as_slice()) {
        (None, [kv::Item { operation: Some(kv::Operation::Renew(renew)), .. }]) => {
            Some(renew.leases.iter().copied().map(LeaseId).collect())
        }
        _ => None,
    }
}

/// Renews leases together with whoever else renews at the moment.
async fn renew(
    gateway: &Gateway,
    replica: &Replica,
    leases: Vec<LeaseId>,
    deadline: Deadline,
) -> Result<Proposed, ApiError> {
    match replica.renew(leases, deadline).await {
        Ok(renewed) => {
            let header = Header {
                revision: renewed.point.revision,
                clock_ms: renewed.point.clock_ms,
                term: renewed.term,
                epoch: renewed.epoch,
                ..gateway.header_of(replica)
            };
            Ok(Proposed { header, items: vec![Ok(kv::Outcome::Renewed(renewed.renewals))] })
        }
        Err(error) => Err(propose_error(gateway, replica.options().range, error, deadline)),
    }
}

fn propose_error(
    gateway: &Gateway,
    range: RangeId,
    error: ProposeError,
    deadline: Deadline,
) -> ApiError {
    match error {
        ProposeError::NotLeader { leader: Some((_, node)) } => {
            gateway.not_leader(range, Some(node))
        }
        ProposeError::NotLeader { leader: None } => no_leader(range),
        ProposeError::Overloaded { budget, retry_after } => {
            ApiError::Overloaded { what: budget.to_owned(), retry_after }
        }
        ProposeError::DiskFull => ApiError::DiskFull,
        ProposeError::Deadline => ApiError::Deadline(format!("range {} is busy", range.0)),
        ProposeError::Unknown(reason) => {
            ApiError::OutcomeUnknown { reason: reason.to_owned(), deadline: deadline.has_passed() }
        }
        ProposeError::Stopped => stopped(range),
    }
}

fn no_leader(range: RangeId) -> ApiError {
    ApiError::NoQuorum(format!("range {} has no leader that reaches a quorum", range.0))
}

fn stopped(range: RangeId) -> ApiError {
    ApiError::NotHere(format!("the replica of range {} on this node has stopped", range.0))
}

/// Answers `query` of `who` from `replica`.
pub(crate) async fn read(
    gateway: &Gateway,
    replica: &Replica,
    who: &Identity,
    spec: &ReadSpec,
    query: &Query,
    deadline: Deadline,
) -> Result<Served, ApiError> {
    let request = ReadRequest {
        level: spec.level,
        max_staleness: spec.max_staleness,
        min_point: spec.min.map(|point| (point.revision, point.clock_ms)),
        deadline,
    };
    await_revision(replica, spec, query, deadline).await;
    let view = match replica.read(&request).await {
        Ok(view) => view,
        Err(error) => return Err(read_error(gateway, replica.options().range, error, spec)),
    };
    if view.reader.is_corrupt() && !query.is_about_users() {
        return Err(ApiError::Corrupt);
    }
    let header = Header { term: view.term, epoch: view.epoch, ..gateway.header_of(replica) };
    let staleness = (spec.level == ReadLevel::Follower)
        .then_some(view.staleness)
        .flatten()
        .map(|bound| Staleness { bound: bound.bound, clock_based: bound.clock_based });
    let (point, reply) = judged_answer(gateway, view.reader, who, spec, query, deadline).await?;
    if let Reply::Etcd(Err(refusal)) = &reply {
        return Err(outcome::refused(refusal));
    }
    let header = Header { revision: point.revision, clock_ms: point.clock_ms, ..header };
    Ok(Served { header, staleness, reply })
}

/// Gives a revision that a follower read names a moment to arrive here. Whether it did, the read
/// itself finds out.
async fn await_revision(replica: &Replica, spec: &ReadSpec, query: &Query, deadline: Deadline) {
    let named = named_revision(spec, query);
    if spec.level != ReadLevel::Follower || named <= replica.reader().point().revision {
        return;
    }
    let deadline = Deadline::after(REVISION_WAIT.min(deadline.remaining()));
    let request = ReadRequest::new(ReadLevel::Follower, deadline);
    let _ = replica.read(&ReadRequest { min_point: Some((named, 0)), ..request }).await;
}

/// The newest revision that a read names; 0 where it names none.
fn named_revision(spec: &ReadSpec, query: &Query) -> Revision {
    let at = spec.at.map_or(Revision(0), |point| point.revision);
    let Query::Etcd(txn) = query else { return at };
    let steps = txn.success.iter().chain(&txn.failure);
    let ranges = steps.filter_map(|step| match &step.operation {
        Some(EtcdOperation::Range(range)) => u64::try_from(range.revision).ok(),
        _ => None,
    });
    ranges.max().map_or(at, |revision| at.max(Revision(revision)))
}

/// Answers `query` if `who` may ask it, by the users of the state that is read.
async fn judged_answer(
    gateway: &Gateway,
    reader: kv::Reader,
    who: &Identity,
    spec: &ReadSpec,
    query: &Query,
    deadline: Deadline,
) -> Result<(kv::ReadPoint, Reply), ApiError> {
    if who.is_system() {
        return answer(gateway, reader, spec.at, query).await;
    }
    for _ in 0..JUDGED_MAX {
        let auth = reader.auth().map_err(engine_error)?;
        gateway.allow_query(&reader, &auth, who, query).await?;
        let answer = match query {
            Query::Rank(_) => (reader.point(), Reply::Rank),
            Query::Authenticate { name, password } => {
                let token = gateway.token_for(&auth, name, password, deadline).await?;
                (reader.point(), Reply::Token(token))
            }
            query => answer(gateway, reader.clone(), spec.at, query).await?,
        };
        let now = reader.auth().map_err(engine_error)?;
        if !is_outdated(&auth, &now) {
            return Ok(answer);
        }
    }
    Err(ApiError::Auth(kv::AuthRefusal::AuthOldRevision))
}

fn read_error(gateway: &Gateway, range: RangeId, error: ReadError, spec: &ReadSpec) -> ApiError {
    match error {
        ReadError::NotLeader { leader: Some((_, node)) } => gateway.not_leader(range, Some(node)),
        ReadError::NotLeader { leader: None } => no_leader(range),
        ReadError::NoQuorum(reason) => {
            ApiError::NoQuorum(format!("range {} cannot confirm the read: {reason}", range.0))
        }
        ReadError::TooStale { bound } => ApiError::TooStale {
            asked: spec.max_staleness.unwrap_or_default(),
            bound: bound.unwrap_or(Duration::MAX),
        },
        ReadError::Behind { revision, .. } => ApiError::Behind { revision: revision.0 },
        ReadError::Deadline => {
            ApiError::Deadline(format!("range {} did not confirm the read", range.0))
        }
        ReadError::Overloaded => ApiError::Overloaded {
            what: format!("reads that wait on range {}", range.0),
            retry_after: Duration::from_millis(20),
        },
        ReadError::Stopped => stopped(range),
    }
}

/// Answers `query` at once where memory holds the answer, else on a thread that may wait for the
/// disk. Gives the point the answer was formed at.
async fn answer(
    gateway: &Gateway,
    reader: kv::Reader,
    at: Option<Point>,
    query: &Query,
) -> Result<(kv::ReadPoint, Reply), ApiError> {
    if let Query::Get(key) = query {
        let cached = pinned(&reader, at, |at| reader.get_cached(key, at)).map_err(engine_error)?;
        if let (point, kv::Cached::Answer(entry)) = cached {
            return Ok((point, Reply::Get(entry)));
        }
    }
    if let Query::GetMany(keys) = query
        && let Some(answered) = get_many(gateway, &reader, at, keys).await?
    {
        return Ok(answered);
    }
    let query = query.clone();
    let work = gateway
        .parts
        .pool
        .run(move || pinned(&reader, at, |at| look(&reader, at, &query)).map_err(engine_error));
    work.await.map_err(|error| ApiError::NotReady(format!("reads from disk: {error}")))?
}

/// Answers what memory holds of `keys` at once and reads the rest in parts, on several threads at
/// the same time. None where the state was compacted meanwhile: begin anew, in one look.
async fn get_many(
    gateway: &Gateway,
    reader: &kv::Reader,
    at: Option<Point>,
    keys: &[Bytes],
) -> Result<Option<(kv::ReadPoint, Reply)>, ApiError> {
    let look = |at| Ok((at, reader.multi_get_cached(keys, at)?));
    let (point, (at_point, cached)) = pinned(reader, at, look).map_err(engine_error)?;
    let mut found = vec![None; keys.len()];
    let mut cold = Vec::new();
    for ((cached, slot), key) in cached.into_iter().zip(&mut found).zip(keys) {
        match cached {
            kv::Cached::Answer(entry) => *slot = entry,
            kv::Cached::NeedsIo => cold.push((key.clone(), slot)),
        }
    }
    // Keys that lie beside each other are read together.
    cold.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    let part_keys = cold.len().div_ceil(COLD_PARTS_MAX).max(1);
    let reads = cold.chunks(part_keys).map(|part| {
        let keys: Vec<Bytes> = part.iter().map(|(key, _)| key.clone()).collect();
        let reader = reader.clone();
        gateway.parts.pool.run(move || reader.multi_get(&keys, at_point))
    });
    let mut entries = Vec::with_capacity(cold.len());
    for read in join_all(reads).await {
        match read.map_err(|error| ApiError::NotReady(format!("reads from disk: {error}")))? {
            Ok(part) => entries.extend(part),
            Err(kv::Error::Compacted { .. }) if at.is_none() => return Ok(None),
            Err(error) => return Err(engine_error(error)),
        }
    }
    for ((_, slot), entry) in cold.into_iter().zip(entries) {
        *slot = entry;
    }
    Ok(Some((point, Reply::GetMany(found))))
}

/// Runs `read` at one point: the asked one, or the newest. Where the newest one is compacted
/// before it was read, there is a newer one.
fn pinned<T>(
    reader: &kv::Reader,
    at: Option<Point>,
    read: impl Fn(kv::At) -> kv::Result<T>,
) -> kv::Result<(kv::ReadPoint, T)> {
    let mut restarts = 0;
    loop {
        let newest = reader.point();
        let (point, at_point) = match at {
            None => (newest, kv::At::Point(newest)),
            Some(Point { revision, clock_ms: 0 }) => (newest, kv::At::Revision(revision)),
            Some(Point { revision, clock_ms }) => {
                let point = kv::ReadPoint { revision, clock_ms, ..newest };
                (point, kv::At::Point(point))
            }
        };
        match read(at_point) {
            Err(kv::Error::Compacted { .. }) if at.is_none() && restarts < RESTARTS_MAX => {
                restarts += 1;
            }
            answer => return answer.map(|answer| (point, answer)),
        }
    }
}

/// Answers `query` from the engine; waits for the disk.
fn look(reader: &kv::Reader, at: kv::At, query: &Query) -> kv::Result<Reply> {
    match query {
        Query::Get(key) => reader.get(key, at).map(Reply::Get),
        Query::GetMany(keys) => reader.multi_get(keys, at).map(Reply::GetMany),
        Query::Scan(scan) => {
            let request = kv::ScanRequest {
                start: scan.start.clone(),
                end: scan.end.clone(),
                limit: scan.limit,
                bytes_max: scan.bytes_max,
                keys_only: scan.keys_only,
                reverse: scan.reverse,
                at,
            };
            let page = reader.scan(&request)?;
            Ok(Reply::Page(Page { entries: page.entries, resume: page.resume }))
        }
        Query::Lease { id, keys } => lease(reader, *id, *keys).map(Reply::Lease),
        Query::Leases { after, limit } => {
            let listed = |lease: kv::LeaseInfo| ListedLease {
                id: lease.id,
                ttl_ms: lease.ttl_ms,
                expires_at_ms: lease.expires_at_ms,
            };
            let found = reader.leases(*after, *limit)?;
            Ok(Reply::Leases(found.into_iter().map(listed).collect()))
        }
        Query::Lock(name) => reader.lock(name).map(Reply::Lock),
        Query::Etcd(txn) => reader.etcd(txn, at).map(Reply::Etcd),
        Query::Rank(_) => Ok(Reply::Rank),
        // The engine knows no passwords.
        Query::Authenticate { .. } => Ok(Reply::Token(None)),
    }
}

fn lease(reader: &kv::Reader, id: LeaseId, keys: bool) -> kv::Result<Option<LeaseState>> {
    let Some(info) = reader.lease(id)? else { return Ok(None) };
    let keys = match keys {
        true => reader.lease_keys(id, &Bytes::new(), RANGE_DELETE_KEYS_MAX)?,
        false => Vec::new(),
    };
    Ok(Some(LeaseState { ttl_ms: info.ttl_ms, expires_at_ms: info.expires_at_ms, keys }))
}

/// What an error of the state machine means to a caller who only reads.
pub(crate) fn engine_error(error: kv::Error) -> ApiError {
    match error {
        kv::Error::Compacted { oldest } => ApiError::Compacted { oldest: oldest.0 },
        kv::Error::Future { newest } => ApiError::FutureRevision { newest: newest.0 },
        kv::Error::WrongSpan { .. } => ApiError::NotHere(error.to_string()),
        kv::Error::Unsettled => ApiError::NotReady(error.to_string()),
        // The replica retires itself; another one may serve what this one has lost.
        damaged if damaged.is_corruption() => ApiError::NotHere(damaged.to_string()),
        other => ApiError::Internal(other.to_string()),
    }
}

impl Gateway {
    /// The header of an answer from `replica`, without its revision and clock.
    pub(crate) fn header_of(&self, replica: &Replica) -> Header {
        let (map, known) = (self.parts.map.peek(), replica.leader());
        let range = replica.options().range;
        Header {
            cluster: map.cluster,
            node: self.parts.host.node(),
            range,
            epoch: map.ranges.get(&range).map_or_else(Default::default, |range| range.epoch),
            leader: known.leader.map(|(_, node)| node),
            term: known.term,
            ..Header::default()
        }
    }

    /// A point that names a revision alone.
    pub(crate) fn at_revision(revision: Revision) -> Option<Point> {
        (revision.0 != 0).then_some(Point { revision, clock_ms: 0 })
    }
}

#[cfg(test)]
mod tests {
    use holdfast_kv::command::{EtcdPut, EtcdRange, EtcdTxn};

    use super::*;

    #[test]
    fn a_read_names_the_newest_revision_of_its_point_and_its_ranges() {
        let at = |revision| EtcdRange { revision, ..EtcdRange::default() };
        let step = |revision| EtcdOperation::Range(at(revision)).into();
        let put = EtcdOperation::Put(EtcdPut::default()).into();
        let txn =
            |success, failure| Query::Etcd(EtcdTxn { success, failure, ..EtcdTxn::default() });
        let (now, then) = (ReadSpec::default(), Point { revision: Revision(5), clock_ms: 0 });
        let then = ReadSpec { at: Some(then), ..ReadSpec::default() };
        let named = |spec, query| named_revision(spec, &query).0;
        assert_eq!(named(&now, txn(vec![step(3), step(-1)], vec![step(7), put])), 7);
        assert_eq!(named(&now, txn(vec![step(0)], vec![])), 0);
        assert_eq!(named(&then, Query::Get("k".into())), 5);
        assert_eq!(named(&now, Query::Get("k".into())), 0);
    }

    #[test]
    fn a_batch_of_which_an_item_was_carried_out_is_not_sent_again_as_a_whole() {
        let moved = || Err(ApiError::NotHere("the key is not in this range".into()));
        let done = || Ok(kv::Outcome::Applied(kv::Mutation::default()));
        let proposed = |items| Proposed { header: Header::default(), items };
        assert!(proposed(vec![moved(), moved()]).elsewhere().is_some());
        assert!(proposed(vec![moved(), done()]).elsewhere().is_none());
        assert!(proposed(vec![done(), moved()]).elsewhere().is_none());
        assert!(proposed(vec![Err(ApiError::LeaseNotFound)]).elsewhere().is_none());
        assert!(proposed(Vec::new()).elsewhere().is_none());
    }
}
