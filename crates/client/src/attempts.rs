//! What may be done after a failed attempt.
//!
//! What may be tried again is decided here and nowhere else:
//! * a read, always;
//! * a mutation whose attempt was provably not proposed, always;
//! * a mutation whose attempt may have been proposed, only if the range recognises it (session,
//!   lock owner), and then under the same name;
//! * anything else ends as unknown. A later refusal does not make an earlier attempt undone.

use std::sync::Arc;
use std::time::Duration;

use holdfast_env::defect;
use holdfast_model::NodeId;
use holdfast_wire::v1::{ErrorCode, ErrorInfo};

use crate::call::{Ended, Kind, Plan, Prefer};
use crate::error::{Error, error_of_info, error_of_status};
use crate::map::Range;
use crate::transport::{Connection, Failure};

/// First pause between attempts; doubles up to [`PAUSE_MAX`], with jitter.
pub(crate) const PAUSE_MIN: Duration = Duration::from_millis(4);
/// Longest pause between attempts.
pub(crate) const PAUSE_MAX: Duration = Duration::from_millis(200);
/// Another attempt is not begun with less time than this: hardly answered in time, it would only
/// make unknown what is known.
pub(crate) const ATTEMPT_MIN: Duration = Duration::from_millis(20);
/// How long the first attempt may take where another may follow; doubles with each time-out.
const PATIENCE: Duration = Duration::from_secs(1);
/// The same for a read that any replica answers by itself: no round is waited for.
const PATIENCE_NEAREST: Duration = Duration::from_millis(250);
/// Added to an attempt's time per MiB sent.
const PATIENCE_PER_MIB: Duration = Duration::from_millis(500);
/// Bound on attempts whatever the deadline; a minute of shortest pauses stays below it.
pub(crate) const ATTEMPTS_MAX: u32 = 1_000;

/// What to do after a failed attempt.
pub(crate) enum Next {
    Again(Duration),
    End(Ended),
}

/// The state of one call over its attempts.
pub(crate) struct Attempts<'a> {
    plan: Plan<'a>,
    pub(crate) count: u32,
    timeouts: u32,
    hinted: bool,
    /// Whom the next attempt does not ask where there is somebody else to ask.
    avoided: Option<Arc<Connection>>,
    /// An attempt may have been executed.
    is_unknown: bool,
    last: Option<Error>,
}

impl<'a> Attempts<'a> {
    pub(crate) fn new(plan: Plan<'a>) -> Self {
        let (avoided, last) = (None, None);
        Self { plan, count: 0, timeouts: 0, hinted: false, avoided, is_unknown: false, last }
    }

    /// How long the next attempt may take.
    pub(crate) fn patience(&self, bytes: usize) -> Duration {
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

    pub(crate) fn judge(
        &mut self,
        failure: &Failure,
        range: Option<&Range>,
        asked: &Arc<Connection>,
    ) -> Next {
        self.count += 1;
        self.avoided = is_cut_off(failure).then(|| asked.clone());
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
            ErrorCode::UnknownKeyspace if range.is_some() => {
                // This client's map has it: that of the node is older, as after a restart. If it
                // is gone, the newer map that is asked for says so.
                range.into_iter().for_each(|range| range.hint(0));
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
        // A replica that cannot prove the freshness says more than one that is not reached.
        let knew_more = matches!(self.last, Some(Error::TooStale { .. }));
        if !(knew_more && matches!(error, Error::Unavailable(_))) {
            self.last = Some(error);
        }
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
            Kind::Once if defect!(UNKNOWN_OUTCOME_REPEATED) => self.retry(error, Duration::ZERO),
            Kind::Once => Next::End(as_unknown(&error).into()),
        }
    }

    /// This attempt was refused for good; `by_outcome`: the range says so about the operation.
    fn refused(&mut self, error: Error, by_outcome: bool) -> Next {
        let is_undone = by_outcome || !self.is_unknown || defect!(REFUSAL_DECIDES_UNKNOWN);
        Next::End(if is_undone { error } else { as_unknown(&error) }.into())
    }

    fn expired(&mut self, error: Error) -> Next {
        let error = if self.is_unknown { as_unknown(&error) } else { error };
        Next::End(Ended { error, session_expired: true })
    }

    /// Whether `connection` leads to the node that failed last in a way in which it may again.
    pub(crate) fn avoids(&self, connection: &Arc<Connection>) -> bool {
        self.avoided.as_ref().is_some_and(|avoided| Arc::ptr_eq(avoided, connection))
    }

    /// Whether an attempt that was not answered may have been executed.
    pub(crate) fn may_have_run(&self) -> bool {
        self.is_unknown
    }

    pub(crate) fn end_of_time(self) -> Error {
        let deadline = self.plan.limit.total;
        match self.last {
            Some(error) if self.is_unknown => as_unknown(&error),
            Some(error @ (Error::TooStale { .. } | Error::Overloaded { .. })) => error,
            Some(error) => Error::Deadline { deadline, last: error.to_string() },
            None => Error::Deadline { deadline, last: "nothing was sent".to_owned() },
        }
    }

    /// The asked node alone decides; what it says is the end.
    pub(crate) fn end_direct(&self, failure: &Failure) -> Error {
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

    pub(crate) fn wants_newer_map(&self, failure: &Failure) -> bool {
        let Failure::Status(status) = failure else {
            // The node may be gone for good; look when it has failed for a while.
            return self.count.is_multiple_of(8);
        };
        let code = holdfast_wire::error_info(status).map(|info| info.code());
        let is_about_maps = matches!(code, Some(ErrorCode::NotHere | ErrorCode::UnknownKeyspace));
        is_about_maps || self.count.is_multiple_of(8)
    }
}

/// Whether the node that was asked may be cut off from the others, who then elect a leader without
/// it: it did not answer, took all the time it was given, or knows nobody who leads.
fn is_cut_off(failure: &Failure) -> bool {
    let Failure::Status(status) = failure else { return true };
    holdfast_wire::error_info(status).is_some_and(|info| match info.code() {
        ErrorCode::NotLeader => info.leader_node_id == 0,
        ErrorCode::NoQuorum | ErrorCode::NotHere | ErrorCode::NotReady => true,
        _ => info.deadline_passed,
    })
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
    use crate::call::{Limit, Target};

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
