//! Deleting all keys with a prefix.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_wire::v1;

use crate::call::{Kind, Limit, Plan, Prefer, Target};
use crate::client::{Client, check_deadline};
use crate::error::Error;
use crate::map::Range;
use crate::method;
use crate::options::{awaitable, with_deadline};
use crate::session::Ticket;
use crate::streams::shared_position;

impl Client {
    /// Deletes every key that starts with `prefix`.
    ///
    /// One revision per 100,000 keys and range, not one for all ranges: who needs that gives the
    /// keys the same `{tag}`.
    ///
    /// ```no_run
    /// # async fn f(client: holdfast_client::Client) -> Result<(), holdfast_client::Error> {
    /// let deleted = client.delete_prefix("{cart:7}/").await?;
    /// println!("{deleted} keys are gone");
    /// # Ok(())
    /// # }
    /// ```
    pub fn delete_prefix(&self, prefix: impl Into<Bytes>) -> DeletePrefix {
        DeletePrefix { client: self.clone(), prefix: prefix.into() }
    }
}

/// Options of a prefix delete. Made by [`Client::delete_prefix`].
#[derive(Clone, Debug)]
#[must_use = "a request does nothing until it is awaited"]
pub struct DeletePrefix {
    client: Client,
    prefix: Bytes,
}

impl DeletePrefix {
    with_deadline!();

    /// Deletes; answers how many keys there were.
    ///
    /// # Errors
    /// [`Error::Unknown`]: some ranges may have deleted. After any other error too, ranges of
    /// earlier rounds may have, where there were more than 100,000 keys.
    pub async fn send(self) -> Result<u64, Error> {
        check_deadline(self.client.deadline)?;
        let limit = self.client.limit();
        let mut deleted = 0;
        loop {
            let answer = self.round(limit).await?;
            deleted += answer.deleted;
            if !answer.more {
                return Ok(deleted);
            }
        }
    }

    async fn round(&self, limit: Limit) -> Result<v1::DeleteResponse, Error> {
        let client = &self.client;
        let place = shared_position(&self.prefix);
        let target = Target::Position(&client.keyspace, place.unwrap_or_default());
        let range = client.inner.resolve(target, limit).await?;
        let tickets = if client.inner.config.sessions {
            self.number(place, limit).await?
        } else {
            Vec::new()
        };
        let request = v1::DeleteRequest {
            keyspace: client.wire_keyspace(),
            key: self.prefix.clone(),
            session: tickets.first().map(Ticket::tag),
            direct: client.inner.config.direct,
            prefix: true,
            ..Default::default()
        };
        let kind = if tickets.is_empty() { Kind::Once } else { Kind::Recognised };
        let target = match (&range, place) {
            (Some(_), Some(_)) => target,
            _ => Target::Anyone,
        };
        let plan = Plan { target, prefer: Prefer::Leader, kind, limit, waits: false };
        client.inner.call(&method::DELETE, &request, plan).await.map_err(|ended| {
            let expired = tickets.first().filter(|_| ended.session_expired);
            if let Some(ticket) = expired {
                client.inner.sessions.expire(ticket.generation());
            }
            match (ended.session_expired, ended.error) {
                // One range refused; others may have deleted.
                (true, Error::FailedPrecondition(text)) => Error::Unknown(text),
                (_, error) => error,
            }
        })
    }

    /// One number in the session of every range that may hold such keys.
    async fn number(&self, place: Option<u64>, limit: Limit) -> Result<Vec<Ticket>, Error> {
        let client = &self.client;
        let ranges: Vec<Arc<Range>> = {
            let routes = client.inner.cache.routes();
            match place {
                Some(place) => {
                    routes.range_at(&client.keyspace, place).ok().cloned().into_iter().collect()
                }
                None => routes.ranges(&client.keyspace).unwrap_or_default().to_vec(),
            }
        };
        let open = |range: Arc<Range>| async move {
            client.inner.session(&client.keyspace, &range, limit).await
        };
        let mut sessions =
            futures_util::future::try_join_all(ranges.iter().cloned().map(open)).await?;
        let is_mixed = |s: &[Arc<crate::session::RangeSession>]| {
            let first = s.first().map(|session| session.identity.generation);
            s.iter().any(|session| Some(session.identity.generation) != first)
        };
        if is_mixed(&sessions) {
            // The identity changed while the sessions were opened: once more, under the new one.
            sessions = futures_util::future::try_join_all(ranges.into_iter().map(open)).await?;
        }
        if is_mixed(&sessions) {
            return Err(Error::Unavailable("the ranges keep forgetting this client".to_owned()));
        }
        let begin = client.inner.sessions.begin_everywhere(&sessions);
        limit.deadline.limit(begin).await.map_err(|_| Error::Deadline {
            deadline: limit.total,
            last: "too many operations of this client are under way".to_owned(),
        })
    }
}

awaitable!(DeletePrefix => u64, send);
