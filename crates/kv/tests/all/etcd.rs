//! Transactions as etcd means them, against the plainest model: a map per revision.

use std::collections::BTreeMap;

use bytes::Bytes;
use holdfast_kv::command::*;
use holdfast_kv::{
    At, Entry, EtcdOutcome, EtcdResult, EventKind, Invalid, Limits, Outcome, Refusal, ScanRequest,
    validate,
};
use holdfast_model::{LeaseId, Revision};
use proptest::prelude::*;

use crate::stream::cases;
use crate::world::World;

/// The lease that exists; another one does not.
const LEASE: u64 = 7;
const UNKNOWN_LEASE: u64 = 8;
/// What the model's puts name.
const LEASES: [u64; 6] = [0, 0, 0, LEASE, LEASE, UNKNOWN_LEASE];

type Keys = BTreeMap<Bytes, Entry>;

/// Every state there was, by revision; the first one is of revision 1.
struct Model {
    states: Vec<Keys>,
    compacted: u64,
}

/// A transaction whose branches are chosen.
enum Planned<'t> {
    Range(&'t EtcdRange),
    Put(&'t EtcdPut),
    Delete(&'t EtcdDelete),
    Txn(bool, Vec<Planned<'t>>),
}

/// A transaction on its way: the state it makes, and what watchers will see.
struct Run {
    keys: Keys,
    revision: u64,
    events: Vec<(EventKind, Bytes)>,
}

impl Model {
    fn newest(&self) -> u64 {
        self.states.len() as u64
    }

    fn run(&mut self, txn: &EtcdTxn) -> (Outcome, Vec<(EventKind, Bytes)>) {
        let base = self.states.last().expect("a state");
        let (succeeded, plan) = plan(base, txn);
        if let Some(outcome) = self.refused(&plan) {
            return (outcome, Vec::new());
        }
        let revision = self.newest() + 1;
        let mut run = Run { keys: base.clone(), revision, events: Vec::new() };
        let results = plan.iter().map(|step| self.step(&mut run, step)).collect();
        let changed = !run.events.is_empty();
        if changed {
            self.states.push(run.keys);
        }
        let revision = Revision(self.newest());
        (Outcome::Etcd(EtcdOutcome { succeeded, revision, changed, results }), run.events)
    }

    /// What becomes of a plan that the state does not allow.
    fn refused(&self, plan: &[Planned<'_>]) -> Option<Outcome> {
        let newest = self.newest();
        let is_missing = |key| !self.states.last().expect("a state").contains_key(key);
        plan.iter().find_map(|step| match step {
            Planned::Range(range) if range.revision > newest as i64 => {
                let newest = Revision(newest);
                Some(Outcome::Refused(Refusal::FutureRevision { newest }))
            }
            Planned::Range(range) if (1..self.compacted as i64).contains(&range.revision) => {
                let oldest = Revision(self.compacted);
                Some(Outcome::Refused(Refusal::Compacted { oldest }))
            }
            Planned::Put(put) if put.lease == UNKNOWN_LEASE => {
                Some(Outcome::Refused(Refusal::LeaseNotFound))
            }
            Planned::Put(put) => ((put.ignore_value || put.ignore_lease) && is_missing(&put.key))
                .then_some(Outcome::ConditionFailed { current: None }),
            Planned::Txn(_, plan) => self.refused(plan),
            _ => None,
        })
    }

    fn step(&self, run: &mut Run, step: &Planned<'_>) -> EtcdResult {
        match step {
            Planned::Range(range) => {
                let at = range.revision;
                let keys = if at > 0 { &self.states[at as usize - 1] } else { &run.keys };
                let (entries, more, count) = read(keys, range);
                let revision = Revision(run.revision - u64::from(run.events.is_empty()));
                EtcdResult::Range { entries, more, count, revision }
            }
            Planned::Put(put) => {
                let old = run.keys.get(&put.key).cloned();
                let kept = old.clone().unwrap_or_default();
                let revision = Revision(run.revision);
                let entry = Entry {
                    key: put.key.clone(),
                    value: if put.ignore_value { kept.value } else { put.value.clone() },
                    revision,
                    create_revision: old.as_ref().map_or(revision, |old| old.create_revision),
                    version: kept.version + 1,
                    lease: if put.ignore_lease { kept.lease } else { LeaseId(put.lease) },
                    expires_at_ms: 0,
                };
                run.keys.insert(put.key.clone(), entry);
                run.events.push((EventKind::Put, put.key.clone()));
                EtcdResult::Put { previous: old.filter(|_| put.return_previous), revision }
            }
            Planned::Delete(delete) => {
                let inside = |key: &&Bytes| names(&delete.key, &delete.range_end, key);
                let doomed: Vec<Bytes> = run.keys.keys().filter(inside).cloned().collect();
                let mut previous = Vec::new();
                for key in &doomed {
                    previous.extend(run.keys.remove(key).filter(|_| delete.return_previous));
                    run.events.push((EventKind::Delete, key.clone()));
                }
                let revision = Revision(run.revision - u64::from(run.events.is_empty()));
                EtcdResult::DeleteRange { count: doomed.len() as u64, previous, revision }
            }
            Planned::Txn(succeeded, plan) => {
                let results = plan.iter().map(|step| self.step(run, step)).collect();
                EtcdResult::Txn { succeeded: *succeeded, results }
            }
        }
    }
}

fn plan<'t>(base: &Keys, txn: &'t EtcdTxn) -> (bool, Vec<Planned<'t>>) {
    let succeeded = txn.compares.iter().all(|compare| holds(base, compare));
    let steps = if succeeded { &txn.success } else { &txn.failure };
    let planned = |step: &'t EtcdStep| match step.operation.as_ref().expect("an operation") {
        EtcdOperation::Range(range) => Planned::Range(range),
        EtcdOperation::Put(put) => Planned::Put(put),
        EtcdOperation::DeleteRange(delete) => Planned::Delete(delete),
        EtcdOperation::Txn(txn) => {
            let (succeeded, plan) = plan(base, txn);
            Planned::Txn(succeeded, plan)
        }
    };
    (succeeded, steps.iter().map(planned).collect())
}

fn names(key: &Bytes, range_end: &Bytes, candidate: &Bytes) -> bool {
    match range_end.as_ref() {
        b"" => candidate == key,
        b"\0" => candidate >= key,
        end => candidate >= key && candidate.as_ref() < end,
    }
}

fn holds(base: &Keys, compare: &EtcdCompare) -> bool {
    let nothing = Entry::default();
    let named = base.iter().filter(|(key, _)| names(&compare.key, &compare.range_end, key));
    let mut found: Vec<&Entry> = named.map(|(_, entry)| entry).collect();
    if found.is_empty() {
        found.push(&nothing);
    }
    found.into_iter().all(|entry| {
        let signed = |figure: u64| figure as i64;
        let ordering = match compare.target.as_ref().expect("a target") {
            EtcdTarget::Version(given) => signed(entry.version).cmp(given),
            EtcdTarget::CreateRevision(given) => signed(entry.create_revision.0).cmp(given),
            EtcdTarget::ModRevision(given) => signed(entry.revision.0).cmp(given),
            EtcdTarget::Lease(given) => signed(entry.lease.0).cmp(given),
            EtcdTarget::Value(_) if entry.version == 0 => return false,
            EtcdTarget::Value(given) => entry.value.cmp(given),
        };
        match compare.comparison() {
            Comparison::Equal => ordering.is_eq(),
            Comparison::NotEqual => ordering.is_ne(),
            Comparison::Greater => ordering.is_gt(),
            Comparison::Less => ordering.is_lt(),
        }
    })
}

fn read(keys: &Keys, range: &EtcdRange) -> (Vec<Entry>, bool, u64) {
    let named = keys.iter().filter(|(key, _)| names(&range.key, &range.range_end, key));
    let mut found: Vec<Entry> = named.map(|(_, entry)| entry.clone()).collect();
    let count = found.len() as u64;
    if range.count_only {
        return (Vec::new(), false, count);
    }
    let limit = if range.limit > 0 { range.limit as usize } else { usize::MAX };
    let bounds = [
        (range.min_mod_revision, range.max_mod_revision),
        (range.min_create_revision, range.max_create_revision),
    ];
    let unsorted = range.order() == EtcdOrder::None;
    if unsorted && bounds == [(0, 0), (0, 0)] {
        found.truncate(limit.saturating_add(1));
    }
    found.retain(|entry| {
        let figures = [entry.revision.0 as i64, entry.create_revision.0 as i64];
        figures.iter().zip(bounds).all(|(figure, (min, max))| {
            (min == 0 || *figure >= min) && (max == 0 || *figure <= max)
        })
    });
    match range.sort() {
        EtcdSort::Key => {}
        EtcdSort::Version => sort(&mut found, range, |entry| entry.version),
        EtcdSort::Create => sort(&mut found, range, |entry| entry.create_revision),
        EtcdSort::Mod => sort(&mut found, range, |entry| entry.revision),
        EtcdSort::Value => sort(&mut found, range, |entry| entry.value.clone()),
    }
    if (range.sort(), range.order()) == (EtcdSort::Key, EtcdOrder::Descend) {
        found.reverse();
    }
    let more = found.len() > limit;
    found.truncate(limit);
    for entry in found.iter_mut().filter(|_| range.keys_only) {
        entry.value = Bytes::new();
        if range.sort() != EtcdSort::Value {
            entry.lease = LeaseId(0);
        }
    }
    (found, more, count)
}

fn sort<K: Ord>(found: &mut [Entry], range: &EtcdRange, figure: impl Fn(&Entry) -> K) {
    match range.order() {
        EtcdOrder::Descend => found.sort_by_key(|entry| std::cmp::Reverse(figure(entry))),
        EtcdOrder::None | EtcdOrder::Ascend => found.sort_by_key(figure),
    }
}

fn key() -> impl Strategy<Value = Bytes> {
    prop::sample::select(vec!["a", "b", "c", "d"]).prop_map(Bytes::from)
}

fn range_end() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        3 => Just(Bytes::new()),
        1 => Just(Bytes::from_static(b"\0")),
        2 => prop::sample::select(vec!["a", "c", "d", "e"]).prop_map(Bytes::from),
    ]
}

fn value() -> impl Strategy<Value = Bytes> {
    prop::sample::select(vec!["", "1", "2", "3"]).prop_map(Bytes::from)
}

fn compare() -> impl Strategy<Value = EtcdCompare> {
    let target = prop_oneof![
        (-1..4i64).prop_map(EtcdTarget::Version),
        (-1..12i64).prop_map(EtcdTarget::CreateRevision),
        (-1..12i64).prop_map(EtcdTarget::ModRevision),
        (-1..9i64).prop_map(EtcdTarget::Lease),
        value().prop_map(EtcdTarget::Value),
    ];
    (key(), range_end(), 0..4i32, target).prop_map(|(key, range_end, comparison, target)| {
        EtcdCompare { key, range_end, comparison, target: Some(target) }
    })
}

fn range() -> impl Strategy<Value = EtcdRange> {
    let bound = || prop_oneof![4 => Just(0), 1 => 1..15i64];
    let revision = prop_oneof![5 => Just(0), 1 => 1..15i64];
    let flags = (prop::bool::weighted(0.2), prop::bool::weighted(0.1));
    let sorted = (0..3i32, 0..5i32, -1..4i64, revision);
    (key(), range_end(), sorted, flags, [bound(), bound(), bound(), bound()]).prop_map(
        |(key, range_end, (order, sort, limit, revision), (keys_only, count_only), bounds)| {
            let [min_mod_revision, max_mod_revision, min_create_revision, max_create_revision] =
                bounds;
            EtcdRange {
                key,
                range_end,
                limit,
                revision,
                order,
                sort,
                keys_only,
                count_only,
                min_mod_revision,
                max_mod_revision,
                min_create_revision,
                max_create_revision,
                part_bytes: 0,
            }
        },
    )
}

fn put(leases: &'static [u64]) -> impl Strategy<Value = EtcdPut> {
    let lease = prop::sample::select(leases);
    let flags = (any::<bool>(), prop::bool::weighted(0.1), prop::bool::weighted(0.1));
    (key(), value(), lease, flags).prop_map(
        |(key, value, lease, (return_previous, ignore_value, ignore_lease))| EtcdPut {
            key,
            value: if ignore_value { Bytes::new() } else { value },
            lease: if ignore_lease { 0 } else { lease },
            return_previous,
            ignore_value,
            ignore_lease,
        },
    )
}

fn step(leases: &'static [u64]) -> impl Strategy<Value = EtcdStep> {
    let delete = (key(), range_end(), any::<bool>()).prop_map(|(key, range_end, previous)| {
        EtcdDelete { key, range_end, return_previous: previous }
    });
    let plain = prop_oneof![
        3 => range().prop_map(EtcdOperation::Range),
        4 => put(leases).prop_map(EtcdOperation::Put),
        1 => delete.prop_map(EtcdOperation::DeleteRange),
    ];
    plain
        .prop_map(EtcdStep::from)
        .prop_recursive(2, 8, 3, |step| txn_of(step).prop_map(|txn| EtcdOperation::Txn(txn).into()))
}

fn txn_of(step: impl Strategy<Value = EtcdStep> + Clone) -> impl Strategy<Value = EtcdTxn> {
    let branch = || prop::collection::vec(step.clone(), 0..4);
    (prop::collection::vec(compare(), 0..3), branch(), branch())
        .prop_map(|(compares, success, failure)| EtcdTxn { compares, success, failure })
}

/// Transactions over a few keys whose puts name one of `leases`, which may be 0 for none.
pub fn txn(leases: &'static [u64]) -> impl Strategy<Value = EtcdTxn> {
    txn_of(step(leases).boxed())
}

/// A transaction with its reading steps alone.
fn reads_of(txn: &EtcdTxn) -> EtcdTxn {
    let reads = |step: &EtcdStep| match step.operation.as_ref()? {
        EtcdOperation::Range(_) => Some(step.clone()),
        EtcdOperation::Txn(txn) => Some(EtcdOperation::Txn(reads_of(txn)).into()),
        EtcdOperation::Put(_) | EtcdOperation::DeleteRange(_) => None,
    };
    EtcdTxn {
        compares: txn.compares.clone(),
        success: txn.success.iter().filter_map(reads).collect(),
        failure: txn.failure.iter().filter_map(reads).collect(),
    }
}

fn world() -> World {
    let mut world = World::new();
    world.one(LeaseGrant { id: LEASE, ttl_ms: 1_000_000 });
    world
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn an_etcd_transaction_behaves_like_a_map_per_revision(
        txns in prop::collection::vec((txn(&LEASES), prop::option::weighted(0.1, 1..12u64)), 1..24),
    ) {
        let mut world = world();
        let mut model = Model { states: vec![Keys::new()], compacted: 0 };
        for (txn, compact) in txns {
            let command = Command::single(txn.clone());
            match validate(&command, &Limits::default()) {
                Ok(()) => {}
                Err(Invalid::DuplicateKey) => continue,
                Err(other) => panic!("{other}"),
            }
            let (expected, events) = model.run(&txn);
            let envelope = world.envelope(vec![command]);
            let result = world.apply(vec![envelope]);
            prop_assert_eq!(&result.outcomes[0][0][0], &expected);
            let seen: Vec<(EventKind, Bytes)> = (result.events.iter())
                .flat_map(|revision| &revision.events)
                .map(|event| (event.kind, event.entry.key.clone()))
                .collect();
            prop_assert_eq!(seen, events);
            prop_assert!(result.events.len() <= 1, "a transaction is one revision");
            let page = world.reader().scan(&ScanRequest::new("", "")).unwrap();
            let keys: Vec<Entry> = model.states.last().unwrap().values().cloned().collect();
            prop_assert_eq!(page.entries, keys);
            let reads = reads_of(&txn);
            let expected = match model.run(&reads).0 {
                Outcome::Etcd(outcome) => Ok(outcome),
                Outcome::Refused(refusal) => Err(refusal),
                other => panic!("a read gave {other:?}"),
            };
            prop_assert_eq!(world.reader().etcd(&reads, At::Current).unwrap(), expected);
            let newest = model.newest();
            if let Some(revision) = compact.filter(|at| *at > model.compacted && *at <= newest) {
                world.one(Compact { revision });
                model.compacted = revision;
            }
        }
        let held = (model.states.last().unwrap().values())
            .filter(|entry| entry.lease == LeaseId(LEASE))
            .map(|entry| entry.key.clone())
            .collect::<Vec<_>>();
        let attached = world.reader().lease_keys(LeaseId(LEASE), &Bytes::new(), 100).unwrap();
        prop_assert_eq!(attached, held);
    }
}

fn put_of(key: &'static str, value: &'static str) -> EtcdStep {
    let (key, value) = (key.into(), value.into());
    EtcdOperation::Put(EtcdPut { key, value, ..EtcdPut::default() }).into()
}

fn delete_of(key: &'static str, range_end: &'static str) -> EtcdStep {
    let (key, range_end) = (key.into(), range_end.into());
    EtcdOperation::DeleteRange(EtcdDelete { key, range_end, return_previous: false }).into()
}

fn either(success: Vec<EtcdStep>, failure: Vec<EtcdStep>) -> EtcdStep {
    EtcdOperation::Txn(EtcdTxn { compares: Vec::new(), success, failure }).into()
}

fn valid(steps: Vec<EtcdStep>) -> Result<(), Invalid> {
    let txn = EtcdTxn { success: steps, ..EtcdTxn::default() };
    validate(&Command::single(txn), &Limits::default())
}

#[test]
fn a_key_is_stored_once_and_never_removed_beside_it() {
    let duplicate = Err(Invalid::DuplicateKey);
    for (steps, expected) in [
        (vec![put_of("a", "1"), put_of("b", "1")], Ok(())),
        (vec![put_of("a", "1"), put_of("a", "2")], duplicate),
        (vec![put_of("a", "1"), delete_of("a", "")], duplicate),
        (vec![delete_of("a", "c"), put_of("b", "1")], duplicate),
        (vec![delete_of("a", "c"), put_of("c", "1")], Ok(())),
        (vec![delete_of("c", "a"), put_of("b", "1")], Ok(())),
        (vec![delete_of("b", "\0"), put_of("a", "1")], Ok(())),
        (vec![delete_of("b", "\0"), put_of("z", "1")], duplicate),
        (vec![delete_of("a", "c"), delete_of("b", "")], Ok(())),
        (vec![delete_of("a", "c"), delete_of("e", "g"), delete_of("b", "f")], Ok(())),
        (vec![delete_of("a", "c"), delete_of("e", "g"), put_of("d", "1")], Ok(())),
        (
            vec![delete_of("a", "b"), delete_of("e", "g"), delete_of("b", "f"), put_of("d", "1")],
            duplicate,
        ),
        (vec![either(vec![put_of("a", "1")], vec![put_of("a", "2")])], Ok(())),
        (vec![either(vec![put_of("a", "1")], vec![delete_of("a", "")])], Ok(())),
        (vec![either(vec![put_of("a", "1")], vec![]), put_of("a", "2")], duplicate),
        (
            vec![put_of("a", "1"), either(vec![], vec![delete_of("", "\0")])],
            Err(Invalid::TooSmall { what: "bytes of a key", limit: 1, given: 0 }),
        ),
        (vec![put_of("a", "1"), either(vec![], vec![delete_of("\0", "\0")])], duplicate),
    ] {
        assert_eq!(valid(steps.clone()), expected, "{steps:?}");
    }
}

#[test]
fn nested_transactions_share_the_budget_of_their_parent() {
    let puts = |count: usize| {
        (0..count)
            .map(|at| {
                let key = Bytes::from(format!("{at}"));
                EtcdOperation::Put(EtcdPut { key, ..EtcdPut::default() }).into()
            })
            .collect::<Vec<EtcdStep>>()
    };
    assert_eq!(valid(puts(128)), Ok(()));
    let what = "operations of a transaction";
    assert_eq!(valid(puts(129)), Err(Invalid::TooLarge { what, limit: 128, given: 129 }));
    assert_eq!(valid(vec![either(puts(127), puts(127))]), Ok(()));
    let over = Err(Invalid::TooLarge { what, limit: 127, given: 128 });
    assert_eq!(valid(vec![either(Vec::new(), puts(128))]), over);
    let deep = (0..33).fold(put_of("a", "1"), |step, _| either(vec![step], Vec::new()));
    assert!(matches!(
        valid(vec![deep]),
        Err(Invalid::TooLarge { what: "nested transactions", .. })
    ));
}

#[test]
fn what_a_put_keeps_it_does_not_bring() {
    let of = |put: EtcdPut| valid(vec![EtcdOperation::Put(put).into()]);
    let put = EtcdPut { key: "a".into(), ..EtcdPut::default() };
    assert_eq!(of(EtcdPut { ignore_value: true, ignore_lease: true, ..put.clone() }), Ok(()));
    let value = EtcdPut { ignore_value: true, value: "1".into(), ..put.clone() };
    assert!(matches!(of(value), Err(Invalid::Rule(_))));
    let lease = EtcdPut { ignore_lease: true, lease: LEASE, ..put };
    assert!(matches!(of(lease), Err(Invalid::Rule(_))));
}

#[test]
fn nested_compares_see_the_state_before_the_first_step() {
    let mut world = world();
    let compares = vec![EtcdCompare {
        key: "a".into(),
        comparison: Comparison::Equal.into(),
        target: Some(EtcdTarget::Version(0)),
        ..EtcdCompare::default()
    }];
    let nested = EtcdTxn { compares, success: vec![put_of("b", "1")], failure: Vec::new() };
    let success = vec![put_of("a", "1"), EtcdOperation::Txn(nested).into()];
    let Outcome::Etcd(outcome) = world.one(EtcdTxn { success, ..EtcdTxn::default() }) else {
        panic!("not carried out");
    };
    let Some(EtcdResult::Txn { succeeded, .. }) = outcome.results.last() else {
        panic!("no nested result");
    };
    assert!(succeeded);
    assert_eq!((outcome.revision, outcome.changed), (Revision(2), true));
}

#[test]
fn a_hidden_key_is_removed_before_it_is_stored_again() {
    let mut world = world();
    world.one(Put { key: "a".into(), ttl_ms: 1_000, ..Put::default() });
    world.clock_ms += 2_000;
    let stored = world.one(EtcdTxn { success: vec![put_of("a", "1")], ..EtcdTxn::default() });
    let Outcome::Etcd(outcome) = stored else { panic!("not carried out") };
    assert_eq!(outcome.revision, Revision(4), "one revision removed it, one stored it");
    let page = world.reader().scan(&ScanRequest::new("", "")).unwrap();
    assert_eq!((page.entries[0].create_revision, page.entries[0].version), (Revision(4), 1));
}

#[test]
fn an_etcd_transaction_stands_outside_sessions() {
    use holdfast_model::ClientId;
    let mut world = world();
    let client = ClientId(5);
    world.one(SessionOpen { client: client.to_bytes().to_vec().into() });
    let txn = EtcdTxn { success: vec![put_of("a", "1")], ..EtcdTxn::default() };
    let outcome = world.command(Command::single(txn).in_session(client, 0, 1)).remove(0);
    assert!(matches!(outcome, Outcome::Refused(Refusal::Malformed { .. })), "{outcome:?}");
    assert_eq!(world.reader().point().revision, Revision(1));
}

#[test]
fn the_parts_of_a_range_join_up_at_one_revision() {
    let mut world = world();
    let keys: Vec<Bytes> = (0..40).map(|at| Bytes::from(format!("{at:02}"))).collect();
    for (at, key) in keys.iter().enumerate() {
        // Values of very different sizes, one larger than any part.
        let value = Bytes::from(vec![b'v'; if at == 17 { 9_000 } else { at * 7 }]);
        world.one(Put { key: key.clone(), value, ..Put::default() });
    }
    let revision = 41;
    world.one(Delete { key: keys[30].clone(), ..Delete::default() });
    let (mut found, mut start, mut parts) = (Vec::new(), Bytes::from_static(b"\0"), 0);
    loop {
        let range_end = Bytes::from_static(b"\0");
        let range =
            EtcdRange { key: start, range_end, revision, part_bytes: 700, ..EtcdRange::default() };
        let success = vec![EtcdOperation::Range(range).into()];
        let txn = EtcdTxn { success, ..EtcdTxn::default() };
        let outcome = world.reader().etcd(&txn, At::Current).unwrap().unwrap();
        let EtcdResult::Range { entries, more, count, .. } = &outcome.results[0] else {
            panic!("no range");
        };
        assert_eq!(*count, 0, "parts are not counted");
        let weight: usize = entries.iter().map(Entry::weight).sum();
        let last = entries.last().expect("a part is never empty");
        assert!(weight - last.weight() < 700, "it ended too late");
        found.extend(entries.iter().map(|entry| entry.key.clone()));
        parts += 1;
        if !more {
            break;
        }
        start = Bytes::from([last.key.as_ref(), &[0]].concat());
    }
    assert_eq!(found, keys);
    assert!(parts > 3, "{parts} parts");
}

#[test]
fn the_first_of_many_keys_are_found_whatever_all_of_them_weigh() {
    let mut world = world();
    let key = |at: usize| Bytes::from(format!("{:03}", at * 37 % 300));
    for at in 0..300 {
        let value = Bytes::from(vec![(at % 7) as u8; 100_000]);
        world.one(Put { key: key(at), value, ..Put::default() });
    }
    let found = |at| world.reader().get(&key(at), At::Current).unwrap();
    let mut all: Vec<Entry> = (0..300).filter_map(found).collect();
    all.sort_by(|a, b| a.key.cmp(&b.key));
    let weight: usize = all.iter().map(Entry::weight).sum();
    assert!(weight > holdfast_model::limits::REQUEST_BYTES_MAX, "{weight}");
    for (sort, order) in [
        (EtcdSort::Create, EtcdOrder::Descend),
        (EtcdSort::Create, EtcdOrder::Ascend),
        (EtcdSort::Value, EtcdOrder::Ascend),
        (EtcdSort::Version, EtcdOrder::Descend),
        (EtcdSort::Key, EtcdOrder::Descend),
    ] {
        let range = EtcdRange {
            key: "\0".into(),
            range_end: "\0".into(),
            limit: 5,
            sort: sort.into(),
            order: order.into(),
            ..EtcdRange::default()
        };
        let success = vec![EtcdOperation::Range(range).into()];
        let txn = EtcdTxn { success, ..EtcdTxn::default() };
        let outcome = world.reader().etcd(&txn, At::Current).unwrap().unwrap();
        let EtcdResult::Range { entries, more, count, .. } = &outcome.results[0] else {
            panic!("no range");
        };
        let mut expected = all.clone();
        match sort {
            EtcdSort::Key => {}
            EtcdSort::Create => expected.sort_by_key(|entry| entry.create_revision),
            EtcdSort::Value => expected.sort_by(|a, b| a.value.cmp(&b.value)),
            EtcdSort::Version | EtcdSort::Mod => {}
        }
        if order == EtcdOrder::Descend && sort != EtcdSort::Version {
            expected.reverse();
        }
        expected.truncate(5);
        assert_eq!(*entries, expected, "{sort:?} {order:?}");
        assert_eq!((*more, *count), (true, 300));
    }
}

#[test]
fn a_part_of_a_range_is_plain() {
    let of = |range: EtcdRange| {
        let part = EtcdRange { key: "a".into(), part_bytes: 1, ..range };
        valid(vec![EtcdOperation::Range(part).into()])
    };
    assert_eq!(of(EtcdRange { limit: 3, keys_only: true, ..EtcdRange::default() }), Ok(()));
    for range in [
        EtcdRange { order: EtcdOrder::Descend.into(), ..EtcdRange::default() },
        EtcdRange { min_mod_revision: 3, ..EtcdRange::default() },
        EtcdRange { count_only: true, ..EtcdRange::default() },
    ] {
        assert!(matches!(of(range), Err(Invalid::Rule(_))));
    }
}

#[test]
fn a_reader_refuses_what_writes() {
    let world = world();
    let keeps = EtcdPut { key: "a".into(), ignore_value: true, ..EtcdPut::default() };
    let held = EtcdOperation::Put(keeps).into();
    for step in [put_of("a", "1"), held, either(vec![put_of("a", "1")], Vec::new())] {
        let txn = EtcdTxn { success: vec![step], ..EtcdTxn::default() };
        let answer = world.reader().etcd(&txn, At::Current).unwrap();
        assert!(matches!(answer, Err(Refusal::Malformed { .. })), "{answer:?}");
    }
}

#[test]
fn a_transaction_tells_whether_it_stores() {
    let of = |success| EtcdTxn { success, ..EtcdTxn::default() }.stores();
    assert!(!of(vec![delete_of("a", "b"), either(Vec::new(), vec![delete_of("a", "")])]));
    assert!(of(vec![delete_of("a", "b"), either(Vec::new(), vec![put_of("a", "1")])]));
}
