//! Errors as etcd's clients know them: a gRPC code and a text, both fixed.

use holdfast_node::api::ApiError;
use holdfast_wire::v1::ErrorCode;
use tonic::{Code, Status};

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident, $code:ident, $text:literal;)*) => {
        /// An error of etcd's API.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
        pub enum EtcdError {
            $($(#[$doc])* #[error("etcdserver: {}", $text)] $name,)*
        }

        impl EtcdError {
            /// The code it travels under.
            pub fn code(self) -> Code {
                match self {
                    $(Self::$name => Code::$code,)*
                }
            }

            /// Every error there is.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

errors! {
    /// A request without a key.
    EmptyKey, InvalidArgument, "key is not provided";
    /// A put keeps the value or lease of a key that does not exist, or a step is empty.
    KeyNotFound, InvalidArgument, "key not found";
    /// A put keeps the value and brings one.
    ValueProvided, InvalidArgument, "value is provided";
    /// A put keeps the lease and brings one.
    LeaseProvided, InvalidArgument, "lease is provided";
    /// A transaction has more operations than it may have.
    TooManyOperations, InvalidArgument, "too many operations in txn request";
    /// A transaction writes a key twice.
    DuplicateKey, InvalidArgument, "duplicate key given in txn request";
    /// The client's version of the API is not served.
    InvalidClientApiVersion, InvalidArgument, "invalid client api version";
    /// An order or target that does not exist.
    InvalidSortOption, InvalidArgument, "invalid sort option";
    /// The revision is given up.
    Compacted, OutOfRange, "mvcc: required revision has been compacted";
    /// The revision is yet to come.
    FutureRevision, OutOfRange, "mvcc: required revision is a future revision";
    /// The disk is full, or an alarm says so.
    NoSpace, ResourceExhausted, "mvcc: database space exceeded";
    /// No such lease.
    LeaseNotFound, NotFound, "requested lease not found";
    /// The lease id is taken.
    LeaseExists, FailedPrecondition, "lease already exists";
    /// The time to live is longer than any lease's.
    LeaseTtlTooLarge, OutOfRange, "too large lease TTL";
    /// The client ended the watch stream.
    WatchCanceled, Cancelled, "watch canceled";
    /// The member is there already.
    MemberExists, FailedPrecondition, "member ID already exist";
    /// Another member has the address.
    PeerUrlExists, FailedPrecondition, "Peer URLs already exists";
    /// Too few members run. etcd answers it without a code.
    MemberNotEnoughStarted, Unknown,
        "re-configuration failed due to not enough started members";
    /// An address cannot be read.
    MemberBadUrls, InvalidArgument, "given member URLs are invalid";
    /// No such member.
    MemberNotFound, NotFound, "member not found";
    /// The member votes already.
    MemberNotLearner, FailedPrecondition, "can only promote a learner member";
    /// The learner lags.
    LearnerNotReady, FailedPrecondition,
        "can only promote a learner member which is in sync with leader";
    /// There is no room for another learner.
    TooManyLearners, FailedPrecondition, "too many learner members in cluster";
    /// Not this cluster.
    ClusterIdMismatch, FailedPrecondition, "cluster ID mismatch";
    /// The request is larger than it may be.
    RequestTooLarge, InvalidArgument, "request is too large";
    /// The server has too much to do. etcd answers it without a code.
    TooManyRequests, Unknown, "too many requests";
    /// Authentication cannot begin without the user.
    RootUserNotExist, FailedPrecondition, "root user does not exist";
    /// Authentication cannot begin without the role.
    RootRoleNotExist, FailedPrecondition, "root user does not have root role";
    /// The name is taken.
    UserExists, FailedPrecondition, "user name already exists";
    /// A user without a name.
    UserEmpty, InvalidArgument, "user name is empty";
    /// No such user.
    UserNotFound, FailedPrecondition, "user name not found";
    /// The name is taken.
    RoleExists, FailedPrecondition, "role name already exists";
    /// No such role.
    RoleNotFound, FailedPrecondition, "role name not found";
    /// A role without a name.
    RoleEmpty, InvalidArgument, "role name is empty";
    /// Name or password are wrong.
    AuthFailed, InvalidArgument, "authentication failed, invalid user ID or password";
    /// A grant of nothing.
    PermissionNotGiven, InvalidArgument, "permission not given";
    /// The user may not do this.
    PermissionDenied, PermissionDenied, "permission denied";
    /// The user does not have the role.
    RoleNotGranted, FailedPrecondition, "role is not granted to the user";
    /// The role does not have the permission.
    PermissionNotGranted, FailedPrecondition, "permission is not granted to the role";
    /// There are no users.
    AuthNotEnabled, FailedPrecondition, "authentication is not enabled";
    /// The token is unknown or has expired.
    InvalidAuthToken, Unauthenticated, "invalid auth token";
    /// A change of users that would lock everybody out.
    InvalidAuthManagement, InvalidArgument, "invalid auth management";
    /// Users or permissions changed since the request was admitted.
    AuthOldRevision, InvalidArgument, "revision of auth store is old";
    /// Nobody leads.
    NoLeader, Unavailable, "no leader";
    /// Somebody else leads.
    NotLeader, FailedPrecondition, "not leader";
    /// The lead changed while a read waited.
    LeaderChanged, Unavailable, "leader changed";
    /// The cluster's version does not offer it.
    NotCapable, FailedPrecondition, "not capable";
    /// The node stops.
    Stopped, Unavailable, "server stopped";
    /// Time was up.
    Timeout, Unavailable, "request timed out";
    /// Time was up; whether it was carried out is not known.
    TimeoutDueToLeaderFailure, Unavailable,
        "request timed out, possibly due to previous leader failure";
    /// Time was up; the leader cannot be reached.
    TimeoutDueToConnectionLost, Unavailable,
        "request timed out, possibly due to connection lost";
    /// Time was up before the node had caught up.
    TimeoutWaitAppliedIndex, Unavailable,
        "request timed out, waiting for the applied index took too long";
    /// The change would leave too few members.
    Unhealthy, Unavailable, "unhealthy cluster";
    /// A member's data differ from the others'.
    Corrupt, DataLoss, "corrupt cluster";
    /// A learner does not serve this.
    NotSupportedForLearner, FailedPrecondition, "rpc not supported for learner";
    /// The member cannot be handed the lead.
    BadLeaderTransferee, FailedPrecondition, "bad leader transferee";
    /// Not a version.
    WrongDowngradeVersionFormat, InvalidArgument, "wrong downgrade target version format";
    /// Not a version to go back to.
    InvalidDowngradeTargetVersion, InvalidArgument, "invalid downgrade target version";
    /// The cluster's version is not known yet.
    ClusterVersionUnavailable, FailedPrecondition,
        "cluster version not found during downgrade";
    /// A downgrade goes on.
    DowngradeInProcess, FailedPrecondition, "cluster has a downgrade job in progress";
    /// No downgrade goes on.
    NoInflightDowngrade, FailedPrecondition, "no inflight downgrade job";
    /// The caller gave up.
    RequestCanceled, Cancelled, "request canceled";
    /// The caller's time was up.
    DeadlineExceeded, DeadlineExceeded, "context deadline exceeded";
}

impl From<EtcdError> for Status {
    fn from(error: EtcdError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

/// What a failed call means to etcd's clients: one of its errors where it has one for it, else our
/// own text under the code it would have. Refusals for users have etcd's texts from the start.
pub fn error_of(error: &ApiError) -> Status {
    let info = error.info();
    let known = match info.code() {
        ErrorCode::Compacted => EtcdError::Compacted,
        ErrorCode::FutureRevision => EtcdError::FutureRevision,
        ErrorCode::LeaseNotFound => EtcdError::LeaseNotFound,
        ErrorCode::AlreadyExists => EtcdError::LeaseExists,
        ErrorCode::DuplicateKey => EtcdError::DuplicateKey,
        ErrorCode::TooLarge => EtcdError::RequestTooLarge,
        ErrorCode::DiskFull => EtcdError::NoSpace,
        ErrorCode::Corrupt => EtcdError::Corrupt,
        ErrorCode::Overloaded => EtcdError::TooManyRequests,
        ErrorCode::PermissionDenied => EtcdError::PermissionDenied,
        ErrorCode::Unauthenticated => EtcdError::InvalidAuthToken,
        ErrorCode::NotLeader | ErrorCode::NoQuorum | ErrorCode::NotHere => EtcdError::NoLeader,
        ErrorCode::NotReady => EtcdError::Stopped,
        ErrorCode::Deadline => EtcdError::Timeout,
        // Whoever hears this cannot know whether it was carried out, nor could a client of etcd.
        ErrorCode::OutcomeUnknown => EtcdError::TimeoutDueToLeaderFailure,
        _ => return Status::new(error.grpc_code(), format!("etcdserver: {}", info.message)),
    };
    known.into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use holdfast_kv::AuthRefusal;

    use super::*;

    #[test]
    fn no_two_errors_share_a_text() {
        let texts: BTreeSet<String> = EtcdError::ALL.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), EtcdError::ALL.len());
        assert!(texts.iter().all(|text| text.starts_with("etcdserver: ")));
    }

    #[test]
    fn a_failed_call_becomes_the_error_its_clients_look_for() {
        let cases = [
            (ApiError::Compacted { oldest: 7 }, EtcdError::Compacted),
            (ApiError::FutureRevision { newest: 7 }, EtcdError::FutureRevision),
            (ApiError::LeaseNotFound, EtcdError::LeaseNotFound),
            (ApiError::DuplicateKey, EtcdError::DuplicateKey),
            (ApiError::DiskFull, EtcdError::NoSpace),
            (ApiError::Corrupt, EtcdError::Corrupt),
            (ApiError::NoQuorum("range 1".into()), EtcdError::NoLeader),
            (
                ApiError::OutcomeUnknown { reason: "gone".into(), deadline: true },
                EtcdError::TimeoutDueToLeaderFailure,
            ),
        ];
        for (given, expected) in cases {
            let status = error_of(&given);
            assert_eq!(status.code(), expected.code(), "{given:?}");
            assert_eq!(status.message(), expected.to_string());
        }
    }

    #[test]
    fn a_refusal_for_a_user_becomes_the_error_its_clients_look_for() {
        use AuthRefusal as R;
        let cases = [
            (R::RootUserNotExist, EtcdError::RootUserNotExist),
            (R::RootRoleNotExist, EtcdError::RootRoleNotExist),
            (R::UserAlreadyExist, EtcdError::UserExists),
            (R::UserEmpty, EtcdError::UserEmpty),
            (R::UserNotFound, EtcdError::UserNotFound),
            (R::RoleAlreadyExist, EtcdError::RoleExists),
            (R::RoleNotFound, EtcdError::RoleNotFound),
            (R::RoleEmpty, EtcdError::RoleEmpty),
            (R::AuthFailed, EtcdError::AuthFailed),
            (R::PermissionNotGiven, EtcdError::PermissionNotGiven),
            (R::PermissionDenied, EtcdError::PermissionDenied),
            (R::RoleNotGranted, EtcdError::RoleNotGranted),
            (R::PermissionNotGranted, EtcdError::PermissionNotGranted),
            (R::AuthNotEnabled, EtcdError::AuthNotEnabled),
            (R::InvalidAuthManagement, EtcdError::InvalidAuthManagement),
            (R::AuthOldRevision, EtcdError::AuthOldRevision),
        ];
        for (refusal, expected) in cases {
            let forwarded = ApiError::Forwarded(Box::new(ApiError::Auth(refusal).info()));
            for given in [ApiError::Auth(refusal), forwarded] {
                let status = error_of(&given);
                assert_eq!(status.code(), expected.code(), "{given:?}");
                assert_eq!(status.message(), expected.to_string());
            }
        }
    }

    #[test]
    fn what_etcd_has_no_error_for_keeps_its_own_text() {
        let status = error_of(&ApiError::Invalid("a key is too long".into()));
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "etcdserver: a key is too long");
    }
}
