//! Users of an etcd keyspace: operations on them, and commands that come from one.
//!
//! What a command asks for was allowed where it was admitted, by the rules of the revision it
//! carries; here it is only made sure that they are the rules still. What only apply knows, it
//! checks: which keys hang on a lease.

use std::collections::BTreeSet;
use std::sync::Arc;

use holdfast_lsm::Family;
use holdfast_model::LeaseId;

use super::{Applier, Step};
use crate::auth::{AuthAccess, AuthPart, AuthRefusal};
use crate::command::{
    EtcdAuth, EtcdKeys, EtcdOperation, EtcdTxn, Operation, Txn, TxnOperation, User,
};
use crate::records::{
    AUTH, Attachment, AuthRecord, AuthRoleRecord, AuthUserRecord, attachment_from_key,
    attachments_of, auth_role_key, auth_user_key, seal,
};
use crate::{Outcome, Refusal};

impl Applier<'_> {
    pub(super) fn etcd_auth(&mut self, asked: &EtcdAuth, user: Option<&User>) -> Step<Outcome> {
        self.configured()?;
        let unknown = Refusal::Malformed { what: "operation on users is missing" };
        let change = asked.change.as_ref().ok_or(unknown)?;
        self.auth.may(name_of(user), change).map_err(Refusal::Auth)?;
        if change.only_reads() {
            return Ok(Outcome::EtcdAuth(self.auth.tell(change).map_err(Refusal::Auth)?));
        }
        let mut touched = BTreeSet::new();
        // Readers go on with the store as it was until it is published.
        let auth = Arc::make_mut(&mut self.auth);
        let answer = auth.change(change, &mut touched).map_err(Refusal::Auth)?;
        for part in touched {
            self.store_auth(&part);
        }
        Ok(Outcome::EtcdAuth(answer))
    }

    fn store_auth(&mut self, part: &AuthPart) {
        self.auth_changed = true;
        let (key, record) = match part {
            AuthPart::State => (AUTH, Some(seal(&AuthRecord::of(&self.auth)))),
            AuthPart::User(name) => {
                let record = self.auth.user(name).map(|user| seal(&AuthUserRecord::of(user)));
                (auth_user_key(name), record)
            }
            AuthPart::Role(name) => {
                let record = self.auth.role(name).map(|role| seal(&AuthRoleRecord::of(role)));
                (auth_role_key(name), record)
            }
        };
        self.work.set(Family::Meta, key, record);
    }

    /// Refuses a command that was admitted by rules that have changed since. One without a user is
    /// the range's own.
    pub(super) fn check_user(&self, user: Option<&User>) -> Result<(), Refusal> {
        // The usual case costs one look.
        if !self.auth.is_enabled() {
            return Ok(());
        }
        match user {
            None => Ok(()),
            Some(user) if user.name.is_empty() => Err(AuthRefusal::UserEmpty.into()),
            Some(user) if user.auth_revision < self.auth.revision() => {
                Err(AuthRefusal::AuthOldRevision.into())
            }
            Some(_) => Ok(()),
        }
    }

    /// Refuses to end a lease, and to attach to one, while a key hangs on it that the user may not
    /// write: who attaches a key must be able to end its lease.
    pub(super) fn check_leases(&self, operation: &Operation, user: Option<&User>) -> Step<()> {
        if !self.auth.is_enabled() || user.is_none() {
            return Ok(());
        }
        let name = name_of(user);
        if self.auth.check(name, &AuthAccess::Admin).is_ok() {
            return Ok(());
        }
        let mut leases = BTreeSet::new();
        leases_of(operation, &mut leases);
        for id in leases.into_iter().filter(|id| *id != 0) {
            let attached = attachments_of(LeaseId(id));
            for (key, _) in self.work.records(Family::Lease, attached, usize::MAX)? {
                let (Attachment::Key(key) | Attachment::Lock(key)) = attachment_from_key(&key)?;
                let access = AuthAccess::Write(EtcdKeys::One(key));
                self.auth.check(name, &access).map_err(Refusal::Auth)?;
            }
        }
        Ok(())
    }
}

/// The name of who asks; empty, which is nobody's, where there is none.
fn name_of(user: Option<&User>) -> &str {
    user.and_then(|user| std::str::from_utf8(&user.name).ok()).unwrap_or_default()
}

/// The leases an operation may end or attach to; 0 is none.
fn leases_of(operation: &Operation, leases: &mut BTreeSet<u64>) {
    match operation {
        Operation::Put(put) => drop(leases.insert(put.lease)),
        Operation::LeaseRevoke(revoke) => drop(leases.insert(revoke.id)),
        Operation::LockAcquire(acquire) => drop(leases.insert(acquire.lease)),
        Operation::Txn(txn) => txn_leases(txn, leases),
        Operation::Etcd(txn) => etcd_leases(txn, leases),
        Operation::Delete(_)
        | Operation::DeleteRange(_)
        | Operation::Increment(_)
        | Operation::LeaseGrant(_)
        | Operation::Renew(_)
        | Operation::LockKeepAlive(_)
        | Operation::LockRelease(_)
        | Operation::SessionOpen(_)
        | Operation::SessionKeepAlive(_)
        | Operation::SessionClose(_)
        | Operation::Expire(_)
        | Operation::Compact(_)
        | Operation::Configure(_)
        | Operation::EtcdAuth(_)
        | Operation::EtcdAlarm(_)
        | Operation::Noop(()) => {}
    }
}

fn txn_leases(txn: &Txn, leases: &mut BTreeSet<u64>) {
    for step in txn.success.iter().chain(&txn.failure) {
        match &step.operation {
            Some(TxnOperation::Put(put)) => drop(leases.insert(put.lease)),
            Some(TxnOperation::Txn(nested)) => txn_leases(nested, leases),
            _ => {}
        }
    }
}

fn etcd_leases(txn: &EtcdTxn, leases: &mut BTreeSet<u64>) {
    for step in txn.success.iter().chain(&txn.failure) {
        match &step.operation {
            Some(EtcdOperation::Put(put)) => drop(leases.insert(put.lease)),
            Some(EtcdOperation::Txn(nested)) => etcd_leases(nested, leases),
            _ => {}
        }
    }
}
