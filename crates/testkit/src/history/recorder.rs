//! Where the clients of a run write down what they do.

use std::sync::Arc;
use std::time::Duration;

use holdfast_env::Clock;
use holdfast_runtime::Deadline;
use parking_lot::Mutex;

use super::{History, Operation, Outcome, Record, Request};

/// Longest run a [`RunClock`] can measure.
const RUN_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);

/// The time of the runtime it was made in: virtual where that is, true in either case.
#[derive(Clone, Copy, Debug)]
pub struct RunClock {
    end: Deadline,
}

impl RunClock {
    /// A clock that begins now.
    pub fn begin() -> Self {
        Self { end: Deadline::after(RUN_MAX) }
    }
}

impl Clock for RunClock {
    fn monotonic(&self) -> Duration {
        RUN_MAX.saturating_sub(self.end.remaining())
    }

    fn wall(&self) -> Duration {
        self.monotonic()
    }
}

#[derive(Debug)]
struct State {
    history: History,
    records_max: usize,
    dropped: usize,
    next_id: u64,
}

/// Takes down what clients do. Clones write to the same history.
#[derive(Clone, Debug)]
pub struct Recorder {
    clock: Arc<dyn Clock>,
    state: Arc<Mutex<State>>,
}

impl Recorder {
    /// A recorder for at most `records_max` records on the true time of `clock`.
    pub fn new(seed: u64, clock: Arc<dyn Clock>, records_max: usize) -> Self {
        let history = History { seed, is_exclusive: true, records: Vec::new() };
        let state = State { history, records_max, dropped: 0, next_id: 0 };
        Self { clock, state: Arc::new(Mutex::new(state)) }
    }

    /// Now, in nanoseconds since the run began.
    pub fn now(&self) -> u64 {
        u64::try_from(self.clock.monotonic().as_nanos()).unwrap_or(u64::MAX)
    }

    /// A number that nobody else gets.
    pub fn unique(&self) -> u64 {
        let mut state = self.state.lock();
        state.next_id += 1;
        state.next_id
    }

    /// Takes down a record, unless the history is full.
    pub fn push(&self, record: Record) {
        let mut state = self.state.lock();
        if state.history.records.len() < state.records_max {
            state.history.records.push(record);
        } else {
            state.dropped += 1;
        }
    }

    /// Takes down an operation that was called at `call` and has ended now.
    pub fn ended(&self, process: u32, call: u64, request: Request, outcome: Outcome) {
        self.ended_at(process, (call, self.now()), request, outcome);
    }

    /// Takes down an operation that was called and ended at these moments.
    pub fn ended_at(
        &self,
        process: u32,
        (call, back): (u64, u64),
        request: Request,
        outcome: Outcome,
    ) {
        self.push(Record::Operation(Operation { process, call, back, request, outcome }));
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.state.lock().history.records.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was taken down so far.
    ///
    /// # Errors
    /// How many records did not fit: the rest cannot be judged.
    pub fn history(&self) -> Result<History, usize> {
        let state = self.state.lock();
        if state.dropped > 0 { Err(state.dropped) } else { Ok(state.history.clone()) }
    }
}
