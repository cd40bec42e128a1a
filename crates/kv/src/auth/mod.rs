//! Users, roles and permissions of an etcd keyspace: who may do what with which keys.
//!
//! Owns: the rules of etcd's users, the decision about an access, what a change changes.
//! Must never know: how passwords are hashed and tokens made, where the state is kept.
//! Invariants:
//! * The revision starts at 1, grows by one with every change of users and roles, and never
//!   otherwise: who was admitted under the current one was admitted by the current rules. Enabling
//!   does not move it, as in etcd; nobody was asked for a name until then.
//! * A change that is refused changes nothing.
//! * While users are asked for, `root` stays, with its role: somebody can always manage.
//! * The store never weighs more than [`AUTH_BYTES_MAX`].

mod access;
mod change;
mod keys;
mod refusal;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

pub use access::{AuthAccess, etcd_accesses};
pub use refusal::AuthRefusal;

use crate::command::{AUTH_TOKEN_KEY_BYTES, AuthPermission, EtcdAuthChange};
use keys::{KeySet, Wanted};

/// Most users of a keyspace.
pub const AUTH_USERS_MAX: usize = 10_000;
/// Most roles of a keyspace.
pub const AUTH_ROLES_MAX: usize = 1_000;
/// Most permissions of a role.
pub const AUTH_ROLE_PERMISSIONS_MAX: usize = 1_000;
/// Longest hash of a password, bytes.
pub const AUTH_HASH_BYTES_MAX: usize = 256;
/// What all users and roles of a keyspace may weigh, bytes (64 MiB): every replica has them in
/// memory.
pub const AUTH_BYTES_MAX: u64 = 64 << 20;

/// The user who cannot be removed, and the role that may do everything.
const ROOT: &str = "root";
/// The revision of a keyspace that never had users.
const FIRST_REVISION: u64 = 1;

/// The key that tokens are made with.
pub type AuthTokenKey = [u8; AUTH_TOKEN_KEY_BYTES];

/// The users and roles of a keyspace. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthStore {
    revision: u64,
    /// Only while users are asked for.
    token_key: Option<AuthTokenKey>,
    users: BTreeMap<String, Arc<AuthUser>>,
    roles: BTreeMap<String, Arc<AuthRole>>,
    /// What users and roles weigh.
    bytes: u64,
}

/// A user.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthUser {
    /// What the password is checked against; empty with `no_password`.
    pub password_hash: Bytes,
    /// Whether the user cannot come by a password.
    pub no_password: bool,
    /// Names of the user's roles, sorted.
    pub roles: Vec<String>,
    /// The revision of the last change that ended the user's tokens: one that was made under an
    /// earlier revision does not count.
    pub tokens_from: u64,
}

/// A role.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct AuthRole {
    /// By key and range end.
    pub permissions: Vec<AuthPermission>,
    reads: KeySet,
    writes: KeySet,
}

/// What an operation on users tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthAnswer {
    /// It was done.
    Done,
    /// How things stand.
    Status {
        /// Whether users are asked for.
        enabled: bool,
        /// The revision of users and roles.
        revision: u64,
    },
    /// The names of a user's roles, sorted.
    User {
        /// The names.
        roles: Vec<String>,
    },
    /// The permissions of a role, by key.
    Role {
        /// The permissions.
        permissions: Vec<AuthPermission>,
    },
    /// The names of all users or roles, sorted.
    Names(Vec<String>),
}

/// A part of the store that is kept as a record of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum AuthPart {
    /// Whether users are asked for, the revision, the key.
    State,
    /// A user.
    User(String),
    /// A role.
    Role(String),
}

impl Default for AuthStore {
    fn default() -> Self {
        Self::new(FIRST_REVISION, None)
    }
}

impl AuthStore {
    /// A store without users and roles.
    pub(crate) fn new(revision: u64, token_key: Option<AuthTokenKey>) -> Self {
        Self { revision, token_key, users: BTreeMap::new(), roles: BTreeMap::new(), bytes: 0 }
    }

    /// Whether users are asked for.
    pub fn is_enabled(&self) -> bool {
        self.token_key.is_some()
    }

    /// The revision of users and roles.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The key that tokens are made with; none where users are not asked for.
    pub fn token_key(&self) -> Option<&AuthTokenKey> {
        self.token_key.as_ref()
    }

    /// The user of that name.
    pub fn user(&self, name: &str) -> Option<&AuthUser> {
        self.users.get(name).map(Arc::as_ref)
    }

    /// Whether a user may do something: always, where users are not asked for.
    ///
    /// What a user's roles allow together counts: an interval may lie over several permissions.
    /// Cost: a look-up per role of the user, for an interval one more per permission it crosses.
    ///
    /// # Errors
    /// [`AuthRefusal::UserEmpty`] without a name; [`AuthRefusal::UserNotFound`] where an
    /// administrator is wanted; [`AuthRefusal::PermissionDenied`].
    pub fn check(&self, user: &str, access: &AuthAccess) -> Result<(), AuthRefusal> {
        if !self.is_enabled() {
            return Ok(());
        }
        if user.is_empty() {
            return Err(AuthRefusal::UserEmpty);
        }
        let is_allowed = match (self.user(user), access) {
            (None, AuthAccess::Admin) => return Err(AuthRefusal::UserNotFound),
            (None, _) => false,
            (Some(user), _) if user.has_role(ROOT) => true,
            (Some(_), AuthAccess::Admin) => false,
            (Some(user), AuthAccess::Read(keys)) => {
                self.covers(user, |role| &role.reads, &Wanted::of(keys))
            }
            (Some(user), AuthAccess::Write(keys)) => {
                self.covers(user, |role| &role.writes, &Wanted::of(keys))
            }
        };
        if is_allowed { Ok(()) } else { Err(AuthRefusal::PermissionDenied) }
    }

    /// Whether a user may ask for an operation on users: administrators any, everybody the status,
    /// a user about itself and its own roles.
    ///
    /// # Errors
    /// As [`AuthStore::check`] of an administrator.
    pub fn may(&self, user: &str, change: &EtcdAuthChange) -> Result<(), AuthRefusal> {
        let is_own = match change {
            EtcdAuthChange::Status(()) => true,
            EtcdAuthChange::UserGet(get) => get.name == user,
            EtcdAuthChange::RoleGet(get) => {
                self.user(user).is_some_and(|user| user.has_role(&get.name))
            }
            _ => false,
        };
        if is_own { Ok(()) } else { self.check(user, &AuthAccess::Admin) }
    }

    fn covers(&self, user: &AuthUser, verb: fn(&AuthRole) -> &KeySet, wanted: &Wanted<'_>) -> bool {
        let roles = user.roles.iter().filter_map(|name| self.roles.get(name));
        let sets: Vec<&KeySet> = roles.map(|role| verb(role)).collect();
        keys::cover(&sets, wanted)
    }

    /// Whether nothing was ever changed.
    pub(crate) fn is_fresh(&self) -> bool {
        *self == Self::default()
    }

    /// All users, by name.
    pub(crate) fn users(&self) -> impl Iterator<Item = (&String, &AuthUser)> {
        self.users.iter().map(|(name, user)| (name, user.as_ref()))
    }

    /// All roles, by name.
    pub(crate) fn roles(&self) -> impl Iterator<Item = (&String, &AuthRole)> {
        self.roles.iter().map(|(name, role)| (name, role.as_ref()))
    }

    /// The role of that name.
    pub(crate) fn role(&self, name: &str) -> Option<&AuthRole> {
        self.roles.get(name).map(Arc::as_ref)
    }

    /// Puts a user in place of what is there under its name.
    pub(crate) fn set_user(&mut self, name: &str, user: Option<AuthUser>) {
        let weighs = |user: &AuthUser| weight(name) + user.weight();
        self.bytes -= self.user(name).map_or(0, weighs);
        self.bytes += user.as_ref().map_or(0, weighs);
        match user {
            Some(user) => self.users.insert(name.to_owned(), Arc::new(user)),
            None => self.users.remove(name),
        };
    }

    /// Puts a role in place of what is there under its name.
    pub(crate) fn set_role(&mut self, name: &str, role: Option<AuthRole>) {
        let weighs = |role: &AuthRole| weight(name) + role.weight();
        self.bytes -= self.role(name).map_or(0, weighs);
        self.bytes += role.as_ref().map_or(0, weighs);
        match role {
            Some(role) => self.roles.insert(name.to_owned(), Arc::new(role)),
            None => self.roles.remove(name),
        };
    }
}

impl AuthUser {
    fn has_role(&self, role: &str) -> bool {
        self.roles.binary_search_by(|held| held.as_str().cmp(role)).is_ok()
    }

    fn weight(&self) -> u64 {
        self.password_hash.len() as u64 + self.roles.iter().map(|role| weight(role)).sum::<u64>()
    }
}

impl AuthRole {
    /// A role of permissions that are sorted by key and range end.
    pub fn new(permissions: Vec<AuthPermission>) -> Self {
        let (reads, writes) = KeySet::of(&permissions);
        Self { permissions, reads, writes }
    }

    fn weight(&self) -> u64 {
        self.permissions.iter().map(permission_weight).sum()
    }
}

/// What a name weighs in memory: its text, and what holds it.
fn weight(name: &str) -> u64 {
    64 + name.len() as u64
}

/// What a permission weighs in memory: it is kept as given and as an interval.
fn permission_weight(permission: &AuthPermission) -> u64 {
    128 + 2 * (permission.key.len() + permission.range_end.len()) as u64
}

// Keys and hashes do not belong into logs.

impl fmt::Debug for AuthStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthStore")
            .field("enabled", &self.is_enabled())
            .field("revision", &self.revision)
            .field("users", &self.users.len())
            .field("roles", &self.roles.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for AuthUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthUser")
            .field("no_password", &self.no_password)
            .field("roles", &self.roles)
            .field("tokens_from", &self.tokens_from)
            .finish_non_exhaustive()
    }
}
