//! Users of etcd keyspaces as a node meets them: who shows which token, and whose password is
//! right.
//!
//! Owns: what a token is and how long it lives, how passwords are hashed.
//! Must never know: what users may do; that is the keyspace's own state, see
//! [`AuthStore`].
//! Invariants:
//! * Nothing of a password or a token is logged.
//! * A token counts for nothing where its user is gone, or had its password changed since.

mod passwords;
mod token;
mod tokens;

use std::fmt::Debug;
use std::time::Duration;

use bytes::Bytes;
use holdfast_env::{Clock, Entropy};
use holdfast_kv::AuthStore;
use holdfast_runtime::{Deadline, Pool};

use crate::auth::Identity;
use crate::errors::ApiError;
use passwords::Passwords;
use token::Statement;
use tokens::Tokens;

pub use passwords::Password;

/// What can be set about users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long a token lives after it was made or used.
    pub token_ttl: Duration,
    /// The cost of a new hash: each more doubles the time it takes. 4 to 31.
    pub bcrypt_cost: u32,
}

impl Default for Settings {
    /// As etcd has them.
    fn default() -> Self {
        Self { token_ttl: Duration::from_secs(300), bcrypt_cost: 10 }
    }
}

/// Knows tokens and passwords.
#[derive(Debug)]
pub(crate) struct Users {
    tokens: Tokens,
    passwords: Passwords,
}

impl Users {
    pub fn new(settings: Settings) -> Self {
        let tokens = Tokens::new(settings.token_ttl);
        Self { tokens, passwords: Passwords::new(settings.bcrypt_cost) }
    }

    /// The user who asks; `None` where no token is shown, or nobody is asked for one.
    ///
    /// # Errors
    /// [`ApiError::Unauthenticated`]: the token is none of this keyspace's, or has ended.
    pub fn who(
        &self,
        auth: &AuthStore,
        identity: &Identity,
        clock: &dyn Clock,
    ) -> Result<Option<String>, ApiError> {
        let (Some(key), Some(token)) = (auth.token_key(), identity.token()) else {
            return Ok(None);
        };
        let invalid = || ApiError::Unauthenticated("invalid auth token".into());
        let (said, seal) = Statement::open(token, key).ok_or_else(invalid)?;
        let user = auth.user(&said.user).ok_or_else(invalid)?;
        let is_alive = said.revision >= user.tokens_from
            && self.tokens.is_alive(&said, seal, clock.wall(), clock.monotonic());
        if is_alive { Ok(Some(said.user)) } else { Err(invalid()) }
    }

    /// A token for `user`, whose password was right under `auth`; `None` where nobody is asked for
    /// one.
    pub fn token_for(
        &self,
        auth: &AuthStore,
        user: &str,
        clock: &dyn Clock,
        entropy: &dyn Entropy,
    ) -> Option<String> {
        let issued_ms = u64::try_from(clock.wall().as_millis()).unwrap_or(u64::MAX);
        let (revision, nonce) = (auth.revision(), entropy.u64());
        let said = Statement { user: user.to_owned(), revision, issued_ms, nonce };
        Some(said.seal(auth.token_key()?))
    }

    /// Whether `password` is that of the user called `name`.
    ///
    /// # Errors
    /// [`ApiError::Overloaded`], [`ApiError::Deadline`].
    pub async fn is_right(
        &self,
        auth: &AuthStore,
        name: &str,
        password: &Password,
        pool: &Pool,
        deadline: Deadline,
    ) -> Result<bool, ApiError> {
        let user = auth.user(name).filter(|user| !user.no_password);
        let hash = user.map(|user| user.password_hash.clone());
        self.passwords.matches(pool, password.clone(), hash, deadline).await
    }

    /// The hash of a password that somebody is to have.
    ///
    /// # Errors
    /// [`ApiError::Overloaded`], [`ApiError::Deadline`].
    pub async fn hash(
        &self,
        password: Password,
        pool: &Pool,
        entropy: &dyn Entropy,
        deadline: Deadline,
    ) -> Result<Bytes, ApiError> {
        self.passwords.hash(pool, entropy, password, deadline).await
    }
}
