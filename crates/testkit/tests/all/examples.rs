//! Small histories, by hand: a maker of them, and what the witness says to each.

use holdfast_testkit::check::{Checker, Finding, Linearizability, NothingLost, Witness};
use holdfast_testkit::history::{
    Answer, History, Item, Level, Operation, Outcome, Point, Record, Request, Told, When,
};

/// Builds histories of one range. Times are milliseconds.
#[derive(Clone, Debug, Default)]
pub struct Maker {
    pub records: Vec<Record>,
}

pub fn item(value: &str, revision: u64) -> Item {
    Item { value: value.to_owned(), revision, ..Item::default() }
}

impl Maker {
    pub fn op(mut self, times: (u64, u64), request: Request, outcome: Outcome) -> Self {
        let (call, back) = (times.0 * 1_000_000, times.1 * 1_000_000);
        let process = self.records.len() as u32;
        let operation = Operation { process, call, back, request, outcome };
        self.records.push(Record::Operation(operation));
        self
    }

    pub fn told(self, times: (u64, u64), request: Request, revision: u64, told: Told) -> Self {
        let point = Point { range: 1, revision, clock_ms: 0 };
        self.op(times, request, Outcome::Done(Answer { point, age_ms: None, told }))
    }

    pub fn put(self, times: (u64, u64), value: &str, revision: u64) -> Self {
        let told = Told::Written { create: 0, version: 0 };
        self.told(times, Request::put("k", value), revision, told)
    }

    pub fn unknown(self, times: (u64, u64), value: &str) -> Self {
        self.op(times, Request::put("k", value), Outcome::Unknown("?".to_owned()))
    }

    pub fn failed(self, times: (u64, u64), value: &str) -> Self {
        self.op(times, Request::put("k", value), Outcome::Failed("no".to_owned()))
    }

    pub fn get(self, times: (u64, u64), seen: Option<(&str, u64)>, at: u64) -> Self {
        let seen = seen.map(|(value, revision)| item(value, revision));
        self.told(times, Request::get("k"), at, Told::Read(seen))
    }

    pub fn old_get(self, times: (u64, u64), seen: Option<(&str, u64)>, at: u64, age: u64) -> Self {
        let seen = seen.map(|(value, revision)| item(value, revision));
        let level = Level::Follower { age_max_ms: None };
        let request = Request::Get { key: "k".to_owned(), level };
        let point = Point { range: 1, revision: at, clock_ms: 0 };
        let answer = Answer { point, age_ms: Some(age), told: Told::Read(seen) };
        self.op(times, request, Outcome::Done(answer))
    }

    pub fn history(self) -> History {
        History::of(self.records)
    }

    pub fn verdict(self, checker: &dyn Checker) -> Result<usize, Finding> {
        checker.check(&self.history())
    }
}

fn is_violation(verdict: &Result<usize, Finding>, word: &str) -> bool {
    matches!(verdict, Err(Finding::Violation(text)) if text.contains(word))
}

fn cas(old: &str, new: &str) -> Request {
    Request::cas("k", old, new)
}

const WRITTEN: Told = Told::Written { create: 0, version: 0 };

#[test]
fn a_history_in_order_passes() {
    let history = Maker::default()
        .put((0, 10), "a", 2)
        .put((20, 40), "b", 3)
        .unknown((25, 45), "c")
        .get((12, 13), Some(("a", 2)), 2)
        .get((50, 51), Some(("c", 4)), 4)
        .told((60, 61), cas("c", "d"), 5, WRITTEN)
        .told((62, 63), cas("x", "e"), 5, Told::Refused(Some(item("d", 5))))
        .told((64, 65), Request::delete("k"), 6, Told::Deleted(1))
        .get((66, 67), None, 6)
        .old_get((68, 69), Some(("b", 3)), 3, 60);
    assert_eq!(history.clone().verdict(&Witness), Ok(10));
    assert!(history.clone().verdict(&Linearizability::default()).is_ok());
    assert!(history.verdict(&NothingLost).is_ok());
}

#[test]
fn a_stale_read_is_found() {
    let base = || Maker::default().put((0, 10), "a", 2).put((20, 30), "b", 3);
    let stale = base().get((31, 32), Some(("a", 2)), 2);
    assert!(is_violation(&stale.clone().verdict(&Witness), "stale"));
    assert!(stale.verdict(&Linearizability::default()).is_err());
    let lying = base().get((31, 32), Some(("a", 2)), 3);
    assert!(is_violation(&lying.verdict(&Witness), "stale"));
    let missing = base().get((31, 32), None, 3);
    assert!(is_violation(&missing.verdict(&Witness), "missing"));
}

#[test]
fn a_read_that_goes_back_behind_another_is_found() {
    let back = Maker::default()
        .put((0, 10), "a", 2)
        .put((20, 90), "b", 3)
        .get((30, 31), Some(("b", 3)), 3)
        .get((40, 41), Some(("a", 2)), 2);
    assert!(is_violation(&back.clone().verdict(&Witness), "stale"));
    assert!(back.verdict(&Linearizability::default()).is_err());
}

#[test]
fn a_write_that_was_refused_invented_or_made_twice_is_found() {
    let refused = Maker::default().failed((0, 1), "a").get((2, 3), Some(("a", 2)), 2);
    assert!(is_violation(&refused.verdict(&Witness), "refused"));
    let invented = Maker::default().get((2, 3), Some(("a", 2)), 2);
    assert!(is_violation(&invented.verdict(&Witness), "nobody wrote"));
    let twice = Maker::default()
        .unknown((0, 1), "a")
        .get((2, 3), Some(("a", 2)), 2)
        .put((4, 5), "b", 3)
        .get((6, 7), Some(("a", 4)), 4);
    assert!(is_violation(&twice.verdict(&Witness), "happened twice"));
    let again = Maker::default().put((0, 1), "a", 2).get((2, 3), Some(("a", 3)), 3);
    assert!(is_violation(&again.verdict(&Witness), "wrote at another"));
    let shared = Maker::default().put((0, 1), "a", 2).put((0, 1), "b", 2);
    assert!(is_violation(&shared.verdict(&Witness), "made twice"));
}

#[test]
fn revisions_against_real_time_are_found() {
    let turned = Maker::default().put((0, 10), "a", 3).put((20, 30), "b", 2);
    assert!(is_violation(&turned.verdict(&Witness), "was known"));
    let future = Maker::default().get((0, 1), Some(("a", 2)), 2).unknown((5, 6), "a");
    assert!(is_violation(&future.verdict(&Witness), "was known"));
}

#[test]
fn a_condition_that_did_not_hold_or_did_is_found() {
    let base = || Maker::default().put((0, 10), "a", 2).put((20, 30), "b", 3);
    let wrong = base().told((40, 41), cas("a", "c"), 4, WRITTEN);
    assert!(is_violation(&wrong.clone().verdict(&Witness), "must have been"));
    assert!(wrong.verdict(&Linearizability::default()).is_err());
    let refused = base().told((40, 41), cas("b", "c"), 3, Told::Refused(Some(item("b", 3))));
    assert!(is_violation(&refused.verdict(&Witness), "held"));
    let put = |when| Request::Put {
        key: "k".to_owned(),
        value: "c".to_owned(),
        when: Some(when),
        ttl_ms: None,
        lease: None,
    };
    let old = base().told((40, 41), put(When::Revision(2)), 4, WRITTEN);
    assert!(is_violation(&old.verdict(&Witness), "must have been"));
    let there = base().told((40, 41), put(When::Absent), 4, WRITTEN);
    assert!(is_violation(&there.verdict(&Witness), "missing"));
}

#[test]
fn what_is_gone_must_not_come_back() {
    let delete = Outcome::Unknown("?".to_owned());
    let base = Maker::default()
        .put((0, 10), "a", 2)
        .op((11, 12), Request::delete("k"), delete)
        .get((20, 21), None, 3);
    assert!(base.clone().verdict(&Witness).is_ok());
    let back = base.clone().get((30, 31), Some(("a", 2)), 4);
    assert!(is_violation(&back.verdict(&Witness), "came back"));
}

#[test]
fn an_increment_that_does_not_add_up_is_found() {
    let add = |maker: Maker, times, revision, sum| {
        maker.told(times, Request::increment("k", 2), revision, Told::Number(sum))
    };
    let right = add(add(Maker::default(), (0, 1), 2, 2), (2, 3), 3, 4);
    assert!(right.verdict(&Witness).is_ok());
    let wrong = add(add(Maker::default(), (0, 1), 2, 2), (2, 3), 3, 6);
    assert!(is_violation(&wrong.clone().verdict(&Witness), "must have been"));
    assert!(wrong.verdict(&Linearizability::default()).is_err());
}

#[test]
fn a_lost_write_and_a_key_nobody_looked_at_again_are_found() {
    let lost = Maker::default().put((0, 10), "a", 2).put((20, 30), "b", 3);
    let verdict = lost.clone().verdict(&NothingLost);
    assert!(matches!(verdict, Err(Finding::Undecided(_))), "{verdict:?}");
    let found = lost.clone().get((40, 41), Some(("a", 2)), 3);
    assert!(is_violation(&found.verdict(&NothingLost), "not in it"));
    let gone = lost.clone().get((40, 41), None, 3);
    assert!(is_violation(&gone.verdict(&NothingLost), "not in it"));
    let kept = lost.unknown((32, 33), "c").get((40, 41), Some(("c", 4)), 4);
    assert!(kept.verdict(&NothingLost).is_ok());
}

#[test]
fn many_sums_of_unknown_outcome_are_judged_as_far_as_they_can_be() {
    let add = |maker: Maker, at: u64, delta: i64, sum: Option<i64>| {
        let request = Request::increment("k", delta);
        match sum {
            Some(sum) => maker.told((at, at + 1), request, 0, Told::Number(sum)),
            None => maker.op((at, at + 1), request, Outcome::Unknown("?".to_owned())),
        }
    };
    let begin = |second| {
        let first = add(Maker::default(), 0, 1, Some(1));
        let base = add(first, 10, 1, Some(second));
        let open = (0..40).fold(base, |maker, n| add(maker, 100 + n * 2, 1 << n, None));
        (0..40).fold(open, |maker, n| add(maker, 300 + n * 2, 0, Some(2)))
    };
    assert!(begin(2).verdict(&Linearizability::default()).is_ok());
    assert!(is_violation(&begin(3).verdict(&Linearizability::default()), "no order"));
}
