//! The seam for identity and permission: who asks, what for, and who decides.
//!
//! Every call of [`crate::api`] names what it touches as an [`Access`] and asks the
//! [`Authorizer`] before it is routed. Until a cluster has users, [`Open`] is the authorizer.

use std::fmt::{self, Debug};
use std::sync::Arc;

use holdfast_model::SYSTEM_KEYSPACE;

use crate::errors::ApiError;

/// Name of [`Identity::system`]; no user can be called so, for a name has no NUL.
const SYSTEM_USER: &str = "\0system";

/// Longest token, bytes. A longer one is no token of ours.
const TOKEN_BYTES_MAX: usize = 4 * 1024;

/// Who asks: a user of the cluster by name, a user of an etcd keyspace by the token it shows.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Identity {
    user: Option<Arc<str>>,
    token: Option<Arc<[u8]>>,
}

impl Identity {
    /// Nobody in particular.
    pub const ANONYMOUS: Self = Self { user: None, token: None };

    /// The user called `name`; anonymous if the name is empty.
    pub fn named(name: &str) -> Self {
        Self { user: (!name.is_empty()).then(|| name.into()), token: None }
    }

    /// The cluster itself, which alone may touch range 0 as keys, and which no keyspace asks for a
    /// token. No adapter gives it to a caller.
    pub fn system() -> Self {
        Self { user: Some(SYSTEM_USER.into()), token: None }
    }

    /// The same with the token that was shown. What it is worth is decided by the keyspace that is
    /// asked: where no users are, nothing, and it is not looked at.
    #[must_use]
    pub fn showing(self, token: &[u8]) -> Self {
        // One that cannot be ours is kept as one that is worth nothing.
        let token = if token.len() > TOKEN_BYTES_MAX { &[] } else { token };
        Self { token: Some(token.into()), ..self }
    }

    /// Who another node says is asking.
    pub(crate) fn of_peer(user: &str, token: Option<&[u8]>) -> Self {
        let identity = Self::named(user);
        match token {
            Some(token) => identity.showing(token),
            None => identity,
        }
    }

    /// The token that was shown, if any was.
    pub(crate) fn token(&self) -> Option<&[u8]> {
        self.token.as_deref()
    }

    /// Whether the cluster itself asks.
    pub fn is_system(&self) -> bool {
        self.user.as_deref() == Some(SYSTEM_USER)
    }

    /// The user's name; empty for anonymous.
    pub fn name(&self) -> &str {
        self.user.as_deref().unwrap_or_default()
    }
}

// Whoever reads a log must not be able to use the tokens in it.
impl Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Identity");
        shown.field("user", &self.user).field("has_token", &self.token.is_some()).finish()
    }
}

/// What kind of thing is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Reads, scans, watches, looks at leases and locks.
    Read,
    /// Changes keys, leases, locks, sessions.
    Write,
    /// Looks at the cluster: map and status.
    Observe,
    /// Changes the cluster: founding, keyspaces, leadership.
    Administer,
}

/// Which keys a call touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys<'a> {
    /// None, or none that is known before it is carried out.
    None,
    /// One key.
    One(&'a [u8]),
    /// `[start, end)`; an empty end is the end of the keyspace.
    Interval {
        /// First key.
        start: &'a [u8],
        /// First key after it.
        end: &'a [u8],
    },
}

/// One thing a call wants to do. A call with many keys asks once for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access<'a> {
    /// What for.
    pub verb: Verb,
    /// The keyspace, as the caller named it; empty = `default`, or none for the cluster.
    pub keyspace: &'a str,
    /// The keys.
    pub keys: Keys<'a>,
}

/// Decides who may do what. Asked on every call, so it must answer from memory.
pub trait Authorizer: Send + Sync + Debug + 'static {
    /// Whether `identity` may do `access`.
    ///
    /// # Errors
    /// [`ApiError::PermissionDenied`] or [`ApiError::Unauthenticated`]; the text must not tell what
    /// exists.
    fn authorize(&self, identity: &Identity, access: Access<'_>) -> Result<(), ApiError>;
}

/// Lets everybody do everything but touch range 0 as keys: the rule of a cluster without users.
#[derive(Clone, Copy, Debug, Default)]
pub struct Open;

impl Authorizer for Open {
    fn authorize(&self, identity: &Identity, access: Access<'_>) -> Result<(), ApiError> {
        if access.keyspace == SYSTEM_KEYSPACE && !identity.is_system() {
            return Err(ApiError::PermissionDenied);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_shown_to_readers_of_logs_and_not_kept_where_it_is_too_long() {
        let identity = Identity::ANONYMOUS.showing(b"secret");
        assert_eq!(identity.token(), Some(b"secret".as_slice()));
        assert!(!format!("{identity:?}").contains("secret"));
        let long = Identity::ANONYMOUS.showing(&[b'a'; TOKEN_BYTES_MAX + 1]);
        assert_eq!(long.token(), Some([].as_slice()));
    }

    #[test]
    fn range_0_is_closed_to_everybody_but_the_cluster_itself() {
        let access =
            |keyspace| Access { verb: Verb::Read, keyspace, keys: Keys::One(b"sys/cluster") };
        for identity in [Identity::ANONYMOUS, Identity::named("root")] {
            assert_eq!(Open.authorize(&identity, access("sys")), Err(ApiError::PermissionDenied));
            assert_eq!(Open.authorize(&identity, access("")), Ok(()));
        }
        assert_eq!(Open.authorize(&Identity::system(), access("sys")), Ok(()));
    }
}
