//! Histories on paper: what is written can be read, what is damaged cannot.

use std::sync::Arc;

use holdfast_env::sim::SimClock;
use holdfast_testkit::history::{FileError, Outcome, Record, Recorder, Request, read, write};

use crate::reference::Flaw;
use crate::workloads::run;

fn text(seed: u64) -> Vec<u8> {
    let mut text = Vec::new();
    write(&run(seed, Flaw::None, 5), &mut text).expect("memory takes everything");
    text
}

#[test]
fn a_history_of_every_kind_of_record_survives_its_file() {
    let history = run(3, Flaw::None, 5);
    let mut text = Vec::new();
    write(&history, &mut text).unwrap();
    assert_eq!(read(&mut text.as_slice()).unwrap(), history);
}

#[test]
fn half_a_file_and_a_file_of_another_version_are_refused() {
    let text = text(4);
    let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let half = lines[..lines.len() / 2].concat();
    assert!(matches!(read(&mut half.as_slice()), Err(FileError::Length { .. })));
    let torn = &text[..text.len() - 5];
    assert!(matches!(read(&mut &torn[..]), Err(FileError::Malformed { .. })));
    let other = String::from_utf8(text).unwrap().replacen("history\":1", "history\":2", 1);
    assert!(matches!(read(&mut other.as_bytes()), Err(FileError::Version(2))));
}

#[test]
fn a_full_recorder_says_so_instead_of_giving_half_a_history() {
    let recorder = Recorder::new(1, Arc::new(SimClock::default()), 2);
    for _ in 0..2 {
        recorder.ended(1, 0, Request::get("k"), Outcome::Failed("no".to_owned()));
    }
    assert_eq!(recorder.history().unwrap().records.len(), 2);
    recorder.push(Record::Fault(holdfast_testkit::history::Fault {
        name: "none".to_owned(),
        from: 0,
        to: 1,
        installed: true,
    }));
    assert_eq!(recorder.history(), Err(1));
}
