//! Every invariant accepts a history that keeps it and refuses those that break it.

use holdfast_testkit::check::{
    BankTotal, Checker, Evidence, ExactlyOnce, Finding, Lifetimes, LockFencing, Punctuality, Quota,
    ReplicaHashes, Revisions, Sets, Staleness, judge,
};
use holdfast_testkit::history::{
    Access, Bank, Fault, History, Item, Level, Outcome, Placed, Point, Record, Request, StateHash,
    Step, StepTold, Told, When,
};

use crate::examples::{Maker, item};

const WRITTEN: Told = Told::Written { create: 0, version: 0 };

fn violates(verdict: &Result<usize, Finding>) -> bool {
    matches!(verdict, Err(Finding::Violation(_)))
}

fn unknown() -> Outcome {
    Outcome::Unknown("?".to_owned())
}

fn add(maker: Maker, times: (u64, u64), revision: u64, sum: i64) -> Maker {
    maker.told(times, Request::increment("c", 1), revision, Told::Number(sum))
}

fn count(maker: Maker, times: (u64, u64), number: &str) -> Maker {
    let told = Told::Read(Some(item(number, 9)));
    maker.told(times, Request::get("c"), 9, told)
}

#[test]
fn a_counter_is_the_sum_of_its_increments() {
    let base = || add(add(Maker::default(), (0, 1), 2, 1), (2, 3), 3, 2);
    assert_eq!(count(base(), (4, 5), "2").verdict(&ExactlyOnce), Ok(3));
    assert!(violates(&count(base(), (4, 5), "3").verdict(&ExactlyOnce)), "one ran twice");
    assert!(violates(&count(base(), (4, 5), "1").verdict(&ExactlyOnce)), "one was lost");
    assert!(violates(&count(base(), (4, 5), "x").verdict(&ExactlyOnce)));
    let same = add(add(Maker::default(), (0, 9), 2, 1), (0, 9), 3, 1);
    assert!(violates(&same.verdict(&ExactlyOnce)), "two increments with one sum");
    let open = || base().op((3, 4), Request::increment("c", 1), unknown());
    for sum in ["2", "3"] {
        assert!(count(open(), (5, 6), sum).verdict(&ExactlyOnce).is_ok());
    }
    assert!(violates(&count(open(), (5, 6), "4").verdict(&ExactlyOnce)));
}

fn grow(maker: Maker, times: (u64, u64), old: &str, new: &str, told: Told) -> Maker {
    let when = if old.is_empty() { When::Absent } else { When::Value(old.to_owned()) };
    let (key, value) = ("set/1".to_owned(), new.to_owned());
    maker.told(
        times,
        Request::Put { key, value, when: Some(when), ttl_ms: None, lease: None },
        0,
        told,
    )
}

fn look(maker: Maker, times: (u64, u64), list: &str) -> Maker {
    maker.told(times, Request::get("set/1"), 0, Told::Read(Some(item(list, 1))))
}

#[test]
fn a_set_holds_what_was_added_once_and_in_one_order() {
    let base = || {
        let first = grow(Maker::default(), (0, 1), "", "1", WRITTEN);
        grow(first, (2, 3), "1", "1 2", WRITTEN)
    };
    assert!(look(base(), (4, 5), "1 2").verdict(&Sets).is_ok());
    assert!(violates(&look(base(), (4, 5), "1").verdict(&Sets)), "stale");
    assert!(violates(&look(base(), (4, 5), "2 1").verdict(&Sets)), "another order");
    assert!(violates(&look(base(), (4, 5), "1 2 2").verdict(&Sets)), "twice");
    assert!(violates(&look(base(), (4, 5), "1 2 9").verdict(&Sets)), "invented");
    assert!(violates(&look(base(), (4, 5), "1 3").verdict(&Sets)), "lost");
    let refused = grow(base(), (4, 5), "1", "1 3", Told::Refused(Some(item("1 2", 3))));
    assert!(look(refused.clone(), (6, 7), "1 2").verdict(&Sets).is_ok());
    assert!(violates(&look(refused, (6, 7), "1 2 3").verdict(&Sets)), "refused");
}

fn bank() -> Maker {
    let bank = Bank { prefix: "b/".to_owned(), accounts: 2, total: 10 };
    Maker { records: vec![Record::Bank(bank)] }
}

fn seen(balances: &[Option<&str>]) -> Maker {
    let keys = ["b/0", "b/1"];
    let then = keys.map(|key| Step::Get(key.to_owned())).to_vec();
    let results = balances.iter().map(|b| StepTold::Read(b.map(|b| item(b, 2)))).collect();
    let request = Request::Txn { compares: Vec::new(), then, otherwise: Vec::new() };
    bank().told((0, 1), request, 2, Told::Txn { succeeded: true, changed: false, results })
}

fn scanned(balances: &[&str]) -> Maker {
    let entries = (0..).zip(balances).map(|(number, balance)| Placed {
        range: 1,
        key: format!("b/{number}"),
        item: item(balance, 2),
    });
    let points = vec![Point { range: 1, revision: 2, clock_ms: 0 }];
    let request = Request::Scan { prefix: "b/".to_owned(), level: Level::Linearizable };
    bank().told((0, 1), request, 0, Told::Scanned { points, entries: entries.collect() })
}

#[test]
fn every_view_of_a_bank_has_its_total() {
    assert_eq!(seen(&[Some("3"), Some("7")]).verdict(&BankTotal), Ok(1));
    assert_eq!(seen(&[None, None]).verdict(&BankTotal), Ok(1));
    assert_eq!(scanned(&["3", "7"]).verdict(&BankTotal), Ok(1));
    assert!(violates(&seen(&[Some("3"), Some("8")]).verdict(&BankTotal)));
    assert!(violates(&seen(&[Some("10"), None]).verdict(&BankTotal)));
    assert!(violates(&scanned(&["3", "6"]).verdict(&BankTotal)));
    assert!(violates(&scanned(&["10"]).verdict(&BankTotal)));
}

fn locked(maker: Maker, times: (u64, u64), token: u64) -> Maker {
    let request = Request::Lock { name: "l".to_owned(), ttl_ms: 1_000 };
    maker.told(times, request, token, Told::Locked(token))
}

fn access(mut maker: Maker, process: u32, token: u64, count: Option<u64>, accepted: bool) -> Maker {
    maker.records.push(Record::Access(Access {
        lock: "l".to_owned(),
        at: 1_000_000_000,
        process,
        token,
        accepted,
        count: count.unwrap_or(0),
        is_write: count.is_some(),
    }));
    maker
}

#[test]
fn fencing_tokens_grow_and_guard_the_resource() {
    let grants = || locked(locked(Maker::default(), (0, 1), 2), (2, 3), 5);
    let used = access(access(grants(), 0, 2, None, true), 0, 2, Some(1), true);
    assert_eq!(used.verdict(&LockFencing), Ok(4));
    let old = access(access(grants(), 1, 5, None, true), 0, 2, Some(1), false);
    assert!(old.verdict(&LockFencing).is_ok());
    let shrunk = locked(locked(Maker::default(), (0, 1), 5), (2, 3), 4);
    assert!(violates(&shrunk.verdict(&LockFencing)));
    let same = locked(locked(Maker::default(), (0, 9), 5), (0, 9), 5);
    assert!(violates(&same.verdict(&LockFencing)));
    let through = access(access(grants(), 1, 5, None, true), 0, 2, Some(1), true);
    assert!(violates(&through.verdict(&LockFencing)), "an old token was let through");
    let foreign = access(grants(), 7, 5, None, true);
    assert!(violates(&foreign.verdict(&LockFencing)), "a token nobody granted");
    let lost = access(access(grants(), 0, 2, Some(1), true), 1, 5, Some(1), true);
    assert!(violates(&lost.verdict(&LockFencing)), "an update was overwritten");
}

fn mortal(ttl_ms: Option<u64>, lease: Option<u64>) -> Request {
    let (key, value) = ("k".to_owned(), "a".to_owned());
    Request::Put { key, value, when: None, ttl_ms, lease }
}

#[test]
fn a_ttl_ends_neither_early_nor_late() {
    let exact = Lifetimes(Punctuality { drift_permille: 0, late_ms: 100 });
    let base = || Maker::default().told((0, 10), mortal(Some(1_000), None), 2, WRITTEN);
    let there = |times| base().get(times, Some(("a", 2)), 2);
    let gone = |times| base().get(times, None, 2);
    assert_eq!(there((900, 901)).verdict(&exact), Ok(1));
    assert_eq!(gone((1_000, 1_001)).verdict(&exact), Ok(1));
    assert!(violates(&gone((900, 999)).verdict(&exact)), "early");
    assert!(violates(&there((1_111, 1_112)).verdict(&exact)), "late");
    let drifting = Lifetimes(Punctuality { drift_permille: 100, late_ms: 100 });
    assert!(gone((900, 901)).verdict(&drifting).is_ok());
    assert!(violates(&gone((800, 899)).verdict(&drifting)));
    assert!(there((1_150, 1_151)).verdict(&drifting).is_ok());
    let replaced = base().put((20, 30), "b", 3).get((40, 50), None, 3);
    assert_eq!(replaced.verdict(&exact), Ok(0), "not the TTL's doing");
}

#[test]
fn a_lease_ends_neither_early_nor_late_and_each_renewal_counts() {
    let exact = Lifetimes(Punctuality { drift_permille: 0, late_ms: 100 });
    let granted = Told::Granted { lease: 5, ttl_ms: 1_000 };
    let base = || {
        Maker::default()
            .told((0, 1), Request::Grant { key: "k".to_owned(), ttl_ms: 1_000 }, 0, granted.clone())
            .told((2, 3), mortal(None, Some(5)), 2, WRITTEN)
            .told((500, 510), Request::Renew { lease: 5 }, 0, Told::Renewed(1_000))
    };
    assert!(base().get((1_400, 1_401), Some(("a", 2)), 2).verdict(&exact).is_ok());
    assert!(violates(&base().get((1_400, 1_401), None, 2).verdict(&exact)), "early");
    assert!(violates(&base().get((1_611, 1_612), Some(("a", 2)), 2).verdict(&exact)), "late");
    let revoke = Request::Revoke { lease: 5 };
    let revoked = base().told((600, 601), revoke, 0, Told::Revoked(Some(1)));
    assert!(revoked.get((700, 701), None, 3).verdict(&exact).is_ok());
    let open = base().op((1_450, 1_460), Request::Renew { lease: 5 }, Outcome::Failed("?".into()));
    assert!(open.get((1_700, 1_701), Some(("a", 2)), 2).verdict(&exact).is_ok());
}

#[test]
fn follower_reads_are_as_young_as_they_say() {
    let base = || Maker::default().put((0, 10), "a", 2).put((20, 30), "b", 3);
    assert_eq!(base().old_get((40, 41), Some(("a", 2)), 2, 15).verdict(&Staleness), Ok(1));
    assert!(violates(&base().old_get((40, 41), Some(("a", 2)), 2, 5).verdict(&Staleness)));
    let level = Level::Follower { age_max_ms: Some(10) };
    let mut above = base().old_get((40, 41), Some(("b", 3)), 3, 11);
    if let Some(Record::Operation(operation)) = above.records.last_mut() {
        operation.request = Request::Get { key: "k".to_owned(), level };
    }
    assert!(violates(&above.verdict(&Staleness)), "a bound above the one asked for");
}

#[test]
fn revisions_that_nobody_made_are_found_unless_somebody_may_have() {
    let gap = || Maker::default().put((0, 1), "a", 2).put((2, 3), "b", 5);
    assert!(violates(&gap().verdict(&Revisions)));
    let explained = || gap().unknown((0, 1), "c");
    assert!(violates(&explained().verdict(&Revisions)), "one cannot explain two");
    assert!(explained().op((0, 1), Request::delete("k"), unknown()).verdict(&Revisions).is_ok());
    let shared = History { is_exclusive: false, ..gap().history() };
    assert_eq!(Revisions.check(&shared), Ok(0), "others write there too");
}

#[test]
fn replicas_at_one_index_hold_the_same() {
    let hash =
        |replica, index, hash| Record::StateHash(StateHash { range: 1, replica, index, hash });
    let same = History::of([hash(1, 5, 9), hash(2, 5, 9), hash(3, 6, 7)]);
    assert_eq!(ReplicaHashes.check(&same), Ok(1));
    let differing = History::of([hash(1, 5, 9), hash(2, 5, 8)]);
    assert!(violates(&ReplicaHashes.check(&differing)));
}

#[test]
fn a_run_without_traffic_or_without_its_fault_is_no_evidence() {
    let quota =
        Quota { answered_min: 2, answered_per_fault_min: 1, faults_min: 1, ..Quota::default() };
    let fault = |installed| Fault { name: "cut".to_owned(), from: 0, to: 5_000_000, installed };
    let run = |fault: Option<Fault>| {
        let mut maker = Maker::default().put((0, 1), "a", 2).put((20, 30), "b", 3);
        maker.records.extend(fault.map(Record::Fault));
        maker.verdict(&Evidence(quota))
    };
    let is_undecided = |verdict| matches!(verdict, Err(Finding::Undecided(_)));
    assert_eq!(run(Some(fault(true))), Ok(2));
    assert!(is_undecided(run(Some(fault(false)))), "the fault was never there");
    assert!(is_undecided(run(None)), "there was no fault");
    let late = Fault { from: 100_000_000, to: 200_000_000, ..fault(true) };
    assert!(is_undecided(run(Some(late))), "nobody asked anything meanwhile");
    let failed = Maker::default().failed((0, 1), "a").failed((2, 3), "b");
    assert!(is_undecided(failed.verdict(&Evidence(quota))));
    let mut double = Maker::default().put((0, 10), "a", 2).put((5, 30), "b", 3);
    for record in &mut double.records {
        if let Record::Operation(operation) = record {
            operation.process = 1;
        }
    }
    let all = Quota { answered_min: 1, ..Quota::default() };
    assert!(is_undecided(double.verdict(&Evidence(all))), "a process asked two things at once");
}

#[test]
fn a_report_fails_where_a_checker_had_too_little_to_judge() {
    let history = Maker::default().put((0, 1), "a", 2).history();
    let checkers: Vec<Box<dyn Checker>> = vec![Box::new(BankTotal), Box::new(ReplicaHashes)];
    let report = judge(&history, &checkers);
    assert!(report.is_clean());
    let demanding = report.demand("bank", 1);
    assert!(!demanding.is_clean());
    assert_eq!(demanding.failed(), ["bank"]);
    assert!(demanding.to_string().contains("no evidence"), "{demanding}");
}

#[test]
fn an_item_of_a_key_that_ends_by_itself_is_not_missed_by_the_revisions() {
    let history = Maker::default()
        .told((0, 1), mortal(Some(1_000), None), 2, WRITTEN)
        .told((5_000, 5_001), Request::put("k", "b"), 4, WRITTEN)
        .get((5_002, 5_003), Some(("b", 4)), 4);
    assert!(history.verdict(&Revisions).is_ok(), "the end of the first life took revision 3");
    assert_eq!(Item::default().expires_ms, 0);
}
