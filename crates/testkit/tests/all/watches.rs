//! The nine validators of watches: one history that all accept, and one change for each to refuse.

use holdfast_testkit::check::{Checker, Finding, Watches, validator_names};
use holdfast_testkit::history::{
    Batch, Change, Event, History, Item, Outcome, Record, Request, Told, Watch,
};

use crate::examples::Maker;

fn item(value: &str, revision: u64, create: u64, version: u64) -> Item {
    Item { value: value.to_owned(), revision, create, version, ..Item::default() }
}

fn put(key: &str, item: Item, previous: Option<Item>) -> Event {
    Event { key: key.to_owned(), change: Change::Put(item), previous }
}

fn batch(watch: u64, revision: u64, events: Vec<Event>) -> Record {
    Record::Batch(Batch { watch, at: 100, range: 1, revision, events })
}

/// Four changes of two keys and one deletion, followed by a watch and by one that resumes it.
fn valid() -> Vec<Record> {
    let written = |create, version| Told::Written { create, version };
    let maker = Maker::default()
        .told((0, 1), Request::put("t/a", "1"), 2, written(2, 1))
        .told((2, 3), Request::put("t/b", "2"), 3, written(3, 1))
        .told((4, 5), Request::put("t/a", "3"), 4, written(2, 2))
        .told((6, 7), Request::delete("t/b"), 5, Told::Deleted(1))
        .told((8, 9), Request::put("t/b", "4"), 6, written(6, 1));
    let (a1, b1) = (item("1", 2, 2, 1), item("2", 3, 3, 1));
    let a2 = item("3", 4, 2, 2);
    let gone =
        Event { key: "t/b".to_owned(), change: Change::Delete(5), previous: Some(b1.clone()) };
    let mut records = maker.records;
    let second = Watch { from: None, resumes: Some(1), ..Watch::all(2, "t/") };
    records.push(Record::Watch(Watch::all(1, "t/")));
    records.push(batch(1, 3, vec![put("t/a", a1.clone(), None), put("t/b", b1, None)]));
    records.push(batch(1, 4, vec![put("t/a", a2, Some(a1))]));
    records.push(Record::Watch(second));
    records.push(batch(2, 5, vec![gone]));
    records.push(batch(2, 6, vec![put("t/b", item("4", 6, 6, 1), None)]));
    records
}

/// The batch with this number among all.
fn nth(records: &mut [Record], number: usize) -> &mut Batch {
    let batches = records.iter_mut().filter_map(|record| match record {
        Record::Batch(batch) => Some(batch),
        _ => None,
    });
    batches.into_iter().nth(number).expect("there are so many")
}

/// What each validator must refuse.
fn broken(name: &str) -> Vec<Record> {
    let mut records = valid();
    match name {
        "filter" => nth(&mut records, 0).events[0].key = "u/a".to_owned(),
        "ordered" => nth(&mut records, 0).events.reverse(),
        "unique" => {
            let event = nth(&mut records, 0).events[1].clone();
            nth(&mut records, 0).events.push(event);
        }
        "atomic" => {
            let mut event = nth(&mut records, 1).events[0].clone();
            event.key = "t/z".to_owned();
            nth(&mut records, 2).events.insert(0, event);
        }
        "bookmarkable" => nth(&mut records, 0).revision = 2,
        "resumable" => {
            // The second watch begins anew, after a first one that said nothing of revision 4.
            let events = std::mem::take(&mut nth(&mut records, 1).events);
            nth(&mut records, 2).events.splice(0..0, events);
            nth(&mut records, 1).revision = 3;
            for record in &mut records {
                if let Record::Watch(watch) = record
                    && watch.id == 2
                {
                    (watch.resumes, watch.from) = (None, Some(5));
                }
            }
        }
        "reliable" => {
            nth(&mut records, 1).events.clear();
        }
        "previous" => nth(&mut records, 1).events[0].previous = None,
        "continuous" => {
            // Nobody acknowledged the writes of `t/a`, so only the versions tell.
            for record in [0, 2] {
                if let Record::Operation(operation) = &mut records[record] {
                    operation.outcome = Outcome::Unknown("?".to_owned());
                }
            }
            nth(&mut records, 1).events[0].change = Change::Put(item("3", 4, 2, 3));
        }
        other => panic!("{other} has no broken history"),
    }
    records
}

#[test]
fn a_watch_that_keeps_its_promises_passes() {
    assert_eq!(Watches.check(&History::of(valid())), Ok(5));
}

#[test]
fn each_of_the_nine_validators_refuses_what_breaks_its_promise() {
    let mut count = 0;
    for name in validator_names() {
        match Watches.check(&History::of(broken(name))) {
            Err(Finding::Violation(text)) => {
                assert!(text.starts_with(&format!("{name}: ")), "{name}: {text}");
            }
            other => panic!("{name}: {other:?}"),
        }
        count += 1;
    }
    assert_eq!(count, 9);
}

#[test]
fn a_batch_of_a_watch_nobody_started_is_no_evidence() {
    let verdict = Watches.check(&History::of([batch(9, 1, Vec::new())]));
    assert!(matches!(verdict, Err(Finding::Undecided(_))));
}
