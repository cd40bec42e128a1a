//! Carrying out commands on the state of a range.
//!
//! Owns: the meaning of every operation.
//! Must never know: how the engine stores what is written, where entries come from.
//! Invariants:
//! * An item that is refused, or whose condition fails, changes nothing.
//! * A key whose time has come counts as missing. Whoever replaces it first removes it under a
//!   revision of its own.
//! * A key, lease or lock outside the span is never touched; nor does what is done depend on
//!   whether the engine still holds such a key.

mod alarm;
mod auth;
mod data;
mod etcd;
mod expire;
mod lease;
mod lock;
mod range;
mod session;
mod transaction;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use holdfast_lsm::{Batch, Family, ReadPoint};
use holdfast_model::{RangeEpoch, Revision};

use crate::auth::AuthStore;
use crate::command::{Command, Envelope, Item, Operation, User};
use crate::progress::{applied_record, membership_record};
use crate::reader::Published;
use crate::records::{APPLIED, Floors, MEMBERSHIP, Mark};
use crate::sessions::Sessions;
use crate::working::Working;
pub(crate) use etcd::{EtcdGround, etcd_walk};
pub(crate) use lock::state_of;
pub(crate) use range::compactable;

use crate::{
    Alarm, Error, LockGrant, LogPosition, Outcome, Refusal, Result, RevisionEvents, Truth,
};

/// So many records of an internal family that go at once are cleared as an interval.
const CLEAR_RECORDS_MIN: usize = 64;

/// Why an operation ends early.
pub(crate) enum Stop {
    /// The state of the range does not allow it: an answer.
    Refused(Refusal),
    /// The engine failed: the replica stops.
    Failed(Error),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// What a step of an operation gives.
pub(crate) type Step<T> = std::result::Result<T, Stop>;

/// The state of the range while entries are applied, and what they bring about.
pub(crate) struct Applier<'a> {
    work: Working<'a>,
    sessions: &'a mut Sessions,
    truth: Option<Truth>,
    truth_changed: bool,
    compacted: Revision,
    compacted_changed: bool,
    marks: Vec<Mark>,
    marks_changed: bool,
    /// By kind and member.
    alarms: Vec<Alarm>,
    alarms_changed: bool,
    auth: Arc<AuthStore>,
    auth_changed: bool,
    grants: Vec<LockGrant>,
    /// Index of the entry that is being applied.
    index: u64,
    /// Room for the bytes of an operation while it is hashed.
    scratch: BytesMut,
}

/// What entries have brought about, ready for the engine and for who waits.
pub(crate) struct Changes {
    pub batch: Batch,
    pub point: ReadPoint,
    pub events: Vec<RevisionEvents>,
    pub grants: Vec<LockGrant>,
    pub truth: Option<Truth>,
    pub compacted: Option<Revision>,
    /// Set where readers must see something new besides the engine.
    pub published: Option<Published>,
    /// The earliest entry put into the expiry index.
    pub due_ms: Option<u64>,
    /// The earliest of leases, locks and sessions among them.
    pub urgent_due_ms: Option<u64>,
    pub floors: Floors,
    pub unindexed: u64,
}

impl<'a> Applier<'a> {
    /// Begins with the state `work` lies over.
    pub fn new(work: Working<'a>, sessions: &'a mut Sessions, published: &Published) -> Self {
        Self {
            work,
            sessions,
            truth: published.truth,
            truth_changed: false,
            compacted: published.compacted,
            compacted_changed: false,
            marks: published.marks.clone(),
            marks_changed: false,
            alarms: published.alarms.clone(),
            alarms_changed: false,
            auth: published.auth.clone(),
            auth_changed: false,
            grants: Vec::new(),
            index: 0,
            scratch: BytesMut::new(),
        }
    }

    /// Ends after the entry at `last`; `membership` is the last one among the entries.
    pub fn finish(
        mut self,
        last: LogPosition,
        membership: Option<&(LogPosition, Bytes)>,
    ) -> Changes {
        self.store_marks();
        self.sessions.store(&mut self.work);
        let (revision, clock_ms) = (self.work.revision, self.work.clock_ms);
        let point = ReadPoint { revision, index: last.index, clock_ms };
        self.work.set(Family::Meta, APPLIED, Some(applied_record(last, point)));
        if let Some((position, membership)) = membership {
            let record = membership_record(*position, membership);
            self.work.set(Family::Meta, MEMBERSHIP, Some(record));
        }
        let (floors, unindexed) = (self.work.floors, self.work.unindexed);
        let is_some = |earliest_ms: &u64| *earliest_ms != u64::MAX;
        let due_ms = Some(self.work.earliest_due_ms).filter(is_some);
        let urgent_due_ms = Some(self.work.earliest_urgent_ms).filter(is_some);
        let Self { truth, compacted, marks, alarms, auth, .. } = self;
        let changed = self.marks_changed
            || self.truth_changed
            || self.compacted_changed
            || self.alarms_changed
            || self.auth_changed;
        let (batch, events) = self.work.into_batch(last.index.0);
        Changes {
            batch,
            point,
            events,
            grants: self.grants,
            truth: truth.filter(|_| self.truth_changed),
            compacted: self.compacted_changed.then_some(compacted),
            published: changed.then_some(Published {
                since: last.index,
                truth,
                compacted,
                marks,
                alarms,
                auth,
            }),
            due_ms,
            urgent_due_ms,
            floors,
            unindexed,
        }
    }

    /// Carries out one entry: one outcome per command and item.
    pub fn envelope(&mut self, envelope: Envelope, index: u64) -> Result<Vec<Vec<Outcome>>> {
        self.index = index;
        if envelope.stamp_ms > self.work.clock_ms {
            self.work.clock_ms = envelope.stamp_ms;
            self.mark();
        }
        envelope.commands.into_iter().map(|command| self.command(command)).collect()
    }

    fn command(&mut self, command: Command) -> Result<Vec<Outcome>> {
        let Command { session, items, user } = command;
        match session {
            Some(tag) => self.in_session(&tag, items, user.as_ref()),
            None => {
                items.into_iter().map(|item| self.item(item, user.as_ref())).collect::<Result<_>>()
            }
        }
    }

    fn item(&mut self, item: Item, user: Option<&User>) -> Result<Outcome> {
        let Some(operation) = item.operation else {
            return Ok(Outcome::Refused(Refusal::Malformed { what: "operation is missing" }));
        };
        settle(self.outside_session(operation, user))
    }

    /// Operations that stand outside sessions, and all others where there is none.
    fn outside_session(&mut self, operation: Operation, user: Option<&User>) -> Step<Outcome> {
        // Whether a user may change users is judged by the users there are.
        if let Operation::EtcdAuth(auth) = &operation {
            return self.etcd_auth(auth, user);
        }
        self.check_user(user)?;
        self.check_alarms(&operation)?;
        self.check_leases(&operation, user)?;
        match operation {
            Operation::Renew(renew) => self.renew(&renew),
            Operation::SessionOpen(open) => self.session_open(&open, user),
            Operation::SessionKeepAlive(keep) => self.session_keep_alive(&keep, user),
            Operation::SessionClose(close) => self.session_close(&close, user),
            Operation::Expire(expire) => self.expire(&expire),
            Operation::Compact(compact) => self.compact(&compact),
            Operation::Configure(configure) => self.configure(&configure),
            Operation::Noop(()) => Ok(Outcome::Noop),
            Operation::EtcdAlarm(alarm) => self.etcd_alarm(&alarm),
            Operation::Etcd(txn) => self.etcd(&txn),
            operation => self.mutation(&operation),
        }
    }

    /// Operations that may be remembered by a session.
    fn mutation(&mut self, operation: &Operation) -> Step<Outcome> {
        match operation {
            Operation::Put(put) => self.put(put),
            Operation::Delete(delete) => self.delete(delete),
            Operation::DeleteRange(delete) => self.delete_range(delete),
            Operation::Increment(increment) => self.increment(increment),
            Operation::Txn(txn) => self.txn(txn),
            Operation::LeaseGrant(grant) => self.lease_grant(grant),
            Operation::LeaseRevoke(revoke) => self.lease_revoke(revoke),
            Operation::LockAcquire(acquire) => self.lock_acquire(acquire),
            Operation::LockKeepAlive(keep) => self.lock_keep_alive(keep),
            Operation::LockRelease(release) => self.lock_release(release),
            _ => Err(Refusal::Malformed { what: "this operation stands outside sessions" }.into()),
        }
    }

    /// The range's truth; a range that was never configured serves nothing.
    fn configured(&self) -> std::result::Result<Truth, Refusal> {
        self.truth.ok_or(Refusal::WrongSpan { epoch: RangeEpoch(0) })
    }

    /// Whether a key is the range's.
    fn owns(&self, key: &[u8]) -> bool {
        self.truth.is_some_and(|truth| truth.owns(key))
    }

    /// Refuses a key that is not the range's.
    fn own(&self, key: &[u8]) -> std::result::Result<(), Refusal> {
        let truth = self.configured()?;
        if truth.owns(key) { Ok(()) } else { Err(Refusal::WrongSpan { epoch: truth.epoch }) }
    }

    /// Takes the next revision.
    fn next_revision(&mut self) -> Revision {
        self.work.revision = Revision(self.work.revision.0 + 1);
        self.work.revision
    }
}

/// Turns an early end into the outcome or the error it is.
fn settle(step: Step<Outcome>) -> Result<Outcome> {
    match step {
        Ok(outcome) => Ok(outcome),
        Err(Stop::Refused(refusal)) => Ok(Outcome::Refused(refusal)),
        Err(Stop::Failed(error)) => Err(error),
    }
}
