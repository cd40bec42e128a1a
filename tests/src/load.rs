//! Clients that work all the time, in a keyspace of their own, and the judgement of what they saw.
//!
//! The work and the checkers are the test kit's; here they meet real nodes.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use async_trait::async_trait;
use holdfast_client::Client;
use holdfast_testkit::check::{Checker, Evidence, Punctuality, Quota, Report, everything, judge};
use holdfast_testkit::history::{
    self, History, Level, Operation, Outcome, Record, Recorder, Request, RunClock,
};
use holdfast_testkit::kv::{ClientKv, Kv, WatchStart, Watching};
use holdfast_testkit::workload::{Kind, Plan, Workload};
use tokio::task::JoinHandle;

use crate::binaries::keep;
use crate::nemesis;

/// Most records of a run.
const RECORDS_MAX: usize = 2_000_000;
/// Most operations of one client of a busy load.
const OPERATIONS_MAX: u32 = 20_000;
/// How long a load may take until so many more changes are acknowledged.
const ACKNOWLEDGE_LIMIT: Duration = Duration::from_secs(30);
/// Clocks of one machine run alike; the machine may be busy.
pub const PUNCTUALITY: Punctuality = Punctuality { drift_permille: 10, late_ms: 2_000 };
/// The same where nodes live by wrong clocks. What takes a second by a clock that is a tenth slow
/// takes ten ninths. And where wall clocks do not agree, nothing tells a leader that was just
/// started how long nobody led: all that lasts that much longer.
const PUNCTUALITY_BY_WRONG_CLOCKS: Punctuality =
    Punctuality { drift_permille: 125, late_ms: 15_000 };
/// Checkers without which a load of every kind proves nothing: all but that of hashes, which has
/// something to judge only where somebody takes them.
pub const DEMANDED: [&str; 11] = [
    "witness",
    "linearizable",
    "lost",
    "revisions",
    "once",
    "sets",
    "bank",
    "fencing",
    "lifetimes",
    "watches",
    "staleness",
];

/// The store, and how many changes it has acknowledged.
struct Counted {
    kv: ClientKv,
    acknowledged: AtomicUsize,
}

impl Counted {
    fn count(&self, request: &Request, outcome: &Outcome) {
        let is_change = !request.is_read() && outcome.answer().is_some();
        self.acknowledged.fetch_add(usize::from(is_change), Ordering::Relaxed);
    }
}

#[async_trait]
impl Kv for Counted {
    async fn execute(&self, request: &Request) -> Outcome {
        let outcome = self.kv.execute(request).await;
        self.count(request, &outcome);
        outcome
    }

    async fn batch(&self, requests: &[Request]) -> Vec<Outcome> {
        let outcomes = self.kv.batch(requests).await;
        requests.iter().zip(&outcomes).for_each(|(request, outcome)| self.count(request, outcome));
        outcomes
    }

    async fn watch(&self, start: &WatchStart) -> Result<Box<dyn Watching>, String> {
        self.kv.watch(start).await
    }
}

/// What most tests ask for: registers at every level of reading, counters and sets, with hardly a
/// pause, until it is stopped.
pub fn busy(seed: u64) -> Plan {
    let kinds = vec![Kind::Registers, Kind::Followers, Kind::Counters, Kind::Sets];
    let pause_max = Duration::from_millis(5);
    Plan { kinds, operations: OPERATIONS_MAX, pause_max, ..Plan::new(seed, "load/") }
}

/// A load under way.
pub struct Load {
    client: Client,
    kv: Arc<Counted>,
    workload: Workload,
    recorder: Recorder,
    actors: JoinHandle<()>,
    watchers: JoinHandle<()>,
    is_done: bool,
    seed: u64,
}

impl Load {
    /// Creates `keyspace`, of `ranges` ranges, for nobody else to write to.
    ///
    /// # Errors
    /// Of the cluster.
    pub async fn keyspace(client: &Client, keyspace: &str, ranges: u32) -> Result<Client> {
        client.cluster().create_keyspace(keyspace, ranges, 0, None).await?;
        Ok(client.keyspace(keyspace))
    }

    /// Lets the clients of `plan` begin, over `client`, which gives every request its deadline.
    /// Nobody else may write to its keyspace.
    pub fn start(client: &Client, plan: Plan) -> Self {
        let seed = plan.seed;
        let recorder = Recorder::new(seed, Arc::new(RunClock::begin()), RECORDS_MAX);
        let kv = ClientKv::new(client.clone());
        let kv = Arc::new(Counted { kv, acknowledged: AtomicUsize::new(0) });
        let workload = Workload::new(plan, kv.clone(), recorder.clone());
        let actors = tokio::spawn({
            let workload = workload.clone();
            async move { workload.actors().await }
        });
        let watchers = tokio::spawn({
            let workload = workload.clone();
            async move { workload.watchers().await }
        });
        Self {
            client: client.clone(),
            kv,
            workload,
            recorder,
            actors,
            watchers,
            is_done: false,
            seed,
        }
    }

    /// Where it is taken down.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// What decides all that is drawn by chance.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// What its clients do.
    pub fn workload(&self) -> &Workload {
        &self.workload
    }

    /// What it asks through.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Changes acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.kv.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until `count` more changes are acknowledged.
    ///
    /// # Errors
    /// If that takes longer than half a minute.
    pub async fn acknowledges(&self, count: usize) -> Result<()> {
        let goal = self.acknowledged() + count;
        let reached = crate::eventually(ACKNOWLEDGE_LIMIT, async || {
            let count = self.acknowledged();
            anyhow::ensure!(count >= goal, "{count} of {goal} changes were acknowledged");
            Ok(())
        });
        reached.await.with_context(|| format!("seed {}", self.seed))
    }

    /// Waits until all clients have done what was planned for them.
    ///
    /// # Errors
    /// If one of them panicked.
    pub async fn done(&mut self) -> Result<()> {
        if !self.is_done {
            (&mut self.actors).await?;
            self.is_done = true;
        }
        Ok(())
    }

    /// Lets the clients end, then reads every key that was or may have been written, so that the
    /// checkers find what is missing, and answers everything that was seen.
    ///
    /// # Errors
    /// If a key cannot be read.
    pub async fn stop(self) -> Result<Seen> {
        self.quit().await?.settle().await
    }

    /// Lets the clients end where the cluster cannot answer any more; [`Stopped::settle`] reads
    /// what is left once it can.
    ///
    /// # Errors
    /// If one of them panicked.
    pub async fn quit(self) -> Result<Stopped> {
        self.workload.finish();
        if !self.is_done {
            self.actors.await?;
        }
        Ok(Stopped { workload: self.workload, watchers: self.watchers, recorder: self.recorder })
    }
}

/// A load whose clients ask nothing more.
pub struct Stopped {
    workload: Workload,
    watchers: JoinHandle<()>,
    recorder: Recorder,
}

impl Stopped {
    /// As the end of [`Load::stop`].
    ///
    /// # Errors
    /// If a key cannot be read.
    pub async fn settle(self) -> Result<Seen> {
        let settled = self.workload.settle().await;
        self.workload.stop();
        self.watchers.await?;
        settled.map_err(|why| anyhow!(why))?;
        Ok(Seen(self.recorder))
    }
}

/// Everything the clients of a run asked and were told.
pub struct Seen(Recorder);

impl Seen {
    /// What it is the history of, also what others have pushed.
    pub fn recorder(&self) -> &Recorder {
        &self.0
    }

    /// The history.
    ///
    /// # Errors
    /// If records did not fit.
    pub fn history(&self) -> Result<History> {
        self.0.history().map_err(|dropped| anyhow!("{dropped} records did not fit"))
    }

    /// Lets every checker judge, of which those in `demanded` must have judged five facts at
    /// least. A history that does not pass is kept.
    ///
    /// # Errors
    /// What was found, or what was missing, and where the history is.
    pub fn judge(&self, quota: Quota, demanded: &[&'static str]) -> Result<Report> {
        let history = self.history()?;
        let mut checkers = everything(punctuality(&history));
        checkers.push(Box::new(Evidence(quota)) as Box<dyn Checker>);
        let report = judge(&history, &checkers);
        let report = demanded.iter().fold(report, |report, name| report.demand(name, 5));
        if report.is_clean() {
            return Ok(report);
        }
        bail!("{report}\nhistory: {}", keep_history(&self.0)?.display())
    }

    /// Demands that no call failed and that every checker accepts.
    ///
    /// # Errors
    /// As [`Seen::judge`], or the calls.
    pub fn is_flawless(&self) -> Result<Report> {
        let history = self.history()?;
        let failed = failures(&history);
        anyhow::ensure!(failed.is_empty(), "calls failed: {failed:?}");
        self.judge(Quota::default(), &["witness", "linearizable", "lost"])
    }
}

/// How exact times of `history` have to be, by the clocks its nodes lived by.
pub fn punctuality(history: &History) -> Punctuality {
    let name = nemesis::Kind::WrongClocks.to_string();
    let is_it = |record: &Record| matches!(record, Record::Fault(fault) if fault.name == name);
    match history.records.iter().any(is_it) {
        true => PUNCTUALITY_BY_WRONG_CLOCKS,
        false => PUNCTUALITY,
    }
}

/// Keeps what was taken down so far; where it is.
///
/// # Errors
/// If it cannot be written, or records did not fit.
pub fn keep_history(recorder: &Recorder) -> Result<PathBuf> {
    let history = recorder.history().map_err(|dropped| anyhow!("{dropped} records dropped"))?;
    let mut text = Vec::new();
    history::write(&history, &mut text)?;
    let name = format!("history-{}-{}.jsonl", std::process::id(), history.seed);
    Ok(keep(&name, &text)?)
}

/// The calls without an answer; a follower read that asked for more freshness than a replica had
/// was answered with that.
pub fn failures(history: &History) -> Vec<&Operation> {
    let is_bounded = |request: &Request| {
        let (Request::Get { level, .. } | Request::Scan { level, .. }) = request else {
            return false;
        };
        matches!(level, Level::Follower { age_max_ms: Some(_) })
    };
    let missing = |operation: &&Operation| match operation.outcome {
        Outcome::Done(_) => false,
        Outcome::Failed(_) => !is_bounded(&operation.request),
        Outcome::Unknown(_) => true,
    };
    history.operations().filter(missing).collect()
}

/// One read by a client that belongs to no load, taken down if it was answered; whether it was.
pub async fn read_beside(client: Client, recorder: &Recorder, key: String, level: Level) -> bool {
    let process = u32::MAX / 2 + u32::try_from(recorder.unique()).unwrap_or(0);
    let request = Request::Get { key, level };
    let call = recorder.now();
    let outcome = ClientKv::new(client).execute(&request).await;
    let span = (call, recorder.now());
    let is_answered = outcome.answer().is_some();
    if is_answered {
        recorder.ended_at(process, span, request, outcome);
    }
    is_answered
}

/// How many operations of `history` are gets at `level`, and were answered.
pub fn gets_at(history: &History, is_level: impl Fn(Level) -> bool) -> usize {
    let is_one = |operation: &&Operation| {
        let at_level = matches!(&operation.request, Request::Get { level, .. } if is_level(*level));
        at_level && operation.answer().is_some()
    };
    history.operations().filter(is_one).count()
}

/// Takes down a fault of the world that stood from `from` until now.
pub fn fault(recorder: &Recorder, name: String, from: u64, installed: bool) {
    let to = recorder.now();
    recorder.push(Record::Fault(history::Fault { name, from, to, installed }));
}
