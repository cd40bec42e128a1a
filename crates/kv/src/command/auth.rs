//! Users, roles and permissions of an etcd keyspace.

use std::fmt;

use bytes::Bytes;
use prost::Message;

use super::EtcdKeys;

/// Bytes of the key that tokens are made with.
pub const AUTH_TOKEN_KEY_BYTES: usize = 32;

/// Changes users, roles or permissions, or tells them, in the order of the log.
///
/// Who may is judged by the state it is applied to, whatever revision its command was admitted
/// under: see [`AuthStore::may`](crate::AuthStore::may).
#[derive(Clone, PartialEq, Message)]
pub struct EtcdAuth {
    /// What to do. Decodes to `None` where this build does not know it.
    #[prost(
        oneof = "EtcdAuthChange",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16"
    )]
    pub change: Option<EtcdAuthChange>,
}

/// What to do with users, roles and permissions.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum EtcdAuthChange {
    /// From now on everybody is asked who they are.
    #[prost(message, tag = "1")]
    Enable(AuthEnable),
    /// From now on nobody is asked; users and roles stay.
    #[prost(message, tag = "2")]
    Disable(()),
    /// Tells whether users are asked for, and the revision.
    #[prost(message, tag = "3")]
    Status(()),
    /// Adds a user without roles.
    #[prost(message, tag = "4")]
    UserAdd(AuthUserAdd),
    /// Tells the roles of a user.
    #[prost(message, tag = "5")]
    UserGet(AuthName),
    /// Tells the names of all users.
    #[prost(message, tag = "6")]
    UserList(()),
    /// Removes a user.
    #[prost(message, tag = "7")]
    UserDelete(AuthName),
    /// Gives a user another password.
    #[prost(message, tag = "8")]
    UserChangePassword(AuthUserChangePassword),
    /// Gives a user a role.
    #[prost(message, tag = "9")]
    UserGrantRole(AuthUserRole),
    /// Takes a role from a user.
    #[prost(message, tag = "10")]
    UserRevokeRole(AuthUserRole),
    /// Adds a role without permissions.
    #[prost(message, tag = "11")]
    RoleAdd(AuthName),
    /// Tells the permissions of a role.
    #[prost(message, tag = "12")]
    RoleGet(AuthName),
    /// Tells the names of all roles.
    #[prost(message, tag = "13")]
    RoleList(()),
    /// Removes a role, and takes it from whoever has it.
    #[prost(message, tag = "14")]
    RoleDelete(AuthName),
    /// Gives a role a permission.
    #[prost(message, tag = "15")]
    RoleGrantPermission(AuthRoleGrant),
    /// Takes a permission from a role.
    #[prost(message, tag = "16")]
    RoleRevokePermission(AuthRoleRevoke),
}

/// Asks everybody who they are. Needs the user `root`, with the role `root`.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct AuthEnable {
    /// Drawn by who proposes, [`AUTH_TOKEN_KEY_BYTES`] long: no token made with another counts.
    #[prost(bytes = "bytes", tag = "1")]
    pub token_key: Bytes,
}

/// A user or a role.
#[derive(Clone, PartialEq, Message)]
pub struct AuthName {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
}

/// Adds a user.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct AuthUserAdd {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// What its password is checked against; the state machine does not look into it.
    #[prost(bytes = "bytes", tag = "2")]
    pub password_hash: Bytes,
    /// Whether the user has no password and never will have.
    #[prost(bool, tag = "3")]
    pub no_password: bool,
}

/// Gives a user another password; one who has none keeps none.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct AuthUserChangePassword {
    /// The user's name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// What the password is checked against.
    #[prost(bytes = "bytes", tag = "2")]
    pub password_hash: Bytes,
}

/// A user and a role.
#[derive(Clone, PartialEq, Message)]
pub struct AuthUserRole {
    /// The user's name.
    #[prost(string, tag = "1")]
    pub user: String,
    /// The role's name.
    #[prost(string, tag = "2")]
    pub role: String,
}

/// Gives a role a permission; one for the same keys is replaced.
#[derive(Clone, PartialEq, Message)]
pub struct AuthRoleGrant {
    /// The role's name.
    #[prost(string, tag = "1")]
    pub role: String,
    /// The permission; refused without one.
    #[prost(message, optional, tag = "2")]
    pub permission: Option<AuthPermission>,
}

/// Takes the permission for these very keys from a role.
#[derive(Clone, PartialEq, Message)]
pub struct AuthRoleRevoke {
    /// The role's name.
    #[prost(string, tag = "1")]
    pub role: String,
    /// The permission's key.
    #[prost(bytes = "bytes", tag = "2")]
    pub key: Bytes,
    /// The permission's range end.
    #[prost(bytes = "bytes", tag = "3")]
    pub range_end: Bytes,
}

/// What may be done with which keys.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AuthPermission {
    /// What may be done.
    #[prost(enumeration = "AuthVerb", tag = "1")]
    pub verb: i32,
    /// The key, or the first key of the interval.
    #[prost(bytes = "bytes", tag = "2")]
    pub key: Bytes,
    /// See [`EtcdKeys`].
    #[prost(bytes = "bytes", tag = "3")]
    pub range_end: Bytes,
}

/// What a permission allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum AuthVerb {
    /// Reading.
    Read = 0,
    /// Writing and removing.
    Write = 1,
    /// Both.
    ReadWrite = 2,
}

impl AuthPermission {
    /// The keys it is for.
    pub fn keys(&self) -> EtcdKeys {
        EtcdKeys::of(&self.key, &self.range_end)
    }
}

impl EtcdAuthChange {
    /// Whether it only tells something.
    pub fn only_reads(&self) -> bool {
        match self {
            Self::Status(())
            | Self::UserGet(_)
            | Self::UserList(())
            | Self::RoleGet(_)
            | Self::RoleList(()) => true,
            Self::Enable(_)
            | Self::Disable(())
            | Self::UserAdd(_)
            | Self::UserDelete(_)
            | Self::UserChangePassword(_)
            | Self::UserGrantRole(_)
            | Self::UserRevokeRole(_)
            | Self::RoleAdd(_)
            | Self::RoleDelete(_)
            | Self::RoleGrantPermission(_)
            | Self::RoleRevokePermission(_) => false,
        }
    }
}

impl From<EtcdAuthChange> for EtcdAuth {
    fn from(change: EtcdAuthChange) -> Self {
        Self { change: Some(change) }
    }
}

// Keys and hashes do not belong into logs.

impl fmt::Debug for AuthEnable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthEnable").finish_non_exhaustive()
    }
}

impl fmt::Debug for AuthUserAdd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, no_password, .. } = self;
        let mut shown = f.debug_struct("AuthUserAdd");
        shown.field("name", name).field("no_password", no_password).finish_non_exhaustive()
    }
}

impl fmt::Debug for AuthUserChangePassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("AuthUserChangePassword");
        shown.field("name", &self.name).finish_non_exhaustive()
    }
}
