//! Writing single keys: put, delete, increment, compare and swap.

use std::time::Duration;

use bytes::Bytes;
use holdfast_model::{LeaseId, Revision, position};
use holdfast_wire::v1;

use crate::client::{Client, check_deadline};
use crate::error::Error;
use crate::method;
use crate::options::{awaitable, with_condition, with_deadline};
use crate::types::{Condition, Entry, Origin, millis};

impl Client {
    /// Writes `value` under `key`.
    ///
    /// ```no_run
    /// # async fn f(client: holdfast_client::Client) -> Result<(), holdfast_client::Error> {
    /// use std::time::Duration;
    ///
    /// let written = client.put("session/7", "ann").ttl(Duration::from_secs(60)).await?;
    /// let again = client.put("session/7", "bob").if_revision(written.revision).await?;
    /// if !again.applied {
    ///     println!("someone was faster: {:?}", again.current);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Put {
        Put {
            client: self.clone(),
            key: key.into(),
            value: value.into(),
            ttl: None,
            lease: LeaseId(0),
            condition: None,
            return_previous: false,
        }
    }

    /// Writes `new` under `key` if its value is `expected`: a put with a condition.
    ///
    /// ```no_run
    /// # async fn f(client: holdfast_client::Client) -> Result<(), holdfast_client::Error> {
    /// let answer = client.cas("config/leader", "ann", "bob").await?;
    /// match (answer.applied, answer.current) {
    ///     (true, _) => println!("swapped at revision {}", answer.revision),
    ///     (false, Some(entry)) => println!("it is {:?} by now", entry.value),
    ///     (false, None) => println!("there is no such key"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn cas(
        &self,
        key: impl Into<Bytes>,
        expected: impl Into<Bytes>,
        new: impl Into<Bytes>,
    ) -> Put {
        self.put(key, new).if_value(expected)
    }

    /// Deletes `key`. A key that does not exist is not an error: `deleted` is 0 then.
    ///
    /// ```no_run
    /// # async fn f(client: holdfast_client::Client) -> Result<(), holdfast_client::Error> {
    /// let answer = client.delete("session/7").return_previous().await?;
    /// println!("{} deleted, it was {:?}", answer.deleted, answer.previous);
    /// # Ok(())
    /// # }
    /// ```
    pub fn delete(&self, key: impl Into<Bytes>) -> Delete {
        let key = key.into();
        let client = self.clone();
        Delete { client, key, condition: None, return_previous: false }
    }

    /// Adds `delta` to the decimal number under `key`; a missing key counts as 0.
    ///
    /// ```no_run
    /// # async fn f(client: holdfast_client::Client) -> Result<(), holdfast_client::Error> {
    /// let answer = client.increment("visits", 1).await?;
    /// println!("visitor number {}", answer.value);
    /// # Ok(())
    /// # }
    /// ```
    pub fn increment(&self, key: impl Into<Bytes>, delta: i64) -> Increment {
        Increment { client: self.clone(), key: key.into(), delta, ttl: None }
    }
}

/// Options of a put. Made by [`Client::put`] and [`Client::cas`].
#[derive(Clone, Debug)]
#[must_use = "a request does nothing until it is awaited"]
pub struct Put {
    client: Client,
    key: Bytes,
    value: Bytes,
    ttl: Option<Duration>,
    lease: LeaseId,
    condition: Option<Condition>,
    return_previous: bool,
}

/// Answer of a put or a compare-and-swap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutAnswer {
    /// Whether it was written; `false`: the condition did not hold, nothing was changed.
    pub applied: bool,
    /// Not applied: what stands there instead; `None`: no such key.
    pub current: Option<Entry>,
    /// Applied, if asked for: what was replaced. Lost when the answer came from a retry.
    pub previous: Option<Entry>,
    /// Applied: the key's revision now.
    pub revision: Revision,
    /// Applied: the revision at which this life of the key began.
    pub create_revision: Revision,
    /// Applied: how many times it was written in this life.
    pub version: u64,
    /// Who answered, and the point in history the write made.
    pub origin: Origin,
}

impl Put {
    with_deadline!();
    with_condition!();

    /// Lets the key expire after this long: 1 s to ten years.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Binds the key to a lease: it goes when the lease does. Not together with a TTL.
    pub fn lease(mut self, lease: LeaseId) -> Self {
        self.lease = lease;
        self
    }

    /// Answers with the entry that was replaced.
    pub fn return_previous(mut self) -> Self {
        self.return_previous = true;
        self
    }

    /// Writes.
    ///
    /// # Errors
    /// [`Error::Unknown`]: it may have been written. All others: it was not and will not be.
    pub async fn send(self) -> Result<PutAnswer, Error> {
        check_deadline(self.client.deadline)?;
        let Self { client, key, value, ttl, lease, condition, return_previous } = self;
        let place = position(&key);
        let request = v1::PutRequest {
            keyspace: client.wire_keyspace(),
            key,
            value,
            ttl_ms: ttl.map(millis),
            lease_id: lease.0,
            condition: condition.map(Into::into),
            return_previous,
            session: None,
            direct: client.inner.config.direct,
        };
        let limit = client.limit();
        let answer = client.mutate(&method::PUT, request, place, limit).await?;
        Ok(PutAnswer {
            applied: answer.applied,
            current: answer.current.map(Entry::from),
            previous: answer.previous.map(Entry::from),
            revision: Revision(answer.revision),
            create_revision: Revision(answer.create_revision),
            version: answer.version,
            origin: Origin::from(answer.header.as_ref()),
        })
    }
}

awaitable!(Put => PutAnswer, send);

/// Options of a delete. Made by [`Client::delete`].
#[derive(Clone, Debug)]
#[must_use = "a request does nothing until it is awaited"]
pub struct Delete {
    client: Client,
    key: Bytes,
    condition: Option<Condition>,
    return_previous: bool,
}

/// Answer of a delete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteAnswer {
    /// `false`: the condition did not hold, nothing was changed.
    pub applied: bool,
    /// Not applied: what stands there; `None`: no such key.
    pub current: Option<Entry>,
    /// Applied, if asked for: what was deleted. Lost when the answer came from a retry.
    pub previous: Option<Entry>,
    /// How many keys were deleted.
    pub deleted: u64,
    /// Who answered, and the point in history the delete made.
    pub origin: Origin,
}

impl Delete {
    with_deadline!();
    with_condition!();

    /// Answers with the entry that was deleted.
    pub fn return_previous(mut self) -> Self {
        self.return_previous = true;
        self
    }

    /// Deletes.
    ///
    /// # Errors
    /// [`Error::Unknown`]: it may have happened. All others: it did not and will not.
    pub async fn send(self) -> Result<DeleteAnswer, Error> {
        check_deadline(self.client.deadline)?;
        let Self { client, key, condition, return_previous } = self;
        let place = position(&key);
        let request = v1::DeleteRequest {
            keyspace: client.wire_keyspace(),
            key,
            condition: condition.map(Into::into),
            return_previous,
            session: None,
            direct: client.inner.config.direct,
            prefix: false,
        };
        let limit = client.limit();
        let answer = client.mutate(&method::DELETE, request, place, limit).await?;
        Ok(DeleteAnswer {
            applied: answer.applied,
            current: answer.current.map(Entry::from),
            previous: answer.previous.map(Entry::from),
            deleted: answer.deleted,
            origin: Origin::from(answer.header.as_ref()),
        })
    }
}

awaitable!(Delete => DeleteAnswer, send);

/// Options of an increment. Made by [`Client::increment`].
#[derive(Clone, Debug)]
#[must_use = "a request does nothing until it is awaited"]
pub struct Increment {
    client: Client,
    key: Bytes,
    delta: i64,
    ttl: Option<Duration>,
}

/// Answer of an increment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IncrementAnswer {
    /// The number now.
    pub value: i64,
    /// The key's revision now.
    pub revision: Revision,
    /// Who answered, and the point in history the write made.
    pub origin: Origin,
}

impl Increment {
    with_deadline!();

    /// Lets the key expire after this long: 1 s to ten years.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Adds.
    ///
    /// # Errors
    /// [`Error::NotANumber`]: the value is none, or the sum does not fit 64 bits.
    /// [`Error::Unknown`]: it may have happened, once. All others: it did not and will not.
    pub async fn send(self) -> Result<IncrementAnswer, Error> {
        check_deadline(self.client.deadline)?;
        let Self { client, key, delta, ttl } = self;
        let place = position(&key);
        let request = v1::IncrementRequest {
            keyspace: client.wire_keyspace(),
            key,
            delta,
            ttl_ms: ttl.map(millis),
            session: None,
            direct: client.inner.config.direct,
        };
        let limit = client.limit();
        let answer = client.mutate(&method::INCREMENT, request, place, limit).await?;
        Ok(IncrementAnswer {
            value: answer.value,
            revision: Revision(answer.revision),
            origin: Origin::from(answer.header.as_ref()),
        })
    }
}

awaitable!(Increment => IncrementAnswer, send);
