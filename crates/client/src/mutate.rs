//! How a mutation of one range is made to happen once.

use holdfast_wire::v1;

use crate::call::{Answer, Ended, Kind, Limit, Plan, Prefer, Target};
use crate::client::Client;
use crate::error::Error;
use crate::method::Method;

/// How often an operation that was provably not executed moves to a fresh session.
const SESSIONS_MAX: usize = 3;

/// A request that can carry the name under which a range recognises it.
pub(crate) trait Tagged: prost::Message {
    fn set_session(&mut self, tag: v1::SessionTag);
}

macro_rules! tagged {
    ($($name:ident),*) => {
        $(impl Tagged for v1::$name {
            fn set_session(&mut self, tag: v1::SessionTag) {
                self.session = Some(tag);
            }
        })*
    };
}

tagged!(PutRequest, DeleteRequest, IncrementRequest, TxnRequest);
tagged!(LeaseGrantRequest, LeaseRevokeRequest);

impl Client {
    /// Makes `request`, one operation at `position`, happen exactly once (at most once
    /// without sessions).
    ///
    /// # Errors
    /// As [`crate::call`].
    pub(crate) async fn mutate<Q: Tagged, S: Answer>(
        &self,
        method: &Method<Q, S>,
        mut request: Q,
        position: u64,
        limit: Limit,
    ) -> Result<S, Error> {
        let target = Target::Position(&self.keyspace, position);
        let mut plan =
            Plan { target, prefer: Prefer::Leader, kind: Kind::Once, limit, waits: false };
        if !self.inner.config.sessions {
            return self.inner.call(method, &request, plan).await.map_err(|ended| ended.error);
        }
        plan.kind = Kind::Recognised;
        let mut last = None;
        for _ in 0..SESSIONS_MAX {
            let Some(range) = self.inner.resolve(target, limit).await? else { break };
            let session = match self.inner.session(&self.keyspace, &range, limit).await {
                Ok(session) => session,
                // The range has forgotten the identity: the next round draws another.
                Err(error @ Error::FailedPrecondition(_)) => {
                    last = Some(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let begin = self.inner.sessions.begin(&session, 1);
            let Ok(ticket) = limit.deadline.limit(begin).await else {
                let last = "too many operations of this client are under way".to_owned();
                return Err(Error::Deadline { deadline: limit.total, last });
            };
            request.set_session(ticket.tag());
            match self.inner.call(method, &request, plan).await {
                Ok(answer) => return Ok(answer),
                Err(Ended { error, session_expired: true }) => {
                    self.inner.sessions.expire(ticket.generation());
                    if error.is_unknown() {
                        return Err(error);
                    }
                    last = Some(error);
                }
                Err(Ended { error, .. }) => return Err(error),
            }
        }
        Err(last.unwrap_or(Error::Closed))
    }
}
