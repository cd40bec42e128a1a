//! What the clients of a run asked, when, and what they were told.
//!
//! A history is all that a checker gets to see: nothing in it comes from inside a server, except
//! the hashes by which replicas are compared.
//!
//! Owns: the records, the recorder that clients write to, the file a failing run leaves behind.
//! Must never know: who serves the requests, what makes a history a bad one.
//! Invariants:
//! * Times are true time, one clock for all processes of a run, in nanoseconds since it began.
//! * An operation is recorded once, when its outcome is known to its process, or is given up.
//! * A recorder holds at most the number of records it was made for, and says when it is full.
//! Source: `reliability.md` (checkers), `api.md` (what an answer carries).

mod file;
mod operation;
mod record;
mod recorder;

pub use file::{FileError, VERSION, read, write};
pub use operation::{
    Answer, Compare, Item, Level, Operation, Outcome, Placed, Point, Request, Step, StepTold, Told,
    When,
};
pub use record::{Access, Bank, Batch, Change, Event, Fault, Record, StateHash, Watch};
pub use recorder::{Recorder, RunClock};

/// Everything some clients did and saw.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// The seed of the run, for the report.
    pub seed: u64,
    /// Nobody but these clients wrote to the ranges they used, which were empty before.
    pub is_exclusive: bool,
    /// In the order in which they were recorded.
    pub records: Vec<Record>,
}

impl History {
    /// An exclusive history of these records.
    pub fn of(records: impl IntoIterator<Item = Record>) -> Self {
        Self { seed: 0, is_exclusive: true, records: records.into_iter().collect() }
    }

    /// The operations, in the order in which they ended.
    pub fn operations(&self) -> impl Iterator<Item = &Operation> {
        self.records.iter().filter_map(|record| match record {
            Record::Operation(operation) => Some(operation),
            _ => None,
        })
    }

    /// The operations, to be changed: for tests of checkers.
    pub fn operations_mut(&mut self) -> impl Iterator<Item = &mut Operation> {
        self.records.iter_mut().filter_map(|record| match record {
            Record::Operation(operation) => Some(operation),
            _ => None,
        })
    }

    /// The watches that were started.
    pub fn watches(&self) -> impl Iterator<Item = &Watch> {
        self.records.iter().filter_map(|record| match record {
            Record::Watch(watch) => Some(watch),
            _ => None,
        })
    }

    /// What watches delivered, in the order of delivery.
    pub fn batches(&self) -> impl Iterator<Item = &Batch> {
        self.records.iter().filter_map(|record| match record {
            Record::Batch(batch) => Some(batch),
            _ => None,
        })
    }
}
