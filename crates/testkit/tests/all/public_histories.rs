//! The search on histories that others recorded and judged.

use std::collections::BTreeMap;

use holdfast_testkit::check::wgl::{Bound, Found, Model, Span, search};
use holdfast_testkit::check::{Checker, Finding, Linearizability};
use holdfast_testkit::history::{
    Answer, Compare, History, Item, Operation, Outcome, Point, Record, Request, Step, StepTold,
    Told, When,
};

const REGISTERS: &str = include_str!("../data/etcd-jepsen.txt");
const APPENDS: &str = include_str!("../data/append-kv.txt");

/// Name, verdict and lines of each history of a file.
fn histories(file: &str) -> Vec<(&str, Found, Vec<&str>)> {
    let mut all: Vec<(&str, Found, Vec<&str>)> = Vec::new();
    for line in file.lines().filter(|line| !line.starts_with('#')) {
        if let Some(head) = line.strip_prefix("= ") {
            let (name, verdict) = head.split_once(' ').expect("a name and a verdict");
            let verdict = match verdict {
                "linearizable" => Found::Linearizable,
                "illegal" => Found::Illegal,
                other => panic!("{other} is no verdict"),
            };
            all.push((name, verdict, Vec::new()));
        } else {
            all.last_mut().expect("a head comes first").2.push(line);
        }
    }
    all
}

fn answer(told: Told) -> Outcome {
    Outcome::Done(Answer { point: Point::default(), age_ms: None, told })
}

/// A CAS as a transaction: what stood there instead, where it was refused, was not recorded.
fn cas(old: &str, new: &str) -> Request {
    let (key, when) = ("register".to_owned(), When::Value(old.to_owned()));
    let then = vec![Step::Put(key.clone(), new.to_owned())];
    Request::Txn { compares: vec![Compare { key, when }], then, otherwise: Vec::new() }
}

/// One history of a register as one of ours. Times are places in the file.
fn register(lines: &[&str]) -> History {
    let mut open: BTreeMap<u32, (u64, Request)> = BTreeMap::new();
    let mut operations: Vec<Operation> = Vec::new();
    let events = lines.iter().flat_map(|line| line.split_whitespace());
    for (at, event) in (1..).zip(events) {
        let digits = event.find(|c: char| !c.is_ascii_digit()).expect("a process, then an act");
        let process: u32 = event[..digits].parse().expect("a process");
        let (act, argument) = event[digits..].split_at(1);
        let request = match act {
            "r" => Some(Request::get("register")),
            "w" => Some(Request::put("register", argument)),
            "c" => {
                let (old, new) = argument.split_once(',').expect("old and new");
                Some(cas(old, new))
            }
            _ => None,
        };
        if let Some(request) = request {
            assert!(open.insert(process, (at, request)).is_none(), "one thing at a time");
            continue;
        }
        let (call, request) = open.remove(&process).expect("it was called");
        let seen = Item { value: argument.to_owned(), ..Item::default() };
        let told = match (act, &request) {
            ("=", Request::Get { .. }) if argument == "-" => Told::Read(None),
            ("=", Request::Get { .. }) => Told::Read(Some(seen)),
            ("=", Request::Txn { .. }) => {
                Told::Txn { succeeded: true, changed: true, results: vec![StepTold::Written] }
            }
            ("!", _) => Told::Txn { succeeded: false, changed: false, results: Vec::new() },
            ("=", _) => Told::Written { create: 0, version: 0 },
            ("?", _) => continue,
            other => panic!("{other:?} is no event"),
        };
        let outcome = answer(told);
        operations.push(Operation { process, call, back: at, request, outcome });
    }
    for (process, (call, request)) in open {
        let outcome = Outcome::Unknown("no end".to_owned());
        operations.push(Operation { process, call, back: u64::MAX, request, outcome });
    }
    History::of(operations.into_iter().map(Record::Operation))
}

#[test]
fn every_labelled_history_of_a_register_gets_its_verdict() {
    let mut counts = BTreeMap::new();
    for (name, expected, lines) in histories(REGISTERS) {
        let history = register(&lines);
        assert!(history.records.len() > 10, "{name} is read");
        // Judged as a whole, however many operations are of unknown outcome.
        let whole = Linearizability { unknown_max: usize::MAX, ..Linearizability::default() };
        let found = match whole.check(&history) {
            Ok(_) => Found::Linearizable,
            Err(Finding::Violation(_)) => Found::Illegal,
            Err(Finding::Undecided(_)) => Found::Undecided,
        };
        assert_eq!(found, expected, "history {name}");
        *counts.entry(format!("{expected:?}")).or_insert(0) += 1;
    }
    assert_eq!(counts, BTreeMap::from([("Illegal".into(), 79), ("Linearizable".into(), 23)]));
}

/// A text that grows.
struct Text;

/// What was done, with the value that belongs to it.
#[derive(Clone, Copy)]
enum Act {
    Get,
    Put,
    Append,
}

impl Model for Text {
    type State = String;
    type Operation = (Act, String);

    fn initial(&self) -> String {
        String::new()
    }

    fn step(&self, state: &String, (act, value): &Self::Operation) -> Option<String> {
        match act {
            Act::Get => (value == state).then(|| state.clone()),
            Act::Put => Some(value.clone()),
            Act::Append => Some(format!("{state}{value}")),
        }
    }
}

#[test]
fn every_labelled_history_of_appends_gets_its_verdict() {
    let text = |json: &str| serde_json::from_str::<String>(json).expect("a JSON string");
    for (name, expected, lines) in histories(APPENDS) {
        let mut open: BTreeMap<&str, (u64, &str, &str, String)> = BTreeMap::new();
        let mut keys: BTreeMap<&str, Vec<Span<(Act, String)>>> = BTreeMap::new();
        for (at, line) in (1..).zip(&lines) {
            let mut words = line.splitn(3, ' ');
            let (process, act) = (words.next().expect("who"), words.next().expect("what"));
            let rest = words.next().unwrap_or_default();
            if act != "ok" {
                let (key, value) = rest.split_once(' ').unwrap_or((rest, "\"\""));
                open.insert(process, (at, act, key, text(value)));
                continue;
            }
            let (call, act, key, value) = open.remove(process).expect("it was called");
            let operation = match act {
                "get" => (Act::Get, text(rest)),
                "put" => (Act::Put, value),
                _ => (Act::Append, value),
            };
            keys.entry(key).or_default().push(Span { call, back: Some(at), operation });
        }
        let verdicts = keys.values().map(|spans| search(&Text, spans, Bound::default()));
        let illegal = verdicts.filter(|found| *found != Found::Linearizable).count();
        assert_eq!(illegal > 0, expected == Found::Illegal, "history {name}");
    }
}
