//! Clients at work, and a ledger that catches the worst at once.
//!
//! Every answer carries a revision, and a client knows what had been acknowledged before it asked.
//! So each answer can be judged on the spot: a read that shows an older revision of its key than
//! one seen before it began is stale; a revision of a key with two values, an increment counted
//! twice, a write below one that was acknowledged: all impossible.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_client::{Client, Error};
use holdfast_env::sim::Random;
use parking_lot::Mutex;

use super::trace::Trace;

/// Longest pause of a client between two calls.
const PAUSE_MAX_MS: u64 = 60;

/// What is known of a key.
#[derive(Debug, Default)]
struct Known {
    /// The newest revision anybody was told.
    revision: u64,
    values: BTreeMap<u64, Bytes>,
}

/// What is known of a counter.
#[derive(Debug, Default)]
struct Counted {
    acknowledged: u64,
    unknown: u64,
    /// The largest number anybody was told.
    newest: i64,
    numbers: BTreeSet<i64>,
}

#[derive(Debug, Default)]
struct Inner {
    keys: BTreeMap<u64, Known>,
    counters: BTreeMap<u64, Counted>,
    succeeded: u64,
    failed: u64,
    unknown: u64,
    violations: Vec<String>,
    is_over: bool,
    /// Clients that have not ended.
    at_work: usize,
}

/// What all clients know together. Clones are the same ledger.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger(Arc<Mutex<Inner>>);

/// Calls by their outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Answered.
    pub succeeded: u64,
    /// Refused: nothing happened.
    pub failed: u64,
    /// Nobody knows.
    pub unknown: u64,
}

impl Ledger {
    pub(super) fn end(&self) {
        self.0.lock().is_over = true;
    }

    /// Whether every client has ended.
    pub(super) fn is_quiet(&self) -> bool {
        self.0.lock().at_work == 0
    }

    fn is_over(&self) -> bool {
        self.0.lock().is_over
    }

    pub(super) fn violation(&self) -> Option<String> {
        self.0.lock().violations.first().cloned()
    }

    pub(super) fn outcomes(&self) -> Outcomes {
        let inner = self.0.lock();
        Outcomes { succeeded: inner.succeeded, failed: inner.failed, unknown: inner.unknown }
    }

    fn accuse(&self, what: String) {
        self.0.lock().violations.push(what);
    }

    /// The revision below which no later answer about the key may lie.
    fn floor(&self, key: u64) -> u64 {
        self.0.lock().keys.get(&key).map_or(0, |known| known.revision)
    }

    fn counter_floor(&self, counter: u64) -> i64 {
        self.0.lock().counters.get(&counter).map_or(0, |counted| counted.newest)
    }

    fn count(&self, error: Option<&Error>) {
        let mut inner = self.0.lock();
        match error {
            None => inner.succeeded += 1,
            Some(error) if error.is_unknown() => inner.unknown += 1,
            Some(_) => inner.failed += 1,
        }
    }

    /// Somebody was told that `key` had `value` at `revision`, 0 for no value.
    fn learn(&self, key: u64, revision: u64, value: Bytes) {
        let mut inner = self.0.lock();
        let known = inner.keys.entry(key).or_default();
        known.revision = known.revision.max(revision);
        let before = known.values.entry(revision).or_insert_with(|| value.clone()).clone();
        if before != value {
            let text = format!("k{key} has two values at revision {revision}");
            inner.violations.push(text);
        }
    }

    fn learn_counter(&self, counter: u64, number: i64) {
        let mut inner = self.0.lock();
        let counted = inner.counters.entry(counter).or_default();
        counted.acknowledged += 1;
        counted.newest = counted.newest.max(number);
        if !counted.numbers.insert(number) {
            inner.violations.push(format!("sum{counter} was told to be {number} twice"));
        }
    }

    /// Judges what is found in the end: nothing acknowledged is missing, nothing is counted twice.
    fn audit_counter(&self, counter: u64, number: i64) {
        let inner = self.0.lock();
        let Some(counted) = inner.counters.get(&counter) else { return };
        let most = counted.acknowledged + counted.unknown;
        let number = u64::try_from(number).unwrap_or(u64::MAX);
        let (least, unknown) = (counted.acknowledged, counted.unknown);
        drop(inner);
        if number < least || number > most {
            self.accuse(format!(
                "sum{counter} is {number} after {least} acknowledged and {unknown} unknown \
                 increments"
            ));
        }
    }
}

/// A client at work.
pub(super) struct Worker {
    pub(super) name: String,
    pub(super) client: Client,
    pub(super) ledger: Ledger,
    pub(super) trace: Trace,
    pub(super) random: Random,
    pub(super) keys: u64,
    pub(super) value_bytes: usize,
    pub(super) written: u64,
    /// Whether every call has to succeed.
    pub(super) is_auditor: bool,
}

fn key_name(key: u64) -> String {
    format!("k{key}")
}

fn counter_name(counter: u64) -> String {
    format!("sum{counter}")
}

impl Worker {
    /// Calls until the ledger is closed.
    pub(super) async fn work(&mut self) {
        self.ledger.0.lock().at_work += 1;
        while !self.ledger.is_over() {
            let key = self.random.below(self.keys);
            match self.random.below(10) {
                0..4 => self.put(key).await,
                4..8 => self.get(key).await,
                _ => self.increment(key % 4).await,
            }
            let pause = Duration::from_millis(self.random.below(PAUSE_MAX_MS));
            holdfast_runtime::sleep(pause).await;
        }
        self.ledger.0.lock().at_work -= 1;
    }

    /// Reads everything once more, now that all faults are healed; each call has to succeed.
    pub(super) async fn audit(&mut self) {
        for key in 0..self.keys {
            self.get(key).await;
        }
        for counter in 0..4 {
            match self.client.get(counter_name(counter)).await {
                Ok(None) => self.ledger.audit_counter(counter, 0),
                Ok(Some(entry)) => {
                    let number =
                        std::str::from_utf8(&entry.value).ok().and_then(|n| n.parse().ok());
                    self.ledger.audit_counter(counter, number.unwrap_or(-1));
                }
                Err(error) => self.ledger.accuse(format!("sum{counter} cannot be read: {error}")),
            }
        }
    }

    fn value(&mut self) -> Bytes {
        self.written += 1;
        let mut value = format!("{}-{}-", self.name, self.written).into_bytes();
        value.resize(value.len().max(self.value_bytes), b'.');
        value.into()
    }

    async fn put(&mut self, key: u64) {
        let (floor, value) = (self.ledger.floor(key), self.value());
        let number = self.written;
        match self.client.put(key_name(key), value.clone()).await {
            Ok(answer) => {
                let revision = answer.revision.0;
                self.say(format_args!("put k{key} #{number}: revision {revision}"));
                if revision <= floor {
                    self.ledger.accuse(format!("put of k{key} at {revision}, after {floor}"));
                }
                self.ledger.learn(key, revision, value);
                self.ledger.count(None);
            }
            Err(error) => self.failed(format_args!("put k{key} #{number}"), &error),
        }
    }

    async fn get(&mut self, key: u64) {
        let floor = self.ledger.floor(key);
        match self.client.get(key_name(key)).await {
            Ok(entry) => {
                let revision = entry.as_ref().map_or(0, |entry| entry.revision.0);
                self.say(format_args!("get k{key}: revision {revision}"));
                if revision < floor {
                    self.ledger.accuse(format!("get of k{key} shows {revision}, after {floor}"));
                }
                self.ledger.learn(key, revision, entry.map(|e| e.value).unwrap_or_default());
                self.ledger.count(None);
            }
            Err(error) => self.failed(format_args!("get k{key}"), &error),
        }
    }

    async fn increment(&mut self, counter: u64) {
        let floor = self.ledger.counter_floor(counter);
        match self.client.increment(counter_name(counter), 1).await {
            Ok(answer) => {
                let number = answer.value;
                self.say(format_args!("increment sum{counter}: {number}"));
                if number <= floor {
                    self.ledger.accuse(format!("sum{counter} becomes {number} after {floor}"));
                }
                self.ledger.learn_counter(counter, number);
                self.ledger.count(None);
            }
            Err(error) => {
                if error.is_unknown() {
                    self.ledger.0.lock().counters.entry(counter).or_default().unknown += 1;
                }
                self.failed(format_args!("increment sum{counter}"), &error);
            }
        }
    }

    fn failed(&self, what: std::fmt::Arguments<'_>, error: &Error) {
        self.ledger.count(Some(error));
        self.say(format_args!("{what}: {error}"));
        if self.is_auditor {
            self.ledger.accuse(format!("{what} fails although all is healed: {error}"));
        }
    }

    fn say(&self, what: std::fmt::Arguments<'_>) {
        self.trace.say(&self.name, what);
    }
}
