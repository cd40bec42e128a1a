//! Histories of whole workloads, each changed in one place: whatever is changed, somebody objects.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use holdfast_env::sim::Random;
use holdfast_testkit::history::{
    Answer, Change, History, Item, Operation, Outcome, Record, Request, Told,
};

use crate::reference::Flaw;
use crate::workloads::{report, run};

/// Places each change is tried at.
const PLACES: usize = 8;

fn valid() -> &'static History {
    static VALID: OnceLock<History> = OnceLock::new();
    VALID.get_or_init(|| run(11, Flaw::None, 0))
}

/// Whether a key lives until somebody deletes it.
fn is_immortal(key: &str) -> bool {
    !key.contains("ttl/") && !key.contains("{lease")
}

/// The answer of an operation on an immortal key.
fn answer_of(operation: &mut Operation) -> Option<&mut Answer> {
    let key = operation.request.key()?;
    if !is_immortal(key) {
        return None;
    }
    match &mut operation.outcome {
        Outcome::Done(answer) => Some(answer),
        _ => None,
    }
}

/// Changes a record; false where it is not of the kind that is meant.
type Mutation = fn(&mut Record) -> bool;

fn on_answer(record: &mut Record, change: impl FnOnce(&mut Answer) -> bool) -> bool {
    match record {
        Record::Operation(operation) => answer_of(operation).is_some_and(change),
        _ => false,
    }
}

fn other_value(record: &mut Record) -> bool {
    on_answer(record, |answer| match &mut answer.told {
        Told::Read(Some(item)) | Told::Refused(Some(item)) => {
            item.value.push('5');
            true
        }
        _ => false,
    })
}

fn missing_value(record: &mut Record) -> bool {
    on_answer(record, |answer| match &mut answer.told {
        Told::Read(found @ Some(_)) if answer.point.revision > 0 => {
            *found = None;
            true
        }
        _ => false,
    })
}

fn found_value(record: &mut Record) -> bool {
    on_answer(record, |answer| match &mut answer.told {
        Told::Read(found @ None) => {
            let value = "77.77".to_owned();
            *found = Some(Item { value, revision: 2, ..Item::default() });
            true
        }
        _ => false,
    })
}

fn is_change(told: &Told) -> bool {
    matches!(told, Told::Written { .. } | Told::Number(_) | Told::Deleted(1..))
}

fn earlier_revision(record: &mut Record) -> bool {
    on_answer(record, |answer| {
        let is_change = is_change(&answer.told);
        answer.point.revision -= u64::from(is_change);
        is_change
    })
}

fn later_revision(record: &mut Record) -> bool {
    on_answer(record, |answer| {
        answer.point.revision += 1;
        is_change(&answer.told)
    })
}

fn doubled_increment(record: &mut Record) -> bool {
    on_answer(record, |answer| match &mut answer.told {
        Told::Number(sum) => {
            *sum += 1;
            true
        }
        _ => false,
    })
}

fn denied_write(record: &mut Record) -> bool {
    let Record::Operation(operation) = record else { return false };
    let is_written = answer_of(operation).is_some_and(|answer| is_change(&answer.told));
    if is_written {
        operation.outcome = Outcome::Failed("no".to_owned());
    }
    is_written
}

fn unexpected_success(record: &mut Record) -> bool {
    on_answer(record, |answer| {
        let is_refused = matches!(answer.told, Told::Refused(_)) && answer.point.revision > 0;
        if is_refused {
            answer.told = Told::Written { create: 0, version: 0 };
        }
        is_refused
    })
}

fn dropped_event(record: &mut Record) -> bool {
    match record {
        Record::Batch(batch) => batch.events.pop().is_some(),
        _ => false,
    }
}

fn repeated_event(record: &mut Record) -> bool {
    match record {
        Record::Batch(batch) => {
            let last = batch.events.last().cloned();
            batch.events.extend(last);
            !batch.events.is_empty()
        }
        _ => false,
    }
}

fn reordered_events(record: &mut Record) -> bool {
    match record {
        Record::Batch(batch) => {
            batch.events.reverse();
            let ends = (batch.events.first(), batch.events.last());
            matches!(ends, (Some(a), Some(b)) if a.revision() != b.revision())
        }
        _ => false,
    }
}

fn changed_event(record: &mut Record) -> bool {
    let Record::Batch(batch) = record else { return false };
    match batch.events.first_mut().map(|event| &mut event.change) {
        Some(Change::Put(item)) => {
            item.value.push('5');
            true
        }
        _ => false,
    }
}

fn wrong_previous(record: &mut Record) -> bool {
    let Record::Batch(batch) = record else { return false };
    let event = batch.events.iter_mut().find(|event| event.previous.is_some());
    event.map(|event| event.previous = None).is_some()
}

fn lower_token(record: &mut Record) -> bool {
    match record {
        Record::Operation(Operation { request: Request::Lock { .. }, outcome, .. }) => {
            let Outcome::Done(answer) = outcome else { return false };
            answer.told = Told::Locked(1);
            true
        }
        _ => false,
    }
}

fn admitted_token(record: &mut Record) -> bool {
    match record {
        Record::Access(access) if access.is_write => {
            access.accepted = !access.accepted;
            true
        }
        _ => false,
    }
}

fn differing_hash(record: &mut Record) -> bool {
    match record {
        Record::StateHash(hash) => {
            hash.hash += 1;
            true
        }
        _ => false,
    }
}

fn shorter_scan(record: &mut Record) -> bool {
    let Record::Operation(operation) = record else { return false };
    let Outcome::Done(answer) = &mut operation.outcome else { return false };
    match &mut answer.told {
        Told::Scanned { entries, .. } => {
            let known = entries.iter().position(|placed| is_immortal(&placed.key));
            known.map(|at| entries.remove(at)).is_some()
        }
        _ => false,
    }
}

#[test]
fn whatever_is_changed_in_a_valid_history_somebody_objects() {
    let mutations: BTreeMap<&str, Mutation> = BTreeMap::from([
        ("other value", other_value as Mutation),
        ("missing value", missing_value),
        ("found value", found_value),
        ("earlier revision", earlier_revision),
        ("later revision", later_revision),
        ("doubled increment", doubled_increment),
        ("denied write", denied_write),
        ("unexpected success", unexpected_success),
        ("dropped event", dropped_event),
        ("repeated event", repeated_event),
        ("reordered events", reordered_events),
        ("changed event", changed_event),
        ("wrong previous", wrong_previous),
        ("lower token", lower_token),
        ("admitted token", admitted_token),
        ("differing hash", differing_hash),
        ("shorter scan", shorter_scan),
    ]);
    assert!(report(valid()).is_clean(), "{}", report(valid()));
    let mut random = Random::new(4);
    for (name, mutate) in mutations {
        let count = valid().records.len() as u64;
        let mut tried = 0;
        for _ in 0..20_000 {
            let at = random.below(count) as usize;
            let mut record = valid().records[at].clone();
            if !mutate(&mut record) || record == valid().records[at] {
                continue;
            }
            let mut history = valid().clone();
            history.records[at] = record;
            let report = report(&history);
            assert!(!report.is_clean(), "{name} of {:?} passes", history.records[at]);
            tried += 1;
            if tried == PLACES {
                break;
            }
        }
        assert!(tried >= 2, "{name} was tried at {tried} places");
    }
}
