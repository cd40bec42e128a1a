//! Why a request was refused or failed: one enum for every API, sorted by who can do something.
//!
//! The message says what, which limit, what was given. Conversions to and from the wire's
//! `ErrorInfo` lose nothing, so that an error travels from the node that found it to the node
//! that was asked and on to the client.

use std::time::Duration;

use holdfast_kv::AuthRefusal;
use holdfast_model::NodeId;
use holdfast_wire::ErrorInfoExt;
use holdfast_wire::v1::{ErrorCode, ErrorInfo};
use tonic::Status;

/// Who leads a range, as far as the answering node knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaderHint {
    /// The node; `None` = unknown.
    pub node: Option<NodeId>,
    /// Its client address; empty = unknown.
    pub address: String,
}

/// The outcome of a request that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    // ── The caller asked for something that cannot be done. ──────────────────────────────────
    /// A message or token could not be decoded.
    #[error("malformed request: {0}")]
    Malformed(String),
    /// A field is missing, out of its range, or two fields contradict each other.
    #[error("{0}")]
    Invalid(String),
    /// A size or count is over its limit.
    #[error("{what}: at most {limit}, given {given}")]
    TooLarge {
        /// What is too large, with its unit.
        what: String,
        /// The limit.
        limit: u64,
        /// What was given.
        given: u64,
    },
    /// A transaction writes a key more than once.
    #[error("a transaction writes each key at most once")]
    DuplicateKey,
    /// No such keyspace.
    #[error("keyspace {0:?} does not exist")]
    UnknownKeyspace(String),
    /// The keyspace, node or cluster is not in a state for this.
    #[error("{0}")]
    FailedPrecondition(String),
    /// It exists already.
    #[error("{0} already exists")]
    AlreadyExists(String),
    /// The revision is compacted.
    #[error("revision is compacted: the oldest readable revision is {oldest}")]
    Compacted {
        /// Oldest readable revision.
        oldest: u64,
    },
    /// The revision lies in the future.
    #[error("revision lies in the future: the newest revision is {newest}")]
    FutureRevision {
        /// Newest revision.
        newest: u64,
    },
    /// The session is gone; a new one needs a new client id.
    #[error("the session has ended in this range; open a new one under a new client id")]
    SessionExpired,
    /// The number lies below the session's watermark; nothing was executed.
    #[error("the number lies below the session's watermark {watermark}; nothing was executed")]
    SessionStale {
        /// The watermark.
        watermark: u64,
    },
    /// No such lease.
    #[error("the lease does not exist or has expired")]
    LeaseNotFound,
    /// The lock is not held by this owner under this token.
    #[error("the lock is not held by this owner under this token")]
    LockNotHeld,
    /// The value is not a decimal 64-bit number, or the result would overflow.
    #[error("{0}")]
    NotANumber(String),
    /// Who asks could not be established.
    #[error("not authenticated: {0}")]
    Unauthenticated(String),
    /// Who asks may not do this. Says nothing about what exists.
    #[error("permission denied")]
    PermissionDenied,
    /// For the user of an etcd keyspace who asks, or for the state its users are in.
    #[error(transparent)]
    Auth(AuthRefusal),
    /// Not offered by this version.
    #[error("{0} is not offered by this version")]
    Unimplemented(String),

    // ── The world is not in shape; most of these pass. ───────────────────────────────────────
    /// A budget is used up.
    #[error("overloaded: {what}; try again in {} ms", retry_after.as_millis())]
    Overloaded {
        /// Which budget.
        what: String,
        /// Wait at least this long.
        retry_after: Duration,
    },
    /// The disk is (almost) full; reads and deletes still work.
    #[error("the disk of the range's leader is almost full; only deletes are accepted")]
    DiskFull,
    /// Not led here; nothing was proposed.
    #[error("{range} is not led by this node; nothing was proposed")]
    NotLeader {
        /// Which range.
        range: String,
        /// Who leads it.
        leader: LeaderHint,
    },
    /// No quorum or no leader; nothing was proposed.
    #[error("{0}; nothing was proposed")]
    NoQuorum(String),
    /// This node does not host the range, or the range moves.
    #[error("{0}")]
    NotHere(String),
    /// A replica cannot prove the freshness that was asked for.
    #[error("no replica can prove a staleness below {} ms, the best is {} ms", asked.as_millis(),
        bound.as_millis())]
    TooStale {
        /// What was asked for.
        asked: Duration,
        /// What can be proven; [`Duration::MAX`] where nothing can.
        bound: Duration,
    },
    /// The replica has not reached the point the caller has already seen.
    #[error("the replica has not reached the requested point: it is at revision {revision}")]
    Behind {
        /// What it has reached.
        revision: u64,
    },
    /// The node is starting or stopping; nothing was proposed.
    #[error("{0}; nothing was proposed")]
    NotReady(String),
    /// Out of time before anything was proposed.
    #[error("out of time: {0}; nothing was proposed")]
    Deadline(String),
    /// The mutation may have happened or may still happen.
    #[error("outcome unknown: {reason}")]
    OutcomeUnknown {
        /// What broke.
        reason: String,
        /// Whether the deadline passed (DEADLINE_EXCEEDED), else something broke (ABORTED).
        deadline: bool,
    },

    /// What another node answered on behalf of this one; passed on unchanged.
    #[error("{}", .0.message)]
    Forwarded(Box<ErrorInfo>),

    // ── Something is broken here. ────────────────────────────────────────────────────────────
    /// An alarm says that the data of a replica are corrupt; nothing is served until somebody who
    /// has looked into it clears it.
    #[error("an alarm says that the data of a replica are corrupt")]
    Corrupt,
    /// A defect or damaged data; never retried.
    #[error("internal error: {0}")]
    Internal(String),
}

impl ApiError {
    /// [`ApiError::TooLarge`] from sizes.
    pub fn too_large(what: impl Into<String>, limit: usize, given: usize) -> Self {
        Self::TooLarge { what: what.into(), limit: limit as u64, given: given as u64 }
    }

    /// Whether the same request may be sent again unchanged and might then succeed.
    ///
    /// False for an unknown outcome: only a session can tell whether repeating is safe.
    pub fn is_retryable(&self) -> bool {
        if let Self::Forwarded(info) = self {
            return info.retryable;
        }
        matches!(
            self,
            Self::Overloaded { .. }
                | Self::NotLeader { .. }
                | Self::NoQuorum(_)
                | Self::NotHere(_)
                | Self::TooStale { .. }
                | Self::Behind { .. }
                | Self::NotReady(_)
                | Self::Deadline(_)
        )
    }

    /// Whether another replica may be able to serve what this one refused without having done
    /// anything: the router asks again.
    pub fn is_elsewhere(&self) -> bool {
        !self.is_unknown()
            && matches!(
                self.code(),
                ErrorCode::NotLeader
                    | ErrorCode::NoQuorum
                    | ErrorCode::NotHere
                    | ErrorCode::NotReady
            )
    }

    /// Whether who asks could not be established.
    pub fn is_unauthenticated(&self) -> bool {
        self.code() == ErrorCode::Unauthenticated
    }

    /// Whether it is about who asks, whatever was asked for.
    pub fn is_about_caller(&self) -> bool {
        let is_denied = self.code() == ErrorCode::PermissionDenied;
        is_denied || self.is_unauthenticated() || matches!(self, Self::Auth(_))
    }

    /// Who leads the range, where the error knows.
    pub fn leader(&self) -> Option<NodeId> {
        match self {
            Self::NotLeader { leader, .. } => leader.node,
            Self::Forwarded(info) => {
                (info.leader_node_id != 0).then_some(NodeId(info.leader_node_id))
            }
            _ => None,
        }
    }

    /// Whether a mutation may have happened nevertheless.
    pub fn is_unknown(&self) -> bool {
        match self {
            Self::OutcomeUnknown { .. } => true,
            Self::Forwarded(info) => info.outcome_unknown,
            _ => false,
        }
    }

    /// Whether it failed because time was up.
    pub fn is_late(&self) -> bool {
        match self {
            Self::Deadline(_) | Self::OutcomeUnknown { deadline: true, .. } => true,
            Self::Forwarded(info) => info.deadline_passed,
            _ => false,
        }
    }

    /// The typed detail as it travels.
    pub fn info(&self) -> ErrorInfo {
        if let Self::Forwarded(info) = self {
            return ErrorInfo::clone(info);
        }
        let mut info = ErrorInfo {
            code: self.code().into(),
            message: self.to_string(),
            retryable: self.is_retryable(),
            outcome_unknown: self.is_unknown(),
            deadline_passed: self.is_late(),
            bound: self.bound(),
            ..ErrorInfo::default()
        };
        if let Self::NotLeader { leader, .. } = self {
            info.leader_node_id = leader.node.map_or(0, |node| node.0);
            info.leader_address = leader.address.clone();
        }
        if let Self::Overloaded { retry_after, .. } = self {
            info.retry_after_ms = millis(*retry_after).max(1);
        }
        info
    }

    /// The gRPC status with its typed detail.
    pub fn status(&self) -> Status {
        let code = self.grpc_code();
        holdfast_wire::status_with(code, self.info())
    }

    /// The gRPC code this error travels under.
    pub fn grpc_code(&self) -> tonic::Code {
        let (code, deadline_passed) = (self.code().into(), self.is_late());
        ErrorInfo { code, deadline_passed, ..ErrorInfo::default() }.grpc_code()
    }

    fn code(&self) -> ErrorCode {
        match self {
            Self::Malformed(_) => ErrorCode::Malformed,
            Self::Invalid(_) => ErrorCode::Invalid,
            Self::TooLarge { .. } => ErrorCode::TooLarge,
            Self::DuplicateKey => ErrorCode::DuplicateKey,
            Self::UnknownKeyspace(_) => ErrorCode::UnknownKeyspace,
            Self::FailedPrecondition(_) => ErrorCode::FailedPrecondition,
            Self::AlreadyExists(_) => ErrorCode::AlreadyExists,
            Self::Compacted { .. } => ErrorCode::Compacted,
            Self::FutureRevision { .. } => ErrorCode::FutureRevision,
            Self::SessionExpired => ErrorCode::SessionExpired,
            Self::SessionStale { .. } => ErrorCode::SessionStale,
            Self::LeaseNotFound => ErrorCode::LeaseNotFound,
            Self::LockNotHeld => ErrorCode::LockNotHeld,
            Self::NotANumber(_) => ErrorCode::NotANumber,
            Self::Unauthenticated(_) => ErrorCode::Unauthenticated,
            Self::PermissionDenied => ErrorCode::PermissionDenied,
            Self::Auth(refusal) => code_of(*refusal),
            Self::Unimplemented(_) => ErrorCode::Unimplemented,
            Self::Overloaded { .. } => ErrorCode::Overloaded,
            Self::DiskFull => ErrorCode::DiskFull,
            Self::NotLeader { .. } => ErrorCode::NotLeader,
            Self::NoQuorum(_) => ErrorCode::NoQuorum,
            Self::NotHere(_) => ErrorCode::NotHere,
            Self::TooStale { .. } => ErrorCode::TooStale,
            Self::Behind { .. } => ErrorCode::Behind,
            Self::NotReady(_) => ErrorCode::NotReady,
            Self::Deadline(_) => ErrorCode::Deadline,
            Self::OutcomeUnknown { .. } => ErrorCode::OutcomeUnknown,
            Self::Forwarded(info) => info.code(),
            Self::Corrupt => ErrorCode::Corrupt,
            Self::Internal(_) => ErrorCode::Internal,
        }
    }

    fn bound(&self) -> u64 {
        match self {
            Self::TooLarge { limit, .. } => *limit,
            Self::Compacted { oldest } => *oldest,
            Self::FutureRevision { newest } => *newest,
            Self::SessionStale { watermark } => *watermark,
            Self::TooStale { bound, .. } => millis(*bound),
            Self::Behind { revision } => *revision,
            _ => 0,
        }
    }
}

/// The code under which etcd's clients expect a refusal; its text tells the rest.
fn code_of(refusal: AuthRefusal) -> ErrorCode {
    use AuthRefusal as R;
    match refusal {
        R::PermissionDenied => ErrorCode::PermissionDenied,
        R::UserEmpty
        | R::RoleEmpty
        | R::AuthFailed
        | R::PermissionNotGiven
        | R::InvalidAuthManagement
        | R::AuthOldRevision => ErrorCode::Invalid,
        R::RootUserNotExist
        | R::RootRoleNotExist
        | R::UserAlreadyExist
        | R::UserNotFound
        | R::RoleAlreadyExist
        | R::RoleNotFound
        | R::RoleNotGranted
        | R::PermissionNotGranted
        | R::AuthNotEnabled
        | R::Full { .. } => ErrorCode::FailedPrecondition,
    }
}

/// What a node that was asked on behalf of this one answered.
///
/// Errors that are nothing but their figures come back as what they were; the others, whose text
/// only the sender can write, stay [`ApiError::Forwarded`].
pub(crate) fn from_info(info: ErrorInfo) -> ApiError {
    match info.code() {
        ErrorCode::Compacted => ApiError::Compacted { oldest: info.bound },
        ErrorCode::FutureRevision => ApiError::FutureRevision { newest: info.bound },
        ErrorCode::SessionExpired => ApiError::SessionExpired,
        ErrorCode::SessionStale => ApiError::SessionStale { watermark: info.bound },
        ErrorCode::LeaseNotFound => ApiError::LeaseNotFound,
        ErrorCode::LockNotHeld => ApiError::LockNotHeld,
        ErrorCode::PermissionDenied => ApiError::PermissionDenied,
        ErrorCode::DiskFull => ApiError::DiskFull,
        ErrorCode::Corrupt => ApiError::Corrupt,
        ErrorCode::Behind => ApiError::Behind { revision: info.bound },
        ErrorCode::DuplicateKey => ApiError::DuplicateKey,
        ErrorCode::Invalid | ErrorCode::FailedPrecondition => {
            let refusal = REFUSALS.iter().find(|refusal| refusal.to_string() == info.message);
            refusal.map_or_else(|| ApiError::Forwarded(Box::new(info)), |one| ApiError::Auth(*one))
        }
        _ => ApiError::Forwarded(Box::new(info)),
    }
}

/// Refusals that are nothing but their text, by which they are known after a journey.
const REFUSALS: [AuthRefusal; 15] = [
    AuthRefusal::RootUserNotExist,
    AuthRefusal::RootRoleNotExist,
    AuthRefusal::UserAlreadyExist,
    AuthRefusal::UserEmpty,
    AuthRefusal::UserNotFound,
    AuthRefusal::RoleAlreadyExist,
    AuthRefusal::RoleNotFound,
    AuthRefusal::RoleEmpty,
    AuthRefusal::AuthFailed,
    AuthRefusal::PermissionNotGiven,
    AuthRefusal::RoleNotGranted,
    AuthRefusal::PermissionNotGranted,
    AuthRefusal::AuthNotEnabled,
    AuthRefusal::InvalidAuthManagement,
    AuthRefusal::AuthOldRevision,
];

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
