//! Alarms of an etcd keyspace, and what is refused while one is raised.

use holdfast_lsm::Family;

use super::{Applier, Step};
use crate::command::{
    EtcdAlarm, EtcdAlarmAction, EtcdAlarmKind, Operation, Txn, TxnOperation, TxnStep,
};
use crate::outcome::Alarm;
use crate::records::{ALARMS, AlarmsRecord, seal};
use crate::{Outcome, Refusal};

/// Most alarms that can be raised at the same time: members are few, and anybody can name others.
pub(crate) const ALARMS_MAX: usize = 1_024;

impl Applier<'_> {
    pub(super) fn etcd_alarm(&mut self, asked: &EtcdAlarm) -> Step<Outcome> {
        self.configured()?;
        let unknown = |_| Refusal::Malformed { what: "action or kind of an alarm" };
        let action = EtcdAlarmAction::try_from(asked.action).map_err(unknown)?;
        let kind = EtcdAlarmKind::try_from(asked.kind).map_err(unknown)?;
        let alarm = Alarm { kind, member: asked.member };
        let place = self.alarms.binary_search(&alarm);
        let told = match (action, place) {
            (EtcdAlarmAction::List, _) => self.listed(kind),
            (EtcdAlarmAction::Raise, _) if kind == EtcdAlarmKind::None => Vec::new(),
            (EtcdAlarmAction::Raise, Ok(_)) => vec![alarm],
            (EtcdAlarmAction::Raise, Err(_)) if self.alarms.len() >= ALARMS_MAX => {
                return Err(Refusal::TooManyAlarms { limit: ALARMS_MAX as u64 }.into());
            }
            (EtcdAlarmAction::Raise, Err(place)) => {
                self.alarms.insert(place, alarm);
                self.store_alarms();
                vec![alarm]
            }
            (EtcdAlarmAction::Clear, Ok(place)) => {
                self.alarms.remove(place);
                self.store_alarms();
                vec![alarm]
            }
            (EtcdAlarmAction::Clear, Err(_)) => Vec::new(),
        };
        Ok(Outcome::Alarms(told))
    }

    fn listed(&self, kind: EtcdAlarmKind) -> Vec<Alarm> {
        let all = kind == EtcdAlarmKind::None;
        self.alarms.iter().filter(|alarm| all || alarm.kind == kind).copied().collect()
    }

    fn store_alarms(&mut self) {
        self.alarms_changed = true;
        let record = AlarmsRecord::of(&self.alarms);
        self.work.set(Family::Meta, ALARMS, Some(seal(&record)));
    }

    /// Refuses what alarms stand against.
    pub(super) fn check_alarms(&self, operation: &Operation) -> Result<(), Refusal> {
        // The usual case costs one look.
        let Some(worst) = self.alarms.last() else { return Ok(()) };
        if worst.kind == EtcdAlarmKind::Corrupt && touches_data(operation) {
            return Err(Refusal::Corrupt);
        }
        let is_full = self.alarms.first().is_some_and(|first| first.kind == EtcdAlarmKind::NoSpace);
        if is_full && stores(operation) { Err(Refusal::NoSpace) } else { Ok(()) }
    }
}

/// Whether an operation is about keys or leases, and asked for by somebody.
fn touches_data(operation: &Operation) -> bool {
    match operation {
        Operation::Put(_)
        | Operation::Delete(_)
        | Operation::DeleteRange(_)
        | Operation::Increment(_)
        | Operation::Txn(_)
        | Operation::Etcd(_)
        | Operation::LeaseGrant(_)
        | Operation::LeaseRevoke(_)
        | Operation::LockAcquire(_)
        | Operation::Compact(_) => true,
        Operation::Renew(_)
        | Operation::LockKeepAlive(_)
        | Operation::LockRelease(_)
        | Operation::SessionOpen(_)
        | Operation::SessionKeepAlive(_)
        | Operation::SessionClose(_)
        | Operation::Expire(_)
        | Operation::Configure(_)
        | Operation::EtcdAuth(_)
        | Operation::EtcdAlarm(_)
        | Operation::Noop(()) => false,
    }
}

/// Whether an operation may store something.
fn stores(operation: &Operation) -> bool {
    match operation {
        Operation::Put(_)
        | Operation::Increment(_)
        | Operation::LeaseGrant(_)
        | Operation::LockAcquire(_) => true,
        Operation::Txn(txn) => txn_stores(txn),
        Operation::Etcd(txn) => txn.stores(),
        _ => false,
    }
}

fn txn_stores(txn: &Txn) -> bool {
    let step_stores = |step: &TxnStep| match &step.operation {
        Some(TxnOperation::Put(_) | TxnOperation::Increment(_)) => true,
        Some(TxnOperation::Txn(nested)) => txn_stores(nested),
        _ => false,
    };
    txn.success.iter().chain(&txn.failure).any(step_stores)
}
