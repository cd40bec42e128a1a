//! What is refused before anything is proposed: sizes, counts and contradictions.

mod auth;
mod etcd;

use std::time::Duration;

use bytes::Bytes;
use holdfast_model::limits;
use prost::Message;

use crate::command::{
    Command, CompareTarget, Comparison, Condition, DeleteRange, Increment, LOCK_OWNER_BYTES_MAX,
    LOCK_VALUE_BYTES_MAX, LockAcquire, Operation, Put, SessionTag, Txn, TxnOperation, TxnStep,
};

/// Deepest nesting of transactions.
pub const TXN_DEPTH_MAX: usize = 4;
/// Most leases of one `Renew`.
pub const RENEW_LEASES_MAX: usize = 10_000;

/// The limits a request is held to; a configuration may lower them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest key, bytes.
    pub key_bytes_max: usize,
    /// Longest value, bytes.
    pub value_bytes_max: usize,
    /// Largest command, bytes.
    pub request_bytes_max: usize,
    /// Most items of a command.
    pub batch_operations_max: usize,
    /// Most compares and steps of a transaction, nested ones included.
    pub transaction_operations_max: usize,
    /// Shortest TTL.
    pub ttl_min: Duration,
    /// Longest TTL of a key or lock.
    pub ttl_max: Duration,
    /// Longest TTL of a lease.
    pub lease_ttl_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            key_bytes_max: limits::KEY_BYTES_MAX,
            value_bytes_max: limits::VALUE_BYTES_MAX,
            request_bytes_max: limits::REQUEST_BYTES_MAX,
            batch_operations_max: limits::BATCH_OPERATIONS_MAX,
            transaction_operations_max: limits::TRANSACTION_OPERATIONS_MAX,
            ttl_min: limits::TTL_MIN,
            ttl_max: limits::TTL_MAX,
            lease_ttl_max: limits::LEASE_TTL_MAX,
        }
    }
}

/// A command that breaks a limit or a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// A size, count or time over its limit.
    #[error("{what}: at most {limit}, given {given}")]
    TooLarge {
        /// What is too large, with its unit.
        what: &'static str,
        /// The limit.
        limit: u64,
        /// What was given.
        given: u64,
    },
    /// A size, count or time below its limit.
    #[error("{what}: at least {limit}, given {given}")]
    TooSmall {
        /// What is too small, with its unit.
        what: &'static str,
        /// The limit.
        limit: u64,
        /// What was given.
        given: u64,
    },
    /// A transaction writes a key more than once.
    #[error("a transaction writes each key at most once")]
    DuplicateKey,
    /// A field is missing, or fields contradict each other.
    #[error("{0}")]
    Rule(&'static str),
}

type Checked = Result<(), Invalid>;

/// Checks a command against `limits` and against the rules of its operations.
///
/// Cost: one pass over the command without reading values; for transactions, the square of the
/// number of steps.
///
/// # Errors
/// The first broken rule. Tell the caller; nothing may be proposed.
pub fn validate(command: &Command, limits: &Limits) -> Result<(), Invalid> {
    at_least("operations of a command", 1, command.items.len())?;
    at_most("operations of a command", limits.batch_operations_max, command.items.len())?;
    at_most("bytes of a command", limits.request_bytes_max, command.encoded_len())?;
    if let Some(tag) = &command.session {
        session_tag(command, tag)?;
    }
    for item in &command.items {
        match &item.operation {
            Some(operation) => limits.operation(operation)?,
            None => return rule("an operation is missing"),
        }
    }
    Ok(())
}

fn session_tag(command: &Command, tag: &SessionTag) -> Checked {
    client(&tag.client)?;
    let mut last = None;
    for item in &command.items {
        if item.seq < tag.watermark {
            return too_small("number of an operation", tag.watermark, item.seq);
        }
        if let Some(last) = last.filter(|last| item.seq <= *last) {
            return too_small("number of an operation behind another", last + 1, item.seq);
        }
        last = Some(item.seq);
        if let Some(
            Operation::SessionOpen(_) | Operation::SessionKeepAlive(_) | Operation::SessionClose(_),
        ) = &item.operation
        {
            return rule("an operation on sessions carries no session of its own");
        }
    }
    Ok(())
}

impl Limits {
    fn operation(&self, operation: &Operation) -> Checked {
        match operation {
            Operation::Put(put) => {
                self.put(put)?;
                self.condition(put.condition.as_ref())
            }
            Operation::Delete(delete) => {
                self.key(&delete.key)?;
                self.condition(delete.condition.as_ref())
            }
            Operation::DeleteRange(delete) => self.interval(&delete.start, &delete.end),
            Operation::Increment(increment) => self.increment(increment),
            Operation::Txn(txn) => self.txn(txn),
            Operation::Etcd(txn) => self.etcd(txn),
            Operation::EtcdAuth(auth) => self.etcd_auth(auth),
            Operation::LeaseGrant(grant) => {
                lease(grant.id)?;
                self.ttl(grant.ttl_ms, self.lease_ttl_max)
            }
            Operation::Renew(renew) => {
                at_most("leases of a renewal", RENEW_LEASES_MAX, renew.leases.len())
            }
            Operation::LeaseRevoke(revoke) => lease(revoke.id),
            Operation::LockAcquire(acquire) => self.lock_acquire(acquire),
            Operation::LockKeepAlive(keep) => lock(&keep.name, &keep.owner, 1),
            Operation::LockRelease(release) => {
                lock(&release.name, &release.owner, usize::from(release.token == 0))
            }
            Operation::SessionOpen(open) => client(&open.client),
            Operation::SessionKeepAlive(keep) => client(&keep.client),
            Operation::SessionClose(close) => client(&close.client),
            Operation::Expire(_)
            | Operation::Compact(_)
            | Operation::Configure(_)
            | Operation::EtcdAlarm(_)
            | Operation::Noop(()) => Ok(()),
        }
    }

    fn key(&self, key: &Bytes) -> Checked {
        at_least("bytes of a key", 1, key.len())?;
        at_most("bytes of a key", self.key_bytes_max, key.len())
    }

    fn value(&self, value: &Bytes) -> Checked {
        at_most("bytes of a value", self.value_bytes_max, value.len())
    }

    fn ttl(&self, ttl_ms: u64, max: Duration) -> Checked {
        let (min, max) = (millis(self.ttl_min), millis(max));
        if ttl_ms < min {
            return too_small("TTL in milliseconds", min, ttl_ms);
        }
        if ttl_ms > max {
            return too_large("TTL in milliseconds", max, ttl_ms);
        }
        Ok(())
    }

    fn optional_ttl(&self, ttl_ms: u64) -> Checked {
        if ttl_ms == 0 { Ok(()) } else { self.ttl(ttl_ms, self.ttl_max) }
    }

    fn put(&self, put: &Put) -> Checked {
        self.key(&put.key)?;
        self.value(&put.value)?;
        self.optional_ttl(put.ttl_ms)?;
        if put.ttl_ms != 0 && put.lease != 0 {
            return rule("a key lives by a TTL or by a lease, not by both");
        }
        Ok(())
    }

    fn increment(&self, increment: &Increment) -> Checked {
        self.key(&increment.key)?;
        self.optional_ttl(increment.ttl_ms)
    }

    fn condition(&self, condition: Option<&Condition>) -> Checked {
        match condition {
            Some(Condition::IfValue(value)) => self.value(value),
            Some(Condition::IfAbsent(()) | Condition::IfRevision(_)) | None => Ok(()),
        }
    }

    fn interval(&self, start: &Bytes, end: &Bytes) -> Checked {
        at_most("bytes of a key", self.key_bytes_max, start.len())?;
        at_most("bytes of a key", self.key_bytes_max, end.len())?;
        if !end.is_empty() && end <= start {
            return rule("an interval ends behind its start");
        }
        Ok(())
    }

    fn lock_acquire(&self, acquire: &LockAcquire) -> Checked {
        lock(&acquire.name, &acquire.owner, 1)?;
        at_most("bytes of a lock's value", LOCK_VALUE_BYTES_MAX, acquire.value.len())?;
        match (acquire.ttl_ms, acquire.lease) {
            (0, 0) => rule("a lock lives by a TTL or by a lease"),
            (0, _) => Ok(()),
            (ttl_ms, 0) => self.ttl(ttl_ms, self.ttl_max),
            _ => rule("a lock lives by a TTL or by a lease, not by both"),
        }
    }

    fn txn(&self, txn: &Txn) -> Checked {
        let mut operations = 0;
        self.txn_part(txn, 1, &mut operations)?;
        writes_of(&txn.success)?;
        writes_of(&txn.failure)?;
        Ok(())
    }

    fn txn_part(&self, txn: &Txn, depth: usize, operations: &mut usize) -> Checked {
        at_most("nested transactions", TXN_DEPTH_MAX, depth)?;
        *operations += txn.compares.len() + txn.success.len() + txn.failure.len();
        at_most("operations of a transaction", self.transaction_operations_max, *operations)?;
        for compare in &txn.compares {
            self.key(&compare.key)?;
            if !compare.end.is_empty() {
                self.interval(&compare.key, &compare.end)?;
            }
            match (&compare.target, Comparison::try_from(compare.comparison)) {
                (None, _) => return rule("the target of a compare is missing"),
                (_, Err(_)) => return rule("the comparison is unknown"),
                (Some(CompareTarget::Exists(_)), Ok(Comparison::Greater | Comparison::Less)) => {
                    return rule("existence is equal or not equal, nothing else");
                }
                _ => {}
            }
        }
        for step in txn.success.iter().chain(&txn.failure) {
            self.step(step, depth, operations)?;
        }
        Ok(())
    }

    fn step(&self, step: &TxnStep, depth: usize, operations: &mut usize) -> Checked {
        const CONDITION: &str = "a transaction has compares instead of conditions";
        match &step.operation {
            None => rule("an operation is missing"),
            Some(TxnOperation::Get(get)) => self.key(&get.key),
            Some(TxnOperation::Range(range)) => self.interval(&range.start, &range.end),
            Some(TxnOperation::Put(put)) if put.condition.is_some() => rule(CONDITION),
            Some(TxnOperation::Put(put)) => self.put(put),
            Some(TxnOperation::Delete(d)) if d.condition.is_some() => rule(CONDITION),
            Some(TxnOperation::Delete(delete)) => self.key(&delete.key),
            Some(TxnOperation::DeleteRange(delete)) => self.interval(&delete.start, &delete.end),
            Some(TxnOperation::Increment(increment)) => self.increment(increment),
            Some(TxnOperation::Txn(txn)) => self.txn_part(txn, depth + 1, operations),
        }
    }
}

/// What a step writes: a key or an interval, stored or removed.
struct Write<'a> {
    start: &'a [u8],
    end: Option<&'a [u8]>,
    stores: bool,
}

impl Write<'_> {
    /// Whether both touch a key, and one of them stores it.
    fn collides(&self, other: &Write<'_>) -> bool {
        let reaches = |a: &Write<'_>, b: &Write<'_>| match a.end {
            None => a.start >= b.start,
            Some([]) => true,
            Some(end) => end > b.start,
        };
        (self.stores || other.stores) && reaches(self, other) && reaches(other, self)
    }
}

/// The writes of a branch, none of which collides with another.
fn writes_of(steps: &[TxnStep]) -> Result<Vec<Write<'_>>, Invalid> {
    let mut writes: Vec<Write<'_>> = Vec::new();
    for step in steps {
        let added = match &step.operation {
            Some(TxnOperation::Put(put)) => {
                vec![Write { start: &put.key, end: None, stores: true }]
            }
            Some(TxnOperation::Increment(increment)) => {
                vec![Write { start: &increment.key, end: None, stores: true }]
            }
            Some(TxnOperation::Delete(delete)) => {
                vec![Write { start: &delete.key, end: None, stores: false }]
            }
            Some(TxnOperation::DeleteRange(DeleteRange { start, end, .. })) => {
                vec![Write { start, end: Some(end), stores: false }]
            }
            Some(TxnOperation::Txn(txn)) => {
                let mut both = writes_of(&txn.success)?;
                both.extend(writes_of(&txn.failure)?);
                both
            }
            Some(TxnOperation::Get(_) | TxnOperation::Range(_)) | None => Vec::new(),
        };
        if added.iter().any(|a| writes.iter().any(|w| w.collides(a))) {
            return Err(Invalid::DuplicateKey);
        }
        writes.extend(added);
    }
    Ok(writes)
}

fn client(bytes: &Bytes) -> Checked {
    at_least("bytes of a client id", 16, bytes.len())?;
    at_most("bytes of a client id", 16, bytes.len())
}

fn lease(id: u64) -> Checked {
    if id == 0 { rule("a lease id is not 0") } else { Ok(()) }
}

fn lock(name: &Bytes, owner: &Bytes, owner_bytes_min: usize) -> Checked {
    at_least("bytes of a lock's name", 1, name.len())?;
    at_most("bytes of a lock's name", limits::NAME_BYTES_MAX, name.len())?;
    at_least("bytes of a lock's owner", owner_bytes_min, owner.len())?;
    at_most("bytes of a lock's owner", LOCK_OWNER_BYTES_MAX, owner.len())
}

fn at_most(what: &'static str, limit: usize, given: usize) -> Checked {
    if given <= limit { Ok(()) } else { too_large(what, limit as u64, given as u64) }
}

fn at_least(what: &'static str, limit: usize, given: usize) -> Checked {
    if given >= limit { Ok(()) } else { too_small(what, limit as u64, given as u64) }
}

fn too_large(what: &'static str, limit: u64, given: u64) -> Checked {
    Err(Invalid::TooLarge { what, limit, given })
}

fn too_small(what: &'static str, limit: u64, given: u64) -> Checked {
    Err(Invalid::TooSmall { what, limit, given })
}

fn rule(rule: &'static str) -> Checked {
    Err(Invalid::Rule(rule))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
