//! What operations on users do, and what they refuse, check by check as etcd does.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{
    AUTH_BYTES_MAX, AUTH_ROLE_PERMISSIONS_MAX, AUTH_ROLES_MAX, AUTH_USERS_MAX, AuthAnswer,
    AuthPart, AuthRefusal, AuthRole, AuthStore, AuthTokenKey, AuthUser, ROOT, permission_weight,
    weight,
};
use crate::command::{
    AuthPermission, AuthRoleGrant, AuthRoleRevoke, AuthUserAdd, AuthUserChangePassword,
    AuthUserRole, AuthVerb, EtcdAuthChange,
};

type Checked<T = ()> = Result<T, AuthRefusal>;

impl AuthStore {
    /// What an operation that only reads tells.
    pub(crate) fn tell(&self, change: &EtcdAuthChange) -> Checked<AuthAnswer> {
        Ok(match change {
            EtcdAuthChange::UserGet(get) => {
                let user = self.user(&get.name).ok_or(AuthRefusal::UserNotFound)?;
                AuthAnswer::User { roles: user.roles.clone() }
            }
            EtcdAuthChange::RoleGet(get) => {
                let role = self.role(&get.name).ok_or(AuthRefusal::RoleNotFound)?;
                let everything = || vec![root_permission()];
                let is_root = get.name == ROOT;
                let permissions = if is_root { everything() } else { role.permissions.clone() };
                AuthAnswer::Role { permissions }
            }
            EtcdAuthChange::UserList(()) => {
                AuthAnswer::Names(self.users().map(|(name, _)| name.clone()).collect())
            }
            EtcdAuthChange::RoleList(()) => {
                AuthAnswer::Names(self.roles().map(|(name, _)| name.clone()).collect())
            }
            _ => AuthAnswer::Status { enabled: self.is_enabled(), revision: self.revision() },
        })
    }

    /// Carries out a change; `touched` gets what is to be stored again. Refused, it changes
    /// nothing. Where users are asked for already, and where they are not, enabling and disabling
    /// do nothing; nor does granting a role twice.
    pub(crate) fn change(
        &mut self,
        change: &EtcdAuthChange,
        touched: &mut BTreeSet<AuthPart>,
    ) -> Checked<AuthAnswer> {
        let before = self.revision;
        match change {
            EtcdAuthChange::Enable(enable) => self.enable(&enable.token_key, touched)?,
            EtcdAuthChange::Disable(()) => self.disable(),
            EtcdAuthChange::UserAdd(add) => self.user_add(add, touched)?,
            EtcdAuthChange::UserDelete(delete) => self.user_delete(&delete.name, touched)?,
            EtcdAuthChange::UserChangePassword(change) => self.user_password(change, touched)?,
            EtcdAuthChange::UserGrantRole(grant) => self.user_grant(grant, touched)?,
            EtcdAuthChange::UserRevokeRole(revoke) => self.user_revoke(revoke, touched)?,
            EtcdAuthChange::RoleAdd(add) => self.role_add(&add.name, touched)?,
            EtcdAuthChange::RoleDelete(delete) => self.role_delete(&delete.name, touched)?,
            EtcdAuthChange::RoleGrantPermission(grant) => self.role_grant(grant, touched)?,
            EtcdAuthChange::RoleRevokePermission(revoke) => self.role_revoke(revoke, touched)?,
            EtcdAuthChange::Status(())
            | EtcdAuthChange::UserGet(_)
            | EtcdAuthChange::UserList(())
            | EtcdAuthChange::RoleGet(_)
            | EtcdAuthChange::RoleList(()) => return self.tell(change),
        }
        if self.revision > before {
            touched.insert(AuthPart::State);
        }
        Ok(AuthAnswer::Done)
    }

    fn enable(&mut self, token_key: &Bytes, touched: &mut BTreeSet<AuthPart>) -> Checked {
        if self.is_enabled() {
            return Ok(());
        }
        let root = self.user(ROOT).ok_or(AuthRefusal::RootUserNotExist)?;
        if !root.has_role(ROOT) {
            return Err(AuthRefusal::RootRoleNotExist);
        }
        let key = AuthTokenKey::try_from(token_key.as_ref());
        self.token_key = Some(key.map_err(|_| AuthRefusal::InvalidAuthManagement)?);
        touched.insert(AuthPart::State);
        Ok(())
    }

    fn disable(&mut self) {
        if self.token_key.take().is_some() {
            self.revision += 1;
        }
    }

    fn user_add(&mut self, add: &AuthUserAdd, touched: &mut BTreeSet<AuthPart>) -> Checked {
        let AuthUserAdd { name, password_hash, no_password } = add;
        if name.is_empty() {
            return Err(AuthRefusal::UserEmpty);
        }
        if self.user(name).is_some() {
            return Err(AuthRefusal::UserAlreadyExist);
        }
        at_most("users", AUTH_USERS_MAX, self.users.len() + 1)?;
        self.room(weight(name) + password_hash.len() as u64)?;
        let user = AuthUser {
            password_hash: if *no_password { Bytes::new() } else { owned(password_hash) },
            no_password: *no_password,
            roles: Vec::new(),
            // Nor does a token of a user who had the name before count.
            tokens_from: self.revision + 1,
        };
        self.store_user(name, Some(user), touched);
        self.revision += 1;
        Ok(())
    }

    fn user_delete(&mut self, name: &str, touched: &mut BTreeSet<AuthPart>) -> Checked {
        if self.is_enabled() && name == ROOT {
            return Err(AuthRefusal::InvalidAuthManagement);
        }
        if self.user(name).is_none() {
            return Err(AuthRefusal::UserNotFound);
        }
        self.store_user(name, None, touched);
        self.revision += 1;
        Ok(())
    }

    fn user_password(
        &mut self,
        change: &AuthUserChangePassword,
        touched: &mut BTreeSet<AuthPart>,
    ) -> Checked {
        let AuthUserChangePassword { name, password_hash } = change;
        let mut user = self.user(name).cloned().ok_or(AuthRefusal::UserNotFound)?;
        self.room(password_hash.len() as u64)?;
        if !user.no_password {
            user.password_hash = owned(password_hash);
        }
        user.tokens_from = self.revision + 1;
        self.store_user(name, Some(user), touched);
        self.revision += 1;
        Ok(())
    }

    fn user_grant(&mut self, grant: &AuthUserRole, touched: &mut BTreeSet<AuthPart>) -> Checked {
        let AuthUserRole { user: name, role } = grant;
        let mut user = self.user(name).cloned().ok_or(AuthRefusal::UserNotFound)?;
        if role != ROOT && self.role(role).is_none() {
            return Err(AuthRefusal::RoleNotFound);
        }
        let Err(place) = user.roles.binary_search(role) else { return Ok(()) };
        self.room(weight(role))?;
        user.roles.insert(place, role.clone());
        self.store_user(name, Some(user), touched);
        self.revision += 1;
        Ok(())
    }

    fn user_revoke(&mut self, revoke: &AuthUserRole, touched: &mut BTreeSet<AuthPart>) -> Checked {
        let AuthUserRole { user: name, role } = revoke;
        if self.is_enabled() && name == ROOT && role == ROOT {
            return Err(AuthRefusal::InvalidAuthManagement);
        }
        let mut user = self.user(name).cloned().ok_or(AuthRefusal::UserNotFound)?;
        let place = user.roles.binary_search(role).map_err(|_| AuthRefusal::RoleNotGranted)?;
        user.roles.remove(place);
        self.store_user(name, Some(user), touched);
        self.revision += 1;
        Ok(())
    }

    fn role_add(&mut self, name: &str, touched: &mut BTreeSet<AuthPart>) -> Checked {
        if name.is_empty() {
            return Err(AuthRefusal::RoleEmpty);
        }
        if self.role(name).is_some() {
            return Err(AuthRefusal::RoleAlreadyExist);
        }
        at_most("roles", AUTH_ROLES_MAX, self.roles.len() + 1)?;
        self.room(weight(name))?;
        self.store_role(name, Some(AuthRole::new(Vec::new())), touched);
        self.revision += 1;
        Ok(())
    }

    fn role_delete(&mut self, name: &str, touched: &mut BTreeSet<AuthPart>) -> Checked {
        if self.is_enabled() && name == ROOT {
            return Err(AuthRefusal::InvalidAuthManagement);
        }
        if self.role(name).is_none() {
            return Err(AuthRefusal::RoleNotFound);
        }
        self.store_role(name, None, touched);
        let holders = self.users().filter(|(_, user)| user.has_role(name));
        let holders: Vec<_> =
            holders.map(|(holder, user)| (holder.clone(), user.clone())).collect();
        for (holder, mut user) in holders {
            user.roles.retain(|role| role != name);
            self.store_user(&holder, Some(user), touched);
        }
        self.revision += 1;
        Ok(())
    }

    fn role_grant(&mut self, grant: &AuthRoleGrant, touched: &mut BTreeSet<AuthPart>) -> Checked {
        let AuthRoleGrant { role: name, permission } = grant;
        let permission = permission.as_ref().ok_or(AuthRefusal::PermissionNotGiven)?;
        if !is_for_some_key(permission) {
            return Err(AuthRefusal::InvalidAuthManagement);
        }
        let role = self.role(name).ok_or(AuthRefusal::RoleNotFound)?;
        let mut permissions = role.permissions.clone();
        let granted = AuthPermission {
            verb: permission.verb,
            key: owned(&permission.key),
            range_end: owned(&permission.range_end),
        };
        match place_of(&permissions, &granted.key, &granted.range_end) {
            Ok(place) => permissions[place] = granted,
            Err(place) => {
                let limit = AUTH_ROLE_PERMISSIONS_MAX;
                at_most("permissions of a role", limit, permissions.len() + 1)?;
                self.room(permission_weight(&granted))?;
                permissions.insert(place, granted);
            }
        }
        self.store_role(name, Some(AuthRole::new(permissions)), touched);
        self.revision += 1;
        Ok(())
    }

    fn role_revoke(
        &mut self,
        revoke: &AuthRoleRevoke,
        touched: &mut BTreeSet<AuthPart>,
    ) -> Checked {
        let AuthRoleRevoke { role: name, key, range_end } = revoke;
        let role = self.role(name).ok_or(AuthRefusal::RoleNotFound)?;
        let place = place_of(&role.permissions, key, range_end);
        let place = place.map_err(|_| AuthRefusal::PermissionNotGranted)?;
        let mut permissions = role.permissions.clone();
        permissions.remove(place);
        self.store_role(name, Some(AuthRole::new(permissions)), touched);
        self.revision += 1;
        Ok(())
    }

    /// Refuses what would make the store heavier than it may be.
    fn room(&self, added: u64) -> Checked {
        if self.bytes + added <= AUTH_BYTES_MAX {
            return Ok(());
        }
        Err(AuthRefusal::Full { what: "bytes of users and roles", limit: AUTH_BYTES_MAX })
    }

    fn store_user(&mut self, name: &str, user: Option<AuthUser>, touched: &mut BTreeSet<AuthPart>) {
        self.set_user(name, user);
        touched.insert(AuthPart::User(name.to_owned()));
    }

    fn store_role(&mut self, name: &str, role: Option<AuthRole>, touched: &mut BTreeSet<AuthPart>) {
        self.set_role(name, role);
        touched.insert(AuthPart::Role(name.to_owned()));
    }
}

/// Where the permission for these very keys is, or would be.
fn place_of(permissions: &[AuthPermission], key: &Bytes, end: &Bytes) -> Result<usize, usize> {
    permissions.binary_search_by(|held| (&held.key, &held.range_end).cmp(&(key, end)))
}

/// Whether a permission is for keys that can exist.
fn is_for_some_key(permission: &AuthPermission) -> bool {
    let AuthPermission { key, range_end, .. } = permission;
    !key.is_empty() && (range_end.is_empty() || range_end.as_ref() == [0] || key < range_end)
}

/// What the role `root` is told to allow.
fn root_permission() -> AuthPermission {
    let range_end = Bytes::from_static(&[0]);
    AuthPermission { verb: AuthVerb::ReadWrite.into(), key: Bytes::new(), range_end }
}

/// A copy that does not keep the entry it came with in memory.
fn owned(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn at_most(what: &'static str, limit: usize, wanted: usize) -> Checked {
    if wanted <= limit { Ok(()) } else { Err(AuthRefusal::Full { what, limit: limit as u64 }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::AuthName;

    type Named = fn(String) -> EtcdAuthChange;

    fn add(name: String) -> EtcdAuthChange {
        EtcdAuthChange::UserAdd(AuthUserAdd { name, ..AuthUserAdd::default() })
    }

    fn role(name: String) -> EtcdAuthChange {
        EtcdAuthChange::RoleAdd(AuthName { name })
    }

    fn grant(key: String) -> EtcdAuthChange {
        let permission = AuthPermission { key: key.into(), ..AuthPermission::default() };
        let grant = AuthRoleGrant { role: "0".into(), permission: Some(permission) };
        EtcdAuthChange::RoleGrantPermission(grant)
    }

    #[test]
    fn there_are_only_so_many_users_roles_and_permissions() {
        let mut store = AuthStore::default();
        let mut touched = BTreeSet::new();
        let kinds: [(Named, usize); 3] =
            [(add, AUTH_USERS_MAX), (role, AUTH_ROLES_MAX), (grant, AUTH_ROLE_PERMISSIONS_MAX)];
        for (change, most) in kinds {
            for name in 0..most {
                let done = store.change(&change(name.to_string()), &mut touched);
                assert_eq!(done, Ok(AuthAnswer::Done));
            }
            let before = store.clone();
            let refused = store.change(&change(most.to_string()), &mut touched);
            assert!(
                matches!(refused, Err(AuthRefusal::Full { limit, .. }) if limit == most as u64)
            );
            assert!(store == before);
        }
        assert_eq!(store.change(&grant("7".into()), &mut touched), Ok(AuthAnswer::Done));
    }

    #[test]
    fn a_store_that_weighs_what_it_may_takes_nothing_more_until_something_goes() {
        let mut store = AuthStore::default();
        let mut touched = BTreeSet::new();
        for change in [add("ann".into()), role("0".into())] {
            assert_eq!(store.change(&change, &mut touched), Ok(AuthAnswer::Done));
        }
        let weighs = store.bytes;
        store.bytes = AUTH_BYTES_MAX;
        let pair = AuthUserRole { user: "ann".into(), role: "0".into() };
        let full = [
            add("bob".into()),
            role("1".into()),
            grant("k".into()),
            EtcdAuthChange::UserGrantRole(pair),
        ];
        for change in full {
            let refused = store.change(&change, &mut touched);
            assert!(matches!(refused, Err(AuthRefusal::Full { limit: AUTH_BYTES_MAX, .. })));
        }
        let delete = |name: &str| AuthName { name: name.into() };
        let gone =
            [EtcdAuthChange::UserDelete(delete("ann")), EtcdAuthChange::RoleDelete(delete("0"))];
        for change in gone {
            assert_eq!(store.change(&change, &mut touched), Ok(AuthAnswer::Done));
        }
        assert_eq!(store.bytes, AUTH_BYTES_MAX - weighs, "what goes is counted as it came");
        assert_eq!(store.change(&add("bob".into()), &mut touched), Ok(AuthAnswer::Done));
    }

    #[test]
    fn a_permission_for_no_key_is_none() {
        let permission = |key: &'static str, end: &'static str| AuthPermission {
            verb: 0,
            key: key.into(),
            range_end: end.into(),
        };
        for (key, end) in [("a", ""), ("a", "b"), ("a", "\0"), ("\0", "\0"), ("a", "a\0")] {
            assert!(is_for_some_key(&permission(key, end)));
        }
        for (key, end) in [("", ""), ("", "b"), ("", "\0"), ("b", "a"), ("b", "b")] {
            assert!(!is_for_some_key(&permission(key, end)));
        }
    }
}
