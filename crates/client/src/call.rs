//! One call: attempts until an answer, a refusal or the deadline.
//!
//! What may be tried again is decided here and nowhere else:
//! * a read, always;
//! * a mutation whose attempt was provably not proposed, always;
//! * a mutation whose attempt may have been proposed, only if the range recognises it (session,
//!   lock owner), and then under the same name;
//! * anything else ends as unknown. A later refusal does not make an earlier attempt undone.

use std::sync::Arc;
use std::time::Duration;

use holdfast_model::{NodeId, RangeId};
use holdfast_runtime::{Deadline, sleep};
use holdfast_wire::v1::{self, ErrorCode, ErrorInfo};
use prost::Message;

use crate::client::Inner;
use crate::error::{Error, error_of_info, error_of_status};
use crate::map::{Missing, Range};
use crate::method::Method;
use crate::transport::{Connection, Failure};
use crate::types::FollowerChoice;

/// First pause between attempts; doubles up to [`PAUSE_MAX`], with jitter.
const PAUSE_MIN: Duration = Duration::from_millis(4);
/// Longest pause between attempts.
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// How long the first attempt may take where another may follow; doubles with each time-out.
const PATIENCE: Duration = Duration::from_secs(1);
/// The same for a read that any replica answers by itself: no round is waited for.
const PATIENCE_NEAREST: Duration = Duration::from_millis(250);
/// Added to an attempt's time per MiB sent.
const PATIENCE_PER_MIB: Duration = Duration::from_millis(500);
/// Bound on attempts whatever the deadline; a minute of shortest pauses stays below it.
const ATTEMPTS_MAX: u32 = 1_000;

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

/// What to do after a failed attempt.
enum Next {
    Again(Duration),
    End(Ended),
}

/// The state of one call over its attempts.
struct Attempts<'a> {
    plan: Plan<'a>,
    count: u32,
    timeouts: u32,
    hinted: bool,
    /// An attempt may have been executed.
    is_unknown: bool,
    last: Option<Error>,
}

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
        let mut attempts = Attempts::new(plan);
        loop {
            let range = self.resolve(plan.target, plan.limit).await?;
            let Some(connection) = self.choose(range.as_deref(), &plan, attempts.count) else {
                return Err(Error::Unavailable("no endpoint is configured".to_owned()).into());
            };
            let patience = attempts.patience(request.encoded_len());
            let answer: Result<S, Failure> = connection.unary(method.path, request, patience).await;
            let failure = match answer {
                Ok(answer) => {
                    if let (Some(range), Some(header)) = (&range, answer.header()) {
                        range.learn(header);
                    }
                    return Ok(answer);
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
            if attempts.count >= ATTEMPTS_MAX || left <= pause {
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

    /// Whom to ask in attempt number `attempt`.
    pub(crate) fn choose(
        &self,
        range: Option<&Range>,
        plan: &Plan<'_>,
        attempt: u32,
    ) -> Option<Arc<Connection>> {
        if self.config.direct {
            return self.cache.pool.first_seed().cloned();
        }
        let Some(range) = range else {
            return self.cache.rotation().into_iter().next();
        };
        if plan.prefer == Prefer::Leader
            && let Some(leader) = range.leader()
            && !leader.connection.is_suspect()
        {
            return Some(leader.connection.clone());
        }
        if plan.prefer == Prefer::Nearest
            && attempt == 0
            && let FollowerChoice::Node(id) = self.config.follower_choice
            && let Some(peer) = range.replicas.iter().find(|peer| peer.node == id)
            && !peer.connection.is_suspect()
        {
            return Some(peer.connection.clone());
        }
        let count = range.replicas.len();
        let turn = self.cache.pool.next_turn();
        let in_turn = (0..count).filter_map(|i| range.replicas.get((turn + i) % count));
        let healthy = in_turn.clone().find(|peer| !peer.connection.is_suspect());
        match healthy.or_else(|| in_turn.clone().next()) {
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

impl<'a> Attempts<'a> {
    fn new(plan: Plan<'a>) -> Self {
        Self { plan, count: 0, timeouts: 0, hinted: false, is_unknown: false, last: None }
    }

    /// How long the next attempt may take.
    fn patience(&self, bytes: usize) -> Duration {
        let left = self.plan.limit.deadline.remaining();
        // An attempt that must not be followed by another gets all the time there is.
        if self.plan.kind == Kind::Once || self.plan.waits {
            return left;
        }
        let mib = u32::try_from(bytes >> 20).unwrap_or(u32::MAX);
        let first = match self.plan.prefer {
            Prefer::Leader => PATIENCE,
            Prefer::Nearest => PATIENCE_NEAREST,
        };
        let doubled = first * 2u32.saturating_pow(self.timeouts.min(8));
        left.min(doubled.saturating_add(PATIENCE_PER_MIB.saturating_mul(mib)))
    }

    fn judge(&mut self, failure: &Failure, range: Option<&Range>, asked: &Connection) -> Next {
        self.count += 1;
        match failure {
            Failure::NotSent(why) => self.retry(Error::Unavailable(why.clone()), Duration::ZERO),
            Failure::Broken(why) => self.unknown(Error::Unavailable(why.clone())),
            Failure::TimedOut => {
                self.timeouts += 1;
                let why = format!("{}: no answer in time", asked.address());
                self.unknown(Error::Unavailable(why))
            }
            Failure::Status(status) => match holdfast_wire::error_info(status) {
                Some(info) => self.judge_info(&info, range, asked),
                // Not one of our servers' own errors: a proxy, or a task that died.
                None => match error_of_status(status) {
                    error @ Error::Unavailable(_) => self.unknown(error),
                    Error::Overloaded { .. } | Error::Internal(_) => {
                        self.unknown(error_of_status(status))
                    }
                    error => self.refused(error, false),
                },
            },
        }
    }

    fn judge_info(&mut self, info: &ErrorInfo, range: Option<&Range>, asked: &Connection) -> Next {
        let error = error_of_info(info);
        if info.outcome_unknown || error.is_unknown() {
            return self.unknown(error);
        }
        let advice = Duration::from_millis(info.retry_after_ms);
        match info.code() {
            ErrorCode::NotLeader => {
                let Some(range) = range else { return self.retry(error, advice) };
                let before = range.leader().map(|peer| peer.node);
                range.hint(info.leader_node_id);
                let news = info.leader_node_id != 0 && before != Some(NodeId(info.leader_node_id));
                if news && !self.hinted {
                    // Someone knows better: ask there at once. Once, or two nodes that take
                    // each other for the leader would be asked in circles.
                    self.hinted = true;
                    self.last = Some(error);
                    return Next::Again(Duration::ZERO);
                }
                self.retry(error, advice)
            }
            ErrorCode::NotReady => {
                asked.suspect();
                self.retry(error, advice)
            }
            ErrorCode::NotHere | ErrorCode::NoQuorum => {
                // Another replica may know a leader. Other ranges of the node are not to suffer.
                range.into_iter().for_each(|range| range.hint(0));
                self.retry(error, advice)
            }
            ErrorCode::Overloaded
            | ErrorCode::TooStale
            | ErrorCode::Behind
            | ErrorCode::Deadline => self.retry(error, advice),
            ErrorCode::SessionExpired => self.expired(error),
            // Answers that the state machine gives, session or not: they speak for the operation.
            ErrorCode::NotANumber
            | ErrorCode::LeaseNotFound
            | ErrorCode::LockNotHeld
            | ErrorCode::AlreadyExists => self.refused(error, true),
            _ => self.refused(error, false),
        }
    }

    /// This attempt was not executed and may be made again.
    fn retry(&mut self, error: Error, advice: Duration) -> Next {
        self.last = Some(error);
        let doubled = PAUSE_MIN * 2u32.saturating_pow(self.count.saturating_sub(1).min(8));
        Next::Again(doubled.min(PAUSE_MAX).max(advice))
    }

    /// This attempt may have been executed.
    fn unknown(&mut self, error: Error) -> Next {
        match self.plan.kind {
            Kind::Read => self.retry(error, Duration::ZERO),
            Kind::Recognised => {
                self.is_unknown = true;
                self.retry(error, Duration::ZERO)
            }
            Kind::Once => Next::End(as_unknown(&error).into()),
        }
    }

    /// This attempt was refused for good; `by_outcome`: the range says so about the operation.
    fn refused(&mut self, error: Error, by_outcome: bool) -> Next {
        let is_undone = by_outcome || !self.is_unknown;
        Next::End(if is_undone { error } else { as_unknown(&error) }.into())
    }

    fn expired(&mut self, error: Error) -> Next {
        let error = if self.is_unknown { as_unknown(&error) } else { error };
        Next::End(Ended { error, session_expired: true })
    }

    fn end_of_time(self) -> Error {
        let deadline = self.plan.limit.total;
        match self.last {
            Some(error) if self.is_unknown => as_unknown(&error),
            Some(error @ (Error::TooStale { .. } | Error::Overloaded { .. })) => error,
            Some(error) => Error::Deadline { deadline, last: error.to_string() },
            None => Error::Deadline { deadline, last: "nothing was sent".to_owned() },
        }
    }

    /// The asked node alone decides; what it says is the end.
    fn end_direct(&self, failure: &Failure) -> Error {
        let unknown_unless_read = |error: Error| match self.plan.kind {
            Kind::Read => error,
            Kind::Recognised | Kind::Once => as_unknown(&error),
        };
        let deadline = self.plan.limit.total;
        match failure {
            Failure::NotSent(why) => Error::Unavailable(why.clone()),
            Failure::Broken(why) => unknown_unless_read(Error::Unavailable(why.clone())),
            Failure::TimedOut => {
                let last = "no answer in time".to_owned();
                unknown_unless_read(Error::Deadline { deadline, last })
            }
            Failure::Status(status) => match holdfast_wire::error_info(status) {
                Some(info) => error_of_info(&info),
                None => match error_of_status(status) {
                    error @ (Error::Unavailable(_) | Error::Internal(_)) => {
                        unknown_unless_read(error)
                    }
                    error => error,
                },
            },
        }
    }

    fn wants_newer_map(&self, failure: &Failure) -> bool {
        let Failure::Status(status) = failure else {
            // The node may be gone for good; look when it has failed for a while.
            return self.count.is_multiple_of(8);
        };
        let code = holdfast_wire::error_info(status).map(|info| info.code());
        code == Some(ErrorCode::NotHere) || self.count.is_multiple_of(8)
    }
}

pub(crate) fn as_unknown(error: &Error) -> Error {
    match error {
        Error::Unknown(_) => error.clone(),
        other => Error::Unknown(format!("after an attempt without an answer: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempts(prefer: Prefer, kind: Kind) -> Attempts<'static> {
        let limit = Limit::after(Duration::from_secs(60));
        Attempts::new(Plan { target: Target::Anyone, prefer, kind, limit, waits: false })
    }

    #[test]
    fn an_attempt_that_may_be_repeated_is_cut_short_and_the_next_one_less() {
        let mut read = attempts(Prefer::Leader, Kind::Read);
        assert_eq!(read.patience(0), PATIENCE);
        read.timeouts = 2;
        assert_eq!(read.patience(0), PATIENCE * 4);
        assert_eq!(attempts(Prefer::Nearest, Kind::Read).patience(0), PATIENCE_NEAREST);
        let large = attempts(Prefer::Leader, Kind::Recognised).patience(10 << 20);
        assert_eq!(large, PATIENCE + 10 * PATIENCE_PER_MIB);
    }

    #[test]
    fn an_attempt_that_must_not_be_repeated_gets_all_the_time() {
        let once = attempts(Prefer::Leader, Kind::Once).patience(0);
        assert!(once > Duration::from_secs(50), "{once:?}");
    }

    #[test]
    fn a_refusal_never_undoes_an_attempt_that_may_have_happened() {
        let mut write = attempts(Prefer::Leader, Kind::Recognised);
        assert!(matches!(write.unknown(Error::Unavailable("x".into())), Next::Again(_)));
        let Next::End(ended) = write.refused(Error::DiskFull("x".into()), false) else {
            panic!("a refusal ends the call")
        };
        assert!(ended.error.is_unknown());
        let Next::End(ended) = write.refused(Error::NotANumber("x".into()), true) else {
            panic!("an outcome ends the call")
        };
        assert_eq!(ended.error, Error::NotANumber("x".into()));
    }
}
