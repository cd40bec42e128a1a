//! What a call can end with, and what the caller should do then.

use std::time::Duration;

use holdfast_model::Revision;
use holdfast_wire::v1::{ErrorCode, ErrorInfo};
use tonic::{Code, Status};

/// Why a call gave no answer. Sorted: the caller's doing, the environment's, damage.
///
/// Ask [`Error::is_unknown`] first: then a mutation may have happened, or may still happen.
/// In every other case a failed mutation did not happen and never will.
///
/// ```no_run
/// # async fn f(client: holdfast_client::Client) {
/// match client.put("order/7", "paid").await {
///     Ok(answer) => println!("written at revision {}", answer.revision),
///     Err(error) if error.is_unknown() => println!("read order/7 before you decide"),
///     Err(error) if error.is_retryable() => println!("not now: {error}"),
///     Err(error) => println!("never like this: {error}"),
/// }
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // The caller.
    /// A field is missing, out of its range, or two contradict each other. Correct the request.
    #[error("invalid request: {0}")]
    Invalid(String),
    /// A size or count is over its limit.
    #[error("too large: {message}")]
    TooLarge {
        /// What, which limit, what was given.
        message: String,
        /// The limit.
        bound: u64,
    },
    /// No keyspace has that name.
    #[error("unknown keyspace: {0}")]
    UnknownKeyspace(String),
    /// The keyspace, node or cluster is not in a state for this.
    #[error("failed precondition: {0}")]
    FailedPrecondition(String),
    /// It exists already.
    #[error("already exists: {0}")]
    AlreadyExists(String),
    /// The revision is compacted away; read from `oldest` on, or read the present and go on.
    #[error("compacted: the oldest readable revision is {oldest}")]
    Compacted {
        /// Oldest readable revision.
        oldest: Revision,
    },
    /// The revision has not been reached.
    #[error("future revision: the newest is {newest}")]
    FutureRevision {
        /// Newest revision.
        newest: Revision,
    },
    /// The lease does not exist (any more).
    #[error("no such lease: {0}")]
    LeaseNotFound(String),
    /// The lock is not held under this token (any more). Stop what it protected.
    #[error("lock not held: {0}")]
    LockNotHeld(String),
    /// The value is not a decimal 64-bit number, or the sum does not fit.
    #[error("not a number: {0}")]
    NotANumber(String),
    /// Who are you?
    #[error("unauthenticated: {0}")]
    Unauthenticated(String),
    /// You may not.
    #[error("permission denied: {0}")]
    PermissionDenied(String),
    /// Not offered by this version of the server.
    #[error("not offered by this server: {0}")]
    Unimplemented(String),

    // The environment.
    /// No node, no quorum or no leader could be reached in time; nothing happened.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// A budget of the cluster is used up; nothing happened. Slow down.
    #[error("overloaded: {message}")]
    Overloaded {
        /// Which budget.
        message: String,
        /// Wait at least this long.
        retry_after: Duration,
    },
    /// The disk is (almost) full; deletes still work.
    #[error("disk full: {0}")]
    DiskFull(String),
    /// No replica in reach proves the freshness that was asked for.
    #[error("too stale: the best bound is {bound:?}")]
    TooStale {
        /// What the last asked replica could prove.
        bound: Duration,
    },
    /// The deadline passed; nothing happened.
    #[error("deadline of {deadline:?} passed; last answer: {last}")]
    Deadline {
        /// How long the call was given.
        deadline: Duration,
        /// Why the last attempt failed.
        last: String,
    },
    /// The outcome of a mutation is unknown: it may have happened, or may still happen, once.
    ///
    /// Read what you need to know, then decide. Never counted as a failure, never re-sent.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// A watch or scan broke at a point where it cannot go on without a gap. Start it anew.
    #[error("stream lost: {0}")]
    StreamLost(String),
    /// The client was closed.
    #[error("the client is closed")]
    Closed,

    // Damage.
    /// The server reports a defect or damaged data.
    #[error("internal error of the server: {0}")]
    Internal(String),
    /// The answer makes no sense; the server is of another version or broken.
    #[error("malformed answer: {0}")]
    Malformed(String),
}

impl Error {
    /// Whether the same call may be made again, now or a little later, and may then succeed.
    ///
    /// True only where nothing happened, never for [`Error::Unknown`].
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Unavailable(_)
                | Self::Overloaded { .. }
                | Self::TooStale { .. }
                | Self::Deadline { .. }
                | Self::StreamLost(_)
        )
    }

    /// Whether a mutation may have happened all the same.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }

    /// Whether the caller's request itself is at fault, so that no retry can help.
    pub fn is_callers(&self) -> bool {
        !matches!(
            self,
            Self::Unavailable(_)
                | Self::Overloaded { .. }
                | Self::DiskFull(_)
                | Self::TooStale { .. }
                | Self::Deadline { .. }
                | Self::Unknown(_)
                | Self::StreamLost(_)
                | Self::Closed
                | Self::Internal(_)
                | Self::Malformed(_)
        )
    }
}

/// The error a typed detail stands for.
pub(crate) fn error_of_info(info: &ErrorInfo) -> Error {
    let message = info.message.clone();
    if info.outcome_unknown {
        return Error::Unknown(message);
    }
    match info.code() {
        ErrorCode::Invalid | ErrorCode::Malformed | ErrorCode::DuplicateKey => {
            Error::Invalid(message)
        }
        ErrorCode::TooLarge => Error::TooLarge { message, bound: info.bound },
        ErrorCode::UnknownKeyspace => Error::UnknownKeyspace(message),
        ErrorCode::FailedPrecondition | ErrorCode::SessionStale | ErrorCode::SessionExpired => {
            Error::FailedPrecondition(message)
        }
        ErrorCode::AlreadyExists => Error::AlreadyExists(message),
        ErrorCode::Compacted => Error::Compacted { oldest: Revision(info.bound) },
        ErrorCode::FutureRevision => Error::FutureRevision { newest: Revision(info.bound) },
        ErrorCode::LeaseNotFound => Error::LeaseNotFound(message),
        ErrorCode::LockNotHeld => Error::LockNotHeld(message),
        ErrorCode::NotANumber => Error::NotANumber(message),
        ErrorCode::Unimplemented => Error::Unimplemented(message),
        ErrorCode::Unauthenticated => Error::Unauthenticated(message),
        ErrorCode::PermissionDenied => Error::PermissionDenied(message),
        ErrorCode::NotLeader
        | ErrorCode::Behind
        | ErrorCode::NoQuorum
        | ErrorCode::NotHere
        | ErrorCode::NotReady
        | ErrorCode::Deadline => Error::Unavailable(message),
        ErrorCode::Overloaded => {
            Error::Overloaded { message, retry_after: Duration::from_millis(info.retry_after_ms) }
        }
        ErrorCode::DiskFull => Error::DiskFull(message),
        ErrorCode::TooStale => Error::TooStale { bound: Duration::from_millis(info.bound) },
        ErrorCode::OutcomeUnknown => Error::Unknown(message),
        ErrorCode::Corrupt | ErrorCode::Internal | ErrorCode::Unspecified => {
            Error::Internal(message)
        }
    }
}

/// The error a status without a typed detail stands for.
pub(crate) fn error_of_status(status: &Status) -> Error {
    let message = status.message().to_owned();
    match status.code() {
        Code::InvalidArgument => Error::Invalid(message),
        Code::NotFound | Code::FailedPrecondition => Error::FailedPrecondition(message),
        Code::AlreadyExists => Error::AlreadyExists(message),
        Code::PermissionDenied => Error::PermissionDenied(message),
        Code::Unauthenticated => Error::Unauthenticated(message),
        Code::Unimplemented => Error::Unimplemented(message),
        Code::ResourceExhausted => Error::Overloaded { message, retry_after: Duration::ZERO },
        Code::Unavailable => Error::Unavailable(message),
        _ => Error::Internal(format!("{:?}: {message}", status.code())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(code: ErrorCode) -> ErrorInfo {
        ErrorInfo { code: code.into(), message: "m".into(), bound: 7, ..Default::default() }
    }

    #[test]
    fn an_unknown_outcome_is_never_retryable_and_never_the_callers_fault() {
        let unknown = error_of_info(&info(ErrorCode::OutcomeUnknown));
        assert!(unknown.is_unknown() && !unknown.is_retryable() && !unknown.is_callers());
        let flagged = ErrorInfo { outcome_unknown: true, ..info(ErrorCode::NoQuorum) };
        assert!(error_of_info(&flagged).is_unknown());
    }

    #[test]
    fn bounds_travel_with_their_errors() {
        let oldest = Revision(7);
        assert_eq!(error_of_info(&info(ErrorCode::Compacted)), Error::Compacted { oldest });
        let large = Error::TooLarge { message: "m".into(), bound: 7 };
        assert_eq!(error_of_info(&info(ErrorCode::TooLarge)), large);
        assert!(large.is_callers());
        assert!(error_of_info(&info(ErrorCode::NoQuorum)).is_retryable());
    }
}
