//! One process: asks, writes down, thinks.

use std::sync::Arc;
use std::time::Duration;

use holdfast_env::sim::Random;
use holdfast_runtime::sleep;

use crate::history::{Answer, Outcome, Recorder, Request};
use crate::kv::Kv;

/// Pause of a process whose call failed.
const FAILURE_PAUSE: Duration = Duration::from_millis(20);

/// A process that asks one thing at a time.
pub struct Actor {
    kv: Arc<dyn Kv>,
    recorder: Recorder,
    process: u32,
    random: Random,
    pause_max: Duration,
    count: u64,
    value_bytes: usize,
}

impl Actor {
    /// A process called `process`, which draws from `seed` and thinks for at most `pause_max`.
    pub fn new(
        kv: Arc<dyn Kv>,
        recorder: Recorder,
        process: u32,
        seed: u64,
        pause_max: Duration,
    ) -> Self {
        let (random, count, value_bytes) = (Random::new(seed), 0, 0);
        Self { kv, recorder, process, random, pause_max, count, value_bytes }
    }

    /// The same, whose values have at least `value_bytes`.
    #[must_use]
    pub fn with_values_of(self, value_bytes: usize) -> Self {
        Self { value_bytes, ..self }
    }

    /// Its number.
    pub fn process(&self) -> u32 {
        self.process
    }

    /// What it draws from.
    pub fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.random.below(bound)
    }

    /// A value that nobody else writes.
    pub fn value(&mut self) -> String {
        format!("{:.<1$}", self.element(), self.value_bytes)
    }

    /// A short one.
    pub fn element(&mut self) -> String {
        self.count += 1;
        format!("{}.{}", self.process, self.count)
    }

    /// Asks, waits for the answer and writes both down.
    pub async fn ask(&mut self, request: Request) -> Outcome {
        let call = self.recorder.now();
        let outcome = self.kv.execute(&request).await;
        self.recorder.ended(self.process, call, request, outcome.clone());
        if outcome.answer().is_none() {
            sleep(FAILURE_PAUSE).await;
        }
        outcome
    }

    /// As [`Actor::ask`], for who only cares for answers.
    pub async fn answer(&mut self, request: Request) -> Option<Answer> {
        match self.ask(request).await {
            Outcome::Done(answer) => Some(answer),
            Outcome::Failed(_) | Outcome::Unknown(_) => None,
        }
    }

    /// Asks for many things at once, and writes each down.
    pub async fn ask_many(&mut self, requests: Vec<Request>) {
        let call = self.recorder.now();
        let outcomes = self.kv.batch(&requests).await;
        let span = (call, self.recorder.now());
        for (request, outcome) in requests.into_iter().zip(outcomes) {
            self.recorder.ended_at(self.process, span, request, outcome);
        }
    }

    /// Thinks for a while.
    pub async fn think(&mut self) {
        let bound = u64::try_from(self.pause_max.as_micros()).unwrap_or(u64::MAX);
        let pause = Duration::from_micros(self.random.below(bound.saturating_add(1)));
        sleep(pause).await;
    }
}
