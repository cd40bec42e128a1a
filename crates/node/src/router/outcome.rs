//! Outcomes on their way between nodes, and what a refusal of the state machine means to a caller.

use std::time::Duration;

use holdfast_kv as kv;
use holdfast_kv::command::{AuthPermission, EtcdAlarmKind};
use holdfast_model::{LeaseId, Revision};
use holdfast_wire::peer::v1::{self as peer, forward_outcome::Kind};
use holdfast_wire::v1;

use crate::convert;
use crate::errors::{self, ApiError};

/// One item's result as the API has it: an outcome that is not a refusal, or an error.
pub(crate) type ItemResult = Result<kv::Outcome, ApiError>;

/// How long a caller should wait before a full table has likely become less full.
const FULL_RETRY: Duration = Duration::from_millis(100);

/// Sorts refusals out of outcomes.
pub(crate) fn sorted(outcome: kv::Outcome) -> ItemResult {
    match outcome {
        kv::Outcome::Refused(refusal) => Err(refused(&refusal)),
        outcome => Ok(outcome),
    }
}

/// What a refusal means to the caller.
pub(crate) fn refused(refusal: &kv::Refusal) -> ApiError {
    use kv::Refusal as R;
    let text = refusal.to_string();
    match *refusal {
        R::SessionExpired => ApiError::SessionExpired,
        R::SessionStale { watermark } => ApiError::SessionStale { watermark },
        R::SessionUnanswered { .. }
        | R::SessionMemory { .. }
        | R::SessionTableFull { .. }
        | R::LockQueueFull { .. } => ApiError::Overloaded { what: text, retry_after: FULL_RETRY },
        R::SessionOwner => ApiError::PermissionDenied,
        R::WrongSpan { .. } => ApiError::NotHere(text),
        R::NotANumber | R::Overflow => ApiError::NotANumber(text),
        R::LeaseNotFound => ApiError::LeaseNotFound,
        R::LeaseExists => ApiError::AlreadyExists("the lease".into()),
        R::LeaseFull { .. } | R::StaleConfiguration { .. } | R::TooManyAlarms { .. } => {
            ApiError::FailedPrecondition(text)
        }
        R::Auth(refusal) => ApiError::Auth(refusal),
        R::NoSpace => ApiError::DiskFull,
        R::Corrupt => ApiError::Corrupt,
        R::LockNotHeld => ApiError::LockNotHeld,
        R::Compacted { oldest } => ApiError::Compacted { oldest: oldest.0 },
        R::FutureRevision { newest } => ApiError::FutureRevision { newest: newest.0 },
        R::DuplicateKey => ApiError::DuplicateKey,
        R::SessionPayload
        | R::TooManyKeys { .. }
        | R::ResultTooLarge { .. }
        | R::Malformed { .. } => ApiError::Invalid(text),
    }
}

/// An item's result as it travels.
pub(crate) fn to_message(result: ItemResult) -> peer::ForwardOutcome {
    let kind = match result {
        Ok(outcome) => kind_of(outcome),
        Err(error) => Kind::Refused(error.info()),
    };
    peer::ForwardOutcome { kind: Some(kind) }
}

fn kind_of(outcome: kv::Outcome) -> Kind {
    match outcome {
        kv::Outcome::Applied(m) => Kind::Applied(peer::ForwardMutation {
            revision: m.revision.0,
            create_revision: m.create_revision.0,
            version: m.version,
            previous: m.previous.map(convert::entry),
            count: m.count,
            number: m.number,
            more: m.more,
        }),
        kv::Outcome::ConditionFailed { current } => {
            Kind::ConditionFailed(peer::ForwardFound { entry: current.map(convert::entry) })
        }
        kv::Outcome::Txn(t) => Kind::Txn(peer::ForwardTxn {
            succeeded: t.succeeded,
            revision: t.revision.0,
            changed: t.changed,
            results: t.results.into_iter().map(step_message).collect(),
            results_lost: t.results_lost,
        }),
        kv::Outcome::Etcd(etcd) => Kind::Etcd(etcd_message(etcd)),
        kv::Outcome::Lease(l) => Kind::Lease(peer::ForwardLease {
            id: l.id.0,
            ttl_ms: l.ttl_ms,
            expires_at_ms: l.expires_at_ms,
            keys_removed: l.keys_removed,
            revision: l.revision.0,
        }),
        kv::Outcome::Renewed(renewals) => {
            let renewals = renewals.into_iter().map(renewal_message).collect();
            Kind::Renewed(peer::ForwardRenewed { renewals })
        }
        kv::Outcome::Lock(lock) => Kind::Lock(lock_message(lock)),
        kv::Outcome::Session { idle_max_ms } => Kind::SessionIdleMaxMs(idle_max_ms),
        kv::Outcome::Compacted { oldest } => Kind::Compacted(oldest.0),
        kv::Outcome::Alarms(alarms) => {
            let alarms = alarms.into_iter().map(alarm_message).collect();
            Kind::Alarms(peer::ForwardAlarms { alarms })
        }
        kv::Outcome::EtcdAuth(answer) => Kind::Auth(auth_message(answer)),
        kv::Outcome::Refused(refusal) => Kind::Refused(refused(&refusal).info()),
        kv::Outcome::Expired { .. } | kv::Outcome::Configured(_) | kv::Outcome::Noop => {
            let text = "outcome of a range's own operation was forwarded";
            Kind::Refused(ApiError::Internal(text.into()).info())
        }
    }
}

/// An item's result as it arrived.
pub(crate) fn from_message(message: peer::ForwardOutcome) -> ItemResult {
    let Some(kind) = message.kind else {
        return Err(ApiError::Internal("a forwarded outcome of an unknown kind".into()));
    };
    Ok(match kind {
        Kind::Applied(m) => kv::Outcome::Applied(kv::Mutation {
            revision: Revision(m.revision),
            create_revision: Revision(m.create_revision),
            version: m.version,
            previous: m.previous.map(convert::entry_from),
            count: m.count,
            number: m.number,
            more: m.more,
        }),
        Kind::ConditionFailed(found) => {
            kv::Outcome::ConditionFailed { current: found.entry.map(convert::entry_from) }
        }
        Kind::Txn(t) => kv::Outcome::Txn(kv::TxnOutcome {
            succeeded: t.succeeded,
            revision: Revision(t.revision),
            changed: t.changed,
            results: t.results.into_iter().map(step_from).collect::<Result<_, _>>()?,
            results_lost: t.results_lost,
        }),
        Kind::Etcd(etcd) => kv::Outcome::Etcd(etcd_from(etcd)?),
        Kind::Lease(l) => kv::Outcome::Lease(kv::LeaseOutcome {
            id: LeaseId(l.id),
            ttl_ms: l.ttl_ms,
            expires_at_ms: l.expires_at_ms,
            keys_removed: l.keys_removed,
            revision: Revision(l.revision),
        }),
        Kind::Renewed(renewed) => {
            kv::Outcome::Renewed(renewed.renewals.into_iter().map(renewal_from).collect())
        }
        Kind::Lock(lock) => kv::Outcome::Lock(lock_from(lock)),
        Kind::SessionIdleMaxMs(idle_max_ms) => kv::Outcome::Session { idle_max_ms },
        Kind::Compacted(oldest) => kv::Outcome::Compacted { oldest: Revision(oldest) },
        Kind::Alarms(alarms) => kv::Outcome::Alarms(
            alarms.alarms.into_iter().map(alarm_from).collect::<Result<_, _>>()?,
        ),
        Kind::Auth(answer) => kv::Outcome::EtcdAuth(auth_from(answer)?),
        Kind::Refused(info) => return Err(errors::from_info(info)),
    })
}

fn step_message(result: kv::TxnResult) -> peer::ForwardTxnResult {
    use peer::forward_txn_result::Kind;
    let entries = |entry: Option<kv::Entry>| entry.map(convert::entry).into_iter().collect();
    let of = |kind: Kind| peer::ForwardTxnResult { kind: kind.into(), ..Default::default() };
    match result {
        kv::TxnResult::Get(entry) => {
            peer::ForwardTxnResult { entries: entries(entry), ..of(Kind::Get) }
        }
        kv::TxnResult::Range { entries, more } => {
            let entries = entries.into_iter().map(convert::entry).collect();
            peer::ForwardTxnResult { entries, flag: more, ..of(Kind::Range) }
        }
        kv::TxnResult::Put { previous } => {
            peer::ForwardTxnResult { entries: entries(previous), ..of(Kind::Put) }
        }
        kv::TxnResult::Delete { count, previous } => {
            let entries = previous.into_iter().map(convert::entry).collect();
            peer::ForwardTxnResult { entries, count, ..of(Kind::Delete) }
        }
        kv::TxnResult::Increment(number) => {
            peer::ForwardTxnResult { number, ..of(Kind::Increment) }
        }
        kv::TxnResult::Txn { succeeded, results } => {
            let results = results.into_iter().map(step_message).collect();
            peer::ForwardTxnResult { flag: succeeded, results, ..of(Kind::Txn) }
        }
    }
}

fn step_from(message: peer::ForwardTxnResult) -> Result<kv::TxnResult, ApiError> {
    use peer::forward_txn_result::Kind;
    let kind = message.kind();
    let mut entries = message.entries.into_iter().map(convert::entry_from);
    Ok(match kind {
        Kind::Get => kv::TxnResult::Get(entries.next()),
        Kind::Range => kv::TxnResult::Range { entries: entries.collect(), more: message.flag },
        Kind::Put => kv::TxnResult::Put { previous: entries.next() },
        Kind::Delete => kv::TxnResult::Delete { count: message.count, previous: entries.collect() },
        Kind::Increment => kv::TxnResult::Increment(message.number),
        Kind::Txn => kv::TxnResult::Txn {
            succeeded: message.flag,
            results: message.results.into_iter().map(step_from).collect::<Result<_, _>>()?,
        },
        Kind::Unspecified => {
            return Err(ApiError::Internal("a forwarded step of an unknown kind".into()));
        }
    })
}

/// A transaction as etcd means it, as it travels between nodes.
pub(crate) fn etcd_message(etcd: kv::EtcdOutcome) -> peer::ForwardEtcd {
    peer::ForwardEtcd {
        succeeded: etcd.succeeded,
        revision: etcd.revision.0,
        changed: etcd.changed,
        results: etcd.results.into_iter().map(etcd_step_message).collect(),
    }
}

/// A transaction as etcd means it, as it arrived.
pub(crate) fn etcd_from(message: peer::ForwardEtcd) -> Result<kv::EtcdOutcome, ApiError> {
    Ok(kv::EtcdOutcome {
        succeeded: message.succeeded,
        revision: Revision(message.revision),
        changed: message.changed,
        results: message.results.into_iter().map(etcd_step_from).collect::<Result<_, _>>()?,
    })
}

fn etcd_step_message(result: kv::EtcdResult) -> peer::ForwardEtcdResult {
    use peer::forward_etcd_result::Kind;
    let of = |kind: Kind, revision: Revision| peer::ForwardEtcdResult {
        kind: kind.into(),
        revision: revision.0,
        ..Default::default()
    };
    match result {
        kv::EtcdResult::Range { entries, more, count, revision } => {
            let entries = entries.into_iter().map(convert::entry).collect();
            peer::ForwardEtcdResult { entries, flag: more, count, ..of(Kind::Range, revision) }
        }
        kv::EtcdResult::Put { previous, revision } => {
            let entries = previous.map(convert::entry).into_iter().collect();
            peer::ForwardEtcdResult { entries, ..of(Kind::Put, revision) }
        }
        kv::EtcdResult::DeleteRange { count, previous, revision } => {
            let entries = previous.into_iter().map(convert::entry).collect();
            peer::ForwardEtcdResult { entries, count, ..of(Kind::DeleteRange, revision) }
        }
        kv::EtcdResult::Txn { succeeded, results } => {
            let results = results.into_iter().map(etcd_step_message).collect();
            peer::ForwardEtcdResult { flag: succeeded, results, ..of(Kind::Txn, Revision(0)) }
        }
    }
}

fn etcd_step_from(message: peer::ForwardEtcdResult) -> Result<kv::EtcdResult, ApiError> {
    use peer::forward_etcd_result::Kind;
    let kind = message.kind();
    let mut entries = message.entries.into_iter().map(convert::entry_from);
    let (count, revision) = (message.count, Revision(message.revision));
    Ok(match kind {
        Kind::Range => {
            let entries = entries.collect();
            kv::EtcdResult::Range { entries, more: message.flag, count, revision }
        }
        Kind::Put => kv::EtcdResult::Put { previous: entries.next(), revision },
        Kind::DeleteRange => {
            kv::EtcdResult::DeleteRange { count, previous: entries.collect(), revision }
        }
        Kind::Txn => kv::EtcdResult::Txn {
            succeeded: message.flag,
            results: message.results.into_iter().map(etcd_step_from).collect::<Result<_, _>>()?,
        },
        Kind::Unspecified => {
            return Err(ApiError::Internal("a forwarded step of an unknown kind".into()));
        }
    })
}

fn alarm_message(alarm: kv::Alarm) -> peer::ForwardAlarm {
    let kind = i32::from(alarm.kind).unsigned_abs();
    peer::ForwardAlarm { kind, member_id: alarm.member }
}

fn alarm_from(message: peer::ForwardAlarm) -> Result<kv::Alarm, ApiError> {
    let unknown = || ApiError::Internal("a forwarded alarm of an unknown kind".into());
    let kind = i32::try_from(message.kind).ok();
    let kind = kind.and_then(|kind| EtcdAlarmKind::try_from(kind).ok()).ok_or_else(unknown)?;
    Ok(kv::Alarm { kind, member: message.member_id })
}

fn auth_message(answer: kv::AuthAnswer) -> peer::ForwardAuth {
    use peer::forward_auth::Kind;
    let of = |kind: Kind| peer::ForwardAuth { kind: kind.into(), ..Default::default() };
    match answer {
        kv::AuthAnswer::Done => of(Kind::Done),
        kv::AuthAnswer::Status { enabled, revision } => {
            peer::ForwardAuth { enabled, revision, ..of(Kind::Status) }
        }
        kv::AuthAnswer::User { roles } => peer::ForwardAuth { names: roles, ..of(Kind::User) },
        kv::AuthAnswer::Role { permissions } => {
            let permissions = permissions.into_iter().map(permission_message).collect();
            peer::ForwardAuth { permissions, ..of(Kind::Role) }
        }
        kv::AuthAnswer::Names(names) => peer::ForwardAuth { names, ..of(Kind::Names) },
    }
}

fn auth_from(message: peer::ForwardAuth) -> Result<kv::AuthAnswer, ApiError> {
    use peer::forward_auth::Kind;
    let kind = message.kind();
    let peer::ForwardAuth { enabled, revision, names, permissions, .. } = message;
    Ok(match kind {
        Kind::Done => kv::AuthAnswer::Done,
        Kind::Status => kv::AuthAnswer::Status { enabled, revision },
        Kind::User => kv::AuthAnswer::User { roles: names },
        Kind::Role => {
            let permissions = permissions.into_iter().map(permission_from);
            kv::AuthAnswer::Role { permissions: permissions.collect::<Result<_, _>>()? }
        }
        Kind::Names => kv::AuthAnswer::Names(names),
        Kind::Unspecified => {
            return Err(ApiError::Internal("a forwarded answer of an unknown kind".into()));
        }
    })
}

fn permission_message(permission: AuthPermission) -> peer::ForwardPermission {
    let AuthPermission { verb, key, range_end } = permission;
    peer::ForwardPermission { verb: verb.unsigned_abs(), key, range_end }
}

fn permission_from(message: peer::ForwardPermission) -> Result<AuthPermission, ApiError> {
    let peer::ForwardPermission { verb, key, range_end } = message;
    let unknown = |_| ApiError::Internal("a forwarded permission of an unknown kind".into());
    Ok(AuthPermission { verb: i32::try_from(verb).map_err(unknown)?, key, range_end })
}

fn renewal_message(renewal: kv::Renewal) -> peer::ForwardRenewal {
    let kv::Renewal { id, ttl_ms, expires_at_ms } = renewal;
    peer::ForwardRenewal { id: id.0, ttl_ms, expires_at_ms }
}

fn renewal_from(message: peer::ForwardRenewal) -> kv::Renewal {
    let peer::ForwardRenewal { id, ttl_ms, expires_at_ms } = message;
    kv::Renewal { id: LeaseId(id), ttl_ms, expires_at_ms }
}

fn lock_message(lock: kv::LockOutcome) -> peer::ForwardLock {
    let (token, waiting, ahead) = match lock.standing {
        kv::LockStanding::Held { token } => (token.0, false, 0),
        kv::LockStanding::Waiting { ahead } => (0, true, ahead),
        kv::LockStanding::Absent => (0, false, 0),
    };
    peer::ForwardLock {
        token,
        waiting,
        ahead,
        expires_at_ms: lock.expires_at_ms,
        changed: lock.changed,
        state: Some(lock_state_message(lock.state)),
    }
}

fn lock_from(message: peer::ForwardLock) -> kv::LockOutcome {
    let standing = if message.token != 0 {
        kv::LockStanding::Held { token: Revision(message.token) }
    } else if message.waiting {
        kv::LockStanding::Waiting { ahead: message.ahead }
    } else {
        kv::LockStanding::Absent
    };
    kv::LockOutcome {
        standing,
        expires_at_ms: message.expires_at_ms,
        changed: message.changed,
        state: message.state.map(lock_state_from).unwrap_or_default(),
    }
}

/// A lock's state as it travels between nodes.
pub(crate) fn lock_state_message(state: kv::LockState) -> peer::ForwardLockState {
    peer::ForwardLockState {
        owner: state.owner,
        token: state.token.0,
        value: state.value,
        expires_at_ms: state.expires_at_ms,
        lease: state.lease.0,
        waiters: state.waiters,
    }
}

/// A lock's state as it arrived.
pub(crate) fn lock_state_from(message: peer::ForwardLockState) -> kv::LockState {
    kv::LockState {
        owner: message.owner,
        token: Revision(message.token),
        value: message.value,
        expires_at_ms: message.expires_at_ms,
        lease: LeaseId(message.lease),
        waiters: message.waiters,
    }
}

/// An item's status in the answer of a batch.
pub(crate) fn item_status(error: Option<&ApiError>) -> v1::ItemStatus {
    match error {
        None => v1::ItemStatus::default(),
        Some(error) => {
            v1::ItemStatus { grpc_code: error.grpc_code() as i32, error: Some(error.info()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> kv::Entry {
        kv::Entry {
            key: "k".into(),
            value: "v".into(),
            revision: Revision(5),
            create_revision: Revision(3),
            version: 2,
            lease: LeaseId(7),
            expires_at_ms: 99,
        }
    }

    fn etcd() -> kv::EtcdOutcome {
        let revision = Revision(5);
        let (more, count, entries) = (true, 9, vec![entry(), entry()]);
        let range = kv::EtcdResult::Range { entries, more, count, revision };
        let results = vec![
            kv::EtcdResult::Put { previous: Some(entry()), revision },
            kv::EtcdResult::Put { previous: None, revision },
            kv::EtcdResult::DeleteRange { count: 3, previous: vec![entry()], revision },
            kv::EtcdResult::Txn { succeeded: false, results: vec![range] },
        ];
        kv::EtcdOutcome { succeeded: true, revision, changed: true, results }
    }

    fn auth_answers() -> impl Iterator<Item = kv::AuthAnswer> {
        let names = vec!["a".to_owned(), "b".to_owned()];
        let (key, range_end) = ("k".into(), "\0".into());
        let permissions = vec![AuthPermission { verb: 2, key, range_end }];
        let answers = [
            kv::AuthAnswer::Done,
            kv::AuthAnswer::Status { enabled: true, revision: 7 },
            kv::AuthAnswer::User { roles: names.clone() },
            kv::AuthAnswer::Role { permissions },
            kv::AuthAnswer::Names(names),
        ];
        answers.into_iter()
    }

    fn outcomes() -> Vec<kv::Outcome> {
        let steps = vec![
            kv::TxnResult::Get(Some(entry())),
            kv::TxnResult::Get(None),
            kv::TxnResult::Range { entries: vec![entry()], more: true },
            kv::TxnResult::Put { previous: None },
            kv::TxnResult::Delete { count: 1, previous: vec![entry()] },
            kv::TxnResult::Increment(-4),
            kv::TxnResult::Txn { succeeded: true, results: vec![kv::TxnResult::Increment(1)] },
        ];
        let state = kv::LockState {
            owner: "o".into(),
            token: Revision(8),
            value: "text".into(),
            expires_at_ms: 5,
            lease: LeaseId(2),
            waiters: 3,
        };
        let lock = |standing| kv::LockOutcome {
            standing,
            expires_at_ms: 6,
            changed: true,
            state: state.clone(),
        };
        vec![
            kv::Outcome::Applied(kv::Mutation {
                revision: Revision(5),
                previous: Some(entry()),
                count: 1,
                number: -9,
                more: true,
                ..Default::default()
            }),
            kv::Outcome::ConditionFailed { current: None },
            kv::Outcome::ConditionFailed { current: Some(entry()) },
            kv::Outcome::Txn(kv::TxnOutcome {
                succeeded: true,
                revision: Revision(5),
                changed: true,
                results: steps,
                results_lost: false,
            }),
            kv::Outcome::Etcd(etcd()),
            kv::Outcome::Lease(kv::LeaseOutcome {
                id: LeaseId(1),
                ttl_ms: 2,
                expires_at_ms: 3,
                keys_removed: 4,
                revision: Revision(5),
            }),
            kv::Outcome::Renewed(vec![kv::Renewal { id: LeaseId(1), ttl_ms: 2, expires_at_ms: 3 }]),
            kv::Outcome::Lock(lock(kv::LockStanding::Held { token: Revision(8) })),
            kv::Outcome::Lock(lock(kv::LockStanding::Waiting { ahead: 2 })),
            kv::Outcome::Lock(lock(kv::LockStanding::Absent)),
            kv::Outcome::Session { idle_max_ms: 900_000 },
            kv::Outcome::Compacted { oldest: Revision(4) },
            kv::Outcome::Alarms(vec![kv::Alarm { kind: EtcdAlarmKind::Corrupt, member: 9 }]),
        ]
        .into_iter()
        .chain(auth_answers().map(kv::Outcome::EtcdAuth))
        .collect()
    }

    #[test]
    fn an_outcome_survives_the_way_between_nodes() {
        for outcome in outcomes() {
            assert_eq!(from_message(to_message(Ok(outcome.clone()))), Ok(outcome));
        }
    }

    #[test]
    fn a_refusal_keeps_its_code_and_text_between_nodes() {
        let refusals = [
            kv::Refusal::SessionExpired,
            kv::Refusal::SessionStale { watermark: 4 },
            kv::Refusal::DuplicateKey,
            kv::Refusal::LeaseExists,
            kv::Refusal::LockNotHeld,
            kv::Refusal::Overflow,
            kv::Refusal::WrongSpan { epoch: holdfast_model::RangeEpoch(3) },
            kv::Refusal::Auth(kv::AuthRefusal::UserNotFound),
            kv::Refusal::Auth(kv::AuthRefusal::AuthOldRevision),
        ];
        for refusal in refusals {
            let here = refused(&refusal);
            let there = from_message(to_message(Err(here.clone()))).unwrap_err();
            assert_eq!(there.info(), here.info());
            assert_eq!(there.is_elsewhere(), here.is_elsewhere());
        }
    }

    #[test]
    fn a_refusal_about_users_is_the_same_one_after_a_journey() {
        use kv::AuthRefusal as R;
        let refusals = [R::UserEmpty, R::AuthOldRevision, R::AuthFailed, R::RootUserNotExist];
        for refusal in refusals {
            let here = refused(&kv::Refusal::Auth(refusal));
            assert_eq!(from_message(to_message(Err(here.clone()))), Err(here));
        }
        let denied = refused(&kv::Refusal::Auth(R::PermissionDenied));
        assert!(from_message(to_message(Err(denied))).unwrap_err().is_about_caller());
    }

    #[test]
    fn an_unknown_outcome_for_want_of_time_stays_one_between_nodes() {
        for (deadline, code) in
            [(true, tonic::Code::DeadlineExceeded), (false, tonic::Code::Aborted)]
        {
            let here = ApiError::OutcomeUnknown { reason: "no answer".into(), deadline };
            let there = from_message(to_message(Err(here))).unwrap_err();
            assert!(there.is_unknown());
            assert_eq!((there.grpc_code(), there.status().code()), (code, code));
        }
    }

    #[test]
    fn only_a_wrong_span_is_looked_for_elsewhere() {
        let wrong = kv::Refusal::WrongSpan { epoch: holdfast_model::RangeEpoch(3) };
        assert!(refused(&wrong).is_elsewhere());
        assert!(!refused(&kv::Refusal::LeaseNotFound).is_elsewhere());
        assert!(!refused(&kv::Refusal::SessionExpired).is_elsewhere());
    }
}
