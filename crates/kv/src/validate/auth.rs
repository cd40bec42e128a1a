//! What is refused of an operation on users before anything is proposed: what etcd has an error for
//! is left to apply.

use bytes::Bytes;
use holdfast_model::limits::NAME_BYTES_MAX;

use super::{Checked, Limits, at_least, at_most, rule};
use crate::auth::AUTH_HASH_BYTES_MAX;
use crate::command::{AUTH_TOKEN_KEY_BYTES, AuthPermission, AuthVerb, EtcdAuth, EtcdAuthChange};

impl Limits {
    pub(super) fn etcd_auth(&self, auth: &EtcdAuth) -> Checked {
        match &auth.change {
            None => rule("an operation on users is missing"),
            Some(EtcdAuthChange::Enable(enable)) => {
                let given = enable.token_key.len();
                at_least("bytes of the key of tokens", AUTH_TOKEN_KEY_BYTES, given)?;
                at_most("bytes of the key of tokens", AUTH_TOKEN_KEY_BYTES, given)
            }
            Some(EtcdAuthChange::UserAdd(add)) => {
                name(&add.name)?;
                hash(&add.password_hash)
            }
            Some(EtcdAuthChange::UserChangePassword(change)) => {
                name(&change.name)?;
                hash(&change.password_hash)
            }
            Some(EtcdAuthChange::UserGrantRole(pair) | EtcdAuthChange::UserRevokeRole(pair)) => {
                name(&pair.user)?;
                name(&pair.role)
            }
            Some(
                EtcdAuthChange::UserGet(of)
                | EtcdAuthChange::UserDelete(of)
                | EtcdAuthChange::RoleAdd(of)
                | EtcdAuthChange::RoleGet(of)
                | EtcdAuthChange::RoleDelete(of),
            ) => name(&of.name),
            Some(EtcdAuthChange::RoleGrantPermission(grant)) => {
                name(&grant.role)?;
                grant.permission.as_ref().map_or(Ok(()), |permission| self.permission(permission))
            }
            Some(EtcdAuthChange::RoleRevokePermission(revoke)) => {
                name(&revoke.role)?;
                self.permitted_keys(&revoke.key, &revoke.range_end)
            }
            Some(
                EtcdAuthChange::Disable(())
                | EtcdAuthChange::Status(())
                | EtcdAuthChange::UserList(())
                | EtcdAuthChange::RoleList(()),
            ) => Ok(()),
        }
    }

    fn permission(&self, permission: &AuthPermission) -> Checked {
        if AuthVerb::try_from(permission.verb).is_err() {
            return rule("a permission is to read, to write or both");
        }
        self.permitted_keys(&permission.key, &permission.range_end)
    }

    fn permitted_keys(&self, key: &Bytes, range_end: &Bytes) -> Checked {
        at_most("bytes of a key", self.key_bytes_max, key.len())?;
        at_most("bytes of a key", self.key_bytes_max, range_end.len())
    }
}

fn name(name: &str) -> Checked {
    at_most("bytes of a user's or role's name", NAME_BYTES_MAX, name.len())
}

fn hash(hash: &Bytes) -> Checked {
    at_most("bytes of a password's hash", AUTH_HASH_BYTES_MAX, hash.len())
}
