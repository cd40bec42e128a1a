//! What happened, line by line: time, who, what.
//!
//! The lines are what a person reads to understand a failure. Their hash also covers, where a run
//! is asked to be [deep](Trace::listen), every byte that anybody reads from the network: two runs
//! with the same hash were the same.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use xxhash_rust::xxh3::Xxh3;

/// Later lines are hashed and counted, not kept.
const LINES_MAX: usize = 400_000;
/// Where turmoil reports what it does.
const NETWORK: &str = "turmoil";

/// The trace of a run. Clones are the same trace.
#[derive(Clone, Default)]
pub struct Trace(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    now: Duration,
    lines: Vec<String>,
    hash: Xxh3,
    events: u64,
    is_deep: bool,
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trace({} events)", self.events())
    }
}

impl Trace {
    /// Moves the time of the next lines.
    pub(super) fn set_now(&self, now: Duration) {
        self.0.lock().now = now;
    }

    /// Adds a line.
    pub(super) fn say(&self, who: &str, what: impl fmt::Display) {
        let mut inner = self.0.lock();
        let now = inner.now;
        let line = format!("{:>8}.{:03} {who:<4} {what}", now.as_secs(), now.subsec_millis());
        inner.note(line.as_bytes());
        if inner.lines.len() < LINES_MAX {
            inner.lines.push(line);
        }
    }

    /// Somebody has read these bytes from the network.
    pub(super) fn hear(&self, bytes: &[u8]) {
        let mut inner = self.0.lock();
        if inner.is_deep && !bytes.is_empty() {
            inner.note(bytes);
        }
    }

    /// The lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().lines.clone()
    }

    /// Hash of everything so far.
    pub fn hash(&self) -> u64 {
        self.0.lock().hash.digest()
    }

    /// How many events were hashed.
    pub fn events(&self) -> u64 {
        self.0.lock().events
    }

    /// Makes the log of the nodes part of the trace on this thread while `f` runs; if `is_deep`,
    /// the hash covers the network too.
    pub(super) fn listen<T>(&self, is_deep: bool, f: impl FnOnce() -> T) -> T {
        self.0.lock().is_deep = is_deep;
        let ear = Ear { trace: self.clone(), next: AtomicU64::new(1), hosts: <_>::default() };
        tracing::subscriber::with_default(ear, f)
    }
}

impl Inner {
    fn note(&mut self, bytes: &[u8]) {
        self.events += 1;
        self.hash.update(&(bytes.len() as u64).to_le_bytes());
        self.hash.update(bytes);
    }
}

/// Listens to the log.
struct Ear {
    trace: Trace,
    next: AtomicU64,
    hosts: Mutex<Hosts>,
}

/// turmoil runs a host inside a span that names it.
#[derive(Default)]
struct Hosts {
    names: BTreeMap<u64, String>,
    entered: Vec<u64>,
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?} "),
            name => write!(self.0, "{name}={value:?} "),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = match field.name() {
            "name" => write!(self.0, "{value}"),
            name => write!(self.0, "{name}={value:?} "),
        };
    }
}

impl Subscriber for Ear {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let target = metadata.target();
        if metadata.is_span() {
            return metadata.name() == "node" && target.starts_with(NETWORK);
        }
        target.starts_with("holdfast") && *metadata.level() <= Level::INFO
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut name = Text(String::new());
        attributes.record(&mut name);
        self.hosts.lock().names.insert(id, name.0);
        Id::from_u64(id)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        let metadata = event.metadata();
        let hosts = self.hosts.lock();
        let host = hosts.entered.last().and_then(|id| hosts.names.get(id)).cloned();
        drop(hosts);
        let level = if *metadata.level() < Level::INFO { "! " } else { "" };
        let target = metadata.target().trim_start_matches("holdfast_");
        let what = format!("{level}{target}: {}", text.0.trim_end());
        self.trace.say(host.as_deref().unwrap_or("-"), what);
    }

    fn enter(&self, span: &Id) {
        self.hosts.lock().entered.push(span.into_u64());
    }

    fn exit(&self, _span: &Id) {
        self.hosts.lock().entered.pop();
    }

    fn try_close(&self, span: Id) -> bool {
        self.hosts.lock().names.remove(&span.into_u64()).is_some()
    }
}
