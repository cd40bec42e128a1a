//! One run: found a cluster, work under faults, heal, look whether everything is there.

use std::sync::Arc;
use std::time::Duration;

use holdfast_client::{Error, KeyspaceOptions};
use holdfast_env::sim::Random;
use parking_lot::Mutex;

use super::cluster::{Cluster, Violation};
use super::faults::{FaultKind, Nemesis};
use super::load::{Ledger, Outcomes, Worker};
use super::machine::Standing;
use super::options::Options;
use super::process::Seeded;
use super::trace::Trace;

/// A cluster is founded within this time.
const FOUNDING_MAX: Duration = Duration::from_secs(60);
/// After the last fault everything works again within this time.
const HEALING_MAX: Duration = Duration::from_secs(60);
/// How long a client tries one call.
const DEADLINE: Duration = Duration::from_secs(4);
/// In the end a call may take as long as the cluster may need to heal.
const AUDIT_DEADLINE: Duration = Duration::from_secs(30);
/// A run with fewer answers says nothing.
const SUCCEEDED_MIN: u64 = 20;
/// The stack of a run's thread, bytes: polls nest deeply in the dev profile.
const STACK_BYTES: usize = 64 << 20;
/// The keyspace clients work on.
const KEYSPACE: &str = "storm";
/// The client that looks at everything in the end.
const AUDITOR: &str = "a";
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
    /// Calls of clients.
    pub outcomes: Outcomes,
    /// Faults that were installed.
    pub faults: Vec<FaultKind>,
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
#[allow(clippy::disallowed_methods)] // The runtime's threads have no stack of this size.
pub fn run_with(seed: u64, options: Options) -> Report {
    let body = move || Storm::begin(seed, options).report();
    let thread = std::thread::Builder::new().name("run".into()).stack_size(STACK_BYTES);
    let thread = thread.spawn(body).expect("the system gives a thread");
    thread.join().expect("a run reports its panics")
}

struct Storm {
    seed: u64,
    options: Options,
    trace: Trace,
    ledger: Ledger,
    nemesis: Nemesis,
}

impl Storm {
    fn begin(seed: u64, options: Options) -> Self {
        let nemesis = Nemesis::new(seed ^ 0xfa_17, &options.faults, options.calm_max);
        Self { seed, options, trace: Trace::default(), ledger: Ledger::default(), nemesis }
    }

    fn report(mut self) -> Report {
        let process = Seeded::new(self.seed);
        let trace = self.trace.clone();
        let panics = super::panics::Panics::on_this_thread();
        let (violation, elapsed) = trace.listen(self.options.is_deep, || {
            let mut cluster = Cluster::new(self.seed, &self.options, trace.clone(), process);
            let outcome = self.play(&mut cluster);
            (outcome.err(), cluster.elapsed())
        });
        let panic = panics.first().map(|panic| Violation(format!("panic: {panic}")));
        let violation = panic.or(violation).or_else(|| self.lack_of_evidence());
        if let Some(violation) = &violation {
            self.trace.say("", format_args!("violation: {violation}"));
        }
        Report {
            seed: self.seed,
            violation,
            outcomes: self.ledger.outcomes(),
            faults: self.nemesis.struck().to_vec(),
            elapsed,
            trace: self.trace,
            options: self.options,
        }
    }

    fn lack_of_evidence(&self) -> Option<Violation> {
        let succeeded = self.ledger.outcomes().succeeded;
        if succeeded < SUCCEEDED_MIN {
            return Some(Violation(format!("no evidence: only {succeeded} calls were answered")));
        }
        let is_calm = self.options.faults.is_empty();
        if !is_calm && self.nemesis.struck().is_empty() {
            return Some(Violation("no evidence: no fault was installed".into()));
        }
        None
    }

    fn play(&mut self, cluster: &mut Cluster) -> Result<(), Violation> {
        self.trace.say("", format_args!("seed {}: {:?}", self.seed, self.options));
        self.found(cluster)?;
        self.send_clients(cluster);
        if self.options.faults.is_empty() {
            cluster.run_for(self.options.storm)?;
        } else {
            self.nemesis.rage(cluster, self.options.storm)?;
        }
        self.heal(cluster)?;
        self.audit(cluster)
    }

    fn found(&self, cluster: &mut Cluster) -> Result<(), Violation> {
        cluster.run_until("all nodes are up", FOUNDING_MAX, |cluster| {
            (0..cluster.nodes()).all(|machine| cluster.standing(machine) == Standing::Up)
        })?;
        let founded = Arc::new(Mutex::new(false));
        let (done, peers) = (founded.clone(), cluster.peer_addresses());
        let (trace, ranges) = (self.trace.clone(), self.options.ranges);
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
                let created = client.cluster().create_keyspace_with(KEYSPACE, options).await;
                match created {
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

    fn worker(&self, name: &str, client: holdfast_client::Client, seed: u64) -> Worker {
        Worker {
            name: name.to_owned(),
            client: client.keyspace(KEYSPACE),
            ledger: self.ledger.clone(),
            trace: self.trace.clone(),
            random: Random::new(seed),
            keys: self.options.keys,
            value_bytes: self.options.value_bytes,
            written: 0,
            is_auditor: name == AUDITOR,
        }
    }

    fn send_clients(&self, cluster: &mut Cluster) {
        for i in 1..=self.options.clients {
            let name = format!("c{i}");
            let (of, seed) = (name.clone(), self.seed.wrapping_add(i as u64) ^ 0xc11e);
            let template = self.template();
            cluster.run_client(&name, DEADLINE, move |client| async move {
                template.worker(&of, client, seed).work().await;
            });
        }
    }

    /// What a client needs of the run.
    fn template(&self) -> Self {
        Self {
            seed: self.seed,
            options: self.options.clone(),
            trace: self.trace.clone(),
            ledger: self.ledger.clone(),
            nemesis: Nemesis::new(0, &[], Duration::ZERO),
        }
    }

    /// Undoes every fault, then waits until all nodes serve and agree.
    fn heal(&self, cluster: &mut Cluster) -> Result<(), Violation> {
        cluster.say("everything is healed");
        cluster.repair_links();
        for machine in 0..cluster.nodes() {
            cluster.clock(machine).set_rate(1_000);
            cluster.clock(machine).thaw();
        }
        cluster.run_until("all nodes are up and ready", HEALING_MAX, |cluster| {
            (0..cluster.nodes()).all(|m| cluster.node(m).is_some_and(|n| n.readiness().is_ok()))
        })?;
        self.ledger.end();
        let ledger = self.ledger.clone();
        cluster.run_until("clients end", HEALING_MAX, move |_| ledger.is_quiet())?;
        self.judge()
    }

    fn judge(&self) -> Result<(), Violation> {
        self.ledger.violation().map_or(Ok(()), |text| Err(Violation(text)))
    }

    fn audit(&self, cluster: &mut Cluster) -> Result<(), Violation> {
        let (done, template) = (Arc::new(Mutex::new(false)), self.template());
        let ended = done.clone();
        cluster.run_client(AUDITOR, AUDIT_DEADLINE, move |client| async move {
            template.worker(AUDITOR, client, 0).audit().await;
            *ended.lock() = true;
        });
        cluster.run_until("everything can be read", 2 * HEALING_MAX, |_| *done.lock())?;
        self.judge()?;
        cluster.run_until("replicas agree", HEALING_MAX, Cluster::replicas_agree)?;
        cluster.compare_replicas()
    }
}
