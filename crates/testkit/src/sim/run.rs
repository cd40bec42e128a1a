//! One run: found a cluster, work under faults, heal, look whether everything is there, judge.

use std::sync::Arc;
use std::time::Duration;

use holdfast_client::{Error, KeyspaceOptions};
use parking_lot::Mutex;

use super::cluster::{Cluster, Violation};
use super::faults::FaultKind;
use super::invariants::Invariants;
use super::load::{KEYSPACE, Load, Outcomes};
use super::machine::Standing;
use super::nemesis::Nemesis;
use super::options::Options;
use super::process::Seeded;
use super::trace::Trace;
use super::verdict;
use crate::check;
use crate::history::{Fault, History, Record};

/// A cluster is founded within this time.
const FOUNDING_MAX: Duration = Duration::from_secs(60);
/// After the last fault everything works again within this time.
const HEALING_MAX: Duration = Duration::from_secs(60);
/// How long the founder tries one call.
const DEADLINE: Duration = Duration::from_secs(4);
/// The stack of a run's thread, bytes: polls nest deeply in the dev profile.
const STACK_BYTES: usize = 64 << 20;
/// Founding is tried so often.
const FOUNDING_TRIES: u32 = 50;
/// Between two tries.
const FOUNDING_PAUSE: Duration = Duration::from_millis(200);

/// What a run showed.
#[derive(Debug)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// What it was like.
    pub options: Options,
    /// Why it is bad, if it is.
    pub violation: Option<Violation>,
    /// What happened.
    pub trace: Trace,
    /// What clients asked and were told.
    pub history: History,
    /// What the checkers said of it; nothing where the run did not come to its end.
    pub verdicts: check::Report,
    /// Calls of clients.
    pub outcomes: Outcomes,
    /// Faults that were installed.
    pub faults: Vec<FaultKind>,
    /// Rare states, and how often the run passed them.
    pub marks: Vec<(&'static str, u64)>,
    /// Simulated time.
    pub elapsed: Duration,
}

/// Runs `seed` as its [`Options`] say, on a thread of its own.
pub fn run(seed: u64) -> Report {
    run_with(seed, Options::of(seed))
}

/// Runs `seed` with `options`.
///
/// # Panics
/// If the system gives no thread.
pub fn run_with(seed: u64, options: Options) -> Report {
    on_thread(move || Storm::begin(seed, options).report())
}

/// Runs `body` on a thread of its own, as whatever is [`Seeded`] must be.
#[allow(clippy::disallowed_methods)] // The runtime's threads have no stack of this size.
pub(super) fn on_thread<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::Builder::new().name("run".into()).stack_size(STACK_BYTES);
    let thread = thread.spawn(body).expect("the system gives a thread");
    thread.join().expect("a run reports its panics")
}

struct Storm {
    seed: u64,
    options: Options,
    trace: Trace,
    nemesis: Nemesis,
    invariants: Invariants,
    history: History,
    verdicts: check::Report,
}

impl Storm {
    fn begin(seed: u64, options: Options) -> Self {
        let Options { faults, calm_max, overlap_max, .. } = &options;
        let nemesis = Nemesis::new(seed ^ 0xfa_17, faults, *calm_max, *overlap_max);
        Self {
            seed,
            nemesis,
            options,
            trace: Trace::default(),
            invariants: Invariants::default(),
            history: History::default(),
            verdicts: check::Report::default(),
        }
    }

    fn report(mut self) -> Report {
        let process = Seeded::new(self.seed);
        let trace = self.trace.clone();
        let panics = super::panics::Panics::on_this_thread();
        let marks = holdfast_env::marks::listen();
        let (violation, elapsed) = trace.listen(self.options.is_deep, || {
            let mut cluster = Cluster::new(self.seed, &self.options, trace.clone(), process);
            let (outcome, elapsed) = (self.play(&mut cluster), cluster.elapsed());
            (outcome.and(cluster.end()).err(), elapsed)
        });
        let panic = panics.first().map(|panic| Violation(format!("panic: {panic}")));
        let violation = panic.or(violation).or_else(|| self.lack_of_evidence());
        if let Some(violation) = &violation {
            self.trace.say("", format_args!("violation: {violation}"));
        }
        Report {
            seed: self.seed,
            violation,
            outcomes: Outcomes::of(&self.history),
            history: self.history,
            verdicts: self.verdicts,
            faults: self.nemesis.struck(),
            marks: marks.counts().into_iter().map(|(mark, n)| (mark.name, n)).collect(),
            elapsed,
            trace: self.trace,
            options: self.options,
        }
    }

    fn lack_of_evidence(&self) -> Option<Violation> {
        let is_calm = self.options.faults.is_empty();
        if !is_calm && self.nemesis.struck().is_empty() {
            return Some(Violation("no evidence: no fault was installed".into()));
        }
        None
    }

    fn play(&mut self, cluster: &mut Cluster) -> Result<(), Violation> {
        self.trace.say("", format_args!("seed {}: {:?}", self.seed, self.options));
        found(cluster, &self.trace, self.options.ranges)?;
        let load = Load::new(self.seed, &self.options, cluster, &self.trace);
        load.begin(cluster, self.options.clients);
        let outcome = self.work_and_heal(cluster, &load);
        for struck in self.nemesis.times() {
            let nanos = |at: Duration| u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
            let (from, to) = (nanos(struck.from), nanos(struck.to));
            let name = struck.kind.to_string();
            load.recorder().push(Record::Fault(Fault { name, from, to, installed: true }));
        }
        let history = load.recorder().history();
        let full = |dropped| Violation(format!("{dropped} records did not fit"));
        match (outcome, history.map_err(full)) {
            (Err(violation), history) => {
                self.history = history.unwrap_or_default();
                Err(violation)
            }
            (Ok(()), history) => {
                self.history = history?;
                self.judge()
            }
        }
    }

    fn work_and_heal(&mut self, cluster: &mut Cluster, load: &Load) -> Result<(), Violation> {
        let Self { nemesis, invariants, options, .. } = self;
        if options.faults.is_empty() {
            cluster.run_for(options.storm)?;
        } else {
            nemesis.rage(cluster, options.storm, |cluster, nemesis| {
                invariants.look(cluster, |machine| {
                    nemesis.is_suspect(machine) || cluster.is_excused(machine)
                })
            })?;
        }
        self.heal(cluster)?;
        load.finish(cluster, HEALING_MAX)?;
        load.audit(cluster, 2 * HEALING_MAX)?;
        self.compare(cluster, load)
    }

    /// Undoes every fault, then waits until all nodes serve.
    fn heal(&mut self, cluster: &mut Cluster) -> Result<(), Violation> {
        cluster.say("everything is healed");
        self.nemesis.end(cluster)?;
        let out = self.out(cluster);
        cluster.run_until("all nodes are up and ready", HEALING_MAX, |cluster| {
            let is_ready = |m| cluster.node(m).is_some_and(|n| n.readiness().is_ok());
            (0..cluster.nodes()).all(|machine| out[machine] || is_ready(machine))
        })
    }

    /// Machines whose data may be gone.
    fn out(&self, cluster: &Cluster) -> Vec<bool> {
        (0..cluster.nodes()).map(|machine| self.nemesis.is_suspect(machine)).collect()
    }

    /// Replicas agree, once nobody writes any more.
    fn compare(&mut self, cluster: &mut Cluster, load: &Load) -> Result<(), Violation> {
        let out = self.out(cluster);
        cluster.run_until("replicas agree", HEALING_MAX, |cluster| {
            cluster.replicas_agree(|machine| out[machine])
        })?;
        let mut states = 0;
        for state in cluster.states(|machine| out[machine])? {
            self.invariants.compare(&state)?;
            load.recorder().push(Record::StateHash(state));
            states += 1;
        }
        let (elections, equal) = self.invariants.seen();
        cluster
            .say(format_args!("{states} states at the end, {equal} equal, {elections} elections"));
        Ok(())
    }

    fn judge(&mut self) -> Result<(), Violation> {
        self.verdicts = verdict::judge_run(&self.history, &self.options);
        self.trace.say("", format_args!("{}", self.verdicts));
        if self.verdicts.is_clean() {
            return Ok(());
        }
        Err(Violation(self.verdicts.to_string()))
    }
}

/// Waits until all nodes are up, makes them a cluster, and creates the keyspace.
pub(super) fn found(cluster: &mut Cluster, trace: &Trace, ranges: u32) -> Result<(), Violation> {
    cluster.run_until("all nodes are up", FOUNDING_MAX, |cluster| {
        (0..cluster.nodes()).all(|machine| cluster.standing(machine) == Standing::Up)
    })?;
    let founded = Arc::new(Mutex::new(false));
    let (done, peers, trace) = (founded.clone(), cluster.peer_addresses(), trace.clone());
    cluster.run_client("founder", DEADLINE, move |client| async move {
        for _ in 0..FOUNDING_TRIES {
            match client.cluster().init(&peers, 0).await {
                Ok(founded) => {
                    trace.say("", format_args!("founded {founded:?}"));
                    break;
                }
                Err(error) => trace.say("", format_args!("not founded: {error}")),
            }
            holdfast_runtime::sleep(FOUNDING_PAUSE).await;
        }
        for _ in 0..FOUNDING_TRIES {
            let options = KeyspaceOptions { ranges, ..KeyspaceOptions::default() };
            match client.cluster().create_keyspace_with(KEYSPACE, options).await {
                Ok(_) | Err(Error::AlreadyExists(_)) => {
                    *done.lock() = true;
                    return;
                }
                Err(error) => trace.say("", format_args!("no keyspace yet: {error}")),
            }
            holdfast_runtime::sleep(FOUNDING_PAUSE).await;
        }
    });
    cluster.run_until("the cluster is founded", FOUNDING_MAX, |_| *founded.lock())
}
