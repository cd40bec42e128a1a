//! Users of etcd keyspaces: passwords against tokens, and what a call as a whole asks for.

use bytes::Bytes;
use holdfast_kv as kv;
use holdfast_kv::AuthStore;
use holdfast_kv::command::AUTH_TOKEN_KEY_BYTES;
use holdfast_runtime::Deadline;

use super::Gateway;
use super::serve::{Query, ReadSpec, Reply};
use crate::api::{Answer, ApiError, Call, Password, Rank, ReadLevel};
use crate::auth::{Keys, Verb};

impl Gateway {
    /// A token for the user called `name` of an etcd keyspace, if `password` is right.
    ///
    /// # Errors
    /// [`ApiError::Auth`]: users are not asked for; name or password are wrong, which is not told
    /// apart. [`ApiError::Overloaded`]: too many passwords are checked at the moment.
    pub async fn authenticate(
        &self,
        call: &Call,
        keyspace: &str,
        name: String,
        password: Password,
    ) -> Result<Answer<String>, ApiError> {
        self.enter(call, keyspace).await?;
        self.allow(call, Verb::Observe, keyspace, Keys::None)?;
        let place = self.etcd_range(keyspace)?;
        let query = Query::Authenticate { name, password };
        let served = self.read(call, place, &ReadSpec::default(), &query).await?;
        match served.reply {
            Reply::Token(Some(value)) => Ok(Answer { header: served.header, value }),
            Reply::Token(None) => Err(ApiError::Auth(kv::AuthRefusal::AuthFailed)),
            other => Err(super::unexpected("password", &other)),
        }
    }

    /// Whether the caller has a rank in an etcd keyspace; where users are not asked for, everybody
    /// has. For calls about the keyspace as a whole that ask no replica for anything else.
    ///
    /// # Errors
    /// [`ApiError::Auth`], [`ApiError::Unauthenticated`].
    pub async fn require(&self, call: &Call, keyspace: &str, rank: Rank) -> Result<(), ApiError> {
        self.enter(call, keyspace).await?;
        let place = self.etcd_range(keyspace)?;
        // Judged by what the asked node knows, as etcd does.
        let spec = ReadSpec { level: ReadLevel::Follower, ..ReadSpec::default() };
        self.read_told(call, place, &spec, &Query::Rank(rank)).await.map(|_| ())
    }

    /// The hash of a password that a user is to have.
    ///
    /// # Errors
    /// [`ApiError::Overloaded`]: too many passwords are hashed at the moment.
    pub async fn hash_password(&self, call: &Call, password: Password) -> Result<Bytes, ApiError> {
        let (pool, entropy) = (&self.parts.pool, &*self.parts.entropy);
        self.users.hash(password, pool, entropy, call.deadline).await
    }

    /// A key to make tokens with.
    pub fn draw_token_key(&self) -> Bytes {
        let mut key = [0; AUTH_TOKEN_KEY_BYTES];
        self.parts.entropy.fill(&mut key);
        Bytes::copy_from_slice(&key)
    }

    /// A token for `name`, by the users of a replica; `None` where the password is not right.
    pub(super) async fn token_for(
        &self,
        auth: &AuthStore,
        name: &str,
        password: &Password,
        deadline: Deadline,
    ) -> Result<Option<String>, ApiError> {
        let off = || ApiError::Auth(kv::AuthRefusal::AuthNotEnabled);
        if !auth.is_enabled() {
            return Err(off());
        }
        let pool = &self.parts.pool;
        if !self.users.is_right(auth, name, password, pool, deadline).await? {
            return Ok(None);
        }
        let (clock, entropy) = (&*self.parts.clock, &*self.parts.entropy);
        self.users.token_for(auth, name, clock, entropy).ok_or_else(off).map(Some)
    }
}
