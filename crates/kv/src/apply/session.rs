//! Exactly once: commands inside a session, and outcomes made again from what it remembers.

use bytes::Bytes;
use holdfast_model::limits::SESSION_ANSWER_BYTES_MAX;
use holdfast_model::{ClientId, LeaseId, RangeEpoch, Revision};
use xxhash_rust::xxh3::xxh3_64;

use super::{Applier, Step, Stop, settle};
use crate::auth::AuthRefusal;
use crate::command::{
    Item, Operation, SessionClose, SessionKeepAlive, SessionOpen, SessionTag, User,
};
use crate::records::{Answer, Remembered};
use crate::sessions::{IDLE_MAX_MS, Verdict};
use crate::{
    Entry, LeaseOutcome, LockOutcome, LockStanding, Mutation, Outcome, Refusal, Result, TxnOutcome,
};

/// Codes of remembered outcomes. They are part of the format: never reuse one.
mod code {
    pub const APPLIED: u32 = 1;
    pub const CONDITION_FAILED: u32 = 2;
    pub const TXN: u32 = 3;
    pub const LEASE: u32 = 4;
    pub const LOCK_HELD: u32 = 5;
    pub const LOCK_WAITING: u32 = 6;
    pub const LOCK_ABSENT: u32 = 7;
    pub const WRONG_SPAN: u32 = 64;
    pub const DUPLICATE_KEY: u32 = 65;
    pub const NOT_A_NUMBER: u32 = 66;
    pub const OVERFLOW: u32 = 67;
    pub const LEASE_NOT_FOUND: u32 = 68;
    pub const LEASE_EXISTS: u32 = 69;
    pub const LEASE_FULL: u32 = 70;
    pub const TOO_MANY_KEYS: u32 = 71;
    pub const RESULT_TOO_LARGE: u32 = 72;
    pub const LOCK_QUEUE_FULL: u32 = 73;
    pub const LOCK_NOT_HELD: u32 = 74;
    pub const NO_SPACE: u32 = 75;
    pub const CORRUPT: u32 = 76;
    pub const PERMISSION_DENIED: u32 = 77;
    pub const MALFORMED: u32 = 127;
}

/// Largest encoding of an answer: ten fields of at most eleven bytes.
const ANSWER_BYTES_MAX: usize = 10 * 11;
const _: () = assert!(ANSWER_BYTES_MAX <= SESSION_ANSWER_BYTES_MAX);

impl Applier<'_> {
    pub(super) fn in_session(
        &mut self,
        tag: &SessionTag,
        items: Vec<Item>,
        user: Option<&User>,
    ) -> Result<Vec<Outcome>> {
        let name = user.map(|user| &user.name);
        let admitted = self.check_user(user).and_then(|()| {
            let client = tag.client_id().ok_or(Refusal::SessionExpired)?;
            self.sessions.touch(client, name, tag.watermark, &mut self.work)?;
            Ok(client)
        });
        match admitted {
            Ok(client) => {
                items.into_iter().map(|item| self.tagged_item(client, item, user)).collect()
            }
            Err(refusal) => Ok(items.iter().map(|_| Outcome::Refused(refusal)).collect()),
        }
    }

    fn tagged_item(
        &mut self,
        client: ClientId,
        item: Item,
        user: Option<&User>,
    ) -> Result<Outcome> {
        let Item { seq, operation: Some(operation) } = item else {
            return Ok(Outcome::Refused(Refusal::Malformed { what: "operation is missing" }));
        };
        let payload = self.payload(&operation);
        match self.sessions.verdict(client, seq, payload) {
            Ok(Verdict::Execute) => {
                let outcome = settle(self.checked_mutation(&operation, user))?;
                if let Some(answer) = self.answer(&outcome) {
                    let remembered = Remembered { seq, payload, answer };
                    self.sessions.remember(client, self.index, remembered);
                }
                Ok(outcome)
            }
            Ok(Verdict::Answered(answer)) => {
                holdfast_env::sometimes!(DUPLICATE_ANSWERED);
                settle(self.outcome(&answer, &operation))
            }
            Err(refusal) => Ok(Outcome::Refused(refusal)),
        }
    }

    fn checked_mutation(&mut self, operation: &Operation, user: Option<&User>) -> Step<Outcome> {
        self.check_alarms(operation)?;
        self.check_leases(operation, user)?;
        self.mutation(operation)
    }

    /// What identifies an operation's payload: a hash of its bytes.
    fn payload(&mut self, operation: &Operation) -> u64 {
        self.scratch.clear();
        operation.encode(&mut self.scratch);
        xxh3_64(&self.scratch)
    }

    pub(super) fn session_open(
        &mut self,
        open: &SessionOpen,
        user: Option<&User>,
    ) -> Step<Outcome> {
        self.configured()?;
        let client = client(&open.client)?;
        self.sessions.open(client, user.map(|user| &user.name), &mut self.work)?;
        Ok(Outcome::Session { idle_max_ms: IDLE_MAX_MS })
    }

    pub(super) fn session_keep_alive(
        &mut self,
        keep: &SessionKeepAlive,
        user: Option<&User>,
    ) -> Step<Outcome> {
        let client = client(&keep.client)?;
        let name = user.map(|user| &user.name);
        self.sessions.touch(client, name, keep.watermark, &mut self.work)?;
        Ok(Outcome::Session { idle_max_ms: IDLE_MAX_MS })
    }

    pub(super) fn session_close(
        &mut self,
        close: &SessionClose,
        user: Option<&User>,
    ) -> Step<Outcome> {
        let client = client(&close.client)?;
        self.sessions.close(client, user.map(|user| &user.name), &mut self.work)?;
        Ok(Outcome::Session { idle_max_ms: 0 })
    }

    /// What is remembered of an outcome.
    fn answer(&self, outcome: &Outcome) -> Option<Answer> {
        let base = Answer {
            revision: self.work.revision.0,
            clock_ms: self.work.clock_ms,
            ..Answer::default()
        };
        Some(match outcome {
            Outcome::Applied(mutation) => Answer {
                code: code::APPLIED,
                revision: mutation.revision.0,
                create_revision: mutation.create_revision.0,
                version: mutation.version,
                count: mutation.count,
                number: mutation.number,
                flag: mutation.more,
                changed: mutation.count > 0,
                ..base
            },
            Outcome::ConditionFailed { .. } => Answer { code: code::CONDITION_FAILED, ..base },
            Outcome::Txn(txn) => Answer {
                code: code::TXN,
                revision: txn.revision.0,
                flag: txn.succeeded,
                changed: txn.changed,
                ..base
            },
            Outcome::Lease(lease) => Answer {
                code: code::LEASE,
                revision: lease.revision.0,
                version: lease.ttl_ms,
                detail: lease.expires_at_ms,
                count: lease.keys_removed,
                ..base
            },
            Outcome::Lock(lock) => {
                let (code, count) = match lock.standing {
                    LockStanding::Held { token } => (code::LOCK_HELD, token.0),
                    LockStanding::Waiting { ahead } => (code::LOCK_WAITING, ahead),
                    LockStanding::Absent => (code::LOCK_ABSENT, 0),
                };
                Answer { code, count, detail: lock.expires_at_ms, flag: lock.changed, ..base }
            }
            Outcome::Refused(refusal) => {
                let (code, detail) = refused(refusal);
                Answer { code, detail, ..base }
            }
            _ => return None,
        })
    }

    /// Makes an outcome again. Values are read from history, as far as it reaches.
    fn outcome(&self, answer: &Answer, operation: &Operation) -> Step<Outcome> {
        let revision = Revision(answer.revision);
        Ok(match answer.code {
            code::APPLIED => Outcome::Applied(Mutation {
                revision,
                create_revision: Revision(answer.create_revision),
                version: answer.version,
                previous: self.previous(answer, operation)?,
                count: answer.count,
                number: answer.number,
                more: answer.flag,
            }),
            code::CONDITION_FAILED => {
                let key = match operation {
                    Operation::Put(put) => &put.key,
                    Operation::Delete(delete) => &delete.key,
                    _ => return Err(unreadable()),
                };
                Outcome::ConditionFailed { current: self.past(key, revision, answer.clock_ms)? }
            }
            code::TXN => {
                let Operation::Txn(txn) = operation else { return Err(unreadable()) };
                let (succeeded, changed) = (answer.flag, answer.changed);
                let told = TxnOutcome { succeeded, revision, changed, ..TxnOutcome::default() };
                Outcome::Txn(self.rerun(txn, told, answer.clock_ms)?)
            }
            code::LEASE => {
                let id = match operation {
                    Operation::LeaseGrant(grant) => grant.id,
                    Operation::LeaseRevoke(revoke) => revoke.id,
                    _ => return Err(unreadable()),
                };
                Outcome::Lease(LeaseOutcome {
                    id: LeaseId(id),
                    ttl_ms: answer.version,
                    expires_at_ms: answer.detail,
                    keys_removed: answer.count,
                    revision,
                })
            }
            code::LOCK_HELD | code::LOCK_WAITING | code::LOCK_ABSENT => {
                self.lock_outcome(answer, operation)?
            }
            _ => Outcome::Refused(refusal(answer)),
        })
    }

    /// The entry a mutation replaced, where it was asked for.
    fn previous(&self, answer: &Answer, operation: &Operation) -> Result<Option<Entry>> {
        let key = match operation {
            Operation::Put(put) if put.return_previous => &put.key,
            Operation::Delete(delete) if delete.return_previous => &delete.key,
            _ => return Ok(None),
        };
        let before = Revision(answer.revision - u64::from(answer.changed));
        self.past(key, before, answer.clock_ms)
    }

    /// The entry of a key at an earlier revision and time; none where history has lost it.
    fn past(&self, key: &Bytes, at: Revision, clock_ms: u64) -> Result<Option<Entry>> {
        if at < self.compacted {
            return Ok(None);
        }
        Ok(self.work.at(key, at)?.filter(|entry| !entry.is_expired(clock_ms)))
    }

    /// The standing is the remembered one, the lock is shown as it is now.
    fn lock_outcome(&self, answer: &Answer, operation: &Operation) -> Step<Outcome> {
        let name = match operation {
            Operation::LockAcquire(acquire) => &acquire.name,
            Operation::LockKeepAlive(keep) => &keep.name,
            Operation::LockRelease(release) => &release.name,
            _ => return Err(unreadable()),
        };
        let standing = match answer.code {
            code::LOCK_HELD => LockStanding::Held { token: Revision(answer.count) },
            code::LOCK_WAITING => LockStanding::Waiting { ahead: answer.count },
            _ => LockStanding::Absent,
        };
        Ok(Outcome::Lock(LockOutcome {
            standing,
            expires_at_ms: answer.detail,
            changed: answer.flag,
            state: self.lock_now(name)?,
        }))
    }
}

fn client(bytes: &Bytes) -> std::result::Result<ClientId, Refusal> {
    ClientId::from_bytes(bytes).ok_or(Refusal::Malformed { what: "client id is not 16 bytes" })
}

/// A remembered answer does not fit the operation. The payload's hash rules it out.
fn unreadable() -> Stop {
    Stop::Refused(Refusal::SessionPayload)
}

/// Code and detail of a refusal.
fn refused(refusal: &Refusal) -> (u32, u64) {
    match *refusal {
        Refusal::WrongSpan { epoch } => (code::WRONG_SPAN, epoch.0),
        Refusal::DuplicateKey => (code::DUPLICATE_KEY, 0),
        Refusal::NotANumber => (code::NOT_A_NUMBER, 0),
        Refusal::Overflow => (code::OVERFLOW, 0),
        Refusal::LeaseNotFound => (code::LEASE_NOT_FOUND, 0),
        Refusal::LeaseExists => (code::LEASE_EXISTS, 0),
        Refusal::LeaseFull { limit } => (code::LEASE_FULL, limit),
        Refusal::TooManyKeys { limit } => (code::TOO_MANY_KEYS, limit),
        Refusal::ResultTooLarge { limit } => (code::RESULT_TOO_LARGE, limit),
        Refusal::LockQueueFull { limit } => (code::LOCK_QUEUE_FULL, limit),
        Refusal::LockNotHeld => (code::LOCK_NOT_HELD, 0),
        Refusal::NoSpace => (code::NO_SPACE, 0),
        Refusal::Corrupt => (code::CORRUPT, 0),
        Refusal::Auth(AuthRefusal::PermissionDenied) => (code::PERMISSION_DENIED, 0),
        Refusal::Malformed { .. }
        | Refusal::SessionExpired
        | Refusal::SessionStale { .. }
        | Refusal::SessionPayload
        | Refusal::SessionUnanswered { .. }
        | Refusal::SessionMemory { .. }
        | Refusal::SessionTableFull { .. }
        | Refusal::SessionOwner
        | Refusal::Compacted { .. }
        | Refusal::FutureRevision { .. }
        | Refusal::TooManyAlarms { .. }
        | Refusal::Auth(_)
        | Refusal::StaleConfiguration { .. } => (code::MALFORMED, 0),
    }
}

/// The refusal of a remembered answer.
fn refusal(answer: &Answer) -> Refusal {
    let detail = answer.detail;
    match answer.code {
        code::WRONG_SPAN => Refusal::WrongSpan { epoch: RangeEpoch(detail) },
        code::DUPLICATE_KEY => Refusal::DuplicateKey,
        code::NOT_A_NUMBER => Refusal::NotANumber,
        code::OVERFLOW => Refusal::Overflow,
        code::LEASE_NOT_FOUND => Refusal::LeaseNotFound,
        code::LEASE_EXISTS => Refusal::LeaseExists,
        code::LEASE_FULL => Refusal::LeaseFull { limit: detail },
        code::TOO_MANY_KEYS => Refusal::TooManyKeys { limit: detail },
        code::RESULT_TOO_LARGE => Refusal::ResultTooLarge { limit: detail },
        code::LOCK_QUEUE_FULL => Refusal::LockQueueFull { limit: detail },
        code::LOCK_NOT_HELD => Refusal::LockNotHeld,
        code::NO_SPACE => Refusal::NoSpace,
        code::CORRUPT => Refusal::Corrupt,
        code::PERMISSION_DENIED => AuthRefusal::PermissionDenied.into(),
        _ => Refusal::Malformed { what: "remembered as malformed" },
    }
}
