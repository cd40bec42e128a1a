//! One call: attempts until an answer, a refusal or the deadline.

use std::sync::Arc;
use std::time::Duration;

use holdfast_model::RangeId;
use holdfast_runtime::{Deadline, sleep};
use holdfast_wire::v1;
use prost::Message;

use crate::attempts::{ATTEMPT_MIN, ATTEMPTS_MAX, Attempts, Next, PAUSE_MAX, PAUSE_MIN};
use crate::client::Inner;
use crate::error::Error;
use crate::map::{Missing, Peer, Range};
use crate::method::Method;
use crate::transport::{Connection, Failure};
use crate::types::FollowerChoice;

/// Whom a call is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target<'a> {
    /// The range at this position of a keyspace.
    Position(&'a str, u64),
    /// This range.
    Range(RangeId),
    /// Any node.
    Anyone,
}

/// Which replica should answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prefer {
    Leader,
    Nearest,
}

/// What may be done after an attempt whose outcome is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Changes nothing: try again.
    Read,
    /// The range recognises the operation: try again under the same name.
    Recognised,
    /// Nobody would notice a second execution: give up.
    Once,
}

/// How a call is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) target: Target<'a>,
    pub(crate) prefer: Prefer,
    pub(crate) kind: Kind,
    pub(crate) limit: Limit,
    /// The server waits on purpose (a lock): an attempt lasts as long as the call may.
    pub(crate) waits: bool,
}

/// The time a call has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    pub(crate) total: Duration,
    pub(crate) deadline: Deadline,
}

impl Limit {
    pub(crate) fn after(total: Duration) -> Self {
        Self { total, deadline: Deadline::after(total) }
    }
}

/// Why a call ended without an answer.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) error: Error,
    /// The range does not know the session (any more).
    pub(crate) session_expired: bool,
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Self { error, session_expired: false }
    }
}

/// An answer that says who leads.
pub(crate) trait Answer: Message + Default {
    fn header(&self) -> Option<&v1::Header>;
}

macro_rules! answers {
    ($($name:ident),*) => {
        $(impl Answer for v1::$name {
            fn header(&self) -> Option<&v1::Header> {
                self.header.as_ref()
            }
        })*
    };
}

answers!(
    GetResponse,
    PutResponse,
    DeleteResponse,
    IncrementResponse,
    TxnResponse,
    BatchGetResponse,
    BatchWriteResponse,
    SessionOpenResponse,
    SessionKeepAliveResponse,
    SessionCloseResponse,
    LeaseGrantResponse,
    LeaseRevokeResponse,
    LeaseTimeToLiveResponse,
    LockAcquireResponse,
    LockKeepAliveResponse,
    LockReleaseResponse,
    LockInspectResponse
);

macro_rules! headerless {
    ($($name:ident),*) => {
        $(impl Answer for v1::$name {
            fn header(&self) -> Option<&v1::Header> {
                None
            }
        })*
    };
}

headerless!(
    StatusResponse,
    InitResponse,
    TransferLeaderResponse,
    CreateKeyspaceResponse,
    AlterKeyspaceResponse,
    DropKeyspaceResponse
);

impl Inner {
    /// Makes the call `plan` describes.
    ///
    /// # Errors
    /// [`Error::Unknown`] where a mutation may have happened; [`Error::Deadline`] where it did
    /// not; otherwise what the range or a node refused it with.
    pub(crate) async fn call<Q: Message, S: Answer>(
        &self,
        method: &Method<Q, S>,
        request: &Q,
        plan: Plan<'_>,
    ) -> Result<S, Ended> {
        self.call_with_doubt(method, request, plan).await.map(|(answer, _)| answer)
    }

    /// As [`Inner::call`]; also tells whether an attempt before the one that was answered may have
    /// been executed. Refusals inside of the answer speak for its own attempt only.
    pub(crate) async fn call_with_doubt<Q: Message, S: Answer>(
        &self,
        method: &Method<Q, S>,
        request: &Q,
        plan: Plan<'_>,
    ) -> Result<(S, bool), Ended> {
        let mut attempts = Attempts::new(plan);
        loop {
            let range = self.resolve(plan.target, plan.limit).await?;
            let Some(connection) = self.choose(range.as_deref(), &plan, &attempts) else {
                return Err(Error::Unavailable("no endpoint is configured".to_owned()).into());
            };
            let patience = attempts.patience(request.encoded_len());
            let answer: Result<S, Failure> = connection.unary(method.path, request, patience).await;
            let failure = match answer {
                Ok(answer) => {
                    if let (Some(range), Some(header)) = (&range, answer.header()) {
                        range.learn(header);
                    }
                    return Ok((answer, attempts.may_have_run()));
                }
                Err(failure) => failure,
            };
            if self.config.direct {
                return Err(attempts.end_direct(&failure).into());
            }
            tracing::debug!(path = method.path, node = connection.address(), %failure, "attempt");
            let pause = match attempts.judge(&failure, range.as_deref(), &connection) {
                Next::End(ended) => return Err(ended),
                Next::Again(pause) => self.jitter(pause),
            };
            if attempts.wants_newer_map(&failure) {
                let seen = self.cache.version();
                // The attempt that follows tells more than a failed refresh would.
                let _ = self.cache.refresh(seen, plan.limit.deadline).await;
            }
            let left = plan.limit.deadline.remaining();
            if attempts.count >= ATTEMPTS_MAX || left <= pause + ATTEMPT_MIN {
                return Err(attempts.end_of_time().into());
            }
            if !pause.is_zero() {
                sleep(pause).await;
            }
        }
    }

    /// The range `target` means, as the newest copy of the map that can be had has it.
    pub(crate) async fn resolve(
        &self,
        target: Target<'_>,
        limit: Limit,
    ) -> Result<Option<Arc<Range>>, Error> {
        if self.config.direct || matches!(target, Target::Anyone) {
            return Ok(None);
        }
        let mut pause = PAUSE_MIN;
        for round in 0..ATTEMPTS_MAX {
            let seen = self.cache.version();
            let missing = {
                let routes = self.cache.routes();
                let found = match target {
                    Target::Position(keyspace, position) => routes.range_at(keyspace, position),
                    Target::Range(id) => routes.range(id).ok_or(Missing::Range),
                    Target::Anyone => return Ok(None),
                };
                match found {
                    Ok(range) => return Ok(Some(range.clone())),
                    Err(_) if routes.is_empty() => Missing::Range,
                    Err(missing) => missing,
                }
            };
            if let (Missing::Keyspace, Target::Position(name, _), true) =
                (&missing, target, round > 0)
            {
                return Err(Error::UnknownKeyspace(format!("{name:?} does not exist")));
            }
            match self.cache.refresh(seen, limit.deadline).await {
                Err(error) if !error.is_retryable() => return Err(error),
                Err(error) if limit.deadline.remaining() <= pause => {
                    return Err(Error::Deadline { deadline: limit.total, last: error.to_string() });
                }
                Err(_) => {}
                Ok(()) if missing == Missing::Keyspace => continue,
                Ok(()) => {}
            }
            if round > 0 {
                sleep(self.jitter(pause)).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
            if limit.deadline.has_passed() {
                break;
            }
        }
        let last = "the map names no range for this key".to_owned();
        Err(Error::Deadline { deadline: limit.total, last })
    }

    /// Whom to ask in the attempt that follows `attempts`.
    pub(crate) fn choose(
        &self,
        range: Option<&Range>,
        plan: &Plan<'_>,
        attempts: &Attempts<'_>,
    ) -> Option<Arc<Connection>> {
        if self.config.direct {
            return self.cache.pool.first_seed().cloned();
        }
        let Some(range) = range else {
            return self.cache.rotation().into_iter().next();
        };
        let is_good =
            |peer: &&Peer| !peer.connection.is_suspect() && !attempts.avoids(&peer.connection);
        if plan.prefer == Prefer::Leader
            && let Some(leader) = range.leader().filter(is_good)
        {
            return Some(leader.connection.clone());
        }
        if plan.prefer == Prefer::Nearest
            && attempts.count == 0
            && let FollowerChoice::Node(id) = self.config.follower_choice
            && let Some(peer) = range.replicas.iter().find(|peer| peer.node == id).filter(is_good)
        {
            return Some(peer.connection.clone());
        }
        let count = range.replicas.len();
        let turn = self.cache.pool.next_turn();
        let in_turn = (0..count).filter_map(|i| range.replicas.get((turn + i) % count));
        let healthy = |peer: &&Peer| !peer.connection.is_suspect();
        let found = in_turn.clone().find(is_good).or_else(|| in_turn.clone().find(healthy));
        match found.or_else(|| in_turn.clone().next()) {
            Some(peer) => Some(peer.connection.clone()),
            None => self.cache.rotation().into_iter().next(),
        }
    }

    /// Between half of `pause` and all of it, so that clients that failed together come apart.
    pub(crate) fn jitter(&self, pause: Duration) -> Duration {
        if pause.is_zero() {
            return pause;
        }
        let part = u32::try_from(self.doors.entropy.u64() % 1_000).unwrap_or(0);
        pause / 2 + (pause / 2) * part / 1_000
    }
}
