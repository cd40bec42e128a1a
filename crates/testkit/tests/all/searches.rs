//! The search against a slower one that cannot be wrong: every order of every subset.

use holdfast_testkit::check::wgl::{Bound, Found, Model, Span, search};
use proptest::prelude::*;

/// A register of small numbers.
struct Register;

#[derive(Clone, Copy, Debug)]
enum Act {
    Read(u8),
    Write(u8),
    Cas(u8, u8),
    /// A CAS that was refused.
    Refused(u8),
}

impl Model for Register {
    type State = u8;
    type Operation = Act;

    fn initial(&self) -> u8 {
        0
    }

    fn step(&self, state: &u8, act: &Act) -> Option<u8> {
        match *act {
            Act::Read(value) => (value == *state).then_some(*state),
            Act::Write(value) => Some(value),
            Act::Cas(old, new) => (old == *state).then_some(new),
            Act::Refused(old) => (old != *state).then_some(*state),
        }
    }
}

/// Tries every operation as the next one that real time allows.
fn exists_order(state: u8, left: &[Span<Act>]) -> bool {
    if left.iter().all(|span| span.back.is_none()) {
        return true;
    }
    let end = left.iter().filter_map(|span| span.back).min().unwrap_or(u64::MAX);
    (0..left.len()).any(|at| {
        // Nothing may come before an operation that had ended before it was called.
        let mut rest = left.to_vec();
        let span = rest.remove(at);
        let is_next = span.call <= end;
        is_next && Register.step(&state, &span.operation).is_some_and(|s| exists_order(s, &rest))
    })
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (0..3u8).prop_map(Act::Read),
        2 => (0..3u8).prop_map(Act::Write),
        1 => (0..3u8, 0..3u8).prop_map(|(old, new)| Act::Cas(old, new)),
        1 => (0..3u8).prop_map(Act::Refused),
    ]
}

fn span() -> impl Strategy<Value = Span<Act>> {
    (0..20u64, 0..6u64, act(), 0..5u8).prop_map(|(call, length, operation, luck)| {
        let is_read = matches!(operation, Act::Read(_) | Act::Refused(_));
        let back = (luck > 0 || is_read).then_some(call + length);
        Span { call, back, operation }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, ..ProptestConfig::default() })]

    #[test]
    fn the_search_finds_an_order_exactly_where_there_is_one(
        spans in proptest::collection::vec(span(), 0..8),
    ) {
        let expected =
            if exists_order(0, &spans) { Found::Linearizable } else { Found::Illegal };
        prop_assert_eq!(search(&Register, &spans, Bound::default()), expected);
    }
}

#[test]
fn both_verdicts_occur_among_random_histories() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut counts = [0, 0];
    for _ in 0..500 {
        let tree = proptest::collection::vec(span(), 4..8).new_tree(&mut runner);
        let spans = tree.expect("a history can be drawn").current();
        counts[usize::from(exists_order(0, &spans))] += 1;
    }
    assert!(counts.iter().all(|count| *count > 50), "illegal, legal: {counts:?}");
}

#[test]
fn a_search_that_meets_its_bound_says_so_and_does_not_pass() {
    let write = |value| Span { call: 0, back: Some(100), operation: Act::Write(value) };
    let mut spans: Vec<Span<Act>> = (0..20).map(|n| write(n % 3)).collect();
    spans.push(Span { call: 200, back: Some(201), operation: Act::Read(9) });
    let few = Bound { steps_max: 1_000, remembered_max: usize::MAX };
    assert_eq!(search(&Register, &spans, few), Found::Undecided);
    let small = Bound { steps_max: u64::MAX, remembered_max: 100 };
    assert_eq!(search(&Register, &spans, small), Found::Undecided);
}

#[test]
fn an_operation_of_unknown_outcome_may_happen_late_or_never() {
    let unknown = Span { call: 0, back: None, operation: Act::Write(1) };
    let read = |call, value| Span { call, back: Some(call + 1), operation: Act::Read(value) };
    let legal = |spans: &[Span<Act>]| search(&Register, spans, Bound::default());
    let never = [unknown.clone(), read(10, 0), read(20, 0)];
    assert_eq!(legal(&never), Found::Linearizable);
    let late = [unknown.clone(), read(10, 0), read(20, 1), read(30, 1)];
    assert_eq!(legal(&late), Found::Linearizable);
    let twice = [unknown.clone(), read(10, 1), read(20, 0)];
    assert_eq!(legal(&twice), Found::Illegal);
    let early = [read(0, 1), Span { call: 5, ..unknown }];
    assert_eq!(legal(&early), Found::Illegal);
}
