//! What entries will ask for, looked up before they are applied.
//!
//! Apply runs beside the heartbeats of many ranges and must not wait for a disk. So what is in
//! memory is looked up first; what is not is handed out in parts, for threads that may wait; and
//! only then the entries are applied. What was not foreseen is read by apply itself: that costs
//! time, and never changes what comes out.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_lsm::{Cached, Engine, Family, ReadPoint, Record};
use holdfast_model::LeaseId;

use crate::command::{
    Command, EtcdKeys, EtcdOperation, EtcdStep, EtcdTxn, Operation, Txn, TxnOperation, TxnStep,
};
use crate::decode::{Body, Decoded};
use crate::records::{
    Attachment, Class, Due, Floors, LockRecord, Subject, attachment_from_key, attachments_of,
    lease_key, unseal,
};
use crate::working::{KeyMap, decode, interval};
use crate::{Entry, Result};

/// Most keys looked at for the sake of one operation that names an interval, a lease or a time.
/// What lies beyond is read by apply itself.
const WALK_MAX: usize = 10_000;

/// What is known of the state before entries are applied to it.
#[derive(Default)]
pub(crate) struct Known {
    /// The newest version of keys.
    pub data: KeyMap<Option<Entry>>,
    /// Records of internal families.
    pub records: BTreeMap<(Family, Bytes), Option<Bytes>>,
}

/// Something an operation asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    Key(Bytes),
    Lease(LeaseId),
    Lock(Bytes),
    /// Everything attached to a lease.
    Attached(LeaseId),
    /// The keys of an interval.
    Interval(Bytes, Bytes),
    /// What a class of the expiry index holds in this stretch of range time, and how much of it
    /// counts.
    Due(Class, u64, u64, usize),
}

/// Entries that are decoded and checked, with what is known of what they ask for.
pub struct Prepared {
    pub(crate) decoded: Vec<Decoded>,
    pub(crate) known: Known,
    pub(crate) base: ReadPoint,
    engine: Arc<Engine>,
    cold: BTreeSet<Need>,
}

/// A part of what has to be read from the disk.
pub struct ColdPart {
    engine: Arc<Engine>,
    base: ReadPoint,
    needs: Vec<Need>,
}

/// What was read from the disk.
pub struct Warmed(Known);

impl Prepared {
    /// Looks up in memory what `decoded` will ask for.
    pub(crate) fn new(
        engine: &Arc<Engine>,
        base: ReadPoint,
        decoded: Vec<Decoded>,
        floors: Floors,
    ) -> Result<Self> {
        let mut look = Look::new(engine, base, false);
        for entry in &decoded {
            if let Body::Envelope(envelope) = &entry.body {
                let clock_ms = envelope.stamp_ms.max(base.clock_ms);
                for Command { items, .. } in &envelope.commands {
                    for operation in items.iter().filter_map(|item| item.operation.as_ref()) {
                        look.operation(operation, floors, clock_ms)?;
                    }
                }
            }
        }
        let Look { known, cold, .. } = look;
        Ok(Self { decoded, known, base, engine: engine.clone(), cold })
    }

    /// Takes out what has to be read from the disk, in at most `parts_max` parts of about the same
    /// number of reads. Empty where everything is in memory.
    pub fn take_cold(&mut self, parts_max: usize) -> Vec<ColdPart> {
        let needs: Vec<Need> = std::mem::take(&mut self.cold).into_iter().collect();
        let part = |needs: &[Need]| ColdPart {
            engine: self.engine.clone(),
            base: self.base,
            needs: needs.to_vec(),
        };
        let length = needs.len().div_ceil(parts_max.max(1)).max(1);
        needs.chunks(length).map(part).collect()
    }

    /// Takes in what was read.
    pub fn warm(&mut self, warmed: Warmed) {
        let Warmed(Known { data, records }) = warmed;
        self.known.data.extend(data);
        self.known.records.extend(records);
    }
}

impl ColdPart {
    /// Reads. Waits for the disk.
    ///
    /// # Errors
    /// As those of [`StateMachine::apply`](crate::StateMachine::apply) that come from the engine.
    pub fn read(self) -> Result<Warmed> {
        let mut look = Look::new(&self.engine, self.base, true);
        let as_key = |need: &Need| match need {
            Need::Key(key) => Some(key.clone()),
            _ => None,
        };
        look.keys(self.needs.iter().filter_map(as_key).collect())?;
        for need in self.needs {
            look.need(need)?;
        }
        Ok(Warmed(look.known))
    }
}

/// Looking things up, in memory alone or on the disk as well.
struct Look<'a> {
    engine: &'a Engine,
    base: ReadPoint,
    waits: bool,
    known: Known,
    cold: BTreeSet<Need>,
}

impl<'a> Look<'a> {
    fn new(engine: &'a Engine, base: ReadPoint, waits: bool) -> Self {
        Self { engine, base, waits, known: Known::default(), cold: BTreeSet::new() }
    }

    fn operation(&mut self, operation: &Operation, floors: Floors, clock_ms: u64) -> Result<()> {
        match operation {
            Operation::Put(put) => {
                self.need(Need::Key(put.key.clone()))?;
                self.lease_of(put.lease)
            }
            Operation::Delete(delete) => self.need(Need::Key(delete.key.clone())),
            Operation::Increment(increment) => self.need(Need::Key(increment.key.clone())),
            Operation::DeleteRange(delete) => self.interval(&delete.start, &delete.end),
            Operation::Txn(txn) => self.txn(txn),
            Operation::Etcd(txn) => self.etcd(txn),
            Operation::LeaseGrant(grant) => self.lease_of(grant.id),
            Operation::LeaseRevoke(revoke) => {
                self.lease_of(revoke.id)?;
                self.need(Need::Attached(LeaseId(revoke.id)))
            }
            Operation::Renew(renew) => renew.leases.iter().try_for_each(|id| self.lease_of(*id)),
            Operation::LockAcquire(acquire) => {
                self.need(Need::Lock(acquire.name.clone()))?;
                self.lease_of(acquire.lease)
            }
            Operation::LockKeepAlive(keep) => self.need(Need::Lock(keep.name.clone())),
            Operation::LockRelease(release) => self.need(Need::Lock(release.name.clone())),
            Operation::Expire(expire) => {
                let most = usize::try_from(expire.keys_max).unwrap_or(WALK_MAX).min(WALK_MAX);
                let is_due = |class: &Class| floors.of(*class) <= clock_ms;
                Class::ALL.into_iter().filter(is_due).try_for_each(|class| {
                    self.need(Need::Due(class, floors.of(class), clock_ms, most))
                })
            }
            // What is left is in memory: sessions, and the few records about the range itself.
            _ => Ok(()),
        }
    }

    fn txn(&mut self, txn: &Txn) -> Result<()> {
        for compare in &txn.compares {
            match compare.end.is_empty() {
                true => self.need(Need::Key(compare.key.clone()))?,
                false => self.interval(&compare.key, &compare.end)?,
            }
        }
        txn.success.iter().chain(&txn.failure).try_for_each(|step| self.step(step))
    }

    fn step(&mut self, step: &TxnStep) -> Result<()> {
        match &step.operation {
            Some(TxnOperation::Get(get)) => self.need(Need::Key(get.key.clone())),
            Some(TxnOperation::Put(put)) => {
                self.need(Need::Key(put.key.clone()))?;
                self.lease_of(put.lease)
            }
            Some(TxnOperation::Delete(delete)) => self.need(Need::Key(delete.key.clone())),
            Some(TxnOperation::Increment(add)) => self.need(Need::Key(add.key.clone())),
            Some(TxnOperation::Range(range)) => self.interval(&range.start, &range.end),
            Some(TxnOperation::DeleteRange(delete)) => self.interval(&delete.start, &delete.end),
            Some(TxnOperation::Txn(txn)) => self.txn(txn),
            None => Ok(()),
        }
    }

    fn etcd(&mut self, txn: &EtcdTxn) -> Result<()> {
        for compare in &txn.compares {
            self.etcd_keys(compare.keys())?;
        }
        txn.success.iter().chain(&txn.failure).try_for_each(|step| self.etcd_step(step))
    }

    fn etcd_step(&mut self, step: &EtcdStep) -> Result<()> {
        match &step.operation {
            // What an older revision had is read by apply: it is seldom asked for in a transaction.
            Some(EtcdOperation::Range(range)) if range.revision > 0 => Ok(()),
            Some(EtcdOperation::Range(range)) => self.etcd_keys(range.keys()),
            Some(EtcdOperation::Put(put)) => {
                self.need(Need::Key(put.key.clone()))?;
                self.lease_of(put.lease)
            }
            Some(EtcdOperation::DeleteRange(delete)) => self.etcd_keys(delete.keys()),
            Some(EtcdOperation::Txn(txn)) => self.etcd(txn),
            None => Ok(()),
        }
    }

    fn etcd_keys(&mut self, keys: EtcdKeys) -> Result<()> {
        match keys {
            EtcdKeys::One(key) => self.need(Need::Key(key)),
            EtcdKeys::Interval(start, end) => self.interval(&start, &end),
        }
    }

    fn lease_of(&mut self, id: u64) -> Result<()> {
        if id == 0 { Ok(()) } else { self.need(Need::Lease(LeaseId(id))) }
    }

    fn interval(&mut self, start: &Bytes, end: &Bytes) -> Result<()> {
        let is_empty = !end.is_empty() && start >= end;
        if is_empty { Ok(()) } else { self.need(Need::Interval(start.clone(), end.clone())) }
    }

    fn need(&mut self, need: Need) -> Result<()> {
        let is_there = match &need {
            Need::Key(key) => self.key(key)?,
            Need::Lease(id) => self.lease(*id)?,
            Need::Lock(name) => self.lock(name)?,
            // A walk is never known to be in memory before it is done.
            _ if !self.waits => false,
            Need::Attached(id) => self.attached(*id)?,
            Need::Interval(start, end) => self.walk(start, end)?,
            Need::Due(class, from_ms, to_ms, most) => self.due(*class, *from_ms, *to_ms, *most)?,
        };
        if !is_there {
            self.cold.insert(need);
        }
        Ok(())
    }

    fn get(&self, family: Family, key: &Bytes) -> Result<Cached<Option<Record>>> {
        Ok(match self.waits {
            true => Cached::Answer(self.engine.get(family, key, self.base)?),
            false => self.engine.get_cached(family, key, self.base)?,
        })
    }

    /// A key, and the lease it is attached to: whoever replaces it changes that as well.
    fn key(&mut self, key: &Bytes) -> Result<bool> {
        if self.known.data.contains_key(key) {
            return Ok(true);
        }
        let Cached::Answer(record) = self.get(Family::Data, key)? else { return Ok(false) };
        self.know(key.clone(), record)?;
        Ok(true)
    }

    /// Many keys in one look, which reads blocks that follow each other at once.
    fn keys(&mut self, keys: Vec<Bytes>) -> Result<()> {
        let slices: Vec<&[u8]> = keys.iter().map(Bytes::as_ref).collect();
        let records = self.engine.multi_get(Family::Data, &slices, self.base)?;
        for (key, record) in keys.into_iter().zip(records) {
            self.know(key, record)?;
        }
        Ok(())
    }

    /// Notes the newest version of a key, and looks for the lease it is attached to.
    fn know(&mut self, key: Bytes, record: Option<Record>) -> Result<()> {
        let entry = record.map(|record| decode(key.clone(), record)).transpose()?;
        let lease = entry.as_ref().map_or(0, |entry| entry.lease.0);
        self.known.data.insert(key, entry);
        self.lease_of(lease)
    }

    /// The record of an internal family; `None` where it is not in memory.
    fn record(&mut self, family: Family, key: Bytes) -> Result<Option<Option<Bytes>>> {
        if let Some(known) = self.known.records.get(&(family, key.clone())) {
            return Ok(Some(known.clone()));
        }
        let Cached::Answer(record) = self.get(family, &key)? else { return Ok(None) };
        let value = record.map(|record| record.value);
        self.known.records.insert((family, key), value.clone());
        Ok(Some(value))
    }

    fn lease(&mut self, id: LeaseId) -> Result<bool> {
        Ok(self.record(Family::Lease, lease_key(id))?.is_some())
    }

    /// A lock, and the leases its holder and waiters live by.
    fn lock(&mut self, name: &Bytes) -> Result<bool> {
        let Some(value) = self.record(Family::Lock, name.clone())? else { return Ok(false) };
        let Some(value) = value else { return Ok(true) };
        let lock: LockRecord = unseal("lock", value)?;
        for party in lock.holder.iter().chain(&lock.waiters) {
            self.lease_of(party.lease)?;
        }
        Ok(true)
    }

    fn attached(&mut self, id: LeaseId) -> Result<bool> {
        let (first, last) = attachments_of(id);
        let bounds = (Bound::Included(first), Bound::Excluded(last));
        for found in self.engine.scan(Family::Lease, bounds, self.base, false)?.take(WALK_MAX) {
            match attachment_from_key(&found?.0)? {
                Attachment::Key(key) => self.key(&key)?,
                Attachment::Lock(name) => self.lock(&name)?,
            };
        }
        Ok(true)
    }

    /// Only brings the blocks into the cache: apply walks them again.
    fn walk(&mut self, start: &Bytes, end: &Bytes) -> Result<bool> {
        let scan = self.engine.scan(Family::Data, interval(start, end), self.base, false)?;
        for found in scan.take(WALK_MAX) {
            let (key, record) = found?;
            let lease = decode(key, record)?.lease;
            self.lease_of(lease.0)?;
        }
        Ok(true)
    }

    /// Keys are removed without a look at them; only the lease of one is wanted.
    fn due(&mut self, class: Class, from_ms: u64, to_ms: u64, most: usize) -> Result<bool> {
        let (first, last) = class.interval(from_ms, to_ms.saturating_add(1));
        let bounds = (Bound::Included(first), Bound::Excluded(last));
        for found in self.engine.scan(Family::Expiry, bounds, self.base, false)?.take(most + 1) {
            let (key, record) = found?;
            match Due::from_key(&key)?.subject {
                Subject::Key(_) => self.lease_of(Due::lease(&record.value)?.0)?,
                Subject::Lock(name) => drop(self.lock(&name)?),
                Subject::Lease(id) => {
                    self.lease(id)?;
                    self.attached(id)?;
                }
                Subject::Session(_) => {}
            }
        }
        Ok(true)
    }
}
