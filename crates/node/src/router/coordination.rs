//! Sessions, leases and locks.

use bytes::Bytes;
use futures_util::FutureExt;
use holdfast_kv as kv;
use holdfast_kv::command::{
    LeaseGrant as GrantCommand, LeaseRevoke, LockAcquire as AcquireCommand,
    LockKeepAlive as KeepCommand, LockRelease as ReleaseCommand, Renew, SessionClose,
    SessionKeepAlive, SessionOpen,
};
use holdfast_model::{LeaseId, limits as ceiling, position};
use xxhash_rust::xxh3::xxh3_64;

use super::serve::{Query, ReadSpec, Reply};
use super::{Gateway, Place, keyspace_of};
use crate::api::{
    self, Answer, ApiError, Call, Header, LeaseGrant, LeaseRemaining, LeaseState, ListedLease,
    LockAcquire, LockAcquired, LockKeepAlive, LockName, LockRelease, ReadOptions,
    Reply as ApiReply, SessionOf, SessionTag,
};
use crate::auth::{Keys, Verb};
use crate::limits;

/// How often a lease id drawn by this node is drawn again because it exists.
const LEASE_DRAWS_MAX: usize = 8;

impl Gateway {
    async fn session(
        &self,
        call: &Call,
        session: SessionOf,
        operation: kv::Operation,
    ) -> Result<Answer<u64>, ApiError> {
        self.enter(call, &session.keyspace).await?;
        self.allow(call, Verb::Write, &session.keyspace, Keys::None)?;
        let place = Place::Range { keyspace: &session.keyspace, range: session.range };
        match self.propose_one(call, place, None, operation).await? {
            (header, kv::Outcome::Session { idle_max_ms }) => {
                Ok(Answer { header, value: idle_max_ms })
            }
            (_, other) => Err(unexpected("session", &other)),
        }
    }

    async fn lease_grant(
        &self,
        call: &Call,
        request: LeaseGrant,
    ) -> Result<Answer<kv::LeaseOutcome>, ApiError> {
        self.enter(call, &request.keyspace).await?;
        limits::lease_ttl(request.ttl_ms)?;
        self.allow(call, Verb::Write, &request.keyspace, Keys::One(&request.key))?;
        let at = self.position_of_lease(&request)?;
        for draw in 0..LEASE_DRAWS_MAX {
            let id = match request.id.0 {
                0 => self.draw_lease(at, request.session, draw),
                _ => request.id,
            };
            let operation = GrantCommand { id: id.0, ttl_ms: request.ttl_ms };
            let place = Place::Position { keyspace: &request.keyspace, position: id.position() };
            match self.propose_one(call, place, request.session, operation).await {
                Ok((header, kv::Outcome::Lease(value))) => return Ok(Answer { header, value }),
                Ok((_, other)) => return Err(unexpected("lease", &other)),
                Err(ApiError::AlreadyExists(_))
                    if request.id.0 == 0 && request.session.is_none() => {}
                Err(error) => return Err(error),
            }
        }
        Err(ApiError::Internal("no free lease id was drawn".into()))
    }

    /// An id at `at`. Inside a session it follows from the operation's number, so that a retry
    /// asks for the same lease.
    fn draw_lease(&self, at: u64, session: Option<SessionTag>, draw: usize) -> LeaseId {
        let number = match session {
            Some(tag) => {
                let mut bytes = [0; 24];
                let (client, seq) = bytes.split_at_mut(16);
                client.copy_from_slice(&tag.client.to_bytes());
                seq.copy_from_slice(&tag.seq.to_le_bytes());
                xxh3_64(&bytes).wrapping_add(draw as u64)
            }
            None => self.parts.entropy.u64(),
        };
        // Number 0 at position 0 would be "no lease".
        LeaseId::new(at, (number as u32).max(1))
    }

    fn position_of_lease(&self, request: &LeaseGrant) -> Result<u64, ApiError> {
        if !request.key.is_empty() {
            self.parts.limits.key(&request.key)?;
            let at = LeaseId::new(position(&request.key), 0).position();
            if request.id.0 != 0 && request.id.position() != at {
                let text = "lease id: its upper half must be that of the key's hash position";
                return Err(ApiError::Invalid(text.into()));
            }
            return Ok(at);
        }
        let map = self.parts.map.peek();
        let ranges = keyspace_of(&map, &request.keyspace)?.ranges;
        if ranges != 1 {
            let text = format!("key of a lease: required in a keyspace of {ranges} ranges");
            return Err(ApiError::Invalid(text));
        }
        Ok(match (request.id.0, request.session) {
            // Half of the ids: those that stay positive where they are taken for signed numbers.
            (0, None) => self.parts.entropy.u64() >> 1,
            (0, Some(tag)) => xxh3_64(&tag.client.to_bytes()) >> 1,
            _ => request.id.position(),
        })
    }

    async fn lease_renew(
        &self,
        call: &Call,
        keyspace: &str,
        id: LeaseId,
    ) -> Result<Answer<LeaseRemaining>, ApiError> {
        self.enter(call, keyspace).await?;
        self.allow(call, Verb::Write, keyspace, Keys::None)?;
        let place = Place::Position { keyspace, position: id.position() };
        let renew = Renew { leases: vec![id.0] };
        match self.propose_one(call, place, None, renew).await? {
            (header, kv::Outcome::Renewed(renewals)) => {
                let renewal = renewals.first();
                let expires = renewal.map_or(0, |renewal| renewal.expires_at_ms);
                let granted_ms = renewal.map_or(0, |renewal| renewal.ttl_ms);
                let ttl_ms = expires.saturating_sub(header.clock_ms);
                Ok(Answer { header, value: LeaseRemaining { id, ttl_ms, granted_ms } })
            }
            (_, other) => Err(unexpected("renewal", &other)),
        }
    }

    async fn lease_revoke(
        &self,
        call: &Call,
        keyspace: &str,
        id: LeaseId,
        session: Option<SessionTag>,
    ) -> Result<Answer<kv::LeaseOutcome>, ApiError> {
        self.enter(call, keyspace).await?;
        self.allow(call, Verb::Write, keyspace, Keys::None)?;
        let place = Place::Position { keyspace, position: id.position() };
        match self.propose_one(call, place, session, LeaseRevoke { id: id.0 }).await? {
            (header, kv::Outcome::Lease(value)) => Ok(Answer { header, value }),
            (_, other) => Err(unexpected("revoke", &other)),
        }
    }

    async fn lease_look(
        &self,
        call: &Call,
        keyspace: &str,
        id: LeaseId,
        keys: bool,
    ) -> Result<Answer<Option<LeaseState>>, ApiError> {
        self.enter(call, keyspace).await?;
        self.allow(call, Verb::Read, keyspace, Keys::None)?;
        let place = Place::Position { keyspace, position: id.position() };
        let query = Query::Lease { id, keys };
        let served = self.read(call, place, &ReadSpec::default(), &query).await?;
        match served.reply {
            Reply::Lease(value) => Ok(Answer { header: served.header, value }),
            other => Err(unexpected("lease", &other)),
        }
    }

    async fn lease_list(
        &self,
        call: &Call,
        keyspace: &str,
        after: LeaseId,
        limit: usize,
    ) -> Result<Answer<Vec<ListedLease>>, ApiError> {
        self.enter(call, keyspace).await?;
        self.allow(call, Verb::Read, keyspace, Keys::None)?;
        limits::at_most("leases of a list", ceiling::LEASES_LISTED_MAX, limit)?;
        let place = self.only_range(keyspace)?;
        let query = Query::Leases { after, limit };
        let served = self.read(call, place, &ReadSpec::default(), &query).await?;
        match served.reply {
            Reply::Leases(value) => Ok(Answer { header: served.header, value }),
            other => Err(unexpected("list of leases", &other)),
        }
    }

    fn place_of_lock<'a>(
        &self,
        call: &Call,
        lock: &'a LockName,
        verb: Verb,
    ) -> Result<Place<'a>, ApiError> {
        lock_name(&lock.name)?;
        self.allow(call, verb, &lock.keyspace, Keys::One(&lock.name))?;
        Ok(Place::Position { keyspace: &lock.keyspace, position: position(&lock.name) })
    }

    async fn lock_acquire(
        &self,
        call: &Call,
        request: LockAcquire,
    ) -> Result<Answer<LockAcquired>, ApiError> {
        self.enter(call, &request.lock.keyspace).await?;
        limits::ttl(request.ttl_ms)?;
        let place = self.place_of_lock(call, &request.lock, Verb::Write)?;
        self.refuse_in_etcd(&request.lock.keyspace, "locks; use leases and keys")?;
        let operation = AcquireCommand {
            name: request.lock.name.clone(),
            owner: request.lock.owner.clone(),
            ttl_ms: request.ttl_ms,
            lease: 0,
            wait: request.wait,
            value: request.value,
        };
        let (header, lock) = if request.wait {
            self.acquire_waiting(call, place, operation).await?
        } else {
            lock_outcome(self.propose_one(call, place, None, operation).await?)?
        };
        let token = match lock.standing {
            kv::LockStanding::Held { token } => token.0,
            kv::LockStanding::Waiting { .. } | kv::LockStanding::Absent => 0,
        };
        Ok(Answer { header, value: LockAcquired { token, state: lock.state } })
    }

    async fn lock_keep_alive(
        &self,
        call: &Call,
        request: LockKeepAlive,
    ) -> Result<Answer<u64>, ApiError> {
        self.enter(call, &request.lock.keyspace).await?;
        let place = self.place_of_lock(call, &request.lock, Verb::Write)?;
        let (name, owner) = (request.lock.name.clone(), request.lock.owner.clone());
        let operation = KeepCommand { name, owner, token: request.token };
        let (header, lock) = lock_outcome(self.propose_one(call, place, None, operation).await?)?;
        let left = lock.expires_at_ms.saturating_sub(header.clock_ms);
        match lock.standing {
            kv::LockStanding::Absent => Err(ApiError::LockNotHeld),
            _ => Ok(Answer { header, value: left }),
        }
    }

    async fn lock_release(
        &self,
        call: &Call,
        request: LockRelease,
    ) -> Result<Answer<bool>, ApiError> {
        self.enter(call, &request.lock.keyspace).await?;
        let place = self.place_of_lock(call, &request.lock, Verb::Write)?;
        let (name, owner) = (request.lock.name.clone(), request.lock.owner.clone());
        let operation = ReleaseCommand { name, owner, token: request.token, queue_only: false };
        match self.propose_one(call, place, None, operation).await {
            Ok(answer) => {
                let (header, lock) = lock_outcome(answer)?;
                Ok(Answer { header, value: lock.changed })
            }
            Err(ApiError::LockNotHeld) => Ok(Answer { header: self.plain_header(), value: false }),
            Err(error) => Err(error),
        }
    }

    async fn lock_inspect(
        &self,
        call: &Call,
        keyspace: &str,
        name: Bytes,
        read: ReadOptions,
    ) -> Result<Answer<kv::LockState>, ApiError> {
        self.enter(call, keyspace).await?;
        lock_name(&name)?;
        self.allow(call, Verb::Read, keyspace, Keys::One(&name))?;
        let place = Place::Position { keyspace, position: position(&name) };
        let spec = self.spec(place, &read, None);
        let served = self.read(call, place, &spec, &Query::Lock(name)).await?;
        match served.reply {
            Reply::Lock(value) => Ok(Answer { header: served.header, value }),
            other => Err(unexpected("lock", &other)),
        }
    }
}

fn lock_name(name: &[u8]) -> Result<(), ApiError> {
    if name.is_empty() {
        return Err(ApiError::Invalid("name of a lock: at least 1 byte, given 0".into()));
    }
    limits::at_most("bytes of a lock's name", ceiling::NAME_BYTES_MAX, name.len())
}

/// The lock's outcome out of an answer.
pub(super) fn lock_outcome(
    (header, outcome): (Header, kv::Outcome),
) -> Result<(Header, kv::LockOutcome), ApiError> {
    match outcome {
        kv::Outcome::Lock(lock) => Ok((header, lock)),
        other => Err(unexpected("lock", &other)),
    }
}

/// A range answered something else than it was asked: a defect.
pub(crate) fn unexpected(what: &str, answer: &impl std::fmt::Debug) -> ApiError {
    ApiError::Internal(format!("a {what} operation was answered with {answer:?}"))
}

impl api::Session for Gateway {
    fn open<'a>(&'a self, call: &'a Call, session: SessionOf) -> ApiReply<'a, Answer<u64>> {
        let client = session.client.to_bytes().to_vec().into();
        self.session(call, session, SessionOpen { client }.into()).boxed()
    }

    fn keep_alive<'a>(&'a self, call: &'a Call, session: SessionOf) -> ApiReply<'a, Answer<u64>> {
        let client = session.client.to_bytes().to_vec().into();
        let operation = SessionKeepAlive { client, watermark: session.watermark };
        self.session(call, session, operation.into()).boxed()
    }

    fn close<'a>(&'a self, call: &'a Call, session: SessionOf) -> ApiReply<'a, Answer<u64>> {
        let client = session.client.to_bytes().to_vec().into();
        self.session(call, session, SessionClose { client }.into()).boxed()
    }
}

impl api::Lease for Gateway {
    fn grant<'a>(
        &'a self,
        call: &'a Call,
        request: LeaseGrant,
    ) -> ApiReply<'a, Answer<kv::LeaseOutcome>> {
        self.lease_grant(call, request).boxed()
    }

    fn renew<'a>(
        &'a self,
        call: &'a Call,
        keyspace: &'a str,
        id: LeaseId,
    ) -> ApiReply<'a, Answer<LeaseRemaining>> {
        self.lease_renew(call, keyspace, id).boxed()
    }

    fn revoke<'a>(
        &'a self,
        call: &'a Call,
        keyspace: &'a str,
        id: LeaseId,
        session: Option<SessionTag>,
    ) -> ApiReply<'a, Answer<kv::LeaseOutcome>> {
        self.lease_revoke(call, keyspace, id, session).boxed()
    }

    fn look<'a>(
        &'a self,
        call: &'a Call,
        keyspace: &'a str,
        id: LeaseId,
        keys: bool,
    ) -> ApiReply<'a, Answer<Option<LeaseState>>> {
        self.lease_look(call, keyspace, id, keys).boxed()
    }

    fn leases<'a>(
        &'a self,
        call: &'a Call,
        keyspace: &'a str,
        after: LeaseId,
        limit: usize,
    ) -> ApiReply<'a, Answer<Vec<ListedLease>>> {
        self.lease_list(call, keyspace, after, limit).boxed()
    }
}

impl api::Lock for Gateway {
    fn acquire<'a>(
        &'a self,
        call: &'a Call,
        request: LockAcquire,
    ) -> ApiReply<'a, Answer<LockAcquired>> {
        self.lock_acquire(call, request).boxed()
    }

    fn keep_alive<'a>(
        &'a self,
        call: &'a Call,
        request: LockKeepAlive,
    ) -> ApiReply<'a, Answer<u64>> {
        self.lock_keep_alive(call, request).boxed()
    }

    fn release<'a>(&'a self, call: &'a Call, request: LockRelease) -> ApiReply<'a, Answer<bool>> {
        self.lock_release(call, request).boxed()
    }

    fn inspect<'a>(
        &'a self,
        call: &'a Call,
        keyspace: &'a str,
        name: Bytes,
        read: ReadOptions,
    ) -> ApiReply<'a, Answer<kv::LockState>> {
        self.lock_inspect(call, keyspace, name, read).boxed()
    }
}
