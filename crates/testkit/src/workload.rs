//! What clients do in a run: seeded generators of operations, driven against any [`Kv`].
//!
//! ```text
//!  Workload::run ──┬── actors   (each kind of work, several processes) ── heal ── settle ── stop
//!                  └── watchers (until stopped, then until nothing more comes)
//! ```
//!
//! Owns: who asks what; writing down every call and every answer.
//! Must never know: who serves, which faults are about, what a checker concludes.
//! Invariants:
//! * A process asks one thing at a time, and writes it down before it asks the next.
//! * What is asked follows from the seed and from the answers alone.
//! * No loop runs longer than its bound, whatever the store answers.
//! Source: `reliability.md`; the workloads of Jepsen's etcd suite, rewritten.

mod actor;
mod bank;
mod batches;
mod counters;
mod lifetimes;
mod locks;
mod registers;
mod resource;
mod sets;
mod watchers;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::{BoxFuture, join, join_all};
use holdfast_env::sim::Random;
use holdfast_runtime::sleep;

use crate::history::{Level, Outcome, Recorder, Request};
use crate::kv::Kv;

pub use actor::Actor;
pub use resource::Resource;

/// How often what is left is asked for, after a run.
const SETTLE_ATTEMPTS_MAX: usize = 200;
/// Pause before it is asked again.
const SETTLE_PAUSE: Duration = Duration::from_millis(100);
/// The process that looks at what is left.
const SETTLER: u32 = u32::MAX;

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Registers: get, put, delete, compare and swap, at several levels.
    Registers,
    /// Sets that grow by compare and swap.
    Sets,
    /// Counters.
    Counters,
    /// Transfers between the accounts of one tag, and views of all of them.
    Bank,
    /// Keys with a TTL, leases with keys.
    Lifetimes,
    /// A resource behind a lock with fencing tokens.
    Locks,
    /// Watches on everything, broken and resumed.
    Watches,
    /// Follower reads of the registers, with and without bounds.
    Followers,
    /// Batches of writes and reads, and scans over them.
    Batches,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Registers,
        Self::Sets,
        Self::Counters,
        Self::Bank,
        Self::Lifetimes,
        Self::Locks,
        Self::Watches,
        Self::Followers,
        Self::Batches,
    ];
}

/// What a workload is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Decides everything that is drawn by chance.
    pub seed: u64,
    /// Begins every key; nobody else's may begin so, and none may exist before the run.
    pub prefix: String,
    /// What is done.
    pub kinds: Vec<Kind>,
    /// Processes of each kind.
    pub processes: u32,
    /// Watchers, where watches are among the kinds.
    pub watchers: u32,
    /// Operations of each process, about.
    pub operations: u32,
    /// Keys of each kind; few make for conflicts.
    pub keys: u32,
    /// Longest pause of a process between two operations.
    pub pause_max: Duration,
    /// TTL of keys, leases and locks; at least 1 s.
    pub ttl: Duration,
    /// Least bytes of a value, where its size does not matter.
    pub value_bytes: usize,
    /// Whether reads may rest on clocks: those by lease, and those of followers.
    pub trusts_clocks: bool,
}

impl Plan {
    /// All kinds, three processes of 60 operations each on four keys.
    pub fn new(seed: u64, prefix: &str) -> Self {
        Self {
            seed,
            prefix: prefix.to_owned(),
            kinds: Kind::ALL.to_vec(),
            processes: 3,
            watchers: 3,
            operations: 60,
            keys: 4,
            pause_max: Duration::from_millis(20),
            ttl: Duration::from_secs(1),
            value_bytes: 0,
            trusts_clocks: true,
        }
    }

    /// How a read that could be served by lease is to be asked for.
    fn lease_level(&self) -> Level {
        if self.trusts_clocks { Level::Lease } else { Level::Linearizable }
    }

    fn key(&self, kind: &str, number: u64) -> String {
        format!("{}{kind}{number}", self.prefix)
    }
}

/// A workload on a store. Clones are the same workload.
#[derive(Clone)]
pub struct Workload {
    plan: Arc<Plan>,
    kv: Arc<dyn Kv>,
    recorder: Recorder,
    resource: Arc<Resource>,
    is_enough: Arc<AtomicBool>,
    is_over: Arc<AtomicBool>,
}

impl Workload {
    /// What `plan` says, asked of `kv` and written down by `recorder`.
    pub fn new(plan: Plan, kv: Arc<dyn Kv>, recorder: Recorder) -> Self {
        let resource = Arc::new(Resource::new(recorder.clone()));
        let (plan, is_enough, is_over) = (Arc::new(plan), Arc::default(), Arc::default());
        Self { plan, kv, recorder, resource, is_enough, is_over }
    }

    /// The same workload, asked through another client.
    #[must_use]
    pub fn through(&self, kv: Arc<dyn Kv>) -> Self {
        Self { kv, ..self.clone() }
    }

    /// Does everything: the work, then `heal` (which shall leave the store in a state to answer),
    /// then a look at what is left, while watches go on to the end.
    ///
    /// # Errors
    /// [`Workload::settle`].
    pub async fn run(&self, heal: impl Future<Output = ()>) -> Result<(), String> {
        let work = async {
            self.actors().await;
            heal.await;
            let settled = self.settle().await;
            self.stop();
            settled
        };
        join(work, self.watchers()).await.0
    }

    /// The work itself, watches excepted.
    pub async fn actors(&self) {
        self.share_of_actors(0, 1).await;
    }

    /// The work of every `parts`-th process, the one with number `part` first: parts that run at
    /// once, each [`through`](Self::through) a client of its own, are the whole work.
    pub async fn share_of_actors(&self, part: u32, parts: u32) {
        let mut seeds = Random::new(self.plan.seed);
        let mut all: Vec<BoxFuture<'_, ()>> = Vec::new();
        let mut process = 0;
        for kind in self.plan.kinds.iter().filter(|kind| **kind != Kind::Watches) {
            for number in 0..self.plan.processes {
                let actor = self.actor(process, seeds.u64());
                if process % parts == part {
                    all.push(self.work(*kind, number, actor));
                }
                process += 1;
            }
        }
        join_all(all).await;
    }

    fn work(&self, kind: Kind, number: u32, actor: Actor) -> BoxFuture<'_, ()> {
        match kind {
            Kind::Registers => Box::pin(registers::work(self, actor)),
            Kind::Followers => Box::pin(registers::follow(self, actor)),
            Kind::Sets => Box::pin(sets::work(self, actor)),
            Kind::Counters => Box::pin(counters::work(self, actor)),
            Kind::Bank => Box::pin(bank::work(self, actor, number == 0)),
            Kind::Lifetimes if number.is_multiple_of(2) => Box::pin(lifetimes::keys(self, actor)),
            Kind::Lifetimes => Box::pin(lifetimes::leases(self, actor)),
            Kind::Locks => Box::pin(locks::work(self, actor)),
            Kind::Batches => Box::pin(batches::work(self, actor)),
            Kind::Watches => Box::pin(async {}),
        }
    }

    /// Watches until [`Workload::stop`], and then until nothing more comes.
    pub async fn watchers(&self) {
        self.share_of_watchers(0, 1).await;
    }

    /// As [`Workload::share_of_actors`], for watchers.
    pub async fn share_of_watchers(&self, part: u32, parts: u32) {
        if !self.plan.kinds.contains(&Kind::Watches) {
            return;
        }
        let mut seeds = Random::new(!self.plan.seed);
        let all = (0..self.plan.watchers)
            .map(|number| (number, Random::new(seeds.u64())))
            .filter(|(number, _)| number % parts == part)
            .map(|(number, random)| watchers::watch(self, random, number));
        join_all(all.collect::<Vec<_>>()).await;
    }

    /// Lets the actors end before they have done all they were to do.
    pub fn finish(&self) {
        self.is_enough.store(true, Ordering::Relaxed);
    }

    /// Rounds of an actor: at most `count`, and none after [`Workload::finish`].
    fn rounds(&self, count: u32) -> impl Iterator<Item = u32> + '_ {
        (0..count).take_while(|_| !self.is_enough.load(Ordering::Relaxed))
    }

    /// Lets the watchers end.
    pub fn stop(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// Reads every key that was or may have been written, so that a checker finds what is missing.
    ///
    /// # Errors
    /// The key that could not be read, and why; or that the history is full.
    pub async fn settle(&self) -> Result<(), String> {
        let history = self.recorder.history();
        let history = history.map_err(|dropped| format!("{dropped} records did not fit"))?;
        let keys: BTreeSet<String> =
            history.operations().flat_map(crate::check::keys_changed).map(str::to_owned).collect();
        let mut settler = self.actor(SETTLER, self.plan.seed);
        for key in keys {
            self.settle_one(&mut settler, Request::get(key)).await?;
        }
        if self.plan.kinds.contains(&Kind::Bank) {
            self.settle_one(&mut settler, bank::view(&self.plan)).await?;
        }
        if self.plan.kinds.contains(&Kind::Batches) {
            let (prefix, level) = (self.plan.prefix.clone(), Level::Linearizable);
            self.settle_one(&mut settler, Request::Scan { prefix, level }).await?;
        }
        Ok(())
    }

    async fn settle_one(&self, settler: &mut Actor, request: Request) -> Result<(), String> {
        let mut last = String::new();
        for _ in 0..SETTLE_ATTEMPTS_MAX {
            match settler.ask(request.clone()).await {
                Outcome::Done(_) => return Ok(()),
                Outcome::Failed(why) | Outcome::Unknown(why) => last = why,
            }
            sleep(SETTLE_PAUSE).await;
        }
        Err(format!("{request:?} was never answered: {last}"))
    }

    fn actor(&self, process: u32, seed: u64) -> Actor {
        let (pause_max, value_bytes) = (self.plan.pause_max, self.plan.value_bytes);
        Actor::new(self.kv.clone(), self.recorder.clone(), process, seed, pause_max)
            .with_values_of(value_bytes)
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}
