//! Clients at work: every kind of [`workload`](crate::workload), its processes spread over the
//! clients' machines, everything written down in one history.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join;
use holdfast_client::Client;
use parking_lot::Mutex;

use super::clock::HostClock;
use super::cluster::{Cluster, Violation};
use super::options::Options;
use super::trace::Trace;
use crate::history::{History, Outcome, Recorder, Request};
use crate::kv::{ClientKv, Kv, WatchStart, Watching};
use crate::workload::{Kind, Plan, Workload};

/// The keyspace clients work on.
pub(super) const KEYSPACE: &str = "storm";
/// Begins every key.
const PREFIX: &str = "s/";
/// Most records of a run.
const RECORDS_MAX: usize = 1_000_000;
/// Processes go on until they are told that it is enough.
const OPERATIONS_MAX: u32 = 1_000_000;
/// TTL of keys, leases and locks.
const TTL: Duration = Duration::from_secs(1);
/// Characters of a request or an outcome in the trace.
const TEXT_MAX: usize = 160;
/// How long a client tries one call.
const DEADLINE: Duration = Duration::from_secs(4);
/// In the end a call may take as long as the cluster may need to heal.
const AUDIT_DEADLINE: Duration = Duration::from_secs(30);
/// The client that looks at everything in the end.
const AUDITOR: &str = "a";

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

impl Outcomes {
    pub(super) fn of(history: &History) -> Self {
        let mut outcomes = Self::default();
        for operation in history.operations() {
            *match operation.outcome {
                Outcome::Done(_) => &mut outcomes.succeeded,
                Outcome::Failed(_) => &mut outcomes.failed,
                Outcome::Unknown(_) => &mut outcomes.unknown,
            } += 1;
        }
        outcomes
    }
}

/// The work of a run.
pub(super) struct Load {
    workload: Workload,
    recorder: Recorder,
    trace: Trace,
    /// Clients whose actors have not ended, and those whose watchers have not.
    at_work: Arc<AtomicUsize>,
    at_watch: Arc<AtomicUsize>,
}

impl Load {
    pub(super) fn new(seed: u64, options: &Options, cluster: &Cluster, trace: &Trace) -> Self {
        let clock: HostClock = cluster.true_clock();
        let recorder = Recorder::new(seed, Arc::new(clock), RECORDS_MAX);
        let trusts_clocks = options.trusts_clocks();
        // What followers tell of their age rests on clocks, and so does when a key ends: a leader
        // whose clock stands still stamps what it writes with times that are long past.
        let is_timed = |kind: &Kind| matches!(kind, Kind::Followers | Kind::Lifetimes);
        let is_usable = |kind: &Kind| trusts_clocks || !is_timed(kind);
        let plan = Plan {
            kinds: options.workloads.iter().copied().filter(is_usable).collect(),
            processes: options.processes,
            watchers: options.processes,
            operations: OPERATIONS_MAX,
            keys: options.keys,
            pause_max: options.pause_max,
            ttl: TTL,
            value_bytes: options.value_bytes,
            trusts_clocks,
            ..Plan::new(seed ^ 0xc11e, PREFIX)
        };
        let workload = Workload::new(plan, Arc::new(Nobody), recorder.clone());
        let (at_work, at_watch) = (Arc::default(), Arc::default());
        Self { workload, recorder, trace: trace.clone(), at_work, at_watch }
    }

    pub(super) fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Sends `clients` to work.
    pub(super) fn begin(&self, cluster: &mut Cluster, clients: usize) {
        for number in 0..clients {
            let name = format!("c{}", number + 1);
            let (workload, traced) = (self.workload.clone(), (self.trace.clone(), name.clone()));
            let (at_work, at_watch) = (self.at_work.clone(), self.at_watch.clone());
            at_work.fetch_add(1, Ordering::Relaxed);
            at_watch.fetch_add(1, Ordering::Relaxed);
            cluster.run_client(&name, DEADLINE, move |client| async move {
                let workload = workload.through(traced_kv(client, traced));
                let (part, parts) = (number as u32, clients as u32);
                let actors = async {
                    workload.share_of_actors(part, parts).await;
                    at_work.fetch_sub(1, Ordering::Relaxed);
                };
                join(actors, workload.share_of_watchers(part, parts)).await;
                at_watch.fetch_sub(1, Ordering::Relaxed);
            });
        }
    }

    /// Waits until nobody asks anything more; everything asked must end within `limit`.
    pub(super) fn finish(&self, cluster: &mut Cluster, limit: Duration) -> Result<(), Violation> {
        self.workload.finish();
        let at_work = self.at_work.clone();
        cluster.run_until("clients end", limit, |_| at_work.load(Ordering::Relaxed) == 0)
    }

    /// Has everything read that was or may have been written, then ends the watches.
    pub(super) fn audit(&self, cluster: &mut Cluster, limit: Duration) -> Result<(), Violation> {
        let answer = Arc::new(Mutex::new(None));
        let (workload, told) = (self.workload.clone(), answer.clone());
        let traced = (self.trace.clone(), AUDITOR.to_owned());
        cluster.run_client(AUDITOR, AUDIT_DEADLINE, move |client| async move {
            let workload = workload.through(traced_kv(client, traced));
            let settled = workload.settle().await;
            workload.stop();
            *told.lock() = Some(settled);
        });
        cluster.run_until("everything can be read", limit, |_| answer.lock().is_some())?;
        if let Some(Err(why)) = answer.lock().take() {
            return Err(Violation(format!("although all is healed: {why}")));
        }
        let at_watch = self.at_watch.clone();
        cluster.run_until("watches end", limit, |_| at_watch.load(Ordering::Relaxed) == 0)
    }
}

fn traced_kv(client: Client, (trace, name): (Trace, String)) -> Arc<dyn Kv> {
    Arc::new(Traced { kv: ClientKv::new(client.keyspace(KEYSPACE)), trace, name })
}

/// Tells the trace of every call.
struct Traced {
    kv: ClientKv,
    trace: Trace,
    name: String,
}

impl Traced {
    /// Long texts are cut: the history has them whole.
    fn say(&self, asked: &str, told: &str) {
        let (asked, told) = (cut(asked), cut(told));
        self.trace.say(&self.name, format_args!("{asked}: {told}"));
    }
}

fn cut(text: &str) -> &str {
    text.char_indices().nth(TEXT_MAX).map_or(text, |(end, _)| &text[..end])
}

#[async_trait]
impl Kv for Traced {
    async fn execute(&self, request: &Request) -> Outcome {
        let outcome = self.kv.execute(request).await;
        self.say(&format!("{request:?}"), &format!("{outcome:?}"));
        outcome
    }

    async fn batch(&self, requests: &[Request]) -> Vec<Outcome> {
        let outcomes = self.kv.batch(requests).await;
        self.say(&format!("{requests:?}"), &format!("{outcomes:?}"));
        outcomes
    }

    async fn watch(&self, start: &WatchStart) -> Result<Box<dyn Watching>, String> {
        let started = self.kv.watch(start).await;
        self.say(&format!("{start:?}"), &format!("{:?}", started.as_ref().err()));
        started
    }
}

/// Stands where no client is yet.
struct Nobody;

#[async_trait]
impl Kv for Nobody {
    async fn execute(&self, _request: &Request) -> Outcome {
        Outcome::Failed("no client".to_owned())
    }

    async fn batch(&self, requests: &[Request]) -> Vec<Outcome> {
        vec![Outcome::Failed("no client".to_owned()); requests.len()]
    }

    async fn watch(&self, _start: &WatchStart) -> Result<Box<dyn Watching>, String> {
        Err("no client".to_owned())
    }
}
