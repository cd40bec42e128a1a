//! Lease and follower reads under clocks that run wrong, processes that are paused and voters that
//! restart.
//!
//! A *schedule* is two seconds in which something happens to the leader of a range or to who
//! elects the next one. Beside every node, in its own process, one task writes to the range and
//! another reads, by lease or as a follower does, as fast as the node answers, and nobody routes:
//! a leader that does not know yet that it was deposed is asked as well. A lease read that shows
//! less than was acknowledged before it began is stale, and so is a follower read that shows less
//! than was acknowledged before the age it tells, or tells a greater age than it was asked for.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, join};
use holdfast_env::Clock;
use holdfast_env::sim::Random;
use holdfast_kv::Operation;
use holdfast_kv::command::Put;
use holdfast_node::Node;
use holdfast_node::api::{Call, Get, ReadLevel, ReadOptions, Staleness, Write};
use holdfast_node::auth::Identity;
use holdfast_runtime::{Deadline, sleep};
use parking_lot::Mutex;

use super::cluster::{Cluster, LinkState, Violation};
use super::load::KEYSPACE;
use super::machine::{Companion, Process, Standing};
use super::options::Options;
use super::process::Seeded;
use super::run::{found, on_thread};
use super::trace::Trace;

/// The one key.
const KEY: &str = "k";
/// Longest call.
const CALL_MAX: Duration = Duration::from_millis(800);
/// Pause of a writer, and of a reader whose node leads.
const PAUSE: Duration = Duration::from_millis(15);
/// Pause of a reader whose node does not lead.
const FOLLOWER_PAUSE: Duration = Duration::from_millis(120);
/// What the reads of one node are like, again and again.
const TURNS: [Turn; 4] = [Turn::Lease, Turn::Aged, Turn::Lease, Turn::Bounded];
/// The bound that [`Turn::Bounded`] asks for.
const AGE_MAX: Duration = Duration::from_millis(400);
/// Acknowledged writes that are remembered with their times: those of the last seconds.
const FLOORS_MAX: usize = 1_024;
/// What happens within a schedule happens in its first part.
const ACTS_WITHIN_MS: u64 = 700;
/// Longest isolation, pause or outage.
const ACT_MAX_MS: u64 = 1_300;
/// Length of a schedule.
const SCHEDULE: Duration = Duration::from_millis(2_000);
/// After each schedule there is a leader again within this time.
const LEADER_MAX: Duration = Duration::from_secs(20);

/// What many schedules on one cluster showed.
#[derive(Debug)]
pub struct LeaseReport {
    /// The seed.
    pub seed: u64,
    /// Schedules that were played, each with a disturbance.
    pub schedules: u64,
    /// Lease reads that were answered.
    pub reads: u64,
    /// Of these, by a leader that nobody heard any more.
    pub endangered: u64,
    /// Follower reads that were answered with a bound.
    pub follower_reads: u64,
    /// Writes that were acknowledged.
    pub writes: u64,
    /// Terms in which somebody led the range.
    pub elections: usize,
    /// Reads that were stale.
    pub stale: u64,
    /// Why it is bad, if it is.
    pub violation: Option<Violation>,
    /// What happened.
    pub trace: Trace,
    /// Simulated time.
    pub elapsed: Duration,
}

/// What everybody was told.
#[derive(Debug, Default)]
struct Told {
    /// Revisions that were acknowledged, and when: both grow.
    floors: VecDeque<(Duration, u64)>,
    reads: u64,
    follower_reads: u64,
    endangered: u64,
    writes: u64,
    stale: u64,
    first_stale: Option<String>,
    /// The node that no other hears.
    isolated: Option<String>,
}

impl Told {
    /// A write of this revision was acknowledged.
    fn acknowledged(&mut self, now: Duration, revision: u64) {
        self.writes += 1;
        if self.floors.back().is_none_or(|(_, known)| *known < revision) {
            self.floors.push_back((now, revision));
        }
        if self.floors.len() > FLOORS_MAX {
            self.floors.pop_front();
        }
    }

    /// The newest revision that was acknowledged before `then`, as far as remembered.
    fn floor(&self, then: Duration) -> u64 {
        let after = self.floors.partition_point(|(at, _)| *at < then);
        after.checked_sub(1).and_then(|last| self.floors.get(last)).map_or(0, |(_, known)| *known)
    }

    fn stale(&mut self, text: String) {
        self.stale += 1;
        self.first_stale.get_or_insert(text);
    }
}

type Ledger = Arc<Mutex<Told>>;

/// How a read is asked for.
#[derive(Clone, Copy)]
enum Turn {
    /// By lease.
    Lease,
    /// As a follower does, of any age.
    Aged,
    /// As a follower does, no older than [`AGE_MAX`].
    Bounded,
}

/// Plays `schedules` schedules of `seed`, on a thread of its own.
pub fn run_leases(seed: u64, schedules: u64) -> LeaseReport {
    on_thread(move || Schedules::begin(seed).report(schedules))
}

/// Something that is still to happen.
#[derive(Debug)]
enum Act {
    Isolate(usize, Duration),
    Hold(usize, Duration),
    Pause(usize, Duration),
    Kill(usize, Duration),
    PowerCut(usize, Duration),
    HandOver(usize),
    EndLinks,
    Resume(usize),
    Start(usize),
}

struct Schedules {
    seed: u64,
    random: Random,
    trace: Trace,
    ledger: Ledger,
    elections: BTreeMap<u64, usize>,
    /// What is to happen when.
    agenda: BTreeMap<(Duration, u64), Act>,
    count: u64,
    played: u64,
}

impl Schedules {
    fn begin(seed: u64) -> Self {
        Self {
            seed,
            random: Random::new(seed ^ 0x1ea5e),
            trace: Trace::default(),
            ledger: Ledger::default(),
            elections: BTreeMap::new(),
            agenda: BTreeMap::new(),
            count: 0,
            played: 0,
        }
    }

    fn options(&mut self) -> Options {
        Options {
            nodes: 3,
            ranges: 1,
            faults: Vec::new(),
            network_latency_max: Duration::from_millis(1 + self.random.below(8)),
            disk_latency_max: Duration::from_millis(1 + self.random.below(4)),
            ..Options::of(self.seed)
        }
    }

    fn report(mut self, schedules: u64) -> LeaseReport {
        let process = Seeded::new(self.seed);
        let (trace, options) = (self.trace.clone(), self.options());
        let panics = super::panics::Panics::on_this_thread();
        let (outcome, elapsed) = trace.listen(false, || {
            let mut cluster = Cluster::new(self.seed, &options, trace.clone(), process);
            let (outcome, elapsed) = (self.play(&mut cluster, schedules), cluster.elapsed());
            (outcome.and(cluster.end()), elapsed)
        });
        let told = self.ledger.lock();
        let stale = told.first_stale.clone().map(Violation);
        let panic = panics.first().map(|panic| Violation(format!("panic: {panic}")));
        let lacking =
            (told.reads < schedules || told.writes < schedules || told.follower_reads < schedules)
                .then(|| Violation(format!("no evidence: {told:?}")));
        let violation = panic.or(stale).or(outcome.err()).or(lacking);
        if let Some(violation) = &violation {
            trace.say("", format_args!("violation: {violation}"));
        }
        LeaseReport {
            seed: self.seed,
            schedules: self.played,
            reads: told.reads,
            endangered: told.endangered,
            writes: told.writes,
            elections: self.elections.len(),
            follower_reads: told.follower_reads,
            stale: told.stale,
            violation,
            trace,
            elapsed,
        }
    }

    fn play(&mut self, cluster: &mut Cluster, schedules: u64) -> Result<(), Violation> {
        let ledger = self.ledger.clone();
        let clock: Arc<dyn Clock> = Arc::new(cluster.true_clock());
        let beside = move |process: Process| -> BoxFuture<'static, ()> {
            let beside = Beside { process, clock: clock.clone(), ledger: ledger.clone() };
            Box::pin(async move {
                join(beside.write(), beside.read()).await;
            })
        };
        let companion: Companion = Arc::new(beside);
        cluster.set_companion(&companion);
        found(cluster, &self.trace, 1)?;
        for _ in 0..schedules {
            let is_led = |cluster: &Cluster| leads(cluster).is_some();
            cluster.run_until("there is a leader", LEADER_MAX, is_led)?;
            let leader = leads(cluster).map_or(0, |(machine, _)| machine);
            self.one(cluster, leader)?;
            self.played += 1;
        }
        let writes = self.ledger.lock().writes;
        let ledger = self.ledger.clone();
        cluster.run_until("writes go on", LEADER_MAX, move |_| ledger.lock().writes > writes)
    }

    /// One schedule.
    fn one(&mut self, cluster: &mut Cluster, leader: usize) -> Result<(), Violation> {
        for machine in 0..cluster.nodes() {
            let rate = [900, 1_100, 900 + self.random.below(201) as u32];
            let rate = rate[self.random.below(3) as usize];
            cluster.clock(machine).set_rate(rate);
        }
        for _ in 0..=self.random.below(3) {
            let act = self.draw(cluster, leader);
            let later = self.below_ms(ACTS_WITHIN_MS);
            self.plan(cluster, later, act);
        }
        let end = cluster.elapsed() + SCHEDULE;
        while cluster.elapsed() < end || !self.agenda.is_empty() {
            self.keep_agenda(cluster);
            cluster.step()?;
            if let Some((machine, term)) = leads(cluster) {
                self.elections.insert(term, machine);
            }
            if let Some(stale) = self.ledger.lock().first_stale.clone() {
                return Err(Violation(stale));
            }
        }
        Ok(())
    }

    fn draw(&mut self, cluster: &Cluster, leader: usize) -> Act {
        let duration = self.below_ms(ACT_MAX_MS);
        let other =
            (leader + 1 + self.random.below(cluster.nodes() as u64 - 1) as usize) % cluster.nodes();
        match self.random.below(10) {
            0..=2 => Act::Isolate(leader, duration),
            3 => Act::Hold(leader, duration),
            4..=5 => Act::Pause(leader, duration),
            6 => Act::Kill(other, duration / 8),
            7 => Act::PowerCut(other, duration / 8),
            8 => Act::Kill(leader, duration / 2),
            _ => Act::HandOver(leader),
        }
    }

    fn below_ms(&mut self, max: u64) -> Duration {
        Duration::from_millis(1 + self.random.below(max))
    }

    fn plan(&mut self, cluster: &Cluster, later: Duration, act: Act) {
        self.count += 1;
        self.agenda.insert((cluster.elapsed() + later, self.count), act);
    }

    fn keep_agenda(&mut self, cluster: &mut Cluster) {
        while let Some(entry) = self.agenda.first_entry() {
            if entry.key().0 > cluster.elapsed() {
                return;
            }
            let act = entry.remove();
            self.perform(cluster, act);
        }
    }

    fn perform(&mut self, cluster: &mut Cluster, act: Act) {
        let is_up = |machine: usize| cluster.standing(machine) == Standing::Up;
        cluster.say(format_args!("{act:?}"));
        match act {
            Act::Isolate(machine, duration) | Act::Hold(machine, duration) => {
                let is_cut = matches!(act, Act::Isolate(..));
                let state = if is_cut { LinkState::Cut } else { LinkState::Held };
                let others: Vec<usize> = (0..cluster.nodes()).collect();
                cluster.repair_links();
                cluster.set_links(&[machine], &others, state);
                self.ledger.lock().isolated = Some(name(machine));
                self.plan(cluster, duration, Act::EndLinks);
            }
            Act::Pause(machine, duration) if is_up(machine) => {
                cluster.pause(machine, duration);
                self.plan(cluster, duration, Act::Resume(machine));
            }
            Act::Kill(machine, duration) if is_up(machine) => {
                cluster.kill(machine);
                self.plan(cluster, duration, Act::Start(machine));
            }
            Act::PowerCut(machine, duration) if is_up(machine) => {
                cluster.cut_power(machine, 5);
                self.plan(cluster, duration, Act::Start(machine));
            }
            Act::HandOver(machine) if is_up(machine) => cluster.hand_over(machine),
            Act::EndLinks => {
                cluster.repair_links();
                self.ledger.lock().isolated = None;
            }
            Act::Resume(machine) => cluster.resume(machine),
            Act::Start(machine) if cluster.standing(machine) == Standing::Down => {
                cluster.start(machine);
            }
            _ => {}
        }
    }
}

fn name(machine: usize) -> String {
    format!("n{}", machine + 1)
}

/// Who leads the range in the highest term, as the nodes see it.
fn leads(cluster: &Cluster) -> Option<(usize, u64)> {
    let of_machine = |machine: usize| {
        let node = cluster.node(machine)?;
        let hosted = node.registry().hosted();
        let (_, hosted) = hosted.last_key_value()?;
        let info = hosted.replica.leader();
        (info.role == holdfast_replica::Role::Leader).then_some((machine, info.term.0))
    };
    (0..cluster.nodes()).filter_map(of_machine).max_by_key(|(_, term)| *term)
}

fn call() -> Call {
    Call { identity: Identity::system(), deadline: Deadline::after(CALL_MAX), direct: true }
}

fn is_leading(node: &Node) -> bool {
    let hosted = node.registry().hosted();
    hosted.last_key_value().is_some_and(|(_, hosted)| hosted.replica.is_leader())
}

/// Writes and reads at a node as long as it lives.
struct Beside {
    process: Process,
    /// True time.
    clock: Arc<dyn Clock>,
    ledger: Ledger,
}

impl Beside {
    async fn write(&self) {
        let Process { node, brakes, .. } = &self.process;
        loop {
            sleep(PAUSE).await;
            brakes.pass().await;
            if !is_leading(node) {
                continue;
            }
            let put = Put { key: KEY.into(), value: Bytes::from_static(b"v"), ..Put::default() };
            let operation = Operation::Put(put);
            let request = Write { keyspace: KEYSPACE.to_owned(), operation, session: None };
            let answer = node.gateway().write(&call(), request).await;
            brakes.pass().await;
            if let Ok(answer) = answer {
                let now = self.clock.monotonic();
                self.ledger.lock().acknowledged(now, answer.header.revision.0);
            }
        }
    }

    async fn read(&self) {
        let Process { node, brakes, .. } = &self.process;
        for turn in TURNS.iter().cycle() {
            sleep(if is_leading(node) { PAUSE } else { FOLLOWER_PAUSE }).await;
            brakes.pass().await;
            match turn {
                Turn::Lease => self.read_by_lease().await,
                Turn::Aged => self.read_as_follower(None).await,
                Turn::Bounded => self.read_as_follower(Some(AGE_MAX)).await,
            }
        }
    }

    /// What a read shows: the revision of the key, and how old it may be.
    async fn get(&self, read: ReadOptions) -> Option<(u64, Option<Staleness>)> {
        let keyspace = KEYSPACE.to_owned();
        let get = Get { keyspace, key: KEY.into(), read, ..Get::default() };
        let found = self.process.node.gateway().get(&call(), get).await.ok()?.value;
        Some((found.entry.map_or(0, |entry| entry.revision.0), found.staleness))
    }

    async fn read_by_lease(&self) {
        let floor = self.ledger.lock().floor(Duration::MAX);
        let read = ReadOptions { level: ReadLevel::Lease, ..ReadOptions::default() };
        let Some((seen, _)) = self.get(read).await else { return };
        let (name, mut told) = (&self.process.name, self.ledger.lock());
        told.reads += 1;
        told.endangered += u64::from(told.isolated.as_ref() == Some(name));
        if seen < floor {
            told.stale(format!("{name} shows revision {seen} after {floor} was acknowledged"));
        }
    }

    async fn read_as_follower(&self, max_staleness: Option<Duration>) {
        let (level, asked) = (ReadLevel::Follower, self.clock.monotonic());
        let read = ReadOptions { level, max_staleness, ..ReadOptions::default() };
        let Some((seen, staleness)) = self.get(read).await else { return };
        // What rests on wall clocks that agree says nothing where they do not.
        let Some(age) = staleness.filter(|s| !s.clock_based).map(|s| s.bound) else { return };
        let (name, mut told) = (&self.process.name, self.ledger.lock());
        told.follower_reads += 1;
        let floor = told.floor(asked.saturating_sub(age));
        if seen < floor {
            told.stale(format!(
                "{name} shows {seen}, {age:?} old: {floor} was acknowledged before"
            ));
        }
        if max_staleness.is_some_and(|max| age > max) {
            told.stale(format!("{name} answers with {age:?} who was asked for {max_staleness:?}"));
        }
    }
}
