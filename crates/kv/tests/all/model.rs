//! Keys against the simplest model of them: a map, a revision and a clock.

use std::collections::BTreeMap;

use bytes::Bytes;
use holdfast_kv::command::{Condition, Delete, DeleteRange, Expire, Increment, Put};
use holdfast_kv::{At, Entry, Mutation, Operation, Outcome, Refusal, ScanRequest};
use holdfast_model::Revision;
use proptest::prelude::*;

use crate::stream::cases;
use crate::world::World;

#[derive(Default)]
struct Model {
    keys: BTreeMap<Bytes, Entry>,
    revision: u64,
    clock_ms: u64,
}

impl Model {
    fn visible(&self, key: &Bytes) -> Option<Entry> {
        self.keys.get(key).filter(|entry| !entry.is_expired(self.clock_ms)).cloned()
    }

    fn holds(&self, key: &Bytes, condition: Option<&Condition>) -> bool {
        let current = self.visible(key);
        match condition {
            None => true,
            Some(Condition::IfAbsent(())) => current.is_none(),
            Some(Condition::IfRevision(given)) => {
                current.map_or(0, |entry| entry.revision.0) == *given
            }
            Some(Condition::IfValue(given)) => current.is_some_and(|e| e.value == given),
        }
    }

    /// Removes a key that exists, seen or not, under its own revision.
    fn remove(&mut self, key: &Bytes) {
        if self.keys.remove(key).is_some() {
            self.revision += 1;
        }
    }

    fn store(&mut self, key: &Bytes, value: Bytes, expires_at_ms: u64) -> Entry {
        let old = self.visible(key);
        if old.is_none() {
            self.remove(key);
        }
        self.revision += 1;
        let revision = Revision(self.revision);
        let entry = Entry {
            key: key.clone(),
            value,
            revision,
            create_revision: old.as_ref().map_or(revision, |entry| entry.create_revision),
            version: old.map_or(0, |entry| entry.version) + 1,
            expires_at_ms,
            ..Entry::default()
        };
        self.keys.insert(key.clone(), entry.clone());
        entry
    }

    fn expiry(&self, ttl_ms: u64) -> u64 {
        if ttl_ms == 0 { 0 } else { self.clock_ms + ttl_ms }
    }

    fn run(&mut self, operation: &Operation) -> Outcome {
        match operation {
            Operation::Put(put) => {
                let current = self.visible(&put.key);
                if !self.holds(&put.key, put.condition.as_ref()) {
                    return Outcome::ConditionFailed { current };
                }
                let entry = self.store(&put.key, put.value.clone(), self.expiry(put.ttl_ms));
                written(entry, current, 0)
            }
            Operation::Increment(increment) => {
                let old = self.visible(&increment.key);
                let text = old.as_ref().map_or("0".into(), |entry| entry.value.clone());
                let Ok(base) = std::str::from_utf8(&text).expect("UTF-8").parse::<i64>() else {
                    return Outcome::Refused(Refusal::NotANumber);
                };
                let kept = old.map_or(0, |entry| entry.expires_at_ms);
                let number = base + increment.delta;
                let entry = self.store(&increment.key, number.to_string().into(), kept);
                written(entry, None, number)
            }
            Operation::Delete(delete) => {
                let previous = self.visible(&delete.key);
                if !self.holds(&delete.key, delete.condition.as_ref()) {
                    return Outcome::ConditionFailed { current: previous };
                }
                let count = u64::from(previous.is_some());
                if count > 0 {
                    self.remove(&delete.key);
                }
                let revision = Revision(self.revision);
                Outcome::Applied(Mutation { revision, count, previous, ..Mutation::default() })
            }
            Operation::DeleteRange(delete) => self.delete_range(delete),
            Operation::Expire(expire) => self.expire(expire),
            other => panic!("not modelled: {other:?}"),
        }
    }

    fn delete_range(&mut self, delete: &DeleteRange) -> Outcome {
        let inside = |key: &&Bytes| **key >= delete.start && **key < delete.end;
        let doomed: Vec<Bytes> = self.keys.keys().filter(inside).cloned().collect();
        let doomed: Vec<Bytes> =
            doomed.into_iter().filter(|key| self.visible(key).is_some()).collect();
        self.revision += u64::from(!doomed.is_empty());
        for key in &doomed {
            self.keys.remove(key);
        }
        let (revision, count) = (Revision(self.revision), doomed.len() as u64);
        Outcome::Applied(Mutation { revision, count, ..Mutation::default() })
    }

    fn expire(&mut self, expire: &Expire) -> Outcome {
        let due = |entry: &&Entry| entry.is_expired(self.clock_ms);
        let mut due: Vec<(u64, Bytes)> = (self.keys.values().filter(due))
            .map(|entry| (entry.expires_at_ms, entry.key.clone()))
            .collect();
        due.sort();
        let bound = expire.keys_max as usize;
        for (_, key) in due.iter().take(bound) {
            self.remove(key);
        }
        Outcome::Expired { keys: due.len().min(bound) as u64, more: due.len() > bound }
    }
}

fn written(entry: Entry, previous: Option<Entry>, number: i64) -> Outcome {
    Outcome::Applied(Mutation {
        revision: entry.revision,
        create_revision: entry.create_revision,
        version: entry.version,
        previous,
        count: 1,
        number,
        more: false,
    })
}

fn operation() -> impl Strategy<Value = Operation> {
    let key = || prop::sample::select(vec!["a", "b", "c", "d"]).prop_map(Bytes::from);
    let value = || prop::sample::select(vec!["1", "2", "x"]).prop_map(Bytes::from);
    let condition = || {
        prop_oneof![
            4 => Just(None),
            1 => Just(Some(Condition::IfAbsent(()))),
            1 => (0..25u64).prop_map(|revision| Some(Condition::IfRevision(revision))),
            1 => value().prop_map(|value| Some(Condition::IfValue(value))),
        ]
    };
    let ttl = prop_oneof![1 => Just(0), 1 => 1_000..4_000u64];
    prop_oneof![
        6 => (key(), value(), ttl, condition()).prop_map(|(key, value, ttl_ms, condition)| {
            Operation::Put(Put { key, value, ttl_ms, lease: 0, return_previous: true, condition })
        }),
        2 => (key(), condition()).prop_map(|(key, condition)| {
            Operation::Delete(Delete { key, return_previous: true, condition })
        }),
        2 => (key(), -2..3i64).prop_map(|(key, delta)| {
            Operation::Increment(Increment { key, delta, ttl_ms: 0 })
        }),
        1 => (key(), key()).prop_map(|(start, end)| {
            Operation::DeleteRange(DeleteRange { start, end, return_previous: false })
        }),
        2 => (1..4u32).prop_map(|keys_max| Operation::Expire(Expire { keys_max })),
    ]
}

proptest! {
    #![proptest_config(cases(128))]

    #[test]
    fn keys_behave_like_a_map_with_a_clock(
        steps in prop::collection::vec((0..1_500u64, operation()), 1..80),
    ) {
        let mut world = World::new();
        let mut model = Model { revision: 1, clock_ms: world.clock_ms, ..Model::default() };
        for (pause_ms, operation) in steps {
            world.clock_ms += pause_ms;
            model.clock_ms += pause_ms;
            let expected = model.run(&operation);
            prop_assert_eq!(world.one(operation), expected);
            let reader = world.reader();
            prop_assert_eq!(reader.point().revision, Revision(model.revision));
            let page = reader.scan(&ScanRequest::new("", "")).unwrap();
            let shown: Vec<Entry> =
                model.keys.keys().filter_map(|key| model.visible(key)).collect();
            prop_assert_eq!(&page.entries, &shown);
            for key in ["a", "b", "c", "d"].map(Bytes::from) {
                prop_assert_eq!(reader.get(&key, At::Current).unwrap(), model.visible(&key));
            }
            let due = model.keys.values().map(|entry| entry.expires_at_ms).filter(|ms| *ms > 0);
            prop_assert_eq!(reader.next_due_ms().unwrap(), due.min());
        }
    }
}
