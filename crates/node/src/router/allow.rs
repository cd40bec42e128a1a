//! Who may do what in a keyspace with users of its own: asked where a call meets a replica.
//!
//! Whatever reaches a replica through the [`Gateway`], of whichever API, asked here or on behalf
//! of another node, is judged in this file, by the users of that replica's own state. Most
//! keyspaces have none: that is found out in one look.
//!
//! A command is judged by the state of now and carried out by a later one. So it is stamped with
//! its user and the revision it was judged under, and apply refuses it where that is outdated; what
//! only apply can know (which keys hang on a lease that ends) is judged there. An answer that was
//! read while users changed is not given.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_kv as kv;
use holdfast_kv::auth::etcd_accesses;
use holdfast_kv::command::{Condition, EtcdAlarmAction, EtcdKeys, Txn, TxnOperation, User};
use holdfast_kv::{AuthAccess, AuthRefusal, AuthStore};
use holdfast_model::limits::{LEASES_LISTED_MAX, RANGE_DELETE_KEYS_MAX};
use holdfast_model::{KeyspaceKind, LeaseId, RangeId};
use holdfast_replica::Replica;

use super::Gateway;
use super::interval::Interval;
use super::serve::{Query, engine_error};
use crate::api::{ApiError, Rank};
use crate::auth::Identity;

/// Somebody in a keyspace that asks for users.
struct Caller<'a> {
    auth: &'a AuthStore,
    /// Empty where no token was shown.
    name: String,
}

impl Gateway {
    /// Lets `command` onto `replica`, stamped with who asks for it.
    ///
    /// # Errors
    /// [`ApiError::Unauthenticated`], [`ApiError::Auth`].
    pub(super) async fn allow_command(
        &self,
        replica: &Replica,
        who: &Identity,
        command: &mut kv::Command,
    ) -> Result<(), ApiError> {
        if who.is_system() {
            return Ok(());
        }
        let reader = replica.reader();
        let auth = reader.auth().map_err(engine_error)?;
        let Some(caller) = self.caller(&auth, who)? else {
            // Should users be asked for before it is applied, nobody is who asked for it.
            if self.may_have_users(replica.options().range) {
                command.user = Some(stamp("", &auth));
            }
            return Ok(());
        };
        for operation in command.items.iter().filter_map(|item| item.operation.as_ref()) {
            caller.operation(operation)?;
            if let kv::Operation::Renew(renew) = operation {
                let leases = renew.leases.iter().copied().map(LeaseId).collect();
                self.allow_leases(reader, &caller, AuthAccess::Write, leases).await?;
            }
        }
        command.user = Some(stamp(&caller.name, &auth));
        Ok(())
    }

    /// Whether `query` may be answered from `reader`; the answer is to be given only if
    /// [`is_outdated`] says no to the users it was judged by.
    ///
    /// # Errors
    /// As [`Gateway::allow_command`].
    pub(super) async fn allow_query(
        &self,
        reader: &kv::Reader,
        auth: &AuthStore,
        who: &Identity,
        query: &Query,
    ) -> Result<(), ApiError> {
        if let Query::Authenticate { .. } = query {
            // Clients show the token that has ended while they ask for another one.
            return Ok(());
        }
        let Some(caller) = self.caller(auth, who)? else { return Ok(()) };
        match query {
            Query::Get(key) => caller.reads_one(key),
            Query::GetMany(keys) => keys.iter().try_for_each(|key| caller.reads_one(key)),
            Query::Scan(scan) => caller.reads(&scan.start, &scan.end),
            Query::Lock(name) => caller.reads_one(name),
            Query::Etcd(txn) => etcd_accesses(txn, &mut |access| caller.may(&access)),
            Query::Lease { keys: false, .. } => caller.is_somebody(),
            Query::Lease { id, keys: true } => {
                caller.is_somebody()?;
                self.allow_leases(reader, &caller, AuthAccess::Read, vec![*id]).await
            }
            Query::Leases { after, limit } => {
                caller.is_somebody()?;
                let (reader, after, limit) = (reader.clone(), *after, *limit);
                let listed = {
                    let reader = reader.clone();
                    move || reader.leases(after, limit.min(LEASES_LISTED_MAX))
                };
                let listed = self.parts.pool.run(listed).await;
                let listed = listed.map_err(|error| ApiError::NotReady(error.to_string()))?;
                let leases = listed.map_err(engine_error)?.iter().map(|lease| lease.id).collect();
                self.allow_leases(&reader, &caller, AuthAccess::Read, leases).await
            }
            Query::Rank(Rank::User) => caller.is_somebody(),
            Query::Rank(Rank::Administrator) => caller.may(&AuthAccess::Admin),
            Query::Authenticate { .. } => Ok(()),
        }
    }

    /// Whether changes of the keys of `interval` may be followed at `replica`.
    ///
    /// # Errors
    /// As [`Gateway::allow_command`].
    pub(super) fn allow_watch(
        &self,
        replica: &Replica,
        who: &Identity,
        interval: &Interval,
    ) -> Result<(), ApiError> {
        let auth = replica.reader().auth().map_err(engine_error)?;
        match self.caller(&auth, who)? {
            Some(caller) => caller.reads(&interval.start, &interval.end),
            None => Ok(()),
        }
    }

    /// Whether `who` has a rank in the keyspace of `replica`.
    ///
    /// # Errors
    /// As [`Gateway::allow_command`].
    pub(super) fn allow_rank(
        &self,
        replica: &Replica,
        who: &Identity,
        rank: Rank,
    ) -> Result<(), ApiError> {
        let auth = replica.reader().auth().map_err(engine_error)?;
        match (self.caller(&auth, who)?, rank) {
            (None, _) => Ok(()),
            (Some(caller), Rank::User) => caller.is_somebody(),
            (Some(caller), Rank::Administrator) => caller.may(&AuthAccess::Admin),
        }
    }

    /// Who has to be asked for permission: nobody where users are not asked for, and not the
    /// cluster itself.
    fn caller<'a>(
        &self,
        auth: &'a AuthStore,
        who: &Identity,
    ) -> Result<Option<Caller<'a>>, ApiError> {
        if !auth.is_enabled() || who.is_system() {
            return Ok(None);
        }
        let name = self.users.who(auth, who, &*self.parts.clock)?.unwrap_or_default();
        Ok(Some(Caller { auth, name }))
    }

    /// Whether `caller` may do `access` to every key that hangs on the leases. Administrators may,
    /// whatever hangs there; leases that do not exist have no keys.
    async fn allow_leases(
        &self,
        reader: &kv::Reader,
        caller: &Caller<'_>,
        access: fn(EtcdKeys) -> AuthAccess,
        leases: Vec<LeaseId>,
    ) -> Result<(), ApiError> {
        caller.is_somebody()?;
        if caller.may(&AuthAccess::Admin).is_ok() {
            return Ok(());
        }
        for id in leases {
            let reader = reader.clone();
            let keys = move || reader.lease_keys(id, &Bytes::new(), RANGE_DELETE_KEYS_MAX);
            let keys = self.parts.pool.run(keys).await;
            let keys = keys.map_err(|error| ApiError::NotReady(error.to_string()))?;
            for key in keys.map_err(engine_error)? {
                caller.may(&access(EtcdKeys::One(key)))?;
            }
        }
        Ok(())
    }

    /// Whether a range can belong to a keyspace with users of its own. The answer only decides
    /// whether a command carries a few bytes more, so a map that lags does no harm.
    fn may_have_users(&self, range: RangeId) -> bool {
        let map = self.parts.map.peek();
        let Some(range) = map.ranges.get(&range) else { return true };
        let keyspace = map.keyspaces.values().find(|keyspace| keyspace.id == range.keyspace);
        keyspace.is_none_or(|keyspace| keyspace.kind == KeyspaceKind::Etcd)
    }
}

/// Whether what was judged by `before` cannot be told now that `after` holds.
pub(super) fn is_outdated(before: &Arc<AuthStore>, after: &Arc<AuthStore>) -> bool {
    after.is_enabled() && (!before.is_enabled() || before.revision() != after.revision())
}

/// What a command says about who asked for it.
fn stamp(name: &str, auth: &AuthStore) -> User {
    User { name: name.to_owned().into(), auth_revision: auth.revision() }
}

impl Caller<'_> {
    fn may(&self, access: &AuthAccess) -> Result<(), ApiError> {
        self.auth.check(&self.name, access).map_err(ApiError::Auth)
    }

    fn is_somebody(&self) -> Result<(), ApiError> {
        if self.name.is_empty() { Err(ApiError::Auth(AuthRefusal::UserEmpty)) } else { Ok(()) }
    }

    fn reads_one(&self, key: &Bytes) -> Result<(), ApiError> {
        self.may(&AuthAccess::Read(EtcdKeys::One(key.clone())))
    }

    fn writes_one(&self, key: &Bytes) -> Result<(), ApiError> {
        self.may(&AuthAccess::Write(EtcdKeys::One(key.clone())))
    }

    /// Reads `[start, end)`; an empty end is no end.
    fn reads(&self, start: &Bytes, end: &Bytes) -> Result<(), ApiError> {
        self.may(&AuthAccess::Read(EtcdKeys::Interval(start.clone(), end.clone())))
    }

    fn writes(&self, start: &Bytes, end: &Bytes) -> Result<(), ApiError> {
        self.may(&AuthAccess::Write(EtcdKeys::Interval(start.clone(), end.clone())))
    }

    /// Writes a key; who learns what stands there, or sets a condition on it, reads it.
    fn changes(
        &self,
        key: &Bytes,
        previous: bool,
        condition: Option<&Condition>,
    ) -> Result<(), ApiError> {
        self.writes_one(key)?;
        if previous || condition.is_some() { self.reads_one(key) } else { Ok(()) }
    }

    fn operation(&self, operation: &kv::Operation) -> Result<(), ApiError> {
        use kv::Operation as O;
        match operation {
            O::Put(put) => self.changes(&put.key, put.return_previous, put.condition.as_ref()),
            O::Delete(delete) => {
                self.changes(&delete.key, delete.return_previous, delete.condition.as_ref())
            }
            // The sum tells what was there.
            O::Increment(increment) => self.changes(&increment.key, true, None),
            O::DeleteRange(delete) => {
                self.deletes(&delete.start, &delete.end, delete.return_previous)
            }
            O::Txn(txn) => self.txn(txn),
            O::Etcd(txn) => etcd_accesses(txn, &mut |access| self.may(&access)),
            // Which keys hang on a lease is known to apply (revoke) or looked up (renew).
            O::LeaseGrant(_) | O::LeaseRevoke(_) | O::Renew(_) => self.is_somebody(),
            O::SessionOpen(_) | O::SessionKeepAlive(_) | O::SessionClose(_) => self.is_somebody(),
            O::LockAcquire(lock) => self.changes(&lock.name, true, None),
            O::LockKeepAlive(lock) => self.changes(&lock.name, true, None),
            O::LockRelease(lock) => self.changes(&lock.name, true, None),
            O::EtcdAlarm(alarm) if alarm.action() == EtcdAlarmAction::List => self.is_somebody(),
            O::EtcdAlarm(_) | O::Compact(_) => self.may(&AuthAccess::Admin),
            // Apply decides, by the very state that it changes.
            O::EtcdAuth(_) => Ok(()),
            // The range's own; nobody asks for them through a gateway.
            O::Expire(_) | O::Configure(_) | O::Noop(()) => self.may(&AuthAccess::Admin),
        }
    }

    fn deletes(&self, start: &Bytes, end: &Bytes, previous: bool) -> Result<(), ApiError> {
        self.writes(start, end)?;
        if previous { self.reads(start, end) } else { Ok(()) }
    }

    /// Everything a native transaction may touch, in both branches. Its depth is bounded by what
    /// validation lets pass.
    fn txn(&self, txn: &Txn) -> Result<(), ApiError> {
        for compare in &txn.compares {
            match compare.end.is_empty() {
                true => self.reads_one(&compare.key)?,
                false => self.reads(&compare.key, &compare.end)?,
            }
        }
        let steps = txn.success.iter().chain(&txn.failure);
        steps.filter_map(|step| step.operation.as_ref()).try_for_each(|step| match step {
            TxnOperation::Get(get) => self.reads_one(&get.key),
            TxnOperation::Range(range) => self.reads(&range.start, &range.end),
            TxnOperation::Put(put) => {
                self.changes(&put.key, put.return_previous, put.condition.as_ref())
            }
            TxnOperation::Delete(delete) => {
                self.changes(&delete.key, delete.return_previous, delete.condition.as_ref())
            }
            TxnOperation::DeleteRange(delete) => {
                self.deletes(&delete.start, &delete.end, delete.return_previous)
            }
            TxnOperation::Increment(increment) => self.changes(&increment.key, true, None),
            TxnOperation::Txn(nested) => self.txn(nested),
        })
    }
}
